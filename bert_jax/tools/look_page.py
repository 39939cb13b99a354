"""What `look` found, for a terminal and as one page of HTML that needs nothing else."""

import math
from typing import Sequence

import numpy as np

from bert_jax.tools.look import Look, Mask
from bert_jax.tools.svg import escape

WHY_THEY_DIFFER = ("Left out asks the model again with one more token hidden, so it sees everything that the model does, but one token at a time: where two say the same, "
                   "neither matters. Rollout follows attention alone: where a token was looked at, not what was made of it.")  # fmt: skip
LENS = "Layers below the last were never trained to be read by the MLM head: they show how far its answer is there already."
_BLOCKS = " ▁▂▃▄▅▆▇█"


def lines(found: Look) -> str:
  """For a terminal."""
  parts = [found.text]
  for number, mask in enumerate(found.masks, 1):
    parts.append(f"\n[MASK] {number} of {len(found.masks)}: {mask.word}\n")
    parts.append(f"  {'layer':<11}{'probability of ' + mask.word:<28}{'entropy':>8}{'cosine':>8}  likeliest")
    for layer, one in enumerate(mask.layers):
      name = "embeddings" if layer == 0 else str(layer)
      bar = "█" * round(20 * one.probability)
      likeliest = "  ".join(f"{c.token} {c.probability:.0%}" for c in one.completions)
      parts.append(f"  {name:<11}{one.probability:>6.1%} {bar:<21}{one.entropy:>8.2f}{one.cosine:>8.2f}  {likeliest}")
    parts.append("\n  which tokens matter       left out (nats)   rollout")
    for token, left_out, share in _ranked(found, mask):
      parts.append(f"    {token:<20}{'' if math.isnan(left_out) else f'{left_out:+.3f}':>12} {_block(left_out, mask):<3}{share:>12.1%}")
  return "\n".join([*parts, "", f"  {WHY_THEY_DIFFER}", f"  {LENS}"])


def _ranked(found: Look, mask: Mask, most: int = 12) -> list[tuple[str, float, float]]:
  """(token, left out, rollout), what matters most first."""
  order = sorted(range(len(found.tokens)), key=lambda i: -(0 if math.isnan(mask.left_out[i]) else abs(mask.left_out[i])))
  return [(found.tokens[i], float(mask.left_out[i]), float(mask.rollout[i])) for i in order[:most] if not math.isnan(mask.left_out[i])]


def _block(value: float, mask: Mask) -> str:
  most = np.nanmax(np.abs(mask.left_out)) if np.isfinite(mask.left_out).any() else 0.0
  return "" if math.isnan(value) or not most else _BLOCKS[min(8, round(8 * abs(value) / most))]


_STYLE = """
body{font:15px/1.5 system-ui,"Noto Sans SC","PingFang SC","Microsoft YaHei",sans-serif;max-width:960px;margin:2rem auto;padding:0 1rem;color:#222;background:#fff}
h1{font-size:1.4rem}h2{font-size:1.1rem;margin-top:2rem}table{border-collapse:collapse;margin:.6rem 0}th{text-align:left;font-weight:600;border-bottom:1px solid #ccc}
td,th{padding:.15rem .7rem .15rem 0;vertical-align:middle}td.n{text-align:right;font-variant-numeric:tabular-nums}.bar{display:inline-block;height:.8rem;background:#1a4e8a;border-radius:2px}
.box{width:160px}.small{color:#666;font-size:.87rem}.tokens span{display:inline-block;padding:.12rem .32rem;margin:.1rem;border-radius:3px}.tokens .mask{outline:2px solid #c0392b;background:#fff}
.row{display:flex;gap:.6rem;align-items:baseline}.row b{width:5.5rem;flex:none;font-weight:600}
"""


def page(looks: Sequence[Look], model: str) -> str:
  """One page of HTML for all texts."""
  body = [f"<h1>What {escape(model)} thinks at [MASK]</h1>", f'<p class="small">{escape(LENS)} Cosine: between the mask\'s vector, as the MLM head transforms it, and '
          "the embedding of the word that is predicted at the end.</p>"]  # fmt: skip
  for found in looks:
    for number, mask in enumerate(found.masks, 1):
      body += [f"<h2>{escape(found.text)} <span class=small>[MASK] {number} of {len(found.masks)}</span></h2>", _layers(mask), _tokens(found, mask)]
  body.append(f'<p class="small">Blue speaks for the word, orange against it. {escape(WHY_THEY_DIFFER)}</p>')
  return (f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width,initial-scale=1"><title>look: {escape(model)}</title>'
          f'<style>{_STYLE}</style></head><body>{"".join(body)}</body></html>\n')  # fmt: skip


def _layers(mask: Mask) -> str:
  rows = []
  for layer in reversed(range(len(mask.layers))):
    one = mask.layers[layer]
    likeliest = ", ".join(f"{escape(c.token)} {c.probability:.0%}" for c in one.completions)
    rows.append(f'<tr><td>{"embeddings" if layer == 0 else f"layer {layer}"}</td><td class=box><span class=bar style="width:{max(1, round(150 * one.probability))}px"></span></td>'
                f"<td class=n>{one.probability:.1%}</td><td class=n>{one.entropy:.2f}</td><td class=n>{one.cosine:.2f}</td><td>{likeliest}</td></tr>")  # fmt: skip
  return (f"<table><tr><th></th><th colspan=2>probability of “{escape(mask.word)}”</th><th>entropy, nats</th><th>cosine</th><th>likeliest</th></tr>{''.join(rows)}</table>")


def _tokens(found: Look, mask: Mask) -> str:
  left_out = np.nan_to_num(mask.left_out)
  return _strip(found, mask, "left out", left_out, [f"{value:+.3f} nats" for value in left_out]) + _strip(
      found, mask, "rollout", mask.rollout, [f"{value:.1%}" for value in mask.rollout])  # fmt: skip


def _strip(found: Look, mask: Mask, name: str, values: np.ndarray, titles: list[str]) -> str:
  """The text with each token's weight as its shade: blue where it speaks for the word, orange where against."""
  most = max(float(np.max(np.abs(np.delete(values, mask.place)))), 1e-9)
  spans = []
  for place, (token, value, title) in enumerate(zip(found.tokens, values, titles)):
    color = "26,78,138" if value >= 0 else "216,120,32"
    shade = f"background:rgba({color},{min(abs(value) / most, 1):.2f});color:{'#fff' if abs(value) / most > 0.6 else '#222'}"
    spans.append('<span class=mask title="the mask itself">[MASK]</span>' if place == mask.place else f'<span style="{shade}" title="{title}">{escape(token)}</span>')
  return f'<div class=row><b>{name}</b><div class=tokens>{"".join(spans)}</div></div>'
