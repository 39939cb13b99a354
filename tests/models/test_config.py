"""EncoderConfig and its presets."""

import pytest

from bert_jax.errors import UserError
from bert_jax.models import config as model_config


def test_every_preset_makes_a_valid_config():
  for preset in model_config.PRESETS:
    config = model_config.encoder_config(preset)
    assert config.head_dim == 64 and config.intermediate_size == 4 * config.hidden_size


@pytest.mark.parametrize(
  "preset, millions",
  [
    # Table 1 of arXiv:1908.08962
    ("bert-tiny", 4.4),
    ("bert-mini", 11.3),
    ("bert-small", 29.1),
    ("bert-medium", 41.7),
    ("bert-base", 110.1),
    # Section 3 of arXiv:1810.04805
    ("bert-large", 340),
  ],
)
def test_presets_have_the_published_number_of_parameters(preset, millions):
  c = model_config.encoder_config(preset)
  h, i = c.hidden_size, c.intermediate_size
  embeddings = (c.vocab_size + c.max_position_embeddings + c.type_vocab_size) * h + 2 * h
  layer = 4 * (h * h + h) + (h * i + i) + (i * h + h) + 4 * h
  total = embeddings + c.num_hidden_layers * layer + h * h + h  # with the pooler
  assert total / 1e6 == pytest.approx(millions, rel=0.015)


def test_the_vocabulary_is_padded_to_a_multiple_of_128():
  for vocab_size, padded in ((128, 128), (129, 256), (30522, 30592)):
    assert model_config.EncoderConfig(vocab_size=vocab_size).padded_vocab_size == padded


@pytest.mark.parametrize(
  "overrides, named",
  [
    ({"hidden_size": 100, "num_attention_heads": 3}, "num_attention_heads"),
    ({"hidden_act": "gelu_new"}, "hidden_act"),
    ({"hidden_dropout_prob": 1.0}, "hidden_dropout_prob"),
    ({"vocab_size": 0}, "vocab_size"),
    ({"vocab_size": 30522.0}, "vocab_size"),
    ({"num_hidden_layers": True}, "num_hidden_layers"),
    ({"layer_norm_eps": 0}, "layer_norm_eps"),
    ({"pad_token_id": 99999}, "pad_token_id"),
    ({"position_init": "sine"}, "position_init"),
    ({"position_init": "sinusoidal", "hidden_size": 65, "num_attention_heads": 1}, "even"),
    ({"hiden_size": 128}, "did you mean 'hidden_size'"),
  ],
)
def test_a_field_that_makes_no_model_is_named(overrides, named):
  with pytest.raises(UserError, match=named):
    model_config.encoder_config("bert-tiny", **overrides)


def test_an_unknown_preset_suggests_the_nearest():
  with pytest.raises(UserError, match="did you mean 'bert-base'"):
    model_config.encoder_config("bert-bas")
