"""All that is to be known of one accelerator, in one call: kernels checked, steps timed, beside transformers, loss
curves.

    python benchmarks/accelerator.py --out=results
    python benchmarks/accelerator.py --out=results --corpus=data/docstrings --minutes=25

Needs JAX for the device, Flax, Optax and ml_collections (and Orbax for the curves); PyTorch and transformers where they
are to be compared with; no TensorFlow and no network. Each job is a process of its own, so that one that fails or runs
out of memory takes nothing along. The most important come first; what does not fit into --minutes is left out, and
said. Of every job OUT/NAME.txt holds what it printed, OUT/NAME.json its result.
"""

import argparse
import json
import pathlib
import subprocess
import sys
import time
from typing import NamedTuple

ROOT = pathlib.Path(__file__).resolve().parents[1]
# What a device is measured by: a config and the rows of a step. Only "cpu" is small, to see that the jobs run.
STEPS: dict[str, dict[str, tuple[str, tuple[int, ...]]]] = {
  "gpu": {"base": ("configs/bert_base.py:phase2", (64, 128, 256)), "large": ("configs/bert_large.py:phase2", (32, 64))},
  "tpu": {"base": ("configs/bert_base.py:phase2", (32, 64)), "large": ("configs/bert_large.py:phase2", (16, 32))},
  "cpu": {"base": ("configs/bert_base.py:local", (2,))},
}
KERNELS: dict[str, tuple[str, ...]] = {"gpu": ("cudnn", "tokamax"), "tpu": ("splash",), "cpu": ()}
CURVE_STEPS = 600


class Job(NamedTuple):
  """A command.

  Attributes:
    name: of its files.
    words: after `python`.
    minutes: that it takes at most.
  """

  name: str
  words: tuple[str, ...]
  minutes: float


def jobs(platform: str, corpus: str, out: pathlib.Path, more: tuple[str, ...] = ()) -> list[Job]:
  """In the order of their importance.

  Args:
    platform: gpu, tpu or cpu.
    corpus: a corpus folder for loss curves; "": none.
    out: where the curves' runs go.
    more: flags for every bench, and for the parts.
  """
  against = tuple(f"--against=model.attention={kernel}" for kernel in KERNELS[platform])
  found = [Job("kernels", ("benchmarks/kernels.py",), 3)]
  for name, (config, rows) in STEPS[platform].items():
    bench = lambda size, *words: (
      "-m",
      "bert_jax",
      "bench",
      f"--config={config}",
      f"--config.data.batch_size={size}",
      "--sequences=2",
      "--json",
      *words,
      *more,
    )
    found += [Job(f"{name}-{size}", bench(size, *against), 4) for size in rows]
    if platform != "tpu":
      found.append(Job(f"{name}-transformers", bench(rows[0], *against[:1], "--compare=transformers"), 5))
    if name == "base":
      costs = (
        "model.hidden_dropout_prob=0.1",
        "model.hidden_dropout_prob=0.1,model.attention_probs_dropout_prob=0.1",
        "model.remat=dots",
        "model.dtype=float32",
      )
      found.append(Job("base-costs", bench(rows[0], *(f"--against={cost}" for cost in costs)), 4))
      found.append(
        Job(
          "parts",
          ("benchmarks/parts.py", f"--config={config}", f"--config.data.batch_size={rows[0]}", "--sequences=2", *more),
          4,
        )
      )
  return found + [
    Job(f"curve-{name}", _curve(corpus, out / f"run-{name}", settings), 5)
    for name, settings in _curves(platform).items()
    if corpus
  ]


def _curves(platform: str) -> dict[str, tuple[str, ...]]:
  """Settings whose loss curves are to lie on each other; the first is plain float32."""
  found: dict[str, tuple[str, ...]] = {
    "float32": ("model.dtype=float32", "model.attention=xla"),
    "bfloat16": ("model.dtype=bfloat16", "model.attention=xla"),
  }
  return found | {kernel: ("model.dtype=bfloat16", f"model.attention={kernel}") for kernel in KERNELS[platform]}


def _curve(corpus: str, workdir: pathlib.Path, settings: tuple[str, ...]) -> tuple[str, ...]:
  # Heads of width 64, which the kernels are made for.
  fixed = (
    f"data.corpus={corpus}",
    "data.source=",
    "data.loader=threads",
    "model.num_attention_heads=1",
    "log_every_steps=10",
    f"stop_at_step={CURVE_STEPS}",
    "eval_rows=400",
    "export.format=",
  )
  return (
    "-m",
    "bert_jax",
    "pretrain",
    "--config=configs/quickstart.py",
    f"--workdir={workdir}",
    *(f"--config.{word}" for word in (*fixed, *settings)),
  )


def main() -> int:
  options, more = _parse_arguments()
  out, began, failed = pathlib.Path(options.out).resolve(), time.monotonic(), []
  out.mkdir(parents=True, exist_ok=True)
  asked = subprocess.run(
    [sys.executable, "-c", "import jax; print(jax.default_backend())"], capture_output=True, text=True, check=True
  )
  platform = asked.stdout.split()[-1]
  corpus = str(pathlib.Path(options.corpus).resolve()) if options.corpus else ""
  for job in jobs(platform, corpus, out, tuple(more)):
    left = 60 * options.minutes - (time.monotonic() - began)
    if left < 20:
      failed.append(job.name)
      print(f"\n== {job.name}: left out, {options.minutes:g} minutes are over", flush=True)
      continue
    print(f"\n== {job.name}: python {' '.join(job.words)}", flush=True)
    if not _run(job, out, seconds=min(left, 60 * job.minutes)):
      failed.append(job.name)
  print(f"\nnot done: {', '.join(failed)}" if failed else "\nall done")
  return 1 if failed else 0


def _run(job: Job, out: pathlib.Path, *, seconds: float) -> bool:
  """Runs a job, shows what it says; whether it came to its end, and well."""
  try:
    done = subprocess.run([sys.executable, *job.words], cwd=ROOT, capture_output=True, text=True, timeout=seconds)
    code, said, errors = done.returncode, done.stdout, done.stderr
  except subprocess.TimeoutExpired as late:
    code, said, errors = f"over {seconds:.0f} s", "", (late.stderr or b"").decode(errors="replace")
  (out / f"{job.name}.txt").write_text(f"exit code {code}\n{said}\n{errors}", encoding="utf-8")
  if "--json" in job.words and said.strip().startswith("{"):
    found = json.loads(said)
    (out / f"{job.name}.json").write_text(json.dumps(found, indent=1), encoding="utf-8")
    said = "\n".join(_line(result) for result in found["results"])
  print(said if code == 0 else f"{said}\nexit code {code}\n{errors[-2000:]}", flush=True)
  return code == 0


def _line(result: dict) -> str:
  if result["failure"]:
    return f"{result['name']:<60} not timed: {result['failure']}"
  mfu = f"{result['mfu']:>8.1%}" if result["mfu"] else ""
  return (
    f"{result['name']:<60}{result['tokens_per_second']['median']:>14,.0f} "
    f"tokens/s{1000 * result['step_seconds']:>12.1f} ms{mfu}"
  )


def _parse_arguments() -> tuple[argparse.Namespace, list[str]]:
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
  )
  parser.add_argument("--out", required=True, metavar="DIR", help="for the results")
  parser.add_argument(
    "--corpus", default="", metavar="DIR", help="of rows of 128 tokens, for the loss curves (default: none are made)"
  )
  parser.add_argument("--minutes", type=float, default=9.5, help="that all may take (default: %(default)s)")
  return parser.parse_known_args()  # what is left goes to every bench and the parts: --rounds, --seconds, --config.…


if __name__ == "__main__":
  sys.exit(main())
