"""The command line itself: words it does not know, what the disk refuses, Ctrl-C."""

import errno
import os
import signal
import subprocess
import sys
import textwrap
import time

import pytest

from bert_jax import __main__ as command_line
from bert_jax.commands import prepare, report
from bert_jax.errors import EXIT_NOT_FINITE, EXIT_STORAGE, EXIT_UNKNOWN, NotFiniteError, StorageError, UserError


@pytest.mark.parametrize(
  "arguments, said",
  [
    ("fill-mask --model=x --topk=3 text", "unexpected --topk=3; did you mean --top_k?"),
    ("next-sentence --model=x A B C", "unexpected C"),
    ("report --workdir=x --config.seed=1", "unexpected --config.seed=1"),
    ("inspect --corpus=x --config.seed=1", "--config.seed=1 changes a key of a config: give the config too"),
    ("nonsense", "invalid choice: 'nonsense'"),
    ("", "required: COMMAND"),
  ],
)
def test_wrong_usage_is_exit_code_2_with_the_usage_of_that_command(arguments, said, capsys):
  with pytest.raises(SystemExit) as stopped:
    command_line.main(arguments.split())
  shown = capsys.readouterr().err
  assert stopped.value.code == 2 and said in shown
  assert f"usage: bert_jax {arguments.split()[0] if len(arguments.split()) > 1 else ''}" in shown


def test_hyphens_in_flags_are_accepted_and_nothing_behind_two_dashes_is_touched(monkeypatch):
  seen = []
  parser = command_line.make_parser("fill-mask")
  monkeypatch.setattr(command_line, "make_parser", lambda only: parser)
  monkeypatch.setattr(parser, "parse_known_args", lambda words: seen.extend(words) or parser.error("enough"))
  with pytest.raises(SystemExit):
    command_line.main(["fill-mask", "--top-k=3", "--", "--a-[MASK]"])
  assert seen == ["fill-mask", "--top_k=3", "--", "--a-[MASK]"]


@pytest.mark.parametrize(
  "error, said",
  [
    (UserError("this and that"), "error: this and that"),
    (
      OSError(errno.ENOSPC, "No space left on device", "runs/x"),
      "error: runs/x: No space left on device; free some space",
    ),
    (OSError(errno.EACCES, "Permission denied", "runs/x"), "error: runs/x: Permission denied; choose a path"),
    (OSError(errno.ENOTDIR, "Not a directory", "a/b"), "error: a/b: Not a directory; a file stands where a folder"),
    (OSError(errno.ENOSPC, "No space left on device"), "error: No space left on device; free some space"),
  ],
)
def test_a_mistake_or_what_the_disk_refuses_is_one_line_and_exit_code_1(error, said, monkeypatch, capsys):
  def fail(options):
    raise error

  monkeypatch.setattr(report, "run", fail)
  assert command_line.main(["report", "--workdir=x"]) == 1
  shown = capsys.readouterr()
  assert shown.err.startswith(said) and shown.err.count("\n") == 1 and not shown.out


@pytest.mark.parametrize(
  "error, said",
  [
    (StorageError("runs/x: the server is gone"), "error: runs/x: the server is gone; storage failed"),
    (OSError(errno.EIO, "Input/output error", "runs/x"), "error: runs/x: Input/output error; storage failed"),
    (OSError(errno.ESTALE, "Stale file handle", "runs/x"), "error: runs/x: Stale file handle; storage failed"),
    (TimeoutError("no answer"), "error: no answer; storage failed"),
  ],
)
def test_storage_that_fails_is_one_line_and_an_exit_code_that_is_started_again(error, said, monkeypatch, capsys):
  def fail(options):
    raise error

  def fail_plainly(options):
    raise UserError("cannot write runs/x") from error

  monkeypatch.setattr(report, "run", fail)
  assert command_line.main(["report", "--workdir=x"]) == EXIT_STORAGE
  shown = capsys.readouterr()
  assert shown.err.startswith(said) and shown.err.count("\n") == 1 and not shown.out
  monkeypatch.setattr(report, "run", fail_plainly)
  assert command_line.main(["report", "--workdir=x"]) == EXIT_STORAGE
  assert capsys.readouterr().err == "error: cannot write runs/x\n"


@pytest.mark.parametrize(
  "error", [FileNotFoundError(errno.ENOENT, "No such file", "a bug"), KeyError("a bug"), MemoryError("a bug")]
)
def test_what_the_program_does_not_know_is_a_traceback_and_an_exit_code_that_is_started_again(
  error, monkeypatch, capsys
):
  def fail(options):
    raise error

  monkeypatch.setattr(report, "run", fail)
  assert command_line.main(["report", "--workdir=x"]) == EXIT_UNKNOWN
  shown = capsys.readouterr().err
  assert shown.startswith("Traceback") and "a bug" in shown


def test_a_run_without_a_result_is_one_line_and_a_code_that_is_final(monkeypatch, capsys):
  def fail(options):
    raise NotFiniteError("the run has ended at step 8, and eval/loss of its last evaluation is nan")

  monkeypatch.setattr(report, "run", fail)
  assert command_line.main(["report", "--workdir=x"]) == EXIT_NOT_FINITE
  assert capsys.readouterr().err.startswith("error: the run has ended at step 8, and eval/loss")


def test_a_pipe_that_breaks_within_a_command_that_trains_is_not_taken_for_its_reader(monkeypatch, capsys):
  def fail(options):
    raise BrokenPipeError(errno.EPIPE, "Broken pipe")

  monkeypatch.setattr(report, "run", fail)
  monkeypatch.setattr(prepare, "run", fail)
  assert command_line.main(["report", "--workdir=x"]) == 0
  assert command_line.main(["prepare", "--source=text:x", "--out=x"]) == EXIT_UNKNOWN
  assert "Broken pipe" in capsys.readouterr().err


def test_a_reader_that_has_gone_and_a_full_disk_behind_the_output_leave_no_traceback():
  program = textwrap.dedent("""
    import sys
    from bert_jax import __main__ as command_line
    from bert_jax.commands import report
    report.run = lambda options: print("x" * 100)
    sys.exit(command_line.main(["report", "--workdir=x"]))
  """)
  into = lambda stdout: subprocess.run(
    [sys.executable, "-c", program], stdout=stdout, stderr=subprocess.PIPE, text=True
  )
  reader, writer = os.pipe()
  os.close(reader)
  gone = into(writer)
  os.close(writer)
  assert (gone.returncode, gone.stderr) == (0, "")
  with open("/dev/full", "w") as device:
    full = into(device)
  assert (full.returncode, full.stderr) == (
    1,
    "error: No space left on device; free some space, then run the same command again\n",
  )


def test_ctrl_c_is_one_line_and_exit_code_130(monkeypatch, capsys):
  def interrupted(options):
    raise KeyboardInterrupt

  monkeypatch.setattr(report, "run", interrupted)
  assert command_line.main(["report", "--workdir=x"]) == 130
  assert capsys.readouterr().err == "interrupted\n"


# The signal falls into a callback of the garbage collector, as JAX has one.
LOST = """
import gc, os, signal, sys, time
from bert_jax import __main__ as command_line
from bert_jax.commands import report

def run(options):
  def callback(phase, info):
    gc.callbacks.remove(callback)
    os.kill(os.getpid(), signal.SIGINT)
    sum(range(1000))
  gc.callbacks.append(callback)
  gc.collect()
  time.sleep(60)

report.run = run
sys.argv = ["bert_jax", "report", "--workdir=x"]
sys.exit(command_line.main())
"""


@pytest.mark.alone
def test_no_ctrl_c_is_lost_in_the_garbage_collector():
  began = time.monotonic()
  done = subprocess.run([sys.executable, "-c", LOST], capture_output=True, text=True, timeout=50)
  assert (done.returncode, done.stderr) == (130, "interrupted\n"), done.stderr
  assert time.monotonic() - began < 30


COMPILING = """
import sys, threading, time
import os, signal
import jax, jax.numpy as jnp
from bert_jax import __main__ as command_line
from bert_jax.commands import report

@jax.jit
def slow(x):
  for i in range(400):
    x = jnp.sin(x @ x) + jnp.cos(x * i)
  return x

def run(options):
  lowered = slow.lower(jnp.ones((50, 50)))
  threading.Timer(0.1, os.kill, (os.getpid(), signal.SIGINT)).start()
  lowered.compile()
  time.sleep(60)

report.run = run
sys.argv = ["bert_jax", "report", "--workdir=x"]
sys.exit(command_line.main())
"""


@pytest.mark.alone
def test_ctrl_c_while_jax_compiles_ends_with_130_and_not_with_a_crash():
  done = subprocess.run([sys.executable, "-c", COMPILING], capture_output=True, text=True, timeout=120)
  assert done.returncode != -signal.SIGSEGV
  assert (done.returncode, done.stderr) == (130, "interrupted\n"), done.stderr
