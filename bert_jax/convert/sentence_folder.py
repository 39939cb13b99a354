"""What a model folder holds for sentence-transformers besides the model: how one vector is made of a text.

modules.json                  Transformer, Pooling and maybe Normalize, one after the other
1_Pooling/config.json         mean, cls or max
sentence_bert_config.json     how many tokens of a text are read
"""

import pathlib
from collections.abc import Mapping
from typing import Any, NamedTuple

from bert_jax.convert.model_config import find_model, read_modules
from bert_jax.errors import UserError
from bert_jax.io.json_files import read_if_there, read_object, write_json
from bert_jax.models import pooling
from bert_jax.models.config import EncoderConfig

POOLING_MODES = tuple(sorted(set(pooling.POOLINGS) - {"pooler"}))  # what sentence-transformers knows of them
_TRANSFORMER, _SETTINGS = "sentence_bert_config.json", "config_sentence_transformers.json"
# Where a limit of tokens may stand: until version 5, and since 6.
_LIMITS = ((_TRANSFORMER, "max_seq_length"), ("tokenizer_config.json", "model_max_length"))


class Encoding(NamedTuple):
  """How a model that was trained for it makes one vector of a text.

  Attributes:
    pooling: one of models.pooling.POOLINGS.
    normalize: vectors are scaled to length 1.
  """

  pooling: str
  normalize: bool


def write_modules(folder: pathlib.Path, config: EncoderConfig, encoding: Encoding, max_length: int) -> None:
  """Adds what sentence-transformers reads, in the layout before its version 6, which 6 still loads; max_length: see
  read_limit.
  """
  modules = [("", "Transformer"), ("1_Pooling", "Pooling")] + [("2_Normalize", "Normalize")] * encoding.normalize
  write_json(
    folder / "modules.json",
    [
      {"idx": index, "name": str(index), "path": path, "type": f"sentence_transformers.models.{kind}"}
      for index, (path, kind) in enumerate(modules)
    ],
  )
  # Lower-casing is the tokenizer's own affair.
  write_json(folder / _TRANSFORMER, {"max_seq_length": max_length, "do_lower_case": False})
  write_json(folder / _SETTINGS, {"prompts": {}, "default_prompt_name": None, "similarity_fn_name": "cosine"})
  (folder / "1_Pooling").mkdir()
  write_json(
    folder / "1_Pooling" / "config.json",
    {
      "word_embedding_dimension": config.hidden_size,
      "pooling_mode_cls_token": encoding.pooling == "cls",
      "pooling_mode_mean_tokens": encoding.pooling == "mean",
      "pooling_mode_max_tokens": encoding.pooling == "max",
      "pooling_mode_mean_sqrt_len_tokens": False,
      "pooling_mode_weightedmean_tokens": False,
      "pooling_mode_lasttoken": False,
      "include_prompt": True,
    },
  )
  if encoding.normalize:
    (folder / "2_Normalize").mkdir()


def read_encoding(path: str | pathlib.Path, *, lowercase: bool) -> Encoding | None:
  """What a folder of sentence-transformers says of its vectors; None for other folders.

  Args:
    path: the folder.
    lowercase: whether its tokenizer makes all letters small.

  Raises:
    UserError: modules or a pooling that this model does not have, or something that is done to a text before the
      tokenizer gets it.
  """
  path = pathlib.Path(path)
  settings = read_if_there(path / _SETTINGS)
  modules_file = path / "modules.json"
  if not (modules_file.exists() or modules_file.is_symlink()) or settings.get("model_type") == "CrossEncoder":
    return None
  modules = read_modules(path)
  folders = {kind: path / inside for kind, inside in modules}
  unknown = sorted(set(folders) - {"Transformer", "Pooling", "Normalize"})
  if unknown or "Pooling" not in folders or len(folders) < len(modules):
    raise UserError(
      f"{path}/modules.json: expected Transformer, Pooling and maybe Normalize; it has "
      f"{', '.join(kind for kind, _ in modules)}, which this model does not support. To use the encoder alone, copy "
      "the folder without modules.json"
    )
  _check_texts_are_plain(path, settings, find_model(path), lowercase)
  pooling = read_object(folders["Pooling"] / "config.json")
  chosen = (
    [pooling["pooling_mode"]]
    if "pooling_mode" in pooling
    else [  # version 6; before it, a flag for each
      name.removeprefix("pooling_mode_").removesuffix("_tokens").removesuffix("_token")
      for name, on in pooling.items()
      if name.startswith("pooling_mode_") and on
    ]
  )
  if len(chosen) != 1 or chosen[0] not in POOLING_MODES:
    raise UserError(
      f"{folders['Pooling']}/config.json: pooling {', '.join(map(str, chosen)) or 'none'}; this model has "
      f"{', '.join(POOLING_MODES)}, one of them"
    )
  return Encoding(chosen[0], "Normalize" in folders)


def _check_texts_are_plain(
  path: pathlib.Path, settings: Mapping[str, Any], transformer: pathlib.Path, lowercase: bool
) -> None:
  """Raises UserError where sentence-transformers would put words in front of a text, or make its letters small."""
  prompts, name = settings.get("prompts") or {}, settings.get("default_prompt_name") or ""
  if not isinstance(prompts, dict) or not isinstance(name, str):
    raise UserError(f"{path}/{_SETTINGS}: expected prompts as an object, and the name of one as default_prompt_name")
  if prompt := prompts.get(name):
    raise UserError(
      f"{path}/{_SETTINGS}: every text gets the prompt {prompt!r} (default_prompt_name), which is not supported "
      "here: prepend it to your texts yourself, and set default_prompt_name to null in a copy of the folder"
    )
  if read_if_there(transformer / _TRANSFORMER).get("do_lower_case") and not lowercase:
    raise UserError(
      f"{transformer}/{_TRANSFORMER}: do_lower_case is set, and the tokenizer is a cased one: set it to false in a "
      "copy of the folder, and lowercase your texts"
    )


def read_limit(path: str | pathlib.Path, config: EncoderConfig) -> int:
  """Tokens of a text that the model in a Hugging Face folder is to read, [CLS] and [SEP] included. Raises UserError."""
  limits: list[float] = [config.max_position_embeddings]
  for name, key in _LIMITS:
    file = pathlib.Path(path, name)
    value = read_if_there(file).get(key)
    if value is not None and (isinstance(value, bool) or not isinstance(value, (int, float)) or value < 1):
      raise UserError(f"{file}: {key} is {value!r:.40}; expected a number of tokens, 1 or more")
    limits.append(value or limits[0])
  return int(min(limits))
