"""
One request to a service: sent, written down, and read as done, refused or not known.

Knows nothing of what is asked. What a server says goes to the journal; no error repeats it.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from typing import Any

from vtuned.errors import ServiceError, ServiceRefused
from vtuned.jobs.base import Exchange, OnExchange
from vtuned.jobs.waiting import outcome_of
from vtuned.lm.endpoint import duration
from vtuned.lm.endpoint_pace import Retries, asked_to_wait_s
from vtuned.lm.endpoint_replies import Reply

AGAIN = "run the same command again: it first looks for what may have arrived"
# Requests are few and far between: each has a connection of its own, and none is left open.
ONE_EACH = {"Connection": "close"}
# A file at least so fast, or the connection is as good as gone.
_SLOWEST_BYTES_A_S = 50_000
_TOO_LARGE, _NOT_FOUND, _TOO_MANY = 413, 404, 429
_PLAIN = re.compile(r"[A-Za-z0-9_.\-\[\]]{1,60}")
_LONGEST_RESPONSE = 20_000


class Wire:
    """
    The way to one service, called *name* and shown as *host*; *hidden* takes out of a text what must not be kept.

    *on_exchange* gets every exchange.
    """

    def __init__(
        self,
        name: str,
        host: str,
        hidden: Callable[[str], str],
        *,
        retries: Retries,
        timeout_s: float,
        on_exchange: OnExchange,
    ) -> None:
        self.name, self.host, self.hidden = name, host, hidden
        self._retries, self._timeout_s, self.on_exchange = retries, timeout_s, on_exchange

    def read(
        self, did: str, send: Callable[[], Reply], *, unless: Callable[[Reply], bool] = lambda reply: False
    ) -> Any:
        """
        Return the JSON of the reply to a request that changes nothing, sent again while trouble may pass.

        None for a reply of which *unless* is true. Raises ServiceError, ServiceRefused.
        """
        started, n_tried = time.monotonic(), 0
        while True:
            reply = self._sent(did, send, self._timeout_s)
            n_tried += 1
            if reply.ok and reply.body is not None:
                return reply.body
            if unless(reply):
                return None
            if not _may_pass(reply) or not self._waits(reply, n_tried, started):
                raise self.error(did, reply)

    def write(
        self,
        did: str,
        send: Callable[[], Reply],
        *,
        n_bytes: int = 0,
        unless: Callable[[Reply], bool] = lambda reply: False,
    ) -> Any:
        """
        Return the JSON of the reply to a request that changes something; *n_bytes* are sent with it.

        It is sent again only where it was surely not taken up: no connection, or too many requests. None for a reply of
        which *unless* is true. Raises ServiceError, whose hint says to look first where its fate is not known;
        ServiceRefused.
        """
        started, n_tried = time.monotonic(), 0
        while True:
            reply = self._sent(did, send, self._timeout_s + n_bytes / _SLOWEST_BYTES_A_S)
            n_tried += 1
            if reply.ok and reply.body is not None:
                return reply.body
            if unless(reply):
                return None
            was_not_taken_up = not reply.connected or (reply.status == _TOO_MANY and not reply.is_out_of_credit)
            if not was_not_taken_up or not self._waits(reply, n_tried, started):
                raise self.error(did, reply)

    def _sent(self, did: str, send: Callable[[], Reply], within_s: float) -> Reply:
        try:
            reply = outcome_of(send, within_s=within_s)
        except TimeoutError:
            reply = Reply(trouble="timed out")
        self.on_exchange(self._exchange(did, reply))
        return reply

    def _waits(self, reply: Reply, n_tried: int, started: float) -> bool:
        """Wait before the next try; False where there is none to be made."""
        most = self._retries.tries if reply.connected else self._retries.tries_to_connect
        if n_tried >= most:
            return False
        wait_s = self._retries.wait_s(n_tried, asked_to_wait_s(reply.headers))
        if time.monotonic() - started + wait_s > self._retries.patience_s:
            return False
        time.sleep(wait_s)
        return True

    def _exchange(self, did: str, reply: Reply) -> Exchange:
        body = reply.body if isinstance(reply.body, dict) else {}
        found = reply.headers.get("x-request-id") or reply.headers.get("apim-request-id")
        return Exchange(
            did=self.hidden(did),
            status=reply.status,
            request_id=self.hidden(str(found or body.get("request_id") or ""))[:200] or None,
            trouble=reply.trouble or None,
            response=cleaned(reply.body, self.hidden),
        )

    def error(self, did: str, reply: Reply) -> ServiceError:
        """Return what *reply* means to whoever asked."""
        said, known = self.hidden(reply.reason), self._known(reply)
        if known:
            return known
        wait_s = asked_to_wait_s(reply.headers) or 0.0
        if reply.status == _TOO_MANY and wait_s:
            return ServiceError(
                self.name,
                f"{self.host} asks to wait {duration(wait_s)} ({said})",
                hint="run the same command again then",
            )
        if reply.status is not None and 400 <= reply.status < 500 and reply.status not in (408, 409, _TOO_MANY):
            return ServiceRefused(self.name, f"{did} was refused ({_named(reply, said)})", hint=_advice(reply))
        return ServiceError(self.name, f"{did}: {said}; it is not known whether it was done", hint=AGAIN)

    def _known(self, reply: Reply) -> ServiceError | None:
        said = self.hidden(reply.reason)
        if not reply.connected:
            hint = "check the address (--base-url, OPENAI_BASE_URL) and that the service runs"
            return ServiceError(self.name, f"cannot connect to {self.host}", hint=hint)
        if reply.refuses_the_key:
            hint = "check the key, and whether it may fine-tune"
            return ServiceError(self.name, f"{self.host} refused the key ({said})", hint=hint)
        if reply.is_out_of_credit:
            return ServiceError(self.name, f"{self.host} says the account has no credit left", hint="top it up")
        if reply.is_unknown_path:
            hint = "the base URL usually ends in /v1, and not every endpoint fine-tunes"
            return ServiceError(self.name, f"no such API at {self.host} ({said})", hint=hint)
        return None


def cleaned(value: Any, hidden: Callable[[str], str]) -> Any:
    """Return JSON *value* with each text in it passed through *hidden*, and long texts cut."""
    if isinstance(value, str):
        return hidden(value)[:_LONGEST_RESPONSE].encode("utf-8", "replace").decode()
    if isinstance(value, dict):
        return {cleaned(key, hidden): cleaned(inner, hidden) for key, inner in value.items()}
    return [cleaned(inner, hidden) for inner in value] if isinstance(value, list) else value


def _may_pass(reply: Reply) -> bool:
    return reply.may_be_asked_again and not reply.is_unknown_path


def _named(reply: Reply, said: str) -> str:
    """Return *said* with the parameter that the server names, where that is a plain word."""
    error = reply.body.get("error") if isinstance(reply.body, dict) else None
    param = error.get("param") if isinstance(error, dict) else None
    return f"{said}, about {param}" if isinstance(param, str) and _PLAIN.fullmatch(param) else said


def _advice(reply: Reply) -> str:
    if reply.is_unknown_model:
        return "give the name of a model that this service fine-tunes"
    if reply.status == _TOO_LARGE:
        return "the service takes smaller requests: send the file in parts with --parts-above"
    if reply.status == _NOT_FOUND:
        return "check the id, and that the key belongs to the account that made it"
    return "what the service said is the last line of the run's journal; mend that and run the same command again"
