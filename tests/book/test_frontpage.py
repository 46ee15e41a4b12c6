"""What the first page says of the verdicts, whichever way they are."""

import re
import sys

import pytest

from flatlab.course import study
from flatlab.course.claims import Verdict

from .conftest import ROOT

sys.path.insert(0, str(ROOT / "book" / "_ext"))
import frontpage

sys.path.pop(0)


def test_every_verdict_has_its_group_and_every_claim_is_counted():
    assert set(frontpage.GROUP) == {str(verdict) for verdict in Verdict}
    of = frontpage.counts(ROOT)
    assert sum(of["post"].values()) == 45
    picture = frontpage.picture(ROOT)
    assert picture.count("<rect") == sum(sum(c.values()) for c in of.values())
    for counter in of.values():
        assert f"{counter['held']} held" in picture


def test_the_scoreboard_has_every_claim_once_and_says_why_one_is_not_tested():
    claims = frontpage.read_registry(ROOT / "book" / "claims.toml")
    board = frontpage.scoreboard(ROOT)
    for id, claim in claims.items():
        assert board.count(f'href="{claim.chapter}.html#{id}"') == 1
        assert claim.untested is None or claim.untested in board
    of = frontpage.counts(ROOT)
    assert board.count('<tr data-chapter="') == sum(c.total() for c in of.values())
    kinds = re.findall(r"<strong>\w+</strong>, (\d+):", board)
    assert sum(map(int, kinds)) == len(claims)


@pytest.mark.parametrize("verdict", [str(verdict) for verdict in Verdict])
def test_the_answer_follows_the_verdicts(verdict, monkeypatch):
    found = dict.fromkeys(
        frontpage.read_registry(ROOT / "book" / "claims.toml"), verdict
    )
    monkeypatch.setattr(frontpage, "read_verdicts", lambda *_: found)
    text = frontpage.answer(ROOT)
    assert text.count(". ") == 1 and text.endswith(".")
    held = verdict in frontpage.GROUPS["held"]
    assert (" 45 held" in text) == held
    assert ("does not make" in text) == (verdict in frontpage.GROUPS["did not hold"])


def test_the_foot_says_what_the_citation_says():
    foot = frontpage.foot(frontpage.citation(ROOT))
    cite = frontpage.citation(ROOT)
    assert cite["version"] in foot and str(cite["date-released"]) in foot
    assert cite["authors"][0]["name"] in foot


def test_the_glossary_has_the_verdicts_table_of_measures():
    lines = frontpage.measures(ROOT).splitlines()
    assert len({line.count("|") for line in lines}) == 1
    named = {line.split("|")[1].strip() for line in lines}
    for measure in study.MEASURES.values():
        if measure.family in study.FLATNESS:
            assert any(measure.label.startswith(name) for name in named), measure.label
    assert frontpage.MEASURES in (ROOT / "book" / "glossary.md").read_text("utf-8")
