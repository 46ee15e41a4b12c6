"""A mean over members, with the interval that says how far to trust it."""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from torch import Tensor

from flatlab.environment import needs


@dataclass(frozen=True)
class Interval:
    """A mean with its Student-t interval.

    As text it is ``62.1 ± 0.4``: ``f"{interval:.1f}"`` says how both are written, and
    ``f"{interval}"`` gives two digits of the half width.
    """

    mean: float | np.ndarray  # an array where there are further axes
    half_width: float | np.ndarray  # of the shape of mean; NaN for a single member
    n: int  # members behind it

    @property
    def low(self) -> float | np.ndarray:
        """Lower end of the interval."""
        return self.mean - self.half_width

    @property
    def high(self) -> float | np.ndarray:
        """Upper end of the interval."""
        return self.mean + self.half_width

    def __format__(self, spec: str) -> str:
        if not spec:
            known = self.half_width > 0  # neither 0 nor NaN
            size = self.half_width if known else abs(self.mean) / 10 or 1
            spec = f".{max(0, 1 - math.floor(math.log10(size)))}f"
        mean = format(self.mean, spec)
        if self.n == 1:
            return mean
        return f"{mean} ± {format(self.half_width, spec.lstrip('+'))}"

    def __str__(self) -> str:
        return f"{self}" if np.ndim(self.mean) == 0 else repr(self)


def mean_interval(values: Tensor | ArrayLike, level: float = 0.95) -> Interval:
    """Average over members with a Student-t interval.

    Args:
        values: array or tensor, shape (..., members), or a number for one member.
        level: probability with which such an interval holds the true mean, for
            independent Gaussian members.
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
    half = np.full_like(mean, np.nan)
    if n > 1:
        t = needs("scipy.special").stdtrit(n - 1, (1 + level) / 2)
        half = t * values.std(-1, ddof=1) / math.sqrt(n)
    if mean.ndim == 0:
        mean, half = float(mean), float(half)
    return Interval(mean, half, n)
