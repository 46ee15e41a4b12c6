"""The study: many networks, every measure, every outcome, one command.

``make study`` trains a grid of settings on training sets drawn from MNIST-1D and from
the handwritten digits, each network to the same training loss, measures each, and keeps
one row per network in ``results/<scale>/study.csv`` with where it comes from beside it
in ``study.json``.
"""

import argparse
import contextlib
import csv
import hashlib
import io
import json
import math
import random
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

import flatlab as fl
from flatlab.course import store
from flatlab.course.store import book_root, write_json, write_text
from flatlab.environment import needs

# Raised by hand when a change of the code changes what a unit gives.
VERSION = 2
# What makes a training set, and the settings of a network. A unit holds lists of those
# that can be trained together.
SET = ("source", "n", "corruption", "draw")
APART = ("width", "batch_size", "optimizer")
TOGETHER = ("rate", "weight_decay")
SETTINGS = (*APART, *TOGETHER)
AXES = (*SET, *SETTINGS, "seed")
TEXT = ("source", "optimizer")
EPOCHS = {16: 250, 64: 700}  # by batch size
# Sizes of the training sets, small and large; both are cut from one draw, side by side.
SIZES = {"mnist1d": (120, 450), "digits": (60, 190)}
LARGEST = 450  # and slowest: three draws on a laptop, of all others four
TESTED = {"mnist1d": 4000, "digits": 500}
# Neighbourhoods of the optimizers' names, as functions of the radius.
OPTIMIZERS = {"sam": fl.ball, "asam": fl.adaptive_ball}


@dataclass(frozen=True)
class Measure:
    """A number that may tell how well a network generalizes."""

    label: str  # as figures show it
    family: str
    over_n: bool = True  # theory divides it by the number of examples
    sign: int = 1  # 1 where larger should mean worse, -1 where it should mean better


RIDGE, SIGMA, RELATIVE_SIGMA = 3e-3, 0.02, 0.1
FLATNESS = ("flatness", "adaptive flatness")
MEASURES = {
    "top_eigenvalue": Measure("λmax", "flatness"),
    "trace": Measure("trace", "flatness"),
    "critical": Measure("critical sharpness", "flatness"),
    "sam": Measure("SAM, ρ = 0.5", "flatness"),
    "keskar": Measure("Keskar's box, 10⁻³", "flatness"),
    "average": Measure("average, σ = 0.02", "flatness"),
    "pac_bayes": Measure("PAC-Bayes 1/σ²", "flatness"),
    "bits": Measure("bits per weight", "flatness"),
    "asam": Measure("ASAM, ρ = 0.5", "adaptive flatness"),
    "adaptive_average": Measure("adaptive average, 0.1", "adaptive flatness"),
    "adaptive_pac_bayes": Measure("magnitude-aware 1/σ²", "adaptive flatness"),
    "fisher_rao": Measure("Fisher-Rao norm", "adaptive flatness"),
    "relative_flatness": Measure("relative flatness", "adaptive flatness"),
    "relative_all": Measure("relative flatness, all layers", "adaptive flatness"),
    "input": Measure("slope in the inputs", "function space", False),
    "norm": Measure("‖w‖", "norm"),
    "distance": Measure("‖w − w₀‖", "norm"),
    "path_norm": Measure("path norm", "norm"),
    "spectral_over_margin": Measure("Π ‖W‖₂ / margin", "norm"),
    "train_loss": Measure("training loss", "training", False),
    "gradient_norm": Measure("‖∇L‖", "training", False),
    "margin": Measure("margin, 10 %", "training", False, -1),
    "steps": Measure("steps taken", "training", False),
}
OUTCOMES = {
    "test_error": "test error",
    "loss_gap": "loss gap",
    "shift_error": "error under shift",
    "adversarial_error": "adversarial error",
}
COLUMNS = (*AXES, "fitted", "epochs", *MEASURES, "soft_rank", *OUTCOMES)
ATTACKED = 300
ATTACK_RADIUS = 0.2
SHIFT = 2.0


# ------------------------------------------------------------------------- the grid


def units(at: str | None = None) -> list[dict]:
    """The units of a scale's study, keyword arguments of ``networks``, as computed.

    A unit is one ensemble: the settings that can be stacked (learning rate, weight
    decay) are lists and every combination of them is a member, with two seeds. The
    order is shuffled, so that the first rows are a fair sample of all. ``smoke`` is a
    few short networks.
    """
    at = at or fl.scale()
    small = at == "smoke"
    lists = {"rate": [0.08, 0.25], "weight_decay": [0.0, RIDGE]}
    if at == "gpu":
        lists["rate"] = [0.08, 0.12, 0.17, 0.25]
        lists["weight_decay"] = [0.0, 5e-4, 1e-3, 2e-3, RIDGE]
    kinds = [(0, 0.0), (1, 0.0), (1, 0.1)]
    choices = {
        "data": [
            (source, SIZES[source][size], corruption)
            for source in SIZES
            for size, corruption in (kinds[:1] if small else kinds)
        ],
        "draw": range(1 if small else 4),
        "width": [24] if small else [24, 64],
        "batch_size": [64] if small else [16, 64],
        "optimizer": ["sgd", "sam 0.1"] if small else ["sgd", "sam 0.1", "asam 0.5"],
    }
    found = []
    for i, values in enumerate(product(*choices.values())):
        unit = dict(zip(choices, values, strict=True))
        unit["source"], unit["n"], unit["corruption"] = unit.pop("data")
        epochs = 2 if small else EPOCHS[unit["batch_size"]]
        unit.update(lists, repeats=2, seed=i, epochs=epochs)
        if at != "laptop" or unit["n"] < LARGEST or unit["draw"] < 3:
            found.append({**unit, "stop_loss": 0.1, "version": VERSION})
    random.Random(0).shuffle(found)
    return found


def short_units() -> list[dict]:
    """Five single networks, two epochs each: what a test computes again."""
    return [
        {
            **unit,
            **{name: unit[name][i % 2 : i % 2 + 1] for name in TOGETHER},
            "repeats": 1,
            "epochs": 2,
        }
        for i, unit in enumerate(units("laptop")[:5])
    ]


# ---------------------------------------------------------------------- one ensemble


@contextlib.contextmanager
def _one_thread():
    """Sums come in another order with other threads: all rows are made with one."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def training_set(source: str, n: int, corruption: float, draw: int) -> fl.Dataset:
    """A training set of the study, with the test set that goes with its draw.

    The draws of MNIST-1D are those of its generator. The digits are split once into
    500 to test and 1,000 to train, of which every draw takes a part that no other has.
    The two sizes of a draw share no example.
    """
    small, large = SIZES[source]
    if source == "mnist1d":
        data, first = fl.data.mnist1d(seed=draw), 0
    else:
        data, first = fl.data.digits(seed=0), draw * (small + large)
    first += small if n == large else 0
    part, tested = data.train[first : first + n], data.test[: TESTED[source]]
    data = replace(data, train=part, test=tested)
    return fl.data.corrupt_labels(data, corruption, seed=draw) if corruption else data


def networks(
    *,
    source: str,
    n: int,
    corruption: float,
    draw: int,
    width: int,
    batch_size: int,
    optimizer: str,
    rate: Sequence[float],
    weight_decay: Sequence[float],
    repeats: int,
    seed: int,
    epochs: int,
    stop_loss: float,
    version: int = VERSION,
) -> dict:
    """Train and measure one unit of the study: dense networks of two hidden layers.

    Every network is trained until its loss on the whole training set is below
    ``stop_loss`` at the end of an epoch, so that what is compared fits its data
    equally well.

    The members have seeds of their own, 100 ``seed`` and the numbers after it, and so
    other starts and other batches. In the grid no two networks share a seed: what one
    start happens to do to the error is then not taken for what a setting does.

    Args:
        source: "mnist1d" or "digits".
        n: training examples.
        corruption: share of the training labels drawn anew.
        draw: which of the independent training sets.
        width: of both hidden layers.
        batch_size: examples per step.
        optimizer: "sgd", or a neighbourhood with its radius, such as "sam 0.1".
        rate: learning rates.
        weight_decay: values.
        repeats: seeds of every combination.
        seed: block of seeds, each of one start and of all that is random in training.
        epochs: the most that are trained.
        stop_loss: cross-entropy in nats below which training stops.
        version: not used but for telling rows apart.

    Returns:
        ``{"networks": rows}``, one dict per combination of the two lists and seed: its
        settings, ``fitted`` (whether it reached ``stop_loss``), ``epochs`` trained, the
        measures and the outcomes, of the first draw the soft rank as well; None for
        what is not finite.
    """
    apart = (source, n, corruption, draw, width, batch_size, optimizer)
    with _one_thread():
        data = training_set(source, n, corruption, draw).to(fl.device())
        layers = data.train.x[0].numel(), width, width, data.classes
        net = fl.Network(fl.models.mlp(*layers))
        members = list(product(rate, weight_decay, range(repeats)))
        seeds = range(100 * seed, 100 * seed + len(members))
        rates, decays, _ = torch.tensor(members).T
        with warnings.catch_warnings():
            # the rows say which members diverged
            warnings.filterwarnings("ignore", "training diverged")
            run = fl.train(
                net,
                data,
                seeds=seeds,
                epochs=epochs,
                batch_size=batch_size,
                lr=rates,
                weight_decay=decays,
                neighbourhood=_neighbourhood(optimizer),
                stop_loss=stop_loss,
                record=[epochs],
            )
        whole = run.w.isfinite().all(1)
        found = {
            "fitted": run.fitted,
            "epochs": run.stopped,
            "steps": run.stopped * math.ceil(n / batch_size),
        }
        if whole.any():
            w = run.w[whole]
            start = net.init(seeds, device=w.device)[whole]
            found |= measure(net, data, w, start) | judge(net, data, w)
            if draw == 0:  # it costs as much as all else together
                found |= _soft_rank(net, data, w)
        rows = [
            dict(zip(AXES, (*apart, a, b, own), strict=True))
            for (a, b, _), own in zip(members, seeds, strict=True)
        ]
        for name, values in found.items():
            of_all = len(values) == len(rows)
            places = range(len(rows)) if of_all else whole.nonzero().flatten().tolist()
            for i, value in zip(places, values.tolist(), strict=True):
                rows[i][name] = _plain(value)
    return {"networks": rows}


def _neighbourhood(optimizer: str):
    """What the optimizer's name, such as "sam 0.1", stands for."""
    kind, _, radius = optimizer.partition(" ")
    if optimizer == "sgd":
        return None
    if kind not in OPTIMIZERS or not radius:
        raise ValueError(
            f"optimizer is {optimizer!r}, expected 'sgd', or 'sam' or 'asam' with a "
            "radius, such as 'sam 0.1'"
        )
    return OPTIMIZERS[kind](float(radius))


def _plain(value):
    """A number as JSON takes it, with the digits that float32 has."""
    if isinstance(value, float):
        return float(f"{value:.7g}") if math.isfinite(value) else None
    return value


def measure(
    net: fl.Network, data: fl.Dataset, w: Tensor, start: Tensor
) -> dict[str, Tensor]:
    """Everything about trained networks that may tell how well they generalize.

    Nothing here looks at the validation or the test split.

    Args:
        net: a network of dense layers.
        data: whose train split the networks fitted.
        w: (members, k) weights.
        start: (members, k) weights before training.

    Returns:
        (members,) values for every name in ``MEASURES`` but ``steps``.
    """
    loss, k = fl.Loss(net, data.train), net.k
    hessian = fl.Hessian(loss, w)

    def worst(neighbourhood):
        found = fl.worst_case_sharpness(loss, w, neighbourhood, steps=10, restarts=1)
        return found.values

    def average(neighbourhood):
        return fl.average_sharpness(loss, w, neighbourhood, samples=16).values

    matrices = [m for m in net.unflatten(w).values() if m.ndim == 3]
    spectral = torch.stack([torch.linalg.matrix_norm(m, 2) for m in matrices]).prod(0)
    margin = _margin(loss, w)
    ones = torch.ones_like(data.train.x[:1], dtype=w.dtype)
    modules = net.module(w[0]).named_modules()
    dense = [name for name, m in modules if isinstance(m, nn.Linear)]
    layers = torch.stack([fl.relative_flatness(loss, w, layer) for layer in dense])
    return {
        "top_eigenvalue": fl.eigenvalues(hessian, tol=1e-2).values[:, 0],
        "trace": fl.trace(hessian, tol=5e-2).values,
        "critical": fl.critical_sharpness(loss, w).values,
        "sam": worst(fl.ball(0.5)),
        "keskar": fl.keskar_sharpness(loss, w, 1e-3, steps=10, restarts=1).values,
        "average": average(fl.ball(SIGMA * math.sqrt(k))),
        "pac_bayes": fl.pac_bayes_sharpness(loss, w).values,
        "bits": fl.bits_per_weight(loss, w).bits,
        "asam": worst(fl.adaptive_ball(0.5)),
        "adaptive_average": average(fl.adaptive_ball(RELATIVE_SIGMA * math.sqrt(k))),
        "adaptive_pac_bayes": fl.pac_bayes_sharpness(
            loss, w, magnitude_aware=True
        ).values,
        "fisher_rao": fl.fisher_rao_norm(loss, w),
        "relative_flatness": layers[-1],
        "relative_all": layers.sum(0),
        "input": _slope(loss, w),
        "norm": w.norm(dim=1),
        "distance": (w - start).norm(dim=1),
        "path_norm": net(w.square(), ones).sum((1, 2)).sqrt(),
        # a network that errs on more than a tenth has no positive margin
        "spectral_over_margin": spectral / margin.where(margin > 0, torch.nan),
        "train_loss": loss(w),
        "gradient_norm": fl.gradient_norm(loss, w),
        "margin": margin,
    }


def _soft_rank(net: fl.Network, data: fl.Dataset, w: Tensor) -> dict[str, Tensor]:
    """With two probes of 80 steps: to a quarter or so, which is said by no warning."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*did not reach tol")
        hessian = fl.Hessian(fl.Loss(net, data.train), w)
        found = fl.soft_rank(hessian, RIDGE, steps=80, max_products=170)
    return {"soft_rank": found.values}


def _slope(loss: fl.Loss, w: Tensor) -> Tensor:
    """Mean over examples of the squared Frobenius norm of the logits' Jacobian in x."""
    parts, grad = [], torch.autograd.grad
    for x, *_ in loss.chunks(w):
        x = x.expand(len(w), *x.shape).clone().requires_grad_()
        logits = loss.net.evaluate(loss.net.unflatten(w), x, own_inputs=True)
        slopes = [grad(z.sum(), x, retain_graph=True)[0] for z in logits.unbind(-1)]
        parts.append(torch.stack([s.square().flatten(2).sum(2) for s in slopes]))
    return sum(of_class.mean(1) for of_class in torch.cat(parts, 2))


def _margin(loss: fl.Loss, w: Tensor) -> Tensor:
    """Lead of the label's logit over the next, which a tenth of the examples miss."""
    leads = []
    for part, logits in loss.outputs(w):
        label = loss.y[part].to(w.device).expand(len(w), -1)[..., None]
        own = logits.gather(2, label)[..., 0]
        leads.append(own - logits.scatter(2, label, -math.inf).amax(2))
    return torch.cat(leads, 1).quantile(0.1, dim=1)


def judge(net: fl.Network, data: fl.Dataset, w: Tensor) -> dict[str, Tensor]:
    """How well networks do on examples that they have not seen.

    Returns (members,) values for every name in ``OUTCOMES``: the error on the test
    split; how much larger the cross-entropy there is than on the train split; the error
    where a ramp from -2 to 2 standard deviations, up for one example and down for the
    next, is added along every signal or row of an image; and the error of the first 300
    under an attack of ten steps and Euclidean norm 0.2.
    """
    train_loss, test_loss = (fl.Loss(net, part) for part in (data.train, data.test))
    x, y = data.test.x, data.test.y
    ramp = torch.linspace(-SHIFT, SHIFT, x.shape[-1], device=x.device, dtype=x.dtype)
    up = 1 - 2 * (torch.arange(len(x), device=x.device) % 2)
    shifted = fl.Loss(net, (x + up.view(-1, *[1] * (x.ndim - 1)) * ramp, y))
    few = x[:ATTACKED], y[:ATTACKED]
    attack = fl.pgd(net, w, *few, fl.ball(ATTACK_RADIUS), steps=10)
    return {
        "test_error": 1 - test_loss.accuracy(w),
        "loss_gap": test_loss(w) - train_loss(w),
        "shift_error": 1 - shifted.accuracy(w),
        "adversarial_error": attack.success.to(w.dtype).mean(-1),
    }


# -------------------------------------------------------------------------- the table


def table(rows: list[dict]) -> dict[str, np.ndarray]:
    """One column per setting, measure and outcome, one row per network.

    Floats, NaN where a network has no value, but for ``source`` and ``optimizer``
    (text) and ``fitted`` (bool).
    """
    columns = {}
    for name in COLUMNS:
        values = [row.get(name) for row in rows]
        if name not in TEXT:
            values = np.array([np.nan if v in (None, "") else v for v in values], float)
        columns[name] = np.asarray(values)
    columns["fitted"] = columns["fitted"] == 1
    return columns


def read(at: str | None = None, path: str | Path | None = None) -> dict:
    """Read the stored study of a scale, as ``table`` gives it."""
    path = Path(path or _folder(at or fl.scale()) / "study.csv")
    with open(path, newline="", encoding="utf-8") as file:
        return table(list(csv.DictReader(file)))


def about(at: str | None = None) -> dict:
    """Read where the stored study comes from.

    Versions, device, processor time, checksum, and the rows of ``short_units`` under
    ``short``.
    """
    path = _folder(at or fl.scale()) / "study.json"
    return json.loads(path.read_text(encoding="utf-8"))


def _folder(at: str) -> Path:
    """Where the study is kept; the smallest one only tries the code."""
    return book_root() / ("_build/results" if at == "smoke" else "results") / at


def write(done: store.Sweep, short: store.Sweep, at: str) -> Path:
    """Keep the rows of a finished study and where they come from: path of the table.

    Args:
        done: the sweep over ``units(at)``.
        short: the sweep over ``short_units()``.
        at: the scale.
    """
    rows = [row for unit in done.rows for row in unit["networks"]]
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows({**row, "fitted": int(row["fitted"])} for row in rows)
    path = write_text(_folder(at) / "study.csv", text.getvalue().rstrip("\n"))
    about = {
        **store.provenance(),
        "threads": 1,
        "scale": at,
        "version": VERSION,
        "units": len(done.rows),
        "networks": len(rows),
        "fitted": sum(row["fitted"] for row in rows),
        "failed": [error for _, error in done.failed.values()],
        "processor_seconds": round(done.seconds),
        "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
        "short": [row for unit in short.rows for row in unit["networks"]],
    }
    write_json(path.with_suffix(".json"), about)
    return path


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the study of the current scale, or go on with it.

    Returns 0 if every unit has its row, 1 if some failed or are with another process.
    """
    parser = argparse.ArgumentParser(
        prog="python -m flatlab.course.study",
        description="Train and measure the networks of the study, or go on with it. "
        "The environment variable FLATLAB_SCALE says which: smoke, laptop or gpu.",
    )
    parser.add_argument("--jobs", type=int, default=None, help="processes")
    parser.add_argument("--scheduler", help="address of a Dask scheduler")
    parser.add_argument("--store", help="folder for the units' files")
    parser.add_argument("--retry", action="store_true", help="units that failed, too")
    parser.add_argument("--collect", action="store_true", help="compute nothing more")
    given = parser.parse_args(arguments)
    at = fl.scale()
    print(f"the study at the scale {at}, which FLATLAB_SCALE chooses")
    folder = Path(given.store or book_root() / "_build" / "study" / at)
    if given.collect:
        done = store.collect(units(at), folder)
    else:
        for draw in range(4):  # drawn once, before many processes ask for it
            fl.data.mnist1d(seed=draw)
        options = {"jobs": given.jobs, "retry": given.retry, "label": f"study, {at}"}
        with contextlib.ExitStack() as stack:
            if given.scheduler:
                client = needs("distributed", "study").Client
                stack.enter_context(client(given.scheduler))
                stack.enter_context(needs("joblib", "study").parallel_config("dask"))
            done = store.sweep(networks, units(at), folder, **options)
    print(done.report())
    if done.rows:
        short = store.sweep(networks, short_units(), folder, jobs=1, label="short runs")
        print(f"wrote {write(done, short, at)}")
    return 0 if done.complete else 1


if __name__ == "__main__":
    # under the module's own name, so that workers find its functions
    from flatlab.course.study import main as run

    raise SystemExit(run())
