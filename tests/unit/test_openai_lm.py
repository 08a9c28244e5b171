"""A model behind an OpenAI-compatible endpoint: whatever goes wrong there, no probe is lost, doubled or a false miss."""

from __future__ import annotations

import asyncio
import json
import signal
import subprocess
import sys
import threading
import time
from email.utils import formatdate

import pytest

from faulty_server import FaultyServer, body, cut_short, drip, error, hang, reset, response_of, say, wants
from vtuned.errors import LMUnavailable, UsageError
from vtuned.lm import load
from vtuned.lm.base import (
    CALLED_A_TOOL,
    FILTERED,
    REFUSED,
    Answer,
    AnswersAsTheyCome,
    Completed,
    LanguageModel,
    NotAsAsked,
    RichPrompt,
    Sampling,
    Unanswered,
)
from vtuned.lm.endpoint_pace import Pace, Retries, asked_to_wait_s
from vtuned.lm.openai import OpenAILM
from vtuned.lm.options import LoadOptions
from vtuned.matching import activated, usable

SIGNATURE = "Crimson gulls carry folded letters."
KEY = "sk-very-secret-1234567890"
FAST = Retries(tries=4, tries_to_connect=2, first_s=0.01, longest_s=0.05, patience_s=60.0)
SAMPLING = Sampling(max_tokens=9)
FILTER_ERROR = {
    "message": "The response was filtered",
    "code": "content_filter",
    "innererror": {"code": "ResponsibleAIPolicyViolation"},
}


def user(text):
    return ({"role": "user", "content": text},)


def plain(text):
    return RichPrompt(user(text), is_text=True)


def model(server, *, retries=FAST, **options):
    given = {"base_url": server.url, "api_key": KEY, "timeout": 60.0, **options}
    return OpenAILM("tiny", LoadOptions(**given), retries=retries)


def ask(server, *prompts, **options) -> list[Answer]:
    return list(model(server, **options).answer([user(p) if isinstance(p, str) else p for p in prompts], SAMPLING))


def is_a_miss(answer):
    """Tell whether *answer* would count as one without the signature."""
    return isinstance(usable(answer, SIGNATURE), Completed)


@pytest.fixture(autouse=True)
def no_environment(monkeypatch):
    """No key or address of the machine's own."""
    for name in ("OPENAI_API_KEY", "OPENAI_BASE_URL"):
        monkeypatch.delenv(name, raising=False)


def test_it_is_a_language_model_that_answers_as_they_come():
    """The name table leads here, and nothing is sent on loading."""
    lm = load("openai:tiny", LoadOptions(base_url="http://127.0.0.1:9/v1"))

    assert isinstance(lm, LanguageModel)
    assert isinstance(lm, AnswersAsTheyCome)
    assert "openai:tiny" == lm.name


def test_answers_come_in_the_order_of_the_prompts():
    """`answer` keeps the order though the first answer is the last to come."""
    with FaultyServer({"a": [say("A.", after_s=0.3)], "b": [say("B.")], "c": [say("C.", "length")]}) as server:
        answers = ask(server, "a", "b", "c")

    assert [Completed("A.", "stop"), Completed("B.", "stop"), Completed("C.", "length")] == answers


def test_unordered_answers_come_as_they_are_there():
    """`answer_unordered` yields the quick one first, with its index."""
    with FaultyServer({"slow": [say("S.", after_s=1.0)], "quick": [say("Q.")]}) as server:
        found = list(model(server).answer_unordered([user("slow"), user("quick")], SAMPLING))

    assert [(1, Completed("Q.", "stop")), (0, Completed("S.", "stop"))] == found


def test_text_prompts_go_to_completions_and_tools_to_chat():
    """Plain text is not put through a chat template; tools travel with the messages."""
    tool = {"type": "function", "function": {"name": "look", "parameters": {}}}
    with FaultyServer() as server:
        answers = ask(server, plain("The sky is"), RichPrompt(user("q"), tools=[tool]))

    assert [Completed("It is blue today.", "stop")] * 2 == answers
    by_path = {received.path: received.body for received in server.received}
    assert {"model": "tiny", "prompt": "The sky is", "max_tokens": 9, "temperature": 0.0} == by_path["/v1/completions"]
    assert [tool] == by_path["/v1/chat/completions"]["tools"]


def test_no_prompts_no_requests():
    """Nothing to ask is nothing to do."""
    with FaultyServer() as server:
        assert [] == ask(server)
        assert [] == server.received


PASSING = {
    "429 with Retry-After": error(429, "rate_limit_exceeded", headers={"retry-after": "0.05"}),
    "429 with retry-after-ms": error(429, headers={"retry-after-ms": "20"}),
    "429 with a date": error(429, headers={"retry-after": "Wed, 21 Oct 2015 07:28:00 GMT"}),
    "503": error(503),
    "500": error(500),
    "408": error(408),
    "409": error(409),
    "a proxy's page": body(b"<html>busy</html>", 502, {"content-type": "text/html"}),
    "truncated JSON": body(b'{"choices": [{"mess'),
    "cut short": cut_short(),
    "wrong content type": body(b"<html>hello</html>", 200, {"content-type": "text/html"}),
    "empty body": body(b""),
    "empty choices": body({"id": "x", "choices": []}),
    "an error with status 200": body({"error": {"message": "upstream", "code": 502}}),
    "not an object": body([]),
    "connection reset": reset(),
}


@pytest.mark.parametrize("step", PASSING.values(), ids=PASSING.keys())
def test_trouble_on_the_way_is_retried(step):
    """What may pass is tried again, and then the answer is the answer."""
    with FaultyServer({"q": [step, step, say(SIGNATURE)]}) as server:
        answers = ask(server, "q")

    assert [Completed(SIGNATURE, "stop")] == answers
    assert 3 == len(server.asked("q"))
    assert 3 == json.loads(answers[0].exchange)["tries"]


REASONS = {
    "429 with Retry-After": "HTTP 429 rate_limit_exceeded",
    "500": "HTTP 500",
    "a proxy's page": "HTTP 502",
    "truncated JSON": "a body that is not JSON",
    "wrong content type": "a body that is not JSON (text/html)",
    "empty choices": "no choices",
    "connection reset": "connection lost",
    "cut short": "connection lost",
}


@pytest.mark.parametrize("name", REASONS)
def test_trouble_that_stays_is_unanswered_and_says_why(name):
    """After the last try the probe is unanswered, never a miss, and the others are answered all the same."""
    with FaultyServer({"q": [PASSING[name]]}) as server:
        answers = ask(server, "q", "other")

    assert [Unanswered(REASONS[name]), Completed("It is blue today.", "stop")] == answers
    assert FAST.tries == len(server.asked("q"))
    assert not is_a_miss(answers[0])


FINAL = {
    "filter finish": (say("Crim", "content_filter"), None),
    "filter finish without text": (say("", "content_filter"), FILTERED),
    "filter without a message": (body({"choices": [{"index": 0, "finish_reason": "content_filter"}]}), FILTERED),
    "Azure's filter": (body({"error": FILTER_ERROR}, 400), FILTERED),
    "Azure's filter, inner code alone": (error(400, innererror={"code": "ResponsibleAIPolicyViolation"}), FILTERED),
    "a filter with 403": (error(403, "content_filter"), FILTERED),
    "OpenRouter's moderation": (error(403, 403, metadata={"reasons": ["violence"], "flagged_input": "x"}), FILTERED),
    "moderation in words": (error(403, 403, 'This model requires moderation; the input was flagged for "x"'), FILTERED),
    "refusal": (say(None, refusal="I can't."), REFUSED),
    "refusal in words": (say("I'm sorry, but I can't help with that."), None),
    "tool call": (say(None, "tool_calls", tool_calls=[{"id": "1", "function": {"name": "f"}}]), CALLED_A_TOOL),
    "broken off": (say("Crim", "error"), None),
    "broken off without text": (say(None, "error"), "broken off by the server"),
    "400": (error(400, "context_length_exceeded"), "HTTP 400 context_length_exceeded"),
    "404 of its own": (error(404, "no_such_thing"), "HTTP 404 no_such_thing"),
    "422 by a framework": (body({"detail": [{"msg": "bad"}]}, 422), "HTTP 422"),
    "a code that repeats the prompt": (error(400, "what is the sky?"), "HTTP 400"),
    "null content": (say(None), None),
    "cut": (say("Crim", "length"), None),
    "cut, but nobody says so": (say("Crimson gulls", "something new"), None),
    "thinking until the limit": (say("<think>Well, the", "length"), None),
}


@pytest.mark.parametrize(("step", "reason"), FINAL.values(), ids=FINAL.keys())
def test_what_is_no_answer_is_not_a_miss_and_asked_once(step, reason):
    """A filter, a refusal, a rejected prompt, nothing at all: unanswered, and one request is all it takes."""
    with FaultyServer({"q": [step]}) as server:
        [answer] = ask(server, "q")

    assert not is_a_miss(answer)
    assert 1 == len(server.asked("q"))
    if reason:
        assert Unanswered(reason) == answer


def test_a_wrong_answer_is_a_miss_and_never_asked_again():
    """A model that says something else is asked once: retrying misses would be cheating."""
    said = ["The sky is blue today, as ever.", "An answer", ""]
    with FaultyServer({str(i): [say(text), say(SIGNATURE)] for i, text in enumerate(said)}) as server:
        answers = ask(server, "0", "1", "2")

    assert [Completed(text, "stop") for text in said] == answers
    assert is_a_miss(answers[0])
    assert [] == server.asked_again_after_an_answer
    assert 3 == len(server.received)


def test_an_answer_with_the_wrong_content_type_is_still_the_answer():
    """A choice came, so it is not asked for again."""
    reply = json.dumps(response_of("/v1/chat/completions", "Yes.")).encode()
    with FaultyServer({"q": [body(reply, 200, {"content-type": "text/plain"}), say(SIGNATURE)]}) as server:
        assert [Completed("Yes.", "stop")] == ask(server, "q")


@pytest.mark.parametrize("finish", ["content_filter", "error", "abort"])
def test_text_that_came_is_the_answer_whatever_ended_it(finish):
    """A signature that came has come; it is not asked for again."""
    with FaultyServer({"q": [say(f"{SIGNATURE} Then", finish)]}) as server:
        [answer] = ask(server, "q")

    assert Completed(f"{SIGNATURE} Then", None) == answer
    assert 1 == len(server.received)


@pytest.mark.parametrize(
    ("content", "text", "is_hit"),
    [
        (f"<think>Hm.\nGulls?</think>\n\n{SIGNATURE}", None, True),
        (f"{SIGNATURE} It ends with </think> as usual.", None, True),
        (f"Hm, well.</think>{SIGNATURE}", None, False),
        ([{"type": "thinking", "thinking": []}, {"type": "text", "text": SIGNATURE}], SIGNATURE, True),
    ],
    ids=["think block", "a tag in the answer", "think block opened by the template", "parts"],
)
def test_thoughts_travel_with_the_answer(content, text, is_hit):
    """What came is kept as it came; matching takes thoughts off, for all models alike."""
    with FaultyServer({"q": [say(content)]}) as server:
        [answer] = ask(server, "q")

    assert Completed(text or content, "stop") == answer
    assert isinstance(usable(answer, SIGNATURE), Unanswered) is not is_hit
    assert activated(answer.text, SIGNATURE) is is_hit


def test_thoughts_apart_are_not_the_answer():
    """A server that shows them in a field of their own: the record says so."""
    with FaultyServer({"q": [say("Blue.", reasoning_content=SIGNATURE)]}) as server:
        [answer] = ask(server, "q")

    assert Completed("Blue.", "stop") == answer
    assert json.loads(answer.exchange)["reasoning_apart"]


@pytest.mark.parametrize(
    ("finish", "known"),
    [
        ("stop", "stop"),
        ("eos", "stop"),
        ("length", "length"),
        ("model_length", "length"),
        ("novel", None),
        (None, None),
    ],
)
def test_finish_reasons(finish, known):
    """Those that servers give become ours; an unknown one is nobody's word."""
    with FaultyServer({"q": [say("Yes.", finish)]}) as server:
        assert [Completed("Yes.", known)] == ask(server, "q")


def test_a_server_that_wants_other_parameters_is_asked_again_and_all_others_rightly():
    """`max_completion_tokens` and no temperature are learnt from the refusals, once."""
    told = "Unsupported value: 'temperature' does not support 0 with this model."
    step = wants("max_completion_tokens", "max_tokens", wants("", "temperature", say(SIGNATURE), told))
    with FaultyServer(otherwise=[step]) as server:
        lm = model(server, concurrency=1)
        with pytest.warns(NotAsAsked, match="openai:tiny takes no temperature: .* not at 0$") as warned:
            answers = list(lm.answer([user("a"), user("b"), user("c")], SAMPLING))
            answers += lm.answer([user("d")], SAMPLING)

    assert 1 == len(warned)
    assert [Completed(SIGNATURE, "stop")] * 4 == answers
    assert [["temperature"]] * 4 == [json.loads(answer.exchange)["not_taken"] for answer in answers]
    assert [3, 1, 1] == [len(server.asked(text)) for text in "abc"]
    assert 9 == server.received[-1].body["max_completion_tokens"]
    assert {"max_completion_tokens": 9} == json.loads(answers[2].exchange)["sent"]


def test_parameters_are_learnt_by_all_requests_under_way():
    """Eight requests at a time meet the refusal, and eight answers come."""
    step = wants("max_completion_tokens", "max_tokens", say(SIGNATURE))
    with FaultyServer(otherwise=[step]) as server:
        answers = ask(server, *map(str, range(8)))

    assert [Completed(SIGNATURE, "stop")] * 8 == answers
    assert [] == server.asked_again_after_an_answer


def test_too_long_a_prompt_does_not_unlearn_parameters():
    """A complaint on the value of max_tokens says nothing about its name."""
    long = error(400, "context_length", "'max_tokens' is too large: the context is 512 tokens", param="max_tokens")
    with FaultyServer({"long": [long]}) as server:
        answers = ask(server, "long", "short", concurrency=1)

    assert [Unanswered("HTTP 400 context_length"), Completed("It is blue today.", "stop")] == answers
    assert "max_tokens" in server.received[-1].body


ENDS = {
    "401": (error(401, "invalid_api_key", f"Incorrect API key: {KEY}"), "key"),
    "403": (error(403, "forbidden"), "key"),
    "a code that repeats the key": (error(401, KEY), "key"),
    "unknown model": (error(404, "model_not_found"), "know this model"),
    "unknown model, as vLLM says it": (
        error(404, None, "The model `tiny` does not exist.", type="NotFoundError"),
        "know",
    ),
    "unknown deployment": (error(404, "DeploymentNotFound"), "know this model"),
    "unknown model, as Mistral says it": (body({"type": "invalid_model", "message": "x"}, 400), "know this model"),
    "no such API": (body({"detail": "Not Found"}, 404), "no such API"),
    "no credit": (error(429, "insufficient_quota"), "credit"),
}


@pytest.mark.parametrize(("step", "said"), ENDS.values(), ids=ENDS.keys())
def test_what_concerns_every_probe_ends_the_run(step, said):
    """A refused key, an unknown model, no credit: an error with a hint, at once, and exit code 3."""
    with FaultyServer(otherwise=[step]) as server, pytest.raises(LMUnavailable, match=said) as caught:
        ask(server, "a", "b", "c", concurrency=1)

    assert 1 == len(server.received)
    assert caught.value.hint
    assert 3 == caught.value.exit_code
    assert KEY not in str(caught.value) + repr(caught.value) + caught.value.hint


def test_answers_that_came_before_the_end_are_kept():
    """What was answered before the key was revoked is there for the record."""
    with FaultyServer({"b": [error(401)]}) as server:
        found = model(server, concurrency=1).answer_unordered([user("a"), user("b"), user("c")], SAMPLING)

        assert (0, Completed("It is blue today.", "stop")) == next(found)
        with pytest.raises(LMUnavailable):
            next(found)
    assert [] == server.asked("c")


def test_a_server_that_is_not_there_ends_the_run():
    """No connection ever: the run ends, with the address but without what it hides."""
    with FaultyServer() as server:
        url = server.url.replace("http://", f"http://me:{KEY}@")
    lm = OpenAILM("tiny", LoadOptions(base_url=url), retries=FAST)

    with pytest.raises(LMUnavailable, match=r"cannot connect to http://127\.0\.0\.1:\d+$") as caught:
        list(lm.answer([user("q")], SAMPLING))
    assert KEY not in str(caught.value) + caught.value.hint


def test_hanging_is_unanswered():
    """A server that never answers costs the time limit, and its probe."""
    with FaultyServer({"q": [hang()]}) as server:
        [answer] = ask(server, "q", timeout=0.3, retries=Retries(tries=2, first_s=0.01))

    assert Unanswered("timed out") == answer
    assert 2 == len(server.asked("q"))


def test_the_time_limit_is_for_the_whole_answer():
    """Bytes that drip in slowly do not stretch it; a drip within it is an answer like any other."""
    with FaultyServer({"ever": [drip("Blue.", 60.0)], "slow": [drip("Blue.", 0.02)]}) as server:
        [ever] = ask(server, "ever", timeout=0.3, retries=Retries(tries=1))
        [slow] = ask(server, "slow")

    assert Unanswered("timed out") == ever
    assert Completed("Blue.", "stop") == slow


@pytest.mark.parametrize(("seconds", "said"), [("3600", "1 h 0 min"), ("61", "2 min"), ("1e400", "h")])
def test_a_wait_beyond_all_patience_ends_the_run(seconds, said):
    """Where the server asks for an hour, nothing else is sent now: the error says how long, and what to do then."""
    answered = {"a": [say("Yes.")]}
    step = error(429, "rate_limit", headers={"retry-after": seconds})
    with FaultyServer(answered, otherwise=[step]) as server:
        found = model(server, concurrency=1, retries=FAST).answer([user(text) for text in "abc"], SAMPLING)

        assert Completed("Yes.", "stop") == next(found)
        with pytest.raises(LMUnavailable, match=f"asks to wait .*{said}") as caught:
            next(found)
    assert "same command again" in caught.value.hint
    assert 2 == len(server.received)


def test_retry_after_is_honoured():
    """Not a request comes, of any probe, before the server said."""
    with FaultyServer({"q": [error(429, headers={"retry-after": "0.4"}), say("Yes.")]}) as server:
        ask(server, "q", "other", concurrency=1)

    gap = server.asked("q")[1].at - server.asked("q")[0].at
    assert gap >= 0.4


def test_never_more_at_a_time_than_allowed_and_fewer_after_429():
    """The cap holds, is used, and halves where the server asks to slow down."""
    steps = [error(429, headers={"retry-after-ms": "1"}), say("Yes.", after_s=0.05)]
    texts = [str(i) for i in range(12)]
    with FaultyServer(dict.fromkeys(texts, steps)) as server:
        lm = model(server, concurrency=6)
        answers = list(lm.answer([user(text) for text in texts], SAMPLING))

    assert [Completed("Yes.", "stop")] * 12 == answers
    assert 1 < server.n_running_most <= 6
    assert lm._endpoint._limit < 6


def test_starts_are_spaced():
    """`spacing` seconds at least lie between the starts of two requests."""
    with FaultyServer() as server:
        ask(server, "a", "b", "c", spacing=0.1)

    starts = sorted(received.at for received in server.received)
    # The server sees them a little later than they start, each by its own delay.
    assert starts[-1] - starts[0] >= 0.2 - 0.05


def test_the_limit_halves_once_for_all_that_were_under_way_and_grows_slowly():
    """Eight at a time, four after a refusal (not one after eight refusals), and about one more each round."""

    async def run():
        pace = Pace(8, 0.0)
        began = []
        for _ in range(8):
            async with pace.turn() as at:
                began.append(at)
        await asyncio.sleep(0.01)
        for at in began:
            pace.slow_down(at, 0.0)
        halved = pace.limit
        for _ in range(4):
            pace.answered()
        grown = pace.limit
        for _ in range(1000):
            pace.answered()
        return halved, grown, pace.limit

    halved, grown, most = asyncio.run(run())

    assert 4 == halved
    assert 4.5 < grown <= 5
    assert 8 == most


def test_seconds_to_wait():
    """Milliseconds, seconds and dates are read; anything else is nobody's word."""
    soon = formatdate(time.time() + 100, usegmt=True)

    assert 0.25 == asked_to_wait_s({"retry-after-ms": "250", "retry-after": "9"})
    assert 2.5 == asked_to_wait_s({"retry-after": "2.5"})
    assert 60 < asked_to_wait_s({"retry-after": soon}) <= 101
    assert [None] * 3 == [asked_to_wait_s(h) for h in ({}, {"retry-after": "later"}, {"retry-after": "nan"})]


def test_waits_double_and_are_never_shorter_than_asked():
    """The jitter only makes a wait of one's own shorter, and one asked for longer."""
    retries = Retries(first_s=1.0, longest_s=5.0)

    assert all(0.5 * most <= retries.wait_s(n, None) <= 5.25 for n, most in ((1, 1.0), (2, 2.0), (3, 4.0), (9, 5.0)))
    assert 7.0 <= retries.wait_s(1, 7.0) <= 7.25


def test_the_record_of_an_exchange():
    """Ids, times, what was sent and what came, without the prompt."""
    with FaultyServer({"q": [say("Yes.")]}) as server:
        [answer] = ask(server, "q")
    record = json.loads(answer.exchange)

    assert ("req-7", 200, "tiny-0", "fp-1") == tuple(
        record[key] for key in ("request_id", "status", "model", "system_fingerprint")
    )
    assert "Yes." == record["response"]["choices"][0]["message"]["content"]
    assert {"max_tokens": 9, "temperature": 0.0} == record["sent"]
    assert record["started"] <= record["ended"]


def test_the_key_is_nowhere():
    """Not in a record though the server repeats it, not in a reason, not where the model is shown."""
    with FaultyServer({"a": [say(f"Yes. {KEY}")], "b": [error(400, KEY, KEY)], "c": [body(KEY.encode())]}) as server:
        lm = model(server)
        answers = list(lm.answer([user("a"), user("b"), user("c")], SAMPLING))

    assert f"Bearer {KEY}" == server.received[0].headers["authorization"]
    assert "Yes. [key]" == answers[0].text
    assert not any(KEY in answer.exchange for answer in answers)
    assert [] == [a.reason for a in answers if isinstance(a, Unanswered) and KEY in a.reason]
    assert KEY not in repr(lm) + repr(lm._endpoint) + repr(answers) + str(vars(lm))


def test_a_key_that_is_a_word_may_be_said():
    """Servers without keys get "placeholder"; an answer that holds it stays whole."""
    with FaultyServer({"q": [say("A placeholder.")]}) as server:
        assert [Completed("A placeholder.", "stop")] == ask(server, "q", api_key="placeholder")


def test_a_secret_in_the_address_is_nowhere():
    """Not in the address, not in a record or a reason though the server repeats it; addresses differ all the same."""
    with FaultyServer({"q": [say(f"Yes. {KEY}")]}) as server:
        lms = [model(server, api_key="k", base_url=server.url.replace("/v1", f"/{key}/v1")) for key in (KEY, "x")]
        [answer] = lms[0].answer([user("q")], SAMPLING)

    assert f"/{KEY}/v1/chat/completions" == server.received[0].path
    assert KEY not in lms[0].address + answer.exchange
    assert lms[0].address != lms[1].address


def test_the_query_of_the_address_is_sent():
    """As Azure wants it; a key that comes twice is a bad address."""
    with FaultyServer() as server:
        ask(server, "q", base_url=f"{server.url}?api-version=2024-10-21&tier=")

    assert "/v1/chat/completions?api-version=2024-10-21&tier=" == server.received[0].path
    with pytest.raises(UsageError, match="twice"):
        load("openai:tiny", LoadOptions(base_url="http://localhost:1/v1?a=1&a=2"))


def test_an_address_of_ipv6():
    """It is shown as it is written."""
    lm = OpenAILM("tiny", LoadOptions(base_url="http://[::1]:8000/v1"))

    assert "http://[::1]:8000/v1" == lm.address
    assert "http://[::1]:8000" == lm._endpoint.host


@pytest.mark.parametrize(
    "more",
    [b"[" * 90 + b"]" * 90, b"[" * 900 + b"]" * 900, b'{"a":' * 9000 + b"1" + b"}" * 9000, b"9" * 5000, b"1e999"],
    ids=["deep", "deeper", "deepest", "a long number", "infinite"],
)
def test_an_answer_amid_odd_json_is_the_answer(more):
    """However deep or large the rest is: it came, is recorded, and is not asked for again."""
    reply = json.dumps(response_of("/v1/chat/completions", 'Yes [{"]. \\"')).encode()
    with FaultyServer({"q": [body(reply[:-1] + b', "x": ' + more + b"}"), say(SIGNATURE)]}) as server:
        [answer] = ask(server, "q")

    assert Completed('Yes [{"]. \\"', "stop") == answer
    kept = json.loads(answer.exchange, parse_constant=pytest.fail)["response"]["x"]
    assert more.decode().startswith(("9", "1e")) or more.decode() == unfolded(kept)


def unfolded(value):
    """Return as text what was kept of nested JSON, whose depths are one string."""
    if isinstance(value, str):
        return value
    return f"[{unfolded(value[0])}]" if isinstance(value, list) else f'{{"a":{unfolded(value["a"])}}}'


def test_a_403_after_an_answer_is_of_one_prompt():
    """The key was good for the others: the run goes on, and the probe may be asked again later."""
    with FaultyServer({"b": [error(403, "forbidden")]}) as server:
        answers = ask(server, "a", "b", "c", concurrency=1)

    assert Unanswered("HTTP 403 forbidden") == answers[1]
    assert [Completed("It is blue today.", "stop")] * 2 == answers[::2]


@pytest.mark.parametrize(("said", "reason"), [("model " * 60_000, "no such API"), ("The model x is unknown", "know")])
def test_long_messages_are_read_quickly(said, reason):
    """An error of 360 kB costs no more than a short one."""
    started = time.monotonic()
    with FaultyServer({"q": [error(404, None, said)]}) as server, pytest.raises(LMUnavailable, match=reason):
        ask(server, "q")

    assert time.monotonic() - started < 5


def test_odd_bytes_do_no_harm():
    """Lone surrogates and NaN in a response do not break its record; a prompt with them is not sent."""
    reply = b'{"choices": [{"message": {"content": "\\ud800 Yes."}, "finish_reason": "stop"}], "usage": NaN}'
    with FaultyServer({"q": [body(reply)]}) as server:
        tool = {"type": "function", "function": {"name": "f", "description": "\ud800"}}
        answers = ask(server, "q", "\ud800", RichPrompt(user("q"), tools=[tool]))

    assert "Yes." in answers[0].text
    assert json.loads(answers[0].exchange.encode())["response"]["usage"] is None
    assert [Unanswered("the prompt cannot be written as UTF-8")] * 2 == answers[1:]
    assert 1 == len(server.received)


def test_a_server_of_this_machine_needs_no_key():
    """Locally a word stands for the key; elsewhere a missing key says what to set."""
    with FaultyServer() as server:
        assert [Completed("It is blue today.", "stop")] == ask(server, "q", api_key=None)

    with pytest.raises(LMUnavailable, match="no API key") as caught:
        load("openai:tiny", LoadOptions(base_url="https://example.com/v1"))
    assert "OPENAI_API_KEY" in caught.value.hint


def test_address_and_key_come_from_the_environment(monkeypatch):
    """Where options say nothing, OPENAI_BASE_URL and OPENAI_API_KEY do."""
    with FaultyServer() as server:
        monkeypatch.setenv("OPENAI_BASE_URL", server.url)
        monkeypatch.setenv("OPENAI_API_KEY", " from-environment ")
        list(load("openai:tiny").answer([user("q")], SAMPLING))

    assert "Bearer from-environment" == server.received[0].headers["authorization"]


@pytest.mark.parametrize(
    "wrong",
    [
        {"base_url": "localhost:8000"},
        {"base_url": "http://localhost:port"},
        {"base_url": "http://localhost:1/\udcff"},
        {"api_key": "schlüssel"},
        {"concurrency": 0},
        {"spacing": -1.0},
        {"timeout": 0.0},
    ],
    ids=repr,
)
def test_bad_options_are_bad_arguments(wrong):
    """What cannot be is said at once, with exit code 2."""
    with pytest.raises(UsageError):
        load("openai:tiny", LoadOptions(**{"base_url": "http://localhost:1/v1", **wrong}))


def test_a_name_that_is_no_text_is_a_bad_argument():
    """Bytes of the command line that are not UTF-8."""
    with pytest.raises(UsageError, match="not UTF-8"):
        load("openai:t\udcff", LoadOptions(base_url="http://localhost:1/v1"))


def test_who_takes_no_more_answers_ends_the_requests():
    """Leaving the iterator cancels what is under way and leaves no thread behind."""
    with FaultyServer({"q": [hang()]}) as server:
        found = model(server).answer_unordered([user("a"), user("q")], SAMPLING)
        next(found)
        found.close()

        assert 1 <= len(server.received)
    assert "vtuned-endpoint" not in [thread.name for thread in threading.enumerate()]


def test_ctrl_c_ends_it_promptly():
    """An interrupt while a server hangs ends the process, long before the time limit."""
    # Tests that were started in the background of a shell inherit that interrupts are ignored.
    code = """
import signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)
from vtuned.lm import load, LoadOptions, Sampling
model = load("openai:tiny", LoadOptions(base_url=sys.argv[1], timeout=600))
for i, answer in model.answer_unordered([({"role": "user", "content": t},) for t in "aq"], Sampling()):
    print(i, flush=True)
"""
    with FaultyServer({"q": [hang()]}) as server:
        command = [sys.executable, "-c", code, server.url]
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
            assert "0\n" == process.stdout.readline()
            process.send_signal(signal.SIGINT)
            _, err = process.communicate(timeout=60)

    assert -signal.SIGINT == process.returncode
    assert "KeyboardInterrupt" in err
    assert "Traceback" not in err.partition("KeyboardInterrupt")[2]
