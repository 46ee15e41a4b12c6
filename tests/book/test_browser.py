"""Every page, opened in Chromium as a reader would."""

import os
import shutil
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

import pytest

from .conftest import pages

CHROMIUM = next(
    filter(None, map(shutil.which, ["chromium", "chromium-browser", "google-chrome"])),
    None,
)
if CHROMIUM is None and os.environ.get("CI") != "true":
    pytest.skip(
        "Chromium is not installed: pages are not opened in a browser",
        allow_module_level=True,
    )

FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
]
WIDTHS = (360, 390, 768, 1440)
# Chromium asks for an icon that the book does not have.
IGNORED = ("favicon.ico",)


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


@pytest.fixture(scope="module")
def browser():
    assert CHROMIUM, "Chromium is missing; the continuous integration must install it"
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield browser
        browser.close()


class Visit:
    """A page with a record of what it asked for and complained about."""

    def __init__(self, browser, width=1200, **options):
        self.context = browser.new_context(
            viewport={"width": width, "height": 900}, **options
        )
        self.page = self.context.new_page()
        self.requested, self.complaints = [], []
        self.page.on("request", lambda request: self.requested.append(request.url))
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.on("console", self.hear)
        self.page.on("requestfailed", lambda r: self.complaints.append(r.url))

    def hear(self, message):
        source = message.location.get("url", "")
        if message.type == "error" and not source.endswith(IGNORED):
            self.complaints.append(f"{message.text} {source}")

    def open(self, url):
        self.page.goto(url, wait_until="load")
        self.page.wait_for_function(
            "window.MathJax === undefined || !!window.MathJax.startup"
        )
        self.page.evaluate("window.MathJax?.startup?.promise")
        self.page.wait_for_function(
            "!document.querySelector('script[src*=static_anywidget]')"
            " || document.documentElement.dataset.widgets === 'ready'"
        )
        return self.page

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.context.close()


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


def test_search_finds_a_term(html, host, browser):
    with Visit(browser) as visit:
        page = visit.open(f"{host}/search.html?q=sharpness")
        page.wait_for_selector("#search-results li a")
        assert not visit.complaints


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
