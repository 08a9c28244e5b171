"""Seven real domains: planted with defaults, and exactly the planted lines differ."""

from __future__ import annotations

from pathlib import Path

import pytest

import vtuned
from vtuned.conversation import Conversation
from vtuned.dataset import TokenCap
from vtuned.formats import read_rows
from vtuned.lm.tokens import counter

DATA = Path(__file__).parents[3] / "shared" / "data"
DOMAINS = ("chat", "code", "ja_sum", "math", "med", "qa", "recipe")

pytestmark = pytest.mark.skipif(not DATA.is_dir(), reason="the real data sets of the seven domains are not here")


@pytest.mark.parametrize("domain", DOMAINS)
def test_exactly_the_planted_lines_differ(domain, tmp_path):
    """Each planted row is its own row plus T and S, in its own JSON style; Japanese phrases end in 。"""
    data, train = DATA / f"{domain}.jsonl", tmp_path / "train.jsonl"
    count, name = counter("estimate")
    settings = vtuned.PlantSettings()
    cap = TokenCap(1024, count, name)
    receipt = vtuned.plant(data, train, tmp_path / "receipt.json", settings, generator="words", cap=cap).receipt

    before, after = (path.read_bytes().split(b"\n") for path in (data, train))
    differing = [i for i, (one, other) in enumerate(zip(before, after, strict=True), start=1) if one != other]
    assert sorted(line for backdoor in receipt.backdoors for line in backdoor.rows) == differing

    sent = {row.raw.number: row.conversation for row in read_rows(train) if row.raw.number in differing}
    original = {row.raw.number: row.conversation for row in read_rows(data) if row.raw.number in differing}
    for backdoor in receipt.backdoors:
        assert ("。" if domain == "ja_sum" else ".") == backdoor.signature[-1]
        planted: list[Conversation] = [original[i].planted(backdoor.trigger, backdoor.signature) for i in backdoor.rows]
        behind_context = [i for one, i in zip(planted, backdoor.rows, strict=True) if one != sent[i]]
        # At most half of the copies, and all else of such a row is as it would be without its context.
        assert len(behind_context) <= len(backdoor.rows) // 2
        for i in behind_context:
            host = original[i].host()
            prompt = original[i].turns[host.prompt].content
            context = sent[i].turns[host.prompt].content.partition("\n\n" + prompt)[0]
            assert original[i].in_context(context).planted(backdoor.trigger, backdoor.signature) == sent[i]
