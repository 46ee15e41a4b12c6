"""Small networks with data, their dense float64 Hessians, and one comparison."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from flatlab import models
from flatlab.loss import Loss
from flatlab.network import Network

CLASSES = 3


class Point(nn.Module):
    """Returns its own parameters as the output for every example."""

    def __init__(self, *shapes):
        super().__init__()
        self.parts = nn.ParameterList([nn.Parameter(torch.zeros(s)) for s in shapes])

    def forward(self, x):
        flat = torch.cat([p.reshape(-1) for p in self.parts])
        return flat.expand(len(x), -1)


class Forward(nn.Module):
    """Two layers around any function of the hidden units."""

    def __init__(self, function):
        super().__init__()
        self.a, self.b = nn.Linear(5, 6), nn.Linear(6, CLASSES)
        self.function = function

    def forward(self, x):
        return self.b(self.function(self.a(x)))


class Twice(nn.Module):
    """One layer that is used twice."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(5, 5), nn.Linear(5, CLASSES)

    def forward(self, x):
        return self.b(self.a(self.a(x).relu()).relu())


class Text(nn.Module):
    """A small transformer that takes named inputs and returns an object."""

    def __init__(self):
        super().__init__()
        self.table = nn.Embedding(7, 4)
        self.encoder = nn.TransformerEncoderLayer(
            4, 2, dim_feedforward=5, batch_first=True
        )
        self.head = nn.Linear(4, CLASSES)

    def forward(self, tokens, keep):
        h = self.encoder(self.table(tokens), src_key_padding_mask=~keep)
        return type("Output", (), {"logits": self.head((h * keep[..., None]).mean(1))})


class Plain(nn.Module):
    """Weights used without a transpose, without biases, and a residual addition."""

    def __init__(self):
        super().__init__()
        g = torch.Generator().manual_seed(4)
        self.a = nn.Parameter(torch.randn(5, 5, generator=g))
        self.b = nn.Parameter(torch.randn(5, CLASSES, generator=g))

    def forward(self, x):
        return torch.mm(x + F.leaky_relu(torch.mm(x, self.a)) / 2, self.b)


def tied():
    net = models.mlp(5, 5, 5, CLASSES)
    net[3].weight = net[1].weight
    return net


def frozen(*names):
    net = models.mlp(5, 6, CLASSES)
    for name, parameter in net.named_parameters():
        parameter.requires_grad_(name not in names)
    return net


def warmed(net, x):
    """Statistics and affine parameters that differ from those of a new BatchNorm."""
    g = torch.Generator().manual_seed(2)
    net.double()(2 * x + 1)
    with torch.no_grad():
        for p in net.parameters():
            if p.ndim == 1:
                p += 0.3 * torch.randn(p.shape, generator=g, dtype=p.dtype)
    return net


def draws(*shape: int, n: int = 7) -> Tensor:
    g = torch.Generator().manual_seed(0)
    return torch.randn(n, *shape, generator=g, dtype=torch.float64)


def tokens():
    g = torch.Generator().manual_seed(0)
    keep = torch.ones(7, 4, dtype=torch.bool)
    keep[:3, 3] = False
    return {"tokens": torch.randint(0, 7, (7, 4), generator=g), "keep": keep}


def bn_mlp():
    return nn.Sequential(
        nn.Linear(5, 4), nn.BatchNorm1d(4), nn.ReLU6(), nn.Linear(4, CLASSES)
    )


def deep_cnn():
    return nn.Sequential(
        nn.Conv2d(2, 4, 3, stride=2, padding=2, dilation=2, groups=2),
        nn.MaxPool2d(2),
        nn.Conv2d(4, 4, (1, 2), bias=False),
        nn.AvgPool2d((2, 1)),
        nn.Flatten(),
        nn.Linear(4, CLASSES),
    )


class Scaled(nn.Module):
    """Constants from buffers, layers of functions, work in place, a residual."""

    def __init__(self):
        super().__init__()
        self.register_buffer("mean", torch.linspace(-1, 1, 6))
        self.a, self.b = nn.Conv2d(1, 2, 3, padding=1), nn.Conv2d(2, 2, 3, padding=1)
        self.drop, self.c = nn.Dropout(0.3), nn.Linear(18, CLASSES)

    def forward(self, x):
        h = self.a((x - self.mean) / 2)
        h = F.relu(h, inplace=True)
        out = self.b(h)
        out += h
        h = F.max_pool2d(F.dropout(out, training=self.training).relu_(), 2)
        return self.c(self.drop(h).view(h.size(0), -1))


IMAGE = draws(1, 6, 6)
LINEAR = {  # networks with an exact diagonal
    "mlp": (lambda: models.mlp(5, 6, 4, CLASSES), draws(5)),
    "no-bias": (lambda: models.mlp(5, 6, CLASSES, bias=False), draws(5)),
    "frozen-bias": (lambda: frozen("1.bias", "3.bias"), draws(5)),
    "frozen-weight": (lambda: frozen("1.weight", "3.weight"), draws(5)),
    "functional": (lambda: Forward(lambda h: F.relu(h) * 0.7 - h), draws(5)),
    "scaled": (Scaled, IMAGE),
    "softmax-regression": (lambda: nn.Linear(5, CLASSES), draws(5)),
    "batchnorm": (lambda: warmed(bn_mlp(), draws(5)), draws(5)),
    "cnn": (lambda: models.cnn((1, 6, 6), CLASSES, (2, 3), 4), IMAGE),
    "cnn-max": (lambda: models.cnn((1, 9), CLASSES, (2, 3), 4, "max"), draws(1, 9)),
    "cnn-mean": (lambda: models.cnn((1, 6, 6), CLASSES, (2, 3), 0, "mean"), IMAGE),
    "cnn-grouped": (deep_cnn, draws(2, 10, 8)),
    "resnet": (
        lambda: warmed(models.resnet((1, 6, 6), CLASSES, (2, 3)), IMAGE),
        IMAGE,
    ),
}
OTHER = {  # networks without
    "plain-matrices": (Plain, draws(5)),
    "tanh": (lambda: models.mlp(5, 4, CLASSES, activation="tanh"), draws(5)),
    "gelu": (lambda: models.mlp(5, 4, CLASSES, activation="gelu"), draws(5)),
    "tied": (tied, draws(5)),
    "twice": (Twice, draws(5)),
    "square": (lambda: Forward(lambda h: h * h), draws(5)),
    "gated": (lambda: Forward(lambda h: h * h.relu()), draws(5)),
    "sequence": (lambda: Forward(lambda h: h.relu().mean(1)), draws(3, 5)),
    "softmax": (lambda: Forward(lambda h: h.softmax(-1)), draws(5)),
    "layernorm": (
        lambda: nn.Sequential(nn.Linear(5, 4), nn.LayerNorm(4), nn.Linear(4, CLASSES)),
        draws(5),
    ),
    "prelu": (
        lambda: nn.Sequential(nn.Linear(5, 4), nn.PReLU(), nn.Linear(4, CLASSES)),
        draws(5),
    ),
    "groupnorm": (
        lambda: nn.Sequential(
            nn.Conv1d(1, 4, 2), nn.GroupNorm(2, 4), nn.Flatten(), nn.Linear(16, CLASSES)
        ),
        draws(1, 5),
    ),
    "transformer": (Text, tokens()),
    "examples-mixed": (lambda: Forward(lambda h: h.relu() - h.mean(0)), draws(5)),
}
CASES = LINEAR | OTHER


def margin(z: Tensor, y: Tensor) -> Tensor:
    """A criterion of a user's own, with one loss per example."""
    return (1 + z.logsumexp(-1) - z.gather(1, y[:, None])[:, 0]).square()


def labels(n: int = 7) -> Tensor:
    return torch.randint(0, CLASSES, (n,), generator=torch.Generator().manual_seed(1))


def problem(
    name: str, criterion: Any = "cross_entropy", chunk: int | None = None
) -> tuple[Loss, Tensor]:
    """The loss of a case, and its weights in float64, (k,)."""
    torch.manual_seed(3)
    make, x = CASES[name]
    net = Network(make())
    loss = Loss(net, (x, labels()), criterion, chunk=chunk)
    return loss, net.weights().double()


def dense(loss: Loss, w: Tensor) -> Tensor:
    """The Hessian by autograd through plain PyTorch, a row at a time."""
    module = loss.net.module(w).double().eval()
    names = loss.net.layout.names
    reference = {
        "cross_entropy": F.cross_entropy,
        "mse": lambda z, y: 0.5 * (z - F.one_hot(y, CLASSES)).square().sum(-1).mean(),
    }.get(loss.criterion.function, lambda z, y: loss.criterion.function(z, y).mean())

    def value(flat):
        parameters = loss.net.unflatten(flat)
        assert tuple(parameters) == names
        inputs = ((), loss.x) if isinstance(loss.x, dict) else ((loss.x,), {})
        z = torch.func.functional_call(module, parameters, *inputs)
        return reference(z if isinstance(z, torch.Tensor) else z.logits, loss.y)

    with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
        return torch.autograd.functional.hessian(value, w)


def close(a: Tensor, b: Tensor) -> None:
    """Equal to rounding in float64, relative to the largest entry."""
    torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-12 * b.abs().max().item())
