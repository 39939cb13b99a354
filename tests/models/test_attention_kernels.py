"""Every kernel against the rule written down: outputs and gradients, on ragged rows, padded tails, one-sequence rows
and windows.

Splash runs in interpret mode and Tokamax by its implementations for any device, so that what is compared is this
project's use of them: masks, scales, layouts. cuDNN runs on GPUs only; here its layout is held against a reading of it
in NumPy.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bert_jax.batch import model_inputs
from bert_jax.models import attention, attention_kernels
from bert_jax.tools.plan.ahead import Request, compile_ahead
from bert_jax.tools.plan.data_facts import DataFacts
from tests.helpers.tiny_pretraining import tiny_config

HEADS, WIDTH, LENGTH = 2, 16, 256
ROWS = {
  "ragged": [100, 1, 129],  # and a padded tail of 26
  "one sequence": [LENGTH],
  "one sequence, padded": [77],
  "many": [3, 64, 64, 1, 1, 100],
  "padding alone": [],
}
LENGTHS = np.array([lengths + [0] * (6 - len(lengths)) for lengths in ROWS.values()])
SEGMENTS = np.array([np.repeat([*range(1, len(row) + 1), 0], [*row, LENGTH - sum(row)]) for row in ROWS.values()])


def tokamax(*arguments, kernels):
  pytest.importorskip("tokamax", reason="the extra [test] installs it")
  with jax.numpy_rank_promotion("allow"):  # it relies on it
    return attention_kernels.tokamax_attention(*arguments, kernels=kernels)


KERNELS = {
  "splash": functools.partial(attention_kernels.splash_attention, interpret=True),
  "tokamax": functools.partial(tokamax, kernels=("xla",)),
  "tokamax, chunked": functools.partial(tokamax, kernels=("not there", "xla_chunked")),
}


def outputs_and_gradients(attend, segments):
  """(outputs at real tokens, gradients of a sum over them with random weights)."""
  rng = np.random.default_rng(0)
  draw = lambda: jnp.asarray(rng.normal(size=(*segments.shape, HEADS, WIDTH)), jnp.float32)
  query, key, value, weights = draw(), draw(), draw(), draw()
  real = (segments > 0)[:, :, None, None]

  def loss(query, key, value):
    output = jnp.where(real, attend(query, key, value), 0)
    return jnp.sum(output * weights), output

  (_, output), gradients = jax.value_and_grad(loss, argnums=(0, 1, 2), has_aux=True)(query, key, value)
  return (output, *gradients)


@pytest.mark.parametrize("window", [None, 5, 64])
@pytest.mark.parametrize("kernel", KERNELS)
def test_a_kernel_equals_the_rule_in_outputs_and_gradients(kernel, window):
  segments, lengths = jnp.asarray(SEGMENTS), jnp.asarray(LENGTHS)
  expected = outputs_and_gradients(lambda q, k, v: attention.xla_attention(q, k, v, segments, window=window), SEGMENTS)
  found = outputs_and_gradients(lambda q, k, v: KERNELS[kernel](q, k, v, segments, lengths, window), SEGMENTS)
  for name, ours, theirs in zip(("output", "query", "key", "value"), expected, found):
    np.testing.assert_allclose(theirs, ours, atol=3e-6, err_msg=f"{name} of {dict(zip(ROWS, LENGTHS))}")
  assert np.abs(expected[1]).max() > 0.01


@pytest.mark.parametrize("kernel", KERNELS)
def test_nothing_of_a_neighbour_reaches_a_sequence(kernel):
  rng = np.random.default_rng(1)
  query, key, value = (rng.normal(size=(1, LENGTH, HEADS, WIDTH)).astype(np.float32) for _ in range(3))
  segments = SEGMENTS[:1]
  run = lambda key, value: np.asarray(
    KERNELS[kernel](*map(jnp.asarray, (query, key, value, segments, LENGTHS[:1])), None)
  )
  before = run(key, value)
  key, value = key.copy(), value.copy()
  key[:, 100:], value[:, 100:] = rng.normal(size=key[:, 100:].shape), 1e4  # all but the first sequence
  np.testing.assert_array_equal(run(key, value)[:, :100], before[:, :100])


def test_padding_sees_all_tokens_and_tokens_their_window_of_their_sequence():
  segments = jnp.asarray([[1, 1, 1, 2, 2, 0], [0] * 6])
  for window in (None, 1):
    first, last = attention_kernels.seen_keys(segments, window)
    places = np.arange(6)
    seen = (places >= np.asarray(first)[..., None]) & (places < np.asarray(last)[..., None])
    np.testing.assert_array_equal(seen[0], attention.attention_mask(segments, window)[0])
    assert seen[1].sum(axis=1).tolist() == [1] * 6  # something, for a softmax over nothing would be NaN


def test_cudnn_is_told_of_exactly_the_tokens_of_each_sequence():
  lengths, offsets = (np.asarray(x) for x in attention_kernels.packed_layout(jnp.asarray(LENGTHS)))
  assert lengths.shape == (len(ROWS), 6) and offsets.shape == (len(ROWS), 7) and (offsets[:, -1] == -1).all()
  for row, segments in enumerate(SEGMENTS):
    found = np.zeros(LENGTH, int)
    for number, (length, offset) in enumerate(zip(lengths[row], offsets[row]), start=1):
      assert (length == -1) == (offset == -1)
      if length != -1:
        assert (found[offset : offset + length] == 0).all()
        found[offset : offset + length] = number
    np.testing.assert_array_equal(found, segments)


def test_a_row_for_one_sequence_is_packed_for_cudnn_too():
  lengths, offsets = attention_kernels.packed_layout(jnp.asarray([[77]]))
  assert lengths.tolist() == [[77, -1]] and offsets.tolist() == [[0, -1, -1]]


def test_cudnn_gets_the_packed_call_and_what_it_leaves_at_padding_reaches_neither_outputs_nor_gradients(monkeypatch):
  """Its stand-in leaves NaN wherever padding is, as cuDNN leaves what memory held."""
  from jax._src.cudnn import fused_attention_stablehlo as cudnn

  segments, lengths, called = jnp.asarray(SEGMENTS), jnp.asarray(LENGTHS), {}
  real = (segments > 0)[:, :, None, None]

  @jax.custom_vjp
  def kernel(query, key, value):
    return jnp.where(real, attention.xla_attention(query, key, value, segments), jnp.nan)

  def backward(residuals, gradient):
    clean = lambda *qkv: jnp.where(real, attention.xla_attention(*qkv, segments), 0)
    return tuple(jnp.where(real, g, jnp.nan) for g in jax.vjp(clean, *residuals)[1](gradient))

  kernel.defvjp(lambda *qkv: (kernel(*qkv), qkv), backward)

  def stand_in(query, key, value, **arguments):
    called.update(arguments)
    return kernel(query, key, value)

  monkeypatch.setattr(cudnn, "dot_product_attention", stand_in)
  found = outputs_and_gradients(
    lambda q, k, v: attention_kernels.cudnn_attention(q, k, v, segments, lengths, None), SEGMENTS
  )
  expected = outputs_and_gradients(lambda q, k, v: attention.xla_attention(q, k, v, segments), SEGMENTS)
  for ours, theirs in zip(expected, found):
    np.testing.assert_allclose(theirs, ours, atol=3e-6)
  ones = jnp.ones((*SEGMENTS.shape, HEADS, WIDTH))
  assert (attention_kernels.cudnn_attention(ones, ones, ones, segments, lengths, None)[SEGMENTS == 0] == 0).all()
  assert (
    called["scale"] == WIDTH**-0.5 and called["mask_type"] == cudnn.MaskType.PADDING and called["qkv_layout"] == "BTNH"
  )
  assert called["q_seqlen"] is called["kv_seqlen"] and called["q_offsets"] is called["kv_offsets"]


def test_cudnn_s_packed_kernel_is_what_a_gpu_would_be_given(monkeypatch):
  """The program is lowered for a GPU that is not here: both passes call cuDNN's attention without bias, mask or
  dropout.
  """
  from jax._src.cudnn import fused_attention_stablehlo as cudnn

  monkeypatch.setattr(cudnn, "check_cudnn_version", lambda: 91000)
  monkeypatch.setattr(cudnn, "check_compute_capability", lambda capability: True)
  monkeypatch.setattr(cudnn, "is_cuda_compute_capability_equal", lambda capability: False)
  shape = jax.ShapeDtypeStruct((len(ROWS), LENGTH, HEADS, 64), jnp.bfloat16)

  def loss(query, key, value):
    segments, lengths = jnp.asarray(SEGMENTS), jnp.asarray(LENGTHS)
    return attention_kernels.cudnn_attention(query, key, value, segments, lengths, None).astype(jnp.float32).sum()

  text = (
    jax.jit(jax.grad(loss, argnums=(0, 1, 2))).trace(shape, shape, shape).lower(lowering_platforms=("cuda",)).as_text()
  )
  assert "__cudnn$fmhaSoftmax(" in text and "__cudnn$fmhaSoftmaxBackward(" in text
  assert '"mask_type": "PADDING"' in text.replace("\\22", '"') and "Bias" not in text and "Dropout" not in text


@pytest.mark.slow
@pytest.mark.parametrize("topology", ["v5e:2x4", "v5p:2x2x1"])
def test_a_training_step_with_splash_compiles_for_tpus_and_calls_a_kernel_for_each_pass_of_each_layer(
  topology, tmp_path
):
  pytest.importorskip("libtpu", reason="compiling for TPUs needs the extra [plan]")
  config = tiny_config(
    **{
      "mesh.data": -1,
      "data.batch_size": 32,
      "model.dtype": "bfloat16",
      "model.vocab_size": 1000,
      "model.hidden_size": 128,
      "model.num_attention_heads": 2,
      "model.num_hidden_layers": 2,
      "model.intermediate_size": 256,
      "model.max_position_embeddings": 512,
      "masking.max_predictions": 80,
      "model.attention": "splash",
      "model.attention_probs_dropout_prob": 0.0,
    }
  )
  (result,) = compile_ahead(
    [Request(config, topology, DataFacts(1000, 512, 4, "nsp"), hlo_file=str(tmp_path / "step.hlo"))]
  )
  assert hasattr(result, "traffic"), result
  assert (tmp_path / "step.hlo").read_text().count(
    'custom_call_target="tpu_custom_call"'
  ) == 3 * 2  # forward, dq, and dk with dv


def test_a_row_of_packed_sequences_has_its_lengths_among_the_inputs_of_the_model():
  tokens = np.zeros((1, 12), np.int32)
  inputs = model_inputs(tokens, np.array([[[6, 4, 0], [5, 3, 1], [0, 0, 0]]]))
  assert inputs.sequence_lengths.tolist() == [[6, 5, 0]]
  for number, length in enumerate(inputs.sequence_lengths[0], start=1):
    assert (inputs.segment_ids == number).sum() == length
