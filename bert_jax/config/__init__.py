"""The configuration of a run: one row per key in `schema`, and what is done with all of them."""

from bert_jax.config.files import apply_override, load_config
from bert_jax.config.key import Key
from bert_jax.config.page import help_lines
from bert_jax.config.schema import KEYS, MODEL_FIELDS, check_key, meaning, renamed
from bert_jax.config.values import (
  changed_keys,
  copy_of,
  default_config,
  differences,
  encoder_of,
  flatten,
  from_flat,
  from_json,
  set_key,
  to_json,
  validate,
)

__all__ = [
  "KEYS",
  "MODEL_FIELDS",
  "Key",
  "apply_override",
  "changed_keys",
  "check_key",
  "copy_of",
  "default_config",
  "differences",
  "encoder_of",
  "flatten",
  "from_flat",
  "from_json",
  "help_lines",
  "load_config",
  "meaning",
  "renamed",
  "set_key",
  "to_json",
  "validate",
]
