"""A module as a function f(w, x) of one flat weight vector per member."""

import copy
import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, fields, is_dataclass, replace
from fnmatch import fnmatchcase
from functools import partial, wraps
from typing import Any, TypeVar, cast

import torch
from torch import Tensor, nn
from torch.autograd.graph import disable_saved_tensors_hooks
from torch.func import functional_call, vmap
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.module import _has_any_global_hook
from torch.nn.parameter import is_lazy
from torch.utils._pytree import tree_leaves, tree_map

Parameters = dict[str, Tensor]
_F = TypeVar("_F", bound=Callable[..., Any])


@dataclass(frozen=True)
class Layout:
    """Where every coordinate of w lives in the module.

    A filter is a row along dimension 0 of a parameter with two or more dimensions;
    every coordinate of a bias or scale is a filter of its own.
    """

    names: tuple[str, ...]
    shapes: tuple[torch.Size, ...]
    slices: tuple[slice, ...]
    filter: Tensor  # (k,) int64, the same number for coordinates of one filter
    layer: Tensor  # (k,) int64, the same number for coordinates of one submodule
    is_bias: Tensor  # (k,) bool, of parameters with fewer than two dimensions

    @property
    def k(self) -> int:
        """Number of weights."""
        return self.slices[-1].stop

    @property
    def widest(self) -> int:
        """The largest first dimension: outputs of a layer, mostly."""
        return max((*shape, 1)[0] for shape in self.shapes)

    def __iter__(self) -> Iterator[tuple[str, torch.Size, slice]]:
        return zip(self.names, self.shapes, self.slices, strict=True)

    @classmethod
    def of(cls, parameters: Mapping[str, Tensor]) -> "Layout":
        """Layout of named parameters, laid end to end, on the CPU."""
        shapes = tuple(p.shape for p in parameters.values())
        owners = [name.rpartition(".")[0] for name in parameters]
        place = {owner: i for i, owner in enumerate(dict.fromkeys(owners))}
        with torch.device("cpu"):
            sizes = torch.tensor([shape.numel() for shape in shapes])
            rows = torch.tensor([shape[0] if shape else 1 for shape in shapes])
            of_row = (sizes // rows.clamp_min(1)).repeat_interleave(rows)
            layer = torch.tensor([place[owner] for owner in owners])
            is_bias = torch.tensor([len(shape) < 2 for shape in shapes])
            filters = torch.arange(len(of_row)).repeat_interleave(of_row)
        ends = sizes.cumsum(0).tolist()
        return cls(
            names=tuple(parameters),
            shapes=shapes,
            slices=tuple(map(slice, [0, *ends], ends)),
            filter=filters,
            layer=layer.repeat_interleave(sizes),
            is_bias=is_bias.repeat_interleave(sizes),
        )

    def to(self, device: torch.device) -> "Layout":
        """The same layout with its index tensors on ``device``."""
        if self.filter.device == torch.device(device):
            return self
        index = {n: getattr(self, n).to(device) for n in ("filter", "layer", "is_bias")}
        return replace(self, **index)


class _Dropout(nn.Module):
    """Multiplies by a mask that the caller provides; without one, does nothing.

    Masks are data here and no hidden random state, so that a member of an ensemble
    drops the same units as the same seed trained alone.
    """

    mask: Tensor

    def __init__(self, p: float, channels: bool):
        super().__init__()
        self.p, self.channels = p, channels
        self.register_buffer("mask", torch.ones((), device="cpu"), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        return x if self.mask.ndim == 0 else x * self.mask


_DROPOUT = (nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d)
_POINTWISE = (
    *(nn.ReLU, nn.Tanh, nn.GELU, nn.Sigmoid, nn.SiLU),
    *(nn.ELU, nn.Softplus, nn.LeakyReLU, nn.Identity),
)


class Network:
    """A module as a function f(w, x) of flat weights w, for one or many members.

    The module is left as it is found: its weights, gradients, mode and buffers are
    never written. It is evaluated in eval mode, with the buffers (such as BatchNorm
    statistics) that it has at the time of the call. Frozen parameters
    (``requires_grad=False``) are not part of w; tied parameters count once.

    Dense stacks (``Sequential`` of ``Linear``, ``Flatten``, pointwise activations and
    dropout) evaluate all members in batched matrix products. Other modules go through
    ``torch.func.vmap`` on a GPU, and member by member on a CPU, where that is faster.

    Args:
        module: any ``nn.Module``, trained or not. Called as ``module(x)``, as
            ``module(**x)`` for a dict of inputs and ``module(*x)`` for a tuple; an
            output with an attribute ``logits`` stands for those logits.
        only: a pattern of names, such as ``"head.*"``: the parameters that make up w,
            for the curvature and the sharpness of a part; the others stay as they are.

    The first evaluation looks at two examples and refuses, with a ``ValueError``, a
    module that draws random numbers, whose copy computes something else than it does
    (a ``forward`` that is a closure over it), or that hides a weight from autograd.
    """

    def __init__(self, module: nn.Module, only: str | None = None):
        if not isinstance(module, nn.Module):
            raise TypeError(
                f"Network takes an nn.Module, got {type(module).__name__}; "
                "pass the model itself, not its state_dict or its class"
            )
        if isinstance(module, nn.DataParallel | nn.parallel.DistributedDataParallel):
            module = module.module
        if any(isinstance(m, torch.jit.ScriptModule) for m in module.modules()):
            raise TypeError(
                "a scripted or traced module cannot be evaluated at other weights; "
                "pass the module that went into torch.jit.script or trace"
            )
        trained = {n: p for n, p in module.named_parameters() if p.requires_grad}
        if not trained:
            raise ValueError("the module has no parameter with requires_grad=True")
        own = {n: p for n, p in trained.items() if fnmatchcase(n, only or "*")}
        if not own:
            raise ValueError(f"only={only!r} matches none of {', '.join(trained)}")
        if any(map(is_lazy, (*module.parameters(), *module.buffers()))):
            raise ValueError(
                "a lazy layer has no weights yet: call the module on a batch first"
            )
        if any(p.is_complex() for p in own.values()):
            raise TypeError(
                "a parameter is complex, and w is real: keep its real and imaginary "
                "part as two parameters, or as one with torch.view_as_real"
            )
        self.layout = Layout.of(own)
        self._sizes = [shape.numel() for shape in self.layout.shapes]
        self._layouts: dict[torch.device, Layout] = {}
        self._source = module
        self._skeleton = _with(module, {}).eval().requires_grad_(False)
        _replace_dropout(self._skeleton)
        self._compiled = False
        for part in self._skeleton.modules():
            self._compiled |= "_orig_mod" in part._modules
            # they may give another gradient than that of the loss
            part._backward_hooks.clear()
            part._backward_pre_hooks.clear()
            if isinstance(part, nn.Embedding | nn.EmbeddingBag):
                # sparse gradients have no derivative, scaled ones are not the loss's
                part.sparse = part.scale_grad_by_freq = False
                if part.max_norm is not None:
                    raise ValueError(
                        "an embedding with max_norm writes to its weights whenever it "
                        "is called: renormalise them, and set its max_norm to None"
                    )
        self._places = _places(self._skeleton)
        self._dense = self._dense_stack()
        self._examined, self._recomputes, self._vmaps = False, False, True

    @property
    def k(self) -> int:
        """Number of weights."""
        return self.layout.k

    def __repr__(self) -> str:
        return f"Network({type(self._source).__name__}, k={self.k})"

    # ------------------------------------------------------------------ weights

    def weights(self) -> Tensor:
        """The module's own weights, as a copy of shape (k,)."""
        own = dict(self._source.named_parameters())
        return self.flatten(own).detach()

    def init(
        self,
        seeds: int | Iterable[int],
        *,
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
    ) -> Tensor:
        """Fresh initialisations, (k,) for one seed or (members, k) for several.

        Layers draw them by their own ``reset_parameters``, in the module's dtype, so
        that float64 starts from the same point as float32. Torch's global random state
        is left as it was.
        """
        scratch = copy.deepcopy(self._source).cpu()
        parts: list[nn.Module] = []
        scratch.apply(parts.append)  # children first, as constructors finish
        resets = [
            getattr(part, "reset_parameters", getattr(part, "_reset_parameters", None))
            for part in dict.fromkeys(parts)
        ]
        named = dict(scratch.named_parameters())
        trained = {name: named[name] for name in self.layout.names}
        rows = []
        with torch.random.fork_rng(devices=[]), torch.no_grad():
            for parameter in trained.values():
                parameter.fill_(torch.nan)
            for seed in [seeds] if isinstance(seeds, int) else seeds:
                torch.default_generator.manual_seed(int(seed))
                for reset in filter(callable, resets):
                    reset()
                rows.append(self.flatten(trained))
        if not rows:
            raise ValueError("seeds is empty, expected at least one seed")
        left = [name for name, p in trained.items() if p.isnan().any()]
        if left:
            raise ValueError(
                f"no reset_parameters() of the module writes to {', '.join(left)}, so "
                "it cannot be initialised afresh; add that method or build w from "
                "Network(module).weights()"
            )
        like = next(iter(self._source.parameters()))
        w = rows[0] if isinstance(seeds, int) else torch.stack(rows)
        return w.to(dtype=dtype or like.dtype, device=device or like.device)

    def check(self, w: Tensor) -> None:
        """Raise unless w has the shape (..., k) of this network."""
        if not isinstance(w, Tensor) or not w.is_floating_point():
            raise TypeError(
                f"w is {getattr(w, 'dtype', type(w).__name__)}, expected a "
                "floating-point tensor"
            )
        if w.ndim < 1 or w.shape[-1] != self.k:
            raise ValueError(
                f"w has shape {tuple(w.shape)}, expected ({self.k},) or "
                f"(members, {self.k}): are these the weights of another network?"
            )

    def unflatten(self, w: Tensor) -> Parameters:
        """Views of w, (..., k), as named parameters, each (..., its own shape)."""
        lead, layout = w.shape[:-1], self.layout
        parts = zip(layout.names, layout.shapes, w.split(self._sizes, -1), strict=True)
        return {name: part.reshape(lead + shape) for name, shape, part in parts}

    def flatten(self, parameters: Mapping[str, Tensor]) -> Tensor:
        """Inverse of ``unflatten``."""
        lead = parameters[self.layout.names[0]].ndim - len(self.layout.shapes[0])
        parts = (parameters[name] for name in self.layout.names)
        return torch.cat([p.reshape(*p.shape[:lead], -1) for p in parts], dim=-1)

    def has_members(self, parameters: Parameters) -> bool:
        """Whether the parameters, as ``unflatten`` gives them, have a leading axis."""
        return parameters[self.layout.names[0]].ndim > len(self.layout.shapes[0])

    def leaves(self, w: Tensor) -> Parameters:
        """``unflatten``, to differentiate by: slices of a leaf cost a backward more."""
        need_derivatives()
        return {n: p.detach().requires_grad_() for n, p in self.unflatten(w).items()}

    def layout_on(self, device: torch.device) -> Layout:
        """The layout with its index tensors on ``device``, kept for the next call."""
        if device not in self._layouts:
            self._layouts[device] = self.layout.to(device)
        return self._layouts[device]

    def module(self, w: Tensor) -> nn.Module:
        """An independent module that holds the weights w, (k,), in their dtype."""
        self.check(w)
        if w.ndim != 1:
            raise ValueError(
                f"w has shape {tuple(w.shape)}, expected one member ({self.k},)"
            )
        module = copy.deepcopy(self._source).to(dtype=w.dtype, device=w.device)
        own = dict(module.named_parameters())
        with torch.no_grad():
            for name, value in self.unflatten(w).items():
                own[name].copy_(value)
                own[name].grad = None
        return module

    # --------------------------------------------------------------- evaluation

    def __call__(self, w: Tensor, x: Any) -> Tensor:
        """Logits, (..., n, classes), of w, (..., k), on the same inputs (n, ...).

        They are differentiable in w.
        """
        self.check(w)
        if w.ndim == 1:
            return self.evaluate(self.unflatten(w), x)
        parameters = self.unflatten(w.reshape(-1, self.k))
        return _lead_back(self.evaluate(parameters, x), w.shape[:-1])

    def evaluate(
        self,
        parameters: Parameters,
        x: Any,
        *,
        own_inputs: bool = False,
    ) -> Tensor:
        """Logits from named parameters: the differentiable core of everything else.

        Args:
            parameters: as ``unflatten`` returns them, with a leading axis of members
                or without; after them perhaps dropout masks, each (members, n, ...) or
                (n, ...), under the names that ``dropout_masks`` gives.
            x: inputs, shared by all members or, with ``own_inputs``, (members, n, ...).
            own_inputs: whether every member has inputs of its own.
        """
        like = next(iter(parameters.values()))
        members = self.has_members(parameters)
        own_inputs = own_inputs and members
        if not self._examined:
            few = select(x, 0) if own_inputs else x
            self._examine(select(few, slice(2)), like)
        if members and self._is_batched(x, 3 if own_inputs else 2):
            return self._evaluate_dense(parameters, x, own_inputs)
        with self._plainly():
            # looked up once, not for each member
            run = partial(self._run, besides=self._besides(like))
            if not members:
                return run(parameters, x)
            if like.is_cuda and len(like) > 1 and self._vmaps:
                try:
                    axes = (0, 0 if own_inputs else None)
                    return vmap(run, in_dims=axes)(parameters, x)
                except torch.OutOfMemoryError:
                    raise
                except RuntimeError:  # an operation that has no batching rule
                    self._vmaps = False
            own = zip(*(t.unbind() for t in parameters.values()), strict=True)
            each = [dict(zip(parameters, values, strict=True)) for values in own]
            xs = [select(x, i) if own_inputs else x for i in range(len(each))]
            return torch.stack([run(*pair) for pair in zip(each, xs, strict=True)])

    def _run(self, parameters: Parameters, x: Any, besides: Any = None) -> Tensor:
        """The output of the structure at these parameters."""
        state = self.state(parameters, besides)
        if self._recomputes:
            # what is computed again in the backward pass needs these weights still
            return outputs_of(_with(self._skeleton, state), x)
        # each place once: functional_call's own ties go wrong where a module stands at
        # two places
        values = {p: state[n] for p, n in self._places.items() if n in state}
        call = partial(functional_call, self._skeleton, values, tie_weights=False)
        return outputs_of(lambda *args, **kwargs: call(args, kwargs), x)

    def state(self, parameters: Parameters, besides: Any = None) -> Parameters:
        """Parameters, and ``besides``: by default what the module holds now."""
        frozen, buffers = besides or self._besides(next(iter(parameters.values())))
        # copies: a module may write to its buffers in eval mode too, as counters do
        copies = {name: buffer.clone() for name, buffer in buffers.items()}
        return {**frozen, **copies, **parameters}

    def _besides(self, like: Tensor) -> tuple[Parameters, Parameters]:
        """What w does not hold, in its place and dtype: parameters and buffers."""
        own = self.layout.names
        frozen = {
            name: p.detach()
            for name, p in self._source.named_parameters()
            if name not in own
        }
        both = frozen, dict(self._source.named_buffers())
        return place(both, like.device, like.dtype)

    @contextmanager
    def _plainly(self) -> Iterator[None]:
        """Without attention's forward-only path and without compilation."""
        stance = torch.compiler.set_stance if self._compiled else nullcontext
        fast = torch.backends.mha.get_fastpath_enabled()
        torch.backends.mha.set_fastpath_enabled(False)
        try:
            with stance("force_eager"):
                yield
        finally:
            torch.backends.mha.set_fastpath_enabled(fast)

    @contextmanager
    def twice_differentiable(self) -> Iterator[None]:
        """With gradients, without fused kernels that have no second derivative."""
        recurrent = any(isinstance(part, nn.RNNBase) for part in self.modules())
        fused = (
            torch.backends.cudnn.flags(enabled=False) if recurrent else nullcontext()
        )
        with torch.enable_grad(), sdpa_kernel(SDPBackend.MATH), fused:
            yield

    def _evaluate_dense(self, parameters, x, own_inputs) -> Tensor:
        """Logits of all members in batched matrix products."""
        for name, layer in self._dense or ():
            if isinstance(layer, nn.Linear):
                weight = parameters[f"{name}.weight"].transpose(1, 2)
                bias = parameters.get(f"{name}.bias")
                if x.ndim == 2:  # shared inputs: expanded, not copied
                    x = x.expand(weight.shape[0], *x.shape)
                if bias is None:
                    x = torch.bmm(x, weight)
                else:
                    x = torch.baddbmm(bias.unsqueeze(1), x, weight)
            elif isinstance(layer, nn.Flatten):
                x = x.flatten(2 if own_inputs else 1)
            elif not isinstance(layer, _Dropout):
                x = layer(x)
            elif f"{name}.mask" in parameters:
                x = x * parameters[f"{name}.mask"]
        return x

    # -------------------------------------------------------------- examination

    def _examine(self, x: Any, like: Tensor) -> None:
        """Look once at what would give wrong numbers without a word; x is (2, ...)."""
        devices = [like.device] if like.device.type == "cuda" else []
        with (
            torch.random.fork_rng(devices),
            torch.inference_mode(False),
            self._plainly(),
            _in_eval_mode(self._source),
        ):
            own = self.weights()
            i = torch.arange(self.k, device=like.device)
            # away from its own weights, where a copy that keeps them shows
            point = own.to(like) * (1 + 0.1 * i.cos()) + 0.01 * i.sin()
            leaves = self.leaves(point.to(like))
            with torch.no_grad():
                copied = _with(self._source, self.state(leaves)).eval()
                copied = outputs_of(copied, x)
            with torch.enable_grad():
                output = self._settled(leaves, x, copied)
                self._check_slopes(leaves, x, output)
            with torch.no_grad():
                x = place(x, own.device, own.dtype)
                ours = self._run(self.unflatten(own), x)
                theirs = outputs_of(self._source, x)
            # w is as wide as the widest parameter, others may be narrower
            narrow = min(self._source.parameters(), key=lambda p: p.dtype.itemsize)
            if narrow.is_floating_point():
                ours, theirs = ours.to(narrow.dtype), theirs.to(narrow.dtype)
            if not (_close(output, copied) and _close(ours, theirs)):
                raise ValueError(_COPY)
        self._examined = True

    def _settled(self, leaves: Parameters, x: Any, copied: Tensor) -> Tensor:
        """The output, after it is known how to compute it; sets ``_recomputes``."""
        said = "computes again"
        try:
            with disable_saved_tensors_hooks(said):
                output, again = self._run(leaves, x), self._run(leaves, x)
        except RuntimeError as error:
            if said not in str(error):
                raise
        else:
            if not _close(output, again):
                raise ValueError(
                    "the network gives another output at the second call with the same "
                    "weights and inputs: it draws random numbers, or keeps a state"
                )
            if _close(output, copied):
                return output
        # it has a checkpoint, or holds a weight in a list or the like
        self._recomputes = True
        return self._run(leaves, x)

    def _check_slopes(self, leaves: Parameters, x: Any, output: Tensor) -> None:
        """Raise unless autograd sees all that the output is computed from."""
        given = [*leaves.values()]
        given += [p for p in self._source.parameters() if p.requires_grad]
        slopes: Any = [None] * len(given)
        if output.requires_grad:
            slopes = torch.autograd.grad(output.sum(), given, allow_unused=True)
        if any(slope is not None for slope in slopes[len(leaves) :]):
            raise ValueError(
                "a copy of the module still uses the module's own weights: a forward "
                "or hook is a function that holds on to the module. Subclass it, or "
                "wrap it in an nn.Module that calls it"
            )
        lost = [n for n, slope in zip(leaves, slopes, strict=False) if slope is None]
        with torch.no_grad():
            moved = {n: 0.9 * leaves[n] + 0.01 for n in lost}
            if lost and not _close(self._run({**leaves, **moved}, x), output):
                raise ValueError(
                    f"no gradient reaches {', '.join(lost)}, though the output "
                    "depends on it: detached, used under no_grad or in a reentrant "
                    "checkpoint?"
                )

    # --------------------------------------------------------------- structure

    def _dense_stack(self) -> list[tuple[str, nn.Module]] | None:
        """Layers in order if the module is a dense stack of its own, else None."""
        # hooks, tied or frozen parameters would be missed by the batched products
        hooked = any(
            m._forward_hooks or m._forward_pre_hooks or "forward" in vars(m)
            for m in self.modules()
        )
        if type(self._skeleton) is not nn.Sequential or hooked:
            return None
        layers = chain(self._skeleton)
        if layers and getattr(layers[0][1], "inplace", False):
            return None  # it would write over the inputs
        expected: list[str] = []
        for name, layer in layers:
            if type(layer) is nn.Flatten:
                if (layer.start_dim, layer.end_dim) != (1, -1) or expected:
                    return None
            elif type(layer) not in (nn.Linear, _Dropout, *_POINTWISE):
                return None
            expected += [f"{name}.{own}" for own, _ in layer.named_parameters()]
        return layers if tuple(expected) == self.layout.names else None

    def _is_batched(self, x: Any, vectors: int) -> bool:
        """Whether the dense stack gets x, of so many axes, as vectors of examples."""
        if not self._dense or not isinstance(x, Tensor) or _has_any_global_hook():
            return False
        return isinstance(self._dense[0][1], nn.Flatten) or x.ndim == vectors

    def modules(self) -> Iterator[nn.Module]:
        """Submodules of the network's structure (for inspection; they hold no w)."""
        return self._skeleton.modules()

    @property
    def together(self) -> bool:
        """Whether all members are evaluated in batched matrix products on a CPU."""
        return self._dense is not None

    @torch.no_grad()
    def mixes_examples(self, parameters: Parameters, x: Any, alone: int = 2) -> bool:
        """Whether a few of x have other outputs if they are without as many others.

        A layer that takes the statistics of the batch is known without a look.
        """
        if any(
            isinstance(module, _BatchNorm) and module.running_mean is None
            for module in self._skeleton.modules()
        ):
            return True
        like = next(iter(parameters.values()))
        few = place(select(x, slice(2 * alone)), like.device, like.dtype)
        both = self.evaluate(parameters, few)
        rtol = max(1e-4, 8 * torch.finfo(both.dtype).eps)
        # what is largest, say, may be among the first
        return any(
            bool(change.abs().max() > rtol * both.abs().max())
            for part in (slice(alone), slice(-alone, None))
            for change in [both[part] - self.evaluate(parameters, select(few, part))]
        )

    def probe(self, x: Any) -> tuple[Tensor, list[tuple[str, nn.Module, Any, Any]]]:
        """The output at the module's own weights on a few examples.

        Returns:
            The output, and (name, layer, inputs, output) of every call of a layer.

        Raises:
            ValueError: if the network does not take inputs of this form.
        """
        parts, own, calls = tensors(x), self.weights(), []
        real = [t for t in parts if t.is_floating_point()]
        own = own.to(real[0]) if real else own.to(parts[0].device)

        def note(name: str, *call: Any) -> None:
            calls.append((name, *call))

        handles = [
            layer.register_forward_hook(partial(note, name))
            for name, layer in self._skeleton.named_modules()
        ]
        try:
            with torch.no_grad():
                return self._run(self.unflatten(own), x), calls
        except torch.OutOfMemoryError:
            raise
        except (RuntimeError, ValueError, IndexError, AssertionError) as error:
            shapes = ", ".join(str(("n", *t.shape[1:])) for t in parts)
            raise ValueError(
                "the network does not take inputs of shape "
                f"{shapes.replace(repr('n'), 'n')}, of which the first "
                f"{len(parts[0])} were tried: {error}"
            ) from error
        finally:
            for handle in handles:
                handle.remove()

    def trains_as_measured(self, x: Any) -> bool:
        """Whether training mode gives the outputs and buffers that eval mode gives.

        ``nn.Dropout`` apart, for which there are masks. Two examples are looked at.
        """
        own, outputs, buffers = self.weights(), [], []
        x = place(select(x, slice(2)), own.device, own.dtype)
        devices = [own.device] if own.is_cuda else []
        for mode in (True, False):
            module = copy.deepcopy(self._source).train(mode)
            _replace_dropout(module)
            with torch.no_grad(), torch.random.fork_rng(devices):
                outputs.append(outputs_of(module, x))
            buffers.append(module.buffers())
        return _close(*outputs) and all(map(torch.equal, *buffers))

    def activations(self, x: Any) -> int:
        """Numbers that the layers put out for one example: what a gradient must hold.

        Two examples x, (2, ...), are enough for layers that refuse one.
        """
        sizes = (
            output.numel()
            for _, layer, _, output in self.probe(x)[1]
            if isinstance(output, Tensor) and not any(layer.children())
        )
        return sum(sizes) // len(tensors(x)[0])

    def dropout_masks(self, x: Tensor) -> dict[str, tuple[float, torch.Size]]:
        """Name of every dropout mask to its probability and one example's shape.

        Found by one evaluation of one example x, (1, ...), in the place of the weights.
        """
        masks: dict[str, tuple[float, torch.Size]] = {}
        if not any(isinstance(m, _Dropout) for m in self.modules()):
            return masks
        for name, layer, inputs, _ in self.probe(x)[1]:
            if isinstance(layer, _Dropout):
                shape = inputs[0].shape[1:]
                if layer.channels:
                    shape = shape[:1] + torch.Size([1] * (len(shape) - 1))
                masks[f"{name}.mask"] = (layer.p, shape)
        return masks


def need_derivatives() -> None:
    """Raise where nothing can be differentiated."""
    if torch.is_inference_mode_enabled():
        raise ValueError(
            "torch.inference_mode is on, where nothing can be differentiated: measure "
            "outside of it, or inside torch.inference_mode(False)"
        )


def over_members(function: _F, *, finite: bool = True) -> _F:
    """Let ``function(net_or_loss, w, ...)`` take w with any leading axes.

    Inside, w is (members, k), detached, finite and of this network. Every tensor of
    the result (itself, in a tuple, list or dict, or a field of a dataclass) whose first
    dimension counts the members gets the leading axes of w back; fields with
    ``metadata={"shared": True}`` belong to all members and stay as they are.
    """
    signature = inspect.signature(function)
    wants_loss = next(iter(signature.parameters)) == "loss"

    @wraps(function)
    def outer(*args, **kwargs):
        if len(args) < 2:  # given by name
            bound = signature.bind(*args, **kwargs)
            args, kwargs = bound.args, bound.kwargs
        owner, w, *others = args
        net = getattr(owner, "net", None if wants_loss else owner)
        if not isinstance(net, Network):
            wanted = "Loss" if wants_loss else "Network"
            raise TypeError(f"expected a {wanted}, got {type(owner).__name__}")
        owner.check(w)
        lead, members = w.shape[:-1], w.detach().reshape(-1, w.shape[-1])
        if finite and not members.isfinite().all():
            bad = (~members.isfinite().all(-1)).nonzero().flatten().tolist()
            where = f" of members {bad}" if lead else ""
            raise ValueError(
                f"the weights{where} hold NaN or infinite values; leave out members "
                "whose training diverged"
            )
        return _lead_back(function(owner, members, *others, **kwargs), lead)

    return cast(_F, outer)


def _lead_back(result: Any, lead: torch.Size) -> Any:
    """The leading axes ``lead`` in place of the axis of members, in all of a result."""

    def back(part: Any) -> Any:
        if isinstance(part, Tensor) and part.ndim and len(part) == lead.numel():
            return part.reshape(lead + part.shape[1:])
        if not is_dataclass(part) or isinstance(part, type):
            return part
        own = {
            f.name: _lead_back(getattr(part, f.name), lead)
            for f in fields(part)
            if f.init and not f.metadata.get("shared")
        }
        return replace(part, **own)

    return tree_map(back, result)


def chain(module: nn.Module, name: str = "") -> list[tuple[str, nn.Module]]:
    """(name, layer) for every place of a layer in nested ``nn.Sequential``, in order.

    What is no plain ``nn.Sequential`` is one layer.
    """
    if type(module) is not nn.Sequential:
        return [(name, module)]
    # not named_children, which passes over a layer's second place
    return [
        step
        for own, layer in module._modules.items()
        for step in chain(layer, f"{name}.{own}" if name else own)
    ]


def select(x: Any, index: Any) -> Any:
    """Examples of a tensor, or of every one in a dict or tuple that is no number."""
    return tree_map(lambda t: t[index] if isinstance(t, Tensor) and t.ndim else t, x)


def place(x: Any, device: torch.device, dtype: torch.dtype) -> Any:
    """Inputs on a device, floating-point ones in a dtype."""

    def put(t):
        if not isinstance(t, Tensor):
            return t
        return t.to(device, dtype if t.is_floating_point() else t.dtype)

    return tree_map(put, x)


def tensors(x: Any) -> list[Tensor]:
    """The tensors of an input, itself or those of a dict or tuple; no numbers."""
    return [t for t in tree_leaves(x) if isinstance(t, Tensor) and t.ndim]


def outputs_of(module: Callable, x: Any) -> Tensor:
    """The logits that a module gives of inputs, which it may work on in place."""
    x = tree_map(lambda t: t.clone() if isinstance(t, Tensor) else t, x)
    if isinstance(x, Mapping):
        output = module(**x)
    else:
        output = module(*x) if isinstance(x, tuple | list) else module(x)
    output = output if isinstance(output, Tensor) else getattr(output, "logits", output)
    if not isinstance(output, Tensor):
        raise TypeError(
            f"the module returns {type(output).__name__}, expected a tensor or an "
            "object with an attribute logits; wrap it in a module that returns "
            "the output to measure"
        )
    return output


def _replace_dropout(module: nn.Module) -> None:
    for part in list(module.modules()):
        for name, child in part._modules.items():
            if isinstance(child, _DROPOUT):
                channels = not isinstance(child, nn.Dropout)
                layer = _Dropout(child.p, channels) if child.p else nn.Identity()
                part._modules[name] = layer


def _places(module: nn.Module) -> dict[str, str]:
    """Every place of a parameter or buffer, once, to the name of what lies there."""
    first: dict[int, str] = {}
    return {
        place: first.setdefault(id(value), place)
        for path, part in module.named_modules()
        for named in (part.named_parameters, part.named_buffers)
        for place, value in named(path, recurse=False, remove_duplicate=False)
    }


_COPY = (
    "a copy of the module gives another output than the module: it keeps a tensor "
    "computed from its parameters, which does not follow them (make pruning permanent "
    "by torch.nn.utils.prune.remove, take off torch.nn.utils.weight_norm by "
    "remove_weight_norm, compute in forward what is cached), or copy.deepcopy leaves "
    "something out"
)


def _with(module: nn.Module, state: Parameters) -> nn.Module:
    """A copy that has these values wherever the module holds on to its own."""
    own = dict((*module.named_parameters(), *module.named_buffers()))
    memo = {id(own[name]): value for name, value in state.items() if name in own}
    try:
        return copy.deepcopy(module, memo)
    except RuntimeError as error:
        if "deepcopy" not in str(error):
            raise
        raise ValueError(_COPY) from error


@contextmanager
def _in_eval_mode(module: nn.Module) -> Iterator[None]:
    """Gives a module its modes and buffers back in the end."""
    parts = [(part, part.training, {**part._buffers}) for part in module.modules()]
    buffers = [(buffer, buffer.clone()) for buffer in module.buffers()]
    try:
        for part, *_ in parts:
            part.training = False  # not eval(), which may do more
        yield
    finally:
        for part, mode, own in parts:
            part.training = mode
            part._buffers.update(own)  # it may have put others in their place
        with torch.no_grad():
            for buffer, value in buffers:
                if not torch.equal(buffer, value):
                    buffer.copy_(value)


def _close(a: Tensor, b: Tensor) -> bool:
    """Whether two outputs differ by no more than rounding."""
    tol = 0.1 if torch.finfo(a.dtype).bits < 32 else 1e-4
    size = a.detach().nan_to_num().abs().amax().item() if a.numel() else 0.0
    return a.shape == b.shape and torch.allclose(
        a, b.to(a), rtol=0, atol=tol * size, equal_nan=True
    )
