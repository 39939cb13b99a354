"""Is the corpus there, unaltered, and does it fit the config?"""

from etils import epath

from bert_jax.data.corpus import suitability
from bert_jax.data.corpus.folder import open_corpus
from bert_jax.data.loading import mixture
from bert_jax.errors import UserError
from bert_jax.tools.doctor import row
from bert_jax.tools.doctor.context import Context
from bert_jax.tools.doctor.row import Row


def corpus(context: Context) -> Row | list[Row]:
  """Manifest, shards, tokenizer, and rows against the batch. One process on every machine reads the shards."""
  data = context.config.data
  if not (data.corpus or data.mixture):
    raise UserError(
      "data.corpus is empty; name a corpus folder, --config.data.corpus=DIR (`bert_jax prepare` makes one from raw "
      "text)"
    )
  remote = [folder for folder in (mixture.parse(data.mixture) if data.mixture else [data.corpus]) if "://" in folder]
  if remote:
    return _remote(remote, data.cache_dir)
  opened = context.corpus
  if opened is None:
    return row.ok(f"{data.corpus} does not exist yet; it will be prepared from {data.source}")
  verify = not context.quick and context.speaks_for_host
  if verify:
    for folder in mixture.parse(data.mixture) if data.mixture else [data.corpus]:
      open_corpus(folder, verify=True)
  manifest, name = opened.manifest, data.corpus or data.mixture
  found = suitability.check(manifest, name)
  total_steps = context.resolved.total_steps  # resolving refuses a model that does not fit
  rows, size = opened.train.num_rows, data.batch_size
  if size > rows:
    batch = row.warn(
      f"a batch of {size:,} rows holds the {rows:,} rows of the corpus more than once",
      "prepare more text, or lower data.batch_size",
    )
    return [batch, *(row.warn(finding.found, finding.remedy) for finding in found)]
  epochs = total_steps * size / rows
  looked = "SHA-256 of every shard verified" if verify else "sizes verified, contents not read"
  shown = f"{epochs:.1f}" if epochs >= 1 else f"{epochs:.2g}"
  told = f"{name}: {rows:,} rows, {shown} epochs in this run; {looked}; corpus_id {manifest['corpus_id'][:12]}"
  return [row.ok(told), *(row.warn(finding.found, finding.remedy) for finding in found)]


def _remote(folders: list[str], cache_dir: str) -> Row:
  """Corpora on an object store: the run copies them to this machine, and verifies them there."""
  if not cache_dir:
    return row.fail(
      f"{folders[0]} is on an object store, and data.cache_dir is empty",
      "say where to copy it: --config.data.cache_dir=DIR",
    )
  for folder in folders:
    if not (epath.Path(folder) / "manifest.json").exists():
      return row.fail(f"{folder} holds no corpus (no manifest.json)", "correct the name, or prepare the corpus")
  return row.ok(f"{', '.join(folders)}: will be copied to {cache_dir} and verified there")
