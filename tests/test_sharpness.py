"""Sharpness against closed forms on quadratics, brute force and invariances."""

import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

from flatlab import models
from flatlab.loss import Loss
from flatlab.neighbourhoods import adaptive_ball, ball, keskar_box
from flatlab.network import Network
from flatlab.noise import pac_bayes_sharpness
from flatlab.sharpness import (
    average_sharpness,
    critical_sharpness,
    fisher_rao_norm,
    gradient_norm,
    keskar_sharpness,
    relative_flatness,
    worst_case_sharpness,
)
from tests.cases import Point


def quadratic(seed, *shapes, definite=False):
    """A loss ½ wᵀ H w + bᵀ w, with its H and b, and three members w."""
    g = torch.Generator().manual_seed(seed)
    net = Network(Point(*shapes))
    k = net.k
    H = torch.randn(k, k, generator=g, dtype=torch.float64)
    H = H @ H.T if definite else (H + H.T) / 2
    b = torch.randn(k, generator=g, dtype=torch.float64)

    def criterion(z, y):
        return 0.5 * ((z @ H) * z).sum(-1) + z @ b

    data = (torch.ones(2, 1), torch.zeros(2, dtype=torch.long))
    w = torch.randn(3, k, generator=g, dtype=torch.float64)
    return Loss(net, data, criterion), H, b, w


def trust_region(A, c, rho):
    """max ½ dᵀ A d + cᵀ d over ‖d‖₂ ≤ rho, from the optimality conditions."""
    values, vectors = torch.linalg.eigh(A)
    c = vectors.T @ c
    if values[-1] < 0 and (c / values).norm() <= rho:
        d = -c / values
    else:
        low = max(values[-1].item(), 0.0)
        high = low + c.norm().item() / rho + 1
        for _ in range(200):
            middle = (low + high) / 2
            if (c / (middle - values)).norm() > rho:
                low = middle
            else:
                high = middle
        d = c / (high - values)
    return (0.5 * (values * d * d).sum() + c @ d).item()


def box(A, c, rho):
    """The same over ‖d‖_inf ≤ rho: every face's stationary point is looked at."""
    k, best = len(c), 0.0
    for face in itertools.product((-1, 0, 1), repeat=k):
        face = torch.tensor(face)
        free, d = face == 0, face.double() * rho
        if free.any():
            rest = c[free] + A[free][:, ~free] @ d[~free]
            d[free] = torch.linalg.solve(A[free][:, free], -rest)
        if (d.abs() <= rho * (1 + 1e-12)).all():
            best = max(best, (0.5 * d @ A @ d + c @ d).item())
    return best


def scales(kind, w, eta=0.0, biases=True):
    """t(w) for one weight matrix (2, 2) and one bias (2,), written out by hand."""
    matrix, bias = w[:4].abs(), w[4:].abs()
    if kind == "filter":
        matrix = w[:4].view(2, 2).norm(dim=1).repeat_interleave(2)
    if kind == "layer":  # the module owns both, so that they are one layer
        matrix, bias = w.norm().expand(4), w.norm().expand(2)
    t = torch.cat([matrix, bias]) + eta
    return t if biases else torch.cat([t[:4], torch.ones(2)]).double()


NEIGHBOURHOODS = {
    "ball": (lambda: ball(0.7), torch.ones_like, 0.7, 2),
    "box": (lambda: ball(0.3, p=math.inf), torch.ones_like, 0.3, math.inf),
    "keskar": (lambda: keskar_box(0.2), lambda w: w.abs() + 1, 0.2, math.inf),
}
for by, (p, eta, biases) in itertools.product(
    ("weight", "filter", "layer"), ((2, 0.0, True), (math.inf, 0.1, False))
):
    NEIGHBOURHOODS[f"{by}-{p}-{eta}-{biases}"] = (
        lambda by=by, p=p, eta=eta, biases=biases: adaptive_ball(
            0.4, by=by, eta=eta, p=p, biases=biases
        ),
        lambda w, by=by, eta=eta, biases=biases: scales(by, w, eta, biases),
        0.4,
        p,
    )


@pytest.mark.parametrize("definite", [True, False])
@pytest.mark.parametrize("name", NEIGHBOURHOODS)
def test_worst_case_on_a_quadratic_is_the_closed_form(name, definite):
    make, scale, rho, p = NEIGHBOURHOODS[name]
    loss, H, b, w = quadratic(4, (2, 2), (2,), definite=definite)
    # an indefinite quadratic has many local maxima in a box, as many as corners
    restarts = 9 if p == 2 or definite else 40
    steps = 150 if p == 2 else 60
    found = worst_case_sharpness(loss, w, make(), steps=steps, restarts=restarts)
    solve = trust_region if p == 2 else box
    for i in range(len(w)):
        t = scale(w[i])
        expected = solve(t[:, None] * H * t, t * (H @ w[i] + b), rho)
        assert found.values[i].item() == pytest.approx(expected, rel=1e-5)
        # and it is attained, inside the set, by scales that the test knows itself
        epsilon = found.epsilon[i]
        size = torch.linalg.vector_norm(epsilon / t, ord=p)
        assert size <= rho * (1 + 1e-9)
        rise = loss(w[i] + epsilon) - loss(w[i])
        assert found.values[i].item() == pytest.approx(rise.item(), rel=1e-12)
    torch.testing.assert_close(found.loss, loss(w))


def two_layer_scalar():
    """½ (a b - 1)² on one example, the toy of a flat valley, with a third factor."""
    net = Network(
        nn.Sequential(nn.Linear(1, 1, bias=False), nn.Linear(1, 1, bias=False))
    )
    data = (torch.ones(1, 1), torch.zeros(1, dtype=torch.long))
    return Loss(net, data, "mse")


@pytest.mark.parametrize("p", [2, math.inf])
@pytest.mark.parametrize("by", [None, "weight"])
def test_worst_case_in_two_dimensions_is_that_of_brute_force(p, by):
    loss = two_layer_scalar()
    w = torch.tensor([[1.0, 1.0], [2.0, 0.5], [0.4, -1.3]], dtype=torch.float64)
    rho = 0.3
    neighbourhood = adaptive_ball(rho, by=by, p=p) if by else ball(rho, p=p)
    found = worst_case_sharpness(loss, w, neighbourhood, steps=60, restarts=9)
    angles = torch.linspace(0, 2 * math.pi, 8001, dtype=torch.float64)  # with corners
    edge = torch.stack([angles.cos(), angles.sin()], -1)
    edge = edge / torch.linalg.vector_norm(edge, ord=p, dim=-1, keepdim=True)
    d = rho * torch.linspace(0, 1, 41, dtype=torch.float64)[:, None, None] * edge
    for i in range(3):
        a, b = (w[i] + d * (w[i].abs() if by else 1)).unbind(-1)
        brute = (0.5 * (a * b - 1) ** 2).max() - loss(w[i])
        assert found.values[i] >= brute * (1 - 1e-12)
        assert found.values[i].item() == pytest.approx(brute.item(), rel=1e-4)


def problem(*widths, n=60, dtype=torch.float64, members=3, **options):
    g = torch.Generator().manual_seed(7)
    net = Network(models.mlp(*(widths or (5, 8, 6, 3)), **options))
    x = torch.randn(n, net.layout.shapes[0][1], generator=g)
    y = torch.randint(0, 3, (n,), generator=g)
    return Loss(net, (x, y)), net.init(range(members), dtype=dtype)


@given(
    seed=st.integers(0, 10**6),
    rho=st.floats(1e-4, 2.0),
    by=st.sampled_from([None, "keskar", "weight", "filter", "layer"]),
    p=st.sampled_from([2, math.inf]),
    dtype=st.sampled_from([torch.float32, torch.float64]),
)
@settings(max_examples=40, deadline=None)
def test_epsilon_is_in_the_set_and_attains_the_value(seed, rho, by, p, dtype):
    loss, w = problem(dtype=dtype)
    w = w * 10 ** ((seed % 7) / 2 - 1)
    neighbourhood = ball(rho, p=p)
    if by == "keskar":
        neighbourhood = keskar_box(rho)
    elif by:
        neighbourhood = adaptive_ball(rho, by=by, p=p)
    found = worst_case_sharpness(loss, w, neighbourhood, steps=4, restarts=2, seed=seed)
    size = neighbourhood.at(w, loss.net.layout).norm(found.epsilon)
    tiny = 20 * torch.finfo(dtype).eps
    assert (size <= rho * (1 + tiny)).all()
    base = loss(w)
    error = tiny * (base + found.values)
    assert ((loss(w + found.epsilon) - base - found.values).abs() <= error).all()
    assert (found.values >= 0).all()
    # no less than SAM's own point, which is one of the starts
    step = neighbourhood.at(w, loss.net.layout).steepest(loss.gradient(w))
    assert (found.values >= loss(w + step) - base - error).all()


@given(
    seed=st.integers(0, 10**6), rho=st.floats(0.05, 1.0), factor=st.floats(1.05, 10.0)
)
@settings(max_examples=8, deadline=None)
def test_a_larger_radius_never_gives_a_smaller_worst_case(seed, rho, factor):
    loss, _, _, w = quadratic(seed, (2, 2), (2,), definite=True)
    small, large = (
        worst_case_sharpness(loss, w, ball(r), steps=40).values
        for r in (rho, rho * factor)
    )
    # for a convex loss a factor on the radius is at least that factor on the rise
    assert (large >= factor * small * (1 - 1e-6)).all()


def test_at_a_maximum_nothing_rises():
    loss, H, b, _ = quadratic(2, (2, 2), (2,), definite=True)
    down = Loss(loss.net, (loss.x, loss.y), lambda z, y: -loss.criterion.function(z, y))
    w = torch.linalg.solve(H, -b)
    found = worst_case_sharpness(down, w, ball(0.1))
    assert found.values.item() == 0
    assert (found.epsilon == 0).all()


def test_at_a_minimum_the_worst_case_is_that_of_the_top_eigenvalue():
    loss, H, b, _ = quadratic(3, (2, 2), (2,), definite=True)
    w = torch.linalg.solve(H, -b)  # the gradient says nothing here
    found = worst_case_sharpness(loss, w, ball(0.2), steps=100)
    expected = 0.5 * 0.2**2 * torch.linalg.eigvalsh(H)[-1].item()
    assert found.values.item() == pytest.approx(expected, rel=1e-6)


def rescaled(loss, w, alpha):
    """The first layer times alpha and the last weights by it: the same function."""
    names, out = loss.net.layout.names, w.clone()
    for name, part in zip(names, loss.net.layout.slices, strict=True):
        if name.startswith(names[0].split(".")[0]):
            out[..., part] *= alpha
    last = [n.endswith("weight") for n in names].index(True, 1)
    out[..., loss.net.layout.slices[last]] /= alpha
    return out


@given(log_alpha=st.floats(-2, 2), by=st.sampled_from(["weight", "filter", "layer"]))
@settings(max_examples=15, deadline=None)
def test_adaptive_sharpness_and_fisher_rao_ignore_a_rescaling(log_alpha, by):
    # a layer that shares one scale has to be rescaled as a whole: no biases
    loss, w = problem(5, 8, 3, bias=by != "layer")
    moved = rescaled(loss, w, 10**log_alpha)
    torch.testing.assert_close(loss(moved), loss(w))
    for p in (2, math.inf):
        neighbourhood = adaptive_ball(0.1, by=by, p=p)
        before, after = (
            worst_case_sharpness(loss, v, neighbourhood, steps=6).values
            for v in (w, moved)
        )
        torch.testing.assert_close(after, before, rtol=1e-7, atol=1e-12)
    before, after = (
        average_sharpness(loss, v, adaptive_ball(0.3), samples=8) for v in (w, moved)
    )
    torch.testing.assert_close(after.values, before.values, rtol=1e-7, atol=1e-12)
    torch.testing.assert_close(
        fisher_rao_norm(loss, moved), fisher_rao_norm(loss, w), rtol=1e-9, atol=0
    )


def test_plain_sharpness_does_not_ignore_it():
    loss, w = problem(5, 8, 3)
    before, after = (
        worst_case_sharpness(loss, v, ball(0.05)).values
        for v in (w, rescaled(loss, w, 30.0))
    )
    assert (after > 2 * before).all()


@pytest.mark.parametrize("own", [False, True])
def test_members_are_measured_as_if_alone(own):
    loss, w = problem()
    y = torch.stack([loss.y, (loss.y + 1) % 3, (loss.y + 2) % 3]) if own else loss.y
    loss = Loss(loss.net, (loss.x, y))
    radii = torch.tensor([0.1, 0.3, 0.5])
    functions = [
        lambda f, v, r: worst_case_sharpness(f, v, ball(r), steps=5),
        lambda f, v, r: average_sharpness(f, v, adaptive_ball(r), samples=6),
        lambda f, v, r: keskar_sharpness(f, v, 1e-2, steps=5),
        lambda f, v, r: keskar_sharpness(f, v, 1e-2, subspace=7, steps=5),
        lambda f, v, r: pac_bayes_sharpness(f, v, measure="loss", samples=4),
    ]
    for function in functions:
        together = function(loss, w, radii)
        for i in range(3):
            one = Loss(loss.net, (loss.x, y[i])) if own else loss
            alone = function(one, w[i], radii[i].item())
            assert alone.values.ndim == 0
            torch.testing.assert_close(
                together.values[i], alone.values, rtol=1e-6, atol=1e-12
            )


def test_measuring_changes_nothing():
    loss, w = problem(dropout=0.2)
    module = loss.net._source
    before = {n: t.clone() for n, t in module.state_dict().items()}
    w.requires_grad_()
    state = torch.random.get_rng_state()
    found = worst_case_sharpness(loss, w, ball(0.1), steps=2)
    values = [
        found.values,
        found.epsilon,
        average_sharpness(loss, w, ball(0.1), samples=4).values,
        keskar_sharpness(loss, w, subspace=3, steps=2).values,
        gradient_norm(loss, w),
        fisher_rao_norm(loss, w),
        relative_flatness(loss, w),
        pac_bayes_sharpness(loss, w, samples=4).values,
    ]
    assert not any(v.requires_grad for v in values)
    assert w.grad is None and all(p.grad is None for p in module.parameters())
    assert module.training
    assert all(t.equal(before[n]) for n, t in module.state_dict().items())
    assert torch.random.get_rng_state().equal(state)


# ------------------------------------------------------------------------ average


@pytest.mark.parametrize("name", ["ball", "keskar", "weight-2-0.0-True"])
def test_average_on_a_quadratic_is_half_a_weighted_trace(name):
    make, scale, rho, p = NEIGHBOURHOODS[name]
    loss, H, _, w = quadratic(1, (2, 2), (2,), definite=True)
    sigma = rho / math.sqrt(3) if p == math.inf else rho / math.sqrt(6)
    found = average_sharpness(loss, w, make(), samples=4096)
    assert (found.standard_error <= 0.05 * found.values).all()
    torch.testing.assert_close(found.sigma, w.new_full((3,), sigma))
    for i in range(3):
        t = scale(w[i])
        expected = 0.5 * sigma**2 * (t * t * H.diag()).sum()
        assert abs(found.values[i] - expected) < 4 * found.standard_error[i]


def test_weights_that_cannot_move_do_not_count_in_the_radius():
    loss, _, _, w = quadratic(1, (2, 2), (2,), definite=True)
    w[0, :3] = 0
    found = average_sharpness(loss, w, adaptive_ball(0.4), samples=4)
    expected = 0.4 / torch.tensor([3.0, 6.0, 6.0]).double().sqrt()
    torch.testing.assert_close(found.sigma, expected)
    moved = worst_case_sharpness(loss, w, adaptive_ball(0.4), steps=5).epsilon
    assert (moved[0, :3] == 0).all() and (moved[0, 3:] != 0).any()


def test_standard_errors_are_those_of_repetition():
    loss, H, _, w = quadratic(1, (2, 2), (2,), definite=True)
    runs = [
        average_sharpness(loss, w[0], ball(0.5), samples=32, seed=s) for s in range(200)
    ]
    values = torch.stack([r.values for r in runs])
    stated = torch.stack([r.standard_error for r in runs]).square().mean().sqrt()
    assert stated.item() == pytest.approx(values.std().item(), rel=0.2)
    expected = 0.5 * 0.5**2 / 6 * H.trace()
    assert abs(values.mean() - expected) < 4 * values.std() / math.sqrt(200)


# ------------------------------------------------------------------------- Keskar


def test_keskar_divides_the_rise_by_one_plus_the_loss():
    loss, w = problem()
    found = keskar_sharpness(loss, w, 1e-2)
    rise = worst_case_sharpness(loss, w, keskar_box(1e-2)).values
    torch.testing.assert_close(found.values, 100 * rise / (1 + loss(w)))
    assert (found.epsilon.abs() <= 1e-2 * (w.abs() + 1) * (1 + 1e-12)).all()


def test_keskar_in_a_subspace_is_the_closed_form_of_a_linear_loss():
    loss, _, b, w = quadratic(5, (2, 2), (2,))
    linear = Loss(loss.net, (loss.x, loss.y), lambda z, y: 5 + z @ b)
    found = keskar_sharpness(linear, w, 1e-2, subspace=3, seed=9)
    # A is recovered from what is public: the span of the points found
    from flatlab.noise import Noise

    noise = Noise(w, 9)
    A = torch.stack([noise[i] for i in range(3)], -1)
    limits = 1e-2 * ((torch.linalg.pinv(A) @ w.T).T.abs() + 1)
    rise = (limits * (A.T @ b).abs()).sum(-1)
    torch.testing.assert_close(found.rise, rise)
    torch.testing.assert_close(found.values, 100 * rise / (1 + linear(w)))
    torch.testing.assert_close(linear(w + found.epsilon) - linear(w), rise)
    y = torch.linalg.lstsq(A, found.epsilon.T).solution
    torch.testing.assert_close(A @ y, found.epsilon.T)
    assert (y.T.abs() <= limits * (1 + 1e-9)).all()


# ---------------------------------------------------------------------- relatives


def test_gradient_norm_on_a_quadratic():
    loss, H, b, w = quadratic(0, (2, 2), (2,))
    torch.testing.assert_close(gradient_norm(loss, w), (w @ H + b).norm(dim=-1))
    torch.testing.assert_close(gradient_norm(loss, w[0]), (H @ w[0] + b).norm())


def test_fisher_rao_is_the_quadratic_form_of_per_example_gradients():
    loss, w = problem()
    for chunk in (None, 7):
        found = fisher_rao_norm(Loss(loss.net, (loss.x, loss.y), chunk=chunk), w)
        for i in range(3):
            each = [
                Loss(loss.net, (loss.x[j : j + 1], loss.y[j : j + 1])).gradient(w[i])
                for j in range(loss.n)
            ]
            expected = (torch.stack(each) @ w[i]).square().mean()
            torch.testing.assert_close(found[i], expected)


class Attentive(nn.Module):
    """Attention over three parts of the input, and a dense layer on their mean."""

    def __init__(self):
        super().__init__()
        layer = nn.TransformerEncoderLayer(2, 1, 3, 0.0, batch_first=True)
        self.encoder, self.head = layer, nn.Linear(2, 3)

    def forward(self, x):
        return self.head(self.encoder(x.view(-1, 3, 2)).mean(1))


def test_networks_with_attention_are_measured_too():
    torch.manual_seed(0)
    net = Network(Attentive().double())
    w = net.weights()
    x, y = torch.randn(7, 6, dtype=torch.float64), torch.arange(7) % 3
    loss = Loss(net, (x, y))
    each = torch.stack(
        [Loss(net, (x[i : i + 1], y[i : i + 1])).gradient(w) for i in range(7)]
    )
    torch.testing.assert_close(fisher_rao_norm(loss, w), (each @ w).square().mean())
    with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
        index = net.layout.names.index("head.weight")
        part, (d, m) = net.layout.slices[index], net.layout.shapes[index]
        H = dense_hessian(loss, w)[part, part].view(d, m, d, m)
    W = w[part].view(d, m)
    expected = sum(
        (W[s] @ W[r]) * H[s, :, r, :].trace() for s in range(d) for r in range(d)
    )
    torch.testing.assert_close(relative_flatness(loss, w, "head"), expected)


def test_fisher_rao_without_biases_is_the_closed_form_of_liang():
    loss, w = problem(5, 8, 6, 3, bias=False)
    logits = loss.logits(w)
    residual = logits.softmax(-1) - F.one_hot(loss.y, 3)
    expected = 9 * (residual * logits).sum(-1).square().mean(-1)
    torch.testing.assert_close(fisher_rao_norm(loss, w), expected)


def dense_hessian(loss, w):
    x, y, _ = next(iter(loss.chunks(w)))

    def f(v):
        return loss.value(loss.net.unflatten(v), x, y)

    return torch.autograd.functional.hessian(f, w)


@pytest.mark.parametrize("layer", [None, "1", "3", "5"])
@pytest.mark.parametrize("activation", ["relu", "tanh"])
def test_relative_flatness_is_petzkas_sum_over_a_dense_hessian(layer, activation):
    loss, w = problem(4, 5, 3, 3, activation=activation)
    loss = Loss(loss.net, (loss.x, loss.y), chunk=25)
    found = relative_flatness(loss, w, layer)
    name = f"{layer or 5}.weight"
    index = loss.net.layout.names.index(name)
    part, (d, m) = loss.net.layout.slices[index], loss.net.layout.shapes[index]
    for i in range(3):
        whole = Loss(loss.net, (loss.x, loss.y))
        H = dense_hessian(whole, w[i])[part, part].view(d, m, d, m)
        W = w[i, part].view(d, m)
        expected = sum(
            (W[s] @ W[r]) * H[s, :, r, :].trace() for s in range(d) for r in range(d)
        )
        torch.testing.assert_close(found[i], expected)


def test_relative_flatness_ignores_a_rescaling_of_layers():
    loss, w = problem(4, 5, 3)
    for layer in ("1", "3"):
        before, after = (
            relative_flatness(loss, v, layer) for v in (w, rescaled(loss, w, 7.0))
        )
        torch.testing.assert_close(after, before)


def test_relative_flatness_refuses_what_it_has_no_formula_for():
    loss, w = problem()
    with pytest.raises(ValueError, match=r"'1', '3', '5'"):
        relative_flatness(loss, w, "2")
    sequences = Loss(
        Network(nn.Sequential(nn.Linear(4, 3), nn.Flatten(), nn.Linear(6, 3))),
        (torch.randn(5, 2, 4), torch.zeros(5, dtype=torch.long)),
    )
    with pytest.raises(ValueError, match="one vector per example"):
        relative_flatness(sequences, sequences.net.weights(), "0")
    relative_flatness(sequences, sequences.net.weights(), "2")


def test_pac_bayes_on_a_quadratic_is_the_closed_form():
    loss, H, b, _ = quadratic(1, (2, 2), (2,), definite=True)
    w = torch.linalg.solve(H, -b)
    rise = 0.2
    found = pac_bayes_sharpness(
        loss, w, deviation=rise, measure="loss", samples=800, seed=3
    )
    expected = math.sqrt(2 * rise / H.trace().item())
    assert abs(found.sigma.item() - expected) < 4 * found.standard_error.item()
    assert found.standard_error.item() < 0.05 * expected
    assert found.values.item() == pytest.approx(found.sigma.item() ** -2)
    found = pac_bayes_sharpness(
        loss,
        w,
        deviation=rise,
        measure="loss",
        samples=800,
        magnitude_aware=True,
        floor=0.1,
    )
    rest = rise - 0.5 * 0.1**2 * H.trace().item()
    expected = math.sqrt(2 * rest / (w * w * H.diag()).sum().item())
    assert abs(found.sigma.item() - expected) < 4 * found.standard_error.item()


def test_pac_bayes_by_accuracy_keeps_the_deviation():
    loss, w = problem(5, 16, 3, n=200)
    y = loss.logits(w[0]).argmax(-1)  # a member that is right everywhere
    loss = Loss(loss.net, (loss.x, y))
    found = pac_bayes_sharpness(loss, w[0], deviation=0.1)
    assert 0 < found.rise.item() <= 0.1
    larger = pac_bayes_sharpness(loss, w[0], deviation=0.2)
    assert larger.sigma > found.sigma


def test_bad_input_says_what_is_expected():
    loss, w = problem()
    with pytest.raises(TypeError, match="Neighbourhood"):
        worst_case_sharpness(loss, w, 0.05)
    with pytest.raises(TypeError, match="Neighbourhood"):
        average_sharpness(loss, w, 0.05)
    with pytest.raises(TypeError, match="Loss"):
        worst_case_sharpness(loss.net, w, ball(0.05))
    with pytest.raises(ValueError, match="NaN"):
        worst_case_sharpness(loss, w / 0, ball(0.05))
    with pytest.raises(ValueError, match="steps"):
        worst_case_sharpness(loss, w, ball(0.05), steps=-1)
    for samples in (2, 7):
        with pytest.raises(ValueError, match="even number"):
            average_sharpness(loss, w, ball(0.05), samples=samples)
    with pytest.raises(ValueError, match="subspace"):
        keskar_sharpness(loss, w, subspace=10**6)
    with pytest.raises(ValueError, match="measure"):
        pac_bayes_sharpness(loss, w, measure="error")
    with pytest.raises(ValueError, match="positive"):
        pac_bayes_sharpness(loss, w, deviation=0.0)


# ------------------------------------------------------- where no number is right


class Two(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.t = torch.nn.Parameter(torch.tensor([0.5, 0.0]))

    def forward(self, x):
        return self.t.expand(len(x), 2) * 1.0


def at_a_point(criterion):
    return Loss(Network(Two()), (torch.zeros(4, 1), torch.zeros(4)), criterion)


@pytest.mark.parametrize("p", [2, math.inf])
def test_a_start_without_a_loss_does_not_hide_the_others(p):
    def criterion(z, y):  # no number beyond 0.6
        return z[:, 1] ** 2 + 0.2 * z[:, 0] + 0 * torch.sqrt(0.6 - z[:, 0])

    loss, w = at_a_point(criterion), torch.tensor([0.5, 0.0]).double()
    found = worst_case_sharpness(loss, w, ball(0.3, p))
    # the whole height is free: 0.09 and up to 0.02 from the first coordinate
    assert 0.08 < found.values.item() <= 0.11
    both = torch.stack([w + 0.2, w])  # the first has no loss itself
    again = worst_case_sharpness(loss, both, ball(0.3, p))
    assert again.values[0].isnan() and again.values[1] == found.values
    average = average_sharpness(loss, both - 0.3, ball(0.01, p)).values
    assert average.isfinite().all()
    assert average_sharpness(loss, both, ball(0.01, p)).values[0].isnan()


def test_a_network_without_a_gradient_is_not_flat():
    loss = at_a_point(lambda z, y: z[:, 0].detach() ** 2 + 0 * z[:, 1])
    with pytest.raises(ValueError, match="no gradient reaches"):
        worst_case_sharpness(loss, torch.tensor([0.5, 0.0]), ball(0.3))


def test_a_network_that_draws_is_refused():
    loss = at_a_point(lambda z, y: z[:, 0] ** 2 * (1 + torch.rand(())))
    w = torch.tensor([0.5, 0.1])
    for measure in (worst_case_sharpness, average_sharpness):
        with pytest.raises(ValueError, match="at random"):
            measure(loss, w, ball(1e-6))
    with pytest.raises(ValueError, match="at random"):
        pac_bayes_sharpness(loss, w, measure="loss")


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_halves_are_measured_on_the_surface_of_single_precision(dtype):
    loss, w = problem()
    half = w.to(dtype)
    for measure in (
        lambda v: worst_case_sharpness(loss, v, keskar_box(5e-4)).values,
        lambda v: average_sharpness(loss, v, ball(0.1)).values,
        lambda v: keskar_sharpness(loss, v).values,
        lambda v: pac_bayes_sharpness(loss, v, measure="loss", samples=4).sigma,
    ):
        torch.testing.assert_close(measure(half), measure(half.float()))


def test_rounding_of_the_loss_is_in_the_standard_error():
    loss, w = problem()
    single = average_sharpness(loss, w.float(), ball(1e-5))
    double = average_sharpness(loss, w.float().double(), ball(1e-5))
    off = (single.values - double.values).abs()
    assert (off <= 4 * single.standard_error).all()


def test_leading_axes_come_back():
    loss, w = problem()
    w = torch.stack([w, w + 0.1])
    found = worst_case_sharpness(loss, w, ball(0.1), steps=2)
    assert found.values.shape == w.shape[:2] and found.epsilon.shape == w.shape
    average = average_sharpness(loss, w, ball(torch.rand(w.shape[:2]) + 0.1), samples=4)
    assert average.values.shape == average.sigma.shape == w.shape[:2]


def test_critical_sharpness_of_a_quadratic_is_the_curvature_along_the_step():
    loss, H, _, w = quadratic(3, (3,), (2,), definite=True)
    g = loss.gradient(w)
    along = ((g @ H) * g).sum(-1)
    found = critical_sharpness(loss, w, tol=1e-8)
    torch.testing.assert_close(
        found.values, along / g.square().sum(-1), rtol=2e-8, atol=0
    )
    torch.testing.assert_close(found.rate, 2 / found.values)
    assert (found.values <= torch.linalg.eigvalsh(H)[-1]).all()
    # along any other step d the rate is 2 gᵀd / dᵀHd
    d = g + 0.1 * torch.randn(
        g.shape, generator=torch.Generator().manual_seed(0), dtype=g.dtype
    )
    rate = 2 * (g * d).sum(-1) / ((d @ H) * d).sum(-1)
    given_d = critical_sharpness(loss, w, d, tol=1e-8)
    torch.testing.assert_close(given_d.rate, rate, rtol=2e-8, atol=0)
    # a few forward passes, leading axes, and steps of any length
    coarse = critical_sharpness(loss, w.float()[:, None], 1e6 * g.float())
    assert coarse.values.shape == (3, 1) and coarse.evaluations < 40
    torch.testing.assert_close(
        coarse.values[:, 0] / 1e6, found.values, rtol=0.011, atol=0
    )


def test_critical_sharpness_where_no_step_is_critical():
    loss, H, b, w = quadratic(4, (3,), (2,), definite=True)
    lowest = torch.linalg.solve(H, -b)
    ahead = w[:1] - lowest
    away = torch.stack([-ahead[0], torch.zeros_like(ahead[0])])
    found = critical_sharpness(loss, w[:1].expand(2, -1), away)
    assert found.values[0] == math.inf and found.rate[0] == 0
    assert found.values[1].isnan()
    net = Network(Point((2,)))
    falls = Loss(net, (torch.ones(2, 1), torch.zeros(2)), lambda z, y: z.sum(-1))
    found = critical_sharpness(falls, torch.ones(2, dtype=torch.float64))
    assert found.values == 0 and found.rate == math.inf
    with pytest.raises(ValueError, match="direction has shape"):
        critical_sharpness(loss, w, w[:2])
    with pytest.raises(ValueError, match="tol"):
        critical_sharpness(loss, w, tol=1.0)


def test_relative_flatness_of_a_parametrized_layer_is_that_of_its_weight():
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(5, 4), nn.Tanh(), nn.Linear(4, 3)).double()
    data = torch.randn(9, 5, dtype=torch.float64), torch.arange(9) % 3
    plain = Loss(Network(module), data)
    expected = relative_flatness(plain, plain.net.weights())
    nn.utils.parametrizations.weight_norm(module[2])
    loss = Loss(Network(module), data)
    found = relative_flatness(loss, loss.net.weights(), "2")
    torch.testing.assert_close(found, expected)
