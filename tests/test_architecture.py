"""The order of the house: a package imports only from those before it, and heavy libraries live in one room each."""

import ast
import pathlib
import re
import subprocess
import sys

PACKAGE = pathlib.Path(__file__).resolve().parents[1] / "bert_jax"

# Folders and root modules from the ground up; `api` imports the rest when its functions are called.
ORDER = [
  "errors",
  "batch",
  "internals",
  "io",
  "models",
  "cluster",
  "objectives",
  "data",
  "config",
  "convert",
  "training",
  "inference",
  "evaluation",
  "export",
  "runs",
  "tools",
  "commands",
  "api",
  "__init__",
  "__main__",
]

# Library -> the only files that may import it.
ROOMS = {
  "tensorflow": {"data/loading/input_pipeline.py", "data/text/tfds_texts.py"},
  "orbax": {"training/checkpoints/arrays.py"},
  "torch": {"tools/bench/peer.py"},  # what is measured there is theirs
  "transformers": {"tools/bench/peer.py"},
  "pickle": set(),
  "dill": set(),
  "cloudpickle": set(),
}


# Private names of libraries, one file per library. `_fields` and its like are the public names of a NamedTuple, and
# os._exit is in Python's manual.
INTERNALS = "internals/"
NOT_PRIVATE = {"_asdict", "_fields", "_replace", "_exit"}


def imports():
  """(path within the package, dotted name) of everything that is imported, inside functions too."""
  for path in sorted(PACKAGE.rglob("*.py")):
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
      if isinstance(node, ast.Import):
        yield from ((path.relative_to(PACKAGE), alias.name) for alias in node.names)
      elif isinstance(node, ast.ImportFrom):
        assert node.level == 0, f"{path}: a relative import"
        yield from ((path.relative_to(PACKAGE), f"{node.module}.{alias.name}") for alias in node.names)


def room(path):
  return path.parts[0].removesuffix(".py")


def test_every_file_lies_in_a_room_of_the_house():
  assert {room(path.relative_to(PACKAGE)) for path in PACKAGE.rglob("*.py")} == set(ORDER)
  assert len(list(PACKAGE.glob("*.py"))) <= 6


def test_a_room_imports_only_from_those_before_it():
  wrong = []
  for path, name in imports():
    top, _, rest = name.partition(".")
    if top == "bert_jax" and rest and rest != "__version__":
      other = rest.partition(".")[0]
      if ORDER.index(other) > ORDER.index(room(path)):
        wrong.append(f"{path} imports {name}")
  assert not wrong, wrong


def test_packages_have_no_code_of_their_own():
  for path in PACKAGE.rglob("__init__.py"):
    kinds = {type(node) for node in ast.parse(path.read_text(encoding="utf-8")).body}
    assert kinds <= {ast.Expr, ast.ImportFrom, ast.Assign}, path


def test_heavy_libraries_are_imported_in_their_rooms_alone():
  for library, allowed in ROOMS.items():
    users = {path.as_posix() for path, name in imports() if name.split(".")[0] == library}
    assert users == allowed, library


# Parts of the names of parameters that are not also names of heads, poolings or config keys.
PARAMETERS = {
  "word_embeddings",
  "position_embeddings",
  "token_type_embeddings",
  "embedding_projection",
  "layer_",
  "layer_norm",
  "feed_forward",
  "final_norm",
  "mlm_head",
  "nsp_head",
  "span_head",
  "classifier",
  "kernel",
}


def test_only_models_and_conversion_know_the_names_of_parameters():
  """The rest asks models/parameters.py, so that a family with other parameters is added there alone."""
  for path in PACKAGE.rglob("*.py"):
    where = room(path.relative_to(PACKAGE))
    if where not in ("models", "convert"):
      known = PARAMETERS | ({"encoder", "embeddings", "pooler"} if where in ("training", "cluster", "io") else set())
      texts = [node.value for node in ast.walk(ast.parse(path.read_text("utf-8"))) if isinstance(node, ast.Constant)]
      names = [text for text in texts if isinstance(text, str) and " " not in text]  # others are prose
      named = {part for name in names for part in name.split("/")} & known
      assert not named, f"{path} names the parameters {named}"


def test_only_objectives_name_their_metrics():
  """The rest loops over Objective.shown, so that another one is shown and evaluated without a change elsewhere."""
  for path in PACKAGE.rglob("*.py"):
    if room(path.relative_to(PACKAGE)) not in ("objectives", "models", "convert"):
      named = re.findall(r"mlm_\w*|(?:nsp|sop)_(?:loss|accuracy|majority)", path.read_text("utf-8"))
      assert not named, f"{path} names {named}"


def is_private(name):
  return name.startswith("_") and not name.startswith("__") and name not in NOT_PRIVATE


def private_names(path):
  """What a file imports that is private, and what it asks of others that it does not define itself."""
  nodes = list(ast.walk(ast.parse(path.read_text(encoding="utf-8"))))
  own = {node.name for node in nodes if isinstance(node, (ast.FunctionDef, ast.ClassDef))}
  own |= {node.attr for node in nodes if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store)}
  for node in nodes:
    names = []
    if isinstance(node, ast.Import):
      names = [alias.name for alias in node.names]
    elif isinstance(node, ast.ImportFrom):
      names = [f"{node.module}.{alias.name}" for alias in node.names]
    elif isinstance(node, ast.Attribute) and node.attr not in own and ast.unparse(node.value) not in ("self", "cls"):
      names = [node.attr]
    yield from (name for name in names if any(map(is_private, name.split("."))))


def test_private_names_of_libraries_are_used_in_their_rooms_alone():
  used = {path.relative_to(PACKAGE).as_posix(): list(private_names(path)) for path in PACKAGE.rglob("*.py")}
  rooms = {name for name, names in used.items() if names and name.startswith(INTERNALS)}
  assert rooms == {INTERNALS + name for name in ("jax.py", "python.py", "tokamax.py")}
  for name, names in used.items():
    if names and name not in rooms:
      raise AssertionError(f"{name}: {names}")
    if name in rooms:  # which versions it was tried with
      assert "Seen to work with" in ast.get_docstring(ast.parse((PACKAGE / name).read_text(encoding="utf-8")))


def test_importing_the_package_and_its_training_code_imports_no_tensorflow():
  files = [path.relative_to(PACKAGE).with_suffix("") for path in PACKAGE.rglob("*.py")]
  modules = ", ".join("bert_jax." + ".".join(file.parts) for file in files if not file.name.startswith("__"))
  code = f"import bert_jax, sys; import {modules}; sys.exit('tensorflow' in sys.modules)"
  assert subprocess.run([sys.executable, "-c", code], cwd=PACKAGE.parent).returncode == 0
