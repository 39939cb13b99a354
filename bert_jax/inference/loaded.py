"""The Python API: a loaded model, and the few functions that most people need of it.

`bert_jax.load(path)` gives a LoadedModel. All of its functions are pure: none changes the model. `apply` takes the
parameters as an argument, so that JAX can differentiate and compile through it; the others take text.

Shape legend: B texts, L tokens, H hidden width, K positions to predict, V vocabulary.
"""

import os
from collections.abc import Iterable, Sequence
from typing import Any

import jax

from bert_jax.batch import ModelInputs
from bert_jax.errors import UserError
from bert_jax.inference import model, pipelines
from bert_jax.models.pretraining import ModelOutput


class LoadedModel(model.Model):
  """A model with its functions; attributes as of inference.Model, first of all `config`, `params` and `tokenizer`."""

  __slots__ = ()

  def __repr__(self) -> str:
    """One line: a notebook would else print every parameter."""
    sizes, heads = self.config, ", ".join(sorted(self.heads)) or "none"
    count = sum(leaf.size for leaf in jax.tree.leaves(self.params))
    return (
      f"LoadedModel({self.origin!r}: {sizes.num_hidden_layers} layers of {sizes.hidden_size}, {sizes.vocab_size:,} "
      f"words, {count:,} parameters; heads: {heads}{f'; {self.labels.kind}' if self.labels else ''})"
    )

  def encode(
    self, texts: Iterable[str], pooling: str | None = None, *, normalize: bool = False, batch_size: int = 32
  ) -> model.Encoded:
    """Vectors of texts: `.vectors` is float32 NumPy [B, H]; arguments, results and errors as of `inference.encode`."""
    return model.encode(self, texts, pooling, normalize=normalize, batch_size=batch_size)

  def fill_mask(self, text: str, top_k: int = 5) -> list[list[model.Completion]]:
    """The likeliest tokens at every [MASK] of a text, best first; errors as of `inference.fill_mask`."""
    return model.fill_mask(self, text, top_k)

  def classify(self, texts: Sequence[str], pairs: Sequence[str] | None = None) -> list[list[pipelines.Label]]:
    """The labels of each text from a fine-tuned model, the likeliest first; errors as of `pipelines.classify`."""
    return pipelines.classify(self, texts, pairs)

  def tokenize(self, texts: Sequence[str], pairs: Sequence[str] | None = None) -> ModelInputs:
    """What `apply` takes, made of texts: int32 NumPy [B, L], [CLS] text [SEP] in each row, and pair [SEP] where there
    are pairs.

    Args:
      texts: may hold [MASK]; where they are too long for the model they lose their end.
      pairs: the second text of each.

    Returns:
      ModelInputs; L is a multiple of 32 or the model's limit, `segment_ids` is 0 at padding.

    Raises:
      UserError: no text, or not as many pairs as texts.
    """
    texts, pairs = model.list_of(texts), None if pairs is None else model.list_of(pairs)
    if not texts or (pairs is not None and len(pairs) != len(texts)):
      raise UserError(
        f"expected a list of texts, and as many second texts or none; got {len(texts)} and "
        f"{'none' if pairs is None else len(pairs)}"
      )
    return model.make_inputs(self, [(a, b) for a, b, _ in model.encode_texts(self, texts, pairs)])

  def apply(self, params: Any, inputs: ModelInputs, masked_positions: jax.Array | None = None) -> ModelOutput:
    """The outputs by name, without dropout: for jax.jit, jax.grad, jax.vmap.

    Args:
      params: a tree like `self.params`, float32.
      inputs: see `tokenize`.
      masked_positions: int [B, K], where words are predicted; None: everywhere, with K = L.

    Returns:
      ModelOutput, float32: `sequence_output` [B, L, H], `hidden_states` (layers + 1) x [B, L, H], `pooled_output`
      [B, 1, H], `masked_output` [B, K, H], `prediction_logits` [B, K, V], `nsp_logits` [B, 1, 2]; None where the model
      lacks the head.
    """
    return model.apply(self._replace(params=params), inputs, masked_positions)

  def scores(self, params: Any, inputs: ModelInputs) -> jax.Array:
    """What a fine-tuned model's head says of the inputs, before any softmax, for jax.jit, jax.grad, jax.vmap.

    Args:
      params: a tree like `self.params`, float32.
      inputs: see `tokenize`.

    Returns:
      float32 [B, C], a score for each of `self.labels.names`; [B, L, C] of every token, where labels are of tokens or
      answers.

    Raises:
      UserError: a model that is not fine-tuned.
    """
    return pipelines.scores_of(self._replace(params=params), inputs)


def load_model(path: str | os.PathLike) -> LoadedModel:
  """Loads a run folder (its newest good checkpoint; its best one after fine-tuning) or a Hugging Face BERT folder.

  Raises:
    UserError: neither of the two, or one that is damaged.
  """
  return LoadedModel(*model.load_model(path))
