"""Widgets live in a page without a kernel: saved by ipywidgets, shown by our script."""

import json
from pathlib import Path

import anywidget
import ipywidgets
import numpy as np
import pytest
import traitlets
from ipywidgets.embed import embed_data

from .conftest import ROOT, Visit

SCRIPT = ROOT / "book" / "_static" / "static_anywidget.js"

SUM = """
export default {
  initialize({ model }) { window.started = (window.started ?? 0) + 1; },
  render({ model, el }) {
    const button = document.createElement("button");
    const floats = (b) =>
      new Float32Array(b.buffer.slice(b.byteOffset, b.byteOffset + b.byteLength));
    const total = () => floats(model.get("numbers")).reduce((a, b) => a + b, 0);
    const nested = () => floats(model.get("nested").deep[1]).reduce((a, b) => a + b, 0);
    const draw = () => {
      button.textContent = `${total()} ${nested()} ${model.get("clicks")}`;
    };
    button.onclick = () => {
      model.set("clicks", model.get("clicks") + 1);
      model.save_changes();
    };
    model.on("change:clicks", draw);
    draw();
    el.append(button);
  },
};
"""


class Sum(anywidget.AnyWidget):
    _esm = SUM
    _css = "button { color: rgb(1, 2, 3); }"
    numbers = traitlets.Bytes().tag(sync=True)
    nested = traitlets.Dict().tag(sync=True)
    clicks = traitlets.Int(0).tag(sync=True)


class Broken(anywidget.AnyWidget):
    _esm = "export function render() { throw new Error('meant to fail'); }"


class Parent(anywidget.AnyWidget):
    _esm = """
    export async function render({ model, el }) {
      const child = await model.widget_manager.get_model(model.get("child"));
      const show = () => { el.textContent = `child at ${child.get("clicks")}`; };
      child.on("change:clicks", show);
      show();
    }
    """
    child = traitlets.Instance(ipywidgets.Widget).tag(
        sync=True, **ipywidgets.widget_serialization
    )


@pytest.fixture
def widgets():
    numbers = np.array([1, 2, 3.5], "<f4").tobytes()
    deep = np.array([10, 20], "<f4").tobytes()
    first = Sum(numbers=numbers, nested={"deep": [0, deep]})
    return [first, Broken(), Parent(child=first), ipywidgets.IntSlider(), first]


@pytest.fixture
def page(widgets, tmp_path):
    state = embed_data(views=widgets, drop_defaults=False)["manager_state"]
    views = "".join(
        '<img alt="figure"><script type="application/vnd.jupyter.widget-view+json">'
        f"{json.dumps({'model_id': w.model_id})}</script>"
        for w in widgets
    )
    path: Path = tmp_path / "page.html"
    path.write_text(
        "<!doctype html><html><head>"
        '<script type="application/vnd.jupyter.widget-state+json">'
        f"{json.dumps(state)}</script>"
        f"</head><body>{views}<script>{SCRIPT.read_text()}</script></body></html>"
    )
    return path


def test_widgets_are_drawn_from_their_saved_state_and_respond(browser, page):
    with Visit(browser) as visit:
        visit.page.goto(page.as_uri())
        visit.page.wait_for_selector("html[data-widgets=ready]")
        buttons = visit.page.locator("button")
        assert buttons.all_text_contents() == ["6.5 30 0", "6.5 30 0"]
        parent = visit.page.get_by_text("child at")
        assert parent.text_content() == "child at 0"

        # Two views and a parent share one model: all of them follow.
        buttons.first.click()
        assert buttons.all_text_contents() == ["6.5 30 1", "6.5 30 1"]
        assert parent.text_content() == "child at 1"
        assert visit.page.evaluate("window.started") == 1

        # The style sheet is there once; a failing widget is told and stops no other.
        assert visit.page.locator("head style").count() == 1
        colour = buttons.first.evaluate("e => getComputedStyle(e).color")
        assert colour == "rgb(1, 2, 3)"
        assert visit.page.locator(".static-widget").count() == 3
        assert (
            len(visit.complaints) == 1 and "could not be shown" in visit.complaints[0]
        )


def test_a_page_without_widgets_is_left_alone(browser, tmp_path):
    path = tmp_path / "page.html"
    path.write_text(f"<!doctype html><p>text</p><script>{SCRIPT.read_text()}</script>")
    with Visit(browser) as visit:
        visit.page.goto(path.as_uri())
        visit.page.wait_for_selector("html[data-widgets=ready]")
        assert visit.page.locator(".static-widget").count() == 0
        assert not visit.complaints
