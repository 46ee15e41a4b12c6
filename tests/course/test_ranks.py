"""Every statistic on data whose truth is known: independent, causal, confounded."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy import stats

from flatlab.course import ranks as rc

LEVELS = {"a": [0, 1, 2], "b": [0, 1], "c": [0, 1, 2], "seed": range(8)}


@pytest.fixture
def grid():
    rows = np.array(list(itertools.product(*LEVELS.values())))
    return dict(zip(LEVELS, rows.T, strict=True))


def noise(n, seed):
    return np.random.default_rng(seed).standard_normal(n)


# ---------------------------------------------------------------------------- Kendall


@settings(max_examples=30, deadline=None)
@given(arrays(np.int64, (2, 25), elements=st.integers(0, 6)))
def test_tau_is_that_of_scipy_also_with_ties(xy):
    x, y = xy
    if len(set(x)) == 1 or len(set(y)) == 1:
        with pytest.raises(ValueError, match="nothing to order"):
            rc.kendall(x, y)
        return
    expected = stats.kendalltau(x, y).statistic
    assert rc.kendall(x, y, samples=10).value == pytest.approx(expected, abs=1e-6)


def test_only_the_order_matters():
    x, y = noise((2, 40), 0)
    tau = rc.kendall(x, y)
    assert rc.kendall(np.exp(x), y**3) == tau
    assert rc.kendall(-x, y).value == pytest.approx(-tau.value)


def gaussian_pairs(n, r, seed):
    x, e = noise((2, n), seed)
    return x, r * x + math.sqrt(1 - r * r) * e


@pytest.mark.parametrize("r", [0.0, 0.7])
def test_intervals_hold_the_truth_as_often_as_they_say(r):
    truth = 2 / math.pi * math.asin(r)
    hits = 0
    for seed in range(200):
        found = rc.kendall(*gaussian_pairs(60, r, seed), samples=200, seed=seed)
        hits += found.low <= truth <= found.high
    # 95 % of 200 are 190; 3.5 standard deviations of the binomial law are 11
    assert hits >= 179


def test_clusters_are_drawn_whole():
    x, y = gaussian_pairs(40, 0.5, 3)
    once = rc.kendall(x, y, samples=2000)
    # four copies of everything say no more than one, if drawn together
    copies, cluster = (np.tile(v, 4) for v in (np.stack([x, y]), np.arange(40)))
    together = rc.kendall(*copies, clusters=cluster, samples=2000)
    apart = rc.kendall(*copies, samples=2000)
    assert together.standard_error == pytest.approx(once.standard_error, rel=0.1)
    assert apart.standard_error < 0.7 * once.standard_error


def test_p_values_of_independent_data_are_not_small_too_often():
    found = [rc.kendall(*noise((2, 60), seed)).p_value for seed in range(200)]
    assert np.mean(np.array(found) < 0.05) < 0.05 + 3.5 * math.sqrt(0.05 * 0.95 / 200)
    assert rc.kendall(*gaussian_pairs(60, 0.7, 0)).p_value < 1e-4


@pytest.mark.parametrize(
    ("x", "y", "message"),
    [
        ([1, 2], [1, 2], "at least three"),
        ([1, 2, 3], [1, 2], "each of 3 networks"),
        ([1, 2, math.nan], [1, 2, 3], "1 values that are NaN"),
    ],
)
def test_what_cannot_be_ordered_is_refused(x, y, message):
    with pytest.raises(ValueError, match=message):
        rc.kendall(x, y)
    with pytest.raises(ValueError, match=message):
        rc.partial_correlation(x, y, [])
    with pytest.raises(ValueError, match=message):
        rc.sign_errors(x, y, {"a": [0] * len(x)})


# ---------------------------------------------------------------- one axis at a time


def test_pairs_differ_in_one_setting(grid):
    for axis in grid:
        i, j, group = rc.pairs_along(grid, axis)
        for name, values in grid.items():
            if name == axis:
                assert (values[i] < values[j]).all()
            else:
                assert (values[i] == values[j]).all()
        levels = len(LEVELS[axis])
        n = len(grid["a"])
        assert len(i) == n * (levels - 1) / 2
        assert len(np.unique(group)) == n / levels
        assert len({*zip(i.tolist(), j.tolist(), strict=True)}) == len(i)


def test_a_causal_measure_passes_everything(grid):
    y = grid["a"] + 0.5 * grid["b"] + 0.1 * noise(len(grid["a"]), 0)
    x = np.exp(y)
    assert rc.kendall(x, y).value == pytest.approx(1)
    found = rc.granulated(x, y, grid)
    assert found.value == 1 and all(a.mean == 1 for a in found.axes.values())
    assert rc.conditional_independence(x, y, grid)[0] == pytest.approx(1)
    errors = rc.sign_errors(x, y, grid)
    assert errors.mean == errors.worst == 0
    assert rc.partial_correlation(x, y, [grid["a"]]).value == pytest.approx(1)


def test_an_independent_measure_passes_nothing(grid):
    y = grid["a"] + noise(len(grid["a"]), 0)
    x = noise(len(y), 1)
    tau = rc.kendall(x, y)
    assert tau.low < 0 < tau.high
    found = rc.granulated(x, y, grid)
    assert abs(found.value) < 2 * found.half_width
    assert rc.conditional_independence(x, y, grid)[0] < 0.02
    assert rc.sign_errors(x, y, grid).mean == pytest.approx(0.5, abs=0.1)
    partial = rc.partial_correlation(x, y, [grid["a"]])
    assert partial.low < 0 < partial.high


def test_a_confounded_measure_is_found_out(grid):
    # the setting a moves both; nothing else connects them
    n = len(grid["a"])
    x, y = 3 * grid["a"] + noise(n, 0), 3 * grid["a"] + noise(n, 1)
    assert rc.kendall(x, y).low > 0.4
    found = rc.granulated(x, y, grid)
    assert found.axes["a"].mean > 0.8
    for axis in ("b", "c", "seed"):
        assert abs(found.axes[axis].mean) < 2 * found.axes[axis].half_width
    score, names = rc.conditional_independence(x, y, grid)
    assert "a" in names and score < 0.02
    assert rc.conditional_independence(x, y, {"b": grid["b"]})[0] > 0.2
    partial = rc.partial_correlation(x, y, [grid["a"]])
    assert partial.low < 0 < partial.high
    assert rc.partial_correlation(x, y, [grid["b"]]).low > 0.5


def test_an_average_hides_a_sign_that_is_always_wrong(grid):
    y = 10.0 * grid["a"] + grid["b"] + 0.01 * grid["c"]
    x = 10.0 * grid["a"] - grid["b"] + 0.01 * grid["c"]
    assert rc.kendall(x, y).value > 0.6
    found = rc.granulated(x, y, grid)
    assert found.axes["a"].mean == 1 and found.axes["b"].mean == -1
    errors = rc.sign_errors(x, y, grid)
    assert errors.worst == 1 and errors.worst_environment == ("b", 0, 1)
    assert errors.mean == pytest.approx(1 / len(errors.errors))
    assert "seed" not in {axis for axis, *_ in errors.environments}  # y is equal there
    # differences too small to be known do not count: those along b are 1
    rough = rc.sign_errors(x, y, grid, resolution=1.5)
    assert rough.worst == 0 and {axis for axis, *_ in rough.environments} == {"a"}


def test_a_tie_is_half_an_error(grid):
    y = grid["a"] + 0.0
    errors = rc.sign_errors(np.zeros(len(y)), y, grid)
    assert (errors.errors == 0.5).all()


def test_a_grid_without_pairs_is_refused():
    settings_ = {"a": np.arange(6), "b": np.arange(6)}
    with pytest.raises(ValueError, match="differ in one setting alone"):
        rc.granulated(np.arange(6), np.arange(6), settings_)
    with pytest.raises(ValueError, match="10 pairs"):
        rc.sign_errors(np.arange(6), np.arange(6), settings_)
    with pytest.raises(ValueError, match="axis is 'c'"):
        rc.pairs_along(settings_, "c")


def test_information_by_hand():
    # V_x = V_y in three of four pairs, all directions equally likely: a binary
    # symmetric channel with error 1/4
    n, alike = 8.0, 4.0
    expected = 1 + (0.25 * math.log2(0.25) + 0.75 * math.log2(0.75))
    found = rc._normalised_information(n, alike, 0.0, 0.0)
    assert found == pytest.approx(expected)


def test_information_is_that_of_counted_pairs():
    # brute force over ordered pairs, one conditioning setting
    x, y = noise((2, 30), 5)
    y = y + x
    a = np.arange(30) % 3
    counts = {}
    for i, j in itertools.permutations(range(30), 2):
        key = (a[i], a[j], x[j] > x[i], y[j] > y[i])
        counts[key] = counts.get(key, 0) + 1

    def entropy(*places):
        h = 0.0
        cells = {}
        for key, c in counts.items():
            k = tuple(key[p] for p in places)
            cells[k] = cells.get(k, 0) + c
        total = sum(cells.values())
        for c in cells.values():
            h -= c / total * math.log(c / total)
        return h

    u = entropy(0, 1)
    expected = (entropy(0, 1, 2) + entropy(0, 1, 3) - entropy(0, 1, 2, 3) - u) / (
        entropy(0, 1, 3) - u
    )
    free = rc.conditional_independence(x, y, {})[0]
    score, _names = rc.conditional_independence(x, y, {"a": a}, most=1)
    assert score == pytest.approx(min(expected, free))


# ------------------------------------------------------------------ partial, multiple


def test_partial_correlation_of_gaussian_variables():
    # given z, x and y correlate by (r - a b) / sqrt((1 - a²)(1 - b²))
    covariance = np.array([[1, 0.6, 0.5], [0.6, 1, 0.4], [0.5, 0.4, 1]])
    x, y, z = np.linalg.cholesky(covariance) @ noise((3, 4000), 0)
    truth = (0.6 - 0.5 * 0.4) / math.sqrt((1 - 0.5**2) * (1 - 0.4**2))
    found = rc.partial_correlation(np.exp(x), y**3, [np.tanh(z)])
    assert found.low < truth < found.high
    assert found.value == pytest.approx(truth, abs=0.03)
    assert rc.partial_correlation(x, y, []).value == pytest.approx(0.6, abs=0.03)


def test_given_may_hold_the_same_variable_twice():
    x, y, z = noise((3, 60), 0)
    once, twice = (rc.partial_correlation(x, y, [z] * k) for k in (1, 2))
    assert twice.value == pytest.approx(once.value, abs=1e-6)
    with pytest.raises(ValueError, match="varies only with what is held fixed"):
        rc.partial_correlation(x, y, [z, np.exp(x)])


def test_holm_by_hand():
    p = [0.01, 0.04, 0.03, 0.005]
    assert rc.holm(p) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert rc.holm([0.6, 0.7]) == pytest.approx([1, 1])
    with pytest.raises(ValueError, match="expected numbers in"):
        rc.holm([1.2])


def test_holm_is_rarely_wrong_about_anything():
    rng = np.random.default_rng(0)
    wrong = [(rc.holm(rng.random(30)) < 0.05).any() for _ in range(1000)]
    assert np.mean(wrong) < 0.05 + 3.5 * math.sqrt(0.05 * 0.95 / 1000)
