"""estimate.py: rooflines and formulas, held against counts that can be done by hand and against the real model."""

import jax
import numpy as np
import pytest

from bert_jax import config as configs
from bert_jax.cluster.chips import parse_topology
from bert_jax.tools.plan import estimate
from bert_jax.tools.plan.ahead import Compiled, Traffic
from tests.helpers.later_families import later_family
from tests.helpers.tiny_pretraining import tiny_config, tiny_objective


def compiled(memory=None, flops=0.0, traffic=(), microbatches=1):
  sizes = {"arguments": 0, "outputs": 0, "aliased": 0, "temporaries": 0, "code": 0} | (memory or {})
  return Compiled(1.0, {"data": 4}, {}, sizes, flops, None, microbatches, traffic)


def traffic(sent, spans=(4, 1), slices=1, times=1):
  return Traffic("all-reduce", ("data",), 4, (("f32", (1,)),), 0, sent, times, True, "", spans, slices)


def network(topology, *found):
  return estimate.times_of_compiled(compiled(traffic=found), parse_topology(topology)).network


def test_a_step_computes_moves_and_sends_and_is_bound_by_the_slowest():
  v5e = parse_topology("v5e:4x4")
  assert estimate.times_of_compiled(compiled(flops=197e12), v5e) == (1.0, 0.0, 0.0)
  moved = estimate.times_of_compiled(
    compiled({"arguments": 819e9 / 4, "outputs": 819e9 / 4, "temporaries": 819e9 / 4, "aliased": 819e9 / 4}), v5e
  )
  assert moved.memory == pytest.approx(1.0) and moved.bound_by == "memory bandwidth"
  again = estimate.times_of_compiled(compiled({"temporaries": 819e9 / 8}, microbatches=4), v5e)
  assert again.memory == pytest.approx(1.0), "temporaries are written and read for every microbatch"


def test_the_network_takes_as_long_as_the_links_that_a_group_has():
  assert network("v5e:4x4", traffic(50e9)) == pytest.approx(1.0), "four chips in a line: one link at a time"
  assert network("v5e:4x4", traffic(50e9, times=3)) == pytest.approx(3.0)
  assert network("v5e:4x4", traffic(50e9, (4, 4))) == pytest.approx(0.5), "a link in each of two dimensions"
  assert network("v5e:16x16", traffic(50e9, (16, 1))) == pytest.approx(0.5), (
    "sixteen close to a ring, and both directions carry"
  )
  assert network("v5e:16x16", traffic(50e9, (16, 16))) == pytest.approx(0.25)
  assert network("v5e:16x16", traffic(50e9, (8, 1))) == pytest.approx(1.0), "half of a ring is a line"
  assert network("v5p:4x4x4", traffic(100e9, (4, 4, 4))) == pytest.approx(1 / 6)
  assert network("v5e:4x4", traffic(50e9), traffic(50e9, (1, 4))) == pytest.approx(2.0)
  between = estimate.times_of_compiled(
    compiled(traffic=(traffic(3.1e9, (1, 1), slices=2),)), parse_topology("v5e:4x4*2")
  )
  assert between.network == pytest.approx(1.0) and between.bound_by == "the network between chips"


def test_overlap_is_the_longest_and_no_overlap_the_sum():
  times = estimate.Times(1.0, 2.0, 4.0)
  assert times.roofline == 4.0 and times.apart == 7.0


@pytest.mark.parametrize(
  "changes", [{}, {"model.num_hidden_layers": 3, "model.hidden_size": 32, "model.vocab_size": 200}]
)
def test_parameters_are_counted_as_the_model_has_them(changes):
  config = tiny_config(**changes)
  shapes = jax.eval_shape(tiny_objective(config, np.zeros(config.model.vocab_size, bool)).init, jax.random.key(0))
  assert estimate.count_parameters(configs.encoder_of(config)) == sum(leaf.size for leaf in jax.tree.leaves(shapes))


def formula(topology="h100:8", mesh=None, parameters=None, **changes):
  config = tiny_config(**{"data.batch_size": 64} | changes)
  encoder = configs.encoder_of(config)
  return estimate.by_formula(
    config,
    encoder,
    parse_topology(topology),
    mesh or {"data": 8, "fsdp": 1, "tensor": 1},
    parameters=parameters or estimate.count_parameters(encoder),
    seq_length=32,
    model_flops=8 * 989e12,
  )


def test_by_formula_memory_is_that_of_the_parameters_that_there_are_whatever_they_are_called():
  count = sum(leaf.size for leaf in jax.tree.leaves(later_family()))
  found = formula(mesh={"data": 2, "fsdp": 2, "tensor": 2}, parameters=count)
  assert found.parameters == count * 4 / 4 and found.moments == 2 * found.parameters


def test_by_formula_fsdp_splits_the_state_and_remat_and_microbatches_save_activations():
  plain, split = formula(), formula(mesh={"data": 1, "fsdp": 8, "tensor": 1})
  assert plain.parameters == gradients() and plain.moments == 2 * plain.parameters, "float32, and two moments of Adam"
  assert split.parameters == plain.parameters / 8 and split.moments == plain.moments / 8
  encoder = configs.encoder_of(tiny_config())
  h, f, scores, layers = (
    encoder.hidden_size,
    encoder.intermediate_size,
    encoder.num_attention_heads * 32,
    encoder.num_hidden_layers,
  )
  layer, logits = (
    4 * 8 * 32 * (10 * h + 3 * f + 2 * scores),
    8 * tiny_config().masking.max_predictions * encoder.padded_vocab_size * 8,
  )
  assert plain.activations == pytest.approx((layers + 1) * layer + logits), (
    "eight rows; every layer keeps its own, and one is at work"
  )
  assert plain.gradients == gradients() and split.gradients == pytest.approx(gradients() / 8 + gradients()), (
    "gathered parameters beside its part"
  )
  half = formula(**{"optimizer.moments_dtype": "bfloat16"})
  assert (
    half.moments == plain.moments / 2 and half.parameters == plain.parameters and half.times.memory < plain.times.memory
  )
  heads = formula(mesh={"data": 4, "fsdp": 1, "tensor": 2})
  assert heads.parameters == plain.parameters / 2 and heads.moments == plain.moments / 2
  none, dots, full = (formula(**{"model.remat": remat}) for remat in ("none", "dots", "full"))
  assert (
    none.activations > dots.activations > full.activations
    and full.times.compute > dots.times.compute > none.times.compute == 1.0
  )
  assert full.times.compute == pytest.approx(4 / 3), "a forward pass more, of the three parts of a step"
  four = formula(**{"optimizer.microbatches": 4})
  assert four.activations == pytest.approx(none.activations / 4)


def test_by_formula_neither_remat_nor_microbatches_spare_the_memory_any_traffic():
  plain = formula().times.memory
  assert (
    formula(**{"model.remat": "full"}).times.memory
    == plain
    == pytest.approx(formula(**{"optimizer.microbatches": 4}).times.memory)
  )


def gradients(config=None):
  return 4 * estimate.count_parameters(configs.encoder_of(config or tiny_config()))


def test_by_formula_gradients_go_round_a_host_and_each_gpu_passes_on_its_part_between_hosts():
  one = formula("h100:8").times.network
  assert one == pytest.approx(2 * 7 / 8 * gradients() / 450e9)
  two = formula("h100:16", {"data": 16, "fsdp": 1, "tensor": 1}).times.network
  assert two == pytest.approx(one + 2 * 1 / 2 * gradients() / 8 / 50e9)


def test_by_formula_slices_of_tpus_are_joined_by_the_network_and_chips_by_their_links():
  pair = {"data": 2, "fsdp": 4, "tensor": 1}
  within = lambda links: 3 / 4 * gradients() * 1.5 / (links * 50e9)  # float32 gradients, bfloat16 parameters
  assert formula("v5e:2x2*2", pair, **{"model.dtype": "bfloat16"}).times.network == pytest.approx(
    within(2) + 2 * 1 / 2 * gradients() / 4 / 3.1e9
  )
  alone = {"data": 1, "fsdp": 4, "tensor": 1}
  four = formula("v5e:2x2", alone, **{"model.dtype": "bfloat16", "optimizer.microbatches": 4})
  assert four.times.network == pytest.approx(4 * within(2)), "fsdp gathers and scatters for every microbatch"
  rings = formula("v5e:16x16", {"data": 256, "fsdp": 1, "tensor": 1}, **{"data.batch_size": 256}).times.network
  assert rings == pytest.approx(2 * 255 / 256 * gradients() / (4 * 50e9)), "both directions of two rings"
  flat = formula("v5e:8x8", {"data": 64, "fsdp": 1, "tensor": 1}).times.network
  assert flat == pytest.approx(2 * 63 / 64 * gradients() / (2 * 50e9))


def test_by_formula_the_tensor_axis_sums_activations_twice_a_layer_and_pass():
  config = configs.encoder_of(tiny_config())
  found = formula("h100:2", {"data": 1, "fsdp": 1, "tensor": 2}).times.network
  activations = 64 * 32 * config.hidden_size * 4 * config.num_hidden_layers  # rows, tokens, width, float32, layers
  assert found == pytest.approx(4 * (2 * 1 / 2) * activations / 450e9)
