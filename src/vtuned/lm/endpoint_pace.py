"""
How fast an endpoint may be asked, and how long to wait before it is asked again.

Knows nothing of prompts or answers; times are in seconds of the event loop's clock.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from random import SystemRandom

_random = SystemRandom()


@dataclass(frozen=True, slots=True, kw_only=True)
class Retries:
    """
    When to give up on one request.

    At most *tries* requests within *patience_s* seconds, waits included; waits double from *first_s* to *longest_s*. An
    endpoint that nobody has heard of yet gets *tries_to_connect*.
    """

    tries: int = 8
    tries_to_connect: int = 3
    first_s: float = 0.5
    longest_s: float = 60.0
    patience_s: float = 600.0

    def wait_s(self, n_tried: int, asked_to_wait_s: float | None) -> float:
        """Return the seconds to wait after the *n_tried*-th try, with jitter; never less than the server asked for."""
        backoff = min(self.first_s * 2.0 ** (n_tried - 1), self.longest_s) * _random.uniform(0.5, 1)
        return max(backoff, (asked_to_wait_s or 0.0) + _random.uniform(0, self.first_s / 4))


class Pace:
    """
    At most so many requests at a time, at least so far apart.

    The limit halves when the server asks to slow down, once for all requests that were then under way, and grows by
    about one for each round of answers; never above *most*.
    """

    def __init__(self, most: int, spacing_s: float, limit: float | None = None) -> None:
        self._most, self._spacing_s = most, spacing_s
        self.limit = float(most) if limit is None else limit
        self._n_running = 0
        self._earliest = self._halved_at = float("-inf")
        self._turn, self._changed = asyncio.Lock(), asyncio.Event()

    @asynccontextmanager
    async def turn(self) -> AsyncIterator[float]:
        """Wait for a turn, and hold it; the value is when it began."""
        async with self._turn:  # one at a time decides to start, in order
            began = await self._may_start()
            self._n_running += 1
            self._earliest = began + self._spacing_s
        try:
            yield began
        finally:
            self._n_running -= 1
            self._changed.set()

    async def _may_start(self) -> float:
        while True:
            now = _now()
            if self._n_running >= int(self.limit):
                self._changed.clear()
                await self._changed.wait()
            elif now < self._earliest:
                await asyncio.sleep(self._earliest - now)
            else:
                return now

    def answered(self) -> None:
        """Note an answer: the limit grows a little."""
        self.limit = min(self.limit + 1 / self.limit, float(self._most))

    def slow_down(self, began: float, wait_s: float) -> None:
        """Note that the request that *began* then was turned away, and start nothing for *wait_s* seconds."""
        if began > self._halved_at:
            self.limit = max(self.limit / 2, 1.0)
            self._halved_at = _now()
        self._earliest = max(self._earliest, _now() + wait_s)


def asked_to_wait_s(headers: Mapping[str, str]) -> float | None:
    """Return the seconds that a response asks to wait (`retry-after-ms`, `retry-after` in seconds or as a date)."""
    for name, seconds in (("retry-after-ms", 1e-3), ("retry-after", 1.0)):
        value = headers.get(name, "").strip()
        try:
            waits = float(value) * seconds
        except ValueError:
            continue
        if not math.isnan(waits):
            return max(waits, 0.0)
    try:
        until = parsedate_to_datetime(headers.get("retry-after", ""))
        return max(until.timestamp() - time.time(), 0.0)
    except (ValueError, OverflowError, OSError):
        return None


def _now() -> float:
    return asyncio.get_running_loop().time()
