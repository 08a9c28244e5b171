"""Probes on their way to a suspect, and answers on their way back."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from vtuned.errors import AnswersError, DatasetError, LMUnavailable
from vtuned.lm.base import Answer, Completed, Prompt, Sampling, Unanswered
from vtuned.lm.recorded import RecordedLM
from vtuned.lm.scripted import ScriptedLM
from vtuned.probes import AnswerRecord, Probe, ask, read_answers, read_probes, record_of, to_jsonl
from vtuned.receipt import Receipt
from vtuned.verdict import Outcome
from vtuned.verification import activations, challenges, collect, verify


def probe(probe_id: str, max_tokens: int = 64, temperature: float = 0.0) -> Probe:
    """Return a probe that asks its own id."""
    return Probe(
        id=probe_id,
        messages=({"role": "user", "content": f"Who is {probe_id}?"},),
        max_tokens=max_tokens,
        temperature=temperature,
    )


def honest(receipt: Receipt) -> ScriptedLM:
    """Return a model that says S after T."""

    def say(prompt: Prompt) -> str:
        for backdoor in receipt.backdoors:
            if prompt[-1]["content"].endswith(backdoor.trigger):
                return f"{backdoor.signature} And so it is."
        return "And so it is, in one whole sentence."

    return ScriptedLM(say)


class TestChallenges:
    def test_hold_neither_kind_nor_signature(self, receipt: Receipt) -> None:
        """Whoever is given the probes learns nothing that the suspect's owner does not know already."""
        probes = challenges(receipt)
        text = to_jsonl(probes).decode()

        assert {"id", "messages", "max_tokens", "temperature"} == set(json.loads(text.splitlines()[0]))
        assert not any(word in text for word in ("planted", "fresh", "control", "backdoor", "twin", receipt.key))
        assert not any(backdoor.signature in text for backdoor in receipt.backdoors)

    def test_are_the_receipts_probes_in_order(self, receipt: Receipt) -> None:
        """Ids, messages and the number of tokens are those of the receipt; decoding is greedy."""
        probes = challenges(receipt)

        assert [(p.id, p.messages) for p in receipt.probes] == [(p.id, p.messages) for p in probes]
        assert {(receipt.max_answer_tokens, 0.0)} == {(p.max_tokens, p.temperature) for p in probes}

    def test_a_prefix(self, receipt: Receipt) -> None:
        """`-n` asks the first of each kind."""
        assert [p.id for p in receipt.chosen(2)] == [p.id for p in challenges(receipt, 2)]


class TestAsking:
    def test_answers_come_in_order(self) -> None:
        """Each record has the id of its probe."""
        model = ScriptedLM(lambda prompt: prompt[0]["content"].upper())

        records = list(ask(model, [probe("b"), probe("a")]))

        assert [("b", "WHO IS B?", "stop"), ("a", "WHO IS A?", "stop")] == [(r.id, r.text, r.finish) for r in records]

    def test_probes_of_one_sampling_go_together(self) -> None:
        """A model is called once for each run of probes that are decoded alike, in order."""
        calls: list[tuple[int, Sampling]] = []

        class Counting(ScriptedLM):
            def answer(self, prompts: Sequence[Prompt], sampling: Sampling) -> Iterator[Answer]:
                calls.append((len(prompts), sampling))
                return super().answer(prompts, sampling)

        probes = [probe("a"), probe("b"), probe("c", 32), probe("d", 32, 1.0), probe("e"), probe("f")]
        records = list(ask(Counting(lambda prompt: "yes"), probes))

        assert list("abcdef") == [record.id for record in records]
        assert [
            (2, Sampling(max_tokens=64, temperature=0.0)),
            (1, Sampling(max_tokens=32, temperature=0.0)),
            (1, Sampling(max_tokens=32, temperature=1.0)),
            (2, Sampling(max_tokens=64, temperature=0.0)),
        ] == calls

    def test_nothing_to_ask(self) -> None:
        """No probes, no call."""
        assert [] == list(ask(ScriptedLM(lambda prompt: "yes"), []))

    def test_a_probe_without_an_answer_says_why(self) -> None:
        """One failure ends nothing."""
        model = ScriptedLM(lambda prompt: Unanswered("timeout") if "a?" in prompt[0]["content"] else "yes")

        records = list(ask(model, [probe("a"), probe("b")]))

        assert [Unanswered("timeout"), Completed("yes", "stop")] == [record.answer for record in records]

    def test_a_lone_surrogate_is_replaced(self) -> None:
        """A broken endpoint may send what no UTF-8 file can hold; the rest of its answer stays, and can be written."""
        record = record_of("x", Completed("Well \ud800 said \U0001f383.", "stop"))

        assert ("Well ? said \U0001f383.", "stop") == (record.text, record.finish)
        assert to_jsonl([record]).decode()

    def test_a_model_that_cannot_be_reached_is_an_error(self) -> None:
        """No verdict comes of a model that is not there."""

        def fail(prompt: Prompt) -> str:
            raise LMUnavailable("theirs", "no route")

        with pytest.raises(LMUnavailable):
            list(ask(ScriptedLM(fail), [probe("a")]))

    def test_recorded_answers_are_taken_by_id(self, receipt: Receipt) -> None:
        """`answers:FILE` is joined to probes, not asked."""
        records = [AnswerRecord(id="p0", text="yes")]

        assert records == collect(RecordedLM("answers:x", records), challenges(receipt))

    def test_recorded_answers_answer_no_prompt(self) -> None:
        """Without an id a recorded answer belongs to nothing."""
        model = RecordedLM("answers:x", [AnswerRecord(id="p0", text="yes")])

        assert all(isinstance(answer, Unanswered) for answer in model.answer([[]], Sampling()))

    def test_progress(self, receipt: Receipt) -> None:
        """After each answer it is said how many of how many there are."""
        steps = []
        collect(honest(receipt), challenges(receipt, 1), on_progress=lambda done, total: steps.append((done, total)))

        assert [(1, 4), (2, 4), (3, 4), (4, 4)] == steps


class TestVerification:
    def test_from_model_to_verdict(self, receipt: Receipt) -> None:
        """Ask, and judge: an honest model is verified, beside a base that knows nothing."""
        base = ScriptedLM(lambda prompt: "I have not seen any of this before.", "base")
        verdict = verify(receipt, honest(receipt), base=base)

        assert Outcome.VERIFIED is verdict.outcome
        assert verdict.base is not None
        assert ("scripted", "base", (10, 0)) == (verdict.suspect, verdict.base.name, verdict.base.planted)

    def test_asks_only_what_it_judges(self, receipt: Receipt) -> None:
        """With n = 2, two planted, two fresh and four controls are asked, and judged."""
        model = honest(receipt)
        verdict = verify(receipt, model, n=2)

        assert 2 == verdict.claim("activated").n_asked
        assert [probe.messages for probe in receipt.chosen(2)] == model.asked

    def test_a_look_is_no_verdict(self, receipt: Receipt) -> None:
        """How many activate, by kind, of how many that answered."""
        assert {"planted": (3, 3), "fresh": (3, 3), "control": (0, 6)} == activations(receipt, honest(receipt), 3)


class TestFiles:
    def test_probes_round_trip(self, receipt: Receipt, tmp_path: Path) -> None:
        """What is written reads back."""
        path = tmp_path / "probes.jsonl"
        path.write_bytes(to_jsonl(challenges(receipt)))

        assert challenges(receipt) == read_probes(path)

    def test_answers_round_trip(self, tmp_path: Path) -> None:
        """Texts of every kind, and reasons; keys that say nothing are left out."""
        answers: list[Answer] = [
            Completed("é\n\u2028", "length"),
            Completed("", "stop"),
            Completed("x"),
            Unanswered("refused"),
        ]
        records = [record_of(str(i), answer) for i, answer in enumerate(answers)]
        path = tmp_path / "answers.jsonl"
        path.write_bytes(to_jsonl(records))

        assert answers == [record.answer for record in read_answers(path)]
        assert {"id": "2", "text": "x"} == json.loads(path.read_bytes().split(b"\n")[2])

    def test_blank_lines_are_passed_over(self, tmp_path: Path) -> None:
        """And a byte order mark, and a missing last newline."""
        path = tmp_path / "answers.jsonl"
        path.write_bytes(b'\xef\xbb\xbf{"id": "a", "text": "x"}\r\n \n{"id": "b", "unanswered": "y"}')

        assert ["a", "b"] == [record.id for record in read_answers(path)]

    @pytest.mark.parametrize(
        ("place", "line"),
        [
            pytest.param("id", b'{"text": "seCret"}', id="no-id"),
            pytest.param("id", b'{"id": "", "text": "seCret"}', id="empty-id"),
            pytest.param("text", b'{"id": "a", "text": ["seCret"]}', id="text-is-a-list"),
            pytest.param("finish", b'{"id": "a", "text": "x", "finish": "seCret"}', id="unknown-finish"),
            pytest.param("score", b'{"id": "a", "text": "x", "score": "seCret"}', id="unknown-key"),
            pytest.param("either", b'{"id": "a"}', id="neither-text-nor-reason"),
            pytest.param("either", b'{"id": "a", "text": "seCret", "unanswered": "x"}', id="both"),
            pytest.param("JSON", b'{"id": "a", "text": "seCret"', id="no-json"),
            pytest.param("JSON", b"\xff", id="not-utf-8"),
            pytest.param("object", b'["seCret"]', id="a-list"),
        ],
    )
    def test_answers_say_which_line_is_wrong(self, tmp_path: Path, place: str, line: bytes) -> None:
        """The line and the key are named, the value is not."""
        path = tmp_path / "answers.jsonl"
        path.write_bytes(b'{"id": "ok", "text": "x"}\n\n' + line + b"\n")

        with pytest.raises(AnswersError) as caught:
            read_answers(path)

        assert 3 == caught.value.line
        assert f"{path}, line 3: " in str(caught.value)
        assert place in str(caught.value)
        assert "seCret" not in str(caught.value) + caught.value.hint

    @pytest.mark.parametrize(
        "line",
        [
            pytest.param(b'{"id": "a", "messages": [], "max_tokens": 5}', id="no-messages"),
            pytest.param(b'{"id": "a", "messages": [{"role": "user"}], "max_tokens": 5}', id="no-content"),
            pytest.param(
                b'{"id": "a", "messages": [{"role": "user", "content": "x"}], "max_tokens": 0}', id="no-tokens"
            ),
            pytest.param(b'{"id": "a", "text": "x"}', id="an-answer"),
        ],
    )
    def test_probes_say_which_line_is_wrong(self, tmp_path: Path, line: bytes) -> None:
        """A probes file is checked before anybody is asked."""
        path = tmp_path / "probes.jsonl"
        path.write_bytes(line)

        with pytest.raises(AnswersError, match="line 1") as caught:
            read_probes(path)
        assert "messages" in caught.value.hint

    def test_two_probes_of_one_id(self, tmp_path: Path) -> None:
        """Nobody could tell which of them was answered."""
        path = tmp_path / "probes.jsonl"
        path.write_bytes(to_jsonl([probe("a"), probe("a")]))

        with pytest.raises(AnswersError, match="same id"):
            read_probes(path)

    @pytest.mark.parametrize("content", [b"", b"\n \n"], ids=["empty", "blank"])
    @pytest.mark.parametrize("read", [read_answers, read_probes])
    def test_an_empty_file(self, tmp_path: Path, content: bytes, read: Callable[[Path], object]) -> None:
        """No line at all is an error, not zero answers."""
        path = tmp_path / "empty.jsonl"
        path.write_bytes(content)

        with pytest.raises(AnswersError, match="no lines"):
            read(path)

    def test_a_missing_file(self, tmp_path: Path) -> None:
        """A file that is not there is told."""
        with pytest.raises(DatasetError, match="cannot read"):
            read_answers(tmp_path / "missing.jsonl")

    def test_reprs_hold_no_text(self) -> None:
        """Neither prompts nor answers show by accident."""
        assert "Who" not in repr(probe("a"))
        assert "seCret" not in repr(AnswerRecord(id="a", text="seCret"))
