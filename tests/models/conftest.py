"""A model small enough to compile in a second, and rows for it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bert_jax import batch
from bert_jax.models.config import EncoderConfig
from bert_jax.models.pretraining import PretrainingModel
from tests.helpers.weights import draw_weights


@pytest.fixture(scope="session")
def config() -> EncoderConfig:
  return EncoderConfig(
    vocab_size=130,
    hidden_size=32,
    num_hidden_layers=2,
    num_attention_heads=2,
    intermediate_size=64,
    max_position_embeddings=32,
  ).validate()


@pytest.fixture(scope="session")
def rows(config):
  """Two packed rows of 24 tokens: 9 + 7 and 12, the rest padding; and four positions to predict in each."""
  rng = np.random.default_rng(0)
  tokens = rng.integers(5, config.vocab_size, (2, 24), dtype=np.int32)
  tokens[0, 16:] = tokens[1, 12:] = 0
  sequences = np.array([[[9, 4, 0], [7, 3, 1]], [[12, 5, 1], [0, 0, 0]]], np.int32)
  positions = np.array([[2, 5, 11, 13], [1, 3, 6, 10]], np.int32)
  return batch.model_inputs(jnp.asarray(tokens), jnp.asarray(sequences)), jnp.asarray(positions)


@pytest.fixture(scope="session")
def shapes(config, rows):
  """The parameter tree, as shapes and dtypes."""
  return jax.eval_shape(PretrainingModel(config).init, jax.random.key(0), *rows)["params"]


@pytest.fixture(scope="session")
def params(shapes):
  """Every parameter drawn, see `draw_weights`."""
  rng = np.random.default_rng(1)
  draw = lambda path, leaf: draw_weights(rng, leaf.shape, scale=path[-1].key == "scale")
  return jax.tree_util.tree_map_with_path(draw, shapes)
