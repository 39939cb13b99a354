"""Rows to measure a step on: those of a corpus, or, where there is none, rows made up so that nothing needs to be read.

Ids that are made up follow Zipf's law, as words do: how often the same row of the word embeddings gets a gradient
decides what adding them up costs. What is learned from them is nothing.
"""

import dataclasses
from collections.abc import Generator
from typing import NamedTuple

import ml_collections
import numpy as np

from bert_jax import config as configs
from bert_jax.data import order
from bert_jax.data.corpus.folder import Corpus, open_corpus, tokenizer_of
from bert_jax.data.loading.input_pipeline import HostBatch, Rows, load_batch, train_batches
from bert_jax.data.tokenizer.wordpiece import Tokenizer
from bert_jax.errors import UserError
from bert_jax.objectives.objective import Objective
from bert_jax.runs import build
from bert_jax.tools.plan import data_facts
from bert_jax.tools.plan.data_facts import STAND_IN, DataFacts

SHORTEST = 8  # tokens of a sequence that is made up, at least
_ENDLESS = 10**9  # steps


class MadeUpRows(NamedTuple):
  """Rows in memory, full to the last token, as input_pipeline.Rows.

  Attributes:
    tokens: int32 [rows, L].
    sequences: int32 [rows, S, 3].
    word_starts: uint8 [rows, ceil(L / 8)], or None.
  """

  tokens: np.ndarray
  sequences: np.ndarray
  word_starts: np.ndarray | None

  @property
  def num_rows(self) -> int:
    return len(self.tokens)

  @property
  def seq_length(self) -> int:
    return self.tokens.shape[1]

  @property
  def max_sequences(self) -> int:
    return self.sequences.shape[1]

  @property
  def has_word_starts(self) -> bool:
    return self.word_starts is not None

  def order(self, positions: np.ndarray, seed: int) -> tuple[np.ndarray, np.ndarray]:
    return order.rows_at(positions, num_rows=self.num_rows, seed=seed)

  def gather(self, rows: np.ndarray) -> HostBatch:
    found = {"tokens": self.tokens[rows], "sequences": self.sequences[rows]}
    return found if self.word_starts is None else found | {"word_starts": self.word_starts[rows]}


def make_up(data: DataFacts, *, num_rows: int, seed: int = 0) -> MadeUpRows:
  """Full rows of `data.max_sequences` sequences each, of random lengths that add up to the row.

  Raises:
    UserError: so many sequences do not fit.
  """
  count, length, special = data.max_sequences, data.seq_length, len(STAND_IN.never_predicted)
  if not 1 <= count <= length // SHORTEST:
    raise UserError(
      f"--sequences={count}: a row of {length} tokens holds 1 to {length // SHORTEST} sequences of at least {SHORTEST}"
    )
  rng = np.random.default_rng(seed)
  words = data.vocab_size - special
  tokens = special + np.minimum(np.exp(rng.random((num_rows, length)) * np.log(words)), words - 1).astype(np.int32)
  cuts = np.sort(rng.integers(0, length - SHORTEST * count + 1, (num_rows, count - 1)), axis=1)
  ends = np.concatenate([cuts, np.full((num_rows, 1), length - SHORTEST * count)], axis=1) + SHORTEST * np.arange(
    1, count + 1
  )
  starts = np.concatenate([np.zeros((num_rows, 1), int), ends[:, :-1]], axis=1)
  first = rng.integers(2, SHORTEST - 3, starts.shape)  # tokens of A; B has at least one
  places = starts + length * np.arange(num_rows)[:, None]
  second = ends - starts - first - STAND_IN.room(pair=True)
  _, begins = STAND_IN.write(tokens.reshape(-1), places, first, second)
  table = [ends - starts, begins - places, rng.integers(0, 2, starts.shape)]
  sequences = np.stack(table, axis=2).astype(np.int32)
  word_starts = np.full((num_rows, -(-length // 8)), 255, np.uint8) if data.word_starts else None
  return MadeUpRows(tokens, sequences, word_starts)


@dataclasses.dataclass(frozen=True)
class BenchData:
  """Rows with what belongs to them.

  Attributes:
    rows: to train on.
    facts: what decides the program and its cost.
    corpus, tokenizer: where the rows come from; None where they are made up.
  """

  rows: Rows
  facts: data_facts.Facts
  corpus: Corpus | None = None
  tokenizer: Tokenizer | None = None

  def resolved(self, config: ml_collections.ConfigDict) -> ml_collections.ConfigDict:
    """A copy of `config` with what follows from the rows filled in.

    Raises UserError where the model does not fit them.
    """
    if self.corpus and self.tokenizer:
      return build.resolve_pretraining(config, self.corpus, self.tokenizer)
    return data_facts.resolved(config, self.facts.data)

  def objective(self, config: ml_collections.ConfigDict, platform: str) -> Objective:
    """The objective of a resolved config on these rows."""
    if not self.corpus or not self.tokenizer:
      return data_facts.stand_in_objective(config, self.facts.data, platform)
    model = build.model_of(config, configs.encoder_of(config), platform, seq_length=self.facts.data.seq_length)
    return build.make_objective(config, model, self.corpus, self.tokenizer)

  def stream(self, config: ml_collections.ConfigDict) -> Generator[HostBatch]:
    """Batches without an end, by the loader that needs no TensorFlow."""
    return train_batches(
      self.rows, batch_size=config.data.batch_size, seed=config.seed, start=0, steps=_ENDLESS, loader="threads"
    )

  def first(self, config: ml_collections.ConfigDict, count: int) -> list[HostBatch]:
    """The first batches of `stream`."""
    positions = np.arange(count * config.data.batch_size, dtype=np.int64).reshape(count, -1)
    return [load_batch(self.rows, of_batch, seed=config.seed) for of_batch in positions]


def bench_data(config: ml_collections.ConfigDict, *, sequences: int) -> BenchData:
  """The rows of the corpus that a config names where it is there; else rows that are made up.

  Args:
    config: not resolved.
    sequences: in a row that is made up.

  Raises:
    UserError: the corpus is damaged; so many sequences do not fit into a row.
  """
  if data_facts.has_corpus(config):
    corpus = open_corpus(config.data.corpus, verify=False)
    return BenchData(corpus.train, data_facts.facts_of(config), corpus, tokenizer_of(corpus))
  data = data_facts.promised(config)._replace(max_sequences=sequences)
  rows = make_up(data, num_rows=8 * config.data.batch_size)
  many = f"{sequences} sequences of {data.seq_length // sequences} on average" if sequences > 1 else "one sequence"
  source = f"synthetic, rows of {data.seq_length} tokens, {many}"
  return BenchData(rows, data_facts.Facts(data, data.seq_length, data.seq_length / sequences, source))
