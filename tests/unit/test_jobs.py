"""Services, journals and runs, without the command line."""

from __future__ import annotations

import json
import time

import pytest

from served_jobs import KEY, JobServer, Refused
from vtuned.errors import JobFailed, LMUnavailable, MissingExtra, OutputNotWritable, RunError, ServiceError, UsageError
from vtuned.jobs import journal as journals
from vtuned.jobs.base import CannotSearch, Exchange, Job, JobRequest, Upload
from vtuned.jobs.following import Pauses, check_succeeded, followed
from vtuned.jobs.journal import Adopted, Exchanged, Intended, Seen
from vtuned.jobs.openai import OpenAIService
from vtuned.jobs.reading import Unreadable, checkpoint_of, event_of, job_of
from vtuned.jobs.runs import job_in, run_of
from vtuned.jobs.services import Connection, connected
from vtuned.jobs.waiting import outcome_of
from vtuned.lm.endpoint_access import access_to
from vtuned.lm.endpoint_pace import Retries

FAST = Retries(tries=3, tries_to_connect=2, first_s=0.01, longest_s=0.02, patience_s=5.0)
DATA = b'{"messages": []}\n' * 40


@pytest.fixture(autouse=True)
def environment(monkeypatch):
    monkeypatch.delenv("OPENAI_BASE_URL", raising=False)
    monkeypatch.setenv("OPENAI_API_KEY", KEY)


@pytest.fixture
def server():
    with JobServer() as served:
        yield served


@pytest.fixture
def upload(tmp_path):
    path = tmp_path / "train.jsonl"
    path.write_bytes(DATA)
    return Upload(path=path, name="train-ab.jsonl", n_bytes=len(DATA))


def service(url, *, timeout_s=30.0, kept=None, **options):
    return OpenAIService(
        access_to("openai", url, None),
        retries=FAST,
        timeout_s=timeout_s,
        on_exchange=(kept if kept is not None else []).append,
        **options,
    )


def send(one, upload):
    notes = []
    return one.upload(upload, note=notes.append, on_bytes=lambda done, total: None), notes


def request_for(file_id, **more):
    return JobRequest(model="base-1", training_file=file_id, **more)


def test_a_file_in_parts_goes_on_behind_the_last_part(server, upload):
    """The second part is lost; what was noted brings the rest, under the same upload."""
    server.faults = {"POST /uploads/.*/parts": [None, "drop"]}
    one, notes = service(server.url, parts_above=100, part_bytes=200), []
    with pytest.raises(ServiceError):
        one.upload(upload, note=notes.append, on_bytes=lambda done, total: None)
    begun = {key: value for note in notes for key, value in note.items()}
    file, _ = send(one, upload.model_copy(update={"begun": begun}))

    assert DATA == server.contents[file.id]
    assert 1 == server.n("POST", "/uploads")
    assert 1 + 4 == server.n("POST", "/uploads/.*/parts")  # of four parts one was sent in vain


def test_an_upload_that_is_about_to_expire_is_begun_anew(server, upload):
    """Parts of an hour ago are of no use."""
    one = service(server.url, parts_above=100, part_bytes=200)
    begun = {"upload_id": "upload-old", "part_bytes": 200, "until": int(time.time()) + 5, "parts": ["part-old"]}
    file, notes = send(one, upload.model_copy(update={"begun": begun}))

    assert DATA == server.contents[file.id]
    assert "upload-old" != notes[0]["upload_id"]


def test_a_stamp_takes_the_place_of_none():
    """A journal of before there were stamps: the first one that is written down is held against the file from then on."""
    first = Intended(what="training", since=100)
    later = [Intended(what="training", since=200, stamp=(1, 2)), Intended(what="training", since=300, stamp=(3, 4))]
    run = run_of([Adopted(address="somewhere"), first, *later])

    assert (100, (1, 2)) == (run.intended["training"].since, run.intended["training"].stamp)


def test_what_an_earlier_try_left_is_found(server, upload):
    """A file by name and size on whatever page, a job by its mark, or by its file where no metadata is kept."""
    server.page = 3
    for _ in range(7):
        server.file("other.jsonl", b"x")
    one = service(server.url)
    assert one.find_file(upload) is None
    file, _ = send(one, upload)
    for _ in range(7):
        server.file("later.jsonl", b"x")
    job = one.create(request_for(file.id), "mark-1")
    other = server.job({"model": "base-1", "training_file": file.id, "metadata": {"run": "mark-2"}})
    plain = server.job({"model": "base-1", "training_file": file.id, "metadata": None})

    assert file == one.find_file(upload)
    assert job.id == one.find_job(request_for("file-x"), "mark-1", since=0).id
    assert other["id"] == one.find_job(request_for("file-x"), "mark-2", since=0).id
    assert plain["id"] == one.find_job(request_for(file.id), "mark-3", since=0).id
    assert one.find_job(request_for(file.id), "mark-3", since=int(time.time()) + 100_000) is None
    assert one.find_job(request_for("file-x"), "mark-3", since=0) is None


def test_a_list_without_an_end_is_no_answer(server, upload):
    """Who cannot see all files cannot say that one is not there."""
    server.paged = lambda items, query: {
        "data": [{"id": f"file-{time.monotonic_ns()}", "filename": "x"}],
        "has_more": True,
    }

    with pytest.raises(CannotSearch):
        service(server.url).find_file(upload)


def test_reading_is_repeated_and_writing_is_not(server, upload):
    """500 on a look: again. 500 on a creation: nobody knows, so nothing is sent twice."""
    file, _ = send(service(server.url), upload)
    server.faults = {"POST /fine_tuning/jobs": [500], "GET /fine_tuning/jobs/.*": [500, "drop"]}
    with pytest.raises(ServiceError, match="not known") as caught:
        service(server.url).create(request_for(file.id), "m")
    job = service(server.url).create(request_for(file.id), "m")
    found = service(server.url).get(job.id)

    assert job.id == found.id
    assert 3 == server.n("GET", f"/fine_tuning/jobs/{job.id}")
    assert 2 == server.n("POST", "/fine_tuning/jobs")
    assert 3 == caught.value.exit_code


def test_a_wait_beyond_patience_is_told(server, upload):
    """The service asks for an hour: nothing is repeated now."""
    server.faults = {"POST /files": [Refused(429, "rate_limit", headers={"retry-after": "3600"})]}

    with pytest.raises(ServiceError, match="asks to wait 1 h"):
        send(service(server.url), upload)
    assert 1 == len(server.received)


def test_silence_ends_with_the_time_limit(server):
    """A service that says nothing is left after the time limit, each time it is asked."""
    server.faults = {"GET .*": ["hang"] * 3}

    with pytest.raises(ServiceError, match="timed out"):
        service(server.url, timeout_s=0.2).get("ftjob-1")


def test_the_key_is_in_no_exchange(server, upload):
    """A server that repeats the key does not bring it into the journal."""
    kept = []
    server.faults = {"GET /fine_tuning/jobs/x": [Refused(400, "odd", f"your key {KEY} is odd")]}
    with pytest.raises(ServiceError) as caught:
        service(server.url, kept=kept).get("x")

    assert KEY not in str(caught.value) + caught.value.hint + "".join(one.model_dump_json() for one in kept)
    assert "your key [key] is odd" == kept[0].response["error"]["message"]


def test_azure_has_a_header_and_a_limit_of_its_own():
    """By its host alone."""
    azure = service("https://res.openai.azure.com/openai/v1")
    other = service("https://azure.example.com/v1")

    assert KEY == azure._client.default_headers["api-key"]
    assert "api-key" not in other._client.default_headers
    assert (150_000_000, 512_000_000) == (azure._parts_above, other._parts_above)


def test_events_come_once_and_in_order(server, upload):
    """Newest first on the wire, oldest first here; only what is new after the last one."""
    file, _ = send(service(server.url), upload)
    job = service(server.url).create(request_for(file.id), "m")
    for i in range(250):
        server.tell(job.id, f"step {i}")
    first = service(server.url).events(job.id, None)
    server.tell(job.id, "more")

    assert ["Created fine-tuning job", *(f"step {i}" for i in range(250))] == [event.message for event in first]
    assert ["more"] == [event.message for event in service(server.url).events(job.id, first[-1].id)]


def test_waiting_slows_down_while_nothing_happens(server, upload, tmp_path):
    """Pauses grow up to the longest and start over when something is new."""
    file, _ = send(service(server.url), upload)
    job = service(server.url).create(request_for(file.id), "m")
    journal = adopted(tmp_path / "run", job)
    looks = iter([None, None, None, "event", None])
    pauses = []

    def sleep(seconds):
        pauses.append(seconds)
        what = next(looks, "end")
        if what == "event":
            server.tell(job.id, "hello")
        if what == "end":
            server.jobs[job.id]["status"] = "cancelled"

    server.statuses = ("queued",)
    server.jobs[job.id]["status"] = "queued"
    ended = followed(journal, service(server.url), job, pauses=Pauses(first_s=2, longest_s=4), sleep=sleep)

    assert "cancelled" == ended.status
    assert [2, 3, 4, 4, 2, 3] == pauses


def adopted(folder, job):
    journal = journals.begun(folder)
    journal.add(Adopted(service="openai", base_url=None, address="http://here", job=job))
    return journal


JOB = Job(id="ftjob-1", status="running")


def test_a_response_that_was_there_before_is_not_written_again(tmp_path):
    """Polling for days says what changed, and that the rest did not."""
    journal = adopted(tmp_path / "run", JOB)
    for i, response in enumerate(({"status": "queued"}, {"status": "queued"}, {"status": "running"})):
        journal.exchanged(Exchange(did="look", status=200, request_id=f"req-{i}", response=response))
    found = [entry for entry in journals.opened(tmp_path / "run").entries if isinstance(entry, Exchanged)]

    assert [False, True, False] == [entry.same for entry in found]
    assert [{"status": "queued"}, None, {"status": "running"}] == [entry.exchange.response for entry in found]
    assert ["req-0", "req-1", "req-2"] == [entry.exchange.request_id for entry in found]


def test_two_hands_write_one_journal(tmp_path):
    """Each takes up what the other wrote, and no line is lost."""
    one = adopted(tmp_path / "run", JOB)
    two = journals.opened(tmp_path / "run")
    for i in range(3):
        one.add(Intended(what="job", since=i))
        two.add(Seen(job=JOB.model_copy(update={"trained_tokens": i})))

    assert 7 == len(journals.opened(tmp_path / "run").entries)
    assert 2 == run_of(two.entries).job.trained_tokens


def test_only_one_may_submit(tmp_path):
    """The second is turned away, and let in when the first is done."""
    with journals.alone(tmp_path), pytest.raises(OutputNotWritable, match="another run"), journals.alone(tmp_path):
        raise AssertionError("both are in")
    with journals.alone(tmp_path):
        pass


@pytest.mark.parametrize("content", [b"", b"hello\n", b'{"before": "", "at": "", "entry": {"kind": "odd"}}\n'])
def test_what_is_no_journal(tmp_path, content):
    """An empty file, text, and JSON of something else."""
    (tmp_path / "journal.jsonl").write_bytes(content)

    with pytest.raises(RunError):
        journals.opened(tmp_path)


def test_a_run_without_a_job(tmp_path):
    """An endpoint alone has none to look at."""
    journal = journals.begun(tmp_path / "run")
    journal.add(Adopted(service=None, base_url="http://x/v1", address="http://x/v1", model="theirs"))

    assert ("endpoint", "theirs") == (run_of(journal.entries).state, run_of(journal.entries).model)
    with pytest.raises(RunError, match="endpoint alone"):
        job_in(journal)


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (
            {"error_code": "invalid_file", "error_param": "training_file"},
            2,
            r"failed \(invalid_file, about training_file\)",
        ),
        ({"error_code": "server_error"}, 3, r"failed \(server_error\)"),
        ({"error_code": "the row 'Crimson gulls' is odd"}, 3, r"job ftjob-1 failed$"),
    ],
)
def test_a_job_that_failed_says_its_code_alone(error, code, said):
    """Nothing that may quote a row; a bad file is bad data, any other failure tells nothing."""
    with pytest.raises(JobFailed, match=said) as caught:
        check_succeeded("openai", Job(id="ftjob-1", status="failed", **error))
    assert code == caught.value.exit_code


def test_a_status_that_nobody_knows_is_not_the_end():
    """A service may invent one."""
    assert not Job(id="x", status="paused_by_moon").has_ended
    check_succeeded("openai", Job(id="x", status="paused_by_moon"))


def test_odd_replies_are_read_leniently():
    """Wrong types are nothing; without an id it is no job."""
    odd = {"id": "j", "status": 7, "created_at": "now", "trained_tokens": True, "metadata": [1], "error": "x"}
    job = job_of(odd)

    assert ("unknown", None, None, {}) == (job.status, job.created_at, job.trained_tokens, job.metadata)
    assert {} == event_of({"id": "e", "data": "x"}).data
    assert {"a": 1.0} == checkpoint_of({"id": "c", "metrics": {"a": 1, "b": None, "c": float("nan")}}).metrics
    for wrong in ({}, {"id": ""}, {"id": 3}, {"id": "a\nb"}, [], None, "x"):
        with pytest.raises(Unreadable):
            job_of(wrong)


def test_work_is_waited_for_only_so_long():
    """Its result, its error, or the end of patience."""
    assert 3 == outcome_of(lambda: 3)
    with pytest.raises(KeyError):
        outcome_of(lambda: {}["x"])
    with pytest.raises(TimeoutError):
        outcome_of(lambda: time.sleep(30), within_s=0.05)


def test_services_by_name(monkeypatch):
    """Unknown ones, missing packages and missing keys are told before anything is sent."""
    monkeypatch.setitem(__import__("sys").modules, "together", None)
    monkeypatch.delenv("OPENAI_API_KEY")
    with pytest.raises(UsageError, match="unknown service"):
        connected("acme", Connection())
    with pytest.raises(MissingExtra) as missing:
        connected("together", Connection())
    with pytest.raises(LMUnavailable, match="no API key"):
        connected("openai", Connection(base_url="https://example.invalid/v1"))

    assert "pip install 'vtuned[together]'" in missing.value.hint


def test_the_record_of_a_request_has_no_secrets_of_the_address(upload, server):
    """The SDK's own client carries the query; what is shown of the address does not."""
    one = service(server.url + "?sig=hush-hush-hush")
    file, _ = send(one, upload)

    assert file.id in server.files
    assert "hush" not in one.address + repr(one) + json.dumps(repr(one._access))
