"""probe.py: Spearman of the cosine at every layer and pooling, as one would compute it from transformers' hidden
states.
"""

import json
import xml.etree.ElementTree

import jax
import numpy as np
import pytest
import torch
import transformers
from scipy import stats

from bert_jax.__main__ import main
from bert_jax.errors import UserError
from bert_jax.evaluation import zero_shot
from bert_jax.inference import model as inference
from bert_jax.models.pooling import POOLINGS
from bert_jax.tools.explore import pooling

FIRST = ["the cat sat", "a dog on the mat", "x y z", "cat", "on the mat a b c d", "sat sat"]
SECOND = ["a cat sat on", "the mat", "z y x", "dog", "on a mat", "cat"]
SCORES = np.array([4.5, 2.0, 3.0, 1.0, 4.0, 0.5])


def test_every_cell_is_spearman_of_the_cosines_of_transformers_vectors(exported):
  model = transformers.BertModel.from_pretrained(exported / "pretraining").eval()
  tokenizer = transformers.AutoTokenizer.from_pretrained(exported / "pretraining")
  vectors = {name: [] for name in ("cls", "mean", "max", "pooler")}
  for text in FIRST + SECOND:
    with torch.no_grad():
      output = model(**tokenizer(text, return_tensors="pt"), output_hidden_states=True)
    states = torch.stack(output.hidden_states)[:, 0].numpy()
    vectors["cls"].append(states[:, 0])
    vectors["mean"].append(states.mean(axis=1))
    vectors["max"].append(states.max(axis=1))
    vectors["pooler"].append(output.pooler_output.numpy())
  found = pooling.compare_poolings(inference.load_model(exported / "pretraining"), pooling.Pairs(FIRST, SECOND, SCORES))
  assert found.pairs == 6 and found.truncated == 0 and tuple(found.spearman) == POOLINGS
  for name, row in found.spearman.items():
    assert len(row) == 4 and all(np.isnan(row[:-1])) == (name == "pooler")
    all_of_them = np.stack(vectors[name], axis=1)  # [layers, texts, H]
    a, b = all_of_them[:, :6], all_of_them[:, 6:]
    cosines = (a * b).sum(-1) / np.linalg.norm(a, axis=-1) / np.linalg.norm(b, axis=-1)
    for layer in range(len(cosines)):
      if name == "cls" and layer == 0:
        assert np.isnan(row[0])  # [CLS] of the embeddings is the same for every text
        continue
      assert row[layer if len(cosines) > 1 else -1] == pytest.approx(
        stats.spearmanr(SCORES, cosines[layer])[0], abs=1e-6
      ), (name, layer)


def test_the_best_cell_is_named_and_drawn():
  nan = float("nan")
  found = pooling.PoolingComparison(
    {"cls": [nan, 0.2, 0.3], "pooler": [nan, nan, 0.1], "mean": [0.4, 0.6, 0.5]}, 10, 0, (0.3, 0.1)
  )
  assert found.best == ("mean", 1) and found.peaks == [("mean", 1), ("cls", 2), ("pooler", 2)]
  said = pooling.verdict(found)
  assert said.startswith(
    "Best: mean of layer 1 0.600. The other poolings at their best: cls of layer 2 (the last) 0.300, pooler of layer "
    "2 (the last) 0.100. "
  )
  assert (
    "mean is ahead of cls by 0.300 ± 0.100 (standard error over the pairs). At the last layer: mean 0.500, cls 0.300, "
    "pooler 0.100." in said
  )
  assert "not a significant difference" in pooling.verdict(found._replace(lead=(0.3, 0.2)))
  assert (
    "0.600*" in pooling.cosine_table(found)
    and pooling.cosine_table(found).count("*") == 1
    and pooling.cosine_table(found).count("–") == 3
  )
  svg = pooling.heat_map(found, "runs/<base>", "pairs.csv")
  assert svg.count("c0392b") == 1 and "&lt;base&gt;" in svg
  xml.etree.ElementTree.fromstring(svg)
  assert "words without their neighbours" in pooling.verdict(
    found._replace(spearman={"mean": [0.9, 0.1], "max": [0.1, 0.2]})
  )


def test_the_lead_has_the_standard_error_of_many_samples_of_pairs():
  rng = np.random.default_rng(3)
  draw = lambda: (lambda truth: (truth, truth + rng.normal(size=200), truth + 2 * rng.normal(size=200)))(
    rng.normal(size=200)
  )
  samples = [draw() for _ in range(300)]
  leads = [stats.spearmanr(truth, good)[0] - stats.spearmanr(truth, worse)[0] for truth, good, worse in samples]
  assert np.mean([pooling._lead(*sample)[1] for sample in samples[:5]]) == pytest.approx(np.std(leads), rel=0.25)
  assert pooling._lead(*samples[0])[0] == pytest.approx(leads[0])


def test_more_pairs_than_a_batch_in_any_order_give_the_same(exported):
  model = inference.load_model(exported / "pretraining")
  rng = np.random.default_rng(0)
  words = ["the", "cat", "sat", "on", "mat", "a", "b"]
  texts = [" ".join(rng.choice(words, size=rng.integers(1, 30))) for _ in range(90)]
  pairs = pooling.Pairs(texts[:45], texts[45:], rng.normal(size=45))
  order = rng.permutation(45)
  shuffled = pooling.Pairs([pairs.first[i] for i in order], [pairs.second[i] for i in order], pairs.scores[order])
  one, other = pooling.compare_poolings(model, pairs), pooling.compare_poolings(model, shuffled)
  for name, row in one.spearman.items():
    np.testing.assert_allclose(row, other.spearman[name], atol=1e-3)
  similar = zero_shot.similarity(model, *pairs[:3])
  assert {name: row[-1] for name, row in one.spearman.items()} == pytest.approx(similar, abs=1e-3)


def test_a_model_to_which_all_texts_are_the_same_is_refused(exported):
  model = inference.load_model(exported / "pretraining")
  flat = model._replace(params=jax.tree.map(np.zeros_like, model.params))
  with pytest.raises(UserError, match="this model gives all of these texts the same vector"):
    pooling.compare_poolings(flat, pooling.Pairs(FIRST, SECOND, SCORES))


def test_columns_are_found_by_their_usual_names_by_those_given_or_by_their_place(tmp_path):
  rows = [("the cat", "a cat", 4.5), ("x", "y", 1.0), ("on", "at", 2.0)]
  expected = pooling.Pairs([row[0] for row in rows], [row[1] for row in rows], np.array([row[2] for row in rows]))
  tables = {  # what GLUE's dev.tsv of STS-B looks like; stsb-en-dev.csv; somebody's own
    "glue.tsv": (
      ["index\tgenre\tsentence1\tsentence2\tscore"] + [f"{i}\tnews\t{a}\t{b}\t{s}" for i, (a, b, s) in enumerate(rows)],
      (),
    ),
    "bare.csv": ([f"{a},{b},{s}" for a, b, s in rows], ()),
    "own.csv": (["alike,one,other"] + [f"{s},{a},{b}" for a, b, s in rows], ("one", "other", "alike")),
    "part.jsonl": ([json.dumps({"sentence1": a, "sentence2": b, "alike": s}) for a, b, s in rows], ("", "", "alike")),
  }
  for name, (lines, columns) in tables.items():
    (tmp_path / name).write_text("\n".join(lines) + "\n")
    found = pooling.read_pairs(str(tmp_path / name), *columns)
    assert found.first == expected.first and found.second == expected.second and not found.notes, name
    np.testing.assert_array_equal(found.scores, expected.scores)


def test_pairs_with_an_empty_text_are_left_out_and_told(tmp_path):
  (tmp_path / "a.csv").write_text("a,b,1\n ,b,no number\nc,d,2\ne,,3\ne,f,3\n")
  found = pooling.read_pairs(str(tmp_path / "a.csv"))
  assert found.first == ["a", "c", "e"] and found.notes == (
    f"2 pairs with an empty text are left out, the first of them at {tmp_path / 'a.csv'}:2",
  )


@pytest.mark.parametrize(
  "name, content, columns, words",
  [
    ("a.csv", "a,b,1\nc,d,high\ne,f,2\n", (), "a.csv:2: the score 'high' in column 2 is not a number"),
    ("a.csv", "a,b,s\nc,d,1\n", (), "a.csv:1: the score 's' .*if the first line is a header"),
    ("a.tsv", "a\tb\ts\nx\ty\t1\n", ("a", "b", "t"), "has no column 't'; it has: a, b, s"),
    ("a.tsv", "a\tb\nx\ty\n", (), "has the columns 0, 1; expected a text, another one, and a score"),
    ("a.csv", "a,b,1\nc,d,1\ne,f,1\n", (), "3 pairs with texts, scores .1.0.; a rank correlation needs"),
    ("a.csv", "a,b,1\n ,d,2\ne,,3\n", (), "1 pairs with texts"),
    ("a.csv", b"a,b,1\n\xff,d,2\n", (), "a.csv:2: not UTF-8"),
    ("a.csv", "t,u,s\na,b,1\n", ("t", "", "x"), "has no column 'x'; it has: t, u, s"),
  ],
)
def test_pairs_that_cannot_be_compared_are_one_message(tmp_path, name, content, columns, words):
  (tmp_path / name).write_bytes(content if isinstance(content, bytes) else content.encode())
  with pytest.raises(UserError, match=words):
    pooling.read_pairs(str(tmp_path / name), *columns)


def test_the_command_prints_a_table_and_writes_a_picture(exported, tmp_path, capsys):
  (tmp_path / "a.tsv").write_text(
    "\n".join(f"{a}\t{b}\t{score}" for a, b, score in zip(FIRST, SECOND, SCORES)) + f"\n{'the cat ' * 40}\tcat\t3\n"
  )
  assert (
    main(["probe", f"--model={exported / 'mlm'}", f"--pairs={tmp_path / 'a.tsv'}", f"--out={tmp_path / 'a.svg'}"]) == 0
  )
  shown, told = capsys.readouterr()
  assert "embeddings" in shown and "pooler" not in shown, "BertForMaskedLM has no pooler"
  assert (
    "7 pairs" in shown
    and "1 of 14 texts exceeded the 38 tokens" in told
    and (tmp_path / "a.svg").read_text().startswith("<svg")
  )
  assert main(["probe", f"--model={exported / 'mlm'}", f"--pairs={tmp_path / 'a.tsv'}", "--json"]) == 0
  content = json.loads(capsys.readouterr().out)
  assert content["pairs"] == 7 and content["truncated"] == 1 and content["spearman"]["cls"][0] is None
  assert content["spearman"][content["best"]["pooling"]][content["best"]["layer"]] == max(
    v for row in content["spearman"].values() for v in row if v is not None
  )
  assert main(["probe", f"--model={exported / 'mlm'}", f"--pairs={tmp_path / 'a.tsv'}", "--out=a.png"]) == 1
  assert "expected a file name ending in .svg" in capsys.readouterr().err
