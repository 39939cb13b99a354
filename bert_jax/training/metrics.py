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
from collections.abc import Iterator
from typing import Any

from etils import epath

from bert_jax.errors import UserError
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
    """Writes what there is. Raises UserError where another process has taken the run over."""
    if self._active:
      self._check_newest()
      self._metrics.flush()
      self._events.flush()
      with _told_plainly(self._workdir):
        self._tensorboard.flush()
      self._written = time.monotonic()

  def _check_newest(self) -> None:
    """An object store has no locks: there the attempt that was started last goes on, and an older one ends when it
    sees it.
    """
    if storage.is_remote(self._workdir):
      newer = self._workdir / "events" / f"attempt-{self._attempt + 1:04d}.jsonl"
      with _told_plainly(newer), storage.failures(newer):
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
  for attempt, _, path in _files(folder):
    with contextlib.suppress(UserError), open_plain(path) as file:  # what is no file tells nothing
      while line := file.readline(_MAX_LINE_BYTES):
        # A part is written as a whole, but a copy of a run folder may have been cut off anywhere.
        with contextlib.suppress(ValueError):
          yield json.loads(line, object_pairs_hook=_record) | {"attempt": attempt}


def _record(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
  """The same names in every line are one text in memory."""
  return {sys.intern(name): value for name, value in pairs}


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
    path = self._folder / f"attempt-{self._attempt:04d}{part}.jsonl"
    with _told_plainly(path):
      storage.write_bytes(path, text.encode())
    self._changed = False
    if len(text) >= PART_BYTES:
      self._part, self._lines = self._part + 1, []


def _json(value: Any) -> Any:
  return None if isinstance(value, float) and not math.isfinite(value) else value


@contextlib.contextmanager
def _told_plainly(path: epath.Path) -> Iterator[None]:
  """An error of the file system as a UserError."""
  try:
    yield
  except OSError as error:
    raise UserError(
      f"cannot write {path}: {error.strerror or error}; free some space or repair the folder, then start the same "
      "command again: the run resumes from its newest checkpoint"
    ) from error


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
