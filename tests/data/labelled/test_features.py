"""features.py: law 1 for labelled examples, rows of few lengths, labels where they belong."""

import collections

import numpy as np
import pytest

from bert_jax.data.labelled import features
from bert_jax.data.labelled.features import IGNORED, Features
from bert_jax.data.tokenizer.wordpiece import SPECIAL_TOKENS, build_tokenizer

TOKENIZER = build_tokenizer(
  [
    *SPECIAL_TOKENS,
    "the",
    "cat",
    "sat",
    "un",
    "##happy",
    "##ly",
    "狗",
    "猫",
    *"abcdefgh",
    *(f"##{c}" for c in "abcdefgh"),
  ],
  lowercase=True,
)
ID = TOKENIZER.plain.get_vocab()


def many(count=100, seed=0, most=60) -> Features:
  rng = np.random.default_rng(seed)
  rows = [rng.integers(5, 20, rng.integers(3, most)).tolist() for _ in range(count)]
  return features.make_features(rows, [len(row) for row in rows], np.arange(count, dtype=np.int32), 0)


def run(given, steps, start=0, **more):
  settings = {"batch_size": 8, "seed": 3, "start": start * 8, "steps": steps, "max_length": 64} | more
  return list(features.length_grouped_batches(given, **settings))


def same(one, other):
  assert one.keys() == other.keys()
  for name in one:
    np.testing.assert_array_equal(one[name], other[name])


def test_batches_are_the_same_from_wherever_a_run_begins():
  given, whole = many(), run(many(), 80)
  for start in (0, 1, 31, 32, 47, 79):
    for one, other in zip(run(given, 80 - start, start), whole[start:]):
      same(one, other)


@pytest.mark.parametrize(
  "count, batch_size, epochs",
  [(100, 8, 3), (240, 16, 1), (100, 32, 3), (2000, 16, 2), (5, 8, 4), (64, 16, 2), (7, 7, 2)],
)
def test_every_example_comes_once_in_an_epoch_and_epochs_follow_each_other(count, batch_size, epochs):
  given = many(count)
  steps = -(-epochs * count // batch_size)
  batches = run(given, steps, batch_size=batch_size)
  seen = collections.Counter(
    (int(epoch), int(index)) for batch in batches for epoch, index in zip(batch["epoch"], batch["index"])
  )
  assert max(seen.values()) == 1
  for epoch in range(epochs):
    assert sum(1 for one, _ in seen if one == epoch) == count
  for number, batch in enumerate(batches):
    assert set(batch["epoch"]) <= set(range(number * batch_size // count, ((number + 1) * batch_size - 1) // count + 1))
    np.testing.assert_array_equal(batch["labels"], batch["index"])  # labels are row numbers in this test


def test_no_example_comes_twice_in_a_batch_however_few_there_are():
  for batch in run(many(100), 13, batch_size=8):
    if len(set(batch["epoch"])) == 1:
      assert len(set(batch["index"])) == 8


def test_another_seed_is_another_order():
  assert any(np.any(a["index"] != b["index"]) for a, b in zip(run(many(), 5), run(many(), 5, seed=4)))


def test_processes_hold_the_rows_of_a_batch_together_at_one_length():
  given = many()
  parts = [run(given, 20, process_rows=np.array(rows)) for rows in ([0, 1, 4], [2, 3, 5, 6, 7])]
  for whole, first, second in zip(run(given, 20), *parts):
    assert first["tokens"].shape[1] == second["tokens"].shape[1] == whole["tokens"].shape[1]
    for name in whole:
      np.testing.assert_array_equal(whole[name][[0, 1, 4]], first[name])
      np.testing.assert_array_equal(whole[name][[2, 3, 5, 6, 7]], second[name])


def test_rows_have_few_lengths_and_little_padding():
  given = many(2000, most=120)
  batches = list(features.length_grouped_batches(given, batch_size=32, seed=0, start=0, steps=200, max_length=128))
  assert {batch["tokens"].shape[1] for batch in batches} <= {32, 64, 128}
  real = sum(int(batch["sequences"][:, 0, 0].sum()) for batch in batches) / sum(
    batch["tokens"].size for batch in batches
  )
  assert real > 0.65, "dealt out without regard to length, less than half would be real"


@pytest.mark.parametrize("longest, length", [(1, 32), (32, 32), (33, 64), (512, 512), (513, 1024)])
def test_the_length_of_a_row_is_the_least_that_holds_it(longest, length):
  assert features.row_length(longest) == length


def test_an_evaluation_has_every_example_once_and_empty_rows_at_the_end():
  given = many(21)
  found = list(features.sorted_batches(given, batch_size=8, max_length=64))
  rows = np.concatenate([rows for rows, _ in found])
  assert sorted(rows[rows >= 0].tolist()) == list(range(21)) and (rows == -1).sum() == 3
  for own, batch in found:
    np.testing.assert_array_equal(batch["weights"], own >= 0)
    for row, tokens, (length, _, _) in zip(own, batch["tokens"], batch["sequences"][:, 0]):
      expected = given.tokens[given.offsets[row] : given.offsets[row + 1]] if row >= 0 else []
      assert tokens[:length].tolist() == list(expected) and not tokens[length:].any()


def test_pairs_are_laid_out_as_bert_has_them_and_the_longer_one_is_cut():
  found = features.of_texts(TOKENIZER, ["the cat", "the " * 9], ["sat", "cat sat"], np.zeros(2, np.int32), max_length=9)
  row = found.tokens[: found.offsets[1]]
  assert (
    row.tolist() == [ID["[CLS]"], ID["the"], ID["cat"], ID["[SEP]"], ID["sat"], ID["[SEP]"]]
    and found.first_lengths[0] == 4
  )
  assert found.lengths[1] == 9 and found.first_lengths[1] == 6 and found.truncated == 1


def test_the_first_piece_of_a_word_has_its_label_and_nothing_else_has_one():
  words = [["the", "unhappyly", "\u200b", "cat"], ["the"] * 12]
  found = features.of_words(TOKENIZER, words, [[1, 2, 3, 4], [5] * 12], max_length=9)
  assert found.tokens[: found.offsets[1]].tolist() == [
    ID["[CLS]"],
    ID["the"],
    ID["un"],
    ID["##happy"],
    ID["##ly"],
    ID["[UNK]"],
    ID["cat"],
    ID["[SEP]"],
  ]
  assert found.labels[: found.offsets[1]].tolist() == [IGNORED, 1, 2, IGNORED, IGNORED, 3, 4, IGNORED]
  assert (
    found.lengths[1] == 9
    and found.labels[found.offsets[1] :].tolist() == [IGNORED, *[5] * 7, IGNORED]
    and found.truncated == 1
  )


def test_a_text_that_just_fits_is_not_counted_as_cut():
  words = [["the"] * 7]
  assert features.of_words(TOKENIZER, words, [[0] * 7], max_length=9).truncated == 0
  assert features.of_words(TOKENIZER, words, [[0] * 7], max_length=8).truncated == 1


def test_labels_of_tokens_are_padded_with_what_is_ignored():
  found = features.of_words(TOKENIZER, [["the", "cat"], ["sat"]], [[1, 2], [3]], max_length=9)
  ((_, batch),) = features.sorted_batches(found, batch_size=3, max_length=9)
  assert batch["labels"].shape == (3, 9) and set(batch["labels"][2]) == {IGNORED}
  assert sorted(label for label in batch["labels"].ravel() if label != IGNORED) == [1, 2, 3]


def test_texts_apart_are_packed_into_a_row_and_equal_ones_have_one_number():
  given = features.of_texts_apart(TOKENIZER, [["the cat", "sat"], ["sat sat sat sat", "The cat"]], None, max_length=5)
  cls, sep = TOKENIZER.special.cls, TOKENIZER.special.sep
  assert given.labels.tolist() == [[0, 1], [2, 0]] and given.truncated == 1
  batch = features.gather(given, np.array([0, 1, -1]), epoch=np.zeros(3, np.uint32), max_length=10)
  row = [cls, ID["the"], ID["cat"], sep, cls, *[ID["sat"]] * 3, sep]
  assert batch["tokens"].shape == (3, 10) and batch["tokens"][0].tolist() == [*row, 0]
  assert batch["sequences"].tolist() == [[[4, 4, 0], [5, 5, 0]], [[3, 3, 0], [4, 4, 0]], [[0, 0, 0], [0, 0, 0]]]
  assert batch["weights"].tolist() == [1, 1, 0] and batch["labels"][:2].tolist() == given.labels.tolist()
