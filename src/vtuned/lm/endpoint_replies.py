"""
What an OpenAI-compatible endpoint sent back, read as an answer or as a failure.

Pure: knows nothing of sockets, keys or retries. No reason that is made here repeats a text of the server: it may
repeat the prompt or the key.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from vtuned.lm.base import CALLED_A_TOOL, FILTERED, REFUSED, Answer, Completed, Finish, Unanswered

_FINISHES: dict[str, Finish] = {
    "stop": "stop",
    "eos": "stop",
    "end_turn": "stop",
    "length": "length",
    "max_tokens": "length",
    "model_length": "length",
}
_FILTER = "content_filter"
_BROKEN_OFF = ("error", "abort")
_FILTER_CODES = {_FILTER, "ResponsibleAIPolicyViolation", "content_policy_violation", "moderation_blocked"}
_UNKNOWN_MODEL_CODES = {"model_not_found", "DeploymentNotFound", "invalid_model", "model_not_available"}
_OUT_OF_CREDIT_CODES = {"insufficient_quota", "billing_hard_limit_reached"}
_NO_SUCH_MODEL = re.compile(
    r"\bmodel\b.*\b(?:not found|not exist|unknown|invalid|unavailable)", re.IGNORECASE | re.DOTALL
)
_NOT_TAKEN = re.compile(r"unsupported|not support|unexpected|unknown|unrecognized|not permitted|extra", re.IGNORECASE)
_PLAIN_CODE = re.compile(r"[A-Za-z0-9_.\-]{1,40}")
_THOUGHT = re.compile(r"\s*<think>.*?(?:</think>\s*|\Z)", re.DOTALL)
_THOUGHT_END = re.compile(r"\A(?:(?!<think>).)*?</think>\s*", re.DOTALL)
_RETRIED = (408, 409, 429)
_REFUSED_KEY = (401, 403)


@dataclass(frozen=True, slots=True)
class Reply:
    """
    What came back for one request: *status* and *headers* of the response, *body* as JSON where it is JSON.

    *trouble* says in a few words why there is nothing to read (a lost connection, a body that is not JSON).
    *connected* is False where no connection was made at all.
    """

    status: int | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    body: Any = None
    trouble: str = ""
    connected: bool = True

    @property
    def choice(self) -> dict[str, Any] | None:
        """The first choice that says anything, or None."""
        choices = self.body.get("choices") if isinstance(self.body, dict) else None
        first = choices[0] if isinstance(choices, list) and choices else None
        if not isinstance(first, dict) or self.status is None or not 200 <= self.status < 300:
            return None
        says = isinstance(first.get("message"), dict) or "text" in first or first.get("finish_reason") == _FILTER
        return first if says else None

    @property
    def ok(self) -> bool:
        """Whether the server did what it was asked for, and JSON came of it."""
        return self.status is not None and 200 <= self.status < 300 and not self.trouble

    @property
    def may_be_asked_again(self) -> bool:
        """Whether this is trouble on the way, which may pass; never so once a choice came."""
        if self.choice is not None or self.is_filtered or self.is_out_of_credit:
            return False
        return bool(self.trouble) or self.status in _RETRIED or (self.status or 0) >= 500 or self.ok

    @property
    def asks_to_slow_down(self) -> bool:
        """Whether there were too many requests for the server."""
        return self.status in (429, 503)

    @property
    def refuses_the_key(self) -> bool:
        """Whether the key is wrong or may not do this."""
        return self.status in _REFUSED_KEY and not self.is_filtered

    @property
    def is_out_of_credit(self) -> bool:
        """Whether the account is spent: too many requests that no waiting mends."""
        return bool(_OUT_OF_CREDIT_CODES & self._codes())

    @property
    def is_filtered(self) -> bool:
        """Whether a content filter took the prompt or the answer."""
        return bool(_FILTER_CODES & self._codes())

    @property
    def is_unknown_model(self) -> bool:
        """Whether the server does not know the model."""
        if self.status not in (400, 404):
            return False
        about_models = self.status == 404 and bool(_NO_SUCH_MODEL.search(self._message()))
        return about_models or bool(_UNKNOWN_MODEL_CODES & self._codes()) or self._error().get("param") == "model"

    @property
    def is_unknown_path(self) -> bool:
        """Whether nothing is served at this address: a 404 that no API wrote."""
        return self.status in (404, 405) and not self._codes()

    def does_not_take(self, parameter: str) -> bool:
        """Tell whether the server rejected the request because it does not take *parameter* (as it was)."""
        if self.status not in (400, 422):
            return False
        named = self._error().get("param") == parameter or bool(re.search(rf"\b{parameter}\b", self._message()))
        unsupported = any(code.startswith("unsupported_") for code in self._codes())
        return named and (unsupported or bool(_NOT_TAKEN.search(self._message())))

    @property
    def reason(self) -> str:
        """What went wrong, in a few words of our own."""
        if self.trouble or self.status is None:
            return self.trouble or "no response"
        if self.ok:
            return "no choices"
        shown = sorted(code for code in self._codes() if _PLAIN_CODE.fullmatch(code) and code != str(self.status))
        return " ".join([f"HTTP {self.status}", *shown[:1]])

    def _error(self) -> dict[str, Any]:
        body = self.body if isinstance(self.body, dict) else {}
        error = body.get("error")
        return error if isinstance(error, dict) else body

    def _codes(self) -> set[str]:
        """Return the error's code, or else its type, and the codes inside it."""
        error = self._error()
        inner = error.get("innererror") or error.get("inner_error")
        found = [error.get("code") or error.get("type"), inner.get("code") if isinstance(inner, dict) else None]
        return {str(code) for code in found if code}

    def _message(self) -> str:
        error = self._error()
        body = self.body if isinstance(self.body, dict) else {}
        return " ".join(str(said) for said in (error.get("message"), error.get("detail"), body.get("error")) if said)


def reply_of(status: int, headers: Mapping[str, str], content: bytes) -> Reply:
    """Return the reply in an HTTP response."""
    try:
        body = json.loads(content, parse_constant=lambda name: None)
    except (ValueError, RecursionError):
        kind = headers.get("content-type", "").partition(";")[0].strip()
        shown = f" ({kind})" if kind != "application/json" and re.fullmatch(r"[\w.+-]+/[\w.+-]+", kind) else ""
        trouble = f"a body that is not JSON{shown}" if 200 <= status < 300 else ""
        return Reply(status, headers, content.decode("utf-8", "replace")[:2000], trouble)
    return Reply(status, headers, body)


def answer_of(reply: Reply, exchange: str) -> Answer:
    """Return the answer in the first choice of *reply*, or why there is none; *exchange* goes with it."""
    choice = reply.choice
    if reply.is_filtered or (choice and choice.get("finish_reason") == _FILTER):
        return Unanswered(FILTERED, exchange)
    if choice is None:
        return Unanswered(reply.reason, exchange)
    finish = choice.get("finish_reason")
    text, _ = text_of(choice)
    unanswered = _why_not(choice, finish, text)
    if unanswered:
        return Unanswered(unanswered, exchange)
    return Completed(text, _FINISHES.get(finish) if isinstance(finish, str) else None, exchange)


def _why_not(choice: dict[str, Any], finish: object, text: str) -> str:
    message = choice.get("message") or {}
    if finish in _BROKEN_OFF:
        return "broken off by the server"
    if message.get("refusal"):
        return REFUSED
    if not text.strip() and (message.get("tool_calls") or message.get("function_call")):
        return CALLED_A_TOOL
    return ""


def text_of(choice: dict[str, Any]) -> tuple[str, bool]:
    """Return the text of *choice* without what the model only thought, and whether it thought aloud."""
    message = choice.get("message")
    if not isinstance(message, dict):
        return _plain(choice.get("text")), False
    text = _plain(message.get("content"))
    said = (_THOUGHT if text.lstrip().startswith("<think>") else _THOUGHT_END).sub("", text, count=1)
    apart = any(message.get(key) for key in ("reasoning_content", "reasoning"))
    return said, apart or said != text


def _plain(content: object) -> str:
    """Return *content* as text; of a list of parts, the texts in it."""
    if isinstance(content, list):
        parts = [part.get("text") for part in content if isinstance(part, dict) and part.get("type") == "text"]
        return "".join(part for part in parts if isinstance(part, str))
    return content if isinstance(content, str) else ""
