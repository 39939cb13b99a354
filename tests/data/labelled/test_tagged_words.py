import pytest

from bert_jax.data.labelled.tagged_words import iob2, read_conll
from bert_jax.errors import UserError

WORDS = ["Maria", "Silva", "visited", "New", "York"]
TAGS = ["B-PER", "I-PER", "O", "B-LOC", "I-LOC"]


@pytest.fixture
def read(tmp_path):
  def write_and_read(content, **columns):
    path = tmp_path / "x.conll"
    path.write_text(content)
    return read_conll(str(path), **columns)

  return write_and_read


def lines(*columns, mark="\t", sentences=3):
  """The same sentence again and again; a column is a list of cells, or one cell."""
  cells = [column if isinstance(column, list) else [column] * len(WORDS) for column in columns]
  return ("\n".join(mark.join(row) for row in zip(*cells)) + "\n\n") * sentences


NUMBERS = [str(number) for number in range(1, 6)]


@pytest.mark.parametrize("mark", ["\t", " ", "  "])
@pytest.mark.parametrize(
  "columns, words, tags",
  [
    ([NUMBERS, WORDS, "NNP", "I-NP", TAGS], 1, 4),
    ([[f"t{number}" for number in NUMBERS], WORDS, TAGS], 1, 2),
    (["bc/cctv_0001", "0", NUMBERS, WORDS, "NNP", TAGS], 3, 5),
    ([WORDS, "NNP", TAGS], 0, 2),
    ([WORDS, ["B-NP", "I-NP", "B-VP", "B-NP", "I-NP"], TAGS], 0, 2),
    ([TAGS, WORDS], 1, 0),
    ([WORDS, TAGS, "NNP"], 0, 1),
    ([NUMBERS, TAGS, WORDS], 2, 1),
  ],
)
def test_the_columns_of_words_and_tags_are_found_and_told_where_they_are_not_the_first_and_the_last(
  read, columns, words, tags, mark
):
  found = read(lines(*columns, mark=mark))
  assert found.words == [WORDS] * 3 and found.tags == [TAGS] * 3
  told = (f"words are column {words} of", f"tags column {tags}, counted from 0")
  assert all(part in " ".join(found.notes) for part in told) is ((words, tags) != (0, len(columns) - 1))


def test_the_number_of_a_document_differs_from_one_to_the_next(read):
  text = "".join(lines(name, WORDS, TAGS, sentences=2) for name in ("sports", "weather"))
  assert read(text).words == [WORDS] * 4


@pytest.mark.parametrize(
  "columns, message",
  [
    ([NUMBERS, WORDS, TAGS, ["B-ORG", "O", "O", "B-LOC", "O"]], "x.conll:1: columns 2, 3 all hold tags"),
    ([WORDS, TAGS, "O"], "x.conll:1: columns 1, 2 all hold tags"),
    ([WORDS, TAGS, TAGS], "x.conll:1: columns 1, 2 all hold tags"),
    ([NUMBERS, TAGS], "x.conll:1: column 0 counts the words, and no column holds them"),
    ([NUMBERS, "doc", TAGS], "x.conll:1: no column before the tags holds words"),
    ([TAGS, "NNP", WORDS], None),
    ([TAGS, ["A", "B", "C", "A", "B"], WORDS], "x.conll:1: no column before the tags holds words"),
    ([WORDS, "NNP"], "x.conll:1: the tag 'NNP'"),
    ([WORDS, ["B-PER|B-ORG", *TAGS[1:]]], r"x.conll:1: the tag 'B-PER\|B-ORG' names several entities"),
    ([WORDS, ["B-PER,O", *TAGS[1:]]], "x.conll:1: the tag 'B-PER,O' names several entities"),
  ],
)
def test_what_may_be_read_in_several_ways_is_asked_about(read, columns, message):
  if message is None:
    assert read(lines(*columns)).words == [WORDS] * 3
    return
  with pytest.raises(UserError, match=message):
    read(lines(*columns))


def test_numbers_of_columns_settle_what_may_be_read_in_several_ways(read):
  nested = lines(NUMBERS, WORDS, TAGS, ["B-ORG", "O", "O", "B-LOC", "O"])
  assert read(nested, label="2").tags == [TAGS] * 3 and read(nested, label="2").words == [WORDS] * 3
  assert read(nested, text="1", label="3").tags == [["B-ORG", "O", "O", "B-LOC", "O"]] * 3
  for given in ({"label": "4"}, {"text": "word", "label": "2"}, {"label": "-1"}, {"label": "٢"}):
    with pytest.raises(UserError, match="have no names: give a number from 0 to 3"):
      read(nested, **given)


def test_parts_of_speech_before_the_words_are_not_taken_for_them(read):
  words = [f"word{chr(97 + n % 26)}{chr(97 + n // 26)}" for n in range(300)]
  text = "".join(f"{'NN' if n % 3 else 'VB'}\t{word}\t{'O' if n % 2 else 'B-X'}\n" for n, word in enumerate(words))
  with pytest.raises(UserError, match="column 0 has only 2 different values, as parts of speech have"):
    read(text)
  assert read(text, text="1", label="2").words == [words]


CONLLU = """# newdoc id = a
# sent_id = 1
# text = Vámonos al mar
1-2	Vámonos	_	_	_	_
1	Vamos	ir	VERB	_	B-X
2	nos	nosotros	PRON	_	O
3-4	al	_	_	_	_
3	a	a	ADP	_	O
4	el	el	DET	_	B-LOC
5	mar	mar	NOUN	_	I-LOC
5.1	fue	ir	VERB	_	_

# sent_id = 2
1	Sí	sí	INTJ	_	O
"""


def test_comments_ranges_and_unwritten_words_of_conllu_are_passed_over_and_counted(read):
  found = read(CONLLU)
  assert found.words == [["Vamos", "nos", "a", "el", "mar"], ["Sí"]]
  assert found.tags == [["B-X", "O", "O", "B-LOC", "I-LOC"], ["O"]]
  assert "4 comment lines" in found.notes[0] and "3 lines" in found.notes[1]


@pytest.mark.parametrize(
  "text, words, comments",
  [
    ("#jax O\nis O\n\n# O\n", [["#jax", "is"], ["#"]], 0),  # a hashtag is a word
    ("# id 5239d808 domain=en\nJAX _ _ B-X\nis _ _ O\n", [["JAX", "is"]], 1),
    ("#\thttp://example.org/a [2009-10-17]\n1\tJAX\tB-X\tx\n2\tis\tO\tx\n", [["JAX", "is"]], 1),
    ("# A comment without columns\nJAX B-X\n# Another\nis O\n", [["JAX", "is"]], 2),
  ],
)
def test_a_line_with_a_hash_is_a_comment_where_it_is_no_word(read, text, words, comments):
  found = read(text)
  assert found.words == words and any(f"{comments} comment lines" in note for note in found.notes) is bool(comments)


@pytest.mark.parametrize(
  "tags, given",
  [
    (["B-X", "I-X", "I-X", "O", "B-Y", "B-Y"], ["I-X", "I-X", "I-X", "O", "I-Y", "B-Y"]),  # IOB1
    (["B-X", "I-X", "I-X", "O", "B-Y", "B-Y"], ["B-X", "I-X", "L-X", "O", "U-Y", "U-Y"]),  # BILOU
    (["B-X", "I-X", "I-X", "O", "B-Y", "B-Y"], ["B-X", "I-X", "E-X", "O", "S-Y", "S-Y"]),  # BIOES
    (["B-X", "I-X", "I-X", "O", "B-Y", "B-Y"], ["B-X", "M-X", "E-X", "O", "W-Y", "W-Y"]),  # BMEWO
    (["B-X", "I-X", "B-X", "I-X", "B-X", "B-X"], ["B-X", "L-X", "B-X", "L-X", "U-X", "I-X"]),
  ],
)
def test_every_scheme_becomes_iob2(tags, given):
  assert iob2(given) == tags


@pytest.mark.parametrize(
  "text, message",
  [
    ("a O\nb O\nc\n", "x.conll:3: 'c': expected a word and its tag"),
    ("a O\nb NN O\nc O\n", "x.conll:2: 3 columns, and most lines have 2"),
    ("a\tO\n\tB-X\n", "x.conll:2: column 0, where the word stands, is empty"),
    ("a O\nb o\nc O\n", "x.conll:2: the tag 'o'"),
    ("a O\nb B_PER\nc O\n", "x.conll:2: the tag 'B_PER'"),
    ("a O\nb B-PER\nc B-per\n", "x.conll:3: the labels 'PER' and 'per' differ only"),
    ("a O\nb B-\nc O\n", "x.conll:2: the tag 'B-'"),
    ("a,O\nb,B-X\n", "x.conll:1: 'a,O': expected a word and its tag, separated by a tab or a space"),
    ("# only\n\n", "holds no words"),
    ("", "holds no words"),
  ],
)
def test_what_is_wrong_is_said_with_its_line(read, text, message):
  with pytest.raises(UserError, match=message):
    read(text)


def test_the_language_in_front_of_every_word_is_none_of_it_and_that_is_told(read):
  found = read("en:Maria B-PER\nen:: O\n\nen:New B-LOC\nen:York I-LOC\n")
  assert found.words == [["Maria", ":"], ["New", "York"]] and "'en:' in front of every word" in found.notes[0]
  assert read("en:Maria B-PER\nsaid O\n").words == [["en:Maria", "said"]] and not read("a:b O\n").notes


def test_white_space_behind_a_tag_is_none_of_it(read):
  assert read("a\tB-X \t\r\nb\t O\n").tags == [["B-X", "O"]]
