"""Numbers on the terminal and on charts."""

import math

import pytest

from bert_jax.io.numbers import count, duration


@pytest.mark.parametrize(
  "value, text",
  [
    (0, "0"),
    (987.4, "987"),
    (-9870, "-9,870"),
    (9999, "9,999"),
    (25_123.4, "25.1k"),
    (999_400, "999k"),
    (999_600, "1M"),
    (1_530_000, "1.53M"),
    (2.5e9, "2.5G"),
    (math.nan, "nan"),
  ],
)
def test_a_count_has_three_digits_and_a_unit_from_ten_thousand_on(value, text):
  assert count(value) == text


@pytest.mark.parametrize(
  "seconds, text", [(0.4, "0:00:00"), (59.6, "0:01:00"), (3723, "1:02:03"), (50 * 3600, "50:00:00")]
)
def test_a_duration_has_hours_minutes_and_seconds(seconds, text):
  assert duration(seconds) == text
