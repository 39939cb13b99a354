"""The line on the terminal: where a run stands, and how good it is by now."""

import math
import sys
import time
from collections.abc import Callable

import tqdm

from bert_jax.errors import printable
from bert_jax.io.numbers import count, duration
from bert_jax.objectives.objective import Shown

HEADER_EVERY_LINES = 20


class Progress:
  """Where a run stands: a bar on a terminal, else one aligned line per update. Use as a context manager.

  1,200/4,000 |█████▍            | loss 6.123 mlm 12.3% nsp 56.7% 25.1k tok/s 0:03:21 left
  """

  def __init__(
    self,
    total_steps: int,
    shown: tuple[Shown, ...],
    *,
    active: bool = True,
    stream=None,
    clock: Callable[[], float] = time.monotonic,
  ):
    """Shows nothing before `begin`.

    Args:
      total_steps: the step at which the run ends.
      shown: the metrics that are shown where the run has them.
      active: False on all processes but the first: then nothing is shown.
      stream: default standard output.
      clock: seconds, for the time left.
    """
    self._total, self._clock = total_steps, clock
    self._in_training = tuple(one for one in shown if one.short)
    self._in_evaluation = tuple(one for one in shown if one.label)
    self._stream = sys.stdout if stream is None else stream
    self._active = active and self._stream is not None
    self._bar = None
    self._first: tuple[int, float] | None = None  # step and time of the first update
    self._lines = 0

  def begin(self, step: int) -> None:
    """Training starts or resumes at this step; compiling comes first."""
    if self._active and self._stream.isatty():
      self._bar = tqdm.tqdm(
        total=self._total,
        initial=step,
        file=self._stream,
        dynamic_ncols=True,
        bar_format=self._layout(step, "compiling the train step …"),
      )

  def update(self, step: int, metrics: dict[str, float]) -> None:
    """Shows the metrics of a logged step (`train/…` and `tokens_per_second`)."""
    seconds = self._seconds_left(step)
    left = "…" if seconds is None else duration(seconds)
    speed = count(metrics.get("tokens_per_second", math.nan))
    values = _values(self._in_training, metrics, "train/")
    if self._bar is not None:
      text = " ".join(f"{shown.short} {value}" for shown, value in values)
      self._bar.n = step
      self._bar.bar_format = self._layout(step, f"{text} {speed} tok/s {left} left")
      self._bar.refresh()
      return
    cells = [(self._step_width(), "step", f"{step:,}/{self._total:,}")]
    cells += [(8, shown.label, value) for shown, value in values]
    cells += [(7, "tok/s", speed), (8, "left", left)]
    if self._lines % HEADER_EVERY_LINES == 0:
      self.line("  ".join(f"{name:>{width}}" for width, name, _ in cells))
    self._lines += 1
    self.line("  ".join(f"{value:>{width}}" for width, _, value in cells))

  def evaluation(self, step: int, metrics: dict[str, float]) -> None:
    """Shows the metrics of an evaluation (`eval/…`) on a line that stays."""
    cells = [f"{f'eval at {step:,}':>{self._step_width()}}"]
    cells += [f"{shown.label} {value}" for shown, value in _values(self._in_evaluation, metrics, "eval/")]
    self.line("   ".join(cells))

  def line(self, text: str) -> None:
    """Prints a line, above the bar where there is one."""
    if not self._active:
      return
    text = printable(text)  # it may hold names out of files
    if self._bar is not None:
      self._bar.write(text, file=self._stream)
    else:
      print(text, file=self._stream, flush=True)

  def close(self) -> None:
    """Leaves the bar as it stands and goes on below it."""
    if self._bar is not None:
      self._bar.close()
      self._bar = None

  def __enter__(self) -> "Progress":
    return self

  def __exit__(self, *_) -> None:
    self.close()

  def _step_width(self) -> int:
    return max(2 * len(f"{self._total:,}") + 1, len("eval at ") + len(f"{self._total:,}"))

  def _layout(self, step: int, text: str) -> str:
    return f"{step:,}/{self._total:,} |{{bar}}| {text}"

  def _seconds_left(self, step: int) -> float | None:
    """From the mean speed since the first update, because compiling came before it; at that one not known."""
    now = self._clock()
    if self._first is None:
      self._first = (step, now)
      return None
    first_step, first = self._first
    return (now - first) / max(step - first_step, 1) * (self._total - step)


def _values(which: tuple[Shown, ...], metrics: dict[str, float], prefix: str) -> list[tuple[Shown, str]]:
  """Those that there are, as text."""
  present = [shown for shown in which if prefix + shown.name in metrics]
  return [(shown, shown.format.format(metrics[prefix + shown.name])) for shown in present]
