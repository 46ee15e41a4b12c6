"""How much the loss rises around w: worst case, average, and their relatives."""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.functional import jvp

from flatlab.environment import double
from flatlab.loss import IGNORED, Loss
from flatlab.neighbourhoods import Bound, Neighbourhood, check_set, keskar_box
from flatlab.network import outputs_of, over_members
from flatlab.noise import Noise, at_points, check_same, check_samples, rises, wide
from flatlab.progress import progress

# A search is over once every step has been cut to this share of the radius.
_SMALLEST_STEP = 1e-6


@dataclass(frozen=True)
class WorstCase:
    """The highest rise of the loss that was found in a neighbourhood.

    A search can only bound a maximum from below: the true one may be higher.

    Attributes:
        values: (members,) what was asked for: the rise, or Keskar's phi in per cent.
        rise: (members,) max L_S(w + epsilon) - L_S(w), never negative; NaN where w,
            or all points that were tried, have no finite loss.
        epsilon: (members, k), inside the neighbourhood, where ``rise`` is attained.
        loss: (members,) L_S(w).
        evaluations: gradients of L_S that were computed for each member.
    """

    values: Tensor
    rise: Tensor
    epsilon: Tensor
    loss: Tensor
    evaluations: int


@dataclass(frozen=True)
class Average:
    """The mean rise of the loss under Gaussian noise.

    Attributes:
        values: (members,) mean of L_S(w + epsilon) - L_S(w).
        standard_error: (members,), over antithetic pairs, and of the rounding of the
            loss at w, which is in all of them.
        sigma: (members,) standard deviation of epsilon / t.
        samples: evaluations of L_S for each member.
    """

    values: Tensor
    standard_error: Tensor
    sigma: Tensor
    samples: int


@dataclass(frozen=True)
class Critical:
    """The learning rate at which a step stops lowering the loss, as a sharpness.

    Attributes:
        values: (members,) 2 / rate; 0 where no rate that was tried raises the loss,
            infinite where none lowers it, NaN where the loss is no finite number, or
            the direction is none or zero.
        rate: (members,) the critical learning rate.
        evaluations: forward passes that were spent on each member.
    """

    values: Tensor
    rate: Tensor
    evaluations: int


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

    Takes ``starts``, (starts, members, k) offsets, whose values and gradients
    ``value_and_gradient`` gives; returns the best values, (members,), -∞ where all are
    NaN, their offsets and the evaluations.
    """
    epsilon, count = starts, len(starts)
    value, gradient = value_and_gradient(epsilon)
    # a start without a loss must not hide what the others find
    value = torch.where(value.isnan(), -math.inf, value)
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
    found = epsilon[which, torch.arange(len(best), device=best.device)]
    return best, found, evaluations


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


def _search(
    loss: Loss,
    w: Tensor,
    around: Bound,
    basis: Tensor | None,
    steps: int,
    restarts: int,
    seed: int,
) -> WorstCase:
    """The highest rise at w + y Aᵀ for y in a set, with A the ``basis`` or identity."""
    if steps < 0 or restarts < 0:
        raise ValueError(
            f"steps is {steps} and restarts is {restarts}, expected numbers of at "
            "least 0"
        )
    base, gradient = loss.value_and_gradient(w)
    check_same(base, loss(w))
    flat = (gradient == 0).all(-1) & base.isfinite()

    def offset(y: Tensor) -> Tensor:
        return y if basis is None else y @ basis.mT

    def value_and_gradient(y: Tensor) -> tuple[Tensor, Tensor]:
        nonlocal flat
        value, slope = at_points(loss, loss.value_and_gradient, w + offset(y))
        if flat is not None:  # at the starts: no gradient there either, but a change
            flat = flat & (slope == 0).all(-1).all(0) & (value != base).any(0)
            if bool(flat.any()):
                raise ValueError(
                    "the loss changes with w but its gradient is zero everywhere: no "
                    "gradient reaches the weights (is the network detached, or "
                    "piecewise constant?)"
                )
            flat = None
        return value, slope if basis is None else slope @ basis

    first = gradient if basis is None else gradient @ basis
    starts = _starts(first, around, restarts, seed)
    best, y, evaluations = ascend(value_and_gradient, around, starts, steps)
    higher = best > base  # at epsilon = 0, which is in the set, nothing rises
    rise = torch.where(higher, best - base, 0)
    rise = torch.where(base.isfinite() & (best > -math.inf), rise, math.nan)
    epsilon = torch.where(higher[:, None], offset(y), 0)
    return WorstCase(rise, rise, epsilon, base, evaluations + 1)


@over_members
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
        w: (..., k).
        neighbourhood: from ``ball``, ``keskar_box`` or ``adaptive_ball``.
        steps: of the ascent from every start.
        restarts: starts beside the steepest step from w: its opposite, then random
            points and their opposites in turn.
        seed: of the random starts; all members get the same draws.

    Reference: Foret et al. (2021), equation 1; Kwon et al. (2021), equation 4, for
    the adaptive neighbourhoods.
    """
    check_set(neighbourhood)
    w = wide(w)
    around = neighbourhood.at(w, loss.net.layout_on(w.device))
    return _search(loss, w, around, None, steps, restarts, seed)


@over_members
def average_sharpness(
    loss: Loss,
    w: Tensor,
    neighbourhood: Neighbourhood,
    *,
    samples: int = 64,
    seed: int = 0,
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
        w: (..., k).
        neighbourhood: from ``ball``, ``keskar_box`` or ``adaptive_ball``.
        samples: evaluations of the loss for each member, an even number of at least 4.
        seed: of the draws.
    """
    check_set(neighbourhood)
    check_samples(samples)
    w, pairs = wide(w), samples // 2
    around = neighbourhood.at(w, loss.net.layout_on(w.device))
    base = loss(w)
    check_same(base, loss(w))
    exact = loss.double(w)
    rounding = torch.zeros_like(base)
    if exact.dtype != w.dtype:
        rounding = (base - loss(exact)).abs().to(w)
    sigma = around.sigma.to(w)
    drawn = rises(loss, loss, w, base, sigma * around.t, Noise(w, seed), pairs)
    error = drawn.std(0) / math.sqrt(pairs)
    sigma = sigma[:, 0].expand(len(w))
    return Average(drawn.mean(0), error.hypot(rounding), sigma, samples)


@over_members
def keskar_sharpness(
    loss: Loss,
    w: Tensor,
    eps: float = 1e-3,
    *,
    subspace: int | None = None,
    steps: int = 20,
    restarts: int = 3,
    seed: int = 0,
) -> WorstCase:
    """Keskar's sharpness phi: the relative rise of the loss in a box, in per cent.

    phi = 100 max(f(w + A y) - f(w)) / (1 + f(w)) over the box
    ``|y_i| <= eps (|(A⁺ w)_i| + 1)`` (Keskar et al. 2017, metric 2.1 and equation 3).
    In the full space A is the identity. In a random subspace A has independent
    standard normal entries; the paper leaves their distribution open, and phi depends
    on their size. The paper maximises by ten iterations of L-BFGS-B; here the ascent
    of ``worst_case_sharpness`` does it.

    Args:
        loss: the surface f.
        w: (..., k).
        eps: size of the box, positive.
        subspace: None for the full space, or the number p ≤ k of columns of A (the
            paper takes 100). All members get the same A.
        steps: of the ascent from every start.
        restarts: further starts, as in ``worst_case_sharpness``.
        seed: of A and of the random starts.
    """
    box, w = keskar_box(eps), wide(w)
    A, centre = None, w
    if subspace is not None:
        if not 1 <= subspace <= loss.net.k:
            raise ValueError(
                f"subspace is {subspace}, expected 1 to k = {loss.net.k} dimensions"
            )
        noise, seed = Noise(w, seed), seed + 1
        A = torch.stack([noise[i] for i in range(subspace)], -1)  # (k, p)
        # A⁺ w in float64, which not every device has
        q, triangle = torch.linalg.qr(A.cpu().double())
        right = q.mT @ w.cpu().double().mT
        centre = torch.linalg.solve_triangular(triangle, right, upper=True).mT.to(w)
    found = _search(loss, w, box.at(centre), A, steps, restarts, seed)
    return replace(found, values=100 * found.rise / (1 + found.loss))


@over_members
def critical_sharpness(
    loss: Loss,
    w: Tensor,
    direction: Tensor | None = None,
    *,
    tol: float = 0.01,
) -> Critical:
    """Two over the smallest learning rate whose step would raise the loss.

    The step goes from w to w - rate · direction, and only forward passes are made along
    it: no second derivative, and no gradient if the direction is given. With the
    gradient g as direction and to second order this is the curvature along it,
    gᵀ H g / gᵀ g, hence at most λmax of a quadratic; gradient descent with a fixed
    learning rate lowers the loss as long as the value stays below 2 / learning rate.

    The rate is doubled, or halved, until the loss crosses its value at w; the crossing
    is then narrowed. A rise that is over within one doubling goes unseen.

    Args:
        loss: the surface. It is evaluated in float64 where device and model have it.
        w: (..., k).
        direction: what a unit learning rate subtracts from w, in the shape of w, as the
            update of an optimiser; by default the gradient.
        tol: of the rate, relative.

    Reference: Kalra et al. (2026), A scalable measure of loss landscape curvature.
    """
    if not 0 < tol < 1:
        raise ValueError(f"tol must lie between 0 and 1, got {tol}")
    w = loss.double(wide(w))
    if direction is None:
        direction = loss.gradient(w)
    elif direction.numel() != w.numel() or direction.shape[-1] != w.shape[-1]:
        raise ValueError(
            f"direction has shape {tuple(direction.shape)}, expected that of w"
        )
    else:
        direction = direction.detach().to(w).reshape(w.shape)
    base, evaluations = loss(w), 1
    low, high = torch.zeros_like(base), torch.full_like(base, torch.inf)
    rate, lowered = torch.ones_like(base), torch.zeros_like(base, dtype=torch.bool)
    known = base.isfinite() & direction.isfinite().all(-1) & (direction != 0).any(-1)
    for _ in progress(range(100 + math.ceil(math.log2(1 / tol))), "critical sharpness"):
        active = known & (high > low * (1 + tol))
        if not bool(active.any()):
            break
        value = loss(w - rate[:, None] * direction)
        rises = ~(value <= base)  # NaN is a rise too
        lowered = lowered | (value < base)
        evaluations += 1
        low = torch.where(active & ~rises, rate, low)
        high = torch.where(active & rises, rate, high)
        bracketed = (low > 0) & high.isfinite()
        rate = torch.where(
            bracketed, (low * high).sqrt(), rate * (1 - 0.5 * rises.to(w))
        )
        rate = torch.where(high.isinf(), 2 * low, rate)
    found = torch.where(high.isinf(), high, (low * high).sqrt() * lowered)
    found = torch.where(known, found, torch.nan)
    return Critical(2 / found, found, evaluations)


@over_members
def gradient_norm(loss: Loss, w: Tensor) -> Tensor:
    """Euclidean norm of the gradient of L_S at w, (..., k).

    It vanishes at every minimum, sharp or flat; what it measures near one is how far
    training is from the end.
    """
    gradient = loss.gradient(wide(w))
    # squares may overflow in float32
    return torch.linalg.vector_norm(double(gradient), dim=-1).to(gradient)


@over_members
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
        w: (..., k).

    Reference: Liang, Poggio, Rakhlin, Stokes (2019), Fisher-Rao metric, geometry, and
    complexity of neural networks, definition 2.
    """
    w = wide(w)
    leaves = loss.net.leaves(w)
    total, parts = torch.zeros_like(w[:, 0]), tuple(leaves.values())
    logits: Any

    def outputs(x: Any, *parts: Tensor) -> Tensor:
        return loss.net.evaluate(dict(zip(leaves, parts, strict=True)), x)

    for x, y, share in loss.chunks(w):
        with loss.net.twice_differentiable():
            logits, change = jvp(partial(outputs, x), parts, parts)  # f and J w
            free = logits.detach().requires_grad_()
            value = loss.criterion.mean(free, y, True, loss.own_labels).sum()
            (residual,) = torch.autograd.grad(value, free)
        if isinstance(loss.criterion.function, str):
            slope = (residual * change).sum(-1).flatten(1)
            count = (y != IGNORED).flatten(int(loss.own_labels)).sum(-1)
        else:
            slope = (residual * change).unsqueeze(-1).flatten(2).sum(-1)
            count = logits.shape[1]
        total = total + share * count * slope.square().sum(-1)
    return total


@over_members
def relative_flatness(loss: Loss, w: Tensor, layer: str | None = None) -> Tensor:
    """Relative flatness of one dense layer, exactly.

    kappa = Σ_{s,s'} ⟨w_s, w_s'⟩ tr H_{s,s'}, with w_s the rows of the layer's weight
    matrix W (outputs, inputs) and H_{s,s'} the block of second derivatives of L_S by
    w_s and w_s'. Small is flat. Since W enters only through z = W x + b, the sum is the
    mean over examples of ‖x‖² tr(W Wᵀ ∂²l/∂z²), which is how it is computed: one
    product per row of W and no sampling.

    Args:
        loss: the surface; its criterion must average over examples.
        w: (..., k).
        layer: name of an ``nn.Linear`` in the module; by default the last one.

    Reference: Petzka, Kamp, Adilova, Sminchisescu, Boley (2021), Relative flatness and
    generalization, definition 3.
    """
    w = wide(w)
    module = loss.net.module(w[0])
    names = [n for n, m in module.named_modules() if isinstance(m, nn.Linear)]
    if layer is None and names:
        layer = names[-1]
    if layer is None or layer not in names:
        raise ValueError(
            f"layer is {layer!r}, expected one of the dense layers {names}"
        )
    if loss.own_labels:
        raise ValueError("the members have labels of their own; measure them in turn")
    return torch.stack([_relative_flatness(loss, one, layer) for one in w])


def _relative_flatness(loss: Loss, w: Tensor, layer: str) -> Tensor:
    module = loss.net.module(w).eval()
    target: Any = module.get_submodule(layer)
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
    # rows with Rᵀ R = W Wᵀ: as many products as the layer has outputs, or fewer
    R = torch.linalg.qr(target.weight.detach().mT, mode="r").R
    total = w.new_zeros(())
    for x, y, share in loss.chunks(w):
        seen.clear()
        with loss.net.twice_differentiable():
            output = outputs_of(module, x)
            if not seen:
                raise ValueError(f"layer {layer!r} is not used")
            ((features, delta),) = seen
            value = loss.criterion.mean(output, y, members=False) * share
            (slope,) = torch.autograd.grad(value, delta, create_graph=True)
            for column in R:
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
