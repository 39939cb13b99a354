"""Checkpoints count only when verified: what is committed, what is refused, what is set aside."""

import builtins
import errno
import gc
import io
import json
import os
import pathlib
import random
import resource
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from bert_jax.errors import StorageError, UserError
from bert_jax.io import storage
from bert_jax.training.checkpoints import arrays, manager, reading
from bert_jax.training.checkpoints import folder as checkpoint_folder
from bert_jax.training.model_selection import ModelSelection

REPOSITORY = pathlib.Path(__file__).resolve().parents[3]


class State(NamedTuple):
  step: Any
  params: Any
  opt_state: Any


OPTIMIZER = optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(1e-3))


def make_state(step: int = 0, width: int = 128) -> State:
  """A small train state, another one for every step."""
  rng = np.random.default_rng(step)
  params = {
    "encoder": {"layer_0": {"kernel": rng.normal(size=(width, 8)), "bias": rng.normal(size=8)}},
    "head": {"kernel": rng.normal(size=(8, 4))},
  }
  params = jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), params)
  params["head"]["scale"] = jnp.asarray(rng.normal(size=8), jnp.bfloat16)
  opt_state = jax.tree.map(lambda x: x + jnp.asarray(rng.integers(1, 9), x.dtype), OPTIMIZER.init(params))
  return State(jnp.int32(step), params, opt_state)


def abstract(state, sharding=None):
  sharding = sharding or jax.sharding.SingleDeviceSharding(jax.devices()[0])
  place = sharding if callable(sharding) else lambda leaf: sharding
  return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=place(x)), state)


def assert_same(got, wanted):
  assert jax.tree.structure(got) == jax.tree.structure(wanted)
  for (path, a), b in zip(jax.tree_util.tree_leaves_with_path(got), jax.tree.leaves(wanted)):
    name = jax.tree_util.keystr(path)
    assert (a.dtype, a.shape) == (b.dtype, b.shape), name
    assert np.asarray(a).tobytes() == np.asarray(b).tobytes(), name


def checkpoints(folder, **settings) -> manager.Checkpoints:
  selection = ModelSelection("eval/loss")
  settings = {"every_steps": 1, "keep_last": 10, "keep_best": 0, "selection": selection} | settings
  return manager.Checkpoints(folder, **settings)


def save_steps(folder, *steps, **settings):
  with checkpoints(folder, **settings) as c:
    for step in steps:
      assert c.save(step, make_state(step), host={"position": step * 2**40})


def restore(folder, like=None, **settings):
  """(Restored or None, the events)."""
  events = []
  with checkpoints(folder, on_event=lambda name, **f: events.append((name, f)), **settings) as c:
    restored = c.restore_latest(like or abstract(make_state()))
  return restored, events


def steps_on_disk(folder) -> list[int]:
  return checkpoint_folder.committed_steps(reading.checkpoints_folder(folder))


def set_aside(folder) -> list[str]:
  aside = folder / "set-aside"
  return sorted(path.name for path in aside.iterdir()) if aside.exists() else []


def data_files(folder) -> list[pathlib.Path]:
  return [path for path in sorted(folder.rglob("*")) if path.is_file() and path.stat().st_size]


@pytest.fixture(scope="module")
def three(tmp_path_factory):
  """A folder with checkpoints 1, 2 and 3; tests damage copies of it."""
  folder = tmp_path_factory.mktemp("three") / "checkpoints"
  save_steps(folder, 1, 2, 3)
  return folder


@pytest.fixture
def copy(three, tmp_path):
  return pathlib.Path(shutil.copytree(three, tmp_path / "checkpoints"))


# What is saved comes back.


def test_an_empty_folder_restores_nothing_and_makes_nothing(tmp_path):
  restored, events = restore(tmp_path / "checkpoints")
  assert restored is None
  assert events == []
  assert not (tmp_path / "checkpoints").exists()


def test_state_and_host_values_come_back_bitwise(tmp_path):
  host = {"position": 2**63, "seed": 7, "corpus_id": "abc", "num_rows": 3}
  with checkpoints(tmp_path) as c:
    assert c.save(5, make_state(5), host=host, metrics={"eval/loss": 1.5})
  restored, events = restore(tmp_path)
  assert restored.step == 5
  assert restored.host == host | {"step": 5}
  assert_same(restored.state, make_state(5))
  assert [(name, f["step"], f["ok"]) for name, f in events] == [("verify", 5, True)]


def test_the_newest_is_restored_and_the_others_are_left(copy):
  restored, _ = restore(copy)
  assert restored.step == 3
  assert_same(restored.state, make_state(3))
  assert steps_on_disk(copy) == [1, 2, 3]


def test_nothing_is_pickled_and_names_are_plain(three):
  for path in data_files(three / "3"):
    if path.suffix == ".json":
      json.loads(path.read_text())
    assert b"bert_jax" not in path.read_bytes()
  names = checkpoint_folder.read_manifest(reading.checkpoints_folder(three) / "3").arrays
  assert "params/encoder/layer_0/kernel" in names
  assert "opt_state/1/0/mu/head/scale" in names


def fsdp(mesh):
  def place(leaf):
    fits = leaf.ndim and leaf.shape[0] % mesh.shape["fsdp"] == 0
    return NamedSharding(mesh, PartitionSpec("fsdp") if fits else PartitionSpec())

  return place


def mesh_of(count: int):
  return jax.make_mesh((count,), ("fsdp",), devices=jax.devices()[:count], axis_types=(jax.sharding.AxisType.Auto,))


@pytest.mark.parametrize("before, after", [(8, 1), (1, 8), (8, 4)])
def test_a_checkpoint_restores_onto_another_mesh(tmp_path, before, after):
  state = make_state(9)
  placed = jax.device_put(state, jax.tree.map(fsdp(mesh_of(before)), state))
  with checkpoints(tmp_path) as c:
    c.save(9, placed, host={})
  restored, _ = restore(tmp_path, abstract(state, fsdp(mesh_of(after))))
  assert_same(restored.state, state)
  kernel = restored.state.params["encoder"]["layer_0"]["kernel"]
  assert kernel.sharding.num_devices == after
  assert kernel.addressable_shards[0].data.shape == (128 // after, 8)


def test_donating_the_state_right_after_save_does_not_reach_the_checkpoint(tmp_path):
  state = {"params": {f"w{i}": jnp.full((512, 512), float(i)) for i in range(16)}}
  wanted = jax.device_get(state)
  advance = jax.jit(lambda s: jax.tree.map(lambda x: x * 0 - 1, s), donate_argnums=0)
  with jax.transfer_guard("disallow"), checkpoints(tmp_path) as c:
    for step in (1, 2):
      c.save(step, state, host={})
      for _ in range(3):
        state = advance(state)
      state = jax.device_put(wanted)
  restored, _ = restore(tmp_path, abstract(wanted))
  assert_same(restored.state, wanted)
  params, _ = reading.restore_params(tmp_path, 1)
  assert_same(params, wanted["params"])


# When to save, and what to keep.


def test_should_save_at_multiples_and_a_saved_step_is_not_saved_again(tmp_path):
  with checkpoints(tmp_path, every_steps=5) as c:
    assert [step for step in range(1, 16) if c.should_save(step)] == [5, 10, 15]
    assert c.save(5, make_state(5), host={"first": True})
    assert not c.save(5, make_state(6), host={"first": False})
  restored, _ = restore(tmp_path)
  assert restored.host["first"]


def test_the_last_and_the_best_are_kept(tmp_path):
  losses = {1: 3.0, 2: 1.0, 3: 2.0, 4: float("nan"), 5: 4.0, 6: 5.0}
  with checkpoints(tmp_path, keep_last=2, keep_best=2) as c:
    for step, loss in losses.items():
      c.save(step, make_state(step), host={}, metrics={"eval/loss": loss})
  assert steps_on_disk(tmp_path) == [2, 3, 5, 6]
  # A later run knows the losses of an earlier one.
  with checkpoints(tmp_path, keep_last=2, keep_best=1) as c:
    c.restore_latest(abstract(make_state()))
    c.save(7, make_state(7), host={}, metrics={})
  assert steps_on_disk(tmp_path) == [2, 6, 7]


def test_two_are_kept_even_if_one_was_asked_for(tmp_path):
  save_steps(tmp_path, 1, 2, 3, keep_last=1)
  assert steps_on_disk(tmp_path) == [2, 3]


def test_every_steps_must_be_positive(tmp_path):
  with pytest.raises(UserError, match="checkpoint.every_steps"):
    checkpoints(tmp_path, every_steps=0)


# What is never committed.


@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize("where", ["params/encoder/layer_0/bias", "opt_state/1/0/nu/head/scale"])
def test_a_state_that_is_not_finite_is_refused_and_named(copy, bad, where):
  named = checkpoint_folder.by_path(make_state(4))
  named[where] = named[where].at[3].set(bad)
  state = jax.tree.unflatten(jax.tree.structure(make_state()), list(named.values()))
  with checkpoints(copy) as c:
    c.restore_latest(abstract(state))
    with pytest.raises(UserError, match=where):
      c.save(4, state, host={})
    assert not (copy / "4").exists()
    assert c.save(4, make_state(4), host={})  # and the next good one is saved
  assert steps_on_disk(copy) == [1, 2, 3, 4]


@pytest.fixture
def file_size_limit():
  """Files that this process writes may not grow beyond 1 MB: as good as a full disk."""
  soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
  resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, hard))
  yield lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
  resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize("find_out", ["wait", "save", "should_save", "exit"])
def test_a_failed_background_save_names_step_cause_and_remedy(copy, file_size_limit, find_out):
  large = State(jnp.int32(4), {"w": jnp.ones((1024, 1024))}, ())

  def run():
    with checkpoints(copy) as c:
      c.restore_latest(abstract(make_state()))
      assert c.save(4, large, host={})
      if find_out == "wait":
        c.wait()
      elif find_out == "save":
        c.save(5, make_state(5), host={})
      elif find_out == "should_save":
        for _ in range(400):
          c.should_save(4)
          time.sleep(0.05)

  with pytest.raises(UserError, match=r"(?s)checkpoints/4 failed.*File too large.*Free some space.*\(1, 2, 3\)"):
    run()
  file_size_limit()
  assert steps_on_disk(copy) == [1, 2, 3]
  assert not (copy / "4").exists()
  restored, _ = restore(copy)
  assert restored.step == 3


def test_after_a_failed_save_the_same_step_can_be_saved(copy, file_size_limit):
  with checkpoints(copy) as c:
    c.save(4, State(jnp.int32(4), {"w": jnp.ones((1024, 1024))}, ()), host={})
    with pytest.raises(UserError):
      c.wait()
    file_size_limit()
    assert c.save(4, make_state(4), host={})
  restored, _ = restore(copy)
  assert restored.step == 4


def test_the_error_of_the_loop_is_not_hidden_by_that_of_a_save(copy, file_size_limit, capfd):
  with pytest.raises(KeyError, match="from the loop"), checkpoints(copy) as c:
    c.save(4, State(jnp.int32(4), {"w": jnp.ones((1024, 1024))}, ()), host={})
    raise KeyError("from the loop")
  assert "File too large" in capfd.readouterr().err


# Damage.


def truncate(folder):
  largest = max(data_files(folder), key=lambda path: path.stat().st_size)
  os.truncate(largest, largest.stat().st_size // 2)


def delete_data(folder):
  max(data_files(folder), key=lambda path: path.stat().st_size).unlink()


def flip(path: pathlib.Path, position: int, bit: int):
  data = bytearray(path.read_bytes())
  data[position] ^= 1 << bit
  path.write_bytes(data)


def flip_weight(folder):
  """Flips the lowest bit of one weight."""
  value = np.asarray(make_state(int(folder.name)).params["encoder"]["layer_0"]["kernel"]).tobytes()
  for path in data_files(folder / "state"):
    if (at := path.read_bytes().find(value)) >= 0:
      return flip(path, at + 40, 0)
  raise AssertionError("the weights are not stored plainly")


def flip_manifest(folder):
  path = folder / "manifest" / "data.json"
  at = path.read_bytes().index(b'"position"') + len(b'"position": ')
  flip(path, at, 0)  # one digit for another: still JSON


def empty(folder):
  shutil.rmtree(folder)
  folder.mkdir()


DAMAGE = {
  "flipped weight": (flip_weight, "checksum", "params/encoder/layer_0/kernel"),
  "flipped manifest": (flip_manifest, "manifest", "altered"),
  "truncated data": (truncate, "unreadable", "cannot be read"),
  "missing data": (delete_data, "unreadable", "cannot be read"),
  "missing manifest": (lambda folder: shutil.rmtree(folder / "manifest"), "incomplete", "manifest missing"),
  "missing manifest file": (lambda folder: (folder / "manifest/data.json").unlink(), "manifest", "data.json"),
  "truncated manifest": (lambda folder: os.truncate(folder / "manifest/data.json", 50), "manifest", "data.json"),
  "missing state": (lambda folder: shutil.rmtree(folder / "state"), "incomplete", "state missing"),
  "missing marker": (lambda folder: (folder / "commit_success.txt").unlink(), "no-commit-marker", "missing"),
  "empty folder": (empty, "empty", "empty"),
}


@pytest.mark.usefixtures("silent_orbax")
@pytest.mark.parametrize("damage", DAMAGE)
def test_damage_is_named_set_aside_and_the_one_before_is_used(copy, damage, capfd, caplog):
  harm, reason, words = DAMAGE[damage]
  harm(copy / "3")
  left = len(data_files(copy / "3"))
  restored, events = restore(copy)
  assert restored.step == 2
  assert_same(restored.state, make_state(2))
  assert set_aside(copy) == [f"3-{reason}"]
  assert len(data_files(copy / "set-aside" / f"3-{reason}")) == left  # nothing is deleted
  (_, bad), (_, good) = events
  assert (bad["step"], bad["ok"], good["step"], good["ok"]) == (3, False, 2, True)
  assert words in bad["reason"]
  gc.collect()  # asyncio complains of forgotten errors when they are collected
  printed = capfd.readouterr().err
  assert printed.startswith("checkpoint 3 is damaged: ") and words in printed
  assert printed.count("\n") == 1 and not caplog.records, "one line, and no noise from libraries"
  # The step can be saved again, and damaged again.
  with checkpoints(copy) as c:
    c.restore_latest(abstract(make_state()))
    assert c.save(3, make_state(3), host={"position": 1})
  harm(copy / "3")
  assert restore(copy)[0].step == 2
  assert set_aside(copy) == [f"3-{reason}", f"3-{reason}-2"]


def test_several_damaged_ones_are_passed_over(copy):
  flip_weight(copy / "3")
  truncate(copy / "2")
  restored, events = restore(copy)
  assert restored.step == 1
  assert [f["step"] for _, f in events] == [3, 2, 1]


def test_when_all_are_damaged_nothing_starts_over_by_itself(copy):
  for step in (1, 2, 3):
    flip_weight(copy / str(step))
  for _ in range(2):  # the second time there are no checkpoints left, only what was set aside
    with pytest.raises(UserError, match="no checkpoint .* is intact.*--workdir"):
      restore(copy)
  assert set_aside(copy) == ["1-checksum", "2-checksum", "3-checksum"]


def test_a_first_save_killed_just_before_its_marker_is_gone_on_from(tmp_path, capfd):
  save_steps(tmp_path, 1)
  (tmp_path / "1" / "commit_success.txt").unlink()
  restored, events = restore(tmp_path)
  assert restored.step == 1 and events[-1][1]["ok"]
  assert_same(restored.state, make_state(1))
  assert steps_on_disk(tmp_path) == [1] and not set_aside(tmp_path)
  assert "whole but for its commit marker" in capfd.readouterr().err
  assert restore(tmp_path)[0].step == 1


def test_a_checkpoint_that_lacks_more_than_its_marker_is_not_gone_on_from(tmp_path):
  save_steps(tmp_path, 1)
  (tmp_path / "1" / "commit_success.txt").unlink()
  flip_weight(tmp_path / "1")
  with pytest.raises(UserError, match="no checkpoint .* is intact"):
    restore(tmp_path)
  assert set_aside(tmp_path) == ["1-checksum"] and not steps_on_disk(tmp_path)


@pytest.mark.alone
def test_a_due_save_is_passed_over_while_the_one_before_is_being_written(tmp_path, monkeypatch, capfd):
  monkeypatch.setattr(manager, "PATIENCE_SECONDS", 0.05)
  events, writing = [], threading.Event()
  plain = arrays.save_async

  class Slow:
    def __init__(self, response):
      self._response = response

    def result(self, timeout=None):
      if not writing.wait(timeout):
        raise TimeoutError
      return self._response.result(timeout=None)

  monkeypatch.setattr(arrays, "save_async", lambda *args: Slow(plain(*args)))
  with checkpoints(tmp_path, every_steps=2, on_event=lambda name, **f: events.append((name, f["step"]))) as c:
    assert c.should_save(2) and c.save(2, make_state(2), host={})
    began = time.perf_counter()
    assert not c.should_save(3) and not c.should_save(4)
    assert time.perf_counter() - began < 1
    writing.set()
    assert c.should_save(6)
  assert events == [("save_passed_over", 4), ("saved", 2)]
  assert (
    "checkpoint 4 is passed over: that of step 2 is still being written; raise checkpoint.every_steps"
    in capfd.readouterr().err
  )


def test_a_killed_first_save_starts_over(tmp_path):
  save_steps(tmp_path, 1)
  for name in ("commit_success.txt", "_CHECKPOINT_METADATA"):
    (tmp_path / "1" / name).unlink()
  (tmp_path / "2").mkdir()
  restored, events = restore(tmp_path)
  assert restored is None
  assert [f["step"] for _, f in events] == [1, 2]
  assert not (tmp_path / "1").exists()
  assert set_aside(tmp_path) == ["2-empty"]


def test_another_configuration_is_an_error_that_names_the_array_and_harms_nothing(copy):
  before = sorted(path.relative_to(copy) for path in copy.rglob("*"))
  with pytest.raises(
    UserError, match=r"params/encoder/layer_0/kernel: .* float32 \[128, 8\], this run float32 \[32, 8\]"
  ):
    restore(copy, abstract(make_state(width=32)))
  state = make_state()
  state.params["extra"] = jnp.zeros(3)
  with pytest.raises(UserError, match=r"params/extra: the checkpoint has nothing, this run float32 \[3\]"):
    restore(copy, abstract(state))
  with pytest.raises(UserError, match="opt_state/1/0/count: the checkpoint has int32"):
    restore(copy, abstract(make_state()._replace(opt_state=())))
  assert sorted(path.relative_to(copy) for path in copy.rglob("*")) == before


def test_a_restore_that_fails_for_another_reason_sets_nothing_aside(copy, monkeypatch):
  def fail(path, wanted, partial=False):
    if isinstance(jax.tree.leaves(wanted)[0], jax.ShapeDtypeStruct):
      raise ValueError("RESOURCE_EXHAUSTED: out of memory on the device")
    return load(path, wanted, partial)

  load = arrays.load_arrays
  monkeypatch.setattr(arrays, "load_arrays", fail)
  with pytest.raises(RuntimeError, match="is intact, but restoring it failed.*out of memory on the device"):
    restore(copy)
  assert set_aside(copy) == []


def flip_and_restore(folder: pathlib.Path, rng: random.Random) -> str:
  """Flips a random bit of checkpoint 3, restores, and says what became of it. Mends it again."""
  path = rng.choice(data_files(folder / "3"))
  position, bit = rng.randrange(path.stat().st_size), rng.randrange(8)
  original = path.read_bytes()
  flip(path, position, bit)
  restored, _ = restore(folder)
  assert_same(restored.state, make_state(restored.step))
  assert restored.host["position"] == restored.step * 2**40
  if restored.step == 3:
    assert set_aside(folder) == []
    path.write_bytes(original)
    return "harmless"
  assert restored.step == 2
  (aside,) = set_aside(folder)
  (folder / "set-aside" / aside / path.relative_to(folder / "3")).write_bytes(original)
  (folder / "set-aside" / aside).rename(folder / "3")
  return aside.removeprefix("3-")


def test_a_flipped_bit_anywhere_is_found_or_harmless(copy):
  rng = random.Random(0)
  seen = [flip_and_restore(copy, rng) for _ in range(30)]
  assert len(set(seen)) >= 3, seen  # some in the manifest, some in the arrays' files, some harmless


@pytest.mark.slow
def test_a_flipped_bit_anywhere_is_found_or_harmless_at_length(copy):
  rng = random.Random(1)
  for _ in range(300):
    flip_and_restore(copy, rng)


# Storage that fails is no damage.


@pytest.fixture
def brief(monkeypatch):
  """Pauses between two tries that a test can wait for."""
  monkeypatch.setattr(storage, "PAUSES_SECONDS", (0.01, 0.01))


class FailingReads:
  """Reads of files whose path ends with one of some names fail, as often as it is told."""

  def __init__(self, monkeypatch, number: int, *names: str, times: int = 10**9):
    self.left, plain_open = times, io.open

    def failing(plain):
      def call(path, *args, **kwargs):
        if isinstance(path, str | os.PathLike) and os.fspath(path).endswith(names) and self.left > 0:
          self.left -= 1
          raise OSError(number, os.strerror(number), os.fspath(path))
        return plain(path, *args, **kwargs)

      return call

    for module in (io, builtins):
      monkeypatch.setattr(module, "open", failing(plain_open))
    for name in ("scandir", "listdir"):
      monkeypatch.setattr(os, name, failing(getattr(os, name)))
    monkeypatch.setattr(os, "stat", failing(os.stat))


PLACES = ["manifest/data.json", "checkpoints/3", "checkpoints", "checkpoints/3/commit_success.txt"]


@pytest.mark.usefixtures("brief")
@pytest.mark.parametrize("number", [errno.ESTALE, errno.EIO, errno.ETIMEDOUT, errno.EACCES])
@pytest.mark.parametrize("place", PLACES)
def test_storage_that_fails_for_good_ends_the_start_and_changes_nothing(copy, monkeypatch, number, place):
  before = sorted(path.relative_to(copy) for path in copy.rglob("*"))
  with monkeypatch.context() as patch:
    FailingReads(patch, number, place)
    with pytest.raises(UserError if number == errno.EACCES else StorageError, match="cannot be read") as raised:
      restore(copy)
    with pytest.raises((UserError, StorageError), match="cannot be read"):
      reading.restore_params(copy)
  assert place in str(raised.value) and os.strerror(number) in str(raised.value)
  assert sorted(path.relative_to(copy) for path in copy.rglob("*")) == before
  assert restore(copy)[0].step == 3


@pytest.mark.usefixtures("brief")
@pytest.mark.parametrize("number", [errno.ESTALE, errno.EACCES])
@pytest.mark.parametrize("place", PLACES)
def test_storage_that_fails_once_is_asked_again(copy, monkeypatch, number, place):
  with monkeypatch.context() as patch:
    reads = FailingReads(patch, number, place, times=1)
    assert restore(copy)[0].step == 3
  assert reads.left == 0 and set_aside(copy) == []


@pytest.mark.usefixtures("brief")
@pytest.mark.parametrize("error", ["INTERNAL: [OS error 5: EIO Input/output error]", "[OS error 116: ESTALE]"])
def test_arrays_that_cannot_be_read_now_are_not_set_aside(copy, monkeypatch, error):
  plain, left = arrays.load_arrays, [10**9]

  def load(*args, **kwargs):
    if left[0] > 0:
      left[0] -= 1
      raise ValueError(error)
    return plain(*args, **kwargs)

  monkeypatch.setattr(arrays, "load_arrays", load)
  with pytest.raises(StorageError, match="OS error"):
    restore(copy)
  with pytest.raises(StorageError, match="OS error"):
    reading.restore_params(copy)
  assert set_aside(copy) == []
  left[0] = 2
  assert restore(copy)[0].step == 3


@pytest.mark.usefixtures("brief", "silent_orbax")
def test_a_file_whose_bytes_the_disk_does_not_give_is_not_set_aside(copy):
  """TensorStore takes it for an empty file; the kernel answers EIO to whoever reads there."""
  path = copy / "3/state/manifest.ocdbt"
  original = path.read_bytes()
  path.unlink()
  path.symlink_to("/proc/self/mem")
  with pytest.raises(StorageError, match="Input/output error"):
    restore(copy)
  assert set_aside(copy) == [] and steps_on_disk(copy) == [1, 2, 3]
  path.unlink()
  path.write_bytes(original)
  assert restore(copy)[0].step == 3


# What belongs together.


def test_a_checkpoint_under_another_steps_name_is_set_aside(copy):
  shutil.copytree(copy / "2", copy / "7")
  with pytest.raises(UserError, match="checkpoint .*7 is damaged: it is a copy of checkpoint 2 under another name"):
    reading.restore_params(copy, 7)
  assert reading.restore_params(copy)[1]["step"] == 3
  assert restore(copy)[0].step == 3
  assert set_aside(copy) == ["7-other-step"]


MEANING = {"run.json": "a", "config.json": {"layers": 2, "act": "gelu"}, "tokenizer/vocab.txt": "0f", "labels.json": {}}


@pytest.mark.parametrize(
  "change, message",
  [
    ({"run.json": "b"}, r"checkpoint .*/\d belongs to another run: its id is a, and .*run.json has b"),
    ({"config.json": {"layers": 4, "act": "gelu"}}, r"config.json: layers is 4 now, and was 2"),
    ({"tokenizer/vocab.txt": "1f"}, r"tokenizer/vocab.txt: its content has changed"),
    ({"tokenizer/vocab.txt": None}, r"tokenizer/vocab.txt: it is missing"),
    ({"tokenizer/added_tokens.json": "2f"}, r"added_tokens.json: it was not there when they were saved"),
  ],
)
def test_files_that_give_weights_another_meaning_are_named_and_nothing_is_touched(tmp_path, change, message):
  save_steps(tmp_path / "run/checkpoints", 1, 3, meaning=MEANING)
  assert restore(tmp_path / "run/checkpoints", meaning=MEANING)[0].step == 3
  now = {name: value for name, value in (MEANING | change).items() if value is not None}
  with pytest.raises(UserError, match=message):
    restore(tmp_path / "run/checkpoints", meaning=now)
  with pytest.raises(UserError, match=message):
    reading.restore_params(tmp_path / "run/checkpoints", meaning=now)
  with pytest.raises(UserError, match=message):
    reading.restore_state(tmp_path / "run/checkpoints", abstract(make_state()), meaning=now)
  assert set_aside(tmp_path / "run/checkpoints") == [] and steps_on_disk(tmp_path / "run/checkpoints") == [1, 3]


def test_checkpoints_of_earlier_versions_and_new_keys_of_later_ones_are_read(copy, tmp_path):
  assert restore(copy, meaning=MEANING)[0].step == 3
  save_steps(tmp_path / "other", 1, meaning=MEANING)
  later = MEANING | {"config.json": MEANING["config.json"] | {"new": 1}}
  assert restore(tmp_path / "other", meaning=later)[0].step == 1


# Readers: inference and export.


def test_params_are_read_as_numpy_without_the_optimizer(copy):
  params, host = reading.restore_params(copy)
  assert host == {"position": 3 * 2**40, "step": 3}
  assert all(isinstance(leaf, np.ndarray) for leaf in jax.tree.leaves(params))
  assert_same(params, make_state(3).params)
  params, _ = reading.restore_params(copy, 1)
  assert_same(params, make_state(1).params)


def test_a_reader_passes_over_damage_and_changes_nothing(copy, capfd):
  flip_weight(copy / "3")
  (copy / "4").mkdir()  # a save that is just beginning
  before = sorted(path.relative_to(copy) for path in copy.rglob("*"))
  params, host = reading.restore_params(copy)
  assert host["step"] == 2
  assert_same(params, make_state(2).params)
  assert "checkpoint 3 is damaged" in capfd.readouterr().err
  state, host = reading.restore_state(copy, abstract(make_state()))
  assert host["step"] == 2
  assert_same(state, make_state(2))
  with pytest.raises(UserError, match="damaged.*params/encoder/layer_0/kernel"):
    reading.restore_params(copy, 3)
  assert sorted(path.relative_to(copy) for path in copy.rglob("*")) == before


def test_a_reader_says_which_checkpoints_there_are(copy, tmp_path):
  with pytest.raises(UserError, match="no checkpoint 7 .*there are 1, 2, 3"):
    reading.restore_params(copy, 7)
  with pytest.raises(UserError, match="saved none yet"):
    reading.restore_params(tmp_path / "nothing")


# Kills.

CHILD = """
import sys
import jax
import jax.numpy as jnp
from bert_jax.training.checkpoints import manager as checkpoint
from bert_jax.training.model_selection import ModelSelection

SELECTION = ModelSelection("eval/loss")
large_state = jax.jit(lambda step: {
    "params": {f"w{i}": jnp.arange(1 << 17, dtype=jnp.float32) * (i + 1) + step for i in range(40)}
})
place = jax.sharding.SingleDeviceSharding(jax.devices()[0])
like = jax.eval_shape(large_state, 0)
like = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=place), like)
with checkpoint.Checkpoints(sys.argv[1], every_steps=1, keep_last=2, keep_best=0, selection=SELECTION) as c:
  restored = c.restore_latest(like)
  step = restored.step if restored else 0
  print("restored", step, flush=True)
  while True:
    step += 1
    c.save(step, large_state(step), host={"position": step})
    print("saving", step, flush=True)
"""


def large_state(step: int):
  """What the child saves at a step: integers below 2^24, exact in float32 however they are computed."""
  ramp = np.arange(1 << 17, dtype=np.float32)
  return {"params": {f"w{i}": ramp * np.float32(i + 1) + np.float32(step) for i in range(40)}}


def run_and_kill(folder: pathlib.Path, rng: random.Random) -> tuple[int, int]:
  """Lets a child save and save, and SIGKILLs it during a save. Returns (step it resumed from, step it was saving)."""
  environment = os.environ | {"PYTHONPATH": str(REPOSITORY), "JAX_PLATFORMS": "cpu"}
  child = subprocess.Popen(
    [sys.executable, "-c", CHILD, str(folder)], stdout=subprocess.PIPE, text=True, env=environment
  )
  try:
    word, resumed = child.stdout.readline().split()
    assert word == "restored"
    for _ in range(rng.randrange(2, 5)):
      word, step = child.stdout.readline().split()
    time.sleep(rng.random() * 0.15)
  finally:
    child.send_signal(signal.SIGKILL)
    rest = child.communicate()[0].split()
  return int(resumed), int(rest[-1] if rest else step)


def check_after_kill(folder: pathlib.Path, saving: int) -> int:
  """A save begins when the one before is committed, so that at most the last one is lost."""
  params, host = reading.restore_params(folder)
  assert host["step"] == host["position"]
  assert host["step"] in (saving - 1, saving)
  assert_same(params, large_state(host["step"])["params"])
  return host["step"]


def test_a_kill_during_a_save_loses_at_most_that_save(tmp_path):
  _, saving = run_and_kill(tmp_path, random.Random(0))
  step = check_after_kill(tmp_path, saving)
  restored, _ = restore(tmp_path, abstract(large_state(0)))
  assert restored.step == step
  assert_same(restored.state, large_state(step))
  # A kill between a commit and the removal of the oldest leaves one more; the next save takes it away.
  with checkpoints(tmp_path, keep_last=2) as c:
    assert c.save(step + 1, large_state(step + 1), host={"position": step + 1})
  assert {path.name for path in tmp_path.iterdir()} - {"set-aside"} == {str(step), str(step + 1)}


@pytest.mark.slow
def test_many_kills_and_resumes_lose_at_most_one_save_each(tmp_path):
  rng, step = random.Random(1), 0
  for _ in range(10):
    resumed, saving = run_and_kill(tmp_path, rng)
    assert resumed == step
    step = check_after_kill(tmp_path, saving)
  assert all(name.endswith("-empty") for name in set_aside(tmp_path))


# Several processes.

PROCESS = """
import sys
import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding, PartitionSpec
from bert_jax.training.checkpoints import manager as checkpoint
from bert_jax.training.model_selection import ModelSelection

SELECTION = ModelSelection("eval/loss")
rank, port, folder = int(sys.argv[1]), sys.argv[2], sys.argv[3]
jax.config.update("jax_num_cpu_devices", 2)
jax.distributed.initialize(f"127.0.0.1:{port}", 2, rank, initialization_timeout=60, heartbeat_timeout_seconds=20)
mesh = jax.make_mesh((4,), ("fsdp",), axis_types=(jax.sharding.AxisType.Auto,))
where = {"params": {"w": NamedSharding(mesh, PartitionSpec("fsdp")), "b": NamedSharding(mesh, PartitionSpec())}}
make = lambda s: {"params": {"w": jnp.arange(4096.0).reshape(8, 512) + s, "b": jnp.full(3, s, jnp.float32)}}
make = jax.jit(make, out_shardings=where)
like = jax.eval_shape(make, 0)
like = jax.tree.map(lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), like, where)
with checkpoint.Checkpoints(folder, every_steps=1, keep_last=3, keep_best=0, selection=SELECTION) as c:
  restored = c.restore_latest(like)
  step = restored.step if restored else 0
  if restored:
    assert all(jnp.array_equal(a, b) for a, b in zip(jax.tree.leaves(restored.state), jax.tree.leaves(make(step))))
  print("restored", step, flush=True)
  for step in range(step + 1, step + 4):
    c.save(step, make(step), host={"position": step})
"""


def run_two_processes(folder: pathlib.Path) -> list[str]:
  """What each of two processes says that share `folder` and a mesh of four devices."""
  with socket.socket() as probe:
    probe.bind(("127.0.0.1", 0))
    port = str(probe.getsockname()[1])
  environment = os.environ | {"PYTHONPATH": str(REPOSITORY), "JAX_PLATFORMS": "cpu"}
  both = [
    subprocess.Popen(
      [sys.executable, "-c", PROCESS, str(rank), port, str(folder)],
      stdout=subprocess.PIPE,
      stderr=subprocess.PIPE,
      text=True,
      env=environment,
    )
    for rank in (0, 1)
  ]
  try:
    answers = [process.communicate(timeout=120) for process in both]
  finally:
    for process in both:
      process.kill()
  assert [process.returncode for process in both] == [0, 0], answers
  return [next(line for line in out.splitlines() if line.startswith("restored")) for out, _ in answers]


@pytest.mark.slow
def test_two_processes_choose_the_same_checkpoint(tmp_path):
  assert run_two_processes(tmp_path) == ["restored 0", "restored 0"]
  (tmp_path / "2" / "commit_success.txt").unlink()
  path = max(data_files(tmp_path / "3" / "state"), key=lambda path: path.stat().st_size)
  flip(path, 2000, 2)
  assert run_two_processes(tmp_path) == ["restored 1", "restored 1"]
  assert set_aside(tmp_path) == ["2-no-commit-marker", "3-checksum"]
  assert steps_on_disk(tmp_path) == [2, 3, 4]
