"""Noise on the weights: how much is tolerated, and how few bits are enough.

A flat minimum needs few bits to be written down: that is the link from flatness to
description length (Hochreiter and Schmidhuber 1997; Hinton and van Camp 1993).
"""

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import chain, islice
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_map

from flatlab.loss import Loss
from flatlab.network import Layout, over_members
from flatlab.progress import progress

# Weights and points evaluated at once. Measured on a CPU: nets of 10,000 weights gain
# from being evaluated together, nets of 100,000 lose.
GROUP_NUMBERS = {"cpu": 2**17, "other": 2**26}
MOST_POINTS = {"cpu": 16, "other": 1024}
# Examples x networks of one evaluation on a CPU: beyond it the activations leave the
# cache, and 64 nets together take longer than one after another.
MOST_ROWS = 2**13
# Widths tried: from fine to coarse by whole bits, then by this fraction of a bit.
_MOST_BITS = 16
_PARTS = 16


def wide(w: Tensor) -> Tensor:
    """Weights in float32 at least: a rise is lost in the rounding of a half."""
    return w.to(torch.promote_types(w.dtype, torch.float32))


def at_points(loss: Loss, measure: Callable, points: Iterable[Tensor]) -> Any:
    """A measure at several points per member, many evaluated as one ensemble.

    ``measure`` takes (members, k) to (members, ...), or a tuple of such; with points in
    place of members where labels are shared. Returns (points, members, ...).
    """
    found = []
    for group in _groups(points):
        if loss.own_labels:  # which member a point belongs to must be seen
            found.append(measure(group))
            continue
        flat, size = group.flatten(0, 1), group[..., 0].numel()
        if flat.is_cpu:
            most = GROUP_NUMBERS["cpu"] // flat.shape[-1]
            size = max(1, min(MOST_ROWS // loss.n, most))
        parts = [measure(part) for part in flat.split(size)]
        whole = tree_map(lambda *p: torch.cat(p), *parts)
        found.append(tree_map(lambda t, g=group: t.unflatten(0, g.shape[:2]), whole))
    return tree_map(lambda *p: torch.cat(p), *found)


def _groups(points: Iterable[Tensor]) -> Iterator[Tensor]:
    """As many points as are worth evaluating together, (points, members, k)."""
    first = next(points := iter(points))
    kind = "cpu" if first.is_cpu else "other"
    most = max(1, min(MOST_POINTS[kind], GROUP_NUMBERS[kind] // first.numel()))
    points = chain([first], points)
    while group := [*islice(points, most)]:
        yield torch.stack(group)


class Noise:
    """Standard normal vectors of k numbers, the same for all members, by position."""

    def __init__(self, w: Tensor, seed: int) -> None:
        self.like, self._drawn = w, []
        self._generator = torch.Generator("cpu").manual_seed(seed)

    def __getitem__(self, i: int) -> Tensor:
        how = {"dtype": torch.float32, "device": "cpu", "generator": self._generator}
        while len(self._drawn) <= i:
            z = torch.randn(self.like.shape[-1], **how)
            self._drawn.append(z.to(self.like))
        return self._drawn[i]


def rises(
    loss: Loss,
    measure: Callable[[Tensor], Tensor],
    w: Tensor,
    base: Tensor,
    scale: Tensor,
    noise: Noise,
    pairs: int,
) -> Tensor:
    """Rise of a measure over ``base`` at w under noise, (pairs, members).

    Each draw is averaged with its mirror image, which cancels the slope at w exactly.
    ``scale``, (members, k) or (members, 1), is the deviation of every coordinate.
    """
    signed = (w + s * scale * noise[i] for i in range(pairs) for s in (1, -1))
    values = at_points(loss, measure, signed)
    return values.unflatten(0, (pairs, 2)).mean(1) - base


def largest_sigma(
    rise_at: Callable[[Tensor], tuple[Tensor, Tensor]],
    target: float,
    start: Tensor,
    tol: float = 1e-3,
) -> tuple[Tensor, Tensor, Tensor]:
    """Per member, the largest noise whose mean rise does not exceed a target.

    The noise grows from ``start`` until the target is first exceeded; the bracket is
    then narrowed to ``tol`` by interpolation on logarithmic axes. ``rise_at`` gives
    rises and their errors. Returns the noise (infinite where none is too much, 0 where
    every one is), its error, and the rise there.
    """
    sigma = start.clone()
    # noise, rise and error below the target, noise and rise above it
    low, rise_low, error_low = below = torch.zeros(3, *start.shape).to(start)
    high, rise_high = above = torch.full_like(below[:2], torch.inf)
    for step in progress(range(60), "tolerated noise"):
        rise, error = rise_at(sigma)
        meets = rise <= target  # False for NaN
        low, rise_low, error_low = below = torch.where(
            meets, torch.stack([sigma, rise, error]), below
        )
        high, rise_high = above = torch.where(meets, above, torch.stack([sigma, rise]))
        done = high <= low * (1 + tol)
        if bool(done.all()):
            break
        # at small noise the rise grows as sigma squared
        law = (target / rise.clamp_min(1e-30)).sqrt().nan_to_num(0.0)
        wider = sigma * (1.1 * law).clamp(1.2, 4)
        narrower = sigma * (0.9 * law).clamp(1 / 16, 0.8)
        span = (high / low).log()
        share = (target / rise_low).log() / (rise_high / rise_low).log()
        usable = share.isfinite() & (rise_low > 0) & (step % 3 != 2)
        # a margin around the guess closes the bracket from both sides
        aim = torch.where(usable, share, 0.5)
        aim = aim + 0.3 * tol / span * (1 if step % 2 else -1)
        inside = low * (span * aim.clamp(0.02, 0.98)).exp()
        sigma = torch.where(done, low, inside)
        sigma = torch.where(high.isinf(), wider, sigma)
        sigma = torch.where(low == 0, narrower, sigma)
    bracketed = high.isfinite() & (low > 0)
    probe = torch.where(bracketed, 1.05 * low, start)
    slope = (rise_at(probe)[0] - rise_low) / (probe - low)
    value = torch.where(high.isinf(), high, low)
    # a rise of one draw in many, or of none, says nothing of where the mean's would be
    known = bracketed & (slope > 0) & (2 * error_low < rise_low)
    error = torch.where(known, error_low / slope, torch.nan)
    return value, error, rise_low


def check_samples(samples: int) -> None:
    """Raise unless antithetic samples are enough for a standard error."""
    if samples < 4 or samples % 2:
        raise ValueError(
            f"samples is {samples}, expected an even number of at least 4 (they come "
            "in pairs, and one pair has no standard error)"
        )


def _check_rise(rise: float) -> None:
    if not 0 < rise < math.inf:
        raise ValueError(f"the rise allowed is {rise}, expected a positive number")


def check_same(first: Tensor, second: Tensor) -> None:
    """Raise where two evaluations at the same w differ by more than rounding."""
    most = torch.finfo(first.dtype).eps ** 0.5 * (1 + first.abs())
    if bool(((first - second).abs() > most).any()):
        raise ValueError(
            f"two evaluations at the same weights give {first.tolist()} and "
            f"{second.tolist()}: the network draws at random, or computes something "
            "else where gradients are asked for; its noise would count as sharpness"
        )


@dataclass(frozen=True)
class Tolerated:
    """The largest Gaussian noise on the weights under which a measure stays in bounds.

    All is NaN where the measure at w is no finite number.
    """

    values: Tensor  # (members,) what was asked for: sigma, or 1 / sigma squared
    # (members,) in units of w or, if relative, as a share of each weight's absolute
    # value; infinite where no noise is too much
    sigma: Tensor
    # (members,) of sigma, from the draws and the local slope; NaN where hardly a draw
    # rises, and more samples are needed
    standard_error: Tensor
    rise: Tensor  # (members,) mean rise at sigma


def _tolerated(
    loss: Loss,
    measure: Callable[[Tensor], Tensor],
    w: Tensor,
    scale: Callable[[Tensor], Tensor],
    relative: bool,
    rise: float,
    samples: int,
    seed: int,
) -> Tolerated:
    """Largest sigma whose noise ``scale(sigma)`` keeps the mean rise of a measure."""
    check_samples(samples)
    _check_rise(rise)
    noise, base, pairs = Noise(w, seed), measure(w), samples // 2
    check_same(base, measure(w))
    start = torch.full_like(w[:, 0], 0.1)
    if not relative:
        start = start * w.square().mean(-1).sqrt().clamp_min(1e-3)

    def rise_at(sigma: Tensor) -> tuple[Tensor, Tensor]:
        drawn = rises(loss, measure, w, base, scale(sigma), noise, pairs)
        return drawn.mean(0), drawn.std(0) / math.sqrt(pairs)

    found = largest_sigma(rise_at, rise, start)
    sigma, error, at_sigma = (t.where(base.isfinite(), torch.nan) for t in found)
    return Tolerated(sigma, sigma, error, at_sigma)


@over_members
def tolerated_noise(
    loss: Loss,
    w: Tensor,
    rise: float = 0.1,
    *,
    relative: bool = False,
    samples: int = 32,
    seed: int = 0,
) -> Tolerated:
    """Largest Gaussian noise on the weights whose mean rise of the loss is ``rise``.

    Absolute noise is N(0, sigma²) on every weight; relative noise is N(0, sigma² w_i²),
    which is unchanged by a rescaling of layers or units that leaves the function as it
    is. To second order the mean rise is ½ sigma² Σ t_i² H_ii with t_i = 1 or
    ``|w_i|``.

    Args:
        loss: the surface.
        w: (..., k).
        rise: of the loss, positive.
        relative: whether the noise is proportional to the weights.
        samples: evaluations at every sigma, an even number of at least 4.
        seed: of the draws.
    """
    w = wide(w)

    def scale(sigma: Tensor) -> Tensor:
        return sigma[:, None] * (w.abs() if relative else 1)

    return _tolerated(loss, loss, w, scale, relative, rise, samples, seed)


@over_members
def pac_bayes_sharpness(
    loss: Loss,
    w: Tensor,
    *,
    deviation: float = 0.1,
    magnitude_aware: bool = False,
    floor: float = 1e-3,
    measure: str = "accuracy",
    samples: int = 16,
    seed: int = 0,
) -> Tolerated:
    """The sharpness 1 / sigma² of PAC-Bayes bounds, for the largest tolerated sigma.

    sigma is the largest standard deviation of Gaussian noise under which the training
    accuracy falls, or the loss rises, by no more than ``deviation`` on average. The
    noise is N(0, sigma²) on every weight, or, where magnitude-aware,
    N(0, sigma² w_i² + floor²) (Jiang et al. 2020, sections C.2 and C.3).

    Args:
        loss: the surface.
        w: (..., k).
        deviation: fall of the accuracy (a fraction) or rise of the loss allowed.
        magnitude_aware: whether the noise is proportional to the weights.
        floor: absolute noise under the magnitude-aware one, so that zero weights move.
        measure: "accuracy" or "loss".
        samples: evaluations at every sigma, an even number of at least 4.
        seed: of the draws.
    """
    if measure not in ("accuracy", "loss"):
        raise ValueError(f"measure is {measure!r}, expected 'accuracy' or 'loss'")
    w = wide(w)

    def value(points: Tensor) -> Tensor:
        return loss(points) if measure == "loss" else -loss.accuracy(points)

    def scale(sigma: Tensor) -> Tensor:
        if not magnitude_aware:
            return sigma[:, None]
        return ((sigma[:, None] * w).square() + floor**2).sqrt()

    found = _tolerated(loss, value, w, scale, magnitude_aware, deviation, samples, seed)
    return replace(found, values=found.sigma**-2)


@dataclass(frozen=True)
class Precision:
    """The coarsest grid on which the weights may be written."""

    bits: Tensor  # (members,) per weight, log2 of levels; ∞ where 16 are not enough
    levels: Tensor  # (members,) points of every parameter's grid
    rise: Tensor  # (members,) of the loss at that many levels
    # (members,) on the next coarser grid that was tried, which is too much; NaN where
    # even two levels are enough
    rise_coarser: Tensor
    total: Tensor  # (members,) bits for all weights together


def quantise(w: Tensor, layout: Layout, levels: int | Tensor) -> Tensor:
    """Weights rounded to a symmetric grid, one grid for each parameter tensor.

    The grid of a parameter has ``levels`` equally spaced points from -m to m, with m
    the largest absolute value in it: log2(levels) bits per weight. Odd numbers of
    levels contain zero.

    Args:
        w: (..., k).
        layout: the network's, ``net.layout``.
        levels: an integer of at least 2, or (members,) integers.
    """
    if w.shape[-1] != layout.k:
        raise ValueError(
            f"w has shape {tuple(w.shape)}, expected a last axis of {layout.k}"
        )
    levels = torch.as_tensor(levels, device=w.device)
    if levels.is_floating_point() or not bool((levels >= 2).all()):
        raise ValueError(f"levels is {levels}, expected integers of at least 2")
    if levels.shape not in ((), w.shape[:-1]):
        raise ValueError(
            f"levels has shape {tuple(levels.shape)}, expected one number or one for "
            "each member"
        )
    gaps = (levels - 1).to(w.dtype)[..., None]
    out = torch.empty_like(w)
    for part in layout.slices:
        values = w[..., part]
        most = values.abs().amax(-1, keepdim=True)
        step = 2 * most / gaps
        place = ((values + most) / step).round()
        # a parameter of zeros has a grid of one point
        out[..., part] = torch.where(most > 0, place * step - most, 0)
    return out


@over_members
def bits_per_weight(loss: Loss, w: Tensor, rise: float = 0.1) -> Precision:
    """Fewest bits per weight at which the loss rises by less than ``rise``.

    Grids are tried from fine to coarse, by whole bits and then by sixteenths of a bit
    (or by single levels, where these are coarser); the result is the last grid before
    the first that costs too much. A coarser grid may do by luck; it does not count.

    Args:
        loss: the surface.
        w: (..., k).
        rise: of the loss, positive.

    Reference: Hochreiter and Schmidhuber (1997), Flat minima; Rissanen (1978), Modeling
    by shortest data description.
    """
    _check_rise(rise)
    w = wide(w)
    layout, base = loss.net.layout, loss(w)
    found = torch.zeros(len(w), dtype=torch.int64, device=w.device)
    at_found = at_next = torch.full_like(base, torch.nan)

    def attempt(levels: Tensor, active: Tensor) -> Tensor:
        """Try one grid for each active member: which of them is it enough for?"""
        nonlocal found, at_found, at_next
        # members with labels of their own cannot leave the ensemble
        asked = torch.ones_like(active) if loss.own_labels else active
        cost = torch.full_like(base, torch.nan)
        if bool(active.any()):
            rough = quantise(w[asked], layout, levels[asked])
            cost[asked] = loss(rough) - base[asked]
        good = active & (cost < rise)
        found = torch.where(good, levels, found)
        at_found = torch.where(good, cost, at_found)
        at_next = torch.where(active & ~good, cost, at_next)
        bar.update(1)
        return good

    with progress(_MOST_BITS + _PARTS - 1, "bits per weight") as bar:
        active = torch.ones_like(found, dtype=torch.bool)
        for bits in range(_MOST_BITS, 0, -1):
            active = attempt(torch.full_like(found, 2**bits), active)
        active, whole = (found > 0) & ~active, found
        for i in range(1, _PARTS):
            levels = (whole * 2 ** (-i / _PARTS)).round().long()
            new = active & (levels < found)  # neighbours may round to the same number
            active = active & (attempt(levels, new) | ~new)
    at_next = torch.where(found == 2, torch.nan, at_next)
    bits = torch.where(found > 0, found.to(w.dtype).log2(), torch.inf)
    bits = bits.where(base.isfinite(), torch.nan)
    return Precision(bits, found, at_found, at_next, bits * w.shape[-1])
