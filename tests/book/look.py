"""A page looked at once, at all widths: what is wrong with it, by kind."""

import gzip
import io
import json
import re
from functools import cache

from axe_playwright_python.sync_playwright import Axe
from PIL import Image
from playwright.sync_api import TimeoutError

from .conftest import STILL, Visit, drag, pages, settle, touch

WIDTHS = (390, 360, 1200, 1280)  # the first view is that of a phone
LIMIT = 1_000_000  # bytes of the first view

OPEN = "document.querySelectorAll('details').forEach((e) => (e.open = true))"

# Titles of the neighbouring pages are not cut off.
TITLES = """[...document.querySelectorAll(".prev-next-area a")]
    .filter((e) => e.scrollWidth > e.clientWidth + 1)
    .map((e) => e.textContent.trim())"""

# What is wider than its box, and neither broken nor in a box that can be scrolled by
# keyboard and shows that it goes on.
CUT_OFF = """() => {
  const article = document.querySelector("article");
  const shows = (e) =>
    e.tabIndex >= 0 &&
    [e, ...e.querySelectorAll(":scope > *")].some(
      (part) => getComputedStyle(part).maskImage !== "none",
    );
  const scrolls = (e) => /auto|scroll/.test(getComputedStyle(e).overflowX);
  const name = (e) =>
    `${e.localName}${e.className && `.${[...e.classList].join(".")}`}: ` +
    e.textContent.trim().replace(/\\s+/g, " ").slice(0, 60);
  const cut = new Set();
  const edge = article.getBoundingClientRect().right + 1;
  const kinds = "mjx-container, table, pre, pre .line, img, figure, canvas, svg, .fx";
  for (const e of article.querySelectorAll(kinds)) {
    if (!e.checkVisibility() || e.closest("mjx-assistive-mml")) continue;
    const inside = e.localName === "mjx-container" ? e.querySelector("mjx-math") : e;
    const box = inside.getBoundingClientRect();
    if (!box.width || e.parentElement.closest("svg")) continue;
    const wider = e === inside && e.clientWidth && e.scrollWidth > e.clientWidth + 1;
    if (wider && !(scrolls(e) && shows(e))) cut.add(name(e));
    for (let up = inside.parentElement; up !== article; up = up.parentElement) {
      if (getComputedStyle(up).overflowX === "visible") continue;
      const room = up.getBoundingClientRect().left + up.clientLeft + up.clientWidth;
      if (box.right <= room + 1) continue;
      if (!scrolls(up) || !shows(up)) cut.add(name(e));
      box.width = room - box.left; // the rest is for that box to show
    }
    if (box.right > edge) cut.add(name(e));
    if (e === inside) continue;
    // A formula: its symbols are not cut off at the left, nor do they meet its number.
    const left = e.getBoundingClientRect().left - 1;
    const right = scrolls(e) ? e.getBoundingClientRect().right : Infinity;
    const number = e.closest("div.math")?.querySelector(":scope > .eqno");
    const n = number?.getBoundingClientRect();
    for (const part of inside.querySelectorAll("mjx-mi, mjx-mo, mjx-mn, mjx-mtext")) {
      const p = part.getBoundingClientRect();
      if (p.width && p.left < left && !e.scrollLeft) cut.add(`left of ${name(e)}`);
      if (!n || p.left > right) continue;
      const beside = Math.min(p.right, right) > n.left + 1;
      if (beside && p.bottom > n.top + 1 && p.top < n.bottom - 1)
        cut.add(`number on ${name(e)}`);
    }
  }
  return [...cut];
}"""


CODE = "pre, mjx-container"  # each symbol an element, and all of a few colours


def violations(page, *rules, beside=CODE, more=()):
    """What axe finds serious, by all rules but that of colours or by the given ones.

    ``more`` are rules beside all of axe's own choice.
    """
    options = {"resultTypes": ["violations"]}
    if rules:
        options["runOnly"] = list(rules)
    else:
        options["rules"] = {"color-contrast": {"enabled": False}}
        options["rules"] |= {rule: {"enabled": True} for rule in more}
    context = {"exclude": [[part.strip()] for part in beside.split(",")]}
    found = Axe().run(page, context=context, options=options).response["violations"]
    return [
        (one["id"], one["nodes"][0]["html"][:150])
        for one in found
        if one["impact"] != "minor"
    ]


def weight(requests, host):
    """Bytes over the wire, where the server compresses text."""
    bodies = [r.response().body() for r in requests if r.url.startswith(host)]
    return sum(min(len(body), len(gzip.compress(body, 6))) for body in bodies)


def resize(page, width):
    """Give the page a width, and the time that its own script asks for."""
    page.set_viewport_size({"width": width, "height": 900})
    # also where it has that width, but what is in it has changed
    page.evaluate(
        """() => {
          delete document.documentElement.dataset.measured;
          dispatchEvent(new Event("resize"));
        }"""
    )
    page.wait_for_function(f"document.documentElement.dataset.measured === '{width}'")


def colours(page, beside=CODE):
    """What of a page cannot be read in the light or in the dark."""
    found = []
    for theme in ("light", "dark"):
        page.evaluate(f"document.documentElement.dataset.theme = '{theme}'")
        found += violations(page, "color-contrast", beside=beside)
    return found


@cache
def saved_explorers(path):
    """Models of the explorers that a page shows."""
    page = path.read_text("utf-8")
    script = r'<script type="application/vnd.jupyter.widget-%s\+json">(.*?)</script>'
    states, views = (
        [json.loads(text) for text in re.findall(script % kind, page, re.S)]
        for kind in ("state", "view")
    )
    shown = [s["state"][view["model_id"]] for s in states for view in views]
    return [model for model in shown if "_esm" in model["state"]]


def operate(page, explorer, way):
    """Move something: keys a slider, hands a point where there is one.

    Returns:
        Whether the picture has changed by it.
    """
    picture = explorer.locator(".fx-panels")
    before = picture.inner_html()
    knob, sliders = explorer.locator(".fx-knob"), explorer.locator("input[type=range]")
    if way == "keys":
        control = sliders.first if sliders.count() else explorer.locator("select").first
        at_start = control.evaluate("e => Number(e.value) === Number(e.min)")
        control.press("End" if at_start or not sliders.count() else "Home")
    elif knob.count():
        knob.scroll_into_view_if_needed()
        (drag if way == "mouse" else touch)(page, knob, 30, 20)
    elif sliders.count():
        control = sliders.first
        control.scroll_into_view_if_needed()
        box = control.bounding_box()
        low = control.evaluate("e => (e.value - e.min) < (e.max - e.min) / 2")
        x = box["x"] + box["width"] * (0.95 if low else 0.05)
        tap = page.mouse.click if way == "mouse" else page.touchscreen.tap
        tap(x, box["y"] + box["height"] / 2)
    else:
        choice = explorer.locator("select").first
        choice.select_option(index=int(choice.evaluate("e => e.selectedIndex") != 1))
    try:  # a tap is a click only when the browser has seen that it is no more
        page.wait_for_function(
            "([picture, before]) => picture.innerHTML !== before",
            arg=[picture.element_handle(), before],
        )
    except TimeoutError:
        return False
    settle(page)
    return True


def silent(page):
    """The explorers of a page that do not answer, or not in place of a figure."""
    found = []
    for i, explorer in enumerate(page.locator(".cell_output .fx").all()):
        cell = explorer.locator("xpath=ancestor::div[contains(@class, 'cell_output')]")
        figures = cell.locator("> img, > figure")
        if not figures.count() or figures.first.is_visible():
            found.append((i, "no hidden figure"))
        picture = explorer.locator(".fx-panels")
        before = picture.screenshot()
        for way in ("keys", "mouse", "touch"):
            if not operate(page, explorer, way):
                return [*found, (i, f"no answer to {way}")]
            after = picture.screenshot()
            if after == before:
                found.append((i, f"no answer to {way} to be seen"))
            before = after
    return found


def grounds(figure):
    """Luminance of a figure's corners, from 0 to 255, as they are shown."""
    figure.evaluate("(e) => { e.loading = 'eager'; return e.decode(); }")
    shown = Image.open(io.BytesIO(figure.screenshot())).convert("L")
    w, h = shown.size
    return {shown.getpixel((x, y)) for x in (2, w - 3) for y in (2, h - 3)}


def slabs(page):
    """Figures that are light in dark mode, or dark on paper."""
    figures = page.locator("article img[src*=_images]").all()
    figures = [figure for figure in figures if figure.is_visible()]
    if not figures:
        return []
    theme = "document.documentElement.dataset.theme"
    page.emulate_media(color_scheme="dark")
    page.wait_for_function(f"{theme} === 'dark'")
    dark = {figure.get_attribute("src"): grounds(figure) for figure in figures}
    found = [(source, ground) for source, ground in dark.items() if max(ground) > 30]
    page.emulate_media(media="print", color_scheme="dark")
    page.wait_for_function(f"{theme} === 'light'")
    found += [("on paper", g) for g in [grounds(figures[0])] if min(g) <= 240]
    page.emulate_media(media="screen", color_scheme="light")
    return found


def look(browser, path, url, host, sample):
    """Visit a page once: what is wrong with it, by kind."""
    wrong = {}
    options = {"reduced_motion": "reduce", "has_touch": True}
    with Visit(browser, WIDTHS[0], **options) as visit:
        came = []
        visit.page.on("requestfinished", lambda request: came.append(request))
        page = visit.open(url)
        page.evaluate("document.fonts.ready")
        total = weight(came, host)
        wrong["heavy"] = [total] if total > LIMIT else []
        page.add_style_tag(content=STILL)
        formulas = page.locator(".math").count()
        drawn = page.locator("mjx-container").count()
        errors = page.locator("mjx-merror").count()
        # before axe, which fetches style sheets by itself
        local = (host, "data:", "blob:")
        wrong["foreign"] = [u for u in visit.requested if not u.startswith(local)]
        wrong["complaints"] = [*visit.complaints]
        wrong["formulas"] = [] if drawn >= formulas and not errors else [drawn, errors]
        page.evaluate(OPEN)
        wrong["wide"], wrong["cut"], wrong["axe"] = [], [], []
        for width in WIDTHS:
            resize(page, width)
            if page.evaluate("document.documentElement.scrollWidth") > width:
                wrong["wide"].append(width)
            wrong["wide"] += page.evaluate(TITLES)
            wrong["cut"] += [(width, what) for what in page.evaluate(CUT_OFF)]
            if width == 1200 and sample:  # its frame is that of all pages
                wrong["axe"] += violations(page)
        resize(page, WIDTHS[0])
        wrong["axe"] += violations(page, beside=f"{CODE}, .sig", more=["target-size"])
        wrong["axe"] += violations(page, "scrollable-region-focusable", beside="svg")
        wrong["axe"] += colours(page) if sample else []
        already = len(visit.complaints)
        wrong["explorers"] = silent(page) if saved_explorers(path) else []
        wrong["explorers"] += visit.complaints[already:]
        wrong["figures"] = slabs(page)
    return wrong


# One page of each sort: its colours are those of the others.
SAMPLE = ("book/index.html", "book/sam.html", "book/api/sharpness.html")


def names(html):
    found = [path.relative_to(html).as_posix() for path in pages(html)]
    assert set(SAMPLE) < set(found)
    return found
