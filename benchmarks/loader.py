"""How many tokens a second do the loaders hand to a training loop, and how soon after a resume?

    python benchmarks/loader.py
    python benchmarks/loader.py --corpus=data/wiki --batch_size=256

Both loaders are measured in turn, several times, on a corpus as `prepare` makes
it. Tokens are those of the rows, padding included: rows of a packed corpus hold
next to none. The consumer does nothing with a batch, so the figure is what the
host can sustain, not what a device would ask for. TensorFlow is imported before
anything is measured. With `tfdata` the first batch comes from plain threads, as
in every stream.
"""

import argparse
import itertools
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Generator
from typing import NamedTuple

from bert_jax.data.corpus.folder import Corpus, Split, open_corpus
from bert_jax.data.corpus.job import num_cores
from bert_jax.data.loading.input_pipeline import LOADERS, HostBatch, tensorflow_in_background, train_batches

_WARM_UP_BATCHES = 10
_LATE_STEP = 10_000_000


class Measured(NamedTuple):
  """One run of one loader.

  Attributes:
    million_tokens: a second, on the wall clock.
    cpu_seconds: for a million tokens, of all threads together.
    first_seconds, late_seconds: from asking for a stream to its first batch, at step 0 and at step 10 million.
  """

  million_tokens: float
  cpu_seconds: float
  first_seconds: float
  late_seconds: float


def main() -> None:
  options = _parse_arguments()
  if options.corpus:
    _measure(open_corpus(options.corpus), options)
    return
  with tempfile.TemporaryDirectory() as scratch:
    subprocess.run(
      [
        sys.executable,
        "-m",
        "bert_jax",
        "prepare",
        "--source=docstrings:",
        "--vocab_size=8192",
        "--seq_length=512",
        f"--out={scratch}/corpus",
      ],
      stdout=subprocess.DEVNULL,
      check=True,
    )
    _measure(open_corpus(f"{scratch}/corpus"), options)


def _parse_arguments() -> argparse.Namespace:
  parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument(
    "--corpus",
    default="",
    metavar="DIR",
    help="a corpus folder (default: one of docstrings:, in rows of 512, made before the first round)",
  )
  parser.add_argument("--batch_size", type=int, default=256, help="rows in a batch (default: %(default)s)")
  parser.add_argument("--seconds", type=float, default=3, help="of one loader in a round (default: %(default)s)")
  parser.add_argument("--rounds", type=int, default=3, help="how often both are measured (default: %(default)s)")
  return parser.parse_args()


def _measure(corpus: Corpus, options: argparse.Namespace) -> None:
  """Measures, and prints as it goes."""
  split = corpus.train
  print(
    f"{split.num_rows:,} rows of {split.seq_length} tokens, batches of {options.batch_size} rows\n"
    f"{num_cores()} cores, load average {os.getloadavg()[0]:.1f} at the start\n\n"
    f"{'':20}{'million tokens/s':>18}{'CPU s/million':>16}{'first batch':>14}{'at step 10 M':>14}",
    flush=True,
  )
  tensorflow_in_background().result()
  for loader in LOADERS:
    _time_to_first_batch(split, options, loader, step=0)  # the first of a process takes longer
  rounds: dict[str, list[Measured]] = {loader: [] for loader in LOADERS}
  for number in range(options.rounds):
    for loader in LOADERS:
      rounds[loader].append(_run(split, options, loader))
      _print_row(f"{loader}, round {number + 1}", rounds[loader][-1])
  for loader in LOADERS:
    _print_row(f"{loader}, median", Measured(*map(statistics.median, zip(*rounds[loader]))))
  print(f"load average {os.getloadavg()[0]:.1f} at the end, this benchmark included")


def _print_row(name: str, one: Measured) -> None:
  print(
    f"{name:20}{one.million_tokens:18.1f}{one.cpu_seconds:16.4f}{1000 * one.first_seconds:11.0f} ms"
    f"{1000 * one.late_seconds:11.0f} ms",
    flush=True,
  )


def _run(split: Split, options: argparse.Namespace, loader: str) -> Measured:
  first, late = (_time_to_first_batch(split, options, loader, step) for step in (0, _LATE_STEP))
  stream = _stream(split, options, loader, step=0)
  for _ in itertools.islice(stream, _WARM_UP_BATCHES):
    pass
  rows, began, cpu_seconds = 0, time.perf_counter(), time.process_time()
  while (seconds := time.perf_counter() - began) < options.seconds:
    rows += len(next(stream)["tokens"])
  cpu_seconds = time.process_time() - cpu_seconds
  stream.close()
  millions = rows * split.seq_length / 1e6
  return Measured(millions / seconds, cpu_seconds / millions, first, late)


def _time_to_first_batch(split: Split, options: argparse.Namespace, loader: str, step: int) -> float:
  began = time.perf_counter()
  stream = _stream(split, options, loader, step)
  next(stream)
  seconds = time.perf_counter() - began
  stream.close()
  return seconds


def _stream(split: Split, options: argparse.Namespace, loader: str, step: int) -> Generator[HostBatch]:
  start = step * options.batch_size
  return train_batches(split, batch_size=options.batch_size, seed=0, start=start, steps=10**9, loader=loader)


if __name__ == "__main__":
  main()
