"""build.py: what a config comes to beside a corpus."""

import pytest

from bert_jax import config as configs
from bert_jax.data.corpus.folder import open_corpus, tokenizer_of
from bert_jax.runs.build import resolve_pretraining


@pytest.fixture
def quickstart():
  return configs.load_config("quickstart")


def test_what_would_have_prepared_a_corpus_is_not_recorded_of_one_that_was_there(corpus, quickstart):
  """The quickstart's config on a text of one's own: its source was not read, its vocabulary not trained."""
  opened = open_corpus(corpus)
  quickstart.data.corpus, quickstart.prepare.workers, quickstart.prepare.text_field = str(corpus), 7, "abstract"
  resolved = resolve_pretraining(quickstart, opened, tokenizer_of(opened))
  assert quickstart.data.source == "docstrings:" and resolved.data.source == ""
  defaults, manifest = configs.default_config().prepare, opened.manifest
  for key in ("vocab_size", "seq_length", "validation_fraction", "objective", "seed", "max_sequences"):
    assert resolved.prepare[key] == manifest[key], key
  assert resolved.prepare.vocab_size != quickstart.prepare.vocab_size
  assert (resolved.prepare.workers, resolved.prepare.text_field) == (defaults.workers, defaults.text_field)


def test_the_source_that_a_corpus_was_made_from_is_recorded(corpus, quickstart):
  opened = open_corpus(corpus)
  (quickstart.data.source,) = opened.manifest["provenance"]["sources"]
  quickstart.data.corpus, quickstart.prepare.workers = str(corpus), 7
  resolved = resolve_pretraining(quickstart, opened, tokenizer_of(opened))
  assert resolved.data.source == quickstart.data.source and resolved.prepare.workers == 7
  assert resolved.prepare.vocab_size == opened.manifest["vocab_size"]
