"""Several corpora in one training sequence, each with a weight.

The sequence is cut into blocks of BLOCK positions. In every block each corpus
has the same whole number of places, its share of the weights, and a keyed
permutation spreads the places over the block. So the q-th example of a corpus
is known from the position alone, without counting (law 1), and the shares hold
exactly over every block. Each corpus goes through its own epochs in its own
order; a small one with a large weight is seen more often.
"""

import hashlib
import json
import pathlib
from typing import Any, NamedTuple

import numpy as np

from bert_jax.data import order
from bert_jax.data.corpus.folder import SPLITS, Corpus, Split, open_corpus
from bert_jax.errors import UserError

BLOCK = 1000  # places in a block; the smallest share is one of them

# What corpora must have in common to be fed to one model in one run.
_COMMON = ("seq_length", "objective", "tokenizer_fingerprint", "word_segmenter")


class MixedSplit(NamedTuple):
  """One split of several corpora, like `corpus.Split`; rows count through all of them, one corpus after the other.

  Attributes:
    parts: the splits.
    places: int64 [corpora], places in a block.
    starts: int64 [corpora + 1], the first row of each corpus, then num_rows.
    seq_length: tokens in a row.
    max_sequences: sequences in a row at most, the most of all corpora.
    has_word_starts: whether rows come with word starts.
  """

  parts: tuple[Split, ...]
  places: np.ndarray
  starts: np.ndarray
  seq_length: int
  max_sequences: int
  has_word_starts: bool

  @property
  def num_rows(self) -> int:
    """Rows of all corpora together."""
    return int(self.starts[-1])

  def order(self, positions: np.ndarray, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Which rows stand at some positions of the endless training sequence, see `order.rows_at`.

    Args:
      positions: int64 [n].
      seed: decides the order of rows and of corpora.

    Returns:
      epoch: uint32 [n], which pass over its corpus a row belongs to.
      row: int64 [n].
    """
    block, place = np.divmod(np.asarray(positions, np.int64), BLOCK)
    slot = order.permutation(place, BLOCK, order.key_of(seed, block)).astype(np.int64)
    ends = np.cumsum(self.places)
    part_of = np.searchsorted(ends, slot, side="right")
    epoch, row = np.zeros(len(slot), np.uint32), np.zeros(len(slot), np.int64)
    for index, (part, places) in enumerate(zip(self.parts, self.places)):
      own = part_of == index
      example = block[own] * places + slot[own] - (ends[index] - places)
      epoch[own], within = part.order(example, seed + index + 1)
      row[own] = within + self.starts[index]
    return epoch, row

  def gather(self, rows: np.ndarray) -> dict[str, np.ndarray]:
    """Reads rows [n] in any order, as `corpus.Split.gather` does."""
    rows = np.asarray(rows, np.int64)
    part_of = np.searchsorted(self.starts, rows, side="right") - 1
    result: dict[str, np.ndarray] = {}
    for index, part in enumerate(self.parts):
      own = part_of == index
      found = part.gather(rows[own] - self.starts[index])
      missing = self.max_sequences - part.max_sequences
      found["sequences"] = np.pad(found["sequences"], ((0, 0), (0, missing), (0, 0)))
      for name, array in found.items():
        result.setdefault(name, np.empty((len(rows), *array.shape[1:]), array.dtype))[own] = array
    return result


def parse(text: str) -> dict[str, float]:
  """Reads "DIR=WEIGHT,DIR=WEIGHT". Raises UserError."""
  weights = {}
  for entry in filter(None, map(str.strip, text.split(","))):
    folder, equals, weight = entry.rpartition("=")
    try:
      value = float(weight)
    except ValueError:
      value = 0.0
    if not equals or not folder or not 0 < value < float("inf"):
      raise UserError(f"data.mixture: expected DIR=WEIGHT,DIR=WEIGHT with positive weights, found {entry!r}")
    if folder in weights:
      raise UserError(f"data.mixture: {folder} is listed twice; add up its weights")
    weights[folder] = value
  return weights


def open_mixture(weights: dict[str, float], *, verify: bool = True) -> Corpus[MixedSplit]:
  """Opens several corpora as one.

  Args:
    weights: {corpus folder: weight}; only their ratios matter.
    verify: as for `open_corpus`.

  Returns:
    A corpus whose splits are `MixedSplit`s. Its folder is that of the first corpus; its manifest has the keys that
    all corpora share, the counts of all together, the manifests of its `parts`, and no `unigram_entropy`: that of a
    mixture is not known.

  Raises:
    UserError: a corpus that cannot be opened, corpora that do not fit together, or a weight of under one in a thousand.
  """
  corpora = {folder: open_corpus(folder, verify=verify) for folder in weights}
  first_folder, first = next(iter(corpora.items()))
  for folder, one in corpora.items():
    for key in _COMMON:
      if one.manifest[key] != first.manifest[key]:
        remedy = f"; prepare it with --tokenizer={first_folder}/tokenizer" if key == "tokenizer_fingerprint" else ""
        raise UserError(
          f"data.mixture: {folder} has {key}={one.manifest[key]!r}, {first_folder} "
          f"{first.manifest[key]!r}; corpora of one run must agree{remedy}"
        )
  places = _places(weights)
  manifest: dict[str, Any] = {key: first.manifest[key] for key in (*_COMMON, "special_ids", "vocab_size", "lowercase")}
  counts: dict[str, Any] = {}
  for one in corpora.values():
    for key, value in one.manifest["counts"].items():
      counts[key] = counts.get(key, 0) + value
  del counts["packing_efficiency"]
  ids = [[one.manifest["corpus_id"], int(share)] for one, share in zip(corpora.values(), places)]
  corpus_id = hashlib.sha256(json.dumps(ids).encode("ascii")).hexdigest()
  manifest["parts"] = {folder: one.manifest for folder, one in corpora.items()}
  manifest |= {"corpus_id": corpus_id, "counts": counts, "unigram_entropy": None}
  train, validation = (_mixed([getattr(one, split) for one in corpora.values()], places) for split in SPLITS)
  return Corpus(pathlib.Path(first.folder), manifest, train, validation)


def _mixed(parts: list[Split], places: np.ndarray) -> MixedSplit:
  starts = np.cumsum([0] + [part.num_rows for part in parts], dtype=np.int64)
  return MixedSplit(
    tuple(parts),
    places,
    starts,
    parts[0].seq_length,
    max(part.max_sequences for part in parts),
    parts[0].has_word_starts,
  )


def _places(weights: dict[str, float]) -> np.ndarray:
  """Places in a block by largest remainder: their sum is BLOCK."""
  shares = np.array(list(weights.values())) / sum(weights.values()) * BLOCK
  places = np.floor(shares).astype(np.int64)
  places[np.argsort(places - shares, kind="stable")[: BLOCK - places.sum()]] += 1
  if not places.all():
    folder = list(weights)[int(np.argmin(places))]
    raise UserError(
      f"data.mixture: {folder} has less than one part in {BLOCK} of the weights; raise its weight, or leave it out"
    )
  return places
