"""The picture of a run's curves stands alone: every chart in its place, no color left to a page's style sheet."""

import re
import xml.etree.ElementTree

import pytest

from bert_jax.errors import UserError
from bert_jax.tools.report import charts, figures, page, style, summary

SVG = "{http://www.w3.org/2000/svg}"


def test_the_picture_holds_all_curves_of_the_page_and_none_lies_on_another(run_folder):
  run = summary.read_run(run_folder)
  for record in run.metrics.values():
    record["learning_rate"] = 1e-4
  picture = xml.etree.ElementTree.fromstring(figures.curves(run))
  wanted = [chart for chart in page.curves(run) if chart]
  found = picture.findall(f"{SVG}svg")
  title = lambda chart: chart.find(f"{SVG}text[@class='title']").text
  assert [title(chart) for chart in found] == ["MLM loss (nats)", "NSP accuracy", "Learning rate"] and len(wanted) == 3
  assert all(chart.findall(f"{SVG}polyline[@class='train']") for chart in found)
  places = [(float(chart.get("x")), float(chart.get("y"))) for chart in found]
  for x, y in places:
    assert (
      0 <= x <= float(picture.get("width")) - charts.WIDTH and 0 <= y <= float(picture.get("height")) - charts.HEIGHT
    )
    assert sum(abs(x - a) < charts.WIDTH and abs(y - b) < charts.HEIGHT for a, b in places) == 1


def test_the_colors_of_the_picture_are_those_of_the_page_in_the_light(run_folder):
  text = figures.curves(summary.read_run(run_folder))
  assert "var(" not in text and not re.search("https?://(?!www.w3.org/2000/svg)", text)
  for name in ("train", "eval", "limit"):
    assert f"stroke: {style.COLORS[name][0]}" in text and f"stroke: var(--{name})" in style.STYLE


def test_another_kind_of_file_is_refused_with_the_remedy(run_folder, tmp_path):
  with pytest.raises(UserError, match=r"curves.png: expected a file name ending in .svg; `rsvg-convert"):
    figures.check_name(str(tmp_path / "curves.png"))
  figures.check_name("CURVES.SVG")
