"""A two-dimensional picture of the loss."""

import torch
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

from benchmarks.harness import Line, Settings, interleaved, ratios, spread
from benchmarks.subjects import wide_mlp
from flatlab.landscape import plane

TOPIC = "Loss surface"


@torch.no_grad()
def by_assignment(subject, loader, directions, points: int, span: float):
    """Write each point's weights into ``p.data`` and go through a loader."""
    module = subject.module
    parameters = list(module.parameters())
    sizes = [p.numel() for p in parameters]

    def place(flat):
        for p, part in zip(parameters, flat.split(sizes), strict=True):
            p.data = part.view(p.shape)

    grid = torch.linspace(-span, span, points)
    surface = torch.empty(points, points)
    for i, a in enumerate(grid):
        for j, b in enumerate(grid):
            place(subject.w + a * directions[0] + b * directions[1])
            total = 0.0
            for x, y in loader:
                x, y = x.to(subject.x.device), y.to(subject.x.device)
                total += F.cross_entropy(module(x), y, reduction="sum").item()
            surface[i, j] = total / len(subject.x)
    place(subject.w)
    return surface


def measure(settings: Settings) -> list[Line]:
    subject = wide_mlp(settings)
    points, span = settings.size(7, 3), 0.5
    loss = subject.loss
    ours = plane(loss, subject.w, span=span, points=points)
    loader = DataLoader(TensorDataset(subject.x.cpu(), subject.y.cpu()), batch_size=128)

    def theirs():
        return by_assignment(subject, loader, ours.directions, points, span)

    torch.testing.assert_close(
        theirs(), ours.losses.cpu(), rtol=1e-3, atol=1e-5, check_dtype=False
    )
    times = interleaved(
        settings,
        {
            "ours": lambda: plane(loss, subject.w, span=span, points=points),
            "theirs": theirs,
        },
    )
    return [
        Line(
            TOPIC, f"{points}×{points} points, {subject.name}",
            "p.data and a DataLoader of 128",
            **spread(ratios(times["theirs"], times["ours"])), bar=2.0,
        )
    ]  # fmt: skip
