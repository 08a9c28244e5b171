"""
What an OpenAI-compatible endpoint sent back, read as an answer or as a failure.

Pure: knows nothing of sockets, keys or retries. No reason that is made here repeats a text of the server: it may
repeat the prompt or the key.
"""

from __future__ import annotations

import json
import math
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
_MODEL = re.compile(r"\bmodel\b", re.IGNORECASE)
_NO_SUCH = re.compile(r"\b(?:not found|not exist|unknown|invalid|unavailable)", re.IGNORECASE)
_LONGEST_MESSAGE = 2_000
_FLAGGED = re.compile(r"\b(?:flagged|moderation)\b", re.IGNORECASE)
_NOT_TAKEN = re.compile(r"unsupported|not support|unexpected|unknown|unrecognized|not permitted|extra", re.IGNORECASE)
_PLAIN_CODE = re.compile(r"[A-Za-z0-9_.\-]{1,40}")
_MARKS = re.compile(r'"(?:[^"\\]|\\.)*+"|[\[\]{}]', re.DOTALL)
_DEEPEST = 64
_LONGEST_INTEGER = 300
_RETRIED = (408, 409, 429)
_REFUSED_KEY = (401, 403)
_FORBIDDEN, _NOT_FOUND = 403, 404


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
        return bool(_FILTER_CODES & self._codes()) or (self.status == _FORBIDDEN and self._is_flagged())

    @property
    def is_unknown_model(self) -> bool:
        """Whether the server does not know the model."""
        if self.status not in (400, 404):
            return False
        named = _MODEL.search(self._message()) if self.status == _NOT_FOUND else None
        is_unknown = named is not None and _NO_SUCH.search(self._message(), named.end()) is not None
        return is_unknown or bool(_UNKNOWN_MODEL_CODES & self._codes()) or self._error().get("param") == "model"

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
        said = (error.get("message"), error.get("detail"), body.get("error"))
        return " ".join(str(part)[:_LONGEST_MESSAGE] for part in said if part)[:_LONGEST_MESSAGE]

    def _is_flagged(self) -> bool:
        metadata = self._error().get("metadata")
        shown = isinstance(metadata, dict) and any(metadata.get(key) for key in ("reasons", "flagged_input"))
        return shown or bool(_FLAGGED.search(self._message()))


def reply_of(status: int, headers: Mapping[str, str], content: bytes) -> Reply:
    """Return the reply in an HTTP response."""
    text = content.decode(json.detect_encoding(content), "replace")
    try:
        body = json.loads(_shallow(text), parse_constant=lambda name: None, parse_int=_integer, parse_float=_finite)
    except (ValueError, RecursionError):
        kind = headers.get("content-type", "").partition(";")[0].strip()
        shown = f" ({kind})" if kind != "application/json" and re.fullmatch(r"[\w.+-]+/[\w.+-]+", kind) else ""
        trouble = f"a body that is not JSON{shown}" if 200 <= status < 300 else ""
        return Reply(status, headers, text[:2000], trouble)
    return Reply(status, headers, body)


def _shallow(text: str) -> str:
    """Return JSON *text* with what lies deeper than any answer as one string: nothing that reads it may recurse."""
    kept, depth, start, opened = [], 0, 0, 0
    for mark in _MARKS.finditer(text):
        if mark[0] in ("[", "{"):
            depth += 1
            opened = mark.start() if depth == _DEEPEST else opened
        elif mark[0] in ("]", "}"):
            if depth == _DEEPEST:
                kept += [text[start:opened], json.dumps(text[opened : mark.end()])]
                start = mark.end()
            depth -= 1
    return "".join([*kept, text[start:]]) if kept else text


def _integer(digits: str) -> int | None:
    return int(digits) if len(digits) <= _LONGEST_INTEGER else None


def _finite(digits: str) -> float | None:
    value = float(digits)
    return value if math.isfinite(value) else None


def answer_of(reply: Reply, exchange: str) -> Answer:
    """
    Return the answer in the first choice of *reply*, or why there is none; *exchange* goes with it.

    Text that came is the answer, even where a filter or an error ended it.
    """
    choice = reply.choice
    text = text_of(choice) if choice else ""
    if reply.is_filtered and not text.strip():
        return Unanswered(FILTERED, exchange)
    if choice is None:
        return Unanswered(reply.reason, exchange)
    finish = choice.get("finish_reason")
    unanswered = _why_not(choice, finish, text)
    if unanswered:
        return Unanswered(unanswered, exchange)
    return Completed(text, _FINISHES.get(finish) if isinstance(finish, str) else None, exchange)


def _why_not(choice: dict[str, Any], finish: object, text: str) -> str:
    found = choice.get("message")
    message = found if isinstance(found, dict) else {}
    if message.get("refusal"):
        return REFUSED
    if text.strip():
        return ""
    if finish == _FILTER:
        return FILTERED
    if finish in _BROKEN_OFF:
        return "broken off by the server"
    return CALLED_A_TOOL if message.get("tool_calls") or message.get("function_call") else ""


def text_of(choice: dict[str, Any]) -> str:
    """Return the text of *choice* as it came, thoughts and all: see `vtuned.matching.said`."""
    message = choice.get("message")
    return _plain(message.get("content") if isinstance(message, dict) else choice.get("text"))


def thought_apart(choice: dict[str, Any]) -> bool:
    """Tell whether the server shows what the model thought beside its answer."""
    message = choice.get("message")
    return isinstance(message, dict) and any(message.get(key) for key in ("reasoning_content", "reasoning"))


def _plain(content: object) -> str:
    """Return *content* as text; of a list of parts, the texts in it."""
    if isinstance(content, list):
        parts = [part.get("text") for part in content if isinstance(part, dict) and part.get("type") == "text"]
        return "".join(part for part in parts if isinstance(part, str))
    return content if isinstance(content, str) else ""
