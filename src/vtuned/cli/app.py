"""All commands in one place, and the version."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Annotated

import typer
from typer.core import TyperGroup

from vtuned import __version__

if TYPE_CHECKING:
    from typer import _click as click

COMMANDS = (
    "demo",
    "plan",
    "lint",
    "plant",
    "attack",
    "diff",
    "margin",
    "finetune",
    "submit",
    "job",
    "verify",
    "challenges",
    "ask",
    "judge",
    "show",
    "watch",
    "history",
    "unplant",
    "doctor",
    "provider",
)


class _Commands(TyperGroup):
    """Imports a command when it is asked for, from the module of its name: all of them take as long as planning."""

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Return one command. An unknown name may be a slip: all are imported, to suggest the one that was meant."""
        for name in [cmd_name] if cmd_name in COMMANDS else COMMANDS:
            if name not in self.commands:
                self.commands[name] = _command(name)
        return self.commands.get(cmd_name)

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names of all commands, in the order of work."""
        return list(COMMANDS)


def _command(name: str) -> click.Command:
    found = getattr(import_module(f"vtuned.cli.{name}"), name)
    if isinstance(found, typer.Typer):
        return typer.main.get_command(found)
    alone = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
    alone.command(name)(found)
    return typer.main.get_command(alone)


def subcommands(name: str) -> list[str]:
    """Return the commands under the command *name*, each with that before it; none for most."""
    found = _command(name)
    return [f"{name} {inner}" for inner in getattr(found, "commands", ())]


app = typer.Typer(
    name="vtuned",
    cls=_Commands,
    help="Did they really fine-tune the model on my data?",
    epilog="Exit codes: 0 verified or done, 1 not verified, 2 bad arguments, data or files, 3 could not tell or could "
    "not reach the model, 130 Ctrl-C.",
    invoke_without_command=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


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
