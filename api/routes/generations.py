"""Generations and their images."""

from typing import Annotated

from fastapi import APIRouter, Header, Query, Request, Response, Security
from fastapi.concurrency import run_in_threadpool
from fastapi.security import HTTPAuthorizationCredentials

from api.deps import PageDep, ReaderDep, Services, ServicesDep, SessionDep, WriterDep, _bearer, get_reader, get_scope
from api.idempotency import IdempotentRoute
from api.schemas.common import Listing
from api.schemas.generations import GenerationCreate, GenerationOut
from api.signing import signature_is_valid, signed_image_url
from api.waiting import changes_until, preferred_wait
from core.adapters import service as adapters
from core.generations import service as generations
from core.tenancy import SYSTEM, Scope

router = APIRouter(prefix="/v1", tags=["generations"], route_class=IdempotentRoute)


@router.post(
    "/domains/{id}/generations",
    status_code=202,
    operation_id="create_generation",
    responses={200: {"model": GenerationOut, "description": "Done within the preferred wait."}},
)
async def create_generation(
    id: str,
    body: GenerationCreate,
    request: Request,
    scope: WriterDep,
    services: ServicesDep,
    response: Response,
    prefer: Annotated[str | None, Header(description="`wait=30` answers when the images are done, or then.")] = None,
) -> GenerationOut:
    """Draw images of the domain."""
    result = await run_in_threadpool(_create, services, scope, id, body, request)
    seconds = preferred_wait(prefer)
    if seconds:
        response.headers["Preference-Applied"] = f"wait={seconds:.0f}"
        async for _ in changes_until(services.notifier, result.id, seconds):
            result = await run_in_threadpool(_read, services, scope, result.id, request)
            if result.status in generations.ENDED:
                response.status_code = 200
                break
    return result


@router.get("/domains/{id}/generations", operation_id="list_generations")
def list_generations(
    id: str, request: Request, session: SessionDep, scope: ReaderDep, page: PageDep
) -> Listing[GenerationOut]:
    """A domain's generations, newest first."""
    found = generations.listing(session, scope, id, page)
    data = [GenerationOut.of(row, lambda *image: signed_image_url(request, *image)) for row in found.data]
    return Listing(data=data, next_cursor=found.next_cursor)


@router.get("/generations/{id}", operation_id="get_generation")
def get_generation(id: str, request: Request, session: SessionDep, scope: ReaderDep) -> GenerationOut:
    """One generation, with signed URLs of its images."""
    row = generations.get(session, scope, id)
    return GenerationOut.of(row, lambda *image: signed_image_url(request, *image))


@router.post("/generations/{id}/cancel", status_code=202, operation_id="cancel_generation")
def cancel_generation(id: str, request: Request, session: SessionDep, scope: WriterDep) -> GenerationOut:
    """Cancel a generation: at once while it waits, at its next step while it runs."""
    row = generations.cancel(session, scope, id)
    return GenerationOut.of(row, lambda *image: signed_image_url(request, *image))


@router.get(
    "/generations/{id}/images/{index}",
    operation_id="get_image",
    response_class=Response,
    responses={200: {"content": {"image/png": {}}, "description": "The image, its settings in PNG text chunks."}},
)
def get_image(
    id: str,
    index: int,
    request: Request,
    services: ServicesDep,
    credentials: Annotated[HTTPAuthorizationCredentials | None, Security(_bearer)],
    expires: Annotated[int | None, Query(ge=0, lt=2**53)] = None,
    signature: Annotated[str | None, Query(max_length=64)] = None,
) -> Response:
    """One image, by API key or by the signature of its URL."""
    signed = expires is not None and signature is not None
    if signed and signature_is_valid(services.url_secret, request.url.path, expires or 0, signature or ""):
        scope = SYSTEM
    else:
        scope = get_reader(get_scope(services, credentials))
    with services.database.session() as session:
        image = generations.image(session, scope, id, index)
    data = services.store.get(image.object_key, image.sha256)
    headers = {"Cache-Control": "private, max-age=31536000, immutable", "ETag": f'"{image.sha256}"'}
    return Response(data, media_type="image/png", headers=headers)


def _create(services: Services, scope: Scope, id: str, body: GenerationCreate, request: Request) -> GenerationOut:
    settings = services.settings
    with services.database.session() as session:
        base = adapters.served_base(session, settings.base_model)
        row = generations.create(
            session, scope, services.dispatcher, id, body.to_request(), base, settings.max_queued_generations
        )
        return GenerationOut.of(row, lambda *image: signed_image_url(request, *image))


def _read(services: Services, scope: Scope, id: str, request: Request) -> GenerationOut:
    with services.database.session() as session:
        row = generations.get(session, scope, id)
        return GenerationOut.of(row, lambda *image: signed_image_url(request, *image))
