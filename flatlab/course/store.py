"""Results kept in files: written whole or not at all, resumable unit by unit.

``stored`` keeps one JSON per experiment of a chapter: what takes longer than a chapter
may is run by ``make results`` and read by the chapter, which runs a slice of it again
and compares. ``sweep`` is beneath it: a unit is a dict of JSON values, its result a
function of it, one file each, so that a run killed at any moment goes on from there.
Units run through joblib, on this machine's processors or a Dask cluster; nothing but
the folder of results is shared.
"""

import hashlib
import json
import os
import platform
import shutil
import tempfile
import time
import traceback
import uuid
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from filelock import FileLock, Timeout

from flatlab import __version__
from flatlab.environment import device, scale
from flatlab.progress import progress

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


def stored(chapter, name, function, units, folder=None):
    """Give the results of a long experiment, read from its file or run unit by unit.

    With ``FLATLAB_RESULTS=write``, as ``make results`` sets it, the units are run and
    kept in ``results/<scale>/<chapter>-<name>.json``. Until all are done each has a
    file of its own: a run that was interrupted goes on where it stopped, and what an
    earlier one stored stays. Otherwise the file is read. At the scale ``smoke`` the
    units are run at once where there is no file.

    Args:
        chapter: its name, as in ``book/claims.toml``.
        name: of the experiment, a word or two joined by hyphens.
        function: called as ``function(**unit)``; returns a dict that JSON can hold,
            under other names than the unit's.
        units: list of dicts that JSON can hold, no two of them equal.
        folder: that holds the results of all scales; by default ``results`` beside the
            book.

    Returns:
        A list of dicts ``{**unit, **result}``, in the order of ``units``.

    Raises:
        FileNotFoundError: nothing is stored at this scale.
        ValueError: two units are equal, or the file holds other units than these.
        RuntimeError: units failed while they were run; the others are kept.
    """
    units = json.loads(_text(list(units)))
    if len({key(unit) for unit in units}) < len(units):
        raise ValueError("two of the units are equal: each needs settings of its own")
    folder = book_root() / "results" if folder is None else Path(folder)
    path = folder / scale() / f"{chapter}-{name}.json"
    if os.environ.get("FLATLAB_RESULTS", "").strip() == "write":
        return _run(path, chapter, name, function, units)
    if path.is_file():
        return _read(path, units)
    if scale() == "smoke":
        return [{**unit, **function(**unit)} for unit in progress(units, name)]
    raise FileNotFoundError(
        f"there is no {path}: `FLATLAB_SCALE={scale()} make results` runs it, or set "
        "FLATLAB_RESULTS=write in this notebook's environment"
    )


def key(unit):
    """Name of a unit: the same for the same values, in whichever order they come.

    Args:
        unit: a dict of JSON values.

    Returns:
        64 hexadecimal digits.

    Raises:
        TypeError: if the unit holds something that JSON cannot.
    """
    text = json.dumps(unit, sort_keys=True, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def provenance():
    """Say with what and on what a result is computed.

    Returns:
        A dict with the scale, the versions, the device and the number of threads.
    """
    chosen = device()
    cuda = chosen.type == "cuda"
    return {
        "scale": scale(),
        "versions": {
            "flatlab": __version__,
            "torch": torch.__version__,
            "numpy": np.__version__,
            "python": platform.python_version(),
        },
        "device": torch.cuda.get_device_name(chosen) if cuda else chosen.type,
        "threads": torch.get_num_threads(),
    }


def book_root():
    """Find the folder that holds the book which is being worked on.

    Returns:
        A ``Path``; the registry of claims is ``book/claims.toml`` in it, and what was
        measured lies in its ``results``.

    Raises:
        FileNotFoundError: there is no registry in a clone here or above.
    """
    here = Path.cwd()
    for root in (Path(__file__).parents[2], here, *here.parents):
        if (root / "book" / "claims.toml").is_file():
            return root
    raise FileNotFoundError(
        "the registry book/claims.toml and the folder results belong to the book and "
        "are not part of the installed package: work in a clone of the repository, or "
        "give their path"
    )


def write_json(path, content):
    """Write a file of JSON at once or not at all.

    Args:
        path: of the file; folders that are missing are made.
        content: what JSON can hold, without NaN and infinities.

    Returns:
        The ``Path`` written.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    text = _text(content)
    handle, name = tempfile.mkstemp(dir=path.parent, suffix=".part")
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(text + "\n")
        os.chmod(name, 0o644)  # mkstemp lets nobody else read
        os.replace(name, path)
    except BaseException:
        os.unlink(name)
        raise
    return path


def _run(path, chapter, name, function, units):
    parts = path.with_suffix(".units")
    done = sweep(function, units, parts, jobs=1, retry=True, label=f"{chapter}: {name}")
    if not done.complete:
        raise RuntimeError(f"{chapter}: {name}\n{done.report()}")
    rows = [
        {"unit": unit, "result": {k: row[k] for k in row if k not in unit}}
        for unit, row in zip(units, done.rows, strict=True)
    ]
    about = {"chapter": chapter, "name": name, **provenance()}
    write_json(
        path, {**about, "processor_seconds": round(done.seconds, 1), "rows": rows}
    )
    shutil.rmtree(parts)
    return _read(path, units)


def _read(path, units):
    content = json.loads(path.read_text("utf-8"))
    results = {key(row["unit"]): row["result"] for row in content["rows"]}
    missing = [unit for unit in units if key(unit) not in results]
    if missing or len(results) > len(units):
        raise ValueError(
            f"{path} holds {len(results)} units, not the {len(units)} asked for"
            + (f"; the first that is missing: {missing[0]}" if missing else "")
            + "; `make results` runs them"
        )
    return [{**unit, **results[key(unit)]} for unit in units]


def _text(content):
    return json.dumps(content, indent=1, ensure_ascii=False, allow_nan=False)
