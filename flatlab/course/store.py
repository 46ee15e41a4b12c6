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
import subprocess
import tempfile
import time
import traceback
import uuid
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import torch

from flatlab import __version__
from flatlab.environment import device, needs, scale
from flatlab.progress import progress

# Workers that a unit may lose before it is given up. Below Dask's own limit
# (``allowed-failures``, 3): joblib waits for ever on a task that Dask has given up.
MOST_DEATHS = 3


class Rows(list):
    """Rows of results: dicts of settings and of what was measured with them."""

    def where(self, **settings) -> "Rows":
        """The rows with these settings."""
        return Rows(r for r in self if all(r[k] == v for k, v in settings.items()))

    def pick(self, **settings) -> dict:
        """The one row with these settings, as ``rows.pick(rho=0.1, batch=32)``."""
        found = self.where(**settings)
        if len(found) != 1:
            have = {k: list(dict.fromkeys(str(r[k]) for r in self)) for k in settings}
            raise ValueError(
                f"{len(found)} rows have {settings}, expected one (`where` gives "
                f"several); the rows have {have}"
            )
        return found[0]

    def column(self, name: str) -> torch.Tensor:
        """One result of all rows, (rows, ...)."""
        return torch.stack([torch.as_tensor(np.asarray(row[name])) for row in self])


@dataclass(frozen=True)
class Sweep:
    """What a call of ``sweep`` came to."""

    rows: Rows  # {**unit, **result} of every finished unit, in the units' order
    failed: dict[str, tuple[dict, str]]  # by key: the unit, and what went wrong
    missing: list[dict]  # units that another process was still working on
    computed: int  # units finished since the call began, by whichever process
    seconds: float  # of processor time spent on all finished units

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
        if n := len(self.missing):
            lines.append(f"{n} have no row yet: not begun, or with another process")
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
    computed, and the lock dies with its owner. A unit that raises is reported and the
    others go on; a worker that dies ends the call, and the next one goes on from there.

    Units run in this process unless ``jobs`` asks for more, as joblib's ``n_jobs``. For
    Dask put ``with joblib.parallel_config("dask"):`` around the call.

    Args:
        function: of a unit's values, as keywords, to a dict under other names of JSON
            values, tensors and arrays; importable by the workers, if there are any.
        units: dicts of JSON values. A hand-set ``version`` among them is how a changed
            function asks for fresh rows.
        store: folder for the rows, made if it is not there.
        jobs: processes: -1 is one per processor, None all that a backend has.
        retry: whether units that failed before are tried again.
        label: shown beside the progress.
    """
    joblib = needs("joblib", "study")
    paths = _paths(units := list(units), store)
    Path(store).mkdir(parents=True, exist_ok=True)
    if retry:
        for path in paths:
            _failure(path).unlink(missing_ok=True)
    before, run = sum(path.exists() for path in paths), uuid.uuid4().hex
    waiting = [(u, p) for u, p in zip(units, paths, strict=True) if not _finished(p)]
    streams = joblib.parallel.get_active_backend()[0].supports_return_generator
    how = "generator_unordered" if streams else "list"
    parallel = joblib.Parallel(n_jobs=jobs, batch_size=1, return_as=how)
    with progress(len(waiting), label) as bar:
        for _ in parallel(joblib.delayed(_compute)(function, *w, run) for w in waiting):
            bar.update(1)
    return _gather(paths, units, before)


def collect(units: Iterable[dict], store: str | os.PathLike) -> Sweep:
    """What a store holds of these units, without computing anything."""
    paths = _paths(units := list(units), store)
    return _gather(paths, units, sum(path.exists() for path in paths))


def _paths(units: list[dict], store) -> list[Path]:
    paths = [Path(store) / f"{key(unit)}.json" for unit in units]
    if twice := len(paths) - len(set(paths)):
        raise ValueError(
            f"{twice} of {len(paths)} units occur twice: each needs settings of its own"
        )
    return paths


def _gather(paths: list[Path], units: list[dict], before: int) -> Sweep:
    rows, failed, missing, seconds = Rows(), {}, [], 0.0
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


def _compute(function: Callable[..., dict], unit: dict, path: Path, run: str) -> None:
    """Compute one unit, unless it is done or another process has it."""
    filelock = needs("filelock", "study")
    lock = filelock.FileLock(path.with_suffix(".lock"))
    begun = path.with_suffix(".begun")
    try:
        lock.acquire(timeout=0)
    except filelock.Timeout:
        return
    try:
        if _finished(path):
            return
        with open(begun, "a", encoding="utf-8") as file:
            file.write(f"{run}\n")
        started = time.process_time()
        try:
            if begun.read_text("utf-8").count(run) > MOST_DEATHS:
                raise RuntimeError(f"it killed its worker {MOST_DEATHS} times")
            result = function(**unit)
            if both := sorted(unit.keys() & result.keys()):
                raise ValueError(f"unit and result both have {both}: rename one")
            seconds = round(time.process_time() - started, 3)
            write_json(path, {"unit": unit, "result": result, "seconds": seconds})
        except (Exception, SystemExit) as problem:
            error = f"{type(problem).__name__}: {problem}\n{traceback.format_exc()}"
            write_json(_failure(path), {"unit": unit, "error": error})
        begun.unlink()
    finally:
        lock.release()
        if _finished(path):  # else a lock taken meanwhile would be on no file
            Path(lock.lock_file).unlink(missing_ok=True)


def _failure(path: Path) -> Path:
    return path.with_suffix(".failed.json")


def _finished(path: Path) -> bool:
    return path.exists() or _failure(path).exists()


def stored(chapter, name, function, units, folder=None) -> Rows:
    """Give the results of a long experiment, read from its file or run unit by unit.

    With ``FLATLAB_RESULTS=write``, as ``make results`` sets it, the units are run and
    kept in ``results/<scale>/<chapter>-<name>.json``, and a run that was interrupted
    goes on where it stopped. Otherwise the file is read. At the scale ``smoke`` the
    units are run at once where there is no file.

    Args:
        chapter: its name, as in ``book/claims.toml``.
        name: of the experiment, a word or two joined by hyphens.
        function: called as ``function(**unit)``; returns a dict, under other names than
            the unit's, of tensors, arrays and what JSON can hold.
        units: dicts that JSON can hold, no two of them equal.
        folder: of the results of all scales; by default ``results`` beside the book.

    Returns:
        ``Rows``: a list of dicts ``{**unit, **result}``, in the order of ``units``.
        Results that are numbers in a tensor, an array or lists come as tensors on the
        CPU, of float64 or of whole numbers.
    """
    units = json.loads(json.dumps(list(units), allow_nan=False))
    root = book_root() / "results" if folder is None else Path(folder)
    path = root / scale() / f"{chapter}-{name}.json"
    _paths(units, path)
    if os.environ.get("FLATLAB_RESULTS", "").strip() == "write":
        _run(path, chapter, name, function, units)
    if path.is_file():
        return _read(path, units)
    if scale() == "smoke":
        found = [_dumps(function(**unit)) for unit in progress(units, name)]
        return _rows(units, map(json.loads, found))
    raise FileNotFoundError(
        f"there is no {path}: `FLATLAB_SCALE={scale()} make results` runs it, or set "
        "FLATLAB_RESULTS=write in this notebook's environment"
    )


def _run(path: Path, chapter: str, name: str, function, units: list[dict]) -> None:
    """Run what is missing, unless another process has done so while this one waited."""
    before = _written(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with needs("filelock", "study").FileLock(path.with_suffix(".lock")) as lock:
        try:
            if _written(path) == before:
                _write(path, chapter, name, function, units)
        finally:
            Path(lock.lock_file).unlink(missing_ok=True)


def _written(path: Path) -> int | None:
    return path.stat().st_mtime_ns if path.is_file() else None


def _write(path: Path, chapter: str, name: str, function, units: list[dict]) -> None:
    parts = path.with_suffix(".units")
    done = sweep(function, units, parts, jobs=1, retry=True, label=f"{chapter}: {name}")
    if not done.complete:
        raise RuntimeError(f"{chapter}: {name}\n{done.report()}")
    about = {"chapter": chapter, "name": name, **provenance()}
    about["processor_seconds"] = round(done.seconds, 1)
    rows = [
        {"unit": unit, "result": {k: v for k, v in row.items() if k not in unit}}
        for unit, row in zip(units, done.rows, strict=True)
    ]
    lines = ",\n".join(map(_dumps, rows))  # a line for each row
    write_text(path, f'{_dumps(about)[:-1]},\n"rows": [\n{lines}\n]}}')
    shutil.rmtree(parts)


def _read(path: Path, units: list[dict]) -> Rows:
    content = json.loads(path.read_text("utf-8"))
    results = {key(row["unit"]): row["result"] for row in content["rows"]}
    missing = [unit for unit in units if key(unit) not in results]
    if missing or len(results) > len(units):
        raise ValueError(
            f"{path} holds {len(results)} units, not the {len(units)} asked for"
            + (f"; the first that is missing: {missing[0]}" if missing else "")
            + "; `make results` runs them"
        )
    return _rows(units, [results[key(unit)] for unit in units])


def _rows(units: list[dict], results: Iterable[dict]) -> Rows:
    return Rows(
        {**unit, **{k: _tensor(v) for k, v in result.items()}}
        for unit, result in zip(units, results, strict=True)
    )


def _plain(value):
    """The numbers of a tensor or an array, as JSON has them: None stands for NaN."""
    if isinstance(value, torch.Tensor):
        value = value.detach().cpu().numpy()
    if not isinstance(value, np.ndarray | np.generic):
        raise TypeError(f"JSON holds no {type(value).__name__}: {value}")
    array = np.asarray(value)
    if array.dtype.kind != "f":
        return array.tolist()
    # float32 has fewer digits than Python writes; as text it has its own
    numbers = array.astype(str).astype(np.float64).astype(object)
    numbers[np.isnan(array)] = None
    return numbers.tolist()


def _tensor(value):
    """Lists of numbers as a tensor, and all else as it is."""
    if isinstance(value, dict):
        return {k: _tensor(v) for k, v in value.items()}
    if not isinstance(value, list):
        return value
    try:
        array = np.array(value)
        array = array.astype(float) if array.dtype == object else array
    except (TypeError, ValueError):  # lists of unequal length, or not of numbers
        return value
    return torch.from_numpy(array) if array.dtype.kind in "fib" else value


def key(unit: dict) -> str:
    """Name of a unit: the same for the same values, in whichever order they come."""
    text = json.dumps(unit, sort_keys=True, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def provenance() -> dict:
    """Say when, with what and on what a result is computed: all of it JSON values."""
    chosen = device()
    cuda = chosen.type == "cuda"
    return {
        "scale": scale(),
        "date": datetime.now(UTC).date().isoformat(),
        "commit": _commit(),
        "versions": {
            "flatlab": __version__,
            "torch": torch.__version__,
            "numpy": np.__version__,
            "python": platform.python_version(),
        },
        "device": torch.cuda.get_device_name(chosen) if cuda else chosen.type,
        "threads": torch.get_num_threads(),
    }


def _commit() -> str | None:
    """The commit that is checked out, with ``+`` if code or book differ from it."""
    try:
        call = {"cwd": book_root(), "capture_output": True, "text": True}
        name = subprocess.run(["git", "rev-parse", "--short=12", "HEAD"], **call)
        changed = ["git", "diff", "--quiet", "HEAD", "--", "flatlab", "book"]
        dirty = subprocess.run(changed, **call).returncode
    except OSError:
        return None  # no book, or no git
    return None if name.returncode else name.stdout.strip() + "+" * bool(dirty)


def book_root() -> Path:
    """Find the folder that holds the book which is being worked on.

    The registry of claims is ``book/claims.toml`` in it, and what was measured lies in
    its ``results``.
    """
    here = Path.cwd()
    # flatlab-book is where a notebook's first cell puts a clone, as on Colab
    for root in (Path(__file__).parents[2], here, *here.parents, here / "flatlab-book"):
        if (root / "book" / "claims.toml").is_file():
            return root
    raise FileNotFoundError(
        "the registry book/claims.toml and the folder results belong to the book and "
        "are not part of the installed package: work in a clone of the repository, or "
        "give their path"
    )


def write_json(path: str | os.PathLike, content) -> Path:
    """Write a file of JSON at once or not at all, and return its path."""
    return write_text(path, _dumps(content, indent=1))


def write_text(path: str | os.PathLike, text: str) -> Path:
    """Write a file at once or not at all; folders that are missing are made."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
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


def _dumps(content, indent: int | None = None) -> str:
    return json.dumps(
        content, indent=indent, default=_plain, ensure_ascii=False, allow_nan=False
    )
