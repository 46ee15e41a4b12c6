"""A progress bar where somebody is watching, and nothing elsewhere."""

import os
import sys
from collections.abc import Iterable, Iterator
from typing import Any


class _Silent:
    """The calls of a bar, without output."""

    def __init__(self, iterable: Iterable):
        self.iterable = iterable

    def __iter__(self) -> Iterator:
        return iter(self.iterable)

    def __enter__(self) -> "_Silent":
        return self

    def __exit__(self, *_) -> None:
        return None

    def update(self, steps: int = 1) -> None: ...


def wanted() -> bool:
    """Whether progress is shown: in a terminal or a notebook, not in a file.

    ``FLATLAB_PROGRESS=0`` switches it off, ``FLATLAB_PROGRESS=1`` on.
    """
    said = os.environ.get("FLATLAB_PROGRESS", "").strip()
    if said:
        return said != "0"
    # A kernel has no terminal, so sys.stderr.isatty() alone would miss notebooks.
    return "ipykernel" in sys.modules or sys.stderr.isatty()


def progress(work: Any, label: str = "") -> Any:
    """Show how far a loop is, where somebody is watching and tqdm is installed.

    Args:
        work: an iterable to go through, or a number of steps to be counted with
            ``update(steps)`` inside a ``with`` block.
        label: a few words shown in front of the bar.
    """
    counting = isinstance(work, int)
    if wanted():
        try:
            from tqdm.auto import tqdm
        except ImportError:
            pass
        else:
            # leave=False: a finished bar would stay in the notebook's saved output.
            # delay: what is done within a second needs no bar, unless asked for.
            delay = 0 if os.environ.get("FLATLAB_PROGRESS") else 1
            shown = {"desc": label, "leave": False, "delay": delay}
            return tqdm(total=work, **shown) if counting else tqdm(work, **shown)
    return _Silent(range(work) if counting else work)
