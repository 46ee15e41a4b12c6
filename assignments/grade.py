"""Grade a folder of submissions: ``make grade SUBMISSIONS=folder``.

The folder holds one folder per student. Students' code runs in a sandbox, the tests
outside it, and only plain data crosses. Every submission is read and graded in a
process of its own, whose end costs its own row alone; what is graded is kept, so that
a run that was killed goes on where it was.
"""

import argparse
import contextlib
import ctypes
import fcntl
import hashlib
import importlib
import json
import os
import resource
import signal
import sys
import tempfile
import traceback
from dataclasses import asdict
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch: forks have one thread

from assignments import collect, confine, gradebook, notebooks, report
from assignments.judge import Grade, Outcome, judge, nothing
from assignments.run import Limits, Session

SECONDS = 3600  # by the clock, after which a submission's process ends
MEMORY = 12 << 30  # address space of that process; what a student answers is in it
ATTEMPTS = 2


def in_processes(jobs, work, workers, tell=None):
    """Do jobs in processes of their own, which may end as they like.

    Args:
        jobs: dict from a key to an argument.
        work: function of one argument; gives what JSON can hold and is no string.
        workers: how many at a time.
        tell: called with the key and the result of each job as it ends.

    Returns:
        A dict from key to result; where there is none, to a sentence that says why.
    """
    waiting, running, results = [(key, 1) for key in jobs], {}, {}
    with tempfile.TemporaryDirectory() as folder:
        paths = {key: Path(folder) / f"{n}.json" for n, key in enumerate(jobs)}
        while waiting or running:
            while waiting and len(running) < workers:
                key, attempt = waiting.pop(0)
                sys.stdout.flush()
                sys.stderr.flush()
                child = os.fork()
                if not child:
                    _child(work, jobs[key], paths[key])
                running[child] = (key, attempt)
            child, code = os.wait()
            if child not in running:
                continue
            key, attempt = running.pop(child)
            results[key] = _record(paths[key])
            if results[key] is None:
                if attempt < ATTEMPTS:  # it may have been another's memory
                    waiting.append((key, attempt + 1))
                    continue
                ended = os.waitstatus_to_exitcode(code)
                results[key] = f"The process that graded it ended with {ended}, twice."
            if tell:
                tell(key, results[key])
    return results


def _record(path):
    """What is in a file of JSON, None where there is none."""
    try:
        return json.loads(path.read_text("utf-8"))
    except (OSError, ValueError):
        return None


def _child(work, argument, path):
    code = 1
    try:
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # not to outlive the command
        resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
        resource.setrlimit(resource.RLIMIT_CPU, (SECONDS, SECONDS))
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.alarm(SECONDS)
        try:
            result = work(argument)
        except Exception as error:
            # A fault of ours, or an attack nobody thought of: never a reason to end.
            traceback.print_exc()
            reason = f"Its grading failed with {type(error).__name__}: {error}"
            result = collect.clean(reason)[:2000]
        write(path, result)
        code = 0
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(code)


def write(path, content):
    """Write JSON all at once or not at all."""
    report.put(path, json.dumps(content, indent=1) + "\n")


class Course:
    """All that one run of the command shares."""

    def __init__(self, options):
        self.options = options
        self.assignments = {
            name: notebooks.read(name, options.source)
            for name in notebooks.names(options.source)
        }
        code = hashlib.sha256()
        for package in (Path(__file__).parent, confine.PACKAGE):
            for path in sorted(package.rglob("*.py")):
                code.update(path.read_bytes())
        self.code = code.hexdigest()
        self.limits = {}

    def collected(self, paths):
        """What one student handed in, as JSON."""
        return [vars(found) for found in collect.collect(paths, self.assignments)]

    def job(self, student, found, record):
        """What is to be graded, or None where the record of an earlier run holds.

        Its ``content`` and ``rules`` are digests of what it came from.
        """
        assignment, options = self.assignments.get(found.assignment), self.options
        rules = [self.code, assignment and assignment.digest, options.variants]
        same = record.get("content") == _content(student, found)
        again = options.student == student and not options.task
        if options.task and assignment and options.student in (None, student):
            name, _, task = options.task.rpartition("/")
            for t in assignment.tasks if name in ("", assignment.name) else ():
                if t.id.removeprefix("test-") == task.removeprefix("test-"):
                    return student, found, t.id if same else None, _digest(rules)
        if same and not again and record["rules"] == _digest(rules):
            record["grade"]["time"] = found.time
            return None
        return student, found, None, _digest(rules)

    def record(self, job, before, grade):
        """What is kept of a grade; after a regrade of one task, with the others."""
        student, found, only, rules = job
        if only:
            new = {o["id"]: o for o in grade["outcomes"]}
            old = before["grade"]["outcomes"]
            grade["outcomes"] = [new.get(o["id"], o) for o in old]
        return {"content": _content(student, found), "rules": rules, "grade": grade}

    def failed(self, student, found, reason):
        """The grade, as JSON, of a submission whose process ended."""
        lost = nothing(self.assignments.get(found.assignment))
        whose = student, found.assignment, found.file, found.time
        return asdict(Grade(*whose, "look", reason, lost))

    def graded(self, job):
        """Grade one submission, as JSON."""
        student, found, only, _ = job
        assignment = self.assignments.get(found.assignment)
        if self.options.variants and assignment:
            assignment = notebooks.for_student(assignment, student)
        limits = self.limits.get(found.assignment, Limits())
        with contextlib.closing(Session(limits)) as session:
            return asdict(judge(student, assignment, found, session, only))

    def measured(self, name):
        """How long the model solution takes, and which tasks it loses."""
        assignment = self.assignments[name]
        cells = [
            ("markdown" if c.kind == "written" else "code", c.source, [c.id])
            for c in assignment.cells
        ]
        limits, found = Limits(cell=900, test=900), collect.Found(name, cells=cells)
        with contextlib.closing(Session(limits)) as session:
            grade = judge("", assignment, found, session)
        lost = [f"{o.id}: {o.detail}" for o in grade.outcomes if o.detail]
        return {"took": session.took, "lost": lost}


def grade_all(options):
    """Grade a folder, write its tables and pages, and give the list of grades."""
    output, course = options.output, Course(options)
    by_hand = report.ByHand(output)  # which may be wrong: say so before all work
    rules = gradebook.rules(options.submissions)
    kept = output / "records"
    kept.mkdir(parents=True, exist_ok=True)
    lock = (output / ".lock").open("w")
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        raise SystemExit(f"another run is grading into {output}") from None
    students = collect.students(options.submissions)
    workers = options.workers or os.cpu_count()
    jobs, records, quizzes = {}, {}, []
    for student, theirs in in_processes(students, course.collected, workers).items():
        if isinstance(theirs, str):
            theirs = [{"looks": [theirs], "readable": False}]
        for one in (collect.Found(**fields) for fields in theirs):
            quizzes.append(one.quizzes)
            key = report.slug(f"{student} {one.assignment}")
            records[key] = _record(kept / f"{key}.json") or {}
            job = course.job(student, one, records[key])
            if job:
                jobs[key] = job
    _calibrate(course, jobs, workers)
    loud, done = os.environ.get("FLATLAB_PROGRESS") != "0", []

    def tell(key, result):
        if isinstance(result, str):
            records[key]["grade"] = course.failed(*jobs[key][:2], result)
        else:
            records[key] = course.record(jobs[key], records[key], result)
            write(kept / f"{key}.json", records[key])
        done.append(key)
        if loud:
            end = "\n" if len(done) == len(jobs) else ""
            print(f"\r{len(done)} of {len(jobs)} graded", end=end, flush=True)

    in_processes(jobs, course.graded, workers, tell)
    grades = []
    for record in records.values():
        grades.append(Grade(**record["grade"]))
        grades[-1].outcomes = [Outcome(**o) for o in grades[-1].outcomes]
    order = list(course.assignments)
    grades.sort(key=lambda g: (g.student, order.index(g.assignment or order[0])))
    for one in grades:
        by_hand.apply(one)
    gradebook.apply_late(grades, rules)
    report.write(grades, course.assignments, output, by_hand, rules[-1])
    gradebook.items(grades, quizzes, output)
    gradebook.likeness(grades, course.assignments, output)
    gradebook.exports(grades, course.assignments, options.submissions, output)
    if options.results:
        report.put(options.results, json.dumps(gradebook.gradescope(grades[0])))
    return grades


def _content(student, found):
    return _digest([student, vars(found) | {"time": 0, "quizzes": {}}])


def _digest(content):
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()


def _calibrate(course, jobs, workers):
    """Grade the model solutions of all assignments that are to be graded."""
    names = {found.assignment for _, found, *_ in jobs.values() if found.readable}
    names = [name for name in course.assignments if name in names]
    if not names:
        return
    confine.require()
    if os.environ.get("FLATLAB_PROGRESS") != "0":
        print(f"Running the model solutions first: {', '.join(names)} ...", flush=True)
    for name in names:
        _import(course.assignments[name])
    found = in_processes({n: n for n in names}, course.measured, workers)
    for name, measured in found.items():
        lost = measured if isinstance(measured, str) else measured["lost"]
        if lost:
            raise SystemExit(
                f"The model solution of {name} does not get all points here, so "
                f"nothing was graded: {lost}"
            )
        course.limits[name] = Limits(model=measured["took"])


def _import(assignment):
    # Once here, not in every process: they are copies of this one.
    for cell in assignment.cells:
        if cell.kind == "setup":
            for name in notebooks.imported(cell.source):
                with contextlib.suppress(ImportError):  # the model solution says so
                    importlib.import_module(name)


def main(arguments=None):
    """The command line; exits with 3 where somebody has to look at a row."""
    parser = argparse.ArgumentParser(description="Grade a folder of submissions.")
    parser.add_argument("submissions", type=Path, help="one folder per student in it")
    parser.add_argument("--output", type=Path, help="by default SUBMISSIONS-grades")
    parser.add_argument("--source", type=Path, help="folder of the assignments")
    parser.add_argument("--student", help="grade this one again")
    parser.add_argument("--task", help="grade this task again, and no other")
    parser.add_argument("--results", type=Path, help="one student's, for Gradescope")
    parser.add_argument("--workers", type=int, help="how many at a time")
    parser.add_argument(
        "--variants", action="store_true", help="every student has own numbers"
    )
    options = parser.parse_args(arguments)
    if not options.submissions.is_dir():
        raise SystemExit(f"there is no folder {options.submissions}")
    if options.output is None:
        folder = options.submissions.resolve()
        options.output = folder.with_name(folder.name + "-grades")
    grades = grade_all(options)
    looks = sum(g.status != "graded" for g in grades)
    print(f"{len(grades)} submissions graded into {options.output / 'grades.csv'}")
    print(f"{looks} of them need a look: see their status and reason")
    return 3 if looks else 0


if __name__ == "__main__":
    sys.exit(main())
