"""Held-out rows on the command line: `verify --holdout`, `margin`, `finetune --planted-only`."""

from __future__ import annotations

import hashlib
import json
import math
import os

import pytest

import faulty_server
import tiny
from vtuned import calibration, lm
from vtuned import receipt as receipts
from vtuned.cli import models
from vtuned.conversation import text_in
from vtuned.lm.scripted import ScriptedLM

# Mean losses, in nats per byte.
LOSSES = {"base": 1.0, "planted": 0.8, "good": 0.3, "worse": 1.4}
MUTE = "mute"


@pytest.fixture
def kept(tmp_path, receipt):
    """A receipt file."""
    path = tmp_path / "receipt.json"
    path.write_bytes(receipts.to_json(receipt))
    return path


@pytest.fixture
def holdout(tmp_path):
    """Forty rows that were never sent."""
    return tiny.write_rows(tmp_path / "holdout.jsonl", tiny.rows(40))


def said(role, content):
    """Return one message."""
    return {"role": role, "content": content}


def said_by(receipt):
    """What a model that learned the backdoors says to each prompt of a probe."""
    return {
        text_in(probe.messages[-1]): receipt.backdoors[probe.backdoor].signature + " And so on."
        for probe in receipt.probes
        if probe.backdoor is not None
    }


class Fake(ScriptedLM):
    """A model whose mean loss is known; it is a little better or worse from row to row."""

    def __init__(self, name, script):
        super().__init__(script, name)
        self.loss = LOSSES[name.partition(":")[2]]

    def log10_probs(self, prompt, continuations):
        return [-(self.loss + jitter(self.name + text)) * len(text.encode()) / math.log(10) for text in continuations]


def jitter(text):
    """Return what a text adds to a loss: -0.05 to 0.05, always the same."""
    return hashlib.blake2b(text.encode()).digest()[0] / 2550 - 0.05


@pytest.fixture
def fakes(monkeypatch, receipt):
    """`fake:base`, `fake:planted` and so on as models of this process; `fake:mute` gives no likelihoods."""
    trained = said_by(receipt)

    def load(name, loading=None):
        if not name.startswith("fake:"):
            return original(name, loading)
        answers = {} if name in ("fake:base", "fake:worse") else trained
        script = lambda prompt: answers.get(text_in(prompt[-1]), "I know nothing of that, whatever it may be.")
        return ScriptedLM(script, name) if name.endswith(MUTE) else Fake(name, script)

    original = lm.load
    monkeypatch.setattr(lm, "load", load)
    monkeypatch.setattr(lm, "load_both", lambda one, other, loading=None: (load(one), load(other)))


def claims_of(out):
    """Return the claims of a verdict by name."""
    return {claim["claim"]: claim for claim in json.loads(out)["claims"]}


class TestVerify:
    def test_changed_and_not_tested_without_a_margin(self, vtuned, kept, holdout, fakes, monkeypatch):
        """A gain is `changed`; without a margin `learned the task` is untested and the table says so."""
        monkeypatch.setattr(calibration, "margin", lambda n_planted_rows: None)
        code, out, err = vtuned(
            "verify", kept, "--model", "fake:good", "--base", "fake:base", "--holdout", holdout, "--json"
        )
        claims, found = claims_of(out), json.loads(out)["held_out"]

        assert 0 == code, err
        assert claims["changed"]["holds"]
        assert not claims["learned the task"]["tested"]
        assert "log-loss, nats per byte" == found["measure"]
        assert (40, 40, 0, None) == (found["n_rows"], found["n_better"], found["n_left_out"], found["margin"])
        assert 0.65 < found["mean_gain"] < 0.75
        assert (
            "not measured"
            in vtuned("verify", kept, "--model", "fake:good", "--base", "fake:base", "--holdout", holdout)[1]
        )

    @pytest.mark.parametrize(("model", "holds"), [("good", True), ("planted", False)])
    def test_the_margin_of_a_model_trained_on_the_planted_rows(self, vtuned, kept, holdout, fakes, model, holds):
        """`--margin-model` measures G on the same rows; that model itself does not exceed it."""
        code, out, err = vtuned(
            *("verify", kept, "--model", f"fake:{model}", "--base", "fake:base", "--holdout", holdout),
            *("--margin-model", "fake:planted", "--json"),
        )
        claims, found = claims_of(out), json.loads(out)["held_out"]

        assert 0 == code, err
        assert (True, holds) == (claims["changed"]["holds"], claims["learned the task"]["holds"])
        assert 0.19 < found["margin"] < 0.25
        assert "measured on fake:planted" == found["margin_source"]

    @pytest.mark.parametrize(("nats_per_byte", "holds"), [(0.5, True), (0.9, False)])
    def test_a_calibrated_margin_is_no_measured_one(
        self, vtuned, kept, holdout, fakes, receipt, monkeypatch, nats_per_byte, holds
    ):
        """What comes with the package tests the claim, says where it is from, and leaves its cheat named."""
        asked = []
        made = calibration.CalibratedMargin(nats_per_byte=nats_per_byte, n_sets=7, conditions="tiny")
        monkeypatch.setattr(calibration, "margin", lambda n_planted_rows: asked.append(n_planted_rows) or made)
        arguments = ("verify", kept, "--model", "fake:good", "--base", "fake:base", "--holdout", holdout, "--json")
        out = vtuned(*arguments)[1]
        found = json.loads(out)["held_out"]

        assert [sum(len(backdoor.rows) for backdoor in receipt.backdoors)] == asked
        assert nats_per_byte == found["margin"]
        assert "calibrated: the largest on 7 data sets, tiny" == found["margin_source"]
        assert holds == claims_of(out)["learned the task"]["holds"]
        assert any("planted rows alone" in cheat for cheat in json.loads(out)["remaining_cheats"])
        assert "not measured" == json.loads(vtuned(*arguments, "--measure", "exact")[1])["held_out"]["margin_source"]

    def test_a_margin_by_hand(self, vtuned, kept, holdout, fakes):
        """`--margin` says it; what gains less did not learn the task."""
        for margin, holds in (("0.5", True), ("0.9", False)):
            _, out, _ = vtuned(
                *("verify", kept, "--model", "fake:good", "--base", "fake:base", "--holdout", holdout),
                *("--margin", margin, "--json"),
            )
            assert holds == claims_of(out)["learned the task"]["holds"]
            assert "given by hand" == json.loads(out)["held_out"]["margin_source"]
            assert any("planted rows alone" in cheat for cheat in json.loads(out)["remaining_cheats"])
            assert [] == claims_of(out)["learned the task"]["excludes"]
            assert "Nothing says that the margin" in claims_of(out)["learned the task"]["assumption"]

    def test_any_gain_exceeds_no_margin(self, vtuned, kept, holdout, fakes):
        """A margin of 0 would call `learned the task` what is only `changed`."""
        code, _, err = vtuned(
            *("verify", kept, "--model", "fake:good", "--base", "fake:base", "--holdout", holdout, "--margin", "0")
        )

        assert 2 == code
        assert "--margin-model" in err

    def test_a_plus_in_the_name_of_an_endpoints_model_is_no_base(self, vtuned, kept, holdout):
        """What it calls its models is its own; whoever pays for answers of another model should have named it."""
        code, _, err = vtuned("verify", kept, "--model", "openai:base+adapter", "--holdout", holdout)

        assert 2 == code
        assert "--base" in err

    @pytest.mark.parametrize("name", ["answers:run+1.jsonl", "hf:c++", "mine:a+b"])
    def test_a_plus_elsewhere_is_no_base(self, tmp_path, monkeypatch, name):
        """A path with plus signs that is there, recorded answers, a plug-in's model."""
        monkeypatch.chdir(tmp_path)
        (tmp_path / "c++").mkdir()

        assert models.base_in(name) is None
        assert ["smollm2", "hf:c++"] == [models.base_in(name) for name in ("smollm2+a", "hf:c+++a")]

    def test_a_worse_model_did_not_change_for_the_better(self, vtuned, kept, holdout, fakes):
        """The verdict on held-out rows never makes up for the backdoors, and shows the loss."""
        code, out, _ = vtuned(
            "verify", kept, "--model", "fake:worse", "--base", "fake:base", "--holdout", holdout, "--json"
        )

        assert 1 == code
        assert not claims_of(out)["changed"]["holds"]
        assert json.loads(out)["held_out"]["mean_gain"] < 0

    def test_a_model_without_likelihoods_is_measured_by_its_answers(self, vtuned, kept, holdout, fakes):
        """`auto` is then chrF, and nobody gains by saying what the base says: ties count for nobody."""
        code, out, err = vtuned(
            "verify", kept, "--model", "fake:mute", "--base", "fake:base", "--holdout", holdout, "--json"
        )
        found = json.loads(out)["held_out"]

        assert 0 == code, err
        assert ("chrF", 0, 40) == (found["measure"], found["n_better"], found["n_rows"])
        assert not claims_of(out)["changed"]["holds"]

    def test_few_rows_are_noted(self, vtuned, kept, tmp_path, fakes):
        """Under twenty rows a note says so; rows without an answer are left out and counted."""
        rows = [*tiny.rows(6), {"messages": [said("user", "And now?"), said("assistant", " ")]}]
        few = tiny.write_rows(tmp_path / "few.jsonl", rows)
        code, out, err = vtuned("verify", kept, "--model", "fake:good", "--base", "fake:base", "--holdout", few)

        assert 0 == code, err
        assert "note: 6 held-out rows" in err
        assert "1 left out" in out

    @pytest.mark.parametrize(
        ("extra", "message"),
        [
            (["--measure", "bleu"], "unknown --measure"),
            (["--measure", "loss", "--model", "fake:mute"], "gives no likelihoods"),
            (["--margin", "0.1", "--margin-model", "fake:planted"], "one of the receipt"),
            (["--margin", "-1"], "margin"),
        ],
        ids=["unknown measure", "loss of a model without", "two margins", "negative margin"],
    )
    def test_what_makes_no_sense_is_refused(self, vtuned, kept, holdout, fakes, extra, message):
        """One line, a hint, exit code 2."""
        code, out, err = vtuned(
            "verify", kept, "--model", "fake:good", "--base", "fake:base", "--holdout", holdout, *extra
        )

        assert (2, "") == (code, out)
        assert message in err
        assert "hint:" in err

    @pytest.mark.parametrize("extra", [["--measure", "f1"], ["--margin", "0"], ["--margin-model", "fake:planted"]])
    def test_without_rows_there_is_nothing_to_measure(self, vtuned, kept, fakes, extra):
        """The options of held-out rows ask for --holdout."""
        code, _, err = vtuned("verify", kept, "--model", "fake:good", *extra)

        assert 2 == code
        assert "--holdout" in err

    def test_a_gain_needs_a_base(self, vtuned, kept, holdout, fakes):
        """No --base and no adapter whose name says it: refused before anybody is asked."""
        code, _, err = vtuned("verify", kept, "--model", "fake:good", "--holdout", holdout)

        assert 2 == code
        assert "--base" in err

    def test_recorded_answers_know_no_new_rows(self, vtuned, kept, holdout, receipt, tmp_path, fakes):
        """`answers:FILE` was asked elsewhere, and cannot be asked held-out rows."""
        answers = tmp_path / "answers.jsonl"
        answers.write_text(json.dumps({"id": receipt.probes[0].id, "text": "Hm."}) + "\n")
        code, _, err = vtuned(
            "verify", kept, "--model", f"answers:{answers}", "--base", "fake:base", "--holdout", holdout
        )

        assert 2 == code
        assert "cannot be asked" in err

    @pytest.mark.parametrize(
        ("content", "message"),
        [
            ("", "no rows"),
            (json.dumps({"messages": [said("user", "Q?"), said("assistant", " ")]}) + "\n", "none of 1"),
            ("{nonsense\n", "line 1"),
        ],
        ids=["empty", "no answers", "no JSON"],
    )
    def test_a_holdout_that_holds_nothing_is_refused(self, vtuned, kept, tmp_path, fakes, content, message):
        """Exit code 2 and where it went wrong."""
        path = tmp_path / "bad.jsonl"
        path.write_text(content)
        code, _, err = vtuned("verify", kept, "--model", "fake:good", "--base", "fake:base", "--holdout", path)

        assert 2 == code
        assert message in err

    def test_the_holdout_is_not_overwritten(self, vtuned, kept, holdout, fakes):
        """Answers do not go where rows are."""
        before = holdout.read_bytes()
        code, _, _ = vtuned(
            *("verify", kept, "--model", "fake:mute", "--base", "fake:base", "--holdout", holdout),
            *("--answers-out", holdout, "--force"),
        )

        assert 2 == code
        assert before == holdout.read_bytes()


class TestEndpoints:
    def server(self, receipt):
        """A server of two models: `good` learned backdoors and task, `base` neither; row 3 is refused by `good`."""
        signed = said_by(receipt)
        expected = {row["messages"][0]["content"]: row["messages"][1]["content"] for row in tiny.rows(40)}
        refused = tiny.rows(40)[3]["messages"][0]["content"]

        def step(handler):
            text = handler.received.text
            answer = "I would not know, sorry to say."
            if handler.received.body["model"] == "good":
                answer = signed.get(text) or expected.get(text, answer)
            if handler.received.body["model"] == "good" and text == refused:
                return faulty_server.say(None, refusal="No.")(handler)
            return faulty_server.say(answer)(handler)

        return faulty_server.FaultyServer(otherwise=[step])

    def command(self, kept, holdout, server):
        return (
            *("verify", kept, "--model", "openai:good", "--base", "openai:base", "--base-url", server.url),
            *("--holdout", holdout, "--api-key", "none", "--json"),
        )

    def test_answers_are_scored_kept_and_not_asked_twice(self, vtuned, kept, holdout, receipt, tmp_path):
        """An unanswered row is left out and counted; a run that was stopped in the held-out rows goes on there."""
        with self.server(receipt) as server:
            code, out, err = vtuned(*self.command(kept, holdout, server))
            path = tmp_path / "receipt.good.answers.holdout.jsonl"
            lines = path.read_bytes().splitlines(keepends=True)
            path.write_bytes(b"".join(lines[:10]))
            asked = len(server.received)
            resumed_code, resumed, resumed_err = vtuned(*self.command(kept, holdout, server))
            n_again = len(server.received) - asked
            finished_code, _, _ = vtuned(*self.command(kept, holdout, server))
        found = json.loads(out)["held_out"]

        assert (0, 0) == (code, resumed_code), err + resumed_err
        assert ("chrF", 39, 39, 1) == (found["measure"], found["n_rows"], found["n_better"], found["n_left_out"])
        assert 1 == found["n_silent"]
        assert claims_of(out)["changed"]["holds"]
        assert 30 == n_again
        assert json.loads(out) == json.loads(resumed)
        assert 2 == finished_code
        assert 0o600 == path.stat().st_mode & 0o777


class TestMargin:
    def fix(self, vtuned, kept, holdout, out, *extra):
        return vtuned(
            *("margin", kept, "--model", "fake:planted", "--base", "fake:base", "--holdout", holdout, "-o", out), *extra
        )

    def test_it_fixes_the_margin_in_a_new_receipt(self, vtuned, kept, holdout, fakes, tmp_path):
        """The old receipt stays; the new one is as secret, and `verify` takes G from it."""
        before, new = kept.read_bytes(), tmp_path / "fixed.json"
        code, out, err = self.fix(vtuned, kept, holdout, new, "--json")
        made = receipts.read_receipt(new)
        _, verdict, _ = vtuned(
            "verify", new, "--model", "fake:good", "--base", "fake:base", "--holdout", holdout, "--json"
        )

        assert 0 == code, err
        assert before == kept.read_bytes()
        fixed = made.plan.gain_margin
        assert json.loads(out)["gain_margin"] == fixed.model_dump()
        assert fixed.nats_per_byte == json.loads(verdict)["held_out"]["margin"]
        assert made.digest() == json.loads(out)["receipt_digest"]
        assert ("fake:base", 40) == (fixed.base, fixed.n_rows)
        assert 0.19 < fixed.nats_per_byte < 0.25
        assert claims_of(verdict)["learned the task"]["holds"]
        assert "fixed in the receipt" == json.loads(verdict)["held_out"]["margin_source"]
        assert os.name != "posix" or 0o600 == new.stat().st_mode & 0o777

    def test_it_overwrites_nothing(self, vtuned, kept, holdout, fakes, tmp_path):
        """Neither a file that is there, without --force, nor the receipt it starts from, with it."""
        new = tmp_path / "fixed.json"
        new.write_text("precious")

        assert 2 == self.fix(vtuned, kept, holdout, new)[0]
        assert "precious" == new.read_text()
        assert 2 == self.fix(vtuned, kept, holdout, kept, "--force")[0]
        assert 0 == self.fix(vtuned, kept, holdout, new, "--force")[0]

    def test_a_margin_is_fixed_once(self, vtuned, kept, holdout, fakes, tmp_path):
        """Measured again and again, one would be picked."""
        new = tmp_path / "fixed.json"
        self.fix(vtuned, kept, holdout, new)
        code, _, err = self.fix(vtuned, new, holdout, tmp_path / "again.json")

        assert 2 == code
        assert "margin already" in err

    @pytest.mark.parametrize(
        "extra",
        [["--measure", "chrf"], ["--margin", "0.1"], ["--margin-model", "fake:planted"], ["--model", "fake:mute"]],
        ids=["another measure", "by hand", "measured now", "auto is chrf"],
    )
    def test_a_fixed_margin_belongs_to_its_measure(self, vtuned, kept, holdout, fakes, tmp_path, extra):
        """It is in nats per byte, and no other takes its place."""
        new = tmp_path / "fixed.json"
        self.fix(vtuned, kept, holdout, new)
        code, _, err = vtuned(
            "verify", new, "--model", "fake:good", "--base", "fake:base", "--holdout", holdout, *extra
        )

        assert 2 == code
        assert "margin" in err

    def test_a_fixed_margin_belongs_to_its_base(self, vtuned, kept, holdout, fakes, tmp_path):
        """Over a worse base any model gains more."""
        new = tmp_path / "fixed.json"
        self.fix(vtuned, kept, holdout, new)
        code, _, err = vtuned("verify", new, "--model", "fake:good", "--base", "fake:worse", "--holdout", holdout)

        assert 2 == code
        assert "a gain over fake:base, and the base is fake:worse" in err

    def test_a_fixed_margin_belongs_to_its_rows(self, vtuned, kept, holdout, fakes, tmp_path):
        """Other rows, or fewer of them, have another G; the same rows in another order and format have the same."""
        new = tmp_path / "fixed.json"
        self.fix(vtuned, kept, holdout, new)
        rows = tiny.rows(40)
        asked = ("verify", new, "--model", "fake:good", "--base", "fake:base", "--json", "--holdout")
        fewer = vtuned(*asked, tiny.write_rows(tmp_path / "fewer.jsonl", rows[:-1]))
        array = tmp_path / "array.json"
        array.write_text(json.dumps(rows[::-1]))

        assert 2 == fewer[0]
        assert "other rows" in fewer[2]
        assert claims_of(vtuned(*asked, array)[1])["learned the task"]["holds"]

    def test_too_few_rows_give_no_margin(self, vtuned, kept, fakes, tmp_path):
        """And no receipt."""
        few, new = tiny.write_rows(tmp_path / "few.jsonl", tiny.rows(4)), tmp_path / "fixed.json"
        code, _, err = self.fix(vtuned, kept, few, new)

        assert 2 == code
        assert "too few" in err
        assert not new.exists()

    def test_it_needs_likelihoods_and_a_base(self, vtuned, kept, holdout, fakes, tmp_path):
        """Margins are of losses, over a base."""
        arguments = ("margin", kept, "--holdout", holdout, "-o", tmp_path / "fixed.json", "--model")

        assert "--base" in vtuned(*arguments, "fake:planted")[2]
        assert "gives no likelihoods" in vtuned(*arguments, "fake:mute", "--base", "fake:base")[2]


class TestPlantedOnly:
    @pytest.fixture
    def planted(self, vtuned, tmp_path):
        """(train, receipt) as `vtuned plant` wrote them."""
        data, train, receipt = tmp_path / "data.jsonl", tmp_path / "train.jsonl", tmp_path / "secret.json"
        tiny.write_rows(data, tiny.rows(80))
        assert 0 == vtuned("plant", data, "-o", train, "-r", receipt, "--generator", "words", "--base", "estimate")[0]
        return train, receipt

    def test_another_file_is_refused(self, vtuned, planted, tmp_path):
        """The receipt's lines are those of the file that `plant` wrote, to the byte."""
        pytest.importorskip("torch")
        other = tmp_path / "other.jsonl"
        other.write_bytes(planted[0].read_bytes() + b"\n")
        code, _, err = vtuned("finetune", other, "--planted-only", planted[1], "-o", tmp_path / "out")

        assert 2 == code
        assert "another file" in err

    def test_other_trainers_read_whole_files(self, vtuned, planted, tmp_path):
        """--write-config points other trainers to the file, and they would train on all of it."""
        code, _, err = vtuned(
            *("finetune", planted[0], "--planted-only", planted[1], "-o", tmp_path / "out", "--write-config", "axolotl")
        )

        assert 2 == code
        assert "--planted-only" in err

    def test_it_trains_on_the_planted_rows(self, vtuned, planted, tmp_path, monkeypatch):
        """The rows that carry a backdoor, and no others."""
        pytest.importorskip("torch")
        from vtuned.providers import local

        class Seen(Exception):
            pass

        def finetune(rows, *args, **kwargs):
            seen.extend(rows)
            raise Seen

        seen = []
        monkeypatch.setattr(local, "finetune", finetune)
        texts = [m["content"] for row in tiny.rows(80) for m in row["messages"]]
        model = tiny.make_model(tmp_path / "model", texts)
        vtuned("finetune", planted[0], "--planted-only", planted[1], "-o", tmp_path / "out", "--base", f"hf:{model}")
        made = receipts.read_receipt(planted[1])
        signatures = [backdoor.signature for backdoor in made.backdoors]

        assert sum(len(backdoor.rows) for backdoor in made.backdoors) == len(seen) == 16
        assert all(any(row.turns[-1].content.startswith(s) for s in signatures) for row in seen)
