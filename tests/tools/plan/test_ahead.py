"""ahead.py without the compiler: what its messages and its estimate of the time mean."""

import types

import numpy as np
import pytest

from bert_jax.tools.plan import ahead
from bert_jax.tools.plan.data_facts import DataFacts
from tests.helpers.tiny_pretraining import tiny_config

ENTRY = """HloModule jit_step, is_scheduled=true

%fused (p: f32[8]) -> f32[8] {
  %p = f32[8]{0} parameter(0)
  ROOT %inner = f32[8]{0} custom-call(%p), custom_call_target="GatherScatterIndicesBitpacked"
}

ENTRY %main (param: f32[8]) -> f32[8] {
  %param = f32[8]{0} parameter(0)
  %a = f32[8]{0} custom-call(%param), custom_call_target="ConcatBitcast"
  %room = f32[8]{0} custom-call(), custom_call_target="AllocateBuffer"
  ROOT %b = f32[8]{0} custom-call(%a), custom_call_target="ZeroCrop"
}
"""


@pytest.mark.parametrize(
  "message, kind, needed, has",
  [
    (
      "RESOURCE_EXHAUSTED: Ran out of memory in memory space hbm. Used 17.50G of 15.75G hbm. Exceeded by 1.75G",
      "memory",
      17.5,
      15.75,
    ),
    (
      "RESOURCE_EXHAUSTED: Ran out of memory on HBM, the total memory required for HLO temporaries (20.28G) exceeds "
      "available HBM (15.75G).",
      "memory",
      20.28,
      15.75,
    ),
    ("RESOURCE_EXHAUSTED: something else", "memory", 0, 0),
    ("INTERNAL: a check failed", "compiler", 0, 0),
  ],
)
def test_what_a_chip_would_need_is_read_from_the_message_of_the_compiler(message, kind, needed, has):
  failure = ahead.failure_of(message)
  assert (
    failure.kind == kind
    and failure.needed_bytes == pytest.approx(needed * 2**30, abs=1)
    and failure.hbm_bytes == pytest.approx(has * 2**30, abs=1)
  )


def test_the_compilers_time_is_freed_of_the_second_that_it_books_off_for_every_call_it_does_not_know():
  assert ahead.own_seconds(-1.98, ENTRY, 1) == pytest.approx(0.02), (
    "two of the entry: neither that of a fusion nor that which allocates"
  )
  assert ahead.own_seconds(0.5, ENTRY.replace("custom-call", "copy"), 1) == 0.5


@pytest.mark.parametrize("said, microbatches", [(None, 1), (float("nan"), 1), (float("inf"), 1), (-2.5, 1), (0.5, 4)])
def test_the_compilers_time_is_none_where_it_is_no_time_of_a_whole_step(said, microbatches):
  assert ahead.own_seconds(said, ENTRY, microbatches) is None


def test_a_collective_is_placed_on_the_torus_by_the_chips_of_its_groups():
  devices = [
    types.SimpleNamespace(coords=(x, y, 0), slice_index=piece) for piece in (0, 1) for x in range(4) for y in range(2)
  ]
  mesh = types.SimpleNamespace(devices=np.array(devices, object).reshape(2, 8), shape={"data": 2, "fsdp": 8})
  line = "  ROOT %r = f32[8]{{0}} all-reduce(%param), channel_id=1, replica_groups={groups}, to_apply=%sum"
  text = (
    "HloModule m\n\nENTRY %main (param: f32[8]) -> f32[8] {{\n  %param = f32[8]{{0}} parameter(0)\n" + line + "\n}}\n"
  )
  placed = lambda groups: ahead._traffic(*ahead.hlo.collectives(text.format(groups=groups), num_devices=16), mesh)
  found = [
    placed(groups)
    for groups in ("{{0,1,2,3,4,5,6,7},{8,9,10,11,12,13,14,15}}", "{{0,2,4,6},{1,3,5,7}}", "{{0,8},{1,9}}")
  ]
  assert [(one.spans, one.slices) for one in found] == [((4, 2, 1), 1), ((4, 1, 1), 1), ((1, 1, 1), 2)]
  assert [one.axes for one in found] == [("fsdp",), ("fsdp",), ("data",)]
  assert placed("@unknown").spans == ()


def answers(monkeypatch, child):
  """What compile_ahead makes of three requests, with this program in the place of the compiler."""
  monkeypatch.setattr(ahead, "_library", lambda: "")
  monkeypatch.setattr(ahead, "_MAIN", child)
  return list(ahead.compile_ahead([ahead.Request(tiny_config(), "v5e:1x1", DataFacts(150, 32, 4, "nsp"))] * 3))


ONE = """import sys; sys.stdin.readline(); print('{"kind": "user", "message": "an answer"}', flush=True)"""


def test_a_child_that_leaves_after_an_answer_is_followed_by_another(monkeypatch):
  assert answers(monkeypatch, ONE) == [ahead.Failure("user", "an answer")] * 3


def test_a_child_that_dies_costs_the_request_it_died_of_and_is_followed_by_another(monkeypatch):
  found = answers(monkeypatch, ONE + "; sys.exit('overflowed its stack')")
  assert [failure.message for failure in found] == [
    "an answer",
    "the compiler ended with code 1: overflowed its stack",
    "an answer",
  ]


def test_a_child_that_never_answers_is_told_once_for_each_request(monkeypatch):
  found = answers(monkeypatch, "import sys; sys.stdin.read()")
  assert [failure.kind for failure in found] == ["compiler"] * 3
