"""task_files.py: native formats as examples; what is counted, what is refused; the tenth that is held out."""

import json
import pathlib

import pytest

from bert_jax.data import tasks, tfds_texts
from bert_jax.data.labelled import describe_balance, labels_of
from bert_jax.data.task_files import load_splits
from bert_jax.errors import UserError

SHARED = pathlib.Path(__file__).resolve().parents[3] / "shared" / "data" / "tasks"


@pytest.fixture
def folder(tmp_path):
  """write(name=content, …) -> the folder with these files."""

  def write(**files):
    for name, content in files.items():
      (tmp_path / name.replace("__", ".").replace("_DASH_", "-")).write_text(content)
    return str(tmp_path)

  return write


def test_sst2_and_cola_with_a_header_and_without(folder, tmp_path):
  found = load_splits(task="sst2", data=folder(train__tsv="sentence\tlabel\na film \t1\nbad\t0\n", dev__tsv="sentence\tlabel\nfine\t1\n"))
  assert (found.kind, found.train.first, found.train.labels, found.dev.first) == ("classification", ["a film", "bad"], ["1", "0"], ["fine"])
  cola = tmp_path / "cola"
  cola.mkdir()
  (cola / "in_domain_train.tsv").write_text("gj04\t1\t\tHe ran.\ngj04\t0\t*\tRan he the.\n")
  (cola / "in_domain_dev.tsv").write_text("gj04\t1\t\tShe ran.\n")
  assert load_splits(task="cola", data=str(cola)).train.labels == ["1", "0"]


def test_pairs_whose_annotators_did_not_agree_and_empty_texts_are_counted(folder):
  rows = [{"sentence1": "a", "sentence2": "b", "label": "neutral"}, {"sentence1": "c", "sentence2": "d", "label": "-"},
          {"sentence1": "e", "sentence2": " ", "label": "neutral"}]  # fmt: skip
  text = "\n".join(map(json.dumps, rows))
  found = load_splits(task="ocnli", data=folder(train__json=text, dev__json=text))
  assert found.train.first == ["a"] and found.train.second == ["b"]
  assert [note.split(" of ")[0] + note[note.index(" have") :] for note in found.train.notes] == ["1 lines have no label", "1 lines have an empty text"]


def test_scores_that_are_no_numbers_are_named_with_their_line(folder):
  path = folder(stsb_DASH_en_DASH_train__csv='a,b,1.0\nc,"d, e",high\n', stsb_DASH_en_DASH_dev__csv="a,b,1\n")
  with pytest.raises(UserError, match=r"stsb-en-train.csv:2: the score 'high' is not a number"):
    load_splits(task="stsb", data=path)


def test_every_entity_begins_with_b_whatever_the_file_has(folder):
  iob1 = "EU NNP I-NP I-ORG\nMerkel NNP I-NP I-PER\nMay NNP I-NP B-PER\nsaid VB O O\n\n-DOCSTART- -X- O O\n\nIn IN O O\n"
  found = load_splits(task="conll2003", data=folder(eng__train=iob1, eng__testa=iob1)).train
  assert found.first == [["EU", "Merkel", "May", "said"], ["In"]] and found.labels == [["B-ORG", "B-PER", "B-PER", "O"], ["O"]]


def test_tags_of_bioes_and_bmes_become_iob2(folder):
  path = folder(x__conll="a B-X\nb M-X\nc E-X\nd S-Y\ne O\nf B-X\ng I-X\n")
  found = load_splits(data=f"{path}/x.conll", dev=f"{path}/x.conll")
  assert found.kind == "token-classification" and found.train.labels == [["B-X", "I-X", "I-X", "B-Y", "O", "B-X", "I-X"]]


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
  assert len(found.train.first) == 3 and "1 answers do not stand where" in found.train.notes[0] and "q2" in found.train.notes[0]
  with pytest.raises(UserError, match=r"at data\[0\].paragraphs\[0\].qas\[0\].*expected the format of SQuAD"):
    load_splits(task="squad", data=folder(b__json='{"data": [{"paragraphs": [{"context": "x", "qas": [{"id": 1}]}]}]}') + "/b.json", dev=f"{path}/a.json")


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
    [(["good", "bad"], "classification"), (["1", "0"], "classification"), (["1|2", "2"], "multi-label"), (["0.5", "1.25"], "regression"),
     ([str(number) for number in range(30)], "regression")],
)  # fmt: skip
def test_what_the_labels_are_is_found_out(folder, labels, kind):
  rows = "\n".join(f"text {number}\t{label}" for number, label in enumerate(labels * 40))
  assert load_splits(data=folder(own__tsv=f"review\tstars\n{rows}") + "/own.tsv", text="review", label="stars").kind == kind


def test_what_cannot_be_learned_is_refused(folder):
  path = folder(one__tsv="t\tl\na\tx\nb\tx\n", new__tsv="t\tl\na\tx\nb\ty\n", two__tsv="t\tl\na\tx\nb\tz\n")
  splits = lambda train, dev: load_splits(data=f"{path}/{train}.tsv", dev=f"{path}/{dev}.tsv", text="t", label="l", kind="classification")
  with pytest.raises(UserError, match="has one class alone, 'x'"):
    labels_of(splits("one", "one"))
  with pytest.raises(UserError, match="labels that do not occur in .*two.tsv: y; the model could never say them"):
    labels_of(splits("two", "new"))


def test_classes_that_are_not_balanced_are_told(folder):
  rows = "\n".join(f"text {number}\t{'no' if number % 10 else 'yes'}" for number in range(100))
  train = load_splits(data=folder(own__tsv=f"t\tl\n{rows}") + "/own.tsv", text="t", label="l").train
  assert "'no' has 9" in describe_balance(train, "classification")
  assert describe_balance(train.subset([0, 1, 10, 11]), "classification") == ""


@pytest.mark.parametrize(
    "arguments, words",
    [
        ({"task": "sst"}, "finetune.task='sst' is not known; it is one of cola, sst2"),
        ({"task": "sst2"}, "finetune.data is empty"),
        ({"task": "sst2", "data": "/nowhere"}, "there is no such file or folder"),
        ({"data": "FOLDER"}, "is a folder: say which task lies there"),
        ({"task": "mnli", "data": "FOLDER"}, "has no training file of mnli .*it holds own.tsv"),
        ({"data": "FOLDER/own.tsv"}, "say which columns are meant.*its first line: review, stars"),
        ({"data": "FOLDER/own.tsv", "text": "revue", "label": "stars"}, "has no column 'revue'; it has: review, stars"),
        ({"data": "FOLDER/own.tsv", "text": "review", "label": "stars", "dev": "/nowhere.tsv"}, "--dev=/nowhere.tsv: there is no such file"),
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


def test_every_task_says_where_it_comes_from():
  for name, row in tasks.TASKS.items():
    assert row.suite in tasks.SUITES and row.train, name
    assert row.format != "table" or (row.text and row.label), name
    assert row.published is None or (0 < row.published.value < 1 and "arXiv" in row.published.source), name


@pytest.mark.skipif(not SHARED.exists(), reason="the shared task files are not here")
@pytest.mark.parametrize(
    "task, place, train, dev",
    [("sst2", "sst2", 67349, 872), ("cola", "cola", 8551, 527), ("rte", "rte", 2490, 277), ("stsb", "stsb", 5749, 1500),
     ("conll2003", "conll2003", 14041, 3250), ("chnsenticorp", "chnsenticorp", 9600, 1200), ("weibo-ner", "zh_ner_small", 1350, 270),
     ("mnli", "nli_subset10k", 8999, 1000)],
)  # fmt: skip
def test_real_files_have_the_numbers_of_examples_that_their_makers_state(task, place, train, dev):
  found = load_splits(task=task, data=str(SHARED / place))
  assert (len(found.train.first), len(found.dev.first)) == (train, dev)


@pytest.mark.skipif(not SHARED.exists(), reason="the shared task files are not here")
def test_the_five_wrong_answers_of_cmrc_are_found():
  found = load_splits(task="cmrc2018", data=str(SHARED / "zh_squad"))
  assert found.train.notes[0].startswith("5 answers do not stand where")
