"""stragglers.py: who keeps the others waiting. With real processes: test_agreement.py and tests/faults."""

import pytest

from bert_jax.cluster import stragglers


def records(*seconds):
  return {number: {"host": f"host-{number}", "seconds": value} for number, value in enumerate(seconds)}


def test_the_slowest_host_is_found_with_the_median_beside_it():
  assert stragglers.slowest(records(0.01, 0.02, 0.5, 0.02)) == (2, "host-2", 0.5, pytest.approx(0.02))


@pytest.mark.parametrize(
  "seconds, step, slow",
  [
    ((0.01, 0.01, 0.5), 1.0, True),
    ((0.01, 0.5), 1.0, True),  # of two, too
    ((0.01, 0.01, 0.019), 0.01, False),  # not twice the median
    ((0.001, 0.001, 0.05), 1.0, False),  # ten times the median, and a twentieth of a step
  ],
)
def test_a_host_is_slow_when_it_stands_out_and_it_matters(seconds, step, slow):
  assert stragglers.slowest(records(*seconds)).is_slow(step) == slow


def test_one_process_has_nobody_to_compare_with():
  assert stragglers.share(1.0) is None
