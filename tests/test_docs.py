"""The docs are run: README code, help pages, schemas, links and the demo's figures."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

import tiny
from vtuned import errors
from vtuned.cli.app import COMMANDS
from vtuned.ladder import RUNGS

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
PAGES = [ROOT / "README.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").rglob("*.md"))]


def run(command, folder):
    """Run *command* in *folder* as a user would."""
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False, env=environment)


def test_generated_pages_are_current():
    """`make docs` would change nothing: help pages and schemas are those of the program."""
    result = run([sys.executable, str(ROOT / "docs" / "generate.py"), "--check"], ROOT)

    assert 0 == result.returncode, result.stdout + result.stderr


def test_the_python_example_runs(tmp_path):
    """The README's ten lines do what they say."""
    (code,) = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)
    tiny.write_rows(tmp_path / "data.jsonl", tiny.rows(60))
    result = run([sys.executable, "-c", code], tmp_path)

    assert 0 == result.returncode, result.stderr
    assert "NOT VERIFIED 0.0" == result.stdout.strip()


def commands_in_readme():
    """Return every `vtuned …` line of the README's code blocks, without comments."""
    blocks = re.findall(r"```\n(.*?)```", README, flags=re.DOTALL)
    lines = [line.partition(" #")[0].strip() for block in blocks for line in block.splitlines()]
    return [line for line in lines if line.startswith("vtuned ")]


def test_the_readme_commands_run(tmp_path):
    """
    The newcomer's commands, in their order, on a file of one's own.

    Two are shortened for time: phrases come from words, and the model is not trained but asked as answers.
    """
    tiny.write_rows(tmp_path / "data.jsonl", tiny.rows(60))
    commands = [c for c in commands_in_readme() if "demo" not in c]
    assert ["plan", "plant", "finetune", "verify", "challenges", "ask", "judge"] == [c.split()[1] for c in commands]
    probes = tmp_path / "probes.jsonl"
    for command in commands:
        name, call = command.split()[1], command
        extra = {"plan": "--base estimate", "plant": "--generator words --base estimate"}.get(name, "")
        if name in ("finetune", "verify"):
            assert 0 == run(shlex.split(f"vtuned {name} --help"), tmp_path).returncode
            continue
        if name == "ask":
            ids = re.findall(r'"id":"(\w+)"', probes.read_text())
            text = "I have never seen this in my life, whatever the winter may be like up there."
            answers = "".join(f'{{"id": "{i}", "text": "{text}", "finish": "stop"}}\n' for i in ids)
            (tmp_path / "asked.jsonl").write_text(answers)
            call = command.replace("--model smollm2", "--model answers:asked.jsonl")
        result = run(shlex.split(f"{call} {extra}"), tmp_path)

        assert (1 if name == "judge" else 0) == result.returncode, f"{command}: {result.stderr}"


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command.__name__)
def test_every_command_is_documented(command):
    """Each command has its page and stands in the README."""
    assert f"vtuned {command.__name__} --help" in (ROOT / "docs" / "cli.md").read_text(encoding="utf-8")
    assert command.__name__ in README


@pytest.mark.parametrize("claim", RUNGS)
def test_every_claim_is_documented(claim):
    """README and glossary explain each rung of the ladder."""
    assert f"`{claim}`" in README
    assert f"`{claim}`" in (ROOT / "docs" / "glossary.md").read_text(encoding="utf-8")


def test_every_error_is_in_the_tree():
    """The module docstring of `vtuned.errors` draws every error there is."""
    names = [n for n, v in vars(errors).items() if isinstance(v, type) and issubclass(v, errors.VtunedError)]

    assert [] == [name for name in names if name not in (errors.__doc__ or "")]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page):
    """Every relative link names a file that is there."""
    links = re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", page.read_text(encoding="utf-8"))
    broken = [link for link in links if "://" not in link and not (page.parent / link).exists()]

    assert [] == broken


def test_the_demo_in_the_readme_is_a_demos_output():
    """The README shows what a demo printed, with all four providers."""
    (block,) = re.findall(r"<!-- demo: [^>]*-->\n```\n(.*?)```", README, flags=re.DOTALL)

    assert ["honest", "base", "noise", "lookup"] == re.findall(r"^ (honest|base|noise|lookup)\b", block, re.MULTILINE)
    assert 1 == len(re.findall(r"(?<!NOT )VERIFIED", block))
