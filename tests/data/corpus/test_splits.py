"""Which documents validate, and where chunks end."""

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
def test_the_end_of_a_lone_document_validates(objective):
  text = "\n".join(f"Sentence {number}." for number in range(100))
  made = chunks([Document(text, "book", 1)], fraction=0.05, objective=objective)
  assert [chunk.origins for chunk in made] == [[(0, 1)], [(0, 1)]]
  assert texts_of(made, "validation") == ["\n".join(text.split("\n")[95:])]
  assert texts_of(made, "train") == ["\n".join(text.split("\n")[:95])]
  with pytest.raises(UserError, match="at least two sentences"):
    chunks([Document("One sentence.", "book", 1)], objective=objective)


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
