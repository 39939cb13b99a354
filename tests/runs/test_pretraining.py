"""pretraining.py: one way through, from the command line to the loss."""

import pathlib
import shutil
import traceback

import jax
import pytest

import bert_jax
from bert_jax.__main__ import main
from bert_jax.data.corpus import suitability
from bert_jax.data.corpus.folder import read_corpus_manifest, write_manifest
from bert_jax.objectives import losses
from tests.helpers.tiny_runs import write_config

PACKAGE = pathlib.Path(bert_jax.__file__).parent


class Reached(BaseException):  # an Exception would be shown, and be an exit code
  """The loss is being traced."""


def test_at_most_ten_frames_lie_between_the_command_line_and_the_loss(tmp_path, corpus, monkeypatch):
  frames = []

  def cross_entropy(*_):
    frames.extend(frame for frame in traceback.extract_stack() if PACKAGE in pathlib.Path(frame.filename).parents)
    raise Reached

  monkeypatch.setattr(losses, "cross_entropy", cross_entropy)
  monkeypatch.setattr(jax, "devices", lambda *_: jax.local_devices()[:1])  # on several, each works on its own rows
  with pytest.raises(Reached):
    main(
      [
        "pretrain",
        f"--config={write_config(tmp_path)}",
        f"--workdir={tmp_path / 'run'}",
        f"--config.data.corpus={corpus}",
      ]
    )
  names = [frame.name for frame in frames]
  assert names[0] == "main" and names[-1] == "loss" and len(names) <= 10, names


def test_a_corpus_that_cannot_teach_is_refused_before_training_and_said_to_a_run_that_has_begun(
  tmp_path, corpus, capsys, monkeypatch
):
  copy = shutil.copytree(corpus, tmp_path / "copy")
  manifest = read_corpus_manifest(copy)
  manifest["splits"]["train"]["unknown_rate"] = 0.9
  write_manifest(copy, manifest)
  command = ["pretrain", f"--config={write_config(tmp_path)}", f"--config.data.corpus={copy}", "--config.total_steps=6"]
  with monkeypatch.context() as before:  # as a version that did not look
    before.setattr(suitability, "_UNKNOWN_REFUSED", 2.0)
    assert main([*command, f"--workdir={tmp_path / 'begun'}"]) == 0
  assert main([*command, f"--workdir={tmp_path / 'begun'}"]) == 0
  assert "WARNING: " in capsys.readouterr().out
  assert main([*command, f"--workdir={tmp_path / 'new'}"]) == 1
  assert "90.0% of the tokens are [UNK]" in capsys.readouterr().err
  assert not (tmp_path / "new" / "checkpoints").exists()
