"""What the newest checkpoint of a run writes at masks: a few sentences of the validation split, the same at every call.

Whole words of one token are masked, so that truth and guess are words that
people can read, and Chinese characters, which are tokens of their own.
"""

import random
import re
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from etils import epath

from bert_jax.data.corpus.folder import open_corpus
from bert_jax.data.loading.mixture import parse
from bert_jax.errors import UserError
from bert_jax.inference import model as inference
from bert_jax.tools.explore.corpus import Mark, readable
from bert_jax.tools.report.summary import RunRecord
from bert_jax.training.checkpoints.folder import committed_steps

TOP_K = 3
MIN_TOKENS, MAX_TOKENS = 8, 36
_TOKENS_PER_MASK, _MOST_MASKS = 10, 3
_TRIES = 40  # rows looked at for every sentence that is wanted
_ENDS = frozenset(".!?。！？")
_WORD = re.compile(r"[^\W\d_]{3,}|[\u3400-\u9fff\uf900-\ufaff]")


class Sample(NamedTuple):
  """A sentence with masks.

  Attributes:
    tokens: of the sentence.
    places: which of them are masked, ascending.
    guesses: for each place TOP_K proposals, the likeliest first.
  """

  tokens: list[str]
  places: list[int]
  guesses: list[list[inference.Completion]]

  def truth(self, number: int) -> str:
    """The token that stood at places[number]."""
    return self.tokens[self.places[number]]

  def text(self, shown: Sequence[str]) -> str:
    """The sentence, with `shown[i]` at places[i]: "returns the ⟦1⟧ of"."""
    text = readable(self.tokens, {place: Mark(seen) for place, seen in zip(self.places, shown)})
    for place, seen in zip(self.places, shown):
      text = text.replace(f"⟦{self.tokens[place]}→{seen}⟧", f"⟦{seen}⟧", 1)
    return text


class Samples(NamedTuple):
  """Samples of the checkpoint at `step`; none of them for a `reason`."""

  step: int | None
  samples: list[Sample]
  reason: str


def draw_samples(run: RunRecord, count: int) -> Samples:
  """`count` sentences, completed by the newest checkpoint that is sound; or the reason why there are none."""
  if not count:
    return Samples(None, [], "not requested")
  try:
    step, model = _newest_model(run.workdir)
    chosen = _sentences(run, model, count)
  except (UserError, OSError, ValueError) as error:
    return Samples(None, [], str(error))
  if not chosen:
    return Samples(step, [], "no sentence of the validation split has a word that can be masked")
  return Samples(step, _complete(model, chosen), "")


def _newest_model(workdir: epath.Path) -> tuple[int, inference.Model]:
  """(step, model) of the newest checkpoint that can be read. Raises UserError."""
  steps = committed_steps(workdir / "checkpoints")
  if not steps:
    raise UserError("the run has no checkpoint yet")
  for step in reversed(steps):
    try:
      return step, inference.load_checkpoint(workdir / "checkpoints" / str(step))
    except UserError as error:  # damaged, or just removed by the run that goes on
      last = error
  raise last


def _sentences(run: RunRecord, model: inference.Model, count: int) -> list[tuple[list[int], list[int]]]:
  """(ids, places of the masks), from rows that are spread over the validation split. Raises UserError."""
  mixture = run.config.get("data.mixture")
  folder = next(iter(parse(mixture))) if mixture else run.config.get("data.corpus", "")
  if not folder or not epath.Path(folder).exists():
    raise UserError(f"the corpus of the run ({folder or 'none'}) is not here")
  corpus = open_corpus(folder, verify=False)
  if corpus.manifest["tokenizer_fingerprint"] != model.tokenizer.fingerprint:
    raise UserError(f"the corpus at {folder} was made with another tokenizer than the run's")
  split = corpus.validation
  rows = np.unique(np.linspace(0, split.num_rows - 1, min(_TRIES * count, split.num_rows)).astype(np.int64))
  starts = np.random.default_rng(0).permutation(rows)  # neighbours come from the same document
  data = split.gather(starts)
  found: list[tuple[list[int], list[int]]] = []
  for row, ids, sequences in zip(starts.tolist(), data["tokens"].tolist(), data["sequences"].tolist()):
    length, first_length, _ = sequences[0]
    sentence = _cut(ids[model.tokenizer.template.texts(length, first_length)[0]], model)
    places = _choose(sentence, model, random.Random(row))
    if places:
      found.append((sentence, places))
    if len(found) == count:
      break
  return found


def _cut(ids: list[int], model: inference.Model) -> list[int]:
  """At most MAX_TOKENS, to the end of a sentence if one ends there, and never within a word."""
  most = min(MAX_TOKENS, model.config.max_position_embeddings - model.tokenizer.template.room(pair=False))
  if len(ids) <= most:
    return ids
  tokens = list(map(model.tokenizer.token, ids[:most]))
  for end in range(most, MIN_TOKENS, -1):
    if tokens[end - 1] in _ENDS:
      return ids[:end]
  while most > 0 and not model.tokenizer.starts_word(ids[most]):
    most -= 1
  return ids[:most]


def _choose(ids: list[int], model: inference.Model, draw: random.Random) -> list[int]:
  """Places of words of one token, never two neighbours; none in a sentence that is too short."""
  tokens = list(map(model.tokenizer.token, ids))
  whole = [
    place
    for place, token in enumerate(tokens)
    if _WORD.fullmatch(token) and (place + 1 == len(ids) or model.tokenizer.starts_word(ids[place + 1]))
  ]
  if len(ids) < MIN_TOKENS or not whole:
    return []
  wanted = min(max(len(ids) // _TOKENS_PER_MASK, 1), _MOST_MASKS)
  places: list[int] = []
  for place in draw.sample(whole, len(whole)):
    if all(abs(place - other) > 1 for other in places):
      places.append(place)
    if len(places) == wanted:
      break
  return sorted(places)


def _complete(model: inference.Model, chosen: list[tuple[list[int], list[int]]]) -> list[Sample]:
  """All sentences in one call of the model."""
  mask = model.tokenizer.special.mask
  masked: list[tuple[list[int], list[int]]] = [
    ([mask if place in places else index for place, index in enumerate(ids)], []) for ids, places in chosen
  ]
  positions = np.zeros((len(chosen), _MOST_MASKS), np.int32)
  for at, (_, places) in zip(positions, chosen):
    at[: len(places)] = model.tokenizer.template.offset + np.array(places)
  logits = np.asarray(inference.prediction_logits(model, inference.make_inputs(model, masked), positions), np.float64)
  samples = []
  for (ids, places), rows in zip(chosen, logits):
    odds = np.exp(rows - rows.max(axis=-1, keepdims=True))
    odds /= odds.sum(axis=-1, keepdims=True)
    guesses = [inference.likeliest(model, row, TOP_K) for row in odds[: len(places)]]
    samples.append(Sample(list(map(model.tokenizer.token, ids)), places, guesses))
  return samples


def samples_summary(drawn: Samples) -> str:
  """The samples as lines for a terminal."""
  if drawn.reason:
    return f"{'samples':<20}none: {drawn.reason}"
  lines = [f"{'samples':<20}checkpoint {drawn.step:,} on validation text: predictions, and the true tokens after them"]
  for sample in drawn.samples:
    lines.append(f"  {sample.text([str(number + 1) for number in range(len(sample.places))])}")
    for number, guesses in enumerate(sample.guesses):
      listed = "  ".join(f"{guess.token} {guess.probability:.1%}" for guess in guesses)
      lines.append(f"    ⟦{number + 1}⟧ {listed}   ({sample.truth(number)})")
  return "\n".join(lines)
