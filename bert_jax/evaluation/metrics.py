"""How good predictions are, as the leaderboards define it: scikit-learn, SciPy, and the definitions of conlleval and
SQuAD.

Every function takes gold and predicted values of all examples of a split, and returns {metric: value}, shares between 0
and 1 and correlations between -1 and 1, for people to multiply by 100.
"""

import collections
import re
import string
import warnings
from collections.abc import Sequence

import numpy as np

from bert_jax.data.labelled.tags import spans_of

_ARTICLES = re.compile(r"\b(a|an|the)\b")
# What CMRC's scorer takes for a Chinese character, what it drops, and nearly what nltk's words are in the text between.
_CHINESE = re.compile(r"([\u4e00-\u9fa5])")
_CHINESE_DROPPED = str.maketrans("", "", "-:_*^/\\~`+=，。：？！“”；’《》·、「」（）－～『』")
_WORDS = re.compile(r"\d+(?:[.,]\d+)+|\w+|[^\w\s]")


def classification(gold: np.ndarray, predicted: np.ndarray, *, count: int) -> dict[str, float]:
  """accuracy, macro_f1, mcc (Matthews' correlation); f1 of label 1 where the classes are two (`count`).

  int [N] each.
  """
  from sklearn import metrics

  with warnings.catch_warnings():
    warnings.simplefilter("ignore", UserWarning)  # that all of them are of one class
    mcc = float(metrics.matthews_corrcoef(gold, predicted))
  result = {
    "accuracy": float(np.mean(gold == predicted)),
    "mcc": mcc,
    "macro_f1": float(metrics.f1_score(gold, predicted, average="macro", zero_division=0)),
  }
  if count == 2:
    result["f1"] = float(metrics.f1_score(gold, predicted, zero_division=0))
  return result


def multilabel(gold: np.ndarray, predicted: np.ndarray) -> dict[str, float]:
  """micro_f1, macro_f1, and accuracy: the share of texts whose labels are all right. 0 or 1, [N, C] each.

  By hand, for scikit-learn takes one label alone (C = 1) for a question with two answers.
  """
  counts = [np.sum(part, axis=0) for part in (np.logical_and(gold, predicted), gold, predicted)]
  return {
    "micro_f1": _harmonic(*(float(part.sum()) for part in counts)),
    "macro_f1": float(np.mean([_harmonic(*own) for own in zip(*counts)])),
    "accuracy": float(np.mean(np.all(gold == predicted, axis=1))),
  }


def regression(gold: np.ndarray, predicted: np.ndarray) -> dict[str, float]:
  """pearson, spearman, and mse. float [N] each.

  A constant prediction correlates with nothing, and so does one score alone: 0. Predictions that are not finite: NaN.
  """
  from scipy import stats

  if not np.all(np.isfinite(predicted)):
    return dict.fromkeys(("pearson", "spearman", "mse"), float("nan"))
  mse = float(np.mean((gold - predicted) ** 2))
  if len(gold) < 2:
    return {"pearson": 0.0, "spearman": 0.0, "mse": mse}
  with warnings.catch_warnings():
    warnings.simplefilter("ignore", stats.ConstantInputWarning)
    pearson, spearman = stats.pearsonr(gold, predicted)[0], stats.spearmanr(gold, predicted)[0]
  return {"pearson": float(np.nan_to_num(pearson)), "spearman": float(np.nan_to_num(spearman)), "mse": mse}


def seqeval(gold: Sequence[Sequence[str]], predicted: Sequence[Sequence[str]]) -> dict[str, float]:
  """f1, precision and recall of entities as conlleval (and seqeval) counts them, type and both ends have to be right;
  accuracy of tags.

  Args:
    gold, predicted: for each text its tags: O, or a letter and a type, B-PER. B begins an entity, I and M go on, E ends
      one, S is one; a continuation without a beginning counts as a beginning, so that IOB1, IOB2, BIOES and BMES are
      all read right.
  """
  found = [
    {(number, *span) for number, tags in enumerate(texts) for span in spans_of(tags)} for texts in (gold, predicted)
  ]
  right, of_gold, of_predicted = len(found[0] & found[1]), len(found[0]), len(found[1])
  pairs = [pair for a, b in zip(gold, predicted) for pair in zip(a, b)]
  return {
    "f1": _harmonic(right, of_gold, of_predicted),
    "precision": right / max(of_predicted, 1),
    "recall": right / max(of_gold, 1),
    "accuracy": float(np.mean([a == b for a, b in pairs])) if pairs else 0.0,
  }


def squad(gold: Sequence[Sequence[str]], predicted: Sequence[str], *, chinese: bool = False) -> dict[str, float]:
  """exact_match and f1 of answers: the best over the gold ones of each question; none is "", and so is its prediction.

  English: SQuAD's definition (of 2.0; 1.1's says 0 where nothing is left of both), lower case, without punctuation and
    articles,
  F1 of words. Chinese: CMRC 2018's, without most punctuation, F1 of the longest run of characters that both have.
  """
  exact, f1 = (_same_chinese, _f1_chinese) if chinese else (_same, _f1)
  if not chinese:  # an answer that nothing is left of is none
    gold = [[one for one in asked if _normal(one)] for asked in gold]
  best = lambda score: float(
    np.mean([max(score(one, found) for one in (asked or [""])) for asked, found in zip(gold, predicted)])
  )
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
  return _harmonic(
    sum((collections.Counter(gold_words) & collections.Counter(words)).values()), len(gold_words), len(words)
  )


def _normal_chinese(text: str) -> str:
  return text.lower().strip().translate(_CHINESE_DROPPED)


def _segments(text: str) -> list[str]:
  """Chinese characters one by one, everything else in words."""
  return _WORDS.findall(_CHINESE.sub(r" \1 ", _normal_chinese(text)))


def _same_chinese(gold: str, predicted: str) -> float:
  return float(_normal_chinese(gold) == _normal_chinese(predicted))


def _f1_chinese(gold: str, predicted: str) -> float:
  gold_parts, parts = _segments(gold), _segments(predicted)
  if (
    not gold_parts or not parts
  ):  # of "no answer" both are empty; what is left of nothing but punctuation is worth nothing there
    return float(gold == predicted == "")
  return _harmonic(_longest_run(gold_parts, parts), len(gold_parts), len(parts))


def _harmonic(common: float, gold: float, predicted: float) -> float:
  """F1 of `common` parts out of so many; 0 where there is neither any to find nor one found."""
  return float(2 * common / (gold + predicted)) if gold + predicted else 0.0


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
