"""Plug-ins: the page's example is installed as it stands and asked, and those that fail are named."""

from __future__ import annotations

import json
import re
import sys
import tomllib
from pathlib import Path

import pytest

from vtuned import lm
from vtuned import receipt as receipts
from vtuned.cli import console
from vtuned.cli.app import app
from vtuned.errors import LMUnavailable, UnknownLM
from vtuned.lm.base import AnswersAsTheyCome, Completed, IsElsewhere, ReportsSteps, Scorer, TokenSampler

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
        ("import sys; sys.exit(0)", "SystemExit"),
        ("def load(rest, options): raise SystemExit", "SystemExit"),
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


SPEAKS = """
import sys
from vtuned.lm import Completed, Unanswered

class Spoken:
    name = "spoken"
    def answer(self, prompts, sampling):
        {}

def load(rest, options):
    return Spoken()
"""
BROKEN = {
    "raises": ("raise ConnectionError('what a trigger says')", "failed: ConnectionError"),
    "exits": ("yield Completed('Yes.'); sys.exit(0)", "failed: SystemExit"),
    "no iterator": ("return None", "failed: TypeError"),
    "too few": ("yield Completed('Yes.')", "1 answers to 2 prompts"),
    "too many": ("yield from [Completed('Yes.')] * 3", "more answers than prompts"),
    "texts": ("yield from ['Yes.'] * 2", "gave a str as an answer"),
    "no text": ("yield from [Completed(None)] * 2", "whose text is no text"),
    "no reason": ("yield from [Unanswered(None)] * 2", "whose text is no text"),
    "finish": ("yield from [Completed('Yes.', 'eos')] * 2", "whose finish"),
    "exchange": ("yield from [Completed('Yes.', None, 'not JSON')] * 2", "exchange is no JSON object"),
}


@pytest.mark.parametrize(("code", "reason"), BROKEN.values(), ids=BROKEN.keys())
def test_a_plugin_that_breaks_off_is_named(install, code, reason):
    """Whatever it does in the middle of its answers is its fault, and says nothing of what it was asked."""
    install("vtuned-spoken", "spoken", "vtuned_spoken:load", SPEAKS.format(code))
    model = lm.load("spoken:x")

    with pytest.raises(LMUnavailable, match=reason) as caught:
        list(model.answer([[{"role": "user", "content": text}] for text in "ab"], lm.Sampling()))
    assert "vtuned-spoken" in str(caught.value)
    assert "trigger" not in str(caught.value)


def test_a_plugins_error_does_not_tell_the_key(install):
    """The text of its error may hold anything; its type is enough."""
    code = "def load(rest, options): raise ValueError(f'bad key {options.api_key}')"
    install("vtuned-tells", "tells", "vtuned_tells:load", code)

    with pytest.raises(LMUnavailable, match=r"failed: ValueError$") as caught:
        lm.load("tells:x", lm.LoadOptions(api_key="sk-very-secret-1234"))
    assert "secret" not in str(caught.value) + caught.value.hint


ABLE = SPEAKS.format("yield from (Completed('Yes.') for _ in prompts)").replace(
    "def answer(",
    """address = "http://there"
    def __init__(self):
        self.on_step = lambda done, total: None
    def answer_unordered(self, prompts, sampling):
        for i in self.order:
            yield i, Completed(str(i))
    def log10_probs(self, prompt, continuations):
        return [-1.0 for _ in continuations]
    def answer(""",
)


def test_what_a_plugin_can_do_besides_shows(install):
    """Scores, an address, progress and answers as they come; and nothing that it cannot."""
    install("vtuned-able", "able", "vtuned_able:load", ABLE)
    model = lm.load("able:x")
    model._model.order = [1, 0]
    model.on_step = print

    assert isinstance(model, AnswersAsTheyCome)
    assert isinstance(model, IsElsewhere)
    assert isinstance(model, ReportsSteps)
    assert isinstance(model, Scorer)
    assert not isinstance(model, TokenSampler)
    assert ("spoken", "http://there", print) == (model.name, model.address, model._model.on_step)
    assert [-1.0] == model.log10_probs([], ["x"])
    assert [(1, Completed("1")), (0, Completed("0"))] == list(model.answer_unordered([[], []], lm.Sampling()))
    for order in ([0, 0], [0, 2], [0]):
        model._model.order = order
        with pytest.raises(LMUnavailable, match="vtuned-able"):
            list(model.answer_unordered([[], []], lm.Sampling()))
    with pytest.raises(LMUnavailable, match="failed: TypeError"):
        model.log10_probs([], None)


def test_a_plugin_may_give_a_model_of_ours(install):
    """It stays what it is: some commands need its class."""
    code = "from vtuned.lm import ScriptedLM\ndef load(rest, options): return ScriptedLM(lambda prompt: rest)"
    install("vtuned-ours", "ours", "vtuned_ours:load", code)

    assert isinstance(lm.load("ours:x"), lm.ScriptedLM)


@pytest.mark.parametrize("code", ["yield Completed('Yes.'); sys.exit(0)", "raise SystemExit(0)"])
def test_a_plugin_that_exits_verifies_nothing(install, make_receipt, tmp_path, monkeypatch, code):
    """`verify` ends with 3, whatever code it exits with."""
    install("vtuned-spoken", "spoken", "vtuned_spoken:load", SPEAKS.format(code))
    receipt = tmp_path / "receipt.json"
    receipt.write_bytes(receipts.to_json(make_receipt()))
    monkeypatch.setattr(sys, "argv", ["vtuned", "verify", str(receipt), "--model", "spoken:x"])
    monkeypatch.chdir(tmp_path)

    assert 3 == console.run(app)
