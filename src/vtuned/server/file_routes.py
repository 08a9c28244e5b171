"""`/v1/files` and `/v1/uploads`: what tenants send, kept under names of our own."""

from __future__ import annotations

import contextlib
import hashlib
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, BinaryIO, Literal, cast

from fastapi import APIRouter, File, Form, Header, Query, UploadFile
from starlette.requests import Request
from starlette.responses import StreamingResponse

from vtuned.errors import DatasetError
from vtuned.server import objects, records, room
from vtuned.server.home import keep, opened
from vtuned.server.orders import CompleteOrder, Name, Purpose, UploadOrder
from vtuned.server.refusals import Refusal, invalid, not_found
from vtuned.server.state import State, state_of, tenant_of
from vtuned.server.store import now

router = APIRouter(prefix="/v1")

MAX_PART_BYTES = 64 << 20
_UPLOAD_S = 3600
_LABEL_LENGTH = 256
_CHUNK_BYTES = 1 << 20


@router.post("/files")
def create_file(
    request: Request,
    file: Annotated[UploadFile, File()],
    purpose: Annotated[Purpose, Form()],
    idempotency_key: Annotated[str | None, Header(max_length=256)] = None,
) -> dict[str, Any]:
    """Keep a file. The same bytes under the same Idempotency-Key are kept once."""
    state, tenant = state_of(request), tenant_of(request)
    identifier = f"file-{secrets.token_hex(12)}"
    path = state.home.file(identifier)
    try:
        n_bytes, sha256 = keep(file.file, path, state.max_file_bytes)
    except ValueError as error:
        raise _too_large(state.max_file_bytes) from error
    made = records.File(
        identifier, tenant, label(file.filename), purpose, n_bytes, sha256, now(), mark_of(idempotency_key)
    )
    return objects.file_object(_added(state, made, path))


def _added(state: State, made: records.File, path: Path) -> records.File:
    """Add *made*, or return what an earlier try with its mark has made; the bytes in *path* are then dropped."""
    try:
        if made.n_bytes == 0:
            raise invalid("The file is empty.", "file")
        with state.taking_room:
            earlier = _with_mark(state, made.tenant, made.mark)
            if earlier is None:
                room.check(state, made.tenant, made.n_bytes)
                if state.store.add(made):
                    return made
        if earlier is None or earlier.sha256 != made.sha256:
            raise Refusal(409, "That Idempotency-Key came with another file.", code="idempotency_key_reused")
    except Refusal:
        path.unlink(missing_ok=True)
        raise
    path.unlink(missing_ok=True)
    return earlier


def _with_mark(state: State, tenant: str, mark: str | None) -> records.File | None:
    return state.store.find(records.File, tenant=tenant, mark=mark) if mark else None


def may_come(state: State, tenant: str, key: str | None) -> int:
    """Return how many bytes *tenant* may send; a retry of what is here already, by its Idempotency-Key, takes no room."""
    return state.max_file_bytes if _with_mark(state, tenant, mark_of(key)) else room.left(state, tenant)


@router.get("/files")
def list_files(
    request: Request,
    after: Annotated[Name | None, Query()] = None,
    limit: Annotated[int, Query(ge=1, le=10_000)] = 10_000,
    order: Annotated[Literal["asc", "desc"], Query()] = "desc",
    purpose: Annotated[Name | None, Query()] = None,
) -> dict[str, Any]:
    """List the tenant's files."""
    found = state_of(request).store.all(records.File, tenant=tenant_of(request))
    wanted = [file for file in found if purpose in (None, file.purpose)]
    return objects.page(wanted, objects.file_object, after=after, limit=limit, order=order)


@router.get("/files/{file_id}")
def retrieve_file(request: Request, file_id: str) -> dict[str, Any]:
    """Show one file."""
    return objects.file_object(file_of(request, file_id))


@router.get("/files/{file_id}/content")
def file_content(request: Request, file_id: str) -> StreamingResponse:
    """Give the bytes of a file back."""
    path = state_of(request).home.file(file_of(request, file_id).id)
    return StreamingResponse(_chunks(path), media_type="application/octet-stream")


def _chunks(path: Path) -> Iterator[bytes]:
    """Return the bytes of *path*; a refusal comes at once, not when the first are asked for."""
    held = contextlib.ExitStack()
    try:
        file = held.enter_context(opened(path))
    except DatasetError as error:
        raise Refusal(409, f"These bytes cannot be given: {error}", code="file_damaged") from error

    def chunks() -> Iterator[bytes]:
        with held:
            while chunk := file.read(_CHUNK_BYTES):
                yield chunk

    return chunks()


@router.delete("/files/{file_id}")
def delete_file(request: Request, file_id: str) -> dict[str, Any]:
    """Delete a file. A job that was made with it keeps its bytes as long as it runs or one of its models is there."""
    state, file = state_of(request), file_of(request, file_id)
    state.store.remove(records.File, file.id)
    state.home.file(file.id).unlink(missing_ok=True)
    return {"id": file.id, "object": "file", "deleted": True}


@router.post("/uploads")
def create_upload(request: Request, order: UploadOrder) -> dict[str, Any]:
    """Begin a file that comes in parts."""
    state, tenant = state_of(request), tenant_of(request)
    if order.bytes > state.max_file_bytes:
        raise _too_large(state.max_file_bytes)
    with state.taking_room:
        room.check(state, tenant, order.bytes)
    identifier, time = f"upload_{secrets.token_hex(12)}", now()
    upload = records.Upload(
        identifier, tenant, label(order.filename), order.purpose, order.bytes, time, time + _UPLOAD_S
    )
    state.store.add(upload)
    return objects.upload_object(upload, None, time)


@router.post("/uploads/{upload_id}/parts")
def create_part(request: Request, upload_id: str, data: Annotated[UploadFile, File()]) -> dict[str, Any]:
    """Add a part; parts may come in any order."""
    state, upload = state_of(request), _pending(request, upload_id)
    held = sum(part.n_bytes for part in state.store.all(records.Part, upload=upload.id))
    # A client that died goes on with parts of its own; what it had sent before is not asked for again.
    limit = min(MAX_PART_BYTES, 2 * upload.n_bytes - held)
    part_id = f"part_{secrets.token_hex(12)}"
    try:
        n_bytes, _ = keep(data.file, state.home.part(part_id), limit)
    except ValueError as error:
        raise _too_large(limit) from error
    part = records.Part(part_id, upload.id, n_bytes, now())
    try:
        if n_bytes == 0:
            raise invalid("The part is empty.", "data")
        with state.taking_room:
            room.check(state, upload.tenant, n_bytes)
            state.store.add(part)
    except Refusal:
        state.home.part(part_id).unlink(missing_ok=True)
        raise
    if _upload(request, upload_id).status != "pending":
        # It ended while these bytes came: whoever ended it did not see them.
        room.drop_parts(state, upload)
        raise invalid("This upload is over.", "upload_id", code="upload_not_pending")
    return {"id": part.id, "object": "upload.part", "created_at": part.created, "upload_id": upload.id}


@router.post("/uploads/{upload_id}/complete")
def complete_upload(request: Request, upload_id: str, order: CompleteOrder) -> dict[str, Any]:
    """Make a file of the parts, in the order given. Asking again gives the same file."""
    state = state_of(request)
    if _upload(request, upload_id).status != "completed":
        with _alone(state, upload_id):
            if _upload(request, upload_id).status != "completed":
                _join(state, _pending(request, upload_id), order)
    return _shown(state, _upload(request, upload_id))


@contextlib.contextmanager
def _alone(state: State, upload_id: str) -> Iterator[None]:
    """Keep others from ending an upload meanwhile. Raises Refusal where somebody does: clients ask again after a 409."""
    with state.taking_room:
        if upload_id in state.joining:
            raise Refusal(409, "This upload is being completed: ask again in a moment.", code="upload_busy")
        state.joining.add(upload_id)
    try:
        yield
    finally:
        state.joining.discard(upload_id)


def _join(state: State, upload: records.Upload, order: CompleteOrder) -> None:
    """Make a file of the parts of *upload*. Raises Refusal where they are not what was announced."""
    known = {part.id: part for part in state.store.all(records.Part, upload=upload.id)}
    if len(set(order.part_ids)) < len(order.part_ids) or not known.keys() >= set(order.part_ids):
        raise invalid("Each part must be one of this upload, and come once.", "part_ids")
    n_bytes = sum(known[part].n_bytes for part in order.part_ids)
    if n_bytes != upload.n_bytes:
        raise invalid(f"The parts have {n_bytes} bytes together, {upload.n_bytes} were announced.", "part_ids")
    identifier = f"file-{secrets.token_hex(12)}"
    path = state.home.file(identifier)
    joined = _Joined([state.home.part(part) for part in order.part_ids])
    try:
        _, sha256 = keep(cast(BinaryIO, joined), path, upload.n_bytes)
    finally:
        joined.close()
    if order.md5 is not None and order.md5.lower() != joined.md5.hexdigest():
        path.unlink(missing_ok=True)
        raise invalid("The bytes do not have that MD5.", "md5")
    made = records.File(identifier, upload.tenant, upload.name, upload.purpose, n_bytes, sha256, now())
    if not state.store.move_upload(upload.id, "completed", made):
        path.unlink(missing_ok=True)
    room.drop_parts(state, upload)


@router.post("/uploads/{upload_id}/cancel")
def cancel_upload(request: Request, upload_id: str) -> dict[str, Any]:
    """Give an upload up."""
    state = state_of(request)
    with _alone(state, upload_id):
        upload = _pending(request, upload_id)
        state.store.move_upload(upload.id, "cancelled")
        room.drop_parts(state, upload)
    return _shown(state, _upload(request, upload_id))


def file_of(request: Request, identifier: str, param: str | None = None) -> records.File:
    """Return a file of the tenant that asks. Raises Refusal where there is none of that name."""
    found = state_of(request).store.find(records.File, id=identifier, tenant=tenant_of(request))
    if found is None:
        refusal = not_found("file", identifier)
        refusal.param = param
        raise refusal
    return found


def label(name: str | None) -> str:
    """Return what a tenant calls a file, as a label: its last part, without control characters."""
    last = (name or "").replace("\\", "/").rpartition("/")[2]
    shown = "".join(c if c.isprintable() else "_" for c in last)[:_LABEL_LENGTH]
    return shown if shown.strip(". ") else "unnamed"


def mark_of(key: str | None) -> str | None:
    """Return what is kept of an Idempotency-Key: a digest."""
    return hashlib.sha256(key.encode("utf-8", "surrogatepass")).hexdigest() if key else None


class _Joined:
    """Files read one after the other, and the MD5 of their bytes, which is what the protocol asks for."""

    def __init__(self, paths: list[Path]) -> None:
        self._left = list(reversed(paths))
        self._held = contextlib.ExitStack()
        self._file: BinaryIO | None = None
        self.md5 = hashlib.md5(usedforsecurity=False)

    def read(self, n: int) -> bytes:
        while True:
            if self._file is None:
                if not self._left:
                    return b""
                self._file = self._held.enter_context(opened(self._left.pop()))
            chunk = self._file.read(n)
            if chunk:
                self.md5.update(chunk)
                return chunk
            self.close()

    def close(self) -> None:
        self._held.close()
        self._file = None


def _upload(request: Request, identifier: str) -> records.Upload:
    found = state_of(request).store.find(records.Upload, id=identifier, tenant=tenant_of(request))
    if found is None:
        raise not_found("upload", identifier)
    return found


def _pending(request: Request, identifier: str) -> records.Upload:
    upload = _upload(request, identifier)
    if upload.status != "pending" or upload.expires < now():
        raise invalid("This upload is over.", "upload_id", code="upload_not_pending")
    return upload


def _shown(state: State, upload: records.Upload) -> dict[str, Any]:
    file = state.store.find(records.File, id=upload.file) if upload.file else None
    return objects.upload_object(upload, file, now())


def _too_large(limit: int) -> Refusal:
    return Refusal(413, f"That is more than the {limit} bytes that this server takes.", code="file_too_large")
