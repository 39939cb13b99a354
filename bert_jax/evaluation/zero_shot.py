"""What can be said of a pretrained model without training it: how likely sentences are to it, and whether its cosines
mean similarity.
"""

from collections.abc import Sequence

import jax
import numpy as np

from bert_jax.errors import UserError
from bert_jax.evaluation import metrics
from bert_jax.evaluation.similarity import cosines_of_pairs
from bert_jax.inference import model as inference
from bert_jax.inference.model import Model

_BATCH = 64


def pseudo_perplexity(model: Model, texts: Sequence[str]) -> np.ndarray:
  """float64 [B]: exp of the mean surprise of a text's tokens, each hidden in turn and predicted from all others.

  Salazar et al. 2020, arXiv 1910.14659. Not comparable between vocabularies: a token is not a word. [UNK] is not
  counted, since no model learns to predict it; texts longer than Model.max_length lose their end. NaN for a text
  without a known token.

  Raises:
    UserError: a model without an MLM head.
  """
  if "mlm" not in model.heads:
    raise UserError(f"pseudo-perplexity needs the masked-language-model head, which {model.origin} does not have")
  special, offset = model.tokenizer.special, model.tokenizer.template.offset
  ids = [ids for ids, _, _ in inference.encode_texts(model, texts)]
  hidden = [
    (number, place) for number, one in enumerate(ids) for place, token in enumerate(one) if token != special.unk
  ]
  surprise = np.zeros(len(ids))
  for members, filled in inference.batches_by_length([len(ids[number]) for number, _ in hidden], _BATCH):
    rows: list[tuple[list[int], list[int]]] = [
      ([*ids[number][:place], special.mask, *ids[number][place + 1 :]], [])
      for number, place in (hidden[i] for i in filled)
    ]
    places = np.array([[offset + hidden[i][1]] for i in filled], np.int32)
    logits = inference.prediction_logits(model, inference.make_inputs(model, rows), places)
    log_probabilities = np.asarray(jax.nn.log_softmax(logits[:, 0], axis=-1))
    for (number, place), row in zip((hidden[i] for i in members), log_probabilities):
      surprise[number] -= row[ids[number][place]]
  inference.finite(model, surprise, "the log-probabilities")
  with np.errstate(invalid="ignore"):
    return np.exp(surprise / np.array([sum(token != special.unk for token in one) or np.nan for one in ids]))


def similarity(model: Model, first: Sequence[str], second: Sequence[str], scores: np.ndarray) -> dict[str, float]:
  """{pooling: Spearman of the cosine with the scores}, for every pooling that the model has; scores float [B]."""
  cosines, _ = cosines_of_pairs(model, first, second)
  return {pooling: metrics.regression(np.asarray(scores), rows[-1])["spearman"] for pooling, rows in cosines.items()}
