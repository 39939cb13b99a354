"""Stands in for a Python that has bert_jax: writes down how it was called, then does what it is told.

    STAND_IN_LOG    a line of JSON is added here for every call: argv, and the variables that matter
    STAND_IN_PLAN   a JSON list, an entry per attempt: an action for all processes, or a list with one for each

An action is an exit code, or "train": run until SIGTERM, save for a moment, end with 75. Attempts are counted by
SLURM_RESTART_COUNT under the fake Slurm, by the calls so far (of the same HOME: a host) elsewhere. `--version` and
`export` are no attempts.
"""

import json
import os
import pathlib
import signal
import sys
import time

WATCHED = ("BERT_JAX_", "JAX_", "SLURM_", "SKYPILOT_", "PYTHONUNBUFFERED", "XLA_FLAGS")


def note(**what) -> None:
  line = json.dumps(what | {"pid": os.getpid(), "process": process()}) + "\n"
  with open(os.environ["STAND_IN_LOG"], "ab", buffering=0) as log:
    log.write(line.encode())


def notes(path: pathlib.Path) -> list[dict]:
  """What was written down so far. Another process may be writing: a line without its end is not there yet."""
  text = path.read_text(encoding="utf-8") if path.exists() else ""
  return [json.loads(line) for line in text.splitlines(keepends=True) if line.endswith("\n")]


def process() -> int:
  return int(os.environ.get("SLURM_PROCID", "0"))


def main() -> int:
  if {"--version", "export"} & set(sys.argv):
    note(argv=sys.argv[1:], environ={name: value for name, value in os.environ.items() if name.startswith(WATCHED)})
    return 0
  calls = sum(record.get("attempt") == os.environ["HOME"] for record in notes(pathlib.Path(os.environ["STAND_IN_LOG"])))
  note(
    attempt=os.environ["HOME"],
    argv=sys.argv[1:],
    environ={name: value for name, value in os.environ.items() if name.startswith(WATCHED)},
  )
  attempt = int(os.environ.get("SLURM_RESTART_COUNT", "0")) if "SLURM_PROCID" in os.environ else calls
  actions = json.loads(os.environ.get("STAND_IN_PLAN", "[0]"))
  action = actions[min(attempt, len(actions) - 1)]
  action = action[process()] if isinstance(action, list) else action
  return train() if action == "train" else action


def train() -> int:
  terms = []
  signal.signal(signal.SIGTERM, lambda *_: terms.append(time.time()))
  note(event="training")
  end = time.time() + 30
  while not terms and time.time() < end:
    time.sleep(0.01)
  time.sleep(0.05 + 0.2 * process())  # processes do not end at the same moment
  note(event="saved", terms=len(terms))
  return 75 if terms else 99


if __name__ == "__main__":
  sys.exit(main())
