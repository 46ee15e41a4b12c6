"""Training an ensemble at once, against one network after another in plain PyTorch."""

import copy

import torch
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

from benchmarks.harness import Line, Settings, best, interleaved, ratios, spread
from benchmarks.subjects import blobs
from flatlab.models import mlp
from flatlab.network import Network
from flatlab.training import train

TOPIC = "Training ensembles"
BATCH, LR, MOMENTUM = 100, 0.05, 0.9
# bars by width: against the tensor loop and against the DataLoader loop
BARS = {64: (3.0, 6.0), 256: (1.0, None)}
GPU_BARS = {64: (50.0, None)}


def tensor_loop(module, x, y, epochs: int, **implementation) -> None:
    optimizer = torch.optim.SGD(
        module.parameters(), LR, momentum=MOMENTUM, **implementation
    )
    for _ in range(epochs):
        order = torch.randperm(len(x), device=x.device)
        for start in range(0, len(x), BATCH):
            batch = order[start : start + BATCH]
            optimizer.zero_grad()
            F.cross_entropy(module(x[batch]), y[batch]).backward()
            optimizer.step()


def loader_loop(module, x, y, epochs: int) -> None:
    optimizer = torch.optim.SGD(module.parameters(), LR, momentum=MOMENTUM)
    loader = DataLoader(TensorDataset(x.cpu(), y.cpu()), batch_size=BATCH, shuffle=True)
    for _ in range(epochs):
        for xb, yb in loader:
            xb, yb = xb.to(x.device), yb.to(y.device)
            optimizer.zero_grad()
            F.cross_entropy(module(xb), yb).backward()
            optimizer.step()


def measure(settings: Settings) -> list[Line]:
    gpu = settings.device.type == "cuda"
    data = blobs(settings, settings.size(1000, 200))
    x, y = data.train.x, data.train.y
    epochs = settings.size(4, 1)
    sizes = (64, 256) if gpu else (16, 32)
    lines = []
    for width in (32, 64, 256):
        module = mlp(64, width, width, 10).to(settings.device)
        net = Network(module)

        def alone(loop, module=module, **options):
            # networks one after another do not touch: the time of one says it all
            return lambda: loop(copy.deepcopy(module), x, y, epochs, **options)

        competitors = {
            "plain loop": alone(tensor_loop),
            "foreach loop": alone(tensor_loop, foreach=True),
            "fused loop": alone(tensor_loop, fused=True),
            "DataLoader loop": alone(loader_loop),
        }
        for members in sizes:

            def together(net=net, members=members):
                train(
                    net, data, seeds=range(members), epochs=epochs, batch_size=BATCH,
                    lr=LR, momentum=MOMENTUM, record=[], device=settings.device,
                )  # fmt: skip

            competitors[f"{members} members"] = together
        times = interleaved(settings, competitors)
        loop = best(times, ["plain loop", "foreach loop", "fused loop"])
        bars = (GPU_BARS if gpu else BARS).get(width, (None, None))
        for members in sizes:
            bars_here = bars if not gpu or members == max(sizes) else (None, None)
            ours = times[f"{members} members"]
            for name, said, bar in (
                (loop, f"the fastest tensor loop ({loop.split()[0]})", bars_here[0]),
                ("DataLoader loop", "a DataLoader loop", bars_here[1]),
            ):
                lines.append(
                    Line(
                        TOPIC,
                        f"{members} MLPs of width {width}",
                        said,
                        **spread(ratios(times[name], ours, members)),
                        bar=bar,
                    )
                )
    return lines
