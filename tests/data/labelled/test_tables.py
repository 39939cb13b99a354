"""tables.py: rows as they stand in the file, and what is wrong with a file by its line."""

import gzip

import pytest

from bert_jax.data.labelled.tables import read_table
from bert_jax.errors import UserError


@pytest.fixture
def file(tmp_path):
  def write(name, content):
    path = tmp_path / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return str(path)

  return write


def test_quotes_of_csv_hold_commas_quotes_and_line_ends(file):
  table = read_table(file("a.csv", 'text,label\n"one, two",x\n"she said ""no""",y\n"first\nsecond",z\n'), ["text"])
  assert table.columns == ("text", "label") and table.column("text") == ["one, two", 'she said "no"', "first\nsecond"]
  assert table.lines == [2, 3, 4]


def test_quotes_of_tsv_are_text(file):
  table = read_table(file("a.tsv", 'text\tlabel\n"half a quote\t1\nsay "no"\t0\n'), ["text"])
  assert table.column("text") == ['"half a quote', 'say "no"']


@pytest.mark.parametrize(
  "names, columns, rows",
  [
    ((), ("0", "1"), 3),
    (("text",), ("text", "label"), 2),
    (("sentence", "text", "1"), ("text", "label"), 2),
    (("sentence", "1"), ("0", "1"), 3),  # none of the names is there, but a number may be meant
    (("sentence",), ("text", "label"), 2),  # a name alone: the first line is the header, and lists what there is
  ],
)
def test_the_first_line_is_a_header_where_one_of_its_names_is_asked_for(file, names, columns, rows):
  table = read_table(file("a.tsv", "text\tlabel\na\t1\nb\t0\n"), names)
  assert table.columns == columns and len(table.rows) == rows


@pytest.mark.parametrize(
  "content",
  [
    '{"a": "x", "b": 1}\n\n{"a": "y", "b": 2}\n',
    '[{"a": "x", "b": 1},\n {"a": "y", "b": 2}]',
    '[{"a": "x", "b": 1}, {"a": "y", "b": 2}]',
    '{"0": {"a": "x", "b": 1},\n "1": {"a": "y", "b": 2}}',
    '{"0": {"a": "x", "b": 1}, "1": {"a": "y", "b": 2}}',
  ],
)
def test_json_is_lines_or_an_array_or_an_object_of_objects(file, content):
  table = read_table(file("a.json", content))
  assert table.columns == ("a", "b") and table.rows == [["x", "1"], ["y", "2"]]


def test_json_values_become_text(file):
  assert read_table(file("a.jsonl", '{"a": null, "b": ["x", "y"], "c": 1.5, "d": true}\n')).rows == [
    ["", '["x", "y"]', "1.5", "true"]
  ]


def test_compressed_files_and_byte_order_marks_are_read(file):
  path = file("a.tsv.gz", gzip.compress("﻿text\tlabel\n你好\t1\n".encode()))
  assert read_table(path, ["text"]).column("text") == ["你好"]


def test_a_carriage_return_alone_ends_a_line_of_a_csv_and_stays_within_quotes(file):
  table = read_table(file("a.csv", b'text,label\r"a\rb",1\rc,0\r'), ["text"])
  assert table.rows == [["a\nb", "1"], ["c", "0"]]


@pytest.mark.parametrize(
  "name, content, words",
  [
    ("a.tsv", b"text\tlabel\nok\t1\n\xff\xfe\t0\n", "a.tsv:3: not UTF-8"),
    ("a.tsv", b"", "is empty"),
    ("a.tsv", b"text\tlabel\n", "has a header and no rows"),
    ("a.tsv", b"text\tlabel\na\t1\nb\n", "a.tsv:3: 1 columns, the first line has 2"),
    (
      "a.csv",
      b"text,label\na, b,1\n",
      "a.csv:2: 3 columns, the first line has 2 .text, label.; a text with commas needs quotes",
    ),
    ("a.csv", b'text,label\na,1\n"b,1\nc,1\nd,1\n', "a.csv:3: not CSV: a quote is opened that is never closed"),
    ("a.csv", b'text,label\na,1\nb,"', "a.csv:3: not CSV: a quote is opened that is never closed"),
    ("a.json", b'{"a": 1}\n{"a": \n', "a.json:2: not JSON"),
    ("a.json", b'[{"a": 1},\n\n{"a": x}]\n', "a.json:3: not JSON"),
    ("a.json", b'{"a": \n', "a.json:1: not JSON"),
    ("a.json", b"[" * 5000, "a.json:1: JSON nested more than"),
    ("a.jsonl", b'{"a": "x"}\n{"a": "\\ud83d"}\n', "a.jsonl:2: 'a' holds half of a surrogate pair"),
    ("a.jsonl", b'{"a": "x", "b": {"c": ["\\udc00"]}}\n{"a": "y"}\n', "a.jsonl:1: 'b' holds half of a surrogate pair"),
    ("a.jsonl", b'{"a": "x", "\\ud83d": 1}\n', "a.jsonl:1: .* holds half of a surrogate pair"),
    ("a.jsonl", b'{"a": "x", "a": "y"}\n{"a": "y"}\n', "a.jsonl:1: .*the key 'a' stands twice"),
    ("a.jsonl", b'{"a": "x"}\n' + b'{"a":' * 100_000, "a.jsonl:2: JSON nested more than"),
    ("a.jsonl", b'{"a": "x"}\n{"a": ' + b"7" * 5000 + b"}\n", "a.jsonl:2: .*a number of 5,000 digits"),
    ("a.tsv", b"text\tlabel\nhalf \xed\xa0\xbd\t1\n", "a.tsv:2: not UTF-8"),
    ("a.parquet", b"PAR1", "a .parquet is not read; write the table as .csv"),
    ("a.json", b"3", "a.json:1: expected a JSON object"),
    ("a.json", b"[1, 2]", "a.json:1: expected a JSON object"),
  ],
)
def test_what_is_wrong_is_said_with_its_line(file, name, content, words):
  with pytest.raises(UserError, match=words):
    read_table(file(name, content), ["text"])


def test_few_lines_with_other_columns_are_left_out_and_counted(file):
  lines = (
    [f"text {number}\t{number % 2}" for number in range(298)]
    + ["short", "a\tb\t1", "empty behind\t1\t\t"]
    + ["more\t0"]
  )
  table = read_table(file("a.tsv", "\n".join(["text\tlabel", *lines])), ["text"])
  assert table.ragged == 2 and len(table.rows) == 300


def test_a_column_that_is_not_there_is_an_error_that_lists_those_that_are(file):
  with pytest.raises(UserError, match="has no column 'review'; it has: text, label"):
    read_table(file("a.tsv", "text\tlabel\na\t1\n"), ["text"]).column("review")


def test_an_error_does_not_offer_what_only_preparing_a_corpus_has(file):
  with pytest.raises(UserError) as error:
    read_table(file("a.tsv", b"text\tlabel\n\xff\t0\n"), ["text"])
  assert "skip_bad" not in str(error.value) and "iconv -f gb18030 -t utf-8 FILE > NEW" in str(error.value)


@pytest.mark.parametrize("header, names", [("0,1", ["0", "1"]), (",0,1", ["0", "1"]), ("1,2", ["1", "2"])])
def test_numbers_are_names_where_all_of_them_stand_in_the_first_line(file, header, names):
  """As pandas writes a table whose columns were never given a name."""
  cells = [f"text {n},{n % 2}" for n in range(3)]
  table = read_table(
    file(
      "a.csv", "\n".join([header, *(f"{n},{cell}" if header.startswith(",") else cell for n, cell in enumerate(cells))])
    ),
    names,
  )
  assert table.column(names[0]) == ["text 0", "text 1", "text 2"] and table.column(names[1]) == ["0", "1", "0"]
  assert read_table(table.path, names[:1]).column(names[0]) == ["text 0", "text 1", "text 2"]
  assert read_table(file("b.csv", "a film,0\nanother,1\n"), ["0"]).column("0") == [
    "a film",
    "another",
  ]  # a label is no name


def test_two_columns_of_one_name_are_not_chosen_between(file):
  table = read_table(file("a.csv", "text,label,label\na,0,1\n"), ["text", "label"])
  assert table.column("text") == ["a"]
  with pytest.raises(UserError, match="has more than one column 'label'; it has: text, label, label"):
    table.column("label")


def test_what_has_no_value_in_json_is_empty_and_what_is_no_text_is_not_read_as_one(file):
  table = read_table(
    file("a.jsonl", '{"t": NaN, "l": null, "words": ["a", "b"], "more": {"a": 1}}\n{"t": "x", "l": 1.0}\n')
  )
  assert table.column("t") == ["", "x"] and table.column("l") == ["", "1.0"]
  for column in ("words", "more"):
    with pytest.raises(UserError, match=f"the column '{column}' holds lists or objects, and texts are expected"):
      table.texts(column)
  assert table.column("words") == ['["a", "b"]', ""] and table.texts("t")  # several labels may be a list


@pytest.mark.parametrize(
  "mark, said",
  [(";", "semicolons, not by commas: save the table with commas"), ("\t", "tabs, not by commas: call the file .tsv")],
)
def test_columns_of_a_csv_that_stand_apart_otherwise_are_named(file, mark, said):
  with pytest.raises(UserError, match=f"a.csv:1: columns are separated by {said}"):
    read_table(file("a.csv", f"text{mark}label\na, b{mark}1\n"), ["text", "label"])


def test_cells_of_a_csv_may_be_long(file):
  assert len(read_table(file("a.csv", f'text,label\n"{"word, " * 50_000}",1\n'), ["text"]).column("text")[0]) == 300_000
