"""The whole model: its parameter tree, packing and padding, the padded vocabulary."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import traverse_util

from bert_jax import batch
from bert_jax.errors import UserError
from bert_jax.models.pretraining import PretrainingModel


def test_the_parameter_tree_is_pinned(shapes):
  """Checkpoints, sharding, decay and conversion tables name these paths: a change here breaks them all."""
  dense = lambda name, i, o: {f"{name}/kernel": (i, o), f"{name}/bias": (o,)}
  norm = lambda name: {f"{name}/scale": (32,), f"{name}/bias": (32,)}
  expected = {
    "encoder/embeddings/word_embeddings/embedding": (256, 32),
    "encoder/embeddings/position_embeddings/embedding": (32, 32),
    "encoder/embeddings/token_type_embeddings/embedding": (2, 32),
    **norm("encoder/embeddings/layer_norm"),
    **dense("pooler/dense", 32, 32),
    **dense("mlm_head/dense", 32, 32),
    **norm("mlm_head/layer_norm"),
    "mlm_head/bias": (256,),
    **dense("nsp_head/dense", 32, 2),
  }
  for n in range(2):
    layer = f"encoder/layer_{n}"
    for name in ("query", "key", "value", "output"):
      expected |= dense(f"{layer}/attention/{name}", 32, 32)
    expected |= norm(f"{layer}/attention/layer_norm") | norm(f"{layer}/feed_forward/layer_norm")
    expected |= dense(f"{layer}/feed_forward/intermediate", 32, 64)
    expected |= dense(f"{layer}/feed_forward/output", 64, 32)
  flat = traverse_util.flatten_dict(shapes, sep="/")
  assert {name: leaf.shape for name, leaf in flat.items()} == expected
  assert {leaf.dtype for leaf in flat.values()} == {jnp.dtype("float32")}


@pytest.mark.parametrize("fields", [{"remat": "full"}, {"remat": "dots"}, {"dtype": jnp.bfloat16}])
def test_the_tree_does_not_depend_on_how_it_is_computed(config, rows, shapes, fields):
  assert jax.eval_shape(PretrainingModel(config, **fields).init, jax.random.key(0), *rows)["params"] == shapes


def test_shapes_and_dtypes_of_every_output(config, params, rows):
  for dtype in (jnp.float32, jnp.bfloat16):
    output = jax.eval_shape(PretrainingModel(config, dtype=dtype).apply, {"params": params}, *rows)
    outputs = output._asdict()
    assert {x.shape for x in outputs.pop("hidden_states")} == {(2, 24, 32)}
    assert {name: (x.shape, x.dtype) for name, x in outputs.items()} == {
      "sequence_output": ((2, 24, 32), dtype),
      "pooled_output": ((2, 2, 32), dtype),
      "masked_output": ((2, 4, 32), dtype),
      "padded_prediction_logits": ((2, 4, 256), jnp.float32),
      "prediction_logits": ((2, 4, 130), jnp.float32),
      "nsp_logits": ((2, 2, 2), jnp.float32),
    }


def test_bfloat16_logits_are_finite_and_near(config, params, rows):
  exact, rounded = (
    jax.jit(PretrainingModel(config, dtype=dtype).apply)({"params": params}, *rows)
    for dtype in (jnp.float32, jnp.bfloat16)
  )
  scale = float(jnp.std(exact.prediction_logits))
  assert np.abs(rounded.prediction_logits - exact.prediction_logits).max() < 0.1 * scale
  assert np.abs(rounded.nsp_logits - exact.nsp_logits).max() < 0.1 * scale


def test_named_outputs_are_taken_at_the_right_positions(config, params, rows):
  inputs, positions = rows
  apply = jax.jit(PretrainingModel(config).apply)
  some, every = apply({"params": params}, inputs, positions), apply({"params": params}, inputs, None)
  np.testing.assert_array_equal(every.masked_output, every.sequence_output)
  np.testing.assert_array_equal(some.masked_output[0, 2], some.sequence_output[0, 11])
  np.testing.assert_allclose(some.prediction_logits[1, 3], every.prediction_logits[1, 10], atol=1e-5)
  dense = params["pooler"]["dense"]
  second_cls = np.asarray(some.sequence_output[0, 9])
  pooled = np.tanh(second_cls @ dense["kernel"] + dense["bias"])
  np.testing.assert_allclose(some.pooled_output[0, 1], pooled, atol=1e-5)


def test_nothing_of_the_size_of_all_logits_is_made_when_positions_are_given(config, params, rows):
  jaxpr = str(jax.make_jaxpr(PretrainingModel(config).apply)({"params": params}, *rows))
  assert "[2,4,256]" in jaxpr and "[2,24,256]" not in jaxpr and "[2,24,130]" not in jaxpr


@functools.partial(jax.jit, static_argnums=0)
@functools.partial(jax.value_and_grad, argnums=1, has_aux=True)
def _loss_and_gradient(config, params, inputs, positions, weights):
  """The sums of both losses over the real sequences, with labels that depend on the tokens alone."""
  model = PretrainingModel(config, dtype=jnp.float64, param_dtype=jnp.float64)
  output = model.apply({"params": params}, inputs, positions)
  labels = (7 * jnp.take_along_axis(inputs.input_ids, positions, axis=1) + 1) % config.vocab_size
  mlm = optax.softmax_cross_entropy_with_integer_labels(output.prediction_logits, labels)
  nsp = optax.softmax_cross_entropy_with_integer_labels(output.nsp_logits, inputs.sequence_labels)
  return (mlm * weights).sum() + (nsp * inputs.sequence_weights).sum(), output


def test_packing_and_padding_are_invisible(config, params, rows):
  """Law 4, in float64: every sequence alone gives the outputs, loss and gradients of the packed rows."""
  inputs, positions = rows
  tokens = np.asarray(inputs.input_ids)
  alone = np.zeros((3, 12), np.int32)
  alone[0, :9], alone[1, :7], alone[2] = tokens[0, :9], tokens[0, 9:16], tokens[1, :12]
  alone_inputs = batch.model_inputs(jnp.asarray(alone), jnp.asarray([[[9, 4, 0]], [[7, 3, 1]], [[12, 5, 1]]]))
  # The model predicts four positions per row: here two are given twice and weigh half.
  alone_positions = jnp.asarray([[2, 5, 2, 5], [2, 4, 2, 4], [1, 3, 6, 10]])
  alone_weights = jnp.asarray([[0.5] * 4, [0.5] * 4, [1.0] * 4])
  with jax.enable_x64(True):
    params = jax.tree.map(lambda x: jnp.asarray(x, jnp.float64), params)
    (loss, packed), gradient = _loss_and_gradient(config, params, inputs, positions, jnp.ones((2, 4)))
    (alone_loss, single), alone_gradient = _loss_and_gradient(
      config, params, alone_inputs, alone_positions, alone_weights
    )
    close = functools.partial(np.testing.assert_allclose, rtol=1e-9, atol=1e-9)
    close(packed.sequence_output[0, :9], single.sequence_output[0, :9])
    close(packed.sequence_output[0, 9:16], single.sequence_output[1, :7])
    close(packed.sequence_output[1, :12], single.sequence_output[2])
    close(packed.pooled_output[0], single.pooled_output[:2, 0])
    close(
      packed.prediction_logits[0], np.concatenate([single.prediction_logits[0, :2], single.prediction_logits[1, :2]])
    )
    close(packed.nsp_logits[1, 0], single.nsp_logits[2, 0])
    close(loss, alone_loss)
    jax.tree.map(close, gradient, alone_gradient)
    for path, leaf in traverse_util.flatten_dict(gradient, sep="/").items():
      # A key bias shifts all scores of a query alike, which softmax does not see.
      assert path.endswith("key/bias") or float(jnp.abs(leaf).max()) > 1e-8, path


def test_padding_rows_of_the_vocabulary_get_no_gradient_and_change_nothing(config, params, rows):
  model = PretrainingModel(config)

  @jax.jit
  @functools.partial(jax.value_and_grad, has_aux=True)
  def run(p):
    logits = model.apply({"params": p}, *rows).prediction_logits
    return jax.nn.logsumexp(logits, axis=-1).sum(), logits

  (_, logits), gradient = run(params)
  words = gradient["encoder"]["embeddings"]["word_embeddings"]["embedding"]
  np.testing.assert_array_equal(words[config.vocab_size :], 0)
  np.testing.assert_array_equal(gradient["mlm_head"]["bias"][config.vocab_size :], 0)
  assert np.abs(words[: config.vocab_size]).max(axis=1).min() > 0
  changed = jax.tree.map(np.copy, params)
  changed["encoder"]["embeddings"]["word_embeddings"]["embedding"][config.vocab_size :] = 7
  changed["mlm_head"]["bias"][config.vocab_size :] = 7
  np.testing.assert_array_equal(run(changed)[0][1], logits)


def test_a_model_without_a_head_needs_no_parameters_for_it(config, params, rows):
  kept = {name: tree for name, tree in params.items() if name not in ("pooler", "nsp_head")}
  output = PretrainingModel(config, heads=frozenset({"mlm"})).apply({"params": kept}, *rows)
  assert output.pooled_output is None and output.nsp_logits is None and output.prediction_logits is not None
  with pytest.raises(UserError, match="'pooler' where there is 'nsp'"):
    PretrainingModel(config, heads=frozenset({"nsp"})).apply({"params": params}, *rows)


def test_dropout_reaches_every_place_that_bert_has(config, params, rows):
  """Each of the two rates alone changes the output, and a rate of 0 leaves nothing random."""

  def run(**rates):
    none = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    model = PretrainingModel(dataclasses.replace(config, **none | rates))
    return model.apply({"params": params}, *rows, jax.random.split(jax.random.key(0), 2)).sequence_output

  still, off = run(), PretrainingModel(config).apply({"params": params}, *rows).sequence_output
  np.testing.assert_allclose(still, off, atol=1e-6)
  assert np.abs(run(hidden_dropout_prob=0.2) - still).max() > 0.1
  assert np.abs(run(attention_probs_dropout_prob=0.2) - still).max() > 0.01
