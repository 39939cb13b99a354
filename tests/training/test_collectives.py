"""What devices exchange in a training step compiled for TPUs: what theory says, and nothing else.

The whole step is compiled ahead of time by the TPU compiler for eight chips, and its collectives are read from the HLO.
"""

import math

import jax
import pytest

from bert_jax import config as configs
from bert_jax.objectives import pretraining
from bert_jax.objectives.objective import CorpusFacts
from bert_jax.runs.build import model_of
from bert_jax.tools.plan.ahead import Request, compile_ahead
from bert_jax.tools.plan.data_facts import DataFacts
from tests.helpers.tiny_pretraining import tiny_config

pytestmark = pytest.mark.slow  # minutes of compiling

ROWS, LENGTH, PREDICTIONS, VOCAB, HIDDEN, LAYERS = 96, 72, 10, 1000, 128, 2
MESHES = {
  "data": {"data": 8},
  "data, 4 microbatches": {"data": 8, "microbatches": 4},
  "fsdp": {"data": 1, "fsdp": 8},
  "data x fsdp": {"data": 2, "fsdp": 4},
  "data x fsdp, 4 microbatches": {"data": 2, "fsdp": 4, "microbatches": 4},
  "data x tensor": {"data": 4, "tensor": 2},
  "fsdp x tensor": {"data": 1, "fsdp": 4, "tensor": 2},
  "data between slices, fsdp within": {"data": 2, "fsdp": 8},
}
SLICES = {"data between slices, fsdp within": "v5e:2x4*2"}
TINY = 4096  # bytes; sums of losses and norms, and arrays that live on every device


def config_of(data, fsdp=1, tensor=1, microbatches=1):
  return tiny_config(
    **{
      "mesh.data": data,
      "mesh.fsdp": fsdp,
      "mesh.tensor": tensor,
      "optimizer.microbatches": microbatches,
      "data.batch_size": ROWS,
      "model.dtype": "bfloat16",
      "model.vocab_size": VOCAB,
      "model.hidden_size": HIDDEN,
      "model.num_hidden_layers": LAYERS,
      "model.intermediate_size": 256,
      "model.max_position_embeddings": 512,
      "masking.max_predictions": PREDICTIONS,
      "model.hidden_dropout_prob": 0.1,
      "model.attention_probs_dropout_prob": 0.1,
    }
  )


@pytest.fixture(scope="module")
def compiled():
  """{mesh: what the TPU compiler made of the step}."""
  pytest.importorskip("libtpu", reason="compiling for TPUs needs the extra [plan]")
  data = DataFacts(VOCAB, LENGTH, 4, "nsp")
  results = compile_ahead(
    [Request(config_of(**mesh), SLICES.get(name, "v5e:2x4"), data) for name, mesh in MESHES.items()]
  )
  results = dict(zip(MESHES, results, strict=True))
  for name, result in results.items():
    assert hasattr(result, "traffic"), f"{name}: {result}"
  return results


def parameters(split_by_fsdp):
  """Numbers in all parameters of the model that fsdp splits, or that it does not."""
  config = config_of(8)
  facts = CorpusFacts(4, range(5), [False] * VOCAB, "nsp")
  objective = pretraining.make_pretraining_objective(model_of(config, configs.encoder_of(config)), config, facts)
  shapes = jax.tree_util.tree_leaves_with_path(jax.eval_shape(objective.init, jax.random.key(0)))
  big = lambda path, leaf: leaf.ndim == 2 and "token_type" not in str(path) and "nsp_head" not in str(path)
  return sum(math.prod(leaf.shape) for path, leaf in shapes if big(path, leaf) == split_by_fsdp)


def of(result, kind=None, axis=None):
  """Collectives that carry more than scalars and small vectors."""
  return [
    one
    for one in result.traffic
    if one.bytes > TINY and (kind is None or one.kind == kind) and (axis is None or axis in one.axes)
  ]


def carried(collectives):
  return sum(one.bytes * one.times for one in collectives)


def dtypes(collectives):
  return {dtype for one in collectives for dtype, shape in one.arrays if math.prod(shape) > 1}


@pytest.mark.parametrize("mesh", ["data", "data, 4 microbatches"])
def test_data_parallelism_sums_every_gradient_once_a_step_in_float32(compiled, mesh):
  found = of(compiled[mesh])
  assert {one.kind for one in found} == {"all-reduce"} and dtypes(found) == {"f32"}
  gradients = 4 * (parameters(True) + parameters(False))
  assert gradients <= carried(found) <= gradients + 100  # and the sums of the loss


@pytest.mark.parametrize("mesh", ["fsdp", "data x fsdp", "data x fsdp, 4 microbatches"])
def test_fsdp_gathers_parameters_and_scatters_gradients_once_a_microbatch(compiled, mesh):
  result, microbatches = compiled[mesh], MESHES[mesh].get("microbatches", 1)
  split, other, fsdp = parameters(True), parameters(False), result.mesh["fsdp"]
  # In bfloat16, but for tables that are looked up: a gather in float32 is twice as large.
  gathers, scatters, sums = (of(result, kind) for kind in ("all-gather", "reduce-scatter", "all-reduce"))
  assert len(gathers) + len(scatters) + len(sums) == len(of(result))
  assert {one.axes for one in gathers + scatters} == {("fsdp",)} and dtypes(scatters + sums) == {"f32"}
  assert 2 * split * microbatches <= carried(gathers) <= 4 * split * microbatches
  assert carried(scatters) == 4 * split * microbatches
  # Once a step: what no device of fsdp shares with another, and with data each device's own part of the rest.
  own_part = 4 * split // fsdp if result.mesh["data"] > 1 else 0
  assert 4 * other + own_part <= carried(sums) <= 4 * other + own_part + 200
  assert {one.times for one in sums} == {1}


def test_slices_exchange_each_device_s_own_part_of_the_gradients_and_nothing_else(compiled):
  """The network between slices is far slower than the one within: parameters are neither gathered nor scattered over
  it.
  """
  result = compiled["data between slices, fsdp within"]
  across = [one for one in of(result) if one.slices > 1]
  own_part = 4 * parameters(True) // result.mesh["fsdp"]
  assert {(one.kind, one.axes, one.times) for one in across} == {("all-reduce", ("data",), 1)} and dtypes(across) == {
    "f32"
  }
  assert own_part < carried(across) <= own_part + 4 * parameters(False) + TINY  # in whole tiles
  assert carried(of(result, "reduce-scatter")) == 4 * parameters(True)


@pytest.mark.parametrize("mesh", ["data", "fsdp", "data x fsdp"])
def test_neither_activations_nor_logits_leave_a_device(compiled, mesh):
  """Rows, tokens and predictions are numbers that no parameter has as a dimension."""
  result = compiled[mesh]
  lengths = {ROWS, ROWS // 8, ROWS // 8 * LENGTH, ROWS // 8 * PREDICTIONS, LENGTH, PREDICTIONS}
  for one in result.traffic:
    for _, shape in one.arrays:
      whole = shape[1:] if one.kind == "reduce-scatter" else shape  # which is cut into what each device gets
      assert len(whole) <= 2 and not lengths & set(whole), one


@pytest.mark.parametrize("mesh", ["data x tensor", "fsdp x tensor"])
def test_tensor_parallelism_sums_activations_where_megatron_does(compiled, mesh):
  """Twice forward and twice backward in a layer; the lookup of words; and backward of the logits."""
  result = compiled[mesh]
  rows = ROWS // (result.mesh["data"] * result.mesh["fsdp"])
  shapes = [shape for one in of(result, axis="tensor") for _, shape in one.arrays for _ in range(one.times)]
  assert {one.kind for one in of(result, axis="tensor")} == {"all-reduce"}
  sums = {"layers and lookup": (rows, LENGTH, HIDDEN), "logits": (rows, PREDICTIONS, HIDDEN)}
  assert shapes.count(sums["layers and lookup"]) == 4 * LAYERS + 1
  assert shapes.count(sums["logits"]) == 1 and len(shapes) == 4 * LAYERS + 2
