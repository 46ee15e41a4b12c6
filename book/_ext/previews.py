"""What a reference leads to, shown beside it: citation, equation, term, claim.

The texts travel in the page that refers to them: a page that is read from a folder can
fetch nothing. ``previews.js`` shows them.
"""

import html
import json
import posixpath
import re
from functools import cache
from pathlib import Path

from docutils import nodes
from flatlab.course.claims import read_registry

LONGEST = 600  # characters of a text


def targets(doctree):
    """Every node of a page that has an id, by that id."""
    return {id: node for node in doctree.findall(nodes.Element) for id in node["ids"]}


def shown(node):
    """HTML of what a reference leads to, or None where it is not worth showing."""
    if isinstance(node, nodes.math_block):
        return html.escape(rf"\[{node.astext()}\]", quote=False)
    if isinstance(node, nodes.term):
        (definition,) = node.parent.findall(nodes.definition)
        text = definition.astext().split("\n\n")[0]
        return f"<b>{html.escape(node.astext())}</b> {html.escape(cut(text))}"
    return None


def cut(text):
    """A text of bearable length, on one line."""
    text = " ".join(text.split())
    return text if len(text) <= LONGEST else text[:LONGEST].rpartition(" ")[0] + " …"


def add(app, pagename, templatename, context, doctree):
    """Put the previews that a page needs at its end."""
    if doctree is None:
        return
    registry = Path(app.srcdir) / "book" / "claims.toml"
    claims = read_registry(registry) if registry.is_file() else {}
    page_targets = cache(lambda docname: targets(app.env.get_doctree(docname)))
    found = {}
    for reference in doctree.findall(nodes.reference):
        address = reference.get("refuri") or "#" + reference.get("refid", "")
        page, _, id = address.partition("#")
        if not id or "://" in page:
            continue
        home = posixpath.normpath(posixpath.join(posixpath.dirname(pagename), page))
        docname = home.removesuffix(".html") if page else pagename
        if reference.get("reftitle"):
            found[address] = html.escape(cut(reference["reftitle"]))
        elif id in claims:
            found[address] = f"<b>{id}</b> {html.escape(cut(claims[id].statement))}"
        elif docname in app.env.found_docs and id in page_targets(docname):
            found[address] = shown(page_targets(docname)[id])
    found = {address: text for address, text in found.items() if text}
    if found:
        text = re.sub("</", r"<\\/", json.dumps(found, ensure_ascii=False))
        context["body"] += (
            f'<script type="application/json" id="previews">{text}</script>'
        )


def setup(app):
    """Connect to Sphinx."""
    app.add_js_file("previews.js", loading_method="defer")
    app.connect("html-page-context", add)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
