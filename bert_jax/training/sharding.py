"""Where every array lives: one mesh, and one table from parameter paths to mesh axes.

What was called pjit is `jax.jit` with shardings: arrays carry a NamedSharding,
`in_shardings` and `out_shardings` state what goes in and comes out, and the
compiler inserts the collectives. The model knows nothing of this file.

The mesh has three axes. `data` and `fsdp` both split the batch; `fsdp` splits
the parameters and moments as well (ZeRO-3); `tensor` splits the matrices of a
layer among devices that work on the same rows.
"""

import re
from typing import Any

import jax
import ml_collections
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from bert_jax.errors import UserError

BATCH_AXES = ("data", "fsdp")

# (pattern at the end of a parameter's path, mesh axes of its dimensions). The first match counts; no match is an error.
RULES = (
    ("word_embeddings/embedding", P("tensor", "fsdp")),
    ("(position|token_type)_embeddings/embedding", P(None, "fsdp")),
    ("attention/(query|key|value)/kernel", P("fsdp", "tensor")),
    ("attention/(query|key|value)/bias", P("tensor")),
    ("attention/output/kernel", P("tensor", "fsdp")),
    ("feed_forward/intermediate/kernel", P("fsdp", "tensor")),
    ("feed_forward/intermediate/bias", P("tensor")),
    ("feed_forward/output/kernel", P("tensor", "fsdp")),
    ("(attention|feed_forward)/output/bias", P()),
    ("layer_norm/(scale|bias)", P()),
    ("(pooler|mlm_head)/dense/kernel", P("fsdp", None)),
    ("(pooler|mlm_head|nsp_head)/dense/bias", P()),
    ("mlm_head/bias", P("tensor")),
    ("nsp_head/dense/kernel", P()),
)


def make_mesh(config: ml_collections.ConfigDict, devices=None) -> Mesh:
  """The mesh of `config.mesh` over all devices; the axis at -1 takes what is left.

  Raises:
    UserError: the axes do not multiply to the number of devices, or the batch does not divide.
  """
  devices = jax.devices() if devices is None else devices
  sizes = {name: config.mesh[name] for name in ("data", "fsdp", "tensor")}
  open_axes = [name for name, size in sizes.items() if size == -1]
  fixed = int(np.prod([size for size in sizes.values() if size != -1]))
  asked = ", ".join(f"mesh.{name}={size}" for name, size in sizes.items())
  if len(open_axes) > 1 or any(size != -1 and size < 1 for size in sizes.values()):
    raise UserError(f"{asked}: axes are positive, and at most one of them is -1 (what is left)")
  if open_axes and len(devices) % fixed == 0:
    sizes[open_axes[0]] = len(devices) // fixed
  if int(np.prod(list(sizes.values()))) != len(devices):
    raise UserError(f"{asked} does not fit {len(devices)} devices; set one axis to -1 and let the others divide {len(devices)}")
  rows, microbatches, split = config.data.batch_size, config.optimizer.microbatches, sizes["data"] * sizes["fsdp"]
  if rows % (microbatches * split):
    near = max(1, rows // (microbatches * split)) * microbatches * split
    raise UserError(
        f"data.batch_size={rows} does not divide over {split} devices (mesh.data x mesh.fsdp)"
        f"{f' in {microbatches} microbatches' if microbatches > 1 else ''}; the nearest size that does is {near}"
    )
  # Auto axes: the compiler propagates shardings (make_mesh's default, Explicit, asks every operation for one).
  return jax.make_mesh(tuple(sizes.values()), tuple(sizes), axis_types=(AxisType.Auto,) * 3, devices=devices)


def batch_sharding(mesh: Mesh) -> NamedSharding:
  """Rows of a batch over the data and fsdp axes."""
  return NamedSharding(mesh, P(BATCH_AXES))


def replicated(mesh: Mesh) -> NamedSharding:
  """The same on every device."""
  return NamedSharding(mesh, P())


def state_shardings(mesh: Mesh, state: Any) -> Any:
  """NamedShardings for a train state (or parameters): moments live where their parameters do.

  Args:
    mesh: the mesh.
    state: pytree of arrays or ShapeDtypeStructs.

  Raises:
    ValueError: a parameter that no rule of RULES names.
    UserError: a mesh axis that does not divide the dimension it splits.
  """

  def sharding(path, leaf):
    if leaf.ndim == 0:
      return NamedSharding(mesh, P())
    name = jax.tree_util.keystr(path, simple=True, separator="/")
    for pattern, spec in RULES:
      if re.search(f"(^|/){pattern}$", name):
        _check_divides(mesh, name, leaf.shape, spec)
        return NamedSharding(mesh, spec)
    raise ValueError(f"no sharding rule names the parameter {name} of shape {leaf.shape}; add one to sharding.RULES")

  return jax.tree_util.tree_map_with_path(sharding, state)


def _check_divides(mesh: Mesh, name: str, shape: tuple[int, ...], spec: P) -> None:
  for size, axis in zip(shape, spec):
    if axis is not None and size % mesh.shape[axis]:
      raise UserError(f"mesh.{axis}={mesh.shape[axis]} does not divide a dimension of {size} of the parameter {name} {shape}")


def put_batch(batch: dict[str, np.ndarray], mesh: Mesh) -> dict[str, jax.Array]:
  """This process's rows of a global batch, on its devices."""
  sharding = batch_sharding(mesh)
  with jax.transfer_guard_host_to_device("allow"):  # the one copy that a step needs; with several processes JAX takes it for an oversight
    return {name: jax.make_array_from_process_local_data(sharding, array) for name, array in batch.items()}
