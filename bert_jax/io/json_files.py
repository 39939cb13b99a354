"""The JSON files of model folders."""

import json
import pathlib
from typing import Any

from bert_jax.errors import UserError


def read_json(file: pathlib.Path) -> Any:
  """The content of a file. Raises UserError where it is not there, or not JSON."""
  try:
    return json.loads(file.read_text(encoding="utf-8"))
  except FileNotFoundError as error:
    raise UserError(f"{file}: not there; expected a Hugging Face model folder with config.json") from error
  except ValueError as error:
    raise UserError(f"{file}: not readable as JSON ({error})") from error


def write_json(file: pathlib.Path, content: Any) -> None:
  """Writes a file, indented."""
  file.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
