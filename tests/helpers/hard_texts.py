"""Texts on which tokenizers differ, and the comparison of one of ours with what transformers makes of its folder."""

import random

import transformers

from bert_jax.data.tokenizer.wordpiece import load_tokenizer

_PIECES = (
  *("Naïve", "COVID19", "covid19", "xcovid19y", "[ENT]", "[ent]", "Mixed[ENT]case", "[MASK]", "[SEP]", "[CLS]"),
  *("[PAD]", "[UNK]", "[", "]", "한국어", "में", "が", "schön", "今天", "ﬁ", "ＡＢＣ", "e\u0301", "İstanbul", "ß", "ẞ"),
  *("Ω", "ﷺ", "\U0001f600", "\ufffd", "\x00", "\u200b", "\xad", "\u2028", "\u3000", "\t", "\n", "", "  ", "!", "."),
  *("##ing", "can't", "1e-5", "the", "The", "x" * 101),
)


def hard_texts(more=(), count: int = 200) -> list[str]:
  """Texts put together at random, always the same ones; `more` pieces come often."""
  draw, pieces = random.Random(0), [*_PIECES, *more, *more, *more]
  piece = lambda: draw.choice(pieces) + draw.choice(["", " "])
  return ["".join(piece() for _ in range(draw.randint(1, 9))) for _ in range(count)]


def assert_as_transformers(folder, more=()) -> None:
  """Ids, types and offsets of texts and pairs, and the special tokens, are those of AutoTokenizer."""
  ours, theirs = load_tokenizer(folder), transformers.AutoTokenizer.from_pretrained(folder)
  texts = hard_texts(more)
  for first, second in zip(texts, texts[1:] + texts[:1]):
    for text in ((first,), (first, second)):
      expected, found = theirs(*text, return_offsets_mapping=True), ours.backend.encode(*text)
      assert found.ids == expected["input_ids"], text
      assert found.type_ids == expected["token_type_ids"], text
      assert found.offsets == expected["offset_mapping"], text
  assert ours.vocab_size == len(theirs)
  assert set(ours.template.never_predicted) == set(theirs.all_special_ids)
