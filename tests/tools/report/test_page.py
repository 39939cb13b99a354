"""The page of a run: whole by itself, complete, and nothing that a run holds can break out of its text."""

import argparse
import errno
import html.parser
import json
import math
import os
import re

import pytest

from bert_jax import config as configs
from bert_jax.commands import report as command
from bert_jax.errors import UserError
from bert_jax.inference.model import Completion
from bert_jax.io import atomic
from bert_jax.tools.report import page as report_page
from bert_jax.tools.report import summary
from bert_jax.tools.report.samples import Sample, Samples
from tests.helpers.run_history import Log, begun, killed_between_saves

NONE = Samples(None, [], "not requested")
VOID = {"meta", "br"}


class Page(html.parser.HTMLParser):
  """Reads a page strictly: every element is closed in its order."""

  def __init__(self, text):
    super().__init__()
    self.open, self.elements, self.texts = [], [], []
    self.feed(text)
    self.close()
    assert not self.open

  def handle_starttag(self, tag, attributes):
    self.elements.append((tag, dict(attributes)))
    assert len(dict(attributes)) == len(attributes), tag
    if tag not in VOID:
      self.open.append(tag)

  def handle_startendtag(self, tag, attributes):
    self.elements.append((tag, dict(attributes)))

  def handle_endtag(self, tag):
    assert self.open.pop() == tag

  def handle_data(self, data):
    if self.open and self.open[-1] not in ("style", "script"):
      self.texts.append(data)

  @property
  def text(self):
    return re.sub(r"\s+", " ", " ".join(self.texts))

  def count(self, tag, **attributes):
    return sum(name == tag and attributes.items() <= found.items() for name, found in self.elements)

  @property
  def charts(self):
    return [found["aria-label"] for name, found in self.elements if name == "svg" and found["class"] == "chart"]


def page_of(log, folder, drawn=NONE, **config):
  return Page(report_page.report_page(summary.read_run(log.write(folder, **config)), drawn))


def test_the_page_has_all_that_it_promises(run_folder):
  samples = Samples(
    400,
    [
      Sample(
        ["a", "small", "test", "."],
        [1],
        [[Completion("small", 7, 0.5), Completion("big", 8, 0.25), Completion("odd", 9, 0.1)]],
      )
    ],
    "",
  )
  page = Page(report_page.report_page(summary.read_run(run_folder), samples))
  assert page.charts == ["MLM loss (nats)", "NSP accuracy", "Tokens per second, without padding", "Step over time"]
  for section in ("Curves", "Throughput", "Goodput", "Restarts", "What happened", "Samples", "Configuration"):
    assert section in page.texts
  assert "3.8% of 1:26:40 (h:mm:ss) went into steps that count" in page.text
  assert "killed without a word" in page.text and "step 340 skipped" in page.text
  assert "checkpoint of step 300: checksum; set aside" in page.text
  assert "a 1 test." in page.text and "truth: small" in page.text and page.count("span", **{"class": "hit"}) == 1
  assert page.count("svg", **{"class": "strip"}) == 1


def test_every_key_of_the_config_is_shown_those_that_differ_first(tmp_path):
  config = json.loads(configs.to_json(configs.default_config()))
  page = page_of(killed_between_saves(), tmp_path, **config | {"data.mixture": "语料=1", "seed": 3, "total_steps": 400})
  keys = [text for text in page.texts if text in configs.KEYS]
  assert sorted(keys) == sorted(configs.KEYS)
  first = page.texts[: page.texts.index(f"{len(config) - keys.index('stop_at_step')} keys at their defaults")]
  assert {"data.mixture", "seed", "total_steps"} <= set(first) and "语料=1" in first
  assert "optimizer.b1" not in first and configs.meaning("seed") in page.text


def test_the_page_needs_nothing_from_outside(run_folder):
  text = report_page.report_page(summary.read_run(run_folder), NONE)
  page = Page(text)
  assert not page.count("link") and not page.count("img") and not page.count("iframe")
  assert all(not {"src", "href", "srcset"} & found.keys() for _, found in page.elements)
  assert set(re.findall(r"https?://[^\"' ]+", text)) <= {
    "http://www.w3.org/2000/svg"
  }  # a name, not an address that is read
  assert "url(" not in text and "@import" not in text
  assert page.count("meta", charset="utf-8") == 1 and page.count("meta", name="viewport") == 1
  assert "prefers-color-scheme: dark" in text


EVIL = "\"><img src=x onerror=alert(1)><script>alert(1)</script>'&amp;</style>\x00\ud800"


def test_nothing_in_a_run_can_break_out_of_its_text(tmp_path):
  log = Log()
  log(0, "start", devices=1, device_kind=EVIL, processes=2)
  log(1, "first_step", 1)
  log(1, "train", 10, **{"hosts/slowest": 1.0, "hosts/slowest_seconds": 0.3, "hosts/median_seconds": 0.2})
  log(1, "slow_host", 10, process=EVIL, host=EVIL, seconds=0.3, median=0.2)
  log(1, "slow_host", 10, process=1, host=EVIL, seconds=0.3, median=0.2)
  log(1, "verify", 10, ok=False, reason=EVIL, set_aside=EVIL)
  log(1, "save_passed_over", 10, because=EVIL)
  log(1, "jump", 10, position=EVIL, to=EVIL)
  log(1, "stall", process=EVIL, seconds=3.0)
  log(1, "start")
  log(1, "fail", message=EVIL)
  drawn = Samples(10, [Sample([EVIL, "⟦1⟧", EVIL], [0], [[Completion(EVIL, 1, 0.5)]])], "")
  plain = Page(report_page.report_page(summary.read_run(killed_between_saves().write(tmp_path / "plain")), NONE))
  folder = tmp_path / "<b>run&"
  config = {"model.preset": EVIL, "optimizer.name": EVIL, "data.corpus": EVIL, EVIL: EVIL}
  for shown in (drawn, Samples(None, [], EVIL)):
    page = page_of(log, folder, shown, **config)
    assert page.count("script") == plain.count("script") == 1
    assert not page.count("img") and not page.count("b", **{"class": "run"}) and page.count("style") == 1
    assert not any(name.startswith("on") for _, found in page.elements for name in found)
    assert "<script>alert(1)</script>" in page.text
  report_page.report_page(summary.read_run(folder), drawn).encode("utf-8")


def test_chinese_text_is_kept(tmp_path):
  sample = Sample(["今", "天", "很", "好"], [1], [[Completion("天", 5, 0.9)]])
  log = killed_between_saves()
  log(1, "fail", message="磁盘已满")
  text = report_page.report_page(summary.read_run(log.write(tmp_path)), Samples(3, [sample], ""))
  assert "今<mark>1</mark>很好" in text and "<span class=hit>天</span>" in text and "磁盘已满" in text


def test_curves_show_the_steps_that_count_and_where_the_run_went_back_to(tmp_path):
  log = killed_between_saves()
  log.lines[1]["train/mlm_loss"] = 77.0  # of step 30, done in vain
  log(1, "rollback", 25, from_step=30)
  log.window(5, 28)
  text = report_page.report_page(summary.read_run(log.write(tmp_path)), NONE)
  loss = text[text.index('aria-label="MLM loss (nats)"') :].split("</svg>")[0]
  low, high = map(float, re.search(r'data-y="(\S+) (\S+)"', loss).groups())
  assert high < 10
  assert loss.count('class="mark"') == 2
  assert (
    "attempt 1 resumed from step 20: the one before was killed without a word" in loss
    and "rollback from step 30 to 25" in loss
  )
  climb = text[text.index('aria-label="Step over time"') :].split("</svg>")[0]
  assert 'data-name="in vain"' in climb and 'data-time="1"' in climb


def test_a_run_of_one_attempt_that_goes_on_is_shown(tmp_path):
  log = Log()
  begun(log)
  log.window(5, 10)
  page = page_of(log, tmp_path)
  assert (
    "None: one attempt so far." in page.text
    and "last sign of life" in page.text
    and "None: not requested." in page.text
  )
  assert "What happened" not in page.texts and "Dotted" not in page.text


def test_an_only_attempt_that_failed_tells_why(tmp_path):
  log = Log()
  begun(log)
  log.window(5, 10)
  log(1, "fail", message="no space left on device")
  assert "no space left on device" in page_of(log, tmp_path).text


def test_a_run_without_events_or_numbers_is_shown_as_far_as_known(tmp_path):
  log = Log()
  begun(log)
  log(1, "train", 10, tokens_per_second=None, mfu=math.nan)
  log.lines[-1]["train/mlm_loss"] = None
  log.events.clear()
  page = page_of(log, tmp_path)
  assert page.charts == [] and "Goodput" not in page.texts and "Configuration" in page.texts


def test_the_wait_for_data_is_a_share_of_the_window(tmp_path):
  log = Log()
  begun(log)
  log.window(5, 10, data_wait=1.0, step=3.0, evaluation=1.0)
  log(5, "train", 20, data_wait_fraction=0.5)
  text = report_page.report_page(summary.read_run(log.write(tmp_path)), NONE)
  chart = text[text.index('aria-label="Waiting for data') :].split("</svg>")[0]
  y0, y1 = map(float, re.search(r'data-y="(\S+) (\S+)"', chart).groups())
  heights = [float(point.split(",")[1]) for point in re.search(r'polyline[^>]* points="([^"]*)"', chart)[1].split()]
  top, bottom = map(float, re.search(r'data-plot="\S+ \S+ (\S+) (\S+)"', chart).groups())
  assert [y0 + (bottom - height) / (bottom - top) * (y1 - y0) for height in heights] == pytest.approx(
    [0.2, 0.5], abs=0.01
  )


def test_a_page_of_a_long_run_stays_small(tmp_path):
  log = Log()
  for attempt in range(30):
    begun(log, attempt * 1000)
    for step in range(attempt * 1000 + 10, attempt * 1000 + 1001, 10):
      log(
        3,
        "train",
        step,
        **{"train/mlm_accuracy": 0.1, "train/grad_norm": 1.0, "learning_rate": 1e-4, "tokens_per_second": 5e4},
      )
    log(1, "save", step)
    log(100, "skip", step + 1, in_a_row=1)
  text = report_page.report_page(summary.read_run(log.write(tmp_path)), NONE)
  assert len(text) < 250_000
  assert Page(text).text.count("killed without a word") > 20


def test_a_page_that_cannot_be_written_is_refused_with_the_remedy_and_leaves_the_old_one(
  run_folder, tmp_path, monkeypatch
):
  write = lambda path: run_command(f"--workdir={run_folder}", f"--html={path}", "--samples=0")
  with pytest.raises(UserError, match="cannot write --html=.*No such file or directory; choose another place"):
    write(tmp_path / "missing" / "report.html")
  with pytest.raises(UserError, match="cannot write --html=.*Is a directory"):
    write(tmp_path)
  (tmp_path / "report.html").write_text("the old page")

  def read_only(*_):
    raise OSError(errno.EROFS, os.strerror(errno.EROFS))

  monkeypatch.setattr(atomic.os, "replace", read_only)
  with pytest.raises(UserError, match="cannot write --html=.*Read-only file system; choose another place"):
    write(tmp_path / "report.html")
  assert (tmp_path / "report.html").read_text() == "the old page"


def run_command(*arguments):
  parser = argparse.ArgumentParser()
  command.add_arguments(parser)
  command.run(parser.parse_args(arguments))


def test_the_command_writes_the_page_into_the_run_folder_and_says_so(run_folder, tmp_path, capsys):
  run_command(f"--workdir={run_folder}")
  told = capsys.readouterr().out
  assert told.endswith(f"page                {run_folder / 'report.html'}\n")
  assert "steps               400 of 400, finished" in told
  assert "samples             none: " in told
  assert Page((run_folder / "report.html").read_text(encoding="utf-8")).charts


def test_the_command_puts_page_and_picture_where_it_is_told(run_folder, tmp_path, capsys):
  run_command(f"--workdir={run_folder}", f"--html={tmp_path / 'a.html'}", f"--plot={tmp_path / 'a.svg'}", "--samples=0")
  told = capsys.readouterr().out
  assert f"picture             {tmp_path / 'a.svg'}\n" in told and told.endswith(
    f"page                {tmp_path / 'a.html'}\n"
  )
  assert (tmp_path / "a.svg").read_text().startswith("<svg") and not (run_folder / "report.html").exists()
  with pytest.raises(UserError, match="--samples=-1: 0 or more"):
    run_command(f"--workdir={run_folder}", "--samples=-1")
