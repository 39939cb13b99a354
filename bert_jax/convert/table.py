"""Parameters, ours and Hugging Face's: the engine that reads a family's table in both directions.

Every tensor is named in the table of its family (bert.py). One that is missing,
unknown or of another shape is an error that names it, so that nothing is ever
dropped or left at its random start in silence. A folder may lack whole heads (a
BertModel has no `cls.*`), never half a head.

Torch keeps dense weights as [out, in], we as [in, out]; our tables of words are
padded to a multiple of 128 rows, theirs are not. There is no other difference.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np
from flax import traverse_util

from bert_jax.errors import UserError
from bert_jax.models.config import EncoderConfig

# Entry.how: what lies between our array and theirs.
SAME, TRANSPOSE, PAD_VOCAB = "same", "transpose", "pad vocabulary"


class Entry(NamedTuple):
  """One tensor, or one per layer where the names hold {n}.

  Attributes:
    ours: path in the parameter tree, joined by '/'.
    theirs: name in Hugging Face's class with all pretraining heads.
    dims: our axes, by the letters of `_sizes`, such as 'HI' for a kernel [hidden_size, intermediate_size].
    how: SAME, TRANSPOSE or PAD_VOCAB.
    part: 'encoder', or the head that it belongs to: 'pooler', 'mlm', 'nsp', 'classifier', 'span_head'.
  """

  ours: str
  theirs: str
  dims: str
  how: str
  part: str


class Buffer(NamedTuple):
  """A tensor that always holds the same, and that older files have.

  Attributes:
    theirs: its name.
    shown: what it holds, for people.
    values: (config) -> its values, flat.
  """

  theirs: str
  shown: str
  values: Callable[[EncoderConfig], np.ndarray]


class Conversion(NamedTuple):
  """How the tensors of one family are named and laid out.

  Attributes:
    name: what people call the family, for messages.
    table: the tensors of encoder and pretraining heads.
    label_table: those of heads for labels; their biases tell how many labels there are.
    exports: head -> (parts that must be there, parts taken along where they are).
    classes: what can be read, for messages.
    prefix: what the names of the encoder begin with in every class but the bare encoder's.
    bare: what names of the bare encoder begin with.
    renamed: parts of names in older files -> today's.
    implied: part -> another one without which it is half a head.
    ties: (tensor that may be stored, what it has to equal, whether it may stand for that).
    buffers: tensors that are checked and dropped.
  """

  name: str
  table: tuple[Entry, ...]
  label_table: tuple[Entry, ...]
  exports: Mapping[str, tuple[tuple[str, ...], tuple[str, ...]]]
  classes: str
  prefix: str
  bare: tuple[str, ...]
  renamed: Mapping[str, str]
  implied: Mapping[str, str]
  ties: tuple[tuple[str, str, bool], ...]
  buffers: tuple[Buffer, ...]


def dense(ours: str, theirs: str, dims: str, part: str = "encoder") -> tuple[Entry, Entry]:
  return (
    Entry(f"{ours}/kernel", f"{theirs}.weight", dims, TRANSPOSE, part),
    Entry(f"{ours}/bias", f"{theirs}.bias", dims[1], SAME, part),
  )


def layer_norm(ours: str, theirs: str, part: str = "encoder") -> tuple[Entry, Entry]:
  return (
    Entry(f"{ours}/scale", f"{theirs}.weight", "H", SAME, part),
    Entry(f"{ours}/bias", f"{theirs}.bias", "H", SAME, part),
  )


def entries(conversion: Conversion, config: EncoderConfig, num_labels: int | None = None) -> list[Entry]:
  """The table with {n} written out for every layer; with that of heads for labels where there are labels."""
  result = []
  for entry in conversion.table if num_labels is None else conversion.table + conversion.label_table:
    layers = range(config.num_hidden_layers) if "{n}" in entry.ours else (None,)
    result += [entry._replace(ours=entry.ours.format(n=n), theirs=entry.theirs.format(n=n)) for n in layers]
  return result


def _sizes(config: EncoderConfig, num_labels: int | None) -> dict[str, int]:
  """What the letters of Entry.dims stand for; V is the true vocabulary."""
  return {
    "C": num_labels or 0,
    "V": config.vocab_size,
    "P": config.max_position_embeddings,
    "T": config.type_vocab_size,
    "H": config.hidden_size,
    "I": config.intermediate_size,
    "2": 2,
  }


def their_shape(entry: Entry, config: EncoderConfig, num_labels: int | None = None) -> tuple[int, ...]:
  """Returns the shape of Hugging Face's tensor."""
  shape = tuple(_sizes(config, num_labels)[letter] for letter in entry.dims)
  return shape[::-1] if entry.how == TRANSPOSE else shape


def our_shape(entry: Entry, config: EncoderConfig, num_labels: int | None = None) -> tuple[int, ...]:
  """Returns the shape of our parameter."""
  sizes = _sizes(config, num_labels) | {"V": config.padded_vocab_size}
  return tuple(sizes[letter] for letter in entry.dims)


def to_huggingface(
  conversion: Conversion, params: Mapping[str, Any], config: EncoderConfig, head: str = "pretraining"
) -> dict[str, np.ndarray]:
  """Names and lays out our parameters as Hugging Face does.

  Args:
    conversion: the family's.
    params: the tree of PretrainingModel, NumPy or JAX arrays.
    config: what the parameters belong to.
    head: one of conversion.exports. Tied tensors are not written: Hugging Face ties them itself.

  Returns:
    name -> float32 array, C-contiguous (safetensors corrupts others in silence).

  Raises:
    UserError: a parameter is missing, unknown or mis-shaped.
  """
  if head not in conversion.exports:
    raise UserError(f"head: expected one of {', '.join(conversion.exports)}; got {head!r}")
  required, optional = conversion.exports[head]
  flat = traverse_util.flatten_dict(params, sep="/")
  num_labels = _num_labels(flat, [entry.ours for entry in conversion.label_table])
  table = entries(conversion, config, num_labels)
  present = {entry.part for entry in table if entry.ours in flat}
  unknown = sorted(set(flat) - {entry.ours for entry in table})
  if unknown:
    raise UserError(f"parameters that have no counterpart in Hugging Face {conversion.name}: {', '.join(unknown)}")

  tensors = {}
  for entry in table:
    if entry.part not in required and not (entry.part in optional and entry.part in present):
      continue
    if entry.ours not in flat:
      raise UserError(
        f"the {head!r} export needs parameter {entry.ours}, which this model does not have; "
        f"it has: {', '.join(sorted(present))}"
      )
    array = np.asarray(flat[entry.ours], dtype=np.float32)
    _check_shape(f"parameter {entry.ours}", array.shape, our_shape(entry, config, num_labels))
    if entry.how == PAD_VOCAB:
      array = array[: config.vocab_size]
    name = entry.theirs.removeprefix(conversion.prefix) if head == "encoder" else entry.theirs
    tensors[name] = np.ascontiguousarray(array.T if entry.how == TRANSPOSE else array)
  return tensors


def from_huggingface(
  conversion: Conversion, tensors: Mapping[str, np.ndarray], config: EncoderConfig
) -> tuple[dict[str, Any], frozenset[str]]:
  """Reads the tensors of any of a family's classes into our tree.

  Accepted besides the table: the names of the bare encoder and of older files; tied tensors, which must equal what they
  are tied to; buffers, which must hold what they always hold.

  Args:
    conversion: the family's.
    tensors: name -> floating array.
    config: what the tensors should belong to.

  Returns:
    params, float32 NumPy arrays, heads that are absent left out; and which of
    'mlm', 'nsp', 'pooler', 'classifier', 'span_head' are present.

  Raises:
    UserError: a tensor is missing, unknown, mis-shaped, not a number, or not equal to what it is tied to.
  """
  tensors = _without_copies(conversion, _modern_names(conversion, tensors), config)
  num_labels = _num_labels(tensors, [entry.theirs for entry in conversion.label_table])
  table = entries(conversion, config, num_labels)
  unknown = sorted(set(tensors) - {entry.theirs for entry in table})
  if unknown:
    raise UserError(
      f"unknown tensors: {_listed(unknown)}; expected those of {conversion.classes}, or a head for labels, with "
      f"{config.num_hidden_layers} layers"
    )
  present = {"encoder"} | {entry.part for entry in table if entry.theirs in tensors}
  present |= {needed for part, needed in conversion.implied.items() if part in present}
  missing = [entry.theirs for entry in table if entry.part in present and entry.theirs not in tensors]
  if missing:
    raise UserError(f"missing tensors: {_listed(missing)}")

  flat = {}
  for entry in table:
    if entry.part not in present:
      continue
    array = _as_float32(entry.theirs, tensors[entry.theirs])
    _check_shape(f"tensor {entry.theirs}", array.shape, their_shape(entry, config, num_labels))
    if entry.how == PAD_VOCAB:
      padding = [(0, config.padded_vocab_size - config.vocab_size)] + [(0, 0)] * (array.ndim - 1)
      array = np.pad(array, padding)
    flat[entry.ours] = np.ascontiguousarray(array.T if entry.how == TRANSPOSE else array)
  return traverse_util.unflatten_dict(flat, sep="/"), frozenset(present - {"encoder"})


def _num_labels(arrays: Mapping[str, Any], names: list[str]) -> int | None:
  """How many labels a fine-tuned head among the arrays has; None without such a head."""
  return next((np.shape(arrays[name])[0] for name in names if name in arrays and np.ndim(arrays[name]) == 1), None)


def _modern_names(conversion: Conversion, tensors: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
  """Adds the prefix that the bare encoder lacks, and renames what older files call otherwise."""
  is_bare = not any(name.startswith(conversion.prefix) for name in tensors)
  modern = {}
  for name, tensor in tensors.items():
    new = f"{conversion.prefix}{name}" if is_bare and name.startswith(conversion.bare) else name
    for old, now in conversion.renamed.items():
      new = new.replace(old, now)
    if new in modern:
      raise UserError(f"two tensors for {new}: one of them is {name}")
    modern[new] = tensor
  return modern


def _without_copies(
  conversion: Conversion, tensors: dict[str, np.ndarray], config: EncoderConfig
) -> dict[str, np.ndarray]:
  """Checks and drops what is a copy of another tensor or always the same."""
  tensors = dict(tensors)
  for copy, original, stands_for in conversion.ties:
    tensor = tensors.pop(copy, None)
    if tensor is not None and stands_for:
      tensors.setdefault(original, tensor)
    if tensor is not None and original in tensors and not np.array_equal(tensor, tensors[original]):
      raise UserError(
        f"tensor {copy} differs from {original}; {conversion.name} ties them, and so does this model: an untied "
        "decoder cannot be represented"
      )
  for theirs, shown, values in conversion.buffers:
    buffer, count = tensors.pop(theirs, None), config.max_position_embeddings
    if buffer is not None and not (np.size(buffer) == count and np.array_equal(np.ravel(buffer), values(config))):
      raise UserError(
        f"buffer {theirs}: expected {count} values {shown}, as in {conversion.name}; got other values: "
        "this model numbers its tokens differently"
      )
  return tensors


def _listed(names: list[str]) -> str:
  return ", ".join(names[:10]) + (f" and {len(names) - 10} more" if len(names) > 10 else "")


def _check_shape(what: str, got: tuple[int, ...], expected: tuple[int, ...]) -> None:
  if tuple(got) != tuple(expected):
    raise UserError(f"{what}: expected shape {list(expected)}, got {list(got)}")


def _as_float32(name: str, tensor: np.ndarray) -> np.ndarray:
  """float16 and bfloat16 go into float32 without loss."""
  tensor = np.asarray(tensor)
  if tensor.dtype.name not in ("float16", "bfloat16", "float32", "float64"):
    raise UserError(f"tensor {name}: expected a floating dtype, got {tensor.dtype.name}")
  return tensor.astype(np.float32)
