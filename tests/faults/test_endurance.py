"""Everything in turn on one run, started again by a shell loop: the weights at its end are those of a run that nobody
disturbed.
"""

import os
import shlex
import signal
import subprocess
import sys
import time

from tests.faults.processes import QUICK, SLOW_STEPS, events, run, steps_saved, weights
from tests.faults.test_bad_numbers import bad_rows
from tests.faults.test_checkpoint_damage import flip_bit
from tests.helpers.tiny_runs import write_config

STEPS = (
  "total_steps=60",
  "eval_every_steps=20",
  "checkpoint.every_steps=10",
  "checkpoint.keep_last=3",
  "max_bad_steps=2",
)
BAD = bad_rows({25, 26, 47}, process=0)

# $RUN is the command; each line of codes.txt is how an attempt ended.
RESTART_LOOP = """
while true; do
  $RUN; code=$?; echo $code >> codes.txt
  case $code in 75|76|77|134|137) ;; *) exit $code;; esac
done
"""


def wait_for(condition, loop, seconds=120):
  deadline = time.monotonic() + seconds
  while not condition():
    assert loop.poll() is None and time.monotonic() < deadline
    time.sleep(0.01)


def trainer(place):
  """The process number that the sabotaged command wrote down."""
  return int((place / "pid.txt").read_text())


def test_preempted_killed_flipped_and_fed_with_nan_a_run_ends_with_the_weights_of_an_undisturbed_one(folder, corpus):
  run(folder, corpus, "calm", STEPS, count=1, sabotage=BAD)

  place, workdir = folder / "restarts", folder / "stormy"
  place.mkdir()
  code = (
    f"import os\nopen({str(place / 'pid.txt')!r}, 'w').write(str(os.getpid()))\n{BAD}\n{SLOW_STEPS}\nimport "
    "sys\nfrom bert_jax.__main__ import "
    "main\nsys.exit(main(sys.argv[1:]))"
  )
  command = [
    sys.executable,
    "-c",
    code,
    "pretrain",
    f"--config={write_config(folder)}",
    f"--workdir={workdir}",
    *(f"--config.{key}" for key in (f"data.corpus={corpus}", *QUICK, *STEPS)),
  ]
  environment = os.environ | {
    "JAX_COMPILATION_CACHE_DIR": str(folder / "compiled"),
    "JAX_NUM_CPU_DEVICES": "1",
    "XLA_FLAGS": "--xla_backend_optimization_level=0",
  }
  shell = RESTART_LOOP.replace("$RUN", shlex.join(command))
  with open(place / "log.txt", "w") as log:
    loop = subprocess.Popen(["bash", "-c", shell], cwd=place, env=environment, stdout=log, stderr=subprocess.STDOUT)
    try:
      shown = lambda step: f"{step}/60" in (place / "log.txt").read_text()
      attempts = lambda: len((place / "codes.txt").read_text().split()) if (place / "codes.txt").exists() else 0

      wait_for(lambda: shown(4), loop)  # preempted
      os.kill(trainer(place), signal.SIGTERM)
      wait_for(lambda: attempts() == 1, loop)

      wait_for(lambda: shown(13), loop)  # killed, and again in the middle of a save
      os.kill(trainer(place), signal.SIGKILL)
      wait_for(lambda: attempts() == 2, loop)
      wait_for(lambda: (workdir / "checkpoints" / "20").exists(), loop)
      os.kill(trainer(place), signal.SIGKILL)
      wait_for(lambda: attempts() == 3, loop)

      wait_for(lambda: 40 in steps_saved(workdir), loop)  # killed, and a bit flipped in the newest checkpoint
      os.kill(trainer(place), signal.SIGKILL)
      flip_bit(workdir / "checkpoints" / "40")

      assert loop.wait(180) == 0, (place / "log.txt").read_text()
    finally:
      if loop.poll() is None:
        loop.kill()
        os.kill(trainer(place), signal.SIGKILL)
  assert (place / "codes.txt").read_text().split() == ["75", "137", "137", "137", "0"]
  assert any(path.name == "40-checksum" for path in (workdir / "checkpoints" / "set-aside").iterdir())
  for place_of_run in (folder / "calm", workdir):
    assert {event["step"] for event in events(place_of_run, "rollback")} == {20}
    assert 47 - 6 in {event["step"] for event in events(place_of_run, "skip")}, "batch 47 is step 41 behind the jump"
  assert weights(workdir) == weights(folder / "calm")
