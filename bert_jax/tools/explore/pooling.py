"""Which vector of a model says what a text means: every layer and every pooling, by the cosines of scored pairs.

Shape legend: N pairs, L tokens, H hidden width.
"""

import pathlib
from typing import NamedTuple

import numpy as np

from bert_jax.data.labelled.tables import Table, read_table
from bert_jax.errors import UserError
from bert_jax.evaluation.similarity import cosines_of_pairs
from bert_jax.inference.model import Model
from bert_jax.tools.report.charts import escape, picture

# Columns that are looked for where none is named; else the first, second and third are meant.
COLUMNS = ("sentence1", "sentence2", "score")
_BATCH = 32  # pairs in one call of the model
_ROUNDING = 1e-6  # cosines that differ by no more are the same
_RESAMPLES = 200
NO_VECTOR = "–: there is no such vector, or it is the same for every text"


class Pairs(NamedTuple):
  """Pairs of texts.

  Attributes:
    first, second: N texts each, none empty.
    scores: float64 [N], the higher, the more alike.
    notes: what was left out of the file, for people.
  """

  first: list[str]
  second: list[str]
  scores: np.ndarray
  notes: tuple[str, ...] = ()


class PoolingComparison(NamedTuple):
  """What was found.

  Attributes:
    spearman: {pooling: for each layer Spearman's rank correlation of cosine and score}, layer 0 being the embeddings.
      NaN where there is no such vector (the pooler reads the last layer alone) or all cosines are the same ([CLS] of
      the embeddings).
    pairs: how many there were.
    truncated: texts that were longer than the model and lost their end.
    lead: how far the best cell is ahead of the best one of another pooling, and the standard error of that, from
      resampled pairs; NaN where there is one pooling only.
  """

  spearman: dict[str, list[float]]
  pairs: int
  truncated: int
  lead: tuple[float, float] = (float("nan"), float("nan"))

  @property
  def peaks(self) -> list[tuple[str, int]]:
    """(pooling, layer) of the highest correlation of each pooling, the best first."""
    found = [(name, int(np.nanargmax(row))) for name, row in self.spearman.items() if not np.all(np.isnan(row))]
    return sorted(found, key=lambda cell: -self.spearman[cell[0]][cell[1]])

  @property
  def best(self) -> tuple[str, int]:
    """(pooling, layer) with the highest correlation."""
    return self.peaks[0]


def read_pairs(path: str, text: str = "", text_pair: str = "", score: str = "") -> Pairs:
  """Reads scored pairs from a table (.csv, .tsv, .json …).

  Args:
    path: the file.
    text, text_pair, score: names of the columns; where empty, sentence1, sentence2 and score if the file has them, else
      the first, second and third.

  Raises:
    UserError: a column that is not there (those that are are listed), a score that is no number (with its line), fewer
      than three pairs, scores that are all the same.
  """
  given = (text, text_pair, score)
  # The number says that a table without a header will do, where no column is named.
  table = read_table(path, [name for name in given if name] or [*COLUMNS, "0"])
  if len(table.columns) < 3:
    raise UserError(f"{path} has the columns {', '.join(table.columns)}; expected a text, another one, and a score")
  columns = [
    name or (usual if usual in table.columns else table.columns[place])
    for place, (name, usual) in enumerate(zip(given, COLUMNS))
  ]
  first, second, scores = (table.column(name) for name in columns)
  kept = [row for row in range(len(first)) if first[row].strip() and second[row].strip()]
  values = np.array([_score(table, columns[2], scores[row], row) for row in kept])
  if len(kept) < 3 or np.all(values == values[0]):
    raise UserError(
      f"{path}: {len(kept)} pairs with texts, scores {sorted(set(values.tolist()))[:3]}; "
      "a rank correlation needs three at least, and different scores"
    )
  notes = [f"{table.ragged:,} lines with too few or too many columns are left out"] if table.ragged else []
  if len(kept) < len(first):
    empty = min(set(range(len(first))) - set(kept))
    notes.append(
      f"{len(first) - len(kept):,} pairs with an empty text are left out, the first of them at "
      f"{path}:{table.lines[empty]}"
    )
  return Pairs([first[row] for row in kept], [second[row] for row in kept], values, tuple(notes))


def _score(table: Table, name: str, cell: str, row: int) -> float:
  try:
    value = float(cell)
    if np.isfinite(value):
      return value
  except ValueError:
    pass
  raise UserError(
    f"{table.path}:{table.lines[row]}: the score {cell!r} in column {name} is not a number; if the first line is a "
    "header, name the columns: --text=… --text_pair=… --score=…"
  )


def compare_poolings(model: Model, pairs: Pairs) -> PoolingComparison:
  """Correlates cosines with scores, for every pooling and layer of a model.

  Raises:
    UserError: to the model all texts are the same.
  """
  cosines, truncated = cosines_of_pairs(model, pairs.first, pairs.second)
  layers = model.config.num_hidden_layers + 1
  spearman = {}
  for name, rows in cosines.items():
    values = [_spearman(pairs.scores, row) if np.ptp(row) > _ROUNDING else float("nan") for row in rows]
    spearman[name] = [float("nan")] * (layers - len(values)) + values
  result = PoolingComparison(spearman, len(pairs.first), truncated)
  if not result.peaks:
    raise UserError(f"{model.origin}: all cosines are the same: this model gives all of these texts the same vector")
  if len(result.peaks) < 2:
    return result
  ahead, behind = (cosines[name][layer - layers] for name, layer in result.peaks[:2])
  return result._replace(lead=_lead(pairs.scores, ahead, behind))


def _spearman(scores: np.ndarray, cosines: np.ndarray) -> float:
  from scipy import stats

  return float(stats.spearmanr(scores, cosines)[0])


def _lead(scores: np.ndarray, ahead: np.ndarray, behind: np.ndarray) -> tuple[float, float]:
  """(difference of the two correlations, its standard error): the bootstrap over pairs, which belong to both."""
  difference = lambda rows: _spearman(scores[rows], ahead[rows]) - _spearman(scores[rows], behind[rows])
  rng, every = np.random.default_rng(0), np.arange(len(scores))
  drawn = [rng.choice(every, len(every)) for _ in range(_RESAMPLES)]
  constant = lambda rows: any(
    np.ptp(values[rows]) == 0 for values in (scores, ahead, behind)
  )  # may happen with very few pairs
  return difference(every), float(np.std([difference(rows) for rows in drawn if not constant(rows)], ddof=1))


def verdict(found: PoolingComparison) -> str:
  """ "[CLS], pooler or mean?", answered in a few sentences for this model."""
  layers = len(next(iter(found.spearman.values())))
  where = lambda layer: (
    "the embeddings" if layer == 0 else f"layer {layer}" + (" (the last)" if layer == layers - 1 else "")
  )
  tell = lambda cell: f"{cell[0]} of {where(cell[1])} {found.spearman[cell[0]][cell[1]]:.3f}"
  best, *others = found.peaks
  text = f"Best: {tell(best)}."
  if others:
    lead, error = found.lead
    text += f" The other poolings at their best: {', '.join(map(tell, others))}."
    text += f" {best[0]} is ahead of {others[0][0]} by {lead:.3f} ± {error:.3f} (standard error over the pairs)"
    text += "." if lead > 2 * error else ": not a significant difference on these pairs."
  last = {name: row[-1] for name, row in found.spearman.items() if not np.isnan(row[-1])}
  text += (
    " At the last layer: "
    f"{', '.join(f'{name} {last[name]:.3f}' for name in sorted(last, key=lambda name: -last[name]))}."
  )
  if best[1] == 0:
    text += (
      " The embeddings are words without their neighbours: the layers add nothing that helps to compare these texts."
    )
  return text


def cosine_table(found: PoolingComparison) -> str:
  """The correlations as lines for a terminal, the best one marked."""
  layers = len(next(iter(found.spearman.values())))
  lines = [f"{'layer':<12}" + "".join(f"{name:>9} " for name in found.spearman).rstrip()]
  for layer in range(layers):
    cells = []
    for pooling, row in found.spearman.items():
      shown = "–" if np.isnan(row[layer]) else f"{row[layer]:.3f}"
      cells.append(f"{shown:>9}" + ("*" if (pooling, layer) == found.best else " "))
    lines.append((f"{'embeddings' if layer == 0 else layer:<12}" + "".join(cells)).rstrip())
  return "\n".join(lines)


def heat_map(found: PoolingComparison, model: str, pairs: str) -> str:
  """The correlations as an SVG of its own: poolings across, layers downwards, the last at the top; with the names of
  model and pairs.
  """
  poolings, layers = list(found.spearman), len(next(iter(found.spearman.values())))
  left, top, wide, high = 110, 78, 112, 30
  width, height = left + wide * len(poolings) + 24, top + high * layers + 62
  values = [value for row in found.spearman.values() for value in row if not np.isnan(value)]
  low, span = min(values), max(max(values) - min(values), 1e-9)
  parts = [
    f'<text x="14" y="26" font-size="15" font-weight="600">{escape(pathlib.PurePath(model).name)}</text>',
    f'<text x="14" y="46" fill="#777">Spearman of cosine and score, {found.pairs:,} pairs of '
    f"{escape(pathlib.PurePath(pairs).name)}</text>",
  ]
  for column, pooling in enumerate(poolings):
    parts.append(
      f'<text x="{left + wide * (column + 0.5):.0f}" y="{top - 6}" text-anchor="middle" '
      f'font-weight="600">{pooling}</text>'
    )
    for layer, value in enumerate(found.spearman[pooling]):
      x, y, share = left + wide * column, top + high * (layers - 1 - layer), (value - low) / span
      if np.isnan(value):
        parts.append(f'<text x="{x + wide / 2:.0f}" y="{y + 20}" text-anchor="middle" fill="#777">–</text>')
        continue
      shade = [round(247 + (end - 247) * share) for end in (8, 88, 158)]
      edge = ' stroke="#c0392b" stroke-width="3"' if (pooling, layer) == found.best else ""
      parts.append(
        f'<rect x="{x + 2}" y="{y + 2}" width="{wide - 4}" height="{high - 4}" rx="3" '
        f'fill="rgb({shade[0]},{shade[1]},{shade[2]})"{edge}/>'
      )
      parts.append(
        f'<text x="{x + wide / 2:.0f}" y="{y + 20}" text-anchor="middle" '
        f'fill="{"white" if share > 0.55 else "#222"}">{value:.3f}</text>'
      )
  for layer in range(layers):
    name = "embeddings" if layer == 0 else f"layer {layer}"
    parts.append(f'<text x="{left - 8}" y="{top + high * (layers - 1 - layer) + 20}" text-anchor="end">{name}</text>')
  for line, text in enumerate(("darker is higher, the best has a red edge", NO_VECTOR)):
    parts.append(f'<text x="14" y="{height - 32 + 17 * line}" font-size="12" fill="#777">{text}</text>')
  return picture(width, height, parts)
