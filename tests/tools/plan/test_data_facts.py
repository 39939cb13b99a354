"""data_facts.py: what decides a program, with a corpus at hand and without."""

import pathlib

import pytest

from bert_jax import config as configs
from bert_jax.tools.plan import data_facts
from bert_jax.tools.plan.data_facts import facts_of
from tests.helpers.tiny_runs import write_config

BASE = str(pathlib.Path(__file__).resolve().parents[3] / "configs" / "bert_base.py")


def test_a_corpus_that_is_there_gives_its_own_figures(tmp_path, corpus):
  config = configs.load_config(write_config(tmp_path), [f"data.corpus={corpus}"])
  facts = facts_of(config)
  assert facts.source == f"the corpus {corpus}" and facts.data.seq_length == 32 and facts.data.vocab_size == 150
  counts = data_facts.read_corpus_manifest(corpus)["splits"]["train"]["counts"]
  assert facts.tokens_per_row == counts["row_tokens"] / counts["rows"] < 32
  assert facts.sequence_length == counts["row_tokens"] / counts["sequences"] < facts.tokens_per_row


def test_where_words_begin_is_part_of_the_batch_of_a_corpus_that_stores_it(corpus, monkeypatch):
  config = configs.load_config(f"{BASE}:phase1", [f"data.corpus={corpus}"])
  assert not facts_of(config).data.word_starts
  manifest = data_facts.read_corpus_manifest(corpus)
  monkeypatch.setattr(data_facts, "read_corpus_manifest", lambda folder: manifest | {"word_segmenter": "jieba"})
  assert facts_of(config).data.word_starts


def test_without_a_corpus_the_config_says_what_it_will_be_like():
  config = configs.load_config(f"{BASE}:phase2")
  facts = facts_of(config)
  assert facts.data == data_facts.promised(config) == (30522, 512, config.prepare.max_sequences, "nsp", False)
  assert "assumed" in facts.source and facts.sequence_length == 512
  assert facts.tokens_per_row == pytest.approx(0.98 * 512), "rows of packed pairs are never quite full"
  assert (
    data_facts.resolved(config, facts.data).masking.max_predictions == 77 and config.masking.max_predictions is None
  )
