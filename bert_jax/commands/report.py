"""`report`: what became of a run, as text and as a picture of its curves."""

import argparse

HELP = "how a run went: steps, losses, speed, restarts; with --plot also its curves"
EXAMPLE = """  python -m bert_jax report --workdir=runs/quickstart
  python -m bert_jax report --workdir=runs/quickstart --plot=curves.png"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
  parser.add_argument("--workdir", required=True, metavar="DIR", help="the run folder; the run may go on")
  parser.add_argument("--plot", metavar="FILE", help="draw the curves into this .png, .svg or .pdf")


def run(options: argparse.Namespace) -> None:
  from bert_jax.tools import report

  record = report.read_run(options.workdir)
  print(report.summary(record))
  if options.plot:
    report.plot_curves(record, options.plot)
    print(f"{'picture':<20}{options.plot}")
