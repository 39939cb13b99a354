"""Holds the JAX of an image at its version while other packages are installed: prints pip constraints, compares them
later.

python3 launch/hold_jax.py > versions.txt
pip install --constraint versions.txt …
python3 launch/hold_jax.py --compare versions.txt
"""

import argparse
import importlib.metadata
import pathlib
import re
import sys

# JAX with its plugins, and the libraries that these load by version: CUDA, cuDNN, NCCL, Transformer Engine.
BELONGS_TO_JAX = re.compile(r"jax|jaxlib|jax[-_]cuda\S*|nvidia[-_]\S*|transformer[-_]engine\S*", re.IGNORECASE)


def held(distributions) -> list[str]:
  """name==version of what is installed and belongs to JAX, sorted."""
  named = ((distribution.metadata["Name"] or "", distribution.version) for distribution in distributions)
  return sorted(
    {f"{name.lower().replace('_', '-')}=={version}" for name, version in named if BELONGS_TO_JAX.fullmatch(name)}
  )


def main(argv: list[str]) -> int:
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument(
    "--compare", metavar="FILE", type=pathlib.Path, help="constraints from before; exit 1 if something is different now"
  )
  options = parser.parse_args(argv)
  now = held(importlib.metadata.distributions())
  if not any(line.startswith("jax==") for line in now):
    print(
      "error: this Python has no jax to hold: give an image that has, as launch/gpu.Dockerfile says", file=sys.stderr
    )
    return 1
  if options.compare is None:
    print("\n".join(now))
    return 0
  before = options.compare.read_text(encoding="utf-8").split()
  for line in sorted(set(before) ^ set(now)):
    print(
      f"error: {line} is {'gone' if line in before else 'new'}: the image's own JAX was to stay as it was",
      file=sys.stderr,
    )
  return 0 if before == now else 1


if __name__ == "__main__":
  sys.exit(main(sys.argv[1:]))
