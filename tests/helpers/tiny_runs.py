"""A small real corpus and the config of a run on it that takes seconds, for tests that train for real."""

import pathlib
import random

from bert_jax import config as configs
from bert_jax.data.corpus.prepare import PrepareSettings, prepare_corpus

WORDS = [
  "the",
  "a",
  "one",
  "this",
  "that",
  "small",
  "large",
  "old",
  "new",
  "array",
  "file",
  "value",
  "list",
  "name",
  "key",
  "error",
  "function",
  "returns",
  "reads",
  "writes",
  "opens",
  "closes",
  "raises",
  "takes",
  "gives",
  "holds",
  "makes",
  "finds",
  "keeps",
  "first",
  "last",
  "next",
  "other",
  "same",
  "many",
  "few",
]


def write_text(path: pathlib.Path, documents: int = 60, seed: int = 0) -> pathlib.Path:
  """Documents of simple sentences about one subject each, a blank line between them."""
  rng = random.Random(seed)
  texts = []
  for _ in range(documents):
    subject = rng.choice(WORDS[9:15])
    sentences = [f"{' '.join(rng.choices(WORDS, k=rng.randint(3, 8)))} {subject}." for _ in range(rng.randint(6, 14))]
    texts.append("\n".join(sentence.capitalize() for sentence in sentences))
  path.write_text("\n\n".join(texts) + "\n", encoding="utf-8")
  return path


def prepare(source: str, out: pathlib.Path, **changes) -> pathlib.Path:
  """A corpus of rows of 32 tokens and some hundred words."""
  settings = configs.default_config().prepare.to_dict()
  settings |= {"vocab_size": 150, "seq_length": 32, "validation_fraction": 0.2, "workers": 1} | changes
  prepare_corpus([source], out, PrepareSettings(**settings))
  return out


CONFIG = """
from bert_jax.config import default_config

def get_config(variant=""):
  config = default_config()
  config.total_steps = 24
  config.log_every_steps = 4
  config.eval_every_steps = 12
  config.data.batch_size = 8
  config.data.loader = "threads"
  config.model.update(preset="bert-tiny", hidden_size=16, num_attention_heads=2, num_hidden_layers=1,
                      intermediate_size=32, max_position_embeddings=32)
  config.optimizer.update(learning_rate=1e-2, warmup_steps=4)
  config.checkpoint.every_steps = 6
  config.export.format = "transformers"
  return config
"""


def write_config(folder: pathlib.Path) -> str:
  path = folder / "tiny.py"
  path.write_text(CONFIG, encoding="utf-8")
  return str(path)


def tiny_run_config(folder: pathlib.Path, corpus: pathlib.Path, *overrides: str):
  return configs.load_config(write_config(folder), [f"data.corpus={corpus}", *overrides])
