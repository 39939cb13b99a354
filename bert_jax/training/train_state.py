"""What a step reads and writes: parameters, optimizer state and the step. Nothing else survives a step."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh

from bert_jax.training import sharding


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


def abstract(init: Callable, optimizer: optax.GradientTransformation, mesh: Mesh, seed: int) -> TrainState:
  """The state as ShapeDtypeStructs with shardings: what a checkpoint is restored into.

  Args:
    init: (key) -> parameters.
    optimizer: whose state is kept.
    mesh: where everything will live.
    seed: of the initial parameters; decides no shape.
  """
  shapes = jax.eval_shape(lambda key: create(init(key), optimizer), jax.random.key(seed))
  shardings = sharding.state_shardings(mesh, shapes)
  return jax.tree.map(
    lambda leaf, where: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=where), shapes, shardings
  )


def fresh(init: Callable, optimizer: optax.GradientTransformation, like: TrainState, seed: int) -> TrainState:
  """The state before the first step, made where it will live; `like` is the abstract one."""
  make = jax.jit(lambda key: create(init(key), optimizer), out_shardings=jax.tree.map(lambda leaf: leaf.sharding, like))
  return make(jax.random.key(seed))
