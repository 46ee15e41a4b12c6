"""Explorers as Python sees them: what is packed, and what is refused."""

import builtins
import json
import threading
import time

import numpy as np
import pytest
import torch

import flatlab as fl
from flatlab.course import explorers
from flatlab.course.explorers import along
from flatlab.intervals import mean_interval

RATES = [0.0, 0.5, 1.0]


def unpacked(packed):
    """What the JavaScript makes of a packed array."""
    values = np.frombuffer(packed["bytes"], "<" + packed["type"])
    values = values.reshape(packed["shape"])
    if packed["type"] == "u2":
        values = packed["low"] + (packed["high"] - packed["low"]) * values / 65535
    return values


def explore(series=None, panels=None, **options):
    x = np.arange(1, 5)
    if panels is None:
        panels = [explorers.lines(x, {"a": series}, xlabel="epoch", ylabel="accuracy")]
    return explorers.explore({"p": RATES}, panels, title="Title", **options)


def test_members_become_mean_and_interval():
    values = np.random.default_rng(0).random((3, 4, 5))
    (panel,) = explore(torch.tensor(values)).data["panels"]
    found = mean_interval(values)
    (series,) = panel["series"]
    assert np.allclose(unpacked(series["mean"]), found.mean, atol=1e-6)
    assert np.allclose(unpacked(series["half"]), found.half_width, atol=1e-6)
    assert panel["ylim"][0] < found.mean.min() and panel["ylim"][1] > found.mean.max()
    assert panel["xlim"] == [1, 4]


def test_values_without_members_have_no_interval():
    values = np.arange(12.0).reshape(3, 4)
    (panel,) = explore(values).data["panels"]
    assert panel["series"][0]["half"] is None
    assert np.array_equal(unpacked(panel["series"][0]["mean"]), values)


def test_nan_is_a_gap():
    values = np.ones((3, 4, 2))
    values[0] = np.nan
    (panel,) = explore(values).data["panels"]
    mean = unpacked(panel["series"][0]["mean"])
    assert np.isnan(mean[0]).all() and (mean[1:] == 1).all()


def test_a_curve_along_a_slider_and_where_it_starts():
    panel = along("p", {"a": [1, 2, 3]}, ylabel="error", rules=[0.9])
    widget = explore(panels=[panel], start={"p": 0.5})
    assert widget.values == {"slider0": 1}
    (part,) = widget.data["panels"]
    assert part["slider"] == 0 and part["xlim"] == [0, 1] and part["rules"] == [0.9]
    assert unpacked(part["x"]).tolist() == RATES
    assert [s["texts"] for s in widget.data["sliders"]] == [["0", "0.5", "1"]]


def test_a_panel_may_know_only_some_of_the_sliders():
    both = explorers.lines([1, 2], {"a": np.ones((3, 2, 2))}, xlabel="x", ylabel="both")
    one = explorers.along("q", {"a": [1, 2]}, ylabel="one", over=["q"])
    widget = explorers.explore({"p": RATES, "q": [0, 1]}, [both, one], title="Two")
    first, second = widget.data["panels"]
    assert first["over"] == [0, 1]
    assert second["over"] == [1] and second["slider"] == 0
    with pytest.raises(ValueError, match="not all in"):
        explore(panels=[explorers.along("q", {}, ylabel="one", over=["q"])])


def test_pictures_are_cut_to_their_range():
    images = np.linspace(-1, 2, 3 * 2 * 4).reshape(3, 2, 2, 2)
    captions = [["a", "b"], ["c", "d"], ["e", "f"]]
    panel = explorers.pictures(images, title="digits", captions=captions)
    (part,) = explore(panels=[panel]).data["panels"]
    pixels = unpacked(part["pixels"])
    assert pixels.min() == 0 and pixels.max() == 255
    expected = np.rint(255 * images.clip(0, 1)).reshape(3, -1)
    assert np.array_equal(pixels, expected)
    assert part["captions"] == captions
    assert (part["count"], part["size"], part["channels"]) == (2, [2, 2], 1)
    ends = torch.tensor(1.0), torch.tensor(0.0)  # the other way round: ink on white
    ink = explorers.pictures(images, title="ink", range=ends)
    (part,) = explore(panels=[ink]).data["panels"]
    assert np.array_equal(unpacked(part["pixels"]), 255 - expected)
    colours = explorers.pictures(np.zeros((3, 1, 2, 2, 3)), title="colours")
    assert explore(panels=[colours]).data["panels"][0]["channels"] == 3


@pytest.mark.parametrize(
    ("change", "word"),
    [
        (dict(series=np.ones((3, 5))), r"expected \(3, 4\)"),
        (dict(series=np.full((3, 4), np.inf)), "finite"),
        (dict(panels=[]), "at least one"),
        (dict(series=np.ones((3, 4)), start={"q": 1}), "no slider"),
        (dict(series=np.ones((3, 4)), start={"p": 0.7}), "has no value 0.7"),
        (
            dict(panels=[explorers.along("q", {"a": [1, 2, 3]}, ylabel="")]),
            "no slider is called",
        ),
        (dict(panels=[explorers.along("p", {}, ylabel="error")]), "no series"),
        (
            dict(panels=[along("p", {"a": [1, 2, 3]}, ylabel="", log_x=True)]),
            "positive",
        ),
        (
            dict(panels=[along("p", {"a": [1, 2, 3]}, ylabel="", limits=(1, 0))]),
            "rise",
        ),
        (dict(panels=[explorers.pictures(np.ones((3, 2)), title="")]), "images have"),
        (
            dict(
                panels=[
                    explorers.pictures(
                        np.ones((3, 1, 2, 2)), title="", captions=[["a"]]
                    )
                ]
            ),
            "captions have",
        ),
    ],
)
def test_explore_refuses(change, word):
    with pytest.raises(ValueError, match=word):
        explore(**change)


def test_panels_are_made_by_functions():
    with pytest.raises(TypeError, match="made by"):
        explore(panels=["lines"])
    with pytest.raises(ValueError, match="at least one value"):
        explorers.explore({"p": []}, [explorers.lines], title="")


def grid(points=5):
    a = np.linspace(-1, 1, points)
    return a, a, 1 + a[:, None] ** 2 + 2 * a**2


def test_a_surface_is_packed_as_measured():
    a, _, losses = grid()
    net = fl.Network(fl.models.mlp(3, 4, 2))
    x, y = torch.randn(20, 3), torch.arange(20) % 2
    plane = fl.plane(fl.Loss(net, (x, y)), net.init(0), points=5)
    widget = explorers.loss_surface({"one": {"flat": grid(), "measured": plane}})
    first, second = widget.data["surfaces"][0]
    assert np.allclose(unpacked(first["alphas"]), a)
    assert np.allclose(unpacked(first["losses"]), losses)
    assert np.allclose(unpacked(second["losses"]), plane.losses)
    assert widget.data["directions"] == ["flat", "measured"]


@pytest.mark.parametrize(
    ("surfaces", "word"),
    [
        ({}, "at least one surface"),
        ({"a": {}}, "at least one surface"),
        ({"a": {"x": grid()}, "b": {"y": grid()}}, "expected"),
        ({"a": {"x": (*grid()[:2], np.ones((4, 5)))}}, "have shape"),
        ({"a": {"x": (*grid()[:2], -grid()[2])}}, "not be negative"),
        ({"a": {"x": (*grid()[:2], 0 * grid()[2])}}, "all zero"),
        ({"a": {"x": (grid()[0] ** 3, *grid()[1:])}}, "equal steps"),
        ({"a": {"x": (*grid()[:2], np.ones(5))}}, "2 axes"),
    ],
)
def test_loss_surface_refuses(surfaces, word):
    with pytest.raises(ValueError, match=word):
        explorers.loss_surface(surfaces)


def test_rounding_to_16_bits_is_invisible():
    values = np.random.default_rng(0).normal(size=(7, 3))
    back = unpacked(explorers._pack_rounded(values))
    assert np.abs(back - values).max() <= np.ptp(values) / 65535
    assert (unpacked(explorers._pack_rounded(np.ones(3))) == 1).all()


def test_without_anywidget_a_notebook_runs_on(monkeypatch):
    real = builtins.__import__

    def missing(name, *rest, **options):
        if name in ("anywidget", "ipywidgets"):
            raise ImportError(name)
        return real(name, *rest, **options)

    explorers._explorer_class.cache_clear()
    monkeypatch.setattr(builtins, "__import__", missing)
    with pytest.warns(UserWarning, match="not installed"):
        assert explore(np.ones((3, 4))) is None
    with pytest.warns(UserWarning, match="not installed"):
        assert explorers.live(None, {}, xlabel="", ylabel="") is None


def test_the_saved_state_is_small():
    widget = explore(np.ones((3, 4)))
    code = len(json.dumps([widget._esm, widget._css]))
    assert code < 45_000
    assert repr(widget) == "<explorer explore: Title>"


def test_the_bound_starts_at_the_numbers_given():
    losses = np.linspace(0.1, 0.9, 12).reshape(6, 2)
    widget = explorers.bound_terms(
        np.geomspace(0.01, 1, 6), losses, norm=10, n=1000, k=5000
    )
    data = widget.data
    assert np.allclose(unpacked(data["losses"]), losses.mean(1))
    assert widget.values["n"] == data["below_n"] == 20
    assert (data["norm"], data["n"], data["k"], data["delta"]) == (10, 1000, 5000, 0.05)
    few = explorers.bound_terms([0.1, 1], [0, 1], norm=1, n=10, k=1).data["below_n"]
    assert 10 * 10 ** (-few / 10) > 1  # the formula needs more than one example


@pytest.mark.parametrize(
    ("change", "word"),
    [
        (dict(radii=[0.1]), "rise"),
        (dict(radii=[0.2, 0.1]), "rise"),
        (dict(radii=[0, 0.1]), "positive"),
        (dict(worst_losses=[0.1, 1.2]), r"\[0, 1\]"),
        (dict(worst_losses=[0.1, 0.2, 0.3]), r"\[0, 1\]"),
        (dict(n=5), "n >= 10"),
        (dict(norm=-1), "norm >= 0"),
        (dict(delta=1), "delta"),
    ],
)
def test_bound_terms_refuses(change, word):
    given = dict(radii=[0.1, 1], worst_losses=[0.1, 0.5], norm=1, n=100, k=50)
    with pytest.raises(ValueError, match=word):
        explorers.bound_terms(**given | change)


@pytest.mark.parametrize(
    "change", [{"product": 0}, {"reach": 1}, {"target": np.nan}, {"rho": 1}]
)
def test_asam_picture_refuses(change):
    with pytest.raises(ValueError, match=r"positive product|rho must be"):
        explorers.asam_picture(**change)


def test_asam_picture_starts_at_the_radius_given():
    assert explorers.asam_picture(rho=0.3).values["circle"] == 13  # (13 + 2) / 50


def test_sam_step_chooses_radii_and_rates_that_are_seen():
    widget = explorers.sam_step(grid(9), start=(-0.5, 0.25))
    radii, rates = widget.data["radii"], widget.data["rates"]
    assert 0 < radii[0] < radii[-1] == 0.5 and 0 < rates[0] < rates[-1]
    assert (widget.values["x"], widget.values["y"]) == (-0.5, 0.25)
    own = explorers.sam_step(grid(9), radii=[0.1, 0.2], rates=[0.5])
    assert own.data["radii"] == [0.1, 0.2] and own.data["rates"] == [0.5]
    with pytest.raises(ValueError, match="rates must be positive"):
        explorers.sam_step(grid(9), rates=[0.0])
    with pytest.raises(ValueError, match="not be negative"):
        explorers.sam_step((*grid()[:2], grid()[2] - 2))


ALPHAS = [0.5, 1.0, 2.0]


def test_measures_are_relative_to_the_original_network():
    members = np.array([[2.0, 3.0], [1.0, 1.0], [4.0, 6.0]])
    measures = {"a": [1, 2, 4], "b": members}
    widget = explorers.rescaling(grid(), ALPHAS, measures)
    a, b = (unpacked(m["values"]) for m in widget.data["measures"])
    assert a.tolist() == [0.5, 1, 2] and b.tolist() == [2.5, 1, 5]
    assert widget.values == {"alpha": 30} and widget.data["radius"] == 0.25


@pytest.mark.parametrize(
    ("change", "word"),
    [
        (dict(alphas=[0.5, 2.0, 3.0]), "include 1"),
        (dict(alphas=[1.0, 2.0, 3.0]), "both sides"),
        (dict(alphas=[2.0, 1.0, 0.5]), "rise"),
        (dict(measures={}), "at least one"),
        (dict(measures={"a": [1, 2]}), "expected"),
        (dict(measures={"a": [1, -2, 3]}), "positive"),
        (dict(radius=0), "radius"),
        (dict(radius=0.5, window=0.4), "radius"),
    ],
)
def test_rescaling_refuses(change, word):
    given = dict(plane=grid(), alphas=ALPHAS, measures={"a": [1, 2, 3]})
    with pytest.raises(ValueError, match=word):
        explorers.rescaling(**given | change)


def test_planes_know_their_choices():
    random = np.random.default_rng(0)
    planes = {
        (f, b): ([0, 1, 5], random.random((3, 4, 2)), random.random((3, 4, 2)))
        for f, b in (("tanh", 30), ("tanh", 100), ("relu", 30))
    }
    widget = explorers.information_plane(
        planes, choices=("activation", "bins"), limits=(12, 1)
    )
    options = [c["options"] for c in widget.data["choices"]]
    assert options == [["tanh", "relu"], ["30", "100"]]
    assert [p["at"] for p in widget.data["planes"]] == [[0, 0], [0, 1], [1, 0]]
    second = widget.data["planes"][1]
    found = mean_interval(np.moveaxis(planes["tanh", 100][2], 1, -1))
    assert np.allclose(unpacked(second["ty"]), found.mean, atol=1e-4)
    assert np.allclose(unpacked(second["ty_half"]), found.half_width, atol=1e-4)

    xt, ty = torch.rand(2, 3, 2)
    alone = explorers.information_plane(([0, 1, 5], xt, ty), layers=["a", "b"])
    assert alone.data["planes"][0]["xt_half"] is None
    assert alone.data["limits"] == pytest.approx([xt.max().item(), ty.max().item()])


ONES = np.ones((3, 2))


@pytest.mark.parametrize(
    ("change", "word"),
    [
        (dict(planes={}), "at least one"),
        (dict(planes=([0, 0, 1], ONES, ONES)), "rise"),
        (dict(layers=["one"]), "names for 2 layers"),
        (dict(planes={1: None}), "do not fit"),
        (dict(planes={(1,): None, (2, 3): None}, choices=("a",)), "do not fit"),
        (dict(planes=([0, 1, 2], ONES, np.ones((3, 3)))), "have shapes"),
        (dict(planes=([0, 1], ONES, ONES)), "have shapes"),
    ],
)
def test_information_plane_refuses(change, word):
    given = dict(planes=([0, 1, 2], ONES, ONES))
    with pytest.raises(ValueError, match=word):
        explorers.information_plane(**given | change)


def test_settings_become_groups_and_values_exact_ranks():
    axes = {"depth": np.array([3, 2, 3, 2]), "kind": ["b", "a", "b", "c"]}
    wide = np.array([1e-3, 5.0, 1e-3, 5.0 + 1e-12])
    measures = {"wide": wide, "flat": [1, 2, 1, -1]}
    widget = explorers.scatter(measures, np.arange(4), axes)
    depth, kind = widget.data["axes"]
    assert depth["name"] == "depth" and depth["texts"] == ["2", "3"]
    assert unpacked(depth["groups"]).tolist() == [1, 0, 1, 0]
    assert unpacked(kind["groups"]).tolist() == [1, 0, 1, 2]
    wide, flat = widget.data["measures"]
    assert wide["log"] and not flat["log"]
    assert unpacked_ranks(wide) == [0, 1, 0, 2] and unpacked_ranks(flat) == [1, 2, 1, 0]
    drawn = np.exp(unpacked(wide["values"]))
    assert drawn == pytest.approx([1e-3, 5, 1e-3, 5], rel=1e-3)


def unpacked_ranks(column):
    ranks = column["ranks"]
    return np.frombuffer(ranks["bytes"], "<u2").tolist()


@pytest.mark.parametrize(
    ("change", "word"),
    [
        (dict(measures={}), "needs a measure"),
        (dict(measures={"a": [1, 2]}), "has 2 values"),
        (dict(measures={"a": [1, np.nan, 2]}), "finite"),
        (dict(axes={"b": [1, 2]}), "at most 14"),
    ],
)
def test_scatter_refuses(change, word):
    given = dict(measures={"a": [1, 2, 3]}, gaps=[1, 2, 3], axes={"b": [1, 1, 2]})
    with pytest.raises(ValueError, match=word):
        explorers.scatter(**given | change)


# -- experiments in the kernel -------------------------------------------------------


def parts(box):
    """Menus, and run, stop, bar, state and picture."""
    menus, controls, (picture,) = (row.children for row in box.children)
    return menus, *controls, picture


def wait_for(condition):
    for _ in range(500):
        if condition():
            return
        time.sleep(0.01)
    raise AssertionError("it did not happen within five seconds")


def test_an_experiment_runs_shows_progress_and_can_run_again():
    seen = []

    def experiment(p, size):
        seen.append((p, size))
        for i in range(1, 4):
            yield i / 3, {"loss": (list(range(i)), [p] * i)}

    box = explorers.live(
        experiment, {"p": [0.1, 0.4], "size": [8]}, xlabel="step", ylabel="loss"
    )
    (p, _), run, stop, bar, state, picture = parts(box)
    assert stop.disabled and picture.value == b""
    run.click()
    wait_for(lambda: state.value == "Done.")
    assert bar.value == 1 and bar.description == "100%"
    assert bytes(picture.value).startswith(b"\x89PNG")
    wait_for(lambda: stop.disabled and not run.disabled)
    p.value = 0.4
    run.click()
    wait_for(lambda: len(seen) == 2)
    assert seen == [(0.1, 8), (0.4, 8)]


def test_an_experiment_can_be_stopped():
    closed = threading.Event()

    def endless():
        try:
            while True:
                time.sleep(0.01)
                yield 0.5, {}
        finally:
            closed.set()

    box = explorers.live(endless, {}, xlabel="", ylabel="")
    _, run, stop, bar, state, _ = parts(box)
    run.click()
    wait_for(lambda: bar.value == 0.5)
    assert run.disabled and not stop.disabled
    stop.click()
    wait_for(lambda: state.value == "Stopped.")
    assert closed.wait(5)


def test_an_experiment_that_fails_says_so():
    def broken(p):
        yield 0.1, {}
        raise RuntimeError(f"no {p}")

    box = explorers.live(broken, {"p": [1]}, xlabel="", ylabel="")
    _, run, *_, state, _ = parts(box)
    run.click()
    wait_for(lambda: state.value == "RuntimeError: no 1")
    with pytest.raises(ValueError, match="at least one value"):
        explorers.live(broken, {"p": []}, xlabel="", ylabel="")
