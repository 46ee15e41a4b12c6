"""The Hessian of the loss as an operator: products, and its trace where it is exact."""

import math
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import Node, saved_tensors_hooks
from torch.nn.attention import SDPBackend, sdpa_kernel

from flatlab.diagonal import exact_diagonal
from flatlab.environment import double
from flatlab.loss import Loss, select
from flatlab.network import Parameters

# graphs kept between products may take so much memory; on a GPU half of what is free
RETAIN_BYTES = 2**31
# numbers in the widest layer up to which more is done at once on a CPU: members in one
# graph (by examples x width: twice as fast or more below, slower at twice as many) and,
# in dense nets, several vectors (by examples x members x width)
AT_ONCE = 2**15


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
        _need_derivatives()
        loss.net.check(w.flatten(0, -2) if isinstance(w, Tensor) and w.ndim > 2 else w)
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
            axes = torch.broadcast_shapes(lead, V.shape[:-2])
        except (RuntimeError, IndexError):
            raise ValueError(
                f"V has shape {tuple(V.shape)}, expected ({k},) or (..., {k}, p) "
                f"for a Hessian of shape {tuple(self.shape)}"
            ) from None
        # rows of vectors per member, (members, rows, k): all other axes are rows
        of_members = [1] * (len(axes) - len(lead)) + list(lead)
        order = sorted(range(len(axes)), key=lambda i: of_members[i] == 1)
        back = sorted(range(len(axes)), key=order.__getitem__)
        tail = (len(axes), len(axes) + 1)
        V = V.detach().expand(*axes, *V.shape[-2:]).mT.permute(*order, *tail)
        multiply = self._multiply if self.method == "autograd" else self._differences
        rows = multiply(V.reshape(math.prod(lead), -1, k))
        self.products += rows.shape[1]
        return rows.reshape(V.shape).permute(*back, *tail).mT

    def _multiply(self, V: Tensor) -> Tensor:
        """(members, p, k) times (members, p, k)."""
        _need_derivatives()
        if self._pieces is None:
            self._pieces = self._prepare()
        out = torch.zeros_like(V, memory_format=torch.contiguous_format)
        for piece in self._pieces:
            gradient = piece.gradient or piece.build()
            if piece.keep:
                piece.gradient = gradient
            for j in range(0, V.shape[1], piece.vectors):
                v = V[piece.member, j : j + piece.vectors].transpose(0, 1)
                # solvers send zeros for members that are done
                if not piece.members and v.device.type == "cpu" and not v.any():
                    continue
                product = piece.product(gradient, v if piece.members else v[:, 0])
                product = product if piece.members else product.unsqueeze(1)
                out[piece.member, j : j + piece.vectors] += product.transpose(0, 1)
        return out

    def _differences(self, V: Tensor) -> Tensor:
        """The same by differences of gradients."""
        w = double(self.w.reshape(-1, self.shape[-1]))
        out = torch.zeros_like(V, memory_format=torch.contiguous_format)
        for j in range(V.shape[1]):
            length = torch.linalg.vector_norm(V[:, j].to(w), dim=-1, keepdim=True)
            u = V[:, j].to(w) / torch.where(length > 0, length, 1)
            if self._step is None:
                self._step = self._best_step(w, u)
            out[:, j] = (length * self._slope(w, u, self._step)).to(V)
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
        pieces = []
        if len(w) == 1 or (self.device.type == "cpu" and not together):
            for i in range(len(w)):
                leaves, member = loss.net.leaves(w[i]), slice(i, i + 1)
                for chunk in loss.chunks(w, i):
                    pieces.append(_Piece(loss, leaves, *chunk, member, 1))
        else:
            leaves = loss.net.leaves(w)
            for chunk in loss.chunks(w):
                pieces.append(_Piece(loss, leaves, *chunk, slice(None), len(w)))
        if self.retain is None:
            room, (fixed, each) = _room(self.device), pieces[0].size()
            for piece in pieces:
                room -= fixed + each * piece.examples
                piece.keep = room >= 0
        else:
            for piece in pieces:
                piece.keep = self.retain
        return pieces

    def exact_diagonal(self) -> Tensor | None:
        """The diagonal, (..., k), where it has a closed form; else None."""
        _need_derivatives()
        diagonal = exact_diagonal(self.loss, self.w.reshape(-1, self.shape[-1]))
        return None if diagonal is None else diagonal.view_as(self.w)

    def exact_trace(self) -> Tensor | None:
        """The trace, of the shape of w's leading axes, where it has a closed form."""
        diagonal = self.exact_diagonal()
        return None if diagonal is None else diagonal.sum(-1)


class _Piece:
    """The gradient's graph on one chunk of the data, of one member or of all."""

    def __init__(
        self,
        loss: Loss,
        leaves: Parameters,
        x: Any,
        y: Tensor,
        share: Any,
        member: slice,
        count: int,
    ):
        self.loss, self.leaves, self.x, self.y = loss, leaves, x, y
        self.share, self.member, self.members = share, member, count > 1
        self.examples = y.shape[1] if count > 1 and loss.own_labels else y.shape[0]
        size = self.examples * loss.net.layout.widest * count
        small = loss.net.together and size <= AT_ONCE
        self.vectors = 16 * AT_ONCE // size if small else 1  # at once
        self.keep, self.reached = False, False
        self.gradient: tuple[Tensor, ...] | None = None

    def value(self, leaves: Parameters, count: int | None = None) -> Tensor:
        """The summed losses of the members, on the first examples."""
        own = self.members and self.loss.own_labels
        x, y = select(self.x, slice(count)), self.y
        y = y[:, :count] if own else y[:count]
        return (self.loss.value(leaves, x, y, self.members) * self.share).sum()

    def build(self, count: int | None = None) -> tuple[Tensor, ...]:
        """Its gradient, differentiable."""
        leaves = list(self.leaves.values())
        with torch.enable_grad(), _twice_differentiable(self.loss.net.modules()):
            value = self.value(self.leaves, count)
            gradient: tuple[Tensor | None, ...] = (None,) * len(leaves)
            if value.requires_grad:
                try:
                    gradient = torch.autograd.grad(
                        value, leaves, create_graph=True, allow_unused=True
                    )
                except RuntimeError as error:
                    raise _explained(error, value) from None
        if any(part is not None and part.is_sparse for part in gradient):
            raise ValueError(
                "the network gives sparse gradients, which have no second derivative: "
                "build its embeddings with sparse=False"
            )
        if any(part is None for part in gradient):
            self._check_reached(gradient, count)
        # a once-differentiable function leaves an error off the path to the leaves,
        # where autograd would pass it by and leave its part of the Hessian out
        roots = [part.grad_fn for part in gradient if part is not None]
        names = {node.name() for node in _nodes(*roots)}
        if "torch::autograd::Error" in names:
            raise _explained(RuntimeError("it is marked to differentiate once"), value)
        if "WeightNormInterfaceBackward0" in names:  # wrong in PyTorch, without a word
            raise ValueError(
                "the network uses weight_norm, whose second derivative in PyTorch is "
                "not the derivative of its first: take it off with torch.nn.utils."
                "parametrize.remove_parametrizations and measure the plain weights"
            )
        pairs = zip(gradient, leaves, strict=True)
        return tuple(torch.zeros_like(p) if g is None else g for g, p in pairs)

    def _check_reached(self, gradient: tuple, count: int | None) -> None:
        """Raise where the loss depends on parameters that have no gradient."""
        if self.reached:
            return
        parts = zip(self.leaves.items(), gradient, strict=True)
        lost = [name for (name, _), part in parts if part is None]
        moved = {n: 1.01 * self.leaves[n].detach() + 0.01 for n in lost}
        with torch.no_grad(), _twice_differentiable(self.loss.net.modules()):
            here = self.value(self.leaves, count)
            change = (self.value({**self.leaves, **moved}, count) - here).abs()
        rounding = 100 * torch.finfo(here.dtype).eps * here.abs()
        if len(lost) == len(self.leaves) or change > rounding:
            raise ValueError(
                f"no gradient reaches {', '.join(lost)}, though the loss is computed "
                "from it: does the module or the criterion use detach, no_grad or a "
                "reentrant checkpoint (use_reentrant=False can be differentiated)?"
            )
        self.reached = True

    def product(self, gradient: tuple[Tensor, ...], v: Tensor) -> Tensor:
        """The Hessian of this piece times v, (p, k) or (p, members, k)."""
        single = len(v) == 1
        vectors = self.loss.net.unflatten(v[0] if single else v).values()
        # a gradient that is constant in w has no graph
        pairs = zip(gradient, vectors, strict=True)
        varying = [pair for pair in pairs if pair[0].requires_grad]
        if not varying:
            return torch.zeros_like(v)
        outputs, weights = zip(*varying, strict=True)
        leaves = self.leaves.values()
        try:
            products = torch.autograd.grad(
                outputs,
                list(leaves),
                weights,
                retain_graph=True,
                is_grads_batched=not single,
                allow_unused=True,
            )
        except RuntimeError as error:
            raise _explained(error, *outputs) from None
        parts = [
            (torch.zeros_like(leaf) if single else leaf.new_zeros(len(v), *leaf.shape))
            if product is None
            else product
            for product, leaf in zip(products, leaves, strict=True)
        ]
        return torch.cat([part.reshape(*v.shape[:-1], -1) for part in parts], dim=-1)

    def size(self) -> tuple[float, float]:
        """Bytes that the graph holds: a fixed part, and a part for each example."""
        few, many = min(4, self.examples), min(8, self.examples)
        small, large = self._bytes(few), self._bytes(many)
        each = max(0, large - small) / max(1, many - few)
        return max(0.0, small - few * each), each

    def _bytes(self, count: int) -> int:
        held: dict[int, int] = {}

        def note(tensor: Tensor) -> Tensor:
            if tensor.layout is torch.strided:
                storage = tensor.untyped_storage()
                held[storage.data_ptr()] = storage.nbytes()
            return tensor

        with saved_tensors_hooks(note, lambda tensor: tensor):
            gradient = self.build(count)
        for tensor in gradient:
            note(tensor)
        for leaf in self.leaves.values():
            held.pop(leaf.untyped_storage().data_ptr(), None)
        return sum(held.values())


def _need_derivatives() -> None:
    if torch.is_inference_mode_enabled():
        raise ValueError(
            "torch.inference_mode is on, where nothing can be differentiated: measure "
            "outside of it, or inside torch.inference_mode(False)"
        )


@contextmanager
def _twice_differentiable(modules: Iterator[nn.Module]) -> Iterator[None]:
    """Leaves out fused kernels that have no second derivative."""
    with ExitStack() as stack:
        stack.enter_context(sdpa_kernel(SDPBackend.MATH))
        if any(isinstance(module, nn.RNNBase) for module in modules):
            stack.enter_context(torch.backends.cudnn.flags(enabled=False))
        yield


def _room(device: torch.device) -> float:
    """Bytes that retained graphs may take."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0] / 2
    return RETAIN_BYTES


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
