"""Pairs and plain sequences, checked against the text that they were cut from."""

import numpy as np
import pytest

from bert_jax import batch
from bert_jax.data.corpus import pairs
from bert_jax.data.corpus.documents import Documents
from bert_jax.data.tokenizer.wordpiece import SPECIAL_TOKENS, build_tokenizer
from bert_jax.errors import UserError

TEMPLATE = build_tokenizer(SPECIAL_TOKENS, lowercase=True).template


def make_documents(sentence_lengths: list[list[int]], numbers=None) -> Documents:
  """Documents whose tokens are all different, so that every range tells where it comes from."""
  flat = [length for document in sentence_lengths for length in document]
  counts = [len(document) for document in sentence_lengths]
  return Documents(
    np.arange(sum(flat)),
    np.cumsum([0] + flat),
    np.cumsum([0] + counts),
    np.array(numbers if numbers is not None else range(len(counts)), np.uint32),
    np.zeros((len(counts), 2), np.uint64),
  )


def random_documents(count=40, seed=0, longest=40) -> Documents:
  rng = np.random.default_rng(seed)
  return make_documents([rng.integers(1, longest, rng.integers(1, 30)).tolist() for _ in range(count)])


def document_of(documents: Documents, tokens: np.ndarray) -> np.ndarray:
  begins = documents.sentence_starts[documents.document_starts]
  return np.searchsorted(begins, tokens, side="right") - 1


def cut(documents, objective="nsp", seq_length=64, short_probability=0.1, seed=7) -> pairs.Sequences:
  return pairs.make_sequences(
    documents, objective, template=TEMPLATE, seq_length=seq_length, short_probability=short_probability, seed=seed
  )


def test_the_columns_are_those_of_the_batch_contract():
  assert (batch.LENGTH, batch.FIRST_LENGTH, batch.LABEL) == (0, 1, 2)
  assert (pairs.FOLLOWS, pairs.RANDOM) == (0, 1)


def test_a_random_b_never_comes_from_the_same_document():
  documents = random_documents()
  made = cut(documents)
  is_random = made.labels == pairs.RANDOM
  assert is_random.sum() > 100
  a, b = document_of(documents, made.a[:, 0]), document_of(documents, made.b[:, 0])
  assert (a[is_random] != b[is_random]).all()
  np.testing.assert_array_equal(made.documents, np.stack([a, b], 1))


def test_with_two_documents_a_random_b_is_always_from_the_other():
  made = cut(make_documents([[5] * 50, [6] * 50]))
  is_random = made.labels == pairs.RANDOM
  assert (made.documents[is_random].sum(1) == 1).all() and (made.documents[~is_random].sum(1) != 1).all()


def test_label_0_means_that_b_follows_a_in_the_text():
  documents = random_documents(longest=8)
  made = cut(documents, seq_length=256)
  whole = made.lengths < 256  # not truncated
  follows = (made.labels == pairs.FOLLOWS) & whole
  assert follows.sum() > 20
  np.testing.assert_array_equal(made.b[follows, 0], made.a[follows, 1])
  is_random = (made.labels == pairs.RANDOM) & whole
  assert (made.b[is_random, 0] != made.a[is_random, 1]).all()


def test_about_half_of_the_pairs_are_random_where_there_is_a_choice():
  made = cut(make_documents([[5] * 2000, [5] * 2000]), short_probability=0.0)
  assert 0.4 < made.labels.mean() < 0.6


def test_a_random_b_begins_anywhere_in_its_document():
  made = cut(make_documents([[5] * 2000, [5] * 2000]), short_probability=0.0)
  begins = made.b[made.labels == pairs.RANDOM, 0] % 10_000  # documents of 10,000 tokens
  assert len(begins) > 100 and 4000 < begins.mean() < 6000 and begins.min() < 1000 and begins.max() > 9000


def test_a_single_sentence_gets_a_random_b():
  made = cut(make_documents([[5], [6], [7]]))
  assert made.labels.tolist() == [1, 1, 1]


def test_no_side_is_ever_empty_and_nothing_is_longer_than_the_row():
  for seq_length in (8, 9, 64):
    made = cut(random_documents(), seq_length=seq_length, short_probability=0.5)
    assert (made.a[:, 1] > made.a[:, 0]).all() and (made.b[:, 1] > made.b[:, 0]).all()
    assert made.lengths.max() == seq_length


def test_without_truncation_both_sides_are_whole_sentences():
  documents = random_documents(longest=6)
  made = cut(documents, seq_length=512)
  assert made.lengths.max() < 512
  for side in (made.a, made.b):
    assert np.isin(side, documents.sentence_starts).all()


def test_unused_sentences_are_put_back():
  """Every sentence is used exactly once as A or as a B that follows."""
  documents = random_documents(longest=6)
  made = cut(documents, seq_length=512)
  used = np.zeros(len(documents.tokens), int)
  for begin, end in made.a.tolist() + made.b[made.labels == pairs.FOLLOWS].tolist():
    used[begin:end] += 1
  assert (used == 1).all()


def test_one_pair_in_ten_aims_at_a_shorter_length():
  documents = make_documents([[1] * 30_000, [1] * 30_000])
  full = cut(documents, seq_length=64, short_probability=0.0)
  assert (full.lengths == 64).mean() > 0.75  # not all: a random B may start near the end of its document
  some = cut(documents, seq_length=64, short_probability=0.1)
  assert 0.06 < (some.lengths < 60).mean() - (full.lengths < 60).mean() < 0.14


@pytest.mark.parametrize(
  "length_a, length_b, room", [(50, 3, 20), (3, 50, 20), (30, 30, 21), (30, 31, 20), (9, 9, 20), (200, 90, 125)]
)
def test_truncation_shortens_the_longer_side_as_bert_does(length_a, length_b, room):
  expected_a, expected_b = length_a, length_b
  while expected_a + expected_b > room:  # truncate_seq_pair of google-research/bert
    if expected_a > expected_b:
      expected_a -= 1
    else:
      expected_b -= 1
  fronts = set()
  for seed in range(20):
    a, b = pairs._truncate((0, length_a), (1000, 1000 + length_b), room, pairs.random_numbers(seed, 0))
    assert (a[1] - a[0], b[1] - b[0]) == (expected_a, expected_b)
    assert a[0] >= 0 and a[1] <= length_a and b[0] >= 1000 and b[1] <= 1000 + length_b
    fronts.add((a[0], b[0]))
  assert (len(fronts) > 1) == (length_a + length_b > room)  # from either end, at random


def test_truncation_takes_from_both_ends_alike():
  fronts = [pairs._shorten((0, 1000), 100, pairs.random_numbers(seed, 0))[0] for seed in range(200)]
  assert 48 < np.mean(fronts) < 52 and 4 < np.std(fronts) < 6  # binomial(100, 1/2)


def test_the_seed_and_the_number_of_the_document_decide():
  documents = random_documents()
  same, again, other = cut(documents, seed=1), cut(documents, seed=1), cut(documents, seed=2)
  for left, right in zip(same, again):
    np.testing.assert_array_equal(left, right)
  assert not np.array_equal(same.b[:50], other.b[:50])
  renumbered = cut(documents._replace(numbers=documents.numbers + 1), seed=1)
  assert not np.array_equal(same.b[:50], renumbered.b[:50])


def test_a_document_draws_the_same_whatever_the_others_hold():
  one = cut(make_documents([[3] * 40, [2] * 10, [4] * 20]))
  two = cut(make_documents([[3] * 40, [1] * 50, [2] * 5]))
  of_first = one.documents[:, 0] == 0
  np.testing.assert_array_equal(one.a[of_first], two.a[two.documents[:, 0] == 0])


def test_random_numbers_never_change():
  draw = pairs.random_numbers(12345, 67)
  assert [draw() for _ in range(3)] == [0.6800760617077093, 0.1907628089102088, 0.9310254869775055]


def test_streams_that_share_a_generator_are_those_of_a_fresh_one_each():
  shared = np.random.Philox()
  shared.random_raw(7)
  places = ((0, 0), (12345, 67), (2**63 - 1, 2**32 - 1))
  streams = [pairs.random_numbers(*place, shared) for place in places]
  in_turn = np.array([[draw() for draw in streams] for _ in range(200)]).T
  for (seed, document), drawn in zip(places, in_turn):
    raw = np.random.Philox(key=np.array([seed, document], np.uint64)).random_raw(200)
    assert drawn.tolist() == [(word >> 11) * 2.0**-53 for word in raw.tolist()]


def test_sop_label_0_means_that_a_stands_right_before_b_and_1_that_they_were_swapped():
  documents = random_documents(count=80, longest=8)
  made = cut(documents, "sop", seq_length=256)
  whole = made.lengths < 256  # not truncated
  in_order, swapped = (whole & (made.labels == label) for label in (pairs.IN_ORDER, pairs.SWAPPED))
  assert in_order.sum() > 20 and swapped.sum() > 20
  np.testing.assert_array_equal(made.a[in_order, 1], made.b[in_order, 0])
  np.testing.assert_array_equal(made.b[swapped, 1], made.a[swapped, 0])


@pytest.mark.parametrize("seq_length, longest", [(8, 40), (64, 40), (64, 200), (256, 8)])
def test_sop_label_0_means_that_a_is_earlier_in_the_same_document(seq_length, longest):
  documents = random_documents(longest=longest)
  made = cut(documents, "sop", seq_length=seq_length, short_probability=0.3)
  in_order = made.labels == pairs.IN_ORDER
  first, second = np.where(in_order[:, None], made.a, made.b), np.where(in_order[:, None], made.b, made.a)
  assert (first[:, 1] <= second[:, 0]).all()
  for side in (made.a, made.b):
    for end in (side[:, 0], side[:, 1] - 1):
      np.testing.assert_array_equal(document_of(documents, end), made.documents[:, 0])
  np.testing.assert_array_equal(made.documents[:, 0], made.documents[:, 1])


def test_about_half_of_the_sop_pairs_are_swapped():
  for sentences in ([5] * 2000, [300] * 2000):
    made = cut(make_documents([sentences]), "sop", short_probability=0.0)
    assert len(made.labels) > 150 and 0.4 < made.labels.mean() < 0.6


@pytest.mark.parametrize("seq_length", [8, 9, 64])
def test_no_sop_pair_is_longer_than_the_row_or_has_an_empty_side(seq_length):
  made = cut(random_documents(longest=200), "sop", seq_length=seq_length, short_probability=0.5)
  assert (made.a[:, 1] > made.a[:, 0]).all() and (made.b[:, 1] > made.b[:, 0]).all()
  assert made.lengths.max() == seq_length
  np.testing.assert_array_equal(made.lengths, np.diff(made.a)[:, 0] + np.diff(made.b)[:, 0] + 3)


def test_sop_uses_every_token_once_where_nothing_is_truncated():
  documents = make_documents([[2] * 40, [3], [60], [1] * 7, [2, 50, 1]])
  made = cut(documents, "sop", seq_length=512)
  used = np.zeros(len(documents.tokens), int)
  for begin, end in made.a.tolist() + made.b.tolist():
    used[begin:end] += 1
  assert (used == 1).all()


def test_sop_leaves_out_nothing_but_what_truncation_cuts_and_a_last_lone_token():
  documents = make_documents([[30] * 20, [1], [20] * 8 + [1]])
  made = cut(documents, "sop", short_probability=0.0)
  used = np.zeros(len(documents.tokens), int)
  for begin, end in made.a.tolist() + made.b.tolist():
    used[begin:end] += 1
  assert used.max() == 1
  # There is room for 61: 3 sentences of 30 are gathered, or 4 of 20. The first document ends with 2 of 30.
  assert used[:600].sum() == 6 * 61 + 60 and used[600] == 0 and used[601:761].sum() == 2 * 61 and used[761] == 0


def test_one_sentence_alone_is_cut_in_two_for_sop():
  made = cut(make_documents([[9]]), "sop")
  assert made.lengths.tolist() == [12]
  assert {tuple(sorted((*a, *b))) for a, b in zip(made.a.tolist(), made.b.tolist())} <= {
    (0, at, at, 9) for at in range(1, 9)
  }
  assert len(cut(make_documents([[1]]), "sop").labels) == 0  # a single token makes no pair


def test_sop_takes_one_document():
  made = cut(make_documents([[5] * 50]), "sop")
  assert set(made.labels.tolist()) == {0, 1} and not made.documents.any()


def test_plain_sequences_hold_every_token_once_and_stay_within_their_document():
  documents = random_documents()
  made = cut(documents, "none")
  np.testing.assert_array_equal(np.concatenate([np.arange(*span) for span in made.a]), documents.tokens)
  first, last = (document_of(documents, one) for one in (made.a[:, 0], made.a[:, 1] - 1))
  np.testing.assert_array_equal(first, last)
  assert (made.b[:, 0] == made.b[:, 1]).all() and (made.labels == 0).all()
  assert made.lengths.max() <= 64
  np.testing.assert_array_equal(made.lengths, made.a[:, 1] - made.a[:, 0] + 2)


def test_plain_sequences_are_whole_sentences_as_many_as_fit():
  made = cut(make_documents([[30, 30, 5, 54, 62, 1], [1]]), "none", seq_length=64)
  assert made.a.tolist() == [[0, 60], [60, 119], [119, 181], [181, 182], [182, 183]]


def test_a_sentence_is_cut_only_where_more_than_a_sixteenth_of_the_room_would_stay_empty():
  """The room is 62: up to 3 tokens may stay empty."""
  for length, expected in ((59, [[0, 59], [59, 79]]), (58, [[0, 62], [62, 78]])):
    made = cut(make_documents([[length, 20]]), "none", seq_length=64)
    assert made.a.tolist() == expected, length


def test_a_sentence_longer_than_the_row_is_cut_and_nothing_is_lost():
  made = cut(make_documents([[3, 20, 4]]), "none", seq_length=10)
  assert made.a.tolist() == [[0, 8], [8, 16], [16, 24], [24, 27]]


def test_nsp_on_one_document_names_the_remedy():
  with pytest.raises(UserError, match="expected at least 2 documents, found 1; .*--objective=none"):
    cut(make_documents([[5] * 50]))
  assert len(cut(make_documents([[5] * 50]), "none").labels) == 5


@pytest.mark.parametrize("seq_length", [7, 0, -1, 2**16])
def test_an_unusable_length_is_refused(seq_length):
  with pytest.raises(UserError, match=f"seq_length: expected 8 to 65,535 tokens, found {seq_length}"):
    pairs.pairing_of("nsp", seq_length)


def test_an_unknown_objective_names_the_known_ones():
  with pytest.raises(UserError, match="unknown objective 'sop2'; known are nsp, sop, none"):
    pairs.pairing_of("sop2", 128)


def uses(documents, made) -> np.ndarray:
  """How many sequences hold each token as a part of A, or as B of the same document."""
  used = np.zeros(len(documents.tokens), int)
  own = made.documents[:, 0] == made.documents[:, 1]
  for begin, end in made.a.tolist() + made.b[own].tolist():
    used[begin:end] += 1
  return used


@pytest.mark.parametrize("objective", ["nsp", "sop"])
@pytest.mark.parametrize("lengths", [[[1000, 1300]] * 5, [[3000]] * 4, [[120] * 30] * 4, [[5] * 10 + [2000], [3] * 40]])
def test_a_sentence_longer_than_a_row_goes_on_in_the_next_pair_and_nothing_is_lost(objective, lengths):
  documents = make_documents(lengths)
  made = cut(documents, objective)
  assert uses(documents, made).max() == 1
  # A last token alone makes no pair whose order could be asked for.
  assert pairs.unused_tokens(documents, made) <= (0 if objective == "nsp" else len(lengths))
  assert (made.lengths <= 64).all() and (made.b[:, 1] > made.b[:, 0]).all()
  assert 0.3 < made.labels.mean() < 0.7


def test_labels_tell_the_truth_where_sentences_are_cut():
  documents = make_documents([[400] * 30] * 6)
  made = cut(documents)
  follows = made.labels == pairs.FOLLOWS
  assert (made.a[follows, 1] == made.b[follows, 0]).all()
  a, b = document_of(documents, made.a[:, 0]), document_of(documents, made.b[:, 0])
  assert (a[follows] == b[follows]).all() and (a[~follows] != b[~follows]).all()
  # As often as a B that follows, a random one begins inside a sentence, or its place would tell.
  inside = ~np.isin(made.b[:, 0], documents.sentence_starts)
  assert abs(inside[follows].mean() - inside[~follows].mean()) < 0.1


def test_short_single_sentences_stay_whole_beside_long_ones():
  documents = make_documents([[2000], [10], [12]])
  made = cut(documents, short_probability=0.0)
  short = made.documents[:, 0] > 0
  assert (made.a[short, 1] - made.a[short, 0]).tolist() == [10, 12] and (made.labels[short] == pairs.RANDOM).all()


@pytest.mark.parametrize("lengths", [[[30] * 40] * 5, [[200] * 40] * 5])
def test_a_random_b_never_comes_from_another_part_of_the_same_document(lengths):
  documents = make_documents(lengths, numbers=[3, 3, 4, 4, 5])
  made = cut(documents)
  is_random = made.labels == pairs.RANDOM
  assert is_random.sum() > 20 and (made.documents[is_random, 0] != made.documents[is_random, 1]).all()
  with pytest.raises(UserError, match="at least 2 documents"):
    cut(make_documents(lengths, numbers=[3] * 5))
