"""The fields of a published config, none of which is dropped in silence."""

from collections.abc import Mapping
from typing import Any

from flamingo.model.positions import RopeScaling

# Theirs to ours. `gelu` is the exact one; the others of that line are all its
# tanh approximation.
_ACTIVATIONS = {
    'relu': 'relu', 'relu2': 'squared_relu', 'silu': 'silu', 'swish': 'silu',
    'quick_gelu': 'quick_gelu', 'gelu': 'gelu', 'gelu_python': 'gelu',
    'gelu_new': 'gelu_tanh', 'gelu_fast': 'gelu_tanh',
    'gelu_pytorch_tanh': 'gelu_tanh'}

# What does not change the logits of a document: who wrote the file and how,
# dropout, first values of parameters, how to generate, and the length of the
# documents it was trained on where positions have no table.
_HARMLESS = frozenset('''
    _attn_implementation _attn_implementation_autoset
    _attn_implementation_internal _commit_hash _flash_attn_2_enabled
    _name_or_path _num_labels activation_dropout architectures
    attention_dropout attention_probs_dropout_prob attn_pdrop auto_map
    bad_words_ids begin_suppress_tokens bos_token_id cache_implementation
    chunk_size_feed_forward classifier_dropout custom_pipelines
    decoder_start_token_id diversity_penalty do_sample dropout dtype
    early_stopping embd_pdrop encoder_no_repeat_ngram_size eos_token_id
    exponential_decay_length_penalty finetuning_task forced_bos_token_id
    forced_eos_token_id gradient_checkpointing hidden_dropout id2label
    initializer_factor initializer_range is_decoder is_llama_config label2id
    layerdrop length_penalty max_length max_position_embeddings
    max_sequence_length min_length model_type n_ctx no_repeat_ngram_size
    num_beam_groups num_beams num_return_sequences output_attentions
    output_hidden_states output_scores pad_token_id prefix pretraining_tp
    problem_type remove_invalid_values reorder_and_upcast_attn
    repetition_penalty resid_pdrop return_dict return_dict_in_generate
    sep_token_id summary_activation summary_first_dropout
    summary_proj_to_labels summary_type summary_use_proj suppress_tokens
    task_specific_params temperature tf_legacy_loss tokenizer_class top_k top_p
    torch_dtype torchscript transformers_version typical_p unk_token_id
    use_bfloat16 use_cache'''.split())

# What every model could have, and ours has not.
_OFF = dict(
    is_encoder_decoder=False, add_cross_attention=False,
    cross_attention_hidden_size=None, tie_encoder_decoder=False,
    pruned_heads={})

_REQUIRED = object()


class Fields:
  """The fields of a config, taken one by one until nothing is left.

  A field that nobody took could change what the model computes, so `finish`
  takes it for an error.
  """

  def __init__(self, values: Mapping[str, Any], what: str = 'config.json'):
    """Reads the fields `values` of `what`, a noun for messages."""
    self._left = dict(values)
    self.what = what

  def take(self, name: str, default: Any = _REQUIRED) -> Any:
    """Returns a field, which is thereby understood.

    A field that is null is None and not its default: `sliding_window: null`
    says that there is no window.

    Raises:
      ValueError: the field is lacking and has no default.
    """
    if name not in self._left and default is _REQUIRED:
      raise ValueError(
          f'{self.what} lacks the field {name!r}. Add it, or fetch the file '
          'again.')
    return self._left.pop(name, default)

  def expect(self, **allowed: Any) -> None:
    """Makes sure that fields, where they are, have values LM computes with.

    Args:
      **allowed: by field, a value or a tuple of them.

    Raises:
      ValueError: a field has another value.
    """
    for name, values in allowed.items():
      values = values if isinstance(values, tuple) else (values,)
      if name in self._left and self._left[name] not in values:
        raise ValueError(
            f'{self.what} has {name} = {self._left[name]!r}, and LM computes '
            f'with {" or ".join(map(repr, values))} only. Take a model that it '
            'can express.')
      self._left.pop(name, None)

  def drop(self, *names: str) -> None:
    """Names fields of this family that do not change its logits."""
    for name in names:
      self._left.pop(name, None)

  def activation(self, name: str, default: Any = _REQUIRED) -> str:
    """Returns our name of an activation."""
    theirs = self.take(name, default)
    if theirs not in _ACTIVATIONS:
      raise ValueError(
          f'{self.what} has {name} = {theirs!r}, which is none of '
          f'{sorted(_ACTIVATIONS)}. Take a model that LM can express.')
    return _ACTIVATIONS[theirs]

  def rope(self, base: float = 10_000) -> tuple[float, RopeScaling | None]:
    """Returns the base of the rotary embedding, and how it is slowed down.

    Args:
      base: where the config has none.

    Raises:
      ValueError: it is slowed down in a way that LM lacks, such as 'yarn'.
    """
    base = self.take('rope_theta', base)
    values = self.take('rope_scaling', None)
    # Transformers 5 has both in one section.
    values = self.take('rope_parameters', None) or values
    if not values:
      return float(base), None
    fields = Fields(values, f'rope_scaling of {self.what}')
    base = float(fields.take('rope_theta', base))
    # Old files have `type`, new ones `rope_type`, and some have both.
    kind = fields.take('type', None)
    kind = fields.take('rope_type', kind)
    if kind not in ('default', 'linear', 'llama3'):
      raise ValueError(
          f'{fields.what} is of type {kind!r}, and LM knows default, linear '
          'and llama3. Take a model that it can express.')
    scaling = None
    if kind == 'linear':
      scaling = RopeScaling('linear', float(fields.take('factor')))
    elif kind == 'llama3':
      scaling = RopeScaling(
          'llama3', float(fields.take('factor')),
          low=float(fields.take('low_freq_factor')),
          high=float(fields.take('high_freq_factor')),
          original=fields.take('original_max_position_embeddings'))
    fields.finish()
    return base, scaling

  def finish(self) -> None:
    """Makes sure that every field was understood.

    Raises:
      ValueError: fields are left, which are named.
    """
    if self._left.get('quantization_config') is not None:
      raise ValueError(
          f'{self.what} says that the weights are quantised: '
          f'{self._left["quantization_config"]!r:.200}. Take the model in '
          'float16, bfloat16 or float32, or as a GGUF file.')
    self.expect(**_OFF)
    left = {
        name: value for name, value in self._left.items()
        if name not in _HARMLESS and value is not None}
    if left:
      raise ValueError(
          f'{self.what} has fields that LM has no attribute for: '
          f'{left!r:.500}. Take a model that it can express; or remove them '
          'from the file, if they do not change what the model computes.')
