"""Orbax's forgotten errors are dropped, everybody else's are shown."""

import logging
import sys
import types

raised = lambda error: types.SimpleNamespace(exc_type=type(error), exc_value=error)


def test_only_forgotten_reads_of_checkpoints_are_dropped(silent_orbax, caplog):
  log = logging.getLogger("asyncio")
  log.error("Task exception was never retrieved\nfuture: ValueError('DATA_LOSS [tensorstore_spec=…]')")
  log.error("Task exception was never retrieved\nfuture: ZeroDivisionError")
  log.error("slow callback in orbax")
  assert [record.getMessage().split()[-1] for record in caplog.records] == ["ZeroDivisionError", "orbax"]


def test_only_closed_event_loops_are_dropped(monkeypatch, request):
  shown = []
  monkeypatch.setattr(sys, "unraisablehook", shown.append)
  request.getfixturevalue("silent_orbax")
  sys.unraisablehook(raised(RuntimeError("Event loop is closed")))
  sys.unraisablehook(raised(ValueError("a real one")))
  assert [str(each.exc_value) for each in shown] == ["a real one"]
