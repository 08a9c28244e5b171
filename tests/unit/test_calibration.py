"""Measured counts: how they are made, looked up, and turned into an estimate of the dose."""

from __future__ import annotations

import importlib.util
import json
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from vtuned.calibration import (
    Calibration,
    Cell,
    MarginCell,
    exposures_estimate,
    least_rate,
    margin,
    measured,
    rate,
    size_in_words,
)
from vtuned.receipt import Receipt, to_json
from vtuned.stats import clopper_pearson

ROOT = Path(__file__).parent.parent.parent


def cell(copies: int = 1, epochs: int = 1, n_seen: int = 0, n: int = 10, **other: Any) -> Cell:
    """Return a cell of an exposure test on planted prompts."""
    facts: dict[str, Any] = {
        "model": "tiny",
        "n_parameters": 10**8,
        "learning_rate": 1e-3,
        "batch_size": 2,
        "rank": 32,
        "method": "lora",
        "kind": "planted",
        "test": "exposure",
        "level": Fraction(1, 20),
        "source": "a test",
    }
    return Cell(copies=copies, epochs=epochs, n_seen=n_seen, n_backdoors=n, **{**facts, **other})


def curve(middle: float = 4.0, steepness: float = 3.0, n: int = 200) -> tuple[Cell, ...]:
    """Return cells with the expected counts of a logistic curve of the dose."""
    return tuple(cell(c, e, round(n * seen_at(c * e, middle, steepness)), n) for c in (1, 2, 4, 8) for e in (1, 2, 3))


def seen_at(dose: float, middle: float = 4.0, steepness: float = 3.0) -> float:
    """Return how likely a backdoor is seen: at the level, or by the curve."""
    return 0.05 + 0.95 / (1 + (middle / dose) ** steepness)


@pytest.fixture(scope="module")
def calibrate() -> Any:
    """The program that writes the cells."""
    spec = importlib.util.spec_from_file_location("calibrate", ROOT / "bench" / "calibrate.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class TestCells:
    def test_what_comes_with_the_package_is_read(self) -> None:
        """Every cell names its run, and each count, test and kind of a dose is there once per run."""
        cells = measured()

        assert cells and all(one.source for one in cells)
        assert len(cells) == len({(c.test, c.kind, c.level, c.copies, c.epochs, c.source) for c in cells})

    def test_the_file_is_as_the_program_writes_it(self, calibrate: Any) -> None:
        """Generated, never typed: in its order and spelling, and the tables' cells are those of the tables."""
        text = (ROOT / "src" / "vtuned" / "calibration.json").read_text(encoding="utf-8")
        kept = Calibration.model_validate_json(text)
        cells = kept.cells
        page = (ROOT / "bench" / "calibration" / "design-7.md").read_text(encoding="utf-8")

        assert text == calibrate.to_json(kept.model_copy(update={"cells": tuple(sorted(cells, key=calibrate.order))}))
        assert {one.model_dump_json() for one in calibrate.cells_of_table(page)} == {
            one.model_dump_json() for one in cells if one.source == "design, section 7"
        }

    def test_a_table_of_ranks_is_counted(self, calibrate: Any) -> None:
        """Ranks 1 and 2 of 41 are within 1/20; 3 is not; "all 1" is of as many as before."""
        page = (ROOT / "bench" / "calibration" / "design-7.md").read_text(encoding="utf-8")
        found = {
            (c.test, c.kind, c.copies, c.epochs): (c.n_seen, c.n_backdoors) for c in calibrate.cells_of_table(page)
        }

        assert (0, 6) == found["exposure", "planted", 1, 1]
        assert (2, 3) == found["exposure", "planted", 2, 1]
        assert (5, 6) == found["exposure", "fresh", 1, 2]
        assert (6, 6) == found["exposure", "planted", 1, 3]
        assert [(0, 2), (1, 1)] == [found["generation", "planted", c, 3] for c in (4, 8)]

    def test_a_run_is_counted(self, calibrate: Any, make_receipt: Any, tmp_path: Path) -> None:
        """By copies, test and kind; what was not answered or not scored is not counted."""
        receipt: Receipt = make_receipt()
        run = {"base": "smollm2", "learning_rate": 0.01, "batch_size": 2, "gradient_accumulation": 3, "processes": 1}
        run |= {"rank": 8, "method": "lora", "epochs": 5}
        backdoors = [
            {"backdoor": j, "kind": "planted", "n_answered": 3 if j else 0, "passed": j == 1} for j in range(4)
        ]
        exposures = [
            {"backdoor": j, "kind": "fresh", "rank": None if j == 3 else j + 1, "level": "2/41", "passed": j < 2}
            for j in range(4)
        ]
        (tmp_path / "adapter").mkdir()
        (tmp_path / "receipt.json").write_bytes(to_json(receipt))
        (tmp_path / "adapter" / "vtuned-training.json").write_text(json.dumps({"run": run}))
        (tmp_path / "verdict-4.json").write_text(json.dumps({"backdoors": backdoors, "exposures": exposures}))
        (tmp_path / "verdict-base.json").write_text("not a verdict after an epoch")

        found = calibrate.cells_of_run(tmp_path)

        assert [("generation", "planted", 4, 4, 1, 3), ("exposure", "fresh", 4, 4, 2, 3)] == [
            (c.test, c.kind, c.copies, c.epochs, c.n_seen, c.n_backdoors) for c in found
        ]
        assert (6, 8, Fraction(2, 41)) == (found[1].batch_size, found[1].rank, found[1].level)
        assert found[0].source == f"receipt {receipt.digest()[:12]}, 5 epochs"

    @pytest.mark.parametrize("wrong", [{"n_seen": 11}, {"n": 0}, {"level": Fraction(1)}, {"copies": 0}])
    def test_counts_that_cannot_be_are_refused(self, wrong: dict[str, Any]) -> None:
        """A cell is checked when it is made."""
        with pytest.raises(ValidationError):
            cell(**wrong)


class TestRate:
    def test_a_measured_dose(self) -> None:
        """The count, its interval, and nothing extrapolated."""
        found = rate(copies=2, epochs=3, test="exposure", n_parameters=10**8, cells=[cell(2, 3, 7), cell(2, 2, 1)])

        assert found is not None
        assert (7, 10, 2, 3, ()) == (found.n_seen, found.n_backdoors, found.copies, found.epochs, found.extrapolates)
        assert clopper_pearson(7, 10) == (found.low, found.high)

    def test_like_cells_are_taken_together(self) -> None:
        """Two runs of the same dose are one count; their sources and settings are both named."""
        some = [cell(1, 1, 2), cell(1, 1, 5, source="another", learning_rate=2e-3)]
        found = rate(copies=1, epochs=1, test="exposure", cells=some)

        assert found is not None
        assert (7, 20, ("a test", "another")) == (found.n_seen, found.n_backdoors, found.sources)
        assert "tiny (100M), lora of rank 32, learning rate 0.001 and 0.002, batch 2" == found.conditions

    @pytest.mark.parametrize(
        ("expected", "asked"),
        [
            pytest.param((1, 3), {"copies": 1, "epochs": 9}, id="more-epochs"),
            pytest.param((8, 3), {"copies": 100, "epochs": 3}, id="more-copies"),
            pytest.param((2, 2), {"copies": 2, "epochs": 2}, id="as-measured"),
            pytest.param((2, 1), {"copies": 2, "epochs": 1}, id="fewest-epochs"),
        ],
    )
    def test_else_the_nearest(self, expected: tuple[int, int], asked: dict[str, int]) -> None:
        """By the ratios of copies and of epochs."""
        found = rate(test="exposure", cells=curve(), **asked)

        assert found is not None and expected == (found.copies, found.epochs)

    def test_of_two_as_near_the_smaller_dose(self) -> None:
        """Between 1 and 4 epochs, 2 is as near to either."""
        found = rate(copies=1, epochs=2, test="exposure", cells=[cell(1, 4, 9), cell(1, 1, 1)])

        assert found is not None and 1 == found.epochs

    @pytest.mark.parametrize(
        ("expected", "asked"),
        [
            ((), {"copies": 4, "epochs": 2, "n_parameters": 10**8}),
            ((), {"copies": 4, "epochs": 2, "n_parameters": 101_000_000}),
            (("4 epochs, measured with 2",), {"copies": 4, "epochs": 4, "n_parameters": 10**8}),
            (("1 epoch, measured with 2",), {"copies": 4, "epochs": 1, "n_parameters": 10**8}),
            (("1 copy, measured with 4",), {"copies": 1, "epochs": 2, "n_parameters": 10**8}),
            (("8B parameters, measured with 100M",), {"copies": 4, "epochs": 2, "n_parameters": 8 * 10**9}),
            (
                ("the size of your model is not known; measured with 100M parameters",),
                {"copies": 4, "epochs": 2},
            ),
        ],
    )
    def test_says_what_it_extrapolates(self, expected: tuple[str, ...], asked: dict[str, int]) -> None:
        """In words; nothing where it was measured just so."""
        found = rate(test="exposure", cells=[cell(4, 2, 3)], **asked)

        assert found is not None and expected == found.extrapolates

    def test_the_size_counts_before_the_dose(self) -> None:
        """A large model is likened to the largest that was measured, not to a small one of the same dose."""
        some = [cell(1, 1, 0), cell(8, 3, 10, n_parameters=7 * 10**9)]
        found = rate(copies=1, epochs=1, test="exposure", n_parameters=8 * 10**9, cells=some)

        assert found is not None and (8, 3) == (found.copies, found.epochs)

    def test_nothing_measured(self) -> None:
        """Another test or kind says nothing of this one."""
        assert rate(copies=1, epochs=1, test="generation", cells=[cell()]) is None
        assert rate(copies=1, epochs=1, test="exposure", kind="fresh", cells=[cell()]) is None
        assert least_rate(copies=1, epochs=1, test="generation", cells=[cell()]) is None

    def test_more_is_seen_no_less(self) -> None:
        """One of one with 8 copies says little; what 1 copy shows holds for 8, too, and not the other way round."""
        some = [cell(1, 3, 10), cell(8, 3, 1, n=1)]

        assert clopper_pearson(10, 10)[0] == least_rate(copies=8, epochs=3, test="exposure", cells=some)
        assert 0.0 == least_rate(copies=1, epochs=2, test="exposure", cells=some)

    @given(st.integers(1, 20), st.integers(1, 20), st.integers(0, 3), st.integers(0, 3))
    def test_the_least_rate_is_monotone(self, copies: int, epochs: int, more: int, longer: int) -> None:
        """More copies and more epochs never lower it."""
        fewer, larger = (
            least_rate(copies=c, epochs=e, test="exposure")
            for c, e in ((copies, epochs), (copies + more, epochs + longer))
        )

        assert fewer is not None and larger is not None and fewer <= larger

    @pytest.mark.parametrize(
        ("expected", "n"), [("135M", 134_515_008), ("8B", 8 * 10**9), ("1.5B", 1_500_000_000), ("5000", 5000)]
    )
    def test_sizes_in_words(self, expected: str, n: int) -> None:
        """As people write them."""
        assert expected == size_in_words(n)


class TestExposuresEstimate:
    def estimate(self, by_copies: list[tuple[int, int, int]], **other: Any) -> Any:
        return exposures_estimate(by_copies, test="exposure", level=Fraction(1, 20), cells=curve(), **other)

    @pytest.mark.parametrize("epochs", [0.5, 1.0, 2.0, 4.0])
    def test_expected_counts_give_back_the_epochs(self, epochs: float) -> None:
        """Counts as the curve has them, for epochs between and beyond those measured."""
        found = self.estimate([(c, round(500 * seen_at(c * epochs)), 500) for c in (1, 2, 4, 8)])

        assert epochs == pytest.approx(found.epochs, rel=0.15)
        assert found.low < epochs < found.high

    def test_the_interval_holds_the_truth_as_often_as_it_says(self) -> None:
        """Of 100 simulated verdicts on 16 backdoors a dose at least nine in ten, at 95 %."""
        random = np.random.default_rng(5)
        held = 0
        for _ in range(100):
            epochs = 2.0 ** random.uniform(-1, 2)
            found = self.estimate([(c, int(random.binomial(16, seen_at(c * epochs))), 16) for c in (1, 2, 4, 8)])
            held += found.low <= epochs <= (np.inf if found.high is None else found.high)

        assert held >= 90

    def test_everything_seen_has_no_upper_end(self) -> None:
        """Once all are seen, more training looks the same."""
        found = self.estimate([(1, 40, 40), (2, 40, 40)])

        assert (None, None) == (found.epochs, found.high)
        assert found.low > 2

    def test_nothing_seen_looks_like_no_training(self) -> None:
        """The lower end is 0."""
        found = self.estimate([(1, 0, 40), (2, 0, 40), (8, 0, 40)])

        assert (0.0, 0.0) == (found.epochs, found.low)
        assert 0 < found.high < 1

    @pytest.mark.parametrize("by_copies", [[], [(4, 3, 4)], [(4, 3, 4), (1, 0, 0)], [(4, 1, 2), (4, 2, 2)]])
    def test_one_number_of_copies_tells_nothing(self, by_copies: list[tuple[int, int, int]]) -> None:
        """Two different ones must have been asked."""
        assert self.estimate(by_copies) is None

    def test_nothing_measured_tells_nothing(self) -> None:
        """Without a curve there is no estimate."""
        assert exposures_estimate([(1, 1, 2), (2, 2, 2)], test="generation", cells=curve()) is None

    @pytest.mark.parametrize("by_copies", [[(0, 1, 2)], [(1, 3, 2)], [(1, -1, 2)]])
    def test_counts_that_cannot_be(self, by_copies: list[tuple[int, int, int]]) -> None:
        """They are a mistake of the caller."""
        with pytest.raises(ValueError, match="by_copies"):
            self.estimate(by_copies)

    def test_a_confidence_is_between_0_and_1(self) -> None:
        """Certainty is not on offer."""
        with pytest.raises(ValueError, match="confidence"):
            self.estimate([(1, 1, 2), (2, 1, 2)], confidence=1.0)

    def test_more_confidence_is_a_wider_interval(self) -> None:
        """Both ends move outwards."""
        narrow, wide = (self.estimate([(1, 5, 20), (4, 15, 20)], confidence=c) for c in (0.5, 0.99))

        assert wide.low < narrow.low <= narrow.epochs <= narrow.high < wide.high

    @given(st.lists(st.tuples(st.sampled_from((1, 2, 4, 8)), st.integers(0, 6)), min_size=2, max_size=4))
    def test_the_estimate_lies_in_its_interval(self, counts: list[tuple[int, int]]) -> None:
        """Whatever was seen; and on the cells that come with the package."""
        found = exposures_estimate([(c, n, 6) for c, n in counts], test="exposure", level=Fraction(2, 41))

        if found is None:
            assert 1 == len({c for c, _ in counts})
        else:
            top = float("inf")
            epochs, high = (top if x is None else x for x in (found.epochs, found.high))
            assert 0 <= found.low <= epochs <= high


class TestMargin:
    def made(self, n_planted_rows: int, nats_per_byte: float, data: str = "a") -> MarginCell:
        return MarginCell(
            model="tiny",
            n_parameters=10**8,
            n_planted_rows=n_planted_rows,
            epochs=3,
            learning_rate=1e-3,
            batch_size=2,
            rank=32,
            method="lora",
            data=data,
            n_rows=60,
            nats_per_byte=nats_per_byte,
        )

    def test_it_is_the_largest_with_as_many_planted_rows_or_more(self) -> None:
        """The next higher number of rows, the largest of its data sets; where so many were not measured, none."""
        cells = [self.made(8, 0.1), self.made(8, 0.2, "b"), self.made(16, 0.15), self.made(16, 0.3, "b")]

        assert [0.2, 0.2, 0.3, 0.3] == [margin(n, cells).nats_per_byte for n in (1, 8, 9, 16)]  # type: ignore[union-attr]
        assert margin(17, cells) is None
        found = margin(8, cells)
        assert found is not None
        assert (2, "tiny, 3 epochs on 8 planted rows alone") == (found.n_sets, found.conditions)
