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
        over: names of the sliders that its arrays have axes for; None for all.
        content: what the part shows, as it was given.
    """

    kind: str
    title: str
    over: list | None
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


def _unpack(packed) -> np.ndarray:
    values = np.frombuffer(packed["bytes"], "<" + packed["type"])
    return values.reshape(packed["shape"])


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


def _explorer(name, title, values, **data):
    try:
        explorer = _explorer_class(name)
    except ImportError:
        warnings.warn(
            "anywidget is not installed, so there is no explorer here", stacklevel=3
        )
        return None
    return explorer(data={"title": title, **data}, values=values)


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
    if low == high:
        low, high = (low / 2, high * 2) if log else (low - 0.5, high + 0.5)
    return [low, high]


# -------------------------------------------------------------------------- explore


def lines(
    x, series, *, xlabel, ylabel, over=None, log_x=False, limits=None, rules=()
) -> Panel:
    """A part of ``explore`` with curves over x, one picture per slider position.

    Args:
        x: (points,) what the curves run over.
        series: dict from name to values (sliders..., points) or (sliders..., points,
            members); members are drawn as mean and 95 % interval, NaN as a gap.
        xlabel: name of the horizontal axis, with its unit.
        ylabel: name of the vertical axis, with its unit.
        over: names of the sliders that the arrays have axes for; by default all.
        log_x: whether the horizontal axis is logarithmic.
        limits: (low, high) of the vertical axis; by default all values fit.
        rules: heights of horizontal lines.
    """
    content = dict(x=x, series=series, xlabel=xlabel, log=log_x, limits=limits)
    return Panel("lines", ylabel, over, content | {"rules": list(rules)})


def along(
    slider, series, *, ylabel, over=None, log_x=False, limits=None, rules=()
) -> Panel:
    """A part of ``explore`` with curves over one slider, marked where it stands.

    Args:
        slider: name of the slider, whose values must be numbers.
        series: dict from name to values (sliders...) or (sliders..., members); members
            are drawn as mean and 95 % interval.
        ylabel: name of the vertical axis, with its unit.
        over: names of the sliders that the arrays have axes for; by default all.
        log_x: whether the horizontal axis is logarithmic.
        limits: (low, high) of the vertical axis; by default all values fit.
        rules: heights of horizontal lines.
    """
    content = dict(slider=slider, series=series, log=log_x, limits=limits)
    return Panel("along", ylabel, over, content | {"rules": list(rules)})


def pictures(images, *, title, captions=None, over=None, range=(0.0, 1.0)) -> Panel:
    """A part of ``explore`` with pictures, other ones per slider position.

    Args:
        images: (sliders..., pictures, height, width), or with a last axis of 3 colours.
        title: what the pictures are.
        captions: strings in nested lists, (sliders..., pictures).
        over: names of the sliders that the arrays have axes for; by default all.
        range: (low, high), drawn black and white; what is outside is cut off.
    """
    content = dict(images=images, captions=captions, range=range)
    return Panel("pictures", title, over, content)


def explore(sliders, panels, *, title, start=None):
    """Sliders over measured series and pictures.

    Args:
        sliders: dict from name to the slider's values, numbers or strings; the first
            is the first axis of the arrays, and so on.
        panels: list of ``lines``, ``along`` and ``pictures``.
        start: dict from slider to the value where it starts; by default the first.
        title: a line above the explorer.
    """
    given = dict(start or {})
    positions = {}
    packed = []
    for i, (name, values) in enumerate(sliders.items()):
        texts = [_text(v) for v in values]
        wanted = _text(given.pop(name)) if name in given else texts[0]
        positions[f"slider{i}"] = texts.index(wanted)
        packed.append({"label": name, "texts": texts})
    parts = []
    for part in panels:
        names = list(sliders) if part.over is None else list(part.over)
        own = {name: sliders[name] for name in names}
        pack = _pack_pictures if part.kind == "pictures" else _pack_curves
        packed_part = pack(part, own, tuple(map(len, own.values())))
        places = [list(sliders).index(name) for name in names]
        parts.append(packed_part | {"over": places})
    return _explorer("explore", title, positions, sliders=packed, panels=parts)


def _pack_curves(part: Panel, sliders: Mapping, shape) -> dict:
    content, packed = part.content, {"kind": part.kind, "y": part.title}
    if part.kind == "lines":
        x = _numbers("x", content["x"], 1)
        expected, packed["xlabel"] = (*shape, len(x)), content["xlabel"]
    else:
        names = list(sliders)
        packed["slider"] = names.index(content["slider"])
        x = _numbers(content["slider"], sliders[content["slider"]], 1)
        expected, packed["xlabel"] = shape, content["slider"]
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
    rest = images.shape[len(shape) :]
    colours = len(rest) == 4 and rest[-1] == 3
    low, high = map(float, part.content["range"])
    captions = part.content["captions"]
    if captions is None:
        captions = np.full((*shape, rest[0]), "")
    captions = np.asarray(captions, dtype=str)
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
    return {"alphas": _pack(alphas), "betas": _pack(betas), "losses": _pack(losses)}


def loss_surface(
    surfaces,
    *,
    title="The loss on a plane",
    xlabel="first direction",
    ylabel="second direction",
):
    """A measured two-dimensional surface: drag a point, look along any direction.

    Between its points the surface is interpolated linearly in each direction. Colours
    and levels are the same for all surfaces, on a logarithmic scale.

    Args:
        surfaces: dict from network, for instance "batch 10", to a dict from kind of
            directions, for instance "filter-normalised", to a ``Plane`` of one network
            or a triple of alphas (A,), betas (B,) and losses (A, B), at least 0. All
            networks have the same kinds.
        title: a line above the explorer.
        xlabel: name of the first direction.
        ylabel: name of the second.
    """
    networks = list(surfaces)
    kinds = list(surfaces[networks[0]])
    packed = []
    for name in networks:
        packed.append([_pack_surface(name, surfaces[name][kind]) for kind in kinds])
    return _explorer(
        "loss_surface",
        title,
        {"network": 0, "directions": 0, "angle": 18, "x": 0.0, "y": 0.0},
        networks=networks,
        directions=kinds,
        surfaces=packed,
        xlabel=xlabel,
        ylabel=ylabel,
    )


# ---------------------------------------------------------------------- bound_terms


def bound_terms(
    radii,
    worst_losses,
    *,
    norm,
    n,
    k,
    delta=0.05,
):
    """The terms of SAM's bound against rho, n and k, computed in the browser.

    The formulas are those of ``flatlab.bounds.sam_bound``. Between the measured radii
    the worst loss is interpolated linearly over the logarithm of rho.

    Args:
        radii: (r,) rising positive radii, at least two.
        worst_losses: (r,) or (r, members) max L_S(w + epsilon) in the ball of each
            radius, in [0, 1]; members are averaged.
        norm: Euclidean norm of w.
        n: training examples, at least 10; the slider reaches from a hundredth of it to
            a million times as many.
        k: weights; the slider reaches from a thousandth of it to ten thousand times as
            many.
        delta: probability with which the bound may fail.
    """
    radii, losses = _numbers("radii", radii, 1), _numbers("worst_losses", worst_losses)
    if losses.ndim == 2:
        losses = losses.mean(-1)
    below = min(20, int(10 * np.log10(n / 2)))  # the formula needs n > 1
    return _explorer(
        "bound_terms",
        "The terms of the bound",
        {"rho": 30, "n": below, "k": 30, "over": 0, "form": 0},
        radii=_pack(radii, "f8"),
        losses=_pack(losses, "f8"),
        norm=float(norm),
        n=float(n),
        k=float(k),
        delta=float(delta),
        below_n=below,
        above_n=60,
    )


# --------------------------------------------------------------------- asam_picture


def asam_picture(
    *,
    product=1.5,
    target=1.0,
    rho=0.4,
    reach=2.5,
):
    """SAM's circle and ASAM's ellipse around two weights, computed in the browser.

    The loss is (w1 w2 - target)², a function of the product alone, as in the example of
    Kwon et al. (2021), section 3. The explorer shows the points of highest loss in
    ``fl.ball(rho)`` and ``fl.adaptive_ball(rho)``.

    Args:
        product: w1 w2, positive.
        target: where the loss is zero.
        rho: radius of both sets at first, between 0.04 and 0.5.
        reach: how far along the hyperbola w goes: w1 from sqrt(product) / reach to
            sqrt(product) reach; more than 1.
    """
    place = round(50 * rho) - 2  # radii go in steps of a fiftieth
    values = {"place": 0.0, "circle": place, "ellipse": place}
    numbers = dict(product=product, target=target, reach=reach)
    numbers = {key: float(value) for key, value in numbers.items()}
    return _explorer("asam_picture", "A circle and an ellipse", values, **numbers)


# ------------------------------------------------------------------------- sam_step


def sam_step(
    plane,
    *,
    radii=None,
    rates=None,
    start=None,
    steps=30,
    title="Up, then down",
    xlabel="first direction",
    ylabel="second direction",
):
    """SAM's step up and its step down on a measured surface.

    Both are the steps of the surface restricted to the plane, whose loss and gradient
    are interpolated by cubics. The ball is a circle in the plane if its directions are
    orthogonal and of unit length, as eigenvectors are.

    Args:
        plane: a ``Plane`` of one network, or alphas (A,), betas (B,), losses (A, B).
        radii: radii to choose from, 0 for the plain gradient alone; by default up to
            half of the plane's half width.
        rates: learning rates to choose from; by default such that the steps are seen.
        start: (x, y) where the weights are at first; by default halfway to a corner.
        steps: how many steps there are where the reader lets both methods go on; of
            these the mean of the last ten is drawn.
        title: a line above the explorer.
        xlabel: name of the first direction.
        ylabel: name of the second.
    """
    packed = _pack_surface("the plane", plane)
    alphas, betas, losses = (_unpack(packed[key]) for key in packed)
    half = min(alphas[-1] - alphas[0], betas[-1] - betas[0]) / 2
    if radii is None:
        radii = half * np.linspace(0, 0.5, 26)
    if rates is None:
        slopes = np.gradient(losses.astype(float), alphas, betas)
        steep = np.hypot(*slopes).mean()
        rates = half / max(steep, 1e-12) * np.geomspace(0.03, 1.0, 16)
    radii, rates = _numbers("radii", radii, 1), _numbers("rates", rates, 1)
    if start is None:
        start = [axis[0] / 4 + 3 * axis[-1] / 4 for axis in (alphas, betas)]
    x, y = (float(v) for v in start)
    positions = {"rho": len(radii) // 3, "rate": len(rates) // 2, "walk": False}
    return _explorer(
        "sam_step",
        title,
        positions | {"x": x, "y": y},
        surface=packed,
        radii=radii.tolist(),
        rates=rates.tolist(),
        steps=int(steps),
        xlabel=xlabel,
        ylabel=ylabel,
    )


# ------------------------------------------------------------------------ rescaling


def rescaling(
    plane,
    alphas,
    measures,
    *,
    radius=None,
    window=None,
    xlabel="first layer",
    ylabel="second layer",
):
    """Rescaling of layers: the surface stretches, measures move, the function does not.

    The first direction of the plane must move the weights of the layer that is
    multiplied by alpha and nothing else, the second those of the layer that is divided.
    Then the surface around the rescaled weights is the measured one, stretched, and is
    drawn as far as it was measured. Between the measured alphas the measures are
    interpolated linearly in logarithms.

    Args:
        plane: a ``Plane`` of one network, or alphas (A,), betas (B,), losses (A, B).
        alphas: (a,) rising positive factors that include 1, and some on either side.
        measures: dict from name to (a,) or (a, members) positive values at every alpha;
            members are averaged after division by their value at alpha = 1.
        radius: of the circle around the weights; by default a quarter of the window.
        window: half width of what is shown; by default the plane's. With alphas up to
            a, a plane a times as wide as the window leaves no place unmeasured.
        xlabel: name of the first direction.
        ylabel: name of the second.
    """
    packed = _pack_surface("the plane", plane)
    x, y, _ = (_unpack(packed[key]) for key in packed)
    alphas = _numbers("alphas", alphas, 1)
    one = np.flatnonzero(np.isclose(alphas[1:-1], 1)) + 1
    if alphas[0] <= 0 or (np.diff(alphas) <= 0).any() or not len(one):
        raise ValueError(
            f"alphas must be positive, rise and include 1 and both sides, got {alphas}"
        )
    rows = []
    for name, values in measures.items():
        values = _numbers(name, values)
        relative = values / values[one[0]]
        if relative.ndim == 2:
            relative = relative.mean(-1)
        rows.append({"name": name, "values": _pack(relative)})
    if window is None:
        window = min(x[-1] - x[0], y[-1] - y[0]) / 2
    radius = window / 4 if radius is None else radius
    return _explorer(
        "rescaling",
        "The same function, stretched",
        {"alpha": 30},  # the middle of the slider
        surface=packed,
        alphas=_pack(alphas, "f8"),
        measures=rows,
        radius=float(radius),
        window=float(window),
        xlabel=xlabel,
        ylabel=ylabel,
    )


# ---------------------------------------------------------------- information_plane


def information_plane(
    planes,
    *,
    choices=(),
    layers=None,
    limits=None,
):
    """Layers in the information plane over the epochs.

    Args:
        planes: a triple of epochs (snapshots,), rising, and of I(X;T) and I(T;Y) in
            bits, of shape (snapshots, layers) or (snapshots, members, layers), which
            become mean and 95 % interval; or a dict of such triples, from a tuple with
            one option for each of ``choices``. Not all combinations need be there.
        choices: names of what can be chosen, such as ("activation", "bins").
        layers: names; by default "layer 1" and so on.
        limits: (H(X), H(Y)) in bits, the ends of the axes; by default the largest
            values.
    """
    if not isinstance(planes, Mapping):
        planes, choices = {(): planes}, ()
    keys = [key if isinstance(key, tuple) else (key,) for key in planes]
    options = [list(dict.fromkeys(key[i] for key in keys)) for i in range(len(choices))]
    packed, ends = [], []
    for key, (epochs, xt, ty) in zip(keys, planes.values(), strict=True):
        epochs = _numbers("epochs", epochs, 1)
        xt, ty = _numbers("I(X;T)", xt), _numbers("I(T;Y)", ty)
        layers = layers or [f"layer {i + 1}" for i in range(xt.shape[-1])]
        ends.append((xt.max(), ty.max()))
        one = {
            "at": [found.index(o) for found, o in zip(options, key, strict=True)],
            "epochs": _pack(epochs),
            "xt_half": None,
            "ty_half": None,
        }
        for name, values in (("xt", xt), ("ty", ty)):
            if values.ndim == 3:
                found = mean_interval(np.moveaxis(values, 1, -1))
                values = found.mean
                if found.n > 1:
                    one[f"{name}_half"] = _pack_rounded(found.half_width)
            one[name] = _pack_rounded(values)
        packed.append(one)
    if limits is None:
        limits = np.max(ends, 0)
    first = {f"choice{i}": option for i, option in enumerate(packed[0]["at"])}
    longest = max(one["epochs"]["shape"][0] for one in packed)
    return _explorer(
        "information_plane",
        "The information plane",
        first | {"epoch": longest - 1, "trails": True},
        planes=packed,
        choices=[
            {"label": label, "options": [_text(o) for o in found]}
            for label, found in zip(choices, options, strict=True)
        ],
        layers=list(layers),
        limits=[float(v) for v in limits],
    )


# -------------------------------------------------------------------------- scatter


def scatter(
    measures,
    gaps,
    axes,
    *,
    ylabel="generalization gap",
):
    """Many networks: any measure against the gap, with Kendall's rank correlation.

    Beside tau-b over all networks stands its mean over groups of networks that agree in
    the chosen setting; groups in which all are tied are left out.

    Args:
        measures: dict from name to (networks,) values.
        gaps: (networks,) what the measures should rank.
        axes: dict from name of a setting to (networks,) numbers or strings, at most 14
            different ones each.
        ylabel: what ``gaps`` are, with their unit.
    """
    gaps = _numbers("gaps", gaps, 1)
    columns, settings = [], []
    for name, values in measures.items():
        values = _numbers(name, values, 1)
        columns.append(_column(name, values))
    for name, values in axes.items():
        values = values.tolist() if hasattr(values, "tolist") else list(values)
        different = sorted(set(values))
        groups = _pack([different.index(v) for v in values], "u1")
        texts = [_text(v) for v in different]
        settings.append({"name": name, "groups": groups, "texts": texts})
    return _explorer(
        "scatter",
        "Which measure ranks the networks?",
        {"measure": 0, "axis": 0},
        measures=columns,
        gaps=_column(ylabel, gaps) | {"log": False, "values": _pack_rounded(gaps)},
        axes=settings,
        ylabel=ylabel,
    )


def _column(name, values) -> dict:
    """Values to draw, in 16 bits, and their ranks, from which tau is counted."""
    log = bool(values.min() > 0 and values.max() > 30 * values.min())
    ranks = np.unique(values, return_inverse=True)[1]
    drawn = _pack_rounded(np.log(values) if log else values)
    return {"name": name, "log": log, "values": drawn, "ranks": _pack(ranks, "u2")}
