"""Hessian: products, diagonal and trace against dense float64 Hessians."""

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from flatlab import models
from flatlab.data import Examples
from flatlab.hessian import Hessian
from flatlab.loss import Loss
from flatlab.network import Network
from flatlab.spectra import eigenvalues
from tests.cases import (
    CASES,
    CLASSES,
    IMAGE,
    Forward,
    close,
    dense,
    draws,
    labels,
    margin,
    problem,
    tokens,
)


@pytest.fixture(autouse=True)
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.mark.parametrize("name", sorted(CASES))
@pytest.mark.parametrize("criterion", ["cross_entropy", "mse"])
def test_products_are_those_of_the_dense_hessian(name, criterion):
    # with statistics of the batch, a loss is no mean over chunks
    chunk = 3 if criterion == "cross_entropy" and name != "examples-mixed" else None
    loss, w = problem(name, criterion, chunk)
    expected = dense(loss, w)
    H = Hessian(loss, w)
    matrix = H @ torch.eye(loss.net.k, dtype=torch.float64)
    close(matrix, expected)
    close(matrix.mT, expected)
    assert H.products == loss.net.k


@pytest.mark.parametrize("retain", [None, True, False])
@pytest.mark.parametrize("chunk", [None, 3, 1])
def test_chunks_and_retained_graphs_change_nothing(retain, chunk):
    loss, w = problem("cnn", margin, chunk)
    H = Hessian(loss, w, retain=retain)
    expected = dense(loss, w)
    V = draws(2, n=loss.net.k)
    for _ in range(2):
        close(H @ V, expected @ V)
        close(H @ V[:, 0], expected @ V[:, 0])


def test_parts_that_stay_in_the_cache_change_nothing(monkeypatch):
    monkeypatch.setattr("flatlab.hessian.CACHED", 1)
    net = Network(models.mlp(4, 8, CLASSES, activation="tanh").double())
    x, y = draws(4, n=200), torch.arange(200) % CLASSES
    y[50:120] = -100  # some parts have few labels that count
    loss, w = Loss(net, (x, y)), net.weights()
    H, V = Hessian(loss, w), draws(2, n=net.k)
    close(H @ V, dense(loss, w) @ V)
    assert len(H._pieces) > 10
    # statistics of the batch are those of all examples, which stay together
    loss, w = problem("examples-mixed", "mse", None)
    H = Hessian(loss, w)
    close(H @ torch.eye(loss.net.k, dtype=torch.float64), dense(loss, w))


def test_graphs_are_kept_where_they_fit():
    calls = []

    def criterion(z, y):
        calls.append(len(y))
        return F.cross_entropy(z, y)

    loss, w = problem("mlp", criterion, chunk=3)
    for retain, again in ((True, 0), (None, 0), (False, 3)):
        H = Hessian(loss, w, retain=retain)
        H @ w
        calls.clear()
        H @ w
        assert len(calls) == again


@pytest.mark.parametrize("name", ["mlp", "cnn", "tanh", "resnet", "transformer"])
def test_members_have_the_hessians_they_have_alone(name):
    loss, w = problem(name, chunk=4)
    g = torch.Generator().manual_seed(5)
    w = w + 0.1 * torch.randn(3, loss.net.k, generator=g, dtype=w.dtype)
    H = Hessian(loss, w)
    V = torch.randn(3, loss.net.k, 2, generator=g, dtype=w.dtype)
    V[1] = 0  # as from a solver that has finished with a member
    V[2, :, 1] = 0
    together = H @ V
    for i in range(3):
        alone = Hessian(loss, w[i])
        close(together[i, :, 0], alone @ V[i, :, 0])
        close(together[i], alone @ V[i])
    assert (together[1] == 0).all()
    assert H.products == 2


@pytest.mark.parametrize("name", ["mlp", "cnn"])
def test_labels_may_differ_between_members(name):
    loss, w = problem(name)
    w = torch.stack([w, 1.5 * w])
    y = torch.stack([labels(), (labels() + 1) % CLASSES])
    H = Hessian(Loss(loss.net, (loss.x, y), chunk=4), w)
    matrix = H @ torch.eye(loss.net.k, dtype=torch.float64)
    for i in range(2):
        expected = dense(Loss(loss.net, (loss.x, y[i])), w[i])
        close(matrix[i], expected)
        close(H.exact_diagonal()[i], expected.diagonal())


@pytest.mark.parametrize(
    ("members", "shape"),
    [
        (0, ()),
        (0, (2,)),
        (0, (4, 2)),
        (0, (4, 3, 2)),
        (3, ()),
        (3, (2,)),
        (3, (3, 2)),
        (3, (1, 2)),
        (3, (4, 3, 2)),
        (3, (4, 1, 2)),
        (1, (2,)),
        (1, (1, 2)),
        (1, (4, 2)),
        (1, (4, 3, 2)),
        (3, (0,)),
    ],
)
def test_shapes_are_those_of_matmul(members, shape):
    loss, w = problem("no-bias")
    if members:
        w = w * torch.linspace(1, 2, members, dtype=w.dtype)[:, None]
    H = Hessian(loss, w)
    matrix = H @ torch.eye(loss.net.k, dtype=w.dtype)
    V = draws(*shape[:-1], *([loss.net.k] if shape else []), *shape[-1:], n=1)[0]
    V = V if shape else draws(n=loss.net.k)
    close_shape = matrix @ V
    result = H @ V
    assert result.shape == close_shape.shape
    torch.testing.assert_close(result, close_shape, rtol=1e-10, atol=1e-12)


def test_weight_norm_is_refused_because_its_second_derivative_is_wrong():
    normed = nn.utils.parametrizations.weight_norm
    module = nn.Sequential(normed(nn.Linear(5, 4)), nn.Tanh(), nn.Linear(4, CLASSES))
    net = Network(module.double())
    H = Hessian(Loss(net, (draws(5), labels())), net.weights())
    with pytest.raises(ValueError, match="remove_parametrizations"):
        H @ net.weights()
    nn.utils.parametrize.remove_parametrizations(module[0], "weight")
    net = Network(module)
    loss, w = Loss(net, (draws(5), labels())), net.weights()
    rate = 1e-5 * w
    slope = (loss.gradient(w + rate) - loss.gradient(w - rate)) / 2e-5
    torch.testing.assert_close(Hessian(loss, w) @ w, slope, rtol=1e-6, atol=1e-8)


def test_shapes_that_do_not_fit_are_refused():
    loss, w = problem("mlp")
    k = loss.net.k
    H = Hessian(loss, torch.stack([w, w]))
    assert H.shape == (2, k, k)
    assert H.dtype == torch.float64
    assert H.device == w.device
    for V in (w[1:], w[1:, None], draws(k, 1, n=3), torch.tensor(1.0).double()):
        with pytest.raises(ValueError, match="V has shape"):
            H @ V
    with pytest.raises(TypeError, match="float32"):
        H @ w.float()
    with pytest.raises(TypeError):
        H @ 3


def test_weights_and_losses_that_do_not_fit_are_refused():
    loss, w = problem("mlp")
    with pytest.raises(TypeError, match="Loss"):
        Hessian(loss.net, w)
    with pytest.raises(ValueError, match="another network"):
        Hessian(loss, w[1:])
    for dtype in (torch.float16, torch.bfloat16):
        with pytest.raises(ValueError, match="float32 or float64"):
            Hessian(loss, w.to(dtype))
    with pytest.raises(ValueError, match="NaN"):
        Hessian(loss, w / 0)


def test_a_linear_criterion_and_an_unused_parameter_give_zeros():
    class Extra(nn.Module):
        def __init__(self):
            super().__init__()
            self.used, self.unused = nn.Linear(5, CLASSES), nn.Linear(2, 2)

        def forward(self, x):
            return self.used(x)

    net = Network(Extra())
    w = net.init(0, dtype=torch.float64)
    eye = torch.eye(net.k, dtype=w.dtype)
    H = Hessian(Loss(net, (draws(5), labels())), w)
    assert ((H @ eye)[18:] == 0).all()
    assert ((H @ eye)[:, 18:] == 0).all()
    assert ((H @ eye)[:18].abs().sum(1) > 0).all()
    assert (H.exact_diagonal()[18:] == 0).all()
    flat = Loss(net, (draws(5), labels()), lambda z, y: z.gather(1, y[:, None]).mean())
    assert (Hessian(flat, w) @ eye == 0).all()
    constant = Loss(net, (draws(5), labels()), lambda z, y: z.detach().sum())
    with pytest.raises(ValueError, match="no parameter reaches the loss"):
        Hessian(constant, w) @ eye


def test_float32_is_accurate_to_its_precision():
    loss, w = problem("resnet")
    H, H32 = Hessian(loss, w), Hessian(loss, w.float())
    expected = H @ torch.eye(loss.net.k, dtype=w.dtype)
    norm = torch.linalg.matrix_norm(expected, 2)
    error = (H32 @ torch.eye(loss.net.k)).double() - expected
    assert torch.linalg.matrix_norm(error, 2) < 5e-6 * norm
    found, exact = H32.exact_diagonal().sum(), H.exact_diagonal().sum()
    assert found.item() == pytest.approx(exact.item(), rel=1e-5)


class Once(torch.autograd.Function):
    """Squares, with a derivative that has none itself."""

    @staticmethod
    def forward(context, x):
        context.save_for_backward(x)
        return x * x

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(context, gradient):
        return 2 * context.saved_tensors[0] * gradient


def test_operations_without_a_second_derivative_are_named():
    net = Network(Forward(Once.apply))
    H = Hessian(Loss(net, (draws(5), labels())), net.init(0).double())
    with pytest.raises(ValueError, match=r"no second derivative.*Once"):
        H @ draws(n=net.k)
    assert H.exact_diagonal() is None
    assert H.products == 0


def state_of(module):
    return (
        {n: t.clone() for n, t in module.state_dict().items()},
        {n: p.grad.clone() for n, p in module.named_parameters()},
        {n: p.requires_grad for n, p in module.named_parameters()},
        {n: m.training for n, m in module.named_modules()},
        torch.get_rng_state(),
        torch.is_grad_enabled(),
    )


@pytest.mark.parametrize("stop", [None, KeyboardInterrupt, ZeroDivisionError])
def test_measuring_writes_nothing_even_when_it_is_stopped(stop):
    module = models.resnet((1, 6, 6), CLASSES, (2, 3)).double()
    module[0].eval()
    for p in module.parameters():
        p.grad = torch.full_like(p, 7)
    calls = []

    def criterion(z, y):
        calls.append(z)
        if stop is not None and len(calls) == 5:
            raise stop
        return F.cross_entropy(z, y)

    net = Network(module)
    w = net.weights().requires_grad_()
    before = copy.deepcopy(state_of(module))
    H = Hessian(Loss(net, (IMAGE, labels()), criterion, chunk=1), w)
    v = draws(n=net.k)
    if stop is not None:
        with pytest.raises(stop):
            H @ v
        assert H.products == 0
    product = H @ v
    assert not product.requires_grad
    exact = Hessian(Loss(net, (IMAGE, labels())), w)
    close(product, exact @ v)
    assert not exact.exact_diagonal().requires_grad
    assert w.grad is None
    after = state_of(module)
    for a, b in zip(before[:2], after[:2], strict=True):
        assert a.keys() == b.keys()
        assert all(torch.equal(a[n], b[n]) for n in a)
    assert before[2:4] == after[2:4]
    assert torch.equal(before[4], after[4])
    assert before[5] == after[5]


def test_the_operator_does_not_follow_a_module_that_is_trained_further():
    loss, w = problem("mlp")
    H = Hessian(loss, w)
    v = draws(n=loss.net.k)
    before = H @ v
    with torch.no_grad():
        w += 1
        for p in loss.net._source.parameters():
            p.zero_()
    close(H @ v, before)
    close(Hessian(loss, w - 1) @ v, before)


def test_products_work_without_gradients_enabled():
    loss, w = problem("mlp")
    v = draws(n=loss.net.k)
    expected = Hessian(loss, w) @ v
    with torch.no_grad():
        H = Hessian(loss, w)
        close(H @ v, expected)
        close(H.exact_diagonal(), Hessian(loss, w).exact_diagonal())


def test_statistics_of_the_batch_are_those_of_all_examples():
    torch.manual_seed(0)
    norm = torch.nn.BatchNorm1d(5, track_running_stats=False)
    module = torch.nn.Sequential(
        torch.nn.Linear(6, 5), norm, torch.nn.ReLU(), torch.nn.Linear(5, 3)
    ).double()
    net, x = Network(module), torch.randn(40, 6, dtype=torch.float64)
    y = torch.arange(40) % 3
    loss, w = Loss(net, Examples(x, y, y)), net.weights()
    whole = F.cross_entropy(module(x), y)
    torch.testing.assert_close(loss(w), whole.detach())
    dense = torch.autograd.functional.hessian(
        lambda u: F.cross_entropy(net(u, x), y), w
    )
    H = Hessian(loss, w)
    torch.testing.assert_close(H @ torch.eye(len(w)).double(), dense)
    assert H.exact_diagonal() is None


class Through(nn.Module):
    """A first layer that is reached, or not, around a second that is."""

    def __init__(self, route):
        super().__init__()
        self.a, self.b = nn.Linear(5, 6), nn.Linear(6, CLASSES)
        self.route = route

    def forward(self, x):
        return self.b(self.route(self.a, x).relu())


def no_grad(layer, x):
    with torch.no_grad():
        return layer(x)


@pytest.mark.parametrize(
    "route",
    [
        lambda layer, x: layer(x).detach(),
        no_grad,
        lambda layer, x: checkpoint(layer, x, use_reentrant=True),
    ],
)
@pytest.mark.filterwarnings("ignore:None of the inputs")
def test_parameters_without_a_gradient_are_not_taken_for_flat(route):
    net = Network(Through(route).double())
    H = Hessian(Loss(net, (draws(5), labels())), net.weights())
    with pytest.raises(ValueError, match=r"no gradient reaches a\.weight, a\.bias"):
        H @ net.weights()


def test_inference_mode_is_refused():
    loss, w = problem("mlp")
    H = Hessian(loss, w)
    with torch.inference_mode():
        for measure in (
            lambda: Hessian(loss, w),
            lambda: H @ w,
            H.exact_diagonal,
        ):
            with pytest.raises(ValueError, match="inference_mode"):
                measure()


def test_sparse_gradients_are_refused():
    net = Network(nn.Sequential(Sparse(), nn.Flatten(), nn.Linear(16, CLASSES)))
    H = Hessian(Loss(net, (tokens()["tokens"], labels())), net.weights())
    with pytest.raises(ValueError, match="sparse=False"):
        H @ net.weights()


class Sparse(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(7, 4))

    def forward(self, tokens):
        return F.embedding(tokens, self.weight, sparse=True)


def test_leading_axes_are_those_of_the_weights():
    loss, w = problem("mlp")
    scale = torch.linspace(1, 2, 6, dtype=w.dtype)
    members = w * scale[:, None]
    flat, H = Hessian(loss, members), Hessian(loss, members.view(2, 3, -1))
    v = draws(4, n=len(w))
    assert H.shape == (2, 3, len(w), len(w))
    torch.testing.assert_close((H @ v).flatten(0, 1), flat @ v)
    v = draws(2, 3, len(w), 2, n=5)
    expected = flat @ v.flatten(1, 2)
    torch.testing.assert_close((H @ v).flatten(1, 2), expected)
    torch.testing.assert_close(H.exact_diagonal().flatten(0, 1), flat.exact_diagonal())


class Recurrent(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = nn.LSTM(5, 4, batch_first=True)
        self.head = nn.Linear(4, CLASSES)

    def forward(self, x):
        return self.head(self.body(x)[0][:, -1])


class Attention(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = nn.TransformerEncoderLayer(4, 2, 8, batch_first=True)
        self.head = nn.Linear(4, CLASSES)

    def forward(self, x):
        h = self.body(x, src_key_padding_mask=x[..., 0] > 1)
        return self.head(h.mean(1))


@pytest.mark.parametrize(("make", "size"), [(Recurrent, 5), (Attention, 4)])
def test_fused_layers_are_differentiated_twice(make, size):
    torch.manual_seed(0)
    net = Network(make().double())
    loss, w = Loss(net, (draws(6, size), labels())), net.weights()
    slope = (loss.gradient(w + 1e-5 * w) - loss.gradient(w - 1e-5 * w)) / 2e-5
    fast = torch.backends.mha.get_fastpath_enabled()
    product = Hessian(loss, w) @ w
    torch.testing.assert_close(product, slope, rtol=1e-6, atol=1e-8)
    assert torch.backends.mha.get_fastpath_enabled() == fast
    assert torch.backends.cudnn.enabled


class _OnceTanh(torch.autograd.Function):
    """tanh, with a derivative that cannot be differentiated."""

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x.tanh())
        return x.tanh()

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, g):
        return g * (1 - ctx.saved_tensors[0] ** 2)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_differences_of_gradients_replace_a_second_derivative(dtype):
    torch.manual_seed(0)
    plain = Loss(Network(Forward(torch.tanh)), (draws(5), labels()))
    once = Loss(Network(Forward(_OnceTanh.apply)), (draws(5), labels()))
    w = torch.stack([plain.net.weights(), 0.5 * plain.net.weights()]).to(dtype)
    with pytest.raises(ValueError, match="finite_difference"):
        Hessian(once, w) @ w[..., None]
    H = Hessian(once, w, method="finite_difference")
    V = torch.randn(*w.shape, 3, dtype=dtype)
    found = H @ V
    true = torch.stack([dense(plain, row.double()) for row in w]) @ V.double()
    far = (found - true).norm() / true.norm()
    assert far < 1e-6 and H.error < 1e-6 and H.products == 3
    top = eigenvalues(H, k=1, tol=1e-4)
    expected = torch.linalg.eigvalsh(torch.stack([dense(plain, r.double()) for r in w]))
    torch.testing.assert_close(
        top.values[:, 0].double(), expected[:, -1], rtol=1e-4, atol=1e-6
    )
    assert (H @ torch.zeros(*w.shape, 1, dtype=dtype) == 0).all()
    with pytest.raises(ValueError, match="autograd"):
        Hessian(once, w, method="fd")
