"""What users may import is written down, sorted, and documented."""

from __future__ import annotations

import inspect

import pytest

import vtuned
from vtuned import lm, stats


@pytest.mark.parametrize("module", [vtuned, lm, stats], ids=lambda m: m.__name__)
def test_all_is_sorted_and_complete(module):
    """`__all__` names what the module offers, in order, and nothing that is not there."""
    assert sorted(module.__all__) == list(module.__all__)
    assert [] == [name for name in module.__all__ if not hasattr(module, name)]


@pytest.mark.parametrize(
    "thing",
    [getattr(m, n) for m in (vtuned, lm, stats) for n in m.__all__ if callable(getattr(m, n))],
    ids=lambda thing: thing.__name__,
)
def test_everything_public_is_documented(thing):
    """Every public function and class says what it is for."""
    assert (inspect.getdoc(thing) or "").strip()
