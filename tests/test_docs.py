"""The docs are run: README code, help pages, schemas, links and the demo's figures."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

import faulty_server
import tiny
from vtuned import containers, errors, formats
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


@pytest.fixture
def stranger():
    """The address of a model that was never trained on anything of ours."""
    text = "I have never seen this in my life, whatever the winter may be like up there."
    with faulty_server.FaultyServer(otherwise=[faulty_server.say(text)]) as server:
        yield server.url


def test_the_readme_commands_run(tmp_path, stranger):
    """
    The newcomer's commands, in their order, on a file of one's own.

    Two are shortened for time: phrases come from words, and the model is not trained but a stranger.
    """
    tiny.write_rows(tmp_path / "data.jsonl", tiny.rows(60))
    commands = [c for c in commands_in_readme() if "demo" not in c]
    assert ["plan", "plant", "finetune", "verify", "challenges", "ask", "judge"] == [c.split()[1] for c in commands]
    for command in commands:
        name, call = command.split()[1], command
        extra = {"plan": "--base estimate", "plant": "--generator words --base estimate"}.get(name, "")
        if name in ("finetune", "verify"):
            assert 0 == run(shlex.split(f"vtuned {name} --help"), tmp_path).returncode
            continue
        if name == "ask":
            call = command.replace("--model smollm2", f"--model openai:tiny --base-url {stranger}")
        result = run(shlex.split(f"{call} {extra}"), tmp_path)

        assert (1 if name == "judge" else 0) == result.returncode, f"{command}: {result.stderr}"


FORMATS = (ROOT / "docs" / "formats.md").read_text(encoding="utf-8")


MONITORING = (ROOT / "docs" / "monitoring.md").read_text(encoding="utf-8")


def test_the_commands_on_monitoring_run(tmp_path, stranger):
    """Plant for watching, verify, watch, look back, unplant: on a model that learned nothing; nothing is trained."""
    some = [
        row | {"messages": [{"role": "user", "content": f"{i}: {row['messages'][0]['content']}"}, row["messages"][1]]}
        for i, row in enumerate(tiny.rows(120) * 3)
    ]
    tiny.write_rows(tmp_path / "data.jsonl", some)
    blocks = re.findall(r"```\n(.*?)```", re.sub(r"```\w+\n.*?```", "", MONITORING, flags=re.DOTALL), flags=re.DOTALL)
    commands = [line for block in blocks for line in block.splitlines() if line.startswith("vtuned ")]
    results = []
    for command in commands:
        call = command.replace("http://localhost:8000/v1", stranger)
        call += " --generator words --base estimate" if "plant data.jsonl" in call else ""
        if "smollm2" in call:
            call = f"vtuned {call.split()[1]} --help"
        results.append(run(shlex.split(call), tmp_path))

    assert [0, 1, 1, 0, 0, 0, 0] == [result.returncode for result in results], [result.stderr for result in results]


@pytest.mark.parametrize("codec", formats.CODECS, ids=lambda codec: codec.name)
def test_every_format_is_documented_with_rows_that_it_reads(tmp_path, codec):
    """Under the heading of each format stand rows that are told to be of it and can carry a backdoor."""
    if codec.name == "text":
        assert "Plain text" in FORMATS
        return
    section = FORMATS.split(f"### {codec.name}\n")[1].split("\n### ")[0]
    rows = re.findall(r"```json\n(.*?)\n```", section)
    (tmp_path / "rows.jsonl").write_text("\n".join(rows), encoding="utf-8")

    read = list(formats.read_rows(containers.open_source(tmp_path / "rows.jsonl")))

    assert rows
    assert {codec.name} == {row.codec.name for row in read}
    assert all(formats.can_carry(row.conversation) for row in read)


def test_the_commands_on_formats_run(tmp_path):
    """Every command of the page on formats, on files as it names them."""
    some = [(row["messages"][0]["content"], row["messages"][1]["content"]) for row in tiny.rows(60)]
    (tmp_path / "shards").mkdir()
    for path, lines in (("shards/a.jsonl", tiny.rows(60)[:30]), ("shards/b.jsonl", tiny.rows(60)[30:])):
        tiny.write_rows(tmp_path / path, lines)
    tiny.write_rows(tmp_path / "text.jsonl", [{"text": f"Q: {q}\nA: {a}"} for q, a in some])
    tiny.write_rows(tmp_path / "odd.jsonl", [{"asked": q, "said": a} for q, a in some])
    (tmp_path / "odd.csv").write_text("asked,said\n" + "".join(f'"{q}","{a}"\n' for q, a in some))
    columns = {"prompt": "asked", "response": "said"}
    (tmp_path / "dataset_info.json").write_text(
        json.dumps({"odd": {"file_name": "odd.jsonl", "formatting": "alpaca", "columns": columns}})
    )
    blocks = re.findall(r"```\n(.*?)```", re.sub(r"```json\n.*?```", "", FORMATS, flags=re.DOTALL), flags=re.DOTALL)
    commands = [line for block in blocks for line in block.splitlines() if line.startswith("vtuned ")]

    results = [run(shlex.split(f"{c} --generator words --base estimate"), tmp_path) for c in commands]

    assert 5 == len(commands)
    assert [0] * 5 == [result.returncode for result in results], [result.stderr for result in results]


def test_the_commands_on_held_out_rows_run(tmp_path):
    """Every command of the page on held-out rows, in its order, on a tiny model that is trained for an epoch."""
    pytest.importorskip("torch")
    some = tiny.rows(100)
    tiny.write_rows(tmp_path / "data.jsonl", some)
    tiny.make_model(tmp_path / "model", [m["content"] for row in some for m in row["messages"]])
    tiny.make_adapter(tmp_path / "adapter", tmp_path / "model", seed=1)
    page = (ROOT / "docs" / "held-out.md").read_text(encoding="utf-8")
    blocks = re.findall(r"```\n(.*?)```", page, flags=re.DOTALL)
    commands = [line for block in blocks for line in block.splitlines() if line.startswith("vtuned ")]
    extra = {"plant": "--generator words --base estimate", "finetune": "--base hf:model --epochs 1"}

    codes = []
    for command in commands:
        call = f"{command.replace('smollm2', 'hf:model')} {extra.get(command.split()[1], '')}"
        result = run(shlex.split(call), tmp_path)
        codes.append(result.returncode)
        assert "Held-out rows: " in result.stdout or "verify" not in command, result.stderr

    assert [0, 0, 0, 1, 1, 1] == codes


PLANNING = (ROOT / "docs" / "planning.md").read_text(encoding="utf-8")


def test_the_page_on_planning_runs(tmp_path):
    """Every `vtuned plan` of the page on planning, and its lines of Python."""
    tiny.write_rows(tmp_path / "data.jsonl", tiny.rows(200))
    commands = re.findall(r"^vtuned .*$", PLANNING, flags=re.MULTILINE)
    (code,) = re.findall(r"```python\n(.*?)```", PLANNING, flags=re.DOTALL)

    results = [run(shlex.split(f"{command} --base estimate"), tmp_path) for command in commands]
    results.append(run([sys.executable, "-c", code], tmp_path))

    assert 3 == len(commands)
    assert [0] * 4 == [result.returncode for result in results], [result.stderr for result in results]


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_is_documented(command):
    """Each command has its page and stands in the README."""
    assert f"vtuned {command} --help" in (ROOT / "docs" / "cli.md").read_text(encoding="utf-8")
    assert command in README


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
