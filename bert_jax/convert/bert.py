"""BERT's tensors as Hugging Face names them, see table.py."""

import numpy as np

from bert_jax.convert.table import PAD_VOCAB, SAME, Buffer, Conversion, Entry, dense, layer_norm


def _table(name: str, dims: str, how: str) -> Entry:
  return Entry(f"encoder/embeddings/{name}/embedding", f"bert.embeddings.{name}.weight", dims, how, "encoder")


_OURS, _THEIRS = "encoder/layer_{n}", "bert.encoder.layer.{n}"

_TABLE: tuple[Entry, ...] = (
  _table("word_embeddings", "VH", PAD_VOCAB),
  _table("position_embeddings", "PH", SAME),
  _table("token_type_embeddings", "TH", SAME),
  *layer_norm("encoder/embeddings/layer_norm", "bert.embeddings.LayerNorm"),
  *dense(f"{_OURS}/attention/query", f"{_THEIRS}.attention.self.query", "HH"),
  *dense(f"{_OURS}/attention/key", f"{_THEIRS}.attention.self.key", "HH"),
  *dense(f"{_OURS}/attention/value", f"{_THEIRS}.attention.self.value", "HH"),
  *dense(f"{_OURS}/attention/output", f"{_THEIRS}.attention.output.dense", "HH"),
  *layer_norm(f"{_OURS}/attention/layer_norm", f"{_THEIRS}.attention.output.LayerNorm"),
  *dense(f"{_OURS}/feed_forward/intermediate", f"{_THEIRS}.intermediate.dense", "HI"),
  *dense(f"{_OURS}/feed_forward/output", f"{_THEIRS}.output.dense", "IH"),
  *layer_norm(f"{_OURS}/feed_forward/layer_norm", f"{_THEIRS}.output.LayerNorm"),
  *dense("pooler/dense", "bert.pooler.dense", "HH", "pooler"),
  *dense("mlm_head/dense", "cls.predictions.transform.dense", "HH", "mlm"),
  *layer_norm("mlm_head/layer_norm", "cls.predictions.transform.LayerNorm", "mlm"),
  Entry("mlm_head/bias", "cls.predictions.bias", "V", PAD_VOCAB, "mlm"),
  *dense("nsp_head/dense", "cls.seq_relationship", "H2", "nsp"),
)

# What fine-tuning puts on an encoder; C is the number of labels.
_LABEL_TABLE: tuple[Entry, ...] = (
  *dense("classifier/dense", "classifier", "HC", "classifier"),
  *dense("span_head/dense", "qa_outputs", "H2", "span_head"),
)

# What each export holds: the parts that must be there, and those taken along where they are.
_EXPORTS = {
  "pretraining": (("encoder", "pooler", "mlm", "nsp"), ()),  # BertForPreTraining
  "mlm": (("encoder", "mlm"), ()),  # BertForMaskedLM, which has no pooler
  "encoder": (("encoder",), ("pooler",)),  # BertModel
  "sequence-classification": (("encoder", "pooler", "classifier"), ()),  # BertForSequenceClassification
  "token-classification": (("encoder", "classifier"), ()),  # BertForTokenClassification, which has no pooler
  "question-answering": (("encoder", "span_head"), ()),  # BertForQuestionAnswering, neither
}

BERT = Conversion(
  name="BERT",
  table=_TABLE,
  label_table=_LABEL_TABLE,
  exports=_EXPORTS,
  classes="a BertForPreTraining, BertForMaskedLM, BertForNextSentencePrediction, BertModel",
  prefix="bert.",
  bare=("embeddings.", "encoder.", "pooler."),
  renamed={"LayerNorm.gamma": "LayerNorm.weight", "LayerNorm.beta": "LayerNorm.bias"},  # files of 2019
  implied={"nsp": "pooler"},  # which the NSP head reads
  ties=(
    ("cls.predictions.decoder.bias", "cls.predictions.bias", True),
    ("cls.predictions.decoder.weight", "bert.embeddings.word_embeddings.weight", False),
  ),
  buffers=(
    Buffer("bert.embeddings.position_ids", "0, 1, 2, …", lambda config: np.arange(config.max_position_embeddings)),
    Buffer("bert.embeddings.token_type_ids", "0, 0, 0, …", lambda config: np.zeros(config.max_position_embeddings)),
  ),
)
