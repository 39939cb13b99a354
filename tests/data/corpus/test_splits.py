"""Which documents validate, and where chunks end."""

import random

import pytest

from bert_jax.data.corpus import splits
from bert_jax.data.text.sources import Document
from bert_jax.errors import UserError


def documents(count, size=100, first=0):
  numbers = range(first, first + count)
  return [Document(f"Document {number}. ".ljust(size, "x"), "made", number) for number in numbers]


def chunks(made, fraction=0.2, objective="nsp", chunk_bytes=1000, files=None):
  return list(
    splits.make_chunks(
      made,
      validation_fraction=fraction,
      objective=objective,
      chunk_bytes=chunk_bytes,
      files={} if files is None else files,
    )
  )


def texts_of(made, split):
  return [text for chunk in made if chunk.split == split for text in chunk.texts]


def test_every_document_is_in_one_chunk_in_reading_order():
  made = chunks(documents(200))
  for split in ("train", "validation"):
    own = sorted((chunk for chunk in made if chunk.split == split), key=lambda chunk: chunk.shard)
    assert [chunk.shard for chunk in own] == list(range(len(own)))
    numbers = [number for chunk in own for number in chunk.numbers]
    assert numbers == sorted(numbers)
  together = sorted((number, text) for chunk in made for number, text in zip(chunk.numbers, chunk.texts))
  assert together == [(number, one.text) for number, one in enumerate(documents(200))]


def test_chunks_are_full_and_hold_at_least_two_documents():
  for size, per_chunk in ((100, 10), (999, 2), (5000, 2)):
    made = chunks(documents(200, size))
    for split in ("train", "validation"):
      own = [chunk for chunk in made if chunk.split == split]
      assert all(len(chunk.numbers) == per_chunk for chunk in own[:-1]), (size, split)
      assert 2 <= len(own[-1].numbers) <= per_chunk + 1


def test_a_last_lone_document_joins_the_chunk_before_it():
  for count in range(4, 60):
    made = chunks(documents(count, 600))
    assert min(len(chunk.numbers) for chunk in made) >= 2
    assert sum(len(chunk.numbers) for chunk in made) == count


def test_the_share_of_validation_documents_is_about_the_one_asked_for():
  assert 150 < len(texts_of(chunks(documents(1000)), "validation")) < 250


def test_a_copy_of_a_document_lands_on_the_same_side():
  made = chunks(documents(50) + documents(50) + documents(300, first=50) + documents(50))
  train, validation = (set(texts_of(made, split)) for split in ("train", "validation"))
  assert train and validation and not train & validation


@pytest.mark.parametrize("fraction", [1e-6, 0.999999])
def test_both_splits_get_two_documents_whatever_the_share(fraction):
  made = chunks(documents(20), fraction=fraction)
  sizes = sorted(len(texts_of(made, split)) for split in ("train", "validation"))
  assert sizes == [2, 18]


def test_the_split_of_a_document_does_not_depend_on_its_place():
  many = documents(100)
  one = set(texts_of(chunks(many, chunk_bytes=10**6), "validation"))
  other = set(texts_of(chunks(many[::-1], chunk_bytes=10**6), "validation"))
  assert one == other


@pytest.mark.parametrize("count", [1, 2, 3])
def test_too_few_documents_for_nsp_are_refused_with_the_remedy(count):
  with pytest.raises(UserError, match=f"at least 4 different documents.*found {count};.*--objective=sop or none"):
    chunks(documents(count))


def test_copies_do_not_count_as_documents():
  with pytest.raises(UserError, match="found 1"):
    chunks(documents(1) * 50)


def test_no_text_is_refused():
  with pytest.raises(UserError, match="no text"):
    chunks([])


@pytest.mark.parametrize("objective", ["none", "sop"])
@pytest.mark.parametrize("count", [2, 3, 4])
def test_objectives_that_mix_no_documents_need_only_one_for_each_split(count, objective):
  made = chunks(documents(count), fraction=0.01, objective=objective)
  assert len(texts_of(made, "validation")) == (1 if count < 4 else 2)
  assert len(texts_of(made, "train")) == count - len(texts_of(made, "validation"))


@pytest.mark.parametrize("objective", ["none", "sop"])
def test_a_piece_of_a_lone_document_validates_and_its_neighbours_are_in_neither_split(objective):
  sentences = [f"Sentence {number}." for number in range(100)]
  made = chunks([Document("\n".join(sentences), "book", 1)], fraction=0.05, objective=objective)
  assert {split for split, *_ in made} == {"train", "validation"}
  held = "\n".join(texts_of(made, "validation")).split("\n")
  trained = "\n".join(texts_of(made, "train")).split("\n")
  first, last = sentences.index(held[0]), sentences.index(held[-1])
  assert held == sentences[first : last + 1] and 4 <= len(held) <= 7
  assert not {*sentences[max(first - 1, 0) : last + 2]} & {*trained} and len(trained) >= 85
  with pytest.raises(UserError, match="at least two sentences"):
    chunks([Document("One sentence.", "book", 1)], objective=objective)
  assert texts_of(chunks([Document("One. Two.", "book", 1)], objective=objective), "validation") == ["Two."]


def novel(name, size, seed, end=". "):
  rng = random.Random(seed)
  words = [f"{name}{number}" for number in range(500)]
  text = ""
  while len(text) < size:
    text += " ".join(rng.choices(words, k=rng.randint(4, 20))) + end
  return Document(text.strip(), name, 1)


def shares(made):
  """The held-out share of the text that is in a split."""
  train, validation = (sum(map(len, texts_of(made, split))) for split in ("train", "validation"))
  return validation / (train + validation)


_FEW = {
  "nine novels": [novel(f"n{number}", 60_000 + 9_000 * number, number) for number in range(9)],
  "three": [novel(f"n{number}", 100_000, number) for number in range(3)],
  "two": [novel(f"n{number}", 100_000 * (1 + number), number) for number in range(2)],
  "one": [novel("n", 200_000, 0)],
  "no stops": [novel(f"n{number}", 60_000, number, end=" ") for number in range(6)],
  "lines": [novel(f"n{number}", 60_000, number, end="\n") for number in range(6)],
  "neither stops nor spaces": [
    one._replace(text=one.text.replace(" ", ""))
    for one in (novel(f"好{number}", 60_000, number, end=" ") for number in range(5))
  ],
  "a long one and short ones": [novel("n", 400_000, 0), *(novel(f"s{number}", 800, number) for number in range(200))],
  "twelve articles": [novel(f"a{number}", 9_000, number) for number in range(12)],
}


@pytest.mark.parametrize("name", _FEW)
@pytest.mark.parametrize("fraction", [0.05, 0.2])
def test_of_few_documents_pieces_validate_and_the_share_is_the_one_asked_for(name, fraction):
  made = chunks(_FEW[name], fraction=fraction, objective="nsp" if name != "one" else "sop", chunk_bytes=10**6)
  assert shares(made) == pytest.approx(fraction, rel=0.2)
  for chunk in made:
    assert name == "one" or len(set(chunk.numbers)) >= 2


def test_the_text_beside_a_piece_is_in_neither_split():
  for one, other in zip(_FEW["nine novels"], range(9)):
    made = chunks(_FEW["nine novels"], fraction=0.05, chunk_bytes=10**7)
    held, *_ = (text for text in texts_of(made, "validation") if text in one.text)
    begin, end = one.text.index(held), one.text.index(held) + len(held)
    trained = [text for text in texts_of(made, "train") if text in one.text]
    for text in trained:
      place = one.text.index(text)
      assert place + len(text) < begin - 200 or place > end + 200, other
    # What is in neither split is but the gaps.
    assert len(one.text) - len(held) - sum(map(len, trained)) < 2_000


def test_a_copy_of_a_long_document_is_cut_in_the_same_places():
  made = chunks(_FEW["three"] + _FEW["three"], fraction=0.05, chunk_bytes=10**7)
  held = texts_of(made, "validation")
  assert len(held) == 6 and len(set(held)) == 3


def test_many_documents_are_split_as_before_however_long():
  many = [novel(f"n{number}", 25_000, number) for number in range(300)]
  made = chunks(many, fraction=0.05, chunk_bytes=10**7)
  assert sum(len(chunk.texts) for chunk in made) == 300
  # Those of the first chunk's worth alone would be few; that there are more, the size of the sources tells.
  made = list(
    splits.make_chunks(
      many, validation_fraction=0.05, objective="nsp", chunk_bytes=200_000, files={}, total_bytes=300 * 25_000
    )
  )
  assert sum(len(chunk.texts) for chunk in made) == 300


def test_the_objective_changes_no_chunk():
  made = {objective: chunks(documents(50), objective=objective) for objective in ("nsp", "sop", "none")}
  assert made["nsp"] == made["sop"] == made["none"]


def test_every_document_takes_its_file_and_line_along():
  files = {}
  made = chunks([one._replace(file=f"file {number // 20}") for number, one in enumerate(documents(50))], files=files)
  assert files == {"file 0": 0, "file 1": 1, "file 2": 2}
  origins = {number: origin for chunk in made for number, origin in zip(chunk.numbers, chunk.origins, strict=True)}
  assert origins == {number: (number // 20, number) for number in range(50)}


def test_memory_does_not_grow_with_the_stream():
  read = 0

  def stream():
    nonlocal read
    for one in documents(20_000):
      read += len(one.text)
      yield one

  done = most = 0
  made = splits.make_chunks(stream(), validation_fraction=0.1, objective="nsp", chunk_bytes=10_000, files={})
  for chunk in made:
    most = max(most, read - done)  # what is held: two chunks of each split
    done += chunk.num_bytes
  assert done == read == 2_000_000 and most < 50_000
