"""What a corpus can teach, judged by the figures in its manifest.

The same judgement stands at the end of `prepare`, in `doctor` and before training: what cannot teach is refused, with
the likely cause and the remedy; what looks wrong, or is not what was asked for, is said.
"""

from collections.abc import Iterator
from typing import Any, NamedTuple

from bert_jax.errors import UserError

_MANY = 16  # labels of as many pairs are never all alike by chance
_RARE_LABEL = 0.02  # a label as rare cannot be learned from; every document of one sentence makes a random pair
_FEW = 0.2
_UNKNOWN_REFUSED, _UNKNOWN_SAID = 0.5, 0.05
_UNUSED_SAID = 0.25  # BERT's way of making pairs loses a sixth of ordinary text
_SHARE_OFF = 0.2  # of the share that was asked for, more or less


class Finding(NamedTuple):
  """One thing about a corpus.

  Attributes:
    refused: nothing can be learned from it.
    found: what it is, with the likely cause.
    remedy: what to do about it.
  """

  refused: bool
  found: str
  remedy: str

  def __str__(self) -> str:
    return f"{self.found}; {self.remedy}"


def findings(manifest: dict[str, Any]) -> list[Finding]:
  """What there is to say about a corpus, the worst first. A mixture's manifest has those of its `parts`."""
  if "parts" in manifest:
    parts = [(folder, finding) for folder, part in manifest["parts"].items() for finding in findings(part)]
    found = [finding._replace(found=f"{folder}: {finding.found}") for folder, finding in parts]
  else:
    found = [*_words(manifest), *_labels(manifest), *_unused(manifest), *_held_out(manifest)]
  return sorted(found, key=lambda finding: not finding.refused)


def check(manifest: dict[str, Any], name: str) -> list[Finding]:
  """What there is to say about a corpus that can be trained on. Raises UserError for one that cannot."""
  found = findings(manifest)
  if found and found[0].refused:
    raise UserError(f"{name}: {found[0]}")
  return found


def _words(manifest: dict[str, Any]) -> Iterator[Finding]:
  """Text that the vocabulary does not know, and text without two different tokens."""
  train = manifest["splits"]["train"]
  unknown, counts = train["unknown_rate"], train["counts"]
  if unknown >= _UNKNOWN_SAID:
    if counts["tokens"] < 2 * counts["sentences"] or train["tokens_per_word"] <= 1 and unknown > 0.99:
      cause = "the text has no spaces between its words, and what is longer than 100 characters is one unknown word"
      remedy = "put spaces between words (a segmenter for the language does that; a sequence may be cut into k-mers)"
    else:
      cause = "the vocabulary was made for another language, script or case, or words are not set apart by spaces"
      remedy = "train a vocabulary on this text (without --tokenizer), or give the one that fits, --cased if it is so"
    yield Finding(
      unknown >= _UNKNOWN_REFUSED,
      f"{unknown:.1%} of the tokens are [UNK], unknown to the vocabulary, and teach nothing: {cause}",
      f"{remedy}, and prepare again",
    )
  for split, least in (("train", 2), ("validation", 1)):
    different = len(manifest["splits"][split]["frequent_tokens"])
    if different < least:
      some = "no token" if not different else "one and the same token everywhere, nothing"
      yield Finding(
        True,
        f"the {split} split has {some} that could be predicted",
        "give more text, with spaces between its words, and prepare again",
      )


def _labels(manifest: dict[str, Any]) -> Iterator[Finding]:
  """Labels of pairs that are nearly all alike."""
  train = manifest["splits"]["train"]
  total, most = sum(train["label_counts"]), max(train["label_counts"])
  if manifest["objective"] not in ("nsp", "sop") or total < _MANY or most <= (1 - _FEW) * total:
    return
  name = {"nsp": ("follows", "random"), "sop": ("in order", "swapped")}[manifest["objective"]]
  label = name[train["label_counts"].index(most)]
  counts, cause = train["counts"], ""
  if counts["sentences"] < 2 * counts["documents"]:
    cause = (
      f": {counts['documents']:,} documents hold {counts['sentences']:,} sentences, and a document of one has no "
      "sentence that follows (a blank line ends a document of text: sources, so it may stand between sentences here; "
      "or the sentences end in nothing that marks it)"
    )
  yield Finding(
    total - most < max(1, _RARE_LABEL * total),
    f'{most:,} of {total:,} pairs have the label "{label}", and always saying so is all there is to learn{cause}',
    "remove blank lines inside documents, put one sentence on a line or a stop behind it, and prepare again; or "
    "prepare with --objective=none, without pairs",
  )


def _unused(manifest: dict[str, Any]) -> Iterator[Finding]:
  """Tokens that are in no row."""
  train = manifest["splits"]["train"]
  counts, rest = train["counts"], manifest.get("provenance", {}).get("unused_tokens")
  # Before they were counted, the rows told how many at least.
  unused = rest["train"] if rest else counts["tokens"] - counts["row_tokens"]
  if unused > _UNUSED_SAID * counts["tokens"]:
    yield Finding(
      False,
      f"{unused / counts['tokens']:.0%} of the tokens are in no row: sentences that do not fit in are shortened",
      "prepare again, with a longer --seq_length, shorter sentences, or --objective=none, which loses none",
    )


def _held_out(manifest: dict[str, Any]) -> Iterator[Finding]:
  """A held-out share that is not the one asked for."""
  tokens = {split: record["counts"]["tokens"] for split, record in manifest["splits"].items()}
  asked, share = manifest["validation_fraction"], tokens["validation"] / max(sum(tokens.values()), 1)
  if abs(share - asked) > _SHARE_OFF * asked:
    yield Finding(
      False,
      f"{share:.1%} of the tokens are held out to validate, {asked:.1%} were asked for: whole documents are held out, "
      "two of them at least, or a piece of each where they are few and long",
      "give more documents, or another --validation_fraction, if that matters",
    )
