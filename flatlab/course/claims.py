"""What was claimed, what we measure, and what follows.

The registry ``book/claims.toml`` says what the post and the papers claim. A chapter
records measurements, each with the criterion that turns it into a verdict, shows them
as a table, and keeps them in ``results/<scale>/<chapter>.json``.
"""

import html
import json
import math
import os
import re
import time
import tomllib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from enum import StrEnum
from pathlib import Path

import numpy as np
from torch import Tensor

from flatlab.course.store import book_root, provenance, write_json
from flatlab.environment import scale
from flatlab.intervals import mean_interval

COLUMNS = (
    "Claim",
    "Source",
    "Paper says",
    "We measure (mean ± 95 % interval, n)",
    "Verdict",
)
# More values than these would make the files hard to read in a diff.
MOST_VALUES = 64


class Verdict(StrEnum):
    """What a measurement says about a claim."""

    reproduced = "reproduced"
    partly = "partly"
    contradicted = "contradicted"
    not_at_this_scale = "not at this scale"
    not_tested = "not tested"

    @classmethod
    def reproduced_if(cls, condition, otherwise="contradicted"):
        """Turn a criterion into a verdict.

        Args:
            condition: a bool, or a bool tensor of one element.
            otherwise: verdict where it does not hold, or its text.

        Returns:
            ``reproduced``, or ``otherwise``.
        """
        return cls.reproduced if bool(condition) else cls(otherwise)

    @classmethod
    def partly_if(cls, condition, otherwise="contradicted"):
        """Turn a weaker criterion into a verdict.

        Args:
            condition: a bool, or a bool tensor of one element.
            otherwise: verdict where it does not hold, or its text.

        Returns:
            ``partly``, or ``otherwise``.
        """
        return cls.partly if bool(condition) else cls(otherwise)


@dataclass(frozen=True)
class Claim:
    """One row of the registry.

    Attributes:
        id: by which the chapter records it.
        chapter: that measures it.
        statement: the claim, in our words.
        source: keys of the bibliography, or ``"post"``.
        where: figure, table or section of the source.
        reported: what the source reports, as text; None where it gives no figure, or
            none that was checked.
        post_errs: what the post gets wrong here; None where it does not.
        untested: why it is not measured; None where it is.
    """

    id: str
    chapter: str
    statement: str
    source: tuple[str, ...]
    where: str | None = None
    reported: str | None = None
    post_errs: str | None = None
    untested: str | None = None

    def cited(self):
        """Source as read by people: ``Zhang 2017, Figure 1a``."""
        names = [re.sub(r"^([a-z]+)(\d{4}).*", r"\1 \2", key) for key in self.source]
        text = ", ".join(name[:1].upper() + name[1:] for name in names)
        return f"{text}, {self.where}" if self.where else text


@dataclass(frozen=True)
class Measurement:
    """One measured figure.

    Attributes:
        label: what it is, where a claim has several figures; else empty.
        mean: over members.
        half_width: of the 95 % interval; None for a single member.
        n: number of members.
        values: one per member, or None where there are too many to list.
        text: as shown in the table.
    """

    label: str
    mean: float
    half_width: float | None
    n: int
    values: list[float] | None
    text: str


@dataclass(frozen=True)
class Agreement:
    """How a fresh run compares with a stored one.

    Attributes:
        differences: sentences, one per difference; empty where the runs agree.
    """

    differences: tuple[str, ...]

    @property
    def ok(self):
        """True where the runs agree."""
        return not self.differences

    def __str__(self):
        return "\n".join(self.differences) or "the runs agree"


def read_registry(path=None):
    """Read all claims.

    Args:
        path: of the registry; by default ``book/claims.toml`` of the repository that
            holds this package, or of one that holds the working folder.

    Returns:
        A dict from id to ``Claim``, in the order of the file.

    Raises:
        FileNotFoundError: there is no registry; an installed package has none.
        ValueError: a claim lacks a field, has an unknown one, or an id occurs twice.
    """
    path = _registry_path(path)
    known = {field.name for field in fields(Claim)}
    needed = {"id", "chapter", "statement", "source"}
    claims = {}
    for entry in tomllib.loads(path.read_text(encoding="utf-8"))["claim"]:
        if not needed <= set(entry) <= known:
            raise ValueError(
                f"{path}: claim {entry.get('id')!r} has the fields {sorted(entry)}; "
                f"needed are {sorted(needed)}, possible {sorted(known)}"
            )
        if entry["id"] in claims:
            raise ValueError(f"{path}: the id {entry['id']!r} occurs twice")
        claims[entry["id"]] = Claim(**{**entry, "source": tuple(entry["source"])})
    return claims


def read_results(chapter, at=None, registry=None):
    """Read the stored results of a chapter.

    Args:
        chapter: its name.
        at: scale; by default the current one.
        registry: path of the registry, beside whose folder ``results/`` lies.

    Returns:
        A dict, as ``Claims.results`` gives it, or None where nothing is stored.
    """
    path = _results_path(_registry_path(registry), at or scale(), chapter)
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else None


class Claims:
    """The claims of one chapter, and what it measures about them.

    Args:
        chapter: its name in the registry.
        registry: path of the registry; by default that of the book.

    Raises:
        FileNotFoundError: there is no registry.
        ValueError: the registry has no claim of that chapter.
    """

    def __init__(self, chapter, registry=None):
        self.started = time.perf_counter()
        self.chapter = chapter
        self.registry = _registry_path(registry)
        everything = read_registry(self.registry)
        self.claims = {k: c for k, c in everything.items() if c.chapter == chapter}
        if not self.claims:
            chapters = dict.fromkeys(c.chapter for c in everything.values())
            raise ValueError(
                f"no claim belongs to a chapter {chapter!r}; chapters are "
                + ", ".join(chapters)
            )
        self.measured = {}
        self.verdicts = {}

    def record(self, id, measured, verdict, unit="", format=".3g"):
        """Record a measurement and draw the verdict from it.

        Args:
            id: of the claim.
            measured: one value per member, shape (members,), or a number; or a dict
                from label to such values, for a claim of several figures.
            verdict: a function from ``measured``, as given, to a ``Verdict``; or a
                ``Verdict`` computed before.
            unit: shown behind the figures.
            format: of the figures, as Python's ``format`` takes it.

        Returns:
            The ``Verdict``.

        Raises:
            KeyError: the chapter has no such claim.
            TypeError: the verdict is no ``Verdict``.
            ValueError: a value is NaN or infinite, or values have a further axis.
        """
        if id not in self.claims:
            raise KeyError(
                f"chapter {self.chapter!r} has no claim {id!r}; it has "
                + ", ".join(self.claims)
            )
        parts = measured if isinstance(measured, Mapping) else {"": measured}
        rows = [_measure(label, v, unit, format) for label, v in parts.items()]
        found = verdict if isinstance(verdict, Verdict) else None
        if found is None:
            found = verdict(measured) if callable(verdict) else verdict
        if not isinstance(found, Verdict):
            raise TypeError(
                f"the verdict on {id!r} must be a Verdict, for instance "
                f"Verdict.reproduced_if(...), got {found!r}"
            )
        self.measured[id] = rows
        self.verdicts[id] = found
        return found

    def table(self):
        """Show every claim of the chapter.

        Claims that were not recorded read ``not tested``. What a run on a GPU found
        stands beside where ``results/gpu`` has it.

        Returns:
            A ``Table`` for notebooks.
        """
        large = {}
        if scale() != "gpu":
            stored = read_results(self.chapter, "gpu", self.registry)
            large = stored["claims"] if stored else {}
        rows = []
        for id, claim in self.claims.items():
            figures = [
                f"{m.label}: {m.text}" if m.label else m.text
                for m in self.measured.get(id, [])
            ]
            verdict = str(self.verdicts.get(id, Verdict.not_tested))
            if id not in self.verdicts and claim.untested:
                figures = [claim.untested]
            if id in large:
                figures += [
                    "at GPU scale "
                    + (f"{m['label']}: " if m["label"] else "")
                    + m["text"]
                    for m in large[id]["measured"]
                ]
                verdict += f"; at GPU scale {large[id]['verdict']}"
            statement = [f"{claim.id}: {claim.statement}"]
            if claim.post_errs:
                statement.append(f"Correction: {claim.post_errs}")
            rows.append(
                (
                    statement,
                    [claim.cited()],
                    [claim.reported or "–"],
                    figures,
                    [verdict],
                )
            )
        return Table(f"Claims of the chapter {self.chapter}", tuple(rows))

    def results(self, seeds=None):
        """Gather everything that was measured, with where it comes from.

        Args:
            seeds: of the members, a sequence of whole numbers.

        Returns:
            A dict that JSON can hold.
        """
        return {
            "chapter": self.chapter,
            **provenance(),
            "seeds": None if seeds is None else [int(s) for s in seeds],
            "wall_seconds": round(time.perf_counter() - self.started, 1),
            "claims": {
                id: {
                    "verdict": str(self.verdicts[id]),
                    "measured": [asdict(m) for m in self.measured[id]],
                }
                for id in self.claims
                if id in self.verdicts
            },
        }

    def save(self, path=None, seeds=None):
        """Keep the results in a file, written at once or not at all.

        Args:
            path: of the file; by default ``results/<scale>/<chapter>.json`` beside the
                book, so that a quick run never overwrites a careful one.
            seeds: of the members, a sequence of whole numbers.

        Returns:
            The ``Path`` written.
        """
        path = path or _results_path(self.registry, scale(), self.chapter)
        return write_json(path, self.results(seeds))

    def settle(self, seeds=None):
        """Compare with the stored results, or store these where that is asked for.

        The last cell of a chapter calls this. With ``FLATLAB_RESULTS=write``, as
        ``make results`` sets it, the results are saved; otherwise nothing is written.
        A claim that was not recorded must have a reason in the registry.

        Args:
            seeds: of the members, a sequence of whole numbers.

        Returns:
            An ``Agreement``, without differences where nothing is stored at this scale.

        Raises:
            ValueError: a claim was neither recorded nor given a reason.
        """
        open_claims = [
            id
            for id, claim in self.claims.items()
            if id not in self.verdicts and not claim.untested
        ]
        if open_claims:
            raise ValueError(
                "neither recorded nor given a reason why not: " + ", ".join(open_claims)
            )
        if os.environ.get("FLATLAB_RESULTS", "").strip() == "write":
            self.save(seeds=seeds)
            return Agreement(())
        stored = read_results(self.chapter, registry=self.registry)
        return Agreement(()) if stored is None else agreement(self.results(), stored)


@dataclass(frozen=True)
class Table:
    """A table of claims that a notebook shows as HTML and a terminal as text.

    Attributes:
        caption: what the table shows.
        rows: per claim five cells, each a list of lines.
    """

    caption: str
    rows: tuple

    def _repr_html_(self):
        head = "".join(f'<th scope="col">{html.escape(c)}</th>' for c in COLUMNS)
        body = []
        for claim, *cells in self.rows:
            name = "<br>".join(map(html.escape, claim))
            verdict = re.sub(r"\W.*", "", cells[-1][0])
            body.append(
                f'<tr><th scope="row">{name}</th>'
                + "".join(
                    f"<td>{'<br>'.join(map(html.escape, cell))}</td>"
                    for cell in cells[:-1]
                )
                + f'<td class="verdict-{verdict}">{html.escape(cells[-1][0])}</td></tr>'
            )
        return (
            f'<table class="claims"><caption>{html.escape(self.caption)}</caption>'
            f"<thead><tr>{head}</tr></thead><tbody>{''.join(body)}</tbody></table>"
        )

    def _repr_markdown_(self):
        def line(cells):
            return "| " + " | ".join(c.replace("|", r"\|") for c in cells) + " |"

        rows = [line("<br>".join(cell) for cell in row) for row in self.rows]
        return "\n".join([line(COLUMNS), "|---" * len(COLUMNS) + "|", *rows])

    def __str__(self):
        blocks = [self.caption]
        for row in self.rows:
            pairs = zip(COLUMNS, row, strict=True)
            blocks.append("\n".join(f"{name}: {'; '.join(c)}" for name, c in pairs))
        return "\n\n".join(blocks)


def agreement(fresh, stored, tolerance=0.01):
    """Report where a fresh run differs from a stored one.

    Verdicts must be equal. The intervals of a figure must overlap; a figure without
    interval, or with one of no width, is allowed the tolerance.

    Args:
        fresh: dict as ``Claims.results`` gives it.
        stored: another, for instance of ``read_results``.
        tolerance: relative to the larger of the two means.

    Returns:
        An ``Agreement``.
    """
    differences = []
    for key in ("chapter", "scale"):
        if fresh[key] != stored[key]:
            differences.append(
                f"the {key} is {fresh[key]!r}, that of the stored run {stored[key]!r}"
            )
    new, old = fresh["claims"], stored["claims"]
    differences += [f"{id}: not in the stored run" for id in new if id not in old]
    differences += [f"{id}: only in the stored run" for id in old if id not in new]
    for id in (id for id in new if id in old):
        if new[id]["verdict"] != old[id]["verdict"]:
            differences.append(
                f"{id}: verdict {new[id]['verdict']!r}, stored {old[id]['verdict']!r}"
            )
        ours = {m["label"]: m for m in new[id]["measured"]}
        theirs = {m["label"]: m for m in old[id]["measured"]}
        if set(ours) != set(theirs):
            differences.append(f"{id}: figures {sorted(ours)}, stored {sorted(theirs)}")
        for label in (label for label in ours if label in theirs):
            a, b = ours[label], theirs[label]
            slack = (a["half_width"] or 0) + (b["half_width"] or 0)
            slack += tolerance * max(abs(a["mean"]), abs(b["mean"]))
            if abs(a["mean"] - b["mean"]) > slack:
                name = f"{id}, {label}" if label else id
                differences.append(f"{name}: {a['text']}, stored {b['text']}")
    return Agreement(tuple(differences))


def _measure(label, values, unit, format):
    if isinstance(values, Tensor):
        values = values.detach().cpu().double().numpy()
    values = np.atleast_1d(np.asarray(values, dtype=np.float64))
    if values.ndim != 1:
        raise ValueError(
            "measured must have one value per member, shape (members,), got "
            f"{values.shape}; give several figures as a dict"
        )
    found = mean_interval(values)
    half = None if math.isnan(found.half_width) else found.half_width
    text = f"{found.mean:{format}}"
    if half is not None:
        text += f" ± {half:{format}}"
    text += f" {unit}" if unit else ""
    if found.n > 1:  # one number is a mean over nothing
        text += f" (n = {found.n})"
    listed = values.tolist() if found.n <= MOST_VALUES else None
    return Measurement(label, found.mean, half, found.n, listed, text)


def _registry_path(path):
    if path is not None:
        path = Path(path)
        if not path.is_file():
            raise FileNotFoundError(f"there is no registry of claims at {path}")
        return path
    return book_root() / "book" / "claims.toml"


def _results_path(registry, at, chapter):
    return registry.parents[1] / "results" / at / f"{chapter}.json"
