"""The exact diagonal of the Hessian, for networks that are linear in each weight.

With S Sᵀ the Hessian of the criterion in the logits f, the Hessian of the loss is the
Gauss-Newton matrix Σ (Jᵀ S)(Jᵀ S)ᵀ / n plus Σ (∂L/∂f_c) ∇² f_c / n. In a piecewise
linear network that uses every weight once, f is affine in each single weight, so the
second term has no diagonal (off the kinks, that is almost everywhere). The first takes
one backward pass for each column of S, and a formula for each kind of layer.

That a network is of this kind is read off its trace by ``torch.fx``, node by node; a
node that is not known to be piecewise linear is taken not to be. The trace is believed
where it gives the network's own outputs and slopes on a few examples.
"""

import copy
import operator
import re
from collections.abc import Iterator, Mapping
from itertools import islice
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, fx, nn
from torch.autograd.graph import get_gradient_edge
from torch.func import functional_call
from torch.nn import functional as F

from flatlab.loss import CHUNK_ELEMENTS, IGNORED, Loss
from flatlab.network import Network, Parameters, select

# Classes whose gradients are held at once.
_COLUMNS = 64
_CONVOLUTIONS = {nn.Conv1d: F.conv1d, nn.Conv2d: F.conv2d}
_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d)
_LAYERS = (nn.Linear, *_CONVOLUTIONS, *_NORMS)
_TENSORS = {"weight", "bias", "running_mean", "running_var", "num_batches_tracked"}
# modules, functions and methods that are piecewise linear in what they are given
_MODULES = re.compile(
    "ReLU6?|LeakyReLU|Hardtanh|Threshold|Identity|Flatten|Dropout|"
    "(Adaptive)?(Max|Avg)Pool[12]d|(Constant|Zero)Pad[12]d"
)
_FUNCTIONS = re.compile(
    "add_?|sub_?|neg|abs|relu6?|relu_|leaky_relu|hardtanh|threshold|cat|mean|sum|pad|"
    "(adaptive_)?(max|avg)_pool[12]d|flatten|reshape|view|(un)?squeeze|clone|contiguous"
)


def exact_diagonal(loss: Loss, w: Tensor) -> Tensor | None:
    """The diagonal of the Hessian of L_S; None where the network has no closed form.

    Linear layers on vectors, convolutions (1-D and 2-D), BatchNorm in eval mode, ReLU
    and its kin, pooling and additions have one, with the criterion "cross_entropy" or
    "mse". w is (members, k), and so is the diagonal.
    """
    named = loss.criterion.function in ("cross_entropy", "mse")
    trace = None if not named or isinstance(loss.x, Mapping) else _trace_of(loss.net)
    if trace is None or not _agrees(loss, w, trace):
        return None
    # per-example gradients of a convolution, one for each column of S or so
    wide = [m.weight.numel() for m in trace.layers.values() if type(m) is not nn.Linear]
    block = max(1, CHUNK_ELEMENTS // (8 * max(wide))) if wide else loss.n
    rows = []
    for member in range(len(w)):
        leaves = loss.net.leaves(w[member])
        total = {name: torch.zeros_like(leaf) for name, leaf in leaves.items()}
        count = 0
        for x, y, _ in loss.chunks(w, member):
            count += int((y != IGNORED).sum())
            for start in range(0, len(y), block):
                some = select((x, y), slice(start, start + block))
                _add_squares(total, loss, trace, leaves, *some)
        rows.append(loss.net.flatten(total) / count)
    return torch.stack(rows)


# ------------------------------------------------------------------------ the trace


_TRACES: WeakKeyDictionary[Network, "_Trace | None"] = WeakKeyDictionary()


def _trace_of(net: Network) -> "_Trace | None":
    """The trace of a network that is linear in each weight; None of any other."""
    if net not in _TRACES:
        try:
            _TRACES[net] = _Trace(next(net.modules()), set(net.layout.names))
        except Exception:  # what a trace cannot follow has no closed form here
            _TRACES[net] = None
    return _TRACES[net]


class _Trace(fx.Interpreter):
    """The trace of a module, which runs at any weights.

    Raises:
        ValueError: if a node is not known to be piecewise linear in each weight.
    """

    def __init__(self, module: nn.Module, trained: set[str]):
        module = copy.deepcopy(module)  # it may keep what the trace gives it
        bare = type(module) in _LAYERS  # a trace would look inside it
        traced = fx.symbolic_trace(nn.Sequential(module) if bare else module)
        super().__init__(traced)
        named = (*module.named_parameters(), *module.named_buffers())
        self.names = {id(tensor): name for name, tensor in named}
        self.layers: dict[str, Any] = {}  # those with weights in w
        used: list[str] = []
        moving: set[fx.Node] = set()  # nodes that depend on w
        for node in traced.graph.nodes:
            inputs = [n for n in node.all_input_nodes if n in moving]
            if node.op == "get_attr":
                known = node.target in {*self.names.values()} - trained
            elif node.op == "call_module":
                own = self.own(node.target)
                mine = [name for name in own.values() if name in trained]
                if not mine and not inputs:
                    continue
                layer = self.fetch_attr(node.target)
                known = _module_is_known(layer, node, own, mine)
                moving.add(node)
                if mine:
                    self.layers[node.target] = layer
                    used += mine
            elif inputs and node.op.startswith("call") and not _is_shape(node):
                known = _function_is_known(node, inputs)
                moving.add(node)
            else:
                continue
            if not known:
                raise ValueError(f"{node} is not known to be piecewise linear")
        if len(used) > len(set(used)):
            raise ValueError("a weight is used twice")

    def own(self, target: Any) -> dict[str, str]:
        """The tensors of a module that is called, and their names in the network."""
        called: Any = self.fetch_attr(target)
        tensors = (*called.named_parameters(), *called.named_buffers())
        return {name: self.names[id(tensor)] for name, tensor in tensors}

    def at(self, state: Parameters, x: Any) -> tuple[Tensor, dict[str, tuple]]:
        """Logits; and of each layer its input, its state and its gradient's edge."""
        self.state, self.seen = state, {}
        with torch.enable_grad():
            inputs = x if isinstance(x, tuple | list) else (x,)
            logits = self.run(*(value.clone() for value in inputs))
        return logits, self.__dict__.pop("seen")

    def get_attr(self, target: Any, args: Any, kwargs: Any) -> Any:
        return self.state[target]

    def call_module(self, target: Any, args: Any, kwargs: Any) -> Any:
        module = self.fetch_attr(target)
        own = {n: self.state[name] for n, name in self.own(target).items()}
        if target not in self.layers:
            return functional_call(module, own, args, kwargs)
        out = _layer(module, own, args[0])
        # a copy, and the edge: what follows may work in place
        self.seen[target] = (args[0].detach().clone(), own, get_gradient_edge(out))
        return out


def _module_is_known(
    module: Any, node: fx.Node, own: dict[str, str], mine: list[str]
) -> bool:
    """Whether a module is piecewise linear, with a formula if it learns."""
    kind = type(module)
    if kind not in _LAYERS:
        built_in = getattr(nn, kind.__name__, None) is kind and not mine
        return built_in and _MODULES.fullmatch(kind.__name__) is not None
    if len(node.args) != 1 or node.kwargs or not own.keys() <= _TENSORS:
        return False
    if kind in _NORMS:
        return "running_mean" in own and not module.training
    return "weight" in own and (
        kind is nn.Linear
        or (module.padding_mode == "zeros" and not isinstance(module.padding, str))
    )


def _function_is_known(node: fx.Node, moving: list[fx.Node]) -> bool:
    """Whether a function is piecewise linear in the nodes that depend on w."""
    target: Any = node.target
    if node.op == "call_method":
        return _FUNCTIONS.fullmatch(target) is not None
    if target is F.dropout:
        return node.kwargs.get("training") is False
    if target in (operator.truediv, torch.div):
        return moving == [node.args[0]]
    if target in (operator.mul, torch.mul):  # by a constant
        return len(moving) == 1 and node.args.count(moving[0]) == 1
    name = target.__name__
    return _FUNCTIONS.fullmatch(name) is not None and any(
        getattr(place, name, None) is target for place in (torch, F, operator)
    )


def _is_shape(node: fx.Node) -> bool:
    """Whether a node reads a size, which does not depend on w."""
    if node.op == "call_method":
        return node.target in ("size", "dim")
    return node.target is getattr and node.args[1] in ("shape", "ndim")


def _agrees(loss: Loss, w: Tensor, trace: _Trace) -> bool:
    """Whether the trace has the network's logits, example by example, and its slopes.

    What a trace does not show, such as a hook, ``no_grad`` or a part with a backward of
    its own, shows here.
    """
    x, _, _ = next(loss.chunks(w, 0))
    few, leaves = select(x, slice(2)), loss.net.leaves(w[0])
    with torch.enable_grad():
        logits = loss.net.evaluate(leaves, few)
    if logits.ndim != 2 or not logits.requires_grad:
        return False
    state = loss.net.state(leaves)
    parts = [select(few, slice(i, i + 1)) for i in range(len(logits))]
    traced, seen = trace.at(state, few)
    for target, (a, *_) in seen.items():  # a layer may act on parts of examples
        is_dense = type(trace.layers[target]) is nn.Linear
        if len(a) != len(logits) or (is_dense and a.ndim != 2):
            return False
    alone = torch.cat([trace.at(state, part)[0] for part in parts])
    if not logits.shape == traced.shape == alone.shape:
        return False
    v = torch.arange(1, logits.numel() + 1, dtype=w.dtype, device=w.device).cos()
    inputs, eps = list(leaves.values()), 1000 * torch.finfo(w.dtype).eps

    def slopes(z: Tensor) -> Tensor:
        slopes = torch.autograd.grad(z, inputs, v.view_as(z), materialize_grads=True)
        return torch.cat([slope.flatten() for slope in slopes])

    pairs = (alone, logits), (traced, logits), (slopes(traced), slopes(logits))
    return all(bool((a - b).abs().max() <= eps * (1 + b.abs().max())) for a, b in pairs)


# ------------------------------------------------------------------ squared gradients


def _add_squares(
    total: Parameters, loss: Loss, trace: _Trace, leaves: Parameters, x: Any, y: Tensor
) -> None:
    """Add the diagonal Σ_n Σ_c (J_nᵀ s_nc)² of some examples."""
    logits, seen = trace.at(loss.net.state(leaves), x)
    edges = [edge for *_, edge in seen.values()]
    columns = _factor(loss.criterion.function, logits.detach(), y)
    # G: gradients in the layers' outputs, one for each of some columns of S
    while some := [*islice(columns, _COLUMNS)]:
        G = [torch.autograd.grad(logits, edges, s, retain_graph=True) for s in some]
        for i, (target, (a, state, _)) in enumerate(seen.items()):
            g = torch.stack([gradients[i] for gradients in G], dim=1)
            names = trace.own(target)
            for part, square in _squares(trace.layers[target], state, a, g).items():
                if (name := names.get(part)) in total:
                    total[name] += square.view_as(total[name])


def _factor(criterion: Any, logits: Tensor, y: Tensor) -> Iterator[Tensor]:
    """Columns of S, each (n, classes), with S Sᵀ the criterion's Hessian in the logits.

    For cross-entropy diag(p) − p pᵀ = D (I − u uᵀ) D with u = √p and D = diag(u): the
    reflection that takes the first axis to −u gives I − u uᵀ = Q Qᵀ with one column
    less than there are classes.
    """
    counted = (y != IGNORED).to(logits.dtype)[:, None]  # ignored labels have no loss
    eye = torch.eye(logits.shape[1], dtype=logits.dtype, device=logits.device)
    if criterion == "mse":
        yield from (row * counted for row in eye)
        return
    u = F.softmax(logits, dim=-1).sqrt()
    share = u / (1 + u[:, :1])
    for c, row in enumerate(eye[1:], start=1):
        yield u * (row - (u + eye[0]) * share[:, c : c + 1]) * counted


def _layer(module: Any, state: Parameters, a: Tensor) -> Tensor:
    """What a layer puts out, by the formula that ``_squares`` relies on."""
    weight: Any = state.get("weight")
    bias = state.get("bias")
    if type(module) is nn.Linear:
        return F.linear(a, weight, bias)
    if type(module) in _CONVOLUTIONS:
        options = module.stride, module.padding, module.dilation, module.groups
        return _CONVOLUTIONS[type(module)](a, weight, bias, *options)
    mean, var = state["running_mean"], state["running_var"]
    return F.batch_norm(a, mean, var, weight, bias, False, 0.0, module.eps)


def _squares(module: Any, state: Parameters, a: Tensor, g: Tensor) -> dict[str, Tensor]:
    """Squared gradients of a layer's weight and bias, summed over columns and examples.

    Args:
        module: the layer.
        state: its weights and buffers.
        a: (n, ...) its input.
        g: (n, columns, channels, *positions) gradients in its output.
    """
    if type(module) is nn.Linear:
        g = g.square().sum(1)
        return {"weight": g.mT @ a.square(), "bias": g.sum(0)}
    g = g.flatten(3) if g.ndim > 3 else g.unsqueeze(-1)
    of_bias = g.sum(-1).square().sum((0, 1))
    if type(module) in _NORMS:
        a = a.flatten(2) if a.ndim > 2 else a.unsqueeze(-1)
        mean, var = state["running_mean"], state["running_var"]
        a = (a - mean[:, None]) / (var[:, None] + module.eps).sqrt()
        of_weight = (g * a.unsqueeze(1)).sum(-1).square().sum((0, 1))
        return {"weight": of_weight, "bias": of_bias}
    size, options = module.kernel_size, (module.dilation, module.padding, module.stride)
    if len(size) == 1:
        a, size = a.unsqueeze(2), (1, *size)
        options = [(first, *o) for first, o in zip((1, 0, 1), options, strict=True)]
    patches = F.unfold(a, size, *options)
    n, columns, channels, positions = g.shape
    patches = patches.reshape(n * module.groups, -1, positions)
    g = g.reshape(n, columns, module.groups, -1, positions).transpose(1, 2)
    each = g.reshape(n * module.groups, -1, positions) @ patches.mT
    each = each.reshape(n, module.groups, columns, channels // module.groups, -1)
    return {"weight": each.square().sum((0, 2)), "bias": of_bias}
