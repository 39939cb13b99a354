"""How good predictions are, as the leaderboards define it: scikit-learn, SciPy, and the definitions of conlleval and SQuAD.

Every function takes gold and predicted values of all examples of a split, and returns {metric: value}, shares between 0
and 1 and correlations between -1 and 1, for people to multiply by 100.
"""

import collections
import re
import string
import warnings
from typing import Sequence

import numpy as np

_ARTICLES = re.compile(r"\b(a|an|the)\b")
_CHINESE = re.compile(r"[㐀-䶿一-鿿豈-﫿]")
# What CMRC's scorer drops besides ASCII punctuation.
_CHINESE_PUNCTUATION = set("，。：？！“”；’《》……·、「」（）－～『』")


def classes(gold: np.ndarray, predicted: np.ndarray) -> dict[str, float]:
  """accuracy, macro_f1, mcc (Matthews' correlation); f1 of label 1 where there are two. int [N] each."""
  from sklearn import metrics

  result = {
      "accuracy": float(np.mean(gold == predicted)), "mcc": float(metrics.matthews_corrcoef(gold, predicted)),
      "macro_f1": float(metrics.f1_score(gold, predicted, average="macro", zero_division=0)),
  }  # fmt: skip
  if max(gold.max(), predicted.max()) <= 1:
    result["f1"] = float(metrics.f1_score(gold, predicted, zero_division=0))
  return result


def several_classes(gold: np.ndarray, predicted: np.ndarray) -> dict[str, float]:
  """micro_f1, macro_f1, and accuracy: the share of texts whose labels are all right. 0 or 1, [N, C] each."""
  from sklearn import metrics

  return {
      "micro_f1": float(metrics.f1_score(gold, predicted, average="micro", zero_division=0)),
      "macro_f1": float(metrics.f1_score(gold, predicted, average="macro", zero_division=0)),
      "accuracy": float(np.mean(np.all(gold == predicted, axis=1))),
  }  # fmt: skip


def scores(gold: np.ndarray, predicted: np.ndarray) -> dict[str, float]:
  """pearson, spearman, and mse. float [N] each. A constant prediction correlates with nothing: 0."""
  from scipy import stats

  with warnings.catch_warnings():
    warnings.simplefilter("ignore", stats.ConstantInputWarning)
    pearson, spearman = stats.pearsonr(gold, predicted)[0], stats.spearmanr(gold, predicted)[0]
  return {"pearson": float(np.nan_to_num(pearson)), "spearman": float(np.nan_to_num(spearman)), "mse": float(np.mean((gold - predicted) ** 2))}


def entities(gold: Sequence[Sequence[str]], predicted: Sequence[Sequence[str]]) -> dict[str, float]:
  """f1, precision and recall of entities as conlleval (and seqeval) counts them, type and both ends have to be right; accuracy of tags.

  Args:
    gold, predicted: for each text its tags: O, or a letter and a type, B-PER. B begins an entity, I and M go on, E ends one, S is
      one; what goes on from nothing begins, so that IOB1, IOB2, BIOES and BMES are all read right.
  """
  found = [{(number, *span) for number, tags in enumerate(texts) for span in spans_of(tags)} for texts in (gold, predicted)]
  right, of_gold, of_predicted = len(found[0] & found[1]), len(found[0]), len(found[1])
  pairs = [pair for a, b in zip(gold, predicted) for pair in zip(a, b)]
  return {
      "f1": _harmonic(right, of_gold, of_predicted) if of_gold + of_predicted else 0.0, "precision": right / max(of_predicted, 1),
      "recall": right / max(of_gold, 1), "accuracy": float(np.mean([a == b for a, b in pairs])) if pairs else 0.0,
  }  # fmt: skip


def spans_of(tags: Sequence[str]) -> list[tuple[str, int, int]]:
  """(type, first word, last word) of each entity in a text's tags, see `entities`."""
  spans, open_type, begin = [], None, 0
  for place, tag in enumerate([*tags, "O"]):
    letter, _, kind = tag.partition("-")
    goes_on = letter in ("I", "M", "E") and kind == open_type
    if open_type is not None and not goes_on:
      spans.append((open_type, begin, place - 1))
      open_type = None
    if letter != "O" and open_type is None:
      open_type, begin = kind, place
    if letter in ("E", "S") and open_type is not None:
      spans.append((open_type, begin, place))
      open_type = None
  return spans


def answers(gold: Sequence[Sequence[str]], predicted: Sequence[str], *, chinese: bool = False) -> dict[str, float]:
  """exact_match and f1 of answers: the best over the gold ones of each question; none is "", and so is its prediction.

  English: SQuAD's definition, lower case, without punctuation and articles, F1 of words. Chinese: CMRC 2018's, without
  punctuation, F1 of the longest run of characters that both have.
  """
  exact, f1 = (_same_chinese, _f1_chinese) if chinese else (_same, _f1)
  best = lambda score: float(np.mean([max(score(one, found) for one in (asked or [""])) for asked, found in zip(gold, predicted)]))
  return {"exact_match": best(exact), "f1": best(f1)}


def _normal(text: str) -> str:
  text = "".join(c for c in text.lower() if c not in string.punctuation)
  return " ".join(_ARTICLES.sub(" ", text).split())


def _same(gold: str, predicted: str) -> float:
  return float(_normal(gold) == _normal(predicted))


def _f1(gold: str, predicted: str) -> float:
  gold_words, words = _normal(gold).split(), _normal(predicted).split()
  if not gold_words or not words:
    return float(gold_words == words)
  return _harmonic(sum((collections.Counter(gold_words) & collections.Counter(words)).values()), len(gold_words), len(words))


def _segments(text: str) -> list[str]:
  """Chinese characters one by one, everything else in words; punctuation left out."""
  text = "".join(" " if c in string.punctuation or c in _CHINESE_PUNCTUATION else c for c in text.lower())
  return _CHINESE.sub(lambda found: f" {found[0]} ", text).split()


def _same_chinese(gold: str, predicted: str) -> float:
  return float("".join(_segments(gold)) == "".join(_segments(predicted)))


def _f1_chinese(gold: str, predicted: str) -> float:
  gold_parts, parts = _segments(gold), _segments(predicted)
  if not gold_parts or not parts:
    return float(gold_parts == parts)
  return _harmonic(_longest_run(gold_parts, parts), len(gold_parts), len(parts))


def _harmonic(common: int, gold: int, predicted: int) -> float:
  """F1 of `common` parts out of so many."""
  return 2 * common / (gold + predicted)


def _longest_run(one: list[str], other: list[str]) -> int:
  """How many parts in a row both have."""
  longest, before = 0, [0] * (len(other) + 1)
  for part in one:
    row = [0] * (len(other) + 1)
    for place, its in enumerate(other, 1):
      if part == its:
        row[place] = before[place - 1] + 1
        longest = max(longest, row[place])
    before = row
  return longest
