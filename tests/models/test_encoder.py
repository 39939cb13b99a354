"""The encoder stack: hidden states, remat, dropout, dtypes."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bert_jax.errors import UserError
from bert_jax.models.encoder import Encoder

IDS = ("input_ids", "token_type_ids", "position_ids", "segment_ids")


@functools.partial(jax.jit, static_argnums=0)
def _apply(encoder, params, ids, dropout_keys):
  return encoder.apply({"params": params}, *ids, dropout_keys)


def _run(config, params, inputs, *, key=None, dtype=jnp.float32):
  """Runs the encoder, with dropout if there is a key."""
  ids = [getattr(inputs, name) for name in IDS]
  return _apply(
    Encoder(config, dtype), params["encoder"], ids, None if key is None else jax.random.split(key, len(ids[0]))
  )


def test_there_is_one_hidden_state_more_than_layers_and_the_last_is_the_output(config, params, rows):
  output = _run(config, params, rows[0])
  assert len(output.hidden_states) == config.num_hidden_layers + 1
  np.testing.assert_array_equal(output.hidden_states[-1], output.sequence_output)
  # The first is the normalised embeddings: undoing scale and bias leaves mean 0 and variance 1.
  norm = params["encoder"]["embeddings"]["layer_norm"]
  normal = (output.hidden_states[0] - norm["bias"][None, None]) / norm["scale"][None, None]
  np.testing.assert_allclose(normal.mean(-1), 0, atol=1e-4)
  np.testing.assert_allclose(normal.var(-1), 1, atol=1e-3)


def test_dropout_is_off_without_keys_and_follows_them(config, params, rows):
  off = _run(config, params, rows[0]).sequence_output
  on = [_run(config, params, rows[0], key=jax.random.key(seed)).sequence_output for seed in (0, 0, 1)]
  np.testing.assert_array_equal(on[0], on[1])
  assert np.abs(on[0] - on[2]).max() > 0.1 and np.abs(on[0] - off).max() > 0.1


def test_a_row_is_dropped_out_alike_in_any_batch(config, params, rows):
  """So neither microbatches nor devices change a training step."""
  ids, keys = [getattr(rows[0], name) for name in IDS], jax.random.split(jax.random.key(0), 2)
  both = _apply(Encoder(config), params["encoder"], ids, keys).sequence_output
  for row in range(2):
    alone = _apply(
      Encoder(config), params["encoder"], [x[row : row + 1] for x in ids], keys[row : row + 1]
    ).sequence_output
    np.testing.assert_allclose(alone[0], both[row], atol=1e-5)
  assert np.abs(_apply(Encoder(config), params["encoder"], ids, keys[::-1]).sequence_output - both).max() > 0.1


@pytest.fixture(scope="module")
def by_remat(config, params, rows):
  """{policy: (gradients with dropout, jaxpr of the gradient, bytes kept from the forward pass for the backward
  pass)}.
  """
  config = dataclasses.replace(config, num_hidden_layers=1)
  ids = [getattr(rows[0], name) for name in IDS]

  def one(remat):
    def loss(p):
      output = Encoder(config, remat=remat).apply({"params": p}, *ids, jax.random.split(jax.random.key(3), 2))
      return jnp.mean(output.sequence_output[:, 0] ** 3)

    kept = sum(
      leaf.size * leaf.dtype.itemsize
      for leaf in jax.tree.leaves(jax.eval_shape(lambda p: jax.vjp(loss, p)[1], params["encoder"]))
    )
    return jax.jit(jax.grad(loss))(params["encoder"]), str(jax.make_jaxpr(jax.grad(loss))(params["encoder"])), kept

  return {remat: one(remat) for remat in ("none", "dots", "full")}


@pytest.mark.parametrize("remat", ["dots", "full"])
def test_remat_gives_the_same_gradients_with_dropout(by_remat, remat):
  jax.tree.map(
    functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-6), by_remat["none"][0], by_remat[remat][0]
  )


def test_each_remat_policy_recomputes_what_it_says_and_keeps_less(by_remat):
  count = lambda remat, operation: by_remat[remat][1].count(operation)
  # The GELU is computed again by both; the six products with a parameter (three of them in one) by "full" alone.
  assert count("none", "= erf") < count("dots", "= erf") == count("full", "= erf")
  assert count("none", "= dot_general") < count("dots", "= dot_general") < count("full", "= dot_general")
  assert by_remat["full"][2] < by_remat["dots"][2] < by_remat["none"][2]


def test_an_unknown_remat_policy_is_refused(config, params, rows):
  with pytest.raises(UserError, match="expected one of none, dots, full; got True"):
    Encoder(config, remat=True).apply({"params": params["encoder"]}, *(getattr(rows[0], name) for name in IDS))


def test_bfloat16_stays_near_float32_with_float32_parameters(config, params, rows):
  exact = _run(config, params, rows[0]).sequence_output
  rounded = _run(config, params, rows[0], dtype=jnp.bfloat16).sequence_output
  assert rounded.dtype == jnp.bfloat16
  assert np.abs(rounded.astype(jnp.float32) - exact).max() < 0.15  # values are of size 1 to 3


def test_rows_longer_than_the_positions_are_refused(config, params):
  ids = jnp.zeros((1, config.max_position_embeddings + 1), jnp.int32)
  with pytest.raises(UserError, match="33 tokens.*32 positions.*max_position_embeddings"):
    Encoder(config).apply({"params": params["encoder"]}, ids, ids, ids, ids)
