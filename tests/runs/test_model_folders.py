"""Every folder whose texts are encoded can be fine-tuned, continued and exported; of its files only the tokenizer's go
along.
"""

import json
import shutil

import numpy as np
import pytest
import safetensors.numpy
from sentence_transformers import SentenceTransformer

from bert_jax.convert import folder
from bert_jax.convert.sentence_folder import Encoding
from bert_jax.export.export import export_model
from bert_jax.inference import model as inference
from bert_jax.runs import finetuning, pretraining
from tests.helpers.hard_texts import assert_as_transformers
from tests.helpers.tiny_runs import prepare, tiny_run_config, write_text

_TEXTS = ["the old file.", "a new array"]
_TOKENIZER = {"tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "vocab.txt"}
_KINDS = ["run", "export", "hugging face", "vocab.txt", "sentence-transformers", "0_Transformer", "padded"]
_KINDS += ["added tokens", "fine-tuned"]


@pytest.fixture(scope="module")
def run(tmp_path_factory, corpus):
  """A pretrained run, from whose corpus's text others are prepared."""
  root = tmp_path_factory.mktemp("source")
  pretraining.pretrain_run(tiny_run_config(root, corpus, "total_steps=2", "optimizer.warmup_steps=0"), root / "run")
  return root / "run"


@pytest.fixture(scope="module")
def folders(run, tmp_path_factory):
  """kind -> a folder that holds that model."""
  root, model = tmp_path_factory.mktemp("folders"), inference.load_model(run)
  write = lambda name, **how: folder.write_folder(
    root / name, model.params, model.config, model.tokenizer_folder, **how
  )
  write("export")
  shutil.copytree(root / "export", root / "hugging face")
  (root / "hugging face" / "onnx").mkdir()  # what others put beside a model
  (root / "hugging face" / "onnx" / "model.onnx").write_bytes(b"0" * 1000)
  (root / "hugging face" / "README.md").write_text("a card")
  shutil.copytree(root / "export", root / "vocab.txt")
  for name in ("tokenizer.json", "special_tokens_map.json"):
    (root / "vocab.txt" / name).unlink()
  write("ours", head="encoder", encoding=Encoding("mean", True))
  SentenceTransformer(str(root / "ours")).save(str(root / "sentence-transformers"))
  shutil.copytree(root / "export", root / "0_Transformer" / "0_Transformer")
  padded = root / "padded"
  shutil.copytree(root / "export", padded)
  content, tensors = (
    json.loads((padded / "config.json").read_text()),
    safetensors.numpy.load_file(padded / "model.safetensors"),
  )
  content["vocab_size"] += 2
  for name in ("bert.embeddings.word_embeddings.weight", "cls.predictions.bias"):
    tensors[name] = np.concatenate([tensors[name], tensors[name][:2]])
  (padded / "config.json").write_text(json.dumps(content))
  safetensors.numpy.save_file(tensors, padded / "model.safetensors", metadata={"format": "pt"})
  shutil.copytree(padded, root / "added tokens")
  later = {"covid19": content["vocab_size"] - 2, "[ENT]": content["vocab_size"] - 1}
  (root / "added tokens" / "added_tokens.json").write_text(json.dumps(later))
  finetuning.finetune_run(_tuning(root / "export", root), str(root / "tuned"), log=lambda line: None)
  export_model(inference.load_model(root / "tuned"), root / "fine-tuned")
  return {kind: run if kind == "run" else root / kind for kind in _KINDS}


def _tuning(source, root):
  (root / "x.tsv").write_text("text\tlabel\n" + "the file\tyes\nan array\tno\n" * 8)
  table = [f"tuning.data={root / 'x.tsv'}", f"tuning.dev={root / 'x.tsv'}", "tuning.text=text", "tuning.label=label"]
  short = ["data.batch_size=8", "tuning.epochs=0", "total_steps=1", "optimizer.warmup_steps=0", "eval_every_steps=1"]
  return finetuning.finetuning_config([f"init_from={source}", "tuning.max_length=32", *table, *short])


@pytest.mark.parametrize("kind", _KINDS)
def test_a_folder_that_is_encoded_is_fine_tuned_continued_and_exported(folders, tmp_path, kind):
  source = folders[kind]
  model = inference.load_model(source)
  vectors = inference.encode(model, _TEXTS, "mean").vectors
  finetuning.finetune_run(_tuning(source, tmp_path), str(tmp_path / "tuned"), log=lambda line: None)
  assert {path.name for path in (tmp_path / "tuned" / "tokenizer").iterdir()} == _TOKENIZER
  assert inference.load_model(tmp_path / "tuned").tokenizer.fingerprint == model.tokenizer.fingerprint
  text = write_text(tmp_path / "text.txt")
  corpus = prepare(f"text:{text}", tmp_path / "corpus", tokenizer=str(model.tokenizer_folder))
  short = ("total_steps=1", "optimizer.warmup_steps=0", f"init_from={source}")
  own = [f"model.vocab_size={model.config.vocab_size}"] if kind == "padded" else []
  pretraining.pretrain_run(tiny_run_config(tmp_path, corpus, *short, *own), tmp_path / "more")
  assert {path.name for path in (tmp_path / "more" / "tokenizer").iterdir()} == _TOKENIZER
  for trained in (model, inference.load_model(tmp_path / "tuned"), inference.load_model(tmp_path / "more")):
    out = tmp_path / f"exported_{trained.step}_{trained.labels is None}_{trained is model}"
    export_model(trained, out)
    assert_as_transformers(out, ("covid19", "[ENT]", "file"))
    again = inference.load_model(out)
    expected = vectors if trained is model else inference.encode(trained, _TEXTS, "mean").vectors
    np.testing.assert_allclose(inference.encode(again, _TEXTS, "mean").vectors, expected, atol=1e-6)
