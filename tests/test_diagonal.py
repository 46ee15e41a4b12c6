"""The exact diagonal and trace against dense float64 Hessians."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from flatlab import models
from flatlab.hessian import Hessian
from flatlab.loss import Loss
from flatlab.network import Network
from flatlab.spectra import diagonal, trace
from tests.cases import (
    CLASSES,
    IMAGE,
    LINEAR,
    OTHER,
    Forward,
    close,
    dense,
    draws,
    labels,
    problem,
)


@pytest.mark.parametrize("name", sorted(LINEAR))
@pytest.mark.parametrize("criterion", ["cross_entropy", "mse"])
def test_networks_linear_in_each_weight_have_an_exact_diagonal(name, criterion):
    loss, w = problem(name, criterion, 3 if criterion == "mse" else None)
    expected = dense(loss, w)
    H = Hessian(loss, w)
    close(H.exact_diagonal(), expected.diagonal())
    close(trace(H).values, expected.trace())
    assert H.products == 0


@pytest.mark.parametrize("name", sorted(OTHER))
@pytest.mark.parametrize("criterion", ["cross_entropy", "mse"])
def test_other_networks_have_none(name, criterion):
    H = Hessian(*problem(name, criterion))
    assert H.exact_diagonal() is None


def test_other_criteria_have_none():
    loss, w = problem("mlp", F.cross_entropy)
    assert Hessian(loss, w).exact_diagonal() is None


@pytest.mark.parametrize("name", ["mlp", "cnn", "resnet"])
def test_members_have_the_diagonals_they_have_alone(name):
    loss, w = problem(name)
    w = torch.stack([w, 1.1 * w])
    whole = Hessian(loss, w)
    for i, member in enumerate(w):
        alone = Hessian(loss, member)
        close(whole.exact_diagonal()[i], alone.exact_diagonal())
        close(trace(whole).values[i], trace(alone).values)


def test_estimators_ask_for_the_exact_trace_and_diagonal():
    loss, w = problem("mlp")
    H = Hessian(loss, torch.stack([w, 2 * w]))
    for i, member in enumerate(H.w):
        expected = dense(loss, member)
        close(trace(H).values[i], expected.trace())
        close(diagonal(H).values[i], expected.diagonal())
    assert H.products == 0
    assert (trace(H).standard_error == 0).all()


def test_without_a_closed_form_the_estimate_has_an_error():
    loss, w = problem("twice")
    found = trace(Hessian(loss, w), tol=0.3)
    assert found.standard_error > 0
    error = (found.values - dense(loss, w).trace()).abs()
    assert error < 5 * found.standard_error


def test_softmax_regression_has_the_closed_form():
    loss, w = problem("softmax-regression")
    p = loss.net(w, loss.x).softmax(-1)
    inner = torch.diag_embed(p) - p[:, :, None] * p[:, None]
    W = torch.einsum("ncd,ni,nj->cidj", inner, loss.x, loss.x).reshape(15, 15) / 7
    b = torch.einsum("ncd,ni->cid", inner, loss.x).reshape(15, CLASSES) / 7
    expected = torch.cat([torch.cat([W, b], 1), torch.cat([b.T, inner.mean(0)], 1)])
    H = Hessian(loss, w)
    close(H @ torch.eye(18, dtype=w.dtype), expected)
    close(H.exact_diagonal(), expected.diagonal())


def test_ignored_labels_do_not_count_in_the_diagonal():
    loss, w = problem("cnn")
    y = labels()
    y[:3] = -100
    H = Hessian(Loss(loss.net, (IMAGE, y)), w)
    matrix = H @ torch.eye(len(w), dtype=w.dtype)
    close(H.exact_diagonal(), matrix.diagonal())
    close(trace(H).values, matrix.trace())


def test_a_hidden_part_of_the_forward_is_not_taken_for_linear():
    hooked = models.mlp(5, 6, CLASSES)
    hooked[1].register_forward_hook(lambda layer, x, out: out.tanh())
    normed = models.mlp(5, 6, CLASSES)
    nn.utils.spectral_norm(normed[1])
    for module in (hooked, normed, Forward(Straight.apply)):
        net = Network(module.double())
        loss, w = Loss(net, (draws(5), labels())), net.weights()
        assert Hessian(loss, w).exact_diagonal() is None


class Straight(torch.autograd.Function):
    """ReLU with the derivative of the identity."""

    @staticmethod
    def forward(context, x):
        return F.relu(x)

    @staticmethod
    def backward(context, gradient):
        return gradient
