import math
from collections import Counter

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from flatlab import information as info
from flatlab.data import Dataset, Examples, twelve_bits
from flatlab.models import mlp
from flatlab.network import Network

SETTINGS = settings(max_examples=40, deadline=None)
KINDS = [
    {},
    {"bins": 3},
    {"bins": None},
    {"width": 0.07},
    {"range": "adaptive"},
]


def binary_entropy(p):
    return 0.0 if p in (0, 1) else -p * math.log2(p) - (1 - p) * math.log2(1 - p)


def counted(values):
    """Entropy of what occurs in a list, from a dictionary."""
    n = len(values)
    return -sum(c / n * math.log2(c / n) for c in Counter(values).values())


def slow(t, y, bin_of):
    """I(X;T) and I(T;Y), example by example."""
    seen = [tuple(bin_of(float(value)) for value in row) for row in t]
    labels = y.tolist()
    both = counted(list(zip(seen, labels, strict=True)))
    return counted(seen), counted(seen) + counted(labels) - both


def draw(seed, lead=(), n=60, units=3, classes=3):
    rng = np.random.default_rng(seed)
    t = torch.from_numpy(rng.uniform(-1, 1, (*lead, n, units)))
    return t, torch.from_numpy(rng.integers(classes, size=n))


# -- discrete distributions


@pytest.mark.parametrize("n", [1, 2, 3, 8])
def test_entropy_of_uniform_and_certain_outcomes(n):
    assert float(info.entropy(torch.full((n,), 1 / n))) == pytest.approx(math.log2(n))
    assert info.entropy(torch.eye(n)).tolist() == [0.0] * n


def test_mutual_information_of_a_noisy_channel_is_one_minus_its_noise():
    flips = [0, 0.11, 0.3, 0.5]
    joint = [[[(1 - p) / 2, p / 2], [p / 2, (1 - p) / 2]] for p in flips]
    expected = [1 - binary_entropy(p) for p in flips]
    assert info.mutual_information(joint).tolist() == pytest.approx(expected)


def test_rounding_of_float32_is_no_information():
    joint = torch.tensor([0.1, 0.2, 0.7])[:, None] * torch.tensor([0.3, 0.7])
    assert joint.dtype == torch.float32
    assert float(info.mutual_information(joint)) == pytest.approx(0, abs=1e-13)


@SETTINGS
@given(st.integers(0, 2**32), st.integers(1, 5), st.integers(1, 5))
def test_mutual_information_is_the_divergence_from_independence(seed, a, b):
    joint = np.random.default_rng(seed).gamma(0.3, size=(a, b)) + 1e-12
    joint /= joint.sum()
    product = joint.sum(1, keepdims=True) * joint.sum(0)
    expected = (joint * np.log2(joint / product)).sum()
    found = float(info.mutual_information(joint))
    assert found == pytest.approx(expected, abs=1e-12)
    assert 0 <= found <= float(info.entropy(joint.sum(1)))
    assert found <= float(info.entropy(joint.sum(0)))
    independent = float(info.mutual_information(product))
    assert independent == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize(
    ("call", "p"),
    [
        (info.entropy, [0.5, 0.6]),
        (info.entropy, [1.5, -0.5]),
        (info.entropy, [math.nan, 1]),
        (info.entropy, 1.0),
        (info.mutual_information, [0.5, 0.5]),
        (info.mutual_information, torch.zeros(2, 0)),
    ],
)
def test_what_is_no_distribution_is_refused(call, p):
    with pytest.raises(ValueError, match="probabilities must"):
        call(p)


# -- bins


def test_bijection_keeps_everything_and_a_constant_nothing():
    t = torch.linspace(-1, 1, 16)[:, None]
    y = torch.arange(16) % 4
    kept = info.binned_information(t, y, bins=16)
    assert (float(kept.xt), float(kept.ty)) == pytest.approx((4, 2))
    for options in KINDS:
        lost = info.binned_information(torch.zeros(16, 2), y, **options)
        assert (float(lost.xt), float(lost.ty)) == (0, 0)


def test_exclusive_or_is_known_from_both_bits_and_from_neither_alone():
    x = torch.tensor([[0, 0], [0, 1], [1, 0], [1, 1]]).float()
    y = torch.tensor([0, 1, 1, 0])
    layers = [x, x[:, :1], x[:, 1:], (x.sum(1, keepdim=True) == 1).float()]
    found = info.binned_information(layers, y)
    assert found.xt.tolist() == pytest.approx([2, 1, 1, 1])
    assert found.ty.tolist() == pytest.approx([1, 0, 0, 1])


@pytest.mark.parametrize("units", [1, 4, 40])
def test_every_kind_of_bin_agrees_with_a_dictionary(units):
    t, y = draw(units, n=300, units=units)
    t[150:] = t[:150] - 1e-9 * (torch.arange(150)[:, None] % 2)
    low, high = float(t.min()), float(t.max())
    equal = np.linspace(-1, 1, 31)[1:-1]
    own = np.linspace(low, high, 31)[1:-1]
    for options, bin_of in [
        ({}, lambda v: np.digitize(v, equal)),
        ({"bins": None}, lambda v: v),
        ({"width": 0.07}, lambda v: math.floor(v / 0.07)),
        ({"range": "adaptive"}, lambda v: np.digitize(v, own)),
    ]:
        found = info.binned_information(t, y, **options)
        expected = slow(t, y, bin_of)
        assert (float(found.xt), float(found.ty)) == pytest.approx(expected, abs=1e-10)


def released(t, y, edges):
    """I(X;T) and I(T;Y) by the steps of the authors' code, written anew.

    Activations become the lower edge of their bin, rows of them byte strings; then
    entropies given every single input and every label, weighted and taken away.
    """
    t, y = t.numpy(), y.numpy()
    cells = edges[np.digitize(t.reshape(-1), edges) - 1].reshape(t.shape)
    rows = [row.tobytes() for row in np.ascontiguousarray(cells)]

    def h(keep):
        counts = np.array([*Counter(r for r, k in zip(rows, keep, strict=True) if k)
                           .values()])  # fmt: skip
        p = counts / counts.sum()
        return -(p * np.log2(p)).sum()

    n = len(rows)
    given_x = sum(h(np.arange(n) == i) / n for i in range(n))
    given_y = sum(h(y == label) * (y == label).mean() for label in np.unique(y))
    total = h(np.ones(n, dtype=bool))
    return total - given_x, total - given_y


@pytest.mark.parametrize("units", [2, 5, 10])
def test_agrees_with_the_algorithm_of_the_released_code(units):
    data = twelve_bits(seed=0)
    x, y = data.train.x[:400], data.train.y[:400]
    weights = torch.randn(12, units, generator=torch.manual_seed(units))
    t = torch.tanh(x @ weights / 2)
    assert t.abs().max() < 1  # a value of exactly 1 has a bin of its own there
    found = info.binned_information(t, y, bins=29)
    expected = released(t.double(), y, np.linspace(-1, 1, 30))
    assert (float(found.xt), float(found.ty)) == pytest.approx(expected, abs=1e-10)


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
def test_values_without_bins_are_compared_as_numbers(dtype):
    # Minus zero is zero, and the smallest step of the dtype is a difference.
    one = torch.ones((), dtype=dtype)
    next_one = one + torch.finfo(dtype).eps
    t = torch.stack([one, next_one, one, -one * 0, one * 0])[:, None].expand(5, 3)
    y = torch.tensor([0, 1, 0, 2, 2])
    expected = counted([0, 1, 0, 2, 2])
    found = info.binned_information(t, y, bins=None)
    assert (float(found.xt), float(found.ty)) == pytest.approx((expected,) * 2)


@pytest.mark.parametrize("options", [{}, {"bins": None}, {"width": 1e-6}])
def test_codes_of_many_units_never_merge_what_differs(options):
    # Every row differs from every other in one unit of 200 alone.
    t = torch.zeros(200, 200, dtype=torch.float64)
    t.fill_diagonal_(0.5)
    found = info.binned_information(t, torch.arange(200), **options)
    assert (float(found.xt), float(found.ty)) == pytest.approx((math.log2(200),) * 2)


@pytest.mark.parametrize(("bins", "units"), [(13, 6), (2, 26), (2, 31), (2, 53)])
def test_labels_fit_beside_a_large_code(bins, units):
    # Examples that differ in the highest digits of the code alone, or in the lowest:
    # those are lost first where a number is too small for the code and the label.
    t = torch.zeros(4096, units)
    bits = 2 * (torch.arange(4096)[:, None] >> torch.arange(6) & 1) - 1
    t[:, :3], t[:, -3:] = bits[:, :3], bits[:, 3:]
    y = torch.arange(4096) * 7 - 5000
    found = info.binned_information(t, y, bins=bins)
    assert (float(found.xt), float(found.ty)) == pytest.approx((6, 6))


def test_upper_end_of_the_range_belongs_to_the_last_bin():
    t = torch.tensor([[-1.0], [0.99], [1.0]])
    found = info.binned_information(t, torch.arange(3))
    assert float(found.xt) == pytest.approx(binary_entropy(1 / 3))


@pytest.mark.parametrize("options", KINDS)
def test_members_snapshots_and_layers_are_measured_as_if_alone(options):
    layers = [draw(units, (2, 3), units=units)[0] for units in (1, 3, 20)]
    y = draw(9)[1]
    together = info.binned_information(layers, y, **options)
    assert together.xt.shape == together.ty.shape == (2, 3, 3)
    own = torch.stack([y, y.roll(1), y * 0])
    per_member = info.binned_information(layers, own, **options)
    for i in range(2):
        for j in range(3):
            for k, t in enumerate(layers):
                alone = info.binned_information(t[i, j], y, **options)
                assert alone.xt == together.xt[i, j, k]
                assert alone.ty == together.ty[i, j, k]
                alone = info.binned_information(t[i, j], own[j], **options)
                assert alone.ty == per_member.ty[i, j, k]


ESTIMATES = [
    *(lambda t, y, o=o: info.binned_information(t, y, **o) for o in KINDS),
    lambda t, y: info.kde_information(t, y, variance=0.1),
]


@pytest.mark.parametrize("estimate", ESTIMATES)
@SETTINGS
@given(st.integers(0, 2**32), st.integers(1, 30), st.integers(1, 12), st.integers(1, 5))
def test_estimates_stay_in_bounds_and_ignore_order_and_names(
    estimate, seed, n, units, classes
):
    t, y = draw(seed, n=n, units=units, classes=classes)
    if seed % 2:  # coinciding examples
        t = t[torch.arange(n) // 2]
    found = estimate(t, y)
    xt, ty = float(found.xt), float(found.ty)
    assert 0 <= xt <= math.log2(n)
    assert 0 <= ty <= min(xt, counted(y.tolist()) + 1e-12)
    examples = torch.from_numpy(np.random.default_rng(seed).permutation(n))
    order = torch.from_numpy(np.random.default_rng(seed).permutation(units))
    names = torch.tensor([30, -2, 5, 4, 11])
    again = estimate(t[examples][:, order], names[y[examples]])
    assert (float(again.xt), float(again.ty)) == pytest.approx((xt, ty), abs=1e-9)


@SETTINGS
@given(st.integers(0, 2**32), st.integers(1, 8))
def test_merging_bins_and_leaving_out_units_lose_information(seed, units):
    t, y = draw(seed, units=units)
    fine = info.binned_information(t, y, bins=12)
    for coarse in (
        info.binned_information(t, y, bins=4),
        info.binned_information(t[:, : max(units - 1, 1)], y, bins=12),
    ):
        assert coarse.xt <= fine.xt + 1e-12
        assert coarse.ty <= fine.ty + 1e-12


# -- kernel density estimates


def pairwise(t, y, variance):
    """The two sums over pairs, by loops in float64."""
    t, y = t.double().tolist(), y.tolist()
    n = len(t)

    def h(examples):
        total = 0
        for a in examples:
            kernels = [
                math.exp(-(math.dist(a, b) ** 2) / (2 * variance)) for b in examples
            ]
            total -= math.log2(sum(kernels) / len(examples)) / len(examples)
        return total

    given_y = 0
    for label in set(y):
        own = [row for row, value in zip(t, y, strict=True) if value == label]
        given_y += len(own) / n * h(own)
    return h(t), h(t) - given_y


@pytest.mark.parametrize(
    ("dtype", "error"), [(torch.float64, 1e-10), (torch.float32, 2e-5)]
)
def test_kde_agrees_with_a_double_loop(dtype, error, monkeypatch):
    monkeypatch.setattr(info, "_BLOCK", 17)  # 60 examples in four blocks
    t, y = draw(3)
    t[:, 0] += y  # labels that the layer tells apart
    t = t.to(dtype)
    for variance in (1e-3, 0.1, 3):
        found = info.kde_information(t, y, variance=variance)
        expected = pairwise(t, y, variance)
        assert (float(found.xt), float(found.ty)) == pytest.approx(expected, abs=error)
        assert expected[1] > 0


def test_kde_counts_distinct_points_without_noise_and_nothing_in_much():
    t, y = draw(5, (2,))
    quiet = info.kde_information(t, y, variance=1e-12)
    assert quiet.xt.tolist() == pytest.approx([math.log2(60)] * 2)
    assert quiet.ty.tolist() == pytest.approx([counted(y.tolist())] * 2)
    loud = info.kde_information(t, y, variance=1e9)
    assert (*loud.xt, *loud.ty) == pytest.approx([0] * 4, abs=1e-8)
    twice = info.kde_information(t[0, torch.arange(60) // 2], y, variance=1e-12)
    assert float(twice.xt) == pytest.approx(math.log2(30))


def test_kde_is_above_the_information_of_a_mixture_of_two_gaussians():
    centres = torch.tensor([[-1.0], [1.0]], dtype=torch.float64)
    for variance in (0.1, 0.5, 2):
        grid = np.linspace(-15, 15, 200001)
        density = sum(
            np.exp(-((grid - c) ** 2) / (2 * variance)) for c in (-1, 1)
        ) / math.sqrt(8 * math.pi * variance)
        of_mixture = -np.trapezoid(density * np.log2(np.maximum(density, 1e-300)), grid)
        truth = of_mixture - 0.5 * math.log2(2 * math.pi * math.e * variance)
        found = info.kde_information(centres, torch.arange(2), variance=variance)
        assert truth < float(found.xt) <= 1


# -- what is refused


@pytest.mark.parametrize(
    ("t", "y", "options", "error", "says"),
    [
        (torch.zeros(3, 2), torch.zeros(3), {}, TypeError, "integer labels"),
        (torch.zeros(3, 2).long(), [0, 1, 2], {}, TypeError, "floating-point"),
        (np.zeros((3, 2)), [0, 1, 2], {}, TypeError, "ndarray"),
        ([], [0, 1, 2], {}, TypeError, "list of tensors"),
        (torch.zeros(3, 2), [0, 1], {}, ValueError, r"\(3, 2\) and \(2,\)"),
        (torch.zeros(3), [0, 1, 2], {}, ValueError, r"\(3,\) and \(3,\)"),
        (torch.zeros(3, 0), [0, 1, 2], {}, ValueError, r"\(3, 0\)"),
        (
            torch.zeros(4, 3, 2),
            torch.zeros(2, 3).long(),
            {},
            ValueError,
            r"\(4, 3, 2\) and \(2, 3\)",
        ),
        (torch.full((3, 2), math.nan), [0, 1, 2], {}, ValueError, "NaN"),
        (torch.full((3, 2), math.inf), [0, 1, 2], {}, ValueError, "infinite"),
        (torch.zeros(3, 2), [0, 1, 2], {"bins": 0}, ValueError, "bins must"),
        (torch.zeros(3, 2), [0, 1, 2], {"bins": 2.5}, ValueError, "bins must"),
        (torch.zeros(3, 2), [0, 1, 2], {"width": 0}, ValueError, "width must"),
        (torch.rand(3, 2), [0, 1, 2], {"width": 1e-17}, ValueError, "too small"),
        (torch.zeros(3, 2), [0, 1, 2], {"range": (1, 1)}, ValueError, "low < high"),
        (torch.zeros(3, 2), [0, 1, 2], {"range": "own"}, ValueError, "'own'"),
    ],
)
def test_bad_activations_labels_and_bins_are_refused(t, y, options, error, says):
    with pytest.raises(error, match=says):
        info.binned_information(t, torch.as_tensor(y), **options)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"variance": 0}, "variance must"),
        ({"variance": math.inf}, "variance must"),
    ],
)
def test_bad_kernels_are_refused(options, says):
    with pytest.raises(ValueError, match=says):
        info.kde_information(torch.zeros(3, 2), torch.arange(3), **options)


# -- layers of networks


@pytest.mark.parametrize("activation", ["tanh", "relu", "linear"])
@pytest.mark.parametrize("bias", [True, False])
def test_layer_outputs_are_those_of_the_module(activation, bias):
    net = Network(mlp(12, 5, 4, 2, activation=activation, bias=bias, dropout=0.5))
    w = net.init([1, 2, 3], dtype=torch.float64)
    x = torch.randn(7, 3, 4, dtype=torch.float64)
    layers = info.layer_outputs(net, w, x)
    assert [t.shape for t in layers] == [(3, 7, 5), (3, 7, 4), (3, 7, 2)]
    function = {"tanh": torch.tanh, "relu": torch.relu, "linear": lambda h: h}
    for i in range(3):
        module = net.module(w[i]).eval()
        h = x.flatten(1)
        linear = [layer for layer in module if isinstance(layer, nn.Linear)]
        for t, layer in zip(layers[:-1], linear[:-1], strict=True):
            h = function[activation](layer(h))
            torch.testing.assert_close(t[i], h)
        torch.testing.assert_close(layers[-1][i], module(x).softmax(-1))
        for t, alone in zip(layers, info.layer_outputs(net, w[i], x), strict=True):
            torch.testing.assert_close(t[i], alone)


def test_layer_outputs_need_a_dense_stack():
    net = Network(nn.Sequential(nn.Conv1d(1, 2, 3), nn.Flatten(), nn.Linear(4, 2)))
    with pytest.raises(ValueError, match="dense stack"):
        info.layer_outputs(net, net.weights(), torch.zeros(5, 1, 4))


def test_information_plane_of_twelve_bits():
    data = twelve_bits()
    net = Network(mlp(12, 6, 4, 2, activation="tanh"))
    w = net.init(range(4), dtype=torch.float64).reshape(2, 2, -1)
    plane = info.information_plane(net, w, data)
    assert plane.xt.shape == plane.ty.shape == (2, 2, 3)
    parts = (data.train, data.validation, data.test)
    every = Examples(*(torch.cat([getattr(p, v) for p in parts]) for v in "xy"))
    for i in range(2):
        for j in range(2):
            layers = info.layer_outputs(net, w[i, j], every.x.double())
            alone = info.binned_information(layers, every.y)
            assert torch.equal(alone.xt, plane.xt[i, j])
            assert torch.equal(alone.ty, plane.ty[i, j])
    # Without bins a tanh layer that is injective keeps all: T then decides X and Y.
    wide = info.information_plane(net, w[0], every, bins=None, layers=[0])
    assert wide.xt.shape == (2, 1)
    assert wide.xt.flatten().tolist() == [12, 12]
    assert wide.ty.flatten().tolist() == pytest.approx(
        [binary_entropy(2118 / 4096)] * 2
    )


def test_information_plane_takes_other_estimates_and_labels_of_members():
    x = torch.randn(40, 3, generator=torch.manual_seed(1))
    y = torch.stack([torch.arange(40) % 2, torch.arange(40) // 20])
    learn = Examples(x, y, y[0])
    net = Network(mlp(3, 4, 2, activation="relu"))
    w = net.init([0, 1])
    layers = info.layer_outputs(net, w, x)
    expected = info.kde_information(layers, y, variance=0.01)
    for i in range(2):
        alone = info.kde_information([t[i] for t in layers], y[i], variance=0.01)
        torch.testing.assert_close(expected.ty[i], alone.ty)
    assert not torch.allclose(expected.ty[0], expected.ty[1])
    options = {"estimate": info.kde_information, "variance": 0.01}
    found = info.information_plane(net, w, learn, **options)
    assert torch.equal(found.xt, expected.xt) and torch.equal(found.ty, expected.ty)
    rest = Examples(x[:5], y[0, :5])
    found = info.information_plane(net, w, Dataset(learn, rest, rest, 2, ""), **options)
    assert found.xt.shape == (2, 2)


# -- the bottleneck


def test_bottleneck_of_a_noisy_channel_is_mrs_gerbers_curve():
    # T is X through a channel of noise a: I(X;T) = 1 - h(a), I(T;Y) = 1 - h(a * flip).
    flip = 0.1
    joint = [[(1 - flip) / 2, flip / 2], [flip / 2, (1 - flip) / 2]]
    critical = 1 / (1 - 2 * flip) ** 2
    betas = critical * np.array([0.5, 0.95, 1.1, 1.5, 3, 20, 200])
    curve = info.information_bottleneck(joint, betas)
    assert curve.converged.all()
    assert (*curve.xt[:2], *curve.ty[:2]) == pytest.approx([0] * 4, abs=1e-7)
    assert (curve.xt[2:] > 0.05).all()
    for xt, ty in zip(curve.xt.tolist(), curve.ty.tolist(), strict=True):
        low, high = 0.0, 0.5
        for _ in range(60):
            middle = (low + high) / 2
            low, high = (
                (middle, high) if 1 - binary_entropy(middle) > xt else (low, middle)
            )
        through = low * (1 - flip) + (1 - low) * flip
        assert ty == pytest.approx(1 - binary_entropy(through), abs=1e-9)
    assert float(curve.xt[-1]) == pytest.approx(1, abs=1e-6)
    assert float(curve.ty[-1]) == pytest.approx(1 - binary_entropy(flip), abs=1e-6)


@pytest.mark.parametrize("seed", range(4))
def test_bottleneck_curve_rises_is_concave_and_respects_data_processing(seed):
    joint = np.random.default_rng(seed).dirichlet(np.full(12, 0.4)).reshape(4, 3)
    betas = torch.tensor([200.0, 1, 2, 4, 8, 16, 50])
    curve = info.information_bottleneck(joint, betas, max_iterations=2000)
    assert torch.equal(curve.betas, betas.double())
    order = betas.argsort()
    xt, ty, beta = (v[order].double() for v in (curve.xt, curve.ty, betas))
    of_xy = float(info.mutual_information(joint))
    assert (ty <= xt + 1e-12).all() and (ty <= of_xy + 1e-12).all()
    assert float(xt[0]) == pytest.approx(0, abs=1e-6)
    # Where a beta is optimal the curve has slope 1 / beta: chords lie in between.
    gain, cost = ty.diff(), xt.diff()
    assert (gain - cost / beta[1:] >= -1e-8).all()
    assert (gain - cost / beta[:-1] <= 1e-8).all()
    # What is left to gain is worth less than what all of X costs.
    h_x = float(info.entropy(joint.sum(1)))
    assert of_xy - float(ty[-1]) <= h_x / 200
    encoders = curve.encoders
    assert encoders.shape == (7, 4, 4)
    torch.testing.assert_close(encoders.sum(-1), torch.ones(7, 4).double())
    p_xt = torch.from_numpy(joint.sum(1))[:, None] * encoders
    torch.testing.assert_close(info.mutual_information(p_xt), curve.xt)


def test_bottleneck_is_no_worse_than_a_search_over_all_encoders():
    joint = np.array([[0.3, 0.02], [0.1, 0.15], [0.03, 0.4]])
    betas = [1.5, 2.5, 6]
    curve = info.information_bottleneck(joint, betas, clusters=2)
    # All encoders into two clusters, on a grid.
    grid = np.stack(np.meshgrid(*[np.linspace(0, 1, 41)] * 3), -1).reshape(-1, 3)
    encoders = torch.from_numpy(np.stack([grid, 1 - grid], -1))
    p_xt = torch.from_numpy(joint.sum(1))[:, None] * encoders
    p_ty = encoders.mT @ torch.from_numpy(joint)
    xt, ty = info.mutual_information(p_xt), info.mutual_information(p_ty)
    for i, beta in enumerate(betas):
        best = float((xt - beta * ty).min())
        found = float(curve.xt[i] - beta * curve.ty[i])
        assert best - 0.01 < found <= best + 1e-9


def test_bottleneck_forgets_what_says_nothing_of_the_label():
    # Four inputs in two pairs: which of a pair says nothing of y.
    joint = np.repeat([[0.25, 0], [0, 0.25]], 2, axis=0)
    curve = info.information_bottleneck(joint, [5.0])
    assert (float(curve.xt), float(curve.ty)) == pytest.approx((1, 1), abs=1e-6)


@pytest.mark.parametrize(
    ("joint", "betas", "options", "says"),
    [
        ([[0.5, 0.5], [0, 0]], [1], {}, "impossible inputs"),
        ([[[0.5, 0.5]]], [1], {}, r"\(inputs, labels\)"),
        ([[0.5, 0.6]], [1], {}, "sum to one"),
        ([[0.5, 0.5]], [0.0], {}, "betas"),
        ([[0.5, 0.5]], [], {}, "betas"),
        ([[0.5, 0.5]], 2.0, {}, "betas"),
        ([[0.5, 0.5]], [1], {"clusters": 0}, "must be positive"),
    ],
)
def test_bad_bottlenecks_are_refused(joint, betas, options, says):
    with pytest.raises(ValueError, match=says):
        info.information_bottleneck(joint, betas, **options)
