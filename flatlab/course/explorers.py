"""Explorers: figures that respond, in a notebook and in a page without a kernel.

Each function takes arrays that were measured, packs them into a widget and returns it;
what a reader then moves is computed in the browser. Put the call last in a cell that
has drawn a static figure: paper, and readers without scripts, keep that figure. A
widget's ``values`` say where its controls are, and move them when changed. Without
anywidget installed the functions warn and return None, so that a notebook runs on.
"""

import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
from torch import Tensor

from flatlab.intervals import mean_interval

_FOLDER = Path(__file__).parent / "explorers"


@dataclass(frozen=True)
class Panel:
    """One part of ``explore``; made by ``lines``, ``along`` and ``pictures``."""

    slider: str | None  # the one that its arrays have an axis for; None for all
    pack: Callable[[Mapping], dict]  # for the JavaScript, from these sliders' values


# -------------------------------------------------------------------------- packing


def _numbers(name, values, ndim=None, gaps=False) -> np.ndarray:
    """A float64 array of finite numbers; with ``gaps`` NaN stands for what is none."""
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


def _mean_and_half(values) -> tuple[np.ndarray, np.ndarray | None]:
    """Mean and half width of its interval over the last axis, NaN where any is."""
    found, gap = mean_interval(np.nan_to_num(values)), np.isnan(values).any(-1)
    mean, half = (np.where(gap, np.nan, v) for v in (found.mean, found.half_width))
    return mean, half if found.n > 1 else None


# -------------------------------------------------------------------------- explore


def lines(x, series, *, xlabel, ylabel, log_x=False, limits=None) -> Panel:
    """A part of ``explore`` with curves over x, other ones per slider position.

    Args:
        x: (points,) what the curves run over.
        series: dict from name to values (sliders..., points) or (sliders..., points,
            members); members are drawn as mean and 95 % interval, NaN as a gap.
        xlabel: name of the horizontal axis, with its unit.
        ylabel: name of the vertical axis, with its unit.
        log_x: whether the horizontal axis is logarithmic.
        limits: (low, high) of the vertical axis; by default all values fit.
    """
    x = _numbers("x", x, 1)

    def pack(sliders):
        shape = (*map(len, sliders.values()), len(x))
        curves = _pack_curves(x, series, shape, log_x, limits)
        return {"kind": "lines", "xlabel": xlabel, "y": ylabel, **curves}

    return Panel(None, pack)


def along(slider, series, *, ylabel, log_x=False, limits=None, rules=()) -> Panel:
    """A part of ``explore`` with curves over one slider, marked where it stands.

    Args:
        slider: name of the slider, whose values must be numbers.
        series: dict from name to (positions,) or (positions, members) values, drawn as
            by ``lines``.
        ylabel: name of the vertical axis, with its unit.
        log_x: whether the horizontal axis is logarithmic.
        limits: (low, high) of the vertical axis; by default all values fit.
        rules: heights of horizontal lines.
    """

    def pack(sliders):
        x = _numbers(slider, sliders[slider], 1)
        curves = _pack_curves(x, series, x.shape, log_x, limits, rules)
        return {"kind": "along", "xlabel": slider, "y": ylabel, **curves}

    return Panel(slider, pack)


def pictures(images, *, title, captions=None, range=(0.0, 1.0)) -> Panel:
    """A part of ``explore`` with pictures, other ones per slider position.

    Args:
        images: (sliders..., pictures, height, width), or with a last axis of 3 colours.
        title: what the pictures are.
        captions: strings in nested lists, (sliders..., pictures).
        range: (low, high), drawn black and white; what is outside is cut off.
    """
    images, (low, high) = _numbers(title, images), map(float, range)
    pixels = np.rint(255 * np.clip((images - low) / (high - low), 0, 1))

    def pack(sliders):
        shape = tuple(map(len, sliders.values()))
        count, *size = images.shape[len(shape) :]
        said = np.full((*shape, count), "") if captions is None else captions
        return {
            "kind": "pictures",
            "y": title,
            "pixels": _pack(pixels.reshape(*shape, -1), "u1"),
            "captions": np.asarray(said, dtype=str).reshape(-1, count).tolist(),
            "count": count,
            "size": size[:2],
            "channels": 3 if size[2:] == [3] else 1,
        }

    return Panel(None, pack)


def explore(sliders, panels, *, title, start=None):
    """Sliders over measured series and pictures.

    Args:
        sliders: dict from name to the slider's values, numbers or strings; the first
            is the first axis of the arrays, and so on.
        panels: list of ``lines``, ``along`` and ``pictures``.
        title: a line above the explorer.
        start: dict from slider to the value where it starts; by default the first.
    """
    texts = {name: list(map(_text, values)) for name, values in sliders.items()}
    begin = {name: own[0] for name, own in texts.items()}
    begin |= {name: _text(value) for name, value in (start or {}).items()}
    parts = []
    for part in panels:
        own = [part.slider] if part.slider else list(sliders)
        over = [list(sliders).index(name) for name in own]
        parts.append(part.pack({name: sliders[name] for name in own}) | {"over": over})
    return _explorer(
        "explore",
        title,
        {
            f"slider{i}": t.index(begin[name])
            for i, (name, t) in enumerate(texts.items())
        },
        sliders=[{"label": name, "texts": own} for name, own in texts.items()],
        panels=parts,
    )


def _pack_curves(x, series, expected, log_x, limits, rules=()) -> dict:
    """Curves of the shape ``expected`` or with members behind, and their axes."""
    packed, shown = [], [np.array(rules, float)]
    for name, values in series.items():
        values = _numbers(name, values, gaps=True)
        if values.shape != expected and values.shape[:-1] != expected:
            raise ValueError(
                f"{name} has shape {values.shape}, expected {expected}, or that with "
                "a last axis of members"
            )
        several = values.shape != expected
        mean, half = _mean_and_half(values) if several else (values, None)
        shown.append(mean.ravel())
        both = {"mean": _pack(mean), "half": None if half is None else _pack(half)}
        packed.append({"name": name, **both})
    if limits is None:
        shown = np.concatenate(shown)
        low, high = np.nanmin(shown), np.nanmax(shown)
        room = 0.04 * (high - low) or 0.5
        limits = low - room, high + room
    return {
        "x": _pack(x),
        "series": packed,
        "log": bool(log_x),
        "rules": list(rules),
        "xlim": [float(x.min()), float(x.max())],
        "ylim": [float(v) for v in limits],
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


def loss_surface(surfaces, *, title):
    """A measured two-dimensional surface: drag a point, look along any direction.

    Between its points the surface is interpolated linearly in each direction. Colours
    and levels are the same for all surfaces, on a logarithmic scale.

    Args:
        surfaces: dict from network, for instance "batch 10", to a dict from kind of
            directions, for instance "filter-normalised", to a ``Plane`` of one network
            or a triple of alphas (A,), betas (B,) and losses (A, B), at least 0. All
            networks have the same kinds.
        title: a line above the explorer.
    """
    networks = list(surfaces)
    kinds = list(surfaces[networks[0]])
    return _explorer(
        "loss_surface",
        title,
        {"network": 0, "directions": 0, "angle": 18, "x": 0.0, "y": 0.0},
        networks=networks,
        directions=kinds,
        surfaces=[
            [_pack_surface(name, surfaces[name][kind]) for kind in kinds]
            for name in networks
        ],
        xlabel="first direction",
        ylabel="second direction",
    )


# ---------------------------------------------------------------------- bound_terms


def bound_terms(radii, worst_losses, *, norm, n, k, delta=0.05):
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


def asam_picture(*, product=1.5, target=1.0, rho=0.4):
    """SAM's circle and ASAM's ellipse around two weights, computed in the browser.

    The loss is (w1 w2 - target)², a function of the product alone, as in the example of
    Kwon et al. (2021), section 3. The explorer shows the points of highest loss in
    ``fl.ball(rho)`` and ``fl.adaptive_ball(rho)``.

    Args:
        product: w1 w2, positive.
        target: where the loss is zero.
        rho: radius of both sets at first, between 0.04 and 0.5.
    """
    place = round(50 * rho) - 2  # radii go in steps of a fiftieth
    return _explorer(
        "asam_picture",
        "A circle and an ellipse",
        {"place": 0.0, "circle": place, "ellipse": place},
        product=float(product),
        target=float(target),
        reach=2.5,  # the hyperbola's ends, in square roots of the product
    )


# ------------------------------------------------------------------------- sam_step


def sam_step(plane, *, radii, rates, start, steps, title, xlabel, ylabel):
    """SAM's step up and its step down on a measured surface.

    Both are the steps of the surface restricted to the plane, whose loss and gradient
    are interpolated by cubics. The ball is a circle in the plane if its directions are
    orthogonal and of unit length, as eigenvectors are.

    Args:
        plane: a ``Plane`` of one network, or alphas (A,), betas (B,), losses (A, B).
        radii: radii to choose from, 0 for the plain gradient alone.
        rates: learning rates to choose from.
        start: (x, y) where the weights are at first.
        steps: how many steps there are where the reader lets both methods go on; of
            these the mean of the last ten is drawn.
        title: a line above the explorer.
        xlabel: name of the first direction.
        ylabel: name of the second.
    """
    x, y = (float(v) for v in start)
    radii, rates = _numbers("radii", radii, 1), _numbers("rates", rates, 1)
    positions = {"rho": len(radii) // 3, "rate": len(rates) // 2, "walk": False}
    return _explorer(
        "sam_step",
        title,
        positions | {"x": x, "y": y},
        surface=_pack_surface("the plane", plane),
        radii=radii.tolist(),
        rates=rates.tolist(),
        steps=int(steps),
        xlabel=xlabel,
        ylabel=ylabel,
    )


# ------------------------------------------------------------------------ rescaling


def rescaling(plane, alphas, measures, *, radius, window, xlabel, ylabel):
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
        radius: of the circle around the weights.
        window: half width of what is shown. With alphas up to a, a plane a times as
            wide leaves no place unmeasured.
        xlabel: name of the first direction.
        ylabel: name of the second.
    """
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
    return _explorer(
        "rescaling",
        "The same function, stretched",
        {"alpha": 30},  # the middle of the slider
        surface=_pack_surface("the plane", plane),
        alphas=_pack(alphas, "f8"),
        measures=rows,
        radius=float(radius),
        window=float(window),
        xlabel=xlabel,
        ylabel=ylabel,
    )


# ---------------------------------------------------------------- information_plane


def information_plane(planes, *, choices, layers, limits):
    """Layers in the information plane over the epochs.

    Args:
        planes: dict from a tuple with one option for each of ``choices`` to a triple of
            epochs (snapshots,), rising, and of I(X;T) and I(T;Y) in bits, of shape
            (snapshots, layers) or (snapshots, members, layers), which become mean and
            95 % interval. Not all combinations need be there.
        choices: names of what can be chosen, such as ("activation", "bins").
        layers: names.
        limits: (H(X), H(Y)) in bits, the ends of the axes.
    """
    options = [
        list(dict.fromkeys(key[i] for key in planes)) for i in range(len(choices))
    ]
    packed = []
    for key, (epochs, *both) in planes.items():
        one = {
            "at": [known.index(o) for known, o in zip(options, key, strict=True)],
            "epochs": _pack(_numbers("epochs", epochs, 1)),
        }
        for name, values in zip(("xt", "ty"), both, strict=True):
            mean, half = _numbers(name, values), None
            if mean.ndim == 3:
                mean, half = _mean_and_half(np.moveaxis(mean, 1, -1))
            one[name] = _pack_rounded(mean)
            one[f"{name}_half"] = None if half is None else _pack_rounded(half)
        packed.append(one)
    first = {f"choice{i}": option for i, option in enumerate(packed[0]["at"])}
    longest = max(one["epochs"]["shape"][0] for one in packed)
    return _explorer(
        "information_plane",
        "The information plane",
        first | {"epoch": longest - 1, "trails": True},
        planes=packed,
        choices=[
            {"label": label, "options": [_text(o) for o in known]}
            for label, known in zip(choices, options, strict=True)
        ],
        layers=list(layers),
        limits=[float(v) for v in limits],
    )


# -------------------------------------------------------------------------- scatter


def scatter(measures, gaps, axes, *, ylabel):
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
    settings = []
    for name, values in axes.items():
        different, groups = np.unique(np.asarray(values), return_inverse=True)
        texts = [_text(v) for v in different]
        settings.append({"name": name, "groups": _pack(groups, "u1"), "texts": texts})
    return _explorer(
        "scatter",
        "Which measure ranks the networks?",
        {"measure": 0, "axis": 0},
        measures=[_column(m, _numbers(m, v, 1)) for m, v in measures.items()],
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
