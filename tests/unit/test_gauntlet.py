"""What a gauntlet says of its rounds, and what it refuses before anything is written."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from vtuned.attacks.contract import Work
from vtuned.conversation import Conversation, Turn
from vtuned.errors import JobFailed, OutputExists, OutputNotWritable, UsageError
from vtuned.gauntlet import rounds
from vtuned.gauntlet.rounds import n_used
from vtuned.gauntlet.settings import USUAL, Settings, chosen
from vtuned.gauntlet.table import HEAD, Bound, ClaimState, Gauntlet, Round, cells, markdown, summary
from vtuned.gauntlet.world import claimed
from vtuned.jobs.journal import alone
from vtuned.layout import PlantSettings
from vtuned.providers.settings import TrainingSettings
from vtuned.verdict import Outcome

VERIFIED, NOT_VERIFIED = Outcome.VERIFIED, Outcome.NOT_VERIFIED


def claims(**states):
    """Return claims by name, with _ for spaces, in so many words."""
    return tuple(
        ClaimState(claim=name.replace("_", " "), state=state, log10_p=0.0, n_activated=3, n_answered=10, n_asked=10)
        for name, state in states.items()
    )


def ended(policy, conduct, outcome, *, used=0.0, bound=0.0, **states):
    """Return a round with a verdict."""
    coverage = Bound(lower_bound=bound, n_eligible=50, confidence=0.99, n_seen=1, n_backdoors=2, by="exposure")
    return Round(
        policy=policy,
        does="what it does",
        conduct=conduct,
        outcome=outcome,
        claims=claims(**states),
        coverage=(coverage,),
        n_used=round(100 * used),
        share_used=used,
        cost=used,
        trained_tokens=1234,
    )


HONEST = ended("honest", "honest", VERIFIED, used=1.0, bound=0.7, activated="yes", learned_the_task="yes")
RULE = ended("rule", "cheat", VERIFIED, bound=0.7, activated="yes", generalises="yes", learned_the_task="no")
MERGE = ended("merge:0.5", "in part", VERIFIED, used=1.0, activated="yes", learned_the_task="yes")
BASE = ended("base", "cheat", NOT_VERIFIED, activated="no", generalises="not tested")
FAILED = Round(policy="retrieve", does="what it does", trouble="a package is missing")


class TestSummary:
    def test_cheats_that_pass_are_named_with_the_claims_that_they_pass(self):
        """Whoever is VERIFIED and not honest, also one that trained as asked and serves something else."""
        first = summary((HONEST, RULE, MERGE, BASE))[0]

        assert (
            "VERIFIED, and not honest: rule (activated, generalises); merge:0.5 (activated, learned the task)." == first
        )

    def test_what_held_out_rows_tell_apart_is_told(self):
        """Of those that pass, the ones that learned no task."""
        assert "Of these, `learned the task` does not hold for: rule." in summary((HONEST, RULE, MERGE))

    def test_a_bound_above_the_truth_is_told(self):
        """A rule without training forges coverage; an honest provider's bound is below what it used."""
        assert "Coverage says more than was trained on for: rule." in summary((HONEST, RULE, BASE))
        assert 1 == len(summary((HONEST, BASE)))

    def test_a_bound_on_eligible_rows_is_held_against_rows(self):
        """Half of the rows can carry a backdoor: 30 % of these are fewer than a fifth of all, 50 % are more."""
        below, above = (ended("subset:0.2", "cheat", VERIFIED, used=0.2, bound=bound) for bound in (0.3, 0.5))

        assert (False, True) == (below.passes_coverage, above.passes_coverage)

    def test_likelihoods_that_were_not_had_are_told_with_the_reason(self):
        """An empty cell alone would look like a bound of nothing."""
        mute = HONEST.model_copy(update={"unscored": "m: it shows no likelihoods"})

        assert "No likelihoods were had from: honest (m: it shows no likelihoods)." in summary((mute,))
        assert not any("likelihoods" in line for line in summary((HONEST,)))

    def test_an_honest_provider_that_fails_and_a_round_that_fails_are_told(self):
        """Neither is passed over."""
        silent = HONEST.model_copy(update={"outcome": NOT_VERIFIED})
        lines = summary((silent, FAILED))

        assert "VERIFIED, and not honest: none." == lines[0]
        assert "Honest, and not VERIFIED: honest." in lines
        assert "No verdict, since something failed: retrieve." in lines


class TestTable:
    def test_a_row_has_every_column(self):
        """With the counts of the claims that backdoors decide."""
        row = dict(zip(HEAD, cells(RULE), strict=True))

        assert "yes 3/10" == row["generalises"]
        assert "no" == row["learned the task"]
        assert "70.0 %" == row["coverage at least"]
        assert ("0.0 %", "1,234") == (row["cost"], row["trained tokens"])

    def test_a_round_without_a_verdict_says_why(self):
        """In place of the outcome; the other cells are empty."""
        assert ("retrieve", "a package is missing") == cells(FAILED)[:2]
        assert {""} == set(cells(FAILED)[2:])
        assert len(HEAD) == len(cells(FAILED))

    def test_markdown_is_a_table_of_all_rounds(self):
        """As wide as its head in every line; a bar in a cell is escaped."""
        odd = FAILED.model_copy(update={"trouble": "this | that"})
        found = Gauntlet(
            data="data.jsonl",
            model="tiny",
            n_rows=10,
            n_planted_rows=5,
            copies=(4, 1),
            n_probes=8,
            n_held_out=20,
            measure="chrf",
            margin=0.25,
            margin_source="given by hand",
            epochs=3,
            batch_size=2,
            learning_rate=1e-3,
            machine="x86_64",
            rounds=(HONEST, odd),
        )
        lines = [line.replace("\\|", "") for line in markdown(found).splitlines() if line.startswith("|")]

        assert 4 == len(lines)
        assert {len(HEAD) + 1} == {line.count("|") for line in lines}
        assert "1 of 4, 1 of 1" in markdown(found)


class TestChoice:
    def test_the_usual_ones_are_all_known_and_other_base_comes_with_its_model(self):
        """Of each kind there is one."""
        from vtuned.attacks.policies import known

        kinds = {text.partition(":")[0] for text in chosen((), "hf:other")}

        assert {usage.partition("[")[0].partition(":")[0] for usage, _ in known()} == kinds
        assert USUAL == chosen((), None)

    @pytest.mark.parametrize(
        ("given", "said"),
        [
            (("nonsense",), "unknown policy"),
            (("base", "subset:2"), "share"),
            (("base", "base"), "twice"),
            (("honest+planted-only",), "planted-only"),
        ],
    )
    def test_policies_that_cannot_be(self, given, said):
        """Before anything is planted."""
        with pytest.raises(UsageError, match=said) as caught:
            chosen(given, None)

        assert caught.value.hint

    @pytest.mark.parametrize("text", ["rule:some words", "suppress+rule:some words"])
    def test_a_trigger_is_not_taken_and_not_repeated(self, text):
        """None is known before planting; what was given may be one, so no message says it."""
        with pytest.raises(UsageError) as caught:
            chosen((text,), None)

        assert "some words" not in f"{caught.value} {caught.value.hint}"

    def test_planted_only_needs_no_oracle_to_be_chosen(self):
        """Its receipt is written later."""
        assert ("planted-only",) == chosen(("planted-only",), None)


def test_a_round_whose_job_failed_begins_anew(tmp_path, monkeypatch):
    """Its run is kept beside, under another name: a job that failed would only be found again."""

    def failing(world, policy, place, *more):
        (place / "run").mkdir()
        raise JobFailed("provider", "ftjob-1", "failed (server_error)")

    monkeypatch.setattr(rounds, "_whole_round", failing)
    world = SimpleNamespace(folder=tmp_path)
    troubles = [rounds.run(world, "honest", print).trouble for _ in range(2)]

    assert all("failed (server_error)" in trouble for trouble in troubles)
    place = rounds.folder_of(world, "honest")
    assert {"run-failed-1", "run-failed-2"} == {path.name for path in place.iterdir()}


class TestRowsUsed:
    def rows(self, *questions):
        return tuple(
            Conversation((Turn("user", one), Turn("assistant", "yes", carries_loss=True))) for one in questions
        )

    def used(self, sent, trained, *, trains=True):
        return n_used(self.rows(*sent), Work(self.rows(*trained), "smollm2", TrainingSettings(), trains=trains))

    def test_rows_that_share_a_prompt_are_counted_one_by_one(self):
        """Training on one of three twins is not training on three."""
        assert 2 == self.used(["a", "a", "a", "b"], ["a", "b"])
        assert 1 == self.used(["a", "b"], ["a", "a", "other"])
        assert 0 == self.used(["a"], ["a"], trains=False)


class TestFolder:
    def settings(self, tmp_path, **changed):
        data = tmp_path / "data.jsonl"
        data.write_text("{}\n")
        return Settings(**{"data": data, "name": "m", "spec": "smollm2", "plant": PlantSettings(), **changed})

    def test_a_folder_of_something_else_is_left_alone(self, tmp_path):
        """Nothing is written into it."""
        other = tmp_path / "mine"
        other.mkdir()
        (other / "thesis.txt").write_text("precious")
        with pytest.raises(OutputExists, match="mine"), claimed(other, self.settings(tmp_path)):
            pass

        assert ["thesis.txt"] == [path.name for path in other.iterdir()]

    def test_a_folder_goes_on_with_the_same_settings_alone(self, tmp_path):
        """Once something was planted: another bar, or other data, would mix two tables up."""
        out = tmp_path / "out"
        for measure in ("f1", "chrf"):
            with claimed(out, self.settings(tmp_path, measure=measure)):
                pass
        (out / "receipt.json").write_text("{}")
        with claimed(out, self.settings(tmp_path)):
            pass
        with (
            pytest.raises(UsageError, match="other data or options"),
            claimed(out, self.settings(tmp_path, measure="f1")),
        ):
            pass

    def test_two_at_once_do_not_mix(self, tmp_path):
        """The second is refused, and what the first was begun with stays written."""
        out = tmp_path / "out"
        with claimed(out, self.settings(tmp_path)):
            before = {path.name: path.read_bytes() for path in out.iterdir()}
            with pytest.raises(OutputNotWritable), claimed(out, self.settings(tmp_path, measure="f1")):
                pass
            after = {path.name: path.read_bytes() for path in out.iterdir()}

        assert before == after

    def test_a_start_that_was_killed_before_it_wrote_anything_can_be_repeated(self, tmp_path):
        """The lock alone is nobody's work."""
        out = tmp_path / "out"
        with alone(out):
            pass
        with claimed(out, self.settings(tmp_path)):
            pass

    def test_a_model_elsewhere_cannot_be_trained(self, tmp_path):
        """And nothing is written."""
        with (
            pytest.raises(UsageError, match="not a local model"),
            claimed(tmp_path / "out", self.settings(tmp_path, spec="openai:gpt")),
        ):
            pass

        assert not (tmp_path / "out").exists()

    def test_a_margin_of_nothing_is_refused(self, tmp_path):
        """Any gain would exceed it."""
        with pytest.raises(UsageError, match="no margin"):
            self.settings(tmp_path, margin=0.0)
