"""A bench as people read it, and as programs do."""

from typing import Any

from bert_jax import config as configs
from bert_jax.tools.bench.measure import Bench, Result

_GIB = 2**30


def bench_text(bench: Bench) -> str:
  """A few blocks of lines."""
  return "\n\n".join(
    "\n".join(block) for block in (_about(bench), _checks(bench), _speeds(bench), _parts(bench)) if block
  )


def _about(bench: Bench) -> list[str]:
  config, encoder = bench.config, configs.encoder_of(bench.config)
  dropout = f"{encoder.hidden_dropout_prob:g} (hidden), {encoder.attention_probs_dropout_prob:g} (attention)"
  parts = f", in {config.optimizer.microbatches} microbatches" if config.optimizer.microbatches > 1 else ""
  rows = [
    (
      "model",
      f"{config.model.preset}: {encoder.num_hidden_layers} layers of width {encoder.hidden_size}, vocabulary "
      f"{encoder.vocab_size:,}, {config.model.dtype}",
    ),
    ("rows", f"{config.data.batch_size} a step; {bench.source}"),
    ("step", f"{config.masking.rate:.0%} predicted, dropout {dropout}, {config.optimizer.name}{parts}"),
    ("machine", bench.machine),
    ("versions", ", ".join(f"{name} {version}" for name, version in bench.versions.items())),
  ]
  return [f"{name:<10}{value}" for name, value in rows]


def _checks(bench: Bench) -> list[str]:
  width = _width(bench)
  verdict = {True: "agrees", False: "DIFFERS", None: "computes something else: not compared"}
  lines = [
    f"{'first step':<{width}}{'loss':>12}{'gradient norm':>16}",
    f"{'float32, xla':<{width}}{bench.reference[0]:>12.5f}{bench.reference[1]:>16.5f}",
  ]
  for result in bench.results:
    if result.loss is not None:
      lines.append(f"{result.name:<{width}}{result.loss:>12.5f}{result.grad_norm:>16.5f}   {verdict[result.agrees]}")
  return lines


def _speeds(bench: Bench) -> list[str]:
  width = _width(bench)
  mfu = f"{'MFU':>8}" if bench.peak_flops else ""
  lines = [
    f"{'':<{width}}{'tokens/s':>12}{'from-to':>24}{'ms a step':>12}{'TFLOP/s':>10}{mfu}{'memory':>12}   "
    f"{bench.results[0].name} is"
  ]
  for result in bench.results:
    if result.failure:
      lines.append(f"{result.name:<{width}}{'not timed':>12}   {result.failure}")
      continue
    speed, rate = result.tokens_per_second, bench.model_flops(result)
    memory = f"{result.memory_bytes / _GIB:.2f} GiB" if result.memory_bytes else "-"
    spread = f"{speed.low:,.0f}-{speed.high:,.0f}"
    lines.append(
      f"{result.name:<{width}}{speed.median:>12,.0f}{spread:>24}"
      f"{1000 * result.step_seconds:>12,.1f}{rate / 1e12:>10.3f}"
      + (f"{rate / bench.peak_flops:>8.1%}" if bench.peak_flops else "")
      + f"{memory:>12}"
      + _times(bench, result)
    )
  return lines


def _times(bench: Bench, result: Result) -> str:
  if result is bench.results[0]:
    return ""
  faster = bench.speedup(result)
  return f"   {faster.median:.2f} times as fast ({faster.low:.2f}-{faster.high:.2f})"


def _parts(bench: Bench) -> list[str]:
  shares = _shares(bench)
  lines = [
    "where a step goes   "
    + ", ".join(f"{name} {share:.0%}" for name, share in shares.items())
    + f"; waiting for rows {bench.waiting:.1%}"
  ]
  rate = bench.model_flops(bench.results[0])
  devices = "" if bench.peak_flops is None else " on one device"
  lines.append(
    f"model FLOPs         {rate / 1e12:.3f} TFLOP/s; a plain matrix product in {bench.config.model.dtype} reaches "
    f"{bench.product_flops / 1e12:.3f}{devices}"
    + (f", PyTorch's {bench.peer_product_flops / 1e12:.3f}" if bench.peer_product_flops else "")
  )
  if bench.roofline_seconds is not None:
    least = bench.roofline_seconds
    lines.append(
      f"roofline            {1000 * least:.1f} ms by formula from the data sheet, "
      f"{least / bench.results[0].step_seconds:.0%} of the step"
    )
  return lines


def _shares(bench: Bench) -> dict[str, float]:
  """Parts of our step, from programs that end earlier: forward, that and backward, all of it."""
  step = bench.results[0].step_seconds
  return {
    "forward": bench.forward / step,
    "backward": (bench.gradients - bench.forward) / step,
    "optimizer and the rest": (step - bench.gradients) / step,
  }


def _width(bench: Bench) -> int:
  return max(18, *(len(result.name) for result in bench.results)) + 2


def bench_json(bench: Bench) -> dict[str, Any]:
  """The same for programs. Seconds, tokens per second, bytes, FLOP/s."""
  return {
    "config": configs.flatten(bench.config),
    "rows": bench.source,
    "machine": bench.machine,
    "versions": bench.versions,
    "float32": dict(zip(("loss", "grad_norm"), bench.reference)),
    "results": [_result_json(bench, result) for result in bench.results],
    "shares": _shares(bench),
    "waiting": bench.waiting,
    "model_flops_per_token": bench.flops_per_token,
    "matrix_product_flops": bench.product_flops,
    "peer_matrix_product_flops": bench.peer_product_flops,
    "roofline_seconds": bench.roofline_seconds,
    "peak_flops": bench.peak_flops,
  }


def _result_json(bench: Bench, result: Result) -> dict[str, Any]:
  found = {
    name: getattr(result, name)
    for name in ("name", "failure", "loss", "grad_norm", "agrees", "compile_seconds", "memory_bytes")
  }
  if result.token_seconds:
    rate = bench.model_flops(result)
    found |= {
      "tokens_per_second": result.tokens_per_second._asdict(),
      "step_seconds": result.step_seconds,
      "step_tokens": result.step_tokens,
      "model_flops": rate,
      "mfu": rate / bench.peak_flops if bench.peak_flops else None,
      "ours_times_as_fast": bench.speedup(result)._asdict(),
    }
  return found
