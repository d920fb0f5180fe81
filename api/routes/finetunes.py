"""Routes of fine-tunes: start, list, loss curve, cancel, delete, event stream, sample images."""

import json
from collections.abc import AsyncIterator
from dataclasses import replace
from functools import partial
from typing import Annotated, Any

from fastapi import APIRouter, Header, Path, Request, Response
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import StreamingResponse
from fastapi.sse import KEEPALIVE_COMMENT, format_sse_event

from api.auth import ReaderDep, ViewerDep, WriterDep
from api.deps import OF_STATUS, DatabaseDep, PageDep, Services, ServicesDep
from api.errors import ServiceBusy, TooManyStreams
from api.filters import FinetuneFilterDep
from api.idempotency import IdempotentRoute
from api.openapi import deleted, problems
from api.pngs import IMAGE, OPTIONAL_KEY, UNCHANGED, png
from api.schemas.common import Listing, listing
from api.schemas.finetunes import EstimateOut, FinetuneCreate, FinetuneOut, MetricsOut
from api.signing import signed_url
from api.streams import EventStream
from api.threads import STORE, runs_in
from api.waiting import wait_for
from core.artifact.errors import BaseMismatch, CoreError, NotFound
from core.artifact.jobs import ENDED, JobStatus
from core.service.db.models import FinetuneEvent
from core.service.errors import (
    AdapterQuarantined,
    BaseNotLoaded,
    DatasetNotReady,
    FinetuneInUse,
    ImageSizeUnsupported,
    JobFinished,
    MethodNotServed,
    NotEnded,
    QuotaExceeded,
    StorageQuotaExceeded,
)
from core.service.finetunes import service as finetunes
from core.service.storage.errors import StorageUnavailable
from core.service.tenancy import Scope

router = APIRouter(prefix="/v1", tags=["finetunes"], route_class=IdempotentRoute)
_KEEPALIVE_SECONDS = 15.0
_STREAM_HEADERS = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
_EVENT = {
    "type": "object",
    "properties": {
        "id": {"type": "string", "description": "Increases within each fine-tune."},
        "event": {"type": "string", "enum": ["status", "progress", "evaluation", "sample", "error"]},
        "data": {"type": "string", "contentMediaType": "application/json"},
    },
}
EventId = Annotated[int, Path(ge=1, lt=2**53)]


@router.post(
    "/domains/{id}/finetunes",
    status_code=202,
    operation_id="create_finetune",
    responses={
        200: {"model": EstimateOut, "description": "With `dry_run`: the estimated cost."},
        202: {"model": FinetuneOut},
        **problems(
            NotFound,
            DatasetNotReady,
            BaseNotLoaded,
            BaseMismatch,
            AdapterQuarantined,
            QuotaExceeded,
            StorageQuotaExceeded,
            MethodNotServed,
            ImageSizeUnsupported,
        ),
    },
)
def create_finetune(
    id: str, body: FinetuneCreate, database: DatabaseDep, scope: WriterDep, services: ServicesDep, response: Response
) -> FinetuneOut | EstimateOut:
    """Start a fine-tune on a data set, with DiffFit or BitFit: of the base model, or from a version on."""
    with database.session(scope) as session:
        request = body.to_request()
        if body.dry_run:
            response.status_code = 200
            return EstimateOut.model_validate(finetunes.dry_run(session, services.settings, id, request))
        return FinetuneOut.of(finetunes.submit(session, services, id, request))


@router.get("/domains/{id}/finetunes", operation_id="list_finetunes", responses=problems(NotFound))
def list_finetunes(
    id: str,
    database: DatabaseDep,
    scope: ReaderDep,
    page: PageDep,
    wanted: FinetuneFilterDep,
    status: Annotated[JobStatus | None, OF_STATUS] = None,
) -> Listing[FinetuneOut]:
    """List a domain's fine-tunes, newest first."""
    with database.reading(scope) as session:
        rows = finetunes.page(session, replace(wanted, domain_id=id), replace(page, status=status))
        return listing(rows, FinetuneOut.of)


@router.get("/finetunes", operation_id="list_all_finetunes")
def list_all_finetunes(
    database: DatabaseDep,
    scope: ReaderDep,
    page: PageDep,
    wanted: FinetuneFilterDep,
    status: Annotated[JobStatus | None, OF_STATUS] = None,
) -> Listing[FinetuneOut]:
    """List the fine-tunes of all your domains, newest first."""
    with database.reading(scope) as session:
        return listing(finetunes.page(session, wanted, replace(page, status=status)), FinetuneOut.of)


@router.get("/finetunes/{id}", operation_id="get_finetune", responses=problems(NotFound))
def get_finetune(id: str, database: DatabaseDep, scope: ReaderDep) -> FinetuneOut:
    """Get a fine-tune."""
    with database.reading(scope) as session:
        return FinetuneOut.of(finetunes.get(session, id))


@router.get("/finetunes/{id}/metrics", operation_id="get_finetune_metrics", responses=problems(NotFound))
def get_finetune_metrics(id: str, database: DatabaseDep, scope: ReaderDep) -> MetricsOut:
    """Get the loss curve of a fine-tune, and its held-out losses. A long curve is reduced to about 2,000 evenly spaced
    points, including its first and last."""
    with database.reading(scope) as session:
        points = {"data": finetunes.metrics(session, id), "evaluations": finetunes.evaluations(session, id)}
        return MetricsOut.model_validate(points)


@router.post(
    "/finetunes/{id}/cancel",
    status_code=202,
    operation_id="cancel_finetune",
    responses=problems(NotFound, JobFinished),
)
def cancel_finetune(id: str, database: DatabaseDep, scope: WriterDep) -> FinetuneOut:
    """Cancel a fine-tune. A queued fine-tune ends immediately, a running one after the current training step; until
    then it has `cancel_requested_at`."""
    with database.session(scope) as session:
        return FinetuneOut.of(finetunes.cancel(session, id))


@router.delete(
    "/finetunes/{id}",
    status_code=204,
    operation_id="delete_finetune",
    responses=deleted(NotFound, NotEnded, FinetuneInUse),
)
def delete_finetune(id: str, response: Response, database: DatabaseDep, scope: WriterDep) -> None:
    """Delete a fine-tune that has ended, with its events and sample images, once the version that it trained is
    deleted. `Location` points to the receipt of the deletion."""
    with database.session(scope) as session:
        deletion = finetunes.delete(session, id)
    response.headers["Location"] = f"/v1/deletions/{deletion.id}"


@router.get(
    "/finetunes/{id}/events",
    operation_id="stream_finetune_events",
    response_class=StreamingResponse,
    responses={
        200: {
            "content": {"text/event-stream": {"schema": _EVENT}},
            "description": "Events in the form of the schema.",
        },
        204: {
            "description": "The fine-tune has ended and there are no events after `Last-Event-ID`: do not reconnect."
        },
        **problems(NotFound, TooManyStreams, ServiceBusy),
    },
)
async def stream_finetune_events(
    id: str,
    request: Request,
    scope: ReaderDep,
    services: ServicesDep,
    last_event_id: Annotated[int, Header(ge=0, lt=2**53, description="Resumes after this event.")] = 0,
) -> Response:
    """Stream the events of a fine-tune as server-sent events, from the first event until it ends. `data` is JSON:

    - `status`: `{status}` and details, such as the `adapter_id` after success
    - `progress`: `{step, steps, loss, gradient_norm, seconds, eta_seconds}`
    - `evaluation`: `{step, held_out_loss, best_step}`
    - `sample`: `{step, url}`, the signed URL of an image generated with the adapter at that training step
    - `error`: `{code, detail}`

    To resume the stream, send the `id` of the last event as `Last-Event-ID`; browsers do so automatically. The stream
    ends within seconds when the API key of the request is revoked or expires.
    """
    events, ended = await run_in_threadpool(_read, services, scope, id, last_event_id)
    if ended and not events:
        return Response(status_code=204)
    place = services.limits.streams.take(scope.tenant)
    stream = _stream(services, scope, id, last_event_id, request)
    return EventStream(stream, place, headers=_STREAM_HEADERS)


@router.get(
    "/finetunes/{id}/samples/{event_id}",
    operation_id="get_finetune_sample",
    response_class=Response,
    responses={200: IMAGE, **UNCHANGED, **problems(NotFound, StorageUnavailable)},
    openapi_extra=OPTIONAL_KEY,
)
@runs_in(STORE)
def get_finetune_sample(
    id: str, event_id: EventId, request: Request, scope: ViewerDep, services: ServicesDep
) -> Response:
    """Get the image of a `sample` event. Needs an API key or a signed URL."""
    with services.database.reading(scope) as session:
        following = finetunes.events_after(session, id, event_id - 1)
        event = following[0] if following else None
        if event is None or event.id != event_id or event.type != "sample":
            raise NotFound("sample", f"{id}/{event_id}")
    return png(request, partial(services.store.get, event.data["key"]))


async def _stream(services: Services, scope: Scope, id: str, last_id: int, request: Request) -> AsyncIterator[bytes]:
    async with services.notifier.watch(id, scope.key) as changed:
        while not services.notifier.closing:
            if not await wait_for(changed, _KEEPALIVE_SECONDS):
                yield KEEPALIVE_COMMENT
                continue
            changed.clear()
            while True:  # reads all pages of events: an ended fine-tune may have several too
                if services.notifier.has_ended(scope.key):
                    return
                try:
                    events, ended = await services.notifier.shared(
                        (scope.tenant, id, last_id), partial(_read, services, scope, id, last_id)
                    )
                except CoreError:  # deleted, or the database does not respond: the client reconnects and gets the error
                    return
                for event in events:
                    last_id = event.id
                    yield _render(event, request)
                if not events:
                    break
            if ended:
                return


def _read(services: Services, scope: Scope, id: str, last_id: int) -> tuple[list[FinetuneEvent], bool]:
    """Returns the next page of the fine-tune's events after `last_id`, and whether the fine-tune has ended, after which
    no further events are created."""
    with services.database.reading(scope) as session:
        ended = finetunes.get(session, id).status in ENDED  # read before the events, so that the last one is included
        events = list(finetunes.events_after(session, id, last_id))
    return events, ended


def _render(event: FinetuneEvent, request: Request) -> bytes:
    data: dict[str, Any] = event.data
    if event.type == "sample":
        url = signed_url(request, f"/v1/finetunes/{event.finetune_id}/samples/{event.id}")
        data = {"step": data["step"], "url": url}
    return format_sse_event(data_str=json.dumps(data), event=event.type, id=str(event.id))
