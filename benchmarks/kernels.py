"""Do the attention kernels of this device compute what plain attention does?

    python benchmarks/kernels.py

Every implementation that the device has, in bfloat16 (and float32 where it can), on rows of 128 and 512 tokens: ragged
with a padded tail, one sequence, many short ones, nothing but padding. Outputs at real tokens and the gradients of
queries, keys and values are held against plain attention in float32 on the same numbers. A kernel may be as far from
that as twice plain attention in its own dtype is, which is what rounding costs. Exit code 1 where one is further away.
"""

import sys

from bert_jax.__main__ import quiet

quiet()

import jax
import jax.numpy as jnp
import numpy as np

from bert_jax.models import attention

HEADS, WIDTH, SLOTS = 12, 64, 12
LENGTHS = (128, 512)
NAMES = ("output", "query", "key", "value")
_SLACK = 1e-6  # of the largest number: where plain attention happens to be exact


def rows_of(length: int) -> np.ndarray:
  """int32 [rows, SLOTS], lengths of the sequences of each row."""
  half = length // 2
  rows = [[half - 14, 1, half - 12], [length], [length - 51], [3, 30, 31, 1, 1, length // 4] + [5] * 6, []]
  return np.array([row + [0] * (SLOTS - len(row)) for row in rows], np.int32)


def outputs_and_gradients(implementation: str, lengths: np.ndarray, length: int, dtype: str) -> list[np.ndarray]:
  """Outputs at real tokens, and the gradients of a weighted sum over them, in float32; the same numbers go in for
  every dtype.
  """
  numbers = [np.repeat([*range(1, SLOTS + 1), 0], [*row, length - row.sum()]) for row in lengths]
  segments = jnp.asarray(np.stack(numbers), jnp.int32)
  shape = (*segments.shape, HEADS, WIDTH)
  # Rounded to bfloat16 first, so that float32 gets what bfloat16 gets.
  draw = lambda number: jax.random.normal(jax.random.key(number), shape, jnp.bfloat16)
  operands, weights, real = (
    [draw(number).astype(dtype) for number in range(3)],
    draw(3),
    (segments > 0)[:, :, None, None],
  )

  def loss(query, key, value):
    output = attention.dot_product_attention(
      query, key, value, segments, jnp.asarray(lengths), implementation=implementation
    )
    output = jnp.where(real, output, 0).astype(jnp.float32)
    return jnp.sum(output * weights), output

  (_, output), gradients = jax.jit(jax.value_and_grad(loss, argnums=(0, 1, 2), has_aux=True))(*operands)
  return [np.asarray(array, np.float32) for array in (output, *gradients)]


def main() -> int:
  platform = jax.default_backend()
  print(
    f"{jax.devices()[0].device_kind}, jax {jax.__version__}, {HEADS} heads of {WIDTH}; largest difference from "
    "float32, over the largest number\n"
    f"\n{'':24}{'length':>8}" + "".join(f"{name:>12}" for name in NAMES)
  )
  wrong = 0
  for length in LENGTHS:
    lengths = rows_of(length)
    with jax.default_matmul_precision("highest"):  # else TPUs and GPUs round products of float32
      truth = outputs_and_gradients("xla", lengths, length, "float32")
    for dtype in ("float32", "bfloat16"):
      allowed = _distances(outputs_and_gradients("xla", lengths, length, dtype), truth)
      for name in attention.IMPLEMENTATIONS:
        reason = attention.obstacle(name, attention.Use(platform, length, WIDTH, dtype))
        if reason:
          continue
        found = _distances(outputs_and_gradients(name, lengths, length, dtype), truth)
        bad = [not distance <= 2 * limit + _SLACK for distance, limit in zip(found, allowed)]
        wrong += any(bad)
        print(
          f"{f'{name}, {dtype}':<24}{length:>8}"
          + "".join(f"{distance:>12.2e}" for distance in found)
          + ("   WRONG" if any(bad) else ""),
          flush=True,
        )
  return 1 if wrong else 0


def _distances(found: list[np.ndarray], truth: list[np.ndarray]) -> list[float]:
  return [float(np.abs(it - due).max() / np.abs(due).max()) for it, due in zip(found, truth)]


if __name__ == "__main__":
  sys.exit(main())
