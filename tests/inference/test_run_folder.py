import json
import os

import pytest

from bert_jax import config as configs
from bert_jax.errors import UserError
from bert_jax.inference import run_folder

_LABELS = {"kind": "classification", "names": ["no", "yes"], "scale": 1.0, "pairs": False}
_RESULT = {"step": 1, "last_step": 1, "metric": "accuracy", "metrics": {"accuracy": 0.5}}


def test_what_a_run_has_written_is_read(tmp_path):
  (tmp_path / "labels.json").write_text(json.dumps(_LABELS))
  (tmp_path / "result.json").write_text(json.dumps(_RESULT | {"metrics": {"pearson": float("nan")}}))
  (tmp_path / "config.json").write_text(configs.to_json(configs.default_config()))
  assert run_folder.read_labels(tmp_path).names == ("no", "yes")
  assert run_folder.result_of(tmp_path)["step"] == 1
  assert configs.differences(run_folder.read_run_config(tmp_path), configs.default_config()) == {}
  assert run_folder.read_source(tmp_path) == {}


@pytest.mark.parametrize(
  "file, content, message",
  [
    ("labels.json", _LABELS | {"names": {"0": "no"}}, "'names' is an object"),
    ("labels.json", _LABELS | {"names": ["no", 1]}, "'names' has to list texts"),
    ("labels.json", _LABELS | {"names": ["no", "no"]}, "'names' has to list texts, each once"),
    ("labels.json", _LABELS | {"names": []}, "'names' has to list texts"),
    ("labels.json", _LABELS | {"kind": "guessing"}, "a kind, scale or pairs"),
    ("labels.json", _LABELS | {"scale": float("nan")}, "a kind, scale or pairs"),
    ("labels.json", _LABELS | {"scale": "1"}, "'scale' is a string"),
    ("labels.json", _LABELS | {"pairs": [1]}, "a kind, scale or pairs"),
    ("labels.json", {"names": ["no", "yes"]}, "'kind' is missing"),
    ("labels.json", "[" * 100_000, "nested more than"),
    ("result.json", _RESULT | {"last_step": "7"}, "'last_step' is a string"),
    ("result.json", _RESULT | {"step": True}, "'step' is true or false"),
    ("result.json", [1], "expected a JSON object, found a list"),
    ("source.json", {"model": 3, "state": ""}, "'model' is a number"),
    ("config.json", {"seed": {"a": 1}}, "not the config of a run"),
    ("config.json", {"data.batch_size": "many"}, "not the config of a run"),
    ("config.json", '{"seed": 1, "seed": 2}', "'seed' stands twice"),
    ("config.json", "null", "expected a JSON object, found null"),
  ],
)
def test_a_file_of_a_run_that_no_run_writes_is_one_message_that_names_it(file, content, message, tmp_path):
  (tmp_path / file).write_text(content if isinstance(content, str) else json.dumps(content))
  with pytest.raises(UserError, match=f"{file}.*{message}"):
    _READERS[file](tmp_path)


@pytest.mark.parametrize("file", ["labels.json", "result.json", "source.json", "config.json"])
def test_a_pipe_in_the_place_of_a_file_of_a_run_is_refused(file, tmp_path):
  os.mkfifo(tmp_path / file)
  with pytest.raises(UserError, match=f"{file}: a named pipe, expected a file"):
    _READERS[file](tmp_path)


_READERS = {
  "labels.json": run_folder.read_labels,
  "result.json": run_folder.read_result,
  "source.json": run_folder.read_source,
  "config.json": run_folder.read_run_config,
}
