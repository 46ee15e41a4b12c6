"""Loss: value, gradient and accuracy against plain PyTorch and closed forms."""

from functools import partial
from types import SimpleNamespace

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.data import DataLoader, TensorDataset

import flatlab as fl
from flatlab import models
from flatlab.course import study
from flatlab.hessian import Hessian
from flatlab.loss import Loss
from flatlab.network import Network
from flatlab.sharpness import fisher_rao_norm

CRITERIA = {
    "cross_entropy": F.cross_entropy,
    "mse": lambda z, y: 0.5 * (z - F.one_hot(y, z.shape[-1])).square().sum(-1).mean(),
}


def problem(module=None, n=23):
    g = torch.Generator().manual_seed(3)
    net = Network(module or models.mlp(6, 5, 4))
    x = torch.randn(n, 6, generator=g, dtype=torch.float64)
    y = torch.randint(0, 4, (n,), generator=g)
    return net, net.init(range(3), dtype=torch.float64), x, y


@pytest.mark.parametrize("criterion", ["cross_entropy", "mse", F.cross_entropy])
@pytest.mark.parametrize("chunk", [None, 7, 1])
def test_value_and_gradient_are_those_of_a_module(criterion, chunk):
    net, w, x, y = problem()
    loss = Loss(net, (x, y), criterion, chunk=chunk)
    reference = CRITERIA.get(criterion, F.cross_entropy)
    values, gradients = loss.value_and_gradient(w)
    for i in range(3):
        module = net.module(w[i])
        expected = reference(module(x), y)
        expected.backward()
        gradient = torch.cat([p.grad.flatten() for p in module.parameters()])
        torch.testing.assert_close(values[i], expected.detach())
        torch.testing.assert_close(loss(w)[i], expected.detach())
        torch.testing.assert_close(gradients[i], gradient)
        torch.testing.assert_close(loss.gradient(w[i]), gradient)
        accuracy = (module(x).argmax(-1) == y).double().mean()
        torch.testing.assert_close(loss.accuracy(w)[i], accuracy)
        torch.testing.assert_close(loss.logits(w)[i], module(x))


def test_gradient_is_that_of_finite_differences():
    net, w, x, y = problem(models.mlp(6, 5, 4, activation="tanh"))
    loss = Loss(net, (x, y))
    g = torch.Generator().manual_seed(0)
    v = torch.randn(w.shape, generator=g, dtype=torch.float64)
    step = 1e-5
    slope = (loss(w + step * v) - loss(w - step * v)) / (2 * step)
    torch.testing.assert_close(
        (loss.gradient(w) * v).sum(-1), slope, rtol=1e-8, atol=1e-9
    )


def test_linear_softmax_regression_has_the_closed_form():
    net, _, x, y = problem(nn.Sequential(nn.Linear(6, 4)))
    w = torch.zeros(net.k, dtype=torch.float64)
    loss = Loss(net, (x, y))
    assert loss(w).item() == pytest.approx(torch.tensor(4.0).double().log().item())
    residual = (0.25 - F.one_hot(y, 4).double()) / len(y)
    expected = torch.cat([(residual.T @ x).flatten(), residual.sum(0)])
    torch.testing.assert_close(loss.gradient(w), expected)


def test_a_loader_gives_the_loss_of_its_examples():
    net, w, x, y = problem()
    whole = Loss(net, (x, y))
    loader = DataLoader(TensorDataset(x, y), batch_size=5, shuffle=True)
    torch.testing.assert_close(Loss(net, loader)(w), whole(w))
    named = [{"input": x[:9], "labels": y[:9]}, {"input": x[9:], "labels": y[9:]}]
    torch.testing.assert_close(Loss(net, named)(w), whole(w))
    torch.testing.assert_close(Loss(net, named, chunk=4).gradient(w), whole.gradient(w))


def test_labels_may_differ_between_members():
    net, w, x, y = problem()
    own = torch.stack([y, (y + 1) % 4, (y + 2) % 4])
    loss = Loss(net, (x, own), chunk=9)
    for i in range(3):
        alone = Loss(net, (x, own[i]))
        torch.testing.assert_close(loss(w)[i], alone(w[i]))
        torch.testing.assert_close(loss.gradient(w)[i], alone.gradient(w[i]))
        torch.testing.assert_close(loss.accuracy(w)[i], alone.accuracy(w[i]))
    with pytest.raises(ValueError, match="members"):
        loss(w[:2])
    with pytest.raises(ValueError, match="members"):
        loss(w[0])


def test_labels_of_members_go_with_the_last_axes_of_w():
    net, w, x, y = problem()
    own = torch.stack([y, (y + 1) % 4, (y + 2) % 4])
    loss = Loss(net, (x, own), chunk=9)
    assert loss.own_labels and not Loss(net, (x, y)).own_labels
    points = torch.stack([w, 2 * w])  # two points of three members
    torch.testing.assert_close(loss(points), torch.stack([loss(w), loss(2 * w)]))
    twice = Loss(net, (x, torch.stack([own, own.flip(0)])))
    expected = torch.stack([loss(w), Loss(net, (x, own.flip(0)))(2 * w)])
    torch.testing.assert_close(twice(points), expected)
    assert twice.gradient(points).shape == points.shape
    with pytest.raises(ValueError, match="labels are of 3 members"):
        loss(points.transpose(0, 1))


def test_targets_of_examples_are_not_taken_for_labels_of_members():
    for module, x, y in (
        (nn.Linear(5, 6), torch.randn(6, 5), torch.rand(6, 6)),
        (nn.Linear(5, 1), torch.randn(1, 5), torch.randn(1, 1)),
    ):
        loss = Loss(Network(module), (x, y), F.mse_loss)
        assert not loss.own_labels
        w = loss.net.weights()
        torch.testing.assert_close(loss(w), F.mse_loss(module(x), y).detach())
        torch.testing.assert_close(loss(w.expand(2, -1))[1], loss(w))


def test_a_parameter_without_influence_has_a_zero_gradient():
    class Extra(nn.Module):
        def __init__(self):
            super().__init__()
            self.used, self.unused = nn.Linear(6, 4), nn.Linear(2, 2)

        def forward(self, x):
            return self.used(x)

    net, w, x, y = problem(Extra())
    assert (Loss(net, (x, y)).gradient(w)[:, 28:] == 0).all()


def test_measuring_writes_nothing():
    module = models.mlp(6, 5, 4, dropout=0.5)
    net = Network(module)
    _, _, x, y = problem()
    w = net.weights().double().requires_grad_()
    loss = Loss(net, (x, y))
    for value in (loss(w), loss.accuracy(w), *loss.value_and_gradient(w)):
        assert not value.requires_grad
    assert w.grad is None
    assert all(p.grad is None for p in module.parameters())
    assert module.training


def test_float32_and_float64_weights_share_one_loss():
    net, w, x, y = problem()
    loss = Loss(net, (x.float(), y))
    assert loss(w).dtype == torch.float64
    assert loss(w.float()).dtype == torch.float32
    torch.testing.assert_close(loss(w.float()).double(), loss(w), rtol=1e-5, atol=1e-6)


def test_bad_input_says_what_is_expected():
    net, w, x, y = problem()
    with pytest.raises(TypeError, match="Network"):
        Loss(models.mlp(6, 4), (x, y))
    with pytest.raises(TypeError, match="Examples"):
        Loss(net, x)
    with pytest.raises(ValueError, match="one label per input"):
        Loss(net, (x, y[:5]))
    with pytest.raises(ValueError, match="NaN"):
        Loss(net, (x / 0, y))
    with pytest.raises(ValueError, match="no examples"):
        Loss(net, (x[:0], y[:0]))
    with pytest.raises(ValueError, match="chunk"):
        Loss(net, (x, y), chunk=0)
    with pytest.raises(ValueError, match="criterion"):
        Loss(net, (x, y), "hinge")
    with pytest.raises(ValueError, match="criterion is 3, expected one of"):
        Loss(net, (x, y), 3)
    with pytest.raises(ValueError, match="expected one of"):
        Loss(net, (x, y), ["mse"])
    with pytest.raises(TypeError, match=r"dict of \['x'\].*labels"):
        Loss(net, [{"x": x}])
    with pytest.raises(ValueError, match="no batch"):
        Loss(net, [])
    with pytest.raises(TypeError, match="batch"):
        Loss(net, [x])
    with pytest.raises(ValueError, match="another network"):
        Loss(net, (x, y))(w[:, 1:])


def test_a_callable_may_take_outputs_of_any_form():
    """Sequences, and one number per example: per member as torch has it alone."""
    rows = torch.randn(6, 5, 3, generator=torch.Generator().manual_seed(0)).double()
    numbers = nn.Sequential(nn.Linear(3, 1), nn.Flatten(0)).double()
    cases = [
        (
            nn.Linear(3, 4).double(), rows, (rows[..., 0] > 0).long(),
            lambda z, y: F.cross_entropy(z.flatten(0, 1), y.flatten()),
        ),
        (numbers, rows[:, 0], rows[:, 1, 0], lambda z, y: (z - y).square().mean()),
    ]  # fmt: skip
    for module, x, y, criterion in cases:
        net = Network(module)
        w = torch.stack([net.weights(), 2 * net.weights(), net.weights() - 1])
        loss = Loss(net, (x, y), criterion, chunk=4)
        H = Hessian(loss, w)
        for i, one in enumerate(w):
            v = one.clone().requires_grad_()
            expected = criterion(net(v, x), y)
            (slope,) = torch.autograd.grad(expected, v, create_graph=True)
            torch.testing.assert_close(loss(w)[i], expected.detach())
            torch.testing.assert_close(loss(one), expected.detach())
            torch.testing.assert_close(loss.gradient(w)[i], slope.detach())
            (product,) = torch.autograd.grad(slope @ one, v)
            torch.testing.assert_close((H @ w[..., None])[i, :, 0], product)


def test_outputs_that_a_named_criterion_is_not_for_are_refused():
    x = torch.zeros(6, 5, 2, 3)
    with pytest.raises(ValueError, match="need a callable"):
        Loss(Network(nn.Linear(3, 4)), (x, torch.zeros(6, 5, dtype=torch.long)))
    net = Network(nn.Linear(3, 4))
    for y, words in (
        (torch.zeros(6, 1, dtype=torch.long), r"int64 of shape \(6, 1\)"),
        (torch.zeros(6), r"float32 of shape \(6,\)"),
        (torch.full((6,), 4), "expected 0 to 3"),
        (torch.full((6,), -1), "expected 0 to 3"),
        (torch.full((6,), -100), "none counts"),
    ):
        with pytest.raises(ValueError, match=words):
            Loss(net, (torch.zeros(6, 3), y))


class Tokens(nn.Module):
    """A language model of nothing but the token itself."""

    def __init__(self):
        super().__init__()
        self.embed, self.head = nn.Embedding(7, 4), nn.Linear(4, 7)

    def forward(self, x):
        return self.head(torch.tanh(self.embed(x)))


@pytest.mark.parametrize("chunk", [None, 3, 1])
@pytest.mark.parametrize("name", ["cross_entropy", "mse"])
def test_labels_that_are_ignored_do_not_count(name, chunk):
    """The mean is over the labels that count, whatever the chunks and the members."""
    g = torch.Generator().manual_seed(5)
    x = torch.randint(7, (8, 8), generator=g)
    y = torch.randint(7, (8, 8), generator=g)
    y[0], y[2, 1:], y[5, ::2] = -100, -100, -100
    models_and_data = [
        (Tokens().double(), x, y),  # as many sequences as tokens
        (nn.Linear(3, 7).double(), torch.randn(8, 3, generator=g).double(), y[:, 1]),
    ]
    for module, x, y in models_and_data:
        net = Network(module)
        w = torch.stack([net.weights(), 2 * net.weights()])
        own = torch.stack([y, y.flip(0)])
        for labels in (y, own):
            loss = Loss(net, (x, labels), name, chunk=chunk)
            values, gradients = loss.value_and_gradient(w)
            for i in range(2):
                target = own[i] if labels is own else y
                keep = target != -100
                v = w[i].clone().requires_grad_()
                z, t = net(v, x)[keep], target[keep]
                expected = CRITERIA[name](z, t)
                (slope,) = torch.autograd.grad(expected, v)
                torch.testing.assert_close(values[i], expected.detach())
                torch.testing.assert_close(loss(w)[i], expected.detach())
                torch.testing.assert_close(gradients[i], slope)
                right = (z.argmax(-1) == t).double().mean()
                torch.testing.assert_close(loss.accuracy(w)[i], right)
                if labels is y:
                    torch.testing.assert_close(loss.gradient(w[i]), slope)


@pytest.mark.parametrize(
    "criterion",
    [
        nn.CrossEntropyLoss(weight=torch.tensor([1.0, 5, 0.2, 2]).double()),
        nn.CrossEntropyLoss(ignore_index=0),
        nn.CrossEntropyLoss(label_smoothing=0.1),
        lambda z, y: F.cross_entropy(z, y).sqrt(),  # no mean at all
    ],
)
def test_a_criterion_that_is_no_mean_over_examples_sees_them_all(criterion):
    net, w, x, y = problem()
    y = y.sort().values  # whole chunks are of one class
    for chunk in (None, 6, 1):
        loss = Loss(net, (x, y), criterion, chunk=chunk)
        v = w[0].clone().requires_grad_()
        expected = criterion(net(v, x), y)
        (slope,) = torch.autograd.grad(expected, v)
        torch.testing.assert_close(loss(w)[0], expected.detach())
        torch.testing.assert_close(loss.gradient(w)[0], slope)


@pytest.mark.parametrize("own", [False, True])
def test_a_callable_sees_one_of_many_members_as_it_sees_one_of_few(own):
    g = torch.Generator().manual_seed(0)
    x, y = torch.rand(3, 6, generator=g, dtype=torch.float64).split([2, 1])
    x, y, net = x.T, y[0], Network(nn.Linear(2, 1).double())
    w = net.init(range(70), dtype=torch.float64)
    y = y.expand(70, 6) * torch.arange(1, 71)[:, None] if own else y

    def log_of_the_mean(z, t):
        assert z.shape == (6, 1) and t.shape == (6,)
        return (z[:, 0] - t).square().mean().log()

    def looks(z, t):
        assert z.isfinite().all()
        return log_of_the_mean(z, t)

    one = [(x, y[i] if own else y) for i in range(70)]
    expected = [Loss(net, d, log_of_the_mean)(v) for d, v in zip(one, w, strict=True)]
    for criterion in (log_of_the_mean, looks):
        found = Loss(net, (x, y), criterion)(w)
        torch.testing.assert_close(found, torch.stack(expected))


def test_accuracy_of_one_output():
    g = torch.Generator().manual_seed(0)
    x = torch.randn(12, 6, generator=g)
    y = (x[:, 0] > 0.3).float()
    bce = F.binary_cross_entropy_with_logits
    net = Network(nn.Linear(6, 1))
    w = torch.stack([net.weights(), torch.randn(net.k, generator=g)])
    z = net(w, x)[..., 0]
    right = ((z > 0) == (y > 0)).float().mean(1)
    for target, criterion in (
        (y, lambda z, t: bce(z.squeeze(-1), t)),
        (y.long(), lambda z, t: bce(z.squeeze(-1), t.float())),
        (y[:, None], bce),
        (2 * y[:, None] - 1, F.soft_margin_loss),
    ):
        for chunk in (None, 5):
            loss = Loss(net, (x, target), criterion, chunk=chunk)
            torch.testing.assert_close(loss.accuracy(w), right)
            torch.testing.assert_close(loss.accuracy(w[0]), right[0])
    probabilities = Network(nn.Sequential(nn.Linear(6, 1), nn.Sigmoid()))
    loss = Loss(probabilities, (x, y[:, None]), F.binary_cross_entropy)
    torch.testing.assert_close(loss.accuracy(w), right)
    with pytest.raises(ValueError, match="no accuracy"):
        Loss(net, (x, x[:, :1]), F.mse_loss).accuracy(w)
    # ±1 stay ±1 in a chunk that holds but ones
    order = y.argsort(descending=True)
    signs = (2 * y - 1)[order, None]
    loss = Loss(net, (x[order], signs), nn.MSELoss(), chunk=2)
    torch.testing.assert_close(loss.accuracy(w), right)
    many = Network(nn.Linear(6, 3))
    flags = torch.rand(12, 3, generator=g).round()
    v = many.weights()
    expected = ((many(v, x) > 0) == (flags > 0)).float().mean()
    torch.testing.assert_close(Loss(many, (x, flags), bce).accuracy(v), expected)
    shares = torch.rand(12, 3, generator=g).softmax(-1)
    expected = (many(v, x).argmax(-1) == shares.argmax(-1)).float().mean()
    loss = Loss(many, (x, shares), F.cross_entropy)
    torch.testing.assert_close(loss.accuracy(v), expected)
    torch.testing.assert_close(loss.accuracy(v.expand(2, -1))[1], expected)


def test_data_of_other_kinds():
    net, w, x, y = problem()
    expected = Loss(net, (x, y))(w)
    for labels in (y.tolist(), y.numpy(), y.int(), y.to(torch.uint8)):
        torch.testing.assert_close(Loss(net, (x.numpy(), labels))(w), expected)
    with torch.inference_mode():
        made = x.clone(), y.clone()
        loss = Loss(net, made)
        loss(w.float())
        with pytest.raises(ValueError, match="inference_mode"):
            loss.gradient(w)
    right = Loss(net, (x, y)).gradient(w)
    torch.testing.assert_close(loss.gradient(w), right)
    torch.testing.assert_close(
        loss.gradient(w.float()).double(), right, rtol=1e-4, atol=1e-6
    )
    with pytest.raises(ValueError, match=r"\(5,\).*\(7,\).*padding"):
        Loss(net, [(torch.ones(2, t), torch.zeros(2).long()) for t in (5, 7)])
    torch.manual_seed(0)
    after = torch.rand(1)
    torch.manual_seed(0)
    Loss(net, DataLoader(TensorDataset(x, y), batch_size=5, shuffle=True))
    assert torch.equal(torch.rand(1), after)


def test_inputs_of_the_wrong_width_are_refused():
    for module, x, both in (
        (models.mlp(6, 5, 4), torch.zeros(8, 7), "7.*6"),
        (models.mlp(6, 5, 4), torch.zeros(8, 2, 4), "8.*6"),
        (
            models.cnn((1, 8, 8), 4),
            torch.zeros(8, 3, 8, 8),
            "3|1 channel",
        ),
        (Tokens(), torch.full((8, 3), 9), "range"),
    ):
        y = torch.zeros(8, dtype=torch.long)
        with pytest.raises(ValueError, match=f"does not take inputs.*({both})"):
            Loss(Network(module), (x, y))


def test_a_loss_that_no_parameter_reaches_is_refused():
    net, w, x, y = problem()
    loss = Loss(net, (x, y), lambda z, t: F.cross_entropy(z.detach(), t))
    with pytest.raises(ValueError, match="no parameter reaches the loss"):
        loss.gradient(w)


def test_nan_anywhere_in_the_inputs_is_refused():
    class Pair(nn.Module):
        def __init__(self):
            super().__init__()
            self.l = nn.Linear(6, 3)

        def forward(self, a, b):
            return self.l(a + b)

    a, b = torch.ones(8, 6), torch.ones(8, 6)
    b[0, 0] = torch.nan
    for x in ((a, b), {"a": a, "b": b}):
        with pytest.raises(ValueError, match="NaN"):
            Loss(Network(Pair()), (x, torch.zeros(8, dtype=torch.long)))


@pytest.mark.parametrize("name", ["cross_entropy", "mse"])
def test_ignored_labels_are_left_out_of_the_curvature(name):
    net, w, x, y = problem()
    y = y.clone()
    y[::3] = -100
    keep = y != -100
    own = torch.stack([y, y.flip(0), y.roll(1)])
    for chunk in (None, 5):
        for labels in (y, own):
            loss = Loss(net, (x, labels), name, chunk=chunk)
            for i in range(3):
                kept = labels[i] if labels is own else y
                keep = kept != -100
                alone = Loss(net, (x[keep], kept[keep]), name)
                H, expected = Hessian(loss, w), Hessian(alone, w[i])
                full = expected @ torch.eye(net.k).double()
                torch.testing.assert_close((H @ w[..., None])[i, :, 0], full @ w[i])
                torch.testing.assert_close(H.exact_diagonal()[i], full.diagonal())
                norm = fisher_rao_norm(alone, w[i])
                torch.testing.assert_close(fisher_rao_norm(loss, w)[i], norm)


@pytest.mark.parametrize(
    "criterion",
    [nn.CrossEntropyLoss(ignore_index=1), partial(F.cross_entropy, ignore_index=1)],
    ids=["module", "partial"],
)
def test_a_label_that_the_criterion_ignores_is_no_error(criterion):
    net, w, x, y = problem()
    loss = Loss(net, (x, y), criterion)
    counted = y != 1
    assert 0 < counted.sum() < len(y)
    hits = net(w, x).argmax(-1) == y
    torch.testing.assert_close(loss.accuracy(w), hits[:, counted].double().mean(-1))
    torch.testing.assert_close(loss(w[0]), criterion(net(w[0], x), y))


class Largest(TorchDispatchMode):
    """The largest tensor that is made, in numbers."""

    numbers = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **kwargs or {})
        for made in result if isinstance(result, tuple | list) else [result]:
            if isinstance(made, torch.Tensor):
                size = made.untyped_storage().nbytes() // made.element_size()
                self.numbers = max(self.numbers, size)
        return result


def test_no_measure_holds_the_logits_of_a_large_vocabulary_at_once(monkeypatch):
    vocabulary, n, tokens, held = 50_000, 12, 4, 2**20
    monkeypatch.setattr("flatlab.loss.CHUNK_ELEMENTS", held)
    g = torch.Generator().manual_seed(0)
    x = torch.randint(9, (n, tokens), generator=g)
    y = torch.randint(vocabulary, (n, tokens), generator=g)
    model = nn.Sequential(nn.Embedding(9, 2), nn.Linear(2, vocabulary, bias=False))
    loss = fl.Loss(fl.Network(model), (x, y))
    w = loss.net.weights()
    few = {"samples": 4}
    measures = {
        "loss": lambda: loss(w),
        "accuracy": lambda: loss.accuracy(w.expand(4, -1)),
        "gradient": lambda: loss.gradient(w),
        "product": lambda: fl.Hessian(loss, w) @ torch.ones_like(w),
        "average": lambda: fl.average_sharpness(loss, w, fl.ball(0.1), **few),
        "worst": lambda: fl.worst_case_sharpness(loss, w, fl.ball(0.1), steps=1),
        "noise": lambda: fl.tolerated_noise(loss, w, **few),
        "fisher-rao": lambda: fl.fisher_rao_norm(loss, w),
        "critical": lambda: fl.critical_sharpness(loss, w),
    }
    # so many classes of one vector each, by two networks
    examples = fl.Examples(torch.rand(4 * n, 2, generator=g), y.flatten())
    wide = fl.Network(nn.Linear(2, vocabulary, bias=False))
    part, w2 = fl.Loss(wide, examples), wide.init(range(2))
    data = fl.Dataset(examples, examples, examples, vocabulary, "wide")
    how = {"epochs": 1, "batch_size": 4, "lr": 0.1}
    measures |= {
        "train": lambda: fl.train(wide, data, seeds=range(2), **how),
        "margin": lambda: study._margin(part, w2),
    }
    for name, measure in measures.items():
        with Largest() as largest:
            measure()
        assert largest.numbers <= held < n * tokens * vocabulary, name


class Hidden(nn.Module):
    """A loss with a tensor of its own that no one sees, and targets of float32."""

    def __init__(self):
        super().__init__()
        self.weight = [torch.tensor([1.0, 4.0, 0.3])]

    def forward(self, z, t):
        return F.cross_entropy(z, t, self.weight[0])


WEIGHTS = torch.tensor([1.0, 4.0, 0.3])


@pytest.mark.parametrize(
    "criterion",
    [nn.CrossEntropyLoss(WEIGHTS), partial(F.cross_entropy, weight=WEIGHTS), Hidden()],
    ids=["module", "partial", "closure"],
)
def test_weights_of_classes_in_float32_do_not_keep_float64_out(criterion):
    torch.manual_seed(0)
    module = models.mlp(5, 4, 3)
    x, y = torch.randn(12, 5), torch.randint(0, 3, (12,))
    loss = Loss(Network(module), (x, y), criterion)
    w = loss.net.weights()

    def truth(v):
        z = torch.func.functional_call(module, loss.net.unflatten(v), (x.double(),))
        share = WEIGHTS.double()[y]
        return (F.cross_entropy(z, y, reduction="none") * share).sum() / share.sum()

    base = truth(w.double())
    assert fl.report(module, (x, y), criterion).loss == pytest.approx(base.item())
    found = fl.critical_sharpness(loss, w)
    (slope,) = torch.autograd.functional.jacobian(truth, (w.double(),))
    for factor, sign in ((0.98, -1), (1.02, 1)):
        there = truth(w.double() - factor * found.rate * slope)
        assert (there - base) * sign > 0
    if not isinstance(criterion, Hidden):
        torch.testing.assert_close(loss(w.double()), base)
        slope_here = loss.gradient(w.double())
        torch.testing.assert_close(slope_here, slope)


@pytest.mark.parametrize("name", ["mse_loss", "huber_loss", "smooth_l1_loss"])
def test_real_targets_are_in_the_dtype_of_w(name):
    criterion, g = getattr(F, name), torch.Generator().manual_seed(0)
    x, y = torch.randn(9, 5, generator=g), 2 * torch.randn(9, 1, generator=g)
    module = nn.Linear(5, 1)
    for dtype, target in ((torch.float64, y), (torch.float32, y.double())):
        loss = Loss(Network(module), (x, target), criterion)
        w = loss.net.weights().to(dtype)

        def truth(v):
            return criterion(x.to(v) @ v[:5, None] + v[5], y.to(v))

        slope = torch.autograd.functional.jacobian(truth, w)
        torch.testing.assert_close(loss.gradient(w), slope)
        curved = torch.autograd.functional.hessian(truth, w)
        product = Hessian(loss, w) @ torch.eye(6, dtype=dtype)
        torch.testing.assert_close(product, curved)
    data = SimpleNamespace(train=SimpleNamespace(x=x, y=y))
    run = fl.train(
        Network(module), data, seeds=1, epochs=1, batch_size=9, lr=0.1,
        criterion=criterion, dtype=torch.float64, device="cpu",
    )  # fmt: skip
    start = Network(module).init(1, dtype=torch.float64)
    loss = Loss(Network(module), (x, y), criterion)
    torch.testing.assert_close(run.w[0], start - 0.1 * loss.gradient(start))


def test_what_the_last_examples_see_of_the_first_is_seen():
    """The largest input, which scales all, is the first."""

    class Scaled(nn.Linear):
        def forward(self, x):
            return super().forward(x / x.abs().max())

    g = torch.Generator().manual_seed(0)
    x = torch.randn(12, 5, generator=g, dtype=torch.float64)
    x[0] *= 9
    y = torch.randint(0, 3, (12,), generator=g)
    module = Scaled(5, 3).double()
    expected = F.cross_entropy(module(x), y).detach()
    for chunk in (1, 2, 5):
        loss = Loss(Network(module), (x, y), chunk=chunk)
        torch.testing.assert_close(loss(loss.net.weights()), expected)


def test_accuracy_of_a_single_class_and_of_positions():
    g = torch.Generator().manual_seed(0)
    x, none = torch.randn(8, 5, generator=g), torch.zeros(8, dtype=torch.long)
    for criterion in ("cross_entropy", F.cross_entropy):
        loss = Loss(Network(nn.Linear(5, 1)), (x, none), criterion)
        assert loss.accuracy(loss.net.weights()) == 1
    # as many classes as positions: the classes come second
    module = nn.Sequential(nn.Linear(5, 9), nn.Unflatten(1, (3, 3)), nn.LogSoftmax(1))
    y = torch.randint(0, 3, (8, 3), generator=g)
    loss = Loss(Network(module), (x, y), nn.NLLLoss())
    expected = (module(x).argmax(1) == y).float().mean()
    torch.testing.assert_close(loss.accuracy(loss.net.weights()), expected)


def test_a_criterion_gives_a_tensor():
    x, y = torch.ones(4, 5), torch.arange(4) % 3
    loss = Loss(Network(nn.Linear(5, 3)), (x, y), lambda z, t: (z.mean(), t))
    with pytest.raises(TypeError, match="returns tuple, expected a tensor"):
        loss(loss.net.weights())


@pytest.mark.parametrize(
    "criterion",
    [
        nn.MSELoss(),
        F.l1_loss,
        lambda z, t: (z - t).square().mean(),
        lambda z, t: (z - t).square(),
    ],
)
def test_targets_that_broadcast_against_all_outputs_are_refused(criterion):
    g = torch.Generator().manual_seed(0)
    x, y = torch.randn(9, 5, generator=g), torch.randn(9, generator=g)
    flat = nn.Sequential(nn.Linear(5, 1), nn.Flatten(0))
    for module, target in ((nn.Linear(5, 1), y), (flat, y[:, None])):
        with pytest.raises(ValueError, match="every output with every target"):
            Loss(Network(module), (x, target), criterion)
    for module, target in ((nn.Linear(5, 1), y[:, None]), (flat, y)):
        loss = Loss(Network(module), (x, target), criterion)
        expected = criterion(module(x), target).mean()
        torch.testing.assert_close(loss(loss.net.weights()), expected.detach())


@pytest.mark.parametrize(
    "criterion",
    [
        lambda z, t: F.mse_loss(z.squeeze(-1), t),
        lambda z, t: (z[:, 0] - t).square(),
        lambda z, t: z.square().mean(),  # of no targets
        # a rank loss: every pair, but each output has its own target
        lambda z, t: F.softplus(-(z - z.T) * (t[:, None] - t).sign()).mean(),
    ],
)
def test_outputs_in_a_column_are_no_broadcast_where_the_criterion_knows(criterion):
    g = torch.Generator().manual_seed(0)
    x, y = torch.randn(9, 5, generator=g), torch.randn(9, generator=g)
    module = nn.Linear(5, 1)
    loss = Loss(Network(module), (x, y), criterion, chunk=4)
    expected = criterion(module(x), y).mean()
    torch.testing.assert_close(loss(loss.net.weights()), expected.detach())


SOME = torch.arange(5000) % 3 == 0
COMMON = 1 / torch.arange(1, 11).float() ** 1.5


@pytest.mark.parametrize(
    "criterion",
    [
        nn.CrossEntropyLoss(1 / COMMON),
        lambda z, t: F.mse_loss(z, F.one_hot(t, 10).to(z)).sqrt(),
        lambda z, t: -torch.special.entr(z.softmax(-1).mean(0)).sum(),
        lambda z, t: z.topk(1001, 0).values.mean() + F.cross_entropy(z, t),
        lambda z, t: F.cross_entropy(z[SOME], t[SOME]),
    ],
    ids=["weights of classes", "root", "entropy of the mean", "many", "its own"],
)
def test_no_mean_over_examples_is_one_in_large_parts(criterion):
    """What differs by less in parts of a thousand than a random loss shows."""
    g = torch.Generator().manual_seed(1)
    y = torch.multinomial(COMMON, 5000, True, generator=g)
    x = torch.randn(5000, 4, generator=g)
    module = nn.Linear(4, 10)
    loss = Loss(Network(module), (x, y), criterion, chunk=1000)
    w = 5 * torch.randn(50, generator=g)
    expected = criterion(x @ w[:40].view(10, 4).T + w[40:], y)
    torch.testing.assert_close(loss(w), expected, rtol=1e-5, atol=0)


def test_numbers_beside_the_inputs_are_for_all_examples():
    class Warm(nn.Linear):
        def forward(self, x, heat, mask=None):
            return super().forward(x) / heat

    g = torch.Generator().manual_seed(0)
    x, y = torch.randn(9, 5, generator=g), torch.arange(9) % 3
    module, heat = Warm(5, 3), torch.tensor(2.0)
    expected = F.cross_entropy(module(x, heat), y).detach()
    batch = {"x": x, "heat": heat, "labels": y}
    parts = [{**batch, "x": x[s], "labels": y[s], "mask": None}
             for s in (slice(4), slice(4, 9))]  # fmt: skip
    for data in (batch, parts, ((x, heat), y)):
        loss = Loss(Network(module), data, chunk=4)
        torch.testing.assert_close(loss(loss.net.weights()), expected)
        assert fl.report(module, data).loss == pytest.approx(expected.item())
    with pytest.raises(ValueError, match="cannot be joined"):
        Loss(Network(module), [parts[0], {**parts[1], "heat": 2 * heat}])
    with pytest.raises(ValueError, match="inputs are sparse"):
        Loss(Network(nn.Linear(5, 3)), (x.to_sparse(), y))
    with pytest.raises(ValueError, match="has 9 examples and another 3"):
        Loss(Network(module), ((x, torch.ones(3)), y))
