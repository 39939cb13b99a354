"""What a model predicts at [MASK], layer by layer, and which tokens matter.

The MLM head reads the last layer; here it reads every layer ("logit lens", nostalgebraist 2020). The layers below were
never trained for that, so what they say is how far the last layer's answer is there already, not what they "believe".

Shape legend: L tokens, K masks, H hidden width, N heads, V vocabulary.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from bert_jax.batch import ModelInputs
from bert_jax.inference import model as inference
from bert_jax.inference.model import Completion, Model
from bert_jax.models import encoder, parameters
from bert_jax.models.config import EncoderConfig
from bert_jax.models.heads import MlmHead
from bert_jax.models.pretraining import PretrainingModel

_BATCH = 32


class Layer(NamedTuple):
  """What one layer says at a mask; layer 0 is the embeddings.

  Attributes:
    completions: the likeliest tokens, best first.
    probability: of the token that the last layer finds likeliest.
    entropy: of all tokens' probabilities, in nats: 0 is certain, log V knows nothing.
    cosine: between the mask's vector, as the MLM head transforms it, and the embedding of that same token: the product
      of these two makes its score.
  """

  completions: list[Completion]
  probability: float
  entropy: float
  cosine: float


class Mask(NamedTuple):
  """One [MASK].

  Attributes:
    place: which token of the framed text it is, from 0.
    layers: from the embeddings to the last.
    word: the token that the last layer finds likeliest.
    left_out: float [L], how much the log-probability of `word` falls where another token is hidden too; NaN for the
      mask itself and special tokens.
    rollout: float [L], the share of each token in the mask's vector if attention were all that mixes vectors; adds up
      to 1.
  """

  place: int
  layers: list[Layer]
  word: str
  left_out: np.ndarray
  rollout: np.ndarray

  @property
  def settled(self) -> int:
    """The layer from which on `word` is the likeliest."""
    others = [number for number, layer in enumerate(self.layers) if layer.completions[0].token != self.word]
    return max(others, default=-1) + 1


class LogitLens(NamedTuple):
  """A text with its masks."""

  text: str
  tokens: list[str]
  masks: list[Mask]


def logit_lens(model: Model, text: str, top_k: int = 3) -> LogitLens:
  """Looks at every [MASK] of a text.

  Raises:
    UserError: no [MASK] in the text, a text longer than the model, a model without an MLM head.
  """
  ids, places = inference.find_masks(model, text, "look")
  tokens = list(map(model.tokenizer.token, model.tokenizer.template.frame(ids)[0]))
  inputs = inference.make_inputs(model, [(ids, [])])
  states, attention = _encode(model.config, model.params, inputs)
  lens = _read(model.config, model.params, states[:, 0, np.array(places)])
  log_p, vectors = (
    inference.finite(model, one, "the log-probabilities") for one in lens
  )  # [layers, K, V], [layers, K, H]
  words = np.argmax(log_p[-1], axis=-1).tolist()
  left_out = _leave_one_out(model, ids, places, words, log_p[-1])
  shares = rollout(np.asarray(attention)[:, 0])[:, : len(tokens)]
  masks = []
  for number, (place, word, name) in enumerate(zip(places, words, map(model.tokenizer.token, words))):
    layers = [_layer(model, *one, word, top_k) for one in zip(log_p[:, number], vectors[:, number])]
    masks.append(Mask(place, layers, name, left_out[number], shares[place]))
  return LogitLens(text, tokens, masks)


@functools.partial(jax.jit, static_argnums=0)
def _encode(config: EncoderConfig, params: Any, inputs: ModelInputs) -> tuple[jax.Array, jax.Array]:
  """(hidden states [layers + 1, B, L, H], attention probabilities [layers, B, N, L, L]), float32."""
  module = PretrainingModel(config, heads=frozenset())
  output, seen = module.apply({"params": params}, inputs, None, mutable="intermediates")
  return jnp.stack(output.hidden_states), encoder.attention_probabilities(seen)


@functools.partial(jax.jit, static_argnums=0)
def _read(config: EncoderConfig, params: Any, x_MxKxH: jax.Array) -> tuple[jax.Array, jax.Array]:
  """The MLM head on vectors of any layer: (log-probabilities [M, K, V], the vectors as its transform leaves them [M,
  K, H]).
  """
  logits_MxKxV, seen = MlmHead(config).apply(
    {"params": parameters.head(params, "mlm")}, x_MxKxH, parameters.word_embeddings(params), mutable="intermediates"
  )
  log_p = jax.nn.log_softmax(logits_MxKxV[:, :, : config.vocab_size], axis=-1)
  return log_p, seen["intermediates"]["transformed"][0]


def _layer(model: Model, log_p: np.ndarray, vector: np.ndarray, word: int, top_k: int) -> Layer:
  embedding = np.asarray(parameters.word_embeddings(model.params)[word])
  cosine = vector @ embedding / max(np.linalg.norm(vector) * np.linalg.norm(embedding), 1e-12)
  odds = np.exp(log_p)
  completions = inference.likeliest(model, odds, top_k)
  return Layer(completions, float(odds[word]), float(-np.sum(odds * log_p)), float(cosine))


def _leave_one_out(model: Model, ids: list[int], places: list[int], words: list[int], log_p: np.ndarray) -> np.ndarray:
  """float [K, L], see Mask.left_out: each token is replaced by [MASK], so that the others keep their places."""
  mask, template = model.tokenizer.special.mask, model.tokenizer.template
  result = np.full((len(places), len(ids) + template.room(pair=False)), np.nan)
  others = [place for place in range(len(ids)) if template.offset + place not in places]
  for members, filled in inference.batches_by_length([len(ids)] * len(others), _BATCH):
    rows: list[tuple[list[int], list[int]]] = [([*ids[: others[i]], mask, *ids[others[i] + 1 :]], []) for i in filled]
    positions = np.array([places] * len(rows), np.int32)
    logits = inference.prediction_logits(model, inference.make_inputs(model, rows), positions)
    without = np.asarray(jax.nn.log_softmax(logits, axis=-1))
    for row, i in zip(without, members):
      for number, word in enumerate(words):
        result[number, template.offset + others[i]] = log_p[number, word] - row[number, word]
  return result


def layer_attention(model: Model, inputs: ModelInputs) -> np.ndarray:
  """float32 [layers, B, N, L, L]: how much each token (fourth axis) attends to each other (fifth), in every head."""
  return np.asarray(_encode(model.config, model.params, inputs)[1])


def rollout(attention: np.ndarray) -> np.ndarray:
  """float [L, L]: the share of each input token (second axis) in each vector of the last layer; attention: [layers, N,
  L, L].

  Abnar & Zuidema 2020, arXiv 2005.00928: the mean over heads, half of it the residual, layers multiplied. What values,
  feed-forward layers and the MLM head make of a vector does not enter.
  """
  shares = np.eye(attention.shape[-1])
  for layer in attention:
    shares = (0.5 * layer.mean(axis=0) + 0.5 * np.eye(layer.shape[-1])) @ shares
  return shares
