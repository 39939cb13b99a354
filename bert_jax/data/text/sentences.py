"""Documents to sentences: English, Chinese, a mix of the two, and every script that has stops of its own.

Next-sentence prediction needs the places where one sentence ends and the next
begins; a few wrong ones do no harm, but the rule runs over every corpus, so it
has to be fast. One regular expression finds the candidates, and only those that
a stop after an abbreviation may have caused are looked at more closely.

Nothing is lost: the sentences of a text hold all its characters but for the
white space between them.
"""

import functools
import re

# What may close behind a stop and belongs to the sentence before: quotes and brackets.
_CJK_CLOSERS = "”’」』）》】〕〉"
_CLOSERS = "\"'»)\\]}" + _CJK_CLOSERS

# The pattern opens with one plain set of characters, because that is what the regular expression engine can
# scan for quickly; the branches look back at which stop it was. Possessive repeats (*+) never give a closing
# quote back.
#
# A Latin stop ends a sentence before white space, unless the next character shows that it goes on (a small
# letter, a comma …); right before a Chinese character it needs no space. A Chinese stop ends one anywhere,
# except before punctuation that goes on: “好！”，他说。 Only the first of several stops is tried, or a long row of
# them takes quadratic time.
#
# A stop of another script ends one anywhere, except inside a number or before punctuation that goes on; the stops
# behind it, and the number of a verse between two of them (॥ १ ॥), belong to it.

# What else has the property Sentence_Terminal in Unicode 17, and the Tibetan shad, which ends sentences without it.
# Left out: U+2024 and U+FE52, which stand in names and numbers more often. So does U+FF0E, but behind hiragana.
_OTHER = """
  589 61d-61f 6d4 700-702 7f9 837 839 83d-83e 964-965 f0d-f0e 104a-104b 1362 1367-1368 166e 1735-1736
  17d4-17d5 1803 1809 1944-1945 1aa8-1aab 1b4e-1b4f 1b5a-1b5b 1b5e-1b5f 1b7d-1b7f 1c3b-1c3c 1c7e-1c7f
  2cf9-2cfb a4ff a60e-a60f a6f3 a6f7 a876-a877 a8ce-a8cf a92f a9c8-a9c9 aa5d-aa5f aaf0-aaf1 abeb 10a56-10a57
  10f55-10f59 10f86-10f89 11047-11048 110be-110c1 11141-11143 111c5-111c6 111cd 111de-111df 11238-11239
  1123b-1123c 112a9 113d4-113d5 1144b-1144c 115c2-115c3 115c9-115d7 11641-11642 1173c-1173e 11944 11946
  11a42-11a43 11a9b-11a9c 11c41-11c42 11ef7-11ef8 11f43-11f44 16a6e-16a6f 16af5 16b37-16b38 16b44 16d6e-16d6f
  16e98 1bc9f 1da88
"""


def _code_points(ranges: str) -> str:
  """The characters of "964-965 6d4", ranges in hexadecimal digits."""
  ends = [[int(end, 16) for end in one.split("-")] for one in ranges.split()]
  return "".join(chr(point) for span in ends for point in range(span[0], span[-1] + 1))


_RARE = {"latin": "‼‽⁇⁈⁉⸮⸼⹓⹔\u2e60\u2e61", "chinese": "︒︕︖﹖﹗．", "other": _code_points(_OTHER)}
_RARE_STOPS = frozenset("".join(_RARE.values()))
ALL_STOPS = _RARE_STOPS | set(".!?…。！？；｡")
_NONE: frozenset[str] = frozenset()


@functools.lru_cache(64)
def _candidates(rare: frozenset[str]) -> re.Pattern:
  """Where sentences may end in a text with these rare stops; to scan for all of them takes five times as long."""
  own = {kind: "".join(sorted(rare.intersection(stops))) for kind, stops in _RARE.items()}
  latin, chinese, other = ".!?…" + own["latin"], "。！？；｡" + own["chinese"], own["other"]
  stops = latin + chinese + other
  pattern = (
    rf"[{stops}](?<![{stops}].)(?:"
    rf"(?<=[{latin}])(?P<latin>[{stops}]*+[{_CLOSERS}]*+)"
    r"(?:\s++(?![a-zß-öø-ÿ,;:.!?…)\]}%，、：；])"
    rf"|(?<=[!?…{chinese}{_CJK_CLOSERS}])(?=[\u2e80-\u9fff“‘「『《（])(?![，、：；])"
    r"|(?<=[\u2e80-\u9fff]\.)(?=[\u2e80-\u9fff])"
    rf"|(?<=[{chinese}])(?![，、：,:;；]))"
    rf"|(?<=[{chinese}])(?<![^\u3041-\u309f]．)"
    rf"[{stops}]*+[{_CJK_CLOSERS}]*+(?P<straight>[\"']*+)\s*+(?![，、：,:;；])"
  )
  if other:
    pattern += (
      rf"|(?<=[{other}])(?<!។ល.)[{other}!?.…]*+(?:\s?\d{{0,4}}\s?[{other}]++(?!\d))?+[{_CLOSERS}]*+"
      r"(?:\s++|(?!\d))(?![,;:،؛，、：；]|ល។)"
    )
  return re.compile(pattern + ")")


# Never the end of a sentence: a name or an example follows.
_BEFORE_NAMES = frozenset(
  [
    "mr",
    "mrs",
    "ms",
    "mme",
    "mlle",
    "messrs",
    "dr",
    "prof",
    "rev",
    "hon",
    "gen",
    "col",
    "lt",
    "capt",
    "cmdr",
    "sgt",
    "maj",
    "adm",
    "gov",
    "sen",
    "rep",
    "pres",
    "st",
    "mt",
    "ft",
    "e.g",
    "eg",
    "i.e",
    "ie",
    "cf",
    "vs",
    "v",
    "viz",
    "resp",
    "approx",
    "ca",
    "fig",
    "figs",
    "eq",
    "eqs",
    "sec",
    "secs",
    "ref",
    "refs",
    "ch",
    "chap",
    "tab",
    "al",
    "डॉ",
    "प्रो",
    "पं",
  ]
)

# Not the end before a number.
_BEFORE_NUMBERS = frozenset(
  [
    "no",
    "nos",
    "p",
    "pp",
    "vol",
    "vols",
    "art",
    "sect",
    "pt",
    "para",
    "jan",
    "feb",
    "mar",
    "apr",
    "jun",
    "jul",
    "aug",
    "sep",
    "sept",
    "oct",
    "nov",
    "dec",
    "nr",
    "op",
    "bk",
    "ver",
    "v",
    "version",
  ]
)

# The end only where a word follows that commonly opens a sentence.
_MAYBE_LAST = frozenset(
  [
    "jr",
    "sr",
    "inc",
    "ltd",
    "co",
    "corp",
    "bros",
    "etc",
    "esq",
    "ph.d",
    "m.d",
    "b.a",
    "m.a",
    "b.sc",
    "m.sc",
    "dept",
    "univ",
    "est",
  ]
)
_OPENERS = frozenset(
  [
    "the",
    "a",
    "an",
    "this",
    "that",
    "these",
    "those",
    "it",
    "its",
    "he",
    "she",
    "they",
    "we",
    "i",
    "you",
    "his",
    "her",
    "their",
    "our",
    "my",
    "your",
    "in",
    "on",
    "at",
    "by",
    "for",
    "from",
    "with",
    "as",
    "to",
    "of",
    "when",
    "while",
    "where",
    "if",
    "after",
    "before",
    "since",
    "during",
    "there",
    "here",
    "however",
    "but",
    "and",
    "or",
    "so",
    "then",
    "thus",
    "hence",
    "also",
    "although",
    "though",
    "because",
    "what",
    "who",
    "why",
    "how",
    "no",
    "not",
    "some",
    "many",
    "most",
    "all",
    "both",
    "each",
    "one",
    "two",
    "such",
    "other",
    "another",
    "according",
    "despite",
    "under",
    "until",
  ]
)

_LAST_WORD = re.compile(r"[^\s\"'“‘(\[{—–/]*$")
_NEXT_WORD = re.compile(r"[\s\"'“‘(\[{]*([\w’']*)")
_LETTERS_WITH_STOPS = re.compile(r"(?:[A-Za-z]\.)+[A-Za-z]$")
_ENUMERATOR = re.compile(r"[(\[]?(?:\d{1,3}|[A-Za-z]|[ivxIVX]{1,4}|\d{1,2}(?:\.\d{1,2})+)[)\]]?$")


def split_sentences(text: str) -> list[str]:
  """Splits a document into sentences.

  A newline is always a boundary. Sentences come without surrounding white space
  and are never empty; what is inside them is as it was. A text without any stop
  is one sentence, however long.

  Args:
    text: the document.

  Returns:
    The sentences, in order. Example: 'Dr. Li came. 他走了。' gives ['Dr. Li came.', '他走了。'].
  """
  sentences = []
  candidates = _candidates(_NONE if text.isascii() else _RARE_STOPS.intersection(text))
  for line in text.splitlines():
    start = 0
    for found in candidates.finditer(line):
      end = found.end()
      latin, straight = found.groups()
      if latin == "" and line[found.start()] == ".":
        if not _is_end(line, start, found.start(), end):
          continue
      elif straight:
        end = _after_straight_quotes(line, start, found)
      sentence = line[start:end].strip()
      if sentence:
        sentences.append(sentence)
      start = end
    rest = line[start:].strip()
    if rest:
      sentences.append(rest)
  return sentences


def _is_end(line: str, start: int, stop: int, end: int) -> bool:
  """Whether the full stop at `stop` ends the sentence that began at `start`, rather than an abbreviation."""
  # The longest abbreviation is short: no need to look further back.
  found = _LAST_WORD.search(line, max(start, stop - 12), stop)
  assert found  # it may be empty
  word = found[0]
  size = len(word)
  if size > 7:
    return True
  lower = word.lower()
  # An initial, or letters with stops between them; a single Chinese character is neither.
  is_initial = size == 1 and word.isalpha() and word < "\u2e80"
  if is_initial or size > 1 and word[1] == "." and _LETTERS_WITH_STOPS.match(word):
    if lower in _BEFORE_NAMES or lower in _BEFORE_NUMBERS and line[end : end + 1].isdigit():
      return False
    return not _is_start(line, start, stop) and _opens_sentence(line, end)
  if lower in _BEFORE_NAMES:
    return False
  if lower in _BEFORE_NUMBERS:
    return not line[end : end + 1].isdigit()
  if lower in _MAYBE_LAST:
    return _opens_sentence(line, end)
  return not _is_start(line, start, stop)


def _is_start(line: str, start: int, stop: int) -> bool:
  """Whether all that stands before the stop is the number of a list item: '1.', '(a).', 'IV.'"""
  return stop - start < 12 and bool(_ENUMERATOR.match(line[start:stop].strip()))


def _opens_sentence(line: str, position: int) -> bool:
  found = _NEXT_WORD.match(line, position)
  assert found  # it may be empty
  word = found[1]
  # "I" is an initial as often as a pronoun when a stop follows it.
  return word.lower() in _OPENERS and line[position + len(word) : position + len(word) + 1] != "."


def _after_straight_quotes(line: str, start: int, found: re.Match) -> int:
  """Where a sentence ends whose Chinese stop is followed by straight quotes, which open and close alike.

  They close when the sentence holds an opening one, else they belong to the next sentence.
  """
  quotes = found.start("straight")
  return found.end() if line.count(line[quotes], start, quotes) % 2 else quotes
