"""One product of the Hessian and a vector."""

import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from benchmarks.harness import Line, Settings, interleaved, ratios, spread
from benchmarks.subjects import Subject, small_cnn, wide_mlp
from flatlab.hessian import Hessian

TOPIC = "Hessian-vector product"


def curvlinops_hessian(subject: Subject, data):
    """The Hessian of a peer on the same network and loss."""
    import curvlinops

    return curvlinops.HessianLinearOperator(
        subject.module,
        nn.CrossEntropyLoss(),
        [p for p in subject.module.parameters() if p.requires_grad],
        data,
        check_deterministic=False,
    )


def pyhessian(subject: Subject, **data):
    """PyHessian, with gradients cleared first: it adds to what it finds there."""
    from pyhessian import hessian

    subject.module.zero_grad()
    return hessian(
        subject.module, nn.CrossEntropyLoss(), cuda=subject.x.is_cuda, **data
    )


def measure(settings: Settings) -> list[Line]:
    lines = []
    for make in (wide_mlp, small_cnn):
        subject = make(settings)
        H = Hessian(subject.loss, subject.w)
        v = torch.randn(subject.w.shape, generator=torch.Generator().manual_seed(0))
        v = v.to(subject.w)
        competitors = {"ours": lambda H=H, v=v: H @ v}
        if settings.peers:
            loader = DataLoader(TensorDataset(subject.x, subject.y), batch_size=100)
            whole = curvlinops_hessian(subject, [(subject.x, subject.y)])
            parts = curvlinops_hessian(subject, loader)
            theirs = pyhessian(subject, dataloader=loader)
            shaped = [
                part.view_as(p)
                for part, p in zip(
                    v.split([p.numel() for p in theirs.params]),
                    theirs.params,
                    strict=True,
                )
            ]
            error = (whole @ v - H @ v).norm() / (H @ v).norm()
            if error > 1e-4:
                raise RuntimeError(f"the products differ by {error:.1e}")
            competitors |= {
                "whole": lambda A=whole, v=v: A @ v,
                "parts": lambda A=parts, v=v: A @ v,
                "pyhessian": lambda A=theirs, v=shaped: A.dataloader_hv_product(v),
            }
        times = interleaved(settings, competitors)
        for name, said, bar in (
            ("whole", "curvlinops, full batch", 1.5),
            ("parts", "curvlinops, DataLoader of 100", 3.0),
            ("pyhessian", "PyHessian, DataLoader of 100", 3.0),
        ):
            if name in times:
                lines.append(
                    Line(
                        TOPIC, subject.name, said,
                        **spread(ratios(times[name], times["ours"])), bar=bar,
                    )
                )  # fmt: skip
    return lines
