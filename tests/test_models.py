"""Architectures: shapes, structure and clear errors."""

import pytest
import torch
from torch import nn

from flatlab import models


@pytest.mark.parametrize("activation", ["relu", "tanh", "gelu", "linear"])
def test_mlp_is_the_stack_it_says(activation):
    torch.manual_seed(0)
    net = models.mlp(6, 5, 4, 3, activation=activation)
    linear = [layer for layer in net if isinstance(layer, nn.Linear)]
    assert [(m.in_features, m.out_features) for m in linear] == [(6, 5), (5, 4), (4, 3)]
    x = torch.randn(7, 2, 3)
    act = {
        "relu": torch.relu,
        "tanh": torch.tanh,
        "gelu": nn.functional.gelu,
        "linear": lambda z: z,
    }[activation]
    h = x.flatten(1)
    for i, layer in enumerate(linear):
        h = h @ layer.weight.T + layer.bias
        h = act(h) if i < 2 else h
    torch.testing.assert_close(net(x), h)


@pytest.mark.parametrize("shape", [(1, 40), (3, 8, 8), (1, 9, 7)])
@pytest.mark.parametrize("pool", ["flatten", "max", "mean"])
@pytest.mark.parametrize("hidden", [0, 12])
def test_cnn_takes_signals_and_images(shape, pool, hidden):
    net = models.cnn(shape, 10, channels=(4, 6, 8), hidden=hidden, pool=pool)
    assert net(torch.randn(5, *shape)).shape == (5, 10)


def test_resnet_halves_the_image_at_every_block_but_the_first():
    net = models.resnet((3, 16, 16), 10, channels=(4, 8, 8))
    assert net(torch.randn(5, 3, 16, 16)).shape == (5, 10)
    assert net[:6](torch.randn(5, 3, 16, 16)).shape == (5, 8, 4, 4)


def test_dropout_sits_after_every_hidden_layer():
    net = models.mlp(6, 5, 4, 3, dropout=0.5)
    assert sum(isinstance(layer, nn.Dropout) for layer in net) == 2


@pytest.mark.parametrize(
    ("make", "word"),
    [
        (lambda: models.mlp(3), "two or more"),
        (lambda: models.mlp(3, 0, 2), "positive"),
        (lambda: models.mlp(3, 2, activation="relu6"), "activation"),
        (lambda: models.mlp(3, 2, 2, dropout=1.0), "dropout"),
        (lambda: models.cnn((8,), 10), "shape"),
        (lambda: models.cnn((1, 8), 10, pool="sum"), "pool"),
        (lambda: models.resnet((1, 8), 10), "shape"),
    ],
)
def test_bad_arguments_say_what_is_expected(make, word):
    with pytest.raises(ValueError, match=word):
        make()
