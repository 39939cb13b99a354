"""The command bench: on a machine without TensorFlow, as JSON, and with mistakes."""

import json
import subprocess
import sys

import pytest

from bert_jax import __main__ as command_line
from tests.helpers.tiny_runs import write_config

# As on a bare GPU image: what pretraining needs besides JAX is not there.
BARE = """
import sys
for name in ("tensorflow", "tensorflow_datasets", "tensorboardX", "torch", "transformers", "orbax"):
  sys.modules[name] = None
from bert_jax.__main__ import main
sys.exit(main(sys.argv[1:]))
"""


def words_for(folder, *more):
  return [
    "bench",
    f"--config={write_config(folder)}",
    "--config.data.corpus=nowhere",
    "--config.prepare.seq_length=32",
    "--config.prepare.vocab_size=150",
    *more,
  ]


def test_it_works_without_tensorflow_torch_and_orbax_and_prints_one_json_object(tmp_path):
  words = words_for(tmp_path, "--rounds=1", "--seconds=0.02", "--json")
  done = subprocess.run([sys.executable, "-c", BARE, *words], capture_output=True, text=True, timeout=300)
  assert done.returncode == 0, done.stderr
  found = json.loads(done.stdout)
  assert found["results"][0]["tokens_per_second"]["median"] > 0 and found["config"]["model.hidden_dropout_prob"] == 0


@pytest.mark.parametrize(
  "words, said",
  [
    (["--rounds=0"], "--rounds=0: expected a number from 1"),
    (["--seconds=0"], "--seconds=0.0: expected a number above 0"),
    (["--sequences=99"], "--sequences=99: a row of 32 tokens holds 1 to 4 sequences"),
    (["--against=model.atention=xla"], "did you mean 'model.attention'"),
    (["--against=model.remat"], "needs a value"),
    (["--config.model.max_position_embeddings=16"], "rows of 32 tokens do not fit a model of 16 positions"),
  ],
)
def test_mistakes_are_one_line(tmp_path, capsys, words, said):
  code = command_line.main(words_for(tmp_path, *words))
  shown = capsys.readouterr()
  assert code == 1 and not shown.out and said in shown.err.splitlines()[-1]
