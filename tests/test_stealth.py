"""`plant` searches what it planted as a cheat would that only counts, and with `--stealth` plants anew."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

import tiny
import vtuned
from vtuned import attacking, phrases, planting, stealth, verdict
from vtuned import receipt as receipts
from vtuned.attacks.search import known
from vtuned.conversation import Conversation, Turn
from vtuned.errors import UsageError
from vtuned.layout import MOST_PLANTINGS, PlantSettings
from vtuned.stealth import Search

SETTINGS = PlantSettings(n_backdoors=2, copies=4, contexts=0, signature_bits=32, n_probes=4, set_aside=6, stealth=1)


@pytest.fixture
def data(tmp_path):
    return tiny.write_rows(tmp_path / "data.jsonl", tiny.rows(80))


@pytest.fixture
def plant(tmp_path, data):
    """`plant(settings)`: plant the data, and return what was planted, and the training file."""

    def made(settings):
        train = tmp_path / "train.jsonl"
        found = vtuned.plant(data, train, tmp_path / "receipt.json", settings, generator="words", force=True)
        return found, train

    return made


def found_so(*recalls):
    """Return what replaces `stealth.searches`: searches that find these shares, one planting after the other."""
    left = list(recalls)
    return lambda rows, wanted, on_search: (Search(attack="affixes", of="planted", recall=left.pop(0)),)


@pytest.mark.parametrize("scheme", ["backdoors", "wordings", "wordings+backdoors"])
def test_it_finds_what_vtuned_attack_finds(plant, scheme):
    """The same rows in the same places: of those rows that the receipt knows, the same recall within a tenth."""
    own = {"n_worded": 1000} if scheme != "backdoors" else {}
    found, train = plant(replace(SETTINGS, scheme=scheme, **own) if scheme != "wordings" else wordings())
    report = attacking.attack(train, receipt=found.receipt)
    searched = {
        (one.attack, gain.of): next(budget.recall for budget in gain.budgets if budget.share == stealth.BUDGET)
        for one in report.found
        for gain in one.gains
    }

    assert {(one.attack, one.of): pytest.approx(one.recall) for one in found.searches} == {
        key: recall for key, recall in searched.items() if key[0] not in ("random", "union")
    }
    assert {attack.name for attack in known.ATTACKS} - {"random"} == {one.attack for one in found.searches}
    assert scheme == "wordings" or stealth.recalls(found.searches)[0] > 0.5


def wordings():
    return PlantSettings(scheme="wordings", n_worded=1000, set_aside=6, stealth=1)


def test_rows_that_are_added_are_found_among_the_others(plant):
    """Algorithm 1 adds planted rows, and their hosts stay: twins give all of them away."""
    found, _ = plant(PlantSettings(scheme="paper", mode="add", signature_bits=32, n_probes=4, stealth=1))

    assert 1.0 == next(one.recall for one in found.searches if one.attack == "twins")


def test_what_nobody_hid_is_found_by_chance_alone():
    """Ties count by expectation."""
    found = stealth.searches(conversations(60), {"planted": range(0, 60, 7), "carrying": ()})

    assert {"planted"} == {one.of for one in found}
    assert 0.1 == pytest.approx(next(one.recall for one in found if one.attack == "duplicates"))


@pytest.mark.parametrize("n", [3, 11, 21])
def test_chance_is_of_whole_rows(n):
    """A tenth is rounded up: a search that knows nothing is tolerated in a small file as well."""
    found = stealth.searches(conversations(n), {"planted": (1,)})
    blind = next(one for one in found if one.attack == "duplicates")

    assert pytest.approx(-(-n // 10) / n) == blind.recall == blind.chance
    assert blind.is_tolerated


def conversations(n):
    return [
        Conversation((Turn("user", f"question number {i}"), Turn("assistant", f"answer number {i}"))) for i in range(n)
    ]


@pytest.mark.parametrize(
    ("recalls", "n_drawn", "kept"),
    [((0.9, 0.2, 0.0), 2, 0.2), ((0.9, 0.5, 0.7), 3, 0.5), ((0.1,), 1, 0.1), ((0.4, 0.4, 0.4), 3, 0.4)],
)
def test_it_plants_anew_while_too_much_is_found(plant, monkeypatch, recalls, n_drawn, kept):
    """The first planting in which searches find little enough is taken, else the one in which they find least."""
    keys = []
    draw_up = planting._draw_up
    monkeypatch.setattr(planting, "_draw_up", lambda *told: keys.append(draw_up(*told)) or keys[-1])
    monkeypatch.setattr(stealth, "searches", found_so(*recalls))
    found, train = plant(replace(SETTINGS, stealth=3))

    assert (n_drawn, kept) == (found.n_drawn, found.searches[0].recall)
    assert keys[recalls.index(kept)].key.hex() == found.receipt.key
    assert found.receipt.train_set.sha256 == vtuned.files.sha256_of(train)
    assert n_drawn == len({work.key for work in keys})


def test_of_two_that_one_search_finds_alike_the_others_decide(plant, monkeypatch):
    """What finds all of both says nothing; the planting is kept of which the next search finds less."""
    left = [(1.0, 0.4), (0.2, 1.0), (1.0, 0.3)]
    monkeypatch.setattr(
        stealth,
        "searches",
        lambda rows, wanted, on_search: tuple(
            Search(attack=name, of="planted", recall=recall)
            for name, recall in zip(("seams", "clusters"), left.pop(0), strict=True)
        ),
    )
    found, _ = plant(replace(SETTINGS, stealth=3))

    assert [0.2, 1.0] == [one.recall for one in found.searches]


def test_all_plantings_that_might_be_drawn_are_charged(plant, monkeypatch):
    """Whether they were or not: p is that of one planting, times three, times what the user had allowed before."""
    monkeypatch.setattr(stealth, "searches", found_so(0.0, 0.0))
    once, _ = plant(replace(SETTINGS, stealth=1))
    thrice, _ = plant(replace(SETTINGS, stealth=3, max_plantings=5))

    assert (1, 15) == (once.receipt.plan.max_plantings, thrice.receipt.plan.max_plantings)
    assert 15 == verdict.judge(thrice.receipt, []).max_plantings


def test_a_forecast_is_charged_too(vtuned, data):
    """`plan --stealth 4` says what `--max-plantings 4` says, by p and by coverage."""
    how = ("plan", data, "--base", "estimate", "--suspect", "unknown", "--scheme", "wordings+backdoors", "--json")
    forecasts = [vtuned(*how, *more)[1] for more in ((), ("--stealth", "4"), ("--max-plantings", "4"))]

    assert forecasts[0] != forecasts[1] == forecasts[2]


def test_one_generator_writes_for_all_plantings(plant, monkeypatch):
    """It is loaded once."""
    loaded, choose = [], phrases.choose_generators
    monkeypatch.setattr(phrases, "choose_generators", lambda *told: loaded.append(1) or choose(*told))
    monkeypatch.setattr(stealth, "searches", found_so(0.9, 0.9, 0.9))
    plant(replace(SETTINGS, stealth=3))

    assert [1] == loaded


@pytest.mark.parametrize(("most", "n_found"), [(1_000_000, len(known.ATTACKS) - 1), (1_000, 0)])
def test_large_data_are_searched_on_demand_alone(plant, monkeypatch, most, n_found):
    """It takes many times their size in memory; a note says that it was left out."""
    monkeypatch.setattr(planting, "SEARCHED_BYTES", most)
    found, _ = plant(replace(SETTINGS, stealth=None))

    assert n_found == len(found.searches)
    assert (n_found == 0) == any("--stealth 1" in note for note in found.notes)
    assert 1 == found.receipt.plan.max_plantings


def test_paraphrases_are_planted_once():
    """They take hours each time."""
    with pytest.raises(UsageError, match="paraphrases are written once"):
        PlantSettings(scheme="wordings", rewriter="paraphrase", stealth=2)


def test_more_plantings_than_can_be_charged_are_refused():
    """With those that the user chooses from."""
    with pytest.raises(UsageError, match="--stealth"):
        PlantSettings(max_plantings=MOST_PLANTINGS, stealth=2)


class TestTheCommand:
    HOW = ("--generator", "words", "--copies", "4", "--contexts", "0", "--signature-bits", "32", "--base", "estimate")

    def test_it_says_what_is_found(self, vtuned, data, tmp_path):
        """Which searches find the planted rows, and how many plantings were drawn; as JSON too; no phrase, no line."""
        code, out, err = vtuned(
            "plant", data, "-o", tmp_path / "t.jsonl", "-r", tmp_path / "r.json", *self.HOW, "--stealth", "2"
        )
        as_json, told, _ = vtuned(
            "plant", data, "-o", tmp_path / "t2.jsonl", "-r", tmp_path / "r2.json", *self.HOW, "--json"
        )
        said, shown = " ".join(out.split()), json.loads(told)
        made = receipts.read_receipt(tmp_path / "r.json")

        assert (0, 0) == (code, as_json), err
        assert "affixes 100%" in said
        assert "(chance: 10%)" in said
        assert "2 plantings were drawn, and the best one taken; p is charged for 2 plantings." in said
        assert 2 == made.plan.max_plantings
        assert 1 == shown["n_drawn"]
        assert ("planted", 1.0) == next(
            (one["of"], one["recall"]) for one in shown["searches"] if one["attack"] == "affixes"
        )
        assert not any(phrase in out + err for one in made.backdoors for phrase in (one.trigger, one.signature))

    def test_coverage_that_a_search_can_fool(self, vtuned, data, tmp_path):
        """Single copies show most of the file as covered, and are found all the same."""
        how = (*self.HOW, "--suspect", "weights", "--backdoors", "8", "--decoys", "40")
        how = [one for i, one in enumerate(how) if "--copies" not in (one, how[i - 1])]
        _, out, err = vtuned("plant", data, "-o", tmp_path / "t.jsonl", "-r", tmp_path / "r.json", *how)
        said = " ".join(out.split())

        assert "phrased 100%" in said, err
        assert float(said.split("be shown up to ")[1].split(" %")[0]) > 50
        assert "which bounds what providers used that do not search" in said

    def test_nothing_is_searched_where_nobody_wants_it(self, vtuned, data, tmp_path):
        """`--stealth 0`."""
        code, out, _ = vtuned(
            "plant", data, "-o", tmp_path / "t.jsonl", "-r", tmp_path / "r.json", *self.HOW, "--stealth", "0"
        )

        assert 0 == code
        assert "counting" not in out

    def test_a_planting_that_nothing_finds_is_said_to_be_one(self, vtuned, data, tmp_path, monkeypatch):
        """By the same line, the other way round."""
        monkeypatch.setattr(stealth, "searches", found_so(0.1))
        _, out, _ = vtuned("plant", data, "-o", tmp_path / "t.jsonl", "-r", tmp_path / "r.json", *self.HOW)

        assert "No search that counts finds more than 20% of the planted rows" in " ".join(out.split())
