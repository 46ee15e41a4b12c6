"""A progress bar where somebody is watching, and nothing elsewhere."""

import os
import sys
from collections.abc import Iterable, Iterator
from typing import Any


class _Silent:
    """What ``progress`` gives when nobody watches: the same calls, no output."""

    def __init__(self, iterable: Iterable):
        self.iterable = iterable

    def __iter__(self) -> Iterator:
        return iter(self.iterable)

    def __enter__(self) -> "_Silent":
        return self

    def __exit__(self, *_) -> None:
        return None

    def update(self, steps: int = 1) -> None:
        """Count steps that are done."""

    def set_postfix_str(self, text: str) -> None:
        """Show a short text behind the bar."""


def wanted() -> bool:
    """Say whether progress should be shown.

    ``FLATLAB_PROGRESS=0`` switches it off, ``FLATLAB_PROGRESS=1`` on; otherwise it is
    shown in a terminal and in a notebook, and not where output goes to a file. (The
    book is built with it off.)

    Returns:
        A bool.
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
            ``update`` inside a ``with`` block.
        label: a few words shown in front of the bar.

    Returns:
        An object that can be iterated over, used in a ``with`` block, and has
        ``update(steps)`` and ``set_postfix_str(text)``.
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
