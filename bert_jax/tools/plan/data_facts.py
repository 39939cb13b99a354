"""What of the data decides a program and its cost, from the corpus where that is there, else from what a config says of
it.

`plan` and `bench` work without a corpus: a step depends on the shape of the rows and hardly on what stands in them.
"""

from typing import NamedTuple

import ml_collections
import numpy as np
from etils import epath

from bert_jax import config as configs
from bert_jax.data.corpus.folder import read_corpus_manifest
from bert_jax.data.tokenizer.wordpiece import SPECIAL_TOKENS, build_tokenizer
from bert_jax.models import flops
from bert_jax.objectives.masking import default_max_predictions, settings_of
from bert_jax.objectives.objective import CorpusFacts, Objective
from bert_jax.objectives.pretraining import PAIRS
from bert_jax.objectives.registry import recipe_of
from bert_jax.runs import build

# Rows of packed pairs hold 97.9 to 99.8 % tokens on Wikipedia at length 512 (docs/performance.md, docs/corpus.md).
ASSUMED_PACKING = 0.98
# A vocabulary that stands in for the real one: its first five ids are special, and every third id continues a word.
STAND_IN = build_tokenizer(SPECIAL_TOKENS, lowercase=True).template


class DataFacts(NamedTuple):
  """What of a corpus decides the program.

  Attributes:
    vocab_size: entries of the vocabulary.
    seq_length: tokens in a row.
    max_sequences: packed into one row at most.
    pairs: "nsp", "sop", or "" for no loss on pairs.
    word_starts: whether the corpus stores where words begin.
  """

  vocab_size: int
  seq_length: int
  max_sequences: int
  pairs: str
  word_starts: bool = False


class Facts(NamedTuple):
  """What decides the program, and what it costs.

  Attributes:
    data: what decides the program.
    tokens_per_row: real tokens, padding excluded.
    sequence_length: mean length of a sequence.
    source: where these come from.
  """

  data: DataFacts
  tokens_per_row: float
  sequence_length: float
  source: str


def has_corpus(config: ml_collections.ConfigDict) -> bool:
  """Whether the corpus that a config names is there."""
  return bool(config.data.corpus) and (epath.Path(config.data.corpus) / "manifest.json").exists()


def facts_of(config: ml_collections.ConfigDict) -> Facts:
  """Figures of the corpus where that is there, else what the config and the preset say of it."""
  folder = config.data.corpus
  if has_corpus(config):
    manifest = read_corpus_manifest(folder)
    counts, objective = manifest["splits"]["train"]["counts"], manifest["objective"]
    data = DataFacts(
      manifest["vocab_size"],
      manifest["seq_length"],
      manifest["max_sequences"],
      objective if objective in PAIRS else "",
      bool(manifest["word_segmenter"]),
    )
    return Facts(
      data, counts["row_tokens"] / counts["rows"], flops.mean_sequence_length(counts), f"the corpus {folder}"
    )
  data = promised(config)
  length = data.seq_length
  return Facts(
    data,
    ASSUMED_PACKING * length,
    length,
    f"assumed, for {folder or 'the corpus'} is not here: rows of {length}, {ASSUMED_PACKING:.0%} tokens, one sequence "
    f"each, vocabulary {data.vocab_size:,}",
  )


def promised(config: ml_collections.ConfigDict) -> DataFacts:
  """What a corpus will be like that `config` prepares."""
  encoder, objective = configs.encoder_of(config), config.prepare.objective
  vocabulary = encoder.vocab_size if config.prepare.tokenizer or config.model.vocab_size else config.prepare.vocab_size
  return DataFacts(
    vocabulary,
    config.prepare.seq_length,
    config.prepare.max_sequences,
    objective if objective in PAIRS else "",
    bool(config.prepare.word_segmenter),
  )


def resolved(config: ml_collections.ConfigDict, data: DataFacts) -> ml_collections.ConfigDict:
  """A copy of `config` with what follows from the data filled in."""
  config = configs.copy_of(config)
  config.model.vocab_size = data.vocab_size
  if config.masking.max_predictions is None:
    config.masking.max_predictions = default_max_predictions(settings_of(config.masking).highest_rate, data.seq_length)
  return config


def stand_in_objective(config: ml_collections.ConfigDict, data: DataFacts, platform: str) -> Objective:
  """The objective of a resolved config without a vocabulary at hand: constants of the program differ, and
  nothing else.

  Args:
    config: see `resolved`.
    data: of the rows.
    platform: tpu, gpu or cpu: where it will run.
  """
  module = build.model_of(config, configs.encoder_of(config), platform, seq_length=data.seq_length)
  continuation = np.arange(data.vocab_size) % 3 == 0
  facts = CorpusFacts(STAND_IN.special.mask, STAND_IN.never_predicted, continuation, data.pairs)
  return recipe_of(config.objective).make(module, config, facts)
