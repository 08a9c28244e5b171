r"""
What wordings do to seven data sets: how many rows carry a choice, tokens added, facts changed, rows left alone and why.

    python bench/wording_domains.py DATA_FOLDER                        # openings and style: all rows, no model
    python bench/wording_domains.py DATA_FOLDER --paraphrase N         # paraphrases by smollm2 of N random rows a set
    python bench/wording_domains.py DATA_FOLDER ... --write            # put the table into docs/wordings.md
    python bench/wording_domains.py DATA_FOLDER ... --sets chat qa     # some of the sets

DATA_FOLDER holds chat.jsonl, qa.jsonl and so on. Only counts are shown and kept, never a row. Paraphrases take a model
long: the counts of each set are kept in bench/measured/, and a run that was stopped goes on with the next set; to
measure a set anew, delete its file.
"""

import argparse
import json
import platform
import time
from collections import Counter
from pathlib import Path

import pages

from vtuned import dataset, facts, rewording, rewriting
from vtuned.cli.console import stages
from vtuned.errors import UsageError
from vtuned.layout import PlantSettings
from vtuned.lm.tokens import counter
from vtuned.phrases import WORDS
from vtuned.rewording import NOT_SAMPLED, TOO_LONG
from vtuned.stats import clopper_pearson_upper

KEPT = Path(__file__).parent / "measured"
SETS = ("chat", "qa", "recipe", "math", "code", "med", "ja_sum")
REWRITERS = {"openings": 4, "style": 16}
WRITER, N_PARAPHRASED = "smollm2", 4
N_REASONS = 3
CONFIDENCE = 0.95
# Any key will do; with one that stays, the figures change only where the program does.
KEY = bytes(32)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[1])
    parser.add_argument("folder", metavar="DATA_FOLDER", type=Path)
    parser.add_argument("--paraphrase", type=int, metavar="N")
    parser.add_argument("--sets", nargs="+", choices=SETS, default=SETS)
    parser.add_argument("--write", action="store_true")
    arguments = parser.parse_args()
    paths = [arguments.folder / f"{name}.jsonl" for name in arguments.sets]
    with stages() as shown:
        if arguments.paraphrase:
            n = arguments.paraphrase
            kind, text = "paraphrases", paraphrase_table([paraphrased(path, n, shown) for path in paths], n)
        else:
            kind, text = "domains", table(paths, shown)
    print(text)
    if arguments.write:
        command = "bench/wording_domains.py DATA_FOLDER" + (" --paraphrase N" if arguments.paraphrase else "")
        pages.put("wordings.md", kind, command, text)


def worded(path, settings, generator, shown):
    """Return the survey of *path*, its rewriter, and its rows with their choices, all that carry one among the asked."""
    found = dataset.survey(path, dataset.embedded_cap())
    chosen = rewriting.choose(found, settings, KEY, (generator, None), on_progress=shown)
    made = rewording.reword(found, chosen.rewriter, KEY, n_asked=found.n_rows, n_rows=settings.n_rows)
    return found, chosen, made


def answer_before(one):
    conversation = one.row.conversation
    return conversation.turns[conversation.host().answer].content


def changed_facts(carrying):
    """Return in how many rows any wording changes a fact, and in how many each kind of fact."""
    kinds = [
        {kind for wording in one.wordings for kind in facts.changed(answer_before(one), wording.text)}
        for one in carrying
    ]
    return sum(map(bool, kinds)), Counter(kind for some in kinds for kind in some)


def table(paths, shown):
    count, tokenizer = counter("smollm2")
    lines = [
        "| data | rewriter | rows that carry | bits | tokens added (a row) | rows with facts changed | left alone |",
        "|---|---|---|---|---|---|---|",
    ]
    for path in paths:
        for name, n_wordings in REWRITERS.items():
            shown(f"{name} for {path.name}", 0, 0)
            settings = PlantSettings(scheme="wordings", rewriter=name, n_wordings=n_wordings)
            found, _, made = worded(path, settings, WORDS, shown)
            added = sum(count([one.answer for one in made.asked])) - sum(count(list(map(answer_before, made.asked))))
            lines.append(
                f"| {path.stem} | {name}, {n_wordings} | {of(made.n_carrying, found.n_rows)} | {made.bits:,.0f} | "
                f"{added:+,} ({added / max(1, made.n_carrying):.1f}) | "
                f"{told_facts(*changed_facts(made.asked), made.n_carrying)} | {reasons(made.left_alone)} |"
            )
    head = (
        f"All rows; `--siblings 4` or 16, our own openings, one secret choice each; tokens by {tokenizer}. Facts are "
        "numbers, names, code, links and quotations, compared in every wording of every row that carries "
        f"(in brackets the {CONFIDENCE:.0%} upper bound of their share):\n\n"
    )
    return head + "\n".join(lines)


def paraphrased(path, n, shown):
    """Return the counts of paraphrases of *n* rows of *path*."""
    kept = KEPT / f"paraphrases-{path.stem}-{n}.json"
    if not kept.exists():
        settings = PlantSettings(scheme="wordings", rewriter="paraphrase", n_wordings=N_PARAPHRASED, n_rows=n)
        start = time.monotonic()
        try:
            _, _, made = worded(path, settings, WRITER, shown)
        except UsageError as error:
            counts = {"refused": str(error)}
        else:
            n_changed, kinds = changed_facts(made.asked)
            counts = {
                "n_wordings": [len(one.wordings) for one in made.asked],
                "n_changed": n_changed,
                "kinds": kinds,
                "left_alone": {why: k for why, k in made.left_alone.items() if why not in (NOT_SAMPLED, TOO_LONG)},
                "seconds": time.monotonic() - start,
            }
        KEPT.mkdir(exist_ok=True)
        kept.write_text(json.dumps(counts, indent=1) + "\n", encoding="utf-8")
    return path.stem, json.loads(kept.read_bytes())


def paraphrase_table(found, n):
    lines = ["| data | rows with 2 or more | wordings a row | facts changed | left alone | seconds |", "|" + "---|" * 6]
    for name, counts in found:
        if "refused" in counts:
            lines.append(f"| {name} | none: {counts['refused']} | | | | |")
            continue
        sizes = counts["n_wordings"]
        mean = f"{sum(sizes) / len(sizes):.2f}" if sizes else "-"
        lines.append(
            f"| {name} | {of(len(sizes), n)} | {mean} | "
            f"{told_facts(counts['n_changed'], counts['kinds'], len(sizes))} | {reasons(Counter(counts['left_alone']))} | "
            f"{counts['seconds']:.0f} |"
        )
    head = (
        f"Paraphrases by {WRITER}, {n} random rows a set, up to {N_PARAPHRASED} wordings, {platform.machine()}; facts as "
        "above; a row with no second wording is left alone:\n\n"
    )
    return head + "\n".join(lines)


def of(n, total):
    return f"{n:,} of {total:,} ({n / total:.0%})"


def told_facts(n_changed, kinds, n):
    if not n:
        return "-"
    told = f"{n_changed:,} (≤ {clopper_pearson_upper(n_changed, n, CONFIDENCE):.2%})"
    return ": ".join([told, *([", ".join(f"{kind} {k:,}" for kind, k in kinds.items())] if kinds else [])])


def reasons(left_alone):
    return ", ".join(f"{why} {n:,}" for why, n in left_alone.most_common(N_REASONS)) or "-"


if __name__ == "__main__":
    main()
