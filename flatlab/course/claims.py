"""What was claimed, what we measure, and what follows.

The registry ``book/claims.toml`` says what the post and the papers claim, and
``book/rules.py`` beside it what would confirm and what would overturn each claim. A
chapter records figures; the rule gives the verdict; ``results/<scale>/<chapter>.json``
keeps both, and a run that comes out otherwise is an error.
"""

import inspect
import json
import math
import os
import time
import tomllib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from enum import StrEnum
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from flatlab.course.cards import Cards, Measurement, card, figure
from flatlab.course.store import book_root, provenance, write_json
from flatlab.environment import scale
from flatlab.intervals import mean_interval

# More values than these would make the files hard to read in a diff.
MOST_VALUES = 64
OVERTURNED = "Overturned by:"


class Verdict(StrEnum):
    """What becomes of a claim."""

    reproduced = "reproduced"
    partly = "partly"
    contradicted = "contradicted"
    not_at_this_scale = "not at this scale"
    holds = "holds"
    fails = "fails"
    well_put = "well put"
    loose = "loose"
    misquoted = "misquoted"
    not_tested = "not tested"


# Networks are measured, identities are calculated, and words are argued about.
KINDS = {
    "measured": ("reproduced", "partly", "contradicted", "not at this scale"),
    "calculated": ("holds", "fails"),
    "worded": ("well put", "loose", "misquoted"),
}


def verdict(
    *, reproduced: Any = False, partly: Any = False, otherwise: str = "contradicted"
) -> Verdict:
    """The first of ``reproduced`` and ``partly`` that is true, else ``otherwise``."""
    if bool(reproduced):
        return Verdict.reproduced
    return Verdict.partly if bool(partly) else Verdict(otherwise)


def holds(condition: Any) -> Verdict:
    """``holds`` or ``fails``, for what is calculated."""
    return Verdict.holds if bool(condition) else Verdict.fails


@dataclass(frozen=True)
class Claim:
    """One entry of the registry; ``book/claims.toml`` says what its fields mean."""

    id: str
    chapter: str
    kind: str
    statement: str
    source: tuple[str, ...]
    names: tuple[str, ...] = ()  # of the sources, as people read them
    where: str | None = None
    reported: str | None = None
    post_errs: str | None = None
    untested: str | None = None
    verdict: str | None = None
    argument: str | None = None

    def cited(self) -> str:
        """Who says it: ``The post, citing Dinh et al. 2017, Theorem 4``."""
        post = self.source[0] == "post"
        papers = " and ".join(self.names[post:])
        said = "The post, citing " if post and papers else "The post" * post
        return said + ", ".join(filter(None, (papers, self.where)))


@dataclass(frozen=True)
class Rule:
    """What turns the figures of a claim into its verdict.

    Attributes:
        judge: the function of the figures.
        asks: what the verdict asks for, in one sentence.
        overturned: what would have overturned it; begins with "nothing" where nothing
            could.
    """

    judge: Callable[[Any], Verdict]
    asks: str
    overturned: str


def read_registry(path: str | Path | None = None) -> dict[str, Claim]:
    """Read all claims, by id, in the order of the file.

    Args:
        path: of the registry; by default ``book/claims.toml`` of the repository that
            holds this package, or of one that holds the working folder.

    Raises:
        ValueError: a claim lacks a field or has one too many, is of an unknown kind, or
            its id occurs twice.
    """
    path = _registry_path(path)
    content = tomllib.loads(path.read_text(encoding="utf-8"))
    names = content.get("names", {})
    known = {field.name for field in fields(Claim)} - {"names"}
    argued = {"verdict", "argument"}
    claims: dict[str, Claim] = {}
    for entry in content["claim"]:
        id, worded = entry.get("id"), entry.get("kind") == "worded"
        needed = {"id", "chapter", "kind", "statement", "source"} | (
            argued if worded else set()
        )
        possible = known if worded else known - argued
        if not needed <= set(entry) <= possible:
            raise ValueError(
                f"{path}: claim {id!r} has the fields {sorted(entry)}; needed are "
                f"{sorted(needed)}, possible {sorted(possible)}"
            )
        if entry["kind"] not in KINDS:
            raise ValueError(f"{path}: {id!r} is {entry['kind']!r}, none of {[*KINDS]}")
        if worded and entry["verdict"] not in KINDS["worded"]:
            raise ValueError(f"{path}: {id!r} is said to be {entry['verdict']!r}")
        if id in claims:
            raise ValueError(f"{path}: the id {id!r} occurs twice")
        source = tuple(entry["source"])
        called = tuple(names.get(key, key) for key in source)
        claims[id] = Claim(**{**entry, "source": source, "names": called})
    return claims


def read_rules(registry: str | Path | None = None) -> dict[str, Rule]:
    """Read ``rules.py`` beside the registry: a rule per public function, by claim.

    Raises:
        ValueError: a docstring does not say what would have overturned the verdict.
    """
    path = _registry_path(registry).with_name("rules.py")
    spec = spec_from_file_location("rules", path)
    assert spec is not None and spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    rules = {}
    for name, function in vars(module).items():
        if name.startswith("_") or getattr(function, "__module__", None) != "rules":
            continue
        asks, found, overturned = (inspect.getdoc(function) or "").partition(OVERTURNED)
        if not found:
            raise ValueError(f"{path}: the docstring of {name} has no '{OVERTURNED}'")
        texts = (" ".join(text.split()) for text in (asks, overturned))
        rules[name.replace("_", "-")] = Rule(function, *texts)
    return rules


def read_results(
    chapter: str, at: str | None = None, registry: str | Path | None = None
) -> dict | None:
    """Read what is stored of a chapter at a scale, by default the current one.

    A dict as ``Claims.results`` gives it, or None where nothing is stored.
    """
    path = _results_path(_registry_path(registry), at or scale(), chapter)
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else None


def read_verdicts(
    at: str | None = None, registry: str | Path | None = None
) -> dict[str, Verdict]:
    """The verdict on every claim: from the results, or as argued in the registry."""
    claims = read_registry(registry)
    stored: dict[str, str] = {}
    for chapter in dict.fromkeys(claim.chapter for claim in claims.values()):
        found = read_results(chapter, at, registry) or {"claims": {}}
        stored |= {id: entry["verdict"] for id, entry in found["claims"].items()}
    return {
        id: Verdict(claim.verdict or stored.get(id, Verdict.not_tested))
        for id, claim in claims.items()
    }


class Claims:
    """The claims of one chapter, and what it measures about them.

    Args:
        chapter: its name in the registry.
        registry: path of the registry; by default that of the book.

    Raises:
        ValueError: the registry has no claim of that chapter.
    """

    def __init__(self, chapter: str, registry: str | Path | None = None):
        self.started = time.perf_counter()
        self.chapter = chapter
        self.registry = _registry_path(registry)
        everything = read_registry(self.registry)
        self.claims = {k: c for k, c in everything.items() if c.chapter == chapter}
        if not self.claims:
            known = ", ".join(dict.fromkeys(c.chapter for c in everything.values()))
            raise ValueError(f"no claim is of a chapter {chapter!r}; there are {known}")
        self.rules = read_rules(self.registry)
        self.measured: dict[str, list[Measurement]] = {}
        self.verdicts = {
            id: Verdict(c.verdict) for id, c in self.claims.items() if c.verdict
        }

    def record(self, id: str, figures: Any, unit: str = "") -> Verdict:
        """Record figures, and have the rule of the claim give its verdict.

        Args:
            id: of the claim.
            figures: one value per member, shape (members,), or a number; or a dict from
                label to such values. The rule gets float64 arrays of shape (members,).
            unit: shown behind the figures.

        Raises:
            KeyError: the chapter has no such claim.
            ValueError: a value is NaN or infinite, or values have a further axis.
        """
        if id not in self.claims:
            known = ", ".join(self.claims)
            raise KeyError(f"{self.chapter!r} has no claim {id!r}; it has {known}")
        claim = self.claims[id]
        several = isinstance(figures, Mapping)
        arrays = {
            k: _members(v) for k, v in (figures if several else {"": figures}).items()
        }
        exact = claim.kind == "calculated"
        rows = [_measurement(k, v, unit, exact) for k, v in arrays.items()]
        if claim.kind != "worded":
            found = self.rules[id].judge(arrays if several else arrays[""])
            if found not in KINDS[claim.kind]:
                raise ValueError(f"a {claim.kind} claim, {id!r}, cannot be {found!r}")
            self.verdicts[id] = found
        self.measured[id] = rows
        return self.verdicts[id]

    def cards(self) -> Cards:
        """Show every claim of the chapter, verdict first.

        What a run on a GPU found stands beside where ``results/gpu`` has it.
        """
        beside = scale() != "gpu"
        stored = read_results(self.chapter, "gpu", self.registry) if beside else None
        large = stored["claims"] if stored else {}
        return Cards(
            tuple(
                card(
                    claim,
                    self.verdicts.get(id, Verdict.not_tested),
                    self.rules.get(id) if id in self.verdicts else None,
                    self.measured.get(id, []),
                    large.get(id),
                )
                for id, claim in self.claims.items()
            )
        )

    def results(self, seeds: Sequence[int] | None = None) -> dict:
        """Gather what was recorded, with where it comes from, as JSON can hold it."""
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
                if id in self.measured
            },
        }

    def save(self, seeds: Sequence[int] | None = None) -> Path:
        """Keep the results in ``results/<scale>/<chapter>.json`` beside the book."""
        path = _results_path(self.registry, scale(), self.chapter)
        return write_json(path, self.results(seeds))

    def settle(self, seeds: Sequence[int] | None = None) -> None:
        """Compare with the stored results, or store these where that is asked for.

        The last cell of a chapter calls this. With ``FLATLAB_RESULTS=write``, as
        ``make results`` sets it, or ``claims``, as ``make claims`` does, the results
        are saved; otherwise nothing is written, and nothing is compared where nothing
        is stored at this scale.

        Raises:
            ValueError: a claim was neither recorded nor given a reason.
            RuntimeError: a verdict or a figure is not the stored one.
        """
        open_claims = [
            id
            for id, claim in self.claims.items()
            if id not in self.verdicts and not claim.untested
        ]
        if open_claims:
            names = ", ".join(open_claims)
            raise ValueError(f"neither recorded nor given a reason why not: {names}")
        if os.environ.get("FLATLAB_RESULTS", "").strip() in ("write", "claims"):
            self.save(seeds=seeds)
            return
        stored = read_results(self.chapter, registry=self.registry)
        if stored is None:
            return
        if found := differences(self.results(), stored):
            when = ", ".join(filter(None, (stored.get("date"), stored.get("commit"))))
            raise RuntimeError(
                f"chapter {self.chapter!r} does not come out as stored at the scale "
                f"{scale()!r} ({when or 'undated'}):\n"
                + "\n".join(f"  {line}" for line in found)
                + "\nOnce the change is understood, `make claims` stores the new run."
            )


def differences(fresh: dict, stored: dict) -> list[str]:
    """Say where a fresh run differs from a stored one, a sentence per difference.

    Verdicts must be equal, and the mean of each figure must lie in the stored interval,
    widened by the half-width of the fresh one and by 1 % of the larger mean. Both are
    dicts as ``Claims.results`` gives them.
    """
    new, old = fresh["claims"], stored["claims"]
    found = _unmatched("", new, old)
    for id in (id for id in new if id in old):
        if new[id]["verdict"] != old[id]["verdict"]:
            found.append(
                f"{id}: verdict {new[id]['verdict']!r}, stored {old[id]['verdict']!r}"
            )
        ours = {m["label"]: m for m in new[id]["measured"]}
        theirs = {m["label"]: m for m in old[id]["measured"]}
        found += _unmatched(f"{id}, ", ours, theirs)
        for label in (label for label in ours if label in theirs):
            a, b = ours[label], theirs[label]
            slack = (a["half_width"] or 0) + (b["half_width"] or 0) + 1e-9
            slack += 0.01 * max(abs(a["mean"]), abs(b["mean"]))
            if abs(a["mean"] - b["mean"]) > slack:
                name = f"{id}, {label}" if label else id
                found.append(f"{name}: {a['text']}, stored {b['text']}")
    return found


def _unmatched(of: str, new: Mapping, old: Mapping) -> list[str]:
    return [f"{of}{k}: not in the stored run" for k in new if k not in old] + [
        f"{of}{k}: only in the stored run" for k in old if k not in new
    ]


def _members(values: Any) -> np.ndarray:
    if isinstance(values, Tensor):
        values = values.detach().cpu().double().numpy()
    values = np.atleast_1d(np.asarray(values, dtype=np.float64))
    if values.ndim != 1:
        raise ValueError(
            "a figure must have one value per member, shape (members,), got "
            f"{values.shape}; give several figures as a dict"
        )
    return values


def _measurement(label: str, values: np.ndarray, unit: str, exact: bool) -> Measurement:
    found = mean_interval(values)
    mean, half = float(found.mean), float(found.half_width)
    low, high = figure(values.min()), figure(values.max())
    span = low if low == high else f"{low} to {high}"
    text = span if exact else figure(mean, half)  # no interval is put on arithmetic
    known = None if math.isnan(half) else half
    listed = values.tolist() if found.n <= MOST_VALUES else None
    return Measurement(label, mean, known, found.n, listed, f"{text} {unit}".strip())


def _registry_path(path: str | Path | None) -> Path:
    if path is not None:
        path = Path(path)
        if not path.is_file():
            raise FileNotFoundError(f"there is no registry of claims at {path}")
        return path
    return book_root() / "book" / "claims.toml"


def _results_path(registry: Path, at: str, chapter: str) -> Path:
    return registry.parents[1] / "results" / at / f"{chapter}.json"
