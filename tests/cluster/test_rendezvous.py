"""rendezvous.py: processes meet, see who is missing, and whether they are alike. Real sockets, threads as processes."""

import concurrent.futures
import copy
import hashlib
import json
import socket
import threading
import time
import types

import pytest

from bert_jax import config as configs
from bert_jax.cluster import rendezvous
from bert_jax.cluster.distributed import Cluster
from bert_jax.errors import UserError

pytestmark = pytest.mark.alone


@pytest.fixture
def address():
  with socket.socket() as probe:
    probe.bind(("127.0.0.1", 0))
    return f"127.0.0.1:{probe.getsockname()[1]}"


def meet(address, number, count, seconds=5.0, delay=0.0, about=None, token=""):
  """What process `number` gets, or the message that it ends with."""
  time.sleep(delay)
  try:
    return rendezvous.meet(
      Cluster(address, count, number, "arguments"), about or {"host": f"host-{number}"}, seconds=seconds, token=token
    )
  except UserError as error:
    return str(error)


def together(*calls):
  with concurrent.futures.ThreadPoolExecutor(len(calls)) as pool:
    return [future.result(60) for future in [pool.submit(meet, *args, **how) for args, how in calls]]


@pytest.mark.parametrize("delays", [(0.3, 0, 0), (0, 0.3, 0), (0, 0, 0)])
def test_everybody_learns_of_everybody_whoever_comes_first(address, delays):
  found = together(*[((address, number, 3), {"delay": delay}) for number, delay in enumerate(delays)])
  assert found == [[{"host": "host-0"}, {"host": "host-1"}, {"host": "host-2"}]] * 3


def test_a_process_that_is_alone_meets_nobody():
  assert meet("127.0.0.1:1", 0, 1) == [{"host": "host-0"}]


def test_who_is_missing_is_named_to_everybody_who_came_in_time(address):
  found = together(((address, 0, 4), {"seconds": 1.5}), ((address, 2, 4), {"seconds": 1.5}))
  assert found[0] == found[1]
  assert f"waited 2 s at {address} for processes 1 and 3 of 4; 0 (host-0), 2 (host-2) came" in found[0]


def test_a_coordinator_that_does_not_answer_is_named_when_the_time_is_up(address, monkeypatch):
  clock = types.SimpleNamespace(now=100.0, monotonic=lambda: clock.now, sleep=lambda seconds: pass_by(seconds))

  def pass_by(seconds):
    clock.now += seconds

  monkeypatch.setattr(rendezvous, "time", clock)
  message = meet(address, 1, 2, seconds=30.0)
  assert f"process 1 of 2 on host-1 waited 30 s for process 0 at {address}: Connection refused" in message
  assert clock.now == pytest.approx(130.0)


def test_a_name_that_nobody_knows_is_a_message_too():
  assert "at no-such-host.invalid:1234: " in meet("no-such-host.invalid:1234", 1, 2, seconds=0.5)


def introduction(job, **other):
  digest = hashlib.sha256(job.encode()).hexdigest()
  return json.dumps({"token": digest, "process": 1, "processes": 2, "about": {"host": "x"}} | other).encode() + b"\n"


STRANGERS = {
  "http": b"GET / HTTP/1.1\r\nHost: a\r\n\r\n",
  "tls": b"\x16\x03\x01",
  "nothing": b"",
  "a list": b"[]\n",
  "zeros": b"\0" * 100_000,
  "not utf-8": b'{"\xff": 1}\n',
  "nested": b'{"a":' * 100_000 + b"\n",
  "huge": b'{"a": "' + b"x" * 2**21,
  "another token": introduction("job 8"),
  "no token": introduction("job 7", token=None),
  "the token itself": introduction("job 7", token="job 7"),
  "a token of another type": introduction("job 7", token=["job 7"]),
  "a process too many": introduction("job 7", process=2),
  "a process that is no number": introduction("job 7", process="1"),
  "true": introduction("job 7", process=True, processes=9),
  "not a number": introduction("job 7", process=float("nan")),
  "no host": introduction("job 7", about={}),
  "no object": introduction("job 7", about=[1]),
  "half a line": introduction("job 7")[:-1],
}


def knock(address, words, hold=0.0):
  """Says something to process 0, as soon as it listens."""
  deadline = time.monotonic() + 5
  while time.monotonic() < deadline:
    try:
      with socket.create_connection(("127.0.0.1", int(address.rpartition(":")[2])), timeout=2) as stranger:
        stranger.sendall(words)
        time.sleep(hold)
      return
    except OSError:
      time.sleep(0.02)


@pytest.mark.parametrize("name", STRANGERS)
def test_strangers_at_the_port_are_sent_away_and_end_nothing(address, name):
  stranger = threading.Thread(target=knock, args=(address, STRANGERS[name], 0.3))
  stranger.start()
  found = together(((address, 0, 2), {"token": "job 7"}), ((address, 1, 2), {"delay": 0.2, "token": "job 7"}))
  stranger.join()
  assert found == [[{"host": "host-0"}, {"host": "host-1"}]] * 2


def test_strangers_that_say_nothing_for_long_are_sent_away_and_more_than_may_wait_do_not_shut_ours_out(
  address, monkeypatch
):
  monkeypatch.setattr(rendezvous, "_STRANGERS", 4)
  monkeypatch.setattr(rendezvous, "_INTRODUCTION_SECONDS", 0.1)
  strangers = [threading.Thread(target=knock, args=(address, b"{", 1.0)) for _ in range(30)]
  for stranger in strangers:
    stranger.start()
  found = together(((address, 0, 2), {"token": "7"}), ((address, 1, 2), {"delay": 0.5, "token": "7"}))
  for stranger in strangers:
    stranger.join()
  assert found == [[{"host": "host-0"}, {"host": "host-1"}]] * 2


def test_a_process_with_another_token_is_none_of_the_job_and_both_sides_say_so(address):
  found = together(((address, 0, 2), {"seconds": 1.5, "token": "7"}), ((address, 1, 2), {"seconds": 1.0, "token": "8"}))
  assert (
    "for process 1 of 2" in found[0] and "other connections, the last from 127.0.0.1, were none of this job" in found[0]
  )
  assert "knows another token of the job (BERT_JAX_TOKEN, SLURM_JOB_ID, JOBSET_NAME)" in found[1]


@pytest.mark.parametrize(
  "answer",
  [b"HTTP/1.1 400 Bad Request\r\n\r\n", b'{"about": [1, 2]}\n', b'{"refusal": "no"}\n', b"[" * 100_000 + b"\n", b""],
)
def test_what_answers_in_the_place_of_process_0_is_not_believed(address, answer):
  def serve(listener):
    listener.settimeout(5)
    while True:
      try:
        connection, _ = listener.accept()
      except OSError:
        return
      with connection:
        connection.recv(65536)
        connection.sendall(answer)

  with socket.create_server(("127.0.0.1", int(address.rpartition(":")[2]))) as listener:
    server = threading.Thread(target=serve, args=(listener,))
    server.start()
    said = meet(address, 1, 2, seconds=0.5)
    listener.shutdown(socket.SHUT_RDWR)
    server.join()
  assert "whatever answers there is not a process of this run" in said


def test_names_cannot_move_the_cursor_of_a_terminal(address):
  found = together(
    ((address, 0, 3), {}),
    ((address, 1, 3), {"about": {"host": "a\x1b[2J"}}),
    ((address, 1, 3), {"about": {"host": "b\r\u202e"}, "delay": 0.2}),
  )
  assert r"both a\x1b[2J and b\r\u202e are process 1" in found[0]


def test_two_with_one_number_are_refused_and_named(address):
  found = together(
    ((address, 0, 3), {}),
    ((address, 1, 3), {"about": {"host": "a"}}),
    ((address, 1, 3), {"about": {"host": "b"}, "delay": 0.2}),
  )
  assert len(set(found)) == 1 and "both a and b are process 1" in found[0]


def test_another_number_of_processes_is_refused_and_named(address):
  found = together(((address, 0, 2), {}), ((address, 1, 4), {}))
  assert found[0] == found[1] and "process 1 on host-1 was told of 4 processes, process 0 on host-0 of 2" in found[0]


def test_a_port_that_stays_taken_is_named(address):
  with socket.create_server(("127.0.0.1", int(address.rpartition(":")[2]))):
    assert "process 0 cannot listen at port" in meet(address, 0, 2, seconds=0.5)


def test_a_port_that_an_earlier_attempt_still_holds_is_waited_for(address):
  taken = socket.create_server(("127.0.0.1", int(address.rpartition(":")[2])))
  threading.Timer(0.6, taken.close).start()
  found = together(((address, 0, 2), {}), ((address, 1, 2), {}))
  assert found == [[{"host": "host-0"}, {"host": "host-1"}]] * 2


def introductions(count=3):
  one = rendezvous.introduce(configs.flatten(configs.default_config()), "runs/x")
  return [one | {"host": f"host-{number}"} for number in range(count)]


def test_processes_of_one_kind_are_alike_whatever_their_clocks_and_names():
  rendezvous.check_alike([about | {"time": number} for number, about in enumerate(introductions())])


@pytest.mark.parametrize(
  "change, said",
  [
    (
      lambda about: about["config"].update({"optimizer.learning_rate": 0.5}),
      "process 2 on host-2 has optimizer.learning_rate=0.5, process 0 0.0001",
    ),
    (lambda about: about["config"].pop("seed"), "process 2 on host-2 has seed=None, process 0 0"),
    (lambda about: about.update(workdir="runs/y"), "process 2 on host-2 has --workdir=runs/y, process 0 runs/x"),
    (
      lambda about: about.update(code="0123456789ab"),
      "process 2 on host-2 runs a different version of bert_jax, fingerprint 0123456789ab",
    ),
    (lambda about: about["versions"].update(jax="0.1"), r"process 2 on host-2 has jax 0.1 \(process 0: "),
  ],
)
def test_what_differs_is_named_with_the_process(change, said):
  abouts = introductions()
  abouts[2] = copy.deepcopy(abouts[2])
  change(abouts[2])
  with pytest.raises(UserError, match=f"started differently:\n  {said}"):
    rendezvous.check_alike(abouts)


def test_the_fingerprint_of_the_code_follows_every_file(monkeypatch, tmp_path):
  import shutil

  import bert_jax

  package = shutil.copytree(bert_jax.__path__[0], tmp_path / "bert_jax", ignore=shutil.ignore_patterns("__pycache__"))
  same = rendezvous.code_fingerprint()
  monkeypatch.setattr(bert_jax, "__file__", str(package / "__init__.py"))
  assert rendezvous.code_fingerprint() == same
  with open(package / "models" / "heads.py", "a") as file:
    file.write("\n")
  assert rendezvous.code_fingerprint() != same
