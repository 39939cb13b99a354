"""The schema for people: the lines of `--help`, and docs/configuration.md.

python -m bert_jax.config > docs/configuration.md
"""

from bert_jax.config.key import Key
from bert_jax.config.schema import KEYS

_HEAD = """# Configuration

Every key of a run, as the rows of `bert_jax/config/` declare it; this page is written by
`python -m bert_jax.config`. A config file sets them (`config.data.batch_size = 64`), and so does the command line
(`--config.data.batch_size=64`). A run folder keeps them in `config.json`. Keys marked with "yes" may differ when a run
is resumed: they change neither its data nor the mathematics of a step.
"""
_TABLE = "| key | default | values | meaning | resume may change |\n|---|---|---|---|---|"


def help_lines(*groups: str) -> str:
  """A line for every key whose name begins with one of `groups`, or for all keys."""
  return "\n".join(f"  {name:<38} {key.meaning}" for name, key in KEYS.items() if name.startswith(groups or ""))


def page() -> str:
  """The page of all keys, one table per group, in Markdown."""
  groups: dict[str, list[Key]] = {}
  for key in KEYS.values():
    groups.setdefault(key.name.rpartition(".")[0], []).append(key)
  parts = [_HEAD]
  for group, keys in groups.items():
    parts.append(f"\n## {f'`{group}`' if group else 'The run'}\n\n{_TABLE}")
    parts.extend(_row(key) for key in keys)
  return "\n".join(parts) + "\n"


def _row(key: Key) -> str:
  default = "derived" if key.default is None else f"`{key.default}`" if key.default != "" else "empty"
  values = ", ".join(f"`{name}`" if name else "empty" for name in key.options) or str(key.range or key.type.__name__)
  cells = (f"`{key.name}`", default, values, key.meaning, "yes" if key.free else "")
  return f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"
