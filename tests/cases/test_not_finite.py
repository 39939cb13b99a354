"""Weights that are no numbers, and models with one token type: refused before anything is computed or written."""

import json
import pathlib
import tarfile

import numpy as np
import pytest
import safetensors.numpy

from bert_jax.__main__ import main

_CASES = pathlib.Path(__file__).resolve().parents[3] / "shared" / "cases"
PAIRS = "text,other,label\n" + "".join(f"the one {i},the other {i},{'ab'[i % 2]}\n" for i in range(200))


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
  if not _CASES.is_dir():
    pytest.skip(f"the folder of cases is not at {_CASES}")
  unpacked = tmp_path_factory.mktemp("models")
  for name in ("weights", "one_token_type"):
    with tarfile.open(_CASES / "model_folders" / f"{name}.tar.xz") as archive:
      archive.extractall(unpacked, filter="data")
  return unpacked


@pytest.fixture
def texts(tmp_path):
  (tmp_path / "texts.txt").write_text("the one\nthe other\n")
  (tmp_path / "pairs.csv").write_text(PAIRS)
  (tmp_path / "scored.csv").write_text("sentence1,sentence2,score\na,b,1\nc,d,2\ne,f,3\n")
  return tmp_path


@pytest.mark.parametrize(
  "words",
  [
    ("encode", "--model={nan}", "--input=texts.txt", "--out=out.npy"),
    ("fill-mask", "--model={nan}", "one [MASK]"),
    ("next-sentence", "--model={nan}", "one", "two"),
    ("look", "--model={nan}", "one [MASK]"),
    ("probe", "--model={nan}", "--pairs=scored.csv"),
    ("evaluate", "--model={nan}", "--zero_shot", "--input=texts.txt"),
    ("predict", "--model={nan}", "--input=texts.txt"),
    ("finetune", "--model={nan}", "--data=pairs.csv", "--text=text", "--label=label", "--workdir=run"),
    ("sentence-embedding", "--model={nan}", "--data=texts.txt", "--objective=simcse", "--workdir=run"),
  ],
  ids=lambda words: words[0],
)
def test_a_tensor_that_holds_nan_is_named_and_nothing_is_written(folders, texts, words, capsys, monkeypatch):
  monkeypatch.chdir(texts)
  before = set(texts.rglob("*"))
  assert main([word.format(nan=folders / "nan") for word in words]) == 1
  shown = capsys.readouterr()
  tensors = safetensors.numpy.load_file(folders / "nan" / "model.safetensors")
  (bad,) = [name for name, tensor in tensors.items() if not np.all(np.isfinite(tensor))]
  assert f"model.safetensors: {bad} holds" in shown.err and not shown.out and shown.err.count("\n") == 1
  assert set(texts.rglob("*")) == before


@pytest.mark.parametrize(
  "words",
  [
    (
      "finetune",
      "--model={types1}",
      "--data=pairs.csv",
      "--text=text",
      "--text_pair=other",
      "--label=label",
      "--workdir=run",
    ),
    ("predict", "--model={types1_cls}", "--input=pairs.csv", "--text=text", "--text_pair=other"),
    ("next-sentence", "--model={types1}", "one", "two"),
  ],
  ids=lambda words: words[0],
)
def test_a_model_with_one_token_type_is_not_given_pairs(folders, texts, words, capsys, monkeypatch):
  monkeypatch.chdir(texts)
  before = set(texts.rglob("*"))
  assert main([word.format(types1=folders / "types1", types1_cls=folders / "types1_cls") for word in words]) == 1
  error = capsys.readouterr().err
  assert "has 1 token type (type_vocab_size=1)" in error or "next-sentence head" in error, error
  assert set(texts.rglob("*")) == before


def test_single_texts_are_what_such_a_model_takes(folders, texts, capsys):
  assert main(["predict", f"--model={folders / 'types1_cls'}", f"--input={texts / 'texts.txt'}", "--json"]) == 0
  for line in capsys.readouterr().out.splitlines():
    assert "NaN" not in line and json.loads(line)
