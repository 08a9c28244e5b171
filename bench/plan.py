"""
How long `vtuned plan` takes, whole process, on 51,000 rows of this interpreter's documentation.

    python bench/plan.py [FILE]

Prints the median of several runs, on the clock and of the processor, beside `vtuned --version` and `--exact`. On a
machine that has other work to do, the processor's seconds say more.
"""

import argparse
import itertools
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from vtuned.demo import interpreter_docs

N_ROWS = 51_000
N_RUNS = 3


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[1])
    parser.add_argument("file", type=Path, nargs="?")
    given = parser.parse_args().file
    with tempfile.TemporaryDirectory() as folder:
        path = given or written(Path(folder) / "data.jsonl")
        for name, arguments in (
            ("vtuned --version", ["--version"]),
            ("vtuned plan", ["plan", path]),
            ("vtuned plan --suspect unknown", ["plan", path, "--suspect", "unknown"]),
            ("vtuned plan --exact", ["plan", path, "--exact"]),
        ):
            clock, processor = taken(arguments)
            print(f"{name:32} {clock:6.2f} s, {processor:6.2f} s of the processor")


def written(path):
    rows = itertools.islice(itertools.cycle(interpreter_docs.rows()), N_ROWS)
    path.write_bytes(interpreter_docs.to_jsonl(list(rows)))
    return path


def taken(arguments):
    clocks, processors = [], []
    for _ in range(N_RUNS):
        began, before = time.perf_counter(), os.times()
        command = [sys.executable, "-m", "vtuned", *map(str, arguments)]
        subprocess.run(command, check=True, capture_output=True)
        after = os.times()
        clocks.append(time.perf_counter() - began)
        processors.append(after.children_user - before.children_user + after.children_system - before.children_system)
    return statistics.median(clocks), statistics.median(processors)


if __name__ == "__main__":
    main()
