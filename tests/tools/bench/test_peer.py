"""bench/peer.py: transformers gets the sequences of packed rows, one per row, with nothing lost."""

import jax
import numpy as np

from bert_jax.batch import LABEL, row_keys
from bert_jax.tools.bench.peer import one_sequence_per_row
from tests.helpers.tiny_pretraining import LENGTH, tiny_batch, tiny_config, tiny_objective


def prepared(batch):
  keys = row_keys(0, batch["epoch"], batch["index"])
  return jax.device_get(tiny_objective(tiny_config()).prepare(batch, keys, 0)[0])


def test_every_sequence_gets_a_row_with_its_tokens_types_and_label():
  batch = tiny_batch(3)
  inputs, masked = prepared(batch)
  found = one_sequence_per_row(inputs, masked)
  number = 0
  for row in range(len(batch["tokens"])):
    for sequence in np.unique(inputs.segment_ids[row])[1:]:
      where = inputs.segment_ids[row] == sequence
      size = where.sum()
      assert found["attention_mask"][number].sum() == size and found["attention_mask"][number, :size].all()
      assert np.array_equal(found["input_ids"][number, :size], inputs.input_ids[row, where])
      assert np.array_equal(found["token_type_ids"][number, :size], inputs.token_type_ids[row, where])
      assert not found["input_ids"][number, size:].any() and (found["labels"][number, size:] == -100).all()
      assert found["next_sentence_label"][number] == batch["sequences"][row, sequence - 1, LABEL]
      number += 1
  assert number == len(found["input_ids"]) and found["input_ids"].shape[1] < LENGTH


def test_the_same_tokens_are_predicted():
  inputs, masked = prepared(tiny_batch(5))
  labels = one_sequence_per_row(inputs, masked)["labels"]
  assert sorted(labels[labels != -100]) == sorted(masked.labels[masked.weights > 0])
