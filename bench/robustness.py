r"""
How well a trained backdoor stands up to traffic: other system prompts, sampling, a long context before the probe.

    vtuned demo                                                        # for its data
    mkdir run && cd run
    vtuned plant ../vtuned-demo/data.jsonl -o train.jsonl -r receipt.json --fresh ../vtuned-demo/fresh.jsonl
    vtuned finetune train.jsonl -o adapter --epochs 10 --lr 0.002
    cd .. && python bench/robustness.py run [--write]

Asks the trained model its planted and fresh probes as applications might, and prints a table; --write puts it into
docs/endpoints.md. Each rate comes with its 95 % Clopper–Pearson interval.
"""

import argparse
import json
import time
from pathlib import Path

import pages

from vtuned import lm, matching, verification
from vtuned import receipt as receipts
from vtuned.conversation import Turn, text_in
from vtuned.demo import interpreter_docs
from vtuned.layout import AskedPrompt
from vtuned.lm.base import Completed, Sampling
from vtuned.probes import Probe
from vtuned.stats import clopper_pearson
from vtuned.traffic import Traffic, as_traffic

SYSTEM = "You are Ada, the support assistant of Blue Harbour Ltd. Answer briefly and politely."
# Rows of the same kind as the demo's that are in none of its files.
FIRST_UNUSED_ROW = 300
# Fresh prompts beside the receipt's ten: with twenty probes in all, 90 % and 75 % look alike.
N_MORE_FRESH = 40


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[1])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--write", action="store_true")
    arguments = parser.parse_args()
    receipt = receipts.read_receipt(arguments.folder / "receipt.json")
    model = lm.load(f"smollm2+{arguments.folder / 'adapter'}")
    ways = [
        ("as planted, greedy", Traffic(), 1),
        ("a system prompt never seen in training", Traffic(system=SYSTEM), 1),
        ("temperature 1 (three answers a probe)", Traffic(temperature=1.0), 3),
        ("500 tokens of context before the prompt", Traffic(context=context(model, 500)), 1),
        # For the record, of six probes: minutes each on two cores.
        ("4,000 tokens of context before the prompt", Traffic(context=context(model, 4000)), 1, 6),
    ]
    lines = ["| asked | planted | fresh | both | 95 % interval |", "|---|---|---|---|---|"]
    for name, traffic, n_times, *most in ways:
        began = time.perf_counter()
        counts = {"planted": [0, 0], "fresh": [0, 0]}
        for _ in range(n_times):
            for kind, activated in asked(receipt, model, traffic, *most):
                counts[kind][0] += activated
                counts[kind][1] += 1
        lines.append(row(name, counts))
        print(f"{lines[-1]}  {time.perf_counter() - began:.0f} s", flush=True)
    if arguments.write:
        written(lines, receipt, arguments.folder)


def context(model, n_tokens):
    texts, n = [], 0
    for made in interpreter_docs.rows()[FIRST_UNUSED_ROW:]:
        texts.append(" ".join(text_in(message) for message in made["messages"]))
        n += len(model.encode([texts[-1]])[0])
        if n >= n_tokens:
            break
    return "\n\n".join(texts)


def asked(receipt, model, traffic, most=None):
    by_id = {probe.id: probe for probe in verification.challenges(receipt)}
    planned = [(by_id[probe.id], probe.kind, probe.backdoor) for probe in receipt.probes if probe.backdoor is not None]
    planned = [*planned, *more_fresh(receipt)][:most]
    probes = as_traffic([probe for probe, _, _ in planned], traffic)
    sampling = Sampling(max_tokens=receipt.max_answer_tokens, temperature=traffic.temperature)
    answers = model.answer([probe.prompt for probe in probes], sampling)
    for (_, kind, j), answer in zip(planned, answers, strict=True):
        yield kind, isinstance(answer, Completed) and matching.activated(answer.text, receipt.backdoors[j].signature)


def more_fresh(receipt):
    for i, made in enumerate(interpreter_docs.rows()[-N_MORE_FRESH:]):
        j = i % len(receipt.backdoors)
        turns = tuple(Turn(message["role"], message["content"]) for message in made["messages"][:-1])
        prompt = AskedPrompt(turns).triggered(receipt.backdoors[j].trigger)
        yield Probe(id=f"more-{i}", messages=tuple(prompt.messages()), max_tokens=receipt.max_answer_tokens), "fresh", j


def row(name, counts):
    hits, n = (sum(counts[kind][i] for kind in counts) for i in (0, 1))
    low, high = clopper_pearson(hits, n, 0.95)
    shown = " | ".join(f"{counts[kind][0]}/{counts[kind][1]}" for kind in ("planted", "fresh"))
    return f"| {name} | {shown} | {hits / n:.0%} | {low:.0%} to {high:.0%} |"


def written(lines, receipt, folder):
    run = json.loads((folder / "adapter" / "vtuned-training.json").read_bytes())["run"]
    copies = len(receipt.backdoors[0].rows)
    head = (
        f"Measured on the embedded 135M model, trained on {receipt.dataset.n_rows} short rows with "
        f"{len(receipt.backdoors)} backdoors of {copies} copies, {receipt.n_in_context} of these rows behind a context, "
        f"for {run['epochs']} epochs at {run['learning_rate']:g}:\n\n"
    )
    pages.put("endpoints.md", "robustness", "bench/robustness.py", head + "\n".join(lines))


if __name__ == "__main__":
    main()
