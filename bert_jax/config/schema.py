"""The one schema of a run: a row per key, with all that is known about it.

Defaults, checks, error messages, `--help`, docs/configuration.md and what a resume may change derive from the rows in
`run_keys` and `tuning_keys`, and from EncoderConfig; rules about several keys at once stand in `values.validate`. A new
key is one new row, and a run that reads it.
"""

import dataclasses
import difflib
import inspect
import re
from typing import Any

from bert_jax.config import run_keys, tuning_keys
from bert_jax.config.key import Key
from bert_jax.errors import UserError
from bert_jax.models.config import EncoderConfig


def _fields_of_model() -> list[Key]:
  """A row for each field of EncoderConfig, which says in its docstring what they mean."""
  found = re.findall(r"^  (\w+): (.*?)(?=^  \w|\Z)", inspect.getdoc(EncoderConfig) or "", re.M | re.S)
  said = {name: " ".join(text.split()) for name, text in found}
  instead = {"vocab_size": "Given by the tokenizer of the corpus"}
  return [
    Key(
      f"model.{name}",
      None,
      f"{instead.get(name, 'Overrides the preset')}: {said.get(name, name)}",
      derived=type(field.default),
    )
    for name, field in MODEL_FIELDS.items()
  ]


MODEL_FIELDS = {field.name: field for field in dataclasses.fields(EncoderConfig) if field.name != "pad_token_id"}
KEYS: dict[str, Key] = {key.name: key for key in (*run_keys.ROWS, *tuning_keys.ROWS, *_fields_of_model())}
# Keys as run folders of earlier versions have them, and what they are called now; None: nothing read them.
FORMERLY = {
  **{f"finetune.{name.partition('.')[2]}": name for name in KEYS if name.startswith("tuning.")},
  "model.pad_token_id": None,  # an export has the [PAD] of its tokenizer
}


def meaning(name: str) -> str:
  """What a key such as "prepare.seq_length" means."""
  return KEYS[name].meaning


def renamed(values: dict[str, Any]) -> dict[str, Any]:
  """The content of a config.json, whichever version wrote it, by today's names."""
  return {name: value for key, value in values.items() if (name := FORMERLY.get(key, key))}


def check_key(name: str) -> None:
  """Raises UserError for a key that the schema does not have, naming what it is called now or the nearest one."""
  if now := FORMERLY.get(name):
    raise UserError(f"config key {name!r} is called {now!r} now")
  if name not in KEYS:
    near = difflib.get_close_matches(name, KEYS, n=1, cutoff=0.0)
    raise UserError(f"unknown config key {name!r}; did you mean {near[0]!r}? `bert_jax pretrain --help` lists all keys")
