"""`plan`: what a run takes on machines that are not here."""

import argparse
import json

from bert_jax.errors import show
from bert_jax.io.paths import expanded

HELP = (
  "compile the training step for a TPU pod on a machine without one: does it fit, what bounds it, what does the run "
  "take"
)
EXAMPLE = """  python -m bert_jax plan --config=configs/bert_large.py:phase2 --topology=v5e:16x16
  python -m bert_jax plan --config=configs/bert_base.py:phase1 --topology=v5e:4x4 --sweep
  python -m bert_jax plan --config=configs/bert_base.py:phase1 --topology=h100:8        (by formula)"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
  parser.add_argument("--config", required=True, type=expanded, metavar="FILE.py[:variant]", help="the config file")
  parser.add_argument(
    "--topology", required=True, metavar="CHIP:SHAPE", help="as v5e:16x16, v5p:4x4x4, v5e:16x16*2 (two slices), h100:8"
  )
  parser.add_argument("--steps", type=int, metavar="N", help="updates of the run (default: as many as the config says)")
  parser.add_argument("--sweep", action="store_true", help="try meshes, microbatches and model.remat, and rank them")
  parser.add_argument(
    "--compile",
    type=int,
    default=4,
    metavar="N",
    help="with --sweep: how many to compile: the config as it is, and the best by formula (default: 4)",
  )
  parser.add_argument("--json", action="store_true", help="for programs")


def run(options: argparse.Namespace) -> int:
  from bert_jax import config as configs
  from bert_jax.cluster.chips import parse_topology
  from bert_jax.errors import UserError
  from bert_jax.tools.plan import plan

  for name, value in (("steps", options.steps), ("compile", options.compile)):
    if value is not None and value < 1:
      raise UserError(f"--{name}={value}: expected a number from 1")
  config = configs.load_config(options.config, options.overrides)
  topology = parse_topology(options.topology)
  if options.sweep:
    tried = plan.sweep(config, topology, compiled=options.compile, steps=options.steps)
    show(json.dumps([plan.plan_json(one) for one in tried.plans]) if options.json else plan.sweep_text(tried))
    return 0 if tried.plans[0].fits else 1
  found = plan.make_plan(config, topology, steps=options.steps)
  show(json.dumps(plan.plan_json(found)) if options.json else plan.plan_text(found))
  return 0 if found.fits else 1
