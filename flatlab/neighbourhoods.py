"""Neighbourhoods of w: the sets {ε : ‖ε / t(w)‖_p ≤ ρ} that sharpness looks at."""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True)
class Neighbourhood:
    """The set {ε : ‖ε / t(w)‖_p ≤ ρ} around any w. Where t = 0 nothing moves.

    ``at`` binds it to a point. Scales that know filters, layers or biases need a
    ``layout`` there, with the tensors ``.filter``, ``.layer`` and ``.is_bias``, (k,).

    Args:
        radius: ρ > 0, a number or a tensor with one entry for each member.
        scale: the function t: ``scale(w, layout)`` returns t ≥ 0, shaped like w.
        p: 2 or ``math.inf``.
    """

    radius: float | Tensor
    scale: Callable
    p: float = 2

    def __post_init__(self) -> None:
        radius = torch.as_tensor(
            self.radius, device=getattr(self.radius, "device", "cpu")
        )
        if not bool(((radius > 0) & radius.isfinite()).all()):
            raise ValueError(f"radius must be positive and finite, got {self.radius}")
        if self.p not in (2, math.inf):
            raise ValueError(f"p must be 2 or math.inf, got {self.p!r}")

    def at(self, w: Tensor, layout: Any = None) -> "Bound":
        """The set around w, (k,) or (..., k), with t(w) computed once."""
        radius = self.radius
        if isinstance(radius, Tensor):
            if radius.ndim and radius.numel() != w.shape[:-1].numel():
                raise ValueError(
                    f"radius is for {radius.numel()} members, w has shape "
                    f"{tuple(w.shape)}"
                )
            radius = radius.to(w.device, w.dtype)
            radius = radius.reshape(*w.shape[:-1], 1) if radius.ndim else radius
        return Bound(self.scale(w.detach(), layout), radius, self.p)


@dataclass(frozen=True)
class Bound:
    """A neighbourhood of one point, or of one point for each member.

    Perturbations and gradients are shaped like w, in its units; further axes may lead.

    Attributes:
        t: shaped like w.
        radius: ρ, a number or a tensor that broadcasts against (..., 1).
        p: 2 or ``math.inf``.
    """

    t: Tensor
    radius: float | Tensor
    p: float

    def steepest(self, gradient: Tensor) -> Tensor:
        """The ε in the set that maximises gradient · ε.

        ρ t² g / ‖t g‖₂ for p = 2 (SAM, equation 2; ASAM, equation 7) and ρ t sign(g)
        for p = ∞. A zero gradient gives zero.
        """
        if self.p == math.inf:
            return self.radius * self.t * gradient.sign()
        # The largest entry is taken out so that squares cannot under- or overflow.
        step = self.t * gradient
        step = step / _positive(step.abs().amax(-1, keepdim=True))
        length = step.norm(dim=-1, keepdim=True)
        return self.t * step * (self.radius / _positive(length))

    def project(self, epsilon: Tensor) -> Tensor:
        """The nearest point of the set, in the metric ‖ε / t‖₂ that defines it.

        For p = 2 ε shrinks radially; for p = ∞ its entries are clipped, which is the
        nearest point in the Euclidean metric too. A point of the set stays where it is.
        """
        if self.p == math.inf:
            reach = self.radius * self.t
            return torch.minimum(torch.maximum(epsilon, -reach), reach)
        epsilon = torch.where(self.t > 0, epsilon, 0)
        length = self.norm(epsilon)[..., None]
        shorter = epsilon * (self.radius / _positive(length))
        return torch.where(length > self.radius, shorter, epsilon)

    def norm(self, epsilon: Tensor) -> Tensor:
        """‖ε / t‖_p, (...): at most ρ in the set; ∞ where ε moves along t = 0."""
        ratio = torch.where(epsilon == 0, 0, epsilon / self.t)
        return torch.linalg.vector_norm(ratio, self.p, dim=-1)

    @property
    def sigma(self) -> Tensor:
        """The deviation of ε / t that gives noise the size of the set, (..., 1).

        For p = 2 it is ρ / √k, with k counting t > 0, so that E‖ε / t‖₂² = ρ²; for
        p = ∞ ρ / √3, that of a uniform point of the box.
        """
        if self.p == math.inf:
            return self.radius / math.sqrt(3) + torch.zeros_like(self.t[..., :1])
        return self.radius / self._moving().sqrt()

    def spread(self, z: Tensor, kind: str) -> Tensor:
        """An ε of standard draws z: normal ones, for "inside" a box uniform in ±1.

        Args:
            z: shaped like w.
            kind: "boundary", z moved radially to ‖ε / t‖_p = ρ; "gaussian",
                ε = ``sigma`` t z; "inside", for a box only.
        """
        if kind == "gaussian":
            return self.sigma * self.t * z
        z = torch.where(self.t > 0, z, 0)
        if self.p == 2 or kind == "boundary":
            z = z / _positive(torch.linalg.vector_norm(z, self.p, -1, keepdim=True))
        return self.radius * self.t * z

    def sample(
        self,
        *,
        seeds: int | Iterable[int] | None = None,
        generator: torch.Generator | None = None,
        kind: str = "inside",
    ) -> Tensor:
        """A random ε.

        Args:
            seeds: one integer per member (for (k,) a single one): a member's draw
                depends on its own seed only.
            generator: a CPU ``torch.Generator`` to draw from instead.
            kind: "inside", uniform in the set; "boundary", a uniform point of the set
                moved out radially to ‖ε / t‖_p = ρ; "gaussian", normal with the
                standard deviation ``sigma`` t.
        """
        if kind not in ("inside", "boundary", "gaussian"):
            raise ValueError(f"kind must be inside, boundary or gaussian, got {kind!r}")
        if (seeds is None) == (generator is None):
            raise ValueError("give either seeds or a generator")
        shape = self.t.shape
        if generator is None:
            seeds = [seeds] if isinstance(seeds, int) else list(seeds or ())
            if len(seeds) != shape[:-1].numel():
                raise ValueError(
                    f"expected {shape[:-1].numel()} seeds, got {len(seeds)}"
                )
            own = [torch.Generator("cpu").manual_seed(int(s)) for s in seeds]
            rows = [self._draw(shape[-1:], g, kind) for g in own]
            z, u = (torch.stack(part) for part in zip(*rows, strict=True))
            z, u = z.reshape(shape), u.reshape(*shape[:-1], 1)
        else:
            z, u = self._draw(shape, generator, kind)
        epsilon = self.spread(z.to(self.t.device), kind)
        if self.p == 2 and kind == "inside":
            epsilon = epsilon * u.to(self.t.device) ** (1 / self._moving())
        return epsilon

    def _moving(self) -> Tensor:
        """How many coordinates may move, (..., 1)."""
        wide = torch.promote_types(self.t.dtype, torch.float32)
        return (self.t > 0).sum(-1, keepdim=True).clamp_min(1).to(wide)

    def _draw(self, shape, generator, kind) -> tuple[Tensor, Tensor]:
        """Entries of the standard distribution, and one uniform number per member."""
        how = {"dtype": self.t.dtype, "generator": generator, "device": "cpu"}
        box = self.p == math.inf and kind != "gaussian"
        z = 2 * torch.rand(shape, **how) - 1 if box else torch.randn(shape, **how)
        return z, torch.rand((*shape[:-1], 1), **how)


def check_set(given: Any) -> None:
    """Raise where a radius, say, was given instead of a neighbourhood."""
    if not isinstance(given, Neighbourhood):
        raise TypeError(
            f"expected a Neighbourhood, got {type(given).__name__}; make one with "
            "ball(rho), keskar_box(eps) or adaptive_ball(rho)"
        )


def _positive(x: Tensor) -> Tensor:
    """Replace zeros by ones, to divide by the result."""
    return torch.where(x > 0, x, 1)


@dataclass(frozen=True)
class _Ones:  # no function, whose repr differs from run to run
    def __call__(self, w: Tensor, layout: Any = None) -> Tensor:
        return torch.ones_like(w)


@dataclass(frozen=True)
class _OnePlusMagnitude:
    def __call__(self, w: Tensor, layout: Any = None) -> Tensor:
        return w.abs() + 1


@dataclass(frozen=True)
class _Magnitude:
    """t = |w|, or the norm of w over its filter or layer, plus η."""

    by: str
    eta: float
    biases: bool

    def __call__(self, w: Tensor, layout: Any = None) -> Tensor:
        if layout is None and not (self.by == "weight" and self.biases):
            raise ValueError(
                f"a neighbourhood by {self.by!r} with biases={self.biases} needs the "
                f"network's layout"
            )
        t = w.abs()
        if self.by != "weight":
            group = getattr(layout, self.by).to(w.device)
            # k sums are enough for any number of groups, which is not asked for
            sums = torch.zeros_like(w).index_add(-1, group, w.square())
            t = sums.sqrt().index_select(-1, group)
        t = t + self.eta
        if self.biases or layout is None:
            return t
        return torch.where(layout.is_bias.to(w.device), 1, t)


def ball(rho: float | Tensor, p: float = 2) -> Neighbourhood:
    """SAM's neighbourhood ‖ε‖_p ≤ ρ (Foret et al. 2021, equation 1).

    Args:
        rho: the radius, a positive number or a tensor (members,).
        p: 2 or ``math.inf``.
    """
    return Neighbourhood(rho, _Ones(), p)


def keskar_box(eps: float | Tensor) -> Neighbourhood:
    """Keskar's box |εᵢ| ≤ eps (|wᵢ| + 1) (Keskar et al. 2017, equation 3).

    Args:
        eps: a positive number or a tensor (members,); the paper takes 1e-3 and 5e-4.
    """
    return Neighbourhood(eps, _OnePlusMagnitude(), math.inf)


def adaptive_ball(
    rho: float | Tensor,
    by: str = "weight",
    eta: float = 0.0,
    p: float = 2,
    biases: bool = True,
) -> Neighbourhood:
    """ASAM's neighbourhood ‖T_w⁻¹ ε‖_p ≤ ρ (Kwon et al. 2021, equation 3).

    Args:
        rho: the radius, a positive number or a tensor (members,).
        by: "weight": t = |w|; "filter" or "layer": t is the Euclidean norm of w over
            the filter or layer that a coordinate belongs to.
        eta: η ≥ 0, added to t; a weight of zero moves only if η > 0.
        p: 2 or ``math.inf``.
        biases: True scales biases by T_w like the rest, as in the paper; False gives
            them t = 1, as the authors' code does.
    """
    if by not in ("weight", "filter", "layer"):
        raise ValueError(f"by must be weight, filter or layer, got {by!r}")
    if not (0 <= eta < math.inf):
        raise ValueError(f"eta must be non-negative and finite, got {eta}")
    return Neighbourhood(rho, _Magnitude(by, float(eta), bool(biases)), p)
