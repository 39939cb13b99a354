"""The report of a run: its figures agree with what the run wrote, and its picture can be looked at."""

import argparse
import errno
import json
import math
import os

import matplotlib.figure
import matplotlib.image
import pytest

from bert_jax.commands import report as command
from bert_jax.data.corpus import canonical_id
from bert_jax.errors import UserError
from bert_jax.tools import report
from bert_jax.training import metrics as metrics_module
from bert_jax.training.metrics import MetricsWriter


@pytest.fixture
def run_folder(tmp_path, monkeypatch):
  """A run of 400 steps in two attempts of 100 s each; the second went on from step 200."""
  now = [1000.0]
  monkeypatch.setattr(metrics_module.time, "time", lambda: now[0])
  counts = {"rows": 1000, "row_tokens": 100_000}
  manifest = {"format": "bert_jax corpus", "format_version": 2, "unigram_entropy": 6.75,
              "splits": {"train": {"counts": counts}}}  # fmt: skip
  manifest["corpus_id"] = canonical_id(manifest)
  (tmp_path / "corpus").mkdir()
  (tmp_path / "corpus" / "manifest.json").write_text(json.dumps(manifest))
  run = tmp_path / "run"
  (run / "checkpoints" / "400").mkdir(parents=True)
  config = {"data.corpus": str(tmp_path / "corpus"), "data.batch_size": 8, "total_steps": 400,
            "stop_at_step": 0, "log_every_steps": 50, "model.preset": "bert-tiny", "optimizer.name": "adamw",
            "seed": 3}  # fmt: skip
  (run / "config.json").write_text(json.dumps(config))
  for attempt, steps in enumerate([range(50, 301, 50), range(250, 401, 50)]):
    with MetricsWriter(run, attempt) as writer:
      writer.event("start")
      if attempt:
        writer.event("verify", step=300, ok=False, reason="checksum")
        writer.event("restore", step=200)
      now[0] += 100
      for step in steps:
        writer.scalars(step, {
            "train/mlm_loss": 9 - step / 100, "train/nsp_accuracy": 0.5 + step / 2000,
            "train/skipped_steps": float(step == 350), "tokens_per_second": 5000.0,
        })  # fmt: skip
        if step % 100 == 0:
          # The best evaluation is not the last one.
          loss = math.nan if step == 100 else 5.5 if step == 300 else 6.0
          writer.scalars(step, {"eval/mlm_loss": loss, "eval/nsp_accuracy": 0.7, "eval/nsp_majority": 0.52})
      if attempt:
        writer.event("finish", step=400)
    now[0] += 5000  # the machine was away
  return run


def facts(text):
  return {line[:20].strip(): line[20:].strip() for line in text.splitlines() if line}


def test_the_summary_tells_what_the_run_wrote(run_folder):
  told = facts(report.summary(report.read_run(run_folder)))
  assert told["steps"] == "400 of 400, finished"
  assert told["tokens seen"] == "320,000 in 3,200 rows: 3.20 passes over the corpus"
  assert told["speed"] == "5,000 tokens/s (median)"
  assert told["time"] == "0:03:20 (h:mm:ss)"  # two times 100 s, without the time between them
  assert told["attempts"] == "2, restored at step 200"
  assert told["bad checkpoints"] == "step 300 (checksum)"
  assert told["skipped updates"] == "1, not finite"
  assert told["mlm_loss"].split() == ["5.000", "nats", "6.000", "nats", "5.500", "nats", "at", "300"]
  assert told["nsp_accuracy"].split() == ["70.0%", "70.0%", "70.0%", "at", "100"]
  assert told["majority share"].startswith("52.0%")
  assert told["unigram entropy"].split("   ") == ["6.750 nats", "(eval/mlm_loss is 0.75 below)"]
  assert told["checkpoints"] == f"{run_folder / 'checkpoints'}  (steps 400)"
  assert "perplexity" not in told and "Hugging Face folder" not in told


def test_a_run_that_goes_on_without_its_corpus_is_told_as_far_as_known(run_folder):
  (run_folder.parent / "corpus" / "manifest.json").unlink()
  (run_folder / "events" / "attempt-0001.jsonl").unlink()
  told = facts(report.summary(report.read_run(run_folder)))
  assert told["steps"] == "400 of 400" and told["attempts"] == "1"
  assert "unigram entropy" not in told and "tokens seen" not in told


@pytest.mark.parametrize("ending", report.FIGURE_FORMATS)
def test_the_picture_is_drawn_whole(run_folder, tmp_path, ending):
  out = tmp_path / f"curves{ending}"
  report.plot_curves(report.read_run(run_folder), out)
  assert out.stat().st_size > 5000 and not (tmp_path / f"curves{ending}.partial").exists()
  if ending == ".png":
    picture = matplotlib.image.imread(out)[..., :3]
    assert picture.shape == (570, 1500, 3)
    for color in (report.TRAIN_COLOR, report.EVAL_COLOR, report.LIMIT_COLOR):
      wanted = [int(color[i : i + 2], 16) / 255 for i in (1, 3, 5)]
      for panel in (picture[:, :750], picture[:, 750:]):
        pixels = abs(panel - wanted).max(axis=-1) < 0.02
        assert pixels.any(axis=0).sum() > 250, color  # wider than the legend's line of 50


def test_a_picture_that_cannot_be_finished_leaves_the_old_one(run_folder, tmp_path, monkeypatch):
  out = tmp_path / "curves.png"
  out.write_bytes(b"the old picture")

  def full(self, path, **_):
    with open(path, "wb") as file:
      file.write(b"half")
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

  monkeypatch.setattr(matplotlib.figure.Figure, "savefig", full)
  with pytest.raises(UserError, match="No space left"):
    report.plot_curves(report.read_run(run_folder), out)
  assert out.read_bytes() == b"the old picture"


def test_without_nsp_there_is_one_panel(run_folder, tmp_path):
  run = report.read_run(run_folder)
  for record in run.metrics.values():
    record.pop("train/nsp_accuracy", None)
  report.plot_curves(run, tmp_path / "curves.png")
  assert matplotlib.image.imread(tmp_path / "curves.png").shape[:2] == (570, 900)


def test_what_cannot_be_reported_is_refused_with_the_remedy(run_folder, tmp_path):
  run = report.read_run(run_folder)
  with pytest.raises(UserError, match="expected a file name ending in .png"):
    report.plot_curves(run, tmp_path / "curves.jpg")
  with pytest.raises(UserError, match="cannot write .*No such file or directory"):
    report.plot_curves(run, tmp_path / "missing" / "curves.png")
  with pytest.raises(UserError, match="expected a run folder"):
    report.read_run(tmp_path)
  (tmp_path / "empty").mkdir()
  (tmp_path / "empty" / "config.json").write_text('{"log_every_steps": 50}')
  with pytest.raises(UserError, match="not logged a step yet; it does so every 50 steps"):
    report.read_run(tmp_path / "empty")


def test_the_command_prints_the_summary_and_says_where_the_picture_is(run_folder, tmp_path, capsys):
  parser = argparse.ArgumentParser()
  command.add_arguments(parser)
  out = tmp_path / "curves.svg"
  command.run(parser.parse_args([f"--workdir={run_folder}", f"--plot={out}"]))
  told = facts(capsys.readouterr().out)
  assert told["steps"] == "400 of 400, finished" and told["picture"] == str(out)
  assert out.read_text().startswith("<?xml")
