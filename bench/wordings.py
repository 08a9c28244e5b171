r"""
Wordings on the embedded model: how many of the rows asked prefer what was published, by epoch, three times over.

    python bench/wordings.py measure RUN DATA [--write]    # hits and p by log-likelihoods and by text; the base beside
    python bench/wordings.py downstream RUN DATA [--write] # what wordings do to the task, beside plain fine-tuning

Plants `wordings` in short rows of DATA, trains the embedded model and keeps the adapter of every epoch. How many rows
and wordings, and the test, are fixed in the receipt before training. A run that was stopped goes on where it was. What
each seed gave is kept in bench/measured/, too, so that seeds can be measured on several machines (--seeds 2); to
measure one anew, delete its file. `downstream` trains on the same rows as they were, in the same order with the same seed, and compares the two models on
rows of DATA that neither saw.
"""

import argparse
import json
import platform
import re
import secrets
from pathlib import Path
from statistics import fmean as mean

import calibrate
import pages

from vtuned import containers, formats, lm, measuring, planting, preference, probes, verification
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
from vtuned.stats import log10_hits_p_value, log10_rank_sum_p_value, signed_rank_interval

KEPT = Path(__file__).parent / "measured"
SEEDS = (1, 2, 3)
EPOCHS = 4
N_ROWS, N_CARRYING, N_WORDINGS = 300, 256, 4
MOST_CHARACTERS = 300
N_FRESH_KEYS = 2000
N_HELD_OUT = 150
CONFIDENCE = 0.95
SETTINGS = PlantSettings(scheme="wordings", n_wordings=N_WORDINGS, n_rows=N_CARRYING, n_worded=N_CARRYING)


def training(seed):
    return local.TrainingSettings(epochs=EPOCHS, batch_size=2, learning_rate=1e-3, seed=seed)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[1])
    parser.add_argument("kind", choices=("measure", "downstream"))
    parser.add_argument("run", type=Path)
    parser.add_argument("data", type=Path)
    parser.add_argument("--write", action="store_true")
    parser.add_argument("--seeds", type=int, nargs="+", choices=SEEDS, default=SEEDS)
    arguments = parser.parse_args()
    arguments.run.mkdir(exist_ok=True)
    with stages() as shown:
        if arguments.kind == "measure":
            for seed in arguments.seeds:
                if not kept_of(seed).exists():
                    one = measured(arguments.run / f"seed-{seed}", arguments.data, seed, shown)
                    KEPT.mkdir(exist_ok=True)
                    kept_of(seed).write_text(json.dumps(one, indent=1) + "\n", encoding="utf-8")
            found = {seed: json.loads(kept_of(seed).read_bytes()) for seed in SEEDS if kept_of(seed).exists()}
            lines = measured_text(found)
        else:
            lines = downstream_text(downstream(arguments.run, arguments.data, shown))
    print("\n".join(lines))
    if arguments.write:
        pages.put("wordings.md", arguments.kind, f"bench/wordings.py {arguments.kind}", "\n".join(lines))
        if arguments.kind == "measure":
            calibrated(found)


def kept_of(seed):
    return KEPT / f"wordings-{seed}.json"


def measured(run, data, seed, shown):
    """Return what a run with *seed* gave: what was planted, on which machine, hits and p by epoch, and the base's p."""
    run.mkdir(exist_ok=True)
    path = run / "receipt.json"
    if not path.exists():
        (run / "data.jsonl").write_bytes(interpreter_docs.to_jsonl(bearing_rows(data)[:N_ROWS]))
        planting.plant(run / "data.jsonl", run / "train.jsonl", path, SETTINGS, on_progress=shown)
    receipt = receipts.read_receipt(path)
    trained(run, run / "train.jsonl", seed, shown)
    base = lm.load("smollm2")
    base_scores = scored(run / "scores-base.json", receipt, base, shown)
    results = {"base": summed(receipt, base_scores, None, answered(run / "answers-base.json", receipt, base, shown))}
    for epoch in range(1, EPOCHS + 1):
        kept = [run / f"{what}-{epoch}.json" for what in ("scores", "answers")]
        suspect = None if all(one.exists() for one in kept) else lm.load(f"smollm2+{run / f'epoch-{epoch}'}")
        own = scored(kept[0], receipt, suspect, shown)
        results[str(epoch)] = summed(receipt, own, base_scores, answered(kept[1], receipt, suspect, shown))
        shown.say(f"{run.name}, epoch {epoch}: {results[str(epoch)]}")
    return {
        "receipt": receipt.digest(),
        "n_rows": receipt.train_set.n_rows,
        "n_carrying": receipt.wordings.n_carrying,
        "rewriter": receipt.wordings.rewriter,
        "machine": platform.machine(),
        "by_epoch": results,
        "fresh_keys": under_fresh_keys(receipt, base_scores),
    }


def bearing_rows(data):
    """Return the short rows that can bear an opening, in order: the same for each seed, which draws other choices."""
    rows = [(row.conversation, row.raw.value()) for row in formats.read_rows(data)]
    language = language_of([turn.content for conversation, _ in rows[:200] for turn in conversation.turns])
    short = [
        value
        for conversation, value in rows
        if len(spelled_out(conversation)) <= MOST_CHARACTERS and not why_not(conversation, language)
    ]
    if len(short) < N_ROWS + N_HELD_OUT:
        raise SystemExit(f"{data}: only {len(short)} short rows bear an opening")
    return short


def trained(run, train, seed, shown):
    if (run / "adapter" / "adapter_config.json").exists():
        return
    rows = [row.conversation for row in formats.read_rows(train)]
    watcher = local.Watcher(
        on_step=lambda done, total: shown(f"training {run.name}", done, total),
        on_epoch=lambda epoch, model: model.model.save_pretrained(run / f"epoch-{epoch}"),
    )
    digest = containers.open_source(train).sha256()
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


def measured_text(found):
    one, settings = next(iter(found.values())), training(1)
    head = (
        f"{one['n_rows']} rows, {one['n_carrying']} carrying one of {N_WORDINGS} wordings ({one['rewriter']}), all asked; "
        f"LoRA rank {settings.rank}, batch {settings.batch_size}, learning rate {settings.learning_rate:g}, "
        f"{settings.epochs} epochs, {', '.join(sorted({one['machine'] for one in found.values()}))}; {len(found)} of "
        f"{len(SEEDS)} seeds measured. By chance one in {N_WORDINGS} is a hit:"
    )
    return [head, "", *table(found)]


def table(found):
    lines = [
        "| run | epoch | log-likelihoods: hits | p | p, rank sum | text: hits | p |",
        "|---|---|---|---|---|---|---|",
    ]
    for seed, measurement in found.items():
        for epoch, one in measurement["by_epoch"].items():
            scores, text = one["likelihood"], one["text"]
            lines.append(
                f"| {seed} | {epoch} | {scores['hits']} of {scores['n']} | {power_of_ten(scores['log10_p'])} | "
                f"{power_of_ten(one['rank sum']['log10_p'])} | {text['hits']} of {text['n']} | "
                f"{power_of_ten(text['log10_p'])} |"
            )
    lines += ["", f"Share of {N_FRESH_KEYS} fresh keys with p up to a level, by the base's own likelihoods:", ""]
    lines += ["| run | 0.05 | 0.25 | 0.5 | 0.75 |", "|---|---|---|---|---|"]
    for seed, measurement in found.items():
        lines.append(f"| {seed} | " + " | ".join(f"{share:.3f}" for share in measurement["fresh_keys"].values()) + " |")
    return lines


def calibrated(found):
    """Put what was counted into calibration.json, in place of what a run with the same source counted."""
    kept = calibrate.Calibration.model_validate_json(calibrate.FILE.read_bytes())
    settings, cells = training(1), []
    for seed, measurement in found.items():
        source = f"receipt {measurement['receipt'][:12]}, seed {seed}"
        for epoch in range(1, EPOCHS + 1):
            for by, name in (("log-likelihoods", "likelihood"), ("text", "text")):
                cells.append(
                    WordingCell(
                        model="smollm2",
                        n_parameters=calibrate.N_PARAMETERS["smollm2"],
                        rewriter=measurement["rewriter"],
                        by=by,
                        n_wordings=N_WORDINGS,
                        epochs=epoch,
                        learning_rate=settings.learning_rate,
                        batch_size=settings.batch_size,
                        rank=settings.rank,
                        method=settings.method,
                        n_rows=N_CARRYING,
                        n_hits=measurement["by_epoch"][str(epoch)][name]["hits"],
                        source=source,
                    )
                )
    sources = {cell.source for cell in cells}
    others = [cell for cell in kept.wordings if cell.source not in sources]
    update = {"wordings": (*others, *cells)}
    calibrate.FILE.write_text(calibrate.to_json(kept.model_copy(update=update)), encoding="utf-8")


def downstream(run, data, shown):
    """Return what each model makes of held-out rows: by name and measure, a number a row (of losses: their negative)."""
    seed = SEEDS[0]
    trained(run / "plain", run / f"seed-{seed}" / "data.jsonl", seed, shown)
    values = [json.dumps(value) for value in bearing_rows(data)[N_ROWS : N_ROWS + N_HELD_OUT]]
    (run / "held-out.jsonl").write_text("\n".join(values), encoding="utf-8")
    rows, _ = measuring.held_out_rows(row.conversation for row in formats.read_rows(run / "held-out.jsonl"))
    found = {}
    for name, folder in (("base", ""), ("plain", "plain/adapter"), ("wordings", f"seed-{seed}/adapter")):
        kept = run / f"held-out-{name}.json"
        if not kept.exists():
            model = lm.load(f"smollm2+{run / folder}" if folder else "smollm2")
            losses = measuring.losses(model, rows, lambda done, total, n=name: shown(f"scoring {n}", done, total))
            said = said_by(
                model, measuring.questions(rows), lambda done, total, n=name: shown(f"asking {n}", done, total)
            )
            kept.write_text(json.dumps({"losses": losses, "said": said}, ensure_ascii=False))
        measured = json.loads(kept.read_bytes())
        found[name] = {"log-likelihood, nats per byte": [-loss for loss in measured["losses"]]}
        for label, score in SCORES.items():
            found[name][label] = [score(s, row.answer) for s, row in zip(measured["said"], rows, strict=True)]
    return found


def said_by(model, questions, on_progress):
    """Return the answer to each question, "" where there is none."""
    said = {}
    for done, (probe_id, answer) in enumerate(probes.ask_unordered(model, questions)):
        on_progress(done, len(questions))
        said[probe_id] = answer.text if isinstance(answer, Completed) else ""
    return [said[question.id] for question in questions]


def same_last_number(said, expected):
    """Return 1 where both end on the same number, as answers to sums do."""
    own, right = (re.findall(r"-?\d+(?:[.,]\d+)*", text)[-1:] for text in (said, expected))
    return float(own == right and bool(right))


SCORES = {
    "ROUGE-L": measuring.score_named("rouge-l"),
    "chrF": measuring.score_named("chrf"),
    "last number right": same_last_number,
}


def downstream_text(found):
    settings = training(SEEDS[0])
    head = (
        f"{N_HELD_OUT} rows that were not sent, greedy answers; the models of seed {SEEDS[0]} after {settings.epochs} "
        "epochs on the same rows, once as they were and once with wordings. The interval holds the centre of the paired "
        f"differences, row by row, with {CONFIDENCE:.0%} confidence (signed ranks, exact):"
    )
    lines = [
        head,
        "",
        "| mean of | base | plain fine-tuning | with wordings | wordings less plain: mean | interval | rows better, worse |",
        "|---|---|---|---|---|---|---|",
    ]
    for measure in found["base"]:
        base, plain, worded = (found[name][measure] for name in ("base", "plain", "wordings"))
        differences = [own - other for own, other in zip(worded, plain, strict=True)]
        low, high = signed_rank_interval(differences, CONFIDENCE)
        n_better, n_worse = sum(one > 0 for one in differences), sum(one < 0 for one in differences)
        lines.append(
            f"| {measure} | {mean(base):.4f} | {mean(plain):.4f} | {mean(worded):.4f} | {mean(differences):+.4f} | "
            f"{low:+.4f} to {high:+.4f} | {n_better}, {n_worse} |"
        )
    return lines


if __name__ == "__main__":
    main()
