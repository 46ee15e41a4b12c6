"""Bounds on the test loss: SAM's theorem, and PAC-Bayes bounds optimised directly.

Functions of numbers also take tensors, which broadcast, and return float64 tensors.
"""

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from flatlab.loss import Loss, place, select
from flatlab.network import Network
from flatlab.progress import progress
from flatlab.training import generator

# streams of randomness of one seed
_BATCHES, _NOISE, _CERTIFICATE = range(3)
# numbers that the weights of one batch of posterior samples may hold
_WEIGHT_ELEMENTS = 2**22
# what the arguments of that name have to be
_DOMAINS = {
    "positive": (lambda v: v > 0, ("rho", "sigma", "prior_sigma", "complexity")),
    "at least 0": (lambda v: v >= 0, ("norm", "worst_loss", "kl", "c")),
    "in [0, 1]": (lambda v: (v >= 0) & (v <= 1), ("q", "empirical_risk")),
    "between 0 and 1": (lambda v: (v > 0) & (v < 1), ("delta", "delta_mc")),
    "at least 1": (lambda v: v >= 1, ("k", "n", "samples")),
}


@dataclass(frozen=True)
class SamBound:
    """SAM's bound, term by term; every term is a float64 tensor.

    ``value = worst_loss + complexity`` and ``complexity = tail + sqrt((norm_term +
    confidence + constant) / degrees)``, where ``degrees`` is n - 1 in the theorem as
    printed and n in the re-derived one.

    Attributes:
        value: the bound on the population loss.
        worst_loss: max L_S(w + epsilon) over the ball, as it was given.
        complexity: all that is added to it.
        norm_term: what grows with the norm of w and with k.
        confidence: what grows with 1 / delta.
        constant: the rest under the root; what stands for Õ(1) as printed.
        tail: what noise outside the ball adds; zero as printed, where ``constant``
            has absorbed it.
    """

    value: Tensor
    worst_loss: Tensor
    complexity: Tensor
    norm_term: Tensor
    confidence: Tensor
    constant: Tensor
    tail: Tensor


@dataclass(frozen=True)
class Certificate:
    """A PAC-Bayes bound on the 0-1 risk of one stochastic classifier.

    The classifier draws w from N(mean, sigma²) afresh for every input. Its population
    risk is below ``bound`` with probability 1 - delta - delta_mc over the training set
    and the Monte-Carlo draws.

    Attributes:
        bound: the certificate, in [0, 1].
        empirical_risk: mean training error of the Monte-Carlo draws.
        risk_upper: upper confidence limit of the training error, at ``delta_mc``.
        kl: KL(Q || P) in nats.
        prior_sigma: standard deviation of the prior, chosen from the grid.
        mean: (k,) posterior means.
        sigma: (k,) posterior standard deviations.
        n: training examples.
        samples: Monte-Carlo draws of w.
        delta: probability that the bound may fail, shared by the whole grid.
        delta_mc: probability that ``risk_upper`` may fail.
    """

    bound: float
    empirical_risk: float
    risk_upper: float
    kl: float
    prior_sigma: float
    mean: Tensor
    sigma: Tensor
    n: int
    samples: int
    delta: float
    delta_mc: float


# ----------------------------------------------------------------- checked arguments


def _numbers(**values: Any) -> list[Tensor]:
    """Finite float64 tensors that broadcast, each in the domain of its name."""
    # MPS has no float64
    values = {
        name: v.cpu() if isinstance(v, Tensor) and v.device.type != "cuda" else v
        for name, v in values.items()
    }
    device = next(
        (v.device for v in values.values() if isinstance(v, Tensor) and v.ndim), "cpu"
    )
    tensors = []
    for name, value in values.items():
        tensor = torch.as_tensor(value, dtype=torch.float64, device=device)
        tensors.append(tensor)
        expected = {"finite": torch.isfinite}
        expected |= {k: fits for k, (fits, names) in _DOMAINS.items() if name in names}
        for domain, fits in expected.items():
            if not bool(fits(tensor).all()):
                raise ValueError(f"{name} must be {domain}, got {value}")
    return list(torch.broadcast_tensors(*tensors))


# ------------------------------------------------------------------------ SAM's bound


def _need_two(n: Tensor) -> None:
    if not bool((n > 1).all()):
        raise ValueError(f"n must be larger than 1, got {n}")


def sigma_of_proof(rho: Any, n: Any, k: Any) -> Tensor:
    """The noise for which the proof of SAM's bound needs its assumption.

    The theorem states L_D(w) <= E L_D(w + epsilon) for noise of size rho per
    coordinate, but its proof uses the noise that stays inside the ball of radius rho
    with probability 1 - 1 / sqrt(n): sigma = rho / (sqrt(k) + sqrt(ln n)) (Foret et al.
    2021, appendix A.1). Arguments as for ``sam_bound``.
    """
    rho, n, k = _numbers(rho=rho, n=n, k=k)
    _need_two(n)
    return rho / (k.sqrt() + n.log().sqrt())


def sam_bound(
    worst_loss: Any,
    norm: Any,
    *,
    rho: Any,
    n: Any,
    k: Any,
    delta: Any = 0.05,
    derived: bool = False,
) -> SamBound:
    r"""SAM's bound on the population loss (Foret et al. 2021, Theorem 2).

    As printed, with probability at least :math:`1 - \delta` over the training set,

    .. math::

        L_D(w) \le \max_{\|\epsilon\|_2 \le \rho} L_S(w + \epsilon)
        + \sqrt{\frac{k \ln\left(1 + \frac{\|w\|_2^2}{\rho^2}
        \left(1 + \sqrt{\frac{\ln n}{k}}\right)^2\right)
        + 4 \ln\frac{n}{\delta} + \tilde O(1)}{n - 1}}

    for a loss in [0, 1], for weights w at which noise does not lower the population
    loss, and for a radius that was fixed before the data were seen: a radius chosen
    afterwards needs a union over all that were tried. The theorem leaves
    :math:`\tilde O(1)` open. What the proof adds up to is ``8 ln(6 n + 3 k)``, and that
    is put in its place here.

    ``derived=True`` gives what the same argument yields when no constant is rounded
    up, with :math:`x = k \ln(1 + \|w\|^2 / (k \sigma^2))`, which is the printed
    :math:`k \ln(\cdot)` at the :math:`\sigma` of ``sigma_of_proof``:

    .. math::

        L_D(w) \le m + \frac{1 - m}{\sqrt n}
        + \sqrt{\frac{\frac{x}{4} + \frac12 \ln\frac{2 \sqrt n}{\delta}
        + \frac14 + \frac12 \ln\frac{\pi^2 (x + 2)^2}{6}}{n}},
        \qquad m = \max_{\|\epsilon\|_2 \le \rho} L_S(w + \epsilon).

    The book's page on the constant derives it.

    Args:
        worst_loss: max L_S(w + epsilon) in the ball; at least 0, and at most 1 if
            ``derived``. A search finds the maximum from below only, and the bound
            inherits that.
        norm: Euclidean norm of w, or distance of w from a point that was fixed before
            the data (the centre of the prior).
        rho: radius of the ball.
        n: training examples, more than 1.
        k: weights.
        delta: probability with which the bound may fail.
        derived: whether to give the re-derived form.

    Returns:
        A ``SamBound``; values above 1 say nothing.
    """
    worst, norm, rho, n, k, delta = _numbers(
        worst_loss=worst_loss, norm=norm, rho=rho, n=n, k=k, delta=delta
    )
    _need_two(n)
    growth = k * torch.log1p((norm / rho).square() * (1 + (n.log() / k).sqrt()) ** 2)
    if derived:
        if not bool((worst <= 1).all()):
            raise ValueError(
                f"worst_loss must be at most 1 for the derived form, got {worst_loss}"
            )
        norm_term = growth / 4
        confidence = 0.5 * (2 * n.sqrt() / delta).log()
        rest = 0.25 + 0.5 * math.log(math.pi**2 / 6) + (growth + 2).log()
        tail, degrees = (1 - worst) / n.sqrt(), n
    else:
        norm_term = growth
        confidence = 4 * (n / delta).log()
        rest = 8 * (6 * n + 3 * k).log()
        tail, degrees = torch.zeros_like(worst), n - 1
    complexity = tail + ((norm_term + confidence + rest) / degrees).sqrt()
    terms = (worst, complexity, norm_term, confidence, rest, tail)
    return SamBound(*torch.broadcast_tensors(worst + complexity, *terms))


def examples_needed(
    complexity: Any,
    norm: Any,
    *,
    rho: Any,
    k: Any,
    delta: Any = 0.05,
    derived: bool = False,
) -> Tensor:
    """How many examples bring the complexity of SAM's bound down to a value.

    The complexity falls with n (as printed for every n > 1, in the re-derived form from
    n = 3 on), so halving an interval finds the place. The re-derived form is taken at a
    worst loss of zero, where its complexity is largest. Arguments as for ``sam_bound``.

    Returns:
        The smallest whole n >= 3; exact as far as float64 counts (up to 2**53).
    """
    complexity, norm, rho, k, delta = _numbers(
        complexity=complexity, norm=norm, rho=rho, k=k, delta=delta
    )

    def enough(n: Tensor) -> Tensor:
        bound = sam_bound(0.0, norm, rho=rho, n=n, k=k, delta=delta, derived=derived)
        return bound.complexity <= complexity

    low, high = torch.full_like(norm, 2.0), torch.full_like(norm, 2.0**53)
    if not bool(enough(high).all()):
        raise ValueError("even 2**53 examples do not bring the complexity down so far")
    for _ in range(54):  # invariant: high is enough
        middle = ((low + high) / 2).floor().clamp_min(3)
        below = enough(middle)
        high = torch.where(below, middle, high)
        low = torch.where(below, low, middle)
    return high


# --------------------------------------------------------------------------- PAC-Bayes


def kl_inverse(q: Any, c: Any) -> Tensor:
    """The largest p in [q, 1] with kl(q, p) <= c, between Bernoulli distributions.

    kl(q, p) = q ln(q / p) + (1 - q) ln((1 - q) / (1 - p)). An interval for p - q is
    halved until float64 cannot tell its ends apart, and the upper end is returned.

    Args:
        q: in [0, 1].
        c: in nats, at least 0.
    """
    q, c = _numbers(q=q, c=c)
    one = 1 - q
    low, high = torch.zeros_like(q), one
    for _ in range(100):  # more than a float64 can tell apart
        d = (low + high) / 2
        # In terms of p - q little cancels, however small c is; d / q may overflow.
        ratio = torch.where(d > q, (q + d).log() - q.log(), torch.log1p(d / q))
        kl = -torch.where(q > 0, q * ratio, 0)
        kl = kl - torch.where(one > 0, one * torch.log1p(-d / one), 0)
        inside = kl <= c
        low, high = torch.where(inside, d, low), torch.where(inside, high, d)
    return (q + high).clamp_max(1)


def kl_gaussians(
    mean: Tensor, sigma: Any, prior_mean: Tensor, prior_sigma: Any
) -> Tensor:
    """KL(Q || P) in nats, (...), of Q = N(mean, sigma²) and P = N(prior_mean, ...).

    Coordinates are independent: means and standard deviations are (..., k).
    """
    mean, sigma, prior_mean, prior_sigma = _numbers(
        mean=mean, sigma=sigma, prior_mean=prior_mean, prior_sigma=prior_sigma
    )
    ratio = (sigma / prior_sigma).square()
    shift = ((mean - prior_mean) / prior_sigma).square()
    return 0.5 * (ratio + shift - 1 - ratio.log()).sum(-1)


def pac_bayes_kl_bound(
    empirical_risk: Any, kl: Any, n: Any, delta: Any = 0.05
) -> Tensor:
    """The PAC-Bayes-kl bound (Seeger 2002) with Maurer's constant (Maurer 2004).

    With probability 1 - delta over the training set, for all posteriors Q at once:
    kl(E_Q L_S, E_Q L_D) <= (KL(Q || P) + ln(2 sqrt(n) / delta)) / n, for a loss in
    [0, 1] and a prior P that does not depend on the training set.

    Args:
        empirical_risk: E_Q L_S in [0, 1], or an upper limit for it.
        kl: KL(Q || P) in nats.
        n: training examples.
        delta: probability with which the bound may fail.

    Returns:
        The upper limit of E_Q L_D.
    """
    risk, kl, n, delta = _numbers(
        empirical_risk=empirical_risk, kl=kl, n=n, delta=delta
    )
    return kl_inverse(risk, (kl + (2 * n.sqrt() / delta).log()) / n)


def monte_carlo_bound(mean: Any, samples: Any, delta: Any = 0.01) -> Tensor:
    """An upper confidence limit for an expectation, from the mean of some samples.

    For ``samples`` independent draws in [0, 1] the expectation exceeds kl_inverse(mean,
    ln(1 / delta) / samples) with probability at most delta (Hoeffding 1963, Theorem 1).
    """
    mean, samples, delta = _numbers(mean=mean, samples=samples, delta=delta)
    return kl_inverse(mean, -delta.log() / samples)


@torch.no_grad()
def gibbs_errors(
    net: Network, data: Any, mean: Tensor, sigma: Tensor, *, samples: int, seed: int
) -> Tensor:
    """The 0-1 error of weights drawn from N(mean, sigma²), (samples,) float64.

    ``data`` are whatever ``Loss`` takes, ``mean`` and ``sigma`` are (k,).
    """
    _check_point(net, mean, "mean")
    _check_point(net, sigma, "sigma")
    _numbers(samples=samples)
    loss = Loss(net, data)
    noise = generator(seed, _CERTIFICATE)
    size = max(1, _WEIGHT_ELEMENTS // net.k)
    errors = []
    for start in progress(range(0, samples, size), "Monte-Carlo samples"):
        members = min(size, samples - start)
        z = torch.randn(
            members, net.k, generator=noise, dtype=mean.dtype, device="cpu"
        ).to(mean.device)
        right = loss.accuracy(mean + sigma * z).cpu().double() * loss.n
        errors.append(1 - right.round() / loss.n)  # whole examples, without rounding
    return torch.cat(errors)


def optimise_pac_bayes(
    net: Network,
    data: Any,
    *,
    prior: Tensor,
    start: Tensor,
    seed: int,
    steps: int = 4000,
    batch_size: int = 256,
    learning_rate: float = 1e-2,
    sigma: float = 0.03,
    samples: int = 10_000,
    delta: float = 0.04,
    delta_mc: float = 0.01,
) -> Certificate:
    r"""Train a Gaussian over the weights for the bound itself, then certify it.

    The posterior N(mean, diag(sigma²)) starts at ``start`` and is moved by Adam, over
    means and log standard deviations, down the PAC-Bayes-kl bound's relaxation
    :math:`(\sqrt{l + c/2} + \sqrt{c/2})^2` with :math:`c = (KL + \ln(2 \sqrt n g /
    \delta)) / n` (Pérez-Ortiz et al. 2021, ``f_quad``), where l is the cross-entropy
    in bits of noisy weights, which bounds the 0-1 loss from above. On the way the
    prior's standard deviation is the best one; in the end it is chosen from g = 64
    values from 0.001 to 1 in equal ratios, each with the share :math:`\delta / g` (as
    Dziugaite and Roy 2017 do on an infinite grid). The certificate is for the 0-1 loss,
    from fresh draws, whatever the optimisation did. The PAC-Bayes bound holds for all
    posteriors at once, so the best of several runs with the same prior may be reported,
    with ``delta_mc`` once for each run.

    Args:
        net: the network.
        data: the training set, whatever ``Loss`` takes; labels of shape (n,).
        prior: (k,) centre of the prior, fixed without these data, such as the
            initialisation that training began with.
        start: (k,) where the means start, such as the trained weights.
        seed: of batches and draws; nothing global is touched.
        steps: of Adam.
        batch_size: examples per step.
        learning_rate: of Adam; it falls to zero along a cosine.
        sigma: standard deviation to start from.
        samples: Monte-Carlo draws of the certificate.
        delta: probability with which the PAC-Bayes bound may fail.
        delta_mc: probability with which the Monte-Carlo limit may fail.
    """
    _check_point(net, prior, "prior")
    _check_point(net, start, "start")
    if min(steps, batch_size) < 1 or not (sigma > 0 and learning_rate > 0):
        raise ValueError(
            "steps, batch_size, sigma and learning_rate must be positive, got "
            f"{(steps, batch_size, sigma, learning_rate)}"
        )
    _numbers(delta=delta, delta_mc=delta_mc)
    grid = torch.logspace(-3, 0, 64, dtype=torch.float64, device="cpu")
    loss = Loss(net, data)
    if loss.y.ndim != 1:
        raise ValueError(
            f"labels have shape {tuple(loss.y.shape)}, expected ({loss.n},)"
        )
    prior = prior.detach().to(start)
    share = delta / len(grid)
    confidence = math.log(2 * math.sqrt(loss.n) / share)
    how = (steps, batch_size, learning_rate, seed)
    mean, spread = _descend(loss, prior, start.detach(), sigma, confidence, *how)
    data = (loss.x, loss.y)
    errors = gibbs_errors(net, data, mean, spread, samples=samples, seed=seed)
    risk = errors.mean().clamp(0, 1)
    upper = monte_carlo_bound(risk, samples, delta_mc)
    kl = kl_gaussians(mean, spread, prior, grid[:, None]).clamp_min(0)
    best = int(kl.argmin())  # the shares are equal: least KL, least bound
    bound = pac_bayes_kl_bound(upper, kl[best], loss.n, share)
    return Certificate(
        bound=float(bound),
        empirical_risk=float(risk),
        risk_upper=float(upper),
        kl=float(kl[best]),
        prior_sigma=float(grid[best]),
        mean=mean,
        sigma=spread,
        n=loss.n,
        samples=samples,
        delta=delta,
        delta_mc=delta_mc,
    )


def _check_point(net: Network, w: Any, name: str) -> None:
    net.check(w)
    if w.ndim != 1 or not bool(w.isfinite().all()):
        raise ValueError(
            f"{name} must be finite and of shape ({net.k},), got {tuple(w.shape)}"
        )


def _descend(
    loss: Loss, prior: Tensor, start: Tensor, sigma: float, confidence: float,
    steps: int, batch_size: int, rate: float, seed: int,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """Means and standard deviations that make the relaxed bound small."""
    net, n = loss.net, loss.n
    x, y = place(loss.x, start.device, start.dtype), loss.y.to(start.device)
    batches, noise = generator(seed, _BATCHES), generator(seed, _NOISE)
    mean = start.clone().requires_grad_()
    log_sigma = torch.full_like(start, math.log(sigma)).requires_grad_()
    adam = torch.optim.Adam([mean, log_sigma], lr=rate)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(adam, steps)
    for _ in progress(range(steps), "PAC-Bayes bound"):
        index = torch.randint(
            n, (min(batch_size, n),), generator=batches, device="cpu"
        ).to(start.device)
        z = torch.randn(1, net.k, generator=noise, dtype=start.dtype, device="cpu")
        with torch.enable_grad():
            spread = log_sigma.exp()
            w = mean + spread * z.to(start.device)
            value = loss.value(net.unflatten(w), select(x, index), y[index])
            # With the best prior variance, the mean square below, the two quadratic
            # terms of KL cancel against k and the logarithms remain.
            square = spread.square() + (mean - prior).square()
            kl = 0.5 * net.k * square.mean().log() - log_sigma.sum()
            half = (kl + confidence) / (2 * n)
            bits = value.mean() / math.log(2)
            objective = ((bits + half).sqrt() + half.sqrt()).square()
            gradients = torch.autograd.grad(objective, [mean, log_sigma])
        mean.grad, log_sigma.grad = gradients
        adam.step()
        schedule.step()
    return mean.detach(), log_sigma.detach().exp()
