"""Where every array lives: one mesh, and one table from names of axes to mesh axes.

What was called pjit is `jax.jit` with shardings: arrays carry a NamedSharding,
`in_shardings` and `out_shardings` state what goes in and comes out.

The mesh has three axes. `data` and `fsdp` both split the batch; `fsdp` splits
the parameters and moments as well (ZeRO-3); `tensor` splits the matrices of a
layer among devices that work on the same rows (Megatron). models/parameters.py
names the dimensions of every parameter, the model those of its activations
(models/layers.py `logical_axes`), and AXES says which mesh axes a name stands for.
What a step does with it is in collectives.py.
"""

import math
from collections.abc import Sequence
from typing import Any

import jax
import ml_collections
import numpy as np
from jax.experimental import mesh_utils
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from bert_jax.errors import UserError
from bert_jax.models import parameters
from bert_jax.models.config import encoder_of

MESH_AXES = ("data", "fsdp", "tensor")

# Name of an axis -> the mesh axes that split it. A name that stands for nothing is not split.
AXES: dict[str, tuple[str, ...]] = {
  "batch": ("data", "fsdp"),
  "length": (),
  "predictions": (),
  "hidden": (),  # the width of activations
  "embed": ("fsdp",),  # the same width in parameters
  "heads": ("tensor",),
  "mlp": ("tensor",),
  "vocab": ("tensor",),
}

# Matrices and tables of fewer numbers may live on every device: gathering them would take longer than they are worth.
LARGE = 2**16


def make_mesh(config: ml_collections.ConfigDict, devices: Sequence[jax.Device] | None = None) -> Mesh:
  """The mesh of `config.mesh` over all devices; the axis at -1 takes what is left.

  Raises:
    UserError: the axes do not multiply to the number of devices, slices are not whole, or the batch or the heads do not
      divide.
  """
  devices = jax.devices() if devices is None else devices
  sizes = {name: config.mesh[name] for name in MESH_AXES}
  open_axes = [name for name, size in sizes.items() if size == -1]
  fixed = math.prod(size for size in sizes.values() if size != -1)
  asked = ", ".join(f"mesh.{name}={size}" for name, size in sizes.items())
  if len(open_axes) > 1 or any(size != -1 and size < 1 for size in sizes.values()):
    raise UserError(f"{asked}: axes must be positive, and at most one -1 (all remaining devices)")
  if open_axes and len(devices) % fixed == 0:
    sizes[open_axes[0]] = len(devices) // fixed
  if math.prod(sizes.values()) != len(devices):
    raise UserError(
      f"{asked} does not fit {len(devices)} devices; set one axis to -1 and let the others divide {len(devices)}"
    )
  heads = encoder_of(config.model).num_attention_heads
  if heads % sizes["tensor"]:
    raise UserError(
      f"mesh.tensor={sizes['tensor']} does not divide the {heads} attention heads, which it splits; "
      f"choose one of {_divisors(heads)}"
    )
  rows, microbatches, split = config.data.batch_size, config.optimizer.microbatches, sizes["data"] * sizes["fsdp"]
  if rows % (microbatches * split):
    near = max(1, rows // (microbatches * split)) * microbatches * split
    raise UserError(
      f"data.batch_size={rows} does not divide over {split} devices (mesh.data x mesh.fsdp)"
      f"{f' in {microbatches} microbatches' if microbatches > 1 else ''}; the nearest size that does is {near}"
    )
  # Auto axes: the compiler propagates shardings (make_mesh's default, Explicit, asks every operation for one).
  return Mesh(arrange(devices, sizes), MESH_AXES, axis_types=(AxisType.Auto,) * len(MESH_AXES))


def arrange(devices: Sequence[Any], sizes: dict[str, int]) -> np.ndarray:
  """Devices in the order of the mesh, [data, fsdp, tensor], so that what talks most sits closest.

  Slices of TPUs, which only the data centre's network connects, lie along `data`, whose sums are taken once a step.
  GPUs and CPUs keep the order of their processes, which puts the devices of a host next to each other.

  Raises:
    UserError: several slices, and a mesh.data that they do not divide.
  """
  shape = tuple(sizes[name] for name in MESH_AXES)
  if devices[0].platform != "tpu":
    return np.array(devices, object).reshape(shape)
  slices = len({getattr(device, "slice_index", 0) for device in devices})
  if sizes["data"] % slices:
    raise UserError(
      f"mesh.data={sizes['data']} is not a multiple of the {slices} slices, between which only the data axis may lie; "
      f"the largest mesh.fsdp x mesh.tensor is {len(devices) // slices}, the devices of a slice"
    )
  if slices == 1:
    return mesh_utils.create_device_mesh(shape, devices, allow_split_physical_axes=True)
  within = (sizes["data"] // slices, sizes["fsdp"], sizes["tensor"])
  return mesh_utils.create_hybrid_device_mesh(within, (slices, 1, 1), devices, allow_split_physical_axes=True)


def _divisors(number: int) -> str:
  return ", ".join(str(n) for n in range(1, number + 1) if number % n == 0)


def spec(*names: str | None) -> P:
  """The PartitionSpec of an array whose dimensions have these names; None and names that stand for nothing are not
  split.
  """
  axes = [AXES[name] if name else () for name in names]
  return P(*(one if len(one) > 1 else one[0] if one else None for one in axes))


def batch_sharding(mesh: Mesh) -> NamedSharding:
  """Rows of a batch over the data and fsdp axes."""
  return NamedSharding(mesh, spec("batch"))


def replicated(mesh: Mesh) -> NamedSharding:
  """The same on every device."""
  return NamedSharding(mesh, P())


def state_specs(state: Any) -> Any:
  """PartitionSpecs for a train state (or parameters): moments live where their parameters do.

  Args:
    state: pytree of arrays or ShapeDtypeStructs.

  Raises:
    ValueError: a parameter that not exactly one row of models/parameters.py names.
  """
  one = lambda path, leaf: spec(*parameters.row_of(path).axes) if leaf.ndim else P()
  return jax.tree_util.tree_map_with_path(one, state)


def state_shardings(mesh: Mesh, state: Any) -> Any:
  """NamedShardings for a train state or parameters, see `state_specs`.

  Raises:
    ValueError: as state_specs.
    UserError: a mesh axis that does not divide the dimension it splits.
  """

  def one(path, leaf, where):
    for size, axis in zip(leaf.shape, where):
      if axis is not None and size % mesh.shape[axis]:
        raise UserError(
          f"mesh.{axis}={mesh.shape[axis]} does not divide a dimension of {size} of the parameter "
          f"{parameters.name_of(path)} {leaf.shape}"
        )
    return NamedSharding(mesh, where)

  return jax.tree_util.tree_map_with_path(one, state, state_specs(state))


def check_sharded(mesh: Mesh, state: Any, *, large: int = LARGE) -> None:
  """Checks that every large matrix and table of a state is spread as the mesh promises.

  The promise does not come from the names of axes: `fsdp` divides everything large, `tensor` also the layers and the
  vocabulary (Row.tensor_parallel). An array that is larger on a device than that is memory lost on every device.
  Biases and scales are exempt, such as the bias of every word, which `tensor` alone splits.

  Args:
    mesh: the mesh.
    state: arrays or ShapeDtypeStructs with shardings, in memory or planned.
    large: numbers from which an array counts as large.

  Raises:
    ValueError: an array that is not; it is named, with the bytes that a device holds of it, and should hold.
  """
  for path, leaf in jax.tree_util.tree_leaves_with_path(state):
    size = math.prod(leaf.shape)
    if size < large:
      continue
    row = parameters.row_of(path)
    parts = mesh.shape["fsdp"] * (mesh.shape["tensor"] if row.tensor_parallel else 1)
    holds = math.prod(leaf.sharding.shard_shape(leaf.shape)) * leaf.dtype.itemsize
    should = -(-size // parts) * leaf.dtype.itemsize
    if row.kind != parameters.VECTOR and holds != should:
      raise ValueError(
        f"{parameters.name_of(path)} of shape {leaf.shape} is not spread as the mesh promises: a device holds "
        f"{holds:,} bytes of it and should hold {should:,}, a part in {parts} (mesh.fsdp={mesh.shape['fsdp']}, "
        f"mesh.tensor={mesh.shape['tensor']}); fix the row {row.pattern!r} of models/parameters.py"
      )


def rows_of_process(mesh: Mesh, batch_size: int, devices: Sequence[jax.Device] | None = None) -> np.ndarray:
  """Which rows of a global batch the devices of this process hold.

  With mesh.tensor across processes, several processes hold the same rows; and where the mesh puts the devices in
  another order than the processes, the rows are no contiguous range.

  Args:
    mesh: the mesh.
    batch_size: rows in a global batch.
    devices: those of this process; they can be given for tests.

  Returns:
    int64 [rows of this process], ascending.
  """
  where = batch_sharding(mesh).devices_indices_map((batch_size,))
  own = set(mesh.local_devices if devices is None else devices)
  pieces = {index[0].indices(batch_size) for device, index in where.items() if device in own}
  return np.unique(np.concatenate([np.arange(*piece, dtype=np.int64) for piece in pieces] or [np.zeros(0, np.int64)]))


def put_batch(batch: dict[str, np.ndarray], mesh: Mesh) -> dict[str, jax.Array]:
  """Global arrays from the rows of this process.

  Args:
    batch: arrays whose first dimension is the rows of `rows_of_process`, in that order.
    mesh: the mesh.
  """
  sharding, split = batch_sharding(mesh), mesh.shape["data"] * mesh.shape["fsdp"]
  parts = rows_of_process(mesh, split)  # with one row for each part of the batch

  def put(array: np.ndarray) -> jax.Array:
    rows, left = divmod(len(array), len(parts))
    if left:
      raise ValueError(f"{len(array)} rows for {len(parts)} parts of a batch; expected those of rows_of_process")
    place = {
      part * rows: number * rows for number, part in enumerate(parts.tolist())
    }  # first row of a part -> where it is in `array`
    piece = lambda index: array[place[index[0].start or 0] :][:rows]
    return jax.make_array_from_callback((split * rows, *array.shape[1:]), sharding, piece)

  with jax.transfer_guard_host_to_device(
    "allow"
  ):  # the one copy that a step needs; with several processes JAX takes it for an oversight
    return {name: put(array) for name, array in batch.items()}
