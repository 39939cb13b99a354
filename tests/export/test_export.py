"""exporting.py and model_card.py: which head is written, which is refused, and what the card says."""

import json

import numpy as np
import pytest

from bert_jax.convert.sentence_folder import Encoding
from bert_jax.errors import UserError
from bert_jax.export import export
from bert_jax.inference import model as inference
from tests.helpers.labelled_models import CONFIG, LABELS


def test_the_head_is_the_one_that_was_trained(model_of, tmp_path):
  for kind, head in (
    ("classification", "sequence-classification"),
    ("regression", "sequence-classification"),
    ("token-classification", "token-classification"),
    ("question-answering", "question-answering"),
  ):
    assert export.head_of(model_of(kind), "transformers") == head
    assert export.head_of(model_of(kind), "sentence-transformers") == "encoder"
  tuned = model_of("classification")
  assert export.head_of(tuned._replace(encoding=Encoding("mean", False)), "transformers") == "encoder"
  for heads, head in ((("mlm", "nsp", "pooler"), "pretraining"), (("mlm",), "mlm"), ((), "encoder")):
    assert export.head_of(tuned._replace(labels=None, heads=frozenset(heads)), "transformers") == head


def test_the_encoder_of_a_fine_tuned_model_is_exported_without_what_it_learned_of_labels(model_of, tmp_path):
  model = model_of("regression")  # its head is scaled when it is written
  export.export_model(model, tmp_path / "out", head="encoder")
  loaded = inference.load_model(tmp_path / "out")
  assert loaded.labels is None and "classifier" not in loaded.params
  kernel = lambda params: params["encoder"]["layer_1"]["feed_forward"]["intermediate"]["kernel"]
  np.testing.assert_array_equal(kernel(loaded.params), kernel(model.params))


def test_another_pooling_than_the_trained_one_is_not_scaled_to_length_1(model_of, tmp_path):
  model = model_of("classification")._replace(labels=None, encoding=Encoding("cls", True), max_length=50)
  for pooling, expected in ((None, ("cls", True)), ("cls", ("cls", True)), ("max", ("max", False))):
    export.export_model(model, tmp_path / str(pooling), format="sentence-transformers", pooling=pooling)
    loaded = inference.load_model(tmp_path / str(pooling))
    assert loaded.encoding == expected and loaded.max_length == 50


def test_sentence_transformers_have_no_pooler_and_a_model_trained_with_it_is_refused(model_of, tmp_path):
  model = model_of("classification")._replace(labels=None, encoding=Encoding("pooler", False))
  with pytest.raises(UserError, match="expected one of cls, max, mean; got 'pooler'"):
    export.export_model(model, tmp_path / "out", format="sentence-transformers")
  export.export_model(model, tmp_path / "mean", format="sentence-transformers", pooling="mean")
  assert inference.load_model(tmp_path / "mean").encoding == ("mean", False)


@pytest.mark.parametrize(
  "kind, head, words",
  [
    ("classification", "token-classification", "has no such head: it was trained for sequence-classification"),
    ("token-classification", "sequence-classification", "has no such head: it was trained for token-classification"),
    (None, "question-answering", "has no such head: it was not fine-tuned"),
  ],
)
def test_a_head_that_was_not_trained_is_refused(model_of, tmp_path, kind, head, words):
  model = model_of(kind or "classification")
  with pytest.raises(UserError, match=words):
    export.export_model(model if kind else model._replace(labels=None), tmp_path / "out", head=head)
  assert not (tmp_path / "out").exists()


def test_a_class_that_is_not_read_from_the_pooler_has_no_class_in_transformers(model_of, tmp_path):
  with pytest.raises(UserError, match="reads a text's class from the pooler, drawn from mean"):
    export.export_model(model_of("classification", "mean"), tmp_path / "out")


def test_as_many_tokens_are_read_of_a_text_as_in_training(model_of, tmp_path):
  export.export_model(model_of("classification")._replace(max_length=24), tmp_path / "out")
  assert json.loads((tmp_path / "out" / "tokenizer_config.json").read_text())["model_max_length"] == 24
  assert inference.load_model(tmp_path / "out").max_length == 24


def test_the_card_says_what_the_model_is_what_its_outputs_mean_and_how_to_load_it(model_of, tmp_path):
  export.export_model(model_of("token-classification"), tmp_path / "out")
  card = (tmp_path / "out" / "README.md").read_text()
  assert card.startswith("---\nlibrary_name: transformers\npipeline_tag: token-classification\n")
  for words in (
    f"| layers | {CONFIG.num_hidden_layers} |",
    "| maximum tokens per text | 100 |",
    "its training is not documented",
    *(f"`{name}`" for name in LABELS["token-classification"].names),
    "AutoModelForTokenClassification",
  ):
    assert words in card, words
