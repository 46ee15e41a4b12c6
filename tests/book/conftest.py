"""The book as the tests see it: built once, at the smallest scale."""

import json
import os
import re
import shutil
import subprocess
import sys
import threading
from contextlib import suppress
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace

import pytest
from filelock import FileLock, Timeout

ROOT = Path(__file__).parents[2]

CHROMIUM = next(
    filter(None, map(shutil.which, ["chromium", "chromium-browser", "google-chrome"])),
    None,
)
FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
]
# Chromium asks for an icon that the book does not have.
IGNORED = ("favicon.ico",)


def jupyter_book(source, output, *options, **environment):
    """Build a book as `make book` does; returns the finished process."""
    process = subprocess.run(
        [
            *(Path(sys.executable).with_name("jupyter-book"), "build", source),
            *("--path-output", output, "-n", "-W", "--keep-going", *options),
        ],
        env={**os.environ, **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    process.stdout = re.sub(r"\x1b\[[0-9;]*m", "", process.stdout)  # colours
    return process


@pytest.fixture(scope="session")
def built(testrun_uid):
    """The process that built the book, and the folder of its pages.

    One worker builds it, for all.
    """
    if os.environ.get("FLATLAB_HTML"):
        pytest.skip("FLATLAB_HTML names a book that is built already")
    output = ROOT / "_build" / "smoke"
    output.mkdir(parents=True, exist_ok=True)
    said = output / "said.json"
    with FileLock(output / "lock"):
        found = json.loads(said.read_text()) if said.exists() else {}
        if found.get("run") != testrun_uid:
            process = jupyter_book(ROOT, output, FLATLAB_SCALE="smoke")
            found = {"run": testrun_uid, "returncode": process.returncode}
            found["stdout"] = process.stdout
            said.write_text(json.dumps(found))
    return SimpleNamespace(**found), output / "_build" / "html"


@pytest.fixture(scope="session")
def html(request):
    """Folder of the built book.

    With FLATLAB_HTML=_build/html the tests look at a book that is already there.
    """
    if os.environ.get("FLATLAB_HTML"):
        return ROOT / os.environ["FLATLAB_HTML"]
    process, folder = request.getfixturevalue("built")
    if process.returncode:
        pytest.fail("the book does not build: see test_build.py", pytrace=False)
    return folder


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_):
        pass


@pytest.fixture(scope="session")
def host(html):
    """Address of the built book."""
    handler = partial(Quiet, directory=html)
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()


@pytest.fixture(scope="session")
def seen(html, host, browser, testrun_uid, tmp_path_factory):
    """What is wrong with each page, by the page's name.

    Workers that ask for it share the pages among them.
    """
    from .look import SAMPLE, look, names

    folder = tmp_path_factory.getbasetemp()
    if os.environ.get("PYTEST_XDIST_WORKER"):
        folder = folder.parent
    (folder := folder / f"seen-{testrun_uid}").mkdir(exist_ok=True)
    found = {}
    for patience in (0, -1):  # what another looks at is waited for at the end
        for name in names(html):
            file = folder / f"{name.replace('/', '-')}.json"
            with suppress(Timeout), FileLock(f"{file}.lock", timeout=patience):
                if not file.exists():
                    address = f"{host}/{name}"
                    wrong = look(browser, html / name, address, host, name in SAMPLE)
                    file.write_text(json.dumps(wrong))
                found[name] = json.loads(file.read_text())
    return found


def pages(html):
    """Every page of the built book that has text of its own."""
    return sorted((html / "book").rglob("*.html"))


@pytest.fixture(scope="session")
def browser():
    """Chromium. Where it is missing, tests skip; where CI=true, they fail."""
    if CHROMIUM is None:
        word = pytest.fail if os.environ.get("CI") == "true" else pytest.skip
        word("Chromium is not installed, so pages are not opened in a browser")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=CHROMIUM, args=FLAGS, timeout=PATIENCE
        )
        yield browser
        browser.close()


# Nothing moves, so that nothing has to be waited for.
STILL = (
    "*, ::before, ::after { animation: none !important; transition: none !important }"
)
PATIENCE = 300_000  # milliseconds: how long something takes is not what is tested


class Visit:
    """A page with a record of what it asked for and complained about."""

    def __init__(self, browser, width=1200, **options):
        self.context = browser.new_context(
            viewport={"width": width, "height": 900}, **options
        )
        self.context.set_default_timeout(PATIENCE)
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


def settle(page, frames=2):
    """Wait until what was asked for is drawn."""
    page.evaluate(
        """(frames) => new Promise((end) => {
          const next = () => (frames-- ? requestAnimationFrame(next) : end());
          next();
        })""",
        frames,
    )


def drag(page, knob, dx, dy):
    """Move a knob with the mouse."""
    box = knob.bounding_box()
    x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    page.mouse.move(x, y)
    page.mouse.down()
    page.mouse.move(x + dx / 2, y + dy / 2)
    page.mouse.move(x + dx, y + dy)
    page.mouse.up()


def touch(page, knob, dx, dy):
    """Move a knob with a finger, in ten steps."""
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
