"""`doctor`: is everything ready for a run?"""

import argparse
import os
import shutil
import sys

from bert_jax.commands.pretrain import check_source_is_meant
from bert_jax.commands.processes import add_cluster_arguments
from bert_jax.errors import UserError, show
from bert_jax.io.paths import expanded

HELP = "check that everything is ready for a run: devices, processes, clocks, memory, disk, corpus; changes nothing"
EXAMPLE = """  python -m bert_jax doctor --config=configs/quickstart.py --workdir=runs/quickstart
  srun python -m bert_jax doctor --config=configs/bert_large.py:phase2 --workdir=/shared/runs/large --quick"""
MAX_WIDTH = 110


def add_arguments(parser: argparse.ArgumentParser) -> None:
  parser.add_argument(
    "--config", required=True, type=expanded, metavar="FILE.py[:variant]", help="the config of the run"
  )
  parser.add_argument("--workdir", required=True, type=expanded, metavar="DIR", help="its run folder; need not exist")
  parser.add_argument(
    "--quick", action="store_true", help="check only the sizes of the corpus files, not their contents"
  )
  parser.add_argument("--json", action="store_true", help="as JSON")
  add_cluster_arguments(parser)


def run(options: argparse.Namespace) -> int:
  os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")  # a run may be using the GPUs: leave it its memory
  from bert_jax.tools.doctor import row, versions

  try:
    from bert_jax import config as configs
    from bert_jax.cluster import distributed
    from bert_jax.tools.doctor import doctor
  except Exception as error:  # a package that is missing, or of a version that does not fit
    failure = row.fail(
      f"bert_jax cannot be imported: {type(error).__name__}: {error}", "install what is missing, then run doctor again"
    )
    rows = row.run_check("versions", versions.check_versions, "tfdata") | {"import": [failure]}
    show(row.findings_json(rows) if options.json else row.findings_table(rows, _width()))
    return 1

  config = configs.load_config(options.config, options.overrides)
  taking_part = distributed.detect(options.coordinator, options.num_processes, options.process_id)
  if taking_part.num_processes > 1:
    show(
      f"process {taking_part.process_id} of {taking_part.num_processes} waits up to {config.cluster.connect_seconds} s "
      f"for the others at {taking_part.coordinator}",
      file=sys.stderr,
      flush=True,
    )
  rows, status = doctor.run_checks(config, options.workdir, taking_part, quick=options.quick)
  try:
    check_source_is_meant(config, options.overrides)
  except UserError as error:  # what pretrain says before it looks at anything
    rows, status = rows and rows | {"corpus": [row.refused(error)]}, row.FAIL
  if rows:  # one process speaks for all
    show(row.findings_json(rows) if options.json else row.findings_table(rows, _width()))
  return 1 if status == row.FAIL else 0


def _width() -> int:
  return min(shutil.get_terminal_size().columns, MAX_WIDTH)
