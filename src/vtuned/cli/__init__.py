"""The command line: one module a command; parse, call, render, exit code."""

from __future__ import annotations

import sys


def main() -> None:
    """Run `vtuned`."""
    from vtuned.cli import console
    from vtuned.cli.app import app

    sys.exit(console.run(app))
