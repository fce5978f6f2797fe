"""The families of language models: their configs as published, and names."""

import math

import jax
import pytest

from flamingo import params as params_lib
from flamingo.model.lm import LM
from flamingo.model.positions import RopeScaling
from flamingo.pretrained.families import shapes
from flamingo.pretrained.lm import lm_config, lm_rules, lm_unused

# What the published config.json say of the architecture, with some of the rest.
LLAMA = dict(
    model_type='llama', vocab_size=32_000, hidden_size=4096,
    intermediate_size=11_008, num_hidden_layers=32, num_attention_heads=32,
    num_key_value_heads=32, hidden_act='silu', rms_norm_eps=1e-6,
    rope_scaling=None, pretraining_tp=1, tie_word_embeddings=False,
    torch_dtype='float16', transformers_version='4.31.0', use_cache=True)
LLAMA_3_2 = LLAMA | dict(
    vocab_size=128_256, hidden_size=2048, intermediate_size=8192,
    num_hidden_layers=16, num_key_value_heads=8, head_dim=64,
    rms_norm_eps=1e-5, rope_theta=500_000.0, tie_word_embeddings=True,
    attention_bias=False, mlp_bias=False, rope_scaling=dict(
        factor=32.0, high_freq_factor=4.0, low_freq_factor=1.0,
        original_max_position_embeddings=8192, rope_type='llama3'))
MISTRAL = LLAMA | dict(
    model_type='mistral', intermediate_size=14_336, num_key_value_heads=8,
    rms_norm_eps=1e-5, rope_theta=10_000.0, sliding_window=4096)
GPT2 = dict(
    model_type='gpt2', activation_function='gelu_new', n_ctx=1024, n_embd=768,
    n_head=12, n_layer=12, n_positions=1024, layer_norm_epsilon=1e-5,
    vocab_size=50_257, summary_type='cls_index', attn_pdrop=0.1,
    task_specific_params={'text-generation': {'max_length': 50}})
OPT = dict(
    model_type='opt', _remove_final_layer_norm=False, activation_dropout=0.0,
    activation_function='relu', do_layer_norm_before=True, ffn_dim=3072,
    hidden_size=768, init_std=0.02, layerdrop=0.0, max_position_embeddings=2048,
    num_attention_heads=12, num_hidden_layers=12, prefix='</s>',
    vocab_size=50_272, word_embed_proj_dim=768)
OPT_350M = OPT | dict(
    do_layer_norm_before=False, ffn_dim=4096, hidden_size=1024,
    num_attention_heads=16, num_hidden_layers=24, word_embed_proj_dim=512)
PYTHIA = dict(
    model_type='gpt_neox', hidden_act='gelu', hidden_size=768,
    intermediate_size=3072, layer_norm_eps=1e-5, num_attention_heads=12,
    num_hidden_layers=12, rotary_emb_base=10_000, rotary_pct=0.25,
    tie_word_embeddings=False, use_parallel_residual=True, vocab_size=50_304)
REDPAJAMA = PYTHIA | dict(
    hidden_size=2560, intermediate_size=10_240, num_attention_heads=32,
    num_hidden_layers=32, rotary_pct=1.0, use_parallel_residual=False,
    vocab_size=50_432)
MPT = dict(
    model_type='mpt', architectures=['MPTForCausalLM'], d_model=4096,
    n_heads=32, n_layers=32, expansion_ratio=4, max_seq_len=2048,
    vocab_size=50_432, learned_pos_emb=True, no_bias=True, logit_scale=None,
    norm_type='low_precision_layernorm', emb_pdrop=0, embedding_fraction=1.0,
    init_config=dict(name='kaiming_normal_', init_gain=0.0), init_device='cpu',
    attn_config=dict(
        alibi=True, alibi_bias_max=8, attn_impl='torch', attn_pdrop=0,
        attn_type='multihead_attention', attn_uses_sequence_id=False,
        clip_qkv=None, prefix_lm=False, qk_ln=False, softmax_scale=None))
MPT_1B = dict(
    model_type='mosaic_gpt', alibi=True, alibi_bias_max=8, attn_clip_qkv=None,
    attn_impl='torch', attn_pdrop=0, attn_qk_ln=True,
    attn_uses_sequence_id=False, d_model=2048, emb_init_std=None, emb_pdrop=0,
    embedding_fraction=1.0, fan_mode='fan_in', init_gain=0.0, init_std=0.02,
    logit_scale=None, low_precision_layernorm=True, max_seq_len=2048,
    mlp_ratio=4, n_heads=16, n_layers=24, no_bias=True, prefix_lm=False,
    param_init_fn='kaiming_normal_', resid_pdrop=0, softmax_scale=None,
    tokenizer_name='EleutherAI/gpt-neox-20b', verbose=0, vocab_size=50_432)
GEMMA_1B = dict(
    model_type='gemma3_text', attention_bias=False, attn_logit_softcapping=None,
    cache_implementation='hybrid', final_logit_softcapping=None, head_dim=256,
    hidden_activation='gelu_pytorch_tanh', hidden_size=1152,
    intermediate_size=6912, num_attention_heads=4, num_hidden_layers=26,
    num_key_value_heads=1, query_pre_attn_scalar=256, rms_norm_eps=1e-6,
    rope_local_base_freq=10_000, rope_scaling=None, rope_theta=1_000_000,
    sliding_window=512, sliding_window_pattern=6, vocab_size=262_144)
GEMMA_4B = dict(
    model_type='gemma3', boi_token_index=255_999, eoi_token_index=256_000,
    eos_token_id=[1, 106], image_token_index=262_144, mm_tokens_per_image=256,
    text_config=dict(
        hidden_size=2560, intermediate_size=10_240, model_type='gemma3_text',
        num_hidden_layers=34, rope_scaling=dict(factor=8.0, rope_type='linear'),
        sliding_window=1024),
    vision_config=dict(hidden_size=1152, model_type='siglip_vision_model'))


# transformers counts as many.
@pytest.mark.parametrize('config_json, count', [
    (LLAMA, 6_738_415_616),
    (LLAMA_3_2, 1_235_814_400),
    (MISTRAL, 7_241_732_096),
    (GPT2, 124_439_808),
    (OPT, 125_239_296),
    (OPT_350M, 331_196_416),
    (PYTHIA, 162_322_944),
    (REDPAJAMA, 2_775_864_320),
    (MPT, 6_649_286_656),
    (GEMMA_1B, 999_885_952),
    (GEMMA_4B, 3_880_263_168),
    # Not in transformers: 24 layers of 12 D^2 and four norms; embedding; norm.
    (MPT_1B, 24 * (12 * 2048**2 + 4 * 2048) + 50_433 * 2048),
])
def test_published_models_have_as_many_parameters(config_json, count):
  config = lm_config(config_json)
  tree = shapes(config)
  assert params_lib.count(tree) == count
  covered = lm_rules(config_json, config)
  paths = [path for rule in covered for path in rule.paths]
  assert len(paths) == len(set(paths)) == len(jax.tree.leaves(tree))


def test_llama_3_slows_its_rotary_embedding_down():
  lm = LM(**lm_config(LLAMA_3_2))
  assert lm.rope_scaling == RopeScaling(
      'llama3', 32.0, low=1.0, high=4.0, original=8192)
  assert lm.rope_base == 500_000 and lm.tied and lm.kv_heads == 8


def test_rope_parameters_of_newer_files_mean_the_same():
  newer = {
      name: value for name, value in LLAMA_3_2.items()
      if name not in ('rope_theta', 'rope_scaling')}
  newer['rope_parameters'] = dict(
      LLAMA_3_2['rope_scaling'], rope_theta=500_000.0)
  assert lm_config(newer) == lm_config(LLAMA_3_2)


def test_a_window_that_is_null_is_none():
  assert lm_config(MISTRAL)['window'] == 4096
  assert lm_config(MISTRAL | dict(sliding_window=None))['window'] is None


def test_opt_350m_is_unlike_the_other_opts():
  small, medium = LM(**lm_config(OPT)), LM(**lm_config(OPT_350M))
  assert small.norm_first and small.embed_width is None
  assert not medium.norm_first and medium.embed_width == 512
  assert small.position_offset == medium.position_offset == 2


def test_mpt_1b_says_in_one_list_what_mpt_says_in_sections():
  old, new = LM(**lm_config(MPT_1B)), LM(**lm_config(MPT))
  assert old.norm_heads == 'width' and new.norm_heads is None
  assert old.hidden == 4 * old.width and new.hidden == 4 * new.width
  with_norms = lm_config(MPT | dict(attn_config=dict(qk_ln=True)))
  assert with_norms['norm_heads'] == 'width'


def test_the_last_of_six_layers_of_gemma_3_sees_everything():
  lm = LM(**lm_config(GEMMA_1B))
  assert (lm.window, lm.global_every) == (512, 6)
  assert (lm.rope_base, lm.local_rope_base) == (1_000_000, 10_000)
  assert lm.embed_scale == math.sqrt(1152) and lm.query_scale == 1 / 16
  large = LM(**lm_config(GEMMA_4B))
  assert large.rope_scaling == RopeScaling('linear', 8.0)
  assert large.heads == 8 and large.vocab_size == 262_208  # not in the file


@pytest.mark.parametrize('kinds, window, every', [
    ('ssfssf', 512, 3), ('sfsfs', 512, 2), ('ssss', 512, 0), ('fff', None, 0)])
def test_layer_types_are_a_pattern(kinds, window, every):
  names = {'s': 'sliding_attention', 'f': 'full_attention'}
  config = lm_config(GEMMA_1B | dict(
      num_hidden_layers=len(kinds), layer_types=[names[k] for k in kinds]))
  assert (config['window'], config['global_every']) == (window, every)


@pytest.mark.parametrize('config_json, change, message', [
    (LLAMA, dict(rope_scaling=dict(type='yarn', factor=2)), "type 'yarn'"),
    (LLAMA, dict(rope_scaling=dict(type='linear', factor=2, beta=1)),
     "rope_scaling of config.json has fields .*'beta': 1"),
    (LLAMA, dict(num_local_experts=8), "no attribute for: .*num_local_experts"),
    (LLAMA, dict(hidden_act='tanh'), "hidden_act = 'tanh', which is none of"),
    (LLAMA, dict(add_cross_attention=True), 'add_cross_attention = True'),
    (LLAMA, dict(quantization_config=dict(bits=4)), "quantised: {'bits': 4}"),
    (LLAMA, dict(model_type='mamba'), "model_type = 'mamba'.*'gpt2'"),
    (GPT2, dict(scale_attn_by_inverse_layer_idx=True), 'inverse_layer_idx'),
    (OPT, dict(_remove_final_layer_norm=True), '_remove_final_layer_norm'),
    (PYTHIA, dict(partial_rotary_factor=0.5), 'partial_rotary_factor = 0.5'),
    (MPT, dict(attn_config=dict(alibi=False)), 'alibi = False'),
    (MPT, dict(attn_config=dict(kv_n_heads=8)), 'kv_n_heads = 8'),
    (MPT, dict(attn_config=dict(attn_temperature=2)), 'attn_temperature'),
    (MPT, dict(no_bias=False), 'no_bias = False'),
    (MPT, dict(ffn_config=dict(ffn_type='mptgeglu')), 'mptgeglu'),
    (MPT_1B, dict(logit_scale='inv_sqrt_d_model'), 'logit_scale'),
    (MPT_1B, dict(attn_temperature=2), 'attn_temperature'),
    (GEMMA_1B, dict(final_logit_softcapping=30.0), 'final_logit_softcapping'),
    (GEMMA_1B, dict(use_bidirectional_attention=True), 'bidirectional'),
    (GEMMA_1B, dict(num_hidden_layers=3, layer_types=[
        'full_attention', 'sliding_attention', 'sliding_attention']),
     'layer_types'),
])
def test_what_lm_cannot_express_is_an_error(config_json, change, message):
  with pytest.raises(ValueError, match=f'{message}.* Take (a|the) model'):
    lm_config(config_json | change)


@pytest.mark.parametrize('config_json, name', [
    (LLAMA, 'vocab_size'), (GPT2, 'n_positions'), (OPT, 'ffn_dim'),
    (PYTHIA, 'num_attention_heads'), (MPT, 'd_model')])
def test_a_field_that_is_lacking_is_named(config_json, name):
  lacking = {key: x for key, x in config_json.items() if key != name}
  with pytest.raises(ValueError, match=f"lacks the field '{name}'"):
    lm_config(lacking)


def test_names_inside_of_another_model():
  config = lm_config(MPT_1B | dict(n_layers=2))
  names = [rule.theirs for rule in lm_rules(
      MPT_1B, config, prefix='lang_encoder.', layer='{}.decoder_layer')]
  assert 'lang_encoder.transformer.wte.weight' in names
  assert ('lang_encoder.transformer.blocks.1.decoder_layer.attn.q_ln.weight'
          in names)
  ours = {rule.ours for rule in lm_rules(MPT_1B, config, ours='lm/')}
  assert ('lm/layer_1/attn/norm_query/scale',) in ours
  names = [rule.theirs for rule in lm_rules(
      GPT2, lm_config(GPT2), prefix='flamingo.', trunk='lm.',
      layer='{}.lm_block')]
  assert 'flamingo.lm.h.11.lm_block.mlp.c_fc.bias' in names
  unused = lm_unused(MPT_1B, config, prefix='lang_encoder.')
  assert list(unused) == [r'lang_encoder\.lm_head\.weight']
