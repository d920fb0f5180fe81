"""Routes of generations: create, list, get, cancel, delete."""

from contextlib import aclosing, suppress
from dataclasses import replace
from typing import Annotated

from fastapi import APIRouter, Header, Request, Response
from fastapi.concurrency import run_in_threadpool

from api.auth import ReaderDep, WriterDep
from api.deps import OF_STATUS, DatabaseDep, PageDep, Services, ServicesDep
from api.errors import ServiceBusy, TooManyStreams
from api.filters import GenerationFilterDep, OwnedGenerationFilterDep
from api.idempotency import IdempotentRoute
from api.openapi import deleted, problems
from api.schemas.common import Listing, SignedUrl, listing
from api.schemas.generations import GenerationCreate, GenerationOut
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
)
from core.service.tenancy import Scope

router = APIRouter(prefix="/v1", tags=["generations"], route_class=IdempotentRoute)


@router.post(
    "/domains/{id}/generations",
    status_code=202,
    operation_id="create_generation",
    responses={
        200: {"model": GenerationOut, "description": "Ended within the preferred wait."},
        **problems(
            NotFound,
            NoActiveAdapter,
            BaseMismatch,
            AdapterQuarantined,
            UnknownClass,
            QueueFull,
            QuotaExceeded,
            BaseNotLoaded,
        ),
    },
)
async def create_generation(
    id: str,
    body: GenerationCreate,
    request: Request,
    scope: WriterDep,
    services: ServicesDep,
    response: Response,
    prefer: Annotated[
        str | None,
        Header(
            description="`wait=30` responds when the generation has ended, or after 30 seconds; at most "
            f"{LONGEST_WAIT}. "
            "`Preference-Applied` reports the wait that was used.",
            examples=["wait=30"],
        ),
    ] = None,
) -> GenerationOut:
    """Generate images of one of the domain's classes."""
    signed = signer(request)
    result = await run_in_threadpool(_create, services, scope, id, body, signed)
    if seconds := preferred_wait(prefer):
        with suppress(TooManyStreams, ServiceBusy), services.limits.waits.take(scope.tenant):
            response.headers["Preference-Applied"] = f"wait={seconds}"
            result = await _wait(services, scope, result, seconds, signed)
    if result.status in ENDED:
        response.status_code = 200
    return result


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
    with database.session(scope) as session:
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
    with database.session(scope) as session:
        rows = generations.page(session, replace(wanted, domain_id=id), replace(page, status=status))
        signed = signer(request)
        return listing(rows, lambda row: GenerationOut.of(row, signed))


@router.get("/generations/{id}", operation_id="get_generation", responses=problems(NotFound))
def get_generation(id: str, request: Request, database: DatabaseDep, scope: ReaderDep) -> GenerationOut:
    """Get a generation, with its status and signed URLs of its images."""
    with database.session(scope) as session:
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


def _create(services: Services, scope: Scope, id: str, body: GenerationCreate, signed: SignedUrl) -> GenerationOut:
    with services.database.session(scope) as session:
        return GenerationOut.of(generations.submit(session, services, id, body.to_request()), signed)


async def _wait(
    services: Services, scope: Scope, result: GenerationOut, seconds: int, signed: SignedUrl
) -> GenerationOut:
    """Waits until the generation has ended, for at most `seconds`, and returns its latest state."""
    async with aclosing(services.notifier.changes(result.id, scope.key, seconds)) as changes:
        async for _ in changes:
            result = await run_in_threadpool(_read, services, scope, result.id, signed)
            if result.status in ENDED:
                break
    return result


def _read(services: Services, scope: Scope, id: str, signed: SignedUrl) -> GenerationOut:
    with services.database.session(scope) as session:
        return GenerationOut.of(generations.get(session, id), signed)
