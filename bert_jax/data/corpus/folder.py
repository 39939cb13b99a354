"""The corpus folder: written by `prepare`, read by training, evaluation and `inspect`.

    manifest.json                          what is in here; see `canonical_id` for what `corpus_id` covers
    files.txt                              what `origins` counts as files, one to a line
    tokenizer/                             the tokenizer that made the ids, in Hugging Face's files
    train/ validation/
      tokens-00000-of-00016.npy            uint16 or uint32 [rows, seq_length]
      sequences-00000-of-00016.npy         uint16 [rows, max_sequences, 3]: length, of [CLS] A [SEP], label
      documents-00000-of-00016.npy         uint32 [rows, max_sequences, 2]: the documents of A and of B
      origins-00000-of-00016.npy           uint64 [documents, 3]: number, file, and line or row in the file
      word_starts-00000-of-00016.npy       uint8 [rows, ceil(seq_length / 8)]: bits, the lowest first, 1 where a
                                           word begins; only where a word segmenter was asked for

Everything is a plain `.npy` that anyone can read and that is memory-mapped
here. The label is 0 where B follows A and 1 where B is random; under the
objective `sop` it is 1 where A and B, which follow each other, were swapped;
under `none` a sequence is [CLS] A [SEP], its first length is its length, and
its label is 0 and means nothing: whoever computes a loss asks
`manifest["objective"]`, never the labels. The document of a B that is not
there is that of A. Unused places of a row are zeros in `sequences` and `[PAD]`
in `tokens`.

The manifest, by example:

    {"format": "bert_jax corpus", "format_version": 2, "corpus_id": "5f0c…",
     "objective": "nsp", "seq_length": 128, "max_sequences": 8, "token_dtype": "uint16", "seed": 0,
     "short_probability": 0.1, "validation_fraction": 0.02, "deduplicate": false, "min_characters": 0,
     "word_segmenter": "",
     "vocab_size": 30522, "lowercase": true, "tokenizer_fingerprint": "9ab1…",
     "special_ids": {"pad": 0, "unk": 100, "cls": 101, "sep": 102, "mask": 103},
     "unigram_entropy": 7.1,       nats; that of the train split
     "counts": {"documents": …, …}      both splits together; the keys as below
     "splits": {"train": {"counts": {"documents": …, "sentences": …,
                                     "tokens": of the text, "row_tokens": in the rows, with [CLS] and [SEP],
                                     "sequences": …, "rows": …, "packing_efficiency": row_tokens / (rows L)},
                          "label_counts": [B follows, B random], "majority_label_share": …,
                          "unigram_entropy": …, "tokens_per_word": …, "unknown_rate": …,
                          "length_counts": {"1-16": …, …}, "frequent_tokens": [["the", 1234], …],
                          "shards": [{"rows": …, "origins_rows": …, "tokens": SHA-256, "sequences": …, …}, …]},
                "validation": {…}},
     "provenance": {"sources": […], "created": …, "seconds": …, "workers": …, "versions": {…}, …}}

`unigram_entropy` is the entropy, in nats, of single tokens, those that can never
be targets ([CLS], [SEP], [PAD], [MASK], [UNK]) left out: the loss of a model
that knows word frequencies and nothing else. A word, in `tokens_per_word`, is
what BERT cuts text into before WordPiece: a Chinese character and a
punctuation mark count as one.
"""

import concurrent.futures
import hashlib
import json
import os
import pathlib
import resource
from typing import Any, Generic, NamedTuple, TypeVar

import numpy as np

from bert_jax.data import order
from bert_jax.data.tokenizer.wordpiece import Tokenizer, load_tokenizer
from bert_jax.errors import UserError
from bert_jax.io import atomic
from bert_jax.io.json_files import MAX_TABLE_BYTES, read_json
from bert_jax.io.plain_files import check_plain, open_plain, read_bounded

CORPUS_FORMAT = "bert_jax corpus"
FORMAT_VERSION = 2
SPLITS = ("train", "validation")

# What `corpus_id` does not cover: paths, times, worker counts, library versions.
PROVENANCE = "provenance"

_HASH_THREADS = 8
_REMAKE = "copy the folder again, or prepare it again with `python -m bert_jax prepare … --overwrite`"


_Split = TypeVar("_Split")


class Split(NamedTuple):
  """The rows of one split, memory-mapped.

  Attributes:
    num_rows: how many rows there are.
    seq_length: tokens in a row (L below).
    max_sequences: sequences in a row at most (S below).
    starts: int64 [shards + 1], the first row of each non-empty shard, then num_rows.
    tokens: one memory map [rows, L] per non-empty shard.
    sequences: one memory map [rows, S, 3] per non-empty shard.
    document_files, origin_files: one path per non-empty shard; opened only when asked for, to save file
      descriptors.
    word_starts: one memory map [rows, ceil(L / 8)] per non-empty shard, or None.
  """

  num_rows: int
  seq_length: int
  max_sequences: int
  starts: np.ndarray
  tokens: tuple[np.ndarray, ...]
  sequences: tuple[np.ndarray, ...]
  document_files: tuple[pathlib.Path, ...]
  origin_files: tuple[pathlib.Path, ...]
  word_starts: tuple[np.ndarray, ...] | None

  def gather(self, rows: np.ndarray) -> dict[str, np.ndarray]:
    """Reads rows [n] in any order: {"tokens": int32 [n, L], "sequences": int32 [n, S, 3]}, and where the corpus

    has them {"word_starts": uint8 [n, ceil(L / 8)]}.
    """
    places = self._places(rows)
    found = {
      "tokens": _take(self.tokens, places, (len(rows), self.seq_length), np.int32),
      "sequences": _take(self.sequences, places, (len(rows), self.max_sequences, 3), np.int32),
    }
    if self.word_starts is not None:
      found["word_starts"] = _take(self.word_starts, places, (len(rows), -(-self.seq_length // 8)), np.uint8)
    return found

  @property
  def has_word_starts(self) -> bool:
    """Whether rows come with word starts."""
    return self.word_starts is not None

  def order(self, positions: np.ndarray, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """(epoch, row) at some positions of the endless training sequence, see `order.rows_at`."""
    return order.rows_at(positions, num_rows=self.num_rows, seed=seed)

  def gather_documents(self, rows: np.ndarray) -> np.ndarray:
    """Which documents A and B of every sequence come from: uint32 [n, S, 2]."""
    maps = {shard: _map(self.document_files[shard]) for shard, _, _ in self._places(rows)}
    return _take(maps, self._places(rows), (len(rows), self.max_sequences, 2), np.uint32)

  def origins(self, row: int) -> dict[int, tuple[int, int]]:
    """Where the documents of a row's shard come from: {number: (file, position)}; files count as in `read_files`."""
    ((shard, _, _),) = self._places(np.array([row]))
    return {number: (file, position) for number, file, position in _map(self.origin_files[shard]).tolist()}

  def _places(self, rows: np.ndarray) -> list[tuple[int, np.ndarray, np.ndarray]]:
    """(shard, places in the result, rows within the shard), one for every shard that is touched."""
    rows = np.asarray(rows, np.int64)
    if rows.size and not (rows.min() >= 0 and rows.max() < self.num_rows):
      raise IndexError(f"rows {rows.min()}…{rows.max()} of a split that has {self.num_rows}")
    shard_of_row = np.searchsorted(self.starts, rows, side="right") - 1
    order = np.argsort(shard_of_row, kind="stable")
    shards, firsts = np.unique(shard_of_row[order], return_index=True)
    return [
      (int(shard), places, rows[places] - self.starts[shard])
      for shard, places in zip(shards, np.split(order, firsts[1:]))
    ]


class Corpus(NamedTuple, Generic[_Split]):
  """An opened corpus folder; its rows are a `Split` each, or of a mixture a `mixture.MixedSplit`."""

  folder: pathlib.Path
  manifest: dict[str, Any]
  train: _Split
  validation: _Split


def _take(maps, places, shape, dtype) -> np.ndarray:
  result = np.empty(shape, dtype)
  for shard, where, rows in places:
    result[where] = maps[shard][rows]
  return result


def _map(path: pathlib.Path) -> np.ndarray:
  check_plain(path)
  return np.load(path, mmap_mode="r", allow_pickle=False)


def shard_name(array: str, index: int, count: int) -> str:
  """tokens-00000-of-00016.npy"""
  return f"{array}-{index:05d}-of-{count:05d}.npy"


def canonical_id(manifest: dict[str, Any]) -> str:
  """SHA-256 of the manifest as canonical JSON, without `provenance` and without the id itself.

  Shard hashes are covered, and so is every setting that shaped the rows. Two
  corpora with one id hold the same bytes.
  """
  covered = {key: value for key, value in manifest.items() if key not in (PROVENANCE, "corpus_id")}
  text = json.dumps(covered, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)
  return hashlib.sha256(text.encode("ascii")).hexdigest()


def write_manifest(folder: pathlib.Path, manifest: dict[str, Any]) -> dict[str, Any]:
  """Adds `corpus_id` and writes the manifest.

  Args:
    folder: the folder in the making, with every shard that the manifest lists under its final name.
    manifest: complete but for `format`, `format_version` and `corpus_id`.

  Returns:
    The manifest as written.
  """
  manifest = {"format": CORPUS_FORMAT, "format_version": FORMAT_VERSION, **manifest}
  manifest["corpus_id"] = canonical_id(manifest)
  atomic.write_text(folder / "manifest.json", json.dumps(manifest, indent=1, ensure_ascii=False) + "\n")
  return manifest


def read_files(folder: str | os.PathLike) -> list[str]:
  """The files that `Split.origins` counts."""
  path = pathlib.Path(folder, "files.txt")
  try:
    return read_bounded(path, MAX_TABLE_BYTES).decode("utf-8").splitlines()
  except (FileNotFoundError, UnicodeDecodeError) as error:
    raise UserError(f"{path}: cannot be read ({error}); {_REMAKE}") from error


def read_corpus_manifest(folder: str | os.PathLike) -> dict[str, Any]:
  """Reads and checks manifest.json.

  Raises:
    UserError: no folder, no manifest, not JSON, another format or version, or an altered manifest.
  """
  folder = pathlib.Path(folder)
  path = folder / "manifest.json"
  if not folder.is_dir():
    raise UserError(
      f"{folder}: there is no such corpus folder; make it with `python -m bert_jax prepare --source=… --out={folder}`"
    )
  if not path.exists():
    raise UserError(
      f"{path}: expected the manifest of a corpus, found no such file; either this is no "
      f"corpus folder, or its copy is incomplete: {_REMAKE}"
    )
  manifest = read_json(path, max_bytes=MAX_TABLE_BYTES, remedy=_REMAKE)
  if not isinstance(manifest, dict) or manifest.get("format") != CORPUS_FORMAT:
    raise UserError(f'{path}: expected "format": "{CORPUS_FORMAT}"; this manifest belongs to something else')
  if manifest.get("format_version") != FORMAT_VERSION:
    raise UserError(
      f"{path}: expected format_version {FORMAT_VERSION}, found {manifest.get('format_version')!r}: the corpus was "
      "made by another version of bert_jax; prepare it again, or use that version"
    )
  if manifest.get("corpus_id") != canonical_id(manifest):
    raise UserError(
      f"{path}: expected corpus_id {canonical_id(manifest)} from its contents, found "
      f"{manifest.get('corpus_id')}: the manifest was altered; {_REMAKE}"
    )
  return manifest


def open_corpus(folder: str | os.PathLike, *, verify: bool = True) -> Corpus[Split]:
  """Opens a corpus folder for reading.

  Headers and sizes of all shards are always checked.

  Args:
    folder: the corpus folder.
    verify: also hash every shard (about 1 GB a second and core) and compare with the manifest.

  Raises:
    UserError: naming the file, what was expected and what was found.
  """
  folder = pathlib.Path(folder)
  manifest = read_corpus_manifest(folder)
  for split in SPLITS:
    shards = manifest["splits"][split]["shards"]
    for index, shard in enumerate(shards):
      for name, (shape, dtype) in _arrays(shard, manifest).items():
        _check_header(folder / split / shard_name(name, index, len(shards)), shape, dtype)
  files = manifest.get(PROVENANCE, {}).get("files")  # not in corpora that were made before it was noted
  if files and hashlib.sha256("".join(f"{name}\n" for name in read_files(folder)).encode()).hexdigest() != files:
    raise UserError(f"{folder / 'files.txt'}: expected SHA-256 {files}, found another: it was altered; {_REMAKE}")
  if verify:
    _check_hashes(folder, manifest)
  # Each memory map keeps a file descriptor; the usual soft limit of 1,024 would not do for a large corpus.
  _allow_open_files(2 * sum(len(manifest["splits"][split]["shards"]) for split in SPLITS) + 512)
  return Corpus(folder, manifest, _open_split(folder, manifest, "train"), _open_split(folder, manifest, "validation"))


def tokenizer_of(corpus: Corpus) -> Tokenizer:
  """The tokenizer in the folder of a corpus. Raises UserError where it is not the one that made the corpus."""
  tokenizer = load_tokenizer(corpus.folder / "tokenizer")
  # The manifest of a mixture has the fingerprint that all of its corpora share.
  check_tokenizer(corpus.folder, corpus.manifest, tokenizer)
  return tokenizer


def check_tokenizer(folder: pathlib.Path, manifest: dict[str, Any], tokenizer: Tokenizer) -> None:
  """Raises UserError where the tokenizer in a corpus folder is not the one that made the corpus."""
  expected = manifest["tokenizer_fingerprint"]
  if tokenizer.fingerprint != expected:
    raise UserError(
      f"{folder / 'tokenizer'} is not the tokenizer that made this corpus (fingerprint {tokenizer.fingerprint}, "
      f"expected {expected}); restore that one, or prepare the corpus again with this one"
    )


def _open_split(folder: pathlib.Path, manifest: dict[str, Any], split: str) -> Split:
  shards = manifest["splits"][split]["shards"]
  filled = [(index, shard["rows"]) for index, shard in enumerate(shards) if shard["rows"]]
  files = lambda name: tuple(folder / split / shard_name(name, index, len(shards)) for index, _ in filled)
  starts = np.cumsum([0] + [rows for _, rows in filled], dtype=np.int64)
  return Split(
    int(starts[-1]),
    manifest["seq_length"],
    manifest["max_sequences"],
    starts,
    tuple(map(_map, files("tokens"))),
    tuple(map(_map, files("sequences"))),
    files("documents"),
    files("origins"),
    tuple(map(_map, files("word_starts"))) if manifest["word_segmenter"] else None,
  )


def _arrays(shard: dict[str, Any], manifest: dict[str, Any]) -> dict[str, tuple[tuple[int, ...], np.dtype]]:
  """The arrays of a shard: shape and dtype by name."""
  rows, length, sequences = shard["rows"], manifest["seq_length"], manifest["max_sequences"]
  arrays = {
    "tokens": ((rows, length), manifest["token_dtype"]),
    "sequences": ((rows, sequences, 3), "uint16"),
    "documents": ((rows, sequences, 2), "uint32"),
    "origins": ((shard["origins_rows"], 3), "uint64"),
  }
  if manifest["word_segmenter"]:
    arrays["word_starts"] = ((rows, -(-length // 8)), "uint8")
  return {name: (shape, np.dtype(dtype)) for name, (shape, dtype) in arrays.items()}


def _check_header(path: pathlib.Path, expected: tuple[int, ...], dtype: np.dtype):
  """A shard must be there, have the manifest's dtype and shape, and be exactly as long as these make it."""
  try:
    with open_plain(path) as file:
      if np.lib.format.read_magic(file) != (1, 0):
        raise ValueError("another version of .npy")
      shape, fortran, found = np.lib.format.read_array_header_1_0(file)
      size = file.tell() + int(np.prod(expected)) * dtype.itemsize
  except FileNotFoundError:
    raise UserError(f"{path}: the manifest lists this shard, but there is no such file; {_REMAKE}") from None
  except (ValueError, EOFError) as error:
    raise UserError(f"{path}: expected a .npy file, found a damaged header ({error}); {_REMAKE}") from None
  if (shape, found, fortran) != (expected, dtype, False):
    raise UserError(f"{path}: expected {dtype} {list(expected)}, found {found} {list(shape)}; {_REMAKE}")
  if path.stat().st_size != size:
    fault = "truncated" if path.stat().st_size < size else "too long"
    raise UserError(f"{path}: expected {size:,} bytes, found {path.stat().st_size:,}: the shard is {fault}; {_REMAKE}")


def _check_hashes(folder: pathlib.Path, manifest: dict[str, Any]):
  def check(path: pathlib.Path, expected: str):
    with open_plain(path) as file:
      found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != expected:
      raise UserError(f"{path}: expected SHA-256 {expected}, found {found}: the shard was altered; {_REMAKE}")

  # Hashing and reading let other threads run, so threads are enough.
  with concurrent.futures.ThreadPoolExecutor(_HASH_THREADS) as pool:
    checks = []
    for split in SPLITS:
      shards = manifest["splits"][split]["shards"]
      for index, shard in enumerate(shards):
        for name in _arrays(shard, manifest):
          path = folder / split / shard_name(name, index, len(shards))
          checks.append(pool.submit(check, path, shard[name]))
    for result in checks:
      result.result()


def _allow_open_files(count: int):
  soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
  if soft == resource.RLIM_INFINITY or soft >= count:
    return
  if hard != resource.RLIM_INFINITY and hard < count:
    raise UserError(
      f"this corpus needs {count:,} open files, and the system allows {hard:,}; "
      f"raise the limit with `ulimit -Hn {count}`"
    )
  resource.setrlimit(resource.RLIMIT_NOFILE, (count, hard))
