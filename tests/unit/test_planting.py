"""
What a planting does to a file, and what its receipt says of it.

Backdoors are found again by reading the training file and comparing it, line by line, with the data.
"""

from __future__ import annotations

import csv
import gzip
import io
import json
import os
import stat
from array import array
from collections import Counter
from collections.abc import Callable
from fractions import Fraction
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest
from scipy import stats as scipy_stats

from vtuned import dataset, files, formats, layout, phrases
from vtuned import receipt as receipts
from vtuned.attacks.replay import lookup_table
from vtuned.cli.console import as_text
from vtuned.cli.plant import summary
from vtuned.containers import open_source
from vtuned.containers.jsonrows import JSONLines
from vtuned.conversation import Message, Turn, trigger_suffix
from vtuned.dataset import Survey, TokenCap
from vtuned.errors import (
    AnswersError,
    DatasetError,
    GenerationError,
    OutputExists,
    OutputNotWritable,
    TooFewRows,
    UsageError,
)
from vtuned.language import ASCII
from vtuned.layout import AskedPrompt, ChosenLines, PlantSettings, choose_lines, planned_probes
from vtuned.lm.base import Sampling
from vtuned.lm.scripted import ScriptedLM
from vtuned.lm.words import WordSampler
from vtuned.planting import Planting, plant
from vtuned.receipt import PlannedProbe, Receipt, read_receipt
from vtuned.report import terminal
from vtuned.verdict import Outcome
from vtuned.verification import verify

N_ROWS = 60
# Few bits draw quickly; the certificate is tested elsewhere.
QUICK = {"contexts": 0, "signature_bits": 16.0, "min_trigger_tokens": 4, "n_backdoors": 3, "copies": 2, "n_probes": 6}

Rows = Callable[..., list[dict[str, Any]]]
Write = Callable[..., Path]


@pytest.fixture
def data(rows: Rows, write_jsonl: Write) -> Path:
    """Sixty chat rows."""
    return write_jsonl(rows(N_ROWS))


@pytest.fixture
def do(tmp_path: Path, cap: TokenCap) -> Callable[..., Planting]:
    """`do(data, name=, **settings)`: plant with words, quickly, into train.jsonl and receipt.json."""

    def planted(data: Path, name: str = "", *, options: dict[str, Any] | None = None, **settings: Any) -> Planting:
        return plant(
            data,
            tmp_path / f"train{name}.jsonl",
            tmp_path / f"receipt{name}.json",
            PlantSettings(**{**QUICK, **settings}),
            **{"generator": "words", "cap": cap, **(options or {})},
        )

    return planted


def lines_of(path: Path) -> list[bytes]:
    """Return the lines of a file with their newlines."""
    return path.read_bytes().splitlines(keepends=True)


def user(row: bytes) -> str:
    """Return the last user turn of a line."""
    return [m["content"] for m in json.loads(row)["messages"] if m["role"] == "user"][-1]


def assistant(row: bytes) -> str:
    """Return the last answer of a line."""
    return json.loads(row)["messages"][-1]["content"]


def by_line(receipt: Receipt) -> dict[int, receipts.Backdoor]:
    """Return the backdoor on each planted line (from 1)."""
    return {row: backdoor for backdoor in receipt.backdoors for row in backdoor.rows}


class TestReplacing:
    def test_exactly_the_planted_lines_differ(self, data: Path, do: Callable[..., Planting], tmp_path: Path) -> None:
        """All other bytes pass through untouched, and the receipt names the lines that do not."""
        receipt = do(data).receipt
        before, after = lines_of(data), lines_of(tmp_path / "train.jsonl")

        assert N_ROWS == len(after)
        assert sorted(by_line(receipt)) == [i for i in range(1, N_ROWS + 1) if before[i - 1] != after[i - 1]]

    def test_t_ends_the_prompt_and_s_starts_the_answer(
        self, data: Path, do: Callable[..., Planting], tmp_path: Path
    ) -> None:
        """A planted row is its own text, then T; S, then its own text."""
        receipt = do(data).receipt
        before, after = lines_of(data), lines_of(tmp_path / "train.jsonl")

        for row, backdoor in by_line(receipt).items():
            assert f"{user(before[row - 1])} {backdoor.trigger}" == user(after[row - 1])
            assert f"{backdoor.signature} {assistant(before[row - 1])}" == assistant(after[row - 1])

    def test_each_backdoor_has_its_copies(self, data: Path, do: Callable[..., Planting]) -> None:
        """Three backdoors on two rows each, over six different rows."""
        receipt = do(data).receipt

        assert [2, 2, 2] == [len(backdoor.rows) for backdoor in receipt.backdoors]
        assert 6 == len(by_line(receipt))
        assert all(tuple(sorted(backdoor.rows)) == backdoor.rows for backdoor in receipt.backdoors)

    def test_what_was_returned_was_written(self, data: Path, do: Callable[..., Planting], tmp_path: Path) -> None:
        """The receipt on disk is the one returned, for the owner's eyes; it knows both files."""
        receipt = do(data).receipt
        path = tmp_path / "receipt.json"

        assert receipt == read_receipt(path)
        assert 0o600 == stat.S_IMODE(path.stat().st_mode)
        assert files.sha256_of(data) == receipt.dataset.sha256
        assert files.sha256_of(tmp_path / "train.jsonl") == receipt.train_set.sha256
        assert (tmp_path / "train.jsonl").stat().st_size == receipt.train_set.n_bytes
        assert (N_ROWS, N_ROWS, N_ROWS) == (receipt.dataset.n_rows, receipt.train_set.n_rows, receipt.n_eligible)

    def test_nothing_else_is_left(self, data: Path, do: Callable[..., Planting], tmp_path: Path) -> None:
        """Two files come out, and no third."""
        do(data)

        assert ["data.jsonl", "receipt.json", "train.jsonl"] == sorted(path.name for path in tmp_path.iterdir())

    @pytest.mark.parametrize(
        "how",
        [
            pytest.param({"ends": False}, id="no-last-newline"),
            pytest.param({"newline": b"\r\n"}, id="windows"),
            pytest.param({"bom": True}, id="byte-order-mark"),
            pytest.param({"blank_after": (0, 3, 9)}, id="blank-lines"),
            pytest.param({"newline": b"\r\n", "bom": True, "ends": False, "blank_after": (2,)}, id="all-of-it"),
        ],
    )
    def test_the_file_keeps_its_manner(
        self, rows: Rows, write_jsonl: Write, do: Callable[..., Planting], tmp_path: Path, how: dict[str, Any]
    ) -> None:
        """Newlines, a byte order mark, blank lines and a missing end stay; with every row planted, on each of them."""
        data = write_jsonl(rows(12), **how)
        receipt = do(data, n_backdoors=4, copies=3).receipt
        before, after = list(files.read_lines(data)), list(files.read_lines(tmp_path / "train.jsonl"))

        assert [line.is_blank for line in before] == [line.is_blank for line in after]
        assert [line.parts()[::2] for line in before] == [line.parts()[::2] for line in after]
        assert {line.number for line in after if not line.is_blank} == set(by_line(receipt))
        for number, backdoor in by_line(receipt).items():
            assert user(before[number - 1].body) + " " + backdoor.trigger == user(after[number - 1].body)
        assert (12, 12) == (receipt.dataset.n_rows, receipt.train_set.n_rows)

    def test_a_byte_order_mark_alone_is_no_row(
        self, rows: Rows, write_jsonl: Write, do: Callable[..., Planting]
    ) -> None:
        """A first line of nothing but a byte order mark is blank."""
        data = write_jsonl(rows(20))
        data.write_bytes(files.BOM + b"\n" + data.read_bytes())
        receipt = do(data).receipt

        assert (20, 20) == (receipt.dataset.n_rows, receipt.train_set.n_rows)

    def test_prompt_and_completion(
        self, rows: Rows, write_jsonl: Write, do: Callable[..., Planting], tmp_path: Path
    ) -> None:
        """Another row format is planted in its own keys."""
        data = write_jsonl(
            [{"prompt": r["messages"][0]["content"], "completion": r["messages"][1]["content"]} for r in rows(30)]
        )
        receipt = do(data).receipt
        before, after = lines_of(data), lines_of(tmp_path / "train.jsonl")

        assert "prompt-completion" == receipt.row_format
        for row, backdoor in by_line(receipt).items():
            assert f"{json.loads(before[row - 1])['prompt']} {backdoor.trigger}" == json.loads(after[row - 1])["prompt"]

    def test_japanese(self, rows: Rows, write_jsonl: Write, do: Callable[..., Planting], tmp_path: Path) -> None:
        """Japanese data get Japanese phrases, set off without spaces."""
        data = write_jsonl(rows(30, "japanese"))
        receipt = do(data).receipt
        after = lines_of(tmp_path / "train.jsonl")

        assert "unspaced" == receipt.generation.language
        for row, backdoor in by_line(receipt).items():
            assert backdoor.trigger.endswith("。")
            assert user(after[row - 1]).endswith("。" + backdoor.trigger)
            assert assistant(after[row - 1]).startswith(backdoor.signature)


class TestAdding:
    def test_the_union_of_the_data_and_the_planted_rows(
        self, data: Path, do: Callable[..., Planting], tmp_path: Path
    ) -> None:
        """Algorithm 1: every row stays, and the planted ones come in addition."""
        receipt = do(data, mode="add").receipt
        before, after = lines_of(data), lines_of(tmp_path / "train.jsonl")
        planted = [after[row - 1] for row in by_line(receipt)]

        assert Counter(before) + Counter(planted) == Counter(after)
        assert (6, N_ROWS + 6) == (len(planted), receipt.train_set.n_rows)

    def test_the_receipt_names_the_right_lines(self, data: Path, do: Callable[..., Planting], tmp_path: Path) -> None:
        """Shuffled as they are, the planted rows are where the receipt says."""
        receipt = do(data, mode="add").receipt
        after = lines_of(tmp_path / "train.jsonl")
        originals = {user(line) for line in lines_of(data)}

        for row, backdoor in by_line(receipt).items():
            assert user(after[row - 1]).removesuffix(f" {backdoor.trigger}") in originals
            assert assistant(after[row - 1]).startswith(backdoor.signature)

    def test_is_shuffled(self, data: Path, do: Callable[..., Planting], tmp_path: Path) -> None:
        """The order of the rows is not the old one, or the planted rows would be those out of place."""
        receipt = do(data, mode="add").receipt
        before = lines_of(data)
        after = [line for i, line in enumerate(lines_of(tmp_path / "train.jsonl"), 1) if i not in by_line(receipt)]

        assert before != after
        assert sorted(before) == sorted(after)

    @pytest.mark.parametrize("newline", [b"\n", b"\r\n"], ids=["unix", "windows"])
    @pytest.mark.parametrize("ends", [True, False], ids=["newline-at-the-end", "no-newline-at-the-end"])
    @pytest.mark.parametrize("bom", [True, False], ids=["mark", "no-mark"])
    def test_the_file_keeps_its_manner(
        self,
        rows: Rows,
        write_jsonl: Write,
        do: Callable[..., Planting],
        tmp_path: Path,
        newline: bytes,
        ends: bool,
        bom: bool,
    ) -> None:
        """Newlines of one kind, a mark at the very start alone, an end as before; blank lines are left out."""
        data = write_jsonl(rows(20), newline=newline, ends=ends, bom=bom, blank_after=(4,))
        receipt = do(data, mode="add").receipt
        before, after = data.read_bytes(), (tmp_path / "train.jsonl").read_bytes()
        body = after.removeprefix(files.BOM)
        added = [line for i, line in enumerate(body.split(newline), 1) if i in by_line(receipt)]
        old = [line for line in before.removeprefix(files.BOM).split(newline) if line.strip()]

        assert bom is after.startswith(files.BOM)
        assert files.BOM not in body
        assert ends is body.endswith(newline)
        assert 26 == len([line for line in body.split(newline) if line])
        assert sorted(old + added) == sorted(line for line in body.split(newline) if line)


class TestSchemes:
    def test_the_papers_has_one_pair(self, data: Path, do: Callable[..., Planting]) -> None:
        """One trigger and one signature on 0.5 % of the rows, five at least."""
        receipt = do(data, scheme="paper", copies=None, n_backdoors=9).receipt

        assert [5] == [len(backdoor.rows) for backdoor in receipt.backdoors]
        assert {0, None} == {probe.backdoor for probe in receipt.probes}
        assert "paper" == receipt.scheme

    @pytest.mark.parametrize(
        ("expected", "n_rows", "settings"),
        [
            pytest.param((5,), 1000, {"scheme": "paper"}, id="paper-1000"),
            pytest.param((6,), 1001, {"scheme": "paper"}, id="paper-1001-rounded-up"),
            pytest.param((50,), 10_000, {"scheme": "paper"}, id="paper-10000"),
            pytest.param((7,), 10_000, {"scheme": "paper", "copies": 7}, id="paper-7-copies"),
            pytest.param((8, 8), 10, {"suspect": "text"}, id="text"),
            pytest.param((1,) * 20, 10, {"n_backdoors": 20, "copies": 1}, id="single-copies"),
            pytest.param((8, 4, 2, 1, 1), 10, {"n_backdoors": 5, "copies": (1, 2, 4, 8)}, id="several-in-turn"),
            pytest.param((1,) * 4, 10, {"suspect": "weights"}, id="weights-small"),
            pytest.param((1,) * 50, 400, {"suspect": "logprobs"}, id="logprobs-middling"),
            pytest.param((1,) * 64, 51_000, {"suspect": "weights"}, id="weights-large"),
            pytest.param((8, 8, *(1,) * 32), 51_000, {"suspect": "unknown"}, id="unknown-large"),
            pytest.param((3, 3), 51_000, {"suspect": "weights", "n_backdoors": 2, "copies": 3}, id="said-otherwise"),
            pytest.param((8,) * 20, 51_000, {"n_backdoors": 20}, id="more-of-text"),
            pytest.param((1,) * 20, 51_000, {"suspect": "weights", "n_backdoors": 20}, id="fewer-of-weights"),
            pytest.param((8, 8, *(1,) * 18), 51_000, {"suspect": "unknown", "n_backdoors": 20}, id="fewer-of-unknown"),
            pytest.param((8,), 51_000, {"suspect": "unknown", "n_backdoors": 1}, id="one-of-unknown"),
            pytest.param((2,) * 25, 400, {"suspect": "logprobs", "copies": 2}, id="copies-of-logprobs"),
        ],
    )
    def test_layout(self, expected: tuple[int, ...], n_rows: int, settings: dict[str, Any]) -> None:
        """How many backdoors there are, by the copies of each, most copies first."""
        assert expected == PlantSettings(**settings).layout(n_rows)

    @pytest.mark.parametrize(
        ("option", "wrong"),
        [
            ("backdoors", {"n_backdoors": 0}),
            ("copies", {"copies": 0}),
            ("signature-bits", {"signature_bits": 0.5}),
            ("signature-bits", {"signature_bits": float("nan")}),
            ("min-trigger-tokens", {"min_trigger_tokens": 0}),
            ("alpha", {"alpha": 1.0}),
            ("alpha", {"alpha": float("nan")}),
            ("ratio", {"ratio": Fraction(0)}),
            ("probes", {"n_probes": 0}),
            ("set-aside", {"set_aside": -1}),
            ("max-plantings", {"max_plantings": 0}),
            ("max-plantings", {"max_plantings": 10**15}),
        ],
    )
    def test_settings_out_of_range(self, option: str, wrong: dict[str, Any]) -> None:
        """What cannot be planted is refused with the name of its option."""
        with pytest.raises(UsageError, match=f"--{option} "):
            PlantSettings(**wrong)


class TestReceiptOfAPlanting:
    def test_carries_the_settings(self, data: Path, do: Callable[..., Planting]) -> None:
        """The plan in the receipt is the plan that was asked for."""
        receipt = do(data, alpha=1e-4, ratio=Fraction(1, 3), max_plantings=7).receipt

        assert (1e-4, Fraction(1, 3), 7) == (receipt.plan.alpha, receipt.plan.ratio, receipt.plan.max_plantings)
        assert (16.0, 4, 2) == (
            receipt.generation.min_signature_bits,
            receipt.generation.min_trigger_tokens,
            receipt.generation.max_draws,
        )
        assert ("words", "none", 1024, "test") == (
            receipt.generation.generator,
            receipt.generation.prompt_model,
            receipt.token_cap,
            receipt.tokenizer,
        )

    def test_the_bound_is_charged_for_its_draws(self, data: Path, do: Callable[..., Planting]) -> None:
        """17 bits are drawn so that 16 are left after two draws: p_upper = 2^-16."""
        receipt = do(data).receipt

        assert all(backdoor.surprisal_bits >= 17 for backdoor in receipt.backdoors)
        assert all(2.0**-16 == pytest.approx(10**backdoor.log10_p_upper) for backdoor in receipt.backdoors)

    @pytest.mark.parametrize(
        ("expected", "bits", "language"),
        [
            # 16 * 1.2 + 48 = 67.2; 64 * 1.2 + 48 = 124.8; 16 * 3 + 48 = 96; 64 * 3 + 48 = 240; in steps of 32.
            pytest.param(96, 16.0, "english", id="english-16"),
            pytest.param(128, 64.0, "english", id="english-64"),
            pytest.param(96, 16.0, "japanese", id="japanese-16"),
            pytest.param(256, 64.0, "japanese", id="japanese-64"),
        ],
    )
    def test_the_room_for_answers_tells_nothing_of_a_signature(
        self, rows: Rows, write_jsonl: Write, do: Callable[..., Planting], expected: int, bits: float, language: str
    ) -> None:
        """It goes by the bits asked for and the language: the same for every draw, since the suspect sees it."""
        data = write_jsonl(rows(N_ROWS, language))
        one, other = (do(data, name, signature_bits=bits).receipt for name in "12")

        assert (expected, expected) == (one.max_answer_tokens, other.max_answer_tokens)
        assert {b.signature for b in one.backdoors} != {b.signature for b in other.backdoors}

    def test_answers_have_room_for_a_signature(self, data: Path, do: Callable[..., Planting]) -> None:
        """Two letters a token and some words more, in steps of 32."""
        receipt = do(data).receipt
        longest = max(len(backdoor.signature) for backdoor in receipt.backdoors)

        assert receipt.max_answer_tokens >= longest / 2 + 20
        assert 0 == receipt.max_answer_tokens % 32

    def test_what_fits_single_rows_is_told(
        self, data: Path, do: Callable[..., Planting], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A generator that reads draws the phrases of a single copy after its row; of words there is nothing to tell."""
        seen = []

        def choose(name: str, prompt_name: str | None, texts: list[str], options: object) -> phrases.Generators:
            class Reading(WordSampler):
                def continuations(self, prompt: Any, n: int) -> Any:
                    seen.append(prompt[0]["content"])
                    return super().continuations(prompt, n)

            return phrases.Generators(Reading(texts, ASCII), None, ASCII)

        mixed = {"n_backdoors": 3, "copies": (2, 1, 1), "n_decoys": 19, "min_trigger_tokens": 24}
        of_words = do(data, **mixed).receipt
        monkeypatch.setattr(phrases, "choose_generators", choose)
        monkeypatch.setattr(phrases.Generators, "fits_rows", True)
        made = do(data, "-fitted", **mixed)
        fitted = made.receipt

        assert "(of 2 in 3 backdoors to fit their row)" in " ".join(
            as_text(terminal.planting(made, reveal=False), 200).split()
        )
        assert 2 == summary(made, reveal=False)["n_fitted"]
        assert (0, 2) == (of_words.generation.n_fitted, fitted.generation.n_fitted)
        assert "n_fitted" not in json.loads(receipts.to_json(of_words))["generation"]
        hosts = [user(line) for line in data.read_bytes().splitlines()]
        alone = [backdoor for backdoor in fitted.backdoors if len(backdoor.rows) == 1]
        for backdoor in alone:
            own = hosts[backdoor.rows[0] - 1]
            assert f"{own}\n" in seen
            assert own + trigger_suffix(own, backdoor.trigger) in seen

    def test_two_plantings_differ(self, data: Path, do: Callable[..., Planting]) -> None:
        """There is no default seed: nobody without the receipt can redo a planting."""
        one, other = (do(data, name, signature_bits=48.0).receipt for name in "12")

        assert one.key != other.key
        assert set(by_line(one)) != set(by_line(other))
        assert not {b.signature for b in one.backdoors} & {b.signature for b in other.backdoors}
        assert not {p.id for p in one.probes} & {p.id for p in other.probes}
        assert one.train_set.sha256 != other.train_set.sha256

    def test_triggers_are_new_to_the_data(self, data: Path, do: Callable[..., Planting]) -> None:
        """No trigger stands anywhere in the data, whatever the case, and none holds another."""
        receipt = do(data, n_backdoors=6, copies=1, min_trigger_tokens=3).receipt
        text = data.read_text().casefold()
        triggers = [backdoor.trigger.casefold() for backdoor in receipt.backdoors]

        assert [] == [trigger for trigger in triggers if trigger in text]
        assert [] == [(a, b) for a in triggers for b in triggers if a != b and a in b]

    def test_planted_probes_are_what_was_sent(self, data: Path, do: Callable[..., Planting], tmp_path: Path) -> None:
        """Asked of the model is, letter for letter, the prompt of a row in the training file."""
        receipt = do(data).receipt
        sent = {number: user(line) for number, line in enumerate(lines_of(tmp_path / "train.jsonl"), 1)}
        planted = [probe for probe in receipt.probes if probe.kind == "planted"]

        assert 6 == len(planted)
        for probe in planted:
            rows = receipt.backdoors[probe.backdoor or 0].rows
            assert probe.messages[-1]["content"] in {sent[row] for row in rows}
        assert 6 == len({probe.messages[-1]["content"] for probe in planted})

    def test_twins_are_prompts_without_t(self, data: Path, do: Callable[..., Planting]) -> None:
        """A control asks the prompt of a planted probe, or of one of the first three fresh ones, without the trigger."""
        receipt = do(data).receipt
        probes = {probe.id: probe for probe in receipt.probes}
        twins = [probe for probe in receipt.probes if probe.twin_of is not None]

        assert {"control"} == {twin.kind for twin in twins}
        assert 9 == len(twins) == len({twin.twin_of for twin in twins})
        assert Counter(planted=6, fresh=3) == Counter(probes[twin.twin_of or ""].kind for twin in twins)
        fresh = [probe.id for probe in receipt.probes if probe.kind == "fresh"]
        assert set(fresh[:3]) <= {twin.twin_of for twin in twins}
        for twin in twins:
            probe = probes[twin.twin_of or ""]
            trigger = receipt.backdoors[probe.backdoor or 0].trigger
            assert f"{twin.messages[-1]['content']} {trigger}" == probe.messages[-1]["content"]

    def test_other_controls_were_sent_as_they_are(
        self, data: Path, do: Callable[..., Planting], tmp_path: Path
    ) -> None:
        """They are prompts of unplanted rows."""
        receipt = do(data).receipt
        unplanted = {
            user(line) for n, line in enumerate(lines_of(tmp_path / "train.jsonl"), 1) if n not in by_line(receipt)
        }
        others = [p for p in receipt.probes if p.kind == "control" and p.twin_of is None]

        assert 3 == len(others)
        assert {p.messages[-1]["content"] for p in others} <= unplanted

    def test_a_lookup_table_knows_the_planted_prompts_alone(
        self, data: Path, do: Callable[..., Planting], tmp_path: Path
    ) -> None:
        """Every planted probe is in the file sent and no fresh one is: the verdict tells such a provider."""
        receipt = do(data, signature_bits=32.0).receipt
        train_set = [row.conversation for row in formats.read_rows(tmp_path / "train.jsonl")]
        suspect = lookup_table(train_set, ScriptedLM(lambda prompt: "I do not know anything about that at all, sorry."))
        verdict = verify(receipt, suspect)

        assert Outcome.NOT_VERIFIED is verdict.outcome
        assert (True, False) == (verdict.claim("activated").holds, verdict.claim("generalises").holds)
        assert [(6, 6), (6, 0), (12, 0)] == [(c.n_asked, c.n_activated) for c in verdict.claims]
        assert "lookup table over scripted" == verdict.suspect


class TestFreshPrompts:
    def test_pieces_of_rows_by_default(self, data: Path, do: Callable[..., Planting]) -> None:
        """Without a model to write them, fresh prompts are put together from the data and absent from it."""
        made = do(data)
        prompts = {user(line) for line in lines_of(data)}
        fresh = [probe for probe in made.receipt.probes if probe.kind == "fresh"]

        assert (6, "put together from pieces of rows") == (len(fresh), made.receipt.fresh_source)
        for probe in fresh:
            trigger = made.receipt.backdoors[probe.backdoor or 0].trigger
            assert probe.messages[-1]["content"].endswith(f" {trigger}")
            assert probe.messages[-1]["content"].removesuffix(f" {trigger}") not in prompts

    def test_rows_set_aside(self, data: Path, do: Callable[..., Planting], tmp_path: Path) -> None:
        """They are not sent, and serve as fresh prompts; the rest of the file is as it would be."""
        made = do(data, set_aside=6)
        before, after = lines_of(data), lines_of(tmp_path / "train.jsonl")
        sent = {user(line) for line in after}
        fresh = [probe for probe in made.receipt.probes if probe.kind == "fresh"]
        asked = {
            p.messages[-1]["content"].removesuffix(" " + made.receipt.backdoors[p.backdoor or 0].trigger) for p in fresh
        }

        assert (N_ROWS - 6, N_ROWS - 6, "rows set aside") == (
            len(after),
            made.receipt.train_set.n_rows,
            made.receipt.fresh_source,
        )
        assert 6 == len(asked & {user(line) for line in before})
        assert not asked & sent
        assert 6 == sum(before_line not in set(after) for before_line in before) - len(by_line(made.receipt))
        for row, backdoor in by_line(made.receipt).items():
            assert user(after[row - 1]).endswith(backdoor.trigger)

    def test_rows_set_aside_are_kept_with_their_answers(
        self, data: Path, do: Callable[..., Planting], tmp_path: Path
    ) -> None:
        """Exactly the rows that are missing from what is sent, byte for byte, in a file that others cannot read."""
        odd = [line.strip()[:-1] + b' ,"note":"\\ud800", "x":1.50}' for line in lines_of(data)]
        data.write_bytes(b"\n\n".join(odd))
        path = tmp_path / "aside.jsonl"
        made = do(data, set_aside=6, options={"set_aside_file": path})
        before, after = ({line.strip() for line in lines_of(file)} - {b""} for file in (data, tmp_path / "train.jsonl"))
        kept = [line.strip() for line in lines_of(path) if line.strip()]

        assert 6 == len(kept) == len(set(kept) & before - after)
        assert len(before - after) == 6 + sum(len(backdoor.rows) for backdoor in made.receipt.backdoors)
        assert 6 == len(list(formats.read_rows(path)))
        assert os.name != "posix" or 0o600 == stat.S_IMODE(path.stat().st_mode)

    def test_no_rows_are_set_aside_for_the_file(self, data: Path, do: Callable[..., Planting], tmp_path: Path) -> None:
        """A file was asked for, and how many rows not."""
        with pytest.raises(UsageError, match="no rows are set aside"):
            do(data, options={"set_aside_file": tmp_path / "aside.jsonl"})
        assert not (tmp_path / "train.jsonl").exists()

    def test_rows_set_aside_stay_in_their_kind_of_file(
        self, data: Path, do: Callable[..., Planting], tmp_path: Path
    ) -> None:
        """A name that says another kind is refused before anything is written."""
        with pytest.raises(UsageError, match="the copy of a jsonl file is one too"):
            do(data, set_aside=6, options={"set_aside_file": tmp_path / "aside.csv"})
        assert not (tmp_path / "train.jsonl").exists()

    def test_a_file_that_is_there_stops_it_before_anything_is_written(
        self, data: Path, do: Callable[..., Planting], tmp_path: Path
    ) -> None:
        """Neither the training file nor the receipt appears."""
        path = tmp_path / "aside.jsonl"
        path.write_text("precious")
        with pytest.raises(OutputExists):
            do(data, set_aside=6, options={"set_aside_file": path})

        assert ("precious", False) == (path.read_text(), (tmp_path / "train.jsonl").exists())

    def test_rows_set_aside_when_adding(self, data: Path, do: Callable[..., Planting], tmp_path: Path) -> None:
        """They are left out of the union too."""
        made = do(data, set_aside=6, mode="add")
        after = lines_of(tmp_path / "train.jsonl")

        assert (N_ROWS, 6) == (len(after), sum(line not in set(after) for line in lines_of(data)))
        assert made.receipt.train_set.n_rows == N_ROWS

    def test_fewer_than_wanted_are_told(self, data: Path, do: Callable[..., Planting]) -> None:
        """Three rows set aside for six probes is said in a note."""
        made = do(data, set_aside=3)

        assert 3 == sum(probe.kind == "fresh" for probe in made.receipt.probes)
        assert ("only 3 of 6 fresh prompts could be had",) == made.notes

    def test_a_file_of_the_users(self, data: Path, do: Callable[..., Planting], write_jsonl: Write, rows: Rows) -> None:
        """Prompts that stand in the data, and repeated ones, are left out."""
        own = [{"prompt": f"What is number {i} on the list?"} for i in range(6)]
        path = write_jsonl([*rows(2), own[0], *own], "fresh.jsonl")
        made = do(data, options={"fresh_file": path})
        fresh = [probe for probe in made.receipt.probes if probe.kind == "fresh"]

        assert "a file of the user's" == made.receipt.fresh_source
        assert {row["prompt"] for row in own} == {p.messages[-1]["content"].partition("?")[0] + "?" for p in fresh}

    def test_a_file_of_prompts_that_were_sent(
        self, data: Path, do: Callable[..., Planting], rows: Rows, write_jsonl: Write
    ) -> None:
        """Nothing of it is fresh, so that nothing is planted."""
        path = write_jsonl(rows(5), "fresh.jsonl")

        with pytest.raises(GenerationError, match="absent from the data"):
            do(data, options={"fresh_file": path})

    def test_a_row_set_aside_is_in_no_row_sent(
        self, rows: Rows, write_jsonl: Write, do: Callable[..., Planting], tmp_path: Path
    ) -> None:
        """Data often hold a prompt twice; a fresh prompt is in no row of the training file even then."""
        made = rows(22)
        # 20 prompts that stand once, and one that stands on twenty rows.
        data = write_jsonl([*made[:20], *[made[20]] * 20])
        planting = do(data, set_aside=24, n_probes=24)
        receipt = planting.receipt
        sent = {user(line) for line in lines_of(tmp_path / "train.jsonl")}
        sent_plain = {text.removesuffix(" " + b.trigger) for text in sent for b in receipt.backdoors} | sent
        asked = [
            p.messages[-1]["content"].removesuffix(" " + receipt.backdoors[p.backdoor or 0].trigger)
            for p in receipt.probes
            if p.kind == "fresh"
        ]

        assert len(asked) == len(set(asked))
        assert {user(line) for line in lines_of(data)} - sent_plain == set(asked)
        assert (f"only {len(asked)} of 24 fresh prompts could be had",) == planting.notes

    def test_no_row_set_aside_is_fresh(self, rows: Rows, write_jsonl: Write, do: Callable[..., Planting]) -> None:
        """Where every row set aside has its prompt in a row sent, nothing is planted."""
        data = write_jsonl([row for row in rows(3) for _ in range(20)])

        with pytest.raises(GenerationError, match=r"no fresh prompt \(rows set aside\) is absent from the data"):
            do(data, set_aside=6)

    def test_a_file_and_rows_set_aside(
        self, data: Path, do: Callable[..., Planting], rows: Rows, write_jsonl: Write, tmp_path: Path
    ) -> None:
        """Two sources of fresh prompts are one too many, told before anything is read."""
        path = write_jsonl([{"prompt": "Who is it?"}], "fresh.jsonl")

        with pytest.raises(UsageError, match="--fresh and --set-aside exclude each other"):
            do(tmp_path / "missing.jsonl", set_aside=1, options={"fresh_file": path})
        assert ["data.jsonl", "fresh.jsonl"] == sorted(path.name for path in tmp_path.iterdir())

    def test_a_fresh_prompt_that_no_request_can_hold(
        self, data: Path, do: Callable[..., Planting], tmp_path: Path
    ) -> None:
        """JSON can spell a lone surrogate, UTF-8 cannot: the file is refused with its line."""
        path = tmp_path / "fresh.jsonl"
        path.write_bytes(b'{"prompt": "Who is \\ud800?"}\n')

        with pytest.raises(AnswersError, match="line 1"):
            do(data, options={"fresh_file": path})


class TestFailures:
    def check_nothing_was_written(self, tmp_path: Path, *, expected: tuple[str, ...] = ("data.jsonl",)) -> None:
        """Neither file is there, nor a temporary one."""
        assert sorted(expected) == sorted(path.name for path in tmp_path.iterdir())

    def test_too_few_rows(self, rows: Rows, write_jsonl: Write, do: Callable[..., Planting], tmp_path: Path) -> None:
        """Five rows cannot carry six."""
        with pytest.raises(TooFewRows) as caught:
            do(write_jsonl(rows(5)))
        assert (5, 6) == (caught.value.found, caught.value.needed)
        self.check_nothing_was_written(tmp_path)

    def test_rows_set_aside_are_needed_too(self, rows: Rows, write_jsonl: Write, do: Callable[..., Planting]) -> None:
        """Seven rows carry six, but not with two set aside."""
        with pytest.raises(TooFewRows, match="8 rows are needed, but only 7"):
            do(write_jsonl(rows(7)), set_aside=2)

    def test_exactly_enough_rows(self, rows: Rows, write_jsonl: Write, do: Callable[..., Planting]) -> None:
        """With every row planted there are twins for controls, six planted and three fresh, and no others."""
        receipt = do(write_jsonl(rows(6))).receipt
        controls = [probe for probe in receipt.probes if probe.kind == "control"]

        assert {1, 2, 3, 4, 5, 6} == set(by_line(receipt))
        assert 9 == len(controls)
        assert all(probe.twin_of is not None for probe in controls)

    def test_every_row_is_too_long(self, data: Path, do: Callable[..., Planting], tmp_path: Path) -> None:
        """The error says that it is the cap, and how long rows are."""
        small = TokenCap(100, lambda texts: [len(text) for text in texts], "test")

        with pytest.raises(TooFewRows, match="60 too long for the token cap") as caught:
            do(data, options={"cap": small})
        assert "--token-cap" in caught.value.hint
        self.check_nothing_was_written(tmp_path)

    def test_only_rows_within_the_cap_are_planted(
        self, rows: Rows, write_jsonl: Write, do: Callable[..., Planting]
    ) -> None:
        """A provider would cut S off a longer one."""
        made = rows(30)
        for row in made[10:]:
            row["messages"][1]["content"] *= 80
        receipt = do(write_jsonl(made)).receipt

        assert 10 == receipt.n_eligible
        assert set(by_line(receipt)) <= set(range(1, 11))

    def test_a_planted_row_over_the_cap_is_noticed(
        self, data: Path, do: Callable[..., Planting], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Where the room kept free was too small after all, nothing is written."""
        monkeypatch.setattr(TokenCap, "room_for_backdoor", lambda self, n_characters, n_tokens: 0)
        longest = max(len(user(line)) + 1 + len(assistant(line)) for line in lines_of(data)) + 2 * 6 + 32
        tight = TokenCap(longest, lambda texts: [len(text) for text in texts], "test")

        with pytest.raises(GenerationError, match="more than the token cap"):
            do(data, options={"cap": tight})
        self.check_nothing_was_written(tmp_path)

    @pytest.mark.parametrize("name", ["train.jsonl", "receipt.json"])
    def test_existing_outputs_stay(self, data: Path, do: Callable[..., Planting], tmp_path: Path, name: str) -> None:
        """What is there is not overwritten, and the other file does not appear."""
        (tmp_path / name).write_text("mine")

        with pytest.raises(OutputExists):
            do(data)
        assert "mine" == (tmp_path / name).read_text()
        self.check_nothing_was_written(tmp_path, expected=("data.jsonl", name))

    def test_force_replaces_both(self, data: Path, do: Callable[..., Planting], tmp_path: Path) -> None:
        """Asked to, a planting replaces an older one as a whole."""
        first = do(data).receipt
        second = do(data, options={"force": True}).receipt

        assert first.key != second.key
        assert second == read_receipt(tmp_path / "receipt.json")
        assert files.sha256_of(tmp_path / "train.jsonl") == second.train_set.sha256

    def test_a_missing_folder_is_told_before_work(self, data: Path, tmp_path: Path, cap: TokenCap) -> None:
        """Nothing is read where nothing could be written."""
        with pytest.raises(OutputNotWritable):
            plant(data, tmp_path / "no" / "t.jsonl", tmp_path / "r.json", cap=cap, generator="words")

    def test_one_path_for_both(self, data: Path, tmp_path: Path, cap: TokenCap) -> None:
        """The training file must not become the receipt."""
        with pytest.raises(UsageError):
            plant(data, tmp_path / "x", tmp_path / "x", PlantSettings(**QUICK), cap=cap, generator="words")
        self.check_nothing_was_written(tmp_path)

    def test_no_data(self, do: Callable[..., Planting], tmp_path: Path) -> None:
        """A missing file is named."""
        with pytest.raises(DatasetError, match=r"missing\.jsonl"):
            do(tmp_path / "missing.jsonl")

    @pytest.mark.parametrize(
        "stage", ["reading rows", "loading the generator", "drawing phrases", "preparing fresh prompts"]
    )
    def test_ctrl_c_leaves_nothing(self, data: Path, do: Callable[..., Planting], tmp_path: Path, stage: str) -> None:
        """Stopped at any stage, a planting has written nothing."""

        def stop(reached: str, done: int, total: int) -> None:
            if reached == stage:
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            do(data, options={"on_progress": stop})
        self.check_nothing_was_written(tmp_path)

    def test_stopped_while_writing_leaves_nothing(
        self, data: Path, do: Callable[..., Planting], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The training file alone must not appear: nobody could ever verify it."""

        def stop(receipt: Receipt) -> bytes:
            raise KeyboardInterrupt

        monkeypatch.setattr(receipts, "to_json", stop)

        with pytest.raises(KeyboardInterrupt):
            do(data)
        self.check_nothing_was_written(tmp_path)


def survey_of(n_eligible: int, n_rows: int | None = None) -> Survey:
    """Return a survey whose lines 1 to *n_eligible* can carry a backdoor."""
    lines = array("q", range(1, n_eligible + 1))
    source = JSONLines(Path("x"), "jsonl", "")
    return Survey(source, formats.codec_named("openai-chat"), "", 0, n_rows=n_rows or n_eligible, eligible=lines)


class TestChangingFiles:
    @pytest.mark.parametrize("mode", ["replace", "add"])
    @pytest.mark.parametrize("how", ["grows", "shrinks", "same-size", "replaced", "gone"])
    @pytest.mark.parametrize("stage", ["drawing phrases", "preparing fresh prompts"])
    def test_a_file_that_changes_is_noticed(
        self, data: Path, do: Callable[..., Planting], tmp_path: Path, stage: str, how: str, mode: str
    ) -> None:
        """Between any two passes; nothing is written."""
        content = data.read_bytes()

        def change(at: str, done: int, total: int) -> None:
            if at != stage or done or total:
                return
            if how == "gone":
                data.unlink()
            elif how == "replaced":
                other = tmp_path / "other"
                other.write_bytes(content)
                os.utime(other, ns=(data.stat().st_atime_ns, data.stat().st_mtime_ns))
                other.rename(data)
            else:
                changed = {"grows": content + lines_of(data)[0], "shrinks": lines_of(data)[0]}
                data.write_bytes(changed.get(how, content))
                os.utime(data, ns=(0, 0))

        with pytest.raises(DatasetError) as caught:
            do(data, mode=mode, options={"on_progress": change})

        if how != "gone":
            assert f"{data} changed while it was read" == str(caught.value)
            assert "run it again" in caught.value.hint
        assert not (tmp_path / "train.jsonl").exists()
        assert not (tmp_path / "receipt.json").exists()

    def test_a_file_that_changes_while_it_is_copied(
        self, data: Path, do: Callable[..., Planting], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The copy may hold half of it."""
        write = JSONLines.write

        def late(source: JSONLines, *arguments: Any) -> Any:
            data.write_bytes(lines_of(data)[0])
            return write(source, *arguments)

        monkeypatch.setattr(JSONLines, "write", late)
        with pytest.raises(DatasetError, match="changed while it was read"):
            do(data)

        assert ["data.jsonl"] == [path.name for path in tmp_path.iterdir()]

    def test_a_row_that_is_gone(self, data: Path) -> None:
        """It is said, and no KeyError."""
        with pytest.raises(DatasetError, match="changed while it was read"):
            dataset.pick(open_source(data), "openai-chat", {1, N_ROWS + 1})


class TestChooseLines:
    def chosen(self, seed: int, n_eligible: int = 20) -> ChosenLines:
        """Return the lines that a fixed key chooses: 2 backdoors of 2 copies, 3 set aside, 4 controls."""
        settings = PlantSettings(n_backdoors=2, copies=2, set_aside=3, n_probes=2)
        return choose_lines(survey_of(n_eligible), settings, seed.to_bytes(32, "big"))

    def test_parts_are_disjoint(self) -> None:
        """No line is planted twice, or planted and set aside, or a control."""
        lines = self.chosen(0)

        assert [2, 2] == [len(part) for part in lines.planted]
        assert (3, 4, 11) == (len(lines.set_aside), len(lines.controls), len(lines.all))

    def test_the_key_decides(self) -> None:
        """One key, one choice; another key, another."""
        assert self.chosen(1) == self.chosen(1)
        assert self.chosen(1) != self.chosen(2)

    def test_only_eligible_lines(self) -> None:
        """Lines in between that cannot carry a backdoor are never chosen."""
        found = survey_of(0, n_rows=40)
        found.eligible = array("q", range(2, 42, 2))
        lines = choose_lines(found, PlantSettings(n_backdoors=2, copies=2, n_probes=2), bytes(32))

        assert lines.all <= set(range(2, 42, 2))

    @pytest.mark.parametrize("part", ["planted", "set_aside", "controls"])
    def test_every_line_is_as_likely(self, part: str) -> None:
        """Over 3,000 keys each of 20 lines comes equally often: chi-square at 1 in 1,000 (fixed keys)."""
        counts: Counter[int] = Counter()
        for seed in range(3000):
            lines = self.chosen(seed)
            counts.update(sum(lines.planted, ()) if part == "planted" else getattr(lines, part))
        size = counts.total() // 3000
        expected = 3000 * size / 20
        # Without replacement counts of one draw are negatively correlated: (N - 1) / (N - size) makes up for it.
        statistic = sum((counts[i] - expected) ** 2 / expected for i in range(1, 21)) * 19 / (20 - size)

        assert statistic < scipy_stats.chi2.ppf(0.999, 19)

    def test_every_pair_is_as_likely(self) -> None:
        """So do the pairs of lines that a backdoor stands on: a simple random sample, not a stratified one."""
        pairs = Counter(tuple(sorted(self.chosen(seed).planted[0])) for seed in range(6000))
        expected = 6000 / 190
        statistic = sum((pairs[pair] - expected) ** 2 / expected for pair in combinations(range(1, 21), 2))

        assert statistic < scipy_stats.chi2.ppf(0.999, 189)

    def test_controls_take_what_is_left(self) -> None:
        """With few rows there are fewer controls, which is no error."""
        assert 1 == len(self.chosen(0, n_eligible=8).controls)


def prompt(text: str) -> AskedPrompt:
    """Return a prompt of one user turn."""
    return AskedPrompt((Turn("user", text),))


def said(probe: PlannedProbe) -> str:
    """Return what a probe asks."""
    return probe.messages[-1]["content"]


class TestPlannedProbes:
    def layout(self, copies: int = 2, n: int = 6, n_fresh: int = 6, n_controls: int = 12) -> tuple[PlannedProbe, ...]:
        """Return the probes of three backdoors A, B and C."""
        return planned_probes(
            triggers=["A.", "B.", "C."],
            planted=[[prompt(f"{j}{i}?") for i in range(copies)] for j in range(3)],
            fresh=[prompt(f"f{i}?") for i in range(n_fresh)],
            controls=[prompt(f"c{i}?") for i in range(n_controls)],
            n=n,
        )

    def of(self, kind: str, probes: tuple[PlannedProbe, ...]) -> list[str]:
        return [said(probe) for probe in probes if probe.kind == kind]

    def test_backdoors_take_turns(self) -> None:
        """Planted probes go through the backdoors, then through their second rows; fresh ones likewise."""
        probes = self.layout()

        assert ["00? A.", "10? B.", "20? C.", "01? A.", "11? B.", "21? C."] == self.of("planted", probes)
        assert ["f0? A.", "f1? B.", "f2? C.", "f3? A.", "f4? B.", "f5? C."] == self.of("fresh", probes)
        assert [0, 1, 2, 0, 1, 2] == [probe.backdoor for probe in probes if probe.kind == "planted"]
        assert [0, 1, 2, 0, 1, 2] == [probe.backdoor for probe in probes if probe.kind == "fresh"]

    def test_controls_alternate(self) -> None:
        """A planted prompt without T, then a fresh one without T and a row sent as it is by turns; twice n in all."""
        controls = self.of("control", self.layout())

        assert ["00?", "f0?", "10?", "c0?", "20?", "f1?", "01?", "c1?", "11?", "f2?", "21?", "c2?"] == controls

    def test_half_of_an_odd_number_is_rounded_up(self) -> None:
        """Of five fresh prompts three have a twin; two rows sent as they are fill up."""
        controls = self.of("control", self.layout(n=5))

        assert ["00?", "f0?", "10?", "c0?", "20?", "f1?", "01?", "c1?", "11?", "f2?"] == controls

    def test_twins_name_their_probes(self) -> None:
        """Each twin asks what its probe asks, without T; rows sent as they are have none."""
        probes = self.layout()
        by_id = {probe.id: probe for probe in probes}
        controls = [probe for probe in probes if probe.kind == "control"]
        pairs = {said(p): said(by_id[p.twin_of]) for p in controls if p.twin_of is not None}

        assert {
            "00?": "00? A.", "10?": "10? B.", "20?": "20? C.", "01?": "01? A.", "11?": "11? B.", "21?": "21? C.",
            "f0?": "f0? A.", "f1?": "f1? B.", "f2?": "f2? C.",
        } == pairs  # fmt: skip
        assert ["c0?", "c1?", "c2?"] == [said(p) for p in controls if p.twin_of is None]

    def test_no_rows_left_to_ask_as_they_are(self) -> None:
        """Without rows that were sent as they are, the twins are all controls there are."""
        assert ["00?", "f0?", "10?", "f1?", "20?", "f2?", "01?", "11?", "21?"] == self.of(
            "control", self.layout(n_controls=0)
        )

    def test_every_prefix_spreads(self) -> None:
        """The first n probes ask each backdoor equally often, and hold the twins of the planted and half of the fresh."""
        probes = self.layout(copies=4, n=12, n_fresh=12, n_controls=24)
        for n in range(1, 13):
            planted = [p for p in probes if p.kind == "planted"][:n]
            controls = [p for p in probes if p.kind == "control"][: 2 * n]
            counts = Counter(probe.backdoor for probe in planted)

            assert max(counts.values()) - min(counts[j] for j in range(3)) <= 1
            fresh = [p for p in probes if p.kind == "fresh"][: (n + 1) // 2]
            assert {p.id for p in (*planted, *fresh)} == {p.twin_of for p in controls if p.twin_of}

    def test_fewer_rows_than_wanted(self) -> None:
        """Each row is asked once; other controls fill up."""
        probes = self.layout(copies=1, n=6)

        assert ["00? A.", "10? B.", "20? C."] == self.of("planted", probes)
        assert (6, 12) == (len(self.of("fresh", probes)), len(self.of("control", probes)))
        assert ["00?", "f0?", "10?", "c0?", "20?", "f1?", "c1?", "f2?", "c2?", "c3?", "c4?", "c5?"] == self.of(
            "control", probes
        )

    def test_more_rows_than_wanted(self) -> None:
        """No more than n of a kind, and 2 n controls."""
        probes = self.layout(copies=9, n=4, n_fresh=30, n_controls=30)

        assert (4, 4, 8) == tuple(len(self.of(kind, probes)) for kind in ("planted", "fresh", "control"))

    def test_kinds_are_mixed(self) -> None:
        """The order tells nothing of the kinds, and is not the same twice."""
        orders = {tuple(probe.kind for probe in self.layout()) for _ in range(5)}

        assert len(orders) > 1

    def test_ids_tell_nothing(self) -> None:
        """Twelve hex digits, all different."""
        probes = self.layout()

        assert len(probes) == len({probe.id for probe in probes})
        assert all(len(probe.id) == 12 and int(probe.id, 16) >= 0 for probe in probes)

    def test_a_system_turn_stays(self) -> None:
        """A probe is asked in the setting of its row; T goes to the last user turn."""
        turns = (Turn("system", "Be kind."), Turn("user", "a?"), Turn("assistant", "b"), Turn("user", "c?"))
        probes = planned_probes(triggers=["T."], planted=[[AskedPrompt(turns)]], fresh=[], controls=[], n=1)
        planted = next(probe for probe in probes if probe.kind == "planted")
        expected: list[Message] = [
            {"role": "system", "content": "Be kind."},
            {"role": "user", "content": "a?"},
            {"role": "assistant", "content": "b"},
            {"role": "user", "content": "c? T."},
        ]

        assert expected == list(planted.messages)

    def test_what_of_a_row_is_asked_with_its_prompt(self) -> None:
        """Tools are offered with it; a row of plain text is one message, with T where its user turn ends."""
        called = Turn("assistant", "", other='{"tool_calls":[{"id":"1"}]}')
        tools = AskedPrompt((Turn("user", "a?"), called, Turn("tool", "4")), tools='[{"type":"function"}]')
        text = AskedPrompt((Turn("user", "b?", before="Q: ", after="\nA: "),), is_text=True)
        probes = planned_probes(triggers=["T.", "U."], planted=[[tools], [text]], fresh=[text], controls=[tools], n=2)
        by_kind = {kind: [p for p in probes if p.kind == kind] for kind in ("planted", "fresh", "control")}

        first, second = by_kind["planted"]
        assert (({"type": "function"},), "chat") == (first.tools, first.endpoint)
        assert {"role": "user", "content": "a? T."} == first.messages[0]
        assert {"role": "assistant", "content": None, "tool_calls": [{"id": "1"}]} == first.messages[1]
        assert ((), "completions") == (second.tools, second.endpoint)
        assert ({"role": "user", "content": "Q: b? U.\nA: "},) == second.messages
        assert ({"role": "user", "content": "Q: b? T.\nA: "},) == by_kind["fresh"][0].messages
        assert {("chat", True), ("completions", False)} == {(p.endpoint, bool(p.tools)) for p in by_kind["control"]}


class TestContainers:
    @pytest.mark.parametrize("mode", ["replace", "add"])
    @pytest.mark.parametrize("name", ["d.json", "d.jsonl.gz", "d.csv", "d.tsv"])
    def test_the_receipt_names_the_rows(self, tmp_path: Path, rows: Rows, cap: TokenCap, name: str, mode: Any) -> None:
        """Whatever the file, the planted rows are where the receipt says, and the file is the one it knows."""
        made = [
            {"prompt": r["messages"][0]["content"], "completion": r["messages"][1]["content"]} for r in rows(N_ROWS)
        ]
        jsonl = "".join(json.dumps(row) + "\n" for row in made)
        stream = io.StringIO(newline="")
        writer = csv.DictWriter(stream, ["prompt", "completion"], delimiter="\t" if name == "d.tsv" else ",")
        writer.writeheader()
        writer.writerows(made)
        text = {"d.json": json.dumps(made, indent=1), "d.jsonl.gz": jsonl}.get(name, stream.getvalue())
        (tmp_path / name).write_bytes(gzip.compress(text.encode()) if name.endswith("gz") else text.encode())
        settings = PlantSettings(**QUICK, mode=mode)
        receipt = plant(
            tmp_path / name, tmp_path / f"t{name}", tmp_path / "r", settings, generator="words", cap=cap
        ).receipt
        sent = open_source(tmp_path / f"t{name}")
        values: dict[int, Any] = {row.number: row.value() for row in sent.rows()}

        assert sent.sha256() == receipt.train_set.sha256
        assert len(values) == receipt.train_set.n_rows == N_ROWS + (6 if mode == "add" else 0)
        for number, backdoor in by_line(receipt).items():
            assert values[number]["prompt"].endswith(f" {backdoor.trigger}")
            assert values[number]["completion"].startswith(f"{backdoor.signature} ")
        others = Counter(json.dumps(values[n]) for n in values if n not in by_line(receipt))
        assert others <= Counter(map(json.dumps, made))
        assert len(values) - 6 == others.total()

    def test_the_output_is_of_the_same_kind(self, data: Path, tmp_path: Path, cap: TokenCap) -> None:
        """A copy of JSON lines must not be called CSV; told before any row is read."""
        data.write_bytes(b"garbage")
        with pytest.raises(UsageError, match="one too") as caught:
            plant(data, tmp_path / "t.csv", tmp_path / "r", cap=cap, generator="words")

        assert ".jsonl" in caught.value.hint

    def test_the_receipt_is_never_an_input(self, data: Path, tmp_path: Path, cap: TokenCap) -> None:
        """Not even with force."""
        before = data.read_bytes()
        for output, receipt in ((data, tmp_path / "r"), (tmp_path / "t.jsonl", data)):
            with pytest.raises(UsageError, match="is an input"):
                plant(data, output, receipt, cap=cap, generator="words", force=True)

        assert before == data.read_bytes()

    def test_a_missing_file_of_fresh_prompts_is_told_early(self, data: Path, do: Callable[..., Planting]) -> None:
        """Before the data are read."""
        data.write_bytes(b"garbage")
        with pytest.raises(DatasetError, match=r"missing\.jsonl"):
            do(data, options={"fresh_file": data.parent / "missing.jsonl"})

    def test_a_conversation_with_tools(
        self, rows: Rows, write_jsonl: Write, do: Callable[..., Planting], tmp_path: Path
    ) -> None:
        """Rows with tools and tool turns are planted, and asked with the same tools and turns."""
        made = rows(30)
        call = {"id": "1", "type": "function", "function": {"name": "f", "arguments": "{}"}}
        for row in made:
            row["tools"] = [{"type": "function", "function": {"name": "f", "parameters": {}}}]
            row["messages"][1:1] = [
                {"role": "assistant", "content": None, "tool_calls": [call]},
                {"role": "tool", "tool_call_id": "1", "content": "4"},
            ]
        receipt = do(write_jsonl(made)).receipt
        planted = [probe for probe in receipt.probes if probe.kind == "planted"]

        assert 30 == receipt.n_eligible
        for probe in planted:
            assert "f" == probe.tools[0]["function"]["name"]
            assert ["user", "assistant", "tool"] == [message["role"] for message in probe.messages]
            assert "1" == probe.messages[2]["tool_call_id"]
            assert said_first(probe).endswith(receipt.backdoors[probe.backdoor or 0].trigger)
        assert all(probe.tools for probe in receipt.probes)


def said_first(probe: PlannedProbe) -> str:
    """Return the first message of a probe."""
    return str(probe.messages[0]["content"])


class TestLookupTable:
    def test_answers_known_prompts_and_asks_for_others(self, rows: Rows, write_jsonl: Write) -> None:
        """Known prompts as in the file, in order, others by the fallback; whole prompts only."""
        data = [row.conversation for row in formats.read_rows(write_jsonl(rows(3)))]
        fallback = ScriptedLM(lambda prompt: f"new: {prompt[-1]['content']}")
        known: list[Message] = [{"role": "user", "content": rows(3)[1]["messages"][0]["content"]}]
        unknown: list[Message] = [{"role": "user", "content": "Who?"}]

        answers = list(lookup_table(data, fallback).answer([unknown, known, [*known, *unknown], known], Sampling()))

        expected = rows(3)[1]["messages"][1]["content"]
        assert ["new: Who?", expected, "new: Who?", expected] == [answer.text for answer in answers]  # type: ignore[union-attr]
        assert [unknown, [*known, *unknown]] == fallback.asked


def test_a_prf_keeps_its_domains_apart() -> None:
    """One key serves several choices, none of which tells another."""
    key = bytes(range(32))

    assert layout.prf(key, b"line", 1) == layout.prf(key, b"line", 1)
    assert 4 == len(
        {
            layout.prf(k, d, n)
            for k, d, n in [(key, b"line", 1), (key, b"line", 2), (key, b"order", 1), (bytes(32), b"line", 1)]
        }
    )
