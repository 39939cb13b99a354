"""convert/sentence_folder.py: a folder of sentence-transformers says itself how its vectors are made."""

import json

import numpy as np
import pytest
import sentence_transformers

from bert_jax.convert import folder
from bert_jax.convert.sentence_folder import Encoding, read_encoding
from bert_jax.errors import UserError
from bert_jax.export import export
from bert_jax.inference import model as inference

TEXTS = ["the cat sat on the mat .", "the mat", "a cat , 42 mats and some words that it has to spell"]


@pytest.fixture
def written(config, params, tokenizer_dir, tmp_path):
  """A folder as we write it: [CLS], length 1."""
  folder.write_folder(tmp_path / "ours", params, config, tokenizer_dir, head="encoder", encoding=Encoding("cls", True))
  return tmp_path / "ours"


def test_its_pooling_and_normalisation_are_ours_unless_others_are_asked_for(written):
  model = inference.load_model(written)
  assert model.encoding == ("cls", True) and model.max_length == 40
  encoded = inference.encode(model, TEXTS)
  theirs = sentence_transformers.SentenceTransformer(str(written), device="cpu")
  np.testing.assert_allclose(encoded.vectors, theirs.encode(TEXTS), atol=1e-5)
  assert encoded.pooling == "cls"
  assert not np.allclose(inference.encode(model, TEXTS, "mean").vectors, encoded.vectors, atol=0.1)


def test_a_folder_that_sentence_transformers_has_saved_is_read_with_its_limit(written, tmp_path):
  theirs = sentence_transformers.SentenceTransformer(str(written), device="cpu")
  theirs.max_seq_length = 6
  theirs.save(str(tmp_path / "theirs"))
  model = inference.load_model(tmp_path / "theirs")
  assert model.encoding == ("cls", True) and model.max_length == 6
  encoded = inference.encode(model, TEXTS)
  assert encoded.truncated == 2
  np.testing.assert_allclose(encoded.vectors, theirs.encode(TEXTS), atol=1e-5)
  export.export_model(model, tmp_path / "again", format="sentence-transformers")
  again = sentence_transformers.SentenceTransformer(str(tmp_path / "again"), device="cpu")
  np.testing.assert_allclose(encoded.vectors, again.encode(TEXTS), atol=1e-5)


def test_other_models_make_mean_vectors(config, params, tokenizer_dir, tmp_path):
  folder.write_folder(tmp_path / "plain", params, config, tokenizer_dir)
  model = inference.load_model(tmp_path / "plain")
  assert model.encoding is None
  np.testing.assert_array_equal(inference.encode(model, TEXTS).vectors, inference.encode(model, TEXTS, "mean").vectors)


@pytest.mark.parametrize(
  "change, message",
  [
    ({"pooling_mode_max_tokens": True}, "pooling cls, max; this model has cls, max, mean, one of them"),
    ({"pooling_mode_cls_token": False, "pooling_mode_lasttoken": True}, "pooling lasttoken"),
  ],
)
def test_a_pooling_that_we_do_not_have_is_refused(written, change, message):
  file = written / "1_Pooling" / "config.json"
  file.write_text(json.dumps(json.loads(file.read_text()) | change))
  with pytest.raises(UserError, match=message):
    inference.load_model(written)


@pytest.mark.parametrize(
  "file, change, message",
  [
    (
      "config_sentence_transformers.json",
      {"prompts": {"query": "query: "}, "default_prompt_name": "query"},
      "every text gets the prompt 'query: '",
    ),
    (
      "config_sentence_transformers.json",
      {"prompts": {"query": "query: ", "document": ""}, "default_prompt_name": "document"},
      "",
    ),
    ("sentence_bert_config.json", {"do_lower_case": True}, "do_lower_case is set, and the tokenizer is a cased one"),
  ],
)
def test_what_is_done_to_a_text_before_the_tokenizer_gets_it_is_refused(written, file, change, message):
  (written / file).write_text(json.dumps(json.loads((written / file).read_text()) | change))
  if not message:
    assert read_encoding(written, lowercase=False)
    return
  with pytest.raises(UserError, match=message):
    read_encoding(written, lowercase=False)
  if "do_lower_case" in change:  # as the tokenizer does it anyway
    assert inference.load_model(written).encoding and inference.load_model(written).tokenizer.lowercase


def test_modules_that_we_do_not_have_are_refused(written):
  modules = json.loads((written / "modules.json").read_text())
  (written / "modules.json").write_text(
    json.dumps([*modules, {"idx": 3, "name": "3", "path": "3_Dense", "type": "sentence_transformers.models.Dense"}])
  )
  with pytest.raises(
    UserError, match=r"it has Transformer, Pooling, Normalize, Dense.*copy the folder without modules\.json"
  ):
    inference.load_model(written)
