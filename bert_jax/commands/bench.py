"""`bench`: how fast the training step is on this machine."""

import argparse
import json
import os
import sys

from bert_jax.errors import show
from bert_jax.io.paths import expanded

HELP = (
  "measure the training step on this machine: tokens/s, MFU, memory, where the time goes; compare with other "
  "settings or with transformers"
)
EXAMPLE = """  python -m bert_jax bench --config=configs/quickstart.py
  python -m bert_jax bench --config=configs/bert_base.py:local --compare=transformers
  python -m bert_jax bench --config=configs/bert_base.py:phase2 --sequences=2 --against=model.attention=cudnn \\
    --against=model.dtype=float32,optimizer.microbatches=4"""

# A bench is without dropout unless it is asked for: what it costs is then seen apart.
_NO_DROPOUT = ("model.hidden_dropout_prob=0.0", "model.attention_probs_dropout_prob=0.0")


def add_arguments(parser: argparse.ArgumentParser) -> None:
  parser.add_argument(
    "--config",
    required=True,
    type=expanded,
    metavar="FILE.py[:variant]",
    help="the config file; dropout is 0 unless a --config flag says otherwise",
  )
  parser.add_argument(
    "--compare",
    choices=("transformers",),
    help="compare with transformers under PyTorch, eager and with torch.compile: same weights, rows and masks",
  )
  parser.add_argument(
    "--against",
    action="append",
    default=[],
    metavar="KEY=VALUE[,KEY=VALUE]",
    help="compare with the same config with other values; may be repeated",
  )
  parser.add_argument(
    "--sequences",
    type=int,
    default=1,
    metavar="N",
    help="sequences in a row, if there is no corpus and rows are synthetic (default: %(default)s)",
  )
  parser.add_argument(
    "--rounds",
    type=int,
    default=5,
    metavar="N",
    help="rounds, in each of which every contestant is timed once (default: %(default)s)",
  )
  parser.add_argument(
    "--seconds", type=float, default=2.0, metavar="S", help="approximate seconds per turn (default: %(default)s)"
  )
  parser.add_argument("--json", action="store_true", help="for programs")


def run(options: argparse.Namespace) -> int:
  if options.compare:  # PyTorch shares the GPU: JAX would take three quarters of its memory
    os.environ.setdefault("XLA_PYTHON_CLIENT_MEM_FRACTION", ".45")
  from bert_jax import config as configs
  from bert_jax.commands.processes import start_jax
  from bert_jax.errors import UserError
  from bert_jax.tools.bench import measure, page

  if options.rounds < 1:
    raise UserError(f"--rounds={options.rounds}: expected a number from 1")
  if not options.seconds > 0:
    raise UserError(f"--seconds={options.seconds}: expected a number above 0")
  overrides = [*_NO_DROPOUT, *options.overrides]
  config = configs.load_config(options.config, overrides)
  against = {
    changes: configs.load_config(options.config, [*overrides, *changes.split(",")]) for changes in options.against
  }
  start_jax()
  asked = measure.Asked(config, against, bool(options.compare), options.rounds, options.seconds, options.sequences)
  found = measure.measure(asked, lambda line: show(line, file=sys.stderr, flush=True))
  show(json.dumps(page.bench_json(found)) if options.json else page.bench_text(found))
  return 1 if any(result.agrees is False for result in found.results) else 0
