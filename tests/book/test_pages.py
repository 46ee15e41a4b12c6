"""Every page of the book, opened in Chromium at all widths."""

import pytest


@pytest.mark.parametrize(
    "kind", ["formulas", "foreign", "complaints", "wide", "heavy", "axe"]
)
def test_no_page_is_wrong(seen, kind):
    """Formulas are drawn, nothing is fetched from elsewhere, no script complains.

    Nothing sticks out on any screen, the first view is light, and nothing keeps a
    keyboard or a screen reader out, in the light or in the dark.
    """
    assert {name: wrong[kind] for name, wrong in seen.items() if wrong[kind]} == {}


def test_nothing_is_cut_off(seen):
    """No formula, table, line of code or figure, on any screen."""
    assert {name: wrong["cut"] for name, wrong in seen.items() if wrong["cut"]} == {}
