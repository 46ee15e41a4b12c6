"""Bounds: closed forms, SciPy, brute force, and coverage where the risk is known."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import brentq
from scipy.stats import binom, chi2, norm
from torch.distributions import Normal, kl_divergence

from flatlab.bounds import (
    examples_needed,
    gibbs_errors,
    kl_gaussians,
    kl_inverse,
    monte_carlo_bound,
    optimise_pac_bayes,
    pac_bayes_kl_bound,
    sam_bound,
    sigma_of_proof,
)
from flatlab.models import mlp
from flatlab.network import Network

POSITIVE = st.floats(1e-3, 1e3)
EXAMPLES = st.integers(3, 10**7)
WEIGHTS = st.integers(1, 10**8)
DELTA = st.floats(1e-4, 0.5)


def bernoulli_kl(q, p):
    return sum(a * math.log(a / b) for a, b in ((q, p), (1 - q, 1 - p)) if a > 0)


def too_many(failures, repetitions, delta):
    """Whether chance explains so many failures less often than once in a million."""
    return failures > binom.ppf(1 - 1e-6, repetitions, delta)


# ------------------------------------------------------------------------ SAM's bound


def test_the_theorem_as_printed_written_out_once_more():
    w, rho, n, k, delta = 31.6, 0.05, 50_000, 10_000_000, 0.05
    ratio = (w / rho) ** 2 * (1 + math.sqrt(math.log(n) / k)) ** 2
    terms = k * math.log(1 + ratio), 4 * math.log(n / delta)
    bound = sam_bound(0.25, w, rho=rho, n=n, k=k, delta=delta)
    assert float(bound.norm_term) == pytest.approx(terms[0])
    assert float(bound.confidence) == pytest.approx(terms[1])
    constant = 8 * math.log(6 * n + 3 * k)
    assert float(bound.constant) == pytest.approx(constant)
    expected = math.sqrt((terms[0] + terms[1] + constant) / (n - 1))
    assert float(bound.complexity) == pytest.approx(expected)
    assert float(bound.value) == pytest.approx(0.25 + expected)
    assert float(bound.tail) == 0


@given(POSITIVE, POSITIVE, EXAMPLES, WEIGHTS, DELTA)
@settings(max_examples=100, deadline=None)
def test_printed_form_in_plain_arithmetic(w, rho, n, k, delta):
    """To the precision at which another program's formula is held against it."""
    ratio = (w / rho) ** 2 * (1 + math.sqrt(math.log(n) / k)) ** 2
    inside = k * math.log1p(ratio) + 4 * math.log(n / delta)
    expected = math.sqrt((inside + 8 * math.log(6 * n + 3 * k)) / (n - 1))
    found = float(sam_bound(0.0, w, rho=rho, n=n, k=k, delta=delta).complexity)
    assert found == pytest.approx(expected, rel=1e-12)


@given(st.integers(3, 10**6), st.floats(0.05, 170), st.floats(1, 10), st.booleans())
@settings(max_examples=200, deadline=None)
def test_trivial_where_the_paper_says_so(n, per_weight, factor, derived):
    """||w||² > rho² (exp(4 n / k) - 1), and any delta."""
    k = max(1, math.ceil(n / per_weight))
    norm = factor * math.sqrt(math.expm1(4 * n / k)) * 0.1
    bound = sam_bound(0.0, norm, rho=0.1, n=n, k=k, delta=0.999, derived=derived)
    assert float(bound.complexity) > 1


def test_limits():
    # A huge radius leaves the terms without the norm, and so does w = 0.
    for bound in (
        sam_bound(0.5, 10.0, rho=1e12, n=1000, k=50),
        sam_bound(0.5, 0.0, rho=0.1, n=1000, k=50),
    ):
        assert float(bound.norm_term) == pytest.approx(0, abs=1e-15)
        rest = 4 * math.log(1000 / 0.05) + 8 * math.log(6150)
        assert float(bound.complexity) == pytest.approx(math.sqrt(rest / 999))
    # One weight per example and more: the paper's condition for a trivial bound.
    n, k = 1000, 500
    edge = 0.1 * math.sqrt(math.expm1(4 * n / k))
    assert float(sam_bound(0.0, edge, rho=0.1, n=n, k=k).complexity) > 1
    # With k fixed, examples without end bring both forms down to the training loss.
    for derived in (False, True):
        far = sam_bound(0.1, 5.0, rho=0.1, n=1e15, k=100, derived=derived)
        assert float(far.value) == pytest.approx(0.1, abs=1e-5)


@given(POSITIVE, POSITIVE, EXAMPLES, WEIGHTS, DELTA, st.booleans(), st.floats(1.01, 10))
@settings(max_examples=200, deadline=None)
def test_monotone_in_every_argument(w, rho, n, k, delta, derived, factor):
    def complexity(w=w, rho=rho, n=n, k=k, delta=delta):
        bound = sam_bound(0.0, w, rho=rho, n=n, k=k, delta=delta, derived=derived)
        return float(bound.complexity)

    base, slack = complexity(), 1 + 1e-12
    assert complexity(w=w * factor) >= base / slack
    assert complexity(rho=rho * factor) <= base * slack
    assert complexity(n=n * factor) < base
    assert complexity(k=k * factor) >= base / slack
    assert complexity(delta=delta / factor) > base


@given(POSITIVE, POSITIVE, EXAMPLES, st.integers(1, 10**5), DELTA, st.floats(0, 1))
@settings(max_examples=200, deadline=None)
def test_derived_form_is_what_the_best_prior_of_the_grid_gives(
    w, rho, n, k, delta, worst
):
    sigma = rho / (math.sqrt(k) + math.sqrt(math.log(n)))
    assert float(sigma_of_proof(rho, n, k)) == pytest.approx(sigma)
    # KL of every prior around the best, by the general formula for one coordinate of
    # w at a time: a vector of equal entries of the same norm.
    x = k * math.log1p(w**2 / (k * sigma**2))
    j = torch.arange(max(0, math.floor(x) - 50), math.ceil(x) + 50, dtype=torch.float64)
    entry = torch.tensor([w / math.sqrt(k)], dtype=torch.float64)
    s = sigma * torch.exp(j / (2 * k))
    kl = k * kl_divergence(Normal(entry, sigma), Normal(0.0, s))
    share = 6 * delta / (math.pi**2 * (j + 1) ** 2)
    roots = ((kl + torch.log(2 * math.sqrt(n) / share)) / (2 * n)).sqrt()
    tail = (1 - worst) / math.sqrt(n)
    exact = worst + tail + float(roots.min())
    bound = sam_bound(worst, w, rho=rho, n=n, k=k, delta=delta, derived=True)
    assert float(bound.value) >= exact * (1 - 1e-9)  # conservative
    # ... and against the prior that the proof takes by no more than was rounded up:
    # half a nat of KL, and a factor of (x + 2) / (j + 1) <= 2 in the share
    taken = float(roots[j == math.ceil(x)])
    surplus = 2 * n * ((float(bound.complexity) - tail) ** 2 - taken**2)
    assert -1e-6 <= surplus <= 0.5 + 2 * math.log(2) + 1e-6
    printed = sam_bound(worst, w, rho=rho, n=n, k=k, delta=delta)
    if float(printed.complexity) <= 1:
        assert float(bound.value) <= float(printed.value)


@given(st.integers(2, 10**9), st.integers(1, 10**6))
@settings(max_examples=200, deadline=None)
def test_noise_of_the_proof_stays_in_the_ball(n, k):
    radius = 1 / float(sigma_of_proof(1.0, n, k))
    assert chi2.sf(radius**2, k) <= 1 / math.sqrt(n)


@pytest.mark.parametrize("n", [1, 2, 3, 5, 7, 8, 30, 300])
def test_constant_of_maurer(n):
    i = np.arange(n + 1)
    moment = (binom.pmf(i, n, i / n)).sum()  # E exp(n kl) at its largest
    assert moment <= 2 * math.sqrt(n)


@pytest.mark.parametrize("derived", [False, True])
def test_examples_needed_is_the_first_that_is_enough(derived):
    target = torch.tensor([0.1, 0.5, 1.0, 5.0])
    k = torch.tensor([[10], [1000], [10**6]])
    n = examples_needed(target, 20.0, rho=0.1, k=k, derived=derived)
    assert n.shape == (3, 4)
    at = sam_bound(0.0, 20.0, rho=0.1, n=n, k=k, derived=derived).complexity
    assert (at <= target).all()
    assert (n == n.floor()).all()
    larger = n > 3
    before = sam_bound(0.0, 20.0, rho=0.1, n=n - 1, k=k, derived=derived).complexity
    assert (before > target)[larger].all()
    assert larger.any()


def test_arguments_broadcast():
    rho, k = torch.tensor([0.1, 1.0, 10.0]), torch.tensor([[10], [10**4]])
    bound = sam_bound(torch.tensor([0.1, 0.2, 0.3]), 3.0, rho=rho, n=1000, k=k)
    for term in vars(bound).values():
        assert term.shape == (2, 3)
        assert term.dtype == torch.float64
    one = sam_bound(bound.worst_loss[1, 2], 3.0, rho=rho[2], n=1000, k=10**4)
    assert float(one.value) == float(bound.value[1, 2])


def test_radius_that_certifies_a_random_network():
    """The trap: at chance, a huge radius costs nothing and the bound is below one."""
    bound = sam_bound(0.5, 20.0, rho=1000.0, n=2000, k=1000)
    assert 0.5 < float(bound.value) < 1
    assert float(sam_bound(0.0, 20.0, rho=0.1, n=2000, k=1000).value) > 1


@pytest.mark.parametrize("derived", [False, True])
def test_sam_bound_covers_where_the_risk_is_known(derived):
    """Directions in the plane: the best one is picked, its population risk is exact."""
    generator = torch.Generator().manual_seed(0)
    repetitions, n, delta, rho = 200, 300, 0.05, 0.2
    angles = torch.linspace(-math.pi, math.pi, 721, dtype=torch.float64)[:-1]
    directions = torch.stack([angles.cos(), angles.sin()])
    x = torch.randn(repetitions, n, 2, generator=generator, dtype=torch.float64)
    wrong = torch.rand(repetitions, n, generator=generator) < 0.2
    label = (x[..., 0] > 0) ^ wrong  # the teacher looks along angle 0
    risk = ((x @ directions > 0) != label[..., None]).double().mean(1)
    chosen = risk.argmin(1)
    # With a norm of 1 the ball turns w by at most asin(rho).
    reach = math.floor(math.asin(rho) / (math.pi / 360))
    around = (chosen[:, None] + torch.arange(-reach, reach + 1)) % 720
    worst = risk.gather(1, around).amax(1)
    truth = 0.2 + 0.6 * angles[chosen].abs() / math.pi
    value = sam_bound(worst, 1.0, rho=rho, n=n, k=2, delta=delta, derived=derived).value
    assert not too_many(int((truth > value).sum()), repetitions, delta)
    # The training error alone is no such bound: the simulation can tell.
    assert too_many(int((truth > risk.amin(1)).sum()), repetitions, delta)


@pytest.mark.parametrize(
    "change",
    [
        {"rho": 0.0},
        {"rho": math.nan},
        {"n": 1},
        {"n": math.inf},
        {"k": 0},
        {"delta": 0.0},
        {"delta": 1.0},
        {"norm": -1.0},
        {"worst_loss": math.nan},
        {"worst_loss": -0.1},
        {"worst_loss": 1.1, "derived": True},
        {"rho": torch.tensor([0.1, -0.1])},
    ],
)
def test_sam_bound_refuses(change):
    arguments = {
        "worst_loss": 0.1,
        "norm": 1.0,
        "rho": 0.1,
        "n": 100,
        "k": 10,
        **change,
    }
    with pytest.raises(ValueError):
        sam_bound(arguments.pop("worst_loss"), arguments.pop("norm"), **arguments)


def test_other_refusals():
    with pytest.raises(ValueError, match="complexity"):
        examples_needed(0.0, 1.0, rho=0.1, k=10)
    with pytest.raises(ValueError, match="2\\*\\*53"):
        examples_needed(1e-9, 1.0, rho=0.1, k=10)
    with pytest.raises(ValueError, match="q must"):
        kl_inverse(1.1, 0.1)
    with pytest.raises(ValueError, match="c must"):
        kl_inverse(0.1, -0.1)
    with pytest.raises(ValueError, match="kl must"):
        pac_bayes_kl_bound(0.1, -1.0, 100)
    with pytest.raises(ValueError, match="sigma must"):
        kl_gaussians(torch.zeros(2), torch.tensor([1.0, 0.0]), 0.0, 1.0)
    with pytest.raises(ValueError, match="samples must"):
        monte_carlo_bound(0.1, 0)


# --------------------------------------------------------------------------- PAC-Bayes


@given(st.floats(1e-6, 1 - 1e-6), st.floats(1e-9, 5))
@settings(max_examples=100, deadline=None)
def test_kl_inverse_against_a_root_finder(q, c):
    p = float(kl_inverse(q, c))
    assert q <= p <= 1
    end = 1 - 1e-15
    if bernoulli_kl(q, end) > c:
        root = brentq(lambda p: bernoulli_kl(q, p) - c, q, end, xtol=1e-15, rtol=1e-14)
        # kl is flat at q: its own rounding moves the root finder's answer that much
        assert p == pytest.approx(root, abs=1e-15 / math.sqrt(c) + 1e-10)
    assert p <= q + math.sqrt(c / 2) + 1e-12  # Pinsker


def test_kl_inverse_closed_forms():
    c = torch.tensor([1e-12, 1e-6, 0.1, 3.0], dtype=torch.float64)
    zero = kl_inverse(0.0, c)
    torch.testing.assert_close(zero, -torch.expm1(-c), rtol=1e-12, atol=0)
    # kl(1/2, p) = -ln(4 p (1 - p)) / 2
    half = 0.5 + 0.5 * torch.sqrt(-torch.expm1(-2 * c))
    torch.testing.assert_close(kl_inverse(0.5, c), half, rtol=1e-10, atol=0)
    assert float(kl_inverse(1.0, 0.3)) == 1
    assert float(kl_inverse(5e-324, 0.3)) == pytest.approx(-math.expm1(-0.3))
    assert float(kl_inverse(0.3, 0.0)) == pytest.approx(0.3, abs=1e-12)
    assert kl_inverse(torch.rand(3, 1), c).shape == (3, 4)


def test_kl_of_gaussians():
    generator = torch.Generator().manual_seed(1)
    mean, prior = torch.randn(2, 5, 7, generator=generator, dtype=torch.float64)
    sigma, prior_sigma = torch.rand(2, 5, 7, generator=generator).double() + 0.1
    expected = kl_divergence(Normal(mean, sigma), Normal(prior, prior_sigma)).sum(-1)
    torch.testing.assert_close(kl_gaussians(mean, sigma, prior, prior_sigma), expected)
    assert float(kl_gaussians(mean[0], sigma[0], mean[0], sigma[0])) == 0


@given(st.floats(0, 1), st.floats(0, 1e4), st.integers(1, 10**6), DELTA)
@settings(max_examples=40, deadline=None)
def test_pac_bayes_bound_limits_and_monotonicities(risk, kl, n, delta):
    bound = float(pac_bayes_kl_bound(risk, kl, n, delta))
    c = (kl + math.log(2 * math.sqrt(n) / delta)) / n
    assert risk <= bound <= 1
    assert bound <= risk + math.sqrt(c / 2) + 1e-12
    slack = 1e-12
    assert float(pac_bayes_kl_bound(risk, kl + 1, n, delta)) >= bound - slack
    assert float(pac_bayes_kl_bound(risk, kl, n, delta / 2)) >= bound - slack
    assert float(pac_bayes_kl_bound(risk, kl, 4 * n + 9, delta)) <= bound + slack
    more = min(1.0, risk + 0.01)
    assert float(pac_bayes_kl_bound(more, kl, n, delta)) >= bound - slack
    assert float(pac_bayes_kl_bound(0.0, kl, n, delta)) == pytest.approx(-np.expm1(-c))


@pytest.mark.parametrize("temperature", [0.0, 1.0, 1e6])
def test_pac_bayes_bound_covers_a_finite_class(temperature):
    """100 classifiers of known risk, all learned on the same samples."""
    generator = torch.Generator().manual_seed(2)
    repetitions, n, delta = 2000, 60, 0.1
    truth = torch.linspace(0.1, 0.5, 100, dtype=torch.float64)
    u = torch.rand(repetitions, 100, n, generator=generator)
    risk = (u < truth[:, None]).double().mean(-1)
    posterior = torch.softmax(-temperature * n * risk, -1)
    kl = (posterior * (posterior * 100).clamp_min(1e-300).log()).sum(-1).clamp_min(0)
    gibbs, true_gibbs = (posterior * risk).sum(-1), posterior @ truth
    bound = pac_bayes_kl_bound(gibbs, kl, n, delta)
    assert not too_many(int((true_gibbs > bound).sum()), repetitions, delta)
    if temperature:
        # The posterior overfits: its training error alone would be no such bound.
        assert too_many(int((true_gibbs > gibbs).sum()), repetitions, delta)


def margin_bounds(margins, prior_has_seen=False, delta=0.1):
    """The best bound over Gaussians N(mu u, I), and which mu, from the margins of u.

    An input of margin m is wrong with probability Phi(-mu m); KL to N(0, I) is mu²/2.
    """
    scales = torch.tensor([1.0, 2.0, 4.0, 8.0, 16.0, 64.0], dtype=torch.float64)
    risk = torch.special.ndtr(-scales[:, None, None] * margins).mean(-1)
    kl = scales[:, None].square() / 2 * (not prior_has_seen)
    bound, which = pac_bayes_kl_bound(risk, kl, margins.shape[-1], delta).min(0)
    return bound, scales[which]


def test_gaussian_posteriors_in_the_plane_are_covered():
    """Angle and size of the posterior are chosen by the data; nothing is sampled."""
    generator = torch.Generator().manual_seed(4)
    repetitions, n, delta = 1000, 40, 0.1
    x = 2 * math.pi * torch.rand(repetitions, n, generator=generator).double()
    y = (x.cos() > 0) ^ (torch.rand(repetitions, n, generator=generator) < 0.2)
    angles = torch.linspace(-math.pi, math.pi, 121, dtype=torch.float64)[:-1]
    right = ((x[:, None] - angles[:, None]).cos() > 0) == y[:, None]
    chosen = angles[right.double().mean(-1).argmax(1)][:, None]
    bound, scale = margin_bounds((x - chosen).cos() * (2.0 * y - 1), delta=delta)
    fine = 2 * math.pi * (torch.arange(2000, dtype=torch.float64) + 0.5) / 2000
    turned = (fine - chosen).cos() * fine.cos().sign()
    truth = 0.2 + 0.6 * torch.special.ndtr(-scale[:, None] * turned).mean(1)
    assert not too_many(int((truth > bound).sum()), repetitions, delta)
    alone = 1 - right.double().mean(-1).amax(1)
    assert too_many(int((truth > alone).sum()), repetitions, delta)


def test_a_prior_that_has_seen_the_data_is_found_out():
    """Coin tosses learned by heart: the risk is 1/2, as only honest priors say."""
    generator = torch.Generator().manual_seed(5)
    repetitions, n, d = 50, 60, 120
    x = torch.randn(repetitions, n, d, generator=generator, dtype=torch.float64)
    y = 2.0 * torch.randint(2, (repetitions, n), generator=generator).double() - 1
    fit = torch.linalg.lstsq(x, y[..., None]).solution
    fit = fit / fit.norm(dim=1, keepdim=True)
    margins = y * (x @ fit)[..., 0] / x.norm(dim=-1)
    assert (margins > 0).all()
    honest, _ = margin_bounds(margins)
    peeked, _ = margin_bounds(margins, prior_has_seen=True)
    assert not too_many(int((honest < 0.5).sum()), repetitions, 0.1)
    assert too_many(int((peeked < 0.5).sum()), repetitions, 0.1)


@pytest.mark.parametrize("p", [0.01, 0.1, 0.5, 0.9])
def test_monte_carlo_limit_covers(p):
    samples, repetitions, delta = 400, 20_000, 0.05
    hits = np.random.default_rng(3).binomial(samples, p, repetitions)
    upper = monte_carlo_bound(torch.from_numpy(hits / samples), samples, delta)
    failures = int((upper < p).sum())
    assert not too_many(failures, repetitions, delta)
    assert failures > 0  # and it is not so wide that nothing could fail
    # exactly, from the binomial distribution
    every = monte_carlo_bound(torch.arange(samples + 1) / samples, samples, delta)
    below = np.flatnonzero(every.numpy() < p)
    assert binom.pmf(below, samples, p).sum() <= delta


# ---------------------------------------------- two Gaussians, whose risk has a formula

CENTRE = torch.tensor([1.0, 0.5])
LINEAR = Network(mlp(2, 2))


def two_gaussians(n, seed):
    generator = torch.Generator().manual_seed(seed)
    y = torch.randint(2, (n,), generator=generator)
    noise = torch.randn(n, 2, generator=generator)
    return noise + (2 * y[:, None] - 1) * CENTRE, y


def true_risks(w):
    """P(wrong) of linear classifiers w (members, 6) on two Gaussians of unit width."""
    w = w.double()
    a = w[:, 2:4] - w[:, 0:2]  # class 1 where a · x + b > 0
    b = w[:, 5] - w[:, 4]
    centre, size = a @ CENTRE.double(), a.norm(dim=1)
    return torch.from_numpy(
        0.5 * norm.cdf(-((centre + b) / size)) + 0.5 * norm.cdf(-((centre - b) / size))
    )


def certify(n, seed, **options):
    prior = LINEAR.init(seed)
    usual = {"start": prior, "steps": 150, "learning_rate": 0.05, "sigma": 0.1}
    usual = {"prior": prior, "seed": seed, **usual, **options}
    return optimise_pac_bayes(LINEAR, two_gaussians(n, seed), **usual)


def gibbs_truth(certificate):
    generator = torch.Generator().manual_seed(99)
    z = torch.randn(20_000, LINEAR.k, generator=generator)
    return float(true_risks(certificate.mean + certificate.sigma * z).mean())


def test_certificate_is_not_vacuous_and_adds_up():
    certificate = certify(500, seed=0)
    best = norm.cdf(-float(CENTRE.norm()))
    truth = gibbs_truth(certificate)
    assert best < truth < certificate.bound < 0.3
    # Its parts, computed again with others' formulas
    prior = Normal(LINEAR.init(0).double(), certificate.prior_sigma)
    posterior = Normal(certificate.mean.double(), certificate.sigma.double())
    kl = float(kl_divergence(posterior, prior).sum())
    assert certificate.kl == pytest.approx(kl, rel=1e-6)
    c = (kl + math.log(2 * math.sqrt(500) * 64 / 0.04)) / 500
    assert bernoulli_kl(certificate.risk_upper, certificate.bound) == pytest.approx(c)
    spread = bernoulli_kl(certificate.empirical_risk, certificate.risk_upper)
    assert spread == pytest.approx(math.log(100) / 10_000)
    # No member of the grid would have been better.
    grid = torch.logspace(-3, 0, 64, dtype=torch.float64)
    kls = [
        float(kl_divergence(posterior, Normal(prior.mean, float(s))).sum())
        for s in grid
    ]
    assert certificate.kl == pytest.approx(min(kls), rel=1e-6)


def test_optimising_lowers_the_bound():
    first, last = certify(300, seed=1, steps=1), certify(300, seed=1)
    assert last.bound < first.bound - 0.05
    # A prior that moves away costs KL.
    far = certify(300, seed=1, start=LINEAR.init(1) + 5)
    assert far.bound > last.bound


def test_certificates_hold():
    delta, delta_mc, repetitions = 0.2, 0.1, 20
    failures = 0
    for seed in range(repetitions):
        certificate = certify(60, seed=seed, steps=60, delta=delta, delta_mc=delta_mc)
        failures += gibbs_truth(certificate) > certificate.bound
        assert certificate.empirical_risk <= certificate.risk_upper <= certificate.bound
    assert not too_many(failures, repetitions, delta + delta_mc)
    assert failures == 0  # these bounds are far from tight


@pytest.mark.parametrize("honest", [True, False])
def test_certificates_on_coin_tosses(honest):
    """Labels from a coin: the risk of every classifier is exactly one half."""
    net, n = Network(mlp(150, 2)), 100
    failures, repetitions = 0, 8
    for seed in range(repetitions):
        generator = torch.Generator().manual_seed(seed)
        x = torch.randn(n, 150, generator=generator)
        y = torch.randint(2, (n,), generator=generator)
        start = net.init(seed)
        fit = torch.linalg.lstsq(x, 2.0 * y - 1).solution
        learned = torch.cat([-fit, fit, torch.zeros(2)])
        assert (net(learned, x).argmax(-1) == y).all()
        certificate = optimise_pac_bayes(
            net, (x, y), prior=start if honest else learned, start=learned, seed=seed,
            steps=1, sigma=0.003, learning_rate=1e-4, delta=0.04, delta_mc=0.01,
        )  # fmt: skip
        failures += certificate.bound < 0.5
    # A prior that has learned the labels makes certificates that are too low.
    assert too_many(failures, repetitions, 0.05) == (not honest)


def test_gibbs_errors_against_the_formula():
    """Errors on a large sample are those of the population, draw by draw."""
    mean, sigma = LINEAR.init(3), torch.full((LINEAR.k,), 0.5)
    errors = gibbs_errors(
        LINEAR, two_gaussians(40_000, 5), mean, sigma, samples=300, seed=7
    )
    assert errors.shape == (300,)
    assert errors.dtype == torch.float64
    z = torch.randn(20_000, LINEAR.k, generator=torch.Generator().manual_seed(8))
    truth = true_risks(mean + sigma * z)
    deviation = (errors.mean() - truth.mean()).abs() / (errors.std() / math.sqrt(300))
    assert float(deviation) < 4
    # Without noise every draw is the network itself: whole numbers of examples.
    small = two_gaussians(7, 5)
    none = gibbs_errors(LINEAR, small, mean, torch.zeros(6), samples=3, seed=0)
    wrong = int((LINEAR(mean, small[0]).argmax(-1) != small[1]).sum())
    assert none.tolist() == [1 - (7 - wrong) / 7] * 3


def test_same_seed_same_certificate_and_nothing_global_moves():
    state = torch.get_rng_state()
    first, again = (certify(100, seed=4, steps=20) for _ in range(2))
    assert torch.equal(first.mean, again.mean)
    assert first.bound == again.bound
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize(
    "change",
    [
        {"samples": 0},
        {"steps": 0},
        {"sigma": 0.0},
        {"delta": 0.0},
        {"delta_mc": 1.0},
        {"start": torch.zeros(5)},
        {"start": torch.zeros(2, 6)},
        {"start": torch.full((6,), math.nan)},
    ],
)
def test_optimise_refuses(change):
    with pytest.raises(ValueError):
        certify(20, seed=0, **change)


def test_optimise_refuses_labels_per_member():
    x, y = two_gaussians(20, 0)
    w = LINEAR.init(0)
    with pytest.raises(ValueError, match="labels"):
        optimise_pac_bayes(LINEAR, (x, y.expand(3, 20)), prior=w, start=w, seed=0)
