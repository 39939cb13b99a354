"""Checkpoints that count only when verified: saved in the background, kept, tidied up, restored.

A checkpoint is one folder, written in the background while training goes on:

    checkpoints/300/state/               the arrays, by Orbax, as a nested dict
                    manifest/data.json   step, host values, metrics; dtype, shape and checksum of every array
                    commit_success.txt   written last: without it the checkpoint does not count

Orbax sees missing files but hands out flipped bits without a word, so every
array has a checksum of its own (see checksums.py), computed on the devices
before the save and again after the restore, and the manifest has a SHA-256 of
itself. Nothing here is pickled; readers meet JSON and arrays only.

Damage is never deleted. `checkpoints/300` becomes
`checkpoints/set-aside/300-REASON`, so that step 300 can be saved again, and the
newest good checkpoint before it is used. A folder with neither the commit
marker nor the metadata that Orbax writes just before it never was a
checkpoint: its save was killed, and it is removed. An object store, which has no
rename, gets a marker object instead; checkpoint_folder.py tells how.

With several processes the first one tidies up and names the candidates, and a
candidate counts as read only when every process has read it (agreement.py), so
that all take the same decision.
"""

import json
import math
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
from etils import epath

from bert_jax.cluster.agreement import from_first, on_first
from bert_jax.errors import UserError
from bert_jax.io import storage
from bert_jax.training.checkpoints import arrays as checkpoint_files
from bert_jax.training.checkpoints import folder as folders
from bert_jax.training.checkpoints.checksums import array_facts
from bert_jax.training.checkpoints.folder import Damaged, Manifest
from bert_jax.training.checkpoints.reading import checkpoints_folder, log, read_state, read_verified
from bert_jax.training.model_selection import ModelSelection

# A due save waits so long for the one before, and is passed over then.
PATIENCE_SECONDS = 5.0


class Restored(NamedTuple):
  """A verified checkpoint.

  Attributes:
    state: pytree of jax.Array, with the structure and shardings that were asked for.
    step: which checkpoint it is.
    host: what was saved beside the state (position in the data, seed, corpus_id, …), and `step`.
  """

  state: Any
  step: int
  host: dict[str, Any]


class _Pending(NamedTuple):
  """A save in the background: its step and metrics, Orbax's response, and when it began (time.perf_counter)."""

  step: int
  metrics: dict[str, float]
  response: Any
  began: float


class Checkpoints:
  """Saves in the background, keeps the last and the best, restores the newest good one.

      with Checkpoints(folder, every_steps=1000, keep_last=3, keep_best=1, selection=selection) as checkpoints:
        restored = checkpoints.restore_latest(abstract_state)
        for step in …:
          if checkpoints.should_save(step):
            checkpoints.save(step, state, host={"position": position}, metrics={"eval/loss": loss})
        checkpoints.wait()

  A failed background save is raised by the next should_save, save or wait, whichever comes first.
  """

  def __init__(
    self,
    directory,
    *,
    every_steps: int,
    keep_last: int,
    keep_best: int,
    selection: ModelSelection,
    on_event: Callable = lambda *_, **__: None,
    meaning: dict[str, Any] | None = None,
  ):
    """
    Args:
      directory: the folder of this run's checkpoints; made when the first one is saved.
      every_steps: should_save is true at its multiples.
      keep_last: newest checkpoints to keep, at least two whatever it says: one to fall back on.
      keep_best: checkpoints with the best metrics to keep besides.
      selection: tells which of those given to `save` are the best.
      on_event: called as on_event("verify", step=…, ok=…, …) for every checkpoint that is looked at, as
        on_event("saved", step=…, seconds=…) when one is committed, and as on_event("save_passed_over", step=…,
        because=…).
      meaning: what the run folder says about its weights (Manifest.meaning): saved with every checkpoint, and compared
        with those that are there.
    """
    if every_steps < 1:
      raise UserError(f"checkpoint.every_steps must be 1 or more, got {every_steps}")
    self._directory = checkpoints_folder(directory)
    self._every_steps, self._keep_last, self._keep_best = every_steps, max(2, keep_last), max(0, keep_best)
    self._judge, self._on_event, self._meaning = selection, on_event, json.loads(json.dumps(meaning or {}))
    self._saved: dict[int, dict[str, float]] = {}  # step -> metrics, of every checkpoint that counts
    self._listed = False  # whether those of earlier attempts are in it
    self._pending: _Pending | None = None  # the save in the background

  def __enter__(self):
    return self

  def __exit__(self, kind, error, trace):
    try:
      self.wait()
    except Exception as failure:
      if error is None:
        raise
      log(f"another error: {failure}")  # the first error is the one to show

  def restore_latest(self, abstract_state) -> Restored | None:
    """Restores the newest checkpoint that verifies; sets the damaged ones above it aside.

    Args:
      abstract_state: pytree of jax.ShapeDtypeStruct with shardings; any mesh, also another than at the save.

    Returns:
      Restored, or None where nothing was ever saved.

    Raises:
      UserError: every checkpoint is damaged; or a sound one has other arrays than `abstract_state`
        (the first is named, nothing is set aside); or one belongs to another run, or a file of the run folder is not
        what it was.
      StorageError: storage failed; nothing is set aside.
    """
    self.wait()
    damaged = self._tidy_up()
    for step in from_first(sorted(self._saved, reverse=True)):
      began, path = time.perf_counter(), self._folder_of(step)
      try:
        state, host = read_verified(path, lambda path: read_state(path, abstract_state, self._meaning))
      except Damaged as damage:
        self._condemn(path, damage)
        damaged += 1
        continue
      self._on_event("verify", step=step, ok=True, seconds=round(time.perf_counter() - began, 3))
      return Restored(state, step, host)
    if (unmarked := self._restore_unmarked(abstract_state)) is not None:
      return unmarked
    if damaged or from_first(folders.has_damage(self._directory)):
      raise UserError(
        f"no checkpoint in {self._directory} is intact; damaged ones are in its folder {folders.SET_ASIDE}. "
        "Restore it from a backup, or train from the beginning: with another --workdir, or after moving "
        f"{self._directory} out of the way"
      )
    return None

  def _restore_unmarked(self, abstract_state) -> Restored | None:
    """A checkpoint that was set aside for its missing commit marker alone, put back where there is no other and it
    verifies.

    A process that is killed between the last array and the marker of its first save leaves just that.
    """
    for name in from_first(folders.unmarked(self._directory)):
      path = self._directory / name
      step = folders.step_of(path)
      on_first(lambda: folders.put_back(self._directory, name))
      try:
        state, host = read_verified(path, lambda path: read_state(path, abstract_state, self._meaning))
      except Damaged as damage:
        self._condemn(path, damage)
        continue
      self._saved[step] = folders.read_manifest(path).metrics
      self._on_event("verify", step=step, ok=True, marker="written again")
      log(
        f"checkpoint {step} is whole but for its commit marker, and there is no other: the marker is rewritten, "
        "and it is used"
      )
      return Restored(state, step, host)
    return None

  def should_save(self, step: int) -> bool:
    """Whether `step` is due, and can be saved without a wait for the save before. Raises what went wrong with that one.

    Where storage is slower than checkpoint.every_steps asks for, a step is passed over: training does not wait.
    """
    if self._pending is not None:
      self._settle(timeout=0)
    if step % self._every_steps:
      return False
    if self._pending is not None:
      self._settle(timeout=PATIENCE_SECONDS)
    busy = from_first(self._pending.step if self._pending else None)
    if busy is not None:
      self._on_event("save_passed_over", step=step, because=f"step {busy} is still being written")
      log(f"checkpoint {step} is passed over: that of step {busy} is still being written; raise checkpoint.every_steps")
    return busy is None

  def save(self, step: int, state, *, host: dict[str, Any], metrics: dict[str, float] | None = None) -> bool:
    """Begins to save; returns when `state` may be donated, while the writing goes on in the background.

    Args:
      step: names the checkpoint; one that is saved already is left as it is.
      state: pytree of arrays.
      host: JSON values (integers of any size).
      metrics: those known at this step.

    Returns:
      False if this step was saved before.

    Raises:
      UserError: an array of `state` holds NaN or infinity (nothing is written); the disk is full.
      RuntimeError: this save or the one before failed otherwise.
    """
    self.wait()
    if not self._listed:
      self._tidy_up()
    if step in self._saved:
      return False
    arrays = folders.by_path(state)
    facts = array_facts(arrays)
    bad = [name for name, fact in facts.items() if not fact.finite]
    if bad:
      others = f" (and so do {len(bad) - 1} others)" if len(bad) > 1 else ""
      raise UserError(
        f"step {step} is not saved: {bad[0]} holds NaN or infinity{others}; the checkpoints before are "
        "untouched. Resume with a lower optimizer.learning_rate or a longer optimizer.warmup_steps"
      )
    metrics = {name: float(value) for name, value in (metrics or {}).items() if math.isfinite(value)}
    records = {name: (str(a.dtype), tuple(a.shape), facts[name].checksum) for name, a in arrays.items()}
    manifest = folders.encode(Manifest(step, host, metrics, records, self._meaning))
    try:
      path = self._folder_of(step)
      response = checkpoint_files.save_async(path, arrays, manifest)
    except Exception as error:
      self._fail(step, error)
    self._pending = _Pending(step, metrics, response, time.perf_counter())
    return True

  def add_metrics(self, step: int, metrics: dict[str, float]) -> None:
    """Writes metrics beside those of a checkpoint that was saved before they were known."""
    self._saved[step] = self._saved[step] | {
      name: float(value) for name, value in metrics.items() if math.isfinite(value)
    }
    path = self._folder_of(step)
    on_first(lambda: folders.rewrite_metrics(path, self._saved[step]))

  def wait(self) -> None:
    """Returns when nothing is being written any more. Raises what went wrong."""
    if self._pending is not None:
      self._settle(timeout=None)

  def abandon(self) -> None:
    """Forgets a save in the background: it lacks its commit marker, and the next start removes it.

    Does nothing when alone.
    """
    if jax.process_count() > 1:
      self._pending = None

  def _settle(self, timeout: float | None) -> None:
    """Takes the background save's result if it is there within `timeout` seconds; drops old checkpoints."""
    assert self._pending
    step, metrics, response, began = self._pending
    try:
      response.result(timeout=timeout)
    except TimeoutError as error:
      if timeout is None:
        self._pending = None
        self._fail(step, error)
      return
    except Exception as error:
      self._pending = None
      self._fail(step, error)
    self._pending = None
    self._saved[step] = metrics
    self._on_event("saved", step=step, seconds=round(time.perf_counter() - began, 3))
    for old in sorted(set(self._saved) - self._worth_keeping()):
      del self._saved[old]
      if jax.process_index() == 0:
        folders.remove(folders.folder_of(self._directory, old))

  def _folder_of(self, step: int) -> epath.Path:
    """Where a step lies or will lie; the first process looks, for what it has just set aside others may not see yet."""
    return self._directory / from_first(
      folders.folder_of(self._directory, step).name if jax.process_index() == 0 else None
    )

  def _worth_keeping(self) -> set[int]:
    last = sorted(self._saved)[-self._keep_last :]
    return {*last, *self._judge.best_first(self._saved)[: self._keep_best]}

  def _fail(self, step: int, error: Exception) -> None:
    """Removes what a failed save left, and raises an error that says what to do."""
    path = self._directory / str(step)
    if jax.process_index() == 0:
      try:
        with storage.failures(path):
          path = folders.folder_of(self._directory, step)
          folders.remove(path)
      except OSError:
        pass  # it has no commit marker, so it does not count; the next start removes it
    saved = ", ".join(map(str, sorted(self._saved)))
    untouched = f"; the checkpoints before it ({saved}) are untouched" if saved else ""
    cause = folders.short(error)
    remedy = folders.remedy(cause, self._directory)
    if remedy:
      raise UserError(f"saving checkpoint {path} failed: {remedy}{untouched}") from error
    raise RuntimeError(f"saving checkpoint {path} failed: {cause}{untouched}") from error

  def _tidy_up(self) -> int:
    """Looks at every folder once: removes killed saves, sets obvious damage aside.

    Returns:
      The number of damaged checkpoints found.
    """
    self._saved, self._listed = {}, True
    damaged = on_first(self._look_at_all)
    self._saved = {step: self._saved.get(step, {}) for step in from_first(sorted(self._saved))}
    return damaged

  def _look_at_all(self) -> int:
    damaged = 0
    for path in folders.step_folders(self._directory):
      try:
        folders.check_committed(path)
        manifest = folders.read_manifest(path)
        folders.check_meaning(path, manifest, self._meaning)
        self._saved[folders.step_of(path)] = manifest.metrics
      except Damaged as damage:
        if damage.reason == "unfinished":
          self._on_event("verify", step=folders.step_of(path), ok=False, reason=damage.found, removed=True)
          log(f"checkpoint {path.name}: {damage.found}; removed")
          folders.remove(path)
          continue
        self._condemn(path, damage)
        damaged += damage.reason != "empty"  # an empty folder is what a kill right after mkdir leaves
    return damaged

  def _condemn(self, path: epath.Path, damage: Damaged) -> None:
    """Reports a damaged checkpoint and moves it out of the way."""
    self._saved.pop(folders.step_of(path), None)
    if jax.process_index() == 0:
      where = folders.set_aside(path, damage.reason)
      self._on_event("verify", step=folders.step_of(path), ok=False, reason=damage.found, set_aside=str(where))
      log(f"checkpoint {path.name} is damaged: {damage.found}; set aside as {where}")
