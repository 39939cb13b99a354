"""`prepare` and `inspect` as a user calls them."""

import random

import pytest

from bert_jax import config
from bert_jax.__main__ import main, make_parser
from bert_jax.commands import prepare
from bert_jax.data.corpus.prepare import PrepareSettings


@pytest.fixture
def text(tmp_path):
  rng = random.Random(0)
  words = ["the", "dog", "and", "a", "cat", "see", "houses", "where", "small", "trees", "grow"]
  line = lambda: " ".join(rng.choices(words, k=rng.randint(4, 12))) + "."
  (tmp_path / "text.txt").write_text("\n\n".join("\n".join(line() for _ in range(9)) for _ in range(40)))
  return tmp_path / "text.txt"


def test_flags_take_their_defaults_from_the_schema():
  options = make_parser("prepare").parse_args(["prepare", "--source=text:x", "--out=y"])
  schema = config.default_config().prepare
  assert {name: getattr(options, name) for name in PrepareSettings._fields} == schema.to_dict()


def test_every_flag_reaches_the_settings():
  options = make_parser("prepare").parse_args(
    [
      "prepare",
      "--source=a:b",
      "--source=c:d",
      "--out=y",
      "--vocab_size=99",
      "--cased",
      "--keep_accents",
      "--seq_length=64",
      "--objective=none",
      "--max_sequences=2",
      "--validation_fraction=0.5",
      "--short_probability=0.3",
      "--seed=9",
      "--workers=7",
      "--skip_bad",
      "--text_field=body",
      "--deduplicate",
      "--min_characters=3",
      "--word_segmenter=jieba",
    ]
  )
  got = PrepareSettings(**{name: getattr(options, name) for name in PrepareSettings._fields})
  assert got == PrepareSettings("", 99, False, 64, "none", 2, 0.5, 0.3, 9, 7, True, "body", True, 3, "jieba", False)
  assert options.source == ["a:b", "c:d"]


def test_a_tokenizer_and_a_vocabulary_size_exclude_each_other(capsys):
  with pytest.raises(SystemExit) as stopped:
    make_parser("prepare").parse_args(["prepare", "--source=a:b", "--out=y", "--vocab_size=99", "--tokenizer=t"])
  assert stopped.value.code == 2 and "not allowed with" in capsys.readouterr().err


def test_raw_text_to_readable_rows(text, tmp_path, capsys):
  out = tmp_path / "corpus"
  arguments = [f"--source=text:{text}", f"--out={out}", "--vocab-size=120", "--seq-length=32", "--workers=1"]
  assert main(["prepare", *arguments]) == 0
  shown = capsys.readouterr()
  for part in ("corpus_id", "packing efficiency", "majority label", "tokens per word", f"--corpus={out}"):
    assert part in shown.out
  assert main(["prepare", *arguments]) == 1
  assert "--overwrite" in capsys.readouterr().err

  assert main(["inspect", f"--corpus={out}", "--split=validation", "--rows=2", "--masks"]) == 0
  shown = capsys.readouterr().out
  assert shown.count("of validation:") == 2 and "label" in shown and "→[MASK]⟧" in shown
  assert main(["inspect", f"--corpus={out}", "--row=1", "--row=0"]) == 0
  shown = capsys.readouterr().out
  assert shown.startswith("row 1 of train") and "\n\nrow 0 of train" in shown  # these rows, and no summary
  assert "corpus_id" not in shown and "⟦" not in shown
  assert main(["inspect", f"--corpus={out}", "--row=99999"]) == 1
  assert "row 99999: expected 0 to" in capsys.readouterr().err
  assert main(["inspect", f"--corpus={out}", "--masks", "--epoch=-1"]) == 1
  assert "--epoch=-1: passes over the corpus are counted from 0" in capsys.readouterr().err


def test_mistakes_are_one_line_and_exit_code_1(tmp_path, capsys):
  assert main(["prepare", "--source=text:/nowhere/*.txt", f"--out={tmp_path}/out"]) == 1
  assert main(["prepare", "--source=nonsense", f"--out={tmp_path}/out"]) == 1
  assert main(["inspect", f"--corpus={tmp_path}/nowhere"]) == 1
  shown = capsys.readouterr()
  assert len(shown.err.strip().split("\n")) == 3 and not shown.out
  assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("text", ["3/3", "1", "-1/3", "a/3", "0/0", "1/", "/2"])
def test_a_share_that_cannot_be_is_a_usage_error(text, capsys):
  with pytest.raises(SystemExit) as stopped:
    make_parser("prepare").parse_args(["prepare", "--source=a:b", "--out=y", f"--shard={text}"])
  assert stopped.value.code == 2 and "expected I/N with I from 0 to N - 1, as in 0/3" in capsys.readouterr().err


def test_shares_and_beam_exclude_each_other_and_only_beam_has_options_of_its_own(tmp_path, capsys):
  parser = make_parser("prepare")
  with pytest.raises(SystemExit):
    parser.parse_args(["prepare", "--source=a:b", "--out=y", "--shard=0/2", "--runner=beam"])
  assert "not allowed with" in capsys.readouterr().err
  options = parser.parse_args(
    ["prepare", "--source=a:b", "--out=y", "--runner=beam", "--", "--runner=FlinkRunner", "--parallelism=3"]
  )
  assert options.runner == "beam" and options.beam_options == ["--runner=FlinkRunner", "--parallelism=3"]
  assert main(["prepare", "--source=text:x", f"--out={tmp_path}/out", "--", "--runner=FlinkRunner"]) == 1
  assert "only --runner=beam takes options of its own" in capsys.readouterr().err


def test_what_is_used_again_and_what_is_left_to_others_is_told(text, tmp_path, capsys):
  arguments = [
    "prepare",
    f"--source=text:{text}",
    f"--documents={tmp_path}/kept",
    "--vocab_size=120",
    "--seq_length=32",
    "--workers=1",
  ]
  assert main([*arguments, f"--out={tmp_path}/one", "--shard=1/2"]) == 0
  assert "Share 1 of 2 is done; at least 2 shards of others are missing" in capsys.readouterr().out
  assert not (tmp_path / "one").exists()
  assert main([*arguments, f"--out={tmp_path}/one", "--shard=0/2"]) == 0
  assert "corpus_id" in capsys.readouterr().out and (tmp_path / "one").exists()
  assert main([*arguments, f"--out={tmp_path}/one", "--shard=1/2"]) == 0
  assert f"{tmp_path}/one is complete already" in capsys.readouterr().out
  assert main([*arguments, f"--out={tmp_path}/two", "--objective=sop"]) == 0
  shown = capsys.readouterr().out
  assert f"Tokenized documents: {tmp_path}/kept (nothing is read or tokenized again)" in shown and "sop" in shown


def test_the_progress_bar_shows_megabytes_and_the_time_left(capsys):
  with prepare.progress_bar() as progress:
    progress("vocabulary", 3_000_000, None)
    progress("corpus", 2_000_000, 8_000_000)
  shown = capsys.readouterr().err
  assert "vocabulary" in shown and "3.00M" in shown and "corpus" in shown
  assert " 25%  2.00M of 8.00M" in shown and " left" in shown


def test_an_estimate_that_was_too_low_never_shows_more_than_all(capsys):
  with prepare.progress_bar() as progress:
    progress("corpus", 3_000_000, 4_000_000)
    progress("corpus", 3_000_000, 4_000_000)
  assert "100%  6.00M of 6.00M" in capsys.readouterr().err
