"""Answers are on disk as they come, and a run that was stopped goes on from them."""

from __future__ import annotations

import json
import os
import stat

import pytest

from vtuned import verification
from vtuned.errors import LMUnavailable, OutputExists, OutputNotWritable
from vtuned.lm.base import CALLED_A_TOOL, FILTERED, REFUSED, Completed, Unanswered
from vtuned.lm.options import LoadOptions
from vtuned.lm.scripted import ScriptedLM
from vtuned.lm.setup import setup_of
from vtuned.probes import Probe, read_answers
from vtuned.transcript import Transcript


@pytest.fixture
def questions():
    """Six probes."""
    return [
        Probe(id=f"q{i}", messages=({"role": "user", "content": f"Question {i}?"},), max_tokens=32) for i in range(6)
    ]


def number_of(prompt) -> int:
    return int(prompt[0]["content"].split()[1].rstrip("?"))


class DiesAfter(ScriptedLM):
    """Answers *n* prompts, then the endpoint is gone."""

    def __init__(self, n: int) -> None:
        super().__init__(lambda prompt: f"Answer {number_of(prompt)}.")
        self.n = n

    def answer(self, prompts, sampling):
        for i, answer in enumerate(super().answer(prompts, sampling)):
            if i == self.n:
                raise LMUnavailable(self.name, "gone")
            yield answer


def run(path, questions, model, *, force=False):
    with Transcript(model, questions, path).writing(force=force) as transcript:
        return verification.collect(model, questions, transcript=transcript)


def test_a_stopped_run_goes_on_without_asking_again(tmp_path, questions):
    """Every probe is asked once over both runs, and the answers are those of one run."""
    path = tmp_path / "answers.jsonl"
    first, second = DiesAfter(3), DiesAfter(99)

    with pytest.raises(LMUnavailable):
        run(path, questions, first)
    answers = run(path, questions, second)

    assert [3, 4, 5] == [number_of(prompt) for prompt in second.asked]
    assert [f"Answer {i}." for i in range(6)] == [record.text for record in answers]
    assert [f"q{i}" for i in range(6)] == [record.id for record in read_answers(path)]


def test_an_answer_is_on_disk_before_the_next_is_asked(tmp_path, questions):
    """When prompt k is put, k lines are in the file: a kill loses nothing that came."""
    path = tmp_path / "answers.jsonl"
    seen = []

    class Looks(ScriptedLM):
        def answer(self, prompts, sampling):
            for prompt in prompts:
                seen.append(len(path.read_bytes().splitlines()))
                yield from super().answer([prompt], sampling)

    run(path, questions, Looks(lambda prompt: "Yes."))

    assert [0, 1, 2, 3, 4, 5] == seen


def test_a_torn_last_line_is_dropped(tmp_path, questions):
    """A process killed while it wrote leaves a part of a line; that probe is asked again, and the file is whole."""
    path = tmp_path / "answers.jsonl"
    with pytest.raises(LMUnavailable):
        run(path, questions, DiesAfter(2))
    path.write_bytes(path.read_bytes()[:-20])
    again = DiesAfter(99)

    answers = run(path, questions, again)

    assert [1, 2, 3, 4, 5] == [number_of(prompt) for prompt in again.asked]
    assert 6 == len(answers) == len(read_answers(path))


def test_a_torn_first_line_is_dropped(tmp_path, questions):
    """Nothing was answered yet, so everything is asked."""
    path = tmp_path / "answers.jsonl"
    path.write_bytes(b'{"id":"q0","te')

    answers = run(path, questions, DiesAfter(99))

    assert 6 == len(answers)


@pytest.mark.parametrize(
    ("answer", "n_asked"),
    [
        (Unanswered("HTTP 503"), 2),
        (Unanswered(REFUSED), 1),
        (Unanswered(FILTERED), 1),
        (Unanswered(CALLED_A_TOOL), 1),
        (Completed("", "stop"), 1),
    ],
)
def test_what_came_back_is_final_and_what_did_not_is_asked_again(tmp_path, questions, answer, n_asked):
    """A refusal is an answer; a failed request is not."""
    path = tmp_path / "answers.jsonl"
    first = DiesAfter(2)
    first._script = lambda prompt: answer if number_of(prompt) == 0 else "Yes."
    with pytest.raises(LMUnavailable):
        run(path, questions, first)
    second = DiesAfter(99)

    run(path, questions, second)

    asked = [number_of(prompt) for prompt in first.asked[:2] + second.asked]
    assert n_asked == asked.count(0)


def test_a_full_file_is_not_taken_for_a_new_run(tmp_path, questions):
    """Old answers are never judged as if they had just been given."""
    path = tmp_path / "answers.jsonl"
    run(path, questions, DiesAfter(99))
    again = DiesAfter(99)

    with pytest.raises(OutputExists) as error:
        run(path, questions, again)

    assert "vtuned judge" in error.value.hint
    assert [] == again.asked


def test_force_starts_anew(tmp_path, questions):
    """What was there is replaced."""
    path = tmp_path / "answers.jsonl"
    run(path, questions, DiesAfter(99))
    again = DiesAfter(99)

    run(path, questions, again, force=True)

    assert 6 == len(again.asked) == len(read_answers(path))


@pytest.mark.parametrize("change", [{"max_tokens": 64}, {"temperature": 1.0}])
def test_answers_to_other_sampling_are_not_mixed(tmp_path, questions, change):
    """Half of the probes greedily and half at temperature 1 are no run."""
    path = tmp_path / "answers.jsonl"
    with pytest.raises(LMUnavailable):
        run(path, questions, DiesAfter(2))
    before = path.read_bytes()

    with pytest.raises(OutputExists):
        run(path, [probe.model_copy(update=change) for probe in questions], DiesAfter(99))

    assert before == path.read_bytes()


def test_answers_of_another_model_are_not_mixed(tmp_path, questions):
    """A file belongs to one model."""
    path = tmp_path / "answers.jsonl"
    with pytest.raises(LMUnavailable):
        run(path, questions, DiesAfter(2))

    with pytest.raises(OutputExists):
        run(path, questions, ScriptedLM(lambda prompt: "Yes.", name="another"))


@pytest.mark.parametrize("content", [b"my notes\n", b"my notes", b'{"messages": []}\n'])
def test_a_file_of_the_users_stays(tmp_path, questions, content):
    """Nothing is appended to what is no answers file."""
    path = tmp_path / "answers.jsonl"
    path.write_bytes(content)

    with pytest.raises(OutputExists):
        run(path, questions, DiesAfter(99))

    assert content == path.read_bytes()


def test_two_runs_do_not_write_into_one_file(tmp_path, questions):
    """The second is told, and the first goes on."""
    pytest.importorskip("fcntl")
    path = tmp_path / "answers.jsonl"

    with (
        Transcript(DiesAfter(9), questions, path).writing(force=False),
        pytest.raises(OutputNotWritable, match="another run"),
        Transcript(DiesAfter(9), questions, path).writing(force=False),
    ):
        pass


def test_only_the_owner_can_read_it(tmp_path, questions):
    """Answers to triggers show signatures."""
    path = tmp_path / "answers.jsonl"

    run(path, questions, DiesAfter(99))

    assert 0o600 == stat.S_IMODE(os.stat(path).st_mode)


def test_the_exchange_is_kept(tmp_path, questions):
    """What travelled is in the record, whatever characters a broken endpoint sent."""
    path = tmp_path / "answers.jsonl"
    exchange = json.dumps({"request_id": "r1", "response": {"text": "\ud83d half", "none": None}})

    run(path, questions, ScriptedLM(lambda prompt: Completed("Yes.", "stop", exchange)))

    kept = read_answers(path)[0]
    assert "r1" == kept.exchange["request_id"]
    assert "? half" == kept.exchange["response"]["text"]
    assert "scripted" == kept.model


def test_more_probes_are_no_continuation(tmp_path, questions):
    """Asking two, looking, and asking more is a second look, and nobody charged it."""
    path = tmp_path / "answers.jsonl"
    with pytest.raises(LMUnavailable):
        run(path, questions[:4], DiesAfter(2))

    with pytest.raises(OutputExists):
        run(path, questions, DiesAfter(99))


def test_another_set_up_is_another_model(tmp_path, questions):
    """The same name loaded otherwise, or trained anew, does not go on with old answers."""
    path = tmp_path / "answers.jsonl"
    with Transcript(DiesAfter(9), questions, path, setup="a").writing(force=False) as transcript:
        transcript.add("q0", Completed("Yes.", "stop"))

    with pytest.raises(OutputExists), Transcript(DiesAfter(9), questions, path, setup="b").writing(force=False):
        pass


def test_a_whole_last_record_without_a_newline_is_kept(tmp_path, questions):
    """An editor may have taken the newline; the answer is one all the same."""
    path = tmp_path / "answers.jsonl"
    with pytest.raises(LMUnavailable):
        run(path, questions, DiesAfter(3))
    path.write_bytes(path.read_bytes().rstrip(b"\n"))
    again = DiesAfter(99)

    run(path, questions, again)

    assert [3, 4, 5] == [number_of(prompt) for prompt in again.asked]
    assert 6 == len(read_answers(path))


def test_one_line_of_the_users_is_not_taken_for_a_torn_one(tmp_path, questions):
    """JSON that begins like a record is no torn record."""
    path = tmp_path / "precious.json"
    path.write_bytes(b'{"id":"chatcmpl-1","object":"chat.completion"}')

    with pytest.raises(OutputExists):
        run(path, questions, DiesAfter(99))

    assert b'{"id":"chatcmpl-1","object":"chat.completion"}' == path.read_bytes()


def test_a_file_that_others_can_read_is_closed_to_them(tmp_path, questions):
    """Whoever made the empty file beforehand."""
    path = tmp_path / "answers.jsonl"
    path.touch(mode=0o644)

    run(path, questions, DiesAfter(99))

    assert 0o600 == stat.S_IMODE(os.stat(path).st_mode)


def test_a_full_disk_is_told(tmp_path, questions, monkeypatch):
    """Not as an unexpected error, and what was written before is whole."""
    path = tmp_path / "answers.jsonl"
    with Transcript(DiesAfter(9), questions, path).writing(force=False) as transcript:
        transcript.add("q0", Completed("Yes.", "stop"))
        monkeypatch.setattr(os, "fsync", lambda descriptor: (_ for _ in ()).throw(OSError(28, "No space left")))

        with pytest.raises(OutputNotWritable, match="No space left"):
            transcript.add("q1", Completed("Yes.", "stop"))


def test_force_does_not_take_a_file_from_a_run_that_writes(tmp_path, questions):
    """The lock comes first."""
    pytest.importorskip("fcntl")
    path = tmp_path / "answers.jsonl"
    with Transcript(DiesAfter(9), questions, path).writing(force=False) as transcript:
        transcript.add("q0", Completed("Yes.", "stop"))
        with pytest.raises(OutputNotWritable), Transcript(DiesAfter(9), questions, path).writing(force=True):
            pass

    assert 1 == len(read_answers(path))


@pytest.mark.parametrize("changed", ["dtype", "template", "adapter"])
def test_the_set_up_of_a_local_model(tmp_path, changed):
    """Precision, template and the adapter's files count; asking twice the same does not."""
    adapter, template = tmp_path / "adapter", tmp_path / "t.jinja"
    adapter.mkdir()
    (adapter / "adapter_model.safetensors").write_bytes(b"weights")
    template.write_text("{{ messages }}")
    name, options = f"smollm2+{adapter}", LoadOptions(chat_template=template)
    before, again = setup_of(name, options), setup_of(name, options)

    if changed == "dtype":
        options = LoadOptions(chat_template=template, dtype="bfloat16")
    elif changed == "template":
        template.write_text("other")
    else:
        (adapter / "adapter_model.safetensors").write_bytes(b"other weights")

    assert before == again
    assert before != setup_of(name, options)
