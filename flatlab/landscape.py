"""The loss along lines and planes through weight space."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from flatlab.loss import Loss
from flatlab.network import Layout, over_members
from flatlab.noise import Noise, at_points
from flatlab.progress import progress


@dataclass(frozen=True)
class Line:
    """The loss along straight lines in weight space.

    Attributes:
        alphas: (points,), 0 at the first end and 1 at the second.
        losses: (members, points).
        accuracies: (members, points), or None unless asked for.
    """

    alphas: Tensor
    losses: Tensor
    accuracies: Tensor | None = None


@dataclass(frozen=True)
class Plane:
    """The loss on a plane through each member.

    Attributes:
        alphas: (A,) coordinates along the first direction.
        betas: (B,) coordinates along the second direction.
        losses: (members, A, B), at w + alpha d1 + beta d2.
        directions: (members, 2, k), in the length that the coordinates are in units of.
        centre: (members, k), the point w with the coordinates (0, 0).
    """

    alphas: Tensor
    betas: Tensor
    losses: Tensor
    directions: Tensor
    centre: Tensor


@dataclass(frozen=True)
class Trajectory:
    """Weights seen on a plane.

    Attributes:
        coordinates: (snapshots, members, 2), of the nearest point of the plane.
        residual: (snapshots, members) distance from the plane, in units of w.
        explained: (members,) share of the squared distances from the plane's centre
            that lies in the plane. Where it is small the picture shows little of what
            happened.
    """

    coordinates: Tensor
    residual: Tensor
    explained: Tensor


def interpolate(
    loss: Loss,
    w0: Tensor,
    w1: Tensor,
    alphas: Sequence[float] | Tensor,
    *,
    accuracy: bool = False,
) -> Line:
    """The loss on the line (1 - alpha) w0 + alpha w1, beyond its ends too if asked.

    Args:
        loss: the surface.
        w0: (k,) or (members, k), the point at alpha = 0.
        w1: (k,) or (members, k), the point at alpha = 1. A single point is joined with
            every member of the other.
        alphas: (points,) where to look.
        accuracy: whether the accuracy is wanted as well.

    Returns:
        A ``Line``; without an axis of members where neither end has one.

    Raises:
        TypeError: if ``loss`` is no ``Loss``.
        ValueError: if the weights have other shapes than the network's, differ in their
            number of members, or are not finite; if alphas are not a list of finite
            numbers.

    Reference: Goodfellow, Vinyals, Saxe (2015), Qualitatively characterizing neural
    network optimization problems; Keskar et al. (2017), figure 3.
    """
    (w0, first), (w1, second) = _checked(loss, w0), _checked(loss, w1)
    if len(w0) != len(w1) and not (first or second):
        raise ValueError(
            f"w0 has {len(w0)} members and w1 has {len(w1)}, expected as many"
        )
    if (w0.dtype, w0.device) != (w1.dtype, w1.device):
        raise ValueError(
            f"w0 is {w0.dtype} on {w0.device} and w1 is {w1.dtype} on {w1.device}, "
            "expected the same"
        )
    w0, w1 = torch.broadcast_tensors(w0, w1)
    alphas = torch.as_tensor(alphas, dtype=w0.dtype, device=w0.device)
    if alphas.ndim != 1 or not len(alphas) or not bool(alphas.isfinite().all()):
        raise ValueError(f"alphas is {alphas}, expected a list of finite numbers")

    def point(alpha):
        return torch.lerp(w0, w1, alpha)  # exactly w0 at 0 and w1 at 1

    losses = _along(loss, loss, point, alphas, w0)
    accuracies = _along(loss, loss.accuracy, point, alphas, w0) if accuracy else None
    if first and second:
        losses = losses[0]
        accuracies = accuracies[0] if accuracy else None
    return Line(alphas, losses, accuracies)


def filter_normalised(
    direction: Tensor, w: Tensor, layout: Layout, *, biases: bool = False
) -> Tensor:
    """A direction whose every filter has the length of the same filter of w.

    d_f ← d_f ‖w_f‖ / ‖d_f‖ for every filter f, so that one unit along the direction is
    the same relative change in every part of a network, and pictures of networks of
    different scale can be compared (Li et al. 2018, section 4).

    Args:
        direction: (..., k), any shape that broadcasts with w.
        w: (k,) or (members, k).
        layout: the network's, ``net.layout``.
        biases: whether biases, and the scales and shifts of normalisation layers, are
            moved, each by its own absolute value; by default the direction is zero
            there, as in the authors' code.

    Returns:
        The direction in the shape of both.

    Raises:
        ValueError: if the last axis has another length than the layout.
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
    scaled = direction * ratio[..., layout.filter]
    return scaled if biases else torch.where(layout.is_bias, 0, scaled)


def _filter_norms(t: Tensor, layout: Layout) -> Tensor:
    count = int(layout.filter[-1]) + 1
    index = layout.filter.expand(t.shape)
    sums = torch.zeros(*t.shape[:-1], count, dtype=t.dtype, device=t.device)
    return sums.scatter_add(-1, index, t.square()).sqrt()


def plane(
    loss: Loss,
    w: Tensor,
    directions: str | tuple[Tensor, Tensor] = "random",
    *,
    filter_normalise: bool | None = None,
    biases: bool = False,
    span: float | tuple[float, float] = 1.0,
    points: int | tuple[int, int] = 21,
    seed: int = 0,
) -> Plane:
    """The loss on a plane through w, evaluated in large batches.

    Args:
        loss: the surface.
        w: (k,) or (members, k), the centre.
        directions: "random" (Gaussian, the same draws for all members), "eigenvectors"
            (of the two largest Hessian eigenvalues, of unit length) or two tensors
            (k,) or (members, k).
        filter_normalise: whether directions get the filter lengths of w; by default
            random ones do, and eigenvectors and given ones stay as they are (scaled
            filter by filter they would point elsewhere).
        biases: whether filter-normalised directions move the biases.
        span: the coordinates run from -span to span; one number, or one for each axis.
        points: along each axis, at least 2; odd numbers hit the centre.
        seed: of the random directions, or of the eigenvalue search.

    Returns:
        A ``Plane``; without an axis of members where w has none.

    Raises:
        TypeError: if ``loss`` is no ``Loss``.
        ValueError: if w or a direction has another shape than the network's or is not
            finite, the directions are parallel or unknown, or ``span`` or ``points``
            is out of range.

    Reference: Li, Xu, Taylor, Studer, Goldstein (2018), Visualizing the loss landscape
    of neural nets.
    """
    spans = (span, span) if isinstance(span, int | float) else tuple(span)
    counts = (points, points) if isinstance(points, int) else tuple(points)
    if len(spans) != 2 or not min(spans) > 0:
        raise ValueError(f"span is {span}, expected one or two positive numbers")
    if len(counts) != 2 or min(counts) < 2:
        raise ValueError(f"points is {points}, expected one or two numbers above 1")
    w, single = _checked(loss, w)
    chosen = _directions(loss, w, directions, seed)
    if filter_normalise is None:
        filter_normalise = isinstance(directions, str) and directions == "random"
    if filter_normalise:
        chosen = filter_normalised(
            chosen, w[:, None], loss.net.layout_on(w.device), biases=biases
        )
    _check_plane(chosen)
    alphas, betas = (
        # not linspace, which misses the centre by a rounding error
        s * (2 * torch.arange(c, dtype=w.dtype, device=w.device) / (c - 1) - 1)
        for s, c in zip(spans, counts, strict=True)
    )
    d1, d2 = chosen.unbind(1)
    grid = [(a, b) for a in alphas for b in betas]
    losses = _along(loss, loss, lambda c: w + c[0] * d1 + c[1] * d2, grid, w)
    losses = losses.unflatten(-1, (len(alphas), len(betas)))
    if single:
        losses, chosen, w = losses[0], chosen[0], w[0]
    return Plane(alphas, betas, losses, chosen, w)


@over_members
def _finite(loss: Loss, w: Tensor) -> Tensor:
    return w


def _checked(loss: Loss, w: Tensor) -> tuple[Tensor, bool]:
    """Checked weights as (members, k), and whether they are one member's (k,)."""
    return _finite(loss, w).reshape(-1, loss.net.k), w.ndim == 1


def _along(loss: Loss, measure, point, coordinates, w: Tensor) -> Tensor:
    """A measure at ``point(c)`` for every coordinate c: (members, points)."""
    points = (point(c) for c in progress(coordinates, "landscape"))
    return at_points(loss, measure, points).T


def _directions(loss: Loss, w: Tensor, directions, seed: int) -> Tensor:
    """Two directions for each member: (members, 2, k)."""
    if isinstance(directions, str):
        if directions == "random":
            noise = Noise(w, seed)
            return torch.stack([noise[0], noise[1]]).expand(len(w), -1, -1)
        if directions == "eigenvectors":
            from flatlab.hessian import Hessian
            from flatlab.spectra import eigenvalues

            found = eigenvalues(Hessian(loss, w), k=2, eigenvectors=True, seed=seed)
            return found.vectors.mT
        raise ValueError(
            f"directions is {directions!r}, expected 'random', 'eigenvectors' or two "
            "tensors"
        )
    if len(directions) != 2:
        raise ValueError(f"there are {len(directions)} directions, expected two")
    both = []
    for d in directions:
        loss.net.check(d)
        if d.ndim == 2 and len(d) != len(w):
            raise ValueError(
                f"a direction has {len(d)} members, expected {len(w)} or a single one"
            )
        both.append(d.detach().to(w).expand_as(w))
    return torch.stack(both, 1)


def _check_plane(directions: Tensor) -> None:
    d1, d2 = directions.double().unbind(1)
    if not directions.isfinite().all():
        raise ValueError("the directions hold NaN or infinite values")
    product = d1.square().sum(-1) * d2.square().sum(-1)
    area = product - (d1 * d2).sum(-1).square()
    if bool((area <= 1e-10 * product).any()):
        raise ValueError("the two directions are parallel or zero: they span no plane")


def project(surface: Plane, snapshots: Tensor) -> Trajectory:
    """The trajectory of weights on a plane, and how far from the plane it runs.

    Args:
        surface: from ``plane``.
        snapshots: (snapshots, k) for a plane of a single member, else (snapshots,
            members, k); as in ``run.snapshots``.

    Returns:
        A ``Trajectory``; without an axis of members where the plane has none.

    Raises:
        ValueError: if the snapshots have another shape than the plane's centre.
    """
    centre, directions = surface.centre, surface.directions
    if snapshots.ndim != centre.ndim + 1 or snapshots.shape[1:] != centre.shape:
        raise ValueError(
            f"the snapshots have the shape {tuple(snapshots.shape)}, expected "
            f"(snapshots, {', '.join(map(str, centre.shape))})"
        )
    offsets = (snapshots.to(centre) - centre).double()
    d = directions.double()  # (..., 2, k)
    inner = (d @ offsets[..., None])[..., 0]
    gram = d @ d.mT
    coordinates = torch.linalg.solve(gram.expand(*inner.shape[:-1], 2, 2), inner)
    inside = (coordinates[..., None, :] @ d)[..., 0, :]
    residual = (offsets - inside).norm(dim=-1)
    total = offsets.square().sum((0, -1))
    explained = inside.square().sum((0, -1)) / total
    return Trajectory(coordinates.to(centre), residual.to(centre), explained.to(centre))


def trajectory_directions(snapshots: Tensor, w: Tensor) -> tuple[Tensor, Tensor]:
    """The two directions in which a trajectory moves most, seen from its end.

    The principal components of snapshot - w, of unit length. A trajectory in many
    dimensions hardly shows on a random plane (Li et al. 2018, section 7).

    Args:
        snapshots: (snapshots, k) or (snapshots, members, k), at least two of them.
        w: (k,) or (members, k), the centre of the plane.

    Returns:
        Two tensors of the shape of w, for ``plane``.

    Raises:
        ValueError: if the shapes do not match or there are fewer than two snapshots.
    """
    if snapshots.shape[1:] != w.shape or len(snapshots) < 2:
        raise ValueError(
            f"the snapshots have the shape {tuple(snapshots.shape)}, expected "
            f"(2 or more, {', '.join(map(str, w.shape))})"
        )
    offsets = (snapshots.to(w) - w).movedim(0, -2)  # (..., snapshots, k)
    components = torch.linalg.svd(offsets, full_matrices=False).Vh
    return components[..., 0, :], components[..., 1, :]
