"""A mean over members, with the interval that says how far to trust it."""

from dataclasses import dataclass
from functools import cache
from math import cos, pi, sin, sqrt, tan

import numpy as np
from torch import Tensor


@dataclass(frozen=True)
class Interval:
    """A mean with its Student-t interval.

    Attributes:
        mean: float, or array where there are further axes.
        half_width: of the interval, of the shape of ``mean``; NaN for a single member.
        n: number of members behind it.
    """

    mean: float | np.ndarray
    half_width: float | np.ndarray
    n: int

    @property
    def low(self):
        """Lower end of the interval, of the shape of ``mean``."""
        return self.mean - self.half_width

    @property
    def high(self):
        """Upper end of the interval, of the shape of ``mean``."""
        return self.mean + self.half_width


def mean_interval(values, level=0.95):
    """Average over members with a Student-t interval.

    Args:
        values: array or tensor, shape (..., members), or a number for one member.
        level: probability with which such an interval holds the true mean, for
            independent Gaussian members.

    Returns:
        An ``Interval`` over the leading axes.

    Raises:
        ValueError: there is no member, or a value is NaN or infinite; leave out
            members that diverged, and say so.
    """
    if isinstance(values, Tensor):
        values = values.detach().cpu().double().numpy()
    values = np.atleast_1d(np.asarray(values, dtype=np.float64))
    n = values.shape[-1]
    if n == 0:
        raise ValueError("there is no member to average over")
    if not np.isfinite(values).all():
        bad = int((~np.isfinite(values)).reshape(-1, n).any(0).sum())
        raise ValueError(
            f"{bad} of {n} members hold NaN or infinite values: leave out those that "
            "diverged"
        )
    mean = values.mean(-1)
    if n == 1:
        half = np.full_like(mean, np.nan)
    else:
        half = _t_quantile(n - 1, level) * values.std(-1, ddof=1) / sqrt(n)
    if mean.ndim == 0:
        mean, half = float(mean), float(half)
    return Interval(mean, half, n)


@cache
def _t_quantile(freedom, level):
    """The t with P(|T| <= t) = level, for whole degrees of freedom.

    With theta = atan(t / sqrt(freedom)) that probability is a finite sum (Abramowitz
    and Stegun 26.7.3 and 26.7.4), so halving an interval finds t to rounding and SciPy
    is not needed.
    """
    low, high = 0.0, pi / 2
    for _ in range(80):
        middle = (low + high) / 2
        if _t_probability(middle, freedom) < level:
            low = middle
        else:
            high = middle
    return tan((low + high) / 2) * sqrt(freedom)


def _t_probability(theta, freedom):
    s, c = sin(theta), cos(theta)
    odd = freedom % 2
    term, total = (c, 0.0) if odd else (1.0, 0.0)
    for j in range(2 + odd, freedom + 1, 2):
        total += term
        term *= c * c * (j - 1) / j
    return 2 / pi * (theta + s * total) if odd else s * total
