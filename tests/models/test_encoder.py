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


@functools.partial(jax.jit, static_argnums=(0, 1))
def _apply(encoder, deterministic, params, ids, key):
  return encoder.apply({"params": params}, *ids, deterministic=deterministic, rngs={"dropout": key})


def _run(config, params, inputs, *, key=None, dtype=jnp.float32):
  """Runs the encoder, with dropout if there is a key."""
  ids = [getattr(inputs, name) for name in IDS]
  rng = jax.random.key(0) if key is None else key
  return _apply(Encoder(config, dtype), key is None, params["encoder"], ids, rng)


def test_there_is_one_hidden_state_more_than_layers_and_the_last_is_the_output(config, params, rows):
  output = _run(config, params, rows[0])
  assert len(output.hidden_states) == config.num_hidden_layers + 1
  np.testing.assert_array_equal(output.hidden_states[-1], output.sequence_output)
  # The first is the normalised embeddings: undoing scale and bias leaves mean 0 and variance 1.
  norm = params["encoder"]["embeddings"]["layer_norm"]
  normal = (output.hidden_states[0] - norm["bias"][None, None]) / norm["scale"][None, None]
  np.testing.assert_allclose(normal.mean(-1), 0, atol=1e-4)
  np.testing.assert_allclose(normal.var(-1), 1, atol=1e-3)


def test_dropout_is_off_when_deterministic_and_keyed_otherwise(config, params, rows):
  off = _run(config, params, rows[0]).sequence_output
  on = [_run(config, params, rows[0], key=jax.random.key(seed)).sequence_output for seed in (0, 0, 1)]
  np.testing.assert_array_equal(on[0], on[1])
  assert np.abs(on[0] - on[2]).max() > 0.1 and np.abs(on[0] - off).max() > 0.1


def test_remat_gives_the_same_gradients_with_dropout_and_recomputes(config, params, rows):
  config = dataclasses.replace(config, num_hidden_layers=1)
  ids = [getattr(rows[0], name) for name in IDS]

  def gradient(remat):
    encoder = Encoder(config, remat=remat)

    def loss(p):
      output = encoder.apply({"params": p}, *ids, deterministic=False, rngs={"dropout": jax.random.key(3)})
      return jnp.mean(output.sequence_output[:, 0] ** 3)

    return jax.jit(jax.grad(loss)), str(jax.make_jaxpr(jax.grad(loss))(params["encoder"]))

  (plain, plain_jaxpr), (remat, remat_jaxpr) = gradient("none"), gradient("full")
  jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-6),
               plain(params["encoder"]), remat(params["encoder"]))
  assert remat_jaxpr.count("= erf") > plain_jaxpr.count("= erf")


def test_bfloat16_stays_near_float32_with_float32_parameters(config, params, rows):
  exact = _run(config, params, rows[0]).sequence_output
  rounded = _run(config, params, rows[0], dtype=jnp.bfloat16).sequence_output
  assert rounded.dtype == jnp.bfloat16
  assert np.abs(rounded.astype(jnp.float32) - exact).max() < 0.15  # values are of size 1 to 3


def test_rows_longer_than_the_positions_are_refused(config, params):
  ids = jnp.zeros((1, config.max_position_embeddings + 1), jnp.int32)
  with pytest.raises(UserError, match="33 tokens.*32 positions.*max_position_embeddings"):
    Encoder(config).apply({"params": params["encoder"]}, ids, ids, ids, ids)
