"""Explorers as Python sees them: what is packed, and what is refused."""

import builtins
import json

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
    assert part["xlim"] == [0, 1] and part["rules"] == [0.9]
    assert unpacked(part["x"]).tolist() == RATES
    assert [s["texts"] for s in widget.data["sliders"]] == [["0", "0.5", "1"]]


def test_a_curve_along_a_slider_knows_that_one_alone():
    both = explorers.lines([1, 2], {"a": np.ones((3, 2, 2))}, xlabel="x", ylabel="both")
    one = explorers.along("q", {"a": [1, 2]}, ylabel="one")
    widget = explorers.explore({"p": RATES, "q": [0, 1]}, [both, one], title="Two")
    first, second = widget.data["panels"]
    assert first["over"] == [0, 1]
    assert second["over"] == [1]


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
    ("values", "word"),
    [(np.ones((3, 5)), r"expected \(3, 4\)"), (np.full((3, 4), np.inf), "finite")],
)
def test_explore_refuses(values, word):
    with pytest.raises(ValueError, match=word):
        explore(values)


def grid(points=5):
    a = np.linspace(-1, 1, points)
    return a, a, 1 + a[:, None] ** 2 + 2 * a**2


def test_a_surface_is_packed_as_measured():
    a, _, losses = grid()
    net = fl.Network(fl.models.mlp(3, 4, 2))
    x, y = torch.randn(20, 3), torch.arange(20) % 2
    plane = fl.plane(fl.Loss(net, (x, y)), net.init(0), points=5)
    surfaces = {"one": {"flat": grid(), "measured": plane}}
    widget = explorers.loss_surface(surfaces, title="Two planes")
    first, second = widget.data["surfaces"][0]
    assert np.allclose(unpacked(first["alphas"]), a)
    assert np.allclose(unpacked(first["losses"]), losses)
    assert np.allclose(unpacked(second["losses"]), plane.losses)
    assert widget.data["directions"] == ["flat", "measured"]


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


def test_asam_picture_starts_at_the_radius_given():
    assert explorers.asam_picture(rho=0.3).values["circle"] == 13  # (13 + 2) / 50


ALPHAS = [0.5, 1.0, 2.0]


def test_measures_are_relative_to_the_original_network():
    members = np.array([[2.0, 3.0], [1.0, 1.0], [4.0, 6.0]])
    measures = {"a": [1, 2, 4], "b": members}
    shown = dict(radius=0.25, window=1, xlabel="one", ylabel="two")
    widget = explorers.rescaling(grid(), ALPHAS, measures, **shown)
    a, b = (unpacked(m["values"]) for m in widget.data["measures"])
    assert a.tolist() == [0.5, 1, 2] and b.tolist() == [2.5, 1, 5]
    assert widget.values == {"alpha": 30}
    with pytest.raises(ValueError, match="rise and include 1 and both sides"):
        explorers.rescaling(grid(), [1.0, 2.0], measures, **shown)


def test_planes_know_their_choices():
    random = np.random.default_rng(0)
    planes = {
        (f, b): ([0, 1, 5], random.random((3, 4, 2)), random.random((3, 4, 2)))
        for f, b in (("tanh", 30), ("tanh", 100), ("relu", 30))
    }
    given = dict(layers=["a", "b"], limits=(12, 1))
    widget = explorers.information_plane(
        planes, choices=("activation", "bins"), **given
    )
    options = [c["options"] for c in widget.data["choices"]]
    assert options == [["tanh", "relu"], ["30", "100"]]
    assert [p["at"] for p in widget.data["planes"]] == [[0, 0], [0, 1], [1, 0]]
    second = widget.data["planes"][1]
    found = mean_interval(np.moveaxis(planes["tanh", 100][2], 1, -1))
    assert np.allclose(unpacked(second["ty"]), found.mean, atol=1e-4)
    assert np.allclose(unpacked(second["ty_half"]), found.half_width, atol=1e-4)

    alone = {(): ([0, 1, 5], *torch.rand(2, 3, 2))}
    found = explorers.information_plane(alone, choices=(), **given)
    assert found.data["planes"][0]["xt_half"] is None


def test_settings_become_groups_and_values_exact_ranks():
    axes = {"depth": np.array([3, 2, 3, 2]), "kind": ["b", "a", "b", "c"]}
    wide = np.array([1e-3, 5.0, 1e-3, 5.0 + 1e-12])
    measures = {"wide": wide, "flat": [1, 2, 1, -1]}
    widget = explorers.scatter(measures, np.arange(4), axes, ylabel="gap")
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
