"""How fast is `prepare`, everything included, beside `tokenizers` alone on the same text and cores?

    python benchmarks/prepare.py
    python benchmarks/prepare.py --source='wikiextractor:wiki/*' --tokenizer=vocab.txt --workers=2

Three things are measured in turn, several times, so that other work on the
machine meets all of them alike:

    threads     `Tokenizer.encode_batch_fast` on the documents, in one process with its own threads
    processes   the same in as many processes, each with one thread and its share of the documents
    prepare     the command, from the start of Python to the finished corpus: reading, cleaning, sentences, ids,
                pairs, packing, hashing, writing

The first two begin when the tokenizer is loaded and the documents are in
memory, and throw the ids away; the better of them is what `prepare` is compared
with. MB are millions of UTF-8 bytes of text, MiB of memory are 2^20. CPU
seconds suffer less from other work on the machine than the wall clock does.
"""

import argparse
import itertools
import multiprocessing
import os
import pathlib
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from bert_jax.data.corpus.job import num_cores
from bert_jax.data.text.sources import parse_source, read_documents
from bert_jax.data.tokenizer.vocabulary import sample_documents, train_wordpiece
from bert_jax.data.tokenizer.wordpiece import load_tokenizer, save_tokenizer

_VOCAB_SIZE = 8192  # of the vocabulary that is trained where none is given
_SAMPLE_BYTES = 16 * 2**20  # that it is trained on
_ALONE_BYTES = 64 * 2**20  # text for `tokenizers` alone, which has to be in memory
_CALL_CHARACTERS = 2**20  # text in one call of the tokenizer
_POLL_SECONDS = 0.05


class Measured(NamedTuple):
  """One run.

  Attributes:
    megabytes: of text.
    seconds: on the wall clock.
    cpu_seconds: of all processes together.
  """

  megabytes: float
  seconds: float
  cpu_seconds: float

  @property
  def rate(self) -> float:
    """Megabytes a second."""
    return self.megabytes / self.seconds


def main() -> None:
  options = _parse_arguments()
  with tempfile.TemporaryDirectory(dir=options.scratch or None) as scratch:
    _measure(options, pathlib.Path(scratch))


def _parse_arguments() -> argparse.Namespace:
  parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument("--source", default="docstrings:", metavar="SPEC", help="as for prepare (default: %(default)s)")
  parser.add_argument(
    "--tokenizer",
    default="",
    metavar="DIR_OR_VOCAB",
    help=f"as for prepare (default: one of {_VOCAB_SIZE:,} entries, trained before the first round)",
  )
  parser.add_argument("--workers", type=int, default=num_cores(), help="processes, or threads (default: one per core)")
  parser.add_argument("--rounds", type=int, default=3, help="how often everything is measured (default: %(default)s)")
  parser.add_argument("--seq_length", type=int, default=512, help="tokens in a row (default: %(default)s)")
  parser.add_argument("--objective", default="nsp", help="nsp, sop or none (default: %(default)s)")
  parser.add_argument(
    "--scratch",
    default="",
    metavar="DIR",
    help="where corpora are made and deleted (default: the system's place for that)",
  )
  return parser.parse_args()


def _measure(options: argparse.Namespace, scratch: pathlib.Path) -> None:
  """Measures, and prints as it goes."""
  load_before = os.getloadavg()[0]
  tokenizer = options.tokenizer or _train(options.source, scratch / "tokenizer")
  megabytes = sum(len(text.encode("utf-8")) for text in _texts(options.source)) / 1e6
  print(
    f"{options.source}: {megabytes:.1f} MB of text, rows of {options.seq_length} tokens, objective "
    f"{options.objective}\n"
    f"workers: {options.workers}, cores: {num_cores()}, load average {load_before:.1f} at the start\n\n"
    f"{'MB/s':10}{'threads':>14}{'processes':>14}{'prepare':>14}{'share':>10}",
    flush=True,
  )
  rounds: list[tuple[Measured, ...]] = []
  peaks: Counter = Counter()
  for number in range(options.rounds):
    threads = _tokenizers_alone(options.source, tokenizer, processes=1, threads=options.workers)
    processes = _tokenizers_alone(options.source, tokenizer, processes=options.workers, threads=1)
    prepared, peak = _prepare(options, tokenizer, megabytes, scratch / "corpus")
    rounds.append((threads, processes, prepared))
    peaks |= peak
    _print_row(f"round {number + 1}", [f"{one.rate:.2f}" for one in rounds[-1]], _share(rounds[-1]))
  columns = list(zip(*rounds))
  rates = [sorted(one.rate for one in column) for column in columns]
  _print_row("median", [f"{statistics.median(rate):.2f}" for rate in rates], statistics.median(map(_share, rounds)))
  _print_row("from–to", [f"{rate[0]:.2f}–{rate[-1]:.2f}" for rate in rates])
  costs = [statistics.median(one.cpu_seconds / one.megabytes for one in column) for column in columns]
  _print_row("CPU s/MB", [f"{cost:.3f}" for cost in costs], min(costs[:2]) / costs[2])
  print(
    "\npeak memory of prepare: "
    + (", ".join(f"{name} {peak >> 10:,} MiB" for name, peak in peaks.items()) or "not measured (there is no /proc)")
  )
  print(f"load average {os.getloadavg()[0]:.1f} at the end, this benchmark included")


def _print_row(name: str, cells: Sequence[str], share: float | None = None) -> None:
  print(f"{name:10}" + "".join(f"{cell:>14}" for cell in cells) + (f"{share:10.0%}" if share else ""), flush=True)


def _share(measured: Sequence[Measured]) -> float:
  """The rate of `prepare` over the better one of `tokenizers` alone."""
  *alone, prepared = measured
  return prepared.rate / max(one.rate for one in alone)


def _texts(source: str) -> Iterator[str]:
  return (document.text for document in read_documents([parse_source(source)], skip_bad=True, counts=Counter()))


def _train(source: str, folder: pathlib.Path) -> str:
  sample = sample_documents(_texts(source), max_bytes=_SAMPLE_BYTES, seed=0)
  save_tokenizer(train_wordpiece(sample, _VOCAB_SIZE, lowercase=True), folder, max_length=512)
  return str(folder)


def _tokenizers_alone(source: str, tokenizer: str, *, processes: int, threads: int) -> Measured:
  context = multiprocessing.get_context("spawn")
  barrier, results = context.Barrier(processes), context.Queue()
  workers = [
    context.Process(target=_encode, args=(source, tokenizer, index, processes, threads, barrier, results))
    for index in range(processes)
  ]
  for worker in workers:
    worker.start()
  began, ended, cpu_seconds, num_bytes = zip(*[results.get() for _ in workers])
  for worker in workers:
    worker.join()
  return Measured(sum(num_bytes) / 1e6, max(ended) - min(began), sum(cpu_seconds))


def _encode(source: str, tokenizer: str, index: int, count: int, threads: int, barrier, results) -> None:
  """Runs in a process of its own, as the tokenizer makes its threads once.

  Puts (begin, end, CPU seconds, bytes of text).
  """
  os.environ["TOKENIZERS_PARALLELISM"] = "true" if threads > 1 else "false"
  os.environ["RAYON_NUM_THREADS"] = str(threads)
  backend = load_tokenizer(tokenizer).plain
  calls: list[list[str]] = [[]]
  num_bytes, room = 0, 0
  for text in itertools.islice(_texts(source), index, None, count):
    if room <= 0:
      calls.append([])
      room = _CALL_CHARACTERS
    calls[-1].append(text)
    room -= len(text)
    num_bytes += len(text.encode("utf-8"))
    if num_bytes >= _ALONE_BYTES / count:
      break
  barrier.wait()
  began, cpu_seconds = time.monotonic(), time.process_time()
  for texts in calls:
    backend.encode_batch_fast(texts, add_special_tokens=False)
  results.put((began, time.monotonic(), time.process_time() - cpu_seconds, num_bytes))


def _prepare(
  options: argparse.Namespace, tokenizer: str, megabytes: float, out: pathlib.Path
) -> tuple[Measured, Counter]:
  """Runs the command and removes what it made. Also gives the peak memory, in KiB, by kind of process."""
  command = [
    sys.executable,
    "-m",
    "bert_jax",
    "prepare",
    f"--source={options.source}",
    f"--tokenizer={tokenizer}",
    f"--out={out}",
    f"--documents={out}-documents",
    f"--workers={options.workers}",
    f"--seq_length={options.seq_length}",
    f"--objective={options.objective}",
    "--skip_bad",
  ]
  began, cpu_seconds = time.monotonic(), _cpu_seconds_of_children()
  process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
  peaks: Counter = Counter()
  while process.poll() is None:
    peaks |= _peak_memory(process.pid)
    time.sleep(_POLL_SECONDS)
  measured = Measured(megabytes, time.monotonic() - began, _cpu_seconds_of_children() - cpu_seconds)
  if process.returncode:
    sys.exit(process.stderr.read() if process.stderr else process.returncode)
  for folder in (out, f"{out}-documents"):
    shutil.rmtree(folder)
  return measured, peaks


def _cpu_seconds_of_children() -> float:
  times = os.times()
  return times.children_user + times.children_system


def _peak_memory(pid: int) -> Counter:
  """The most resident memory so far of a process and of the largest of its children, in KiB; empty without /proc."""
  found: Counter = Counter()
  try:
    children = pathlib.Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    for name, processes in (("parent", [pid]), ("largest worker", children)):
      for process in processes:
        status = pathlib.Path(f"/proc/{process}/status").read_text()
        peak = next((int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM")), 0)
        found |= Counter({name: peak})
  except (FileNotFoundError, ProcessLookupError):
    pass  # a process that has just ended
  return found


if __name__ == "__main__":
  main()
