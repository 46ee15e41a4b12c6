"""The loss at many points around each member, and how far noise may carry it."""

import math
from collections.abc import Callable, Iterable, Iterator

import torch
from torch import Tensor

from flatlab.loss import Loss
from flatlab.progress import progress

# Weights that one group of points holds. Measured on a CPU: nets of 10,000 weights gain
# from being evaluated together, nets of 100,000 lose.
GROUP_NUMBERS = {"cpu": 2**17, "other": 2**26}
MOST_POINTS = {"cpu": 16, "other": 1024}
# Examples x networks of one evaluation on a CPU: beyond it the activations leave the
# cache, and 64 nets together take longer than one after another.
MOST_ROWS = 2**13


def checked(loss: Loss, w: Tensor) -> tuple[Tensor, bool]:
    """Weights with an axis of members, after a look at both arguments.

    Args:
        loss: a ``Loss``.
        w: (k,) or (members, k).

    Returns:
        w as (members, k), detached, and whether it had no axis of members.

    Raises:
        TypeError: if ``loss`` is no ``Loss`` or w no floating-point tensor.
        ValueError: if w has another shape than the network's, or is not finite.
    """
    if not isinstance(loss, Loss):
        raise TypeError(
            f"expected a Loss, got {type(loss).__name__}; build one with "
            "Loss(net, examples)"
        )
    loss.net.check(w)
    members = w.detach().reshape(-1, loss.net.k)
    bad = (~members.isfinite().all(-1)).nonzero().flatten().tolist()
    if bad:
        where = f" of members {bad}" if w.ndim == 2 else ""
        raise ValueError(
            f"the weights{where} hold NaN or infinite values; leave out members whose "
            "training diverged"
        )
    return members, w.ndim == 1


def at_points(loss: Loss, measure: Callable, points: Tensor):
    """A measure at several points per member, all evaluated as one ensemble.

    Args:
        loss: whose data are used.
        measure: ``loss`` or a method of it: (members, k) to (members, ...) or a tuple
            of such.
        points: (points, members, k).

    Returns:
        (points, members, ...), or a tuple of such.
    """
    count, members, k = points.shape
    if loss.own_labels:
        parts = [measure(p) for p in points]
        if isinstance(parts[0], tuple):
            return tuple(torch.stack(p) for p in zip(*parts, strict=True))
        return torch.stack(parts)
    flat = points.reshape(count * members, k)
    size = len(flat)
    if points.device.type == "cpu":
        size = max(1, min(MOST_ROWS // loss.n, GROUP_NUMBERS["cpu"] // k))
    parts = [measure(p) for p in flat.split(size)]
    if isinstance(parts[0], tuple):
        return tuple(
            torch.cat(p).unflatten(0, (count, members))
            for p in zip(*parts, strict=True)
        )
    return torch.cat(parts).unflatten(0, (count, members))


def grouped(items: Iterable, w: Tensor) -> Iterator[list]:
    """Consecutive items in groups that are worth evaluating at once.

    Args:
        items: one per point.
        w: (members, k).

    Returns:
        Iterator over lists of items.
    """
    kind = "cpu" if w.device.type == "cpu" else "other"
    size = max(1, min(MOST_POINTS[kind], GROUP_NUMBERS[kind] // w.numel()))
    group = []
    for item in items:
        group.append(item)
        if len(group) == size:
            yield group
            group = []
    if group:
        yield group


class Noise:
    """Standard normal vectors of k numbers: the i-th depends on the seed and i alone.

    All members get the same vectors, so that differences between members are not
    blurred by different draws.
    """

    def __init__(self, w: Tensor, seed: int):
        self.like = w
        self._generator = torch.Generator().manual_seed(seed)
        self._drawn: list[Tensor] = []

    def __getitem__(self, i: int) -> Tensor:
        while len(self._drawn) <= i:
            z = torch.randn(self.like.shape[-1], generator=self._generator)
            self._drawn.append(z.to(self.like))
        return self._drawn[i]


def rises(loss, measure, w, base, scale, noise, pairs) -> Tensor:
    """Rise of a measure under noise, each draw averaged with its mirror image.

    The mirror image cancels the slope at w exactly, which is pure noise otherwise.

    Args:
        loss: whose data are used.
        measure: (members, k) to (members,).
        w: (members, k).
        base: (members,) the measure at w.
        scale: (members, k) or (members, 1) standard deviation of every coordinate.
        noise: a ``Noise``.
        pairs: which draws, a range.

    Returns:
        (pairs, members).
    """
    signed = ((i, sign) for i in pairs for sign in (1, -1))
    values = [
        at_points(
            loss, measure, torch.stack([w + sign * scale * noise[i] for i, sign in g])
        )
        for g in grouped(signed, w)
    ]
    return torch.cat(values).unflatten(0, (len(pairs), 2)).mean(1) - base


def largest_sigma(
    rise_at: Callable[[Tensor], tuple[Tensor, Tensor]],
    target: float,
    start: Tensor,
    label: str,
    tol: float = 1e-3,
) -> tuple[Tensor, Tensor, Tensor]:
    """The noise at which a mean rise reaches a target, per member.

    The noise grows from a small value until the target is first exceeded; the bracket
    is then narrowed by interpolation on logarithmic axes.

    Args:
        rise_at: (members,) scales to (members,) rises and their standard errors, from
            the same draws at every scale.
        target: the rise allowed, positive.
        start: (members,) first guess, positive.
        label: shown beside the progress.
        tol: relative width of the final bracket.

    Returns:
        The largest scale whose rise does not exceed the target (infinite where none
        does, 0 where every one does), its standard error, and the rise there.
    """
    infinity = torch.full_like(start, torch.inf)
    sigma, low, high = start.clone(), torch.zeros_like(start), infinity.clone()
    rise_low, rise_high = torch.zeros_like(start), infinity.clone()
    error_low = torch.zeros_like(start)
    with progress(60, label) as bar:
        for step in range(60):
            rise, error = rise_at(sigma)
            meets = rise <= target  # False for NaN
            low = torch.where(meets, sigma, low)
            rise_low = torch.where(meets, rise, rise_low)
            error_low = torch.where(meets, error, error_low)
            high = torch.where(meets, high, sigma)
            rise_high = torch.where(meets, rise_high, rise)
            bar.update(1)
            if bool((high <= low * (1 + tol)).all()):
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
            done = high <= low * (1 + tol)
            sigma = torch.where(done, low, inside)
            sigma = torch.where(high.isinf(), wider, sigma)
            sigma = torch.where(low == 0, narrower, sigma)
    found = high.isfinite() & (low > 0)
    probe = torch.where(found, 1.05 * low, start)
    slope = (rise_at(probe)[0] - rise_low) / (probe - low)
    value = torch.where(high.isinf(), high, low)
    error = torch.where(found & (slope > 0), error_low / slope, torch.nan)
    return value, error, rise_low


def check_samples(samples: int) -> None:
    """Raise unless a number of antithetic samples allows a standard error."""
    if samples < 4 or samples % 2:
        raise ValueError(
            f"samples is {samples}, expected an even number of at least 4 (they come "
            "in pairs, and one pair has no standard error)"
        )


def tolerated(loss, measure, w, scale, start, rise, samples, seed, label):
    """The largest noise under which the mean rise of a measure stays within bounds.

    Args:
        loss: whose data are used.
        measure: (members, k) to (members,).
        w: (members, k).
        scale: (members,) sigma to (members, k) standard deviations.
        start: (members,) first guess of sigma.
        rise: allowed, positive.
        samples: evaluations at every sigma, an even number of at least 4.
        seed: of the draws, the same at every sigma.
        label: shown beside the progress.

    Returns:
        (members,) sigma, its standard error, and the mean rise there.

    Raises:
        ValueError: if ``rise`` is not positive or ``samples`` out of range.
    """
    check_samples(samples)
    if not (rise > 0 and math.isfinite(rise)):
        raise ValueError(f"the rise allowed is {rise}, expected a positive number")
    noise, base = Noise(w, seed), measure(w)
    pairs = range(samples // 2)

    def rise_at(sigma):
        drawn = rises(loss, measure, w, base, scale(sigma), noise, pairs)
        return drawn.mean(0), drawn.std(0) / math.sqrt(len(pairs))

    return largest_sigma(rise_at, rise, start, label)
