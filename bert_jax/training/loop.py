"""The only training loop: fetch rows, take a step, report, evaluate, save; and what to do when something goes wrong.

It knows nothing of BERT. What is learned comes as an Objective, the data as a
function of the position, evaluation as a function of the parameters. The
position in the data is counted here, in 64 bits, and saved with the state;
everything else that a resume needs is in the state itself.

Three things may come between two steps. The processes are told to stop
(preemption.py): the step is saved, and Preempted raised. Too many updates in a
row were void: the run goes back to its newest good checkpoint and on past the
bad data (data_skips.py). Nothing happens at all: the watchdog ends the process.
"""

import math
import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import ml_collections
import numpy as np
from jax.sharding import Mesh

from bert_jax.cluster import chips
from bert_jax.cluster.preemption import Preempted, Preemption
from bert_jax.cluster.watchdog import Watchdog
from bert_jax.errors import NotFiniteError, UserError
from bert_jax.objectives.objective import Objective
from bert_jax.training import sharding, train_state
from bert_jax.training.checkpoints.manager import Checkpoints
from bert_jax.training.data_skips import DataSkip, DataSkips
from bert_jax.training.metrics import MetricsWriter
from bert_jax.training.model_selection import EarlyStopping, ModelSelection
from bert_jax.training.optimizer import last_step
from bert_jax.training.profile import Profile
from bert_jax.training.progress import Progress
from bert_jax.training.step_metrics import NonFiniteUpdates, StepMetrics
from bert_jax.training.train_step import StepReport, make_program


class Training(NamedTuple):
  """Everything that a training run is made of.

  Attributes:
    objective: what is learned.
    config: the resolved config.
    mesh: the devices.
    batches: position of the first example -> endless host batches from there on.
    evaluate: (params, after_batch) -> metrics of the validation split, or None where after_batch() said to stop.
    identity: what the order of the data depends on, e.g. corpus_id, rows, seed; saved with every
      checkpoint, and a resume with another one is refused.
    selection: what makes an evaluation better than another, and when a run ends early.
    start: (fresh state, abstract state) -> (state that a new run begins from, position in the data); None: the fresh
      one, at the beginning.
    flops_per_token: of forward and backward pass, for MFU, or None.
  """

  objective: Objective
  config: ml_collections.ConfigDict
  mesh: Mesh
  batches: Callable[[int], Iterator[dict[str, np.ndarray]]]
  evaluate: Callable[[Any, Callable[[], bool]], dict[str, float] | None]
  identity: dict[str, Any]
  selection: ModelSelection
  start: Callable[[Any, Any], tuple[Any, int]] | None = None
  flops_per_token: float | None = None


class Services(NamedTuple):
  """What stands around a run: where it saves and tells, and who watches it.

  Attributes:
    checkpoints: saves and restores.
    writer: metrics and events.
    progress: the terminal.
    watchdog: told of everything that gets done.
    preemption: asked after every step and every batch of an evaluation.
    data_skips: where the run has left out data.
    profile: which steps are traced.
  """

  checkpoints: Checkpoints
  writer: MetricsWriter
  progress: Progress
  watchdog: Watchdog
  preemption: Preemption
  data_skips: DataSkips
  profile: Profile


def train(run: Training, services: Services) -> tuple[Any, dict[str, float]]:
  """Trains to the last step, from the newest good checkpoint if there is one.

  Returns:
    The parameters and the metrics of the last evaluation.

  Raises:
    Preempted: the processes were told to stop; the step is saved.
    NotFiniteError: the last step is saved, but what was trained is no result.
    UserError: the checkpoints belong to other data; the run went back to one checkpoint too often.
  """
  trainer = _Trainer(run, services)
  try:
    with jax.transfer_guard("disallow"):
      trainer.catch_up()
      while not trainer.is_done:
        try:
          trainer.take_step()
          trainer.log()
          trainer.evaluate()
          trainer.save()
          trainer.jump()
        except NonFiniteUpdates as bad:
          trainer.roll_back(bad)
    services.checkpoints.wait()
    if trainer.evaluation is None:  # nothing was left to train
      trainer.evaluate(due=True)
    if trainer.evaluation is None:
      raise Preempted(trainer.step)
  except Preempted as stop:
    services.writer.event("preempt", step=stop.step)
    raise
  finally:
    trainer.close()
  services.writer.event("finish", step=trainer.step, **({"stopped_early": True} if trainer.step < trainer.end else {}))
  trainer.check_result(trainer.evaluation)
  return trainer.state.params, trainer.evaluation


class _Trainer:
  """The state of the loop between two steps; every method is one of its stations."""

  def __init__(self, run: Training, services: Services):
    began = time.perf_counter()
    self._run, self._services, self._began = run, services, began
    config, self._stopping, self._max_rollbacks = run.config, False, run.config.max_rollbacks
    self.end = last_step(config)
    self._program = make_program(run.objective, config, run.mesh)
    self._window = StepMetrics(
      run.objective,
      max_bad_steps=config.max_bad_steps,
      flops_per_token=run.flops_per_token,
      peak_flops=chips.peak_flops_of(run.mesh.devices.flat),
      on_event=services.writer.event,
    )
    self._early = EarlyStopping(run.selection)
    self.evaluation: dict[str, float] | None = None  # of this step
    self._owes_evaluation = False
    self._in_flight: tuple[int, int, StepReport] | None = (
      None  # read one step late, so that the device never waits for the host
    )
    self._stream: Iterator = iter(())
    self.state: train_state.TrainState
    self.step: int
    self.position: int
    self._began_at: int  # the step of a new run's first state, which is that of another run with init_optimizer
    self._go_on_from(*self._restore_or_start())
    sharding.check_sharded(run.mesh, self.state)
    self._first, self._stopping = self.step, services.preemption.poll()
    services.progress.begin(self.step)

  @property
  def is_done(self) -> bool:
    """Whether this is the last step."""
    return self.step >= self.end or self._early.is_over

  def catch_up(self) -> None:
    """The evaluation that was due when the processes were told to stop: what it is good for must not depend on when
    that was.
    """
    if self._owes_evaluation:
      self.evaluate(due=True)
    if self._owes_evaluation and self.evaluation is not None:
      self._services.checkpoints.add_metrics(self.step, self.evaluation)

  def take_step(self) -> None:
    """Fetches the next rows and trains on them."""
    if self._stopping:  # noticed while the run was starting
      raise Preempted(self.step)
    services, first = self._services, self.step == self._first
    with self._window.spending("data_wait"):
      batch = sharding.put_batch(next(self._stream), self._run.mesh)
    with services.profile.step(self.step + 1):
      self.state, report = self._program.train_step(self.state, batch)
    self.step, self.position = self.step + 1, self.position + self._run.config.data.batch_size
    self.evaluation = None
    previous, self._in_flight = self._in_flight, (self.step, self.position, report)
    if first:
      self._window.restart_clock()  # that call compiled
      jax.block_until_ready(report)
      services.writer.event("first_step", step=self.step, seconds=round(time.perf_counter() - self._began, 3))
      self._first = -1
    elif previous is not None:
      self._window.add(*previous)
    services.profile.after(self.step, report)
    services.watchdog.beat()
    self._stopping = services.preemption.poll()

  def log(self) -> None:
    """Every log_every_steps, and at the end: a line of metrics."""
    if self.step % self._run.config.log_every_steps == 0 or self.is_done:
      self._log_window()

  def evaluate(self, due: bool = False) -> None:
    """Every eval_every_steps, and at the end: the validation split."""
    due = due or self._evaluation_is_due
    if due and not self._stopping:
      with self._window.spending("evaluation"):
        found = self._run.evaluate(self.state.params, self._after_batch)
      if found is not None:
        self.evaluation = {f"eval/{name}": value for name, value in found.items()}
        self._early.add(self.evaluation)
        if (
          self._early.is_over and self._in_flight is not None
        ):  # this turned out to be the last step, and it is not logged yet
          self._log_window()
        self._services.writer.scalars(self.step, self.evaluation)
        self._services.progress.evaluation(self.step, self.evaluation)
        if self._early.is_over and self.step < self.end:
          selection = self._run.selection
          self._services.progress.line(
            f"{selection.metric} was not better in {selection.patience} evaluations: the run ends here, "
            f"{self.end - self.step:,} steps early"
          )

  def _log_window(self) -> None:
    self._read_reports()
    metrics = self._window.close(self.step)
    self._services.writer.scalars(self.step, metrics)
    self._services.progress.update(self.step, metrics)

  @property
  def _evaluation_is_due(self) -> bool:
    return self.step % self._run.config.eval_every_steps == 0 or self.is_done

  def save(self) -> None:
    """Every checkpoint.every_steps, at the end, and when the processes are told to stop.

    Raises Preempted in the last case.
    """
    checkpoints, writer = self._services.checkpoints, self._services.writer
    if self._stopping or self.is_done or checkpoints.should_save(self.step):
      self._read_reports()  # what they say of void updates is saved, too
      began = time.perf_counter()
      with self._window.spending("checkpoint"):
        host = self._run.identity | {"position": self.position, "bad_in_a_row": self._window.bad_in_a_row}
        host |= {"skipped_updates": self._window.skipped_in_run, "began_at_step": self._began_at}
        host |= self._early.host_values() | {
          "owes_evaluation": self._stopping and self.evaluation is None and self._evaluation_is_due
        }
        saved = checkpoints.save(self.step, self.state, host=host, metrics=self.evaluation or {})
      self._services.watchdog.beat()
      if saved:
        writer.event("save", step=self.step, seconds=round(time.perf_counter() - began, 3))
    if self._stopping:
      checkpoints.wait()
      raise Preempted(self.step)

  def jump(self) -> None:
    """Leaves out data that the run has left out here before."""
    to = self._services.data_skips.after(self.step, self.position)
    if to is not None:
      self._services.writer.event("jump", step=self.step, position=self.position, to=to)
      self._read_reports()
      self._window.bad_in_a_row = 0
      self._fetch_from(to)

  def roll_back(self, bad: NonFiniteUpdates) -> None:
    """Goes back to the newest good checkpoint, and on behind the data that made `bad.in_a_row` updates void."""
    self._in_flight = None
    state, step, position, _ = self._restore_or_start(is_rollback=True)
    skips, limit = self._services.data_skips, self._max_rollbacks
    if skips.from_step(step) >= limit:
      raise UserError(
        f"{bad}, and the run has gone back to step {step} {limit} times already (max_rollbacks), past other data each "
        "time: it is not the data. Every void update was skipped, so the checkpoints are sound. Lower "
        "optimizer.learning_rate, or lengthen optimizer.warmup_steps"
      )
    skips.record(DataSkip(step, position, bad.position), write=jax.process_index() == 0)
    self._services.writer.event("rollback", step=step, from_step=bad.step, position=position, to=bad.position)
    self._services.progress.line(
      f"{bad}; back to step {step}, and on with other data (row {bad.position:,} instead of {position:,})"
    )
    self._window.begin()
    self._go_on_from(state, step, bad.position, 0)
    self._services.watchdog.beat()

  def check_result(self, evaluation: dict[str, float]) -> None:
    """Raises NotFiniteError where the last evaluation is not finite, or most of the updates were void."""
    bad = [name for name, value in evaluation.items() if not math.isfinite(value)]
    advice = "Train again in another --workdir, with a lower optimizer.learning_rate or a longer optimizer.warmup_steps"
    if bad:
      raise NotFiniteError(
        f"the run has ended at step {self.step:,}, and {bad[0]} of its last evaluation is {evaluation[bad[0]]}: it has "
        f"no result. {advice}"
      )
    skipped = self._window.skipped_in_run
    if 2 * skipped > self.step - self._began_at:
      raise NotFiniteError(
        f"the run has ended at step {self.step:,}, but {skipped:,} of its updates were skipped, because loss or "
        f"gradients were not finite: what is left is hardly trained. {advice}"
      )

  def close(self) -> None:
    """Ends what runs beside the loop."""
    self._services.profile.close()
    getattr(self._stream, "close", lambda: None)()

  def _go_on_from(self, state, step: int, position: int, bad_in_a_row: int) -> None:
    to = self._services.data_skips.after(step, position)
    if to is not None:
      self._services.writer.event("jump", step=step, position=position, to=to)
      position, bad_in_a_row = to, 0
    self.state, self.step = state, step
    self._window.bad_in_a_row = bad_in_a_row
    self._fetch_from(position)

  def _fetch_from(self, position: int) -> None:
    getattr(self._stream, "close", lambda: None)()
    self.position, self._stream = position, self._run.batches(position)

  def _read_reports(self) -> None:
    pending, self._in_flight = self._in_flight, None
    if pending is not None:
      self._window.add(*pending)

  def _after_batch(self) -> bool:
    """Between two batches of an evaluation: whether to stop it."""
    self._services.watchdog.beat()
    self._stopping = self._services.preemption.poll()
    return self._stopping

  def _restore_or_start(self, *, is_rollback: bool = False):
    """(state, step, position, void updates in a row) of the newest good checkpoint, or of the beginning."""
    began, run, writer = time.perf_counter(), self._run, self._services.writer
    with jax.transfer_guard("allow"):
      restored = self._services.checkpoints.restore_latest(self._program.state)
      self._window.skipped_in_run = int(restored.host.get("skipped_updates", 0)) if restored is not None else 0
      if restored is None:
        state = train_state.fresh(run.objective.init, self._program.optimizer, self._program.state, run.config.seed)
        state, position = run.start(state, self._program.state) if run.start is not None else (state, 0)
        step = self._began_at = int(state.step)
        if step >= self.end:
          raise UserError(f"init_optimizer starts at step {step}, where this run would already end; raise total_steps")
        return state, step, position, 0
    for key, now in run.identity.items():
      before = restored.host.get(key)
      if before != now:
        raise UserError(
          f"the checkpoints of this run were made with {key}={before!r}, now it is {now!r}: the data would go on "
          "elsewhere; give back what it had, or start another run with a new --workdir and --config.init_from"
        )
    position, self._began_at = int(restored.host["position"]), int(restored.host.get("began_at_step", 0))
    self._early.restore(restored.host)
    self._owes_evaluation = restored.host.get("owes_evaluation", False)
    self._services.progress.line(f"going on from step {restored.step:,}")
    if not is_rollback:  # which is an event of its own
      writer.event("restore", step=restored.step, position=position, seconds=round(time.perf_counter() - began, 3))
    return restored.state, restored.step, position, int(restored.host.get("bad_in_a_row", 0))
