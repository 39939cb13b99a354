"""sharding.py: one table, every parameter named in it, and the same training on any mesh."""

import jax
import numpy as np
import pytest
from tests.pretraining_fixtures import losses, run_steps, tiny_config, tiny_task

from bert_jax.errors import UserError
from bert_jax.training import sharding, train_state
from bert_jax.training import optimizer as optimizers

MESHES = {
    "data 8": {"mesh.data": 8},
    "fsdp 8": {"mesh.data": 1, "mesh.fsdp": 8},
    "data 2 x fsdp 4": {"mesh.data": 2, "mesh.fsdp": 4},
    "fsdp 2 x tensor 2 x data 2": {"mesh.data": -1, "mesh.fsdp": 2, "mesh.tensor": 2},
}


@pytest.fixture(scope="module")
def alone():
  return run_steps(tiny_config(), 10)


@pytest.mark.parametrize("mesh", MESHES)
def test_ten_steps_on_eight_devices_give_the_losses_of_one(alone, mesh):
  _, reports = run_steps(tiny_config(**MESHES[mesh]), 10, devices=8)
  np.testing.assert_allclose(losses(reports), losses(alone[1]), atol=1e-5, rtol=0)


def test_fsdp_holds_an_eighth_of_every_matrix_and_of_its_moments_on_each_device():
  state, _ = run_steps(tiny_config(**MESHES["fsdp 8"]), 1, devices=8)
  leaves = jax.tree_util.tree_leaves_with_path((state.params, state.opt_state))
  split = [leaf for path, leaf in leaves if getattr(path[-1], "key", "") in ("kernel", "embedding") and leaf.size > 100]
  assert len(split) > 25  # ten matrices and tables, twice as many moments
  for leaf in split:
    assert leaf.addressable_shards[0].data.size * 8 == leaf.size


def test_tensor_parallelism_splits_the_matrices_of_a_layer_and_their_moments():
  config = tiny_config(**MESHES["fsdp 2 x tensor 2 x data 2"])
  state = train_state.abstract(tiny_task(config).init, optimizers.make_optimizer(config), sharding.make_mesh(config), 0)
  for path, leaf in jax.tree_util.tree_leaves_with_path((state.params, state.opt_state)):
    name = jax.tree_util.keystr(path, simple=True, separator="/")
    if "/layer_0/" in name and name.endswith("kernel") or name.endswith("word_embeddings/embedding"):
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


@pytest.mark.parametrize("name", ["encoder/new_thing/kernel", "encoder/other_layer_norm/scale", "pooler/dense/kernel/low_rank"])
def test_a_parameter_that_no_rule_names_is_an_error(name):
  mesh, tree = sharding.make_mesh(tiny_config()), jax.ShapeDtypeStruct((8, 8), np.float32)
  for part in reversed(name.split("/")):
    tree = {part: tree}
  with pytest.raises(ValueError, match=f"no sharding rule names the parameter {name} "):
    sharding.state_shardings(mesh, tree)


def test_every_rule_is_used():
  config = tiny_config()
  state = train_state.abstract(tiny_task(config).init, optimizers.make_optimizer(config), sharding.make_mesh(config), 0)
  names = [jax.tree_util.keystr(path, simple=True, separator="/") for path, _ in jax.tree_util.tree_leaves_with_path(state.params)]
  import re

  for pattern, _ in sharding.RULES:
    assert any(re.search(f"(^|/){pattern}$", name) for name in names), f"no parameter is called {pattern}"


@pytest.mark.parametrize(
    "overrides, message",
    [
        ({"mesh.data": 3}, "mesh.data=3.* does not fit 8 devices"),
        ({"mesh.fsdp": 3}, "mesh.fsdp=3.* does not fit 8 devices"),
        ({"mesh.data": -1, "mesh.fsdp": -1}, "at most one"),
        ({"mesh.fsdp": 0}, "positive"),
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
    train_state.abstract(tiny_task(config).init, optimizers.make_optimizer(config), sharding.make_mesh(config), 0)
