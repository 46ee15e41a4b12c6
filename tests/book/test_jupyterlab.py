"""Explorers in JupyterLab answer to mouse and keys, and the kernel hears of it."""

import ast
import os
import socket
import subprocess
import sys
import time
from urllib.error import URLError
from urllib.request import urlopen

import nbformat
import pytest

from .conftest import PATIENCE, ROOT, drag, settle

pytestmark = pytest.mark.slow

SHOW = f"""\
import sys
sys.path.insert(0, {str(ROOT / "tests" / "book")!r})
from samples import everything
explorers = everything()
display(*explorers.values())"""
KERNEL = """() => {
    const session = window.jupyterapp?.shell.currentWidget?.context?.sessionContext;
    return session?.isReady && session.session?.kernel?.status === "idle";
}"""
TELL = "print([dict(e.values) for e in explorers.values()])"


@pytest.fixture
def lab(browser, tmp_path):
    """A page of JupyterLab with a notebook whose first cell shows every explorer."""
    cells = [nbformat.v4.new_code_cell(source) for source in (SHOW, TELL)]
    spec = {"name": "python3", "display_name": "Python 3", "language": "python"}
    notebook = nbformat.v4.new_notebook(cells=cells, metadata={"kernelspec": spec})
    (tmp_path / "work").mkdir()
    nbformat.write(notebook, tmp_path / "work" / "explorers.ipynb")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    address = f"http://127.0.0.1:{port}"
    # Nothing of the user's own settings, and nothing left behind.
    own = {
        f"JUPYTER_{name}_DIR": str(tmp_path / name)
        for name in ("CONFIG", "DATA", "RUNTIME")
    }
    command = [
        *(sys.executable, "-m", "jupyterlab", "--no-browser", "--allow-root"),
        *(f"--port={port}", "--ServerApp.port_retries=0"),
        *("--IdentityProvider.token=", "--LabApp.expose_app_in_browser=True"),
        f"--ServerApp.root_dir={tmp_path / 'work'}",
        f"--LabApp.workspaces_dir={tmp_path / 'workspaces'}",
        f"--LabApp.user_settings_dir={tmp_path / 'settings'}",
        "--LabApp.news_url=",
    ]
    with open(tmp_path / "log", "w") as log:
        server = subprocess.Popen(
            command, env={**os.environ, **own}, stdout=log, stderr=log
        )
    context = browser.new_context(viewport={"width": 1400, "height": 1000})
    try:
        for _ in range(600):
            assert server.poll() is None, (tmp_path / "log").read_text()[-2000:]
            try:
                urlopen(f"{address}/api", timeout=5).close()
                break
            except (URLError, OSError):
                time.sleep(0.5)
        context.set_default_timeout(PATIENCE)
        page = context.new_page()
        page.goto(f"{address}/lab/tree/explorers.ipynb?reset")
        page.wait_for_selector(".jp-Notebook .jp-CodeCell")
        page.wait_for_function(KERNEL)  # else it asks for one
        yield page
    finally:
        context.close()
        server.terminate()
        server.wait(30)


def run(page, command):
    # not waiting for it: what it leads to is waited for
    page.evaluate(f"void window.jupyterapp.commands.execute('{command}')")


def heard(page):
    """What the kernel thinks that the controls are set to."""
    page.evaluate("window.jupyterapp.shell.currentWidget.content.activeCellIndex = 1")
    output = page.locator(".jp-Cell").nth(1).locator(".jp-OutputArea-output pre")
    run(page, "notebook:clear-cell-output")
    output.wait_for(state="detached")
    run(page, "notebook:run-cell")
    output.wait_for()
    return ast.literal_eval(output.inner_text())


def test_explorers_answer_and_the_kernel_hears_of_it(lab):
    run(lab, "notebook:run-all-cells")
    explorers = lab.locator(".fx")
    explorers.nth(7).wait_for()
    before = heard(lab)
    assert explorers.count() == len(before) == 8
    cells = lab.locator(".jp-Cell").count()
    for i in range(len(before)):
        explorer = explorers.nth(i)
        explorer.scroll_into_view_if_needed()

        def says(explorer=explorer):
            settle(lab)
            return explorer.locator(".fx-reading").inner_text()

        first = says()
        control = explorer.locator("input[type=range], select").first
        control.focus()
        # in a notebook, x would cut the cell
        for key in ("x", "ArrowDown", "ArrowDown", "ArrowUp", "End"):
            control.press(key)
        by_keys = says()
        assert by_keys != first, first

        knob, slider = explorer.locator(".fx-knob"), explorer.locator("[type=range]")
        if knob.count():
            drag(lab, knob.first, 25, 25)
        elif slider.count():
            slider.first.click(position={"x": 40, "y": 8})
        else:
            continue  # a list of choices opens outside the page
        assert says() != by_keys, by_keys
    after = heard(lab)
    assert not [a for a, b in zip(after, before, strict=True) if a == b]
    assert lab.locator(".jp-Cell").count() == cells
