"""Honest, careless and hostile submissions: each gets what its answers deserve."""

import csv
import json
import os
import socket
import threading

import nbformat
import pytest
import toy

from assignments import feedback, grade, notebooks, release, sandbox
from assignments.sandboxed import plain

FULL = {"test-double": 2, "test-norm": 2, "test-answer": 1, "why": None}
NONE = {"test-double": 0, "test-norm": 0, "test-answer": 0, "why": None}


@pytest.fixture(scope="module")
def toys(tmp_path_factory):
    folder = tmp_path_factory.mktemp("source")
    (folder / "toy").mkdir()
    nbformat.write(toy.source(), folder / "toy" / "toy.ipynb")
    return folder


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(grade, "CELL_SECONDS", 8)
    monkeypatch.setattr(grade, "CALL_SECONDS", 4)


@pytest.fixture
def graded(toys, confined):
    def run(content):
        return grade.grade("ada", notebooks.read("toy", toys), "toy.ipynb", content)

    return run


def points(found):
    return {o.id: o.points for o in found.outcomes}


# -- honest work


def test_right_answers_get_all_points(graded):
    found = graded(toy.submission())
    assert points(found) == FULL
    assert (found.status, found.reason, found.points) == ("graded", "", 5)


def test_wrong_answers_get_none_and_are_told_why(graded):
    found = graded(toy.submission(toy.WRONG))
    assert points(found) == NONE
    assert found.status == "graded"
    messages = {o.id: o.message for o in found.outcomes}
    assert messages["test-double"] == "double(2) is 4"
    assert "length" in messages["test-norm"]
    assert messages["test-answer"] == "the product is wrong"


def test_a_cell_that_raises_costs_its_own_task_only(graded):
    found = graded(toy.submission({"norm": "def norm(v):\n    return 1 / 0"}))
    assert points(found) == FULL | {"test-norm": 0}
    assert "ZeroDivisionError" in found.outcomes[1].message
    found = graded(toy.submission({"norm": "this is no Python"}))
    assert points(found) == FULL | {"test-norm": 0}
    assert any("SyntaxError" in text for text in found.remarks.values())
    found = graded(toy.submission({"norm": "def norm(v):\n    raise EOFError"}))
    assert found.outcomes[1].message == "EOFError"


def test_a_set_up_cell_that_fails_needs_a_look(graded):
    hide = "import sys\nsys.modules['numpy'] = None"
    found = graded(toy.submission(extra=[hide]))
    assert found.status == "look"
    assert "The cell setup" in found.reason and "numpy" in found.reason


def test_noise_is_no_mistake(graded):
    noisy = "import warnings, sys\nwarnings.warn('careful')\nprint('x' * 10**9)\n"
    noisy += "print('y', file=sys.stderr)\n%matplotlib inline\n"
    assert points(graded(toy.submission(extra=[noisy]))) == FULL


def test_helpers_in_cells_of_ones_own_count(graded):
    answers = {"double": "def double(x):\n    return helper(x, 2)"}
    helper = "helper = lambda x, k: k * x"
    assert points(graded(toy.submission(answers, [helper]))) == FULL


def test_other_types_of_plain_data_are_taken(graded):
    same = "def norm(v):\n    return torch.tensor(v).norm()"
    assert points(graded(toy.submission({"norm": same}))) == FULL


# -- careless work


@pytest.mark.parametrize(
    "harm",
    [
        "while True:\n    pass",
        "import os\nos._exit(0)",
        "import os, signal\nos.kill(os.getpid(), signal.SIGKILL)",
        "import signal, time\nfor s in (2, 15):\n    signal.signal(s, signal.SIG_IGN)\n"
        "while True:\n    time.sleep(1)",
        "bytes(50 << 30)",
        "import os\nwhile True:\n    os.fork()",
        "raise SystemExit",
        "import ctypes\nctypes.string_at(0)",
    ],
    ids=["loop", "exit", "kill", "deaf", "memory", "fork", "systemexit", "segfault"],
)
def test_harm_in_one_task_leaves_the_others_their_points(graded, harm):
    body = "\n".join("    " + line for line in harm.splitlines())
    in_call = graded(toy.submission({"norm": f"def norm(v):\n{body}"}))
    assert points(in_call) == FULL | {"test-norm": 0}
    at_top = graded(toy.submission({"norm": harm}))
    assert points(at_top) == FULL | {"test-norm": 0}


@pytest.mark.parametrize("folder", ["/tmp", "/home/student"])
def test_files_of_any_number_end_at_the_walls_of_the_sandbox(graded, folder):
    fill = f"""import os
for i in range(80):
    try:
        open(f'{folder}/{{i}}', 'wb').write(bytes(10 << 20))
    except OSError:
        pass
def norm(v):
    sizes = [os.stat(f'{folder}/{{i}}').st_size for i in range(80)]
    raise ValueError(sum(sizes) >> 20)"""
    found = graded(toy.submission({"norm": fill}))
    assert points(found) == FULL | {"test-norm": 0}
    # Programs may have left something small there.
    written = int(found.outcomes[1].message.removeprefix("ValueError: ")) << 20
    assert 0.9 * sandbox.FILE_SIZE < written <= sandbox.FILE_SIZE


@pytest.mark.parametrize(
    "text", ["", "{", "[]", '{"cells": 3}', "\0", "null", "[" * 10**5]
)
def test_what_is_no_notebook_gets_a_row_and_a_reason(graded, text):
    found = graded(text)
    assert found.status == "unreadable"
    assert "not a notebook" in found.reason
    assert found.points == 0


def test_another_kernel_and_missing_metadata(graded):
    notebook = json.loads(toy.submission())
    notebook["metadata"] = {"kernelspec": {"name": "julia-1.10", "display_name": "J"}}
    assert points(graded(json.dumps(notebook))) == FULL
    for one in notebook["cells"]:
        one["metadata"] = {}
    assert points(graded(json.dumps(notebook))) == FULL


def test_a_missing_and_a_doubled_cell_need_a_look(graded):
    notebook = json.loads(toy.submission())
    norm = next(c for c in notebook["cells"] if c["id"] == "norm")
    second = {**norm, "id": "norm-2", "source": toy.WRONG["norm"]}
    notebook["cells"].append(second)
    found = graded(json.dumps(notebook))
    assert (points(found), found.status) == (FULL, "look")
    assert "norm is there twice" in found.reason
    notebook["cells"] = [c for c in notebook["cells"] if "norm" not in c["id"]]
    found = graded(json.dumps(notebook))
    assert (points(found), found.status) == (FULL | {"test-norm": 0}, "look")
    assert "norm is missing" in found.reason


# -- cheats, each with wrong answers

CHEATS = {
    "numpy": "np.testing.assert_allclose = lambda *a, **k: None",
    "torch": "torch.equal = lambda *a: True",
    "builtins": "import builtins\nbuiltins.isinstance = lambda *a: True\n"
    "builtins.AssertionError = type('E', (BaseException,), {})",
    "ast": """import ast
class Drop(ast.NodeTransformer):
    def visit_Assert(self, node):
        return ast.Pass()
get_ipython().ast_transformers.append(Drop())""",
    "run_cell": "ip = get_ipython()\nip.run_cell = ip.run_cell_async = lambda *a: None",
    "plain": """import sys
sys.modules['plain'].encode = lambda value: b'{"dict": []}'""",
    "forge": """import os
for fd in range(64):
    try:
        os.write(fd, b'{"id": 4, "value": "4"}\\n' * 9)
    except OSError:
        pass""",
    "settrace": "import sys\nsys.settrace(lambda *a: None)",
}


@pytest.mark.parametrize("cheat", CHEATS)
def test_cheats_get_what_their_answers_deserve(graded, cheat):
    found = graded(toy.submission(toy.WRONG, [CHEATS[cheat]]))
    assert points(found) == NONE


def test_objects_that_equal_everything_are_no_answers(graded):
    liar = """class Liar(int):
    def __eq__(self, other):
        return True
    __hash__ = int.__hash__
    def __array__(self, *a, **k):
        return np.array(5.0)
"""
    answers = {
        "double": "def double(x):\n    return Liar()",
        "norm": "def norm(v):\n    return Liar()",
        "answer": "answer = Liar()",
    }
    assert points(graded(toy.submission(answers, [liar]))) == NONE


def test_rewritten_and_deleted_tests_are_those_of_the_assignment(graded):
    def pass_always(one):
        if one.id.startswith("test"):
            one.source = "pass"

    def more_points(one):
        meta = one.metadata.get("nbgrader", {})
        meta.update(points=100, locked=False, grade=False)

    assert points(graded(toy.submission(toy.WRONG, locked=pass_always))) == NONE
    assert points(graded(toy.submission(toy.WRONG, locked=more_points))) == NONE
    notebook = json.loads(toy.submission())
    notebook["cells"] = [c for c in notebook["cells"] if c["id"] in toy.RIGHT]
    found = graded(json.dumps(notebook))
    assert points(found) == FULL
    assert found.status == "look"


def test_solutions_other_work_and_the_network_are_out_of_reach(graded, tmp_path):
    (tmp_path / "secret").write_text("the solution")
    root = release.ROOT
    with socket.create_server(("127.0.0.1", 0)) as server:
        calls = []
        accept = threading.Thread(
            target=lambda: calls.append(server.accept()), daemon=True
        )
        accept.start()
        folders = [str(tmp_path), str(root / "assignments/source"), str(root / "tests")]
        files = ["/root/.bashrc", "/etc/passwd", "/etc/shadow", str(root / "Makefile")]
        outs = ["/tmp/out", "/home/student/out", "/usr/out", str(root / "flatlab/out")]
        probe = f"""import os, socket
def double(x):
    seen = []
    for path in {folders}:
        seen += os.listdir(path) if os.path.exists(path) else []
    for name in {files}:
        seen += [name] if os.path.exists(name) else []
    for path in {outs}:
        try:
            open(path, 'w').close()
            seen.append('wrote ' + path)
        except OSError:
            pass
    try:
        socket.create_connection(('127.0.0.1', {server.getsockname()[1]}), 1)
        seen.append('connected')
    except OSError:
        pass
    raise ValueError(sorted(seen))"""
        found = graded(toy.submission({"double": probe}))
        assert not calls
    # Its own scratch folders, which end with it, and nothing else.
    assert found.outcomes[0].message == (
        "ValueError: ['wrote /home/student/out', 'wrote /tmp/out']"
    )
    assert not (root / "flatlab" / "out").exists()


def test_the_environment_tells_nothing(graded, monkeypatch):
    monkeypatch.setenv("GRADER_TOKEN", "secret")
    probe = "import os\ndef double(x):\n    raise ValueError(dict(os.environ))"
    found = graded(toy.submission({"double": probe}))
    assert found.outcomes[0].message.startswith("ValueError: {")
    assert "secret" not in found.outcomes[0].message


# -- a class


def test_a_class_is_graded_each_by_itself(toys, tmp_path, monkeypatch, confined):
    monkeypatch.setattr(notebooks, "SOURCE", toys)
    monkeypatch.setattr(notebooks, "names", lambda: ["toy"])
    assignments = {"toy": notebooks.read("toy", toys)}
    hand_in = tmp_path / "in"

    def put(student, name, content, age=0):
        path = hand_in / student / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
        os.utime(path, (1e9 - age, 1e9 - age))

    put("Åsa 李", "toy.ipynb", toy.submission())
    put("late", "toy.ipynb", toy.submission(toy.WRONG), age=100)
    put("late", "toy (1).ipynb", toy.submission())
    put("nested", "toy/notebook.ipynb", toy.submission())
    put("broken", "toy.ipynb", "{")
    put("other", "essay.ipynb", toy.submission())
    put("both", "toy.ipynb", toy.submission())
    put("both", "my toy.ipynb", toy.submission())
    put(".", "stray.ipynb", toy.submission())
    (hand_in / "nothing").mkdir()
    (hand_in / "nothing" / "toy.ipynb").symlink_to("/etc/passwd")
    found = grade.find(hand_in, assignments)
    grades = []
    for student, name, path, note in found:
        if path is None:
            grades.append(grade.Grade(student, "", "", "unreadable", note, ()))
        else:
            grades.append(
                grade.grade(
                    student, assignments[name], path.name, path.read_text(), note
                )
            )
    out = tmp_path / "out"
    out.mkdir()
    grade.write_tables(grades, out)
    with (out / "grades.csv").open(encoding="utf-8", newline="") as file:
        rows = {row["student"]: row for row in csv.DictReader(file)}
    more = [g for g in grades if g.student == "both"]
    assert [(g.points, g.status) for g in more] == [(5, "graded"), (0, "unreadable")]
    assert "my toy.ipynb" in more[1].reason
    del rows["both"]
    assert {s: float(r["points"]) for s, r in rows.items()} == {
        "stray.ipynb": 0,
        "Åsa 李": 5,
        "late": 5,
        "nested": 5,
        "broken": 0,
        "other": 0,
        "nothing": 0,
    }
    assert "toy (1).ipynb was changed last" in rows["late"]["reason"]
    assert "essay.ipynb" in rows["other"]["reason"]
    assert all(r["reason"] for r in rows.values() if r["status"] != "graded")
    # A person grades the written answers, and the points stay.
    written = (out / "written.csv").read_text("utf-8")
    assert "I think so." in written
    with (out / "written.csv").open(encoding="utf-8", newline="") as file:
        lines = list(csv.DictReader(file))
    for line in lines:
        line["points"] = "2.5" if line["student"] == "late" else ""
    with (out / "written.csv").open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, lines[0].keys())
        writer.writeheader()
        writer.writerows(lines)
    again = [grade.with_written(g, grade.read_written(out)) for g in grades]
    assert {g.student: g.points for g in again}["late"] == 7.5
    assert {g.student: g.points for g in again}["nested"] == 5
    lines[0]["points"] = "99"
    given = {(line["student"], "toy", "why"): line["points"] for line in lines}
    with pytest.raises(SystemExit, match="from 0 to 3"):
        [grade.with_written(g, given) for g in grades]
    # Feedback shows what was said and runs nothing.
    page = out / "feedback.html"
    feedback.write(grades[-1:], assignments, page)
    assert "http" not in page.read_text("utf-8")


def test_feedback_shows_a_students_markup_as_text(graded, toys, tmp_path):
    evil = "<script>alert(1)</script>"
    found = graded(toy.submission({"double": f"raise ValueError({evil!r})"}))
    page = tmp_path / "page.html"
    feedback.write([found], {"toy": notebooks.read("toy", toys)}, page)
    text = page.read_text("utf-8")
    assert evil not in text
    assert "&lt;script&gt;" in text


def test_tables_hold_no_formulas(tmp_path):
    row = grade.Grade("=cmd()", "toy", "f", "look", "@x", ())
    grade.write_tables([row], tmp_path)
    assert "'=cmd()" in (tmp_path / "grades.csv").read_text()


def test_points_given_to_another_folder_stay(tmp_path):
    why = notebooks.Step("written", "why", "Because.")
    given = [grade.Outcome("why", 2.0, 3.0)]
    for student in ("=ada", "bo"):
        row = grade.Grade(student, "toy", "f", "graded", "", tuple(given), (why,))
        grade.write_tables([row], tmp_path)
    points = grade.read_written(tmp_path)
    assert list(points.values()) == ["2.0", "2.0"]
    blank = grade.Grade(
        "=ada", "toy", "f", "graded", "", (grade.Outcome("why", None, 3.0),)
    )
    assert grade.with_written(blank, points).points == 2.0


def test_without_bubblewrap_nothing_is_graded(monkeypatch):
    monkeypatch.setenv("PATH", "")
    with pytest.raises(SystemExit, match=r"container.*Nothing was graded"):
        sandbox.require()


# -- what students get


def test_students_copies_hold_no_secrets(toys):
    copy = release.student_copy("toy", toys)
    text = "\n".join(cell.source for cell in copy.cells)
    for secret in ("2 * x", "42", "6 * 7", "double each entry", "Because."):
        assert secret not in text
    assert "double(2) is 4" in text
    assert text.count("raise NotImplementedError") == 3


# -- plain data


@pytest.mark.parametrize(
    "value",
    [1, 1.5, True, None, "ü", [1, (2, {"a": [3]})], {1: 2, (1, 2): 3}, float("inf")],
    ids=repr,
)
def test_plain_data_comes_back(value):
    found = plain.decode(plain.encode(value))
    assert found == value
    assert type(found) is type(value)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b'{"x": 1}',
        b'{"a": 1, "b": 2}',
        b'{"array": 3}',
        b"[" * 10**5,
        b'{"array": [[9], "k05VTVBZ"]}',
        b'{"dict": [[[1], 2]]}',
    ],
)
def test_forged_data_is_refused(content):
    with pytest.raises(plain.NotPlainError):
        plain.decode(content)


@pytest.mark.parametrize("value", [object(), print, {1, 2}, [object()]])
def test_what_is_not_plain_is_named(value):
    with pytest.raises(plain.NotPlainError, match="give numbers"):
        plain.encode(value)
