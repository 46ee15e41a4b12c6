"""Rescalings: the function stays, the weights move as the definition says."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from flatlab import models
from flatlab.hessian import Hessian
from flatlab.loss import Loss
from flatlab.neighbourhoods import adaptive_ball, ball
from flatlab.network import Network
from flatlab.reparameterization import rescale_layers, rescale_units
from flatlab.sharpness import (
    average_sharpness,
    fisher_rao_norm,
    worst_case_sharpness,
)

INF = math.inf

NETS = {
    "mlp": (lambda: models.mlp(6, 5, 4, 3), (6,), [5, 4, 3]),
    "no-bias": (lambda: models.mlp(6, 5, 4, 3, bias=False), (6,), [5, 4, 3]),
    "cnn": (
        lambda: models.cnn((2, 8, 8), 3, channels=(4, 5), hidden=6),
        (2, 8, 8),
        [4, 5, 6, 3],
    ),
    "pooled": (
        lambda: models.cnn((1, 12), 3, channels=(4, 5), hidden=0, pool="max"),
        (1, 12),
        [4, 5, 3],
    ),
}


def prepared(name, members=2):
    make, shape, units = NETS[name]
    net = Network(make())
    g = torch.Generator().manual_seed(5)
    x = torch.randn(9, *shape, generator=g, dtype=torch.float64)
    return net, net.init(range(members), dtype=torch.float64), x, units


@pytest.mark.parametrize("name", NETS)
@settings(deadline=None, max_examples=15)
@given(log_alpha=st.floats(-3, 3), data=st.data())
def test_layer_rescaling_leaves_the_function(name, log_alpha, data):
    net, w, x, units = prepared(name)
    first = data.draw(st.integers(0, len(units) - 2))
    second = data.draw(st.integers(first + 1, len(units) - 1))
    alpha = 10**log_alpha
    moved = rescale_layers(net, w, alpha, (first, second))
    torch.testing.assert_close(net(moved, x), net(w, x), rtol=1e-9, atol=1e-9)
    back = rescale_layers(net, moved, 1 / alpha, (first, second))
    torch.testing.assert_close(back, w, rtol=1e-12, atol=0)
    if abs(log_alpha) > 0.1:
        assert not torch.allclose(moved, w, rtol=1e-3)


@pytest.mark.parametrize("name", NETS)
@settings(deadline=None, max_examples=15)
@given(seed=st.integers(0, 2**20), data=st.data())
def test_unit_rescaling_leaves_the_function(name, seed, data):
    net, w, x, units = prepared(name)
    layer = data.draw(st.integers(0, len(units) - 2))
    g = torch.Generator().manual_seed(seed)
    factors = torch.randn(units[layer], generator=g, dtype=torch.float64).mul(2).exp()
    moved = rescale_units(net, w, factors, layer)
    torch.testing.assert_close(net(moved, x), net(w, x), rtol=1e-9, atol=1e-9)
    own = torch.stack([factors, 1 / factors])
    each = rescale_units(net, w, own, layer)
    torch.testing.assert_close(each[0], moved[0])
    torch.testing.assert_close(net(each, x), net(w, x), rtol=1e-9, atol=1e-9)


def test_equal_factors_are_layer_rescaling():
    net, w, _, units = prepared("cnn")
    for layer in range(3):
        same = torch.full((units[layer],), 3.0, dtype=torch.float64)
        torch.testing.assert_close(
            rescale_units(net, w, same, layer),
            rescale_layers(net, w, 3.0, (layer, layer + 1)),
        )


def test_the_weights_move_as_defined():
    net, w, _, _ = prepared("mlp")
    before = net.unflatten(w)
    after = net.unflatten(rescale_layers(net, w, 10.0))
    factor = {"1.weight": 10, "1.bias": 10, "3.weight": 0.1}
    for name, value in before.items():
        torch.testing.assert_close(after[name], value * factor.get(name, 1))


def test_one_network_and_many_alphas_make_members():
    net, w, _, _ = prepared("mlp")
    alphas = torch.tensor([0.1, 1.0, 10.0])
    moved = rescale_layers(net, w[0], alphas)
    assert moved.shape == (3, net.k)
    torch.testing.assert_close(moved[1], w[0])
    torch.testing.assert_close(moved[2], rescale_layers(net, w[0], 10.0))


def chain(*middle):
    return Network(nn.Sequential(nn.Linear(4, 4), *middle, nn.Linear(4, 3)))


def frozen(name):
    module = models.mlp(4, 4, 3)
    module.get_parameter(name).requires_grad_(False)
    return Network(module)


def with_hook():
    net = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 3))
    net[0].register_forward_hook(lambda module, inputs, output: output + 1)
    return Network(net)


ACT, TWICE = nn.Tanh(), nn.Linear(4, 4)
TIED = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 4), nn.ReLU(), TWICE)
TIED[2].weight = TIED[0].weight


@pytest.mark.parametrize(
    ("net", "options", "word"),
    [
        (chain(nn.Tanh()), {}, "Tanh"),
        (chain(ACT, nn.Linear(4, 4), ACT), dict(layers=(1, 2)), "Tanh"),
        (chain(TWICE, nn.ReLU(), TWICE), dict(layers=(0, 1)), "frozen or tied"),
        (chain(TWICE, nn.ReLU(), TWICE), dict(layers=(2, 3)), "frozen or tied"),
        (Network(TIED), dict(layers=(0, 2)), "frozen or tied"),
        (with_hook(), {}, "hooks"),
        (chain(nn.BatchNorm1d(4)), {}, "BatchNorm1d"),
        (chain(nn.ReLU()), dict(layers=(1, 0)), "increasing"),
        (chain(nn.ReLU()), dict(layers=(0, 2)), "2 linear"),
        (chain(nn.ReLU()), dict(alpha=0.0), "positive"),
        (chain(nn.ReLU()), dict(alpha=float("nan")), "positive"),
        (frozen("1.weight"), {}, "frozen or tied"),
        (frozen("1.bias"), {}, "frozen or tied"),
    ],
)
def test_no_symmetry_is_a_clear_error(net, options, word):
    options = {"alpha": 2.0, **options}
    with pytest.raises(ValueError, match=word):
        rescale_layers(net, net.weights(), **options)


@pytest.mark.parametrize(
    "layers",
    [
        [nn.Linear(5, 4), nn.ReLU(), nn.Flatten(), nn.Linear(28, 3)],
        [nn.Conv1d(2, 4, 3), nn.ReLU(), nn.Linear(8, 3)],
        [nn.Linear(4, 4), nn.ReLU(), nn.Conv1d(8, 3, 2)],
        [nn.Linear(5, 4), nn.ReLU(), nn.MaxPool1d(3, 1, padding=1), nn.Linear(4, 3)],
        [nn.Conv2d(2, 4, 3), nn.ReLU(), nn.Flatten(2), nn.Linear(16, 3)],
    ],
)
def test_units_that_do_not_reach_the_next_layer_as_blocks_are_refused(layers):
    net = Network(nn.Sequential(*layers))
    with pytest.raises(ValueError, match=r"not covered"):
        rescale_units(net, net.weights(), torch.tensor([1.0, 2.0, 3.0, 4.0]))


def test_skip_connections_are_refused():
    net = Network(models.resnet((1, 8, 8), 3, channels=(4, 4)))
    with pytest.raises(ValueError, match="chain"):
        rescale_layers(net, net.weights(), 2.0)


def test_the_number_of_factors_is_checked():
    net, w, _, _ = prepared("mlp")
    with pytest.raises(ValueError, match=r"\(5,\)"):
        rescale_units(net, w, torch.ones(4))
    with pytest.raises(ValueError, match="positive"):
        rescale_units(net, w, -torch.ones(5))


@st.composite
def rescaled_networks(draw):
    """A random chain with random weights, and the same function written otherwise.

    Widths, depth, biases, data and the factors of all hidden units are drawn.
    """
    widths = draw(st.lists(st.integers(1, 6), min_size=3, max_size=5))
    widths[-1] = max(widths[-1], 2)
    net = Network(models.mlp(*widths, bias=draw(st.booleans())))
    g = torch.Generator().manual_seed(draw(st.integers(0, 2**20)))
    w = torch.randn(2, net.k, generator=g, dtype=torch.float64)
    x = torch.randn(11, widths[0], generator=g, dtype=torch.float64)
    y = torch.randint(widths[-1], (11,), generator=g)
    moved, spread = w, draw(st.floats(0.1, 2))
    for layer, units in enumerate(widths[1:-1]):
        z = torch.randn(2, units, generator=g, dtype=torch.float64)
        moved = rescale_units(net, moved, (spread * z).exp(), layer)
    torch.testing.assert_close(net(moved, x), net(w, x), rtol=1e-9, atol=1e-9)
    return Loss(net, (x, y), draw(st.sampled_from(["mse", "cross_entropy"]))), w, moved


@settings(deadline=None, max_examples=25)
@given(case=rescaled_networks(), rho=st.floats(0.01, 0.5), p=st.sampled_from([2, INF]))
def test_adaptive_measures_ignore_a_rescaling_of_units(case, rho, p):
    loss, w, moved = case
    same = dict(rtol=1e-6, atol=1e-10)
    around = adaptive_ball(rho, p=p)
    # the step of ASAM and a fixed set of noise: nothing that searches
    before, after = (
        worst_case_sharpness(loss, v, around, steps=0, restarts=0).values
        for v in (w, moved)
    )
    torch.testing.assert_close(after, before, **same)
    before, after = (
        average_sharpness(loss, v, around, samples=6).values for v in (w, moved)
    )
    torch.testing.assert_close(after, before, **same)


@settings(deadline=None, max_examples=25)
@given(case=rescaled_networks())
def test_fisher_rao_ignores_a_rescaling_of_units(case):
    loss, w, moved = case
    before, after = fisher_rao_norm(loss, w), fisher_rao_norm(loss, moved)
    torch.testing.assert_close(after, before, rtol=1e-7, atol=1e-12)


@settings(deadline=None, max_examples=25)
@given(case=rescaled_networks(), p=st.sampled_from([2, INF]), seed=st.integers(0, 99))
def test_the_adaptive_set_moves_with_the_weights(case, p, seed):
    # T_w: epsilon / w is what counts, so the set at c * w is c times the set at w
    _, w, moved = case
    around = adaptive_ball(0.3, p=p)
    here, there = around.at(w), around.at(moved)
    scale = moved / w
    g = torch.Generator().manual_seed(seed)
    epsilon = torch.randn(w.shape, generator=g, dtype=torch.float64)
    torch.testing.assert_close(there.norm(scale * epsilon), here.norm(epsilon))
    torch.testing.assert_close(
        there.project(scale * epsilon),
        scale * here.project(epsilon),
    )
    torch.testing.assert_close(
        there.steepest(epsilon / scale),
        scale * here.steepest(epsilon),
    )


@settings(deadline=None, max_examples=15)
@given(case=rescaled_networks())
def test_gradient_and_hessian_transform_as_theorem_3_says(case):
    loss, w, moved = case
    d = w / moved  # the diagonal of D
    torch.testing.assert_close(
        loss.gradient(moved), d * loss.gradient(w), rtol=1e-6, atol=1e-9
    )
    v = torch.ones_like(w)[..., None]
    left = Hessian(loss, moved) @ (v / d[..., None])
    right = d[..., None] * (Hessian(loss, w) @ v)
    torch.testing.assert_close(left, right, rtol=1e-6, atol=1e-8)


def test_a_constant_in_the_scale_breaks_the_invariance():
    # what makes the tests above able to fail
    net, w, x, _ = prepared("mlp")
    loss = Loss(net, (x, torch.arange(9) % 3))
    moved = rescale_layers(net, w, 30.0)
    for around in (ball(0.1), adaptive_ball(0.1, eta=0.01)):
        before, after = (
            average_sharpness(loss, v, around, samples=6).values for v in (w, moved)
        )
        assert ((after - before).abs() > 0.01 * before.abs()).all()


@pytest.mark.parametrize("bias", [True, False])
def test_forgotten_biases_change_the_function_where_there_are_any(bias):
    net = Network(models.mlp(6, 5, 4, 3, bias=bias))
    w = net.init(range(2), dtype=torch.float64)
    x = torch.linspace(-1, 1, 54, dtype=torch.float64).view(9, 6)
    p = dict(net.unflatten(rescale_layers(net, w, 7.0)))
    for name, value in net.unflatten(w).items():
        if name.endswith("bias"):
            p[name] = value
    forgotten = net.flatten(p)
    same = torch.allclose(net(forgotten, x), net(w, x), rtol=1e-9, atol=1e-9)
    assert same is (not bias)


class Skip(nn.Module):
    """x + linear(x): what goes around is not multiplied."""

    def __init__(self):
        super().__init__()
        self.inner = nn.Linear(4, 4)

    def forward(self, x):
        return x + self.inner(x)


def test_a_skip_connection_inside_a_chain_is_named():
    net = chain(nn.ReLU(), Skip(), nn.ReLU())
    for call in (
        lambda: rescale_layers(net, net.weights(), 2.0),
        lambda: rescale_units(net, net.weights(), torch.full((4,), 2.0)),
    ):
        with pytest.raises(ValueError, match=r"Skip.*skip connections"):
            call()


def test_leading_axes_are_those_of_weights_and_factors():
    net = Network(models.mlp(6, 5, 4))
    w = torch.stack([net.init(range(3)), net.init(range(3, 6))])
    alpha = torch.tensor([0.5, 2.0, 8.0])
    x = torch.randn(7, 6, generator=torch.Generator().manual_seed(0))
    moved = rescale_layers(net, w, alpha)
    torch.testing.assert_close(moved[1, 2], rescale_layers(net, w[1, 2], 8.0))
    torch.testing.assert_close(net(moved, x), net(w, x))
    assert rescale_layers(net, w[0, 0], torch.ones(2, 4)).shape == (2, 4, net.k)
    factors = torch.rand(2, 3, 5, generator=torch.Generator().manual_seed(1)) + 0.5
    moved = rescale_units(net, w, factors)
    torch.testing.assert_close(net(moved, x), net(w, x))
    torch.testing.assert_close(moved[1, 0], rescale_units(net, w[1, 0], factors[1, 0]))
    for wrong in (torch.ones(2), torch.ones(4, 3)):
        with pytest.raises(ValueError, match="for each member"):
            rescale_layers(net, w, wrong)
    with pytest.raises(ValueError, match="for each member"):
        rescale_units(net, w, torch.ones(4, 5))
