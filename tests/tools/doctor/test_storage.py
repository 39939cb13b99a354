"""The run folder and the file system under it, with real files and a disk of a few kilobytes."""

import errno
import json
import math
import os
import shutil
import time

import numpy as np
import pytest
from etils import epath

from bert_jax.errors import UserError
from bert_jax.inference import run_folder
from bert_jax.runs import pretraining
from bert_jax.tools.doctor import row, storage
from bert_jax.training.checkpoints import folder as folders
from bert_jax.training.metrics import MetricsWriter
from tests.helpers.machines import context, small_disk
from tests.helpers.object_store import in_this_process
from tests.helpers.tiny_runs import tiny_run_config


def everything(view):
  rows = row.Findings()
  for check in (storage.run_folder, storage.checkpoints, storage.disk_space, storage.file_clock):
    rows |= row.run_check(check.__name__, check, view)
  return {name: found for name, found in rows.items() if found}


def tree(folder):
  return sorted((str(path), path.stat().st_mtime_ns if path.is_file() else 0) for path in folder.rglob("*"))


@pytest.fixture(scope="module")
def trained(tmp_path_factory, corpus):
  """A run that has stopped half-way, with checkpoints 6 and 12."""
  folder = tmp_path_factory.mktemp("trained")
  pretraining.pretrain_run(tiny_run_config(folder, corpus, "stop_at_step=12"), folder / "run")
  return folder / "run"


@pytest.fixture
def resumed(trained, tmp_path):
  """A copy of it that may be damaged."""
  return shutil.copytree(trained, tmp_path / "run")


def test_a_new_run_folder_on_a_sound_disk_is_fine_and_nothing_is_left_there(tmp_path, corpus):
  view = context(tmp_path, corpus)
  before = tree(tmp_path)
  rows = everything(view)
  assert row.worst(rows) == row.OK, rows
  assert tree(tmp_path) == before and not (tmp_path / "run").exists()
  assert rows["run_folder"] == [row.ok(f"{tmp_path / 'run'} is new")]
  assert rows["checkpoints"][0].found.startswith(f"{tmp_path} writes whole files; 8.4 MB written in")


def test_a_run_that_goes_on_is_left_as_it_is(resumed, tmp_path, corpus):
  view = context(tmp_path, corpus)
  before = tree(tmp_path)
  rows = everything(view)
  assert tree(tmp_path) == before
  assert rows["run_folder"] == [row.ok(f"{resumed} resumes from step 12 (2 checkpoints)")]
  assert row.worst(rows) == row.OK, rows
  assert (
    "3 more (2 are there) checkpoints" in rows["disk_space"][0].found
  )  # of 3 last, 1 best and the one being written


def test_a_finished_run_is_told(resumed, tmp_path, corpus):
  rows = everything(context(tmp_path, corpus, "stop_at_step=12"))
  assert rows["run_folder"] == [row.ok(f"{resumed} has trained its 12 steps")]


def test_a_probe_of_a_doctor_that_was_killed_does_not_stop_a_run(tmp_path, corpus):
  """run.adopt refuses folders with something else in them."""
  (tmp_path / "run").mkdir()
  with storage.scratch_folder(context(tmp_path, corpus).workdir) as left:
    assert left.parent == tmp_path / "run"
    run_folder.claim_workdir(tmp_path / "run", tiny_run_config(tmp_path, corpus), corpus / "tokenizer")


@pytest.mark.parametrize("place", ["run", "run/checkpoints", "above/run"])
def test_a_file_in_place_of_a_folder_is_one_failure(tmp_path, corpus, place):
  file = tmp_path / (place if "above" not in place else "above")
  file.parent.mkdir(exist_ok=True)
  file.write_text("a file")
  rows = everything(context(tmp_path, corpus, workdir=tmp_path / ("above/run" if "above" in place else "run")))
  assert list(rows) == ["run_folder"]
  assert rows["run_folder"][0].status == row.FAIL and f"{file} is a file" in rows["run_folder"][0].found
  assert rows["run_folder"][0].remedy == "choose another --workdir"


def test_a_folder_that_nobody_may_write_to_is_one_failure(tmp_path, corpus):
  """/proc refuses everybody, root too."""
  rows = everything(context(tmp_path, corpus, workdir="/proc/run"))
  assert list(rows) == ["run_folder", "checkpoints", "disk_space"] and row.worst({"x": rows["checkpoints"]}) == row.FAIL
  assert rows["checkpoints"][0].found.startswith("/proc: ") and rows["checkpoints"][0].remedy


def test_a_full_disk_is_one_line(tmp_path, corpus):
  with small_disk(tmp_path / "disk", "size=16k") as disk:
    rows = everything(context(tmp_path, corpus, workdir=disk / "run"))
    assert rows["checkpoints"] == [
      row.fail(f"{disk}: No space left on device", "free some space, or choose another --workdir")
    ]
    (space,) = rows["disk_space"]
    assert space.status == row.FAIL and space.found.startswith("16.4 kB free on") and "keep_last" in space.remedy
    assert not list(disk.iterdir())


def test_a_read_only_disk_is_one_line(tmp_path, corpus):
  with small_disk(tmp_path / "disk", "size=1m,ro") as disk:
    rows = everything(context(tmp_path, corpus, workdir=disk / "run"))
    assert rows["checkpoints"] == [
      row.fail(f"{disk}: Read-only file system", "mount it for writing, or choose another --workdir")
    ]


@pytest.mark.parametrize(
  "call, replacement, said",
  [
    (
      "open",
      lambda real: lambda path, flags, *mode: real(path, flags & ~os.O_EXCL, *mode),
      "creates the same file twice",
    ),
    ("replace", lambda real: lambda old, new: shutil.copyfile(old, new), "does not replace a file"),
    ("rename", lambda real: lambda old, new: os.makedirs(new), "does not rename a folder"),
  ],
)
def test_a_file_system_without_the_semantics_of_posix_is_refused(
  tmp_path, corpus, monkeypatch, call, replacement, said
):
  view = context(tmp_path, corpus)
  monkeypatch.setattr(storage.os, call, replacement(getattr(os, call)))
  found = storage.checkpoints(view)
  monkeypatch.undo()
  assert found.status == row.FAIL and said in found.found and "another file system" in found.remedy


def test_what_comes_back_altered_is_refused(tmp_path, corpus, monkeypatch):
  monkeypatch.setattr(type(epath.Path()), "read_bytes", lambda path: b"something else")
  found = storage.checkpoints(context(tmp_path, corpus))
  assert found.status == row.FAIL and "was read back altered" in found.found


def test_an_error_without_a_remedy_of_its_own_has_one(tmp_path, corpus, monkeypatch):
  def refuse(path):
    raise OSError(errno.EIO, os.strerror(errno.EIO))

  monkeypatch.setattr(storage, "_write", refuse)
  assert storage.checkpoints(context(tmp_path, corpus)) == row.fail(
    f"{tmp_path}: Input/output error", "choose another --workdir"
  )


def test_a_disk_that_is_too_slow_for_the_watchdog_is_a_warning(tmp_path, corpus, monkeypatch):
  view = context(tmp_path, corpus, "watchdog.step_seconds=1")
  monkeypatch.setattr(storage, "_write", lambda path: 2 * storage.PROBE_BYTES / view.state_bytes)
  found = storage.checkpoints(view)
  assert (
    found.status == row.WARN
    and "would take 2 s, watchdog.step_seconds is 1" in found.found
    and "step_seconds=4" in found.remedy
  )


def test_disk_space_counts_every_checkpoint_that_is_kept_and_the_one_being_written(tmp_path, corpus, monkeypatch):
  view = context(tmp_path, corpus, "checkpoint.keep_last=1", "checkpoint.keep_best=0")
  usage = lambda free: lambda place: shutil._ntuple_diskusage(10**12, 0, free)
  monkeypatch.setattr(storage.shutil, "disk_usage", usage(3 * view.state_bytes))  # at least two are kept
  assert storage.disk_space(view).status == row.OK
  monkeypatch.setattr(storage.shutil, "disk_usage", usage(3 * view.state_bytes - 1))
  assert storage.disk_space(view).status == row.FAIL


def test_the_state_has_the_arrays_and_the_size_of_a_checkpoint(trained, tmp_path, corpus):
  view = context(tmp_path, corpus)
  manifest = json.loads((trained / "checkpoints" / "12" / folders.MANIFEST_FILE).read_text())["content"]
  sizes = [np.dtype(dtype).itemsize * math.prod(shape) for dtype, shape, _ in manifest["arrays"].values()]
  assert set(manifest["arrays"]) == set(folders.by_path(view.state)) and sum(sizes) == view.state_bytes
  files = sum(path.stat().st_size for path in (trained / "checkpoints" / "12").rglob("*") if path.is_file())
  assert view.state_bytes <= files < view.state_bytes + 100_000  # names, chunks and the manifest


def test_the_clock_of_the_file_system_is_compared(tmp_path, corpus, monkeypatch):
  view, real = context(tmp_path, corpus), time.time
  for shift, said in ((-60, "60.0 s ahead"), (60, "60.0 s behind")):
    monkeypatch.setattr(storage.time, "time", lambda: real() + shift)
    found = storage.file_clock(view)
    assert found.status == row.WARN and said in found.found and "NTP" in found.remedy


def test_a_clock_before_the_newest_event_is_told(resumed, tmp_path, corpus):
  assert storage.file_clock(context(tmp_path, corpus)).status == row.OK
  with MetricsWriter(resumed, 7) as writer:
    writer.event("start")
  path = resumed / "events" / "attempt-0007.jsonl"
  event = json.loads(path.read_text())
  path.write_text(json.dumps(event | {"time": event["time"] + 3600}) + "\n")
  found = storage.file_clock(context(tmp_path, corpus))
  assert (
    found.status == row.WARN
    and "before the newest event" in found.found
    and ("3600 s" in found.found or "3599 s" in found.found)
  )


def test_another_config_is_told_by_its_keys(resumed, tmp_path, corpus):
  (found,) = storage.run_folder(context(tmp_path, corpus, "seed=3", "mesh.fsdp=2", "optimizer.b2=0.9"))
  assert found.status == row.FAIL
  assert (
    "optimizer.b2: 0.999 there, 0.9 now" in found.found
    and "seed: 0 there, 3 now" in found.found
    and "mesh" not in found.found
  )


def test_a_config_that_waits_for_its_corpus_is_compared_as_far_as_it_goes(resumed, tmp_path):
  rows = storage.run_folder(context(tmp_path, tmp_path / "nowhere"))
  assert rows == [row.ok(f"{resumed} resumes from step 12 (2 checkpoints)")]


def test_a_folder_of_somebody_else_is_refused(tmp_path, corpus):
  (tmp_path / "run").mkdir()
  assert storage.run_folder(context(tmp_path, corpus)) == row.ok(f"{tmp_path / 'run'} is empty")
  (tmp_path / "run" / "thesis.txt").write_text("years of work")
  assert storage.run_folder(context(tmp_path, corpus)).status == row.FAIL


def test_a_config_that_cannot_be_read_is_a_failure(resumed, tmp_path, corpus):
  (resumed / "config.json").write_text("{")
  assert "config.json: not JSON" in everything(context(tmp_path, corpus))["run_folder"][0].found


@pytest.mark.parametrize(
  "damage, said, status",
  [
    (
      lambda step: (step / folders.COMMIT_MARKER).unlink(),
      "checkpoint 12 is damaged: commit_success.txt is missing",
      row.WARN,
    ),
    (
      lambda step: [path.unlink() for path in step.iterdir() if path.is_file()],
      "checkpoint 12: its saving was interrupted",
      row.WARN,
    ),
    (
      lambda step: (step / folders.MANIFEST_FILE).write_text("{"),
      "checkpoint 12 is damaged: manifest/data.json cannot be read",
      row.WARN,
    ),
    (lambda step: shutil.rmtree(step / "state"), "checkpoint 12 is damaged: state missing", row.WARN),
  ],
)
def test_damaged_and_unfinished_checkpoints_are_told_and_left_for_the_run(
  resumed, tmp_path, corpus, damage, said, status
):
  damage(resumed / "checkpoints" / "12")
  before = tree(resumed)
  (found,) = storage.run_folder(context(tmp_path, corpus))
  assert (
    found.status == status
    and said in found.found
    and "next start" in found.remedy
    and "resumes from step 6" in found.remedy
  )
  assert tree(resumed) == before


def test_a_run_without_a_sound_checkpoint_fails(resumed, tmp_path, corpus):
  for step in ("6", "12"):
    (resumed / "checkpoints" / step / folders.COMMIT_MARKER).unlink()
  rows = storage.run_folder(context(tmp_path, corpus))
  assert [one.status for one in rows] == [row.WARN, row.WARN, row.FAIL] and "no checkpoint in" in rows[-1].found


def test_a_run_that_was_killed_in_its_first_save_begins_anew(resumed, tmp_path, corpus):
  shutil.rmtree(resumed / "checkpoints" / "6")
  for path in (resumed / "checkpoints" / "12").iterdir():
    if path.is_file():
      path.unlink()
  (found,) = storage.run_folder(context(tmp_path, corpus))
  assert found.status == row.WARN and found.remedy == "nothing: the next start removes it"


def test_what_was_set_aside_before_is_told(resumed, tmp_path, corpus):
  aside = resumed / "checkpoints" / folders.SET_ASIDE
  aside.mkdir()
  (resumed / "checkpoints" / "6").rename(aside / "6-checksum")
  (found,) = storage.run_folder(context(tmp_path, corpus))
  assert found.status == row.WARN and "6-checksum" in found.found


def test_a_checkpoint_of_another_model_or_corpus_fails(resumed, tmp_path, corpus):
  view = context(tmp_path, corpus)
  view.corpus = view.corpus._replace(manifest=view.corpus.manifest | {"corpus_id": "other"})
  assert any("has 'other'" in one.found and one.status == row.FAIL for one in storage.run_folder(view))
  config = resumed / "config.json"
  config.write_text(config.read_text().replace('"model.hidden_size": 16', '"model.hidden_size": 32'))
  (found,) = everything(context(tmp_path, corpus, "model.hidden_size=32"))["run_folder"]
  assert found.status == row.FAIL and "belongs to another configuration" in found.found


def test_an_object_store_is_tried_and_left_as_it_was(tmp_path, corpus, monkeypatch):
  with in_this_process(monkeypatch) as store:
    found = everything(context(tmp_path, corpus, workdir="gs://bucket/run"))
    assert {name: one.status for name, (one,) in found.items()} == {"run_folder": row.OK, "checkpoints": row.OK}
    assert (
      "gs://bucket/run is new" in found["run_folder"][0].found and "8.4 MB written in" in found["checkpoints"][0].found
    )
    assert not store.objects and len(store.written) == 3 and not store.refused


def test_an_object_store_that_keeps_what_was_deleted_is_refused(tmp_path, corpus, monkeypatch):
  with in_this_process(monkeypatch) as store:
    monkeypatch.setattr(store, "delete", lambda name: True)
    found = storage.checkpoints(context(tmp_path, corpus, workdir="gs://bucket/run"))
    assert found.status == row.FAIL and "still shows what was deleted" in found.found


def test_another_store_than_googles_is_refused(tmp_path, corpus):
  with pytest.raises(UserError, match="s3://bucket/run.*mount other stores"):
    storage.run_folder(context(tmp_path, corpus, workdir="s3://bucket/run"))
