"""`prepare` and `inspect` as a user calls them."""

import random

import pytest

from bert_jax import config
from bert_jax.__main__ import main, make_parser
from bert_jax.commands import prepare
from bert_jax.data.prepare import PrepareSettings


@pytest.fixture
def text(tmp_path):
  rng = random.Random(0)
  words = "the dog and a cat see houses where small trees grow".split()
  line = lambda: " ".join(rng.choices(words, k=rng.randint(4, 12))) + "."
  (tmp_path / "text.txt").write_text("\n\n".join("\n".join(line() for _ in range(9)) for _ in range(40)))
  return tmp_path / "text.txt"


def test_flags_take_their_defaults_from_the_schema():
  options = make_parser("prepare").parse_args(["prepare", "--source=text:x", "--out=y"])
  schema = config.default_config().prepare
  assert {name: getattr(options, name) for name in PrepareSettings._fields} == schema.to_dict()


def test_every_flag_reaches_the_settings():
  options = make_parser("prepare").parse_args(
      "prepare --source=a:b --source=c:d --out=y --vocab_size=99 --cased --seq_length=64 --objective=none "
      "--max_sequences=2 --validation_fraction=0.5 --short_probability=0.3 --seed=9 --workers=7 "
      "--skip_bad".split())
  got = PrepareSettings(**{name: getattr(options, name) for name in PrepareSettings._fields})
  assert got == PrepareSettings("", 99, False, 64, "none", 2, 0.5, 0.3, 9, 7, True)
  assert options.source == ["a:b", "c:d"]


def test_a_tokenizer_and_a_vocabulary_size_exclude_each_other(capsys):
  with pytest.raises(SystemExit) as stopped:
    make_parser("prepare").parse_args("prepare --source=a:b --out=y --vocab_size=99 --tokenizer=t".split())
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
  assert shown.index("row 1 of train") < shown.index("row 0 of train") and "⟦" not in shown
  assert main(["inspect", f"--corpus={out}", "--row=99999"]) == 1
  assert "row 99999: expected 0 to" in capsys.readouterr().err


def test_mistakes_are_one_line_and_exit_code_1(tmp_path, capsys):
  assert main(["prepare", "--source=text:/nowhere/*.txt", f"--out={tmp_path}/out"]) == 1
  assert main(["prepare", "--source=nonsense", f"--out={tmp_path}/out"]) == 1
  assert main(["inspect", f"--corpus={tmp_path}/nowhere"]) == 1
  shown = capsys.readouterr()
  assert len(shown.err.strip().split("\n")) == 3 and not shown.out
  assert not list(tmp_path.iterdir())


def test_the_progress_bar_shows_megabytes(capsys):
  with prepare.progress_bar() as progress:
    progress("vocabulary", 3_000_000)
    progress("corpus", 2_000_000)
  shown = capsys.readouterr().err
  assert "vocabulary" in shown and "3.00M" in shown and "corpus" in shown and "2.00M" in shown
