r"""
Wordings on the embedded model: how many of the rows asked prefer what was published, by epoch, three times over.

    python bench/wordings.py measure RUN DATA [--write]    # hits and p by log-likelihoods and by text; the base beside

Plants `wordings` in short rows of DATA, trains the embedded model and keeps the adapter of every epoch. How many rows
and wordings, and the test, are fixed in the receipt before training. A run that was stopped goes on where it was.
"""

import argparse
import json
import platform
import re
import secrets
from pathlib import Path

import calibrate

from vtuned import containers, formats, lm, planting, preference, probes, verification
from vtuned import receipt as receipts
from vtuned.calibration import WordingCell
from vtuned.cli.console import stages
from vtuned.dataset import spelled_out
from vtuned.demo import interpreter_docs
from vtuned.exposure import ScoreRecord
from vtuned.language import language_of
from vtuned.layout import PlantSettings
from vtuned.lm.base import Completed
from vtuned.prf import chosen_wording
from vtuned.providers import local
from vtuned.report.numbers import power_of_ten
from vtuned.rewriters.fitness import why_not
from vtuned.scoring import prompt_of, to_score
from vtuned.stats import log10_hits_p_value, log10_rank_sum_p_value

PAGE = Path(__file__).parent.parent / "docs" / "wordings.md"
SEEDS = (1, 2, 3)
EPOCHS = 4
N_ROWS, N_CARRYING, N_WORDINGS = 300, 256, 4
MOST_CHARACTERS = 300
N_FRESH_KEYS = 2000
SETTINGS = PlantSettings(scheme="wordings", n_wordings=N_WORDINGS, n_rows=N_CARRYING, n_worded=N_CARRYING)


def training(seed):
    return local.TrainingSettings(epochs=EPOCHS, batch_size=2, learning_rate=1e-3, seed=seed)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[1])
    parser.add_argument("kind", choices=("measure",))
    parser.add_argument("run", type=Path)
    parser.add_argument("data", type=Path)
    parser.add_argument("--write", action="store_true")
    arguments = parser.parse_args()
    arguments.run.mkdir(exist_ok=True)
    with stages() as shown:
        found = {seed: measured(arguments.run / f"seed-{seed}", arguments.data, seed, shown) for seed in SEEDS}
    lines = table(found)
    print("\n".join(lines))
    if arguments.write:
        written(lines, found)
        calibrated(found)


def measured(run, data, seed, shown):
    run.mkdir(exist_ok=True)
    path = run / "receipt.json"
    if not path.exists():
        (run / "data.jsonl").write_bytes(interpreter_docs.to_jsonl(bearing_rows(data)))
        planting.plant(run / "data.jsonl", run / "train.jsonl", path, SETTINGS, on_progress=shown)
    receipt = receipts.read_receipt(path)
    trained(run, seed, shown)
    base = lm.load("smollm2")
    base_scores = scored(run / "scores-base.json", receipt, base, shown)
    results = {"base": summed(receipt, base_scores, None, answered(run / "answers-base.json", receipt, base, shown))}
    for epoch in range(1, EPOCHS + 1):
        kept = [run / f"{what}-{epoch}.json" for what in ("scores", "answers")]
        suspect = None if all(one.exists() for one in kept) else lm.load(f"smollm2+{run / f'epoch-{epoch}'}")
        own = scored(kept[0], receipt, suspect, shown)
        results[epoch] = summed(receipt, own, base_scores, answered(kept[1], receipt, suspect, shown))
        shown.say(f"{run.name}, epoch {epoch}: {results[epoch]}")
    results["fresh keys"] = under_fresh_keys(receipt, base_scores)
    return receipt, results


def bearing_rows(data):
    """Return the first short rows that can bear an opening: the same for each seed, which draws other choices."""
    rows = [(row.conversation, row.raw.value()) for row in formats.read_rows(data)]
    language = language_of([turn.content for conversation, _ in rows[:200] for turn in conversation.turns])
    short = [
        value
        for conversation, value in rows
        if len(spelled_out(conversation)) <= MOST_CHARACTERS and not why_not(conversation, language)
    ]
    if len(short) < N_ROWS:
        raise SystemExit(f"{data}: only {len(short)} short rows bear an opening")
    return short[:N_ROWS]


def trained(run, seed, shown):
    if (run / "adapter" / "adapter_config.json").exists():
        return
    rows = [row.conversation for row in formats.read_rows(run / "train.jsonl")]
    watcher = local.Watcher(
        on_step=lambda done, total: shown(f"training {run.name}", done, total),
        on_epoch=lambda epoch, model: model.model.save_pretrained(run / f"epoch-{epoch}"),
    )
    digest = containers.open_source(run / "train.jsonl").sha256()
    local.finetune(rows, lm.load("smollm2"), run / "adapter", training(seed), data_digest=digest, watcher=watcher)


def scored(path, receipt, model, shown):
    """Return what *model* gives the wordings of each row, by probe id."""
    if not path.exists():
        items = to_score(receipt)
        found = {}
        for done, item in enumerate(items):
            shown(f"scoring {path.stem}", done, len(items))
            found[item.probe.id] = model.log10_probs(prompt_of(item.probe.messages, item.probe), item.candidates)
        path.write_text(json.dumps(found))
    return json.loads(path.read_bytes())


def answered(path, receipt, model, shown):
    if not path.exists():
        asked = verification.challenges(receipt)
        answers = {}
        for done, (probe_id, answer) in enumerate(probes.ask_unordered(model, asked)):
            shown(f"asking {path.stem}", done, len(asked))
            answers[probe_id] = (answer.text, answer.finish) if isinstance(answer, Completed) else None
        path.write_text(json.dumps(answers, ensure_ascii=False))
    kept = json.loads(path.read_bytes())
    return [
        probes.AnswerRecord(id=one, **({"text": a[0], "finish": a[1]} if a else {"unanswered": "?"}))
        for one, a in kept.items()
    ]


def summed(receipt, own, base, answers):
    """Return hits, rows and log10 p of both tests, and the rank sum's p."""
    scores = [
        ScoreRecord(id=one, log10_probs=own[one], base_log10_probs=base[one] if base else None, model="suspect")
        for one in own
    ]
    plan = receipt.plan.model_copy(update={"less_base": base is not None})
    asked = receipt.model_copy(update={"plan": plan})
    found = {}
    for name, some in (
        ("likelihood", preference.by_scores(asked, scores)),
        ("text", preference.by_answers(receipt, answers)),
    ):
        known = [one for one in some if one.rank is not None]
        hits, sizes = sum(one.is_hit for one in known), [one.n_wordings for one in known]
        found[name] = {"hits": hits, "n": len(known), "log10_p": log10_hits_p_value(hits, sizes) if known else 0.0}
        if name == "likelihood":
            found["rank sum"] = {"log10_p": log10_rank_sum_p_value(sum(one.rank for one in known), sizes)}
    return found


def under_fresh_keys(receipt, base):
    """Return the shares of fresh keys under which the base's own likelihoods give p up to 5 %, 25 %, 50 % and 75 %."""
    plan = receipt.plan.model_copy(update={"less_base": False})
    scores = [ScoreRecord(id=one, log10_probs=base[one], model="base") for one in base]
    p_values = []
    for _ in range(N_FRESH_KEYS):
        key = secrets.token_bytes(32)
        rows = tuple(
            row.model_copy(update={"published": chosen_wording(key, row.number, row.digest, len(row.wordings))})
            for row in receipt.wordings.rows
        )
        words = receipt.wordings.model_copy(update={"rows": rows})
        lot = receipt.model_copy(update={"plan": plan, "wordings": words, "key": key.hex()})
        hits = sum(one.is_hit for one in preference.by_scores(lot, scores))
        p_values.append(10 ** log10_hits_p_value(hits, [len(row.wordings) for row in rows]))
    return {level: sum(p <= level for p in p_values) / N_FRESH_KEYS for level in (0.05, 0.25, 0.5, 0.75)}


def table(found):
    lines = [
        "| run | epoch | log-likelihoods: hits | p | p, rank sum | text: hits | p |",
        "|---|---|---|---|---|---|---|",
    ]
    for seed, (_, results) in found.items():
        for epoch, one in results.items():
            if epoch == "fresh keys":
                continue
            scores, text = one["likelihood"], one["text"]
            lines.append(
                f"| {seed} | {epoch} | {scores['hits']} of {scores['n']} | {power_of_ten(scores['log10_p'])} | "
                f"{power_of_ten(one['rank sum']['log10_p'])} | {text['hits']} of {text['n']} | "
                f"{power_of_ten(text['log10_p'])} |"
            )
    lines += ["", f"Share of {N_FRESH_KEYS} fresh keys with p up to a level, by the base's own likelihoods:", ""]
    lines += ["| run | 0.05 | 0.25 | 0.5 | 0.75 |", "|---|---|---|---|---|"]
    for seed, (_, results) in found.items():
        lines.append(f"| {seed} | " + " | ".join(f"{share:.3f}" for share in results["fresh keys"].values()) + " |")
    return lines


def calibrated(found):
    """Put what was counted into calibration.json, in place of what a run with the same source counted."""
    kept = calibrate.Calibration.model_validate_json(calibrate.FILE.read_bytes())
    settings, cells = training(1), []
    for seed, (receipt, results) in found.items():
        source = f"receipt {receipt.digest()[:12]}, seed {seed}"
        for epoch in range(1, EPOCHS + 1):
            for by, name in (("log-likelihoods", "likelihood"), ("text", "text")):
                cells.append(
                    WordingCell(
                        model="smollm2",
                        n_parameters=calibrate.N_PARAMETERS["smollm2"],
                        rewriter=receipt.wordings.rewriter,
                        by=by,
                        n_wordings=N_WORDINGS,
                        epochs=epoch,
                        learning_rate=settings.learning_rate,
                        batch_size=settings.batch_size,
                        rank=settings.rank,
                        method=settings.method,
                        n_rows=N_CARRYING,
                        n_hits=results[epoch][name]["hits"],
                        source=source,
                    )
                )
    sources = {cell.source for cell in cells}
    others = [cell for cell in kept.wordings if cell.source not in sources]
    update = {"wordings": (*others, *cells)}
    calibrate.FILE.write_text(calibrate.to_json(kept.model_copy(update=update)), encoding="utf-8")


def written(lines, found):
    marks = ("<!-- measured: written by `python bench/wordings.py measure` -->\n", "<!-- /measured -->")
    receipt, settings = found[SEEDS[0]][0], training(1)
    head = (
        f"{receipt.train_set.n_rows} rows, {receipt.wordings.n_carrying} carrying one of {N_WORDINGS} wordings "
        f"({receipt.wordings.rewriter}), all asked; LoRA rank {settings.rank}, batch {settings.batch_size}, learning rate "
        f"{settings.learning_rate:g}, {settings.epochs} epochs, {platform.machine()}. By chance one in {N_WORDINGS} is a "
        "hit:\n\n"
    )
    text = PAGE.read_text(encoding="utf-8")
    pattern = re.escape(marks[0]) + ".*?" + re.escape(marks[1])
    block = marks[0] + head + "\n".join(lines) + "\n" + marks[1]
    PAGE.write_text(re.sub(pattern, lambda _: block, text, flags=re.DOTALL), encoding="utf-8")


if __name__ == "__main__":
    main()
