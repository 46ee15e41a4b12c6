"""Every page, opened in Chromium as a reader would."""

import gzip
import json
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

import pytest
from axe_playwright_python.sync_playwright import Axe
from bs4 import BeautifulSoup

from .conftest import ROOT, Visit, drag, pages, settle, touch

WIDTHS = (360, 390, 768, 1440)


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_):
        pass


@pytest.fixture(scope="module")
def host(html):
    handler = partial(Quiet, directory=html)
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()


def check_page(page):
    """Formulas are drawn, and nothing sticks out on any screen."""
    formulas = page.locator(".math").count()
    drawn = page.locator("mjx-container").count()
    assert page.locator("mjx-merror").count() == 0
    assert drawn >= formulas
    for width in WIDTHS:
        page.set_viewport_size({"width": width, "height": 900})
        page.wait_for_timeout(150)
        assert page.evaluate("document.documentElement.scrollWidth") <= width, width
        assert not page.evaluate(  # titles of the neighbouring pages are not cut off
            """[...document.querySelectorAll(".prev-next-area a")]
               .filter((e) => e.scrollWidth > e.clientWidth + 1)
               .map((e) => e.textContent.trim())"""
        )
    # On the widest screen no displayed formula has to be scrolled: break it instead.
    assert not page.evaluate(
        """[...document.querySelectorAll("mjx-container[display=true]")]
           .filter((e) => e.scrollWidth > e.clientWidth + 1)
           .map((e) => e.textContent.slice(0, 40))"""
    )


def test_every_page_is_complete_by_itself_and_fits_every_screen(html, host, browser):
    wrong = []
    found = pages(html)
    assert found
    for path in found:
        with Visit(browser) as visit:
            try:
                check_page(visit.open(f"{host}/{path.relative_to(html).as_posix()}"))
            except AssertionError as error:
                wrong.append((path.name, str(error)))
            foreign = [
                url
                for url in visit.requested
                if not url.startswith((host, "data:", "blob:"))
            ]
            wrong += [(path.name, what) for what in foreign + visit.complaints]
    assert not wrong


def test_every_page_works_from_a_folder_without_a_server(html, browser):
    wrong = []
    for path in pages(html):
        with Visit(browser) as visit:
            page = visit.open(path.as_uri())
            formulas = page.locator(".math").count()
            if page.locator("mjx-container").count() < formulas:
                wrong.append((path.name, "formulas"))
            if page.locator(".fx").count() != len(saved_explorers(path)):
                wrong.append((path.name, "explorers"))
            local = ("file:", "data:", "blob:")
            foreign = [u for u in visit.requested if not u.startswith(local)]
            wrong += [(path.name, what) for what in foreign + visit.complaints]
    assert not wrong


LIMIT = 1_500_000  # bytes


def test_the_first_view_of_a_page_is_light(html, host, browser):
    """What comes over the wire, where the server compresses text."""
    heavy = []
    for path in pages(html):
        with Visit(browser, 390) as visit:
            bodies = []
            visit.page.on("requestfinished", lambda r, to=bodies: to.append(r))
            page = visit.open(f"{host}/{path.relative_to(html).as_posix()}")
            page.wait_for_timeout(500)  # fonts come last
            total = 0
            for request in bodies:
                if not request.url.startswith(host):
                    continue  # made in the page itself
                body = request.response().body()
                total += min(len(body), len(gzip.compress(body, 6)))
        if total > LIMIT:
            heavy.append((path.name, total))
    assert not heavy


# -- explorers -----------------------------------------------------------------------


def saved_explorers(path):
    """Models of the explorers that a page shows."""
    soup = BeautifulSoup(path.read_text("utf-8"), "html.parser")
    state = soup.find("script", type="application/vnd.jupyter.widget-state+json")
    if state is None:
        return []
    models = json.loads(state.string)["state"]
    views = soup.find_all("script", type="application/vnd.jupyter.widget-view+json")
    shown = [models[json.loads(view.string)["model_id"]] for view in views]
    return [model for model in shown if "_esm" in model["state"]]


def test_the_notebooks_explorers_are_in_their_pages(html):
    notebooks = [
        p
        for p in (ROOT / "book").glob("*.ipynb")
        if "explorers" in p.read_text("utf-8")
    ]
    built = {page.stem for page in pages(html)}
    wanted = {p.stem for p in notebooks} & built
    assert wanted
    assert wanted == {p.stem for p in pages(html) if saved_explorers(p)}


def operate(page, explorer, way):
    """Move something: keys a slider, hands a point where there is one."""
    knob, sliders = explorer.locator(".fx-knob"), explorer.locator("input[type=range]")
    if way == "keys":
        control = sliders.first if sliders.count() else explorer.locator("select").first
        at_start = control.evaluate("e => Number(e.value) === Number(e.min)")
        control.press("End" if at_start or not sliders.count() else "Home")
    elif knob.count():
        knob.scroll_into_view_if_needed()
        (drag if way == "mouse" else touch)(page, knob, 30, 20)
    elif sliders.count():
        control = sliders.first
        control.scroll_into_view_if_needed()
        box = control.bounding_box()
        low = control.evaluate("e => (e.value - e.min) < (e.max - e.min) / 2")
        x = box["x"] + box["width"] * (0.95 if low else 0.05)
        tap = page.mouse.click if way == "mouse" else page.touchscreen.tap
        tap(x, box["y"] + box["height"] / 2)
    else:
        explorer.locator("select").first.select_option(index=1)
    settle(page)


@pytest.mark.parametrize("way", ["mouse", "touch", "keys"])
def test_every_explorer_of_the_book_responds(html, host, browser, way):
    phone = dict(width=390, has_touch=True, is_mobile=True)
    silent = []
    for path in pages(html):
        if not saved_explorers(path):
            continue
        with Visit(browser, **(phone if way == "touch" else {})) as visit:
            page = visit.open(f"{host}/{path.relative_to(html).as_posix()}")
            for i, explorer in enumerate(page.locator(".fx").all()):
                cell = page.locator(".cell_output").filter(has=explorer)
                figures = cell.locator("> img, > figure")
                if not figures.count() or figures.first.is_visible():
                    silent.append((path.name, i, "no hidden figure"))
                picture = explorer.locator(".fx-panels")
                before = picture.inner_html(), picture.screenshot()
                operate(page, explorer, way)
                after = picture.inner_html(), picture.screenshot()
                if before[0] == after[0] or before[1] == after[1]:
                    silent.append((path.name, i, "did not change"))
            silent += [(path.name, what) for what in visit.complaints]
    assert not silent


@pytest.mark.parametrize("served", [True, False])
def test_search_finds_a_term(html, host, browser, served):
    with Visit(browser) as visit:
        address = host if served else html.as_uri()
        page = visit.open(f"{address}/search.html?q=sharpness")
        page.wait_for_selector("#search-results li a[href*='glossary.html']")
        # Without a server the results have no excerpts, for which pages are fetched.
        assert not served or not visit.complaints


def test_figures_keep_a_light_ground_in_dark_mode(html, host, browser):
    with Visit(browser, color_scheme="dark") as visit:
        page = visit.open(f"{host}/book/notation.html")
        assert page.evaluate("document.documentElement.dataset.theme") == "dark"
        page.evaluate(
            "document.querySelector('article').append(document.createElement('img'))"
        )
        colour = page.evaluate(
            "getComputedStyle(document.querySelector('article > img')).backgroundColor"
        )
        assert colour == "rgb(255, 255, 255)"


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [360, 1200])
def test_nothing_keeps_a_keyboard_or_a_screen_reader_out(
    html, host, browser, scheme, width
):
    wrong = []
    for path in pages(html):
        with Visit(browser, width, color_scheme=scheme) as visit:
            page = visit.open(f"{host}/{path.relative_to(html).as_posix()}")
            page.evaluate(
                "document.querySelectorAll('details').forEach(e => e.open = 1)"
            )
            page.wait_for_timeout(1000)  # opened boxes fade in
            wrong += [
                (path.name, found["id"], found["nodes"][0]["html"][:150])
                for found in Axe().run(page).response["violations"]
                if found["impact"] in ("serious", "critical")
            ]
    assert not wrong


@pytest.mark.parametrize("script", [True, False])
def test_a_quiz_answers_the_option_chosen_by_keyboard(html, host, browser, script):
    with Visit(browser, 390, java_script_enabled=script) as visit:
        page = visit.page
        page.goto(f"{host}/book/memorization.html")
        options = page.locator("details.quiz-option")
        assert options.count() >= 6
        first, second = options.nth(0), options.nth(1)
        # What a screen reader calls the thing to choose is the option, all of it.
        title = second.locator("summary .sd-summary-text").inner_text()
        shown = second.locator("summary").aria_snapshot()
        assert " ".join(title.split()) in " ".join(shown.split())
        why = second.locator(".sd-summary-content")
        assert not why.is_visible()
        first.locator("summary").focus()
        page.keyboard.press("Tab")
        page.keyboard.press("Enter")
        assert why.is_visible()
        assert why.inner_text().startswith(("Right.", "Not quite."))
        assert not first.locator(".sd-summary-content").is_visible()
        page.keyboard.press("Enter")
        assert not why.is_visible()
