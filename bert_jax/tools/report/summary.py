"""What became of a run: read from its folder, and told in a few lines.

Everything comes from files that a run leaves behind (config.json, metrics,
events, checkpoints) and from the manifest of its corpus where that is still in
its place, so a report can be made while the run goes on, or on another machine.
The same as a page: report_page.py.
"""

import collections
import math
import os
import statistics
import textwrap
import time
from typing import Any, NamedTuple

from etils import epath

from bert_jax import config as configs
from bert_jax.data.corpus.folder import read_corpus_manifest
from bert_jax.errors import UserError, printable
from bert_jax.io import storage
from bert_jax.io.json_files import read_object
from bert_jax.io.numbers import duration
from bert_jax.objectives.objective import Shown
from bert_jax.objectives.registry import OBJECTIVES
from bert_jax.tools.report import goodput, history
from bert_jax.training.checkpoints.folder import step_folders, step_of
from bert_jax.training.metrics import read_events, read_lines

# How the parts of the time are called.
PART_NAMES = {
  "useful": "useful steps",
  "lost": "steps lost",
  "starting": "starting",
  "data_wait": "waiting for data",
  "evaluation": "evaluation",
  "checkpoint": "checkpoints",
  "down": "down",
}
SHOWN_RESTARTS = 6  # in the terminal; the page has all
_WIDTH = 20  # of the names on the left


class RunRecord(NamedTuple):
  """What a run folder holds.

  Attributes:
    workdir: the folder.
    config: its resolved config, flat: {"data.batch_size": 256, …}.
    metrics: of the steps that led to the newest parameters, see history.lineage.
    events, lines: see read_events and history.thinned.
    account: where its time went, or None where the events are gone.
    manifest: of the corpus, or None where that is gone.
    read_at: Unix seconds.
    logged: how many lines of metrics there are.
  """

  workdir: epath.Path
  config: dict[str, Any]
  metrics: dict[int, dict[str, float]]
  events: list[dict[str, Any]]
  lines: list[dict[str, Any]]
  account: goodput.Goodput | None
  manifest: dict[str, Any] | None
  read_at: float
  logged: int


def read_run(workdir: str | os.PathLike) -> RunRecord:
  """Reads what a run has left so far.

  Raises:
    UserError: this is no run folder, or the run has not logged anything yet.
  """
  root = storage.folder(workdir)
  if not (root / "config.json").exists():
    raise UserError(
      f"{root}: expected a run folder with a config.json, found none; give the --workdir of a `bert_jax pretrain`"
    )
  config = configs.renamed(read_object(root / "config.json", nan=True, halves=True))
  try:  # another version may have keys that this one does not know; those that it knows are what it takes them for
    configs.from_flat({key: value for key, value in config.items() if key in configs.KEYS})
  except (ValueError, AttributeError, TypeError) as error:
    raise UserError(f"{root / 'config.json'} is not the config of a run: {error}") from error
  events, (lines, logged) = read_events(root), history.thinned(read_lines(root))
  if not lines:
    every = config.get("log_every_steps")
    raise UserError(f"{root}: the run has not logged a step yet; it does so every {every} steps")
  try:
    manifest = read_corpus_manifest(config.get("data.corpus", ""))
  except UserError:
    manifest = None
  return RunRecord(
    root,
    config,
    history.lineage(events, lines),
    events,
    lines,
    goodput.account(events, lines),
    manifest,
    time.time(),
    logged,
  )


def curve(run: RunRecord, name: str) -> tuple[list[int], list[float]]:
  """Steps and finite values of a metric such as "train/grad_norm"."""
  known = {step: record[name] for step, record in run.metrics.items() if name in record}
  finite = {step: value for step, value in known.items() if math.isfinite(value)}
  return list(finite), list(finite.values())


def run_summary(run: RunRecord) -> str:
  """The report as aligned lines for a terminal."""
  blocks = [
    [row(name, value) for name, value in [*facts(run), *goodput_rows(run), *trouble(run)] if value],
    metrics_table(run),
    settings_lines(run),
    [row(name, value) for name, value in _places(run)],
  ]
  return printable("\n\n".join("\n".join(block) for block in blocks if block))


def row(name: str, value: str) -> str:
  """A line of the summary."""
  return f"{name:<{_WIDTH}}{value}"


def facts(run: RunRecord) -> list[tuple[str, str]]:
  """What the run is, how far it has come and how fast: (name, value); an empty value is not known."""
  config, last = run.config, max(run.metrics, default=0)
  speeds, mfu = (curve(run, name)[1] for name in ("tokens_per_second", "mfu"))
  speed = f"{statistics.median(speeds):,.0f} tokens/s (median)" if speeds else ""
  return [
    ("run", str(run.workdir)),
    ("model", f"{config.get('model.preset')}, {config.get('optimizer.name')}, seed {config.get('seed')}"),
    ("devices", _devices(run)),
    ("steps", f"{last:,} of {end_step(run):,}{state(run)}"),
    ("tokens seen", _tokens_seen(run, last)),
    (
      "logged lines",
      f"{run.logged:,}; curves and medians are of {len(run.lines):,}, which neighbours were put together to"
      if run.logged > len(run.lines)
      else "",
    ),
    ("speed", speed + (f", MFU {statistics.median(mfu):.1%}" if mfu else "")),
  ]


def end_step(run: RunRecord) -> int:
  """Where the run ends."""
  return run.config.get("stop_at_step") or run.config.get("total_steps", max(run.metrics, default=0))


def state(run: RunRecord) -> str:
  """ ", finished", or how it ended, or how long ago it gave a sign of life."""
  if run.account is None:
    return ""
  attempt = run.account.attempts[-1]
  if attempt.ended:
    return f", {attempt.ended}"
  return f"; last sign of life {duration(max(run.read_at - attempt.end, 0))} ago"


def _devices(run: RunRecord) -> str:
  start = next((event for event in reversed(run.events) if event["event"] == "start" and "devices" in event), None)
  if start is None:
    return ""
  processes = start.get("processes", 1)
  return f"{start['devices']} x {start.get('device_kind')}" + (f", {processes} processes" if processes != 1 else "")


def _tokens_seen(run: RunRecord, last: int) -> str:
  """Without padding, from the mean length of a row."""
  if run.manifest is None:
    return ""
  counts = run.manifest["splits"]["train"]["counts"]
  rows = last * run.config["data.batch_size"]
  tokens = rows * counts["row_tokens"] / counts["rows"]
  return f"{tokens:,.0f} in {rows:,} rows: {rows / counts['rows']:.2f} passes over the corpus"


def goodput_rows(run: RunRecord) -> list[tuple[str, str]]:
  """The goodput, and every part of the time that there was."""
  account = run.account
  if account is None or not account.wall:
    return []
  rows = [("goodput", f"{account.share('useful'):.1%} of {duration(account.wall)} (h:mm:ss)")]
  steps = {part: sum(span.steps for span in account.spans if span.part == part) for part in ("useful", "lost")}
  for part, name in PART_NAMES.items():
    if account.seconds[part] > 0:
      counted = f"   {steps[part]:,} steps" if steps.get(part) else ""
      rows.append((f"  {name}", f"{duration(account.seconds[part]):>8}{account.share(part):>8.1%}{counted}"))
  return rows


def trouble(run: RunRecord) -> list[tuple[str, str]]:
  """Restarts and whatever else went wrong, then the saves; an empty value did not happen."""
  attempts = run.account.attempts if run.account else []
  rows = [("attempts", f"{len(attempts)}")] if attempts else []
  restarts = attempts[:-1]
  shown = restarts if len(restarts) <= SHOWN_RESTARTS else restarts[-SHOWN_RESTARTS + 1 :]
  if len(shown) < len(restarts):
    rows.append(("", f"  (the first {len(restarts) - len(shown)} are on the page)"))
  rows += [(f"  after attempt {attempt.number}", ended(attempt)) for attempt in shown]
  kinds = collections.defaultdict(list)
  for event in run.events:
    kinds[event["event"]].append(event)
  bad = [event for event in kinds["verify"] if event.get("ok") is False]
  return rows + [
    ("rollbacks", "; ".join(rolled_back(event) for event in kinds["rollback"])),
    ("skipped updates", f"{len(kinds['skip']):,}, not finite" if kinds["skip"] else ""),
    (
      "bad checkpoints",
      ", ".join(f"step {event.get('step')} ({event.get('reason')})" for event in bad if not event.get("removed")),
    ),
    ("saves cut off", ", ".join(f"step {event.get('step')}" for event in bad if event.get("removed"))),
    ("saves", saves(kinds)),
    ("slowest host", slowest_host(run)),
  ]


def ended(attempt: goodput.Attempt) -> str:
  """killed without a word at step 1,400, 400 steps to do again, down 0:00:12."""
  text = (
    f"{attempt.ended} at step {attempt.last:,}"
    if attempt.first is not None
    else f"{attempt.ended} before its first step"
  )
  text += f" ({attempt.message.splitlines()[0][:120]})" if attempt.message else ""
  text += f", {attempt.lost_steps:,} steps lost" if attempt.lost_steps else ""
  return text + (f", down {duration(attempt.down)}" if attempt.down else "")


def rolled_back(event: dict[str, Any]) -> str:
  """from step 1,234 to 1,000, past 1,872 rows."""
  text = (
    f"from step {event['from_step']:,} to {event['step']:,}" if "from_step" in event else f"to step {event['step']:,}"
  )
  if "position" in event and "to" in event:
    text += f", past {event['to'] - event['position']:,} rows"
  return text


def saves(kinds: dict[str, list[dict[str, Any]]]) -> str:
  """How many, how long training stood still for them, and how long until they were committed."""
  parts = [f"{len(kinds['save'])}"] if kinds["save"] else []
  seconds = lambda kind: [event["seconds"] for event in kinds[kind] if history.number_in(event, "seconds") is not None]
  if stalls := seconds("save"):
    parts.append(f"training stood still for {statistics.median(stalls):.2f} s (median), {max(stalls):.2f} s at most")
  if commits := seconds("saved"):
    parts.append(f"committed after {statistics.median(commits):.2f} s")
  if kinds["save_passed_over"]:
    parts.append(f"{len(kinds['save_passed_over'])} passed over, the one before was still being written")
  return "; ".join(parts)


def slowest_host(run: RunRecord) -> str:
  """The process that was slowest most often; empty for a single one."""
  seen: dict[int, list[float]] = {}
  for line in run.lines:
    seconds, median = line.get("hosts/slowest_seconds"), line.get("hosts/median_seconds")
    if line.get("hosts/slowest") is not None and seconds and median:
      seen.setdefault(int(line["hosts/slowest"]), []).append(seconds / median)
  if not seen:
    return ""
  process, ratios = max(seen.items(), key=lambda item: len(item[1]))
  names = [
    event.get("host") for event in run.events if event["event"] == "slow_host" and event.get("process") == process
  ]
  host = f" ({names[-1]})" if names and names[-1] else ""
  total = sum(map(len, seen.values()))
  return (
    f"process {process}{host} in {len(ratios)} of {total} windows, {statistics.median(ratios):.2f} x the median "
    "(median)"
  )


def shown_of(run: RunRecord) -> tuple[Shown, ...]:
  """What is shown of a run: by its objective, or, where this version has none of that name, by the default one."""
  default = configs.KEYS["objective"].default
  name = run.config.get("objective", default)
  return OBJECTIVES[name if name in OBJECTIVES else default].shown


def baseline_of(run: RunRecord, shown: Shown) -> float | None:
  """What a metric is compared with, or None where that is not known."""
  if shown.baseline is None:
    return None
  if shown.baseline.of_corpus:
    return None if run.manifest is None else run.manifest[shown.baseline.name]
  return next(reversed(curve(run, f"eval/{shown.baseline.name}")[1]), None)


def metrics_table(run: RunRecord) -> list[str]:
  """Last train, last and best evaluation of every metric that the run has, then what they are compared with."""
  lines = [f"{'':<{_WIDTH}}{'train, last':>14}{'eval, last':>14}{'eval, best':>26}"]
  compared = []
  for shown in shown_of(run):
    train, (steps, values) = curve(run, f"train/{shown.name}")[1], curve(run, f"eval/{shown.name}")
    if shown.better is not None and (train or values):
      last = [shown.text(known[-1]) if known else "" for known in (train, values)]
      best = ""
      if values:
        value = shown.better(values)
        best = f"{shown.text(value)} at {steps[values.index(value)]:,}"
      lines.append(f"{shown.name:<{_WIDTH}}{last[0]:>14}{last[1]:>14}{best:>26}")
    baseline = baseline_of(run, shown)
    if shown.baseline is not None and baseline is not None:
      line = f"{shown.baseline.label:<{_WIDTH}}{'':>14}{shown.text(baseline):>14}"
      if shown.baseline.meaning:
        line += f"   ({shown.baseline.meaning})"
      elif values:
        gap = baseline - values[-1]
        line += f"   (eval/{shown.name} is {abs(gap):.2f} {'below' if gap >= 0 else 'above'})"
      compared.append(line)
  return lines + compared


class Setting(NamedTuple):
  """A key of the config: its value and default as text, and what it means; `changed` if they differ."""

  key: str
  value: str
  default: str
  meaning: str
  changed: bool


def configuration(run: RunRecord) -> list[Setting]:
  """Every key of the run, those that differ from their defaults first, in the order of the schema."""
  found = []
  for key in dict.fromkeys([*(key for key in configs.KEYS if key in run.config), *run.config]):
    value = run.config[key]
    row = configs.KEYS.get(key, configs.Key(key, None, "Not known to this version of bert_jax."))
    now, default = ("" if one in (None, "") else str(one) for one in (value, row.default))
    found.append(Setting(key, now, default, row.meaning, value != row.default))
  return sorted(found, key=lambda setting: not setting.changed)


def settings_lines(run: RunRecord) -> list[str]:
  """What differs from the defaults, as a paragraph."""
  text = "  ".join(
    f"{setting.key}={setting.value}".replace(" ", "\0") for setting in configuration(run) if setting.changed
  )
  if not text:
    return []
  lines = textwrap.wrap(
    text,
    100,
    subsequent_indent=" " * _WIDTH,
    initial_indent=f"{'changed settings':<{_WIDTH}}",
    break_long_words=False,
    break_on_hyphens=False,
  )
  return [line.replace("\0", " ") for line in lines]


def _places(run: RunRecord) -> list[tuple[str, str]]:
  folder = run.workdir / "checkpoints"
  steps = [step_of(path) for path in step_folders(folder)]
  places = [("checkpoints", f"{folder}  (steps {', '.join(map(str, steps))})" if steps else "none yet")]
  if (run.workdir / "export").exists():
    places.append(("Hugging Face folder", str(run.workdir / "export")))
  if (run.workdir / "tensorboard").exists():
    places.append(("curves", f"tensorboard --logdir={run.workdir / 'tensorboard'}"))
  return places
