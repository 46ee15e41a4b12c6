"""A class over weeks: late days, exports, statistics, likeness, what goes out."""

import os
import subprocess
import sys
import zipfile
from datetime import datetime

import nbformat
import pytest
import toy

from assignments import gradebook, judge, notebooks, release, report


def grade(student, points, time=0.0, answer="", message=""):
    outcome = judge.Outcome("test-double", points, 2.0, message, "", "Task: double")
    other = judge.Outcome("test-norm", 2.0 - points, 2.0, "", "", "Task: norm")
    steps = [["student", "double", answer, ""]]
    return judge.Grade(
        student, "toy", "toy.ipynb", time, "graded", "", [outcome, other], steps
    )


def rows(path):
    import csv

    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def test_late_days_use_up_the_free_ones_and_then_cost(tmp_path, capsys):
    (tmp_path / "course.toml").write_text(
        "\ufeff"
        "[deadlines]\ntoy = 2026-11-02T23:59:00+01:00\n"
        "[late]\nfree_days = 1\npenalty = 0.25\nmost_days = 2\n"
    )
    (tmp_path / "late.csv").write_text(
        "student;assignment;days\nill ;toy;0\ngone;toy;1\n"
    )
    end = datetime.fromisoformat("2026-11-02T23:59:00+01:00").timestamp()
    times = {"early": -9, "minute": 60, "day": 86400, "two": 90000, "four": 3.5 * 86400}
    grades = [grade(s, 2.0, end + t) for s, t in times.items()]
    grades.append(grade("ill", 2.0, end + 10 * 86400))
    gradebook.apply_late(grades, gradebook.rules(tmp_path, ["toy"]))
    assert {g.student: (g.late, g.total) for g in grades} == {
        "early": (0, 2.0),
        "minute": (0, 2.0),
        "day": (1, 2.0),
        "two": (2, 1.5),
        "four": (4, 0.0),
        "ill": (0, 2.0),
    }
    assert "gone" in capsys.readouterr().out


@pytest.mark.parametrize(
    "text, words",
    [
        ("[deadlines]\ntoy = 2026-11-02T23:59:00", "with its zone"),
        ("[deadlines]\ntoy = 'Monday'", "with its zone"),
        ("deadlines", "course.toml"),
        ("[deadlines]\nTOY = 2026-11-02T23:59:00Z", "no assignment TOY"),
        ("[late]\npenality = 0.1", "penality = 0.1"),
        ("[deadline]\ntoy = 2026-11-02T23:59:00Z", "deadline; give"),
        ("late = 3", "late; give"),
        ("[late]\npenalty = '10%'", "give a number"),
    ],
)
def test_a_slip_in_the_deadlines_is_said(tmp_path, text, words):
    (tmp_path / "course.toml").write_text(text)
    with pytest.raises(SystemExit, match=words):
        gradebook.rules(tmp_path, ["toy"])


def test_statistics_of_a_task_over_a_class(tmp_path):
    grades = [grade(f"s{i}", 2.0 * (i > 1), message="no" * (i < 2)) for i in range(4)]
    quizzes = [{"sam": {"1": True, "2": False}}, {"sam": {"1": False}}, {}]
    gradebook.items(grades, quizzes, tmp_path)
    one, two, first, _ = rows(tmp_path / "items.csv")
    assert (one["assignment"], one["task"], one["students"]) == ("sam", "quiz 1", "2")
    assert (one["mean_share"], two["mean_share"]) == ("0.5", "0")
    assert (first["students"], first["mean_share"]) == ("4", "0.5")
    assert (first["all"], first["none"], first["times"]) == ("2", "2", "2")
    assert first["most_frequent_message"] == "no"
    assert first["correlation_with_rest"] in ("-1", "'-1")


def test_a_task_without_points_has_no_share(tmp_path):
    g = grade("ada", 2.0)
    g.outcomes.append(judge.Outcome("test-more", 0.0, 0.0))
    gradebook.items([g], [], tmp_path)
    assert "test-more" not in {row["task"] for row in rows(tmp_path / "items.csv")}


def test_a_long_answer_is_kept_and_compared_in_part(toys, tmp_path):
    for _ in range(2):
        by_hand = report.ByHand(tmp_path, {"toy": notebooks.read("toy", toys)})
        waits = judge.Outcome("why", None, 3.0)
        g = judge.Grade("ada", "toy", "t", 0.0, "graded", "", [waits])
        g.steps = [["written", "why", "x" * 200_000, ""]]
        by_hand.apply(g)
        by_hand.save()
    pieces = gradebook.pieces(" ".join(map(str, range(10**6))), "written")
    assert len(pieces) < gradebook.LONGEST


LONG = """def double(x):
    result = np.zeros_like(x)
    for index, value in enumerate(x):
        result[index] = value + value if value > 0 else value * 2
    if result.sum() == 0 and len(result) > 3:
        result = x + x
    return result
"""


def test_a_renamed_copy_is_alike_and_another_way_is_not(toys, tmp_path):
    renamed = LONG.replace("result", "out").replace("value", "v").replace("index", "i")
    renamed = renamed.replace("out = x + x", "out = x + x  # my own idea")
    other = "import functools\n" + LONG.replace("for", "while True:\n        for")
    other = "def double(x):\n" + "".join(
        f"    y{i} = np.stack([x, x * {i}]).sum(0)[{i}:] - (x @ x)\n" for i in range(9)
    )
    grades = [grade("a", 2.0, answer=LONG), grade("b", 2.0, answer=renamed)]
    grades += [
        grade("c", 2.0, answer=other),
        grade("d", 2.0, answer=toy.RIGHT["double"]),
    ]
    gradebook.likeness(grades, {"toy": notebooks.read("toy", toys)}, tmp_path)
    (pair,) = rows(tmp_path / "similarity.csv")
    assert (pair["student"], pair["other"]) == ("a", "b")


def test_prose_is_alike_where_its_words_are(toys, tmp_path):
    one = " ".join(f"the loss of net {i}, which is {i}th, falls" for i in range(9))
    grades = [grade(student, 2.0) for student in ("a", "b", "c")]
    other = one.replace("loss", "bound").replace("falls", "rises").replace("net", "it")
    for g, text in zip(grades, (one, one.upper(), other), strict=True):
        g.steps = [["written", "why", text, ""]]
    gradebook.likeness(grades, {"toy": notebooks.read("toy", toys)}, tmp_path)
    (pair,) = rows(tmp_path / "similarity.csv")
    assert (pair["student"], pair["other"], pair["share_alike"]) == ("a", "b", "1")


def test_tables_for_canvas_and_moodle_name_everybody_on_the_roster(toys, tmp_path):
    (tmp_path / "roster.csv").write_text(
        "student,name,email,id,login,canvas\n"
        "ada,Ada Lovelace,ada@x.org,007,adal,1234\nbo,Bo Li,bo@x.org,8,bol,5\n"
    )
    assignments = {"toy": notebooks.read("toy", toys)}
    gradebook.exports([grade("ada", 2.0)], assignments, tmp_path, tmp_path)
    most, ada, bo = rows(tmp_path / "exports" / "canvas.csv")
    assert most["Student"].strip() == "Points Possible"
    assert (ada["SIS User ID"], ada["ID"], ada["toy"], bo["toy"]) == (
        "007",
        "1234",
        "2",
        "",
    )
    assert rows(tmp_path / "exports" / "moodle.csv")[0]["Email address"] == "ada@x.org"


def test_gradescope_gets_every_task(toys):
    found = gradebook.gradescope(grade("ada", 2.0))
    assert found["score"] == 2.0
    assert [t["max_score"] for t in found["tests"]] == [2.0, 2.0]


# -- what goes out


def with_numbers(folder):
    """The toy with numbers of every student's own."""
    book = toy.source()
    for cell in book.cells:
        if cell.id == "setup":
            cell.source += "\nVARIANT = 0"
        elif cell.id == "answer":
            cell.source = "answer = None\n### BEGIN SOLUTION\nanswer = VARIANT % 97\n"
            cell.source += "### END SOLUTION"
        elif cell.id == "test-answer":
            cell.source = "### BEGIN HIDDEN TESTS\nassert answer == VARIANT % 97\n"
            cell.source += "### END HIDDEN TESTS"
    (folder / "toy").mkdir(parents=True)
    nbformat.write(book, folder / "toy" / "toy.ipynb")
    return folder


def test_every_student_has_numbers_of_their_own_where_asked(command, tmp_path):
    command.source = with_numbers(tmp_path / "variants")
    for student in ("ada", "bo", "copies"):
        whose = "ada" if student == "copies" else student
        copy = release.student_copy("toy", command.source, whose)
        for cell in copy.cells:
            if cell.id in toy.RIGHT:
                cell.source = toy.RIGHT[cell.id]
            if cell.id == "setup":
                own = cell.source.partition("VARIANT = ")[2]
        for cell in copy.cells:
            if cell.id == "answer":
                cell.source = f"answer = {int(own) % 97}"
        command.put(student, nbformat.writes(copy))
    found = command("--variants")
    assert found["ada"]["points"] == found["bo"]["points"] == f"{toy.MOST}"
    assert found["copies"]["points"] == f"{toy.MOST - 1}"


@pytest.mark.parametrize("right", [True, False])
def test_a_student_checks_a_notebook_at_home(toys, tmp_path, right):
    release.check(tmp_path / "check.pyz", "toy", toys)
    with zipfile.ZipFile(tmp_path / "check.pyz") as archive:
        everything = b"".join(map(archive.read, archive.namelist()))
    for secret in (b"6 * 7", b"high is the largest", b"return 2 * x"):
        assert secret not in everything
    answers = {} if right else toy.WRONG | {"why": "", "norm": "import pandas"}
    answers |= {} if right else {"parts": "open('toy.ipynb')"}
    (tmp_path / "toy.ipynb").write_text(toy.submission(answers))
    done = subprocess.run(
        [sys.executable, "check.pyz", "toy.ipynb"],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(release.ROOT)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == (0 if right else 1), done.stdout + done.stderr
    if right:
        assert "Task: why: answered" in done.stdout
    else:
        missing = "No such file"  # as where it is graded
        said = ("double(2) is 4", "pandas may not be there", "not answered", missing)
        for words in said:
            assert words in done.stdout


def test_feedback_links_to_what_a_lost_task_is_about(toys):
    from assignments import report

    book = "https://example.org/book"
    assignments = {"toy": notebooks.read("toy", toys)}
    text = report.page("ada", [grade("ada", 0.0)], assignments, book)
    assert text.count(f'<a href="{book}/toy.html">') == 1
    assert "href" not in report.page("ada", [grade("ada", 0.0)], assignments)
