r"""
Run every policy of `vtuned provider serve` against one planted file: docs/gauntlet.md.

    python bench/gauntlet.py RUN [--model tiny|smollm2] [--data DATA] [--policy P ...] [--write [NAME]]

`tiny` is a model made here, on rows of a made-up country: minutes on two cores. `smollm2` is the embedded model, on the
documentation of this interpreter unless DATA says otherwise: hours. A run that was stopped goes on in the same folder.
--write puts the rounds of the folder into bench/measured, under the model's name or NAME, from where `make docs` takes the
page's tables.
"""

import argparse
import sys
from pathlib import Path

from vtuned.cli.console import as_text, stages
from vtuned.demo import interpreter_docs
from vtuned.files import write_bytes
from vtuned.gauntlet.running import run
from vtuned.gauntlet.settings import Settings, Training, chosen
from vtuned.layout import PlantSettings
from vtuned.report.gauntlet import gauntlet

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / "tests"))
import tiny  # noqa: E402

N_DECOYS = 19
N_ROWS = {"tiny": 120, "smollm2": 240}
SET_ASIDE = {"tiny": 40, "smollm2": 120}
N_SINGLE = {"tiny": 8, "smollm2": 16}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[1])
    parser.add_argument("run", type=Path)
    parser.add_argument("--model", choices=("tiny", "smollm2"), default="tiny")
    parser.add_argument("--data", type=Path)
    parser.add_argument("--policy", nargs="*", default=())
    parser.add_argument("--write", metavar="NAME", nargs="?", const="")
    arguments = parser.parse_args()
    arguments.run.mkdir(parents=True, exist_ok=True)
    settings = of_tiny(arguments.run) if arguments.model == "tiny" else of_smollm2(arguments.run, arguments.data)
    policies = chosen(arguments.policy, None)
    with stages() as shown:
        found = run(
            arguments.run / "gauntlet",
            settings,
            policies,
            shown,
            lambda one, done, total, is_new: shown.say(
                f"{done}/{total} {one.policy}: {one.outcome.value if one.outcome else one.trouble}, {one.seconds:.0f} s"
            ),
        )
    print(as_text(gauntlet(found), 160))
    if arguments.write is not None:
        kept = ROOT / "bench" / "measured" / f"gauntlet-{arguments.write or arguments.model}.json"
        write_bytes(kept, (arguments.run / "gauntlet" / "gauntlet.json").read_bytes(), force=True)


def of_tiny(folder):
    some = tiny.task_rows(tiny.SAID_LAST)
    model, data = folder / "model", folder / "country.jsonl"
    if not data.is_file():
        tiny.make_model(model, [message["content"] for row in some for message in row["messages"]])
        tiny.write_rows(data, some[: N_ROWS["tiny"] + SET_ASIDE["tiny"]])
    return Settings(
        data=data,
        name="tiny",
        spec=f"hf:{model}",
        plant=planted("tiny", copies=16, contexts=0, signature_bits=32),
        training=Training(epochs=20, batch_size=4, learning_rate_multiplier=4.0),
        generator="words",
    )


def of_smollm2(folder, data):
    if data is None:
        data = folder / "interpreter-docs.jsonl"
        if not data.is_file():
            data.write_bytes(
                interpreter_docs.to_jsonl(interpreter_docs.rows()[: N_ROWS["smollm2"] + SET_ASIDE["smollm2"]])
            )
    return Settings(
        data=data,
        name="smollm2",
        spec="smollm2",
        plant=planted("smollm2", copies=8),
        training=Training(epochs=4),
        measure="loss",
        generator="words",
    )


def planted(model, copies, **more):
    """Two backdoors that show in answers, and single copies that likelihoods show."""
    return PlantSettings(
        suspect="unknown",
        n_backdoors=2 + N_SINGLE[model],
        copies=(copies, copies, *[1] * N_SINGLE[model]),
        n_decoys=N_DECOYS,
        set_aside=SET_ASIDE[model],
        **more,
    )


if __name__ == "__main__":
    main()
