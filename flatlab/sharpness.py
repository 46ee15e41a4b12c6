"""How much the loss rises around w: worst case, average, and their relatives."""

import math
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from flatlab.evaluation import (
    Noise,
    at_points,
    check_samples,
    checked,
    rises,
    tolerated,
)
from flatlab.loss import Loss
from flatlab.neighbourhoods import Bound, Neighbourhood, keskar_box
from flatlab.progress import progress

# Pairs of draws before a standard error is believed.
_FIRST_PAIRS = 16
# A search is over once every step has been cut to this share of the radius.
_SMALLEST_STEP = 1e-6


@dataclass(frozen=True)
class WorstCase:
    """The highest rise of the loss that was found in a neighbourhood.

    A search can only bound a maximum from below: the true one may be higher.

    Attributes:
        values: (members,) max L_S(w + epsilon) - L_S(w), never negative.
        epsilon: (members, k), inside the neighbourhood, where ``values`` is attained.
        loss: (members,) L_S(w).
        evaluations: gradients of L_S that were computed for each member.
    """

    values: Tensor
    epsilon: Tensor
    loss: Tensor
    evaluations: int


@dataclass(frozen=True)
class Average:
    """The mean rise of the loss under Gaussian noise.

    Attributes:
        values: (members,) mean of L_S(w + epsilon) - L_S(w).
        standard_error: (members,), over antithetic pairs.
        sigma: (members,) standard deviation of epsilon / t.
        samples: evaluations of L_S for each member.
        converged: (members,) whether the standard error meets ``tol``; all True
            where none was asked for.
    """

    values: Tensor
    standard_error: Tensor
    sigma: Tensor
    samples: int
    converged: Tensor


@dataclass(frozen=True)
class KeskarSharpness:
    """Keskar's metric, in per cent, and what it was found from.

    Attributes:
        values: (members,) 100 max(f(w + A y) - f(w)) / (1 + f(w)).
        rise: (members,) max f(w + A y) - f(w).
        loss: (members,) f(w).
        epsilon: (members, k) the point A y where the maximum found is attained.
        evaluations: gradients of f that were computed for each member.
    """

    values: Tensor
    rise: Tensor
    loss: Tensor
    epsilon: Tensor
    evaluations: int


@dataclass(frozen=True)
class PacBayes:
    """A PAC-Bayes sharpness: the inverse square of the noise that w tolerates.

    Attributes:
        values: (members,) 1 / sigma squared; infinite where no noise is tolerated.
        sigma: (members,) the largest noise whose mean rise stays within the deviation.
        standard_error: (members,) of ``sigma``, from the draws and the local slope.
        rise: (members,) mean rise at ``sigma``.
    """

    values: Tensor
    sigma: Tensor
    standard_error: Tensor
    rise: Tensor


@dataclass(frozen=True)
class ConditionNumber:
    """The ratio of the extreme eigenvalues, with the eigenvalues.

    Attributes:
        values: (members,) largest / smallest.
        largest: (members,) algebraically largest eigenvalue.
        smallest: (members,) algebraically smallest eigenvalue.
        meaningful: (members,) whether the smallest is positive and larger than its
            error, so that the ratio is a condition number at all.
    """

    values: Tensor
    largest: Tensor
    smallest: Tensor
    meaningful: Tensor


def ascend(
    value_and_gradient: Callable[[Tensor], tuple[Tensor, Tensor]],
    around: Bound,
    starts: Tensor,
    steps: int,
) -> tuple[Tensor, Tensor, int]:
    """Climb from several starts inside a neighbourhood; keep the best of each member.

    A step goes along the steepest direction of the set, is projected back into it and
    is taken only if the value rises; the step then doubles, else it is cut to a
    quarter. A long step is a Frank-Wolfe step, which for the ball is the power method.
    In a box the steepest direction is a vector of signs, which cannot settle where the
    maximum lies inside; after a failure the plain gradient has its turn.

    Args:
        value_and_gradient: (starts, members, k) offsets to (starts, members) values
            and (starts, members, k) gradients.
        around: the set of allowed offsets.
        starts: (starts, members, k) offsets in the set.
        steps: for every start.

    Returns:
        (members,) best values, (members, k) their offsets, and the evaluations.
    """
    epsilon, count = starts, len(starts)
    value, gradient = value_and_gradient(epsilon)
    step, plain = torch.ones_like(value), torch.zeros_like(value, dtype=torch.bool)
    evaluations = count
    for _ in progress(range(steps), "worst-case sharpness"):
        direction = around.steepest(gradient)
        if around.p != 2:
            slope = around.t.square() * gradient
            reach = around.radius / around.norm(slope)[..., None]
            slope = slope * reach.nan_to_num(0.0, 0.0, 0.0)
            direction = torch.where(plain[..., None], slope, direction)
        trial = around.project(epsilon + step[..., None] * direction)
        new_value, new_gradient = value_and_gradient(trial)
        evaluations += count
        better = new_value > value  # False for NaN
        value = torch.where(better, new_value, value)
        epsilon = torch.where(better[..., None], trial, epsilon)
        gradient = torch.where(better[..., None], new_gradient, gradient)
        step = torch.where(better, (2 * step).clamp_max(8), step / 4)
        plain ^= ~better
        if bool((step < _SMALLEST_STEP).all()):
            break
    best, which = value.max(0)
    return (
        best,
        epsilon[which, torch.arange(len(best), device=best.device)],
        evaluations,
    )


def _starts(gradient: Tensor, around: Bound, restarts: int, seed: int) -> Tensor:
    """The steepest point, its opposite, random points and their opposites."""
    starts = [around.steepest(gradient)]
    noise = Noise(gradient, seed)
    for i in range(restarts):
        if i % 2 == 0:
            starts.append(-starts[-1])
            continue
        # uniform in a box, whose corners are dead ends; on the boundary of a ball
        z = noise[i // 2].expand_as(gradient)
        if around.p == math.inf:
            starts.append(around.spread(torch.erf(z / math.sqrt(2)), "inside"))
        else:
            starts.append(around.spread(z, "boundary"))
    # rounding must not carry a start over the edge
    return around.project(torch.stack(starts))


def _check_search(neighbourhood, steps: int, restarts: int) -> None:
    if not isinstance(neighbourhood, Neighbourhood):
        raise TypeError(
            f"expected a Neighbourhood, got {type(neighbourhood).__name__}; make one "
            "with ball(rho), keskar_box(eps) or adaptive_ball(rho)"
        )
    if steps < 0 or restarts < 0:
        raise ValueError(
            f"steps is {steps} and restarts is {restarts}, expected numbers of at "
            "least 0"
        )


def worst_case_sharpness(
    loss: Loss,
    w: Tensor,
    neighbourhood: Neighbourhood,
    *,
    steps: int = 20,
    restarts: int = 3,
    seed: int = 0,
) -> WorstCase:
    """Highest rise of the loss in a neighbourhood of w, by projected ascent.

    max L_S(w + epsilon) - L_S(w) over ‖epsilon / t(w)‖_p ≤ radius. Every start climbs
    by steps that never leave the neighbourhood and never go down. ``steps=0`` and
    ``restarts=0`` give the rise at the one step of SAM (Foret et al. 2021, equation 2)
    or ASAM.

    Args:
        loss: the surface.
        w: (k,) or (members, k).
        neighbourhood: from ``ball``, ``keskar_box`` or ``adaptive_ball``.
        steps: of the ascent from every start.
        restarts: starts beside the steepest step from w: its opposite, then random
            points and their opposites in turn.
        seed: of the random starts; all members get the same draws.

    Returns:
        A ``WorstCase``; without an axis of members where w has none.

    Raises:
        TypeError: if ``loss`` is no ``Loss`` or ``neighbourhood`` no ``Neighbourhood``.
        ValueError: if w has another shape than the network's or is not finite, or a
            number is negative.

    Reference: Foret et al. (2021), equation 1; Kwon et al. (2021), equation 4, for
    the adaptive neighbourhoods.
    """
    _check_search(neighbourhood, steps, restarts)
    w, single = checked(loss, w)
    layout = loss.net.layout_on(w.device)
    base, gradient = loss.value_and_gradient(w)
    around = neighbourhood.at(w, layout)
    value, epsilon, evaluations = ascend(
        lambda e: at_points(loss, loss.value_and_gradient, w + e),
        around,
        _starts(gradient, around, restarts, seed),
        steps,
    )
    rises_ = value > base  # at epsilon = 0, which is in the set, nothing rises
    value = torch.where(rises_, value - base, 0)
    epsilon = torch.where(rises_[:, None], epsilon, 0)
    if single:
        value, epsilon, base = value[0], epsilon[0], base[0]
    return WorstCase(value, epsilon, base, evaluations + 1)


def average_sharpness(
    loss: Loss,
    w: Tensor,
    neighbourhood: Neighbourhood,
    *,
    samples: int = 64,
    seed: int = 0,
    tol: float | None = None,
    max_samples: int = 4096,
) -> Average:
    """Mean rise of the loss under Gaussian noise of the neighbourhood's scale.

    epsilon ~ N(0, sigma² t(w)²), with the sigma that gives the noise the size of the
    set: for p = 2, sigma = radius / √k, so that the mean of ‖epsilon / t‖₂² is radius²
    (k counts the weights with t > 0); for p = ∞, sigma = radius / √3, the standard
    deviation of a uniform point of the box. To second order the value is
    ½ sigma² Σ t_i² H_ii.

    Draws come in antithetic pairs ± epsilon, which cancels the slope at w; all members
    get the same draws, so that differences between members are sharper than their
    standard errors say.

    Args:
        loss: the surface.
        w: (k,) or (members, k).
        neighbourhood: from ``ball``, ``keskar_box`` or ``adaptive_ball``.
        samples: evaluations of the loss for each member, an even number of at least 4;
            with ``tol`` those of the first round.
        seed: of the draws.
        tol: standard error allowed relative to the value; draws are added until every
            member meets it.
        max_samples: evaluations after which ``tol`` is given up, with a warning.

    Returns:
        An ``Average``; without an axis of members where w has none.

    Raises:
        TypeError: if ``loss`` is no ``Loss`` or ``neighbourhood`` no ``Neighbourhood``.
        ValueError: if w has another shape than the network's or is not finite, or
            ``samples`` or ``tol`` is out of range.
    """
    _check_search(neighbourhood, 0, 0)
    check_samples(samples)
    if tol is not None and not 0 < tol < 1:
        raise ValueError(f"tol is {tol}, expected a relative error between 0 and 1")
    w, single = checked(loss, w)
    around = neighbourhood.at(w, loss.net.layout_on(w.device))
    sigma = around.sigma[:, 0].to(w)
    noise, base = Noise(w, seed), loss(w)
    spread = sigma[:, None] * around.t
    pairs, rows = samples // 2, []
    if tol is not None:
        pairs = max(pairs, _FIRST_PAIRS)
    done = 0
    with progress(2 * pairs, "average sharpness") as bar:
        while True:
            rows.append(rises(loss, loss, w, base, spread, noise, range(done, pairs)))
            bar.update(2 * (pairs - done))
            done = pairs
            drawn = torch.cat(rows)
            mean, error = drawn.mean(0), drawn.std(0) / math.sqrt(done)
            converged = torch.ones_like(mean, dtype=torch.bool)
            if tol is None:
                break
            converged = error <= tol * mean.abs()
            if bool(converged.all()) or 2 * done >= max_samples:
                break
            pairs = min(2 * done, max_samples // 2)
    if not bool(converged.all()):
        warnings.warn(
            f"{int((~converged).sum())} of {len(w)} members did not reach tol={tol:g} "
            f"with {2 * done} samples; see `standard_error`",
            RuntimeWarning,
            stacklevel=2,
        )
    if single:
        mean, error, sigma, converged = mean[0], error[0], sigma[0], converged[0]
    return Average(mean, error, sigma, 2 * done, converged)


def keskar_sharpness(
    loss: Loss,
    w: Tensor,
    eps: float = 1e-3,
    *,
    subspace: int | None = None,
    steps: int = 20,
    restarts: int = 3,
    seed: int = 0,
) -> KeskarSharpness:
    """Keskar's sharpness phi: the relative rise of the loss in a box, in per cent.

    phi = 100 max(f(w + A y) - f(w)) / (1 + f(w)) over the box
    ``|y_i| <= eps (|(A⁺ w)_i| + 1)`` (Keskar et al. 2017, metric 2.1 and equation 3).
    In the full space A is the identity. In a random subspace A has independent
    standard normal entries; the paper leaves their distribution open, and phi depends
    on their size. The paper maximises by ten iterations of L-BFGS-B; here the ascent
    of ``worst_case_sharpness`` does it.

    Args:
        loss: the surface f.
        w: (k,) or (members, k).
        eps: size of the box, positive.
        subspace: None for the full space, or the number p ≤ k of columns of A (the
            paper takes 100). All members get the same A.
        steps: of the ascent from every start.
        restarts: further starts, as in ``worst_case_sharpness``.
        seed: of A and of the random starts.

    Returns:
        A ``KeskarSharpness``; without an axis of members where w has none.

    Raises:
        TypeError: if ``loss`` is no ``Loss``.
        ValueError: if w has another shape than the network's or is not finite, ``eps``
            is not positive, or ``subspace`` is not between 1 and k.
    """
    box = keskar_box(eps)
    if subspace is None:
        worst = worst_case_sharpness(
            loss, w, box, steps=steps, restarts=restarts, seed=seed
        )
        value, epsilon, base = worst.values, worst.epsilon, worst.loss
        phi = 100 * value / (1 + base)
        return KeskarSharpness(phi, value, base, epsilon, worst.evaluations)
    _check_search(box, steps, restarts)
    w, single = checked(loss, w)
    if not 1 <= subspace <= loss.net.k:
        raise ValueError(
            f"subspace is {subspace}, expected None or a number of dimensions from 1 "
            f"to k = {loss.net.k}"
        )
    noise = Noise(w, seed)
    A = torch.stack([noise[i] for i in range(subspace)], -1)  # (k, p)
    q, r = torch.linalg.qr(A.double())
    centre = torch.linalg.solve_triangular(r, q.mT @ w.double().mT, upper=True)
    centre = centre.mT.to(w)  # A⁺ w, (members, p)

    def value_and_gradient(y):
        value, gradient = at_points(loss, loss.value_and_gradient, w + y @ A.mT)
        return value, gradient @ A

    base, gradient = loss.value_and_gradient(w)
    around = box.at(centre)
    starts = _starts(gradient @ A, around, restarts, seed + 1)
    value, y, evaluations = ascend(value_and_gradient, around, starts, steps)
    higher = value > base
    value = torch.where(higher, value - base, 0)
    epsilon = torch.where(higher[:, None], y @ A.mT, 0)
    if single:
        value, epsilon, base = value[0], epsilon[0], base[0]
    phi = 100 * value / (1 + base)
    return KeskarSharpness(phi, value, base, epsilon, evaluations + 1)


def gradient_norm(loss: Loss, w: Tensor) -> Tensor:
    """Euclidean norm of the gradient of L_S.

    It vanishes at every minimum, sharp or flat; what it measures near one is how far
    training is from the end.

    Args:
        loss: the surface.
        w: (k,) or (members, k).

    Returns:
        () or (members,).

    Raises:
        TypeError: if ``loss`` is no ``Loss``.
        ValueError: if w has another shape than the network's or is not finite.
    """
    members, single = checked(loss, w)
    norm = torch.linalg.vector_norm(loss.gradient(members), dim=-1)
    return norm[0] if single else norm


def fisher_rao_norm(loss: Loss, w: Tensor) -> Tensor:
    """Fisher-Rao norm of the weights, the square of Liang et al.'s definition.

    ‖w‖² = wᵀ I(w) w with the empirical Fisher matrix I(w), the mean over examples of
    g gᵀ for the gradient g of one example's loss. Hence ‖w‖² is the mean of
    ⟨w, g⟩² = ⟨∂l/∂f, J w⟩² with J the Jacobian of the outputs f, and for a ReLU network
    of L layers without biases, where J w = L f, it is L² times the mean of
    ⟨∂l/∂f, f⟩² (theorem 3.1). It is unchanged by every linear map of the weights that
    leaves the function as it is, such as the rescaling of layers or units.

    Args:
        loss: its criterion must average over examples, as ``Loss`` asks.
        w: (k,) or (members, k).

    Returns:
        () or (members,).

    Raises:
        TypeError: if ``loss`` is no ``Loss``.
        ValueError: if w has another shape than the network's or is not finite.

    Reference: Liang, Poggio, Rakhlin, Stokes (2019), Fisher-Rao metric, geometry, and
    complexity of neural networks, definition 2.
    """
    w, single = checked(loss, w)
    leaves = {n: p.detach().requires_grad_() for n, p in loss.net.unflatten(w).items()}
    total = torch.zeros_like(w[:, 0])
    for x, y, share in loss.chunks(w):
        # the fused attention kernels have no second derivative
        with torch.enable_grad(), sdpa_kernel(SDPBackend.MATH):
            logits = loss.net.evaluate(leaves, x, members=True)
            free = logits.detach().requires_grad_()
            value = loss.criterion.mean(free, y, True, loss.own_labels).sum()
            (residual,) = torch.autograd.grad(value, free)
            # J w by two reverse passes: Jᵀ u is linear in u, and its slope is J
            u = torch.zeros_like(logits, requires_grad=True)
            back = torch.autograd.grad(
                logits,
                list(leaves.values()),
                u,
                create_graph=True,
                materialize_grads=True,
            )
            along = sum(
                (b * p.detach()).sum()
                for b, p in zip(back, leaves.values(), strict=True)
            )
            (change,) = torch.autograd.grad(along, u)
        slope = (residual * logits.shape[1] * change).unsqueeze(-1).flatten(2).sum(-1)
        total = total + share * slope.square().mean(-1)
    return total[0] if single else total


def relative_flatness(loss: Loss, w: Tensor, layer: str | None = None) -> Tensor:
    """Relative flatness of one dense layer, exactly.

    kappa = Σ_{s,s'} ⟨w_s, w_s'⟩ tr H_{s,s'}, with w_s the rows of the layer's weight
    matrix W (outputs, inputs) and H_{s,s'} the block of second derivatives of L_S by
    w_s and w_s'. Small is flat. Since W enters only through z = W x + b, the sum is the
    mean over examples of ‖x‖² tr(W Wᵀ ∂²l/∂z²), which is how it is computed: one
    product per row of W and no sampling.

    Args:
        loss: the surface; its criterion must average over examples.
        w: (k,) or (members, k).
        layer: name of an ``nn.Linear`` in the module; by default the last one.

    Returns:
        () or (members,).

    Raises:
        TypeError: if ``loss`` is no ``Loss``.
        ValueError: if w has another shape than the network's or is not finite, if there
            is no such layer, or if it is not applied once to one vector per example.

    Reference: Petzka, Kamp, Adilova, Sminchisescu, Boley (2021), Relative flatness and
    generalization, definition 3.
    """
    members, single = checked(loss, w)
    module = loss.net.module(members[0])
    names = [n for n, m in module.named_modules() if isinstance(m, nn.Linear)]
    if layer is None and names:
        layer = names[-1]
    if layer not in names:
        raise ValueError(
            f"layer is {layer!r}, expected one of the dense layers {names}"
        )
    if loss.own_labels:
        raise ValueError("the members have labels of their own; measure them in turn")
    kappa = torch.stack([_relative_flatness(loss, one, layer) for one in members])
    return kappa[0] if single else kappa


def _relative_flatness(loss: Loss, w: Tensor, layer: str) -> Tensor:
    module = loss.net.module(w).eval()
    target = module.get_submodule(layer)
    seen = []

    def shift(_, inputs, output):
        (x,) = inputs
        if x.ndim != 2 or seen:
            raise ValueError(
                f"layer {layer!r} is not applied once to one vector per example"
            )
        delta = torch.zeros_like(output, requires_grad=True)
        seen.append((x.detach(), delta))
        return output + delta

    handle = target.register_forward_hook(shift)
    module.requires_grad_(False)
    # columns B with B Bᵀ = W Wᵀ: as many products as the layer has rows, or fewer
    weight = target.weight.detach()
    if weight.shape[0] < weight.shape[1]:
        values, vectors = torch.linalg.eigh(weight @ weight.mT)
        columns = vectors * values.clamp_min(0).sqrt()
    else:
        columns = weight
    total = w.new_zeros(())
    for x, y, share in loss.chunks(w):
        seen.clear()
        with torch.enable_grad(), sdpa_kernel(SDPBackend.MATH):
            output = _outputs(module, x)
            if not seen:
                raise ValueError(f"layer {layer!r} is not used")
            ((features, delta),) = seen
            value = loss.criterion.mean(output, y, members=False) * share
            (slope,) = torch.autograd.grad(value, delta, create_graph=True)
            for column in columns.mT:
                if not slope.requires_grad:  # a loss that is linear in z
                    break
                (product,) = torch.autograd.grad(
                    slope @ column,
                    delta,
                    torch.ones_like(slope[:, 0]),
                    retain_graph=True,
                    materialize_grads=True,
                )
                total = total + (features.square().sum(-1) * (product @ column)).sum()
    handle.remove()
    return total


def _outputs(module: nn.Module, x) -> Tensor:
    if isinstance(x, Mapping):
        output = module(**x)
    else:
        output = module(*x) if isinstance(x, tuple | list) else module(x)
    return output if isinstance(output, Tensor) else output.logits


def pac_bayes_sharpness(
    loss: Loss,
    w: Tensor,
    *,
    deviation: float = 0.1,
    magnitude_aware: bool = False,
    floor: float = 1e-3,
    measure: str = "accuracy",
    samples: int = 16,
    seed: int = 0,
) -> PacBayes:
    """The sharpness 1 / sigma² of PAC-Bayes bounds, for the largest tolerated sigma.

    sigma is the largest standard deviation of Gaussian noise under which the training
    accuracy falls, or the loss rises, by no more than ``deviation`` on average. The
    noise is N(0, sigma²) on every weight, or, where magnitude-aware,
    N(0, sigma² w_i² + floor²) (Jiang et al. 2020, sections C.2 and C.3).

    The search is by bisection over sigma with the same draws at every sigma. All
    members get the same draws, in antithetic pairs.

    Args:
        loss: the surface.
        w: (k,) or (members, k).
        deviation: fall of the accuracy (a fraction) or rise of the loss allowed.
        magnitude_aware: whether the noise is proportional to the weights.
        floor: absolute noise under the magnitude-aware one, so that zero weights move.
        measure: "accuracy" or "loss".
        samples: evaluations at every sigma, an even number of at least 4.
        seed: of the draws.

    Returns:
        A ``PacBayes``; without an axis of members where w has none.

    Raises:
        TypeError: if ``loss`` is no ``Loss``.
        ValueError: if w has another shape than the network's or is not finite, or an
            argument is out of range.
    """
    if measure not in ("accuracy", "loss"):
        raise ValueError(f"measure is {measure!r}, expected 'accuracy' or 'loss'")
    if floor < 0:
        raise ValueError(f"floor is {floor}, expected at least 0")
    w, single = checked(loss, w)

    def value(points):
        return loss(points) if measure == "loss" else -loss.accuracy(points)

    def scale(sigma):
        if not magnitude_aware:
            return sigma[:, None].expand(w.shape)
        return ((sigma[:, None] * w).square() + floor**2).sqrt()

    start = torch.full_like(w[:, 0], 0.1)
    if not magnitude_aware:
        start = start * w.square().mean(-1).sqrt().clamp_min(1e-3)
    sigma, error, rise = tolerated(
        loss, value, w, scale, start, deviation, samples, seed, "PAC-Bayes sharpness"
    )
    if single:
        sigma, error, rise = sigma[0], error[0], rise[0]
    return PacBayes(sigma**-2, sigma, error, rise)


def condition_number(
    loss: Loss, w: Tensor, *, tol: float = 1e-3, seed: int = 0
) -> ConditionNumber:
    """Ratio of the largest to the smallest Hessian eigenvalue, and a warning.

    The ratio says how elongated the surface is and nothing about how sharp: 1000 times
    the identity has the ratio 1. Where the smallest eigenvalue is not positive, which
    is the rule for trained networks, or smaller than the error with which it is known,
    the number means nothing; ``meaningful`` says so and a warning is given.

    Args:
        loss: the surface.
        w: (k,) or (members, k).
        tol: of the eigenvalues, as in ``eigenvalues``.
        seed: of the random start vectors.

    Returns:
        A ``ConditionNumber``; without an axis of members where w has none.

    Raises:
        TypeError: if ``loss`` is no ``Loss``.
        ValueError: if w has another shape than the network's or is not finite.
    """
    from flatlab.hessian import Hessian
    from flatlab.spectra import NORM_SHARE, eigenvalues

    checked(loss, w)
    found = eigenvalues(Hessian(loss, w), which="both", tol=tol, seed=seed)
    largest, smallest = found.values[..., 0], found.values[..., 1]
    norm = found.values.abs().amax(-1)
    error = torch.maximum(found.residuals[..., 1], tol * NORM_SHARE * norm)
    meaningful = (smallest > error) & found.converged
    if not bool(meaningful.all()):
        warnings.warn(
            f"the smallest Hessian eigenvalue of {int((~meaningful).sum())} of "
            f"{meaningful.numel()} members is not positive, or too small to be told "
            "from zero: their ratio is no condition number",
            RuntimeWarning,
            stacklevel=2,
        )
    return ConditionNumber(largest / smallest, largest, smallest, meaningful)
