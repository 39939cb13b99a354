"""Law 7 with real processes: every kind of damage is named, set aside, and passed over, on every process alike."""

import os
import shutil
import signal
import time

import pytest

from tests.faults.processes import SLOW_STEPS, Processes, events, run, steps_saved, weights

STEPS = ("total_steps=12", "eval_every_steps=100", "checkpoint.every_steps=4", "checkpoint.keep_last=3")


def largest(folder):
  return max((path for path in folder.rglob("*") if path.is_file()), key=lambda path: path.stat().st_size)


def flip_bit(folder):
  """One bit in the middle of the arrays."""
  path = largest(folder / "state")
  data = bytearray(path.read_bytes())
  data[len(data) // 2] ^= 4
  path.write_bytes(data)


def empty(folder):
  shutil.rmtree(folder)
  folder.mkdir()


DAMAGE = {
  "flipped bit": (flip_bit, "checksum"),
  "truncated file": (lambda folder: os.truncate(largest(folder), largest(folder).stat().st_size // 2), "unreadable"),
  "empty folder": (empty, "empty"),
  "missing marker": (lambda folder: (folder / "commit_success.txt").unlink(), "no-commit-marker"),
}


@pytest.fixture(scope="module")
def finished(folder, corpus):
  """A run of two processes with two devices each, stopped after 8 of 12 steps, and one that went straight on."""
  run(folder, corpus, "whole", (*STEPS, "stop_at_step=8"), devices=2)
  run(folder, corpus, "straight", STEPS, devices=2)
  return folder / "whole"


@pytest.mark.parametrize("damage", DAMAGE)
def test_damage_is_named_set_aside_and_the_one_before_is_used_by_all(folder, corpus, finished, damage):
  harm, reason = DAMAGE[damage]
  name = f"damaged-{damage.replace(' ', '-')}"
  shutil.copytree(finished, folder / name)
  harm(folder / name / "checkpoints" / "8")
  ended = run(folder, corpus, name, STEPS, devices=2)
  assert "checkpoint 8 is damaged: " in ended[0].output and "damaged" not in ended[1].output
  assert [path.name for path in (folder / name / "checkpoints" / "set-aside").iterdir()] == [f"8-{reason}"]
  assert events(folder / name, "restore")[-1]["step"] == 4
  assert weights(folder / name) == weights(folder / "straight")


def test_processes_killed_in_the_middle_of_a_save_go_on_from_the_one_before(folder, corpus, finished):
  name = "killed-in-a-save"
  with Processes(folder, corpus, name, STEPS, devices=2) as processes:
    processes.wait_for(lambda: (folder / name / "checkpoints" / "8").exists())
    processes.signal(1, signal.SIGSTOP)  # a save is committed by all: now it stays where it is
    time.sleep(0.5)
    assert steps_saved(folder / name) == [4]
    for number in (0, 1):
      processes.signal(number, signal.SIGKILL)
    processes.ended(30)
  run(folder, corpus, name, STEPS, devices=2)
  assert events(folder / name, "restore")[-1]["step"] == 4
  assert weights(folder / name) == weights(folder / "straight")


FAIL_IN_BACKGROUND = """
from bert_jax.training.checkpoints import arrays as checkpoint_files
plain_save = checkpoint_files.save_async
class Failing:
  def __init__(self, response):
    self._response = response
  def result(self, timeout=None):
    self._response.result(timeout=timeout)
    raise OSError(28, "No space left on device")
def save(path, *items):
  return Failing(plain_save(path, *items)) if path.name == "8" else plain_save(path, *items)
checkpoint_files.save_async = save
"""


def test_a_failed_background_save_on_one_process_is_an_error_on_all_at_the_next_step(folder, corpus):
  name = "failed-in-background"
  steps = ("total_steps=200", "eval_every_steps=1000", "checkpoint.every_steps=4", "checkpoint.keep_last=3")
  ended = run(folder, corpus, name, steps, code=1, sabotage={1: FAIL_IN_BACKGROUND + SLOW_STEPS})
  for one in ended:
    assert one.output.count("No space left on device. Free some space for ") == 1 and "Traceback" not in one.output, (
      one.output
    )
  assert max(steps_saved(folder / name)) <= 8
