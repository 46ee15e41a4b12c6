"""Lines and planes against direct evaluation and closed forms."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from flatlab import models
from flatlab.landscape import filter_normalised, interpolate, plane
from flatlab.loss import Loss
from flatlab.network import Network


def problem(module=None, dtype=torch.float64):
    g = torch.Generator().manual_seed(3)
    net = Network(module or models.mlp(6, 5, 4))
    x = torch.randn(23, 6, generator=g)
    y = torch.randint(0, 4, (23,), generator=g)
    return Loss(net, (x, y)), net.init(range(3), dtype=dtype)


def test_a_line_is_the_loss_at_its_points():
    loss, w = problem()
    alphas = [-0.5, 0.0, 0.3, 1.0, 1.5]
    line = interpolate(loss, w, w.flip(0), alphas)
    assert line.losses.shape == (3, 5)
    for j, a in enumerate(alphas):
        point = (1 - a) * w + a * w.flip(0)
        torch.testing.assert_close(line.losses[:, j], loss(point))
    # the ends are the ends, to the bit
    assert line.losses[:, 1].equal(interpolate(loss, w, w, [0.0]).losses[:, 0])


def test_a_line_joins_one_with_many():
    loss, w = problem()
    many = interpolate(loss, w[0], w, [0.0, 0.5])
    back = interpolate(loss, w, w[0], [1.0, 0.5])
    torch.testing.assert_close(many.losses, back.losses)
    single = interpolate(loss, w[0], w[1], [0.0, 0.5])
    assert single.losses.shape == (2,)
    pairs = torch.stack([w[:2], w[1:]])
    both = interpolate(loss, pairs, pairs.flip(0), [0.0, 0.5])
    alone = interpolate(loss, pairs[1], pairs[0], [0.0, 0.5])
    torch.testing.assert_close(both.losses[1], alone.losses)
    torch.testing.assert_close(single.losses, many.losses[1])


def conv():
    return models.cnn((1, 6, 6), 4, channels=(3, 5), hidden=6)


def test_filters_of_a_direction_get_the_length_of_those_of_w():
    net = Network(conv())
    w = net.init(range(2), dtype=torch.float64)
    g = torch.Generator().manual_seed(0)
    d = torch.randn(net.k, generator=g, dtype=torch.float64)
    got = filter_normalised(d, w, net.layout)
    raw = {n: d[s].reshape(shape) for n, shape, s in net.layout}
    for i in range(2):
        want, have = net.unflatten(w[i]), net.unflatten(got[i])
        for name, value in have.items():
            for f in range(len(value)):
                if value.ndim == 1:
                    assert value[f] == 0
                    continue
                expected = raw[name][f] * want[name][f].norm() / raw[name][f].norm()
                torch.testing.assert_close(value[f], expected)


@given(log_scale=st.floats(-3, 3), seed=st.integers(0, 1000))
@settings(max_examples=20, deadline=None)
def test_a_normalised_picture_ignores_a_rescaling(log_scale, seed):
    loss, w = problem(models.mlp(6, 5, 4, bias=False))
    alpha = 10**log_scale
    first, last = loss.net.layout.slices
    moved = w.clone()
    moved[:, first] *= alpha
    moved[:, last] /= alpha
    before, after = (plane(loss, v, points=3, seed=seed).losses for v in (w, moved))
    torch.testing.assert_close(after, before)
    raw = plane(loss, moved, points=3, seed=seed, filter_normalise=False).losses
    assert raw.shape == before.shape


def test_a_plane_is_the_loss_at_its_points():
    loss, w = problem()
    g = torch.Generator().manual_seed(1)
    d1, d2 = torch.randn(2, loss.net.k, generator=g, dtype=torch.float64)
    surface = plane(loss, w, (d1, d2.expand_as(w)), span=(1.0, 2.0), points=(5, 4))
    assert surface.losses.shape == (3, 5, 4)
    torch.testing.assert_close(surface.alphas, torch.linspace(-1, 1, 5).double())
    torch.testing.assert_close(surface.betas, torch.linspace(-2, 2, 4).double())
    for i, a in enumerate(surface.alphas):
        for j, b in enumerate(surface.betas):
            expected = loss(w + a * d1 + b * d2)
            torch.testing.assert_close(surface.losses[:, i, j], expected)
    assert surface.directions.shape == (3, 2, loss.net.k)
    single = plane(loss, w[1], (d1, d2), span=(1.0, 2.0), points=(5, 4))
    assert single.losses.shape == (5, 4)
    torch.testing.assert_close(single.losses, surface.losses[1])
    pairs = torch.stack([w[:2], w[1:]])
    wide = plane(loss, pairs, (d1, pairs), span=(1.0, 2.0), points=(4, 2))
    assert wide.losses.shape == (2, 2, 4, 2) and wide.alphas.shape == (4,)
    alone = plane(loss, w[2], (d1, w[2]), span=(1.0, 2.0), points=(4, 2))
    torch.testing.assert_close(wide.losses[1, 1], alone.losses)
    assert wide.centre.equal(pairs)


@pytest.mark.parametrize("points", [3, 21, 51])
def test_an_odd_number_of_points_hits_the_centre(points):
    loss, w = problem(dtype=torch.float32)
    surface = plane(loss, w[0], points=(points, 3))
    assert surface.alphas[points // 2] == 0
    torch.testing.assert_close(surface.losses[points // 2, 1], loss(w[0]))


def test_members_with_labels_of_their_own():
    loss, w = problem()
    own = Loss(loss.net, (loss.x, torch.stack([loss.y, 3 - loss.y, loss.y])))
    surface = plane(own, w, points=3)
    alone = Loss(loss.net, (loss.x, 3 - loss.y))
    torch.testing.assert_close(surface.losses[1], plane(alone, w[1], points=3).losses)


def test_random_directions_are_those_of_the_seed():
    loss, w = problem()
    first, same, other = (
        plane(loss, w, points=2, seed=s).directions for s in (0, 0, 1)
    )
    assert first.equal(same)
    assert (first - other).abs().max() > 0.1
    assert plane(loss, w[:1], points=2, seed=0).directions[0].equal(first[0])


def test_eigenvector_planes_curve_as_the_eigenvalues_say():
    loss, w = problem(models.mlp(6, 5, 4, activation="tanh"))
    x, y, _ = next(iter(loss.chunks(w[0])))

    def f(v):
        return loss.value(loss.net.unflatten(v), x, y)

    step = 1e-3
    surface = plane(loss, w, "eigenvectors", span=step, points=3)
    for i in range(3):
        top = torch.linalg.eigvalsh(torch.autograd.functional.hessian(f, w[i]))[-2:]
        along = surface.losses[i, :, 1]
        curvature = (along[0] + along[2] - 2 * along[1]) / step**2
        assert curvature.item() == pytest.approx(top[1].item(), rel=5e-3)
        along = surface.losses[i, 1]
        curvature = (along[0] + along[2] - 2 * along[1]) / step**2
        assert curvature.item() == pytest.approx(top[0].item(), rel=5e-3)
        torch.testing.assert_close(
            surface.directions[i] @ surface.directions[i].T, torch.eye(2).double()
        )


def test_bad_input_says_what_is_expected():
    loss, w = problem()
    with pytest.raises(ValueError, match="members"):
        interpolate(loss, w, w[:2], [0.0])
    with pytest.raises(ValueError, match="alphas"):
        interpolate(loss, w, w, [])
    with pytest.raises(RuntimeError, match="float"):
        interpolate(loss, w, w.float(), [0.0])
    with pytest.raises(ValueError, match="NaN"):
        plane(loss, w / 0)
    with pytest.raises(TypeError, match="Loss"):
        plane(loss.net, w)
    with pytest.raises(ValueError, match="directions"):
        plane(loss, w, "gradients")
    with pytest.raises(ValueError, match="parallel"):
        plane(loss, w, (w, 2 * w))
    with pytest.raises(ValueError, match="members"):
        plane(loss, w, (w, w[:2]))
    with pytest.raises(ValueError, match="or two tensors"):
        plane(loss, w, (w, w, w))
    with pytest.raises(ValueError, match="span"):
        plane(loss, w, span=0.0)
    with pytest.raises(ValueError, match="points"):
        plane(loss, w, points=1)
    with pytest.raises(ValueError, match="last axis"):
        filter_normalised(w[:, 1:], w, loss.net.layout)
