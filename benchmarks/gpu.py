"""All that needs a GPU, in one resumable command: ``python -m benchmarks.gpu``.

It says first what it will do and for about how long. A step that is done is not done
again on the same commit; one that the time is too short for is left to the next call.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from unittest import mock

import torch
from torch.func import functional_call, grad, vmap
from torch.nn import functional as F

from benchmarks.ensembles import BATCH, LR, MOMENTUM, tensor_loop
from benchmarks.harness import timed
from flatlab import training
from flatlab.course.store import provenance, write_json
from flatlab.data import Dataset
from flatlab.models import mlp
from flatlab.network import Network

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "results" / "gpu"
BARS = {"a loop": 50.0, "torch.func.vmap": 2.0}  # ours against them, 4,096 members


@dataclass(frozen=True)
class Step:
    """One thing to do; ``minutes`` is a guess for a card of 2023, never measured."""

    name: str
    says: str
    minutes: float
    command: tuple[str, ...]
    environment: dict[str, str] = field(default_factory=dict)


def steps() -> list[Step]:
    """What is to be done, what others need first."""
    python = sys.executable
    clean = "book/_ext/clean_notebooks.py"
    found = [
        Step("tests", "the public API gives on the card what it gives on the CPU", 1,
             (python, "-m", "pytest", "-q", "tests/test_gpu.py")),
        Step("members", "256 and 4,096 networks: a loop, vmap, ours and its graph", 2,
             (python, "-m", "benchmarks.gpu", "--members")),
        Step("study", "the study's networks, trained and measured", 12,
             (python, "-m", "flatlab.course.study")),
    ]  # fmt: skip
    chapters = sorted(path.stem for path in (ROOT / "book").glob("*.ipynb"))
    # the verdict reads the study
    for chapter in sorted(chapters, key=lambda name: name == "verdict"):
        command = python, clean, "--execute", f"book/{chapter}.ipynb"
        more = {"FLATLAB_RESULTS": "write"}
        found.append(Step(chapter, "the chapter, its verdicts", 0.6, command, more))
    return found


def plan(minutes: float, done: dict) -> str:
    """What a call will do."""
    rest = [step for step in steps() if step.name not in done]
    lines = [f"{'step':24s} {'about':>8s}"]
    for step in rest:
        lines.append(f"{step.name:24s} {step.minutes:4.1f} min  {step.says}")
    total = sum(step.minutes for step in rest)
    lines.append(
        f"{len(rest)} steps, about {total:.0f} minutes; {len(done)} are done. This "
        f"call stops after {minutes:.0f} minutes, and the next one goes on."
    )
    return "\n".join(lines)


def run(minutes: float, path: Path, todo: list[Step]) -> int:
    """Do the steps that are not done, within the time; the exit status."""
    end, failed = time.monotonic() + 60 * minutes, 0
    for step in todo:
        done, left = finished(path), end - time.monotonic()
        if step.name in done:
            continue
        if left <= 0:
            print("The time is up: call it again to go on.")
            return 1
        print(f"{step.name} ...", flush=True)
        began = time.monotonic()
        scale = {"FLATLAB_SCALE": "gpu", "FLATLAB_PROGRESS": "1", **step.environment}
        try:
            status = subprocess.run(
                step.command, cwd=ROOT, env={**os.environ, **scale}, timeout=left
            ).returncode
        except subprocess.TimeoutExpired:
            print(f"{step.name} was stopped: the time is up; call it again to go on.")
            return 1
        if status:
            print(f"{step.name} failed with status {status}; the others go on.")
            failed = 1
            continue
        seconds = round(time.monotonic() - began, 1)
        record = {"seconds": seconds, "provenance": provenance()}
        write_json(path, {**done, step.name: record})
    return failed


def finished(path: Path) -> dict:
    """The steps that were done on this commit."""
    if not path.exists():
        return {}
    done = json.loads(path.read_text("utf-8"))

    def commit(record: dict) -> str:  # a chapter that was run may change its outputs
        return (record["commit"] or "").rstrip("+")

    here = commit(provenance())
    return {n: d for n, d in done.items() if commit(d["provenance"]) == here}


# ------------------------------------------------------------------ the members' table


def members(device: torch.device, sizes=(256, 4096), n=1000, epochs=4) -> dict:
    """Steps of single networks per second, width 64: a loop, vmap, ours.

    Ours plays steps from a CUDA graph; "ours, plain" launches each operation.
    """
    generator = torch.Generator("cpu").manual_seed(0)
    x = torch.randn(n, 64, generator=generator).to(device)
    y = torch.randint(10, (n,), generator=generator).to(device)
    data, module = Dataset.from_arrays(x, y), mlp(64, 64, 64, 10).to(device)
    net, found = Network(module), {}
    steps = epochs * (n // BATCH)
    index = [torch.randperm(n, generator=generator)[:BATCH].to(device)] * steps

    def loop(count: int) -> None:
        tensor_loop(module, x, y, epochs)

    def mapped(count: int) -> None:
        w = net.unflatten(net.weights().expand(count, -1).clone())
        speed = {name: torch.zeros_like(p) for name, p in w.items()}

        def value(p, x, y):
            return F.cross_entropy(functional_call(module, p, (x,)), y)

        slopes = vmap(grad(value), in_dims=(0, None, None))
        for i in index:
            for name, slope in slopes(w, x[i], y[i]).items():
                speed[name].mul_(MOMENTUM).add_(slope)
                w[name].sub_(speed[name], alpha=LR)

    def ours(count: int) -> None:
        how = {"batch_size": BATCH, "lr": LR, "momentum": MOMENTUM, "record": None}
        how |= {"epochs": epochs, "device": device}
        training.train(net, data, seeds=range(count), **how)

    def eager(count: int) -> None:
        with mock.patch.object(training, "Replay", lambda: _plainly):
            ours(count)

    ways = {"a loop": loop, "torch.func.vmap": mapped, "ours, plain": eager}
    for count in sizes:
        for name, work in (ways | {"ours": ours}).items():
            alone = 1 if name == "a loop" else count  # the time of one says it all
            seconds = min(timed(device, partial(work, alone)) for _ in range(4))
            found[f"{name}, {count} members"] = alone * steps / seconds
    return found


def _plainly(function, *inputs):
    """What a ``Replay`` does without a graph."""
    return function(*inputs)


def main() -> int:
    """The command."""
    parser = argparse.ArgumentParser("python -m benchmarks.gpu", description=__doc__)
    parser.add_argument("--minutes", type=float, default=25.0, help="stop after")
    parser.add_argument("--dry-run", action="store_true", help="only say what")
    parser.add_argument("--members", action="store_true", help="that table alone")
    chosen = parser.parse_args()
    path = RESULTS / "steps.json"
    if chosen.members:
        speeds = members(torch.device("cuda"))
        most = {name: speeds["ours, 4096 members"] / speeds[f"{name}, 4096 members"]
                for name in BARS}  # fmt: skip
        write_json(
            RESULTS / "members.json",
            {"steps per second": speeds, "ours against": most, "bars": BARS}
            | {"provenance": provenance()},
        )
        for name, ratio in most.items():
            print(f"{ratio:.1f} times {name}, bar {BARS[name]:g}")
        return 0
    print(plan(chosen.minutes, finished(path)))
    if chosen.dry_run:
        return 0
    if not torch.cuda.is_available():
        print("There is no GPU here.")
        return 2
    return run(chosen.minutes, path, steps())


if __name__ == "__main__":
    sys.exit(main())
