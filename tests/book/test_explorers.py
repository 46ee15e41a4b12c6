"""Every explorer, moved in Chromium by mouse, touch and keys, against Python."""

import json
import re

import numpy as np
import pytest
import torch
from axe_playwright_python.sync_playwright import Axe
from ipywidgets.embed import embed_data

import flatlab as fl
from flatlab.course import explorers

from .conftest import ROOT, STILL, Visit, drag, settle, touch
from .samples import (
    EPOCHS_SEEN,
    STEPS,
    WINDOW,
    everything,
    information,
    planes,
    series,
    surface_widget,
)

SCRIPT = ROOT / "book" / "_static" / "static_anywidget.js"
SHEET = ROOT / "book" / "_static" / "book.css"
RATES = [0.0, 0.5, 1.0]
EPOCHS = [1, 2, 4, 8]


def write_page(path, *widgets):
    """A page that holds widgets as the built book does, with a figure for each."""
    state = embed_data(views=widgets, drop_defaults=False)["manager_state"]
    views = "".join(
        '<div class="cell_output"><img class="static" alt="The static figure.">'
        '<script type="application/vnd.jupyter.widget-view+json">'
        f"{json.dumps({'model_id': w.model_id})}</script></div>"
        for w in widgets
    )
    path.write_text(
        '<!doctype html><html lang="en" data-theme="light"><head>'
        '<meta charset="utf-8"><title>Explorers</title>'
        '<meta name="viewport" content="width=device-width">'
        f"<style>{SHEET.read_text()}</style>"
        '<script type="application/vnd.jupyter.widget-state+json">'
        f"{json.dumps(state)}</script></head><body><main>{views}</main>"
        f"<script>{SCRIPT.read_text()}</script></body></html>",
        encoding="utf-8",
    )
    return path.as_uri()


@pytest.fixture
def shown(browser, tmp_path):
    """Opens widgets in a page; at the end nothing may have been complained about."""
    visits = []

    def show(*widgets, width=1200, **options):
        visit = Visit(browser, width, **options)
        visits.append(visit)
        visit.page.goto(write_page(tmp_path / f"page{len(visits)}.html", *widgets))
        visit.page.wait_for_selector("html[data-widgets=ready]")
        settle(visit.page)
        return visit.page

    yield show
    for visit in visits:
        assert not visit.complaints
        assert all(u.startswith(("file:", "blob:", "data:")) for u in visit.requested)
        visit.context.close()


def reading(page):
    settle(page)
    return page.locator(".fx-reading").inner_text()


@pytest.fixture
def exploring():
    fits = series(0, 3, 4, 5)
    errors = series(1, 3, 5)
    panels = [
        explorers.lines(
            EPOCHS, {"clean fit": fits}, xlabel="epoch", ylabel="accuracy", log_x=True
        ),
        explorers.along("p", {"network": errors}, ylabel="test error"),
        explorers.pictures(
            np.stack([np.full((2, 3, 3), v) for v in (0, 0.5, 1)]),
            title="digits",
            captions=[["a", "b"], ["c", "d"], ["e", "f"]],
        ),
    ]
    widget = explorers.explore({"p": RATES}, panels, title="Explore")
    return widget, fits, errors


def test_explore_follows_its_slider(exploring, shown):
    widget, fits, errors = exploring
    page = shown(widget)
    paths = page.locator(".fx-line")
    seen = []
    range_input = page.get_by_label("p", exact=True)
    for i, p in enumerate(RATES):
        if i:
            range_input.press("ArrowRight")
        text = reading(page)
        assert text.startswith(f"P {p:g}.")
        assert f"epoch 8: clean fit {fits[i, -1].mean():.3g}." in text
        found = fl.intervals.mean_interval(errors[i])
        assert f"network {found.mean:.3g} ± {found.half_width:.2g}." in text
        assert range_input.get_attribute("aria-valuetext") == f"{p:g}"
        grey = page.locator(".fx-pictures canvas").first.evaluate(
            "(c) => c.getContext('2d').getImageData(1, 1, 1, 1).data[0]"
        )
        assert grey == round(255 * p)
        assert page.locator(".fx-pictures span").all_inner_texts() == [
            ["a", "b"], ["c", "d"], ["e", "f"]
        ][i]  # fmt: skip
        seen.append(paths.first.get_attribute("d"))
    assert len(set(seen)) == 3
    box = range_input.bounding_box()
    page.mouse.click(box["x"] + 5, box["y"] + box["height"] / 2)
    assert reading(page).startswith("P 0.")
    settle(page)
    assert paths.first.get_attribute("d") == seen[0]


def test_sliders_move_only_the_panels_that_know_them(shown):
    w = explorers
    panels = [
        w.along("p", {"a": [1, 2, 3]}, ylabel="first"),
        w.along("q", {"b": [4, 5]}, ylabel="second"),
    ]
    page = shown(w.explore({"p": RATES, "q": [0, 1]}, panels, title="Two"))
    page.get_by_label("q", exact=True).press("End")
    assert reading(page) == "P 0, q 1. First: a 1. Second: b 5."
    page.get_by_label("p", exact=True).press("End")
    assert reading(page) == "P 1, q 1. First: a 3. Second: b 5."


def test_a_curve_is_drawn_where_the_numbers_are(shown):
    """Ends and middle of a straight line, in data and in pixels."""
    values = [[0.0, 0.5, 1.0]]
    panel = explorers.lines(
        [0, 5, 10], {"a": values}, xlabel="x", ylabel="y", limits=(0, 1)
    )
    page = shown(explorers.explore({"s": ["only"]}, [panel], title="Line"))
    d = page.locator(".fx-line").first.get_attribute("d")
    points = [tuple(map(float, p.split())) for p in d[1:].split("L")]
    assert points[1] == pytest.approx(np.mean([points[0], points[2]], 0), abs=0.11)
    frame = page.locator("clipPath rect").first
    left, top, width, height = (
        float(frame.get_attribute(k)) for k in ("x", "y", "width", "height")
    )
    assert points[0] == pytest.approx((left, top + height), abs=0.1)
    assert points[2] == pytest.approx((left + width, top), abs=0.1)


def test_the_static_figure_gives_way_on_screen_and_stays_on_paper(exploring, shown):
    page = shown(exploring[0])
    figure, explorer = page.locator("img.static"), page.locator(".fx")
    assert not figure.is_visible() and explorer.is_visible()
    page.emulate_media(media="print")
    assert figure.is_visible() and not explorer.is_visible()


def bilinear(a, losses, x, y):
    from scipy.interpolate import RegularGridInterpolator

    return float(RegularGridInterpolator((a, a), losses)([x, y])[0])


def place(page, knob=0):
    """Where a knob says it is."""
    text = page.locator(".fx-knob").nth(knob).get_attribute("aria-valuetext")
    inside = text[1 : text.index(")")].replace("−", "-")
    return tuple(float(part) for part in inside.split(","))


def test_the_point_on_a_surface_is_dragged_by_mouse_and_keys(shown):
    page = shown(surface_widget())
    knob = page.get_by_role("slider", name="Point on the surface")
    assert "loss 0.1 nats" in knob.get_attribute("aria-valuetext")
    before = page.locator(".fx-panel").last.screenshot()
    frame = page.locator("clipPath rect").first.bounding_box()
    assert frame["width"] == pytest.approx(frame["height"], abs=1)
    drag(page, knob, frame["width"] / 4, -frame["height"] / 4)
    settle(page)
    assert place(page) == pytest.approx((0.5, 0.5), abs=0.02)
    assert page.locator(".fx-panel").last.screenshot() != before
    a = np.linspace(-1, 1, 9)
    x, y = np.meshgrid(a, a, indexing="ij")
    expected = bilinear(a, 0.1 + x**2 + 2 * y**2, *place(page))
    text = knob.get_attribute("aria-valuetext")
    assert float(text.split("loss ")[1].split()[0]) == pytest.approx(expected, abs=0.05)

    knob.evaluate(  # both before a frame is drawn
        """(knob) => {
          const pressed = [{ key: "ArrowRight" }, { key: "ArrowDown", shiftKey: true }];
          for (const options of pressed)
            knob.dispatchEvent(new KeyboardEvent("keydown", options));
        }"""
    )
    settle(page)
    assert place(page) == pytest.approx((0.54, 0.3), abs=0.02)
    knob.press("ArrowUp")
    settle(page)
    assert place(page) == pytest.approx((0.54, 0.34), abs=0.02)
    for _ in range(30):
        knob.press("Shift+ArrowLeft")
    settle(page)
    assert place(page)[0] == -1  # it stays on what was measured
    page.get_by_label("network", exact=True).select_option("batch 100")
    assert "centre 0.2." in reading(page)
    page.get_by_label("directions", exact=True).select_option("filters")
    assert "centre 0.1." in reading(page)


def test_a_finger_drags_the_point_and_does_not_scroll_the_page(shown):
    page = shown(surface_widget(), width=390, has_touch=True, is_mobile=True)
    knob = page.locator(".fx-knob")
    knob.scroll_into_view_if_needed()
    scrolled = page.evaluate("scrollY")
    frame = page.locator("clipPath rect").first.bounding_box()
    touch(page, knob, 0, -frame["height"] / 4)
    settle(page)
    assert place(page) == pytest.approx((0, 0.5), abs=0.03)
    assert page.evaluate("scrollY") == scrolled


def test_the_line_turns(shown):
    page = shown(surface_widget())
    line = page.locator(".fx-white")
    level = line.get_attribute("d")
    angle = page.get_by_label("look along")
    angle.press("End")
    settle(page)
    assert angle.get_attribute("aria-valuetext") == "90°"
    assert line.get_attribute("d") != level
    # 0.1 + 2 y² along the second direction
    assert "between 0.1 and 2.1" in reading(page)


# -- formulas in the browser against Python ------------------------------------------


@pytest.fixture
def module(browser, tmp_path):
    """Calls a function that an explorer's module exports, with JSON values."""
    visits = []

    def call(explorer, expression, values):
        code = explorers._explorer_class(explorer)._esm
        visit = Visit(browser)
        visits.append(visit)
        path = tmp_path / "module.html"
        path.write_text("<!doctype html><title>Module</title>")
        visit.page.goto(path.as_uri())
        return visit.page.evaluate(
            """async ([code, expression, values]) => {
              const blob = new Blob([code], { type: "text/javascript" });
              const module = await import(URL.createObjectURL(blob));
              const call = new Function("m", "v", `return ${expression}`);
              return values.map((v) => call(module, v));
            }""",
            [code, expression, values],
        )

    yield call
    for visit in visits:
        visit.context.close()


def test_the_bound_is_that_of_flatlab(module):
    random = np.random.default_rng(0)
    points = [
        {
            "worst": random.random(),
            "norm": 10 ** random.uniform(-2, 3),
            "rho": 10 ** random.uniform(-4, 1),
            "n": 10 ** random.uniform(0.4, 10),
            "k": 10 ** random.uniform(0, 9),
            "delta": 10 ** random.uniform(-6, -0.1),
            "derived": bool(random.integers(2)),
        }
        for _ in range(200)
    ]
    found = module("bound_terms", "m.samBound(v)", points)
    for point, terms in zip(points, found, strict=True):
        given = {k: point[k] for k in ("norm", "rho", "n", "k", "delta", "derived")}
        expected = fl.sam_bound(point["worst"], **given)
        for name in ("value", "worst_loss", "complexity", "norm_term", "confidence"):
            assert terms[name] == pytest.approx(
                getattr(expected, name).item(), rel=1e-9
            )
        assert terms["constant"] == pytest.approx(expected.constant.item(), rel=1e-9)
        assert terms["tail"] == pytest.approx(expected.tail.item(), rel=1e-9)


def product_loss(target):
    """(w1 w2 - target)² as a loss over the weights of a network."""
    net = fl.Network(fl.models.mlp(1, 1, 1, bias=False, activation="linear"))

    def squares(logits, y):
        return (logits[..., 0] - target) ** 2

    examples = torch.ones(1, 1, dtype=torch.float64), torch.zeros(1, dtype=int)
    return fl.Loss(net, examples, criterion=squares)


def test_both_maxima_are_those_of_flatlab(module):
    random = np.random.default_rng(0)
    points = []
    for adaptive in (False, True):
        for _ in range(6):
            w = (np.exp(random.uniform(-1, 1, 2))).tolist()
            rho, target = random.uniform(0.05, 0.6), random.uniform(0, 2)
            points.append([w, rho, target, adaptive])
    found = module("asam_picture", "m.worstCase(...v)", points)
    for (w, rho, target, adaptive), result in zip(points, found, strict=True):
        loss = product_loss(target)
        at = torch.tensor(w, dtype=torch.float64)
        set_ = fl.adaptive_ball(rho) if adaptive else fl.ball(rho)
        epsilon = torch.tensor(result["epsilon"], dtype=torch.float64)
        assert set_.at(at).norm(epsilon).item() == pytest.approx(rho, rel=1e-9)
        value = result["value"]
        assert loss(at + epsilon).item() == pytest.approx(value, rel=1e-9)
        best = fl.worst_case_sharpness(loss, at, set_, restarts=4, steps=100)
        assert value == pytest.approx((best.values + best.loss).item(), rel=1e-6)


def test_a_step_of_sam_is_that_of_flatlab(module):
    """On a cubic, which cubic interpolation meets exactly away from the border."""
    a, b = np.linspace(-1, 1, 21), np.linspace(-2, 2, 17)

    def value(x, y):
        return 1 + x**2 + 0.5 * y**2 + 0.3 * x * y + 0.1 * x * x * y

    def gradient(x, y):
        return np.array([2 * x + 0.3 * y + 0.2 * x * y, y + 0.3 * x + 0.1 * x * x])

    losses = value(a[:, None], b)
    s = {"x": a.tolist(), "y": b.tolist(), "values": losses.ravel().tolist()}
    points = [[s, [0.3, -0.7], 0.2, 0.1], [s, [-0.5, 1.0], 0.05, 0.3]]
    steps = module("sam_step", "m.samStep(...v)", points)
    for (_, w, rho, rate), step in zip(points, steps, strict=True):
        assert step["here"]["loss"] == pytest.approx(value(*w), rel=1e-9)
        g = gradient(*w)
        assert step["here"]["gradient"] == pytest.approx(g, rel=1e-9)
        epsilon = fl.ball(rho).at(torch.tensor(w)).steepest(torch.tensor(g))
        up = np.array(w) + epsilon.numpy()
        assert step["up"] == pytest.approx(up, rel=1e-9)
        assert step["sam"] == pytest.approx(w - rate * gradient(*up), rel=1e-9)
        assert step["plain"] == pytest.approx(w - rate * g, rel=1e-9)
    bends = module("sam_step", "m.across(...v)", [[s, w] for s, w, *_ in points])
    assert bends == pytest.approx([1, 1], rel=1e-6)


def test_cubics_meet_the_measured_points_and_go_straight_at_the_border(module):
    losses = series(3, 4, 5)
    s = {"x": [0, 1, 2, 3], "y": [0, 2, 4, 6, 8], "values": losses.ravel().tolist()}
    points = [[s, i, 2 * j] for i in range(4) for j in range(5)]
    found = module("sam_step", "m.smooth(...v).loss", points)
    assert found == pytest.approx(losses.ravel(), rel=1e-12)
    plane = {**s, "values": [3 * x + y for x in s["x"] for y in s["y"]]}
    near = [[plane, x, y] for x, y in ((0.2, 0.3), (2.9, 7.5), (1.5, 8.0))]
    slopes = module("sam_step", "m.smooth(...v).gradient", near)
    assert np.array(slopes) == pytest.approx(np.tile([3, 1], (3, 1)), rel=1e-9)


def test_kendall_is_that_of_scipy(module):
    from scipy.stats import kendalltau

    random = np.random.default_rng(0)
    pairs = [
        [random.integers(0, m, n).tolist(), random.normal(size=n).round(1).tolist()]
        for n, m in ((5, 100), (40, 4), (200, 1000), (60, 7))
    ]
    found = module("scatter", "m.kendall(...v)", pairs)
    for (a, b), tau in zip(pairs, found, strict=True):
        assert tau == pytest.approx(kendalltau(a, b).statistic, rel=1e-9)
    groups = random.integers(0, 3, 60)
    a, b = map(np.array, pairs[3])
    (mean,) = module("scatter", "m.within(...v)", [[*pairs[3], groups.tolist()]])
    taus = [kendalltau(a[groups == g], b[groups == g]).statistic for g in range(3)]
    assert mean == pytest.approx(np.mean(taus), rel=1e-9)


def test_a_stretched_surface_is_that_of_the_rescaled_network(module):
    """The plane measured around T_alpha(w) against the stretched one around w."""
    net = fl.Network(fl.models.mlp(4, 6, 3))
    x = torch.randn(30, 4, dtype=torch.float64, generator=torch.manual_seed(0))
    loss = fl.Loss(net, (x, torch.arange(30) % 3))
    w = net.init(0, dtype=torch.float64)
    noise = torch.randn(net.k, dtype=torch.float64, generator=torch.manual_seed(1))
    first = torch.zeros(net.k, dtype=bool)
    for name, _, part in net.layout:
        first[part] = name.startswith("1.")
    directions = torch.where(first, noise, 0), torch.where(first, 0, noise)
    assert all(d.any() for d in directions)
    alpha = 2.0
    wide = dict(span=1.0, points=9)
    measured = fl.plane(loss, w, directions, **wide)
    rescaled = fl.rescale_layers(net, w, alpha, layers=(0, 1))
    # The bias of the last layer is not divided: leave it where it is.
    bias = torch.cat([torch.zeros(net.k - 3, dtype=bool), torch.ones(3, dtype=bool)])
    directions = directions[0], torch.where(bias, 0, directions[1])
    measured = fl.plane(loss, w, directions, **wide)
    around = fl.plane(loss, rescaled, directions, **wide)
    s = {
        "x": measured.alphas.tolist(), "y": measured.betas.tolist(),
        "values": measured.losses.flatten().tolist(),
        "domain": {"x": [-1, 1], "y": [-1, 1]},
    }  # fmt: skip
    cases = [(8, 4), (0, 5), (4, 6), (8, 3)]  # measured points, both ways
    points = [
        [s, alpha, around.alphas[i].item(), around.betas[j].item()] for i, j in cases
    ]
    found = module("rescaling", "m.stretched(...v)", points)
    expected = [around.losses[i, j].item() for i, j in cases]
    assert found == pytest.approx(expected, rel=1e-9)
    middle = module(
        "rescaling", "m.between(...v)", [[[0.5, 1, 2], [8, 2, 2], 0.5**0.5]]
    )
    assert middle == pytest.approx([4])
    # What was not measured is not there.
    outside = module("rescaling", "String(m.stretched(...v))", [[s, 2.0, 0.0, 0.75]])
    assert outside == ["NaN"]


# -- the other explorers, operated ---------------------------------------------------


def numbers(text):
    """All numbers of a sentence."""
    return [float(n.replace("−", "-")) for n in re.findall(r"−?\d+(?:\.\d+)?", text)]


def test_the_bound_answers_its_sliders(shown):
    radii, losses = np.geomspace(0.01, 1, 7), np.linspace(0.1, 0.7, 7)
    widget = explorers.bound_terms(radii, losses, norm=3, n=1000, k=100)
    page = shown(widget)
    text = reading(page)
    bound = fl.sam_bound(0.4, 3, rho=0.1, n=1000, k=100)
    assert text.startswith("At ρ 0.1, n 1000, k 100: worst loss 0.4 + ")
    assert f"= {bound.value.item():.3g}, which says nothing" in text
    curve = page.locator(".fx-line").first.get_attribute("d")
    page.get_by_label("n", exact=True).press("End")
    page.get_by_label("form").select_option("re-derived")
    bound = fl.sam_bound(0.4, 3, rho=0.1, n=1e9, k=100, derived=True)
    assert f"= {bound.value.item():.3g}." in reading(page)
    assert page.locator(".fx-line").first.get_attribute("d") != curve
    page.get_by_label("drawn over").select_option("k")
    settle(page)
    assert page.locator("svg text.fx-label", has_text="k").count() == 2


def test_the_weights_are_dragged_along_the_hyperbola(shown):
    page = shown(explorers.asam_picture())
    knob = page.get_by_role("slider", name="Weights on the hyperbola")

    def state():
        w1, w2, loss, circle, ellipse = numbers(knob.get_attribute("aria-valuetext"))
        assert w1 * w2 == pytest.approx(1.5, rel=0.02)
        assert loss == pytest.approx(0.25, rel=0.02)
        return w1, circle, ellipse

    settle(page)
    start = state()
    assert start[1:] == pytest.approx(
        [worst(start[0], False), worst(start[0], True)], rel=0.01
    )
    drag(page, knob, 60, 60)
    settle(page)
    dragged = state()
    assert dragged[0] > 1.3 * start[0]
    assert dragged[1] > 1.1 * start[1] and dragged[2] == start[2]
    assert dragged[1] == pytest.approx(worst(dragged[0], False), rel=0.02)
    knob.press("ArrowLeft")
    settle(page)
    assert state()[0] < dragged[0]
    for _ in range(30):
        knob.press("Shift+ArrowLeft")
    settle(page)
    assert state()[0] == pytest.approx(1.5**0.5 / 2.5, rel=0.01)
    ring = page.get_by_label("ρ of the ellipse")
    ring.press("End")
    settle(page)
    assert state()[2] > start[2]


def worst(w1, adaptive, rho=0.4):
    """Highest rise of (w1 w2 - 1)² in a set, from a fine grid on its border."""
    w = np.array([w1, 1.5 / w1])
    angle = np.linspace(0, 2 * np.pi, 20001)
    border = w[:, None] + rho * (w[:, None] if adaptive else 1) * np.array(
        [np.cos(angle), np.sin(angle)]
    )
    return ((border.prod(0) - 1) ** 2).max() - 0.25


def test_sam_steps_from_where_the_weights_are_put(shown):
    a = np.linspace(-1, 1, 21)
    losses = 0.1 + 4 * a[:, None] ** 2 + a**2
    page = shown(explorers.sam_step((a, a, losses), **STEPS))
    before = reading(page)
    assert before.startswith("At (0.5, 0.5) the loss is 1.35 nats")
    page.get_by_label("ρ", exact=True).press("End")
    further = reading(page)
    assert numbers(further)[3] > numbers(before)[3]  # the loss after the step up
    page.get_by_label("go on for 30 steps").check()
    assert re.search(r"The plain gradient leads to \S+ in 30 steps\.", reading(page))
    assert "is 2 for the plain gradient" in reading(page)  # a² has curvature 2
    page.get_by_label("ρ", exact=True).press("Home")  # a radius of 0 is no SAM at all
    ends = re.findall(r"leads to (\S+) in", reading(page))
    assert ends[0] == ends[1]
    page.get_by_label("ρ", exact=True).press("End")
    knob = page.get_by_role("slider", name="Weights")
    picture = page.locator(".fx-panel").first.screenshot()
    knob.press("Shift+ArrowLeft")
    settle(page)
    assert place(page) == pytest.approx((0.3, 0.5), abs=0.01)
    assert page.locator(".fx-panel").first.screenshot() != picture


def test_rescaling_moves_measures_and_not_the_loss(shown):
    a = np.linspace(-1, 1, 21)
    losses = 0.1 + a[:, None] ** 2 + a**2
    measures = {"trace": [4.0, 2.0, 4.0], "accuracy": [0.9, 0.9, 0.9]}
    given = [(a, a, losses), [0.5, 1, 2], measures]
    page = shown(explorers.rescaling(*given, **WINDOW))
    alpha = page.get_by_label("α", exact=True)
    assert reading(page).startswith("α 1: at the centre the loss is 0.1 as before")
    canvas = page.locator(".fx-panel canvas").first.screenshot()
    alpha.press("ArrowRight")
    assert "Trace × 1.02, accuracy × 1." in reading(page)  # 2 to the power of 1 / 30
    alpha.press("End")
    text = reading(page)
    assert text.startswith("α 2: at the centre the loss is 0.1 as before")
    assert "Trace × 2, accuracy × 1." in text
    # 0.1 + (2 · 0.25)², between measured points a little more
    assert numbers(text)[3] == pytest.approx(0.35, abs=0.01)
    assert page.locator(".fx-panel canvas").first.screenshot() != canvas


def test_the_information_plane_plays_and_switches(shown):
    given = planes()
    page = shown(information(given))

    def check(key, t):
        head, points = reading(page).split(": ")
        activation, bins = key
        epoch = EPOCHS_SEEN[t]
        assert head == f"Activation {activation}, bins {bins}, epoch {epoch}"
        values = np.stack([v[t].mean(0) for v in given[key][1:]], -1)
        found = np.array(numbers(points)).reshape(2, 3)[:, 1:]
        assert found == pytest.approx(values, rel=0.01)

    check(("tanh", 30), 3)
    bins = page.get_by_label("bins", exact=True)
    bins.select_option("100")
    check(("tanh", 100), 3)
    page.get_by_label("activation", exact=True).select_option("relu")
    check(("relu", 30), 3)  # which has no 100 bins
    assert bins.locator("option:disabled").all_inner_texts() == ["100"]
    page.get_by_label("epoch", exact=True).press("Home")
    check(("relu", 30), 0)
    assert page.locator(".fx-thin").count() == 2
    page.get_by_label("trails").uncheck()
    settle(page)
    assert page.locator(".fx-thin").count() == 0
    play = page.get_by_role("button", name="Play")
    play.evaluate(  # it may be over before anybody looks
        """(button) => {
          window.said = [];
          const note = () => said.push(button.textContent);
          new MutationObserver(note).observe(button, { childList: true });
        }"""
    )
    play.click()
    page.wait_for_function(
        "document.querySelector('.fx-reading').textContent.includes('epoch 100')"
    )
    assert page.evaluate("said") == ["Stop", "Play"]


def test_layers_that_lie_together_share_a_label(shown):
    xt = np.array([[9.0, 6, 3], [12, 12, 3]])  # apart, then two at one place
    page = shown(information({(): ([0, 100], xt, xt / 12)}, ()))
    notes = page.locator(".fx-panel").first.locator(".fx-note")
    assert notes.all_text_contents() == ["layer 1 to layer 2", "layer 3"]
    page.get_by_label("epoch", exact=True).press("Home")
    settle(page)
    assert notes.all_text_contents() == ["layer 1", "layer 2", "layer 3"]


def test_who_asked_for_less_motion_is_taken_to_the_end(shown):
    widget = information({(): planes()["tanh", 30]}, ())
    page = shown(widget, reduced_motion="reduce")
    page.get_by_label("epoch", exact=True).press("Home")
    assert "poch 0:" in reading(page)
    page.get_by_role("button", name="Play").click()
    assert "poch 100:" in reading(page)
    assert page.get_by_role("button", name="Stop").count() == 0


def test_the_scatter_counts_again_for_another_measure(shown):
    from scipy.stats import kendalltau

    gaps, a, b = series(4, 3, 50)
    groups = np.random.default_rng(5).integers(0, 3, 50)
    axes = {"depth": groups, "width": groups % 2}
    widget = explorers.scatter({"one": a, "two": 1000**b}, gaps, axes, ylabel="gap")
    page = shown(widget)

    def expected(values, g):
        inside = [
            kendalltau(values[g == v], gaps[g == v]).statistic for v in np.unique(g)
        ]
        return kendalltau(values, gaps).statistic, np.mean(inside)

    def found():
        text = reading(page).replace("all 50 ", "all ")
        return numbers(text)

    assert found() == pytest.approx(expected(a, groups), abs=0.0006)
    assert page.locator("path.fx-dot").count() == 50 + 3
    shapes = page.locator(".fx-legend path").evaluate_all(
        "found => found.map((e) => e.getAttribute('d'))"
    )
    assert len(set(shapes)) == 3  # colour alone tells nothing apart
    page.get_by_label("measure", exact=True).select_option("two")
    page.get_by_label("colour", exact=True).select_option("width")
    assert found() == pytest.approx(expected(b, groups % 2), abs=0.0006)


# -- what holds for all of them ------------------------------------------------------


@pytest.mark.parametrize("width", [360, 1200])
def test_explorers_can_be_seen_and_operated_by_everyone(shown, width):
    page = shown(*everything().values(), width=width)
    page.add_style_tag(content=STILL)
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    for theme in ("light", "dark"):
        page.evaluate(f"document.documentElement.dataset.theme = '{theme}'")
        settle(page)
        wrong = [
            (found["id"], found["nodes"][0]["html"][:200])
            for found in Axe().run(page).response["violations"]
            if found["impact"] in ("serious", "critical")
        ]
        assert not wrong
    # Everything that can be operated keeps JupyterLab's shortcuts away.
    bare = page.evaluate(
        """[...document.querySelectorAll('.fx :is(input, select, button, [tabindex])')]
           .filter((e) => e.dataset.lmSuppressShortcuts !== 'true').length"""
    )
    assert bare == 0
    assert page.locator(".fx :is(input, select, button, [tabindex='0'])").count() == 25


@pytest.mark.parametrize("name", list(everything()))
def test_code_and_data_are_small(name):
    widget = everything()[name]
    state = widget.get_state()
    assert len(json.dumps([state["_esm"], state["_css"]])) < 45_000
    state = embed_data(views=[widget], drop_defaults=False)["manager_state"]["state"]
    assert len(json.dumps(state[widget.model_id])) < 60_000


def test_values_follow_python_and_two_views_agree(shown):
    """The kernel's side: what Python sets is where the controls stand."""
    widget = explorers.asam_picture()
    widget.values = {**widget.values, "circle": 0}
    page = shown(widget, widget)
    sliders = page.get_by_label("ρ of the circle")
    assert sliders.first.get_attribute("aria-valuetext") == "0.04"
    sliders.first.press("End")
    settle(page)
    assert sliders.last.get_attribute("aria-valuetext") == "0.5"
    one, two = page.locator(".fx-reading").all_inner_texts()
    assert one == two
