"""What a step reads and writes: parameters, optimizer state and the step. Nothing else survives a step."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax


class TrainState(NamedTuple):
  """State on the device.

  The position in the data is not here: it is a 64-bit integer that the host
  counts and saves beside the state.

  Attributes:
    step: int32 scalar, updates attempted so far (skipped ones included).
    params: nested dict of arrays, one subtree per layer.
    opt_state: Optax's state of the same layout.
  """

  step: jax.Array
  params: Any
  opt_state: Any


def create(params, optimizer: optax.GradientTransformation) -> TrainState:
  """The state before the first step."""
  return TrainState(jnp.zeros((), jnp.int32), params, optimizer.init(params))
