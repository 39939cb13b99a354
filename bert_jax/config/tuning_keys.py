"""The keys of runs that train a pretrained model further: fine-tuning and sentence embeddings."""

from bert_jax.config import choices
from bert_jax.config.key import ABOVE_0, SHARE, Key, at_least

ROWS = [
  # Fine-tuning and sentence embeddings
  Key("tuning.task", "", "A task that is known, see `bert_jax finetune --list`; empty: data of your own."),
  Key(
    "tuning.data", "", "Folder with the task's files; a file: CSV, TSV, JSON lines, CoNLL, SQuAD; or tfds.", path=True
  ),
  Key(
    "tuning.dev",
    "",
    "File that the model is evaluated on; empty: the task's own, else a tenth of tuning.data.",
    path=True,
  ),
  Key("tuning.text", "", "Column of the text: its name or, in a file without a header, its number from 0."),
  Key("tuning.text_pair", "", "Column of the second text; empty: there is none."),
  Key("tuning.label", "", "Column of the label; | separates several labels of one text, which may have none, too."),
  Key(
    "tuning.epochs",
    3.0,
    "Passes over the training examples, which set total_steps; 0: total_steps as it is.",
    at_least(0),
  ),
  Key(
    "tuning.warmup_share",
    0.1,
    "Share of the steps in which the learning rate rises, which sets optimizer.warmup_steps.",
    SHARE,
  ),
  Key(
    "tuning.evaluations",
    1.0,
    "Evaluations in an epoch, which set eval_every_steps and checkpoint.every_steps.",
    ABOVE_0,
  ),
  Key(
    "tuning.max_length",
    0,
    "Tokens in a text or pair at most, [CLS] and [SEP] included; longer ones lose their end; 0: 128, and 384 for "
    "question-answering.",
    at_least(0),
  ),
  Key(
    "tuning.pooling",
    "pooler",
    "What the vector of a text is read from: pooler, cls, mean or max.",
    choices=choices.poolings,
  ),
  Key(
    "tuning.metric",
    "",
    "Metric of the dev examples that picks the checkpoint; empty: the task's, else that of its kind.",
  ),
  Key(
    "tuning.patience",
    0,
    "Evaluations without a better metric before the run ends; 0: it never ends early.",
    at_least(0),
  ),
  # Fine-tuning alone
  Key(
    "finetune.kind",
    "",
    "What the labels are: classification, multi-label, regression, token-classification or question-answering; empty: "
    "the data tell.",
    choices=choices.label_kinds,
  ),
  Key("finetune.stride", 128, "Tokens from one window of a long text to the next, in question-answering.", at_least(1)),
  # Sentence embeddings alone
  Key(
    "embedding.objective",
    "",
    "What sentence embeddings are learned by: in-batch, simcse, cosine, triplet or softmax; empty: in all other runs.",
    choices=choices.embedding_losses,
  ),
  Key(
    "embedding.negative",
    "",
    "Column of a text that does not belong to the first: of triplets, and in-batch where there is one.",
  ),
  Key("embedding.temperature", 0.05, "Number that cosines are divided by, with in-batch and simcse.", ABOVE_0),
  Key(
    "embedding.margin",
    5.0,
    "Euclidean distance by which the second text of a triplet is to be nearer than the third.",
    ABOVE_0,
  ),
  Key("embedding.normalize", False, "Scales vectors to length 1, in training and in the export."),
  Key(
    "embedding.dev_columns",
    "",
    "Columns of tuning.dev with commas between: first text, second, score; empty: as in STS-B, and with cosine as in "
    "tuning.data.",
  ),
]
