"""A device that this machine lacks: CPU values in tensors that say they are elsewhere.

``with Device("cuda"):`` lets ``.to("cuda")`` and ``device="cuda"`` make tensors whose
Python side is on cuda:0. Every operation is held to PyTorch's rules: all tensors in one
place (but for single numbers and indices), a generator of the same kind, and, on "mps",
no float64. What makes the host wait for the device is counted in ``waits``.
"""

import copy
from contextlib import ExitStack, nullcontext
from functools import partial
from unittest import mock

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

aten = torch.ops.aten
# may take tensors of two places: copies, and indices on the CPU into a tensor elsewhere
_ACROSS = {
    aten.copy_,
    aten._to_copy,
    aten.index,
    aten.index_put_,
    aten._index_put_impl_,
}
# the host learns how large the result is, or what is in it
_WAITS = {aten._local_scalar_dense, aten.nonzero, aten.masked_select, aten.equal}
_WAITS |= {aten._unique2, aten.unique_dim, aten.unique_consecutive}


def each(change, value):
    """``change`` of everything in tuples, lists and dicts; PyTorch's trees are slow."""
    kind = type(value)
    if kind is tuple or kind is list:
        return kind([each(change, part) for part in value])
    if kind is dict:
        return {name: each(change, part) for name, part in value.items()}
    return change(value)


class Elsewhere(Tensor):
    """A tensor that says it is on a device; to PyTorch's C++ it is on "meta"."""

    home = torch.device("cuda:0")
    device = property(lambda self: Elsewhere.home)
    is_cuda = property(lambda self: Elsewhere.home.type == "cuda")
    is_mps = property(lambda self: Elsewhere.home.type == "mps")
    is_cpu = is_meta = property(lambda self: False)

    @staticmethod
    def __new__(cls, value):
        if Elsewhere.home.type == "mps" and value.dtype == torch.float64:
            raise TypeError("Cannot convert a MPS Tensor to float64 dtype")
        return Tensor._make_wrapper_subclass(
            cls,
            value.size(),
            strides=value.stride(),
            storage_offset=value.storage_offset(),
            dtype=value.dtype,
            device="meta",
        )

    def __init__(self, value):
        self.value = value

    def __repr__(self, **_):
        return f"{self.value!r} on {self.device}"

    def __deepcopy__(self, memo):
        twin = Elsewhere(self.value.clone()).requires_grad_(self.requires_grad)
        twin.__dict__.update({n: v for n, v in vars(self).items() if n != "value"})
        return memo.setdefault(id(self), twin)

    def tolist(self):
        return self.cpu().tolist()

    def numpy(self, **_):
        raise TypeError("can't convert cuda:0 device type tensor to numpy")

    @classmethod
    def __torch_dispatch__(cls, function, types, args=(), kwargs=None):
        raise RuntimeError(f"{function} outside of the device")


class _Generator(torch.Generator):
    """One that says it is on the device it was asked for."""

    def __new__(cls, device="cpu"):
        made = super().__new__(cls, "cpu")
        made.there = torch.device(device).type == Elsewhere.home.type
        return made


class _Places(TorchFunctionMode):
    """Calls the device "meta" on the way to PyTorch's C++, which knows no other."""

    def __torch_function__(self, function, types, args=(), kwargs=None):
        name = getattr(function, "__name__", "")
        if name in ("__get__", "device", "get_device_module"):  # no new tensor
            return function(*args, **kwargs or {})
        args, kwargs = each(_meta, args), each(_meta, kwargs or {})
        if name in ("tensor", "as_tensor") and not isinstance(args[0], Tensor):
            where = kwargs.pop("device", None)  # made here, then moved
            return function(*args, **kwargs, device="cpu").to(where or "cpu")
        return function(*args, **kwargs)


def _meta(value):
    here = Elsewhere.home
    if isinstance(value, torch.device) and value.type == here.type:
        return torch.device("meta")
    if isinstance(value, str) and value in (here.type, str(here)):
        return "meta"
    return value


class Device(TorchDispatchMode):
    """The device as a context; ``waits`` counts what the host waited for."""

    def __init__(self, kind):
        super().__init__()
        self.home, self.waits, self.launches = torch.device(kind, 0), 0, 0
        self.replays = 0

    def __enter__(self):
        self._stack, self._last = ExitStack(), Elsewhere.home
        Elsewhere.home = self.home
        state = mock.patch.multiple(
            torch.cuda,
            get_rng_state=lambda device: None,
            set_rng_state=lambda state, device: None,
            mem_get_info=lambda device: (2**33, 2**33),
            device=nullcontext,
            stream=nullcontext,
            current_stream=mock.Mock,
            Stream=mock.Mock,
            CUDAGraph=partial(Graph, self),
            graph=Recording,
        )
        self._stack.enter_context(state)
        self._stack.enter_context(mock.patch.object(torch, "Generator", _Generator))
        self._stack.enter_context(_Places())
        return super().__enter__()

    def __exit__(self, *error):
        super().__exit__(*error)
        self._stack.close()
        Elsewhere.home = self._last

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        given: list[Tensor] = []
        inner_args, inner = each(partial(_value, given), (args, kwargs))
        ours = [t for t in given if isinstance(t, Elsewhere)]
        packet, target = function.overloadpacket, kwargs.get("device")
        there = bool(ours) if target is None else target.type == "meta"
        if ours and len(ours) < len(given) and packet not in _ACROSS:
            strangers = [t for t in given if not isinstance(t, Elsewhere) and t.ndim]
            if strangers:
                raise RuntimeError(
                    f"{function}: expected all tensors to be on the same device, but "
                    f"found {self.home} and cpu"
                )
        if packet in _ACROSS and packet not in (aten.copy_, aten._to_copy):
            base, indices, *values = args
            there = isinstance(base, Elsewhere)
            if not there and ours:
                raise RuntimeError(f"{function}: cpu is indexed by {self.home}")
            if any(
                there and v.ndim and not isinstance(v, Elsewhere) for v in values[:1]
            ):
                raise RuntimeError(f"{function}: values are on the cpu")
            if there and any(i is not None and i.dtype == torch.bool for i in indices):
                self.waits += 1
        if there and isinstance(kwargs.get("generator"), torch.Generator):
            raise RuntimeError(
                "Expected a 'cuda' device type for generator, found 'cpu'"
            )
        self.launches += there
        # off the device, or a result whose size is not known before
        copied = packet is aten.copy_ and ours and not isinstance(args[0], Elsewhere)
        leaves = packet is aten._to_copy and ours and not there
        self.waits += bool(ours and packet in _WAITS) or bool(copied or leaves)
        if packet is aten.repeat_interleave and ours and not kwargs.get("output_size"):
            self.waits += 1
        if target is not None:
            inner["device"] = torch.device("cpu") if there else target
        result = function(*inner_args, **inner)
        first = args[0] if args else None
        if isinstance(first, Elsewhere) and result is first.value:
            return first  # written in place
        return each(_wrapped, result) if there else result


class Graph:
    """What was recorded, played again: the same operations in the same memory."""

    def __init__(self, device):
        self.device, self.tape = device, []

    def replay(self):
        for function, args, kwargs, result in self.tape:
            again = function(*args, **kwargs)
            if not any(r.alias_info for r in function._schema.returns):
                pairs = [(result, again)] if isinstance(result, Tensor) else []
                for old, new in pairs or zip(result, again, strict=True):
                    old.copy_(new)
        self.device.launches += 1
        self.device.replays += 1


class Recording(TorchDispatchMode):
    """Writes operations down; the result holds no values before the first replay."""

    def __init__(self, graph):
        super().__init__()
        self.graph = graph

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        waits, kwargs = self.graph.device.waits, kwargs or {}
        result = function(*args, **kwargs)
        if self.graph.device.waits > waits:
            raise RuntimeError("operation not permitted when stream is capturing")
        inner = each(partial(_value, []), (args, kwargs, result))
        if "device" in kwargs:
            inner[1]["device"] = torch.device("cpu")
        self.graph.tape.append((function, *inner))
        return result

    def __exit__(self, *error):
        super().__exit__(*error)
        if not any(error):
            self.graph.tape[-1][-1].fill_(torch.nan)


def _value(given, t):
    """What it is on the CPU; notes the tensors."""
    if isinstance(t, Tensor):
        given.append(t)
    return t.value if isinstance(t, Elsewhere) else t


def _wrapped(t):
    return Elsewhere(t) if isinstance(t, Tensor) else t


def to(value, device):
    """A copy of a module, of data, of tensors on a device."""
    if isinstance(value, torch.nn.Module):
        return copy.deepcopy(value).to(device)
    return each(lambda t: t.to(device) if isinstance(t, Tensor) else t, value)
