r"""
What `plant --stealth N` gains by planting anew: how much the searches that count find of the best of N plantings.

    python bench/replanting.py DATA_FOLDER            # single copies of the data's own words, 16 plantings a set
    python bench/replanting.py DATA_FOLDER --write    # put the table into docs/attacks.md

What searches find of each planting is kept in bench/measured/, one file a set, and a run that was stopped goes on.
"""

import argparse
import json
import tempfile
from pathlib import Path
from statistics import fmean

import pages
from searches import KEPT, SETS, percent

from vtuned import dataset, planting, stealth
from vtuned.cli.console import stages
from vtuned.layout import PlantSettings
from vtuned.phrases import WORDS
from vtuned.stealth import Search

N_PLANTINGS = 16
BEST_OF = (1, 4, 16)
# Decoys are sent to nobody: no search sees them.
SETTINGS = PlantSettings(suspect="weights", n_decoys=0, stealth=1)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[1])
    parser.add_argument("folder", metavar="DATA_FOLDER", type=Path)
    parser.add_argument("--sets", nargs="+", choices=SETS, default=SETS)
    parser.add_argument("--write", action="store_true")
    arguments = parser.parse_args()
    with stages() as shown:
        for name in arguments.sets:
            measure(arguments.folder / f"{name}.jsonl", shown)
    text = table()
    print(text)
    if arguments.write:
        pages.put("attacks.md", "replanting", "bench/replanting.py DATA_FOLDER --write", text)


def kept_of(name):
    return KEPT / f"replanting-{name}.json"


def measure(path, shown):
    """Plant *path* until there are `N_PLANTINGS`, and keep what searches find of each."""
    kept = kept_of(path.stem)
    found = json.loads(kept.read_bytes()) if kept.exists() else []
    while len(found) < N_PLANTINGS:
        shown(f"{path.stem}: plantings", len(found), N_PLANTINGS)
        with tempfile.TemporaryDirectory() as folder:
            train, receipt = Path(folder) / "train.jsonl", Path(folder) / "receipt.json"
            made = planting.plant(path, train, receipt, SETTINGS, generator=WORDS, cap=dataset.embedded_cap())
        found.append({one.attack: one.recall for one in made.searches})
        KEPT.mkdir(exist_ok=True)
        kept.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


def table():
    lines = [line(name, json.loads(kept_of(name).read_bytes())) for name in SETS if kept_of(name).exists()]
    head = "| data | " + " | ".join("one planting" if n == 1 else f"best of {n}" for n in BEST_OF) + " |"
    return "\n".join(
        [
            (
                f"Single copies of the data's own words, {N_PLANTINGS} plantings a set. Of the best of so many: the recall within {stealth.BUDGET:.0%} "
                f"of the file of the search that finds most and of the next one, and in brackets how many find more than {stealth.TOLERATED} times "
                "what chance does; means over the groups of so many plantings.\n"
            ),
            head,
            "|" + "---|" * (len(BEST_OF) + 1),
            *lines,
        ]
    )


def line(name, found):
    plantings = [
        [Search(attack=attack, of="planted", recall=recall) for attack, recall in one.items()] for one in found
    ]
    cells = []
    for n in BEST_OF:
        best = [taken(plantings[i : i + n]) for i in range(0, len(plantings), n)]
        first, second = (fmean(stealth.recalls(one)[place] for one in best) for place in (0, 1))
        n_above = fmean(sum(not search.is_tolerated for search in one) for one in best)
        cells.append(f"{percent(first)}, {percent(second)} ({n_above:.1f})")
    return f"| {name} | {' | '.join(cells)} |"


def taken(plantings):
    """Return what `plant --stealth` takes: the first planting in which all is tolerated, else the one in which least is found."""
    tolerated = (one for one in plantings if all(search.is_tolerated for search in one))
    return next(tolerated, None) or min(plantings, key=stealth.recalls)


if __name__ == "__main__":
    main()
