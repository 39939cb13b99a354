"""probe.py: Spearman of the cosine at every layer and pooling, as one would compute it from transformers' hidden states."""

import xml.etree.ElementTree

import numpy as np
import pytest
import torch
import transformers
from scipy import stats
from tests.convert.conftest import config, exported, params, tensors, tokenizer_dir  # noqa: F401  (fixtures)

from bert_jax import inference
from bert_jax.__main__ import main
from bert_jax.errors import UserError
from bert_jax.tools import probe

FIRST = ["the cat sat", "a dog on the mat", "x y z", "cat", "on the mat a b c d", "sat sat"]
SECOND = ["a cat sat on", "the mat", "z y x", "dog", "on a mat", "cat"]
SCORES = np.array([4.5, 2.0, 3.0, 1.0, 4.0, 0.5])


def test_every_cell_is_spearman_of_the_cosines_of_transformers_vectors(exported):  # noqa: F811
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
  found = probe.probe(inference.load_model(exported / "pretraining"), probe.Pairs(FIRST, SECOND, SCORES))
  assert found.pairs == 6 and found.truncated == 0 and set(found.spearman) == set(vectors)
  for name, row in found.spearman.items():
    assert len(row) == 4 and all(np.isnan(row[:-1])) == (name == "pooler")
    all_of_them = np.stack(vectors[name], axis=1)  # [layers, texts, H]
    a, b = all_of_them[:, :6], all_of_them[:, 6:]
    cosines = (a * b).sum(-1) / np.linalg.norm(a, axis=-1) / np.linalg.norm(b, axis=-1)
    for layer in range(1, len(cosines)) if len(cosines) > 1 else (0,):  # [CLS] of the embeddings is the same for every text
      assert row[layer if len(cosines) > 1 else -1] == pytest.approx(stats.spearmanr(SCORES, cosines[layer])[0], abs=1e-6), (name, layer)


def test_the_best_cell_is_named_and_drawn():
  nan = float("nan")
  found = probe.Probe({"cls": [0.0, 0.2, 0.3], "pooler": [nan, nan, 0.1], "mean": [0.4, 0.6, 0.5]}, 10, 0)
  assert found.best == ("mean", 1)
  assert "At the last layer: mean 0.500, cls 0.300, pooler 0.100. The best of all is mean of layer 1, 0.600." in probe.verdict(found)
  assert "0.600*" in probe.table(found) and probe.table(found).count("*") == 1
  svg = probe.heat_map(found, "runs/<base>", "pairs.csv")
  assert svg.count("c0392b") == 1 and "&lt;base&gt;" in svg
  xml.etree.ElementTree.fromstring(svg)
  assert "sum of words without their order" in probe.verdict(found._replace(spearman={"mean": [0.9, 0.1]}))


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
        ("a.csv", "a,b,1\n", ("a",), "name three columns together"),
    ],
)
def test_pairs_that_cannot_be_compared_are_one_message(tmp_path, name, content, columns, words):
  (tmp_path / name).write_bytes(content if isinstance(content, bytes) else content.encode())
  with pytest.raises(UserError, match=words):
    probe.read_pairs(str(tmp_path / name), *columns)


def test_the_command_prints_a_table_and_writes_a_picture(exported, tmp_path, capsys):  # noqa: F811
  (tmp_path / "a.tsv").write_text("\n".join(f"{a}\t{b}\t{score}" for a, b, score in zip(FIRST, SECOND, SCORES)) + f"\n{'the cat ' * 40}\tcat\t3\n")
  assert main(["probe", f"--model={exported / 'mlm'}", f"--pairs={tmp_path / 'a.tsv'}", f"--out={tmp_path / 'a.svg'}"]) == 0
  shown = capsys.readouterr().out
  assert "embeddings" in shown and "pooler" not in shown.splitlines()[0], "BertForMaskedLM has no pooler"
  assert "1 of 14 texts were longer than the model" in shown and (tmp_path / "a.svg").read_text().startswith("<svg")
  assert main(["probe", f"--model={exported / 'mlm'}", f"--pairs={tmp_path / 'a.tsv'}", "--out=a.png"]) == 1
