"""Every page as Markdown beside its HTML, and ``llms.txt``, which lists them.

https://llmstxt.org says what the file is for: a reader that is no browser.
"""

import re
from pathlib import Path

import nbformat


def markdown(path):
    """A page's source as plain Markdown, without the cells that pages leave out."""
    if path.suffix == ".md":
        return path.read_text("utf-8")
    parts = []
    for cell in nbformat.read(path, as_version=4).cells:
        if cell.cell_type == "markdown":
            parts.append(cell.source)
        elif "remove-cell" not in cell.metadata.get("tags", []):
            parts.append(f"```python\n{cell.source}\n```")
    return "\n\n".join(parts) + "\n"


def summary(text):
    """The first paragraph of a page, which in a chapter is the question of its box."""
    text = re.sub(r"^```python\n.*?^```$", "", text, flags=re.S | re.M)
    text = re.sub(r"^(?:`{3,}|:{3,}|:[\w-]+:|<!--).*$", "", text, flags=re.M)
    first = next(
        (p for p in re.split(r"\n\s*\n", text) if re.match(r"\s*[\w*]", p)), ""
    )
    plain = re.sub(r"\*\*[\w ]+\.\*\*\s*", "", " ".join(first.split()))
    plain = re.sub(r"\{[\w:-]+\}`([^`<]*)[^`]*`", r"\1", plain)
    return re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", plain)


def write(app, error):
    """Write the copies and the list."""
    if error or app.builder.name != "html":
        return
    out = Path(app.outdir)
    lines = [f"# {app.config.html_title or app.config.project}", ""]
    _entry(app, out, app.config.root_doc, lines)
    (out / "llms.txt").write_text("\n".join(lines) + "\n", "utf-8")


def _entry(app, out, docname, lines, indent=""):
    text = markdown(Path(app.env.doc2path(docname)))
    target = out / f"{docname}.md"
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(text, "utf-8")
    title = app.env.titles[docname].astext()
    about = summary(text)
    lines.append(f"{indent}- [{title}]({docname}.md)" + (f": {about}" if about else ""))
    for child in app.env.toctree_includes.get(docname, []):
        _entry(app, out, child, lines, indent + "  ")


def setup(app):
    """Connect to Sphinx."""
    app.connect("build-finished", write)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
