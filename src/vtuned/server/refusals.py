"""What the server says where it does not do what it was asked: OpenAI's error objects."""

from __future__ import annotations

import logging
import os
from typing import Any

from starlette.exceptions import HTTPException

from vtuned.errors import raised

LOG = logging.getLogger("vtuned.server")


class Refusal(HTTPException):
    """A request that is refused: the HTTP status, one sentence for people, a *code* for programs, the *param* at fault."""

    def __init__(self, status: int, message: str, *, code: str | None = None, param: str | None = None) -> None:
        super().__init__(status, message)
        self.code, self.param = code, param

    def body(self) -> dict[str, Any]:
        """Return the refusal as OpenAI's API says it."""
        return error_body(self.status_code, str(self.detail), code=self.code, param=self.param)


def error_body(status: int, message: str, *, code: str | None = None, param: str | None = None) -> dict[str, Any]:
    """Return OpenAI's error object."""
    kind = "server_error" if status >= 500 else "invalid_request_error"
    return {"error": {"message": message, "type": kind, "param": param, "code": code}}


def log_unexpected(what: str, error: Exception) -> None:
    """
    Log that *what* met an *error* that nobody expected, and where it was raised.

    What it says may hold what a tenant sent, so that comes only with VTUNED_DEBUG, by which somebody looks for it.
    """
    is_debugging = bool(os.environ.get("VTUNED_DEBUG"))
    LOG.error("%s: unexpected %s", what, raised(error), exc_info=error if is_debugging else None)


def not_found(what: str, identifier: str) -> Refusal:
    """Return the refusal for a thing that is not there, or is another tenant's: nobody can tell which."""
    shown = identifier[:100].encode("ascii", "backslashreplace").decode()
    return Refusal(404, f"No such {what}: {shown!r}", code=f"{what.replace(' ', '_')}_not_found")


def invalid(message: str, param: str | None = None, *, code: str | None = None) -> Refusal:
    """Return the refusal of a bad argument."""
    return Refusal(400, message, code=code, param=param)
