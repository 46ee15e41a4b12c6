"""The study: many networks, every measure, every outcome, one command.

``make study`` trains a grid of settings on MNIST-1D, each network to the same training
loss, measures each, and keeps one row per network in ``results/<scale>/study.csv`` with
where it comes from beside it in ``study.json``.
"""

import argparse
import contextlib
import csv
import hashlib
import json
import math
import random
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from flatlab.attacks import pgd
from flatlab.bounds import kl_gaussians
from flatlab.course.store import (
    Sweep,
    book_root,
    collect,
    provenance,
    sweep,
    write_json,
)
from flatlab.data import Dataset, corrupt_labels, mnist1d
from flatlab.environment import device, needs, scale
from flatlab.hessian import Hessian
from flatlab.loss import Loss
from flatlab.models import mlp
from flatlab.neighbourhoods import adaptive_ball, ball
from flatlab.network import Network
from flatlab.noise import bits_per_weight, pac_bayes_sharpness
from flatlab.sharpness import (
    average_sharpness,
    fisher_rao_norm,
    gradient_norm,
    keskar_sharpness,
    relative_flatness,
    worst_case_sharpness,
)
from flatlab.spectra import eigenvalues, trace
from flatlab.training import train

# Raised by hand when a change of the code changes what a unit gives.
VERSION = 1
# Settings of a network. A unit holds lists of those that can be trained together.
APART = ("n", "corruption", "width", "depth", "dropout", "batch_size", "optimizer")
TOGETHER = ("rate", "momentum", "weight_decay")
AXES = (*APART, *TOGETHER, "seed")
# Neighbourhoods of the optimizers' names, as functions of the radius.
OPTIMIZERS = {"sam": ball, "asam": adaptive_ball}


@dataclass(frozen=True)
class Measure:
    """A number that may tell how well a network generalizes."""

    label: str  # as figures show it
    family: str
    sign: int = 1  # 1 where larger should mean worse, -1 where it should mean better


MEASURES = {
    "top_eigenvalue": Measure("λmax", "flatness"),
    "trace": Measure("trace", "flatness"),
    "sam_0.05": Measure("SAM, ρ = 0.05", "flatness"),
    "sam_0.5": Measure("SAM, ρ = 0.5", "flatness"),
    "keskar": Measure("Keskar's box, 10⁻³", "flatness"),
    "average": Measure("average, σ = 0.02", "flatness"),
    "pac_bayes": Measure("PAC-Bayes 1/σ²", "flatness"),
    "bits": Measure("bits per weight", "flatness"),
    "asam_0.5": Measure("ASAM, ρ = 0.5", "adaptive flatness"),
    "asam_max": Measure("ASAM, p = ∞, 0.01", "adaptive flatness"),
    "asam_filter": Measure("ASAM by filter, 0.05", "adaptive flatness"),
    "adaptive_average": Measure("adaptive average, 0.1", "adaptive flatness"),
    "adaptive_pac_bayes": Measure("magnitude-aware 1/σ²", "adaptive flatness"),
    "fisher_rao": Measure("Fisher-Rao norm", "adaptive flatness"),
    "relative_flatness": Measure("relative flatness", "adaptive flatness"),
    "norm": Measure("‖w‖", "norm"),
    "distance": Measure("‖w − w₀‖", "norm"),
    "frobenius_product": Measure("Π ‖W‖_F", "norm"),
    "spectral_product": Measure("Π ‖W‖₂", "norm"),
    "path_norm": Measure("path norm", "norm"),
    "spectral_over_margin": Measure("Π ‖W‖₂ / margin", "norm"),
    "kl_origin": Measure("KL from 0", "bound"),
    "kl_start": Measure("KL from w₀", "bound"),
    "bound": Measure("PAC-Bayes bound", "bound"),
    "train_loss": Measure("training loss", "training"),
    "gradient_norm": Measure("‖∇L‖", "training"),
    "margin": Measure("margin, 10 %", "training", -1),
    "steps": Measure("steps taken", "training"),
    "parameters": Measure("number of weights", "training"),
}
OUTCOMES = {
    "test_error": "test error",
    "accuracy_gap": "accuracy gap",
    "loss_gap": "loss gap",
    "shift_error": "error under shift",
    "adversarial_error": "adversarial error",
    "noise_cost": "cost of label noise",
}
# The last outcome compares two rows, and is found when the table is made.
MEASURED_OUTCOMES = tuple(OUTCOMES)[:-1]

ATTACKED = 500
ATTACK_RADIUS = 0.2
SHIFT = 2.0
SIGMA, RELATIVE_SIGMA = 0.02, 0.1


# ------------------------------------------------------------------------- the grid


def units(at: str | None = None) -> list[dict]:
    """The units of a scale's study, in the order in which they are computed.

    A unit is one ensemble: the settings that can be stacked (learning rate, momentum,
    weight decay) are lists and every combination of them is a member. The order is
    shuffled, so that the first rows are a fair sample of all.

    Returns dicts of keyword arguments for ``networks``; ``at`` is the scale, by default
    the current one, and ``smoke`` is a few short networks.
    """
    at = at or scale()
    small = at == "smoke"
    lists = {
        "rate": [0.15, 0.4],
        "momentum": [0.0, 0.9],
        "weight_decay": [0.0, 2e-3],
    }
    if at == "gpu":
        lists = {
            "rate": [0.15, 0.2, 0.3, 0.4],
            "momentum": [0.0, 0.5, 0.9],
            "weight_decay": [0.0, 5e-4, 1e-3, 1.5e-3, 2e-3, 3e-3],
        }
    choices = {
        "data": [(800, 0.0), (800, 0.1), (400, 0.0)],
        "width": [40, 80],
        "depth": [2, 3],
        "dropout": [0.0, 0.05],
        "batch_size": [32, 96],
        "optimizer": ["sgd", "sam 0.1", "asam 1"],
    }
    if small:
        lists = {name: values[:1] for name, values in lists.items()}
        lists["weight_decay"] = [0.0, 2e-3]
        choices = {**choices, "depth": [2], "dropout": [0.0], "batch_size": [96]}
        choices["optimizer"] = ["sgd", "sam 0.1"]
    found = []
    for i, values in enumerate(product(*choices.values())):
        unit = dict(zip(choices, values, strict=True))
        unit["n"], unit["corruption"] = unit.pop("data")
        unit.update(lists, seed=i, epochs=2 if small else 250, stop_loss=0.1)
        found.append({**unit, "version": VERSION})
    random.Random(0).shuffle(found)
    return found


def short_units() -> list[dict]:
    """Five single networks, two epochs each: what a test computes again."""
    return [
        {
            **unit,
            **{name: unit[name][i % 2 : i % 2 + 1] for name in TOGETHER},
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


def networks(
    *,
    n: int,
    corruption: float,
    width: int,
    depth: int,
    dropout: float,
    batch_size: int,
    optimizer: str,
    rate: Sequence[float],
    momentum: Sequence[float],
    weight_decay: Sequence[float],
    seed: int,
    epochs: int,
    stop_loss: float,
    version: int = VERSION,
) -> dict:
    """Train and measure one unit of the study.

    Every network is trained until its loss on the whole training set is below
    ``stop_loss`` at the end of an epoch, so that what is compared fits its data
    equally well. ``rate`` is lr / (1 - momentum), the learning rate that matters where
    momentum only repeats past gradients.

    The members have seeds of their own, 100 ``seed`` and the numbers after it, and so
    other starts and other batches. In the grid no two networks share a seed: what one
    start happens to do to the error is then not taken for what a setting does.

    Args:
        n: training examples, the first ones of one draw of MNIST-1D.
        corruption: share of the training labels drawn anew.
        width: of every hidden layer.
        depth: number of hidden layers.
        dropout: probability.
        batch_size: examples per step.
        optimizer: "sgd", or a neighbourhood with its radius, such as "sam 0.1".
        rate: values of lr / (1 - momentum).
        momentum: values.
        weight_decay: values.
        seed: block of seeds, each of one start and of all that is random in training.
        epochs: the most that are trained.
        stop_loss: cross-entropy in nats below which training stops.
        version: not used but for telling rows apart.

    Returns:
        ``{"networks": rows}``, one dict per combination of the three lists: its
        settings, ``fitted`` (whether it reached ``stop_loss``), ``epochs`` trained, the
        measures and the outcomes; None for what is not finite.
    """
    apart = (n, corruption, width, depth, dropout, batch_size, optimizer)
    with _one_thread():
        data = mnist1d(seed=0).subset(n)
        if corruption:
            data = corrupt_labels(data, corruption, seed=0)
        data = data.to(device())
        inputs = data.train.x[0].numel()
        net = Network(mlp(inputs, *[width] * depth, data.classes, dropout=dropout))
        members = list(product(rate, momentum, weight_decay))
        seeds = range(100 * seed, 100 * seed + len(members))
        rates, momenta, decays = torch.tensor(members).T
        with warnings.catch_warnings():
            # the rows say which members diverged
            warnings.filterwarnings("ignore", "training diverged")
            run = train(
                net,
                data,
                seeds=seeds,
                epochs=epochs,
                batch_size=batch_size,
                lr=rates * (1 - momenta),
                momentum=momenta,
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
        common = dict(zip(APART, apart, strict=True))
        rows = [
            {**common, **dict(zip(TOGETHER, values, strict=True)), "seed": seed}
            for values in members
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


def measure(net: Network, data: Dataset, w: Tensor, start: Tensor) -> dict[str, Tensor]:
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
    loss, k = Loss(net, data.train), net.k
    hessian = Hessian(loss, w)

    def worst(neighbourhood):
        found = worst_case_sharpness(loss, w, neighbourhood, steps=10, restarts=1)
        return found.values

    def average(neighbourhood):
        return average_sharpness(loss, w, neighbourhood, samples=32).values

    flat = pac_bayes_sharpness(loss, w)
    aware = pac_bayes_sharpness(loss, w, magnitude_aware=True)
    matrices = [m for m in net.unflatten(w).values() if m.ndim == 3]
    frobenius = torch.stack([m.flatten(1).norm(dim=1) for m in matrices]).prod(0)
    spectral = torch.stack([torch.linalg.matrix_norm(m, 2) for m in matrices]).prod(0)
    margin = _margin(loss, w)
    # posterior and prior as wide as the noise that the training accuracy bears
    bears = (flat.sigma > 0) & flat.sigma.isfinite()
    sigma = flat.sigma.where(bears, 1.0)[:, None]

    def kl(centre):
        return kl_gaussians(w, sigma, centre, sigma).where(bears, torch.nan)

    kl_start = kl(start)
    spread = ((kl_start + math.log(2 * math.sqrt(loss.n) / 0.05)) / (2 * loss.n)).sqrt()
    ones = torch.ones_like(data.train.x[:1], dtype=w.dtype)
    return {
        "top_eigenvalue": eigenvalues(hessian, tol=1e-2).values[:, 0],
        "trace": trace(hessian, tol=5e-2).values,
        "sam_0.05": worst(ball(0.05)),
        "sam_0.5": worst(ball(0.5)),
        "keskar": keskar_sharpness(loss, w, 1e-3, steps=10, restarts=1).values,
        "average": average(ball(SIGMA * math.sqrt(k))),
        "pac_bayes": flat.values,
        "bits": bits_per_weight(loss, w).bits,
        "asam_0.5": worst(adaptive_ball(0.5)),
        "asam_max": worst(adaptive_ball(0.01, p=math.inf)),
        "asam_filter": worst(adaptive_ball(0.05, by="filter")),
        "adaptive_average": average(adaptive_ball(RELATIVE_SIGMA * math.sqrt(k))),
        "adaptive_pac_bayes": aware.values,
        "fisher_rao": fisher_rao_norm(loss, w),
        "relative_flatness": relative_flatness(loss, w),
        "norm": w.norm(dim=1),
        "distance": (w - start).norm(dim=1),
        "frobenius_product": frobenius,
        "spectral_product": spectral,
        "path_norm": net(w.square(), ones).sum((1, 2)).sqrt(),
        # a network that errs on more than a tenth has no positive margin
        "spectral_over_margin": spectral / margin.where(margin > 0, torch.nan),
        "kl_origin": kl(torch.zeros_like(w)),
        "kl_start": kl_start,
        "bound": 1 - loss.accuracy(w) + flat.rise + spread,
        "train_loss": loss(w),
        "gradient_norm": gradient_norm(loss, w),
        "margin": margin,
        "parameters": torch.full((len(w),), k),
    }


def _margin(loss: Loss, w: Tensor) -> Tensor:
    """Lead of the label's logit over the next, which a tenth of the examples miss."""
    logits = loss.logits(w)
    label = loss.y.to(w.device).expand(len(w), -1)[..., None]
    own = logits.gather(2, label)[..., 0]
    others = logits.scatter(2, label, -math.inf).amax(2)
    return (own - others).quantile(0.1, dim=1)


def judge(net: Network, data: Dataset, w: Tensor) -> dict[str, Tensor]:
    """How well networks do on examples that they have not seen.

    Returns (members,) values for every name in ``MEASURED_OUTCOMES``: the error on the
    test split; how much larger it is than that on the train split, for errors and for
    cross-entropy; the error where a ramp from -2 to 2 standard deviations, up for one
    example and down for the next, is added to every signal; and the error of the first
    500 under an attack of ten steps and Euclidean norm 0.2.
    """
    train_loss, test_loss = Loss(net, data.train), Loss(net, data.test)
    x, y = data.test.x, data.test.y
    ramp = torch.linspace(-SHIFT, SHIFT, x.shape[-1], device=x.device, dtype=x.dtype)
    up = 1 - 2 * (torch.arange(len(x), device=x.device) % 2)
    shifted = Loss(net, (x + up.view(-1, *[1] * (x.ndim - 1)) * ramp, y))
    few = x[:ATTACKED], y[:ATTACKED]
    attack = pgd(net, w, *few, ball(ATTACK_RADIUS), steps=10)
    error = 1 - test_loss.accuracy(w)
    return {
        "test_error": error,
        "accuracy_gap": error - (1 - train_loss.accuracy(w)),
        "loss_gap": test_loss(w) - train_loss(w),
        "shift_error": 1 - shifted.accuracy(w),
        "adversarial_error": attack.success.to(w.dtype).mean(-1),
    }


# -------------------------------------------------------------------------- the table


def table(rows: list[dict]) -> dict[str, np.ndarray]:
    """One column per setting, measure and outcome, one row per network.

    Floats, NaN where a network has no value, but for ``optimizer`` (text) and
    ``fitted`` (bool). ``noise_cost`` is how much larger the test error of the same
    settings is with corrupted labels (the mean over seeds), for networks with clean
    ones whose counterpart also fitted its data.
    """
    columns = {"optimizer": np.array([row["optimizer"] for row in rows])}
    numbers = [a for a in AXES if a != "optimizer"]
    for name in (*numbers, "fitted", "epochs", *MEASURES, *MEASURED_OUTCOMES):
        values = [row.get(name) for row in rows]
        columns[name] = np.array([np.nan if v is None else v for v in values], float)
    columns["fitted"] = columns["fitted"] == 1
    same = [a for a in AXES if a not in ("corruption", "seed")]
    noisy = {}
    for row in rows:
        if row["corruption"] and row["fitted"]:
            noisy.setdefault(tuple(row[a] for a in same), []).append(row["test_error"])
    cost = np.full(len(rows), np.nan)
    for i, row in enumerate(rows):
        counterparts = noisy.get(tuple(row[a] for a in same))
        if row["fitted"] and not row["corruption"] and counterparts:
            cost[i] = np.mean(counterparts) - row["test_error"]
    columns["noise_cost"] = cost
    return {name: columns[name] for name in (*AXES, "fitted", "epochs", *columns)}


def read(at: str | None = None, path: str | Path | None = None) -> dict:
    """Read the stored study of a scale, as ``table`` gives it."""
    path = Path(path or _folder(at or scale()) / "study.csv")
    with open(path, newline="", encoding="utf-8") as file:
        return table([_parsed(row) for row in csv.DictReader(file)])


def about(at: str | None = None) -> dict:
    """Read where the stored study comes from.

    Versions, device, processor time, checksum, and the rows of ``short_units`` under
    ``short``.
    """
    path = _folder(at or scale()) / "study.json"
    return json.loads(path.read_text(encoding="utf-8"))


def _folder(at: str) -> Path:
    """Where the study is kept; the smallest one only tries the code."""
    return book_root() / ("_build/results" if at == "smoke" else "results") / at


def _parsed(row: dict[str, str]) -> dict:
    values = {n: float(v) if v else None for n, v in row.items() if n != "optimizer"}
    return {**values, "optimizer": row["optimizer"]}


def write(done: Sweep, short: Sweep, at: str) -> Path:
    """Keep the rows of a finished study and where they come from: path of the table.

    Args:
        done: the sweep over ``units(at)``.
        short: the sweep over ``short_units()``.
        at: the scale.
    """
    folder = _folder(at)
    folder.mkdir(parents=True, exist_ok=True)
    rows = [row for unit in done.rows for row in unit["networks"]]
    columns = [*AXES, "fitted", "epochs", *MEASURES, *MEASURED_OUTCOMES]
    path = folder / "study.csv"
    part = path.with_suffix(".csv.part")
    with open(part, "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, columns, lineterminator="\n")
        writer.writeheader()
        for row in rows:
            writer.writerow({**row, "fitted": int(row["fitted"])})
    part.replace(path)
    write_json(
        folder / "study.json",
        {
            **provenance(),
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
        },
    )
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
    at = scale()
    print(f"the study at the scale {at}, which FLATLAB_SCALE chooses")
    store = Path(given.store or book_root() / "_build" / "study" / at)
    if given.collect:
        done = collect(units(at), store)
    else:
        mnist1d(seed=0)  # drawn once, before many processes ask for it
        options = {"jobs": given.jobs, "retry": given.retry, "label": f"study, {at}"}
        with _dask(given.scheduler):
            done = sweep(networks, units(at), store, **options)
    print(done.report())
    if done.rows:
        short = sweep(networks, short_units(), store, jobs=1, label="short runs")
        print(f"wrote {write(done, short, at)}")
    return 0 if done.complete else 1


@contextlib.contextmanager
def _dask(scheduler: str | None):
    """Joblib's work goes to a scheduler while the block runs, if there is one."""
    if scheduler is None:
        yield
        return
    client, joblib = needs("distributed", "study").Client, needs("joblib", "study")
    with client(scheduler), joblib.parallel_config("dask"):
        yield


if __name__ == "__main__":
    # under the module's own name, so that workers find its functions
    from flatlab.course.study import main as run

    raise SystemExit(run())
