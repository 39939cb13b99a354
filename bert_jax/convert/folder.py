"""Model folders in the layout of Hugging Face, written and read without torch or transformers.

A folder holds model.safetensors, config.json and four tokenizer files;
`from_pretrained` loads it. With an Encoding it holds besides what
sentence-transformers needs to turn token vectors into one per text, in the
layout that its versions 5 and 6 both load.

A folder appears whole or not at all: it is written beside its place under
another name, then renamed; in an object store its config.json comes last.
"""

import dataclasses
import json
import pathlib
import shutil
import tempfile
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
import safetensors
import safetensors.numpy
from etils import epath

from bert_jax.convert import bert, table
from bert_jax.convert.model_config import LABELLED, check_names, read_config
from bert_jax.convert.sentence_folder import POOLING_MODES, Encoding, write_modules
from bert_jax.data.labelled.examples import Labels
from bert_jax.data.tokenizer.wordpiece import load_tokenizer, save_tokenizer
from bert_jax.errors import UserError, printable
from bert_jax.io import atomic, storage
from bert_jax.io.json_files import read_json, write_json
from bert_jax.io.numbers import check_finite
from bert_jax.models.config import EncoderConfig
from bert_jax.models.families import FAMILIES, family_of

# Family -> how its tensors are named.
CONVERSIONS = {"bert": bert.BERT}
# What heads are called, whatever the family.
EXPORT_HEADS = tuple(FAMILIES["bert"].heads)

# The mark in model.safetensors by which an earlier export is known, and the files that one may hold.
# Anything else in the folder was put there by somebody, who would not thank us for replacing it.
# transformers asks for format "pt". One entry only: safetensors writes several in a random order, and equal weights
# should be equal files.
_METADATA = {"format": "pt"}
# What a CrossEncoder would not make of the outputs by itself: a probability of each, or the score that it is.
_ACTIVATIONS = {"multi-label": "torch.nn.modules.activation.Sigmoid", "regression": "torch.nn.modules.linear.Identity"}
_MOVE_IT = "choose another folder, or move this one away"
_PRODUCER = "bert_jax"  # in config.json: tells our exports from folders that must not be replaced
_OWN_FILES = frozenset(
  {
    "model.safetensors",
    "config.json",
    "README.md",
    "tokenizer.json",
    "vocab.txt",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "modules.json",
    "sentence_bert_config.json",
    "config_sentence_transformers.json",
    "1_Pooling",
    "2_Normalize",
  }
)

# Weights that are not read: what they are, which library converts them, and the flag that it needs. Pickle
# runs code when it is loaded.
_OTHER_WEIGHTS = {
  "pytorch_model.bin": ("PyTorch pickle", "transformers", ""),
  "pytorch_model.bin.index.json": ("PyTorch pickle", "transformers", ""),
  "tf_model.h5": ("TensorFlow", "transformers 4", ", from_tf=True"),
  "flax_model.msgpack": ("Flax", "transformers 4", ", from_flax=True"),
}


def write_folder(
  out: str | pathlib.Path,
  params: Mapping[str, Any],
  config: EncoderConfig,
  tokenizer_dir: str | pathlib.Path,
  *,
  head: str = "pretraining",
  encoding: Encoding | None = None,
  labels: Labels | None = None,
  max_length: int | None = None,
  card: str = "",
) -> None:
  """Writes a model folder that transformers or sentence-transformers loads.

  Args:
    out: the folder to make. It may exist if it is empty or an earlier export: that one is replaced, once
      the new one is complete.
    params: the tree of PretrainingModel.
    config: what the parameters belong to.
    tokenizer_dir: a tokenizer folder or vocab.txt; all four tokenizer files are written, whichever it has.
    head: one of EXPORT_HEADS, see table.to_huggingface. sentence-transformers has no use for MLM and NSP heads, and
      lists their weights as unexpected.
    encoding: how sentence-transformers makes one vector of many, pooling 'mean', 'cls' or 'max'; None: a folder for
      transformers alone.
    labels: what the outputs of a head for labels mean.
    max_length: tokens of a text that are to be read, [CLS] and [SEP] included; None: as many as the model has
      positions.
    card: the model card, README.md; empty: none.

  Raises:
    UserError: `out` holds something else, parameters or tokenizer do not fit, the disk is full. Whatever
      was in `out` is then still there.
  """
  if encoding is not None and encoding.pooling not in POOLING_MODES:
    raise UserError(f"pooling: expected one of {', '.join(POOLING_MODES)}; got {encoding.pooling!r}")
  if storage.is_remote(out):
    with tempfile.TemporaryDirectory() as made_in:
      write_folder(
        pathlib.Path(made_in, "model"),
        params,
        config,
        tokenizer_dir,
        head=head,
        encoding=encoding,
        labels=labels,
        max_length=max_length,
        card=card,
      )
      _send(pathlib.Path(made_in, "model"), storage.folder(out))
    return
  out = pathlib.Path(out)
  _check_replaceable(out)
  tokenizer = load_tokenizer(tokenizer_dir)
  if tokenizer.vocab_size > config.vocab_size:
    raise UserError(
      f"{tokenizer_dir}: {tokenizer.vocab_size} tokens do not fit a model with vocab_size "
      f"{config.vocab_size}; export with the tokenizer that it was trained with"
    )
  config, max_length = (
    dataclasses.replace(config, pad_token_id=tokenizer.special.pad),
    max_length or config.max_position_embeddings,
  )
  tensors = to_huggingface(_with_scale(params, labels), config, head)

  try:
    with atomic.new_version(out) as partial:
      write_json(partial / "config.json", config_json(config, head, labels))
      safetensors.numpy.save_file(tensors, partial / "model.safetensors", metadata=_METADATA)
      # safetensors makes it readable by its owner alone, whatever the umask says.
      shutil.copymode(partial / "config.json", partial / "model.safetensors")
      if card:
        (partial / "README.md").write_text(printable(card), encoding="utf-8")
      save_tokenizer(tokenizer, partial, max_length=max_length)
      if encoding is not None:
        write_modules(partial, config, encoding, max_length)
  except (OSError, safetensors.SafetensorError) as error:
    raise UserError(f"cannot write {out}: {error}; the folder is unchanged") from error


def to_huggingface(
  params: Mapping[str, Any], config: EncoderConfig, head: str = "pretraining"
) -> dict[str, np.ndarray]:
  """Tensors as transformers names them, see table.to_huggingface."""
  return table.to_huggingface(CONVERSIONS[family_of(config)], params, config, head)


def from_huggingface(tensors: Mapping[str, np.ndarray], config: EncoderConfig) -> tuple[dict[str, Any], frozenset[str]]:
  """Parameters and the heads among them, see table.from_huggingface."""
  return table.from_huggingface(CONVERSIONS[family_of(config)], tensors, config)


def read_folder(path: str | pathlib.Path) -> tuple[EncoderConfig, dict[str, Any], frozenset[str]]:
  """Reads a Hugging Face BERT folder: config.json with model.safetensors or its shards.

  Returns:
    The config; the parameters (float32 NumPy, absent heads left out); and which of 'mlm', 'nsp',
    'pooler' the folder has.

  Raises:
    UserError: not a BERT, one that this model cannot represent, weights in another format, or a tensor
      that is missing, unknown or mis-shaped.
  """
  path = pathlib.Path(path)
  if not path.is_dir():
    raise UserError(f"{path}: no such folder; expected a Hugging Face model folder with config.json")
  config, _ = read_config(path)
  tensors = _read_tensors(path)
  check_names(path, tensors.keys(), config)
  try:
    params, heads = from_huggingface(tensors, config)
  except UserError as error:
    raise UserError(f"{path}: {error}") from error
  return config, params, heads


def head_of_labels(labels: Labels) -> str:
  """The head, one of EXPORT_HEADS, that a model with such labels has."""
  return LABELLED[labels.kind][0]


def _with_scale(params: Mapping[str, Any], labels: Labels | None) -> Mapping[str, Any]:
  """Parameters whose head gives scores as they stand in the data: Hugging Face's models know no scale."""
  if labels is None or labels.scale == 1.0:
    return params
  return {
    **params,
    "classifier": jax.tree.map(lambda x: np.asarray(x) * np.float32(labels.scale), params["classifier"]),
  }


def _about_labels(labels: Labels | None) -> dict[str, Any]:
  if labels is None or labels.kind == "question-answering":
    return {}
  names = dict(enumerate(labels.names))
  problem = LABELLED[labels.kind][1]
  activation = _ACTIVATIONS.get(labels.kind)
  return {
    "id2label": {str(number): name for number, name in names.items()},
    "label2id": {name: number for number, name in names.items()},
    **({"problem_type": problem} if problem else {}),
    **({"sentence_transformers": {"activation_fn": activation}} if activation else {}),
  }


def config_json(config: EncoderConfig, head: str, labels: Labels | None = None) -> dict[str, Any]:
  """What config.json says of a model with one of EXPORT_HEADS, for any version of transformers."""
  name = family_of(config)
  return {
    "architectures": [FAMILIES[name].heads[head]],
    "model_type": name,
    **FAMILIES[name].fixed,
    **dataclasses.asdict(config),
    **_about_labels(labels),
    "classifier_dropout": None,
    "producer": _PRODUCER,
    "dtype": "float32",  # transformers 5
    "torch_dtype": "float32",  # transformers 4
  }


def _read_tensors(folder: pathlib.Path) -> dict[str, np.ndarray]:
  if (folder / "model.safetensors").is_file():
    return _load(folder / "model.safetensors")
  index = folder / "model.safetensors.index.json"
  if index.is_file():
    return _read_shards(index)
  for name, (kind, where, flag) in _OTHER_WEIGHTS.items():
    if (folder / name).is_file():
      raise UserError(
        f"{folder / name}: {kind} weights are not read, only model.safetensors. Convert them once, where "
        f"you trust the file, in {where}: BertForPreTraining.from_pretrained({str(folder)!r}{flag})"
        ".save_pretrained(NEW_FOLDER, safe_serialization=True)"
      )
  raise UserError(f"{folder}: no weights; expected model.safetensors or model.safetensors.index.json")


def _read_shards(index: pathlib.Path) -> dict[str, np.ndarray]:
  """Reads every shard that the index names; what they hold together must be what it lists."""
  content = read_json(index)
  weight_map = content.get("weight_map") if isinstance(content, dict) else None
  if not isinstance(weight_map, dict) or not all(isinstance(name, str) for name in weight_map.values()):
    raise UserError(f'{index}: expected a JSON object with "weight_map", tensor name to file name')
  tensors = {}
  for name in sorted(set(weight_map.values())):
    if pathlib.PurePath(name).name != name:
      raise UserError(f"{index}: expected file names without folders, got {name!r}")
    for tensor_name, tensor in _load(index.parent / name).items():
      if weight_map.get(tensor_name) != name:
        raise UserError(f"{index.parent / name}: holds {tensor_name}, which {index.name} does not list there")
      tensors[tensor_name] = tensor
  lost = sorted(set(weight_map) - set(tensors))
  if lost:
    raise UserError(f"{index}: the shards lack {', '.join(lost)}")
  return tensors


def _load(file: pathlib.Path) -> dict[str, np.ndarray]:
  try:
    tensors = safetensors.numpy.load_file(file)
  except (safetensors.SafetensorError, OSError) as error:
    raise UserError(f"{file}: not a readable safetensors file ({error}); copy it again") from error
  check_finite(tensors, str(file))
  return tensors


def _check_replaceable(out: pathlib.Path) -> None:
  """Refuses to write over anything but nothing, an empty folder, or an earlier export."""
  if not out.exists() and not out.is_symlink():
    return
  if not out.is_dir() or out.is_symlink():
    raise UserError(f"{out} exists and is not a plain folder; {_MOVE_IT}")
  _check_only_ours(out, {file.name for file in out.iterdir()})


def _check_only_ours(out: pathlib.Path | epath.Path, names: set[str], *, half: bool = False) -> None:
  """Refuses a folder with files that are not those of an earlier export; `half`: one without its config.json was ours,
  too.
  """
  if not names:
    return
  if not (_is_export(out) or half and "config.json" not in names):
    raise UserError(f"{out} exists and is not an earlier export of bert_jax; {_MOVE_IT}")
  foreign = sorted(names - _OWN_FILES)
  if foreign:
    raise UserError(f"{out} is an earlier export, but also holds {', '.join(foreign)}; {_MOVE_IT}")


def _is_export(folder: pathlib.Path | epath.Path) -> bool:
  try:
    return json.loads((folder / "config.json").read_text(encoding="utf-8")).get("producer") == _PRODUCER
  except (OSError, ValueError, AttributeError):
    return False


def _send(folder: pathlib.Path, out: epath.Path) -> None:
  """To an object store, which has no rename: while config.json is away, the folder is no model. Raises UserError."""
  try:
    with storage.failures(out):
      _check_only_ours(out, {file.name for file in out.iterdir()} if out.exists() else set(), half=True)
      storage.send(folder, out, last="config.json")
  except OSError as error:
    raise UserError(f"cannot write {out}: {error}; the same command writes it again") from error
