"""Routes of adapters, which are the versions of a domain: list, upload, change, download, promote, delete."""

from dataclasses import replace
from typing import Annotated

from fastapi import APIRouter, File, Request, Response, UploadFile
from fastapi.concurrency import run_in_threadpool

from api.auth import ReaderDep, WriterDep
from api.deps import OF_STATUS, DatabaseDep, PageDep, Services, ServicesDep
from api.errors import PayloadTooLarge, ServiceBusy, TooManyTransfers
from api.filters import AdapterFilterDep
from api.idempotency import IdempotentRoute
from api.openapi import deleted, problems
from api.routes.covers import with_cover
from api.schemas.adapters import AdapterChange, AdapterOut, AdapterStatus
from api.schemas.common import Listing, changes, listing
from api.schemas.domains import DomainOut
from api.streams import Download
from api.threads import ADAPTERS, runs_in
from core.artifact.errors import ArtifactInvalid, BaseMismatch, ChecksumMismatch, NotFound, UnknownClass
from core.service import adapters
from core.service.db.models import Adapter
from core.service.errors import AdapterActive, AdapterInUse, AdapterQuarantined, BaseNotLoaded, StorageQuotaExceeded
from core.service.storage.errors import StorageUnavailable
from core.service.tenancy import Scope

router = APIRouter(prefix="/v1", tags=["adapters"], route_class=IdempotentRoute)


@router.get("/domains/{id}/adapters", operation_id="list_adapters", responses=problems(NotFound))
def list_adapters(
    id: str,
    database: DatabaseDep,
    scope: ReaderDep,
    page: PageDep,
    wanted: AdapterFilterDep,
    status: Annotated[AdapterStatus | None, OF_STATUS] = None,
) -> Listing[AdapterOut]:
    """List a domain's adapter versions, newest first."""
    with database.reading(scope) as session:
        rows = adapters.page(session, replace(wanted, domain_id=id), replace(page, status=status))
        return listing(rows, AdapterOut.model_validate)


@router.get("/adapters", operation_id="list_owned_adapters")
def list_owned_adapters(
    database: DatabaseDep,
    scope: ReaderDep,
    page: PageDep,
    wanted: AdapterFilterDep,
    status: Annotated[AdapterStatus | None, OF_STATUS] = None,
) -> Listing[AdapterOut]:
    """List the adapter versions of all your domains, newest first."""
    with database.reading(scope) as session:
        rows = adapters.page(session, wanted, replace(page, status=status))
        return listing(rows, AdapterOut.model_validate)


@router.post(
    "/domains/{id}/adapters",
    status_code=201,
    operation_id="upload_adapter",
    responses=problems(
        NotFound,
        StorageQuotaExceeded,
        ArtifactInvalid,
        BaseMismatch,
        BaseNotLoaded,
        StorageUnavailable,
        TooManyTransfers,
        ServiceBusy,
    ),
)
@runs_in(ADAPTERS)
def upload_adapter(
    id: str,
    file: Annotated[UploadFile, File(description="Adapter file (`.safetensors`) that was trained on the same base.")],
    scope: WriterDep,
    services: ServicesDep,
) -> AdapterOut:
    """Upload an adapter. It must pass the same checks as adapters that this service trains."""
    limit = services.settings.max_adapter_bytes
    if (file.size or 0) > limit:
        raise PayloadTooLarge(limit)
    return AdapterOut.model_validate(adapters.upload(services, scope, id, file.file, file.size or 0))


@router.get("/adapters/{id}", operation_id="get_adapter", responses=problems(NotFound))
def get_adapter(id: str, database: DatabaseDep, scope: ReaderDep) -> AdapterOut:
    """Get an adapter."""
    with database.reading(scope) as session:
        return AdapterOut.model_validate(adapters.get(session, id))


@router.patch("/adapters/{id}", operation_id="change_adapter", responses=problems(NotFound, UnknownClass))
def change_adapter(id: str, body: AdapterChange, database: DatabaseDep, scope: WriterDep) -> AdapterOut:
    """Change an adapter's name or note, or rename its classes. Generations and fine-tunes then use the new names."""
    with database.session(scope) as session:
        return AdapterOut.model_validate(adapters.change(session, id, changes(body)))


@router.delete(
    "/adapters/{id}",
    status_code=204,
    operation_id="delete_adapter",
    responses=deleted(NotFound, AdapterActive, AdapterInUse),
)
def delete_adapter(id: str, response: Response, database: DatabaseDep, scope: WriterDep) -> None:
    """Delete an adapter that is not the active version and that no unfinished generation or fine-tune needs. Its images
    stay. `Location` points to the receipt of the deletion."""
    with database.session(scope) as session:
        deletion = adapters.delete(session, id)
    response.headers["Location"] = f"/v1/deletions/{deletion.id}"


@router.get(
    "/adapters/{id}/download",
    operation_id="download_adapter",
    response_class=Response,
    responses={
        200: {
            "content": {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}},
            "description": "The `.safetensors`.",
        },
        **problems(NotFound, StorageUnavailable, ChecksumMismatch, TooManyTransfers, ServiceBusy),
    },
)
async def download_adapter(id: str, scope: ReaderDep, services: ServicesDep) -> Response:
    """Download an adapter as a `.safetensors` file."""
    adapter = await run_in_threadpool(_download, services, scope, id)
    place = services.limits.transfers.take(scope.tenant, adapter.size_bytes)
    headers = {"Content-Disposition": f'attachment; filename="{adapter.id}.safetensors"', "ETag": f'"{adapter.sha256}"'}
    return await Download.of(services.store, adapter.object_key, adapter.sha256, place, headers)


@router.post(
    "/domains/{id}/adapters/{adapter_id}/promote",
    operation_id="promote_adapter",
    responses=problems(NotFound, AdapterQuarantined),
)
def promote_adapter(id: str, adapter_id: str, request: Request, database: DatabaseDep, scope: WriterDep) -> DomainOut:
    """Make a version the domain's active one, which generations use by default. To roll back, promote an older
    version."""
    with database.session(scope) as session:
        return with_cover(session, request, adapters.promote(session, id, adapter_id))


def _download(services: Services, scope: Scope, id: str) -> Adapter:
    with services.database.session(scope) as session:
        return adapters.download(session, id)
