"""The Hessian of the loss as an operator: products, and its diagonal where exact."""

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.autograd.graph import Node, saved_tensors_hooks

from flatlab.diagonal import exact_diagonal
from flatlab.loss import Loss
from flatlab.network import Parameters, need_derivatives, select

# graphs kept between products may take so much memory; on a GPU half of what is free
RETAIN_BYTES = 2**31
# numbers in the widest layer up to which more is done at once on a CPU: members in one
# graph (by examples x width: twice as fast or more below, slower at twice as many) and,
# in dense nets, several vectors (by examples x members x width)
AT_ONCE = 2**15
# numbers in the largest tensor of a chunk on a CPU, per thread: it stays in the cache
CACHED = 2**18


class Hessian:
    """The Hessian of L_S at w, as an operator that multiplies vectors.

    ``H @ V`` is what a dense (..., k, k) tensor would give under ``torch.matmul``,
    by reverse-over-reverse differentiation (Pearlmutter 1994). Products are as accurate
    as w's dtype: about 1e-6 of the spectral norm in float32, 1e-14 in float64. Where
    the loss has kinks (ReLU at exactly 0) it is the Hessian of the piece that autograd
    chooses. Parameters that the loss does not use have zero rows.

    The graph of the gradient is kept between products: a product then costs about two
    gradients for an MLP and three for a CNN, against three and four when the graph is
    rebuilt (CPU, full batch). Members that share one graph are multiplied at once: the
    Hessian of the sum of their losses is block-diagonal.

    Attributes:
        shape: (..., k, k), with the leading axes of w.
        products: vectors multiplied so far, for each member.
        error: of products by finite differences, relative to their length; else 0.

    Args:
        loss: the training loss.
        w: (..., k), float32 or float64.
        retain: whether to keep the graphs between products; by default as many chunks
            of the data as fit in 2 GiB (on a CUDA device, in half of the free memory).
        method: "autograd", or "finite_difference" for a network that cannot be
            differentiated twice, or whose graph does not fit: a product is then the
            central difference of two gradients, in float64 where the device has it.
            The step is the one at which halving it changes the first product least;
            ``error`` is that change.
    """

    def __init__(
        self,
        loss: Loss,
        w: Tensor,
        *,
        retain: bool | None = None,
        method: str = "autograd",
    ):
        if not isinstance(loss, Loss):
            raise TypeError(f"Hessian takes a Loss, got {type(loss).__name__}")
        need_derivatives()
        loss.check(w)
        if w.dtype not in (torch.float32, torch.float64):
            raise ValueError(
                f"w is {w.dtype}: second derivatives need float32 or float64, "
                "pass w.float()"
            )
        if not w.isfinite().all():
            raise ValueError("w holds NaN or infinite values: has training diverged?")
        if method not in ("autograd", "finite_difference"):
            raise ValueError(
                f"method is {method!r}, expected 'autograd' or 'finite_difference'"
            )
        self.loss, self.retain, self.method, self.error = loss, retain, method, 0.0
        self.w = w.detach().clone()
        self.shape = torch.Size((*w.shape, w.shape[-1]))
        self.dtype, self.device = w.dtype, w.device
        self.products = 0
        self._pieces: list[_Piece] | None = None
        self._step: float | None = None

    def __repr__(self) -> str:
        return f"Hessian(shape={tuple(self.shape)}, dtype={self.dtype})"

    def __matmul__(self, V: Tensor) -> Tensor:
        """Multiply vectors V, (k,) or (..., k, p), in the dtype and place of w."""
        if not isinstance(V, Tensor):
            return NotImplemented
        if V.dtype != self.dtype or V.device != self.device:
            raise TypeError(
                f"V is {V.dtype} on {V.device}, the Hessian {self.dtype} on "
                f"{self.device}"
            )
        if V.ndim == 1:
            return (self @ V.unsqueeze(-1)).squeeze(-1)
        lead, k = self.shape[:-2], self.shape[-1]
        try:
            if V.shape[-2] != k:
                raise RuntimeError
            axes = V.shape[:-2]
            if axes != lead:  # what comes next takes as long as a small product
                axes = torch.broadcast_shapes(lead, axes)
        except (RuntimeError, IndexError):
            raise ValueError(
                f"V has shape {tuple(V.shape)}, expected ({k},) or (..., {k}, p) "
                f"for a Hessian of shape {tuple(self.shape)}"
            ) from None
        # rows of vectors for the members, (rows, members, k): all other axes are rows
        last = len(axes) + 1
        of_members = [1] * (len(axes) - len(lead)) + [*lead, 1]
        order = sorted(range(last), key=lambda i: of_members[i] != 1)
        back = sorted(range(last), key=order.__getitem__)
        V = V.detach().expand(*axes, *V.shape[-2:]).mT.permute(*order, last)
        multiply = self._multiply if self.method == "autograd" else self._differences
        rows = multiply(V.reshape(-1, math.prod(lead), k))
        self.products += len(rows)
        return rows.reshape(V.shape).permute(*back, last).mT

    def _multiply(self, V: Tensor) -> Tensor:
        """The products of (rows, members, k)."""
        need_derivatives()
        if self._pieces is None:
            self._pieces = self._prepare()
        out = torch.zeros_like(V, memory_format=torch.contiguous_format)
        may_rest = V.is_cpu and V.shape[1] > 1
        for piece in self._pieces:
            gradient = piece.build() if piece.gradient is None else piece.gradient
            if piece.keep:
                piece.gradient = gradient
            for start in range(0, len(V), piece.vectors):
                rows = slice(start, start + piece.vectors)
                index = rows if piece.member is None else (rows, piece.member)
                # solvers send zeros for members that are done
                if piece.member is None or not may_rest or V[index].any():
                    out[index] += piece.product(gradient, V[index])
        return out

    def _differences(self, V: Tensor) -> Tensor:
        """The same by differences of gradients."""
        w = self.loss.double(self.w.reshape(-1, self.shape[-1]))
        out = torch.zeros_like(V, memory_format=torch.contiguous_format)
        for row, v in enumerate(V.to(w)):
            length = torch.linalg.vector_norm(v, dim=-1, keepdim=True)
            u = v / torch.where(length > 0, length, 1)
            if self._step is None:
                self._step = self._best_step(w, u)
            out[row] = (length * self._slope(w, u, self._step)).to(V)
        return out

    def _slope(self, w: Tensor, u: Tensor, step: float) -> Tensor:
        """The change of the gradient along unit vectors u."""
        there, back = self.loss.gradient(w + step * u), self.loss.gradient(w - step * u)
        return (there - back) / (2 * step)

    def _best_step(self, w: Tensor, u: Tensor) -> float:
        """The step whose half gives most nearly the same; sets ``error``."""
        step = float(torch.finfo(w.dtype).eps ** 0.2 * w.norm(dim=-1).mean()) or 1.0
        slope, found = self._slope(w, u, step), []
        for _ in range(8):
            step, last = step / 2, slope
            slope = self._slope(w, u, step)
            gap = (slope - last).norm() / slope.norm().clamp_min(1e-300)
            found.append((float(gap.nan_to_num(math.inf)), step))
        self.error, step = min(found)
        return step

    def _prepare(self) -> list["_Piece"]:
        """The chunks of the data, of all members or of each."""
        loss, w = self.loss, self.w.reshape(-1, self.shape[-1])
        together = loss.net.together and loss.n * loss.net.layout.widest <= AT_ONCE
        apart = len(w) == 1 or (self.device.type == "cpu" and not together)
        pieces: list[_Piece] = []
        most, fixed, each = None, 0.0, 0.0
        for member in range(len(w)) if apart else [None]:
            leaves = loss.net.leaves(w if member is None else w[member])
            if member in (0, None) and (self.retain is None or w.is_cpu):
                first = _Piece(loss, leaves, member, *next(loss.chunks(w, member)))
                fixed, each, largest = first.size()
                if w.is_cpu:
                    # but no more chunks than it takes to outweigh sums over them
                    numbers = max(CACHED * torch.get_num_threads(), loss.net.k)
                    number = math.ceil(loss.n * largest / w.element_size() / numbers)
                    most = math.ceil(loss.n / max(1, min(number, loss.n)))
            for chunk in loss.chunks(w, member, most):
                pieces.append(_Piece(loss, leaves, member, *chunk))
        room: float = RETAIN_BYTES
        if self.device.type == "cuda":
            room = torch.cuda.mem_get_info(self.device)[0] / 2
        for piece in pieces:
            room -= fixed + each * piece.examples
            piece.keep = room >= 0 if self.retain is None else self.retain
        return pieces

    def exact_diagonal(self) -> Tensor | None:
        """The diagonal, (..., k), where it has a closed form; else None."""
        diagonal = exact_diagonal(self.loss, self.w.reshape(-1, self.shape[-1]))
        return None if diagonal is None else diagonal.view_as(self.w)


@dataclass
class _Piece:
    """The gradient's graph on one chunk of the data, of one member or of all."""

    loss: Loss
    leaves: Parameters
    member: int | None  # None: all
    x: Any
    y: Tensor
    share: Any
    keep: bool = False
    gradient: Tensor | None = None

    def __post_init__(self):
        net, together = self.loss.net, self.member is None
        self.axis = int(together and self.loss.own_labels)  # of examples in y
        self.examples = self.y.shape[self.axis]
        members = len(next(iter(self.leaves.values()))) if together else 1
        size = self.examples * net.layout.widest * members
        small = net.together and size <= AT_ONCE
        self.vectors = 16 * AT_ONCE // size if small else 1  # at once

    def build(self) -> Tensor:
        """The gradient of each member's loss, (k,) or (members, k), differentiable."""
        leaves = list(self.leaves.values())
        with self.loss.net.twice_differentiable():
            value = self.loss.value(self.leaves, self.x, self.y)
            value = (value * self.share).sum()
            try:
                parts = torch.autograd.grad(
                    value, leaves, create_graph=True, materialize_grads=True
                )
            except RuntimeError as error:
                raise _explained(error, value) from None
            if any(part.is_sparse for part in parts):
                raise ValueError(
                    "the network gives sparse gradients, which have no second "
                    "derivative: build its embeddings with sparse=False"
                )
            gradient = self.loss.net.flatten(dict(zip(self.leaves, parts, strict=True)))
        # a once-differentiable function leaves an error off the path to the leaves,
        # where autograd would pass it by and leave its part of the Hessian out
        names = {node.name() for node in _nodes(gradient.grad_fn)}
        if "torch::autograd::Error" in names:
            raise _explained(RuntimeError("it is marked to differentiate once"), value)
        if "WeightNormInterfaceBackward0" in names:  # wrong in PyTorch, without a word
            raise ValueError(
                "the network uses weight_norm, whose second derivative in PyTorch is "
                "not the derivative of its first: take it off with torch.nn.utils."
                "parametrize.remove_parametrizations and measure the plain weights"
            )
        return gradient

    def product(self, gradient: Tensor, v: Tensor) -> Tensor:
        """The Hessian of this piece times v, (p, k) or (p, members, k)."""
        if not gradient.requires_grad:  # it is constant in w
            return torch.zeros_like(v)
        single = len(v) == 1
        try:
            products = torch.autograd.grad(
                gradient,
                list(self.leaves.values()),
                v[0] if single else v,
                retain_graph=True,
                is_grads_batched=not single,
                materialize_grads=True,
            )
        except RuntimeError as error:
            raise _explained(error, gradient) from None
        pairs = zip(products, self.leaves.values(), strict=True)
        # zeros of unused leaves have no axis of vectors
        parts = (part.expand(len(v), *leaf.shape) for part, leaf in pairs)
        return torch.cat([part.reshape(*v.shape[:-1], -1) for part in parts], dim=-1)

    def size(self) -> tuple[float, float, float]:
        """Bytes of the graph: a fixed part, a part for each example, its largest."""
        few, many = min(4, self.examples), min(8, self.examples)
        small, large = self._bytes(few), self._bytes(many)
        each = max(0, sum(large) - sum(small)) / max(1, many - few)
        growth = [b - a for a, b in zip(small, large, strict=False)]
        largest = max([0, *growth]) / max(1, many - few)
        return max(0.0, sum(small) - few * each), each, largest

    def _bytes(self, count: int) -> list[int]:
        """Bytes of what the graph on the first examples holds, the weights apart."""
        held: dict[int, int] = {}

        def note(tensor: Tensor) -> Tensor:
            if tensor.layout is torch.strided:
                storage = tensor.untyped_storage()
                held[storage.data_ptr()] = storage.nbytes()
            return tensor

        y = self.y.narrow(self.axis, 0, count)
        part = replace(self, x=select(self.x, slice(count)), y=y)
        with saved_tensors_hooks(note, lambda tensor: tensor):
            note(part.build())
        for leaf in self.leaves.values():
            held.pop(leaf.untyped_storage().data_ptr(), None)
        return [*held.values()]


def _nodes(*roots: Node | None) -> Iterator[Node]:
    """All backward nodes that the given ones depend on, each once."""
    stack, seen = [root for root in roots if root is not None], set()
    while stack:
        node = stack.pop()
        if node in seen:
            continue
        seen.add(node)
        yield node
        stack += [parent for parent, _ in node.next_functions if parent is not None]


def _explained(error: RuntimeError, *tensors: Tensor) -> Exception:
    """The error of a differentiation, with the operation that it is about."""
    text = str(error)
    if "donated buffer" in text:
        return ValueError(
            "a module from torch.compile cannot be differentiated twice: measure the "
            "module that was compiled, which it keeps as ._orig_mod"
        )
    known = ("twice", "once", "is not implemented", "sparse", "checkpoint")
    if not any(part in text for part in known):
        return error
    # a Function of the user's own has a node of a Python class
    own = {
        node.name().removesuffix("Backward")
        for tensor in tensors
        for node in _nodes(tensor.grad_fn)
        if isinstance(node, torch.autograd.function.BackwardCFunction)
    }
    which = f" (custom functions in the graph: {', '.join(sorted(own))})" if own else ""
    return ValueError(
        f"the loss uses an operation that has no second derivative: {text}{which}; "
        "replace it by one that can be, or take method='finite_difference'"
    )
