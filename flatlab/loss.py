"""The training loss as a function of the weights: L_S(w), accuracy, gradient."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor
from torch.nn import functional as F

from flatlab.network import Network, Parameters, over_members

# a loss at weights that are not finite is itself not finite, and says so
_over_members = partial(over_members, finite=False)
# numbers that one evaluation may hold: 128 MiB in float32
CHUNK_ELEMENTS = 2**25


def half_squared_error(logits: Tensor, y: Tensor) -> Tensor:
    """Half the squared distance of the outputs from the one-hot label.

    Args:
        logits: (..., classes).
        y: (...) labels.

    Returns:
        (...) losses.
    """
    target = F.one_hot(y, logits.shape[-1]).to(logits.dtype)
    return 0.5 * (logits - target).square().sum(-1)


def _cross_entropy(logits: Tensor, y: Tensor) -> Tensor:
    flat = F.cross_entropy(
        logits.reshape(-1, logits.shape[-1]), y.reshape(-1), reduction="none"
    )
    return flat.view(y.shape)


CRITERIA = {"cross_entropy": _cross_entropy, "mse": half_squared_error}


@dataclass(frozen=True)
class Criterion:
    """A loss per member: named, or any callable (logits (n, classes), y (n,)).

    A callable returns the mean over its examples as a scalar, or one loss per example.
    """

    function: str | Callable[[Tensor, Tensor], Tensor] = "cross_entropy"

    def __post_init__(self):
        if isinstance(self.function, str):
            if self.function not in CRITERIA:
                raise ValueError(
                    f"criterion is {self.function!r}, expected one of "
                    f"{sorted(CRITERIA)} or a callable (logits, y)"
                )
        elif not callable(self.function):
            raise TypeError(
                f"criterion is {type(self.function).__name__}, expected a name or a "
                "callable (logits, y)"
            )

    def mean(
        self, outputs: Tensor, y: Tensor, members: bool, own: bool = False
    ) -> Tensor:
        """Mean loss of every member.

        Args:
            outputs: (n, classes), or of any form (n, ...) for a callable; with a
                leading axis of members where there are any.
            y: (n,) or (members, n) labels, or targets of any form for a callable.
            members: whether the outputs have an axis of members.
            own: whether y has one too.

        Returns:
            () or (members,).

        Raises:
            ValueError: if the outputs have a form that a named criterion is not for.
        """
        if isinstance(self.function, str):
            if outputs.ndim != 2 + members:
                raise ValueError(
                    f"the network gives outputs of shape {tuple(outputs.shape)}, "
                    f"expected (n, classes) for criterion={self.function!r}; other "
                    "outputs need a callable as criterion"
                )
            if members and y.ndim == 1:
                y = y.expand(outputs.shape[0], -1)
            return CRITERIA[self.function](outputs, y).mean(-1)
        if not members:
            return self.function(outputs, y).mean()
        # a callable sees one member at a time: what it reduces over is its own affair
        return torch.stack(
            [
                self.function(z, y[i] if own else y).mean()
                for i, z in enumerate(outputs.unbind())
            ]
        )


def select(x, index):
    """Examples of a tensor, or of every tensor in a dict or tuple.

    Args:
        x: inputs whose first dimension counts examples.
        index: a slice or an index tensor.

    Returns:
        The same structure with the chosen examples.
    """
    if isinstance(x, Mapping):
        return {name: value[index] for name, value in x.items()}
    if isinstance(x, tuple | list):
        return tuple(value[index] for value in x)
    return x[index]


def place(x, device: torch.device, dtype: torch.dtype):
    """Inputs on a device, floating-point ones in a dtype.

    Args:
        x: a tensor, or a dict or tuple of tensors.
        device: where to.
        dtype: of the floating-point tensors.

    Returns:
        The same structure.
    """
    if isinstance(x, Mapping):
        return {name: place(value, device, dtype) for name, value in x.items()}
    if isinstance(x, tuple | list):
        return tuple(place(value, device, dtype) for value in x)
    return x.to(device, dtype if x.is_floating_point() else x.dtype)


def _concatenate(parts: list):
    if isinstance(parts[0], Mapping):
        return {name: torch.cat([p[name] for p in parts]) for name in parts[0]}
    if isinstance(parts[0], tuple | list):
        return tuple(torch.cat(column) for column in zip(*parts, strict=True))
    return torch.cat(parts)


def _gather(batches: Iterable) -> tuple:
    """All batches of a loader as one (x, y)."""
    xs, ys = [], []
    for batch in batches:
        if isinstance(batch, Mapping):
            batch = dict(batch)
            if "labels" not in batch:
                raise ValueError(
                    f"a batch has the keys {sorted(batch)}, expected 'labels' too"
                )
            ys.append(batch.pop("labels"))
            xs.append(batch)
        elif isinstance(batch, tuple | list) and len(batch) == 2:
            xs.append(batch[0])
            ys.append(batch[1])
        else:
            raise TypeError(
                f"a batch is {type(batch).__name__}, expected a pair (x, y) or a dict "
                "with 'labels'"
            )
    if not ys:
        raise ValueError("the loader gives no batch")
    return _concatenate(xs), torch.cat(ys)


def _first(x) -> Tensor:
    if isinstance(x, Mapping):
        return next(iter(x.values()))
    return x[0] if isinstance(x, tuple | list) else x


class Loss:
    """The empirical risk L_S as a function of the weights.

    Data are moved to the place and dtype of w at the first call and kept there. They
    are read in chunks where they do not fit at once; the result is the same.

    Args:
        net: the network.
        data: ``Examples``, a pair (x, y), or a loader of pairs (x, y) or of dicts with
            "labels". A loader is read once: a measurement needs one fixed set S, so a
            loader that shuffles is harmless and one that augments gives one draw.
        criterion: "cross_entropy", "mse" (half the squared distance from the one-hot
            label) or a callable (logits (n, classes), y (n,)) that returns the mean
            over its examples, or one loss per example. L_S is the mean over examples.
        chunk: examples per evaluation; by default as many as keep the activations
            within about 128 MiB.

    Raises:
        TypeError: if ``net`` is no ``Network`` or the data have no known form.
        ValueError: if x and y differ in length, if there are no examples, or if x or
            a chunk size is not usable.
    """

    def __init__(self, net: Network, data, criterion="cross_entropy", chunk=None):
        if not isinstance(net, Network):
            raise TypeError(
                f"Loss takes a Network, got {type(net).__name__}; "
                "wrap a module with Network(module)"
            )
        if hasattr(data, "x") and hasattr(data, "y"):
            x, y = data.x, data.y
        elif isinstance(data, tuple) and len(data) == 2:
            x, y = data
        elif isinstance(data, Iterable) and not isinstance(
            data, Tensor | str | Mapping
        ):
            x, y = _gather(data)
        else:
            raise TypeError(
                f"data is {type(data).__name__}, expected Examples, a pair (x, y) or a "
                "loader"
            )
        self.net = net
        self.criterion = Criterion(criterion)
        self.n = len(_first(x))
        if self.n == 0:
            raise ValueError("the data hold no examples")
        axes = [i for i, size in enumerate(y.shape) if size == self.n]
        if not axes:
            raise ValueError(
                f"there are {self.n} inputs but labels of shape {tuple(y.shape)}, "
                "expected one label per input"
            )
        # a named criterion has one label per example, so its last axis counts them
        last = isinstance(criterion, str) and y.shape[-1] == self.n
        self._labelled = y.shape[: -1 if last else axes[0]]
        self.x = x
        self.y = y.flatten(0, len(self._labelled) - 1) if self._labelled else y
        for part in x.values() if isinstance(x, Mapping) else [_first(x)]:
            if part.is_floating_point() and not part.isfinite().all():
                raise ValueError("the inputs hold NaN or infinite values")
        if chunk is not None and chunk < 1:
            raise ValueError(
                f"chunk is {chunk}, expected a positive number of examples"
            )
        self._chunk = chunk
        self._placed: tuple = ()
        self._units: int | None = None

    def __repr__(self) -> str:
        return f"Loss({self.net!r}, n={self.n})"

    @property
    def own_labels(self) -> bool:
        """Whether every member has labels of its own: y is (members, n, ...)."""
        return bool(self._labelled)

    def check(self, w: Tensor) -> None:
        """Raise unless w is (..., k) of the network, with members for own labels."""
        self.net.check(w)
        labelled, lead = self._labelled, w.shape[:-1]
        if labelled and (
            lead[-len(labelled) :] != labelled and lead[-1:] != (labelled.numel(),)
        ):
            raise ValueError(
                f"the labels are of {labelled.numel()} members, w has the shape "
                f"{tuple(w.shape)}"
            )

    def chunks(self, w: Tensor) -> Iterator[tuple[object, Tensor, float]]:
        """The data in the place and dtype of w.

        Args:
            w: (k,) or (members, k).

        Returns:
            Iterator over x (b, ...), y (b,) or (members, b), and the share b/n.

        Raises:
            ValueError: if the labels have a member axis of another length than w.
        """
        parts = self._parts(w)
        y = self._placed[2]
        if self.own_labels:
            self.check(w if len(w) % len(y) else w[: len(y)])
            y = y.repeat(len(w) // len(y), *[1] * (y.ndim - 1))  # points x members
        for part in parts:
            share = (part.stop - part.start) / self.n
            x = select(self._placed[1], part)
            yield x, y[:, part] if self.own_labels else y[part], share

    def _parts(self, w: Tensor) -> list[slice]:
        """Ranges of examples to take at once; puts the data where w is."""
        key = (w.device, w.dtype)
        if not self._placed or self._placed[0] != key:
            self._placed = (key, place(self.x, *key), self.y.to(w.device))
        size = self._chunk or self._default_chunk(w)
        return [
            slice(start, min(start + size, self.n)) for start in range(0, self.n, size)
        ]

    def _default_chunk(self, w: Tensor) -> int:
        if self.net.mixes_examples:
            return self.n  # of a part, the loss would be another
        if self._units is None:
            few = select(self._placed[1], slice(0, 2))
            self._units = max(self.net.activations(few), 200)
        members = len(w) if w.ndim == 2 and (self.net.together or w.is_cuda) else 1
        return max(1, min(self.n, CHUNK_ELEMENTS // (members * self._units)))

    def value(self, parameters: Parameters, x, y: Tensor, members: bool) -> Tensor:
        """Mean loss on given examples, differentiable in the parameters.

        Args:
            parameters: as ``Network.unflatten`` returns them.
            x: (b, ...) inputs.
            y: (b,) or (members, b) labels.
            members: whether the parameters have a leading axis of members.

        Returns:
            () or (members,).
        """
        logits = self.net.evaluate(parameters, x, members=members)
        return self.criterion.mean(logits, y, members, self.own_labels)

    def _each(self, w: Tensor, function) -> Tensor:
        parameters = self.net.unflatten(w)
        total = torch.zeros((), dtype=w.dtype, device=w.device)
        for x, y, share in self.chunks(w):
            logits = self.net.evaluate(parameters, x, members=True)
            total = total + function(logits, y, True, self.own_labels) * share
        return total

    @_over_members
    @torch.no_grad()
    def __call__(self, w: Tensor) -> Tensor:
        """L_S(w), in nats for cross-entropy: (...,) for w of shape (..., k)."""
        return self._each(w, self.criterion.mean)

    @_over_members
    @torch.no_grad()
    def accuracy(self, w: Tensor) -> Tensor:
        """Fraction of examples whose largest logit is the label's, (...,)."""
        return self._each(
            w, lambda logits, y, *_: (logits.argmax(-1) == y).to(w.dtype).mean(-1)
        )

    @torch.no_grad()
    def logits(self, w: Tensor) -> Tensor:
        """Outputs on all examples, (..., n, classes); the labels do not matter."""
        self.net.check(w)
        parts = self._parts(w.reshape(-1, self.net.k))
        xs = (select(self._placed[1], part) for part in parts)
        return torch.cat([self.net(w, x) for x in xs], dim=w.ndim - 1)

    def gradient(self, w: Tensor) -> Tensor:
        """The gradient of L_S at w, in the shape of w."""
        return self.value_and_gradient(w)[1]

    @_over_members
    def value_and_gradient(self, w: Tensor) -> tuple[Tensor, Tensor]:
        """L_S(w) and its gradient, from one evaluation: (...,) and (..., k)."""
        leaves = {n: p.requires_grad_() for n, p in self.net.unflatten(w).items()}
        value, gradient = torch.zeros(len(w)).to(w), torch.zeros_like(w)
        for x, y, share in self.chunks(w):
            with torch.enable_grad():
                part = self.value(leaves, x, y, True) * share
                # members do not interact: the gradient of the sum is each one's own
                grads = torch.autograd.grad(
                    part.sum(), list(leaves.values()), materialize_grads=True
                )
            value = value + part.detach()
            gradient = gradient + self.net.flatten(
                dict(zip(leaves, grads, strict=True)), members=True
            )
        return value, gradient
