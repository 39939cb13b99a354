"""`report`: what became of a run, as text and as one page with its curves."""

import argparse

from bert_jax.errors import show
from bert_jax.io.paths import expanded

HELP = "report on a run: one HTML page with curves, goodput, restarts and samples, and a short text version"
EXAMPLE = """  python -m bert_jax report --workdir=runs/quickstart
  python -m bert_jax report --workdir=runs/quickstart --html=quickstart.html --plot=curves.svg"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
  parser.add_argument(
    "--workdir", required=True, type=expanded, metavar="DIR", help="the run folder; the run may still be active"
  )
  parser.add_argument(
    "--html", type=expanded, metavar="FILE", help="path of the page (default: report.html in the run folder)"
  )
  parser.add_argument("--plot", type=expanded, metavar="FILE", help="also draw the curves into this .svg")
  parser.add_argument(
    "--samples",
    type=int,
    default=4,
    metavar="N",
    help="sentences that the newest checkpoint completes, on this machine's CPU; 0: none (default: %(default)s)",
  )


def run(options: argparse.Namespace) -> None:
  import jax

  from bert_jax.commands.processes import start_jax
  from bert_jax.commands.texts import write_for_user
  from bert_jax.errors import UserError
  from bert_jax.tools.report import figures, page, samples, summary

  if options.samples < 0:
    raise UserError(f"--samples={options.samples}: 0 or more sentences")
  if options.plot:
    figures.check_name(options.plot)
  record = summary.read_run(options.workdir)
  show(summary.run_summary(record), flush=True)
  start_jax()
  jax.config.update("jax_platforms", "cpu")  # the accelerators may be the run's
  drawn = samples.draw_samples(record, options.samples)
  show(f"\n{samples.samples_summary(drawn)}\n")
  if options.plot:
    write_for_user("--plot", options.plot, figures.curves(record))
    show(summary.row("picture", options.plot))
  path = options.html or str(record.workdir / page.FILE_NAME)
  write_for_user("--html", path, page.report_page(record, drawn))
  show(summary.row("page", path))
