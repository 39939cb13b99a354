"""The tasks that encoders are evaluated on, as data: what their files are called, what the columns mean, how they are
scored.

Native formats, as the makers of the tasks distribute them. A figure is what a paper states for BERT-base, and for which
split; it is there to compare with, not to be reached by a small model.
"""

from typing import NamedTuple


class Published(NamedTuple):
  """What a paper states for BERT-base.

  Attributes:
    value: between 0 and 1.
    split: dev or test; test labels of GLUE and CLUE are kept by their makers, so that only dev can be measured here.
    source: where it stands.
  """

  value: float
  split: str
  source: str


class TaskRow(NamedTuple):
  """A task.

  Attributes:
    suites: of SUITES, those that it belongs to.
    kind: one of finetuning.KINDS.
    metric: what it is scored by, a name that metrics.py gives.
    train, dev: names of files, the first that there is; empty: a part of the training file is held out.
    format: table, conll or squad.
    text, text_pair, label: names of columns, the first that there is; or its number in a table without a header.
    tfds: name in TensorFlow Datasets, or empty.
    tfds_labels: {what TensorFlow Datasets calls a class: what the files call it}, where that differs.
    published: BERT-base's figure, or None where none is known for this split and metric.
  """

  suites: tuple[str, ...]
  kind: str
  metric: str
  train: tuple[str, ...]
  dev: tuple[str, ...] = ()
  format: str = "table"
  text: tuple[str | int, ...] = ()
  text_pair: tuple[str | int, ...] = ()
  label: tuple[str | int, ...] = ()
  tfds: str = ""
  tfds_labels: dict[str, str] = {}
  published: Published | None = None


_BERT = "Devlin et al. 2018, arXiv 1810.04805"
_CLASSES, _SCORES, _WORDS, _QUESTIONS = "classification", "regression", "token-classification", "question-answering"


def _chinese(value: float) -> Published:
  return Published(value, "dev", "Cui et al. 2019, arXiv 1906.08101, BERT, mean of ten runs")


def _glue(value: float) -> Published:
  return Published(value, "test", f"{_BERT}, table 1")


TASKS: dict[str, TaskRow] = {
  "cola": TaskRow(
    ("glue",),
    _CLASSES,
    "mcc",
    ("train.tsv", "in_domain_train.tsv"),
    ("dev.tsv", "in_domain_dev.tsv"),
    text=("sentence", 3),
    label=("label", 1),
    tfds="glue/cola",
    tfds_labels={"unacceptable": "0", "acceptable": "1"},
    published=_glue(0.521),
  ),
  "sst2": TaskRow(
    ("glue",),
    _CLASSES,
    "accuracy",
    ("train.tsv",),
    ("dev.tsv",),
    text=("sentence",),
    label=("label",),
    tfds="glue/sst2",
    tfds_labels={"negative": "0", "positive": "1"},
    published=_glue(0.935),
  ),
  "mrpc": TaskRow(
    ("glue",),
    _CLASSES,
    "f1",
    ("train.tsv", "msr_paraphrase_train.txt"),
    ("dev.tsv", "msr_paraphrase_test.txt"),
    text=("#1 String", "sentence1"),
    text_pair=("#2 String", "sentence2"),
    label=("Quality", "label"),
    tfds="glue/mrpc",
    tfds_labels={"not_equivalent": "0", "equivalent": "1"},
    published=_glue(0.889),
  ),
  "stsb": TaskRow(
    ("glue", "sts"),
    _SCORES,
    "spearman",
    ("train.tsv", "stsb-en-train.csv"),
    ("dev.tsv", "stsb-en-dev.csv"),
    text=("sentence1", 0),
    text_pair=("sentence2", 1),
    label=("score", "label", 2),
    tfds="glue/stsb",
    published=_glue(0.858),
  ),
  "qqp": TaskRow(
    ("glue",),
    _CLASSES,
    "f1",
    ("train.tsv",),
    ("dev.tsv",),
    text=("question1",),
    text_pair=("question2",),
    label=("is_duplicate", "label"),
    tfds="glue/qqp",
    tfds_labels={"not_duplicate": "0", "duplicate": "1"},
    published=_glue(0.712),
  ),
  "mnli": TaskRow(
    ("glue",),
    _CLASSES,
    "accuracy",
    ("train.tsv", "MNLI-train.json"),
    ("dev_matched.tsv", "MNLI-dev.json"),
    text=("sentence1", "text_a", "premise"),
    text_pair=("sentence2", "text_b", "hypothesis"),
    label=("gold_label", "label"),
    tfds="glue/mnli",
    published=_glue(0.846),
  ),
  "qnli": TaskRow(
    ("glue",),
    _CLASSES,
    "accuracy",
    ("train.tsv", "QNLI-train.json"),
    ("dev.tsv", "QNLI-dev.json"),
    text=("question", "text_a"),
    text_pair=("sentence", "text_b"),
    label=("label",),
    tfds="glue/qnli",
    published=_glue(0.905),
  ),
  "rte": TaskRow(
    ("glue",),
    _CLASSES,
    "accuracy",
    ("train.tsv",),
    ("dev.tsv",),
    text=("sentence1",),
    text_pair=("sentence2",),
    label=("label",),
    tfds="glue/rte",
    published=_glue(0.664),
  ),
  "snli": TaskRow(
    ("glue",),
    _CLASSES,
    "accuracy",
    ("snli_1.0_train.jsonl", "SNLI-train.json"),
    ("snli_1.0_dev.jsonl", "SNLI-dev.json"),
    text=("sentence1", "text_a", "premise"),
    text_pair=("sentence2", "text_b", "hypothesis"),
    label=("gold_label", "label"),
    tfds="snli",
  ),
  "agnews": TaskRow(
    ("glue",),
    _CLASSES,
    "accuracy",
    ("train.csv",),
    ("test.csv",),
    text=("Title", "title", 1),
    text_pair=("Description", "description", 2),
    label=("Class Index", "label", 0),
    tfds="ag_news_subset",
    tfds_labels={"World": "1", "Sports": "2", "Business": "3", "Sci/Tech": "4"},
  ),
  "squad": TaskRow(
    ("qa",),
    _QUESTIONS,
    "f1",
    ("train-v1.1.json",),
    ("dev-v1.1.json",),
    "squad",
    tfds="squad/v1.1",
    published=Published(0.885, "dev", f"{_BERT}, table 2"),
  ),
  "squad2": TaskRow(("qa",), _QUESTIONS, "f1", ("train-v2.0.json",), ("dev-v2.0.json",), "squad", tfds="squad/v2.0"),
  "conll2003": TaskRow(
    ("ner",),
    _WORDS,
    "f1",
    ("eng.train", "train.txt"),
    ("eng.testa", "valid.txt"),
    "conll",
    tfds="conll2003",
    published=Published(0.964, "dev", f"{_BERT}, table 7"),
  ),
  "chnsenticorp": TaskRow(
    ("clue",),
    _CLASSES,
    "accuracy",
    ("train.tsv",),
    ("dev.tsv",),
    text=("text_a",),
    label=("label",),
    published=_chinese(0.943),
  ),
  "tnews": TaskRow(
    ("clue",),
    _CLASSES,
    "accuracy",
    ("train.json",),
    ("dev.json",),
    text=("sentence",),
    label=("label_desc", "label"),
    published=Published(0.5658, "test", "Xu et al. 2020, CLUE, arXiv 2004.05986, and its leaderboard"),
  ),
  "ocnli": TaskRow(
    ("clue",),
    _CLASSES,
    "accuracy",
    ("train.50k.json", "train.json", "train.10k.json", "train.3k.json"),
    ("dev.json",),
    text=("sentence1",),
    text_pair=("sentence2",),
    label=("label",),
  ),
  "afqmc": TaskRow(
    ("clue",),
    _CLASSES,
    "accuracy",
    ("train.json",),
    ("dev.json",),
    text=("sentence1",),
    text_pair=("sentence2",),
    label=("label",),
    published=Published(0.7370, "test", "Xu et al. 2020, CLUE, arXiv 2004.05986, and its leaderboard"),
  ),
  "lcqmc": TaskRow(
    ("clue",),
    _CLASSES,
    "accuracy",
    ("train.tsv", "train.txt", "lcqmc_train.txt"),
    ("dev.tsv", "dev.txt", "lcqmc_dev.txt"),
    text=("text_a", 0),
    text_pair=("text_b", 1),
    label=("label", 2),
    published=_chinese(0.884),
  ),
  "stsb-zh": TaskRow(
    ("sts",),
    _SCORES,
    "spearman",
    ("stsb-zh-train.csv",),
    ("stsb-zh-dev.csv",),
    text=("sentence1", 0),
    text_pair=("sentence2", 1),
    label=("score", 2),
  ),
  "cmrc2018": TaskRow(
    ("qa",),
    _QUESTIONS,
    "f1",
    ("cmrc2018_train.json", "cmrc2018_trial.json"),
    ("cmrc2018_dev.json", "cmrc2018_trial.json"),
    "squad",
    published=_chinese(0.840),
  ),
  "weibo-ner": TaskRow(
    ("ner",),
    _WORDS,
    "f1",
    ("weibo.train.conll", "weiboNER_2nd_conll.train"),
    ("weibo.dev.conll", "weiboNER_2nd_conll.dev"),
    "conll",
  ),
  "peoples-daily-ner": TaskRow(
    ("ner",), _WORDS, "f1", ("example.train", "train.txt"), ("example.dev", "dev.txt"), "conll"
  ),
}
SUITES = ("glue", "clue", "qa", "ner", "sts")
