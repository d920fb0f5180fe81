"""Routes of multipart uploads, which send a data set's zip in several parts."""

import tempfile
from dataclasses import replace
from typing import Annotated

from fastapi import APIRouter, Path, Request, Response
from fastapi.concurrency import run_in_threadpool

from api.auth import ReaderDep, SenderDep, WriterDep
from api.deps import OF_STATUS, DatabaseDep, PageDep, Services, ServicesDep
from api.errors import PayloadTooLarge, ServiceBusy, TooManyTransfers
from api.idempotency import IdempotentRoute
from api.openapi import problems
from api.pngs import OPTIONAL_KEY
from api.schemas.common import Listing, listing
from api.schemas.datasets import (
    DatasetOut,
    DatasetUploadComplete,
    DatasetUploadCreate,
    DatasetUploadOut,
    DatasetUploadPartsOut,
    UploadPartOut,
    UploadStatus,
)
from api.signing import signed_url, signer
from api.threads import STORE, UPLOADS, run_in, runs_in
from core.artifact.errors import InvalidRequest, NotFound
from core.service.datasets import uploads
from core.service.db.models import DatasetUpload
from core.service.errors import ArchiveInvalid, PartsMissing, QuotaExceeded, StorageQuotaExceeded, UploadEnded
from core.service.storage.errors import StorageUnavailable
from core.service.tenancy import Scope

router = APIRouter(prefix="/v1/domains/{id}/datasets/uploads", tags=["datasets"], route_class=IdempotentRoute)
PartNumber = Annotated[int, Path(ge=1, le=uploads.MOST_PARTS)]
_IN_MEMORY = 2**20


@router.post(
    "",
    status_code=201,
    operation_id="create_dataset_upload",
    responses=problems(NotFound, QuotaExceeded, StorageQuotaExceeded, StorageUnavailable),
)
@runs_in(STORE)
def create_dataset_upload(
    id: str, body: DatasetUploadCreate, request: Request, scope: WriterDep, services: ServicesDep
) -> DatasetUploadPartsOut:
    """Start a multipart upload, for a data set that is too large for one request or needs a resumable upload.

    PUT each part's bytes to the part's URL and keep the `ETag` of the response. Parts can be sent in any order, in
    parallel, and again after a failure. Then complete the upload with the ETags of all parts. The upload's bytes count
    towards your stored bytes until it is completed or aborted, or expires.
    """
    limit = services.settings.max_multipart_bytes
    if body.size_bytes > limit:
        raise PayloadTooLarge(limit)
    asked = uploads.UploadRequest(body.size_bytes, body.sha256, body.filename)
    return _with_parts(request, services, uploads.begin(services, scope, id, asked))


@router.get("", operation_id="list_dataset_uploads", responses=problems(NotFound))
def list_dataset_uploads(
    id: str,
    database: DatabaseDep,
    scope: ReaderDep,
    page: PageDep,
    status: Annotated[UploadStatus | None, OF_STATUS] = None,
) -> Listing[DatasetUploadOut]:
    """List a domain's unexpired uploads, newest first."""
    with database.reading(scope) as session:
        rows = uploads.page(session, id, replace(page, status=status))
        return listing(rows, DatasetUploadOut.model_validate)


@router.get("/{upload_id}", operation_id="get_dataset_upload", responses=problems(NotFound, StorageUnavailable))
@runs_in(STORE)
def get_dataset_upload(
    id: str, upload_id: str, request: Request, scope: WriterDep, services: ServicesDep
) -> DatasetUploadPartsOut:
    """Get an upload: the parts received so far, and new URLs for all parts. The API key needs the scope `write`, since
    the URLs permit sending parts."""
    with services.database.reading(scope) as session:
        upload = uploads.get(session, id, upload_id)
    return _with_parts(request, services, upload)


@router.put(
    "/{upload_id}/parts/{number}",
    operation_id="put_dataset_part",
    status_code=204,
    response_class=Response,
    responses={
        204: {
            "description": "The part is stored.",
            "headers": {"ETag": {"description": "ETag of the part.", "schema": {"type": "string"}}},
        },
        **problems(NotFound, UploadEnded, StorageUnavailable, TooManyTransfers, ServiceBusy),
    },
    openapi_extra={
        **OPTIONAL_KEY,
        "requestBody": {
            "required": True,
            "content": {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}},
        },
    },
)
async def put_dataset_part(
    id: str, upload_id: str, number: PartNumber, request: Request, scope: SenderDep, services: ServicesDep
) -> Response:
    """Send one part of an upload. Always use the `url` of the part: it may lead to an object store instead."""
    upload, size = await run_in_threadpool(_expected, services, scope, id, upload_id, number)
    with services.limits.transfers.take(upload.tenant_id, size), tempfile.SpooledTemporaryFile(_IN_MEMORY) as file:
        received = 0
        async for piece in request.stream():
            received += len(piece)
            if received > size:
                break
            await run_in_threadpool(file.write, piece)
        if received != size:
            raise InvalidRequest("body", f"part {number} must have {size:,} bytes")
        file.seek(0)
        key, name = upload.object_key, upload.store_upload
        part = await run_in(UPLOADS, services.store.put_part, key, name, number, file)
    return Response(status_code=204, headers={"ETag": f'"{part.etag}"'})


@router.post(
    "/{upload_id}/complete",
    status_code=202,
    operation_id="complete_dataset_upload",
    responses=problems(
        NotFound, UploadEnded, PartsMissing, ArchiveInvalid, QuotaExceeded, StorageQuotaExceeded, StorageUnavailable
    ),
)
@runs_in(UPLOADS)
def complete_dataset_upload(
    id: str, upload_id: str, body: DatasetUploadComplete, request: Request, scope: WriterDep, services: ServicesDep
) -> DatasetOut:
    """Create the data set from an upload whose parts have all been received. The zip is checked as in an upload with
    one request; an unusable zip ends the upload. Completing a completed upload again returns its data set."""
    etags = {part.number: part.etag.strip('"') for part in body.parts}
    return DatasetOut.of(uploads.complete(services, scope, id, upload_id, etags, body.name), signer(request))


@router.delete(
    "/{upload_id}",
    status_code=204,
    operation_id="abort_dataset_upload",
    responses=problems(NotFound, UploadEnded, StorageUnavailable),
)
@runs_in(STORE)
def abort_dataset_upload(id: str, upload_id: str, scope: WriterDep, services: ServicesDep) -> None:
    """Abort an upload and delete its parts."""
    uploads.abort(services, scope, id, upload_id)


def _expected(services: Services, scope: Scope, id: str, upload_id: str, number: int) -> tuple[DatasetUpload, int]:
    """Returns an upload that is still open, and the size of its part with this number, in bytes. Raises NotFound,
    UploadEnded."""
    with services.database.reading(scope) as session:
        upload = uploads.get(session, id, upload_id)
    uploads.check_open(upload)
    sizes = uploads.sizes(upload)
    if number > len(sizes):
        raise NotFound("part", str(number))
    return upload, sizes[number - 1]


def _with_parts(request: Request, services: Services, upload: DatasetUpload) -> DatasetUploadPartsOut:
    fields = DatasetUploadOut.model_validate(upload).model_dump()
    received = uploads.received(services.store, upload)
    sizes = uploads.sizes(upload) if upload.status == "open" else []
    parts = []
    for number, size in enumerate(sizes, 1):
        etag = received[number].etag if number in received else None
        parts.append(
            UploadPartOut(number=number, size_bytes=size, url=_url(request, services, upload, number, size), etag=etag)
        )
    return DatasetUploadPartsOut(**fields, parts=parts)


def _url(request: Request, services: Services, upload: DatasetUpload, number: int, size: int) -> str:
    """Returns the URL to PUT a part to: at the object store if clients can reach it, or else at this API."""
    seconds = services.settings.upload_url_seconds
    direct = services.store.part_url(upload.object_key, upload.store_upload, number, size, seconds)
    path = f"/v1/domains/{upload.domain_id}/datasets/uploads/{upload.id}/parts/{number}"
    return direct or signed_url(request, path, seconds)
