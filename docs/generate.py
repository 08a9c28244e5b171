"""
Write what the docs take from the program: help pages, JSON Schemas, and the demo's output in the README.

`make docs` writes docs/cli.md and src/vtuned/schemas; `python docs/generate.py --demo DIR` also puts the report of a
demo run into the README; `--check` writes nothing and exits 1 where a page is out of date.
"""

import argparse
import json
import os
import re
import subprocess
import sys
from pathlib import Path

from vtuned.ledger import Check
from vtuned.planning import Plan
from vtuned.probes import AnswerRecord, Probe
from vtuned.receipt import Receipt
from vtuned.verdict import Verdict

ROOT = Path(__file__).parent.parent
SCHEMAS = {"probe": Probe, "answer": AnswerRecord, "receipt": Receipt, "verdict": Verdict, "check": Check, "plan": Plan}


def help_pages() -> str:
    """Return docs/cli.md: the help of every command."""
    from vtuned.cli.app import COMMANDS, subcommands

    pages = ["# Command line\n\nWritten by `make docs` from the program itself.\n"]
    for name in ("", *(each for command in COMMANDS for each in (command, *subcommands(command)))):
        call = f"vtuned {name} --help".replace("  ", " ")
        environment = {**os.environ, "TERMINAL_WIDTH": "110", "NO_COLOR": "1", "TERM": "dumb", "COLUMNS": "110"}
        arguments = [sys.executable, "-m", "vtuned", *name.split(), "--help"]
        text = subprocess.run(arguments, capture_output=True, text=True, check=True, env=environment).stdout
        plain = "\n".join(line.rstrip() for line in text.replace("python -m vtuned", "vtuned").strip().splitlines())
        pages.append(f"## {call}\n\n```text\n{plain}\n```\n")
    return "\n".join(pages)


def schema(name: str) -> str:
    """Return the JSON Schema of a document as text."""
    content = SCHEMAS[name].model_json_schema(mode="serialization")
    return json.dumps(content, indent=2, ensure_ascii=False) + "\n"


def readme_with(report: str) -> str:
    """Return the README with the demo's *report* in its place."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    pattern = r"(<!-- demo: [^>]*-->\n```\n).*?(```\n<!-- /demo -->)"
    return re.sub(pattern, lambda match: match[1] + report.rstrip() + "\n" + match[2], text, flags=re.DOTALL)


def main() -> int:
    """Write or check the pages; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true")
    parser.add_argument("--demo", type=Path)
    options = parser.parse_args()
    pages = {ROOT / "docs" / "cli.md": help_pages()}
    pages |= {ROOT / "src" / "vtuned" / "schemas" / f"{name}.schema.json": schema(name) for name in SCHEMAS}
    if options.demo:
        pages[ROOT / "README.md"] = readme_with((options.demo / "report.txt").read_text(encoding="utf-8"))
    stale = [path for path, text in pages.items() if not path.is_file() or path.read_text(encoding="utf-8") != text]
    for path in stale:
        print(f"{'out of date' if options.check else 'written'}: {path.relative_to(ROOT)}")
        if not options.check:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(pages[path], encoding="utf-8")
    return 1 if stale and options.check else 0


if __name__ == "__main__":
    sys.exit(main())
