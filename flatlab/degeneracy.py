"""The local learning coefficient: how fast the volume of low loss shrinks around w."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from flatlab.loss import Loss
from flatlab.network import over_members
from flatlab.noise import wide
from flatlab.progress import progress

# Of steps accepted, what the length of a step is tuned to during the burn-in.
_ACCEPTED = 0.6


@dataclass(frozen=True)
class LearningCoefficient:
    """A local learning coefficient, and the evidence for it.

    Attributes:
        values: (members,) n β (mean L_S over the chains - L_S(w)); NaN where a chain
            left the finite numbers.
        standard_error: (members,), over chains.
        drift: (members,) the second half of the draws minus the first: all chains start
            at w, so what they have not reached yet shows here, not in the error.
        accepted: (members,) mean probability that Metropolis' rule accepts a step.
        step: (members,) variance of the noise in one step.
        converged: (members,) whether the value is positive, and its error and drift
            together are within the tolerance. False says: the sampler missed.
    """

    values: Tensor
    standard_error: Tensor
    drift: Tensor
    accepted: Tensor
    step: Tensor
    converged: Tensor


@over_members
def local_learning_coefficient(
    loss: Loss,
    w: Tensor,
    *,
    localisation: float = 1.0,
    n_beta: float | None = None,
    chains: int = 8,
    draws: int = 1000,
    burn_in: int = 1000,
    step: float | None = None,
    metropolis: bool = True,
    tol: float = 0.1,
    seed: int = 0,
) -> LearningCoefficient:
    """Local learning coefficient at w, from Langevin chains that are members.

    The volume of weights near a minimum whose loss exceeds L_S(w) by less than δ
    shrinks like δ to this power, up to logarithms: k/2 at a minimum with a Hessian of
    full rank, less where directions are flat to all orders or flatter than a square.
    It is estimated as n β (E[L_S] - L_S(w)) under the density

        exp(-n β L_S(v) - ½ localisation · ‖v - w‖²)

    of weights v. On a quadratic that is half the soft rank of the Hessian with ridge
    localisation / (n β).

    SGLD adds N(0, step) to steps of length step / 2 down the negative logarithm of that
    density, here with the gradient of the whole set. What it settles in is off by an
    amount that grows with the step; Metropolis' rule, which refuses some of the steps,
    takes that away.

    Args:
        loss: the surface; w should be a minimum of it.
        w: (..., k).
        localisation: pull back to w, positive or 0. Directions with a curvature below
            localisation / (n β) do not count.
        n_beta: n β; by default n / ln n, which the theory asks for.
        chains: for every member, all starting at w; at least 2.
        draws: steps that are counted, of every chain, at least 2.
        burn_in: steps before.
        step: variance of the noise; by default tuned in the burn-in until 60 % of the
            steps are accepted.
        metropolis: whether steps are refused. Without, a ``step`` must be given.
        tol: of ``converged``, relative to the value.
        seed: of the noise; all members get the same.

    Reference: Lau, Furman, Wang, Murfet & Wei (2025), The local learning coefficient;
    Welling & Teh (2011) for SGLD, Roberts & Tweedie (1996) for the Metropolis rule.
    """
    if chains < 2 or draws < 2 or burn_in < 0:
        raise ValueError(
            f"need chains ≥ 2, draws ≥ 2 and burn_in ≥ 0, got {chains}, {draws} and "
            f"{burn_in}"
        )
    if n_beta is None:
        n_beta = loss.n / math.log(loss.n) if loss.n > 1 else 0.0
    positive = [n_beta] if step is None else [n_beta, step]
    if not all(0 < v < math.inf for v in positive) or not 0 <= localisation < math.inf:
        raise ValueError(
            f"n_beta is {n_beta}, step {step} and localisation {localisation}, expected"
            " positive numbers, or a localisation of 0"
        )
    if step is None and not (metropolis and burn_in):
        raise ValueError(
            "step is tuned by Metropolis' rule in the burn-in: give a step"
        )
    chain = _Chains(loss, wide(w), n_beta, localisation, chains, seed)
    chain.step = chain.step.fill_(step or 1 / (n_beta + localisation))
    for i in progress(range(burn_in), "burn-in"):
        accepted = chain.advance(metropolis)
        if step is None:
            gain = 2 / (1 + i / 10) ** 0.6
            chain.step = chain.step * (gain * (accepted - _ACCEPTED)).exp()
    losses, rates = [], []
    for _ in progress(range(draws), "learning coefficient"):
        rates.append(chain.advance(metropolis))
        losses.append(chain.loss - chain.base)
    # (draws, chains, members)
    scaled = n_beta * torch.stack(losses)
    lost = ~scaled.isfinite().all(0).all(0)
    scaled = torch.where(lost, torch.nan, scaled)
    first, second = (part.mean(0) for part in scaled.tensor_split(2))
    values, drift = scaled.mean((0, 1)), (second - first).mean(0)
    error = scaled.mean(0).std(0) / math.sqrt(chains)
    converged = (values > 0) & (error.hypot(drift) <= tol * values)
    accepted = torch.stack(rates).mean(0)
    return LearningCoefficient(values, error, drift, accepted, chain.step, converged)


class _Chains:
    """Langevin chains of all members, (chains, members, k), all starting at w."""

    def __init__(
        self,
        loss: Loss,
        w: Tensor,
        n_beta: float,
        localisation: float,
        chains: int,
        seed: int,
    ):
        self.surface, self.w = loss, w
        self.n_beta, self.localisation = n_beta, localisation
        self.base = loss(w)
        self.generator = torch.Generator("cpu").manual_seed(seed)
        self.v = w.expand(chains, *w.shape).clone()
        self.step = torch.ones_like(self.base)
        self.loss, self.log_density, self.slope = self._look(self.v)

    def _look(self, v: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The loss, the log density relative to that at w, and its gradient."""
        value, gradient = self.surface.value_and_gradient(v)
        away = v - self.w
        log_density = -self.n_beta * (value - self.base)
        log_density = log_density - 0.5 * self.localisation * away.square().sum(-1)
        return value, log_density, -self.n_beta * gradient - self.localisation * away

    def advance(self, metropolis: bool) -> Tensor:
        """One step of every chain; the mean chance of acceptance, (members,)."""
        chains, _, k = self.v.shape
        how = {"generator": self.generator, "device": "cpu"}
        noise = torch.randn(chains, 1, k, **how).to(self.v)
        step = self.step[:, None]
        moved = step / 2 * self.slope + step.sqrt() * noise
        v = self.v + moved
        value, log_density, slope = self._look(v)
        # log of q(v → old) / q(old → v): the way back needs this much noise
        back = (moved + step / 2 * slope).square().sum(-1) / (2 * self.step)
        ahead = noise.square().sum(-1) / 2
        log_chance = log_density - self.log_density + ahead - back
        chance = log_chance.clamp_max(0).exp().nan_to_num(0.0)
        draw = torch.rand(chains, 1, **how).to(self.v)
        taken = (draw < chance) | (not metropolis)
        self.v = torch.where(taken[..., None], v, self.v)
        self.slope = torch.where(taken[..., None], slope, self.slope)
        self.loss = torch.where(taken, value, self.loss)
        self.log_density = torch.where(taken, log_density, self.log_density)
        return chance.mean(0)
