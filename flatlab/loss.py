"""The training loss as a function of the weights: L_S(w), accuracy, gradient."""

import math
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap
from torch.nn import functional as F
from torch.utils._pytree import tree_map

from flatlab.environment import double
from flatlab.network import Network, Parameters, over_members, place, select, tensors

# a loss at weights that are not finite is itself not finite, and says so
_over_members = partial(over_members, finite=False)
# numbers that one evaluation may hold: 128 MiB in float32
CHUNK_ELEMENTS = 2**25
# members, as points of a grid are, for which one call of a callable beats one for each
MANY = 64
# the label of what does not count, as in torch.nn.functional.cross_entropy
IGNORED = -100


def half_squared_error(logits: Tensor, y: Tensor) -> Tensor:
    """Half the squared distance of the outputs from the one-hot label, (...)."""
    target = F.one_hot(y, logits.shape[-1]).to(logits.dtype)
    return 0.5 * (logits - target).square().sum(-1)


def _cross_entropy(logits: Tensor, y: Tensor) -> Tensor:
    flat = F.cross_entropy(logits.flatten(0, -2), y.flatten(), reduction="none")
    return flat.view(y.shape)


CRITERIA = {"cross_entropy": _cross_entropy, "mse": half_squared_error}


@dataclass(frozen=True)
class Criterion:
    """A loss per member: named, or any callable (logits (n, classes), y (n,)).

    A callable returns the mean over its examples as a scalar, or one loss per example.
    """

    function: str | Callable[[Tensor, Tensor], Tensor] = "cross_entropy"
    ignores: bool = False  # whether some labels do not count, for a named one
    middle: float | None = None  # of labels that are 0 or 1, or that are -1 or 1

    def __post_init__(self):
        if not callable(self.function) and self.function not in [*CRITERIA]:
            raise ValueError(
                f"criterion is {self.function!r}, expected one of {sorted(CRITERIA)} "
                "or a callable (logits, y)"
            )

    def mean(
        self, outputs: Tensor, y: Tensor, members: bool, own: bool = False
    ) -> Tensor:
        """Mean loss of every member over the labels that count, () or (members,).

        Args:
            outputs: (n, ...), with a leading axis of members where there are any.
            y: labels (n,) or (n, tokens), or targets of any form for a callable.
            members: whether the outputs have an axis of members.
            own: whether y has one too.
        """
        function = self.function
        if isinstance(function, str):
            return self.mean_of(self.each(outputs, y), y, int(members))

        function = _beside(function, outputs)

        def one(z: Tensor, t: Tensor) -> Tensor:
            losses = function(z, t)
            if not isinstance(losses, Tensor):
                raise TypeError(
                    f"the criterion returns {type(losses).__name__}, expected a tensor"
                )
            return losses.mean()

        if not members:
            return one(outputs, y)
        # a callable sees one member at a time: what it reduces is its own affair
        if len(outputs) >= MANY and not outputs.requires_grad:
            with suppress(RuntimeError):  # it may look at values
                return vmap(one, in_dims=(0, 0 if own else None))(outputs, y)
        pairs = zip(outputs.unbind(), y if own else [y] * len(outputs), strict=True)
        return torch.stack([one(*pair) for pair in pairs])

    def each(self, outputs: Tensor, y: Tensor) -> Tensor:
        """A named criterion's loss of every label, 0 of those that do not count."""
        named, y = CRITERIA[str(self.function)], y.expand(outputs.shape[:-1])
        if not self.ignores:
            return named(outputs, y)
        counted = y != IGNORED
        return named(outputs, y.where(counted, 0)).where(counted, 0)

    def mean_of(self, losses: Tensor, y: Tensor, lead: int) -> Tensor:
        """The mean of such losses, but for leading axes, over the labels that count."""
        if not self.ignores:
            return losses.flatten(lead).mean(-1)
        counted = (y != IGNORED).expand_as(losses).flatten(lead).sum(-1)
        return losses.flatten(lead).sum(-1) / counted.clamp_min(1)

    @property
    def ignored(self) -> int:
        """The label of what does not count, which PyTorch's losses may be given."""
        given = getattr(self.function, "keywords", {})  # of a functools.partial
        given = given.get("ignore_index", IGNORED)
        return getattr(self.function, "ignore_index", given)

    def right(self, outputs: Tensor, y: Tensor, own: bool) -> tuple[Tensor, Tensor]:
        """Which outputs, (members, n, ...), name their label, and which labels count.

        y is (n, ...), or (members, n, ...) where every member has its ``own``.
        """
        function = getattr(self.function, "func", self.function)
        is_entropy = function in (F.cross_entropy, F.nll_loss) or isinstance(
            function, nn.CrossEntropyLoss | nn.NLLLoss
        )
        if is_entropy and outputs.ndim > 3:
            outputs = outputs.movedim(2, -1)  # classes come second there
        form, labels = outputs.shape[1:], y.shape[int(own) :]
        counted = (y != self.ignored).expand(len(outputs), *labels)
        several = form[-1:] != (1,) or is_entropy or isinstance(function, str)
        if form[:-1] == labels and several and not y.is_floating_point():
            return outputs.argmax(-1) == y, counted
        if is_entropy and form == labels:  # probabilities as labels
            hits = outputs.argmax(-1) == y.argmax(-1)
            return hits, torch.ones_like(hits)
        if form == (*labels, 1):
            outputs = outputs.squeeze(-1)
        if outputs.shape[1:] != labels or self.middle is None:
            raise ValueError(
                f"there is no accuracy for outputs of shape {tuple(form)} and labels "
                f"of shape {tuple(labels)}: expected classes, or one output per label, "
                "which is 0 or 1"
            )
        halfway = function in (F.binary_cross_entropy, F.mse_loss) or isinstance(
            function, nn.BCELoss | nn.MSELoss
        )
        return (outputs > (self.middle if halfway else 0)) == (y > 0), counted

    def of(self, y: Tensor) -> "Criterion":
        """The criterion for these labels, all of them."""
        known = y[y != self.ignored]
        bits, signs = (known == 0) | (known == 1), (known == -1) | (known == 1)
        middle = 0.5 if bits.all() else 0.0 if signs.all() else None
        named = isinstance(self.function, str)
        return replace(self, ignores=named and len(known) < y.numel(), middle=middle)


def _beside(function: Any, outputs: Tensor) -> Any:
    """A callable whose own tensors, as weights of classes, are where outputs are."""
    like = outputs.device, outputs.dtype
    if isinstance(function, partial):
        args, keywords = place((function.args, function.keywords), *like)
        return partial(_beside(function.func, outputs), *args, **keywords)
    if isinstance(function, nn.Module):
        own = dict((*function.named_parameters(), *function.named_buffers()))
        placed = place(own, *like)
        if any(placed[name] is not own[name] for name in own):
            return lambda z, y: functional_call(function, placed, (z, y))
    return function


def _pair(data: Any) -> tuple[Any, Any]:
    """Inputs and labels, as tensors, of a batch or of all data."""
    if hasattr(data, "x") and hasattr(data, "y"):
        x, y = data.x, data.y
    elif isinstance(data, Mapping) and "labels" in data:
        x = {name: part for name, part in data.items() if name != "labels"}
        y = data["labels"]
    elif isinstance(data, tuple | list) and len(data) == 2:
        x, y = data
    else:
        keys = f" of {sorted(data)}" if isinstance(data, Mapping) else ""
        raise TypeError(
            f"the data, or a batch of them, is a {type(data).__name__}{keys}, expected "
            "Examples, a pair (x, y) or a dict with 'labels', or a loader of such"
        )
    return _as_tensors(x), _as_tensors(y)


def _gather(batches: Iterable[Any]) -> tuple[Any, Any]:
    """All batches of a loader as one (x, y)."""
    # a DataLoader draws its base seed from the global generator
    with torch.random.fork_rng(devices=[]):
        pairs = [_pair(batch) for batch in batches]
    if not pairs:
        raise ValueError("the loader gives no batch")
    try:
        return tree_map(_joined, *pairs)
    except (RuntimeError, ValueError, TypeError) as error:
        forms = {str([tuple(t.shape[1:]) for t in tensors(pair)]) for pair in pairs}
        raise ValueError(
            f"the batches cannot be joined: their examples have the shapes "
            f"{', '.join(sorted(forms))}; give all batches one form, for example by "
            "padding to the longest of all"
        ) from error


def _joined(*parts: Any) -> Any:
    """A part of all batches; what is no tensor of examples is the same in all."""
    if tensors(parts[0]):
        return torch.cat(parts)
    if any(bool(part != parts[0]) for part in parts):
        raise ValueError(f"the batches hold {parts[0]} and something else")
    return parts[0]


def _as_tensors(x: Any) -> Any:
    """Arrays and lists of numbers as tensors that autograd can use, in any nesting."""
    if isinstance(x, Mapping):
        return {name: _as_tensors(part) for name, part in x.items()}
    nested = Tensor | np.ndarray | Mapping | tuple | list
    if isinstance(x, tuple | list) and (not x or isinstance(x[0], nested)):
        return tuple(_as_tensors(part) for part in x)
    if isinstance(x, np.ndarray | np.generic | tuple | list):  # or a list of labels
        x = torch.as_tensor(x, device="cpu")
    if isinstance(x, Tensor) and x.is_inference():
        with torch.inference_mode(False):
            x = x.clone()
    return x


def _next_tokens(net: Network, x: Any, y: Any) -> Any:
    """Labels of a language model: where they repeat its inputs, the next token's."""
    ids = x.get("input_ids") if isinstance(x, Mapping) else None
    kind = type(next(net.modules())).__name__
    if ids is None or not kind.endswith(("CausalLM", "LMHeadModel")):
        return y
    if ids.shape != y.shape or bool(((y != ids) & (y != IGNORED)).any()):
        return y
    return torch.cat([y[:, 1:], torch.full_like(y[:, :1], IGNORED)], 1)


def _spread(y: Tensor, most: int = 32) -> Tensor:
    """Which examples to take for a few with labels of all kinds, in their order."""
    order = y.flatten(1)[:, 0] if y.ndim > 1 else y
    places = torch.linspace(0, len(y) - 1, min(len(y), most), device=y.device).long()
    return order.argsort(stable=True)[places]


class Loss:
    """The empirical risk L_S as a function of the weights.

    Data are moved to the place and dtype of w at the first call and kept there. They
    are read in chunks where they do not fit at once; the result is the same.

    Args:
        net: the network.
        data: ``Examples``, a pair (x, y), a dict with "labels", or a loader of such
            pairs or dicts. A loader is read once: a measurement needs one fixed set S,
            so a loader that shuffles is harmless and one that augments gives one draw.
            Labels that repeat the ``input_ids`` of a Hugging Face model that predicts
            the next token are shifted by one, as that model does itself.
        criterion: "cross_entropy", "mse" (half the squared distance from the one-hot
            label) or a callable (logits (n, classes), y (n,)) that returns the mean
            over its examples, or one loss per example. L_S is the mean over examples;
            named criteria leave labels of -100 out, as PyTorch does. A callable that
            is no such mean, as one with class weights, sees all examples at once.
        chunk: examples per evaluation; by default as many as keep the activations
            within about 128 MiB.
    """

    def __init__(
        self,
        net: Network,
        data: Any,
        criterion: str | Callable[[Tensor, Tensor], Tensor] = "cross_entropy",
        chunk: int | None = None,
    ):
        if not isinstance(net, Network):
            raise TypeError(
                f"Loss takes a Network, got {type(net).__name__}; "
                "wrap a module with Network(module)"
            )
        pair = isinstance(data, tuple) and len(data) == 2
        single = isinstance(data, Mapping | Tensor | np.ndarray) or hasattr(data, "x")
        is_loader = isinstance(data, Iterable) and not pair and not single
        self.x, y = _gather(data) if is_loader else _pair(data)
        y = _next_tokens(net, self.x, y)
        parts = tensors(self.x)
        if not isinstance(y, Tensor) or not parts:
            raise TypeError(
                f"inputs are {type(self.x).__name__} and labels {type(y).__name__}, "
                "expected tensors or arrays"
            )
        self.net, self.n = net, len(parts[0])
        if self.n == 0:
            raise ValueError("the data hold no examples")
        if any(p.layout is not torch.strided for p in parts):
            raise ValueError("the inputs are sparse, expected dense ones: x.to_dense()")
        if sizes := {len(p) for p in parts} - {self.n}:
            raise ValueError(
                f"the first input has {self.n} examples and another {min(sizes)}: the "
                "first axis of all counts the examples; what is none is for the module"
            )
        if any(p.is_floating_point() and not p.isfinite().all() for p in parts):
            raise ValueError("the inputs hold NaN or infinite values")
        if self.n not in y.shape:
            raise ValueError(
                f"there are {self.n} inputs but labels of shape {tuple(y.shape)}, "
                "expected one label per input"
            )
        if chunk is not None and chunk < 1:
            raise ValueError(
                f"chunk is {chunk}, expected a positive number of examples"
            )
        self.criterion = Criterion(criterion)
        self._form = net.probe(select(self.x, slice(2)))[0].shape[1:]
        self._labelled, y = self._checked_labels(y)
        self.y = y.flatten(0, len(self._labelled) - 1) if self._labelled else y
        self._check_pairing()
        self.criterion = self.criterion.of(self.y)
        self._chunk = chunk
        self._placed: tuple = ()
        self._units: int | None = None
        # whether it is the mean of its parts, and has float64; None: to be seen
        self._averages: bool | None = None
        self._doubles: bool | None = None

    def _checked_labels(self, y: Tensor) -> tuple[torch.Size, Tensor]:
        """The axes of members that labels have, and the labels, int64 if classes."""
        # what comes before the examples is members: the first axis of n in targets of
        # a callable's own, and in classes all but one for each axis of the outputs
        if not isinstance(self.criterion.function, str):
            return y.shape[: list(y.shape).index(self.n)], y
        form = self._form
        lead = y.shape[: max(0, y.ndim - len(form))]
        fits = y.shape[len(lead) :] == (self.n, *form[:-1]) and 1 <= len(form) <= 2
        if not fits or y.is_floating_point() or y.is_complex():
            raise ValueError(
                f"the labels are {y.dtype} of shape {tuple(y.shape)} and the outputs "
                f"of shape {tuple(form)} per example, expected whole numbers (n,) for "
                "(classes,), or (n, tokens) for (tokens, classes), or such labels for "
                "each member; other targets need a callable as criterion"
            )
        y = y.long()
        counted = y[y != IGNORED]
        if not counted.numel():
            raise ValueError(f"all labels are {IGNORED}: none counts")
        low, high = int(counted.min()), int(counted.max())
        if low < 0 or high >= form[-1]:
            raise ValueError(
                f"the labels lie between {low} and {high}, expected 0 to "
                f"{form[-1] - 1} for {form[-1]} outputs"
            )
        return lead, y

    @torch.no_grad()
    def _check_pairing(self) -> None:
        """Raise where a callable would compare every output with every target.

        As outputs (n, 1) and targets (n,) do by broadcasting: whose target is whose
        then makes no difference, though the targets do.
        """
        outputs, y, mixed = (self.n, *self._form), self.y, False
        with suppress(Exception):  # they do not broadcast, or it does not take these
            both = math.prod(np.broadcast_shapes(outputs, y.shape))
            if self.own_labels or both <= max(math.prod(outputs), y.numel()):
                return
            y = place(y[_spread(y)], y.device, torch.float32)
            z = torch.linspace(0.1, 0.9, len(y), device=y.device)
            z = z.view(-1, *[1] * len(self._form)).expand(-1, *self._form)
            with warnings.catch_warnings(action="ignore"):
                right, wrong, one = (
                    self.criterion.mean(z, t, members=False)
                    for t in (y, y.flip(0), y[:1].expand_as(y))
                )
            mixed = torch.isclose(right, wrong) and not torch.isclose(right, one)
        if mixed:
            raise ValueError(
                f"the criterion compares every output with every target: the outputs "
                f"are of shape {outputs}, the targets {tuple(self.y.shape)}; give them "
                "one shape, as y[:, None] or a module that squeezes"
            )

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

    def labels(self, w: Tensor) -> Tensor:
        """Labels where w is; real targets in its dtype, but in float32 at least."""
        return place(self.y, w.device, torch.promote_types(w.dtype, torch.float32))

    def double(self, w: Tensor) -> Tensor:
        """Weights in float64 where device, network and criterion have it."""
        exact = double(w)
        if self._doubles is None and exact.dtype != w.dtype:
            self._doubles = True
            try:
                self.gradient(exact)
            except (RuntimeError, ValueError, TypeError):  # float32 in it, say
                self._doubles = False
        return w if self._doubles is False else exact

    def chunks(
        self, w: Tensor, member: int | None = None, most: int | None = None
    ) -> Iterator[tuple[Any, Tensor, Any]]:
        """The data in the place and dtype of w, (k,) or (members, k).

        Args:
            w: the weights to evaluate.
            member: the one of w to evaluate; by default all.
            most: examples per part, at most, where they can be had apart.

        Returns:
            Iterator over x (b, ...), y (b,) or (members, b), and the share of the
            labels that count: b/n, or (members,) where some are ignored. Of one
            ``member`` of w, y is (b,), and its share a number.
        """
        parts = self._parts(w if member is None else w[member], most)
        _, x, y = self._placed
        axis = 0
        if self.own_labels and member is not None:
            y = y[member % len(y)]
        elif self.own_labels:
            axis, points = 1, len(w) // len(y)
            y = y.repeat(points, *[1] * (y.ndim - 1))  # points x members
        for part in parts:
            whole = len(parts) == 1
            share: Any = (part.stop - part.start) / self.n
            here = y if whole else y[:, part] if axis else y[part]
            if self.criterion.ignores:
                number, total = (
                    (labels != IGNORED).flatten(axis).sum(-1) for labels in (here, y)
                )
                share = number.to(w.dtype) / total.clamp_min(1)
            yield x if whole else select(x, part), here, share

    def _parts(self, w: Tensor, most: int | None = None) -> list[slice]:
        """Ranges of examples to take at once; puts the data where w is."""
        key = (w.device, w.dtype)
        if not self._placed or self._placed[0] != key:
            with torch.inference_mode(False):  # kept for calls that differentiate
                self._placed = key, place(self.x, *key), self.labels(w)
        size = min(most or self.n, self._chunk or self._default_chunk(w))
        if size < self.n:
            if self._averages is None:
                self._averages = self._is_an_average(w, size)
            size = size if self._averages else self.n
        starts = range(0, self.n, size)
        return [slice(start, min(start + size, self.n)) for start in starts]

    @torch.no_grad()
    def _is_an_average(self, w: Tensor, size: int) -> bool:
        """Whether the loss of the whole is the mean of its parts'.

        Not where outputs depend on the other examples, and of some callables.
        """
        _, x, y = self._placed
        parameters = self.net.unflatten(w.reshape(-1, self.net.k)[0])
        if self.net.mixes_examples(parameters, x, alone=min(size, 2)):
            return False
        if isinstance(self.criterion.function, str):
            return True
        n = min(self.n, max(2, CHUNK_ELEMENTS // max(1, self._form.numel())))
        y = y[0] if self.own_labels else y
        generator = torch.Generator("cpu").manual_seed(0)
        noise = torch.rand(n, *self._form, generator=generator, device="cpu")
        outputs, y = noise.to(w), y[torch.arange(n, device=y.device) * self.n // n]
        rtol = max(1e-4, 8 * torch.finfo(w.dtype).eps)
        # pairs of a few show what large parts average out
        few = _spread(y)
        for z, t, cut in (
            (outputs, y, max(1, min(size, n // 2))),
            (outputs[few], y[few], 2),
        ):
            pairs = [(z, t), *zip(z.split(cut), t.split(cut), strict=True)]
            try:
                whole, *parts = (
                    self.criterion.mean(*pair, members=False) * (len(pair[1]) / len(t))
                    for pair in pairs
                )
            except (RuntimeError, ValueError, IndexError):  # it does not take so few
                return False
            if not torch.allclose(torch.stack(parts).sum(), whole, rtol=rtol):
                return False
        return True

    def _default_chunk(self, w: Tensor) -> int:
        if self._units is None:
            few = select(self._placed[1], slice(0, 2))
            self._units = max(self.net.activations(few), 200)
        # members that are evaluated at once hold their activations together
        at_once = self.net.together or w.is_cuda
        members = len(w) if w.ndim == 2 else 1
        units = self._units * (members if at_once else 1)
        # outputs are stacked in any case
        return max(1, CHUNK_ELEMENTS // max(units, members * self._form.numel()))

    def value(self, parameters: Parameters, x: Any, y: Tensor) -> Tensor:
        """Mean loss on examples as ``chunks`` gives them, differentiable."""
        members = self.net.has_members(parameters)
        logits = self.net.evaluate(parameters, x)
        value = self.criterion.mean(logits, y, members, members and self.own_labels)
        if logits.requires_grad and not value.requires_grad:
            raise ValueError(
                "no parameter reaches the loss: does the criterion detach, or work "
                "under no_grad?"
            )
        return value

    @_over_members
    @torch.no_grad()
    def __call__(self, w: Tensor) -> Tensor:
        """L_S(w), in nats for cross-entropy: (...,) for w of shape (..., k)."""
        parameters, total = self.net.unflatten(w), w.new_zeros(len(w))
        for x, y, share in self.chunks(w):
            total = total + self.value(parameters, x, y) * share
        return total

    @_over_members
    @torch.no_grad()
    def accuracy(self, w: Tensor) -> Tensor:
        """Fraction of the labels that count which the largest output names, (...,).

        One output per label, 0 or 1, names the label by its sign; by one half where the
        criterion is PyTorch's ``BCELoss`` or ``MSELoss``.
        """
        parameters = self.net.unflatten(w)
        right, total = w.new_zeros(len(w)), w.new_zeros(len(w))
        for x, y, _ in self.chunks(w):
            outputs = self.net.evaluate(parameters, x)
            hits, counted = self.criterion.right(outputs, y, self.own_labels)
            right = right + (hits & counted).flatten(1).sum(-1)
            total = total + counted.flatten(1).sum(-1)
        return right / total

    def logits(self, w: Tensor) -> Tensor:
        """Outputs on all examples, (..., n, classes); the labels do not matter."""
        return torch.cat([part for _, part in self.outputs(w)], dim=w.ndim - 1)

    @torch.no_grad()
    def outputs(self, w: Tensor) -> Iterator[tuple[slice, Tensor]]:
        """Which examples, and the outputs on them: the logits part by part."""
        self.net.check(w)
        for part in self._parts(w.reshape(-1, self.net.k)):
            yield part, self.net(w, select(self._placed[1], part))

    def gradient(self, w: Tensor) -> Tensor:
        """The gradient of L_S at w, in its shape."""
        return self.value_and_gradient(w)[1]

    @_over_members
    def value_and_gradient(self, w: Tensor) -> tuple[Tensor, Tensor]:
        """L_S(w) and its gradient, from one evaluation: (...,) and (..., k)."""
        leaves = self.net.leaves(w)
        value, gradient = w.new_zeros(len(w)), torch.zeros_like(w)
        for x, y, share in self.chunks(w):
            with torch.enable_grad():
                part = self.value(leaves, x, y) * share
                # members do not interact: the gradient of the sum is each one's own
                whole = part.sum()
            grads = torch.autograd.grad(
                whole, list(leaves.values()), materialize_grads=True
            )
            dense = (g.to_dense() if g.is_sparse else g for g in grads)
            parts = dict(zip(leaves, dense, strict=True))
            value += part.detach()
            gradient += self.net.flatten(parts)
        return value, gradient
