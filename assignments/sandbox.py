"""A process in which a student's code can do no harm, and what it answers.

bubblewrap gives it a file system with the programs and nothing else, no network and
processes of its own; prlimit bounds memory, files and processor time; a watch bounds
what all its processes use together. It runs the same as root and as any other user.
"""

import collections
import contextlib
import json
import os
import selectors
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path

import psutil

import flatlab
from assignments.sandboxed import plain

GIB = 1 << 30
ADDRESS_SPACE = 8 * GIB  # of one process; torch alone maps some
MEMORY = 4 * GIB  # of all processes together
PROCESSES = 64  # at once; loading a library may start a few
PROCESSOR_SECONDS = 600
FILE_SIZE = 50 << 20  # of one file, and of all in a folder
REPLY_SIZE = 64 << 20
KEPT_OUTPUT = 4000  # characters of what was printed last
START_SECONDS = 60
FOLDER = "/home/student"


class SandboxError(Exception):
    """The process did not answer: it was too slow, too large, or ended."""


class StudentError(Exception):
    """An exception that the student's code raised and Python has no name for."""


def require():
    """Refuse to go on where code cannot be confined, and say what to do."""
    missing = [tool for tool in ("bwrap", "prlimit") if shutil.which(tool) is None]
    if not missing:
        trial = subprocess.run(
            ["bwrap", "--unshare-all", "--ro-bind", "/", "/", "true"],
            capture_output=True,
            text=True,
        )
        if trial.returncode == 0:
            return
        missing = [f"user namespaces ({trial.stderr.strip()})"]
    raise SystemExit(
        f"Grading runs the code of students, and {' and '.join(missing)} to confine it "
        "is missing here. Install it (Debian and Ubuntu: apt-get install bubblewrap "
        "util-linux), or grade inside a Linux container or virtual machine that has "
        "it. Nothing was graded."
    )


def command():
    """The command line that runs the host."""
    package = Path(flatlab.__file__).parent
    readable = [sys.base_prefix, sys.prefix, package, Path(plain.__file__).parent]
    bound = []
    for path in readable:
        if not Path(path).is_relative_to("/usr"):
            bound += ["--ro-bind", str(path), str(path)]
    for path in ("/lib", "/lib64", "/bin"):
        target = os.path.realpath(path)
        if target != path:
            bound += ["--symlink", target, path]
        elif os.path.isdir(path):
            bound += ["--ro-bind", path, path]
    for path in ("/etc/alternatives", "/etc/ld.so.cache", "/etc/localtime"):
        bound += ["--ro-bind-try", path, path]
    environment = {
        "PATH": "/usr/bin:/bin",
        "HOME": "/tmp",
        "IPYTHONDIR": "/tmp/ipython",
        "MPLCONFIGDIR": "/tmp/matplotlib",
        "MPLBACKEND": "Agg",
        "OMP_NUM_THREADS": "1",
        "PYTHONHASHSEED": "0",
        "PYTHONDONTWRITEBYTECODE": "1",
        "PYTHONIOENCODING": "utf-8",
        "FLATLAB_PROGRESS": "0",
        "FLATLAB_DEVICE": "cpu",
        "LANG": "C.UTF-8",
    }
    variables = [v for k, w in environment.items() for v in ("--setenv", k, w)]
    return [
        "prlimit",
        f"--as={ADDRESS_SPACE}",
        f"--cpu={PROCESSOR_SECONDS}",
        f"--fsize={FILE_SIZE}",
        "--core=0",
        "--",
        "bwrap",
        *("--unshare-all", "--die-with-parent", "--new-session", "--clearenv"),
        *("--uid", "65534", "--gid", "65534", "--cap-drop", "ALL"),
        *("--ro-bind", "/usr", "/usr", "--proc", "/proc", "--dev", "/dev"),
        # In memory, so that files of any number fill nothing of this machine.
        *("--size", str(FILE_SIZE), "--tmpfs", "/tmp"),
        *("--size", str(FILE_SIZE), "--tmpfs", FOLDER),
        *bound,
        *("--chdir", FOLDER, "--remount-ro", "/"),
        *variables,
        *("--", sys.executable, str(Path(plain.__file__).with_name("host.py"))),
    ]


class Sandbox:
    """A confined process that runs cells, calls functions and gives values."""

    def __init__(self):
        self.process = subprocess.Popen(
            command(),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env={"PATH": os.environ["PATH"]},
            start_new_session=True,
        )
        os.set_blocking(self.process.stdout.fileno(), False)
        self.rest = b""
        self.printed = collections.deque(maxlen=KEPT_OUTPUT)
        self.fate = ""
        self.asked = 0
        for work in (self._drain, self._watch):
            threading.Thread(target=work, daemon=True).start()
        self.run("import torch", START_SECONDS)

    def run(self, cell, seconds):
        """Run the source of a cell; what it raises is raised here."""
        self._ask({"cell": cell}, seconds)

    def value(self, name, seconds):
        """Give the plain value of a variable."""
        return self._decoded(self._ask({"name": name}, seconds))

    def call(self, name, args, kwargs, seconds):
        """Call a function with plain arguments and give its plain result."""
        content = plain.encode((list(args), kwargs)).decode()
        return self._decoded(self._ask({"name": name, "args": content}, seconds))

    def close(self):
        """End the process and all that it started."""
        # Killing bubblewrap ends its process namespace with everything inside.
        self.process.kill()
        self.process.wait()
        for pipe in (self.process.stdin, self.process.stdout):
            with contextlib.suppress(OSError):
                pipe.close()

    def output(self):
        """The end of what was printed."""
        return bytes(self.printed).decode("utf-8", "replace")

    def _ask(self, request, seconds):
        deadline = time.monotonic() + seconds
        self.asked += 1
        request["id"] = self.asked
        try:
            self.process.stdin.write(json.dumps(request).encode() + b"\n")
            self.process.stdin.flush()
            reply = {}
            while reply.get("id") != self.asked:  # others were written by the student
                reply = json.loads(self._line(deadline, seconds))
            if "error" in reply:
                kind, message = str(reply["error"]), str(reply["message"])
            else:
                return reply["value"]
        except (
            OSError,
            ValueError,
            LookupError,
            TypeError,
            AttributeError,
            RecursionError,
        ):
            self._end("stopped answering")
        raise _exception(kind, message)

    def _line(self, deadline, seconds):
        with selectors.DefaultSelector() as selector:
            selector.register(self.process.stdout, selectors.EVENT_READ)
            while b"\n" not in self.rest:
                left = deadline - time.monotonic()
                if left <= 0 or not selector.select(left):
                    self._end(f"did not end within {seconds:.0f} s")
                content = os.read(self.process.stdout.fileno(), 1 << 20)
                if not content or len(self.rest) > REPLY_SIZE:
                    self._end(
                        "ended its process" if not content else "answered too much"
                    )
                self.rest += content
        line, _, self.rest = self.rest.partition(b"\n")
        return line

    def _end(self, fate):
        # The watch may have had a reason of its own a moment ago.
        self.fate = self.fate or fate
        self.close()
        raise SandboxError(self.fate) from None

    def _decoded(self, text):
        if not isinstance(text, str):
            raise plain.NotPlainError("no data came back")
        return plain.decode(text)

    def _drain(self):
        with contextlib.suppress(OSError, ValueError):
            while content := self.process.stderr.read1(1 << 16):
                self.printed.extend(content[-KEPT_OUTPUT:])
            self.process.stderr.close()

    def _watch(self):
        while self.process.poll() is None:
            used, count = 0, 0
            with contextlib.suppress(psutil.Error):
                for child in psutil.Process(self.process.pid).children(recursive=True):
                    count += 1
                    with contextlib.suppress(psutil.Error):
                        used += child.memory_info().rss
            if used > MEMORY or count > PROCESSES:
                self.fate = (
                    f"used more than {MEMORY // GIB} GiB of memory"
                    if used > MEMORY
                    else f"started more than {PROCESSES} processes"
                )
                self.process.kill()
            time.sleep(0.2)


def _exception(kind, message):
    # Tests may expect a ValueError; of other classes only the name is known here.
    known = {e.__name__: e for e in (ValueError, TypeError, NameError, KeyError)}
    known |= {e.__name__: e for e in (AssertionError, NotImplementedError, IndexError)}
    known |= {e.__name__: e for e in (RuntimeError, ZeroDivisionError, AttributeError)}
    if kind in known:
        return known[kind](message)
    return StudentError(f"{kind}: {message}")
