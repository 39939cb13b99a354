"""What a run tells: metrics and events as JSON lines, TensorBoard scalars, and the line on the terminal.

    WORKDIR/metrics/attempt-0000.jsonl            {"step": 100, "time": …, "train/mlm_loss": 6.1, …}
    WORKDIR/metrics/attempt-0000-part-0001.jsonl  goes on where that one has reached 256 KiB
    WORKDIR/events/attempt-0000.jsonl             {"event": "save", "time": …, "step": 100, …}
    WORKDIR/tensorboard/                          the same scalars

Every start of a run is an attempt with files of its own. Object stores have
neither append nor rename, so the lines of a part are kept in memory and the
part is written again as a whole; parts are small, so that this costs the same
in the hundredth hour as in the first. Readers merge attempts and parts, and
the last line for a step wins. Numbers that are not finite are stored as null,
since JSON has no NaN, and come back as NaN.
"""

import contextlib
import json
import math
import os
import pathlib
import re
import sys
import tempfile
import time
from typing import Any, Callable, Iterator, NamedTuple

import tqdm
from etils import epath

from bert_jax.data.pairs import PAIR_OBJECTIVES
from bert_jax.errors import UserError

PART_BYTES = 2**18
# Scalars are written this often at most, so that short steps do not wait for an object store; events at once.
WRITE_SECONDS = 5.0

_FILE = re.compile(r"attempt-(\d+)(?:-part-(\d+))?\.jsonl")


class MetricsWriter:
  """Writes the metrics and events of one attempt. Use as a context manager, or close it."""

  def __init__(self, workdir: str | os.PathLike, attempt: int, *, active: bool = True):
    """Opens an attempt; nothing is written before there is something to tell.

    Args:
      workdir: the run folder, local or gs://.
      attempt: see next_attempt.
      active: False on all processes but the first: then nothing is ever written.
    """
    self._active, self._workdir = active, epath.Path(workdir)
    self._metrics = _Lines(self._workdir / "metrics", attempt)
    self._events = _Lines(self._workdir / "events", attempt)
    self._tensorboard = _TensorBoard(self._workdir / "tensorboard", attempt)
    self._written = time.monotonic()

  def scalars(self, step: int, metrics: dict[str, float]) -> None:
    """Adds the metrics of a step. What a crash can lose is at most the last WRITE_SECONDS of them.

    Raises:
      UserError: the file cannot be written, e.g. on a full disk (so do the other methods).
    """
    if not self._active:
      return
    metrics = {name: float(value) for name, value in metrics.items()}
    self._metrics.add({"step": int(step), "time": _now()} | metrics)
    with _told_plainly(self._workdir):
      self._tensorboard.add(step, metrics)
    if time.monotonic() - self._written >= WRITE_SECONDS:
      self.flush()

  def event(self, kind: str, **fields: Any) -> None:
    """Adds an event (start, restore, save, verify, skip, rollback, preempt, finish) and writes it at once."""
    if self._active:
      self._events.add({"event": kind, "time": _now()} | fields)
      self.flush()

  def flush(self) -> None:
    """Writes what there is."""
    if self._active:
      self._metrics.flush()
      self._events.flush()
      with _told_plainly(self._workdir):
        self._tensorboard.flush()
      self._written = time.monotonic()

  def close(self) -> None:
    """Writes what there is."""
    self.flush()
    self._tensorboard.close()

  def __enter__(self) -> "MetricsWriter":
    return self

  def __exit__(self, *_) -> None:
    self.close()


def next_attempt(workdir: str | os.PathLike) -> int:
  """The number of the attempt that begins now: one more than the highest that left a file."""
  root = epath.Path(workdir)
  attempts = [attempt for folder in ("metrics", "events") for attempt, _, _ in _files(root / folder)]
  return max(attempts, default=-1) + 1


def read_metrics(workdir: str | os.PathLike) -> dict[int, dict[str, float]]:
  """All attempts merged, in the order of steps: {100: {"time": Unix seconds, "train/mlm_loss": …}, …}."""
  steps: dict[int, dict[str, float]] = {}
  for record in _read(epath.Path(workdir) / "metrics"):
    known = steps.setdefault(record.pop("step"), {})
    del record["attempt"]
    known |= {name: math.nan if value is None else value for name, value in record.items()}
  return dict(sorted(steps.items()))


def read_lines(workdir: str | os.PathLike) -> list[dict[str, Any]]:
  """The metrics as they were written, attempt by attempt: [{"attempt": 0, "step": 100, "time": …, …}, …]; None stands for NaN."""
  return list(_read(epath.Path(workdir) / "metrics"))


def read_events(workdir: str | os.PathLike) -> list[dict[str, Any]]:
  """All events in the order of attempts: [{"attempt": 0, "event": "start", "time": …, …}, …]."""
  return list(_read(epath.Path(workdir) / "events"))


def _read(folder: epath.Path) -> Iterator[dict[str, Any]]:
  for attempt, _, path in _files(folder):
    for line in path.read_text().splitlines():
      # A part is written as a whole, but a copy of a run folder may have been cut off anywhere.
      with contextlib.suppress(json.JSONDecodeError):
        yield json.loads(line) | {"attempt": attempt}


def _files(folder: epath.Path) -> list[tuple[int, int, epath.Path]]:
  """(attempt, part, path), in the order in which they were written."""
  if not folder.exists():
    return []
  matches = [(_FILE.fullmatch(path.name), path) for path in folder.iterdir()]
  return sorted((int(match[1]), int(match[2] or 0), path) for match, path in matches if match)


class _Lines:
  """JSON lines of one attempt, in parts that are written as a whole."""

  def __init__(self, folder: epath.Path, attempt: int):
    self._folder, self._attempt, self._part = folder, attempt, 0
    self._lines: list[str] = []
    self._changed = False

  def add(self, record: dict[str, Any]) -> None:
    record = {name: _json(value) for name, value in record.items()}
    self._lines.append(json.dumps(record, allow_nan=False) + "\n")
    self._changed = True

  def flush(self) -> None:
    if not self._changed:
      return
    part = f"-part-{self._part:04d}" if self._part else ""
    text = "".join(self._lines)
    _write_whole(self._folder / f"attempt-{self._attempt:04d}{part}.jsonl", text.encode())
    self._changed = False
    if len(text) >= PART_BYTES:
      self._part, self._lines = self._part + 1, []


def _json(value: Any) -> Any:
  return None if isinstance(value, float) and not math.isfinite(value) else value


def _write_whole(path: epath.Path, data: bytes) -> None:
  """Replaces a file so that a reader, or a crash, finds either the old contents or the new ones."""
  with _told_plainly(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    if _is_remote(path):
      path.write_bytes(data)  # an object appears whole or not at all
    else:
      partial = pathlib.Path(f"{path}.partial")
      partial.write_bytes(data)
      os.replace(partial, path)


@contextlib.contextmanager
def _told_plainly(path: epath.Path) -> Iterator[None]:
  """An error of the file system as a UserError."""
  try:
    yield
  except OSError as error:
    raise UserError(
        f"cannot write {path}: {error.strerror or error}; make room or mend the folder, then start the same "
        "command again: the run goes on from its newest checkpoint"
    ) from error


def _is_remote(path: epath.Path) -> bool:
  return "://" in os.fspath(path)


def _now() -> float:
  return round(time.time(), 3)


class _TensorBoard:
  """TensorBoard scalars. Its files are appended to, so those for an object store grow locally first."""

  def __init__(self, folder: epath.Path, attempt: int):
    self._folder, self._attempt, self._part = folder, attempt, 0
    self._staging = tempfile.TemporaryDirectory() if _is_remote(folder) else None
    self._file = None

  def add(self, step: int, metrics: dict[str, float]) -> None:
    tensorboardx = _import_tensorboardx()
    event = tensorboardx.proto.event_pb2.Event
    if self._file is None:
      folder = self._staging.name if self._staging else os.fspath(self._folder)
      os.makedirs(folder, exist_ok=True)
      # Not SummaryWriter, whose thread writes when it likes: the files must be whole when they are uploaded.
      self._file = tensorboardx.event_file_writer.EventsWriter(
          f"{folder}/events", f".attempt-{self._attempt:04d}-part-{self._part:04d}"
      )
      if self._attempt and not self._part:
        # A later attempt begins before the earlier one ended: TensorBoard then forgets what came after.
        restart = tensorboardx.proto.event_pb2.SessionLog(status="START")
        self._file.write_event(event(wall_time=time.time(), step=step, session_log=restart))
    summary = tensorboardx.proto.summary_pb2.Summary()
    for name, value in metrics.items():
      if math.isfinite(value):
        summary.value.add(tag=name, simple_value=value)
    self._file.write_event(event(wall_time=time.time(), step=step, summary=summary))

  def flush(self) -> None:
    if self._file is None:
      return
    self._file.flush()
    if self._staging is None:
      return
    (path,) = pathlib.Path(self._staging.name).iterdir()
    data = path.read_bytes()
    _write_whole(self._folder / path.name, data)
    if len(data) >= PART_BYTES:
      self.close()
      self._part += 1
      path.unlink()

  def close(self) -> None:
    if self._file is not None:
      self._file.close()
      self._file = None


def _import_tensorboardx() -> Any:
  """tensorboardX without PyTorch, which it would import where it is installed: 6 s, and never needed here."""
  hide = "torch" not in sys.modules
  if hide:
    sys.modules["torch"] = None  # as if it were not installed
  try:
    import tensorboardX
    import tensorboardX.event_file_writer
  finally:
    if hide:
      del sys.modules["torch"]
  return tensorboardX


class Shown(NamedTuple):
  """A metric that the terminal shows, where a run has it.

  Attributes:
    name: what follows train/ or eval/.
    label: for a column or an evaluation.
    short: for the bar, which has to fit 80 columns.
    format: of the value.
  """

  name: str
  label: str
  short: str
  format: str


SHOWN = (
    Shown("mlm_loss", "mlm loss", "loss", "{:.3f}"),
    Shown("mlm_accuracy", "mlm acc", "mlm", "{:.1%}"),
    *(Shown(f"{name}_accuracy", f"{name} acc", name, "{:.1%}") for name in PAIR_OBJECTIVES),
)
# Evaluations have a line to themselves, and show more.
SHOWN_OF_EVALUATION = SHOWN + tuple(Shown(f"{name}_majority", "majority", "majority", "{:.1%}") for name in PAIR_OBJECTIVES)
HEADER_EVERY_LINES = 20


class Progress:
  """Where a run stands: a bar on a terminal, else one aligned line per update. Use as a context manager.

      1,200/4,000 |█████▍            | loss 6.123 mlm 12.3% nsp 56.7% 25.1k tok/s 3:21 left
  """

  def __init__(
      self, total_steps: int, *, active: bool = True, stream=None, clock: Callable[[], float] = time.monotonic
  ):
    """Shows nothing before `begin`.

    Args:
      total_steps: the step at which the run ends.
      active: False on all processes but the first: then nothing is shown.
      stream: default standard output.
      clock: seconds, for the time left.
    """
    self._total, self._active, self._clock = total_steps, active, clock
    self._stream = sys.stdout if stream is None else stream
    self._bar = None
    self._first: tuple[int, float] | None = None  # step and time of the first update
    self._lines = 0

  def begin(self, step: int) -> None:
    """Training goes on from this step; compiling comes first."""
    if self._active and self._stream.isatty():
      self._bar = tqdm.tqdm(total=self._total, initial=step, file=self._stream, dynamic_ncols=True,
                            bar_format=self._layout(step, "compiling the train step …"))  # fmt: skip

  def update(self, step: int, metrics: dict[str, float]) -> None:
    """Shows the metrics of a logged step (`train/…` and `tokens_per_second`)."""
    seconds = self._seconds_left(step)
    left = "…" if seconds is None else _duration(seconds)
    speed = _thousands(metrics.get("tokens_per_second", math.nan))
    values = _values(SHOWN, metrics, "train/")
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
    cells += [f"{shown.label} {value}" for shown, value in _values(SHOWN_OF_EVALUATION, metrics, "eval/")]
    self.line("   ".join(cells))

  def line(self, text: str) -> None:
    """Prints a line, above the bar where there is one."""
    if not self._active:
      return
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


def _thousands(number: float) -> str:
  """987, 25.1k, 1.53M."""
  for size, unit, digits in ((1e6, "M", 2), (1e3, "k", 1)):
    if number >= size:
      return f"{number / size:.{digits}f}{unit}"
  return f"{number:.0f}"


def _duration(seconds: float) -> str:
  """3:21 or 1:03:21."""
  minutes, seconds = divmod(round(seconds), 60)
  hours, minutes = divmod(minutes, 60)
  return f"{hours}:{minutes:02d}:{seconds:02d}" if hours else f"{minutes}:{seconds:02d}"
