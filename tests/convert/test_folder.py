"""Model folders, without torch: what is written, what is read, and what is refused."""

import dataclasses
import json
import pathlib

import jax
import numpy as np
import pytest
import safetensors
import safetensors.numpy

from bert_jax.convert import folder
from bert_jax.convert.folder import to_huggingface
from bert_jax.convert.sentence_folder import Encoding
from bert_jax.errors import UserError
from bert_jax.io import storage
from tests.helpers.object_store import in_this_process

MEAN = Encoding("mean", False)


@pytest.fixture
def write(config, params, tokenizer_dir):
  def write(out, params=params, config=config, **settings):
    folder.write_folder(out, params, config, tokenizer_dir, **settings)
    return out

  return write


@pytest.fixture
def copy(exported, tmp_path):
  """A folder whose files a test may change: content of config.json, tensors."""

  def copy(changes=None, tensors=None):
    config = json.loads((exported / "pretraining" / "config.json").read_text()) | (changes or {})
    (tmp_path / "config.json").write_text(json.dumps({k: v for k, v in config.items() if v is not ...}))
    if tensors is not None:
      safetensors.numpy.save_file(tensors, tmp_path / "model.safetensors")
    return tmp_path

  return copy


def _equal(left, right):
  jax.tree.map(np.testing.assert_array_equal, left, right)


def test_a_written_folder_reads_back_as_it_was(config, params, exported):
  read_config, read_params, heads = folder.read_folder(exported / "pretraining")
  assert read_config == config and heads == {"mlm", "nsp", "pooler"}
  _equal(read_params, params)
  assert folder.read_folder(exported / "mlm")[2] == {"mlm"}
  assert folder.read_folder(exported / "encoder")[2] == {"pooler"}


def test_a_folder_holds_exactly_these_files_and_nothing_else_is_left(exported):
  expected = {
    "config.json",
    "model.safetensors",
    "special_tokens_map.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "vocab.txt",
  }
  assert {file.name for file in (exported / "pretraining").iterdir()} == expected
  assert {file.name for file in exported.iterdir()} == {"pretraining", "mlm", "encoder"}


def test_config_json_has_every_field_that_hugging_face_writes(config, exported):
  content = json.loads((exported / "mlm" / "config.json").read_text())
  fields = dataclasses.asdict(config)
  assert content == fields | {
    "architectures": ["BertForMaskedLM"],
    "model_type": "bert",
    "position_embedding_type": "absolute",
    "tie_word_embeddings": True,
    "is_decoder": False,
    "add_cross_attention": False,
    "classifier_dropout": None,
    "dtype": "float32",
    "torch_dtype": "float32",
    "producer": "bert_jax",
  }


def test_the_tokenizer_takes_its_longest_text_from_the_model(exported):
  settings = json.loads((exported / "mlm" / "tokenizer_config.json").read_text())
  assert settings["model_max_length"] == 40 and settings["tokenizer_class"] == "BertTokenizer"


def test_the_weights_file_says_pt_and_holds_the_table(config, params, exported):
  with safetensors.safe_open(exported / "pretraining" / "model.safetensors", "np") as file:
    assert file.metadata()["format"] == "pt"
    names = file.keys()
    _equal(dict(zip(names, map(file.get_tensor, names))), to_huggingface(params, config))


def test_a_transposed_kernel_survives_the_file(config, params, exported):
  """safetensors writes arrays that are not C-contiguous in the wrong order, without a word."""
  kernel = params["encoder"]["layer_1"]["feed_forward"]["intermediate"]["kernel"]
  file = safetensors.numpy.load_file(exported / "encoder" / "model.safetensors")
  np.testing.assert_array_equal(file["encoder.layer.1.intermediate.dense.weight"], kernel.T)


@pytest.mark.parametrize("pooling, normalize", [("mean", False), ("cls", True), ("max", False)])
def test_sentence_transformers_layout(write, tmp_path, pooling, normalize):
  out = write(tmp_path / "out", head="encoder", encoding=Encoding(pooling, normalize))
  modules = json.loads((out / "modules.json").read_text())
  assert [module["path"] for module in modules] == ["", "1_Pooling"] + ["2_Normalize"] * normalize
  assert all((out / module["path"]).is_dir() for module in modules)
  settings = json.loads((out / "1_Pooling" / "config.json").read_text())
  assert [name for name, value in settings.items() if name.startswith("pooling_mode") and value] == [
    f"pooling_mode_{pooling}_token" + ("" if pooling == "cls" else "s")
  ]
  assert settings["word_embedding_dimension"] == 32


def test_an_earlier_export_is_replaced_and_nothing_else_is(write, config, tmp_path):
  out = write(tmp_path / "out", encoding=MEAN, head="encoder")
  write(out, head="mlm")
  assert not (out / "modules.json").exists() and folder.read_folder(out)[2] == {"mlm"}
  (out / "notes.txt").write_text("mine")
  with pytest.raises(UserError, match="also holds notes.txt; choose another folder"):
    write(out)
  assert folder.read_folder(out)[2] == {"mlm"} and (out / "notes.txt").read_text() == "mine"
  assert [file.name for file in tmp_path.iterdir()] == ["out"]


def test_an_empty_folder_and_missing_parents_are_fine(write, tmp_path):
  (tmp_path / "empty").mkdir()
  write(tmp_path / "empty")
  write(tmp_path / "a" / "b")
  assert folder.read_folder(tmp_path / "empty")[0] == folder.read_folder(tmp_path / "a" / "b")[0]


@pytest.mark.parametrize("kind", ["file", "foreign folder", "their model", "link"])
def test_what_is_not_an_earlier_export_is_refused_and_left_alone(write, tensors, tmp_path, kind):
  out = tmp_path / "out"
  if kind == "file":
    out.write_text("precious")
  elif kind == "link":
    (tmp_path / "target").mkdir()
    out.symlink_to(tmp_path / "target")
  else:
    out.mkdir()
    (out / "config.json").write_text("{}")
    if kind == "their model":
      safetensors.numpy.save_file(tensors, out / "model.safetensors", metadata={"format": "pt"})
  before = sorted(tmp_path.rglob("*"))
  with pytest.raises(UserError, match="exists and is not .*; choose another folder"):
    write(out)
  assert sorted(tmp_path.rglob("*")) == before


def test_a_full_disk_leaves_the_earlier_export_whole(write, tmp_path, monkeypatch):
  out = write(tmp_path / "out")

  def full(*args, **kwargs):
    raise OSError(28, "No space left on device")

  for place in (safetensors.numpy, "save_file"), (pathlib.Path, "mkdir"), (folder, "write_json"):
    with monkeypatch.context() as patch:
      patch.setattr(*place, full)
      with pytest.raises(UserError, match="No space left on device.*the folder is unchanged"):
        write(out, head="mlm")
    assert folder.read_folder(out)[2] == {"mlm", "nsp", "pooler"}
    assert [file.name for file in tmp_path.iterdir()] == ["out"]


def test_the_earlier_export_returns_when_the_last_renaming_fails(write, tmp_path, monkeypatch):
  out, rename = write(tmp_path / "out"), pathlib.Path.rename

  def fails(self, target):
    if self.name.endswith(".partial"):
      raise OSError(5, "Input/output error")
    return rename(self, target)

  monkeypatch.setattr(pathlib.Path, "rename", fails)
  with pytest.raises(UserError, match="Input/output error"):
    write(out, head="mlm")
  assert folder.read_folder(out)[2] == {"mlm", "nsp", "pooler"}
  assert [file.name for file in tmp_path.iterdir()] == ["out"]


def test_what_a_killed_export_left_is_no_obstacle(write, tmp_path):
  (tmp_path / ".out.partial").mkdir()
  (tmp_path / ".out.partial" / "model.safetensors").write_bytes(b"half")
  write(tmp_path / "out")
  assert [file.name for file in tmp_path.iterdir()] == ["out"]


def test_what_does_not_fit_is_refused_before_anything_is_written(write, config, tmp_path):
  with pytest.raises(UserError, match="pooling: expected one of cls, max, mean; got 'sum'"):
    write(tmp_path / "out", encoding=MEAN._replace(pooling="sum"))
  with pytest.raises(UserError, match="130 tokens do not fit a model with vocab_size 129"):
    write(tmp_path / "out", config=dataclasses.replace(config, vocab_size=129))
  assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
  "changes, message",
  [
    ({"model_type": "roberta"}, 'model_type is "roberta", this model has only "bert"'),
    ({"model_type": ..., "architectures": ["RobertaModel"]}, 'expected a JSON object with "model_type": "bert"'),
    ({"hidden_act": "gelu_new"}, "hidden_act: expected 'gelu'.*got 'gelu_new'"),
    ({"position_embedding_type": "relative_key"}, 'position_embedding_type is "relative_key"'),
    ({"is_decoder": True}, "is_decoder is true"),
    ({"tie_word_embeddings": False}, "tie_word_embeddings is false"),
    ({"hidden_size": "32"}, "hidden_size: expected a whole number"),
    ({"hidden_size": 64}, r"tensor bert.embeddings.word_embeddings.weight: expected shape \[130, 64\]"),
    ({"num_hidden_layers": 4}, "missing tensors: bert.encoder.layer.3"),
    ({"num_hidden_layers": 2}, "unknown tensors: bert.encoder.layer.2"),
  ],
)
def test_a_folder_that_is_no_such_bert_is_refused_by_name(copy, tensors, changes, message):
  with pytest.raises(UserError, match=message) as caught:
    folder.read_folder(copy(changes, tensors))
  assert str(copy()) in str(caught.value)


def test_fields_left_out_or_null_have_hugging_faces_defaults(copy, config, tensors):
  path = copy({"layer_norm_eps": ..., "pad_token_id": None, "type_vocab_size": ...}, tensors)
  assert folder.read_folder(path)[0] == config


@pytest.mark.parametrize("name", ["pytorch_model.bin", "tf_model.h5", "flax_model.msgpack"])
def test_other_weights_are_refused_with_the_way_to_convert_them(copy, name):
  path = copy()
  (path / name).write_bytes(b"\x80\x04.")
  with pytest.raises(UserError, match=rf"{name}: .* weights are not read.*save_pretrained\(NEW_FOLDER"):
    folder.read_folder(path)


def test_missing_and_damaged_files_are_named(copy, tmp_path):
  with pytest.raises(UserError, match="nowhere: no such folder"):
    folder.read_folder(tmp_path / "nowhere")
  with pytest.raises(UserError, match="config.json: not there"):
    folder.read_folder(tmp_path)
  with pytest.raises(UserError, match="no weights; expected model.safetensors"):
    folder.read_folder(copy())
  (tmp_path / "model.safetensors").write_bytes(b"\x08\0\0\0\0\0\0\0{}      cut")
  with pytest.raises(UserError, match="model.safetensors: not a readable safetensors file"):
    folder.read_folder(tmp_path)
  (tmp_path / "config.json").write_text("{")
  with pytest.raises(UserError, match="config.json: not JSON"):
    folder.read_folder(tmp_path)


def _shard(path, tensors):
  names = sorted(tensors)
  parts = {"model-00001-of-00002.safetensors": names[:20], "model-00002-of-00002.safetensors": names[20:]}
  for file, part in parts.items():
    safetensors.numpy.save_file({name: tensors[name] for name in part}, path / file)
  weight_map = {name: file for file, part in parts.items() for name in part}
  (path / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
  return weight_map


def test_shards_are_read_as_one(copy, tensors, params):
  path = copy()
  _shard(path, tensors)
  _equal(folder.read_folder(path)[1], params)


def test_shards_that_do_not_hold_what_the_index_lists_are_errors(copy, tensors):
  path = copy()
  weight_map = _shard(path, tensors)
  index, lost, moved = path / "model.safetensors.index.json", sorted(tensors)[0], sorted(tensors)[-1]
  for changed, message in (
    (weight_map | {"more": "model-00001-of-00002.safetensors"}, "the shards lack more"),
    (weight_map | {moved: "model-00001-of-00002.safetensors"}, f"holds {moved}, which .* does not list"),
    (weight_map | {lost: "../other.safetensors"}, "expected file names without folders"),
    (None, 'expected a JSON object with "weight_map"'),
  ):
    index.write_text(json.dumps({"weight_map": changed}))
    with pytest.raises(UserError, match=message):
      folder.read_folder(path)
  index.write_text(json.dumps({"weight_map": weight_map}))
  (path / "model-00002-of-00002.safetensors").unlink()
  with pytest.raises(UserError, match="model-00002-of-00002.safetensors: not a readable safetensors file"):
    folder.read_folder(path)


def test_a_folder_in_an_object_store_is_the_same_and_is_replaced_only_if_it_was_ours(write, tmp_path, monkeypatch):
  with in_this_process(monkeypatch) as store:
    write("gs://bucket/model", encoding=MEAN, head="encoder")
    write(tmp_path / "here", encoding=MEAN, head="encoder")
    here = {
      path.relative_to(tmp_path / "here").as_posix(): path.read_bytes()
      for path in (tmp_path / "here").rglob("*")
      if path.is_file()
    }
    assert {name: store.objects[f"model/{name}"] for name in store.names("model/")} == here
    assert store.written[-1][0] == "model/config.json" and not store.refused
    store.delete("model/config.json")  # as a kill in the middle leaves it
    write("gs://bucket/model")
    _equal(folder.read_folder(storage.fetch("gs://bucket/model"))[1], folder.read_folder(write(tmp_path / "plain"))[1])
    store.put("model/notes.txt", b"mine")
    with pytest.raises(UserError, match="also holds notes.txt; choose another folder"):
      write("gs://bucket/model")
    store.put("other/config.json", b"{}")
    with pytest.raises(UserError, match="not an earlier export"):
      write("gs://bucket/other")
