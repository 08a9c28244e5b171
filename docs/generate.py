"""
Write what the docs take from the program: help pages, rules, policies, JSON Schemas, the demo's output in the README.

`make docs` writes docs/cli.md, the tables of docs/lint.md, docs/provider.md and docs/gauntlet.md, and src/vtuned/schemas;
`python docs/generate.py --demo DIR` also puts the report of a demo run into the README; `--check` writes nothing and exits 1 where a page is out of date.
"""

import argparse
import json
import os
import re
import subprocess
import sys
from pathlib import Path

from vtuned.attacking import AttackReport
from vtuned.attacks import policies
from vtuned.documents import read
from vtuned.gauntlet.table import Gauntlet, markdown
from vtuned.ledger import Check
from vtuned.linting import Report, Rule, known
from vtuned.planning import Plan
from vtuned.probes import AnswerRecord, Probe
from vtuned.receipt import Receipt
from vtuned.verdict import Verdict

ROOT = Path(__file__).parent.parent
SCHEMAS = {
    "probe": Probe,
    "answer": AnswerRecord,
    "receipt": Receipt,
    "verdict": Verdict,
    "check": Check,
    "plan": Plan,
    "lint": Report,
    "gauntlet": Gauntlet,
    "attack": AttackReport,
}


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


def lint_page() -> str:
    """Return docs/lint.md with the tables of what is known of providers."""
    text = (ROOT / "docs" / "lint.md").read_text(encoding="utf-8")
    rules = [
        (one.name, f"`{rule.kind}`", _value(rule), rule.effect, _seen(rule.source, rule.seen), rule.note)
        for one in known()
        for rule in one.rules
    ]
    ends = [
        (one.title, str(end.on), end.what, _seen(end.source, end.seen)) for one in known() for end in one.announcements
    ]
    text = _filled(text, "rules", ("provider", "rule", "value", "effect", "source", "note"), rules)
    return _filled(text, "announcements", ("provider", "day", "what", "source"), ends)


def provider_page() -> str:
    """Return docs/provider.md with the table of policies."""
    text = (ROOT / "docs" / "provider.md").read_text(encoding="utf-8")
    rows = [(f"`{usage}`", told.rstrip(".")) for usage, told in policies.known()]
    return _filled(text, "policies", ("policy", "what it does"), rows)


def gauntlet_page() -> str:
    """Return docs/gauntlet.md with the tables of what was measured."""
    text = (ROOT / "docs" / "gauntlet.md").read_text(encoding="utf-8")
    for run in re.findall(r"<!-- /(\S+) -->", text):
        kept = ROOT / "bench" / "measured" / f"gauntlet-{run}.json"
        told = markdown(read(Gauntlet, kept.read_bytes())) if kept.is_file() else "Not measured yet.\n"
        pattern = rf"(<!-- {run}: [^>]*-->\n).*?(<!-- /{run} -->)"
        text = re.sub(pattern, lambda match, told=told: match[1] + told + match[2], text, flags=re.DOTALL)
    return text


def _value(rule: Rule) -> str:
    if isinstance(rule.value, int):
        return f"{rule.value:,}"
    return rule.value if isinstance(rule.value, str) else ", ".join(f"`{word}`" for word in rule.value) or "none known"


def _seen(source: str, seen: object) -> str:
    return f"{source} ({seen})"


def _filled(text: str, block: str, head: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    """Return *text* with a table between the marks of *block*."""
    lines = [head, ("---",) * len(head), *rows]
    table = "".join(f"| {' | '.join(cells)} |\n" for cells in lines)
    pattern = rf"(<!-- {block}: [^>]*-->\n).*?(<!-- /{block} -->)"
    return re.sub(pattern, lambda match: match[1] + table + match[2], text, flags=re.DOTALL)


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
    docs = ROOT / "docs"
    pages = {docs / "cli.md": help_pages(), docs / "lint.md": lint_page(), docs / "provider.md": provider_page()}
    pages[docs / "gauntlet.md"] = gauntlet_page()
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
