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
import urllib.parse
import urllib.request
from typing import Any, Iterator, NamedTuple

from bert_jax.data.files import note_bad
from bert_jax.errors import UserError

# NAME[/CONFIG][:VERSION][:SPLIT] or FOLDER[:SPLIT]. A version begins with a digit; a slice may hold a colon.
_ARGUMENT = re.compile(r"(?P<name>.+?)(?::(?P<split>[A-Za-z_]\w*(?:\[[^\]]*\])?(?:\+.+)?))?")
_FOLDER = re.compile(r"[~./]|[a-z][\w+.-]+://")

_BATCH_BYTES = 4 * 2**20
_MAX_BATCH = 1024


class Examples(NamedTuple):
  """One split of a data set that is prepared on disk.

  Attributes:
    builder: of TFDS.
    name: 'lm1b' or 'wikipedia/20230601.en'.
    version: '1.1.0'.
    split: 'train', 'train[:1%]', 'train+test'.
    num_examples, num_bytes: of the split.
  """

  builder: Any
  name: str
  version: str
  split: str
  num_examples: int
  num_bytes: int

  @property
  def file(self) -> str:
    """What documents name as their origin, as in 'tfds:lm1b/1.1.0:train'."""
    return f"tfds:{self.name}/{self.version}:{self.split}"


def find(argument: str) -> Examples:
  """Finds a data set and, where it is not prepared on disk yet, downloads and prepares it.

  Args:
    argument: NAME[/CONFIG][:VERSION][:SPLIT] or FOLDER[:SPLIT], a folder being the one of a prepared version
      with its dataset_info.json. The split is `train` if not named. TFDS looks in the folder that the variable
      TFDS_DATA_DIR names, else in ~/tensorflow_datasets.

  Raises:
    UserError: a name, configuration, version or split that does not exist; a download that fails, needs a
      file brought by hand or a cluster.
  """
  _quieten()
  try:
    import tensorflow_datasets as tfds
  except ImportError as error:
    raise UserError(f"tfds:{argument}: needs TensorFlow Datasets: pip install tensorflow-datasets") from error
  found = _ARGUMENT.fullmatch(argument)
  name, split = found["name"], found["split"] or "train"
  builder = _from_folder(tfds, name) if _FOLDER.match(name) else _by_name(tfds, name)
  if not builder.is_prepared():
    _prepare(tfds, builder, name)
  try:
    info = builder.info.splits[split]
  except (KeyError, ValueError, AssertionError) as error:
    near = difflib.get_close_matches(split, builder.info.splits, n=1)
    raise UserError(f"tfds:{argument}: no split {split!r}" + (f"; did you mean {near[0]!r}?" if near else "")
                    + f" Splits: {', '.join(builder.info.splits)}") from error
  full_name = builder.info.full_name.rpartition("/")[0]
  return Examples(builder, full_name, str(builder.version), split, info.num_examples, info.num_bytes)


def check_feature(examples: Examples, feature: str) -> None:
  """Raises UserError, listing what there is, where the examples have no text of that name."""
  features = examples.builder.info.features
  texts = [name for name in features if _is_text(features[name])]
  remedy = f"name one of text with --text_field={texts[0]}" if texts else "it has no feature of text"
  if feature not in features:
    raise UserError(f"{examples.file}: no feature {feature!r} (features: {', '.join(features)}); {remedy}")
  if feature not in texts:
    raise UserError(f"{examples.file}: feature {feature!r} is {features[feature]}, not text; {remedy}")


def read_texts(
    examples: Examples, feature: str, *, skip_bad: bool, counts: collections.Counter) -> Iterator[tuple[int, str]]:
  """The texts of one feature, in the order in which the data set is stored.

  Args:
    examples: from `find`.
    feature: the name of a feature of text.
    skip_bad: skip and count what does not decode (`bad_documents`), and the rest behind a damaged
      place (`bad_files`), instead of raising.
    counts: receives `files` (1), `bad_documents` and `bad_files`.

  Yields:
    (number of the example in the split from 0, text).
  """
  check_feature(examples, feature)
  counts["files"] += 1
  number = 0
  texts = _stored(examples, feature)
  while True:
    try:
      text = next(texts, None)
    except Exception as error:  # TensorFlow's errors have no base class that could be named without importing it
      note_bad(f"{examples.file}: damaged or cut off after example {number - 1} "
               f"({type(error).__name__}: {str(error).partition(chr(10))[0]}); prepare the data set again",
               skip_bad=skip_bad, counts=counts, key="bad_files")
      return
    if text is None:
      return
    try:
      yield number, text.decode("utf-8") if isinstance(text, bytes) else text
    except UnicodeDecodeError as error:
      note_bad(f"{examples.file}: example {number}: not UTF-8: byte 0x{text[error.start]:02x} at byte {error.start + 1}",
               skip_bad=skip_bad, counts=counts, key="bad_documents")
    number += 1


def _stored(examples: Examples, feature: str) -> Iterator[bytes | str]:
  """The values as stored, one file after the other, a few MiB at a time."""
  tf = _import_tensorflow()
  import tensorflow_datasets as tfds

  only = tfds.decode.PartialDecoding({feature: examples.builder.info.features[feature]})
  size = examples.num_bytes // max(1, examples.num_examples)
  batch_size = max(1, min(_MAX_BATCH, _BATCH_BYTES // max(1, size)))
  try:
    batches = examples.builder.as_dataset(
        split=examples.split, batch_size=batch_size, shuffle_files=False, decoders=only,
        read_config=tfds.ReadConfig(interleave_cycle_length=1, try_autocache=False))
  except NotImplementedError:  # formats of random access: array_record, parquet
    for example in examples.builder.as_data_source(split=examples.split, decoders=only):
      yield example[feature]
    return
  for batch in batches:
    yield from batch[feature].numpy().tolist()


def _by_name(tfds, name: str):
  """The builder of a name, prepared or not."""
  plain, _, version = name.partition(":")
  if version and not version[0].isdigit():
    raise UserError(f"tfds:{name}: expected NAME[/CONFIG][:VERSION][:SPLIT]; data sets of the Hugging Face Hub are read "
                    "as parquet:hf://datasets/OWNER/NAME/**/*.parquet")
  data_dir = os.environ.get("TFDS_DATA_DIR") or None
  try:
    return tfds.builder(name, data_dir=data_dir)
  except tfds.core.registered.DatasetNotFoundError as error:
    kind, known = "data set", _names(tfds, data_dir)
    wrong, cause = plain.partition("/")[0], error
  except Exception as error:
    configs = _configs(tfds, plain.partition("/")[0])
    kind, known = "configuration", configs
    wrong, cause = plain.partition("/")[2], error
    if not wrong or wrong in configs or not configs:
      raise UserError(f"tfds:{name}: {_in_short(error)}") from error
  near = difflib.get_close_matches(wrong, known, n=3)
  raise UserError(f"tfds:{name}: TensorFlow Datasets has no {kind} {wrong!r}"
                  + (f"; did you mean {' or '.join(near)}?" if near else "")
                  + f" Looked for it in {data_dir or tfds.core.constants.DATA_DIR} (TFDS_DATA_DIR), too") from cause


def _names(tfds, data_dir) -> list[str]:
  folder = os.path.expanduser(data_dir or tfds.core.constants.DATA_DIR)
  prepared = os.listdir(folder) if os.path.isdir(folder) else []
  return sorted({*tfds.list_builders(with_community_datasets=False), *prepared} - {"downloads"})


def _configs(tfds, name: str) -> list[str]:
  try:
    return sorted(tfds.builder_cls(name).builder_configs)
  except tfds.core.registered.DatasetNotFoundError:
    return []


def _from_folder(tfds, folder: str):
  try:
    return tfds.builder_from_directory(os.path.expanduser(folder))
  except Exception as error:
    raise UserError(f"tfds:{folder}: not the folder of a prepared data set: {_in_short(error)}; name the folder of the "
                    "version, as in tfds:~/tensorflow_datasets/lm1b/1.1.0") from error


def _prepare(tfds, builder, name: str) -> None:
  """Downloads and prepares a data set, after saying so on stderr."""
  missing = f"tfds:{name}: {builder.info.full_name} is not prepared in {builder.data_dir}"
  elsewhere = "prepare it with tensorflow_datasets elsewhere and name the folder above it in TFDS_DATA_DIR"
  if isinstance(builder, tfds.core.BeamBasedBuilder):
    raise UserError(f"{missing}, and preparing it takes a Beam cluster; read the copy that Google keeps, with "
                    f"TFDS_DATA_DIR=gs://tfds-data/datasets, or {elsewhere}")
  urls = list(builder.url_infos or ())
  if urls and not urllib.request.getproxies():
    # TFDS tries ten times, which takes minutes, before it finds that there is no network.
    host = urllib.parse.urlsplit(urls[0]).hostname
    try:
      socket.getaddrinfo(host, None)
    except OSError as error:
      raise UserError(f"{missing}, and {host}, where it comes from, is not to be reached ({error.strerror}); "
                      f"{elsewhere}") from error
  print(f"{missing}: downloading and preparing it now, once (Ctrl-C stops it)", file=sys.stderr, flush=True)
  try:
    with contextlib.redirect_stdout(sys.stderr):
      builder.download_and_prepare()
  except Exception as error:
    raise UserError(f"{missing}, and doing so failed: {_in_short(error)}; mend that, or {elsewhere}") from error


def _is_text(feature) -> bool:
  dtype = getattr(feature, "dtype", None)
  return getattr(feature, "shape", None) == () and getattr(dtype, "name", str(dtype)) in ("string", "str", "object", "bytes")


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
