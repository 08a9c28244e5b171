r"""
What a cheating provider finds in a training file by counting.

    python bench/searches.py DATA_FOLDER                      # plant and search each set by each scheme, 3 plantings
    python bench/searches.py DATA_FOLDER --write              # put the table into docs/attacks.md
    python bench/searches.py DATA_FOLDER ... --sets chat qa --schemes paper   # some of the sets and schemes

DATA_FOLDER holds chat.jsonl, qa.jsonl and so on. Phrases are made of the data's own words (`--generator words`), save those
that fit their rows: a language model takes minutes a planting. Only shares are shown and kept, never a row. What a
planting gave is kept in bench/measured/, one file each, and a run that was stopped goes on; to measure one anew, delete
its file. The table is of what is kept. What a language model finds is bench/searches_lm.py's.
"""

import argparse
import json
import tempfile
from pathlib import Path
from statistics import fmean

import pages

from vtuned import attacking, dataset, planting, stealth
from vtuned import receipt as receipts
from vtuned.attacks.search import known
from vtuned.cli.console import stages
from vtuned.conversation import Turn
from vtuned.errors import UsageError
from vtuned.layout import DEFAULT_DECOYS, AskedPrompt, PlantSettings, exposure_probes
from vtuned.phrases import WORDS

KEPT = Path(__file__).parent / "measured"
SETS = ("chat", "qa", "recipe", "math", "code", "med", "ja_sum")
SCHEMES = {
    "paper": PlantSettings(scheme="paper", mode="add"),
    "backdoors": PlantSettings(scheme="backdoors"),
    "wordings": PlantSettings(scheme="wordings"),
    # Decoys are sent to nobody: without them drawing takes a fortieth of the time.
    "single": PlantSettings(scheme="backdoors", suspect="weights", n_decoys=0),
    "fitted": PlantSettings(scheme="backdoors", suspect="weights", n_decoys=0),
}
GENERATORS = {"fitted": "smollm2"}
TOLD = {
    "paper": "`paper`, rows added (Algorithm 1)",
    "backdoors": "`backdoors`, for a suspect that gives text alone (the default)",
    "wordings": "`wordings`",
    "single": "`backdoors --suspect weights --generator words`, for one that can be scored: single copies, phrases of the data's words",
    "fitted": "`backdoors --suspect weights` (the default for one that can be scored): single copies, phrases by the embedded model "
    "to fit the row that they go into (`ja_sum`: the data's words as above, since it does not speak Japanese)",
}
N_PLANTINGS = 3
BUDGET = 0.1


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[1])
    parser.add_argument("folder", metavar="DATA_FOLDER", type=Path)
    parser.add_argument("--sets", nargs="+", choices=SETS, default=SETS)
    parser.add_argument("--schemes", nargs="+", choices=SCHEMES, default=[*SCHEMES])
    parser.add_argument("--write", action="store_true")
    arguments = parser.parse_args()
    with stages() as shown:
        for scheme in arguments.schemes:
            for number in range(1, N_PLANTINGS + 1):
                for name in arguments.sets:
                    measured(arguments.folder / f"{name}.jsonl", scheme, number, shown)
    text = recall_tables()
    print(text)
    if arguments.write:
        pages.put("attacks.md", "recall", "bench/searches.py DATA_FOLDER --write", text)


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
            generator = GENERATORS.get(scheme, WORDS)
            planting.plant(path, train, receipt, SCHEMES[scheme], generator=generator, cap=dataset.embedded_cap())
        except UsageError as error:
            content = {"refused": str(error)}
        else:
            made = with_decoys(receipts.read_receipt(receipt))
            found = attacking.attack(train, receipt=made)
            n_bounded = made.n_eligible_sent if made.wordings is None else made.wordings.n_carrying
            content = {"n_rows": found.n_rows, "n_bounded": n_bounded}
            content["found"] = {one.attack: told(one) for one in found.found}
            content["paper_search"] = [one.share for one in found.paper_search]
    KEPT.mkdir(exist_ok=True)
    kept.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def with_decoys(receipt):
    """
    Return *receipt* as if decoys had been drawn where a single copy was planted, as they are by default.

    Nobody is sent any, so they change nothing that a search finds; the costs are those of the test that they make.
    """
    if any(len(backdoor.rows) > 1 or backdoor.decoys for backdoor in receipt.backdoors):
        return receipt
    backdoors = tuple(one.model_copy(update={"decoys": STAND_INS}) for one in receipt.backdoors)
    asked = [AskedPrompt((Turn("user", "Who?"),))]
    triggers = [backdoor.trigger for backdoor in backdoors]
    exposures = exposure_probes(triggers=triggers, planted=asked * len(triggers), fresh=asked)
    return receipt.model_copy(update={"backdoors": backdoors, "exposures": exposures})


STAND_INS = tuple(f"Decoy number {i}." for i in range(DEFAULT_DECOYS))


def told(one):
    (gain,) = one.gains
    by_likelihoods = [cost for cost in one.costs if (cost.claim, cost.test) == ("activated", "exposure")]
    cost = (by_likelihoods or one.costs)[0]
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
            head = f"| data | {' | '.join(known.NAMES)} |"
            parts += [f"{what}:\n", "\n".join([head, "|" + "---|" * (len(known.NAMES) + 1), *lines]), ""]
            wins = [line for name in SETS if (line := winning_line(name, scheme))]
            parts += ["\n".join([*WINNING_HEAD, *wins]), ""] if wins else []
    phrases = [line for name in SETS if (line := phrase_line(name))]
    if phrases:
        head = f"| data | {' | '.join(str(n) for n in attacking.PHRASE_LENGTHS)} | mean |"
        text = "Of the file planted with `paper`, what the paper's search indexes until a planted row shows (its Table 6), by words in the phrase:\n"
        parts += [text, "\n".join([head, "|" + "---|" * (len(attacking.PHRASE_LENGTHS) + 2), *phrases])]
    intro = (
        f"Recall within the first {BUDGET:.0%} of the file, the mean of the plantings that were measured "
        f"(at most {N_PLANTINGS}; fewer are said in brackets), phrases by `--generator words` where nothing else is said. Ties count by expectation. For "
        "`wordings`, recall is of the rows that carry one.\n\n"
        f"The second table of a scheme has the searches that find more than {stealth.TOLERATED} times what chance does, and of all "
        "searches the one with which it costs the cheat least: the smallest share of the file with which it passes `activated` (or "
        "`preferred`) more often than not, by likelihoods where there are decoys, and with which everything is seen that was planted, with what "
        "the verdict then shows as coverage. That is a share of the rows that can carry a backdoor, or that carry a wording, "
        "which are *of* so much of the file. Where the work is less of the file than the coverage says, the bound does not hold "
        "against that cheat: its searches tell planted rows from others that could have been.\n"
    )
    return "\n".join([intro, *parts]).rstrip()


WINNING_HEAD = (
    f"| data | searches above {stealth.TOLERATED} times chance | passes with the least work | and shows | has all seen with | and shows | of |",
    "|---|---|---|---|---|---|---|",
)


def winning_line(name, scheme):
    """Return which searches find more than is tolerated, and what they cost the cheat; None where nothing is kept."""
    cells = [one["found"] for one in kept_cells(name, scheme) if "found" in one]
    if not cells:
        return None
    means = {
        attack: {what: fmean(one[attack][what] for one in cells) for what in WORK}
        | {"recall": fmean(one[attack]["recall"][str(BUDGET)] for one in cells)}
        for attack in known.NAMES
        if all(attack in one for one in cells)
    }
    wins = [attack for attack in means if means[attack]["recall"] > stealth.TOLERATED * means["random"]["recall"]]
    wins.sort(key=lambda attack: -means[attack]["recall"])
    cells_told = []
    for work, shown in (("work", "coverage"), ("work_for_all", "coverage_of_all")):
        best = min((attack for attack in means if attack != "random"), key=lambda attack: means[attack][work])
        cells_told += [f"{best}: {percent(means[best][work], 2)}", percent(means[best][shown], 2)]
    bounded = [one["n_bounded"] / one["n_rows"] for one in kept_cells(name, scheme) if "n_bounded" in one]
    cells_told.append(percent(fmean(bounded)) if bounded else "–")
    return f"| {name} | {', '.join(wins) or 'none'} | {' | '.join(cells_told)} |"


WORK = ("work", "coverage", "work_for_all", "coverage_of_all")


def kept_cells(name, scheme):
    paths = [cell(name, scheme, number) for number in range(1, N_PLANTINGS + 1)]
    return [json.loads(path.read_bytes()) for path in paths if path.exists()]


def recall_line(name, scheme):
    cells = kept_cells(name, scheme)
    if not cells:
        return None
    if "refused" in cells[0]:
        return f"| {name} | cannot carry any |" + " |" * (len(known.NAMES) - 1)
    recalls = [
        [one["found"][attack]["recall"][str(BUDGET)] for one in cells if attack in one["found"]]
        for attack in known.NAMES
    ]
    of = name if len(cells) == N_PLANTINGS else f"{name} ({len(cells)})"
    return f"| {of} | {' | '.join(percent(fmean(some)) if some else '–' for some in recalls)} |"


def phrase_line(name):
    cells = kept_cells(name, "paper")
    if not cells:
        return None
    shares = [fmean(one["paper_search"][i] for one in cells) for i in range(len(attacking.PHRASE_LENGTHS))]
    return f"| {name} | {' | '.join(percent(share, digits=1) for share in (*shares, fmean(shares)))} |"


def percent(share, digits=0):
    return f"{100 * share:.{digits}f} %"


if __name__ == "__main__":
    main()
