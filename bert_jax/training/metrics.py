"""What a run tells in its folder: metrics and events as JSON lines, and TensorBoard scalars.

    WORKDIR/metrics/attempt-0000.jsonl            {"step": 100, "time": …, "train/loss": 6.1, …}
    WORKDIR/metrics/attempt-0000-part-0001.jsonl  continues where that one has reached 256 KiB
    WORKDIR/events/attempt-0000.jsonl             {"event": "save", "time": …, "step": 100, …}
    WORKDIR/tensorboard/                          the same scalars

Every start of a run is an attempt with files of its own. Object stores have
neither append nor rename, so the lines of a part are kept in memory and the
part is written again as a whole; parts are small, so that this costs the same
in the hundredth hour as in the first. Readers merge attempts and parts, and
the last line for a step wins. Numbers that are not finite are stored as null,
since JSON has no NaN, and come back as NaN.

All of this only tells. What cannot be written is kept for the next time, and said; what cannot be read is left out,
counted and said. Neither ends a run.
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
from collections.abc import Callable, Iterator
from typing import Any

from etils import epath

from bert_jax.errors import StorageError, UserError, print_at_once
from bert_jax.io import storage
from bert_jax.io.lazy_imports import without
from bert_jax.io.plain_files import open_plain

PART_BYTES = 2**18
_MAX_LINE_BYTES = 2**20  # that are read at once
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
    self._active, self._workdir, self._attempt = active, epath.Path(workdir), attempt
    self._metrics = _Lines(self._workdir / "metrics", attempt)
    self._events = _Lines(self._workdir / "events", attempt)
    self._tensorboard = _TensorBoard(self._workdir / "tensorboard", attempt)
    self._written = time.monotonic()
    self._failing: set[str] = set()  # what could not be written the last time

  def scalars(self, step: int, metrics: dict[str, float]) -> None:
    """Adds the metrics of a step. What a crash can lose is at most the last WRITE_SECONDS of them.

    Raises:
      UserError: another process has taken the run over (so do the other methods).
    """
    if not self._active:
      return
    metrics = {name: float(value) for name, value in metrics.items()}
    self._metrics.add({"step": int(step), "time": _now()} | metrics)
    self._try("tensorboard", lambda: self._tensorboard.add(step, metrics))
    if time.monotonic() - self._written >= WRITE_SECONDS:
      self.flush()

  def event(self, kind: str, **fields: Any) -> None:
    """Adds an event (start, restore, save, verify, skip, rollback, preempt, finish) and writes it at once."""
    if self._active:
      self._events.add({"event": kind, "time": _now()} | fields)
      self.flush()

  def flush(self) -> None:
    """Writes what there is. Raises UserError where another process has taken the run over."""
    if self._active:
      self._check_newest()
      self._try("metrics", self._metrics.flush)
      self._try("events", self._events.flush)
      self._try("tensorboard", self._tensorboard.flush)
      self._written = time.monotonic()

  def _try(self, what: str, write: Callable[[], None]) -> None:
    """Training goes on where a record of it cannot be written: that is said, and said again after it had worked."""
    try:
      write()
      self._failing.discard(what)
    except Exception as error:
      if what not in self._failing:
        self._failing.add(what)
        said = error.strerror if isinstance(error, OSError) and error.strerror else str(error) or type(error).__name__
        print_at_once(
          f"note: {self._workdir / what} cannot be written ({said}); training goes on, and it is tried again"
        )

  def _check_newest(self) -> None:
    """An object store has no locks: there the attempt that was started last goes on, and an older one ends when it
    sees it.
    """
    if storage.is_remote(self._workdir):
      newer = self._workdir / "events" / f"attempt-{self._attempt + 1:04d}.jsonl"
      taken_over = False
      with contextlib.suppress(OSError), storage.failures(newer):  # a store that does not answer has not said so
        taken_over = newer.exists()
      if taken_over:
        self._active = False
        raise UserError(
          f"another process has begun to train in {self._workdir} ({newer.name} is there), and resumed it; this "
          "one ends. Start one process only, or give each its own --workdir"
        )

  def close(self) -> None:
    """Writes what there is."""
    self.flush()
    self._try("tensorboard", self._tensorboard.close)

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
  """All attempts merged, in the order of steps: {100: {"time": Unix seconds, "train/loss": …}, …}."""
  steps: dict[int, dict[str, float]] = {}
  for record in _read(epath.Path(workdir) / "metrics"):
    known = steps.setdefault(record.pop("step"), {})
    del record["attempt"]
    known |= {name: math.nan if value is None else value for name, value in record.items()}
  return dict(sorted(steps.items()))


def read_lines(workdir: str | os.PathLike) -> Iterator[dict[str, Any]]:
  """The metrics as they were written, attempt by attempt: {"attempt": 0, "step": 100, "time": …, …}, …; None stands for
  NaN. One after the other, for there may be millions.
  """
  return _read(epath.Path(workdir) / "metrics")


def read_events(workdir: str | os.PathLike) -> list[dict[str, Any]]:
  """All events in the order of attempts: [{"attempt": 0, "event": "start", "time": …, …}, …]."""
  return list(_read(epath.Path(workdir) / "events"))


def _read(folder: epath.Path) -> Iterator[dict[str, Any]]:
  """The records of a folder in order; what cannot be read is left out, counted, and said once."""
  is_sound = _is_metric if folder.name == "metrics" else _is_event
  lost, first = 0, ""
  try:
    files = _files(folder)
  except (StorageError, UserError) as error:
    files, lost, first = [], 1, str(error)
  for attempt, _, path in files:
    number = 0
    try:
      with open_plain(path) as file:
        while line := file.readline(_MAX_LINE_BYTES):
          number += 1
          record = _parse(line)
          if isinstance(record, dict) and is_sound(record):
            yield record | {"attempt": attempt}
          elif line.strip():
            lost, first = lost + 1, first or f"{path}:{number}"
    except (OSError, UserError, StorageError) as error:  # it cannot be read, or is no file
      lost, first = lost + 1, first or f"{path}:{number + 1} ({error})"
  if lost and str(folder) not in _told:
    _told.add(str(folder))
    print_at_once(f"note: {lost:,} lines of {folder} cannot be read and are left out; the first is {first}")


_told: set[str] = set()  # folders whose unreadable lines were mentioned
# Events that say at which step something was.
_AT_A_STEP = ("restore", "first_step", "save", "rollback", "preempt", "finish")


def _parse(line: bytes) -> Any:
  """What a line of JSON holds, or None: a copy may have been cut off, a disk may have changed a byte."""
  try:
    return json.loads(line, object_pairs_hook=_record)
  except (ValueError, RecursionError):
    return None


def _is_number(value: Any) -> bool:
  return isinstance(value, (int, float)) and not isinstance(value, bool)


def _is_at(record: dict[str, Any], *steps: str) -> bool:
  """Whether a record has a time, and the steps that it has, or must have, are steps."""
  when: Any = record.get("time")
  return (
    _is_number(when)
    and 0 <= when < 1e11  # the year 5138; not NaN
    and all(isinstance(record[name], int) and 0 <= record[name] < 2**63 for name in steps)
  )


def _is_metric(record: dict[str, Any]) -> bool:
  return (
    "step" in record
    and _is_at(record, "step")
    and all(value is None or _is_number(value) and abs(value) < 1e300 or value != value for value in record.values())
  )


def _is_event(record: dict[str, Any]) -> bool:
  steps = {name for name in ("step", "from_step") if name in record}
  needed = {"step"} if record.get("event") in _AT_A_STEP else set()
  return isinstance(record.get("event"), str) and needed <= steps and _is_at(record, *steps)


def _record(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
  """The same names in every line are one text in memory."""
  return {sys.intern(name): value for name, value in pairs}


def _files(folder: epath.Path) -> list[tuple[int, int, epath.Path]]:
  """(attempt, part, path), in the order in which they were written."""
  if not storage.is_folder(folder):  # not yet; or a file is in its place, where nothing is written then
    return []
  matches = [(_FILE.fullmatch(path.name), path) for path in storage.listing(folder)]
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
    path = self._folder / f"attempt-{self._attempt:04d}{part}.jsonl"
    storage.write_bytes(path, text.encode())
    self._changed = False
    if len(text) >= PART_BYTES:
      self._part, self._lines = self._part + 1, []


def _json(value: Any) -> Any:
  return None if isinstance(value, float) and not math.isfinite(value) else value


def _now() -> float:
  return round(time.time(), 3)


class _TensorBoard:
  """TensorBoard scalars. Its files are appended to, so those for an object store grow locally first."""

  def __init__(self, folder: epath.Path, attempt: int):
    self._folder, self._attempt, self._part = folder, attempt, 0
    self._staging = tempfile.TemporaryDirectory() if storage.is_remote(folder) else None
    self._file: Any = None

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
    storage.write_bytes(self._folder / path.name, data)
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
  with without("torch"):
    import tensorboardX
    import tensorboardX.event_file_writer
  return tensorboardX
