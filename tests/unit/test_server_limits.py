"""What a server keeps going and within its limits, without a model."""

from __future__ import annotations

import itertools
import json
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import pytest
from starlette.testclient import TestClient

import served
from vtuned import formats
from vtuned.errors import DatasetError, OutputExists, raised
from vtuned.gauntlet.rounds import folder_of
from vtuned.server import diary, file_routes, room, serving, worker
from vtuned.server.app import Settings, application
from vtuned.server.gate import depth_of
from vtuned.server.home import Home
from vtuned.server.orders import JobOrder, request_of
from vtuned.server.queue import Queue
from vtuned.server.records import File, Job, Model, Part, Upload
from vtuned.server.refusals import Refusal
from vtuned.server.worker import failure


def test_parts_of_uploads_count_as_room(tmp_path):
    """Uploads that are begun while there is room do not take more than there is."""
    settings = Settings(data=tmp_path / "data", models={}, max_file_bytes=1000, max_tenant_bytes=1500)
    client = TestClient(application(settings), headers={"Authorization": "Bearer token-of-alice"})
    order = {"bytes": 1000, "filename": "a.jsonl", "purpose": "fine-tune"}
    uploads = [client.post("/v1/uploads", json=order).json()["id"] for _ in range(2)]
    sent = [client.post(f"/v1/uploads/{one}/parts", files={"data": b"x" * 1000}).status_code for one in uploads]
    assert [200, 413] == sent
    assert 1 == len(list((tmp_path / "data" / "parts").iterdir()))


def client_of(tmp_path, **limits):
    """Return a client of a server without models, and what its routes share."""
    app = application(Settings(data=tmp_path / "data", models={}, **limits))
    return TestClient(app, headers={"Authorization": "Bearer token-of-alice"}), app.state.server


ORDER = {"bytes": 1000, "filename": "a.jsonl", "purpose": "fine-tune"}


def test_an_empty_part_is_refused(tmp_path):
    """They would be kept without end, since they take no room."""
    client, _ = client_of(tmp_path)
    upload = client.post("/v1/uploads", json=ORDER).json()["id"]
    said = client.post(f"/v1/uploads/{upload}/parts", files={"data": b""})

    assert (400, "The part is empty.") == (said.status_code, said.json()["error"]["message"])
    assert [] == list((tmp_path / "data" / "parts").iterdir())


def test_a_part_that_comes_after_its_upload_was_given_up_is_not_kept(tmp_path, monkeypatch):
    """Whoever gave it up removed the parts that were there then."""
    client, state = client_of(tmp_path)
    upload = client.post("/v1/uploads", json=ORDER).json()["id"]
    check = room.check

    def given_up_meanwhile(*told):
        check(*told)
        state.store.move_upload(upload, "cancelled")

    monkeypatch.setattr(room, "check", given_up_meanwhile)
    said = client.post(f"/v1/uploads/{upload}/parts", files={"data": b"x" * 1000})

    assert (400, "upload_not_pending") == (said.status_code, said.json()["error"]["code"])
    assert ([], []) == (list((tmp_path / "data" / "parts").iterdir()), state.store.all(Part))


def test_files_at_once_do_not_take_more_room_than_there_is(tmp_path):
    """Ten of 1,000 bytes for which there is room twice."""
    client, state = client_of(tmp_path, max_tenant_bytes=2500)

    def sent(number):
        given = {"file": (f"{number}.jsonl", b"x" * 1000)}
        return client.post("/v1/files", files=given, data={"purpose": "fine-tune"}).status_code

    with ThreadPoolExecutor(10) as pool:
        codes = list(pool.map(sent, range(10)))

    assert [200] * 2 + [413] * 8 == sorted(codes)
    assert 2 == len(list((tmp_path / "data" / "files").iterdir())) == len(state.store.all(File))


def test_who_has_no_room_is_told_before_sending(tmp_path, monkeypatch):
    """By what the request says of its length: nothing of it is written."""
    client, _ = client_of(tmp_path, max_tenant_bytes=2500)
    monkeypatch.setattr(file_routes, "keep", None)
    given = {"file": ("a.jsonl", b"x" * 200_000)}
    said = client.post("/v1/files", files=given, data={"purpose": "fine-tune"})

    assert (413, "quota_exceeded") == (said.status_code, said.json()["error"]["code"])


def test_an_upload_is_completed_once(tmp_path, monkeypatch):
    """Who completes or cancels it meanwhile is told to ask again, and then gets the same file."""
    client, _ = client_of(tmp_path)
    upload = client.post("/v1/uploads", json=ORDER).json()["id"]
    part = client.post(f"/v1/uploads/{upload}/parts", files={"data": b"x" * 1000}).json()["id"]
    keep, is_joining, may_go_on = file_routes.keep, threading.Event(), threading.Event()

    def slowly(*told):
        is_joining.set()
        assert may_go_on.wait(30)
        return keep(*told)

    monkeypatch.setattr(file_routes, "keep", slowly)

    def completed():
        return client.post(f"/v1/uploads/{upload}/complete", json={"part_ids": [part]})

    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(completed)
        assert is_joining.wait(30)
        busy = [completed().json()["error"]["code"], client.post(f"/v1/uploads/{upload}/cancel").status_code]
        may_go_on.set()

    assert ["upload_busy", 409] == busy
    assert first.result().json()["file"]["id"] == completed().json()["file"]["id"]
    assert 1 == len(list((tmp_path / "data" / "files").iterdir()))


def test_parts_stay_while_a_file_is_made_of_them(tmp_path):
    """Also where the upload expires meanwhile; they go the next time that room is looked for."""
    home = Home.made(tmp_path / "data")
    store = home.store()
    store.add(Upload("upload-1", "t", "a", "fine-tune", 10, 0, 0))
    store.add(Part("part-1", "upload-1", 10, 0))
    home.part("part-1").write_bytes(b"x" * 10)
    state = SimpleNamespace(home=home, store=store, max_tenant_bytes=100, joining={"upload-1"})
    meanwhile = room.left(state, "t")
    is_there = home.part("part-1").exists()
    state.joining.clear()

    assert (90, True) == (meanwhile, is_there)
    assert 100 == room.left(state, "t")
    assert not home.part("part-1").exists()


def test_who_does_not_say_how_much_is_sent_gets_no_more_room(tmp_path):
    """What comes in chunks is read as far as there is room, and no file of it is kept."""
    client, _ = client_of(tmp_path, max_tenant_bytes=2500)
    head = b'--b\r\nContent-Disposition: form-data; name="purpose"\r\n\r\nfine-tune\r\n'
    head += b'--b\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\n'
    sent = []

    def chunks():
        yield head
        for _ in range(100):
            sent.append(1)
            yield b"x" * 10_000
        yield b"\r\n--b--\r\n"

    form = {"Content-Type": "multipart/form-data; boundary=b"}
    said = client.post("/v1/files", content=chunks(), headers=form)

    assert (413, "quota_exceeded") == (said.status_code, said.json()["error"]["code"])
    assert [] == list((tmp_path / "data" / "files").iterdir())


def test_a_retry_of_what_is_here_takes_no_room(tmp_path):
    """By its Idempotency-Key: the answer was lost, not the file."""
    client, _ = client_of(tmp_path, max_tenant_bytes=150_000)
    given = {"files": {"file": ("a.jsonl", b"x" * 100_000)}, "data": {"purpose": "fine-tune"}}
    first, again = (client.post("/v1/files", **given, headers={"Idempotency-Key": "mine"}) for _ in range(2))
    other = client.post("/v1/files", **given, headers={"Idempotency-Key": "other"})

    assert (200, 200, 413) == (first.status_code, again.status_code, other.status_code)
    assert first.json()["id"] == again.json()["id"]


def test_the_model_that_was_asked_longest_ago_makes_room(tmp_path, monkeypatch):
    """Not the one that was loaded first, if it is asked all the time."""
    home = Home.made(tmp_path / "data")
    models = serving.Models(home, home.store(), {}, None)
    monkeypatch.setattr(serving, "_MOST_LOADED", 2)
    monkeypatch.setattr(models, "record", lambda tenant, name: name)
    monkeypatch.setattr(models, "_deployed", lambda record: object())
    first = models.served("t", "first")
    models.served("t", "second")
    models.served("t", "first")
    models.served("t", "third")

    assert first is models.served("t", "first")
    assert {"first", "third"} == set(models._served)

    def while_others_are_asked(record):
        models.served("t", "first")
        models.served("t", "third")
        return object()

    monkeypatch.setattr(models, "_deployed", while_others_are_asked)
    last = models.served("t", "last")
    assert {"third": True, "last": True} == dict.fromkeys(models._served, True)
    assert last is models.served("t", "last")
    models.forget("last")
    assert {"third"} == set(models._asked_at)


def test_an_error_that_nobody_expected_is_told_without_what_it_says():
    """It may hold a tenant's rows."""

    def trained():
        raise ValueError("the northern river")

    with pytest.raises(ValueError, match="northern") as caught:
        trained()
    assert f"ValueError at test_server_limits.py:{caught.tb.tb_next.tb_lineno}" == raised(caught.value)


def test_a_worker_says_nothing_of_the_rows_that_it_broke_on(tmp_path, monkeypatch, caplog):
    """What nobody expected ends it with a code; the log says of which kind it was, and where."""
    home = Home.made(tmp_path / "data")
    store = home.store()
    request = request_of(JobOrder(model="tiny", training_file="file-1"))
    store.add(Job("job", "t", 0, "tiny", "hf:tiny", "honest", "file-1", 0, request, None, status="queued"))

    def broken(run, oracle):
        raise ValueError("the northern river")

    monkeypatch.setattr(worker._Run, "work", broken)
    with pytest.raises(SystemExit) as caught:
        worker.run(home, "job", None)

    assert 1 == caught.value.code
    assert "job job: unexpected ValueError at test_server_limits.py:" in caplog.text
    assert "northern" not in caplog.text


def test_jobs_at_once_are_no_more_than_there_may_be(tmp_path):
    """Thirty that come together, of which three may wait."""
    app = application(Settings(data=tmp_path / "data", models={"tiny": "hf:tiny"}, max_unfinished=3))
    client = TestClient(app, headers={"Authorization": "Bearer token-of-alice"})
    given = {"file": ("a.jsonl", b'{"prompt": "Why?", "completion": "Because."}')}
    file = client.post("/v1/files", files=given, data={"purpose": "fine-tune"}).json()["id"]

    def made(_):
        return client.post("/v1/fine_tuning/jobs", json={"model": "tiny", "training_file": file}).status_code

    with ThreadPoolExecutor(15) as pool:
        codes = list(pool.map(made, range(30)))

    assert [200] * 3 + [429] * 27 == sorted(codes)


def test_a_reason_says_no_path_of_the_server(tmp_path):
    """Not even where the folder's name holds a space."""
    home = Home.made(tmp_path / "my data")
    error = DatasetError(f"{home.rows('job')}, line 3: not JSON", hint="mend it")

    assert "the training file, line 3: not JSON" == failure(error, home)["message"]


@pytest.mark.parametrize(
    ("text", "depth"),
    [(b"", 0), (b'{"a": [1, {"b": "]]}}[[[["}]}', 3), (b'["\\"[[", [[]]]', 3), (b"]]]][", 0), (b"[" * 100, 100)],
)
def test_how_deep_json_is(text, depth):
    """Brackets in strings do not count."""
    assert depth == depth_of(text)


class TestWhatJobsKeep:
    @pytest.fixture
    def server(self, tmp_path):
        home = Home.made(tmp_path / "data")
        return home, home.store()

    def job(self, home, store, status):
        """A job with its rows, 900 bytes, and a model of 500 bytes."""
        home.file("file-1").write_bytes(b"x" * 900)
        home.keep_rows("file-1", "job")
        folder = home.job("job") / "model"
        folder.mkdir()
        (folder / "weights").write_bytes(b"y" * 500)
        request = request_of(JobOrder(model="tiny", training_file="file-1"))
        store.add(Job("job", "t", 0, "tiny", "hf:tiny", "honest", "file-1", 0, request, None, status=status))

    def test_it_takes_room(self, server):
        """Rows that are a file too count with that; once it is deleted, they count as the job's."""
        home, store = server
        self.job(home, store, "succeeded")
        store.add(File("file-1", "t", "a", "fine-tune", 900, "", 0, None))
        with_file = room.held(home, store, "t")
        store.remove(File, "file-1")
        home.file("file-1").unlink()

        assert (1400, 1400, 0) == (with_file, room.held(home, store, "t"), room.held(home, store, "other"))

    def test_rows_of_several_jobs_take_room_once(self, server):
        """Whatever their names: also when the file is deleted, and nothing but jobs has them."""
        home, store = server
        self.job(home, store, "succeeded")
        home.keep_rows("file-1", "other")
        request = request_of(JobOrder(model="tiny", training_file="file-1"))
        store.add(Job("other", "t", 0, "tiny", "hf:tiny", "honest", "file-1", 0, request, None, status="succeeded"))
        home.file("file-1").unlink()

        assert 1400 == room.held(home, store, "t")

    def test_there_is_no_further_job_without_room(self, tmp_path, server):
        """Models may have taken more than there was when their job began."""
        home, store = server
        self.job(home, store, "succeeded")
        store.add(File("file-1", "t", "a", "fine-tune", 900, "", 0, None))
        state = SimpleNamespace(home=home, store=store, max_tenant_bytes=1399, joining=set())
        with pytest.raises(Refusal, match="all the room"):
            room.check(state, "t", 0)
        state.max_tenant_bytes += 1
        room.check(state, "t", 0)

    @pytest.mark.parametrize(
        ("status", "has_model", "stays"),
        [
            ("failed", False, False),
            ("cancelled", False, False),
            ("cancelled", True, True),
            ("succeeded", True, True),
            ("running", False, True),
        ],
    )
    def test_it_is_given_back_when_nothing_of_it_is_left(self, server, status, has_model, stays):
        """Epochs of a job that was cancelled may still be asked, and some policies answer from the rows."""
        home, store = server
        self.job(home, store, status)
        if has_model:
            store.add(Model("ft:one", "t", "job", 0, "hf:tiny", "lora", "jobs/job/model"))
        queue = Queue(home, store, None)
        queue.wake()
        queue._worker, queue._working_on = (object(), "job") if status == "running" else (None, "")
        queue._look_at_worker = queue._start_worker = lambda job: None
        queue._step()

        assert stays == home.job("job").exists()

    def test_a_worker_that_still_runs_keeps_its_folder(self, server):
        """It is cancelled, but not ended."""
        home, store = server
        self.job(home, store, "cancelled")
        queue = Queue(home, store, None)
        queue.wake()
        queue._worker, queue._working_on = object(), "job"
        queue._look_at_worker = lambda job: None
        queue._step()
        kept = home.job("job").exists()
        queue._worker = None
        queue.wake()
        queue._step()

        assert (True, False) == (kept, home.job("job").exists())


@pytest.mark.parametrize("error", [OSError("disk"), RecursionError()])
def test_the_queue_outlives_what_nobody_expected(tmp_path, monkeypatch, error):
    """One bad step does not end the thread that works for all tenants."""
    n_steps, both = [], threading.Event()

    def step(queue):
        n_steps.append(1)
        if len(n_steps) == 2:
            both.set()
        raise error

    monkeypatch.setattr(Queue, "_step", step)
    monkeypatch.setattr(Queue, "_checks", lambda queue: None)
    queue = Queue(None, None, None)
    queue.start()
    went_on = both.wait(30)
    queue.stop()
    assert went_on


@pytest.mark.parametrize("ends", ["the server stops", "the job is cancelled"])
def test_a_long_file_holds_no_cancel_up(tmp_path, monkeypatch, ends):
    """While one tenant's rows are read, another's job is cancelled and gives its room back; and it is read no longer."""
    home = Home.made(tmp_path / "data")
    store = home.store()
    request = request_of(JobOrder(model="tiny", training_file="file-1"))
    for name, status in (("long", "validating_files"), ("short", "queued")):
        home.file(f"file-{name}").write_text('{"prompt": "Which river?", "completion": "The northern one."}\n')
        home.keep_rows(f"file-{name}", name)
        store.add(Job(name, "t", 0, "tiny", "hf:tiny", "honest", f"file-{name}", 0, request, None, status=status))
    read, is_reading, is_over = formats.read_rows, threading.Event(), threading.Event()

    def endless(path):
        [row] = read(path)
        for number in itertools.count(1):
            is_reading.set()
            is_over.clear()
            time.sleep(0.0001)
            yield SimpleNamespace(conversation=row.conversation, raw=SimpleNamespace(number=number))

    monkeypatch.setattr(formats, "read_rows", endless)
    monkeypatch.setattr(Queue, "_start_worker", lambda queue, job: None)
    queue = Queue(home, store, None)
    queue.start()
    assert is_reading.wait(30)
    store.cancel_job("short", diary.event("short", "cancelled"))
    queue.wake()
    served.until(lambda: not home.job("short").exists())
    if ends == "the job is cancelled":
        store.cancel_job("long", diary.event("long", "cancelled"))
        queue.wake()
        served.until(lambda: not home.job("long").exists())
        served.until(lambda: is_over.set() or time.sleep(0.2) or is_over.is_set())
    stopping = threading.Thread(target=queue.stop, daemon=True)
    stopping.start()
    stopping.join(30)

    assert not stopping.is_alive()
    assert ("validating_files" if ends == "the server stops" else "cancelled") == store.find(Job, id="long").status


def test_a_file_that_breaks_the_reader_fails_its_job_alone(tmp_path, monkeypatch):
    """An error that nobody expected ends that job, and the one behind it is checked."""
    home = Home.made(tmp_path / "data")
    store = home.store()
    request = request_of(JobOrder(model="tiny", training_file="file-1"))
    for name in ("first", "second"):
        home.file(f"file-{name}").write_text('{"prompt": "Which river?", "completion": "The northern one."}\n')
        home.keep_rows(f"file-{name}", name)
        store.add(Job(name, "t", 0, "tiny", "hf:tiny", "honest", f"file-{name}", 0, request, None))
    read = formats.read_rows

    def broken(path):
        if "first" in str(path):
            raise MemoryError
        return read(path)

    queue = Queue(home, store, None)
    monkeypatch.setattr(queue, "_start_worker", lambda job: None)
    monkeypatch.setattr(formats, "read_rows", broken)
    queue._checks()
    first, second = (store.find(Job, id=name) for name in ("first", "second"))

    assert ("failed", "server_error") == (first.status, json.loads(first.error)["code"])
    assert "queued" == second.status


def test_each_policy_has_a_folder_of_its_own(tmp_path):
    """Two models that differ in a slash alone do not share a round."""
    world = SimpleNamespace(folder=tmp_path)
    assert folder_of(world, "other-base:hf:a/b") != folder_of(world, "other-base:hf:a-b")
    assert "subset-0.25" == folder_of(world, "subset:0.25").name


def test_a_folder_of_others_is_left_alone(tmp_path):
    """A project with a folder called jobs is no place for a server: it would remove what it does not know."""
    kept = tmp_path / "jobs" / "thesis" / "results.txt"
    kept.parent.mkdir(parents=True)
    kept.write_text("years of work")
    with pytest.raises(OutputExists):
        application(Settings(data=tmp_path, models={}))
    assert kept.is_file()


def test_a_killed_start_can_be_repeated(tmp_path):
    """A folder with a key, what was half-written, and no database yet is a server's own."""
    key = Home.made(tmp_path / "data").key()
    for left in (".vtuned-half.tmp", "server.sqlite-journal"):
        (tmp_path / "data" / left).touch()
    application(Settings(data=tmp_path / "data", models={}))
    assert key == Home.made(tmp_path / "data").key()


def test_parts_of_an_upload_that_is_over_are_removed(tmp_path):
    """A kill between the end of an upload and the removal of its parts leaves no bytes for ever."""
    home = Home.made(tmp_path / "data")
    store = home.store()
    for name in ("pending", "completed"):
        store.add(Upload(name, "t", "a", "fine-tune", 1, 0, 0, name), Part(f"part_{name}", name, 1, 0))
        home.part(f"part_{name}").write_bytes(b"x")
    home.tidy(store)
    assert ["part_pending"] == [path.name for path in (tmp_path / "data" / "parts").iterdir()]
