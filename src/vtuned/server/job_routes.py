"""`/v1/fine_tuning/jobs`: jobs, their events and their checkpoints."""

from __future__ import annotations

import secrets
from typing import Annotated, Any

from fastapi import APIRouter, Header, Query
from starlette.requests import Request

from vtuned.errors import DatasetError
from vtuned.server import diary, objects, records, room
from vtuned.server.file_routes import file_of, mark_of
from vtuned.server.orders import JobOrder, Name, order_of, request_of
from vtuned.server.refusals import Refusal, not_found
from vtuned.server.state import State, state_of, tenant_of
from vtuned.server.store import now

router = APIRouter(prefix="/v1/fine_tuning/jobs")

# The pair of metadata by which `vtuned submit` and others tell a job of theirs.
MARK = "run"
_SEEDS = 2**31
_FILTER = ("metadata[", "]")


@router.post("")
def create_job(
    request: Request, order: JobOrder, idempotency_key: Annotated[str | None, Header(max_length=256)] = None
) -> dict[str, Any]:
    """Create a job. The same Idempotency-Key, or the same metadata `run`, gives the same job again."""
    state, tenant = state_of(request), tenant_of(request)
    order.check()
    earlier = _earlier(state, tenant, order, idempotency_key)
    if earlier is not None:
        return _shown(state, earlier)
    spec = state.models.spec(order.model)
    if spec is None:
        if state.models.record(tenant, order.model) is None:
            raise not_found("model", order.model)
        raise Refusal(400, "Jobs start from a base model here.", code="model_not_available", param="model")
    file = file_of(request, order.training_file, "training_file")
    with state.taking_room:
        job = _made(state, tenant, order, spec, file, idempotency_key)
        told = (f"Created fine-tuning job: {job.id}", f"Validating training file: {job.file}")
        is_new = state.store.add(job, *(diary.event(job.id, message) for message in told))
    if not is_new:
        state.home.drop(f"jobs/{job.id}")
        again = _earlier(state, tenant, order, idempotency_key)
        if again is None:
            raise Refusal(409, "Another request made this job meanwhile: ask again.", code="conflict")
        return _shown(state, again)
    state.wake()
    return _shown(state, job)


def _made(state: State, tenant: str, order: JobOrder, spec: str, file: records.File, key: str | None) -> records.Job:
    """Return a new job, its rows kept in its folder."""
    unfinished = [job for job in state.store.all(records.Job, tenant=tenant) if job.status in records.UNFINISHED]
    if len(unfinished) >= state.max_unfinished:
        raise Refusal(429, f"You have {len(unfinished)} unfinished jobs here: wait for one.", code="too_many_jobs")
    seed = secrets.randbelow(_SEEDS) if order.seed is None else order.seed
    order.how.hyperparameters.settings(seed)
    room.check(state, tenant, 0)
    job = records.Job(
        id=f"ftjob-{secrets.token_hex(12)}",
        tenant=tenant,
        created=now(),
        base=order.model,
        spec=spec,
        policy=state.policy,
        file=file.id,
        seed=seed,
        request=request_of(order),
        mark=_mark(order, key),
    )
    try:
        state.home.keep_rows(file.id, job.id)
    except DatasetError as error:
        raise Refusal(
            400, f"The training file cannot be read: {error}", code="invalid_training_file", param="training_file"
        ) from error
    return job


def _mark(order: JobOrder, key: str | None) -> str | None:
    own = (order.metadata or {}).get(MARK)
    return mark_of(f"{MARK} {own}") if own else mark_of(f"key {key}") if key else None


def _earlier(state: State, tenant: str, order: JobOrder, key: str | None) -> records.Job | None:
    """Return the job that an earlier try of the same request has made. Raises Refusal where it asked for another."""
    mark = _mark(order, key)
    job = state.store.find(records.Job, tenant=tenant, mark=mark) if mark else None
    if job is not None and request_of(order_of(job.request)) != request_of(order):
        raise Refusal(409, "That Idempotency-Key or run came with another job.", code="idempotency_key_reused")
    return job


@router.get("")
def list_jobs(
    request: Request,
    after: Annotated[Name | None, Query()] = None,
    limit: Annotated[int, Query(ge=1, le=100)] = 20,
) -> dict[str, Any]:
    """List the tenant's jobs, newest first; `metadata[KEY]=VALUE` keeps those that have it."""
    state = state_of(request)
    wanted = {
        key.removeprefix(_FILTER[0]).removesuffix(_FILTER[1]): value
        for key, value in request.query_params.multi_items()
        if key.startswith(_FILTER[0]) and key.endswith(_FILTER[1])
    }
    jobs = [
        job
        for job in state.store.all(records.Job, tenant=tenant_of(request))
        if wanted.items() <= (job.asked.get("metadata") or {}).items()
    ]
    return objects.page(jobs, lambda job: _shown(state, job), after=after, limit=limit)


@router.get("/{job_id}")
def retrieve_job(request: Request, job_id: str) -> dict[str, Any]:
    """Show one job."""
    return _shown(state_of(request), _job(request, job_id))


@router.post("/{job_id}/cancel")
def cancel_job(request: Request, job_id: str) -> dict[str, Any]:
    """Cancel a job that is not done."""
    state, job = state_of(request), _job(request, job_id)
    if job.status != records.CANCELLED and not state.store.cancel_job(
        job.id, diary.event(job.id, "The job was cancelled", level="warn")
    ):
        raise Refusal(400, "The job is done.", code="job_already_done")
    state.wake()
    return _shown(state, _job(request, job_id))


@router.get("/{job_id}/events")
def list_events(
    request: Request,
    job_id: str,
    after: Annotated[Name | None, Query()] = None,
    limit: Annotated[int, Query(ge=1, le=1000)] = 20,
) -> dict[str, Any]:
    """List what happened, newest first."""
    found = state_of(request).store.all(records.Event, job=_job(request, job_id).id)
    return objects.page(found, objects.event_object, after=after, limit=limit)


@router.get("/{job_id}/checkpoints")
def list_checkpoints(
    request: Request,
    job_id: str,
    after: Annotated[Name | None, Query()] = None,
    limit: Annotated[int, Query(ge=1, le=1000)] = 10,
) -> dict[str, Any]:
    """List the models after each epoch, newest first."""
    found = state_of(request).store.all(records.Checkpoint, job=_job(request, job_id).id)
    return objects.page(found, objects.checkpoint_object, after=after, limit=limit)


def _job(request: Request, identifier: str) -> records.Job:
    found = state_of(request).store.find(records.Job, id=identifier, tenant=tenant_of(request))
    if found is None:
        raise not_found("job", identifier)
    return found


def _shown(state: State, job: records.Job) -> dict[str, Any]:
    estimate = diary.estimated_finish(job, state.store) if job.status == records.RUNNING else None
    return objects.job_object(job, estimate)
