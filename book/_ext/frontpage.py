"""What the first page shows of the results, and what every page says of the book.

Marks in a page are replaced by what the results say:

- ``<!-- answer -->``: the course's answer in two sentences.
- ``<!-- claims in one picture -->``: how many claims held, as a picture.
- ``<!-- scoreboard -->``: the verdicts by kind, and a row for every claim.
- ``<!-- measures of the study -->``: the table of the verdict's measures.
- ``<!-- live network: lr=0.1 fork-rho=0.1 -->``: the network that trains in the page,
  with the settings to start from; works in notebooks too.

Author, version, date and licence at the foot of every page come from ``CITATION.cff``.
"""

import html
import json
import re
from collections import Counter
from pathlib import Path

import yaml
from flatlab.course.claims import KINDS, read_registry, read_verdicts

ANSWER = "<!-- answer -->"
PICTURE = "<!-- claims in one picture -->"
BOARD = "<!-- scoreboard -->"
MEASURES = "<!-- measures of the study -->"
LIVE = re.compile(r"<!-- live network:?([^>]*?)-->")

# What the verdicts come to, whatever the kind of claim.
GROUPS = {
    "held": ("reproduced", "holds", "well put"),
    "held in part": ("partly", "loose"),
    "did not hold": ("contradicted", "fails", "misquoted"),
    "not tested at this scale": ("not at this scale", "not tested"),
}
GROUP = {verdict: group for group, found in GROUPS.items() for verdict in found}

# The answer is put together from the verdicts on these claims, whichever way they are.
HELPS = (
    "sam-improves-accuracy",
    {
        "held": "Training that looks for flat minima makes networks err less",
        "held in part": "Training that looks for flat minima sometimes makes networks "
        "err less",
        "did not hold": "Training that looks for flat minima does not make networks "
        "err less",
        "not tested at this scale": "Whether training that looks for flat minima helps "
        "cannot be told on networks of this size",
    },
)
FLATTEST = (
    "flattest-may-not-generalize",
    {
        "held": "the flattest network need not be the one that is right about new "
        "examples",
        "held in part": "the flattest network is not always the one that is right "
        "about new examples",
        "did not hold": "the flattest networks are also those that are right about new "
        "examples",
        "not tested at this scale": "whether the flattest are also the best cannot be "
        "told here",
    },
)


def counts(root):
    """How many claims came out how: of the post, and of the papers."""
    registry = root / "book" / "claims.toml"
    found = read_verdicts("laptop", registry)
    of = {"post": Counter(), "papers": Counter()}
    for id, claim in read_registry(registry).items():
        of["post" if "post" in claim.source else "papers"][GROUP[str(found[id])]] += 1
    return of


def listed(counter):
    """``22 held, 18 held in part and 5 did not hold``."""
    parts = [f"{counter[group]} {group}" for group in GROUPS if counter[group]]
    parts = [part.replace(" not tested", " were not tested") for part in parts]
    return f"{', '.join(parts[:-1])} and {parts[-1]}" if parts[1:] else parts[0]


def answer(root):
    """Two sentences that hold with the verdicts as they are."""
    found = read_verdicts("laptop", root / "book" / "claims.toml")
    helps, flattest = (texts[GROUP[str(found[id])]] for id, texts in (HELPS, FLATTEST))
    of = counts(root)
    post, papers = (sum(of[who].values()) for who in ("post", "papers"))
    return (
        f"{helps}, and {flattest}. Of the {post} claims of one blog post on the "
        f"subject, {of['post']['held']} held on our networks; of {papers} claims of "
        f"the papers behind it, {of['papers']['held']}."
    )


def picture(root):
    """The counts as two bars of one cell per claim, in SVG, and a legend."""
    of, rows, said = counts(root), [], []
    most = max(sum(counter.values()) for counter in of.values())
    share = 100 / most
    for row, (who, counter) in enumerate(of.items()):
        total, start, top = sum(counter.values()), 0, 46 * row
        name = {"post": "one blog post", "papers": "the papers behind it"}[who]
        said.append(f"of {total} claims of {name}, {listed(counter)}")
        rows.append(f'<text x="0" y="{top + 13}">{total} claims of {name}</text>')
        for i, group in enumerate(GROUPS):
            rows += [
                f'<rect class="cp-{i}" x="{(start + k) * share:.2f}%" y="{top + 19}" '
                f'width="{share - 0.3:.2f}%" height="20"/>'
                for k in range(counter[group])
            ]
            if counter[group]:
                rows.append(
                    f'<text class="cp-number cp-on{i}" x="{start * share + 0.35:.2f}%" '
                    f'y="{top + 33.5}">{counter[group]}</text>'
                )
            start += counter[group]
    keys = "".join(
        f'<li><span class="cp-key cp-{i}"></span>{group}</li>'
        for i, group in enumerate(GROUPS)
    )
    label = html.escape(f"How many claims held: {'; '.join(said)}.")
    return (
        '<figure class="claims-picture">'
        f'<svg width="100%" height="88" role="img" aria-label="{label}">'
        f'{"".join(rows)}</svg><ul aria-hidden="true">{keys}</ul></figure>'
    )


def scoreboard(root):
    """Verdicts by kind, and every claim with its verdict and the way to its card."""
    registry = root / "book" / "claims.toml"
    claims, found = read_registry(registry), read_verdicts("laptop", registry)
    title = {k: k.replace("_", " ") for k in (c.chapter for c in claims.values())}
    kinds = []
    for kind in KINDS:
        own = Counter(str(found[id]) for id, c in claims.items() if c.kind == kind)
        parts = ", ".join(f"{n} {verdict}" for verdict, n in own.most_common())
        kinds.append(f"<li><strong>{kind}</strong>, {own.total()}: {parts}</li>")

    def choice(name, values):
        options = "".join(f'<option value="{v}">{t}</option>' for v, t in values)
        return (
            f'<label>{name} <select name="{name}"><option value="">all</option>'
            f"{options}</select></label> "
        )

    verdicts = list(dict.fromkeys(str(verdict) for verdict in found.values()))
    rows = []
    for id, claim in claims.items():
        verdict, slug = found[id], str(found[id]).replace(" ", "-")
        why = f"<br>Not tested: {claim.untested}." if claim.untested else ""
        rows.append(
            f'<tr data-chapter="{claim.chapter}" data-kind="{claim.kind}" '
            f'data-verdict="{verdict}"><th scope="row">'
            f'<a href="{claim.chapter}.html#{id}">{id}</a>: '
            f"{html.escape(claim.statement)}{why}</th><td>{title[claim.chapter]}</td>"
            f"<td>{html.escape(claim.cited())}</td><td>{claim.kind}</td>"
            f'<td><span class="verdict verdict-{slug}">{verdict}</span></td></tr>'
        )
    head = "".join(
        f'<th scope="col">{name}</th>'
        for name in ("Claim", "Chapter", "Source", "Kind", "Verdict")
    )
    chosen = choice("chapter", title.items())
    chosen += choice("kind", [(kind, kind) for kind in KINDS])
    chosen += choice("verdict", [(verdict, verdict) for verdict in verdicts])
    return (
        f"<ul>{''.join(kinds)}</ul>"
        f'<form class="scoreboard-filter" hidden>{chosen}<output></output></form>'
        '<table class="scoreboard"><caption>All claims of the book</caption>'
        f"<thead><tr>{head}</tr></thead><tbody>{''.join(rows)}</tbody></table>"
    )


def live(root, settings):
    """The live network, with the figure that stands for it on paper."""
    attributes = "".join(
        f' data-{name}="{html.escape(value)}"'
        for name, value in re.findall(r"([a-z-]+)=(\S+)", settings)
    )
    drawn = (root / "book" / "_static" / "live_network.svg").read_text("utf-8")
    return (
        f'<figure class="live-figure">{" ".join(drawn.split())}<figcaption>The largest '
        "eigenvalue of the Hessian over the steps: gradient descent raises it to 2/η "
        "and stays there, SAM keeps it low. In a browser this network trains in the "
        f'page.</figcaption></figure><div class="live-network"{attributes}></div>'
    )


def measures(root):
    """The table of the study's measures, which stands in the verdict."""
    notebook = json.loads((root / "book" / "verdict.ipynb").read_text("utf-8"))
    tables = ("".join(cell["source"]) for cell in notebook["cells"])
    (table,) = (text for text in tables if "\n| measure |" in text)
    return "\n".join(line for line in table.splitlines() if line.startswith("|"))


MARKS = {ANSWER: answer, PICTURE: picture, BOARD: scoreboard, MEASURES: measures}


def replace_marks(app, docname, source):
    """Put in what the results say."""
    root = Path(app.srcdir)
    notebook = str(app.env.doc2path(docname)).endswith(".ipynb")
    written = (lambda text: json.dumps(text)[1:-1]) if notebook else str
    text = source[0]
    for mark, says in MARKS.items():
        if mark in text:
            text = text.replace(mark, written(says(root)))
    source[0] = LIVE.sub(lambda match: written(live(root, match[1])), text)


# -- every page ----------------------------------------------------------------------


def citation(root):
    """What CITATION.cff says, for the foot of the pages."""
    return yaml.safe_load((root / "CITATION.cff").read_text("utf-8"))


def foot(cite):
    """Author, version, date, licences and how to cite, as HTML."""
    authors = ", ".join(
        a.get("name") or f"{a['given-names']} {a['family-names']}"
        for a in cite["authors"]
    )
    released = str(cite["date-released"])
    return (
        f'<p class="book-foot">{html.escape(authors)}, {released}. Version '
        f"{cite['version']}. Text and figures: "
        '<a href="https://creativecommons.org/licenses/by/4.0/">CC BY 4.0</a>; code: '
        f"{cite['license']} licence. Cite as: {html.escape(authors)}. "
        f"<em>{html.escape(cite['title'])}</em>, version {cite['version']}, "
        f"{released[:4]}.</p>"
    )


def configure(app, config):
    """The foot goes where the theme keeps a place for it."""
    cite = citation(Path(app.srcdir))
    config.html_theme_options["extra_footer"] = foot(cite)
    config.html_favicon = "book/_static/favicon.svg"


def complete_head(app, pagename, templatename, context, doctree):
    """Description and card of the page, and the scripts of the live network."""
    about = " ".join(citation(Path(app.srcdir))["abstract"].split())
    path = context["pathto"]
    title = re.sub(r"<[^>]+>", "", context.get("title") or "")
    tags = {
        "og:title": html.unescape(title),
        "og:description": about,
        "og:type": "website",
        "og:image": path("_static/card.png", 1),
        "og:image:alt": "The top eigenvalue of a Hessian rises to two over the rate.",
    }
    lines = [f'<meta name="description" content="{html.escape(about)}">']
    lines += [
        f'<meta property="{name}" content="{html.escape(value)}">'
        for name, value in tags.items()
    ]
    context["metatags"] = context.get("metatags", "") + "\n".join(lines)
    if 'class="live-network"' in (context.get("body") or ""):
        for name in ("explorers.css", "live_network.css"):
            app.add_css_file(name)
        for name in ("live_digits.js", "live_network.js"):
            app.add_js_file(name, loading_method="defer")


def setup(app):
    """Connect to Sphinx."""
    app.connect("config-inited", configure, priority=400)
    app.connect("source-read", replace_marks)
    app.connect("html-page-context", complete_head)
    return {"parallel_read_safe": False, "parallel_write_safe": True}
