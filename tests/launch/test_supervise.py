"""launch/supervise.sh: which exit codes are started again, how often, and what signals do."""

import pathlib
import signal

import pytest

from bert_jax import errors
from tests.launch.programs import LAUNCH, wait_until

pytestmark = pytest.mark.alone

SUPERVISE = LAUNCH / "supervise.sh"
FINAL = (0, 1, 2, errors.EXIT_NOT_FINITE, 126, 127, 130)
AGAIN = (
  *(errors.EXIT_UNKNOWN, errors.EXIT_STORAGE, errors.EXIT_PREEMPTED, errors.EXIT_PEER_LOST, errors.EXIT_STALLED),
  *(129, 134, 135, 136, 137, 139, 143),
)


def supervise(programs, plan, **environ):
  return programs.run(
    SUPERVISE, programs.python, "train", STAND_IN_PLAN=str(plan), **{"BERT_JAX_RESTART_SECONDS": "0"} | environ
  )


@pytest.mark.parametrize("code", AGAIN)
def test_a_machine_that_failed_is_tried_again(programs, code):
  result = supervise(programs, [code, code, 0])
  assert result.returncode == 0 and len(programs.calls()) == 3
  assert f"exit code {code}, restart 2 of at most 50" in result.stderr


@pytest.mark.parametrize("code", FINAL)
def test_what_a_restart_does_not_mend_is_final(programs, code):
  assert supervise(programs, [code, 0]).returncode == code
  assert len(programs.calls()) == 1


def test_restarts_are_bounded_and_the_last_exit_code_is_kept(programs):
  result = supervise(programs, [76], BERT_JAX_MAX_RESTARTS="3", BERT_JAX_EXIT_FILE="code")
  assert result.returncode == 76 and len(programs.calls()) == 4
  assert "BERT_JAX_MAX_RESTARTS=3 restarts are used up" in result.stderr
  assert (programs.folder / "code").read_text() == "76\n"


def test_arguments_arrive_as_they_are(programs):
  programs.run(SUPERVISE, programs.python, "a b", "", "*")
  assert programs.calls()[0]["argv"] == ["a b", "", "*"]


@pytest.mark.parametrize("sent", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_lets_the_command_save_and_ends_both(programs, sent):
  process = programs.start(SUPERVISE, programs.python, STAND_IN_PLAN='["train"]', BERT_JAX_EXIT_FILE="code")
  programs.wait_for("training")
  process.send_signal(sent)
  assert process.wait(10) == 75
  assert programs.wait_for("saved") and len(programs.calls()) == 1
  assert (programs.folder / "code").read_text() == "75\n"
  assert f"ended by {sent.name}, the command left with exit code 75" in process.stderr.read()


def test_more_signals_do_not_cut_the_save_short(programs):
  process = programs.start(SUPERVISE, programs.python, STAND_IN_PLAN='["train"]')
  programs.wait_for("training")
  for _ in range(4):
    process.send_signal(signal.SIGTERM)
  assert process.wait(10) == 75 and programs.wait_for("saved")


def test_a_command_that_dies_by_itself_of_sigterm_is_started_again(programs):
  """SIGTERM to Python alone, before it listens to it: nobody asked for the end of the run."""
  program = programs.add("dies-once", "[[ -e died ]] && exit 0; touch died; kill -TERM $$; sleep 5")
  result = programs.run(SUPERVISE, program, BERT_JAX_RESTART_SECONDS="0")
  assert result.returncode == 0 and "exit code 143, restart 1" in result.stderr


def test_a_signal_during_the_pause_ends_it(programs):
  process = programs.start(SUPERVISE, programs.python, STAND_IN_PLAN="[77]", BERT_JAX_RESTART_SECONDS="60")
  sleeping = wait_until(lambda: [child for child, name in children(process.pid) if name == "sleep"])
  process.send_signal(signal.SIGTERM)
  assert process.wait(10) == 77 and len(programs.calls()) == 1
  wait_until(lambda: [] if pathlib.Path(f"/proc/{sleeping[0]}").exists() else ["gone"])


def children(pid: int) -> list[tuple[str, str]]:
  """(process id, name) of a process's children."""
  ids = pathlib.Path(f"/proc/{pid}/task/{pid}/children").read_text(encoding="ascii").split()
  return [(child, pathlib.Path(f"/proc/{child}/comm").read_text(encoding="ascii").strip()) for child in ids]


def test_no_command_and_no_number_are_usage(programs):
  result = programs.run(SUPERVISE)
  assert result.returncode == 2 and result.stderr.startswith("usage: launch/supervise.sh COMMAND")
  for name in ("BERT_JAX_MAX_RESTARTS", "BERT_JAX_RESTART_SECONDS"):
    for value in ("many", "-1", "1.5", "08", "9" * 20):
      result = supervise(programs, [0], **{name: value})
      assert result.returncode == 2 and result.stderr == f"error: {name}={value} must be a whole number\n"
  assert not programs.calls()
