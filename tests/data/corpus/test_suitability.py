"""What is refused, and what is said, about a corpus."""

import random
import re

import pytest

from bert_jax.data.corpus import suitability
from bert_jax.data.corpus.folder import read_corpus_manifest
from bert_jax.data.corpus.prepare import prepare_corpus
from bert_jax.errors import UserError
from tests.helpers.preparing import settings

WORDS = ["cat", "dog", "house", "tree", "where", "grow", "small", "see"]


def text(tmp_path, documents, between="\n\n"):
  path = tmp_path / "text.txt"
  path.write_text(between.join(documents))
  return f"text:{path}"


def line(rng, count=8, end="."):
  return " ".join(rng.choices(WORDS, k=count)) + end


def prepared(tmp_path, documents, tokenizer="", **changes):
  changes = {"vocab_size": 300, "seq_length": 64} | changes
  return prepare_corpus([text(tmp_path, documents)], tmp_path / "corpus", settings(tokenizer, **changes))


@pytest.mark.parametrize("end", [".", "", "¶"])
def test_documents_of_one_sentence_are_refused_for_nsp_with_the_cause_and_the_remedy(tmp_path, end):
  rng = random.Random(0)
  documents = [line(rng, end=end) for _ in range(60)]
  with pytest.raises(UserError, match=r'pairs have the label "random".*blank line.*--objective=none'):
    prepared(tmp_path, documents, objective="nsp")
  assert not (tmp_path / "corpus").exists()
  prepared(tmp_path, documents, objective="none")


@pytest.mark.parametrize("objective", ["nsp", "sop", "none"])
def test_text_without_spaces_is_refused_with_the_cause(tmp_path, objective):
  rng = random.Random(0)
  documents = ["\n".join("".join(rng.choices("acgt", k=300)) for _ in range(5)) for _ in range(60)]
  with pytest.raises(UserError, match=r"100\.0% of the tokens are \[UNK\].*no spaces.*put spaces"):
    prepared(tmp_path, documents, objective=objective)


def test_documents_of_one_unknown_word_each_make_no_pairs_which_is_said(tmp_path):
  rng = random.Random(0)
  with pytest.raises(UserError, match="tokens, which make no pair; text without spaces is one unknown word"):
    prepared(tmp_path, ["".join(rng.choices("acgt", k=300)) for _ in range(60)], objective="sop")


def test_a_vocabulary_of_another_script_is_refused(tmp_path):
  rng = random.Random(0)
  vocabulary = tmp_path / "vocab.txt"
  vocabulary.write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "我", "你", "."]) + "\n")
  documents = ["\n".join(line(rng) for _ in range(6)) for _ in range(40)]
  with pytest.raises(UserError, match=r"are \[UNK\].*another language, script or case"):
    prepared(tmp_path, documents, tokenizer=str(vocabulary))


def test_the_same_word_everywhere_is_refused(tmp_path):
  with pytest.raises(UserError, match="one and the same token everywhere"):
    prepared(tmp_path, ["ab ab ab\nab ab"] * 3 + ["ab " * n for n in range(3, 30)], objective="none", vocab_size=64)


@pytest.mark.parametrize(
  "change, told",
  [
    ({"unknown_rate": 0.06}, r"6.0% of the tokens are \[UNK\]"),
    ({"label_counts": [10, 90]}, '90 of 100 pairs have the label "random"'),
    ({"label_counts": [90, 10]}, '90 of 100 pairs have the label "follows"'),
  ],
)
def test_what_is_unusual_is_said_and_not_refused(manifest, change, told):
  manifest["splits"]["train"] |= change
  found = suitability.check(manifest, "corpus")
  assert any(re.search(told, str(one)) for one in found)


@pytest.fixture
def manifest(tmp_path):
  rng = random.Random(0)
  prepared(tmp_path, ["\n".join(line(rng) for _ in range(9)) for _ in range(60)])
  return read_corpus_manifest(tmp_path / "corpus")


def test_tokens_in_no_row_are_said_also_where_they_were_not_counted(manifest):
  manifest["splits"]["train"]["counts"]["tokens"] = 1000
  manifest["splits"]["train"]["counts"]["row_tokens"] = 600
  manifest["provenance"]["unused_tokens"] = {"train": 500, "validation": 0}
  assert any("50% of the tokens are in no row" in one.found for one in suitability.findings(manifest))
  del manifest["provenance"]["unused_tokens"]
  assert any("40% of the tokens are in no row" in one.found for one in suitability.findings(manifest))


@pytest.mark.parametrize("held, said", [(50, False), (41, False), (59, False), (30, True), (90, True)])
def test_a_held_out_share_that_is_off_by_more_than_a_fifth_is_said(manifest, held, said):
  manifest["validation_fraction"] = 0.05
  for split, tokens in (("train", 1000 - held), ("validation", held)):
    manifest["splits"][split]["counts"]["tokens"] = tokens
  found = [one for one in suitability.findings(manifest) if "are held out" in one.found]
  assert bool(found) == said and (not said or f"{held / 10:.1f}% of the tokens" in found[0].found)


def test_a_few_pairs_may_well_be_alike(manifest):
  manifest["splits"]["train"]["label_counts"] = [0, 9]
  assert not any("pairs" in one.found for one in suitability.findings(manifest))


def test_a_mixture_is_judged_part_by_part(manifest):
  manifest["splits"]["train"]["unknown_rate"] = 0.9
  with pytest.raises(UserError, match=r"mixture: wiki: 90.0% of the tokens"):
    suitability.check({"parts": {"wiki": manifest}}, "mixture")
