"""One style for every figure, and figures that show how far to trust them.

Colours can be told apart by people who confuse some, and no two curves differ by colour
alone: the line style and the marker change with it. Notebooks show figures as SVG.
Backgrounds are opaque, so that figures can be read in a dark notebook; the book's style
sheet turns them dark with the page.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
from torch import Tensor

from flatlab.environment import needs
from flatlab.intervals import Interval, mean_interval

if TYPE_CHECKING:  # matplotlib is imported where it draws
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Okabe and Ito's palette, without the yellow that is too faint on white.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#000000", "#E69F00", "#56B4E9")
LINES = ("-", "--", "-.", ":", (0, (5, 1, 1, 1, 1, 1)), (0, (8, 2)), (0, (3, 1, 1, 1)))
MARKERS = ("o", "s", "^", "D", "v", "P", "X")

STYLE = {
    "figure.figsize": (5.5, 3.8),
    "figure.dpi": 110,
    "figure.facecolor": "white",
    "figure.constrained_layout.use": True,
    "savefig.facecolor": "white",
    "svg.hashsalt": "flatlab",
    "axes.facecolor": "white",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.titlelocation": "left",
    "axes.titlesize": 13,
    "axes.labelsize": 13,
    "grid.color": "#dddddd",
    "font.size": 12,
    "xtick.labelsize": 12,
    "ytick.labelsize": 12,
    "legend.fontsize": 11,
    "legend.framealpha": 0.9,
    "lines.linewidth": 2.0,
    "lines.markersize": 5.0,
}


def use() -> None:
    """Draw all figures from now on in the book's style."""
    needs("matplotlib").rcParams.update(STYLE)
    shell = "IPython" in sys.modules and sys.modules["IPython"].get_ipython()
    if shell:
        from matplotlib_inline.config import InlineBackend

        shown = InlineBackend.instance(parent=shell)
        shown.print_figure_kwargs = {
            **shown.print_figure_kwargs,
            "metadata": {"Date": None},  # the same figure is the same file
        }
        shown.figure_formats = {"svg"}


def look(i: int) -> dict:
    """Colour, line style and marker of the i-th curve, as arguments of ``Axes.plot``.

    After seven the colours start again with other markers.
    """
    return {
        "color": COLOURS[i % len(COLOURS)],
        "linestyle": LINES[i % len(LINES)],
        "marker": MARKERS[(i + i // len(COLOURS)) % len(MARKERS)],
    }


def mean_band(ax: Axes, x, y, label: str = "", i: int = 0, **options) -> Interval:
    """Draw a mean over members with its 95 % interval as a band.

    Args:
        ax: matplotlib axes.
        x: (records,).
        y: (records, members).
        label: for the legend; the number of members is put behind it.
        i: position of the curve, which decides its look.
        options: of ``Axes.plot``.

    Returns:
        The ``Interval``, ``mean`` and ``half_width`` of shape (records,).
    """
    x, y = _array(x), _array(y)
    if x.ndim != 1 or y.ndim != 2 or len(x) != len(y):
        raise ValueError(
            "x must have shape (records,) and y (records, members), "
            f"got {x.shape} and {y.shape}"
        )
    found = mean_interval(y)
    # About ten markers along a curve, shifted so that those of two curves do not meet.
    every = max(1, len(x) // 10)
    drawn = {"markevery": (i % every, every), **look(i), **options}
    (line,) = ax.plot(x, found.mean, label=_counted(label, found.n), **drawn)
    if found.n > 1:
        colour = line.get_color()
        ax.fill_between(x, found.low, found.high, color=colour, alpha=0.2, lw=0)
    return found


def interval_points(
    ax: Axes, x, y, label: str = "", i: int = 0, **options
) -> tuple[Interval, Interval]:
    """Draw points whose 95 % intervals go both ways: x and y are (points, members)."""
    a, b = mean_interval(_array(x)), mean_interval(_array(y))
    halves = (v.half_width if v.n > 1 else None for v in (b, a))
    style = {**look(i), "linestyle": "none", "capsize": 3, **options}
    ax.errorbar(a.mean, b.mean, *halves, label=_counted(label, b.n), **style)
    return a, b


def interval_dots(
    ax: Axes, groups: Mapping, format: str | None = None
) -> dict[str, Interval]:
    """Draw one mean with its 95 % interval per group, over the members as small dots.

    Args:
        ax: matplotlib axes.
        groups: from label to values of shape (members,).
        format: if given, means are written beside their dots, as Python's ``format``
            takes it.
    """
    if not groups:
        raise ValueError("there is no group to draw")
    found = {}
    for row, (label, values) in enumerate(groups.items()):
        values = np.atleast_1d(_array(values))
        found[label] = here = mean_interval(values)
        style = look(row)
        colour = style["color"]
        # spread by position, not at random: the figure is the same every time
        spread = row + 0.18 + 0.12 * (np.arange(here.n) % 2)
        ax.plot(values, spread, ".", color=colour, alpha=0.5, ms=5)
        half = here.half_width if here.n > 1 else None
        drawn = dict(fmt=style["marker"], color=colour, capsize=4, ms=7)
        ax.errorbar(here.mean, row, xerr=half, **drawn)
        if format is not None:
            above = dict(xytext=(0, 7), textcoords="offset points", ha="center")
            text = f"{here.mean:{format}}"
            ax.annotate(text, (here.mean, row), fontsize=11, **above)
    labels = [_counted(name, found[name].n) for name in groups]
    ax.set_yticks(range(len(groups)), labels)
    ax.set_ylim(len(groups) - 0.4, -0.75)
    return found


def paired_differences(
    ax: Axes, groups: Mapping, baseline, format: str | None = None
) -> dict[str, Interval]:
    """Draw by how much each group differs from a baseline, member by member.

    A pair shares its seed, so what varies between seeds alone cancels, and the interval
    of the differences is the one that answers whether there is an effect.

    Args:
        ax: matplotlib axes.
        groups: from label to values of shape (members,), same seeds in the same order.
        baseline: values of shape (members,).
        format: as for ``interval_dots``.
    """
    base = np.atleast_1d(_array(baseline))
    differences = {}
    for label, values in groups.items():
        values = np.atleast_1d(_array(values))
        if values.shape != base.shape:
            raise ValueError(
                f"{label!r} has shape {values.shape}, the baseline {base.shape}: "
                "pairs need the same members"
            )
        differences[label] = values - base
    ax.axvline(0, color="#555555", lw=1)
    return interval_dots(ax, differences, format)


def legend(fig: Figure, columns: int = 2, place: str = "lower", **options) -> None:
    """Put a legend below a figure, or with ``place="upper"`` above; each name once."""
    named = {}
    for ax in fig.axes:
        for handle, name in zip(*ax.get_legend_handles_labels(), strict=True):
            named.setdefault(name, handle)
    where = f"outside {place} center"
    fig.legend(named.values(), named.keys(), loc=where, ncols=columns, **options)


def _array(values) -> np.ndarray:
    if isinstance(values, Tensor):
        values = values.detach().cpu()
    return np.asarray(values, dtype=np.float64)


def _counted(label: str, n: int) -> str:
    return f"{label} (n = {n})".strip()
