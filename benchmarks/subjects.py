"""What is measured on: networks with data, trained far enough to have a spectrum."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from benchmarks.harness import Settings
from flatlab.data import Examples
from flatlab.loss import Loss
from flatlab.models import cnn, mlp
from flatlab.network import Network
from flatlab.training import train


@dataclass(frozen=True)
class Parts:
    """A training set and nothing else: no time goes into records of other parts."""

    train: Examples


def blobs(settings: Settings, n: int, shape: tuple[int, ...] = (64,)) -> Parts:
    """Ten overlapping Gaussian classes."""
    g = torch.Generator().manual_seed(0)
    y = torch.randint(0, 10, (n,), generator=g)
    centres = torch.randn(10, *shape, generator=g)
    x = 0.5 * centres[y] + torch.randn(n, *shape, generator=g)
    x, y = x.to(settings.device), y.to(settings.device)
    return Parts(Examples(x, y, y))


@dataclass(frozen=True)
class Subject:
    """A trained network as everybody wants it: ours, and a plain module."""

    name: str
    net: Network
    w: Tensor
    module: nn.Module
    x: Tensor
    y: Tensor

    @property
    def loss(self) -> Loss:
        return Loss(self.net, (self.x, self.y))


def trained(
    settings: Settings, module: nn.Module, n: int, shape, seeds=(0,)
) -> tuple[Network, Tensor, Parts]:
    data = blobs(settings, n, shape)
    net = Network(module.to(settings.device))
    run = train(
        net, data, seeds=list(seeds), epochs=settings.size(10, 1), batch_size=100,
        lr=0.05, momentum=0.9, record=[], device=settings.device,
    )  # fmt: skip
    return net, run.w, data


def subject(settings: Settings, name: str, module: nn.Module, n: int, shape) -> Subject:
    net, w, data = trained(settings, module, n, shape)
    own = net.module(w[0]).to(settings.device).eval()
    return Subject(name, net, w[0], own, data.train.x, data.train.y)


def wide_mlp(settings: Settings, n: int = 4000) -> Subject:
    n = settings.size(n, 200)
    return subject(
        settings, f"MLP 64-256-256-10, n = {n:,}", mlp(64, 256, 256, 10), n, (64,)
    )


def small_mlp(settings: Settings) -> Subject:
    n = settings.size(1000, 100)
    return subject(
        settings, f"MLP 64-64-64-10, n = {n:,}", mlp(64, 64, 64, 10), n, (64,)
    )


def small_cnn(settings: Settings) -> Subject:
    n = settings.size(1000, 100)
    return subject(
        settings, f"CNN on 8×8 images, n = {n:,}", cnn((1, 8, 8), 10), n, (1, 8, 8)
    )


class Transformer(nn.Module):
    """Two encoder layers on sequences, their mean classified."""

    def __init__(self, width: int = 32, classes: int = 10):
        super().__init__()
        layer = nn.TransformerEncoderLayer(
            width, 4, 2 * width, dropout=0.0, activation="gelu", batch_first=True
        )
        self.encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.head = nn.Linear(width, classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.encoder(x).mean(1))


def small_transformer(settings: Settings) -> Subject:
    n = settings.size(500, 100)
    name = f"transformer on 16 tokens, n = {n:,}"
    return subject(settings, name, Transformer(), n, (16, 32))
