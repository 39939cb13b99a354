"""Model folders that other people's tools made, and what must come of each."""

import pathlib
import tarfile

import numpy as np
import pytest
import torch
import transformers

from bert_jax.errors import UserError
from bert_jax.export.export import export_model
from bert_jax.inference import model as inference
from bert_jax.inference import pipelines
from tests.helpers.hard_texts import assert_as_transformers, hard_texts

_CASES = pathlib.Path(__file__).resolve().parents[3] / "shared" / "cases" / "model_folders"
_MORE = ("covid19", "[ENT]")


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
  """All folders, unpacked side by side."""
  if not _CASES.is_dir():
    pytest.skip(f"the folder of cases is not at {_CASES}")
  root = tmp_path_factory.mktemp("model_folders")
  for archive in sorted(_CASES.glob("*.tar.xz")):
    with tarfile.open(archive) as content:
      content.extractall(root, filter="data")
  return root


def vectors_of_transformers(folder, texts):
  tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
  model = transformers.AutoModel.from_pretrained(folder).eval()
  with torch.no_grad():
    rows = [tokenizer(text, return_tensors="pt", truncation=True, max_length=64) for text in texts]
    return np.stack([model(**row).last_hidden_state[0].mean(0).numpy() for row in rows])


@pytest.mark.parametrize("name", ["added_tokens_json", "inside_vocab", "resized", "json_lower_config_cased"])
def test_tokens_and_vectors_are_those_of_transformers_and_an_export_keeps_them(folders, tmp_path, name):
  folder, exported = folders / name, tmp_path / "exported"
  assert_as_transformers(folder, _MORE)
  model = inference.load_model(folder)
  export_model(model, exported)
  assert_as_transformers(exported, _MORE)
  texts = hard_texts(_MORE, 30)
  expected = vectors_of_transformers(folder, texts)
  np.testing.assert_allclose(inference.encode(model, texts).vectors, expected, atol=2e-5)
  np.testing.assert_allclose(vectors_of_transformers(exported, texts), expected, atol=2e-5)


def test_a_classifier_without_a_class_predicts_as_transformers_does(folders):
  folder, texts = folders / "no_architectures", hard_texts(_MORE, 30)
  model = transformers.AutoModelForSequenceClassification.from_pretrained(folder)
  tokenizer = transformers.AutoTokenizer.from_pretrained(folder, model_max_length=64)
  pipeline = transformers.pipeline("text-classification", model=model, tokenizer=tokenizer, top_k=None, truncation=True)
  for ours, theirs in zip(pipelines.classify(inference.load_model(folder), texts), pipeline(texts), strict=True):
    assert {one.name: one.value for one in ours} == pytest.approx(
      {one["label"]: one["score"] for one in theirs}, abs=1e-5
    )


@pytest.mark.parametrize(
  "name, message",
  [
    ("module_prefix", "begin with 'module.', as torch.nn.DataParallel does: take it off once"),
    ("no_id2label", "config.json: says nothing of labels .id2label., .*the weights have 3 outputs: write"),
    ("odd_problem_type", 'config.json: problem_type is "classification"; expected single_label_classification'),
    ("one_label_single", "config.json: one output cannot be the probability of one of several classes"),
  ],
)
def test_what_transformers_does_not_read_either_is_one_message(folders, name, message):
  with pytest.raises(UserError, match=f"{name}.*{message}"):
    inference.load_model(folders / name)
