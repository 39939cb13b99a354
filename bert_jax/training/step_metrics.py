"""What happened between two logged lines: sums of the objective's metrics, void updates, and where the time went."""

import contextlib
import time
from collections.abc import Callable, Iterator

import jax

from bert_jax.cluster import stragglers
from bert_jax.objectives.objective import MetricSums, Objective, add_sums, divide
from bert_jax.training.train_step import StepReport

# What a second of a run is spent on. `step` is what the others leave.
TIMED = ("data_wait", "step", "evaluation", "checkpoint")


class NonFiniteUpdates(Exception):
  """Too many void updates in a row.

  Attributes:
    step: the last of them.
    position: in the data, just behind it.
    in_a_row: how many.
  """

  def __init__(self, step: int, position: int, in_a_row: int):
    super().__init__(f"loss or gradients were not finite in {in_a_row} updates in a row, the last at step {step}")
    self.step, self.position, self.in_a_row = step, position, in_a_row


class StepMetrics:
  """Adds up the reports of steps until it is closed, and then begins anew."""

  def __init__(
    self,
    objective: Objective,
    *,
    max_bad_steps: int,
    flops_per_token: float | None,
    peak_flops: float | None,
    on_event: Callable,
  ):
    """
    Args:
      objective: whose metrics are reported.
      max_bad_steps: void updates in a row before `add` raises BadData.
      flops_per_token, peak_flops: for MFU, or None.
      on_event: called as on_event("skip", step=…, in_a_row=…).
    """
    self._objective, self._max_bad_steps, self._on_event = objective, max_bad_steps, on_event
    self._flops_per_token, self._peak_flops = flops_per_token, peak_flops
    self.bad_in_a_row = self.skipped_in_run = 0
    self.begin()

  def begin(self) -> None:
    """Forgets everything so far, but for the void updates in a row and in the whole run."""
    self._sums: MetricSums = {}
    self._tokens, self._skipped, self._steps = 0.0, 0, 0
    self._grad_norm = self._learning_rate = 0.0
    self.restart_clock()

  def restart_clock(self) -> None:
    """Forgets the time so far."""
    self._began, self._device = time.perf_counter(), 0.0
    self._seconds = dict.fromkeys(TIMED, 0.0)

  @contextlib.contextmanager
  def spending(self, kind: str) -> Iterator[None]:
    """A context whose time counts as one of TIMED."""
    began = time.perf_counter()
    try:
      yield
    finally:
      self._seconds[kind] += time.perf_counter() - began

  def add(self, step: int, position: int, report: StepReport) -> None:
    """Reads a step's report from the device; waits for the step, if need be.

    Raises:
      NonFiniteUpdates: max_bad_steps updates in a row were void.
    """
    waiting = time.perf_counter()
    report = jax.device_get(report)
    self._device += time.perf_counter() - waiting
    self._steps += 1
    self._tokens += float(report.tokens)
    self._learning_rate = float(report.learning_rate)
    if report.skipped:
      self._skipped += 1
      self.skipped_in_run += 1
      self.bad_in_a_row += 1
      self._on_event("skip", step=step, in_a_row=self.bad_in_a_row)
      if self.bad_in_a_row >= self._max_bad_steps:
        raise NonFiniteUpdates(step, position, self.bad_in_a_row)
      return  # its sums are not finite either, and must not enter the means
    self.bad_in_a_row = 0
    self._grad_norm = float(report.grad_norm)
    self._sums = add_sums(self._sums, {name: (float(s), float(w)) for name, (s, w) in report.sums.items()})

  def close(self, step: int) -> dict[str, float]:
    """Metrics of the window, which then begins anew; `step` is the last one in it."""
    total = time.perf_counter() - self._began
    seconds = self._seconds
    seconds["step"] = max(total - sum(seconds.values()), 1e-9)
    training, steps = seconds["step"] + seconds["data_wait"], max(self._steps, 1)
    metrics = {f"train/{name}": value for name, value in self._objective.metrics(divide(self._sums)).items()}
    metrics |= {
      "train/grad_norm": self._grad_norm,
      "train/skipped_steps": float(self._skipped),
      "learning_rate": self._learning_rate,
      "tokens_per_second": self._tokens / training,
      "step_seconds": training / steps,
      "data_wait_fraction": seconds["data_wait"] / training,
      "window_steps": float(self._steps),
    }
    metrics |= {f"seconds/{kind}": spent for kind, spent in seconds.items()}
    if self._peak_flops and self._flops_per_token:
      metrics["mfu"] = self._flops_per_token * metrics["tokens_per_second"] / self._peak_flops
    hosts = stragglers.share((training - self._device) / steps)
    if hosts is not None:
      metrics |= {
        "hosts/slowest": float(hosts.process),
        "hosts/slowest_seconds": hosts.seconds,
        "hosts/median_seconds": hosts.median,
      }
      if hosts.is_slow(metrics["step_seconds"]):
        self._on_event("slow_host", step=step, **hosts._asdict())
    self.begin()
    return metrics
