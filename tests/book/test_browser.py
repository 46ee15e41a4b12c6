"""Pages opened in Chromium as a reader would: explorers, figures, search, a quiz."""

import pytest

from .conftest import ROOT, STILL, Visit, pages
from .look import OPEN, WIDTHS, colours, names, saved_explorers


@pytest.mark.slow
def test_every_page_can_be_read_in_the_light_and_in_the_dark(html, host, browser):
    wrong = {}
    for name in names(html):
        with Visit(browser, WIDTHS[0], reduced_motion="reduce") as visit:
            page = visit.open(f"{host}/{name}")
            page.add_style_tag(content=STILL)
            page.evaluate(OPEN)
            wrong[name] = colours(page)
    assert {name: found for name, found in wrong.items() if found} == {}


def test_code_and_formulas_can_be_read_by_everyone(host, browser):
    """On one page: the colours are those of all."""
    with Visit(browser, reduced_motion="reduce") as visit:
        page = visit.open(f"{host}/book/sam_bound.html")
        page.add_style_tag(content=STILL)
        page.evaluate("document.querySelectorAll('details').forEach(e => e.remove())")
        assert colours(page, beside="table, svg") == []


def from_a_folder(browser, path):
    with Visit(browser) as visit:
        page = visit.open(path.as_uri())
        drawn = page.locator("mjx-container").count()
        assert drawn >= page.locator(".math").count()
        explorers = page.locator(".fx:not(.live-network)")
        assert explorers.count() == len(saved_explorers(path))
        local = ("file:", "data:", "blob:")
        assert not [u for u in visit.requested if not u.startswith(local)]
        assert not visit.complaints


def test_a_page_with_everything_works_from_a_folder_without_a_server(html, browser):
    from_a_folder(browser, max(pages(html), key=lambda p: len(saved_explorers(p))))


@pytest.mark.slow
def test_every_page_works_from_a_folder_without_a_server(html, browser):
    for path in pages(html):
        from_a_folder(browser, path)


# -- explorers -----------------------------------------------------------------------


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


def test_every_explorer_of_the_book_responds(seen):
    wrong = {name: wrong["explorers"] for name, wrong in seen.items()}
    assert {name: found for name, found in wrong.items() if found} == {}


@pytest.mark.parametrize("served", [True, False])
def test_search_finds_a_term(html, host, browser, served):
    with Visit(browser) as visit:
        address = host if served else html.as_uri()
        page = visit.open(f"{address}/search.html?q=sharpness")
        page.wait_for_selector("#search-results li a[href*='glossary.html']")
        # Without a server the results have no excerpts, for which pages are fetched.
        assert not served or not visit.complaints


def test_figures_are_dark_in_dark_mode_and_light_on_paper(seen):
    wrong = {name: wrong["figures"] for name, wrong in seen.items()}
    assert {name: found for name, found in wrong.items() if found} == {}


def test_the_doors_stand_in_the_first_view(host, browser):
    with Visit(browser, 1280) as visit:
        visit.page.set_viewport_size({"width": 1280, "height": 800})
        page = visit.open(f"{host}/book/index.html")
        for name in page.locator(".doors strong").all():
            box = name.bounding_box()
            assert box["y"] + box["height"] <= 800, name.inner_text()


def test_the_static_figure_of_an_explorer_is_one_key_away(html, host, browser):
    path = next(path for path in pages(html) if saved_explorers(path))
    with Visit(browser) as visit:
        page = visit.open(f"{host}/{path.relative_to(html).as_posix()}")
        switch = page.get_by_role("button", name="Static figure").first
        cell = page.locator(".cell_output:has(.figure-switch)").first
        figure = cell.locator("> img, > figure").first
        explorer = cell.locator(".fx")
        for shown in (True, False):
            switch.press("Enter")
            assert figure.is_visible() == shown
            assert explorer.is_visible() != shown
            assert switch.get_attribute("aria-pressed") == str(shown).lower()
        page.emulate_media(media="print")
        assert figure.is_visible()
        assert not switch.is_visible() and not explorer.is_visible()


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
