"""Words with tags: the lines of CoNLL files, whose columns have no names, and the schemes that tags are written in.

A file of words and tags may count its words, repeat the name of its document, hold comments, parts of speech, chunks or
nested entities, and put its columns in any order. Which column holds what is found out where only one answer is
possible, and asked where there are several: `--text=N --label=N`, columns counted from 0.
"""

import collections
import re
from collections.abc import Sequence
from typing import NamedTuple

from bert_jax.data.labelled.label_cells import check_spelling
from bert_jax.data.text.text_files import read_whole
from bert_jax.errors import UserError

# An entity's begin, inside, end, or single word: IOB, BIOES, BMES, BILOU, BMEWO.
_ENDS, _SINGLES = "EL", "SUW"
_TAG = re.compile(rf"O|[BIM{_ENDS}{_SINGLES}]-.+")
_SEVERAL = re.compile(rf"[|,;+/&]\s*(?:O$|[BIM{_ENDS}{_SINGLES}]-)")  # tags of nested entities in one cell
# Of the chunks of CoNLL-2000, which stand beside the entities of CoNLL-2003.
_CHUNKS = frozenset(["NP", "VP", "PP", "ADJP", "ADVP", "SBAR", "PRT", "CONJP", "INTJ", "LST", "UCP"])
_RANGE = re.compile(r"\d+[-.]\d+")  # CoNLL-U: words that are written as one, and words that are not written
_SETTING = re.compile(r"#\s*[\w:.-]+\s*=")  # a comment of CoNLL-U
_LANGUAGE = re.compile(r"[a-z]{2,3}(?:-[a-z]+)*:(?=.)")
_DOCUMENT = "-DOCSTART-"
_FEW, _MANY = 100, 4  # parts of speech have so few different values, and words so many times as many
_ASK = "say which columns hold words and tags, counted from 0: --text=N --label=N"

Row = tuple[int, list[str]]  # number of the line, cells


class Tagged(NamedTuple):
  """Sentences: their words, a tag of IOB2 for each, and what people are told of the file."""

  words: list[list[str]]
  tags: list[list[str]]
  notes: tuple[str, ...]


def read_conll(path: str, text: str = "", label: str = "") -> Tagged:
  """Words and tags of a file with a word on each line and an empty line between sentences.

  Args:
    path: columns are separated by tabs or spaces.
    text, label: numbers of the columns, from 0; empty: they are found out.

  Raises:
    UserError: naming the line: no columns, other columns than most lines, what is no tag; or a file whose columns
      may be read in several ways.
  """
  sentences, comments = _sentences(path)
  if not sentences:
    raise UserError(f"{path} holds no words")
  width = _check_width(path, [row for sentence in sentences for row in sentence])
  sentences, unwritten = _without_ranges(path, sentences, width)
  rows = [row for sentence in sentences for row in sentence]
  tag_column = _number(path, label, "--label", width) if label else _find_tags(path, rows, width)
  for number, cells in rows:
    check_tag(cells[tag_column], f"{path}:{number}")
  check_spelling([cells[tag_column][2:] for _, cells in rows], [number for number, _ in rows], path)
  word_column = _number(path, text, "--text", width) if text else _find_words(path, sentences, tag_column)
  nameless = next((number for number, cells in rows if not cells[word_column]), None)
  if nameless is not None:
    raise UserError(f"{path}:{nameless}: column {word_column}, where the word stands, is empty")
  notes = [f"{comments:,} comment lines of {path} are passed over"] * bool(comments)
  if unwritten:
    notes.append(f"{unwritten:,} lines of {path} are ranges of words, or words that are not written, and are left out")
  if not (text or label) and (word_column, tag_column) != (0, width - 1):
    notes.append(f"words are column {word_column} of {path}, tags column {tag_column}, counted from 0")
  words = [[cells[word_column] for _, cells in sentence] for sentence in sentences]
  tags = [iob2([cells[tag_column] for _, cells in sentence]) for sentence in sentences]
  # Weibo's files number the characters of a word after each of them: a digit after every one.
  if all(len(word) >= 2 and word[-1].isdigit() for sentence in words for word in sentence):
    words = [[word[:-1] for word in sentence] for sentence in words]
  # WikiAnn's files have the language in front of every word.
  prefixes = {(_LANGUAGE.match(word) or ("",))[0] for sentence in words for word in sentence}
  if len(rows) > 1 and len(prefixes) == 1 and (prefix := prefixes.pop()):
    words = [[word.removeprefix(prefix) for word in sentence] for sentence in words]
    notes.append(f"{prefix!r} in front of every word of {path} is none of it, and is left out")
  return Tagged(words, tags, tuple(notes))


def check_tag(tag: str, where: str) -> None:
  """Raises UserError, naming the place, for what is no tag, or several."""
  if not _TAG.fullmatch(tag):
    raise UserError(f"{where}: the tag {tag!r}: expected O, or B, I, M, E, L, S, U or W with a type, as B-PER")
  if _SEVERAL.search(tag):
    raise UserError(f"{where}: the tag {tag!r} names several entities; nested ones are not learned: leave one of them")


def iob2(tags: Sequence[str]) -> list[str]:
  """Tags in which every entity begins with B and continues with I, of any scheme that `check_tag` takes."""
  result, before = [], "O"
  for tag in tags:
    letter, _, kind = tag.partition("-")
    if letter != "O":
      goes_on = letter in f"IM{_ENDS}" and before[2:] == kind and before[0] not in f"O{_ENDS}{_SINGLES}"
      result.append(f"{'I' if goes_on else 'B'}-{kind}")
    else:
      result.append("O")
    before = tag
  return result


def _sentences(path: str) -> tuple[list[list[Row]], int]:
  """The lines with a word, sentence by sentence, and the number of comments."""
  lines = [(number, line, _cells(line)) for number, line in read_whole(path)]
  widths = collections.Counter(len(cells) for _, line, cells in lines if cells and not line.startswith("#"))
  width = widths.most_common(1)[0][0] if widths else 0
  sentences: list[list[Row]] = [[]]
  comments = 0
  for number, line, cells in lines:
    if line.startswith("#") and _is_comment(line, cells, width):
      comments += 1
    elif not cells or _DOCUMENT in cells[:2]:
      sentences.append([])
    else:
      sentences[-1].append((number, cells))
  return [sentence for sentence in sentences if sentence], comments


def _cells(line: str) -> list[str]:
  """Of spaces only the plain one separates: the word may be a wide one, as in Chinese texts."""
  line = line.rstrip(" \t")
  if "\t" in line:
    return [cell.strip(" ") for cell in line.split("\t")]
  return [cell for cell in line.split(" ") if cell] if line.strip() else []


def _is_comment(line: str, cells: list[str], width: int) -> bool:
  """Of a line that begins with #, which may be a word, too: a hashtag."""
  return len(cells) != width or bool(_SETTING.match(line)) or not any(map(_TAG.fullmatch, cells[1:]))


def _check_width(path: str, rows: list[Row]) -> int:
  (width, _), *_ = collections.Counter(len(cells) for _, cells in rows).most_common(1)
  for number, cells in rows:
    if len(cells) < 2:
      raise UserError(
        f"{path}:{number}: {' '.join(cells)[:60]!r}: expected a word and its tag, separated by a tab or a space"
      )
    if len(cells) != width:
      raise UserError(f"{path}:{number}: {len(cells)} columns, and most lines have {width}")
  return width


def _number(path: str, given: str, flag: str, width: int) -> int:
  if not given.isascii() or not given.isdigit() or int(given) >= width:
    raise UserError(f"{flag}={given}: the columns of {path} have no names: give a number from 0 to {width - 1}")
  return int(given)


def _find_tags(path: str, rows: list[Row], width: int) -> int:
  """The column of tags: the last one, if no other one may be meant. Raises UserError."""
  cells_of = [[cells[column] for _, cells in rows] for column in range(width)]
  types_of = {}  # of columns that hold nothing but tags
  for column, cells in enumerate(cells_of):
    types = {cell[2:] for cell in set(cells) if cell != "O"}
    if types and all(map(_TAG.fullmatch, set(cells))):
      types_of[column] = types
  last = width - 1
  if sum(map(bool, map(_TAG.fullmatch, cells_of[last]))) >= len(rows) / 2:
    types_of.setdefault(last, set())  # one that holds something else, too, is named by its line
  tagged = [column for column, types in types_of.items() if column == last or len(types_of) == 1 or types - _CHUNKS]
  if len(tagged) > 1:
    one, other = tagged[:2]
    differ = next((number for number, cells in rows if cells[one] != cells[other]), rows[0][0])
    raise UserError(
      f"{path}:{differ}: columns {', '.join(map(str, tagged))} all hold tags, as those of nested entities; only one "
      f"layer of them is learned: {_ASK}"
    )
  return tagged[0] if tagged else last


def _find_words(path: str, sentences: list[list[Row]], tag_column: int) -> int:
  """The column of words: the first that neither counts nor repeats itself. Raises UserError."""
  rows = [cells for sentence in sentences for _, cells in sentence]
  width = len(rows[0])
  may_be = [column for column in range(width) if column != tag_column]
  if width > 2:
    may_be = [column for column in may_be if not _says_where(sentences, column)]
  before = [column for column in may_be if column < tag_column]
  if not before and len(may_be) != 1:
    raise UserError(f"{path}:{sentences[0][0][0]}: no column before the tags holds words; {_ASK}")
  chosen = before or may_be
  different = [len({cells[column] for cells in rows}) for column in chosen]
  if different[0] <= _FEW and max(different) > _MANY * different[0] and len(rows) > _FEW:
    raise UserError(
      f"{path}:{sentences[0][0][0]}: column {chosen[0]} has only {different[0]} different values, as parts of speech "
      f"have, and another one {max(different):,}; {_ASK}"
    )
  return chosen[0]


def _says_where(sentences: list[list[Row]], column: int) -> bool:
  """Whether a column says where a word stands: the number of the word, or that of its sentence, or its document."""
  cells_of = [[cells[column] for _, cells in sentence] for sentence in sentences]
  if sum(map(len, cells_of)) > 1 and len({re.sub(r"\d+", "0", cell) for cells in cells_of for cell in cells}) == 1:
    return True
  longer = [cells for cells in cells_of if len(cells) > 1]
  return len(longer) > 1 and all(len(set(cells)) == 1 for cells in longer)


def _without_ranges(path: str, sentences: list[list[Row]], width: int) -> tuple[list[list[Row]], int]:
  """Sentences without the lines of CoNLL-U that stand beside their words, and the number of such lines."""
  index = [column for column in range(width) if _is_index(sentences, column)]
  if index and width == 2:
    raise UserError(f"{path}:{sentences[0][0][0]}: column {index[0]} counts the words, and no column holds them")
  is_word = lambda cells: not any(_RANGE.fullmatch(cells[column]) for column in index)
  kept = [[row for row in sentence if is_word(row[1])] for sentence in sentences]
  return [sentence for sentence in kept if sentence], sum(map(len, sentences)) - sum(map(len, kept))


def _is_index(sentences: list[list[Row]], column: int) -> bool:
  """Whether a column counts the words of every sentence, ranges aside."""
  counted = [[cells[column] for _, cells in sentence if not _RANGE.fullmatch(cells[column])] for sentence in sentences]
  from_0_or_1 = lambda cells: cells in ([str(n) for n in range(len(cells))], [str(n + 1) for n in range(len(cells))])
  return max(map(len, counted)) > 1 and all(map(from_0_or_1, counted))
