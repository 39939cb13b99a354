"""Tables and files of tags that other people's tools made, and what must come of each."""

import pathlib

import pytest

from bert_jax.data.labelled.tables import read_table
from bert_jax.data.labelled.task_files import load_splits
from bert_jax.errors import UserError

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


def test_of_vectors_of_0_and_1_a_text_has_the_labels_that_are_1(case):
  found = load_splits(data=case("tables/label_onehot.jsonl"), text="text", label="label")
  assert found.kind == "classification"  # there is a single 1 in each
  label = dict(zip([*found.train.first, *found.dev.first], [*found.train.labels, *found.dev.labels]))
  assert label["a dull film number 0, really"] == "1" and label["a great film number 1, really"] == "0"
  several = load_splits(data=case("tables/label_onehot.jsonl"), text="text", label="label", kind="multi-label")
  assert set(several.train.labels) == {"0", "1"}


@pytest.mark.parametrize("kind", ["multi-label", ""])
def test_labels_that_commas_separate_are_refused_with_the_separator(case, kind):
  with pytest.raises(UserError, match=r"comma_multi.csv:2: the label 'x, y' reads as several labels, separated by ','"):
    load_splits(data=case("tables/comma_multi.csv"), text="text", label="label", kind=kind)


@pytest.mark.parametrize("reader", ["finetune", "predict"])
def test_half_of_a_surrogate_pair_is_named_with_its_line(case, reader):
  path = case("tables/surrogate.jsonl")
  with pytest.raises(UserError, match=r"surrogate.jsonl:1: 'text' holds half of a surrogate pair"):
    if reader == "finetune":
      load_splits(data=path, text="text", label="label")
    else:
      read_table(path, ["text"])
