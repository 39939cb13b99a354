"""A run as one HTML page that stands alone: curves, throughput, goodput, restarts, samples and configuration.

No script, font or picture from outside, so the file can be mailed, kept beside
a paper or opened on a cluster's login node. It shows what the run had written
when the page was made; making it again while the run goes on costs it nothing.
"""

import collections
import re
import statistics
import time
from collections.abc import Iterable, Sequence
from typing import Any

from bert_jax import __version__
from bert_jax.io.numbers import count, duration
from bert_jax.tools.report import goodput, history, style, summary
from bert_jax.tools.report.charts import Axis, Limit, Series, chart, escape, number, percent, strip
from bert_jax.tools.report.samples import Sample, Samples
from bert_jax.tools.report.summary import RunRecord, curve

FILE_NAME = "report.html"
MOST_ROWS = 200  # of a table


def report_page(run: RunRecord, drawn: Samples) -> str:
  """The whole page, as HTML.

  Args:
    run: what to show.
    drawn: the samples, or why there are none.
  """
  name = run.workdir.name or str(run.workdir)
  sections = [
    _head(run),
    _section("Curves", f'<div class="charts">{_cards(curves(run))}</div>{_note(run)}'),
    _section(
      "Throughput",
      f'<div class="charts">{_cards(_throughput(run))}</div>{_lines([("slowest host", summary.slowest_host(run))])}',
    ),
    _section("Goodput", _goodput(run)),
    _section("Restarts", _restarts(run)),
    _section("What happened", _happenings(run)),
    _section("Samples", _samples(drawn)),
    _section("Configuration", _configuration(run)),
  ]
  made = time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(run.read_at))
  about = f"""{made} from {escape(run.workdir)} by bert_jax {escape(__version__)}.
Curves show the steps that led to the newest parameters; what was logged of steps done in vain is left out."""
  return style.document(f"{escape(name)}: bert_jax run", "".join(sections), about)


def _section(title: str, body: str) -> str:
  return f"<section><h2>{title}</h2>{body}</section>\n" if body else ""


def _cards(bodies: Iterable[str]) -> str:
  return "".join(f'<div class="card">{body}</div>' for body in bodies if body)


def _note(run: RunRecord) -> str:
  return (
    '<p class="soft">Dotted: the steps that the run went back to, at a restart or a rollback.</p>'
    if _marks(run)
    else ""
  )


def _lines(rows: Sequence[tuple[str, str]]) -> str:
  return "".join(f'<p><span class="soft">{escape(name)}:</span> {escape(value)}</p>' for name, value in rows if value)


def _head(run: RunRecord) -> str:
  """The name, where it stands, and the figures that everybody asks for first."""
  facts = dict(summary.facts(run))
  title = f"<h1>{escape(run.workdir.name or run.workdir)}</h1>"
  about = "; ".join(value for value in (facts["model"], facts["devices"]) if value)
  figures: list[tuple[str, str, str]] = []
  last = max(run.metrics, default=0)
  state = summary.state(run).lstrip(",; ")
  figures.append((f"{last:,}", f"of {summary.end_step(run):,} steps", state))
  for shown in summary.shown_of(run):
    steps, values = curve(run, f"eval/{shown.name}")
    if shown.short and values:
      figures.append((shown.format.format(values[-1]), f"eval/{shown.name}", f"at step {steps[-1]:,}"))
  if speeds := curve(run, "tokens_per_second")[1]:
    mfu = curve(run, "mfu")[1]
    figures.append(
      (count(statistics.median(speeds)), "tokens/s (median)", f"MFU {statistics.median(mfu):.1%}" if mfu else "")
    )
  if run.account and run.account.wall:
    restarts = len(run.account.attempts) - 1
    figures.append((f"{run.account.share('useful'):.1%}", "goodput", f"{restarts} restart{'s' * (restarts != 1)}"))
  cards = "".join(
    f'<div class="card"><b>{escape(value)}</b>{escape(name)}<small>{escape(more)}</small></div>'
    for value, name, more in figures
  )
  seen = _lines([("tokens seen", facts["tokens seen"])])
  return f'<header>{title}<p class="soft">{escape(about)}</p>{seen}<div class="cards">{cards}</div></header>\n'


def _marks(run: RunRecord) -> list[tuple[float, str]]:
  """The steps that were gone back to, and why."""
  attempts = run.account.attempts if run.account else []
  marks = [
    (
      after.first,
      f"attempt {after.number} resumed from step {after.first:,}: the one before was {summary.ended(before)}",
    )
    for before, after in zip(attempts, attempts[1:])
    if after.first is not None
  ]
  return marks + [
    (event["step"], f"rollback {summary.rolled_back(event)}") for event in run.events if event["event"] == "rollback"
  ]


def _series(run: RunRecord, name: str, kind: str, label: str) -> Series:
  return Series(label, kind, list(zip(*curve(run, name))))


def curves(run: RunRecord) -> list[str]:
  """Losses and accuracies of training and validation, learning rate, gradient norm."""
  marks, charts = _marks(run), []

  for shown in summary.shown_of(run):
    if not shown.title:
      continue
    series = [
      _series(run, f"train/{shown.name}", "train", "train"),
      _series(run, f"eval/{shown.name}", "eval", "validation"),
    ]
    limit, baseline = None, summary.baseline_of(run, shown)
    if shown.baseline is not None and baseline:
      limit = Limit(baseline, f"{shown.baseline.label} {baseline:{'.0%' if shown.is_share else '.2f'}}")
    title = f"{shown.title} ({shown.unit})" if shown.unit else shown.title
    charts.append(chart(title, series, y=Axis(percent if shown.is_share else number), limit=limit, marks=marks))
  charts.append(chart("Learning rate", [_series(run, "learning_rate", "train", "learning rate")], marks=marks))
  norms = curve(run, "train/grad_norm")[1]
  wide = bool(norms) and min(norms) > 0 and max(norms) / min(norms) > 30
  charts.append(
    chart("Gradient norm", [_series(run, "train/grad_norm", "train", "norm")], y=Axis(number, log=wide), marks=marks)
  )
  return charts


def _throughput(run: RunRecord) -> list[str]:
  """Tokens per second, MFU and the share of the time in which the devices waited for rows."""
  marks = _marks(run)
  wait = []
  for step, record in run.metrics.items():
    parts = [record.get(f"seconds/{part}") for part in ("step", "data_wait", "evaluation", "checkpoint")]
    known = [part for part in parts if part is not None]
    share = parts[1] / sum(known) if parts[1] is not None and sum(known) > 0 else record.get("data_wait_fraction")
    if share is not None and share == share:
      wait.append((step, share))
  return [
    chart(
      "Tokens per second, without padding",
      [_series(run, "tokens_per_second", "train", "tokens/s")],
      y=Axis(count),
      marks=marks,
    ),
    chart("MFU", [_series(run, "mfu", "train", "MFU")], y=Axis(percent), marks=marks),
    chart("Waiting for data, share of the time", [Series("waiting", "train", wait)], y=Axis(percent), marks=marks),
    chart(
      "Seconds per step, slowest host",
      [
        _series(run, "hosts/slowest_seconds", "eval", "slowest"),
        _series(run, "hosts/median_seconds", "train", "median"),
      ],
      marks=marks,
    ),
  ]


def _goodput(run: RunRecord) -> str:
  """The parts of the time as a bar, a table and a strip over the time; the step over the time."""
  account = run.account
  if account is None or not account.wall:
    return ""
  present = [part for part in goodput.PARTS if account.seconds[part] > 0]
  bar = "".join(
    f'<div class="part-{part}" style="width: {100 * account.share(part):.3f}%" '
    f'title="{summary.PART_NAMES[part]}"></div>'
    for part in present
  )
  rows = "".join(
    f'<tr><td><span class="swatch part-{part}"></span>{summary.PART_NAMES[part]}</td>'
    f'<td class="right">{duration(account.seconds[part])}</td><td '
    f'class="right">{account.share(part):.1%}</td></tr>'
    for part in present
  )
  kinds = _by_kind(run)
  elapsed = account.clock()
  spans = [(span.part, elapsed(span.begin), elapsed(span.begin) + span.end - span.begin) for span in account.spans]
  good, vain = [], []
  for points, last in history.climbs(run.events, run.lines):
    points = [(elapsed(at), step) for at, step in points]
    good.append(Series("counts", "good", [point for point in points if point[1] <= last]))
    rest = [point for point in points if point[1] > last]
    vain.append(Series("in vain", "lost", [*good[-1].points[-1:], *rest] if rest else []))
  climb = chart("Step over time", [*good, *vain], x=Axis(duration), y=Axis(count))
  return (
    f'<div class="card"><p><b>{account.share("useful"):.1%}</b> of {duration(account.wall)} (h:mm:ss) went '
    "into steps that "
    "count.</p>"
    f'<div class="bar">{bar}</div><div class="two"><table><tr><th>part</th><th class="right">h:mm:ss</th><th '
    f'class="right">share</th></tr>{rows}</table>'
    f"{climb}</div>{_lines([('saves', summary.saves(kinds))])}</div>"
    f'<div class="card" style="margin-top: 12px">{_flags(account, elapsed)}{strip(spans, goodput.PARTS)}'
    f'<div class="ends"><span>{_clock_time(account.attempts[0].begin)}</span>'
    f"<span>{_clock_time(account.attempts[-1].end)}</span></div></div>"
  )


def _flags(account: goodput.Goodput, elapsed) -> str:
  """Numbers of the attempts where they began, as many as there is room for."""
  flags, free = [], 0.0
  for attempt in account.attempts[1:]:
    place = 100 * elapsed(attempt.begin) / account.wall
    if place >= free:
      flags.append(
        f'<span style="left: {min(max(place, 2), 98):.2f}%" title="attempt {attempt.number}">{attempt.number}</span>'
      )
      free = place + 5
  return f'<div class="flags">{"".join(flags)}</div>' if flags else ""


def _restarts(run: RunRecord) -> str:
  """Every attempt with what ended it."""
  attempts = run.account.attempts if run.account else []
  if not attempts:
    return ""
  if len(attempts) == 1 and attempts[0].ended in ("", goodput.ENDINGS["finish"]):
    return "<p>None: one attempt so far.</p>"
  rows = []
  for attempt in attempts[-MOST_ROWS:]:
    reached = attempt.first is not None
    cells = {
      "attempt": str(attempt.number),
      "began": _clock_time(attempt.begin),
      "from step": f"{attempt.first:,}" if reached else "not reached",
      "to step": f"{attempt.last:,}" if reached else "",
      "lasted": duration(attempt.end - attempt.begin),
      "steps lost": f"{attempt.lost_steps:,}" if attempt.lost_steps else "",
      "down after": duration(attempt.down) if attempt.down else "",
      "ended": attempt.ended or "no end recorded",
    }
    rows.append(cells | ({"said": attempt.message} if attempt.message else {}))
  return _table(rows) + _more(len(attempts))


def _table(rows: Sequence[dict[str, str]]) -> str:
  """A table that on a phone becomes a list of cards. What a row "said" has a line to itself."""
  names = [name for name in rows[0] if name != "said"]
  lines = []
  for row in rows:
    cells = "".join(f'<td data-name="{name}">{escape(row[name])}</td>' for name in names)
    lines.append(f"<tr>{cells}</tr>")
    if row.get("said"):
      lines.append(f'<tr class="said"><td colspan="{len(names)}">{escape(row["said"])}</td></tr>')
  head = "".join(f"<th>{name}</th>" for name in names)
  return f'<div class="card"><table class="stack"><tr class="head">{head}</tr>{"".join(lines)}</table></div>'


def _more(total: int) -> str:
  return (
    f'<p class="soft">The newest {MOST_ROWS} of {total}; the events folder has all.</p>' if total > MOST_ROWS else ""
  )


def _happenings(run: RunRecord) -> str:
  """Rollbacks, jumps, skipped updates, bad checkpoints and slow hosts, by time."""
  found: list[tuple[float, int, str]] = []
  skips: list[dict[str, Any]] = []
  for event in run.events:
    if event["event"] == "skip":
      if skips and (event["attempt"] != skips[-1]["attempt"] or event["step"] != skips[-1]["step"] + 1):
        found.append(_skipped(skips))
        skips = []
      skips.append(event)
    elif text := _told(event):
      found.append((event["time"], event["attempt"], text))
  found += [_skipped(skips)] if skips else []
  if not found:
    return ""
  rows = [
    {"time": _clock_time(at), "attempt": str(attempt), "what": text} for at, attempt, text in sorted(found)[-MOST_ROWS:]
  ]
  return _table(rows) + _more(len(found))


def _skipped(skips: list[dict[str, Any]]) -> tuple[float, int, str]:
  first, last = skips[0], skips[-1]
  steps = f"step {first['step']:,}" if len(skips) == 1 else f"steps {first['step']:,} to {last['step']:,}"
  return first["time"], first["attempt"], f"{steps} skipped: loss or gradients not finite"


def _told(event: dict[str, Any]) -> str:
  """An event as a sentence, or "" where it is nothing out of the ordinary."""
  step = f"step {event['step']:,}" if isinstance(event.get("step"), int) else ""
  match event["event"]:
    case "rollback":
      return f"rollback {summary.rolled_back(event)}"
    case "jump":
      return (
        f"{step}: jumped over rows {event.get('position')} to {event.get('to')}, as recorded by an earlier rollback"
      )
    case "verify" if event.get("ok") is False:
      return f"checkpoint of {step}: {event.get('reason')}; " + (
        "removed" if event.get("removed") else f"set aside as {event.get('set_aside', '')}"
      )
    case "save_passed_over":
      return f"save at {step} passed over: {event.get('because', '')}"
    case "slow_host":
      numbers = [event.get(name) for name in ("seconds", "median")]
      beside = " against a median of ".join(f"{value:.3g} s" for value in numbers if isinstance(value, (int, float)))
      return f"{step}: process {event.get('process')} ({event.get('host')}) is slow, {beside} per step"
  return ""


def _samples(drawn: Samples) -> str:
  """Masked sentences with the model's predictions, and the true tokens."""
  if drawn.reason:
    return f"<p>None: {escape(drawn.reason)}.</p>"
  about = (
    f'<p class="soft">Validation sentences with masks, completed by the checkpoint of step {drawn.step:,}; the '
    "same sentences at every "
    "report.</p>"
  )
  return about + '<div class="charts">' + _cards(map(_sample, drawn.samples)) + "</div>"


def _sample(sample: Sample) -> str:
  text = escape(sample.text([str(number + 1) for number in range(len(sample.places))]))
  text = re.sub("⟦([0-9]+)⟧", r"<mark>\1</mark>", text)
  lines = []
  for place, guesses in enumerate(sample.guesses):
    truth = sample.truth(place)
    listed = "".join(
      f"<span><span{' class=hit' * (guess.token == truth)}>{escape(guess.token)}</span> "
      f"<small>{guess.probability:.1%}</small></span>"
      for guess in guesses
    )
    lines.append(
      f'<div class="guesses"><mark>{place + 1}</mark>{listed}<span class="soft">truth: {escape(truth)}</span></div>'
    )
  return f'<p class="sample">{text}</p>{"".join(lines)}'


def _configuration(run: RunRecord) -> str:
  """What differs from the defaults; all other keys behind a click."""
  changed: list[str] = []
  others: list[str] = []
  for setting in summary.configuration(run):
    default = f"default {setting.default}; " if setting.changed and setting.default else ""
    cell = (
      f'<div class="setting"><code>{escape(setting.key)}</code> = '
      f"<b><code>{escape(setting.value) or '(empty)'}</code></b>"
      f"<small>{escape(default + setting.meaning)}</small></div>"
    )
    (changed if setting.changed else others).append(cell)
  return (
    f'<div class="card"><div class="keys">{"".join(changed)}</div><details><summary>{len(others)} keys at their '
    "defaults</summary>"
    f'<div class="keys">{"".join(others)}</div></details></div>'
  )


def _by_kind(run: RunRecord) -> dict[str, list[dict[str, Any]]]:
  kinds = collections.defaultdict(list)
  for event in run.events:
    kinds[event["event"]].append(event)
  return kinds


def _clock_time(at: float) -> str:
  return time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(at))
