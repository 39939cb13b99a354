"""launch/entrypoint.sh: variables in, flags out, and Python in its place."""

import os
import re
import signal

import pytest

from bert_jax import __main__ as command_line
from tests.launch.programs import LAUNCH

ENTRYPOINT = LAUNCH / "entrypoint.sh"
RUN = {"BERT_JAX_CONFIG": "configs/quickstart.py", "BERT_JAX_WORKDIR": "runs/a b"}


def test_config_workdir_and_flags_arrive_each_as_one_word(programs):
  flags = "--config.data.corpus=/data/wiki\n  --config.data.batch_size=512\t--config.seed=1"
  result = programs.run(ENTRYPOINT, "--config.data.source=text:my books/*.txt", BERT_JAX_FLAGS=flags, **RUN)
  assert result.returncode == 0, result.stderr
  (call,) = programs.calls()
  assert call["argv"] == [
    "-m",
    "bert_jax",
    "pretrain",
    "--config=configs/quickstart.py",
    "--workdir=runs/a b",
    "--config.data.corpus=/data/wiki",
    "--config.data.batch_size=512",
    "--config.seed=1",
    "--config.data.source=text:my books/*.txt",
  ]
  assert call["environ"]["PYTHONUNBUFFERED"] == "1"


def test_what_it_calls_is_what_the_command_line_takes(programs):
  programs.run(
    ENTRYPOINT,
    BERT_JAX_DOCTOR="1",
    BERT_JAX_FLAGS="--coordinator=a:1 --num_processes=2 --process_id=0 --config.seed=1",
    **RUN,
  )
  commands = [call["argv"][2:] for call in programs.calls()]
  assert [command[0] for command in commands] == ["doctor", "pretrain"]
  for command in commands:
    _, rest = command_line.make_parser(only=command[0]).parse_known_args(command)
    assert rest == ["--config.seed=1"], command


def test_pattern_characters_in_flags_are_not_expanded(programs):
  (programs.folder / "x.txt").touch()
  programs.run(ENTRYPOINT, BERT_JAX_FLAGS="--config.data.source=text:*.txt *", **RUN)
  assert programs.calls()[0]["argv"][-2:] == ["--config.data.source=text:*.txt", "*"]


@pytest.mark.parametrize("code", [0, 1, 2, 70, 74, 75, 76, 77, 79, 130, 134])
def test_exit_codes_pass_through(programs, code):
  assert programs.run(ENTRYPOINT, STAND_IN_PLAN=f"[{code}]", **RUN).returncode == code


def test_sigterm_reaches_python_for_it_is_the_same_process(programs):
  process = programs.start(ENTRYPOINT, STAND_IN_PLAN='["train"]', **RUN)
  (training,) = programs.wait_for("training")
  assert training["pid"] == process.pid
  process.send_signal(signal.SIGTERM)
  assert process.wait(10) == 75


def test_doctor_comes_first_with_the_run_s_flags_and_its_failure_is_final(programs):
  flags = "--config.seed=1 --profile=3:5"
  assert (
    programs.run(ENTRYPOINT, BERT_JAX_DOCTOR="1", BERT_JAX_FLAGS=flags, STAND_IN_PLAN="[1, 0]", **RUN).returncode == 1
  )
  (call,) = programs.calls()
  assert call["argv"][2:] == [
    "doctor",
    "--quick",
    "--config=configs/quickstart.py",
    "--workdir=runs/a b",
    "--config.seed=1",
  ]


def test_a_healthy_doctor_lets_the_run_start(programs):
  assert programs.run(ENTRYPOINT, BERT_JAX_DOCTOR="1", STAND_IN_PLAN="[0, 75]", **RUN).returncode == 75
  assert [call["argv"][2] for call in programs.calls()] == ["doctor", "pretrain"]


def test_sigterm_while_doctor_looks_counts_as_preempted_and_nothing_starts(programs):
  process = programs.start(ENTRYPOINT, BERT_JAX_DOCTOR="1", STAND_IN_PLAN='["train", 0]', **RUN)
  (doctor,) = programs.wait_for("training")
  process.send_signal(signal.SIGTERM)
  assert process.wait(10) == 75
  assert len(programs.calls()) == 1
  with pytest.raises(ProcessLookupError):
    os.kill(doctor["pid"], 0)


@pytest.mark.parametrize("missing", sorted(RUN))
def test_a_missing_variable_is_named_with_an_example(programs, missing):
  result = programs.run(ENTRYPOINT, **{name: value for name, value in RUN.items() if name != missing})
  assert result.returncode == 2 and not programs.calls()
  assert re.fullmatch(rf"error: {missing} is not set: give .*, e\.g\. {missing}=\S+ \(--help .*\)\n", result.stderr)


def test_a_python_that_is_not_there_and_a_wrong_switch_are_said_in_one_line(programs):
  result = programs.run(ENTRYPOINT, **RUN | {"BERT_JAX_PYTHON": "/no/python"})
  assert result.returncode == 2 and "BERT_JAX_PYTHON=/no/python is not there" in result.stderr
  result = programs.run(ENTRYPOINT, BERT_JAX_DOCTOR="yes", **RUN)
  assert result.returncode == 2 and result.stderr == "error: BERT_JAX_DOCTOR=yes must be 0 or 1\n"
  for name in ("BERT_JAX_NUM_PROCESSES", "BERT_JAX_PROCESS_ID"):
    result = programs.run(ENTRYPOINT, **RUN | {name: "two"})
    assert result.returncode == 2 and result.stderr == f"error: {name}=two must be a whole number\n"
