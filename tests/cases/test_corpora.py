"""Text that cannot teach what is asked, or only if its sentences are found."""

import pathlib

import pytest

from bert_jax.data.corpus.prepare import prepare_corpus
from bert_jax.errors import UserError
from tests.helpers.preparing import settings

_CASES = pathlib.Path(__file__).resolve().parents[3] / "shared" / "cases" / "corpora"


@pytest.fixture
def prepared(tmp_path):
  if not _CASES.is_dir():
    pytest.skip(f"the folder of cases is not at {_CASES}")

  def prepared(name, objective):
    source, out = f"text:{_CASES / name}.txt", tmp_path / objective
    return prepare_corpus([source], out, settings("", objective=objective, vocab_size=1000, seq_length=128))

  return prepared


def test_a_blank_line_between_sentences_is_refused_for_nsp_and_fine_without_pairs(prepared):
  with pytest.raises(UserError, match=r'[0-9]+ of [0-9]+ pairs have the label "random".*blank line.*--objective=none'):
    prepared("blank_between_sentences", "nsp")
  assert prepared("blank_between_sentences", "none")["counts"]["documents"] == 600


@pytest.mark.parametrize("objective", ["nsp", "sop"])
def test_every_token_of_long_lines_without_punctuation_is_in_a_row(prepared, objective):
  manifest = prepared("no_punct_lines", objective)
  assert sum(manifest["provenance"]["unused_tokens"].values()) <= 12
  labels = manifest["splits"]["train"]["label_counts"]
  assert min(labels) > 0.3 * sum(labels)


@pytest.mark.parametrize("objective", ["nsp", "sop", "none"])
def test_a_text_of_dna_without_spaces_is_refused_with_the_cause(prepared, objective):
  with pytest.raises(UserError, match=r"100.0% of the tokens are \[UNK\].*no spaces.*put spaces"):
    prepared("dna", objective)


@pytest.mark.parametrize("name, stop", [("hindi", "।"), ("arabic", "؟")])
def test_hindi_and_arabic_come_apart_into_sentences_with_labels_of_both_kinds(prepared, name, stop):
  manifest = prepared(name, "nsp")
  assert manifest["counts"]["sentences"] == (_CASES / f"{name}.txt").read_text(encoding="utf-8").count(stop)
  labels = manifest["splits"]["train"]["label_counts"]
  assert min(labels) > 0.3 * sum(labels)
