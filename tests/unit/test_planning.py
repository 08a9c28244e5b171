"""What a planting will be able to prove, in numbers by hand."""

from __future__ import annotations

import math
from array import array
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest

from vtuned.dataset import Survey, TokenCap, survey
from vtuned.errors import TooFewRows
from vtuned.layout import PlantSettings
from vtuned.planning import plan, probes_per_backdoor
from vtuned.planting import plant
from vtuned.verification import challenges


def survey_of(n_rows: int = 1000, n_eligible: int | None = None, n_tokens: int = 100_000) -> Survey:
    """Return a survey of *n_rows* rows, the first *n_eligible* of them eligible."""
    n_eligible = n_rows if n_eligible is None else n_eligible
    return Survey(
        Path("x"),
        "openai-chat",
        "",
        0,
        n_rows=n_rows,
        n_tokens=n_tokens,
        n_too_long=2,
        n_unsuitable=3,
        longest=777,
        eligible=array("q", range(1, n_eligible + 1)),
    )


class TestNumbers:
    def test_the_default(self) -> None:
        """Four backdoors of 64 bits with 3, 3, 2 and 2 probes, one hit each: products of floor(n / k) 2^-64."""
        made = plan(survey_of(), PlantSettings())

        assert ("backdoors", 4, 4, 16, 10) == (
            made.scheme, made.n_backdoors, made.copies, made.n_planted_rows, made.n_planted_probes
        )  # fmt: skip
        assert -64 * math.log10(2) == pytest.approx(made.log10_p_upper)
        assert math.log10(36) - 256 * math.log10(2) == pytest.approx(made.log10_p_all)
        # Two of four pass: the sum over pairs of 9 + 6 + 6 + 6 + 6 + 4, less what is below 2^-192.
        assert math.log10(37) - 128 * math.log10(2) == pytest.approx(made.log10_p_half)
        assert (-3.0, 0.016, True) == (made.log10_alpha, made.planted_share, made.is_possible)

    def test_the_survey_is_passed_on(self) -> None:
        """Rows, and why some cannot carry a backdoor."""
        made = plan(survey_of(n_eligible=995), PlantSettings())

        assert (1000, 995, 2, 3, 777, 100_000) == (
            made.n_rows,
            made.n_eligible,
            made.n_too_long,
            made.n_unsuitable,
            made.longest_row_tokens,
            made.n_training_tokens,
        )

    def test_the_papers_scheme(self) -> None:
        """One backdoor on 0.5 % of the rows, asked as often as it has rows: floor(5 / 1) 2^-64."""
        made = plan(survey_of(), PlantSettings(scheme="paper"))

        assert (1, 5, 5) == (made.n_backdoors, made.copies, made.n_planted_probes)
        assert math.log10(5) - 64 * math.log10(2) == pytest.approx(made.log10_p_all) == made.log10_p_half

    def test_a_ratio_asks_for_more_hits(self) -> None:
        """Two of two or three probes with a ratio of two thirds: floor(3 / 2) and floor(2 / 2) are 1."""
        made = plan(survey_of(), PlantSettings(ratio=Fraction(2, 3)))

        assert -256 * math.log10(2) == pytest.approx(made.log10_p_all)

    def test_half_is_rounded_up(self) -> None:
        """Three single copies: half of them are two, by one probe each, 3 pairs."""
        made = plan(survey_of(), PlantSettings(n_backdoors=3, copies=1))

        assert math.log10(3) - 128 * math.log10(2) == pytest.approx(made.log10_p_half)

    def test_plantings_are_charged(self) -> None:
        """A thousand plantings to choose from cost three digits, and no p-value is above 1."""
        settings = {"n_backdoors": 1, "copies": 1, "signature_bits": 16.0}

        assert 3.0 - 16 * math.log10(2) == pytest.approx(
            plan(survey_of(), PlantSettings(max_plantings=1000, **settings)).log10_p_all
        )
        assert 0.0 == plan(survey_of(), PlantSettings(max_plantings=10**6, **settings)).log10_p_all

    def test_what_training_costs_more(self) -> None:
        """16 rows of 6 + 64 / 3.4 + 8 tokens are 525, or half a percent of 100,000."""
        made = plan(survey_of(), PlantSettings(contexts=0))

        assert round(16 * (6 + 64 / 3.4 + 8)) == made.extra_training_tokens == 525
        assert 0.00525 == pytest.approx(made.extra_training_share)

    def test_what_contexts_cost(self) -> None:
        """Two rows of each of four backdoors are filled up from 100 tokens, what rows take here, to 300."""
        bare, filled = plan(survey_of(), PlantSettings(contexts=0)), plan(survey_of(), PlantSettings())

        assert 8 * (300 - 100) == filled.extra_training_tokens - bare.extra_training_tokens

    @pytest.mark.parametrize(
        ("is_possible", "n_eligible", "settings"),
        [
            pytest.param(True, 16, {}, id="exactly-enough"),
            pytest.param(False, 15, {}, id="one-too-few"),
            pytest.param(True, 26, {"set_aside": 10}, id="enough-to-set-aside"),
            pytest.param(False, 25, {"set_aside": 10}, id="too-few-to-set-aside"),
        ],
    )
    def test_says_whether_it_is_possible(self, is_possible: bool, n_eligible: int, settings: dict[str, Any]) -> None:
        """A plan that cannot be carried out is shown, and said to be none."""
        assert is_possible is plan(survey_of(n_eligible=n_eligible), PlantSettings(**settings)).is_possible

    def test_no_row_at_all(self) -> None:
        """Where nothing is eligible there is nothing to plan."""
        with pytest.raises(TooFewRows, match="of 1000 rows"):
            plan(survey_of(n_eligible=0), PlantSettings())


class TestProbesPerBackdoor:
    @pytest.mark.parametrize(
        ("expected", "n_backdoors", "copies", "n"),
        [
            pytest.param([3, 3, 2, 2], 4, 4, 10, id="turns"),
            pytest.param([4, 4, 4, 4], 4, 4, 16, id="every-row"),
            pytest.param([4, 4, 4, 4], 4, 4, 99, id="no-row-twice"),
            pytest.param([1, 1, 1], 3, 1, 10, id="single-copies"),
            pytest.param([10], 1, 50, 10, id="one-backdoor"),
        ],
    )
    def test_table(self, expected: list[int], n_backdoors: int, copies: int, n: int) -> None:
        """Backdoors take turns, and each row is asked once."""
        assert expected == probes_per_backdoor(n_backdoors, copies, n)

    def test_is_what_a_planting_asks(
        self,
        rows: Callable[..., list[dict[str, Any]]],
        write_jsonl: Callable[..., Path],
        tmp_path: Path,
        cap: TokenCap,
    ) -> None:
        """The plan's numbers are those of the receipt that is made by it."""
        data = write_jsonl(rows(40))
        settings = PlantSettings(n_backdoors=3, copies=2, n_probes=5, signature_bits=16.0)
        receipt = plant(data, tmp_path / "t", tmp_path / "r", settings, generator="words", cap=cap).receipt
        made = plan(survey(data, cap), settings)
        planted = [probe.backdoor for probe in receipt.probes if probe.kind == "planted"]

        assert probes_per_backdoor(3, 2, 5) == [planted.count(j) for j in range(3)]
        assert made.n_planted_probes == len(planted)
        assert made.log10_p_upper == pytest.approx(receipt.backdoors[0].log10_p_upper)
        assert (made.n_rows, made.n_eligible) == (receipt.dataset.n_rows, receipt.n_eligible)
        assert 20 == len(challenges(receipt))
