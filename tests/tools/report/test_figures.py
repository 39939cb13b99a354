"""The picture of a run's curves can be looked at, and appears whole or not at all."""

import errno
import os

import matplotlib.figure
import matplotlib.image
import pytest

from bert_jax.errors import UserError
from bert_jax.tools.report import figures, summary


@pytest.mark.parametrize("ending", figures.FIGURE_FORMATS)
def test_the_picture_is_drawn_whole(run_folder, tmp_path, ending):
  out = tmp_path / f"curves{ending}"
  figures.plot_curves(summary.read_run(run_folder), out)
  assert out.stat().st_size > 5000 and not (tmp_path / f"curves{ending}.partial").exists()
  if ending == ".png":
    picture = matplotlib.image.imread(out)[..., :3]
    assert picture.shape == (570, 1500, 3)
    for color in (figures.TRAIN_COLOR, figures.EVAL_COLOR, figures.LIMIT_COLOR):
      wanted = [int(color[i : i + 2], 16) / 255 for i in (1, 3, 5)]
      for panel in (picture[:, :750], picture[:, 750:]):
        pixels = abs(panel - wanted).max(axis=-1) < 0.02
        assert pixels.any(axis=0).sum() > 250, color  # wider than the legend's line of 50


def test_a_picture_that_cannot_be_finished_leaves_the_old_one(run_folder, tmp_path, monkeypatch):
  out = tmp_path / "curves.png"
  out.write_bytes(b"the old picture")

  def full(self, path, **_):
    with open(path, "wb") as file:
      file.write(b"half")
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

  monkeypatch.setattr(matplotlib.figure.Figure, "savefig", full)
  with pytest.raises(UserError, match="No space left"):
    figures.plot_curves(summary.read_run(run_folder), out)
  assert out.read_bytes() == b"the old picture"


def test_without_nsp_there_is_one_panel(run_folder, tmp_path):
  run = summary.read_run(run_folder)
  for record in run.metrics.values():
    record.pop("train/nsp_accuracy", None)
  figures.plot_curves(run, tmp_path / "curves.png")
  assert matplotlib.image.imread(tmp_path / "curves.png").shape[:2] == (570, 900)


def test_a_picture_that_cannot_be_drawn_is_refused_with_the_remedy(run_folder, tmp_path):
  run = summary.read_run(run_folder)
  with pytest.raises(UserError, match="expected a file name ending in .png"):
    figures.plot_curves(run, tmp_path / "curves.jpg")
  with pytest.raises(UserError, match="cannot write .*No such file or directory"):
    figures.plot_curves(run, tmp_path / "missing" / "curves.png")
