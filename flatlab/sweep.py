"""Many units of work, one file each: killed at any moment, it goes on from there.

A unit is a dict of JSON values, and its result is a function of it. Units run through
joblib, so that the same call uses this machine's processors, a Dask cluster or Ray.
Nothing but the folder of results is shared: a unit is done when its file is there.
"""

import json
import os
import time
import traceback
import uuid
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock, Timeout

from flatlab.progress import progress
from flatlab.results import key, write_json

# Workers that one unit may lose before it is given up. Below Dask's own limit
# (``allowed-failures``, 3): joblib waits for ever on a task that Dask has given up.
MOST_DEATHS = 3


@dataclass(frozen=True)
class Sweep:
    """What a call of ``sweep`` came to.

    Attributes:
        rows: one dict per finished unit, ``{**unit, **result}``, in the order of the
            units.
        failed: key of every unit that failed, with its unit and what went wrong.
        missing: units that another process was still working on.
        computed: number of units that were finished since the call began, by it or by
            another process on the same store.
        seconds: of processor time spent on all finished units, as far as it was
            measured, by whichever process.
    """

    rows: list[dict]
    failed: dict[str, tuple[dict, str]]
    missing: list[dict]
    computed: int
    seconds: float

    @property
    def complete(self) -> bool:
        """Whether every unit has its row."""
        return not self.failed and not self.missing

    def report(self) -> str:
        """Say in a few lines how it went, with the first line of every failure."""
        lines = [
            f"{len(self.rows)} units are done, {self.computed} of them since this "
            f"began; {self.seconds:.0f} s of processor time in all"
        ]
        if self.missing:
            lines.append(
                f"{len(self.missing)} have no row yet: not begun, or with another "
                "process"
            )
        for name, (unit, error) in self.failed.items():
            why = error.splitlines()[0]
            lines.append(f"failed {name[:8]} {json.dumps(unit)}: {why}")
        return "\n".join(lines)


def sweep(
    function: Callable[..., dict],
    units: Iterable[dict],
    store: str | os.PathLike,
    *,
    jobs: int | None = None,
    retry: bool = False,
    label: str = "units",
) -> Sweep:
    """Compute what is missing of many units, and return all rows.

    A row is written whole or not at all, so that a run that was killed loses what it
    had not finished and nothing else. Several processes, also on several machines with
    one file system, may sweep over the same store: each unit is locked while it is
    computed, and the lock dies with its owner.

    A unit that raises is reported and the others go on. One that kills its worker is
    tried again alone, so that no neighbour is blamed, and given up after that.

    Units run in this process unless ``jobs`` asks for more. For Dask, Ray or another
    backend of joblib, put ``with joblib.parallel_config(backend):`` around the call.

    Args:
        function: of the values of a unit, as keywords, to a dict of JSON values under
            other names. It must depend on its arguments alone, and be importable by the
            workers, if there are any.
        units: dicts of JSON values. A hand-set ``version`` among them is how a changed
            function asks for fresh rows.
        store: folder for the rows, made if it is not there.
        jobs: processes, as joblib's ``n_jobs``: -1 is one per processor, and None all
            that a configured backend has.
        retry: whether units that failed before are tried again.
        label: shown beside the progress.

    Returns:
        A ``Sweep``.

    Raises:
        ValueError: if two units are the same.
        Exception: what the backend raises if it fails before any unit has begun.
    """
    store = Path(store)
    store.mkdir(parents=True, exist_ok=True)
    units = list(units)
    paths = [store / f"{key(unit)}.json" for unit in units]
    if len(set(paths)) < len(paths):
        raise ValueError(
            f"{len(paths) - len(set(paths))} of {len(paths)} units occur twice"
        )
    if retry:
        for path in paths:
            _failure(path).unlink(missing_ok=True)
    before = sum(path.exists() for path in paths)
    _Sweeper(function, jobs, label).run(dict(zip(paths, units, strict=True)))
    return _gather(paths, units, before)


def collect(units: Iterable[dict], store: str | os.PathLike) -> Sweep:
    """What a store holds of these units, without computing anything.

    Args:
        units: dicts of JSON values.
        store: folder of the rows.

    Returns:
        A ``Sweep`` whose ``missing`` are all units that are not there.
    """
    units = list(units)
    paths = [Path(store) / f"{key(unit)}.json" for unit in units]
    return _gather(paths, units, sum(path.exists() for path in paths))


def _gather(paths: Sequence[Path], units: Sequence[dict], before: int) -> Sweep:
    rows, failed, missing, seconds = [], {}, [], 0.0
    for path, unit in zip(paths, units, strict=True):
        if path.exists():
            entry = json.loads(path.read_text(encoding="utf-8"))
            rows.append({**unit, **entry["result"]})
            seconds += entry["seconds"]
        elif _failure(path).exists():
            entry = json.loads(_failure(path).read_text(encoding="utf-8"))
            failed[path.stem] = (unit, entry["error"])
        else:
            missing.append(unit)
    return Sweep(rows, failed, missing, len(rows) - before, seconds)


class _Sweeper:
    """One call of ``sweep``: what it hands to joblib, and what it does if that dies."""

    def __init__(self, function, jobs, label):
        self.function, self.jobs, self.label = function, jobs, label
        self.name = uuid.uuid4().hex  # of this run, in the notes of begun units

    def run(self, units: dict[Path, dict]) -> None:
        """Compute the units that have neither a row nor a failure."""
        waiting = [p for p in units if not _finished(p)]
        suspects: list[Path] = []
        with progress(len(waiting), self.label) as bar:
            while waiting:
                try:
                    self._in_parallel(units, waiting, bar, self.jobs)
                    break
                except Exception:
                    # Units report their own failures, so this is the backend's: a
                    # worker died. One of the units then running is to blame.
                    running = [p for p in waiting if self._began(p)]
                    left = [p for p in waiting if p not in running and not _finished(p)]
                    if len(left) == len(waiting):
                        raise
                    suspects += [p for p in running if not _finished(p)]
                    waiting = left
            for path in suspects:
                try:
                    # two jobs, so that it does not run in this process
                    self._in_parallel(units, [path], bar, 2)
                except Exception as error:
                    why = f"it killed its worker, twice: {type(error).__name__}"
                    write_json(_failure(path), {"unit": units[path], "error": why})

    def _in_parallel(self, units, paths, bar, jobs) -> None:
        from joblib import Parallel, delayed
        from joblib.parallel import get_active_backend

        streams = get_active_backend()[0].supports_return_generator
        parallel = Parallel(
            n_jobs=jobs,
            batch_size=1,
            return_as="generator_unordered" if streams else "list",
        )
        tasks = (
            delayed(_compute)(self.function, units[p], p, self.name) for p in paths
        )
        for _ in parallel(tasks):
            bar.update(1)

    def _began(self, path: Path) -> bool:
        note = _note(path)
        return note.exists() and self.name in note.read_text(encoding="utf-8")


def _compute(function, unit: dict, path: Path, run: str) -> None:
    """Compute one unit, unless it is done or another process has it."""
    lock = FileLock(path.with_suffix(".lock"))
    try:
        lock.acquire(timeout=0)
    except Timeout:
        return
    try:
        if _finished(path):
            return
        note = _note(path)
        with open(note, "a", encoding="utf-8") as file:
            file.write(f"{run}\n")
        if note.read_text(encoding="utf-8").count(run) > MOST_DEATHS:
            error = f"it killed its worker {MOST_DEATHS} times"
            write_json(_failure(path), {"unit": unit, "error": error})
            return
        started = time.process_time()
        try:
            entry = {"unit": unit, "result": function(**unit)}
            if both := sorted(unit.keys() & entry["result"].keys()):
                raise ValueError(
                    f"the unit and its result both have {both}: rename one"
                )
            entry["seconds"] = round(time.process_time() - started, 3)
            write_json(path, entry)
        except (Exception, SystemExit) as problem:
            error = f"{type(problem).__name__}: {problem}\n{traceback.format_exc()}"
            write_json(_failure(path), {"unit": unit, "error": error})
        note.unlink()
    finally:
        lock.release()
        if _finished(path):  # else a lock taken meanwhile would be on no file
            Path(lock.lock_file).unlink(missing_ok=True)


def _failure(path: Path) -> Path:
    return path.with_suffix(".failed.json")


def _note(path: Path) -> Path:
    """Where the runs are noted that began a unit, once per begin."""
    return path.with_suffix(".begun")


def _finished(path: Path) -> bool:
    return path.exists() or _failure(path).exists()
