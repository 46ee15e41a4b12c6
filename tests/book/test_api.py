"""The API reference: complete, each name once, and its examples run."""

import doctest
import importlib
import inspect
import re
import sys
from collections import Counter
from pathlib import Path

import pytest

import flatlab

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "book" / "_ext"))
api_pages = importlib.import_module("api_pages")

PAGES = sorted((ROOT / "book" / "api").glob("*.md"))


def names(page):
    marks = api_pages.MARK.finditer(page.read_text("utf-8"))
    return [name for mark in marks for name in mark[1].split()]


def test_every_public_name_is_documented_once():
    listed = Counter(name for page in PAGES for name in names(page))
    assert not [name for name, times in listed.items() if times > 1]
    documented = {id(api_pages.resolve(name)) for name in listed}
    missing = []
    opening = Path(flatlab.__file__).read_text("utf-8")
    for name in re.findall(r"^from flatlab\S* import \w+ as (\w+)$", opening, re.M):
        value = getattr(flatlab, name)
        parts = {name: value}
        if inspect.ismodule(value):  # whose functions are reached through it
            parts = {
                f"{name}.{part}": thing
                for part, thing in vars(value).items()
                if not part.startswith("_")
                and getattr(thing, "__module__", None) == value.__name__
            }
        missing += [part for part in parts if id(parts[part]) not in documented]
    assert not missing


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_every_group_opens_with_an_example_that_runs(page):
    if not names(page):
        pytest.skip("documents nothing")
    text = page.read_text("utf-8")
    (example,) = re.findall(r"^```python\n(.*?)^```", text, re.S | re.M)
    assert len(example.strip().splitlines()) <= 12
    test = doctest.DocTestParser().get_doctest(example, {}, page.name, page, 0)
    runner = doctest.DocTestRunner()
    assert runner.run(test).failed == 0
    assert test.examples


def test_the_reference_shows_and_finds_every_name(html):
    for page in PAGES:
        text = (html / "book" / "api" / f"{page.stem}.html").read_text("utf-8")
        ids = set(re.findall(r'id="([^"]+)"', text))
        for name in api_pages.with_results(names(page)):
            assert {f"flatlab.{name}", f"module-flatlab.{name}"} & ids, name
