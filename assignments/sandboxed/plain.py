"""Plain data as bytes and back: what crosses the wall between student and tests.

Numbers, strings, bytes, None, lists, tuples, dicts, NumPy arrays and torch tensors;
nothing that carries behaviour of its own, and nothing is unpickled.
"""

import base64
import io
import json

import numpy as np
import torch

TYPES = (bool, int, float, str, type(None))


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
    if isinstance(value, torch.Tensor):
        # .numpy() refuses sparse, conjugated and bfloat16 tensors: they are not plain.
        return {"tensor": _array(value.detach().cpu().numpy())}
    if isinstance(value, np.generic):
        return _pack(value.item())
    if isinstance(value, np.ndarray):
        return {"array": _array(value)}
    if isinstance(value, bool | int | float | str):
        return next(t for t in TYPES if isinstance(value, t))(value)
    if isinstance(value, list):
        return [_pack(v) for v in value]
    if isinstance(value, tuple):
        return {"tuple": [_pack(v) for v in value]}
    if isinstance(value, dict):
        return {"dict": [[_pack(k), _pack(v)] for k, v in value.items()]}
    raise NotPlainError(
        f"{kind.__name__}: give numbers, text, lists, tuples, dicts, arrays or tensors"
    )


def _array(value):
    if value.dtype.hasobject or value.dtype.kind not in "biufcU":
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
    if kind == "tuple":
        return tuple(_unpack(v) for v in content)
    if kind == "dict":
        return {_unpack(k): _unpack(v) for k, v in content}
    if kind in ("array", "tensor"):
        shape, text = content
        file = io.BytesIO(base64.b64decode(text))
        found = np.load(file, allow_pickle=False).reshape(shape)
        return found if kind == "array" else torch.from_numpy(found.copy())
    raise NotPlainError(f"no data of kind {kind!r}")
