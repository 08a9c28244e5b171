"""A whole gauntlet: every policy in turn, from one planted file to a table."""

from __future__ import annotations

import platform
from collections.abc import Callable, Sequence
from pathlib import Path

from vtuned import files
from vtuned.gauntlet import rounds
from vtuned.gauntlet.rounds import Serving
from vtuned.gauntlet.server import serving
from vtuned.gauntlet.settings import Settings
from vtuned.gauntlet.table import Gauntlet, Round, markdown
from vtuned.gauntlet.world import World, claimed, prepared
from vtuned.planting import OnProgress

OnRound = Callable[[Round, int, int, bool], None]


def run(
    folder: Path,
    settings: Settings,
    policies: Sequence[str],
    on_progress: OnProgress,
    on_round: OnRound = lambda one, done, total, is_new: None,
    *,
    serve: Serving = serving,
) -> Gauntlet:
    """
    Run *policies* in *folder*, or go on with what was begun there; return their rounds.

    gauntlet.json and gauntlet.md are written after each, with the rounds that other calls have left there. *on_round* gets
    each round as it ends, with how many have ended, how many there are, and whether it was run now. Raises what `claimed`
    and `prepared` raise.
    """
    with claimed(folder, settings):
        world = prepared(folder, settings, on_progress)
        found: list[Round] = []
        for i, policy in enumerate(policies):
            label = f"{i + 1}/{len(policies)} {policy}"
            kept = rounds.finished(world, policy)
            one = kept or rounds.run(
                world,
                policy,
                lambda stage, done, total, label=label: on_progress(f"{label}: {stage}", done, total),  # type: ignore[misc]
                serve=serve,
            )
            found.append(one)
            _write(world, found)
            on_round(one, i + 1, len(policies), kept is None)
        return _gauntlet(world, found)


def _write(world: World, found: Sequence[Round]) -> None:
    """Write *found*, and before them the finished rounds of other policies that are there."""
    folder, new = world.folder, {one.policy for one in found}
    result = _gauntlet(world, (*(one for one in rounds.all_finished(world) if one.policy not in new), *found))
    files.write_bytes(folder / "gauntlet.json", result.model_dump_json(indent=1).encode() + b"\n", force=True)
    files.write_bytes(folder / "gauntlet.md", markdown(result).encode(), force=True)


def _gauntlet(world: World, found: Sequence[Round]) -> Gauntlet:
    settings, receipt = world.settings, world.receipt
    training = settings.training.settings()
    copies = tuple(len(backdoor.rows) for backdoor in receipt.backdoors)
    return Gauntlet(
        data=settings.data.name,
        model=settings.name,
        n_rows=len(world.rows),
        n_planted_rows=sum(copies),
        copies=copies,
        n_probes=len(receipt.probes),
        n_held_out=len(world.held_out),
        measure=settings.measure,
        margin=world.bar.margin,
        margin_source=world.bar.source,
        epochs=training.epochs,
        batch_size=training.batch_size,
        learning_rate=training.learning_rate,
        machine=platform.machine(),
        rounds=tuple(found),
    )
