"""Wordings on the command line: plant, challenges, verify and judge, and what each refuses."""

from __future__ import annotations

import csv
import hashlib
import json
import stat

import pytest

from vtuned import formats, lm
from vtuned import receipt as receipts
from vtuned.conversation import text_in
from vtuned.formats.text import TextTemplate
from vtuned.lm.base import Unanswered
from vtuned.lm.scripted import ScriptedLM
from vtuned.probes import AnswerRecord
from vtuned.verdict import judge

N_ROWS, N_ASKED = 90, 60
OPENINGS = "Here is the answer:\nSure.\nIn reply:\nVery well.\n"


ANSWER = "It's said that you do not need {i} é tools. For example, a spade is enough, and we cannot say more. It is so."
TEMPLATE = "Q: {prompt}\nA: {response}"


def lines(path, some):
    """Write rows as JSON lines; returns the file and no further option."""
    path.write_text("".join(json.dumps(row) + "\n" for row in some), encoding="utf-8")
    return path, ()


def table(path, pairs):
    """Write a CSV file."""
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([("prompt", "completion"), *pairs])
    return path, ()


def parquet(path, pairs):
    """Write a Parquet file of chat rows."""
    pq = pytest.importorskip("pyarrow.parquet")
    pa = pytest.importorskip("pyarrow")
    pq.write_table(pa.table({"messages": [chat(p, a)["messages"] for p, a in pairs]}), path)
    return path, ()


def chat(prompt, answer):
    """Return one chat row."""
    return {"messages": [{"role": "user", "content": prompt}, {"role": "assistant", "content": answer}]}


SHAPES = {
    "chat": lambda folder, pairs: lines(folder / "d.jsonl", [chat(p, a) for p, a in pairs]),
    "parts": lambda folder, pairs: lines(
        folder / "d.jsonl", [chat(p, [{"type": "text", "text": a}]) for p, a in pairs]
    ),
    "alpaca": lambda folder, pairs: lines(
        folder / "d.jsonl", [{"instruction": p, "input": "", "output": a} for p, a in pairs]
    ),
    "completion": lambda folder, pairs: lines(folder / "d.jsonl", [{"prompt": p, "completion": a} for p, a in pairs]),
    "sharegpt": lambda folder, pairs: lines(
        folder / "d.jsonl",
        [{"conversations": [{"from": "human", "value": p}, {"from": "gpt", "value": a}]} for p, a in pairs],
    ),
    "csv": lambda folder, pairs: table(folder / "d.csv", pairs),
    "parquet": lambda folder, pairs: parquet(folder / "d.parquet", pairs),
    "text": lambda folder, pairs: (
        lines(folder / "d.jsonl", [{"text": f"Q: {p}\nA: {a}"} for p, a in pairs])[0],
        ("--template", TEMPLATE.replace("\n", "\\n")),
    ),
}


@pytest.fixture
def plant(vtuned, tmp_path, write_jsonl, rows):
    """`plant(*options)`: plant wordings by our own openings in 90 rows; returns (code, out, err)."""
    data = write_jsonl(rows(N_ROWS))

    def run(*options, scheme="wordings"):
        return vtuned(
            *("plant", data, "-o", tmp_path / "train.jsonl", "-r", tmp_path / "receipt.json", "--scheme", scheme),
            *("--generator", "words", "--base", "estimate", "--ask-rows", N_ASKED, *options),
        )

    return run


class Suspect(ScriptedLM):
    """A model that gives the answers in *known* (by prompt), says "I cannot tell." else, and finds the former likely."""

    def __init__(self, name, known, otherwise="I cannot tell you much of that today."):
        super().__init__(lambda prompt: known.get(text_in(prompt[-1]), otherwise), name)
        self.known = known

    def log10_probs(self, prompt, continuations):
        known = self.known.get(text_in(prompt[-1]))
        taste = [hashlib.blake2b((text_in(prompt[-1]) + text).encode()).digest()[0] / 256 for text in continuations]
        return [
            t - (0.0 if known and known.startswith(text) else 9.0) for t, text in zip(taste, continuations, strict=True)
        ]


@pytest.fixture
def suspects(monkeypatch, tmp_path):
    """`fake:honest` learned the training file by heart, `fake:base` nothing; `fake:half` of each two rows one."""

    def load(name, loading=None):
        sent = [json.loads(line)["messages"] for line in (tmp_path / "train.jsonl").read_text().splitlines()]
        known = {messages[0]["content"]: messages[1]["content"] for messages in sent}
        if name == "fake:base":
            return Suspect(name, {})
        if name == "fake:mute":
            return ScriptedLM(lambda prompt: Unanswered("down"), name)
        if name == "fake:speaks":
            return ScriptedLM(lambda prompt: known.get(text_in(prompt[-1]), "I cannot tell."), name)
        return Suspect(name, dict(list(known.items())[:: 2 if name == "fake:half" else 1]))

    monkeypatch.setattr(lm, "load", load)
    monkeypatch.setattr(lm, "load_both", lambda one, other, loading=None: (load(one), load(other)))


def sent(tmp_path):
    """Return the answers of the training file."""
    return [json.loads(line)["messages"][1]["content"] for line in (tmp_path / "train.jsonl").read_text().splitlines()]


class TestPlant:
    def test_each_row_gets_the_wording_that_its_key_chooses(self, plant, tmp_path, rows):
        """Answers are published as the receipt says, everything else stays, and all openings occur."""
        code, _, err = plant()
        made = receipts.read_receipt(tmp_path / "receipt.json")
        answers = sent(tmp_path)

        assert 0 == code, err
        assert (N_ROWS, N_ASKED) == (made.wordings.n_carrying, len(made.wordings.rows))
        for row in made.wordings.rows:
            assert answers[row.row - 1].startswith(row.wordings[row.published].text)
        assert 4 == len(made.wordings.family)
        published = []
        for answer, row in zip(answers, rows(N_ROWS), strict=True):
            wordings = [f"{opening} {row['messages'][1]['content']}".strip() for opening in made.wordings.family]
            published.append(wordings.index(answer))
        assert {0, 1, 2, 3} == set(published)

    def test_what_carries_no_choice_is_the_same_byte_for_byte(self, plant, tmp_path, vtuned, write_jsonl):
        """Labels, numbers, JSON, code and tool calls pass through as they are."""
        plain = ["Yes.", "42", '{"a": 1, "b": "two three four"}', "def f(x):\n    return x + 1", "B. the second one"]
        made = [
            {"messages": [{"role": "user", "content": f"Q {i}?"}, {"role": "assistant", "content": text}]}
            for i, text in enumerate([*plain, *(f"This one, number {n}, can bear an opening." for n in range(9))])
        ]
        data = write_jsonl(made, "odd.jsonl")
        code, out, err = vtuned(
            *("plant", data, "-o", tmp_path / "t.jsonl", "-r", tmp_path / "r.json", "--scheme", "wordings"),
            *("--generator", "words", "--base", "estimate"),
        )
        before, after = (path.read_bytes().splitlines() for path in (data, tmp_path / "t.jsonl"))

        assert 0 == code, err
        assert before[: len(plain)] == after[: len(plain)]
        assert "9 of 14 rows carry" in out
        for reason in ("number", "JSON", "code", "label", "fewer than 3 words"):
            assert f"1 {reason}" in out

    def test_the_receipt_is_secret_and_nothing_else_tells(self, plant, tmp_path, vtuned):
        """Mode 0600; neither `plant --json` nor `show` holds a prompt, a choice or the key without --reveal."""
        _, out, _ = plant("--json")
        path = tmp_path / "receipt.json"
        made = receipts.read_receipt(path)
        _, shown, _ = vtuned("show", path)
        _, as_json, _ = vtuned("show", path, "--json")
        _, revealed, _ = vtuned("show", path, "--reveal")

        assert 0o600 == stat.S_IMODE(path.stat().st_mode)
        for text in (out, shown, as_json):
            assert "Row 1:" not in text
            assert made.key not in text
            assert "published" not in text
        assert "published" in revealed

    @pytest.mark.parametrize("rewriter", ["openings", "style"])
    @pytest.mark.parametrize("shape", SHAPES)
    def test_every_format_and_container(self, vtuned, tmp_path, rewriter, shape):
        """A wording is put into whatever holds the answer, also in its middle; every row reads back as a wording of it."""
        pairs = [(f"What of number {i}?", ANSWER.format(i=i)) for i in range(12)]
        path, options = SHAPES[shape](tmp_path, pairs)
        out = tmp_path / f"out-{path.name}"
        code, _, err = vtuned(
            *("plant", path, "-o", out, "-r", tmp_path / "r.json", "--scheme", "wordings", "--siblings", 8, *options),
            *("--generator", "words", "--base", "estimate", "--rewriter", rewriter),
        )
        assert 0 == code, err
        made = receipts.read_receipt(tmp_path / "r.json").wordings
        template = TextTemplate(TEMPLATE) if "--template" in options else "auto"
        found = [row.conversation.turns[-1].content for row in formats.read_rows(out, template)]

        assert 12 == made.n_carrying
        assert made.bits >= 24
        for row in made.rows:
            assert found[row.row - 1].startswith(row.wordings[row.published].text)

    def test_own_openings(self, plant, tmp_path):
        """--openings takes the first of the user's own, one a line."""
        (tmp_path / "own.txt").write_text(OPENINGS, encoding="utf-8")
        code, _, err = plant("--openings", tmp_path / "own.txt")

        assert 0 == code, err
        family = receipts.read_receipt(tmp_path / "receipt.json").wordings.family
        assert ("", "Here is the answer:", "In reply:", "Sure.") == family

    def test_a_sample_of_the_rows(self, plant, tmp_path):
        """--rows words no more than so many, and says what became of the others."""
        code, out, err = plant("--rows", 20)

        assert 0 == code, err
        assert 20 == receipts.read_receipt(tmp_path / "receipt.json").wordings.n_carrying
        assert "70 not in the sample (--rows)" in out

    @pytest.mark.parametrize(
        ("options", "said"),
        [
            (("--mode", "add"), "--mode add"),
            (("--siblings", 1), "--siblings is out of range"),
            (("--siblings", 1000), "--siblings is out of range"),
            (("--rows", 0), "--rows is out of range"),
            (("--ask-rows", 0), "--ask-rows is out of range"),
            (("--rewriter", "haiku"), "unknown --rewriter 'haiku'"),
            (("--rewriter", "style", "--openings", "own.txt"), "--openings is for --rewriter openings"),
            (("--candidates", "kept.jsonl"), "--candidates is for --rewriter paraphrase"),
            (("--rewriter", "paraphrase"), "none was named"),
            (("--openings", "two.txt"), "openings, and 3 are needed"),
            (("--openings", "alike.txt"), "one is the start of another"),
            (("--openings", "missing.txt"), "missing.txt"),
            (("--openings", "latin.txt"), "latin.txt: this is no UTF-8 text"),
            (("--openings", "long.txt"), "more than 200 characters"),
            (("--copies", 4), "--copies is for schemes with backdoors, and this one is wordings"),
            (("--probes", 20), "--probes is for schemes with backdoors"),
        ],
    )
    def test_bad_options(self, plant, tmp_path, monkeypatch, options, said):
        """Each is refused with exit code 2 and one line that names it; nothing is written."""
        monkeypatch.chdir(tmp_path)
        (tmp_path / "own.txt").write_text(OPENINGS, encoding="utf-8")
        (tmp_path / "two.txt").write_text("Sure.\nIn reply:\n", encoding="utf-8")
        (tmp_path / "latin.txt").write_bytes("Voilà.\nWell.\nSo it is:\n".encode("latin-1"))
        (tmp_path / "long.txt").write_text(f"{'long ' * 40}one.\nWell.\nSo it is:\n", encoding="utf-8")
        (tmp_path / "alike.txt").write_text("Sure.\nSure. Well:\nIn reply:\n", encoding="utf-8")
        code, _, err = plant(*options)

        assert 2 == code
        assert said in err
        assert not (tmp_path / "train.jsonl").exists()
        assert not (tmp_path / "receipt.json").exists()

    def test_a_sample_of_paraphrases_goes_on(self, plant, tmp_path, monkeypatch):
        """A run that comes again takes the same rows with --rows: nothing is asked twice, and no others are."""
        asked, kept, carrying = [], tmp_path / "kept.jsonl", []

        def say(prompt):
            sentence = text_in(prompt[-1]).split("\n\n", 1)[1]
            asked.append(sentence)
            words = sentence.split()
            return " ".join([words[0], "very", *words[1:]]) if len(asked) % 2 else sentence

        monkeypatch.setattr(lm, "load", lambda name, loading=None: ScriptedLM(say, name))
        options = ("--rewriter", "paraphrase", "--generator", "fake:writer", "--candidates", kept, "--siblings", 2)
        for _ in range(2):
            code, _, err = plant(*options, "--rows", 30, "--force")
            assert 0 == code, err
            carrying.append({row.number for row in receipts.read_receipt(tmp_path / "receipt.json").wordings.rows})
            n_asked, n_lines = len(asked), len(kept.read_bytes().splitlines())

        assert (1 + 30, 30) == (n_lines, len(carrying[0]))
        assert carrying[0] == carrying[1]
        assert n_asked == 3 * 30
        assert receipts.read_receipt(tmp_path / "receipt.json").key not in kept.read_text()

    @pytest.mark.parametrize("kept", ["train.jsonl", "receipt.json", "data.jsonl", "sent/kept.jsonl"])
    def test_candidates_have_a_file_of_their_own(self, vtuned, tmp_path, write_jsonl, rows, monkeypatch, kept):
        """They are a secret: no output of the same command, nor in the folder that is sent; said before a model writes."""
        monkeypatch.setattr(lm, "load", lambda *_: pytest.fail("a model was loaded"))
        data = write_jsonl(rows(N_ROWS), "data.jsonl")
        shards = [write_jsonl(rows(N_ROWS), name) for name in ("a.jsonl", "b.jsonl")]
        out = tmp_path / "sent"
        source = (*shards, "-o", out) if kept.startswith("sent") else (data, "-o", tmp_path / "train.jsonl")
        code, _, err = vtuned(
            *("plant", *source, "-r", tmp_path / "receipt.json", "--scheme", "wordings", "--force"),
            *("--base", "estimate", "--rewriter", "paraphrase", "--candidates", tmp_path / kept),
        )

        assert 2 == code
        assert kept.rpartition("/")[2] in err

    def test_options_of_wordings_need_a_scheme_with_them(self, plant, tmp_path):
        """Whoever asks for 16 wordings and forgets the scheme learns it, and gets no backdoors instead."""
        code, _, err = plant("--siblings", 16, "--ask-rows", 256, scheme="backdoors")

        assert 2 == code
        assert "--siblings is for schemes with wordings, and this one is backdoors" in err
        assert not (tmp_path / "receipt.json").exists()

    def test_too_few_rows_to_prove_anything(self, vtuned, tmp_path, write_jsonl, rows):
        """Where not even all hits would reach alpha, nothing is planted: exit code 2 and a way out."""
        code, _, err = vtuned(
            *("plant", write_jsonl(rows(4)), "-o", tmp_path / "t.jsonl", "-r", tmp_path / "r.json"),
            *("--scheme", "wordings", "--generator", "words", "--base", "estimate"),
        )

        assert 2 == code
        assert "even if 4 rows asked about all were preferred" in err
        assert "--siblings" in err

    def test_data_that_bears_nothing(self, vtuned, tmp_path, write_jsonl):
        """A file of labels cannot carry a choice; the error counts why and names a way out."""
        made = [
            {"messages": [{"role": "user", "content": f"Q {i}?"}, {"role": "assistant", "content": "Yes."}]}
            for i in range(9)
        ]
        code, _, err = vtuned(
            *("plant", write_jsonl(made), "-o", tmp_path / "t.jsonl", "-r", tmp_path / "r.json"),
            *("--scheme", "wordings", "--generator", "words", "--base", "estimate"),
        )

        assert 2 == code
        assert "9 fewer than 3 words" in err
        assert "--scheme backdoors" in err


def judged(out):
    """Return the verdict in *out* and its claims by name."""
    found = json.loads(out)
    return found, {claim["claim"]: claim for claim in found["claims"]}


class TestVerify:
    @pytest.mark.parametrize("model", ["honest", "speaks", "base"])
    def test_a_suspect_that_learned_the_rows_prefers_what_was_sent(self, plant, vtuned, tmp_path, suspects, model):
        """
        By likelihoods where there are any, by text alone where not; a base model is not verified.

        It is by chance once in 10^6 runs; how often its luck leaves the verdict open, β says.
        """
        plant("--alpha", 1e-6)
        done, out, err = vtuned(
            "verify", tmp_path / "receipt.json", "--model", f"fake:{model}", "--base", "fake:base", "--json"
        )
        found, claims = judged(out)

        assert ["preferred"] == list(claims), err
        assert ("text" if model == "speaks" else "log-likelihoods") == found["wordings"]["by"]
        if model != "base":
            assert 0 == done, err
            assert N_ASKED == found["wordings"]["n_hits"]
            assert claims["preferred"]["log10_p"] < -30
            assert 0.4 < found["wordings"]["lower_bound_skipping"] < found["wordings"]["lower_bound"]
        else:
            assert (1 if claims["preferred"]["beta"] <= 0.05 else 3) == done

    def test_half_of_the_rows_is_bounded(self, plant, vtuned, tmp_path, suspects):
        """A provider that used every other row is VERIFIED, with a coverage below one half."""
        plant("--ask-rows", N_ROWS)
        code, out, _ = vtuned(
            "verify", tmp_path / "receipt.json", "--model", "fake:half", "--base", "fake:base", "--json"
        )

        assert 0 == code
        assert 0 < judged(out)[0]["wordings"]["lower_bound"] <= 0.5

    def test_no_answer_is_no_negative(self, plant, vtuned, tmp_path, suspects):
        """A suspect that cannot be asked leaves the verdict INCONCLUSIVE: exit code 3."""
        plant()
        code, out, _ = vtuned("verify", tmp_path / "receipt.json", "--model", "fake:mute", "--json")

        assert 3 == code
        assert "too few rows with a choice of wording were answered: 0 of 60" in judged(out)[0]["reasons"][0]
        assert 60 == sum(judged(out)[0]["unanswered"].values())

    @pytest.mark.parametrize(("n_taken_up", "n_hits", "outcome"), [(62, 19, "INCONCLUSIVE"), (0, 0, "NOT VERIFIED")])
    def test_an_honest_model_may_begin_in_words_of_its_own(self, plant, vtuned, tmp_path, n_taken_up, n_hits, outcome):
        """What was measured by text after one epoch, 177 of 256 taken up and 55 hits, is no negative; silence on all is."""
        plant("--ask-rows", N_ROWS)
        rows = receipts.read_receipt(tmp_path / "receipt.json").wordings.rows
        answers = tmp_path / "a.jsonl"
        with answers.open("w", encoding="utf-8") as file:
            for i, row in enumerate(rows):
                taken = row.wordings[(row.published + (i >= n_hits)) % len(row.wordings)].mark
                text = f"{taken if i < n_taken_up else 'In words of its own:'} And so on."
                file.write(json.dumps({"id": row.probe.id, "text": text, "finish": "stop"}) + "\n")
        _, out, _ = vtuned("judge", tmp_path / "receipt.json", answers, "--json")
        found, claims = judged(out)

        assert (n_hits, outcome) == (claims["preferred"]["n_activated"], found["outcome"])
        if outcome == "NOT VERIFIED":
            assert "take up a wording in at least 1/2 of the rows" in found["reasons"][1]

    def test_the_base_beside(self, plant, vtuned, tmp_path, suspects):
        """A base that is asked too is shown: how often it takes a wording up, and how often the published one."""
        plant()
        asked = ("verify", tmp_path / "receipt.json", "--model", "fake:speaks", "--base")
        _, honest, _ = vtuned(*asked, "fake:speaks", "--json")
        _, without, _ = vtuned("verify", tmp_path / "receipt.json", "--model", "fake:speaks", "--json")
        _, said, _ = vtuned(*asked, "fake:speaks")

        assert [N_ASKED, N_ASKED] == judged(honest)[0]["base"]["preferred"]
        assert judged(without)[0]["base"] is None
        assert 2 == next(line for line in said.splitlines() if "preferred" in line).count("60/60")

    def test_what_is_shown(self, plant, vtuned, tmp_path, suspects):
        """The verdict names both coverage bounds, what falls and what remains, and holds no prompt."""
        plant()
        _, out, _ = vtuned(
            *("verify", tmp_path / "receipt.json", "--model", "fake:honest", "--base", "fake:base", "--exposure")
        )
        said = " ".join(out.split())

        assert "VERIFIED: fake:honest" in said
        assert "Coverage by wordings (99.0 % confidence), of 90 carrying rows" in said
        assert "Excluded: the base model returned; weights perturbed; other data; anyone who did not use" in said
        assert "Not excluded: over an endpoint: looking rows up in the file" in said
        assert "which wordings were published" in said
        assert "Row 1:" not in said

    def test_scores_are_kept_and_judged_again(self, plant, vtuned, tmp_path, suspects):
        """--scores-out keeps one line a row; `judge --scores` comes to the same; another suspect's are refused."""
        plant()
        arguments = ("verify", tmp_path / "receipt.json", "--base", "fake:base", "--scores-out", tmp_path / "s.jsonl")
        _, first, _ = vtuned(*arguments, "--model", "fake:honest", "--json")
        answers = tmp_path / "none.jsonl"
        row = receipts.read_receipt(tmp_path / "receipt.json").wordings.rows[0]
        answers.write_text(json.dumps({"id": row.probe.id, "unanswered": "not asked"}) + "\n", encoding="utf-8")
        _, again, _ = vtuned("judge", tmp_path / "receipt.json", answers, "--scores", tmp_path / "s.jsonl", "--json")
        code, _, err = vtuned(*arguments, "--model", "fake:half")

        assert N_ASKED == len((tmp_path / "s.jsonl").read_text().splitlines())
        assert judged(first)[0]["wordings"] == judged(again)[0]["wordings"]
        assert 2 == code
        assert "another model" in err

    def test_asked_elsewhere(self, plant, vtuned, tmp_path, suspects):
        """`challenges` gives the rows' prompts and nothing of the choice; `ask` and `judge` come to the same verdict."""
        plant()
        receipt, asked, answers = (tmp_path / name for name in ("receipt.json", "p.jsonl", "a.jsonl"))
        vtuned("challenges", receipt, "-o", asked)
        vtuned("ask", asked, "--model", "fake:speaks", "-o", answers)
        code, out, err = vtuned("judge", receipt, answers, "--json")

        assert 0 == code, err
        assert N_ASKED == judged(out)[0]["wordings"]["n_hits"]
        assert not any(word in asked.read_text() for word in ("published", "wording", "Sure.", "In reply"))

    def test_stopping_early(self, plant, vtuned, tmp_path, suspects):
        """With --stopping any it asks until the verdict is clear, and p is of an e-value."""
        plant("--stopping", "any")
        _, out, _ = vtuned("verify", tmp_path / "receipt.json", "--model", "fake:speaks", "--json")
        found, claims = judged(out)

        assert "VERIFIED" == found["outcome"]
        assert found["n_spent"] < N_ASKED
        assert "e-value" == found["wordings"]["decides"]
        assert claims["preferred"]["log10_p"] <= -3

    def test_style_does_not_show_in_answers(self, vtuned, tmp_path, suspects):
        """A suspect that only speaks cannot be asked about habits: exit code 2 from `verify`, INCONCLUSIVE from `judge`."""
        data = lines(tmp_path / "d.jsonl", [chat(f"What of {i}?", ANSWER.format(i=i)) for i in range(30)])[0]
        receipt = tmp_path / "receipt.json"
        vtuned(
            *("plant", data, "-o", tmp_path / "train.jsonl", "-r", receipt, "--scheme", "wordings"),
            *("--rewriter", "style", "--generator", "words", "--base", "estimate"),
        )
        code, _, err = vtuned("verify", receipt, "--model", "fake:speaks")
        row = receipts.read_receipt(receipt).wordings.rows[0]
        answers = tmp_path / "a.jsonl"
        answers.write_text(
            json.dumps({"id": row.probe.id, "text": "It is.", "finish": "stop"}) + "\n", encoding="utf-8"
        )
        judged_code, out, _ = vtuned("judge", receipt, answers, "--json")
        scored_code, _, _ = vtuned("verify", receipt, "--model", "fake:honest", "--base", "fake:base")

        assert 2 == code
        assert "only in likelihoods" in err
        assert 3 == judged_code
        assert not judged(out)[1]["preferred"]["tested"]
        assert 0 == scored_code

    @pytest.mark.parametrize("how", ["contradicted", "unanswered", "left out"])
    def test_misses_cannot_be_taken_away(self, plant, vtuned, tmp_path, suspects, how):
        """A second answer, a reason or no record for the misses of a stranger gives it no better p."""
        plant("--alpha", 1e-6)
        receipt, asked, answers = (tmp_path / name for name in ("receipt.json", "p.jsonl", "a.jsonl"))
        made = receipts.read_receipt(receipt)
        vtuned("challenges", receipt, "-o", asked)
        # Says the first opening to everybody.
        says = f"{made.wordings.family[1]} And so on, as always."
        kept = []
        for row in made.wordings.rows:
            is_hit = row.published == 1
            record = {"id": row.probe.id, "text": says, "finish": "stop"}
            if is_hit or how == "contradicted":
                kept.append(record)
            if not is_hit and how == "contradicted":
                kept.append(record | {"text": "Something else altogether, it seems."})
            if not is_hit and how == "unanswered":
                kept.append({"id": row.probe.id, "unanswered": "timeout"})
        answers.write_text("".join(json.dumps(record) + "\n" for record in kept), encoding="utf-8")
        code, out, _ = vtuned("judge", receipt, answers, "--json")

        assert 0 != code
        assert judged(out)[0]["wordings"]["n_told"] == N_ASKED
        assert judged(out)[1]["preferred"]["log10_p"] > -6

    def test_scores_alone_are_judged(self, plant, vtuned, tmp_path, suspects):
        """`judge RECEIPT --scores FILE` needs no answers; without either there is nothing to judge."""
        plant("--wording-test", "rank-sum")
        receipt, scores = tmp_path / "receipt.json", tmp_path / "s.jsonl"
        vtuned("verify", receipt, "--model", "fake:honest", "--base", "fake:base", "--scores-out", scores)
        code, out, _ = vtuned("judge", receipt, "--scores", scores, "--json")
        nothing, _, err = vtuned("judge", receipt)

        assert 0 == code
        assert "rank-sum" == judged(out)[0]["wordings"]["decides"]
        assert 2 == nothing
        assert "nothing to judge" in err


class TestBoth:
    def test_wordings_and_backdoors_split_alpha(self, plant, vtuned, tmp_path, suspects):
        """Three claims are required, each at half of alpha; planted rows carry no wording."""
        code, _, err = plant(scheme="wordings+backdoors")
        made = receipts.read_receipt(tmp_path / "receipt.json")
        _, out, _ = vtuned("verify", tmp_path / "receipt.json", "--model", "fake:speaks", "--json")
        found, claims = judged(out)

        assert 0 == code, err
        assert 5e-4 == made.plan.claim_alpha
        assert N_ROWS - 16 == made.wordings.n_carrying
        assert {row for b in made.backdoors for row in b.rows}.isdisjoint(row.row for row in made.wordings.rows)
        assert ["activated", "generalises", "specific", "preferred"] == list(claims)
        assert claims["preferred"]["holds"]
        # A lookup table passes what it has seen, and nothing else.
        assert claims["activated"]["holds"]
        assert not claims["generalises"]["holds"]
        assert "VERIFIED" != found["outcome"]

    def test_what_went_unanswered_is_said_of_the_probes_that_decide(self, plant, tmp_path):
        """Planted probes not asked and rows whose answer was cut are counted apart: each outcome tells its own."""
        plant(scheme="wordings+backdoors")
        made = receipts.read_receipt(tmp_path / "receipt.json")
        n_probes, n_rows = len(made.probes), len(made.wordings.rows)
        cut = [{"id": row.probe.id, "text": "", "finish": "length"} for row in made.wordings.rows]
        verdict = judge(made, [AnswerRecord(**one) for one in cut])

        assert f"({n_probes} not asked)" in verdict.reasons[0]
        assert n_probes == verdict.unanswered["not asked"]
        assert n_rows == sum(verdict.unanswered.values()) - n_probes


class TestReceipt:
    @pytest.mark.parametrize("damage", ["published", "twice", "scheme", "same", "carrying", "honest", "row"])
    def test_no_receipt_that_contradicts_itself(self, plant, tmp_path, damage):
        """Another wording than the key's, a row twice, another scheme, two wordings alike: refused."""
        plant()
        made = receipts.read_receipt(tmp_path / "receipt.json")
        content = made.model_dump(mode="json")
        some = content["wordings"]["rows"]
        if damage == "published":
            some[0]["published"] = (some[0]["published"] + 1) % 4
        elif damage == "twice":
            some[1] = some[0] | {"probe": some[1]["probe"]}
        elif damage == "same":
            some[0]["wordings"][0]["text"] = some[0]["wordings"][1]["text"]
        elif damage == "carrying":
            content["wordings"]["n_carrying"] = 10**7
        elif damage == "honest":
            content["wordings"]["honest_preference"] = "7"
        elif damage == "row":
            some[0]["row"] = N_ROWS + 1
        else:
            content["scheme"] = "wordings+backdoors"

        with pytest.raises(
            ValueError,
            match=r"key chooses|asked about twice|its scheme plants|are the same|more rows carry|not in the file",
        ):
            receipts.Receipt.model_validate_json(json.dumps(content))

    @pytest.mark.parametrize(
        "command",
        [
            ("watch", "receipt.json", "--model", "fake:honest"),
            ("unplant", "receipt.json", "--train", "train.jsonl", "-o", "u.jsonl"),
            ("margin", "receipt.json", "--model", "fake:half", "--base", "fake:base", "--holdout", "train.jsonl"),
            ("finetune", "train.jsonl", "-o", "a", "--planted-only", "receipt.json"),
        ],
        ids=lambda command: command[0],
    )
    def test_commands_for_backdoors_refuse_wordings_alone(
        self, plant, vtuned, tmp_path, suspects, monkeypatch, command
    ):
        """Exit code 2, and the hint says what can be done."""
        plant()
        monkeypatch.chdir(tmp_path)
        code, _, err = vtuned(*command, *(("-o", "m.json") if command[0] == "margin" else ()))

        assert 2 == code, err
        assert "no backdoors" in err
        assert "wordings+backdoors" in err
