"""Charts without a library: every value is where its axis says, and nothing in a text can break out of it."""

import math
import random
import xml.etree.ElementTree

import pytest

from bert_jax.tools.report import charts
from bert_jax.tools.report.charts import Axis, Limit, Series


def parsed(text):
  return xml.etree.ElementTree.fromstring(text)


def lines(chart):
  """name -> [(x, y)] in units of the chart."""
  return {
    line.get("data-name"): [tuple(map(float, point.split(","))) for point in line.get("points").split()]
    for line in chart.iter("polyline")
  }


@pytest.mark.parametrize("log", [False, True])
def test_values_can_be_read_back_from_the_chart(log):
  points = [(0.0, 0.5), (50.0, 20.0), (100.0, 4.0)]
  chart = parsed(charts.chart("t", [Series("one", "train", points)], y=Axis(charts.number, log)))
  left, right, top, bottom = map(float, chart.get("data-plot").split())
  (x0, x1), (y0, y1) = (tuple(map(float, chart.get(name).split())) for name in ("data-x", "data-y"))
  assert chart.get("data-log") == str(int(log))
  for (x, y), (across, up) in zip(points, lines(chart)["one"], strict=True):
    assert x0 + (across - left) / (right - left) * (x1 - x0) == pytest.approx(x, abs=0.1)
    value = y0 + (bottom - up) / (bottom - top) * (y1 - y0)
    assert (10**value if log else value) == pytest.approx(y, rel=0.02, abs=0.02)


def test_a_value_that_is_not_positive_makes_an_axis_linear():
  assert (
    parsed(charts.chart("t", [Series("one", "train", [(1, 0.0), (2, 5.0)])], y=Axis(charts.number, log=True))).get(
      "data-log"
    )
    == "0"
  )


def test_nothing_to_draw_is_no_chart_and_a_single_value_is_a_dot():
  assert charts.chart("t", [Series("one", "train", [])]) == ""
  for value in (0.0, 5.0, -3.0, 1e-30, 1e30):
    chart = parsed(charts.chart("t", [Series("one", "train", [(0, value)])]))
    assert len(list(chart.iter("circle"))) == 1
    assert all(charts.LEFT <= x <= charts.RIGHT and charts.TOP <= y <= charts.BOTTOM for x, y in lines(chart)["one"])


def test_long_lines_are_thinned_and_keep_their_peaks():
  points = [(step, math.sin(step / 5000)) for step in range(100_000)]
  points[54_321] = (54_321, 9.0)
  points[1234] = (1234, -9.0)
  kept = charts.thinned(points, 300)
  assert len(kept) <= 2 * 300 + 2
  assert {points[54_321], points[1234], points[0], points[-1]} <= set(kept)
  assert kept == sorted(kept)
  assert len(charts.chart("t", [Series("one", "train", points)])) < 12_000
  pieces = [Series("one", "train", points[start : start + 1000]) for start in range(0, 100_000, 1000)]
  assert len(charts.chart("t", pieces)) < 30_000


def test_ticks_are_round_few_and_within_the_axis():
  draw = random.Random(0)
  for _ in range(2000):
    low = draw.choice([0.0, draw.uniform(-1000, 1000), draw.uniform(0, 1)])
    high = low + 10 ** draw.uniform(-6, 9)
    for most in (4, 5):
      found = charts.ticks(low, high, most)
      span = high - low
      assert 1 <= len(found) <= most, (low, high)
      assert all(low - 1e-6 * span <= tick <= high + 1e-6 * span for tick in found)
  assert charts.ticks(0, 3000, 4) == [0, 1000, 2000, 3000]
  assert charts.ticks(0.4, 21, 5, log=True) == pytest.approx([0.5, 1, 2, 5, 10, 20])
  assert charts.ticks(1.1, 1.3, 5, log=True)
  assert charts.ticks(0, 128, 4, times=True) == [0, 60, 120]
  assert charts.ticks(0, 30 * 86400, 4, times=True) == [0, 10 * 86400, 20 * 86400, 30 * 86400]
  assert charts.ticks(0, 0.4, 4, times=True) == pytest.approx([0, 0.2, 0.4])


def test_a_legend_names_each_kind_once_and_a_single_line_needs_none():
  series = [
    Series("train", "train", [(1, 1.0)]),
    Series("train", "train", [(2, 1.0)]),
    Series("validation", "eval", [(1, 2.0)]),
  ]
  chart = charts.chart("t", series, limit=Limit(1.5, "unigrams"))
  legend = chart[chart.index("legend") :]
  assert [legend.count(f">{name}<") for name in ("train", "validation", "unigrams")] == [1, 1, 1]
  assert "legend" not in charts.chart("t", series[:1])


def test_no_text_can_break_out():
  evil = '"><script>alert(1)</script>&\x00\ud800'
  chart = parsed(
    charts.chart(evil, [Series(evil, "train", [(1, 1.0), (2, 2.0)])], limit=Limit(1.0, evil), marks=[(1, evil)])
  )
  assert not list(chart.iter("script"))
  title = next(text for text in chart.iter("text") if text.get("class") == "title")
  assert title.text == '"><script>alert(1)</script>&�?'
  assert charts.escape("中文 <b>") == "中文 &lt;b&gt;"


def test_the_strip_fills_every_column_by_shares():
  spans = [("useful", 0.0, 30.0), ("down", 30.0, 40.0), ("useful", 40.0, 41.0), ("lost", 41.0, 100.0)]
  strip = parsed(charts.strip(spans, ("useful", "lost", "down"), columns=10))
  heights = {path.get("class"): path.get("d") for path in strip.iter("path")}
  assert heights["part-down"] == "M3,0.0h1v100.0h-1z"
  assert heights["part-useful"].startswith("M0,0.0h1v100.0h-1zM1") and heights["part-useful"].endswith(
    "M4,90.0h1v10.0h-1z"
  )
  assert heights["part-lost"].startswith("M4,0.0h1v90.0h-1zM5") and heights["part-lost"].count("M") == 6
  assert charts.strip([], ("useful",)) == "" and charts.strip([("useful", 5.0, 5.0)], ("useful",)) == ""


@pytest.mark.parametrize(
  "form, value, text",
  [
    (charts.number, 0.00002, "2e-05"),
    (charts.number, 5.123, "5.12"),
    (charts.number, 48_000, "48k"),
    (charts.percent, 0.125, "12.5%"),
  ],
)
def test_numbers_are_short(form, value, text):
  assert form(value) == text
