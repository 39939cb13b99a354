"""Marks are taken off where a text can do without them, and a user is told what that changes."""

import pytest

from bert_jax.data.tokenizer.casing import KEPT_ABOVE, note_of_stripping, stripping_of, without_marks


@pytest.mark.parametrize("word, left", [("में", "म"), ("が", "か"), ("mà", "ma"), ("schön", "schon"), ("cat", "cat")])
def test_stripping_takes_marks_off(word, left):
  assert without_marks(word) == left


def test_composed_hangul_falls_apart():
  assert without_marks("한") == "\u1112\u1161\u11ab"
  assert stripping_of(["한"]).examples == (("한", "\u1112 \u1161 \u11ab"),)


def test_the_most_frequent_changed_words_are_the_examples():
  found = stripping_of(["schön für", "Für das Haus, für uns"])
  assert found.share == 4 / 7
  assert found.examples == (("für", "fur"), ("schön", "schon"))
  assert note_of_stripping(found, stripped=True) == (
    "Accents and marks are stripped, which changes 57% of the words: für -> fur, schön -> schon; --keep_accents keeps "
    "them"
  )
  assert "kept: stripping would change 57%" in note_of_stripping(found, stripped=False)


def test_a_few_words_of_other_languages_are_no_reason_to_say_anything():
  found = stripping_of(["naïve", *["the cat sat on the mat"] * 1000])
  assert 0 < found.share < KEPT_ABOVE and note_of_stripping(found, stripped=True) == ""
  assert stripping_of([]).share == 0
