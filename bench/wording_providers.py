r"""
What providers get out of wordings who train on less, on other words, or on nothing: each really trained.

    python bench/wording_providers.py RUN [--write]    # --write puts the table into docs/wordings.md

The model and its file are those of tests/integration/test_wordings.py: a Llama of two layers, 96 rows that all carry a
choice of 16 wordings and are all asked about. "paraphrased" is really written by the embedded model, a row at a time.
"""

import argparse
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent
# The tests of the command line have a module of the same name.
sys.path[:0] = [str(ROOT / "tests" / "integration"), str(ROOT / "tests")]

import pages  # noqa: E402 - after the path is set

import test_wordings as tiny_world  # noqa: E402
from vtuned import judge, lm  # noqa: E402
from vtuned.cli.console import stages  # noqa: E402
from vtuned.lm.base import Completed, Sampling  # noqa: E402
from vtuned.report.numbers import percent, power_of_ten  # noqa: E402

WRITER = "smollm2"
REQUEST = "Say the following in other words. Answer with the new text alone.\n\n{text}"


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[1])
    parser.add_argument("run", type=Path)
    parser.add_argument("--write", action="store_true")
    arguments = parser.parse_args()
    arguments.run.mkdir()
    with stages() as shown:
        lines = table(tiny_world.World(arguments.run), shown)
    print("\n".join(lines))
    if arguments.write:
        written(lines)


def providers(world, base_scores, shown):
    """Return the providers: name, the rows that each trains on, and for how many epochs."""
    honest, epochs = world.sent, tiny_world.EPOCHS
    mixed, n = tiny_world.mixed(world), len(world.sent)
    return (
        ("honest: the whole file", honest, epochs),
        ("half of the rows", mixed[: n // 2], tiny_world.HALF_EPOCHS),
        ("a quarter of the rows", mixed[: n // 4], tiny_world.QUARTER_EPOCHS),
        ("a tenth of the carrying rows", [honest[i] for i in sorted(tiny_world.TENTH)], tiny_world.TENTH_EPOCHS),
        ("skips what the base would choose anyway", tiny_world.not_guessed(world, base_scores), epochs),
        ("first tokens of each answer", tiny_world.first_tokens(world), epochs),
        ("one row a prompt (deduplicated)", tiny_world.deduplicated(world), epochs),
        ("openings taken off", tiny_world.stripped(world), epochs),
        ("one opening for all", tiny_world.normalised(world), epochs),
        ("other words, by a list", tiny_world.rewritten(world), epochs),
        (f"paraphrased by {WRITER}", paraphrased(world, shown), epochs),
        ("answers shuffled", tiny_world.shuffled(world), epochs),
    )


def paraphrased(world, shown):
    """Return the rows as the embedded model words them anew; where it says nothing a row stays."""
    writer = lm.load(WRITER)
    made = []
    for done, row in enumerate(world.sent):
        shown(f"{WRITER} paraphrases", done, len(world.sent))
        text = row.turns[-1].content
        prompt = ({"role": "user", "content": REQUEST.format(text=text)},)
        (said,) = writer.answer([prompt], Sampling(max_tokens=64))
        new = " ".join(said.text.split()) if isinstance(said, Completed) else ""
        made.append(row.answered(new or text))
    return made


def table(world, shown):
    base_scores = world.scores(world.base)
    columns = (
        "provider trains on",
        "rows used",
        "outcome",
        "published first",
        "p, likelihoods",
        "p, text",
        "at least, if guessable rows were skipped",
        "at least, if used whatever they publish",
    )
    lines = [f"| {' | '.join(columns)} |", "|" + "---|" * len(columns)]
    n = len(world.sent)
    for i, (name, rows, epochs) in enumerate(providers(world, base_scores, shown)):
        shown(f"training: {name}", i, 12)
        model = world.trained(f"provider-{i}", rows, epochs)
        lines.append(line(name, len(rows) / n, world.by_scores(model), world.by_text(model)))
    lines.append(
        line("nothing (the base)", 0.0, judge(world.receipt, [], scores=base_scores), world.by_text(world.base))
    )
    return lines


def line(name, used, by_scores, by_text):
    found = by_scores.wordings
    return (
        f"| {name} | {used:.0%} | {by_scores.outcome.value} | {found.n_hits} of {found.n_told} | "
        f"{power_of_ten(found.log10_p_hits)} | {power_of_ten(by_text.wordings.log10_p_hits)} | "
        f"{percent(found.lower_bound_skipping)} | {percent(found.lower_bound)} |"
    )


def written(lines):
    head = (
        f"A tiny model ({tiny_world.N_ROWS} rows, all carrying one of {tiny_world.N_WORDINGS} openings and all asked), trained "
        f"in full for {tiny_world.EPOCHS} epochs, longer on fewer rows; α = {tiny_world.CHANCE:g}, bounds at 99 % "
        "confidence:\n\n"
    )
    pages.put("wordings.md", "providers", "bench/wording_providers.py", head + "\n".join(lines))


if __name__ == "__main__":
    main()
