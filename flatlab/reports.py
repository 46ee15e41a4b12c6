"""A first look at any model: how sharp it is, how sure that is, what to beware of."""

import html
import math
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from itertools import groupby
from operator import itemgetter
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase

from flatlab.environment import double, needs
from flatlab.hessian import Hessian
from flatlab.landscape import interpolate
from flatlab.loss import IGNORED, Loss
from flatlab.neighbourhoods import Neighbourhood, adaptive_ball, ball
from flatlab.network import Network, select
from flatlab.noise import Noise, wide
from flatlab.progress import progress
from flatlab.reparameterization import rescale_layers
from flatlab.sharpness import average_sharpness, worst_case_sharpness
from flatlab.spectra import Eigenvalues, Estimate, eigenvalues, trace

# Curvature and sharpness take about 140 gradients: on this share of the examples, but
# on so many labels at least, that leaves about 20 for all.
_SHARE = 1 / 8
_LABELS = 512
# Losses further apart than this share are not the same height of the surface.
_EQUAL_LOSS = 0.1
# A loss below which cross-entropy has next to no curvature left.
_TINY = 1e-3
_AT_ANY_LOSS = ("loss", "accuracy", "‖w‖")


@dataclass(frozen=True)
class Rise:
    """What the loss does in one neighbourhood of the weights."""

    worst: float  # the highest rise that was found: the true one may be higher
    average: float  # the mean rise under noise of the same size
    error: float  # the standard error of that mean


@dataclass(frozen=True)
class Report:
    """What ``fl.report`` found; as text and in a notebook it shows itself.

    Attributes:
        k: number of weights.
        n: number of examples, of which the loss, accuracy (None where the outputs name
            no class) and gradient norm are.
        examples: how many of them curvature and sharpness were measured on, where the
            loss is ``part_loss``.
        norm: ‖w‖.
        spectrum: the largest eigenvalues, then the smallest. Each is within its
            residual of one; the smallest settle late, and the last is an upper bound.
        rises: what the loss does in each neighbourhood, by its name.
        profile: distances (points,) from w, and the losses (2, points) there, along the
            top eigenvector and along a random direction.
        warnings: what an expert would say to these numbers.
    """

    name: str
    k: int
    n: int
    examples: int
    loss: float
    accuracy: float | None
    gradient_norm: float
    part_loss: float
    norm: float
    spectrum: Eigenvalues = field(repr=False)
    trace: Estimate = field(repr=False)
    rises: dict[str, Rise]
    profile: tuple[Tensor, Tensor] = field(repr=False)
    warnings: tuple[str, ...]
    seconds: float

    @property
    def top(self) -> float:
        """The largest eigenvalue."""
        return float(self.spectrum.values[0])

    @property
    def relative(self) -> dict[str, float]:
        """Measures relative to the size of w and of the data.

        - ``λmax ‖w‖²`` and ``trace ‖w‖² / k``: curvature, the largest and the mean, in
          units of the weights.
        - ``√(trace ‖w‖² / n)``: the least sum, over σ, of the mean rise under Gaussian
          noise, σ² trace / 2, and of the price ‖w‖² / (2 n σ²) of so exact a w, in nats
          (PAC-Bayes, prior around 0). Only where the trace is positive.
        - ``2 / λmax``: the learning rate beyond which descent leaves a minimum.
        """
        trace, square = float(self.trace.values), self.norm**2
        found = {"λmax ‖w‖²": self.top * square}
        found["trace ‖w‖² / k"] = trace * square / self.k
        if trace > 0:
            found["√(trace ‖w‖² / n)"] = math.sqrt(trace * square / self.n)
        if self.top > 0:
            found["2 / λmax"] = 2 / self.top
        return found

    def rows(self) -> Iterator[tuple[str, str, float, float]]:
        """All numbers in order: (group, name, value, error), 0 for none."""
        group = f"all {self.n:,} examples"
        yield group, "loss", self.loss, 0
        if self.accuracy is not None:
            yield group, "accuracy", self.accuracy, 0
        yield group, "gradient norm", self.gradient_norm, 0
        group = f"{self.examples:,} examples, of loss {self.part_loss:.4g}"
        pairs = zip(self.spectrum.values, self.spectrum.residuals, strict=True)
        numbers = [(float(value), float(residual)) for value, residual in pairs]
        for i, pair in enumerate(numbers[: math.ceil(len(numbers) / 2)]):
            yield group, f"eigenvalue {i + 1}", *pair
        yield group, "lowest eigenvalue", *numbers[-1]
        trace = self.trace
        yield group, "trace", float(trace.values), float(trace.standard_error)
        for name, rise in self.rises.items():
            yield group, f"worst rise, {name}", rise.worst, 0
            yield group, f"mean rise, {name}", rise.average, rise.error
        group = f"relative to {self.k:,} weights and to the data"
        for name, value in {"‖w‖": self.norm, **self.relative}.items():
            yield group, name, value, 0

    def __repr__(self) -> str:
        lines = [f"{self.name}: {self.k:,} weights"]
        for group, rows in groupby(self.rows(), itemgetter(0)):
            lines += ["", group]
            lines += [f"  {name:32s} {_shown(*value)}" for _, name, *value in rows]
        return "\n".join([*lines, "", *(f"- {text}" for text in self.warnings)])

    def _repr_html_(self) -> str:
        rows = ""
        for group, own in groupby(self.rows(), itemgetter(0)):
            rows += f"<tr><th colspan=2>{html.escape(group)}</th></tr>"
            for _, name, *value in own:
                cells = f"<td>{html.escape(name)}</td><td>{_shown(*value)}</td>"
                rows += f"<tr>{cells}</tr>"
        notes = "".join(f"<li>{html.escape(text)}</li>" for text in self.warnings)
        head = html.escape(f"{self.name}: {self.k:,} weights")
        return f"<table><caption>{head}</caption>{rows}</table><ul>{notes}</ul>"

    def plot(self) -> Any:
        """The ends of the spectrum, and the loss along two lines: a figure."""
        figure, (left, right) = needs("matplotlib.pyplot").subplots(
            1, 2, figsize=(8, 3.2), layout="constrained"
        )
        values, errors = self.spectrum.values.cpu(), self.spectrum.residuals.cpu()
        left.errorbar(range(1, len(values) + 1), values, errors, fmt="o", capsize=3)
        left.axhline(0, color="0.6", linewidth=0.8)
        left.set(xlabel="largest, then smallest", ylabel="eigenvalue ± residual")
        distances, losses = (part.cpu() for part in self.profile)
        right.plot(distances, losses[0], label="along the top eigenvector")
        right.plot(distances, losses[1], "--", label="along a random direction")
        right.set(xlabel="distance from w", ylabel="loss")
        right.legend(frameon=False)
        return figure

    def compare(self, other: "Report") -> "Comparison":
        """This report beside another, of the same data.

        At unequal loss (by more than a tenth) curvature and sharpness are not compared,
        and the result says so: they shrink with the loss of a network that fits, so
        that a ratio would tell how far each was trained.
        """
        if not isinstance(other, Report):
            raise TypeError(f"compare takes a Report, got {type(other).__name__}")
        notes, (low, high) = [], sorted((self.part_loss, other.part_loss))
        unequal = high - low > _EQUAL_LOSS * abs(low)  # some are below 0
        if unequal:
            notes.append(
                f"The losses, {self.part_loss:.3g} and {other.part_loss:.3g}, differ: "
                "curvature and sharpness are not compared. Take both networks where "
                "they have the same loss."
            )
        if (self.n, self.examples) != (other.n, other.examples):
            notes.append("The data differ in size.")
        if (self.name, self.k) != (other.name, other.k):
            notes.append("The architectures differ, and with them what w stands for.")
        theirs = {name: value for _, name, value, _ in other.rows()}
        rows: dict[str, tuple[float, float, float | None]] = {}
        for _, name, value, _ in self.rows():
            if name in theirs:
                known = theirs[name] != 0 and (name in _AT_ANY_LOSS or not unequal)
                ratio = value / theirs[name] if known else None
                rows[name] = value, theirs[name], ratio
        return Comparison(rows, tuple(notes), unequal)


@dataclass(frozen=True)
class Comparison:
    """Two reports side by side."""

    rows: dict[str, tuple[float, float, float | None]]  # this, the other, their ratio
    notes: tuple[str, ...]
    unequal: bool  # whether the losses are: curvature then has no ratio

    def __repr__(self) -> str:
        lines = [f"{'':32s} {'this':>10s} {'other':>10s} {'ratio':>12s}"]
        for name, (ours, theirs, ratio) in self.rows.items():
            shown = "not compared" if ratio is None else f"{ratio:.3g}"
            lines.append(f"{name:32s} {ours:10.3g} {theirs:10.3g} {shown:>12s}")
        return "\n".join([*lines, *(f"- {note}" for note in self.notes)])

    def _repr_html_(self) -> str:
        return f"<pre>{html.escape(str(self))}</pre>"


def report(
    model: nn.Module | Network,
    data: Any,
    criterion: str | Callable[[Tensor, Tensor], Tensor] = "cross_entropy",
    *,
    examples: int | None = None,
    radius: float = 0.05,
    adaptive_radius: float = 0.5,
    seed: int = 0,
) -> Report:
    """A first look at a model: loss, curvature, sharpness, and what to beware of.

    It takes about the time of twenty gradients on a large set: loss, accuracy and
    gradient are of all examples, curvature and sharpness of an eighth of them, drawn at
    random, but of 512 labels at least. It needs memory for some 50 vectors of the size
    of w, and leaves the model as it was found.

    Args:
        model: any module that ``Network`` takes.
        data: what ``Loss`` takes: examples, a pair (x, y), a loader, a batch.
        criterion: as for ``Loss``.
        examples: how many to measure curvature and sharpness on.
        radius: of the ball, SAM's neighbourhood.
        adaptive_radius: of the adaptive ball, ASAM's.
        seed: of the examples and of all random vectors.
    """
    begin = time.perf_counter()
    net = model if isinstance(model, Network) else Network(model)
    loss, w = Loss(net, data, criterion), wide(net.weights())
    around: dict[str, Neighbourhood] = {
        f"ball({radius:g})": ball(radius),
        f"adaptive_ball({adaptive_radius:g})": adaptive_ball(adaptive_radius),
    }
    with progress(6, "report") as bar, warnings.catch_warnings():
        # how far eigenvalues and trace came is said by their errors
        warnings.filterwarnings("ignore", ".*did not reach tol", RuntimeWarning)
        value, gradient = loss.value_and_gradient(w)
        if not bool(value.isfinite()):
            raise ValueError(f"the loss is {value:.3g}: there is nothing to measure")
        accuracy = _accuracy(loss, w)
        if float(value) < _TINY:
            w = loss.double(w)  # where all outputs are sure, float32 loses curvature
            value, gradient = loss.value_and_gradient(w)
        part = _part(loss, w, examples, seed)
        kind = Hessian if _outputs(loss) <= 64 else _Products
        H, trouble = kind(part, w), None
        try:
            _ = H @ w
        except ValueError as error:  # no second derivative
            H, trouble = kind(part, w, method="finite_difference"), str(error)
        bar.update()
        most = 25 if net.k <= 10**7 else 12
        asked, ends = (min(5, net.k // 2), "both") if net.k > 1 else (1, "largest")
        how: dict[str, Any] = {"which": ends, "eigenvectors": True, "seed": seed}
        spectrum = eigenvalues(H, asked, max_products=most, **how)
        bar.update()
        total = trace(H, 0.1, max_products=32, seed=seed)
        bar.update()
        rises = {}
        for name, where in around.items():
            worst = worst_case_sharpness(part, w, where, steps=4, restarts=0).values
            mean = average_sharpness(part, w, where, samples=16, seed=seed)
            rises[name] = Rise(*map(float, (worst, mean.values, mean.standard_error)))
            bar.update()
        profile = _profile(part, w, spectrum, radius, seed)
        bar.update()
    first = Report(
        name=type(net._source).__name__,
        k=net.k,
        n=loss.n,
        examples=part.n,
        loss=float(value),
        accuracy=accuracy,
        gradient_norm=float(double(gradient).norm()),  # float32's may overflow
        part_loss=float(part(w)),
        norm=float(w.norm()),
        spectrum=spectrum,
        trace=total,
        rises=rises,
        profile=profile,
        warnings=(),
        seconds=time.perf_counter() - begin,
    )
    notes = [*_beware(first, net, loss, radius)]
    if trouble:
        notes.append(
            f"Curvature is by differences of gradients, to {H.error:.0e}: "
            f"{trouble.partition(';')[0]}."
        )
    return replace(first, warnings=tuple(notes))


def _accuracy(loss: Loss, w: Tensor) -> float | None:
    try:
        return float(loss.accuracy(w))
    except ValueError:  # its outputs name no class
        return None


def _outputs(loss: Loss) -> int:
    return loss._form[-1] if loss._form else 1


def _part(loss: Loss, w: Tensor, examples: int | None, seed: int) -> Loss:
    """The loss on some of the examples."""
    if examples is None:
        counted = int((loss.y != IGNORED).sum())
        if not loss._form[:-1]:  # targets of a callable may be vectors
            counted = min(counted, loss.n)
        examples = math.ceil(max(loss.n * _SHARE, _LABELS * loss.n / counted))
        parameters = loss.net.unflatten(w)
        if examples < loss.n and loss.net.mixes_examples(parameters, loss.x):
            return loss
    if examples < 1:
        raise ValueError(f"examples is {examples}, expected a positive number")
    if examples >= loss.n:
        return loss
    generator = torch.Generator("cpu").manual_seed(seed)
    index = torch.randperm(loss.n, generator=generator, device="cpu")[:examples].sort()
    pair = select((loss.x, loss.y), index.values)
    return Loss(loss.net, pair, loss.criterion.function)


class _Products(Hessian):
    """Without a closed form of the diagonal, which many classes make dear."""

    def exact_diagonal(self) -> None:
        return None


def _profile(loss: Loss, w: Tensor, spectrum: Eigenvalues, radius: float, seed: int):
    """Distances, and the loss there along the top eigenvector and a random line."""
    assert spectrum.vectors is not None
    noise = Noise(w, seed)[0]
    ends = torch.stack([spectrum.vectors[:, 0], noise / noise.norm()])
    alphas = torch.linspace(-1, 1, 11, device="cpu")
    losses = interpolate(loss, w, w + 2 * radius * ends, alphas).losses
    return 2 * radius * alphas, losses


def _shown(value: float, error: float) -> str:
    return f"{value:.4g} ± {_round(error, 1)}" if error else f"{value:.4g}"


def _round(value: float, digits: int = 2) -> str:
    """So many digits, without a power of ten in 30 or 120."""
    return f"{float(f'{value:.{digits}g}'):g}"


def _beware(found: Report, net: Network, loss: Loss, radius: float) -> Iterator[str]:
    """What an expert would say to these numbers."""
    top, low = found.top, float(found.spectrum.values[-1])
    fall = found.gradient_norm**2 / (2 * top) if top > 0 else 0.0
    if fall > 0.01 * abs(found.loss):
        yield (
            f"w is not at a minimum: one step along the gradient of length 1/λmax "
            f"takes about {_round(fall)} off the loss of {_round(found.loss)}. "
            "What rises around w is slope, too."
        )
    if low < -0.02 * abs(top):
        yield (
            f"There is negative curvature, {_round(low)} in one direction at least: no "
            "minimum, and a trace in which positive and negative parts cancel."
        )
    fitted = found.accuracy is None or found.accuracy > 0.99
    entropy = loss.criterion.function == "cross_entropy"
    if not fitted or (entropy and found.loss > 0.1):
        yield (
            f"A loss of {_round(found.loss)} is not small: if these are training data, "
            "the network does not fit them yet. Compare curvature at equal loss only."
        )
    if entropy and found.loss < _TINY:
        yield (
            "The loss is nearly 0, and the curvature of cross-entropy vanishes with "
            "it: longer training, or larger weights of the last layer, look flatter."
        )
    if found.examples < found.n:
        yield (
            f"Curvature and sharpness are of {found.examples:,} of {found.n:,} "
            "examples; the top eigenvalue of a part is larger on average. "
            f"examples={found.n} takes all."
        )
    for what, value, error in (
        ("top eigenvalue", top, float(found.spectrum.residuals[0])),
        ("trace", float(found.trace.values), float(found.trace.standard_error)),
    ):
        if error > 0.1 * abs(value):
            yield f"The {what} is hardly known: a search of its own settles it."
    where, worst = next((n, r.worst) for n, r in found.rises.items())
    quadratic = found.gradient_norm * radius + 0.5 * max(top, 0) * radius**2
    if worst > 2 * quadratic:
        yield (
            f"In {where} the loss rises by {_round(worst)}, where slope and curvature "
            f"at w explain {_round(quadratic)}: the eigenvalues hold in a smaller "
            "ball only."
        )
    if any(isinstance(part, _NormBase) for part in net.modules()):
        yield (
            "BatchNorm: its statistics stay fixed while w moves, as at test time. In "
            "training they move too, and scaling the layer before changes nothing."
        )
    if _rescales(net):
        yield (
            "The scale of the layers is arbitrary here: a layer times 10 and the next "
            "one divided by 10 are the same function with other eigenvalues, trace and "
            "rise in a ball. Only the adaptive ball sees no difference."
        )
    else:
        yield (
            "Eigenvalues, trace and the rise in a ball depend on the scale of w: "
            "compare networks of one architecture, and look at the relative measures."
        )


def _rescales(net: Network) -> bool:
    """Whether a factor may move from the first layer to the second."""
    try:
        rescale_layers(net, net.weights(), alpha=10.0, layers=(0, 1))
    except (ValueError, TypeError):
        return False
    return True
