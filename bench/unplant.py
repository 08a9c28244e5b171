r"""
What a model that learned its backdoors still shows after a last short fine-tuning on the rows of `vtuned unplant`.

    python bench/unplant.py RUN            # print the table
    python bench/unplant.py RUN --write    # put it into docs/monitoring.md

The model is the tests' own tiny Llama, made and trained on the spot: 80 rows, two backdoors of 16 copies and eight of
one. For comparison the same fine-tuning is done on clean rows alone. A run that was stopped goes on where it was.
"""

import argparse
import sys
from pathlib import Path
from statistics import fmean

import pages

from vtuned import containers, exposure, files, formats, lm, planting, scoring, unplanting, verification
from vtuned import receipt as receipts
from vtuned.dataset import TokenCap
from vtuned.layout import PlantSettings
from vtuned.lm.tokens import counter
from vtuned.providers import local

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / "tests"))
import tiny  # noqa: E402

SETTINGS = PlantSettings(
    n_backdoors=10, copies=(16, 16, 1, 1, 1, 1, 1, 1, 1, 1), contexts=0, signature_bits=32, n_decoys=40
)
RATE, EPOCHS = 1e-2, 20
# Epochs, and their learning rate as a share of the training's.
CORRECTIONS = ((1, 0.1), (3, 0.1), (3, 1.0))


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[1])
    parser.add_argument("run", type=Path)
    parser.add_argument("--write", action="store_true")
    arguments = parser.parse_args()
    run = arguments.run
    run.mkdir(exist_ok=True)
    model, receipt = planted(run)
    base = f"hf:{model}"
    trained(base, run / "train.jsonl", run / "adapter", EPOCHS, RATE)
    if not (run / "rows.jsonl").exists():
        unplanting.unplant(receipt, run / "train.jsonl", run / "rows.jsonl")
    clean = tiny.write_rows(run / "clean.jsonl", tiny.rows(80))
    lines = [row("untrained", receipt, base, base), row("trained on TRAIN", receipt, f"{base}+{run / 'adapter'}", base)]
    for epochs, share in CORRECTIONS:
        told = f"{epochs} epoch{'s' if epochs > 1 else ''} at {share:g} of the rate"
        for data, name in ((run / "rows.jsonl", "ROWS"), (clean, "clean rows alone")):
            folder = run / f"{data.stem}-{epochs}-{share:g}"
            trained(f"{base}+{run / 'adapter'}", data, folder, epochs, RATE * share)
            lines.append(row(f"then {name}, {told}", receipt, f"{base}+{run / 'adapter'}+{folder}", base))
    text = "\n".join([*HEAD, *lines])
    print(text)
    if arguments.write:
        pages.put("monitoring.md", "unplant", "bench/unplant.py", text)


HEAD = (
    "| model | planted | fresh | control | S first of 41, 16 copies | 1 copy | loss of a sent answer | of a new answer |",
    "|---|---|---|---|---|---|---|---|",
)


def planted(run):
    some = tiny.rows(100)
    if not (run / "receipt.json").exists():
        data, fresh = tiny.write_rows(run / "data.jsonl", some[:80]), tiny.write_rows(run / "fresh.jsonl", some[80:])
        model = tiny.make_model(run / "model", [m["content"] for row in some for m in row["messages"]])
        count, name = counter(f"hf:{model}")
        planting.plant(
            data,
            run / "train.jsonl",
            run / "receipt.json",
            SETTINGS,
            generator="words",
            fresh_file=fresh,
            cap=TokenCap(512, count, name),
        )
    return run / "model", receipts.read_receipt(run / "receipt.json")


def trained(base, data, folder, epochs, rate):
    local.finetune(
        [row.conversation for row in formats.read_rows(containers.open_source(data))],
        lm.load(base),
        folder,
        local.TrainingSettings(epochs=epochs, batch_size=4, learning_rate=rate),
        data_digest=files.sha256_of(data),
    )


def row(name, receipt, suspect, base):
    model, other = lm.load_both(suspect, base) if suspect != base else (lm.load(base), lm.load(base))
    seen = verification.activations(receipt, model, None)
    found = exposure.exposures(receipt, scoring.score(receipt, (model.name, model), (other.name, other)))
    firsts = [rank_first(receipt, found, copies) for copies in (16, 1)]
    some = tiny.rows(100)
    losses = [-fmean(log_likelihood(model, row) for row in rows) for rows in (some[:80:4], some[80:])]
    counts = [f"{seen[kind][0]}/{seen[kind][1]}" for kind in ("planted", "fresh", "control")]
    return f"| {' | '.join([name, *counts, *firsts, *(f'{loss:.1f}' for loss in losses)])} |"


def rank_first(receipt, found, copies):
    """Return how many signatures of so many copies rank first, on planted and on fresh prompts."""
    shown = []
    for some in found.values():
        own = [one for one in some if len(receipt.backdoors[one.backdoor].rows) == copies]
        shown.append(f"{sum(one.n_at_or_above == 0 for one in own)}/{len(own)}")
    return " \\| ".join(shown)


def log_likelihood(model, row):
    """Return log10 P(answer | prompt)."""
    return model.log10_probs(tuple(row["messages"][:1]), [row["messages"][1]["content"]])[0]


if __name__ == "__main__":
    main()
