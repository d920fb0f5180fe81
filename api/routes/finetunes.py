"""Fine-tunes, with their events as a stream."""

import json
from collections.abc import AsyncIterator
from typing import Annotated

from fastapi import APIRouter, Header, Response
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import StreamingResponse
from fastapi.sse import KEEPALIVE_COMMENT, format_sse_event

from api.deps import PageDep, ReaderDep, Services, ServicesDep, SessionDep, WriterDep
from api.idempotency import IdempotentRoute
from api.schemas.common import Listing, listing
from api.schemas.finetunes import EstimateOut, FinetuneCreate, FinetuneOut, MetricsOut
from api.waiting import wait_for
from core.adapters import service as adapters
from core.db.models import FinetuneEvent
from core.finetunes import service as finetunes
from core.tenancy import Scope

router = APIRouter(prefix="/v1", tags=["finetunes"], route_class=IdempotentRoute)
_KEEPALIVE_SECONDS = 15.0


@router.post(
    "/domains/{id}/finetunes",
    status_code=202,
    operation_id="create_finetune",
    responses={200: {"model": EstimateOut, "description": "With `dry_run`: what it would take."}},
)
def create_finetune(
    id: str, body: FinetuneCreate, session: SessionDep, scope: WriterDep, services: ServicesDep, response: Response
) -> FinetuneOut | EstimateOut:
    """Fine-tune the base on a data set with DiffFit."""
    request = body.to_request()
    if body.dry_run:
        response.status_code = 200
        base = adapters.served_base(session, services.settings.base_model)
        return EstimateOut.model_validate(finetunes.estimate(session, scope, id, request, base))
    return FinetuneOut.model_validate(finetunes.create(session, scope, services.dispatcher, id, request))


@router.get("/domains/{id}/finetunes", operation_id="list_finetunes")
def list_finetunes(id: str, session: SessionDep, scope: ReaderDep, page: PageDep) -> Listing[FinetuneOut]:
    """A domain's fine-tunes, newest first."""
    return listing(finetunes.listing(session, scope, id, page), FinetuneOut)


@router.get("/finetunes/{id}", operation_id="get_finetune")
def get_finetune(id: str, session: SessionDep, scope: ReaderDep) -> FinetuneOut:
    """One fine-tune."""
    return FinetuneOut.model_validate(finetunes.get(session, scope, id))


@router.get("/finetunes/{id}/metrics", operation_id="get_finetune_metrics")
def get_finetune_metrics(id: str, session: SessionDep, scope: ReaderDep) -> MetricsOut:
    """The loss curve."""
    return MetricsOut(data=finetunes.metrics(session, scope, id))


@router.post("/finetunes/{id}/cancel", status_code=202, operation_id="cancel_finetune")
def cancel_finetune(id: str, session: SessionDep, scope: WriterDep) -> FinetuneOut:
    """Cancel a fine-tune: at once while it waits, at its next step while it runs."""
    return FinetuneOut.model_validate(finetunes.cancel(session, scope, id))


@router.get(
    "/finetunes/{id}/events",
    operation_id="stream_finetune_events",
    response_class=StreamingResponse,
    responses={200: {"content": {"text/event-stream": {}}, "description": "status, progress, sample and error events"}},
)
async def stream_finetune_events(
    id: str,
    scope: ReaderDep,
    services: ServicesDep,
    last_event_id: Annotated[int, Header(ge=0, lt=2**63, description="Resumes behind this event.")] = 0,
) -> StreamingResponse:
    """Events of a fine-tune, from the first on, until it ends."""
    await run_in_threadpool(_read, services, scope, id, last_event_id)  # raises NotFound before the stream begins
    stream = _events(services, scope, id, last_event_id)
    return StreamingResponse(stream, media_type="text/event-stream", headers={"Cache-Control": "no-store"})


async def _events(services: Services, scope: Scope, id: str, last_id: int) -> AsyncIterator[bytes]:
    async with services.notifier.watch(id) as changed:
        while not services.notifier.stopping.is_set():
            if not await wait_for(changed, _KEEPALIVE_SECONDS):
                yield KEEPALIVE_COMMENT
                continue
            changed.clear()
            while events := await run_in_threadpool(_read, services, scope, id, last_id):
                for event in events:
                    last_id = event.id
                    yield format_sse_event(data_str=json.dumps(event.data), event=event.type, id=str(event.id))
                    if event.type == "status" and event.data["status"] in finetunes.ENDED:
                        return


def _read(services: Services, scope: Scope, id: str, last_id: int) -> list[FinetuneEvent]:
    with services.database.session() as session:
        return list(finetunes.events_after(session, scope, id, last_id))
