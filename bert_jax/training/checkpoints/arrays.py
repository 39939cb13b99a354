"""The arrays of a checkpoint, written and read by Orbax. The only file that knows Orbax; what the files mean is
described in checkpoint.py.
"""

from typing import Any

import jax
from etils import epath
from orbax.checkpoint import v1 as ocp

from bert_jax.training.checkpoints import folder as folders
from bert_jax.training.checkpoints.folder import Damaged


def save_async(path: epath.Path, arrays: dict[str, Any], manifest: dict[str, Any]) -> Any:
  """Begins to write a checkpoint; returns when the arrays may be donated.

  Args:
    path: its folder.
    arrays: path of the array -> jax.Array, see checkpoint_folder.by_path.
    manifest: see checkpoint_folder.encode.

  Returns:
    An object whose `result(timeout=seconds)` returns when the checkpoint is committed, and raises what went wrong.
  """
  with _orbax(), jax.transfer_guard("allow"):
    return ocp.save_checkpointables_async(path, {"state": folders.nested(arrays), "manifest": manifest})


def load_arrays(path: epath.Path, abstract: dict[str, Any], partial: bool = False) -> dict[str, Any]:
  """Reads arrays by path, unverified: onto devices for ShapeDtypeStructs, else as NumPy.

  Args:
    path: of the checkpoint.
    abstract: path of the array -> ShapeDtypeStruct with a sharding, or a NumPy array of its shape and dtype.
    partial: whether `abstract` may name fewer arrays than there are.

  Raises:
    Damaged: an array comes with another shape or dtype.
    Exception: whatever Orbax and TensorStore say of bytes that are wrong.
  """
  with _orbax(partial), jax.transfer_guard("allow"):
    arrays = folders.by_path(ocp.load(path, folders.nested(abstract), checkpointable_name="state"))
  for name, wanted in abstract.items():
    if arrays[name].shape != wanted.shape or arrays[name].dtype != wanted.dtype:
      raise Damaged("unreadable", f"{name} comes as {arrays[name].dtype} {list(arrays[name].shape)}")
  return {name: arrays[name] for name in abstract}


def _orbax(partial: bool = False) -> ocp.Context:
  """How Orbax reads and writes here."""
  context = ocp.Context()
  # A marker file commits a save: unlike a rename, every storage can do that.
  context.atomicity.mode = ocp.options.AtomicityMode.COMMIT_FILE
  # Weights compress by 8 % only, and take three times as long to write.
  context.array.saving.use_compression = False
  # The manifest and the caller know shapes and shardings; what is not written cannot be damaged.
  context.array.saving.enable_write_sharding_file = False
  context.array.saving.array_metadata_store = None
  context.pytree.loading.partial_load = partial
  context.checkpointables.registry = ocp.handlers.local_registry()
  context.checkpointables.registry.add(ocp.handlers.JsonHandler, checkpointable_name="manifest")
  return context
