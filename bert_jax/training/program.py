"""The program that a training step is: jitted, with its shardings. The loop runs it; `plan` compiles it for machines
that are not there.
"""

from typing import Any, NamedTuple

import jax
import ml_collections
import optax
from jax.sharding import Mesh

from bert_jax.training import optimizer as optimizers
from bert_jax.training import sharding, train_state
from bert_jax.training.train_step import Task, make_train_step


class Program(NamedTuple):
  """A training step for one mesh.

  Attributes:
    train_step: jitted (state, batch) -> (state, StepReport); the state that goes in is given up.
    state: the abstract state, as ShapeDtypeStructs with shardings.
    optimizer: whose moments are in the state.
  """

  train_step: Any
  state: Any
  optimizer: optax.GradientTransformation


def make_program(task: Task, config: ml_collections.ConfigDict, mesh: Mesh) -> Program:
  """Puts the step of a task together. Raises UserError for a schedule or a mesh that does not fit."""
  schedule, optimizer = optimizers.make_schedule(config), optimizers.make_optimizer(config)
  state = train_state.abstract(task.init, optimizer, mesh, config.seed)
  sharding.check_sharded(mesh, state)
  shardings = jax.tree.map(lambda leaf: leaf.sharding, state)
  train_step = jax.jit(
    make_train_step(
      task,
      optimizer,
      schedule,
      seed=config.seed,
      microbatches=config.optimizer.microbatches,
      mesh=mesh,
      frozen_layers=config.optimizer.frozen_layers,
    ),
    in_shardings=(shardings, sharding.batch_sharding(mesh)),
    out_shardings=(shardings, sharding.replicated(mesh)),
    donate_argnums=0,
  )
  return Program(train_step, state, optimizer)
