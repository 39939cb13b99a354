"""batch.py: what the model reads, derived from packed rows."""

import jax.numpy as jnp
import numpy as np

from bert_jax.batch import model_inputs

TOKENS = jnp.array([[2, 7, 8, 3, 9, 3, 2, 7, 3, 8, 3, 0], [2, 7, 3, 9, 3, 0, 0, 0, 0, 0, 0, 0]])
SEQUENCES = jnp.array([[[6, 4, 1], [5, 3, 0], [0, 0, 0]], [[5, 3, 1], [0, 0, 0], [0, 0, 0]]])


def test_the_row_of_the_module_text_comes_out_as_written_there():
  inputs = model_inputs(TOKENS, SEQUENCES)
  np.testing.assert_array_equal(inputs.segment_ids[0], [1, 1, 1, 1, 1, 1, 2, 2, 2, 2, 2, 0])
  np.testing.assert_array_equal(inputs.token_type_ids[0], [0, 0, 0, 0, 1, 1, 0, 0, 0, 1, 1, 0])
  np.testing.assert_array_equal(inputs.position_ids[0, :11], [0, 1, 2, 3, 4, 5, 0, 1, 2, 3, 4])
  np.testing.assert_array_equal(inputs.cls_positions[0], [0, 6, 0])
  np.testing.assert_array_equal(inputs.sequence_weights[0], [1, 1, 0])
  np.testing.assert_array_equal(inputs.sequence_labels[0], [1, 0, 0])


def test_padding_has_segment_0_type_0_and_positions_within_the_row():
  inputs = model_inputs(TOKENS, SEQUENCES)
  np.testing.assert_array_equal(inputs.segment_ids[1], [1] * 5 + [0] * 7)
  np.testing.assert_array_equal(inputs.token_type_ids[1], [0, 0, 0, 1, 1] + [0] * 7)
  np.testing.assert_array_equal(inputs.position_ids[1], np.arange(12))


def test_a_row_without_sequences_is_all_padding():
  inputs = model_inputs(TOKENS[:1] * 0, SEQUENCES[:1] * 0)
  assert not inputs.segment_ids.any() and not inputs.sequence_weights.any() and not inputs.token_type_ids.any()
  assert (inputs.position_ids >= 0).all() and (inputs.position_ids < 12).all()


def test_a_full_row_has_no_padding():
  inputs = model_inputs(TOKENS[:1], jnp.array([[[6, 4, 1], [6, 3, 0], [0, 0, 0]]]))
  assert inputs.segment_ids.all()
