"""Equations and exercises count from 1 in every chapter.

A reference from another page names the chapter: ``SAM, (3)``.
"""

from docutils import nodes
from sphinx.domains.math import MathDomain
from sphinx.environment.collectors.toctree import TocTreeCollector

COUNTED = ("displaymath", "exercise")


def assigned_per_page(assign):
    """Sphinx's numbering of figures, started afresh on every page."""

    def assign_figure_numbers(self, env):
        before = dict(env.toc_fignumbers)
        assign(self, env)
        for numbers in env.toc_fignumbers.values():
            for kind in COUNTED:
                ids = numbers.get(kind, {})
                numbers[kind] = {id: (i,) for i, id in enumerate(ids, 1)}
        return [d for d, n in env.toc_fignumbers.items() if n != before.get(d)]

    return assign_figure_numbers


def chapter(env, docname):
    """Title of a page up to its colon, as text."""
    return env.titles[docname].astext().partition(":")[0]


class ChapterMath(MathDomain):
    """References to equations of other pages name the page."""

    def resolve_xref(self, env, fromdocname, builder, typ, target, node, contnode):
        """The reference, with the chapter in front where it is another one."""
        found = super().resolve_xref(
            env, fromdocname, builder, typ, target, node, contnode
        )
        home = self.equations.get(target, (fromdocname,))[0]
        if found is not None and home != fromdocname:
            found.insert(0, nodes.Text(f"{chapter(env, home)}, "))
        return found


def setup(app):
    """Connect to Sphinx."""
    TocTreeCollector.assign_figure_numbers = assigned_per_page(
        TocTreeCollector.assign_figure_numbers
    )
    app.add_domain(ChapterMath, override=True)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
