"""The shares of a preparation as an Apache Beam pipeline, on Beam's local runner."""

import sys

import apache_beam
import pytest

from bert_jax.data.corpus import prepare
from bert_jax.data.corpus.beam import beam_runner
from bert_jax.data.corpus.folder import open_corpus
from bert_jax.errors import UserError
from tests.helpers.preparing import arguments, contents, run, settings


def test_beam_makes_the_corpus_of_one_process(source, vocab, tmp_path, small_chunks):
  whole = prepare.prepare_corpus([source], tmp_path / "whole", settings(vocab), documents=tmp_path / "a")
  manifest = prepare.prepare_corpus(
    [source], tmp_path / "beam", settings(vocab, workers=3), documents=tmp_path / "b", run_shares=beam_runner([])
  )
  assert len(whole["splits"]["train"]["shards"]) > 4
  assert manifest["corpus_id"] == whole["corpus_id"] == open_corpus(tmp_path / "beam").manifest["corpus_id"]
  left, right = contents(tmp_path / "whole"), contents(tmp_path / "beam")
  assert [name for name in left.keys() | right if left.get(name) != right.get(name)] == ["manifest.json"]


def test_the_vocabulary_is_trained_once_before_all_shares(source, tmp_path, small_chunks):
  one = prepare.prepare_corpus([source], tmp_path / "one", settings("", vocab_size=90), documents=tmp_path / "a")

  def run_shares(job, count):
    assert (tmp_path / "b" / "tokenizer" / "vocab.txt").is_file() and count == 3
    beam_runner([])(job, count)

  two = prepare.prepare_corpus(
    [source], tmp_path / "two", settings("", vocab_size=90, workers=3), documents=tmp_path / "b", run_shares=run_shares
  )
  assert one["corpus_id"] == two["corpus_id"]


def test_beam_goes_on_with_what_is_there(source, vocab, tmp_path, small_chunks):
  whole = prepare.prepare_corpus([source], tmp_path / "whole", settings(vocab), documents=tmp_path / "a")
  assert (
    prepare.prepare_corpus(
      [source], tmp_path / "out", settings(vocab), documents=tmp_path / "b", share=prepare.Share(0, 2)
    )
    is None
  )
  made = {path: path.stat().st_mtime_ns for path in (tmp_path / "b").rglob("chunk.json")}
  manifest = prepare.prepare_corpus(
    [source], tmp_path / "out", settings(vocab, workers=2), documents=tmp_path / "b", run_shares=beam_runner([])
  )
  assert manifest["corpus_id"] == whole["corpus_id"] and made
  assert made == {path: path.stat().st_mtime_ns for path in made}


def test_a_mistake_in_the_text_is_one_message(source, vocab, tmp_path):
  (tmp_path / "bad.txt").write_bytes(b"\xff\n")
  with pytest.raises(UserError, match=r"bad.txt:1: not UTF-8: .*to skip and count such places$"):
    prepare.prepare_corpus(
      [f"text:{tmp_path}/bad.txt", source], tmp_path / "out", settings(vocab, workers=2), run_shares=beam_runner([])
    )
  assert not (tmp_path / "out").exists()


def test_a_mistake_is_found_in_the_traceback_that_other_processes_send(source, vocab, tmp_path, monkeypatch):
  def fail(pipeline, *_):
    raise RuntimeError(
      "Traceback (most recent call last):\n  File one, in two\nbert_jax.errors.UserError: a.txt:3: is bad; mend it\n\n"
      "During handling …\nbert_jax.errors.UserError: a.txt:3: is bad; mend it [while running 'Map(_make_share)']\n"
    )

  monkeypatch.setattr(apache_beam.Pipeline, "__exit__", fail)
  with pytest.raises(UserError, match="^a.txt:3: is bad; mend it$"):
    prepare.prepare_corpus([source], tmp_path / "out", settings(vocab), run_shares=beam_runner([]))


def test_what_is_no_mistake_of_the_user_is_not_made_to_look_like_one(source, vocab, tmp_path, monkeypatch):
  def fail(pipeline, *_):
    raise RuntimeError("the cluster is gone")

  monkeypatch.setattr(apache_beam.Pipeline, "__exit__", fail)
  with pytest.raises(RuntimeError, match="the cluster is gone"):
    prepare.prepare_corpus([source], tmp_path / "out", settings(vocab), run_shares=beam_runner([]))


def test_without_beam_the_message_tells_how_to_install_it(monkeypatch):
  monkeypatch.setitem(sys.modules, "apache_beam", None)
  with pytest.raises(UserError, match=r"Apache Beam is not installed; pip install 'bert_jax\[beam\]'"):
    beam_runner([])


@pytest.mark.slow
def test_beam_in_several_processes_makes_the_same_corpus(source, vocab, tmp_path):
  """From the command line, with options of Beam itself, in the chunks of the usual size."""
  options = arguments(
    source,
    tmp_path / "beam",
    vocab,
    "--runner=beam",
    "--",
    "--direct_running_mode=multi_processing",
    "--direct_num_workers=2",
  )
  code = "import sys; from bert_jax.__main__ import main; sys.exit(main(['prepare'] + sys.argv[1:]))"
  status, shown, errors = run(options, code)
  assert status == 0 and "corpus_id" in shown, errors
  whole = prepare.prepare_corpus([source], tmp_path / "whole", settings(vocab), documents=tmp_path / "a")
  assert open_corpus(tmp_path / "beam").manifest["corpus_id"] == whole["corpus_id"]
