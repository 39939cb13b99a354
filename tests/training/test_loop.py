"""loop.py: what a run tells of its steps, with the smallest objective that a step can train."""

import gzip
import io
import itertools
import json
import shutil
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from etils import epath

from bert_jax.cluster.preemption import Preempted, Preemption
from bert_jax.cluster.watchdog import Watchdog
from bert_jax.errors import NotFiniteError, UserError
from bert_jax.objectives.objective import Objective
from bert_jax.training import loop, sharding
from bert_jax.training import optimizer as optimizers
from bert_jax.training.checkpoints.folder import committed_steps, read_manifest
from bert_jax.training.checkpoints.manager import Checkpoints
from bert_jax.training.data_skips import DataSkips, read_data_skips
from bert_jax.training.metrics import MetricsWriter, next_attempt, read_events, read_metrics
from bert_jax.training.model_selection import ModelSelection
from bert_jax.training.profile import Profile
from bert_jax.training.progress import Progress
from tests.helpers.tiny_pretraining import tiny_config

BAD = 99  # a row with this token makes the loss NaN
ROWS = 8


def one_matrix_objective() -> Objective:
  """Two numbers that are to become 3 and what the tokens add, so that parameters tell which batches there were."""

  def loss(params, tokens, global_weights, key):
    error = jnp.sum((params["nsp_head"]["dense"]["kernel"] - 3.0 - jnp.mean(tokens.astype(jnp.float32)) / 7) ** 2)
    error = jnp.where(jnp.any(tokens == BAD), jnp.nan, error)
    return error, {"error": (error, jnp.float32(1))}

  init = lambda key: {"nsp_head": {"dense": {"kernel": jnp.zeros((2, 1))}}}
  prepare = lambda batch, *_: (batch["tokens"], {}, jnp.float32(batch["tokens"].size))
  return Objective(init, prepare, loss, dict)


def train(
  folder,
  bad=(),
  preemption=None,
  profile=None,
  evaluate=lambda params, after_batch: {},
  consumed=None,
  selection=ModelSelection("eval/loss"),
  start=None,
  **overrides,
):
  """Trains 8 steps in `folder`; the batches in `bad`, counted from 1, make the loss NaN. Returns the parameters.

  The numbers of the batches that the loop asked for are appended to `consumed`.
  """
  config = tiny_config(
    **{
      "total_steps": 8,
      "log_every_steps": 4,
      "data.batch_size": ROWS,
      "optimizer.warmup_steps": 2,
      "checkpoint.every_steps": 100,
    }
    | overrides
  )

  def batches(position):
    for number in itertools.count(position // ROWS + 1):
      if consumed is not None:
        consumed.append(number)
      index = np.arange(ROWS, dtype=np.uint32)
      yield {
        "tokens": np.full((ROWS, 4), BAD if number in bad else number % 7, np.int32),
        "epoch": index * 0,
        "index": index,
      }

  mesh = sharding.make_mesh(config, jax.devices()[:1])
  run = loop.Training(
    one_matrix_objective(), config, mesh, batches, evaluate=evaluate, identity={}, selection=selection, start=start
  )
  with (
    MetricsWriter(folder, next_attempt(folder)) as writer,
    Checkpoints(
      folder / "checkpoints",
      every_steps=config.checkpoint.every_steps,
      keep_last=2,
      keep_best=0,
      selection=selection,
      on_event=writer.event,
    ) as checkpoints,
    Progress(config.total_steps, (), stream=io.StringIO()) as progress,
    Watchdog(start_seconds=600, step_seconds=600, dump=folder / "stalls.txt") as watchdog,
  ):
    services = loop.Services(
      checkpoints,
      writer,
      progress,
      watchdog,
      preemption or Preemption(),
      DataSkips(folder, read_data_skips(folder)),
      Profile(profile, folder / "profile"),
    )
    return loop.train(run, services)[0]


class StopAt(Preemption):
  """A notice that comes at one tick: a step, or a batch of an evaluation."""

  def __init__(self, tick):
    super().__init__()
    self._at, self.ticks = tick, 0

  def poll(self):
    self.ticks += 1
    return self.ticks >= self._at


def events(folder, *kinds):
  return [event for event in read_events(folder) if event["event"] in kinds]


def saved(folder):
  return committed_steps(epath.Path(folder / "checkpoints"))


def skips(folder):
  return [(event["step"], event["in_a_row"]) for event in read_events(folder) if event["event"] == "skip"]


def test_every_void_update_is_an_event_and_counted_and_leaves_the_means_alone(tmp_path):
  train(tmp_path, bad=(2, 4, 5))
  assert skips(tmp_path) == [(2, 1), (4, 1), (5, 2)]
  lines = read_metrics(tmp_path)
  assert [lines[step]["train/skipped_steps"] for step in (4, 8)] == [2, 1]
  assert all(np.isfinite(lines[step]["train/error"]) for step in (4, 8))


def test_a_run_without_void_updates_tells_of_none(tmp_path):
  train(tmp_path)
  assert not skips(tmp_path)


def test_the_learning_rate_goes_on_with_the_step_over_a_void_update(tmp_path):
  """Law 12: the rate of update n is that of step n, whatever was skipped before it."""
  train(tmp_path, bad=(1, 3, 8), log_every_steps=1)
  schedule = optimizers.make_schedule(tiny_config(**{"total_steps": 8, "optimizer.warmup_steps": 2}))
  found = [line["learning_rate"] for line in read_metrics(tmp_path).values()]
  np.testing.assert_allclose(found, [schedule(step) for step in range(8)], rtol=1e-6)


def test_after_too_many_void_updates_the_run_goes_back_and_on_behind_the_bad_data(tmp_path):
  consumed = []
  train(
    tmp_path / "run",
    bad=(4, 5, 6),
    max_bad_steps=3,
    consumed=consumed,
    **{"checkpoint.every_steps": 2, "log_every_steps": 1},
  )
  assert consumed == [1, 2, 3, 4, 5, 6, 7, 8, 9, 10], "3 to 6 are behind; the steps 5 to 8 took the batches 7 to 10"
  (rollback,) = events(tmp_path / "run", "rollback")
  # The checkpoint of step 4 was saved after one void update: it is as good as that of step 3.
  assert (rollback["step"], rollback["from_step"], rollback["position"], rollback["to"]) == (4, 6, 4 * ROWS, 6 * ROWS)
  assert not events(tmp_path / "run", "restore"), "one step back is one event"
  assert json.loads((tmp_path / "run" / "jumps.json").read_text()) == [
    {"step": 4, "position": 4 * ROWS, "to": 6 * ROWS}
  ]


def test_a_rolled_back_run_has_the_weights_of_one_that_never_saw_the_bad_data(tmp_path):
  """But for the void update before the checkpoint, which counts as a step."""
  rolled = train(tmp_path / "rolled", bad=(5, 6), max_bad_steps=2, **{"checkpoint.every_steps": 4})
  (tmp_path / "straight").mkdir()
  (tmp_path / "straight" / "jumps.json").write_text(json.dumps([{"step": 4, "position": 4 * ROWS, "to": 6 * ROWS}]))
  consumed = []
  straight = train(tmp_path / "straight", bad=(5, 6), consumed=consumed)
  assert consumed == [1, 2, 3, 4, 7, 8, 9, 10] and not skips(tmp_path / "straight")
  jax.tree.map(np.testing.assert_array_equal, rolled, straight)


@pytest.mark.parametrize("stop", range(7, 12))
def test_a_resume_repeats_a_jump_wherever_the_run_was_stopped_after_it(tmp_path, stop):
  """Tick 7 is step 6, whose report makes the run go back; tick 11 is the last step."""
  settings = {"bad": (5, 6), "max_bad_steps": 2, "checkpoint.every_steps": 4, "log_every_steps": 3}
  straight = train(tmp_path / "straight", **settings)
  with pytest.raises(Preempted):
    train(tmp_path / "stopped", preemption=StopAt(stop), **settings)
  again = train(tmp_path / "stopped", **settings)
  jax.tree.map(np.testing.assert_array_equal, straight, again)


def test_a_resume_from_before_the_jump_takes_it_too(tmp_path):
  settings = {"bad": (5, 6), "max_bad_steps": 2, "checkpoint.every_steps": 2}
  straight = train(tmp_path / "run", **settings)
  for step in saved(tmp_path / "run"):
    if step > 2:
      shutil.rmtree(tmp_path / "run" / "checkpoints" / str(step))
  consumed = []
  again = train(tmp_path / "run", consumed=consumed, **settings) if saved(tmp_path / "run") else None
  if again is None:  # nothing so old was kept: from the beginning
    shutil.rmtree(tmp_path / "run" / "checkpoints")
    again = train(tmp_path / "run", consumed=consumed, **settings)
  assert 5 not in consumed and 6 not in consumed
  jax.tree.map(np.testing.assert_array_equal, straight, again)


def test_bad_data_that_is_longer_than_it_seemed_is_jumped_over_in_several_goes(tmp_path):
  consumed = []
  train(
    tmp_path,
    bad=(5, 6, 7, 8, 9),
    max_bad_steps=2,
    consumed=consumed,
    **{"checkpoint.every_steps": 4, "log_every_steps": 1},
  )
  assert [(event["step"], event["to"] // ROWS) for event in events(tmp_path, "rollback")] == [(4, 6), (4, 8)]
  assert skips(tmp_path) == [(5, 1), (6, 2), (5, 1), (6, 2), (5, 1)]
  assert consumed[-3:] == [10, 11, 12], "batch 9 was one void update, not two"


def test_a_run_that_does_not_get_on_ends_and_names_the_remedy(tmp_path):
  with pytest.raises(
    UserError,
    match="3 updates in a row, the last at step 7, .*back to step 4 2 times already.*Lower optimizer.learning_rate",
  ) as ended:
    train(tmp_path, bad=range(5, 1000), max_bad_steps=3, max_rollbacks=2, **{"checkpoint.every_steps": 4})
  assert "\n" not in str(ended.value)
  assert len(events(tmp_path, "rollback")) == 2
  assert saved(tmp_path) == [4], "the good checkpoint is still there"


def test_a_run_whose_first_data_is_bad_begins_anew_behind_it(tmp_path):
  consumed = []
  train(tmp_path, bad=(1, 2), max_bad_steps=2, consumed=consumed)
  assert consumed[-8:] == list(range(3, 11))
  assert [event["step"] for event in events(tmp_path, "rollback")] == [0]


def test_void_updates_in_a_row_are_counted_across_a_stop(tmp_path):
  settings = {"bad": (4, 5, 6), "max_bad_steps": 3, "checkpoint.every_steps": 3}
  straight = train(tmp_path / "straight", **settings)
  with pytest.raises(Preempted):
    train(tmp_path / "stopped", preemption=StopAt(1 + 5), **settings)  # a tick at the start, then one a step
  assert saved(tmp_path / "stopped")[-1] == 5
  again = train(tmp_path / "stopped", **settings)
  assert skips(tmp_path / "stopped")[-1] == (6, 3)
  assert len(events(tmp_path / "stopped", "rollback")) == 1
  assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves((straight, again)))


def test_a_notice_saves_the_step_and_stops(tmp_path):
  with pytest.raises(Preempted) as stopped:
    train(tmp_path, preemption=StopAt(1 + 3))
  assert stopped.value.step == 3 and saved(tmp_path) == [3]
  assert [event["step"] for event in events(tmp_path, "preempt")] == [3]
  jax.tree.map(np.testing.assert_array_equal, train(tmp_path), train(tmp_path / "straight"))


def test_a_notice_while_the_run_starts_stops_it_before_anything_is_trained(tmp_path):
  consumed = []
  with pytest.raises(Preempted) as stopped:
    train(tmp_path, preemption=StopAt(1), consumed=consumed)
  assert stopped.value.step == 0 and not saved(tmp_path) and not consumed


def test_a_notice_in_an_evaluation_does_not_wait_for_its_end(tmp_path):
  batches = []

  def evaluate(params, after_batch):
    for number in range(100):
      batches.append(number)
      if after_batch():
        return None
    return {"error": 1.0}

  with pytest.raises(Preempted) as stopped:
    train(tmp_path, preemption=StopAt(1 + 4 + 10), evaluate=evaluate, eval_every_steps=4)
  assert stopped.value.step == 4 and saved(tmp_path) == [4] and len(batches) == 10
  assert not any("eval/error" in line for line in read_metrics(tmp_path).values())


def test_the_time_of_a_window_is_told_by_kind(tmp_path):
  began, ended = [], []

  def evaluate(params, after_batch):
    began.append(time.time())
    time.sleep(0.2)
    ended.append(time.time())
    return {}

  train(tmp_path, evaluate=evaluate, eval_every_steps=2, **{"log_every_steps": 4, "checkpoint.every_steps": 4})
  line = read_metrics(tmp_path)[8]
  assert line["window_steps"] == 4
  evaluations = ended[2] - began[2] + ended[1] - began[1]  # after the steps 6 and 4
  kinds = [line[f"seconds/{kind}"] for kind in ("evaluation", "checkpoint", "data_wait", "step")]
  assert evaluations - 1e-3 <= kinds[0] < 1.4 * evaluations and sum(kinds) <= line["time"] - began[1] + 1e-3
  assert line["seconds/checkpoint"] > 0 and line["seconds/data_wait"] > 0 and line["seconds/step"] > 0
  assert line["tokens_per_second"] == pytest.approx(4 * ROWS * 4 / (line["seconds/step"] + line["seconds/data_wait"]))


def test_a_profile_is_a_trace_that_perfetto_and_xprof_read_with_the_steps_marked(tmp_path):
  train(tmp_path, profile=(3, 5))
  (perfetto,) = tmp_path.glob("profile/plugins/profile/*/perfetto_trace.json.gz")
  names = [event.get("name", "") for event in json.loads(gzip.decompress(perfetto.read_bytes()))["traceEvents"]]
  assert sum(name == "train" for name in names) == 2
  (xplane,) = tmp_path.glob("profile/plugins/profile/*/*.xplane.pb")
  assert b"train" in xplane.read_bytes()


@pytest.mark.parametrize("where", ["a batch that is left on the host", "a number that an evaluation brings along"])
def test_a_transfer_to_the_device_that_nobody_asked_for_is_an_error(tmp_path, monkeypatch, where):
  """Only what `put_batch` hands over may cross within the loop; on a GPU or TPU anything else would be waited for in
  every step.
  """
  evaluate = lambda params, after_batch: {"sum": float(params["nsp_head"]["dense"]["kernel"].sum())}
  if "batch" in where:
    monkeypatch.setattr(sharding, "put_batch", lambda batch, mesh: batch)
  else:
    evaluate = lambda params, after_batch: {
      "sum": float((params["nsp_head"]["dense"]["kernel"] + np.float32(1.0)).sum())
    }
  with pytest.raises(Exception, match="Disallowed host-to-device transfer"):
    train(tmp_path / "guarded", evaluate=evaluate)
  monkeypatch.setattr(loop.jax, "transfer_guard", lambda how: jax.transfer_guard_host_to_device("allow"))
  train(tmp_path / "unguarded", evaluate=evaluate)


@pytest.mark.parametrize(
  "tick", [7, 8, 11, 12]
)  # 1 at the start, one a step, two an evaluation: noticed at steps 4 and 6, and while they are evaluated
def test_a_stop_where_an_evaluation_is_due_changes_neither_the_end_of_the_run_nor_what_is_known_of_its_checkpoints(
  tmp_path, tick
):
  settings = {
    "eval_every_steps": 2,
    "checkpoint.every_steps": 2,
    "selection": ModelSelection("eval/quality", higher_is_better=True, patience=1),
  }
  seen = []

  def evaluate(params, after_batch):
    if any([after_batch(), after_batch()]):
      return None
    value = float(jax.device_get(params["nsp_head"]["dense"]["kernel"])[0, 0])
    if value not in seen:
      seen.append(value)
    return {"quality": (1.0, 3.0, 2.0, 2.0)[seen.index(value)]}

  def known(folder):
    checkpoints = epath.Path(folder / "checkpoints")
    return {step: read_manifest(checkpoints / str(step)).metrics for step in committed_steps(checkpoints)}

  straight = train(tmp_path / "straight", evaluate=evaluate, **settings)
  assert known(tmp_path / "straight") == {4: {"eval/quality": 3.0}, 6: {"eval/quality": 2.0}}
  with pytest.raises(Preempted):
    train(tmp_path / "stopped", evaluate=evaluate, preemption=StopAt(tick), **settings)
  assert len(known(tmp_path / "stopped")[4 if tick < 10 else 6]) == 0
  resumed = train(tmp_path / "stopped", evaluate=evaluate, **settings)
  assert known(tmp_path / "stopped") == known(tmp_path / "straight")
  jax.tree.map(np.testing.assert_array_equal, straight, resumed)


def test_a_run_most_of_whose_updates_were_skipped_has_no_result_also_when_it_was_interrupted(tmp_path):
  bad = {"bad": (1, 2, 4, 6, 7), "max_bad_steps": 3}
  with pytest.raises(NotFiniteError, match="ended at step 8, but 5 of its updates were skipped"):
    train(tmp_path / "straight", **bad)
  assert saved(tmp_path / "straight") == [8], "what there is, is kept"
  with pytest.raises(Preempted):
    train(tmp_path / "resumed", preemption=StopAt(4), **bad)
  with pytest.raises(NotFiniteError, match="5 of its updates"):
    train(tmp_path / "resumed", **bad)
  with pytest.raises(NotFiniteError, match="5 of its updates"):  # and again, when nothing is left to train
    train(tmp_path / "resumed", **bad)
  train(tmp_path / "half", bad=(1, 2, 4, 6), max_bad_steps=3)


def test_of_a_run_that_began_at_a_later_step_its_own_updates_count(tmp_path):
  settings = {"bad": (1, 2, 3), "start": lambda fresh, abstract: (fresh._replace(step=fresh.step + 4), 0)}
  with pytest.raises(Preempted):
    train(tmp_path / "resumed", preemption=StopAt(2), **settings)
  with pytest.raises(NotFiniteError, match="ended at step 8, but 3 of its updates were skipped"):
    train(tmp_path / "resumed", **settings)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_run_whose_last_evaluation_is_not_finite_has_no_result(tmp_path, value):
  values = iter([value, 1.0, 1.0, value])
  found = lambda params, after_batch: {"loss": next(values), "rows": 3.0}
  train(tmp_path / "recovered", evaluate=found, eval_every_steps=4)  # an earlier one may be
  with pytest.raises(NotFiniteError, match=f"eval/loss of its last evaluation is {value}"):
    train(tmp_path / "not", evaluate=found, eval_every_steps=4)
  assert saved(tmp_path / "not") == [8]
