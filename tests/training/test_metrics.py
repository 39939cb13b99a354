"""What a run tells in its folder: JSON lines that survive a crash and an object store, and TensorBoard."""

import errno
import json
import math
import os
import subprocess
import sys

import etils.epath.testing
import pytest

from bert_jax.errors import UserError
from bert_jax.training import metrics as metrics_module
from bert_jax.training.metrics import MetricsWriter, next_attempt, read_events, read_metrics
from tests.helpers.object_store import in_this_process

TRAIN = {
  "train/mlm_loss": 6.1234,
  "train/mlm_accuracy": 0.123,
  "train/nsp_loss": 0.65,
  "train/nsp_accuracy": 0.567,
  "learning_rate": 1e-4,
  "tokens_per_second": 25_123.4,
}
EVAL = {"eval/mlm_loss": 6.0, "eval/mlm_accuracy": 0.13, "eval/nsp_accuracy": 0.58, "eval/nsp_majority": 0.52}


def values(record):
  return {name: value for name, value in record.items() if name != "time"}


def test_what_is_written_is_read_back(tmp_path):
  with MetricsWriter(tmp_path, 0) as writer:
    writer.event("start", devices=8)
    writer.scalars(100, TRAIN)
    writer.scalars(100, EVAL)
    writer.event("save", step=100)
  assert {step: values(record) for step, record in read_metrics(tmp_path).items()} == {100: TRAIN | EVAL}
  events = read_events(tmp_path)
  assert [values(event) for event in events] == [
    {"attempt": 0, "event": "start", "devices": 8},
    {"attempt": 0, "event": "save", "step": 100},
  ]
  assert events[0]["time"] <= events[1]["time"]


def test_a_run_without_files_reads_as_empty(tmp_path):
  assert (read_metrics(tmp_path), read_events(tmp_path), next_attempt(tmp_path)) == ({}, [], 0)


def test_attempts_are_merged_and_the_last_line_for_a_step_wins(tmp_path):
  assert next_attempt(tmp_path) == 0
  for attempt, steps in enumerate([(1, 2, 3, 4), (3, 4, 5)]):
    with MetricsWriter(tmp_path, attempt) as writer:
      for step in steps:
        writer.scalars(step, {"loss": 10 * attempt + step})
    assert next_attempt(tmp_path) == attempt + 1
  merged = read_metrics(tmp_path)
  assert list(merged) == [1, 2, 3, 4, 5]
  assert [record["loss"] for record in merged.values()] == [1, 2, 13, 14, 15]


def test_an_attempt_that_only_left_events_counts(tmp_path):
  with MetricsWriter(tmp_path, 11) as writer:
    writer.event("start")
  assert next_attempt(tmp_path) == 12


def test_a_long_attempt_is_written_in_parts_of_bounded_size(tmp_path, monkeypatch):
  """So that a flush costs the same in the hundredth hour as in the first."""
  monkeypatch.setattr(metrics_module, "PART_BYTES", 1000)
  with MetricsWriter(tmp_path, 0) as writer:
    for step in range(200):
      writer.scalars(step, {"loss": float(step)})
      writer.flush()
  sizes = {path.name: path.stat().st_size for path in (tmp_path / "metrics").iterdir()}
  assert "attempt-0000.jsonl" in sizes and "attempt-0000-part-0001.jsonl" in sizes and len(sizes) > 8
  assert max(sizes.values()) < 1100
  assert [record["loss"] for record in read_metrics(tmp_path).values()] == list(range(200))
  assert next_attempt(tmp_path) == 1


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_number_that_is_not_finite_is_valid_json_and_read_as_nan(tmp_path, value):
  with MetricsWriter(tmp_path, 0) as writer:
    writer.scalars(1, {"loss": value, "fine": 1.0})
    writer.event("skip", grad_norm=value)

  def refuse(name):
    raise AssertionError(f"{name} is no JSON")

  for folder in ("metrics", "events"):
    json.loads((tmp_path / folder / "attempt-0000.jsonl").read_text(), parse_constant=refuse)
  record = read_metrics(tmp_path)[1]
  assert math.isnan(record["loss"]) and record["fine"] == 1.0


def test_half_a_line_is_passed_over(tmp_path):
  with MetricsWriter(tmp_path, 0) as writer:
    for step in (1, 2):
      writer.scalars(step, {"loss": 1.0})
  path = tmp_path / "metrics" / "attempt-0000.jsonl"
  path.write_bytes(path.read_bytes()[:-10])
  assert list(read_metrics(tmp_path)) == [1]


_CRASH = """
import os, sys
from bert_jax.training import metrics
metrics.WRITE_SECONDS = 0.0  # every line is an interval
writer = metrics.MetricsWriter(sys.argv[1], 0)
for step in range(1, 10**9):
  writer.scalars(step, {"loss": float(step)})
  if step == 300:
    print("going", flush=True)
"""


def test_a_kill_at_any_moment_loses_at_most_one_interval(tmp_path):
  child = subprocess.Popen([sys.executable, "-c", _CRASH, str(tmp_path)], stdout=subprocess.PIPE, text=True)
  assert child.stdout.readline() == "going\n"
  child.kill()
  child.wait()
  steps = list(read_metrics(tmp_path))
  assert steps == list(range(1, len(steps) + 1)) and len(steps) >= 300
  (path,) = (tmp_path / "metrics").glob("*.jsonl")
  for line in path.read_text().splitlines():
    json.loads(line)


def test_scalars_are_written_before_long_and_events_at_once(tmp_path, monkeypatch):
  now = [0.0]
  monkeypatch.setattr(metrics_module.time, "monotonic", lambda: now[0])
  writer = MetricsWriter(tmp_path, 0)
  writer.scalars(1, {"loss": 1.0})
  assert not read_metrics(tmp_path)  # short steps do not wait for an object store
  now[0] += metrics_module.WRITE_SECONDS
  writer.scalars(2, {"loss": 1.0})
  assert list(read_metrics(tmp_path)) == [1, 2]
  writer.event("save", step=2)
  assert len(read_events(tmp_path)) == 1
  writer.close()


def test_only_the_first_process_writes(tmp_path):
  with MetricsWriter(tmp_path, 0, active=False) as writer:
    writer.scalars(1, TRAIN)
    writer.event("save", step=1)
  assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("moment", ["while writing", "before it takes its place"])
def test_a_full_disk_is_told_once_and_written_later_and_training_goes_on(tmp_path, monkeypatch, capsys, moment):
  writer = MetricsWriter(tmp_path, 0)
  writer.scalars(1, {"loss": 1.0})
  writer.flush()

  def full(*_):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

  if moment == "while writing":
    monkeypatch.setattr(metrics_module.pathlib.Path, "write_bytes", full)
  else:
    monkeypatch.setattr(os, "replace", full)
  for step in (2, 3):
    writer.scalars(step, {"loss": 1.0})
    writer.flush()
  shown = capsys.readouterr().err
  assert f"note: {tmp_path / 'metrics'} cannot be written (No space left on device); training goes on" in shown
  assert shown.count("\n") == 1
  monkeypatch.undo()
  assert list(read_metrics(tmp_path)) == [1]
  writer.close()  # there is room again
  assert list(read_metrics(tmp_path)) == [1, 2, 3]


def test_a_tensorboard_that_cannot_be_written_ends_nothing(tmp_path, monkeypatch, capsys):
  def fail():
    raise ImportError("no tensorboardX here")

  monkeypatch.setattr(metrics_module, "_import_tensorboardx", fail)
  with MetricsWriter(tmp_path, 0) as writer:
    writer.scalars(1, {"loss": 1.0})
    writer.event("save", step=1)
  assert list(read_metrics(tmp_path)) == [1] and [event["step"] for event in read_events(tmp_path)] == [1]
  assert "tensorboard cannot be written (no tensorboardX here)" in capsys.readouterr().err


UNREADABLE = {
  "a byte that is no letter": b'{"step": 3, "time": 1.0, "x": 1, "name\xff": 1}',
  "a number": b"5",
  "nothing": b"null",
  "a list": b'[{"step": 3}]',
  "half": b'{"step": 3, "ti',
  "no step": b'{"time": 1.0, "x": 1}',
  "no time": b'{"step": 3, "x": 1}',
  "a word for a step": b'{"step": "3", "time": 1.0}',
  "half a step": b'{"step": 3.5, "time": 1.0}',
  "a step before the first": b'{"step": -1, "time": 1.0}',
  "true for a step": b'{"step": 3, "time": true}',
  "a word for a metric": b'{"step": 3, "time": 1.0, "x": "low"}',
  "a list for a metric": b'{"step": 3, "time": 1.0, "x": [1]}',
  "no time at all": b'{"step": 3, "time": NaN}',
  "too late": b'{"step": 3, "time": 1e200}',
  "too large": b'{"step": 1' + b"0" * 5000 + b', "time": 1.0}',
  "deep": b"[" * 100_000,
}


@pytest.mark.parametrize("kind", UNREADABLE)
def test_a_line_that_cannot_be_read_is_counted_and_left_out(tmp_path, capsys, kind):
  line = UNREADABLE[kind]
  good = b'{"step": 1, "time": 1.0, "x": 2.0}'
  (tmp_path / "metrics").mkdir()
  (tmp_path / "metrics" / "attempt-0000.jsonl").write_bytes(
    b"\n".join([good, line, b"", good.replace(b"1,", b"2,", 1)])
  )
  assert read_metrics(tmp_path) == {1: {"time": 1.0, "x": 2.0}, 2: {"time": 1.0, "x": 2.0}}
  read_metrics(tmp_path)
  said = f"note: 1 lines of {tmp_path / 'metrics'} cannot be read and are left out; the first is "
  assert capsys.readouterr().err == f"{said}{tmp_path / 'metrics' / 'attempt-0000.jsonl'}:2\n", "once"


def test_an_event_that_cannot_be_read_is_left_out_and_a_folder_is_no_file_of_events(tmp_path, capsys):
  lines = ['{"event": "save", "time": 1.0}', '{"event": 5, "time": 1.0}', '{"time": 1.0, "step": 5}', "5"]
  sound = ['{"event": "start", "time": 1.0}', '{"event": "save", "time": 2.0, "step": 3}']
  (tmp_path / "events" / "attempt-0001.jsonl").mkdir(parents=True)
  (tmp_path / "events" / "attempt-0000.jsonl").write_text("\n".join([*lines, *sound]))
  assert [event["event"] for event in read_events(tmp_path)] == ["start", "save"]
  assert "note: 5 lines" in capsys.readouterr().err


@pytest.fixture
def bucket(tmp_path, monkeypatch):
  """A gs:// workdir on a local folder, with neither append nor rename. The working directory stays empty."""
  (tmp_path / "cwd").mkdir()
  monkeypatch.chdir(tmp_path / "cwd")

  def elsewhere(function):
    return lambda path, *args, **how: function(os.fspath(path).replace("gs:/", str(tmp_path)), *args, **how)

  def open_object(original, path, mode):
    assert mode in ("r", "rb", "wb"), f"an object store cannot open with mode {mode!r}"
    return elsewhere(original)(path, mode)

  def refuse(*_):
    raise AssertionError("an object store has no rename")

  monkeypatch.setattr(etils.epath.gpath, "_is_tf_installed", lambda: False)  # it would ask the real gs://
  through = lambda original, path, **how: elsewhere(original)(path, **how)
  same = dict.fromkeys(("exists", "isdir", "listdir", "glob", "makedirs", "mkdir", "stat"), through)
  with etils.epath.testing.mock_epath(open=open_object, rename=refuse, replace=refuse, **same):
    monkeypatch.setattr(os, "replace", refuse)
    yield "gs://bucket/run"
  assert not list((tmp_path / "cwd").iterdir())


def test_an_object_store_gets_whole_objects(bucket, tmp_path, monkeypatch):
  monkeypatch.setattr(metrics_module, "PART_BYTES", 1000)
  for attempt in range(2):
    assert next_attempt(bucket) == attempt
    with MetricsWriter(bucket, attempt) as writer:
      writer.event("start")
      for step in range(40 * attempt, 40 * attempt + 40):
        writer.scalars(step, {"loss": float(step)})
        if step % 10 == 0:
          writer.flush()
  assert [record["loss"] for record in read_metrics(bucket).values()] == list(range(80))
  assert [event["attempt"] for event in read_events(bucket)] == [0, 1]
  objects = tmp_path / "bucket" / "run"
  assert {path.name for path in objects.iterdir()} == {"metrics", "events", "tensorboard"}
  assert sorted(step for step, _, _ in tensorboard_scalars(objects / "tensorboard")) == list(range(80))


def test_in_an_object_store_the_attempt_that_was_started_last_goes_on(monkeypatch):
  with in_this_process(monkeypatch) as store:
    older = MetricsWriter("gs://bucket/run", next_attempt("gs://bucket/run"))
    older.event("start")
    older.scalars(1, {"loss": 1.0})
    newer = MetricsWriter("gs://bucket/run", next_attempt("gs://bucket/run"))
    newer.event("start")
    with pytest.raises(UserError, match="attempt-0001.jsonl is there.*this one ends"):
      older.event("save", step=2)
    older.close()  # says nothing more
    newer.scalars(1, {"loss": 2.0})
    newer.close()
    assert store.names("run/events/") == ["attempt-0000.jsonl", "attempt-0001.jsonl"] and not store.refused
    assert [record["loss"] for record in read_metrics("gs://bucket/run").values()] == [2.0]


def test_a_long_attempt_in_an_object_store_writes_a_part_no_more_often_than_its_size_asks(monkeypatch):
  """Whole objects, and yet not quadratic: ten times the lines cost ten times the bytes."""
  monkeypatch.setattr(metrics_module, "PART_BYTES", 1000)
  cost = {}
  for lines in (40, 400):
    with in_this_process(monkeypatch) as store, MetricsWriter("gs://bucket/run", 0) as writer:
      for step in range(lines):
        writer.scalars(step, {"loss": float(step)})
        writer.flush()
      cost[lines] = sum(size for _, size in store.written)
  assert cost[400] < 11 * cost[40]


def tensorboard_scalars(folder):
  """[(step, name, value)] of all event files."""
  tensorboardx = metrics_module._import_tensorboardx()
  found = []
  for path in sorted(folder.iterdir()):
    data, at = path.read_bytes(), 0
    while at < len(data):  # TFRecord: length, its checksum, the record, its checksum
      size = int.from_bytes(data[at : at + 8], "little")
      event = tensorboardx.proto.event_pb2.Event.FromString(data[at + 12 : at + 12 + size])
      found += [(event.step, value.tag, value.simple_value) for value in event.summary.value]
      at += 16 + size
  return found


def test_tensorboard_gets_the_same_scalars(tmp_path):
  for attempt in range(2):
    with MetricsWriter(tmp_path, attempt) as writer:
      writer.scalars(10 + attempt, {"train/mlm_loss": 5.5, "broken": math.nan})
  found = tensorboard_scalars(tmp_path / "tensorboard")
  assert found == [(10, "train/mlm_loss", 5.5), (11, "train/mlm_loss", 5.5)]


def test_writing_metrics_imports_neither_torch_nor_tensorflow(tmp_path):
  program = f"""
import sys
from bert_jax.training.metrics import MetricsWriter
with MetricsWriter({str(tmp_path)!r}, 0) as writer:
  writer.scalars(1, {{"loss": 1.0}})
print([name for name in ("torch", "tensorflow") if name in sys.modules])
"""
  done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
  assert (done.stdout, done.stderr) == ("[]\n", "")


def test_what_is_no_file_among_them_is_passed_over(tmp_path):
  with MetricsWriter(tmp_path, 0) as writer:
    writer.scalars(1, {"train/loss": 1.0})
  os.mkfifo(tmp_path / "metrics" / "attempt-0001.jsonl")
  (tmp_path / "metrics" / "attempt-0002.jsonl").symlink_to("/dev/zero")
  (tmp_path / "metrics" / "attempt-0003.jsonl").mkdir()
  assert list(read_metrics(tmp_path)) == [1]
