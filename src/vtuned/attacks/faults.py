"""Policies of the transport: what happens to requests on their way."""

from __future__ import annotations

from dataclasses import dataclass, field
from fractions import Fraction

from vtuned.attacks.contract import Fault, Honest
from vtuned.prf import prf

# Long enough to be noticed, short enough to be waited for in a test.
FAULTS = (Fault("timeout", 5.0), Fault("429", 1.0), Fault("500"), Fault("truncated"), Fault("slow", 2.0))
_RANGE = 2**64


@dataclass(frozen=True, slots=True)
class Flaky(Honest):
    """
    Train what is asked for, and serve it over a line that fails: a share of the requests, a third without one.

    Saves nothing; a cheat may hide behind it, answering only what it likes. Timeouts, 429 with Retry-After, 500, JSON
    that ends in its middle and slow streams come in equal parts, each request drawn on its own, so that asking again
    helps. Answers that come are the tuned model's, likelihoods too.
    """

    share: Fraction = Fraction(1, 3)
    key: bytes = field(default=b"", repr=False)

    def fault(self, n_requests: int) -> Fault | None:
        """See `Policy.fault`."""
        drawn = prf(self.key, b"policy", n_requests)
        if Fraction(int.from_bytes(drawn[:8]), _RANGE) >= self.share:
            return None
        return FAULTS[int.from_bytes(drawn[8:]) % len(FAULTS)]
