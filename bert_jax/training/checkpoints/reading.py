"""Reading checkpoints, verified: into a run that goes on, and for inference and export.

The checksums of the manifest are compared with those of what was read, on the
devices or by NumPy; nothing else is believed.
"""

import sys
import time
from collections.abc import Callable
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath

from bert_jax.cluster.agreement import together
from bert_jax.errors import StorageError, UserError, show
from bert_jax.io import storage
from bert_jax.io.numbers import check_finite
from bert_jax.training.checkpoints import arrays as checkpoint_files
from bert_jax.training.checkpoints import folder as folders
from bert_jax.training.checkpoints.checksums import array_facts, numpy_checksum
from bert_jax.training.checkpoints.folder import Damaged, Manifest

_Result = TypeVar("_Result")


def restore_params(
  directory, step: int | None = None, *, meaning: dict[str, Any] | None = None
) -> tuple[dict[str, Any], dict[str, Any]]:
  """Reads the parameters of a checkpoint, verified, into host memory: for inference and export.

  Only the parameters are read, no device and no mesh is needed, and the folder is left as
  it is, for a run may be training in it.

  Args:
    directory: a run's `checkpoints` folder.
    step: which one, or None for the newest that is sound (a damaged one above it is reported on stderr).
    meaning: what the run folder says about its weights, see folder.check_meaning; None: nothing is compared.

  Returns:
    (nested dict of numpy arrays, the host values with `step`).

  Raises:
    UserError: there is no such checkpoint, it is damaged, or the run folder gives it another meaning.
    StorageError: storage failed.
  """

  def read(path):
    manifest = folders.read_manifest(path)
    folders.check_meaning(path, manifest, meaning or {})
    specs = {name: spec for name, spec in _on_host(manifest).items() if name.startswith("params/")}
    if not specs:
      raise UserError(f"{path} holds no params: it is not a checkpoint of a training run")
    arrays = storage.patiently(lambda: checkpoint_files.load_arrays(path, specs, partial=True), path)
    folders.compare_checksums(manifest, {name: numpy_checksum(array) for name, array in arrays.items()})
    check_finite(arrays, str(path))
    return folders.nested(arrays)["params"], manifest.host_values

  return _newest_sound(checkpoints_folder(directory), step, read)


def restore_state(
  directory, abstract_state, step: int | None = None, *, meaning: dict[str, Any] | None = None
) -> tuple[Any, dict[str, Any]]:
  """Reads a whole state, verified, onto the devices; the folder is left as it is, for it is another run's.

  Args:
    directory, step, meaning: as for restore_params.
    abstract_state: as for Checkpoints.restore_latest.

  Returns:
    (state, the host values with `step`).

  Raises:
    UserError: as restore_params; or the checkpoint has other arrays than `abstract_state`.
  """
  return _newest_sound(
    checkpoints_folder(directory), step, lambda path: read_state(path, abstract_state, meaning or {})
  )


def read_state(path: epath.Path, abstract_state, meaning: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
  """(state, host values) of the checkpoint in `path`, verified on the devices; see `read_verified` for
  what is raised.
  """
  manifest = together(lambda: folders.read_manifest(path))
  folders.check_meaning(path, manifest, meaning)
  abstract = folders.by_path(abstract_state)
  folders.check_fits(path, manifest, abstract)
  arrays = _load_together(path, abstract)
  facts = array_facts(arrays)
  folders.compare_checksums(manifest, {name: fact.checksum for name, fact in facts.items()})
  bad = next((name for name, fact in facts.items() if not fact.finite), None)
  if bad:
    raise UserError(f"{path}: {bad} holds NaN or infinity: nothing can go on from there. Take an earlier checkpoint")
  return jax.tree.unflatten(jax.tree.structure(abstract_state), list(arrays.values())), manifest.host_values


def read_verified(path: epath.Path, read: Callable[[epath.Path], _Result]) -> _Result:
  """read(path), of a checkpoint; where it fails, the bytes of the checkpoint tell why.

  Raises:
    Damaged: bytes that were read are wrong, or are not there.
    StorageError, UserError: its bytes cannot be read now, or it does not fit the run.
    RuntimeError: nothing is wrong with it, and restoring it fails again.
  """
  try:
    return read(path)
  except (UserError, StorageError, MemoryError):
    raise
  except Exception as error:  # Orbax and TensorStore have a hundred ways to say that bytes are wrong
    damage = diagnose(path)
    if damage is not None:
      raise damage from error
  try:
    return read(path)  # it is intact: what failed may have been storage, which Orbax takes for a missing file
  except (UserError, StorageError, MemoryError):
    raise
  except Exception as error:
    raise RuntimeError(f"{path} is intact, but restoring it failed: {folders.short(error)}") from error


def diagnose(path: epath.Path) -> Damaged | None:
  """What is wrong with a checkpoint that could not be restored, found by reading its bytes plainly; None: nothing.

  A restore may fail for other reasons, a full device or a wrong sharding; a sound checkpoint
  must not be set aside for those.

  Raises:
    StorageError, UserError: its bytes cannot be read now: what lies there may be sound.
  """
  try:
    together(lambda: _read_every_byte(path))
    manifest = together(lambda: folders.read_manifest(path))
    arrays = _load_together(path, _on_host(manifest))
    folders.compare_checksums(manifest, {name: numpy_checksum(array) for name, array in arrays.items()})
  except (UserError, StorageError, MemoryError):
    raise
  except Damaged as damage:
    return damage
  except Exception as failure:
    return Damaged("unreadable", f"it cannot be read ({folders.short(failure)})")
  return None


def _load_together(path: epath.Path, abstract: dict[str, Any]) -> dict[str, Any]:
  """checkpoint_files.load_arrays on every process. Where storage fails on one, all of them try again: Orbax lets them
  wait for each other.
  """
  load = lambda: checkpoint_files.load_arrays(path, abstract)
  for pause in storage.PAUSES_SECONDS:
    try:
      return together(lambda: storage.patiently(load, path, pauses=()))
    except (UserError, StorageError):
      time.sleep(pause)
  return together(lambda: storage.patiently(load, path, pauses=()))


def _read_every_byte(path: epath.Path) -> None:
  """Reads the files of a checkpoint to their ends: Orbax and TensorStore do not always say that storage failed.

  Raises StorageError or UserError, as storage.patiently.
  """
  for child in storage.listing(path):
    if storage.is_folder(child):
      _read_every_byte(child)
    else:
      storage.patiently(lambda: _read_to_end(child), child)


def _read_to_end(path: epath.Path) -> None:
  with path.open("rb") as file:
    while file.read(1 << 24):
      pass


def checkpoints_folder(directory) -> epath.Path:
  """A folder of checkpoints as an absolute path."""
  path = storage.folder(directory)
  return path if storage.is_remote(path) else path.resolve()  # TensorStore takes absolute paths only


def log(text: str) -> None:
  """A line about checkpoints for the user, on standard error; the first process speaks for all."""
  if jax.process_index() == 0:
    show(text, file=sys.stderr, flush=True)


def _newest_sound(directory: epath.Path, step: int | None, read):
  """read(folder) of the newest committed checkpoint for which that works, or of `step`. Changes nothing."""
  steps = folders.committed_steps(directory)
  if not steps or step not in (None, *steps):
    there = f"there are {', '.join(map(str, steps))}" if steps else "the run has saved none yet"
    raise UserError(f"no checkpoint {'' if step is None else f'{step} '}in {directory}: {there}")
  for candidate in reversed(steps) if step is None else [step]:
    path = folders.folder_of(directory, candidate)
    try:
      return read_verified(path, read)
    except Damaged as damage:
      if step is not None:
        raise UserError(f"checkpoint {path} is damaged: {damage.found}; choose another one") from damage
      log(f"checkpoint {candidate} is damaged: {damage.found}; looking at the one before")
  raise UserError(f"no checkpoint in {directory} is intact; restore the folder from a backup, or train again")


def _on_host(manifest: Manifest) -> dict[str, np.ndarray]:
  """What tells `load` to read every array as NumPy: stand-ins of its dtype and shape, without its memory."""
  records = manifest.arrays.items()
  return {name: np.broadcast_to(np.zeros((), jnp.dtype(dtype)), shape) for name, (dtype, shape, _) in records}
