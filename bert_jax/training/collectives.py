"""Every device works on its own rows: the collectives of data parallelism and FSDP, written out.

The batch is cut by rows, and each device runs the model on its own as if it
were alone (`shard_rows`). Two things are exchanged, and both stand here:

- parameters that `fsdp` splits are gathered where they are used, in the dtype
  of the matrix products, and their gradients summed and scattered in float32
  (`gather_params`): an all-gather and a reduce-scatter for each, and for each microbatch;
- all other gradients, and the sums of the loss, are added up at the end, in
  float32, once a step however many microbatches there are: an all-reduce.

Left to itself the compiler finds other ways: it sums in bfloat16, once a
microbatch, the tied word embeddings twice, and with FSDP it would rather move
activations than parameters. The axis `tensor` is left to it: the model names
the axes of its activations, and sharding.AXES says what they are.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P

from bert_jax.models import parameters
from bert_jax.training import sharding

ROW_AXES = sharding.AXES["batch"]


def shard_rows(
  mesh: Mesh | None, fn: Callable[[Any, Any, Any], tuple[Any, Any]], *, training: bool = True
) -> Callable[[Any, Any, Any], tuple[Any, Any]]:
  """Returns fn(params, rows, shared) -> (sums, gradients) over the whole batch, from fn over the rows of one device.

  Args:
    mesh: the devices; None or one of them: there is nothing to exchange.
    fn: is traced once, for any device. It gets the device's parts of `params` (see `gather_params`) and of `rows`,
      whose arrays have the batch as their first dimension. It returns sums over its rows, and gradients of its parts of
      `params`.
    training: False: fn returns None for gradients.
  """
  if mesh is None or mesh.size == 1:
    return fn
  split = tuple(
    axis for axis in ROW_AXES if mesh.shape[axis] > 1
  )  # a sum over one device is none, and the compiler refuses it beside `tensor`
  # A kernel written by hand runs only where no axis is left to the compiler.
  manual = set(ROW_AXES) if mesh.shape["tensor"] > 1 else set(mesh.axis_names)
  names = [(name, "tensor" if axes == ("tensor",) else None) for name, axes in sharding.AXES.items()]

  def run(params, rows, shared):
    specs = jax.tree.map(_by_rows, sharding.state_specs(params))

    def one_device(params, rows, shared):
      with nn.logical_axis_rules(names if mesh.shape["tensor"] > 1 else []):
        sums, gradients = fn(params, rows, shared)
      if training:
        # What `gather_params` has scattered is summed over fsdp already.
        gradients = jax.tree.map(lambda g, spec: _sum(g, tuple(a for a in split if a not in spec)), gradients, specs)
      return _sum(sums, split), gradients

    return jax.shard_map(
      one_device,
      mesh=mesh,
      in_specs=(specs, P(ROW_AXES), P()),
      out_specs=(P(), specs if training else None),
      axis_names=manual,
      check_vma=False,
    )(params, rows, shared)

  return run


def _sum(tree: Any, axes: tuple[str, ...]) -> Any:
  return jax.lax.psum(tree, axes) if axes else tree


def gather_params(params: Any, mesh: Mesh | None, dtype: Any = None) -> Any:
  """Parameters with all that other devices of `fsdp` hold of them; to be called within `shard_rows`, and
  differentiated.

  Args:
    params: the device's parts.
    mesh: the devices.
    dtype: dtype that matrices are sent in, the one that they are multiplied in; None: their own. Embeddings keep
      theirs: the gradient of a frequent word is a sum over many positions, which bfloat16 could not hold.
  """
  if mesh is None or mesh.shape["fsdp"] == 1:
    return params

  def one(path, part, spec):
    if "fsdp" not in spec:
      return part
    row = parameters.row_of(path)
    return _gather(
      part, spec, mesh.shape["tensor"] > 1, dtype if dtype and row.kind == parameters.MATRIX else part.dtype
    )

  return jax.tree_util.tree_map_with_path(one, params, sharding.state_specs(params))


@functools.partial(jax.custom_vjp, nondiff_argnums=(1, 2, 3))
def _gather(part: jax.Array, spec: P, shared_by_tensor: bool, dtype: Any) -> jax.Array:
  gather = lambda x: jax.lax.all_gather(x.astype(dtype), "fsdp", axis=spec.index("fsdp"), tiled=True)
  return _within_tensor(gather, spec, shared_by_tensor)(part)


def _gather_forward(part, spec, shared_by_tensor, dtype):
  return _gather(part, spec, shared_by_tensor, dtype), jnp.zeros((), part.dtype)


def _gather_backward(spec, shared_by_tensor, dtype, like, gradient):
  sum_dtype = jnp.promote_types(like.dtype, jnp.float32)

  def scatter(x):
    # Cut first: of a table of embeddings that is to be scattered along its last dimension the TPU compiler makes an
    # all-reduce, and then takes each device's part, which sends twice as much.
    parts = jnp.stack(jnp.split(x.astype(sum_dtype), jax.lax.axis_size("fsdp"), axis=spec.index("fsdp")))
    return jax.lax.psum_scatter(parts, "fsdp", scatter_dimension=0)

  return (_within_tensor(scatter, spec, shared_by_tensor)(gradient).astype(like.dtype),)


_gather.defvjp(_gather_forward, _gather_backward)


def _within_tensor(fn: Callable, spec: P, shared_by_tensor: bool) -> Callable:
  """fn on what one device of `tensor` holds: left to the compiler, all of them would first exchange their parts."""
  if not shared_by_tensor:
    return fn
  only = P(*("tensor" if axis == "tensor" else None for axis in spec))
  return jax.shard_map(fn, in_specs=only, out_specs=only, axis_names={"tensor"}, check_vma=False)


def all_gather_rows(rows: Any, mesh: Mesh | None) -> Any:
  """The rows of all devices, in the order of the batch; to be called within `shard_rows`, and differentiated.

  The gradient of a row is summed over the devices that have used it. Arrays have this device's rows as their first
  dimension.
  """
  split = tuple(axis for axis in ROW_AXES if mesh is not None and mesh.shape[axis] > 1)
  return jax.tree.map(lambda x: jax.lax.all_gather(x, split, tiled=True), rows) if split else rows


def _by_rows(spec: P) -> P:
  return P(*("fsdp" if axis == "fsdp" else None for axis in spec))
