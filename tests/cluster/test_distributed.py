"""distributed.py: who takes part, from arguments, variables, schedulers, or alone."""

import socket

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


@pytest.mark.parametrize(
  "environ, token",
  [
    ({}, ""),
    ({"SLURM_JOB_ID": "4242"}, "4242"),
    ({"JOBSET_NAME": "bert-jax"}, "bert-jax"),
    ({"BERT_JAX_TOKEN": "secret", "SLURM_JOB_ID": "4242"}, "secret"),
    ({"BERT_JAX_TOKEN": "", "SLURM_JOB_ID": "4242"}, "4242"),
  ],
)
def test_the_token_of_a_job_is_given_or_what_its_launcher_calls_it(environ, token):
  assert distributed.job_token(environ) == token


@pytest.mark.parametrize(
  "coordinator, listens",
  [
    ("127.0.0.1:8476", "127.0.0.1"),
    ("localhost:8476", "127.0.0.1"),
    ("127.0.0.2:8476", "127.0.0.2"),
    ("192.0.2.1:8476", ""),  # of another machine, or of what passes connections on
    ("balancer:8476", ""),
    ("unknown:8476", ""),
    ("debian:8476", ""),  # /etc/hosts has 127.0.1.1 for the machine's own name, and the others another address
    ("0.0.0.0:8476", "0.0.0.0"),
  ],
)
def test_process_0_listens_where_the_coordinator_is_said_to_be(coordinator, listens, monkeypatch):
  real = socket.getaddrinfo

  def lookup(host, *rest, **options):
    known = {"balancer": "192.0.2.1", "debian": "127.0.1.1"}
    if host == "unknown":
      raise socket.gaierror(-2, "Name or service not known")
    return real(known.get(host, host), *rest, **options)

  monkeypatch.setattr(socket, "getaddrinfo", lookup)
  assert distributed.listening_host(coordinator) == listens


@pytest.mark.parametrize(
  "number, address, bind",
  [(0, "127.0.0.1", "127.0.0.1:8476"), (0, "::1", "[::1]:8476"), (0, "", None), (1, "127.0.0.1", None)],
)
def test_the_service_of_jax_is_told_where_to_listen(number, address, bind, monkeypatch):
  told = {}
  monkeypatch.setattr(distributed, "listening_host", lambda coordinator: address)
  monkeypatch.setattr(distributed.jax.distributed, "initialize", lambda *where, **how: told.update(how))
  cluster = distributed.Cluster("node-0:8476", 2, number, "arguments")
  distributed.initialize(cluster, connect_seconds=1, heartbeat_seconds=1)
  assert told.get("coordinator_bind_address") == bind
