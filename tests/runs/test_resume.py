"""Law 6 with real processes: runs killed at any moment end with the very weights of an undisturbed one."""

import json
import os
import random
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from bert_jax.training import metrics
from tests.helpers.tiny_runs import write_config

STEPS = 400


def start(folder, corpus, name, *overrides, devices=1):
  """The command line in a process of its own; its programs are compiled once for all runs of a test."""
  environment = os.environ | {
    "JAX_COMPILATION_CACHE_DIR": str(folder / "compiled"),
    "JAX_NUM_CPU_DEVICES": str(devices),
    "XLA_FLAGS": "",
  }
  command = [
    sys.executable,
    "-m",
    "bert_jax",
    "pretrain",
    f"--config={write_config(folder)}",
    f"--workdir={folder / name}",
    f"--config.data.corpus={corpus}",
    *(f"--config.{override}" for override in overrides),
  ]
  return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def finish(process):
  output, _ = process.communicate(timeout=300)
  assert process.returncode == 0, output
  return output


def weights(folder, name):
  return (folder / name / "export" / "model.safetensors").read_bytes()


def committed(workdir):
  return {path.parent.name for path in workdir.glob("checkpoints/*/commit_success.txt")}


def steps_of(workdir):
  return {path.name for path in workdir.glob("checkpoints/*") if path.name.isdigit()}


def wait_for(condition, process):
  deadline = time.monotonic() + 120
  while not condition() and process.poll() is None and time.monotonic() < deadline:
    time.sleep(0.0005)


@pytest.mark.slow
def test_five_kills_at_random_moments_one_of_them_in_a_save_change_no_bit_of_the_weights(tmp_path, corpus):
  long = (f"total_steps={STEPS}", "checkpoint.every_steps=20", "eval_every_steps=100", "log_every_steps=20")
  finish(start(tmp_path, corpus, "straight", *long))
  rng = random.Random(0)
  workdir, killed_in_a_save, kills_after_a_save = tmp_path / "killed", 0, 0
  for kill in range(5):
    process = start(tmp_path, corpus, "killed", *long)
    old = steps_of(workdir)
    if kill == 0:  # while starting
      time.sleep(rng.uniform(1, 4))
    elif kill in (2, 3):  # while a further checkpoint is being written
      wait_for(lambda: steps_of(workdir) - committed(workdir) - old, process)
      killed_in_a_save += bool(steps_of(workdir) - committed(workdir) - old)
    else:  # some time after a further checkpoint
      wait_for(lambda: committed(workdir) - old, process)
      time.sleep(rng.uniform(0, 0.2))
    kills_after_a_save += bool(committed(workdir))
    process.send_signal(signal.SIGKILL)
    process.communicate()
  finish(start(tmp_path, corpus, "killed", *long))
  assert kills_after_a_save >= 2 and killed_in_a_save >= 1
  assert sum(event["event"] == "restore" for event in metrics.read_events(workdir)) >= 3
  assert weights(tmp_path, "killed") == weights(tmp_path, "straight")


BATCHES = """
import hashlib, json, sys
import jax, numpy as np
from bert_jax.training import sharding
plain, seen = sharding.put_batch, []

def put_batch(batch, mesh):
  placed = plain(batch, mesh)
  with jax.transfer_guard("allow"):
    seen.append(hashlib.sha256(b"".join(np.asarray(placed[name]).tobytes() for name in sorted(placed))).hexdigest())
  return placed

sharding.put_batch = put_batch
from bert_jax.__main__ import main
code = main(sys.argv[2:])
json.dump(seen, open(sys.argv[1], "w"))
sys.exit(code)
"""


def test_one_and_eight_devices_see_the_same_batches_and_losses(tmp_path, corpus):
  """Law 1 on the devices themselves: hashes of what the train step was given, and the losses it made of it."""
  seen, losses = [], []
  for devices, mesh in ((1, ()), (8, ("mesh.data=4", "mesh.fsdp=2"))):
    out = tmp_path / f"batches-{devices}.json"
    environment = os.environ | {"JAX_NUM_CPU_DEVICES": str(devices)}
    overrides = (
      "total_steps=12",
      "log_every_steps=1",
      "model.hidden_dropout_prob=0.0",
      "model.attention_probs_dropout_prob=0.0",
      *mesh,
    )
    command = [
      sys.executable,
      "-c",
      BATCHES,
      str(out),
      "pretrain",
      f"--config={write_config(tmp_path)}",
      f"--workdir={tmp_path / str(devices)}",
      f"--config.data.corpus={corpus}",
      *(f"--config.{o}" for o in overrides),
    ]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    seen.append(json.loads(out.read_text()))
    steps = metrics.read_metrics(tmp_path / str(devices))
    losses.append([[steps[step]["train/mlm_loss"], steps[step]["train/nsp_loss"]] for step in range(1, 13)])
  assert len(seen[0]) >= 12 and seen[0] == seen[1]
  np.testing.assert_allclose(losses[0], losses[1], atol=1e-5, rtol=0)
