"""Addresses of endpoints: what they must look like, and what of them may be shown."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from ipaddress import ip_address
from urllib.parse import SplitResult, parse_qsl, urlsplit, urlunsplit

from vtuned.errors import UsageError

# Parts of a path that say nothing of who asks; any other may be a key.
_WELL_KNOWN = re.compile(r"v\d{1,2}(?:(?:alpha|beta)\d{0,2})?|openai|api|inference|deployments|compatible-mode")
# Shorter values are no secrets, but words that a message may hold by chance.
SHORTEST_SECRET = 8


def checked(url: str) -> str:
    """Return *url*. Raises UsageError where it is no http(s) address; the message does not repeat it."""
    if not _is_readable(url):
        raise UsageError("the base URL is not an http(s) address", hint="such as http://localhost:8000/v1")
    return url


def _is_readable(url: str) -> bool:
    try:
        url.encode()
        parts = urlsplit(url)
        return parts.scheme in ("http", "https") and bool(parts.hostname) and (parts.port or 1) > 0
    except ValueError:
        return False


def place_of(url: str) -> str:
    """Return scheme, host and port of *url*, which must be an address."""
    parts = urlsplit(url)
    host = parts.hostname or ""
    port = f":{parts.port}" if parts.port else ""
    return f"{parts.scheme}://{f'[{host}]' if ':' in host else host}{port}"


def shown(url: str) -> str:
    """
    Return of *url* what may be shown, "" where it is no address.

    Scheme, host, port and the well-known parts of its path. Of any other part, and of a query, only a short digest is
    shown, by which two addresses are told apart. User and password are left out.
    """
    parts = urlsplit(url) if _is_readable(url) else None
    if parts is None or "@" in parts.path + parts.query + parts.fragment:
        return ""
    pieces = [piece for piece in parts.path.split("/") if piece]
    kept = [piece if _WELL_KNOWN.fullmatch(piece) else "…" for piece in pieces]
    is_whole = kept == pieces and not parts.query and not parts.fragment
    return "/".join([place_of(url), *kept]) + ("" if is_whole else f" ({_digest(parts)})")


def _digest(parts: SplitResult) -> str:
    without_user = parts._replace(netloc=parts.netloc.rpartition("@")[2])
    return hashlib.sha256(urlunsplit(without_user).encode("utf-8", "surrogatepass")).hexdigest()[:8]


def secrets_in(url: str) -> list[str]:
    """Return what *url* carries that must not be shown: user, password, query, and unknown parts of its path."""
    try:
        parts = urlsplit(url)
    except ValueError:
        return [url]
    pieces = [piece for piece in parts.path.split("/") if not _WELL_KNOWN.fullmatch(piece)]
    values = [value for _, value in parse_qsl(parts.query)]
    user = parts.netloc.rpartition("@")[0]
    found = [user, parts.username or "", parts.password or "", parts.query, *values, *pieces]
    return [secret for secret in found if len(secret) >= SHORTEST_SECRET]


def split_query(url: str) -> tuple[str, Mapping[str, str]]:
    """Return *url* without its query, and the query. Raises UsageError for a key that comes twice."""
    parts = urlsplit(url)
    pairs = parse_qsl(parts.query, keep_blank_values=True)
    query = dict(pairs)
    if len(query) < len(pairs):
        raise UsageError("the base URL's query holds a key twice", hint="give each key once")
    return urlunsplit(parts._replace(query="", fragment="")), query


def is_loopback(url: str) -> bool:
    """Tell whether *url* is on this machine."""
    host = urlsplit(url).hostname or ""
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")
