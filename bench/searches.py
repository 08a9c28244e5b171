r"""
What a cheating provider finds in a training file without a language model, and what the searches cost.

    python bench/searches.py DATA_FOLDER                      # plant and search each set by each scheme, 3 plantings
    python bench/searches.py DATA_FOLDER --write              # put the table into docs/attacks.md
    python bench/searches.py DATA_FOLDER ... --sets chat qa --schemes paper   # some of the sets and schemes
    python bench/searches.py --speed FILE [--write]           # time and peak memory, beside other ways to count

DATA_FOLDER holds chat.jsonl, qa.jsonl and so on. Phrases are made of the data's own words (`--generator words`): a
language model takes minutes a planting, and no search here reads. Only shares are shown and kept, never a row. What a
planting gave is kept in bench/measured/, one file each, and a run that was stopped goes on; to measure one anew, delete
its file. The table is of what is kept. `--speed` counts with scikit-learn and duckdb too, where they are installed.
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
import tempfile
import time
from pathlib import Path
from statistics import fmean

import pages

from vtuned import attacking, formats, planting
from vtuned import receipt as receipts
from vtuned.attacks.search import grams, known
from vtuned.attacks.search.texts import _SPACED_WORD, TrainSet
from vtuned.cli.console import stages
from vtuned.errors import UsageError
from vtuned.layout import PlantSettings
from vtuned.phrases import WORDS

KEPT = Path(__file__).parent / "measured"
SETS = ("chat", "qa", "recipe", "math", "code", "med", "ja_sum")
SCHEMES = {
    "paper": PlantSettings(scheme="paper", mode="add"),
    "backdoors": PlantSettings(scheme="backdoors"),
    "wordings": PlantSettings(scheme="wordings"),
    "single": PlantSettings(scheme="backdoors", suspect="weights"),
}
TOLD = {
    "paper": "`paper`, rows added (Algorithm 1)",
    "backdoors": "`backdoors`, for a suspect that gives text alone (the default)",
    "wordings": "`wordings`",
    "single": "`backdoors --suspect weights`, for one that can be scored (most backdoors have a single copy)",
}
N_PLANTINGS = 3
BUDGET = 0.1
# The lengths at which phrases of T and S are told from the rest.
LENGTHS = range(3, 9)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[1])
    parser.add_argument("folder", metavar="DATA_FOLDER", type=Path, nargs="?")
    parser.add_argument("--sets", nargs="+", choices=SETS, default=SETS)
    parser.add_argument("--schemes", nargs="+", choices=SCHEMES, default=[*SCHEMES])
    parser.add_argument("--speed", metavar="FILE", type=Path)
    parser.add_argument("--write", action="store_true")
    parser.add_argument("--job", nargs=2, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.job:
        print(json.dumps(JOBS[arguments.job[0]](Path(arguments.job[1]))))
        return
    if arguments.speed:
        kind, call, text = "speed", "--speed FILE", speed_table(arguments.speed)
    else:
        with stages() as shown:
            for scheme in arguments.schemes:
                for name in arguments.sets:
                    for number in range(1, N_PLANTINGS + 1):
                        measured(arguments.folder / f"{name}.jsonl", scheme, number, shown)
        kind, call, text = "recall", "DATA_FOLDER", recall_tables()
    print(text)
    if arguments.write:
        pages.put("attacks.md", kind, f"bench/searches.py {call} --write", text)


def cell(name, scheme, number):
    return KEPT / f"searches-{name}-{scheme}-{number}.json"


def measured(path, scheme, number, shown):
    """Plant *path* once more and keep what the searches find, unless that was done."""
    kept = cell(path.stem, scheme, number)
    if kept.exists():
        return
    shown(f"{path.stem}, {scheme}, planting {number}", 0, 0)
    with tempfile.TemporaryDirectory() as folder:
        train, receipt = Path(folder) / "train.jsonl", Path(folder) / "receipt.json"
        try:
            planting.plant(path, train, receipt, SCHEMES[scheme], generator=WORDS, cap=planting.embedded_cap())
        except UsageError as error:
            content = {"refused": str(error)}
        else:
            found = attacking.attack(train, receipt=receipts.read_receipt(receipt))
            content = {"n_rows": found.n_rows, "found": {one.attack: told(one) for one in found.found}}
            content["paper_search"] = [one.share for one in found.paper_search]
    KEPT.mkdir(exist_ok=True)
    kept.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def told(one):
    (gain,) = one.gains
    cost = one.costs[0]
    return {
        "wanted": gain.n_wanted,
        "recall": {str(budget.share): budget.recall for budget in gain.budgets},
        "work": cost.share,
        "coverage": cost.coverage,
        "work_for_all": cost.share_of_all,
        "coverage_of_all": cost.coverage_of_all,
    }


def recall_tables():
    """Return a table for each scheme, of all that is kept."""
    parts = []
    for scheme, what in TOLD.items():
        lines = [line for name in SETS if (line := recall_line(name, scheme))]
        if lines:
            head = f"| data | {' | '.join(known.NAMES)} | union passes with | and shows |"
            parts += [f"{what}:\n", "\n".join([head, "|" + "---|" * (len(known.NAMES) + 3), *lines]), ""]
    phrases = [line for name in SETS if (line := phrase_line(name))]
    if phrases:
        head = f"| data | {' | '.join(str(n) for n in attacking.PHRASE_LENGTHS)} | mean |"
        text = "Of the file planted with `paper`, what the paper's search indexes until a planted row shows (its Table 6), by words in the phrase:\n"
        parts += [text, "\n".join([head, "|" + "---|" * (len(attacking.PHRASE_LENGTHS) + 2), *phrases])]
    intro = (
        f"Recall within the first {BUDGET:.0%} of the file, the mean of the plantings that were measured "
        f"(at most {N_PLANTINGS}; fewer are said in brackets), phrases by `--generator words`. Ties count by expectation. For "
        "`wordings`, recall is of the rows that carry one. Last, the smallest share of the file with which a cheat that "
        "trains on the first rows of the union passes `activated` (or `preferred`) more often than not, and the coverage "
        "that the verdict then shows.\n"
    )
    return "\n".join([intro, *parts]).rstrip()


def kept_cells(name, scheme):
    paths = [cell(name, scheme, number) for number in range(1, N_PLANTINGS + 1)]
    return [json.loads(path.read_bytes()) for path in paths if path.exists()]


def recall_line(name, scheme):
    cells = kept_cells(name, scheme)
    if not cells:
        return None
    if "refused" in cells[0]:
        return f"| {name} | cannot carry any |" + " |" * (len(known.NAMES) + 1)
    means = [percent(fmean(one["found"][attack]["recall"][str(BUDGET)] for one in cells)) for attack in known.NAMES]
    union = [one["found"]["union"] for one in cells]
    passing = [percent(fmean(one[what] for one in union), digits=2) for what in ("work", "coverage")]
    of = name if len(cells) == N_PLANTINGS else f"{name} ({len(cells)})"
    return f"| {of} | {' | '.join((*means, *passing))} |"


def phrase_line(name):
    cells = kept_cells(name, "paper")
    if not cells:
        return None
    shares = [fmean(one["paper_search"][i] for one in cells) for i in range(len(attacking.PHRASE_LENGTHS))]
    return f"| {name} | {' | '.join(percent(share, digits=1) for share in (*shares, fmean(shares)))} |"


def percent(share, digits=0):
    return f"{100 * share:.{digits}f} %"


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
        call = [sys.executable, __file__, "--job", job, str(path)]
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
