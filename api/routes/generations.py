"""Routes of generations: create one or a batch, list, get, cancel, delete."""

import asyncio
from collections.abc import Callable, Sequence
from contextlib import aclosing, suppress
from dataclasses import replace
from functools import partial
from operator import itemgetter
from typing import Annotated, TypeVar

from fastapi import APIRouter, Header, Request, Response
from fastapi.concurrency import run_in_threadpool

from api.auth import ReaderDep, WriterDep
from api.deps import OF_STATUS, DatabaseDep, PageDep, Services, ServicesDep
from api.errors import ServiceBusy, TooManyStreams
from api.filters import GenerationFilterDep, OwnedGenerationFilterDep
from api.idempotency import IdempotentRoute, keep
from api.openapi import deleted, problems
from api.schemas.common import Listing, SignedUrl, listing
from api.schemas.generations import GenerationBatchCreate, GenerationBatchOut, GenerationCreate, GenerationOut
from api.signing import signer
from api.waiting import LONGEST_WAIT, preferred_wait
from core.artifact.errors import BaseMismatch, NotFound, QueueFull, UnknownClass
from core.artifact.jobs import ENDED, JobStatus
from core.service import generations, images
from core.service.errors import (
    AdapterQuarantined,
    BaseNotLoaded,
    JobFinished,
    NoActiveAdapter,
    NotEnded,
    QuotaExceeded,
    StorageQuotaExceeded,
    WebhookDisabled,
    WebhookQuotaExceeded,
    WebhookUrlRefused,
)
from core.service.generations import GenerationRequest
from core.service.tenancy import Scope

router = APIRouter(prefix="/v1", tags=["generations"], route_class=IdempotentRoute)
Out = TypeVar("Out", GenerationOut, GenerationBatchOut)


_ERRORS = (
    *(NotFound, NoActiveAdapter, BaseMismatch, AdapterQuarantined, UnknownClass),
    *(WebhookDisabled, WebhookUrlRefused, WebhookQuotaExceeded),
    *(QueueFull, QuotaExceeded, StorageQuotaExceeded, BaseNotLoaded),
)
_ENDED = "Ended within the preferred wait."
Prefer = Annotated[
    str | None,
    Header(
        description="`wait=30` responds when all images are finished, or after 30 seconds; at most "
        f"{LONGEST_WAIT}. `Preference-Applied` reports the wait that was used.",
        examples=["wait=30"],
    ),
]


@router.post(
    "/domains/{id}/generations",
    status_code=202,
    operation_id="create_generation",
    responses={200: {"model": GenerationOut, "description": _ENDED}, **problems(*_ERRORS)},
)
async def create_generation(
    id: str,
    body: GenerationCreate,
    request: Request,
    scope: WriterDep,
    services: ServicesDep,
    response: Response,
    prefer: Prefer = None,
) -> GenerationOut:
    """Generate images of one of the domain's classes."""
    create = partial(_create, services, scope, id, [body.to_request()], signer(request))
    return await _start(create, request, scope, services, response, prefer, itemgetter(0))


@router.post(
    "/domains/{id}/generations/batches",
    status_code=202,
    operation_id="create_generation_batch",
    responses={200: {"model": GenerationBatchOut, "description": _ENDED}, **problems(*_ERRORS)},
)
async def create_generation_batch(
    id: str,
    body: GenerationBatchCreate,
    request: Request,
    scope: WriterDep,
    services: ServicesDep,
    response: Response,
    prefer: Prefer = None,
) -> GenerationBatchOut:
    """Generate images of several of the domain's classes: one generation for each class, or none if one of them is
    rejected. Image k of every class uses seed + k."""
    create = partial(_create, services, scope, id, body.to_requests(), signer(request))
    return await _start(create, request, scope, services, response, prefer, GenerationBatchOut.of)


@router.get("/generations", operation_id="list_all_generations", responses=problems(NotFound))
def list_all_generations(
    request: Request,
    database: DatabaseDep,
    scope: ReaderDep,
    page: PageDep,
    wanted: OwnedGenerationFilterDep,
    status: Annotated[JobStatus | None, OF_STATUS] = None,
) -> Listing[GenerationOut]:
    """List the generations of all your domains, newest first."""
    with database.reading(scope) as session:
        rows = generations.page(session, wanted, replace(page, status=status))
        signed = signer(request)
        return listing(rows, lambda row: GenerationOut.of(row, signed))


@router.get("/domains/{id}/generations", operation_id="list_generations", responses=problems(NotFound))
def list_generations(
    id: str,
    request: Request,
    database: DatabaseDep,
    scope: ReaderDep,
    page: PageDep,
    wanted: GenerationFilterDep,
    status: Annotated[JobStatus | None, OF_STATUS] = None,
) -> Listing[GenerationOut]:
    """List a domain's generations, newest first."""
    with database.reading(scope) as session:
        rows = generations.page(session, replace(wanted, domain_id=id), replace(page, status=status))
        signed = signer(request)
        return listing(rows, lambda row: GenerationOut.of(row, signed))


@router.get("/generations/{id}", operation_id="get_generation", responses=problems(NotFound))
def get_generation(id: str, request: Request, database: DatabaseDep, scope: ReaderDep) -> GenerationOut:
    """Get a generation, with its status and signed URLs of its images."""
    with database.reading(scope) as session:
        return GenerationOut.of(generations.get(session, id), signer(request))


@router.post(
    "/generations/{id}/cancel",
    status_code=202,
    operation_id="cancel_generation",
    responses=problems(NotFound, JobFinished),
)
def cancel_generation(id: str, request: Request, database: DatabaseDep, scope: WriterDep) -> GenerationOut:
    """Cancel a generation. A queued generation ends immediately, a running one after the current sampling step; until
    then it has `cancel_requested_at`."""
    with database.session(scope) as session:
        return GenerationOut.of(generations.cancel(session, id), signer(request))


@router.delete(
    "/generations/{id}", status_code=204, operation_id="delete_generation", responses=deleted(NotFound, NotEnded)
)
def delete_generation(id: str, response: Response, database: DatabaseDep, scope: WriterDep) -> None:
    """Delete a generation that has ended, with its images. `Location` points to the receipt of the deletion."""
    with database.session(scope) as session:
        deletion = images.delete_generation(session, id)
    response.headers["Location"] = f"/v1/deletions/{deletion.id}"


def _create(
    services: Services, scope: Scope, id: str, requests: Sequence[GenerationRequest], signed: SignedUrl
) -> list[GenerationOut]:
    with services.database.session(scope) as session:
        return [GenerationOut.of(row, signed) for row in generations.submit(session, services, id, requests)]


async def _start(
    create: Callable[[], list[GenerationOut]],
    request: Request,
    scope: Scope,
    services: Services,
    response: Response,
    prefer: str | None,
    shape: Callable[[list[GenerationOut]], Out],
) -> Out:
    """Creates generations, and waits for them as the client prefers. Sets the status and headers of the response, and
    returns its body, which `shape` makes."""
    results = await run_in_threadpool(create)
    if seconds := preferred_wait(prefer):
        await keep(request, shape(results))
        with suppress(TooManyStreams, ServiceBusy), services.limits.waits.take(scope.tenant):
            response.headers["Preference-Applied"] = f"wait={seconds}"
            loop, signed = asyncio.get_running_loop(), signer(request)
            end = loop.time() + seconds
            results = [await _wait(services, scope, result, end - loop.time(), signed) for result in results]
    if all(result.status in ENDED for result in results):
        response.status_code = 200
    return shape(results)


async def _wait(
    services: Services, scope: Scope, result: GenerationOut, seconds: float, signed: SignedUrl
) -> GenerationOut:
    """Waits until the generation has ended, for at most `seconds`, and returns its latest state."""
    async with aclosing(services.notifier.changes(result.id, scope.key, seconds)) as changes:
        async for _ in changes:
            result = await run_in_threadpool(_read, services, scope, result.id, signed)
            if result.status in ENDED:
                break
    return result


def _read(services: Services, scope: Scope, id: str, signed: SignedUrl) -> GenerationOut:
    with services.database.reading(scope) as session:
        return GenerationOut.of(generations.get(session, id), signed)
