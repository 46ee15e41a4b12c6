"""The quiz keeps the reader's first answers in their own browser, and saves them."""

import json
from pathlib import Path

import pytest

from .conftest import PATIENCE

SCRIPT = Path(__file__).parents[2] / "book" / "_static" / "quiz.js"
OPTION = "<details class='quiz-option'><summary>{}</summary><p>{}</p></details>"
PAGE = "<!doctype html><title>q</title><p>One?</p>" + OPTION.format("a", "Right.")
PAGE += OPTION.format("b", "Not quite.") + "<p>Two?</p>" + OPTION.format("c", "Right.")
PAGE += "<script src='quiz.js'></script>"


@pytest.fixture
def page(browser):
    shown = browser.new_page()
    shown.set_default_timeout(PATIENCE)
    files = {"/sam.html": ("text/html", PAGE)}
    files["/quiz.js"] = ("text/javascript", SCRIPT.read_text("utf-8"))

    def answer(route):
        kind, text = files[route.request.url.removeprefix("https://book.test")]
        route.fulfill(content_type=kind, body=text)

    shown.route("https://book.test/**", answer)
    shown.goto("https://book.test/sam.html")
    yield shown
    shown.close()


def test_the_first_answer_counts_and_stays(page):
    page.click("text=b")
    page.click("text=a")
    page.click("text=c")
    page.wait_for_function("Object.keys(localStorage).length == 1")
    page.wait_for_function("JSON.parse(localStorage['flatlab-quiz-sam'])[2]")
    page.reload()
    assert page.eval_on_selector_all("details", "d => d.map(o => o.open)") == [
        False,
        True,
        True,
    ]
    with page.expect_download() as saved:
        page.click("text=Save my first answers")
    assert saved.value.suggested_filename == "quiz-sam.json"
    found = json.loads(Path(saved.value.path()).read_text("utf-8"))
    assert found["quiz"] == "sam"
    assert found["answers"] == {
        "1": {"choice": 2, "right": False},
        "2": {"choice": 1, "right": True},
    }
