"""Every page, opened in Chromium as a reader would."""

import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

import pytest
from axe_playwright_python.sync_playwright import Axe

from .conftest import Visit, pages

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


def test_a_page_works_from_a_folder_without_a_server(html, browser):
    with Visit(browser) as visit:
        page = visit.open((html / "book" / "notation.html").as_uri())
        assert page.locator("mjx-container").count() > 0
        assert all(u.startswith(("file:", "data:", "blob:")) for u in visit.requested)


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


@pytest.mark.parametrize(("scheme", "width"), [("light", 360), ("dark", 1200)])
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
