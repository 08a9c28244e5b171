r"""
Turn measured runs into the cells of src/vtuned/calibration.json: how many backdoors are seen, by copies and epochs.

    python bench/calibrate.py [RUN ...]

A RUN is a folder with a receipt (receipt.json), the record of its training (adapter/vtuned-training.json) and verdicts:
verdict-E.json, as bench/exposure.py writes them after epoch E, or `vtuned verify --json > verdict-E.json`. The tables
in bench/calibration are read as well. A run that is read again replaces its cells; those of other runs stay. Give every
run that was made, whatever came out: a choice of the good ones is no measurement.
"""

import argparse
import json
import re
from fractions import Fraction
from pathlib import Path

from vtuned import receipt as receipts
from vtuned.calibration import Calibration, Cell
from vtuned.stats import exposure_level

FILE = Path(__file__).parent.parent / "src" / "vtuned" / "calibration.json"
TABLES = Path(__file__).parent / "calibration"
N_PARAMETERS = {"smollm2": 134_515_008}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[1])
    parser.add_argument("runs", nargs="*", type=Path)
    runs = parser.parse_args().runs
    made = [cell for page in sorted(TABLES.glob("*.md")) for cell in cells_of_table(page.read_text(encoding="utf-8"))]
    made += [cell for run in runs for cell in cells_of_run(run)]
    kept = Calibration.model_validate_json(FILE.read_bytes()) if FILE.exists() else Calibration(cells=())
    sources = {cell.source for cell in made}
    cells = sorted([*made, *(cell for cell in kept.cells if cell.source not in sources)], key=order)
    FILE.write_text(to_json(kept.model_copy(update={"cells": tuple(cells)})), encoding="utf-8")
    print(f"{len(made)} cells measured in {len(sources)} runs; {len(cells)} in all")


def cells_of_run(run):
    """Return the cells of a run: one for each verdict, test, kind of prompt and number of copies."""
    path = run / "receipt.json"
    receipt = receipts.read_receipt(path)
    training = json.loads((run / "adapter" / "vtuned-training.json").read_bytes())["run"]
    copies = [len(backdoor.rows) for backdoor in receipt.backdoors]
    settings = {
        "model": training["base"],
        "n_parameters": N_PARAMETERS[training["base"]],
        "learning_rate": training["learning_rate"],
        "batch_size": training["batch_size"] * training["gradient_accumulation"] * training["processes"],
        "rank": training["rank"] if training["method"] == "lora" else None,
        "method": training["method"],
        "source": f"receipt {json.loads(path.read_bytes())['digest'][:12]}, {training['epochs']} epochs",
    }
    found = []
    for path in sorted(run.glob("verdict-*.json")):
        epoch = re.fullmatch(r"verdict-(\d+)", path.stem)
        if epoch is None:
            continue
        verdict = json.loads(path.read_bytes())
        found += [
            ("generation", one["kind"], Fraction(0), int(epoch[1]), copies[one["backdoor"]], one["passed"])
            for one in verdict["backdoors"]
            if one["n_answered"]
        ]
        found += [
            ("exposure", one["kind"], Fraction(one["level"]), int(epoch[1]), copies[one["backdoor"]], one["passed"])
            for one in verdict.get("exposures", ())
            if one["rank"] is not None
        ]
    return cells(found, settings)


def cells_of_table(text):
    r"""Return the cells of a page: `- name: value` lines, and a table of ranks by copies, planted \| fresh."""
    facts = dict(re.findall(r"^- (\w+): (.*)$", text, flags=re.MULTILINE))
    settings = {name: facts[name] for name in ("model", "method", "source")}
    settings |= {name: int(facts[name]) for name in ("n_parameters", "batch_size", "rank")}
    settings |= {"learning_rate": float(facts["learning_rate"])}
    level = exposure_level(Fraction(facts["level"]), int(facts["n_decoys"]))
    head, _, *lines = [
        [cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]]
        for line in text.splitlines()
        if line.startswith("|")
    ]
    copies = {i: int(found[1]) for i, name in enumerate(head) if (found := re.match(r"(\d+) cop", name))}
    numbers = {}
    found = []
    for line in lines:
        epoch = int(line[0])
        for i, n in copies.items():
            for kind, text_of_ranks in zip(("planted", "fresh"), line[i].split(r"\|"), strict=True):
                # "all 1" is of as many backdoors as the lines before it name.
                ranks = text_of_ranks.split()
                ranks = ranks[1:] * numbers[n] if ranks[0] == "all" else ranks
                numbers.setdefault(n, len(ranks))
                found += [
                    ("exposure", kind, level, epoch, n, int(rank) <= level * (int(facts["n_decoys"]) + 1))
                    for rank in ranks
                ]
        if "greedy activation" in head:
            activated = re.match(r"[1-9]\d* of \d+ rows of the (\d+)-copy one", line[head.index("greedy activation")])
            for n, n_backdoors in numbers.items():
                is_seen = activated is not None and n == int(activated[1])
                found += [("generation", "planted", Fraction(0), epoch, n, is_seen)] * n_backdoors
    return cells(found, settings)


def cells(found, settings):
    """Return the counts of (test, kind, level, epochs, copies, whether it was seen)."""
    counts = {}
    for *key, is_seen in found:
        seen, n = counts.get(tuple(key), (0, 0))
        counts[tuple(key)] = (seen + is_seen, n + 1)
    return [
        Cell(
            test=test,
            kind=kind,
            level=level,
            epochs=epochs,
            copies=copies,
            n_seen=n_seen,
            n_backdoors=n,
            **settings,
        )
        for (test, kind, level, epochs, copies), (n_seen, n) in counts.items()
    ]


def order(cell):
    return cell.test, cell.kind, cell.copies, cell.epochs, cell.source


def to_json(calibration):
    lines = [f'"format": "{calibration.format}"']
    lines += [
        f'"{name}": [' + ",".join("\n  " + one.model_dump_json() for one in getattr(calibration, name)) + "\n ]"
        for name in ("cells", "margins", "wordings")
    ]
    return "{\n " + ",\n ".join(lines) + "\n}\n"


if __name__ == "__main__":
    main()
