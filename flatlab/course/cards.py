"""Claims as a reader sees them: verdict first, then what led to it."""

import html
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Measurement:
    """One figure, as it is kept.

    Attributes:
        label: what it is, where a claim has several figures; else empty.
        mean: over members.
        half_width: of the 95 % interval; None for one member.
        n: number of members.
        values: one per member, or None where there are too many to list.
        text: as shown.
    """

    label: str
    mean: float
    half_width: float | None
    n: int
    values: list[float] | None
    text: str


@dataclass(frozen=True)
class Card:
    """One claim.

    Attributes:
        id: of the claim, and its address in the page.
        verdict: on it.
        statement: what is claimed.
        cited: who says it.
        parts: pairs of a term and its lines, each a pair of a label, or an empty one,
            and a text.
    """

    id: str
    verdict: str
    statement: str
    cited: str
    parts: tuple[tuple[str, list[tuple[str, str]]], ...]

    def _repr_html_(self) -> str:
        e = html.escape
        rows = []
        for term, lines in self.parts:
            texts = [f"<span>{e(a)}:</span> {e(b)}" if a else e(b) for a, b in lines]
            several = "".join(f"<li>{text}</li>" for text in texts)
            what = f"<ul>{several}</ul>" if len(texts) > 1 else texts[0]
            rows.append(f"<div><dt>{e(term)}</dt><dd>{what}</dd></div>")
        kind, name = f"verdict-{self.verdict.replace(' ', '-')}", f"{self.id}-is"
        return (
            f'<article class="claim {kind}" id="{self.id}" aria-labelledby="{name}">'
            f'<h3 id="{name}"><span class="verdict {kind}">{self.verdict}</span> '
            f'<a class="claim-id" href="#{self.id}">{self.id}</a> '
            f'<span class="claim-says">{e(self.statement)}</span></h3>'
            f"<p>{e(self.cited)}</p><dl>{''.join(rows)}</dl></article>"
        )

    def __str__(self) -> str:
        head = f"**{self.verdict}** · {self.id}: {self.statement} *{self.cited}*"
        lines = [
            f"- {term}: " + "; ".join(f"{a}: {b}" if a else b for a, b in lines)
            for term, lines in self.parts
        ]
        return "\n".join([head, "", *lines])


@dataclass(frozen=True)
class Cards:
    """The claims of a chapter: HTML in notebooks, Markdown elsewhere."""

    cards: tuple[Card, ...]

    def _repr_html_(self) -> str:
        cards = "".join(card._repr_html_() for card in self.cards)
        return f'<div class="claims">{cards}</div>'

    def __str__(self) -> str:
        return "\n\n".join(map(str, self.cards))

    _repr_markdown_ = __str__


def card(
    claim: Any, verdict: str, rule: Any, measured: Any, large: dict | None
) -> Card:
    """Put on a card what is known of a claim.

    Args:
        claim: a ``Claim``.
        verdict: on it.
        rule: the ``Rule`` that gave the verdict; None where none did.
        measured: a ``Measurement`` per figure.
        large: what ``results/gpu`` holds of the claim, or None.
    """
    exact = claim.kind == "calculated"
    how = "We calculate" if exact else "We measure"
    parts = [("They report", claim.reported), (how, _shown(measured, exact))]
    if rule is not None:
        parts += [("The verdict asks", rule.asks), ("Overturned by", rule.overturned)]
    parts += [("Why", claim.argument), ("Correction", claim.post_errs)]
    parts += [("Not tested", claim.untested)]
    if large:
        found = _shown([Measurement(**m) for m in large["measured"]], exact)
        parts.append(("On a GPU", [("", large["verdict"]), *found]))
    lines = (
        (term, [("", what)] if isinstance(what, str) else what)
        for term, what in parts
        if what
    )
    return Card(claim.id, verdict, claim.statement, claim.cited(), tuple(lines))


def _shown(measured: Sequence[Measurement], exact: bool) -> list[tuple[str, str]]:
    """Label and text of each figure; what they have in common is said once, below."""
    sizes = {m.n for m in measured if m.half_width is not None and not exact}
    pairs = [
        (m.label, f"{m.text} (n = {m.n})" if len(sizes) > 1 and m.n > 1 else m.text)
        for m in measured
    ]
    if sizes:
        n = f", n = {sizes.pop()}" if len(sizes) == 1 else ""
        pairs.append(("", f"(mean ± 95 % interval{n})"))
    return pairs


def figure(mean: float, half: float = math.nan) -> str:
    """A mean, and its half-width to two digits unless it is NaN."""
    if not half > 0:  # one member, or no spread
        whole = float(mean).is_integer() or abs(mean) >= 1e3
        text = f"{mean:,.0f}" if whole and abs(mean) < 1e7 else f"{mean:.3g}"
        return text.replace("-", "−") + (" ± 0" if half == 0 else "")
    places = 1 - math.floor(math.log10(half))
    if mean:  # no more than four digits of the mean
        places = min(places, 3 - math.floor(math.log10(abs(mean))))
    rounded = (f"{round(v, places):,.{max(places, 0)}f}" for v in (mean, half))
    return " ± ".join(rounded).replace("-", "−")
