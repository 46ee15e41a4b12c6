"""Eigenvalues, trace, diagonal, soft rank and spectral density of operators.

Everything here works on a dense tensor of shape (..., k, k) or on any object with
``@``, ``.shape`` (..., k, k), ``.dtype`` and ``.device``; the leading axes count the
members of an ensemble. An operator may also offer ``exact_diagonal()``, which returns
None where it does not apply. Large vectors stay in the operator's dtype and place; all
else is kept in float64 on the CPU.
"""

import math
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from flatlab.progress import progress

# An error is measured relative to max(|value|, this share of the spectral norm).
NORM_SHARE = 0.01
# Probability, per certificate, that an eigenvalue above those reported goes unseen.
_MISS_PROBABILITY = 1e-6
# Rounding in a product, in units of the spectral norm times the machine epsilon.
_ROUNDING = 32
# Probes before a standard error is believed, and how many go into one product.
_FIRST_PROBES = 24
_BLOCK = 8
_CPU: dict[str, Any] = {"dtype": torch.float64, "device": "cpu"}


@dataclass(frozen=True)
class Eigenvalues:
    """Extreme eigenvalues and the evidence for them.

    Each value is within its residual ‖A v - value v‖ (of a unit vector v) of an
    eigenvalue. They descend; for both ends the k largest come first, then the k
    smallest.
    """

    values: Tensor  # (..., k), or (..., 2k) for both ends
    residuals: Tensor  # shaped like values
    products: Tensor  # (...), products with A that each member needed
    converged: Tensor  # (...), whether every value meets the tolerance
    vectors: Tensor | None = None  # (..., k_dim, k) unit eigenvectors, if asked for


@dataclass(frozen=True)
class Estimate:
    """A trace, a soft rank or a diagonal, and the evidence for it."""

    values: Tensor  # (...) a trace or a soft rank, or (..., k_dim) a diagonal
    standard_error: Tensor  # shaped like values, 0 where they are exact
    products: Tensor  # (...), products with A that were spent
    converged: Tensor  # (...), whether the standard error meets the tolerance


@dataclass(frozen=True)
class SpectralDensity:
    """A spectral density as weighted points: the share of eigenvalues near each node.

    Each probe contributes ``nodes.shape[-1] // probes`` consecutive nodes.
    """

    nodes: Tensor  # (..., probes · steps), in units of the eigenvalues
    weights: Tensor  # shaped like nodes; they sum to 1 over the last axis
    probes: int
    products: Tensor  # (...), products with A that were spent

    def moment(self, order: int) -> tuple[Tensor, Tensor]:
        """Mean of λ**order over all eigenvalues; order 1 is the trace divided by k.

        Returns:
            The estimate and its standard error over probes, each (...); the error is
            NaN for a single probe.
        """
        terms = self.weights * self.nodes**order
        mean, error = self._over_probes(terms[..., None, :])
        return mean[..., 0], error[..., 0]

    def density(self, grid: Any, width: Any) -> tuple[Tensor, Tensor]:
        """Density of eigenvalues, smoothed by a Gaussian.

        Args:
            grid: (points,) where to evaluate, in units of the eigenvalues.
            width: standard deviation of the Gaussian: a positive number, or (points,)
                for a width that grows along a logarithmic axis.

        Returns:
            The density at each point and its standard error over probes, each
            (..., points); the error is NaN for a single probe.
        """
        grid = torch.as_tensor(grid, dtype=self.nodes.dtype, device=self.nodes.device)
        width = torch.as_tensor(width, dtype=grid.dtype, device=grid.device)
        if not bool((width > 0).all()):
            raise ValueError(f"width must be positive, got {width}")
        width = width.expand(grid.shape)[:, None]
        bumps = torch.exp(
            -0.5 * ((grid[:, None] - self.nodes[..., None, :]) / width) ** 2
        )
        bumps = bumps / (width * math.sqrt(2 * math.pi))
        return self._over_probes(self.weights[..., None, :] * bumps)

    def _over_probes(self, terms: Tensor) -> tuple[Tensor, Tensor]:
        """Sum (..., points, nodes) terms; mean and standard error over probes."""
        single = terms.unflatten(-1, (self.probes, -1)).sum(-1) * self.probes
        error = torch.full_like(single[..., 0], math.nan)
        if self.probes > 1:
            error = single.std(-1) / math.sqrt(self.probes)
        return single.mean(-1), error


class _Operator:
    """A symmetric operator with one flat axis of members, counting its products."""

    def __init__(self, A: Any, scale: Tensor | None = None):
        missing = [a for a in ("shape", "dtype", "device") if not hasattr(A, a)]
        if missing or not hasattr(A, "__matmul__"):
            raise TypeError(
                f"expected a tensor or an operator with @, .shape, .dtype and .device, "
                f"got {type(A).__name__}"
            )
        shape = tuple(A.shape)
        if len(shape) < 2 or shape[-1] != shape[-2] or 0 in shape:
            raise ValueError(f"expected shape (..., k, k) with k ≥ 1, got {shape}")
        if A.dtype not in (torch.float32, torch.float64):
            raise ValueError(f"expected float32 or float64, got {A.dtype}")
        self.A, self.lead, self.k = A, shape[:-2], shape[-1]
        self.members = math.prod(self.lead)
        self.dtype, self.device = A.dtype, A.device
        self.eps = torch.finfo(A.dtype).eps
        self.products = 0
        self.bar: Any = None  # of progress
        self.scale = None
        if scale is not None:
            scale = torch.as_tensor(scale, dtype=self.dtype, device=self.device)
            of_all = (*self.lead, self.k)
            if scale.shape not in (of_all, of_all[-1:]) or not scale.isfinite().all():
                raise ValueError(
                    f"expected a finite scale of shape {of_all} or {of_all[-1:]}, got "
                    f"shape {tuple(scale.shape)}"
                )
            self.scale = scale.expand(of_all).reshape(self.members, self.k, 1)
        if isinstance(A, Tensor):
            if not bool(A.isfinite().all()):
                raise ValueError("the matrix holds NaN or infinite entries")
            gap = (A - A.mT).abs().amax((-2, -1))
            if bool((gap > math.sqrt(self.eps) * A.abs().amax((-2, -1))).any()):
                raise ValueError(
                    f"the matrix is not symmetric: entries of A and its transpose "
                    f"differ by up to {gap.max():.3g}"
                )

    def __matmul__(self, V: Tensor) -> Tensor:
        """Multiply (members, k, p) by members that are all finite."""
        out = self.product(V)
        # A sum is finite unless a term is not (or it overflows, which is as bad).
        self.need_finite(out.sum((-2, -1)).cpu())
        return out

    def product(self, V: Tensor) -> Tensor:
        """Multiply (members, k, p); the products counted are those per member."""
        V = V if self.scale is None else self.scale * V
        out = self.A @ V.reshape(*self.lead, self.k, V.shape[-1])
        out = out.reshape(self.members, self.k, V.shape[-1])
        self.products += V.shape[-1]
        if self.bar is not None:
            self.bar.update(V.shape[-1])
        return out if self.scale is None else self.scale * out

    def need_finite(self, values: Tensor) -> None:
        """Raise unless the values of all members, (members, ...), are finite."""
        finite = values.reshape(self.members, -1).isfinite().all(-1)
        bad = (~finite).nonzero().flatten().tolist()
        if bad:
            where = f" for members {bad}" if self.lead else ""
            raise ValueError(
                f"a product with the operator holds NaN or infinite entries{where}"
            )

    def need_symmetry(self, gap: Tensor, longest: Tensor) -> None:
        """Raise unless u·Av and v·Au, that differ by ``gap``, may be called equal."""
        share = (gap / longest.clamp_min(1e-300)).nan_to_num(0.0)
        worst = int(share.argmax())
        single = torch.finfo(torch.float32).eps
        if share[worst] > math.sqrt(single):
            member = worst * self.members // len(share)
            where = f" for member {member}" if self.lead else ""
            raise ValueError(
                f"the operator is not symmetric{where}: u·Av and v·Au differ by "
                f"{gap[worst]:.3g} where ‖Av‖ reaches {longest[worst]:.3g}"
                + ("; in float64 it may be" if self.dtype == torch.float32 else "")
            )
        if self.eps < single and share[worst] > math.sqrt(self.eps):
            self.eps = single
            warnings.warn(
                f"products with the operator are symmetric to {share[worst]:.1g} only: "
                "a part of it computes in float32, whatever it is given, and results "
                "are as accurate as in float32",
                RuntimeWarning,
                stacklevel=2,
            )

    def exact_diagonal(self) -> Tensor | None:
        """The diagonal, (members, k), where it is to be had without products."""
        if isinstance(self.A, Tensor):
            diagonal = self.A.diagonal(dim1=-2, dim2=-1)
        else:
            diagonal = getattr(self.A, "exact_diagonal", lambda: None)()
        if diagonal is None:
            return None
        diagonal = diagonal.reshape(self.members, self.k)
        return diagonal if self.scale is None else self.scale[..., 0] ** 2 * diagonal

    def place(self, values: Tensor) -> Tensor:
        """Values in the operator's dtype and place, which may lack float64."""
        return values.to(self.dtype).to(self.device)

    def tensor(self, values: Tensor) -> Tensor:
        """Small results, (members, ...), in the shape and place of the operator's."""
        if values.is_floating_point():
            values = values.to(self.dtype)
        return values.to(self.device).reshape((*self.lead, *values.shape[1:]))


def _norm(U: Tensor) -> Tensor:
    """Length over the last axis; float32 sums are pairwise, which ``norm`` is not."""
    # The largest entry is taken out so that squares cannot under- or overflow.
    largest = U.abs().amax(-1).clamp_min(torch.finfo(U.dtype).tiny)
    return (U / largest[..., None]).square().sum(-1).sqrt() * largest


def _inner(V: Tensor, U: Tensor) -> Tensor:
    """Inner products of the rows of V, (chains, rows, k), with U, (chains, k)."""
    size = 2**10
    end = U.shape[1] // size * size
    if U.device.type != "cpu" or U.dtype != torch.float32 or end <= size:
        return (U[:, None] @ V.mT)[:, 0]
    # A long CPU matrix product in float32 loses two digits: sum sums of short ones.
    short = [
        u[:end].view(-1, 1, size) @ v[:, :end].unflatten(1, (-1, size)).permute(1, 2, 0)
        for v, u in zip(V, U, strict=True)
    ]
    rest = U[:, None, end:] @ V[..., end:].mT
    return torch.stack([part.sum((0, 1)) for part in short]) + rest[:, 0]


def _to_cpu(*parts: Tensor) -> tuple[Tensor, ...]:
    """Small tensors (chains, ...) in float64 on the CPU, in one transfer."""
    sizes = [part[0].numel() for part in parts]
    joined = torch.cat([part.reshape(len(part), -1) for part in parts], 1)
    split = joined.cpu().double().split(sizes, 1)
    return tuple(s.reshape(p.shape) for s, p in zip(split, parts, strict=True))


class _Krylov:
    """An orthonormal basis V per chain, some rows of which A has been applied to.

    The first d rows of V, W, have been multiplied, and A Wᵀ = Vᵀ H. So T = H[:d] is
    W A Wᵀ, and S = H[d:] says what the products have outside of W, in terms of the rows
    that are pending: one for each start vector, until its Krylov space is exhausted.
    V is (chains, rows, k), where the operator is; H is (chains, rows, d), in float64 on
    the CPU. A chain belongs to a member, or to one of several probes of a member.

    Reference: Ruhe (1979), Implementation aspects of band Lanczos algorithms.
    """

    def __init__(self, operator: _Operator, seed: int = 0, probes: int = 1):
        self.operator, self.d = operator, 0
        self.chains = operator.members * probes
        options = {"dtype": operator.dtype, "device": operator.device}
        self._V = torch.zeros(self.chains, 16, operator.k, **options)
        self._H = torch.zeros(self.chains, 16, 16, **_CPU)
        self._pending = torch.zeros(self.chains, dtype=torch.long, device="cpu")
        self.rows = 1  # of V: multiplied ones, and as many as any chain has pending
        self._longest = torch.zeros(self.chains, **_CPU)
        # Draws depend on the seed and on how many a member had, not on the ensemble:
        # so its result is the same in any company.
        self._generator = torch.Generator("cpu").manual_seed(seed)
        self._draws: list[Tensor] = []
        self._drawn = torch.zeros_like(self._pending)

    @property
    def V(self) -> Tensor:
        return self._V[:, : self.rows]

    @property
    def H(self) -> Tensor:
        return self._H[:, : self.rows, : self.d]

    @property
    def T(self) -> Tensor:
        return self._H[:, : self.d, : self.d]

    def direction(self, c: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """What A Wᵀ c has outside of W, for c (chains, d).

        Returns its coefficients in the pending rows, its lengths (chains,) and a mask
        (chains,) of those that are nothing but rounding.
        """
        image = (self.H @ c[..., None])[..., 0]
        s = image[:, self.d :]
        length = s.norm(dim=-1)
        return s, length, ~(length > self._noise(image.norm(dim=-1)))

    def _noise(self, size: Tensor) -> Tensor:
        """What rounding leaves of an image of that length, (chains,).

        The image of a null vector is short, but no more accurate than others.
        """
        return _ROUNDING * self.operator.eps * torch.maximum(size, self._longest)

    def random(self, chosen: Tensor) -> Tensor:
        """A fresh Gaussian vector for each chosen chain, zero for the others."""
        out = torch.zeros_like(self._V[:, 0])
        for count in self._drawn[chosen].unique().tolist():
            while len(self._draws) <= count:
                draw = torch.randn(self.operator.k, generator=self._generator, **_CPU)
                self._draws.append(self.operator.place(draw))
            out[(chosen & (self._drawn == count)).to(out.device)] = self._draws[count]
        self._drawn[chosen] += 1
        return out

    def start(self, s: Tensor, chosen: Tensor, U: Tensor) -> Tensor:
        """Directions s, but for ``chosen`` those of U, (chains, k), outside of W."""
        rest, inside, length = self._outside(U, _inner(self.V, U))
        s = torch.where(chosen[:, None], inside[:, self.d :], s)
        size = inside.norm(dim=-1)
        new = chosen & (length > _ROUNDING * self.operator.eps * size)
        chain, row = self._keep(rest, new)
        s = torch.nn.functional.pad(s, (0, self.rows - self.d - s.shape[1]))
        s[chain, row - self.d] = length[new]
        return s

    def extend(self, s: Tensor) -> None:
        """Multiply the pending vectors in directions s, (chains, pending); 0: none."""
        d, rows = self.d, slice(self.d, self.rows)
        V, H = self._V, self._H
        # Turn the pending vectors so that the first of them has this direction.
        Q = s.sign()[..., None]
        if s.shape[1] > 1:
            Q, length = torch.linalg.qr(s[..., None], mode="complete")
            Q[..., 0] *= length[:, 0].sign()
        V[:, rows] = self.operator.place(Q.mT) @ V[:, rows]
        H[:, rows] = Q.mT @ H[:, rows]
        U = V[:, d]
        AU = U.reshape(self.operator.members, -1, self.operator.k).mT
        AU = self.operator.product(AU).mT.reshape(U.shape)
        # Since A is symmetric, most of what lies inside of V is known already.
        inside = torch.cat(
            [self.operator.place(H[:, d, :d]), (V[:, rows] * AU[:, None]).sum(-1)], 1
        )
        rest, inside, length = self._outside(AU, inside)
        size = inside.norm(dim=-1).hypot(length)
        self.operator.need_finite(size)
        self._longest = torch.maximum(self._longest, size)
        H[:, : rows.stop, d] = inside
        column, known = H[:, : d + 1, d], H[:, d, : d + 1]
        self.operator.need_symmetry((column - known).abs().amax(-1), self._longest)
        H[:, : d + 1, d] = H[:, d, : d + 1] = (column + known) / 2
        self.d = d + 1
        self._pending = (self._pending - 1).clamp_min(0)
        new = length > self._noise(size)
        chain, row = self._keep(rest, new)
        self._H[chain, row, d] = length[new]

    def _outside(self, U: Tensor, inside: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The part of U outside of V, as unit vectors, and its length.

        In the middle come U's coefficients in V; ``inside``, (chains, rows), are the
        same but for rounding. These and the length are in float64 on the CPU.
        """
        V = self._V[:, : inside.shape[1]]
        U = U - (inside[:, None] @ V)[:, 0]
        # again: a short remainder is not yet orthogonal
        more = _inner(V, U)
        U = U - (more[:, None] @ V)[:, 0]
        length = _norm(U)
        unit = U / length.clamp_min(torch.finfo(U.dtype).tiny)[:, None]
        inside, more, length = _to_cpu(inside, more, length)
        return unit, inside + more, length

    def _keep(self, U: Tensor, chosen: Tensor) -> tuple[Tensor, Tensor]:
        """Take unit vectors of chosen chains as pending; their places in V."""
        chain, row = chosen.nonzero()[:, 0], (self.d + self._pending)[chosen]
        self._pending = self._pending + chosen
        self.rows = self.d + max(1, int(self._pending.max()))
        if self.rows == self._V.shape[1]:
            pad = torch.nn.functional.pad
            self._V, self._H = pad(self._V, (0, 0, 0, 16)), pad(self._H, (0, 16, 0, 16))
        for place in row.unique().tolist():
            there = chain[row == place]
            mine = slice(None) if len(there) == self.chains else there.to(U.device)
            self._V[mine, place] = U[mine]
        return chain, row


def eigenvalues(
    A: Any,
    k: int = 1,
    *,
    which: str = "largest",
    tol: float = 1e-3,
    eigenvectors: bool = False,
    seed: int = 0,
    max_products: int | None = None,
) -> Eigenvalues:
    """Extreme eigenvalues of a symmetric operator, with multiplicity, by Lanczos.

    Lanczos with full reorthogonalisation runs until each asked value has a residual
    below the tolerance. One Krylov space cannot see the second copy of a multiple
    eigenvalue, and may pass over one that the start vector barely touches. So a second,
    short run from a fresh random vector, orthogonal to the first space, certifies that
    none is missing, with a probability of 1e-6 to be wrong. One that shows up instead
    joins the search.

    In float32 products are accurate to about 1e-7 of the spectral norm, and values to
    about 4e-6 of it; a smaller tolerance than that needs float64.

    Args:
        A: a dense tensor (..., k_dim, k_dim) or an operator of that shape, float32 or
            float64.
        k: how many eigenvalues, at each end that is asked for.
        which: "largest", "smallest" or "both" (algebraic order, not magnitude).
        tol: the true error allowed, relative to ``max(|value|, 0.01 · spectral norm)``.
        eigenvectors: whether to return the eigenvectors also.
        seed: seed of the random start vectors.
        max_products: products with A to spend per member; by default 500 + 10 k. The
            search keeps a vector of the operator's size for each product.

    Returns:
        An ``Eigenvalues``. Members without convergence are marked in ``converged``,
        with a warning.

    Reference: Haynsworth (1968), Determination of the inertia of a partitioned
    Hermitian matrix; Parlett (1998), The Symmetric Eigenvalue Problem, chapter 13.
    """
    operator = _Operator(A)
    if which not in ("largest", "smallest", "both"):
        raise ValueError(f"which must be largest, smallest or both, got {which!r}")
    signs = {"largest": (1,), "smallest": (-1,), "both": (1, -1)}[which]
    asked = k * len(signs)
    if not (isinstance(k, int) and 1 <= asked <= operator.k):
        raise ValueError(
            f"k must be an integer from 1 to {operator.k // len(signs)} for "
            f"which={which!r} of an operator of size {operator.k}, got {k!r}"
        )
    if not 0 < tol < 1:
        raise ValueError(f"tol must lie between 0 and 1, got {tol}")
    limit = 500 + 10 * k if max_products is None else max_products
    if limit < min(asked + 1, operator.k):
        raise ValueError(
            f"{asked} values need more than {asked} products, got max_products={limit}"
        )
    search = _Search(operator, signs, k, tol, seed, min(limit, operator.k))
    if eigenvectors:
        shape = operator.members, operator.k, asked
        search.vectors = operator.place(torch.zeros(shape, device="cpu"))
    with progress(search.limit, "eigenvalues") as operator.bar:
        search.run()
    if not bool(search.converged.all()):
        floor = _ROUNDING * operator.eps * NORM_SHARE**-1
        warnings.warn(
            f"{int((~search.converged).sum())} of {operator.members} members did not "
            f"reach tol={tol:g} in {int(search.products.max())} products; see "
            f"`residuals`, allow more products"
            + (", or use float64" if tol < floor else ""),
            RuntimeWarning,
            stacklevel=2,
        )
    return Eigenvalues(
        values=operator.tensor(search.values),
        residuals=operator.tensor(search.residuals),
        products=operator.tensor(search.products),
        converged=operator.tensor(search.converged),
        vectors=None if search.vectors is None else operator.tensor(search.vectors),
    )


class _Search:
    """The state of ``eigenvalues``: one growing subspace per member.

    A member either extends the subspace by the residual of its least settled value, or
    is in a run that certifies one end of the spectrum: with τ the last asked value plus
    its tolerance, the number of eigenvalues of A above τ is that of T = W A Wᵀ and that
    of the Schur complement C = P A P − P A Wᵀ (T − τ)⁻¹ W A P on the complement of W
    (Haynsworth). If C had one above τ, the part of the start vector along its
    eigenvector would be at most Π βᵢ / Π (τ − μᵢ) after some Lanczos steps on C with
    Ritz values μ and off-diagonals β. The run stops once that is improbable.
    """

    def __init__(
        self,
        operator: _Operator,
        signs: tuple[int, ...],
        k: int,
        tol: float,
        seed: int,
        limit: int,
    ):
        self.operator, self.signs, self.k, self.tol = operator, signs, k, tol
        self.limit, self.asked = limit, k * len(signs)
        self.space = _Krylov(operator, seed)
        m = operator.members
        no, none = torch.zeros(m, **_CPU), torch.zeros(m, **_CPU).long()
        self.active = none == 0
        self.values = torch.zeros(m, self.asked, **_CPU)
        self.residuals = torch.zeros_like(self.values)
        self.products, self.converged = none.clone(), none != 0
        self.vectors: Tensor | None = None
        # The certificates: how many ends are done, and the run on the present end:
        # where it started (-1: no run), the shift ±τ, the eigenvalues beyond τ and
        # log |det(T − τ)| at its start, and log Π β so far.
        self.done, self.start, self.beyond = none.clone(), none - 1, none.clone()
        self.shift, self.log_det, self.log_beta = no.clone(), no.clone(), no.clone()
        self.looked_at = 0
        self.rounding = no[:, None]

    def run(self) -> None:
        space = self.space
        s = torch.zeros(len(self.active), 1, **_CPU)
        s = space.start(s, self.active, space.random(self.active))
        while True:
            space.extend(torch.where(self.active[:, None], s, 0))
            d = space.d
            final = d == self.limit
            # With a large subspace the small problem costs more than it can save.
            look = d >= self.asked and (final or d < 64 or d % (d // 32) == 0)
            fresh = self._look(final) if look else torch.zeros_like(self.active)
            if not bool(self.active.any()):
                return
            s, length, noise = space.direction(self._next())
            self._certify(length, look, fresh)
            if not bool(self.active.any()):
                return
            lost = self.active & (noise | fresh)
            if bool(lost.any()):
                # A Krylov space that is exhausted holds no news of what remains.
                self.start[lost & ~fresh] = -1
                s = space.start(s, lost, space.random(lost))

    def _look(self, final: bool) -> Tensor:
        """Solve the small problem; finish members or start certificates.

        Returns the members whose next direction is to be random.
        """
        d, k, m = self.space.d, self.k, len(self.active)
        on, self.looked_at = self.active, d
        self.theta, Y = torch.zeros(m, d, **_CPU), torch.zeros(m, d, d, **_CPU)
        self.theta[on], Y[on] = torch.linalg.eigh(self.space.T[on])
        index = {1: range(d - 1, d - k - 1, -1), -1: range(k - 1, -1, -1)}
        index = torch.tensor([i for s in self.signs for i in index[s]], device="cpu")
        self.ritz, self.Y = self.theta[:, index], Y[:, :, index]
        norm = self.theta.abs().amax(-1, keepdim=True)
        self.rounding = _ROUNDING * self.operator.eps * norm
        self.target = self.tol * torch.maximum(self.ritz.abs(), NORM_SHARE * norm)
        self.target = self.target.clamp_min(1e-300)
        self.allowed = torch.maximum(self.target, self.rounding)
        # A Wᵀ y − θ Wᵀ y lies outside of W, but for rounding
        outside = (self.space.H[:, d:] @ self.Y).norm(dim=1)
        self.R_norm = outside.hypot(self.operator.eps * norm)
        self.settled = (self.R_norm <= self.allowed).all(-1)

        certified = self.done == len(self.signs)
        if final:
            # A basis of the whole space leaves nothing to certify.
            self._finish(on.clone(), certified | (d == self.operator.k))
            return ~on
        # An eigenvalue beyond τ that the first space had missed ends the certificate.
        running = self.start >= 0
        sign = self._sign()
        beyond = (sign * self.theta > sign * self.shift[:, None]).sum(-1)
        self.start[running & (beyond > self.beyond)] = -1
        settled = on & self.settled & (self.start < 0)
        self._finish(settled & certified, certified)
        fresh = settled & ~certified
        if bool(fresh.any()):
            self._begin(fresh)
        return fresh

    def _sign(self) -> Tensor:
        end = self.done.clamp_max(len(self.signs) - 1)
        return torch.tensor(self.signs, **_CPU)[end][:, None]

    def _begin(self, fresh: Tensor) -> None:
        """Set up the certificate of the present end for the members in ``fresh``."""
        sign = self._sign()
        end = self.done.clamp_max(len(self.signs) - 1)[:, None]
        # The outermost asked values come first at the top and last at the bottom.
        inner = torch.where(sign > 0, end * self.k + self.k - 1, end * self.k)
        edge, allowed = self.ritz.gather(1, inner), self.allowed.gather(1, inner)
        # Any τ up to the full tolerance will do: keep clear of Ritz values nearby.
        tau = edge + sign * allowed * torch.linspace(0.5, 1, 6, **_CPU)
        room = (tau[:, :, None] - self.theta[:, None]).abs().amin(-1)
        shift = tau.gather(1, room.argmax(-1, keepdim=True))
        beyond = (sign * self.theta > sign * shift).sum(-1)
        log_det = (self.theta - shift).abs().clamp_min(1e-300).log().sum(-1)
        self.start[fresh] = self.space.d
        self.shift[fresh] = shift[fresh, 0]
        self.beyond[fresh], self.log_det[fresh] = beyond[fresh], log_det[fresh]
        self.log_beta[fresh] = 0

    def _next(self) -> Tensor:
        """Coefficients c, (members, d), of the next direction P A W c."""
        d = self.space.d
        c = torch.zeros(len(self.active), d, **_CPU)
        c[:, -1] = 1
        extend = self.active & (self.start < 0)
        if self.looked_at == d and bool(extend.any()):
            # All residuals of one Krylov space are parallel; those of several are not.
            worst = (self.R_norm / self.allowed).argmax(-1)
            c[extend] = self.Y[torch.arange(len(c), device="cpu"), :, worst][extend]
        running = self.active & (self.start >= 0) & (self.start < d)
        if bool(running.any()):
            first = torch.arange(d, device="cpu") < self.start[running, None]
            T = self.space.T[running]
            shift = self.shift[running, None]
            M = torch.where(first[:, :, None] & first[:, None], T, 0)
            M = M - torch.diag_embed(torch.where(first, shift, 1))
            t = torch.where(first, T[:, -1], 0)
            c[running] -= torch.linalg.solve(M, t)
        return c

    def _certify(self, length: Tensor, look: bool, fresh: Tensor) -> None:
        """Add a step to the certificates; finish those whose bound is small enough."""
        running = self.active & (self.start >= 0) & ~fresh
        if not bool(running.any()):
            return
        beta = torch.maximum(length, self.rounding[:, 0])
        self.log_beta[running] += beta.log()[running]
        if not look:
            return
        distance = (self.theta - self.shift[:, None]).abs().clamp_min(1e-300)
        log_part = self.log_beta - (distance.log().sum(-1) - self.log_det)
        rest = self.operator.k - self.start
        log_chance = log_part + 0.5 * (2 * rest / math.pi).log()
        sure = running & (log_chance < math.log(_MISS_PROBABILITY))
        self.done[sure] += 1
        self.start[sure] = -1
        certified = self.done == len(self.signs)
        self._finish(sure & certified & self.settled, certified)

    def _finish(self, members: Tensor, certified: Tensor) -> None:
        """Record the results of ``members``."""
        self.values[members] = self.ritz[members]
        self.residuals[members] = self.R_norm[members]
        self.products[members] = self.space.d
        met = (self.R_norm <= self.target).all(-1) & certified
        self.converged[members] = met[members]
        if self.vectors is not None and bool(members.any()):
            here = members.to(self.operator.device)
            y = self.operator.place(self.Y[members].mT)
            self.vectors[here] = (y @ self.space.V[here, : self.space.d]).mT
        self.active[members] = False


def trace(
    A: Any,
    tol: float = 1e-2,
    *,
    scale: Tensor | None = None,
    max_products: int = 1000,
    seed: int = 0,
) -> Estimate:
    """Trace of a symmetric operator, exact where that is to be had.

    An operator is asked for its ``exact_diagonal()`` first; a dense tensor is summed.
    Elsewhere Hutchinson's estimator, the mean of g·Ag over random signs g, is applied
    to what a Krylov space W leaves over, tr A = tr WᵀAW + tr P A P, with W as large as
    pays: it takes out the few large eigenvalues that make the plain estimator noisy.
    Probes are added until their standard error meets the tolerance, or the unit vectors
    would be cheaper.

    Args:
        A: a dense tensor (..., k, k) or an operator of that shape.
        tol: the standard error allowed, relative to ``max(|trace|, ‖A‖_F)``. (Without
            negative eigenvalues the trace is the larger of the two.)
        scale: weights s, (k,) or (..., k): the result is then Σ sᵢ² Aᵢᵢ, from probes
            scaled by s.
        max_products: products with A to spend per member.
        seed: seed of the random vectors.

    Returns:
        An ``Estimate``. Members that did not meet the tolerance are marked in
        ``converged``, with a warning.

    Reference: Hutchinson (1990), A stochastic estimator of the trace; Meyer, Musco,
    Musco & Woodruff (2021), Hutch++, for splitting off a subspace.
    """
    operator = _Operator(A, scale)
    return _told(operator, *_estimate(operator, True, tol, max_products, seed), tol)


def diagonal(
    A: Any,
    tol: float = 0.1,
    *,
    scale: Tensor | None = None,
    max_products: int = 1000,
    seed: int = 0,
) -> Estimate:
    """Diagonal of a symmetric operator, like ``trace``: entries g ∘ Ag of the probes.

    With ``scale`` its entries are sᵢ² Aᵢᵢ. The standard error allowed is ``tol``, as a
    Euclidean norm over the entries, relative to max(‖diagonal‖₂, 0.1 ‖A‖_F).

    Reference: Bekas, Kokiopoulou & Saad (2007), An estimator for the diagonal.
    """
    operator = _Operator(A, scale)
    return _told(operator, *_estimate(operator, False, tol, max_products, seed), tol)


def _estimate(
    operator: _Operator, whole: bool, tol: float, max_products: int, seed: int
) -> tuple[Tensor, Tensor, Tensor]:
    """The trace, or the diagonal: values, errors, and whether they meet ``tol``."""
    if not 0 < tol < 1:
        raise ValueError(f"tol must lie between 0 and 1, got {tol}")
    if max_products < 2:
        raise ValueError(f"max_products must be at least 2, got {max_products}")
    exact = operator.exact_diagonal()
    if exact is None and operator.k > min(_FIRST_PROBES, max_products):
        probes = _Probes(operator, whole, tol, seed)
        label = "trace" if whole else "diagonal"
        with progress(max_products, label) as operator.bar:
            if probes.run(max_products):
                return probes.values, probes.standard_error, probes.met
    if exact is None:
        parts = [
            A[:, rows].diagonal(dim1=-2, dim2=-1) for rows, A in _columns(operator)
        ]
        exact = torch.cat(parts, -1)
    return _exactly(exact.sum(-1) if whole else exact)


def _exactly(values: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    met = torch.ones(len(values), dtype=torch.bool, device="cpu")
    return values, torch.zeros_like(values), met


def _told(
    operator: _Operator, values: Tensor, error: Tensor, met: Tensor, tol: float
) -> Estimate:
    """The result, with a warning where its error does not meet the tolerance."""
    if not bool(met.all()):
        warnings.warn(
            f"{int((~met).sum())} of {operator.members} members did not reach "
            f"tol={tol:g} in {operator.products} products; see `standard_error`, or "
            "allow more products (for a soft rank perhaps more steps)",
            RuntimeWarning,
            stacklevel=3,
        )
    products = torch.full((operator.members,), operator.products, device="cpu")
    return Estimate(*map(operator.tensor, (values, error, products, met)))


def _columns(operator: _Operator) -> Iterator[tuple[Tensor, Tensor]]:
    """A few columns of A at a time: which, and themselves, (members, k, few)."""
    for rows in torch.arange(operator.k, device="cpu").split(_BLOCK):
        E = operator.place(torch.arange(operator.k, device="cpu")[:, None] == rows)
        yield rows, operator @ E.expand(operator.members, -1, -1)


class _Probes:
    """Hutchinson's estimator on the complement of a Krylov space."""

    def __init__(self, operator: _Operator, whole: bool, tol: float, seed: int):
        self.operator, self.whole, self.tol = operator, whole, tol
        self.space = _Krylov(operator, seed)
        self.generator = torch.Generator("cpu").manual_seed(seed + 1)
        self.count, self.mean, self.spread = 0, torch.zeros((), **_CPU), 0.0
        self.values = self.standard_error = self.met = self.mean

    def run(self, limit: int) -> bool:
        """Estimate within ``limit`` products; False if unit vectors are cheaper."""
        operator = self.operator
        first = min(_FIRST_PROBES, limit)
        blocks = [self._block(min(_BLOCK, first - i)) for i in range(0, first, _BLOCK)]
        # E‖Ag‖² = ‖A‖_F² for random signs g.
        squares = torch.cat([AG.square().sum(1) for _, AG in blocks], -1)
        self.frobenius = squares.cpu().double().mean(-1).sqrt()
        need = self._look(blocks)
        # The first probes judge whether a larger subspace would pay for itself. They
        # do not enter the subspace, so the estimate stays unbiased.
        while need > _BLOCK and self._left(limit) > 2 * _BLOCK:
            if not self._extend():
                break
            last, need = need, self._look(blocks)
            if last - need < _BLOCK:
                break
        if need > 0 and operator.k <= min(need, self._left(limit)):
            return False
        while need > 0 and self._left(limit) > 0:
            block = self._block(min(_BLOCK, self._left(limit)))
            need = self._look([block], more=True)
        return True

    def _left(self, limit: int) -> int:
        return limit - self.operator.products

    def _block(self, count: int) -> tuple[Tensor, Tensor]:
        """Random signs G, the same for every member, and A G: (members, k, count)."""
        operator = self.operator
        shape = (operator.k, count)
        G = torch.randint(0, 2, shape, generator=self.generator, device="cpu")
        G = operator.place(2 * G - 1).expand(operator.members, -1, -1)
        return G, operator @ G

    def _extend(self) -> bool:
        """Grow the Krylov space by a few vectors; False when none are left."""
        space = self.space
        for _ in range(_BLOCK):
            if space.d == self.operator.k:
                return False
            s, _, lost = space.direction(_last(space))
            if bool(lost.any()):
                s = space.start(s, lost, space.random(lost))
            space.extend(s)
        return True

    def _samples(self, G: Tensor, AG: Tensor) -> Tensor:
        """What each probe says of the complement of W: (members, entries, count)."""
        d, V = self.space.d, self.space.V
        inside, image = V[:, :d] @ G, V[:, :d] @ AG
        # (I - WᵀW) A (I - WᵀW), entry by entry on the side of G.
        coefficients = torch.cat(
            [image, self.operator.place(self.space.H[:, d:]) @ inside], 1
        )
        AG_out = AG - V.mT @ coefficients
        if not self.whole:
            return (G * AG_out).cpu().double()
        G_out = G - V[:, :d].mT @ inside
        return (G_out * AG_out).sum(1, keepdim=True).cpu().double()

    def _known(self) -> Tensor:
        """The part of the result that W accounts for, (members, entries)."""
        d, V, H = self.space.d, self.space.V, self.space.H.clone()
        if self.whole:
            return self.space.T.diagonal(dim1=-2, dim2=-1).sum(-1, keepdim=True)
        # A − P A P = A WᵀW + WᵀW A − WᵀT W
        H[:, d:] *= 2
        return (V[:, :d] * (self.operator.place(H.mT) @ V)).cpu().double().sum(1)

    def _look(self, blocks: list[tuple[Tensor, Tensor]], more: bool = False) -> int:
        """Update the estimate; return how many more probes it is likely to need."""
        samples = torch.cat([self._samples(G, AG) for G, AG in blocks], -1)
        if not more:
            self.count, self.mean, self.spread = 0, torch.zeros((), **_CPU), 0.0
        count, mean = samples.shape[-1], samples.mean(-1)
        gap, total = mean - self.mean, self.count + count
        self.spread = (
            self.spread
            + (samples - mean[..., None]).square().sum(-1)
            + gap.square() * (self.count * count / total)
        )
        self.mean, self.count = self.mean + gap * (count / total), total
        values = self._known() + self.mean
        error = (self.spread / (total - 1) / total).sqrt()
        size = values.square().sum(-1).sqrt()
        floor = self.frobenius * (1 if self.whole else 0.1)
        allowed = self.tol * torch.maximum(size, floor)
        # Rounding alone must not keep an exact answer from being accepted.
        allowed = allowed + _ROUNDING * self.operator.eps * self.frobenius
        spread = error.square().sum(-1).sqrt()
        self.met = spread <= allowed
        self.values, self.standard_error = values, error
        if self.whole:
            self.values, self.standard_error = values[:, 0], error[:, 0]
        short = (spread / allowed.clamp_min(torch.finfo(allowed.dtype).tiny)).square()
        need = torch.where(self.met, 0, total * (short - 1))
        return math.ceil(min(float(need.max()), 1e12))


def soft_rank(
    A: Any,
    ridge: float | Tensor,
    tol: float = 0.05,
    *,
    steps: int = 80,
    max_products: int = 4000,
    seed: int = 0,
) -> Estimate:
    """How many eigenvalues stand out from a ridge: tr A (A + ridge · I)⁻¹.

    An eigenvalue h counts h / (h + ridge): one where it is far above the ridge, one
    half where it equals it, nothing where it is zero. Statistics calls it the effective
    degrees of freedom of ridge regression. An eigenvalue below zero, which a minimum
    has not, counts nothing.

    A dense tensor and a small operator are diagonalised. Elsewhere stochastic Lanczos
    quadrature (``spectral_density``) is run on more and more probes, until the error
    meets the tolerance.

    Args:
        A: a dense tensor (..., k, k) or an operator of that shape.
        ridge: positive, in units of the eigenvalues; a number or one for each member.
            For the Hessian of a loss trained with weight decay, the decay.
        tol: the standard error allowed, relative to the value, or to 1 if that is more.
        steps: Lanczos steps per probe (at most k are taken).
        max_products: products with A to spend per member.
        seed: seed of the probes.

    Returns:
        An ``Estimate``, its values between 0 and k. The standard error is that over
        probes together with what the second half of the steps changed. Divided by the
        number of examples, the soft rank is an estimate in nats of the gap between test
        and training loss (Shoham et al.).

    Reference: Shoham, Mor-Yosef & Avron (2025), Flatness after all?
    """
    operator = _Operator(A)
    if not 0 < tol < 1:
        raise ValueError(f"tol must lie between 0 and 1, got {tol}")
    if steps < 1 or max_products < 2:
        raise ValueError(
            f"need steps ≥ 1 and max_products ≥ 2, got {steps} and {max_products}"
        )
    ridge = torch.as_tensor(ridge, **_CPU)
    if not bool(((ridge > 0) & ridge.isfinite()).all()):
        raise ValueError(f"ridge must be positive and finite, got {ridge.tolist()}")
    if ridge.shape not in ((), operator.lead):
        raise ValueError(
            f"ridge has shape {tuple(ridge.shape)}, expected one number or one for "
            f"each member, {tuple(operator.lead)}"
        )
    ridge = ridge.expand(operator.lead).reshape(operator.members, 1)
    steps = min(steps, operator.k)
    if isinstance(A, Tensor) or operator.k <= min(_FIRST_PROBES * steps, max_products):
        found = _exactly(_counts(_spectrum(operator), ridge).sum(-1))
    else:
        found = _soft_rank(operator, ridge, tol, steps, max_products, seed)
    return _told(operator, *found, tol)


def _counts(values: Tensor, ridge: Tensor) -> Tensor:
    """What each eigenvalue adds to the soft rank."""
    positive = values.clamp_min(0)
    return positive / (positive + ridge)


def _spectrum(operator: _Operator) -> Tensor:
    """All eigenvalues, (members, k), of a dense tensor or from k products."""
    A = operator.A
    if not isinstance(A, Tensor):
        A = torch.cat([columns for _, columns in _columns(operator)], -1)
        gap = (A - A.mT).abs().amax((-2, -1)).cpu()
        operator.need_symmetry(gap, A.abs().amax((-2, -1)).cpu())
    # one member at a time: in float64 all of them may not fit
    each = A.reshape(operator.members, operator.k, operator.k)
    return torch.stack(
        [torch.linalg.eigvalsh((a + a.mT).to("cpu", torch.float64) / 2) for a in each]
    )


def _soft_rank(
    operator: _Operator,
    ridge: Tensor,
    tol: float,
    steps: int,
    max_products: int,
    seed: int,
) -> tuple[Tensor, Tensor, Tensor]:
    """Soft rank by quadrature: values, errors, and whether they meet the tolerance."""
    generator = torch.Generator("cpu").manual_seed(seed)
    found = torch.zeros(2, operator.members, 0, **_CPU)
    while True:
        T = _lanczos(operator, _BLOCK // 2, steps, generator)
        T = T.unflatten(0, (operator.members, -1))
        parts = []
        for size in (steps, max(1, steps // 2)):
            nodes, Y = torch.linalg.eigh(T[..., :size, :size])
            counted = _counts(nodes, ridge[..., None]) * Y[..., 0, :].square()
            parts.append(operator.k * counted.sum(-1))
        found = torch.cat([found, torch.stack(parts)], -1)
        values, change = found[0].mean(-1), (found[0] - found[1]).mean(-1)
        error = (found[0].std(-1) / math.sqrt(found.shape[-1])).hypot(change)
        met = error <= tol * values.clamp_min(1)
        left = max_products - operator.products
        if (bool(met.all()) and found.shape[-1] >= _BLOCK) or left < steps * _BLOCK / 2:
            return values, error, met


def spectral_density(
    A: Any, probes: int = 8, steps: int = 80, *, seed: int = 0
) -> SpectralDensity:
    """Spectral density of a symmetric operator by stochastic Lanczos quadrature.

    Each probe, uniform on the unit sphere, sees the spectrum with weights whose mean is
    1/k per eigenvalue; Lanczos turns them into a Gauss quadrature, exact for
    polynomials of degree below 2 · steps.

    Args:
        A: a dense tensor (..., k, k) or an operator of that shape.
        probes: number of random probes; they are multiplied together.
        steps: Lanczos steps per probe (at most k are taken).
        seed: seed of the probes.

    Returns:
        A ``SpectralDensity``; its first moment is the trace divided by k, up to the
        standard error that it states.

    Reference: Ubaru, Chen & Saad (2017), Fast estimation of tr(f(A)) via stochastic
    Lanczos quadrature; Ghorbani, Krishnan & Xiao (2019) for networks.
    """
    operator = _Operator(A)
    if probes < 1 or steps < 1:
        raise ValueError(f"need probes ≥ 1 and steps ≥ 1, got {probes} and {steps}")
    steps = min(steps, operator.k)
    generator = torch.Generator("cpu").manual_seed(seed)
    nodes, Y = torch.linalg.eigh(_lanczos(operator, probes, steps, generator))
    weights = Y[:, 0].square() / probes
    m = operator.members
    products = torch.full((m,), operator.products, device="cpu")
    return SpectralDensity(
        nodes=operator.tensor(nodes.reshape(m, probes * steps)),
        weights=operator.tensor(weights.reshape(m, probes * steps)),
        probes=probes,
        products=operator.tensor(products),
    )


def _lanczos(
    operator: _Operator, probes: int, steps: int, generator: torch.Generator
) -> Tensor:
    """T, (members · probes, steps, steps), of Lanczos from random directions."""
    space = _Krylov(operator, probes=probes)
    q = torch.randn(probes, operator.k, generator=generator, **_CPU)
    q = operator.place(q / q.norm(dim=-1, keepdim=True))
    every = torch.ones(space.chains, dtype=torch.bool, device="cpu")
    s = torch.zeros(space.chains, 1, **_CPU)
    s = space.start(s, every, q.repeat(operator.members, 1))
    for _ in progress(range(steps), "spectral density"):
        space.extend(s)
        s, _, lost = space.direction(_last(space))
        # A probe whose Krylov space is exhausted is complete: it stays where it is.
        s = torch.where(lost[:, None], 0, s)
    return space.T


def _last(space: _Krylov) -> Tensor:
    """The coefficients of W's latest vector, (chains, d)."""
    c = torch.zeros(space.chains, space.d, **_CPU)
    c[:, -1:] = 1
    return c
