import itertools

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from matplotlib.colors import to_rgb
from scipy import stats

from flatlab.course import plots


@pytest.fixture
def ax():
    fig, ax = plt.subplots()
    yield ax
    plt.close(fig)


def test_the_band_is_students_interval(ax):
    y = torch.tensor(np.random.default_rng(0).normal(size=(30, 5)), requires_grad=True)
    x = torch.arange(30)
    found = plots.mean_band(ax, x, y, "loss", i=1)
    values = y.detach().numpy()
    low, high = stats.t.interval(0.95, 4, values.mean(1), stats.sem(values, axis=1))
    (line,), (band,) = ax.get_lines(), ax.collections
    np.testing.assert_allclose(line.get_ydata(), values.mean(1))
    np.testing.assert_allclose(found.low, low)
    corners = band.get_paths()[0].vertices
    np.testing.assert_allclose(corners[:, 1].min(), low.min())
    np.testing.assert_allclose(corners[:, 1].max(), high.max())
    assert line.get_label() == "loss (n = 5)"


def test_one_member_has_a_line_and_no_band(ax):
    plots.mean_band(ax, [0, 1], [[1.0], [2.0]], "alone")
    assert len(ax.get_lines()) == 1 and len(ax.collections) == 0


@pytest.mark.parametrize(
    ("x", "y", "says"),
    [
        ([0, 1], [1.0, 2.0], r"\(records, members\)"),
        ([0, 1, 2], [[1.0], [2.0]], r"\(3,\) and \(2, 1\)"),
        ([0, 1], [[1.0, 1.0], [2.0, np.nan]], "1 of 2"),
    ],
)
def test_curves_that_cannot_be_drawn_are_refused(ax, x, y, says):
    with pytest.raises(ValueError, match=says):
        plots.mean_band(ax, x, y)


def test_no_two_curves_differ_by_colour_alone():
    looks = [plots.look(i) for i in range(14)]
    for a, b in itertools.combinations(looks[:7], 2):
        differ = [key for key in a if a[key] != b[key]]
        assert differ == ["color", "linestyle", "marker"]
    for a, b in itertools.combinations(looks, 2):
        assert a["marker"] != b["marker"] or a["linestyle"] != b["linestyle"]


def test_colours_are_dark_enough_on_white():
    def luminance(colour):
        parts = np.array(to_rgb(colour))
        parts = np.where(
            parts <= 0.04045, parts / 12.92, ((parts + 0.055) / 1.055) ** 2.4
        )
        return parts @ [0.2126, 0.7152, 0.0722]

    for colour in plots.COLOURS:
        assert 1.05 / (luminance(colour) + 0.05) > 2.0


def test_dots_and_paired_differences(ax):
    base = np.array([1.0, 2.0, 3.0])
    groups = {"same": base, "more": torch.tensor([1.4, 2.5, 3.6])}
    found = plots.paired_differences(ax, groups, base, format="+.2f")
    assert found["same"].mean == 0 and found["same"].half_width == 0
    # sd of the differences 0.1, t(2) = 4.302653
    assert found["more"].mean == pytest.approx(0.5)
    assert found["more"].half_width == pytest.approx(4.302653 * 0.1 / 3**0.5, rel=1e-6)
    assert [t.get_text() for t in ax.get_yticklabels()] == [
        "same (n = 3)",
        "more (n = 3)",
    ]
    assert [t.get_text() for t in ax.texts] == ["+0.00", "+0.50"]
    with pytest.raises(ValueError, match=r"'few' has shape \(2,\)"):
        plots.paired_differences(ax, {"few": base[:2]}, base)
    with pytest.raises(ValueError, match="no group"):
        plots.interval_dots(ax, {})


def test_figures_are_opaque_and_legible():
    with plt.rc_context():
        plots.use()
        fig, ax = plt.subplots()
        assert fig.get_facecolor() == (1, 1, 1, 1)
        ax.set_title("where it begins")
        assert ax.get_title(loc="left") == "where it begins"
        plt.close(fig)
        sizes = [v for k, v in plots.STYLE.items() if k.endswith("size")]
        assert min(s for s in sizes if isinstance(s, int)) >= 11
        assert plt.rcParams["font.size"] == plots.STYLE["font.size"]


def test_points_have_students_intervals(ax):
    values = torch.tensor([1.0, 2.0, 4.0])
    low, high = stats.t.interval(0.95, 2, values.numpy().mean(), stats.sem(values))
    x = torch.tensor([[1.0, 1.0, 1.0], [2.0, 2.0, 3.5]])
    a, b = plots.interval_points(ax, x, values.expand(2, 3), "SAM", 1)
    bars = ax.containers[0].lines[2]
    ends = bars[1].get_segments()[0][:, 1]
    assert list(ends) == pytest.approx([low, high]) == [b.low[0], b.high[0]]
    assert list(a.mean) == [1.0, 2.5]
    names = ax.get_legend_handles_labels()[1]
    assert names == ["SAM (n = 3)"]


def test_a_legend_names_each_curve_once():
    fig, axes = plt.subplots(2)
    for ax in axes:
        ax.plot([0, 1], label="SGD")
    axes[1].plot([1, 0], label="SAM")
    plots.legend(fig)
    (legend,) = fig.legends
    assert [text.get_text() for text in legend.get_texts()] == ["SGD", "SAM"]
    plt.close(fig)
