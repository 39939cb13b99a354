"""One update, as a pure function of state and batch; and the Objective that says what is learned.

An Objective is a set of pure functions. `prepare` runs on the whole global batch: it
draws masks and counts the weight of every loss term over all of it. `loss` then
divides its sums by those global weights, so microbatch gradients are only
added, and the gradient is the same for any number of microbatches or devices.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import ml_collections
import optax
from jax.sharding import Mesh

from bert_jax.batch import Stream, fold_in_rows, row_keys
from bert_jax.objectives.objective import MetricSums, Objective
from bert_jax.training import optimizer as optimizers
from bert_jax.training import sharding, train_state
from bert_jax.training.collectives import gather_params, shard_rows
from bert_jax.training.train_state import TrainState


class StepReport(NamedTuple):
  """What a step says about itself, as float32 scalars on the device.

  Attributes:
    sums: the objective's MetricSums over the global batch.
    tokens: real tokens in the batch, padding excluded.
    grad_norm: global norm before clipping.
    learning_rate: the rate of this update.
    skipped: 1 where a non-finite loss or gradient made the update void, else 0.
  """

  sums: MetricSums
  tokens: jax.Array
  grad_norm: jax.Array
  learning_rate: jax.Array
  skipped: jax.Array


def prepare_rows(objective: Objective, seed: int, batch: dict[str, jax.Array], step: jax.Array | int | None):
  """(what Objective.prepare makes of a global batch, the keys [B] of its rows); `step` None: in evaluation."""
  keys = row_keys(seed, batch["epoch"], batch["index"])
  return objective.prepare(batch, keys, step), keys


def make_gradients(
  objective: Objective, *, seed: int, microbatches: int, mesh: Mesh | None = None, frozen_layers: int = -1
):
  """Returns gradients(params, step, batch) -> ((loss, MetricSums), gradients, real tokens), over the global batch.

  To be jitted by the caller; `mesh` None: on one device. `step` None: as in evaluation (see Objective.prepare), but
  with dropout. `frozen_layers`: as optimizer.frozen_layers; gradients of what is frozen are zero.
  """

  used = lambda params: gather_params(optimizers.stop_gradient_below(params, frozen_layers), mesh, objective.dtype)

  def part_loss(params, prepared, dropout_keys, global_weights):
    return objective.loss(used(params), prepared, global_weights, dropout_keys)

  part_gradients = jax.value_and_grad(part_loss, has_aux=True)

  def of_own_rows(params, rows, global_weights):
    """(loss and MetricSums, gradients) of a device's rows, one microbatch after the other."""
    if microbatches == 1:
      return part_gradients(params, *rows, global_weights)
    parts = jax.tree.map(lambda x: split_rows(x, microbatches), rows)
    if objective.embed:
      return through_vectors(params, rows, parts, global_weights)
    return _sum_over(lambda part: part_gradients(params, *part, global_weights), parts)

  def through_vectors(params, rows, parts, global_weights):
    """The same for a loss that needs all rows at once: their vectors first, then its gradient with respect to them,
    then that of each microbatch, whose vectors are made a second time. So memory holds the activations of one
    microbatch, as in Gao et al. 2021, arXiv 2101.06983 ("GradCache"); dropout belongs to rows, and is the same both
    times."""
    embed, loss_of_vectors = objective.embed, objective.loss_of_vectors
    assert embed and loss_of_vectors
    vectors = join_rows(jax.lax.map(lambda part: embed(used(params), *part), parts))
    loss_and_sums, pull = jax.value_and_grad(
      lambda vectors: loss_of_vectors(rows[0], vectors, global_weights), has_aux=True
    )(vectors)

    def one(part):
      rows, pull = part
      return jax.vjp(lambda params: embed(used(params), *rows), params)[1](pull)[0]

    return loss_and_sums, _sum_over(one, (parts, split_rows(pull, microbatches)))

  def gradients(params, step, batch: dict[str, jax.Array]):
    (prepared, global_weights, tokens), keys = prepare_rows(objective, seed, batch, step)
    rows = prepared, fold_in_rows(keys, Stream.DROPOUT)
    loss_and_sums, grads = shard_rows(mesh, of_own_rows)(params, rows, global_weights)
    return loss_and_sums, grads, tokens

  return gradients


def make_train_step(
  objective: Objective,
  optimizer: optax.GradientTransformation,
  schedule: Callable,
  *,
  seed: int,
  microbatches: int,
  mesh: Mesh | None = None,
  frozen_layers: int = -1,
):
  """Returns step(state, batch) -> (state, StepReport), to be jitted by the caller; `mesh` None: on one device."""
  gradients = make_gradients(objective, seed=seed, microbatches=microbatches, mesh=mesh, frozen_layers=frozen_layers)

  def step(state: TrainState, batch: dict[str, jax.Array]) -> tuple[TrainState, StepReport]:
    (loss, sums), grads, tokens = gradients(state.params, state.step, batch)
    grad_norm = optax.global_norm(grads)
    finite = jnp.isfinite(loss) & jnp.isfinite(grad_norm)
    learning_rate = schedule(state.step)
    # A void update leaves parameters and moments as they were. Not a product: 0 · NaN is NaN. Not `where`: on CPU
    # it costs another pass over the whole state (docs/performance.md).
    params, opt_state = jax.lax.cond(
      finite,
      lambda: optimizers.apply(optimizer, grads, grad_norm, state.opt_state, state.params, learning_rate),
      lambda: (state.params, state.opt_state),
    )
    report = StepReport(sums, tokens, grad_norm, learning_rate, 1.0 - finite.astype(jnp.float32))
    return TrainState(state.step + 1, params, opt_state), report

  return step


def _sum_over(fn: Callable, parts: Any) -> Any:
  """The sum of fn(part), one after the other."""
  nothing = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), jax.eval_shape(fn, jax.tree.map(lambda x: x[0], parts)))
  return jax.lax.scan(lambda total, part: (jax.tree.map(jnp.add, total, fn(part)), None), nothing, parts)[0]


def split_rows(array: jax.Array, parts: int) -> jax.Array:
  """[B, …] -> [parts, B / parts, …], striped: row r goes to part r mod parts.

  Stripes are the same for any number of devices that split the batch, where contiguous parts would not be.
  """
  return array.reshape(array.shape[0] // parts, parts, *array.shape[1:]).swapaxes(0, 1)


def join_rows(array: jax.Array) -> jax.Array:
  """[parts, B / parts, …] -> [B, …], the inverse of `split_rows`."""
  return array.swapaxes(0, 1).reshape(-1, *array.shape[2:])


def make_eval_step(objective: Objective, *, seed: int, mesh: Mesh | None = None):
  """Returns step(params, batch) -> MetricSums, without dropout, to be jitted by the caller; `mesh` None: on one
  device.
  """

  def sums_of(params, prepared, global_weights):
    return objective.loss(gather_params(params, mesh, objective.dtype), prepared, global_weights, None)[1], None

  def step(params, batch: dict[str, jax.Array]) -> MetricSums:
    (prepared, global_weights, _), _ = prepare_rows(objective, seed, batch, None)
    return shard_rows(mesh, sums_of, training=False)(params, prepared, global_weights)[0]

  return step


class TrainProgram(NamedTuple):
  """A training step for one mesh.

  Attributes:
    train_step: jitted (state, batch) -> (state, StepReport); the state that goes in is given up.
    state: the abstract state, as ShapeDtypeStructs with shardings.
    optimizer: whose moments are in the state.
  """

  train_step: Any
  state: Any
  optimizer: optax.GradientTransformation


def make_program(objective: Objective, config: ml_collections.ConfigDict, mesh: Mesh) -> TrainProgram:
  """Puts the step of an objective together. Raises UserError for a schedule or a mesh that does not fit."""
  schedule, optimizer = optimizers.make_schedule(config), optimizers.make_optimizer(config)
  state = train_state.abstract(objective.init, optimizer, mesh, config.seed)
  sharding.check_sharded(mesh, state)
  shardings = jax.tree.map(lambda leaf: leaf.sharding, state)
  train_step = jax.jit(
    make_train_step(
      objective,
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
  return TrainProgram(train_step, state, optimizer)
