"""What a config may hold, its form as JSON, and what a resume may change."""

import pytest

from bert_jax import config as configs
from bert_jax.errors import UserError


def config_with(**values):
  config = configs.default_config()
  for name, value in values.items():
    configs.set_key(config, name.replace("__", "."), value)
  return config


def test_defaults_can_work():
  configs.validate(configs.default_config())


@pytest.mark.parametrize("key", [key for key in configs.KEYS.values() if key.range], ids=lambda key: key.name)
def test_numbers_outside_of_the_range_of_a_key_are_refused_with_the_range_and_the_meaning(key):
  low, high, above, below = key.range
  outside = [low if above else low - 1, *([high if below else high + 1] if high < float("inf") else ())]
  if key.type is float:
    outside.append(float("nan"))
  for value in outside:
    config = configs.default_config()
    configs.set_key(config, key.name, key.type(value))
    with pytest.raises(UserError) as error:
      configs.validate(config)
    assert str(error.value) == f"config key {key.name!r} must be {key.range}, not {key.type(value)}. {key.meaning}"


@pytest.mark.parametrize("key", [key for key in configs.KEYS.values() if key.choices], ids=lambda key: key.name)
def test_texts_other_than_the_choices_of_a_key_are_refused_with_the_choices(key):
  for value in key.options:
    assert key.allows(value)
  config = configs.default_config()
  configs.set_key(config, key.name, "letter")
  with pytest.raises(UserError, match=f"'{key.name}' must be one of .*{key.options[-1]}.*, not 'letter'"):
    configs.validate(config)


@pytest.mark.parametrize(
  "values, said",
  [
    ({"masking__mask_share": 0.8, "masking__random_share": 0.3}, "mask_share .* must not exceed 1"),
    ({"optimizer__microbatches": 7}, "data.batch_size=256 does not divide into optimizer.microbatches=7"),
    ({"stop_at_step": 2000}, "stop_at_step=2000 must lie between 0 and total_steps=1000"),
    ({"init_optimizer": True}, "init_from, which is empty"),
  ],
)
def test_keys_that_do_not_go_together_are_refused(values, said):
  with pytest.raises(UserError, match=said):
    configs.validate(config_with(**values))


def test_json_keeps_every_key_and_value():
  config = configs.default_config()
  config.model.hidden_size = 48
  config.optimizer.learning_rate = 0.1 + 0.2
  again = configs.from_json(configs.to_json(config))
  assert configs.flatten(again) == configs.flatten(config)
  assert set(configs.flatten(config)) == set(configs.KEYS)


def test_a_config_of_an_earlier_version_is_read_by_the_names_of_today():
  config = configs.from_json('{"finetune.pooling": "mean", "finetune.stride": 64, "model.pad_token_id": 0, "seed": 3}')
  assert configs.differences(configs.default_config(), config) == {
    "seed": (0, 3),
    "tuning.pooling": ("pooler", "mean"),
    "finetune.stride": (128, 64),
  }


def test_a_changed_key_matters_unless_it_is_free_to_change():
  before, after = configs.default_config(), configs.default_config()
  after.log_every_steps = 7
  after.mesh.fsdp = 4
  assert configs.changed_keys(before, after) == {}
  after.seed = 1
  assert configs.changed_keys(before, after) == {"seed": (0, 1)}


def test_what_decides_rows_masks_and_updates_is_not_free_to_change():
  free = {name for name, key in configs.KEYS.items() if key.free}
  groups = {name.partition(".")[0] for name in free if "." in name}
  assert groups == {"data", "prepare", "mesh", "model", "optimizer", "checkpoint", "cluster", "watchdog", "export"}
  assert {name for name in free if name.startswith(("data.", "model.", "optimizer."))} == {
    "data.corpus",  # known by its corpus_id
    "data.source",
    "data.loader",
    "data.cache_dir",
    "model.remat",
    "model.attention",
    "optimizer.microbatches",
  }
