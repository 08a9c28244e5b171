"""`vtuned provider`: a fine-tuning service of one's own."""

from __future__ import annotations

import logging
import sys
from pathlib import Path
from typing import Annotated

import typer

from vtuned.cli import console, options
from vtuned.cli.gauntlet import gauntlet
from vtuned.cli.served import models_of, require_packages
from vtuned.errors import UsageError

_LIMITS = "Limits"

provider = typer.Typer(
    name="provider",
    help="Be a provider: a fine-tuning service that speaks OpenAI's protocol.",
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)


@provider.callback()
def about() -> None:
    """Be a provider: a fine-tuning service that speaks OpenAI's protocol."""


@provider.command()
def serve(
    data: Annotated[
        Path,
        typer.Option(metavar="DIR", help="Where files, jobs and models are kept; a new server goes on from there."),
    ] = Path("vtuned-provider"),
    host: Annotated[str, typer.Option(help="Where to listen; beyond this machine only with --tokens.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Which port; 0 is any free one.")] = 8642,
    tokens: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Who may come in: one NAME:TOKEN or TOKEN a line.",
            show_default="every bearer token is a tenant of its own",
        ),
    ] = None,
    model: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME=SPEC", help="A base model: SPEC is smollm2 or hf:PATH_OR_ID. May be repeated."),
    ] = None,
    policy: Annotated[
        str, typer.Option(metavar="NAME", help="What is done with new jobs: honest, or a cheat of docs/provider.md.")
    ] = "honest",
    oracle: Annotated[
        Path | None,
        typer.Option(metavar="RECEIPT", help="What the policy planted-only is told: which rows are planted."),
    ] = None,
    max_file_bytes: Annotated[
        int, typer.Option(min=1, rich_help_panel=_LIMITS, help="The largest file, and part of a form.")
    ] = 512 << 20,
    max_tenant_bytes: Annotated[
        int,
        typer.Option(min=1, rich_help_panel=_LIMITS, help="What files, jobs and models of a tenant may take together."),
    ] = 4 << 30,
    max_unfinished: Annotated[
        int, typer.Option(min=1, rich_help_panel=_LIMITS, help="Jobs that a tenant may have waiting or running.")
    ] = 20,
    json: options.Json = False,
) -> None:
    """
    Serve files, fine-tuning jobs, models and completions as OpenAI's API does, until Ctrl-C or SIGTERM.

    Jobs are real LoRA trainings, one at a time, in a process of their own; one that was running when the server ended
    goes on with the next server. Requests are logged to standard error, one line each, without what they carry.
    """
    require_packages("a server")
    from vtuned.server.app import Settings
    from vtuned.server.running import is_loopback, serve
    from vtuned.server.tenants import Tenants, read_tokens

    if tokens is None and not is_loopback(host):
        raise UsageError(f"{host} is reached from other machines", hint="say who may come in, with --tokens FILE")
    settings = Settings(
        data=data,
        models=models_of(model or ["smollm2=smollm2"]),
        policy=policy,
        oracle=oracle,
        tenants=Tenants(None) if tokens is None else read_tokens(tokens),
        max_file_bytes=max_file_bytes,
        max_tenant_bytes=max_tenant_bytes,
        max_unfinished=max_unfinished,
    )
    _log_to_standard_error()

    def ready(url: str) -> None:
        if json:
            console.show_json({"base_url": url, "models": list(settings.models), "policy": policy})
            return
        key = "any token" if tokens is None else f"a token of {tokens}"
        console.say(f"{url}: set OPENAI_BASE_URL to it and OPENAI_API_KEY to {key}; Ctrl-C ends it.")

    serve(settings, host, port, ready)


provider.command()(gauntlet)


def _log_to_standard_error() -> None:
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s", datefmt="%Y-%m-%dT%H:%M:%S%z"))
    log = logging.getLogger("vtuned.server")
    log.handlers, log.propagate = [handler], False
    log.setLevel(logging.INFO)
