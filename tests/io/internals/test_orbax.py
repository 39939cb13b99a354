"""Orbax's forgotten errors are dropped, everybody else's are shown."""

import logging
import sys
import types
import warnings

import pytest

from bert_jax.io.internals.orbax import silence_orbax

raised = lambda error: types.SimpleNamespace(exc_type=type(error), exc_value=error)


@pytest.fixture
def shown(monkeypatch):
  """What reaches the hook that was there before; afterwards everything is as it was."""
  shown, loggers = [], [logging.getLogger("absl"), logging.getLogger("asyncio")]
  filters = [each.filters[:] for each in loggers]
  monkeypatch.setattr(sys, "unraisablehook", shown.append)
  with warnings.catch_warnings():
    silence_orbax()
    yield shown
  for each, before in zip(loggers, filters):
    each.filters[:] = before


def test_only_forgotten_reads_of_checkpoints_are_dropped(shown, caplog):
  log = logging.getLogger("asyncio")
  log.error("Task exception was never retrieved\nfuture: ValueError('DATA_LOSS [tensorstore_spec=…]')")
  log.error("Task exception was never retrieved\nfuture: ZeroDivisionError")
  log.error("slow callback in orbax")
  assert [record.getMessage().split()[-1] for record in caplog.records] == ["ZeroDivisionError", "orbax"]


def test_only_closed_event_loops_are_dropped(shown):
  sys.unraisablehook(raised(RuntimeError("Event loop is closed")))
  sys.unraisablehook(raised(ValueError("a real one")))
  assert [str(each.exc_value) for each in shown] == ["a real one"]
