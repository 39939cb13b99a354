"""A config: the values of all keys of the schema; its checks, and its form as JSON.

A run saves its resolved configuration as JSON (`to_json`), and a resume reads only that: config files are code, and
code is not what a run is resumed from.
"""

import json
from typing import Any

import ml_collections

from bert_jax.config.schema import KEYS, check_key, renamed
from bert_jax.errors import UserError
from bert_jax.models import config as models_config
from bert_jax.models.config import EncoderConfig


def default_config() -> ml_collections.ConfigDict:
  """Every key at its default, locked: setting an unknown key raises."""
  nested: dict[str, Any] = {}
  for key in KEYS.values():
    *groups, name = key.name.split(".")
    node = nested
    for group in groups:
      node = node.setdefault(group, {})
    node[name] = key.default if key.default is not None else ml_collections.config_dict.placeholder(key.type)
  return ml_collections.ConfigDict(nested).lock()


def encoder_of(config: ml_collections.ConfigDict) -> EncoderConfig:
  """The encoder of a config, see models.config.encoder_of."""
  return models_config.encoder_of(config.model)


def set_key(config: ml_collections.ConfigDict, key: str, value: Any) -> None:
  *groups, name = key.split(".")
  for group in groups:
    config = config[group]
  config[name] = value


def flatten(config: ml_collections.ConfigDict) -> dict[str, Any]:
  """The config as one level: {"data.batch_size": 256, …}; underived placeholders are None."""
  flat: dict[str, Any] = {}
  for key, value in config.items(preserve_field_references=False):
    if isinstance(value, ml_collections.ConfigDict):
      flat |= {f"{key}.{name}": leaf for name, leaf in flatten(value).items()}
    else:
      flat[key] = value
  return flat


def validate(config: ml_collections.ConfigDict) -> None:
  """Refuses values and combinations that cannot work, naming the key. Raises UserError."""
  flat = flatten(config)
  for name, key in KEYS.items():
    if not key.allows(flat[name]):
      raise UserError(f"config key {name!r} must be {key.expected}, not {flat[name]!r}. {key.meaning}")
  if flat["masking.mask_share"] + flat["masking.random_share"] > 1:
    raise UserError(
      "masking.mask_share + masking.random_share must not exceed 1: the rest of the tokens stay as they are"
    )
  if flat["data.batch_size"] % flat["optimizer.microbatches"]:
    raise UserError(
      f"data.batch_size={flat['data.batch_size']} does not divide into "
      f"optimizer.microbatches={flat['optimizer.microbatches']} parts"
    )
  if flat["stop_at_step"] > flat["total_steps"]:
    raise UserError(
      f"stop_at_step={flat['stop_at_step']} must lie between 0 and total_steps={flat['total_steps']}; "
      "set stop_at_step=0 to train to the end of the schedule"
    )
  if flat["init_optimizer"] and not flat["init_from"]:
    raise UserError("init_optimizer takes the moments of the run named by init_from, which is empty")


def to_json(config: ml_collections.ConfigDict) -> str:
  """The resolved config as JSON text, one dotted key per line, sorted."""
  return json.dumps(flatten(config), indent=2, sort_keys=True) + "\n"


def from_json(text: str) -> ml_collections.ConfigDict:
  """The inverse of `to_json`, of earlier versions too. Raises UserError for keys that no version knows."""
  return from_flat(json.loads(text))


def from_flat(values: dict[str, Any]) -> ml_collections.ConfigDict:
  """The inverse of `flatten`, of earlier versions too. Raises UserError for keys that no version knows."""
  config = default_config()
  for key, value in renamed(values).items():
    check_key(key)
    set_key(config, key, value)
  return config


def copy_of(config: ml_collections.ConfigDict) -> ml_collections.ConfigDict:
  """Another config with the same values, that can be changed by itself."""
  return from_json(to_json(config))


def differences(before: ml_collections.ConfigDict, after: ml_collections.ConfigDict) -> dict[str, tuple[Any, Any]]:
  """Keys whose values differ: {key: (value before, value now)}."""
  old, new = flatten(before), flatten(after)
  return {key: (old[key], new[key]) for key in KEYS if old[key] != new[key]}


def changed_keys(before: ml_collections.ConfigDict, after: ml_collections.ConfigDict) -> dict[str, tuple[Any, Any]]:
  """Keys whose change would make a resumed run another run: {key: (value before, value now)}."""
  return {name: values for name, values in differences(before, after).items() if not KEYS[name].free}
