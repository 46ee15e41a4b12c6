"""Neighbourhoods: closed forms, brute force and invariances."""

import math
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from flatlab.models import mlp
from flatlab.neighbourhoods import adaptive_ball, ball, keskar_box
from flatlab.network import Network
from flatlab.reparameterization import rescale_units

# Two filters of three weights with a bias each, then one filter of two with its bias.
LAYOUT = SimpleNamespace(
    filter=torch.tensor([0, 0, 0, 1, 1, 1, 2, 3, 4, 4, 5]),
    layer=torch.tensor([0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1]),
    is_bias=torch.tensor([0, 0, 0, 0, 0, 0, 1, 1, 0, 0, 1], dtype=torch.bool),
)
K = 11
EVERY = [
    ball(0.3),
    ball(0.3, p=math.inf),
    keskar_box(1e-2),
    *(
        adaptive_ball(0.5, by=by, eta=eta, p=p, biases=biases)
        for by in ("weight", "filter", "layer")
        for eta in (0.0, 0.1)
        for p in (2, math.inf)
        for biases in (True, False)
    ),
]


def draw(seed, *shape):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


@given(
    neighbourhood=st.sampled_from(EVERY),
    seed=st.integers(0, 10**6),
    members=st.sampled_from([(), (1,), (3,)]),
    zeros=st.booleans(),
)
@settings(max_examples=150, deadline=None)
def test_the_set_its_steepest_point_and_its_projection(
    neighbourhood, seed, members, zeros
):
    w, gradient, far = draw(seed, 3, *members, K)
    if zeros:
        w[..., ::3] = 0
    t = neighbourhood.scale(w, LAYOUT)
    radius = neighbourhood.radius

    best = neighbourhood.at(w, LAYOUT).steepest(gradient)
    norm = neighbourhood.at(w, LAYOUT).norm(best)
    torch.testing.assert_close(norm, torch.full_like(norm, radius))
    assert (best[t == 0] == 0).all()
    # Hölder's bound on the linearised loss is attained.
    dual = (t * gradient).abs()
    bound = dual.norm(dim=-1) if neighbourhood.p == 2 else dual.sum(-1)
    torch.testing.assert_close((gradient * best).sum(-1), radius * bound)
    for kind in ("inside", "boundary"):
        generator = torch.Generator().manual_seed(seed)
        other = neighbourhood.at(w, LAYOUT).sample(generator=generator, kind=kind)
        inside = neighbourhood.at(w, LAYOUT).norm(other)
        assert (inside <= radius * (1 + 1e-12)).all()
        assert (other[t == 0] == 0).all()
        if kind == "boundary":
            torch.testing.assert_close(inside, norm)
        assert ((gradient * other).sum(-1) <= radius * bound + 1e-12).all()
        kept = neighbourhood.at(w, LAYOUT).project(other * (1 - 1e-12))
        torch.testing.assert_close(kept, other)

    near = neighbourhood.at(w, LAYOUT).project(far)
    assert (neighbourhood.at(w, LAYOUT).norm(near) <= radius * (1 + 1e-12)).all()
    torch.testing.assert_close(neighbourhood.at(w, LAYOUT).project(near), near)
    # Nearest in the metric of the set: no sampled point is nearer.
    moving = t > 0

    def distance(point):
        gap = torch.where(moving, (point - far) / t, 0)
        return gap.norm(dim=-1)

    assert (distance(near) <= distance(other) + 1e-12).all()
    assert (distance(near) <= distance(best) + 1e-12).all()


def test_scales_by_hand():
    w = torch.tensor([3.0, 0, 4, 0, 0, 2, -7, 0, 6, 8, -1], dtype=torch.float64)

    def scale(**options):
        return adaptive_ball(1.0, **options).scale(w, LAYOUT).tolist()

    assert scale() == w.abs().tolist()
    assert scale(by="filter") == [5, 5, 5, 2, 2, 2, 7, 0, 10, 10, 1]
    assert scale(by="filter", biases=False) == [5, 5, 5, 2, 2, 2, 1, 1, 10, 10, 1]
    first, second = math.sqrt(9 + 16 + 4 + 49), math.sqrt(36 + 64 + 1)
    assert scale(by="layer") == pytest.approx([first] * 8 + [second] * 3)
    assert scale(eta=0.5) == (w.abs() + 0.5).tolist()
    assert scale(eta=0.5, biases=False)[6] == 1
    assert keskar_box(1e-3).scale(w).tolist() == (w.abs() + 1).tolist()
    assert ball(1.0).scale(w).tolist() == [1.0] * K


def test_the_steepest_point_by_brute_force_in_two_dimensions():
    w = torch.tensor([0.5, -2.0], dtype=torch.float64)
    gradient = torch.tensor([1.0, 0.3], dtype=torch.float64)
    angle = torch.linspace(0, 2 * math.pi, 100_001, dtype=torch.float64)
    circle = torch.stack([angle.cos(), angle.sin()], -1)
    points = 0.7 * w.abs() * circle
    best = points[(points @ gradient).argmax()]
    epsilon = adaptive_ball(0.7).at(w).steepest(gradient)
    torch.testing.assert_close(epsilon, best, atol=1e-4, rtol=0)


@pytest.mark.parametrize("by", ["weight", "filter", "layer"])
def test_adaptive_sets_follow_a_rescaling_of_layers(by):
    w, gradient = draw(0, 2, K)
    factor = torch.where(LAYOUT.layer == 0, 10.0, 0.1).double()
    neighbourhood = adaptive_ball(0.5, by=by)
    epsilon = neighbourhood.at(w, LAYOUT).steepest(gradient)
    # The gradient of the rescaled loss L(w / factor) is gradient / factor.
    scaled = neighbourhood.at(factor * w, LAYOUT).steepest(gradient / factor)
    torch.testing.assert_close(scaled, factor * epsilon)


@given(
    seed=st.integers(0, 10**6),
    spread=st.floats(0.1, 3),
    p=st.sampled_from([2, math.inf]),
)
@settings(max_examples=40, deadline=None)
def test_by_weight_follows_a_rescaling_of_units_and_by_filter_does_not(seed, spread, p):
    net = Network(mlp(4, 5, 3))
    w = net.init(seed, dtype=torch.float64)
    factors = (spread * draw(seed, 5)).exp()
    A = rescale_units(net, torch.ones_like(w), factors)
    gradient = draw(seed + 1, net.k)

    def followed(by):
        """The step at A w, pulled back, beside the step at w."""
        around = adaptive_ball(0.5, by=by, p=p)
        moved = around.at(A * w, net.layout).steepest(gradient / A)
        return moved / A, around.at(w, net.layout).steepest(gradient)

    back, step = followed("weight")
    torch.testing.assert_close(back, step)
    back, step = followed("filter")
    assert not torch.allclose(back, step, rtol=1e-3)


@pytest.mark.parametrize("neighbourhood", EVERY, ids=str)
def test_a_zero_gradient_goes_nowhere_and_a_tiny_one_all_the_way(neighbourhood):
    w = draw(1, 2, K).float()
    gradient = torch.zeros(2, K)
    gradient[1] = 1e-30 * draw(2, K).float()
    epsilon = neighbourhood.at(w, LAYOUT).steepest(gradient)
    assert (epsilon[0] == 0).all()
    length = neighbourhood.at(w, LAYOUT).norm(epsilon)[1]
    assert float(length) == pytest.approx(neighbourhood.radius, rel=1e-5)


def test_a_radius_per_member():
    radius = torch.tensor([0.1, 1.0, 10.0], dtype=torch.float64)
    w, gradient = draw(3, 2, 3, K)
    together = adaptive_ball(radius)
    epsilon = together.at(w).steepest(gradient)
    torch.testing.assert_close(together.at(w).norm(epsilon), radius)
    for i in range(3):
        alone = adaptive_ball(float(radius[i])).at(w[i]).steepest(gradient[i])
        torch.testing.assert_close(alone, epsilon[i])
    with pytest.raises(ValueError, match="3 members"):
        together.at(w[:2]).steepest(gradient[:2])


def test_samples_are_uniform_in_the_set():
    k, many = 3, 40_000
    w = torch.tensor([0.5, 2.0, 1.0], dtype=torch.float64).expand(many, k)

    def ratio(neighbourhood, kind):
        generator = torch.Generator().manual_seed(0)
        epsilon = neighbourhood.at(w).sample(generator=generator, kind=kind)
        return epsilon / neighbourhood.scale(w) / neighbourhood.radius

    # Second moments of the uniform ball, 1 / (k + 2), box, 1 / 3, sphere, 1 / k.
    spread = 5 / math.sqrt(many)
    for neighbourhood, kind, moment in [
        (adaptive_ball(0.2), "inside", 1 / (k + 2)),
        (adaptive_ball(0.2), "boundary", 1 / k),
        (adaptive_ball(0.2), "gaussian", 1 / k),
        (keskar_box(0.2), "inside", 1 / 3),
        (keskar_box(0.2), "gaussian", 1 / 3),
    ]:
        z = ratio(neighbourhood, kind)
        covariance = z.mT @ z / many
        expected = moment * torch.eye(k, dtype=torch.float64)
        torch.testing.assert_close(covariance, expected, atol=spread, rtol=0)
    radii = ratio(adaptive_ball(0.2), "inside").norm(dim=-1)
    assert float((radii < 0.5).double().mean()) == pytest.approx(1 / 8, abs=spread)


def test_a_member_s_sample_depends_on_its_seed_alone():
    w = draw(4, 3, K)
    for kind in ("inside", "boundary", "gaussian"):
        together = adaptive_ball(0.5).at(w).sample(seeds=range(3), kind=kind)
        alone = adaptive_ball(0.5).at(w[2]).sample(seeds=2, kind=kind)
        torch.testing.assert_close(together[2], alone)


def test_what_moves_along_a_frozen_weight_is_outside():
    w = torch.tensor([0.0, 1.0])
    neighbourhood = adaptive_ball(1.0)
    epsilon = torch.tensor([0.1, 0.1])
    assert neighbourhood.at(w).norm(epsilon) == math.inf
    assert neighbourhood.at(w).project(epsilon)[0] == 0
    assert neighbourhood.at(torch.zeros(2)).norm(torch.zeros(2)) == 0


@pytest.mark.parametrize("rho", [0, -1.0, math.nan, math.inf, torch.tensor([1.0, 0.0])])
def test_a_radius_that_is_no_radius(rho):
    for make in (ball, keskar_box, adaptive_ball):
        with pytest.raises(ValueError, match="radius must be positive"):
            make(rho)


def test_arguments_out_of_range():
    with pytest.raises(ValueError, match="p must be 2"):
        ball(1.0, p=1)
    with pytest.raises(ValueError, match="by must be"):
        adaptive_ball(1.0, by="neuron")
    with pytest.raises(ValueError, match="eta"):
        adaptive_ball(1.0, eta=-0.1)
    with pytest.raises(ValueError, match="layout"):
        adaptive_ball(1.0, by="filter").at(torch.ones(K))
    with pytest.raises(ValueError, match="members"):
        ball(torch.ones(2, 2)).at(torch.ones(3, K))
    w = torch.ones(2, K)
    with pytest.raises(ValueError, match="kind"):
        ball(1.0).at(w).sample(seeds=[0, 1], kind="sobol")
    with pytest.raises(ValueError, match="either"):
        ball(1.0).at(w).sample()
    with pytest.raises(ValueError, match="expected 2 seeds"):
        ball(1.0).at(w).sample(seeds=[0])
