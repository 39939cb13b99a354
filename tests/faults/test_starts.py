"""A start that cannot work: one message, exit code 1, on every process, within the time that the config states."""

import subprocess
import time

import pytest

from tests.faults.processes import Processes

STEPS = ("total_steps=6", "eval_every_steps=100", "checkpoint.every_steps=3")


def expect_everywhere(ended, *words):
  """Every process ended with 1 and said `words`, once and without a traceback."""
  for one in ended:
    assert one.code == 1 and "Traceback" not in one.output, one.output
    for word in words:
      assert one.output.count(word) == 1, (word, one.output)


def test_who_is_missing_is_named(folder, corpus):
  began = time.monotonic()
  with Processes(folder, corpus, "missing", (*STEPS, "cluster.connect_seconds=8"), count=3, missing=[1]) as processes:
    ended = processes.ended(60)
  assert time.monotonic() - began < 50
  expect_everywhere(ended, "waited 8 s at 127.0.0.1:", "for process 1 of 3; 0 (", ", 2 (")


def test_a_coordinator_that_cannot_be_reached_is_named(folder, corpus):
  with Processes(folder, corpus, "unreachable", (*STEPS, "cluster.connect_seconds=5"), missing=[0]) as processes:
    ended = processes.ended(60)
  expect_everywhere(ended, "process 1 of 2 on ", "waited 5 s for process 0 at 127.0.0.1:")


def test_processes_with_different_configs_are_told_the_key(folder, corpus):
  with Processes(folder, corpus, "configs", STEPS, each={1: ("optimizer.learning_rate=0.5",)}) as processes:
    ended = processes.ended(60)
  expect_everywhere(ended, "started differently", "optimizer.learning_rate=0.5, process 0 0.01")
  assert not (folder / "configs").exists()


def test_processes_with_different_code_are_told_so(folder, corpus):
  other = """
  from bert_jax.cluster import rendezvous
  rendezvous.code_fingerprint = lambda: "0123456789ab"
  """
  with Processes(folder, corpus, "code", STEPS, sabotage={1: other}) as processes:
    ended = processes.ended(60)
  expect_everywhere(ended, "runs a different version of bert_jax, fingerprint 0123456789ab")


@pytest.mark.parametrize(
  "override, words",
  [
    ("mesh.data=3", "mesh.data=3, mesh.fsdp=1, mesh.tensor=1 does not fit 2 devices"),
    ("data.batch_size=7", "data.batch_size=7 does not divide over 2 devices"),
    ("model.max_position_embeddings=16", "rows of"),
  ],
)
def test_a_config_that_does_not_fit_is_one_message_everywhere(folder, corpus, override, words):
  name = f"fit-{override.replace('=', '-')}"
  with Processes(folder, corpus, name, (*STEPS, override)) as processes:
    ended = processes.ended(60)
  expect_everywhere(ended, words)
  assert not (folder / name / "checkpoints").exists()


def test_a_corpus_that_one_host_does_not_see_is_named_with_the_host(folder, corpus):
  blind = """
  from bert_jax.runs import corpus as run
  plain = run.open_data
  def open_data(config):
    config.data.corpus = "/not/mounted/here"
    return plain(config)
  run.open_data = open_data
  """
  with Processes(folder, corpus, "blind", STEPS, sabotage={1: blind}) as processes:
    ended = processes.ended(60)
  expect_everywhere(ended, "/not/mounted/here: there is no such corpus folder")
  assert "process 1 on " in ended[0].output


@pytest.fixture
def small_disk(folder):
  """A file system of 600 KB."""
  place = folder / "small-disk"
  place.mkdir(exist_ok=True)
  if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=600k", "tmpfs", place], capture_output=True).returncode:
    pytest.skip("mounting a small file system needs root")
  yield place
  subprocess.run(["umount", "-l", place], check=True)


def test_a_checkpoint_directory_that_fills_up_is_one_message_everywhere(folder, corpus, small_disk):
  """The tiny model's checkpoints take some 200 KB each."""
  wide = ("model.intermediate_size=1024", "checkpoint.keep_last=10", "total_steps=12")
  with Processes(folder, corpus, "small-disk/run", (*STEPS, *wide)) as processes:
    ended = processes.ended(90)
  for one in ended:
    assert one.code == 1 and "Traceback" not in one.output, one.output
    assert "No space left on device" in one.output and "ree some space" in one.output, one.output


def test_a_workdir_that_cannot_be_written_is_one_message_everywhere(folder, corpus, small_disk):
  subprocess.run(["mount", "-o", "remount,ro", small_disk], check=True)
  with Processes(folder, corpus, "small-disk-log", STEPS, flags=[f"--workdir={small_disk / 'run'}"]) as processes:
    ended = processes.ended(60)
  expect_everywhere(ended, "Read-only file system; choose a path that you can read and write")
