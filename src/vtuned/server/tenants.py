"""Who asks: a bearer token belongs to one tenant. Tokens are held as digests only."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from pathlib import Path

from vtuned.errors import UsageError

_SHORTEST = 8


class Tenants:
    """
    The tenants by their tokens; with *known* None every token is a tenant of its own.

    A tenant is a digest, so that nothing on disk or in a log says a token.
    """

    def __init__(self, known: Mapping[str, str] | None) -> None:
        self._known = known

    def of(self, authorization: str) -> str | None:
        """Return the tenant of an `Authorization` header, None where it holds no token that may come in."""
        scheme, _, token = authorization.partition(" ")
        token = token.strip()
        if scheme.lower() != "bearer" or not token:
            return None
        digest = _digest(f"token {token}")
        return digest if self._known is None else self._known.get(digest)


def read_tokens(path: Path) -> Tenants:
    """
    Return the tenants in a file with one `NAME:TOKEN` or `TOKEN` a line; blank lines and lines with # are passed over.

    Several tokens may have one name: they are one tenant, also after a token was replaced. Raises UsageError, which
    never repeats a line of the file.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(
            f"{path}: the tokens cannot be read", hint="give a text file with one NAME:TOKEN a line"
        ) from error
    known: dict[str, str] = {}
    for number, digest, tenant in _tenants(path, lines):
        if known.setdefault(digest, tenant) != tenant:
            raise UsageError(
                f"{path}, line {number}: this token has another name above", hint="give each name tokens of its own"
            )
    if not known:
        raise UsageError(f"{path}: no token in this file", hint="write one NAME:TOKEN a line")
    return Tenants(known)


def _tenants(path: Path, lines: Iterable[str]) -> Iterable[tuple[int, str, str]]:
    for number, line in enumerate(lines, start=1):
        text = line.strip()
        if not text or text.startswith("#"):
            continue
        name, _, token = text.rpartition(":")
        if ":" in name:
            raise UsageError(
                f"{path}, line {number}: there is more than one colon", hint="write NAME:TOKEN, with none in either"
            )
        if len(token) < _SHORTEST or not (token.isascii() and token.isprintable()) or " " in token:
            raise UsageError(
                f"{path}, line {number}: a token has at least {_SHORTEST} ASCII characters and no spaces",
                hint="write NAME:TOKEN",
            )
        digest = _digest(f"token {token}")
        yield number, digest, _digest(f"name {name}") if name else digest


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()[:32]
