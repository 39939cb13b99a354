"""The commands that use a trained model, as a user calls them: encode, fill-mask, next-sentence, evaluate, export."""

import json
import shutil

import numpy as np
import pytest


@pytest.fixture
def model(exported):
  return exported / "pretraining"  # of 40 positions


def test_lines_become_vectors_in_a_folder_that_need_not_exist(call, model, tmp_path):
  (tmp_path / "lines.txt").write_text("the cat sat\n\non the mat\n")
  out = tmp_path / "new" / "vectors.npy"
  code, shown, err = call(
    "encode", f"--model={model}", f"--input={tmp_path / 'lines.txt'}", f"--out={out}", "--pooling=tokens"
  )
  assert code == 0 and not err and "float32 [3, 5, 32]" in shown
  assert np.load(out).shape == (3, 5, 32)
  tokens = [json.loads(line) for line in (tmp_path / "new" / "vectors.tokens.jsonl").read_text().splitlines()]
  assert tokens == [["[CLS]", "the", "cat", "sat", "[SEP]"], ["[CLS]", "[SEP]"], ["[CLS]", "on", "the", "mat", "[SEP]"]]
  assert sorted(path.name for path in out.parent.iterdir()) == ["vectors.npy", "vectors.tokens.jsonl"]


@pytest.mark.parametrize(
  "name, content, out, said",
  [
    ("lines.txt", b"", "v.npy", "lines.txt is empty: expected one text per line"),
    ("lines.txt", b"fine\nb\xffd\n", "v.npy", "lines.txt, line 2: not UTF-8"),
    ("other.txt", b"fine\n", "v.npy", "lines.txt: No such file"),
    ("lines.txt", b"fine\n", "v.txt", "v.txt must end in .npy"),
    ("lines.txt", b"fine\n", "folder.npy", "folder.npy is a folder; name a file in it"),
    ("lines.txt", b"fine\n", "lines.txt/v.npy", "a file stands where a folder is expected"),
  ],
)
def test_encode_refuses_what_it_cannot_read_or_write(call, model, tmp_path, name, content, out, said):
  (tmp_path / name).write_bytes(content)
  (tmp_path / "folder.npy").mkdir()
  code, shown, err = call("encode", f"--model={model}", f"--input={tmp_path / 'lines.txt'}", f"--out={tmp_path / out}")
  assert code == 1 and said in err and err.count("\n") == 1 and not shown
  assert sorted(path.name for path in tmp_path.iterdir()) == sorted([name, "folder.npy"])


def test_lines_longer_than_the_model_and_words_that_it_does_not_know_are_told(call, model, tmp_path):
  (tmp_path / "lines.txt").write_text("the cat\n" + "cat " * 99 + "\n")
  arguments = (f"--model={model}", f"--input={tmp_path / 'lines.txt'}", f"--out={tmp_path / 'v.npy'}")
  assert "1 of 2 lines exceeded the 38 tokens that the model takes" in call("encode", *arguments)[2]
  (tmp_path / "lines.txt").write_text("猫坐在垫子上\n")
  code, _, err = call("encode", *arguments)
  assert (
    code == 0 and err == "note: 100% of the tokens are [UNK]: the vocabulary of this model does not cover this text\n"
  )


def test_fill_mask_tells_of_text_that_the_vocabulary_does_not_know(call, model):
  code, shown, err = call("fill-mask", f"--model={model}", "the cat [MASK] on the mat.")
  assert code == 0 and not err and shown.count("%") == 5
  code, shown, err = call("fill-mask", f"--model={model}", "--json", "猫坐在[MASK]垫子上")
  assert code == 0 and "of the tokens are [UNK]" in err
  assert len(json.loads(shown)["masks"][0]) == 5


@pytest.mark.parametrize(
  "text, said",
  [
    ("no mask", "no [MASK] in 'no mask'"),
    ("", "no [MASK] in ''"),
    ("[MASK] " + "cat " * 600, "has 601 tokens; this model takes at most 38"),
  ],
)
def test_fill_mask_refuses_text_without_a_mask_or_too_long(call, model, text, said):
  code, shown, err = call("fill-mask", f"--model={model}", text)
  assert code == 1 and said in err and not shown


def test_next_sentence_tells_of_what_it_cut(call, model):
  code, shown, err = call("next-sentence", f"--model={model}", "the cat sat.", "on the mat.")
  assert code == 0 and not err and "label 0" in shown
  code, shown, err = call("next-sentence", f"--model={model}", "cat " * 600, "on the mat.")
  assert code == 0 and "the two have 604 tokens and the model takes 37" in err
  code, _, err = call("next-sentence", f"--model={model}", "the cat", " ")
  assert code == 1 and "two sentences that are not empty" in err


def test_a_head_that_a_model_does_not_have_is_named(call, exported):
  for arguments in (
    ("fill-mask", f"--model={exported / 'encoder'}", "[MASK]"),
    ("next-sentence", f"--model={exported / 'mlm'}", "a", "b"),
  ):
    code, _, err = call(*arguments)
    assert code == 1 and "which" in err and "does not have" in err


def test_a_workdir_is_a_run_folder_and_says_so(call, model, tmp_path):
  for command in (("evaluate",), ("export", f"--out={tmp_path / 'out'}")):
    for folder in (model, tmp_path / "nowhere"):
      code, _, err = call(*command, f"--workdir={folder}")
      assert code == 1 and f"--workdir={folder} is no run folder" in err and "--model" in err
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


def test_lines_of_a_table_are_noted_to_be_texts(call, model, tmp_path):
  (tmp_path / "x.csv").write_text("text,label\nthe cat,1\n")
  code, _, err = call("encode", f"--model={model}", f"--input={tmp_path / 'x.csv'}", f"--out={tmp_path / 'x.npy'}")
  assert code == 0 and "x.csv is read as a text" in err


def test_sentence_transformers_get_the_encoder_alone_and_transformers_all_heads(call, model, tmp_path):
  architecture = lambda folder: json.loads((folder / "config.json").read_text())["architectures"]
  code, shown, _ = call("export", f"--model={model}", f"--out={tmp_path / 'st'}", "--format=sentence-transformers")
  assert code == 0 and "encoder weights" in shown and architecture(tmp_path / "st") == ["BertModel"]
  assert call("export", f"--model={model}", f"--out={tmp_path / 'hf'}")[0] == 0
  assert architecture(tmp_path / "hf") == ["BertForPreTraining"]
  arguments = (f"--model={model}", "--format=sentence-transformers", "--head=mlm", "--pooling=cls")
  assert call("export", *arguments, f"--out={tmp_path / 'own'}")[0] == 0
  assert architecture(tmp_path / "own") == ["BertForMaskedLM"]
  assert json.loads((tmp_path / "own/1_Pooling/config.json").read_text())["pooling_mode_cls_token"]


def test_pooling_without_sentence_transformers_would_be_lost_and_is_refused(call, model, tmp_path):
  code, _, err = call("export", f"--model={model}", f"--out={tmp_path / 'out'}", "--pooling=cls")
  assert code == 1 and "add --format=sentence-transformers" in err and not (tmp_path / "out").exists()


def test_an_export_over_something_else_leaves_it_alone(call, model, tmp_path):
  (tmp_path / "mine").mkdir()
  (tmp_path / "mine" / "thesis.txt").write_text("years of work")
  (tmp_path / "file").write_text("years of work")
  for out in ("mine", "file"):
    code, _, err = call("export", f"--model={model}", f"--out={tmp_path / out}")
    assert code == 1 and "choose another folder" in err
  assert (tmp_path / "mine" / "thesis.txt").exists() and (tmp_path / "file").read_text() == "years of work"


def test_a_damaged_model_folder_is_named(call, model, tmp_path):
  shutil.copytree(model, tmp_path / "copy")
  with open(tmp_path / "copy" / "model.safetensors", "r+b") as file:
    file.truncate(1000)
  code, _, err = call("fill-mask", f"--model={tmp_path / 'copy'}", "[MASK]")
  assert code == 1 and "model.safetensors: not a readable safetensors file" in err
