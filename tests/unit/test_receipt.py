"""The customer's secret: written, read back, and never believed when it breaks its own rules."""

from __future__ import annotations

import json
import stat
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any, Literal

import pytest
from pydantic import ValidationError

from vtuned import documents, files
from vtuned.errors import DatasetError, ReceiptError, ReceiptTampered, UnsupportedReceipt
from vtuned.receipt import Receipt, StatisticalPlan, read_receipt, to_json

MakeReceipt = Callable[..., Receipt]


@pytest.fixture
def written(receipt: Receipt, tmp_path: Path) -> Path:
    """A receipt file."""
    path = tmp_path / "receipt.json"
    files.write_bytes(path, to_json(receipt), force=False, secret=True)
    return path


@pytest.fixture
def rewrite(receipt: Receipt, tmp_path: Path) -> Callable[[Callable[[dict[str, Any]], object]], Path]:
    """`rewrite(change)`: a receipt file whose content was changed, with a digest that fits."""

    def write(change: Callable[[dict[str, Any]], object]) -> Path:
        content = receipt.model_dump(mode="json")
        change(content)
        path = tmp_path / "changed.json"
        path.write_text(json.dumps({**content, "digest": documents.digest(content)}))
        return path

    return write


class TestRoundTrip:
    def test_reads_back_equal(self, receipt: Receipt, written: Path) -> None:
        """Nothing is lost on the way to the disk and back, ratios included."""
        read = read_receipt(written)

        assert receipt == read
        assert receipt.digest() == read.digest()
        assert Fraction(1, 10) == read.plan.ratio

    def test_the_digest_is_of_the_content(self, receipt: Receipt, written: Path) -> None:
        """SHA-256 of the canonical JSON without the digest itself."""
        content = json.loads(written.read_bytes())

        assert receipt.digest() == content.pop("digest") == documents.digest(content)

    def test_layout_of_the_json_does_not_matter(self, written: Path, receipt: Receipt) -> None:
        """White space and the order of keys are no content."""
        content = json.loads(written.read_bytes())
        written.write_text(json.dumps(dict(reversed(content.items())), ensure_ascii=True))

        assert receipt == read_receipt(written)

    def test_only_the_owner_may_read_it(self, written: Path) -> None:
        """Mode 0600."""
        assert 0o600 == stat.S_IMODE(written.stat().st_mode)

    def test_other_content_has_another_digest(self, receipt: Receipt, make_receipt: MakeReceipt) -> None:
        """No two receipts share a digest."""
        assert receipt.digest() != make_receipt(alpha=1e-4).digest()


class TestReading:
    @pytest.mark.parametrize(
        "edit",
        [
            pytest.param(lambda c: c["plan"].update(alpha=0.5), id="alpha"),
            pytest.param(lambda c: c["backdoors"][0].update(signature="The."), id="signature"),
            pytest.param(lambda c: c["probes"].pop(), id="a-probe-less"),
            pytest.param(lambda c: c["probes"].reverse(), id="order-of-probes"),
            pytest.param(lambda c: c.update(extra=1), id="another-key"),
            pytest.param(lambda c: c["plan"].update(alpha=float("nan")), id="not-canonical"),
            pytest.param(lambda c: c.update(digest="0" * 64), id="digest"),
        ],
    )
    def test_an_edited_receipt_is_noticed(self, written: Path, edit: Callable[[dict[str, Any]], object]) -> None:
        """The plan was fixed before anything was sent; who edits it, is told so."""
        content = json.loads(written.read_bytes())
        edit(content)
        written.write_text(json.dumps(content))

        with pytest.raises(ReceiptTampered, match="changed after it was written"):
            read_receipt(written)

    @pytest.mark.parametrize("found", ["vtuned.receipt/2", "vtuned.receipt/0.9"])
    def test_another_version(self, rewrite: Callable[..., Path], found: str) -> None:
        """A receipt of another version is told apart from a broken one."""
        with pytest.raises(UnsupportedReceipt) as caught:
            read_receipt(rewrite(lambda c: c.update(format=found)))
        assert (found, "vtuned.receipt/1") == (caught.value.found, caught.value.supported)

    @pytest.mark.parametrize(
        "text",
        [
            pytest.param(b"", id="empty"),
            pytest.param(b"not json", id="no-json"),
            pytest.param(b"[]", id="a-list"),
            pytest.param(b"{}", id="no-format"),
            pytest.param(b'{"format": 1, "digest": "x"}', id="format-is-a-number"),
            pytest.param(b'{"format": "vtuned.receipt/1"}', id="no-digest"),
            pytest.param(b'{"format": "vtuned.receipt/1", "digest": 5}', id="digest-is-a-number"),
            pytest.param(b'{"format": "vtuned.verdict/1", "digest": "x"}', id="a-verdict"),
            pytest.param(b'{"messages": []}\n{"messages": []}\n', id="a-data-set"),
            pytest.param(b"\xff\xfe{}", id="not-utf-8"),
            pytest.param(b"[" * 200_000, id="nested-too-deeply"),
        ],
    )
    def test_not_a_receipt(self, tmp_path: Path, text: bytes) -> None:
        """Any other file is told what it should have been."""
        path = tmp_path / "r.json"
        path.write_bytes(text)

        with pytest.raises(ReceiptError, match="this is not a receipt"):
            read_receipt(path)

    def test_no_file(self, tmp_path: Path) -> None:
        """A missing file is an error of the file, not of the receipt."""
        with pytest.raises(DatasetError, match="cannot read"):
            read_receipt(tmp_path / "missing.json")

    @pytest.mark.parametrize(
        ("key", "change"),
        [
            pytest.param("plan.alpha", lambda c: c["plan"].update(alpha="seCret"), id="alpha"),
            pytest.param("key", lambda c: c.update(key="seCret"), id="key"),
            pytest.param("mode", lambda c: c.update(mode="seCret"), id="mode"),
            pytest.param("backdoors.1.rows", lambda c: c["backdoors"][1].update(rows="seCret"), id="rows"),
            pytest.param("backdoors.0.trigger", lambda c: c["backdoors"][0].update(trigger=["seCret"]), id="trigger"),
            pytest.param(
                "plan.ratio",
                lambda c: c["plan"].update(ratio="seCret"),
                id="ratio",
            ),
            pytest.param("probes.0.messages", lambda c: c["probes"][0].update(messages="seCret"), id="messages"),
            pytest.param("train_set.sha256", lambda c: c["train_set"].update(sha256="seCret"), id="sha256"),
            pytest.param("tokenizer", lambda c: c.pop("tokenizer"), id="a-missing-key"),
        ],
    )
    def test_invalid_values_are_named_and_not_shown(
        self, rewrite: Callable[..., Path], key: str, change: Callable[[dict[str, Any]], object]
    ) -> None:
        """An error says where, and how it should be; values may be secrets."""
        with pytest.raises(ReceiptError) as caught:
            read_receipt(rewrite(change))

        assert key in str(caught.value)
        assert "seCret" not in str(caught.value) + caught.value.hint


class TestRules:
    @pytest.mark.parametrize(
        ("reason", "change"),
        [
            pytest.param(
                "smaller log10_p_upper", lambda c: c["backdoors"][2].update(log10_p_upper=-19.3), id="p-upper"
            ),
            pytest.param("smaller log10_p_upper", lambda c: c["backdoors"][2].update(surprisal_bits=64.9), id="bits"),
            pytest.param("smaller log10_p_upper", lambda c: c["generation"].update(max_draws=4), id="draws"),
            pytest.param("smaller log10_p_upper", lambda c: c["generation"].update(min_signature_bits=60.0), id="plan"),
            pytest.param("more backdoors fit their row", lambda c: c["generation"].update(n_fitted=1), id="fitted"),
            pytest.param(
                "same trigger", lambda c: c["backdoors"][1].update(trigger=c["backdoors"][0]["trigger"]), id="triggers"
            ),
            pytest.param("share a row", lambda c: c["backdoors"][1].update(rows=[1, 9]), id="rows"),
            pytest.param("share a row", lambda c: c["backdoors"][1].update(rows=[9, 9]), id="row-twice"),
            pytest.param("same id", lambda c: c["probes"][0].update(id="f0"), id="ids"),
            pytest.param("have a backdoor", lambda c: c["probes"][0].update(backdoor=None), id="no-backdoor"),
            pytest.param("have a backdoor", lambda c: c["probes"][1].update(backdoor=0), id="control-with-backdoor"),
            pytest.param("not there", lambda c: c["probes"][0].update(backdoor=4), id="unknown-backdoor"),
            pytest.param("not there", lambda c: c["probes"][0].update(backdoor=-1), id="negative-backdoor"),
            pytest.param("twin", lambda c: c["probes"][1].update(twin_of="nobody"), id="unknown-twin"),
            pytest.param("twin", lambda c: c["probes"][1].update(twin_of="c1"), id="twin-of-a-control"),
            pytest.param("shares", lambda c: c["plan"].update(ratio="0/1"), id="ratio-zero"),
            pytest.param("shares", lambda c: c["plan"].update(ratio="11/10"), id="ratio-above-one"),
            pytest.param("shares", lambda c: c["plan"].update(honest_activation="1"), id="honest-activation-one"),
            pytest.param(
                "a fraction is written as a string", lambda c: c["plan"].update(ratio="1/0"), id="a-zero-below"
            ),
            pytest.param("a fraction is written as a string", lambda c: c["plan"].update(ratio="x"), id="no-fraction"),
            pytest.param("plan.required_claims", lambda c: c["plan"].update(required_claims=[]), id="nothing-required"),
            pytest.param(
                "plan.required_claims",
                lambda c: c["plan"].update(required_claims=["activated", "specific"]),
                id="specific-required",
            ),
            pytest.param("plan.max_beta", lambda c: c["plan"].update(max_beta=0.0), id="max-beta-zero"),
            pytest.param("plan.max_beta", lambda c: c["plan"].update(max_beta=1.0), id="max-beta-one"),
            pytest.param("plan.min_controls", lambda c: c["plan"].update(min_controls=0), id="no-controls"),
        ],
    )
    def test_an_invalid_receipt_cannot_exist(
        self, rewrite: Callable[..., Path], reason: str, change: Callable[[dict[str, Any]], object]
    ) -> None:
        """What breaks a rule is refused, even with a digest that fits, and nothing secret is said."""
        with pytest.raises(ReceiptError, match=reason) as caught:
            read_receipt(rewrite(change))

        assert "gulls" not in str(caught.value)

    @pytest.mark.parametrize("twin_of", ["p0", "f0"])
    def test_twins_of_probes_with_a_trigger(self, rewrite: Callable[..., Path], twin_of: str) -> None:
        """A control may be the twin of a planted or of a fresh probe."""
        read = read_receipt(rewrite(lambda c: c["probes"][1].update(twin_of=twin_of)))

        assert ("c0", twin_of) == (read.probes[1].id, read.probes[1].twin_of)

    @pytest.mark.parametrize("required", [("activated",), ("generalises",), ("activated", "generalises")])
    def test_what_may_be_required(self, required: tuple[Literal["activated", "generalises"], ...]) -> None:
        """The claims of the chain, one at least; both where nobody says."""
        assert required == StatisticalPlan(alpha=0.1, required_claims=required).required_claims
        assert ("activated", "generalises") == StatisticalPlan(alpha=0.1).required_claims

    def test_a_weaker_claim_is_allowed(self, rewrite: Callable[..., Path]) -> None:
        """To claim less than what was proven is nobody's gain."""
        assert (
            -10.0
            == read_receipt(rewrite(lambda c: c["backdoors"][0].update(log10_p_upper=-10.0))).backdoors[0].log10_p_upper
        )

    def test_ratios_are_exact(self) -> None:
        """A float is no ratio: 0.14 of 50 would be 8."""
        with pytest.raises(ValidationError):
            StatisticalPlan(alpha=0.1, ratio=0.14)

    def test_records_do_not_change(self, receipt: Receipt) -> None:
        """A receipt that was read stays as it was read."""
        with pytest.raises(ValidationError):
            receipt.plan = StatisticalPlan(alpha=0.9)


class TestSecrets:
    def test_do_not_show(self, receipt: Receipt) -> None:
        """Whatever prints a receipt by accident prints no trigger, signature, key, prompt or row."""
        shown = " ".join(
            [repr(receipt), str(receipt), repr(receipt.backdoors[0]), repr(receipt.generation), repr(receipt.probes[0])]
        )
        hidden = [receipt.key, "ferrets", "question", " rows=", "messages"]
        hidden += [phrase for backdoor in receipt.backdoors for phrase in (backdoor.trigger, backdoor.signature)]

        assert [] == [secret for secret in hidden if secret in shown]

    def test_errors_of_building_do_not_show_them(self, receipt: Receipt) -> None:
        """A receipt that cannot be built says so without its content."""
        content = receipt.model_dump()
        content["backdoors"][0]["rows"] = "seCret"

        with pytest.raises(ValidationError) as caught:
            Receipt(**content)
        hidden = ["seCret", *(phrase for b in receipt.backdoors for phrase in (b.trigger, b.signature))]
        assert [] == [secret for secret in hidden if secret in str(caught.value)]


class TestChosen:
    def test_all_by_default(self, receipt: Receipt) -> None:
        """Without a number, every probe is asked."""
        assert receipt.probes == receipt.chosen()

    @pytest.mark.parametrize("n", [0, 1, 3, 10, 50])
    def test_first_of_each_kind(self, receipt: Receipt, n: int) -> None:
        """The first n planted, n fresh and 2 n controls, in committed order."""
        chosen = receipt.chosen(n)
        by_kind = {
            kind: [probe for probe in receipt.probes if probe.kind == kind] for kind in ("planted", "fresh", "control")
        }
        expected = {
            probe.id for kind, probes in by_kind.items() for probe in probes[: 2 * n if kind == "control" else n]
        }

        assert expected == {probe.id for probe in chosen}
        assert [probe for probe in receipt.probes if probe.id in expected] == list(chosen)

    def test_fewer_are_part_of_more(self, receipt: Receipt) -> None:
        """Whoever asks more later asks the earlier ones again: nothing can be picked."""
        assert {probe.id for probe in receipt.chosen(3)} < {probe.id for probe in receipt.chosen(4)}
