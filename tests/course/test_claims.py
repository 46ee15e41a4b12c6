import json
import math
import os
import re
from datetime import date
from pathlib import Path

import numpy as np
import pytest
import torch
from bs4 import BeautifulSoup

from flatlab.course import claims as c
from flatlab.course import store as results
from flatlab.course.cards import figure
from flatlab.course.claims import Verdict, holds, verdict

ROOT = Path(__file__).parents[2]
REGISTRY = """
[names]
zhang2017 = "Zhang et al. 2017"

[[claim]]
id = "fits"
chapter = "one"
kind = "measured"
statement = "a < b & everything | fits"
source = ["post", "zhang2017"]
where = "Table 1"
reported = "100 %"
post_errs = "it says more"

[[claim]]
id = "is-slow"
chapter = "one"
kind = "measured"
statement = "it is slow"
source = ["post"]

[[claim]]
id = "adds-up"
chapter = "one"
kind = "calculated"
statement = "one and one is two"
source = ["zhang2017"]

[[claim]]
id = "later"
chapter = "one"
kind = "measured"
statement = "it comes later"
source = ["zhang2017"]
untested = "needs natural images"

[[claim]]
id = "defined"
chapter = "one"
kind = "worded"
statement = "to fit is to be right"
source = ["post", "zhang2017"]
verdict = "loose"
argument = "right on what? see Section 1"

[[claim]]
id = "other"
chapter = "two"
kind = "measured"
statement = "elsewhere"
source = ["post"]
"""
RULES = '''
from flatlab.course.claims import holds, verdict
from flatlab.intervals import mean_interval as ci

def fits(figures):
    """All of them
    fit.

    Overturned by: one that
    does not.
    """
    return verdict(reproduced=figures.min() > 0.5)

def is_slow(figures):
    """It takes 5 epochs; partly, if 3.

    Overturned by: less than that.
    """
    slow = ci(figures["slow"]).mean
    return verdict(reproduced=slow >= 5, partly=slow > 3, otherwise="not at this scale")

def adds_up(figures):
    """The sum is right. Overturned by: another sum."""
    return holds((figures == 2).all())

def other(figures):
    """Anything. Overturned by: nothing, alas."""
    return "perhaps"

def _helper(figures):
    return None
'''


@pytest.fixture
def registry(tmp_path, monkeypatch):
    monkeypatch.setenv("FLATLAB_SCALE", "smoke")
    monkeypatch.setenv("FLATLAB_DEVICE", "cpu")
    monkeypatch.delenv("FLATLAB_RESULTS", raising=False)
    path = tmp_path / "book" / "claims.toml"
    path.parent.mkdir()
    path.write_text(REGISTRY)
    (path.parent / "rules.py").write_text(RULES)
    return path


def made(registry, fits=(0.9, 1.0, 1.0), slow=4.0):
    claims = c.Claims("one", registry)
    claims.record("fits", torch.tensor(fits))
    claims.record("is-slow", {"quick": [1, 3], "slow": slow}, unit="epochs")
    claims.record("adds-up", [2, 2])
    return claims


def test_the_first_condition_that_holds_gives_the_verdict():
    assert verdict(reproduced=torch.tensor(True), partly=True) == "reproduced"
    assert verdict(reproduced=np.False_, partly=np.array([True])) is Verdict.partly
    assert verdict() == "contradicted"
    assert verdict(otherwise="not at this scale").name == "not_at_this_scale"
    assert (holds(1), holds(0)) == ("holds", "fails")
    with pytest.raises(ValueError, match="perhaps"):
        verdict(otherwise="perhaps")


def test_a_record_holds_mean_and_interval_and_the_rule_gives_the_verdict(registry):
    claims = made(registry)
    assert claims.verdicts == {
        "defined": "loose",
        "fits": "reproduced",
        "is-slow": "partly",
        "adds-up": "holds",
    }
    (fits,) = claims.measured["fits"]
    # sd 0.057735, t(2) = 4.302653: half-width 0.143422
    assert fits.text == "0.97 ± 0.14" and fits.n == 3
    quick, slow = claims.measured["is-slow"]
    # sd 1.414214, t(1) = 12.706205: half-width 12.7062
    assert quick.text == "2 ± 13 epochs"
    assert slow.text == "4 epochs" and slow.half_width is None
    (sums,) = claims.measured["adds-up"]
    assert sums.text == "2"  # no interval on arithmetic
    assert claims.record("adds-up", [2, 3]) == "fails"
    assert claims.measured["adds-up"][0].text == "2 to 3"


@pytest.mark.parametrize(
    ("mean", "half", "text"),
    [
        (306112, 28034, "306,000 ± 28,000"),
        (1.19336, 0.0713, "1.193 ± 0.071"),
        (-1243.2, 307, "−1,240 ± 310"),
        (1.35, 1.85e-6, "1.350 ± 0.000"),
        (100, 0, "100 ± 0"),
        (0, 0.0231, "0.000 ± 0.023"),
        (2.2214, math.nan, "2.22"),
        (1e-6, math.nan, "1e−06"),
    ],
)
def test_the_half_width_decides_on_the_digits(mean, half, text):
    assert figure(mean, half) == text


def test_what_cannot_be_recorded_is_refused(registry):
    claims = c.Claims("one", registry)
    with pytest.raises(KeyError, match=r"no claim 'other'.*fits, is-slow, adds-up"):
        claims.record("other", 1)
    with pytest.raises(ValueError, match="NaN"):
        claims.record("fits", [1, float("nan")])
    with pytest.raises(ValueError, match=r"\(2, 2\)"):
        claims.record("fits", np.ones((2, 2)))
    assert set(claims.verdicts) == {"defined"} and not claims.measured
    with pytest.raises(ValueError, match=r"measured claim, 'other'.*'perhaps'"):
        c.Claims("two", registry).record("other", 1)


def test_the_cards_have_every_claim_of_the_chapter_and_an_address(registry):
    cards = made(registry).cards()
    soup = BeautifulSoup(cards._repr_html_(), "html.parser")
    shown = soup.select("article.claim")
    assert [a["id"] for a in shown] == [
        "fits",
        "is-slow",
        "adds-up",
        "later",
        "defined",
    ]
    for card in shown:  # named by its heading, which opens with the verdict
        heading = card.find(id=card["aria-labelledby"])
        assert heading.name == "h3"
        assert heading.find().text in list(Verdict)
        assert heading.a["href"] == f"#{card['id']}"
    fits, slow, sums, later, defined = (
        {dt.text: dt.find_next("dd").get_text(" ") for dt in card.select("dt")}
        for card in shown
    )
    assert shown[0].p.text == "The post, citing Zhang et al. 2017, Table 1"
    assert "a < b & everything | fits" in shown[0].h3.text
    assert fits == {
        "They report": "100 %",
        "We measure": "0.97 ± 0.14 (mean ± 95 % interval, n = 3)",
        "The verdict asks": "All of them fit.",
        "Overturned by": "one that does not.",
        "Correction": "it says more",
    }
    assert slow["We measure"].endswith("slow:  4 epochs (mean ± 95 % interval, n = 2)")
    assert sums["We calculate"] == "2"
    assert later == {"Not tested": "needs natural images"}
    assert defined == {"Why": "right on what? see Section 1"}
    text = str(cards)
    assert text == cards._repr_markdown_()
    assert "**partly** · is-slow: it is slow *The post*" in text
    assert "- We measure: quick: 2 ± 13 epochs; slow: 4 epochs" in text


def test_results_of_a_gpu_stand_beside(registry, monkeypatch):
    monkeypatch.setenv("FLATLAB_SCALE", "gpu")
    made(registry, slow=7.0).save()
    assert "On a GPU" not in str(made(registry).cards())
    monkeypatch.setenv("FLATLAB_SCALE", "laptop")
    shown = str(made(registry, slow=1.0).cards())
    assert "**not at this scale** · is-slow" in shown
    assert "On a GPU: reproduced; quick: 2 ± 13 epochs; slow: 7 epochs" in shown


def test_results_are_kept_per_scale_with_provenance(registry, monkeypatch):
    path = made(registry).save(seeds=range(3))
    assert path == registry.parents[1] / "results" / "smoke" / "one.json"
    stored = json.loads(path.read_text())
    assert stored["versions"]["torch"] == torch.__version__
    assert stored["seeds"] == [0, 1, 2] and stored["threads"] >= 1
    assert stored["device"] == "cpu" and stored["wall_seconds"] >= 0
    assert abs((date.today() - date.fromisoformat(stored["date"])).days) <= 1
    assert stored["commit"] is None or re.match(r"[0-9a-f]{12}", stored["commit"])
    assert stored["claims"]["is-slow"]["measured"][0]["values"] == [1, 3]
    assert list(stored["claims"]) == ["fits", "is-slow", "adds-up"]
    assert c.read_results("one", registry=registry) == stored
    assert c.read_results("one", at="laptop", registry=registry) is None
    assert [f.name for f in path.parent.iterdir()] == ["one.json"]


def test_verdicts_come_from_the_results_and_from_the_registry(registry):
    made(registry).save()
    assert c.read_verdicts(registry=registry) == {
        "fits": "reproduced",
        "is-slow": "partly",
        "adds-up": "holds",
        "later": "not tested",
        "defined": "loose",
        "other": "not tested",
    }
    assert set(c.read_verdicts("gpu", registry).values()) == {"loose", "not tested"}


def test_a_failed_save_keeps_what_was_there(registry, monkeypatch):
    claims = made(registry)
    path = claims.save()
    before = path.read_bytes()

    def fail(*_):
        raise OSError("disk full")

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(OSError, match="disk full"):
        claims.save()
    assert path.read_bytes() == before
    assert [f.name for f in path.parent.iterdir()] == ["one.json"]


def altered(path, change):
    stored = json.loads(path.read_text())
    change(stored["claims"])
    path.write_text(json.dumps(stored))


def test_settle_says_nothing_where_the_runs_agree(registry, capsys):
    made(registry).settle()  # nothing is stored
    path = made(registry).save()
    before = path.read_bytes()
    assert made(registry).settle() is None
    made(registry, fits=(0.95, 0.9, 1.0)).settle()  # within the intervals
    made(registry, slow=4.03).settle()  # within 1 %
    assert path.read_bytes() == before
    assert capsys.readouterr().out == ""


def test_settle_raises_where_a_verdict_is_not_the_stored_one(registry):
    path = made(registry).save()
    altered(path, lambda claims: claims["fits"].update(verdict="contradicted"))
    message = "'one'.*smoke.*\n  fits: verdict 'reproduced', stored 'contradicted'\n"
    with pytest.raises(RuntimeError, match=message):
        made(registry).settle()


def test_settle_raises_where_a_figure_leaves_its_stored_interval(registry):
    path = made(registry).save()

    def move(claims):
        claims["is-slow"]["measured"][1].update(mean=5.0, text="5 epochs")

    altered(path, move)
    with pytest.raises(
        RuntimeError, match="  is-slow, slow: 4 epochs, stored 5 epochs"
    ):
        made(registry).settle()
    made(registry).save()
    # fits: 0.967 ± 0.143; half-width of the fresh run 0.014
    made(registry, fits=(0.80, 0.81, 0.80)).settle()
    with pytest.raises(RuntimeError, match=r"  fits: 0\.753 ± 0\.014, stored 0\.97"):
        made(registry, fits=(0.75, 0.76, 0.75)).settle()


def test_settle_raises_where_claims_or_figures_come_or_go(registry):
    made(registry).save()
    claims = made(registry)
    claims.record("is-slow", {"slow": 4.0})
    claims.record("defined", 1.0)
    with pytest.raises(RuntimeError) as raised:
        claims.settle()
    assert "is-slow, quick: only in the stored run" in str(raised.value)
    assert "defined: not in the stored run" in str(raised.value)
    path = claims.save()
    with pytest.raises(RuntimeError, match="defined: only in the stored run"):
        made(registry).settle()
    assert path.exists()


@pytest.mark.parametrize("how", ["write", "claims"])
def test_settle_stores_only_when_asked(registry, monkeypatch, how):
    path = registry.parents[1] / "results" / "smoke" / "one.json"
    made(registry).settle()
    assert not path.exists()
    monkeypatch.setenv("FLATLAB_RESULTS", how)
    made(registry).settle(seeds=[0])
    assert json.loads(path.read_text())["seeds"] == [0]


def test_settle_refuses_claims_left_open(registry):
    claims = c.Claims("one", registry)
    with pytest.raises(ValueError, match=r"why not: fits, is-slow, adds-up$"):
        claims.settle()


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('"is-slow"', '"fits"', "'fits' occurs twice"),
        ("where", "place", "'fits'.*place"),
        ('kind = "measured"\n', "", "'fits'.*kind"),
        ('"calculated"', '"guessed"', "'adds-up' is 'guessed'"),
        ('verdict = "loose"', 'verdict = "partly"', "'defined'.*'partly'"),
        ('verdict = "loose"\n', "", "'defined'.*verdict"),
        ('reported = "100 %"', 'verdict = "loose"', "'fits'.*verdict"),
    ],
)
def test_the_registry_is_checked(registry, old, new, message):
    registry.write_text(REGISTRY.replace(old, new, 1))
    with pytest.raises(ValueError, match=message):
        c.read_registry(registry)


def test_rules_have_to_say_what_would_have_overturned_them(registry):
    rules = registry.with_name("rules.py")
    assert list(c.read_rules(registry)) == ["fits", "is-slow", "adds-up", "other"]
    rules.write_text(RULES.replace("Overturned by: one", "Not: one"))
    with pytest.raises(ValueError, match="fits has no 'Overturned by:'"):
        c.Claims("one", registry)


def test_the_registry_is_found(registry, tmp_path):
    with pytest.raises(ValueError, match=r"'three'.*one, two"):
        c.Claims("three", registry)
    with pytest.raises(FileNotFoundError, match="no registry"):
        c.Claims("one", tmp_path / "nowhere.toml")


def test_an_installed_package_needs_a_clone_or_a_path(registry, tmp_path, monkeypatch):
    monkeypatch.setattr(results, "__file__", "/usr/lib/python/flatlab/course/store.py")
    (tmp_path / "book" / "deeper").mkdir()
    monkeypatch.chdir(tmp_path / "book" / "deeper")
    assert list(c.Claims("two").claims) == ["other"]
    (tmp_path / "book" / "claims.toml").unlink()
    with pytest.raises(FileNotFoundError, match="clone of the repository"):
        c.Claims("two")


# -- the book's own registry


@pytest.fixture(scope="module")
def book():
    return c.read_registry(ROOT / "book" / "claims.toml")


def test_every_claim_of_the_post_has_a_row_that_names_the_post(book):
    numbered = [id for id in book if id.startswith("P")]
    assert sorted(numbered) == [f"P{i:02d}" for i in range(1, 46)]
    for id, claim in book.items():
        assert (claim.source[0] == "post") == (id in numbered)
        assert id in numbered or claim.post_errs is None


def test_claims_cite_the_bibliography(book):
    text = (ROOT / "book" / "references.bib").read_text(encoding="utf-8")
    keys = set(re.findall(r"^@\w+\{(\w+),", text, re.MULTILINE)) | {"post"}
    for claim in book.values():
        assert claim.source and set(claim.source) <= keys, claim.id
        assert not re.search(r"\b[a-z]+\d{4}", claim.cited())  # names, not keys


def test_claims_read_as_sentences(book):
    for claim in book.values():
        assert claim.statement[0].isupper() and claim.statement.endswith(".")
        text = claim.statement + (claim.post_errs or "") + (claim.argument or "")
        assert "\n" not in text and "  " not in text
        assert claim.reported is None or claim.reported[-1] != "."


def test_only_figures_that_were_checked_are_given(book):
    # no table of this paper could be compared with its text
    assert all(k.reported is None for k in book.values() if "kwon2021" in k.source)
