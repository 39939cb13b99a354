"""estimate.py: rooflines and formulas, held against counts that can be done by hand and against the real model."""

import jax
import numpy as np
import pytest
from tests.pretraining_fixtures import tiny_config, tiny_task

from bert_jax import config as configs
from bert_jax.chips import parse_topology
from bert_jax.tools import estimate
from bert_jax.tools.ahead import Compiled, Traffic


def compiled(**changes):
  memory = {"arguments": 0, "outputs": 0, "aliased": 0, "temporaries": 0, "code": 0}
  return Compiled(1.0, {"data": 4}, {}, memory | changes.pop("memory", {}), changes.pop("cost", {}), changes.pop("traffic", ()))


def traffic(sent, dimensions=(0,), slices=1, times=1):
  return Traffic("all-reduce", ("data",), 4, (("f32", (1,)),), 0, sent, times, True, "", dimensions, slices)


def test_a_step_computes_moves_and_sends_and_is_bound_by_the_slowest():
  v5e = parse_topology("v5e:4x4")
  assert estimate.times_of_compiled(compiled(cost={"flops": 197e12}), v5e) == (1.0, 0.0, 0.0)
  moved = estimate.times_of_compiled(compiled(memory={"arguments": 409.5e9, "temporaries": 204.75e9}), v5e)
  assert moved.memory == pytest.approx(1.0) and moved.bound_by == "memory bandwidth"
  # One dimension of four chips is a line: one link at a time. Sixteen chips close to a ring, and both directions carry.
  assert estimate.times_of_compiled(compiled(traffic=(traffic(50e9),)), v5e).network == pytest.approx(1.0)
  assert estimate.times_of_compiled(compiled(traffic=(traffic(50e9, times=3),)), v5e).network == pytest.approx(3.0)
  assert estimate.times_of_compiled(compiled(traffic=(traffic(50e9),)), parse_topology("v5e:16x16")).network == pytest.approx(0.5)
  assert estimate.times_of_compiled(compiled(traffic=(traffic(50e9, (0, 1)),)), v5e).network == pytest.approx(0.5)
  between = estimate.times_of_compiled(compiled(traffic=(traffic(3.1e9, slices=2),)), parse_topology("v5e:4x4*2"))
  assert between.network == pytest.approx(1.0) and between.bound_by == "the network between chips"


def test_overlap_is_the_longest_and_no_overlap_the_sum():
  times = estimate.Times(1.0, 2.0, 4.0)
  assert times.roofline == 4.0 and times.apart == 7.0


def test_an_estimate_of_the_compiler_that_is_no_time_is_replaced_by_its_counts():
  v5e = parse_topology("v5e:4x4")
  assert estimate.compilers_seconds(compiled(cost={"seconds": 0.5}), v5e)[0] == 0.5
  seconds, source = estimate.compilers_seconds(compiled(cost={"seconds": -434.9, "flops": 197e12, "bytes": 2 * 819e9}), v5e)
  assert seconds == pytest.approx(2.0) and "not usable" in source


@pytest.mark.parametrize("changes", [{}, {"model.num_hidden_layers": 3, "model.hidden_size": 32, "model.vocab_size": 200}])
def test_parameters_are_counted_as_the_model_has_them(changes):
  config = tiny_config(**changes)
  shapes = jax.eval_shape(tiny_task(config, np.zeros(config.model.vocab_size, bool)).init, jax.random.key(0))
  assert estimate.count_parameters(configs.encoder_of(config)) == sum(leaf.size for leaf in jax.tree.leaves(shapes))


def formula(topology="h100:8", mesh=None, **changes):
  config = tiny_config(**{"data.batch_size": 64} | changes)
  return estimate.by_formula(config, configs.encoder_of(config), parse_topology(topology), mesh or {"data": 8, "fsdp": 1, "tensor": 1},
                             seq_length=32, model_flops=8 * 989e12)  # fmt: skip


def test_by_formula_fsdp_splits_the_state_and_remat_and_microbatches_save_activations():
  plain, split = formula(), formula(mesh={"data": 1, "fsdp": 8, "tensor": 1})
  assert split.parameters == plain.parameters / 8 and split.moments == plain.moments / 8
  none, dots, full = (formula(**{"model.remat": remat}) for remat in ("none", "dots", "full"))
  assert none.activations > dots.activations > full.activations and full.times.compute > dots.times.compute > none.times.compute == 1.0
  assert formula(**{"optimizer.microbatches": 4}).activations == pytest.approx(none.activations / 4)
  assert formula("h100:16", {"data": 16, "fsdp": 1, "tensor": 1}).times.network > plain.times.network, "two hosts, and their network between them"
