"""What became of a run: read from its folder, told in a few lines, and drawn.

Everything comes from files that a run leaves behind (config.json, metrics,
events, checkpoints) and from the manifest of its corpus where that is still in
its place, so a report can be made while the run goes on, or on another machine.
"""

import json
import math
import os
import statistics
from typing import Any, NamedTuple

from etils import epath

from bert_jax.data.corpus import read_manifest
from bert_jax.data.pairs import PAIR_OBJECTIVES
from bert_jax.errors import UserError
from bert_jax.training.metrics import read_events, read_metrics

FIGURE_FORMATS = (".png", ".svg", ".pdf")

# Rows of the table: metric without its prefix, format, and which end is the good one.
TABLE = (
    ("mlm_loss", "{:.3f} nats", min),
    ("mlm_accuracy", "{:.1%}", max),
    *((f"{name}_loss", "{:.3f} nats", min) for name in PAIR_OBJECTIVES),
    *((f"{name}_accuracy", "{:.1%}", max) for name in PAIR_OBJECTIVES),
    ("perplexity", "{:,.1f}", min),
)

TRAIN_COLOR, EVAL_COLOR, LIMIT_COLOR = "#8fb4d9", "#1a4e8a", "#c0392b"


class RunRecord(NamedTuple):
  """What a run folder holds.

  Attributes:
    workdir: the folder.
    config: its resolved config, flat: {"data.batch_size": 256, …}.
    metrics: see read_metrics.
    events: see read_events.
    manifest: of the corpus, or None where that is gone.
  """

  workdir: epath.Path
  config: dict[str, Any]
  metrics: dict[int, dict[str, float]]
  events: list[dict[str, Any]]
  manifest: dict[str, Any] | None


def read_run(workdir: str | os.PathLike) -> RunRecord:
  """Reads what a run has left so far.

  Raises:
    UserError: this is no run folder, or the run has not logged anything yet.
  """
  root = epath.Path(workdir)
  try:
    config = json.loads((root / "config.json").read_text())
  except FileNotFoundError:
    raise UserError(f"{root}: expected a run folder with a config.json, found none; give the --workdir of a "
                    "`bert_jax pretrain`") from None
  except ValueError as error:
    raise UserError(f"{root / 'config.json'}: expected a resolved config as JSON, found {error}") from None
  metrics = read_metrics(root)
  if not metrics:
    every = config.get("log_every_steps")
    raise UserError(f"{root}: the run has not logged a step yet; it does so every {every} steps")
  try:
    manifest = read_manifest(config.get("data.corpus", ""))
  except UserError:
    manifest = None
  return RunRecord(root, config, metrics, read_events(root), manifest)


def curve(run: RunRecord, name: str) -> tuple[list[int], list[float]]:
  """Steps and finite values of a metric such as "train/mlm_loss"."""
  known = {step: record[name] for step, record in run.metrics.items() if name in record}
  finite = {step: value for step, value in known.items() if math.isfinite(value)}
  return list(finite), list(finite.values())


def summary(run: RunRecord) -> str:
  """The report as aligned lines for a terminal."""
  lines = [f"{name:<20}{value}" for name, value in _facts(run) if value]
  return "\n".join([*lines, "", *_table(run), "", *(f"{name:<20}{value}" for name, value in _places(run))])


def _facts(run: RunRecord) -> list[tuple[str, str]]:
  config, last = run.config, max(run.metrics)
  end = config.get("stop_at_step") or config.get("total_steps", last)
  finished = any(event["event"] == "finish" for event in run.events)
  restores = [f"{event['step']:,}" for event in run.events if event["event"] == "restore"]
  attempts = len({event["attempt"] for event in run.events}) or 1
  bad = [event for event in run.events if event["event"] == "verify" and event.get("ok") is False]
  skipped = sum(curve(run, "train/skipped_steps")[1])
  speeds, waits = (curve(run, name)[1] for name in ("tokens_per_second", "data_wait_fraction"))
  return [
      ("run", str(run.workdir)),
      ("model", f"{config.get('model.preset')}, {config.get('optimizer.name')}, seed {config.get('seed')}"),
      ("steps", f"{last:,} of {end:,}" + (", finished" if finished else "")),
      ("tokens seen", _tokens_seen(run, last)),
      ("speed", f"{statistics.median(speeds):,.0f} tokens/s (median)" if speeds else ""),
      ("waiting for data", f"{statistics.median(waits):.1%} of the time (median)" if waits else ""),
      ("time", _time(run)),
      ("attempts", f"{attempts}" + (f", restored at step {', '.join(restores)}" if restores else "")),
      ("skipped updates", f"{skipped:,.0f}, not finite" if skipped else ""),
      ("bad checkpoints", ", ".join(f"step {event.get('step')} ({event.get('reason')})" for event in bad)),
  ]


def _tokens_seen(run: RunRecord, last: int) -> str:
  """Without padding, from the mean length of a row."""
  if run.manifest is None:
    return ""
  counts = run.manifest["splits"]["train"]["counts"]
  rows = last * run.config["data.batch_size"]
  tokens = rows * counts["row_tokens"] / counts["rows"]
  return f"{tokens:,.0f} in {rows:,} rows: {rows / counts['rows']:.2f} passes over the corpus"


def _time(run: RunRecord) -> str:
  """The sum over attempts, each from its start to its last sign of life."""
  starts = [event["time"] for event in run.events if event["event"] == "start"]
  signs = [event["time"] for event in run.events] + [record["time"] for record in run.metrics.values()]
  seconds = 0.0
  for start, following in zip(starts, [*starts[1:], math.inf]):
    seconds += max((sign for sign in signs if start <= sign < following), default=start) - start
  minutes, seconds = divmod(round(seconds), 60)
  return f"{minutes // 60}:{minutes % 60:02d}:{seconds:02d} (h:mm:ss)" if starts else ""


def _table(run: RunRecord) -> list[str]:
  """Last train, last and best evaluation of every metric that the run has."""
  lines = []
  for name, form, better in TABLE:
    train, evaluation = curve(run, f"train/{name}")[1], curve(run, f"eval/{name}")
    if not train and not evaluation[1]:
      continue
    last = [form.format(values[-1]) if values else "" for values in (train, evaluation[1])]
    best = ""
    if evaluation[1]:
      value = better(evaluation[1])
      best = f"{form.format(value)} at {evaluation[0][evaluation[1].index(value)]:,}"
    lines.append(f"{name:<20}{last[0]:>14}{last[1]:>14}{best:>26}")
  lines.insert(0, f"{'':<20}{'train, last':>14}{'eval, last':>14}{'eval, best':>26}")
  for name in PAIR_OBJECTIVES:
    if majority := curve(run, f"eval/{name}_majority")[1]:
      lines.append(f"{'majority share':<20}{'':>14}{majority[-1]:>14.1%}   (always the more frequent {name.upper()} label)")
  entropy, losses = unigram_entropy(run), curve(run, "eval/mlm_loss")[1]
  if entropy is not None:
    lines.append(f"{'unigram entropy':<20}{'':>14}{f'{entropy:.3f} nats':>14}")
    if losses:
      gap = entropy - losses[-1]
      lines[-1] += f"   (eval/mlm_loss is {abs(gap):.2f} {'below' if gap >= 0 else 'above'})"
  return lines


def unigram_entropy(run: RunRecord) -> float | None:
  """Of the corpus, in nats: the MLM loss of a model that knows word frequencies and nothing else."""
  return None if run.manifest is None else run.manifest["unigram_entropy"]


def _places(run: RunRecord) -> list[tuple[str, str]]:
  folder = run.workdir / "checkpoints"
  names = [path.name for path in folder.iterdir()] if folder.exists() else []
  steps = sorted(int(name) for name in names if name.isdecimal())
  places = [("checkpoints", f"{folder}  (steps {', '.join(map(str, steps))})" if steps else "none yet")]
  if (run.workdir / "export").exists():
    places.append(("Hugging Face folder", str(run.workdir / "export")))
  if (run.workdir / "tensorboard").exists():
    places.append(("curves", f"tensorboard --logdir={run.workdir / 'tensorboard'}"))
  return places


def plot_curves(run: RunRecord, out: str | os.PathLike) -> None:
  """Draws the MLM loss and, where the run has it, the NSP or SOP accuracy beside it.

  Args:
    run: what to draw.
    out: a file ending in .png, .svg or .pdf; it appears whole or not at all.

  Raises:
    UserError: another ending, or a folder that cannot be written to.
  """
  out = os.fspath(out)
  ending = os.path.splitext(out)[1].lower()
  if ending not in FIGURE_FORMATS:
    raise UserError(f"--plot={out}: expected a file name ending in {', '.join(FIGURE_FORMATS)}")
  import matplotlib
  import matplotlib.figure  # not pyplot, which would look for a display

  pairs = next((name for name in PAIR_OBJECTIVES if curve(run, f"train/{name}_accuracy")[0]), "")
  style = {"font.size": 11, "axes.spines.top": False, "axes.spines.right": False, "axes.grid": True,
           "grid.color": "#e8e8e8", "axes.axisbelow": True, "svg.hashsalt": "bert_jax"}  # fmt: skip
  with matplotlib.rc_context(style):
    figure = matplotlib.figure.Figure(figsize=(10, 3.8) if pairs else (6, 3.8), layout="constrained")
    axes = figure.subplots(1, 2 if pairs else 1, squeeze=False)[0]
    entropy = unigram_entropy(run)
    label = f"unigram entropy {entropy:.2f}" if entropy else ""
    _draw(axes[0], run, "mlm_loss", "MLM loss (nats)", entropy, label)
    if pairs:
      majority = (curve(run, f"eval/{pairs}_majority")[1] or [None])[-1]
      label = f"majority share {majority:.0%}" if majority else ""
      _draw(axes[1], run, f"{pairs}_accuracy", f"{pairs.upper()} accuracy", majority, label)
      axes[1].yaxis.set_major_formatter(lambda value, _: f"{value:.0%}")
    partial = f"{out}.partial"
    try:
      figure.savefig(partial, format=ending[1:], dpi=150)
      os.replace(partial, out)
    except OSError as error:
      epath.Path(partial).unlink(missing_ok=True)
      raise UserError(f"cannot write {out}: {error.strerror or error}; choose another --plot, or make room") from error


def _draw(axis, run: RunRecord, name: str, title: str, limit: float | None, limit_label: str) -> None:
  """One panel: training as a thin line, evaluation as a marked one, and a dashed line to compare with."""
  axis.plot(*curve(run, f"train/{name}"), color=TRAIN_COLOR, linewidth=1.2, label="train")
  steps, values = curve(run, f"eval/{name}")
  axis.plot(steps, values, color=EVAL_COLOR, linewidth=1.8, marker="o", markersize=4, label="validation")
  if limit is not None:
    axis.axhline(limit, color=LIMIT_COLOR, linewidth=1.2, linestyle=(0, (5, 3)), label=limit_label)
  axis.set_title(title, loc="left", fontsize=12)
  axis.set_xlabel("step")
  axis.xaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
  axis.locator_params(axis="x", nbins=6)
  axis.set_xlim(left=0)
  axis.legend(framealpha=0.85, edgecolor="none")
