"""What a model thinks at [MASK], layer by layer, and which tokens it is told by.

The MLM head reads the last layer; here it reads every layer ("logit lens", nostalgebraist 2020). The layers below were never
trained for that, so what they say is how far the last layer's answer is there already, not what they "believe".

Shape legend: L tokens, K masks, H hidden width, N heads, V vocabulary.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from bert_jax import inference
from bert_jax.batch import ModelInputs
from bert_jax.data.tokenizer import encode_batch
from bert_jax.errors import UserError
from bert_jax.inference import Completion, Model
from bert_jax.models.attention import attention_mask
from bert_jax.models.config import EncoderConfig
from bert_jax.models.layers import gelu

_BATCH = 32


class Layer(NamedTuple):
  """What one layer says at a mask; layer 0 is the embeddings.

  Attributes:
    completions: the likeliest tokens, best first.
    probability: of the token that the last layer finds likeliest.
    entropy: of all tokens' probabilities, in nats: 0 is certain, log V knows nothing.
    cosine: between the mask's vector, as the MLM head transforms it, and the embedding of that same token: the product of these
      two makes its score.
  """

  completions: list[Completion]
  probability: float
  entropy: float
  cosine: float


class Mask(NamedTuple):
  """One [MASK].

  Attributes:
    place: which token of the text it is, [CLS] being 0.
    layers: from the embeddings to the last.
    word: the token that the last layer finds likeliest.
    left_out: float [L], how much the log-probability of `word` falls where another token is hidden too; NaN for the mask itself,
      [CLS] and [SEP].
    rollout: float [L], the share of each token in the mask's vector if attention were all that mixes vectors; adds up to 1.
  """

  place: int
  layers: list[Layer]
  word: str
  left_out: np.ndarray
  rollout: np.ndarray


class Look(NamedTuple):
  """A text with its masks."""

  text: str
  tokens: list[str]
  masks: list[Mask]


def look(model: Model, text: str, top_k: int = 3) -> Look:
  """Looks at every [MASK] of a text.

  Raises:
    UserError: no [MASK] in the text, a text longer than the model, a model without an MLM head.
  """
  if "mlm" not in model.heads:
    raise UserError(f"look needs the masked-language-model head, which {model.origin} does not have")
  ids = encode_batch(model.tokenizer, [text], special_tokens=True)[0]
  limit = model.config.max_position_embeddings
  if len(ids) + 2 > limit:
    raise UserError(f"the text has {len(ids)} tokens; this model takes at most {limit - 2}")
  places = [place + 1 for place, token in enumerate(ids) if token == model.tokenizer.special.mask]
  if not places:
    raise UserError(f"no [MASK] in {text!r}: write [MASK] where a token is to be predicted")
  name = lambda index: model.tokenizer.backend.id_to_token(int(index)) or f"[id {index}]"
  tokens = ["[CLS]", *map(name, ids), "[SEP]"]
  inputs = inference.make_inputs(model, [(ids, [])])
  states = [np.asarray(state[0]) for state in inference.apply(model, inputs, np.array([places], np.int32)).hidden_states]
  lens = [_read(model, state[places]) for state in states]  # [(log-probabilities [K, V], transformed [K, H])] of each layer
  words = np.argmax(lens[-1][0], axis=-1)
  left_out = _leave_one_out(model, ids, places, words, lens[-1][0])
  shares = rollout(attention_probabilities(model, inputs))[:, : len(tokens)]
  masks = []
  for number, (place, word) in enumerate(zip(places, words)):
    layers = [_layer(model, log_p[number], vectors[number], int(word), top_k, name) for log_p, vectors in lens]
    masks.append(Mask(place, layers, name(word), left_out[number], shares[place]))
  return Look(text, tokens, masks)


def _read(model: Model, x_KxH: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
  """The MLM head on vectors of any layer: (log-probabilities [K, V], the vectors as its transform leaves them [K, H])."""
  head, config = model.params["mlm_head"], model.config
  y_KxH = gelu(_dense(head["dense"], jnp.asarray(x_KxH)))
  y_KxH = nn.LayerNorm(epsilon=config.layer_norm_eps).apply({"params": head["layer_norm"]}, y_KxH)
  logits = y_KxH @ model.params["encoder"]["embeddings"]["word_embeddings"]["embedding"].T + head["bias"][None]
  return np.asarray(jax.nn.log_softmax(logits[:, : config.vocab_size], axis=-1)), np.asarray(y_KxH)


def _dense(params: Any, x: jax.Array) -> jax.Array:
  return nn.Dense(params["bias"].shape[0]).apply({"params": params}, x)


def _layer(model: Model, log_p: np.ndarray, vector: np.ndarray, word: int, top_k: int, name) -> Layer:
  embedding = np.asarray(model.params["encoder"]["embeddings"]["word_embeddings"]["embedding"][word])
  best = np.argsort(-log_p, kind="stable")[:top_k]
  cosine = vector @ embedding / max(np.linalg.norm(vector) * np.linalg.norm(embedding), 1e-12)
  completions = [Completion(name(index), int(index), float(np.exp(log_p[index]))) for index in best]
  return Layer(completions, float(np.exp(log_p[word])), float(-np.sum(np.exp(log_p) * log_p)), float(cosine))


def _leave_one_out(model: Model, ids: list[int], places: list[int], words: np.ndarray, log_p: np.ndarray) -> np.ndarray:
  """float [K, L], see Mask.left_out: each token is replaced by [MASK], so that the others keep their places."""
  mask, result = model.tokenizer.special.mask, np.full((len(places), len(ids) + 2), np.nan)
  others = [place for place in range(1, len(ids) + 1) if place not in places]
  for begin in range(0, len(others), _BATCH):
    members = others[begin : begin + _BATCH]
    filled = members + [members[-1]] * (_BATCH - len(members))  # one batch shape only
    rows = [([*ids[: place - 1], mask, *ids[place:]], []) for place in filled]
    output = inference.apply(model, inference.make_inputs(model, rows), np.array([places] * len(rows), np.int32))
    without = np.asarray(jax.nn.log_softmax(output.mlm_logits, axis=-1))
    for row, place in zip(without, members):
      for number, word in enumerate(words):
        result[number, place] = log_p[number, word] - row[number, word]
  return result


def attention_probabilities(model: Model, inputs: ModelInputs) -> list[np.ndarray]:
  """For every layer float32 [B, N, L, L]: how much each token (third axis) attends to each other (fourth), computed anew from the hidden states."""
  states = inference.apply(model, inputs, np.zeros((len(inputs.input_ids), 1), np.int32)).hidden_states
  return [np.asarray(_attend(model.config, model.params["encoder"][f"layer_{number}"]["attention"], state, inputs.segment_ids))
          for number, state in enumerate(states[:-1])]  # fmt: skip


def _attend(config: EncoderConfig, params: Any, x_BxLxH: jax.Array, segment_ids_BxL: jax.Array) -> jax.Array:
  heads = (*x_BxLxH.shape[:2], config.num_attention_heads, config.head_dim)
  query, key = (_dense(params[name], x_BxLxH).reshape(heads) for name in ("query", "key"))
  scores_BxNxLxL = jnp.einsum("bqnd,bknd->bnqk", query, key) * config.head_dim**-0.5
  seen = attention_mask(jnp.asarray(segment_ids_BxL), None)[:, None]
  return jax.nn.softmax(jnp.where(seen, scores_BxNxLxL, jnp.finfo(jnp.float32).min), axis=-1)


def rollout(attention: list[np.ndarray]) -> np.ndarray:
  """float [L, L] of the first text: the share of each input token (second axis) in each vector of the last layer.

  Abnar & Zuidema 2020, arXiv 2005.00928: the mean over heads, half of it the residual, layers multiplied. What values, feed-forward
  layers and the head make of a vector does not enter.
  """
  shares = np.eye(attention[0].shape[-1])
  for layer in attention:
    mixed = 0.5 * layer[0].mean(axis=0) + 0.5 * np.eye(layer.shape[-1])
    shares = mixed / mixed.sum(axis=-1, keepdims=True) @ shares
  return shares
