"""What this book needs from Sphinx beyond Jupyter Book's own settings.

- Outputs are executed again when anything a notebook reads has changed, and the
  outputs of one ``FLATLAB_SCALE`` are never shown at another.
- Pages are written again when a style sheet or a script of the book has changed.
- MathJax comes out of an installed Python package, Thebe is left out, and so no
  page asks another host for anything.
- Icons come from a font inside a style sheet, and so work without a server too.
- Launch and repository buttons appear only when a repository is configured.
- The first page says how the claims of each chapter came out.
- Figures are fetched as a reader comes near them.
- Each line of code is an element, so that it can wrap with a hanging indent.
- The book can be written as a single page, from which it is printed.
"""

import base64
import hashlib
import io
import os
import re
import shutil
from collections import Counter
from importlib.metadata import files
from pathlib import Path

from docutils import nodes
from flatlab.course.claims import Verdict, read_registry, read_verdicts
from flatlab.course.plots import STYLE
from fontTools import subset
from fontTools.ttLib import TTFont
from pygments.formatters import HtmlFormatter
from sphinx.highlighting import PygmentsBridge

# Read while a notebook runs, beside the notebook itself.
SOURCES = (
    "flatlab/**/*.py",
    "flatlab/**/*.js",
    "flatlab/**/*.css",
    "results/**/*.json",
    "results/**/*.npz",
    "book/claims.toml",
    "book/rules.py",
)
# What MathJax needs to read TeX and write HTML, without its menu.
MATHJAX = (
    "startup.js",
    "core.js",
    "input/tex.js",
    "input/tex/extensions",
    "output/chtml.js",
    "output/chtml/fonts",
    "a11y/assistive-mml.js",
)
ASSETS = ("book/_static/**/*", "book/_ext/*.py")
CODE_MARK = "<!-- get the code -->"
VERDICTS_MARK = re.compile(r"<!-- verdicts: (\w+) -->")


def digest(root, patterns):
    """Hash the names and contents of the files that match, as a hex string."""
    found = {p for pattern in patterns for p in root.glob(pattern) if p.is_file()}
    total = hashlib.sha256()
    for path in sorted(found):
        if "__pycache__" in path.parts:
            continue
        total.update(path.relative_to(root).as_posix().encode() + b"\0")
        total.update(hashlib.sha256(path.read_bytes()).digest())
    return total.hexdigest()[:16]


def cache_name(root):
    """Name of the cache for notebooks: it changes with the scale and what they read."""
    scale = os.environ.get("FLATLAB_SCALE", "").strip() or "laptop"
    return f"{scale}-{digest(root, SOURCES)}"


def configure(app, config):
    """Settle everything that depends on the files and the environment."""
    root = Path(app.srcdir)
    config.flatbook_assets = digest(root, ASSETS)
    use_cache(app, config, cache_name(root))
    offer_buttons(config)
    leave_out_thebe(app)


def use_cache(app, config, name):
    """Keep executed notebooks where ``run_notebooks.py`` puts them.

    Sphinx reads every page again when this setting changes.
    """
    caches = Path(app.outdir).parent / ".jupyter_cache"
    current = caches / name
    for old in caches.glob(f"{name.partition('-')[0]}-*"):
        if old != current:
            shutil.rmtree(old, ignore_errors=True)
    config.nb_execution_cache_path = str(current)


def offer_buttons(config):
    """Show launch and source buttons if, and only if, a repository is known.

    Colab has the notebook alone, which knows no repository but the configured one.
    """
    options = config.html_theme_options
    configured = options.get("repository_url")
    url = os.environ.get("FLATLAB_REPOSITORY") or configured
    if url:
        options["repository_url"] = url
        options["use_repository_button"] = True
        if not configured:
            options["launch_buttons"].pop("colab_url", None)
    else:
        for name in ("repository_url", "launch_buttons"):
            options.pop(name, None)
        options["use_repository_button"] = False


def leave_out_thebe(app):
    """Disconnect an extension that would load its script from another host."""
    for listeners in app.events.listeners.values():
        listeners[:] = [
            listener
            for listener in listeners
            if listener.handler.__module__.partition(".")[0] != "sphinx_thebe"
        ]
    sheets = app.registry.css_files
    sheets[:] = [sheet for sheet in sheets if sheet[0] != "sphinx-thebe.css"]


def copy_mathjax(app, error):
    """Put MathJax beside the other static files of the built book."""
    if error or app.builder.format != "html":
        return
    target = Path(app.outdir) / "_static" / "mathjax"
    if all((target / part).exists() for part in MATHJAX):
        return
    script = next(f for f in files("sphinx-mathjax-offline") if f.name == "startup.js")
    source = Path(script.locate()).parent
    for part in MATHJAX:
        (target / part).parent.mkdir(parents=True, exist_ok=True)
        if (source / part).is_dir():
            shutil.copytree(source / part, target / part, dirs_exist_ok=True)
        else:
            shutil.copy2(source / part, target / part)


def lighten_icons(app, error):
    """Draw the theme's icons from a font that holds those in use, without a script.

    The font goes into the style sheet, since a browser that reads the book from a
    folder loads no font from a file of its own.
    """
    if error or app.builder.format != "html":
        return
    out = Path(app.outdir)
    pages = "".join(page.read_text("utf-8") for page in out.rglob("*.html"))
    scripts = "".join(s.read_text("utf-8") for s in out.glob("_static/scripts/*.js"))
    used = set(re.findall(r"\bfa-([a-z0-9-]+)", pages + scripts))
    for sheet in out.glob("_static/vendor/fontawesome/*/css/all.min.css"):
        others = "".join(
            s.read_text("utf-8") for s in out.glob("_static/**/*.css") if s != sheet
        )
        sheet.write_text(
            icons_in_use(sheet.read_text("utf-8"), used, others, sheet.parents[1]),
            "utf-8",
        )
    heavy = re.compile(
        r"<script[^>]*vendor/fontawesome[^>]*></script>"
        r"|<link[^>]*vendor/fontawesome[^>]*(?:all\.min\.js|\.woff2)[^>]*>"
    )
    for page in out.rglob("*.html"):
        text = page.read_text("utf-8")
        lighter = heavy.sub("", text)
        if lighter != text:
            page.write_text(lighter, "utf-8")


def icons_in_use(text, used, others, folder):
    """The icons' style sheet with the icons in use alone, and their glyphs within it.

    Args:
        text: the whole style sheet.
        used: names of icons.
        others: the other style sheets, which name glyphs by their code.
        folder: that holds ``webfonts``.
    """
    codes = {int(c, 16) for c in re.findall(r"\\\\(f[0-9a-f]{3})\b", others)}

    def kept(match):
        wanted = used & set(re.findall(r"\.fa-([a-z0-9-]+):+before", match[1]))
        if not wanted:
            return ""
        codes.update(map(ord, re.findall(r"[\ue000-\uf8ff]", match[2])))
        codes.update(int(c, 16) for c in re.findall(r"\\([0-9a-f]+)", match[2]))
        return match[0]

    text = re.sub(r"((?:\.fa-[\w-]+:+before,?)+)\{(content:[^}]*)\}", kept, text)
    for name in ("fa-solid-900", "fa-regular-400"):
        font = TTFont(folder / "webfonts" / f"{name}.ttf")
        subsetter = subset.Subsetter()
        subsetter.populate(unicodes=codes)
        subsetter.subset(font)
        font.flavor = "woff"
        data = io.BytesIO()
        font.save(data)
        url = f"data:font/woff;base64,{base64.b64encode(data.getvalue()).decode()}"
        face = r"(@font-face{[^}]*Awesome\\ 6 Free[^}]*src:)[^}]*" + name + r"[^}]*(})"
        text = re.sub(face, rf'\1url({url}) format("woff")\2', text)
    return re.sub(r"@font-face{[^}]*webfonts[^}]*}", "", text)


def figure_size(path):
    """Width and height of a figure of matplotlib, in pixels of the page."""
    if path.suffix == ".png":
        header = path.read_bytes()[:24]
        found = [int.from_bytes(header[i : i + 4]) for i in (16, 20)]
    else:
        head = re.search("<svg[^>]*>", path.read_text("utf-8"))[0]
        points = re.findall(r' (?:width|height)="([\d.]+)pt"', head)
        found = [round(float(n) / 72 * STYLE["figure.dpi"]) for n in points]
    return dict(zip(("width", "height"), found, strict=True))


def load_figures_late(app, error):
    """Let figures be fetched as a reader comes near them, in boxes of their size."""
    if error or app.builder.name != "html":
        return
    for page in Path(app.outdir).rglob("*.html"):
        text = page.read_text("utf-8")

        def lazy(match, page=page):
            source = re.search(r'src="([^"]+)"', match[0])[1]
            size = "".join(
                f' {name}="{pixels}"'
                for name, pixels in figure_size(page.parent / source).items()
            )
            return f'<img loading="lazy"{size}{match[1]}'

        later = re.sub(
            r'<img(?![^>]*\b(?:loading|width)=)([^>]*src="[^"]*_images/[^>]*>)',
            lazy,
            text,
        )
        if later != text:
            page.write_text(later, "utf-8")


def forget_failure(app, error):
    """Let a build that failed repeat its warnings when it is tried again.

    Sphinx would find every page up to date the second time, and succeed.
    """
    if error or app._warncount:
        (Path(app.doctreedir) / "environment.pickle").unlink(missing_ok=True)


class Lines(HtmlFormatter):
    """Code in HTML with an element per line, which knows how far it is indented."""

    def wrap(self, source):
        """Wrap each line, and all of them as usual."""
        return super().wrap(map(self._line, source))

    @staticmethod
    def _line(line):
        is_code, text = line
        shown = re.sub("<[^>]*>", "", text)
        indent = len(shown) - len(shown.lstrip(" "))
        style = f' style="--indent:{indent}"' if indent else ""
        return is_code, f'<span class="line"{style}>{text.rstrip(chr(10))}</span>\n'


def share_visitors(app):
    """Let the book as one page write every node that it writes as many pages.

    Some extension registers nodes for that builder alone, and Sphinx then leaves out
    those that others registered for all builders of HTML.
    """
    handlers = app.registry.translation_handlers
    handlers["singlehtml"] = handlers.get("html", {}) | handlers.get("singlehtml", {})


def verdicts(root, chapter):
    """Count the verdicts of a chapter at the laptop's scale, as a phrase."""
    registry = root / "book" / "claims.toml"
    found = read_verdicts("laptop", registry)
    own = [
        k for k, claim in read_registry(registry).items() if claim.chapter == chapter
    ]
    counts = Counter(found[id] for id in own)
    parts = [f"{counts[v]} {v}" for v in Verdict if counts[v]]
    return f"*{len(own)} claim{'s' * (len(own) > 1)}: {', '.join(parts)}.*"


def how_to_get_the_code(address):
    """Markdown: the commands where an address is configured, plain words elsewhere."""
    if address:
        name = address.rstrip("/").rpartition("/")[2].removesuffix(".git")
        archive = f"{address.removesuffix('.git')}/archive/refs/heads/main.zip"
        return (
            f"```bash\ngit clone {address}\ncd {name}\n```\n\n"
            f"or download [all of it as a zip]({archive}) and unpack it."
        )
    return (
        "This copy of the book was built without the address of its source. Whoever "
        "gave you these pages has the folder that they were built from: ask for it, as "
        "a zip or as the address of a git repository, and unpack or clone it."
    )


def write_generated(app, docname, source):
    """Replace marks in a page by what the results say."""
    root = Path(app.srcdir)
    address = app.config.html_theme_options.get("repository_url")
    source[0] = source[0].replace(CODE_MARK, how_to_get_the_code(address))
    source[0] = VERDICTS_MARK.sub(lambda m: verdicts(root, m[1]), source[0])


def keep_bars(app, what, name, obj, options, lines):
    """Leave |w| in a docstring what it is in mathematics, not a substitution."""
    for i, line in enumerate(lines):
        parts = line.split("``")  # every second part is literal
        parts[::2] = [
            re.sub(r"\|(\S[^|]*)\|", r"\\|\1\\|", part) for part in parts[::2]
        ]
        lines[i] = "``".join(parts)


def forget_shared_ids(app, doctree, docname):
    """Take away the ids that sphinx-exercise gives to every exercise alike."""
    for section in doctree.findall(nodes.section):
        shared = {"exercise-content", "solution-content"}
        section["ids"] = [name for name in section["ids"] if name not in shared]


def setup(app):
    """Connect to Sphinx."""
    app.add_config_value("flatbook_assets", "", "html", str)
    PygmentsBridge.html_formatter = Lines
    app.connect("config-inited", configure)
    app.connect("builder-inited", share_visitors)
    app.connect("source-read", write_generated)
    app.connect("autodoc-process-docstring", keep_bars)
    app.connect("doctree-resolved", forget_shared_ids)
    app.connect("build-finished", copy_mathjax)
    app.connect("build-finished", lighten_icons)
    app.connect("build-finished", load_figures_late)
    app.connect("build-finished", forget_failure, priority=999)
    return {"parallel_read_safe": False, "parallel_write_safe": True}
