"""Charts as SVG text for the page of a run: no library, no script, colors from the page's style sheet.

A chart is 400 units wide, so that its letters can be read on a phone at full
width and on a desk three abreast. Lines are thinned to what such a width can
show, keeping their peaks, so a page stays small however long the run was. The
numbers that the page's script needs to tell values under the pointer stand in
`data-` attributes.
"""

import html
import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

from bert_jax.io.numbers import count, duration

WIDTH, HEIGHT = 400, 230
LEFT, RIGHT, TOP, BOTTOM = 48, 392, 30, 204  # the plot within
_COLUMNS = 300  # a line has at most two points in each


class Series(NamedTuple):
  """A line.

  Attributes:
    name: for the legend; series of one name have one entry.
    kind: its class in the style sheet: train, eval.
    points: (x, y) in the order of x, finite.
  """

  name: str
  kind: str
  points: Sequence[tuple[float, float]]


class Axis(NamedTuple):
  """How an axis counts: `form` makes text of a value; `log` spaces it by factors."""

  form: Callable[[float], str]
  log: bool = False


class Limit(NamedTuple):
  """A dashed horizontal line to compare with."""

  value: float
  label: str


def escape(text: object) -> str:
  """Text for HTML, inside elements and quoted attributes; characters that no page may hold become U+FFFD."""
  legal = "".join(c if c >= " " or c in "\n\t" else "�" for c in str(text))
  return html.escape(legal.encode("utf-8", "replace").decode(), quote=True)


def number(value: float) -> str:
  """Three digits: 5.12, 0.03, 2e-05."""
  return f"{value:,.3g}" if abs(value) < 1000 else count(value)


def percent(value: float) -> str:
  return f"{100 * value:.3g}%"


def picture(width: int, height: int, parts: Sequence[str]) -> str:
  """A file of its own with these elements on white, so many units wide and high."""
  return (
    f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}" '
    'font-family="system-ui, sans-serif" font-size="13"><rect width="100%" height="100%" '
    f'fill="white"/>{"".join(parts)}</svg>\n'
  )


def chart(
  title: str,
  series: Sequence[Series],
  *,
  x: Axis = Axis(count),
  y: Axis = Axis(number),
  limit: Limit | None = None,
  marks: Sequence[tuple[float, str]] = (),
) -> str:
  """An <svg> with axes, lines and a legend, or "" where there is nothing to draw.

  Args:
    title: above the plot; may hold a unit.
    series: the lines; one with a single point is drawn as a dot.
    x, y: the axes.
    limit: a dashed line.
    marks: (x, what happened there): faint vertical lines.
  """
  points = [point for one in series for point in one.points]
  if not points:
    return ""
  xs, ys = [p[0] for p in points], [p[1] for p in points] + ([limit.value] if limit else [])
  y = y if min(ys) > 0 else y._replace(log=False)
  x_range, y_range = _x_range(xs), _y_range(ys, y.log)
  across = lambda value: LEFT + (RIGHT - LEFT) * (value - x_range[0]) / (x_range[1] - x_range[0])
  scale = math.log10 if y.log else float
  low, high = scale(y_range[0]), scale(y_range[1])
  up = lambda value: BOTTOM - (BOTTOM - TOP) * (scale(value) - low) / (high - low)
  body = [*_grid(x, y, x_range, y_range, across, up)]
  for at, what in marks:
    if x_range[0] <= at <= x_range[1]:
      body.append(
        f'<line class="mark" x1="{across(at):.1f}" x2="{across(at):.1f}" y1="{TOP}" '
        f'y2="{BOTTOM}"><title>{escape(what)}</title></line>'
      )
  if limit:
    body.append(f'<line class="limit" x1="{LEFT}" x2="{RIGHT}" y1="{up(limit.value):.1f}" y2="{up(limit.value):.1f}"/>')
  for one in series:
    body += _line(one, across, up)
  body.append(f'<text class="title" x="0" y="14">{escape(title)}</text>')
  body += _legend(series, limit)
  data = f'data-x="{x_range[0]:.9g} {x_range[1]:.9g}" data-y="{low:.9g} {high:.9g}" data-log="{int(y.log)}"'
  unit = "%" if y.form is percent else ""
  data += ' data-time="1"' if x.form is duration else ""
  return (
    f'<svg class="chart" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(title)}" {data} '
    f'data-unit="{unit}" data-plot="{LEFT} {RIGHT} {TOP} {BOTTOM}">{"".join(body)}</svg>'
  )


def _x_range(xs: list[float]) -> tuple[float, float]:
  return min(0, min(xs)), max(max(xs), min(xs) + 1e-9, 1e-9)


def _y_range(ys: list[float], log: bool) -> tuple[float, float]:
  """A little more than the values span."""
  low, high = min(ys), max(ys)
  if log:
    return low / 1.1, high * 1.1
  room = 0.06 * (high - low) or 0.05 * abs(high) or 0.5
  return (0.0 if 0 <= low < 0.35 * high else low - room), high + room


def _grid(x: Axis, y: Axis, x_range, y_range, across, up) -> list[str]:
  parts = []
  for value in ticks(y_range[0], y_range[1], 5, log=y.log):
    parts.append(
      f'<line class="grid" x1="{LEFT}" x2="{RIGHT}" y1="{up(value):.1f}" y2="{up(value):.1f}"/>'
      f'<text class="tick" text-anchor="end" x="{LEFT - 6}" y="{up(value) + 4:.1f}">{escape(y.form(value))}</text>'
    )
  for value in ticks(x_range[0], x_range[1], 4, times=x.form is duration):
    anchor = "end" if across(value) > RIGHT - 14 else "middle"
    parts.append(
      f'<text class="tick" text-anchor="{anchor}" x="{across(value):.1f}" '
      f'y="{BOTTOM + 17}">{escape(x.form(value))}</text>'
    )
  parts.append(f'<line class="axis" x1="{LEFT}" x2="{RIGHT}" y1="{BOTTOM}" y2="{BOTTOM}"/>')
  return parts


# Round stretches of time, in seconds.
_TIMES = (1, 2, 5, 10, 20, 30, 60, 120, 300, 600, 1800, 3600, 2 * 3600, 4 * 3600, 8 * 3600)


def ticks(low: float, high: float, most: int, *, log: bool = False, times: bool = False) -> list[float]:
  """Round values within [low, high], at most `most` of them (on a logarithmic axis some more, and never none).

  Args:
    low, high: of the axis, low < high.
    most: what there is room for.
    log: powers of ten, with 2 and 5 times them where there are few.
    times: values are seconds: minutes and hours instead of thousands.
  """
  if log:
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    within = lambda factors: [
      factor * 10.0**power for power in powers for factor in factors if low <= factor * 10.0**power <= high
    ]
    found = within((1, 2, 5))
    found = found if len(found) <= most + 2 else within((1,))
    return found[:: -(-len(found) // most) or 1] if len(found) > most + 2 else found or [low]
  unit = 86400.0 if times and high - low > most * _TIMES[-1] else 1.0
  power = math.floor(math.log10((high - low) / most / unit))
  bases = [unit * factor * 10.0 ** (power + more) for more in (0, 1) for factor in (1, 2, 5)] + [
    unit * 10.0 ** (power + 2)
  ]
  if times and _TIMES[0] * most <= high - low <= _TIMES[-1] * most:
    bases = list(_TIMES)
  within = lambda base: range(math.ceil(low / base - 1e-9), math.floor(high / base + 1e-9) + 1)
  base = next((base for base in bases if (high - low) / base <= most and len(within(base)) <= most), bases[-1])
  return [base * number for number in within(base)]


def thinned(points: Sequence[tuple[float, float]], columns: int) -> list[tuple[float, float]]:
  """At most two points for each of `columns` equal parts of the x axis: the lowest and the highest."""
  if len(points) <= 2 * columns:
    return list(points)
  first, last = points[0][0], points[-1][0]
  kept: dict[int, list[int]] = {}
  for index, (x, _) in enumerate(points):
    kept.setdefault(min(int((x - first) / (last - first) * columns), columns - 1), []).append(index)
  chosen = {0, len(points) - 1}
  for members in kept.values():
    by_height = lambda index: points[index][1]
    chosen |= {min(members, key=by_height), max(members, key=by_height)}
  return [points[index] for index in sorted(chosen)]


def _line(one: Series, across, up) -> list[str]:
  if not one.points:
    return []
  wide = (across(one.points[-1][0]) - across(one.points[0][0])) / (RIGHT - LEFT)
  points = thinned(one.points, max(math.ceil(_COLUMNS * wide), 1))
  placed = [f"{across(x):.1f},{up(y):.1f}" for x, y in points]
  parts = [f'<polyline class="{one.kind}" data-name="{escape(one.name)}" points="{" ".join(placed)}"/>']
  if one.kind == "eval" and len(points) <= 40 or len(points) == 1:
    for place in placed:
      x, y = place.split(",")
      parts.append(f'<circle class="{one.kind}" cx="{x}" cy="{y}" r="2.6"/>')
  return parts


def _legend(series: Sequence[Series], limit: Limit | None) -> list[str]:
  """At the top right; none for a single line."""
  entries = list({one.name: one.kind for one in series if one.points}.items())
  entries += [(limit.label, "limit")] if limit else []
  if len(entries) < 2:
    return []
  parts, x = [], float(RIGHT)
  for name, kind in reversed(entries):
    x -= 5.6 * len(name)
    parts.append(
      f'<text class="tick" x="{x:.0f}" y="14">{escape(name)}</text><line class="{kind}" x1="{x - 17:.0f}" '
      f'x2="{x - 4:.0f}" y1="10" y2="10"/>'
    )
    x -= 28
  return ['<g class="legend">', *parts, "</g>"]


def strip(spans: Sequence[tuple[str, float, float]], parts: Sequence[str], columns: int = 240) -> str:
  """What time went into, from left to right: an <svg> that stretches to any width, each column filled by shares.

  Args:
    spans: (part, begin, end) in order.
    parts: from the bottom up; each is a class of the style sheet, with "part-" before it.
    columns: how fine.
  """
  if not spans or spans[-1][2] <= spans[0][1]:
    return ""
  begin, width = spans[0][1], (spans[-1][2] - spans[0][1]) / columns
  filled = [dict.fromkeys(parts, 0.0) for _ in range(columns)]
  for part, start, end in spans:
    first, last = (start - begin) / width, (end - begin) / width
    for column in range(int(first), min(math.ceil(last), columns)):
      filled[column][part] += max(min(last, column + 1) - max(first, column), 0.0)
  paths: dict[str, list[str]] = {part: [] for part in parts}
  for column, shares in enumerate(filled):
    base, total = 0.0, sum(shares.values())
    for part in parts:
      if total and shares[part] > 0:
        height = 100 * shares[part] / total
        paths[part].append(f"M{column},{100 - base - height:.1f}h1v{height:.1f}h-1z")
        base += height
  drawn = "".join(f'<path class="part-{part}" d="{"".join(path)}"/>' for part, path in paths.items() if path)
  return (
    f'<svg class="strip" viewBox="0 0 {columns} 100" preserveAspectRatio="none" role="img" '
    f'aria-label="where the time went, from the first start on">{drawn}</svg>'
  )
