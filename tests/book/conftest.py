"""The book as the tests see it: built once, at the smallest scale."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from filelock import FileLock

ROOT = Path(__file__).parents[2]


def jupyter_book(source, output, **environment):
    """Build a book as `make book` does; returns the finished process."""
    return subprocess.run(
        [
            *(Path(sys.executable).with_name("jupyter-book"), "build", source),
            *("--path-output", output, "-n", "-W", "--keep-going"),
        ],
        env={**os.environ, "PYTHONIOENCODING": "utf-8", **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


@pytest.fixture(scope="session")
def html():
    """Folder of the built book. The build fails on any warning.

    With FLATLAB_HTML=_build/html the tests look at a book that is already there.
    """
    if os.environ.get("FLATLAB_HTML"):
        return ROOT / os.environ["FLATLAB_HTML"]
    output = ROOT / "_build" / "smoke"
    output.mkdir(parents=True, exist_ok=True)
    with FileLock(output / "lock"):
        process = jupyter_book(ROOT, output, FLATLAB_SCALE="smoke")
    if process.returncode:
        lines = process.stdout.splitlines()
        wrong = [line for line in lines if "WARNING" in line or "ERROR" in line]
        pytest.fail("\n".join(["The book does not build.", *wrong, *lines[-40:]]))
    return output / "_build" / "html"


def pages(html):
    """Every page of the built book that has text of its own."""
    return sorted((html / "book").rglob("*.html"))
