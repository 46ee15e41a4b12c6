"""Does a measure order networks by an outcome, and is it more than a shared cause?

All functions take one number per network. Only orders matter, so that a measure may be
replaced by its logarithm. How far to trust a number is found by drawing networks, or
whole groups of them, again (the bootstrap).
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
import torch

from flatlab.intervals import Interval, mean_interval

# Pairs of values that an environment needs to count.
FEWEST_PAIRS = 10


@dataclass(frozen=True)
class RankCorrelation:
    """A correlation with its bootstrap interval."""

    value: float  # between -1 and 1
    low: float
    high: float
    standard_error: float  # standard deviation over the draws
    p_value: float  # that there is none, two-sided, by the normal law
    n: int  # networks


@dataclass(frozen=True)
class Granulated:
    """Rank correlation along one setting at a time, all others held fixed."""

    value: float  # mean over the axes, between -1 and 1
    # of an interval for the value: the mean of those of the axes, which is too wide
    # rather than too narrow, as the axes share their networks
    half_width: float
    axes: dict[str, Interval]  # of every axis, over groups that differ in it alone


@dataclass(frozen=True)
class SignErrors:
    """How often a measure gets the direction of an intervention wrong."""

    # (axis, from, to): one setting changed, all others held fixed
    environments: tuple[tuple[str, object, object], ...]
    errors: np.ndarray  # (environments,) share of pairs ordered wrongly, ties half
    pairs: np.ndarray  # (environments,) number of pairs behind each

    @property
    def mean(self) -> float:
        """Average over environments, each counting alike."""
        return float(self.errors.mean())

    @property
    def worst(self) -> float:
        """The largest error of an environment: 1 is a measure that is always wrong."""
        return float(self.errors.max())

    @property
    def worst_environment(self) -> tuple[str, object, object]:
        """Where the largest error occurs."""
        return self.environments[int(self.errors.argmax())]


def _column(name: str, values, n: int | None = None) -> np.ndarray:
    values = np.asarray(values, dtype=np.float64)
    if values.ndim != 1 or len(values) < 3 or (n is not None and len(values) != n):
        raise ValueError(
            f"{name} has the shape {values.shape}, expected one number for each of "
            + (f"{n} networks" if n is not None else "at least three networks")
        )
    if not np.isfinite(values).all():
        raise ValueError(
            f"{name} has {int((~np.isfinite(values)).sum())} values that are NaN or "
            "infinite; leave these networks out, and say so"
        )
    return values


def _signs(values: np.ndarray) -> np.ndarray:
    """Signs of all differences: (n, n), 1 where the second value is larger."""
    return np.sign(values[None] - values[:, None]).astype(np.float32)


def _draws(n: int, clusters, samples: int, seed: int) -> np.ndarray:
    """How often each network occurs in each bootstrap sample: (samples, n)."""
    if clusters is None:
        clusters = np.arange(n)
    _, member = np.unique(np.asarray(clusters), return_inverse=True)
    if member.shape != (n,):
        raise ValueError(
            f"clusters has the shape {np.shape(clusters)}, expected one for each of "
            f"{n} networks"
        )
    count = member.max() + 1
    rng = np.random.default_rng(seed)
    times = rng.multinomial(count, np.full(count, 1 / count), size=samples)
    return times[:, member].astype(np.float32)


def _interval(value: float, draws: np.ndarray, level: float, n: int) -> RankCorrelation:
    draws = draws[np.isfinite(draws)]
    low, high = np.quantile(draws, [(1 - level) / 2, (1 + level) / 2])
    error = float(draws.std(ddof=1))
    z = abs(value) / error if error > 0 else math.inf
    return RankCorrelation(
        float(value), float(low), float(high), error, math.erfc(z / math.sqrt(2)), n
    )


def kendall(
    x, y, *, clusters=None, samples: int = 200, level: float = 0.95, seed: int = 0
) -> RankCorrelation:
    """Kendall's τ, corrected for ties (τ_b), with a bootstrap interval.

    τ is the share of pairs of networks that x and y order alike less the share that
    they order differently; τ_b divides by the geometric mean of the shares that x and
    that y can order at all.

    Args:
        x: (n,) measure.
        y: (n,) outcome.
        clusters: (n,) label of the group that each network is drawn with, for instance
            the seeds of one setting; by default each network by itself.
        samples: bootstrap samples.
        level: of the interval.
        seed: of the draws.
    """
    x, y = _column("x", x), _column("y", y, len(x))
    sx, sy = _signs(x), _signs(y)
    if not sx.any() or not sy.any():
        raise ValueError("all values are equal: there is nothing to order")
    draws = np.concatenate(
        [np.ones((1, len(x)), np.float32), _draws(len(x), clusters, samples, seed)]
    )

    def total(matrix):
        return ((draws @ matrix) * draws).sum(1, dtype=np.float64)

    with np.errstate(invalid="ignore", divide="ignore"):
        tau = total(sx * sy) / np.sqrt(total(np.abs(sx)) * total(np.abs(sy)))
    return _interval(tau[0], tau[1:], level, len(x))


def pairs_along(
    settings: Mapping[str, Sequence], axis: str
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Pairs of networks that differ in one setting and agree in all others.

    Args:
        settings: name to (n,) values, of every setting.
        axis: name of the one that differs.

    Returns:
        First and second networks, with the smaller value of the setting first, and the
        group that each pair belongs to, all (pairs,) whole numbers.
    """
    if axis not in settings:
        raise ValueError(f"axis is {axis!r}, expected one of {list(settings)}")
    others = [_codes(v) for name, v in settings.items() if name != axis]
    own = _codes(settings[axis])
    rows = np.stack(others, 1) if others else np.zeros((len(own), 1), int)
    _, group = np.unique(rows, axis=0, return_inverse=True)
    group = group.ravel()
    order = np.lexsort((own, group))
    first, second = [], []
    for step in range(1, int(np.bincount(group).max())):
        i, j = order[:-step], order[step:]
        keep = (group[i] == group[j]) & (own[i] != own[j])
        first.append(i[keep])
        second.append(j[keep])
    empty = np.empty(0, dtype=np.intp)
    first, second = np.concatenate([empty, *first]), np.concatenate([empty, *second])
    return first, second, group[first]


def _codes(values) -> np.ndarray:
    return np.unique(np.asarray(values), return_inverse=True)[1].ravel()


def granulated(
    x, y, settings: Mapping[str, Sequence], *, level: float = 0.95
) -> Granulated:
    """Granulated rank correlation: τ along each setting, all others held fixed.

    Networks that differ in one setting alone form a group; τ is averaged over the
    groups of a setting (ψ), and ψ over the settings (Ψ). A measure that only follows
    one setting, such as the width, is good along that axis and useless along the rest
    (Jiang et al. 2020, section 3).

    Args:
        x: (n,) measure.
        y: (n,) outcome.
        settings: name to (n,) values. Settings in which no two networks differ alone
            have no axis.
        level: of the intervals over groups.
    """
    x, y = _column("x", x), _column("y", y, len(x))
    axes = {}
    for axis in settings:
        i, j, group = pairs_along(settings, axis)
        if not len(i):
            continue
        agree = np.sign(x[j] - x[i]) * np.sign(y[j] - y[i])
        _, place = np.unique(group, return_inverse=True)
        tau = np.bincount(place, agree) / np.bincount(place)
        axes[axis] = mean_interval(tau, level)
    if not axes:
        raise ValueError("no two networks differ in one setting alone")
    found = [(a.mean, a.half_width) for a in axes.values()]
    value, half = np.mean(found, axis=0)
    return Granulated(float(value), float(half), axes)


def conditional_independence(
    x, y, settings: Mapping[str, Sequence], *, most: int = 2
) -> tuple[float, tuple[str, ...]]:
    """How much the order by x tells about the order by y beyond any few settings.

    For pairs of networks let V_x and V_y say which of the two has the larger value.
    Given the values U_S that both networks have of a set S of settings, the mutual
    information I(V_x; V_y | U_S) is divided by H(V_y | U_S); the score is the smallest
    over all S of up to ``most`` settings. It is 0 where some few settings explain the
    whole correlation, and 1 where x orders all pairs as y does (Jiang et al. 2020,
    section 3, after the inductive causation algorithm).

    The direction of the dependence does not matter: a measure that is always wrong
    scores 1 as well. The estimate is a little above 0 where the truth is 0.

    Args:
        x: (n,) measure.
        y: (n,) outcome.
        settings: name to (n,) values.
        most: settings in S.

    Returns:
        The score, and the S where it is attained.
    """
    x, y = _column("x", x), _column("y", y, len(x))
    sx, sy = _signs(x), _signs(y)
    able = ((sx != 0) & (sy != 0)).astype(np.float32)
    alike, sx, sy = sx * sy, sx * able, sy * able
    codes = {name: _codes(values) for name, values in settings.items()}
    codes = {name: c for name, c in codes.items() if c.max() > 0}
    best = (math.inf, ())
    for size in range(min(most, len(codes)) + 1):
        for names in combinations(codes, size):
            cell = np.zeros(len(x), int)
            for name in names:
                cell = cell * (codes[name].max() + 1) + codes[name]
            where = np.eye(cell.max() + 1, dtype=np.float32)[_codes(cell)]
            sums = [where.T @ (m @ where) for m in (able, alike, sx, sy)]
            best = min(best, (_normalised_information(*sums), names))
    return best


def _normalised_information(n, alike, sx, sy) -> float:
    """I(V_x; V_y | U) / H(V_y | U) from sums of signs over the pairs of every U."""
    n, alike, sx, sy = (np.asarray(m, np.float64).ravel() for m in (n, alike, sx, sy))
    joint = np.stack(
        [(n + a * sx + b * sy + a * b * alike) / 4 for a in (-1, 1) for b in (-1, 1)]
    ).reshape(2, 2, -1)

    def entropy(counts):  # of V given U, times the number of pairs
        counts = counts.clip(0)
        with np.errstate(divide="ignore", invalid="ignore"):
            return -np.nansum(counts * np.log(counts / n))

    h_x, h_y = entropy(joint.sum(1)), entropy(joint.sum(0))
    return float((h_x + h_y - entropy(joint)) / h_y) if h_y > 0 else 0.0


def sign_errors(
    x, y, settings: Mapping[str, Sequence], *, resolution: float = 0.0
) -> SignErrors:
    """Wrong directions under each intervention on one setting.

    An environment is a change of one setting from one value to another. Its error is
    the share of pairs of networks, equal but for that change, which x and y order
    differently; 0.5 is guessing. What holds on average may fail in one environment,
    so the largest error counts (Dziugaite et al. 2020, sections 2 and 4, who weigh
    pairs by how sure the order of y is; here pairs whose y differs by less than
    ``resolution`` are left out).

    Args:
        x: (n,) measure.
        y: (n,) outcome.
        settings: name to (n,) values.
        resolution: difference of y below which its sign is not known.
    """
    x, y = _column("x", x), _column("y", y, len(x))
    found = []
    for axis, values in settings.items():
        values = np.asarray(values)
        i, j, _ = pairs_along(settings, axis)
        clear = np.abs(y[j] - y[i]) > resolution
        i, j = i[clear], j[clear]
        ends = list(zip(values[i].tolist(), values[j].tolist(), strict=True))
        wrong = 0.5 - 0.5 * np.sign(x[j] - x[i]) * np.sign(y[j] - y[i])
        for change in sorted(set(ends)):
            here = np.array([end == change for end in ends])
            if here.sum() >= FEWEST_PAIRS:
                found.append(((axis, *change), wrong[here].mean(), here.sum()))
    if not found:
        raise ValueError(
            f"no change of one setting has {FEWEST_PAIRS} pairs of networks whose "
            f"outcomes differ by more than {resolution}"
        )
    environments, errors, pairs = zip(*found, strict=True)
    return SignErrors(environments, np.array(errors), np.array(pairs))


def partial_correlation(
    x,
    y,
    given: Sequence,
    *,
    clusters=None,
    samples: int = 200,
    level: float = 0.95,
    seed: int = 0,
) -> RankCorrelation:
    """Correlation of x and y that is left when other numbers are held fixed.

    Every variable is replaced by its normal scores (the normal quantiles of its
    ranks), so that only orders matter; then the part that is linear in the scores of
    ``given`` is taken out of x and y, and what is left is correlated.

    Args:
        x: (n,) measure.
        y: (n,) outcome.
        given: (n,) variables to hold fixed.
        clusters: as for ``kendall``.
        samples: bootstrap samples; scores are not computed anew for each.
        level: of the interval.
        seed: of the draws.
    """
    x = _column("x", x)
    others = [_column("a variable of given", v, len(x)) for v in given]
    scores = np.stack([_normal_scores(v) for v in (x, _column("y", y, len(x)))])
    scores = np.concatenate([scores, *[_normal_scores(v)[None] for v in others]])
    draws = np.concatenate(
        [np.ones((1, len(x))), _draws(len(x), clusters, samples, seed)]
    )
    draws = draws / draws.sum(1, keepdims=True)
    mean = draws @ scores.T
    second = np.einsum("bn,in,jn->bij", draws, scores, scores, optimize=True)
    covariance = second - mean[:, :, None] * mean[:, None]
    # of x and y given the rest: the Schur complement
    rest = np.linalg.pinv(covariance[:, 2:, 2:], hermitian=True)
    left = covariance[:, :2, :2] - (
        covariance[:, :2, 2:] @ rest @ covariance[:, 2:, :2]
    )
    if (np.diagonal(left[0]) < 1e-9).any():
        raise ValueError("x or y varies only with what is held fixed")
    with np.errstate(invalid="ignore", divide="ignore"):
        r = left[:, 0, 1] / np.sqrt(left[:, 0, 0] * left[:, 1, 1])
    return _interval(r[0], r[1:], level, len(x))


def _normal_scores(values: np.ndarray) -> np.ndarray:
    order = np.sort(values)
    first = np.searchsorted(order, values, "left")
    last = np.searchsorted(order, values, "right")
    share = (first + last) / (2 * len(values))  # ties get their mean rank
    return torch.special.ndtri(torch.from_numpy(share)).numpy()


def holm(p_values) -> np.ndarray:
    """Holm's correction: p-values that allow for the number of hypotheses.

    Calling those below α real is wrong about any of them with probability at most α,
    however the tests depend on each other (Holm 1979).

    Args:
        p_values: (hypotheses,).

    Returns:
        (hypotheses,) adjusted p-values, at least the given ones and at most 1.
    """
    p = np.asarray(p_values, dtype=np.float64)
    if p.ndim != 1 or not ((p >= 0) & (p <= 1)).all():
        raise ValueError(f"p-values are {p_values}, expected numbers in [0, 1]")
    order = np.argsort(p)
    stepped = np.maximum.accumulate((len(p) - np.arange(len(p))) * p[order])
    adjusted = np.empty_like(p)
    adjusted[order] = stepped.clip(max=1)
    return adjusted
