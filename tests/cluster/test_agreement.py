"""agreement.py: two real processes decide alike, whichever of them fails; one that is alone decides alone."""

import json
import os
import socket
import subprocess
import sys

import pytest

from bert_jax.cluster import agreement
from bert_jax.errors import UserError

SCRIPT = """
import json, sys
import jax
number, port = int(sys.argv[1]), sys.argv[2]
jax.distributed.initialize(f"127.0.0.1:{port}", 2, number)
from bert_jax.cluster import agreement, stragglers
from bert_jax.errors import UserError

def told(work):
  try:
    return work()
  except Exception as error:
    return [type(error).__name__, str(error)]

def fail_on(which, error):
  def work():
    if number == which:
      raise error
    return f"fine on {number}"
  return work

found = {
    "from_first": agreement.from_first({"who": number, "list": [1, 2**40]}),
    "from_first of none": agreement.from_first(None if number == 0 else 7),
    "all fine": told(lambda: agreement.together(lambda: f"fine on {number}")),
    "mistake on 1": told(lambda: agreement.together(fail_on(1, UserError("no corpus here")))),
    "mistake on 0": told(lambda: agreement.together(fail_on(0, UserError("no corpus here")))),
    "defect on 1": told(lambda: agreement.together(fail_on(1, KeyError("x")))),
    "storage on 1": told(lambda: agreement.together(fail_on(1, OSError(5, "Input/output error", "runs/x")))),
    "on_first": told(lambda: agreement.on_first(lambda: ["made by", number])),
    "on_first that fails": told(lambda: agreement.on_first(fail_on(0, UserError("the disk is full")))),
    "and again": told(lambda: agreement.together(lambda: number)),
}
shared = stragglers.share(0.5 if number else 0.1)
agreement.together(lambda: None)
shared = stragglers.share(0.5 if number else 0.1)  # now both have told
found["slowest"] = shared and shared._asdict()
print(json.dumps(found))
"""


@pytest.fixture(scope="module")
def two():
  with socket.socket() as probe:
    probe.bind(("127.0.0.1", 0))
    port = probe.getsockname()[1]
  environment = os.environ | {"JAX_NUM_CPU_DEVICES": "1"}
  processes = [
    subprocess.Popen(
      [sys.executable, "-c", SCRIPT, str(number), str(port)], env=environment, stdout=subprocess.PIPE, text=True
    )
    for number in (0, 1)
  ]
  return [json.loads(process.communicate(timeout=100)[0]) for process in processes]


def test_the_first_process_decides(two):
  assert two[0]["from_first"] == two[1]["from_first"] == {"who": 0, "list": [1, 2**40]}
  assert two[0]["from_first of none"] is None and two[1]["from_first of none"] is None
  assert two[0]["on_first"] == two[1]["on_first"] == ["made by", 0]


def test_each_keeps_its_own_result_where_all_is_fine(two):
  assert [found["all fine"] for found in two] == ["fine on 0", "fine on 1"]
  assert [found["and again"] for found in two] == [0, 1], "failures before have not put them out of step"


@pytest.mark.parametrize("culprit", [0, 1])
def test_a_mistake_on_one_is_a_mistake_on_both_with_the_host_named_on_the_other(two, culprit):
  assert two[culprit][f"mistake on {culprit}"] == ["UserError", "no corpus here"]
  kind, message = two[1 - culprit][f"mistake on {culprit}"]
  assert kind == "UserError" and message == f"process {culprit} on {socket.gethostname()}: no corpus here"


def test_a_defect_on_one_stops_the_other_too(two):
  assert two[1]["defect on 1"][0] == "KeyError" and two[0]["defect on 1"][0] == "OtherProcessFailed"


def test_storage_that_fails_one_is_the_reason_why_both_end(two):
  assert [found["storage on 1"][0] for found in two] == ["StorageError", "StorageError"]
  assert two[0]["storage on 1"][1].startswith(f"process 1 on {socket.gethostname()}: runs/x: Input/output error; ")


def test_what_the_first_one_cannot_do_fails_everywhere(two):
  assert [found["on_first that fails"][0] for found in two] == ["UserError", "UserError"]


def test_the_first_process_hears_who_is_slowest(two):
  assert two[0]["slowest"] == {"process": 1, "host": socket.gethostname(), "seconds": 0.5, "median": pytest.approx(0.1)}
  assert two[1]["slowest"] is None


def test_one_process_decides_alone():
  assert agreement.from_first([3, 2**31 - 1]) == [3, 2**31 - 1]
  assert agreement.together(lambda: "result") == agreement.on_first(lambda: "result") == "result"
  with pytest.raises(UserError, match="mine"):
    agreement.together(lambda: _fail(UserError("mine")))
  with pytest.raises(KeyError):
    agreement.on_first(lambda: _fail(KeyError("mine")))


def _fail(error):
  raise error
