"""A first look at a model: ours, and its eigenvalues and trace from each peer."""

import torch

from benchmarks import peers
from benchmarks.harness import Line, Settings, interleaved, memories, ratios, spread
from benchmarks.subjects import Subject, wide_mlp
from flatlab.reports import report

TOPIC = "Report"
TOP = 5  # eigenvalues that a report names


def by_peers(subject: Subject):
    """The largest eigenvalues and the trace, as each gives them by default."""
    from hessian_eigenthings import lanczos, trace
    from nngeom.curvature import hutchinson_trace, lanczos_spectrum

    data = subject.x, subject.y

    def pyhessian():
        solver = peers.pyhessian(subject, data=data)
        return solver.eigenvalues(top_n=TOP), solver.trace()

    def eigenthings():
        A = peers.eigenthings(subject, [data])
        return lanczos(A, k=TOP, which="LA"), trace(A)

    def nngeom():
        model, batch = peers.nngeom(subject)
        return lanczos_spectrum(model, batch), hutchinson_trace(model, batch)

    return {
        "PyHessian": pyhessian,
        "hessian-eigenthings": eigenthings,
        "nngeom": nngeom,
    }


def measure(settings: Settings) -> list[Line]:
    subject = wide_mlp(settings, n=10_000)
    data = subject.x, subject.y
    torch.manual_seed(0)
    theirs = by_peers(subject) if settings.peers else {}
    calls = {
        "ours": lambda: report(subject.module, data),
        "gradient": lambda: subject.loss.gradient(subject.w),
        **theirs,
    }
    times, held = interleaved(settings, calls), memories(settings, calls)
    what = f"report, {subject.name}"
    return [
        Line(
            TOPIC, what, "a gradient of all examples",
            **spread(ratios(times["ours"], times["gradient"])), bar=20.0,
            at_most=True, quantity="times its time",
        )
    ] + [
        Line(
            TOPIC, what, f"{name}, {TOP} eigenvalues and the trace",
            **spread(ratios(times[name], times["ours"])), bar=1.0,
            note="ours with errors and sharpness, curvature of an eighth of the "
            "examples; theirs by default, of all",
            memory=(held["ours"], held[name]),
        )
        for name in theirs
    ]  # fmt: skip
