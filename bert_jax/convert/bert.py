"""BERT's parameters, ours and Hugging Face's: one table, read in both directions.

Every tensor is named in `TABLE`. One that is missing, unknown or of another
shape is an error that names it, so that nothing is ever dropped or left at its
random start in silence. A folder may lack whole heads (a BertModel has no
`cls.*`), never half a head.

Torch keeps dense weights as [out, in], we as [in, out]; our tables are padded
to a multiple of 128 rows, theirs are not. There is no other difference.
"""

from collections.abc import Mapping
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
    theirs: name in a Hugging Face BertForPreTraining.
    dims: our axes, by the letters of `_sizes`, such as 'HI' for a kernel [hidden_size, intermediate_size].
    how: SAME, TRANSPOSE or PAD_VOCAB.
    part: 'encoder', or the head that it belongs to: 'pooler', 'mlm', 'nsp', 'classifier', 'span_head'.
  """

  ours: str
  theirs: str
  dims: str
  how: str
  part: str


def _dense(ours: str, theirs: str, dims: str, part: str = "encoder") -> tuple[Entry, Entry]:
  return (
    Entry(f"{ours}/kernel", f"{theirs}.weight", dims, TRANSPOSE, part),
    Entry(f"{ours}/bias", f"{theirs}.bias", dims[1], SAME, part),
  )


def _layer_norm(ours: str, theirs: str, part: str = "encoder") -> tuple[Entry, Entry]:
  return (
    Entry(f"{ours}/scale", f"{theirs}.weight", "H", SAME, part),
    Entry(f"{ours}/bias", f"{theirs}.bias", "H", SAME, part),
  )


def _table(name: str, dims: str, how: str) -> Entry:
  return Entry(f"encoder/embeddings/{name}/embedding", f"bert.embeddings.{name}.weight", dims, how, "encoder")


_OURS, _THEIRS = "encoder/layer_{n}", "bert.encoder.layer.{n}"

TABLE: tuple[Entry, ...] = (
  _table("word_embeddings", "VH", PAD_VOCAB),
  _table("position_embeddings", "PH", SAME),
  _table("token_type_embeddings", "TH", SAME),
  *_layer_norm("encoder/embeddings/layer_norm", "bert.embeddings.LayerNorm"),
  *_dense(f"{_OURS}/attention/query", f"{_THEIRS}.attention.self.query", "HH"),
  *_dense(f"{_OURS}/attention/key", f"{_THEIRS}.attention.self.key", "HH"),
  *_dense(f"{_OURS}/attention/value", f"{_THEIRS}.attention.self.value", "HH"),
  *_dense(f"{_OURS}/attention/output", f"{_THEIRS}.attention.output.dense", "HH"),
  *_layer_norm(f"{_OURS}/attention/layer_norm", f"{_THEIRS}.attention.output.LayerNorm"),
  *_dense(f"{_OURS}/feed_forward/intermediate", f"{_THEIRS}.intermediate.dense", "HI"),
  *_dense(f"{_OURS}/feed_forward/output", f"{_THEIRS}.output.dense", "IH"),
  *_layer_norm(f"{_OURS}/feed_forward/layer_norm", f"{_THEIRS}.output.LayerNorm"),
  *_dense("pooler/dense", "bert.pooler.dense", "HH", "pooler"),
  *_dense("mlm_head/dense", "cls.predictions.transform.dense", "HH", "mlm"),
  *_layer_norm("mlm_head/layer_norm", "cls.predictions.transform.LayerNorm", "mlm"),
  Entry("mlm_head/bias", "cls.predictions.bias", "V", PAD_VOCAB, "mlm"),
  *_dense("nsp_head/dense", "cls.seq_relationship", "H2", "nsp"),
)

# What fine-tuning puts on an encoder; C is the number of labels.
LABEL_TABLE: tuple[Entry, ...] = (
  *_dense("classifier/dense", "classifier", "HC", "classifier"),
  *_dense("span_head/dense", "qa_outputs", "H2", "span_head"),
)

# What each export holds: the parts that must be there, and those taken along where they are.
EXPORTS = {
  "pretraining": (("encoder", "pooler", "mlm", "nsp"), ()),  # BertForPreTraining
  "mlm": (("encoder", "mlm"), ()),  # BertForMaskedLM, which has no pooler
  "encoder": (("encoder",), ("pooler",)),  # BertModel
  "sequence-classification": (("encoder", "pooler", "classifier"), ()),  # BertForSequenceClassification
  "token-classification": (("encoder", "classifier"), ()),  # BertForTokenClassification, which has no pooler
  "question-answering": (("encoder", "span_head"), ()),  # BertForQuestionAnswering, neither
}


def entries(config: EncoderConfig, num_labels: int | None = None) -> list[Entry]:
  """Returns TABLE with {n} written out for every layer; with LABEL_TABLE where there are labels."""
  result = []
  for entry in TABLE if num_labels is None else TABLE + LABEL_TABLE:
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
  params: Mapping[str, Any], config: EncoderConfig, head: str = "pretraining"
) -> dict[str, np.ndarray]:
  """Names and lays out our parameters as Hugging Face does.

  Args:
    params: the tree of PretrainingModel, NumPy or JAX arrays.
    config: what the parameters belong to.
    head: 'pretraining' (BertForPreTraining), 'mlm' (BertForMaskedLM), 'encoder' (BertModel, with the
      pooler where there is one), or one for labels, see EXPORTS. The tied decoder is not written: Hugging Face ties it
      itself.

  Returns:
    name -> float32 array, C-contiguous (safetensors corrupts others in silence).

  Raises:
    UserError: a parameter is missing, unknown or mis-shaped.
  """
  if head not in EXPORTS:
    raise UserError(f"head: expected one of {', '.join(EXPORTS)}; got {head!r}")
  required, optional = EXPORTS[head]
  flat = traverse_util.flatten_dict(params, sep="/")
  num_labels = _num_labels(flat, [entry.ours for entry in LABEL_TABLE])
  table = entries(config, num_labels)
  present = {entry.part for entry in table if entry.ours in flat}
  unknown = sorted(set(flat) - {entry.ours for entry in table})
  if unknown:
    raise UserError(f"parameters that no Hugging Face BERT has a place for: {', '.join(unknown)}")

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
    name = entry.theirs.removeprefix("bert.") if head == "encoder" else entry.theirs
    tensors[name] = np.ascontiguousarray(array.T if entry.how == TRANSPOSE else array)
  return tensors


def from_huggingface(tensors: Mapping[str, np.ndarray], config: EncoderConfig) -> tuple[dict[str, Any], frozenset[str]]:
  """Reads the tensors of any Hugging Face BERT pretraining class into our tree.

  Accepted besides TABLE: names without `bert.` (BertModel); `gamma` and `beta` for LayerNorm (files of
  2019); the tied `cls.predictions.decoder.*`, which must equal what it is tied to; the buffers
  `position_ids` and `token_type_ids`, which must hold what they always hold.

  Args:
    tensors: name -> floating array.
    config: what the tensors should belong to.

  Returns:
    params, float32 NumPy arrays, heads that are absent left out; and which of
    'mlm', 'nsp', 'pooler', 'classifier', 'span_head' are present.

  Raises:
    UserError: a tensor is missing, unknown, mis-shaped, not a number, or not equal to what it is tied to.
  """
  tensors = _settle_ties(_modern_names(tensors), config)
  num_labels = _num_labels(tensors, [entry.theirs for entry in LABEL_TABLE])
  table = entries(config, num_labels)
  unknown = sorted(set(tensors) - {entry.theirs for entry in table})
  if unknown:
    raise UserError(
      f"unknown tensors: {', '.join(unknown)}; expected those of a BertForPreTraining, "
      f"BertForMaskedLM, BertForNextSentencePrediction, BertModel, or a head for labels, with "
      f"{config.num_hidden_layers} layers"
    )
  present = {"encoder"} | {entry.part for entry in table if entry.theirs in tensors}
  if "nsp" in present:
    present.add("pooler")  # the NSP head reads the pooler: one without the other is half a head
  missing = [entry.theirs for entry in table if entry.part in present and entry.theirs not in tensors]
  if missing:
    raise UserError(f"missing tensors: {', '.join(missing)}")

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


def _modern_names(tensors: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
  """Adds `bert.` where a BertModel lacks it, and renames the gamma and beta of 2019."""
  bare = not any(name.startswith("bert.") for name in tensors)
  renamed = {}
  for name, tensor in tensors.items():
    new = f"bert.{name}" if bare and name.startswith(("embeddings.", "encoder.", "pooler.")) else name
    new = new.replace("LayerNorm.gamma", "LayerNorm.weight").replace("LayerNorm.beta", "LayerNorm.bias")
    if new in renamed:
      raise UserError(f"two tensors for {new}: one of them is {name}")
    renamed[new] = tensor
  return renamed


def _settle_ties(tensors: dict[str, np.ndarray], config: EncoderConfig) -> dict[str, np.ndarray]:
  """Checks and drops what is a copy of another tensor or always the same."""
  tensors = dict(tensors)
  bias = tensors.pop("cls.predictions.decoder.bias", None)
  if bias is not None:
    tied = tensors.setdefault("cls.predictions.bias", bias)
    _check_equal("cls.predictions.decoder.bias", bias, "cls.predictions.bias", tied)
  decoder = tensors.pop("cls.predictions.decoder.weight", None)
  words = "bert.embeddings.word_embeddings.weight"
  if decoder is not None and words in tensors:
    _check_equal("cls.predictions.decoder.weight", decoder, words, tensors[words])
  length = config.max_position_embeddings
  for name, expected, constant in (
    ("position_ids", "0, 1, 2, …", np.arange(length)),
    ("token_type_ids", "0, 0, 0, …", np.zeros(length)),
  ):
    buffer = tensors.pop(f"bert.embeddings.{name}", None)
    if buffer is not None and not np.array_equal(np.ravel(buffer), constant):
      raise UserError(
        f"buffer bert.embeddings.{name}: expected {length} values {expected}, as in BERT; got "
        "others: this model numbers its tokens in another way"
      )
  return tensors


def _check_equal(name: str, tensor: np.ndarray, tied_name: str, tied: np.ndarray) -> None:
  if not np.array_equal(tensor, tied):
    raise UserError(
      f"tensor {name} differs from {tied_name}; BERT ties them, and so does this model: "
      "an untied decoder cannot be represented"
    )


def _check_shape(what: str, got: tuple[int, ...], expected: tuple[int, ...]) -> None:
  if tuple(got) != tuple(expected):
    raise UserError(f"{what}: expected shape {list(expected)}, got {list(got)}")


def _as_float32(name: str, tensor: np.ndarray) -> np.ndarray:
  """float16 and bfloat16 go into float32 without loss."""
  tensor = np.asarray(tensor)
  if tensor.dtype.name not in ("float16", "bfloat16", "float32", "float64"):
    raise UserError(f"tensor {name}: expected a floating dtype, got {tensor.dtype.name}")
  return tensor.astype(np.float32)
