"""The only training loop: fetch rows, take a step, report, evaluate, save.

It knows nothing of BERT. What is learned comes as a Task, the data as a
function of the position, evaluation as a function of the parameters. The
position in the data is counted here, in 64 bits, and saved with the state;
everything else that a resume needs is in the state itself.
"""

import time
from typing import Any, Callable, Iterator, NamedTuple

import jax
import ml_collections
import numpy as np
from jax.sharding import Mesh

from bert_jax import config as configs
from bert_jax.errors import UserError
from bert_jax.training import optimizer as optimizers
from bert_jax.training import sharding, train_state
from bert_jax.training.checkpoint import Checkpoints
from bert_jax.training.metrics import MetricsWriter, Progress
from bert_jax.training.train_step import StepReport, Task, add_sums, divide, make_train_step


class Run(NamedTuple):
  """Everything that a training run is made of.

  Attributes:
    task: what is learned.
    config: the resolved config.
    mesh: the devices.
    batches: position of the first example -> endless host batches from there on.
    evaluate: params -> metrics of the validation split.
    identity: what the order of the data depends on, e.g. corpus_id, rows, seed; saved with every
      checkpoint, and a resume with another one is refused.
    start: (fresh state, abstract state) -> state that a new run begins from; None: the fresh one.
    flops_per_token: for MFU, or None where the chip's peak is unknown.
    peak_flops: of all devices together, in FLOP/s, or None.
  """

  task: Task
  config: ml_collections.ConfigDict
  mesh: Mesh
  batches: Callable[[int], Iterator[dict[str, np.ndarray]]]
  evaluate: Callable[[Any], dict[str, float]]
  identity: dict[str, Any]
  start: Callable[[Any, Any], Any] | None = None
  flops_per_token: float | None = None
  peak_flops: float | None = None


def train(run: Run, checkpoints: Checkpoints, writer: MetricsWriter, progress: Progress) -> tuple[Any, dict[str, float]]:
  """Trains to the last step, from the newest good checkpoint if there is one.

  Returns:
    The parameters and the metrics of the last evaluation.

  Raises:
    UserError: the checkpoints belong to other data; too many bad steps in a row.
  """
  config, batch_size, end = run.config, run.config.data.batch_size, configs.last_step(run.config)
  schedule = optimizers.make_schedule(config)
  optimizer = optimizers.make_optimizer(config)
  abstract = train_state.abstract(run.task.init, optimizer, run.mesh, config.seed)
  shardings = jax.tree.map(lambda leaf: leaf.sharding, abstract)
  state, position = _restore_or_start(run, optimizer, abstract, checkpoints, writer)
  train_step = jax.jit(
      make_train_step(run.task, optimizer, schedule, seed=config.seed, microbatches=config.optimizer.microbatches),
      in_shardings=(shardings, sharding.batch_sharding(run.mesh)),
      out_shardings=(shardings, sharding.replicated(run.mesh)),
      donate_argnums=0,
  )
  first = int(state.step)
  progress.begin(first)
  stream = run.batches(position)
  window = Window(run, writer)
  in_flight: StepReport | None = None
  evaluation, evaluated_at = {}, -1
  try:
    with jax.transfer_guard("disallow"):
      for step in range(first + 1, end + 1):
        waiting = time.perf_counter()
        batch = sharding.put_batch(next(stream), run.mesh)
        window.waited(time.perf_counter() - waiting)
        state, report = train_step(state, batch)
        if step == first + 1:
          window.restart_clock()  # that call compiled
        position += batch_size
        # Reports are read one step late, so that the device never waits for the host.
        if in_flight is not None:
          window.add(step - 1, in_flight)
        in_flight = report

        last = step == end
        if step % config.log_every_steps == 0 or last:
          window.add(step, in_flight)
          in_flight = None
          metrics = window.close()
          writer.scalars(step, metrics)
          progress.update(step, metrics)
        if step % config.eval_every_steps == 0 or last:
          with window.paused():
            evaluation, evaluated_at = _evaluate(run, state.params, step, writer, progress), step
        if last or checkpoints.should_save(step):
          with window.paused():
            known = evaluation if evaluated_at == step else {}
            checkpoints.save(step, state, host=run.identity | {"position": position}, metrics=known)
            writer.event("save", step=step)
            writer.flush()
    checkpoints.wait()
  finally:
    getattr(stream, "close", lambda: None)()
  if evaluated_at < 0:  # nothing was left to train
    evaluation = _evaluate(run, state.params, first, writer, progress)
  return state.params, evaluation


def _restore_or_start(run: Run, optimizer, abstract, checkpoints, writer):
  """(state, position) of the newest good checkpoint, or of step 0."""
  restored = checkpoints.restore_latest(abstract, on_event=writer.event)
  if restored is not None:
    for key, now in run.identity.items():
      before = restored.host.get(key)
      if before != now:
        raise UserError(
            f"the checkpoints of this run were made with {key}={before!r}, now it is {now!r}: the data would go on elsewhere; "
            "give back what it had, or start another run with a new --workdir and --config.init_from"
        )
    writer.event("restore", step=restored.step, position=restored.host["position"])
    return restored.state, int(restored.host["position"])

  state = train_state.fresh(run.task.init, optimizer, abstract, run.config.seed)
  if run.start is not None:
    state = run.start(state, abstract)
  if int(state.step) >= configs.last_step(run.config):
    raise UserError(f"init_optimizer starts at step {int(state.step)}, where this run would already end; raise total_steps")
  return state, 0


def _evaluate(run: Run, params, step: int, writer: MetricsWriter, progress: Progress) -> dict[str, float]:
  metrics = {f"eval/{name}": value for name, value in run.evaluate(params).items()}
  writer.scalars(step, metrics)
  progress.evaluation(step, metrics)
  return metrics


class Window:
  """Adds up the reports between two logged lines, and tells of every void update as an event."""

  def __init__(self, run: Run, writer: MetricsWriter):
    self._run, self._writer = run, writer
    self._max_bad_steps, self._bad_in_a_row = run.config.max_bad_steps, 0
    self._clear()

  def _clear(self):
    self._sums, self._tokens, self._skipped, self._steps = {}, 0.0, 0, 0
    self._grad_norm = self._learning_rate = 0.0
    self.restart_clock()

  def restart_clock(self) -> None:
    """Forgets the time so far."""
    self._began, self._waited, self._paused = time.perf_counter(), 0.0, 0.0

  def waited(self, seconds: float) -> None:
    """Time that the device may have stood still for data."""
    self._waited += seconds

  def paused(self):
    """A context whose time does not count as training: evaluation, the blocking part of a save."""
    return _Pause(self)

  def add(self, step: int, report: StepReport) -> None:
    """Reads a step's report from the device. Raises UserError after max_bad_steps void updates in a row."""
    report = jax.device_get(report)
    self._steps += 1
    self._tokens += float(report.tokens)
    self._learning_rate = float(report.learning_rate)
    if report.skipped:
      self._skipped += 1
      self._bad_in_a_row += 1
      self._writer.event("skip", step=step, in_a_row=self._bad_in_a_row)
      if self._bad_in_a_row >= self._max_bad_steps:
        raise UserError(
            f"loss or gradients were not finite in {self._bad_in_a_row} updates in a row, the last at step {step}; every one was "
            "skipped, so the parameters are sound. Lower optimizer.learning_rate, or lengthen optimizer.warmup_steps"
        )
      return  # its sums are not finite either, and must not enter the means
    self._bad_in_a_row = 0
    self._grad_norm = float(report.grad_norm)
    self._sums = add_sums(self._sums, {name: (float(s), float(w)) for name, (s, w) in report.sums.items()})

  def close(self) -> dict[str, float]:
    """Metrics of the window, which then begins anew."""
    seconds = max(time.perf_counter() - self._began - self._paused, 1e-9)
    metrics = {f"train/{name}": value for name, value in self._run.task.metrics(divide(self._sums)).items()}
    metrics |= {
        "train/grad_norm": self._grad_norm,
        "train/skipped_steps": float(self._skipped),
        "learning_rate": self._learning_rate,
        "tokens_per_second": self._tokens / seconds,
        "step_seconds": seconds / max(self._steps, 1),
        "data_wait_fraction": self._waited / seconds,
    }
    if self._run.peak_flops and self._run.flops_per_token:
      metrics["mfu"] = self._run.flops_per_token * metrics["tokens_per_second"] / self._run.peak_flops
    self._clear()
    return metrics


class _Pause:
  def __init__(self, window: Window):
    self._window = window

  def __enter__(self):
    self._began = time.perf_counter()

  def __exit__(self, *_):
    self._window._paused += time.perf_counter() - self._began
