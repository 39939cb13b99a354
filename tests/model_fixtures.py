"""What tests of models share: weights that hide no mistake, and programs that compile fast."""

import jax
import numpy as np
import pytest


@pytest.fixture(autouse=True)
def fast_compilation():
  """Programs here run once, on a few numbers: optimising them takes longer than it saves."""
  jax.config.update("jax_disable_most_optimizations", True)
  yield
  jax.config.update("jax_disable_most_optimizations", False)


def draw_weights(rng: np.random.Generator, shape: tuple[int, ...], *, scale: bool) -> np.ndarray:
  """float32 from N(0, 0.3), or from N(1, 0.3) for the scale of a LayerNorm.

  Initial weights, small and with scales of exactly 1, hide swapped tensors and forgotten biases (law 8).
  """
  return (float(scale) + rng.normal(0, 0.3, shape)).astype(np.float32)
