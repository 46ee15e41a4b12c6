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


# ---------------------------------------------------------------- one axis at a time


def test_pairs_differ_in_one_setting(grid):
    for axis in grid:
        i, j = rc.pairs_along(grid, axis)
        for name, values in grid.items():
            if name == axis:
                assert (values[i] < values[j]).all()
            else:
                assert (values[i] == values[j]).all()
        levels = len(LEVELS[axis])
        n = len(grid["a"])
        assert len(i) == n * (levels - 1) / 2
        assert len({*zip(i.tolist(), j.tolist(), strict=True)}) == len(i)


def test_a_grid_without_the_axis_is_refused(grid):
    with pytest.raises(ValueError, match="axis is 'd'"):
        rc.pairs_along(grid, "d")


# ----------------------------------------- populations with several training sets


SETTINGS = {"a": [0, 1, 2], "b": [0, 1], "c": [0, 1]}


@pytest.fixture(scope="module")
def networks():
    """Three kinds of training sets, four of each, two seeds of every setting."""
    rows = np.array(
        [*itertools.product(range(3), range(4), *SETTINGS.values(), range(2))]
    )
    kind, draw, *settings_, _ = rows.T
    return kind, 4 * kind + draw, dict(zip(SETTINGS, settings_, strict=True))


def population(networks, y):
    kind, sets, settings_ = networks
    return rc.Population(y, sets, settings_, kind)


def verdicts(networks, x, y):
    """What a pooled τ says, and what the analysis does."""
    found = population(networks, y)
    tau, partial = found.tau(x), found.partial(x)
    wrong = [c for c in found.changes(np.exp(x)) if c.wrong.low > 0.5]
    return {
        "pooled": np.sign(rc.kendall(x, y).value) * (rc.kendall(x, y).p_value < 1e-3),
        "within": (tau.low > 0) * 1.0 - (tau.high < 0),
        "partial": (partial.low > 0) * 1.0 - (partial.high < 0),
        "predicts": found.predict(x).r2 > 0.1,
        "wrong": sorted({c.axis for c in wrong}),
    }


def test_an_independent_measure(networks):
    kind, sets, by = networks
    y = 3 * kind + by["a"] + noise(len(sets), 0)
    found = verdicts(networks, noise(len(sets), 1), y)
    assert found == dict(pooled=0, within=0, partial=0, predicts=False, wrong=[])


def test_a_causal_measure(networks):
    _kind, sets, by = networks
    x = by["a"] + 0.5 * noise(len(sets), 0)
    y = x + 0.3 * noise(len(sets), 1) + 4 * noise(12, 2)[sets]
    found = verdicts(networks, x, y)
    assert (found["within"], found["partial"], found["predicts"]) == (1, 1, True)
    assert found["wrong"] == []
    # pooled, the training sets drown it
    alone = population(networks, y)
    assert alone.tau(x).value > 2 * abs(rc.kendall(x, y).value)


def test_a_measure_confounded_by_the_training_set(networks):
    _, sets, _by = networks
    level = noise(12, 0)[sets]
    x, y = (3 * level + noise(len(sets), i) for i in (1, 2))
    found = verdicts(networks, x, y)
    assert found == dict(pooled=1, within=0, partial=0, predicts=False, wrong=[])


def test_a_measure_that_training_sets_turn_round(networks):
    _, sets, _by = networks
    level, causal = noise(12, 0)[sets], noise(len(sets), 1)
    x, y = causal + 3 * level, causal - 3 * level + 0.3 * noise(len(sets), 2)
    found = verdicts(networks, x, y)
    assert found["pooled"] == -1 and found["within"] == found["partial"] == 1


def test_a_measure_confounded_by_a_setting_is_wrong_along_another(networks):
    _, sets, by = networks
    x = 3.0 * by["a"] - 1.0 * by["b"] + 0.2 * noise(len(sets), 0)
    y = 3.0 * by["a"] + 1.0 * by["b"] + 0.2 * noise(len(sets), 1)
    found = verdicts(networks, x, y)
    assert found["within"] == 1 and found["wrong"] == ["b"]
    given = population(networks, y).partial(x, [by["a"]])
    assert given.high < 0


def test_a_measure_confounded_by_the_number_of_examples():
    """A norm that grows with n within sets is right, across n wrong, over n right."""
    rows = np.array([*itertools.product([100, 400], range(8), range(4), range(2))])
    n, draw, a, _ = rows.T
    x = np.sqrt(n) * np.exp(0.1 * a + 0.01 * noise(len(n), 0))
    y = 0.3 * a - 3 * np.log10(n) + 0.05 * noise(len(n), 1)
    assert rc.kendall(x, y).high < 0
    inside = rc.Population(y, 1000 * n + draw, {"a": a})
    assert inside.tau(x).value > 0.8 and inside.tau(x).low > 0
    across = rc.Population(y, draw, {"n": n, "a": a})
    (raw,) = across.changes(x, ["n"])
    (over,) = across.changes(x / n, ["n"])
    assert raw.wrong.mean == 1 and over.wrong.mean == 0
    assert (raw.axis, raw.first, raw.last) == ("n", 100, 400)


def test_tau_within_is_the_mean_of_scipys(networks):
    _, sets, _by = networks
    x, y = gaussian_pairs(len(sets), 0.5, 0)
    each = [stats.kendalltau(x[sets == s], y[sets == s]).statistic for s in range(12)]
    found = population(networks, y)
    assert found.taus(x) == pytest.approx(each, abs=1e-6)
    assert found.tau(x).value == pytest.approx(np.mean(each), abs=1e-6)


def test_copies_of_a_setting_say_no_more_than_one():
    """Seeds that repeat their setting exactly do not narrow the interval."""
    sets, a = np.repeat(np.arange(6), 20), np.tile(np.arange(20), 6)
    x, y = gaussian_pairs(120, 0.5, 3)
    once = rc.Population(y, sets, {"a": a}, samples=1000).tau(x)
    copies = [np.tile(v, 4) for v in (x, y, sets, a)]
    x, y, sets, a = copies
    four = rc.Population(y, sets, {"a": a}, samples=1000).tau(x)
    assert four.standard_error == pytest.approx(once.standard_error, rel=0.25)


def test_the_noise_ceiling(networks):
    """A tenth of noise leaves the ceiling high, nine tenths leave nothing of it."""
    _, sets, by = networks
    truth = by["a"] + by["b"] + by["c"] + 0.0
    for spread, low, high in ((0.1, 0.9, 1), (10, -0.3, 0.1)):
        y = truth + spread * noise(len(sets), 0) + 5 * noise(12, 1)[sets]
        found = population(networks, y)
        assert low < found.ceiling().r2 < high
    # it never looks at the network itself, nor at its training set
    y = noise(len(sets), 2)
    moved = y.copy()
    moved[7] += 100
    before, after = (population(networks, v) for v in (y, moved))
    own = found.sets == found.sets[7]
    assert (after.expected() == before.expected())[own].all()
    assert (after.expected() != before.expected())[found.kinds == found.kinds[7]].any()


def test_two_measures_predict_what_neither_does(networks):
    _, sets, _by = networks
    x, z = noise((2, len(sets)), 0)
    y = x + z + 2 * noise(12, 1)[sets]
    found = population(networks, y)
    assert 0.3 < found.predict(x).r2 < 0.6 < 0.9 < found.predict(x, z).r2
    assert found.predict(x).signs == pytest.approx(0.75, abs=0.05)  # arcsin(√½) / π
    assert found.predict(x, z).signs > 0.85


def test_partial_correlation_of_gaussian_variables():
    # given z, x and y correlate by (r - a b) / sqrt((1 - a²)(1 - b²))
    covariance = np.array([[1, 0.6, 0.5], [0.6, 1, 0.4], [0.5, 0.4, 1]])
    x, y, z = np.linalg.cholesky(covariance) @ noise((3, 4000), 0)
    truth = (0.6 - 0.5 * 0.4) / math.sqrt((1 - 0.5**2) * (1 - 0.4**2))
    one = rc.Population(y**3, np.arange(4000) // 400, {"a": np.arange(4000) % 400})
    found = one.partial(np.exp(x), [np.tanh(z)])
    assert found.value == pytest.approx(truth, abs=0.04)
    assert one.partial(x).value == pytest.approx(0.6, abs=0.03)
    twice = one.partial(x, [z, z]).value
    assert twice == pytest.approx(one.partial(x, [z]).value, abs=1e-6)
    with pytest.raises(ValueError, match="varies only with what is held fixed"):
        one.partial(z, [np.exp(z)])


def test_what_does_not_fit_together_is_refused(networks):
    _, sets, by = networks
    with pytest.raises(ValueError, match="one value for each of"):
        rc.Population(np.zeros(5), sets, by)
    with pytest.raises(ValueError, match="NaN or infinite"):
        rc.Population(np.full(len(sets), np.nan), sets, by)


# --------------------------------------------------------------------- many questions


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
