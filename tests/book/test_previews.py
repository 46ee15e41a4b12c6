"""What a reference leads to is shown beside it, with no request and by keyboard too."""

import pytest

from .conftest import Visit

KINDS = {
    "citation": ("sam", "a.internal[href*='bibliography.html#']", "Foret"),
    "equation": ("sam_bound", "a.internal[href*='#equation-']", ""),
    "term": ("own_model", "a.internal[href*='#term-']", "loss"),
}


@pytest.mark.parametrize("kind", KINDS)
def test_a_reference_shows_what_it_leads_to(kind, html, browser):
    name, selector, word = KINDS[kind]
    with Visit(browser) as visit:
        page = visit.open((html / "book" / f"{name}.html").as_uri())
        before = len(visit.requested)
        link, box = page.locator(f"article {selector}").first, page.locator("#preview")
        link.scroll_into_view_if_needed()
        link.hover()
        box.wait_for(state="visible")
        assert word in box.inner_text()
        if kind == "equation":
            box.locator("mjx-container").wait_for()
        page.keyboard.press("Escape")
        assert box.is_hidden()
        page.mouse.move(0, 0)
        # the focus must come from the keyboard
        link.focus()
        page.keyboard.press("Shift+Tab")
        page.keyboard.press("Tab")
        box.wait_for(state="visible")
        assert link.get_attribute("aria-describedby") == box.get_attribute("id")
        fonts = [u for u in visit.requested[before:] if "/fonts/" not in u]
        assert not fonts and not visit.complaints
