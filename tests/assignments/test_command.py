"""The whole command: whatever is handed in, everyone else gets their grades."""

import os
import random
import re
import signal
import socket
import subprocess
import time

import pytest
import toy
from conftest import ROOT
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from assignments import grade, notebooks, report

LONE = "\ud83d"  # half an emoji


def killing():
    """Code that ends the process that grades it, from outside its sandbox's rights."""
    return "import os\nos.kill(os.getppid(), 9)"


def test_nothing_that_is_handed_in_fells_the_run(command):
    right, wrong = toy.submission(), toy.submission(toy.WRONG)
    raising = (
        f"def norm(v):\n    raise ValueError({LONE!r} + '\\x1b[31m' + chr(0xdc80))"
    )
    home = command.hand_in
    command.put(b"\xc5sa", right)
    command.put("emoji", toy.submission({"why": LONE, "norm": raising}))
    command.put(b"x" * 255, right)
    command.put("new\nline", right)
    command.put("<b>bold", toy.submission({"why": "<script>alert(1)</script>"}))
    command.put("=cmd()", toy.submission({"why": "=1+1;=2"}))
    command.put("kills", toy.submission(extra=[killing()]))
    command.put("empty", "")
    command.put("deep", "[" * 10**5)
    command.put("binary", os.urandom(5000))
    command.put("folder", right, "hw/toy.ipynb")
    (home / "folder" / "information_bottleneck.ipynb").mkdir()
    for name in ("pipe", "socket", "link", "nothing"):
        (home / name).mkdir()
    os.mkfifo(home / "pipe" / "toy.ipynb")
    (home / "link" / "toy.ipynb").symlink_to("/dev/zero")
    with socket.socket(socket.AF_UNIX) as server:
        here = os.getcwd()
        os.chdir(home / "socket")
        server.bind("toy.ipynb")
        os.chdir(here)
        command.put("__MACOSX", "x", "._toy.ipynb")
        command.put("wrong", wrong)
        rows = command(code=(3,))
    most = f"{toy.MOST}"
    less = f"{toy.MOST - toy.POINTS['norm']}"
    assert {s: r["points"] for s, r in rows.items() if r["status"] != "unreadable"} == {
        "\\udcc5sa": most,
        "emoji": less,
        "x" * 255: most,
        "new\\nline": most,
        "<b>bold": most,
        "'=cmd()": most,
        "kills": most,
        "folder": most,
        "wrong": "0",
    }
    unread = {s for s, r in rows.items() if r["status"] == "unreadable"}
    assert unread == {"empty", "deep", "binary", "pipe", "socket", "link", "nothing"}
    assert all(row["reason"] for row in rows.values() if row["status"] != "graded")
    # Nothing is a formula or markup, and every student has a page.
    for path in command.out.glob("*.csv"):
        assert not re.search(r'(^|[,;\n])"?[=@+]', path.read_text("utf-8"))
    pages = [p.read_text("utf-8") for p in command.out.glob("feedback/*.html")]
    assert len(pages) == len(rows)
    assert not [page for page in pages if "<script>" in page or "<b>" in page]
    assert command(code=(3,)) == rows


def test_a_grading_process_that_is_killed_costs_its_own_row(tmp_path):
    def work(job):
        if job == "dies":
            os.kill(os.getpid(), signal.SIGKILL)
        if job == "once" and not (tmp_path / "begun").exists():
            (tmp_path / "begun").touch()
            os._exit(1)
        if job == "surrogate":
            return LONE
        if job == "large":
            return len(bytes(grade.MEMORY))
        return job

    jobs = {name: name for name in ("a", "dies", "once", "surrogate", "large", "b")}
    found = dict(grade.in_processes(jobs, work, 2))
    assert "ended with -9" in found.pop("dies")
    assert "MemoryError" in found.pop("large")
    assert found == {"a": "a", "once": "once", "surrogate": LONE, "b": "b"}


def files(folder):
    """All files that a run leaves, but its lock."""
    paths = sorted(p for p in folder.rglob("*") if p.is_file() and p.name != ".lock")
    return {str(p.relative_to(folder)): p.read_bytes() for p in paths}


def class_of(command, size):
    for number in range(size):
        command.put(f"s{number}", toy.submission({"why": f"Because {number}."}))
    command.put("slow", toy.submission(extra=["import time; time.sleep(1)"]))
    command.put("broken", "{")


@pytest.mark.parametrize("moments", [2, pytest.param(10, marks=pytest.mark.slow)])
def test_a_run_that_is_killed_goes_on_where_it_was(command, tmp_path, moments):
    class_of(command, 3)
    start = time.monotonic()
    command()
    took = time.monotonic() - start
    whole, command.out = files(command.out), tmp_path / "again"
    rng = random.Random(moments)
    for _ in range(moments):
        begun = subprocess.Popen(
            command.arguments(),
            cwd=ROOT,
            stdout=subprocess.DEVNULL,
            start_new_session=True,
        )
        time.sleep(rng.uniform(0.1, 1) * took)
        begun.kill()  # the command alone: its children have to end by themselves
        begun.wait()
    command()
    assert files(command.out) == whole


def test_what_is_graded_is_not_graded_again(command):
    class_of(command, 2)
    command()
    record = next(command.out.glob("records/s0*"))
    text = record.read_text().replace("test-norm", "test-norm-of-before")
    record.write_text(text)
    other = next(command.out.glob("records/s1*"))
    other.write_text(other.read_text().replace("test-norm", "test-norm-of-before"))
    kept = [r for r in command() and command.table("tasks") if "before" in r["task"]]
    assert {r["student"] for r in kept} == {"s0", "s1"}
    command("--student", "s0")
    kept = [r for r in command.table("tasks") if "before" in r["task"]]
    assert {r["student"] for r in kept} == {"s1"}
    command.put("s1", toy.submission(toy.WRONG))
    assert command()["s1"]["points"] == "0"


def test_one_task_is_graded_again_and_the_others_keep_their_points(command):
    command.put("ada", toy.submission())
    command()
    path = command.source / "toy" / "toy.ipynb"
    before = path.read_text()
    try:
        path.write_text(
            before.replace("6 * 7", "42 + 0 * 7").replace("== 3.0", "== 3.5")
        )
        with pytest.raises(AssertionError, match="does not get all points here"):
            command()
        path.write_text(before.replace("6 * 7", "42 + 0 * 7"))
        command("--task", "toy/anser", code=(1,))
        assert "there are toy/double" in command.said
        command("--student", "Ada", code=(1,))
        assert "nothing of Ada" in command.said
        command("--task", "toy/answer")
        assert command()["ada"]["points"] == f"{toy.MOST}"
    finally:
        path.write_text(before)


# -- points given by hand


def edited(command, change, **form):
    path = command.out / "manual.csv"
    rows = command.table("manual")
    text = change(rows)
    path.write_text(text, **form)


def as_csv(rows, separator=",", more=()):
    head = [*rows[0], *more]
    lines = [head] + [[row.get(name, "") for name in head] for row in rows]
    return "\n".join(
        separator.join('"' + str(v).replace('"', '""') + '"' for v in line)
        for line in lines
    )


def test_points_given_by_hand_stay_and_say_when_the_answer_has_changed(command):
    command.put("Åsa", toy.submission())
    command.put("bo", toy.submission())
    command()
    assert {r["task"] for r in command.table("manual")} == {"why"}

    def as_excel_saves_it(rows):
        for row in rows:
            row["given"], row["grader"] = "2,5", "me"
        rows.append(
            {"student": "bo", "assignment": "toy", "task": "norm", "given": "1"}
        )
        rows[-1]["comment"] = "A sign is lost."
        rows.append(
            {"student": "gone", "assignment": "toy", "task": "why", "given": "3"}
        )
        return as_csv(rows, ";", ["grader"])

    edited(command, as_excel_saves_it, encoding="cp1252")
    rows = command()
    assert rows["Åsa"]["points"] == f"{toy.MOST + 2.5}"
    assert rows["bo"]["points"] == f"{toy.MOST - 1 + 2.5}"
    assert "('gone', 'toy', 'why')" in command.said
    manual = {(r["student"], r["task"]): r for r in command.table("manual")}
    assert manual["Åsa", "why"]["grader"] == "me"
    assert manual["gone", "why"]["given"] == "3"
    page = next(command.out.glob("feedback/bo*")).read_text("utf-8")
    assert "A sign is lost." in page
    # A further row for what was overridden before counts.
    more = {"student": "bo", "assignment": "toy", "task": "norm", "given": "0,5"}
    edited(command, lambda rows: as_csv([*rows, more], ";"))
    assert command()["bo"]["points"] == f"{toy.MOST - 1.5 + 2.5:g}"
    edited(command, lambda rows: as_csv([*rows, more | {"given": "1"}], ";"))
    # A new answer keeps the points, and says so until somebody has looked.
    command.put("bo", toy.submission({"why": "Another reason."}))
    rows = command(code=(3,))
    assert rows["bo"]["points"] == f"{toy.MOST - 1 + 2.5}"
    assert "for another answer" in rows["bo"]["reason"]
    assert rows == command(code=(3,))
    edited(command, lambda rows: as_csv([r | {"changed": ""} for r in rows]))
    assert command(code=(0,))["bo"]["status"] == "graded"
    # A resubmission that cannot be read takes nothing from anyone.
    command.put("bo", "{")
    command(code=(3,))
    manual = {(r["student"], r["task"]): r for r in command.table("manual")}
    assert manual["Åsa", "why"]["given"] == manual["bo", "why"]["given"] == "2.5"


@pytest.mark.parametrize(
    "text, words",
    [
        ("student;task\na;b", "no column assignment, given"),
        ("student,assignment,task,given\nada,toy,why,much", "line 2: 'much' points"),
        ("student,assignment,task,given\nada,toy,why,99", "from 0 to 3"),
        ("student,assignment,task,given\nada,toy,nrom,1", "no task 'nrom' of 'toy'"),
        ("student,assignment,task,given\nada,toy,why,nan", "give a number"),
    ],
)
def test_a_slip_in_the_table_is_said_before_anything_is_graded(
    toys, tmp_path, text, words
):
    (tmp_path / "manual.csv").write_text(text)
    with pytest.raises(SystemExit, match=words):
        report.ByHand(tmp_path, {"toy": notebooks.read("toy", toys)})


@pytest.mark.parametrize("kept", ["3", '"x"', "[1]", "{}", "{"])
def test_a_damaged_record_is_made_again(command, kept):
    command.put("ada", toy.submission())
    whole = command()
    (record,) = command.out.glob("records/*")
    record.write_text(kept)
    assert command() == whole


def test_slugs_differ_where_names_do():
    assert report.slug("ada b") != report.slug(report.slug("ada b"))


# -- anything

names = st.binary(min_size=1, max_size=40).filter(
    lambda b: b"/" not in b and b"\0" not in b and b not in (b".", b"..")
)
json_values = st.recursive(
    st.none() | st.booleans() | st.floats() | st.text(max_size=20),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner)
    ),
    max_leaves=10,
)
cells = st.fixed_dictionaries(
    {
        "cell_type": st.sampled_from(["code", "markdown", "raw", "x"]) | json_values,
        "source": st.text(max_size=60) | st.sampled_from(list(toy.RIGHT.values())),
    },
    optional={
        "id": st.sampled_from([*toy.RIGHT, "why", "setup"]) | json_values,
        "metadata": json_values,
    },
)
contents = st.one_of(
    st.binary(max_size=200),
    json_values.map(lambda v: _json(v)),
    st.lists(cells, max_size=6).map(lambda v: _json({"cells": v, "nbformat": 4})),
)


def _json(value):
    import json

    return json.dumps(value).encode()


def check_anything(command, entries):
    command.put("ada", toy.submission())
    for student, name, content in entries:
        try:
            command.put(student, content, name + b"toy.ipynb")
        except OSError:  # a name that this file system does not take, or takes twice
            continue
    rows = command()
    assert rows.pop("ada")["points"] == f"{toy.MOST}"
    assert len(rows) >= len(os.listdir(command.hand_in)) - 2
    for row in rows.values():
        assert row["status"] in ("graded", "look", "unreadable")


@pytest.mark.parametrize("examples", [3, pytest.param(40, marks=pytest.mark.slow)])
def test_random_bytes_names_and_json_fell_nothing(
    toys, tmp_path_factory, examples, confined
):
    from conftest import Command

    @settings(
        max_examples=examples,
        deadline=None,
        derandomize=True,
        suppress_health_check=list(HealthCheck),
    )
    @given(st.lists(st.tuples(names, names, contents), min_size=5, max_size=9))
    def run(entries):
        check_anything(Command(tmp_path_factory.mktemp("any"), toys), entries)

    run()
