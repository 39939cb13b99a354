"""Samples of a run: what the checkpoint really writes at the masks of real validation sentences."""

import json
import pathlib
import shutil

import numpy as np
import pytest

from bert_jax.inference import model as inference
from bert_jax.runs.pretraining import pretrain_run
from bert_jax.tools.report import samples, summary
from tests.helpers.tiny_runs import prepare, tiny_run_config


@pytest.fixture
def run(finished, corpus, tmp_path):
  """A copy of a run of 24 steps with checkpoints at 18 and 24, and of its corpus, to be spoiled."""
  folder = shutil.copytree(finished[1], tmp_path / "copy" / "run")
  shutil.copytree(corpus, tmp_path / "copy" / "corpus")
  config = json.loads((folder / "config.json").read_text())
  (folder / "config.json").write_text(json.dumps(config | {"data.corpus": str(tmp_path / "copy" / "corpus")}))
  return summary.read_run(folder)


def test_guesses_are_what_the_model_writes_at_the_masks(run):
  drawn = samples.draw_samples(run, 3)
  assert drawn.reason == "" and drawn.step == 24 and len(drawn.samples) == 3
  model = inference.load_model(str(run.workdir))
  for sample in drawn.samples:
    ids = [model.tokenizer.backend.token_to_id(token) for token in sample.tokens]
    masked = [model.tokenizer.special.mask if place in sample.places else index for place, index in enumerate(ids)]
    inputs = inference.make_inputs(model, [(masked, [])])
    logits = np.asarray(
      inference.apply(model, inputs, np.array([[place + 1 for place in sample.places]], np.int32)).prediction_logits[0],
      np.float64,
    )
    odds = np.exp(logits) / np.exp(logits).sum(axis=-1, keepdims=True)
    for row, guesses in zip(odds, sample.guesses, strict=True):
      assert [guess.token_id for guess in guesses] == np.argsort(-row, kind="stable")[: samples.TOP_K].tolist()
      assert [guess.probability for guess in guesses] == pytest.approx(
        np.sort(row)[::-1][: samples.TOP_K].tolist(), rel=1e-4
      )
      assert all(model.tokenizer.backend.id_to_token(guess.token_id) == guess.token for guess in guesses)


def test_masked_words_are_whole_and_apart_and_the_same_at_every_call(run):
  drawn = samples.draw_samples(run, 5)
  for sample in drawn.samples:
    assert 1 <= len(sample.places) <= 3 and len(sample.tokens) <= samples.MAX_TOKENS
    for number, place in enumerate(sample.places):
      assert sample.truth(number).isalpha() and len(sample.truth(number)) >= 3
      assert not sample.tokens[(place + 1) % len(sample.tokens)].startswith("##")
      assert all(other == place or abs(other - place) > 1 for other in sample.places)
    text = sample.text([str(number + 1) for number in range(len(sample.places))])
    assert text.count("⟦") == len(sample.places) and "→" not in text
  assert [sample[:2] for sample in samples.draw_samples(run, 5).samples] == [sample[:2] for sample in drawn.samples]


def test_of_a_damaged_checkpoint_the_one_before_is_shown(run):
  manifest = pathlib.Path(run.workdir) / "checkpoints" / "24" / "manifest" / "data.json"
  manifest.write_text(manifest.read_text().replace('"step": 24', '"step": 25'))
  drawn = samples.draw_samples(run, 1)
  assert drawn.step == 18 and len(drawn.samples) == 1


def test_where_there_is_nothing_to_show_the_reason_is_told(run, tmp_path):
  assert samples.draw_samples(run, 0).reason == "not requested"
  elsewhere = lambda **config: run._replace(config=run.config | config)
  assert (
    samples.draw_samples(elsewhere(**{"data.corpus": "gone"}), 1).reason == "the corpus of the run (gone) is not here"
  )
  assert samples.draw_samples(elsewhere(**{"data.corpus": ""}), 1).reason == "the corpus of the run (none) is not here"
  text = tmp_path / "other.txt"
  text.write_text(
    "\n\n".join(f"Another text about number {number}.\nIt has two sentences." for number in range(40)), encoding="utf-8"
  )
  other = prepare(f"text:{text}", tmp_path / "other")
  assert "another tokenizer" in samples.draw_samples(elsewhere(**{"data.corpus": str(other)}), 1).reason
  shutil.rmtree(run.workdir / "checkpoints")
  drawn = samples.draw_samples(run, 1)
  assert drawn.reason == "the run has no checkpoint yet"
  assert samples.samples_summary(drawn) == "samples             none: the run has no checkpoint yet"


def test_a_mixture_shows_sentences_of_its_first_corpus(run):
  mixed = run._replace(
    config=run.config | {"data.mixture": f"{run.config['data.corpus']}=1,elsewhere=2", "data.corpus": ""}
  )
  assert samples.draw_samples(mixed, 2).samples == samples.draw_samples(run, 2).samples


def test_the_summary_lists_guesses_and_truth(run):
  drawn = samples.draw_samples(run, 1)
  lines = samples.samples_summary(drawn).splitlines()
  assert lines[0].startswith("samples             checkpoint 24 ")
  assert len(lines) == 2 + len(drawn.samples[0].places)
  assert (
    lines[2].startswith("    ⟦1⟧ ") and lines[2].endswith(f"({drawn.samples[0].truth(0)})") and lines[2].count("%") == 3
  )


CHINESE = "今天的天气很好，我们一起去公园散步，看见了许多美丽的花。"


def test_chinese_characters_are_words_and_stand_without_spaces(tmp_path):
  text = tmp_path / "zh.txt"
  documents = [
    f"{CHINESE}\n{CHINESE[::-1]}\n我们又来了，{CHINESE[number % 12]}{CHINESE[number % 7]}公园里的花还是很美。"
    for number in range(60)
  ]
  text.write_text("\n\n".join(documents), encoding="utf-8")
  folder = prepare(f"text:{text}", tmp_path / "corpus", vocab_size=140, seq_length=64)
  pretrain_run(
    tiny_run_config(tmp_path, folder, "total_steps=8", "model.max_position_embeddings=64", "export.format="),
    str(tmp_path / "run"),
    log=lambda _: None,
  )
  drawn = samples.draw_samples(summary.read_run(tmp_path / "run"), 2)
  assert len(drawn.samples) == 2
  for sample in drawn.samples:
    assert all("一" <= sample.truth(number) <= "鿿" for number in range(len(sample.places)))
    assert " " not in sample.text([str(number + 1) for number in range(len(sample.places))])
