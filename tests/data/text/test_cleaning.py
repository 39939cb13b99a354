"""Copies and short documents are dropped, and nothing else is."""

import collections
import random
import tracemalloc

from bert_jax.data.text import cleaning
from bert_jax.data.text.sources import Document


def documents(*texts: str) -> list[Document]:
  return [Document(text, "made", place) for place, text in enumerate(texts, 1)]


def clean(made, deduplicate=False, min_characters=0):
  counts = collections.Counter()
  kept = list(cleaning.clean(made, deduplicate=deduplicate, min_characters=min_characters, counts=counts))
  return kept, dict(counts)


def test_without_being_asked_nothing_is_dropped_or_changed():
  made = documents("a", "a", "")
  assert clean(made) == (made, {})


def test_only_the_first_of_several_copies_stays():
  made = documents("a", "b", "a", "A", "a ", "b", "a")
  kept, counts = clean(made, deduplicate=True)
  assert kept == [made[0], made[1], made[3], made[4]] and counts == {"duplicate_documents": 3}


def test_documents_below_the_minimum_are_dropped_by_characters_not_bytes():
  made = documents("ab", "abc", "北京", "北京大", "🌍🌍🌍")
  kept, counts = clean(made, min_characters=3)
  assert kept == [made[1], made[3], made[4]] and counts == {"short_documents": 2}


def test_a_short_copy_counts_as_short():
  _, counts = clean(documents("a", "a", "long", "long"), deduplicate=True, min_characters=2)
  assert counts == {"short_documents": 2, "duplicate_documents": 1}


def test_documents_stream_through_one_by_one():
  taken = []
  stream = (taken.append(one) or one for one in documents("a", "b", "c"))
  kept = cleaning.clean(stream, deduplicate=True, min_characters=0, counts=collections.Counter())
  next(kept)
  assert len(taken) == 1


def test_the_table_knows_every_text_while_it_grows(monkeypatch):
  monkeypatch.setattr(cleaning, "_FIRST_SIZE", 4)
  rng = random.Random(0)
  seen, known = cleaning._Hashes(), set()
  for _ in range(5000):
    text = str(rng.randrange(3000))
    assert seen.add(text) == (text not in known)
    known.add(text)
  assert 2 * seen._used <= len(seen._table) < 8 * seen._used


def test_texts_whose_hashes_meet_in_the_table_are_told_apart(monkeypatch):
  """Hashes that all want the last place of the table, and the hash 0, which would mean a free place."""

  class Digest(bytes):
    def digest(self):
      return int(self).to_bytes(8, "little")

  monkeypatch.setattr(cleaning.hashlib, "blake2b", lambda data, digest_size: Digest(data))
  seen = cleaning._Hashes()
  last = [str(cleaning._FIRST_SIZE * factor - 1) for factor in (1, 2, 3)]
  assert [seen.add(one) for one in [*last, *last, "0", "0"]] == [True] * 3 + [False] * 3 + [True, False]


def test_it_takes_the_memory_that_it_says():
  tracemalloc.start()
  seen = cleaning._Hashes()
  for number in range(35_000):  # grows at 32,768 for the last time
    seen.add(str(number))
  size, peak = tracemalloc.get_traced_memory()
  tracemalloc.stop()
  assert 16 <= size / 35_000 <= 32 and peak / 35_000 < 52
