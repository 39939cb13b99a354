"""distributed.py: who takes part, from arguments, variables, schedulers, or alone."""

import pytest

from bert_jax.cluster import distributed
from bert_jax.errors import UserError

SLURM = {
  "SLURM_JOB_ID": "4242",
  "SLURM_STEP_NODELIST": "gpu[007-010]",
  "SLURM_NTASKS": "32",
  "SLURM_PROCID": "9",
  "SLURM_LOCALID": "1",
}


@pytest.fixture(autouse=True)
def nowhere(monkeypatch):
  """No scheduler, whatever these tests run under."""
  for name in (*SLURM, *distributed.VARIABLES, "OMPI_MCA_orte_hnp_uri", "KUBERNETES_SERVICE_HOST"):
    monkeypatch.delenv(name, raising=False)


def test_arguments_come_before_the_environment_and_that_before_a_scheduler(monkeypatch):
  for name, value in SLURM.items():
    monkeypatch.setenv(name, value)
  environ = dict(zip(distributed.VARIABLES, ("node-0:8476", "4", "2")))
  assert distributed.detect("other:1", 2, 1, environ=environ)[:4] == ("other:1", 2, 1, "arguments")
  assert distributed.detect(environ=environ)[:4] == ("node-0:8476", 4, 2, "environment")
  assert distributed.detect(environ={}).source == "slurm"


def test_slurm_says_who_is_who_and_gives_every_task_one_accelerator(monkeypatch):
  for name, value in SLURM.items():
    monkeypatch.setenv(name, value)
  coordinator, count, own, source, local = distributed.detect(environ={})
  host, _, port = coordinator.partition(":")
  assert (host, count, own, source, local) == ("gpu007", 32, 9, "slurm", (1,)) and 1024 < int(port) < 65536


def test_one_slurm_task_is_alone(monkeypatch):
  for name, value in (SLURM | {"SLURM_NTASKS": "1", "SLURM_PROCID": "0"}).items():
    monkeypatch.setenv(name, value)
  assert distributed.detect(environ={}).source == "alone"


def test_nothing_said_is_alone_on_the_loopback_address_with_a_port_of_its_own():
  first, second = distributed.detect(environ={}), distributed.detect(environ={})
  assert first[1:4] == (1, 0, "alone") and first.coordinator.startswith("127.0.0.1:")
  assert first.coordinator != second.coordinator


@pytest.mark.parametrize(
  "given, message",
  [
    (("a:1", None, None), "belong together; --num_processes and --process_id are not given"),
    (("a:1", 2, None), "belong together; --process_id is not given"),
    ((None, 2, 0), "--coordinator is not given"),
    (("a", 2, 0), "--coordinator=a: expected HOST:PORT"),
    (("a:b", 2, 0), "expected HOST:PORT"),
    (("a:70000", 2, 0), "expected HOST:PORT"),
    (("a:1", 2, 2), "--process_id=2 must lie between 0 and --num_processes - 1 = 1"),
    (("a:1", 0, 0), "must lie between"),
    (("a:1", 2, -1), "must lie between"),
  ],
)
def test_arguments_that_do_not_make_sense_are_refused_by_name(given, message):
  with pytest.raises(UserError, match=message):
    distributed.detect(*given, environ={})


@pytest.mark.parametrize(
  "values, message",
  [
    (("node-0:8476", "", ""), "BERT_JAX_NUM_PROCESSES and BERT_JAX_PROCESS_ID are not given"),
    (("node-0:8476", "four", "0"), "BERT_JAX_NUM_PROCESSES=four, BERT_JAX_PROCESS_ID=0: expected whole numbers"),
  ],
)
def test_variables_that_do_not_make_sense_are_refused_by_name(values, message):
  with pytest.raises(UserError, match=message):
    distributed.detect(environ=dict(zip(distributed.VARIABLES, values)))


def test_a_scheduler_that_cannot_be_asked_is_named_with_the_way_round_it(monkeypatch):
  for name, value in (SLURM | {"SLURM_NTASKS": "many"}).items():
    monkeypatch.setenv(name, value)
  with pytest.raises(UserError, match="looks like slurm, but asking it .*say it yourself: BERT_JAX_COORDINATOR"):
    distributed.detect(environ={})
