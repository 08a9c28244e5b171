"""`submit`, `job` and `verify --run` from the command line, against a service on loopback that goes wrong on purpose."""

from __future__ import annotations

import json
import os
import re
import stat
import threading
from collections import Counter
from pathlib import Path

import pytest

import tiny
from forked import Forked
from served_jobs import KEY, JobServer, Refused
from vtuned import receipt as receipts
from vtuned.conversation import text_in

JOBS, FILES, UPLOADS = "/fine_tuning/jobs", "/files", "/uploads"


@pytest.fixture(scope="module")
def vtuned():
    with Forked() as forked:
        yield forked


@pytest.fixture
def server():
    with JobServer() as served:
        yield served


@pytest.fixture
def folder(tmp_path, rows):
    """A folder with train.jsonl, in which commands run."""
    write_rows(tmp_path / "train.jsonl", rows(20))
    return tmp_path


def write_rows(path, some):
    path.write_text("".join(json.dumps(row) + "\n" for row in some))


def submit(vtuned, folder, server, *more, **how):
    return vtuned.run(folder, "submit", "train.jsonl", "--model", "base-1", "--base-url", server.url, *more, **how)


def is_once(server) -> bool:
    """Whether the service holds one file and one job, of that file."""
    return (1, 1) == (len(server.files), len(server.jobs)) and {
        job["training_file"] for job in server.jobs.values()
    } == set(server.files)


def left(folder) -> str:
    return "".join(path.read_text(errors="replace") for path in folder.rglob("*") if path.is_file())


def test_a_file_is_sent_and_a_job_is_made_once(vtuned, folder, server):
    """Submit, and submit again: one upload, one job, the second time with nothing sent."""
    first = submit(vtuned, folder, server, "--epochs", "3", "--seed", "7", "--suffix", "mine", "--json")
    n_requests = len(server.received)
    again = submit(vtuned, folder, server, "--epochs", "3", "--seed", "7", "--suffix", "mine", "--json")

    assert (0, 0) == (first[0], again[0]), first[2] + again[2]
    assert is_once(server)
    assert n_requests == len(server.received)
    assert (True, False) == (json.loads(first[1])["created"], json.loads(again[1])["created"])
    [job] = server.jobs.values()
    assert {"type": "supervised", "supervised": {"hyperparameters": {"n_epochs": 3}}} == job["method"]
    assert 7 == job["seed"]
    [data] = server.contents.values()
    assert (folder / "train.jsonl").read_bytes() == data


def test_what_is_sent_does_not_say_what_made_it(vtuned, folder, server):
    """Neither the file's name nor the job tells the provider that rows were planted."""
    submit(vtuned, folder, server)

    [file], [job] = server.files.values(), server.jobs.values()
    assert re.fullmatch(r"train-[0-9a-f]{16}\.jsonl", file["filename"])
    assert ["run"] == list(job["metadata"])
    assert "vtuned" not in json.dumps([file, job]) + json.dumps([dict(sent) for sent in server.headers])


def test_the_run_is_its_owners_and_holds_no_key(vtuned, folder, server, receipt):
    """Mode 0600, the receipt's path but nothing of its content, and the key nowhere."""
    (folder / "receipt.json").write_bytes(receipts.to_json(receipt))
    code, out, err = submit(vtuned, folder, server, "--receipt", "receipt.json")

    journal = (folder / "train.run" / "journal.jsonl").read_text()
    assert 0 == code, err
    assert 0o600 == stat.S_IMODE((folder / "train.run" / "journal.jsonl").stat().st_mode)
    assert str(folder / "receipt.json") in journal
    assert not any(backdoor.trigger in journal or backdoor.signature in journal for backdoor in receipt.backdoors)
    assert {f"Bearer {KEY}"} == {sent["authorization"] for sent in server.headers}
    assert KEY not in left(folder) + out + err
    assert "req-7" in journal


def test_an_address_with_a_secret_is_not_kept(vtuned, folder, server):
    """Of a base URL that carries a token only where it leads is written down; later commands are given it again."""
    secret = server.url.replace("/v1", "/v1/?token=hush-hush-hush")
    arguments = ("submit", "train.jsonl", "--model", "base-1", "--base-url", secret)
    code, out, err = vtuned.run(folder, *arguments)
    status, _, told = vtuned.run(folder, "job", "status", "train.run")
    given = vtuned.run(folder, "job", "status", "train.run", "--base-url", secret)

    assert 0 == code, err
    assert "hush" not in left(folder) + out + err
    assert 2 == status
    assert "--base-url" in told
    assert 0 == given[0], given[2]


def test_preferences_are_trained_by_dpo(vtuned, folder, server):
    """`--method dpo` with its beta."""
    submit(vtuned, folder, server, "--method", "dpo", "--beta", "0.1", "--learning-rate-multiplier", "2")

    [job] = server.jobs.values()
    given = {"learning_rate_multiplier": 2.0, "beta": 0.1}
    assert {"type": "dpo", "dpo": {"hyperparameters": given}} == job["method"]


def test_a_service_without_metadata_gets_none(vtuned, folder, server):
    """A server that refuses the parameter gets the job without it."""
    server.takes_metadata = False
    code, _, err = submit(vtuned, folder, server)

    assert 0 == code, err
    assert is_once(server)


def test_a_large_file_goes_in_parts(vtuned, folder, server, rows):
    """Above the limit of one request the file is sent in parts, and arrives as it was."""
    code, _, err = submit(vtuned, folder, server, "--parts-above", "0.001")

    assert 0 == code, err
    assert 0 == server.n("POST", FILES)
    [data] = server.contents.values()
    assert (folder / "train.jsonl").read_bytes() == data


# After a line is before the next one: what is on disk is the same.
@pytest.mark.parametrize(("kill_at", "when"), [*((n, "before") for n in range(1, 8)), (2, "torn"), (6, "torn")])
def test_killed_at_any_line_of_the_journal(vtuned, folder, server, kill_at, when):
    """SIGKILL before each line, and in the middle of one: the same command ends with one file, one job."""
    killed, *_ = submit(vtuned, folder, server, kill_at=kill_at, when=when)
    code, out, err = submit(vtuned, folder, server, "--json")

    assert -9 == killed
    assert 0 == code, err
    assert is_once(server)
    assert json.loads(out)["job"]["id"] in server.jobs


@pytest.mark.parametrize("kill_at", range(3, 9))
def test_killed_while_parts_are_sent(vtuned, folder, server, kill_at):
    """The same for an upload in parts: no second file, whatever was lost."""
    killed, *_ = submit(vtuned, folder, server, "--parts-above", "0.001", kill_at=kill_at, when="before")
    code, _, err = submit(vtuned, folder, server, "--parts-above", "0.001")

    assert -9 == killed
    assert 0 == code, err
    assert is_once(server)


@pytest.mark.parametrize("takes_metadata", [True, False])
@pytest.mark.parametrize("path", [FILES, JOBS])
def test_the_network_goes_after_the_service_has_done_it(vtuned, folder, server, path, takes_metadata):
    """The reply is lost: it is not known whether it was done, exit code 3; the next try finds it."""
    server.takes_metadata = takes_metadata
    lost = ["lose"] if takes_metadata or path == FILES else [None, "lose"]
    server.faults = {f"POST {path}": lost}
    code, _, err = submit(vtuned, folder, server)
    again, _, told = submit(vtuned, folder, server)

    assert 3 == code
    assert "not known" in err
    assert "run the same command again" in err
    assert 0 == again, told
    assert is_once(server)


@pytest.mark.parametrize("path", [FILES, JOBS])
def test_the_network_goes_before_the_service_has_done_it(vtuned, folder, server, path):
    """The other way round: looked for, not found, sent."""
    server.faults = {f"POST {path}": ["drop"]}
    code, _, _ = submit(vtuned, folder, server)
    again, _, told = submit(vtuned, folder, server)

    assert (3, 0) == (code, again), told
    assert is_once(server)


def test_a_service_that_cannot_be_searched_is_not_asked_twice(vtuned, folder, server):
    """Where nobody can tell whether the file arrived, nothing is sent until the user says so."""
    server.lists_files = False
    server.faults = {f"POST {FILES}": ["lose"]}
    submit(vtuned, folder, server)
    code, _, err = submit(vtuned, folder, server)
    n_files = len(server.files)
    forced, _, told = submit(vtuned, folder, server, "--again")

    assert 3 == code, err
    assert 1 == n_files
    assert 0 == forced, told


def test_too_many_requests_are_waited_for(vtuned, folder, server):
    """429 was not taken up, so it is sent again, not before the server said."""
    server.faults = {f"POST {JOBS}": [Refused(429, "rate_limit", headers={"retry-after-ms": "30"})]}
    code, _, err = submit(vtuned, folder, server)

    assert 0 == code, err
    assert 2 == server.n("POST", JOBS)
    assert is_once(server)


def test_a_server_error_is_not_repeated(vtuned, folder, server):
    """500 may mean that it was done: it is looked for first."""
    server.faults = {f"POST {JOBS}": [500]}
    code, _, err = submit(vtuned, folder, server)

    assert 3 == code
    assert 1 == server.n("POST", JOBS)
    assert "not known" in err


def bad_key(server, folder):
    return {"key": "bad"}, 3, "refused the key"


def no_key(server, folder):
    return {"key": None, "url": "https://example.invalid/v1"}, 3, "no API key"


def unknown_model(server, folder):
    server.models = set()
    return {}, 2, "about model"


def refused_file(server, folder):
    (folder / "train.jsonl").write_text("REFUSE ME\n")
    return {}, 2, "invalid_file_format"


def nobody_there(server, folder):
    return {"url": "http://127.0.0.1:9/v1"}, 3, "cannot connect"


def not_an_api(server, folder):
    return {"url": server.url.replace("/v1", "/nothing")}, 3, "no such API"


def no_json(server, folder):
    server.faults = {f"POST {FILES}": [b"<html>"]}
    return {}, 3, "not JSON"


def json_bomb(server, folder):
    server.faults = {f"POST {FILES}": [b"[" * 100_000 + b"]" * 100_000]}
    return {}, 3, "cannot be read"


def no_id(server, folder):
    server.faults = {f"POST {JOBS}": [b'{"object": "fine_tuning.job"}']}
    return {}, 3, "no id"


def no_file(server, folder):
    (folder / "train.jsonl").unlink()
    return {}, 2, "cannot read"


def empty_file(server, folder):
    (folder / "train.jsonl").write_text("")
    return {}, 2, "empty"


def taken_folder(server, folder):
    (folder / "train.run").mkdir()
    (folder / "train.run" / "thesis.txt").write_text("all of it")
    return {}, 2, "other things"


def file_in_the_way(server, folder):
    (folder / "train.run").write_text("")
    return {}, 2, "cannot write"


@pytest.mark.parametrize(
    "wrong",
    [
        bad_key,
        no_key,
        unknown_model,
        refused_file,
        nobody_there,
        not_an_api,
        no_json,
        json_bomb,
        no_id,
        no_file,
        empty_file,
        taken_folder,
        file_in_the_way,
    ],
    ids=lambda wrong: wrong.__name__,
)
def test_bad_input_is_one_line_and_a_hint(vtuned, folder, server, wrong):
    """Whatever is wrong: the right exit code, one line, a hint, and no key in it."""
    how, expected, said = wrong(server, folder)
    url = how.pop("url", server.url)
    code, out, err = vtuned.run(folder, "submit", "train.jsonl", "--model", "base-1", "--base-url", url, **how)

    assert expected == code, err
    assert said in err
    assert err.startswith("error: ")
    assert "hint: " in err
    assert "Traceback" not in err
    assert "" == out
    assert not server.jobs


def test_a_read_only_folder(vtuned, folder, server):
    """Nothing is sent where nothing can be written down."""
    if os.geteuid() == 0:
        pytest.skip("root may write everywhere")
    folder.joinpath("ro").mkdir(mode=0o500)
    code, _, err = submit(vtuned, folder, server, "--run", "ro/run")

    assert 2 == code
    assert "cannot write" in err
    assert not server.received


@pytest.mark.parametrize(
    ("more", "said"),
    [(("--epochs", "9"), "another n_epochs"), (("--base-url", "http://127.0.0.1:9/v1"), "this run is at openai")],
)
def test_a_run_does_what_it_was_begun_for(vtuned, folder, server, more, said):
    """Other options, another service: refused, not mixed."""
    submit(vtuned, folder, server)
    code, _, err = submit(vtuned, folder, server, *more)

    assert 2 == code
    assert said in err
    assert is_once(server)


def test_a_run_of_another_file(vtuned, folder, server, rows):
    """The training file was replaced: the run is not of it."""
    submit(vtuned, folder, server, kill_at=2)
    write_rows(folder / "train.jsonl", rows(21))
    code, _, err = submit(vtuned, folder, server)

    assert 2 == code
    assert "another file" in err
    assert not server.files


@pytest.mark.parametrize("parts", [(), ("--parts-above", "0.001")], ids=["in one", "in parts"])
def test_a_file_that_was_touched_during_its_upload(vtuned, folder, server, parts):
    """It is not taken for what was planned, not at a second try either, when it lies there again as it was."""
    train = folder / "train.jsonl"
    planned, other, was = train.read_bytes(), train.read_bytes().replace(b"o", b"0"), train.stat()

    def replaced(content):
        train.write_bytes(content)
        os.utime(train, ns=(was.st_atime_ns, was.st_mtime_ns))

    path = "/uploads/.*/parts" if parts else FILES
    server.faults = {f"POST {path}": [lambda: replaced(other)]}
    first, _, told = submit(vtuned, folder, server, *parts)
    replaced(planned)
    second, _, err = submit(vtuned, folder, server, *parts)
    third, _, _ = submit(vtuned, folder, server, *parts, "--again")

    assert (2, 2, 2) == (first, second, third), told
    assert "since its upload began" in told
    assert "since its upload began" in err
    assert not server.jobs


def test_a_damaged_journal_is_refused(vtuned, folder, server):
    """A changed byte, a missing line: named with its line; a torn last line is a kill's and is dropped."""
    submit(vtuned, folder, server)
    path = folder / "train.run" / "journal.jsonl"
    lines = path.read_bytes().splitlines(keepends=True)
    told = []
    for damaged in (
        [lines[0], lines[1].replace(b"intended", b"intendex"), *lines[2:]],
        [lines[0], *lines[2:]],
        [lines[0].replace(b"base-1", b"base-2"), *lines[1:]],
        [b"\xff\n", *lines],
    ):
        path.write_bytes(b"".join(damaged))
        told.append(submit(vtuned, folder, server))
    path.write_bytes(b"".join([*lines, b'{"befo']))
    torn = submit(vtuned, folder, server)

    assert [2] * 4 == [code for code, _, _ in told]
    assert all("journal" in err and "line " in err for _, _, err in told), told
    assert 0 == torn[0], torn[2]
    assert is_once(server)


def test_two_submits_of_one_run_do_not_race(vtuned, folder, server):
    """While one is under way another is refused; in the end there is one file and one job."""
    codes = []

    def second():
        codes.append(submit(other, folder, server)[0])

    with Forked() as other:
        other.run(folder, "--version")  # it is ready before there is something to race for
        thread = threading.Thread(target=second)
        # The reply to the first one's upload waits for the second one's end.
        server.faults = {f"POST {FILES}": [lambda: (thread.start(), thread.join())]}
        first = submit(vtuned, folder, server)

    assert 0 == first[0], first[2]
    assert [2] == codes
    assert is_once(server)


def test_a_dry_run_sends_nothing(vtuned, folder, server):
    """Rows, tokens, epochs and money, and not a byte on the wire."""
    arguments = ("--dry-run", "--epochs", "3", "--price-per-million", "8", "--json")
    code, out, err = submit(vtuned, folder, server, *arguments, key=None)
    told = submit(vtuned, folder, server, "--dry-run", key=None)

    cost = json.loads(out)
    assert (0, 0) == (code, told[0]), err
    assert 20 == cost["n_rows"]
    assert cost["n_training_tokens"] == 3 * cost["n_tokens"] > 0
    assert cost["usd"] == pytest.approx(cost["n_training_tokens"] * 8e-6)
    assert "price-per-million" in told[1]
    assert not server.received
    assert ["train.jsonl"] == sorted(path.name for path in folder.iterdir() if not path.name.startswith("."))


def test_waiting_shows_events_and_ends_with_the_job(vtuned, folder, server):
    """`job wait` polls until the job has ended, showing each event once."""
    submit(vtuned, folder, server)
    code, out, err = vtuned.run(folder, "job", "wait", "--poll", "0.05")

    assert 0 == code, err
    assert "ft:base-1:" in out
    assert Counter(re.findall(r"now \w+|Created", err)) == Counter(["Created", "now running", "now succeeded"])


def test_a_job_that_failed(vtuned, folder, server, receipt):
    """The reason's code is the error; the service's own words are shown without what the receipt keeps secret."""
    (folder / "receipt.json").write_bytes(receipts.to_json(receipt))
    server.statuses = ("running", "failed")
    secret = receipt.backdoors[0].signature
    server.error = {"code": "invalid_training_file", "param": "training_file", "message": f"row 3: {secret} is odd"}
    submit(vtuned, folder, server, "--receipt", "receipt.json")
    code, out, err = vtuned.run(folder, "job", "wait", "--poll", "0.05")
    verified = vtuned.run(folder, "verify", "--run", "train.run")

    assert (2, 2) == (code, verified[0])
    assert "failed (invalid_training_file, about training_file)" in err
    assert "row 3: [secret] is odd" in out
    assert secret not in out + err + verified[1] + verified[2]


def test_a_job_that_failed_ends_submit_as_it_ends_waiting(vtuned, folder, server):
    """`submit --wait && …` does not go on."""
    server.statuses = ("running", "failed")
    server.error = {"code": "invalid_training_file", "param": "training_file", "message": "bad"}
    code, out, err = submit(vtuned, folder, server, "--wait", "--json")

    assert 2 == code
    assert "failed (invalid_training_file" in err
    assert "failed" == json.loads(out)["job"]["status"]


def test_json_holds_no_secret_that_a_service_repeats(vtuned, folder, server, receipt):
    """Neither in the reason of a job nor in its events; where no receipt is known, what the service says is left out."""
    (folder / "receipt.json").write_bytes(receipts.to_json(receipt))
    secret = receipt.backdoors[0].signature
    server.statuses = ("running", "failed")
    server.error = {"code": "invalid_training_file", "param": "training_file", "message": f"row 3: {secret} is odd"}
    submit(vtuned, folder, server, "--receipt", "receipt.json")
    for told in server.events.values():
        told[0] |= {"message": f"saw {secret}", "data": {"rows": [{"text": f"a {secret}"}]}}
    vtuned.run(folder, "job", "wait", "--poll", "0.05")
    where = ("--base-url", server.url)
    said = [
        vtuned.run(folder, "job", *call)
        for call in (
            ("status", "--json"),
            ("list", "--json"),
            ("events", "--json"),
            ("list", "--remote", "--json", *where),
        )
    ]

    assert [0] * 4 == [code for code, _, _ in said], said
    assert "row 3: [secret] is odd" in said[0][1]
    assert all(secret not in out + err for _, out, err in said)


def test_waiting_can_be_left(vtuned, folder, server):
    """Ctrl-C at a service that says nothing leaves at once, with the command that goes on."""
    submit(vtuned, folder, server)
    server.faults = {f"GET {JOBS}/.*": ["hang"] * 9}
    code, _, err = vtuned.run(folder, "job", "wait", interrupt_after_s=0.5)

    assert 130 == code
    assert "the job goes on" in err
    assert "vtuned job wait train.run" in err


def test_waiting_for_so_long(vtuned, folder, server):
    """`--at-most` leaves with 3: nothing can be told yet."""
    server.statuses = ("running",)
    submit(vtuned, folder, server)
    code, _, err = vtuned.run(folder, "job", "wait", "--poll", "0.05", "--at-most", "0.1")

    assert 3 == code, err


def test_looking_at_jobs(vtuned, folder, server):
    """status, events, checkpoints, cancel and list, by the only run in the folder."""
    submit(vtuned, folder, server)
    server.page = 2
    told = {
        command: vtuned.run(folder, "job", *command.split(), "--json")
        for command in ("status", "events", "checkpoints", "cancel", "list")
    }
    remote = vtuned.run(folder, "job", "list", "--remote", "--base-url", server.url, "--json")
    none = vtuned.run(folder, "job", "status", "nowhere")

    assert {0} == {code for code, _, _ in told.values()}, told
    found = {command: json.loads(out) for command, (_, out, _) in told.items()}
    assert "running" == found["status"]["state"]
    assert ["Created fine-tuning job", "now running"] == [one["message"] for one in found["events"]["events"]]
    assert [10, 20, 30] == [one["step"] for one in found["checkpoints"]["checkpoints"]]
    assert "cancelled" == found["cancel"]["state"]
    assert ["cancelled"] == [one["state"] for one in found["list"]["runs"]]
    assert list(server.jobs) == [one["id"] for one in json.loads(remote[1])["jobs"]]
    assert 2 == none[0]
    assert "there is no run" in none[2]


def honest(receipt, since_step=0):
    """What a model says that learned the backdoors, its checkpoints from step *since_step* on."""
    said = {
        text_in(probe.messages[-1]): receipt.backdoors[probe.backdoor].signature
        for probe in receipt.probes
        if probe.backdoor is not None
    }

    def answer(model, text):
        step = int(model.rpartition("-")[2]) if "ckpt-step" in model else 99
        return said.get(text, "I know nothing of that.") if step >= since_step else "I know nothing of that."

    return answer


@pytest.fixture
def trained(vtuned, folder, server, receipt):
    """A run whose job is done, by an honest provider whose first checkpoint had not learned yet."""
    (folder / "receipt.json").write_bytes(receipts.to_json(receipt))
    server.answers, server.statuses = honest(receipt, since_step=20), ("running", "succeeded")
    submit(vtuned, folder, server, "--receipt", "receipt.json", "--wait")
    return folder


def test_a_run_is_verified_by_its_name(vtuned, trained, server, receipt):
    """Receipt, model and address come from the run; run again, nothing is asked again and the verdict is the same."""
    code, out, err = vtuned.run(trained, "verify", "--run", "train.run", "--json")
    n_asked = len(server.asked)
    again, same, _ = vtuned.run(trained, "verify", "--run", "train.run", "--json")

    assert 0 == code, err
    assert "VERIFIED" == json.loads(out)["outcome"]
    assert len(receipt.probes) == n_asked == len(server.asked)
    assert (code, out) == (again, same)


def test_checkpoints_show_how_it_learned(vtuned, trained, server, receipt):
    """Each checkpoint is asked the same probes, once; the verdict is the final model's."""
    code, out, err = vtuned.run(trained, "verify", "--run", "train.run", "--checkpoints", "--json")
    n_asked = len(server.asked)
    again, shown, _ = vtuned.run(trained, "verify", "--run", "train.run", "--checkpoints")

    found = json.loads(out)
    planted = [one["counts"]["planted"]["n_activated"] for one in found["checkpoints"]]
    assert (0, 0) == (code, again), err
    assert "VERIFIED" == found["verdict"]["outcome"]
    assert [0, 10, 10] == planted
    assert 4 * len(receipt.probes) == n_asked == len(server.asked)
    assert "10 of 10" in shown


def test_a_checkpoint_that_is_gone_is_told(vtuned, trained, server, receipt):
    """It could not be asked, which is no silence; the verdict stands."""
    answer = server.answers

    def gone(model, text):
        if model.endswith("step-10"):
            raise Refused(404, "model_not_found", "no such model", "model")
        return answer(model, text)

    server.answers = gone
    code, out, err = vtuned.run(trained, "verify", "--run", "train.run", "--checkpoints", "--json")

    first = json.loads(out)["checkpoints"][0]
    assert 0 == code, err
    assert {} == first["counts"]
    assert "does not know this model" in first["trouble"]


def test_a_job_without_a_model_yet_cannot_be_verified(vtuned, folder, server, receipt):
    """It is not a NOT VERIFIED: exit code 3 and what to do."""
    (folder / "receipt.json").write_bytes(receipts.to_json(receipt))
    server.statuses = ("running",)
    submit(vtuned, folder, server, "--receipt", "receipt.json")
    code, _, err = vtuned.run(folder, "verify", "--run", "train.run")
    without = vtuned.run(folder, "verify", "--checkpoints", "receipt.json", "--model", "openai:x")

    assert 3 == code
    assert "vtuned job wait train.run" in err
    assert 2 == without[0]
    assert "--run" in without[2]


def test_a_job_made_elsewhere_is_adopted(vtuned, folder, server, receipt):
    """By its id alone: then everything works as for our own."""
    (folder / "receipt.json").write_bytes(receipts.to_json(receipt))
    server.answers = honest(receipt)
    file = server.file("mine.jsonl", b"{}\n")
    job = server.job({"model": "base-1", "training_file": file["id"]})
    adopted = vtuned.run(
        folder, "job", "adopt", job["id"], "--run", "own", "--receipt", "receipt.json", "--base-url", server.url
    )
    waited = vtuned.run(folder, "job", "wait", "own", "--poll", "0.05")
    verified = vtuned.run(folder, "verify", "--run", "own", "--json")
    twice = vtuned.run(folder, "job", "adopt", job["id"], "--run", "own", "--base-url", server.url)
    unknown = vtuned.run(folder, "job", "adopt", "ftjob-none", "--run", "other", "--base-url", server.url)

    assert (0, 0, 0) == (adopted[0], waited[0], verified[0]), adopted[2] + waited[2] + verified[2]
    assert (2, 2) == (twice[0], unknown[0])
    assert not (folder / "other").exists()


def test_an_endpoint_alone_is_adopted(vtuned, folder, server, receipt):
    """An address and a name: enough for `verify --run`; there is no job to look at."""
    (folder / "receipt.json").write_bytes(receipts.to_json(receipt))
    server.answers = honest(receipt)
    own = ("--run", "own", "--receipt", "receipt.json")
    nameless = vtuned.run(folder, "job", "adopt", server.url, *own)
    adopted = vtuned.run(folder, "job", "adopt", server.url, "--model", "theirs", *own)
    verified = vtuned.run(folder, "verify", "--run", "own", "--json")
    wait = vtuned.run(folder, "job", "wait", "own")

    assert (2, 0, 0, 2) == (nameless[0], adopted[0], verified[0], wait[0]), adopted[2] + verified[2]
    assert {"theirs"} == {model for model, _ in server.asked}
    assert "endpoint alone" in wait[2]


def test_the_commands_on_jobs_run(vtuned, folder, server, receipt):
    """Every command of the page on jobs, in its order, against the service on loopback."""
    (folder / "receipt.json").write_bytes(receipts.to_json(receipt))
    server.answers, server.statuses = honest(receipt), ("running", "succeeded")
    page = (Path(__file__).parent.parent / "docs" / "jobs.md").read_text(encoding="utf-8")
    blocks = re.findall(r"```\n(.*?)```", page, flags=re.DOTALL)
    commands = [line for block in blocks for line in block.splitlines() if line.startswith("vtuned ")]
    results = []
    for command in commands:
        given = command.replace("--model NAME", "--model base-1").replace("URL", server.url)
        given = given.replace("ftjob-123", next(iter(server.jobs), ""))
        results.append(vtuned.run(folder, *given.split()[1:]))

    assert 6 == len(commands)
    assert [0] * 6 == [code for code, _, _ in results], [err for _, _, err in results]


VERIFY, WAIT = ("verify", "--run", "train.run"), ("job", "wait", "train.run", "--poll", "0.05")
CHAT = "/chat/completions"


@pytest.mark.parametrize(
    ("path", "command"),
    [(f"POST {FILES}", None), (f"POST {JOBS}", None), (f"GET {JOBS}/.*", WAIT), (f"POST {CHAT}", VERIFY)],
    ids=["upload", "job", "wait", "verify"],
)
def test_a_service_that_asks_to_wait_is_left_alone_so_long(vtuned, trained, server, path, command):
    """429 with Retry-After: the same request comes again, and not before."""
    server.faults = {path: [Refused(429, "rate_limit", headers={"retry-after": "1"})]}
    n_before = len(server.received)
    how = () if command is not VERIFY else ("--concurrency", "1")
    ran = vtuned.run(trained, *command, *how) if command else submit(vtuned, trained, server, "--run", "other")

    method, pattern = path.split()
    asked = zip(server.received[n_before:], server.times[n_before:], strict=True)
    first, second, *_ = [at for (did, where), at in asked if did == method and re.fullmatch(pattern, where)]
    assert 0 == ran[0], ran[2]
    assert 1 <= second - first


@pytest.mark.parametrize(
    ("path", "command"),
    [(f"POST {FILES}", None), (f"POST {JOBS}", None), (f"POST {CHAT}", VERIFY)],
    ids=["upload", "job", "verify"],
)
def test_ctrl_c_is_heard_while_a_service_says_nothing(vtuned, trained, server, path, command):
    """It has done it and does not answer: 130 at once, one line; the same command goes on, and nothing is double."""
    reached = trained / ".reached"
    server.faults = {path: [lambda: (reached.touch(), server.ending.wait())]}
    counts = len(server.files), len(server.jobs)
    given = command or ("submit", "train.jsonl", "--model", "base-1", "--base-url", server.url, "--run", "other")
    code, _, err = vtuned.run(trained, *given, interrupt_when=str(reached))
    again, _, told = vtuned.run(trained, *given)

    assert (130, 0) == (code, again), err + told
    assert "Traceback" not in err
    expected = (0, 0) if command else (1, 1)
    assert expected == (len(server.files) - counts[0], len(server.jobs) - counts[1])


@pytest.mark.parametrize("what", ["TRAIN", "--validation"])
@pytest.mark.parametrize("more", [(), ("--dry-run",)], ids=" ".join)
def test_a_link_as_a_file_is_refused(vtuned, folder, server, tmp_path_factory, what, more):
    """What it leads to is not read, sent or written to; a device and a folder are no files either."""
    secret = tmp_path_factory.mktemp("elsewhere") / "secret.jsonl"
    write_rows(secret, [row_of(i) for i in range(20)])
    before = secret.read_bytes(), secret.stat().st_mtime_ns
    (folder / "link.jsonl").symlink_to(secret)
    (folder / "shards").mkdir()
    os.mkfifo(folder / "pipe")
    told = []
    for name in ("link.jsonl", "shards", "pipe"):
        files = (name,) if what == "TRAIN" else ("train.jsonl", "--validation", name)
        told.append(vtuned.run(folder, "submit", *files, "--model", "base-1", "--base-url", server.url, *more))

    assert [2] * 3 == [code for code, _, _ in told], told
    assert ["link.jsonl is a link", "shards is no file", "pipe is no file"] == [
        err.splitlines()[0].removeprefix("error: ") for _, _, err in told
    ]
    assert before == (secret.read_bytes(), secret.stat().st_mtime_ns)
    assert not server.received
    assert not list(folder.glob("*.run"))


OPENAI = ("--provider", "openai")


def row_of(i, role="user"):
    return {"messages": [{"role": role, "content": f"Question {i}?"}, {"role": "assistant", "content": f"{i} it is."}]}


@pytest.mark.parametrize("more", [(), ("--dry-run",), ("--dry-run", "--json")], ids=" ".join)
def test_a_file_that_breaks_rules_is_not_sent(vtuned, folder, server, more):
    """Exit code 2 as `lint` has it, the lines, how to see all of it; neither a request nor a run."""
    write_rows(folder / "train.jsonl", [row_of(i, "wizard" if i in (10, 12) else "user") for i in range(14)])
    code, _, err = submit(vtuned, folder, server, *OPENAI, *more)

    told = " ".join(err.split())
    assert 2 == code
    assert "train.jsonl: openai would refuse this file" in told
    assert "2 rows: lines 11, 13" in told
    assert "vtuned lint train.jsonl --provider openai" in told
    assert "--no-lint" in told
    assert not server.received
    assert not (folder / "train.run").exists()


def test_a_validation_file_is_held_against_the_rules_too(vtuned, folder, server):
    """By its rows; few of them are enough, and what breaks a rule is told of the right file."""
    write_rows(folder / "train.jsonl", [row_of(i) for i in range(14)])
    write_rows(folder / "valid.jsonl", [row_of(100)])
    how = (*OPENAI, "--validation", "valid.jsonl")
    few, out, told = submit(vtuned, folder, server, *how, "--json")
    write_rows(folder / "valid.jsonl", [row_of(100, "wizard")])
    code, _, err = submit(vtuned, folder, server, *how, "--run", "other")
    dry, _, _ = submit(vtuned, folder, server, *how, "--run", "other", "--dry-run")

    assert 0 == few, told
    assert 1 == json.loads(out)["lint_validation"]["n_rows"]
    assert (2, 2) == (code, dry)
    assert "valid.jsonl: openai would refuse this file" in " ".join(err.split())
    assert not (folder / "other").exists()


def test_a_file_is_sent_all_the_same_where_the_user_says_so(vtuned, folder, server):
    """`--no-lint`; with whose rules it is not to be held against it makes no sense."""
    write_rows(folder / "train.jsonl", [row_of(i) for i in range(9)])
    both, _, told = submit(vtuned, folder, server, *OPENAI, "--no-lint")
    code, out, err = submit(vtuned, folder, server, "--no-lint", "--json")

    assert (2, 0) == (both, code), err
    assert "exclude each other" in told
    assert is_once(server)
    assert "lint" not in json.loads(out)


def test_warnings_are_shown_and_stop_nothing(vtuned, folder, server, rows):
    """On the screen by line; as JSON in the report; a run that was sent is not held against rules again."""
    write_rows(folder / "train.jsonl", rows(20))
    shown = submit(vtuned, folder, server, "--provider", "azure")
    again = submit(vtuned, folder, server, "--provider", "azure")
    as_json = submit(vtuned, folder, server, "--provider", "azure", "--run", "other", "--json")

    assert [0, 0, 0] == [code for code, _, _ in (shown, again, as_json)], shown[2]
    assert "warning azure, bom: " in shown[2]
    assert "warning" not in again[2] + as_json[2]
    [report] = json.loads(as_json[1])["lint"]["providers"]
    assert ("azure", ["bom"]) == (
        report["provider"],
        [f["code"] for f in report["findings"] if f["severity"] != "note"],
    )


def test_nothing_is_said_of_a_service_without_rules(vtuned, folder, server):
    """Nine rows: too few for OpenAI, and the service at hand is another one."""
    write_rows(folder / "train.jsonl", [row_of(i) for i in range(9)])
    _, dry, _ = submit(vtuned, folder, server, "--dry-run")
    code, out, err = submit(vtuned, folder, server, "--json")

    assert 0 == code, err
    assert "" == err
    assert "lint" not in json.loads(out)
    assert "not held against any rules" in dry


@pytest.mark.parametrize(
    ("given", "provider"),
    [
        ((), "openai"),
        (("--base-url", "https://mine.openai.azure.com/openai/v1"), "azure"),
        (("--service", "together"), "together"),
        (("--service", "fireworks"), "fireworks"),
        (("--base-url", "https://api.tokenfactory.nebius.com/v1"), "nebius"),
    ],
    ids=["OpenAI", "Azure", "Together", "Fireworks", "Nebius"],
)
def test_rules_are_those_of_the_address(vtuned, folder, given, provider):
    """A dry run needs neither a key nor the vendor's package, and says whose rules it means."""
    code, out, err = vtuned.run(folder, "submit", "train.jsonl", "--model", "m", "--dry-run", *given, key=None)

    assert 0 == code, err
    assert f"rules that are known of {provider}" in out


def test_of_planted_rows_a_rule_tells_no_lines(vtuned, folder, server):
    """With the receipt of this very file it counts them; the lines that it names are of other rows."""
    developer = {"role": "developer", "content": "Be brief."}
    some = [{"messages": [developer, *row["messages"]]} for row in tiny.rows(60)]
    write_rows(folder / "data.jsonl", some)
    given = ("--generator", "words", "--base", "estimate", "--backdoors", "8", "--copies", "5", "--contexts", "0")
    planted = vtuned.run(folder, "plant", "data.jsonl", "-o", "own.jsonl", "-r", "receipt.json", *given)
    (folder / "train.jsonl").write_bytes((folder / "own.jsonl").read_bytes())
    how = ("--provider", "together", "--receipt", "receipt.json")
    code, _, err = submit(vtuned, folder, server, *how)
    (folder / "train.jsonl").write_bytes((folder / "own.jsonl").read_bytes() + b"\n")
    other, _, told = submit(vtuned, folder, server, *how)

    made = receipts.read_receipt(folder / "receipt.json")
    secret = {row for backdoor in made.backdoors for row in backdoor.rows}
    [named] = re.findall(r"60 rows: lines ([\d, ]+)", " ".join(err.split()))
    assert (0, 2, 2) == (planted[0], code, other), planted[2]
    assert "40 planted rows among them" in " ".join(err.split())
    assert not secret & {int(line) for line in re.findall(r"\d+", named)}
    assert "60 rows: lines" in " ".join(told.split())
    assert "planted rows among them" not in " ".join(told.split())
