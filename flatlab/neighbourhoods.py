"""Neighbourhoods of w: the sets {ε : ‖ε / t(w)‖_p ≤ ρ} that sharpness looks at."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Neighbourhood:
    """The set {ε : ‖ε / t(w)‖_p ≤ ρ} around w. Where t = 0 nothing moves.

    Weights, perturbations and gradients are (k,) or (members, k), in the units of w. A
    ``layout`` is needed only by scales that know filters, layers or biases; it has the
    tensors ``.filter``, ``.layer`` and ``.is_bias``, each (k,).

    Args:
        radius: ρ > 0, a number or a tensor (members,).
        scale: the function t: ``scale(w, layout)`` returns t ≥ 0, shaped like w.
        p: 2 or ``math.inf``.

    Raises:
        ValueError: the radius is not positive and finite, or p is neither 2 nor ∞.
    """

    radius: float | torch.Tensor
    scale: Callable
    p: float = 2

    def __post_init__(self):
        radius = torch.as_tensor(self.radius)
        if radius.dim() > 1:
            raise ValueError(
                f"radius must be a number or (members,), got {tuple(radius.shape)}"
            )
        if not bool(((radius > 0) & radius.isfinite()).all()):
            raise ValueError(f"radius must be positive and finite, got {self.radius}")
        if self.p not in (2, math.inf):
            raise ValueError(f"p must be 2 or math.inf, got {self.p!r}")

    def steepest(self, gradient, w, layout=None):
        """The ε in the set that maximises gradient · ε.

        ρ t² g / ‖t g‖₂ for p = 2 (SAM, equation 2; ASAM, equation 7) and ρ t sign(g)
        for p = ∞. A zero gradient gives zero.

        Args:
            gradient: g, shaped like w.
            w: (k,) or (members, k).
            layout: the network's layout, where the scale needs it.

        Returns:
            ε, shaped like w.
        """
        t, radius = self.scale(w, layout), self._radius(w)
        if self.p == math.inf:
            return radius * t * gradient.sign()
        # The largest entry is taken out so that squares cannot under- or overflow.
        step = t * gradient
        step = step / _positive(step.abs().amax(-1, keepdim=True))
        return t * step * (radius / _positive(step.norm(dim=-1, keepdim=True)))

    def project(self, epsilon, w, layout=None):
        """The nearest point of the set, in the metric ‖ε / t‖₂ that defines it.

        For p = 2 ε shrinks radially; for p = ∞ its entries are clipped, which is the
        nearest point in the Euclidean metric too. A point of the set stays where it is.

        Args:
            epsilon: shaped like w.
            w: (k,) or (members, k).
            layout: the network's layout, where the scale needs it.

        Returns:
            ε inside the set, shaped like w.
        """
        t, radius = self.scale(w, layout), self._radius(w)
        if self.p == math.inf:
            return torch.minimum(torch.maximum(epsilon, -radius * t), radius * t)
        epsilon = torch.where(t > 0, epsilon, 0)
        length = _length(epsilon, t, self.p)[..., None]
        return torch.where(
            length > radius, epsilon * (radius / _positive(length)), epsilon
        )

    def norm(self, epsilon, w, layout=None):
        """‖ε / t‖_p: at most ρ inside the set; ∞ where ε moves along t = 0.

        Args:
            epsilon: shaped like w.
            w: (k,) or (members, k).
            layout: the network's layout, where the scale needs it.

        Returns:
            A tensor () or (members,).
        """
        return _length(epsilon, self.scale(w, layout), self.p)

    def sample(self, w, layout=None, *, seeds=None, generator=None, kind="inside"):
        """A random ε.

        Args:
            w: (k,) or (members, k).
            layout: the network's layout, where the scale needs it.
            seeds: one integer per member (for (k,) a single one): a member's draw
                depends on its own seed only.
            generator: a CPU ``torch.Generator`` to draw from instead.
            kind: "inside", uniform in the set; "boundary", a uniform point of the set
                moved out radially to ‖ε / t‖_p = ρ; "gaussian", ε = σ t z with z
                standard normal, which has E‖ε / t‖₂² = ρ² for p = 2 (σ = ρ / √k, k
                counting t > 0) and the box's own variance for p = ∞ (σ = ρ / √3).

        Returns:
            ε, shaped like w.

        Raises:
            ValueError: ``kind`` is unknown, or not exactly one of ``seeds`` and
                ``generator`` is given, or their number is not that of the members.
        """
        if kind not in ("inside", "boundary", "gaussian"):
            raise ValueError(f"kind must be inside, boundary or gaussian, got {kind!r}")
        if (seeds is None) == (generator is None):
            raise ValueError("give either seeds or a generator")
        if generator is None:
            seeds = [seeds] if isinstance(seeds, int) else list(seeds)
            if len(seeds) != math.prod(w.shape[:-1]):
                raise ValueError(
                    f"expected {math.prod(w.shape[:-1])} seeds, got {len(seeds)}"
                )
            generators = [torch.Generator().manual_seed(int(s)) for s in seeds]
            rows = [self._draw(w.shape[-1:], w.dtype, g, kind) for g in generators]
            z, u = (torch.stack(part) for part in zip(*rows, strict=True))
            z, u = z.reshape(w.shape), u.reshape(*w.shape[:-1], 1)
        else:
            z, u = self._draw(w.shape, w.dtype, generator, kind)
        z, u = z.to(w.device), u.to(w.device)
        t, radius = self.scale(w, layout), self._radius(w)
        z = torch.where(t > 0, z, 0)
        moving = (t > 0).sum(-1, keepdim=True).clamp_min(1)
        if kind == "gaussian":
            sigma = radius / (math.sqrt(3) if self.p == math.inf else moving.sqrt())
            return sigma * t * z
        if self.p == 2 or kind == "boundary":
            length = torch.linalg.vector_norm(z, self.p, dim=-1, keepdim=True)
            z = z / _positive(length)
        if self.p == 2 and kind == "inside":
            z = z * u ** (1 / moving)
        return radius * t * z

    def _draw(self, shape, dtype, generator, kind):
        """Entries of the standard distribution, and one uniform number per member."""
        if self.p == math.inf and kind != "gaussian":
            z = 2 * torch.rand(shape, dtype=dtype, generator=generator) - 1
        else:
            z = torch.randn(shape, dtype=dtype, generator=generator)
        u = torch.rand((*shape[:-1], 1), dtype=dtype, generator=generator)
        return z, u

    def _radius(self, w):
        """The radius with an axis for the coordinates of w."""
        if not isinstance(self.radius, torch.Tensor):
            return self.radius
        radius = self.radius.to(w.device, w.dtype)
        if radius.dim() and radius.shape != w.shape[:-1]:
            raise ValueError(
                f"radius is for {len(radius)} members, w has shape {tuple(w.shape)}"
            )
        return radius[..., None]


def _positive(x):
    """Replace zeros by ones, to divide by the result."""
    return torch.where(x > 0, x, 1)


def _length(epsilon, t, p):
    """‖ε / t‖_p over the last axis, with 0 / 0 = 0."""
    ratio = torch.where(epsilon == 0, 0, epsilon / t)
    return torch.linalg.vector_norm(ratio, p, dim=-1)


@dataclass(frozen=True)
class _Ones:
    """t = 1."""

    def __call__(self, w, layout=None):
        return torch.ones_like(w)


@dataclass(frozen=True)
class _OnePlusMagnitude:
    """t = |w| + 1."""

    def __call__(self, w, layout=None):
        return w.detach().abs() + 1


@dataclass(frozen=True)
class _Magnitude:
    """t = |w|, or the norm of w over its filter or layer, plus η."""

    by: str
    eta: float
    biases: bool

    def __call__(self, w, layout=None):
        w = w.detach()
        if layout is None and not (self.by == "weight" and self.biases):
            raise ValueError(
                f"a neighbourhood by {self.by!r} with biases={self.biases} needs the "
                f"network's layout"
            )
        if self.by == "weight":
            t = w.abs()
        else:
            group = getattr(layout, self.by).to(w.device)
            sums = w.new_zeros(*w.shape[:-1], int(group.max()) + 1)
            sums = sums.index_add(-1, group, w.square())
            t = sums.sqrt().index_select(-1, group)
        t = t + self.eta
        if not self.biases:
            t = torch.where(layout.is_bias.to(w.device), 1, t)
        return t


def ball(rho, p=2):
    """SAM's neighbourhood ‖ε‖_p ≤ ρ (Foret et al. 2021, equation 1).

    Args:
        rho: the radius, a positive number or a tensor (members,).
        p: 2 or ``math.inf``.

    Returns:
        A ``Neighbourhood`` with t = 1.

    Raises:
        ValueError: ``rho`` is not positive and finite, or p is neither 2 nor ∞.
    """
    return Neighbourhood(rho, _Ones(), p)


def keskar_box(eps):
    """Keskar's box |εᵢ| ≤ eps (|wᵢ| + 1) (Keskar et al. 2017, equation 3).

    Args:
        eps: a positive number or a tensor (members,); the paper takes 1e-3 and 5e-4.

    Returns:
        A ``Neighbourhood`` with t = |w| + 1 and p = ∞.

    Raises:
        ValueError: ``eps`` is not positive and finite.
    """
    return Neighbourhood(eps, _OnePlusMagnitude(), math.inf)


def adaptive_ball(rho, by="weight", eta=0.0, p=2, biases=True):
    """ASAM's neighbourhood ‖T_w⁻¹ ε‖_p ≤ ρ (Kwon et al. 2021, equation 3).

    Args:
        rho: the radius, a positive number or a tensor (members,).
        by: "weight": t = |w|; "filter" or "layer": t is the Euclidean norm of w over
            the filter or layer that a coordinate belongs to.
        eta: η ≥ 0, added to t; a weight of zero moves only if η > 0.
        p: 2 or ``math.inf``.
        biases: True scales biases by T_w like the rest, as in the paper; False gives
            them t = 1, as the authors' code does.

    Returns:
        A ``Neighbourhood`` with t = T_w + η.

    Raises:
        ValueError: an argument is out of range.
    """
    if by not in ("weight", "filter", "layer"):
        raise ValueError(f"by must be weight, filter or layer, got {by!r}")
    if not (0 <= eta < math.inf):
        raise ValueError(f"eta must be non-negative and finite, got {eta}")
    return Neighbourhood(rho, _Magnitude(by, float(eta), bool(biases)), p)
