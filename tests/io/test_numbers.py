"""Numbers on the terminal and on charts."""

import math

import ml_dtypes
import numpy as np
import pytest

from bert_jax.errors import UserError
from bert_jax.io.numbers import check_finite, count, duration


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


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64, ml_dtypes.bfloat16])
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_an_array_that_holds_a_number_that_is_none_is_named(dtype, value):
  arrays = {"ids": np.arange(3), "fine": np.ones((2, 2), dtype), "bad": np.zeros((3, 4), dtype)}
  check_finite(arrays | {"bad": arrays["fine"]}, "model.safetensors")
  arrays["bad"][1, 2] = value
  with pytest.raises(UserError, match=r"model.safetensors: bad holds 1 numbers of 12 that are NaN or infinite"):
    check_finite(arrays, "model.safetensors")


def test_infinities_that_cancel_are_found_and_large_numbers_are_no_mistake():
  check_finite({"large": np.full(1000, 3e38, np.float32), "half": np.full(1000, 6e4, np.float16)}, "x")
  with pytest.raises(UserError, match="holds 2 numbers"):
    check_finite({"both": np.array([math.inf, -math.inf, 1.0], np.float32)}, "x")
