"""
Log-probabilities of given text, as servers show them.

No server that shows them runs here: `Vendor` answers in the shapes that the documentation of vLLM, Mistral, Together,
Fireworks, SGLang and llama.cpp gives, over a real socket, from a made-up model whose sums are known.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest

from faulty_server import FaultyServer, body, error, response_of, say, wants
from vtuned.errors import LMUnavailable
from vtuned.lm.base import RichPrompt, Scorer
from vtuned.lm.endpoint_pace import Retries
from vtuned.lm.openai import OpenAILM, capabilities
from vtuned.lm.options import LoadOptions

FAST = Retries(tries=2, tries_to_connect=1, first_s=0.01)
QUESTION = ({"role": "user", "content": "What is above us?"},)
PLAIN = RichPrompt(({"role": "user", "content": "Above us"},), is_text=True)
GIVEN = ["The sky.", "Crimson gulls carry folded letters.", "空。"]


def tokens_of(text: str) -> list[str]:
    """Words with the space before them, signs, and tags of the chat template."""
    return re.findall(r"<[^>]*>| ?\w+|\W", text)


def log_prob(token: str) -> float:
    """The made-up model: longer tokens are less likely, whatever came before."""
    return -0.25 * len(token)


def rendered(messages: list[dict[str, Any]], *, closed: bool) -> str:
    text = "".join(f"<{m['role']}>{m['content']}</s>" for m in messages)
    return text + "<assistant>" if closed else text.removesuffix("</s>")


def numbers(tokens: list[str]) -> list[float | None]:
    return [None, *(log_prob(token) for token in tokens[1:])]


def legacy(tokens: list[str]) -> dict[str, Any]:
    return {"tokens": tokens, "token_logprobs": numbers(tokens), "top_logprobs": None, "text_offset": None}


def content(tokens: list[str]) -> dict[str, Any]:
    entries = zip(tokens, numbers(tokens), strict=True)
    return {"content": [{"token": token, "logprob": value, "token_id": hash(token)} for token, value in entries]}


def by_id(tokens: list[str]) -> list[dict[str, Any] | None]:
    """As vLLM: the token itself first, likelier ones after it; an unfinished character is shown as U+FFFD."""
    shown: list[dict[str, Any] | None] = [None]
    for token in tokens[1:]:
        text = token if token.isascii() else "\ufffd"
        own = {str(hash(token)): {"logprob": log_prob(token), "rank": 2, "decoded_token": text}}
        shown.append({**own, "7": {"logprob": -0.01, "rank": 1, "decoded_token": "x"}})
    return shown


def vllm(path: str, sent: dict[str, Any], reply: dict[str, Any]) -> None:
    going_on = sent.get("continue_final_message", False)
    assert not (going_on and sent.get("add_generation_prompt", True)), "vLLM refuses both"
    if "prompt_logprobs" in sent:
        place = reply if path == "chat" else reply["choices"][0]
        place["prompt_logprobs"] = by_id(prompt_tokens(path, sent, closed=not going_on))


def mistral(path: str, sent: dict[str, Any], reply: dict[str, Any]) -> None:
    if sent.get("prompt_logprobs") is True:
        going_on = sent["messages"][-1].get("prefix", False)
        reply["choices"][0]["prompt_logprobs"] = content(prompt_tokens(path, sent, closed=not going_on))


def together(path: str, sent: dict[str, Any], reply: dict[str, Any]) -> None:
    generated = {"tokens": [" Yes"], "token_logprobs": [-0.1], "token_ids": [5]}
    reply["choices"][0]["logprobs"] = generated
    if sent.get("echo"):
        tokens = prompt_tokens(path, sent)
        reply["prompt"] = [{"text": "".join(tokens), "logprobs": legacy(tokens)}]


def fireworks(path: str, sent: dict[str, Any], reply: dict[str, Any]) -> None:
    if "echo_last" in sent:
        tokens = prompt_tokens(path, sent)
        reply["choices"][0]["logprobs"] = content([*tokens[-sent["echo_last"] :], " Yes"])
        reply["usage"] = {"prompt_tokens": len(tokens)}


def sglang(path: str, sent: dict[str, Any], reply: dict[str, Any]) -> None:
    if path == "completions" and sent.get("echo"):
        reply["choices"][0]["logprobs"] = legacy([*prompt_tokens(path, sent), " Yes"])


def llamacpp(path: str, sent: dict[str, Any], reply: dict[str, Any]) -> None:
    """Everything that is not known is passed over; log-probabilities are of the generated text alone."""
    if sent.get("logprobs"):
        reply["choices"][0]["logprobs"] = {"content": [{"id": 1, "token": " Yes", "logprob": -0.1}]}


def prompt_tokens(path: str, sent: dict[str, Any], *, closed: bool = True) -> list[str]:
    text = sent["prompt"] if path == "completions" else rendered(sent["messages"], closed=closed)
    return tokens_of(f"<s>{text}")


@dataclass
class Vendor:
    """A step of `FaultyServer`: what *shows* adds to a response, and parameters that are *refused*."""

    shows: Callable[[str, dict[str, Any], dict[str, Any]], None]
    refused: tuple[str, ...] = ()
    paths: tuple[str, ...] = ("chat", "completions")

    def __call__(self, handler: Any) -> bool:
        sent, path = handler.received.body, "chat" if "messages" in handler.received.body else "completions"
        if path not in self.paths:
            return body({"detail": "Not Found"}, 404)(handler)
        if set(self.refused) & set(sent):
            return error(422, "extra_forbidden")(handler)
        reply = response_of(handler.path, " Yes", "length")
        self.shows(path, sent, reply)
        handler.respond(200, reply)
        return True


VENDORS = {
    "vLLM": (Vendor(vllm), "prompt_logprobs", ("chat", "completions")),
    "Mistral": (Vendor(mistral, ("continue_final_message", "echo"), ("chat",)), "prompt_logprobs", ("chat",)),
    "Together": (Vendor(together, ("prompt_logprobs",)), "echo", ("chat", "completions")),
    "Fireworks": (Vendor(fireworks, ("prompt_logprobs", "echo")), "echo_last", ("chat", "completions")),
    "SGLang": (Vendor(sglang), "echo", ("completions",)),
    "llama.cpp": (Vendor(llamacpp), "none", ()),
    "OpenAI": (Vendor(llamacpp, ("prompt_logprobs", "echo", "echo_last"), ("chat",)), "none", ()),
}


def model(server: FaultyServer) -> OpenAILM:
    return OpenAILM("tiny", LoadOptions(base_url=server.url, timeout=60.0), retries=FAST)


def log10_prob(text: str) -> float:
    return sum(map(log_prob, tokens_of(text))) / math.log(10)


@pytest.mark.parametrize(("vendor", "way", "paths"), VENDORS.values(), ids=VENDORS.keys())
def test_the_way_to_given_text_is_found(vendor, way, paths):
    """What the response holds counts, not that the server took the parameters."""
    with FaultyServer(otherwise=[vendor]) as server:
        lm = model(server)
        found = capabilities(lm)

        assert (way, paths) == (found.given_text, found.given_text_paths)
        assert (True, True) == (found.reachable, found.model_listed)
        assert vendor.paths == tuple(p for p in ("chat", "completions") if getattr(found, p))
        assert (lm.scorer() is None) == (way == "none")
        assert all("colour of the sky" in received.text for received in server.received)


@pytest.mark.parametrize("name", [name for name, (_, way, _) in VENDORS.items() if way != "none"])
@pytest.mark.parametrize("path", ["chat", "completions"])
def test_scores_are_the_sums_over_the_given_text(name, path):
    """Neither the prompt, nor what closes the chat, nor what was generated is counted; U+FFFD does not matter."""
    vendor, _, paths = VENDORS[name]
    prompt = PLAIN if path == "completions" else QUESTION
    given = [f" {text}" for text in GIVEN] if path == "completions" else GIVEN
    with FaultyServer(otherwise=[vendor]) as server:
        scorer = model(server).scorer()

        assert isinstance(scorer, Scorer)
        if path in paths:
            assert pytest.approx([log10_prob(text) for text in given]) == scorer.log10_probs(prompt, given)
        else:
            with pytest.raises(LMUnavailable, match="no log-probabilities of given text"):
                scorer.log10_probs(prompt, given)


def test_text_that_grows_together_with_the_prompt():
    """Where the last token of the prompt becomes another one, P(prompt and text) / P(prompt) counts."""
    with FaultyServer(otherwise=[Vendor(vllm)]) as server:
        scorer = model(server).scorer()
        [found] = scorer.log10_probs(PLAIN, ["e all."])  # "us" becomes "use"

    expected = log_prob(" use") + log_prob(" all") + log_prob(".") - log_prob(" us")
    assert pytest.approx(expected / math.log(10)) == found


def test_scores_that_stop_coming_are_an_error():
    """A server that showed log-probabilities once and then no more: no number is made up."""
    with FaultyServer({"What is above us?": [error(400)]}, otherwise=[Vendor(vllm)]) as server:
        scorer = model(server).scorer()

        with pytest.raises(LMUnavailable, match="did not come"):
            scorer.log10_probs(QUESTION, GIVEN)


def test_a_server_that_is_not_there_can_do_nothing():
    """Discovery says so and does not raise; a scorer is not had."""
    with FaultyServer() as server:
        lm = model(server)

    found = capabilities(lm)
    assert not found.reachable
    assert any("cannot connect" in note for note in found.notes)
    with pytest.raises(LMUnavailable, match="cannot connect"):
        lm.scorer()


def test_a_model_that_is_not_listed():
    """The list of models is compared with the name that was given."""
    with FaultyServer() as server:
        server.models = ["large"]

        assert capabilities(model(server)).model_listed is False


def test_a_temperature_that_is_not_taken_is_a_note():
    """Discovery asks at 0 and learns it."""
    with FaultyServer(otherwise=[wants("", "temperature", say("Blue."))]) as server:
        assert any("no temperature is taken" in note for note in capabilities(model(server)).notes)


def test_discovery_is_made_once():
    """What was found is kept."""
    with FaultyServer() as server:
        lm = model(server)
        first, n = capabilities(lm), len(server.received)

        assert first is capabilities(lm)
        assert n == len(server.received)


def test_a_refused_key_is_a_note():
    """Discovery goes on and says what was refused; nothing is taken to work."""
    with FaultyServer(otherwise=[error(401, "invalid_api_key")]) as server:
        found = capabilities(model(server))

    assert (True, False, False, "none") == (found.reachable, found.chat, found.completions, found.given_text)
    assert any("refused the key" in note for note in found.notes)
