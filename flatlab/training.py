"""Training an ensemble of networks at once."""

import hashlib
import json
import math
import os
import tempfile
import time
import warnings
import zipfile
from collections.abc import Callable, Iterable, Sequence
from dataclasses import InitVar, dataclass, field, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from flatlab.environment import check_dtype
from flatlab.environment import device as default_device
from flatlab.loss import Criterion, Loss, place
from flatlab.network import Network
from flatlab.progress import progress

# streams of randomness of one member; each (seed, stream, epoch) has its own generator
ORDER, DROPOUT, NOISE = 1, 2, 3

CHECKPOINT_SECONDS = 20.0


@dataclass(frozen=True)
class Run:
    """What an ensemble's training leaves behind.

    Attributes:
        w: (members, k) final weights; those of a diverged member are not finite.
        seeds: seed of every member.
        epochs: (records,) epochs at which ``history`` was recorded, 0 the start.
        history: name to (records, members), on the CPU: ``train_loss`` and
            ``train_accuracy``, the same for ``validation`` and ``test`` where the data
            set has them, and for corrupted labels ``clean_accuracy`` (on the untouched
            training labels), ``corrupted_accuracy`` (fit of the wrong labels) and
            ``truth_accuracy`` (true labels predicted where wrong ones were given).
            A stopped member keeps its last values.
        diverged: (members,) bool, True where the loss or a weight stopped being finite.
        stopped: (members,) epoch after which the member was no longer trained.
        fitted: (members,) bool, True where ``stop_loss`` was reached.
        snapshots: (snapshots, members, k) weights at ``snapshot_epochs``, on the CPU.
        snapshot_epochs: (snapshots,).
        seconds: wall time, of all sessions if the run was resumed.
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


def generator(seed: int, *stream: int, device: torch.device | str = "cpu"):
    """A random generator that depends on nothing but its numbers.

    Args:
        seed: of the member.
        *stream: what the numbers are for, and the epoch.
        device: where the generator draws.

    Returns:
        A seeded ``torch.Generator``.
    """
    state = np.random.SeedSequence([seed, *stream]).generate_state(1, np.uint64)[0]
    return torch.Generator(device).manual_seed(int(state >> np.uint64(1)))


def _per_member(name: str, value, w: Tensor, positive: bool = False) -> Tensor:
    """A hyperparameter as a (members,) tensor in the dtype and place of w, checked."""
    tensor = torch.as_tensor(value, dtype=w.dtype, device=w.device)
    if tensor.shape not in ((), (len(w),)):
        raise ValueError(
            f"{name} has shape {tuple(tensor.shape)}, expected a number or one value "
            f"for each of the {len(w)} members"
        )
    if not (tensor.isfinite() & (tensor > 0 if positive else tensor >= 0)).all():
        raise ValueError(
            f"{name} is {value}, expected finite values "
            + ("above 0" if positive else "of at least 0")
        )
    return tensor.expand(len(w)).clone()


class _Members:
    """The members still in training: everything here has one entry per member.

    ``common[name]`` is the hyperparameter that all members share, or None where they
    differ: known once, so that no step has to ask the device.
    """

    def __init__(self, index, leaves, buffers, values, seeds):
        self.index = index  # position in the ensemble
        self.leaves = leaves  # (members, *shape), one per parameter
        self.buffers = buffers  # of the optimizer, each like leaves
        self.values = values  # hyperparameters, each (members,)
        self.seeds = seeds
        self._find_common()

    def _find_common(self) -> None:
        self.common = {
            name: v[0].item() if len(v) and (v == v[0]).all() else None
            for name, v in self.values.items()
        }

    def keep(self, alive: Tensor) -> None:
        """Drop all members but those where ``alive`` is True."""
        if alive.all():
            return
        self.index = self.index[alive]
        self.leaves = [p[alive] for p in self.leaves]
        self.buffers = [[b[alive] for b in buffers] for buffers in self.buffers]
        self.values = {name: v[alive] for name, v in self.values.items()}
        self.seeds = tuple(
            s for s, a in zip(self.seeds, alive.tolist(), strict=True) if a
        )
        self._find_common()

    def times(self, leaves: Sequence[Tensor], name: str, factor: float = 1.0):
        """Each leaf times factor x its member's hyperparameter ``name``."""
        common = self.common[name]
        if common is not None:
            return torch._foreach_mul(leaves, common * factor)
        values = self.values[name] * factor
        return [p * values.view(-1, *[1] * (p.ndim - 1)) for p in leaves]

    def decayed(self, gradients: Sequence[Tensor]) -> Sequence[Tensor]:
        """Gradients with the L2 penalty's."""
        if self.common["weight_decay"] == 0:
            return gradients
        return torch._foreach_add(gradients, self.times(self.leaves, "weight_decay"))


def _sgd(m: _Members, gradients, factor: float, count: int) -> None:
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


def _adam(m: _Members, gradients, factor: float, count: int) -> None:
    """One step of ``torch.optim.Adam`` with its default betas and eps."""
    beta1, beta2, eps = 0.9, 0.999, 1e-8
    gradients = m.decayed(gradients)
    first, second = m.buffers
    torch._foreach_lerp_(first, gradients, 1 - beta1)
    torch._foreach_mul_(second, beta2)
    torch._foreach_addcmul_(second, gradients, gradients, value=1 - beta2)
    denominators = torch._foreach_sqrt(second)
    torch._foreach_div_(denominators, (1 - beta2 ** (count + 1)) ** 0.5)
    torch._foreach_add_(denominators, eps)
    steps = torch._foreach_div(first, denominators)
    torch._foreach_sub_(
        m.leaves, m.times(steps, "lr", factor / (1 - beta1 ** (count + 1)))
    )


# name: (rule, number of buffers)
OPTIMIZERS = {"sgd": (_sgd, 1), "adam": (_adam, 2)}


def _schedule(schedule, decay: float) -> Callable[[float, int], float]:
    """Factor of the learning rate as a function of (epoch so far, epochs in all)."""
    if callable(schedule):
        return lambda epoch, epochs: float(schedule(epoch))
    if schedule == "constant":
        return lambda epoch, epochs: 1.0
    if schedule == "cosine":
        return lambda epoch, epochs: 0.5 * (1 + math.cos(math.pi * epoch / epochs))
    if schedule == "exponential":
        if not 0 < decay <= 1:
            raise ValueError(f"decay is {decay}, expected a factor in (0, 1]")
        return lambda epoch, epochs: decay ** int(epoch)
    raise ValueError(
        f"schedule is {schedule!r}, expected 'constant', 'cosine', 'exponential' or a "
        "callable from the epoch to a factor of lr"
    )


class _Records:
    """Losses and accuracies on every part of the data, over the epochs."""

    def __init__(self, net: Network, data, criterion):
        self.parts = {"train": Loss(net, data.train, criterion)}
        for name in ("validation", "test"):
            examples = getattr(data, name, None)
            if examples is not None and len(examples):
                self.parts[name] = Loss(net, examples, criterion)
        train = data.train
        clean = getattr(train, "clean_y", None)
        self.corrupted = None
        if clean is not None and clean.shape[-1] == train.y.shape[-1]:
            corrupted = train.y != clean
            if corrupted.any():
                self.corrupted, self.clean = corrupted, clean

    def measure(
        self, w: Tensor, index: Tensor, only_train: bool = False
    ) -> dict[str, Tensor]:
        """History entries of the members at ``index`` of the ensemble."""
        row = {}
        for name, loss in self.parts.items():
            if only_train and name != "train":
                continue
            y = loss.y.to(w.device)
            own = loss.own_labels
            y = y[index.to(w.device)] if own else y
            logits = loss.logits(w)
            with torch.no_grad():
                row[f"{name}_loss"] = loss.criterion.mean(logits, y, True, own)
                right = logits.argmax(-1) == y
                row[f"{name}_accuracy"] = right.to(w.dtype).mean(-1)
                if name == "train" and self.corrupted is not None:
                    wrong = self.corrupted.to(w.device)
                    wrong = wrong[index.to(w.device)] if wrong.ndim == 2 else wrong
                    wrong = wrong.expand_as(right)
                    truth = logits.argmax(-1) == self.clean.to(w.device)
                    for key, value, part in (
                        ("clean_accuracy", right, ~wrong),
                        ("corrupted_accuracy", right, wrong),
                        ("truth_accuracy", truth, wrong),
                    ):
                        hits = (value & part).sum(-1).to(w.dtype)
                        row[key] = hits / part.sum(-1)
        return {name: value.detach().cpu() for name, value in row.items()}


def train(
    net: Network | nn.Module,
    data,
    *,
    seeds: int | Iterable[int],
    epochs: int,
    batch_size: int,
    lr,
    momentum=0.0,
    weight_decay=0.0,
    optimizer: str = "sgd",
    schedule="constant",
    decay: float = 0.97,
    stop_loss: float | None = None,
    input_noise=0.0,
    neighbourhood=None,
    criterion="cross_entropy",
    start: Tensor | None = None,
    record: int | Sequence[int] = 1,
    snapshots: Sequence[int] = (),
    dtype: torch.dtype | None = None,
    autocast: torch.dtype | None = None,
    device: torch.device | str | None = None,
    checkpoint: str | os.PathLike | None = None,
    label: str = "training",
) -> Run:
    """Train all members of an ensemble at once.

    Member i starts from ``net.init(seeds[i])`` and sees batches, dropout masks and
    input noise drawn from its own seed: it is the network that the same seed gives
    alone. Weights are stacked, data lie on the device, and a batch is an index lookup.
    ``lr``, ``momentum``, ``weight_decay``, ``input_noise`` and the neighbourhood's
    radius may be tensors with one value per member, and the training labels may have a
    member axis: a sweep over them is one ensemble, and members that differ in a setting
    may share a seed, so that they can be compared in pairs.

    A member whose loss or weights stop being finite is marked ``diverged``, with a
    warning, and the others go on. Ctrl-C returns what is finished. With ``checkpoint``
    an interrupted run resumes, to the same result, when called again with the same
    arguments.

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
        schedule: "constant", "cosine" (to 0 at the end, every step), "exponential"
            (lr x decay every epoch) or a callable from the epoch (a fraction counts
            the steps) to a factor of lr.
        decay: factor per epoch of the exponential schedule.
        stop_loss: a member stops after the epoch at whose end its loss on the whole
            training set is below this, in the criterion's units.
        input_noise: standard deviation of Gaussian noise added to every input of a
            batch, in the units of x.
        neighbourhood: trains with SAM or ASAM: the gradient is taken at the worst
            point of this ``Neighbourhood`` to first order.
        criterion: as for ``Loss``.
        start: (members, k) weights to start from instead of fresh ones.
        record: epochs between records of the history, or the epochs to record; the
            start and the end are always recorded.
        snapshots: epochs at which to keep the weights (0 is the start).
        dtype: of the weights; by default the module's.
        autocast: dtype for automatic mixed precision, such as ``torch.bfloat16``.
        device: by default ``flatlab.device()``.
        checkpoint: path of a file to resume from; removed when the run is complete.
        label: what the progress bar says.

    Returns:
        A ``Run``.

    Raises:
        TypeError: if ``net`` or ``data`` are of the wrong kind.
        ValueError: for hyperparameters outside their range, labels outside the
            network's classes, modules that training would not treat right (BatchNorm's
            running statistics, which are no weights; dropout hidden inside attention
            or recurrent layers), or a checkpoint of another run.
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
    for name, value in (("epochs", epochs), ("batch_size", batch_size)):
        if not isinstance(value, int) or value < 1:
            raise ValueError(f"{name} is {value!r}, expected a positive integer")
    if optimizer not in OPTIMIZERS:
        raise ValueError(
            f"optimizer is {optimizer!r}, expected one of {sorted(OPTIMIZERS)}"
        )
    if isinstance(record, int):
        if record < 1:
            raise ValueError(
                f"record is {record}, expected a positive number of epochs"
            )
        record = range(0, epochs + 1, record)
    snapshots = sorted(set(snapshots))
    if snapshots and not 0 <= snapshots[0] <= snapshots[-1] <= epochs:
        raise ValueError(
            f"snapshots are {snapshots}, expected epochs in 0 ... {epochs}"
        )
    _check_module(net)

    device = torch.device(device if device is not None else default_device())
    w = net.init(seeds) if start is None else start
    net.check(w)
    if w.shape != (len(seeds), net.k):
        raise ValueError(
            f"start has shape {tuple(w.shape)}, expected ({len(seeds)}, {net.k}): one "
            "row per seed"
        )
    dtype = dtype or w.dtype
    check_dtype(dtype, device)
    w = w.detach().to(device=device, dtype=dtype, copy=True)
    values = {
        "lr": _per_member("lr", lr, w, positive=True),
        "momentum": _per_member("momentum", momentum, w),
        "weight_decay": _per_member("weight_decay", weight_decay, w),
        "input_noise": _per_member("input_noise", input_noise, w),
    }
    if (values["momentum"] >= 1).any():
        raise ValueError(f"momentum is {momentum}, expected values below 1")
    if optimizer == "adam" and values["momentum"].any():
        raise ValueError("momentum is for optimizer='sgd'; Adam has its own")
    if neighbourhood is not None:
        radius = torch.as_tensor(neighbourhood.radius, dtype=dtype, device=device)
        values["radius"] = _per_member("the neighbourhood's radius", radius, w)
    members = list(zip(seeds, *(v.tolist() for v in values.values()), strict=True))
    alike = len(members) - len(set(members))
    if alike and start is None and data.train.y.ndim == 1:
        raise ValueError(
            f"{alike} of {len(members)} members are copies, seeds are {seeds}: "
            "expected different seeds where the settings are the same"
        )
    training = _Training(
        net=net,
        data=data,
        w=w,
        seeds=seeds,
        values=values,
        epochs=epochs,
        batch_size=batch_size,
        optimizer=optimizer,
        rate=_schedule(schedule, decay),
        stop_loss=stop_loss,
        neighbourhood=neighbourhood,
        criterion=Criterion(criterion),
        wanted={0, epochs, *record},
        kept=snapshots,
        autocast=autocast,
    )
    if checkpoint is not None:
        checkpoint = Path(checkpoint)
        settings = (
            seeds, epochs, batch_size, optimizer, str(schedule), decay, stop_loss,
            repr(neighbourhood), str(criterion), sorted(training.wanted), snapshots,
            str(autocast), str(dtype), [str(m) for m in net.modules()][:1],
        )  # fmt: skip
        training.resume(checkpoint, settings)
    return training.run(checkpoint, label)


@dataclass(frozen=True)
class _State:
    """Everything a run is at the end of an epoch; replaced as a whole, never written.

    So an interruption at any moment leaves the last whole epoch.
    """

    tensors: dict[str, Tensor]
    epoch: int = -1
    count: int = 0  # steps taken
    seconds: float = 0.0
    epochs: tuple[int, ...] = ()  # recorded
    history: tuple[dict[str, Tensor], ...] = ()
    last: dict[str, Tensor] = field(default_factory=dict)  # newest entry per member
    snapshots: tuple[Tensor, ...] = ()


@dataclass(eq=False)
class _Training:
    """One run: its state at the end of the last whole epoch, and how to go on."""

    net: Network
    data: InitVar
    w: InitVar
    seeds: tuple[int, ...]
    values: dict[str, Tensor]  # hyperparameters, each (members,)
    epochs: int
    batch_size: int
    optimizer: InitVar
    rate: Callable[[float, int], float]  # factor of lr, as ``_schedule`` gives it
    stop_loss: float | None
    neighbourhood: object  # a ``Neighbourhood`` or None
    criterion: Criterion
    wanted: set[int]  # epochs that are recorded
    kept: list[int]  # epochs whose weights are kept
    autocast: torch.dtype | None

    def __post_init__(self, data, w, optimizer):
        self.step, buffers = OPTIMIZERS[optimizer]
        self.records = _Records(self.net, data, self.criterion.function)
        self.x = place(data.train.x, w.device, w.dtype)
        self.y = data.train.y.to(w.device)
        self.n = len(self.x)
        self.own_labels = self.y.ndim == 2 and self.y.shape[-1] == self.n
        members = len(self.seeds)
        if self.own_labels and self.y.shape[0] != members:
            raise ValueError(
                f"the training labels are of {self.y.shape[0]} members, the seeds of "
                f"{members}"
            )
        if isinstance(self.criterion.function, str):
            self._check_labels(w, data)
        self.masks = self.net.dropout_masks(self.x[:1])
        self.state = _State(
            tensors={
                "w": w,
                **{f"buffer{i}": torch.zeros_like(w) for i in range(buffers)},
                "stopped": torch.full((members,), self.epochs),
                "fitted": torch.zeros(members, dtype=torch.bool),
                "diverged": torch.zeros(members, dtype=torch.bool),
                "active": torch.ones(members, dtype=torch.bool),
            }
        )
        self.settings = ""

    # ---------------------------------------------------------------- running

    def run(self, checkpoint: Path | None, label: str) -> Run:
        """Train from the current state to the end, or to Ctrl-C."""
        began = saved = time.monotonic()
        earlier = self.state.seconds
        interrupted = False
        m = self._members()
        try:
            if self.state.epoch < 0:
                self._close_epoch(m, 0, 0, earlier)
            with progress(self.epochs - self.state.epoch, label) as bar:
                for epoch in range(self.state.epoch, self.epochs):
                    count = self._epoch(m, epoch) if m.seeds else self.state.count
                    now = time.monotonic()
                    self._close_epoch(m, epoch + 1, count, earlier + now - began)
                    bar.update(1)
                    if checkpoint is not None and now - saved > CHECKPOINT_SECONDS:
                        self.save(checkpoint)
                        saved = now
        except KeyboardInterrupt:
            if self.state.epoch < 0:
                raise
            interrupted = True
            if checkpoint is not None:
                self.save(checkpoint)
            warnings.warn(
                f"interrupted: the run holds epoch {self.state.epoch} of {self.epochs}",
                RuntimeWarning,
                stacklevel=3,
            )
        if checkpoint is not None and not interrupted:
            checkpoint.unlink(missing_ok=True)
        state, t = self.state, self.state.tensors
        return Run(
            w=t["w"],
            seeds=self.seeds,
            epochs=torch.tensor(state.epochs),
            history={
                name: torch.stack([row[name] for row in state.history])
                for name in state.last
            },
            diverged=t["diverged"],
            stopped=t["stopped"].where(~t["active"], torch.tensor(state.epoch)),
            fitted=t["fitted"],
            snapshots=torch.stack(state.snapshots)
            if state.snapshots
            else torch.empty(0, *t["w"].shape),
            snapshot_epochs=torch.tensor(
                self.kept[: len(state.snapshots)], dtype=torch.long
            ),
            seconds=earlier + time.monotonic() - began,
            interrupted=interrupted,
        )

    def _members(self) -> _Members:
        """The members that go on, unpacked from the flat state."""
        w, layout = self.state.tensors["w"], self.net.layout

        def leaves(flat: Tensor) -> list[Tensor]:
            return [
                flat[:, part].reshape(-1, *shape).clone() for _, shape, part in layout
            ]

        buffers = [
            t for name, t in self.state.tensors.items() if name.startswith("buffer")
        ]
        m = _Members(
            index=torch.arange(len(w), device=w.device),
            leaves=leaves(w),
            buffers=[leaves(b) for b in buffers],
            values=self.values,
            seeds=self.seeds,
        )
        m.keep(self.state.tensors["active"].to(w.device))
        return m

    def _epoch(self, m: _Members, epoch: int) -> int:
        """All steps of one epoch; returns the number of steps taken so far."""
        count = self.state.count
        device, steps = self.x.device, math.ceil(self.n / self.batch_size)
        order = torch.stack(
            [
                torch.randperm(self.n, generator=generator(s, ORDER, epoch))
                for s in m.seeds
            ]
        ).to(device)
        dropout = [generator(s, DROPOUT, epoch, device=device) for s in m.seeds]
        noise = [generator(s, NOISE, epoch, device=device) for s in m.seeds]
        labels = self.y[m.index] if self.own_labels else self.y
        for step in range(steps):
            batch = order[:, step * self.batch_size : (step + 1) * self.batch_size]
            x = self.x[batch]
            y = labels.gather(1, batch) if self.own_labels else labels[batch]
            if m.common["input_noise"] != 0:
                drawn = torch.stack(
                    [
                        torch.randn(
                            x.shape[1:], generator=g, device=device, dtype=x.dtype
                        )
                        for g in noise
                    ]
                )
                x = x + m.times([drawn], "input_noise")[0]
            masks = {
                name: torch.stack(
                    [self._mask(p, (batch.shape[1], *shape), g, x) for g in dropout]
                )
                for name, (p, shape) in self.masks.items()
            }
            gradients = self._gradients(m, m.leaves, x, y, masks)
            if self.neighbourhood is not None:
                gradients = self._gradients(
                    m, self._ascended(m, gradients), x, y, masks
                )
            factor = self.rate(epoch + step / steps, self.epochs)
            self.step(m, gradients, factor, count)
            count += 1
        return count

    @staticmethod
    def _mask(p: float, shape, g: torch.Generator, like: Tensor) -> Tensor:
        drawn = torch.rand(shape, generator=g, device=like.device, dtype=like.dtype)
        return (drawn >= p).to(like.dtype) / (1 - p)

    def _gradients(self, m, leaves, x, y, masks) -> Sequence[Tensor]:
        """Every member's gradient of its batch loss."""
        leaves = [p.detach().requires_grad_() for p in leaves]
        parameters = dict(zip(self.net.layout.names, leaves, strict=True))
        with torch.enable_grad():
            with torch.autocast(
                x.device.type, self.autocast, enabled=self.autocast is not None
            ):
                logits = self.net.evaluate(
                    parameters, x, members=True, own_inputs=True, masks=masks
                )
            # members do not interact: the gradient of the sum is each member's own
            loss = self.criterion.mean(logits.to(leaves[0].dtype), y, True, True).sum()
            return torch.autograd.grad(loss, leaves, materialize_grads=True)

    def _ascended(self, m: _Members, gradients) -> list[Tensor]:
        """The worst point of each member's neighbourhood, to first order."""
        layout = self.net.layout_on(gradients[0].device)
        w, gradient = _flat(m.leaves), _flat(gradients)
        around = replace(self.neighbourhood, radius=m.values["radius"])
        step = around.at(w, layout).steepest(gradient)
        up = self.net.unflatten(w + step)
        return list(up.values())

    def _close_epoch(self, m: _Members, epoch: int, count: int, seconds: float) -> None:
        """Record, mark members that diverged or are done, and renew the state."""
        old = self.state
        t = {name: tensor.clone() for name, tensor in old.tensors.items()}
        last = {name: value.clone() for name, value in old.last.items()}
        w, index = _flat(m.leaves), m.index.cpu()
        bad = ~w.isfinite().all(1).cpu()
        done = torch.zeros_like(bad)
        due = epoch in self.wanted
        if m.seeds and (due or (self.stop_loss is not None and epoch > 0)):
            row = self.records.measure(w, m.index, only_train=not due)
            bad |= ~row["train_loss"].isfinite()
            if self.stop_loss is not None and epoch > 0:
                done = (row["train_loss"] < self.stop_loss) & ~bad
                if (done | bad).any() and not due:
                    # the history repeats a stopped member's last values: all of them
                    row = self.records.measure(w, m.index)
            for name, value in row.items():
                missing = torch.full((len(self.seeds),), math.nan, dtype=value.dtype)
                last.setdefault(name, missing)[index] = value
        t["w"][m.index] = w
        for i, buffers in enumerate(m.buffers):
            t[f"buffer{i}"][m.index] = _flat(buffers)
        ends = bad | done
        t["diverged"][index[bad]] = True
        t["fitted"][index[done]] = True
        t["stopped"][index[ends]] = epoch
        t["active"][index[ends]] = False
        self.state = _State(
            tensors=t,
            epoch=epoch,
            count=count,
            seconds=seconds,
            epochs=(*old.epochs, epoch) if due else old.epochs,
            history=(*old.history, {n: v.clone() for n, v in last.items()})
            if due
            else old.history,
            last=last,
            snapshots=(*old.snapshots, t["w"].cpu())
            if epoch in self.kept
            else old.snapshots,
        )
        if bad.any():
            lost = [self.seeds[i] for i in index[bad].tolist()]
            warnings.warn(
                f"training diverged by epoch {epoch} for the seed(s) {lost}; the other "
                "members go on. A smaller lr may help.",
                RuntimeWarning,
                stacklevel=4,
            )
        m.keep(~ends.to(m.index.device))

    # ------------------------------------------------------------ checkpoints

    def _fingerprint(self, settings: tuple) -> str:
        digest = hashlib.sha256(json.dumps(settings, default=str).encode())
        for tensor in (self.x, self.y, self.state.tensors["w"], *self.values.values()):
            digest.update(tensor.cpu().contiguous().numpy().tobytes())
        return digest.hexdigest()

    def resume(self, path: Path, settings: tuple) -> None:
        """Take up the state of an interrupted run of the same settings."""
        self.settings = self._fingerprint(settings)
        if not path.exists():
            return
        try:
            with np.load(path, allow_pickle=False) as file:
                arrays = {name: torch.from_numpy(file[name]) for name in file.files}
            meta = json.loads(bytes(arrays.pop("meta").numpy()).decode())
        except (ValueError, OSError, KeyError, zipfile.BadZipFile, EOFError) as error:
            raise ValueError(
                f"{path} is no readable checkpoint ({error}); delete it to start anew"
            ) from error
        if meta["settings"] != self.settings:
            raise ValueError(
                f"{path} is the checkpoint of another run (other data, weights or "
                "settings); delete it or choose another path"
            )
        names, numbers = meta["names"], meta["numbers"]
        self.state = _State(
            tensors={
                name: arrays[name].to(old.device, old.dtype)
                for name, old in self.state.tensors.items()
            },
            epoch=numbers["epoch"],
            count=numbers["count"],
            seconds=numbers["seconds"],
            epochs=tuple(numbers["epochs"]),
            history=tuple(
                {name: arrays[f"history/{name}"][i] for name in names}
                for i in range(len(numbers["epochs"]))
            ),
            last={name: arrays[f"last/{name}"] for name in names},
            snapshots=tuple(arrays.get("snapshots", ())),
        )

    def save(self, path: Path) -> None:
        """Write the state, atomically and without pickles."""
        state = self.state
        meta = {
            "settings": self.settings,
            "names": list(state.last),
            "numbers": {
                "epoch": state.epoch,
                "count": state.count,
                "seconds": state.seconds,
                "epochs": state.epochs,
            },
        }
        arrays = {name: t.cpu().numpy() for name, t in state.tensors.items()}
        for name, newest in state.last.items():
            arrays[f"last/{name}"] = newest.numpy()
            arrays[f"history/{name}"] = torch.stack(
                [row[name] for row in state.history]
            ).numpy()
        if state.snapshots:
            arrays["snapshots"] = torch.stack(state.snapshots).numpy()
        arrays["meta"] = np.frombuffer(json.dumps(meta).encode(), dtype=np.uint8)
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}-")
        try:
            with os.fdopen(handle, "wb") as file:
                np.savez(file, **arrays)
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, path)
        except BaseException:
            Path(temporary).unlink(missing_ok=True)
            raise

    # ----------------------------------------------------------------- checks

    def _check_labels(self, w: Tensor, data) -> None:
        classes = self.net(w[0], self.x[:1]).shape[-1]
        for name in ("train", "validation", "test"):
            part = getattr(data, name, None)
            if part is None or not len(part):
                continue
            low, high = int(part.y.min()), int(part.y.max())
            if low < 0 or high >= classes:
                raise ValueError(
                    f"the {name} labels range from {low} to {high}, but the network "
                    f"has {classes} outputs: expected labels in 0 ... {classes - 1}"
                )


def _flat(leaves: Sequence[Tensor]) -> Tensor:
    return torch.cat([p.detach().flatten(1) for p in leaves], dim=1)


def _check_module(net: Network) -> None:
    for module in net.modules():
        if isinstance(module, _BatchNorm) and module.track_running_stats:
            raise ValueError(
                f"{type(module).__name__} keeps running statistics, which are no "
                "weights: train this module in a loop of your own and measure it "
                "through Network(module), or use GroupNorm"
            )
        hidden = getattr(module, "dropout", 0.0)
        if isinstance(hidden, float) and hidden > 0:
            raise ValueError(
                f"{type(module).__name__} hides a dropout of {hidden}: members could "
                "not draw it from their own seeds. Set it to 0 or use nn.Dropout"
            )
