"""The Slurm script with the real `pretrain`: two processes, warned, put back into the queue, and done."""

import sys
import time

import pytest

from bert_jax.training import metrics
from tests.helpers.tiny_runs import write_config
from tests.launch.fake_slurm import FakeSlurm
from tests.launch.programs import LAUNCH, ROOT


@pytest.mark.slow
def test_a_run_that_is_warned_saves_comes_back_and_finishes(programs, corpus, tmp_path):
  slurm, workdir = FakeSlurm(programs), tmp_path / "run"
  job = slurm.submit(
    LAUNCH / "slurm.sbatch",
    BERT_JAX_CONFIG=write_config(tmp_path),
    BERT_JAX_WORKDIR=str(workdir),
    BERT_JAX_HOME=str(ROOT),
    BERT_JAX_LOG_DIR="logs",
    BERT_JAX_PYTHON=sys.executable,
    PYTHONPATH=str(ROOT),
    JAX_PLATFORMS="cpu",
    BERT_JAX_FLAGS=f"--config.data.corpus={corpus} --config.total_steps=400 --config.eval_every_steps=400 "
    "--config.checkpoint.every_steps=400",
  )
  end = time.time() + 90
  while not any(event["event"] == "first_step" for event in metrics.read_events(workdir)):
    assert job.is_alive() and time.time() < end, slurm.log()
    time.sleep(0.05)
  slurm.warn()
  job.join(90)
  assert slurm.attempts == [75, 0], slurm.log()
  events = metrics.read_events(workdir)
  saved = next(event["step"] for event in events if event["event"] == "preempt")
  assert 0 < saved < 400
  assert [event["step"] for event in events if event["event"] == "restore"] == [saved]
  assert [event["step"] for event in events if event["event"] == "finish"] == [400]
  assert {event["processes"] for event in events if event["event"] == "start"} == {2}
