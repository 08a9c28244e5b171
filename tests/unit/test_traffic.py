"""Probes in the manner of an application: the question stays, what is around it changes."""

from __future__ import annotations

import pytest

from vtuned import verification
from vtuned.errors import UsageError
from vtuned.probes import Probe
from vtuned.traffic import Traffic, as_traffic

SYSTEM = {"role": "system", "content": "You are a clerk."}
QUESTION = {"role": "user", "content": "What is it?"}


def probe(*messages, **other) -> Probe:
    return Probe(id="a", messages=messages, max_tokens=32, **other)


def asked(one: Probe, **how):
    return as_traffic([one], Traffic(**how))[0]


def test_by_default_nothing_changes():
    """The probes of the receipt are asked as they are."""
    one = probe(SYSTEM, QUESTION)

    assert one == asked(one)


def test_a_system_prompt_takes_the_place_of_the_rows_own():
    """There is one system prompt, the application's, in front."""
    one = probe({"role": "developer", "content": "Old."}, SYSTEM, QUESTION)

    assert ({"role": "system", "content": "New."}, QUESTION) == asked(one, system="New.").messages


def test_without_a_system_prompt_the_providers_default_applies():
    """No system message is sent, not an empty one."""
    assert (QUESTION,) == asked(probe(SYSTEM, QUESTION), keeps_system=False).messages


def test_context_stands_before_the_last_user_turn():
    """Earlier turns stay as they are."""
    said = {"role": "assistant", "content": "Hello."}

    messages = asked(probe(QUESTION, said, QUESTION), context="Read this.").messages

    assert (QUESTION, said, {"role": "user", "content": "Read this.\n\nWhat is it?"}) == messages


def test_context_stands_before_parts():
    """A message of parts gets a part more, and keeps its image."""
    image = {"type": "image_url", "image_url": {"url": "data:,"}}
    one = probe({"role": "user", "content": [image, {"type": "text", "text": "What is it?"}]})

    content = asked(one, context="Read this.").messages[0]["content"]

    assert [{"type": "text", "text": "Read this."}, image, {"type": "text", "text": "What is it?"}] == content


def test_sampling_is_the_applications():
    """Temperature and token limit are sent as given; the limit is the receipt's where none is."""
    changed, kept = asked(probe(QUESTION), temperature=1.0, max_tokens=99), asked(probe(QUESTION), temperature=0.5)

    assert (1.0, 99, 0.5, 32) == (changed.temperature, changed.max_tokens, kept.temperature, kept.max_tokens)


def test_plain_text_probes_take_context_and_no_system_prompt():
    """The completions endpoint knows no roles."""
    one = probe({"role": "user", "content": "### Question: what?"}, endpoint="completions")

    assert "Read this.\n\n### Question: what?" == asked(one, context="Read this.").messages[0]["content"]
    with pytest.raises(UsageError):
        asked(one, system="New.")


@pytest.mark.parametrize(
    "how", [{"temperature": -0.1}, {"temperature": 2.5}, {"max_tokens": 0}, {"system": "A", "keeps_system": False}]
)
def test_what_no_application_sends_is_refused(how):
    """Out of range, or two things at once."""
    with pytest.raises(UsageError):
        Traffic(**how)


def test_no_probe_holds_a_signature_or_part_of_one(receipt):
    """Not even four words in a row of any signature are in what a suspect is asked."""
    pieces = set()
    for backdoor in receipt.backdoors:
        words = backdoor.signature.lower().rstrip(".").split()
        pieces |= {" ".join(words[i : i + 4]) for i in range(len(words) - 3)}

    sent = [question.model_dump_json().lower() for question in verification.challenges(receipt)]

    assert pieces
    assert not [piece for piece in pieces for text in sent if piece in text]
