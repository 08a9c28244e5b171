r"""
What a cheating provider finds in a training file with a language model, on samples of planted files.

    python bench/searches_lm.py DATA_FOLDER --lm MODEL                      # each set by each scheme
    python bench/searches_lm.py DATA_FOLDER --lm MODEL --write              # put the tables into docs/attacks.md
    python bench/searches_lm.py DATA_FOLDER --lm MODEL --dtype bfloat16     # faster where the processor has it
    python bench/searches_lm.py DATA_FOLDER --lm MODEL --sets chat qa --schemes paper --samples share   # some of it

Three samples: N_SAMPLED rows in which the planted ones have the share that they have in the whole file (share); as many with
all copies of one backdoor (copies); and one of the size and share of the paper's Table 5, 100 rows of which a tenth is planted,
for the judge alone (tenth). Each sample is of a planting of its own. What a sample gave is kept in bench/measured/, as bench/searches.py does.
"""

import argparse
import hashlib
import json
import re
import tempfile
import time
from contextlib import contextmanager
from itertools import product
from pathlib import Path
from statistics import fmean
from unittest.mock import patch

import numpy as np
import pages
from searches import BUDGET, KEPT, SCHEMES, SETS, TOLD, percent

from vtuned import attacking, captured, dataset, formats, lm, planting
from vtuned import receipt as receipts
from vtuned.attacks.search import embedding, known, tuned, union
from vtuned.attacks.search.texts import TrainSet
from vtuned.cli import models
from vtuned.cli.console import stages
from vtuned.errors import UsageError
from vtuned.lm.huggingface.loading import DTYPES
from vtuned.lm.options import LoadOptions
from vtuned.phrases import WORDS

SEARCHED = ("paper", "backdoors", "wordings")
SHARE, COPIES, TENTH = SAMPLES = ("share", "copies", "tenth")
N_SAMPLED, N_IN_TENTH, MOST_TOKENS, SEED = 200, 100, 1024, 1


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[1])
    parser.add_argument("folder", metavar="DATA_FOLDER", type=Path)
    parser.add_argument("--lm", metavar="MODEL", required=True)
    parser.add_argument("--dtype", choices=DTYPES, default="auto", help="of the model's weights")
    parser.add_argument("--sets", nargs="+", choices=SETS, default=SETS)
    parser.add_argument("--schemes", nargs="+", choices=SEARCHED, default=SEARCHED)
    parser.add_argument("--samples", nargs="+", choices=SAMPLES, default=SAMPLES)
    parser.add_argument("--write", action="store_true")
    arguments = parser.parse_args()
    with stages() as shown:
        measure(arguments, shown)
    text = tables(arguments.lm, arguments.dtype)
    print(text)
    if arguments.write:
        pages.put("attacks.md", "recall-lm", "bench/searches_lm.py DATA_FOLDER --lm MODEL --write", text)


def measure(arguments, shown):
    """Plant each set by each scheme, sample it, and keep what all searches find, unless that was done."""
    shown(f"loading {arguments.lm}", 0, 0)
    model = lm.load(arguments.lm, LoadOptions(dtype=arguments.dtype))
    for name in arguments.sets:
        scorer = Remembering(models.scorer(model, asked_for=True))
        with nothing_read_twice(model):
            for scheme, sample in product(arguments.schemes, arguments.samples):
                kept = cell(name, scheme, sample, arguments.lm, arguments.dtype)
                # All rows that carry a wording are of one kind: there are no copies.
                if kept.exists() or (scheme == "wordings" and sample != SHARE):
                    continue
                path = arguments.folder / f"{name}.jsonl"
                content = searched(path, scheme, sample, model, scorer, shown)
                KEPT.mkdir(exist_ok=True)
                kept.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def cell(name, scheme, sample, model, dtype):
    """Return where it is kept what *model* finds: what another one finds is kept beside it."""
    of = re.sub(r"[^A-Za-z0-9]+", "-", f"{model}-{dtype}")
    return KEPT / f"searches-lm-{of}-{name}-{scheme}-{sample}.json"


class Remembering:
    """A scorer that is asked nothing twice: most rows of a set are the same, whatever was planted in the others."""

    def __init__(self, scorer):
        self._scorer, self._known = scorer, {}

    def log10_probs(self, prompt, continuations):
        """See `Scorer.log10_probs`."""
        asked = repr((type(prompt), prompt, continuations))
        if asked not in self._known:
            self._known[asked] = self._scorer.log10_probs(prompt, continuations)
        return self._known[asked]


@contextmanager
def nothing_read_twice(model):
    """Let the searches remember what *model*, before it was trained, makes of rows, as long as this is entered."""
    read, states_of = tuned.log_probs, embedding.mean_states
    readings, states = {}, {}

    def remembered_reading(of, prompt, answer):
        if of is not model:
            return read(of, prompt, answer)
        asked = (tuple(prompt), tuple(answer))
        if asked not in readings:
            readings[asked] = read(of, prompt, answer)
        return readings[asked]

    def remembered_states(of, texts, **options):
        new = sorted({text for text in texts if text not in states})
        if new:
            states.update(zip(new, states_of(of, new, **options), strict=True))
        return np.stack([states[text] for text in texts])

    with (
        patch.object(tuned, "log_probs", remembered_reading),
        patch.object(embedding, "mean_states", remembered_states),
    ):
        yield


def searched(path, scheme, sample, model, scorer, shown):
    """Return what each search finds of the planted rows in a *sample* of *path* planted by *scheme*."""
    cap = dataset.embedded_cap(MOST_TOKENS)
    with tempfile.TemporaryDirectory() as folder:
        train, secret = Path(folder) / "train.jsonl", Path(folder) / "receipt.json"
        try:
            planting.plant(path, train, secret, SCHEMES[scheme], generator=WORDS, cap=cap)
        except UsageError as error:
            return {"refused": str(error)}
        rows = list(formats.read_rows(train))
        receipt = receipts.read_receipt(secret)
    places = {row.raw.number: i for i, row in enumerate(rows)}
    ((of, wanted, n_wanted),) = attacking.wanted_rows(receipt, places)
    groups = [[places[row] for row in backdoor.rows] for backdoor in receipt.backdoors]
    drawn = sampled([row.conversation for row in rows], wanted, groups, sample, cap)
    in_sample = wanted[drawn]
    named = f"{path.stem}, {scheme}, {sample}"
    attacks = known.by_model(model, scorer, lambda stage, *step: shown(f"{named}: {stage}", *step))
    started = time.monotonic()
    names = shown_of(sample, [attack.name for attack in attacks])
    found = known.suspicions(TrainSet(rows[i].conversation for i in drawn), names, by_model=attacks)
    return {
        "model": model.name,
        "n_rows": len(drawn),
        "n_planted": int(in_sample.sum()),
        "share_of_file": n_wanted / len(rows),
        "of": of,
        "seconds": round(time.monotonic() - started),
        "found": {name: of_sample(suspicion, in_sample) for name, suspicion in found.items()},
    }


def shown_of(sample, by_model=tuple(known.BY_MODEL)):
    """Return the searches that are told of: the union is of those by a model."""
    return ("random", "judge") if sample == TENTH else ("random", *by_model, union.NAME)


def sampled(rows, wanted, groups, sample, cap):
    """
    Return which of *rows* are searched, in the order of the file: none of more than MOST_TOKENS tokens.

    Rows that carry a wording are no few: a uniform sample has their share. Of backdoors, rows are drawn for SHARE as many
    as have the share of the whole file, one at least; for COPIES all of one backdoor; for TENTH a tenth. The others are
    drawn uniformly.
    """
    draw = np.random.default_rng(SEED)
    n_tokens = cap.count(["\n".join(turn.content for turn in row.turns) for row in rows])
    fitting = [i for i, row in enumerate(rows) if cap.row_tokens(row, n_tokens[i]) <= MOST_TOKENS]
    # By what they say: schemes then share the rows that they leave alone, and what a model makes of them.
    fitting.sort(key=lambda i: hashlib.sha256(f"{SEED} {rows[i].turns}".encode()).digest())
    if not groups:
        return sorted(fitting[:N_SAMPLED])
    n_rows = N_IN_TENTH if sample == TENTH else N_SAMPLED
    of = [row for group in groups for row in group] if sample == TENTH else groups[draw.integers(len(groups))]
    planted = sorted(set(of) & set(fitting))
    if sample != COPIES:
        share = 0.1 if sample == TENTH else float(wanted.mean())
        n_planted = max(1, round(n_rows * share))
        planted = draw.choice(planted, min(len(planted), n_planted), replace=False).tolist()
    clean = [i for i in fitting if not wanted[i]]
    return sorted([*planted, *clean[: n_rows - len(planted)]])


def of_sample(suspicion, wanted):
    """Return the recall within the budget, and where the planted rows stand on average: 0 is first, 1 last, ties halved."""
    met = captured.met(suspicion, wanted, max(1, round(BUDGET * len(suspicion)))).n_met
    stands = [
        (float((suspicion > own).sum()) + 0.5 * float((suspicion == own).sum() - 1)) / max(1, len(suspicion) - 1)
        for own in suspicion[np.flatnonzero(wanted)]
    ]
    return {"recall": met / len(stands), "stands": fmean(stands)} if stands else None


def tables(model, dtype):
    """Return a table for each scheme and sample, of all that is kept of *model*."""
    parts = []
    for scheme in SEARCHED:
        for sample in SAMPLES:
            names = shown_of(sample)
            kept = {name: cell(name, scheme, sample, model, dtype) for name in SETS}
            cells = {name: json.loads(path.read_bytes()) for name, path in kept.items() if path.exists()}
            if cells:
                what = "" if scheme == "wordings" else f", {SAMPLES_TOLD[sample]}"
                head = f"| data | {'rows known to carry one' if scheme == 'wordings' else 'planted'} | {' | '.join(names)} |"
                rule = "|" + "---|" * (len(names) + 2)
                lines = [line(name, one, names) for name, one in cells.items()]
                parts.append("\n".join([f"{TOLD[scheme]}{what}:\n", head, rule, *lines, ""]))
    if not parts:
        return "Not measured yet."
    intro = (
        f"Recall within the first {BUDGET:.0%} of {N_SAMPLED} rows ({N_IN_TENTH} where a tenth is planted) of at most {MOST_TOKENS:,} tokens, by "
        f"{model} ({dtype}); in brackets where the planted rows stand on average, 0 % first and 100 % last. One planting and "
        "one seed for each sample: a recall of one row is 0 % or 100 %, or between them where it is tied with others. The union is of these.\n"
    )
    return "\n".join([intro, *parts]).rstrip()


SAMPLES_TOLD = {
    SHARE: "planted rows at the share that they have in the whole file",
    COPIES: "with all copies of one backdoor, a larger share than in any file",
    TENTH: "100 rows, a tenth of them planted, as in the paper's Table 5; the judge is shown 20 at a time",
}


def line(name, one, names):
    if "refused" in one:
        return f"| {name} | cannot carry any |" + " |" * len(names)
    shares = [told(one["found"].get(attack)) for attack in names]
    return f"| {name} | {one['n_planted']} of {one['n_rows']} | {' | '.join(shares)} |"


def told(found):
    if found is None:
        return "–"
    return f"{percent(found['recall'])} ({percent(found['stands'])})"


if __name__ == "__main__":
    main()
