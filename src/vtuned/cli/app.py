"""All commands in one place, and the version."""

from __future__ import annotations

from typing import Annotated

import typer

from vtuned import __version__
from vtuned.cli.ask import ask
from vtuned.cli.challenges import challenges
from vtuned.cli.demo import demo
from vtuned.cli.doctor import doctor
from vtuned.cli.finetune import finetune
from vtuned.cli.history import history
from vtuned.cli.judge import judge
from vtuned.cli.margin import margin
from vtuned.cli.plan import plan
from vtuned.cli.plant import plant
from vtuned.cli.show import show
from vtuned.cli.unplant import unplant
from vtuned.cli.verify import verify
from vtuned.cli.watch import watch

COMMANDS = (demo, plan, plant, margin, finetune, verify, challenges, ask, judge, show, watch, history, unplant, doctor)

app = typer.Typer(
    name="vtuned",
    help="Did they really fine-tune the model on my data?",
    epilog="Exit codes: 0 verified or done, 1 not verified, 2 bad arguments, data or files, 3 could not tell or could "
    "not reach the model, 130 Ctrl-C.",
    invoke_without_command=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
for command in COMMANDS:
    app.command()(command)


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"vtuned {__version__}")
        raise typer.Exit


@app.callback()
def options(
    context: typer.Context,
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    """Did they really fine-tune the model on my data?"""
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())
