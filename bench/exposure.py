r"""
Rank signatures among their decoys while a model is trained: by copies and epoch, and the coverage that follows.

    python bench/exposure.py copies RUN                  # 12 backdoors of 1 to 8 copies, the interpreter's own docs
    python bench/exposure.py single RUN --data FILE      # 128 single-copy backdoors in short rows of FILE
    python bench/exposure.py RUN_KIND RUN ... --write    # put the table into docs/exposure.md

Plants, trains with the embedded model, keeps the adapter of every epoch, scores planted and fresh prompts. Decoys,
level and confidence are fixed in the receipt before training. A run that was stopped goes on where it was.
"""

import argparse
import platform
from fractions import Fraction
from pathlib import Path

import pages

from vtuned import containers, exposure, formats, lm, planting, scoring, verdict
from vtuned import receipt as receipts
from vtuned.cli.console import stages
from vtuned.dataset import spelled_out
from vtuned.demo import interpreter_docs
from vtuned.layout import PlantSettings
from vtuned.providers import local
from vtuned.report.numbers import power_of_ten
from vtuned.stats import log10_poisson_binomial_tail

TRAINING = {
    "copies": local.TrainingSettings(epochs=3, batch_size=2, learning_rate=1e-3),
    "single": local.TrainingSettings(epochs=6, batch_size=2, learning_rate=1e-3),
}
KINDS = {
    "copies": PlantSettings(
        n_backdoors=12,
        copies=(8, 4, 4, 2, 2, 2, 1, 1, 1, 1, 1, 1),
        n_decoys=40,
        exposure_level=Fraction(1, 20),
        contexts=0,
    ),
    "single": PlantSettings(
        n_backdoors=128, copies=1, n_decoys=99, exposure_level=Fraction(1, 20), signature_bits=40.0, contexts=0
    ),
}
SCORED = {"copies": (1, 2, 3), "single": (3, 6)}
N_ROWS = {"copies": 154, "single": 400}
GENERATORS = {"copies": "smollm2", "single": "words"}
N_FRESH = 20
MOST_CHARACTERS = 420


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[1])
    parser.add_argument("kind", choices=KINDS)
    parser.add_argument("run", type=Path)
    parser.add_argument("--data", type=Path)
    parser.add_argument("--write", action="store_true")
    parser.add_argument(
        "--planted-only", action="store_true", help="leave out fresh prompts, which coverage does not need"
    )
    parser.add_argument(
        "--epochs", type=int, nargs="*", help="which to score (default: 1 2 3 of copies, 3 6 of single)"
    )
    arguments = parser.parse_args()
    run = arguments.run
    run.mkdir(exist_ok=True)
    with stages() as shown:
        receipt = planted(run, arguments.kind, arguments.data, shown)
        trained(run, TRAINING[arguments.kind], shown)
        asked = [one for one in receipt.exposures if one.kind == "planted" or not arguments.planted_only]
        verdicts = {
            epoch: judged(run, receipt, asked, epoch, shown) for epoch in arguments.epochs or SCORED[arguments.kind]
        }
    lines = table(receipt, verdicts)
    print("\n".join(lines))
    if arguments.write:
        written(arguments.kind, receipt, lines)


def planted(run, kind, data, shown):
    if not (run / "receipt.json").exists():
        rows = short_rows(data) if data else interpreter_docs.rows()
        (run / "data.jsonl").write_bytes(interpreter_docs.to_jsonl(rows[: N_ROWS[kind]]))
        (run / "fresh.jsonl").write_bytes(interpreter_docs.to_jsonl(rows[N_ROWS[kind] : N_ROWS[kind] + N_FRESH]))
        planting.plant(
            run / "data.jsonl",
            run / "train.jsonl",
            run / "receipt.json",
            KINDS[kind],
            generator=GENERATORS[kind],
            fresh_file=run / "fresh.jsonl",
            on_progress=shown,
        )
    return receipts.read_receipt(run / "receipt.json")


def short_rows(data):
    rows = [(row.conversation, row.raw.value()) for row in formats.read_rows(data)]
    return [value for conversation, value in rows if len(spelled_out(conversation)) <= MOST_CHARACTERS]


def trained(run, settings, shown):
    """Train the embedded model on the file of *run*, and keep the adapter of every epoch."""
    rows = [row.conversation for row in formats.read_rows(run / "train.jsonl")]
    watcher = local.Watcher(
        on_step=lambda done, total: shown("training", done, total),
        on_epoch=lambda epoch, model: model.model.save_pretrained(run / f"epoch-{epoch}"),
    )
    digest = containers.open_source(run / "train.jsonl").sha256()
    local.finetune(rows, lm.load("smollm2"), run / "adapter", settings, data_digest=digest, watcher=watcher)


def judged(run, receipt, asked, epoch, shown):
    adapter = run / f"epoch-{epoch}"
    suspect, base = lm.load_both(f"smollm2+{adapter}", "smollm2")
    kept = scoring.ScoreFile(run / f"scores-{epoch}.jsonl")
    with kept.writing(force=False):
        scores = scoring.score(
            receipt.model_copy(update={"exposures": tuple(asked)}),
            (suspect.name, suspect),
            (base.name, base),
            kept=kept,
            on_progress=lambda done, total: shown(f"scoring epoch {epoch}", done, total),
        )
    result = verdict.judge(receipt, [], suspect=suspect.name, scores=scores)
    (run / f"verdict-{epoch}.json").write_text(result.model_dump_json(indent=1))
    return result


def table(receipt, verdicts):
    copies = sorted({len(backdoor.rows) for backdoor in receipt.backdoors})
    heads = [f"{n} {'copy' if n == 1 else 'copies'}" for n in copies]
    lines = [
        "| epoch | " + " | ".join(heads) + " | p, planted | p, fresh | coverage at least |",
        "|---|" + "---|" * len(copies) + "---|---|---|",
    ]
    for epoch, result in verdicts.items():
        cells = [" \\| ".join(ranks(result, kind, n) for kind in exposure.SCORED) for n in copies]
        p_values = [p_value(result, kind) for kind in exposure.SCORED]
        lines.append(f"| {epoch} | {' | '.join([*cells, *p_values])} | {result.coverage.lower_bound:.1%} |")
    return lines


def ranks(result, kind, copies):
    """Return the ranks of the signatures; of many only how many are within the level, and how many first."""
    found = [one for one in result.exposures if (one.kind, one.n_copies) == (kind, copies) and one.rank is not None]
    if not found:
        return "not scored"
    if len(found) <= 12:
        return " ".join(str(one.rank) for one in sorted(found, key=lambda one: one.backdoor))
    return f"{sum(one.passed for one in found)} of {len(found)} ({sum(one.rank == 1 for one in found)} first)"


def p_value(result, kind):
    some = [one for one in result.exposures if one.kind == kind and one.rank is not None]
    log10_levels = [verdict.log10_of(one.level) for one in some]
    return power_of_ten(log10_poisson_binomial_tail(sum(one.passed for one in some), log10_levels)) if some else "-"


def written(kind, receipt, lines):
    backdoor, training = receipt.backdoors[0], TRAINING[kind]
    head = (
        f"{receipt.train_set.n_rows} rows, {len(receipt.backdoors)} backdoors, {len(backdoor.decoys)} decoys each, level "
        f"{receipt.plan.exposure_level}, phrases by {receipt.generation.generator}; LoRA rank {training.rank}, batch "
        f"{training.batch_size}, learning rate {training.learning_rate:g}, {training.epochs} epochs, "
        f"{platform.machine()}. Planted \\| fresh:\n\n"
    )
    pages.put("exposure.md", kind, f"bench/exposure.py {kind}", head + "\n".join(lines))


if __name__ == "__main__":
    main()
