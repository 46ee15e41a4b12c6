"""Measures of a whole ensemble at once, against its members one after another."""

import numpy as np
import torch
from torch import nn

from benchmarks.harness import Line, Settings, interleaved, ratios, spread
from benchmarks.peers import curvlinops_hessian
from benchmarks.subjects import Subject, trained
from flatlab.hessian import Hessian
from flatlab.loss import Loss
from flatlab.models import mlp
from flatlab.neighbourhoods import ball
from flatlab.sharpness import worst_case_sharpness
from flatlab.spectra import eigenvalues

TOPIC = "Ensembles measured"
# peers' members one after another: the time of so many says it all
FEW = 4


def measure(settings: Settings) -> list[Line]:
    members, n = settings.size(32, 4), settings.size(1000, 100)
    gpu = settings.device.type == "cuda"
    net, w, data = trained(
        settings, mlp(64, 64, 64, 10), n, (64,), seeds=range(members)
    )
    x, y = data.train.x, data.train.y
    loss = Loss(net, (x, y))
    name = f"{members} members of width 64, n = {n:,}"

    def top(w):
        return eigenvalues(Hessian(loss, w), k=1, tol=1e-3).values

    def worst(w):
        return worst_case_sharpness(loss, w, ball(0.05), steps=5, restarts=1).values

    lines = []
    for what, measured in (
        ("largest eigenvalue", top),
        ("worst-case sharpness", worst),
    ):
        together, alone = measured(w), torch.stack([measured(row) for row in w])
        torch.testing.assert_close(
            together.reshape(-1), alone.reshape(-1), rtol=2e-3, atol=1e-5
        )
        competitors = {
            "together": lambda f=measured: f(w),
            "in turn": lambda f=measured: [f(row) for row in w],
        }
        if settings.peers and measured is top:
            competitors["curvlinops"] = peer(net, w, x, y)
        times = interleaved(settings, competitors)
        lines.append(
            Line(
                TOPIC, f"{what}, {name}", "the same code, in turn",
                **spread(ratios(times["in turn"], times["together"])),
                bar=10.0 if gpu else 1.0,
            )
        )  # fmt: skip
        if "curvlinops" in times:
            lines.append(
                Line(
                    TOPIC, f"{what}, {name}", "curvlinops with SciPy, in turn",
                    **spread(
                        ratios(
                            times["curvlinops"], times["together"], len(w) / FEW
                        )
                    ),
                    bar=1.5,
                )
            )  # fmt: skip
    return lines


def peer(net, w, x, y):
    from scipy.sparse.linalg import eigsh

    modules: list[nn.Module] = [net.module(row).eval() for row in w[:FEW]]

    def solve():
        for module in modules:
            subject = Subject("", net, w[0], module, x, y)
            A = curvlinops_hessian(subject, [(x, y)])
            start = np.random.default_rng(0).standard_normal(A.shape[0])
            eigsh(
                A.to_scipy(np.float32), 1, which="LA", tol=1e-3,
                v0=start.astype("f4"), return_eigenvectors=False,
            )  # fmt: skip

    return solve
