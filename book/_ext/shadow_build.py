"""What the book would lose in Jupyter Book 2, as a list in Markdown.

    python book/_ext/shadow_build.py        with jupyter-book >= 2 installed

A copy of the committed tree is upgraded and its pages are parsed, without running them.
Jupyter Book 2 knows no Sphinx extension, so the list begins with what those of this
folder do; explorers, which a page now draws from a cell's output, would have to become
its ``anywidget`` directive.
"""

import ast
import collections
import io
import json
import re
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

ROOT = Path(__file__).parents[2]


def upgraded(folder):
    """What Jupyter Book 2 says of a copy of the committed tree in the folder."""
    tree = subprocess.run(
        ["git", "-C", ROOT, "archive", "HEAD"], capture_output=True, check=True
    )
    with tarfile.open(fileobj=io.BytesIO(tree.stdout)) as archive:
        archive.extractall(folder, filter="data")
    said = []
    for command in (["init"], ["build", "--site"]):
        done = subprocess.run(
            ["jupyter", "book", *command],
            cwd=folder,
            input="y\n" * 9,
            capture_output=True,
            text=True,
        )
        said += [done.stdout, done.stderr]
    return "\n".join(said)


def complaints(said):
    """How often each kind of complaint comes: {text without names: times}."""
    kinds = collections.Counter()
    for line in said.splitlines():
        found = re.match(r"\W*(?:⛔|⚠)\S*\s+(?:\S+\.(?:md|ipynb)\S*\s+)?(.+)", line)
        if found:
            kinds[re.sub(r'"[^"]*"', '"…"', found[1]).strip()] += 1
    return kinds


def explorers():
    """Pages whose cells show an explorer: {page: how many cells}."""
    pages = {}
    for path in sorted((ROOT / "book").glob("*.ipynb")):
        cells = json.loads(path.read_text("utf-8"))["cells"]
        code = ["".join(c["source"]) for c in cells if c["cell_type"] == "code"]
        shown = sum("explorers." in source for source in code)
        if shown:
            pages[path.stem] = shown
    return pages


def extensions():
    """Sphinx extensions of the book's own: {name: first line of its docstring}."""
    own = {}
    for path in sorted((ROOT / "book" / "_ext").glob("*.py")):
        text = path.read_text("utf-8")
        if re.search(r"^def setup\(app", text, re.M):
            own[path.stem] = ast.get_docstring(ast.parse(text)).splitlines()[0]
    return own


def main():
    with tempfile.TemporaryDirectory() as folder:
        said = upgraded(Path(folder))
    pages = re.search(r"Built (\d+) pages", said)
    print("## The book in Jupyter Book 2\n")
    print(f"Pages that it reads: {pages[1] if pages else 'none'}\n")
    print("Explorers to be given to its `anywidget` directive:\n")
    for page, times in explorers().items():
        print(f"- {page}: {times}")
    print("\nExtensions that it cannot load:\n")
    for name, line in extensions().items():
        print(f"- `{name}`: {line}")
    print("\nComplaints, the most frequent first:\n")
    for kind, times in complaints(said).most_common(30):
        print(f"- {times} × {kind}")
    return 0 if pages else 1


if __name__ == "__main__":
    sys.exit(main())
