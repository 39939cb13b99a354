"""run.py and run_pretraining.py: one small run from corpus to export, and everything that must not go wrong on the
way.
"""

import contextlib
import errno
import json
import os
import shutil
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import jax
import numpy as np
import pytest
from etils import epath

from bert_jax import config as configs
from bert_jax.errors import StorageError, UserError
from bert_jax.inference import model as inference
from bert_jax.inference import run_folder
from bert_jax.io import locks, storage
from bert_jax.runs import launch
from bert_jax.runs import pretraining as run_pretraining
from bert_jax.runs.evaluate import evaluate_model
from bert_jax.training import metrics
from bert_jax.training.checkpoints import reading
from tests.helpers.tiny_runs import prepare, tiny_run_config, write_text


def test_a_run_trains_evaluates_saves_and_exports(finished):
  config, workdir, last = finished
  steps = metrics.read_metrics(workdir)
  assert steps[24]["train/mlm_loss"] < steps[4]["train/mlm_loss"] - 0.2
  assert steps[24]["eval/mlm_loss"] == last["eval/mlm_loss"]
  for name in (
    "train/mlm_accuracy",
    "train/nsp_loss",
    "train/nsp_accuracy",
    "train/grad_norm",
    "learning_rate",
    "tokens_per_second",
    "data_wait_fraction",
    "eval/mlm_accuracy",
    "eval/nsp_accuracy",
    "eval/perplexity",
  ):
    assert name in steps[24], name
  assert last["eval/perplexity"] == pytest.approx(np.exp(last["eval/mlm_loss"]))
  assert [event["event"] for event in metrics.read_events(workdir)][0] == "start"
  assert run_folder.is_finished(workdir, config)
  assert {path.name for path in (workdir / "export").iterdir()} >= {
    "model.safetensors",
    "config.json",
    "vocab.txt",
    "tokenizer.json",
  }
  card = (workdir / "export" / "README.md").read_text()
  assert (
    "Pretrained, step 24 of 24" in card
    and "corpus_id" in card
    and f"| mlm_loss | {last['eval/mlm_loss']:,.4f} |" in card
  )


def test_the_export_and_the_checkpoint_hold_the_same_model(finished):
  _, workdir, _ = finished
  ours, exported = inference.load_model(workdir), inference.load_model(workdir / "export")
  jax.tree.map(np.testing.assert_array_equal, ours.params, exported.params)
  assert ours.config == exported.config and ours.tokenizer.fingerprint == exported.tokenizer.fingerprint


def test_evaluating_the_run_or_its_export_gives_the_metrics_of_training_for_any_batch_size(finished, corpus):
  _, workdir, last = finished
  for path, folder, rows in ((workdir, None, 64), (workdir / "export", str(corpus), 8)):
    again = evaluate_model(str(path), folder, batch_size=rows, rows=0)
    for name, value in again.items():
      assert value == pytest.approx(last[f"eval/{name}"], rel=1e-5), name


def test_a_second_start_changes_nothing_and_gives_the_same_metrics(finished, tmp_path):
  config, workdir, last = finished
  workdir = shutil.copytree(workdir, tmp_path / "run")
  before = {path: path.read_bytes() for path in (workdir / "export").iterdir()}
  saved = sorted(path.name for path in (workdir / "checkpoints").iterdir())
  assert run_pretraining.pretrain_run(config, workdir) == pytest.approx(last)
  assert before == {path: path.read_bytes() for path in (workdir / "export").iterdir()}
  assert saved == sorted(path.name for path in (workdir / "checkpoints").iterdir())


def test_stopping_and_resuming_is_bitwise_the_undisturbed_run(finished, tmp_path, corpus):
  """Law 6, within one process; tests/test_resume.py does it with SIGKILL."""
  _, workdir, last = finished
  for stop in ("stop_at_step=7", "stop_at_step=15", "stop_at_step=0"):
    again = run_pretraining.pretrain_run(tiny_run_config(tmp_path, corpus, stop), tmp_path / "run")
  assert (tmp_path / "run/export/model.safetensors").read_bytes() == (workdir / "export/model.safetensors").read_bytes()
  assert again == last
  positions = [event["position"] for event in metrics.read_events(tmp_path / "run") if event["event"] == "restore"]
  assert positions == [7 * 8, 15 * 8]


def test_a_folder_that_somebody_else_trains_in_is_refused_and_one_that_is_just_given_up_is_waited_for(tmp_path, corpus):
  config = tiny_run_config(tmp_path, corpus, "total_steps=5", "cluster.heartbeat_seconds=1", "export.format=")
  (tmp_path / "run").mkdir()
  hold = (
    "import sys, time; from bert_jax.io.locks import FolderLock\n"
    "with FolderLock(sys.argv[1]) as lock: print(lock.take(alone=True), flush=True); time.sleep(60)"
  )
  other = subprocess.Popen([sys.executable, "-c", hold, str(tmp_path / "run")], stdout=subprocess.PIPE, text=True)
  try:
    assert other.stdout.readline() == "True\n"
    with pytest.raises(UserError, match="another process has been training in .* give another --workdir"):
      run_pretraining.pretrain_run(config, tmp_path / "run")
    config.cluster.heartbeat_seconds = 60
    threading.Timer(1.0, other.kill).start()
    run_pretraining.pretrain_run(config, tmp_path / "run")
  finally:
    other.kill()
    other.communicate()


def test_init_from_takes_the_parameters_of_a_run_or_an_export_and_starts_at_step_0(finished, tmp_path, corpus, capsys):
  _, workdir, last = finished
  for name, source in (("run", workdir), ("export", workdir / "export")):
    config = tiny_run_config(
      tmp_path,
      corpus,
      f"init_from={source}",
      "total_steps=1",
      "optimizer.warmup_steps=0",
      "optimizer.learning_rate=1e-30",
    )
    again = run_pretraining.pretrain_run(config, tmp_path / name)
    assert again["eval/mlm_loss"] == pytest.approx(last["eval/mlm_loss"], rel=1e-6)
  assert "Starting from the parameters of" in capsys.readouterr().out
  same = ("total_steps=1", "optimizer.warmup_steps=0", "optimizer.learning_rate=1e-30")
  with pytest.raises(UserError, match="holds a run that began with the model .*, and now .*export is given"):
    run_pretraining.pretrain_run(
      tiny_run_config(tmp_path, corpus, f"init_from={workdir / 'export'}", *same), tmp_path / "run"
    )
  run_pretraining.pretrain_run(
    tiny_run_config(tmp_path, corpus, *same), tmp_path / "run"
  )  # goes on, whether or not the source is named again


def test_init_from_an_encoder_says_which_heads_are_new(finished, tmp_path, corpus, capsys):
  from bert_jax.convert import folder

  model = inference.load_model(finished[1])
  folder.write_folder(tmp_path / "encoder", model.params, model.config, model.tokenizer_folder, head="encoder")
  run_pretraining.pretrain_run(
    tiny_run_config(tmp_path, corpus, f"init_from={tmp_path / 'encoder'}", "total_steps=1", "optimizer.warmup_steps=0"),
    tmp_path / "run",
  )
  assert "new: mlm_head, nsp_head" in capsys.readouterr().out


def test_init_optimizer_takes_over_moments_and_step(finished, tmp_path, corpus):
  """Phase 2 of the paper: other rows, the same schedule."""
  phase1 = run_pretraining.pretrain_run(tiny_run_config(tmp_path, corpus, "stop_at_step=10"), tmp_path / "one")
  config = tiny_run_config(tmp_path, corpus, f"init_from={tmp_path / 'one'}", "init_optimizer=true", "seed=5")
  run_pretraining.pretrain_run(config, tmp_path / "two")
  steps = metrics.read_metrics(tmp_path / "two")
  assert min(steps) > 10 and max(steps) == 24
  assert steps[24]["eval/mlm_loss"] < phase1["eval/mlm_loss"]
  _, host = reading.restore_params(tmp_path / "two" / "checkpoints")
  assert host["position"] == 14 * 8 and host["step"] == 24
  with pytest.raises(UserError, match="already end"):
    run_pretraining.pretrain_run(
      tiny_run_config(tmp_path, corpus, f"init_from={tmp_path / 'two'}", "init_optimizer=true"), tmp_path / "three"
    )


@pytest.mark.parametrize(
  "override, message",
  [
    ("model.hidden_size=32", "hidden_size=16, this run 32; set model.hidden_size=16"),
    ("init_from=/nowhere", "no folder"),
  ],
)
def test_init_from_something_that_does_not_fit_is_refused_by_name(finished, tmp_path, corpus, override, message):
  with pytest.raises(UserError, match=message):
    run_pretraining.pretrain_run(
      tiny_run_config(tmp_path, corpus, f"init_from={finished[1]}", override), tmp_path / "run"
    )
  assert not (tmp_path / "run").exists()


def test_a_run_that_has_saved_nothing_yet_is_no_model_and_is_called_what_it_is(finished, tmp_path):
  shutil.copytree(finished[1], tmp_path / "begun", ignore=shutil.ignore_patterns("checkpoints"))
  with pytest.raises(
    UserError, match="begun is a run folder without checkpoints: the run stopped before its first checkpoint"
  ):
    inference.load_model(tmp_path / "begun")


def test_another_tokenizer_does_not_fit(finished, tmp_path):
  text = write_text(tmp_path / "text.txt")
  other = prepare(f"text:{text}", tmp_path / "other", vocab_size=100)
  remedy = f"--tokenizer={finished[1] / 'tokenizer'}"
  with pytest.raises(UserError, match=f"vocab_size=150, this run 100; prepare the corpus with {remedy}"):
    run_pretraining.pretrain_run(tiny_run_config(tmp_path, other, f"init_from={finished[1]}"), tmp_path / "run")
  with pytest.raises(UserError, match=f"another tokenizer.*{remedy}"):
    evaluate_model(str(finished[1]), str(other), batch_size=8, rows=0)
  fits = prepare(f"text:{text}", tmp_path / "fits", tokenizer=str(finished[1] / "tokenizer"))  # the remedy is one
  assert evaluate_model(str(finished[1]), str(fits), batch_size=8, rows=8)["predictions"] > 0
  with pytest.raises(UserError, match="model.vocab_size=77.*tokenizer.*has 100 entries"):
    run_pretraining.pretrain_run(tiny_run_config(tmp_path, other, "model.vocab_size=77"), tmp_path / "run")


def test_a_workdir_of_another_config_is_left_alone(finished, corpus, tmp_path):
  config, workdir, _ = finished
  before = (workdir / "config.json").read_bytes()
  with pytest.raises(UserError, match="seed: 0 there, 3 now"):
    run_pretraining.pretrain_run(tiny_run_config(tmp_path, corpus, "seed=3"), workdir)
  assert (workdir / "config.json").read_bytes() == before
  (tmp_path / "mine").mkdir()
  (tmp_path / "mine" / "thesis.txt").write_text("years of work")
  with pytest.raises(UserError, match="is not empty"):
    run_pretraining.pretrain_run(config, tmp_path / "mine")


def test_a_start_that_was_stopped_at_once_is_taken_up(tmp_path, corpus, monkeypatch):
  """Killed at any change of the disk, or on a full one, a new run folder is never one that its own command refuses."""
  config = tiny_run_config(tmp_path, corpus)
  root = tmp_path / "run"
  root.mkdir()
  (root / ".config.json.partial-17-4").write_text("{")
  with monkeypatch.context() as full:
    full.setattr(shutil, "copyfile", lambda *_: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    with pytest.raises(OSError, match="No space"):
      run_folder.claim_workdir(root, config, corpus / "tokenizer")
  assert sorted(path.name for path in root.iterdir()) == [".config.json.partial-17-4", "config.json"]
  run_folder.claim_workdir(root, config, corpus / "tokenizer")
  assert {path.name for path in (root / "tokenizer").iterdir()} == {
    path.name for path in (corpus / "tokenizer").iterdir()
  }


def test_an_evaluation_whose_corpus_has_moved_asks_where_it_is(finished, tmp_path, corpus):
  shutil.copytree(finished[1], tmp_path / "run")
  shutil.copytree(corpus, tmp_path / "moved")
  path = tmp_path / "run" / "config.json"
  path.write_text(path.read_text().replace(json.dumps(str(corpus)), json.dumps(str(tmp_path / "nowhere"))))
  with pytest.raises(UserError, match="nowhere, the corpus of .*run, is not there; .*--corpus=DIR"):
    evaluate_model(str(tmp_path / "run"), None, batch_size=8, rows=8)
  assert evaluate_model(str(tmp_path / "run"), str(tmp_path / "moved"), batch_size=8, rows=8)["mlm_loss"] > 0


def test_other_data_under_the_same_name_is_refused(tmp_path):
  text = write_text(tmp_path / "text.txt")
  folder = prepare(f"text:{text}", tmp_path / "corpus")
  config = tiny_run_config(tmp_path, folder, "stop_at_step=6")
  run_pretraining.pretrain_run(config, tmp_path / "run")
  shutil.rmtree(folder)
  write_text(text, seed=1)
  prepare(f"text:{text}", folder, tokenizer=str(tmp_path / "run" / "tokenizer"))
  with pytest.raises(UserError, match="corpus_id"):
    run_pretraining.pretrain_run(tiny_run_config(tmp_path, folder), tmp_path / "run")


def test_rows_longer_than_the_model_and_a_missing_corpus_name_the_remedy(tmp_path, corpus):
  with pytest.raises(UserError, match="rows of .* have 32 tokens, the model has 16 positions"):
    run_pretraining.pretrain_run(
      tiny_run_config(tmp_path, corpus, "model.max_position_embeddings=16"), tmp_path / "run"
    )
  with pytest.raises(UserError, match="nowhere"):
    run_pretraining.pretrain_run(tiny_run_config(tmp_path, tmp_path / "nowhere"), tmp_path / "run")
  with pytest.raises(UserError, match="data.corpus is empty"):
    run_pretraining.pretrain_run(tiny_run_config(tmp_path, ""), tmp_path / "run")


def test_an_altered_shard_is_refused_before_training(tmp_path, corpus):
  copy = tmp_path / "copy"
  shutil.copytree(corpus, copy)
  shard = next((copy / "train").glob("tokens-*.npy"))
  data = bytearray(shard.read_bytes())
  data[-20] ^= 1
  shard.write_bytes(data)
  with pytest.raises(UserError, match=shard.name):
    run_pretraining.pretrain_run(tiny_run_config(tmp_path, copy), tmp_path / "run")


def test_a_flipped_bit_in_the_newest_checkpoint_falls_back_to_the_one_before_and_ends_the_same(
  finished, tmp_path, corpus, capsys
):
  """Law 7 as a user meets it."""
  run_pretraining.pretrain_run(tiny_run_config(tmp_path, corpus, "stop_at_step=18"), tmp_path / "run")
  newest = tmp_path / "run" / "checkpoints" / "18"
  largest = max((path for path in newest.rglob("*") if path.is_file()), key=lambda path: path.stat().st_size)
  data = bytearray(largest.read_bytes())
  data[len(data) // 2] ^= 4
  largest.write_bytes(data)
  run_pretraining.pretrain_run(tiny_run_config(tmp_path, corpus), tmp_path / "run")
  assert "checkpoint 18 is damaged" in capsys.readouterr().err
  assert [path.name for path in (tmp_path / "run/checkpoints/set-aside").iterdir() if path.name.startswith("18")]
  exported = (tmp_path / "run/export/model.safetensors").read_bytes()
  assert exported == (finished[1] / "export/model.safetensors").read_bytes()


def test_the_saved_config_is_resolved_json(finished):
  saved = json.loads((finished[1] / "config.json").read_text())
  assert saved["model.vocab_size"] > 0 and saved["masking.max_predictions"] == 5
  assert set(saved) == set(configs.KEYS)


def test_a_run_that_waited_for_the_folder_of_another_one_is_compared_with_it(tmp_path, corpus):
  """Both found nothing there: the one that came second sees the other's settings once it has the folder."""
  first = tiny_run_config(tmp_path, corpus, "total_steps=5", "export.format=")
  second = tiny_run_config(tmp_path, corpus, "total_steps=5", "export.format=", "optimizer.learning_rate=0.5")
  (tmp_path / "run").mkdir()
  with ThreadPoolExecutor() as pool, contextlib.ExitStack() as held:
    assert held.enter_context(locks.FolderLock(tmp_path / "run")).take(alone=True)
    waiting = pool.submit(claim, second, tmp_path / "run", corpus)
    time.sleep(0.5)
    assert not waiting.done()
    run_folder.claim_workdir(epath.Path(tmp_path / "run"), first, corpus / "tokenizer")
    held.close()
    with pytest.raises(UserError, match="learning_rate: 0.01 there, 0.5 now"):
      waiting.result()


def claim(config, workdir, corpus):
  with launch.launch(config, workdir) as run:
    run.claim(config, corpus / "tokenizer")


@pytest.mark.parametrize("name", ["jumps.json", "config.json", "checkpoints", "corpus"])
def test_storage_that_does_not_say_what_is_there_ends_a_start_and_changes_nothing(
  finished, tmp_path, corpus, monkeypatch, name
):
  """A file that cannot be looked at is not a file that is missing."""
  workdir = shutil.copytree(finished[1], tmp_path / "run")
  before = {path: path.read_bytes() for path in workdir.rglob("*") if path.is_file() and path.parent.name != "events"}
  monkeypatch.setattr(storage, "PAUSES_SECONDS", (0.01,))
  config = tiny_run_config(tmp_path, corpus, f"data.source=text:{tmp_path}/other.txt")
  plain = os.stat

  def stale(path, *args, **kwargs):
    if isinstance(path, str | os.PathLike) and os.path.basename(path) == name:
      raise OSError(errno.ESTALE, os.strerror(errno.ESTALE), path)
    return plain(path, *args, **kwargs)

  with monkeypatch.context() as patch:
    patch.setattr(os, "stat", stale)
    with pytest.raises(StorageError, match=f"{name} cannot be read: .*Stale file handle"):
      run_pretraining.pretrain_run(config, workdir)
  assert all(path.read_bytes() == data for path, data in before.items())
  assert not (workdir / "checkpoints" / "set-aside").exists()
  run_pretraining.pretrain_run(config, workdir)
