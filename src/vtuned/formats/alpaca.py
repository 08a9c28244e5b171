"""
Alpaca rows: `{"instruction": "…", "input": "…", "output": "…", "system": "…", "history": [["…", "…"], …]}`.

The user turn is the instruction and the input on lines of their own, as LLaMA-Factory joins them. With `chosen` and
`rejected` for `output` they are LLaMA-Factory's preference rows.
"""

from __future__ import annotations

from collections.abc import Mapping

from vtuned.formats.columns import ColumnMapping
from vtuned.formats.spoken import Layout, SpokenCodec

_PLAIN = ColumnMapping(prompt="instruction", query="input", response="output", system="system", history="history")
_RANKED = ColumnMapping(
    prompt="instruction", query="input", chosen="chosen", rejected="rejected", system="system", history="history"
)


class Alpaca(SpokenCodec):
    """See `vtuned.formats.Codec`."""

    name = "alpaca"
    expected = '{"instruction": "…", "input": "…", "output": "…"}'

    def recognises(self, row: Mapping[str, object]) -> bool:
        """See `Codec.recognises`."""
        return _PLAIN.recognises(row) or _RANKED.recognises(row)

    def lay_out(self, row: Mapping[str, object]) -> Layout:
        """See `SpokenCodec.lay_out`."""
        if "output" in row and "chosen" in row and "rejected" in row:
            raise ValueError("an output beside a chosen and a rejected answer")
        return (_PLAIN if "output" in row else _RANKED).lay_out(row)


ALPACA = Alpaca()
