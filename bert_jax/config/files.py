"""Configs from files and from the command line.

`configs/*.py` start from `default_config()` and override it; they hold no defaults of their own. Overrides on the
command line (`--config.data.batch_size=64`) go through the same schema, so that an unknown key is an error wherever it
stands, and the nearest known one is named.
"""

import ast
import difflib
import importlib.util
import os
import pathlib
import re
import traceback
from collections.abc import Sequence
from typing import Any

import ml_collections

from bert_jax.config.key import Key
from bert_jax.config.schema import KEYS, check_key
from bert_jax.config.values import flatten, set_key, validate
from bert_jax.errors import UserError
from bert_jax.io.paths import expanded


def load_config(spec: str, overrides: Sequence[str] = ()) -> ml_collections.ConfigDict:
  """Reads a config file and applies overrides.

  Args:
    spec: "FILE.py", or the name of a ready one ("quickstart"), and ":variant" if it has several; the
      file's `get_config(variant)` returns a config made from `default_config()`.
    overrides: "key=value" strings with dotted keys, values in Python syntax or bare strings.

  Raises:
    UserError: no such file, no get_config, an unknown variant or key, a value of the wrong type.
  """
  path, _, variant = spec.partition(":")
  ready = _ready_configs()
  path = ready.get(path, path)
  if not os.path.isfile(path):
    raise UserError(f"no config file {path!r}; ready by name: {', '.join(f'--config={name}' for name in ready)}")
  module_spec = importlib.util.spec_from_file_location("bert_jax_user_config", path)
  if module_spec is None or module_spec.loader is None:
    raise UserError(f"{path}: a config is a Python file, NAME.py, with a function get_config(variant)")
  module = importlib.util.module_from_spec(module_spec)
  try:
    module_spec.loader.exec_module(module)
    config = module.get_config(variant)
  except UserError:
    raise
  except Exception as error:  # a config is code, and may fail in any way
    raise UserError(f"{_line_of(path, error)}: {_unknown_key(error) or f'{type(error).__name__}: {error}'}") from error
  if not isinstance(config, ml_collections.ConfigDict):
    raise UserError(
      f"{path}: get_config must return the ConfigDict of bert_jax.config.default_config(), with overrides"
    )
  for name, value in flatten(config).items():
    check_key(name)
    if KEYS[name].path:
      set_key(config, name, expanded(value))
  for override in overrides:
    apply_override(config, override)
  validate(config)
  return config


def _ready_configs() -> dict[str, str]:
  """Name to path: configs/ lies inside the package in a wheel, and beside it in a checkout."""
  package = pathlib.Path(__file__).parents[1]
  folders = [folder for folder in (package / "configs", package.parent / "configs") if folder.is_dir()]
  return {path.stem: str(path) for path in sorted(folders[0].glob("*.py"))} if folders else {}


def _line_of(path: str, error: Exception) -> str:
  """FILE:LINE of an error in a config file, or FILE where the line is not known."""
  lines = [
    frame.lineno
    for frame in traceback.extract_tb(error.__traceback__)
    if os.path.realpath(frame.filename) == os.path.realpath(path)
  ]
  if isinstance(error, SyntaxError):
    lines.append(error.lineno)
  return f"{path}:{lines[-1]}" if lines else path


def _unknown_key(error: Exception) -> str:
  """What is said of a key that a locked ConfigDict does not have; empty for any other error.

  Its own message lists the whole config.
  """
  found = re.match(r"[\"']*Key [\"'](\w+)[\"'] does not exist", str(error))
  if not found:
    return ""
  near = max(
    KEYS, key=lambda key: max(difflib.SequenceMatcher(None, found[1], part).ratio() for part in key.split("."))
  )
  return f"unknown config key {found[1]!r}; did you mean {near!r}? `bert_jax pretrain --help` lists all keys"


def apply_override(config: ml_collections.ConfigDict, override: str) -> None:
  """Sets what "key=value" says. Raises UserError for an unknown key or a value of another type."""
  key, equals, text = override.partition("=")
  if not equals:
    raise UserError(f"--config.{key} needs a value: --config.{key}=VALUE")
  check_key(key)
  set_key(config, key, _parse(KEYS[key], text))


def _parse(key: Key, text: str) -> Any:
  """`text` as a value of the key's type; an int is accepted where a float is wanted."""
  if key.type is str:
    return expanded(text) if key.path else text
  try:
    value = ast.literal_eval({"true": "True", "false": "False"}.get(text.lower(), text))
  except (ValueError, SyntaxError):
    value = text
  if key.type is float and type(value) is int:
    return float(value)
  if key.type is int and type(value) is float and value.is_integer():
    return int(value)  # 1e5 for 100_000
  if type(value) is not key.type:
    raise UserError(f"config key {key.name!r} takes a value of type {key.type.__name__}, not {text!r}. {key.meaning}")
  return value
