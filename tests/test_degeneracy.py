"""The local learning coefficient against closed forms and quadrature."""

import pytest
import torch

from flatlab.degeneracy import local_learning_coefficient
from flatlab.loss import Loss
from flatlab.network import Network
from flatlab.spectra import soft_rank
from tests.cases import Point
from tests.test_sharpness import quadratic

DATA = (torch.ones(2, 1), torch.zeros(2))
FEW = {"chains": 2, "draws": 400, "burn_in": 150}


def surface(function, k):
    """A loss that is a function of k weights, whatever the data."""
    return Loss(Network(Point((k,))), DATA, lambda z, y: function(z))


def test_on_a_quadratic_it_is_half_the_soft_rank():
    loss, H, b, _ = quadratic(0, (3,), (2,), definite=True)
    lowest = torch.linalg.solve(H, -b)
    found = local_learning_coefficient(
        loss, lowest, n_beta=50.0, localisation=20.0, tol=0.3, **FEW
    )
    truth = soft_rank(H, 20 / 50).values / 2
    assert (found.values - truth).abs() < 4 * found.standard_error < 0.8 * truth
    assert found.converged and 0.4 < found.accepted < 0.8


def test_a_quartic_counts_one_quarter_for_each_weight():
    # exact at every n_beta, without localisation: n β E[w⁴] = 1/4
    loss = surface(lambda z: z.pow(4).sum(-1), 60)
    w = torch.zeros(60, dtype=torch.float64)
    for n_beta in (10.0, 1e4):
        found = local_learning_coefficient(
            loss, w, n_beta=n_beta, localisation=0.0, tol=0.2, **FEW
        )
        assert found.converged and abs(found.values - 15) < 2
    # whereas the Hessian there is zero
    assert found.values > 10 * soft_rank(torch.zeros(60, 60), 1.0).values


def test_a_product_of_squares_agrees_with_quadrature():
    pairs, n_beta, pull = 30, 1e3, 1.0
    loss = surface(lambda z: z.square().unflatten(-1, (-1, 2)).prod(-1).sum(-1), 60)
    axis = torch.linspace(-6, 6, 4001, dtype=torch.float64)
    square = axis.square()
    value = square[:, None] * square
    density = (-n_beta * value - pull / 2 * (square[:, None] + square)).exp()
    truth = pairs * n_beta * (value * density).sum() / density.sum()
    found = local_learning_coefficient(
        loss, torch.zeros(60, dtype=torch.float64), n_beta=n_beta, tol=0.2, **FEW
    )
    assert found.converged and (found.values / truth - 1).abs() < 0.1
    assert truth < pairs / 2  # ½ for each pair, which is reached like 1 / log(n β)


def test_without_metropolis_the_step_adds_its_known_bias():
    loss = surface(lambda z: z.square().sum(-1) / 2, 40)
    w = torch.zeros(40, dtype=torch.float64)
    how = {"n_beta": 9.0, "localisation": 1.0, "step": 0.05, **FEW}
    exact = local_learning_coefficient(loss, w, **how).values
    biased = local_learning_coefficient(loss, w, metropolis=False, **how).values
    # a stationary variance of 1 / (a (1 - step · a / 4)) with a = 10
    assert abs(exact - 20 * 0.9) < 1.2
    assert abs(biased - 20 * 0.9 / (1 - 0.05 * 10 / 4)) < 1.2


def test_a_sampler_that_has_not_arrived_says_so():
    loss = surface(lambda z: z.square().sum(-1) / 2, 40)
    w = torch.zeros(2, 40, dtype=torch.float64)
    slow = {"n_beta": 100.0, "step": 2e-5, "chains": 2}
    found = local_learning_coefficient(loss, w, burn_in=0, draws=100, **slow)
    assert not found.converged.any() and (found.values < 10).all()
    # steps too long for the curvature, without a rule that refuses them
    far = {"step": 1.0, "metropolis": False, "n_beta": 100.0, "chains": 2}
    found = local_learning_coefficient(loss, w, burn_in=0, draws=100, **far)
    assert not found.converged.any()
    # no minimum: the chains go down
    w[1] += 3
    found = local_learning_coefficient(loss, w, n_beta=100.0, tol=0.2, **FEW)
    assert found.converged.tolist() == [True, False] and found.values[1] < 0


def test_a_member_is_the_same_in_every_ensemble():
    loss, _, _, w = quadratic(1, (2,), (2,), definite=True)
    few = {"chains": 2, "draws": 20, "burn_in": 10}
    together = local_learning_coefficient(loss, w, **few)
    alone = local_learning_coefficient(loss, w[1], **few)
    torch.testing.assert_close(together.values[1], alone.values)
    assert together.values.shape == (3,) and alone.converged.shape == ()


@pytest.mark.parametrize(
    "given",
    [
        {"chains": 1},
        {"draws": 1},
        {"n_beta": 0.0},
        {"step": -1.0},
        {"localisation": -1.0},
        {"metropolis": False},
        {"burn_in": 0},
    ],
)
def test_settings_that_cannot_work_are_refused(given):
    loss, _, _, w = quadratic(1, (2,), (2,))
    with pytest.raises(ValueError):
        local_learning_coefficient(loss, w, **given)
