"""Honest, careless and hostile submissions: each gets what its answers deserve."""

import json
import socket
import threading

import numpy as np
import pytest
import toy
from conftest import Inside

from assignments import collect, judge, notebooks, release
from assignments.run import Limits, Session

FULL = {f"test-{name}": points for name, points in toy.POINTS.items()} | {"why": None}
NONE = {id: points and 0 for id, points in FULL.items()}


def judged(text, toys, session):
    found = collect.Found("toy", "toy.ipynb", cells=collect.cells(text.encode()))
    return judge.judge("ada", notebooks.read("toy", toys), found, session)


@pytest.fixture
def graded(toys, confined):
    def run(text):
        session = Session(Limits(cell=2, test=1, added=3))
        try:
            return judged(text, toys, session)
        finally:
            session.close()

    return run


@pytest.fixture
def answered(toys):
    """Without walls, which cost a second each: for what is about values alone."""
    return lambda text: judged(text, toys, Inside())


def points(found):
    return {o.id: o.points for o in found.outcomes}


def message(found, task):
    return next(o.detail for o in found.outcomes if o.id == f"test-{task}")


# -- honest work


def test_right_answers_get_all_points(graded):
    found = graded(toy.submission())
    assert points(found) == FULL
    assert (found.status, found.reason, found.points) == ("graded", "", toy.MOST)


def test_an_exception_of_any_class_crosses_the_wall_by_name(graded):
    answers = {"norm": "def norm(v):\n    raise EOFError('it')"}
    answers["parts"] = "class Own(Exception): pass\ndef ends(v):\n    raise Own"
    found = graded(toy.submission(answers))
    assert points(found) == FULL | {"test-norm": 0, "test-parts": 0}
    assert message(found, "norm") == "EOFError: it"
    assert message(found, "parts").endswith("Own")
    shown = {o.id: o.message for o in found.outcomes}
    assert shown["test-parts"] == "An exception on other input"


def test_wrong_answers_get_none_and_are_told_why(answered):
    found = answered(toy.submission(toy.WRONG))
    assert points(found) == NONE
    assert found.status == "graded"
    assert message(found, "double") == "double(2) is 4"
    assert "length" in message(found, "norm")
    assert message(found, "answer") == "the product is wrong"


def test_parts_of_a_task_give_points_of_their_own(answered):
    found = answered(toy.submission({"parts": "def ends(v):\n    return 0.0, v.max()"}))
    assert points(found) == FULL | {"test-parts": 2}
    assert message(found, "parts") == "the smallest: low is the smallest"


@pytest.mark.parametrize(
    "body, words",
    [
        ("return 1 / 0", "ZeroDivisionError"),
        ("pass", "is there a return?"),
        ("return np.zeros((0, 1))", "shape (0, 1) where a number is expected"),
        ("return 'five'", "text where a number is expected"),
    ],
)
def test_a_task_that_fails_costs_itself_only_and_says_why(answered, body, words):
    found = answered(toy.submission({"norm": f"def norm(v):\n    {body}"}))
    assert points(found) == FULL | {"test-norm": 0}
    assert words in message(found, "norm")


@pytest.mark.parametrize(
    "source, status, words",
    [
        ("this is no Python", "graded", "The cell norm failed: SyntaxError"),
        ("import nowhere", "look", "No module named 'nowhere'"),
        ("open('data.csv')", "look", "FileNotFoundError"),
        ("import os\nos._exit(0)", "look", "ended its process"),
    ],
)
def test_a_whole_cell_that_fails_is_in_the_reason(graded, source, status, words):
    found = graded(toy.submission({"norm": source}))
    assert points(found) == FULL | {"test-norm": 0}
    assert found.status == status
    assert words in found.reason


def test_a_set_up_cell_that_fails_needs_a_look(graded):
    hide = "import sys\nsys.modules['numpy'] = None"
    found = graded(toy.submission(extra=[hide]))
    assert found.status == "look"
    assert "The cell setup" in found.reason and "numpy" in found.reason


def test_noise_magics_and_helpers_are_no_mistake(graded):
    noisy = "import warnings, sys\nwarnings.warn('careful')\nprint('x' * 10**8)\n"
    noisy += "print('y', file=sys.stderr)\n%matplotlib widget\n%load_ext nowhere\n"
    noisy += "!pip install nowhere\n!echo 'def helper(x, k): return k * x' > own.py\n"
    noisy += "from own import helper\nsys.stdout = sys.stderr = None"
    answers = {"double": "%matplotlib widget\ndef double(x):\n    return helper(x, 2)"}
    found = graded(toy.submission(answers, [noisy]))
    assert (points(found), found.status) == (FULL, "graded")


SAME = {
    "a tensor": "import torch\ndef norm(v):\n    return torch.tensor(v).norm()",
    "an axis more": "def norm(v):\n    return np.sqrt((v**2).sum(keepdims=True))",
    "a fraction": "from fractions import Fraction\n"
    "def norm(v):\n    return Fraction(5)",
    "a decimal": "from decimal import Decimal\ndef norm(v):\n    return Decimal(5)",
    "a long double": "def norm(v):\n    return np.longdouble(5)",
    "no imaginary part": "def norm(v):\n    return complex(np.hypot(*v))",
    "an integer": "def norm(v):\n    return int(np.hypot(*v))",
    "compiled": "import torch\n@torch.compile\ndef norm(v):\n    return v @ v / 5",
    "a number of its own": "class Own:\n    def __float__(self):\n"
    "        return 5.0\ndef norm(v):\n    return Own()",
}


@pytest.mark.parametrize("form", SAME)
def test_the_same_value_in_another_form_passes(answered, form):
    assert points(answered(toy.submission({"norm": SAME[form]}))) == FULL


@pytest.mark.parametrize(
    "body",
    [
        "map(lambda v: 2 * v, x)",
        "(2 * v for v in x)",
        "[2 * v for v in x]",
        "np.matrix(2 * x)",
        "np.ma.array(2 * x)",
        "(2 * x).astype(object)",
    ],
)
def test_the_same_vector_in_another_form_passes(answered, body):
    source = f"def double(x):\n    return {body} if np.ndim(x) else 2 * x"
    assert points(answered(toy.submission({"double": source}))) == FULL


def test_functions_that_change_their_arguments_are_told(answered):
    source = "def double(x):\n    x *= 2\n    return x"
    found = answered(toy.submission({"double": source}))
    assert points(found) == FULL | {"test-double": 0}
    assert "changes its arguments" in message(found, "double")


# -- careless work


@pytest.mark.parametrize(
    "harm",
    [
        "while True:\n    pass",
        "import os, signal\nos.kill(os.getpid(), signal.SIGKILL)",
        "import signal, time\nfor s in (2, 15):\n    signal.signal(s, signal.SIG_IGN)\n"
        "while True:\n    time.sleep(1)",
        "bytes(50 << 30)",
        "import os\nwhile True:\n    os.fork()",
        "raise SystemExit",
        "import ctypes\nctypes.string_at(0)",
    ],
    ids=["loop", "kill", "deaf", "memory", "fork", "systemexit", "segfault"],
)
def test_harm_in_one_task_leaves_the_others_their_points(graded, harm):
    body = "\n".join("    " + line for line in harm.splitlines())
    in_call = graded(toy.submission({"norm": f"def norm(v):\n{body}"}))
    assert points(in_call) == FULL | {"test-norm": 0}


def test_a_long_experiment_of_ones_own_costs_nothing(graded):
    def change(book):
        for number in range(3):
            book["cells"].insert(3, toy.code("while True: pass", f"long-{number}"))

    found = graded(toy.submission(change=change))
    assert (points(found), found.status) == (FULL, "look")
    assert "did not end" in found.reason


# -- cheats, each with wrong answers

CHEATS = {
    "numpy": "import numpy as np\nnp.testing.assert_allclose = lambda *a, **k: None",
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
    "liar": """class Liar(int):
    def __eq__(self, other):
        return True
    __hash__ = int.__hash__
double = norm = ends = lambda v: Liar()""",
}


@pytest.mark.parametrize("cheat", CHEATS)
def test_cheats_get_what_their_answers_deserve(graded, cheat):
    last = toy.code(CHEATS["liar"]) if cheat == "liar" else None

    def change(book):
        if last:
            book["cells"].insert(-1, last)

    extra = [] if last else [CHEATS[cheat]]
    assert points(graded(toy.submission(toy.WRONG, extra, change))) == NONE


def test_rewritten_and_deleted_tests_are_those_of_the_assignment(graded):
    def rewritten(book):
        for one in book["cells"]:
            if one["id"].startswith("test"):
                one["source"] = "def norm(v):\n    return 0\n"
                one["metadata"]["nbgrader"] |= {"points": 100, "grade": False}

    def deleted(book):
        book["cells"] = [c for c in book["cells"] if c["id"] in toy.RIGHT]

    assert points(graded(toy.submission(toy.WRONG, change=rewritten))) == NONE
    found = graded(toy.submission(change=deleted))
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
def norm(x):
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
    seen += [k for k in os.environ if 'TOKEN' in k]
    raise ValueError(sorted(seen))"""
        found = graded(toy.submission({"norm": probe}))
        assert not calls
    # Its own scratch folders, which end with it, and nothing else.
    assert message(found, "norm") == (
        "ValueError: ['wrote /home/student/out', 'wrote /tmp/out']"
    )
    assert not (root / "flatlab" / "out").exists()
    # What it says of hidden inputs is for the instructor.
    outcome = next(o for o in found.outcomes if o.id == "test-norm")
    assert outcome.message == "ValueError on other input"


# -- forms

FORMS = [
    (np.float64(2), 2, 2),
    ([1.0, 2.0], np.zeros(2), np.array([1.0, 2.0])),
    (np.array([[1.0], [2.0]]), np.zeros(2), np.array([1.0, 2.0])),
    (np.array([0.5, 1.5]), (0.0, 0.0), (0.5, 1.5)),
    (3.0, 1, 3),
    (2.5, 1, 2.5),
    ([["X", 1.0]], [("Y", 2)], [("X", 1)]),
    (np.array([1, 0]), [True], [True, False]),
    ({"a": np.array(1.0)}, {"a": 0.0}, {"a": 1.0}),
    (7.0, np.zeros(2), np.array([7.0, 7.0])),
    ("text", "", "text"),
    (5, None, 5),
]


@pytest.mark.parametrize("value, model, wanted", FORMS, ids=repr)
def test_values_are_fitted_to_the_form_of_the_model_solution(value, model, wanted):
    found = judge.fitted("f", value, model)
    assert type(found) is type(wanted)
    np.testing.assert_equal(found, wanted)


@pytest.mark.parametrize(
    "value, model",
    [
        (None, 1.0),
        ("1", 1.0),
        (np.zeros((0, 3)), np.zeros(3)),
        (np.zeros((0, 1)), 0.0),
        ([], np.zeros(3)),
        (np.zeros(4), np.zeros(3)),
        ((1.0, 2.0, 3.0), (0.0, 0.0)),
        ([[1.0], [1.0, 2.0]], np.zeros((2, 2))),
        ({1.0}, np.zeros(1)),
    ],
    ids=repr,
)
def test_what_has_another_form_is_told_so(value, model):
    with pytest.raises(AssertionError, match=r"^f gives .* expected"):
        judge.fitted("f", value, model)


def test_a_notebook_without_metadata_or_of_another_kernel(graded):
    def bare(book):
        book["metadata"] = {"kernelspec": {"name": "julia-1.10", "display_name": "J"}}
        for one in book["cells"]:
            one["metadata"] = {}
            del one["id"]

    assert points(graded(toy.submission(change=bare))) == FULL
    assert points(graded(json.dumps(json.loads(toy.submission())))) == FULL
