"""Sources to documents: what each kind reads, and what it says of input that is wrong."""

import collections
import gzip
import json
import tracemalloc

import pytest

from bert_jax.data import sources
from bert_jax.data.sources import parse_source, read_documents
from bert_jax.errors import UserError


def read(spec, *, skip_bad=False):
  counts = collections.Counter()
  return list(read_documents([parse_source(spec)], skip_bad=skip_bad, counts=counts)), counts


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
  write(tmp_path / "a.txt", "It was\na dark night.\n\n\nA well-\nknown man -\n- came.\n"
        "  Indented: a new\n  paragraph.\n")
  assert texts(f"text+one-per-file:{tmp_path}/a.txt") == [
      "It was a dark night.\nA well-known man - - came.\nIndented: a new paragraph."]


def test_one_per_file_joins_chinese_lines_without_a_space(tmp_path):
  write(tmp_path / "a.txt", "话说天下大势，\n分久必合，合久\n必分。\n\n第二段 uses\nPython 语言\n。\n")
  assert texts(f"text+one-per-file:{tmp_path}/a.txt") == ["话说天下大势，分久必合，合久必分。\n第二段 uses Python 语言。"]


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


@pytest.mark.parametrize("text, opened", [
    (_WIKI.replace("Second.\n\n</doc>", "Second."), 1), (_WIKI.removesuffix("</doc>\n"), 14)])
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


@pytest.mark.parametrize("line, message", [
    ("{broken", "not JSON"), ('["text"]', "a JSON list, not an object"),
    ('{"body": "x", "id": 1}', 'no field "text" .*body, id'), ('{"text": 3}', "is a int, not a string"),
    ('{"text": "\\ud800"}', "surrogate"), ("[" * 100_000, "not JSON")])
def test_bad_json_lines_name_file_and_line(tmp_path, line, message):
  write(tmp_path / "a.jsonl", f'{{"text": "fine"}}\n{line}\n{{"text": "fine too"}}\n')
  with pytest.raises(UserError, match=f"a.jsonl:2: .*{message}.*--skip_bad"):
    read(f"jsonl:{tmp_path}/a.jsonl")
  documents, counts = read(f"jsonl:{tmp_path}/a.jsonl", skip_bad=True)
  assert [d.text for d in documents] == ["fine", "fine too"] and counts["bad_lines"] == 1


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


@pytest.mark.parametrize("spec, message", [
    ("corpus.txt", "write text:corpus.txt"), ("txt:a", "did you mean text:"),
    ("text+one_per_file:a", "has no option"), ("jsonl+x:a", "options: none"), ("text:", "names no files"),
    ("docstrings:no_such_package_here", "no package")])
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
