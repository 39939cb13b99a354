"""models/finetuning.py: which parameters there are, and what the scores are read from. Parity with transformers:
tests/test_finetune.py.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bert_jax.errors import UserError
from bert_jax.inference.model import make_inputs
from bert_jax.models.encoder import Encoder
from bert_jax.models.finetuning import SEQUENCE, SPAN, TOKENS, FinetuningModel
from bert_jax.models.pooling import pool
from tests.helpers.labelled_models import CONFIG


@pytest.fixture(scope="module")
def inputs(model_of):
  return make_inputs(model_of("classification"), [([7, 8, 9, 10], [11, 12]), ([9], [])])


@pytest.mark.parametrize(
  "target, pooling, subtrees, shape",
  [
    (SEQUENCE, "pooler", {"encoder", "pooler", "classifier"}, (2, 3)),
    (SEQUENCE, "mean", {"encoder", "classifier"}, (2, 3)),
    (TOKENS, "pooler", {"encoder", "classifier"}, (2, 32, 3)),
    (SPAN, "pooler", {"encoder", "span_head"}, (2, 32, 3)),
  ],
)
def test_there_are_the_parameters_that_are_read_and_no_others(inputs, target, pooling, subtrees, shape):
  model = FinetuningModel(CONFIG, target, 3, pooling)
  scores, variables = jax.eval_shape(lambda: model.init_with_output(jax.random.key(0), inputs))
  assert set(variables["params"]) == subtrees and scores.shape == shape and scores.dtype == jnp.float32


@pytest.mark.parametrize("pooling", ["cls", "mean", "max"])
def test_the_score_of_a_text_is_the_head_of_its_pooled_vector(inputs, pooling):
  model = FinetuningModel(CONFIG, SEQUENCE, 3, pooling)
  params = model.init(jax.random.key(0), inputs)["params"]
  states = Encoder(CONFIG).apply(
    {"params": params["encoder"]},
    inputs.input_ids,
    inputs.token_type_ids,
    inputs.position_ids,
    inputs.segment_ids,
    None,
    inputs.sequence_lengths,
  )
  dense = params["classifier"]["dense"] if "dense" in params["classifier"] else params["classifier"]
  expected = np.asarray(pool(states.sequence_output, None, inputs, pooling)) @ np.asarray(dense["kernel"]) + np.asarray(
    dense["bias"]
  )
  np.testing.assert_allclose(model.apply({"params": params}, inputs), expected, atol=1e-5)


def test_an_unknown_target_or_pooling_is_refused(inputs):
  for target, pooling in (("word", "pooler"), (SEQUENCE, "first")):
    with pytest.raises(UserError, match="expected a target of sequence, tokens, span and a pooling of"):
      jax.eval_shape(FinetuningModel(CONFIG, target, 3, pooling).init, jax.random.key(0), inputs)
