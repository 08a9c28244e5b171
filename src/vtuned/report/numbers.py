"""How numbers are written, in one place."""

from __future__ import annotations


def power_of_ten(log10_p: float) -> str:
    """Return a probability given as log10: `10^-19.3`, never 0.0; plain where it is above 1 %."""
    if log10_p > -2:
        return f"{10**log10_p:.3g}"
    return f"10^{log10_p:.1f}"


def share(n: int, of: int) -> str:
    """Return a count with what it is of, such as `8/10`."""
    return f"{n}/{of}"


def percent(value: float) -> str:
    """Return a share as a percentage with one decimal, two where it is below one per cent."""
    return f"{100 * value:.2f} %" if value < 0.01 else f"{100 * value:.1f} %"


def money(value: float) -> str:
    """Return a cost in the user's currency, with two digits where it is small."""
    return f"{value:,.2f}" if value >= 0.1 else f"{value:.2g}"
