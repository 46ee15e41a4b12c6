"""What the sandbox bounds: memory in every form, files, threads, time of its own."""

import contextlib

import numpy as np
import pytest

from assignments import confine
from assignments.run import Limits, Session
from assignments.sandboxed import plain


@pytest.fixture
def box(confined, monkeypatch):
    monkeypatch.setattr(confine, "MEMORY", 256 << 20)
    made = Session(Limits(cell=20))
    yield made
    made.close()


HELD = {
    "anonymous": "kept = [bytearray(b'x') * (16 << 20) for _ in range(64)]",
    "private maps": "import mmap\nkept = [mmap.mmap(-1, 16 << 20, mmap.MAP_PRIVATE | "
    "mmap.MAP_ANONYMOUS) for _ in range(64)]\n"
    "for m in kept: m.write(b'x' * (16 << 20))",
    "many processes": "import os\nfor _ in range(16):\n    if not os.fork():\n"
    "        kept = bytearray(b'x') * (64 << 20)\n        time.sleep(30)",
}
REFUSED = {
    "memfd": "os.memfd_create('x')",
    "shared maps": "mmap.mmap(-1, 1 << 20)",
    "zero": "mmap.mmap(os.open('/dev/zero', os.O_RDWR), 1 << 20)",
    "System V": "shm = ctypes.CDLL(None, use_errno=True).shmget(0, 1 << 20, 0o1600)\n"
    "if shm < 0: raise OSError(ctypes.get_errno(), 'shmget')",
    "pages in pipes": "there, back = os.pipe()\nkept = ctypes.create_string_buffer(9)\n"
    "part = (ctypes.c_size_t * 2)(ctypes.addressof(kept), 9)\n"
    "number = {'x86_64': 278, 'aarch64': 75}[os.uname().machine]\n"
    "if ctypes.CDLL(None).syscall(number, back, part, 1, 0) < 0: raise OSError",
    "semaphores": "if ctypes.CDLL(None).semget(0, 9, 0o1600) < 0: raise OSError",
    "namespaces": "if os.system('unshare --user --mount true'): raise OSError",
    "dev": "open('/dev/x', 'w')",
    "root": "open('/x', 'w')",
    "usr": "open('/usr/x', 'w')",
    "network": "socket.create_connection(('1.1.1.1', 53), 1)",
}


@pytest.mark.parametrize("form", HELD)
def test_memory_that_processes_hold_counts(box, form):
    with pytest.raises(confine.SandboxError, match="memory"):
        box.run(f"import time\n{HELD[form]}\ntime.sleep(30)")


@pytest.mark.parametrize("form", REFUSED)
def test_memory_that_nothing_counts_is_refused(box, form):
    code = f"import ctypes, mmap, os, socket\n{REFUSED[form]}"
    with pytest.raises(confine.StudentError, match=r"^(OS|Permission)Error"):
        box.run(code)


@pytest.mark.parametrize("folder", ["/tmp", "/home/student", "/dev/shm"])
def test_files_of_any_number_end_at_the_walls(box, folder):
    fill = f"""total = 0
for i in range(80):
    try:
        with open(f'{folder}/{{i}}', 'wb') as file:
            total += file.write(bytes(1 << 20))
    except OSError:
        pass"""
    box.run(fill)
    written = box.value("total")
    # Programs may have left something small there.
    assert 0.9 * confine.FILE_SIZE < written <= confine.FILE_SIZE


def test_threads_without_end_end_the_sandbox(box):
    code = "import threading, time\nwhile True:\n"
    code += "    threading.Thread(target=time.sleep, args=(60,)).start()"
    with pytest.raises(confine.SandboxError, match=r"threads|memory|did not end"):
        box.run(code)


def test_time_is_what_is_worked_or_slept_and_not_the_clock(confined):
    session = Session(Limits(cell=2, test=1))
    try:
        with session.step("student", "a"):
            session.run("sum(range(10**6))")
        assert session.took["a"] < 2
        with pytest.raises(confine.SandboxError), session.step("student", "b"):
            session.run("import time\nwhile True: time.sleep(1)")
        with pytest.raises(confine.SandboxError), session.step("test", "c"):
            session.run("while True: pass")
        # What ran before is there again.
        session.run("x = 1")
        assert session.value("x") == 1
    finally:
        session.close()


def test_limits_grow_with_what_the_model_solution_takes():
    limits = Limits(model={"a": 0.1, "b": 7.0})
    assert [limits.of("test", id) for id in "abc"] == [20, 160, 20]
    assert limits.of("student", "b") == 240


@pytest.mark.parametrize(
    "reply",
    [
        b'{"id": 2}',
        b'{"id": 2, "value": 3}',
        b'{"id": 2, "value": "[1, 2"}',
        b'{"id": 2, "value": "{\\"array\\": [[9], \\"k05VTVBZ\\"]}"}',
        b"[" * 100_000,
        b"[]",
        b"2",
        b'{"id": 2, "error": [], "message": {}}',
    ],
)
def test_forged_replies_harm_nobody_else(box, reply):
    forge = "import os\nfor fd in range(3, 20):\n    with __import__('contextlib')"
    forge += f".suppress(OSError):\n        os.write(fd, {reply!r} + b'\\n')\n"
    forge += "def f(): return 1"
    box.run("pass")
    box.sandbox.asked = 1
    with contextlib.suppress(Exception):
        box.run(forge)
    with contextlib.suppress(Exception):
        assert box.call("f", (), {})[0] in (1, 3)


def test_more_processes_than_libraries_start_end_the_sandbox(confined):
    code = "import os, time\nfor _ in range(70):\n    if not os.fork():\n"
    code += "        time.sleep(60)\ntime.sleep(60)"
    with (
        contextlib.closing(confine.Sandbox()) as box,
        pytest.raises(confine.SandboxError, match="64 processes"),
    ):
        box.ask({"cell": code}, 20)


def test_a_child_that_outlives_its_parent_keeps_nobody_waiting():
    box = confine.Sandbox(confined=False)
    code = "import os, time\nif os.fork():\n    os._exit(0)\ntime.sleep(3600)"
    with pytest.raises(confine.SandboxError, match="ended its process"):
        box.ask({"cell": code}, 20)


# -- plain data


@pytest.mark.parametrize(
    "value",
    [1, 1.5, True, None, "ü", [1, (2, {"a": [3]})], {1: 2, (1, 2): 3}, 1j, {1, 2}],
    ids=repr,
)
def test_plain_data_comes_back(value):
    found = plain.decode(plain.encode(value))
    assert found == value
    assert type(found) is type(value)


def test_what_has_the_value_of_plain_data_is_taken():
    sparse = pytest.importorskip("scipy.sparse")
    import torch

    for value in (
        np.matrix([[1.0, 2.0]]),
        np.ma.array([[1.0, 2.0]]),
        sparse.csr_matrix([[1.0, 2.0]]),
        torch.tensor([[1.0, 2.0]]).to_sparse(),
        torch.tensor([[1.0, 2.0]], requires_grad=True),
        torch.tensor([[1.0, 2.0]], dtype=torch.bfloat16),
        torch.nn.Parameter(torch.tensor([[1.0, 2.0]])),
    ):
        found = plain.decode(plain.encode(value))
        np.testing.assert_array_equal(np.asarray(found), [[1.0, 2.0]])
    assert plain.decode(plain.encode(map(abs, [-1, 2]))) == [1, 2]


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
        b'{"complex": "x"}',
        b'{"set": [[1]]}',
    ],
)
def test_forged_data_is_refused(content):
    with pytest.raises(plain.NotPlainError):
        plain.decode(content)


@pytest.mark.parametrize("value", [object(), print, [object()], int, b"x"], ids="abcde")
def test_what_is_not_plain_is_named(value):
    with pytest.raises(plain.NotPlainError, match="give numbers"):
        plain.encode(value)


def test_without_bubblewrap_nothing_is_graded(monkeypatch):
    monkeypatch.setenv("PATH", "")
    with pytest.raises(SystemExit, match=r"container.*Nothing was graded"):
        confine.require()
