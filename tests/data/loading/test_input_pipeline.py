"""Law 1: a batch is a function of (corpus, seed, position), whatever the loader and the number of hosts."""

import itertools
import subprocess
import sys
import threading
import time

import numpy as np
import pytest

from bert_jax.batch import EVALUATION_EPOCH, HOST_BATCH
from bert_jax.data.corpus.folder import Split
from bert_jax.data.loading.input_pipeline import (
  LOADERS,
  evaluation_batches,
  load_batch,
  tensorflow_in_background,
  train_batches,
)
from bert_jax.data.order import rows_at
from bert_jax.errors import UserError


@pytest.fixture(autouse=True, scope="module")
def tensorflow():
  """From the second batch on, tf.data makes those of "tfdata"."""
  return tensorflow_in_background().result()


class Rows:
  """A split in memory, whose every row tells its number."""

  def __init__(self, num_rows: int, seq_length: int = 8, max_sequences: int = 2, broken_row: int = -1):
    self.num_rows, self.seq_length, self.max_sequences = num_rows, seq_length, max_sequences
    self.broken_row = broken_row
    self.has_word_starts = False

  def order(self, positions, seed):
    return rows_at(positions, num_rows=self.num_rows, seed=seed)

  def gather(self, rows):
    if self.broken_row in rows:
      raise UserError(f"row {self.broken_row} is broken")
    tokens = rows[:, None] * self.seq_length + np.arange(self.seq_length)
    sequences = np.tile(np.array([self.seq_length, 3, 1]), (len(rows), self.max_sequences, 1))
    return {"tokens": tokens.astype(np.int32), "sequences": sequences.astype(np.int32)}


def take(split, count, *, batch_size=16, start=0, seed=3, loader="threads", **hosts):
  """The first `count` batches of an endless stream, which is then closed."""
  stream = train_batches(split, batch_size=batch_size, seed=seed, start=start, steps=10**6, loader=loader, **hosts)
  batches = list(itertools.islice(stream, count))
  stream.close()
  return batches


def assert_equal(left, right):
  assert left.keys() == right.keys() == HOST_BATCH.keys()
  for name in left:
    assert left[name].dtype == right[name].dtype == HOST_BATCH[name][0]
    np.testing.assert_array_equal(left[name], right[name])


def joined(batches):
  return {name: np.concatenate([batch[name] for batch in batches]) for name in HOST_BATCH}


@pytest.mark.parametrize("num_rows", [1, 5, 37, 1000])
def test_both_loaders_give_the_same_batches(num_rows):
  """Also where the corpus is smaller than a batch, and across the ends of epochs."""
  left, right = (take(Rows(num_rows), 12, start=10**6 + 7, loader=loader) for loader in LOADERS)
  for step, (a, b) in enumerate(zip(left, right, strict=True)):
    assert_equal(a, b)
    assert_equal(a, load_batch(Rows(num_rows), 10**6 + 7 + step * 16 + np.arange(16), seed=3))


@pytest.mark.parametrize("loader", LOADERS)
@pytest.mark.parametrize("hosts", [2, 4, 8])
def test_hosts_together_read_the_batch_that_one_host_reads(hosts, loader):
  alone = take(Rows(37), 5, loader=loader)  # 80 examples: epochs end inside of batches
  shares = [
    np.arange(16).reshape(hosts, -1),
    np.arange(16).reshape(-1, hosts).T,
  ]  # contiguous, and as another mesh may have them
  for share in shares:
    parts = [take(Rows(37), 5, loader=loader, process_rows=share[host]) for host in range(hosts)]
    for step, whole in enumerate(alone):
      found = joined([part[step] for part in parts])
      assert_equal({name: array[np.argsort(share.ravel())] for name, array in found.items()}, whole)


def test_an_epoch_may_end_inside_a_batch():
  whole = joined(take(Rows(10), 5, batch_size=8))
  np.testing.assert_array_equal(whole["epoch"], np.arange(40) // 10)
  for epoch in range(4):
    np.testing.assert_array_equal(np.sort(whole["index"][whole["epoch"] == epoch]), np.arange(10))
  np.testing.assert_array_equal(whole["tokens"][:, 0], whole["index"] * 8)


@pytest.mark.parametrize("loader", LOADERS)
@pytest.mark.parametrize("step", [1, 7, 19])
def test_a_resumed_stream_goes_on_as_if_undisturbed(step, loader):
  straight = take(Rows(37), 22, loader=loader)
  for a, b in zip(take(Rows(37), 3, start=step * 16, loader=loader), straight[step : step + 3], strict=True):
    assert_equal(a, b)


def test_another_batch_size_reads_the_same_examples():
  assert_equal(joined(take(Rows(37), 4, batch_size=16)), joined(take(Rows(37), 8, batch_size=8)))


@pytest.mark.alone
@pytest.mark.parametrize("loader", LOADERS)
def test_starting_at_ten_million_batches_costs_as_much_as_starting_at_none(loader):
  def first_batch(start):
    begin = time.perf_counter()
    take(Rows(100_003), 1, batch_size=256, start=start, loader=loader)
    return time.perf_counter() - begin

  first_batch(0)
  early = min(first_batch(0) for _ in range(5))
  late = min(first_batch(10**7 * 256) for _ in range(5))
  assert late < 3 * early + 0.02, f"{late:.4f} s at step 10 million, {early:.4f} s at step 0"


@pytest.mark.parametrize("loader", LOADERS)
def test_the_stream_ends_after_its_steps(loader):
  stream = train_batches(Rows(5), batch_size=4, seed=0, start=8, steps=7, loader=loader)
  assert len(list(stream)) == 7
  assert not list(train_batches(Rows(5), batch_size=4, seed=0, start=8, steps=0, loader=loader))


@pytest.mark.parametrize("loader", LOADERS)
def test_an_error_while_reading_reaches_the_consumer_at_its_batch(loader, capfd):
  split = Rows(100)
  step = next(s for s, batch in enumerate(take(split, 13, batch_size=8)) if 77 in batch["index"])
  split.broken_row = 77
  stream = train_batches(split, batch_size=8, seed=3, start=0, steps=10**6, loader=loader)
  assert len(list(itertools.islice(stream, step))) == step
  with pytest.raises(UserError, match="row 77 is broken"):
    next(stream)
  assert capfd.readouterr().err == ""  # no stack of library messages either


def test_threads_end_when_the_stream_is_closed_or_dropped():
  def loader_threads():
    return sum(thread.name.startswith("bert_jax-loader") for thread in threading.enumerate())

  def wait_for_the_end():
    deadline = time.monotonic() + 10
    while loader_threads() and time.monotonic() < deadline:
      time.sleep(0.01)
    assert loader_threads() == 0

  wait_for_the_end()  # of those of earlier tests
  for close in (lambda stream: stream.close(), lambda stream: None):
    stream = train_batches(Rows(50), batch_size=4, seed=0, start=0, steps=10**9, loader="threads")
    next(stream)
    assert loader_threads() > 0
    close(stream)
    del stream
    wait_for_the_end()


_EXIT = """
import time
import numpy as np
from bert_jax.data.order import rows_at
from bert_jax.data.loading.input_pipeline import train_batches
class Rows:
  num_rows, seq_length, max_sequences, has_word_starts = 100, 8, 2, False
  def order(self, positions, seed):
    return rows_at(positions, num_rows=self.num_rows, seed=seed)
  def gather(self, rows):
    time.sleep(0.02)  # so that reads are under way at the end
    sum(range(200_000))
    return {"tokens": np.zeros((len(rows), 8), np.int32), "sequences": np.zeros((len(rows), 2, 3), np.int32)}
stream = train_batches(Rows(), batch_size=4, seed=0, start=0, steps=10**9, loader="LOADER")
print(len(next(stream)["index"]))
"""


@pytest.mark.parametrize("loader", ["threads", pytest.param("tfdata", marks=pytest.mark.slow)])
def test_the_interpreter_exits_quietly_in_the_middle_of_a_stream(loader):
  program = _EXIT.replace("LOADER", loader)
  done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120)
  assert (done.returncode, done.stdout, done.stderr) == (0, "4\n", "")


def test_no_thread_of_tensorflow_tunes_the_stream(monkeypatch, tensorflow):
  """It wakes up ever more rarely, and a stream that is closed waits for it: 20 s after a run of a minute, in half of
  all runs.
  """
  tf, tuned = tensorflow, []
  plain = tf.data.Dataset.as_numpy_iterator

  def as_numpy_iterator(dataset):
    tuned.append(dataset.options().autotune.enabled)
    return plain(dataset)

  monkeypatch.setattr(tf.data.Dataset, "as_numpy_iterator", as_numpy_iterator)
  take(Rows(37), 2, loader="tfdata")
  assert tuned == [False]


@pytest.mark.slow
def test_a_stream_that_was_open_for_long_is_closed_at_once():
  stream = train_batches(Rows(37), batch_size=16, seed=0, start=0, steps=10**9, loader="tfdata")
  end = time.monotonic() + 12
  while time.monotonic() < end:
    next(stream)
    time.sleep(0.002)
  began = time.monotonic()
  stream.close()
  assert time.monotonic() - began < 0.5


_IMPORT = """
import itertools, sys, threading
imported_by = []
def note(event, of, found=imported_by, thread=threading.current_thread):  # globals are gone at the very end
  if event == "import" and of[0] == "tensorflow":
    found.append(thread().name)
sys.addaudithook(note)
from tests.data.loading.test_input_pipeline import Rows, assert_equal, load_batch, np
from bert_jax.data.loading.input_pipeline import tensorflow_in_background, train_batches
stream = train_batches(Rows(37), batch_size=4, seed=3, start=8, steps=10**9, loader="tfdata")
batches = [next(stream)]
assert "tensorflow" not in sys.modules and not imported_by
batches.append(next(stream))  # by threads: the import has just begun
tf, by_tensorflow = tensorflow_in_background().result(), []
assert imported_by[0].startswith("bert_jax-tensorflow"), imported_by
assert "keras" not in sys.modules
plain = tf.data.Dataset.as_numpy_iterator
tf.data.Dataset.as_numpy_iterator = lambda dataset: by_tensorflow.append(dataset) or plain(dataset)
batches += itertools.islice(stream, 5)
assert by_tensorflow, "tf.data makes no batches though it is there"
for step, batch in enumerate(batches):
  assert_equal(batch, load_batch(Rows(37), 8 + step * 4 + np.arange(4), seed=3))
assert tf.keras.layers.Dense(1).units == 1
"""


def test_tensorflow_is_imported_behind_the_first_batch_and_takes_over_without_a_seam():
  done = subprocess.run([sys.executable, "-c", _IMPORT], capture_output=True, text=True, timeout=120)
  assert (done.returncode, done.stderr) == (0, "")


def test_a_stream_shorter_than_the_import_does_not_wait_for_it():
  program = (
    _IMPORT[: _IMPORT.index("stream =")]
    + """
for steps in (0, 1, 2):
  assert len(list(train_batches(Rows(37), batch_size=4, seed=3, start=8, steps=steps, loader="tfdata"))) == steps
assert imported_by and not tensorflow_in_background().done()
"""
  )
  done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120)
  assert (done.returncode, done.stderr) == (0, "")


def test_a_tensorflow_that_cannot_be_imported_is_told_with_the_remedy(tmp_path):
  (tmp_path / "tensorflow.py").write_text("raise ImportError('GLIBC_2.99 not found')\n")
  program = (
    f"import sys; sys.path.insert(0, {str(tmp_path)!r})\n"
    + _IMPORT[: _IMPORT.index("stream =")]
    + """
from bert_jax.errors import UserError
try:
  list(train_batches(Rows(37), batch_size=4, seed=3, start=8, steps=10**4, loader="tfdata"))
except UserError as error:
  print(error)
"""
  )
  done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120)
  assert (done.returncode, done.stderr) == (0, "")
  assert "cannot be imported (GLIBC_2.99 not found)" in done.stdout and "--config.data.loader=threads" in done.stdout


def test_an_empty_split_and_an_unknown_loader_are_refused_at_once():
  with pytest.raises(UserError, match="this one has 0; prepare the corpus from more text"):
    train_batches(Rows(0), batch_size=10, seed=0, start=0, steps=1, loader="threads")
  with pytest.raises(UserError, match="this one has 0"):
    evaluation_batches(Rows(0), batch_size=10)
  with pytest.raises(UserError, match="data.loader"):
    train_batches(Rows(5), batch_size=10, seed=0, start=0, steps=1, loader="torch")


def test_without_tensorflow_the_remedy_is_named(monkeypatch):
  monkeypatch.setitem(sys.modules, "tensorflow", None)  # as if it were not installed
  with pytest.raises(UserError, match='data.loader="threads"'):
    train_batches(Rows(5), batch_size=1, seed=0, start=0, steps=1, loader="tfdata")


@pytest.mark.parametrize("hosts", [1, 2, 4])
@pytest.mark.parametrize("num_rows, max_rows", [(1, 0), (20, 0), (21, 0), (21, 6), (3, 100), (8, 0)])
def test_evaluation_reads_every_row_once_and_in_order(num_rows, max_rows, hosts):
  split = Rows(num_rows)
  share = np.arange(8).reshape(-1, hosts).T  # every host takes every so-many-th row
  parts = [
    list(evaluation_batches(split, batch_size=8, max_rows=max_rows, process_rows=share[h])) for h in range(hosts)
  ]
  assert len({len(part) for part in parts}) == 1  # no host waits for another in vain
  order = np.argsort(share.ravel())
  steps = [joined([part[step] for part in parts]) for step in range(len(parts[0]))]
  whole = joined([{name: array[order] for name, array in step.items()} for step in steps])
  count = min(num_rows, max_rows or num_rows)
  real = whole["sequences"].any(axis=(1, 2))
  np.testing.assert_array_equal(whole["index"][real], np.arange(count))
  np.testing.assert_array_equal(whole["tokens"][real], split.gather(np.arange(count))["tokens"])
  assert len(real) == -(-count // 8) * 8 and not whole["tokens"][~real].any()
  assert (whole["epoch"] == EVALUATION_EPOCH).all()
  assert {name: array.dtype.name for name, array in whole.items()} == {k: v[0] for k, v in HOST_BATCH.items()}


@pytest.fixture
def mapped_split(tmp_path) -> Split:
  """20,000 rows of 512 tokens in two memory-mapped shards, 20 MB."""
  generator = np.random.default_rng(0)
  tokens, sequences = [], []
  for shard in range(2):
    np.save(tmp_path / f"t{shard}.npy", generator.integers(0, 30_000, (10_000, 512)).astype(np.uint16))
    np.save(tmp_path / f"s{shard}.npy", generator.integers(0, 512, (10_000, 8, 3)).astype(np.uint16))
    tokens.append(np.load(tmp_path / f"t{shard}.npy", mmap_mode="r"))
    sequences.append(np.load(tmp_path / f"s{shard}.npy", mmap_mode="r"))
  return Split(20_000, 512, 8, np.array([0, 10_000, 20_000]), tuple(tokens), tuple(sequences), (), (), None)


@pytest.mark.alone
@pytest.mark.parametrize("loader", LOADERS)
def test_two_million_tokens_a_second_come_from_memory_mapped_shards(mapped_split, loader):
  stream = train_batches(mapped_split, batch_size=256, seed=0, start=0, steps=10**6, loader=loader)
  for _ in range(10):
    next(stream)
  best = 0.0
  for _ in range(5):  # the best of five, because the machine may be busy
    begin = time.perf_counter()
    for _ in range(20):
      next(stream)
    best = max(best, 20 * 256 * 512 / (time.perf_counter() - begin))
  stream.close()
  print(f"{loader}: {best / 1e6:.1f} million tokens/s")
  assert best > 2e6
