"""Training an ensemble of networks at once."""

import math
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from flatlab.capture import Replay
from flatlab.environment import check_dtype
from flatlab.environment import device as default_device
from flatlab.loss import Loss, place
from flatlab.neighbourhoods import Neighbourhood
from flatlab.network import Network, Parameters
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
    the run's weights are (rates, seeds, k).

    A member whose loss or weights stop being finite is marked ``diverged``, with a
    warning, and the others go on. Ctrl-C returns what is finished, with a warning.

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
    net = net if isinstance(net, Network) else Network(net)
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
    if not isinstance(loss.x, Tensor):
        raise TypeError(
            f"the inputs are a {type(loss.x).__name__}, expected one tensor: train "
            "this module in a loop of your own and measure it through Network(module)"
        )
    _check_module(net, loss.x)
    lead = _lead(seeds, values, loss._labelled)
    w = _placed(net, w, lead).to(device=device, dtype=dtype, copy=True)
    seeds = tuple(torch.tensor(seeds, device="cpu").expand(lead).flatten().tolist())
    values = {name: v.expand(lead).flatten() for name, v in values.items()}
    if start is None and not loss.own_labels:
        members = list(zip(seeds, *(v.tolist() for v in values.values()), strict=True))
        if alike := len(members) - len(set(members)):
            raise ValueError(
                f"{alike} of {len(members)} members are copies, seeds are {seeds}: "
                "expected different seeds where the settings are the same"
            )
    rule, buffers = OPTIMIZERS[optimizer]
    m = _Ensemble(w, buffers, values, seeds, neighbourhood)
    records = _Records(net, data, lead, criterion, wanted, kept, stop_loss)
    task = _Task(
        records.parts["train"], w, batch_size, epochs, rule, schedule == "cosine", when
    )
    return _train(task, m, records, lead)


# ------------------------------------------------------------------------- arguments


def _epochs(epochs, record, snapshots) -> tuple[set[int], set[int]]:
    """The epochs to record, and those whose weights to keep."""
    if not isinstance(epochs, int) or epochs < 1:
        raise ValueError(f"epochs is {epochs!r}, expected a positive integer")
    if isinstance(record, int):
        if record < 1:
            raise ValueError(
                f"record is {record}, expected a positive number of epochs"
            )
        record = range(0, epochs + 1, record)
    if not set(snapshots) <= {*range(epochs + 1)}:
        raise ValueError(
            f"snapshots are {snapshots}, expected epochs in 0 ... {epochs}"
        )
    return {0, epochs, *(record or ())}, set(snapshots)


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
        values[name] = v = torch.as_tensor(value, dtype=dtype, device=device)
        fits, expected = v >= 0, "of at least 0"
        if name in ("lr", "radius"):
            fits, expected = v > 0, "above 0"
        elif name == "momentum":
            fits, expected = fits & (v < 1), "of at least 0 and below 1"
        if not (fits & v.isfinite()).all():
            raise ValueError(f"{name} is {value}, expected finite values {expected}")
    return values


def _lead(seeds, values: dict[str, Tensor], labels: torch.Size) -> torch.Size:
    """The axes of the ensemble: seeds, settings and labels, broadcast."""
    shapes = {name: v.shape for name, v in values.items() if v.ndim}
    shapes["labels"] = labels
    try:
        return torch.broadcast_shapes((len(seeds),), *shapes.values())
    except RuntimeError:
        said = ", ".join(f"{name} {tuple(s)}" for name, s in shapes.items() if s)
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
    """The members still in training: their weights, optimiser state and settings."""

    def __init__(
        self, w: Tensor, buffers: int, values, seeds, around: Neighbourhood | None
    ):
        self.index = torch.arange(len(w), device=w.device)  # position in the whole
        self.w = w  # (members, k), and the optimiser's likewise
        self.buffers = [torch.zeros_like(w) for _ in range(buffers)]
        self.step = 0
        self.values: dict[str, Tensor] = values  # each (members,)
        self.seeds: tuple[int, ...] = seeds
        self.around = around
        self._prepare()

    def _prepare(self) -> None:
        self.replays = [Replay(), Replay()]  # of plain steps, of a neighbourhood's
        # settings that all members share, None where they differ: no step asks for them
        self.common = {
            name: v[0].item() if len(v) and (v == v[0]).all() else None
            for name, v in self.values.items()
        }
        if self.around is not None:
            self.around = replace(self.around, radius=self.values["radius"])

    def keep(self, alive: Tensor) -> None:
        """Drop all members but those where ``alive`` is True."""
        if alive.all():
            return
        here = alive.to(self.index.device)
        self.index, self.w = self.index[here], self.w[here]
        self.buffers = [buffer[here] for buffer in self.buffers]
        self.values = {name: v[here] for name, v in self.values.items()}
        self.seeds = tuple(
            s for s, a in zip(self.seeds, alive.tolist(), strict=True) if a
        )
        self._prepare()

    def setting(self, name: str, factor: float = 1.0, ndim: int = 2) -> float | Tensor:
        """A setting times ``factor``; where members differ, to multiply their rows."""
        if (common := self.common[name]) is not None:
            return common * factor
        return (self.values[name] * factor).view(-1, *[1] * (ndim - 1))

    def decayed(self, gradient: Tensor) -> Tensor:
        """The gradient with the L2 penalty's."""
        if self.common["weight_decay"] == 0:
            return gradient
        return gradient + self.w * self.setting("weight_decay")


def _sgd(m: _Ensemble, gradient: Tensor, factor: float) -> None:
    """One step of ``torch.optim.SGD`` for all members."""
    gradient = m.decayed(gradient)
    if m.common["momentum"] != 0:
        # with an empty buffer this is the first gradient itself, as in torch
        gradient = m.buffers[0].mul_(m.setting("momentum")).add_(gradient)
    lr = m.setting("lr", factor)
    if isinstance(lr, float):
        m.w.add_(gradient, alpha=-lr)
    else:
        m.w.sub_(gradient * lr)


def _adam(m: _Ensemble, gradient: Tensor, factor: float) -> None:
    """One step of ``torch.optim.Adam`` with its default betas and eps."""
    beta1, beta2, eps = 0.9, 0.999, 1e-8
    gradient = m.decayed(gradient)
    first, second = m.buffers
    first.lerp_(gradient, 1 - beta1)
    second.mul_(beta2).addcmul_(gradient, gradient, value=1 - beta2)
    denominator = second.sqrt().div_((1 - beta2 ** (m.step + 1)) ** 0.5).add_(eps)
    lr = m.setting("lr", factor / (1 - beta1 ** (m.step + 1)))
    m.w.sub_(first / denominator * lr)


# name: (rule, number of buffers)
OPTIMIZERS = {"sgd": (_sgd, 1), "adam": (_adam, 2)}


class _Task:
    """What an epoch is for every member: the examples, the loss, the batches."""

    def __init__(
        self, loss: Loss, w: Tensor, batch_size: int, epochs: int, rule: Callable,
        cosine: bool, when: tuple[float, float],
    ):  # fmt: skip
        self.net, self.criterion = loss.net, loss.criterion
        self.x: Tensor = place(loss.x, w.device, w.dtype)
        self.y, self.own_labels = loss.labels(w), loss.own_labels
        self.masks = self.net.dropout_masks(self.x[:1])
        self.batch_size, self.epochs = batch_size, epochs
        self.rule, self.cosine, self.when = rule, cosine, when

    def epoch(self, m: _Ensemble, epoch: int) -> None:
        """All steps of one epoch."""
        n, size = len(self.x), self.batch_size
        device, steps = self.x.device, math.ceil(n / size)
        orders = [
            torch.randperm(n, generator=generator(s, ORDER, epoch), device="cpu")
            for s in m.seeds
        ]
        order = torch.stack(orders).to(device)
        # what is drawn for one example, by whom: noise first, then every mask
        noisy = m.common["input_noise"] != 0
        draws = [(torch.randn, NOISE, self.x.shape[1:])] if noisy else []
        draws += [(torch.rand, DROPOUT, shape) for _, shape in self.masks.values()]
        sources = {
            stream: [generator(s, stream, epoch, device=device) for s in m.seeds]
            for _, stream, _ in draws
        }
        begin, end = self.when
        around = m.around if begin <= epoch / self.epochs < end else None
        slope = partial(self.slope, m, around)
        # what is the user's may do what a graph would not repeat
        known = isinstance(self.criterion.function, str)
        known &= type(around) in (Neighbourhood, type(None))
        run = partial(m.replays[around is not None], slope) if known else slope
        how: Any = {"device": device, "dtype": self.x.dtype}
        for step in range(steps):
            batch = order[:, step * size : (step + 1) * size]
            drawn = [
                torch.stack([draw((batch.shape[1], *shape), generator=g, **how)
                             for g in sources[stream]])
                for draw, stream, shape in draws
            ]  # fmt: skip
            gradient = run(batch, *drawn)
            part = (epoch + step / steps) / self.epochs
            factor = 0.5 * (1 + math.cos(math.pi * part)) if self.cosine else 1.0
            self.rule(m, gradient, factor)
            m.step += 1

    def slope(
        self, m: _Ensemble, around: Neighbourhood | None, batch: Tensor, *drawn: Tensor
    ) -> Tensor:
        """The gradient that a step follows, (members, k)."""
        x = self.x[batch]
        y = self.y[m.index[:, None], batch] if self.own_labels else self.y[batch]
        uniforms: Sequence[Tensor] = drawn
        if m.common["input_noise"] != 0:
            noise, *uniforms = drawn
            x = x + noise * m.setting("input_noise", ndim=x.ndim)
        masks = {
            name: (uniform >= p).to(x.dtype) / (1 - p)
            for (name, (p, _)), uniform in zip(
                self.masks.items(), uniforms, strict=True
            )
        }
        gradient = self.gradient(m.w, x, y, masks)
        if around is None:
            return gradient
        here = around.at(m.w, self.net.layout_on(x.device))
        return self.gradient(m.w + here.steepest(gradient), x, y, masks)

    def gradient(self, w: Tensor, x: Tensor, y: Tensor, masks: Parameters) -> Tensor:
        """Every member's gradient of its batch loss at w, (members, k)."""
        leaves = self.net.leaves(w)
        with torch.enable_grad():
            logits = self.net.evaluate({**leaves, **masks}, x, own_inputs=True)
            # members do not interact: the gradient of the sum is each member's own
            loss = self.criterion.mean(logits, y, True, True).sum()
        parts = torch.autograd.grad(loss, [*leaves.values()], materialize_grads=True)
        return torch.cat([part.flatten(1) for part in parts], 1)


# ----------------------------------------------------------------- records and the run


class _Records:
    """Losses and accuracies on every part of the data: when, and of what."""

    def __init__(
        self, net: Network, data: Any, lead: torch.Size, criterion: Any,
        wanted: set[int], kept: set[int], stop_loss: float | None,
    ):  # fmt: skip
        self.members, self.last = lead.numel(), {}
        self.wanted, self.kept, self.stop_loss = wanted, kept, stop_loss
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

    def row(self, m: _Ensemble, epoch: int) -> tuple[dict[str, Tensor], Tensor, Tensor]:
        """Each member's newest entry, and which of those in m are lost or done."""
        bad = ~m.w.isfinite().all(1).cpu()
        done = torch.zeros_like(bad)
        due, stop = epoch in self.wanted, self.stop_loss if epoch else None
        if m.seeds and (due or stop is not None):
            row = self.measure(m, self.parts if due else ["train"])
            bad |= ~row["train_loss"].isfinite()
            if stop is not None:
                done = (row["train_loss"] < stop) & ~bad
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
        row: dict[str, Tensor] = {}
        for name in names:
            loss, losses, sums = self.parts[name], [], dict[str, Any]()
            own, criterion, y = loss.own_labels, loss.criterion, loss.labels(m.w)
            named, y = isinstance(criterion.function, str), y[m.index] if own else y
            for part, logits in loss.outputs(m.w):
                labels = y[:, part] if own else y[part]
                if named:
                    losses.append(criterion.each(logits, labels))
                else:
                    value = criterion.mean(logits, labels, True, own)[:, None]
                    losses.append(value * (logits.shape[1] / loss.n))
                for kind, hits, of in self._hits(name, m, part, logits, labels):
                    counts = [v.flatten(1).sum(1) for v in (hits & of, of)]
                    sums[kind] = torch.stack(counts) + sums.get(kind, 0)
            each = torch.cat(losses, 1)
            row[f"{name}_loss"] = (
                criterion.mean_of(each, y, 1) if named else each.sum(1)
            )
            for kind, (hits, of) in sums.items():
                row[kind] = hits.to(m.w.dtype) / of
        return {name: value.cpu() for name, value in row.items()}

    def _hits(
        self, name: str, m: _Ensemble, part: slice, logits: Tensor, labels: Tensor
    ) -> Iterator[tuple[str, Tensor, Tensor]]:
        """Each accuracy: what it counts on a part of the examples, among which."""
        loss, device = self.parts[name], logits.device
        try:
            right, counted = loss.criterion.right(logits, labels, loss.own_labels)
        except ValueError:  # targets that are no classes have no accuracy: 0 of 0
            none = torch.zeros(len(logits), 1, dtype=torch.bool, device=device)
            yield f"{name}_accuracy", none, none
            return
        yield f"{name}_accuracy", right, counted
        if name == "train" and self.corrupted is not None:
            wrong = self.corrupted.to(device)
            wrong = wrong[m.index][:, part] if loss.own_labels else wrong[part]
            wrong = wrong.expand_as(right)
            truth = logits.argmax(-1) == self.clean.to(device)[part]
            yield "clean_accuracy", right, ~wrong
            yield "corrupted_accuracy", right, wrong
            yield "truth_accuracy", truth, wrong


@dataclass(frozen=True)
class _Whole:
    """A run after an epoch; replaced at once, so that an interrupt leaves it whole."""

    epoch: int
    w: Tensor
    stopped: Tensor
    fitted: Tensor
    diverged: Tensor
    rows: tuple[tuple[int, dict[str, Tensor]], ...] = ()
    snapshots: tuple[tuple[int, Tensor], ...] = ()

    def then(self, m: _Ensemble, records: _Records) -> tuple["_Whole", Tensor, Tensor]:
        """One epoch on; which members in m are lost, and which are done."""
        index, epoch = m.index.cpu(), self.epoch + 1
        row, bad, done = records.row(m, epoch)
        w = self.w.index_copy(0, m.index, m.w)
        rows = ((epoch, row),) if epoch in records.wanted else ()
        snapshots = ((epoch, w.cpu()),) if epoch in records.kept else ()
        whole = _Whole(
            epoch,
            w,
            self.stopped.index_fill(0, index[bad | done], epoch),
            self.fitted.index_fill(0, index[done], True),
            self.diverged.index_fill(0, index[bad], True),
            self.rows + rows,
            self.snapshots + snapshots,
        )
        return whole, bad, done

    def run(self, seeds: tuple[int, ...], lead: torch.Size) -> Run:
        """All of it in the shape that the user asked for."""
        k = self.w.shape[-1]
        none = torch.empty(0, len(seeds), k, dtype=self.w.dtype, device="cpu")
        snapshots = torch.cat([none, *(w[None] for _, w in self.snapshots)])
        at, taken = (
            torch.tensor([e for e, _ in pairs], dtype=torch.long, device="cpu")
            for pairs in (self.rows, self.snapshots)
        )
        return Run(
            w=self.w.reshape(*lead, k),
            seeds=seeds[: lead[-1]],
            epochs=at,
            history={
                name: torch.stack([row[name] for _, row in self.rows]).view(-1, *lead)
                for name in self.rows[-1][1]
            },
            diverged=self.diverged.reshape(lead),
            stopped=self.stopped.clamp(max=self.epoch).reshape(lead),
            fitted=self.fitted.reshape(lead),
            snapshots=snapshots.reshape(-1, *lead, k),
            snapshot_epochs=taken,
        )


def _train(task: _Task, m: _Ensemble, records: _Records, lead: torch.Size) -> Run:
    """Train to the end, or to Ctrl-C, which leaves the last whole epoch."""
    seeds, epochs = m.seeds, task.epochs
    never = torch.zeros(len(seeds), dtype=torch.bool, device="cpu")
    last = torch.full_like(never, epochs, dtype=torch.long)
    whole = _Whole(-1, m.w, last, never, never)
    try:
        with progress(epochs, "training") as bar:
            for epoch in range(epochs + 1):
                if epoch and m.seeds:
                    task.epoch(m, epoch - 1)
                whole, bad, done = whole.then(m, records)
                if bad.any():
                    lost = [s for s, b in zip(m.seeds, bad.tolist(), strict=True) if b]
                    warnings.warn(
                        f"training diverged by epoch {epoch} for the seed(s) {lost}; "
                        "the other members go on. A smaller lr may help.",
                        RuntimeWarning,
                        stacklevel=3,
                    )
                m.keep(~(bad | done))
                bar.update(int(epoch > 0))
    except KeyboardInterrupt:
        if whole.epoch < 0:
            raise
        warnings.warn(
            f"interrupted: the run holds epoch {whole.epoch} of {epochs}",
            RuntimeWarning,
            stacklevel=3,
        )
    return whole.run(seeds, lead)
