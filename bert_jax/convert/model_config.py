"""What a model folder says of its model: where it lies, its sizes, and what its outputs mean.

Other people's folders. Whatever they hold is looked at before it is used, and a folder of a kind that is not read is
answered with what to do about it.
"""

import dataclasses
import json
import pathlib
from collections.abc import Collection, Mapping
from typing import Any

import numpy as np

from bert_jax.data.labelled.examples import Labels
from bert_jax.errors import UserError
from bert_jax.io.json_files import json_type, read_if_there, read_json, read_object
from bert_jax.models.config import EncoderConfig
from bert_jax.models.families import FAMILIES

# Kind of labels -> (head, what transformers calls the problem).
LABELLED = {
  "classification": ("sequence-classification", "single_label_classification"),
  "multi-label": ("sequence-classification", "multi_label_classification"),
  "regression": ("sequence-classification", "regression"),
  "token-classification": ("token-classification", None),
  "question-answering": ("question-answering", None),
}
# What a CrossEncoder of sentence-transformers makes of its outputs.
_SIGMOID, _IDENTITY, _SOFTMAX = "Sigmoid", "Identity", "Softmax"

_CONFIG, _FIRST_CONFIG = "config.json", "bert_config.json"  # the second one is Google's, and that of 2018
_TRANSFORMER = "0_Transformer"  # in folders of sentence-transformers before its version 1
_SIZES = {"vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size"}
_WORDS = "embeddings.word_embeddings.weight"
# Who puts a prefix in front of every name.
_WRAPPERS = {"module.": "torch.nn.DataParallel", "_orig_mod.": "torch.compile"}


def find_model(folder: pathlib.Path) -> pathlib.Path:
  """The folder of the encoder: a Hugging Face folder itself, or the one inside of a folder of sentence-transformers.

  Raises:
    UserError: it is neither; of a checkpoint of TensorFlow 1 with how to convert it.
  """
  if (folder / _CONFIG).exists():
    return folder
  modules = folder / "modules.json"
  where = folder / _TRANSFORMER
  if modules.exists():
    first = next((path for kind, path in read_modules(folder) if kind == "Transformer"), None)
    where = folder if first is None else folder / first
  if (where / _CONFIG).exists():
    return where
  if (folder / _FIRST_CONFIG).exists():
    checkpoint = next((file for file in sorted(folder.glob("*.ckpt*.index"))), None)
    if checkpoint is not None:
      raise UserError(_of_google(folder, checkpoint))
    return folder
  raise UserError(
    f"{folder}/config.json: not there; expected a Hugging Face model folder with config.json, or one of "
    "sentence-transformers with modules.json"
  )


def read_modules(folder: pathlib.Path) -> list[tuple[str, str]]:
  """(kind, folder inside) of what sentence-transformers applies one after the other. Raises UserError."""
  file = folder / "modules.json"
  modules = read_json(file)
  if not isinstance(modules, list) or not modules:
    raise UserError(f"{file}: expected a list of modules, found {json_type(modules)}")
  found = []
  for module in modules:
    kind, path = (module.get(key) if isinstance(module, dict) else None for key in ("type", "path"))
    if not isinstance(kind, str) or not isinstance(path, str) or pathlib.PurePath(path).is_absolute() or ".." in path:
      raise UserError(
        f'{file}: expected modules with "type" and "path", a folder inside of this one; got {module!r:.80}'
      )
    found.append((kind.rpartition(".")[2], path))
  return found


def read_config(folder: pathlib.Path) -> tuple[EncoderConfig, dict[str, Any]]:
  """(the encoder, all that config.json says). Fields that a file leaves out have the value of Hugging Face's
  BertConfig, which EncoderConfig's are.

  Raises:
    UserError: not a model that this one can represent, naming file and key.
  """
  file = folder / (_CONFIG if (folder / _CONFIG).exists() else _FIRST_CONFIG)
  content = read_object(file)
  classes = content.get("architectures")
  if classes is not None and not (isinstance(classes, list) and all(isinstance(one, str) for one in classes)):
    raise UserError(f"{file}: architectures is {json_type(classes)}; expected a list of names of classes")
  if "model_type" not in content and content.keys() >= _SIZES and all(one.startswith("Bert") for one in classes or ()):
    content["model_type"] = "bert"  # files of 2018 and 2019: what else it may be shows in the names of the tensors
  if "model_type" not in content:
    raise UserError(f'{file}: expected a JSON object with "model_type": "bert"; is this a model folder?')
  name = content["model_type"]
  family = FAMILIES.get(name) if isinstance(name, str) else None
  if family is None:
    known = ", ".join(map(json.dumps, FAMILIES))
    raise UserError(f"{file}: model_type is {json.dumps(name)[:60]}, this model has only {known}")
  for key, expected in family.fixed.items():
    value = content.get(key)
    if value is not None and value != expected:
      raise UserError(f"{file}: {key} is {json.dumps(value)[:60]}, this model has only {json.dumps(expected)}")
  fields = {field.name for field in dataclasses.fields(EncoderConfig)}
  given = {key: value for key, value in content.items() if key in fields and value is not None}
  try:
    return EncoderConfig(**given).validate(), content
  except UserError as error:
    raise UserError(f"{file}: {error}") from error


def check_names(file: pathlib.Path, names: Collection[str], config: EncoderConfig) -> None:
  """Raises UserError where tensors cannot be those of the config, before anything is made of its numbers."""
  words = next((name for name in sorted(names) if name.endswith(_WORDS)), "")
  prefix = words.removesuffix(_WORDS).removesuffix("bert.")
  if words and prefix:
    who = next((f", as {who} does" for mark, who in _WRAPPERS.items() if mark in prefix), "")
    count = sum(name.startswith(prefix) for name in names)
    raise UserError(
      f"{file}: the names of {count} of {len(names)} tensors begin with {prefix!r}{who}: take it off once, in Python: "
      "from safetensors.numpy import load_file, save_file; "
      f"save_file({{name.removeprefix({prefix!r}): x for name, x in load_file('model.safetensors').items()}}, "
      "'renamed.safetensors', {'format': 'pt'})"
    )
  if config.num_hidden_layers > len(names):
    raise UserError(
      f"{file}: {len(names)} tensors are too few for num_hidden_layers={config.num_hidden_layers} of config.json"
    )


def read_outputs(folder: pathlib.Path, params: Mapping[str, Any]) -> Labels | None:
  """What the outputs of a model mean, as `pipeline` of transformers or CrossEncoder of sentence-transformers has it.

  Args:
    folder: of the model.
    params: of the model. They tell the head where no class is named.

  Raises:
    UserError: the outputs are said to be something that they cannot be.
  """
  _, content = read_config(folder)
  file, head = folder / _CONFIG, _head(content, params)
  if head == "question-answering":
    return Labels("question-answering", ("begin", "end"))
  if head not in ("sequence-classification", "token-classification"):
    return None
  names = _names(file, content, outputs=int(np.shape(params["classifier"]["dense"]["bias"])[0]))
  if head == "token-classification":
    return Labels("token-classification", names)
  return Labels(_kind(folder, content, len(names)), names)


def _head(content: Mapping[str, Any], params: Mapping[str, Any]) -> str:
  heads, classes = FAMILIES[content["model_type"]].heads, content.get("architectures") or ()
  named = next((head for head, name in heads.items() if name in classes), None)
  if "span_head" in params:
    found = "question-answering"
  elif "classifier" in params:  # over the pooler for texts; models for words have none
    found = "sequence-classification" if "pooler" in params else "token-classification"
  else:
    return ""
  return (
    named if named in ("sequence-classification", "token-classification") else "" if classes and not named else found
  )


def _names(file: pathlib.Path, content: Mapping[str, Any], outputs: int) -> tuple[str, ...]:
  """Names of so many outputs: transformers takes it for two that nothing is said of."""
  said, count = content.get("id2label"), content.get("num_labels")
  if count is not None and type(count) is not int:
    raise UserError(f"{file}: num_labels is {count!r:.40}; expected a whole number")
  if said is None:
    count = 2 if count is None else count
    if count != outputs:
      raise UserError(
        f"{file}: says nothing of labels (id2label), so that transformers expects {count} of them, and the weights "
        f'have {outputs} outputs: write "id2label": {{"0": …, "{outputs - 1}": …}} with what they mean'
      )
    return tuple(f"LABEL_{number}" for number in range(outputs))
  if not isinstance(said, dict):
    raise UserError(f"{file}: id2label is {json_type(said)}; expected an object of number and name")
  if count not in (None, len(said)) or len(said) != outputs:
    other = f"num_labels is {count}, and " if count not in (None, len(said)) else ""
    raise UserError(f"{file}: {other}id2label names {len(said)} labels, and the weights have {outputs} outputs")
  wanted = [str(number) for number in range(outputs)]
  if sorted(said) != sorted(wanted):
    odd = next(key for key in said if key not in wanted)
    raise UserError(f"{file}: id2label has the key {odd!r:.40}; expected the numbers from 0 to {outputs - 1}")
  if odd := [said[number] for number in wanted if isinstance(said[number], (dict, list, type(None)))]:
    raise UserError(f"{file}: id2label names a label {odd[0]!r:.40}; expected a text")
  return tuple(str(said[number]) for number in wanted)


def _kind(folder: pathlib.Path, content: Mapping[str, Any], outputs: int) -> str:
  """What is made of the outputs of a text: key of LABELLED."""
  file, problem = folder / _CONFIG, content.get("problem_type")
  problems = {problem: kind for kind, (_, problem) in LABELLED.items() if problem}
  activation, where = _activation(folder, content)
  if problem is not None and (not isinstance(problem, str) or problem not in problems):
    raise UserError(f"{file}: problem_type is {json.dumps(problem)[:60]}; expected {', '.join(problems)}, or none")
  if outputs == 1 and (problem == "single_label_classification" or activation == _SOFTMAX):
    raise UserError(
      f"{file if activation != _SOFTMAX else where}: one output cannot be the probability of one of several classes, "
      'which would be 1 for every text: take out problem_type, or write "regression" for a score, '
      '"multi_label_classification" for a probability'
    )
  meant = {None: None, _SIGMOID: "multi-label", _IDENTITY: "regression", _SOFTMAX: "classification"}
  if activation not in meant:
    raise UserError(
      f"{where}: the activation {activation} is not supported; it has {_SIGMOID}, {_IDENTITY}, {_SOFTMAX}"
    )
  own = "classification" if activation == _IDENTITY and outputs > 1 else meant[activation]
  kind = problems[problem] if isinstance(problem, str) else None
  if kind and own and kind != own and not (outputs > 1 and activation == _IDENTITY):
    raise UserError(
      f"{file}: problem_type is {problem}, and {where} names the activation {activation}, which belongs to "
      f"{LABELLED[own][1]}: make them agree"
    )
  return kind or own or ("multi-label" if outputs == 1 else "classification")


def _activation(folder: pathlib.Path, content: Mapping[str, Any]) -> tuple[str | None, pathlib.Path]:
  """(the class that a CrossEncoder applies to its outputs, the file that names it); None where none is named."""
  settings = folder / "config_sentence_transformers.json"
  own = read_if_there(settings)
  if own.get("model_type") != "CrossEncoder":
    own = {}
  later = content.get("sentence_transformers")
  for where, value in (
    (settings, own.get("activation_fn")),
    (folder / _CONFIG, later.get("activation_fn") if isinstance(later, dict) else None),
    (folder / _CONFIG, content.get("sbert_ce_default_activation_function")),
  ):
    if value is not None:
      if not isinstance(value, str):
        raise UserError(f"{where}: the activation is {json_type(value)}; expected the name of a class")
      return value.rpartition(".")[2], where
  return None, folder / _CONFIG


def _of_google(folder: pathlib.Path, checkpoint: pathlib.Path) -> str:
  return (
    f"{folder}: a checkpoint of TensorFlow 1, as Google published BERT ({checkpoint.name}), which is not read. Convert "
    "it once, with transformers 4 and TensorFlow: from transformers import BertConfig, BertForPreTraining; "
    f"BertForPreTraining.from_pretrained({str(checkpoint)!r}, from_tf=True, "
    f"config=BertConfig.from_json_file({str(folder / _FIRST_CONFIG)!r})).save_pretrained(NEW_FOLDER); then copy "
    'vocab.txt there, with {"tokenizer_class": "BertTokenizer", "do_lower_case": true} (false for a cased one) as '
    "tokenizer_config.json"
  )
