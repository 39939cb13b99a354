"""questions.py: windows leave nothing out, marks stand on the answer, scores become the text that they mean."""

import json

import numpy as np
import pytest

from bert_jax.data.labelled import questions
from bert_jax.data.labelled.questions import Question, answers_of, make_windows
from bert_jax.data.tokenizer.wordpiece import SPECIAL_TOKENS, build_tokenizer, load_tokenizer
from bert_jax.errors import UserError
from bert_jax.evaluation import metrics

LETTERS = "abcdefghijklmnopqrstuvwxyz"
TOKENIZER = build_tokenizer(
  [*SPECIAL_TOKENS, ".", "'", *LETTERS, *(f"##{c}" for c in LETTERS), *"中文的问题答案在哪里这"], lowercase=True
)


def asked(context, answer, name="q", question="who is it"):
  return Question(name, question, context, ((answer, context.index(answer)),) if answer else ())


def certain(windows):
  """Scores that are sure of every window's label."""
  scores = []
  for row, (begin, end) in enumerate(windows.features.labels):
    one = np.zeros((int(windows.features.lengths[row]), 2))
    one[begin, 0] = one[end, 1] = 9.0
    scores.append(one)
  return scores


CONTEXT = " ".join(f"{a}{b} {b}{a}." for a in LETTERS for b in "abcdefgh")


@pytest.mark.parametrize("max_length, stride", [(120, 40), (100, 30), (96, 500), (384, 128)])
def test_windows_cover_every_token_and_overlap(max_length, stride):
  windows = make_windows(TOKENIZER, [asked(CONTEXT, "zh hz")], max_length=max_length, stride=stride)
  features, covered = windows.features, []
  for row, begin in enumerate(windows.begins):
    count = int(features.lengths[row] - features.first_lengths[row]) - 1
    assert features.lengths[row] <= max_length
    covered.append((int(begin), int(begin) + count))
  assert covered[0][0] == 0 and covered[-1][1] == len(windows.spans[0])
  assert all(before[1] > after[0] > before[0] for before, after in zip(covered, covered[1:]))
  assert len(covered) > 1 and features.truncated == 1
  room = max_length - int(features.first_lengths[0]) - 1
  assert set(np.diff(windows.begins)) == {min(stride, room // 2)}


def test_the_marks_stand_on_the_answer():
  for answer in ("aa aa.", "ch hc", "zh hz.", "g"):
    one = asked(CONTEXT, answer)
    windows = make_windows(TOKENIZER, [one], max_length=120, stride=40)
    marked = 0
    for row, (begin, end) in enumerate(windows.features.labels):
      if (begin, end) == (0, 0):
        continue
      first = int(windows.features.first_lengths[row])
      place = windows.spans[0][[begin - first + windows.begins[row], end - first + windows.begins[row]]]
      assert answer in CONTEXT[place[0, 0] : place[1, 1]] and place[1, 1] - place[0, 0] <= len(answer) + 1
      marked += 1
    assert marked >= 1


def test_sure_scores_give_the_answers_back_in_their_own_spelling():
  given = [
    asked("The Cat's name is Bo. It is old", "Bo", "1"),
    asked(CONTEXT, "ch hc", "2"),
    asked("这里的文中问题在哪", "中问题", "3"),
    asked("abc de", "", "4"),
  ]
  windows = make_windows(TOKENIZER, given, max_length=100, stride=30)
  found = answers_of(windows, given, certain(windows))
  assert [one.text for one in found[:3]] == ["Bo", "ch hc", "中问题"]
  assert [one.is_none for one in found] == [False, False, False, True]
  for one, question in zip(found, given):
    assert question.context[one.begin : one.begin + len(one.text)] == one.text


def test_no_answer_is_said_only_where_all_windows_say_so():
  one = asked(CONTEXT, "ch hc")
  windows = make_windows(TOKENIZER, [one], max_length=100, stride=30)
  assert (windows.features.labels == 0).all(axis=1).sum() > len(windows.features.labels) / 2
  assert answers_of(windows, [one], certain(windows))[0].is_none is False


def test_an_answer_ends_behind_its_beginning_and_is_not_longer_than_allowed():
  one = asked("a b c d e f", "c")
  windows = make_windows(TOKENIZER, [one], max_length=100, stride=30)
  scores = certain(windows)
  first = int(windows.features.first_lengths[0])
  scores[0][:] = 0
  scores[0][first + 4, 0], scores[0][first + 1, 1] = 9.0, 9.0  # it would end before it begins
  found = answers_of(windows, [one], scores)[0]
  assert found.score == pytest.approx(9.0) and found.text
  long = asked(" ".join(LETTERS * 8), "a")
  windows = make_windows(TOKENIZER, [long], max_length=384, stride=128)
  scores = certain(windows)
  scores[0][:] = 0
  first, last = int(windows.features.first_lengths[0]), int(windows.features.lengths[0]) - 2
  scores[0][first, 0], scores[0][last, 1] = 9.0, 9.0
  assert len(answers_of(windows, [long], scores)[0].text.split()) <= questions.ANSWER_TOKENS


def test_a_chinese_answer_may_have_twice_as_many_tokens_for_they_are_characters():
  for context, most in (("中" * 300, questions.ANSWER_CHARACTERS), ("中 in english " * 60, questions.ANSWER_TOKENS)):
    windows = make_windows(TOKENIZER, [asked(context, context[0])], max_length=384, stride=128)
    scores = certain(windows)
    scores[0][:] = 0
    first = int(windows.features.first_lengths[0])
    scores[0][first, 0], scores[0][[first + most - 1, first + most], 1] = 9.0, (8.0, 9.0)
    assert answers_of(windows, [asked(context, context[0])], scores)[0].score == 17.0, (
      "not 18: that one is a token too long"
    )


def test_a_long_question_loses_its_end_and_rows_too_short_for_one_are_refused():
  one = asked("abc def", "def", question="ab " * 100)
  windows = make_windows(TOKENIZER, [one], max_length=120, stride=30)
  assert windows.features.first_lengths[0] == questions.QUESTION_TOKENS + 2
  with pytest.raises(UserError, match="rows of 80 tokens: a question takes up to 67 of them"):
    make_windows(TOKENIZER, [one], max_length=80, stride=30)


def test_answers_whose_place_is_wrong_are_named_by_their_question():
  context = "the cat sat"
  given = [
    Question("right", "?", context, (("cat", 4),)),
    Question("late", "?", context, (("cat", 5),)),
    Question("behind", "?", context, (("sat", 80),)),
    Question("before", "?", context, (("cat", -7),)),
    Question("one of two", "?", context, (("cat", 4), ("sat", 1))),
    Question("none", "?", context, ()),
  ]
  assert [one.name for one in given if not questions.answers_stand(one)] == ["late", "behind", "before", "one of two"]


def test_a_context_without_a_token_has_no_answer():
  one = Question("q", "who", " ", ())
  windows = make_windows(TOKENIZER, [one], max_length=100, stride=30)
  assert answers_of(windows, [one], [np.zeros((int(windows.features.lengths[0]), 2))])[0].text == ""


FLAT = [
  {
    "id": "a",
    "title": "t",
    "context": "the cat sat",
    "question": "who",
    "answers": {"text": ["cat", "the cat"], "answer_start": [4, 0]},
  },
  {"id": "b", "context": "the cat sat", "question": "where", "answers": {"text": [], "answer_start": []}},
]


@pytest.mark.parametrize(
  "content", [json.dumps(FLAT), json.dumps({"data": FLAT}, indent=1), "\n".join(map(json.dumps, FLAT)) + "\n"]
)
def test_the_flat_format_of_hugging_face_s_datasets_is_read(tmp_path, content):
  (tmp_path / "x.json").write_text(content)
  first, second = questions.read_squad(str(tmp_path / "x.json"))
  assert first == Question("a", "who", "the cat sat", (("cat", 4), ("the cat", 0))) and second.answers == ()
  assert [one.answers for one in questions.read_squad(str(tmp_path / "x.json"), answered=False)] == [(), ()]


def test_a_flat_question_that_lacks_something_is_named(tmp_path):
  (tmp_path / "x.jsonl").write_text(
    "\n".join(json.dumps(one) for one in (FLAT[0], {"id": "c", "context": "a", "question": "b"}))
  )
  with pytest.raises(UserError, match=r"x.jsonl, at data\[1\]: KeyError 'answers'; expected the format of SQuAD"):
    questions.read_squad(str(tmp_path / "x.jsonl"))


@pytest.mark.parametrize(
  "content, message",
  [
    ("[" * 100_000, "a.json:1: JSON nested more than"),
    ('{"data": [{"paragraphs": [{"context": "\\ud83d", "qas": []}]}]}', "a.json:1: 'data' holds half of a surrogate"),
    ('{"data": [],\n"data": []}', "a.json:1: .*the key 'data' stands twice"),
    ('{"data": 3}', "a.json, at data: TypeError"),
    ('{"id": "1", "question": "a", "context": "b"}\n{"id": NaN}', "a.json:2: .*NaN"),
    ('{"data": [\n{"paragraphs": [}]}', "a.json:2: not JSON"),
  ],
)
def test_what_is_no_json_is_named_with_its_line(tmp_path, content, message):
  (tmp_path / "a.json").write_text(content)
  with pytest.raises(UserError, match=message):
    questions.read_squad(str(tmp_path / "a.json"))


@pytest.mark.parametrize("field", ["question", "context"])
def test_what_is_no_text_is_an_error_that_says_where(tmp_path, field):
  qa = {"id": "1", "question": "who", "answers": []}
  paragraph = {"context": "the cat", "qas": [qa]}
  (qa if field == "question" else paragraph)[field] = None
  (tmp_path / "a.json").write_text(json.dumps({"data": [{"paragraphs": [paragraph]}]}))
  with pytest.raises(UserError, match=r"a.json, at data\[0\].paragraphs\[0\].qas\[0\]: TypeError None is not a text"):
    questions.read_squad(str(tmp_path / "a.json"))


@pytest.mark.parametrize(
  "file, vocabulary, chinese",
  [("squad_style/squadshifts_reddit_v1.0.json", "uncased", False), ("zh_squad/cmrc2018_trial.json", "chinese", True)],
)
def test_sure_scores_give_back_the_answers_of_real_questions(shared_data, file, vocabulary, chinese):
  """All but those that are longer than allowed, or that begin or end within a word."""
  given = questions.read_squad(str(shared_data / "tasks" / file))[:1500]
  given = [
    one
    for one in given
    if questions.answers_stand(one)
    and len(one.answers[0][0]) <= (questions.ANSWER_CHARACTERS if chinese else questions.ANSWER_TOKENS)
  ]
  windows = make_windows(
    load_tokenizer(shared_data / "vocab" / f"bert-base-{vocabulary}-vocab.txt"), given, max_length=200, stride=128
  )
  found = answers_of(windows, given, certain(windows))
  gold = [[text for text, _ in one.answers] for one in given]
  assert len(given) > 800 and metrics.squad(gold, [one.text for one in found], chinese=chinese)["exact_match"] > 0.995
