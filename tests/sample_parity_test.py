"""What is drawn from is what `transformers` would draw from."""

import itertools

import agreement
from flamingo.eval.sample import Sampling
import numpy as np
import torch
from transformers import GenerationConfig
from transformers.generation.logits_process import (
    LogitsProcessorList, TemperatureLogitsWarper, TopKLogitsWarper,
    TopPLogitsWarper)


def warpers(temperature, top_k, top_p):
  """In the order of `GenerationMixin._get_logits_processor`."""
  found = LogitsProcessorList()
  if temperature != 1:
    found.append(TemperatureLogitsWarper(temperature))
  if top_k:
    found.append(TopKLogitsWarper(top_k))
  if top_p < 1:
    found.append(TopPLogitsWarper(top_p))
  return found


def test_the_narrowed_distribution_is_that_of_transformers():
  log_p = torch.log_softmax(torch.from_numpy(
      np.random.default_rng(7).normal(scale=3, size=(13, 211))), -1)
  log_p[:, 17] = -torch.inf  # a token that is never said
  for how in itertools.product(
      (0.3, 1.0, 1.7), (0, 1, 11, 500), (0.05, 0.5, 0.93, 1.0)):
    theirs = torch.softmax(warpers(*how)(None, log_p.clone()), -1).numpy()
    sampling = Sampling(**dict(zip(('temperature', 'top_k', 'top_p'), how)))
    ours = np.exp(sampling.narrow(log_p.numpy()))
    np.testing.assert_array_equal(ours > 0, theirs > 0)
    agreement.close(ours, theirs, atol=1e-12)


def test_the_order_of_the_warpers_is_that_of_generate():
  from transformers.generation.utils import GenerationMixin

  class Model(GenerationMixin):
    config = None
    main_input_name = 'input_ids'

  found = Model()._get_logits_processor(GenerationConfig(
      do_sample=True, temperature=0.7, top_k=11, top_p=0.9))
  assert [type(one) for one in found] == [
      type(one) for one in warpers(0.7, 11, 0.9)]
