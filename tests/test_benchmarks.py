"""The benchmarks run, and print what they say they measure."""

import importlib.util
import pathlib
import re
import subprocess
import sys

import pytest

from bert_jax import __main__ as command_line
from bert_jax import config as configs
from bert_jax.data.corpus import prepare
from bert_jax.models import attention
from tests.helpers.preparing import settings

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
def test_the_benchmark_of_prepare_compares_rates_and_cleans_up(source, vocab, tmp_path, tokenizer):
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
def test_the_benchmark_of_the_loaders_measures_both(source, vocab, tmp_path):
  prepare.prepare_corpus([source], tmp_path / "corpus", settings(vocab))
  text = output_of("loader", f"--corpus={tmp_path}/corpus", "--batch_size=8", "--seconds=0.2", "--rounds=2")
  table = table_of(text)
  for loader in ("tfdata", "threads"):
    rounds = [table[f"{loader}, {name}"] for name in ("round 1", "round 2", "median")]
    assert all(len(numbers) == 4 and min(numbers[:2]) > 0 for numbers in rounds), text
    assert rounds[2][0] == pytest.approx((rounds[0][0] + rounds[1][0]) / 2, abs=0.11)


def script(name: str):
  spec = importlib.util.spec_from_file_location(f"benchmarks_{name}", ROOT / "benchmarks" / f"{name}.py")
  module = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(module)
  return module


@pytest.mark.slow
def test_the_benchmark_of_the_parts_measures_each_forward_and_with_gradients():
  tiny = ["--config.model.preset=bert-tiny", "--config.prepare.seq_length=32", "--config.data.batch_size=2"]
  table = table_of(output_of("parts", *tiny, "--rounds=2", "--seconds=0.01", "--sequences=2"))
  for part in ("embeddings", "attention, xla", "feed-forward, residual, LayerNorm", "LayerNorm", "MLM head and loss"):
    assert table[part][0] > 0 and table[f"{part}, gradients"][0] > 0, part
  assert {"loader: one batch", "masking, positions, segments", "optimizer, all parameters"} <= set(table)
  rate = 3 * 4 * 2 * 32 * 128 * 512 / (table["feed-forward, residual, LayerNorm, gradients"][0] * 1e-3) / 1e12
  assert table["feed-forward, residual, LayerNorm, gradients"][3] == pytest.approx(rate, abs=0.0006)


def with_kernel(monkeypatch, attend):
  monkeypatch.setattr(attention, "KERNELS", {"mine": attention.Kernel("cpu", attend)})
  monkeypatch.setattr(attention, "IMPLEMENTATIONS", ("xla", "mine"))


def test_the_check_of_kernels_passes_one_that_computes_the_rule_and_fails_one_that_sees_a_neighbour(
  monkeypatch, capsys
):
  kernels = script("kernels")
  monkeypatch.setattr(kernels, "LENGTHS", (128,))
  rule = lambda query, key, value, segments, lengths, window: attention.xla_attention(query, key, value, segments)
  with_kernel(monkeypatch, rule)
  assert kernels.main() == 0 and "mine, bfloat16" in capsys.readouterr().out
  with_kernel(
    monkeypatch, lambda query, key, value, segments, *_: rule(query, key, value, segments.at[:, 50].set(1), None, None)
  )
  assert kernels.main() == 1 and "WRONG" in capsys.readouterr().out


@pytest.mark.parametrize("platform", ["gpu", "tpu", "cpu"])
def test_the_jobs_of_an_accelerator_are_commands_and_configs_that_exist(platform, tmp_path):
  accelerator = script("accelerator")
  names = []
  for job in accelerator.jobs(platform, "corpus", tmp_path):
    names.append(job.name)
    if job.words[0] != "-m":
      assert (ROOT / job.words[0]).exists()
      continue
    parser = command_line.make_parser(only=job.words[2])
    options, rest = parser.parse_known_args(job.words[2:])
    overrides = [word.removeprefix("--config.") for word in rest]
    assert all(word.startswith("--config.") for word in rest)
    for changes in ["", *getattr(options, "against", [])]:
      configs.load_config(str(ROOT / options.config), [*overrides, *filter(None, changes.split(","))])
  assert names[0] == "kernels" and len(set(names)) == len(names) and "curve-float32" in names
  assert not [job for job in accelerator.jobs(platform, "", tmp_path) if job.name.startswith("curve")]


@pytest.mark.slow
def test_an_accelerator_is_measured_in_one_call_and_what_there_is_no_time_for_is_said(tmp_path):
  tiny = ["--config.model.preset=bert-tiny", "--config.prepare.seq_length=32", "--rounds=1", "--seconds=0.01"]
  text = output_of("accelerator", f"--out={tmp_path}", "--minutes=8", *tiny)
  assert "all done" in text and (tmp_path / "base-2.json").exists() and (tmp_path / "base-transformers.json").exists()
  done = subprocess.run(
    [sys.executable, "benchmarks/accelerator.py", f"--out={tmp_path}", "--minutes=0.1"],
    cwd=ROOT,
    capture_output=True,
    text=True,
  )
  assert done.returncode == 1 and "kernels: left out, 0.1 minutes are over" in done.stdout
