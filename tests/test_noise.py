"""Noise and rounding of the weights against closed forms and exhaustive search."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import integrate, optimize, stats
from torch import nn

from flatlab import models, noise
from flatlab.loss import Loss
from flatlab.network import Network
from flatlab.noise import (
    bits_per_weight,
    pac_bayes_sharpness,
    quantise,
    tolerated_noise,
)
from tests.cases import Point


def quadratic(seed, scale=1.0):
    """½ (w - m)ᵀ H (w - m) with its minimum m, as three members at it."""
    g = torch.Generator().manual_seed(seed)
    net = Network(Point((4, 3), (4,)))
    H = torch.randn(net.k, net.k, generator=g, dtype=torch.float64)
    H = scale * H @ H.T
    m = torch.randn(net.k, generator=g, dtype=torch.float64)

    def criterion(z, y):
        return 0.5 * (((z - m) @ H) * (z - m)).sum(-1)

    data = (torch.ones(1, 1), torch.zeros(1, dtype=torch.long))
    return Loss(net, data, criterion), H, m


def rounded(values, levels):
    """The nearest of ``levels`` points from -max to max, by looking at each."""
    grid = torch.linspace(-1, 1, levels, dtype=values.dtype) * values.abs().max()
    nearest = (values[:, None] - grid).abs().argmin(-1)
    return grid[nearest]


@given(levels=st.integers(2, 40), seed=st.integers(0, 1000))
@settings(max_examples=30, deadline=None)
def test_weights_go_to_the_nearest_point_of_their_grid(levels, seed):
    layout = Network(Point((4, 3), (4,))).layout
    g = torch.Generator().manual_seed(seed)
    w = torch.randn(2, layout.k, generator=g, dtype=torch.float64)
    got = quantise(w, layout, levels)
    for i in range(2):
        for part in layout.slices:
            torch.testing.assert_close(got[i, part], rounded(w[i, part], levels))
    # a grid is its own: rounding again moves nothing, nor does a change of sign
    torch.testing.assert_close(quantise(got, layout, levels), got)
    torch.testing.assert_close(quantise(3.7 * w, layout, levels), 3.7 * got)
    if levels % 2:
        torch.testing.assert_close(quantise(-w, layout, levels), -got)


def test_every_member_may_have_its_own_levels():
    layout = Network(Point((4, 3), (4,))).layout
    w = torch.randn(3, layout.k, generator=torch.Generator().manual_seed(0))
    levels = torch.tensor([2, 5, 300])
    got = quantise(w, layout, levels)
    for i in range(3):
        assert got[i].equal(quantise(w[i], layout, int(levels[i])))
    zero = quantise(torch.zeros(layout.k), layout, 7)
    assert (zero == 0).all()


@pytest.mark.parametrize("scale", [1e-3, 0.1, 10.0])
def test_bits_are_those_of_going_through_all_grids(scale):
    for seed in range(4):
        loss, H, m = quadratic(seed, scale)
        found = bits_per_weight(loss, m, 0.1)

        def cost(levels, loss=loss, H=H, m=m):
            e = torch.cat(
                [rounded(m[s], levels) - m[s] for s in loss.net.layout.slices]
            )
            return (0.5 * e @ H @ e).item()

        levels = found.levels.item()
        assert found.bits.item() == pytest.approx(math.log2(levels))
        assert found.total.item() == pytest.approx(loss.net.k * math.log2(levels))
        assert found.rise.item() == pytest.approx(cost(levels), rel=1e-6)
        assert cost(levels) < 0.1
        if levels > 2:
            # a grid that is too coarse lies within a sixteenth of a bit or one level
            closest = min(math.floor(levels * 2 ** (-1 / 16)), levels - 1)
            near = range(max(closest - 1, 2), levels)
            assert any(cost(other) >= 0.1 for other in near)
            costs = [cost(other) for other in near]
            assert any(found.rise_coarser.item() == pytest.approx(c) for c in costs)
        # and all whole bits above are good enough
        above = range(math.ceil(math.log2(levels)), 11)
        assert all(cost(2**bits) < 0.1 for bits in above)


def test_four_times_the_curvature_costs_one_bit():
    # a uniform rounding error has the variance step²/12, so the rise is Σ H_ii step²/24
    g = torch.Generator().manual_seed(0)
    net = Network(Point((400, 50)))
    m = torch.rand(net.k, generator=g, dtype=torch.float64) * 2 - 1
    data = (torch.ones(1, 1), torch.zeros(1, dtype=torch.long))
    bits = {}
    for h in (1.0, 4.0, 64.0):
        loss = Loss(net, data, lambda z, y, h=h: 0.5 * h * (z - m).square().sum(-1))
        bits[h] = bits_per_weight(loss, m, 0.5).bits.item()
        step = math.sqrt(24 * 0.5 / (h * net.k))
        assert bits[h] == pytest.approx(math.log2(2 / step + 1), abs=1 / 16 + 0.02)
    assert bits[4.0] - bits[1.0] == pytest.approx(1, abs=0.13)
    assert bits[64.0] - bits[1.0] == pytest.approx(3, abs=0.13)


def test_where_no_grid_is_fine_enough_the_bits_are_infinite():
    loss, _, m = quadratic(0, 1e12)
    found = bits_per_weight(loss, m, 0.1)
    assert found.bits == torch.inf and found.levels == 0 and found.rise.isnan()
    loss, _, m = quadratic(0, 1e-12)
    found = bits_per_weight(loss, m, 0.1)
    assert found.levels == 2 and found.bits == 1 and found.rise_coarser.isnan()


@pytest.mark.parametrize("relative", [False, True])
def test_tolerated_noise_on_a_quadratic_is_the_closed_form(relative):
    loss, H, m = quadratic(1)
    found = tolerated_noise(loss, m, 0.1, relative=relative, samples=1000)
    t = m.abs() if relative else torch.ones_like(m)
    expected = math.sqrt(2 * 0.1 / (t * t * H.diag()).sum().item())
    assert abs(found.values.item() - expected) < 4 * found.standard_error.item()
    assert found.standard_error.item() < 0.05 * expected
    assert found.rise.item() == pytest.approx(0.1, rel=5e-3)
    assert found.rise.item() <= 0.1


def test_the_standard_error_of_noise_is_that_of_repetition():
    loss, _, m = quadratic(1)
    runs = [tolerated_noise(loss, m, 0.1, samples=32, seed=s) for s in range(60)]
    values = torch.stack([r.values for r in runs])
    stated = torch.stack([r.standard_error for r in runs]).square().mean().sqrt()
    assert stated.item() == pytest.approx(values.std().item(), rel=0.3)


def network_problem(own=False):
    g = torch.Generator().manual_seed(3)
    net = Network(models.mlp(6, 8, 4))
    x = torch.randn(50, 6, generator=g)
    y = torch.randint(0, 4, (50,), generator=g)
    if own:
        y = torch.stack([y, 3 - y, (y + 1) % 4])
    return Loss(net, (x, y)), net.init(range(3), dtype=torch.float64)


@given(log_alpha=st.floats(-2, 2))
@settings(max_examples=10, deadline=None)
def test_relative_noise_ignores_a_rescaling_and_absolute_noise_does_not(log_alpha):
    loss, w = network_problem()
    moved, alpha = w.clone(), 10**log_alpha
    w1, b1, w2, _ = loss.net.layout.slices
    moved[:, w1] *= alpha
    moved[:, b1] *= alpha
    moved[:, w2] /= alpha
    before, after = (
        tolerated_noise(loss, v, relative=True, samples=4).values for v in (w, moved)
    )
    torch.testing.assert_close(after, before, rtol=3e-3, atol=0)
    # each parameter has a grid of its own, in units of its largest weight
    before, after = (bits_per_weight(loss, v) for v in (w, moved))
    assert (before.levels - after.levels).abs().max() <= 1
    if abs(log_alpha) > 1:
        before, after = (tolerated_noise(loss, v, samples=4).values for v in (w, moved))
        assert ((after / before).log().abs() > 0.3).all()


@pytest.mark.parametrize("own", [False, True])
def test_members_are_measured_as_if_alone(own):
    loss, w = network_problem(own)
    bits, found = bits_per_weight(loss, w), tolerated_noise(loss, w, samples=4)
    for i in range(3):
        one = Loss(loss.net, (loss.x, loss.y[i])) if own else loss
        alone = bits_per_weight(one, w[i])
        assert alone.levels.ndim == 0 and alone.levels == bits.levels[i]
        torch.testing.assert_close(alone.rise, bits.rise[i])
        torch.testing.assert_close(
            alone.rise_coarser, bits.rise_coarser[i], equal_nan=True
        )
        alone = tolerated_noise(one, w[i], samples=4)
        torch.testing.assert_close(alone.values, found.values[i], rtol=3e-3, atol=0)


class AsTwo(nn.Linear):
    """The classes 0 and 1 of one logit."""

    def forward(self, x):
        z = super().forward(x)
        return torch.cat([torch.zeros_like(z), z], -1)


def test_one_output_has_the_noise_of_two_classes():
    g = torch.Generator().manual_seed(1)
    x = torch.randn(40, 3, generator=g)
    y = (x[:, 0] > 0).long()
    one, two = Network(nn.Linear(3, 1)), Network(AsTwo(3, 1))
    bce = nn.functional.binary_cross_entropy_with_logits
    w = torch.tensor([[2.0, 0.3, 0.0, 0.0], [1.0, -0.5, 0.2, 0.1]])
    found = pac_bayes_sharpness(Loss(one, (x, y[:, None].float()), bce), w)
    assert found.sigma.isfinite().all()
    assert torch.equal(found.sigma, pac_bayes_sharpness(Loss(two, (x, y)), w).sigma)


def test_a_member_without_a_loss_is_nan_beside_the_others():
    net = Network(Point((2,)))

    def criterion(z, y):  # no number beyond 0.6
        return z[:, 1] ** 2 + 0 * torch.sqrt(0.6 - z[:, 0])

    loss = Loss(net, (torch.zeros(4, 1), torch.zeros(4)), criterion)
    w = torch.tensor([[0.1, 1.0], [0.7, 1.0], [0.2, 2.0]]).double()
    for measure in (
        lambda v: tolerated_noise(loss, v, 1e-3, samples=4).values,
        lambda v: (
            pac_bayes_sharpness(
                loss, v, deviation=1e-3, measure="loss", samples=4
            ).values
        ),
        lambda v: bits_per_weight(loss, v).bits,
    ):
        together = measure(w)
        assert together.isnan().tolist() == [False, True, False]
        for i in (0, 2):
            torch.testing.assert_close(together[i], measure(w[i]))


def test_bad_input_says_what_is_expected():
    loss, w = network_problem()
    with pytest.raises(ValueError, match="levels"):
        quantise(w, loss.net.layout, 1)
    with pytest.raises(ValueError, match="levels"):
        quantise(w, loss.net.layout, 2.5)
    with pytest.raises(ValueError, match="each member"):
        quantise(w, loss.net.layout, torch.tensor([2, 3]))
    with pytest.raises(ValueError, match="last axis"):
        quantise(w[:, 1:], loss.net.layout, 4)
    with pytest.raises(ValueError, match="positive"):
        bits_per_weight(loss, w, 0.0)
    with pytest.raises(ValueError, match="positive"):
        tolerated_noise(loss, w, -0.1)
    with pytest.raises(ValueError, match="even number"):
        tolerated_noise(loss, w, samples=3)
    for function in (bits_per_weight, tolerated_noise):
        with pytest.raises(ValueError, match="NaN"):
            function(loss, w * torch.nan)
        with pytest.raises(TypeError, match="Loss"):
            function(loss.net, w)


# ------------------------------------------------------------------------- points


@pytest.mark.parametrize("own", [False, True])
@pytest.mark.parametrize("rows", [2**13, 100])
def test_points_together_are_points_in_turn(own, rows, monkeypatch):
    monkeypatch.setattr(noise, "MOST_ROWS", rows)
    loss, w = network_problem(own)
    points = torch.stack([w, 2 * w, -w, w + 1])
    expected = torch.stack([loss(p) for p in points])
    torch.testing.assert_close(noise.at_points(loss, loss, iter(points)), expected)
    value, gradient = noise.at_points(loss, loss.value_and_gradient, points)
    torch.testing.assert_close(value, expected)
    torch.testing.assert_close(
        gradient, torch.stack([loss.gradient(p) for p in points])
    )


def test_noise_depends_on_its_number_and_seed_alone():
    w = torch.zeros(2, 7, dtype=torch.float64)
    late = noise.Noise(w, 5)[3]
    first = noise.Noise(w[:1].float(), 5)
    assert [first[i] for i in range(4)][3].double().equal(late)
    assert not noise.Noise(w, 6)[3].equal(late)
    before = torch.random.get_rng_state()
    noise.Noise(w, 1)[0]
    assert torch.random.get_rng_state().equal(before)


@pytest.mark.parametrize("power", [1.0, 2.0, 4.0])
def test_the_largest_sigma_inverts_a_known_rise(power):
    slope = torch.tensor([1e-6, 1.0, 3e4], dtype=torch.float64)

    def rise_at(sigma):
        calls.append(sigma)
        return slope * sigma**power, 0.01 * slope * sigma**power

    calls = []
    sigma, error, rise = noise.largest_sigma(rise_at, 0.1, torch.full_like(slope, 0.3))
    expected = (0.1 / slope) ** (1 / power)
    torch.testing.assert_close(sigma, expected, rtol=1e-3, atol=0)
    assert (sigma <= expected * (1 + 1e-9)).all()
    torch.testing.assert_close(rise, slope * sigma**power)
    # one per cent of the rise is one per cent / power of sigma
    torch.testing.assert_close(error, 0.01 * sigma / power, rtol=0.1, atol=0)
    assert len(calls) < 40


def test_noise_without_effect_is_tolerated_without_end():
    start = torch.ones(3)
    kinds = torch.tensor([0.0, 1.0, torch.nan])

    def rise_at(sigma):
        return torch.where(kinds == 1, sigma**2, kinds), torch.zeros(3)

    sigma, error, _ = noise.largest_sigma(rise_at, 0.25, start)
    assert sigma[0] == torch.inf
    assert sigma[1].item() == pytest.approx(0.5, rel=1e-3)
    assert sigma[2] == 0  # a loss that is not a number is no loss to accept
    assert error[[0, 2]].isnan().all()


def test_a_step_of_the_rise_is_found_from_below():
    def rise_at(sigma):
        return (sigma > 0.37).double(), torch.zeros_like(sigma)

    start = torch.tensor([1e-4, 0.2, 50.0], dtype=torch.float64)
    sigma, _, rise = noise.largest_sigma(rise_at, 0.1, start)
    assert (rise == 0).all()
    assert ((sigma <= 0.37) & (sigma > 0.369)).all()


@pytest.mark.parametrize("slope", [0.1, 10, 1e6])
def test_the_error_covers_the_truth_where_few_draws_rise(slope):
    """A loss of exactly 0 up to a distance that few draws reach, or none."""

    def criterion(z, t):
        return (z.norm(dim=-1) - 100).relu() * slope

    def mean(sigma):
        density, far = stats.maxwell(scale=sigma).pdf, 100 + 20 * sigma
        return integrate.quad(lambda r: slope * (r - 100) * density(r), 100, far)[0]

    true = optimize.brentq(lambda sigma: mean(sigma) - 0.1, 5, 90)
    loss = Loss(Network(Point((3,))), (torch.zeros(2, 1), torch.zeros(2)), criterion)
    for samples in (32, 512):
        found = tolerated_noise(loss, torch.zeros(3), 0.1, samples=samples)
        gap = (found.sigma - true).abs()
        assert found.standard_error.isnan() or gap < 4 * found.standard_error
        if slope == 0.1 and samples == 512:
            assert found.standard_error.isfinite()
