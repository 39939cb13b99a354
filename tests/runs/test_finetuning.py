"""run_finetuning.py: every kind learns what can be learned, resumes bit for bit, ends early, and keeps its best."""

import json
import random
import shutil

import jax
import numpy as np
import pytest

from bert_jax.__main__ import main
from bert_jax.convert import folder
from bert_jax.errors import UserError
from bert_jax.inference import model as inference
from bert_jax.inference.run_folder import read_result
from bert_jax.runs import finetuning, pretraining, tuning
from bert_jax.training import metrics
from bert_jax.training.checkpoints import folder as checkpoint_folder
from bert_jax.training.checkpoints import reading
from tests.helpers.tiny_runs import WORDS, tiny_run_config

FAST = (
  "data.batch_size=16",
  "optimizer.learning_rate=1e-2",
  "tuning.max_length=32",
  "log_every_steps=5",
  "model.hidden_dropout_prob=0.0",
  "model.attention_probs_dropout_prob=0.0",
)


@pytest.fixture(scope="module")
def model(tmp_path_factory, corpus):
  """A BERT of one layer and a few hundred words."""
  folder = tmp_path_factory.mktemp("model")
  pretraining.pretrain_run(
    tiny_run_config(folder, corpus, "total_steps=24", "model.max_position_embeddings=160"), folder / "run"
  )
  return str(folder / "run")


def texts(count, seed=0):
  """Sentences with "array" or "file" in them: what the labels of these tests are about."""
  rng = random.Random(seed)
  filler = [word for word in WORDS if word not in ("array", "file")]
  for _ in range(count):
    words = rng.choices(filler, k=6)
    words[rng.randrange(6)] = subject = rng.choice(["array", "file"])
    yield words, subject


def write(folder, kind, count=240):
  """(keys that name the data, a metric and what it has to exceed: far above what the most frequent answer gets)."""
  folder.mkdir(parents=True, exist_ok=True)
  made = list(texts(count))
  if kind == "token-classification":
    rows = ["\n".join(f"{word} {'B-SUB' if word in ('array', 'file') else 'O'}" for word in words) for words, _ in made]
    (folder / "x.conll").write_text("\n\n".join(rows))
    return [f"tuning.data={folder / 'x.conll'}"], ("f1", 0.9)
  if kind == "question-answering":
    asked = [
      {
        "context": " ".join(words),
        "qas": [
          {
            "id": str(number),
            "question": "the name",
            "answers": [{"text": subject, "answer_start": " ".join(words).index(f"{subject}")}],
          }
        ],
      }
      for number, (words, subject) in enumerate(made)
    ]
    (folder / "x.json").write_text(json.dumps({"data": [{"paragraphs": asked}]}))
    return [f"tuning.data={folder / 'x.json'}", "finetune.kind=question-answering", "tuning.max_length=100"], (
      "f1",
      0.8,
    )
  label = {
    "classification": lambda subject, words: subject,
    "regression": lambda subject, words: 2.5 if subject == "file" else 0.5,
    "multi-label": lambda subject, words: "|".join([subject, *(["new"] if "new" in words else ["old"])]),
  }[kind]
  rows = [f"{' '.join(words)}\t{label(subject, words)}" for words, subject in made]
  (folder / "x.tsv").write_text("\n".join(["text\tlabel", *rows]))
  named = {"classification": ("accuracy", 0.95), "regression": ("spearman", 0.75), "multi-label": ("micro_f1", 0.9)}[
    kind
  ]
  return [f"tuning.data={folder / 'x.tsv'}", "tuning.text=text", "tuning.label=label", f"finetune.kind={kind}"], named


def tune(model, workdir, *keys, log=lambda text: None):
  return finetuning.finetune_run(
    finetuning.finetuning_config([f"init_from={model}", *FAST, *keys]), str(workdir), log=log
  )


@pytest.mark.parametrize(
  "kind", ["classification", "multi-label", "regression", "token-classification", "question-answering"]
)
def test_every_kind_learns_what_can_be_learned(model, tmp_path, kind):
  keys, (metric, least) = write(tmp_path, kind)
  found = tune(model, tmp_path / "run", *keys, "tuning.epochs=8", "tuning.evaluations=0.25", "tuning.pooling=mean")
  assert found[metric] > least
  used = inference.load_model(tmp_path / "run")
  assert used.labels.kind == kind and used.step == json.loads((tmp_path / "run" / "result.json").read_text())["step"]


def weights(workdir):
  return jax.tree.leaves(reading.restore_params(workdir / "checkpoints")[0])


def test_stopping_and_resuming_is_bitwise_the_undisturbed_run(model, tmp_path):
  keys, _ = write(tmp_path, "classification")
  keys = [*keys, "tuning.epochs=2", "model.hidden_dropout_prob=0.1", "checkpoint.keep_last=9"]
  tune(model, tmp_path / "straight", *keys)
  tune(model, tmp_path / "stopped", *keys, "stop_at_step=9")
  tune(model, tmp_path / "stopped", *keys)
  for one, other in zip(weights(tmp_path / "straight"), weights(tmp_path / "stopped"), strict=True):
    np.testing.assert_array_equal(one, other)


def test_a_run_that_goes_on_has_no_result_until_it_has_come_to_its_new_end(model, tmp_path, monkeypatch):
  keys, _ = write(tmp_path, "classification", 60)
  keys = [*keys, "tuning.epochs=2", "checkpoint.keep_last=9"]
  tune(model, tmp_path / "run", *keys, "stop_at_step=2")
  source = (tmp_path / "run" / "source.json").read_text()
  assert (
    json.loads(source) == {"model": model, "state": inference.state_of(model)}
    and inference.load_model(tmp_path / "run").step == 2
  )
  monkeypatch.setattr(
    tuning, "write_result", lambda *arguments, **more: 1 / 0
  )  # killed before it could write its result
  with pytest.raises(ZeroDivisionError):
    tune(model, tmp_path / "run", *keys)
  assert inference.load_model(tmp_path / "run").step > 2 and read_result(tmp_path / "run") is None
  monkeypatch.undo()
  tune(model, tmp_path / "run", *keys)
  assert (tmp_path / "run" / "result.json").exists() and (tmp_path / "run" / "source.json").read_text() == source


def test_what_sentence_embedding_learns_by_means_nothing_to_labels(model, tmp_path):
  keys, _ = write(tmp_path, "classification", 60)
  with pytest.raises(UserError, match="embedding.objective=simcse: labels are what is learned by here"):
    tune(model, tmp_path / "run", *keys, "embedding.objective=simcse")
  assert not (tmp_path / "run").exists()


def test_answers_in_chinese_are_compared_by_characters(model, tmp_path):
  asked = [{"id": str(n), "question": "在哪里", "answers": [{"text": "北京市", "answer_start": 2}]} for n in range(4)]
  (tmp_path / "x.json").write_text(
    json.dumps({"data": [{"paragraphs": [{"context": "他在北京市住了很久", "qas": asked}]}]})
  )
  keys = [
    "finetune.kind=question-answering",
    *(f"tuning.{name}={tmp_path / 'x.json'}" for name in ("data", "dev")),
    "tuning.epochs=1",
  ]
  said = []
  tune(model, tmp_path / "run", *keys, "tuning.max_length=128", log=said.append)
  assert "answers are compared as CMRC 2018 does it, by characters" in said


def test_eight_devices_have_the_losses_of_one(model, tmp_path, monkeypatch):
  keys, _ = write(tmp_path, "token-classification")
  losses = []
  for devices in (1, 8):
    with monkeypatch.context() as patch:
      patch.setattr(jax, "devices", lambda *_, count=devices, plain=jax.devices: plain()[:count])
      tune(model, tmp_path / str(devices), *keys, "tuning.epochs=1", "log_every_steps=1")
    steps = metrics.read_metrics(tmp_path / str(devices))
    losses.append([line["train/loss"] for _, line in sorted(steps.items()) if "train/loss" in line])
  assert len(losses[0]) > 10
  np.testing.assert_allclose(losses[0], losses[1], atol=1e-5)


def test_a_run_ends_early_keeps_its_best_and_ends_there_again_when_resumed(model, tmp_path, capsys):
  """Labels without any meaning: what the first evaluations say is as good as it gets."""
  rng = random.Random(1)
  rows = [f"{' '.join(words)}\t{rng.choice('xy')}" for words, _ in texts(160)]
  (tmp_path / "x.tsv").write_text("\n".join(["text\tlabel", *rows]))
  keys = [
    f"tuning.data={tmp_path / 'x.tsv'}",
    "tuning.text=text",
    "tuning.label=label",
    "tuning.epochs=30",
    "tuning.patience=2",
  ]
  found = tune(model, tmp_path / "run", *keys)
  assert "eval/accuracy was not better in 2 evaluations: the run ends here" in capsys.readouterr().out
  (finish,) = (event for event in metrics.read_events(tmp_path / "run") if event["event"] == "finish")
  assert finish["stopped_early"] and finish["step"] < 30 * 9
  lines = metrics.read_metrics(tmp_path / "run")
  evaluated = {step: line["eval/accuracy"] for step, line in lines.items() if "eval/accuracy" in line}
  assert sum(line.get("window_steps", 0) for line in lines.values()) == finish["step"], "the last steps are logged, too"
  result = json.loads((tmp_path / "run" / "result.json").read_text())
  assert result["metrics"]["accuracy"] == found["accuracy"] == max(evaluated.values())
  assert result["step"] in checkpoint_folder.committed_steps(inference.storage.folder(tmp_path / "run" / "checkpoints"))
  before = weights(tmp_path / "run")
  tune(model, tmp_path / "run", *keys)
  for one, other in zip(before, weights(tmp_path / "run"), strict=True):
    np.testing.assert_array_equal(one, other)


def test_what_a_user_should_know_of_the_examples_is_said(model, tmp_path):
  rows = [
    f"the array {'is old ' * (20 if number == 3 else 1)}{number}\t{'rare' if number % 12 == 0 else 'often'}"
    for number in range(96)
  ] + ["\trare"]
  (tmp_path / "x.tsv").write_text("\n".join(["text\tlabel", *rows]))
  said = []
  tune(
    model,
    tmp_path / "run",
    f"tuning.data={tmp_path / 'x.tsv'}",
    "tuning.text=text",
    "tuning.label=label",
    "tuning.epochs=0.2",
    log=said.append,
  )
  text = "\n".join(said)
  for words in (
    "1 lines of",
    "have an empty text",
    "held out to judge by",
    "lose their end",
    "classes are not balanced: 'often' has 9",
    "new: classifier",
  ):
    assert words in text, words


@pytest.mark.parametrize(
  "keys, words",
  [
    (["init_from="], "init_from is empty: give the model to train"),
    (["tuning.metric=bleu"], "tuning.metric='bleu' is not measured here; there are accuracy"),
    (["tuning.epochs=0", "optimizer.warmup_steps=2000"], "do not fit into total_steps=1000"),
    (["data.batch_size=12"], "data.batch_size=12 does not divide over 8 devices"),
    (["tuning.max_length=7"], "tuning.max_length=7 leaves no room for a text"),
    (["total_steps=50", "eval_every_steps=5"], "total_steps, eval_every_steps: set by tuning.epochs=1"),
    (["model.num_hidden_layers=3"], "model.num_hidden_layers=3, but the model that is fine-tuned has 1"),
    (["optimizer.frozen_layers=2"], "optimizer.frozen_layers=2, but the model has 1 layers"),
  ],
)
def test_what_does_not_fit_is_one_message(model, tmp_path, keys, words):
  named, _ = write(tmp_path, "classification", 80)
  with pytest.raises(UserError, match=words):
    tune(model, tmp_path / "run", *named, "tuning.epochs=1", *keys)
  assert not (tmp_path / "run").exists(), "the corrected command finds no folder of another run"


def test_other_examples_or_settings_are_another_run(model, tmp_path):
  keys, _ = write(tmp_path, "classification", 80)
  tune(model, tmp_path / "run", *keys, "tuning.epochs=1")
  with pytest.raises(UserError, match="holds a run with another config"):
    tune(model, tmp_path / "run", *keys, "tuning.epochs=1", "tuning.pooling=mean")
  write(tmp_path, "classification", 81)
  with pytest.raises(UserError, match="were made with examples="):
    tune(model, tmp_path / "run", *keys, "tuning.epochs=1")
  assert read_result(tmp_path / "run"), "what was refused leaves the run as it was"


def test_labels_that_trade_places_are_named_by_every_reader(model, tmp_path, capsys):
  keys, _ = write(tmp_path, "classification", 80)
  tune(model, tmp_path / "run", *keys, "tuning.epochs=1")
  path = tmp_path / "run" / "labels.json"
  content = json.loads(path.read_text())
  path.write_text(json.dumps(content | {"names": content["names"][::-1]}))
  for command in (
    ["predict", f"--model={tmp_path / 'run'}", "an array"],
    ["export", f"--workdir={tmp_path / 'run'}", f"--out={tmp_path / 'out'}"],
  ):
    assert main(command) == 1
    assert "labels.json" in capsys.readouterr().err
  with pytest.raises(UserError, match="holds a run with other labels, file, array; now they are array, file"):
    tune(model, tmp_path / "run", *keys, "tuning.epochs=1")
  assert not (tmp_path / "out").exists()


def test_another_model_does_not_go_on_with_a_run(model, tmp_path):
  keys, _ = write(tmp_path, "classification", 80)
  tune(model, tmp_path / "run", *keys, "tuning.epochs=1")
  (tmp_path / "same").symlink_to(model)
  tune(str(tmp_path / "same"), tmp_path / "run", *keys, "tuning.epochs=1")
  shutil.copytree(model, tmp_path / "other")
  with pytest.raises(
    UserError, match="holds a run that began with the model .*, and now .*other is given: give another --workdir"
  ):
    tune(str(tmp_path / "other"), tmp_path / "run", *keys, "tuning.epochs=1")


def test_a_folder_of_pretraining_is_no_folder_for_fine_tuning(model, tmp_path):
  keys, _ = write(tmp_path, "classification", 80)
  shutil.copytree(model, tmp_path / "run")
  with pytest.raises(UserError, match="holds a run with another config"):
    tune(model, tmp_path / "run", *keys, "tuning.epochs=1")


def test_examples_with_other_labels_do_not_spoil_what_a_run_says_of_its_own(model, tmp_path):
  keys, _ = write(tmp_path, "classification", 80)
  tune(model, tmp_path / "run", *keys, "tuning.epochs=1")
  before = (tmp_path / "run" / "labels.json").read_text()
  (tmp_path / "x.tsv").write_text((tmp_path / "x.tsv").read_text().replace("\tarray", "\tvector"))
  with pytest.raises(UserError, match="holds a run with other labels, array, file; now they are file, vector"):
    tune(model, tmp_path / "run", *keys, "tuning.epochs=1")
  assert (tmp_path / "run" / "labels.json").read_text() == before


def test_a_model_shorter_than_finetune_max_length_loses_the_ends_of_texts_and_counts_them(model, tmp_path):
  keys, _ = write(tmp_path, "classification", 60)
  lines = (tmp_path / "x.tsv").read_text().splitlines()
  (tmp_path / "x.tsv").write_text("\n".join([*lines, "file " * 400 + "\tfile"]))
  said = []
  tune(model, tmp_path / "run", *keys, "tuning.epochs=1", "tuning.max_length=512", log=said.append)
  assert any(
    " and 0 of them are longer than 160" in line or " and 1 of them are longer than 160" in line for line in said
  )
  assert "note: the model has 160 positions: tuning.max_length=512 becomes 160" in said
  tune(model, tmp_path / "large", *keys, "tuning.epochs=1", "data.batch_size=600", log=said.append)
  assert any(line.startswith("note: data.batch_size=600 is more than there are examples") for line in said)
  assert json.loads((tmp_path / "run" / "config.json").read_text())["tuning.max_length"] == 160


def test_an_export_that_is_asked_for_is_the_best_checkpoint_with_its_card(model, tmp_path):
  keys, _ = write(tmp_path, "classification", 80)
  tune(model, tmp_path / "run", *keys, "tuning.epochs=2", "export.format=transformers")
  best, exported = inference.load_model(tmp_path / "run"), inference.load_model(tmp_path / "run" / "export")
  assert exported.labels == best.labels._replace(pairs=None)  # which a folder of transformers does not say
  jax.tree.map(np.testing.assert_array_equal, best.params, exported.params)
  card = (tmp_path / "run" / "export" / "README.md").read_text()
  assert "on the examples held out from the training file" in card
  assert (
    f"step {best.step:,} of 10" in card
    and "| accuracy |" in card
    and "Labels (classification): `array`, `file`" in card
  )


def test_a_class_read_otherwise_than_transformers_does_is_refused_before_training_where_an_export_is_asked_for(
  model, tmp_path
):
  keys, _ = write(tmp_path, "classification", 80)
  with pytest.raises(UserError, match="from the pooler, this run from mean"):
    tune(model, tmp_path / "run", *keys, "tuning.epochs=1", "tuning.pooling=mean", "export.format=transformers")
  assert not (tmp_path / "run").exists()


def test_a_pooling_that_means_nothing_is_noted(model, tmp_path):
  for kind, noted in (("token-classification", True), ("regression", False)):
    keys, _ = write(tmp_path / kind, kind, 80)
    said = []
    tune(model, tmp_path / kind / "run", *keys, "tuning.epochs=0.2", "tuning.pooling=mean", log=said.append)
    assert any("tuning.pooling=mean means nothing here" in line for line in said) is noted


def test_a_model_without_a_pooler_gets_a_new_one_and_says_so(model, tmp_path):
  source = inference.load_model(model)
  folder.write_folder(
    tmp_path / "bare", {"encoder": source.params["encoder"]}, source.config, source.tokenizer_folder, head="encoder"
  )
  keys, _ = write(tmp_path, "classification", 80)
  said = []
  tune(str(tmp_path / "bare"), tmp_path / "run", *keys, "tuning.epochs=1", log=said.append)
  assert any("has no pooler: a new one is trained" in line for line in said)
