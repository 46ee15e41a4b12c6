"""One product of the Hessian and a vector."""

import torch
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset
from torch.utils.flop_counter import FlopCounterMode

from benchmarks import peers
from benchmarks.harness import Line, Settings, interleaved, memories, ratios, spread
from benchmarks.subjects import small_cnn, small_transformer, wide_mlp
from flatlab.hessian import Hessian

TOPIC = "Hessian-vector product"
# bars of a product in gradients, full batch, and against PyHessian's loader
SUBJECTS = (
    (wide_mlp, 1.6, 3.0),
    (small_cnn, 2.4, 3.2),
    (small_transformer, None, None),
)


def competitors(subject, v):
    """What everybody calls for one product, and how far it is from ours."""
    loader = DataLoader(TensorDataset(subject.x, subject.y), batch_size=100)
    batch = [(subject.x, subject.y)]
    theirs = peers.pyhessian(subject, dataloader=loader)
    sizes = [p.numel() for p in theirs.params]
    shaped = [
        part.view_as(p) for part, p in zip(v.split(sizes), theirs.params, strict=True)
    ]
    whole = peers.curvlinops_hessian(subject, batch)
    parts = peers.curvlinops_hessian(subject, loader)
    eigen = peers.eigenthings(subject, batch)
    eigen_parts = peers.eigenthings(subject, loader)
    calls = {
        "curvlinops, full batch": lambda: whole @ v,
        "curvlinops, DataLoader of 100": lambda: parts @ v,
        "PyHessian, DataLoader of 100": lambda: theirs.dataloader_hv_product(shaped),
        "hessian-eigenthings, full batch": lambda: eigen.matvec(v),
        "hessian-eigenthings, DataLoader of 100": lambda: eigen_parts.matvec(v),
    }
    truth = Hessian(subject.loss, subject.w) @ v
    errors = {}
    for name, call in calls.items():
        found = call()
        if name.startswith("PyHessian"):
            found = torch.cat([part.flatten() for part in found[1]])
        errors[name] = ((found - truth).norm() / truth.norm()).item()
    if sorted(errors.values())[1] > 1e-4:
        raise RuntimeError(f"no two peers find our product: they differ by {errors}")
    return calls, errors


def multiplications(call) -> int:
    """Of numbers in matrix products and convolutions, and additions, in one call."""
    with FlopCounterMode(display=False) as counter:
        call()
    return counter.get_total_flops()


def measure(settings: Settings) -> list[Line]:
    lines = []
    for make, gradients, loader in SUBJECTS:
        subject = make(settings)
        H = Hessian(subject.loss, subject.w)
        g = torch.Generator().manual_seed(0)
        v = torch.randn(subject.w.shape, generator=g).to(subject.w)

        def gradient(subject=subject):
            loss = F.cross_entropy(subject.module(subject.x), subject.y)
            return torch.autograd.grad(loss, peers.parameters(subject))

        calls = {"ours": lambda H=H, v=v: H @ v, "gradient": gradient}
        errors = {}
        with peers.twice_differentiable():
            if settings.peers:
                theirs, errors = competitors(subject, v)
                calls |= theirs
            times = interleaved(settings, calls)
            least = multiplications(calls["ours"]) / multiplications(gradient)
            # ours keeps its graph for the next product: count it
            whole = {"ours": lambda s=subject, v=v: Hessian(s.loss, s.w) @ v}
            held = memories(settings, calls | whole)
        lines.append(
            Line(
                TOPIC, subject.name, "plain PyTorch, one gradient",
                **spread(ratios(times["ours"], times.pop("gradient"))),
                bar=gradients, at_most=True, quantity="gradients' time",
                memory=(held["ours"], held["gradient"]),
                note=f"of multiplications alone {least:.2f}",
            )
        )  # fmt: skip
        bars = {
            "curvlinops, full batch": 1.5,
            "curvlinops, DataLoader of 100": 3.0,
            "PyHessian, DataLoader of 100": loader,
            "hessian-eigenthings, full batch": 1.5,
            "hessian-eigenthings, DataLoader of 100": 3.0,
        }
        lines += [
            Line(
                TOPIC, subject.name, name, **spread(ratios(times[name], times["ours"])),
                bar=bar if loader else None, memory=(held["ours"], held[name]),
                note=f"theirs is off by {errors[name]:.0e}" * (errors[name] > 1e-4),
            )
            for name, bar in bars.items()
            if name in times
        ]  # fmt: skip
    return lines
