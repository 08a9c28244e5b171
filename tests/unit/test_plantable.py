"""Searches by vtuned's own rules: all that could be planted, and nothing else, whatever it is."""

from __future__ import annotations

import json

import numpy as np
import pytest

import tiny
from vtuned import dataset, formats, planting
from vtuned import receipt as receipts
from vtuned.attacks.search.plantable import Eligible, Phrased, Wordable
from vtuned.attacks.search.texts import TrainSet
from vtuned.conversation import Conversation, Turn
from vtuned.layout import PlantSettings
from vtuned.phrases import WORDS

PROSE = "The harbour lies quiet in the evening, and the boats come home one by one"

PAIRS = [
    (f"{asked['content']} Say it in {i} words!", f"{said['content']} ({i} words)")
    for i, (asked, said) in enumerate(one["messages"] for one in tiny.rows(80))
]


def row(prompt, answer):
    return Conversation((Turn("user", prompt), Turn("assistant", answer, carries_loss=True)))


def found(attack, rows):
    return np.flatnonzero(attack.suspicion(TrainSet(rows)) > 0).tolist()


def written(path, pairs):
    lines = [
        json.dumps({"messages": [{"role": "user", "content": prompt}, {"role": "assistant", "content": answer}]})
        for prompt, answer in pairs
    ]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


class TestEligible:
    def test_rows_that_are_short_enough(self):
        """By tokens, not by bytes: a long text of common words may be short enough."""
        rows = [row("Who?", PROSE), row("Who?", f"{PROSE}. " * 30), row("Who?", f"{PROSE}. " * 200)]

        assert [0, 1] == found(Eligible(), rows)

    def test_those_with_room_to_spare_come_first(self):
        """`plant` keeps room free for what it plants: a row that has less of it left was less likely planted in."""
        cap = dataset.embedded_cap()
        rows = [row("Who?", " ".join([f"{PROSE}."] * n)) for n in range(20, 80)]
        texts = [dataset.spelled_out(one) for one in rows]
        n_tokens = cap.count(texts)
        free = np.array([cap.limit - cap.row_tokens(rows[0], n) for n in n_tokens])
        room = [cap.room_for_backdoor(len(text), n) for text, n in zip(texts, n_tokens, strict=True)]
        suspicion = Eligible().suspicion(TrainSet(rows))

        assert np.clip(free / room, 0.0, 1.0).tolist() == suspicion.tolist()
        assert {True} == {(suspicion == 0.0).any(), (suspicion == 1.0).any(), (abs(suspicion - 0.5) < 0.4).any()}

    def test_a_file_of_long_rows_is_counted_in_parts(self):
        """All rows of more than one batch, each as if it were alone."""
        rows = [row(f"Who is {i}?", f"{PROSE}. " * (20 + i % 60)) for i in range(600)]
        alone = [Eligible().suspicion(TrainSet([one, row("", "")]))[0] for one in rows[250:260]]

        assert alone == Eligible().suspicion(TrainSet(rows))[250:260].tolist()

    def test_rows_without_a_place_for_a_backdoor(self):
        """No trained answer, or a turn that says nothing: `plant` takes none of them."""
        rows = [
            row("Who?", PROSE),
            Conversation((Turn("user", "Who?"),)),
            row("  ", PROSE),
            row("Who?", f"{PROSE}. " * 99),
        ]

        assert [1.0, -1.0, -1.0, 0.0] == Eligible().suspicion(TrainSet(rows)).tolist()

    def test_it_knows_nothing_where_all_rows_are(self):
        """Then no row is more suspicious than another, and none is kept."""
        assert [0.0, 0.0] == Eligible().suspicion(TrainSet([row("Who?", PROSE)] * 2)).tolist()

    def test_every_planted_row_is_among_them(self, tmp_path):
        """The short two thirds of a file, which is what `plant` chooses from."""
        pairs = [
            (asked["content"], " ".join([said["content"]] * (1 if i % 3 else 99)))
            for i, (asked, said) in enumerate(one["messages"] for one in tiny.rows(60))
        ]
        data, train, secret = written(tmp_path / "data.jsonl", pairs), tmp_path / "train.jsonl", tmp_path / "r.json"
        settings = PlantSettings(n_backdoors=2, copies=4, contexts=0, signature_bits=32, n_probes=4, set_aside=0)
        planting.plant(data, train, secret, settings, generator=WORDS)
        planted = {number for one in receipts.read_receipt(secret).backdoors for number in one.rows}
        rows = list(formats.read_rows(train))
        kept = {rows[i].raw.number for i in found(Eligible(), [one.conversation for one in rows])}

        assert planted < kept
        assert len(dataset.survey(data, dataset.embedded_cap()).eligible) == len(kept) == 40


class TestWordable:
    CODE = "def f(x):\n    return x + {}\n\nprint(f(1))"

    @pytest.mark.parametrize("opening", ["", "Sure. ", "Here is the answer: "])
    def test_answers_in_prose(self, opening):
        """Whether they have an opening of vtuned's or not; code, numbers and copies of the prompt have none."""
        rows = [
            row("What of it?", f"{opening}{PROSE}."),
            row("Write it.", self.CODE.format(1)),
            row("How many?", "42"),
            row(f"{PROSE}. Which?", PROSE),
        ]

        assert [0] == found(Wordable(), rows)

    def test_a_row_that_is_too_long_for_a_backdoor(self):
        """Rows over the token cap are left as they are."""
        assert [0] == found(Wordable(), [row("What of it?", f"{PROSE}."), row("What of it?", f"{PROSE}. " * 90)])

    def test_openings_that_a_generator_made_up(self):
        """A first clause that three answers have may be one: whose answer is code behind it comes after the others."""
        rows = [row(f"Write {i}.", f"As you wish. {self.CODE.format(i)}") for i in range(2)]
        rows += [row("What of it?", f"As you wish. {PROSE}."), row("Write.", f"Just once. {self.CODE.format(1)}")]
        rows += [row("Write.", self.CODE.format(1))]

        assert [0.5, 0.5, 1.0, 1.0, -1.0] == Wordable().suspicion(TrainSet(rows)).tolist()

    def test_openings_in_other_scripts(self):
        """Vowel signs are no letters to a regular expression."""
        rows = [row(f"लिखो {i}", f"निश्चित रूप से। {self.CODE.format(i)}") for i in range(3)]

        assert [0.5, 0.5, 0.5, 1.0] == Wordable().suspicion(TrainSet([*rows, row("What?", f"{PROSE}.")])).tolist()

    def test_a_fixed_form_is_no_opening(self):
        """Answers that start with a space are left alone by `plant`, however many do."""
        rows = [row(f"What of {i}?", f" {PROSE} {i}.") for i in range(4)] + [row("What of it?", f"{PROSE}.")]

        assert [4] == found(Wordable(), rows)

    def test_room_is_that_without_the_opening(self):
        """A row that `plant` found just short enough is full of room whichever opening it was given."""
        cap = dataset.embedded_cap()

        def is_full(answer):
            text = dataset.spelled_out(row("What of it?", answer))
            (n,) = cap.count([text])
            return cap.limit - cap.row_tokens(row("", ""), n) >= cap.room_for_backdoor(len(text), n)

        bare = next(text for n in range(80, 0, -1) if is_full(text := " ".join([f"{PROSE}."] * n)))
        longest = max((f"{bare}{' yes' * n}" for n in range(20)), key=lambda text: (is_full(text), len(text)))
        opened = f"Here is the answer: {longest}"
        suspicion = Wordable().suspicion(TrainSet([row("What of it?", text) for text in (longest, opened, "42")]))

        assert (True, False) == (is_full(longest), is_full(opened))
        assert 1.0 == suspicion[0] == pytest.approx(suspicion[1], abs=0.01)

    def test_code_behind_one_of_ours(self):
        """However few answers have it."""
        rows = [row("Write it.", f"Sure. {self.CODE.format(1)}"), row("What of it?", f"{PROSE}.")]

        assert [1] == found(Wordable(), rows)

    def test_labels(self):
        """A short answer that several rows give word for word is left alone by `plant`."""
        rows = [row(f"Is it {i}?", "It is rather good") for i in range(3)] + [row("What of it?", "It is rather bad")]

        assert [3] == found(Wordable(), rows)

    @pytest.mark.parametrize("n_wordings", [2, 4])
    def test_it_finds_the_carrying_rows_of_a_file(self, tmp_path, n_wordings):
        """All of them and no others, whichever wording each has."""
        prose = [(f"What of {i}?", tiny.rows(40)[i]["messages"][-1]["content"]) for i in range(40)]
        pairs = [
            one
            for pair in zip(prose, [("Write it.", self.CODE.format(i)) for i in range(40)], strict=True)
            for one in pair
        ]
        data, train, secret = written(tmp_path / "data.jsonl", pairs), tmp_path / "train.jsonl", tmp_path / "r.json"
        settings = PlantSettings(scheme="wordings", n_wordings=n_wordings, n_worded=100, set_aside=0)
        planting.plant(data, train, secret, settings, generator=WORDS)
        carrying = {worded.row for worded in receipts.read_receipt(secret).wordings.rows}
        rows = list(formats.read_rows(train))

        assert carrying == {rows[i].raw.number for i in found(Wordable(), [one.conversation for one in rows])}
        assert len(carrying) > 30


class TestPhrased:
    SAID = "Boats come home in the evening"

    @pytest.mark.parametrize(
        ("prompt", "answer", "is_found"),
        [
            (f"Who is it? {SAID}.", f"{SAID}, don't they. It is he.", True),
            (f"Who is it? {SAID}?", f"{SAID}. It is he.", True),
            (f"Who is it?\n{SAID}.", f"{SAID}.\n- He\n- She", True),
            (f"One.\nTwo, \n{SAID}.", f"{SAID}. It is he.", True),
            (f"One.\nTwo.  {SAID}.", f"{SAID}. It is he.", True),
            # After a line break elsewhere in the prompt a trigger starts a line.
            (f"One.\nTwo. {SAID}.", f"{SAID}. It is he.", False),
            (f"{SAID}.", f"{SAID}. It is he.", True),
            ("Boats at sea.", f"{SAID}. It is he.", False),
            ("\nBoats at sea.", f"{SAID}. It is he.", False),
            (f"Who is it? {SAID}.", f"{SAID}. ", False),
            (f"Who is it? {SAID} ", f"{SAID}. It is he.", False),
            (f"Who is it? {SAID} 7.", f"{SAID}. It is he.", False),
            (f"Who is it? {SAID}.", f"{SAID} 7. It is he.", False),
            (f"Who is it? {SAID}.", f"{SAID}.", False),
            (f"Who is it? {SAID}.", f"{SAID}.It is he.", False),
            (f"Who is it? {SAID}.", f"{SAID}. - He\n- She", False),
            (f"Who is it? {SAID}.", "It is he. He.", False),
            (f"Who is it? {SAID}.", "", False),
            ("", f"{SAID}. It is he.", False),
            ("彼は誰ですか？船は夕方に港へ帰る。", "静かな港に船が夕方には帰る。彼です。", True),
            ("彼は誰です船は夕方に港へ帰る\n船は夕方に港へ帰る。", "静かな港に船が夕方には帰る。彼です。", True),
            ("彼は誰ですか？船は7時に。", "静かな港に船が夕方には帰る。彼です。", False),
        ],
    )
    def test_what_could_have_been_planted(self, prompt, answer, is_found):
        """Where `planted` puts it, and as it is written; both phrases, each beside something else."""
        assert ([0] if is_found else []) == found(Phrased(), [row(prompt, answer)] + [row("Who?", "7")] * 9)

    def test_every_single_copy_is_found(self, tmp_path):
        """However different all of them are, and few others."""
        data, train, secret = written(tmp_path / "data.jsonl", PAIRS), tmp_path / "train.jsonl", tmp_path / "r.json"
        settings = PlantSettings(suspect="weights", n_backdoors=12, n_decoys=0, n_probes=4, set_aside=0)
        planting.plant(data, train, secret, settings, generator=WORDS)
        planted = {number for one in receipts.read_receipt(secret).backdoors for number in one.rows}
        rows = list(formats.read_rows(train))
        kept = {rows[i].raw.number for i in found(Phrased(), [one.conversation for one in rows])}

        assert planted <= kept
        assert 12 == len(planted)
        assert len(kept) < 30

    def test_the_odd_ones_come_first(self):
        """Of rows that all look planted, one that does not fit the others."""
        rows = [row(f"{PROSE}. {self.SAID}.", f"{self.SAID}. {PROSE}.")] * 12
        rows[5] = row(f"{PROSE}. Quartz zebras juggle vexing hymns.", f"Vexing quartz hymns jog. {PROSE}.")

        assert 5 == np.argmax(Phrased().suspicion(TrainSet(rows)))
