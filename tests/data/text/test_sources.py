"""Sources to documents: what each kind reads, and what it says of input that is wrong."""

import collections
import gzip
import json
import tracemalloc

import fsspec
import pyarrow
import pytest
from pyarrow import parquet

from bert_jax.data.text import sources
from bert_jax.data.text.sources import parse_source, read_documents, source_files, source_versions
from bert_jax.errors import UserError


def read(spec, *, skip_bad=False, text_field="text"):
  counts = collections.Counter()
  documents = read_documents([parse_source(spec)], skip_bad=skip_bad, counts=counts, text_field=text_field)
  return list(documents), counts


def texts(spec, **options):
  return [document.text for document in read(spec, **options)[0]]


def write(path, text):
  path.write_text(text, encoding="utf-8")
  return path


def test_blank_lines_part_the_documents_of_a_text_file(tmp_path):
  write(tmp_path / "a.txt", "\n\nOne.\nTwo.\n \n\t\nThree.  \n\n\n")
  documents, counts = read(f"text:{tmp_path}/a.txt")
  assert [d.text for d in documents] == ["One.\nTwo.", "Three."]
  assert [(d.file, d.position) for d in documents] == [(f"{tmp_path}/a.txt", 3), (f"{tmp_path}/a.txt", 7)]
  assert documents[0].origin == f"{tmp_path}/a.txt:3"
  assert counts["documents"] == 2
  assert counts["bytes"] == len("One.\nTwo.") + len("Three.")


def test_a_document_never_spans_two_files(tmp_path):
  write(tmp_path / "a.txt", "One.")
  write(tmp_path / "b.txt", "Two.")
  assert texts(f"text:{tmp_path}/*.txt") == ["One.", "Two."]


def test_one_per_file_joins_wrapped_lines_into_paragraphs(tmp_path):
  write(
    tmp_path / "a.txt", "It was\na dark night.\n\n\nA well-\nknown man -\n- came.\n  Indented: a new\n  paragraph.\n"
  )
  assert texts(f"text+one-per-file:{tmp_path}/a.txt") == [
    "It was a dark night.\nA well-known man - - came.\nIndented: a new paragraph."
  ]


def test_one_per_file_joins_chinese_lines_without_a_space(tmp_path):
  write(tmp_path / "a.txt", "话说天下大势，\n分久必合，合久\n必分。\n\n第二段 uses\nPython 语言\n。\n")
  assert texts(f"text+one-per-file:{tmp_path}/a.txt") == [
    "话说天下大势，分久必合，合久必分。\n第二段 uses Python 语言。"
  ]


def test_one_per_file_keeps_lines_that_were_never_wrapped_apart(tmp_path):
  wide = "word " * 40
  write(tmp_path / "a.txt", f"TITLE\n{wide}\n{wide}\nshort\n")
  expected = "\n".join(["TITLE", wide.strip(), wide.strip(), "short"])
  assert texts(f"text+one-per-file:{tmp_path}/a.txt") == [expected]


def test_one_per_file_counts_empty_files(tmp_path):
  write(tmp_path / "a.txt", "One.")
  write(tmp_path / "b.txt", "\n \n")
  documents, counts = read(f"text+one-per-file:{tmp_path}/*.txt")
  assert len(documents) == 1 and counts["empty_documents"] == 1


_WIKI = """<doc id="1" url="https://x" title="A &quot;B&quot;">
A "B"

First paragraph &lt;of&gt; A &amp;amp; B.
概要.

Second.

</doc>
<doc id="2" url="https://x" title="Empty">
Empty

</doc>
<doc id="3" url="https://x" title="C">
No title here.
</doc>
"""


def test_wikiextractor_drops_titles_keeps_headings_and_counts_empty_documents(tmp_path):
  write(tmp_path / "wiki", _WIKI)
  documents, counts = read(f"wikiextractor:{tmp_path}/wiki")
  assert [d.text for d in documents] == ["First paragraph <of> A &amp; B.\n概要.\nSecond.", "No title here."]
  assert documents[1].origin == f"{tmp_path}/wiki:14"
  assert counts["empty_documents"] == 1


@pytest.mark.parametrize(
  "text, opened", [(_WIKI.replace("Second.\n\n</doc>", "Second."), 1), (_WIKI.removesuffix("</doc>\n"), 14)]
)
def test_an_unclosed_doc_names_the_line_that_opened_it(tmp_path, text, opened):
  write(tmp_path / "wiki", text)
  with pytest.raises(UserError, match=rf"wiki:{opened}: <doc> is not closed before .* at line .*--skip_bad"):
    read(f"wikiextractor:{tmp_path}/wiki")
  _, counts = read(f"wikiextractor:{tmp_path}/wiki", skip_bad=True)
  assert counts["bad_documents"] == 1 and counts["documents"] == 1


def test_text_outside_of_doc_is_not_taken_for_wikiextractor_output(tmp_path):
  write(tmp_path / "wiki", "Just text.\n" + _WIKI)
  with pytest.raises(UserError, match="wiki:1: text outside of <doc"):
    read(f"wikiextractor:{tmp_path}/wiki")


def test_jsonl_reads_the_field_text(tmp_path):
  lines = [{"text": "One.\r\n\nTwo \u4e2d\u6587."}, {"id": 3, "text": " \n"}, {"text": "Three\x00."}]
  (tmp_path / "a.jsonl.gz").write_bytes(gzip.compress("\n\n".join(map(json.dumps, lines)).encode()))
  documents, counts = read(f"jsonl:{tmp_path}/*.gz")
  assert [d.text for d in documents] == ["One.\nTwo 中文.", "Three."]
  assert documents[1].origin.endswith("a.jsonl.gz:5")
  assert counts["empty_documents"] == 1


@pytest.mark.parametrize(
  "line, message",
  [
    ("{broken", "not JSON"),
    ('["text"]', "a JSON list, not an object"),
    ('{"body": "x", "id": 1}', 'no field "text" .*body, id'),
    ('{"text": 3}', "is a int, not a string"),
    ('{"text": "\\ud800"}', "surrogate"),
    ("[" * 100_000, "not JSON"),
  ],
)
def test_bad_json_lines_name_file_and_line(tmp_path, line, message):
  write(tmp_path / "a.jsonl", f'{{"text": "fine"}}\n{line}\n{{"text": "fine too"}}\n')
  with pytest.raises(UserError, match=f"a.jsonl:2: .*{message}.*--skip_bad"):
    read(f"jsonl:{tmp_path}/a.jsonl")
  documents, counts = read(f"jsonl:{tmp_path}/a.jsonl", skip_bad=True)
  assert [d.text for d in documents] == ["fine", "fine too"] and counts["bad_lines"] == 1


def test_jsonl_reads_another_field_where_one_is_named(tmp_path):
  write(tmp_path / "a.jsonl", '{"text": "no", "body": "One."}\n{"body": null}\n{"text": "Two."}\n')
  with pytest.raises(UserError, match=r'a.jsonl:3: no field "body" \(fields: text; .*--text_field'):
    read(f"jsonl:{tmp_path}/a.jsonl", text_field="body")
  documents, counts = read(f"jsonl:{tmp_path}/a.jsonl", text_field="body", skip_bad=True)
  assert [d.text for d in documents] == ["One."] and counts["bad_lines"] == counts["empty_documents"] == 1


def test_a_field_is_refused_where_no_source_has_fields(tmp_path):
  write(tmp_path / "a.txt", "Text.")
  write(tmp_path / "a.jsonl", '{"body": "Json."}\n')
  with pytest.raises(UserError, match="--text_field=body: no source has fields; only jsonl:, parquet:, tfds: have"):
    read(f"text:{tmp_path}/a.txt", text_field="body")
  both = [parse_source(f"text:{tmp_path}/a.txt"), parse_source(f"jsonl:{tmp_path}/a.jsonl")]
  found = read_documents(both, skip_bad=False, counts=collections.Counter(), text_field="body")
  assert [d.text for d in found] == ["Text.", "Json."]


def test_what_datatrove_writes_is_read(tmp_path):
  """The lines of its JsonlWriter: text, id, metadata, in gzip by default, names by rank."""
  for rank in (0, 1):
    lines = [
      {
        "text": f"Document {rank}.\n\nA second “paragraph”.",
        "id": f"data/{rank}/7",
        "metadata": {"url": "https://example.org/?text=1", "language_score": 0.93, "text": "not this"},
      }
    ]
    data = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
    (tmp_path / f"{rank:05d}.jsonl.gz").write_bytes(gzip.compress(data.encode()))
  assert texts(f"jsonl:{tmp_path}/*.jsonl.gz") == [f"Document {rank}.\nA second “paragraph”." for rank in (0, 1)]


@pytest.mark.parametrize("kind, ampersand", [("jsonl", "&amp;"), ("wikiextractor", "&")])
def test_wikiextractors_json_output_is_read(tmp_path, kind, ampersand):
  """Its articles in JSON have no title line; wikiextractor: decodes their entities as it does in <doc> blocks."""
  url = "https://en.wikipedia.org/wiki?curid=1"
  lines = [
    {"id": "12", "revid": "1", "url": url, "title": "A", "text": "A &amp; B.\nTwo."},
    {"id": "13", "revid": "1", "url": url, "title": "Empty", "text": ""},
  ]
  write(tmp_path / "wiki_00", "".join(json.dumps(line) + "\n" for line in lines))
  documents, counts = read(f"{kind}:{tmp_path}/wiki_00")
  assert [d.text for d in documents] == [f"A {ampersand} B.\nTwo."]
  assert documents[0].origin == f"{tmp_path}/wiki_00:1" and counts["empty_documents"] == 1


def test_broken_json_among_articles_is_named(tmp_path):
  write(tmp_path / "wiki_00", '{"text": "One."}\n{"text": \n')
  with pytest.raises(UserError, match="wiki_00:2: not JSON .*; expected WikiExtractor's output"):
    read(f"wikiextractor:{tmp_path}/wiki_00")


@pytest.mark.parametrize("kind", ["text", "text+one-per-file", "wikiextractor", "jsonl"])
def test_a_source_without_a_document_is_an_error(tmp_path, kind):
  write(tmp_path / "empty", "\n\n")
  with pytest.raises(UserError, match="no text in it"):
    read(f"{kind}:{tmp_path}/empty")


def test_an_empty_source_is_named_even_behind_a_full_one(tmp_path):
  write(tmp_path / "full", "Text.")
  write(tmp_path / "empty", "")
  parsed = [parse_source(f"text:{tmp_path}/{name}") for name in ("full", "empty")]
  with pytest.raises(UserError, match="text:.*/empty"):
    list(read_documents(parsed, skip_bad=False, counts=collections.Counter()))


def test_a_missing_file_is_reported_before_anything_is_read(tmp_path):
  write(tmp_path / "full", "Text.")
  parsed = [parse_source(f"text:{tmp_path}/{name}") for name in ("full", "absent*")]
  with pytest.raises(UserError, match=r"absent\*: no such file"):
    read_documents(parsed, skip_bad=False, counts=collections.Counter())


@pytest.mark.parametrize(
  "spec, message",
  [
    ("corpus.txt", "write text:corpus.txt"),
    ("s3://a/b.txt", "write text:s3://a/b.txt"),
    ("txt:a", "did you mean text:"),
    ("text+one_per_file:a", "has no option"),
    ("jsonl+x:a", "options: none"),
    ("text:", "names nothing to read; write it as in text:corpus"),
    ("docstrings:no_such_package_here", "no package"),
    ("tfds:", "as in tfds:lm1b"),
    ("parquet:", "as in parquet:corpus"),
    ("parqet:a", "did you mean parquet:"),
  ],
)
def test_specifications_that_mean_nothing_are_refused_with_the_remedy(spec, message):
  with pytest.raises(UserError, match=message):
    read_documents([parse_source(spec)], skip_bad=False, counts=collections.Counter())


def test_the_origin_of_a_docstring_is_its_module():
  document = next(read_documents([parse_source("docstrings:absl")], skip_bad=False, counts=collections.Counter()))
  assert document.file.startswith("docstrings:absl") and document.position == 0
  assert document.origin == document.file


@pytest.mark.parametrize("kind", ["text", "text+one-per-file", "wikiextractor"])
def test_a_document_without_end_is_cut_between_lines(tmp_path, monkeypatch, kind):
  monkeypatch.setattr(sources, "MAX_DOCUMENT_CHARACTERS", 100)
  lines = [f"{'w' * 30} {number}." for number in range(10)]
  body = ("\n" if kind == "text" else "\n\n").join(lines) + "\n"
  write(tmp_path / "a", f'<doc id="1" title="T">\n{body}</doc>\n' if kind == "wikiextractor" else body)
  documents, counts = read(f"{kind}:{tmp_path}/a")
  assert max(len(d.text) for d in documents) <= 110
  assert "\n".join(d.text for d in documents).split("\n") == lines
  assert counts["split_documents"] == len(documents) - 1 == 3


_LONG_SENTENCE = "A sentence of a text that has no line end anywhere, as some tools write it. "


@pytest.fixture(scope="module")
def long_text():
  return (_LONG_SENTENCE * (50_000_000 // len(_LONG_SENTENCE) + 1)).strip()


@pytest.mark.parametrize("kind", ["text", "text+one-per-file", "wikiextractor", "jsonl", "parquet"])
def test_fifty_megabytes_on_one_line_become_several_documents(tmp_path, kind, long_text):
  path = tmp_path / "long"
  if kind == "parquet":
    parquet.write_table(pyarrow.table({"text": ["Before.", long_text, "After."]}), path)
  elif kind == "jsonl":
    write(path, "".join(json.dumps({"text": text}) + "\n" for text in ("Before.", long_text, "After.")))
  elif kind == "wikiextractor":
    write(path, "".join(f'<doc id="1" title="T">\n{text}\n</doc>\n' for text in ("Before.", long_text, "After.")))
  else:
    write(path, f"Before.\n\n{long_text}\n\nAfter.\n")
  counts = collections.Counter()
  made = list(read_documents([parse_source(f"{kind}:{path}")], skip_bad=False, counts=counts))
  pieces = [line for document in made for line in document.text.split("\n") if line not in ("Before.", "After.")]
  assert " ".join(pieces) == long_text and all(piece.endswith("it.") for piece in pieces)
  assert max(len(document.text) for document in made) <= sources.MAX_DOCUMENT_CHARACTERS + 20
  assert 11 <= counts["split_documents"] <= 13
  assert made[0].text.startswith("Before.") and made[-1].text.endswith("After.")


@pytest.mark.parametrize("kind, most", [("text", 32), ("jsonl", 200)])
def test_fifty_megabytes_on_one_line_take_bounded_memory(tmp_path, kind, most, long_text):
  write(tmp_path / "long", json.dumps({"text": long_text}) if kind == "jsonl" else long_text)
  tracemalloc.start()
  for _ in read_documents([parse_source(f"{kind}:{tmp_path}/long")], skip_bad=False, counts=collections.Counter()):
    pass
  peak = tracemalloc.get_traced_memory()[1]
  tracemalloc.stop()
  assert peak < most * 2**20


def test_a_long_record_is_cut_at_its_lines_where_it_has_some(tmp_path, monkeypatch):
  monkeypatch.setattr(sources, "MAX_DOCUMENT_CHARACTERS", 100)
  text = "\n".join(f"Paragraph {number}. It goes on. And on." for number in range(10))
  write(tmp_path / "a.jsonl", json.dumps({"text": text}))
  documents, counts = read(f"jsonl:{tmp_path}/a.jsonl")
  assert "\n".join(d.text for d in documents) == text
  assert {d.position for d in documents} == {1} and counts["split_documents"] == len(documents) - 1 == 3


def test_one_json_array_of_all_records_is_told_from_lines(tmp_path, monkeypatch):
  write(tmp_path / "a.json", json.dumps([{"text": "One."}, {"text": "Two."}]))
  with pytest.raises(UserError, match="a.json:1: a JSON list, not an object; expected one JSON object per line"):
    read(f"jsonl:{tmp_path}/a.json")


@pytest.mark.parametrize("kind", ["text", "text+one-per-file", "wikiextractor", "jsonl"])
def test_what_windows_leaves_in_a_file_vanishes(tmp_path, kind):
  """A byte-order mark, \\r\\n line ends, NUL characters; and an empty file among good ones."""
  body = {
    "jsonl": '{"text": "One.\\r\\nTwo\\u0000."}\r\n',
    "wikiextractor": '<doc id="1" title="T">\r\nT\r\nOne.\r\nTwo\0.\r\n</doc>\r\n',
  }
  text = body.get(kind, "One.\r\n\r\nTwo\0.\r\n" if "one" in kind else "One.\r\nTwo\0.\r\n")
  (tmp_path / "a").write_bytes(text.encode("utf-8-sig"))
  (tmp_path / "b").write_bytes(b"")
  (tmp_path / "c").write_bytes(text.encode())
  documents, counts = read(f"{kind}:{tmp_path}/?")
  assert [d.text for d in documents] == ["One.\nTwo."] * 2
  assert counts["nul_bytes"] == 2 and counts["files"] == 3 and counts["empty_files"] == 1


@pytest.mark.parametrize(
  "kind, data",
  [("text", "One.\n\nTwo.\n"), ("wikiextractor", _WIKI), ("jsonl", '{"text": "One."}\n{"text": "Two."}\n')],
)
def test_sources_behind_a_protocol_are_read_as_those_on_disk(tmp_path, kind, data):
  system = fsspec.filesystem("memory")
  system.pipe("/sources_of_this_test/a.gz", gzip.compress(data.encode()))
  (tmp_path / "a.gz").write_bytes(gzip.compress(data.encode()))
  remote, _ = read(f"{kind}:memory:///sources_of_this_test/*.gz")
  local, _ = read(f"{kind}:{tmp_path}/*.gz")
  assert [(d.text, d.position) for d in remote] == [(d.text, d.position) for d in local]
  assert remote[0].origin == "memory:///sources_of_this_test/a.gz:1"


def test_source_files_lists_every_file_with_size_and_time_without_reading_it(tmp_path):
  paths = [write(tmp_path / name, "x" * size) for name, size in (("a.txt", 3), ("b.txt", 5), ("c.jsonl", 7))]
  parsed = [parse_source(f"jsonl:{tmp_path}/*.jsonl"), parse_source(f"text:{tmp_path}/*.txt")]
  expected = [(str(path), path.stat().st_size, path.stat().st_mtime_ns) for path in (paths[2], *paths[:2])]
  assert source_files(parsed) == expected
  write(paths[1], "longer text")
  assert source_files(parsed) != expected and source_files(parsed)[:2] == expected[:2]
  with pytest.raises(UserError, match="no such file"):
    source_files([parse_source(f"text:{tmp_path}/absent")])


def test_docstrings_are_told_apart_by_the_versions_of_their_packages():
  parsed = [parse_source("docstrings:absl,numpy")]
  versions = source_versions(parsed)
  assert source_files(parsed) == [(f"docstrings:{name} {version}", 0, 0) for name, version in versions.items()]
  assert set(versions) == {"absl", "numpy"}


def test_memory_does_not_grow_with_the_corpus(tmp_path):
  block = "A sentence of a document that is read and thrown away again.\n" * 50 + "\n"
  (tmp_path / "a.txt.gz").write_bytes(gzip.compress(block.encode() * 4000, compresslevel=1))
  counts = collections.Counter()
  tracemalloc.start()
  for _ in read_documents([parse_source(f"text:{tmp_path}/a.txt.gz")], skip_bad=False, counts=counts):
    if counts["documents"] == 300:
      tracemalloc.reset_peak()
      before = tracemalloc.get_traced_memory()[0]
    if counts["documents"] == 900:
      break
  peak = tracemalloc.get_traced_memory()[1]
  tracemalloc.stop()
  assert peak - before < 8 * 2**20


@pytest.mark.slow
def test_wikipedia_is_read_whole(shared_data):
  documents, counts = read(f"wikiextractor:{shared_data}/pretraining/zhwiki_AA_00-49.txt.xz")
  assert counts["documents"] + counts["empty_documents"] == 68_355
  assert not any(d.text.startswith("<doc") or "</doc>" in d.text for d in documents)


def test_the_sample_of_google_research_bert_has_its_documents(shared_data):
  documents = texts(f"text:{shared_data}/pretraining/sample_text.txt")
  assert len(documents) == 3 and all(document for document in documents)
