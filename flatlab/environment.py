"""What the environment decides: the device, the scale, whether to show progress."""

import importlib
import os
from types import ModuleType
from typing import TypeVar

import torch

_T = TypeVar("_T")
SCALES = ("smoke", "laptop", "gpu")


def device() -> torch.device:
    """Choose where tensors live: CUDA, then MPS, then the CPU.

    The environment variable ``FLATLAB_DEVICE`` (``cpu``, ``cuda``, ``cuda:1``,
    ``mps``) overrides the choice.
    """
    wanted = os.environ.get("FLATLAB_DEVICE", "").strip()
    if not wanted:
        if torch.cuda.is_available():
            return torch.device("cuda")
        if torch.backends.mps.is_available():
            return torch.device("mps")
        return torch.device("cpu")
    try:
        chosen = torch.device(wanted)
    except RuntimeError:
        raise ValueError(
            f"FLATLAB_DEVICE is {wanted!r}; expected cpu, cuda, cuda:<number> or mps"
        ) from None
    present = {
        "cpu": 1,
        "cuda": torch.cuda.device_count(),
        "mps": int(torch.backends.mps.is_available()),
    }
    if (chosen.index or 0) >= present.get(chosen.type, 0):
        raise ValueError(
            f"FLATLAB_DEVICE is {wanted!r}, but this machine has "
            + ", ".join(f"{count} {name}" for name, count in present.items())
        )
    return chosen


def check_dtype(dtype: torch.dtype | None, device: torch.device | str | None) -> None:
    """Refuse float64 on an MPS device, which has none; None is no demand."""
    if device and torch.device(device).type == "mps" and dtype == torch.float64:
        raise ValueError(
            "MPS devices have no float64: use dtype=torch.float32, "
            "or set FLATLAB_DEVICE=cpu"
        )


def double(values: torch.Tensor) -> torch.Tensor:
    """In float64 where the device has it, else in float32."""
    return values.float() if values.device.type == "mps" else values.double()


def scale() -> str:
    """The scale of the experiments, from ``FLATLAB_SCALE``.

    "smoke" (seconds), "laptop" (the default) or "gpu".
    """
    chosen = os.environ.get("FLATLAB_SCALE", "").strip() or "laptop"
    if chosen not in SCALES:
        raise ValueError(f"FLATLAB_SCALE is {chosen!r}; expected {', '.join(SCALES)}")
    return chosen


def scaled(*, smoke: _T, laptop: _T, gpu: _T) -> _T:
    """Choose between three values by the scale, in sight of the reader.

    Args:
        smoke: the value for a run of seconds that only shows the code works.
        laptop: the value behind the rendered book.
        gpu: the value for a machine with a GPU.
    """
    return {"smoke": smoke, "laptop": laptop, "gpu": gpu}[scale()]


def needs(package: str, extra: str = "course") -> ModuleType:
    """Import an optional package, or say how to install what the course needs."""
    try:
        return importlib.import_module(package)
    except ImportError as error:
        raise ImportError(
            f"this needs {package}, which is not part of flatlab itself: "
            f'pip install "flatlab[{extra}]"'
        ) from error
