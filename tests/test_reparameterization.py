"""Rescalings: the function stays, the weights move as the definition says."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from flatlab import models
from flatlab.network import Network
from flatlab.reparameterization import rescale_layers, rescale_units

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


@pytest.mark.parametrize(
    ("net", "options", "word"),
    [
        (chain(nn.Tanh()), {}, "Tanh"),
        (chain(nn.BatchNorm1d(4)), {}, "BatchNorm1d"),
        (chain(nn.ReLU()), dict(layers=(1, 0)), "increasing"),
        (chain(nn.ReLU()), dict(layers=(0, 2)), "2 linear"),
        (chain(nn.ReLU()), dict(alpha=0.0), "positive"),
        (chain(nn.ReLU()), dict(alpha=float("nan")), "positive"),
        (chain(nn.ReLU()), dict(alpha=torch.ones(2, 2)), "per member"),
        (frozen("1.weight"), {}, "frozen or tied"),
        (frozen("1.bias"), {}, "frozen or tied"),
    ],
)
def test_no_symmetry_is_a_clear_error(net, options, word):
    options = {"alpha": 2.0, **options}
    with pytest.raises(ValueError, match=word):
        rescale_layers(net, net.weights(), **options)


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
