"""Files that break what providers document, one kind of rule after the other, and files that do not."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from datetime import date
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from vtuned import files
from vtuned.errors import DatasetError, EmptyDataset, UsageError, WrongDataset
from vtuned.formats import CODECS
from vtuned.linting import Announcement, Finding, LintSettings, Provider, Report, Rule, known, lint, named, with_rules
from vtuned.linting.rules import SEVERITIES
from vtuned.receipt import FileRecord, Receipt

DAY = date(2026, 11, 25)
Chat = dict[str, Any]


def say(*turns: str, **keys: Any) -> Chat:
    """Return a chat row of turns such as "user: Hello?"; *keys* stand beside the messages."""
    pairs = [turn.split(": ", 1) for turn in turns]
    return {"messages": [{"role": role, "content": content} for role, content in pairs], **keys}


def chat(i: int = 0) -> Chat:
    """Return a row that no rule is against."""
    return say(f"user: Question {i}?", f"assistant: Answer {i}.")


def rule(kind: str, value: Any, effect: str = "refuses") -> Rule:
    """Return a rule that somebody might document."""
    return Rule(kind=kind, value=value, effect=effect, source="a page", seen=DAY)


def provider(*rules: Rule, **more: Any) -> Provider:
    """Return a provider with these rules."""
    return Provider(name="some", title="Somebody", rules=rules, **more)


def characters(texts: Sequence[str]) -> list[int]:
    """Count a token for each character."""
    return [len(text) for text in texts]


@pytest.fixture
def held(write_jsonl: Callable[..., Path]) -> Callable[..., Report]:
    """`held(rows, *rules, bom=, receipt=, words=, …)`: the report on a file of *rows*."""

    def report(rows: Sequence[object] | Path | list[Path], *rules: Rule, bom: bool = False, **more: Any) -> Report:
        is_there = isinstance(rows, Path) or isinstance(rows[0], Path)
        data = rows if is_there else write_jsonl(rows, bom=bom)
        return lint(data, LintSettings(providers=(provider(*rules),), count=characters, tokenizer="characters", **more))

    return report


def codes(report: Report) -> list[str]:
    """Return the codes of all that was found."""
    return [finding.code for _, finding in report.findings]


def lines(finding: Finding) -> list[int]:
    """Return the numbers of the lines that a finding names."""
    return [line.line for line in finding.lines]


PARTS = {"role": "user", "content": [{"type": "text", "text": "What is this?"}]}
TOOLS = [
    {"role": "user", "content": "Weather?"},
    {
        "role": "assistant",
        "tool_calls": [{"id": "a", "type": "function", "function": {"name": "w", "arguments": "{}"}}],
    },
    {"role": "tool", "tool_call_id": "a", "content": "Rain."},
    {"role": "assistant", "content": "It rains."},
    {"role": "assistant", "content": "Take a coat."},
]


class TestRows:
    @pytest.mark.parametrize(
        ("bad", "broken"),
        [
            pytest.param({"prompt": "Why?", "completion": "So."}, rule("formats", ["openai-chat"]), id="format"),
            pytest.param(say("user: A?", "assistant: B.", id=7), rule("fields", ["messages", "tools"]), id="field"),
            pytest.param(
                say("developer: A.", "user: B?", "assistant: C."), rule("roles", ["user", "assistant"]), id="role"
            ),
            pytest.param(
                say("assistant: A.", "user: B?", "assistant: C."), rule("first_role", ["system", "user"]), id="first"
            ),
            pytest.param(say("user: A?", "assistant: B.", "user: C?"), rule("last_role", ["assistant"]), id="last"),
            pytest.param(
                say("user: A?", "user: B?", "assistant: C."), rule("alternating", ["user", "assistant"]), id="turns"
            ),
            pytest.param(
                {"messages": [PARTS, {"role": "assistant", "content": "A."}]}, rule("content", "text"), id="parts"
            ),
            pytest.param(say("user: Where?", "assistant: In WEIRDLAND."), rule("moderation", ["weirdland"]), id="word"),
        ],
    )
    def test_one_row_breaks_the_rule(self, held: Callable[..., Report], bad: Chat, broken: Rule) -> None:
        """The rule's kind is said, as an error, with the line of the one row that breaks it; a file without it is fine."""
        (report,) = held([chat(1), bad, chat(3)], broken, row_format="auto").providers
        (finding,) = report.findings

        assert (broken.kind, "error", 1, [2]) == (finding.code, finding.severity, finding.n_rows, lines(finding))
        assert ("a page", DAY) == (finding.source, finding.seen)
        assert [] == codes(held([chat(1), chat(2)], broken))

    def test_two_formats_in_one_row(self, held: Callable[..., Report]) -> None:
        """Keys of two formats: refused by the rule where the user says the format, unreadable where not."""
        rows = [chat(1), {**chat(2), "prompt": "Why?", "completion": "So."}]
        one = rule("one_format", ["openai-chat", "prompt-completion"])

        (finding,) = held(rows, one, row_format="openai-chat").providers[0].findings
        assert ("one_format", [2]) == (finding.code, lines(finding))
        assert ["unreadable"] == codes(held(rows, one))

    def test_tool_turns_are_not_held_against_alternation(self, held: Callable[..., Report]) -> None:
        """No source says how they count."""
        assert [] == codes(held([{"messages": TOOLS}], rule("alternating", ["user", "assistant"])))

    def test_system_turns_do_not_break_alternation(self, held: Callable[..., Report]) -> None:
        """They are none of the two roles that take turns."""
        rows = [say("system: Be kind.", "system: Be brief.", "user: A?", "assistant: B.", "user: C?", "assistant: D.")]

        assert [] == codes(held(rows, rule("alternating", ["user", "assistant"])))

    def test_words_are_whole(self, held: Callable[..., Report]) -> None:
        """A word inside another is not found; a word of a script without spaces is, anywhere."""
        rows = [say("user: A?", "assistant: Classic."), say("user: B?", "assistant: これは秘密です。")]

        assert [] == codes(held(rows, rule("moderation", ["class"])))
        assert [2] == lines(held(rows, rule("moderation", ["秘密"])).providers[0].findings[0])

    def test_moderation_without_a_list_is_told(self, held: Callable[..., Report]) -> None:
        """Who publishes no words cannot be held against; that rows are moderated is said."""
        (finding,) = held([chat()], rule("moderation", [], "tells")).providers[0].findings

        assert ("note", 0) == (finding.severity, finding.n_rows)

    def test_first_lines_and_a_count(self, held: Callable[..., Report]) -> None:
        """Of many rows the first five lines are named."""
        rows = [say("user: A?", "assistant: B.", f"user: {i}?") for i in range(9)]
        (finding,) = held(rows, rule("last_role", ["assistant"])).providers[0].findings

        assert (9, [1, 2, 3, 4, 5]) == (finding.n_rows, lines(finding))


class TestTokens:
    def test_too_long_rows(self, held: Callable[..., Report]) -> None:
        """What is over the cap, templates' tokens with it, would be cut: 44 around two turns, and a line break."""
        rows = [chat(1), say("user: " + "a" * 500, "assistant: b"), say("user: " + "a" * 454, "assistant: b")]
        (finding,) = held(rows, rule("max_row_tokens", 500, "cuts")).providers[0].findings

        assert ("warning", 1, [2]) == (finding.severity, finding.n_rows, lines(finding))
        assert 500 + 1 + 1 + 44 - 500 == finding.n_cut_tokens

    def test_just_at_the_cap(self, held: Callable[..., Report]) -> None:
        """A row of exactly as many tokens as the cap is whole; one more is cut."""
        rows = [say("user: " + "a" * n, "assistant: b") for n in (454, 455)]
        (finding,) = held(rows, rule("max_row_tokens", 500, "cuts")).providers[0].findings

        assert (1, [2], 1) == (finding.n_rows, lines(finding), finding.n_cut_tokens)

    def test_several_caps_and_many_rows(self, held: Callable[..., Report]) -> None:
        """Each cap counts for itself, also where rows are counted in several batches."""
        rows = [say(f"user: {'a' * 300} {i}", "assistant: b") for i in range(300)]
        caps = rule("max_row_tokens", 200, "cuts"), rule("max_row_tokens", 10_000, "refuses")
        (finding,) = held(rows, *caps).providers[0].findings

        assert ("warning", 300) == (finding.severity, finding.n_rows)

    def test_tokens_of_a_job(self, held: Callable[..., Report]) -> None:
        """All text together, a token for three bytes."""
        rows = [say("user: " + "a" * 300, "assistant: b")]

        assert ["max_job_tokens"] == codes(held(rows, rule("max_job_tokens", 99)))
        assert [] == codes(held(rows, rule("max_job_tokens", 100)))


class TestFiles:
    @pytest.mark.parametrize(
        ("broken", "kept"),
        [
            pytest.param(rule("containers", ["parquet"]), rule("containers", ["jsonl"]), id="container"),
            pytest.param(rule("suffixes", [".json"]), rule("suffixes", [".jsonl"]), id="suffix"),
            pytest.param(rule("max_bytes", 199), rule("max_bytes", 10_000), id="bytes"),
            pytest.param(rule("min_rows", 4), rule("min_rows", 3), id="few"),
            pytest.param(rule("max_rows", 2), rule("max_rows", 3), id="many"),
            pytest.param(rule("bom", "required"), rule("bom", "refused"), id="mark"),
        ],
    )
    def test_a_file_that_breaks_the_rule(self, held: Callable[..., Report], broken: Rule, kept: Rule) -> None:
        """No rows are named: the file as a whole is refused."""
        rows = [chat(i) for i in range(3)]
        (finding,) = held(rows, broken).providers[0].findings

        assert (broken.kind, "error", 0) == (finding.code, finding.severity, finding.n_rows)
        assert [] == codes(held(rows, kept))

    def test_the_size_is_that_of_the_file(self, held: Callable[..., Report], write_jsonl: Callable[..., Path]) -> None:
        """To the byte."""
        size = write_jsonl([chat()]).stat().st_size

        assert [] == codes(held([chat()], rule("max_bytes", size)))
        assert ["max_bytes"] == codes(held([chat()], rule("max_bytes", size - 1)))

    def test_byte_order_mark(self, held: Callable[..., Report]) -> None:
        """A file with a mark is what one provider asks for and another refuses."""
        assert [] == codes(held([chat()], rule("bom", "required"), bom=True))
        assert ["bom"] == codes(held([chat()], rule("bom", "refused"), bom=True))

    def test_shards(self, held: Callable[..., Report], write_jsonl: Callable[..., Path]) -> None:
        """Several files are still JSON lines; lines are named with their file, and a link is counted."""
        one = write_jsonl([chat(1)], "a.jsonl")
        other = write_jsonl([chat(2), say("user: A?", "assistant: B.", "user: C?")], "b.jsonl")
        link = one.parent / "c.jsonl"
        link.symlink_to(write_jsonl([chat(3)], "elsewhere"))
        report = held(
            [one, other, link],
            rule("containers", ["jsonl"]),
            rule("max_files", 1),
            rule("max_shard_links", 0),
            rule("last_role", ["assistant"]),
        )

        assert ["max_files", "max_shard_links", "last_role"] == codes(report)
        assert [("b.jsonl", 2)] == [(line.file, line.line) for line in report.providers[0].findings[2].lines]

    def test_advice_is_always_given(self, held: Callable[..., Report]) -> None:
        """As a note."""
        (finding,) = held([chat()], rule("advice", "mind the gap", "tells")).providers[0].findings

        assert ("note", "mind the gap") == (finding.severity, finding.message)

    def test_the_gravest_of_one_kind(self, held: Callable[..., Report]) -> None:
        """A file over two limits is told of the one that gets it refused, in whatever order they stand."""
        limits = rule("max_bytes", 1, "tells"), rule("max_bytes", 20, "refuses"), rule("max_bytes", 10, "may refuse")

        assert ["error"] == [finding.severity for _, finding in held([chat()], *limits).findings]
        assert ["warning"] == [finding.severity for _, finding in held([chat()], limits[0], limits[2]).findings]


class TestWhateverTheProvider:
    def test_mixed_formats(self, held: Callable[..., Report]) -> None:
        """Rows of another format than the first are an error, with their lines; the others are looked at."""
        report = held(
            [chat(1), {"prompt": "Why?", "completion": "So."}, say("user: A?", "assistant: B.", "user: C?")],
            rule("last_role", ["assistant"]),
        )
        (mixed,) = report.common

        assert ("mixed_formats", "error", [2]) == (mixed.code, mixed.severity, lines(mixed))
        assert ["mixed_formats", "last_role"] == codes(report)
        assert "openai-chat" == report.row_format

    def test_unreadable_rows(self, held: Callable[..., Report], tmp_path: Path) -> None:
        """Broken JSON and broken rows are counted, the first with its reason; what can be read is looked at."""
        path = tmp_path / "data.jsonl"
        bad = {"messages": [{"role": "critic", "content": "No."}]}
        path.write_text(
            "\n".join(["{", json.dumps(bad), json.dumps(say("user: A?", "assistant: B.", "user: C?"))]) + "\n"
        )
        report = held(path, rule("last_role", ["assistant"]))

        assert ["unreadable", "last_role"] == codes(report)
        assert (2, [1, 2]) == (report.common[0].n_rows, lines(report.common[0]))
        assert "line 1 (byte 0): not JSON" in report.common[0].message
        assert 3 == report.n_rows

    def test_a_null_weight_is_unreadable(self, held: Callable[..., Report]) -> None:
        """`weight` is 0 or 1 or absent, at whoever takes it."""
        rows = [
            chat(1),
            {"messages": [*chat(2)["messages"][:1], {"role": "assistant", "content": "A.", "weight": None}]},
        ]

        assert ["unreadable"] == codes(held(rows))

    def test_duplicates(self, held: Callable[..., Report]) -> None:
        """Copies are counted from the second on; a note, since nobody documents that they are dropped."""
        (finding,) = held([chat(1), chat(2), chat(1), chat(1)]).common

        assert ("duplicates", "note", 2, [3, 4]) == (finding.code, finding.severity, finding.n_rows, lines(finding))

    def test_who_deduplicates(self, held: Callable[..., Report]) -> None:
        """With a rule that says so they are rows dropped, and a warning."""
        (finding,) = held([chat(1), chat(1)], rule("deduplicates", "rows", "drops")).providers[0].findings

        assert ("warning", 1) == (finding.severity, finding.n_dropped_rows)

    def test_words_of_ones_own(self, held: Callable[..., Report]) -> None:
        """Rows that hold one are counted."""
        (finding,) = held([chat(1), say("user: A?", "assistant: A grue.")], words=("grue",)).common

        assert ("words", "warning", [2]) == (finding.code, finding.severity, lines(finding))

    def test_no_rows(self, held: Callable[..., Report], tmp_path: Path) -> None:
        """An empty file, and none at all, are errors of their own."""
        (tmp_path / "empty.jsonl").touch()
        with pytest.raises(EmptyDataset):
            held(tmp_path / "empty.jsonl")
        with pytest.raises(DatasetError, match="nowhere"):
            held(tmp_path / "nowhere.jsonl")

    def test_progress(self, write_jsonl: Callable[..., Path]) -> None:
        """Bytes read so far are told on the way."""
        told: list[int] = []
        path = write_jsonl([chat(i) for i in range(600)])
        lint(path, LintSettings(providers=(), count=characters, tokenizer="t"), on_bytes=told.append)

        assert 2 == len(told)
        assert 0 < told[0] < told[1] < path.stat().st_size


class TestReceipts:
    @pytest.fixture
    def sent(self, write_jsonl: Callable[..., Path], receipt: Receipt) -> tuple[Path, Receipt]:
        """A file of 100 rows, planted in 1 to 16: rows 1, 2 and 50 are too long, row 6 is row 5 once more."""
        rows = [chat(i) for i in range(100)]
        for i in (0, 1, 49):
            rows[i] = say("user: " + "a" * 400 + str(i), "assistant: b")
        rows[5] = rows[4]
        path = write_jsonl(rows)
        file = FileRecord(sha256=files.sha256_of(path), n_bytes=path.stat().st_size, n_rows=100)
        return path, receipt.model_copy(update={"train_set": file})

    def test_copies_lost_to_a_cap(self, held: Callable[..., Report], sent: tuple[Path, Receipt]) -> None:
        """How many planted rows are cut, of which backdoor; the lines of planted rows are not told."""
        (finding,) = held(sent[0], rule("max_row_tokens", 300, "cuts"), receipt=sent[1]).providers[0].findings

        assert (3, 2, [50]) == (finding.n_rows, finding.n_planted, lines(finding))
        assert [(1, 4, 2)] == [(risk.backdoor, risk.copies, risk.n_lost) for risk in finding.backdoors]

    def test_copies_that_are_the_same(self, held: Callable[..., Report], sent: tuple[Path, Receipt]) -> None:
        """Whoever deduplicates eats a copy of the second backdoor: a warning now, and no line."""
        (finding,) = held(sent[0], receipt=sent[1]).common

        assert ("duplicates", "warning", 1, ()) == (finding.code, finding.severity, finding.n_planted, finding.lines)
        assert [(2, 4, 1)] == [(risk.backdoor, risk.copies, risk.n_lost) for risk in finding.backdoors]

    def test_no_secret_is_told(self, held: Callable[..., Report], sent: tuple[Path, Receipt]) -> None:
        """Neither triggers nor signatures nor the key."""
        report = held(sent[0], rule("max_row_tokens", 300, "cuts"), receipt=sent[1]).model_dump_json()
        secrets = [sent[1].key, *(text for one in sent[1].backdoors for text in (one.trigger, one.signature))]

        assert [] == [secret for secret in secrets if secret in report]

    def test_another_file(self, held: Callable[..., Report], receipt: Receipt) -> None:
        """A receipt says nothing of a file that it was not made for."""
        with pytest.raises(WrongDataset):
            held([chat()], receipt=receipt)


class TestTheData:
    def test_every_provider_that_is_documented(self) -> None:
        """Names are unique, and the services of the ecosystem are there."""
        names = [one.name for one in known()]

        assert len(set(names)) == len(names)
        assert {"openai", "azure", "together", "fireworks", "nebius", "crusoe", "mistral", "trl", "vtuned"} == {
            one.name for one in with_rules()
        }

    def test_every_rule_has_a_source_and_a_day(self) -> None:
        """And no day is to come."""
        rules = [one for some in known() for one in (*some.rules, *some.announcements)]

        assert [] == [one for one in rules if len(one.source) < 8 or not date(2026, 1, 1) <= one.seen <= DAY]

    def test_formats_are_those_that_we_read(self) -> None:
        """A name that no codec has would refuse every file."""
        named_formats = {
            name
            for some in known()
            for one in some.rules
            if one.kind in ("formats", "one_format")
            for name in one.words
        }

        assert named_formats <= {codec.name for codec in CODECS}

    def test_good_rows_are_refused_by_nobody(self, write_jsonl: Callable[..., Path]) -> None:
        """Sixty plain chat rows break no rule that would get them refused."""
        path = write_jsonl([chat(i) for i in range(60)])
        report = lint(path, LintSettings(providers=with_rules(), count=characters, tokenizer="t"))

        assert [] == report.errors()

    @pytest.mark.parametrize(
        ("name", "rows", "bom", "broken"),
        [
            pytest.param("openai", [chat(i) for i in range(9)], False, "min_rows", id="openai-rows"),
            pytest.param(
                "openai", [say("user: A?", "assistant: B.", "user: C?")] * 10, False, "last_role", id="openai-last"
            ),
            pytest.param("azure", [chat(i) for i in range(9)], True, "min_rows", id="azure-rows"),
            pytest.param("together", [chat(i) for i in range(9)], True, "bom", id="together-mark"),
            pytest.param(
                "together", [say("user: A?", "user: B?", "assistant: C.")], False, "alternating", id="together-turns"
            ),
            pytest.param("fireworks", [chat(1), chat(2)], False, "min_rows", id="fireworks-rows"),
            pytest.param("crusoe", [{"prompt": "A?", "completion": "B."}], False, "formats", id="crusoe-format"),
        ],
    )
    def test_what_providers_refuse(
        self, write_jsonl: Callable[..., Path], name: str, rows: list[Chat], bom: bool, broken: str
    ) -> None:
        """Each of the documented refusals gives one error."""
        how = LintSettings(providers=named([name]), count=characters, tokenizer="t")

        assert [broken] == [finding.code for _, finding in lint(write_jsonl(rows, bom=bom), how).errors()]

    def test_azure_wants_a_mark(self, write_jsonl: Callable[..., Path]) -> None:
        """Its older page does, its newer one does not say: a warning without a mark, nothing with one."""
        how = LintSettings(providers=named(["azure"]), count=characters, tokenizer="t")
        rows = [chat(i) for i in range(60)]
        found = [
            [
                finding.code
                for _, finding in lint(write_jsonl(rows, bom=bom), how).findings
                if finding.severity == "warning"
            ]
            for bom in (False, True)
        ]

        assert [["bom"], []] == found

    def test_unknown_names(self) -> None:
        """The known ones are told; a name given twice counts once."""
        with pytest.raises(UsageError) as raised:
            named(["openai", "opennai"])

        assert "together" in raised.value.hint
        assert ["azure"] == [one.name for one in named(["azure", "azure"])]

    @pytest.mark.parametrize(
        ("kind", "value"),
        [("max_bytes", ["a"]), ("max_bytes", -1), ("bom", "perhaps"), ("formats", "openai-chat"), ("advice", 3)],
    )
    def test_values_fit_their_kind(self, kind: str, value: Any) -> None:
        """A rule that could not be checked cannot be written."""
        with pytest.raises(ValidationError):
            rule(kind, value)

    def test_effects_have_a_severity(self) -> None:
        """What gets a file refused is an error; what may, or takes text away, a warning."""
        expected = {"refuses": "error", "may refuse": "warning", "cuts": "warning", "drops": "warning", "tells": "note"}

        assert expected == SEVERITIES


class TestAnnouncements:
    END = Announcement(on=date(2027, 1, 6), what="The end.", source="a page", seen=DAY)

    @pytest.mark.parametrize(
        ("today", "expected"),
        [
            pytest.param(date(2026, 11, 25), "2027-01-06 (in 42 days)", id="to-come"),
            pytest.param(date(2027, 1, 5), "2027-01-06 (in 1 day)", id="tomorrow"),
            pytest.param(date(2027, 1, 6), "2027-01-06 (today)", id="today"),
            pytest.param(date(2027, 1, 7), "2027-01-06 (passed 1 day ago)", id="passed"),
        ],
    )
    def test_when(self, today: date, expected: str) -> None:
        """A day is to come, is today, or has passed."""
        assert expected == self.END.when(today)

    def test_what_was_found_gone(self) -> None:
        """Nobody announced it: the day is when it was seen."""
        assert "seen on 2027-01-06" == self.END.model_copy(update={"is_observed": True}).when(DAY)

    def test_only_what_concerns_all_models(self, write_jsonl: Callable[..., Path]) -> None:
        """A file does not say which model it is for; without today's date nothing is told."""
        for_one = self.END.model_copy(update={"models": "gpt-4o"})
        some = provider(announcements=(self.END, for_one))
        how = LintSettings(providers=(some,), count=characters, tokenizer="t", today=DAY)
        path = write_jsonl([chat()])

        (finding,) = lint(path, how).providers[0].findings
        assert ("announced", "warning", "2027-01-06 (in 42 days): The end.") == (
            finding.code,
            finding.severity,
            finding.message,
        )
        assert () == lint(path, LintSettings(providers=(some,), count=characters, tokenizer="t")).providers[0].findings

    def test_patterns_compile(self) -> None:
        """A pattern that is none cannot be written."""
        with pytest.raises(ValidationError):
            Announcement(on=DAY, what="x", source="a page", seen=DAY, models="(")
