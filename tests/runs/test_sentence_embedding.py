"""run_sentence_embedding.py: training in a run folder, judged by scored pairs, ending in a folder for
sentence-transformers.
"""

import random
import re

import numpy as np
import pytest
import sentence_transformers

from bert_jax import __main__ as command_line
from bert_jax.convert import folder
from bert_jax.errors import UserError
from bert_jax.inference import model as inference
from bert_jax.runs import sentence_embedding
from tests.helpers.labelled_models import CONFIG

FAST = (
  "data.batch_size=16",
  "optimizer.learning_rate=1e-2",
  "tuning.max_length=16",
  "log_every_steps=50",
  "model.hidden_dropout_prob=0.1",
  "model.attention_probs_dropout_prob=0.0",
)
SUBJECTS = ("cat", "mat")


@pytest.fixture(scope="module")
def source(model_of, label_tokenizer, tmp_path_factory):
  """The folder of a BERT whose weights were drawn, with pooler."""
  model, out = model_of("classification"), tmp_path_factory.mktemp("source") / "bert"
  params = {name: model.params[name] for name in ("encoder", "pooler")}
  folder.write_folder(out, params, CONFIG, label_tokenizer, head="encoder")
  return str(out)


@pytest.fixture(scope="module")
def pairs(tmp_path_factory):
  """A table of texts about cats and mats among random letters; those about the same are alike."""
  rng, rows = random.Random(0), ["a,b,other,score,class"]
  text = lambda subject: " ".join(rng.sample([*rng.choices("abcdefgh", k=2), subject], 3))
  for _ in range(160):
    first, second = rng.choice(SUBJECTS), rng.choice(SUBJECTS)
    other = SUBJECTS[1 - SUBJECTS.index(first)]
    alike = first == second
    rows.append(f"{text(first)},{text(second)},{text(other)},{5 if alike else 0},{'same' if alike else 'different'}")
  path = tmp_path_factory.mktemp("pairs") / "pairs.csv"
  path.write_text("\n".join(rows) + "\n")
  return str(path)


def train(source, pairs, workdir, *keys, log=lambda text: None):
  config = sentence_embedding.sentence_embedding_config([f"init_from={source}", f"tuning.data={pairs}", *FAST, *keys])
  return sentence_embedding.sentence_embedding_run(config, str(workdir), log=log)


COLUMNS = ("tuning.text=a", "tuning.text_pair=b")


def test_cosines_come_to_mean_likeness_and_the_export_has_them_in_sentence_transformers(source, pairs, tmp_path):
  said = []
  found = train(
    source,
    pairs,
    tmp_path / "run",
    *COLUMNS,
    "embedding.objective=cosine",
    "tuning.label=score",
    "tuning.epochs=6",
    "tuning.evaluations=0.5",
    f"tuning.dev={pairs}",
    "embedding.normalize=True",
    "model.hidden_dropout_prob=0.0",
    log=said.append,
  )
  (before,) = [float(re.search(r"spearman (\S+),", line)[1]) for line in said if line.startswith("Before training")]
  assert before < 0.5 < 0.8 < found["spearman"]

  texts = ["the cat sat on a mat", "mat", "the [MASK] sat", "a b c d e f g " * 6]
  trained = inference.load_model(tmp_path / "run")
  vectors = inference.encode(trained, texts).vectors
  np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1.0, rtol=1e-5)
  theirs = sentence_transformers.SentenceTransformer(str(tmp_path / "run" / "export"), device="cpu")
  np.testing.assert_allclose(theirs.encode(texts), vectors, atol=1e-5)
  assert "Trained for sentence embeddings (`cosine`)" in (tmp_path / "run" / "export" / "README.md").read_text()
  exported = inference.load_model(tmp_path / "run" / "export")
  assert (
    exported.encoding == trained.encoding and exported.max_length == trained.max_length == theirs.max_seq_length == 16
  ), "as in training"
  np.testing.assert_allclose(inference.encode(exported, texts).vectors, vectors, atol=1e-6)


@pytest.mark.parametrize(
  "objective, columns",
  [
    ("in-batch", (*COLUMNS, "embedding.negative=other", "optimizer.microbatches=2")),
    ("simcse", ("tuning.text=a", "tuning.pooling=cls")),
    ("triplet", (*COLUMNS, "embedding.negative=other", "tuning.pooling=max")),
    ("softmax", (*COLUMNS, "tuning.label=class", "tuning.pooling=pooler", "export.format=transformers")),
  ],
)
def test_every_objective_runs_from_the_command_line_without_pairs_to_judge_by(
  source, pairs, tmp_path, capsys, objective, columns
):
  keys = [f"--config.{key}" for key in (*FAST, *columns, f"embedding.objective={objective}", "tuning.epochs=0.4")]
  assert (
    command_line.main(
      ["sentence-embedding", f"--model={source}", f"--data={pairs}", f"--workdir={tmp_path / 'run'}", *keys]
    )
    == 0
  )
  shown = capsys.readouterr().out
  assert "nothing to judge by" in shown and (tmp_path / "run" / "export" / "model.safetensors").exists()
  assert "The newest checkpoint, step 4: there were no evaluation examples" in shown
  assert "## Evaluation" not in (tmp_path / "run" / "export" / "README.md").read_text()
  model = inference.load_model(tmp_path / "run")
  assert model.step == 4 and model.encoding.pooling == (
    columns[-1].removeprefix("tuning.pooling=") if "pooling" in columns[-1] else model.encoding.pooling
  )


@pytest.mark.parametrize(
  "objective, content",
  [("simcse", "the cat\n" * 20), ("simcse", "one line\n"), ("in-batch", "a,b\n" + "the cat,a mat\n" * 20)],
)
def test_what_all_say_the_same_cannot_be_told_apart(source, tmp_path, objective, content):
  (tmp_path / ("x.csv" if "," in content else "x.txt")).write_text(content)
  columns = ("tuning.text=a", "tuning.text_pair=b") if "," in content else ()
  (file,) = tmp_path.glob("x.*")
  with pytest.raises(
    UserError, match=f"{objective} learns to tell the examples of a batch apart, and all [0-9]+ are the same"
  ):
    train(source, file, tmp_path / "run", *columns, f"embedding.objective={objective}")
  assert not (tmp_path / "run").exists()


def test_export_keeps_how_vectors_are_made_and_no_figure_of_another_way(source, pairs, tmp_path, capsys):
  train(
    source,
    pairs,
    tmp_path / "run",
    *COLUMNS,
    "tuning.label=score",
    "embedding.objective=cosine",
    "embedding.normalize=True",
    "tuning.pooling=cls",
    "tuning.epochs=0.4",
  )
  assert command_line.main(["export", f"--workdir={tmp_path / 'run'}", f"--out={tmp_path / 'own'}"]) == 0
  assert "for sentence-transformers" in capsys.readouterr().out and inference.load_model(tmp_path / "own").encoding == (
    "cls",
    True,
  )
  assert (
    command_line.main(
      [
        "export",
        f"--workdir={tmp_path / 'run'}",
        f"--out={tmp_path / 'mean'}",
        "--format=sentence-transformers",
        "--pooling=mean",
      ]
    )
    == 0
  )
  cards = [(tmp_path / name / "README.md").read_text() for name in ("own", "mean")]
  assert "## Evaluation" in cards[0] and "## Evaluation" not in cards[1]


def test_patience_without_anything_to_judge_by_ends_nothing_early(source, pairs, tmp_path):
  train(
    source, pairs, tmp_path / "run", *COLUMNS, "embedding.objective=in-batch", "tuning.epochs=3", "tuning.patience=1"
  )
  assert inference.load_model(tmp_path / "run").step == 30


@pytest.mark.parametrize(
  "keys, message",
  [
    (("embedding.objective=",), "embedding.objective is empty: say what is to be learned by"),
    (
      ("embedding.objective=in-batch", *COLUMNS, "data.batch_size=1"),
      "data.batch_size=1: in-batch learns by the other examples",
    ),
    (
      ("embedding.objective=simcse", "tuning.text=a", "model.hidden_dropout_prob=0.0"),
      "by dropout, and there is none: set model.hidden_dropout_prob",
    ),
    (
      ("embedding.objective=simcse", "tuning.text=a", "tuning.pooling=pooler"),
      "sentence-transformers has no pooling 'pooler'",
    ),
    (
      ("embedding.objective=triplet", *COLUMNS, "embedding.negative=other", "embedding.normalize=True"),
      "at most 2 apart; give less",
    ),
    (
      ("embedding.objective=simcse", "tuning.text=a", "tuning.metric=accuracy"),
      "'accuracy' is not measured here; there are spearman, pearson",
    ),
    (("embedding.objective=simcse", "tuning.text=a", "init_from="), "init_from is empty"),
  ],
)
def test_what_cannot_work_is_refused_before_the_folder_is_made(source, pairs, tmp_path, keys, message):
  with pytest.raises(UserError, match=re.escape(message)):
    train(source, pairs, tmp_path / "run", *keys)
  assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
  "key, value", [("embedding.temperature", 0.0), ("embedding.margin", -1.0), ("embedding.objective", "siamese")]
)
def test_settings_without_sense_are_refused(key, value):
  with pytest.raises(UserError, match=re.escape(repr(key))):
    sentence_embedding.sentence_embedding_config([f"{key}={value}"])
