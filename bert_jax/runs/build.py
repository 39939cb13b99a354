"""From a config and a corpus to what a run is made of: the resolved config, the encoder, the model, the objective."""

import jax.numpy as jnp
import ml_collections
from flax import linen as nn

from bert_jax import config as configs
from bert_jax.data.corpus.folder import PROVENANCE, Corpus
from bert_jax.data.tokenizer.wordpiece import Tokenizer
from bert_jax.errors import UserError
from bert_jax.models import attention
from bert_jax.models.config import EncoderConfig
from bert_jax.objectives.masking import default_max_predictions, settings_of
from bert_jax.objectives.objective import CorpusFacts, Objective
from bert_jax.objectives.registry import recipe_of


def resolve_pretraining(
  config: ml_collections.ConfigDict, corpus: Corpus, tokenizer: Tokenizer
) -> ml_collections.ConfigDict:
  """Fills in what follows from the corpus, and refuses a model that does not fit it. Raises UserError."""
  config = configs.copy_of(config)
  if config.model.vocab_size is None:
    config.model.vocab_size = tokenizer.vocab_size
  if config.model.vocab_size < tokenizer.vocab_size:  # others round it up
    raise UserError(
      f"model.vocab_size={config.model.vocab_size}, but the tokenizer of {corpus.folder} has {tokenizer.vocab_size} "
      "entries; leave model.vocab_size out, or prepare the corpus with the model's own tokenizer"
    )
  types, pairs = configs.encoder_of(config).type_vocab_size, corpus.manifest["objective"]
  if types < 2 and pairs != "none":
    raise UserError(
      f"{corpus.folder} holds pairs of sentences (--objective={pairs}), but model.type_vocab_size={types}: a pair "
      "needs two token types. Set model.type_vocab_size=2, or prepare a corpus with --objective=none"
    )
  length = corpus.train.seq_length
  if config.masking.max_predictions is None:
    config.masking.max_predictions = default_max_predictions(settings_of(config.masking).highest_rate, length)
  if not 1 <= config.masking.max_predictions <= length:
    raise UserError(
      f"masking.max_predictions={config.masking.max_predictions} must lie between 1 and the row length {length}"
    )
  positions = configs.encoder_of(config).max_position_embeddings
  if length > positions:
    raise UserError(
      f"rows of {corpus.folder} have {length} tokens, the model has {positions} positions; raise "
      f"model.max_position_embeddings to {length} or prepare the corpus with --seq_length={positions}"
    )
  _record_preparation(config, corpus)
  return config


def _record_preparation(config: ml_collections.ConfigDict, corpus: Corpus) -> None:
  """Sets `data.source` and the group `prepare` to what the corpus was made with, as far as its manifest tells.

  They had an effect only if this run prepared it. Of a corpus from elsewhere, and of a mixture, the config of the run
  would else record a source that was never read and a vocabulary that nobody trained.
  """
  made_from = corpus.manifest.get(PROVENANCE, {}).get("sources")
  prepared_here = bool(config.data.source) and made_from == [config.data.source]
  if not prepared_here:
    config.data.source = ""
    config.prepare = configs.default_config().prepare
  for name in config.prepare:
    if name in corpus.manifest:
      config.prepare[name] = corpus.manifest[name]


def model_of(
  config: ml_collections.ConfigDict, encoder: EncoderConfig, platform: str = "", *, seq_length: int = 0
) -> nn.Module:
  """The Flax module of a config. Raises UserError for an attention that cannot be used.

  Args:
    config: resolved or not.
    encoder: `config.encoder_of(config)`.
    platform: tpu, gpu or cpu: where it will run; empty: anywhere.
    seq_length: tokens in a row; 0: any.
  """
  dtypes = {name: jnp.dtype(config.model[name]) for name in ("dtype", "param_dtype")}
  return recipe_of(config.objective).module(
    encoder, **dtypes, remat=config.model.remat, attention=attention_of(config, encoder, platform, seq_length)
  )


def attention_of(config: ml_collections.ConfigDict, encoder: EncoderConfig, platform: str, seq_length: int) -> str:
  """The implementation of attention that a config comes to, with arguments as of `model_of`."""
  if config.deterministic:
    return "xla"
  use = attention.Use(
    platform,
    seq_length,
    encoder.head_dim,
    config.model.dtype,
    dropout=encoder.attention_probs_dropout_prob > 0,
    split_heads=config.mesh.tensor != 1,
  )
  return attention.choose(config.model.attention, use)


def make_objective(
  config: ml_collections.ConfigDict, module: nn.Module, corpus: Corpus, tokenizer: Tokenizer
) -> Objective:
  """What a run learns with a module on a corpus; the config is resolved."""
  facts = CorpusFacts(
    mask_id=tokenizer.special.mask,
    never_predicted=tokenizer.template.never_predicted,
    continuation=~tokenizer.word_starts_table,
    pairs=corpus.manifest["objective"],
  )
  return recipe_of(config.objective).make(module, config, facts)
