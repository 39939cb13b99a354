"""launch/slurm.sbatch, run by a Slurm of one machine that starts real processes and passes real signals."""

import json

import pytest

from bert_jax import errors
from tests.launch.fake_slurm import FakeSlurm, directives
from tests.launch.programs import LAUNCH, ROOT
from tests.launch.test_supervise import AGAIN, FINAL

SCRIPT = LAUNCH / "slurm.sbatch"
RUN = {
  "BERT_JAX_CONFIG": "configs/quickstart.py",
  "BERT_JAX_WORKDIR": "runs/x",
  "BERT_JAX_HOME": str(ROOT),
  "BERT_JAX_LOG_DIR": "logs",
}


@pytest.fixture
def slurm(programs):
  slurm = FakeSlurm(programs)
  yield slurm
  print(
    slurm.log(), *(log.read_text(encoding="utf-8") for log in programs.folder.glob("logs/*-attempt-*"))
  )  # shown if it failed


def sbatch(slurm, plan, **environ) -> int:
  return slurm.sbatch(SCRIPT, **RUN, STAND_IN_PLAN=json.dumps(plan), **environ)


def test_every_task_runs_pretrain_and_is_told_who_it_is(slurm, programs):
  assert sbatch(slurm, [0]) == 0
  calls = programs.calls()
  assert sorted(call["environ"]["SLURM_PROCID"] for call in calls) == ["0", "1"]
  assert all(
    call["argv"] == ["-m", "bert_jax", "pretrain", "--config=configs/quickstart.py", "--workdir=runs/x"]
    for call in calls
  )


@pytest.mark.parametrize("code", AGAIN)
def test_a_run_that_was_interrupted_goes_back_into_the_queue_until_it_is_done(slurm, programs, code):
  assert sbatch(slurm, [code, code, 0]) == 0
  assert slurm.attempts == [code, code, 0] and len(programs.calls()) == 6
  assert f"exit code {code}: put back into the queue, restart 1 of at most 50" in slurm.log()


@pytest.mark.parametrize("code", [code for code in FINAL if code])
def test_what_a_restart_does_not_mend_stays_out_of_the_queue(slurm, code):
  assert sbatch(slurm, [code, 0]) == code
  assert slurm.attempts == [code] and f"exit code {code} is final" in slurm.log()


def test_one_task_that_fails_is_enough(slurm):
  assert sbatch(slurm, [[0, 76], [134, 75], 0]) == 0
  assert slurm.attempts == [76, 134, 0]


def test_restarts_are_bounded(slurm):
  assert sbatch(slurm, [76], BERT_JAX_MAX_RESTARTS="2") == 76
  assert slurm.attempts == [76, 76, 76] and "BERT_JAX_MAX_RESTARTS=2 restarts are used up" in slurm.log()


def test_the_warning_before_the_time_limit_reaches_every_task_and_all_of_them_save(slurm, programs):
  job = slurm.submit(SCRIPT, **RUN, STAND_IN_PLAN='["train", 0]')
  programs.wait_for("training", times=2)
  slurm.warn()
  job.join(20)
  assert len(programs.wait_for("saved", times=2)) == 2, "the first task to end cut the save of the other short"
  assert slurm.attempts == [errors.EXIT_PREEMPTED, 0]


def test_a_cancelled_job_saves_and_does_not_come_back(slurm, programs):
  job = slurm.submit(SCRIPT, **RUN, STAND_IN_PLAN='["train", 0]')
  programs.wait_for("training", times=2)
  slurm.scancel()
  job.join(20)
  assert programs.wait_for("saved", times=2)
  assert slurm.attempts == [errors.EXIT_PREEMPTED] and "not put back into the queue" in slurm.log()


def test_sigterm_to_the_script_alone_reaches_the_tasks(slurm, programs):
  job = slurm.submit(SCRIPT, **RUN, STAND_IN_PLAN='["train", 0]')
  programs.wait_for("training", times=2)
  slurm.batch.terminate()
  job.join(20)
  assert programs.wait_for("saved", times=2) and slurm.attempts == [errors.EXIT_PREEMPTED]


def test_a_cluster_without_requeue_says_what_to_do_and_the_exit_code_stays(slurm):
  (slurm.folder / "requeue_disabled").touch()
  assert sbatch(slurm, [75, 0]) == 75
  assert "call sbatch again, the run resumes from its newest checkpoint" in slurm.log()


def test_every_attempt_has_a_log_with_the_task_before_each_line(slurm, programs):
  programs.add("stand-in-python", 'echo "step $SLURM_PROCID"; exit $((SLURM_RESTART_COUNT ? 0 : 75))')
  assert sbatch(slurm, [0]) == 0
  for attempt in (0, 1):
    text = (programs.folder / "logs" / f"{slurm.job}-attempt-{attempt:04d}.log").read_text(encoding="utf-8")
    assert sorted(text.splitlines()) == ["0: step 0", "1: step 1"]


def test_coordinates_from_elsewhere_do_not_win_over_slurm_s(slurm, programs):
  sbatch(slurm, [0], BERT_JAX_COORDINATOR="old:1", BERT_JAX_NUM_PROCESSES="9", BERT_JAX_PROCESS_ID="0")
  names = {name for call in programs.calls() for name in call["environ"]}
  assert not names & {"BERT_JAX_COORDINATOR", "BERT_JAX_NUM_PROCESSES", "BERT_JAX_PROCESS_ID"}


def test_with_an_image_srun_starts_the_entrypoint_inside_it(slurm):
  sbatch(slurm, [0], BERT_JAX_IMAGE="registry#bert-jax:gpu", BERT_JAX_MOUNTS="/shared:/shared")
  options = (slurm.folder / "srun.options").read_text(encoding="utf-8").splitlines()
  assert {
    "container-image=registry#bert-jax:gpu",
    "container-mounts=/shared:/shared",
    "container-workdir=/opt/bert_jax",
  } <= set(options)
  assert (slurm.folder / "srun.command").read_text(encoding="utf-8") == "/opt/bert_jax/launch/entrypoint.sh"


def test_the_directives_give_a_task_per_gpu_a_warning_and_a_log_that_grows():
  options = directives(SCRIPT)
  assert options["ntasks-per-node"] == options["gpus-per-node"]
  assert options["signal"] == "TERM@300" and "requeue" in options and options["open-mode"] == "append"


def test_outside_of_a_job_it_prints_usage(programs):
  result = programs.run(SCRIPT)
  assert result.returncode == 2 and result.stderr.startswith("usage: BERT_JAX_CONFIG=")


@pytest.mark.parametrize("missing", ["BERT_JAX_CONFIG", "BERT_JAX_WORKDIR"])
def test_a_missing_variable_ends_the_job_with_its_name(slurm, missing):
  assert slurm.sbatch(SCRIPT, **{name: value for name, value in RUN.items() if name != missing}) == 2
  assert f"{missing} is not set" in slurm.log()


@pytest.mark.parametrize("value", ["fifty", "-1", "1.5", "08", "9" * 20])
def test_a_number_of_restarts_that_is_none_ends_the_job_before_it_trains(slurm, value):
  assert slurm.sbatch(SCRIPT, **RUN, BERT_JAX_MAX_RESTARTS=value) == 2
  assert f"BERT_JAX_MAX_RESTARTS={value} must be a whole number" in slurm.log()
