"""What every page of the built book must and must not contain."""

import re
from collections import Counter, defaultdict
from copy import copy
from urllib.parse import unquote, urlsplit

import pytest
from bs4 import BeautifulSoup

from flatlab.course.claims import read_registry

from .conftest import pages

# Places from which a browser fetches by itself, unlike the target of a link.
FETCHED = [
    ("script", "src"),
    ("img", "src"),
    ("img", "srcset"),
    ("source", "src"),
    ("iframe", "src"),
    ("object", "data"),
    ("video", "src"),
    ("audio", "src"),
    ("embed", "src"),
]
LOADING_LINKS = {"stylesheet", "icon", "preload", "prefetch", "preconnect", "manifest"}


@pytest.fixture(scope="module")
def soups(html):
    return {
        page: BeautifulSoup(page.read_text(), "html.parser") for page in pages(html)
    }


def test_no_page_fetches_from_another_host(html, soups):
    foreign = []
    for page, soup in soups.items():
        found = [e.get(key) for tag, key in FETCHED for e in soup.find_all(tag)]
        found += [
            link.get("href")
            for link in soup.find_all("link")
            if LOADING_LINKS & set(link.get("rel", []))
        ]
        for style in [*soup.find_all("style"), *soup.find_all(style=True)]:
            text = style.get("style") or style.get_text()
            found += re.findall(r"url\(['\"]?([^'\")]+)", text)
        foreign += [
            (page.name, url) for url in found if url and re.match(r"(https?:)?//", url)
        ]
    assert not foreign
    for sheet in (html / "_static").glob("**/*.css"):
        text = sheet.read_text(errors="replace")
        assert not re.search(r"(url\(['\"]?|@import ['\"])(https?:)?//", text), sheet


def test_every_image_has_a_sentence_for_those_who_cannot_see_it(html, soups):
    wrong = []
    for page, soup in soups.items():
        article = soup.find("article")
        for image in article.find_all("img"):
            alt = (image.get("alt") or "").strip()
            if not re.fullmatch(r"[A-Z0-9*].*\.", alt, re.S) or len(alt.split()) < 5:
                wrong.append((page.name, image.get("src"), alt))
    assert not wrong


def test_figures_are_fetched_late_into_boxes_of_their_size(soups):
    images = [
        image
        for soup in soups.values()
        for image in soup.select('article img[src*="_images/"]')
    ]
    assert images
    for image in images:
        assert image.get("loading") == "lazy", image
        assert image.get("width") and image.get("height"), image


def test_no_page_has_an_id_twice(soups):
    twice = {}
    for page, soup in soups.items():
        ids = Counter(e["id"] for e in soup.find_all(id=True))
        twice[page.name] = [name for name, n in ids.items() if n > 1]
    assert {name: found for name, found in twice.items() if found} == {}


def test_every_link_within_the_book_leads_somewhere(html, soups):
    everything = {
        path: {e.get("id") or e.get("name") for e in soup.find_all(id=True)}
        | {a["name"] for a in soup.find_all("a", attrs={"name": True})}
        for path, soup in soups.items()
    }
    broken = []
    for page, soup in soups.items():
        for link in soup.find_all("a", href=True):
            url = urlsplit(link["href"])
            if url.scheme or url.netloc:
                continue
            target = page if not url.path else (page.parent / unquote(url.path))
            target = target.resolve()
            anchor = unquote(url.fragment)
            if not target.exists() or (
                anchor
                and target in everything
                and anchor not in everything[target]
                and anchor not in ("top", "pst-back-to-top")
            ):
                broken.append((page.name, link["href"]))
    assert not broken


def test_no_page_shows_a_failure_or_something_unrendered(html, soups):
    wrong = []
    for page, soup in soups.items():
        article = copy(soup.find("article"))
        if article.select(".traceback, .error-output, .output.error, .system-message"):
            wrong.append((page.name, "an error output"))
        for code in article.find_all(["script", "style"]):
            code.decompose()
        if "(???)" in article.get_text():
            wrong.append((page.name, "(???)"))
        # Formulas stand in elements of their own; what is left is plain prose.
        for quoted in article.select(".math, code, pre"):
            quoted.decompose()
        text = article.get_text()
        wrong += [
            (page.name, found)
            for found in re.findall(
                r"\$\$?[^$\n]{1,60}\$|\\(?:begin|frac|mathbb|lVert)\b"
                r"|\{(?:cite|eq|term|ref|doc)(?::\w+)?\}|:::+|Traceback \(most",
                text,
            )
        ]
    assert not wrong


def test_the_first_page_says_how_every_chapter_came_out(html, soups):
    article = soups[html / "book" / "index.html"].article
    shown = {}
    for question in article.find_all("dd"):
        link = question.find_previous("dt").a["href"]
        total, *parts = map(int, re.findall(r"\d+", question.em.text))
        assert sum(parts) == total, question.em.text
        shown[link.removesuffix(".html")] = total
    claimed = Counter(c.chapter for c in read_registry().values())
    assert shown == dict(claimed)


def test_each_chapter_can_be_walked_through_from_first_to_last(html, soups):
    page = html / "book" / "index.html"
    seen = []
    while page not in seen:
        seen.append(page)
        following = soups[page].select_one("a.right-next")
        if following is None:
            break
        page = (page.parent / following["href"]).resolve()
    assert set(seen) == set(soups)


def test_a_citation_names_one_work(html, soups):
    """Works of the same authors and year are told apart, here and in the list."""
    works = defaultdict(set)
    for soup in soups.values():
        for link in soup.select("article a.reference[href*='bibliography.html#id']"):
            works[link.get_text()].add(link["title"])
    whole = {name: found for name, found in works.items() if "," in name}
    assert whole
    assert {name: found for name, found in whole.items() if len(found) > 1} == {}
    lettered = {name[-5:] for name in works if re.search(r"\d{4}[a-z]$", name)}
    assert {"2023a", "2023b"} <= lettered
    listed = soups[html / "book" / "bibliography.html"].get_text()
    assert [letters for letters in lettered if letters not in listed] == []


def test_every_page_has_a_copy_in_markdown_that_llms_txt_lists(html):
    listed = re.findall(r"\]\(([^)]+\.md)\)", (html / "llms.txt").read_text("utf-8"))
    expected = {
        page.with_suffix(".md").relative_to(html).as_posix() for page in pages(html)
    }
    assert set(listed) == expected and len(listed) == len(expected)
    for name in listed:
        assert (html / name).read_text("utf-8").lstrip().startswith("#"), name
