"""Histories of runs, written down event by event, for tests of what reads them."""

import json

from bert_jax.tools.report import goodput

CONFIG = {
  "data.corpus": "",
  "data.batch_size": 8,
  "total_steps": 400,
  "stop_at_step": 0,
  "log_every_steps": 50,
  "model.preset": "bert-tiny",
  "optimizer.name": "adamw",
  "seed": 3,
}


class Log:
  """Events and lines of a run, one after another: log(seconds later, kind, …)."""

  def __init__(self):
    self.events, self.lines = [], []
    self.attempt, self.time = -1, 1000.0

  def __call__(self, later, kind, step=None, **fields):
    self.time += later
    self.attempt += kind == "start"
    record = {"attempt": self.attempt, "time": self.time} | fields | ({} if step is None else {"step": step})
    if kind in ("train", "eval"):
      self.lines.append(record | {f"{kind}/mlm_loss": 5.0})
    else:
      self.events.append(record | {"event": kind})

  def window(self, later, at, /, **seconds):
    self(later, "train", at, **{f"seconds/{part}": value for part, value in seconds.items()})

  def write(self, folder, **config):
    """Leaves them in a run folder as a run would."""
    for kind, records in (("events", self.events), ("metrics", self.lines)):
      (folder / kind).mkdir(parents=True, exist_ok=True)
      for attempt in {record["attempt"] for record in records}:
        lines = [
          json.dumps({k: v for k, v in record.items() if k != "attempt"})
          for record in records
          if record["attempt"] == attempt
        ]
        (folder / kind / f"attempt-{attempt:04d}.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    (folder / "config.json").write_text(json.dumps(CONFIG | config), encoding="utf-8")
    return folder

  @property
  def records(self):
    return self.events, self.lines

  def account(self):
    return goodput.account(self.events, self.lines)

  def parts(self):
    """Only what is not zero, rounded."""
    return {part: round(seconds, 6) for part, seconds in self.account().seconds.items() if seconds}


def begun(log, step=0, *, loading=4, compiling=6):
  """A start, as far as the end of the first step; from scratch or from a checkpoint at `step`."""
  log(0, "start")
  if step:
    log(loading, "restore", step, position=8 * step, seconds=loading)
  else:
    log.time += loading
  log(compiling, "first_step", step + 1, seconds=loading + compiling)


def killed_between_saves():
  """Saved at 20, killed after 30, 100 s away, then on from 20."""
  log = Log()
  begun(log)
  log.window(20, 20, step=20)
  log(2, "save", 20, seconds=2)
  log.window(10, 30, step=10, checkpoint=2)
  log(100, "start")
  log(4, "restore", 20)
  log(1, "first_step", 21)
  log.window(9, 30, step=9)
  return log
