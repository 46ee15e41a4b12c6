"""Adversarial examples: worst inputs near a given one, in pixels or on a manifold."""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property, partial

import torch
from torch import Tensor
from torch.nn import functional as F

from flatlab.loss import Loss
from flatlab.neighbourhoods import Bound, Neighbourhood, ball, check_set
from flatlab.network import Network, over_members

_Seen = tuple[Tensor, Tensor, Tensor]  # points, whether they succeed, their value


@dataclass(frozen=True)
class Attack:
    """The worst inputs that were found. For a single network without the member axis.

    Of all points visited, the clean one included, each example keeps its own best: a
    point that succeeds comes before one that does not, and among equals the loss
    decides. A search bounds what is possible from one side only: a failed attack
    proves no robustness.

    Attributes:
        x_adversarial: (members, n, ...) inputs.
        success: (members, n) bool; whether the prediction differs from y or, for a
            targeted attack, equals y.
        loss: (members, n) cross-entropy in nats between the prediction at
            ``x_adversarial`` and y (a targeted attack makes it small).
        norm: (members, n) ‖δ / t‖_p of the perturbation: at most the set's radius.
        latent: (members, n, k) what ``decode`` made ``x_adversarial`` of, or None.
    """

    x_adversarial: Tensor
    success: Tensor
    loss: Tensor
    norm: Tensor
    latent: Tensor | None = None


@over_members
def pgd(
    net: Network,
    w: Tensor,
    x: Tensor,
    y: Tensor,
    neighbourhood: Neighbourhood,
    *,
    decode: Callable[[Tensor], Tensor] | None = None,
    steps: int = 20,
    step_size: float | None = None,
    restarts: int = 0,
    targeted: bool = False,
    box: tuple[float, float] | None = None,
    seed: int = 0,
) -> Attack:
    """Attack inputs by projected gradient steps on the cross-entropy.

    Steps go in the steepest direction of the set, which for a ball is the gradient
    (p = 2) or its sign (p = ∞; Madry et al. 2018, section 2.1), and every point is
    projected onto what the set and the box have in common. All members and examples
    are attacked together, each for itself.

    With ``decode`` the attack stays on a manifold (Stutz et al. 2019): x are latent
    coordinates, and the loss of f(decode(x + δ)) is maximised.

    Args:
        net: the network.
        w: (..., k).
        x: (n, ...) clean inputs, the same for all members, or their coordinates.
        y: (n,) or (members, n): the true classes or, for a targeted attack, the
            targets.
        neighbourhood: the set of allowed perturbations δ around each x, such as
            ``ball(0.1, p=math.inf)``, in the units of x; a radius may be (members,).
        decode: differentiable function from (members, n, ...) coordinates to
            (members, n, ...) inputs, such as ``PCAManifold.decode``. It always gets
            all n examples in their order, so that it may know their classes:
            ``lambda z: manifold.decode(z, labels)``.
        steps: number of gradients per start.
        step_size: ‖δ / t‖_p of one step; by default 2.5 radius / steps, which reaches
            the boundary from anywhere.
        restarts: searches from uniform points of the set, beside the one from x. All
            members get the same points.
        targeted: whether to make y the prediction instead of avoiding it.
        box: lowest and highest value of an input, such as (0, 1); None for no bounds.
        seed: of the restarts.
    """
    check_set(neighbourhood)
    if steps < 1 or restarts < 0:
        raise ValueError(
            f"steps is {steps} and restarts is {restarts}, expected at least 1 and 0"
        )
    if step_size is not None and not 0 < step_size < math.inf:
        raise ValueError(f"step_size must be positive and finite, got {step_size}")
    x = torch.as_tensor(x, dtype=w.dtype, device=w.device).detach()
    if box is not None:
        _check_box(x, *box)
    members, shape = len(w), x.shape[1:]
    with torch.no_grad():
        clean = x if decode is None else decode(x.expand(members, *x.shape))[0]
    loss = Loss(net, (clean, y))  # says what does not fit
    loss.check(w)
    n = loss.n
    if loss.y.ndim != 1 + loss.own_labels or int(loss.y.min()) < 0:
        raise ValueError("an attack needs one class for every input, none of them -100")
    y = loss.y.to(w.device).expand(members, n)
    parameters = net.unflatten(w)
    if net.mixes_examples(net.unflatten(w[0]), clean):
        raise ValueError(
            "the outputs of an example depend on the others beside it, and an attack "
            "takes each by itself: give BatchNorm running statistics, for example"
        )

    def judge(points: Tensor, part: slice) -> tuple[Tensor, Tensor]:
        """What the search raises, and whether it has succeeded."""
        inputs = points.unflatten(-1, shape)
        inputs = inputs if decode is None else decode(inputs)
        logits = net.evaluate(parameters, inputs, own_inputs=True)
        labels = y[:, part]
        loss = F.cross_entropy(logits.flatten(0, 1), labels.flatten(), reduction="none")
        loss, hit = loss.view(labels.shape), logits.argmax(-1) == labels
        return (-loss, hit) if targeted else (loss, ~hit)

    radius = torch.as_tensor(neighbourhood.radius, dtype=w.dtype, device=w.device)
    if radius.numel() in (1, members):  # else at refuses it
        radius = radius.reshape(-1, 1).expand(members, n)
    centre = x.flatten(1).expand(members, n, -1)
    bound = replace(neighbourhood, radius=radius).at(centre)
    assert isinstance(bound.radius, Tensor)
    whole = _Inputs(bound.t, bound.radius, bound.p, centre, box)
    starts, end, found = _starts(x.flatten(1), bound.p, restarts, seed), 0, []
    sizes = [n] if decode else [here.shape[-1] for _, here, _ in loss.chunks(w)]
    for size in sizes:
        part = slice(end, end := end + size)
        here, around = [start[part] for start in starts], whole.part(part)
        found.append(_search(partial(judge, part=part), around, here, steps, step_size))
    points, success, value, norm = (torch.cat(c, 1) for c in zip(*found, strict=True))
    points = points.unflatten(-1, shape)
    if decode is None:
        adversarial, latent = points, None
    else:
        with torch.no_grad():
            adversarial, latent = decode(points), points
    return Attack(adversarial, success, -value if targeted else value, norm, latent)


def _check_box(x: Tensor, low: float, high: float) -> None:
    if not low < high:
        raise ValueError(f"box must be (lo, hi) with lo < hi, got {(low, high)}")
    if ((x < low) | (x > high)).any():
        raise ValueError(
            f"x runs from {float(x.min()):g} to {float(x.max()):g}, outside the box "
            f"from {low:g} to {high:g}; a box is in the units of x"
        )


def _starts(x: Tensor, p: float, restarts: int, seed: int) -> list[Tensor]:
    """Zero and uniform points of the unit ball, in float64 for all dtypes the same."""
    generator = torch.Generator("cpu").manual_seed(seed)
    unit = ball(1.0, p).at(torch.zeros(x.shape, dtype=torch.float64, device="cpu"))
    drawn = (unit.sample(generator=generator) for _ in range(restarts))
    return [torch.zeros_like(x), *(z.to(x.dtype).to(x.device) for z in drawn)]


def _search(
    judge: Callable[[Tensor], tuple[Tensor, Tensor]],
    around: "_Inputs",
    starts: list[Tensor],
    steps: int,
    step_size: float | None,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The best points of all, whether they succeed, their value and norm."""
    unit = replace(around, radius=1.0)
    length = 2.5 * around.radius / steps if step_size is None else step_size
    best: _Seen | None = None
    for start in starts:
        delta = around.project(around.radius * around.t * start)
        for step in range(steps + 1):
            last = step == steps
            points = around.points(delta).requires_grad_(not last)
            with torch.set_grad_enabled(not last):
                value, success = judge(points)
                whole = value.sum()
            seen = (points.detach(), success, value.detach())
            best = seen if best is None else _better(best, seen)
            if not last:
                # members and examples do not interact: each has a gradient of its own
                (gradient,) = torch.autograd.grad(whole, points)
                delta = around.project(delta + length * unit.steepest(gradient))
    assert best is not None  # the first start always is there
    return *best, around.norm(best[0] - around.x)


def _better(best: _Seen, seen: _Seen) -> _Seen:
    """Example by example, the one that succeeds, or that of the higher value."""
    (_, hit, value), (_, new_hit, new_value) = best, seen
    wins = new_hit & ~hit | (new_hit == hit) & (new_value > value)
    points = torch.where(wins[..., None], seen[0], best[0])
    return points, hit | new_hit, torch.where(wins, new_value, value)


@dataclass(frozen=True)
class _Inputs(Bound):
    """A set around inputs x, and a box that x + ε shall not leave."""

    radius: Tensor
    x: Tensor
    box: tuple[float, float] | None

    def part(self, part: slice) -> "_Inputs":
        t, radius, x = (v[:, part] for v in (self.t, self.radius, self.x))
        return replace(self, t=t, radius=radius, x=x)

    def points(self, epsilon: Tensor) -> Tensor:
        points = self.x + epsilon
        return points if self.box is None else points.clamp(*self.box)

    def project(self, epsilon: Tensor) -> Tensor:
        """The nearest point of set and box, in the metric ‖ε / t‖₂, exactly.

        For p = ∞ both sets are boxes. For p = 2 the optimality conditions make the
        result clip(s ε) with one s in (0, 1] per example; its norm grows with s, and is
        a quadratic between the values of s at which one more coordinate is clipped.
        """
        if self.box is None:
            return super().project(epsilon)
        if self.p == math.inf:
            return self.points(super().project(epsilon)) - self.x
        up, down, t = self._room
        room, size = torch.where(epsilon > 0, up, down), epsilon.abs() / t
        clipped, reach = torch.minimum(size, room), self.radius
        outside = torch.linalg.vector_norm(clipped, dim=-1, keepdim=True) > reach
        if not outside.any():
            return epsilon.sign() * self.t * clipped
        # s at which each coordinate meets the box: never for one that does not move
        meets = (room / size).nan_to_num(math.inf, math.inf)
        meets, order = meets.sort(dim=-1)
        room_sorted, size_sorted = room.gather(-1, order), size.gather(-1, order)
        # squared norm from the coordinates clipped before the i-th, and from the others
        stuck = _running_sum(room_sorted.square()) - room_sorted.square()
        free = _running_sum(size_sorted.square().flip(-1)).flip(-1)
        norms = stuck + torch.where(free > 0, meets.square() * free, 0)
        i = (norms < reach.square()).sum(-1, keepdim=True)
        i = i.clamp_max(epsilon.shape[-1] - 1)
        rest, slope = reach.square() - stuck.gather(-1, i), free.gather(-1, i)
        s = (rest.clamp_min(0) / torch.where(slope > 0, slope, 1)).sqrt()
        cut = torch.minimum(s * size, room)
        # rounding must not carry it over the edge
        length = torch.linalg.vector_norm(cut, dim=-1, keepdim=True)
        over = length > reach
        cut = cut * torch.where(over, reach / torch.where(over, length, 1), 1)
        return epsilon.sign() * self.t * torch.where(outside, cut, clipped)

    @cached_property
    def _room(self) -> tuple[Tensor, Tensor, Tensor]:
        """How far x may go up and down in units of t, and these, 1 where t is 0."""
        assert self.box is not None
        t = torch.where(self.t > 0, self.t, 1)
        ways = (self.box[1] - self.x, self.x - self.box[0])
        up, down = (torch.where(self.t > 0, way / t, 0) for way in ways)
        return up, down, t


def _running_sum(x: Tensor) -> Tensor:
    """The cumulative sum, also where it has no deterministic kernel: on the CPU."""
    if x.is_cuda and torch.are_deterministic_algorithms_enabled():
        return x.cpu().cumsum(-1).to(x.device)
    return x.cumsum(-1)


# -- a known manifold ----------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class PCAManifold:
    """An affine subspace through the mean of the data, or one for each class.

    Latent coordinates are whitened: over the data that it was fitted to, each has
    mean 0 and variance 1. Classes y, (n,) int64, are given where there is one subspace
    for each, and only there.

    Attributes:
        mean: (groups, d) float64 centres.
        components: (groups, k, d) float64, orthonormal rows.
        scale: (groups, k) float64 standard deviations along them, decreasing.
        shape: of one input; d is its number of entries.
        by_class: whether there is one subspace for each class; else groups is 1.
    """

    mean: Tensor
    components: Tensor
    scale: Tensor
    shape: torch.Size
    by_class: bool

    def encode(self, x: Tensor, y: Tensor | None = None) -> Tensor:
        """Coordinates (..., n, k) of the nearest points to ``(..., n, *shape)``."""
        mean, components, scale = self._pick(x, y)
        if x.shape[x.ndim - len(self.shape) :] != self.shape:
            raise ValueError(
                f"x has shape {tuple(x.shape)}, expected (..., n, *{tuple(self.shape)})"
            )
        flat = x.flatten(x.ndim - len(self.shape)) - mean
        return (components @ flat[..., None])[..., 0] / scale

    def decode(self, z: Tensor, y: Tensor | None = None) -> Tensor:
        """Inputs ``(..., n, *shape)`` with coordinates (..., n, k); differentiable."""
        mean, components, scale = self._pick(z, y)
        if z.shape[-1] != scale.shape[-1]:
            raise ValueError(
                f"z has shape {tuple(z.shape)}, expected (..., n, {scale.shape[-1]})"
            )
        flat = mean + ((z * scale)[..., None, :] @ components)[..., 0, :]
        return flat.unflatten(-1, self.shape)

    def project(self, x: Tensor, y: Tensor | None = None) -> Tensor:
        """Nearest points of the manifold, in the shape of x."""
        return self.decode(self.encode(x, y), y)

    def distance(self, x: Tensor, y: Tensor | None = None) -> Tensor:
        """Euclidean distances from the manifold, (..., n), in the units of x."""
        off = (x - self.project(x, y)).flatten(x.ndim - len(self.shape))
        return torch.linalg.vector_norm(off, dim=-1)

    def _pick(self, like: Tensor, y: Tensor | None) -> tuple[Tensor, ...]:
        """Centre, components and scale of each example, in the dtype of ``like``."""
        if self.by_class != (y is not None):
            expected = "needs" if self.by_class else "takes no"
            raise ValueError(f"this manifold {expected} classes y: see pca_manifold")
        group = torch.zeros(1, dtype=torch.int64, device="cpu") if y is None else y
        parts = (self.mean, self.components, self.scale)
        # rounded before it moves: not every device has float64
        placed = (part.to(like.dtype).to(like.device) for part in parts)
        return tuple(part[group.to(like.device)] for part in placed)


def pca_manifold(x: Tensor, k: int, y: Tensor | None = None) -> PCAManifold:
    """Fit the affine subspace of k dimensions that loses least of the data's variance.

    Args:
        x: (n, ...) inputs.
        k: at most the dimensions that each group of inputs spans around its mean.
        y: (n,) int64 classes, to fit a subspace to each class of 0 to ``max(y)``;
            None for one subspace for all.
    """
    if not bool(x.isfinite().all()):
        raise ValueError("x holds NaN or infinite values")
    if y is not None and (y.dtype != torch.int64 or y.shape != x.shape[:1]):
        raise ValueError(
            f"y is {y.dtype} of shape {tuple(y.shape)}, expected ({len(x)},) int64 "
            "classes"
        )
    groups = [x] if y is None else [x[y == c] for c in range(int(y.max()) + 1)]
    fitted = []
    for label, group in enumerate(groups):
        flat = group.flatten(1).cpu().double()
        mean = flat.mean(0)
        _, scale, components = torch.linalg.svd(flat - mean, full_matrices=False)
        noise = max(flat.shape) * torch.finfo(flat.dtype).eps
        rank = int((scale > scale[:1] * noise).sum())
        if not 1 <= k <= rank:
            whose = "the inputs span" if y is None else f"inputs of class {label} span"
            raise ValueError(
                f"k must lie in 1..{rank}, the dimensions that {whose} around their "
                f"mean; got {k}"
            )
        components = components[:k]
        # the sign of a component is arbitrary: its largest entry is made positive
        largest = components.abs().argmax(1, keepdim=True)
        components = components * components.gather(1, largest).sign()
        fitted.append((mean, components, scale[:k] / math.sqrt(len(flat))))
    mean, components, scale = (torch.stack(c) for c in zip(*fitted, strict=True))
    return PCAManifold(mean, components, scale, x.shape[1:], y is not None)
