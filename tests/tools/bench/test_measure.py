"""bench/measure.py: what differs from float32 is not timed, and transformers computes what we compute."""

import pytest

from bert_jax import config as configs
from bert_jax.errors import UserError
from bert_jax.tools.bench import measure, page
from bert_jax.tools.bench.own import Own
from tests.helpers.tiny_runs import write_config

NO_DROPOUT = ["model.hidden_dropout_prob=0", "model.attention_probs_dropout_prob=0"]


def asked(tmp_path, *, against=(), compare=False, sequences=2, overrides=()):
  file, base = (
    write_config(tmp_path),
    [
      "data.corpus=nowhere",
      "data.batch_size=16",
      "prepare.seq_length=32",
      "prepare.vocab_size=150",
      *NO_DROPOUT,
      *overrides,
    ],
  )
  load = lambda *more: configs.load_config(file, [*base, *more])
  return measure.Asked(
    load(), {key: load(*key.split(",")) for key in against}, compare, rounds=3, seconds=0.02, sequences=sequences
  )


@pytest.fixture(scope="module")
def bench(tmp_path_factory):
  """Everything that there is to compare; most of the time goes into torch.compile."""
  against = [
    "model.dtype=bfloat16",
    "optimizer.microbatches=2,model.remat=full",
    "model.hidden_dropout_prob=0.1",
    "model.attention=cudnn",
  ]
  return measure.measure(asked(tmp_path_factory.mktemp("bench"), against=against, compare=True))


@pytest.mark.slow
def test_transformers_gets_the_same_loss_and_gradients_from_packed_rows(bench):
  results = {result.name: result for result in bench.results}
  for name in (measure.OURS, measure.PEER, measure.COMPILED_PEER):
    assert not results[name].failure and results[name].agrees
    assert results[name].loss == pytest.approx(bench.reference[0], rel=1e-5)
    assert results[name].grad_norm == pytest.approx(bench.reference[1], rel=1e-3)


@pytest.mark.slow
def test_other_ways_to_compute_the_same_agree_and_other_computations_are_not_compared(bench):
  agrees = {result.name: result.agrees for result in bench.results}
  assert agrees["model.dtype=bfloat16"] and agrees["optimizer.microbatches=2,model.remat=full"]
  assert agrees["model.hidden_dropout_prob=0.1"] is None


@pytest.mark.slow
def test_what_cannot_run_here_says_why_and_the_others_are_measured(bench):
  results = {result.name: result for result in bench.results}
  assert (
    "it is a kernel for GPUs" in results["model.attention=cudnn"].failure
    and not results["model.attention=cudnn"].token_seconds
  )
  for name, result in results.items():
    if name != "model.attention=cudnn":
      assert len(result.token_seconds) == 3 and result.step_tokens == bench.config.data.batch_size * 32, name


@pytest.mark.slow
def test_the_page_and_the_json_show_all_of_it(bench):
  text, found = page.bench_text(bench), page.bench_json(bench)
  for result in bench.results:
    assert result.name in text
  assert "a plain matrix product in float32 reaches" in text and "PyTorch's" in text
  assert (
    "computes something else" in text and "times as fast" in text and "MFU" not in text
  )  # the peak of a CPU is not known
  ours = found["results"][0]
  assert ours["tokens_per_second"]["median"] * ours["step_seconds"] == pytest.approx(ours["step_tokens"])
  assert sum(found["shares"].values()) == pytest.approx(1) and 0 <= found["waiting"] < 1
  assert ours["model_flops"] == pytest.approx(ours["tokens_per_second"]["median"] * found["model_flops_per_token"])


class Wrong(Own):
  """A step whose gradients are a tenth too large, as those of a kernel that sees into the neighbouring sequence may
  be.
  """

  def first_step(self):
    loss, norm = super().first_step()
    return loss, 1.1 * norm


@pytest.mark.slow
def test_a_step_that_differs_from_float32_is_not_timed(tmp_path, monkeypatch):
  question = asked(tmp_path, against=["model.remat=full"])
  monkeypatch.setattr(
    measure, "Own", lambda config, data: (Wrong if config.model.remat == "full" else Own)(config, data)
  )
  _, other = measure.measure(question).results
  assert other.agrees is False and not other.token_seconds and "does not agree with float32" in other.failure


def test_our_own_step_that_differs_ends_the_bench(tmp_path, monkeypatch):
  monkeypatch.setattr(measure, "_reference", lambda own, data: (1.0, 1.0))
  with pytest.raises(UserError, match="bert_jax does not agree with float32"):
    measure.measure(asked(tmp_path))


@pytest.mark.slow
def test_a_corpus_without_pairs_is_compared_by_its_masked_words(tmp_path):
  found = measure.measure(asked(tmp_path, compare=True, overrides=["prepare.objective=none"]))
  assert [result.agrees for result in found.results] == [True, True, True]
