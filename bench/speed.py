"""
How long a tail takes at 10^9 rows, beside scipy's, and `vtuned plan` on 51,000 rows, whole process.

    python bench/speed.py [FILE]

Tails: the fastest of several rounds, none of them remembered from a call before; scipy's has no relative error to
speak of where it is finite, and says -inf where the probability leaves its range. Commands: the median of several runs
on this interpreter's own documentation (or FILE), with byte code as an installed package has it. On a machine that has
other work to do, the processor's seconds say more.
"""

import argparse
import importlib.metadata
import itertools
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
import timeit
from pathlib import Path

from scipy import stats as scipy_stats

from vtuned import stats
from vtuned.demo import interpreter_docs

N_ROWS = 51_000
N_RUNS = 5
BILLION = 10**9
# A table made for one file is kept for the next subset of it; another file each time has it made anew.
SIZES = itertools.count(BILLION, -1)
TAILS = {
    "binomial, n = 10^9": (
        lambda: stats.log10_binomial_tail(3_000, BILLION, -6.0),
        lambda: scipy_stats.binom.logsf(2_999, BILLION, 1e-6),
    ),
    "binomial, n = 64, p = 1e-400": (lambda: stats.log10_binomial_tail(32, 64, -400.0), None),
    "hypergeometric, K = 10^9": (
        lambda: stats.log10_hypergeometric_tail(40, BILLION, 64, BILLION // 4),
        lambda: scipy_stats.hypergeom.logsf(39, BILLION, 64, BILLION // 4),
    ),
    "Poisson-binomial, n = 128": (
        lambda: stats.log10_poisson_binomial_tail(64, [-1.0 - i / 64 for i in range(128)]),
        (lambda: scipy_stats.poisson_binom.logsf(63, [10 ** (-1.0 - i / 64) for i in range(128)]))
        if hasattr(scipy_stats, "poisson_binom")
        else None,
    ),
    "signed ranks, n = 200": (lambda: stats.log10_signed_rank_p_value([float(i) for i in range(1, 201)]), None),
    **{
        f"coverage, {name}": (
            lambda copies=copies: stats.log10_coverage_tail(
                len(copies) // 2, copies=copies, n_train=next(SIZES), n_subset=BILLION // 10, log10_p_unseen=-1.3
            ),
            None,
        )
        for name, copies in (
            ("2 of 8 copies", [8] * 2),
            ("64 of one copy", [1] * 64),
            ("512 of one copy", [1] * 512),
            ("8 of 1, 2, 4 and 8 copies", [1, 2, 4, 8] * 2),
            ("64 of 1, 2, 4 and 8 copies", [1, 2, 4, 8] * 16),
        )
    },
}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[1])
    parser.add_argument("file", type=Path, nargs="?")
    given = parser.parse_args().file
    versions = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in ("vtuned", "numpy", "scipy"))
    print(f"{versions}, Python {platform.python_version()}, {os.cpu_count()} cores, {platform.machine()}")
    for name, (ours, theirs) in TAILS.items():
        own = seconds(ours)
        row = f"{name:36} {1e3 * own:8.3f} ms"
        if theirs is not None:
            other = seconds(theirs)
            row += f", scipy {1e3 * other:8.3f} ms, ratio {own / other:.2g}"
        print(row)
    with tempfile.TemporaryDirectory() as folder:
        path = given or written(Path(folder) / "data.jsonl")
        for name, arguments in (
            ("vtuned --version", ["--version"]),
            ("vtuned plan", ["plan", path]),
            ("vtuned plan --suspect unknown", ["plan", path, "--suspect", "unknown"]),
            ("vtuned plan --exact", ["plan", path, "--exact"]),
        ):
            clock, processor = taken(arguments)
            print(f"{name:36} {clock:8.2f} s, {processor:6.2f} s of the processor")


def seconds(call):
    timer = timeit.Timer(call)
    once = timer.timeit(1)
    if once > 1.0:
        return once
    n = max(1, timer.autorange()[0] // 5)
    return min(timer.repeat(5, n)) / n


def written(path):
    rows = itertools.islice(itertools.cycle(interpreter_docs.rows()), N_ROWS)
    path.write_bytes(interpreter_docs.to_jsonl(list(rows)))
    return path


def taken(arguments):
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    command = [sys.executable, "-m", "vtuned", *map(str, arguments)]
    clocks, processors = [], []
    for _ in range(1 + N_RUNS):
        began, before = time.perf_counter(), os.times()
        subprocess.run(command, check=True, capture_output=True, env=environment)
        after = os.times()
        clocks.append(time.perf_counter() - began)
        processors.append(after.children_user - before.children_user + after.children_system - before.children_system)
    # The first one writes the byte code.
    return statistics.median(clocks[1:]), statistics.median(processors[1:])


if __name__ == "__main__":
    main()
