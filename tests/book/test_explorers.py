"""Every explorer, moved in Chromium by mouse, touch and keys, against Python."""

import json

import numpy as np
import pytest
from ipywidgets.embed import embed_data

import flatlab as fl

from .conftest import ROOT, Visit

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


def settle(page):
    """Wait until what was asked for is drawn."""
    page.evaluate(
        "new Promise((end) => requestAnimationFrame(() => requestAnimationFrame(end)))"
    )


def reading(page):
    settle(page)
    return page.locator(".fx-reading").inner_text()


def drag(page, knob, dx, dy):
    box = knob.bounding_box()
    x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    page.mouse.move(x, y)
    page.mouse.down()
    page.mouse.move(x + dx / 2, y + dy / 2)
    page.mouse.move(x + dx, y + dy)
    page.mouse.up()


def touch(page, knob, dx, dy):
    """A finger on a knob, moved in ten steps."""
    box = knob.bounding_box()
    x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    session = page.context.new_cdp_session(page)

    def send(kind, points):
        points = [{"x": px, "y": py} for px, py in points]
        session.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": points})

    send("touchStart", [(x, y)])
    for i in range(1, 11):
        send("touchMove", [(x + dx * i / 10, y + dy * i / 10)])
    send("touchEnd", [])


def series(seed, *shape):
    return np.random.default_rng(seed).random(shape)


@pytest.fixture
def exploring():
    fits = series(0, 3, 4, 5)
    errors = series(1, 3, 5)
    panels = [
        fl.widgets.lines(
            EPOCHS, {"clean fit": fits}, xlabel="epoch", ylabel="accuracy", log_x=True
        ),
        fl.widgets.along("p", {"network": errors}, ylabel="test error"),
        fl.widgets.pictures(
            np.stack([np.full((2, 3, 3), v) for v in (0, 0.5, 1)]),
            title="digits",
            captions=[["a", "b"], ["c", "d"], ["e", "f"]],
        ),
    ]
    widget = fl.widgets.explore({"p": RATES}, panels, title="Explore")
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


def test_a_curve_is_drawn_where_the_numbers_are(shown):
    """Ends and middle of a straight line, in data and in pixels."""
    values = [[0.0, 0.5, 1.0]]
    panel = fl.widgets.lines(
        [0, 5, 10], {"a": values}, xlabel="x", ylabel="y", limits=(0, 1)
    )
    page = shown(fl.widgets.explore({"s": ["only"]}, [panel], title="Line"))
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


def surface_widget():
    a = np.linspace(-1, 1, 9)
    x, y = np.meshgrid(a, a, indexing="ij")
    one = (a, a, 0.1 + x**2 + 2 * y**2)
    two = (a, a, 0.2 + 4 * x**2 + y**2 + x * y)
    small, large = {"plain": one, "filters": two}, {"plain": two, "filters": one}
    both = {"batch 10": small, "batch 100": large}
    return fl.widgets.loss_surface(both, points=[(0.5, 0.5, "other")])


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

    knob.press("ArrowRight")
    knob.press("Shift+ArrowDown")
    settle(page)
    assert place(page) == pytest.approx((0.54, 0.3), abs=0.02)
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
