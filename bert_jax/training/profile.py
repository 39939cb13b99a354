"""A trace of some steps, for xprof and Perfetto: `--profile=START:STOP`."""

import contextlib
import os
import pathlib
import tempfile
from collections.abc import Iterator

import jax

from bert_jax.errors import print_at_once
from bert_jax.io import storage


class Profile:
  """Traces the steps START to STOP - 1 into a folder. Without steps it does nothing."""

  def __init__(self, steps: tuple[int, int] | None, folder: str | os.PathLike):
    """
    Args:
      steps: the first step to trace, and the first one not to; None for no trace.
      folder: gets plugins/profile/TIME/ with *.xplane.pb (xprof, TensorBoard) and perfetto_trace.json.gz
        (ui.perfetto.dev).
    """
    self._start, self._stop = steps or (0, 0)
    self._folder, self._running = folder, False
    self._made_in: tempfile.TemporaryDirectory | None = None

  @contextlib.contextmanager
  def step(self, number: int) -> Iterator[None]:
    """A context in which a step is dispatched; in the trace it is marked with its number."""
    if self._start <= number < self._stop and not self._running:
      if storage.is_remote(self._folder):  # the profiler writes to file systems only
        self._made_in = tempfile.TemporaryDirectory(prefix="bert_jax-profile-")
      try:
        jax.profiler.start_trace(self._made_in.name if self._made_in else self._folder, create_perfetto_trace=True)
        self._running = True
      except Exception as error:
        self._give_up(error)
    with jax.profiler.StepTraceAnnotation("train", step_num=number) if self._running else contextlib.nullcontext():
      yield

  def after(self, step: int, result) -> None:
    """To be called when a step was dispatched, with anything that it will compute."""
    if self._running and step + 1 >= self._stop:
      jax.block_until_ready(result)
      self.close()

  def close(self) -> None:
    """Writes what was traced."""
    if self._running:
      self._running = False
      try:
        jax.profiler.stop_trace()
        if self._made_in:
          storage.send(pathlib.Path(self._made_in.name), self._folder)
          self._made_in.cleanup()
      except Exception as error:
        self._give_up(error)

  def _give_up(self, error: Exception) -> None:
    """A trace only tells of the steps: they go on without it."""
    self._start = self._stop = 0
    print_at_once(f"note: the steps are not traced into {self._folder} ({error}); training goes on")
