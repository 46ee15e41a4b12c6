"""A process in which a student's code can do no harm, and what it answers.

bubblewrap gives it a file system with the programs and nothing else, no network and
processes of its own; prlimit bounds address space, files and processor time; a filter
refuses memory that nothing could count; a watch bounds what all its processes use
together, and counts time by what they work and sleep, not by the clock.
"""

import contextlib
import glob
import importlib.util
import json
import math
import os
import platform
import re
import shutil
import signal
import struct
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

from assignments.sandboxed import plain

# Found without importing it, which takes seconds.
PACKAGE = Path(importlib.util.find_spec("flatlab").origin).parent
GIB = 1 << 30
ADDRESS_SPACE = 8 * GIB  # of one process; torch alone maps some
MEMORY = 4 * GIB  # of all processes together
PROCESSES = 64  # at once; loading a library may start a few
THREADS = 512
PROCESSOR_SECONDS = 3600
FILE_SIZE = 50 << 20  # of one file, and of all in a folder
REPLY_SIZE = 64 << 20
REPLY_PARTS = 4_000_000  # commas and brackets: parsing costs memory for each
START_SECONDS = 60
PATIENCE = 15  # how much longer than its limit a request may take by the clock,
LEAST = 20  # which is taken to be as many seconds at least
TICK = 0.1
FOLDER = "/home/student"
HOST = [sys.executable, str(Path(plain.__file__).with_name("host.py"))]
# Of each machine: its mark, mmap, and what is refused: memfd_create, memfd_secret,
# shmget, msgget, semget, io_uring_setup, bpf, vmsplice.
CALLS = {
    "x86_64": (0xC000003E, 9, (319, 447, 29, 68, 64, 425, 321, 278)),
    "aarch64": (0xC00000B7, 222, (279, 447, 194, 186, 190, 425, 280, 75)),
}
# Lines of ``/proc/*/status`` that count memory of a process's own, in KiB.
OWN = re.compile(r"^(?:RssAnon|RssShmem|Huge\w*|VmSwap):\s*(\d+)", re.MULTILINE)
KNOWN = (ValueError, TypeError, NameError, KeyError, AssertionError, IndexError)
KNOWN += (NotImplementedError, RuntimeError, ZeroDivisionError, AttributeError)
KNOWN = {error.__name__: error for error in KNOWN}


class SandboxError(Exception):
    """The process did not answer: it was too slow, too large, or ended."""


class StudentError(Exception):
    """An exception that the student's code raised and Python has no name for."""


def require():
    """Refuse to go on where code cannot be confined, and say what to do."""
    if os.environ.get("FLATLAB_CONFINE") == "container":
        return
    missing = [tool for tool in ("bwrap", "prlimit") if shutil.which(tool) is None]
    if not missing:
        words = [*command()[: -len(HOST)], "true"]
        trial = subprocess.run(words, capture_output=True, text=True)
        if trial.returncode == 0:
            return
        missing = [f"what bubblewrap 0.8 needs ({trial.stderr.strip()})"]
    raise SystemExit(
        f"Grading runs the code of students, and {' and '.join(missing)} to confine it "
        "is missing here. Install it (on Debian 12, Ubuntu 24.04 or later: apt-get "
        "install bubblewrap util-linux), or grade inside a Linux container or virtual "
        "machine that has it. Nothing was graded."
    )


ENVIRONMENT = {
    "PATH": "/usr/bin:/bin",
    "HOME": "/tmp",
    "IPYTHONDIR": "/tmp/ipython",
    "MPLCONFIGDIR": "/tmp/matplotlib",
    "MPLBACKEND": "Agg",
    "OMP_NUM_THREADS": "1",
    "PYTHONHASHSEED": "0",
    "PYTHONPATH": str(PACKAGE.parent),  # of which the sandbox shows nothing else
    "PYTHONDONTWRITEBYTECODE": "1",
    "PYTHONIOENCODING": "utf-8",
    "PIP_NO_INDEX": "1",  # there is no network: say so at once
    "TORCH_COMPILE_DISABLE": "1",  # its results, without a compiler
    "FLATLAB_PROGRESS": "0",
    "FLATLAB_DEVICE": "cpu",
    "LANG": "C.UTF-8",
}
HARMLESS = {k: v for k, v in ENVIRONMENT.items() if k not in ("PATH", "HOME")}


# Scratch folders are in memory, so that files of any number fill nothing of this
# machine. Shared mappings of /dev/zero would be memory that no process seems to hold;
# so would a file system that is mounted in another user namespace.
WALLS = f"""
    --unshare-all --unshare-user --disable-userns --cap-drop ALL
    --die-with-parent --new-session --uid 65534 --gid 65534
    --ro-bind /usr /usr --proc /proc --dev /dev
    --size {FILE_SIZE} --tmpfs /dev/shm --dev-bind /dev/null /dev/zero --remount-ro /dev
    --size {FILE_SIZE} --tmpfs /tmp --size {FILE_SIZE} --tmpfs {FOLDER} --chdir {FOLDER}
    --ro-bind-try /etc/alternatives /etc/alternatives
    --ro-bind-try /etc/ld.so.cache /etc/ld.so.cache
    --ro-bind-try /etc/localtime /etc/localtime
""".split()
BOUNDS = f"--as={ADDRESS_SPACE} --cpu={PROCESSOR_SECONDS} --fsize={FILE_SIZE}".split()
BOUNDS += ["--nofile=256", "--core=0", "--"]
NOBODY = ["--reuid=65534", "--regid=65534", "--clear-groups", "--no-new-privs"]


def command(filter_file=None):
    """The command line that runs the host, given the descriptor of the filter."""
    bounded = [shutil.which("prlimit"), *BOUNDS]
    if os.environ.get("FLATLAB_CONFINE") == "container":
        return [*bounded, shutil.which("setpriv"), *NOBODY, *HOST]
    seen = []
    for path in (sys.base_prefix, sys.prefix, PACKAGE, Path(plain.__file__).parent):
        if not Path(path).is_relative_to("/usr"):
            seen += ["--ro-bind", str(path), str(path)]
    for path in ("/lib", "/lib64", "/bin"):
        if os.path.islink(path):
            seen += ["--symlink", os.path.realpath(path), path]
        else:
            seen += ["--ro-bind-try", path, path]
    if filter_file is not None:
        seen += ["--seccomp", str(filter_file)]
    return [*bounded, shutil.which("bwrap"), *WALLS, *seen, "--remount-ro", "/", *HOST]


def system_filter():
    """A descriptor of a seccomp filter: no memory outside processes and files."""
    mark, mmap, refused = CALLS[platform.machine()]
    load, jump, at_least, logic, give = 0x20, 0x15, 0x35, 0x54, 0x06
    error, allow, kill = 0x00050000 | 1, 0x7FFF0000, 0x80000000
    steps = [
        (load, 0, 0, 4),  # the architecture
        (jump, 1, 0, mark),
        (give, 0, 0, kill),
        (load, 0, 0, 0),  # the number of the call
        (at_least, 0, 1, 0x40000000),  # another way to number them
        (give, 0, 0, error),
    ]
    for number in refused:
        steps += [(jump, 0, 1, number), (give, 0, 0, error)]
    steps += [
        (jump, 0, 4, mmap),
        (load, 0, 0, 40),  # its flags: shared and anonymous together are refused
        (logic, 0, 0, 0x21),
        (jump, 0, 1, 0x21),
        (give, 0, 0, error),
        (give, 0, 0, allow),
    ]
    reading, writing = os.pipe()
    os.write(writing, b"".join(struct.pack("HBBI", *step) for step in steps))
    os.close(writing)
    return reading


class Sandbox:
    """A process that runs cells, calls functions and gives values: see ``host``.

    Args:
        confined: whether it is behind walls; a student at home grades their own.
    """

    def __init__(self, confined=True):
        filtered = confined and platform.machine() in CALLS
        handed = (system_filter(),) if filtered else ()
        self.home = None if confined else tempfile.TemporaryDirectory()
        self.process = subprocess.Popen(
            command(*handed) if confined else HOST,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,  # what is printed is nobody's
            cwd=self.home and self.home.name,  # files beside the notebook are not there
            env=ENVIRONMENT if confined else os.environ | HARMLESS,
            pass_fds=handed,
            start_new_session=True,
        )
        for descriptor in handed:
            os.close(descriptor)
        self.fate, self.asked = "", 0
        self.worked = self.slept = 0.0  # seconds, since the start
        self.due = None  # when the request in hand ends: spent, by the clock, limit
        threading.Thread(target=self._watch, daemon=True).start()
        self.ask({"cell": "pass"}, START_SECONDS)

    @property
    def spent(self):
        """Seconds that the processes worked or slept while something was asked."""
        return self.worked + self.slept

    def ask(self, request, seconds):
        """Give the reply to a request, two dicts; what the code raises is raised here.

        Raises:
            SandboxError: there is no reply; the process has ended then.
        """
        self.asked += 1
        clock = time.monotonic() + PATIENCE * max(seconds, LEAST)
        self.due = (self.spent + seconds, clock, seconds)
        try:
            line = json.dumps(request | {"id": self.asked}).encode()
            self.process.stdin.write(line + b"\n")
            self.process.stdin.flush()
            reply = {}
            while reply.get("id") != self.asked:  # others were written by the student
                reply = json.loads(self._line())
            if "error" not in reply:
                reply["value"]
                return reply
            kind, message = str(reply["error"]), str(reply["message"])
        except Exception as error:  # of the pipe, or of what was written into it
            ended = isinstance(error, OSError)
            self._kill("ended its process" if ended else "stopped answering")
            self.close()
            raise SandboxError(self.fate) from None
        finally:
            self.due = None
        # Tests may expect a ValueError; of other classes only the name is known here.
        raise (
            KNOWN[kind](message)
            if kind in KNOWN
            else StudentError(f"{kind}: {message}")
        )

    def close(self):
        """End the process and all that it started."""
        # Killing bubblewrap ends its process namespace with everything inside.
        self.process.kill()
        self.process.wait()
        with contextlib.suppress(OSError):
            self.process.stdin.close()
        self.process.stdout.close()

    def _line(self):
        line = self.process.stdout.readline(REPLY_SIZE)
        if not line:
            raise OSError
        parts = sum(map(line.count, (b",", b"[", b"{")))
        if len(line) == REPLY_SIZE or parts > REPLY_PARTS:
            self._kill("answered too much")
            raise OSError
        return line

    def _kill(self, fate):
        self.fate = self.fate or fate
        self.process.kill()

    def _watch(self):
        """Count what is used, and end what uses too much."""
        while self.process.poll() is None:
            time.sleep(TICK)
            worked, memory, processes, threads, moves = usage(self.process.pid)
            if self.due and not moves and worked - self.worked < 0.01:
                self.slept += TICK
            self.worked = max(self.worked, worked)  # who ends takes its time along
            end, clock, seconds = self.due or (math.inf, math.inf, 0)
            for used, most, fate in (
                (memory, MEMORY, f"used more than {MEMORY // GIB} GiB of memory"),
                (processes, PROCESSES, f"started more than {PROCESSES} processes"),
                (threads, THREADS, f"started more than {THREADS} threads"),
                (self.spent, end, f"did not end within {seconds:.0f} s"),
                (time.monotonic(), clock, "did not end for a long time, by the clock"),
            ):
                if used > most:
                    self._kill(fate)
        # Without a namespace a child would hold the pipe, and the reader with it.
        with contextlib.suppress(OSError):
            os.killpg(self.process.pid, signal.SIGKILL)


def usage(root):
    """What a process and all its descendants use.

    Returns:
        Their processor time in seconds, with that of those who ended; memory of their
        own in bytes; how many processes and threads; whether any runs or waits to.
    """
    children, stats = {}, {}
    for path in glob.glob("/proc/[0-9]*/stat"):
        if fields := _stat(path):
            stats[pid := path.split("/")[2]] = fields
            children.setdefault(fields[1], []).append(pid)
    inside = [str(root)] if str(root) in stats else []
    for pid in inside:
        inside += [c for c in children.get(pid, ()) if c not in inside]
    worked, memory, threads, moves = 0, 0, 0, False
    for pid in inside:
        worked += sum(map(int, stats[pid][11:15]))
        threads += int(stats[pid][17])
        memory += sum(int(n) << 10 for n in OWN.findall(_text(f"/proc/{pid}/status")))
        states = (_stat(path)[:1] for path in glob.glob(f"/proc/{pid}/task/*/stat"))
        moves = moves or any(state in (["R"], ["D"]) for state in states)
    ticks = os.sysconf("SC_CLK_TCK") if inside else 1
    return worked / ticks, memory, len(inside), threads, moves


def _stat(path):
    # The second field is a name that may hold anything, parentheses too.
    return _text(path).rpartition(")")[2].split()


def _text(path):
    try:
        return Path(path).read_text("ascii", "replace")
    except OSError:  # it has ended
        return ""
