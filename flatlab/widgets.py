"""Explorers: figures that respond, in a notebook and in a page without a kernel.

Each function takes arrays that were measured, packs them into a widget and returns it;
what a reader then moves is computed in the browser. Put the call last in a cell that
has drawn a static figure: paper, and readers without scripts, keep that figure. A
widget's ``values`` say where its controls are, and move them when changed. Without
anywidget installed the functions warn and return None, so that a notebook runs on.
"""

import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
from torch import Tensor

from flatlab.intervals import mean_interval

_FOLDER = Path(__file__).parent / "explorers"


@dataclass(frozen=True)
class Panel:
    """One part of ``explore``; made by ``lines``, ``along`` and ``pictures``.

    Attributes:
        kind: "lines", "along" or "pictures".
        title: what is on the vertical axis, or above the pictures.
        content: what the part shows, as it was given.
    """

    kind: str
    title: str
    content: dict


# -------------------------------------------------------------------------- packing


def _numbers(name, values, ndim=None, gaps=False) -> np.ndarray:
    """A float64 array of finite numbers, from tensors, arrays or lists.

    With ``gaps`` NaN may stand for what does not exist.
    """
    if isinstance(values, Tensor):
        values = values.detach().cpu().numpy()
    array = np.asarray(values, dtype=np.float64)
    if ndim is not None and array.ndim != ndim:
        raise ValueError(
            f"{name} must have {ndim} axes, got an array of shape {array.shape}"
        )
    finite = np.isfinite(array) | (gaps & np.isnan(array))
    if not array.size or not finite.all():
        raise ValueError(f"{name} must hold finite numbers, got {array}")
    return array


def _pack(array, kind="f4") -> dict:
    """An array as the shared JavaScript unpacks it."""
    array = np.ascontiguousarray(array, "<" + kind if kind != "u1" else kind)
    return {"shape": list(array.shape), "type": kind, "bytes": array.tobytes()}


def _pack_rounded(array) -> dict:
    """An array in 16 bits per number, for what is only drawn."""
    low, high = float(array.min()), float(array.max())
    share = (array - low) / (high - low) if high > low else np.zeros_like(array)
    packed = _pack(np.rint(65535 * share), "u2")
    return packed | {"low": low, "high": high}


@cache
def _explorer_class(name: str):
    """The widget class of one explorer: its module behind the shared part."""
    import anywidget
    import traitlets

    class Explorer(anywidget.AnyWidget):
        """An explorer; ``values`` holds the positions of its controls."""

        _esm = "\n".join(
            (_FOLDER / f"{part}.js").read_text("utf-8") for part in ("shared", name)
        )
        _css = (_FOLDER / "explorers.css").read_text("utf-8")
        data = traitlets.Dict().tag(sync=True)
        values = traitlets.Dict().tag(sync=True)

        def __repr__(self):
            return f"<explorer {name}: {self.data['title']}>"

    return Explorer


def _explorer(name, title, hint, values, **data):
    try:
        explorer = _explorer_class(name)
    except ImportError:
        warnings.warn(
            "anywidget is not installed, so there is no explorer here", stacklevel=3
        )
        return None
    return explorer(data={"title": title, "hint": hint, **data}, values=values)


def _text(value) -> str:
    return value if isinstance(value, str) else f"{float(value):.4g}"


def _limits(arrays, log, given=None) -> list[float]:
    """Ends of an axis that shows all arrays, with some room on a linear one."""
    if given is not None:
        low, high = map(float, given)
    else:
        low = min(float(np.nanmin(a)) for a in arrays)
        high = max(float(np.nanmax(a)) for a in arrays)
        room = 0.0 if log else 0.04 * (high - low)
        low, high = low - room, high + room
    if log and low <= 0:
        raise ValueError(f"a logarithmic axis needs positive values, got {low}")
    if low == high:
        low, high = (low / 2, high * 2) if log else (low - 0.5, high + 0.5)
    if not low < high:
        raise ValueError(f"limits must rise, got {given}")
    return [low, high]


# -------------------------------------------------------------------------- explore


def lines(x, series, *, xlabel, ylabel, log_x=False, limits=None, rules=()) -> Panel:
    """A part of ``explore`` with curves over x, one picture per slider position.

    Args:
        x: (points,) what the curves run over.
        series: dict from name to values (sliders..., points) or (sliders..., points,
            members); members are drawn as mean and 95 % interval, NaN as a gap.
        xlabel: name of the horizontal axis, with its unit.
        ylabel: name of the vertical axis, with its unit.
        log_x: whether the horizontal axis is logarithmic.
        limits: (low, high) of the vertical axis; by default all values fit.
        rules: heights of horizontal lines.

    Returns:
        A ``Panel``.
    """
    content = dict(x=x, series=series, xlabel=xlabel, log=log_x, limits=limits)
    return Panel("lines", ylabel, content | {"rules": list(rules)})


def along(slider, series, *, ylabel, log_x=False, limits=None, rules=()) -> Panel:
    """A part of ``explore`` with curves over one slider, marked where it stands.

    Args:
        slider: name of the slider, whose values must be numbers.
        series: dict from name to values (sliders...) or (sliders..., members); members
            are drawn as mean and 95 % interval.
        ylabel: name of the vertical axis, with its unit.
        log_x: whether the horizontal axis is logarithmic.
        limits: (low, high) of the vertical axis; by default all values fit.
        rules: heights of horizontal lines.

    Returns:
        A ``Panel``.
    """
    content = dict(slider=slider, series=series, log=log_x, limits=limits)
    return Panel("along", ylabel, content | {"rules": list(rules)})


def pictures(images, *, title, captions=None, range=(0.0, 1.0)) -> Panel:
    """A part of ``explore`` with pictures, other ones per slider position.

    Args:
        images: (sliders..., pictures, height, width), or with a last axis of 3 colours.
        title: what the pictures are.
        captions: strings in nested lists, (sliders..., pictures).
        range: (low, high), drawn black and white; what is outside is cut off.

    Returns:
        A ``Panel``.
    """
    content = dict(images=images, captions=captions, range=range)
    return Panel("pictures", title, content)


def explore(sliders, panels, *, title, hint="Move the sliders.", start=None):
    """Sliders over measured series and pictures.

    Args:
        sliders: dict from name to the slider's values, numbers or strings; the first
            is the first axis of every array, and so on.
        panels: list of ``lines``, ``along`` and ``pictures``.
        title: a line above the explorer.
        hint: what to do, and what the pictures show.
        start: dict from slider to the value where it starts; by default the first.

    Returns:
        A widget, or None (with a warning) where anywidget is not installed.

    Raises:
        TypeError: a panel is no ``Panel``.
        ValueError: there is no slider or panel, an array does not have the axes of the
            sliders, or holds NaN or infinite values, or ``start`` is no value.
    """
    if not sliders or not panels:
        raise ValueError("explore needs at least one slider and one panel")
    shape = tuple(len(values) for values in sliders.values())
    if 0 in shape:
        raise ValueError("every slider needs at least one value")
    given = dict(start or {})
    positions = {}
    packed = []
    for i, (name, values) in enumerate(sliders.items()):
        texts = [_text(v) for v in values]
        wanted = _text(given.pop(name)) if name in given else texts[0]
        if wanted not in texts:
            raise ValueError(f"{name} has no value {wanted}; it has {texts}")
        positions[f"slider{i}"] = texts.index(wanted)
        packed.append({"label": name, "texts": texts})
    if given:
        raise ValueError(f"start names no slider: {list(given)}")
    parts = []
    for part in panels:
        if not isinstance(part, Panel):
            raise TypeError(f"panels must be made by lines, along, pictures: {part!r}")
        pack = _pack_pictures if part.kind == "pictures" else _pack_curves
        parts.append(pack(part, sliders, shape))
    return _explorer("explore", title, hint, positions, sliders=packed, panels=parts)


def _pack_curves(part: Panel, sliders: Mapping, shape) -> dict:
    content, packed = part.content, {"kind": part.kind, "y": part.title}
    if part.kind == "lines":
        x = _numbers("x", content["x"], 1)
        expected, packed["xlabel"] = (*shape, len(x)), content["xlabel"]
    else:
        names = list(sliders)
        if content["slider"] not in names:
            raise ValueError(f"no slider is called {content['slider']!r}: {names}")
        packed["slider"] = names.index(content["slider"])
        x = _numbers(content["slider"], sliders[content["slider"]], 1)
        expected, packed["xlabel"] = shape, content["slider"]
    if not content["series"]:
        raise ValueError(f"the panel {part.title!r} has no series")
    series, ends = [], [np.array(content["rules"], float)] if content["rules"] else []
    for name, values in content["series"].items():
        values = _numbers(name, values, gaps=True)
        if values.shape == expected:
            mean, half = values, None
        elif values.shape[:-1] == expected:
            found = mean_interval(np.nan_to_num(values))
            gap = np.isnan(values).any(-1)
            mean = np.where(gap, np.nan, found.mean)
            half = np.where(gap, np.nan, found.half_width) if found.n > 1 else None
        else:
            raise ValueError(
                f"{name} has shape {values.shape}, expected {expected}, or that with "
                "a last axis of members"
            )
        ends.append(mean)
        both = {"mean": _pack(mean), "half": None if half is None else _pack(half)}
        series.append({"name": name, **both})
    return packed | {
        "x": _pack(x),
        "series": series,
        "log": bool(content["log"]),
        "rules": content["rules"],
        "xlim": _limits([x], content["log"], (x.min(), x.max())),
        "ylim": _limits(ends, False, content["limits"]),
    }


def _pack_pictures(part: Panel, sliders: Mapping, shape) -> dict:
    images = _numbers(part.title, part.content["images"])
    lead, rest = images.shape[: len(shape)], images.shape[len(shape) :]
    colours = len(rest) == 4 and rest[-1] == 3
    if lead != shape or not (len(rest) == 3 or colours):
        raise ValueError(
            f"the images have shape {images.shape}, expected {shape} and then "
            "(pictures, height, width), with or without a last axis of 3 colours"
        )
    low, high = part.content["range"]
    captions = part.content["captions"]
    if captions is None:
        captions = np.full((*shape, rest[0]), "")
    captions = np.asarray(captions, dtype=str)
    if captions.shape != (*shape, rest[0]):
        raise ValueError(
            f"the captions have shape {captions.shape}, expected {(*shape, rest[0])}"
        )
    pixels = np.rint(255 * np.clip((images - low) / (high - low), 0, 1))
    return {
        "kind": "pictures",
        "y": part.title,
        "pixels": _pack(pixels.reshape(*shape, -1), "u1"),
        "captions": captions.reshape(-1, rest[0]).tolist(),
        "count": rest[0],
        "size": list(rest[1:3]),
        "channels": 3 if colours else 1,
    }


# --------------------------------------------------------------------- loss_surface


def _pack_surface(name, plane) -> dict:
    """A ``Plane`` of one network, or alphas, betas and losses."""
    if hasattr(plane, "losses"):
        plane = plane.alphas, plane.betas, plane.losses
    alphas, betas, losses = plane
    alphas, betas = _numbers("alphas", alphas, 1), _numbers("betas", betas, 1)
    losses = _numbers(f"the losses of {name}", losses, 2)
    if losses.shape != (len(alphas), len(betas)) or min(losses.shape) < 2:
        raise ValueError(
            f"the losses of {name} have shape {losses.shape}, expected "
            f"{(len(alphas), len(betas))}, and at least two points each way"
        )
    for axis in (alphas, betas):
        steps = np.diff(axis)
        if not np.allclose(steps, steps.mean(), rtol=1e-3) or steps.mean() <= 0:
            raise ValueError(f"coordinates must rise in equal steps, got {axis}")
    return {"alphas": _pack(alphas), "betas": _pack(betas), "losses": _pack(losses)}


def loss_surface(
    surfaces,
    *,
    title="The loss on a plane",
    hint="Drag the point, or move it with the arrow keys, and turn the line.",
    label="network",
    xlabel="first direction",
    ylabel="second direction",
    unit="nats",
    points=(),
):
    """A measured two-dimensional surface: drag a point, look along any direction.

    Between its points the surface is interpolated linearly in each direction. Colours
    and levels are the same for all surfaces, on a logarithmic scale.

    Args:
        surfaces: dict from network, for instance "batch 10", to a dict from kind of
            directions, for instance "filter-normalised", to a ``Plane`` of one network
            or a triple of alphas (A,), betas (B,) and positive losses (A, B). All
            networks have the same kinds.
        title: a line above the explorer.
        hint: what to do.
        label: of the switch between networks.
        xlabel: name of the first direction.
        ylabel: name of the second direction.
        unit: of the loss.
        points: triples (x, y, name) of points to mark, such as the other network.

    Returns:
        A widget, or None (with a warning) where anywidget is not installed.

    Raises:
        ValueError: there is no surface, kinds differ between networks, or shapes,
            coordinates or losses are wrong.
    """
    networks = list(surfaces)
    if not networks or not surfaces[networks[0]]:
        raise ValueError("loss_surface needs at least one surface")
    kinds = list(surfaces[networks[0]])
    packed = []
    for name in networks:
        if list(surfaces[name]) != kinds:
            raise ValueError(
                f"{name} has the directions {list(surfaces[name])}, expected {kinds}"
            )
        packed.append([_pack_surface(name, surfaces[name][kind]) for kind in kinds])
    for row in packed:
        for one in row:
            if np.frombuffer(one["losses"]["bytes"], "<f4").min() <= 0:
                raise ValueError("losses must be positive for a logarithmic scale")
    return _explorer(
        "loss_surface",
        title,
        hint,
        {"network": 0, "directions": 0, "angle": 18, "x": 0.0, "y": 0.0},
        networks=networks,
        directions=kinds,
        surfaces=packed,
        label=label,
        xlabel=xlabel,
        ylabel=ylabel,
        unit=unit,
        points=[[float(x), float(y), str(name)] for x, y, name in points],
    )
