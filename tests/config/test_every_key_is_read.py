"""Law 9: every key of the schema is read by one of the runs that there are, and the proof that it would show."""

import dataclasses
import sys

import jax
import jax.numpy as jnp
import ml_collections
import pytest

from bert_jax import config as configs
from bert_jax.batch import model_inputs, row_keys
from bert_jax.cluster import distributed
from bert_jax.data.corpus import assemble, job
from bert_jax.data.corpus.rows import RowSettings, row_settings
from bert_jax.models.config import EncoderConfig
from bert_jax.objectives import masking
from bert_jax.runs import finetuning, pretraining, sentence_embedding, tuning
from tests.helpers.tiny_runs import tiny_run_config, write_text

# Groups that are copied, field by field, to an object: a key counts as read when that field of the object is.
COPIED = {
  masking.MaskSettings: "masking",
  job.PrepareSettings: "prepare",
  RowSettings: "prepare",
  EncoderConfig: "model",
}
# What checks values, or writes all of them down, makes no use of them.
NO_USE = {
  function.__code__
  for function in (
    configs.flatten,
    job.plan,
    job.check_settings,
    row_settings,
    assemble._manifest,
    EncoderConfig.validate,
  )
}
NO_USE_OF_FIELDS = NO_USE | {tuning.resolve_tuning.__code__}  # it takes over those of another model, whatever they are


@pytest.fixture
def dead_keys(monkeypatch) -> set[str]:
  """A key that nobody reads in every group of the schema, with a field where the group is copied to an object."""
  groups = {name.rpartition(".")[0] for name in configs.KEYS}
  dead = {f"{group}.dead".lstrip(".") for group in groups}
  for name in dead:
    monkeypatch.setitem(configs.KEYS, name, configs.Key(name, 0, "Dead."))
  for kind in (masking.MaskSettings, job.PrepareSettings, RowSettings):
    monkeypatch.setattr(kind, "__new__", without_dead(kind.__new__, len(kind._fields)))
    monkeypatch.setattr(kind, "_fields", (*kind._fields, "dead"))
    monkeypatch.setattr(kind, "dead", 0, raising=False)
  (field,) = dataclasses.fields(dataclasses.make_dataclass("Dead", [("dead", int, 0)]))
  monkeypatch.setitem(configs.MODEL_FIELDS, "dead", field)
  monkeypatch.setitem(EncoderConfig.__dataclass_fields__, "dead", field)
  monkeypatch.setattr(EncoderConfig, "__init__", without_dead(EncoderConfig.__init__, 0))
  monkeypatch.setattr(EncoderConfig, "dead", 0, raising=False)
  return dead


def without_dead(make, count):
  """`make` with an argument `dead`, or one more than `count` by position, that it does not take."""
  return lambda self, *values, dead=0, **named: make(self, *values[:count], **named)


@pytest.fixture
def read(dead_keys, monkeypatch) -> set[str]:
  """The keys that have been read so far."""
  found: set[str] = set()
  groups: dict[str, set[str]] = {}
  for key in configs.KEYS:
    group, _, name = key.rpartition(".")
    groups.setdefault(group, set()).add(name)
  groups[""] |= set(groups) - {""}
  # A group does not know its own name: it is told by its keys.
  named = {frozenset(names): group for group, names in groups.items()}
  copied = {f"{group}.{name}" for kind, group in COPIED.items() for name in fields_of(kind)}
  plain = ml_collections.ConfigDict.__getitem__

  def getitem(self, name):
    key = f"{named.get(frozenset(self.keys()), '?')}.{name}".lstrip(".")
    if key not in copied and not is_called_from(NO_USE):
      found.add(key)
    return plain(self, name)

  def attribute(group, names):
    def get(self, name):
      if name in names and not is_called_from(NO_USE_OF_FIELDS):
        found.add(f"{group}.{name}")
      return object.__getattribute__(self, name)

    return get

  monkeypatch.setattr(ml_collections.ConfigDict, "__getitem__", getitem)
  for kind, group in COPIED.items():
    monkeypatch.setattr(kind, "__getattribute__", attribute(group, fields_of(kind)))
  return found


def fields_of(kind) -> tuple[str, ...]:
  return getattr(kind, "_fields", None) or tuple(configs.MODEL_FIELDS)


def is_called_from(code: set) -> bool:
  """Whether one of these functions, or a method that `dataclasses` wrote, is near the top of the stack."""
  frame = sys._getframe(2)
  for _ in range(6):
    if frame is None:
      return False
    if frame.f_code in code or frame.f_code.co_filename in ("<string>", dataclasses.__file__):
      return True
    frame = frame.f_back
  return False


def trace_masking(unit: str) -> None:
  """Reads what a run with masking.unit=`unit` reads of that group, without training one."""
  settings = masking.settings_of(configs.default_config().masking)._replace(unit=unit, max_predictions=2)
  rows, zeros = model_inputs(jnp.zeros((1, 8), jnp.int32), jnp.array([[[8, 4, 0]]])), jnp.zeros(1, jnp.uint32)
  how = {"mask_id": 4, "never_predicted": (0, 1, 2, 3, 4), "vocab_size": 9, "word_starts": jnp.ones((1, 8), bool)}
  jax.eval_shape(lambda keys: masking.mask_tokens(keys, rows, settings, **how), row_keys(0, zeros, zeros))


def test_every_key_is_read_by_a_run_and_a_dead_one_of_any_group_is_not(tmp_path, dead_keys, read):
  texts = write_text(tmp_path / "text.txt")
  pretraining.pretrain_run(
    tiny_run_config(
      tmp_path,
      tmp_path / "made",
      f"data.source=text:{texts}",
      "prepare.vocab_size=150",
      "prepare.seq_length=32",
      "prepare.validation_fraction=0.2",
      "prepare.workers=1",
      "total_steps=2",
      "optimizer.warmup_steps=1",
      "optimizer.schedule=wsd",
      f"data.cache_dir={tmp_path / 'cache'}",
    ),
    tmp_path / "run",
    cluster=distributed.detect(environ={}),
  )
  for unit in masking.UNITS[1:]:
    trace_masking(unit)
  of_labels = {key for key in configs.KEYS if key.startswith(("tuning.", "finetune.", "embedding."))}
  assert set(configs.KEYS) - of_labels - read == dead_keys - of_labels

  labelled = tmp_path / "labelled.tsv"
  labelled.write_text("text\tlabel\n" + "".join(f"the array {number} holds\t{number % 2}\n" for number in range(60)))
  same = [f"init_from={tmp_path / 'run'}", "tuning.epochs=0.2", "data.batch_size=8"]
  read.clear()
  finetuning.finetune_run(
    finetuning.finetuning_config([*same, f"tuning.data={labelled}", "tuning.text=text", "tuning.label=label"]),
    tmp_path / "fine-tuned",
  )
  assert {key for key in configs.KEYS if key.startswith(("tuning.", "finetune."))} - read == {
    "tuning.dead",
    "finetune.dead",
  }
  assert {"optimizer.layer_decay", "optimizer.frozen_layers"} <= read

  pairs = tmp_path / "pairs.csv"
  pairs.write_text(
    "a,b,score\n" + "".join(f"the array,the {word},{number}\n" for number, word in enumerate("abcdefghij"))
  )
  read.clear()
  sentence_embedding.sentence_embedding_run(
    sentence_embedding.sentence_embedding_config(
      [
        *same,
        f"tuning.data={pairs}",
        f"tuning.dev={pairs}",
        "tuning.text=a",
        "tuning.text_pair=b",
        "embedding.objective=in-batch",
        "embedding.dev_columns=a,b,score",
      ]
    ),
    tmp_path / "embedding",
  )
  assert {key for key in configs.KEYS if key.startswith(("tuning.", "embedding."))} - read == {
    "tuning.dead",
    "embedding.dead",
  }
