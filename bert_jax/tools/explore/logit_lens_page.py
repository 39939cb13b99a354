"""What `look` found, for a terminal and as one page of HTML that needs nothing else."""

import unicodedata
from collections.abc import Sequence

import numpy as np

from bert_jax import __version__
from bert_jax.tools.explore.logit_lens import LogitLens, Mask
from bert_jax.tools.report import style
from bert_jax.tools.report.charts import Axis, Limit, Series, chart, escape, number, percent

# What the figures mean: said beneath them, in the terminal and on the page.
LEGEND = (
  (
    "layers",
    "each read through the MLM head, which was trained on the last one only: the others show how far its answer is "
    "there "
    'already, not what they "think".',
  ),
  ("entropy", "in nats; 0 is certain."),
  (
    "cosine",
    "between the vector at the mask, as the transform of the MLM head leaves it, and the embedding of the predicted "
    "word; their product, and a bias, is the word's score.",
  ),
  (
    "left out",
    "what the log-probability of the predicted word loses, in nats, when this token is replaced by [MASK] too; below "
    "zero, the token speaks against the word.",
  ),
  (
    "rollout",
    "the share of this token in the mask's vector if only attention moved anything (Abnar & Zuidema 2020): mean over "
    "heads, half of it the token's own.",
  ),
  (
    "why they differ",
    "left out asks the whole model, but one token at a time, so of two tokens that say the same neither matters. "
    "Rollout follows where attention looked; what was made of it (values, feed-forward layers, the head) does not "
    "count, and nothing can speak against a word.",
  ),
)
_BLOCKS = " ▏▎▍▌▋▊▉█"
_MOST = 12  # tokens that the terminal lists for a mask


def logit_lens_legend() -> str:
  """LEGEND for a terminal."""
  return "\n".join(f"{name}: {meaning}" for name, meaning in LEGEND)


def lines(found: LogitLens) -> str:
  """For a terminal."""
  parts = [found.text]
  for count, mask in enumerate(found.masks, 1):
    head = f"[MASK] {count} of {len(found.masks)}: " if len(found.masks) > 1 else "[MASK]: "
    parts.append(f"\n{head}{mask.word} {mask.layers[-1].probability:.1%}, {settled(mask)}\n")
    parts.append(f"  {'layer':<12}{_fit('p(' + mask.word + ')', 18)}{'entropy':>8}{'cosine':>8}  likeliest")
    for layer, one in enumerate(mask.layers):
      likeliest = "  ".join(f"{c.token} {c.probability:.1%}" for c in one.completions)
      parts.append(
        f"  {_name(layer):<12}{one.probability:>6.1%} "
        f"{_bar(one.probability):<11}{one.entropy:>8.2f}{one.cosine:>8.2f}  {likeliest}"
      )
    parts += _weights(found, mask)
  return "\n".join(parts)


def _weights(found: LogitLens, mask: Mask) -> list[str]:
  """Which tokens matter, as lines; none where the text is nothing but masks."""
  listed = _weightiest(mask)
  if not listed:
    return []
  lines = [f"\n  {'token':<18}{'left out':>9} {'':<11}{'rollout':>8}"]
  most, share_most = max(abs(mask.left_out[listed])) or 1.0, max(mask.rollout[listed])
  for place in listed:
    value, share = mask.left_out[place], mask.rollout[place]
    lines.append(
      f"  {_fit(found.tokens[place], 18)}{value:>+9.3f} {_bar(abs(value) / most):<11}{share:>8.1%} "
      f"{_bar(share / share_most)}".rstrip()
    )
  hidden = sum(np.isfinite(mask.left_out)) - len(listed)
  rest = f"{hidden} other tokens, " if hidden else ""
  return [*lines, f"  {rest + 'the masks, [CLS] and [SEP]':<38} {1 - sum(mask.rollout[listed]):>8.1%}"]


def settled(mask: Mask) -> str:
  """From where on the answer stands, in words."""
  if mask.settled == len(mask.layers) - 1:
    return "most likely only in the last layer"
  return "most likely in all layers" if mask.settled == 0 else f"most likely from layer {mask.settled} on"


def _name(layer: int) -> str:
  return "embeddings" if layer == 0 else f"layer {layer}"


def _weightiest(mask: Mask) -> list[int]:
  """The places that matter most by leaving out, in the order of the text."""
  places = np.flatnonzero(np.isfinite(mask.left_out))
  kept = places[np.argsort(-np.abs(mask.left_out[places]), kind="stable")[:_MOST]]
  return sorted(kept.tolist())


def _bar(share: float, width: int = 10) -> str:
  """A bar in eighths of a character."""
  whole, eighths = divmod(round(8 * width * min(max(share, 0.0), 1.0)), 8)
  return ("█" * whole + _BLOCKS[eighths]).rstrip()


def _fit(text: str, width: int) -> str:
  """Text in so many columns of a terminal, where a Chinese character takes two."""
  if _columns(text) >= width:
    while _columns(text) > width - 2:
      text = text[:-1]
    text += "…"
  return text + " " * (width - _columns(text))


def _columns(text: str) -> int:
  return sum(2 if unicodedata.east_asian_width(character) in "WF" else 1 for character in text)


_STYLE = """
.mask-card { margin-bottom: 12px; } .mask-card h3 { font-size: 16px; margin: 0 0 8px; }
.layers { width: auto; } .layers td, .layers th { white-space: nowrap; padding: 4px 22px 4px 0; }
.layers .meter { display: inline-block; width: 74px; height: 10px; margin-right: 8px; border-radius: 3px;
  background: var(--line); overflow: hidden; }
.layers .meter i { display: block; height: 100%; background: var(--eval); }
.scroll { overflow-x: auto; margin-bottom: 14px; }
.weights { margin-top: 12px; } .weights > b { font-weight: 600; font-size: 13px; color: var(--soft); }
.tokens { display: flex; flex-wrap: wrap; gap: 4px; margin: 4px 0 8px; }
.tokens span { border-radius: 4px; padding: 2px 6px; text-align: center; line-height: 1.25; }
.tokens small { display: block; font-size: 11px; color: inherit; font-variant-numeric: tabular-nums; }
.tokens .here { outline: 2px solid var(--limit); outline-offset: -2px; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: 2px 14px; color: var(--soft); } dd { margin: 0; }
@media (max-width: 720px) { dl { display: block; } dd { margin-bottom: 6px; } }
"""


def logit_lens_page(looks: Sequence[LogitLens], model: str, vocab_size: int) -> str:
  """One page of HTML for all texts.

  Args:
    looks: what was found.
    model: the model's name.
    vocab_size: V; log V is the entropy of a model that knows nothing.
  """
  sections = []
  for found in looks:
    masks = "".join(_mask(found, mask, count, vocab_size) for count, mask in enumerate(found.masks, 1))
    sections.append(f"<section><h2>{escape(found.text)}</h2>{masks}</section>")
  meanings = "".join(f"<dt>{escape(name)}</dt><dd>{escape(meaning)}</dd>" for name, meaning in LEGEND)
  body = f"""<h1>At [MASK], layer by layer</h1>
<p class="soft">{escape(model)}</p>
{"".join(sections)}
<section><h2>What the figures mean</h2><dl>{meanings}</dl></section>"""
  return style.document(f"look: {escape(model)}", body, f"by bert_jax {escape(__version__)}.", _STYLE)


def _mask(found: LogitLens, mask: Mask, count: int, vocab_size: int) -> str:
  which = f"[MASK] {count} of {len(found.masks)}: " if len(found.masks) > 1 else "[MASK]: "
  last = mask.layers[-1]
  return (
    f'<div class="card mask-card"><h3>{which}<mark>{escape(mask.word)}</mark> {last.probability:.1%} '
    f"<small>{settled(mask)}</small></h3>"
    f'<div class="scroll">{_layers(mask)}</div><div class="charts">{_charts(mask, vocab_size)}</div>'
    f'<div class="weights"><b>left out, nats</b>{_strip(found, mask, mask.left_out, "{:+.3f}")}'
    f"<b>rollout</b>{_strip(found, mask, mask.rollout, '{:.1%}')}</div></div>"
  )


def _layers(mask: Mask) -> str:
  rows = []
  for layer in reversed(range(len(mask.layers))):
    one = mask.layers[layer]
    likeliest = " &nbsp; ".join(
      f"<span{' class=hit' * (c.token == mask.word)}>{escape(c.token)}</span> <small>{c.probability:.1%}</small>"
      for c in one.completions
    )
    rows.append(
      f'<tr><td>{_name(layer)}</td><td><span class="meter"><i style="width: '
      f'{100 * one.probability:.1f}%"></i></span>{one.probability:.1%}</td>'
      f'<td class="right">{one.entropy:.2f}</td><td class="right">{one.cosine:.2f}</td><td>{likeliest}</td></tr>'
    )
  return (
    f'<table class="layers"><tr><th></th><th>p({escape(mask.word)})</th><th class="right">entropy</th><th '
    'class="right">cosine</th>'
    f"<th>likeliest</th></tr>{''.join(rows)}</table>"
  )


def _charts(mask: Mask, vocab_size: int) -> str:
  whole = Axis(lambda value: f"{value:.0f}" if value == round(value) else "")  # layers
  curve = lambda name: [Series(name, "eval", [(layer, getattr(one, name)) for layer, one in enumerate(mask.layers)])]
  return (
    chart(f"Probability of “{mask.word}”, by layer", curve("probability"), x=whole, y=Axis(percent))
    + chart(
      "Entropy (nats), by layer",
      curve("entropy"),
      x=whole,
      y=Axis(number),
      limit=Limit(float(np.log(vocab_size)), "knows nothing"),
    )
    + chart(f"Cosine with the embedding of “{mask.word}”", curve("cosine"), x=whole, y=Axis(number))
  )


def _strip(found: LogitLens, mask: Mask, values: np.ndarray, form: str) -> str:
  """The tokens with their weights as shades: blue for the word, amber against it.

  The mask's own is left white, or it would outshine all.
  """
  others = np.nan_to_num(np.delete(values, mask.place))
  most = max(float(np.max(np.abs(others))), 1e-9)
  spans = []
  for place, (token, value) in enumerate(zip(found.tokens, values)):
    share = 0.0 if place == mask.place or np.isnan(value) else abs(value) / most
    color = (
      f"background: color-mix(in srgb, var({'--train' if value >= 0 else '--starting'}) {80 * share:.0f}%, transparent)"
      if share
      else ""
    )
    shown = "" if np.isnan(value) else form.format(value)
    spans.append(
      f"<span{' class=here' * (place == mask.place)} "
      f'style="{color}">{escape(token)}<small>{shown or "&nbsp;"}</small></span>'
    )
  return f'<div class="tokens">{"".join(spans)}</div>'
