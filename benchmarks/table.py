"""The table of the results: what was measured, where, and against which bar."""

import json
import os
import platform
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path

import torch

from benchmarks.environment import PEERS, ROOT
from benchmarks.harness import Line, Settings

RESULTS = ROOT / "benchmarks" / "results"
PAGE = ROOT / "book" / "api" / "benchmarks.md"

INTRODUCTION = """\
# Benchmarks

What `flatlab` costs beside its peers and beside plain PyTorch, as measured by
`make bench`. The competitors run in turn in one process, in several rounds, so that
whatever else the machine does falls on all alike; a figure is the median over rounds of
the ratio, with its quartiles. Where a result has an accuracy, the competitors get the
loosest tolerance at which their true error is as small as ours is asked to be. Memory
is what a call holds at most in tensors beside what was there before, ours and theirs.
The last columns hold what the project asks of itself, and whether it was met. This page
is written by the benchmark.

Where a peer is ahead, and why:

- *Five eigenvalues, hessian-eigenthings.* Its Lanczos does nothing beside the products
  and says nothing of eigenvalues that it missed; here it is seen on the way whether the
  products are enough, and the answer comes with errors and a certificate. By default it
  stops after ten steps, with the error that stands in the line.
- *Memory beside a `DataLoader` of 100.* A peer holds the graph of one batch and builds
  it anew in every product; here the graphs of all examples are kept up to 2 GiB, which
  is what makes products fast. `fl.Loss(..., chunk=100)` with `fl.Hessian(...,
  retain=False)` holds as little. Beside plain PyTorch: a product needs the graph of the
  gradient, too.
- *Memory of the exact trace.* Probes need one vector; the exact diagonal needs the
  gradients of all outputs.
- *SAM's step on a ResNet.* Both are two gradients and little else.
- *A product in gradients' time.* The line on plain PyTorch says what a product and a
  gradient come to in multiplications alone; an exact product cannot go far below that.
"""


def machine(settings: Settings) -> dict:
    """Where and with what the measurement is made, and how busy the machine is."""
    versions = {"python": platform.python_version()}
    for name in ("flatlab", "torch", "numpy", *(PEERS if settings.peers else ())):
        distribution = "curvlinops-for-pytorch" if name == "curvlinops" else name
        versions[name] = metadata.version(distribution)
    facts = {
        "processor": processor(),
        "processors": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "load": round(os.getloadavg()[0], 1) if hasattr(os, "getloadavg") else None,
        "system": platform.system(),
        "versions": versions,
        "date": datetime.now(UTC).strftime("%Y-%m-%d"),
    }
    if settings.device.type == "cuda":
        facts["gpu"] = torch.cuda.get_device_name(settings.device)
    return facts


def processor() -> str:
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def figure(value: float) -> str:
    """A ratio in three digits."""
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}"


def rows(lines: list[dict]) -> list[str]:
    """The rows of a Markdown table."""
    out = [
        "| measured | against | ratio (quartiles) | memory, MiB | asked | |",
        "|---|---|---|---|---|---|",
    ]
    topic = None
    for line in lines:
        if line["topic"] != topic:
            topic = line["topic"]
            out.append(f"| **{topic}** | | | | | |")
        low, high = figure(line["low"]), figure(line["high"])
        value = f"{figure(line['value'])} {line['quantity']} ({low} to {high})"
        note = f"; {line['note']}" if line["note"] else ""
        sign = "≤" if line["at_most"] else "≥"
        asked = "" if line["bar"] is None else f"{sign} {line['bar']:g}"
        memory = " / ".join(figure(m) for m in line.get("memory") or ())
        verdict = {True: "met", False: "**missed**", None: ""}[line["met"]]
        out.append(
            f"| {line['what']} | {line['against']} | {value}{note} | {memory} "
            f"| {asked} | {verdict} |"
        )
    return out


def section(name: str, result: dict) -> str:
    """Heading, machine and table of one device."""
    facts = result["machine"]
    threads = f"{facts['threads']} thread{'s' if facts['threads'] > 1 else ''}"
    versions = ", ".join(f"{n} {v}" for n, v in facts["versions"].items())
    busy = (
        f", load average {facts['load']} at the start"
        if facts["load"] is not None
        else ""
    )
    gpu = f"{facts['gpu']}; " if "gpu" in facts else ""
    return "\n".join(
        [
            f"## {'GPU' if name == 'cuda' else name.upper()}",
            "",
            f"{gpu}{facts['processor']}, {facts['processors']} processors, {threads}, "
            f"{facts['system']}{busy}; {versions}; {facts['date']}.",
            "",
            *rows(result["lines"]),
            "",
        ]
    )


def page(results: dict[str, dict]) -> str:
    """The page of the book.

    Takes the results by name of the device, as the JSON files hold them.
    """
    parts = [section(name, results[name]) for name in sorted(results)]
    return "\n".join([INTRODUCTION, *parts])


def merged(old: dict, new: dict) -> dict:
    """New results, with the old lines of the topics that were not measured again.

    Raises ``ValueError`` if these are of another machine or other versions.
    """
    fresh = {line["topic"] for line in new["lines"]}
    kept = [line for line in old["lines"] if line["topic"] not in fresh]
    if not kept:
        return new
    before_all, now_all = old["machine"]["versions"], new["machine"]["versions"]
    for name in ("processor", "processors", "gpu", "threads", "versions"):
        before, now = old["machine"].get(name), new["machine"].get(name)
        if name == "versions":  # a peer may have joined or left
            before, now = (
                {n: v for n, v in versions.items() if n in before_all.keys() & now_all}
                for versions in (before_all, now_all)
            )
        if before != now:
            raise ValueError(
                f"the stored results were measured with {name} = {before}, these with "
                f"{now}: measure all topics"
            )
    order = list(dict.fromkeys(line["topic"] for line in old["lines"] + new["lines"]))
    loads = [r["machine"]["load"] for r in (old, new) if r["machine"]["load"]]
    return {
        "machine": {
            **new["machine"],
            "load": max(loads, default=None),
            "versions": before_all | now_all,
        },
        "lines": sorted(kept + new["lines"], key=lambda l: order.index(l["topic"])),
    }


def write(
    settings: Settings,
    facts: dict,
    lines: list[Line],
    results: Path = RESULTS,
    to: Path = PAGE,
) -> None:
    """Write the JSON of this device, and the page from the JSON of all devices.

    Topics that were not measured this time keep the lines of the last.
    """
    results.mkdir(parents=True, exist_ok=True)
    path = results / f"{settings.device.type}.json"
    result = {"machine": facts, "lines": [line.record() for line in lines]}
    if path.exists():
        result = merged(json.loads(path.read_text(encoding="utf-8")), result)
    path.write_text(
        json.dumps(result, indent=1, ensure_ascii=False) + "\n", encoding="utf-8"
    )
    write_page(results, to)


def write_page(results: Path = RESULTS, to: Path = PAGE) -> None:
    """Write the page from the JSON files."""
    found = {
        path.stem: json.loads(path.read_text(encoding="utf-8"))
        for path in results.glob("*.json")
    }
    to.parent.mkdir(parents=True, exist_ok=True)
    to.write_text(page(found), encoding="utf-8")
