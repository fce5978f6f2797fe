"""What the benchmark times on OpenFlamingo's side is what ours computes.

A ratio of times says something only if both sides do the same: with the same
parameters, the same loss, the same likelihoods.
"""

import contextlib

from experiments.bench import clock, images, peer, peer_needs
from experiments.bench.made import (
    make_batch, make_params, openflamingo_like, Training)
from experiments.bench.sweep_sides import Ours, Peer, Sweep, time_sweep
from flamingo.data.tokenizer import Tokenizer
from flamingo.eval.decode import Predictor
from flamingo.eval.evaluate import Cell
from flamingo.eval.fewshot import Shot, Trial
import agreement
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bench_subjects_test import check, LM, SHAPE

torch = pytest.importorskip('torch', reason='parity: make parity')
of = peer_needs.load()


@pytest.fixture(autouse=True)
def one_thread(monkeypatch):
  """Threads that wait for each other are slow where others run."""
  monkeypatch.setattr(clock, 'cores', lambda: 1)
  with of.threads(1):
    yield


def model_of(lm, dtype=jnp.float32):
  return openflamingo_like(
      lm, every=1, visual_width=SHAPE[-1], dtype=dtype)


def random_params(model, seed=0):
  rng = np.random.default_rng(seed)
  return jax.tree.map(
      lambda x: x + jnp.asarray(0.1 * rng.normal(size=x.shape), x.dtype),
      make_params(model, SHAPE))


def test_the_timed_update_has_our_loss():
  model = model_of(LM)
  params = random_params(model)
  batch = make_batch(2, 13, 3, SHAPE, 97)
  # It shifts the tokens itself, so the last one predicts nothing.
  batch = batch.replace(loss_mask=batch.loss_mask.copy())
  batch.loss_mask[:, -1] = False
  theirs = of.build(LM, every=1, visual_width=SHAPE[-1], encoder=of.Given())
  of.copy_params(theirs, model, params)
  update = of.Update(theirs, batch, precision='fp32', freeze_embedding=False)
  ours = Training(model, params, {'pages': batch})
  agreement.close(float(ours()), update(), atol=1e-5)


@pytest.mark.parametrize('freeze', [False, True])
def test_the_timed_update_trains_what_its_factory_lets_train(freeze):
  theirs = of.build(LM, every=1, visual_width=SHAPE[-1], encoder=of.Given())
  before = {n: p.clone() for n, p in theirs.named_parameters()}
  update = of.Update(
      theirs, make_batch(2, 13, 3, SHAPE, 97), precision='fp32',
      freeze_embedding=freeze)
  update(), update()
  changed = {
      n for n, p in theirs.named_parameters() if not torch.equal(p, before[n])}
  parts = {n.split('.')[0] for n in changed}
  assert parts == {'perceiver', 'lang_encoder'}
  lm = {n for n in changed if 'decoder_layer' in n}
  assert not lm
  table = theirs.lang_encoder.get_input_embeddings().weight
  (name,) = [n for n, p in theirs.named_parameters() if p is table]
  assert torch.equal(table[:97], before[name][:97])
  assert torch.equal(table[97:], before[name][97:]) == freeze


def test_parameters_of_another_size_are_refused():
  model = model_of(dict(LM, layers=1))
  theirs = of.build(LM, every=1, visual_width=SHAPE[-1], encoder=of.Given())
  with pytest.raises(ValueError, match='it lacks'):
    of.copy_params(theirs, model, make_params(model, SHAPE))


def test_peer_times_both_at_their_best(monkeypatch):
  # A dozen processes would each import torch; bench_apart_test has them.
  here = contextlib.contextmanager(lambda make, *args: (yield make(*args)))
  monkeypatch.setattr(peer, 'apart', here)
  monkeypatch.setattr(peer.hardware, 'keep_memory', lambda: False)
  came = peer.measure(peer.Work(
      LM, every=1, rows=2, length=13, images=3, places=4, visual_width=16,
      pixels=28, vit=dict(
          hidden_size=16, intermediate_size=20, num_hidden_layers=1,
          num_attention_heads=2, image_size=28)), rounds=1)
  check(came)
  assert came['facts']['OpenFlamingo'] in peer_needs.PRECISIONS
  assert came['facts']['ours'] in peer.DTYPES


def test_images_has_openflamingos_growth_beside():
  seconds = images.time_peer(
      peer.Work(LM, 1, 2, 13, 3, SHAPE[1], SHAPE[-1]), (1, 3))
  assert set(seconds) == {'OpenFlamingo, 1 image', 'OpenFlamingo, 3 images'}
  assert min(seconds.values()) > 0


# A sweep: pictures of 4 x 4 whose 2 x 2 patches are their features.


def patches(pixels):
  """[B 4 4 3] to features [B 4 12]."""
  x = pixels.reshape(-1, 2, 2, 2, 2, 3).transpose(0, 1, 3, 2, 4, 5)
  return x.reshape(-1, 4, 12).astype(np.float32) / 64


class Patches(torch.nn.Module):

  def forward(self, pixels):
    return None, torch.from_numpy(
        patches(pixels.permute(0, 2, 3, 1).numpy()))


PICTURES = np.random.default_rng(3).integers(0, 256, (40, 4, 4, 3), np.uint8)
SHOTS = (0, 1, 3)


def trials(seed, n, shots):
  rng = np.random.default_rng(seed)
  made = []
  for i in range(n):
    rows, names = rng.permutation(40), list(rng.permutation(list('wxyz'))[:2])
    # What more shots show begins with what fewer show.
    support = tuple(
        Shot(image=int(rows[k]), answer=names[k % 2])
        for k in range(2 * max(SHOTS)))[:2 * shots]
    made.append(Trial(
        id=i, support=support, candidates=tuple(names),
        query=Shot(image=int(rows[-1]), answer=names[i % 2])))
  return made


def cells(seed, n):
  return [
      Cell(task='tiny', split='test', ways=2, shots=shots, seed=seed,
           control=control, trials=lambda s=shots: trials(seed, n, s))
      for shots in SHOTS for control in (None, 'chance')]


def test_a_sweep_asks_both_sides_the_same_and_gets_the_same():
  tokenizer = Tokenizer.bytes()
  lm = dict(LM, vocab_size=tokenizer.vocab_size)
  model = openflamingo_like(
      lm, every=1, visual_width=12, dtype=jnp.float32)
  params = make_params(model, (1, 4, 12))
  features = lambda rows: patches(PICTURES[np.asarray(rows)])

  def make():
    theirs = of.build(
        lm, every=1, visual_width=12, encoder=of.Timed(Patches()))
    of.copy_params(theirs, model, params)
    return theirs

  ours = Ours(
      predictor=Predictor(
          model, params, features, pad_id=tokenizer.pad_id,
          never=tokenizer.unsaid_ids),
      tokenizer=tokenizer, features=features, encode=patches,
      pixels=lambda row: PICTURES[row])
  other = Peer(
      of, make, tokenizer, lambda row: PICTURES[row],
      precisions=('fp32', 'amp_bf16'))
  sweep = Sweep(cells=cells, queries=11, seeds=2, ours=5, theirs=3)
  came = time_sweep(sweep, ours, other, rounds=1)
  check(came)
  facts, seconds = came['facts'], came['seconds']
  agreement.close(
      facts['largest difference of a log-likelihood'], 0, atol=1e-5)
  assert facts['cells'] == 3
  rows = {
      shot.image for seed in (0, 1) for trial in trials(seed, 11, 3)
      for shot in (*trial.support, trial.query)}
  assert facts['pictures in the whole sweep'] == len(rows)
  assert seconds['OpenFlamingo, whole sweep'] == pytest.approx(
      seconds['OpenFlamingo'] * 2 * 11 / 3)
  assert 0 < seconds['OpenFlamingo, of that encoding'] < (
      seconds['OpenFlamingo'])
