"""The curves of a run as a picture of its own, with matplotlib: for a README, a paper, a message."""

import os

from etils import epath

from bert_jax.data.corpus.pairs import PAIR_OBJECTIVES
from bert_jax.errors import UserError
from bert_jax.tools.report.summary import RunRecord, curve, unigram_entropy

FIGURE_FORMATS = (".png", ".svg", ".pdf")
TRAIN_COLOR, EVAL_COLOR, LIMIT_COLOR = "#8fb4d9", "#1a4e8a", "#c0392b"


def plot_curves(run: RunRecord, out: str | os.PathLike) -> None:
  """Draws the MLM loss and, where the run has it, the NSP or SOP accuracy beside it.

  Args:
    run: what to draw.
    out: a file ending in .png, .svg or .pdf; it appears whole or not at all.

  Raises:
    UserError: another ending, or a folder that cannot be written to.
  """
  out = os.fspath(out)
  ending = os.path.splitext(out)[1].lower()
  if ending not in FIGURE_FORMATS:
    raise UserError(f"--plot={out}: expected a file name ending in {', '.join(FIGURE_FORMATS)}")
  import matplotlib
  import matplotlib.figure  # not pyplot, which would look for a display

  pairs = next((name for name in PAIR_OBJECTIVES if curve(run, f"train/{name}_accuracy")[0]), "")
  style = {
    "font.size": 11,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#e8e8e8",
    "axes.axisbelow": True,
    "svg.hashsalt": "bert_jax",
  }
  with matplotlib.rc_context(style):
    figure = matplotlib.figure.Figure(figsize=(10, 3.8) if pairs else (6, 3.8), layout="constrained")
    axes = figure.subplots(1, 2 if pairs else 1, squeeze=False)[0]
    entropy = unigram_entropy(run)
    label = f"unigram entropy {entropy:.2f}" if entropy else ""
    _draw(axes[0], run, "mlm_loss", "MLM loss (nats)", entropy, label)
    if pairs:
      majority = (curve(run, f"eval/{pairs}_majority")[1] or [None])[-1]
      label = f"majority share {majority:.0%}" if majority else ""
      _draw(axes[1], run, f"{pairs}_accuracy", f"{pairs.upper()} accuracy", majority, label)
      axes[1].yaxis.set_major_formatter(lambda value, _: f"{value:.0%}")
    partial = f"{out}.partial"
    try:
      figure.savefig(partial, format=ending[1:], dpi=150)
      os.replace(partial, out)
    except OSError as error:
      epath.Path(partial).unlink(missing_ok=True)
      raise UserError(f"cannot write {out}: {error.strerror or error}; choose another --plot, or make room") from error


def _draw(axis, run: RunRecord, name: str, title: str, limit: float | None, limit_label: str) -> None:
  """One panel: training as a thin line, evaluation as a marked one, and a dashed line to compare with."""
  axis.plot(*curve(run, f"train/{name}"), color=TRAIN_COLOR, linewidth=1.2, label="train")
  steps, values = curve(run, f"eval/{name}")
  axis.plot(steps, values, color=EVAL_COLOR, linewidth=1.8, marker="o", markersize=4, label="validation")
  if limit is not None:
    axis.axhline(limit, color=LIMIT_COLOR, linewidth=1.2, linestyle=(0, (5, 3)), label=limit_label)
  axis.set_title(title, loc="left", fontsize=12)
  axis.set_xlabel("step")
  axis.xaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
  axis.locator_params(axis="x", nbins=6)
  axis.set_xlim(left=0)
  axis.legend(framealpha=0.85, edgecolor="none")
