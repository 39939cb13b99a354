"""sharding.py: every array lies where the names of its axes say, and training is the same on any mesh."""

import dataclasses
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from jax.sharding import PartitionSpec as P

from bert_jax.errors import UserError
from bert_jax.models import layers, parameters
from bert_jax.training import optimizer as optimizers
from bert_jax.training import sharding, train_state
from bert_jax.training.train_step import make_eval_step, make_program
from tests.helpers.later_families import later_family
from tests.helpers.tiny_pretraining import losses, run_steps, tiny_batch, tiny_config, tiny_objective

MESHES = {
  "data 8": {"mesh.data": 8},
  "fsdp 8": {"mesh.data": 1, "mesh.fsdp": 8},
  "data 2 x fsdp 4": {"mesh.data": 2, "mesh.fsdp": 4},
  "data 4 x tensor 2": {"mesh.data": 4, "mesh.tensor": 2},
  "fsdp 2 x tensor 2 x data 2": {"mesh.data": -1, "mesh.fsdp": 2, "mesh.tensor": 2},
}
ALL_AXES = "fsdp 2 x tensor 2 x data 2"
HOW = ("plainly", "dropout, 2 microbatches, remat dots", "2 microbatches, remat full", "moments in bfloat16")
DROPOUT = {"model.hidden_dropout_prob": 0.2, "model.attention_probs_dropout_prob": 0.2}
MOMENTS = {"optimizer.moments_dtype": "bfloat16"}


@pytest.fixture(scope="module")
def alone():
  """Losses and gradient norms of ten steps on one device, with dropout or without."""
  return {
    name: run_steps(tiny_config(**overrides), 10)[1]
    for name, overrides in {"": {}, "dropout": DROPOUT, "moments": MOMENTS}.items()
  }


@pytest.mark.parametrize(
  "mesh, how",
  [
    pytest.param(mesh, how, marks=[] if how == HOW[0] or mesh == ALL_AXES else pytest.mark.slow)
    for how in HOW
    for mesh in MESHES
  ],
)
def test_ten_steps_on_eight_devices_give_the_losses_of_one(alone, mesh, how):
  """Dropout too is the same on any mesh, because its bits belong to the row; rounding by chance, because its bits
  belong to the element.
  """
  kind = next((name for name in ("dropout", "moments") if name in how), "")
  overrides = {"dropout": DROPOUT, "moments": MOMENTS}.get(kind, {})
  overrides = overrides | {
    "optimizer.microbatches": 2 if "micro" in how else 1,
    "model.remat": how.split()[-1] if "remat" in how else "none",
  }
  _, reports = run_steps(tiny_config(**MESHES[mesh], **overrides), 10, devices=8)
  expected = alone[kind]
  np.testing.assert_allclose(losses(reports), losses(expected), atol=1e-5, rtol=0)
  np.testing.assert_allclose(
    [report.grad_norm for report in reports], [report.grad_norm for report in expected], rtol=1e-4
  )


@pytest.mark.parametrize("mesh", ["data 8", "data 2 x fsdp 4"])
def test_an_evaluation_on_eight_devices_gives_the_sums_of_one(mesh):
  config = tiny_config(**MESHES[mesh])
  objective, mesh = tiny_objective(config), sharding.make_mesh(config)
  params = objective.init(jax.random.key(0))
  expected = jax.jit(make_eval_step(objective, seed=0))(params, tiny_batch(0))
  found = jax.jit(make_eval_step(objective, seed=0, mesh=mesh))(params, sharding.put_batch(tiny_batch(0), mesh))
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), found, expected)


def test_with_bfloat16_products_gradients_are_still_summed_in_float32():
  """On eight devices, whose every sum over devices is read from the program."""
  config = tiny_config(**MESHES["data 2 x fsdp 4"], **{"model.dtype": "bfloat16"})
  program = make_program(tiny_objective(config), config, sharding.make_mesh(config))
  text = program.train_step.lower(
    program.state, sharding.put_batch(tiny_batch(0), sharding.make_mesh(config))
  ).as_text()
  sums = re.findall(r'"stablehlo\.(?:all_reduce|reduce_scatter)".*?\}\) : \(tensor<([^>]*)>', text, re.DOTALL)
  gathers = re.findall(r'"stablehlo\.all_gather".*?: \(tensor<([^>]*)>', text)
  assert len(sums) > 10 and {kind.split("x")[-1] for kind in sums} == {"f32"}
  assert {kind.split("x")[-1] for kind in gathers} == {"bf16", "f32"}  # matrices, embeddings


def test_fsdp_holds_an_eighth_of_every_matrix_and_of_its_moments_on_each_device():
  state, _ = run_steps(tiny_config(**MESHES["fsdp 8"]), 1, devices=8)
  leaves = jax.tree_util.tree_leaves_with_path((state.params, state.opt_state))
  split = [leaf for path, leaf in leaves if getattr(path[-1], "key", "") in ("kernel", "embedding") and leaf.size > 100]
  assert len(split) > 25  # ten matrices and tables, twice as many moments
  for leaf in split:
    assert leaf.addressable_shards[0].data.size * 8 == leaf.size


def test_tensor_parallelism_splits_the_matrices_of_a_layer_and_their_moments():
  config = tiny_config(**MESHES[ALL_AXES])
  state = train_state.abstract(
    tiny_objective(config).init, optimizers.make_optimizer(config), sharding.make_mesh(config), 0
  )
  for path, leaf in jax.tree_util.tree_leaves_with_path((state.params, state.opt_state)):
    name = jax.tree_util.keystr(path, simple=True, separator="/")
    if ("/layer_0/" in name and name.endswith("kernel")) or name.endswith("word_embeddings/embedding"):
      assert np.prod(leaf.sharding.shard_shape(leaf.shape)) * 4 == np.prod(leaf.shape), name


@pytest.mark.parametrize("mesh", MESHES)
def test_every_device_gets_its_own_rows_of_a_batch(mesh):
  """The axis `tensor` alone holds copies."""
  mesh = sharding.make_mesh(tiny_config(**MESHES[mesh]))
  rows = np.arange(16, dtype=np.int32)
  shards = sharding.put_batch({"index": rows}, mesh)["index"].addressable_shards
  split = 8 // mesh.shape["tensor"]
  assert {len(shard.data) for shard in shards} == {16 // split}
  assert len({int(shard.data[0]) for shard in shards}) == split


@pytest.mark.parametrize(
  "name", ["encoder/new_thing/kernel", "encoder/other_layer_norm/scale", "pooler/dense/kernel/low_rank"]
)
def test_a_parameter_that_no_rule_names_is_an_error(name):
  mesh, tree = sharding.make_mesh(tiny_config()), jax.ShapeDtypeStruct((8, 8), np.float32)
  for part in reversed(name.split("/")):
    tree = {part: tree}
  with pytest.raises(ValueError, match=f"no row of models/parameters.py names the parameter {name};"):
    sharding.state_shardings(mesh, tree)


def test_every_name_of_an_axis_is_known():
  for row in parameters.PARAMETERS:
    assert {axis for axis in row.axes if axis} <= set(sharding.AXES)
  with jax.set_mesh(sharding.make_mesh(tiny_config())):  # the names that the model gives its activations
    given, plain = set(), nn.with_logical_constraint
    with pytest.MonkeyPatch.context() as patch:
      patch.setattr(layers.nn, "with_logical_constraint", lambda x, axes: given.update(axes) or plain(x, axes))
      jax.eval_shape(tiny_objective(tiny_config()).init, jax.random.key(0))
  assert {"batch", "hidden", "heads", "mlp", "vocab"} <= given
  assert given - {None} <= set(sharding.AXES)


def large_state(**overrides):
  """(mesh, abstract state) of a model with matrices worth spreading."""
  config = tiny_config(**{"model.hidden_size": 256, "model.intermediate_size": 512} | overrides)
  mesh = sharding.make_mesh(config)
  return mesh, train_state.abstract(tiny_objective(config).init, optimizers.make_optimizer(config), mesh, 0)


@pytest.mark.parametrize("mesh", MESHES)
def test_every_mesh_keeps_its_promise_of_spreading(mesh):
  mesh, state = large_state(**MESHES[mesh])
  sharding.check_sharded(mesh, state, large=2000)


def test_a_run_with_the_vocabulary_of_many_languages_starts_although_its_bias_is_not_spread_by_fsdp():
  """Of 120,000 words and more, as multilingual BERT has, the bias alone has more than LARGE numbers."""
  mesh, state = large_state(**MESHES["fsdp 8"], **{"model.vocab_size": 119_547})
  assert parameters.head(state.params, "mlm")["bias"].size > sharding.LARGE
  sharding.check_sharded(mesh, state)


@pytest.mark.parametrize("mesh", MESHES)
def test_a_final_norm_and_an_embedding_projection_are_spread_as_promised(mesh):
  """Subtrees of the encoder that BERT lacks, in parameters and moments."""
  config = tiny_config(**MESHES[mesh])
  init = lambda key: jax.tree.map(lambda leaf: jnp.zeros(leaf.shape), later_family(hidden=128, embedding=64))
  mesh = sharding.make_mesh(config)
  state = train_state.abstract(init, optimizers.make_optimizer(config), mesh, 0)
  sharding.check_sharded(mesh, state, large=1000)
  encoder = sharding.state_specs(state.params)["encoder"]
  assert encoder["final_norm"]["scale"] == P(None) and encoder["embedding_projection"]["kernel"] == P("fsdp", None)


def test_the_kernel_of_many_classes_is_spread():
  mesh = sharding.make_mesh(tiny_config(**MESHES["fsdp 8"]))
  tree = {"classifier": {"dense": {"kernel": jax.ShapeDtypeStruct((768, 150), np.float32)}}}
  (kernel,) = jax.tree.leaves(sharding.state_shardings(mesh, tree))
  assert kernel.shard_shape((768, 150)) == (96, 150)


def test_an_array_that_is_not_spread_is_named_with_its_bytes(monkeypatch):
  unsplit = lambda row: row._replace(axes=(None, None)) if "feed_forward/output/kernel" in row.pattern else row
  monkeypatch.setattr(parameters, "PARAMETERS", tuple(map(unsplit, parameters.PARAMETERS)))
  mesh, state = large_state(**MESHES[ALL_AXES])
  message = (
    r"params/encoder/layer_0/feed_forward/output/kernel of shape \(512, 256\) .* holds 524,288 bytes of it and should "
    r"hold 131,072, "
    r"a part in 4 \(mesh.fsdp=2, mesh.tensor=2\)"
  )
  with pytest.raises(ValueError, match=message):
    sharding.check_sharded(mesh, state)
  monkeypatch.undo()
  mesh, state = large_state(**MESHES["fsdp 8"])
  moments = jax.tree.map(
    lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding.replicated(mesh)), state.opt_state
  )
  with pytest.raises(ValueError, match="opt_state/.*/mu/.* a part in 8"):
    sharding.check_sharded(mesh, state._replace(opt_state=moments))


@pytest.mark.parametrize("mesh", MESHES)
@pytest.mark.parametrize("order", ["of the mesh", "tensor across processes", "interleaved"])
def test_processes_hold_the_rows_of_their_devices_and_all_rows_together(mesh, order):
  mesh = sharding.make_mesh(tiny_config(**MESHES[mesh]))
  devices = mesh.devices.transpose(
    {"of the mesh": (0, 1, 2), "tensor across processes": (2, 0, 1), "interleaved": (1, 2, 0)}[order]
  ).ravel()
  shares = [sharding.rows_of_process(mesh, 16, devices=devices[4 * process :][:4]) for process in range(2)]
  array = jax.device_put(np.arange(16), sharding.batch_sharding(mesh))
  for process, rows in enumerate(shares):
    held = [shard.data for shard in array.addressable_shards if shard.device in set(devices[4 * process :][:4])]
    np.testing.assert_array_equal(rows, np.unique(np.concatenate(held)))
  np.testing.assert_array_equal(np.unique(np.concatenate(shares)), np.arange(16))
  if order == "tensor across processes" and mesh.shape["tensor"] == 2:
    np.testing.assert_array_equal(shares[0], shares[1])


@dataclasses.dataclass(frozen=True)
class Chip:
  """What laying out a mesh reads of a TPU."""

  id: int
  slice_index: int
  platform: str = "tpu"
  device_kind: str = "TPU v4"
  core_on_chip: int = 0

  @property
  def process_index(self):
    return self.id // 4

  @property
  def coords(self):
    return (self.id % 4 % 2, self.id % 4 // 2, self.id // 4 % 2)


def test_slices_lie_along_the_data_axis():
  chips = [Chip(number, number // 8) for number in range(16)]
  mesh = sharding.arrange(chips[::-1], {"data": 4, "fsdp": 2, "tensor": 2})
  assert mesh.shape == (4, 2, 2) and len(set(mesh.ravel())) == 16
  for row in range(4):
    assert {chip.slice_index for chip in mesh[row].ravel()} == {row // 2}
  with pytest.raises(
    UserError, match="mesh.data=1 is not a multiple of the 2 slices.*the largest mesh.fsdp x mesh.tensor is 8"
  ):
    sharding.arrange(chips, {"data": 1, "fsdp": 16, "tensor": 1})


def test_hosts_of_gpus_may_share_any_axis():
  gpus = [Chip(number, number // 8, "gpu", "NVIDIA H100") for number in range(16)]
  mesh = sharding.arrange(gpus, {"data": 1, "fsdp": 16, "tensor": 1})
  assert [gpu.id for gpu in mesh.ravel()] == list(range(16))


@pytest.mark.parametrize(
  "overrides, message",
  [
    ({"mesh.data": 3}, "mesh.data=3.* does not fit 8 devices"),
    ({"mesh.fsdp": 3}, "mesh.fsdp=3.* does not fit 8 devices"),
    ({"mesh.data": -1, "mesh.fsdp": -1}, "at most one"),
    ({"mesh.fsdp": 0}, "positive"),
    ({"mesh.data": 2, "mesh.tensor": 4}, "mesh.tensor=4 does not divide the 2 attention heads.*choose one of 1, 2"),
    ({"data.batch_size": 12}, "data.batch_size=12 does not divide over 8 devices.*nearest size that does is 8"),
    ({"data.batch_size": 8, "optimizer.microbatches": 2}, "data.batch_size=8 does not divide"),
  ],
)
def test_a_mesh_or_batch_that_does_not_divide_is_refused_with_the_remedy(overrides, message):
  with pytest.raises(UserError, match=message):
    sharding.make_mesh(tiny_config(**overrides))


def test_an_axis_that_does_not_divide_a_parameter_is_named():
  config = tiny_config(**{"mesh.data": 1, "mesh.fsdp": 8, "model.hidden_size": 12, "model.num_attention_heads": 2})
  with pytest.raises(UserError, match="mesh.fsdp=8 does not divide a dimension of 12"):
    train_state.abstract(tiny_objective(config).init, optimizers.make_optimizer(config), sharding.make_mesh(config), 0)
