"""Templates, read from post-processors: what is framed is what `tokenizers` frames, and comes out of it again."""

import ast
import pathlib

import numpy as np
import pytest
from tokenizers import processors

from bert_jax.data.tokenizer.template import ABSENT, SpecialIds, read_template
from bert_jax.data.tokenizer.wordpiece import SPECIAL_TOKENS, build_tokenizer

TOKENIZER = build_tokenizer([*SPECIAL_TOKENS, "<s>", "</s>", *"abcdefgh", "##ing", "##"], lowercase=True)
ID = TOKENIZER.backend.get_vocab()
A, B = [ID[letter] for letter in "abc"], [ID[letter] for letter in "de"]

# Family: (single, pair) as TemplateProcessing writes them; all from transformers.
FAMILIES = {
  "BERT": ("[CLS]:0 $A:0 [SEP]:0", "[CLS]:0 $A:0 [SEP]:0 $B:1 [SEP]:1"),
  "RoBERTa": ("<s> $A </s>", "<s> $A </s> </s> $B:0 </s>:0"),
  "T5": ("$A </s>", "$A </s> $B:0 </s>:0"),
  "XLNet": ("$A:0 [SEP]:0 [CLS]:2", "$A:0 [SEP]:0 $B:1 [SEP]:1 [CLS]:2"),
  "GPT-2": ("$A", "$A $B:1"),
}


def template_of(family, special=TOKENIZER.special):
  """The template of a tokenizer that frames as `family` does, and the tokenizer."""
  backend = build_tokenizer(sorted(ID, key=ID.get), lowercase=True).backend
  single, pair = FAMILIES[family]
  tokens = [(token, ID[token]) for token in ("[CLS]", "[SEP]", "<s>", "</s>")]
  backend.post_processor = processors.TemplateProcessing(single=single, pair=pair, special_tokens=tokens)
  return read_template(backend, special), backend


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("texts", [["abc"], ["abc", "de"], ["h", "abcdefgh"]])
def test_texts_are_framed_as_the_tokenizer_frames_them(family, texts):
  texts = [" ".join(text) for text in texts]
  template, backend = template_of(family)
  expected = backend.encode(*texts)
  first, *second = [backend.encode(text, add_special_tokens=False).ids for text in texts]
  ids, types = template.frame(first, *second)
  assert (ids, types) == (expected.ids, expected.type_ids)
  pair = bool(second)
  assert len(ids) == len(first) + sum(map(len, second)) + template.room(pair)
  begins = [expected.sequence_ids.index(number) for number in range(len(texts))]
  assert [template.offset, template.first_length(len(first), pair)][: len(texts)] == begins


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("second", [None, B, []])
def test_framed_texts_come_out_again(family, second):
  if family == "GPT-2" and second == []:
    pytest.skip("nothing marks an empty B")
  template, _ = template_of(family)
  ids, _ = template.frame(A, second)
  first, behind = template.texts(len(ids), template.first_length(len(A), pair=second is not None))
  assert (ids[first], ids[behind]) == (A, second or [])


@pytest.mark.parametrize("family", FAMILIES)
def test_many_are_written_as_one_is_framed(family):
  template, _ = template_of(family)
  for texts in ([[A], [B], [A + B]], [[A, B], [B, A], [A + B, B]]):
    framed = [template.frame(*one)[0] for one in texts]
    starts = np.array([2, 20, 40])
    tokens = np.zeros(60, np.uint16)
    begins = template.write(tokens, starts, *(np.array(list(map(len, side))) for side in zip(*texts)))
    for one, text_begins in zip(texts, zip(*begins)):
      for text, begin in zip(one, text_begins):
        tokens[begin : begin + len(text)] = text
    expected = np.zeros(60, np.uint16)
    for start, ids in zip(starts, framed):
      expected[start : start + len(ids)] = ids
    assert tokens.tolist() == expected.tolist() and starts.tolist() == [2, 20, 40]


def test_a_pair_loses_the_end_of_its_longer_text_until_it_fits():
  template = TOKENIZER.template
  assert template.truncate([1] * 9, [2] * 3, 10) == ([1] * 4, [2] * 3, True)
  assert template.truncate([1] * 9, [2] * 9, 10) == ([1] * 3, [2] * 4, True)
  assert template.truncate([1] * 9, None, 10) == ([1] * 8, [], True)
  assert template.truncate([1] * 8, [], 10) == ([1] * 8, [], False)
  assert template_of("RoBERTa")[0].truncate([1] * 9, [2] * 3, 10) == ([1] * 3, [2] * 3, True)


def test_special_tokens_are_never_predicted_whatever_role_they_have():
  assert TOKENIZER.template.never_predicted == tuple(sorted(TOKENIZER.special))
  template, _ = template_of("RoBERTa", SpecialIds(pad=0, unk=ABSENT, cls=ABSENT, sep=ABSENT, mask=4))
  assert template.never_predicted == (0, 4, ID["<s>"], ID["</s>"])


def test_pieces_continue_words_and_all_other_tokens_begin_them():
  continuing = {ID["##ing"], ID["##"]}
  assert [not TOKENIZER.starts_word(token) for token in range(len(ID))] == [
    token in continuing for token in range(len(ID))
  ]
  assert set(np.flatnonzero(~TOKENIZER.word_starts_table)) == continuing
  assert TOKENIZER.starts_word(len(ID) + 7) and TOKENIZER.token(len(ID) + 7) == f"[id {len(ID) + 7}]"


def test_nothing_but_the_tokenizer_knows_its_marks():
  """No string with "##", "[CLS]" or "[SEP]" outside data/tokenizer, but in text for people."""
  package = pathlib.Path(__file__).parents[3] / "bert_jax"
  found = []
  for path in package.rglob("*.py"):
    if "tokenizer" not in path.parts:
      values = (node.value for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Constant))
      found += [(path.name, value) for value in values if value in ("##", "[CLS]", "[SEP]")]
  assert not found
