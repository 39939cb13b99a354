"""Figures that tell a good corpus from a bad one, from what was counted in its chunks.

All of them are exact sums, and fractions are rounded to six places, so that they
are the same on every machine: they are part of the manifest that `corpus_id` covers.
"""

import math
import operator
from typing import Any

import numpy as np

from bert_jax.data.corpus.rows import Counts
from bert_jax.data.tokenizer.template import ABSENT
from bert_jax.data.tokenizer.wordpiece import Tokenizer

_HISTOGRAM_BINS = 8
_MOST_FREQUENT = 20


def zero_counts(vocab_size: int, seq_length: int) -> Counts:
  """The counts of no chunk at all."""
  return Counts(0, 0, 0, 0, 0, *(np.zeros(size, np.int64) for size in (2, seq_length + 1, vocab_size)))


def add(left: Counts, right: Counts) -> Counts:
  """Field by field."""
  return Counts(*map(operator.add, left, right))


def totals(counts: Counts) -> dict[str, Any]:
  """`counts` of the manifest, see `corpus`."""
  seq_length, row_tokens = len(counts.length_counts) - 1, int(counts.unigram_counts.sum())
  return {
    "documents": counts.documents,
    "sentences": counts.sentences,
    "tokens": counts.tokens,
    "row_tokens": row_tokens,
    "sequences": int(counts.label_counts.sum()),
    "rows": counts.rows,
    "packing_efficiency": _share(row_tokens, counts.rows * seq_length),
  }


def describe_split(counts: Counts, tokenizer: Tokenizer) -> dict[str, Any]:
  """A split's entry in the manifest, but for its shards, see `corpus`.

  Args:
    counts: those of all chunks of the split, added up.
    tokenizer: that of the corpus.
  """
  never, unknown = list(tokenizer.template.never_predicted), 0
  targets, labels = counts.unigram_counts.copy(), counts.label_counts
  targets[never] = 0
  text = targets.copy()  # with the words that the vocabulary does not know
  if tokenizer.special.unk != ABSENT:
    text[tokenizer.special.unk] = unknown = int(counts.unigram_counts[tokenizer.special.unk])
  words = int(text[tokenizer.word_starts_table].sum())
  frequent = np.argsort(-targets, kind="stable")[:_MOST_FREQUENT]
  return {
    "counts": totals(counts),
    "label_counts": labels.tolist(),
    "majority_label_share": _share(int(labels.max()), int(labels.sum())),
    "unigram_entropy": entropy(targets),
    "tokens_per_word": _share(int(text.sum()), words),
    "unknown_rate": _share(unknown, int(text.sum())),
    "length_counts": _histogram(counts.length_counts),
    "frequent_tokens": [[tokenizer.token(int(index)), int(targets[index])] for index in frequent if targets[index]],
  }


def entropy(counts: np.ndarray) -> float:
  """Entropy of a distribution given by counts, in nats: log n - Σ c log c / n."""
  total = int(counts.sum())
  if not total:
    return 0.0
  # fsum and math.log, because NumPy's sums and logarithms differ in the last bit between machines.
  weighted = math.fsum(count * math.log(count) for count in counts.tolist() if count)
  return round(math.log(total) - weighted / total, 6)


def _histogram(lengths: np.ndarray) -> dict[str, int]:
  """Sequences by length, in equal ranges: {"1-16": 12, "17-32": 40, …}."""
  seq_length = len(lengths) - 1
  edges = [seq_length * edge // _HISTOGRAM_BINS for edge in range(_HISTOGRAM_BINS + 1)]
  return {f"{low + 1}-{high}": int(lengths[low + 1 : high + 1].sum()) for low, high in zip(edges, edges[1:])}


def _share(part: int, whole: int) -> float:
  return round(part / whole, 6) if whole else 0.0
