"""Many points per member at once: the same numbers as one after another."""

import pytest
import torch

from flatlab import evaluation, models
from flatlab.loss import Loss
from flatlab.network import Network


def problem():
    g = torch.Generator().manual_seed(0)
    net = Network(models.mlp(4, 5, 3))
    x = torch.randn(20, 4, generator=g, dtype=torch.float64)
    y = torch.randint(0, 3, (20,), generator=g)
    return net, net.init(range(3), dtype=torch.float64), x, y


@pytest.mark.parametrize("own", [False, True])
@pytest.mark.parametrize("rows", [2**13, 100])
def test_points_together_are_points_in_turn(own, rows, monkeypatch):
    monkeypatch.setattr(evaluation, "MOST_ROWS", rows)
    net, w, x, y = problem()
    loss = Loss(net, (x, torch.stack([y, 2 - y, (y + 1) % 3]) if own else y))
    points = torch.stack([w, 2 * w, -w, w + 1])
    expected = torch.stack([loss(p) for p in points])
    torch.testing.assert_close(evaluation.at_points(loss, loss, points), expected)
    value, gradient = evaluation.at_points(loss, loss.value_and_gradient, points)
    torch.testing.assert_close(value, expected)
    torch.testing.assert_close(
        gradient, torch.stack([loss.gradient(p) for p in points])
    )


def test_groups_hold_every_item_once_and_in_order():
    w = torch.zeros(3, 20_000)
    groups = list(evaluation.grouped(iter(range(7)), w))
    assert [i for g in groups for i in g] == list(range(7))
    assert len(groups) == 4  # two points of 60,000 numbers each
    assert len(list(evaluation.grouped(range(40), w[:, :5]))) == 3


def test_noise_depends_on_its_number_and_seed_alone():
    w = torch.zeros(2, 7, dtype=torch.float64)
    late = evaluation.Noise(w, 5)[3]
    first = evaluation.Noise(w[:1].float(), 5)
    assert [first[i] for i in range(4)][3].double().equal(late)
    assert not evaluation.Noise(w, 6)[3].equal(late)
    before = torch.random.get_rng_state()
    evaluation.Noise(w, 1)[0]
    assert torch.random.get_rng_state().equal(before)


@pytest.mark.parametrize("power", [1.0, 2.0, 4.0])
def test_the_largest_sigma_inverts_a_known_rise(power):
    slope = torch.tensor([1e-6, 1.0, 3e4], dtype=torch.float64)

    def rise_at(sigma):
        calls.append(sigma)
        return slope * sigma**power, 0.01 * slope * sigma**power

    calls = []
    sigma, error, rise = evaluation.largest_sigma(
        rise_at, 0.1, torch.full_like(slope, 0.3), "test"
    )
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

    sigma, error, _ = evaluation.largest_sigma(rise_at, 0.25, start, "test")
    assert sigma[0] == torch.inf
    assert sigma[1].item() == pytest.approx(0.5, rel=1e-3)
    assert sigma[2] == 0  # a loss that is not a number is no loss to accept
    assert error[[0, 2]].isnan().all()


def test_a_step_of_the_rise_is_found_from_below():
    def rise_at(sigma):
        return (sigma > 0.37).double(), torch.zeros_like(sigma)

    start = torch.tensor([1e-4, 0.2, 50.0], dtype=torch.float64)
    sigma, _, rise = evaluation.largest_sigma(rise_at, 0.1, start, "test")
    assert (rise == 0).all()
    assert ((sigma <= 0.37) & (sigma > 0.369)).all()


def test_bad_weights_are_named():
    net, w, x, y = problem()
    loss = Loss(net, (x, y))
    w[1, 3] = torch.nan
    with pytest.raises(ValueError, match=r"members \[1\]"):
        evaluation.checked(loss, w)
    with pytest.raises(ValueError, match="NaN"):
        evaluation.checked(loss, w[1])
    with pytest.raises(TypeError, match="Loss"):
        evaluation.checked(net, w)
    with pytest.raises(ValueError, match="another network"):
        evaluation.checked(loss, w[:, 1:])
