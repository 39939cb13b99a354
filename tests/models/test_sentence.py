"""models/sentence.py: a vector for each of the texts that lie in a row, the same as of that text alone."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bert_jax.batch import model_inputs
from bert_jax.models.pooling import POOLINGS
from bert_jax.models.sentence import SentenceModel, l2_normalize
from tests.helpers.sentence_models import CONFIG, drawn, packed_batch


def vectors(model, params, tokens, sequences):
  return jax.jit(lambda params: model.apply({"params": params}, model_inputs(tokens, sequences)))(params)


@pytest.mark.parametrize("pooling", POOLINGS)
def test_texts_of_a_row_have_the_vectors_that_they_have_alone(pooling):
  """Three texts of up to 7 tokens in rows of 24, where the model has 16 positions."""
  model, batch = SentenceModel(CONFIG, pooling), packed_batch(3, rows=4)
  params, _ = drawn(model, "in-batch")
  together = vectors(model, params, batch["tokens"], batch["sequences"])
  assert together.shape == (4, 3, 32)
  for place in range(3):
    lengths = batch["sequences"][:, :, 0]
    starts = lengths[:, :place].sum(1)
    tokens = np.zeros((4, 8), np.int32)
    for row in range(4):
      tokens[row, : lengths[row, place]] = batch["tokens"][row, starts[row] :][: lengths[row, place]]
    alone = vectors(model, params, tokens, batch["sequences"][:, place : place + 1])
    np.testing.assert_allclose(together[:, place], alone[:, 0], atol=1e-5)


def test_normalized_vectors_have_length_1_and_point_the_same_way():
  batch = packed_batch(2, rows=4)
  params, _ = drawn(SentenceModel(CONFIG), "in-batch")
  plain, normal = (
    vectors(SentenceModel(CONFIG, normalize=on), params, batch["tokens"], batch["sequences"]) for on in (False, True)
  )
  np.testing.assert_allclose(jnp.linalg.norm(normal, axis=-1), 1.0, rtol=1e-5)
  np.testing.assert_allclose(l2_normalize(plain), normal, atol=1e-6)
  assert not np.allclose(plain, normal, atol=0.1)
