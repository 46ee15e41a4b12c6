import itertools
import math
from dataclasses import FrozenInstanceError

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import brentq, minimize
from sklearn.decomposition import PCA
from torch.nn import functional as F

from flatlab import attacks as a
from flatlab import loss, models
from flatlab.neighbourhoods import adaptive_ball, ball
from flatlab.network import Network

INF = math.inf


@pytest.fixture(scope="module")
def linear():
    """Two linear members of two classes: the loss depends on one direction only."""
    torch.manual_seed(0)
    net = Network(models.mlp(6, 2))
    w = net.init([0, 1], dtype=torch.float64)
    x = torch.randn(5, 6, dtype=torch.float64)
    y = torch.tensor([0, 1, 1, 0, 1])
    return net, w, x, y


@pytest.fixture(scope="module")
def curved():
    """Three tanh members of three classes, on images."""
    net = Network(models.mlp(12, 16, 3, activation="tanh"))
    w = 3 * net.init([0, 1, 2], dtype=torch.float64)
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(7, 1, 3, 4, dtype=torch.float64, generator=generator)
    y = torch.randint(3, (7,), generator=generator)
    return net, w, x, y


@pytest.fixture(scope="module")
def convolutional():
    net = Network(
        models.cnn((1, 6, 6), 4, channels=(3, 4), hidden=8, activation="gelu")
    )
    w = 3 * net.init([3, 4])
    generator = torch.Generator().manual_seed(1)
    x = torch.rand(9, 1, 6, 6, generator=generator)
    return net, w, x, torch.randint(4, (9,), generator=generator)


# -- closed forms


@pytest.mark.parametrize("p", [2, INF])
@pytest.mark.parametrize("targeted", [False, True])
def test_linear_members_are_attacked_along_the_difference_of_their_weights(
    linear, p, targeted
):
    net, w, x, y = linear
    found = a.pgd(net, w, x, y, ball(0.7, p), steps=5, targeted=targeted)
    for i in range(2):
        rows = net.unflatten(w[i])["1.weight"]
        bias = net.unflatten(w[i])["1.bias"]
        # towards the other class, or towards y
        away = rows[1 - y] - rows[y]
        push = -away if targeted else away
        best = push / push.norm(dim=1, keepdim=True) if p == 2 else push.sign()
        delta = found.x_adversarial[i] - x
        torch.testing.assert_close(delta, 0.7 * best)
        torch.testing.assert_close(found.norm[i], torch.full((5,), 0.7).double())
        # binary logistic loss log(1 + exp(margin)), the margin moved by r times the
        # dual norm of the difference
        dual = away.norm(dim=1) if p == 2 else away.abs().sum(1)
        margin = (x * away).sum(1) + bias[1 - y] - bias[y]
        margin = margin + (-0.7 if targeted else 0.7) * dual
        exact = torch.log1p(margin.exp())
        torch.testing.assert_close(found.loss[i], exact)
        assert torch.equal(found.success[i], margin < 0 if targeted else margin > 0)


def test_the_smallest_radius_that_succeeds_is_the_distance_from_the_boundary(linear):
    net, w, x, _ = linear
    w = w[0]
    y = net(w, x).argmax(1)
    away = net.unflatten(w)["1.weight"]
    logits = net(w, x)
    gap = (logits[range(5), y] - logits[range(5), 1 - y]).abs()
    distance = gap / (away[0] - away[1]).norm()
    for i in range(5):
        for factor, expected in ((0.99, False), (1.01, True)):
            radius = factor * float(distance[i])
            found = a.pgd(net, w, x[i : i + 1], y[i : i + 1], ball(radius), steps=3)
            assert bool(found.success) is expected


def test_a_box_clips_the_optimum_of_a_linear_member(linear):
    net, w, x, y = linear
    x = x.sigmoid()
    for i in range(2):
        rows = net.unflatten(w[i])["1.weight"]
        away = (rows[1 - y] - rows[y]).numpy()
        inf = a.pgd(net, w[i], x, y, ball(0.4, INF), steps=4, box=(0, 1))
        expected = (x + 0.4 * torch.from_numpy(away).sign()).clamp(0, 1)
        torch.testing.assert_close(inf.x_adversarial, expected)
        # l2: the optimum is clip(x + s away), with s where its norm is the radius
        two = a.pgd(net, w[i], x, y, ball(0.8), steps=200, step_size=0.2, box=(0, 1))
        for j in range(5):
            start, push = x[j].numpy(), away[j]

            def move(s, start=start, push=push):
                return np.clip(start + s * push, 0, 1) - start

            s = 1e6
            if np.linalg.norm(move(s)) > 0.8:
                s = brentq(lambda s: np.linalg.norm(move(s)) - 0.8, 0, 1e6)
            gained = (two.x_adversarial[j] - x[j]).numpy() @ push
            assert gained == pytest.approx(move(s) @ push, rel=1e-6)


# -- the projection


def inputs(x, radius, p=2, box=(0.0, 1.0), t=None):
    """The set around inputs x in a box."""
    t = torch.ones_like(x) if t is None else t
    return a._Inputs(t, torch.tensor(radius, dtype=x.dtype), p, x, box)


coordinates = st.floats(-3, 3).map(lambda v: round(v, 3))


@settings(max_examples=200, deadline=None)
@given(
    st.lists(
        st.tuples(coordinates, st.floats(0, 1), st.sampled_from([0.0, 0.3, 1.0, 2.0])),
        min_size=1,
        max_size=6,
    ),
    st.floats(0.01, 4),
    st.sampled_from([2, INF]),
    st.booleans(),
)
def test_projection_is_the_nearest_point_of_set_and_box(entries, radius, p, scaled):
    delta, x, t = (
        torch.tensor(v, dtype=torch.float64) for v in zip(*entries, strict=True)
    )
    t = t if scaled else torch.ones_like(t)
    around = inputs(x, radius, p, t=t)
    made = around.project(delta)
    assert around.norm(made) <= radius * (1 + 1e-12)
    assert ((x + made >= -1e-15) & (x + made <= 1 + 1e-15)).all()
    # the variational inequality: no feasible point lies further along delta - made
    generator = torch.Generator().manual_seed(0)
    other = torch.rand(200, len(x), dtype=torch.float64, generator=generator) - x
    other = torch.where(t > 0, other, 0)
    other = other * (radius / around.norm(other).clamp_min(radius))[:, None]
    left = torch.where(t > 0, (delta - made) / t.square(), 0)
    assert ((other - made) @ left).max() < 1e-9
    torch.testing.assert_close(around.project(made), made)


def test_projection_agrees_with_a_general_solver():
    rng = np.random.default_rng(0)
    for _ in range(8):
        x, delta = rng.random(5), rng.normal(size=5)
        radius = 0.3 + 0.5 * rng.random()
        solved = minimize(
            lambda e, delta=delta: ((e - delta) ** 2).sum(),
            np.zeros(5),
            jac=lambda e, delta=delta: 2 * (e - delta),
            bounds=list(zip(-x, 1 - x, strict=True)),
            constraints={"type": "ineq", "fun": lambda e, r=radius: r**2 - e @ e},
            method="SLSQP",
            options={"ftol": 1e-14, "maxiter": 200},
        )
        made = inputs(torch.tensor(x), radius).project(torch.from_numpy(delta))
        np.testing.assert_allclose(made.numpy(), solved.x, atol=2e-6)


# -- inside, always


@settings(max_examples=25, deadline=None)
@given(
    radius=st.floats(0.01, 3),
    p=st.sampled_from([2, INF]),
    steps=st.integers(1, 6),
    step_size=st.sampled_from([None, 0.05, 10.0]),
    targeted=st.booleans(),
    boxed=st.booleans(),
    double=st.booleans(),
    seed=st.integers(0, 100),
)
def test_attacks_stay_in_the_ball_and_the_box_and_never_do_harm(
    curved, radius, p, boxed, double, **options
):
    net, w, x, y = curved
    rounding = 1e-12 if double else 1e-5
    if not double:
        w, x = w.float(), x.float()
    targeted = options["targeted"]
    box = (0, 1) if boxed else None
    found = a.pgd(net, w, x, y, ball(radius, p), box=box, restarts=1, **options)
    delta = (found.x_adversarial - x).flatten(2)
    norm = torch.linalg.vector_norm(delta, p, dim=-1)
    torch.testing.assert_close(found.norm, norm)
    assert (norm <= radius + rounding).all()
    if boxed:
        assert found.x_adversarial.min() >= 0 and found.x_adversarial.max() <= 1
    for i in range(3):
        clean = net(w[i], x)
        before = F.cross_entropy(clean, y, reduction="none")
        hit = clean.argmax(1) == y
        succeeded = hit if targeted else ~hit
        assert (found.success[i] >= succeeded).all()
        gain = (found.loss[i] - before) * (-1 if targeted else 1)
        same = found.success[i] == succeeded
        assert (gain[same] >= -rounding * (1 + before[same])).all()
        # what is reported is what the network says about the reported inputs
        logits = net(w[i], found.x_adversarial[i])
        after = F.cross_entropy(logits, y, reduction="none")
        torch.testing.assert_close(found.loss[i], after, atol=1e-4, rtol=1e-3)
        if double:
            right = logits.argmax(1) == y
            assert torch.equal(found.success[i], right if targeted else ~right)


@pytest.mark.parametrize("p", [2, INF])
def test_the_box_holds_to_the_last_bit(convolutional, p):
    net, w, x, y = convolutional
    x = (x - 0.13) / 0.37
    box = (float(x.min()), float(x.max()))
    found = a.pgd(net, w, x, y, ball(10.0, p), steps=5, box=box)
    assert found.x_adversarial.min() == box[0]
    assert found.x_adversarial.max() == box[1]


def test_pixels_move_in_proportion_to_their_size(linear):
    net, w, x, _ = linear
    y = net(w[0], x).argmax(1)
    x = x.clone()
    x[:, 0] = 0
    found = a.pgd(net, w[0], x, y, adaptive_ball(0.1, p=INF), steps=4)
    rows = net.unflatten(w[0])["1.weight"]
    push = (rows[1 - y] - rows[y]).sign()
    torch.testing.assert_close(found.x_adversarial - x, 0.1 * x.abs() * push)
    torch.testing.assert_close(found.norm, torch.full((5,), 0.1).double())


@pytest.mark.parametrize("p", [2, INF])
@pytest.mark.parametrize("name", ["curved", "convolutional"])
def test_an_attack_beats_random_noise_of_the_same_norm(request, name, p):
    net, w, x, y = request.getfixturevalue(name)
    radius = 0.5 if p == 2 else 0.1
    found = a.pgd(net, w, x, y, ball(radius, p), steps=20)
    generator = torch.Generator().manual_seed(2)
    worst = torch.full(found.loss.shape, -INF, dtype=x.dtype)
    for _ in range(20):
        noise = torch.randn(x.shape, generator=generator, dtype=x.dtype)
        flat = noise.flatten(1) if p == 2 else noise.flatten(1).sign()
        flat = flat / torch.linalg.vector_norm(flat, p, dim=1, keepdim=True)
        moved = x + radius * flat.view_as(x)
        for i in range(len(w)):
            loss = F.cross_entropy(net(w[i], moved), y, reduction="none")
            worst[i] = torch.maximum(worst[i], loss)
    assert (found.loss > worst).all()


def test_the_norm_of_a_strong_attack_is_the_radius(curved):
    net, w, x, y = curved
    found = a.pgd(net, w, x, y, ball(0.3), steps=10)
    torch.testing.assert_close(found.norm, torch.full((3, 7), 0.3).double())


@pytest.mark.parametrize("targeted", [False, True])
def test_more_restarts_never_find_less(curved, targeted):
    net, w, x, y = curved
    sign = -1 if targeted else 1
    options = {"steps": 2, "targeted": targeted}
    runs = [a.pgd(net, w, x, y, ball(0.8), restarts=r, **options) for r in (0, 1, 4)]
    for few, many in itertools.pairwise(runs):
        assert (many.success >= few.success).all()
        same = many.success == few.success
        assert (sign * many.loss >= sign * few.loss)[same].all()
    assert (runs[2].loss != runs[0].loss).any()


def test_a_search_begins_at_the_clean_input_and_restarts_elsewhere(curved):
    net, w, x, y = curved

    def search(**options):
        return a.pgd(net, w, x, y, ball(0.8), steps=1, **options)

    assert torch.equal(search(seed=0).x_adversarial, search(seed=1).x_adversarial)
    again, same, other = (search(seed=s, restarts=3) for s in (0, 0, 1))
    assert torch.equal(again.x_adversarial, same.x_adversarial)
    assert not torch.equal(again.x_adversarial, other.x_adversarial)


def test_a_point_that_succeeds_goes_before_one_of_higher_loss():
    old = (torch.zeros(1, 2, 1), torch.tensor([[False, True]]), torch.ones(1, 2))
    new = (torch.ones(1, 2, 1), ~old[1], torch.tensor([[0.5, 2.0]]))
    points, success, value = a._better(old, new)
    assert points.flatten().tolist() == [1, 0]
    assert success.tolist() == [[True, True]] and value.tolist() == [[0.5, 1.0]]


# -- members


@pytest.mark.parametrize("p", [2, INF])
@pytest.mark.parametrize("name", ["curved", "convolutional"])
def test_members_are_attacked_as_if_alone(request, name, p):
    net, w, x, y = request.getfixturevalue(name)
    w, x = w.double(), x.double()
    targets = torch.stack([(y + i) % 3 for i in range(len(w))])
    radius = torch.linspace(0.2, 0.6, len(w), dtype=torch.float64)
    options = {"steps": 4, "restarts": 1, "box": (0, 1), "targeted": True}
    both = a.pgd(net, w, x, targets, ball(radius, p), **options)
    for i in range(len(w)):
        alone = a.pgd(net, w[i], x, targets[i], ball(float(radius[i]), p), **options)
        assert alone.x_adversarial.shape == x.shape
        for field in ("x_adversarial", "success", "loss", "norm"):
            torch.testing.assert_close(getattr(both, field)[i], getattr(alone, field))


def test_chunks_of_examples_change_nothing(curved, monkeypatch):
    net, w, x, y = curved
    whole = a.pgd(net, w, x, y, ball(0.4), steps=3, restarts=2)
    # two of seven examples at a time
    monkeypatch.setattr(loss, "CHUNK_ELEMENTS", 2 * 3 * 200)
    parts = a.pgd(net, w, x, y, ball(0.4), steps=3, restarts=2)
    torch.testing.assert_close(parts.x_adversarial, whole.x_adversarial)
    torch.testing.assert_close(parts.loss, whole.loss)


def test_nothing_of_the_callers_is_touched(convolutional):
    _, _, x, y = convolutional
    module = models.cnn((1, 6, 6), 4, channels=(3, 4), hidden=8).train()
    own = Network(module)
    before = {n: t.clone() for n, t in module.state_dict().items()}
    w, x = own.weights().requires_grad_(), x.clone().requires_grad_()
    kept, state = x.detach().clone(), torch.get_rng_state()
    found = a.pgd(own, w, x, y, ball(0.5), restarts=1, steps=2)
    assert torch.equal(torch.get_rng_state(), state)
    assert module.training and torch.equal(x, kept)
    assert x.grad is None and w.grad is None
    assert all(parameter.grad is None for parameter in module.parameters())
    assert all(torch.equal(t, before[n]) for n, t in module.state_dict().items())
    assert not any(t.requires_grad for t in (found.x_adversarial, found.loss))
    with pytest.raises(FrozenInstanceError):
        found.loss = None


# -- errors


@pytest.mark.parametrize(
    ("change", "error", "says"),
    [
        ({"neighbourhood": 0.1}, TypeError, "expected a Neighbourhood, got float"),
        ({"neighbourhood": ball(torch.ones(4))}, ValueError, "radius is for 4 members"),
        ({"neighbourhood": adaptive_ball(1, by="filter")}, ValueError, "layout"),
        ({"step_size": 0.0}, ValueError, "step_size must be positive"),
        ({"steps": 0}, ValueError, "steps"),
        ({"restarts": -1}, ValueError, "restarts"),
        ({"y": torch.zeros(6).long()}, ValueError, r"\(6,\)"),
        ({"y": torch.zeros(2, 7).long()}, ValueError, "2 members"),
        ({"y": torch.zeros(7)}, ValueError, "float32"),
        ({"y": torch.full((7,), 3)}, ValueError, "3 outputs"),
        ({"y": torch.full((7,), -1)}, ValueError, "-1"),
        (
            {"y": torch.tensor([0, 1, 2, 0, 1, 2, -100])},
            ValueError,
            "none of them -100",
        ),
        ({"x": torch.zeros(7, 5)}, ValueError, r"\(n, 5\).*and 12x"),
        ({"x": torch.full((7, 1, 3, 4), torch.nan)}, ValueError, "NaN"),
        ({"box": (0.5, 1)}, ValueError, "outside the box from 0.5 to 1"),
        ({"box": (0, 0.5)}, ValueError, "outside the box"),
        ({"box": (1, 0)}, ValueError, "lo < hi"),
        ({"w": torch.zeros(4)}, ValueError, "another network"),
        ({"w": torch.full((3, 259), torch.nan)}, ValueError, "NaN or infinite"),
    ],
)
def test_bad_attacks_are_refused(curved, change, error, says):
    net, w, x, y = curved
    options = {"w": w, "x": x, "y": y, "neighbourhood": ball(1.0), **change}
    with pytest.raises(error, match=says):
        a.pgd(net, **options)


# -- manifolds


@pytest.fixture(scope="module")
def cloud():
    """Two classes, each near a plane of its own in 12 dimensions."""
    rng = np.random.default_rng(0)
    x, y = [], []
    for label in range(2):
        plane = rng.normal(size=(3, 12)) * np.array([[3.0], [1.5], [0.1]])
        x.append(rng.normal(size=(40, 3)) @ plane + 4 * rng.normal(size=12))
        y += [label] * 40
    x = torch.from_numpy(np.concatenate(x)).view(80, 1, 3, 4)
    return x, torch.tensor(y)


def test_the_manifold_is_that_of_another_library(cloud):
    x, _ = cloud
    flat = x.flatten(1).numpy()
    ours, theirs = a.pca_manifold(x, 3), PCA(3, svd_solver="full").fit(flat)
    projected = theirs.inverse_transform(theirs.transform(flat))
    np.testing.assert_allclose(ours.project(x).flatten(1).numpy(), projected)
    gap = np.linalg.norm(flat - projected, axis=1)
    np.testing.assert_allclose(ours.distance(x).numpy(), gap, atol=1e-10)
    z = ours.encode(x)
    assert z.shape == (80, 3)
    np.testing.assert_allclose(z.mean(0), np.zeros(3), atol=1e-10)
    np.testing.assert_allclose(np.cov(z.T.numpy(), bias=True), np.eye(3), atol=1e-10)
    variance = theirs.explained_variance_ * 79 / 80
    np.testing.assert_allclose(ours.scale[0].numpy() ** 2, variance)


def test_each_class_has_its_manifold(cloud):
    x, y = cloud
    both = a.pca_manifold(x.float(), 2, y)
    z = both.encode(x, y)
    assert both.decode(z, y).shape == x.shape
    for label in range(2):
        alone = a.pca_manifold(x[y == label].float(), 2)
        torch.testing.assert_close(z[y == label], alone.encode(x[y == label]))
        swapped = both.distance(x, 1 - y)[y == label]
        assert (both.distance(x, y)[y == label] < swapped).all()
    # a point of the manifold is found again, members or not, in either dtype
    for lead, dtype in (((80, 2), torch.float64), ((3, 80, 2), torch.float32)):
        point = torch.randn(lead, dtype=dtype, generator=torch.Generator())
        decoded = both.decode(point, y)
        assert decoded.dtype == dtype and decoded.shape[-3:] == (1, 3, 4)
        torch.testing.assert_close(both.encode(decoded, y), point, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("p", [2, INF])
def test_an_attack_on_the_manifold_stays_in_its_span(cloud, curved, p):
    net, w, _, _ = curved
    x, y = cloud
    x, y = x[::8], y[::8]
    manifold = a.pca_manifold(cloud[0], 2, cloud[1])
    z = manifold.encode(x, y)

    def decode(z):
        return manifold.decode(z, y)

    found = a.pgd(net, w, z, y, ball(0.5, p), decode=decode, steps=8, restarts=1)
    assert found.x_adversarial.shape == (3, *x.shape)
    assert manifold.distance(found.x_adversarial, y).max() < 1e-10
    torch.testing.assert_close(found.x_adversarial, decode(found.latent))
    norm = torch.linalg.vector_norm(found.latent - z, p, dim=-1)
    torch.testing.assert_close(found.norm, norm)
    assert norm.max() <= 0.5 * (1 + 1e-12)
    # what pixels allow at the same distance is at least as bad, and leaves the span
    moved = (found.x_adversarial - decode(z)).flatten(2).norm(dim=-1)
    off = a.pgd(net, w, decode(z), y, ball(float(moved.max())), steps=40, restarts=2)
    assert off.loss.mean() > found.loss.mean()
    assert manifold.distance(off.x_adversarial, y).mean() > 0.1
    # alone and together
    alone = a.pgd(net, w[1], z, y, ball(0.5, p), decode=decode, steps=8)
    first = a.pgd(net, w, z, y, ball(0.5, p), decode=decode, steps=8)
    torch.testing.assert_close(alone.latent, first.latent[1])


def test_an_attack_through_the_identity_is_an_attack_on_inputs(curved):
    net, w, x, y = curved
    plain = a.pgd(net, w, x, y, ball(0.5), steps=5, restarts=1)
    same = a.pgd(net, w, x, y, ball(0.5), decode=lambda z: z, steps=5, restarts=1)
    assert torch.equal(same.x_adversarial, plain.x_adversarial)
    assert plain.latent is None


def test_a_linear_network_on_a_plane_has_a_closed_form(linear, cloud):
    net, w, _, _ = linear
    x, y = cloud[0].flatten(1)[::16, :6], cloud[1][::16]
    manifold = a.pca_manifold(cloud[0].flatten(1)[:, :6], 2)
    z = manifold.encode(x)
    found = a.pgd(net, w[0], z, y, ball(0.6), decode=manifold.decode, steps=4)
    rows = net.unflatten(w[0])["1.weight"]
    push = (rows[1 - y] - rows[y]) @ manifold.components[0].T * manifold.scale[0]
    expected = z + 0.6 * push / push.norm(dim=1, keepdim=True)
    torch.testing.assert_close(found.latent, expected)


def test_bad_manifolds_are_refused(cloud, curved):
    x, y = cloud
    with pytest.raises(ValueError, match=r"1\.\.7.*the inputs span"):
        a.pca_manifold(x, 8)
    with pytest.raises(ValueError, match=r"1\.\.3.*class 0 span"):
        a.pca_manifold(x, 4, y)
    with pytest.raises(ValueError, match=r"1\.\.0.*class 1 span"):
        a.pca_manifold(x, 1, 2 * y)
    with pytest.raises(ValueError, match="k must lie"):
        a.pca_manifold(x, 0)
    with pytest.raises(ValueError, match=r"\(79,\)"):
        a.pca_manifold(x, 1, y[1:])
    with pytest.raises(ValueError, match="int64"):
        a.pca_manifold(x, 1, y.float())
    one, each = a.pca_manifold(x, 2), a.pca_manifold(x, 2, y)
    with pytest.raises(ValueError, match="needs classes"):
        each.encode(x)
    with pytest.raises(ValueError, match="takes no classes"):
        one.decode(torch.zeros(80, 2), y)
    with pytest.raises(ValueError, match=r"\(1, 3, 4\)"):
        one.encode(x.flatten(1))
    with pytest.raises(ValueError, match=r"\(80, 3\).*, 2\)"):
        one.decode(torch.zeros(80, 3))
    net, w, _, _ = curved
    z = one.encode(x)
    with pytest.raises(ValueError, match="7 inputs but labels"):
        a.pgd(net, w, z, y, ball(0.5), decode=lambda z: one.decode(z)[:, :7])


def test_examples_that_see_each_other_are_not_attacked():
    layers = torch.nn.Linear(2, 4), torch.nn.BatchNorm1d(4, track_running_stats=False)
    net = Network(torch.nn.Sequential(*layers, torch.nn.Linear(4, 3)))
    x, y = torch.randn(6, 2), torch.arange(6) % 3
    with pytest.raises(ValueError, match="depend on the others beside it"):
        a.pgd(net, net.weights(), x, y, ball(0.1))
