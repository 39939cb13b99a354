"""Questions about a text whose answers stand in it: SQuAD files, windows over long texts, and answers out of scores.

Rajpurkar et al. 2016 (arXiv 1606.05250) and, with questions that have no answer, 2018 (arXiv 1806.03822). A text that
is too long is read in windows that overlap; each says for itself where the answer begins and ends, or that it is not
there, by pointing at [CLS]; the best window wins, as in Devlin et al. 2018, section 4.2 and 4.3.
"""

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np

from bert_jax.data.labelled.features import Features, make_features
from bert_jax.data.labelled.tables import parse_lines
from bert_jax.data.text.text_files import read_whole
from bert_jax.data.tokenizer.template import Template
from bert_jax.data.tokenizer.vocabulary import CHINESE
from bert_jax.data.tokenizer.wordpiece import Tokenizer, encode_with_offsets
from bert_jax.errors import UserError
from bert_jax.io.json_files import parse_json

QUESTION_TOKENS = 64  # of a longer question the end is lost
BEST = 20  # beginnings and ends that are combined, in each window
ANSWER_TOKENS, ANSWER_CHARACTERS = (
  64,
  128,
)  # the longest answer that is given; where a token is a Chinese character, the second


class Question(NamedTuple):
  """A question about a text.

  Attributes:
    name: its id.
    text: the question.
    context: the text that it is about.
    answers: (answer, where it begins in the context, in characters); none where there is no answer.
  """

  name: str
  text: str
  context: str
  answers: tuple[tuple[str, int], ...]


class Windows(NamedTuple):
  """Questions cut into rows.

  Attributes:
    features: one row for every window: "[CLS] question [SEP] part of the context [SEP]"; labels int32 [N, 2].
    questions: int64 [N], which question a window belongs to.
    begins: int64 [N], the first token of the context in a window.
    spans: for each question int64 [tokens of the context, 2], where each token begins and ends in the context, in
      characters.
    template: frames the rows.
  """

  features: Features
  questions: np.ndarray
  begins: np.ndarray
  spans: list[np.ndarray]
  template: Template


def read_squad(path: str, answered: bool = True) -> list[Question]:
  """The questions of a file in the format of SQuAD 1.1 or 2.0, or in the flat one of Hugging Face's datasets.

  Args:
    path: JSON, or for the flat format JSON lines.
    answered: whether the questions have answers, which are then read.

  Raises:
    UserError: naming the file, the place and what is missing.
  """
  content = _json_of(path)
  questions, where = [], "data"
  try:
    for number, article in enumerate(content["data"] if isinstance(content, dict) and "data" in content else content):
      where = f"data[{number}]"
      if "context" in article:  # the flat format
        questions.append(_question(article, article["context"], answered))
        continue
      for part, paragraph in enumerate(article["paragraphs"]):
        for place, asked in enumerate(paragraph["qas"]):
          where = f"data[{number}].paragraphs[{part}].qas[{place}]"
          questions.append(_question(asked, paragraph["context"], answered))
  except (KeyError, TypeError, ValueError, AttributeError) as error:
    raise UserError(
      f'{path}, at {where}: {type(error).__name__} {error}; expected the format of SQuAD: {{"data": [{{"paragraphs": '
      '[{"context", "qas": [{"id", "question", "answers": [{"text", "answer_start"}]}]}]}]}'
    ) from error
  if not questions:
    raise UserError(f"{path} holds no questions")
  return questions


def _json_of(path: str) -> Any:
  """The JSON value of a file; of JSON lines a list of them."""
  lines, remedy = [one for one in read_whole(path) if one[1].strip()], "expected a file in the format of SQuAD"
  if len(lines) > 1 and lines[0][1].endswith("}"):
    return [parse_json(text, f"{path}:{number}", remedy=remedy) for number, text in lines]
  return parse_lines(path, lines, remedy=remedy, nan=False)


def _question(asked: dict, context: Any, answered: bool) -> Question:
  answers = [] if asked.get("is_impossible") or not answered else asked["answers"]
  if isinstance(answers, dict):  # the flat format has a list of texts and one of places
    said = zip(answers["text"], answers["answer_start"], strict=True)
  else:
    said = ((answer["text"], answer["answer_start"]) for answer in answers)
  return Question(
    str(asked["id"]),
    _text(asked["question"]),
    _text(context),
    answers_with_text((str(text), int(begin)) for text, begin in said),
  )


def answers_with_text(answers: Iterable[tuple[str, int]]) -> tuple[tuple[str, int], ...]:
  """Answers as of Question; an empty text is none, as some files write "there is no answer"."""
  return tuple((text, begin) for text, begin in answers if text.strip())


def _text(value) -> str:
  if not isinstance(value, str):
    raise TypeError(f"{value!r} is not a text")
  return value


def answers_stand(question: Question) -> bool:
  """Whether every answer stands in the context where the file says."""
  return all(
    begin >= 0 and question.context[begin : begin + len(answer)] == answer for answer, begin in question.answers
  )


def make_windows(tokenizer: Tokenizer, questions: Sequence[Question], *, max_length: int, stride: int) -> Windows:
  """Cuts questions into rows.

  Args:
    tokenizer: the model's.
    questions: those with an answer whose place is wrong have to be left out for training, see `answers_stand`.
    max_length: tokens in a row at most.
    stride: tokens from the beginning of a window of the context to that of the next; half a window where that is less.

  Raises:
    UserError: rows too short for a question and a piece of text.
  """
  if max_length < 1.5 * QUESTION_TOKENS:
    raise UserError(
      f"rows of {max_length} tokens: a question takes up to {QUESTION_TOKENS + tokenizer.template.room(pair=True)} of "
      "them; raise tuning.max_length (BERT: 384) or take a model with more positions"
    )
  template = tokenizer.template
  rows, firsts, labels, of_question, begins, spans = [], [], [], [], [], []
  contexts = list(dict.fromkeys(one.context for one in questions))
  encoded = dict(zip(contexts, encode_with_offsets(tokenizer, contexts)))
  asked = encode_with_offsets(tokenizer, [one.text for one in questions])
  truncated = 0
  for number, (one, question) in enumerate(zip(questions, asked)):
    ids, places = encoded[one.context].ids, np.array(encoded[one.context].offsets, np.int64).reshape(-1, 2)
    question_ids = question.ids[:QUESTION_TOKENS]
    first_length = template.first_length(len(question_ids), pair=True)
    room = max_length - template.room(pair=True) - len(question_ids)
    answer = _tokens_of(places, one.answers[0]) if one.answers else None
    spans.append(places)
    truncated += len(ids) > room
    step = min(stride, room // 2)
    for begin in range(0, max(len(ids) - room, 0) + step, step) if len(ids) > room else (0,):
      part = ids[begin : begin + room]
      rows.append(template.frame(question_ids, part)[0])
      inside = answer if answer and begin <= answer[0] and answer[1] < begin + len(part) else None
      labels.append([place - begin + first_length for place in inside] if inside else [0, 0])
      firsts.append(first_length)
      of_question.append(number)
      begins.append(begin)
      if begin + room >= len(ids):
        break
  features = make_features(rows, firsts, np.array(labels, np.int32), truncated)
  return Windows(features, np.array(of_question), np.array(begins), spans, template)


def _tokens_of(places: np.ndarray, answer: tuple[str, int]) -> tuple[int, int] | None:
  """First and last token that an answer touches; None where it touches none."""
  text, begin = answer
  touched = np.flatnonzero((places[:, 1] > begin) & (places[:, 0] < begin + len(text)))
  return (int(touched[0]), int(touched[-1])) if len(touched) else None


class Answer(NamedTuple):
  """What a model answers.

  Attributes:
    text: from the context; never empty, also where the model would rather say that there is none.
    begin: where it begins in the context, in characters.
    score: of this answer: the logits of its beginning and its end, added up.
    null_score: of "there is no answer", in the window that says so least.
  """

  text: str
  begin: int
  score: float
  null_score: float

  @property
  def is_none(self) -> bool:
    """Whether the model would rather say that there is no answer."""
    return self.null_score > self.score


def answers_of(windows: Windows, questions: Sequence[Question], logits: Sequence[np.ndarray]) -> list[Answer]:
  """The best answer to each question.

  Args:
    windows: of the questions.
    questions: as they were cut.
    logits: for each window float [L, 2], scores of beginning and end at each token of the row.
  """
  best: list[Answer | None] = [None] * len(questions)
  nulls = np.full(len(questions), np.inf)
  longest = [ANSWER_CHARACTERS if is_chinese(one.context) else ANSWER_TOKENS for one in questions]
  features = windows.features
  for row, scores in enumerate(logits):
    number = windows.questions[row]
    _, context = windows.template.texts(int(features.lengths[row]), int(features.first_lengths[row]))
    nulls[number] = min(nulls[number], scores[0, 0] + scores[0, 1])
    found = _best_span(scores[context], longest[number])
    if found is None:
      continue
    begin, end, score = found
    if best[number] is None or score > best[number].score:
      place = windows.spans[number][[begin + windows.begins[row], end + windows.begins[row]]]
      characters = int(place[0, 0]), int(place[1, 1])
      best[number] = Answer(questions[number].context[slice(*characters)], characters[0], score, 0.0)
  empty = Answer("", 0, -np.inf, np.inf)
  return [empty if one is None else one._replace(null_score=float(null)) for one, null in zip(best, nulls)]


def is_chinese(text: str) -> bool:
  """Whether most characters of a text are tokens of their own."""
  return 2 * len(CHINESE.findall(text)) > len(text)


def _best_span(scores: np.ndarray, longest: int) -> tuple[int, int, float] | None:
  """(first token, last token, score) of the best span in the context, at most `longest` tokens long; None without
  any.
  """
  begins = np.argsort(-scores[:, 0], kind="stable")[:BEST]
  ends = np.argsort(-scores[:, 1], kind="stable")[:BEST]
  total = scores[begins, 0][:, None] + scores[ends, 1][None, :]
  length = ends[None, :] - begins[:, None] + 1
  total = np.where((length >= 1) & (length <= longest), total, -np.inf)
  if not np.isfinite(total).any():
    return None
  begin, end = np.unravel_index(np.argmax(total), total.shape)
  return int(begins[begin]), int(ends[end]), float(total[begin, end])
