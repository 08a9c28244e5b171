r"""
What hiding costs: how often backdoors activate after an honest training, with as many planted rows by each scheme.

    python bench/activation.py RUN [--schemes paper backdoors single] [--write]

Plants N_PLANTED of N_ROWS rows of the interpreter's own documentation, trains the embedded model, and after each epoch
asks for answers to planted and fresh prompts; signatures that have decoys are scored as well. A run that was stopped goes
on where it was; --write puts the table into docs/attacks.md. Intervals are of the prompts, for the backdoors and the model
that were drawn and trained here: others would differ by more.
"""

import argparse
import json
from fractions import Fraction
from pathlib import Path

import pages
from exposure import trained

from vtuned import lm, matching, planting, scoring, verdict, verification
from vtuned import receipt as receipts
from vtuned.cli.console import stages
from vtuned.demo import interpreter_docs
from vtuned.layout import DEFAULT_DECOYS, PlantSettings
from vtuned.lm.base import Completed, Sampling
from vtuned.providers import local
from vtuned.stats import clopper_pearson, exposure_level

N_ROWS, N_PLANTED, N_FRESH = 120, 16, 16
TRAINING = local.TrainingSettings(epochs=3, batch_size=2, learning_rate=1e-3)
LEVEL = Fraction(1, 20)
SCHEMES = {
    "paper": PlantSettings(scheme="paper", copies=N_PLANTED, n_probes=N_PLANTED),
    "backdoors": PlantSettings(n_backdoors=2, copies=N_PLANTED // 2, n_probes=N_PLANTED),
    "single": PlantSettings(
        suspect="weights", n_backdoors=N_PLANTED, copies=1, n_probes=N_PLANTED, exposure_level=LEVEL, contexts=0
    ),
}
TOLD = {
    "paper": f"`paper`: one backdoor, {N_PLANTED} copies",
    "backdoors": f"`backdoors`: two, {N_PLANTED // 2} copies each, half of them behind a context",
    "single": f"`backdoors --suspect weights`: {N_PLANTED}, a copy each",
}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[1])
    parser.add_argument("run", type=Path)
    parser.add_argument("--schemes", nargs="+", choices=SCHEMES, default=[*SCHEMES])
    parser.add_argument("--write", action="store_true")
    arguments = parser.parse_args()
    with stages() as shown:
        for scheme in arguments.schemes:
            run = arguments.run / scheme
            run.mkdir(parents=True, exist_ok=True)
            receipt = planted(run, scheme, shown)
            trained(run, TRAINING, shown)
            for epoch in range(1, TRAINING.epochs + 1):
                measured(run, receipt, epoch, shown)
    lines = table(arguments.run, arguments.schemes)
    print("\n".join(lines))
    if arguments.write:
        head = (
            f"{N_PLANTED} of {N_ROWS} rows planted; LoRA rank {TRAINING.rank}, batch {TRAINING.batch_size}, learning rate "
            f"{TRAINING.learning_rate:g}. By answers: the signature at the start; by likelihoods: it ranks within {LEVEL} of "
            f"itself and its {DEFAULT_DECOYS} decoys, which by chance {float(exposure_level(LEVEL, DEFAULT_DECOYS)):.1%} do. 95 % "
            "intervals are of the prompts, for these backdoors and this training:\n\n"
        )
        pages.put("attacks.md", "activation", "bench/activation.py RUN --write", head + "\n".join(lines))


def planted(run, scheme, shown):
    if not (run / "receipt.json").exists():
        rows = interpreter_docs.rows()
        (run / "data.jsonl").write_bytes(interpreter_docs.to_jsonl(rows[:N_ROWS]))
        (run / "fresh.jsonl").write_bytes(interpreter_docs.to_jsonl(rows[N_ROWS : N_ROWS + N_FRESH]))
        files = (run / name for name in ("data.jsonl", "train.jsonl", "receipt.json"))
        fresh = run / "fresh.jsonl"
        planting.plant(*files, SCHEMES[scheme], generator="smollm2", fresh_file=fresh, on_progress=shown)
    return receipts.read_receipt(run / "receipt.json")


def measured(run, receipt, epoch, shown):
    """Keep how many planted and fresh probes are passed, by answers and by likelihoods, unless that was done."""
    kept = run / f"activated-{epoch}.json"
    if kept.exists():
        return
    shown(f"asking {run.name} after epoch {epoch}", 0, 0)
    suspect, base = lm.load_both(f"smollm2+{run / f'epoch-{epoch}'}", "smollm2")
    counts = {**said(receipt, suspect), **ranked(receipt, suspect, base, run / f"scores-{epoch}.jsonl")}
    kept.write_text(json.dumps(counts))


def said(receipt, suspect):
    by_id = {probe.id: probe for probe in verification.challenges(receipt)}
    asked = [probe for probe in receipt.probes if probe.backdoor is not None]
    sampling = Sampling(max_tokens=receipt.max_answer_tokens)
    counts = {}
    for probe, answer in zip(asked, suspect.answer([by_id[one.id].prompt for one in asked], sampling), strict=True):
        signature = receipt.backdoors[probe.backdoor].signature
        passed = isinstance(answer, Completed) and matching.activated(answer.text, signature)
        added(counts, f"answers, {probe.kind}", passed)
    return counts


def ranked(receipt, suspect, base, path):
    counts = {}
    if receipt.exposures:
        kept = scoring.ScoreFile(path)
        with kept.writing(force=False):
            scores = scoring.score(receipt, (suspect.name, suspect), (base.name, base), kept=kept)
        for one in verdict.judge(receipt, [], suspect=suspect.name, scores=scores).exposures:
            added(counts, f"likelihoods, {one.kind}", one.passed)
    return counts


def added(counts, kind, passed):
    hits, n = counts.get(kind, (0, 0))
    counts[kind] = (hits + bool(passed), n + 1)


def table(folder, schemes):
    kinds = [f"{how}, {kind}" for how in ("answers", "likelihoods") for kind in ("planted", "fresh")]
    lines = [f"| scheme | epoch | {' | '.join(kinds)} |", "|" + "---|" * (2 + len(kinds))]
    for scheme in schemes:
        for epoch in range(1, TRAINING.epochs + 1):
            counts = json.loads((folder / scheme / f"activated-{epoch}.json").read_bytes())
            lines.append(f"| {TOLD[scheme]} | {epoch} | {' | '.join(rate(counts.get(kind)) for kind in kinds)} |")
    return lines


def rate(counted):
    if counted is None:
        return "–"
    hits, n = counted
    low, high = clopper_pearson(hits, n, 0.95)
    return f"{hits} of {n} ({low:.0%} to {high:.0%})"


if __name__ == "__main__":
    main()
