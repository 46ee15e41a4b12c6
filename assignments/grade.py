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
from dataclasses import asdict, dataclass
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch: forks have one thread

from assignments import collect, confine, gradebook, notebooks, report
from assignments.judge import Grade, judge, nothing
from assignments.run import Limits, Session

SECONDS = 3600  # by the clock, after which a submission's process ends
READING = 600  # the same where it is only read
MEMORY = 12 << 30  # address space of that process; what a student answers is in it
ATTEMPTS = 2


def in_processes(jobs, work, workers, seconds=SECONDS):
    """Do jobs in processes of their own, which may end as they like.

    Args:
        jobs: dict from a key to an argument.
        work: function of one argument; gives what JSON can hold and is no string.
        workers: how many at a time.
        seconds: by the clock, after which a process ends.

    Yields:
        The key and the result of each job as it ends; where there is no result, a
        sentence that says why.
    """
    waiting, running = [(key, 1) for key in jobs], {}
    with tempfile.TemporaryDirectory() as folder:
        paths = {key: Path(folder) / f"{n}.json" for n, key in enumerate(jobs)}
        while waiting or running:
            while waiting and len(running) < workers:
                key, attempt = waiting.pop(0)
                sys.stdout.flush()
                sys.stderr.flush()
                child = os.fork()
                if not child:
                    _child(work, jobs[key], paths[key], seconds)
                running[child] = (key, attempt)
            child, code = os.wait()
            if child not in running:
                continue
            key, attempt = running.pop(child)
            result = read(paths[key])
            # What ended it may have been another's hunger for memory.
            if result is None and attempt < ATTEMPTS:
                waiting.append((key, attempt + 1))
                continue
            ended = os.waitstatus_to_exitcode(code)
            lost = f"The process that graded it ended with {ended}, twice."
            yield key, lost if result is None else result


def _child(work, argument, path, seconds):
    code = 1
    try:
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # not to outlive the command
        resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.alarm(seconds)
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


def read(path):
    """What is in a file of JSON, None where there is none."""
    try:
        return json.loads(path.read_text("utf-8"))
    except (OSError, ValueError):
        return None


def write(path, content):
    """Write JSON all at once or not at all."""
    report.put(path, json.dumps(content, indent=1) + "\n")


def digest(content):
    """A short text that differs where what JSON can hold does."""
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()


@dataclass
class Job:
    """A submission to grade, and digests of what its grade comes from."""

    student: str
    found: collect.Found
    content: str
    rules: str
    only: str | None  # the id of the one task that is graded again


class Course:
    """All that one run of the command shares."""

    def __init__(self, options):
        self.options, self.limits = options, {}
        self.assignments = {
            name: notebooks.read(name, options.source)
            for name in notebooks.names(options.source)
        }
        called = {
            f"{a.name}/{task.id.removeprefix('test-')}": (a.name, task.id)
            for a in self.assignments.values()
            for task in a.tasks
        }
        self.again = called.get(options.task)
        if options.task and not self.again:
            raise SystemExit(f"no task {options.task}; there are {', '.join(called)}")
        files = [*Path(__file__).parent.rglob("*.py"), *confine.PACKAGE.rglob("*.py")]
        self.code = [hashlib.sha256(f.read_bytes()).hexdigest() for f in sorted(files)]

    def collected(self, paths):
        """What one student handed in, as JSON."""
        return [vars(found) for found in collect.collect(paths, self.assignments)]

    def job(self, student, found, record):
        """What is to be graded, or None where the record of an earlier run holds."""
        assignment, options = self.assignments.get(found.assignment), self.options
        content = digest([student, vars(found) | {"time": 0, "quizzes": {}}])
        rules = digest([self.code, assignment and assignment.digest, options.variants])
        same = record.get("content") == content
        whose, only = options.student in (None, student), None
        again = whose and options.student is not None
        if self.again:
            again = whose and found.assignment == self.again[0]
            only = self.again[1] if again and same else None
        if same and not again and record["rules"] == rules:
            record["grade"]["time"] = found.time
            return None
        return Job(student, found, content, rules, only)

    def graded(self, job):
        """Grade one submission, as JSON."""
        assignment = self.assignments.get(job.found.assignment)
        if self.options.variants and assignment:
            assignment = notebooks.for_student(assignment, job.student)
        limits = self.limits.get(job.found.assignment, Limits())
        with contextlib.closing(Session(limits)) as session:
            grade = judge(job.student, assignment, job.found, session, job.only)
        return asdict(grade)

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

    def calibrate(self, wanted, workers):
        """Grade the model solutions of assignments, whose names are wanted."""
        names = [name for name in self.assignments if name in wanted]
        if not names:
            return
        confine.require()
        say(f"Running the model solutions first: {', '.join(names)} ...")
        cells = [c for name in names for c in self.assignments[name].cells]
        setup = "\n".join(cell.source for cell in cells if cell.kind == "setup")
        for module in notebooks.imported(setup):
            # Once here, not in every process: they are copies of this one.
            with contextlib.suppress(ImportError):  # the model solution says so
                importlib.import_module(module)
        for name, found in in_processes({n: n for n in names}, self.measured, workers):
            if lost := found if isinstance(found, str) else found["lost"]:
                raise SystemExit(
                    f"The model solution of {name} does not get all points here, so "
                    f"nothing was graded: {lost}"
                )
            self.limits[name] = Limits(model=found["took"])


def say(text):
    """Tell whoever waits."""
    if os.environ.get("FLATLAB_PROGRESS") != "0":
        print(text, flush=True)


def records(course, students, folder):
    """Grade what is new, and give everyone's records and answers to quizzes.

    Args:
        course: ``Course``.
        students: as ``collect.students`` gives them.
        folder: of the records, each written as soon as it is there.
    """
    workers = course.options.workers or os.cpu_count()
    collected = dict(in_processes(students, course.collected, workers, READING))
    jobs, found, quizzes = {}, {}, []
    for student in students:
        theirs = collected[student]
        if isinstance(theirs, str):
            theirs = [{"looks": [theirs], "readable": False}]
        for one in (collect.Found(**fields) for fields in theirs):
            quizzes.append(one.quizzes)
            path = folder / f"{report.slug(f'{student} {one.assignment}')}.json"
            kept = read(path)
            known = isinstance(kept, dict) and kept.keys() >= {"content", "grade"}
            found[path] = kept if known else {}
            if job := course.job(student, one, found[path]):
                jobs[path] = job
    names = {job.found.assignment for job in jobs.values() if job.found.readable}
    course.calibrate(names, workers)
    for path, grade in in_processes(jobs, course.graded, workers):
        job, record = jobs.pop(path), found[path]
        if isinstance(grade, str):
            of, file = course.assignments.get(job.found.assignment), job.found.file
            whose = job.student, job.found.assignment, file, job.found.time
            record["grade"] = asdict(Grade(*whose, "look", grade, nothing(of)))
        else:
            if job.only:
                old = record["grade"]["outcomes"]
                merged = {o["id"]: o for o in (*old, *grade["outcomes"])}
                grade["outcomes"] = list(merged.values())
            record |= {"content": job.content, "rules": job.rules, "grade": grade}
            write(path, record)
        say(f"{len(jobs)} to go")
    return list(found.values()), quizzes


def grade_all(options):
    """Grade a folder, write its tables and pages, and give the list of grades."""
    output, course = options.output, Course(options)
    # These tables may be wrong: say so before all work.
    report.ByHand(output, course.assignments)
    rules = gradebook.rules(options.submissions, course.assignments)
    students = collect.students(options.submissions)
    if options.student and options.student not in students:
        raise SystemExit(f"{options.submissions} has nothing of {options.student}")
    (output / "records").mkdir(parents=True, exist_ok=True)
    with (output / ".lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise SystemExit(f"another run is grading into {output}") from None
        found, quizzes = records(course, students, output / "records")
        grades = [Grade.of(record["grade"]) for record in found]
        # Somebody may have filled it in meanwhile.
        by_hand = report.ByHand(output, course.assignments)
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
    sys.stdout.reconfigure(errors="backslashreplace")
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
