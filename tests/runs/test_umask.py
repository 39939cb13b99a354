"""Who may read what a run, a corpus or an encoding leaves is what the umask says, for every file alike."""

import os
import stat

import numpy as np
import pytest

from bert_jax.__main__ import main
from tests.helpers.tiny_runs import write_config, write_text


@pytest.fixture
def umask():
  before = os.umask(0o027)
  yield
  os.umask(before)


def modes(folder):
  return {
    (path.is_dir(), oct(stat.S_IMODE(path.stat().st_mode))): str(path.relative_to(folder))
    for path in folder.rglob("*")
    if not path.is_symlink()
  }


def test_every_file_follows_the_umask(tmp_path, umask):
  os.umask(0o077)  # what a run begins with may be readable by its owner alone
  write_text(tmp_path / "books.txt")
  config = write_config(tmp_path)
  os.umask(0o027)
  made = tmp_path / "made"
  source = f"--source=text:{tmp_path / 'books.txt'}"
  sizes = ("--vocab_size=120", "--seq_length=32", "--workers=1")
  assert main(["prepare", source, f"--out={made / 'corpus'}", *sizes]) == 0
  steps = ("total_steps=2", "optimizer.warmup_steps=1", "checkpoint.every_steps=1", "export.format=transformers")
  overrides = [f"--config.{key}" for key in (f"data.corpus={made / 'corpus'}", *steps)]
  assert main(["pretrain", f"--config={config}", f"--workdir={made / 'run'}", *overrides]) == 0
  for path in (made / "run" / "export").iterdir():
    path.chmod(0o600)
  (made / "lines.txt").write_text("a line\n")
  model = f"--model={made / 'run' / 'export'}"
  assert main(["encode", model, f"--input={made / 'lines.txt'}", f"--out={made / 'lines.npy'}"]) == 0
  assert np.load(made / "lines.npy").shape[0] == 1
  table = made / "table.csv"
  table.write_text(
    "text,label\n" + "".join(f"the {word} file {i},{word}\n" for i in range(100) for word in ("old", "new"))
  )
  tuned = ("--text=text", "--label=label", f"--workdir={made / 'tuned'}", "--config.tuning.epochs=0.1")
  assert main(["finetune", model, f"--data={table}", *tuned]) == 0
  for path in (made / "run" / "export").iterdir():
    path.chmod(0o640)
  assert main(["report", f"--workdir={made / 'run'}"]) == 0
  assert main(["export", f"--workdir={made / 'run'}", f"--out={made / 'own'}"]) == 0
  assert modes(made).keys() == {(True, "0o750"), (False, "0o640")}, modes(made)
