"""Eigenvalues, trace, diagonal and spectral density of symmetric operators.

Everything here works on a dense tensor of shape (..., k, k) or on any object with
``@``, ``.shape`` (..., k, k), ``.dtype`` and ``.device``; the leading axes count the
members of an ensemble. An operator may also offer ``exact_trace()`` and
``exact_diagonal()``, which return None where they do not apply.
"""

import math
import warnings
from contextlib import contextmanager
from dataclasses import dataclass

import torch

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


@dataclass(frozen=True)
class Eigenvalues:
    """Extreme eigenvalues and the evidence for them.

    Attributes:
        values: (members, k), descending. For both ends (members, 2k): the k largest,
            then the k smallest.
        residuals: ‖A v - value v‖ for unit vectors v, shaped like ``values``. Each
            value is within its residual of an eigenvalue.
        products: (members,), the products with A that each member needed.
        converged: (members,), whether every value meets the tolerance.
        vectors: (members, k_dim, k) unit eigenvectors in columns, or None unless
            asked for.
    """

    values: torch.Tensor
    residuals: torch.Tensor
    products: torch.Tensor
    converged: torch.Tensor
    vectors: torch.Tensor | None = None


@dataclass(frozen=True)
class Trace:
    """A trace and the evidence for it.

    Attributes:
        values: (members,).
        standard_error: (members,), 0 where the trace is exact.
        products: (members,), the products with A that were spent.
        converged: (members,), whether the standard error meets the tolerance.
    """

    values: torch.Tensor
    standard_error: torch.Tensor
    products: torch.Tensor
    converged: torch.Tensor


@dataclass(frozen=True)
class Diagonal:
    """A diagonal and the evidence for it.

    Attributes:
        values: (members, k).
        standard_error: (members, k), 0 where the diagonal is exact.
        products: (members,), the products with A that were spent.
        converged: (members,), whether the standard error meets the tolerance.
    """

    values: torch.Tensor
    standard_error: torch.Tensor
    products: torch.Tensor
    converged: torch.Tensor


@dataclass(frozen=True)
class SpectralDensity:
    """A spectral density as weighted points: the share of eigenvalues near each node.

    Attributes:
        nodes: (members, probes · steps), in units of the eigenvalues.
        weights: shaped like ``nodes``; they sum to 1 over the last axis.
        probes: number of random probes; each contributes ``steps`` consecutive nodes.
        products: (members,), the products with A that were spent.
    """

    nodes: torch.Tensor
    weights: torch.Tensor
    probes: int
    products: torch.Tensor

    def moment(self, order):
        """Mean of λ**order over all eigenvalues.

        Args:
            order: a non-negative integer; order 1 is the trace divided by k.

        Returns:
            The estimate and its standard error over probes, each (members,); the
            error is NaN for a single probe.
        """
        return self._over_probes((self.weights * self.nodes**order)[..., None, :])

    def density(self, grid, width):
        """Density of eigenvalues, smoothed by a Gaussian.

        Args:
            grid: (points,) where to evaluate, in units of the eigenvalues.
            width: standard deviation of the Gaussian: a positive number, or (points,)
                for a width that grows along a logarithmic axis.

        Returns:
            The density at each point and its standard error over probes, each
            (members, points); the error is NaN for a single probe.

        Raises:
            ValueError: a width is not positive.
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

    def _over_probes(self, terms):
        """Sum (members, points, nodes) terms; mean and standard error over probes."""
        single = terms.unflatten(-1, (self.probes, -1)).sum(-1) * self.probes
        mean, error = single.mean(-1), torch.full_like(single[..., 0], math.nan)
        if self.probes > 1:
            error = single.std(-1) / math.sqrt(self.probes)
        if mean.shape[-1] == 1 and terms.shape[-2] == 1:
            mean, error = mean.squeeze(-1), error.squeeze(-1)
        return mean, error


class _Operator:
    """A symmetric operator with one flat axis of members, counting its products."""

    def __init__(self, A, scale=None):
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
        self._bar = None
        self.scale = None
        if scale is not None:
            scale = torch.as_tensor(scale, dtype=self.dtype, device=self.device)
            if not bool(scale.isfinite().all()):
                raise ValueError("scale holds NaN or infinite entries")
            try:
                scale = scale.expand(*self.lead, self.k)
            except RuntimeError:
                raise ValueError(
                    f"expected scale of shape {(*self.lead, self.k)}, "
                    f"got {tuple(scale.shape)}"
                ) from None
            self.scale = scale.reshape(self.members, self.k, 1)
        if isinstance(A, torch.Tensor):
            if not bool(A.isfinite().all()):
                raise ValueError("the matrix holds NaN or infinite entries")
            gap = (A - A.mT).abs().amax((-2, -1))
            if bool((gap > math.sqrt(self.eps) * A.abs().amax((-2, -1))).any()):
                raise ValueError(
                    f"the matrix is not symmetric: entries of A and its transpose "
                    f"differ by up to {gap.max():.3g}"
                )

    def __matmul__(self, V):
        """Multiply (members, k, p); the products counted are those per member."""
        V = V if self.scale is None else self.scale * V
        out = self.A @ V.reshape(*self.lead, self.k, V.shape[-1])
        out = out.reshape(self.members, self.k, V.shape[-1])
        out = out if self.scale is None else self.scale * out
        self.products += V.shape[-1]
        if self._bar is not None:
            self._bar.update(V.shape[-1])
        # A sum is finite unless a term is not (or it overflows, which is as bad).
        bad = (~out.sum((-2, -1)).isfinite()).nonzero().flatten().tolist()
        if bad:
            where = f" for members {bad}" if self.lead else ""
            raise ValueError(
                f"a product with the operator holds NaN or infinite entries{where}"
            )
        return out

    @contextmanager
    def watched(self, label, most):
        """Show products as they are made; a search may need fewer than ``most``."""
        with progress(int(most), label) as self._bar:
            yield
        self._bar = None

    def exact_diagonal(self):
        """The diagonal, (members, k), where it is to be had exactly; else None."""
        if isinstance(self.A, torch.Tensor):
            diagonal = self.A.diagonal(dim1=-2, dim2=-1)
        else:
            diagonal = getattr(self.A, "exact_diagonal", lambda: None)()
        if diagonal is None:
            return None
        diagonal = diagonal.reshape(self.members, self.k)
        return (
            diagonal if self.scale is None else self.scale.squeeze(-1) ** 2 * diagonal
        )

    def exact_trace(self):
        """The trace, (members,), where it is to be had exactly; else None."""
        if self.scale is None and not isinstance(self.A, torch.Tensor):
            trace = getattr(self.A, "exact_trace", lambda: None)()
            if trace is not None:
                return torch.as_tensor(trace).reshape(self.members)
        diagonal = self.exact_diagonal()
        return None if diagonal is None else diagonal.sum(-1)

    def tensor(self, values):
        """Small results, (members, ...), in the shape and place of the operator's."""
        values = torch.as_tensor(values)
        dtype = self.dtype if values.is_floating_point() else values.dtype
        values = values.to(device=self.device, dtype=dtype)
        return values.reshape((*self.lead, *values.shape[1:]))


def _norm(U):
    """Length over the last axis; float32 sums are pairwise, which ``norm`` is not."""
    # The largest entry is taken out so that squares cannot under- or overflow.
    largest = U.abs().amax(-1).clamp_min(torch.finfo(U.dtype).tiny)
    return (U / largest[..., None]).square().sum(-1).sqrt() * largest


def _inner(W, U):
    """Inner products of the rows of W, (members, d, k), with U, (members, k)."""
    if U.device.type == "cpu" and U.dtype == torch.float32:
        # Pairwise sums: a long CPU matrix product in float32 loses a digit or two.
        return (W * U[:, None]).sum(-1)
    return (W @ U[..., None])[..., 0]


class _Subspace:
    """An orthonormal basis W per member, the products A W, and T = Wᵀ A W.

    W and A W are (members, d, k), one vector per row; T and the Gram matrix of A W are
    (members, d, d) in float64 on the CPU. Random directions depend on the seed and on
    how many were drawn, not on the ensemble, so a member's result is the same in any
    company.
    """

    def __init__(self, operator, seed):
        self.operator, self.d = operator, 0
        m, k = operator.members, operator.k
        self._W = torch.zeros(
            m, min(16, k), k, dtype=operator.dtype, device=operator.device
        )
        self._AW = self._W.clone()
        self._longest = torch.zeros(m, dtype=torch.float64)
        self._generator = torch.Generator().manual_seed(seed)
        self._draws = []
        self._drawn = torch.zeros(m, dtype=torch.long)
        self.T = torch.zeros(m, 0, 0, dtype=torch.float64)
        self.gram = self.T

    @property
    def W(self):
        return self._W[:, : self.d]

    @property
    def AW(self):
        return self._AW[:, : self.d]

    def combine(self, coefficients):
        """A W c for coefficients c, (members, d): a vector (members, k)."""
        c = coefficients.to(self.operator.device, self.operator.dtype)
        return (c[:, None] @ self.AW)[:, 0]

    def complement(self, U):
        """Remove from U, (members, k), its part in the span of W."""
        return U - (_inner(self.W, U)[:, None] @ self.W)[:, 0]

    def random(self, chosen):
        """A fresh Gaussian vector for each chosen member, zero for the others."""
        out = torch.zeros_like(self._W[:, 0])
        for count in self._drawn[chosen].unique().tolist():
            while len(self._draws) <= count:
                draw = torch.randn(
                    self.operator.k, generator=self._generator, dtype=torch.float64
                )
                self._draws.append(draw.to(out.device, out.dtype))
            out[(chosen & (self._drawn == count)).to(out.device)] = self._draws[count]
        self._drawn[chosen] += 1
        return out

    def direction(self, U):
        """Normalise the part of U, (members, k), that lies outside W.

        Returns unit vectors (members, k), the lengths before normalisation (members,)
        and a mask (members,) of the vectors that hold nothing but rounding.
        """
        tiny = torch.finfo(U.dtype).tiny
        before = _norm(U)
        U = self.complement(U)
        length = _norm(U)
        noise = ~(length > _ROUNDING * self.operator.eps * before)
        # A second pass: after the first one a short remainder is not yet orthogonal.
        U = self.complement(U / length.clamp_min(tiny)[:, None])
        U = U / _norm(U).clamp_min(tiny)[:, None]
        return U, length.double().cpu(), noise.cpu()

    def append(self, U):
        """Take unit vectors U, (members, k), orthogonal to W, into the basis."""
        AU = (self.operator @ U[..., None])[..., 0]
        d = self.d
        if d == self._W.shape[1]:
            more = torch.zeros_like(self._W[:, :16])
            self._W = torch.cat([self._W, more], 1)
            self._AW = torch.cat([self._AW, more], 1)
        self._W[:, d], self._AW[:, d] = U, AU
        self.d = d + 1
        column = _inner(self.W, AU).double().cpu()
        row = _inner(self.AW, U).double().cpu()
        self._longest = torch.maximum(self._longest, _norm(AU).double().cpu())
        self._check_symmetry((column - row).abs().amax(-1))
        self.T = self._bordered(self.T, (column + row) / 2)
        self.gram = self._bordered(self.gram, _inner(self.AW, AU).double().cpu())

    @staticmethod
    def _bordered(M, edge):
        """M, (members, d, d), with one more row and column, (members, d + 1)."""
        M = torch.nn.functional.pad(M, (0, 1, 0, 1))
        M[:, -1] = M[:, :, -1] = edge
        return M

    def _check_symmetry(self, gap):
        wrong = (gap > math.sqrt(self.operator.eps) * self._longest).nonzero().flatten()
        if len(wrong):
            where = f" for members {wrong.tolist()}" if self.operator.lead else ""
            raise ValueError(
                f"the operator is not symmetric{where}: u·Av and v·Au differ by "
                f"{gap[wrong[0]]:.3g} where ‖Av‖ reaches {self._longest[wrong[0]]:.3g}"
            )


def eigenvalues(
    A,
    k=1,
    *,
    which="largest",
    tol=1e-3,
    eigenvectors=False,
    seed=0,
    max_products=None,
):
    """Extreme eigenvalues of a symmetric operator, with multiplicity, by Lanczos.

    Lanczos with full reorthogonalisation runs until each asked value has a residual
    below the tolerance. One Krylov space cannot see the second copy of a multiple
    eigenvalue, and may pass over one that the start vector barely touches. So a second,
    short run from a fresh random vector z, orthogonal to the first space W, certifies
    that nothing is missing: with τ the last asked value plus its tolerance, the number
    of eigenvalues of A above τ is that of T = WᵀAW plus that of the Schur complement
    C = P A P − P A W (T − τ)⁻¹ Wᵀ A P on the complement of W (Haynsworth). If C had an
    eigenvalue above τ, the part of z along its eigenvector would be at most
    Π βᵢ / Π (τ − μᵢ) after some Lanczos steps on C with Ritz values μ and
    off-diagonals β; the run stops once that is improbable (below 1e-6) for a random
    vector. Where an eigenvalue above τ shows up instead, it joins the search.

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
            search keeps two vectors of the operator's size for each product.

    Returns:
        An ``Eigenvalues``. Members without convergence are marked in ``converged``,
        with a warning. An operator without leading axes has no member axis.

    Raises:
        TypeError: A is no operator.
        ValueError: A is not square, not symmetric or not finite; k, ``which``, ``tol``
            or ``max_products`` is out of range.

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
    limit = min(limit, operator.k)
    search = _Search(operator, signs, k, tol, seed, limit, eigenvectors)
    with operator.watched("eigenvalues", search.limit):
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
    vectors = search.vectors
    if vectors is not None:
        vectors = vectors.reshape(*operator.lead, operator.k, asked)
    return Eigenvalues(
        values=operator.tensor(search.values),
        residuals=operator.tensor(search.residuals),
        products=operator.tensor(search.products),
        converged=operator.tensor(search.converged),
        vectors=vectors,
    )


class _Search:
    """The state of ``eigenvalues``: one growing subspace per member.

    A member either extends the subspace by the residual of its least settled value, or
    is in a run that certifies one end of the spectrum.
    """

    def __init__(self, operator, signs, k, tol, seed, limit, eigenvectors):
        self.operator, self.signs, self.k, self.tol = operator, signs, k, tol
        self.limit, self.asked = limit, k * len(signs)
        self.space = _Subspace(operator, seed)
        m = operator.members
        self.active = torch.ones(m, dtype=torch.bool)
        self.values = torch.zeros(m, self.asked, dtype=torch.float64)
        self.residuals = torch.zeros_like(self.values)
        self.products = torch.zeros(m, dtype=torch.long)
        self.converged = torch.zeros(m, dtype=torch.bool)
        self.vectors = None
        if eigenvectors:
            self.vectors = torch.zeros(
                m, operator.k, self.asked, dtype=operator.dtype, device=operator.device
            )
        # The certificates: how many ends are done, and the run on the present end:
        # where it started (-1: no run), the shift ±τ, the eigenvalues beyond τ and
        # log |det(T − τ)| at its start, and log Π β so far.
        self.done = torch.zeros(m, dtype=torch.long)
        self.start = torch.full((m,), -1)
        self.shift = torch.zeros(m, dtype=torch.float64)
        self.beyond = torch.zeros(m, dtype=torch.long)
        self.log_det = torch.zeros(m, dtype=torch.float64)
        self.log_beta = torch.zeros(m, dtype=torch.float64)
        self.looked_at = 0
        self.rounding = torch.zeros(m, 1, dtype=torch.float64)

    def run(self):
        space = self.space
        U, _, _ = space.direction(space.random(self.active))
        while True:
            space.append(torch.where(self._on(self.active), U, 0))
            d = space.d
            final = d == self.limit
            # With a large subspace the small problem costs more than it can save.
            look = d >= self.asked and (final or d < 64 or d % (d // 32) == 0)
            fresh = self._look(final) if look else torch.zeros_like(self.active)
            if not bool(self.active.any()):
                return
            U, length, noise = space.direction(space.combine(self._next()))
            self._certify(length, look, fresh)
            if not bool(self.active.any()):
                return
            lost = self.active & (noise | fresh)
            if bool(lost.any()):
                # A Krylov space that is exhausted holds no news of what remains.
                self.start[lost & ~fresh] = -1
                V, _, _ = space.direction(space.random(lost))
                U = torch.where(self._on(lost), V, U)

    def _on(self, mask):
        return mask.to(self.operator.device)[:, None]

    def _look(self, final):
        """Solve the small problem; finish members or start certificates.

        Returns the members whose next direction is to be random.
        """
        d, k, m = self.space.d, self.k, len(self.active)
        on, self.looked_at = self.active, d
        self.theta = torch.zeros(m, d, dtype=torch.float64)
        Y = torch.zeros(m, d, d, dtype=torch.float64)
        self.theta[on], Y[on] = torch.linalg.eigh(self.space.T[on])
        index = {1: range(d - 1, d - k - 1, -1), -1: range(k - 1, -1, -1)}
        index = torch.tensor([i for s in self.signs for i in index[s]])
        self.ritz, self.Y = self.theta[:, index], Y[:, :, index]
        norm = self.theta.abs().amax(-1, keepdim=True)
        self.rounding = _ROUNDING * self.operator.eps * norm
        self.target = self.tol * torch.maximum(self.ritz.abs(), NORM_SHARE * norm)
        self.target = self.target.clamp_min(1e-300)
        self.allowed = torch.maximum(self.target, self.rounding)
        # ‖A W y‖² − θ² is exact enough to tell when the residual is worth a look.
        square = (self.Y * (self.space.gram @ self.Y)).sum(1) - self.ritz.square()
        self.R_norm = square.clamp_min(0).sqrt()
        near = square <= 4 * (self.allowed.square() + self.rounding * norm)

        certified = self.done == len(self.signs)
        if final:
            self._settle(on)
            # A basis of the whole space leaves nothing to certify.
            self._finish(on.clone(), certified | (d == self.operator.k))
            return ~on
        # An eigenvalue beyond τ that the first space had missed ends the certificate.
        running = self.start >= 0
        sign = self._sign()
        beyond = (sign * self.theta > sign * self.shift[:, None]).sum(-1)
        self.start[running & (beyond > self.beyond)] = -1
        settled = self._settle(on & near.all(-1) & (self.start < 0))
        self._finish(settled & certified, certified)
        fresh = settled & ~certified
        if bool(fresh.any()):
            self._begin(fresh)
        return fresh

    def _settle(self, members):
        """Compute the residuals of ``members``; return those that all are small."""
        if bool(members.any()):
            here = slice(None) if bool(members.all()) else members
            there = here if here is not members else members.to(self.operator.device)
            y, theta = self.Y[here].mT, self.ritz[here, :, None]
            y, ty = (
                c.to(self.operator.device, self.operator.dtype) for c in (y, theta * y)
            )
            R = y @ self.space.AW[there] - ty @ self.space.W[there]
            self.R_norm[here] = _norm(R).double().cpu()
        return members & (self.R_norm <= self.allowed).all(-1)

    def _sign(self):
        end = self.done.clamp_max(len(self.signs) - 1)
        return torch.tensor(self.signs, dtype=torch.float64)[end][:, None]

    def _begin(self, fresh):
        """Set up the certificate of the present end for the members in ``fresh``."""
        sign = self._sign()
        end = self.done.clamp_max(len(self.signs) - 1)[:, None]
        # The outermost asked values come first at the top and last at the bottom.
        inner = torch.where(sign > 0, end * self.k + self.k - 1, end * self.k)
        edge, allowed = self.ritz.gather(1, inner), self.allowed.gather(1, inner)
        # Any τ up to the full tolerance will do: keep clear of Ritz values nearby.
        tau = edge + sign * allowed * torch.linspace(0.5, 1, 6, dtype=torch.float64)
        room = (tau[:, :, None] - self.theta[:, None]).abs().amin(-1)
        shift = tau.gather(1, room.argmax(-1, keepdim=True))
        beyond = (sign * self.theta > sign * shift).sum(-1)
        log_det = (self.theta - shift).abs().clamp_min(1e-300).log().sum(-1)
        self.start[fresh] = self.space.d
        self.shift[fresh] = shift[fresh, 0]
        self.beyond[fresh], self.log_det[fresh] = beyond[fresh], log_det[fresh]
        self.log_beta[fresh] = 0

    def _next(self):
        """Coefficients c, (members, d), of the next direction P A W c."""
        d = self.space.d
        c = torch.zeros(len(self.active), d, dtype=torch.float64)
        c[:, -1] = 1
        extend = self.active & (self.start < 0)
        if self.looked_at == d and bool(extend.any()):
            # All residuals of one Krylov space are parallel; those of several are not.
            worst = (self.R_norm / self.allowed).argmax(-1)
            c[extend] = self.Y[torch.arange(len(c)), :, worst][extend]
        running = self.active & (self.start >= 0) & (self.start < d)
        if bool(running.any()):
            first = torch.arange(d) < self.start[running, None]
            T = self.space.T[running]
            shift = self.shift[running, None]
            M = torch.where(first[:, :, None] & first[:, None], T, 0)
            M = M - torch.diag_embed(torch.where(first, shift, 1))
            t = torch.where(first, T[:, -1], 0)
            c[running] -= torch.linalg.solve(M, t)
        return c

    def _certify(self, length, look, fresh):
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
        self._finish(self._settle(sure & certified), certified)

    def _finish(self, members, certified):
        """Record the results of ``members``."""
        self.values[members] = self.ritz[members]
        self.residuals[members] = self.R_norm[members]
        self.products[members] = self.space.d
        met = (self.R_norm <= self.target).all(-1) & certified
        self.converged[members] = met[members]
        if self.vectors is not None and bool(members.any()):
            here = members.to(self.operator.device)
            y = self.Y[members].mT.to(self.operator.device, self.operator.dtype)
            self.vectors[here] = (y @ self.space.W[here]).mT
        self.active[members] = False


def trace(A, tol=1e-2, *, scale=None, max_products=1000, seed=0):
    """Trace of a symmetric operator, exact where that is to be had.

    An operator is asked for ``exact_trace()`` (or ``exact_diagonal()``) first; a dense
    tensor is summed. Elsewhere Hutchinson's estimator, the mean of g·Ag over random
    signs g, is applied to what a Krylov space W leaves over, tr A = tr WᵀAW + tr P A P,
    with W as large as pays: it takes out the few large eigenvalues that make the plain
    estimator noisy. Probes are added until their standard error meets the tolerance, or
    the unit vectors would be cheaper.

    Args:
        A: a dense tensor (..., k, k) or an operator of that shape.
        tol: the standard error allowed, relative to ``max(|trace|, ‖A‖_F)``. (Without
            negative eigenvalues the trace is the larger of the two.)
        scale: weights s, (k,) or (..., k): the result is then Σ sᵢ² Aᵢᵢ, from probes
            scaled by s.
        max_products: products with A to spend per member.
        seed: seed of the random vectors.

    Returns:
        A ``Trace``. Members that did not meet the tolerance are marked in
        ``converged``, with a warning. An operator without leading axes has no member
        axis.

    Raises:
        TypeError: A is no operator.
        ValueError: A is not square, not symmetric or not finite; an argument is out of
            range.

    Reference: Hutchinson (1990), A stochastic estimator of the trace; Meyer, Musco,
    Musco & Woodruff (2021), Hutch++, for splitting off a subspace.
    """
    return _estimate(Trace, A, tol, scale, max_products, seed)


def diagonal(A, tol=0.1, *, scale=None, max_products=1000, seed=0):
    """Diagonal of a symmetric operator, exact where that is to be had.

    Like ``trace``, with the estimator g ∘ Ag of Bekas, Kokiopoulou & Saad (2007).

    Args:
        A: a dense tensor (..., k, k) or an operator of that shape.
        tol: the standard error allowed, as a Euclidean norm over the entries, relative
            to max(‖diagonal‖₂, 0.1 ‖A‖_F).
        scale: weights s, (k,) or (..., k): the result is then sᵢ² Aᵢᵢ.
        max_products: products with A to spend per member.
        seed: seed of the random vectors.

    Returns:
        A ``Diagonal``. Members that did not meet the tolerance are marked in
        ``converged``, with a warning. An operator without leading axes has no member
        axis.

    Raises:
        TypeError: A is no operator.
        ValueError: A is not square, not symmetric or not finite; an argument is out of
            range.
    """
    return _estimate(Diagonal, A, tol, scale, max_products, seed)


def _estimate(kind, A, tol, scale, max_products, seed):
    """Trace or diagonal (``kind`` is the class of the result)."""
    operator = _Operator(A, scale)
    if not 0 < tol < 1:
        raise ValueError(f"tol must lie between 0 and 1, got {tol}")
    if max_products < 2:
        raise ValueError(f"max_products must be at least 2, got {max_products}")
    exact = operator.exact_trace() if kind is Trace else operator.exact_diagonal()
    if exact is None and operator.k <= min(_FIRST_PROBES, max_products):
        exact = _by_unit_vectors(kind, operator)
    if exact is None:
        probes = _Probes(kind, operator, tol, seed)
        with operator.watched(kind.__name__.lower(), max_products):
            enough = probes.run(max_products)
        if not enough:
            exact = _by_unit_vectors(kind, operator)
    if exact is not None:
        values, error = exact, torch.zeros_like(exact)
        converged = torch.ones(operator.members, dtype=torch.bool)
    else:
        values, error, met = probes.values, probes.standard_error, probes.met
        converged = met.cpu()
        if not bool(converged.all()):
            warnings.warn(
                f"{int((~converged).sum())} of {operator.members} members did not "
                f"reach tol={tol:g} in {operator.products} products; see "
                f"`standard_error`, or allow more products",
                RuntimeWarning,
                stacklevel=3,
            )
    products = torch.full((operator.members,), operator.products)
    return kind(
        values=operator.tensor(values),
        standard_error=operator.tensor(error),
        products=operator.tensor(products),
        converged=operator.tensor(converged),
    )


def _by_unit_vectors(kind, operator):
    """The exact trace or diagonal from k products."""
    options = {"dtype": operator.dtype, "device": operator.device}
    entries = []
    for first in range(0, operator.k, _BLOCK):
        rows = torch.arange(first, min(first + _BLOCK, operator.k))
        E = torch.zeros(operator.k, len(rows), **options)
        E[rows, rows - first] = 1
        AE = operator @ E.expand(operator.members, -1, -1)
        entries.append(AE[:, rows.to(AE.device)].diagonal(dim1=-2, dim2=-1))
    entries = torch.cat(entries, -1)
    return entries.sum(-1) if kind is Trace else entries


class _Probes:
    """Hutchinson's estimator on the complement of a Krylov space."""

    def __init__(self, kind, operator, tol, seed):
        self.kind, self.operator, self.tol = kind, operator, tol
        self.space = _Subspace(operator, seed)
        self.generator = torch.Generator().manual_seed(seed + 1)

    def run(self, limit):
        """Estimate within ``limit`` products; False if unit vectors are cheaper."""
        operator = self.operator
        first = min(_FIRST_PROBES, limit)
        blocks = [self._block(min(_BLOCK, first - i)) for i in range(0, first, _BLOCK)]
        # E‖Ag‖² = ‖A‖_F² for random signs g.
        self.frobenius = torch.cat([AG.square().sum(1) for _, AG in blocks], -1)
        self.frobenius = self.frobenius.double().mean(-1).sqrt()
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

    def _left(self, limit):
        return limit - self.operator.products

    def _block(self, count):
        """Random signs G, the same for every member, and A G: (members, k, count)."""
        operator = self.operator
        G = torch.randint(0, 2, (operator.k, count), generator=self.generator)
        G = (2 * G - 1).to(operator.device, operator.dtype)
        G = G.expand(operator.members, -1, -1)
        return G, operator @ G

    def _extend(self):
        """Grow the subspace by a few Krylov vectors; False when none are left."""
        space = self.space
        for _ in range(_BLOCK):
            if space.d == self.operator.k:
                return False
            everyone = torch.ones(self.operator.members, dtype=torch.bool)
            if space.d == 0:
                U, _, _ = space.direction(space.random(everyone))
            else:
                U, _, noise = space.direction(space.AW[:, -1])
                if bool(noise.any()):
                    V, _, _ = space.direction(space.random(noise))
                    U = torch.where(noise.to(U.device)[:, None], V, U)
            space.append(U)
        return True

    def _samples(self, G, AG):
        """What each probe says of the complement of W: (members, entries, count)."""
        W, AW = self.space.W, self.space.AW
        inside = W @ G
        G_out = G - W.mT @ inside
        AG_out = AG - AW.mT @ inside
        AG_out = AG_out - W.mT @ (W @ AG_out)
        if self.kind is Trace:
            return (G_out * AG_out).sum(1, keepdim=True).double()
        # (I - W Wᵀ) A (I - W Wᵀ), entry by entry on the side of G.
        return (G * AG_out).double()

    def _known(self):
        """The part of the result that W accounts for, (members, entries)."""
        W, AW = self.space.W, self.space.AW
        T = self.space.T.to(self.operator.device)
        if self.kind is Trace:
            return T.diagonal(dim1=-2, dim2=-1).sum(-1, keepdim=True)
        # A − P A P = AW Wᵀ + W (AW)ᵀ − W T Wᵀ
        WT = T.to(W.dtype) @ W
        return (2 * W * AW - W * WT).double().sum(1)

    def _look(self, blocks, more=False):
        """Update the estimate; return how many more probes it is likely to need."""
        samples = torch.cat([self._samples(G, AG) for G, AG in blocks], -1)
        if not more:
            self.count, self.mean, self.spread = 0, 0.0, 0.0
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
        floor = self.frobenius * (1 if self.kind is Trace else 0.1)
        allowed = self.tol * torch.maximum(size, floor)
        # Rounding alone must not keep an exact answer from being accepted.
        allowed = allowed + _ROUNDING * self.operator.eps * self.frobenius
        whole = error.square().sum(-1).sqrt()
        self.met = whole <= allowed
        self.values, self.standard_error = values, error
        if self.kind is Trace:
            self.values, self.standard_error = values[:, 0], error[:, 0]
        short = (whole / allowed.clamp_min(torch.finfo(allowed.dtype).tiny)).square()
        need = torch.where(self.met, 0, total * (short - 1))
        return math.ceil(min(float(need.max()), 1e12))


def spectral_density(A, probes=8, steps=80, *, seed=0):
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

    Raises:
        TypeError: A is no operator.
        ValueError: A is not square, not symmetric or not finite; ``probes`` or
            ``steps`` is not positive.

    Reference: Ubaru, Chen & Saad (2017), Fast estimation of tr(f(A)) via stochastic
    Lanczos quadrature; Ghorbani, Krishnan & Xiao (2019) for networks.
    """
    operator = _Operator(A)
    if probes < 1 or steps < 1:
        raise ValueError(f"need probes ≥ 1 and steps ≥ 1, got {probes} and {steps}")
    steps = min(steps, operator.k)
    m, k = operator.members, operator.k
    draws = torch.randn(
        probes, k, generator=torch.Generator().manual_seed(seed), dtype=torch.float64
    )
    draws = draws / draws.norm(dim=-1, keepdim=True)
    # One basis per pair of member and probe.
    q = draws.to(operator.device, operator.dtype).expand(m, probes, k)
    q = q.reshape(m * probes, k)
    basis = torch.zeros(
        m * probes, steps, k, dtype=operator.dtype, device=operator.device
    )
    alpha = torch.zeros(m * probes, steps, dtype=torch.float64)
    beta = torch.zeros(m * probes, steps, dtype=torch.float64)
    size = torch.zeros(m * probes, dtype=torch.float64)
    alive = torch.ones(m * probes, dtype=torch.bool)
    for j in progress(range(steps), "spectral density"):
        basis[:, j] = q
        V = q.reshape(m, probes, k).mT
        u = (operator @ V).mT.reshape(m * probes, k)
        size = torch.maximum(size, _norm(u).double().cpu())
        W = basis[:, : j + 1]
        inside = _inner(W, u)
        alpha[:, j] = inside[:, -1].double().cpu()
        # u·Av = v·Au for the two latest vectors: A q_{j-1} ended in beta q_j.
        if j:
            gap = (inside[:, -2].double().cpu() - beta[:, j - 1]).abs() * alive
            if bool((gap > math.sqrt(operator.eps) * size).any()):
                raise ValueError(
                    f"the operator is not symmetric: u·Av and v·Au differ by "
                    f"{gap.max():.3g} where ‖Av‖ reaches {size.max():.3g}"
                )
        u = u - (inside[:, None] @ W)[:, 0]
        u = u - (_inner(W, u)[:, None] @ W)[:, 0]
        length = _norm(u)
        # A probe whose Krylov space is exhausted is complete: it stays where it is.
        alive = alive & (length.cpu().double() > _ROUNDING * operator.eps * size)
        keep = alive.to(u.device)[:, None]
        q = torch.where(keep, u / length.clamp_min(1e-30)[:, None], 0)
        beta[:, j] = torch.where(alive, length.double().cpu(), 0)
    off = torch.diag_embed(beta[:, :-1], offset=1)
    T = torch.diag_embed(alpha) + off + off.mT
    nodes, Y = torch.linalg.eigh(T)
    weights = Y[:, 0].square() / probes
    return SpectralDensity(
        nodes=operator.tensor(nodes.reshape(m, probes * steps)),
        weights=operator.tensor(weights.reshape(m, probes * steps)),
        probes=probes,
        products=operator.tensor(torch.full((m,), operator.products)),
    )
