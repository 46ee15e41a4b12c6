"""Does a measure order networks by an outcome, and is it more than a shared cause?

Only orders matter, so that a measure may be replaced by its logarithm. What is compared
is compared **within training sets**: a pair of networks that learned different examples
says as much about the examples as about the networks. How far to trust a number is
found by drawing training sets and settings again (the bootstrap).
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch

from flatlab.intervals import Interval, mean_interval


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
class Change:
    """What goes with a change of one setting, all others and the training set fixed."""

    axis: str
    first: object
    last: object
    measure: Interval  # mean difference of the measure's normal scores within sets
    outcome: Interval  # mean difference of the outcome
    wrong: Interval  # share of pairs that measure and outcome order differently

    def __str__(self) -> str:
        ends = (
            f"{v:g}" if isinstance(v, float) else v for v in (self.first, self.last)
        )
        return f"{self.axis.replace('_', ' ')} {' → '.join(map(str, ends))}"


@dataclass(frozen=True)
class Prediction:
    """How well an outcome is predicted for settings that the fit has not seen."""

    r2: float  # share of the variance within training sets
    signs: float  # share of pairs within training sets in the right order


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


def _codes(values) -> np.ndarray:
    return np.unique(np.asarray(values), return_inverse=True)[1].ravel()


def _cells(*columns) -> np.ndarray:
    """One number per combination of values."""
    rows = np.stack([_codes(c) for c in columns], 1)
    return np.unique(rows, axis=0, return_inverse=True)[1].ravel()


def _times(count: int, samples: int, rng: np.random.Generator) -> np.ndarray:
    """How often each of ``count`` is drawn: a row of ones, then the samples."""
    drawn = rng.multinomial(count, np.full(count, 1 / count), size=samples)
    return np.concatenate([np.ones((1, count)), drawn]).astype(np.float32)


def _tau(x: np.ndarray, y: np.ndarray, times: np.ndarray) -> np.ndarray:
    """τ_b of networks that occur so often, (samples, n): (samples,)."""
    sx, sy = _signs(x), _signs(y)

    def total(matrix):
        return ((times @ matrix) * times).sum(1, dtype=np.float64)

    with np.errstate(invalid="ignore", divide="ignore"):
        return total(sx * sy) / np.sqrt(total(np.abs(sx)) * total(np.abs(sy)))


def _interval(found: np.ndarray, n: int) -> RankCorrelation:
    value, draws = float(found[0]), found[1:][np.isfinite(found[1:])]
    low, high = np.quantile(draws, [0.025, 0.975]).tolist()
    error = float(draws.std(ddof=1))
    z = abs(value) / error if error > 0 else math.inf
    return RankCorrelation(value, low, high, error, math.erfc(z / math.sqrt(2)), n)


def kendall(x, y, *, samples: int = 200, seed: int = 0) -> RankCorrelation:
    """Kendall's τ, corrected for ties (τ_b), over networks drawn again.

    τ is the share of pairs of networks that x and y order alike less the share that
    they order differently; τ_b divides by the geometric mean of the shares that x and
    that y can order at all.

    Args:
        x: (n,) measure.
        y: (n,) outcome.
        samples: bootstrap samples.
        seed: of the draws.
    """
    x, y = _column("x", x), _column("y", y, len(x))
    if np.ptp(x) == 0 or np.ptp(y) == 0:
        raise ValueError("all values are equal: there is nothing to order")
    times = _times(len(x), samples, np.random.default_rng(seed))
    return _interval(_tau(x, y, times), len(x))


def pairs_along(
    settings: Mapping[str, Sequence], axis: str
) -> tuple[np.ndarray, np.ndarray]:
    """Pairs of networks that differ in one setting and agree in all others.

    Args:
        settings: name to (n,) values, of every setting.
        axis: name of the one that differs.

    Returns:
        Positions of the first and second networks, (pairs,) each, with the smaller
        value of the setting first.
    """
    if axis not in settings:
        raise ValueError(f"axis is {axis!r}, expected one of {list(settings)}")
    others = [v for name, v in settings.items() if name != axis]
    own = _codes(settings[axis])
    group = _cells(*others) if others else np.zeros(len(own), int)
    order = np.lexsort((own, group))
    found = [np.empty((2, 0), dtype=np.intp)]
    for step in range(1, int(np.bincount(group).max())):
        i, j = order[:-step], order[step:]
        keep = (group[i] == group[j]) & (own[i] != own[j])
        found.append(np.stack([i[keep], j[keep]]))
    first, second = np.concatenate(found, 1)
    return first, second


@dataclass(frozen=True, eq=False)
class Population:
    """Networks of many settings, trained on several training sets, with one outcome.

    Every statistic compares networks of one training set and averages over the sets,
    each counting alike. Intervals draw both again, sets and settings: they speak of new
    training sets of these kinds, and of new settings from where these come from.
    """

    outcome: np.ndarray  # (n,)
    sets: np.ndarray  # (n,) label of the training set
    settings: Mapping[str, np.ndarray]  # name to (n,) values
    kinds: np.ndarray | None = None  # (n,) sets of one kind differ by the draw alone
    samples: int = 200

    def __post_init__(self) -> None:
        n = len(self.outcome)
        _column("outcome", self.outcome)
        if len(self.sets) != n or any(len(v) != n for v in self.settings.values()):
            raise ValueError(f"sets and settings must have one value for each of {n}")

    @cached_property
    def setting(self) -> np.ndarray:
        """(n,) a number per combination of settings."""
        return _cells(*self.settings.values())

    @cached_property
    def _parts(self) -> list[np.ndarray]:
        codes = _codes(self.sets)
        return [np.flatnonzero(codes == s) for s in range(codes.max() + 1)]

    @cached_property
    def _drawn(self) -> tuple[np.ndarray, np.ndarray]:
        """How often sets, and how often settings, occur in each sample."""
        rng = np.random.default_rng(0)
        sets = _times(len(self._parts), self.samples, rng)
        return sets, _times(self.setting.max() + 1, self.samples, rng)

    def within(self, values) -> np.ndarray:
        """Normal scores of the values among the networks of the same training set."""
        values = _column("values", values, len(self.outcome))
        scores = np.zeros(len(values))
        for part in self._parts:
            scores[part] = _normal_scores(values[part])
        return scores

    def taus(self, x) -> np.ndarray:
        """Kendall's τ_b of x and the outcome in every training set: (sets,)."""
        x = _column("x", x, len(self.outcome))
        ones = np.ones((1, len(x)), np.float32)
        return np.array(
            [_tau(x[p], self.outcome[p], ones[:, p])[0] for p in self._parts]
        )

    def tau(self, x) -> RankCorrelation:
        """Kendall's τ_b of x and the outcome within training sets, averaged."""
        x = _column("x", x, len(self.outcome))
        sets, drawn = self._drawn
        taus = (
            _tau(x[p], self.outcome[p], drawn[:, self.setting[p]]) for p in self._parts
        )
        each = np.stack([*taus], 1)
        known = np.isfinite(each)
        if not known[0].any():
            raise ValueError("all values of a training set are equal")
        found = (np.where(known, each, 0) * sets).sum(1) / (known * sets).sum(1)
        return _interval(found, len(x))

    def partial(self, x, given: Sequence = ()) -> RankCorrelation:
        """Correlation of x and the outcome left when other numbers are held fixed.

        Every variable is replaced by its normal scores within the training set, so that
        only orders matter and the set is held fixed; then the part that is linear in
        the scores of ``given`` is taken out of both, and what is left is correlated.
        """
        columns = [self.within(v) for v in (x, self.outcome, *given)]
        scores = np.stack(columns)
        sets, drawn = self._drawn
        times = sets[:, _codes(self.sets)] * drawn[:, self.setting]
        times = times / times.sum(1, keepdims=True)
        mean = times @ scores.T
        second = np.einsum("bn,in,jn->bij", times, scores, scores, optimize=True)
        covariance = second - mean[:, :, None] * mean[:, None]
        # of x and the outcome given the rest: the Schur complement
        rest = np.linalg.pinv(covariance[:, 2:, 2:], hermitian=True)
        cross = covariance[:, :2, 2:]
        left = covariance[:, :2, :2] - cross @ rest @ cross.transpose(0, 2, 1)
        if (np.diagonal(left[0]) < 1e-9).any():
            raise ValueError("x or the outcome varies only with what is held fixed")
        with np.errstate(invalid="ignore", divide="ignore"):
            found = left[:, 0, 1] / np.sqrt(left[:, 0, 0] * left[:, 1, 1])
        return _interval(found, scores.shape[1])

    def expected(self) -> np.ndarray:
        """What the settings alone say of the outcome: the noise ceiling, (n,).

        Fitted to the networks of the *other* training sets of the same kind: effects of
        every setting and of every two together, a little shrunk (ridge). A function of
        the settings does hardly better; a measure can, as it sees the network itself
        and with it the luck of the seed.
        """
        kinds = _codes(np.zeros(len(self.sets)) if self.kinds is None else self.kinds)
        y, sets = self._standard(self.outcome), _codes(self.sets)
        axes = [_codes(v) for v in self.settings.values()]
        axes += [_cells(a, b) for i, a in enumerate(axes) for b in axes[:i]]
        design = np.concatenate([np.eye(c.max() + 1)[c] for c in axes], 1)
        found = np.zeros(len(y))  # the mean of the set, where there is no other
        for part in self._parts:
            here = kinds == kinds[part[0]]
            others = here & (sets != sets[part[0]])
            if others.any():
                rows = design[others]
                square = rows.T @ rows + np.eye(rows.shape[1])
                found[part] = design[part] @ np.linalg.solve(square, rows.T @ y[others])
        return found

    def predict(self, *measures) -> Prediction:
        """Fit the outcome linearly in measures, and judge settings left out.

        Measures enter as normal scores and the outcome in standard deviations, both
        within training sets. A sixth of the settings is left out at a time.
        """
        y = self._standard(self.outcome)
        design = np.stack([self.within(m) for m in measures], 1)
        order = np.random.default_rng(0).permutation(self.setting.max() + 1)
        fold = order[self.setting] % 6
        guess = np.zeros(len(y))
        for f in range(6):
            out = fold == f
            slopes = np.linalg.lstsq(design[~out], y[~out], rcond=None)[0]
            guess[out] = design[out] @ slopes
        right, pairs = 0.0, 0.0
        for part in self._parts:
            a, b = _signs(guess[part]), _signs(y[part])
            able = np.abs(b) * (fold[part][:, None] == fold[part])
            able = able * (self.setting[part][:, None] != self.setting[part])
            right += (able * (1 + a * b) / 2).sum()
            pairs += able.sum()
        r2 = 1 - ((y - guess) ** 2).sum() / (y**2).sum()
        return Prediction(float(r2), float(right / pairs))

    def ceiling(self) -> Prediction:
        """The same judgement of what the settings alone can say."""
        return self.predict(self.expected())

    def _standard(self, values) -> np.ndarray:
        codes = _codes(self.sets)
        centred = values - _means(values, codes)
        return centred / np.sqrt(_means(centred**2, codes))

    def changes(self, x, axes: Sequence[str] | None = None) -> list[Change]:
        """What goes with every change of one setting, by training set.

        Pairs differ in one setting alone; the means of the training sets are averaged,
        and intervals are over them.
        """
        scores, x = self.within(x), np.asarray(x, dtype=np.float64)
        fixed = {**self.settings, "set": self.sets}
        found = []
        for axis in axes or self.settings:
            i, j = pairs_along(fixed, axis)
            ends = np.asarray(self.settings[axis])
            dx, dy = scores[j] - scores[i], self.outcome[j] - self.outcome[i]
            wrong = 0.5 - 0.5 * np.sign(x[j] - x[i]) * np.sign(dy)
            pairs = zip(ends[i].tolist(), ends[j].tolist(), strict=True)
            for first, last in sorted({*pairs}):
                here = (ends[i] == first) & (ends[j] == last)
                where = _codes(np.asarray(self.sets)[i[here]])
                means = [
                    mean_interval(np.bincount(where, v[here]) / np.bincount(where))
                    for v in (dx, dy, wrong)
                ]
                found.append(Change(axis, first, last, *means))
        return found


def _means(values: np.ndarray, codes: np.ndarray) -> np.ndarray:
    """Mean of every network's group, at every network."""
    return (np.bincount(codes, values) / np.bincount(codes))[codes]


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
