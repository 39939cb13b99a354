"""What an encoder looks like: `EncoderConfig`, and the published sizes as `PRESETS`.

Fields have the spelling of Hugging Face's BERT, so that a config.json reads
like ours. A family is a set of values here, never a branch in the model code.
"""

import dataclasses
import difflib
from typing import Any

from bert_jax.errors import UserError

# Tables of this many rows divide evenly over devices and fill matrix units;
# the rows beyond the true vocabulary are invisible outside the parameters.
VOCAB_MULTIPLE = 128


@dataclasses.dataclass(frozen=True)
class EncoderConfig:
  """Sizes and constants of an encoder. Call `validate()` on one from outside.

  Attributes:
    vocab_size: number of token ids.
    hidden_size: width of the residual stream.
    num_hidden_layers: number of blocks.
    num_attention_heads: heads per block; must divide hidden_size.
    intermediate_size: width of the feed-forward layer.
    hidden_act: 'gelu', the exact one, x·Φ(x) with erf (not its tanh approximation 'gelu_new').
    hidden_dropout_prob: dropout after the embeddings and before each residual sum.
    attention_probs_dropout_prob: dropout of attention probabilities.
    max_position_embeddings: longest sequence, in tokens.
    type_vocab_size: number of token types (sentence A, sentence B).
    initializer_range: standard deviation of the normal distribution that weights start from;
      it is cut at two standard deviations.
    position_init: what position embeddings start from: 'normal' as every other weight (BERT), or
      'sinusoidal'. They are learned from there in both cases.
    layer_norm_eps: added to the variance in LayerNorm.
    pad_token_id: id of [PAD]; written to exports (attention follows segment_ids, not this).
  """

  vocab_size: int = 30522
  hidden_size: int = 768
  num_hidden_layers: int = 12
  num_attention_heads: int = 12
  intermediate_size: int = 3072
  hidden_act: str = "gelu"
  hidden_dropout_prob: float = 0.1
  attention_probs_dropout_prob: float = 0.1
  max_position_embeddings: int = 512
  type_vocab_size: int = 2
  initializer_range: float = 0.02
  position_init: str = "normal"
  layer_norm_eps: float = 1e-12
  pad_token_id: int = 0

  @property
  def padded_vocab_size(self) -> int:
    """Rows of the word embedding table: vocab_size rounded up to a multiple of 128."""
    return -(-self.vocab_size // VOCAB_MULTIPLE) * VOCAB_MULTIPLE

  @property
  def head_dim(self) -> int:
    """Width of one attention head."""
    return self.hidden_size // self.num_attention_heads

  def validate(self) -> "EncoderConfig":
    """Returns self, or raises UserError naming the field that no model can be built from."""
    for name in (
      "vocab_size",
      "hidden_size",
      "num_hidden_layers",
      "num_attention_heads",
      "intermediate_size",
      "max_position_embeddings",
      "type_vocab_size",
    ):
      value = getattr(self, name)
      _require(_is_int(value) and value >= 1, name, "a whole number of at least 1", value)
    _require(
      self.hidden_size % self.num_attention_heads == 0,
      "num_attention_heads",
      f"a divisor of hidden_size ({self.hidden_size})",
      self.num_attention_heads,
    )
    _require(self.hidden_act == "gelu", "hidden_act", "'gelu' (exact, by erf)", self.hidden_act)
    _require(
      self.position_init in ("normal", "sinusoidal"), "position_init", "'normal' or 'sinusoidal'", self.position_init
    )
    _require(
      self.position_init == "normal" or self.hidden_size % 2 == 0,
      "hidden_size",
      "an even number for sinusoidal positions",
      self.hidden_size,
    )
    for name in ("hidden_dropout_prob", "attention_probs_dropout_prob"):
      value = getattr(self, name)
      _require(_is_number(value) and 0 <= value < 1, name, "a probability in [0, 1)", value)
    for name in ("initializer_range", "layer_norm_eps"):
      value = getattr(self, name)
      _require(_is_number(value) and value > 0, name, "a positive number", value)
    _require(
      _is_int(self.pad_token_id) and 0 <= self.pad_token_id < self.vocab_size,
      "pad_token_id",
      f"an id below vocab_size ({self.vocab_size})",
      self.pad_token_id,
    )
    return self


# Sizes: rows "BERT base/large" of Devlin et al. 2018 (arXiv:1810.04805, section 3) and table 1 of
# Turc et al. 2019 (arXiv:1908.08962) for the miniatures; heads are hidden_size / 64 and the
# feed-forward layer 4 * hidden_size in both. Vocabulary sizes: the vocab.txt published with each.
def _size(layers: int, hidden: int, vocab_size: int = 30522) -> dict[str, int]:
  return {
    "vocab_size": vocab_size,
    "num_hidden_layers": layers,
    "hidden_size": hidden,
    "num_attention_heads": hidden // 64,
    "intermediate_size": 4 * hidden,
  }


PRESETS: dict[str, dict[str, Any]] = {
  "bert-tiny": _size(2, 128),  # arXiv:1908.08962
  "bert-mini": _size(4, 256),  # arXiv:1908.08962
  "bert-small": _size(4, 512),  # arXiv:1908.08962
  "bert-medium": _size(8, 512),  # arXiv:1908.08962
  "bert-base": _size(12, 768),  # arXiv:1810.04805, uncased
  "bert-large": _size(24, 1024),  # arXiv:1810.04805, uncased
  "bert-base-cased": _size(12, 768, 28996),  # google-research/bert, cased_L-12_H-768_A-12
  "bert-large-cased": _size(24, 1024, 28996),  # google-research/bert, cased_L-24_H-1024_A-16
  "bert-base-chinese": _size(12, 768, 21128),  # google-research/bert, chinese_L-12_H-768_A-12
  "bert-base-multilingual-cased": _size(12, 768, 119547),  # multi_cased_L-12_H-768_A-12
}


def encoder_config(preset: str, **overrides: Any) -> EncoderConfig:
  """Returns the named preset with some fields changed, validated.

  Args:
    preset: a key of PRESETS.
    **overrides: fields of EncoderConfig.

  Raises:
    UserError: the preset or a field is unknown, or a value makes no model.
  """
  if preset not in PRESETS:
    nearest = _nearest(preset, PRESETS)
    raise UserError(f"model.preset: unknown preset {preset!r}{nearest}; known: {', '.join(PRESETS)}")
  fields = [field.name for field in dataclasses.fields(EncoderConfig)]
  for name in overrides:
    if name not in fields:
      raise UserError(f"model.{name}: no such field{_nearest(name, fields)}; fields: {', '.join(fields)}")
  return EncoderConfig(**{**PRESETS[preset], **overrides}).validate()


def encoder_of(group: Any) -> EncoderConfig:
  """The encoder that the group `model` of a config describes: the preset, with the fields that are set.

  Args:
    group: has `preset` and every field of EncoderConfig that a run may set as a key; None: not set.

  Raises:
    UserError: see `encoder_config`.
  """
  names = [field.name for field in dataclasses.fields(EncoderConfig) if field.name in group]
  return encoder_config(group.preset, **{name: group[name] for name in names if group[name] is not None})


def _nearest(name: str, known) -> str:
  found = difflib.get_close_matches(name, list(known), n=1)
  return f" (did you mean {found[0]!r}?)" if found else ""


def _is_int(value: Any) -> bool:
  return isinstance(value, int) and not isinstance(value, bool)


def _is_number(value: Any) -> bool:
  return isinstance(value, (int, float)) and not isinstance(value, bool)


def _require(holds: bool, field: str, expected: str, value: Any) -> None:
  if not holds:
    raise UserError(f"model.{field}: expected {expected}, got {value!r}")
