"""docs/architecture.md and its drawing against the packages that there are."""

import pathlib
import re

from tests.test_architecture import ORDER, imports, room

DOCS = pathlib.Path(__file__).resolve().parents[1] / "docs"
PACKAGES = [name for name in ORDER if not name.startswith("__")]


def test_every_package_has_its_line_in_the_order_of_the_house():
  table = re.findall(r"^\| `(\w+)` \|", (DOCS / "architecture.md").read_text(encoding="utf-8"), re.M)
  assert table == PACKAGES


def test_the_drawing_shows_every_package_above_all_that_it_imports():
  drawing = (DOCS / "packages.svg").read_text(encoding="utf-8")
  height = {name: int(y) for y, name in re.findall(r'y="(\d+)"[^>]* font-weight="bold"[^>]*>(\w+)(?:\.py)?<', drawing)}
  assert set(PACKAGES) <= set(height)
  for path, name in imports():
    above, below = room(path), (name.split(".") + [""])[1]
    if name.startswith("bert_jax.") and {above, below} <= set(PACKAGES) and above != below:
      assert height[above] < height[below], f"{path} imports {name}, which is drawn above it"
