"""Tables and files of tags that other people's tools made, and what must come of each."""

import pathlib

import pytest

from bert_jax.data.labelled.task_files import load_splits

_CASES = pathlib.Path(__file__).resolve().parents[3] / "shared" / "cases"


@pytest.fixture
def case():
  if not _CASES.is_dir():
    pytest.skip(f"the folder of cases is not at {_CASES}")
  return lambda name: str(_CASES / name)


@pytest.mark.parametrize("name", ["index_first.conll", "conllu.conllu", "bilou.conll"])
def test_words_are_words_and_tags_are_iob2(case, name):
  found = load_splits(data=case(f"conll/{name}"), kind="token-classification")
  sentences = [*found.train.first, *found.dev.first]
  assert not any(word.isdigit() for words in sentences for word in words)
  assert sentences[0][:5] == ["Maria", "Silva", "visited", "New", "York"]
  assert found.train.labels[0][:5] == ["B-PER", "I-PER", "O", "B-LOC", "I-LOC"]
  assert {tag[0] for tags in found.train.labels for tag in tags} == set("BIO")
  notes = " ".join(found.train.notes)
  assert ("words are column 1" in notes) is (name != "bilou.conll")
  assert ("comment lines" in notes) is (name == "conllu.conllu")
