r"""
What the searches of `vtuned attack` cost, beside other ways to count.

    python bench/counting.py FILE [--write]

Times and peak memory of processes of their own, one after the other: all searches on FILE, and the same counts of runs of
words by numpy, scikit-learn and duckdb, where the last two are installed. --write puts the table into docs/attacks.md.
"""

import argparse
import importlib.metadata
import json
import os
import platform
import re
import resource
import subprocess
import sys
import time
from pathlib import Path

import pages

from vtuned import attacking, formats
from vtuned.attacks.search import grams
from vtuned.attacks.search.texts import _SPACED_WORD, TrainSet

# The lengths at which phrases of T and S are told from the rest.
LENGTHS = range(3, 9)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[1])
    parser.add_argument("file", metavar="FILE", type=Path)
    parser.add_argument("--write", action="store_true")
    parser.add_argument("--job", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.job:
        print(json.dumps(JOBS[arguments.job](arguments.file)))
        return
    text = speed_table(arguments.file)
    print(text)
    if arguments.write:
        pages.put("attacks.md", "speed", "bench/counting.py FILE --write", text)


def everything(path):
    """Search the file by all attacks, from reading it on."""
    start = time.monotonic()
    report = attacking.attack(path)
    return done(start, report.n_rows)


def our_counts(path):
    """Count runs of words of LENGTHS by the rows that they are in, the time for words included."""
    train = read(path)
    start = time.monotonic()
    n = 0
    for words in (train.prompt_words, train.answer_words):
        for each in grams.runs(words, LENGTHS):
            once, counts = grams.in_rows(each)
            n += len(once.hashes) and int((counts > 1).sum())
    return done(start, n)


def vectorizer_counts(path):
    """Count the same with scikit-learn."""
    from sklearn.feature_extraction.text import CountVectorizer

    train = read(path)
    start = time.monotonic()
    n = 0
    for texts in (train.prompts, train.answers):
        for length in LENGTHS:
            vectorizer = CountVectorizer(
                token_pattern=_SPACED_WORD.pattern, ngram_range=(length, length), binary=True, dtype="int32"
            )
            matrix = vectorizer.fit_transform(texts)
            counts = matrix.sum(axis=0).A1
            n += int(counts[counts > 1].sum())
    return done(start, n)


def duckdb_counts(path):
    """Count the same with DuckDB, from the same hashes of runs: grouping is all that it does."""
    import duckdb

    train = read(path)
    start = time.monotonic()
    n = 0
    database = duckdb.connect()
    for words in (train.prompt_words, train.answer_words):
        for found in grams.runs(words, LENGTHS):
            columns = {"hash": found.hashes, "row": found.rows}  # noqa: F841  DuckDB finds it by its name
            query = (
                "SELECT coalesce(sum(c), 0) FROM (SELECT count(DISTINCT row) c FROM columns GROUP BY hash) WHERE c > 1"
            )
            n += int(database.execute(query).fetchone()[0])
    return done(start, n)


JOBS = {
    "all": everything,
    "numpy": our_counts,
    "scikit-learn": vectorizer_counts,
    "duckdb": duckdb_counts,
}


def read(path):
    return TrainSet(row.conversation for row in formats.read_rows(path))


def done(start, n):
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    return {"seconds": time.monotonic() - start, "peak": peak, "n": n}


def speed_table(path):
    """Return times and peak memory; each job is a process of its own, one after the other."""
    results = {}
    for job in JOBS:
        if job in ("scikit-learn", "duckdb") and not version(job):
            print(f"{job} is not installed: left out", file=sys.stderr)
            continue
        call = [sys.executable, __file__, str(path), "--job", job]
        results[job] = json.loads(subprocess.run(call, capture_output=True, text=True, check=True).stdout)
    counted = {job: one["n"] for job, one in results.items() if job != "all"}
    if len(set(counted.values())) > 1:
        raise SystemExit(f"the counts differ: {counted}")
    own = results["numpy"]["seconds"]
    lengths = f"runs of {LENGTHS[0]} to {LENGTHS[-1]} words, in how many rows each is"
    what = {"all": "all searches, from reading the file on", "numpy": f"{lengths}: numpy (ours)"}
    lines = [
        f"| {what.get(job, f'the same counts: {job} {version(job)}')} | {one['seconds']:.1f} | {one['peak'] / 1e6:,.0f} | "
        f"{'' if job == 'all' else format(one['seconds'] / own, '.1f')} |"
        for job, one in results.items()
    ]
    versions = ", ".join(f"{name} {version(name)}" for name in ("numpy", "scipy"))
    head = (
        f"{path.name}, {results['all']['n']:,} rows, {path.stat().st_size / 1e6:.0f} MB; Python "
        f"{platform.python_version()}, {versions}; {os.cpu_count()} cores, {processor()}; the load average of the machine "
        f"was {os.getloadavg()[0]:.1f} at the end. The counts agree: {next(iter(counted.values())):,} repeated runs of rows.\n\n"
        "| job | seconds | peak memory, MB | times ours |\n|---|---|---|---|\n"
    )
    return head + "\n".join(lines)


def version(name):
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return ""


def processor():
    """Return the processor's name, as far as the system tells."""
    path = Path("/proc/cpuinfo")
    found = re.search(r"model name\s*: (.*)", path.read_text(encoding="utf-8")) if path.exists() else None
    return found[1] if found else platform.machine()


if __name__ == "__main__":
    main()
