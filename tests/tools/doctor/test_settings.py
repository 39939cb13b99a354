"""What the config alone decides."""

import pytest

from bert_jax.tools.doctor import row
from bert_jax.tools.doctor.settings import run_settings
from tests.helpers.machines import context


def test_the_size_of_the_run_is_told(tmp_path, corpus):
  found = run_settings(context(tmp_path, corpus))
  assert (
    found.status == row.OK
    and found.found.endswith("M parameters, 24 steps of 8 rows")
    and found.found.startswith("bert-tiny, 0.0 M")
  )
  assert run_settings(context(tmp_path, corpus, f"init_from={tmp_path}", "stop_at_step=3")).found.endswith(
    f"3 steps of 8 rows, starting from {tmp_path}"
  )


@pytest.mark.parametrize(
  "overrides, said, remedy",
  [
    (["optimizer.warmup_steps=40"], "do not fit into total_steps=24", "lower warmup_steps"),
    (["model.num_attention_heads=3"], "num_attention_heads", ""),
    (["init_from=/nowhere"], "init_from=/nowhere: there is no such folder", "give a run folder"),
    (["init_from=/proc", "init_optimizer=true"], "/proc has none", "give one"),
  ],
)
def test_what_a_run_would_refuse_at_once_is_a_failure(tmp_path, corpus, overrides, said, remedy):
  (found,) = row.run_check("config", run_settings, context(tmp_path, corpus, *overrides))["config"]
  assert found.status == row.FAIL and said in found.found and remedy in found.remedy
