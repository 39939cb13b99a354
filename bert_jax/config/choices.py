"""Choices that belong to modules which implement them.

Functions, so that those modules are imported when somebody asks: most import JAX, and `--help` need not wait for that.
"""

from collections.abc import Iterable


def objectives() -> Iterable[str]:
  from bert_jax.objectives.registry import OBJECTIVES

  return OBJECTIVES


def loaders() -> Iterable[str]:
  from bert_jax.data.loading.input_pipeline import LOADERS

  return LOADERS


def pairings() -> Iterable[str]:
  from bert_jax.data.corpus.pairs import PAIRINGS

  return PAIRINGS


def word_segmenters() -> Iterable[str]:
  from bert_jax.data.text.words import SEGMENTERS

  return SEGMENTERS


def masking_units() -> Iterable[str]:
  from bert_jax.objectives.masking import UNITS

  return UNITS


def remats() -> Iterable[str]:
  from bert_jax.models.encoder import REMAT

  return REMAT


def attentions() -> Iterable[str]:
  from bert_jax.models.attention import IMPLEMENTATIONS

  return IMPLEMENTATIONS


def label_kinds() -> Iterable[str]:
  from bert_jax.objectives.finetuning import KINDS

  return KINDS


def poolings() -> Iterable[str]:
  from bert_jax.models.pooling import POOLINGS

  return POOLINGS


def embedding_losses() -> Iterable[str]:
  from bert_jax.objectives.sentence_embedding import LOSSES

  return LOSSES
