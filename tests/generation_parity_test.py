"""What is said: the original classes' `generate` and ours, token by token.

Prompts are of several lengths and numbers of images; theirs are padded on the
left. Both search greedily or with a beam of 3, with and without a cache.
"""

import sys
import types

from flamingo.data.encode import Example
from flamingo.data.tags import IDEFICS, Tags
from flamingo.data.tokenizer import Tokenizer
from flamingo.eval.beam import Beam
from flamingo.eval.decode import Predictor
from flamingo.model.vision import pixels
from flamingo.pretrained.load import load
import jax
import jax.numpy as jnp
import numpy as np
import pytest

torch = pytest.importorskip('torch', reason='parity: make parity')
transformers = pytest.importorskip('transformers', reason='parity: make parity')
# The factory and the trainer ask for them, what is used here does not.
for name in ('open_clip', 'wandb'):
  sys.modules.setdefault(name, types.ModuleType(name))
of = pytest.importorskip('open_flamingo.src.flamingo')
flamingo_lm = pytest.importorskip('open_flamingo.src.flamingo_lm')
utils = pytest.importorskip('open_flamingo.src.utils')

VOCAB, SIDE, NEW = 259, 28, 7  # tokens of the LM, pixels, tokens to say
IMAGE = VOCAB + 1  # the tag, of both
PAD = 258
PICTURES = np.random.default_rng(7).integers(
    0, 256, (11, SIDE, SIDE, 3), np.uint8)
# Length, and where the images are: more than five, text before the first or
# nothing, none at all, and one that is the last thing seen.
PLACES = [(17, [2, 4, 5, 8, 11, 12, 15]), (11, [0, 6]), (6, []), (5, [4])]


LM = dict(vocab_size=VOCAB, num_hidden_layers=2, num_attention_heads=3)
FAMILIES = {  # and where OpenFlamingo finds the layers
    'opt': (lambda: transformers.OPTConfig(
        **LM, hidden_size=24, ffn_dim=40, word_embed_proj_dim=24,
        max_position_embeddings=64), 'model.decoder.layers'),
    'gpt_neox': (lambda: transformers.GPTNeoXConfig(
        **LM, hidden_size=24, intermediate_size=40, rotary_pct=1.0,
        use_parallel_residual=False), 'gpt_neox.layers'),
    'llama': (lambda: transformers.LlamaConfig(
        **LM, hidden_size=24, intermediate_size=40), 'model.layers'),
    'mpt': (lambda: transformers.MptConfig(
        vocab_size=VOCAB, d_model=24, n_heads=3, n_layers=2),
        'transformer.blocks'),
}


def prompts():
  rng = np.random.default_rng(0)
  pictures = iter(rng.permutation(len(PICTURES)))
  examples = []
  for length, places in PLACES:
    tokens = rng.integers(0, 256, length)
    tokens[places] = IMAGE
    images = np.asarray([next(pictures) for _ in places], np.int64)
    examples.append(Example(
        images=images if places else None, tokens=tokens,
        image_index=np.cumsum(tokens == IMAGE), learn=np.zeros(length, bool)))
  return examples


PROMPTS = prompts()


class Theirs:
  """The original's `generate`."""

  def __init__(self, model, see):
    self.model, self.see = model, see

  def __call__(self, examples, *, stop, beams=1, cache=True, **kwargs):
    """What is said to each prompt, without what ended it, and its score."""
    longest = max(len(e.tokens) for e in examples)
    most = max(1 if e.images is None else len(e.images) for e in examples)
    pad = lambda values, fill: torch.from_numpy(np.stack([
        np.pad(v, (longest - len(v), 0), constant_values=fill)
        for v in values]))
    pictures = np.zeros((len(examples), most, SIDE, SIDE, 3), np.float32)
    for row, example in zip(pictures, examples):
      if example.images is not None:
        row[: len(example.images)] = (
            PICTURES[example.images] / 255.0 - pixels.CLIP_MEAN
        ) / pixels.CLIP_STD
    tokens = pad([e.tokens for e in examples], PAD)
    with torch.no_grad():
      said = self.model.generate(
          **self.see(
              torch.from_numpy(np.moveaxis(pictures, -1, 2)), tokens,
              pad([e.image_index for e in examples], 0)),
          attention_mask=pad([np.ones_like(e.tokens) for e in examples], 0),
          num_beams=beams, use_cache=cache, max_new_tokens=NEW,
          eos_token_id=stop, pad_token_id=PAD, bad_words_ids=[[IMAGE]],
          do_sample=False, return_dict_in_generate=True, output_scores=True,
          **kwargs)
    rows = said.sequences[:, longest:].tolist()
    rows = [row[: row.index(stop)] if stop in row else row for row in rows]
    if beams == 1:
      return [tuple(row) for row in rows], None
    return [tuple(row) for row in rows], said.sequences_scores.tolist()


class Ours:
  """`Predictor.generate`, and the same search without a cache."""

  def __init__(self, loaded, quick_jit):
    self.loaded = loaded
    see = quick_jit(lambda params, x: loaded.model.apply(
        {'params': params}, x, method=lambda model, x: model.vision(x)))
    self.features = np.asarray(see(loaded.params, PICTURES))
    with pytest.MonkeyPatch.context() as patch:
      patch.setattr(jax, 'jit', quick_jit)
      self.predictor = Predictor(
          loaded.model, loaded.params, self.features.__getitem__, pad_id=PAD,
          never=[IMAGE])

    def read(params, *inputs):
      run = lambda model, latents, tokens, index, valid: model.logits(
          model.read(latents, tokens, index, valid=valid)[0][:, -1])
      return jax.nn.log_softmax(
          loaded.model.apply({'params': params}, *inputs, method=run))

    self.read = quick_jit(read)

  def __call__(self, examples, *, stop, beams=1, **kwargs):
    """What is said to each prompt, without what ended it, and its score."""
    came = self.predictor.generate(
        examples, max_tokens=NEW, stop=stop, beams=beams, **kwargs)
    penalty = kwargs.get('length_penalty', 0.0)
    return [g.tokens for g in came], [
        g.log_likelihood / min(len(g.tokens) + 1, NEW) ** penalty for g in came]

  def uncached(self, example, *, stop, beams, length_penalty=0.0):
    """Every hypothesis is read anew, from a row that is padded on the left."""
    rows, length = 3, max(len(e.tokens) for e in PROMPTS) + NEW  # one shape
    latents = self.predictor.latents(
        np.resize([0] if example.images is None else example.images, 7))
    latents = np.stack([latents] * rows)
    search = Beam(beams, stop=stop, length_penalty=length_penalty)
    for _ in range(NEW):
      tokens, index = np.zeros((2, rows, length), np.int32)
      valid = np.zeros((rows, length), bool)
      for row, hypothesis in enumerate(search.open):
        said = len(hypothesis.tokens)
        whole = [*example.tokens, *hypothesis.tokens]
        tokens[row, -len(whole):], valid[row, -len(whole):] = whole, True
        index[row, -len(whole):] = [
            *example.image_index, *[example.image_index[-1]] * said]
      log_p = np.array(self.read(
          self.loaded.params, latents,
          *map(jnp.asarray, (tokens, index, valid))))
      log_p[:, IMAGE] = -np.inf
      if search.open:
        search.advance(log_p[: len(search.open)])
    return search.best().tokens


def shake(module, seed=0):
  """Draws every parameter anew, so that what is said is of some interest."""
  rng = torch.Generator().manual_seed(seed)
  with torch.no_grad():
    for name, parameter in module.named_parameters():
      noise = torch.randn(parameter.shape, generator=rng)
      if name.endswith('gate') or 'alpha' in name:
        noise = 0.5 + 0.3 * noise
      elif parameter.ndim < 2:
        noise = 0.2 * noise + name.endswith('weight')
      elif 'emb' not in name and 'latents' not in name and 'wte' not in name:
        noise = 2 * noise / parameter.shape[-1] ** 0.5
      parameter.copy_(noise)
  return module.eval()


class Tower(torch.nn.Module):
  """A CLIP as open_clip hands it out: its patches, without the last norm."""

  def __init__(self, clip):
    super().__init__()
    self.clip = clip

  def forward(self, pixels):
    return None, self.clip(pixels).last_hidden_state[:, 1:]


@pytest.fixture(scope='module', params=FAMILIES)
def flamingos(request, tmp_path_factory, quick_jit):
  """OpenFlamingo over one family of language models, and ours."""
  path = tmp_path_factory.mktemp(request.param)
  config, layers = FAMILIES[request.param]
  lm = shake(transformers.AutoModelForCausalLM.from_config(config()))
  lm.save_pretrained(path / 'lm')
  Tokenizer.bytes(Tags(new_tokens=(), eoc=None)).save(path / 'lm')
  clip = shake(transformers.CLIPVisionModel(transformers.CLIPVisionConfig(
      hidden_size=16, intermediate_size=20, num_hidden_layers=1,
      num_attention_heads=2, image_size=SIDE, patch_size=7)), seed=1)
  clip.save_pretrained(path / 'clip')
  utils.extend_instance(lm, flamingo_lm.FlamingoLMMixin)
  lm.set_decoder_layers_attr_name(layers)
  lm.resize_token_embeddings(VOCAB + 3)
  model = of.Flamingo(
      types.SimpleNamespace(visual=Tower(clip)), lm, VOCAB, IMAGE, vis_dim=16)
  shake(model.perceiver, seed=2)
  shake(lm.gated_cross_attn_layers, seed=3)
  rows = lm.get_input_embeddings().weight
  with torch.no_grad():
    # What is released has no output rows of the new tokens.
    lm.get_output_embeddings().weight[VOCAB:] = 0
    rows[VOCAB:] = torch.randn(3, 24, generator=torch.manual_seed(4))
  embedding = next(n for n, p in model.named_parameters() if p is rows)
  torch.save({
      name: tensor for name, tensor in model.state_dict().items()
      if name == embedding or name.startswith('perceiver.')
      or '.gated_cross_attn_layer.' in name}, path / 'checkpoint.pt')
  ours = load(
      path / 'checkpoint.pt', lm=path / 'lm', vision=path / 'clip',
      progress=False)

  def see(pictures, tokens, index):
    del index  # it counts the tags itself
    return dict(vision_x=pictures[:, :, None], lang_x=tokens)

  return Theirs(model.eval(), see), Ours(ours, quick_jit)


@pytest.fixture(scope='module')
def idefics(tmp_path_factory, quick_jit):
  """IDEFICS, and ours."""
  path = tmp_path_factory.mktemp('idefics')
  model = shake(transformers.IdeficsForVisionText2Text(
      transformers.IdeficsConfig(
          **LM, additional_vocab_size=2, hidden_size=24, intermediate_size=40,
          cross_layer_interval=2, qk_layer_norms=True, use_resampler=True,
          pad_token_id=PAD, vision_config=dict(
              embed_dim=20, image_size=SIDE, intermediate_size=28,
              patch_size=7, num_attention_heads=2, num_hidden_layers=1),
          perceiver_config=dict(
              resampler_depth=2, resampler_head_dim=6, resampler_n_heads=3,
              resampler_n_latents=5, qk_layer_norms_perceiver=True))))
  model.save_pretrained(path)
  Tokenizer.bytes(IDEFICS).save(path)
  # Theirs forgets its new tokens when it searches with a beam.
  model.config.vocab_size += model.config.additional_vocab_size

  def see(pictures, tokens, index):
    sees = index[:, :, None] == 1 + torch.arange(pictures.shape[1])
    return dict(
        pixel_values=pictures, input_ids=tokens,
        image_attention_mask=sees.long())

  return Theirs(model, see), Ours(load(path, progress=False), quick_jit)


def early(ours):
  """A token that is said early to some prompt, and so ends it."""
  said, _ = ours(PROMPTS, stop=PAD)
  return said[0][2]


def assert_greedy(theirs, ours):
  stop = early(ours)
  came, _ = ours(PROMPTS, stop=stop)
  for cache in True, False:
    assert came == theirs(PROMPTS, stop=stop, cache=cache)[0]
  assert came == [
      ours.uncached(prompt, stop=stop, beams=1) for prompt in PROMPTS]
  lengths = {len(row) for row in came}
  assert min(lengths) < NEW and NEW in lengths  # some end, some don't
  assert len({row[:2] for row in came}) == len(PROMPTS)


def assert_beams(theirs, ours, length_penalty):
  stop = early(ours)
  kwargs = dict(stop=stop, beams=3, length_penalty=length_penalty)
  came, scores = ours(PROMPTS, **kwargs)
  for cache in True, False:
    expected, worth = theirs(PROMPTS, cache=cache, **kwargs)
    assert came == expected
    np.testing.assert_allclose(scores, worth, rtol=1e-4)
  assert came == [ours.uncached(prompt, **kwargs) for prompt in PROMPTS]
  return came


@pytest.mark.parametrize('beams', [1, 2, 3, 5])
@pytest.mark.parametrize('length_penalty', [0.0, 1.0, -2.0, 3.0])
def test_a_beam_searches_as_transformers_does(beams, length_penalty):
  """Many prompts of one token, so few words that texts end at any time."""
  words, stop = 41, 3
  model = shake(transformers.LlamaForCausalLM(transformers.LlamaConfig(
      vocab_size=words, num_hidden_layers=1, num_attention_heads=2,
      hidden_size=16, intermediate_size=16)))
  with torch.no_grad():
    model.lm_head.weight.mul_(0.5)
    model.lm_head.weight[stop].mul_(2)
    said = model.generate(
        torch.arange(words)[:, None], attention_mask=torch.ones(words, 1),
        max_new_tokens=NEW, eos_token_id=stop, pad_token_id=0,
        num_beams=beams, do_sample=False,
        length_penalty=length_penalty if beams > 1 else None)[:, 1:].tolist()
    lengths = set()
    for first, row in enumerate(said):
      search = Beam(beams, stop=stop, length_penalty=length_penalty)
      for _ in range(NEW):
        if search.open:
          rows = torch.tensor([[first, *h.tokens] for h in search.open])
          search.advance(model(rows).logits[:, -1].log_softmax(-1).numpy())
      ended = row.index(stop) if stop in row else NEW
      assert search.best().tokens == tuple(row[:ended])
      lengths.add(ended)
  assert len(lengths) > 1


def test_openflamingo_says_the_same_greedily(flamingos):
  assert_greedy(*flamingos)


@pytest.mark.parametrize('length_penalty', [0.0, 1.0, -2.0])
def test_openflamingo_says_the_same_with_a_beam_of_three(
    flamingos, length_penalty
):
  came = assert_beams(*flamingos, length_penalty)
  greedy, _ = flamingos[1](PROMPTS, stop=early(flamingos[1]))
  assert came != greedy


def test_idefics_says_the_same_greedily(idefics):
  assert_greedy(*idefics)


@pytest.mark.parametrize('length_penalty', [0.0, 1.0])
def test_idefics_says_the_same_with_a_beam_of_three(
    idefics, length_penalty
):
  assert_beams(*idefics, length_penalty)
