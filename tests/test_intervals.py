import numpy as np
import pytest
import torch
from scipy import stats

from flatlab.intervals import Interval, mean_interval


@pytest.mark.parametrize("n", [2, 3, 4, 5, 8, 9, 30, 64, 301])
@pytest.mark.parametrize("level", [0.5, 0.95, 0.999])
def test_intervals_are_students(n, level):
    values = np.random.default_rng(n).normal(3, 2, n)
    ours = mean_interval(torch.tensor(values), level)
    low, high = stats.t.interval(level, n - 1, values.mean(), stats.sem(values))
    np.testing.assert_allclose([ours.low, ours.high], [low, high], rtol=1e-9)
    assert ours.n == n and isinstance(ours.mean, float)


def test_intervals_are_taken_along_the_last_axis():
    values = np.random.default_rng(0).normal(size=(2, 3, 5))
    whole = mean_interval(values)
    assert whole.mean.shape == whole.half_width.shape == (2, 3)
    one = mean_interval(values[1, 2])
    assert whole.mean[1, 2] == one.mean and whole.half_width[1, 2] == one.half_width


def test_one_member_has_no_interval():
    one = mean_interval(0.25)
    assert one.mean == 0.25 and one.n == 1 and np.isnan(one.half_width)


@pytest.mark.parametrize(
    ("values", "says"),
    [([], "no member"), ([1, np.nan, 2], "1 of 3"), ([[1, np.inf], [1, 2]], "1 of 2")],
)
def test_values_that_cannot_be_averaged_are_refused(values, says):
    with pytest.raises(ValueError, match=says):
        mean_interval(values)


@pytest.mark.parametrize(
    ("interval", "spec", "text"),
    [
        (Interval(62.123, 0.416, 8), ".1f", "62.1 ± 0.4"),
        (Interval(1.234, 0.5, 8), "+.1f", "+1.2 ± 0.5"),
        (Interval(0.5, 0.016, 8), ".0%", "50% ± 2%"),
        (Interval(0.25, float("nan"), 1), ".2f", "0.25"),
        (Interval(62.123, 0.416, 8), "", "62.12 ± 0.42"),
        (Interval(1234.5, 123.4, 8), "", "1234 ± 123"),
        (Interval(-0.00123456, 0.0000456, 8), "", "-0.001235 ± 0.000046"),
        (Interval(2.5, 0.0, 8), "", "2.50 ± 0.00"),
        (Interval(0.0, 0.0, 8), "", "0.0 ± 0.0"),
        (Interval(0.25, float("nan"), 1), "", "0.250"),
    ],
)
def test_an_interval_writes_itself(interval, spec, text):
    assert format(interval, spec) == text
    assert spec or str(interval) == text


def test_an_array_of_intervals_has_a_text():
    assert "half_width" in str(mean_interval([[1.0, 2.0], [3.0, 4.0]]))
