"""A step of SAM, against a step of SGD and another library's SAM."""

import copy

import torch
from torch.nn import functional as F

from benchmarks.harness import Line, Settings, interleaved, ratios, spread
from benchmarks.subjects import blobs
from flatlab.models import mlp, resnet
from flatlab.neighbourhoods import ball
from flatlab.optim import SAM

TOPIC = "SAM"


def steps(settings: Settings, module, x, y) -> dict:
    """One step of everybody, each on a network of its own."""
    competitors = {}

    def add(name, make, step):
        model = copy.deepcopy(module).to(settings.device)
        optimizer = make(model)

        def closure():
            optimizer.zero_grad()
            loss = F.cross_entropy(model(x), y)
            loss.backward()
            return loss

        competitors[name] = lambda: step(optimizer, closure)

    def sgd(model):
        return torch.optim.SGD(model.parameters(), 1e-4, momentum=0.9)

    def first_backward(optimizer, closure):
        closure()
        optimizer.step(closure)

    add("SGD", sgd, lambda optimizer, closure: (closure(), optimizer.step()))
    add(
        "SAM",
        lambda model: SAM(sgd(model), ball(0.05), module=model),
        lambda optimizer, closure: optimizer.step(closure),
    )
    if settings.peers:
        import pytorch_optimizer

        add(
            "pytorch_optimizer",
            lambda model: pytorch_optimizer.SAM(
                model.parameters(), torch.optim.SGD, rho=0.05, lr=1e-4, momentum=0.9
            ),
            first_backward,
        )
    return competitors


def measure(settings: Settings) -> list[Line]:
    flat, images = blobs(settings, 100), blobs(settings, 32, (1, 8, 8))
    cases = [
        ("MLP 64-64-64-10, batch 100", mlp(64, 64, 64, 10), flat, 2.1),
        ("MLP 64-256-256-10, batch 100", mlp(64, 256, 256, 10), flat, 2.1),
        (
            "ResNet of 16-32-64 channels, batch 32",
            resnet((1, 8, 8), 10, channels=(16, 32, 64)),
            images,
            2.2,
        ),
    ]
    lines = []
    for name, module, data, bar in cases:
        times = interleaved(
            settings, steps(settings, module, data.train.x, data.train.y)
        )
        lines.append(
            Line(
                TOPIC, f"step, {name}", "a step of SGD",
                **spread(ratios(times["SAM"], times["SGD"])),
                bar=bar, at_most=True, quantity="times the time",
            )
        )  # fmt: skip
        if settings.peers:
            lines.append(
                Line(
                    TOPIC, f"step, {name}", "pytorch_optimizer's SAM",
                    **spread(ratios(times["pytorch_optimizer"], times["SAM"])), bar=1.0,
                )
            )  # fmt: skip
    return lines
