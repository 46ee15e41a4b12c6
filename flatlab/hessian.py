"""The Hessian of the loss as an operator: products, and its trace where it is exact."""

import math
from collections.abc import Iterator

import torch
from torch import Tensor
from torch.autograd.graph import GradientEdge, saved_tensors_hooks
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

from flatlab.evaluation import own_labels
from flatlab.loss import Loss, select

# graphs kept between products may take so much memory; on a GPU half of what is free
RETAIN_BYTES = 2**31
# examples x largest layer up to which members share a graph on a CPU (measured: 2 to 8
# times as fast as one after another at 6,400, 1.2 to 1.5 at 16,000, 0.85 at 64,000)
TOGETHER_ELEMENTS = 2**14
# examples x members x largest layer up to which a dense net takes several vectors at
# once (measured with 8 vectors: 2.7 times as fast at 3,200, 1.2 times at 32,000)
BATCHED_ELEMENTS = 2**15
VECTORS_AT_ONCE = 16
# numbers held by the per-example gradients of one convolution
BLOCK_ELEMENTS = 2**22

# backward nodes of operations that are piecewise linear in what they are given
_PIECEWISE_LINEAR = {
    "AbsBackward0",
    "AdaptiveAvgPool2DBackward0",
    "AdaptiveMaxPool2DBackward0",
    "AddBackward0",
    "AliasBackward0",
    "AvgPool2DBackward0",
    "CatBackward0",
    "CloneBackward0",
    "ConstantPadNdBackward0",
    "HardtanhBackward0",
    "LeakyReluBackward0",
    "MaxPool2DWithIndicesBackward0",
    "MeanBackward1",
    "MkldnnMaxPool2DBackward0",
    "NegBackward0",
    "ReluBackward0",
    "ReshapeAliasBackward0",
    "SqueezeBackward0",
    "SqueezeBackward1",
    "SqueezeBackward2",
    "SubBackward0",
    "ThresholdBackward0",
    "UnsafeViewBackward0",
    "UnsqueezeBackward0",
    "ViewBackward0",
}
_BATCH_NORM = {"NativeBatchNormBackward0", "CudnnBatchNormBackward0"}


class Hessian:
    """The Hessian of L_S at w, as an operator that multiplies vectors.

    ``H @ V`` is what a dense (..., k, k) tensor would give under ``torch.matmul``,
    by reverse-over-reverse differentiation (Pearlmutter 1994): V of shape (k,), (k, p)
    or (..., k, p). Products are as accurate as w's dtype: about 1e-6 of the spectral
    norm in float32, 1e-14 in float64. Where the loss has kinks (ReLU at exactly 0) it
    is the Hessian of the piece that autograd chooses.

    The graph of the gradient is kept between products: a product then costs about two
    gradients for an MLP and three for a CNN, against three and four when the graph is
    rebuilt (CPU, full batch); ``retain`` governs that. The user's module is never
    written to, so a measurement may be interrupted at any time.

    On a CPU, members with large data are multiplied one after another, each with its
    own graph, which is faster than together; small dense nets, and everything on a GPU,
    share one graph: members do not interact, so the Hessian of the sum of their losses
    is block-diagonal.

    Attributes:
        shape: (k, k) or (members, k, k).
        dtype: of w.
        device: of w.
        products: vectors multiplied so far, for each member.

    Args:
        loss: the training loss.
        w: (k,) or (members, k), float32 or float64.
        retain: whether to keep the graphs between products. By default as many chunks
            of the data as fit in 2 GiB (on a CUDA device, in half of the free memory),
            by an estimate from a few examples; the others are rebuilt for each
            product.

    Raises:
        TypeError: if ``loss`` is no ``Loss``, or w no floating-point tensor.
        ValueError: if w has another network's shape, is in half precision or not
            finite; by products, if an operation has no second derivative.
    """

    def __init__(self, loss: Loss, w: Tensor, *, retain: bool | None = None):
        if not isinstance(loss, Loss):
            raise TypeError(f"Hessian takes a Loss, got {type(loss).__name__}")
        loss.net.check(w)
        if w.dtype not in (torch.float32, torch.float64):
            raise ValueError(
                f"w is {w.dtype}: second derivatives need float32 or float64, "
                "pass w.float()"
            )
        if not w.isfinite().all():
            raise ValueError("w holds NaN or infinite values: has training diverged?")
        self.loss, self.retain = loss, retain
        self.w = w.detach().clone()
        self.shape = torch.Size((*w.shape, w.shape[-1]))
        self.dtype, self.device = w.dtype, w.device
        self.products = 0
        self._pieces: list[_Piece] | None = None

    def __repr__(self) -> str:
        return f"Hessian(shape={tuple(self.shape)}, dtype={self.dtype})"

    # ----------------------------------------------------------------- products

    def __matmul__(self, V: Tensor) -> Tensor:
        """Multiply vectors.

        Args:
            V: (k,) or (..., k, p), in the dtype and place of w.

        Returns:
            The shape that ``torch.matmul`` gives for a dense operator.

        Raises:
            TypeError: if V is no tensor in the dtype and place of w.
            ValueError: if V has a shape that does not fit, or the loss has no second
                derivative.
        """
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
            lead_of_result = torch.broadcast_shapes(lead, V.shape[:-2])
        except (RuntimeError, IndexError):
            raise ValueError(
                f"V has shape {tuple(V.shape)}, expected ({k},) or (..., {k}, p) "
                f"for a Hessian of shape {tuple(self.shape)}"
            ) from None
        # rows of vectors per member: (members, rows, k), other axes among the rows
        V = V.detach().expand(*lead_of_result, *V.shape[-2:]).mT
        members = lead[0] if lead else 1
        own = members > 1 or (lead and lead_of_result[-1] == 1)
        V = V.movedim(-3, 0) if own else V.unsqueeze(0)
        rows = self._multiply(V.reshape(members, -1, k))
        self.products += rows.shape[1]
        rows = rows.reshape(V.shape)
        return (rows.movedim(0, -3) if own else rows.squeeze(0)).mT

    def _multiply(self, V: Tensor) -> Tensor:
        """(members, p, k) times (members, p, k)."""
        if self._pieces is None:
            self._pieces = self._prepare()
        out = torch.zeros_like(V, memory_format=torch.contiguous_format)
        for piece in self._pieces:
            gradient = piece.gradient or piece.build()
            if piece.keep:
                piece.gradient = gradient
            mine = slice(None) if piece.member is None else slice(*piece.member)
            block = VECTORS_AT_ONCE if piece.small else 1
            for j in range(0, V.shape[1], block):
                v = V[mine, j : j + block].transpose(0, 1)
                # solvers send zeros for members that are done
                if piece.member is not None and v.device.type == "cpu" and not v.any():
                    continue
                product = piece.product(gradient, v if piece.members else v[:, 0])
                product = product if piece.members else product.unsqueeze(1)
                out[mine, j : j + block] += product.transpose(0, 1)
        return out

    def _in_turn(self) -> bool:
        """Whether members are faster one after another than in one graph."""
        if self.w.ndim == 1 or self.device.type != "cpu":
            return False
        widest = max(shape[0] for shape in self.loss.net.layout.shapes)
        small = self.loss.n * widest <= TOGETHER_ELEMENTS
        return not (self.loss.net.together and small)

    def _prepare(self) -> list["_Piece"]:
        """The chunks of the data, of all members or of each."""
        pieces = []
        if self._in_turn():
            for i in range(len(self.w)):
                leaves = _leaves(self.loss, self.w[i])
                for x, y, share in _chunks(self.loss, self.w, i):
                    one = (i, i + 1)
                    pieces.append(_Piece(self.loss, leaves, x, y, share, one, False))
        else:
            leaves = _leaves(self.loss, self.w)
            members = self.w.ndim == 2
            for x, y, share in self.loss.chunks(self.w):
                pieces.append(_Piece(self.loss, leaves, x, y, share, None, members))
        room = _room(self.device) if self.retain is None else math.inf
        fixed, each = (0, 0) if self.retain is not None else pieces[0].size()
        for piece in pieces:
            room -= fixed + each * piece.examples
            piece.keep = room >= 0 if self.retain is None else self.retain
        return pieces

    # -------------------------------------------------------- exact trace, diagonal

    def exact_diagonal(self) -> Tensor | None:
        """The diagonal, where it has a closed form; else None.

        With S Sᵀ the Hessian of the criterion in the logits f, the Hessian is the
        Gauss-Newton matrix Σ (Jᵀ S)(Jᵀ S)ᵀ / n plus Σ (∂L/∂f_c) ∇² f_c / n. For a
        piecewise linear network in which every parameter is used once, f is affine in
        each single weight, so the second term has no diagonal (almost everywhere: off
        the kinks). The first takes one backward pass for each column of S, and layer
        formulas for the squared gradients of each example.

        That the network is of this kind is read off the autograd graph: linear layers
        on vectors, convolutions (1-D and 2-D), BatchNorm in eval mode, ReLU and its
        kin, pooling, additions, with the criterion "cross_entropy" or "mse".

        Returns:
            (k,) or (members, k); None where the network or the criterion is of another
            kind.
        """
        if self.loss.criterion.function not in ("cross_entropy", "mse"):
            return None
        if not _examples_are_separate(self.loss, self.w):
            return None
        rows = []
        for i in range(len(self.w) if self.w.ndim == 2 else 1):
            row = self._diagonal_of(i)
            if row is None:
                return None
            rows.append(row)
        return torch.stack(rows) if self.w.ndim == 2 else rows[0]

    def exact_trace(self) -> Tensor | None:
        """The trace, where it has a closed form; else None.

        Returns:
            () or (members,), the sum of ``exact_diagonal``; None where that is None.
        """
        diagonal = self.exact_diagonal()
        return None if diagonal is None else diagonal.sum(-1)

    def _diagonal_of(self, member: int) -> Tensor | None:
        loss = self.loss
        leaves = _leaves(loss, self.w[member] if self.w.ndim == 2 else self.w)
        total = {name: torch.zeros_like(leaf) for name, leaf in leaves.items()}
        largest = max((p.numel() for p in leaves.values() if p.ndim > 2), default=0)
        for x, y, _ in _chunks(loss, self.w, member):
            count = y.shape[0]
            block = max(1, BLOCK_ELEMENTS // largest) if largest else count
            for start in range(0, count, block):
                part = select(x, slice(start, min(start + block, count)))
                if not _add_squares(loss, leaves, part, total):
                    return None
        return loss.net.flatten(total, members=False) / loss.n


class _Piece:
    """The gradient's graph on one chunk of the data, of one member or of all."""

    def __init__(self, loss, leaves, x, y, share, member, members):
        self.loss, self.leaves, self.x, self.y = loss, leaves, x, y
        self.share, self.member, self.members = share, member, members
        self.examples = y.shape[1] if members and own_labels(loss) else y.shape[0]
        width = max(shape[0] for shape in loss.net.layout.shapes)
        count = len(next(iter(leaves.values()))) if members else 1
        self.small = (
            loss.net.together and self.examples * width * count <= BATCHED_ELEMENTS
        )
        self.keep = False
        self.gradient: tuple[Tensor, ...] | None = None

    def build(self, count: int | None = None) -> tuple[Tensor, ...]:
        """The gradient of the summed losses, differentiable, on the first examples."""
        x, y = self.x, self.y
        if count is not None:
            own = self.members and own_labels(self.loss)
            x, y = select(x, slice(count)), y[:, :count] if own else y[:count]
        # the fused attention kernels have no second derivative
        with torch.enable_grad(), sdpa_kernel(SDPBackend.MATH):
            value = self.loss.value(self.leaves, x, y, self.members).sum()
            value = value * self.share
            if not value.requires_grad:
                return tuple(torch.zeros_like(p) for p in self.leaves.values())
            try:
                gradient = torch.autograd.grad(
                    value,
                    list(self.leaves.values()),
                    create_graph=True,
                    materialize_grads=True,
                )
            except RuntimeError as error:
                raise _explained(error, value) from None
        # a once-differentiable function leaves an error off the path to the leaves,
        # where autograd would pass it by and leave its part of the Hessian out
        names = {n.name() for n in _nodes(*(part.grad_fn for part in gradient))}
        if "torch::autograd::Error" in names:
            raise _explained(RuntimeError("it is marked to differentiate once"), value)
        if "WeightNormInterfaceBackward0" in names:  # wrong in PyTorch, without a word
            raise ValueError(
                "the network uses weight_norm, whose second derivative in PyTorch is "
                "not the derivative of its first: take it off with torch.nn.utils."
                "parametrize.remove_parametrizations and measure the plain weights"
            )
        return gradient

    def product(self, gradient: tuple[Tensor, ...], v: Tensor) -> Tensor:
        """The Hessian of this piece times v, (p, k) or (p, members, k)."""
        net = self.loss.net
        single = len(v) == 1
        vectors = net.unflatten(v[0] if single else v).values()
        # a gradient that is constant in w has no graph
        varying = [
            pair
            for pair in zip(gradient, vectors, strict=True)
            if pair[0].requires_grad
        ]
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
        few = min(4, self.examples)
        many = min(8, self.examples)
        small = self._bytes(few)
        if many == few:
            return small, 0.0
        each = max(0.0, (self._bytes(many) - small) / (many - few))
        return max(0.0, small - few * each), each

    def _bytes(self, count: int) -> int:
        held: dict[int, int] = {}

        def note(tensor: Tensor) -> Tensor:
            storage = tensor.untyped_storage()
            held[storage.data_ptr()] = storage.nbytes()
            return tensor

        with saved_tensors_hooks(note, lambda tensor: tensor):
            gradient = self.build(count)
        for tensor in gradient:
            held[tensor.untyped_storage().data_ptr()] = (
                tensor.untyped_storage().nbytes()
            )
        for leaf in self.leaves.values():
            held.pop(leaf.untyped_storage().data_ptr(), None)
        return sum(held.values())


def _leaves(loss: Loss, w: Tensor) -> dict[str, Tensor]:
    """Parameters to differentiate with respect to.

    A list of leaves, not one flat one: slicing a flat leaf costs a backward of its own.
    """
    parameters = loss.net.unflatten(w)
    return {name: p.detach().requires_grad_() for name, p in parameters.items()}


def _chunks(
    loss: Loss, w: Tensor, member: int
) -> Iterator[tuple[object, Tensor, float]]:
    """The data of one member, in chunks."""
    if w.ndim == 1 or not own_labels(loss):
        yield from loss.chunks(w if w.ndim == 1 else w[member])
        return
    for x, y, share in loss.chunks(w):
        yield x, y[member], share


def _room(device: torch.device) -> float:
    """Bytes that retained graphs may take."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0] / 2
    return RETAIN_BYTES


def _nodes(*roots) -> Iterator:
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
    if not any(part in text for part in ("twice", "once", "is not implemented")):
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
        "replace it by one that can be differentiated twice"
    )


# ------------------------------------------------------------ squared gradients


def _examples_are_separate(loss: Loss, w: Tensor) -> bool:
    """Whether the first examples get the same logits alone as together."""
    if loss.net.mixes_examples:
        return False
    member = w[0] if w.ndim == 2 else w
    x, y, _ = next(_chunks(loss, w, 0))
    few = min(4, y.shape[0])
    if few == 1:
        return True
    with torch.no_grad():
        together = loss.net(member, select(x, slice(few)))
        alone = [loss.net(member, select(x, slice(i, i + 1))) for i in range(few)]
    if together.ndim != 2 or any(z.shape != together[:1].shape for z in alone):
        return False
    gap = (torch.cat(alone) - together).abs().max()
    return bool(gap <= 1000 * torch.finfo(w.dtype).eps * (1 + together.abs().max()))


def _affine_layers(output: Tensor) -> list[tuple] | None:
    """The layers whose weights enter a piecewise linear function once each.

    Args:
        output: (examples, classes), with its graph.

    Returns:
        For each layer its backward node, its kind and its weight and bias (each a leaf
        or None); None if the function may not be affine in each single weight.
    """
    layers, uses = [], {}

    def leaf(edge):
        """The leaf that an edge leads to, counting its uses."""
        node = edge[0]
        if node is None or node.name() != "torch::autograd::AccumulateGrad":
            return None
        uses[node] = uses.get(node, 0) + 1
        return node.variable

    for node in _nodes(output.grad_fn):
        name, edges = node.name(), node.next_functions
        if name == "torch::autograd::AccumulateGrad":
            continue
        if name in ("AddmmBackward0", "MmBackward0"):
            bias_edge, (left, _), matrix = ((None, 0), *edges)[-3:]
            if name == "AddmmBackward0" and (node._saved_alpha, node._saved_beta) != (
                1,
                1,
            ):
                return None
            weight, transposed, entry = None, False, matrix
            if matrix[0] is not None and matrix[0].name() == "TBackward0":
                transposed, entry = True, matrix[0].next_functions[0]
                uses[matrix[0]] = uses.get(matrix[0], 0) + 1
            weight, bias = leaf(entry), leaf(bias_edge)
            known = (weight is not None or matrix[0] is None) and (
                bias is not None or bias_edge[0] is None
            )
            kind = "transposed" if transposed else "linear"
            carried = left
        elif name == "ConvolutionBackward0" or name in _BATCH_NORM:
            carried = edges[0][0]
            weight, bias = leaf(edges[1]), leaf(edges[2])
            known = all(
                parameter is not None or edge[0] is None
                for parameter, edge in ((weight, edges[1]), (bias, edges[2]))
            )
            if name in _BATCH_NORM:
                kind, known = "norm", known and not node._saved_training
            else:
                kind = "convolution"
                known = known and not node._saved_transposed
                known = known and len(node._saved_stride) <= 2
        elif name == "TBackward0":
            # the transposed weight of a linear layer, and nothing else
            if edges[0][0].name() != "torch::autograd::AccumulateGrad":
                return None
            uses.setdefault(node, 0)
            continue
        else:
            inner = [parent for parent, _ in edges if parent is not None]
            if name in ("MulBackward0", "DivBackward0"):
                # by a constant, which comes second in a quotient
                known = len(inner) == 1
                known = known and (name == "MulBackward0" or edges[0][0] is not None)
            else:
                known = name in _PIECEWISE_LINEAR
            if not known or any("AccumulateGrad" in n.name() for n in inner):
                return None
            continue
        if not known or (carried is not None and "AccumulateGrad" in carried.name()):
            return None
        layers.append((node, kind, weight, bias))
    return layers if all(count == 1 for count in uses.values()) else None


def _add_squares(loss: Loss, leaves, x, total: dict[str, Tensor]) -> bool:
    """Add to ``total`` the diagonal Σ_n Σ_c (J_nᵀ s_nc)² of some examples.

    Returns:
        False, with nothing added, where the layer formulas do not hold.
    """
    with torch.enable_grad():
        logits = loss.net.evaluate(leaves, x, members=False)
    if logits.ndim != 2 or logits.grad_fn is None:
        return False
    layers = _affine_layers(logits)
    if layers is None:
        return False
    of = {id(leaf): total[name] for name, leaf in leaves.items()}
    layers = [
        (node, kind, of.get(id(weight)), of.get(id(bias)))
        for node, kind, weight, bias in layers
        if weight is not None or bias is not None
    ]
    columns = _factor(loss.criterion.function, logits.detach())
    edges = [GradientEdge(node, 0) for node, *_ in layers]
    # G: gradients in the layers' outputs, one per column of S
    G = [torch.autograd.grad(logits, edges, s, retain_graph=True) for s in columns]
    squares = []
    for i, (node, kind, weight, bias) in enumerate(layers):
        g = torch.stack([gradients[i] for gradients in G], dim=1)
        # a row for each example: otherwise layers act on parts of examples
        if len(g) != len(logits) or (kind in ("linear", "transposed") and g.ndim != 3):
            return False
        squares.append((weight, bias, *_SQUARES[kind](node, g, weight is not None)))
    for weight, bias, of_weight, of_bias in squares:
        if weight is not None:
            weight += of_weight.reshape(weight.shape)
        if bias is not None:
            bias += of_bias
    return True


def _factor(criterion: str, logits: Tensor) -> list[Tensor]:
    """Columns of S, each (n, classes), with S Sᵀ the criterion's Hessian in the logits.

    For cross-entropy diag(p) − p pᵀ = D (I − u uᵀ) D with u = √p and D = diag(u): the
    reflection that takes the first axis to −u gives I − u uᵀ = Q Qᵀ with one column
    less than there are classes.
    """
    n, classes = logits.shape
    eye = torch.eye(classes, dtype=logits.dtype, device=logits.device)
    if criterion == "mse":
        return [eye[c].expand(n, -1) for c in range(classes)]
    u = F.softmax(logits, dim=-1).sqrt()
    v = u + eye[0]
    return [
        u * (eye[c] - v * (u[:, c] / (1 + u[:, 0]))[:, None]) for c in range(1, classes)
    ]


def _linear(node, g: Tensor, weighted: bool) -> tuple[Tensor | None, Tensor]:
    """Squared gradients of x W + b from g (n, columns, outputs)."""
    g = g.square().sum(1)
    if not weighted:
        return None, g.sum(0)
    addmm = node.name() == "AddmmBackward0"
    a = node._saved_mat1 if addmm else node._saved_self
    return a.detach().square().mT @ g, g.sum(0)


def _transposed(node, g: Tensor, weighted: bool) -> tuple[Tensor | None, Tensor]:
    """Squared gradients of x Wᵀ + b."""
    of_weight, of_bias = _linear(node, g, weighted)
    return of_weight.mT if weighted else None, of_bias


def _convolution(node, g: Tensor, weighted: bool) -> tuple[Tensor | None, Tensor]:
    """Squared gradients of a convolution from g (n, columns, channels, *positions)."""
    g = g.flatten(3)
    of_bias = g.sum(-1).square().sum((0, 1))
    if not weighted:
        return None, of_bias
    a, weight = node._saved_input.detach(), node._saved_weight
    size, options = list(weight.shape[2:]), {}
    for option in ("stride", "padding", "dilation"):
        options[option] = list(getattr(node, f"_saved_{option}"))
    if len(size) == 1:
        a, size = a.unsqueeze(2), [1, *size]
        options = {
            name: [0 if name == "padding" else 1, *value]
            for name, value in options.items()
        }
    patches = F.unfold(a, size, **options)
    n, columns, channels, positions = g.shape
    groups = node._saved_groups
    patches = patches.reshape(n * groups, -1, positions)
    g = g.reshape(n, columns, groups, -1, positions).transpose(1, 2)
    each = g.reshape(n * groups, -1, positions) @ patches.mT
    each = each.reshape(n, groups, columns, channels // groups, -1)
    return each.square().sum((0, 2)), of_bias


def _norm(node, g: Tensor, weighted: bool) -> tuple[Tensor | None, Tensor]:
    """Squared gradients of BatchNorm in eval mode."""
    g = g.flatten(3) if g.ndim > 3 else g.unsqueeze(-1)
    of_bias = g.sum(-1).square().sum((0, 1))
    if not weighted:
        return None, of_bias
    native = node.name() == "NativeBatchNormBackward0"
    eps = node._saved_eps if native else node._saved_epsilon
    a = node._saved_input.detach()
    a = a.flatten(2) if a.ndim > 2 else a.unsqueeze(-1)
    mean, var = node._saved_running_mean, node._saved_running_var
    a = (a - mean[:, None]) / (var[:, None] + eps).sqrt()
    return (g * a.unsqueeze(1)).sum(-1).square().sum((0, 1)), of_bias


_SQUARES = {
    "linear": _linear,
    "transposed": _transposed,
    "convolution": _convolution,
    "norm": _norm,
}
