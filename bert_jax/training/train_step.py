"""One update, as a pure function of state and batch; and the Task that says what is learned.

A Task is a set of pure functions. `prepare` runs on the whole global batch: it
draws masks and counts the weight of every loss term over all of it. `loss` then
divides its sums by those global weights, so microbatch gradients are only
added, and the gradient is the same for any number of microbatches or devices.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh

from bert_jax.objectives import masking
from bert_jax.training import optimizer as optimizers
from bert_jax.training.collectives import on_own_rows, whole
from bert_jax.training.train_state import TrainState

Sums = dict[str, tuple[jax.Array, jax.Array]]  # metric -> (Σ value, Σ weight); division comes last


class Task(NamedTuple):
  """What is learned, as pure functions.

  Attributes:
    init: (key) -> parameters.
    prepare: (global host batch as in batch.HOST_BATCH, row keys [B], step or None in evaluation) -> (prepared
      batch, a pytree whose arrays all have B as the first dimension; {term: global weight}; real tokens in the batch).
    loss: (params, some rows of the prepared batch, {term: global weight}, dropout keys of these rows or None) -> (loss,
      Sums). Both are sums over rows: those of all microbatches and devices are added.
    metrics: ({metric: value}) -> {metric: value}, adds what is derived, such as perplexity.
    dtype: of the matrix products, in which parameters travel between devices; None: that of the parameters.
    embed, loss_of_vectors: given where the loss compares the rows of a batch with each other, so that `loss` has to be
      given all rows of a device at once. It is then the second of the first: embed: (params, some rows of the prepared
      batch, dropout keys) -> vectors [rows, ...]; loss_of_vectors: (all rows of a device, their vectors, {term: global
      weight}) -> (loss, Sums).
  """

  init: Callable[[jax.Array], Any]
  prepare: Callable[[dict, jax.Array, jax.Array | None], tuple[Any, dict[str, jax.Array], jax.Array]]
  loss: Callable[..., tuple[jax.Array, Sums]]
  metrics: Callable[[dict[str, float]], dict[str, float]]
  dtype: Any = None
  embed: Callable[..., jax.Array] | None = None
  loss_of_vectors: Callable[..., tuple[jax.Array, Sums]] | None = None


class StepReport(NamedTuple):
  """What a step says about itself, as float32 scalars on the device.

  Attributes:
    sums: the task's Sums over the global batch.
    tokens: real tokens in the batch, padding excluded.
    grad_norm: global norm before clipping.
    learning_rate: the rate of this update.
    skipped: 1 where a non-finite loss or gradient made the update void, else 0.
  """

  sums: Sums
  tokens: jax.Array
  grad_norm: jax.Array
  learning_rate: jax.Array
  skipped: jax.Array


def prepare_rows(task: Task, seed: int, batch: dict[str, jax.Array], step: jax.Array | int | None):
  """(what Task.prepare makes of a global batch, the keys [B] of its rows); `step` None: in evaluation."""
  keys = masking.row_keys(seed, batch["epoch"], batch["index"])
  return task.prepare(batch, keys, step), keys


def make_gradients(task: Task, *, seed: int, microbatches: int, mesh: Mesh | None = None, frozen_layers: int = -1):
  """Returns gradients(params, step, batch) -> ((loss, Sums), gradients, real tokens), over the global batch.

  To be jitted by the caller; `mesh` None: on one device. `step` None: as in evaluation (see Task.prepare), but with
  dropout. `frozen_layers`: as optimizer.frozen_layers; gradients of what is frozen are zero.
  """

  used = lambda params: whole(optimizers.frozen(params, frozen_layers), mesh, task.dtype)

  def of_own_rows(params, rows, global_weights):
    """(loss and Sums, gradients) of a device's rows, one microbatch after the other."""

    def one(part):
      prepared, dropout_keys = part
      return jax.value_and_grad(
        lambda params: task.loss(used(params), prepared, global_weights, dropout_keys), has_aux=True
      )(params)

    if microbatches == 1:
      return one(rows)
    parts = jax.tree.map(lambda x: split_rows(x, microbatches), rows)
    return through_vectors(params, rows, parts, global_weights) if task.embed else _sum_over(one, parts)

  def through_vectors(params, rows, parts, global_weights):
    """The same for a loss that needs all rows at once: their vectors first, then its gradient with respect to them,
    then that of each microbatch, whose vectors are made a second time. So memory holds the activations of one
    microbatch, as in Gao et al. 2021, arXiv 2101.06983 ("GradCache"); dropout belongs to rows, and is the same both
    times."""
    vectors = join_rows(jax.lax.map(lambda part: task.embed(used(params), *part), parts))
    loss_and_sums, pull = jax.value_and_grad(
      lambda vectors: task.loss_of_vectors(rows[0], vectors, global_weights), has_aux=True
    )(vectors)

    def one(part):
      rows, pull = part
      return jax.vjp(lambda params: task.embed(used(params), *rows), params)[1](pull)[0]

    return loss_and_sums, _sum_over(one, (parts, split_rows(pull, microbatches)))

  def gradients(params, step, batch: dict[str, jax.Array]):
    (prepared, global_weights, tokens), keys = prepare_rows(task, seed, batch, step)
    rows = prepared, masking.dropout_keys(keys)
    loss_and_sums, grads = on_own_rows(mesh, of_own_rows)(params, rows, global_weights)
    return loss_and_sums, grads, tokens

  return gradients


def make_train_step(
  task: Task,
  optimizer: optax.GradientTransformation,
  schedule: Callable,
  *,
  seed: int,
  microbatches: int,
  mesh: Mesh | None = None,
  frozen_layers: int = -1,
):
  """Returns step(state, batch) -> (state, StepReport), to be jitted by the caller; `mesh` None: on one device."""
  gradients = make_gradients(task, seed=seed, microbatches=microbatches, mesh=mesh, frozen_layers=frozen_layers)

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


def make_eval_step(task: Task, *, seed: int, mesh: Mesh | None = None):
  """Returns step(params, batch) -> Sums, without dropout, to be jitted by the caller; `mesh` None: on one device."""

  def sums_of(params, prepared, global_weights):
    return task.loss(whole(params, mesh, task.dtype), prepared, global_weights, None)[1], None

  def step(params, batch: dict[str, jax.Array]) -> Sums:
    (prepared, global_weights, _), _ = prepare_rows(task, seed, batch, None)
    return on_own_rows(mesh, sums_of, training=False)(params, prepared, global_weights)[0]

  return step


def divide(sums: Sums) -> dict[str, float]:
  """Sums on the host to means; a metric without weight is left out."""
  return {name: float(total) / float(weight) for name, (total, weight) in sums.items() if weight > 0}


def add_sums(left: Sums, right: Sums) -> Sums:
  """Adds two Sums; an empty one counts as zero."""
  return {name: (left[name][0] + s, left[name][1] + w) if name in left else (s, w) for name, (s, w) in right.items()}
