"""Texts out of TensorFlow Datasets: wikipedia, c4, lm1b, pg19 and whatever else has a feature of text.

A data set that is prepared on disk is read as it is. One that is not is downloaded
and prepared by TFDS, as `tfds.load` would, after a line that says so. TensorFlow is
imported when the first example is read, and never sees a GPU.
"""

import collections
import contextlib
import difflib
import os
import re
import socket
import sys
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import numpy as np

from bert_jax.data.text.files import note_bad
from bert_jax.errors import UserError, show

# NAME[/CONFIG][:VERSION][:SPLIT] or FOLDER[:SPLIT]. A version begins with a digit; a slice may hold a colon.
_ARGUMENT = re.compile(r"(?P<name>.+?)(?::(?P<split>[A-Za-z_]\w*(?:\[[^\]]*\])?(?:\+.+)?))?")
_FOLDER = re.compile(r"[~./]|[a-z][\w+.-]+://")

# TFDS 4.9.10 reads its Parquet whole, without regard to the split, after it lost rows in writing it.
_FORMATS = ("tfrecord", "array_record")

_BATCH_BYTES = 4 * 2**20
_MAX_BATCH = 4096
_READ_BYTES = 2**20


class DatasetSplit(NamedTuple):
  """One split of a data set, which need not be on disk yet.

  Attributes:
    builder: of TFDS.
    name: 'lm1b' or 'wikipedia/20230601.en'.
    version: '1.1.0'.
    split: 'train', 'train[:1%]', 'train+test'.
  """

  builder: Any
  name: str
  version: str
  split: str

  @property
  def file(self) -> str:
    """What documents name as their origin, as in 'tfds:lm1b/1.1.0:train'."""
    return f"tfds:{self.name}/{self.version}:{self.split}"


def find(argument: str) -> DatasetSplit:
  """Finds a data set, without downloading anything.

  Args:
    argument: NAME[/CONFIG][:VERSION][:SPLIT] or FOLDER[:SPLIT], a folder being the one of a prepared version
      with its dataset_info.json. The split is `train` if not named. TFDS looks in the folder that the variable
      TFDS_DATA_DIR names, else in ~/tensorflow_datasets.

  Raises:
    UserError: a name, configuration or version that does not exist, with the nearest that does.
  """
  _quieten()
  try:
    import tensorflow_datasets as tfds
  except ImportError as error:
    raise UserError(f"tfds:{argument}: needs TensorFlow Datasets: pip install tensorflow-datasets") from error
  found = _ARGUMENT.fullmatch(argument)
  assert found  # it takes anything
  builder = _from_folder(tfds, found["name"]) if _FOLDER.match(found["name"]) else _by_name(tfds, found["name"])
  name = builder.info.full_name.rpartition("/")[0]
  return DatasetSplit(builder, name, str(builder.version), found["split"] or "train")


def check_feature(examples: DatasetSplit, feature: str) -> None:
  """Raises UserError for a feature, or a split, that the data set does not have. Downloads nothing."""
  features = examples.builder.info.features
  texts = [name for name in features if _is_text(features[name])]
  remedy = f"name one of text with --text_field={texts[0]}" if texts else "it has no feature of text"
  if feature not in features:
    raise UserError(f"{examples.file}: no feature {feature!r} (features: {', '.join(features)}); {remedy}")
  if feature not in texts:
    raise UserError(f"{examples.file}: feature {feature!r} is {features[feature]}, not text; {remedy}")
  if examples.builder.is_prepared():
    split_size(examples)


def split_size(examples: DatasetSplit) -> tuple[int, int]:
  """(bytes, examples) of the split. A data set that is not prepared on disk is downloaded and prepared first.

  Raises:
    UserError: a split that does not exist, a file format that is not read; a download that fails, that needs a
      file brought by hand, or Apache Beam.
  """
  if not examples.builder.is_prepared():
    _prepare(examples)
  stored_as, splits = examples.builder.info.file_format.value, examples.builder.info.splits
  if stored_as not in _FORMATS:
    raise UserError(f"{examples.file}: stored as {stored_as}; TFDS data sets are read as {' or '.join(_FORMATS)}")
  try:
    info = splits[examples.split]
  except (KeyError, ValueError, AssertionError) as error:
    near = difflib.get_close_matches(examples.split, splits, n=1)
    raise UserError(
      f"{examples.file}: no split {examples.split!r}"
      + (f"; did you mean {near[0]!r}?" if near else ";")
      + f" splits: {', '.join(splits)}"
    ) from error
  return int(info.num_bytes), info.num_examples


def read_tfds_texts(
  examples: DatasetSplit, feature: str, *, skip_bad: bool, counts: collections.Counter
) -> Iterator[tuple[int, str]]:
  """The texts of one feature, in the order in which the data set is stored.

  Args:
    examples: from `find`.
    feature: the name of a feature of text.
    skip_bad: skip and count what does not decode (`bad_documents`), and the rest behind a damaged
      place (`bad_files`), instead of raising.
    counts: receives `files` (1), `bad_documents` and `bad_files`.

  Yields:
    (number of the example in the split from 0, text).

  Raises:
    UserError: as `split_size` does, and for the defects above, naming the example.
  """
  _, expected = split_size(examples)
  counts["files"] += 1
  number = 0
  texts = _stored(examples, feature)
  while True:
    try:
      text = next(texts, None)
      problem = f"{number} of {expected} examples" if text is None and number < expected else ""
    except Exception as error:  # TensorFlow's errors have no base class that could be named without importing it
      problem = _in_short(error)
    if problem:
      note_bad(
        f"{examples.file}: damaged or cut off after example {number - 1} ({problem})",
        skip_bad=skip_bad,
        counts=counts,
        key="bad_files",
      )
    if problem or text is None:
      return
    try:
      yield number, text.decode("utf-8") if isinstance(text, bytes) else text
    except UnicodeDecodeError as error:
      byte = f"byte 0x{text[error.start]:02x} at byte {error.start + 1}"
      note_bad(
        f"{examples.file}: example {number}: not UTF-8: {byte} of the text",
        skip_bad=skip_bad,
        counts=counts,
        key="bad_documents",
      )
    number += 1


def read_rows(examples: DatasetSplit) -> Iterator[dict[str, Any]]:
  """The examples of a split with all their features, in the order in which the data set is stored; classes by their
  names.

  Texts are str; features of several values are lists. Raises UserError as `split_size` does.
  """
  import tensorflow_datasets as tfds

  split_size(examples)
  features = examples.builder.info.features
  _import_tensorflow()
  for row in tfds.as_numpy(examples.builder.as_dataset(split=examples.split, shuffle_files=False)):
    yield {name: _plain(features[name], value) for name, value in row.items()}


def _plain(feature: Any, value: Any) -> Any:
  """A value as Python has it; the name of a class instead of its number, "" for none (-1)."""
  if isinstance(value, dict):
    return {name: _plain(feature[name], one) for name, one in value.items()}
  if isinstance(value, np.ndarray) and value.ndim:
    return [_plain(getattr(feature, "feature", feature), one) for one in value]
  if hasattr(feature, "int2str"):
    return feature.int2str(int(value)) if value >= 0 else ""
  return value.decode("utf-8") if isinstance(value, bytes) else value.item() if isinstance(value, np.generic) else value


def _stored(examples: DatasetSplit, feature: str) -> Iterator[bytes | str]:
  """The values as they are stored, one file after the other."""
  tf = _import_tensorflow()
  info = examples.builder.info
  if info.file_format.value == "array_record":
    for example in examples.builder.as_data_source(split=examples.split):
      yield example[feature]
    return
  # Whole batches are parsed at once, and nothing but the text: ten times as fast as `as_dataset`, which parses
  # one example after the other.
  splits = info.splits.values()
  num_bytes, num_examples = sum(int(split.num_bytes) for split in splits), sum(split.num_examples for split in splits)
  batch_size = max(1, min(_MAX_BATCH, _BATCH_BYTES * num_examples // max(1, num_bytes)))
  column = {feature: tf.io.FixedLenFeature((), tf.string)}
  for part in info.splits[examples.split].file_instructions:
    records = tf.data.TFRecordDataset(part.filename, buffer_size=_READ_BYTES).skip(part.skip)
    records = records if part.take < 0 else records.take(part.take)
    for batch in records.batch(batch_size):
      yield from tf.io.parse_example(batch, column)[feature].numpy().tolist()


def _by_name(tfds, name: str):
  """The builder of a name, prepared or not."""
  plain, _, version = name.partition(":")
  if plain == "huggingface":
    raise UserError(
      f"tfds:{name}: data sets of the Hugging Face Hub are read as parquet:hf://datasets/OWNER/NAME/**/*.parquet"
    )
  if version and not re.fullmatch(r"[\d*]+\.[\d*]+\.[\d*]+", version):
    raise UserError(
      f"tfds:{name}: neither a version nor a split: {version!r}; expected "
      "NAME[/CONFIG][:VERSION][:SPLIT], as in lm1b, wikipedia/20230601.en:train[:10%] or lm1b:1.1.0:test"
    )
  data_dir = os.environ.get("TFDS_DATA_DIR") or None
  dataset, _, config = plain.partition("/")
  try:
    return tfds.builder(name, data_dir=data_dir)
  except tfds.core.registered.DatasetNotFoundError as error:
    folder = os.path.expanduser(data_dir or tfds.core.constants.DATA_DIR)
    prepared = _folders(folder)
    if dataset in prepared:
      raise UserError(
        f"tfds:{name}: not prepared in {folder}/{dataset}; there is: "
        f"{', '.join(_folders(f'{folder}/{dataset}')) or 'nothing'}"
      ) from error
    names = {*tfds.list_builders(with_community_datasets=False), *prepared}
    raise UserError(
      f"tfds:{name}: no data set {dataset!r} in TensorFlow Datasets, and none prepared in {folder} "
      f"(TFDS_DATA_DIR){_did_you_mean(dataset, names)}"
    ) from error
  except Exception as error:
    configs = _configs(tfds, dataset)
    if not config or config in configs:
      raise UserError(f"tfds:{name}: {_in_short(error)}") from error
    message = f"{dataset} has no configuration {config!r}" if configs else f"{dataset} has no configurations"
    raise UserError(f"tfds:{name}: {message}{_did_you_mean(config, configs)}") from error


def _did_you_mean(word: str, known: Iterable[str]) -> str:
  near = difflib.get_close_matches(word, sorted(known), n=3)
  return f"; did you mean {' or '.join(near)}?" if near else ""


def _folders(folder: str) -> list[str]:
  return sorted(entry.name for entry in os.scandir(folder) if entry.is_dir()) if os.path.isdir(folder) else []


def _configs(tfds, name: str) -> list[str]:
  try:
    return sorted(tfds.builder_cls(name).builder_configs)
  except tfds.core.registered.DatasetNotFoundError:
    return []


def _from_folder(tfds, folder: str):
  try:
    return tfds.builder_from_directory(os.path.expanduser(folder))
  except Exception as error:
    raise UserError(
      f"tfds:{folder}: not the folder of a prepared data set: {_in_short(error)}; name the folder of the "
      "version, as in tfds:~/tensorflow_datasets/lm1b/1.1.0"
    ) from error


def _prepare(examples: DatasetSplit) -> None:
  """Downloads and prepares a data set, after saying so on stderr."""
  import urllib.parse
  import urllib.request  # here because it is slow to import

  import tensorflow_datasets as tfds

  builder = examples.builder
  missing = f"tfds:{examples.name}: not prepared in {builder.data_dir}"
  elsewhere = (
    "prepare it with tensorflow_datasets on another machine and name the folder above all data sets in TFDS_DATA_DIR"
  )
  if isinstance(builder, tfds.core.BeamBasedBuilder):
    raise UserError(
      f"{missing}, which takes Apache Beam (https://www.tensorflow.org/datasets/beam_datasets); set "
      f"TFDS_DATA_DIR=gs://tfds-data/datasets, where Google keeps many that are prepared, or {elsewhere}"
    )
  urls = list(builder.url_infos or ())
  if urls and not urllib.request.getproxies():
    # TFDS tries ten times, which takes minutes, before it finds that there is no network.
    host = urllib.parse.urlsplit(urls[0]).hostname
    try:
      socket.getaddrinfo(host, None)
    except OSError as error:
      raise UserError(
        f"{missing}, and {host}, where it comes from, cannot be reached from here ({error.strerror}); {elsewhere}"
      ) from error
  show(f"{missing}: downloading and preparing it now, once (Ctrl-C stops it)", file=sys.stderr, flush=True)
  try:
    with contextlib.redirect_stdout(sys.stderr):
      builder.download_and_prepare()
  except Exception as error:
    raise UserError(f"{missing}, and preparing it failed: {_in_short(error)}; fix that, or {elsewhere}") from error


def _is_text(feature) -> bool:
  # Not `feature.dtype`, which imports TensorFlow.
  return getattr(feature, "shape", None) == () and np.dtype(feature.np_dtype).kind in "OSU"


def _in_short(error: Exception) -> str:
  """An error's message on one line of bounded length."""
  return f"{type(error).__name__}: {' '.join(str(error).split())[:500]}"


def _quieten() -> None:
  """Keeps remarks of TensorFlow and absl off the terminal. TensorFlow reads the variables when it is imported."""
  os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
  os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")
  import absl.logging

  absl.logging.set_verbosity(absl.logging.ERROR)


def _import_tensorflow():
  _quieten()
  try:
    import tensorflow as tf
  except ImportError as error:
    raise UserError("tfds: sources need TensorFlow: pip install tensorflow-cpu (or tensorflow)") from error
  tf.get_logger().setLevel("ERROR")
  # Only text is read here; TensorFlow would take the memory of a GPU that it sees from JAX.
  tf.config.set_visible_devices([], "GPU")
  return tf
