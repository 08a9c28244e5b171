"""`vtuned lint` and `plant --provider` as users meet them."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

import pytest
from jsonschema import Draft202012Validator

import tiny
from vtuned import receipt as receipts
from vtuned.linting import Provider, Rule, rules

ROOT = Path(__file__).parent.parent
PLANT = ("--generator", "words", "--base", "estimate")


@pytest.fixture
def data(tmp_path):
    """A data set of 60 rows that nobody refuses."""
    return tiny.write_rows(tmp_path / "data.jsonl", tiny.rows(60))


@pytest.fixture
def strict(monkeypatch):
    """`strict(kind, value, effect)`: a provider called `strict` with this one rule."""

    def install(kind, value, effect="refuses"):
        one = Rule(kind=kind, value=value, effect=effect, source="a page", seen="2026-11-25")
        monkeypatch.setattr(rules, "known", lambda: (Provider(name="strict", title="Strict", rules=(one,)),))

    return install


def flat(text):
    """Return *text* on one line."""
    return " ".join(text.split())


class TestLint:
    def test_all_providers(self, vtuned, data):
        """A table of all that have rules; exit code 0, and no promise."""
        code, out, err = vtuned("lint", data, "--base", "estimate")

        assert (0, "") == (code, err)
        assert [] == [name for name in ("openai", "azure", "together", "fireworks", "trl") if f"\n {name} " not in out]
        assert "would be refused" not in out
        assert "may still be refused" in out

    def test_a_file_that_would_be_refused(self, vtuned, tmp_path):
        """Exit code 2; the rule, the count, the lines and the source are said, and none of the text."""
        some = tiny.rows(60)
        for i in (6, 8):
            some[i]["messages"].append({"role": "user", "content": "And a zeppelin?"})
        code, out, _ = vtuned("lint", tiny.write_rows(tmp_path / "data.jsonl", some), "--provider", "openai")

        assert 2 == code
        said = "error openai, last_role: rows that do not end with assistant: refused; 2 rows: lines 7, 9 "
        assert said in flat(out)
        assert "community.openai.com" in out
        assert "zeppelin" not in out

    def test_json(self, vtuned, data):
        """One document that the published schema accepts, notes and all."""
        code, out, _ = vtuned("lint", data, "--provider", "openai", "--provider", "cohere", "--json")
        document = json.loads(out)
        schema = json.loads((ROOT / "src" / "vtuned" / "schemas" / "lint.schema.json").read_text())

        assert 0 == code
        assert [] == [error.message for error in Draft202012Validator(schema).iter_errors(document)]
        assert ["openai", "cohere"] == [one["provider"] for one in document["providers"]]
        assert ["moderation", "announced"] == [one["code"] for one in document["providers"][0]["findings"]]
        assert (60, "openai-chat", "line") == (document["n_rows"], document["row_format"], document["unit"])

    def test_notes_are_for_who_asks(self, vtuned, data):
        """With all providers on one screen, what is only good to know is left out."""
        assert "eval_auto_carveout" not in vtuned("lint", data)[1]
        assert "eval_auto_carveout" in vtuned("lint", data, "--provider", "fireworks")[1]

    @pytest.mark.parametrize(
        ("content", "said"),
        [
            pytest.param(None, "cannot read", id="missing"),
            pytest.param(b"", "no rows in this file", id="empty"),
            pytest.param(b"\n \n", "no rows in this file", id="blank"),
        ],
    )
    def test_nothing_to_lint(self, vtuned, tmp_path, content, said):
        """One line, a hint, exit code 2."""
        path = tmp_path / "data.jsonl"
        if content is not None:
            path.write_bytes(content)
        code, out, err = vtuned("lint", path)

        assert (2, "") == (code, out)
        assert said in err
        assert "hint: " in err

    def test_not_json(self, vtuned, tmp_path):
        """A file of prose is refused by everybody, with its first line."""
        (tmp_path / "data.jsonl").write_text("Dear Sir,\nthank you.\n")
        code, out, _ = vtuned("lint", tmp_path / "data.jsonl", "--provider", "together")

        assert 2 == code
        assert "error every provider, unreadable" in out
        assert "2 rows: lines 1, 2" in flat(out)

    def test_an_unknown_provider(self, vtuned, data):
        """The known ones are named."""
        code, _, err = vtuned("lint", data, "--provider", "opennai")

        assert 2 == code
        assert "unknown provider 'opennai'" in err
        assert "together" in err

    def test_words(self, vtuned, data, tmp_path):
        """The user's own list: counted, and not repeated on the screen."""
        (tmp_path / "words.txt").write_text("lantern\n\nkettle\n")
        code, out, _ = vtuned("lint", data, "--words", tmp_path / "words.txt", "--base", "estimate")
        (tmp_path / "words.txt").write_text("\n")

        assert 0 == code
        assert "warning every provider, words" in out
        assert "lantern" not in out
        assert 2 == vtuned("lint", data, "--words", tmp_path / "words.txt")[0]

    def test_another_format(self, vtuned, tmp_path):
        """Columns of one's own are read by name; hosted providers want them converted."""
        tiny.write_rows(tmp_path / "odd.jsonl", [{"asked": f"Why {i}?", "said": "So."} for i in range(20)])
        columns = ("--prompt-column", "asked", "--response-column", "said")
        code, out, _ = vtuned("lint", tmp_path / "odd.jsonl", *columns, "--provider", "openai")

        assert 2 == code
        assert "error openai, formats" in out


class TestPlant:
    def test_before_and_after(self, vtuned, data, tmp_path):
        """Held against the rules before and after: TRAIN and the receipt are there, and the report is shown."""
        train, receipt = tmp_path / "train.jsonl", tmp_path / "receipt.json"
        code, out, err = vtuned("plant", data, "-o", train, "-r", receipt, *PLANT, "--provider", "openai")
        linted = vtuned("lint", train, "-r", receipt, "--provider", "openai", "--base", "estimate")

        assert (0, 0) == (code, linted[0]), err
        assert "16 of 60 rows carry" in out
        assert "breaks no documented rule" in out or "see the warnings" in out
        assert "send this file" in err

    def test_json(self, vtuned, data, tmp_path):
        """The report on TRAIN is part of the one document."""
        where = ("-o", tmp_path / "train.jsonl", "-r", tmp_path / "receipt.json")
        code, out, _ = vtuned("plant", data, *where, *PLANT, "--provider", "together", "--json")

        assert 0 == code
        assert (60, "together") == (
            json.loads(out)["lint"]["n_rows"],
            json.loads(out)["lint"]["providers"][0]["provider"],
        )

    def test_an_error_stops_it(self, vtuned, tmp_path):
        """Data that would be refused are not planted: nothing is written, exit code 2."""
        data = tmp_path / "data.jsonl"
        data.write_bytes(b"\xef\xbb\xbf" + tiny.write_rows(data, tiny.rows(60)).read_bytes())
        where = ("-o", tmp_path / "train.jsonl", "-r", tmp_path / "receipt.json")
        code, out, err = vtuned("plant", data, *where, *PLANT, "--provider", "together")

        assert (2, "") == (code, out)
        assert "together would refuse this file: a byte order mark" in err
        assert "nothing was written" in err
        assert ["data.jsonl"] == sorted(path.name for path in tmp_path.iterdir())

    def test_the_mark_that_azure_wants_is_kept(self, vtuned, tmp_path):
        """A file with a byte order mark is planted with it."""
        data = tmp_path / "data.jsonl"
        data.write_bytes(b"\xef\xbb\xbf" + tiny.write_rows(data, tiny.rows(60)).read_bytes())
        train = tmp_path / "train.jsonl"
        code, out, err = vtuned("plant", data, "-o", train, "-r", tmp_path / "r.json", *PLANT, "--provider", "azure")

        assert 0 == code, err
        assert train.read_bytes().startswith(b"\xef\xbb\xbf{")
        assert "azure, bom" not in out

    def test_the_providers_cap_is_kept(self, vtuned, data, tmp_path, strict):
        """A higher --token-cap is lowered, said so and kept in the receipt; a lower one stays."""
        strict("max_row_tokens", 600, "cuts")
        receipt = tmp_path / "receipt.json"
        where = ("-o", tmp_path / "train.jsonl", "-r", receipt, *PLANT, "--provider", "strict", "--force")
        lowered = vtuned("plant", data, *where)
        first = receipts.read_receipt(receipt).token_cap
        kept = vtuned("plant", data, *where, "--token-cap", "500")

        assert (0, 0) == (lowered[0], kept[0]), lowered[2]
        assert "lowered to the 600 that strict documents" in lowered[2]
        assert "lowered" not in kept[2]
        assert (600, 500) == (first, receipts.read_receipt(receipt).token_cap)
        assert "max_row_tokens" not in lowered[1]

    def test_a_training_file_that_would_be_refused(self, vtuned, data, tmp_path, strict):
        """Planting makes it larger than is taken: it is written, and said not to be sent."""
        strict("max_bytes", data.stat().st_size)
        train = tmp_path / "train.jsonl"
        code, out, err = vtuned("plant", data, "-o", train, "-r", tmp_path / "r.json", *PLANT, "--provider", "strict")

        assert 2 == code
        assert "16 of 60 rows carry" in out
        assert "train.jsonl: strict would refuse this file: bytes in one file" in err
        assert "do not send it" in err
        assert "send this file to the provider" not in err
        assert train.exists()

    def test_copies_that_deduplication_would_eat(self, vtuned, tmp_path):
        """Where all rows are alike, copies of a backdoor are too: said with how many, of which backdoor."""
        data = tiny.write_rows(tmp_path / "data.jsonl", tiny.rows(1) * 60)
        (tmp_path / "fresh.jsonl").write_text("".join(json.dumps(row) + "\n" for row in tiny.rows(40)[1:]))
        where = ("-o", tmp_path / "train.jsonl", "-r", tmp_path / "r.json", "--fresh", tmp_path / "fresh.jsonl")
        code, out, err = vtuned(
            "plant",
            data,
            *where,
            "--contexts",
            "0",
            "--generator",
            "words",
            "--base",
            "estimate",
            "--provider",
            "openai",
        )

        assert 0 == code, err
        assert "14 planted rows among them (backdoor 1: 7 of 8, backdoor 2: 7 of 8 copies)" in flat(out)


def test_the_commands_on_linting_run(vtuned, tmp_path, monkeypatch):
    """Every command of the page, in its order."""
    monkeypatch.chdir(tmp_path)
    tiny.write_rows(tmp_path / "data.jsonl", tiny.rows(60))
    page = (ROOT / "docs" / "lint.md").read_text(encoding="utf-8")
    blocks = re.findall(r"```\n(.*?)```", page, flags=re.DOTALL)
    commands = [line for block in blocks for line in block.splitlines()]
    extra = {"plant": PLANT, "lint": ("--base", "estimate")}

    codes = [vtuned(*shlex.split(command)[1:], *extra[command.split()[1]])[0] for command in commands]

    assert [0, 0, 0, 0] == codes
