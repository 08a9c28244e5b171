"""Run `python -m vtuned`."""

from vtuned.cli import main

main()
