"""The shares of a preparation as an Apache Beam pipeline.

Each element of the pipeline is one share of a job array, made by the same
function that `--shard=i/n` calls, so the corpus is the same. Every machine reads
the sources and writes the folders under the same paths: a shared file system.
"""

import re
from collections.abc import Callable, Sequence

from bert_jax.data.corpus import prepare
from bert_jax.errors import UserError

# A UserError of a share arrives as the last lines of a traceback, within an exception of Beam's own.
_TOLD = re.compile(r"UserError: (.*?)(?: \[while running .*\])?$", re.M)


def beam_runner(options: Sequence[str]) -> Callable[[prepare.Job, int], None]:
  """A `run_shares` for `prepare.prepare_corpus`.

  Args:
    options: Beam's own, such as "--runner=FlinkRunner"; none: its local runner in this process.

  Raises:
    UserError: Beam is not installed. What is returned raises those of `prepare.make_share`.
  """
  try:
    import apache_beam as beam
    from apache_beam.options.pipeline_options import PipelineOptions
  except ImportError as error:
    raise UserError("--runner=beam: Apache Beam is not installed; pip install 'bert_jax[beam]'") from error

  def run(job: prepare.Job, count: int) -> None:
    parsed = PipelineOptions(list(options))
    shares = [prepare.Share(index, count) for index in range(count)]
    try:
      with beam.Pipeline(options=parsed) as pipeline:
        _ = pipeline | beam.Create(shares) | beam.Reshuffle() | beam.Map(_make_share, job=job)
    except Exception as error:
      if told := _TOLD.findall(str(error) if not isinstance(error, UserError) else f"UserError: {error}"):
        raise UserError(told[-1]) from error
      raise

  return run


def _make_share(share, *, job: prepare.Job) -> None:
  """One process of the runner is the worker; it starts none of its own."""
  prepare.make_share(job._replace(settings=job.settings._replace(workers=1)), prepare.Share(*share))
