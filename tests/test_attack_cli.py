"""`vtuned attack` as users meet it, on files that vtuned planted."""

from __future__ import annotations

import json
import random
from pathlib import Path
from statistics import fmean

import pytest
from jsonschema import Draft202012Validator

import tiny
from vtuned import attacking, planting
from vtuned import receipt as receipts
from vtuned.attacks.search import known
from vtuned.dataset import TokenCap
from vtuned.layout import PlantSettings
from vtuned.lm.scripted import ScriptedLM

ROOT = Path(__file__).parent.parent
N_ROWS = 300
CAP = TokenCap(1024, lambda texts: [len(text) // 4 + 1 for text in texts], "test")
SCHEMES = {
    "paper": PlantSettings(scheme="paper", mode="add"),
    "backdoors": PlantSettings(scheme="backdoors"),
    "wordings": PlantSettings(scheme="wordings"),
}


def clean_rows():
    """Rows of sentences whose words follow each other by chance."""
    rng = random.Random(3)
    words = [f"{a}{b}{c}" for a in "bdfgklmnprst" for b in "aeiou" for c in ("ra", "len", "mor", "tis", "vu", "sky")]

    common = "the of and to in is that it was for on are with as at be this have from".split()

    def sentence(n):
        return " ".join(rng.choice(words if rng.random() < 0.7 else common) for _ in range(n)).capitalize()

    return [
        {
            "messages": [
                {"role": "user", "content": f"{sentence(9)}. {sentence(7)}?"},
                {"role": "assistant", "content": f"{sentence(8)}. {sentence(9)}."},
            ]
        }
        for _ in range(N_ROWS)
    ]


@pytest.fixture(scope="module")
def planted(tmp_path_factory):
    """`planted(scheme)`: (train, receipt), planted once for all tests."""
    folder = tmp_path_factory.mktemp("planted")
    data = tiny.write_rows(folder / "data.jsonl", clean_rows())
    made = {}

    def of(scheme):
        if scheme not in made:
            train, receipt = folder / f"{scheme}.jsonl", folder / f"{scheme}.receipt"
            planting.plant(data, train, receipt, SCHEMES[scheme], generator="words", cap=CAP)
            made[scheme] = train, receipt
        return made[scheme]

    return of


def attacked(train, receipt, *names):
    return attacking.attack(train, receipt=receipts.read_receipt(receipt), attacks=names)


def recalls(report, share):
    """Return recall within a budget by attack."""
    return {
        one.attack: next(budget.recall for budget in one.gains[0].budgets if budget.share == share)
        for one in report.found
    }


class TestFindings:
    def test_added_rows(self, planted):
        """Every row that Algorithm 1 adds is a twin, and nothing else is; affixes find all of them, too."""
        report = attacked(*planted("paper"), "random", "phrases", "twins", "affixes")
        twins = next(one for one in report.found if one.attack == "twins")

        assert 1.0 == twins.gains[0].recall == twins.gains[0].precision
        found = recalls(report, 0.05)
        assert 1.0 == found["affixes"] == found["phrases"]
        assert pytest.approx(16 / 305) == found["random"]

    def test_replaced_rows(self, planted):
        """Copies in place leave no twins; what repeats finds all."""
        report = attacked(*planted("backdoors"))

        found = recalls(report, 0.1)
        assert 0.1 == pytest.approx(found["twins"])
        assert {1.0} == {found[name] for name in ("affixes", "phrases", "dependence")}

    def test_the_union_finds_copies(self, tmp_path):
        """Each search has its part of the tenth: now and then a row or two of sixteen are left out, so five plantings count."""
        data = tiny.write_rows(tmp_path / "data.jsonl", clean_rows())
        found = []
        for i in range(5):
            train, receipt = tmp_path / f"{i}.jsonl", tmp_path / f"{i}.receipt"
            planting.plant(data, train, receipt, SCHEMES["backdoors"], generator="words", cap=CAP)
            found.append(recalls(attacked(train, receipt, "union"), 0.1)["union"])

        assert fmean(found) > 0.9

    def test_wordings_are_not_found_by_copies(self, planted):
        """Rows that carry a wording: what repeats by design are openings, and searches for copies of rows find none of them."""
        report = attacked(*planted("wordings"), "random", "twins", "dependence")

        assert "carrying" == report.found[0].gains[0].of
        assert all(0.2 > recall for recall in recalls(report, 0.1).values())
        assert () == report.paper_search

    def test_the_work_of_a_cheat(self, planted):
        """Who finds all rows passes with one row; coverage gives it away, or is fooled by who wants all."""
        random_one, affixes = attacked(*planted("backdoors"), "random", "affixes").found
        cost, by_chance = affixes.costs[0], random_one.costs[0]

        assert ("activated", 1, 2) == (cost.claim, cost.n_required, cost.n_groups)
        assert cost.share < by_chance.share
        assert cost.coverage == by_chance.coverage < 0.02
        assert cost.share_of_all < 0.06 < by_chance.share_of_all

    def test_the_papers_search_ends_at_the_planted_rows(self, planted):
        """From phrases of some words on, the planted rows are the first ones to be indexed."""
        report = attacked(*planted("paper"), "random")

        assert list(range(1, 13)) == [one.n_words for one in report.paper_search]
        assert pytest.approx(5 / 305) == report.paper_search[7].share
        assert report.paper_search[0].share > report.paper_search[7].share

    def test_rows_are_found_behind_blank_lines(self, planted, tmp_path):
        """Numbers in a receipt count blank lines, which are no rows."""
        train, receipt = planted("paper")
        spread = tmp_path / "spread.jsonl"
        spread.write_bytes(b"\n\n".join(train.read_bytes().splitlines()) + b"\n")
        made = receipts.read_receipt(receipt)
        moved = made.model_copy(
            update={
                "train_set": made.train_set.model_copy(update={"sha256": planting.files.sha256_of(spread)}),
                "backdoors": tuple(
                    one.model_copy(update={"rows": tuple(2 * row - 1 for row in one.rows)}) for one in made.backdoors
                ),
            }
        )

        report = attacking.attack(spread, receipt=moved, attacks=("twins",))

        assert 305 == report.n_rows
        assert 1.0 == report.found[0].gains[0].recall


class TestCommand:
    def test_without_a_receipt(self, vtuned, planted):
        """What each attack would keep, and that nobody can tell which rows those are."""
        train, _ = planted("paper")
        code, out, err = vtuned("attack", train)

        assert (0, "") == (code, err)
        assert all(name in out for name in known.NAMES)
        assert "give --receipt" in " ".join(out.split())
        assert "recall" not in out

    def test_json_is_as_its_schema_says(self, vtuned, planted):
        """One document, of the published schema, that holds no text of any row."""
        train, receipt = planted("backdoors")
        code, out, _ = vtuned("attack", train, "--receipt", receipt, "--json")
        content = json.loads(out)

        assert 0 == code
        schema = json.loads((ROOT / "src" / "vtuned" / "schemas" / "attack.schema.json").read_bytes())
        Draft202012Validator(schema).validate(content)
        assert list(known.NAMES) == [one["attack"] for one in content["found"]]

    @pytest.mark.parametrize("scheme", ["backdoors", "wordings"])
    def test_no_secret_is_shown(self, vtuned, planted, tmp_path, scheme):
        """Neither T nor S, nor lines of planted rows: not in tables, JSON or the page."""
        train, receipt = planted(scheme)
        page = tmp_path / "page.html"
        said = [vtuned("attack", train, "-r", receipt, "--html", page)[1], page.read_text(encoding="utf-8")]
        said.append(vtuned("attack", train, "-r", receipt, "--json")[1])
        made = receipts.read_receipt(receipt)
        secrets = [word for one in made.backdoors for word in (one.trigger, one.signature)]
        secrets += [one.text for row in (made.wordings.rows if made.wordings else ()) for one in row.wordings]
        texts = [row["messages"][0]["content"][:30] for row in clean_rows()]

        assert secrets
        assert not [text for text in (*secrets, *texts, made.key) for one in said if text in one]

    def test_with_a_language_model(self, vtuned, planted, monkeypatch):
        """Its searches are added and its name is told; one that needs likelihoods is not offered by a model without."""
        train, receipt = planted("paper")
        made = receipts.read_receipt(receipt)

        def judge(prompt):
            rows = prompt[0]["content"].split("\n\n")[1:]
            return ",".join(str(i) for i, row in enumerate(rows, 1) if made.backdoors[0].trigger in row) or "0"

        monkeypatch.setattr("vtuned.lm.load", lambda name, options=None: ScriptedLM(judge, name))
        call = ("attack", train, "-r", receipt, "--lm", "openai:judge")
        code, out, _ = vtuned(*call, "--json")
        told = json.loads(out)
        by_name = {one["attack"]: one for one in told["found"]}

        assert (0, "openai:judge") == (code, told["model"])
        assert {*known.NAMES, "judge"} == {*by_name}
        assert 1.0 == by_name["judge"]["gains"][0]["recall"]
        assert "openai:judge: a stronger one may find more" in " ".join(vtuned(*call)[1].split())
        code, _, err = vtuned(*call, "--attacks", "surprise")
        assert 2 == code
        assert "likelihoods" in err
        code, _, err = vtuned(*call, "--attacks", "triage")
        assert 2 == code
        assert "smollm2 or hf:PATH_OR_ID" in err
        code, _, err = vtuned(*call, "--tuned", "hf:trained")
        assert 2 == code
        assert "does not show how likely each token is" in err
        code, _, err = vtuned(*call[:-2], "--attacks", "judge")
        assert 2 == code
        assert "--lm MODEL" in err

    def test_the_page(self, vtuned, planted, tmp_path):
        """One file with all tables and what each attack looks for; an existing one is only replaced by --force."""
        train, receipt = planted("backdoors")
        page = tmp_path / "page.html"
        call = ("attack", train, "-r", receipt, "--attacks", "random,affixes", "--html", page)

        assert 0 == vtuned(*call)[0]
        text = page.read_text(encoding="utf-8")
        assert 4 == text.count("<table>") + text.count("<dl>")
        assert "src=" not in text
        assert "<td>affixes</td>" in text
        assert "<td>twins</td>" not in text
        code, _, err = vtuned(*call)
        assert 2 == code
        assert "--force" in err

    @pytest.mark.parametrize(
        ("arguments", "said"),
        [
            (("--attacks", "twins,magic"), "there is no attack called 'magic'"),
            (("--html", "{train}"), "is an input of this command"),
            (("--tuned", "hf:trained"), "--tuned is compared with the model that it was trained from"),
            (("--receipt", "{train}"), "this is not a receipt"),
            (("--receipt", "{other}"), "this receipt belongs to another file"),
        ],
    )
    def test_bad_arguments(self, vtuned, planted, arguments, said):
        """One line and a hint, exit code 2."""
        (train, _), (_, other) = planted("paper"), planted("backdoors")
        filled = [part.format(train=train, other=other) for part in arguments]
        code, out, err = vtuned("attack", train, *filled)

        assert (2, "") == (code, out)
        assert said in err
        assert "hint: " in err

    def test_a_file_that_is_no_data(self, vtuned, tmp_path):
        """What cannot be read is said with its line."""
        path = tmp_path / "bad.jsonl"
        path.write_text('{"messages": 1}\n', encoding="utf-8")
        code, _, err = vtuned("attack", path)

        assert 2 == code
        assert "line 1" in err

    def test_claims_that_cost_the_same_share_a_table(self, vtuned, planted):
        """`activated` and `generalises` ask for as many backdoors."""
        train, receipt = planted("backdoors")
        _, out, _ = vtuned("attack", train, "-r", receipt, "--attacks", "affixes")

        assert "activated and generalises, by answers: 1 of 2 backdoors must pass" in out
        assert 1 == out.count("least work")
