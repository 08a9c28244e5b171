"""`vtuned provider gauntlet` given what it cannot use: one line and a hint, and nothing is begun."""

from __future__ import annotations

import re
import shlex
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

import tiny
from vtuned import documents
from vtuned.cli import console
from vtuned.cli.app import app
from vtuned.errors import UsageError
from vtuned.gauntlet import rounds
from vtuned.gauntlet.settings import Settings
from vtuned.gauntlet.table import Gauntlet, Round
from vtuned.layout import PlantSettings

pytest.importorskip("torch")

ROOT = Path(__file__).parent.parent
PAGE = (ROOT / "docs" / "gauntlet.md").read_text(encoding="utf-8")


@pytest.fixture
def gauntlet(monkeypatch, capsys, tmp_path):
    """Run the command in this process, on a few rows in an empty folder; (exit code, what it said)."""
    tiny.write_rows(tmp_path / "data.jsonl", tiny.rows(30))
    monkeypatch.chdir(tmp_path)

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["vtuned", "provider", "gauntlet", *arguments])
        return console.run(app), capsys.readouterr().err

    return run


class TestBadInput:
    @pytest.mark.parametrize(
        ("arguments", "said"),
        [
            (["--policy", "nonsense"], "unknown policy"),
            (["--policy", "subset:2"], "a share"),
            (["--policy", "base", "--policy", "base"], "given twice"),
            (["--policy", "rule:my own words"], "before the file is planted"),
            (["--model", "openai:gpt"], "not NAME=SPEC"),
            (["--model", "far=openai:gpt"], "not a local model"),
            (["--model", "near=hf:nowhere/at/all"], "nowhere"),
            (["--measure", "taste"], "unknown --measure"),
            (["--margin", "0"], "no margin"),
            (["--copies", "many"], "no number"),
        ],
        ids=lambda value: value if isinstance(value, str) else " ".join(value),
    )
    def test_options_that_cannot_be(self, gauntlet, tmp_path, arguments, said):
        """Before anything is written."""
        code, told = gauntlet("data.jsonl", *arguments)

        assert 2 == code
        assert ["error: ", "hint: "] == [line.partition(" ")[0] + " " for line in told.splitlines()]
        assert said in told
        assert "my own words" not in told
        assert ["data.jsonl"] == [path.name for path in tmp_path.iterdir()]

    @pytest.mark.parametrize("data", ["nowhere.jsonl", ".", "data.csv"])
    def test_data_that_no_service_takes(self, gauntlet, tmp_path, data):
        """A folder, and files of another kind."""
        (tmp_path / "data.csv").write_text("prompt,completion\n")
        code, told = gauntlet(data)

        assert 2 == code
        assert f"{data} is no .jsonl file" in told

    def test_a_folder_of_something_else(self, gauntlet, tmp_path):
        """It is left alone."""
        (tmp_path / "mine").mkdir()
        (tmp_path / "mine" / "thesis.txt").write_text("precious")
        code, told = gauntlet("data.jsonl", "--out", "mine")

        assert 2 == code
        assert "something else than a gauntlet" in told
        assert ["thesis.txt"] == [path.name for path in (tmp_path / "mine").iterdir()]

    def test_without_the_extra_the_command_to_install_it_is_said(self, gauntlet, monkeypatch):
        """And nothing is begun."""
        monkeypatch.setattr("vtuned.cli.served.util.find_spec", lambda name: None)
        code, told = gauntlet("data.jsonl")

        assert 2 == code
        assert "pip install 'vtuned[local,server]'" in told


def test_the_command_of_the_page_asks_for_more_rows_than_these(gauntlet):
    """Its options are the program's; so few rows cannot carry what it plants, and that is said."""
    (line,) = [line for line in PAGE.splitlines() if line.startswith("vtuned provider gauntlet ")]
    code, told = gauntlet(*shlex.split(line)[3:])

    assert 2 == code
    assert re.search(r"rows are needed, but only \d+ can carry", told)
    assert "hint: lower --set-aside" in told


def test_a_round_of_another_version_is_told(gauntlet, tmp_path):
    """One line, which file it is and what to do; nothing is thrown away."""
    kept = tmp_path / "policies" / "base" / "round.json"
    kept.parent.mkdir(parents=True)
    kept.write_text('{"policy": "base", "was": "otherwise"}')
    with pytest.raises(UsageError) as caught:
        rounds.all_finished(SimpleNamespace(folder=tmp_path))

    assert str(kept) in str(caught.value)
    assert "delete it" in caught.value.hint


def test_a_folder_outlives_new_settings(tmp_path):
    """What is left as it usually is does not count: this digest was that of an earlier version with fewer of them."""
    data = tmp_path / "data.jsonl"
    data.write_bytes(b"{}\n")
    settings = Settings(data=data, name="tiny", spec="hf:tiny", plant=PlantSettings(n_probes=11))

    assert settings.digest() == "1cd393dac1d3b52802fdf454b5cd3b9167877ee6ccce4ce7578f54ded0ace4a7"
    assert settings.digest() != replace(settings, plant=PlantSettings(n_probes=12)).digest()


@pytest.mark.parametrize(("trouble", "code"), [("the job failed", 3), (None, 0)])
def test_a_policy_without_a_verdict_could_not_be_told(gauntlet, monkeypatch, tmp_path, trouble, code):
    """It is neither a cheat that passes nor one that does not; scripts can tell."""
    one = documents.read(Gauntlet, (ROOT / "bench" / "measured" / "gauntlet-tiny.json").read_bytes())
    found = one.model_copy(update={"rounds": (Round(policy="base", does="nothing", trouble=trouble),)})
    model = tiny.make_model(tmp_path / "model", ["some text"])
    monkeypatch.setattr("vtuned.gauntlet.running.run", lambda *given: found)

    ended, said = gauntlet("data.jsonl", "--model", f"tiny=hf:{model}", "--policy", "base")

    assert code == ended, said
