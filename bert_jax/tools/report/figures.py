"""The curves of a run as a picture of its own: for a README, a paper, a message."""

from bert_jax.errors import UserError
from bert_jax.tools.report import charts, page
from bert_jax.tools.report.style import PICTURE_STYLE
from bert_jax.tools.report.summary import RunRecord

_GAP = 24


def check_name(path: str) -> None:
  """Raises UserError for a file that is not to be an SVG."""
  if not path.lower().endswith(".svg"):
    raise UserError(
      f"--plot={path}: expected a file name ending in .svg; `rsvg-convert -o curves.png curves.svg`, Inkscape or a "
      "browser make a .png or .pdf of it"
    )


def curves(run: RunRecord) -> str:
  """The charts of the page's curves, two abreast, as an SVG."""
  drawn = [chart for chart in page.curves(run) if chart]
  columns = min(len(drawn), 2)
  parts = [f"<style>{PICTURE_STYLE}</style>"]
  for number, chart in enumerate(drawn):
    row, column = divmod(number, columns)
    x, y = _GAP + column * (charts.WIDTH + _GAP), _GAP + row * (charts.HEIGHT + _GAP)
    parts.append(chart.replace("<svg ", f'<svg x="{x}" y="{y}" width="{charts.WIDTH}" height="{charts.HEIGHT}" ', 1))
  size = lambda count, each: _GAP + count * (each + _GAP)
  return charts.picture(size(columns, charts.WIDTH), size(-(-len(drawn) // 2), charts.HEIGHT), parts)
