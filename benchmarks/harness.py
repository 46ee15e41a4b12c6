"""Ratios of times, measured side by side in one process."""

import json
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch.profiler import ProfilerActivity, profile


@dataclass(frozen=True)
class Settings:
    """How to measure: where, how long, and against whom."""

    device: torch.device
    quick: bool = False
    peers: bool = True

    def rounds(self, seconds: float) -> int:
        """How many rounds of so many seconds: more of short ones, always odd."""
        return 3 if self.quick else min(51, max(7, round(8 / seconds) | 1))

    @property
    def seconds(self) -> float:
        """Time that one competitor gets in one round, at least."""
        return 0.001 if self.quick else 0.03

    def size(self, full: int, quick: int) -> int:
        return quick if self.quick else full


@dataclass(frozen=True)
class Line:
    """One comparison.

    ``value`` is the median over rounds of ``quantity``, ``low`` and ``high`` are its
    quartiles. ``memory`` is what one call holds at most beside what was there before,
    ours and theirs, in MiB. ``bar`` is what the project asks: at least so much or, for
    a cost (``at_most``), at most; None where nothing is asked.
    """

    topic: str
    what: str
    against: str
    value: float
    low: float
    high: float
    bar: float | None = None
    at_most: bool = False
    quantity: str = "times as fast"
    note: str = ""
    memory: tuple[float, float] | None = None

    @property
    def met(self) -> bool | None:
        if self.bar is None:
            return None
        return self.value <= self.bar if self.at_most else self.value >= self.bar

    def record(self) -> dict:
        return {**asdict(self), "met": self.met}


def timed(
    device: torch.device, function: Callable[[], object], calls: int = 1
) -> float:
    """Seconds per call, what the device still has to do included."""

    def clock() -> float:
        if device.type == "cuda":
            torch.cuda.synchronize()
        elif device.type == "mps":
            torch.mps.synchronize()
        return time.perf_counter()

    began = clock()
    for _ in range(calls):
        function()
    return (clock() - began) / calls


def interleaved(
    settings: Settings, competitors: dict[str, Callable[[], object]]
) -> dict[str, list[float]]:
    """Seconds per call of every competitor, one entry per round.

    In each round all of them run, one after another, so that whatever else the machine
    does at the time falls on all alike.
    """

    calls, whole = {}, 0.0
    for name, function in competitors.items():
        function()  # warm up: graphs, caches, threads
        once = max(timed(settings.device, function), 1e-6)
        calls[name] = max(1, min(200, round(settings.seconds / once)))
        whole += calls[name] * once
    times: dict[str, list[float]] = {name: [] for name in competitors}
    names = list(competitors)
    for turn in range(settings.rounds(whole)):
        # nobody always runs after the same one
        for name in names[turn % len(names) :] + names[: turn % len(names)]:
            spent = timed(settings.device, competitors[name], calls[name])
            times[name].append(spent)
    return times


def peak_memory(settings: Settings, function: Callable[[], object]) -> float:
    """MiB of tensors that a call holds at most beside what was there before."""
    cuda = settings.device.type == "cuda"
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if cuda else [])]
    with profile(activities=activities, profile_memory=True) as recorded:
        function()
    with tempfile.TemporaryDirectory() as folder:
        trace = Path(folder) / "trace.json"
        recorded.export_chrome_trace(str(trace))
        events = json.loads(trace.read_text())["traceEvents"]
    held = top = 0
    for event in sorted(
        (e for e in events if e["name"] == "[memory]"), key=lambda e: e["ts"]
    ):
        if event["args"]["Device Type"] == int(cuda):
            held += event["args"]["Bytes"]
            top = max(top, held)
    return top / 2**20


def memories(
    settings: Settings, competitors: dict[str, Callable[[], object]]
) -> dict[str, float]:
    """Peak memory of one call of every competitor, after a first that fills caches."""
    for function in competitors.values():
        function()
    return {name: peak_memory(settings, f) for name, f in competitors.items()}


def spread(values: list[float]) -> dict[str, float]:
    """Median and quartiles."""
    if len(values) < 2:
        return {"value": values[0], "low": values[0], "high": values[0]}
    low, _, high = statistics.quantiles(values, n=4, method="inclusive")
    return {"value": statistics.median(values), "low": low, "high": high}


def ratios(above: list[float], below: list[float], factor: float = 1.0) -> list[float]:
    """Round by round, factor x above / below."""
    return [factor * a / b for a, b in zip(above, below, strict=True)]


def best(times: dict[str, list[float]], names: list[str]) -> str:
    """The fastest of some competitors by the median."""
    return min(names, key=lambda name: statistics.median(times[name]))
