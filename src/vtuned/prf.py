"""
Secret choices under a key: a PRF, so that nobody without the key can redo them.

H0 adds "the PRF is secure" where a choice is made here, and no p-value below 2^-256 means anything (DESIGN 4).
"""

from __future__ import annotations

import hashlib


def prf(key: bytes, domain: bytes, number: int) -> bytes:
    """Return the keyed PRF of *number*: BLAKE2b, 16 bytes. *domain* keeps uses of one key apart."""
    return hashlib.blake2b(number.to_bytes(8, "big"), key=key, person=domain, digest_size=16).digest()


def chosen_wording(key: bytes, number: int, digest: str, n: int) -> int:
    """
    Return which of *n* wordings row *number* publishes: uniform but for less than 2^-240, whatever its *digest* (hex).

    PRF(key, line number, row digest) of DESIGN 8.
    """
    content = number.to_bytes(8, "big") + bytes.fromhex(digest)
    return int.from_bytes(hashlib.blake2b(content, key=key, person=b"wording", digest_size=32).digest()) % n


def tie_order(key: bytes, number: int, digest: str, n: int) -> list[int]:
    """Return the places of the *n* wordings of row *number* where their scores are equal: one permutation at random."""
    content = number.to_bytes(8, "big") + bytes.fromhex(digest)
    lots = [
        hashlib.blake2b(content + i.to_bytes(4, "big"), key=key, person=b"tie", digest_size=32).digest()
        for i in range(n)
    ]
    order = sorted(range(n), key=lots.__getitem__)
    return [order.index(i) for i in range(n)]
