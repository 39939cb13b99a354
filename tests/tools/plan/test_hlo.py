"""Reading collectives out of HLO: texts as the TPU compiler and XLA's CPU and GPU compilers write them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from bert_jax.tools.plan import hlo

MODULE = """HloModule jit_step, is_scheduled=true

%sum (x: f32[], y: f32[]) -> f32[] {
  %x = f32[] parameter(0)
  %y = f32[] parameter(1)
  ROOT %add = f32[] add(%x, %y)
}

__BEFORE__
ENTRY %main.7_spmd (param: f32[8,128]) -> f32[8,128] {
  %param = f32[8,128]{1,0:T(8,128)} parameter(0)
__LINES__
}
"""


def read(lines, before="", num_devices=8):
  return hlo.collectives(MODULE.replace("__BEFORE__", before).replace("__LINES__", lines), num_devices=num_devices)


# From a BERT-base step for v5e:2x4, shortened.
ALL_REDUCE = (
  "  %all-reduce.56 = (f32[]{:T(128)}, bf16[30592,1024]{1,0:T(8,128)(2,1)}) all-reduce(%a, %b), channel_id=4, "
  "replica_groups=mesh['axis_0'=8,'axis_1'=1] {'axis_0','axis_1'}, use_global_device_ids=true, to_apply=%sum, "
  'metadata={op_name="jit(step)/reduce_sum" stack_frame_id=50}, backend_config={}'
)
SCATTER_BODY = """%all-reduce-scatter.2 (input: bf16[24640,8,128]) -> bf16[3080,8,128] {
  %pad.2 = bf16[24640,8,128]{2,1,0:T(8,128)(2,1)} parameter(0)
  %all-reduce.9 = bf16[24640,8,128]{2,1,0:T(8,128)(2,1)} all-reduce(%pad.2), channel_id=147, \
replica_groups={{0,1,2,3,4,5,6,7}}, use_global_device_ids=true, to_apply=%sum
  ROOT %dynamic-slice.2 = bf16[3080,8,128]{2,1,0:T(8,128)(2,1)} dynamic-slice(%all-reduce.9), \
dynamic_slice_sizes={3080,8,128}
}
"""
SCATTER_CALL = (
  "  %fusion.2 = bf16[3080,8,128]{2,1,0:T(8,128)(2,1)S(1)} fusion(%fusion.14), kind=kCustom, "
  "calls=%all-reduce-scatter.2, "
  'metadata={op_name="jit(step)/encoder/layer_0/attention/key/dot_general" stack_frame_id=187}'
)


def chain_part(name):
  return f"""%{name} (p: bf16[96,768]) -> bf16[768,768] {{
  %p.{name} = bf16[96,768]{{1,0:T(8,128)(2,1)}} parameter(0)
  ROOT %all-gather.{name} = bf16[768,768]{{1,0:T(8,128)(2,1)}} all-gather(%p.{name}), channel_id=353, \
replica_groups=mesh['axis_0'=1,'axis_1'=8] {{'axis_1'}}, dimensions={{0}}, use_global_device_ids=true, \
frontend_attributes={{chain_id="3"}}
}}
"""


def test_the_operands_of_one_all_reduce_are_read_with_type_and_shape():
  (one,) = read(ALL_REDUCE)
  assert one.kind == "all-reduce" and one.group_size == 8 and one.times == 1
  assert one.arrays == (("f32", ()), ("bf16", (30592, 1024)))
  assert one.bytes == 4 + 2 * 30592 * 1024
  assert one.source == "jit(step)/reduce_sum"


def test_a_ring_sends_all_but_one_part_and_twice_that_to_reduce_all():
  (reduce,) = read(ALL_REDUCE)
  (gather,) = read(
    "  %g = f32[64,128]{1,0} all-gather(%param), replica_groups={{0,1},{2,3},{4,5},{6,7}}, dimensions={0}"
  )
  assert reduce.sent_bytes == 2 * reduce.bytes * 7 / 8
  assert gather.bytes == 64 * 128 * 4 and gather.sent_bytes == gather.bytes / 2


def test_the_fusion_all_reduce_scatter_is_a_reduce_scatter_of_the_whole_operand_named_after_its_caller():
  (one,) = read(SCATTER_CALL, SCATTER_BODY)
  assert one.kind == "reduce-scatter"
  assert one.arrays == (("bf16", (24640, 8, 128)),)
  assert one.source.endswith("attention/key/dot_general")


def test_a_collective_that_nobody_calls_is_not_counted():
  assert read("", SCATTER_BODY) == []


def test_the_parts_of_a_chain_of_fusions_are_one_collective():
  names = ["fused_computation.1", "async_collective_fusion.1", "fused_computation.2"]
  calls = "\n".join(
    f"  %fusion.{n} = bf16[768,768] fusion(%param), kind=kOutput, calls=%{name}" for n, name in enumerate(names)
  )
  (one,) = read(calls, "\n".join(map(chain_part, names)))
  assert one.kind == "all-gather" and one.bytes == 2 * 768 * 768


def test_start_and_done_are_one_collective_and_its_result_is_what_counts():
  lines = """  %s = (f32[8,128]{1,0}, f32[64,128]{1,0}) all-gather-start(%param), channel_id=1, \
replica_groups=[1,8]<=[8], dimensions={0}
  %d = f32[64,128]{1,0} all-gather-done(%s)
  %cs = (bf16[2,3]{1,0}, bf16[2,3]{1,0}, u32[]{:S(2)}, u32[]{:S(2)}) collective-permute-start(%param), \
source_target_pairs={{0,1},{1,2},{2,3}}
  %cd = bf16[2,3]{1,0} collective-permute-done(%cs)
  %vs = ((f32[8]{0}, f32[4]{0}), (f32[64]{0}, f32[32]{0})) all-gather-start(%param, %param), channel_id=1, \
replica_groups=[1,8]<=[8], dimensions={0}
  %vd = (f32[64]{0}, f32[32]{0}) all-gather-done(%vs)
  %rs = (f32[8]{0}, f32[4]{0}) all-reduce-start(%param, %param), channel_id=1, replica_groups={}, to_apply=%sum
  %rd = (f32[8]{0}, f32[4]{0}) all-reduce-done(%rs)"""
  gather, permute, several, reduce = read(lines)
  assert gather.arrays == (("f32", (64, 128)),)
  assert permute.kind == "collective-permute" and permute.arrays == (("bf16", (2, 3)),) and permute.sent_bytes == 12
  assert several.arrays == (("f32", (64,)), ("f32", (32,)))
  assert reduce.arrays == (("f32", (8,)), ("f32", (4,))) and reduce.group_size == 8


def test_what_async_start_begins_is_counted_once_though_update_and_done_name_it_too():
  body = """%wrapped (p: f32[64,128]) -> f32[8,128] {
  %p = f32[64,128]{1,0} parameter(0)
  ROOT %rs = f32[8,128]{1,0} reduce-scatter(%p), channel_id=3, replica_groups=[1,8]<=[8], dimensions={0}, to_apply=%sum
}
"""
  lines = """  %as = ((f32[64,128]{1,0}), f32[8,128]{1,0}, s32[]) async-start(%param), calls=%wrapped
  %au = ((f32[64,128]{1,0}), f32[8,128]{1,0}, s32[]) async-update(%as), calls=%wrapped
  %ad = f32[8,128]{1,0} async-done(%au), calls=%wrapped"""
  (one,) = read(lines, body)
  assert one.kind == "reduce-scatter" and one.arrays == (("f32", (64, 128)),)


LOOP = """%fused_compare (i: s32[]) -> pred[] {
  %i = s32[] parameter(0)
  %limit = s32[] constant(7)
  ROOT %lt = pred[] compare(%i, %limit), direction=LT
}

%cond (state: (s32[], f32[8,128])) -> pred[] {
  %state = (s32[], f32[8,128]{1,0}) parameter(0)
  %count = s32[] get-tuple-element(%state), index=0
  ROOT %less = pred[] fusion(%count), kind=kLoop, calls=%fused_compare
}

%body (state.1: (s32[], f32[8,128])) -> (s32[], f32[8,128]) {
  %state.1 = (s32[], f32[8,128]{1,0}) parameter(0)
  %value = f32[8,128]{1,0} get-tuple-element(%state.1), index=1
  %r = f32[8,128]{1,0} all-reduce(%value), channel_id=1, replica_groups=[1,8]<=[8], to_apply=%sum
  ROOT %next = (s32[], f32[8,128]{1,0}) tuple(%value, %r)
}
"""


def test_what_slices_send_through_their_hosts_is_the_collective_that_it_is_a_part_of():
  attributes = '_xla_host_transfer_handler_name="xla_megascale_runtime",_xla_host_transfer_rendezvous="psum.383_0",\
_xla_megascale_reduce_operation="SUM",_xla_megascale_target="{1,2}x{0:3}",_xla_megascale_transfer_type="ALL_REDUCE"'
  rest = f"channel_id=35, is_host_transfer=true, frontend_attributes={{{attributes}}}, backend_config={{}}"
  (one,) = read(
    f"  %send.19 = (f32[2,8,128]{{2,1,0:T(8,128)}}, u32[], token[]) send(%bitcast.38, %after-all.19), {rest}\n"
    f"  %recv.19 = (f32[2,8,128]{{2,1,0:T(8,128)}}, u32[], token[]) recv(%after-all.20), {rest}"
  )
  assert one.kind == "all-reduce" and one.arrays == (("f32", (2, 8, 128)),)
  assert one.groups.tolist() == [[0, 4], [1, 5], [2, 6], [3, 7]]


def test_a_send_to_the_host_is_no_collective():
  assert (
    read("  %send = (f32[8,128]{1,0}, u32[], token[]) send(%param, %after-all), channel_id=2, is_host_transfer=true")
    == []
  )


def test_a_collective_in_a_loop_happens_as_often_as_its_condition_says():
  (one,) = read("  %w = (s32[], f32[8,128]{1,0}) while(%param), condition=%cond, body=%body", LOOP)
  assert (one.times, one.times_known) == (7, True)


def test_the_noted_trip_count_of_a_loop_comes_first():
  (one,) = read(
    "  %w = (s32[], f32[8,128]{1,0}) while(%param), condition=%cond, body=%body, "
    'backend_config={"known_trip_count":{"n":"12"}}',
    LOOP,
  )
  assert (one.times, one.times_known) == (12, True)


def test_a_loop_in_a_loop_turns_as_often_as_both():
  outer = (
    LOOP
    + """
%outer (state.2: (s32[], f32[8,128])) -> (s32[], f32[8,128]) {
  %state.2 = (s32[], f32[8,128]{1,0}) parameter(0)
  ROOT %w.2 = (s32[], f32[8,128]) while(%state.2), condition=%cond, body=%body
}
"""
  )
  (one,) = read(
    "  %w = (s32[], f32[8,128]{1,0}) while(%param), condition=%cond, body=%outer, "
    'backend_config={"known_trip_count":{"n":"12"}}',
    outer,
  )
  assert (one.times, one.times_known) == (84, True)


def test_a_loop_of_unknown_length_counts_as_one_turn_and_says_so():
  (one,) = read(
    "  %w = (s32[], f32[8,128]{1,0}) while(%param), condition=%cond, body=%body",
    LOOP.replace("direction=LT", "direction=EQ"),
  )
  assert (one.times, one.times_known) == (1, False)


@pytest.mark.parametrize(
  ("text", "groups"),
  [
    ("replica_groups={{0,1},{2,3}}", [[0, 1], [2, 3]]),
    ("replica_groups={}", [[0, 1, 2, 3]]),
    ("replica_groups=[2,2]<=[4]", [[0, 1], [2, 3]]),
    ("replica_groups=[2,2]<=[2,2]T(1,0)", [[0, 2], [1, 3]]),
    ("replica_groups=mesh['a'=2,'b'=2] {'b'}", [[0, 1], [2, 3]]),
    ("replica_groups=mesh['a'=2,'b'=2] {'a'}", [[0, 2], [1, 3]]),
    ("replica_groups=mesh['a'=2,'b'=2] {'a','b'}", [[0, 1, 2, 3]]),
    ("replica_groups=mesh['a'=2,'b'=2], device_ids=([2,2]T(1,0)) {'b'}", [[0, 2], [1, 3]]),
    ("replica_groups=mesh['a'=2,'b'=2], device_ids=(3,1,2,0) {'b'}", [[3, 1], [2, 0]]),
    ("replica_groups=mesh['a'=4] {'a':(2)2}", [[0, 1], [2, 3]]),
    ("replica_groups=mesh['a'=4] {'a':(1)2}", [[0, 2], [1, 3]]),
  ],
)
def test_groups_are_read_in_every_spelling(text, groups):
  (one,) = read(f"  %r = f32[8,128]{{1,0}} all-reduce(%param), channel_id=1, {text}, to_apply=%sum", num_devices=4)
  np.testing.assert_array_equal(one.groups, groups)


def test_a_spelling_that_is_not_known_leaves_the_groups_open():
  (one,) = read(
    "  %r = f32[8,128]{1,0} all-reduce(%param), channel_id=1, replica_groups=@mesh_5 {'a'}, to_apply=%sum",
    num_devices=4,
  )
  assert one.groups is None and one.group_size == 0 and one.sent_bytes == 2 * one.bytes
  assert hlo.mesh_axes(one.groups, {"data": 4}) is None


def test_groups_are_named_by_the_mesh_axes_that_they_run_along():
  mesh = {"data": 2, "fsdp": 2, "tensor": 2}
  assert hlo.mesh_axes(np.array([[0, 1], [2, 3], [4, 5], [6, 7]]), mesh) == ("tensor",)
  assert hlo.mesh_axes(np.array([[0, 2], [1, 3], [4, 6], [5, 7]]), mesh) == ("fsdp",)
  assert hlo.mesh_axes(np.array([[0, 2, 4, 6], [1, 3, 5, 7]]), mesh) == ("data", "fsdp")
  assert hlo.mesh_axes(np.array([[0], [1], [2], [3], [4], [5], [6], [7]]), mesh) == ()
  assert hlo.mesh_axes(np.arange(16)[None], mesh) is None


@pytest.fixture
def mesh():
  return jax.make_mesh((2, 4), ("data", "fsdp"), axis_types=(AxisType.Auto,) * 2)


def test_what_xla_compiles_on_this_machine_is_read_too(mesh):
  """A sum over all devices, in a loop of five turns."""
  rows = NamedSharding(mesh, P(("data", "fsdp")))

  def program(x):
    turn = lambda total, i: (total + jnp.sum(x * (total + i)), None)
    return jax.lax.scan(turn, jnp.zeros(()), jnp.arange(5.0))[0]

  text = jax.jit(program, in_shardings=rows).lower(jax.ShapeDtypeStruct((16, 128), jnp.float32)).compile().as_text()
  found = hlo.collectives(text, num_devices=8)
  assert {one.kind for one in found} == {"all-reduce"}
  assert sum(one.times for one in found) == 5 and all(one.times_known for one in found)
  assert {hlo.mesh_axes(one.groups, dict(mesh.shape)) for one in found} == {("data", "fsdp")}


def test_a_parameter_that_is_gathered_is_found_whole(mesh):
  text = (
    jax.jit(lambda w: w * 2, in_shardings=NamedSharding(mesh, P("fsdp")), out_shardings=NamedSharding(mesh, P()))
    .lower(jax.ShapeDtypeStruct((8, 6), jnp.float32))
    .compile()
    .as_text()
  )
  (one,) = hlo.collectives(text, num_devices=8)
  assert (one.kind, one.arrays, hlo.mesh_axes(one.groups, dict(mesh.shape))) == (
    "all-gather",
    (("f32", (8, 6)),),
    ("fsdp",),
  )
