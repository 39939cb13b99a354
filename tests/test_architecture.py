"""The floors of the house: a file imports only from the floors below, and on its own floor from files listed before
it.
"""

import ast
import pathlib
import subprocess
import sys

PACKAGE = pathlib.Path(__file__).resolve().parents[1] / "bert_jax"

# From the ground up. Every module of the package stands in exactly one place.
FLOORS = (
  ("errors", "imports", "atomic", "locks", "storage"),
  (  # 0: model math, pure
    "models.config",
    "config",
    "batch",
    "masking",
    "losses",
    "models.dropout",
    "models.attention_kernels",
    "models.attention",
    "models.layers",
    "models.encoder",
    "models.heads",
    "models.pooling",
    "models.pretraining",
    "models.finetuning",
    "models.sentence",
    "chips",
    "flops",
  ),
  (  # 1: data
    "data.files",
    "data.text_files",
    "data.parquet_files",
    "data.tfds_texts",
    "data.docstrings",
    "data.sources",
    "data.tokenizer",
    "data.vocabulary",
    "data.sentences",
    "data.npy",
    "data.documents",
    "data.words",
    "data.chunk",
    "data.pairs",
    "data.packing",
    "data.rows",
    "data.order",
    "data.corpus",
    "data.staging",
    "data.statistics",
    "data.splits",
    "data.cleaning",
    "data.job",
    "data.work_folders",
    "data.workers",
    "data.assemble",
    "data.prepare",
    "data.beam",
    "data.mixture",
    "data.input_pipeline",
    "data.tables",
    "data.tasks",
    "data.features",
    "data.questions",
    "data.task_files",
    "data.labelled",
    "data.text_groups",
  ),
  ("convert.bert", "convert.json_files", "convert.sentence_folder", "convert.folder"),  # 1: interop
  (
    "cluster.distributed",
    "cluster.rendezvous",
    "cluster.agreement",
    "cluster.preemption",
    "cluster.watchdog",
    "cluster.peers",
    "cluster.stragglers",
  ),  # 2: starting, stopping and watching processes
  (  # 2: training
    "training.hashing",
    "training.rounding",
    "training.optimizer",
    "training.sharding",
    "training.data_parallel",
    "training.train_state",
    "training.checksums",
    "training.judging",
    "training.orbax_noise",
    "training.checkpoint_folder",
    "training.checkpoint_files",
    "training.checkpoint_reading",
    "training.checkpoint",
    "training.metrics",
    "training.progress",
    "training.train_step",
    "training.program",
    "training.jumps",
    "training.profile",
    "training.window",
    "training.loop",
  ),
  (
    "pretrain",
    "finetune",
    "sentence_embedding",
    "task_metrics",
    "resolve",
    "inference",
    "evaluation",
    "model_card",
    "exporting",
    "run",
    "run_pretraining",
    "labelling",
    "api",
    "predictions",
    "tuning",
    "run_finetuning",
    "run_sentence_embedding",
    "tools.inspect",
    "tools.history",
    "tools.goodput",
    "tools.report",
    "tools.figures",
    "tools.samples",
    "tools.svg",
    "suite",
    "tools.probe",
    "zero_shot",
    "tools.look",
    "tools.page_style",
    "tools.look_page",
    "tools.report_page",
    "tools.checks.row",
    "tools.checks.versions",
    "tools.checks.context",
    "tools.checks.machine",
    "tools.checks.storage",
    "tools.checks.corpus",
    "tools.checks.settings",
    "tools.checks.cluster",
    "tools.doctor",
    "tools.hlo",
    "tools.data_facts",
    "tools.ahead",
    "tools.estimate",
    "tools.plan",
    "tools.timing",
    "tools.bench.rows",
    "tools.bench.own",
    "tools.bench.peer",
    "tools.bench.measure",
    "tools.bench.page",
  ),  # 3: tasks, use, tools
  (  # 4: commands
    "commands.prepare",
    "commands.inspect",
    "commands.plan",
    "commands.bench",
    "commands.pretrain",
    "commands.doctor",
    "commands.report",
    "commands.finetune",
    "commands.sentence_embedding",
    "commands.evaluate",
    "commands.export",
    "commands.fill_mask",
    "commands.next_sentence",
    "commands.encode",
    "commands.predict",
    "commands.probe",
    "commands.look",
    "__main__",
  ),
)
PLACE = {module: (floor, number) for floor, modules in enumerate(FLOORS) for number, module in enumerate(modules)}


def module_of(path):
  return ".".join(path.relative_to(PACKAGE).with_suffix("").parts)


def files():
  return {module_of(path): path for path in sorted(PACKAGE.rglob("*.py")) if path.name != "__init__.py"}


def imports_of(path):
  """The dotted name of everything that a file imports, inside functions too."""
  for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
    if isinstance(node, ast.Import):
      yield from (alias.name for alias in node.names)
    elif isinstance(node, ast.ImportFrom):
      yield from (f"{node.module}.{alias.name}" for alias in node.names)


def inner(name):
  """The module of ours that "bert_jax.data.corpus.folder.open_corpus" comes from, or None."""
  if not name.startswith("bert_jax."):
    return None
  parts = name.removeprefix("bert_jax.").split(".")
  for length in range(len(parts), 0, -1):
    if ".".join(parts[:length]) in PLACE:
      return ".".join(parts[:length])
  return None


def test_every_file_has_its_place():
  assert set(files()) == set(PLACE)


def test_a_file_imports_only_from_below():
  wrong = []
  for module, path in files().items():
    for name in imports_of(path):
      other = inner(name)
      if other is not None and PLACE[other] >= PLACE[module]:
        wrong.append(f"{module} imports {other}")
  assert not wrong, wrong


def test_floor_0_knows_neither_tensorflow_nor_orbax_nor_torch_and_only_one_file_each_elsewhere():
  users = {}
  for module, path in files().items():
    for name in imports_of(path):
      users.setdefault(name.split(".")[0], set()).add(module)
  assert users.get("tensorflow", set()) <= {"data.input_pipeline", "data.tfds_texts"}
  assert users.get("orbax", set()) == {"training.checkpoint_files"}
  assert users.get("torch") == users.get("transformers") == {"tools.bench.peer"}  # what is measured there is theirs
  assert not users.get("pickle") and not users.get("dill") and not users.get("cloudpickle")


def test_importing_the_package_and_its_training_code_imports_no_tensorflow():
  modules = ", ".join(f"bert_jax.{module}" for module in PLACE if not module.startswith("__"))
  code = f"import bert_jax, sys; import {modules}; sys.exit('tensorflow' in sys.modules)"
  assert subprocess.run([sys.executable, "-c", code], cwd=PACKAGE.parent).returncode == 0
