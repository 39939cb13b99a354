"""task_files.py: native formats as examples; what is counted, what is refused; the tenth that is held out."""

import json

import pytest

from bert_jax.data.labelled import tasks
from bert_jax.data.labelled.examples import labels_of
from bert_jax.data.labelled.task_files import load_splits
from bert_jax.data.text import tfds_texts
from bert_jax.errors import UserError


@pytest.fixture
def folder(tmp_path):
  """write(name=content, …) -> the folder with these files."""

  def write(**files):
    for name, content in files.items():
      (tmp_path / name.replace("__", ".").replace("_DASH_", "-")).write_text(content)
    return str(tmp_path)

  return write


def test_sst2_and_cola_with_a_header_and_without(folder, tmp_path):
  found = load_splits(
    task="sst2", data=folder(train__tsv="sentence\tlabel\na film \t1\nbad\t0\n", dev__tsv="sentence\tlabel\nfine\t1\n")
  )
  assert (found.kind, found.train.first, found.train.labels, found.dev.first) == (
    "classification",
    ["a film", "bad"],
    ["1", "0"],
    ["fine"],
  )
  cola = tmp_path / "cola"
  cola.mkdir()
  (cola / "in_domain_train.tsv").write_text("gj04\t1\t\tHe ran.\ngj04\t0\t*\tRan he the.\n")
  (cola / "in_domain_dev.tsv").write_text("gj04\t1\t\tShe ran.\n")
  assert load_splits(task="cola", data=str(cola)).train.labels == ["1", "0"]


def test_pairs_whose_annotators_did_not_agree_and_empty_texts_are_counted(folder):
  rows = [
    {"sentence1": "a", "sentence2": "b", "label": "neutral"},
    {"sentence1": "c", "sentence2": "d", "label": "-"},
    {"sentence1": "e", "sentence2": " ", "label": "neutral"},
  ]
  text = "\n".join(map(json.dumps, rows))
  found = load_splits(task="ocnli", data=folder(train__json=text, dev__json=text))
  assert found.train.first == ["a"] and found.train.second == ["b"]
  assert [note.split(" of ")[0] + note[note.index(" have") :] for note in found.train.notes] == [
    "1 lines have no label",
    "1 lines have an empty text",
  ]


def test_in_a_file_of_ones_own_a_dash_is_a_label(folder):
  path = folder(own__tsv="text\tlabel\na\t+\nb\t-\nc\t\nd\t-\n") + "/own.tsv"
  found = load_splits(data=path, dev=path, text="text", label="label").train
  assert found.labels == ["+", "-", "-"] and found.kind == "classification" and "1 lines of" in found.notes[0]


def test_an_answer_without_a_text_is_none(folder):
  asked = {
    "context": "a b",
    "qas": [{"id": "1", "question": "?", "answers": [{"text": "", "answer_start": start}]} for start in (0, -1)]
    + [{"id": "2", "question": "?", "answers": [{"text": "b", "answer_start": 2}]}],
  }
  text = json.dumps({"data": [{"paragraphs": [asked]}]})
  found = load_splits(task="squad", data=folder(train_DASH_v1__1__json=text, dev_DASH_v1__1__json=text)).train
  assert [one.answers for one in found.first] == [(), (), (("b", 2),)] and not found.notes


def test_scores_that_are_no_numbers_are_named_with_their_line(folder):
  path = folder(stsb_DASH_en_DASH_train__csv='a,b,1.0\nc,"d, e",high\n', stsb_DASH_en_DASH_dev__csv="a,b,1\n")
  with pytest.raises(UserError, match=r"stsb-en-train.csv:2: the score 'high' is not a number"):
    load_splits(task="stsb", data=path)


def test_every_entity_begins_with_b_whatever_the_file_has(folder):
  iob1 = (
    "EU NNP I-NP I-ORG\nMerkel NNP I-NP I-PER\nMay NNP I-NP B-PER\nsaid VB O O\n\n-DOCSTART- -X- O O\n\nIn IN O O\n"
  )
  found = load_splits(task="conll2003", data=folder(eng__train=iob1, eng__testa=iob1)).train
  assert found.first == [["EU", "Merkel", "May", "said"], ["In"]] and found.labels == [
    ["B-ORG", "B-PER", "B-PER", "O"],
    ["O"],
  ]


def test_tags_of_bioes_and_bmes_become_iob2(folder):
  path = folder(x__conll="a B-X\nb M-X\nc E-X\nd S-Y\ne O\nf B-X\ng I-X\n")
  found = load_splits(data=f"{path}/x.conll", dev=f"{path}/x.conll")
  assert found.kind == "token-classification" and found.train.labels == [
    ["B-X", "I-X", "I-X", "B-Y", "O", "B-X", "I-X"]
  ]


def test_the_numbers_behind_the_characters_of_weibo_are_dropped(folder):
  text = "口0\tO\n腔1\tB-LOC.NAM\n\n科0\tO\n"
  found = load_splits(task="weibo-ner", data=folder(weibo__train__conll=text, weibo__dev__conll=text)).train
  assert found.first == [["口", "腔"], ["科"]]


def squad(*questions):
  return json.dumps({"data": [{"paragraphs": [{"context": "the cat sat on the mat", "qas": list(questions)}]}]})


def test_answers_that_stand_elsewhere_are_counted_and_named(folder):
  right = {"id": "q1", "question": "who", "answers": [{"text": "cat", "answer_start": 4}]}
  wrong = {"id": "q2", "question": "where", "answers": [{"text": "mat", "answer_start": 3}]}
  none = {"id": "q3", "question": "why", "answers": [], "is_impossible": True}
  path = folder(a__json=squad(right, wrong, none))
  found = load_splits(task="squad2", data=f"{path}/a.json", dev=f"{path}/a.json")
  assert (
    len(found.train.first) == 3
    and "1 answers are not at the positions that" in found.train.notes[0]
    and "q2" in found.train.notes[0]
  )
  with pytest.raises(UserError, match=r"at data\[0\].paragraphs\[0\].qas\[0\].*expected the format of SQuAD"):
    load_splits(
      task="squad",
      data=folder(b__json='{"data": [{"paragraphs": [{"context": "x", "qas": [{"id": 1}]}]}]}') + "/b.json",
      dev=f"{path}/a.json",
    )


def test_a_tenth_is_held_out_by_content_and_texts_that_are_the_same_stay_together(folder):
  lines = [f"premise {number // 3}\thypothesis {number}\t{number % 2}" for number in range(900)]
  path = folder(train__tsv="\n".join(["sentence1\tsentence2\tlabel", *lines]))
  found = load_splits(task="rte", data=path)
  assert found.held_out and 50 < len(found.dev.first) < 140 and len(found.train.first) + len(found.dev.first) == 900
  assert not set(found.train.first) & set(found.dev.first)
  shuffled = folder(train__tsv="\n".join(["sentence1\tsentence2\tlabel", *reversed(lines)]))
  assert set(load_splits(task="rte", data=shuffled).dev.first) == set(found.dev.first)


@pytest.mark.parametrize(
  "labels, kind",
  [
    (["good", "bad"], "classification"),
    (["1", "0"], "classification"),
    (["1|2", "2"], "multi-label"),
    (["0.5", "1.25"], "regression"),
    (["1.0", "0.0"], "classification"),
    (["3", "2.5"], "regression"),
  ],
)
def test_what_the_labels_are_is_found_out(folder, labels, kind):
  rows = "\n".join(f"text {number}\t{label}" for number, label in enumerate(labels * 40))
  assert (
    load_splits(data=folder(own__tsv=f"review\tstars\n{rows}") + "/own.tsv", text="review", label="stars").kind == kind
  )


def test_many_whole_numbers_may_be_classes_or_scores_and_are_asked_about(folder):
  path = folder(own__tsv="t\tl\n" + "".join(f"text {number}\t{number % 77}\n" for number in range(770))) + "/own.tsv"
  with pytest.raises(UserError, match="77 different whole numbers, 0 to 76: are they classes or scores"):
    load_splits(data=path, text="t", label="l")
  for kind in ("classification", "regression"):
    assert load_splits(data=path, text="t", label="l", kind=kind).kind == kind


@pytest.mark.parametrize("first, noted", [("text\tlabel", True), ("a film\tgood", False)])
def test_a_header_that_is_read_as_an_example_is_asked_about(folder, first, noted):
  path = folder(x__tsv=first + "".join(f"\ntext {number}\t{'good' if number % 2 else 'bad'}" for number in range(40)))
  found = load_splits(data=f"{path}/x.tsv", text="0", label="1")
  assert any("is that line a header?" in note for note in found.train.notes) is noted
  several = folder(
    y__tsv=first + "".join(f"\ntext {number}\t{'good|new' if number % 2 else 'bad'}" for number in range(40))
  )
  found = load_splits(data=f"{several}/y.tsv", text="0", label="1")
  assert found.kind == "multi-label" and any("is that line a header?" in note for note in found.train.notes) is noted


def test_a_class_written_as_a_whole_float_is_the_number(folder):
  path = folder(train__csv="t,l\na,0.0\nb,1.0\nc,\nd,1\n", dev__csv="t,l\na,0\nb,1\n")
  found = load_splits(data=f"{path}/train.csv", dev=f"{path}/dev.csv", text="t", label="l")
  assert found.kind == "classification" and found.train.labels == ["0", "1", "1"] and found.dev.labels == ["0", "1"]


@pytest.mark.parametrize("names, given", [(("tokens", "ner_tags"), {}), (("w", "t"), {"text": "w", "label": "t"})])
def test_lists_of_words_and_tags_are_read_from_json(folder, names, given):
  lines = [
    json.dumps({names[0]: ["EU", "rejects"], names[1]: ["I-ORG", "O"]}),
    json.dumps({names[0]: [], names[1]: []}),
  ] * 30
  path = folder(own__jsonl="\n".join(lines)) + "/own.jsonl"
  found = load_splits(data=path, dev=path, kind="token-classification", **given)
  assert (
    found.train.first[0] == ["EU", "rejects"]
    and found.train.labels[0] == ["B-ORG", "O"]
    and len(found.train.first) == 30
  )
  if given:
    with pytest.raises(
      UserError,
      match="the column 'w' holds lists or objects, and texts are expected; lists of words .* "
      "--kind=token-classification",
    ):
      load_splits(data=path, **given)


@pytest.mark.parametrize(
  "record, words",
  [
    (
      {"tokens": ["a"], "ner_tags": [3]},
      "own.jsonl:1: expected as many tags in ner_tags as words in tokens, all of them texts; of tags that are numbers",
    ),
    ({"tokens": ["a", "b"], "tags": ["O"]}, "expected as many tags in tags as words in tokens"),
    ({"tokens": ["a"], "tags": ["PER"]}, "own.jsonl:1: the tag 'PER'"),
    (
      {"sentence": ["a"], "tags": ["O"]},
      "expected a list of words and one of their tags, called tokens and ner_tags; there are: sentence, tags",
    ),
  ],
)
def test_lists_that_are_no_words_and_tags_are_told_with_their_line(folder, record, words):
  path = folder(own__jsonl=json.dumps(record)) + "/own.jsonl"
  with pytest.raises(UserError, match=words):
    load_splits(data=path, dev=path, kind="token-classification")


def test_most_labels_being_numbers_the_one_that_is_none_is_a_mistake(folder):
  rows = "\n".join(f"text {number}\t{number / 7:.2f}" for number in range(30))
  with pytest.raises(UserError, match="own.tsv:32: the score 'high' is not a number"):
    load_splits(data=folder(own__tsv=f"t\tl\n{rows}\nmore\thigh\n") + "/own.tsv", text="t", label="l")


def test_as_many_labels_as_texts_are_not_classes(folder):
  path = folder(own__tsv="t\tl\n" + "".join(f"text {number}\tabout {number}\n" for number in range(60))) + "/own.tsv"
  with pytest.raises(UserError, match="60 different labels, such as 'about 0'; is that the right column"):
    load_splits(data=path, text="t", label="l")


def test_the_labels_to_judge_by_are_of_the_kind_of_the_training_labels(folder):
  path = folder(
    train__tsv="t\tl\na\t0.5\nb\t1.5\n",
    dev__tsv="t\tl\na\t0.5\nb\tgood\n",
    sets__tsv="t\tl\na\tx|y\nb\tx\n",
    one__tsv="t\tl\na\tx\nb\t\n",
  )
  with pytest.raises(UserError, match="dev.tsv:3: the score 'good' is not a number"):
    load_splits(data=f"{path}/train.tsv", dev=f"{path}/dev.tsv", text="t", label="l")
  found = load_splits(data=f"{path}/sets.tsv", dev=f"{path}/one.tsv", text="t", label="l")
  assert found.kind == "multi-label" and found.dev.labels == ["x", ""]  # of several labels a text may have none


def test_texts_with_a_class_of_their_own_are_not_held_out(folder):
  lines = [f"text {number}\t{'often' if number < 150 else f'rare {number}'}" for number in range(200)]
  found = load_splits(data=folder(own__tsv="\n".join(["t\tl", *lines])) + "/own.tsv", text="t", label="l")
  assert set(found.dev.labels) == {"often"} and len(set(found.train.labels)) == 51
  assert "texts with a rare label stay in the training set instead" in found.train.notes[0]


def test_a_folder_whose_one_file_is_to_train_and_to_judge_by_is_held_out_from(folder):
  text = json.dumps(
    {
      "data": [
        {
          "paragraphs": [
            {
              "context": f"甲乙丙 {number}",
              "qas": [{"id": str(number), "question": "问", "answers": [{"text": "乙", "answer_start": 1}]}],
            }
          ]
        }
        for number in range(60)
      ]
    }
  )
  found = load_splits(task="cmrc2018", data=folder(cmrc2018_trial__json=text))
  assert found.held_out and not {one.name for one in found.train.first} & {one.name for one in found.dev.first}


def test_a_wide_space_is_a_word(folder):
  text = "中 B-LOC\n\u3000 O\n国 O\n"
  assert load_splits(task="peoples-daily-ner", data=folder(example__train=text, example__dev=text)).train.first == [
    ["中", "\u3000", "国"]
  ]


@pytest.mark.parametrize(
  "arguments, words",
  [
    ({"task": "sst"}, "tuning.task='sst' is not known; it is one of cola, sst2"),
    ({"task": "sst2"}, "tuning.data is empty"),
    (
      {"task": "conll2003", "kind": "classification", "data": "FOLDER"},
      "finetune.kind='classification', but conll2003 is token-classification",
    ),
    ({"data": "FOLDER/own.tsv", "text": "review", "label": "stars"}, "1 examples of 1 different texts are too few"),
    ({"task": "sst2", "data": "/nowhere"}, "there is no such file or folder"),
    ({"data": "FOLDER"}, "is a folder: say which task it holds"),
    ({"task": "mnli", "data": "FOLDER"}, "has no training file of mnli .*it holds own.tsv"),
    (
      {"data": "FOLDER/own.tsv"},
      "say which columns are meant.*its first line: review, stars.*--kind=question-answering",
    ),
    ({"data": "FOLDER/own.tsv", "text": "revue", "label": "stars"}, "has no column 'revue'; it has: review, stars"),
    (
      {"data": "FOLDER/own.tsv", "text": "review", "label": "stars", "dev": "/nowhere.tsv"},
      "--dev=/nowhere.tsv: there is no such file",
    ),
    ({"task": "chnsenticorp", "data": "tfds"}, "has no task 'chnsenticorp'; it has cola"),
  ],
)
def test_mistakes_say_what_there_is(folder, arguments, words):
  path = folder(own__tsv="review\tstars\ngood\t1\n")
  with pytest.raises(UserError, match=words):
    load_splits(**{name: value.replace("FOLDER", path) for name, value in arguments.items()})


@pytest.mark.parametrize("task", ["sst2", "cola", "mnli", "snli", "agnews", "squad", "conll2003"])
def test_tensorflow_datasets_has_the_tasks_that_say_so(task, monkeypatch):
  tfds = pytest.importorskip("tensorflow_datasets")
  monkeypatch.setattr(tfds_texts, "split_size", lambda examples: None)  # nothing is downloaded here
  with tfds.testing.mock_data(num_examples=5):
    found = load_splits(task=task, data="tfds")
  assert len(found.train.first) == len(found.dev.first) == 5 or task == "snli"  # where some have no label
  assert found.kind == tasks.TASKS[task].kind and (found.train.labels or task == "squad")
  if tasks.TASKS[task].tfds_labels:
    assert set(found.train.labels) <= set(tasks.TASKS[task].tfds_labels.values())


def test_a_file_judges_what_tensorflow_datasets_trains(monkeypatch, folder):
  tfds = pytest.importorskip("tensorflow_datasets")
  monkeypatch.setattr(tfds_texts, "split_size", lambda examples: None)
  path = folder(dev__tsv="sentence\tlabel\na fine film\t1\n") + "/dev.tsv"
  with tfds.testing.mock_data(num_examples=5):
    found = load_splits(task="sst2", data="tfds", dev=path)
  assert len(found.train.first) == 5 and found.dev.first == ["a fine film"] and found.files[1] == path
  assert labels_of(found._replace(train=found.train._replace(labels=["0", *found.train.labels[1:-1], "1"]))).names == (
    "0",
    "1",
  )


@pytest.mark.parametrize(
  "task, place, train, dev",
  [
    ("sst2", "sst2", 67349, 872),
    ("cola", "cola", 8551, 527),
    ("rte", "rte", 2490, 277),
    ("stsb", "stsb", 5749, 1500),
    ("stsb-zh", "stsb", 5749, 1500),
    ("conll2003", "conll2003", 14041, 3250),
    ("chnsenticorp", "chnsenticorp", 9600, 1200),
    ("weibo-ner", "zh_ner_small", 1350, 270),
    ("mnli", "nli_subset10k", 8999, 1000),
    ("snli", "nli_subset10k", 8999, 1000),
    ("qnli", "nli_subset10k", 8999, 1000),
  ],
)
def test_real_files_have_the_numbers_of_examples_that_their_makers_state(task, place, train, dev, shared_data):
  found = load_splits(task=task, data=str(shared_data / "tasks" / place))
  assert (len(found.train.first), len(found.dev.first)) == (train, dev) and not found.train.notes


@pytest.mark.parametrize(
  "arguments, place, count",
  [
    ({"task": "mrpc"}, "mrpc", 4076),
    ({"task": "ocnli"}, "ocnli", 9985),
    ({"task": "lcqmc"}, "zh_pair/lcqmc_dev.txt", 8802),
    ({"task": "cmrc2018"}, "zh_squad", 1002),
    ({"kind": "question-answering"}, "squad_style/squadshifts_reddit_v1.0.json", 9803),
    ({"kind": "question-answering"}, "squad_style/squadshifts_amazon_reviews_v1.0.json", 9885),
  ],
)
def test_of_real_files_without_a_second_one_a_tenth_is_held_out(arguments, place, count, shared_data):
  found = load_splits(data=str(shared_data / "tasks" / place), **arguments)
  assert found.held_out and len(found.train.first) + len(found.dev.first) == count
  assert 0.08 < len(found.dev.first) / count < 0.14
  if "cmrc" in arguments.get("task", ""):
    assert found.train.notes[0].startswith("5 answers are not at the positions that")
