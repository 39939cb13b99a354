"""Families of encoders: what the rest of the code needs to know of each, as data. A new family is a row.

The encoder itself differs by the fields of EncoderConfig alone; how its tensors are named is a table in convert/.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

from bert_jax.models.config import EncoderConfig


class Family(NamedTuple):
  """A family of encoders.

  Attributes:
    fields: fields of EncoderConfig that every member has at these values; the rest are sizes.
    heads: head -> class of transformers that has it.
    fixed: keys of config.json with the only value that makes a model of this family.
  """

  fields: Mapping[str, Any]
  heads: Mapping[str, str]
  fixed: Mapping[str, Any]


# Name, which is also `model_type` in config.json -> the family.
FAMILIES: dict[str, Family] = {
  "bert": Family(
    fields={},
    heads={
      "pretraining": "BertForPreTraining",
      "mlm": "BertForMaskedLM",
      "encoder": "BertModel",
      "sequence-classification": "BertForSequenceClassification",
      "token-classification": "BertForTokenClassification",
      "question-answering": "BertForQuestionAnswering",
    },
    fixed={
      "position_embedding_type": "absolute",
      "is_decoder": False,
      "add_cross_attention": False,
      "tie_word_embeddings": True,
    },
  )
}


def family_of(config: EncoderConfig) -> str:
  """The name of the family that an encoder belongs to: the one with most fields of those whose fields it has."""
  has = lambda family: all(getattr(config, name) == value for name, value in family.fields.items())
  return max((name for name, family in FAMILIES.items() if has(family)), key=lambda name: len(FAMILIES[name].fields))
