"""A run folder as two attempts of a run leave it."""

import json
import math

import pytest

from bert_jax.data.corpus.folder import canonical_id
from bert_jax.training import metrics as metrics_module
from bert_jax.training.metrics import MetricsWriter


@pytest.fixture
def run_folder(tmp_path, monkeypatch):
  """A run of 400 steps in two attempts of 100 s each; the second went on from step 200."""
  now = [1000.0]
  monkeypatch.setattr(metrics_module.time, "time", lambda: now[0])
  counts = {"rows": 1000, "row_tokens": 100_000}
  manifest = {
    "format": "bert_jax corpus",
    "format_version": 2,
    "unigram_entropy": 6.75,
    "splits": {"train": {"counts": counts}},
  }
  manifest["corpus_id"] = canonical_id(manifest)
  (tmp_path / "corpus").mkdir()
  (tmp_path / "corpus" / "manifest.json").write_text(json.dumps(manifest))
  run = tmp_path / "run"
  (run / "checkpoints" / "400").mkdir(parents=True)
  config = {
    "data.corpus": str(tmp_path / "corpus"),
    "data.batch_size": 8,
    "total_steps": 400,
    "stop_at_step": 0,
    "log_every_steps": 50,
    "model.preset": "bert-tiny",
    "optimizer.name": "adamw",
    "seed": 3,
  }
  (run / "config.json").write_text(json.dumps(config))
  for attempt, steps in enumerate([range(50, 301, 50), range(250, 401, 50)]):
    with MetricsWriter(run, attempt) as writer:
      writer.event("start")
      if attempt:
        writer.event("verify", step=300, ok=False, reason="checksum")
        writer.event("restore", step=200)
      now[0] += 100 - len(steps)
      for step in steps:
        if step == 350:
          writer.event("skip", step=340, in_a_row=1)
        now[0] += 1
        writer.scalars(
          step, {"train/mlm_loss": 9 - step / 100, "train/nsp_accuracy": 0.5 + step / 2000, "tokens_per_second": 5000.0}
        )
        if step % 100 == 0:
          # The best evaluation is not the last one.
          loss = math.nan if step == 100 else 5.5 if step == 300 else 6.0
          writer.scalars(step, {"eval/mlm_loss": loss, "eval/nsp_accuracy": 0.7, "eval/nsp_majority": 0.52})
      if attempt:
        writer.event("finish", step=400)
    now[0] += 5000  # the machine was away
  return run
