r"""
Search a training file for the rows that carry a wording, as a cheat would, and show what is gained by training on them.

    python bench/wording_search.py DATA                # word DATA, search it, simulate cheats who use what is found
    python bench/wording_search.py DATA --surprisal    # search by the embedded model's surprisal, too: minutes
    python bench/wording_search.py DATA ... --write    # put the tables into docs/wordings.md

The searches see the file as it is sent, never the key. No limit in them is fitted: an opening stands in about one row
of as many as there are siblings, at most 64, so that a start of answers is suspect in half as many rows; a pair of
affixes is suspect where it comes twice.
"""

import argparse
import math
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import pages
from wording_domains import worded

from vtuned import formats, lm
from vtuned.cli.console import stages
from vtuned.conversation import messages_of
from vtuned.layout import MOST_WORDINGS, PlantSettings
from vtuned.phrases import WORDS
from vtuned.receipt import StatisticalPlan
from vtuned.rewriters.base import first_words
from vtuned.rewriters.fitness import why_not
from vtuned.stats import preference_coverage, preference_coverage_skipping

SIBLINGS = (4, 16)
SETTINGS = {d: PlantSettings(scheme="wordings", n_wordings=d) for d in SIBLINGS}
CONFIDENCE = StatisticalPlan.model_fields["coverage_confidence"].default
N_SIMULATIONS = 2000
N_SURPRISAL, N_FIRST_WORDS = 100, 3
SHARES = {"all": 1, "a tenth": 10}
SEED = 1
# No start or end of so many words is longer.
REACH = 200


@dataclass(frozen=True)
class Worded:
    """
    A file with its wordings: *texts* holds for each row all answers that could have been sent, the empty opening first.

    *published* says which one is, 0 for rows that carry none.
    """

    n_wordings: int
    rows: list
    texts: list
    carrying: np.ndarray
    published: np.ndarray
    language: object


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[1])
    parser.add_argument("data", type=Path)
    parser.add_argument("--surprisal", action="store_true")
    parser.add_argument("--write", action="store_true")
    arguments = parser.parse_args()
    found, gained = [], []
    with stages() as shown:
        for d in SIBLINGS:
            file = sent(arguments.data, d, shown)
            searches = searches_of(file)
            found += [search_line(file, name, find(file.published)) for name, find in searches.items()]
            if arguments.surprisal:
                found += by_surprisal(file, shown)
            gained += [gain_line(file, *one) for one in simulated(file, searches, shown)]
    text = tables(arguments.data, found, gained)
    print(text)
    if arguments.write:
        pages.put("wordings.md", "search", "bench/wording_search.py DATA", text)


def sent(data, n_wordings, shown):
    shown(f"wording {data.name}, {n_wordings} siblings", 0, 0)
    survey, chosen, made = worded(data, SETTINGS[n_wordings], WORDS, shown)
    carrying = {one.row.raw.number: one for one in made.asked}
    rows = list(formats.read_rows(survey.source, survey.codec))
    return Worded(
        n_wordings,
        [row.conversation for row in rows],
        [
            [wording.text for wording in one.wordings] if (one := carrying.get(row.raw.number)) else [answer_of(row)]
            for row in rows
        ],
        np.array([row.raw.number in carrying for row in rows]),
        np.array([one.published if (one := carrying.get(row.raw.number)) else 0 for row in rows]),
        chosen.rewriter.language,
    )


def answer_of(row):
    host = row.conversation.host()
    return "" if host is None else row.conversation.turns[host.answer].content


def searches_of(file):
    """Return the searches by name: functions from what is published to the rows that are found."""

    def start(n):
        return repeated(file, lambda prompt, answer: first_words(answer, n, file.language), in_one_of=2 * MOST_WORDINGS)

    def affixes(of_prompt):
        return repeated(file, lambda prompt, answer: (of_prompt(prompt), first_words(answer, 2, file.language)))

    # Who knows the openings can take them off, so that what is found does not depend on which is there.
    bare = [
        row.answered(texts[0]) if carries else row
        for row, texts, carries in zip(file.rows, file.texts, file.carrying, strict=True)
    ]
    bearing = np.array([not why_not(row, file.language) for row in bare])
    return {
        "none: every row": lambda published: np.ones_like(file.carrying),
        **{f"first {n} word{'s' if n > 1 else ''} of the answer": start(n) for n in (1, 2, 4)},
        "start of prompt, start of answer": affixes(lambda prompt: first_words(prompt[:REACH], 2, file.language)),
        "end of prompt, start of answer": affixes(
            lambda prompt: first_words(prompt[::-1][:REACH], 2, file.language)[::-1]
        ),
        "openings taken off, vtuned's own `why_not`": lambda published: bearing,
        "one of the openings, all known": lambda published: file.carrying & (published > 0),
    }


def repeated(file, key, in_one_of=None):
    """Return the search for rows whose *key* stands in so large a share of all rows, or in two of them."""
    least = 2 if in_one_of is None else max(2, len(file.rows) / in_one_of)
    numbers = {}
    ids = np.zeros((len(file.rows), file.n_wordings), dtype=np.int64)
    for i, (row, texts) in enumerate(zip(file.rows, file.texts, strict=True)):
        prompt = row.turns[host.prompt].content if (host := row.host()) else ""
        ids[i, : len(texts)] = [numbers.setdefault(key(prompt, text[:REACH]), len(numbers)) for text in texts]

    def find(published):
        own = ids[np.arange(len(ids)), published]
        return np.bincount(own)[own] >= least

    return find


def search_line(file, name, found, rows=None):
    """Return a line of recall and precision of the rows *found*, among *rows* alone where these are named."""
    rows = np.arange(len(file.rows)) if rows is None else rows
    found, carrying, opened = found[rows], file.carrying[rows], (file.carrying & (file.published > 0))[rows]
    cells = [percent((found & marked).sum(), n) for marked in (carrying, opened) for n in (marked.sum(), found.sum())]
    return f"| {file.n_wordings} | {name} | {found.sum():,} of {len(rows):,} | {' | '.join(cells)} |"


def percent(n, total):
    return f"{n / total:.0%}" if total else "-"


def by_surprisal(file, shown):
    """Return lines for the halves of a sample whose first words surprise the embedded model most and least."""
    model = lm.load("smollm2")
    answered = [i for i, row in enumerate(file.rows) if row.host()]
    rows = np.random.default_rng(SEED).choice(answered, N_SURPRISAL, replace=False)
    surprisal = np.full(len(file.rows), np.nan)
    for done, i in enumerate(rows):
        shown(f"surprisal, {file.n_wordings} siblings", done, len(rows))
        start = first_words(file.texts[i][file.published[i]][:REACH], N_FIRST_WORDS, file.language)
        surprisal[i] = -model.log10_probs(tuple(messages_of(file.rows[i].prompt())), [start])[0]
    middle = np.median(surprisal[rows])
    return [
        search_line(file, f"surprisal of the first {N_FIRST_WORDS} words: {name} half", found, rows)
        for name, found in (("upper", surprisal > middle), ("lower", surprisal <= middle))
    ]


def simulated(file, searches, shown):
    """
    Yield (name, which, results) for each search and each share of what it finds; a result has five numbers.

    They are the share of the carrying rows that is used, then both bounds where unused rows are hits by chance, then both
    where the model prefers no opening for these.
    """
    rng = np.random.default_rng(SEED)
    carrying = np.flatnonzero(file.carrying)
    n_asked = min(SETTINGS[file.n_wordings].n_worded, len(carrying))
    results = {(name, which): [] for name in searches for which in SHARES}

    @cache
    def bounds(n_hits):
        given = {
            "n_hits": n_hits,
            "n_wordings": [file.n_wordings] * n_asked,
            "n_carrying": len(carrying),
            "confidence": CONFIDENCE,
        }
        return preference_coverage(**given), preference_coverage_skipping(**given)

    for done in range(N_SIMULATIONS):
        shown(f"simulating, {file.n_wordings} siblings", done, N_SIMULATIONS)
        published = np.where(file.carrying, rng.integers(file.n_wordings, size=len(file.rows)), 0)
        by_chance = rng.random(len(file.rows)) < 1 / file.n_wordings
        asked = rng.choice(carrying, n_asked, replace=False)
        for name, find in searches.items():
            found = rng.permutation(np.flatnonzero(find(published)))
            for which, part in SHARES.items():
                used = np.zeros(len(file.rows), dtype=bool)
                used[found[: math.ceil(len(found) / part)]] = True
                hits = [int((used | other)[asked].sum()) for other in (by_chance, published == 0)]
                results[name, which].append((used[carrying].mean(), *bounds(hits[0]), *bounds(hits[1])))
    yield from ((*key, np.array(some)) for key, some in results.items())


def gain_line(file, name, which, results):
    truth = results[:, 0]
    cells = [f"{bound.mean():.1%} ({(bound > truth).mean():.1%})" for bound in results[:, 1:].T]
    return f"| {file.n_wordings} | {name}: {which} | {truth.mean():.1%} | {' | '.join(cells)} |"


def tables(data, found, gained):
    searched = (
        f"{data.name} with `--rewriter openings`, our own openings. How each search finds the rows that carry a choice, "
        "the empty opening included, and those with an opening:\n\n"
        "| siblings | search | rows found | carrying: recall | precision | with an opening: recall | precision |\n"
    )
    simulated = (
        f"\n\nA cheat then trains on all rows found, or on a random tenth of them. {N_SIMULATIONS:,} times the choices are "
        f"drawn and searched anew, and {SETTINGS[SIBLINGS[0]].n_worded} rows are asked. A row that was used is always a "
        "hit. Of the others the published wording comes first *by chance*, one in as many as there are siblings, or the "
        "model *prefers no opening* for all of them, so that each empty opening is a hit. The first bound takes it that "
        "rows were used whatever they publish, the second that those whose wording can be guessed were skipped: the mean "
        f"of each at {CONFIDENCE:.0%}, and in brackets how often it exceeds the share of the carrying rows that was used, "
        f"which must be {1 - CONFIDENCE:.0%} at most where its assumption holds (here give or take "
        f"{2 * math.sqrt(CONFIDENCE * (1 - CONFIDENCE) / N_SIMULATIONS):.1%}, two standard errors):\n\n"
        "| siblings | trains on | used | by chance: first bound | second | prefers none: first bound | second |\n"
    )
    told = (
        "\n\nChoosing rows by a non-empty opening depends on the wording. That breaks the assumption of the first bound and "
        "not that of the second. Only `why_not`, and no search at all, choose rows whatever they publish."
    )
    rule = "|" + "---|" * 7 + "\n"
    return searched + rule + "\n".join(found) + simulated + rule + "\n".join(gained) + told


if __name__ == "__main__":
    main()
