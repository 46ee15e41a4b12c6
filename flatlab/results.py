"""Results kept in files: written whole or not at all, with where they come from.

What takes longer than a chapter may is run by ``make results`` and read by the chapter,
which runs a slice of it again and compares.
"""

import hashlib
import json
import os
import platform
import shutil
import tempfile
from pathlib import Path

import numpy as np
import torch

from flatlab.environment import device, scale
from flatlab.progress import progress


def stored(chapter, name, function, units, folder=None):
    """Give the results of a long experiment, read from its file or run unit by unit.

    With ``FLATLAB_RESULTS=write``, as ``make results`` sets it, the units are run and
    kept in ``results/<scale>/<chapter>-<name>.json``. Until all are done each has a
    file of its own (``flatlab.sweep``): a run that was interrupted goes on where it
    stopped, and what an earlier one stored stays. Otherwise the file is read. At the
    scale ``smoke`` the units are run at once where there is no file.

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
    from flatlab import __version__

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
    for root in (Path(__file__).parents[1], here, *here.parents):
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
    from flatlab.sweep import sweep

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
