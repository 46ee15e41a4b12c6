"""The benchmark runs, counts rightly and renders its table; no time is asserted."""

import importlib
import json
import math
import pkgutil
from dataclasses import replace

import pytest
import torch

import benchmarks
from benchmarks import attacks, harness, landscape, sam, table
from benchmarks.harness import Line, Settings

SETTINGS = Settings(torch.device("cpu"), quick=True, peers=False)
LINE = Line(
    "Topic", "this", "that", value=3.14159, low=2.5, high=1234.5, bar=3.0, note="why"
)


NAMES = [module.name for module in pkgutil.iter_modules(benchmarks.__path__)]


@pytest.mark.parametrize("name", NAMES)
def test_imports_without_the_peers(name):
    module = importlib.import_module(f"benchmarks.{name}")
    others = ("__main__", "environment", "gpu", "harness", "peers", "subjects", "table")
    if name not in others:
        assert callable(module.measure)


def test_every_topic_is_measured():
    from benchmarks.__main__ import TOPICS

    found = {
        name
        for name in NAMES
        if hasattr(importlib.import_module(f"benchmarks.{name}"), "measure")
    }
    assert set(TOPICS) == found


def test_bars():
    assert LINE.met
    assert not replace(LINE, value=2.99).met
    assert replace(LINE, at_most=True, value=3.0).met
    assert not replace(LINE, at_most=True).met
    assert replace(LINE, bar=None).met is None
    assert not replace(LINE, value=math.nan).met


def test_competitors_take_turns_and_are_timed_each_round():
    calls = []
    times = harness.interleaved(
        SETTINGS, {name: lambda name=name: calls.append(name) for name in "abc"}
    )
    rounds = SETTINGS.rounds(1.0)
    assert {name: len(t) for name, t in times.items()} == dict.fromkeys("abc", rounds)
    assert all(t > 0 for values in times.values() for t in values)
    starts = [
        name for i, name in enumerate(calls[6:]) if i == 0 or calls[6:][i - 1] != name
    ]  # without the warm-up
    # first of each round: a, then b, then c; neighbours of the same name merge
    assert "".join(starts) == "abcbcacab"


def test_ratios_and_spread():
    assert harness.ratios([2.0, 9.0], [1.0, 3.0], 10) == [20.0, 30.0]
    assert harness.spread([3.0, 1.0, 2.0, 5.0, 4.0]) == {
        "value": 3.0, "low": 2.0, "high": 4.0,
    }  # fmt: skip
    assert harness.spread([7.0])["high"] == 7.0
    times = {"a": [3.0, 1.0, 3.0], "b": [2.0, 2.0, 2.0], "c": [0.1, 0.1, 0.1]}
    assert harness.best(times, ["a", "b"]) == "b"


def test_peak_memory_counts_what_is_held_at_the_same_time():
    kept = torch.zeros(1 << 18)  # there before: not counted

    def one_after_another():
        for _ in range(3):
            kept + 1

    def at_once():
        return [kept + 1 for _ in range(3)]

    found = harness.memories(SETTINGS, {"a": one_after_another, "b": at_once})
    assert found == pytest.approx({"a": 1.0, "b": 3.0}, abs=0.01)


def test_full_measurements_take_many_rounds_and_an_end():
    full = replace(SETTINGS, quick=False)
    assert full.rounds(0.001) == 51
    assert full.rounds(100.0) == 7
    assert all(full.rounds(s) % 2 for s in (0.2, 0.5, 0.9))


def test_the_table_says_what_was_measured_and_where(tmp_path):
    lines = [
        LINE,
        replace(LINE, what="other", value=2.0, note="", memory=(0.5, 12.0)),
        replace(LINE, topic="Next", bar=None),
        replace(LINE, topic="Next", at_most=True, quantity="times the time"),
    ]
    results, page = tmp_path / "results", tmp_path / "book" / "benchmarks.md"
    table.write(SETTINGS, table.machine(SETTINGS), lines, results, page)
    stored = json.loads((results / "cpu.json").read_text())
    assert [line["met"] for line in stored["lines"]] == [True, False, None, False]
    assert stored["machine"]["versions"]["torch"] == torch.__version__
    assert stored["machine"]["threads"] == torch.get_num_threads()
    text = page.read_text()
    assert text.startswith("# Benchmarks\n")
    assert "## CPU" in text
    assert (
        "| this | that | 3.14 times as fast (2.5 to 1234); why |  | ≥ 3 | met |" in text
    )
    assert (
        "| other | that | 2 times as fast (2.5 to 1234) | 0.5 / 12 | ≥ 3 | **missed** |"
        in text
    )
    assert text.count("| **Topic** |") == text.count("| **Next** |") == 1
    assert stored["machine"]["date"] in text
    # a second device's results join the page
    (results / "cuda.json").write_text(
        json.dumps(stored | {"machine": stored["machine"] | {"gpu": "Some GPU"}})
    )
    table.write_page(results, page)
    assert "## GPU\n\nSome GPU; " in page.read_text()
    assert page.read_text().startswith(text.rstrip("\n"))


def test_a_part_measured_again_replaces_its_lines_only(tmp_path):
    facts = table.machine(SETTINGS)
    store = tmp_path / "cpu.json"

    def write(*lines, **changed):
        table.write(SETTINGS, facts | changed, lines, tmp_path, tmp_path / "page.md")
        return json.loads(store.read_text())

    write(LINE, replace(LINE, topic="Next"), load=1.5)
    stored = write(replace(LINE, value=9.0), replace(LINE, what="more"), load=0.5)
    found = [(line["topic"], line["what"], line["value"]) for line in stored["lines"]]
    assert found == [
        ("Topic", "this", 9.0), ("Topic", "more", 3.14159), ("Next", "this", 3.14159),
    ]  # fmt: skip
    assert stored["machine"]["load"] == 1.5
    joined = {"versions": facts["versions"] | {"new-peer": "1.0"}}
    assert write(LINE, **joined)["machine"]["versions"]["new-peer"] == "1.0"
    assert write(LINE)["machine"]["versions"]["new-peer"] == "1.0"
    with pytest.raises(ValueError, match="versions = "):
        write(LINE, versions=facts["versions"] | {"torch": "0.1"})
    before = store.read_text()
    with pytest.raises(ValueError, match=r"threads = .* measure all topics"):
        write(LINE, threads=99)
    assert store.read_text() == before
    whole = write(LINE, replace(LINE, topic="Next"), threads=99)
    assert whole["machine"]["threads"] == 99


def test_the_page_is_the_one_of_the_stored_results():
    """The book's page is made by the benchmark and by nobody else."""
    results = {p.stem: json.loads(p.read_text()) for p in table.RESULTS.glob("*.json")}
    assert "cpu" in results
    assert table.PAGE.read_text(encoding="utf-8") == table.page(results)


TOPICS_RUN = {"sam": sam, "landscape": landscape, "attacks": attacks}


@pytest.mark.parametrize("topic", TOPICS_RUN.values(), ids=TOPICS_RUN)
def test_topics_run(topic):
    lines = topic.measure(SETTINGS)
    assert lines
    for line in lines:
        assert 0 < line.low <= line.value <= line.high < math.inf
        assert line.bar is not None
        # How high an attack climbs is no matter of time.
        assert topic is not attacks or line.met, line
