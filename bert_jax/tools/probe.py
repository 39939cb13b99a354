"""Which vector of a model says what a text means: every layer and every pooling, by the cosines of scored pairs."""

import pathlib
from typing import NamedTuple

import numpy as np

from bert_jax import inference, task_metrics
from bert_jax.data.tables import Table, read_table
from bert_jax.data.tokenizer import encode_batch, truncate
from bert_jax.errors import UserError
from bert_jax.inference import Model
from bert_jax.models.pooling import POOLINGS, pool
from bert_jax.tools.svg import escape

_BATCH = 32


class Pairs(NamedTuple):
  """Pairs of texts with scores, float64 [N]: the higher, the more alike."""

  first: list[str]
  second: list[str]
  scores: np.ndarray


class Probe(NamedTuple):
  """What was found.

  Attributes:
    spearman: {pooling: for each layer Spearman's rank correlation of cosine and score}, layer 0 being the embeddings; the pooler
      reads the last layer alone, its others are NaN.
    pairs: how many there were.
    truncated: texts that were longer than the model and lost their end.
  """

  spearman: dict[str, list[float]]
  pairs: int
  truncated: int

  @property
  def best(self) -> tuple[str, int]:
    """(pooling, layer) with the highest correlation."""
    return max(((pooling, layer) for pooling, row in self.spearman.items() for layer, value in enumerate(row) if not np.isnan(value)),
               key=lambda cell: self.spearman[cell[0]][cell[1]])  # fmt: skip


def read_pairs(path: str, text: str = "", text_pair: str = "", score: str = "") -> Pairs:
  """Reads scored pairs from a table (.csv, .tsv, .json …); without names its first three columns are meant.

  Raises:
    UserError: a column that is not there (those that are are listed), a score that is no number (with its line), fewer than
      three pairs, scores that are all the same.
  """
  names = [name for name in (text, text_pair, score) if name]
  if names and len(names) < 3:
    raise UserError("--text, --text_pair and --score name three columns together; without any, the first three are meant")
  table = read_table(path, names)
  columns = names or list(table.columns[:3])
  if len(columns) < 3:
    raise UserError(f"{path} has the columns {', '.join(table.columns)}; expected a text, another one, and a score")
  first, second, given = (table.column(name) for name in columns)
  kept = [row for row in range(len(first)) if first[row].strip() and second[row].strip()]
  scores = np.array([_score(table, columns[2], given, row) for row in kept])
  if len(kept) < 3 or np.all(scores == scores[0]):
    raise UserError(f"{path}: {len(kept)} pairs with texts, scores {sorted(set(scores.tolist()))[:3]}; a rank correlation needs three at least, and different scores")
  return Pairs([first[row] for row in kept], [second[row] for row in kept], scores)


def _score(table: Table, name: str, given: list[str], row: int) -> float:
  try:
    value = float(given[row])
    if np.isfinite(value):
      return value
  except ValueError:
    pass
  raise UserError(f"{table.path}:{table.lines[row]}: the score {given[row]!r} in column {name} is not a number; if the first line is a header, "
                  "name the columns: --text=… --text_pair=… --score=…")  # fmt: skip


def probe(model: Model, pairs: Pairs) -> Probe:
  """Correlates cosines with scores, for every pooling and layer of a model."""
  limit = model.config.max_position_embeddings
  cut = [truncate(ids, [], limit) for ids in encode_batch(model.tokenizer, [*pairs.first, *pairs.second])]
  layers, count = model.config.num_hidden_layers + 1, len(cut)
  poolings = [pooling for pooling in POOLINGS if pooling != "pooler" or "pooler" in model.heads]
  vectors = {pooling: np.zeros((1 if pooling == "pooler" else layers, count, model.config.hidden_size), np.float32) for pooling in poolings}
  by_length = sorted(range(count), key=lambda i: len(cut[i][0]))  # little padding
  for begin in range(0, count, _BATCH):
    members = by_length[begin : begin + _BATCH]
    filled = members + [members[-1]] * (_BATCH - len(members))  # one batch shape only
    inputs = inference.make_inputs(model, [cut[i][:2] for i in filled])
    output = inference.apply(model, inputs)
    for pooling in poolings:
      states = output.hidden_states[-1:] if pooling == "pooler" else output.hidden_states
      for layer, state in enumerate(states):
        vectors[pooling][layer, members] = np.asarray(pool(state, output.pooled_output, inputs, pooling))[: len(members)]
  half = len(pairs.first)
  found = {}
  for pooling in poolings:
    values = [task_metrics.scores(pairs.scores, _cosines(one[:half], one[half:]))["spearman"] for one in vectors[pooling]]
    found[pooling] = [float("nan")] * (layers - len(values)) + values
  return Probe(found, half, sum(was_cut for _, _, was_cut in cut))


def _cosines(first: np.ndarray, second: np.ndarray) -> np.ndarray:
  norms = np.linalg.norm(first, axis=-1) * np.linalg.norm(second, axis=-1)
  return np.sum(first * second, axis=-1) / np.maximum(norms, 1e-12)


def verdict(found: Probe) -> str:
  """"[CLS], pooler or mean?", answered in a sentence or two for this model."""
  pooling, layer = found.best
  last = {name: row[-1] for name, row in found.spearman.items()}
  order = sorted(last, key=lambda name: -last[name])
  ranked = ", ".join(f"{name} {last[name]:.3f}" for name in order)
  best = found.spearman[pooling][layer]
  layers = len(next(iter(found.spearman.values())))
  where = "the embeddings" if layer == 0 else f"layer {layer}" + (" (the last)" if layer == layers - 1 else "")
  text = f"At the last layer: {ranked}. The best of all is {pooling} of {where}, {best:.3f}."
  if layer == 0:
    text += " That is a sum of words without their order: what the layers add does not help to compare these texts."
  return text


def table(found: Probe) -> str:
  """The correlations as lines for a terminal, the best one marked."""
  best, layers = found.best, len(next(iter(found.spearman.values())))
  lines = [f"{'layer':<12}" + "".join(f"{name:>10}" for name in found.spearman)]
  for layer in range(layers):
    name = "embeddings" if layer == 0 else str(layer)
    cells = [f"{'' if np.isnan(row[layer]) else f'{row[layer]:.3f}' + ('*' if (pooling, layer) == best else ' '):>10}" for pooling, row in found.spearman.items()]
    lines.append(f"{name:<12}" + "".join(cells))
  return "\n".join(lines)


def heat_map(found: Probe, model: str, pairs: str) -> str:
  """The correlations as an SVG of its own: poolings across, layers downwards, the last at the top; with the names of model and pairs."""
  poolings, layers = list(found.spearman), len(next(iter(found.spearman.values())))
  left, top, wide, high = 110, 78, 92, 30
  width, height = left + wide * len(poolings) + 24, top + high * layers + 46
  values = [value for row in found.spearman.values() for value in row if not np.isnan(value)]
  low, span = min(values), max(max(values) - min(values), 1e-9)
  parts = [f'<text x="14" y="26" font-size="15" font-weight="600">{escape(pathlib.PurePath(model).name)}</text>',
           f'<text x="14" y="46" fill="#777">Spearman of cosine and score, {found.pairs:,} pairs of {escape(pathlib.PurePath(pairs).name)}</text>']  # fmt: skip
  for column, pooling in enumerate(poolings):
    parts.append(f'<text x="{left + wide * (column + 0.5):.0f}" y="{top - 6}" text-anchor="middle" font-weight="600">{pooling}</text>')
    for layer, value in enumerate(found.spearman[pooling]):
      if np.isnan(value):
        continue
      x, y, share = left + wide * column, top + high * (layers - 1 - layer), (value - low) / span
      shade = [round(247 + (end - 247) * share) for end in (8, 88, 158)]
      edge = ' stroke="#c0392b" stroke-width="3"' if (pooling, layer) == found.best else ""
      parts.append(f'<rect x="{x + 2}" y="{y + 2}" width="{wide - 4}" height="{high - 4}" rx="3" fill="rgb({shade[0]},{shade[1]},{shade[2]})"{edge}/>')
      parts.append(f'<text x="{x + wide / 2:.0f}" y="{y + 20}" text-anchor="middle" fill="{"white" if share > 0.55 else "#222"}">{value:.3f}</text>')
  for layer in range(layers):
    name = "embeddings" if layer == 0 else f"layer {layer}"
    parts.append(f'<text x="{left - 8}" y="{top + high * (layers - 1 - layer) + 20}" text-anchor="end">{name}</text>')
  parts.append(f'<text x="14" y="{height - 16}" font-size="12" fill="#777">the best has a red edge</text>')
  return (f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}" '
          f'font-family="system-ui, sans-serif" font-size="13"><rect width="100%" height="100%" fill="white"/>{"".join(parts)}</svg>\n')  # fmt: skip
