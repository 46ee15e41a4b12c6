"""Projected gradient attacks: as strong as another library's at equal steps?"""

import math

import torch
from torch.nn import functional as F

from benchmarks.harness import Line, Settings, interleaved, ratios, spread
from benchmarks.subjects import Parts, blobs
from flatlab.attacks import pgd
from flatlab.data import Examples
from flatlab.models import mlp
from flatlab.neighbourhoods import ball
from flatlab.network import Network
from flatlab.training import train

TOPIC = "Attacks"
BOX = (0, 1)


def textbook(module, x, y, radius, p, steps):
    """The loop of Madry et al. (2018): ball, then box, and the last point counts."""
    size, point = 2.5 * radius / steps, x
    for _ in range(steps):
        point = point.detach().requires_grad_()
        loss = F.cross_entropy(module(point), y, reduction="sum")
        (gradient,) = torch.autograd.grad(loss, point)
        if p == 2:
            length = gradient.norm(dim=1, keepdim=True).clamp_min(1e-12)
            delta = point.detach() + size * gradient / length - x
            length = delta.norm(dim=1, keepdim=True).clamp_min(radius)
            delta = delta * radius / length
        else:
            delta = point.detach() + size * gradient.sign() - x
            delta = delta.clamp(-radius, radius)
        point = (x + delta).clamp(*BOX)
    return point.detach()


def foolbox(module, x, y, radius, p, steps):
    """The same search by foolbox."""
    from foolbox import PyTorchModel, attacks

    kind = (
        attacks.L2ProjectedGradientDescentAttack
        if p == 2
        else attacks.LinfProjectedGradientDescentAttack
    )
    attack = kind(abs_stepsize=2.5 * radius / steps, steps=steps, random_start=False)
    model = PyTorchModel(module, bounds=BOX, device=x.device)
    return attack(model, x, y, epsilons=radius)[0]


def reached(module, x, y) -> tuple[float, float]:
    """Mean cross-entropy and share of wrong predictions, by the module itself."""
    with torch.no_grad():
        logits = module(x)
    loss = F.cross_entropy(logits, y)
    return float(loss), float((logits.argmax(1) != y).float().mean())


def measure(settings: Settings) -> list[Line]:
    members, n = settings.size(8, 2), settings.size(200, 50)
    data = blobs(settings, n)
    x, y = data.train.x.sigmoid(), data.train.y
    net = Network(mlp(64, 128, 128, 10).to(settings.device))
    run = train(
        net, Parts(Examples(x, y, y)), seeds=range(members), lr=0.05, momentum=0.9,
        epochs=settings.size(20, 1), batch_size=50, record=[], device=settings.device,
    )  # fmt: skip
    modules = [net.module(w).to(settings.device).eval() for w in run.w]
    rivals = {"a loop in plain PyTorch": textbook}
    if settings.peers:
        rivals["foolbox"] = foolbox
    lines, steps = [], 20
    for p, radius, name in ((2, 0.3, "ℓ2"), (math.inf, 0.04, "ℓ∞")):
        what = f"{members} networks, {n} inputs, {name}, {steps} steps"

        def ours(p=p, radius=radius):
            found = pgd(net, run.w, x, y, ball(radius, p), steps=steps, box=BOX)
            return found.x_adversarial

        def theirs(attack, p=p, radius=radius):
            return [attack(m, x, y, radius, p, steps) for m in modules]

        found = [reached(m, point, y) for m, point in zip(modules, ours(), strict=True)]
        for rival, attack in rivals.items():
            points = theirs(attack)
            others = [reached(m, q, y) for m, q in zip(modules, points, strict=True)]
            for i, quantity in enumerate(("the loss reached", "the success rate")):
                pairs = [
                    a[i] / max(b[i], 1e-9) for a, b in zip(found, others, strict=True)
                ]
                mean = sum(a[i] for a in found) / members
                note = f"{mean:.2f} nats" if i == 0 else f"{mean:.0%}"
                lines.append(
                    Line(
                        TOPIC, what, rival, **spread(pairs), bar=1.0,
                        quantity=f"times {quantity}", note=f"here {note}",
                    )
                )  # fmt: skip
        if settings.peers:
            times = interleaved(
                settings, {"flatlab": ours, "foolbox": lambda g=theirs: g(foolbox)}
            )
            lines.append(
                Line(
                    TOPIC, what, "foolbox, network by network",
                    **spread(ratios(times["foolbox"], times["flatlab"])), bar=1.0,
                )
            )  # fmt: skip
    return lines
