"""docs/configuration.md and the lines of --help."""

import pathlib

from bert_jax import config as configs
from bert_jax.config.page import page

DOCS = pathlib.Path(__file__).resolve().parents[2] / "docs"


def test_the_page_is_what_the_schema_gives():
  text = (DOCS / "configuration.md").read_text(encoding="utf-8")
  assert text == page(), "python -m bert_jax.config > docs/configuration.md"


def test_the_page_has_a_row_for_every_key_with_all_that_its_row_says():
  rows = [line for line in page().splitlines() if line.startswith("| `")]
  assert sorted(row.split("`")[1] for row in rows) == sorted(configs.KEYS)
  assert (
    "| `optimizer.schedule` | `linear` | `linear`, `wsd` | Course of the learning rate after the warmup: linear (decay "
    "to 0 at total_steps) or wsd (stable, then decay). |  |"
  ) in rows
  assert "| `mesh.fsdp` | `1` | int | Devices that split the batch and the parameters. | yes |" in rows


def test_help_lists_the_keys_of_some_groups_or_all():
  lines = configs.help_lines("mesh.", "export.").splitlines()
  assert [line.split()[0] for line in lines] == ["mesh.data", "mesh.fsdp", "mesh.tensor", "export.format"]
  assert len(configs.help_lines().splitlines()) == len(configs.KEYS)
