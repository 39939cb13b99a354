"""The results of a suite as a picture: bars with standard errors, and where BERT-base stands."""

import math
import pathlib
from collections.abc import Sequence

from bert_jax.runs.suite import TaskResult, percent
from bert_jax.tools.report.charts import escape, picture


def plot(results: Sequence[TaskResult], model: str) -> str:
  """Bars with standard errors, one for each task, and a mark where BERT-base stands, as an SVG of its own."""
  row_height, left, width = 30, 150, 640
  height = 60 + row_height * len(results)
  across = lambda share: left + (width - left - 90) * min(max(share, 0.0), 1.0)
  parts = [
    f'<text x="12" y="24" font-size="15" font-weight="600">{escape(pathlib.PurePath(model).name)}, fine-tuned: mean ± '
    "standard error, in "
    "percent</text>"
  ]
  for number, one in enumerate(results):
    y, published = 44 + row_height * number, one.published
    parts.append(
      f'<text x="{left - 8}" y="{y + 15}" text-anchor="end">{escape(one.task)} <tspan fill="#777" '
      f'font-size="11">{escape(one.metric)}</tspan></text>'
    )
    parts.append(f'<rect x="{left}" y="{y}" width="{across(one.mean) - left:.1f}" height="20" rx="2" fill="#8fb4d9"/>')
    if not math.isnan(one.error):
      low, high = across(one.mean - one.error), across(one.mean + one.error)
      parts.append(
        f'<path d="M{low:.1f} {y + 10}H{high:.1f}M{low:.1f} {y + 5}v10M{high:.1f} {y + 5}v10" stroke="#1a4e8a" '
        'stroke-width="1.6"/>'
      )
    if published:
      at = across(published.value)
      parts.append(
        f'<path d="M{at:.1f} {y - 2}v24" stroke="#c0392b" stroke-width="2"><title>BERT-base '
        f"{100 * published.value:.1f} "
        f"({published.split})</title></path>"
      )
    parts.append(f'<text x="{width - 78}" y="{y + 15}">{percent(one)}</text>')
  parts.append(
    f'<text x="{left}" y="{height - 6}" font-size="11" fill="#777">red: BERT-base as published, mostly on test splits '
    "that are not "
    "public</text>"
  )
  return picture(width, height, parts)
