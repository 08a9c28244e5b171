"""
What counts and probabilities may be.

Raises ValueError for illegal ones; computes nothing.
"""

from __future__ import annotations


def check_count(name: str, count: int, *, at_most: int | None = None) -> None:
    """Raise ValueError if *count* is negative or exceeds *at_most*."""
    if count < 0:
        raise ValueError(f"{name} must not be negative, got {count}")
    if at_most is not None and count > at_most:
        raise ValueError(f"{name} must not exceed {at_most}, got {count}")


def check_log10(name: str, log10_p: float) -> None:
    """Raise ValueError if *log10_p* is positive or not a number."""
    if not log10_p <= 0.0:
        raise ValueError(f"{name} must be the log10 of a probability, at most 0, got {log10_p}")
