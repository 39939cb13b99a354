"""encode: vectors of the lines of a file."""

import json

import numpy as np
import pytest


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


def test_lines_of_a_table_are_noted_to_be_texts(call, model, tmp_path):
  (tmp_path / "x.csv").write_text("text,label\nthe cat,1\n")
  code, _, err = call("encode", f"--model={model}", f"--input={tmp_path / 'x.csv'}", f"--out={tmp_path / 'x.npy'}")
  assert code == 0 and "x.csv is read as one text" in err
