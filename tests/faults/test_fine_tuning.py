"""Fine-tuning and sentence embedding with real processes: the losses and the result of one, written once."""

import json
import random

import numpy as np
import pytest

from bert_jax.inference import model as inference
from bert_jax.training import metrics
from tests.faults.processes import events, run
from tests.helpers.tiny_runs import WORDS

TUNING = ("tuning.epochs=1", "data.batch_size=8", "optimizer.learning_rate=1e-3", "tuning.max_length=32")


@pytest.fixture(scope="module")
def model(folder, corpus):
  run(folder, corpus, "source", ("total_steps=2", "optimizer.warmup_steps=0"), count=1)
  return folder / "source"


@pytest.fixture(scope="module")
def pairs(folder):
  """Pairs of texts with a score: how many words they share. 90 of them, so that the last batch is not full."""
  rng, lines = random.Random(0), ["a,b,score"]
  for _ in range(90):
    first, second = (rng.sample(WORDS, rng.randint(2, 9)) for _ in "ab")
    lines.append(f"{' '.join(first)},{' '.join(second)},{len(set(first) & set(second)) + 0.5}")
  (folder / "pairs.csv").write_text("\n".join(lines))
  return folder / "pairs.csv"


def losses(workdir):
  return [line["train/loss"] for _, line in sorted(metrics.read_metrics(workdir).items()) if "train/loss" in line]


@pytest.mark.parametrize("command", ["finetune", "sentence-embedding"])
def test_two_processes_have_the_losses_and_the_result_of_one_and_export_its_model(
  folder, corpus, model, pairs, command
):
  """The sentence embedding is in-batch: its negatives come from both processes."""
  flags = [command, f"--model={model}", f"--data={pairs}", f"--dev={pairs}", "--text=a", "--text_pair=b"]
  keys = [*TUNING, "export.format=transformers"]
  if command == "finetune":
    flags.append("--label=score")
  else:
    flags.append("--objective=in-batch")
    keys.append("embedding.dev_columns=a,b,score")
  for name, count in (("one", 1), ("two", 2)):
    run(folder, corpus, f"{command}-{name}", keys, count=count, command=flags)
  one, two = folder / f"{command}-one", folder / f"{command}-two"
  assert len(losses(one)) > 10
  np.testing.assert_allclose(losses(two), losses(one), atol=1e-5, rtol=0)
  results = [json.loads((path / "result.json").read_text()) for path in (one, two)]
  assert results[0]["step"] == results[1]["step"]
  assert results[1]["metrics"]["spearman"] == pytest.approx(results[0]["metrics"]["spearman"], abs=1e-3)
  texts = ["the array", "a new file opens"]
  exported = [inference.encode(inference.load_model(path / "export"), texts, "mean").vectors for path in (one, two)]
  np.testing.assert_allclose(exported[0], exported[1], atol=1e-4)
  (start,) = events(two, "start")
  assert start["processes"] == 2
