"""A run folder and its checkpoints belong together, and every reader looks whether they do."""

import json
import shutil

import pytest

from bert_jax.__main__ import main
from bert_jax.errors import UserError
from bert_jax.inference import model as inference
from bert_jax.inference import run_folder
from bert_jax.runs import pretraining
from bert_jax.training.checkpoints import reading
from tests.helpers.tiny_runs import tiny_run_config


@pytest.fixture
def copy(finished, tmp_path):
  return shutil.copytree(finished[1], tmp_path / "run")


def change_json(path, **values):
  path.write_text(json.dumps(json.loads(path.read_text()) | values))


def swap_ids(folder):
  """Two words of the vocabulary trade places, in both files that hold it."""
  words = (folder / "vocab.txt").read_text().splitlines()
  words[-1], words[-2] = words[-2], words[-1]
  (folder / "vocab.txt").write_text("\n".join(words) + "\n")
  content = json.loads((folder / "tokenizer.json").read_text())
  content["model"]["vocab"] = {word: number for number, word in enumerate(words)}
  (folder / "tokenizer.json").write_text(json.dumps(content))


CHANGES = {
  "attention heads": (
    lambda root: change_json(root / "config.json", **{"model.num_attention_heads": 4}),
    "config.json: model.num_attention_heads is 4 now, and was 2",
  ),
  "epsilon": (
    lambda root: change_json(root / "config.json", **{"model.layer_norm_eps": 0.1}),
    "config.json: model.layer_norm_eps is 0.1 now, and was 1e-12",
  ),
  "ids of two words": (lambda root: swap_ids(root / "tokenizer"), "tokenizer/tokenizer.json: its content has changed"),
  "a vocabulary that is gone": (
    lambda root: (root / "tokenizer" / "vocab.txt").unlink(),
    "tokenizer/vocab.txt: it is missing",
  ),
  "tokens added later": (
    lambda root: (root / "tokenizer" / "added_tokens.json").write_text('{"zzz": 150}'),
    "tokenizer/added_tokens.json: it was not there",
  ),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_file_that_gives_the_weights_another_meaning_is_named_by_every_reader(copy, tmp_path, change, capsys):
  harm, message = CHANGES[change]
  harm(copy)
  for path in (copy, copy / "checkpoints"):
    with pytest.raises(UserError, match=message):
      inference.load_checkpoint(path / "checkpoints" if path == copy else path)
  for command in (
    ["export", f"--workdir={copy}", f"--out={tmp_path / 'out'}"],
    ["evaluate", f"--workdir={copy}"],
    ["fill-mask", f"--model={copy}", "the [MASK]"],
    ["encode", f"--model={copy}", "--input=/dev/null", f"--out={tmp_path / 'out.npy'}"],
  ):
    assert main(command) == 1
    assert message in capsys.readouterr().err or command[0] == "encode"
  assert not (tmp_path / "out").exists()


def test_a_resume_refuses_other_ids_and_other_settings_and_changes_nothing(copy, finished):
  config = finished[0]
  before = sorted(copy.rglob("*"))
  swap_ids(copy / "tokenizer")
  with pytest.raises(UserError, match="run/tokenizer is another tokenizer than"):
    pretraining.pretrain_run(config, copy)
  assert sorted(copy.rglob("*")) == before


def test_a_checkpoint_of_another_run_is_refused_by_resume_and_readers(copy, tmp_path, corpus, finished):
  other = tiny_run_config(tmp_path, corpus, "stop_at_step=6", "optimizer.learning_rate=2e-2", "export.format=")
  pretraining.pretrain_run(other, tmp_path / "other")
  shutil.copytree(tmp_path / "other" / "checkpoints" / "6", copy / "checkpoints" / "6")
  with pytest.raises(UserError, match="checkpoint .*/6 belongs to another run"):
    pretraining.pretrain_run(finished[0], copy)
  with pytest.raises(UserError, match="checkpoint .*/6 belongs to another run"):
    inference.load_checkpoint(copy / "checkpoints" / "6")
  assert inference.load_model(copy).step == 24


def test_a_copy_under_another_steps_name_is_passed_over(copy, finished):
  shutil.copytree(copy / "checkpoints" / "18", copy / "checkpoints" / "30")
  with pytest.raises(UserError, match="it is a copy of checkpoint 18 under another name"):
    inference.load_checkpoint(copy / "checkpoints" / "30")
  assert inference.load_model(copy).step == 24
  pretraining.pretrain_run(finished[0], copy)
  assert [path.name for path in (copy / "checkpoints" / "set-aside").iterdir()] == ["30-other-step"]


def test_a_run_of_an_earlier_version_is_read_and_gone_on_from(copy, finished):
  """Its manifests say nothing of config, tokenizer and run, and it has no file for its identity."""
  from etils import epath

  from bert_jax.training.checkpoints import folder as folders

  (copy / "run.json").unlink()
  for step in (18, 24):
    path = epath.Path(copy / "checkpoints" / str(step))
    content = folders.encode(folders.read_manifest(path))["content"]
    del content["meaning"]
    (path / folders.MANIFEST_FILE).write_text(json.dumps({"sha256": folders._digest(content), "content": content}))
  assert inference.load_model(copy).step == 24
  pretraining.pretrain_run(finished[0], copy)
  assert not (copy / "run.json").exists() and reading.restore_params(copy / "checkpoints")[1]["step"] == 24


def test_a_run_that_begins_has_an_identity_of_its_own(finished, copy, tmp_path, corpus):
  (tmp_path / "new").mkdir()
  run_folder.claim_workdir(run_folder.storage.folder(tmp_path / "new"), finished[0], corpus / "tokenizer")
  ids = [json.loads((folder / "run.json").read_text())["id"] for folder in (copy, tmp_path / "new")]
  assert ids[0] != ids[1]
