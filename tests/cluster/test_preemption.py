"""The time before training: a notice interrupts what is under way. tests/faults does it with real signals."""

import concurrent.futures
import threading
import time

import pytest

from bert_jax.cluster import preemption
from bert_jax.cluster.preemption import Preempted, Preemption
from bert_jax.errors import UserError

pytestmark = pytest.mark.alone


@pytest.fixture
def notice(monkeypatch):
  """Call it with the tick that all processes agree on."""
  at = []
  monkeypatch.setattr(preemption.multihost_utils, "reached_preemption_sync_point", lambda tick: tick in at)
  monkeypatch.setattr(preemption, "TICK_SECONDS", 0.01)
  return at.append


def never():
  raise AssertionError("ended the process")


def test_what_is_under_way_is_interrupted_and_cleans_up(notice):
  cleaned = []
  notice(5)
  with pytest.raises(Preempted) as stopped, Preemption().while_starting(never):
    try:
      time.sleep(30)
    finally:
      cleaned.append(True)
  assert cleaned and stopped.value.step == 0


def test_a_notice_for_a_later_tick_is_met_in_training_on_every_process(notice):
  """The processes enter training after different numbers of ticks, and pass every number nevertheless."""
  for seconds in (0.0, 0.1):
    one = Preemption()
    with one.while_starting(never):
      time.sleep(seconds)
    assert one._ticks == preemption._TICKS_BEFORE_TRAINING and not one.poll()
  notice(preemption._TICKS_BEFORE_TRAINING - 1)  # one process was there already
  one = Preemption()
  with one.while_starting(never):
    pass
  assert one.poll()


def test_what_cannot_be_interrupted_ends_with_the_process(notice, monkeypatch):
  monkeypatch.setattr(preemption, "_GRACE_SECONDS", 0.05)
  left = threading.Event()
  notice(2)
  with pytest.raises(Preempted), Preemption().while_starting(left.set):
    try:
      time.sleep(30)
    except KeyboardInterrupt:
      assert left.wait(5)  # stands for a call that hears of nothing


def test_workers_that_the_same_signal_has_ended_are_no_mistake_of_the_user(notice):
  notice(2)
  with pytest.raises(Preempted), Preemption().while_starting(never):
    raise UserError("a worker process died") from concurrent.futures.BrokenExecutor()


def test_without_a_notice_errors_and_ctrl_c_are_what_they_were(notice):
  for error in (UserError("a mistake"), KeyboardInterrupt()):
    with pytest.raises(type(error)), Preemption().while_starting(never):
      raise error
