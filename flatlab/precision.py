"""How precisely the weights must be known: bits per weight and tolerated noise.

A flat minimum needs few bits to be written down: that is the link from flatness to
description length (Hochreiter and Schmidhuber 1997; Hinton and van Camp 1993).
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from flatlab.evaluation import checked, tolerated
from flatlab.loss import Loss
from flatlab.network import Layout
from flatlab.progress import progress

# Widths tried: from fine to coarse by whole bits, then by this fraction of a bit.
_MOST_BITS = 16
_PARTS = 16


@dataclass(frozen=True)
class Precision:
    """The coarsest grid on which the weights may be written.

    Attributes:
        bits: (members,) bits per weight, log2 of ``levels``; infinite where 16 bits
            are not enough.
        levels: (members,) points of every parameter's grid.
        rise: (members,) rise of the loss at ``levels``.
        rise_coarser: (members,) rise on the next coarser grid that was tried, which is
            too much; NaN where even two levels are enough.
        total: (members,) bits for all weights together.
    """

    bits: Tensor
    levels: Tensor
    rise: Tensor
    rise_coarser: Tensor
    total: Tensor


@dataclass(frozen=True)
class ToleratedNoise:
    """The largest Gaussian noise on the weights that the loss bears.

    Attributes:
        values: (members,) standard deviation sigma: in units of w, or, if relative, as
            a share of each weight's absolute value. Infinite where no noise is too
            much.
        standard_error: (members,), from the draws and the local slope.
        rise: (members,) mean rise of the loss at ``values``.
    """

    values: Tensor
    standard_error: Tensor
    rise: Tensor


def quantise(w: Tensor, layout: Layout, levels: int | Tensor) -> Tensor:
    """Weights rounded to a symmetric grid, one grid for each parameter tensor.

    The grid of a parameter has ``levels`` equally spaced points from -m to m, with m
    the largest absolute value in it: log2(levels) bits per weight. Odd numbers of
    levels contain zero.

    Args:
        w: (k,) or (members, k).
        layout: the network's, ``net.layout``.
        levels: an integer of at least 2, or (members,) integers.

    Returns:
        The same shape.

    Raises:
        ValueError: if w has another length than the layout, or a grid fewer than two
            levels.
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


def bits_per_weight(loss: Loss, w: Tensor, rise: float = 0.1) -> Precision:
    """Fewest bits per weight at which the loss rises by less than ``rise``.

    Grids are tried from fine to coarse, by whole bits and then by sixteenths of a bit
    (or by single levels, where these are coarser); the result is the last grid before
    the first that costs too much. A coarser grid may do by luck; it does not count.

    Args:
        loss: the surface.
        w: (k,) or (members, k).
        rise: of the loss, positive.

    Returns:
        A ``Precision``; without an axis of members where w has none.

    Raises:
        TypeError: if ``loss`` is no ``Loss``.
        ValueError: if w has another shape than the network's or is not finite, or
            ``rise`` is not positive.

    Reference: Hochreiter and Schmidhuber (1997), Flat minima; Rissanen (1978), Modeling
    by shortest data description.
    """
    if not (rise > 0 and math.isfinite(rise)):
        raise ValueError(f"the rise allowed is {rise}, expected a positive number")
    w, single = checked(loss, w)
    layout, base = loss.net.layout_on(w.device), loss(w)
    found = torch.zeros(len(w), dtype=torch.int64, device=w.device)
    at_found, at_next = (torch.full_like(base, torch.nan) for _ in range(2))

    def attempt(levels: Tensor, active: Tensor) -> Tensor:
        """Try one grid for each active member; return which of them it is enough for.

        Members with labels of their own cannot leave the ensemble: they all go along.
        """
        nonlocal found, at_found, at_next
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
    result = (bits, found, at_found, at_next, bits * w.shape[-1])
    return Precision(*(r[0] if single else r for r in result))


def tolerated_noise(
    loss: Loss,
    w: Tensor,
    rise: float = 0.1,
    *,
    relative: bool = False,
    samples: int = 32,
    seed: int = 0,
) -> ToleratedNoise:
    """Largest Gaussian noise on the weights whose mean rise of the loss is ``rise``.

    Absolute noise is N(0, sigma²) on every weight; relative noise is N(0, sigma² w_i²),
    which is unchanged by a rescaling of layers or units that leaves the function as it
    is. To second order the mean rise is ½ sigma² Σ t_i² H_ii with t_i = 1 or
    ``|w_i|``. sigma is found by bisection with the same draws at every sigma; all
    members get the same draws, in antithetic pairs.

    Args:
        loss: the surface.
        w: (k,) or (members, k).
        rise: of the loss, positive.
        relative: whether the noise is proportional to the weights.
        samples: evaluations at every sigma, an even number of at least 4.
        seed: of the draws.

    Returns:
        A ``ToleratedNoise``; without an axis of members where w has none.

    Raises:
        TypeError: if ``loss`` is no ``Loss``.
        ValueError: if w has another shape than the network's or is not finite, or
            ``rise`` or ``samples`` is out of range.
    """
    w, single = checked(loss, w)
    if relative:
        size, start = w.abs(), torch.full_like(w[:, 0], 0.1)
    else:
        size = torch.ones_like(w)
        start = 0.1 * w.square().mean(-1).sqrt().clamp_min(1e-3)
    result = tolerated(
        loss,
        loss,
        w,
        lambda sigma: sigma[:, None] * size,
        start,
        rise,
        samples,
        seed,
        "tolerated noise",
    )
    return ToleratedNoise(*(r[0] if single else r for r in result))
