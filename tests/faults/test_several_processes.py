"""Law 1 and the promise of elasticity, with real processes: the same data and losses on any number, and a checkpoint
that moves between them.
"""

import json
import shutil

import numpy as np
import pytest

from bert_jax.training import metrics
from tests.faults.processes import SLOW_STEPS, events, losses, run, steps_saved

STEPS = ("total_steps=10", "eval_every_steps=10", "checkpoint.every_steps=100")

# Writes a hash of every row that this process's devices were given, by its place in the global batch.
RECORD = """
import atexit, hashlib, json, os, sys
import jax, numpy as np
from bert_jax.training import sharding
plain, seen = sharding.put_batch, []

def put_batch(batch, mesh):
  placed = plain(batch, mesh)
  rows = {}
  with jax.transfer_guard("allow"):
    for name in sorted(placed):
      for shard in placed[name].addressable_shards:
        for place, row in zip(range(*shard.index[0].indices(placed[name].shape[0])), np.asarray(shard.data)):
          rows.setdefault(place, {})[name] = row.tobytes()
  seen.append({place: hashlib.sha256(b"".join(row.values())).hexdigest() for place, row in rows.items()})
  return placed

sharding.put_batch = put_batch
number = next((word.partition("=")[2] for word in sys.argv if word.startswith("--process_id=")), "0")
workdir = next(word.partition("=")[2] for word in sys.argv if word.startswith("--workdir="))
atexit.register(lambda: json.dump(seen, open(f"{workdir}-rows-{number}.json", "w")))
"""


def rows_seen(folder, name, count):
  """For every batch: place in the batch -> hash of the row, from all processes together."""
  found = [json.loads((folder / f"{name}-rows-{number}.json").read_text()) for number in range(count)]
  assert len({len(one) for one in found}) == 1, "every process was given the same number of batches"
  return [{place: value for one in batch for place, value in one.items()} for batch in zip(*found)], found


@pytest.fixture(scope="module")
def alone(folder, corpus):
  run(folder, corpus, "alone", STEPS, count=1, sabotage=RECORD)
  return folder / "alone"


@pytest.mark.parametrize(
  "count, devices, mesh",
  [(2, 1, ()), (2, 2, ("mesh.fsdp=4",)), (4, 1, ("mesh.data=2", "mesh.fsdp=2")), (2, 1, ("mesh.tensor=2",))],
)
def test_any_number_of_processes_sees_the_batches_and_makes_the_losses_of_one(
  folder, corpus, alone, count, devices, mesh
):
  name = f"many-{count}-{devices}-{len(mesh)}-{'-'.join(mesh)}"
  run(folder, corpus, name, (*STEPS, *mesh), count=count, devices=devices, sabotage=RECORD)
  expected, _ = rows_seen(folder, "alone", 1)
  together, parts = rows_seen(folder, name, count)
  assert len(expected) > 10 and together == expected
  if not any("tensor" in key for key in mesh):
    assert all(len(batch) == 8 // count for one in parts for batch in one), "each process loads only its rows"
  np.testing.assert_allclose(losses(folder / name), losses(alone), atol=1e-5, rtol=0)
  ours, theirs = (metrics.read_metrics(path)[10] for path in (folder / name, alone))
  assert ours["eval/mlm_loss"] == pytest.approx(theirs["eval/mlm_loss"], abs=1e-5)
  assert ours["eval/predictions"] == theirs["eval/predictions"]


def test_a_checkpoint_of_four_processes_is_gone_on_from_by_one_and_by_two_on_other_meshes(folder, corpus, alone):
  run(folder, corpus, "four", (*STEPS, "stop_at_step=5", "mesh.data=2", "mesh.fsdp=2"), count=4)
  assert steps_saved(folder / "four") == [5]
  for name, count, devices, mesh in (("four-one", 1, 1, ()), ("four-two", 2, 2, ("mesh.fsdp=2", "mesh.tensor=2"))):
    shutil.copytree(folder / "four", folder / name)
    run(folder, corpus, name, (*STEPS, *mesh), count=count, devices=devices, sabotage=RECORD)
    (restore,) = events(folder / name, "restore")
    assert (restore["step"], restore["position"]) == (5, 5 * 8)
    np.testing.assert_allclose(losses(folder / name), losses(alone), atol=1e-5, rtol=0)
    expected, _ = rows_seen(folder, "alone", 1)
    found, _ = rows_seen(folder, name, count)
    assert found[:5] == expected[5:10], "the data goes on at the same example"


def test_a_slow_host_is_named(folder, corpus):
  run(folder, corpus, "slow", (*STEPS, "log_every_steps=5"), sabotage={1: SLOW_STEPS.replace("0.1", "0.5")})
  # The first interval holds each host's start, in which any of them may be the slow one.
  found = [event for event in events(folder / "slow", "slow_host") if event["step"] > 5]
  # Of the half second, what passes beside a step is not the host's own time.
  assert found and {event["process"] for event in found} == {1} and found[-1]["seconds"] > 0.25
  assert all(event["seconds"] > 2 * event["median"] for event in found)
  line = metrics.read_metrics(folder / "slow")[10]
  assert line["hosts/slowest"] == 1 and line["hosts/slowest_seconds"] > 0.25


def test_only_the_first_process_speaks(folder, corpus):
  first, second = run(folder, corpus, "speaks", STEPS)
  assert "On the validation split:" in first.output
  assert not [line for line in second.output.splitlines() if "[Gloo]" not in line]
