"""What a server keeps going and within its limits, without a model."""

from __future__ import annotations

import json
from types import SimpleNamespace

import pytest
from starlette.testclient import TestClient

from vtuned import formats
from vtuned.errors import OutputExists
from vtuned.gauntlet.rounds import folder_of
from vtuned.server.app import Settings, application
from vtuned.server.home import Home
from vtuned.server.orders import JobOrder, request_of
from vtuned.server.queue import Queue
from vtuned.server.records import Job, Part, Upload


def test_parts_of_uploads_count_as_room(tmp_path):
    """Uploads that are begun while there is room do not take more than there is."""
    settings = Settings(data=tmp_path / "data", models={}, max_file_bytes=1000, max_tenant_bytes=1500)
    client = TestClient(application(settings), headers={"Authorization": "Bearer token-of-alice"})
    order = {"bytes": 1000, "filename": "a.jsonl", "purpose": "fine-tune"}
    uploads = [client.post("/v1/uploads", json=order).json()["id"] for _ in range(2)]
    sent = [client.post(f"/v1/uploads/{one}/parts", files={"data": b"x" * 1000}).status_code for one in uploads]
    assert [200, 413] == sent
    assert 1 == len(list((tmp_path / "data" / "parts").iterdir()))


@pytest.mark.parametrize("error", [OSError("disk"), RecursionError()])
def test_the_queue_outlives_what_nobody_expected(tmp_path, monkeypatch, error):
    """One bad step does not end the thread that works for all tenants."""
    queue, n_steps = Queue(None, None, None), []

    def step():
        n_steps.append(1)
        if len(n_steps) == 2:
            queue._stopping.set()
        raise error

    monkeypatch.setattr(queue, "_step", step)
    queue._work()
    assert 2 == len(n_steps)


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
    queue._step()
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
