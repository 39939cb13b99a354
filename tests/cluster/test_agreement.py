"""One process agrees with itself, without jax.distributed. (Two processes: see test_checkpoint.py, slow.)"""

import pytest

from bert_jax.training import agreement


def test_one_process_takes_its_own_word():
  assert agreement.from_first([3, 2**31 - 1]) == [3, 2**31 - 1]
  assert agreement.together(lambda: "result") == "result"
  with pytest.raises(ZeroDivisionError):
    agreement.together(lambda: 1 / 0)


def test_a_failure_elsewhere_is_a_failure_here(monkeypatch):
  monkeypatch.setattr(agreement.jax, "process_count", lambda: 2)
  monkeypatch.setattr(agreement.multihost_utils, "process_allgather", lambda mine: [bool(mine), True])
  with pytest.raises(agreement.OtherProcessFailed):
    agreement.together(lambda: "result")
  with pytest.raises(ZeroDivisionError):
    agreement.together(lambda: 1 / 0)
