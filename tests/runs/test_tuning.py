"""tuning.py: the settings of training a pretrained model on. What becomes of them in a run: test_run_finetuning.py and
test_run_sentence_embedding.py.
"""

import numpy as np
import pytest

from bert_jax.data.labelled import features
from bert_jax.errors import UserError
from bert_jax.runs import tuning
from tests.helpers.labelled_models import CONFIG


def config_of(*overrides):
  return tuning.config_of(list(overrides), tuning.DEFAULTS)


def test_a_run_may_stop_at_any_step_of_its_epochs():
  assert config_of("tuning.epochs=3", "stop_at_step=2000").stop_at_step == 2000
  with pytest.raises(UserError, match="stop_at_step=2000 must lie between 0 and total_steps=1000"):
    config_of("tuning.epochs=0", "stop_at_step=2000")


@pytest.mark.parametrize("share, steps", [(0.0, 0), (0.1, 3), (1.0, 37)])
def test_epochs_set_the_steps_and_the_learning_rate_rises_in_a_share_of_them_but_the_last(model_of, share, steps):
  config = config_of("tuning.epochs=3", f"tuning.warmup_share={share}", "data.batch_size=8")
  found = tuning.resolve_tuning(config, model_of("classification"), 101, 32)
  assert (found.total_steps, found.optimizer.warmup_steps, found.eval_every_steps, found.checkpoint.every_steps) == (
    38,
    steps,
    13,
    13,
  )
  assert found.model.hidden_size == CONFIG.hidden_size and found.tuning.max_length == 32


@pytest.mark.parametrize(
  "given, kind, length",
  [(0, "classification", 100), (0, "question-answering", 100), (64, "regression", 64), (512, "", 100)],
)
def test_texts_have_as_many_tokens_as_the_kind_wants_and_the_model_reads(given, kind, length):
  config = config_of(f"tuning.max_length={given}")
  assert tuning.max_length_of(config, 100, kind) == length
  assert tuning.max_length_of(config, 1000, kind) == (given or (384 if kind == "question-answering" else 128))
  with pytest.raises(UserError, match="leaves no room for a text"):
    tuning.max_length_of(config_of("tuning.max_length=7"), 100)


@pytest.mark.parametrize("text, noted", [("the cat sat on a mat", False), ("北京大学在哪里 the cat", True)])
def test_a_vocabulary_that_does_not_know_most_of_the_examples_is_noted(model_of, text, noted):
  model = model_of("classification")
  part = features.of_texts(model.tokenizer, [text] * 3, None, np.zeros(3, np.int32), max_length=32)
  config = config_of("tuning.max_length=32")
  notes = tuning._notes(config, config, model, part)
  assert (
    any("of the tokens are [UNK]: the vocabulary of drawn does not know such text" in line for line in notes) is noted
  )
