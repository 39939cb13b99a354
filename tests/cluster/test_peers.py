"""peers.py: which errors mean that another process has gone. Real deaths: tests/faults/test_lost_peers.py."""

import socket
import time

import pytest

from bert_jax.cluster import peers
from bert_jax.errors import UserError


@pytest.fixture
def several(monkeypatch):
  monkeypatch.setattr(peers.jax, "process_count", lambda: 2)
  monkeypatch.setattr(peers, "_FAREWELL_SECONDS", 0.0)


# As JAX 0.10.2 says it on CPU, and as NCCL and gRPC are known to say it.
LOST = [
  "UNKNOWN: Gloo all-reduce failed: [external/gloo/gloo/transport/tcp/pair.cc:547] Connection closed by peer "
  "[127.0.0.1]:11150",
  "INTERNAL: NCCL operation ncclAllReduce failed: remote process exited or there was a network error",
  "UNAVAILABLE: Failed to send RPC to coordination service.",
]


@pytest.mark.parametrize("text", LOST)
def test_errors_of_a_broken_connection_are_a_lost_peer(several, text):
  found = peers.Peers().explain(ValueError(text))
  assert isinstance(found, peers.PeerLost)
  assert text[:60] in str(found) and "resumes from its newest checkpoint" in str(found)


@pytest.mark.parametrize(
  "error", [KeyError("x"), UserError("NCCL is not installed"), RuntimeError("RESOURCE_EXHAUSTED: out of memory")]
)
def test_other_errors_stay_what_they_are(several, error):
  assert peers.Peers().explain(error) is error


@pytest.mark.parametrize("text", LOST)
def test_a_process_that_is_alone_has_lost_nobody(text):
  error = ValueError(text)
  assert peers.Peers().explain(error) is error


def test_hosts_that_cannot_connect_are_a_mistake_with_a_remedy(several):
  found = peers.Peers().explain(
    ValueError("UNKNOWN: Gloo context initialization failed: timed out connecting: SO_ERROR: Connection refused")
  )
  assert isinstance(found, UserError) and "check /etc/hosts" in str(found)


def test_alone_there_is_nobody_to_listen_to_or_to_tell():
  with peers.Peers() as alone:
    alone.tell("the end", 1)


def test_what_is_no_message_of_ours_does_not_end_the_listening():
  ours, theirs = socket.socketpair()
  with peers.Peers(1, ["a", "b"], {0: ours}) as watching:
    for line in (b"not JSON\n", b"[1]\n", b'{"message": 3, "code": "x"}\n', b"\xff\n", b'{"goodbye": true}\n'):
      theirs.sendall(line)
    deadline = time.monotonic() + 5
    while watching._heard and time.monotonic() < deadline:
      time.sleep(0.02)
    assert not watching._heard  # the goodbye behind them was understood
  theirs.close()
