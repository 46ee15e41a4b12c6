"""The scoreboard can be filtered, and shows all of itself without a script."""

import sys
from pathlib import Path

import pytest

from .conftest import PATIENCE, ROOT

sys.path.insert(0, str(ROOT / "book" / "_ext"))
import frontpage

sys.path.pop(0)

SCRIPT = Path(__file__).parents[2] / "book" / "_static" / "scoreboard.js"


@pytest.fixture
def page(browser):
    shown = browser.new_page()
    shown.set_default_timeout(PATIENCE)
    script = f"<script>{SCRIPT.read_text('utf-8')}</script>"
    shown.set_content(
        f"<!doctype html><title>s</title>{frontpage.scoreboard(ROOT)}{script}",
        wait_until="load",
    )
    yield shown
    shown.close()


def rows(page):
    return page.locator("table.scoreboard tbody tr:visible").count()


def test_rows_of_the_chosen_chapter_kind_and_verdict_are_left(page):
    claims = frontpage.read_registry(ROOT / "book" / "claims.toml")
    assert rows(page) == len(claims)
    page.select_option("select[name=chapter]", "asam")
    own = [c for c in claims.values() if c.chapter == "asam"]
    assert rows(page) == len(own)
    assert page.inner_text("output") == f"{len(own)} of {len(claims)} claims"
    page.select_option("select[name=kind]", "calculated")
    assert rows(page) == sum(c.kind == "calculated" for c in own)
    page.select_option("select[name=chapter]", "")
    page.select_option("select[name=kind]", "")
    assert rows(page) == len(claims)
