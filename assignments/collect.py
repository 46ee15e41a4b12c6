"""Which file of whom is graded for which assignment, and what stands in it.

Nothing here runs a student's code or trusts a name: names, archives, links, pipes and
the text of notebooks are whatever somebody made them.
"""

import ast
import contextlib
import io
import itertools
import json
import os
import re
import stat
import time
import unicodedata
import zipfile
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from pathlib import Path

LARGEST_FILE = 160 << 20  # with saved outputs, which are thrown away
LARGEST_SOURCE = 4 << 20  # what is left of a notebook then
MOST_FILES = 5000
DEEPEST = 12
# Jupyter's own copies, resource forks of macOS's archives, repositories, packages.
IGNORED = {"__MACOSX", ".ipynb_checkpoints", ".git", ".DS_Store"}
IGNORED |= {".venv", "site-packages", "node_modules"}
# What a file is that is no notebook, by how its text begins and ends.
LOOKS = {
    r"\A\Z": "it is empty",
    r"\A<(?!<<<<<< )": "it is a web page, perhaps that of a login",
    r"(?m)^(<<<<<<<|>>>>>>>) ": "it holds the marks of a merge that git did not finish",
    r"\A(pk\x03|\x1f|%pdf|rar!|7z|\x89png)": "it is a file of another kind",
    r"\Aversion https://git-lfs": "it is a pointer of Git LFS, not the file",
    r"(?s)\A\{.*[^}]\Z": "it ends in the middle, as after a download that was cut off",
}
# Names of files in downloads of Canvas, and of Moodle without folders.
CANVAS = re.compile(
    r"([^_]+)_(?:LATE_)?(\d+)_(?:\d+|assignsubmission_[a-z]+)_(.+)", re.DOTALL
)
MOODLE = re.compile(r"_assignsubmission_[a-z]+_?$")
# Characters that end lines, ring bells, or let text run backwards over other text.
UNSEEN = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069]"
)


def clean(text):
    """Give text that every encoder and terminal takes, with all else escaped."""
    text = str(text).encode("utf-8", "backslashreplace").decode()
    return UNSEEN.sub(lambda found: f"\\x{ord(found[0]):02x}", text)


def shown(name):
    """Give a file's name as one clean line, different for different names."""
    name = clean(name.replace("\\", "\\\\"))
    return name.replace("\n", "\\n").replace("\t", "\\t")


@dataclass
class File:
    """A file of a student: its name, the second it was changed, how to read it."""

    name: str
    time: float
    read: object


@dataclass
class Found:
    """A notebook that is to be graded, or the reason why there is none."""

    assignment: str = ""  # "" where there is nothing to grade
    file: str = ""
    time: float = 0.0  # the second in which it was changed last
    cells: list = field(default_factory=list)  # of ``(kind, source, ids)``
    notes: list = field(default_factory=list)  # sentences that need no look
    looks: list = field(default_factory=list)  # sentences that a person should read
    beside: list = field(default_factory=list)  # names of files next to it
    readable: bool = True
    # From a chapter to first answers; on the first that is found of a student.
    quizzes: dict = field(default_factory=dict)


def students(folder):
    """Give a dict from each student's name to the list of what is theirs.

    Folders of the top level belong to one student each; so do the names under which
    Moodle and Canvas pack submissions.
    """
    found = {}
    for name in sorted(filter(_counts, os.listdir(folder)), key=os.fsencode):
        path, student = Path(folder, name), shown(name)
        if path.is_dir() and not path.is_symlink():
            student = MOODLE.sub("", student)
        elif of := CANVAS.fullmatch(student):
            student = f"{of[1]}_{of[2]}"
        elif not (path.is_symlink() or _is_named(name) or _is_zip(name)):
            continue  # a table of the instructor's
        found.setdefault(student, []).append(path)
    return found


def collect(paths, assignments):
    """Find what one student handed in, of the paths that ``students`` says are theirs.

    Returns:
        A list of ``Found``: one for each assignment, and one for what fits none.
    """
    files, looks, copied = [], [], False
    for path in paths:
        if path.is_symlink():
            looks.append(f"{shown(path.name)} is a link, which is not followed.")
        elif path.is_dir():
            copied |= _walk(path, files, looks)
        elif CANVAS.fullmatch(shown(path.name)):
            files += _opened(_file(path, path.name), looks)
        else:
            looks.append("The notebook is in no student's folder.")
    named = [f for f in files if _is_named(f.name)]
    versions = {}
    for found in map(_read, named or files):
        if named or found.readable:  # or else it is a file of another kind
            found.assignment = _belongs(found, assignments)
            versions.setdefault(found.assignment, []).append(found)
    others = versions.pop("", [])
    chosen = [_choose(assignments[n], theirs, copied) for n, theirs in versions.items()]
    for found in chosen:
        found.beside = [shown(f.name) for f in files if not _is_named(f.name)][:50]
    if others:
        names = ", ".join(f.file for f in others[:20])
        looks = [f"Not an assignment's notebook: {names}.", *others[0].looks, *looks]
    elif not chosen:
        there = ", ".join(shown(f.name) for f in files[:5])
        looks.insert(0, f"There is no notebook{there and f', but {there}'}.")
    if others or not chosen:
        chosen.append(Found(looks=looks, readable=False))
    else:
        chosen[0].looks += looks
    for file in files:
        if name := re.search(r"quiz-([a-z_]+)[^/]*\.json$", file.name):
            with contextlib.suppress(Exception):
                chosen[0].quizzes[name[1]] = quiz(file.read())
    return chosen


def quiz(content):
    """First answers, as a page of the book saves them: dict of right or wrong."""
    answers = json.loads(content[:100_000])["answers"]
    return {str(int(n)): bool(a["right"]) for n, a in list(answers.items())[:50]}


def _read(file):
    found = Found(file=shown(file.name), time=file.time)
    try:
        found.cells = cells(file.read())
    except Exception as error:  # a damaged archive raises whatever it leads to
        found.readable = False
        found.looks.append(f"The file is {clean(error)}.")
    return found


# -- files


def _is_named(name):
    return ".ipynb" in name.casefold() and not name.casefold().endswith(".zip")


def _is_zip(name):
    return name.casefold().endswith(".zip")


def _counts(name):
    return name not in IGNORED and not name.startswith("._")


def _walk(home, files, looks):
    """Add all files below a folder, and say whether git set their times anew."""
    copied, most = False, len(files) + MOST_FILES

    def unread(error):
        looks.append(f"A folder cannot be read: {clean(error.strerror)}.")

    for folder, folders, names in os.walk(home, onerror=unread):
        inside = os.path.relpath(folder, home)
        copied = copied or ".git" in (*folders, *names)
        folders[:] = sorted(filter(_counts, folders), key=os.fsencode)
        for name in (*folders, *sorted(filter(_counts, names), key=os.fsencode)):
            path, relative = Path(folder, name), os.path.normpath(f"{inside}/{name}")
            with contextlib.suppress(OSError):  # it may be gone
                mode = path.lstat().st_mode
                if stat.S_ISREG(mode):
                    files += _opened(_file(path, relative), looks)
                elif stat.S_ISDIR(mode):
                    if _is_named(name) and inside == ".":
                        looks.append(f"{shown(relative)} is a folder.")
                elif _is_named(name) or _is_zip(name):
                    what = "link" if stat.S_ISLNK(mode) else "pipe or a device"
                    looks.append(f"{shown(relative)} is a {what}, which is not read.")
        if len(files) > most:
            looks.append(f"There are more than {MOST_FILES} files.")
            break
        if inside.count("/") > DEEPEST:
            folders.clear()
    return copied


def _file(path, name):
    def read():
        # What is a file now may be a pipe in a moment: never wait, never follow.
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW)
        with os.fdopen(descriptor, "rb") as file:
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                raise ValueError("no file")
            return _bounded(file)

    return File(name, path.lstat().st_mtime, read)


def _bounded(file):
    content = file.read(LARGEST_FILE + 1)
    if len(content) > LARGEST_FILE:
        raise ValueError(f"larger than {LARGEST_FILE >> 20} MiB")
    return content


def _opened(file, looks):
    """A file, or those in it where it is an archive."""
    if not _is_zip(file.name):
        return [file]
    found = []
    try:
        archive = zipfile.ZipFile(io.BytesIO(file.read()))
        listed = sorted(archive.infolist(), key=lambda i: not _is_named(i.filename))
        for info in listed[:MOST_FILES]:
            if info.is_dir() or not all(map(_counts, info.filename.split("/"))):
                continue
            changed = time.mktime((*info.date_time, 0, 0, -1))

            def read(info=info):
                with archive.open(info) as member:
                    return _bounded(member)

            found.append(File(f"{file.name}/{info.filename}", changed, read))
    except Exception as error:
        looks.append(
            f"{shown(file.name)} is no archive that can be opened "
            f"({type(error).__name__})."
        )
    return found


def _belongs(found, assignments):
    """The assignment that a notebook is for: its cells decide, then its name."""
    ids = {i for _, _, of_cell in found.cells for i in of_cell}
    texts = {_squeezed(source) for _, source, _ in found.cells}
    marks = {
        name: {c.id for c in a.cells} | {f"cell {i}" for i in a.texts}
        for name, a in assignments.items()
    }
    shared = Counter(itertools.chain.from_iterable(marks.values()))
    scores = {}
    for name, a in assignments.items():
        wanted = [c.released for c in a.cells if c.kind == "solution"]
        score = sum(_squeezed(text) in texts for text in (*wanted, *a.texts.values()))
        scores[name] = score + sum(shared[i] == 1 for i in marks[name] & ids)
    if any(scores.values()):
        return max(scores, key=scores.get)
    path = unicodedata.normalize("NFKC", found.file).casefold()
    *folders, stem = re.sub(r"[\s-]+", "_", path).split("/")
    # The longest name first: "sam" stands in "sam_bound" too.
    for text in (stem, *reversed(folders)):
        for name in sorted(assignments, key=len, reverse=True):
            if re.search(rf"(?<![a-z0-9]){re.escape(name)}(?![a-z])", text):
                return name
    return next(iter(assignments)) if len(assignments) == 1 and ids else ""


def _choose(assignment, versions, copied):
    """Of several versions, the one that was changed last."""
    if len(versions) == 1:
        return versions[0]
    given = (c.released for c in assignment.cells)
    untouched = {_squeezed(text) for text in ("", *given, *assignment.texts.values())}

    def answered(found):
        return sum(_squeezed(source) not in untouched for _, source, _ in found.cells)

    def rank(found):
        depth = found.file.count("/")
        exact = found.file.rpartition("/")[2] == f"{assignment.name}.ipynb"
        return answered(found), exact, -depth, found.file

    times = sorted(f.time for f in versions)
    newest = max(versions, key=lambda f: (f.time, rank(f)))
    fullest = max(versions, key=rank)
    # A copy that was made in one go has one time, which says nothing then; no more does
    # that of a notebook without answers.
    vague = copied or times[-1] - times[-2] < 2
    vague = vague or (not answered(newest) and answered(fullest))
    last = fullest if vague else newest
    others = ", ".join(sorted(f.file for f in versions if f is not last))
    if vague:
        last.looks.append(
            f"{last.file} is graded, as the one with most answers; times do not tell "
            f"which of these is the newest answer: {others}."
        )
    else:
        last.notes.append(
            f"{last.file} was changed last and is graded; also there: {others}."
        )
    return last


# -- notebooks


def cells(content):
    """Give the cells of a notebook as a list of ``(kind, source, ids)``.

    Raises:
        ValueError: the bytes are no notebook; says what they look like.
    """
    text = decoded(content)
    try:
        book = json.loads(text)
        listed = book["cells"] if "cells" in book else book["worksheets"][0]["cells"]
        found = [_parts(cell) for cell in listed]
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
        raise ValueError(
            f"not a notebook that can be read: {_looks_like(text)}"
        ) from None
    if sum(len(source) for _, source, _ in found) > LARGEST_SOURCE:
        raise ValueError(f"more than {LARGEST_SOURCE >> 20} MiB of text")
    return found


def decoded(content):
    """Text as whoever saved it encoded it."""
    if content.startswith((b"\xff\xfe", b"\xfe\xff")):
        return content.decode("utf-16", "replace")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError:
        return content.decode("cp1252", "replace")


def _parts(cell):
    kind, source = cell["cell_type"], cell.get("source") or cell.get("input") or ""
    source = source if isinstance(source, str) else "".join(source)
    meta = cell.get("metadata")
    meta = meta.get("nbgrader") if isinstance(meta, dict) else None
    id = meta.get("grade_id") if isinstance(meta, dict) else None
    ids = [id, f"cell {cell.get('id')}"]
    # Half a character in code stays what it was: an escape in a string.
    source = source.encode("utf-8", "backslashreplace").decode()
    return str(kind), source, [clean(i) for i in ids if isinstance(i, str)]


def _looks_like(text):
    for pattern, words in LOOKS.items():
        if re.search(pattern, text.strip(" \t\r\n"), re.IGNORECASE):
            return words
    return "please hand it in again, as Jupyter saves it"


# -- a notebook fitted into its assignment


@dataclass(frozen=True)
class Step:
    """One cell of a submission in the order in which it is graded."""

    kind: str  # "setup", "student", "test" or "written"
    id: str  # nbgrader's ``grade_id``; of a cell that the student added, ""
    source: str


def fit(assignment, found):
    """Fit a submitted notebook into its assignment.

    Locked cells are those of the assignment, whatever came back; what a student defines
    in them is kept. Solutions are found by nbgrader's id, by the cell's own, or by what
    they define. Of several copies those filled in before the test count, run in order;
    an untouched one never does. Other cells stay behind the cell that they followed.

    Returns:
        A list of ``Step`` and a list of sentences that a person should read.
    """
    items = _recognised(assignment, found)
    answers, notes = _answers(assignment, items)
    counted = {number for numbers in answers.values() for number in numbers}
    order = {cell.id: number for number, cell in enumerate(assignment.cells)}
    added, texts, own = defaultdict(list), defaultdict(list), defaultdict(list)
    place, there = -1, set()
    for number, (cell, kind, source) in enumerate(items):
        if cell and cell.id not in there:
            place = order[cell.id]
            there.add(cell.id)
        if number in counted or (cell and _same(source, cell.released)):
            continue
        if kind == "code" and (cell is None or cell.kind == "solution"):
            added[place].append(Step("student", "", source))
        elif cell is None or cell.kind == "written":
            texts[order[cell.id] if cell else place].append(source)
        elif kind == "code":
            own[cell.id].append(_definitions(source))
    steps = added[-1]
    for number, cell in enumerate(assignment.cells):
        if cell.kind == "solution":
            filled = [items[n][2] for n in answers[cell.id]]
            untouched = cell.released if cell.id in there else ""
            steps += [Step("student", cell.id, s) for s in filled or [untouched]]
        elif cell.kind == "written":
            near = texts.pop(number - 1, []) + texts.pop(number, [])
            steps.append(Step("written", cell.id, "\n\n".join(near)))
        elif cell.kind == "setup":
            # The student's version may import more.
            steps.append(Step("setup", cell.id, cell.source))
            steps += [Step("student", "", s) for s in own[cell.id] if s]
        elif cell.kind == "test":
            # At home its helpers are there when the solution is called.
            helpers = own[cell.id] or [_definitions(cell.released)]
            steps += [Step("student", "", s) for s in helpers if s]
            steps.append(Step("test", cell.id, cell.source))
        steps += added[number]
    return steps, notes


def _recognised(assignment, found):
    """Every cell with the cell of the assignment that it is, or None."""
    known, texts, named = {}, {""}, {}
    for cell in assignment.cells:
        known |= {cell.id: cell, f"cell {cell.own}": cell}
        if cell.kind == "solution":
            named |= {name: cell for name in cell.names[0]}
        else:
            known.setdefault(_squeezed(cell.released), cell)
    for text in assignment.texts.values():
        texts.add(_squeezed(text))
    present = {
        known[i].id
        for _, source, ids in found
        for i in ids
        if i in known and not _same(source, known[i].released)
    }
    items = []
    for kind, source, ids in found:
        cell = next((known[i] for i in ids if i in known), None)
        cell = cell or known.get(_squeezed(source))
        if cell is None and kind == "code":
            names = re.findall(r"^def (\w+)", source, re.MULTILINE)
            cell = next((named[n] for n in names if n in named), None)
            cell = None if cell is None or cell.id in present else cell
        elif cell is None:
            own = next((i.removeprefix("cell ") for i in ids), "")
            lines = set(assignment.texts.get(own, "").splitlines())
            source = "\n".join(n for n in source.splitlines() if n not in lines)
        if cell and cell.kind == "solution" and kind != "code":
            source = re.sub(r"(?m)^```.*$", "", source)
        if cell is not None or _squeezed(source) not in texts:
            items.append((cell, kind, source))
    return items


def _answers(assignment, items):
    """From each solution to the numbers of the items that count, and notes."""
    answers, notes, first = {}, [], {}
    for number, (cell, _, _) in enumerate(items):
        if cell is not None:
            first.setdefault(cell.id, number)
    for number, cell in enumerate(assignment.cells):
        if cell.kind != "solution":
            continue
        tests = [c.id for c in assignment.cells[number:] if c.kind == "test"]
        end = first.get(tests[0], len(items)) if tests else len(items)
        filled = [
            n
            for n, (of, kind, source) in enumerate(items)
            if of is cell
            and not _same(source, cell.released)
            and (kind == "code" or _definitions(source, (ast.stmt,)))
        ]
        answers[cell.id] = [n for n in filled if n < end] or filled
        if any(items[n][1] != "code" for n in answers[cell.id]):
            notes.append(f"The cell {cell.id} is there as text; it is run as code.")
        if len(filled) > 1:
            notes.append(
                f"The cell {cell.id} is there {len(filled)} times; what was filled in "
                "before its test counts."
            )
    missing = [
        c.id for c in assignment.cells if c.id not in first and c.kind != "ungraded"
    ]
    if missing:
        notes.append(f"Missing: the cells {', '.join(missing)}.")
    return answers, notes


def _definitions(
    source, kinds=(ast.FunctionDef, ast.ClassDef, ast.Import, ast.ImportFrom)
):
    """What a cell defines and imports, without what it does."""
    try:
        nodes = [n for n in ast.parse(source).body if isinstance(n, kinds)]
        return "\n".join(map(ast.unparse, nodes))
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return ""


def _same(one, other):
    return _squeezed(one) in ("", _squeezed(other))


def _squeezed(text):
    return "".join(text.split())
