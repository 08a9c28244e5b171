r"""
What a provider can still do after an honest training: the verdicts on a trained model that is served otherwise.

    python bench/activation.py RUN                     # trains the models
    python bench/inference.py RUN [--write]

Serves the embedded model of RUN that was planted with `backdoors`, after the last epoch, by each of POLICIES, and judges it
by its answers as `vtuned verify` would. A run that was stopped goes on; --write puts the table into docs/endpoints.md.
"""

import argparse
import json
from pathlib import Path

import pages
from activation import TRAINING

from vtuned import formats, lm, verification
from vtuned import receipt as receipts
from vtuned.attacks.contract import Deployed
from vtuned.attacks.policies import policy
from vtuned.cli.console import stages

POLICIES = (
    "honest",
    "system-prompt",
    "temperature:1",
    "quantised:8",
    "quantised:4",
    "merge:0.75",
    "merge:0.5",
    "merge:0.25",
    "suppress",
)
SCHEME = "backdoors"
# Probes of each kind.
N_ASKED = 8


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[1])
    parser.add_argument("run", type=Path)
    parser.add_argument("--write", action="store_true")
    arguments = parser.parse_args()
    with stages() as shown:
        for name in POLICIES:
            judged(arguments.run / SCHEME, name, shown)
    lines = table(arguments.run / SCHEME)
    print("\n".join(lines))
    if arguments.write:
        pages.put("endpoints.md", "inference", "bench/inference.py RUN --write", "\n".join(lines))


def judged(run, name, shown):
    """Keep the verdict on the model of *run* served by the policy *name*, unless that was done."""
    kept = run / f"served-{name.replace(':', '-')}.json"
    if kept.exists():
        return
    shown(name, 0, 0)
    receipt = receipts.read_receipt(run / "receipt.json")
    rows = [row.conversation for row in formats.read_rows(run / "train.jsonl")]
    tuned, base = lm.load_both(f"smollm2+{run / f'epoch-{TRAINING.epochs}'}", "smollm2")
    served = policy(name, key=bytes.fromhex(receipt.key)).serve(Deployed(base, tuned, rows))
    kept.write_text(verification.verify(receipt, served, n=N_ASKED).model_dump_json(indent=1))


def table(run):
    lines = ["| served | outcome | activated | generalises | first reason |", "|---|---|---|---|---|"]
    for name in POLICIES:
        verdict = json.loads((run / f"served-{name.replace(':', '-')}.json").read_bytes())
        rates = [rate(verdict, kind) for kind in ("planted", "fresh")]
        lines.append(f"| `{name}` | {verdict['outcome']} | {' | '.join(rates)} | {verdict['reasons'][0]} |")
    return lines


def rate(verdict, kind):
    """Return how many probes of a kind activated."""
    some = [one for one in verdict["backdoors"] if one["kind"] == kind]
    return f"{sum(one['n_activated'] for one in some)} of {sum(one['n_asked'] for one in some)}"


if __name__ == "__main__":
    main()
