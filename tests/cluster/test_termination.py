"""termination.py: from the first line of a command on, SIGTERM, SIGHUP and Ctrl-C end it with the code that they
should.
"""

import signal
import subprocess
import sys
import textwrap

import pytest

from bert_jax.errors import EXIT_PREEMPTED

# The signal comes in the middle of an import, and what is imported swallows whatever is raised.
IMPORTING = """
import os, sys
from bert_jax import __main__ as command_line
from bert_jax.commands import report

def run(options):
  sys.path.insert(0, {folder!r})
  import swallows

report.run = run
sys.exit(command_line.main(["report", "--workdir=x"]))
"""
WORKING = """
import os, sys, time
from bert_jax import __main__ as command_line
from bert_jax.commands import report

def run(options):
  try:
    os.kill(os.getpid(), {number})
    time.sleep(60)
  finally:
    print("cleaned up")

report.run = run
sys.exit(command_line.main(["report", "--workdir=x"]))
"""


def ended(program, *prefix):
  command = [*prefix, sys.executable, "-c", textwrap.dedent(program)]
  done = subprocess.run(command, capture_output=True, text=True, timeout=60)
  return done.returncode, done.stdout, done.stderr


@pytest.mark.parametrize(
  "number, code, told",
  [
    (signal.SIGTERM, EXIT_PREEMPTED, "stopped by a SIGTERM"),
    (signal.SIGHUP, EXIT_PREEMPTED, "stopped by a SIGTERM"),
    (signal.SIGINT, 130, "interrupted"),
  ],
)
def test_in_an_import_the_process_ends_at_once_and_elsewhere_it_cleans_up(number, code, told, tmp_path):
  (tmp_path / "swallows.py").write_text(
    textwrap.dedent(f"""
      import os, time
      try:
        os.kill(os.getpid(), {int(number)})
        time.sleep(60)
      except BaseException:
        pass
    """)
  )
  assert ended(IMPORTING.format(folder=str(tmp_path))) == (
    code,
    "",
    f"{told} while the program was loading; run the same command again\n",
  )
  assert ended(WORKING.format(number=int(number))) == (code, "cleaned up\n", f"{told}\n")


def test_a_hang_up_that_is_ignored_stays_ignored():
  program = WORKING.replace("time.sleep(60)", 'print("goes on")').format(number=int(signal.SIGHUP))
  assert ended(program, "nohup")[:2] == (0, "goes on\ncleaned up\n")


def test_process_1_of_a_container_hears_a_sigterm():
  """The system gives it no default action."""
  container = ("unshare", "--user", "--map-root-user", "--pid", "--fork", "--kill-child")
  if subprocess.run([*container, "true"], capture_output=True).returncode:
    pytest.skip("this system lets nobody make a namespace of processes")
  program = WORKING.format(number=int(signal.SIGTERM))
  assert ended(program, *container) == (EXIT_PREEMPTED, "cleaned up\n", "stopped by a SIGTERM\n")
