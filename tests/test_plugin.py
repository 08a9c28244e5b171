"""Plug-ins: the page's example is installed as it stands and asked, and those that fail are named."""

from __future__ import annotations

import json
import re
import sys
import tomllib
from pathlib import Path

import pytest

from vtuned import lm
from vtuned.cli.app import app
from vtuned.errors import LMUnavailable, UnknownLM

PAGE = (Path(__file__).parent.parent / "docs" / "plugins.md").read_text(encoding="utf-8")


def block(language):
    """Return the one code block in *language*."""
    (code,) = re.findall(rf"```{language}\n(.*?)```", PAGE, flags=re.DOTALL)
    return code


@pytest.fixture
def install(tmp_path, monkeypatch):
    """`install(package, kind, target, code)`: make a package look installed, as pip leaves it."""
    monkeypatch.syspath_prepend(tmp_path)

    def install(package, kind, target, code):
        module = target.partition(":")[0]
        (tmp_path / f"{module}.py").write_text(code, encoding="utf-8")
        monkeypatch.delitem(sys.modules, module, raising=False)
        info = tmp_path / f"{package.replace('-', '_')}-1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.0\n")
        (info / "entry_points.txt").write_text(f"[vtuned.lm]\n{kind} = {target}\n")

    return install


@pytest.fixture
def documented(install):
    """The page's package, installed."""
    project = tomllib.loads(block("toml"))["project"]
    ((kind, target),) = project["entry-points"]["vtuned.lm"].items()
    install(project["name"], kind, target, block("python"))


@pytest.fixture
def program(tmp_path):
    """A program that answers with the last message, and fails where that is empty."""
    path = tmp_path / "program"
    path.write_text(
        f"#!{sys.executable}\nimport json, sys\nasked = json.load(sys.stdin)\n"
        "said = asked['messages'][-1]['content']\nsys.exit(3) if not said else print(said.upper())\n"
    )
    path.chmod(0o755)
    return path


def test_the_documented_plugin_answers(documented, program, tmp_path):
    """`vtuned ask` puts probes to it and keeps its answers, silence told from speech."""
    asked = [
        {"id": id_, "messages": [{"role": "user", "content": text}], "max_tokens": 8}
        for id_, text in (("a", "why?"), ("b", ""))
    ]
    probes, answers = tmp_path / "probes.jsonl", tmp_path / "answers.jsonl"
    probes.write_text("".join(json.dumps(probe) + "\n" for probe in asked))
    app(["ask", str(probes), "--model", f"command:{program}", "-o", str(answers)], standalone_mode=False)
    said = [json.loads(line) for line in answers.read_text().splitlines()]

    assert [("a", "WHY?"), ("b", None)] == [(record["id"], record.get("text")) for record in said]
    assert "exit code 3" in said[1]["unanswered"]


def test_its_own_errors_come_through(documented):
    """A plug-in that knows what is wrong says it."""
    with pytest.raises(LMUnavailable, match="no such program"):
        lm.load("command:/nowhere/none")


def test_installed_kinds_are_listed(documented):
    """A name that says no known kind brings the built-in and the installed ones."""
    with pytest.raises(UnknownLM) as caught:
        lm.load("comand:x")

    assert "answers:FILE, command:NAME" in caught.value.hint


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        ("import no_such_module", "ModuleNotFoundError"),
        ("made = 1", "AttributeError"),
        ("def load(rest, options): raise KeyError(rest)", "KeyError"),
        ("def load(rest, options): return 'a model'", "gave a str, which is no LanguageModel"),
    ],
)
def test_a_plugin_that_fails_is_named(install, code, reason):
    """Whose code it was stands in the error."""
    install("vtuned-broken", "broken", "vtuned_broken:load", code)

    with pytest.raises(LMUnavailable, match=reason) as caught:
        lm.load("broken:x")
    assert "vtuned-broken" in str(caught.value)


def test_built_in_names_win(install):
    """No installed package can take the place of a built-in kind."""
    install("vtuned-thief", "answers", "vtuned_thief:load", "def load(rest, options): raise SystemExit")

    with pytest.raises(Exception, match="none"):
        lm.load("answers:none")
