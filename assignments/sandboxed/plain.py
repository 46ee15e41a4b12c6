"""Plain data as bytes and back: what crosses the wall between student and tests.

Numbers, strings, None, lists, tuples, sets, dicts, NumPy arrays and torch tensors, and
what has the value of one of these; nothing that carries behaviour of its own, and
nothing is unpickled.
"""

import base64
import collections.abc
import contextlib
import io
import itertools
import json
import sys

import numpy as np

TYPES = (bool, int, float, str, type(None))
LONGEST = 1_000_000  # entries of what has no length of its own


class NotPlainError(TypeError):
    """A value that is not plain data."""


def encode(value):
    """Give the bytes of plain data; a ``NotPlainError`` names what is not plain."""
    return json.dumps(_pack(value)).encode()


def decode(content):
    """Give the data behind bytes; a ``NotPlainError`` where they are no such data."""
    try:
        return _unpack(json.loads(content))
    except NotPlainError:
        raise
    except Exception as error:  # whatever a forger thought of
        raise NotPlainError(f"bytes that are no data: {type(error).__name__}") from None


def _pack(value):
    kind = type(value)
    if kind in TYPES:
        return value
    torch = sys.modules.get("torch")  # where nobody imported it there are no tensors
    if torch and isinstance(value, torch.Tensor):
        value = value.detach().cpu().resolve_conj().resolve_neg()
        value = value.to_dense() if value.layout != torch.strided else value
        value = value.float() if value.dtype == torch.bfloat16 else value
        return {"tensor": _array(value.numpy())}
    if isinstance(value, np.ndarray):
        return {"array": _array(value)}
    if isinstance(value, np.longdouble):
        return float(value)
    if isinstance(value, np.generic) and value.dtype.kind in "biufcU":
        return _pack(value.item())
    if isinstance(value, complex):
        return {"complex": [value.real, value.imag]}
    for plain in (bool, int, float, str):
        if isinstance(value, plain):
            return plain(value)
    if isinstance(value, list):
        return [_pack(v) for v in value]
    if isinstance(value, tuple):
        return {"tuple": [_pack(v) for v in value]}
    if isinstance(value, dict):
        return {"dict": [[_pack(k), _pack(v)] for k, v in value.items()]}
    if isinstance(value, collections.abc.Set):
        return {"set": [_pack(v) for v in value]}
    for method in ("to_numpy", "toarray", "__array__"):  # pandas, SciPy, others
        if hasattr(value, method) and not isinstance(value, type):
            return {"array": _array(getattr(value, method)())}
    if isinstance(value, collections.abc.Iterable) and not isinstance(value, bytes):
        listed = list(itertools.islice(value, LONGEST + 1))
        if len(listed) <= LONGEST:
            return [_pack(v) for v in listed]
    if hasattr(kind, "__float__"):  # Decimal, Fraction, numbers of SymPy
        return float(value)
    raise NotPlainError(
        f"{kind.__name__}: give numbers, text, lists, tuples, dicts, arrays or tensors"
    )


def _array(value):
    value = np.asarray(value)
    if value.dtype.hasobject or (value.dtype.kind == "f" and value.itemsize > 8):
        with contextlib.suppress(TypeError, ValueError):
            value = value.astype(float)
    if value.dtype.kind not in "biufcU":
        raise NotPlainError(f"array of {value.dtype}: give an array of numbers")
    file = io.BytesIO()
    np.save(file, np.ascontiguousarray(value), allow_pickle=False)
    return [list(value.shape), base64.b64encode(file.getvalue()).decode()]


def _unpack(value):
    if isinstance(value, list):
        return [_unpack(v) for v in value]
    if not isinstance(value, dict):
        return value
    ((kind, content),) = value.items()
    if kind in ("tuple", "set"):
        return {"tuple": tuple, "set": set}[kind](_unpack(v) for v in content)
    if kind == "dict":
        return {_unpack(k): _unpack(v) for k, v in content}
    if kind == "complex":
        return complex(*content)
    if kind in ("array", "tensor"):
        shape, text = content
        file = io.BytesIO(base64.b64decode(text))
        found = np.load(file, allow_pickle=False).reshape(shape)
        if kind == "array":
            return found
        import torch

        return torch.from_numpy(found.copy())
    raise NotPlainError(f"no data of kind {kind!r}")
