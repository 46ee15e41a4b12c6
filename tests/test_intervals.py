import numpy as np
import pytest
import torch
from scipy import stats

from flatlab.intervals import mean_interval


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
