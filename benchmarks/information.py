"""Binned information of an ensemble's layers, against NumPy a layer at a time."""

import numpy as np
import torch
from torch import Tensor

from benchmarks.harness import Line, Settings, interleaved, ratios, spread
from flatlab.information import binned_information

TOPIC = "Information"
UNITS = (12, 10, 7, 5, 4, 3, 2)  # of the network of Shwartz-Ziv & Tishby


def entropy(codes: np.ndarray) -> float:
    """In bits, of the rows of (n, units)."""
    rows = np.ascontiguousarray(codes).view([("", codes.dtype)] * codes.shape[1])
    share = np.unique(rows, return_counts=True)[1] / len(codes)
    return float(-(share * np.log2(share)).sum())


def by_numpy(layers: list[Tensor], y: Tensor, bins: int | None) -> np.ndarray:
    """I(X;T) and I(T;Y), (2, members, layers), by ``digitize`` and ``unique``."""
    edges = np.linspace(-1, 1, (bins or 0) + 1)
    found = np.empty((2, len(layers[0]), len(layers)))
    labels = y.numpy()
    for j, layer in enumerate(layers):
        for i, t in enumerate(layer.numpy()):
            codes = np.digitize(t, edges[1:-1]) if bins else t
            given = [
                (labels == label).mean() * entropy(codes[labels == label])
                for label in np.unique(labels)
            ]
            whole = entropy(codes)
            found[:, i, j] = whole, whole - sum(given)
    return found


def measure(settings: Settings) -> list[Line]:
    n, members = settings.size(4096, 64), settings.size(16, 2)
    g = torch.Generator().manual_seed(0)
    x = torch.randn(members, n, UNITS[0], generator=g)
    y = torch.randint(0, 2, (n,), generator=g)
    layers = []
    for width in UNITS:
        x = torch.tanh(x @ torch.randn(members, x.shape[-1], width, generator=g))
        layers.append(x)
    lines = []
    for bins, name in ((30, "30 bins"), (None, "no bins")):
        calls = {
            "ours": lambda bins=bins: binned_information(
                layers, y, bins=bins, range=(-1, 1)
            ),
            "theirs": lambda bins=bins: by_numpy(layers, y, bins),
        }
        ours, theirs = calls["ours"](), calls["theirs"]()
        np.testing.assert_allclose(ours.xt, theirs[0], atol=1e-4)
        np.testing.assert_allclose(ours.ty, theirs[1], atol=1e-4)
        times = interleaved(settings, calls)
        lines.append(
            Line(
                TOPIC, f"{name}, {members} networks, seven layers, n = {n:,}",
                "NumPy's digitize and unique",
                **spread(ratios(times["theirs"], times["ours"])), bar=1.0,
            )
        )  # fmt: skip
    return lines
