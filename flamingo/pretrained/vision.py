"""Published vision encoders as Flax modules and trees of parameters.

`load_vision` reads the ViT of CLIP and SigLIP; `efficientnet` and `nfnet` have
loaders of their own. Which features a Flamingo was trained on is a convention
of its code, and here two arguments:

                  encoder    features   final_norm  width  per image  fit
  OpenFlamingo    CLIP L/14  'patches'  False       1024   256        'crop'
  Otter           CLIP L/14  'patches'  False       1024   256        'crop'
  IDEFICS         CLIP H/14  'all'      False       1280   257        'squash'
  flamingo-mini   CLIP B/32  'all'      False        768    50        'crop'
  flamingo-tiny   CLIP L/14  'all'      False       1024   257        'crop'
  Flamingo        NFNet-F6   its grid   no norm     3072   100        'pad'

'all' has the class token in front, 'patches' leaves it out. OpenFlamingo was
trained with open_clip up to 2.22, which handed out patches without the norm
behind the last layer; from 2.23 on, open_clip norms them, and OpenFlamingo's
weights see features that they were not trained on. The activation of H/14 is
GELU, of OpenAI's B/32 and L/14 QuickGELU. NFNet's 3072 are those of its last
convolution, at 320 pixels; the paper does not say whether it takes these or the
1536 before them: `NFNet.final_conv`. `fit` is how a picture becomes a square:
`flamingo.data.images.Preprocess`.
"""

import dataclasses
import hashlib
import os
import pathlib

import numpy as np

from flamingo import params as params_lib
from flamingo.model.products import Dtype
from flamingo.model.vision import grid
from flamingo.model.vision.vit import ViT
from flamingo.pretrained import formats, layouts, vit, vit_config
from flamingo.types import Params

# What a CLIP or SigLIP has beside its vision tower.
REST = {
    r'(text_model|text|transformer|token_embedding|ln_final)\..*':
        'the text tower',
    r'positional_embedding|text_projection(\.weight)?|attn_mask':
        'the text tower',
    r'logit_(scale|bias)': 'a temperature of the contrastive loss',
    r'input_resolution|context_length|vocab_size': 'sizes',
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class VisionInfo:
  """What the rest of the system asks about a vision encoder.

  Attributes:
    name: of the encoder, for people.
    image_size: height and width of the images it was trained on, in pixels.
    features: S, features per image of that size.
    width: D, numbers per feature.
    fingerprint: changes if the weights do, or which features are returned, so
      it may key a cache of features.
    fit: how it was trained to see what is not square: see
      `flamingo.data.images.Preprocess`.
  """

  name: str
  image_size: int
  features: int
  width: int
  fingerprint: str
  fit: str = 'pad'


def load_vision(
    path: str | os.PathLike,
    *,
    features: str = 'all',
    final_norm: bool = False,
    image_size: int | None = None,
    embed: bool = False,
    activation: str | None = None,
    heads: int | None = None,
    dtype: Dtype = np.float32,
    place: layouts.Place = layouts.as_they_are,
) -> tuple[ViT, Params, VisionInfo]:
  """Loads the vision tower of a CLIP or a SigLIP.

  Args:
    path: a directory or a file of Hugging Face's CLIPModel, SiglipModel or
      their vision towers, with its config.json beside it; or of open_clip, or
      a state dict of OpenAI's.
    features: see `ViT`, and the table above.
    final_norm: see `ViT`, and the table above.
    image_size: height and width of the images, in pixels, if not as published:
      position embeddings are interpolated, see `grid.resize_grid`.
    embed: whether to read what `ViT.embed` needs.
    activation: see `ViT`; None for what a config says. It must be given where
      there is none.
    heads: attention heads, where no config says it and open_clip has another
      number at this width.
    dtype: type of the parameters and of matrix operands.
    place: puts a leaf where it belongs, as soon as it is read and cast.

  Returns:
    The module; its parameters, the tree of `module.init(...)['params']`; and
    what there is to know about it.

  Raises:
    FileNotFoundError: there are no weights.
    ValueError: the file is damaged, or holds something else; or it does not
      tell the activation.
  """
  path = pathlib.Path(path)
  tensors = formats.open_weights(vit_config.find_weights(path))
  found = vit_config.find_config(
      path if path.is_dir() else path.parent, tensors, activation=activation,
      heads=heads)
  published = ViT(
      **found.arguments, features=features, final_norm=final_norm, dtype=dtype)
  module = published
  if image_size is not None:
    module = published.clone(image_size=image_size)
  # What features depend on, and nothing that they do not.
  needed = {
      path for path, _ in params_lib.flatten(
          vit.expected_params(published, embed=False))}
  digest = hashlib.sha256(repr((
      features, final_norm, module.image_size, module.heads, module.activation,
      module.mean, module.std)).encode())

  def put(leaf_path, leaf):
    if leaf_path in needed:
      digest.update(np.ascontiguousarray(leaf).tobytes())
    if leaf_path == ('position_embedding',) and module.side != published.side:
      leaf = resize_positions(leaf, module.side, module.class_token)
    return place(leaf_path, leaf.astype(dtype))

  params, _ = layouts.read_params(
      tensors, vit.vision_rules(published, found.style, ours='', embed=embed),
      vit.expected_params(published, embed), what='vision tower', place=put,
      ignored=REST | vit.vision_ignored(published, found.style, embed=embed))
  return module, params, VisionInfo(
      name=path.name, image_size=module.image_size, features=module.tokens,
      width=module.width, fingerprint=digest.hexdigest(), fit=found.fit)


def resize_positions(
    positions: np.ndarray, side: int, class_token: bool
) -> np.ndarray:
  """Interpolates position embeddings [S C] to `side` x `side` patches.

  That of the class token stays. It is what Hugging Face's towers do with
  `interpolate_pos_encoding=True`.
  """
  first, patches = positions[:class_token], positions[class_token:]
  known = round(len(patches) ** 0.5)
  patches = grid.resize_grid(patches.reshape(known, known, -1), side)
  patches = patches.reshape(side * side, -1).astype(positions.dtype)
  return np.concatenate([first, patches])
