import json
import os
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from bs4 import BeautifulSoup

from flatlab.course import claims as c
from flatlab.course import store as results
from flatlab.course.claims import Verdict

ROOT = Path(__file__).parents[2]
REGISTRY = """
[[claim]]
id = "fits"
chapter = "one"
statement = "a < b & everything | fits"
source = ["zhang2017", "post"]
where = "Table 1"
reported = "100 %"
post_errs = "it says more"

[[claim]]
id = "slow"
chapter = "one"
statement = "it is slow"
source = ["post"]

[[claim]]
id = "later"
chapter = "one"
statement = "it comes later"
source = ["wen2023only"]
untested = "needs natural images"

[[claim]]
id = "other"
chapter = "two"
statement = "elsewhere"
source = ["post"]
"""


@pytest.fixture
def registry(tmp_path, monkeypatch):
    monkeypatch.setenv("FLATLAB_SCALE", "smoke")
    monkeypatch.setenv("FLATLAB_DEVICE", "cpu")
    monkeypatch.delenv("FLATLAB_RESULTS", raising=False)
    path = tmp_path / "book" / "claims.toml"
    path.parent.mkdir()
    path.write_text(REGISTRY)
    return path


def made(registry, values=(0.9, 1.0, 1.0), slow=Verdict.partly):
    claims = c.Claims("one", registry)
    claims.record(
        "fits",
        torch.tensor(values),
        lambda a: Verdict.reproduced_if((a > 0.5).all()),
        format=".1%",
    )
    claims.record("slow", {"quick": [1, 3], "slow": 7.0}, slow, unit="epochs")
    return claims


def test_verdicts_follow_their_criteria():
    assert Verdict.reproduced_if(torch.tensor(True)) == "reproduced"
    assert Verdict.reproduced_if(False) == "contradicted"
    assert Verdict.reproduced_if(False, "not at this scale").name == "not_at_this_scale"
    weaker = Verdict.partly_if(np.True_)
    assert Verdict.reproduced_if(False, otherwise=weaker) is Verdict.partly
    with pytest.raises(ValueError, match="perhaps"):
        Verdict.reproduced_if(False, "perhaps")


def test_a_record_holds_mean_interval_and_verdict(registry):
    claims = made(registry)
    assert claims.verdicts == {"fits": "reproduced", "slow": "partly"}
    (fits,) = claims.measured["fits"]
    # sd 0.057735, t(2) = 4.302653: half-width 0.143422
    assert fits.text == "96.7% ± 14.3% (n = 3)"
    quick, slow = claims.measured["slow"]
    # sd 1.414214, t(1) = 12.706205: half-width 12.7062
    assert quick.text == "2 ± 12.7 epochs (n = 2)"
    assert slow.text == "7 epochs" and slow.half_width is None


def test_what_cannot_be_recorded_is_refused(registry):
    claims = c.Claims("one", registry)
    with pytest.raises(KeyError, match=r"no claim 'other'.*fits, slow, later"):
        claims.record("other", 1, Verdict.partly)
    with pytest.raises(TypeError, match="reproduced_if"):
        claims.record("fits", 1, "reproduced")
    with pytest.raises(TypeError, match="reproduced_if"):
        claims.record("fits", 1, lambda a: a > 0)
    with pytest.raises(ValueError, match="NaN"):
        claims.record("fits", [1, float("nan")], Verdict.partly)
    with pytest.raises(ValueError, match=r"\(2, 2\)"):
        claims.record("fits", np.ones((2, 2)), Verdict.partly)
    assert claims.verdicts == {}


def test_the_table_has_every_claim_of_the_chapter_and_is_accessible(registry):
    table = made(registry).table()
    soup = BeautifulSoup(table._repr_html_(), "html.parser")
    assert "chapter one" in soup.caption.text
    assert [th.text for th in soup.select("thead th[scope=col]")] == list(c.COLUMNS)
    rows = soup.select("tbody tr")
    assert [row.select_one("th[scope=row]").text.split(":")[0] for row in rows] == [
        "fits",
        "slow",
        "later",
    ]
    cells = [[td.get_text("\n") for td in row.select("td")] for row in rows]
    name = rows[0].th.get_text("\n")
    assert name == "fits: a < b & everything | fits\nCorrection: it says more"
    assert cells[0] == [
        "Zhang 2017, Post, Table 1",
        "100 %",
        "96.7% ± 14.3% (n = 3)",
        "reproduced",
    ]
    assert cells[1][2].split("\n")[1] == "slow: 7 epochs"
    assert cells[2] == ["Wen 2023", "–", "needs natural images", "not tested"]
    markdown = table._repr_markdown_().splitlines()
    assert len(markdown) == 5
    assert {line.replace(r"\|", "").count("|") for line in markdown} == {6}
    assert "Verdict: partly" in str(table)


def test_results_of_a_gpu_stand_beside(registry, monkeypatch):
    monkeypatch.setenv("FLATLAB_SCALE", "gpu")
    made(registry, slow=Verdict.reproduced).save()
    assert "GPU scale" not in str(made(registry).table())
    monkeypatch.setenv("FLATLAB_SCALE", "laptop")
    shown = str(made(registry, slow=Verdict.not_at_this_scale).table())
    assert "not at this scale; at GPU scale reproduced" in shown
    assert "at GPU scale slow: 7 epochs" in shown


def test_results_are_kept_per_scale_with_provenance(registry, monkeypatch):
    path = made(registry).save(seeds=range(3))
    assert path == registry.parents[1] / "results" / "smoke" / "one.json"
    stored = json.loads(path.read_text())
    assert stored["versions"]["torch"] == torch.__version__
    assert stored["seeds"] == [0, 1, 2] and stored["threads"] >= 1
    assert stored["device"] == "cpu" and stored["wall_seconds"] >= 0
    assert stored["claims"]["slow"]["measured"][0]["values"] == [1, 3]
    assert list(stored["claims"]) == ["fits", "slow"]
    assert c.read_results("one", registry=registry) == stored
    assert c.read_results("one", at="laptop", registry=registry) is None
    assert [f.name for f in path.parent.iterdir()] == ["one.json"]


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


def test_agreement_reports_verdicts_and_figures_that_differ(registry):
    stored = made(registry).results()
    assert c.agreement(made(registry, (0.95, 0.9, 1.0)).results(), stored).ok
    far = c.agreement(made(registry, (0.2, 0.2, 0.21)).results(), stored)
    assert not far.ok
    assert far.differences[0].startswith("fits: verdict 'contradicted'")
    assert far.differences[1].startswith("fits: 20.3%")
    less = c.Claims("one", registry)
    less.record("slow", {"quick": [1, 3], "slow": 7.1}, Verdict.partly)
    report = str(c.agreement(less.results(), stored))
    # 7.1 against 7 is further apart than the tolerance of one per cent
    assert "fits: only in the stored run" in report and "slow, slow: 7.1" in report
    more = c.agreement(stored, less.results())
    assert "fits: not in the stored run" in str(more)
    less.record("slow", 1.0, Verdict.partly)
    assert "slow: figures" in str(c.agreement(less.results(), stored))
    assert "scale" in str(c.agreement(stored, {**stored, "scale": "gpu"}))


def test_settle_compares_and_writes_only_when_asked(registry, monkeypatch):
    path = registry.parents[1] / "results" / "smoke" / "one.json"
    assert made(registry).settle().ok and not path.exists()
    monkeypatch.setenv("FLATLAB_RESULTS", "write")
    assert made(registry).settle(seeds=[0]).ok and path.exists()
    monkeypatch.delenv("FLATLAB_RESULTS")
    before = path.read_bytes()
    assert made(registry).settle().ok
    assert not made(registry, slow=Verdict.contradicted).settle().ok
    assert path.read_bytes() == before


def test_settle_refuses_claims_left_open(registry):
    claims = c.Claims("one", registry)
    with pytest.raises(ValueError, match=r"why not: fits, slow$"):
        claims.settle()


def test_the_registry_is_found_and_checked(registry, tmp_path, monkeypatch):
    with pytest.raises(ValueError, match=r"'three'.*one, two"):
        c.Claims("three", registry)
    with pytest.raises(FileNotFoundError, match="no registry"):
        c.Claims("one", tmp_path / "nowhere.toml")
    registry.write_text(REGISTRY.replace('"slow"', '"fits"', 1))
    with pytest.raises(ValueError, match="'fits' occurs twice"):
        c.read_registry(registry)
    registry.write_text(REGISTRY.replace("where", "place"))
    with pytest.raises(ValueError, match=r"'fits'.*place"):
        c.read_registry(registry)


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


def test_claims_read_as_sentences(book):
    for claim in book.values():
        assert claim.statement[0].isupper() and claim.statement.endswith(".")
        assert "\n" not in claim.statement + (claim.post_errs or "")
        assert "  " not in claim.statement + (claim.post_errs or "")
        assert claim.reported is None or claim.reported[-1] != "."


def test_only_figures_that_were_checked_are_given(book):
    # no table of this paper could be compared with its text
    assert all(k.reported is None for k in book.values() if "kwon2021" in k.source)
