"""export: a folder for transformers or sentence-transformers."""

import json


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
