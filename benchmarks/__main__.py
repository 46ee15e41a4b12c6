"""Measure everything: ``python -m benchmarks``."""

import argparse
import subprocess
import sys
import time
import warnings

import torch

from benchmarks import (
    attacks,
    ensembles,
    environment,
    hvp,
    information,
    landscape,
    members,
    report,
    sam,
    spectra,
    table,
)
from benchmarks.harness import Settings
from flatlab.environment import device

TOPICS = {
    "ensembles": ensembles,
    "hvp": hvp,
    "spectra": spectra,
    "sam": sam,
    "landscape": landscape,
    "members": members,
    "attacks": attacks,
    "report": report,
    "information": information,
}


def main() -> int:
    parser = argparse.ArgumentParser(
        "python -m benchmarks",
        description="Time flatlab against its peers. The device is the one that "
        "FLATLAB_DEVICE names, or the fastest there is.",
    )
    parser.add_argument("topics", nargs="*", help=f"some of: {', '.join(TOPICS)}")
    parser.add_argument("--quick", action="store_true", help="only see that it runs")
    parser.add_argument(
        "--no-peers", action="store_true", help="plain PyTorch only, install nothing"
    )
    parser.add_argument("--threads", type=int, help="threads of PyTorch")
    chosen = parser.parse_args()
    unknown = set(chosen.topics) - set(TOPICS)
    if unknown:
        parser.error(f"unknown topics: {', '.join(sorted(unknown))}")
    if not chosen.no_peers and not environment.present():
        python = environment.python()
        command = [python, "-m", "benchmarks", *sys.argv[1:]]
        return subprocess.run(command, cwd=environment.ROOT).returncode
    if chosen.threads:
        torch.set_num_threads(chosen.threads)
    warnings.filterwarnings("ignore", "Using backward\\(\\) with create_graph")
    settings = Settings(device(), quick=chosen.quick, peers=not chosen.no_peers)
    facts, lines = table.machine(settings), []
    for name, topic in TOPICS.items():
        if chosen.topics and name not in chosen.topics:
            continue
        print(f"{name} ...", end=" ", flush=True)
        began = time.monotonic()
        measured = topic.measure(settings)
        print(f"{time.monotonic() - began:.0f} s", flush=True)
        print("\n".join(table.rows([line.record() for line in measured])[2:]))
        lines += measured
    if settings.peers and not settings.quick:
        table.write(settings, facts, lines)
        print(f"Written: {table.RESULTS} and {table.PAGE}")
    missed = sum(line.met is False for line in lines)
    print(f"{len(lines)} lines, {missed} bars missed")
    return 0


if __name__ == "__main__":
    sys.exit(main())
