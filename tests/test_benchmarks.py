"""The benchmarks run, and print what they say they measure."""

import pathlib
import re
import subprocess
import sys

import pytest

from bert_jax.data import prepare
from tests.prepare_fixtures import settings, source, vocab  # noqa: F401  (fixtures)

ROOT = pathlib.Path(__file__).resolve().parents[1]


def output_of(script: str, *flags: str) -> str:
  command = [sys.executable, f"benchmarks/{script}.py", *flags]
  done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
  assert done.returncode == 0, done.stderr
  return done.stdout


def table_of(text: str) -> dict[str, list[float]]:
  """The numbers of every line, by what the line begins with."""
  rows = [re.match(r"(.+?)  +(\d.*)", line) for line in text.splitlines()]
  return {row[1]: [float(number) for number in re.findall(r"[\d.]+", row[2])] for row in rows if row}


@pytest.mark.slow
@pytest.mark.parametrize("tokenizer", ["given", "trained"])
def test_the_benchmark_of_prepare_compares_rates_and_cleans_up(source, vocab, tmp_path, tokenizer):  # noqa: F811
  scratch = tmp_path / "scratch"
  scratch.mkdir()
  given = [f"--tokenizer={vocab}"] if tokenizer == "given" else []
  text = output_of("prepare", f"--source={source}", "--workers=2", "--rounds=2", f"--scratch={scratch}", *given)
  table = table_of(text)
  assert {"round 1", "round 2", "median", "from–to", "CPU s/MB"} <= set(table), text
  for name in ("round 1", "round 2"):
    threads, processes, prepared, share = table[name]
    # Rates are printed with two decimals; text as short as this takes `prepare` a second and the tokenizer nothing.
    assert threads > 0 and processes > 0 and share == pytest.approx(100 * prepared / max(threads, processes), abs=5)
  assert not list(scratch.iterdir())
  if sys.platform == "linux":
    assert re.search(r"peak memory of prepare: parent \d+ MiB", text)


@pytest.mark.slow
def test_the_benchmark_of_the_loaders_measures_both(source, vocab, tmp_path):  # noqa: F811
  prepare.prepare_corpus([source], tmp_path / "corpus", settings(vocab))
  text = output_of("loader", f"--corpus={tmp_path}/corpus", "--batch_size=8", "--seconds=0.2", "--rounds=2")
  table = table_of(text)
  for loader in ("tfdata", "threads"):
    rounds = [table[f"{loader}, {name}"] for name in ("round 1", "round 2", "median")]
    assert all(len(numbers) == 4 and min(numbers[:2]) > 0 for numbers in rounds), text
    assert rounds[2][0] == pytest.approx((rounds[0][0] + rounds[1][0]) / 2, abs=0.11)
