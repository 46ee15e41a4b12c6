"""The API reference: one page per group, names as users write them.

A line ``<!-- api: Network Loss data.digits -->`` in a page becomes a table of these
names of ``flatlab`` with the first line of their docstrings, and below it the
documentation of each. They are shown and found as ``fl.Network``, wherever in the
package they are defined.
"""

import inspect
import re
import typing
from functools import reduce

import flatlab.course.study
from docutils import nodes
from sphinx import addnodes

MARK = re.compile(r"<!-- api: ([^>]*) -->")


def resolve(name):
    """The object that ``fl.<name>`` is."""
    return reduce(getattr, name.split("."), flatlab)


def directive(name, value):
    """The directive of autodoc that documents an object."""
    if inspect.ismodule(value):
        kind, options = "module", "   :members:\n"
    elif inspect.isclass(value):
        kind, options = "class", "   :members:\n"
    else:
        kind, options = ("function" if callable(value) else "data"), ""
    return f".. auto{kind}:: flatlab.{name}\n{options}"


def shown(name):
    """A name as users write it: parts of the course are imported by their own names."""
    return name if name.startswith("course.") else f"fl.{name}"


def results(value):
    """Names of the package's own classes that a function returns."""
    returned = typing.get_type_hints(value).get("return") if callable(value) else None
    kinds = [k for k in (returned, *typing.get_args(returned)) if inspect.isclass(k)]
    own = [k for k in kinds if k.__module__.startswith("flatlab.")]
    return [f"{k.__module__}.{k.__qualname__}".removeprefix("flatlab.") for k in own]


def with_results(names):
    """The names, and after each function the classes of its results."""
    public = {id(resolve(name)) for name in names}
    every = {}
    for name in names:
        value = resolve(name)
        every[name] = None
        if inspect.isfunction(value):
            new = [n for n in results(value) if id(resolve(n)) not in public]
            every |= dict.fromkeys(new)
    return list(every)


def section(names):
    """Markdown with the table of the names and the documentation of each."""
    rows, blocks = [], []
    for name in names:
        value = resolve(name)
        summary = inspect.getdoc(value).partition("\n\n")[0].replace("\n", " ")
        summary = summary.replace("|", r"\|")
        rows.append(f"| [`{shown(name)}`](#flatlab.{name}) | {summary} |")
        blocks.append(directive(name, value))
    table = "\n".join(["| name | what it does |", "|---|---|", *rows])
    return f"{table}\n\n```{{eval-rst}}\n" + "\n".join(blocks) + "```\n"


def write(app, docname, source):
    """Replace the marks of a page."""

    def replaced(match):
        names = with_results(match[1].split())
        for name in names:
            value = resolve(name)
            home = f"{getattr(value, '__module__', '')}.{name.rpartition('.')[2]}"
            app.env.flatbook_names[home] = f"flatlab.{name}"
        return section(names)

    source[0] = MARK.sub(replaced, source[0])


def remember(app, env, docnames):
    """Keep which home every documented name has, from one build to the next."""
    if not hasattr(env, "flatbook_names"):
        env.flatbook_names = {}


def short_names(app, doctree):
    """Show ``fl.ball`` where the signature says ``flatlab.ball``."""
    for node in doctree.findall(addnodes.desc_addname):
        text = re.sub(r"^flatlab\.course\.", "course.", node.astext())
        text = re.sub(r"^flatlab\.", "fl.", text)
        node.clear()
        node += nodes.Text(text)


def find_home(app, env, node, contnode):
    """Let a reference to where a name is defined lead to where it is documented."""
    target = node.get("reftarget", "")
    if node.get("refdomain") != "py":
        return None
    home, found = target, None
    while home and not found:
        found = env.flatbook_names.get(home)
        home = home.rpartition(".")[0]
    if not found:
        return None
    domain = env.get_domain("py")
    return domain.resolve_xref(
        env, node["refdoc"], app.builder, "obj", found, node, contnode
    )


def setup(app):
    """Connect to Sphinx."""
    app.connect("env-before-read-docs", remember)
    app.connect("source-read", write)
    app.connect("doctree-read", short_names)
    app.connect("missing-reference", find_home)
    return {"parallel_read_safe": False, "parallel_write_safe": True}
