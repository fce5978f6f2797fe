"""What several subjects need of a config, loaded once and when asked for."""

import functools

import jax
import jax.numpy as jnp
import ml_collections

from experiments import build
from experiments import data as data_lib
from experiments import start
from experiments.bench.made import Training
from flamingo import params as params_lib
from flamingo.data import pipeline


class Quickstart:
  """A config's parts, data and training, each made when first asked for.

  Args:
    config: of experiments.train.
    path: file that the config came from, for a subject that starts anew.
  """

  def __init__(self, config: ml_collections.ConfigDict, path: str):
    self.config, self.path = config, path

  @functools.cached_property
  def frozen(self) -> build.Frozen:
    """The pretrained parts."""
    return build.load_frozen(self.config)

  @functools.cached_property
  def pictures(self) -> data_lib.Pictures:
    """All pictures, encoded."""
    return data_lib.load_pictures(self.config, self.frozen)

  @functools.cached_property
  def layout(self) -> pipeline.Layout:
    """Shape of the batches."""
    return data_lib.build_layout(self.config, self.pictures)

  @functools.cached_property
  def datasets(self) -> list[pipeline.Dataset]:
    """The mixture."""
    return data_lib.build_mixture(
        self.config, self.pictures, self.frozen.tokenizer)

  @functools.cached_property
  def model_and_params(self):
    """The network with the values that a training begins from."""
    model, trainable = start.build_state(
        self.config, self.frozen, self.pictures)
    frozen = build.frozen_params(
        self.frozen, self.config.model.dtype, groups=model.groups)
    return model, params_lib.merge(trainable, frozen)

  def batches(self, steps: int) -> pipeline.Pipeline:
    """An iterator over the first steps of a training."""
    return pipeline.make_pipeline(
        self.datasets, self.frozen.tokenizer, self.layout,
        seed=self.config.seed, steps=steps)

  def training(self) -> Training:
    """A new training, from its beginning."""
    model, params = self.model_and_params
    # An update takes its state's memory, frozen parts and all, which the next
    # training still begins from.
    return Training(
        model, jax.tree.map(jnp.copy, params),
        next(self.batches(1)), {d.name: d.weight for d in self.datasets},
        build.build_optimizer(self.config))
