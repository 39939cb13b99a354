"""masking.py (law 2): who is masked, how often, and that nothing but (seed, epoch, row) decides it."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bert_jax import config as configs
from bert_jax.batch import EVALUATION_EPOCH, model_inputs, row_keys
from bert_jax.data.tokenizer.template import SpecialIds
from bert_jax.objectives import masking

SPECIAL = SpecialIds(pad=0, unk=5, cls=2, sep=3, mask=9)  # scattered on purpose
VOCAB, LENGTH, K = 60, 64, 12
N = 4096  # rows where shares are measured; one shape, so that it is compiled once
SETTINGS = masking.MaskSettings(
  rate=0.15,
  first_rate=0.0,
  mask_share=0.8,
  random_share=0.1,
  unit="token",
  span_stop=0.2,
  max_span=10,
  max_ngram=3,
  max_predictions=K,
)
ORDINARY = np.array([token for token in range(VOCAB) if token not in SPECIAL])


def rows(count, seed=0, fill=LENGTH):
  """Rows of two packed pairs with a few [UNK], then padding from `fill` on."""
  rng = np.random.default_rng(seed)
  tokens = rng.choice(ORDINARY, (count, LENGTH))
  tokens[rng.random(tokens.shape) < 0.05] = SPECIAL.unk
  half = fill // 2
  for start, length in ((0, half), (half, fill - half)):
    tokens[:, start] = SPECIAL.cls
    tokens[:, [start + 7, start + length - 1]] = SPECIAL.sep
  tokens[:, fill:] = SPECIAL.pad
  sequences = np.tile([[half, 8, 0], [fill - half, 8, 1]], (count, 1, 1))
  return model_inputs(jnp.asarray(tokens), jnp.asarray(sequences))


compiled_row_keys = jax.jit(row_keys, static_argnums=0)


def keys(count, seed=3, epoch=0, first=0):
  return compiled_row_keys(seed, jnp.full(count, epoch, jnp.uint32), jnp.arange(first, first + count, dtype=jnp.uint32))


@functools.partial(jax.jit, static_argnums=2)
def mask(keys, inputs, settings=SETTINGS, word_starts=None, rate=None):
  return masking.mask_tokens(
    keys,
    inputs,
    settings,
    mask_id=SPECIAL.mask,
    never_predicted=SPECIAL,
    vocab_size=VOCAB,
    word_starts=word_starts,
    rate=rate,
  )


CONTINUATION = np.arange(VOCAB) >= 40  # the last third of the vocabulary are ## pieces


def word_starts(inputs):
  return jnp.asarray(~CONTINUATION[np.asarray(inputs.input_ids)])


def chosen_of(masked, row):
  """The selected positions of a row, in order."""
  return np.sort(np.asarray(masked.positions[row])[np.asarray(masked.weights[row]) == 1])


def test_labels_are_the_original_tokens_and_the_rest_is_untouched():
  inputs = rows(N, fill=50)
  masked = jax.device_get(mask(keys(N), inputs))
  original, seen = np.asarray(inputs.input_ids), np.asarray(masked.input_ids)
  chosen = np.zeros(original.shape, bool)
  for row, (positions, labels, weights) in enumerate(zip(masked.positions, masked.labels, masked.weights)):
    used = np.asarray(weights) == 1
    assert len(set(np.asarray(positions)[used].tolist())) == used.sum(), "a position was selected twice"
    np.testing.assert_array_equal(np.asarray(labels)[used], original[row, np.asarray(positions)[used]])
    assert not np.asarray(labels)[~used].any() and not np.asarray(positions)[~used].any()
    chosen[row, np.asarray(positions)[used]] = True
  np.testing.assert_array_equal(seen[~chosen], original[~chosen])


def test_special_tokens_padding_and_unk_are_never_predicted_and_never_drawn():
  inputs = rows(N, fill=50)
  masked = mask(keys(N), inputs)
  targets = np.asarray(masked.labels)[np.asarray(masked.weights) == 1]
  assert not np.isin(targets, SPECIAL).any()
  changed = np.asarray(masked.input_ids)[np.asarray(masked.input_ids) != np.asarray(inputs.input_ids)]
  drawn = changed[changed != SPECIAL.mask]
  assert not np.isin(drawn, SPECIAL).any()
  assert set(drawn.tolist()) == set(ORDINARY.tolist()), "every ordinary token can be drawn"


def test_selected_tokens_become_mask_random_or_stay_in_80_10_10():
  inputs = rows(N)
  masked = mask(keys(N), inputs)
  used = np.asarray(masked.weights) == 1
  seen = np.take_along_axis(np.asarray(masked.input_ids), np.asarray(masked.positions), axis=1)[used]
  labels = np.asarray(masked.labels)[used]
  share_mask = np.mean(seen == SPECIAL.mask)
  share_same = np.mean(seen == labels)
  by_chance = 0.1 / len(ORDINARY)  # a random token that happens to be the original
  sigma = np.sqrt(0.25 / used.sum())
  assert abs(share_mask - 0.8) < 4 * sigma
  assert abs(share_same - (0.1 + by_chance)) < 4 * sigma


def test_the_number_is_the_rate_of_the_maskable_tokens_and_never_above_the_budget():
  inputs = rows(N, fill=50)
  maskable = (~np.isin(np.asarray(inputs.input_ids), SPECIAL)).sum(1)
  expected = np.clip(np.round(0.15 * maskable), 1, K)
  np.testing.assert_array_equal(np.asarray(mask(keys(N), inputs).weights).sum(1), expected)
  greedy = mask(keys(N), inputs, SETTINGS._replace(rate=0.9))
  np.testing.assert_array_equal(np.asarray(greedy.weights).sum(1), K)


def test_every_maskable_position_is_equally_likely():
  inputs = jax.tree.map(lambda x: jnp.repeat(x[:1], N, axis=0), rows(1))
  masked = mask(keys(N), inputs)
  counts = np.bincount(np.asarray(masked.positions)[np.asarray(masked.weights) == 1], minlength=LENGTH)
  maskable = ~np.isin(np.asarray(inputs.input_ids[0]), SPECIAL)
  assert not counts[~maskable].any()
  mean = counts[maskable].mean()
  assert np.abs(counts[maskable] - mean).max() < 5 * np.sqrt(mean)


def test_a_rows_mask_does_not_depend_on_the_batch_around_it():
  inputs, all_keys = rows(16), keys(16)
  whole = mask(all_keys, inputs)
  for begin, end in ((0, 4), (4, 16), (15, 16)):
    part = mask(all_keys[begin:end], jax.tree.map(lambda x: x[begin:end], inputs))
    jax.tree.map(lambda a, b: np.testing.assert_array_equal(a, b[begin:end]), part, whole)


@pytest.mark.parametrize("devices", [2, 8])
def test_masks_are_the_same_on_any_number_of_devices(devices):
  inputs = rows(16)
  mesh = jax.make_mesh((devices,), ("data",), devices=jax.devices()[:devices], axis_types=(jax.sharding.AxisType.Auto,))
  sharding = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("data"))
  spread = mask(*jax.device_put((keys(16), inputs), sharding))
  jax.tree.map(np.testing.assert_array_equal, mask(keys(16), inputs), spread)


def test_epoch_row_and_seed_each_change_the_mask_and_evaluation_has_its_own():
  inputs = rows(8)
  base = mask(keys(8), inputs).positions
  for other in (keys(8, epoch=1), keys(8, first=8), keys(8, seed=4), keys(8, epoch=EVALUATION_EPOCH)):
    assert (mask(other, inputs).positions != base).any(axis=1).all()
  np.testing.assert_array_equal(mask(keys(8), inputs).positions, base)


def test_the_masks_of_a_known_row_are_pinned():
  """Resumed runs and other hosts must draw the very same masks: a change here breaks every run in progress."""
  masked = mask(keys(1), rows(1))
  assert np.asarray(masked.positions)[0].tolist() == PINNED_POSITIONS
  assert np.asarray(masked.input_ids)[0][PINNED_POSITIONS[:9]].tolist() == PINNED_IDS


PINNED_POSITIONS = [20, 48, 37, 54, 56, 23, 11, 55, 12, 0, 0, 0]
PINNED_IDS = [9, 9, 9, 22, 9, 9, 9, 9, 9]


@pytest.mark.parametrize("rate", [0.15, 0.9])  # the second needs more than the budget
@pytest.mark.parametrize("unit", ["word", "span", "ngram"])
def test_words_are_masked_whole_or_not_at_all_and_never_exceed_the_number(unit, rate):
  inputs = rows(500, fill=60)
  masked = jax.device_get(mask(keys(500), inputs, SETTINGS._replace(unit=unit), word_starts(inputs), jnp.float32(rate)))
  ids = np.asarray(inputs.input_ids)
  maskable = ~np.isin(ids, SPECIAL)
  number = np.clip(np.round(rate * maskable.sum(1)), 1, K)
  predicted = 0
  for row in range(len(ids)):
    chosen = set(chosen_of(masked, row).tolist())
    predicted += len(chosen)
    assert len(chosen) <= number[row]
    assert maskable[row, list(chosen)].all()
    for place in range(1, LENGTH):
      if maskable[row, place] and maskable[row, place - 1] and CONTINUATION[ids[row, place]]:
        assert (place in chosen) == (place - 1 in chosen), "a word was split"
  assert predicted > 0.8 * number.sum(), "the budget is filled but for the last word that does not fit"


def one_sequence(*words):
  """64 equal rows: [CLS], these ids, [SEP], padding."""
  tokens = np.full((64, LENGTH), SPECIAL.pad)
  tokens[:, : len(words) + 2] = [SPECIAL.cls, *words, SPECIAL.sep]
  return model_inputs(jnp.asarray(tokens), jnp.asarray([[[len(words) + 2, 2, 0], [0, 0, 0]]] * 64))


@pytest.mark.parametrize("unit", ["token", "word"])
def test_a_short_row_has_one_prediction_and_a_row_with_nothing_to_mask_has_none(unit):
  draw = lambda inputs: mask(keys(64), inputs, SETTINGS._replace(unit=unit), word_starts(inputs), jnp.float32(0.15))
  masked = draw(one_sequence(20, 21))  # 15 % of two tokens is less than half of one
  np.testing.assert_array_equal(masked.weights.sum(1), 1)
  empty = one_sequence(SPECIAL.unk)
  masked = draw(empty)
  assert not masked.weights.any() and not masked.labels.any()
  np.testing.assert_array_equal(masked.input_ids, empty.input_ids)


def test_a_piece_behind_a_special_token_is_a_word_of_its_own():
  inputs = one_sequence(
    20, SPECIAL.unk, 50
  )  # 50 is a ## piece; with the token before [UNK] it would not fit the number of 1
  masked = mask(keys(64), inputs, SETTINGS._replace(unit="word"), word_starts(inputs), jnp.float32(0.15))
  np.testing.assert_array_equal(masked.weights.sum(1), 1)
  assert set(np.asarray(masked.positions)[:, 0].tolist()) == {1, 3}


def test_what_stands_in_the_padding_does_not_matter():
  inputs = rows(64, fill=50)
  garbage = inputs.input_ids.at[:, 50:].set(ORDINARY[7])
  masked = mask(keys(64), inputs._replace(input_ids=garbage))
  np.testing.assert_array_equal(masked.positions, mask(keys(64), inputs).positions)
  np.testing.assert_array_equal(masked.input_ids[:, 50:], ORDINARY[7])


def test_masks_do_not_follow_the_default_random_number_generator():
  """rbg is the faster choice on TPUs for dropout; what it draws depends on how a batch is sharded."""
  index = jnp.arange(4, dtype=jnp.uint32)
  with jax.default_prng_impl("rbg"):
    found = jax.random.key_data(row_keys(3, index * 0, index))
  np.testing.assert_array_equal(found, jax.random.key_data(keys(4)))


def test_word_starts_that_the_corpus_stored_take_the_place_of_the_vocabularys():
  """Chinese: no ## tells, so the words of three characters come from bits alone."""
  inputs = rows(300)
  starts = jnp.asarray(np.broadcast_to(np.arange(LENGTH) % 3 == 0, (300, LENGTH)))
  masked = jax.device_get(mask(keys(300), inputs, SETTINGS._replace(unit="word"), starts))
  maskable = ~np.isin(np.asarray(inputs.input_ids), SPECIAL)
  sizes = set()
  for row in range(300):
    chosen = set(chosen_of(masked, row).tolist())
    for place in chosen:
      word = list(range(place - place % 3, min(place - place % 3 + 3, LENGTH)))
      if maskable[row, word].all():
        assert chosen.issuperset(word)
        sizes.add(len(word))
  assert 3 in sizes


def run_lengths(masked, count):
  """Lengths of the runs of neighbouring selected tokens."""
  lengths = []
  for row in range(count):
    chosen = chosen_of(masked, row)
    if len(chosen):
      lengths += np.diff(np.flatnonzero(np.r_[True, np.diff(chosen) > 1, True])).tolist()
  return np.array(lengths)


@pytest.mark.parametrize(
  "settings, probabilities",
  [
    (SETTINGS._replace(unit="span"), 0.8 ** np.arange(10)),
    (SETTINGS._replace(unit="span", span_stop=0.5, max_span=4), 0.5 ** np.arange(4)),
    (SETTINGS._replace(unit="ngram"), 1 / np.arange(1, 4)),
    (SETTINGS._replace(unit="ngram", max_ngram=1), np.ones(1)),
  ],
)
def test_spans_have_the_lengths_that_were_asked_for(settings, probabilities):
  """One long row of single-token words, cut into spans; seen where they are made, before the budget cuts the last
  one.
  """
  probabilities = probabilities / probabilities.sum()
  np.testing.assert_allclose(masking._length_probabilities(settings), probabilities)
  length = 512
  starts = jnp.ones(length, bool)
  cut = jax.jit(jax.vmap(lambda key: masking._span_starts(key, starts, starts, probabilities)))
  begins = np.asarray(cut(jax.random.split(jax.random.key(1), 400)))
  assert begins[:, 0].all()
  lengths = np.concatenate([np.diff(np.flatnonzero(row)) for row in begins])  # without the last of each, cut by the row
  shares = np.bincount(lengths, minlength=len(probabilities) + 1)[1:] / len(lengths)
  assert len(shares) == len(probabilities)
  np.testing.assert_allclose(shares, probabilities, atol=5 * 0.5 / np.sqrt(len(lengths)) + 0.01)


def test_spans_are_longer_runs_than_tokens_and_end_with_the_sequence():
  inputs = rows(1000)
  all_words = jnp.ones((1000, LENGTH), bool)
  means = {}
  for unit in ("word", "ngram", "span"):
    masked = jax.device_get(mask(keys(1000), inputs, SETTINGS._replace(unit=unit), all_words))
    means[unit] = run_lengths(masked, 1000).mean()
  assert means["word"] < means["ngram"] < means["span"]
  assert means["span"] > 2.5 and means["word"] < 1.3
  # A span never goes over a special token: it begins anew behind it.
  maskable = jnp.asarray(~np.isin(np.asarray(inputs.input_ids[0]), SPECIAL))
  begins = masking._span_starts(jax.random.key(0), maskable, maskable, np.array([0.0, 0.0, 0.0, 0.0, 1.0]))
  after_special = np.flatnonzero(np.asarray(maskable) & ~np.r_[False, np.asarray(maskable)[:-1]])
  assert np.asarray(begins)[after_special].all()


@pytest.mark.parametrize("unit", ["word", "span", "ngram"])
def test_every_word_is_equally_likely_under_every_unit(unit):
  """But for the edges: a span that a special token ends is short, and the budget takes its words from the left."""
  inputs = jax.tree.map(lambda x: jnp.repeat(x[:1], N, axis=0), rows(1))
  masked = mask(keys(N), inputs, SETTINGS._replace(unit=unit), jnp.ones((N, LENGTH), bool))
  counts = np.bincount(np.asarray(masked.positions)[np.asarray(masked.weights) == 1], minlength=LENGTH)
  maskable = ~np.isin(np.asarray(inputs.input_ids[0]), SPECIAL)
  assert not counts[~maskable].any()
  mean = counts[maskable].mean()
  slack = 5 * np.sqrt(mean) if unit == "word" else 0.35 * mean
  assert np.abs(counts[maskable] - mean).max() < slack


def test_the_rate_goes_in_a_straight_line_and_evaluation_has_the_last_one():
  settings = SETTINGS._replace(first_rate=0.3, rate=0.15)
  assert settings.highest_rate == 0.3 and SETTINGS.highest_rate == 0.15
  rates = [float(masking.rate_at(settings, jnp.int32(step), 100)) for step in (0, 50, 100, 120)]
  np.testing.assert_allclose(rates, [0.3, 0.225, 0.15, 0.15], rtol=1e-6)
  assert masking.rate_at(settings, None, 100) == 0.15
  assert masking.rate_at(SETTINGS, jnp.int32(3), 100) == 0.15
  inputs = rows(64)
  few, many = (
    np.asarray(mask(keys(64), inputs, SETTINGS, None, jnp.float32(rate)).weights).sum() for rate in (0.05, 0.15)
  )
  assert 2.5 * few < many < 3.5 * few


def test_the_settings_are_those_of_the_config_and_its_units_are_known():
  assert set(masking.MaskSettings._fields) == set(configs.default_config().masking)
  assert configs.KEYS["masking.unit"].options == masking.UNITS
  assert masking.settings_of(configs.default_config().masking) == SETTINGS._replace(max_predictions=None)


def test_a_unit_that_cannot_be_drawn_is_refused():
  with pytest.raises(ValueError, match="expected one of token, word, span, ngram; got 'letter'"):
    mask(keys(1), rows(1), SETTINGS._replace(unit="letter"))
  with pytest.raises(ValueError, match="masking.unit=word needs `word_starts`"):
    mask(keys(1), rows(1), SETTINGS._replace(unit="word"))
