"""Training an ensemble of networks at once."""

import math
import time
import warnings
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from flatlab.environment import check_dtype
from flatlab.environment import device as default_device
from flatlab.loss import Loss, place
from flatlab.neighbourhoods import Neighbourhood
from flatlab.network import Network
from flatlab.progress import progress

# streams of randomness of one member; each (seed, stream, epoch) has its own generator
ORDER, DROPOUT, NOISE = 1, 2, 3


@dataclass(frozen=True)
class Run:
    """What an ensemble's training leaves behind.

    ``...`` are the axes that the seeds and settings broadcast to, ``(members,)`` where
    no setting has an axis of its own.

    Attributes:
        w: (..., k) final weights; those of a diverged member are not finite.
        seeds: seed of every member along the last axis.
        epochs: (records,) epochs at which ``history`` was recorded, 0 the start.
        history: name to (records, ...), on the CPU: ``train_loss`` and
            ``train_accuracy``, the same for ``validation`` and ``test`` where the data
            set has them, and for corrupted labels ``clean_accuracy`` (on the untouched
            training labels), ``corrupted_accuracy`` (fit of the wrong labels) and
            ``truth_accuracy`` (true labels predicted where wrong ones were given).
            A stopped member keeps its last values.
        diverged: (...) bool, True where the loss or a weight stopped being finite.
        stopped: (...) epoch after which the member was no longer trained.
        fitted: (...) bool, True where ``stop_loss`` was reached.
        snapshots: (snapshots, ..., k) weights at ``snapshot_epochs``, on the CPU.
        snapshot_epochs: (snapshots,).
        seconds: wall time.
        interrupted: whether Ctrl-C ended the run before its last epoch.
    """

    w: Tensor
    seeds: tuple[int, ...]
    epochs: Tensor
    history: dict[str, Tensor]
    diverged: Tensor
    stopped: Tensor
    fitted: Tensor
    snapshots: Tensor
    snapshot_epochs: Tensor
    seconds: float
    interrupted: bool = False


def generator(
    seed: int, *stream: int, device: torch.device | str = "cpu"
) -> torch.Generator:
    """A random generator of a member's seed, what it is for, and the epoch."""
    state = np.random.SeedSequence([seed, *stream]).generate_state(1, np.uint64)[0]
    return torch.Generator(device).manual_seed(int(state >> np.uint64(1)))


def train(
    net: Network | nn.Module,
    data: Any,
    *,
    seeds: int | Iterable[int],
    epochs: int,
    batch_size: int,
    lr: float | Tensor,
    momentum: float | Tensor = 0.0,
    weight_decay: float | Tensor = 0.0,
    optimizer: str = "sgd",
    schedule: str = "constant",
    stop_loss: float | None = None,
    input_noise: float | Tensor = 0.0,
    neighbourhood: Neighbourhood | None = None,
    when: tuple[float, float] = (0.0, 1.0),
    criterion: str | Callable[[Tensor, Tensor], Tensor] = "cross_entropy",
    start: Tensor | None = None,
    record: int | Sequence[int] | None = 1,
    snapshots: Sequence[int] = (),
    dtype: torch.dtype | None = None,
    device: torch.device | str | None = None,
) -> Run:
    """Train all members of an ensemble at once.

    Member i starts from ``net.init(seeds[i])`` and sees batches, dropout masks and
    input noise drawn from its own seed: it is the network that the same seed gives
    alone. Weights are stacked, data lie on the device, and a batch is an index lookup.
    ``lr``, ``momentum``, ``weight_decay``, ``input_noise`` and the neighbourhood's
    radius may be tensors that broadcast against the axis of the seeds, and so may the
    labels of the examples: ``lr=rates[:, None]`` trains every seed at every rate, and
    the run's weights are (rates, seeds, k). Members that share a seed can be compared
    in pairs.

    A member whose loss or weights stop being finite is marked ``diverged``, with a
    warning, and the others go on. Ctrl-C returns what is finished. A run keeps no file
    to resume from: ``flatlab.course.stored`` and its sweeps resume per unit, such as
    one call of ``train``.

    Args:
        net: a ``Network``, or a module to make one of.
        data: a ``Dataset`` with ``train`` and perhaps ``validation`` and ``test``.
        seeds: one seed per member (an int is one member).
        epochs: passes over the training set.
        batch_size: examples per step; the last batch of an epoch may be smaller.
        lr: learning rate, positive.
        momentum: of SGD, as in ``torch.optim.SGD``.
        weight_decay: L2 penalty added to the gradient, as in ``torch.optim``.
        optimizer: "sgd" or "adam".
        schedule: "constant", or "cosine" (of lr, to 0 at the end, every step).
        stop_loss: a member stops after the epoch at whose end its loss on the whole
            training set is below this, in the criterion's units.
        input_noise: standard deviation of Gaussian noise added to every input of a
            batch, in the units of x.
        neighbourhood: trains with SAM or ASAM: the gradient is taken at the worst
            point of this ``Neighbourhood`` to first order.
        when: the part of the run in which it is, as shares of the epochs: (0.5, 1) is
            the last half. Outside it the steps are plain ones.
        criterion: as for ``Loss``.
        start: (members, k) or (..., k) weights to start from instead of fresh ones.
        record: epochs between records of the history, or the epochs to record; the
            start and the end are always recorded, and nothing else for None.
        snapshots: epochs at which to keep the weights (0 is the start).
        dtype: of the weights; by default the module's.
        device: by default ``flatlab.device()``.

    Raises:
        ValueError: besides settings outside their range, for modules that training
            would not treat right: running statistics, which are no weights, and dropout
            hidden inside attention or recurrent layers.
    """
    net = Network(net) if isinstance(net, nn.Module) else net
    if not isinstance(net, Network):
        raise TypeError(f"net is {type(net).__name__}, expected a Network or nn.Module")
    if not hasattr(data, "train"):
        raise TypeError(
            f"data is {type(data).__name__}, expected a Dataset; "
            "make one with Dataset.from_arrays(x, y)"
        )
    seeds = (seeds,) if isinstance(seeds, int) else tuple(int(s) for s in seeds)
    if not seeds or min(seeds) < 0:
        raise ValueError(f"seeds are {seeds}, expected one or more of at least 0")
    wanted, kept = _epochs(epochs, record, snapshots)
    if not isinstance(batch_size, int) or batch_size < 1:
        raise ValueError(f"batch_size is {batch_size!r}, expected a positive integer")
    if optimizer not in OPTIMIZERS or schedule not in ("constant", "cosine"):
        raise ValueError(
            f"optimizer is {optimizer!r} and schedule {schedule!r}, expected one of "
            f"{[*OPTIMIZERS]} and 'constant' or 'cosine'"
        )
    if optimizer == "adam" and bool(torch.as_tensor(momentum).any()):
        raise ValueError("momentum is for optimizer='sgd'; Adam has its own")
    if not 0 <= when[0] < when[1] <= 1:
        raise ValueError(
            f"when is {when}, expected two shares of the run, 0 <= a < b <= 1"
        )
    device = torch.device(device if device is not None else default_device())
    w = net.init(seeds) if start is None else start
    dtype = dtype or w.dtype
    check_dtype(dtype, device)
    settings = {
        "lr": lr, "momentum": momentum, "weight_decay": weight_decay,
        "input_noise": input_noise,
    }  # fmt: skip
    if neighbourhood is not None:
        settings["radius"] = neighbourhood.radius
    values = _values(settings, dtype, device)
    loss = Loss(net, data.train, criterion)
    _check_module(net, loss.x)
    labels = loss._labelled
    lead = _lead(seeds, values, labels)
    w = _placed(net, w, lead).to(device=device, dtype=dtype, copy=True)
    seeds = tuple(torch.tensor(seeds, device="cpu").expand(lead).flatten().tolist())
    values = {name: v.expand(lead).flatten() for name, v in values.items()}
    if start is None and not labels:
        members = list(zip(seeds, *(v.tolist() for v in values.values()), strict=True))
        if alike := len(members) - len(set(members)):
            raise ValueError(
                f"{alike} of {len(members)} members are copies, seeds are {seeds}: "
                "expected different seeds where the settings are the same"
            )
    rule, buffers = OPTIMIZERS[optimizer]
    m = _Ensemble(net, w, buffers, values, seeds)
    records = _Records(net, data, lead, criterion)
    task = _Task(
        records.parts["train"], w, neighbourhood, when, batch_size, rule,
        schedule == "cosine", epochs,
    )  # fmt: skip
    return _train(task, m, records, wanted, kept, stop_loss, lead)


# ------------------------------------------------------------------------- arguments


def _epochs(epochs, record, snapshots) -> tuple[set[int], list[int]]:
    """The epochs to record, and those whose weights to keep."""
    if not isinstance(epochs, int) or epochs < 1:
        raise ValueError(f"epochs is {epochs!r}, expected a positive integer")
    if isinstance(record, int):
        if record < 1:
            raise ValueError(
                f"record is {record}, expected a positive number of epochs"
            )
        record = range(0, epochs + 1, record)
    kept = sorted(set(snapshots))
    if kept and not 0 <= kept[0] <= kept[-1] <= epochs:
        raise ValueError(f"snapshots are {kept}, expected epochs in 0 ... {epochs}")
    return {0, epochs, *(record or ())}, kept


def _check_module(net: Network, x: Any) -> None:
    """Refuse a module that eval mode and masks of its dropout would train wrongly."""
    for module in net.modules():
        hidden = getattr(module, "dropout", 0.0)
        if isinstance(hidden, float) and hidden > 0:
            raise ValueError(
                f"{type(module).__name__} hides a dropout of {hidden}: members could "
                "not draw it from their own seeds. Set it to 0 or use nn.Dropout"
            )
    if not net.trains_as_measured(x):
        raise ValueError(
            "in training mode the module gives other outputs or updates its buffers "
            "(running statistics, spectral_norm, a dropout that is no nn.Dropout), and "
            "members are trained in eval mode: train this module in a loop of your own "
            "and measure it through Network(module), or replace that layer, BatchNorm "
            "for example by GroupNorm"
        )


def _values(settings: dict, dtype, device) -> dict[str, Tensor]:
    """The settings as tensors in the dtype and place of the weights, checked."""
    values = {}
    for name, value in settings.items():
        tensor = torch.as_tensor(value, dtype=dtype, device=device)
        positive = name in ("lr", "radius")
        if not (tensor.isfinite() & (tensor > 0 if positive else tensor >= 0)).all():
            raise ValueError(
                f"{name} is {value}, expected finite values "
                + ("above 0" if positive else "of at least 0")
            )
        if name == "momentum" and (tensor >= 1).any():
            raise ValueError(f"momentum is {value}, expected values below 1")
        values[name] = tensor
    return values


def _lead(seeds, values: dict[str, Tensor], labels: torch.Size) -> torch.Size:
    """The axes of the ensemble: seeds, settings and labels, broadcast."""
    shapes = {name: v.shape for name, v in values.items() if v.ndim}
    if labels:
        shapes["labels"] = labels
    try:
        return torch.broadcast_shapes((len(seeds),), *shapes.values())
    except RuntimeError:
        said = ", ".join(f"{name} {tuple(s)}" for name, s in shapes.items())
        raise ValueError(
            f"the seeds are of {len(seeds)} members, and these shapes do not broadcast "
            f"against them: {said}. Further axes go in front, as in rates[:, None]"
        ) from None


def _placed(net: Network, w: Tensor, lead: torch.Size) -> Tensor:
    """Weights to start from, one row per member."""
    net.check(w)
    if w.ndim < 2 or w.shape[:-1] != lead[len(lead) - w.ndim + 1 :]:
        raise ValueError(
            f"start has shape {tuple(w.shape)}, expected {(*lead, net.k)}: one "
            "row per seed"
        )
    return w.detach().expand(*lead, net.k).reshape(-1, net.k)


# ------------------------------------------------------------ the ensemble and a step


class _Ensemble:
    """The members still in training: their weights, optimiser state and settings.

    ``common[name]`` is the setting that all members share, or None where they
    differ: known once, so that no step has to ask the device.
    """

    def __init__(self, net: Network, w: Tensor, buffers: int, values, seeds):
        self.net = net
        self.index = torch.arange(len(w), device=w.device)  # position in the whole
        # (members, *shape), one per parameter, and the optimiser's likewise
        self.leaves = [p.clone() for p in net.unflatten(w).values()]
        self.buffers = [
            [torch.zeros_like(p) for p in self.leaves] for _ in range(buffers)
        ]
        self.step = 0
        self.values: dict[str, Tensor] = values  # each (members,)
        self.seeds: tuple[int, ...] = seeds
        self._find_common()

    @property
    def w(self) -> Tensor:
        """Their weights, (members, k)."""
        return _flat(self.leaves)

    def _find_common(self) -> None:
        self.common = {
            name: v[0].item() if len(v) and (v == v[0]).all() else None
            for name, v in self.values.items()
        }

    def keep(self, alive: Tensor) -> None:
        """Drop all members but those where ``alive`` is True."""
        if alive.all():
            return
        here = alive.to(self.index.device)
        self.index = self.index[here]
        self.leaves = [p[here] for p in self.leaves]
        self.buffers = [[b[here] for b in buffers] for buffers in self.buffers]
        self.values = {name: v[here] for name, v in self.values.items()}
        self.seeds = tuple(
            s for s, a in zip(self.seeds, alive.tolist(), strict=True) if a
        )
        self._find_common()

    def times(self, leaves: list[Tensor], name: str, factor: float = 1.0):
        """Each leaf times factor x its member's setting ``name``."""
        common = self.common[name]
        if common is not None:
            return list(torch._foreach_mul(leaves, common * factor))
        values = self.values[name] * factor
        return [p * values.view(-1, *[1] * (p.ndim - 1)) for p in leaves]

    def decayed(self, gradients: list[Tensor]) -> list[Tensor]:
        """Gradients with the L2 penalty's."""
        if self.common["weight_decay"] == 0:
            return gradients
        decay = self.times(self.leaves, "weight_decay")
        return list(torch._foreach_add(gradients, decay))


def _sgd(m: _Ensemble, gradients: list[Tensor], factor: float) -> None:
    """One step of ``torch.optim.SGD`` for all members."""
    gradients = m.decayed(gradients)
    if m.common["momentum"] != 0:
        # with empty buffers this is the first gradient itself, as in torch
        m.buffers[0] = list(m.times(m.buffers[0], "momentum"))
        torch._foreach_add_(m.buffers[0], gradients)
        gradients = m.buffers[0]
    lr = m.common["lr"]
    if lr is not None:
        torch._foreach_add_(m.leaves, gradients, alpha=-lr * factor)
    else:
        torch._foreach_sub_(m.leaves, m.times(gradients, "lr", factor))


def _adam(m: _Ensemble, gradients: list[Tensor], factor: float) -> None:
    """One step of ``torch.optim.Adam`` with its default betas and eps."""
    beta1, beta2, eps = 0.9, 0.999, 1e-8
    gradients = m.decayed(gradients)
    first, second = m.buffers
    torch._foreach_lerp_(first, gradients, 1 - beta1)
    torch._foreach_mul_(second, beta2)
    torch._foreach_addcmul_(second, gradients, gradients, value=1 - beta2)
    denominators = torch._foreach_sqrt(second)
    torch._foreach_div_(denominators, (1 - beta2 ** (m.step + 1)) ** 0.5)
    torch._foreach_add_(denominators, eps)
    steps = list(torch._foreach_div(first, denominators))
    torch._foreach_sub_(
        m.leaves, m.times(steps, "lr", factor / (1 - beta1 ** (m.step + 1)))
    )


# name: (rule, number of buffers)
OPTIMIZERS = {"sgd": (_sgd, 1), "adam": (_adam, 2)}


class _Task:
    """What an epoch is for every member: the examples, the loss, the batches."""

    def __init__(
        self, loss: Loss, w, neighbourhood, when, batch_size, rule, cosine, epochs
    ):
        self.net, self.criterion = loss.net, loss.criterion
        self.x: Tensor = place(loss.x, w.device, w.dtype)
        self.y, self.own_labels = loss.y.to(w.device), loss.own_labels
        self.neighbourhood: Neighbourhood | None = neighbourhood
        self.when: tuple[float, float] = when
        self.batch_size, self.rule = batch_size, rule
        self.cosine, self.epochs = cosine, epochs
        self.masks = self.net.dropout_masks(self.x[:1])

    def epoch(self, m: _Ensemble, epoch: int) -> None:
        """All steps of one epoch."""
        n, size = len(self.x), self.batch_size
        device, steps = self.x.device, math.ceil(n / size)
        order = torch.stack(
            [
                torch.randperm(n, generator=generator(s, ORDER, epoch), device="cpu")
                for s in m.seeds
            ]
        ).to(device)
        dropout = [generator(s, DROPOUT, epoch, device=device) for s in m.seeds]
        noise = [generator(s, NOISE, epoch, device=device) for s in m.seeds]
        labels = self.y[m.index] if self.own_labels else self.y
        begin, end = self.when
        around = self.neighbourhood if begin <= epoch / self.epochs < end else None
        for step in range(steps):
            batch = order[:, step * size : (step + 1) * size]
            x = self.x[batch]
            y = labels.gather(1, batch) if self.own_labels else labels[batch]
            if m.common["input_noise"] != 0:
                drawn = [
                    torch.randn(x.shape[1:], generator=g, device=device, dtype=x.dtype)
                    for g in noise
                ]
                x = x + m.times([torch.stack(drawn)], "input_noise")[0]
            masks = {
                name: torch.stack(
                    [_mask(p, (batch.shape[1], *shape), g, x) for g in dropout]
                )
                for name, (p, shape) in self.masks.items()
            }
            gradients = self.gradients(m.leaves, x, y, masks)
            if around is not None:
                worst = self.worst(m, around, gradients)
                gradients = self.gradients(worst, x, y, masks)
            part = (epoch + step / steps) / self.epochs
            factor = 0.5 * (1 + math.cos(math.pi * part)) if self.cosine else 1.0
            self.rule(m, gradients, factor)
            m.step += 1

    def gradients(self, leaves, x, y, masks) -> list[Tensor]:
        """Every member's gradient of its batch loss."""
        leaves = [p.detach().requires_grad_() for p in leaves]
        parameters = dict(zip(self.net.layout.names, leaves, strict=True))
        with torch.enable_grad():
            logits = self.net.evaluate(
                parameters, x, members=True, own_inputs=True, masks=masks
            )
            # members do not interact: the gradient of the sum is each member's own
            loss = self.criterion.mean(logits, y, True, True).sum()
            return list(torch.autograd.grad(loss, leaves, materialize_grads=True))

    def worst(
        self, m: _Ensemble, around: Neighbourhood, gradients: list[Tensor]
    ) -> list[Tensor]:
        """The worst point of each member's neighbourhood, to first order."""
        layout = self.net.layout_on(gradients[0].device)
        w, gradient = m.w, _flat(gradients)
        around = replace(around, radius=m.values["radius"])
        step = around.at(w, layout).steepest(gradient)
        up = self.net.unflatten(w + step)
        return list(up.values())


def _flat(leaves: list[Tensor]) -> Tensor:
    return torch.cat([p.detach().flatten(1) for p in leaves], dim=1)


def _mask(p: float, shape, g: torch.Generator, like: Tensor) -> Tensor:
    drawn = torch.rand(shape, generator=g, device=like.device, dtype=like.dtype)
    return (drawn >= p).to(like.dtype) / (1 - p)


# ----------------------------------------------------------------- records and the run


class _Records:
    """Losses and accuracies on every part of the data."""

    def __init__(self, net: Network, data: Any, lead: torch.Size, criterion: Any):
        self.members, self.last = lead.numel(), {}
        self.parts: dict[str, Loss] = {}
        for name in ("train", "validation", "test"):
            examples = getattr(data, name, None)
            if examples is not None and len(examples.x):
                loss = Loss(net, examples, criterion)
                if own := len(loss._labelled):
                    y = examples.y.expand(*lead, *examples.y.shape[own:])
                    loss = Loss(net, (examples.x, y), criterion)
                self.parts[name] = loss
        clean = getattr(data.train, "clean_y", None)
        self.corrupted = None
        y = self.parts["train"].y
        if clean is not None and clean.shape[-1] == y.shape[-1]:
            corrupted = y != clean
            if corrupted.any():
                self.corrupted, self.clean = corrupted, clean

    def row(
        self, m: _Ensemble, epoch: int, due: bool, stop_loss: float | None
    ) -> tuple[dict[str, Tensor], Tensor, Tensor]:
        """Each member's newest entry, and which of those in m are lost or done."""
        bad = ~m.w.isfinite().all(1).cpu()
        done = torch.zeros_like(bad)
        checks = stop_loss is not None and epoch > 0
        if m.seeds and (due or checks):
            row = self.measure(m, self.parts if due else ["train"])
            bad |= ~row["train_loss"].isfinite()
            if checks:
                assert stop_loss is not None
                done = (row["train_loss"] < stop_loss) & ~bad
                if (done | bad).any() and not due:
                    # the history repeats a stopped member's last values: all of them
                    row = self.measure(m, self.parts)
            for name, value in row.items():
                missing = value.new_full((self.members,), math.nan)
                self.last.setdefault(name, missing)[m.index.cpu()] = value
        return {name: value.clone() for name, value in self.last.items()}, bad, done

    @torch.no_grad()
    def measure(self, m: _Ensemble, names: Iterable[str]) -> dict[str, Tensor]:
        """History entries of the members still in training, on the CPU."""
        row, w = {}, m.w
        for name in names:
            loss = self.parts[name]
            y = loss.y.to(w.device)
            own = loss.own_labels
            y = y[m.index] if own else y
            logits = loss.logits(w)
            row[f"{name}_loss"] = loss.criterion.mean(logits, y, True, own)
            try:
                right, counted = loss.criterion.right(logits, y, own)
            except ValueError:  # targets that are no classes have no accuracy
                row[f"{name}_accuracy"] = w.new_full((len(w),), math.nan)
                continue
            hits = (right & counted).flatten(1).sum(1).to(w.dtype)
            row[f"{name}_accuracy"] = hits / counted.flatten(1).sum(1)
            if name == "train" and self.corrupted is not None:
                wrong = self.corrupted.to(w.device)
                wrong = wrong[m.index] if wrong.ndim == 2 else wrong
                wrong = wrong.expand_as(right)
                truth = logits.argmax(-1) == self.clean.to(w.device)
                for key, value, part in (
                    ("clean_accuracy", right, ~wrong),
                    ("corrupted_accuracy", right, wrong),
                    ("truth_accuracy", truth, wrong),
                ):
                    hits = (value & part).sum(-1).to(w.dtype)
                    row[key] = hits / part.sum(-1)
        return {name: value.cpu() for name, value in row.items()}


@dataclass(frozen=True)
class _Whole:
    """The ensemble at the end of an epoch; replaced at once, so that it is whole."""

    epoch: int
    w: Tensor
    stopped: Tensor
    fitted: Tensor
    diverged: Tensor

    def then(self, m: _Ensemble, bad: Tensor, done: Tensor) -> "_Whole":
        """One epoch on, where ``bad`` and ``done`` of the members in m end."""
        index, epoch = m.index.cpu(), self.epoch + 1
        return _Whole(
            epoch,
            self.w.index_copy(0, m.index, m.w),
            self.stopped.index_fill(0, index[bad | done], epoch),
            self.fitted.index_fill(0, index[done], True),
            self.diverged.index_fill(0, index[bad], True),
        )


def _train(
    task: _Task, m: _Ensemble, records: _Records, wanted: set[int], kept: list[int],
    stop_loss: float | None, lead: torch.Size,
) -> Run:  # fmt: skip
    """Train to the end, or to Ctrl-C, which leaves the last whole epoch."""
    began, seeds, epochs = time.monotonic(), m.seeds, task.epochs
    never = torch.zeros(len(seeds), dtype=torch.bool, device="cpu")
    whole = _Whole(
        -1, m.w, torch.full_like(never, epochs, dtype=torch.long), never, never
    )
    rows: list[tuple[int, dict[str, Tensor]]] = []
    snapshots: list[tuple[int, Tensor]] = []

    def record(epoch: int) -> _Whole:
        row, bad, done = records.row(m, epoch, epoch in wanted, stop_loss)
        new = whole.then(m, bad, done)
        if epoch in wanted:
            rows.append((epoch, row))
        if epoch in kept:
            snapshots.append((epoch, new.w.cpu()))
        if bad.any():
            lost = [s for s, b in zip(m.seeds, bad.tolist(), strict=True) if b]
            warnings.warn(
                f"training diverged by epoch {epoch} for the seed(s) {lost}; the other "
                "members go on. A smaller lr may help.",
                RuntimeWarning,
                stacklevel=4,
            )
        m.keep(~(bad | done))
        return new

    try:
        whole = record(0)
        with progress(epochs, "training") as bar:
            for epoch in range(epochs):
                if m.seeds:
                    task.epoch(m, epoch)
                whole = record(epoch + 1)
                bar.update(1)
    except KeyboardInterrupt:
        if whole.epoch < 0:
            raise
        warnings.warn(
            f"interrupted: the run holds epoch {whole.epoch} of {epochs}",
            RuntimeWarning,
            stacklevel=3,
        )
    return _finished(whole, rows, snapshots, seeds, lead, epochs, began)


def _finished(whole: _Whole, rows, snapshots, seeds, lead, epochs, began) -> Run:
    """All of it in the shape that the user asked for."""
    # what an interrupted epoch has already left goes
    rows = [row for row in rows if row[0] <= whole.epoch]
    snapshots = [taken for taken in snapshots if taken[0] <= whole.epoch]
    k = whole.w.shape[-1]
    history = {
        name: torch.stack([row[name] for _, row in rows]).reshape(-1, *lead)
        for name in rows[-1][1]
    }
    none = torch.empty(0, len(seeds), k, dtype=whole.w.dtype, device="cpu")
    return Run(
        w=whole.w.reshape(*lead, k),
        seeds=seeds[: lead[-1]],
        epochs=torch.tensor([epoch for epoch, _ in rows], device="cpu"),
        history=history,
        diverged=whole.diverged.reshape(lead),
        stopped=whole.stopped.clamp(max=whole.epoch).reshape(lead),
        fitted=whole.fitted.reshape(lead),
        snapshots=torch.cat([none, *(w[None] for _, w in snapshots)]).reshape(
            -1, *lead, k
        ),
        snapshot_epochs=torch.tensor(
            [epoch for epoch, _ in snapshots], dtype=torch.long, device="cpu"
        ),
        seconds=time.monotonic() - began,
        interrupted=whole.epoch < epochs,
    )
