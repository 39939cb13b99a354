"""flops.py: the stated formula, held against a count of every matrix product."""

import pytest

from bert_jax.models import flops
from bert_jax.models.config import encoder_config

BASE = encoder_config("bert-base")


def test_a_token_costs_three_times_two_flops_for_every_product_of_its_forward_pass():
  width, inner, length = 768, 3072, 128
  attention = 4 * width * width + 2 * length * width  # query, key, value, output; scores, and their sums of values
  layers = 12 * (attention + 2 * width * inner)
  head = width * width + width * 30522  # at a predicted position
  counted = 3 * 2 * (layers + 0.15 * head)
  assert flops.train_flops_per_token(BASE, sequence_length=128, predicted_share=0.15) == pytest.approx(
    counted, rel=1e-12
  )


def test_the_mean_length_is_that_of_sequences_and_not_of_rows():
  assert flops.mean_sequence_length({"row_tokens": 1200, "sequences": 40, "rows": 10}) == 30.0
  assert flops.mean_sequence_length({"row_tokens": 0, "sequences": 0, "rows": 0}) == 0.0
