"""What folders of others say of their models is believed where it can be true, and answered with a remedy where not."""

import json
import os
import shutil

import numpy as np
import pytest
import safetensors.numpy
import transformers
from sentence_transformers import CrossEncoder

from bert_jax.convert.model_config import find_model
from bert_jax.errors import UserError
from bert_jax.export.export import export_model
from bert_jax.inference import model as inference
from bert_jax.inference import pipelines

_TEXTS = ["the cat sat.", "on the mat", "a b c d"]


@pytest.fixture
def labelled(exported_labels, tmp_path):
  """(changes to config.json, outputs) -> a copy of a folder that classifies texts; ... takes a key out."""

  def make(changes=(), outputs=3):
    folder = tmp_path / "labelled"
    shutil.copytree(exported_labels("classification"), folder)
    content = json.loads((folder / "config.json").read_text()) | dict(changes)
    (folder / "config.json").write_text(json.dumps({key: value for key, value in content.items() if value is not ...}))
    tensors = safetensors.numpy.load_file(folder / "model.safetensors")
    for name in ("classifier.weight", "classifier.bias"):
      tensors[name] = np.concatenate([tensors[name]] * 2)[:outputs]
    safetensors.numpy.save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    return folder

  return make


def found(folder):
  """The probability or score of each label, by its name."""
  model = inference.load_model(folder)
  return [{label.name: label.value for label in labels} for labels in pipelines.classify(model, _TEXTS)]


def expected_of(folder, wrapped=None):
  model = wrapped or transformers.AutoModelForSequenceClassification.from_pretrained(folder)
  tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
  pipeline = transformers.pipeline("text-classification", model=model, tokenizer=tokenizer, top_k=None)
  return [{one["label"]: one["score"] for one in labels} for labels in pipeline(_TEXTS)]


def assert_same(ours, theirs):
  for one, other in zip(ours, theirs, strict=True):
    assert one == pytest.approx(other, abs=1e-5)


_ONE = {"id2label": {"0": "relevance"}, "label2id": {"relevance": 0}}


@pytest.mark.parametrize(
  "changes, outputs",
  [
    ({}, 3),
    ({"architectures": ...}, 3),
    ({"architectures": ..., "problem_type": ...}, 3),
    ({"problem_type": ...}, 3),
    ({"problem_type": "multi_label_classification"}, 3),
    ({"id2label": ..., "label2id": ..., "problem_type": ...}, 2),
    ({**_ONE, "problem_type": ...}, 1),
    ({**_ONE, "problem_type": "regression"}, 1),
    ({**_ONE, "problem_type": "multi_label_classification"}, 1),
    ({"id2label": {"2": "c", "0": "a", "1": "b"}, "label2id": ...}, 3),
  ],
)
def test_outputs_mean_what_a_pipeline_of_transformers_makes_of_them(labelled, changes, outputs):
  folder = labelled(changes, outputs)
  assert_same(found(folder), expected_of(folder))


@pytest.mark.parametrize(
  "changes, outputs",
  [
    ({**_ONE, "problem_type": ..., "sbert_ce_default_activation_function": "torch.nn.modules.linear.Identity"}, 1),
    ({**_ONE, "problem_type": ..., "sentence_transformers": {"activation_fn": "torch.nn.modules.linear.Identity"}}, 1),
    ({**_ONE, "problem_type": ..., "sentence_transformers": {"activation_fn": "torch.nn.Sigmoid"}}, 1),
    ({**_ONE, "problem_type": ...}, 1),
    ({"problem_type": ..., "sentence_transformers": {"activation_fn": "torch.nn.Sigmoid"}}, 3),
  ],
)
def test_a_cross_encoder_scores_as_it_says_and_so_does_its_export(labelled, tmp_path, changes, outputs):
  folder = labelled(changes, outputs)
  pairs = list(zip(_TEXTS, reversed(_TEXTS)))
  expected = CrossEncoder(str(folder)).predict(pairs).reshape(len(pairs), outputs)
  CrossEncoder(str(folder)).save_pretrained(str(tmp_path / "saved"))  # as the installed version writes it
  export_model(inference.load_model(folder), tmp_path / "exported")
  for path in (folder, tmp_path / "saved", tmp_path / "exported"):
    labels = pipelines.classify(inference.load_model(path), *map(list, zip(*pairs)))
    names = inference.load_model(path).labels.names
    values = [[{one.name: one.value for one in row}[name] for name in names] for row in labels]
    np.testing.assert_allclose(values, expected, atol=1e-5)
  exported = CrossEncoder(str(tmp_path / "exported")).predict(pairs).reshape(len(pairs), outputs)
  np.testing.assert_allclose(exported, expected, atol=1e-5)


@pytest.mark.parametrize(
  "changes, outputs, message",
  [
    ({"problem_type": "classification"}, 3, 'problem_type is "classification"; expected single_label'),
    ({"problem_type": ["regression"]}, 3, "problem_type is"),
    (_ONE, 1, "one output cannot be the probability of one of several classes.*problem_type"),
    ({"id2label": ..., "label2id": ...}, 3, "says nothing of labels.*expects 2 of them, and the weights have 3"),
    ({"id2label": {"0": "a", "1": "b"}}, 3, "id2label names 2 labels, and the weights have 3 outputs"),
    ({"id2label": {"0": "a", "1": "b", "7": "c"}}, 3, "id2label has the key '7'; expected the numbers from 0 to 2"),
    ({"id2label": {"0": "a", "1": "b", "2": None}}, 3, "id2label names a label None"),
    ({"id2label": ["a", "b", "c"]}, 3, "id2label is a list"),
    ({"id2label": ..., "num_labels": 10**9}, 3, "expects 1000000000 of them, and the weights have 3"),
    ({"num_labels": 5}, 3, "num_labels is 5, and id2label names 3"),
    ({"num_labels": "3"}, 3, "num_labels is '3'"),
    ({"num_hidden_layers": 10**9}, 3, "too few for num_hidden_layers=1000000000"),
    ({"max_position_embeddings": 10**12}, 3, "position_embeddings.weight: expected shape"),
    ({"vocab_size": 10**12}, 3, "word_embeddings.weight: expected shape"),
    ({"model_type": ["bert"]}, 3, "model_type is"),
    ({"architectures": "BertModel"}, 3, "architectures is a string; expected a list"),
    ({"layer_norm_eps": "1e-12"}, 3, "layer_norm_eps: expected a positive number"),
    ({"hidden_size": True}, 3, "hidden_size: expected a whole number"),
    ({"sentence_transformers": {"activation_fn": "torch.nn.Tanh"}}, 3, "activation Tanh is not supported"),
    ({"sbert_ce_default_activation_function": 7}, 3, "the activation is a number"),
    (
      {**_ONE, "problem_type": "regression", "sbert_ce_default_activation_function": "torch.nn.Sigmoid"},
      1,
      "problem_type is regression, and .* names the activation Sigmoid",
    ),
  ],
)
def test_what_cannot_be_true_of_a_model_is_one_message(labelled, changes, outputs, message):
  with pytest.raises(UserError, match=f"labelled.*{message}"):
    inference.load_model(labelled(changes, outputs))


@pytest.mark.parametrize(
  "name, content, message",
  [
    ("config.json", '{"layer_norm_eps": NaN}', "NaN"),
    ("config.json", "[" * 200_000, "nested more than"),
    ("config.json", "[1]", "expected a JSON object, found a list"),
    ("tokenizer_config.json", '{"model_max_length": "512"}', "model_max_length is '512'"),
    ("tokenizer_config.json", '{"model_max_length": -1}', "model_max_length is -1"),
    ("tokenizer_config.json", "[" * 200_000, "nested more than"),
    ("modules.json", "{}", "expected a list of modules"),
    ("modules.json", '[{"type": "x.Transformer"}]', 'expected modules with "type" and "path"'),
    ("modules.json", '[{"type": "x.Transformer", "path": "../elsewhere"}]', "a folder inside of this one"),
  ],
)
def test_files_that_are_no_settings_are_named(labelled, name, content, message):
  folder = labelled()
  (folder / name).write_text(content)
  with pytest.raises(UserError, match=f"{name}.*{message}"):
    inference.load_model(folder)


_FILES = ["config.json", "tokenizer.json", "tokenizer_config.json", "added_tokens.json", "special_tokens_map.json"]


@pytest.mark.parametrize("name", [*_FILES, "modules.json", "sentence_bert_config.json", "vocab.txt"])
@pytest.mark.parametrize(
  "made", [os.mkfifo, lambda path: path.symlink_to("/dev/zero"), lambda path: path.symlink_to("x")]
)
def test_what_is_no_file_is_neither_waited_for_nor_taken_for_none(labelled, name, made):
  folder = labelled()
  (folder / name).unlink(missing_ok=True)
  if name == "vocab.txt":
    (folder / "tokenizer.json").unlink()
  made(folder / name)
  with pytest.raises(UserError, match=f"{name}: (a named pipe|a device|not there|cannot be read)"):
    inference.load_model(folder)


@pytest.mark.parametrize(
  "prefix, who",
  [
    ("module.", "torch.nn.DataParallel"),
    ("model.", ""),
    ("_orig_mod.", "torch.compile"),
    ("_orig_mod.module.", "DataParallel"),
  ],
)
def test_a_prefix_of_all_names_is_named_and_the_remedy_takes_it_off(labelled, monkeypatch, prefix, who):
  folder = labelled()
  before = found(folder)
  file = folder / "model.safetensors"
  tensors = {f"{prefix}{name}": tensor for name, tensor in safetensors.numpy.load_file(file).items()}
  safetensors.numpy.save_file(tensors, file)
  with pytest.raises(UserError, match=f"begin with '{prefix}'.*{who}") as refused:
    inference.load_model(folder)
  monkeypatch.chdir(folder)
  exec(str(refused.value).partition("in Python: ")[2], {})
  (folder / "renamed.safetensors").replace(file)
  assert found(folder) == before


def test_a_config_of_2018_is_read_and_one_of_a_checkpoint_of_tensorflow_1_is_answered(labelled):
  folder = labelled()
  before = found(folder)
  content = json.loads((folder / "config.json").read_text())
  (folder / "config.json").write_text(json.dumps({key: content[key] for key in content if key != "model_type"}))
  assert found(folder) == before
  (folder / "config.json").rename(folder / "bert_config.json")
  assert inference.load_model(folder).config == inference.load_model(folder).config
  (folder / "bert_model.ckpt.index").write_bytes(b"")
  with pytest.raises(UserError, match="checkpoint of TensorFlow 1.*bert_model.ckpt.index.*from_tf=True.*vocab.txt"):
    inference.load_model(folder)


@pytest.mark.parametrize("named", [True, False])
def test_a_folder_of_the_first_sentence_transformers_is_read(exported, tmp_path, named):
  outer = tmp_path / "outer"
  shutil.copytree(exported / "encoder", outer / "0_Transformer")
  (outer / "0_Transformer" / "sentence_bert_config.json").write_text('{"max_seq_length": 24, "do_lower_case": false}')
  if named:
    (outer / "1_Pooling").mkdir()
    (outer / "1_Pooling" / "config.json").write_text('{"pooling_mode_mean_tokens": true}')
    modules = [("0_Transformer", "Transformer"), ("1_Pooling", "Pooling")]
    (outer / "modules.json").write_text(
      json.dumps([{"path": path, "type": f"sentence_transformers.models.{kind}"} for path, kind in modules])
    )
  model = inference.load_model(outer)
  assert find_model(outer) == outer / "0_Transformer" == model.tokenizer_folder
  assert model.max_length == 24 and (model.encoding is not None) == named
  expected = inference.encode(inference.load_model(exported / "encoder"), _TEXTS, "mean").vectors
  np.testing.assert_array_equal(inference.encode(model, _TEXTS, "mean").vectors, expected)
  assert inference.state_of(outer) == inference.state_of(exported / "encoder")
