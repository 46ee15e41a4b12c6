"""Adversarial examples: worst inputs near a given one, in pixels or on a manifold."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from flatlab.loss import CHUNK_ELEMENTS
from flatlab.neighbourhoods import ball
from flatlab.network import Network, over_members


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
        norm: (members, n) p-norm of the perturbation, in the space of the search:
            of the inputs for ``pgd``, of the latent coordinates for ``manifold_pgd``.
        latent: (members, n, k) latent coordinates of ``x_adversarial``; None for
            ``pgd``.
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
    *,
    radius: float | Tensor,
    p: float = 2,
    steps: int = 20,
    step_size: float | Tensor | None = None,
    targeted: bool = False,
    restarts: int = 1,
    random_start: bool = False,
    box: tuple[float, float] | None = None,
    seed: int = 0,
) -> Attack:
    """Attack inputs by projected gradient steps on the cross-entropy.

    Steps follow the gradient normalised for p = 2 and its sign for p = ∞ (Madry et al.
    2018, section 2.1), and every point is projected onto what the ball and the box
    have in common. All members and examples are attacked together, each for itself.

    Args:
        net: the network.
        w: (..., k).
        x: (n, ...) clean inputs, the same for all members; moved to the place and
            dtype of w.
        y: (n,) or (members, n) int64: the true labels or, for a targeted attack, the
            targets.
        radius: largest p-norm of a perturbation, in the units of x; a number or
            (members,).
        p: 2 or ``math.inf``.
        steps: number of gradients per start.
        step_size: p-norm of one step, a number or (members,); by default
            2.5 radius / steps, which reaches the boundary from anywhere.
        targeted: whether to make y the prediction instead of avoiding it.
        restarts: number of searches. The first starts at x, each further one uniformly
            in the ball; the first ones are the same however many there are.
        random_start: whether the first search, too, starts at a random point.
        box: lowest and highest value of an input, such as (0, 1); None for no bounds.
        seed: of the random starts, which are the same for all members.

    Returns:
        An ``Attack``.

    Raises:
        TypeError: x is no floating-point tensor, or y not int64.
        ValueError: a radius or step size that is not positive and finite, p other than
            2 and ∞, no step or start, shapes that do not fit, labels outside the
            classes, inputs that are not finite or lie outside the box, or a box that
            is empty.
    """
    _check_inputs(x, "x")
    search = _Search(net, w, y, len(x), radius, p, steps, step_size, targeted)
    x = x.detach().to(search.w)
    if box is not None:
        _check_box(x, box)
    units = max(net.activations(x[:2]), x[0].numel())
    size = max(1, CHUNK_ELEMENTS // (len(search.w) * units))
    best = search.run(x, None, box, restarts, random_start, seed, size)
    return Attack(*best)


@over_members
def manifold_pgd(
    net: Network,
    w: Tensor,
    z: Tensor,
    decode: Callable[[Tensor], Tensor],
    y: Tensor,
    radius: float | Tensor,
    *,
    p: float = 2,
    steps: int = 20,
    step_size: float | Tensor | None = None,
    targeted: bool = False,
    restarts: int = 1,
    random_start: bool = False,
    seed: int = 0,
) -> Attack:
    """Attack inputs without leaving a manifold: ``pgd`` in latent coordinates.

    Maximises the loss of f(decode(z + ζ)) over ‖ζ‖_p ≤ radius (Stutz et al. 2019).
    The clean inputs are ``decode(z)``.

    Args:
        net: the network.
        w: (..., k).
        z: (n, latent) coordinates of the clean inputs.
        decode: differentiable function from (members, n, latent) coordinates to
            (members, n, ...) inputs, such as ``PCAManifold.decode``. It always gets
            all n examples in their order, so that it may know their classes:
            ``lambda z: manifold.decode(z, labels)``.
        y: (n,) or (members, n) int64 labels or targets.
        radius: largest p-norm of ζ, in the units of z; a number or (members,).
        p: as for ``pgd``.
        steps: as for ``pgd``.
        step_size: as for ``pgd``.
        targeted: as for ``pgd``.
        restarts: as for ``pgd``.
        random_start: as for ``pgd``.
        seed: as for ``pgd``.

    Returns:
        An ``Attack`` whose ``latent`` holds z + ζ and whose ``norm`` is that of ζ.

    Raises:
        TypeError: z is no floating-point tensor, or y not int64.
        ValueError: as ``pgd``, or ``decode`` does not return (members, n, ...).
    """
    _check_inputs(z, "z")
    search = _Search(net, w, y, len(z), radius, p, steps, step_size, targeted)
    z = z.detach().to(search.w)
    with torch.no_grad():
        shape = decode(z.expand(len(search.w), *z.shape)).shape
    if shape[:2] != (len(search.w), len(z)):
        raise ValueError(
            f"decode made {tuple(shape)} of {(len(search.w), *z.shape)}, expected "
            f"({len(search.w)}, {len(z)}, ...)"
        )
    best = search.run(z, decode, None, restarts, random_start, seed, len(z))
    with torch.no_grad():
        return Attack(decode(best[0]), *best[1:], latent=best[0])


# -- the search ----------------------------------------------------------------------


class _Search:
    """Projected gradient ascent from several starts, for all members at once."""

    def __init__(self, net, w, y, n, radius, p, steps, step_size, targeted):
        self.net, self.w, members = net, w, len(w)
        if not (isinstance(y, Tensor) and y.dtype == torch.int64):
            given = y.dtype if isinstance(y, Tensor) else type(y).__name__
            raise TypeError(f"y is {given}, expected an int64 tensor")
        if y.shape[-1:] != (n,) or y.shape[:-1].numel() not in (1, members):
            own = "" if members == 1 else f" or ({members}, {n})"
            raise ValueError(f"y has shape {tuple(y.shape)}, expected ({n},){own}")
        self.y = y.to(w.device).reshape(-1, n).expand(members, n)
        if p not in (2, math.inf):
            raise ValueError(f"p must be 2 or math.inf, got {p!r}")
        if steps < 1:
            raise ValueError(f"steps must be at least 1, got {steps}")
        self.p, self.steps, self.targeted = p, steps, targeted
        self.radius = self._lengths(radius, "radius")
        if step_size is None:
            self.step_size = 2.5 * self.radius / steps
        else:
            self.step_size = self._lengths(step_size, "step_size")
        self.parameters = net.unflatten(self.w)

    def _lengths(self, value, name):
        """A positive length per member as (members, 1, 1), to scale (., n, d)."""
        value = torch.as_tensor(value, dtype=self.w.dtype, device=self.w.device)
        if value.shape not in ((), (len(self.w),)):
            raise ValueError(
                f"{name} must be a number or ({len(self.w)},), one per member, "
                f"got shape {tuple(value.shape)}"
            )
        if not bool(((value > 0) & value.isfinite()).all()):
            raise ValueError(f"{name} must be positive and finite, got {value}")
        return value.expand(len(self.w))[:, None, None]

    def run(self, centre, decode, box, restarts, random_start, seed, size):
        """Best points, whether they succeed, their losses and norms, per example."""
        if restarts < 1:
            raise ValueError(f"restarts must be at least 1, got {restarts}")
        generator = torch.Generator("cpu").manual_seed(seed)
        flat = centre.flatten(1)
        parts = [slice(i, i + size) for i in range(0, len(flat), size)]
        best = [self._clean(centre[part], part, decode) for part in parts]
        for restart in range(restarts):
            noise = None
            if random_start or restart:
                # in float64, so that both dtypes start from the same points
                unit = torch.zeros(flat.shape, dtype=torch.float64, device="cpu")
                noise = ball(1.0, self.p).at(unit).sample(generator=generator)
                noise = noise.to(flat.dtype).to(flat.device)
            for i, part in enumerate(parts):
                start = None if noise is None else noise[part]
                self._climb(centre[part], part, decode, box, start, best[i])
        points, success, loss = (
            torch.cat(column, 1) for column in zip(*best, strict=True)
        )
        moved = (points - centre).flatten(2)
        return points, success, loss, torch.linalg.vector_norm(moved, self.p, dim=-1)

    def _logits(self, points, decode):
        x = points if decode is None else decode(points)
        return self.net.evaluate(self.parameters, x, members=True, own_inputs=True)

    def _judge(self, logits, y):
        """Cross-entropy and success, (members, n)."""
        loss = F.cross_entropy(logits.flatten(0, 1), y.flatten(), reduction="none")
        hit = logits.argmax(-1) == y
        return loss.view(y.shape), hit if self.targeted else ~hit

    @torch.no_grad()
    def _clean(self, centre, part, decode):
        points = centre.expand(len(self.w), *centre.shape).contiguous()
        logits, y = self._logits(points, decode), self.y[:, part]
        low, high = int(y.min()), int(y.max())
        if low < 0 or high >= logits.shape[-1]:
            raise ValueError(
                f"y runs from {low} to {high}, the network has {logits.shape[-1]} "
                "classes"
            )
        loss, success = self._judge(logits, y)
        return [points, success, loss]

    def _climb(self, centre, part, decode, box, start, best):
        """Search from one start, and keep in ``best`` what improves on it."""
        flat = centre.flatten(1)
        delta = flat.new_zeros((len(self.w), *flat.shape))
        if start is not None:
            delta = project(self.radius * start, self.radius, self.p, flat, box)
        sign = -1 if self.targeted else 1
        for step in range(self.steps + 1):
            points = _inside(flat + delta, box).view(len(self.w), *centre.shape)
            last = step == self.steps
            with torch.set_grad_enabled(not last):
                points.requires_grad_(not last)
                logits = self._logits(points, decode)
                loss, success = self._judge(logits, self.y[:, part])
            _improve(best, points.detach(), success, loss.detach(), sign)
            if last:
                return
            # members and examples do not interact: the sum's gradient is each one's own
            gradient = torch.autograd.grad(sign * loss.sum(), points)[0].flatten(2)
            ascent = self.step_size * ball(1.0, self.p).at(gradient).steepest(gradient)
            delta = project(delta + ascent, self.radius, self.p, flat, box)


def _improve(best, points, success, loss, sign):
    better = success & ~best[1] | (success == best[1]) & (sign * loss > sign * best[2])
    shaped = better.view(*better.shape, *[1] * (points.ndim - 2))
    best[0] = torch.where(shaped, points, best[0])
    best[1] = torch.where(better, success, best[1])
    best[2] = torch.where(better, loss, best[2])


def project(
    delta: Tensor,
    radius: float | Tensor,
    p: float = 2,
    x: Tensor | float = 0.0,
    box: tuple[float, float] | None = None,
) -> Tensor:
    """The nearest perturbation in a ball that keeps the input in a box.

    The Euclidean projection onto {δ : ‖δ‖_p ≤ radius, lo ≤ x + δ ≤ hi}, exactly. For
    p = ∞ both sets are boxes. For p = 2 the optimality conditions make the result
    clip(s δ) with one s in (0, 1] per example; its norm grows with s, and is a
    quadratic between the values of s at which one more coordinate is clipped.

    Args:
        delta: (..., d) perturbations.
        radius: a positive number, or a tensor that broadcasts against (..., 1).
        p: 2 or ``math.inf``.
        x: inputs that broadcast against ``delta``, inside the box.
        box: (lo, hi), or None.

    Returns:
        (..., d), up to rounding inside both sets. What is inside already stays.
    """
    radius = torch.as_tensor(radius, dtype=delta.dtype, device=delta.device)
    if p == math.inf:
        delta = torch.minimum(torch.maximum(delta, -radius), radius)
        return delta if box is None else _inside(x + delta, box) - x
    if box is None:
        return _shrink(delta, radius)
    # how far each coordinate may go in its own direction
    room = torch.where(delta > 0, box[1] - x, x - box[0])
    size = delta.abs()
    clipped = delta.sign() * torch.minimum(size, room)
    outside = torch.linalg.vector_norm(clipped, dim=-1, keepdim=True) > radius
    if not outside.any():
        return clipped
    # s at which each coordinate meets the box: never for one that does not move
    meets = torch.where(size > 0, room / torch.where(size > 0, size, 1), math.inf)
    meets, order = meets.sort(dim=-1)
    room_sorted, size_sorted = room.gather(-1, order), size.gather(-1, order)
    # squared norm from the coordinates clipped before the i-th, and from the others
    stuck = _running_sum(room_sorted.square()) - room_sorted.square()
    free = _running_sum(size_sorted.square().flip(-1)).flip(-1)
    squared = radius.square()
    norms = stuck + torch.where(free > 0, meets.square() * free, 0)
    i = (norms < squared).sum(-1, keepdim=True).clamp_max(delta.shape[-1] - 1)
    rest, slope = squared - stuck.gather(-1, i), free.gather(-1, i)
    s = (rest.clamp_min(0) / torch.where(slope > 0, slope, 1)).sqrt()
    cut = delta.sign() * torch.minimum(s * size, room)
    return torch.where(outside, _shrink(cut, radius), clipped)


def _running_sum(x: Tensor) -> Tensor:
    """The cumulative sum, also where it has no deterministic kernel: on the CPU."""
    if x.is_cuda and torch.are_deterministic_algorithms_enabled():
        return x.cpu().cumsum(-1).to(x.device)
    return x.cumsum(-1)


def _shrink(delta, radius):
    length = torch.linalg.vector_norm(delta, dim=-1, keepdim=True)
    over = length > radius
    return torch.where(over, delta * (radius / torch.where(over, length, 1)), delta)


def _inside(x, box):
    return x if box is None else x.clamp(*box)


def _check_inputs(x, name):
    if not (isinstance(x, Tensor) and x.is_floating_point()):
        given = x.dtype if isinstance(x, Tensor) else type(x).__name__
        raise TypeError(f"{name} is {given}, expected a floating-point tensor")
    if x.ndim < 2 or len(x) == 0:
        raise ValueError(
            f"{name} has shape {tuple(x.shape)}, expected (n, ...) with n >= 1"
        )
    if not x.isfinite().all():
        raise ValueError(f"{name} holds NaN or infinite values")


def _check_box(x, box):
    low, high = box
    if not low < high:
        raise ValueError(f"box must be (lo, hi) with lo < hi, got {box}")
    if ((x < low) | (x > high)).any():
        raise ValueError(
            f"x runs from {float(x.min()):g} to {float(x.max()):g}, outside the box "
            f"from {low:g} to {high:g}; a box is in the units of x"
        )


# -- a known manifold ----------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class PCAManifold:
    """An affine subspace through the mean of the data, or one for each class.

    Latent coordinates are whitened: over the data that it was fitted to, each has
    mean 0 and variance 1. Without labels the group axis has length 1.

    Attributes:
        mean: (groups, d) float64 centres.
        components: (groups, k, d) float64, orthonormal rows.
        scale: (groups, k) float64 standard deviations along them, decreasing.
        shape: of one input; d is its number of entries.
        by_class: whether there is one subspace for each class.
    """

    mean: Tensor
    components: Tensor
    scale: Tensor
    shape: torch.Size
    by_class: bool

    def encode(self, x: Tensor, y: Tensor | None = None) -> Tensor:
        """Whitened coordinates of the nearest points of the manifold.

        Args:
            x: ``(..., n, *shape)`` inputs.
            y: (n,) int64 classes, where there is one subspace for each.

        Returns:
            (..., n, k).

        Raises:
            ValueError: y is missing or not asked for, or shapes do not fit.
        """
        mean, components, scale = self._pick(x, y)
        if x.shape[x.ndim - len(self.shape) :] != self.shape:
            raise ValueError(
                f"x has shape {tuple(x.shape)}, expected (..., n, *{tuple(self.shape)})"
            )
        flat = x.flatten(x.ndim - len(self.shape)) - mean
        return (components @ flat[..., None])[..., 0] / scale

    def decode(self, z: Tensor, y: Tensor | None = None) -> Tensor:
        """Inputs with given coordinates; differentiable in z.

        Args:
            z: (..., n, k) coordinates.
            y: (n,) int64 classes, where there is one subspace for each.

        Returns:
            ``(..., n, *shape)``.

        Raises:
            ValueError: y is missing or not asked for, or shapes do not fit.
        """
        mean, components, scale = self._pick(z, y)
        if z.shape[-1] != scale.shape[-1]:
            raise ValueError(
                f"z has shape {tuple(z.shape)}, expected (..., n, {scale.shape[-1]})"
            )
        flat = mean + ((z * scale)[..., None, :] @ components)[..., 0, :]
        return flat.unflatten(-1, self.shape)

    def project(self, x: Tensor, y: Tensor | None = None) -> Tensor:
        """Nearest points of the manifold.

        Args:
            x: ``(..., n, *shape)`` inputs.
            y: (n,) int64 classes, where there is one subspace for each.

        Returns:
            The shape of x.
        """
        return self.decode(self.encode(x, y), y)

    def distance(self, x: Tensor, y: Tensor | None = None) -> Tensor:
        """Euclidean distances from the manifold, in the units of x.

        Args:
            x: ``(..., n, *shape)`` inputs.
            y: (n,) int64 classes, where there is one subspace for each.

        Returns:
            (..., n).
        """
        off = (x - self.project(x, y)).flatten(x.ndim - len(self.shape))
        return torch.linalg.vector_norm(off, dim=-1)

    def _pick(self, like, y):
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
    """Fit the affine subspace that loses least of the data's variance.

    Args:
        x: (n, ...) inputs.
        k: dimension of the manifold.
        y: (n,) int64 classes, to fit a subspace to each class of 0 to ``max(y)``;
            None for one subspace for all.

    Returns:
        A ``PCAManifold``.

    Raises:
        TypeError: x is no floating-point tensor, or y not int64.
        ValueError: shapes do not fit, or some group of inputs spans fewer than k
            dimensions around its mean.
    """
    _check_inputs(x, "x")
    if y is None:
        groups = [x]
    else:
        if not (isinstance(y, Tensor) and y.dtype == torch.int64):
            raise TypeError("y must be an int64 tensor of classes")
        if y.shape != (len(x),) or int(y.min()) < 0:
            raise ValueError(
                f"y has shape {tuple(y.shape)} and lowest entry {int(y.min())}, "
                f"expected ({len(x)},) classes from 0 on"
            )
        groups = [x[y == label] for label in range(int(y.max()) + 1)]
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
