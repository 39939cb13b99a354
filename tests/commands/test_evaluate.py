"""evaluate: on a corpus, by a suite of tasks, or without training at all."""

import json

import pytest


def test_a_workdir_is_a_run_folder_and_says_so(call, model, tmp_path):
  for command in (("evaluate",), ("export", f"--out={tmp_path / 'out'}")):
    for folder in (model, tmp_path / "nowhere"):
      code, _, err = call(*command, f"--workdir={folder}")
      assert code == 1 and f"--workdir={folder} is not a run folder" in err and "--model" in err
  assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
  "flag, said",
  [
    ("--batch_size=0", "at least one row per call"),
    ("--rows=-3", "a number of rows, or 0 for all"),
    ("--corpus=/nowhere", "there is no such corpus folder"),
    ("", "--corpus is needed"),
  ],
)
def test_evaluate_refuses_numbers_and_folders_that_make_no_sense(call, model, flag, said):
  code, _, err = call("evaluate", f"--model={model}", *([flag] if flag else []))
  assert code == 1 and said in err and err.count("\n") == 1


@pytest.mark.parametrize(
  "flags, said",
  [
    (
      ["--zero_shot", "--data=x", "--batch_size=8"],
      "--batch_size means nothing with --zero_shot, which takes --data, --input, --rows",
    ),
    (
      ["--suite=glue", "--corpus=x", "--batch_size=8"],
      "--corpus, --batch_size means nothing with --suite, which takes --data, --jobs, --seeds and keys",
    ),
    (["--jobs=x"], "--jobs means nothing with a corpus"),
    (["--suite=glue", "--zero_shot"], "give one of them"),
    (["--zero_shot"], "--zero_shot needs --data=DIR, the folder in which STS-B lies, or --input=FILE"),
    (["--suite=glue", "--data=x", "--jobs=x", "--seeds=0"], "--seeds=0: at least one"),
  ],
)
def test_evaluate_takes_no_flag_that_it_would_not_read(call, model, flags, said):
  code, _, err = call("evaluate", f"--model={model}", *flags)
  assert code == 1 and said in err and err.count("\n") == 1


def test_every_sentence_of_ones_own_has_a_pseudo_perplexity(call, model, tmp_path):
  (tmp_path / "lines.txt").write_text("the cat\n\nthe mat sat\n")
  code, shown, _ = call("evaluate", f"--model={model}", "--zero_shot", f"--input={tmp_path / 'lines.txt'}", "--json")
  found = [json.loads(line) for line in shown.splitlines()]
  assert code == 0 and [one["text"] for one in found] == ["the cat", "", "the mat sat"]
  assert found[1]["pseudo_perplexity"] is None and all(one["pseudo_perplexity"] > 1 for one in found[::2])
  code, shown, _ = call("evaluate", f"--model={model}", "--zero_shot", f"--input={tmp_path / 'lines.txt'}")
  assert (
    code == 0 and shown.splitlines()[1].strip() == "no known word" and shown.splitlines()[2].endswith("    the mat sat")
  )


def test_similarity_is_that_of_all_pairs_of_the_file_that_a_task_is_judged_by(call, model, tmp_path):
  (tmp_path / "stsb").mkdir()
  pairs = "\n".join(f"the cat,the {'mat ' * n}sat,{n / 7:.2f}" for n in range(30))
  (tmp_path / "stsb" / "stsb-en-dev.csv").write_text(f"sentence1,sentence2,score\n{pairs}\nthe {'cat ' * 99},a,5.0\n")
  expected = None
  for data in (f"stsb={tmp_path / 'stsb' / 'stsb-en-dev.csv'}", f"stsb={tmp_path / 'stsb'}", str(tmp_path)):
    code, shown, err = call("evaluate", f"--model={model}", "--zero_shot", f"--data={data}", "--json")
    assert code == 0 and "stsb: 31 pairs of" in err and "note: 1 of 62 texts are longer than" in err
    expected = expected or json.loads(shown)
    assert json.loads(shown) == expected and -1 <= expected["stsb/spearman_mean"] <= 1
