"""A run in an object store, where nothing can be appended to or renamed: trained, resumed, damaged, reported and
exported.
"""

import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import safetensors.numpy

from bert_jax.errors import EXIT_PREEMPTED
from tests.faults.processes import SLOW_STEPS, Processes, run
from tests.helpers.object_store import BUCKET, ObjectStore
from tests.helpers.tiny_runs import write_config

# gcsfs takes an append for a new object, with a warning; here it is an error.
_MAIN = """
import sys, warnings
warnings.filterwarnings("error", "Append mode")
from bert_jax.__main__ import main
sys.exit(main(sys.argv[1:]))
"""
STEPS = (
  "total_steps=12",
  "log_every_steps=1",
  "eval_every_steps=12",
  "checkpoint.every_steps=4",
  "checkpoint.keep_last=3",
)


@pytest.fixture(scope="module")
def store(corpus):
  """An object store that holds the corpus."""
  with ObjectStore() as store:
    for path in corpus.rglob("*"):
      if path.is_file():
        store.put(f"corpus/{path.relative_to(corpus)}", path.read_bytes())
    yield store


def bert_jax(store, folder, *words, code=0):
  """What a command prints, which has to end with `code`."""
  environment = (
    os.environ
    | store.environment
    | {
      "JAX_COMPILATION_CACHE_DIR": str(folder / "compiled"),
      "JAX_NUM_CPU_DEVICES": "1",
      "XLA_FLAGS": "--xla_backend_optimization_level=0",
    }
  )
  done = subprocess.run(
    [sys.executable, "-c", _MAIN, *words], env=environment, cwd=folder, capture_output=True, text=True, timeout=300
  )
  assert done.returncode == code, print(done.stdout + done.stderr)
  assert "Traceback" not in done.stderr, done.stderr
  return done.stdout + done.stderr


def pretrain(store, folder, name, *overrides, code=0, flags=()):
  keys = (f"data.corpus=gs://{BUCKET}/corpus", f"data.cache_dir={folder / 'cache'}", *STEPS, *overrides)
  return bert_jax(
    store,
    folder,
    "pretrain",
    f"--config={write_config(folder)}",
    f"--workdir=gs://{BUCKET}/{name}",
    *flags,
    *(f"--config.{key}" for key in keys),
    code=code,
  )


def lines(store, folder):
  """The records of all attempts."""
  return [json.loads(line) for name in store.names(folder) for line in store.objects[folder + name].splitlines()]


def exported(store, name):
  return safetensors.numpy.load(store.objects[f"{name}/export/model.safetensors"])


@pytest.fixture(scope="module")
def whole(store, folder):
  """A run that went straight on, with a trace of two of its steps."""
  pretrain(store, folder, "whole", flags=("--profile=3:5",))
  return exported(store, "whole")


def test_a_run_leaves_what_it_leaves_on_a_disk(store, folder, whole):
  found = store.names("whole/")
  folders = {name.partition("/")[0] for name in found}
  written = {"tokenizer", "checkpoints", "metrics", "events", "tensorboard", "profile", "export"}
  assert folders == {"config.json", "run.json"} | written
  assert {f"checkpoints/{step}/commit_success.txt" for step in (4, 8, 12)} <= set(found)
  assert [line["step"] for line in lines(store, "whole/metrics/") if "train/mlm_loss" in line] == list(range(1, 13))
  assert not any(".partial" in name for name in found) and any(name.endswith(".xplane.pb") for name in found)
  assert not (folder / "gs:").exists() and not store.refused


def test_a_run_that_is_stopped_and_damaged_goes_on_bitwise(store, folder, whole):
  pretrain(store, folder, "damaged", "stop_at_step=8")
  arrays = max(
    (name for name in store.objects if name.startswith("damaged/checkpoints/8/state/")),
    key=lambda name: len(store.objects[name]),
  )
  data = bytearray(store.objects[arrays])
  data[len(data) // 2] ^= 4  # one bit
  store.put(arrays, data)
  output = pretrain(store, folder, "damaged")
  assert "checkpoint 8 is damaged: " in output and "going on from step 4" in output
  assert store.names("damaged/checkpoints/set-aside/") == ["8-checksum"]
  assert store.objects[arrays] == data  # kept, as it was found
  assert "damaged/checkpoints/8.2/commit_success.txt" in store.objects  # step 8, saved again
  again = exported(store, "damaged")
  assert again.keys() == whole.keys() and all(np.array_equal(again[name], whole[name]) for name in whole)
  events = lines(store, "damaged/events/")
  assert [event["step"] for event in events if event["event"] == "restore"] == [4]
  assert store.names("damaged/events/") == ["attempt-0000.jsonl", "attempt-0001.jsonl"]
  assert not store.refused


def test_the_commands_around_a_run_take_it(store, folder, whole):
  run = f"gs://{BUCKET}/whole"
  told = bert_jax(store, folder, "report", f"--workdir={run}", "--samples=0")
  assert f"checkpoints         {run}/checkpoints  (steps 4, 8, 12)" in told
  assert b"<html" in store.objects["whole/report.html"]
  bert_jax(store, folder, "export", f"--workdir={run}", "--out=here", "--format=sentence-transformers")
  assert (folder / "here" / "modules.json").exists()
  bert_jax(store, folder, "export", f"--checkpoint={run}/checkpoints/8", f"--out=gs://{BUCKET}/there")
  assert store.objects["there/model.safetensors"] != store.objects["whole/export/model.safetensors"]
  for model in (run, f"{run}/export"):
    assert "mlm_loss" in bert_jax(
      store, folder, "evaluate", f"--model={model}", f"--corpus={folder / 'cache' / os.listdir(folder / 'cache')[0]}"
    )
  keys = (
    f"--config.{key}" for key in (f"data.corpus=gs://{BUCKET}/corpus", f"data.cache_dir={folder / 'cache'}", *STEPS)
  )
  told = bert_jax(store, folder, "doctor", f"--config={write_config(folder)}", f"--workdir={run}", *keys)
  assert f"{run} has trained its 12 steps" in " ".join(told.split()) and ".doctor" not in " ".join(store.objects)
  pretrain(store, folder, "follower", f"init_from={run}", "init_optimizer=True", "total_steps=16")
  events = lines(store, "follower/events/")
  assert [event["step"] for event in events if event["event"] in ("first_step", "finish")] == [13, 16]
  assert not store.refused and not (folder / "gs:").exists()


def test_two_processes_killed_in_the_middle_of_a_save_go_on_from_the_one_before(store, folder):
  keys = (
    f"data.corpus=gs://{BUCKET}/corpus",
    f"data.cache_dir={folder / 'cache'}",
    *STEPS,
    "export.format=transformers",
  )
  how = lambda name: {"workdir": f"gs://{BUCKET}/{name}", "environ": store.environment}
  run(folder, None, "two", keys, **how("two"))
  with Processes(folder, None, "killed", keys, **how("killed")) as processes:
    processes.wait_for(lambda: store.names("killed/checkpoints/8/"))
    processes.signal(1, signal.SIGSTOP)  # a save is committed by all: now it stays where it is
    time.sleep(1.0)
    assert "killed/checkpoints/8/commit_success.txt" not in store.objects
    for number in (0, 1):
      processes.signal(number, signal.SIGKILL)
    processes.ended(30)
  ended = run(folder, None, "killed", keys, **how("killed"))
  assert (
    "checkpoint 8: its saving was interrupted; removed" in ended[0].output and "checkpoint 8" not in ended[1].output
  )
  assert [event["step"] for event in lines(store, "killed/events/") if event["event"] == "restore"] == [4]
  assert exported(store, "killed").keys() == exported(store, "two").keys()
  assert store.objects["killed/export/model.safetensors"] == store.objects["two/export/model.safetensors"]
  assert not store.refused


def test_a_sigterm_saves_there_too_and_a_second_process_takes_the_run_over(store, folder):
  keys = (
    f"data.corpus=gs://{BUCKET}/corpus",
    f"data.cache_dir={folder / 'cache'}",
    "total_steps=4000",
    "checkpoint.every_steps=4000",
  )
  how = {"workdir": f"gs://{BUCKET}/taken", "environ": store.environment, "count": 1, "sabotage": SLOW_STEPS}
  with Processes(folder, None, "taken", keys, **how) as older:
    older.wait_for_step(3)
    with Processes(folder, None, "taken", keys, **how) as newer:
      newer.wait_for_step(3)
      (ended,) = older.ended(60)
      assert ended.code == 1 and "another process has begun to train in gs://bucket/taken" in ended.output, ended.output
      newer.signal(0, signal.SIGTERM)
      (ended,) = newer.ended(60)
      assert ended.code == EXIT_PREEMPTED, ended.output
  (preempt,) = (event for event in lines(store, "taken/events/") if event["event"] == "preempt")
  assert f"taken/checkpoints/{preempt['step']}/commit_success.txt" in store.objects
