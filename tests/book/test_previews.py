"""What a reference leads to is shown beside it, with no request and by keyboard too."""

import pytest

from .conftest import Visit

KINDS = {
    "citation": ("sam", "a.internal[href*='bibliography.html#']", "Foret"),
    "equation": ("sam_bound", "a.internal[href*='#equation-']", ""),
    "term": ("own_model", "a.internal[href*='#term-']", "loss"),
}


# Fetch the figures now that would be when they come into view.
FIGURES = """Promise.all([...document.images].map((image) => {
    image.loading = "eager";
    return image.decode().catch(() => {});
}))"""


@pytest.mark.parametrize("kind", KINDS)
def test_a_reference_shows_what_it_leads_to(kind, html, browser):
    name, selector, word = KINDS[kind]
    with Visit(browser) as visit:
        page = visit.open((html / "book" / f"{name}.html").as_uri())
        link, box = page.locator(f"article {selector}").first, page.locator("#preview")
        link.scroll_into_view_if_needed()
        page.evaluate(FIGURES)
        before = len(visit.requested)
        link.hover()
        box.wait_for(state="visible")
        assert word in box.inner_text()
        if kind == "equation":
            box.locator("mjx-container").wait_for()
        assert not [u for u in visit.requested[before:] if "/fonts/" not in u]
        page.keyboard.press("Escape")
        assert box.is_hidden()
        page.mouse.move(0, 0)
        # the focus must come from the keyboard
        link.focus()
        page.keyboard.press("Shift+Tab")
        page.keyboard.press("Tab")
        box.wait_for(state="visible")
        assert link.get_attribute("aria-describedby") == box.get_attribute("id")
        # the pointer, which shows it and hides it, takes nothing from the keyboard
        link.evaluate(
            """(link) => {
              link.dispatchEvent(new MouseEvent("mouseleave"));
              return new Promise((end) => setTimeout(end, 300));
            }"""
        )
        assert box.is_visible()
        assert not visit.complaints
