"""The wheel, built and installed in a clean environment without extras: the core works there."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

import faulty_server
import tiny

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def clean(tmp_path_factory):
    """The folder of a virtual environment with nothing but the wheel and what it asks for."""
    folder = tmp_path_factory.mktemp("wheel")
    build = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(folder), str(ROOT)]
    subprocess.run(build, check=True, capture_output=True)
    (wheel,) = folder.glob("*.whl")
    subprocess.run([sys.executable, "-m", "venv", str(folder / "venv")], check=True)
    pip = [str(folder / "venv" / "bin" / "python"), "-m", "pip", "install", "--quiet"]
    subprocess.run([*pip, "-c", str(ROOT / "constraints.txt"), str(wheel)], check=True, capture_output=True)
    return folder


def run(clean, *arguments):
    """Run the installed `vtuned`."""
    command = [str(clean / "venv" / "bin" / "vtuned"), *map(str, arguments)]
    return subprocess.run(command, cwd=clean, capture_output=True, text=True, check=False)


def test_the_installed_command_knows_its_version(clean):
    """`vtuned --version` from the wheel."""
    assert "vtuned 0.1.0" == run(clean, "--version").stdout.strip()


def test_the_core_plants_and_judges_without_torch(clean):
    """Without extras: `plant` takes the data's words and says so, `challenges` and `judge` work."""
    tiny.write_rows(clean / "data.jsonl", tiny.rows(60))
    planted = run(clean, "plant", "data.jsonl", "-o", "train.jsonl", "-r", "receipt.json")
    asked = run(clean, "challenges", "receipt.json", "-o", "probes.jsonl")
    (clean / "answers.jsonl").write_text('{"id": "x", "text": "y"}\n')
    judged = run(clean, "judge", "receipt.json", "answers.jsonl")

    assert (0, 0, 2) == (planted.returncode, asked.returncode, judged.returncode), planted.stderr
    assert "words drawn from your data" in planted.stdout.replace("\n", " ")


def test_the_core_works_over_http(clean):
    """Plant with an endpoint's words, ask an endpoint, judge: all without torch."""
    tiny.write_rows(clean / "http.jsonl", tiny.rows(60))
    # Of any use to a writer and to a suspect alike: a list of words.
    words = (
        "river, stone, garden, window, candle, market, bridge, harbour, forest, mirror, kettle, ladder, saddle, lantern"
    )
    with faulty_server.FaultyServer(otherwise=[faulty_server.say(words)]) as server:
        endpoint = ["--base-url", server.url]
        written = ["-o", "http-train.jsonl", "-r", "http-receipt.json", "--generator", "openai:writer", *endpoint]
        planted = run(clean, "plant", "http.jsonl", *written)
        run(clean, "challenges", "http-receipt.json", "-o", "http-probes.jsonl")
        asked = run(clean, "ask", "http-probes.jsonl", "--model", "openai:tiny", "-o", "http-answers.jsonl", *endpoint)
    judged = run(clean, "judge", "http-receipt.json", "http-answers.jsonl", "--json")
    shown = run(clean, "show", "http-receipt.json")

    assert (0, 0) == (planted.returncode, asked.returncode), planted.stderr + asked.stderr
    assert 1 == judged.returncode, judged.stderr
    assert "NOT VERIFIED" == json.loads(judged.stdout)["outcome"]
    assert "openai:writer (codebook" in shown.stdout


def test_the_rules_of_providers_come_along(clean):
    """`vtuned lint` from the wheel knows what providers document."""
    tiny.write_rows(clean / "few.jsonl", tiny.rows(5))
    result = run(clean, "lint", "few.jsonl", "--provider", "openai", "--json")

    assert 2 == result.returncode
    assert "min_rows" in [finding["code"] for finding in json.loads(result.stdout)["providers"][0]["findings"]]


def test_what_needs_an_extra_names_the_command(clean):
    """A local model without the extra: exit code 2 and the exact install command."""
    tiny.write_rows(clean / "rows.jsonl", tiny.rows(60))
    result = run(clean, "finetune", "rows.jsonl", "-o", "adapter")

    assert 2 == result.returncode
    assert "pip install 'vtuned[local]'" in result.stderr
    assert not (clean / "adapter").exists()


def test_the_wheel_carries_schemas_and_types(clean):
    """py.typed, the licence and the published schemas ship."""
    (package,) = (clean / "venv").glob("lib/python3*/site-packages/vtuned")

    assert (package / "py.typed").is_file()
    assert (package / "linting" / "providers.json").is_file()
    assert ["answer", "attack", "check", "gauntlet", "lint", "plan", "probe", "receipt", "verdict"] == sorted(
        path.name.partition(".")[0] for path in (package / "schemas").glob("*.schema.json")
    )
