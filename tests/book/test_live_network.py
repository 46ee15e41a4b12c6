"""The network that trains in the page: against flatlab, and as readers use it."""

import sys

import numpy as np
import pytest
import torch
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import expect

import flatlab as fl

from .conftest import PATIENCE, ROOT, Visit, settle

STATIC = ROOT / "book" / "_static"
SHEETS = (
    ROOT / "flatlab" / "course" / "explorers" / "explorers.css",
    STATIC / "live_network.css",
    STATIC / "book.css",
)
DATA = fl.data.digits(seed=0, standardize=False)
TRAIN = DATA.train[torch.arange(200)]
TEST = DATA.test[torch.arange(300)]
NET = fl.Network(fl.models.mlp(64, 24, 10, activation="tanh").double())


def write_page(path, attributes="", before=""):
    styles = "".join(f"<style>{sheet.read_text('utf-8')}</style>" for sheet in SHEETS)
    scripts = "".join(
        f'<script src="{(STATIC / name).as_uri()}"></script>'
        for name in ("live_digits.js", "live_network.js")
    )
    path.write_text(
        '<!doctype html><html lang="en" data-theme="light"><head>'
        '<meta charset="utf-8"><title>Live</title>'
        f'<meta name="viewport" content="width=device-width">{styles}</head>'
        f'<body style="margin:0"><main><h1>Live</h1>{before}'
        '<figure class="live-figure"><p>The static figure.</p></figure>'
        f'<div class="live-network" {attributes}></div></main>{scripts}</body></html>',
        encoding="utf-8",
    )
    return path.as_uri()


@pytest.fixture
def shown(browser, tmp_path):
    """Opens a page with the network; at the end nothing may have been complained of."""
    visits = []

    def show(attributes="", before="", width=1280, motion="reduce", **options):
        visit = Visit(browser, width, reduced_motion=motion, **options)
        visits.append(visit)
        uri = write_page(tmp_path / f"page{len(visits)}.html", attributes, before)
        visit.page.goto(uri)
        if options.get("java_script_enabled", True):  # without, no frame is promised
            settle(visit.page)
        return visit.page

    yield show
    for visit in visits:
        assert not visit.complaints
        assert all(url.startswith(("file:", "data:")) for url in visit.requested)
        visit.context.close()


def loss_of(examples):
    x = examples.x.double()
    return fl.Loss(NET, fl.data.Examples(x, examples.y), criterion="mse")


def close(found, expected, tol=1e-5):
    found = torch.as_tensor(found, dtype=torch.float64)
    assert (found - expected).norm() <= tol * expected.norm()


ASK = """({w, v, batch, settings, top}) => {
  const { Network, TopEigenvalue } = liveNetwork;
  const net = new Network(liveDigits);
  const [a, b] = [Float64Array.from(w), Float64Array.from(v)];
  const [gradient, product, part] = [0, 0, 0].map(() => new Float64Array(a.length));
  const found = { weights: net.weights, loss: net.gradient(a, gradient) };
  net.product(a, b, product);
  found.top = top ? new TopEigenvalue(net).converged(a, 1e-7) : 0;
  found.error = net.error(a);
  net.gradient(a, part, net.some(batch));
  const stepped = Float64Array.from(w);
  net.step(stepped, new Float64Array(a.length), settings);
  return { ...found, gradient: [...gradient], product: [...product], part: [...part],
           stepped: [...stepped] };
}"""


@pytest.mark.parametrize("seed", range(3))
def test_gradient_product_eigenvalue_and_step_are_flatlabs(shown, seed):
    generator = torch.Generator().manual_seed(seed)
    draw = dict(generator=generator, dtype=torch.float64)
    w, v = (torch.randn(NET.k, **draw) for _ in range(2))
    w *= 0.1 * (1 + seed)
    batch = torch.randperm(200, generator=generator)[:20]
    settings = {"lr": 0.1, "rho": 0.3 * seed, "decay": 0.01}
    asked = {
        "w": w.tolist(), "v": v.tolist(), "batch": batch.tolist(),
        "settings": settings, "top": True,
    }  # fmt: skip
    found = shown().evaluate(ASK, asked)

    loss = loss_of(TRAIN)
    assert found["weights"] == NET.k
    assert found["loss"] == pytest.approx(loss(w).item(), rel=1e-9)
    close(found["gradient"], loss.gradient(w))
    hessian = fl.Hessian(loss, w)
    close(found["product"], (hessian @ v[:, None]).squeeze(-1))
    top = fl.eigenvalues(hessian, k=1, tol=1e-8).values.max()
    close(found["top"], top)
    close(found["part"], loss_of(TRAIN[batch]).gradient(w))
    assert found["error"] == pytest.approx(1 - loss_of(TEST).accuracy(w).item())

    module = NET.module(w)
    optimizer = torch.optim.SGD(module.parameters(), lr=0.1, weight_decay=0.01)
    if settings["rho"]:
        optimizer = fl.optim.SAM(optimizer, fl.ball(settings["rho"]), module=module)
    truth = torch.nn.functional.one_hot(TRAIN.y, 10)

    def closure():
        optimizer.zero_grad()
        value = ((module(TRAIN.x.double()) - truth) ** 2).sum(1).mean() / 2
        value.backward()
        return value

    optimizer.step(closure)
    stepped = torch.cat([p.detach().flatten() for p in module.parameters()])
    close(torch.tensor(found["stepped"]) - w, stepped - w)


def test_the_digits_are_those_of_the_data_set():
    sys.path.insert(0, str(ROOT / "book" / "_ext"))
    try:
        import live_digits
    finally:
        sys.path.pop(0)
    written = live_digits.TARGET.read_text("utf-8")
    assert written == live_digits.script()
    assert len(written.encode()) < 60 * 1024


TRAINED = """(changes) => {
  const { Network, Run, TopEigenvalue } = liveNetwork;
  const net = new Network(liveDigits);
  const run = new Run(net, { lr: 0.1, batch: 200, rho: 0, decay: 0, ...changes }, 0);
  const first = run.last.sharpness;
  for (let i = 0; i < 3600; i += 1) {
    run.step();
    if (i % 20 === 19) run.measure();
  }
  const late = run.history.slice(-15).map((point) => point.sharpness);
  const top = new TopEigenvalue(net).converged(run.w, 1e-5);
  return { first, late: late.reduce((a, b) => a + b) / late.length, top,
           live: run.last.sharpness, diverged: run.diverged, loss: run.last.loss };
}"""


def test_the_defaults_reach_the_edge_and_the_sliders_move_it(shown):
    """What the line above the figure says, in the seconds that a reader waits."""
    page = shown()
    plain, slower, sam, wild = (
        page.evaluate(TRAINED, changes)
        for changes in ({}, {"lr": 0.2}, {"rho": 0.1}, {"lr": 2.0})
    )
    assert plain["first"] < 12
    assert plain["late"] == pytest.approx(20, rel=0.05)  # 2/η
    assert plain["live"] == pytest.approx(plain["top"], rel=0.03)
    assert slower["late"] == pytest.approx(10, rel=0.07)
    assert sam["late"] < 8
    assert wild["diverged"] and not plain["diverged"]


def test_mini_batches_are_repeatable_and_go_through_all_examples(shown):
    steps = shown().evaluate(
        """() => {
          const { Network, Run } = liveNetwork;
          const settings = { lr: 0.1, batch: 8, rho: 0.05, decay: 0 };
          const net = () => new Network(liveDigits);
          const runs = [1, 1, 2].map((s) => new Run(net(), settings, s));
          const seen = [];
          for (let i = 0; i < 25; i += 1) {
            for (const run of runs) run.step();
            seen.push(runs[0].order.length);
          }
          return { seen, ends: runs.map((run) => run.w[0]) };
        }"""
    )
    assert steps["seen"] == list(range(192, -1, -8))
    assert steps["ends"][0] == steps["ends"][1] != steps["ends"][2]


# -- operated as a reader does ---------------------------------------------------------


def steps_of(page):
    return page.evaluate("liveNetwork.shown[0].runs.map((run) => run.steps)")


def ink(page):
    return page.locator("canvas").evaluate_all(
        "found => found.map((canvas) => canvas.toDataURL())"
    )


def test_it_trains_when_seen_and_only_then(shown):
    page = shown(motion="no-preference", before='<div style="height:3000px"></div>')
    settle(page, frames=20)
    assert steps_of(page) == [0]
    page.locator(".live-network").scroll_into_view_if_needed()
    page.wait_for_function("liveNetwork.shown[0].runs[0].steps > 20")
    assert not page.get_by_text("The static figure.").is_visible()
    page.evaluate("scrollTo(0, 0)")
    page.wait_for_function("!liveNetwork.shown[0].playing")
    before = steps_of(page)
    settle(page, frames=12)
    assert steps_of(page) == before


def test_stopped_and_begun_again_within_a_frame_it_keeps_its_pace(shown):
    page = shown()
    page.evaluate(
        """() => {
          const [network] = liveNetwork.shown;
          for (const wanted of [true, false, true]) network.play(wanted);
        }"""
    )
    page.wait_for_function("liveNetwork.shown[0].frames.length > 20")
    times = page.evaluate("liveNetwork.shown[0].frames.map((frame) => frame.now)")
    assert len(set(times)) == len(times)


@pytest.mark.parametrize("way", ["mouse", "touch", "keys"])
def test_buttons_and_sliders(shown, way):
    options = dict(width=390, has_touch=True) if way == "touch" else {}
    page = shown(**options)

    def press(name):
        button = page.get_by_role("button", name=name, exact=True)
        button.evaluate(  # a tap is one only when the browser has seen that it ended
            """(button) => {
              globalThis.clicked = false;
              const note = () => (globalThis.clicked = true);
              button.addEventListener("click", note, { once: true });
            }"""
        )
        if way == "keys":
            button.focus()
            page.keyboard.press("Enter")
        else:
            (button.tap if way == "touch" else button.click)()
        page.wait_for_function("clicked")
        settle(page)

    assert steps_of(page) == [0]  # who asked for less motion begins it
    press("Step")
    assert steps_of(page) == [1]
    assert "step 1," in page.locator(".ln-status").inner_text().lower()
    before = ink(page)
    press("Train")
    page.wait_for_function("liveNetwork.shown[0].runs[0].steps > 50")
    page.evaluate("liveNetwork.shown[0].until = Infinity")  # it does not end by itself
    press("Pause")
    assert ink(page) != before
    stopped = steps_of(page)
    press("Fork with other settings")
    sliders = page.get_by_role("group", name="Settings of run B").get_by_role("slider")
    assert sliders.count() == 4
    rho = sliders.nth(2)
    if way == "keys":
        rho.press("End")
    else:
        rho.scroll_into_view_if_needed()
        box = rho.bounding_box()
        tap = page.mouse.click if way == "mouse" else page.touchscreen.tap
        tap(box["x"] + box["width"] - 3, box["y"] + box["height"] / 2)
    expect(rho).to_have_attribute("aria-valuetext", "0.5", timeout=PATIENCE)
    press("Step")
    assert steps_of(page) == [stopped[0] + 1] * 2
    a, b = page.evaluate("liveNetwork.shown[0].runs.map((run) => [...run.w])")
    assert not np.allclose(a, b)
    press("Reset")
    assert steps_of(page) == [0, 0]
    press("Remove run B")
    first = page.locator(".ln-readings").inner_text()
    page.get_by_label("seed").select_option("3")
    settle(page)
    assert page.locator(".ln-readings").inner_text() != first
    assert (
        page.locator("canvas")
        .first.get_attribute("aria-label")
        .startswith("training loss over the steps: run A went from")
    )


def test_attributes_set_the_start_and_a_second_run(shown):
    page = shown('data-lr=".2" data-decay=".01" data-seed="4" data-fork-lr=".05"')
    settings = page.evaluate("liveNetwork.shown[0].runs.map((run) => run.settings)")
    assert settings == [
        {"lr": 0.2, "batch": 200, "rho": 0, "decay": 0.01},
        {"lr": 0.05, "batch": 200, "rho": 0, "decay": 0.01},
    ]
    assert page.get_by_label("seed").input_value() == "4"


def test_a_run_that_diverges_says_so_and_can_begin_again(shown):
    page = shown('data-lr=".5"')
    page.evaluate("liveNetwork.shown[0].runs[0].settings.lr = 5")
    page.get_by_role("button", name="Train").click()
    page.wait_for_function("liveNetwork.shown[0].runs[0].diverged")
    page.get_by_role("button", name="Train").wait_for()
    assert "diverged after" in page.locator(".ln-readings").inner_text()
    page.get_by_role("button", name="Reset").click()
    assert steps_of(page) == [0]


@pytest.mark.parametrize("width", [390, 1200])
def test_everyone_can_see_and_operate_it(shown, width):
    page = shown('data-fork-rho=".1"', width=width)
    drawn = {}
    for theme in ("light", "dark"):
        page.evaluate(f"document.documentElement.dataset.theme = '{theme}'")
        settle(page)
        drawn[theme] = ink(page)
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        violations = Axe().run(page).response["violations"]
        assert not [(v["id"], v["nodes"][0]["html"][:150]) for v in violations]
    assert drawn["light"] != drawn["dark"]


def test_without_a_script_and_on_paper_there_is_the_figure(shown):
    page = shown(java_script_enabled=False)
    assert page.get_by_text("The static figure.").is_visible()
    page = shown()
    page.emulate_media(media="print")
    assert page.get_by_text("The static figure.").is_visible()
    assert not page.locator(".live-network").is_visible()


def test_the_static_figure_stays_within_reach(shown):
    page = shown()
    figure = page.get_by_text("The static figure.")
    network = page.locator(".live-network")
    switch = page.get_by_role("button", name="Static figure")
    for pressed in (True, False):
        switch.press("Enter")
        assert switch.get_attribute("aria-pressed") == str(pressed).lower()
        assert figure.is_visible() == pressed
        assert network.is_visible() != pressed
