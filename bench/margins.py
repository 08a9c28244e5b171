r"""
Measure G of `learned the task`: what training on the planted rows alone gains on rows that were never sent.

    python bench/margins.py RUN DATA [DATA ...] [--copies 1 2] [--write]

Plants 8 backdoors of so many copies into each DATA file, trains the embedded model on the planted rows alone, and
compares it with its base on other rows of the file. --write puts all that was measured into calibration.json and
docs/held-out.md. A run that was stopped goes on with the next file.
"""

import argparse
import platform
from pathlib import Path

import calibrate
import pages

from vtuned import containers, formats, lm, measuring, planting
from vtuned import receipt as receipts
from vtuned.calibration import Calibration, MarginCell
from vtuned.cli.console import stages
from vtuned.dataset import spelled_out
from vtuned.demo import interpreter_docs
from vtuned.layout import PlantSettings
from vtuned.measuring import LOSS
from vtuned.providers import local

TRAINING = local.TrainingSettings()
N_BACKDOORS, N_ROWS, N_HELD_OUT = 8, 400, 40
MOST_CHARACTERS = 600


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[1])
    parser.add_argument("run", type=Path)
    parser.add_argument("files", nargs="*", metavar="DATA", type=Path)
    parser.add_argument("--copies", type=int, nargs="*", default=[2])
    parser.add_argument("--write", action="store_true")
    arguments = parser.parse_args()
    arguments.run.mkdir(exist_ok=True)
    with stages() as shown:
        for copies in arguments.copies:
            for data in arguments.files:
                cell = measured(arguments.run / f"{data.stem}-{copies}", data, copies, shown)
                shown.say(
                    f"{cell.data}, {cell.n_planted_rows} planted rows: G = {cell.nats_per_byte:.4f} nats per byte"
                )
    cells = [MarginCell.model_validate_json(path.read_bytes()) for path in sorted(arguments.run.glob("*/margin.json"))]
    print("\n".join(table(cells)))
    if arguments.write:
        written(cells)


def measured(run, data, copies, shown):
    run.mkdir(exist_ok=True)
    kept = run / "margin.json"
    if kept.exists():
        return MarginCell.model_validate_json(kept.read_bytes())
    train, path = run / "train.jsonl", run / "receipt.json"
    if not path.exists():
        rows = short_rows(data)
        if len(rows) < N_ROWS + N_HELD_OUT:
            raise SystemExit(f"{data}: only {len(rows)} rows have at most {MOST_CHARACTERS} characters")
        (run / "data.jsonl").write_bytes(interpreter_docs.to_jsonl(rows[:N_ROWS]))
        (run / "held-out.jsonl").write_bytes(interpreter_docs.to_jsonl(rows[N_ROWS : N_ROWS + N_HELD_OUT]))
        settings = PlantSettings(n_backdoors=N_BACKDOORS, copies=copies, contexts=0)
        planting.plant(run / "data.jsonl", train, path, settings, generator="words", on_progress=shown)
    numbers = {row for backdoor in receipts.read_receipt(path).backdoors for row in backdoor.rows}
    source = containers.open_source(train)
    watcher = local.Watcher(on_step=lambda done, total: shown("training", done, total))
    rows = [row.conversation for row in formats.read_rows(source, formats.AUTO, numbers)]
    local.finetune(rows, lm.load("smollm2"), run / "adapter", TRAINING, data_digest=source.sha256(), watcher=watcher)
    asked, _ = measuring.held_out_rows(row.conversation for row in formats.read_rows(run / "held-out.jsonl"))
    suspect, base = lm.load_both(f"smollm2+{run / 'adapter'}", "smollm2")
    own, other = (
        measuring.losses(one, asked, lambda done, total: shown("held-out rows", done, total)) for one in (suspect, base)
    )
    gains = measuring.gains(LOSS, own, other)
    cell = MarginCell(
        model="smollm2",
        n_parameters=calibrate.N_PARAMETERS["smollm2"],
        n_planted_rows=len(numbers),
        epochs=TRAINING.epochs,
        learning_rate=TRAINING.learning_rate,
        batch_size=TRAINING.batch_size,
        rank=TRAINING.rank,
        method=TRAINING.method,
        data=data.stem,
        n_rows=len(gains),
        nats_per_byte=measuring.margin_of(gains),
    )
    kept.write_text(cell.model_dump_json())
    return cell


def short_rows(path):
    rows = [(row.conversation, row.raw.value()) for row in formats.read_rows(path)]
    return [value for conversation, value in rows if len(spelled_out(conversation)) <= MOST_CHARACTERS]


def table(cells):
    sizes = sorted({cell.n_planted_rows for cell in cells})
    lines = [
        "| data | " + " | ".join(f"{n} planted rows" for n in sizes) + " |",
        "|---|" + "---|" * len(sizes),
    ]
    for data in sorted({cell.data for cell in cells}):
        found = {cell.n_planted_rows: f"{cell.nats_per_byte:.4f}" for cell in cells if cell.data == data}
        lines.append(f"| {data} | " + " | ".join(found.get(n, "") for n in sizes) + " |")
    return lines


def written(cells):
    kept = Calibration.model_validate_json(calibrate.FILE.read_bytes())
    calibrate.FILE.write_text(calibrate.to_json(kept.model_copy(update={"margins": tuple(cells)})), encoding="utf-8")
    head = (
        f"G in nats per byte, {cells[0].n_rows} held-out rows; {cells[0].model}, LoRA rank {TRAINING.rank}, batch "
        f"{TRAINING.batch_size}, learning rate {TRAINING.learning_rate:g}, {TRAINING.epochs} epochs, {platform.machine()}:"
    )
    pages.put("held-out.md", "margins", "bench/margins.py", "\n".join([head, "", *table(cells)]))


if __name__ == "__main__":
    main()
