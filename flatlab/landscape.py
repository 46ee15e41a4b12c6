"""The loss along lines and planes through weight space."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from flatlab.hessian import Hessian
from flatlab.loss import Loss
from flatlab.network import Layout, over_members
from flatlab.noise import Noise, at_points
from flatlab.progress import progress
from flatlab.spectra import eigenvalues


@dataclass(frozen=True)
class Line:
    """The loss along straight lines in weight space."""

    alphas: Tensor  # (points,), 0 at the first end and 1 at the second
    losses: Tensor  # (..., points)


@dataclass(frozen=True)
class Plane:
    """The loss on a plane through each member, at w + alpha d1 + beta d2."""

    # coordinates along the two directions, (A,) and (B,)
    alphas: Tensor = field(metadata={"shared": True})
    betas: Tensor = field(metadata={"shared": True})
    losses: Tensor  # (..., A, B)
    directions: Tensor  # (..., 2, k), as long as the coordinates' unit
    centre: Tensor  # (..., k), the point w with the coordinates (0, 0)


def interpolate(
    loss: Loss, w0: Tensor, w1: Tensor, alphas: Sequence[float] | Tensor
) -> Line:
    """The loss on the line (1 - alpha) w0 + alpha w1, beyond its ends too if asked.

    Args:
        loss: the surface.
        w0: (..., k), the point at alpha = 0.
        w1: (..., k), the point at alpha = 1. A single point is joined with every member
            of the other.
        alphas: (points,) where to look.

    Reference: Goodfellow, Vinyals, Saxe (2015), Qualitatively characterizing neural
    network optimization problems; Keskar et al. (2017), figure 3.
    """
    w0, w1 = _checked(loss, w0), _checked(loss, w1)
    if w0.ndim > 1 and w1.ndim > 1 and w0.shape != w1.shape:
        raise ValueError(
            f"w0 has members of shape {tuple(w0.shape[:-1])} and w1 of "
            f"{tuple(w1.shape[:-1])}, expected as many"
        )
    w0, w1 = torch.broadcast_tensors(w0, w1)
    lead, ends = w0.shape[:-1], (w0.reshape(-1, loss.net.k), w1.reshape(-1, loss.net.k))
    alphas = torch.as_tensor(alphas, dtype=w0.dtype, device=w0.device)
    if alphas.ndim != 1 or not len(alphas) or not bool(alphas.isfinite().all()):
        raise ValueError(f"alphas is {alphas}, expected a list of finite numbers")
    # lerp is exactly w0 at 0 and w1 at 1
    losses = _along(loss, lambda alpha: torch.lerp(*ends, alpha), list(alphas))
    return Line(alphas, losses.reshape(lead + alphas.shape))


@over_members
def _checked(loss: Loss, w: Tensor) -> Tensor:
    return w


def filter_normalised(direction: Tensor, w: Tensor, layout: Layout) -> Tensor:
    """A direction whose every filter has the length of the same filter of w.

    d_f ← d_f ‖w_f‖ / ‖d_f‖ for every filter f, so that one unit along the direction is
    the same relative change in every part of a network, and pictures of networks of
    different scale can be compared (Li et al. 2018, section 4). Biases, and the scales
    and shifts of normalisation layers, stay where they are, as in the authors' code.

    Args:
        direction: (..., k), any shape that broadcasts with w.
        w: (..., k).
        layout: the network's, ``net.layout``.

    Returns:
        The direction in the shape of both.
    """
    for name, tensor in (("direction", direction), ("w", w)):
        if tensor.shape[-1] != layout.k:
            raise ValueError(
                f"{name} has shape {tuple(tensor.shape)}, expected a last axis of "
                f"{layout.k}"
            )
    direction, w = torch.broadcast_tensors(direction, w)
    layout = layout.to(w.device)
    size, length = (_filter_norms(t, layout) for t in (direction, w))
    ratio = torch.where(size > 0, length / size, 0)
    return torch.where(layout.is_bias, 0, direction * ratio[..., layout.filter])


def _filter_norms(t: Tensor, layout: Layout) -> Tensor:
    count = int(layout.filter[-1]) + 1
    sums = torch.zeros(*t.shape[:-1], count, dtype=t.dtype, device=t.device)
    return sums.scatter_add(-1, layout.filter.expand(t.shape), t.square()).sqrt()


@over_members
def plane(
    loss: Loss,
    w: Tensor,
    directions: str | tuple[Tensor, Tensor] = "random",
    *,
    filter_normalise: bool | None = None,
    span: float | tuple[float, float] = 1.0,
    points: int | tuple[int, int] = 21,
    seed: int = 0,
) -> Plane:
    """The loss on a plane through w, evaluated in large batches.

    Args:
        loss: the surface.
        w: (..., k), the centre.
        directions: "random" (Gaussian, the same draws for all members), "eigenvectors"
            (of the two largest Hessian eigenvalues, of unit length) or two tensors,
            each (k,) or in the shape of w.
        filter_normalise: whether directions get the filter lengths of w; by default
            random ones do, and eigenvectors and given ones stay as they are (scaled
            filter by filter they would point elsewhere).
        span: the coordinates run from -span to span; one number, or one for each axis.
        points: along each axis, at least 2; odd numbers hit the centre.
        seed: of the random directions, or of the eigenvalue search.

    Reference: Li, Xu, Taylor, Studer, Goldstein (2018), Visualizing the loss landscape
    of neural nets.
    """
    spans = (span, span) if isinstance(span, int | float) else tuple(span)
    counts = (points, points) if isinstance(points, int) else tuple(points)
    if len(spans) != 2 or not min(spans) > 0:
        raise ValueError(f"span is {span}, expected one or two positive numbers")
    if len(counts) != 2 or min(counts) < 2:
        raise ValueError(f"points is {points}, expected one or two numbers above 1")
    chosen = _directions(loss, w, directions, seed)
    if filter_normalise is None:
        filter_normalise = isinstance(directions, str) and directions == "random"
    if filter_normalise:
        layout = loss.net.layout_on(w.device)
        chosen = filter_normalised(chosen, w[:, None], layout)
    _check_plane(chosen)
    alphas, betas = (
        # not linspace, which misses the centre by a rounding error
        s * (2 * torch.arange(c, dtype=w.dtype, device=w.device) / (c - 1) - 1)
        for s, c in zip(spans, counts, strict=True)
    )
    d1, d2 = chosen.unbind(1)
    grid = [(a, b) for a in alphas for b in betas]
    losses = _along(loss, lambda c: w + c[0] * d1 + c[1] * d2, grid)
    return Plane(alphas, betas, losses.unflatten(-1, counts), chosen, w)


def _along(loss: Loss, point: Callable, coordinates: Iterable) -> Tensor:
    """The loss at ``point(c)``, (members, k), for every c: (members, points)."""
    points = (point(c) for c in progress(coordinates, "landscape"))
    return at_points(loss, loss, points).T


def _directions(
    loss: Loss, w: Tensor, directions: str | tuple[Tensor, Tensor], seed: int
) -> Tensor:
    """Two directions for each member: (members, 2, k)."""
    if isinstance(directions, str) and directions == "random":
        noise = Noise(w, seed)
        return torch.stack([noise[0], noise[1]]).expand(len(w), -1, -1)
    if isinstance(directions, str) and directions == "eigenvectors":
        top = eigenvalues(Hessian(loss, w), k=2, eigenvectors=True, seed=seed)
        assert top.vectors is not None
        return top.vectors.mT
    if isinstance(directions, str) or len(directions) != 2:
        raise ValueError(
            f"directions is {directions!r}, expected 'random', 'eigenvectors' or two "
            "tensors"
        )
    both = []
    for d in directions:
        loss.net.check(d)
        d = d.detach().to(w).reshape(-1, loss.net.k)
        if len(d) not in (1, len(w)):
            raise ValueError(
                f"a direction has {len(d)} members, expected {len(w)} or a single one"
            )
        both.append(d.expand_as(w))
    return torch.stack(both, 1)


def _check_plane(directions: Tensor) -> None:
    if not directions.isfinite().all():
        raise ValueError("the directions hold NaN or infinite values")
    units = directions.cpu().double()
    d1, d2 = (units / units.norm(dim=-1, keepdim=True)).unbind(1)
    # the squared sine of the angle between them
    if not bool((1 - (d1 * d2).sum(-1).square() > 1e-10).all()):
        raise ValueError("the two directions are parallel or zero: they span no plane")
