"""Batches of a corpus, from any position on, for any number of hosts.

`load_batch` is all there is to it: positions in, rows out (law 1 in the order
of rows, see order.py). Two loaders run it ahead of the training loop and hand
out the same batches, bit for bit: tf.data, and plain threads where TensorFlow
is not installed. So the first step need not wait for TensorFlow: it is imported
behind the first batch, and threads make the batches until it is there. Nothing
is shuffled or skipped, so a stream that begins at position 10 million yields
its first batch as soon as one that begins at 0.

With several processes, each one reads only its own rows of every global batch,
those that its devices hold (training/sharding.py `rows_of_process`).
"""

import atexit
import collections
import concurrent.futures
import contextlib
import functools
import importlib.util
import os
import weakref
from collections.abc import Callable, Generator, Iterator
from typing import Any, Protocol, TypeVar

import numpy as np

from bert_jax.batch import EVALUATION_EPOCH, HOST_BATCH, WORD_STARTS
from bert_jax.errors import UserError
from bert_jax.io.lazy_imports import without

# Batches in the making at once (reading from a memory map lets other threads run), and batches that wait.
_WORKERS = 2
_AHEAD = 4
_NO_TENSORFLOW = (
  'data.loader="tfdata" needs TensorFlow, which {}; use data.loader="threads" '
  "(--config.data.loader=threads): the batches are the "
  "same"
)

LOADERS = ("tfdata", "threads")
T = TypeVar("T")
HostBatch = dict[str, np.ndarray]


class Rows(Protocol):
  """What batches need of a split: a `folder.Split`, a `mixture.MixedSplit`, or rows that a test makes up."""

  @property
  def num_rows(self) -> int: ...

  @property
  def seq_length(self) -> int: ...

  @property
  def max_sequences(self) -> int: ...

  @property
  def has_word_starts(self) -> bool: ...

  def order(self, positions: np.ndarray, seed: int) -> tuple[np.ndarray, np.ndarray]: ...

  def gather(self, rows: np.ndarray) -> HostBatch: ...


def load_batch(split: Rows, positions: np.ndarray, *, seed: int) -> HostBatch:
  """The rows that stand at some positions of the endless training sequence.

  Args:
    split: at least one row.
    positions: int64 [n], see order.rows_at; across the end of an epoch, too.
    seed: decides the order of rows.

  Returns:
    A batch as in batch.HOST_BATCH, with B = n, and batch.WORD_STARTS where the split has them.
  """
  epoch, rows = split.order(positions, seed)
  return split.gather(rows) | {"epoch": epoch, "index": rows.astype(np.uint32)}


def train_batches(
  split: Rows,
  *,
  batch_size: int,
  seed: int,
  start: int,
  steps: int,
  loader: str,
  process_rows: np.ndarray | None = None,
) -> Generator[HostBatch]:
  """This process's part of `steps` global batches, made ahead of time in the background.

  Args:
    split: the rows to train on; they may be fewer than a batch.
    batch_size: rows in a global batch.
    seed: decides the order of rows.
    start: position of the first example in the whole run (64 bits), 0 in a new run.
    steps: how many batches.
    loader: "tfdata" or "threads"; the former imports TensorFlow in the background.
    process_rows: int64 [n], ascending, the rows of a global batch that this process reads; None: all of them.

  Returns:
    A generator of batches as in batch.HOST_BATCH, with B = n. Close it, or leave it
    to the garbage collector; its threads end with it.

  Raises:
    UserError: an empty split, no TensorFlow for "tfdata", an unknown loader: all of them at once, not at the
      first batch. A TensorFlow that is there and cannot be imported: at a later batch.
  """
  offsets = _offsets(split, batch_size, process_rows)
  load = lambda position: load_batch(split, position + offsets, seed=seed)
  positions = range(start, start + steps * batch_size, batch_size)
  if loader == "tfdata":
    if importlib.util.find_spec("tensorflow") is None:
      raise UserError(_NO_TENSORFLOW.format("is not installed"))
    stream = _tfdata_when_imported(load, positions, split, len(offsets))
    _open_streams.add(stream)
    return stream
  if loader == "threads":
    return prefetched(load, positions)
  raise UserError(f"config key 'data.loader' must be one of {', '.join(map(repr, LOADERS))}; it is {loader!r}")


def evaluation_batches(
  split: Rows, *, batch_size: int, max_rows: int = 0, process_rows: np.ndarray | None = None
) -> Iterator[HostBatch]:
  """This process's part of a pass over a split, in the order of its rows, at the epoch kept for evaluation.

  Every process gets the same number of batches, or the pod would hang in the last one: the last global batch
  is filled up with empty rows, which have no tokens, no sequences and so no weight in any sum.

  Args:
    split: the rows to evaluate.
    batch_size: rows in a global batch.
    max_rows: stop after so many rows; 0: all.
    process_rows: int64 [n], ascending, the rows of a global batch that this process reads; None: all of them.

  Returns:
    A generator of batches as in batch.HOST_BATCH, with B = n.

  Raises:
    UserError: an empty split.
  """
  own = _offsets(split, batch_size, process_rows)
  total = min(split.num_rows, max_rows or split.num_rows)

  def load(first: int) -> HostBatch:
    rows = first + own
    rows = rows[rows < total]  # the last ones, since they ascend
    batch = split.gather(rows) | {"index": rows.astype(np.uint32)}
    filled = {name: _fill_up(array, len(own)) for name, array in batch.items()}
    return filled | {"epoch": np.full(len(own), EVALUATION_EPOCH, np.uint32)}

  return prefetched(load, range(0, total, batch_size))


def _fill_up(array: np.ndarray, num_rows: int) -> np.ndarray:
  """[n, …] -> [num_rows, …], zeros from n on."""
  return np.pad(array, [(0, num_rows - len(array))] + [(0, 0)] * (array.ndim - 1))


def _offsets(split: Rows, batch_size: int, process_rows: np.ndarray | None) -> np.ndarray:
  """int64 [n]: which rows of a global batch are read here, after checking that this can work."""
  if not 1 <= split.num_rows <= 2**32:  # batch.HOST_BATCH has 32 bits for the index of a row
    raise UserError(
      f"a corpus split must have 1 to {2**32:,} rows, this one has {split.num_rows:,}; "
      f"prepare the corpus from {'less' if split.num_rows else 'more'} text"
    )
  return np.arange(batch_size, dtype=np.int64) if process_rows is None else process_rows


def prefetched(load: Callable[[int], T], positions: range) -> Generator[T]:
  """Yields load(position) for every position, in order, with a few of them in the making.

  There is no queue to wait on: a task always ends by itself, so closing the generator, an exception in
  `load` (raised here, in the consumer) and the interpreter's exit cannot hang.
  """
  executor = concurrent.futures.ThreadPoolExecutor(_WORKERS, thread_name_prefix="bert_jax-loader")
  pending: collections.deque[concurrent.futures.Future] = collections.deque()
  try:
    for position in positions:
      pending.append(executor.submit(load, position))
      if len(pending) > _AHEAD:
        yield pending.popleft().result()
    while pending:
      yield pending.popleft().result()
  finally:
    # The executor's threads end when it is collected, together with this frame. executor.shutdown() would say
    # so more plainly, but fails where the interpreter is being torn down around an unfinished generator.
    for future in pending:
      future.cancel()


def _tfdata_when_imported(
  load: Callable[[int], HostBatch], positions: range, split: Rows, num_rows: int
) -> Generator[HostBatch]:
  """The same by tf.data, as soon as TensorFlow is there; its import begins when the second batch is asked for."""
  with contextlib.closing(prefetched(load, positions)) as until_then:
    for taken, batch in enumerate(until_then):
      if taken and tensorflow_in_background().done():
        break
      yield batch
    else:
      return
  yield from _tfdata(tensorflow_in_background().result(), load, positions[taken:], split, num_rows)


def _tfdata(
  tf: Any, load: Callable[[int], HostBatch], positions: range, split: Rows, num_rows: int
) -> Iterator[HostBatch]:
  """The same by tf.data alone: one call of NumPy per batch, run by tf.data's threads."""
  sizes = {"B": num_rows, "L": split.seq_length, "S": split.max_sequences, "W": -(-split.seq_length // 8), "3": 3}
  contract = HOST_BATCH | (WORD_STARTS if split.has_word_starts else {})
  shapes = {name: [sizes[axis] for axis in axes.split()] for name, (_, axes) in contract.items()}
  failures = {}

  def load_arrays(position: np.int64) -> list[np.ndarray]:
    # An exception that TensorFlow sees is printed several times and loses its type: keep it for the consumer.
    try:
      batch = load(int(position))
    except Exception as error:
      failures[int(position)] = error
      batch = {name: np.zeros(shapes[name], dtype) for name, (dtype, _) in contract.items()}
    return [batch[name] for name in contract]

  @tf.autograph.experimental.do_not_convert
  def load_tensors(position):
    tensors = tf.numpy_function(load_arrays, [position], [dtype for dtype, _ in contract.values()])
    return {name: tf.ensure_shape(tensor, shapes[name]) for name, tensor in zip(contract, tensors)}

  dataset = tf.data.Dataset.range(positions.start, positions.stop, positions.step)
  dataset = dataset.map(load_tensors, num_parallel_calls=_WORKERS, deterministic=True).prefetch(_AHEAD)
  # There is nothing to tune, and the thread that would do so sleeps up to a minute at a time: closing the stream waits
  # for it.
  options = tf.data.Options()
  options.autotune.enabled = False
  dataset = dataset.with_options(options)

  for position, batch in zip(positions, dataset.as_numpy_iterator()):
    if position in failures:
      raise failures[position]
    yield batch


# Streams of tf.data. At the interpreter's end its threads could wait for ever for Python, and Python for them.
_open_streams: weakref.WeakSet = weakref.WeakSet()


@atexit.register
def _close_streams() -> None:
  for stream in list(_open_streams):
    stream.close()


@functools.cache
def tensorflow_in_background() -> concurrent.futures.Future:
  """The module, once its import is done; this begins at the first call, and the interpreter's end waits for it."""
  return concurrent.futures.ThreadPoolExecutor(1, thread_name_prefix="bert_jax-tensorflow").submit(_import_tensorflow)


def _import_tensorflow() -> Any:
  """TensorFlow, quiet, and without an eye for the GPU, whose memory it would otherwise take from JAX."""
  # Both have to stand before the import. oneDNN is for TensorFlow's mathematics, of which there is none here;
  # a message about it gets past the log level.
  os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
  os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")
  try:
    with without(
      "keras"
    ):  # a fifth of the time, and two fifths where scikit-learn is installed; tf.keras finds it later all the same
      import tensorflow as tf
  except ImportError as error:
    raise UserError(_NO_TENSORFLOW.format(f"cannot be imported ({error})")) from error
  import absl.logging

  absl.logging.set_verbosity(absl.logging.ERROR)
  tf.get_logger().setLevel("ERROR")
  tf.config.set_visible_devices([], "GPU")
  return tf
