"""Routes of data sets: upload, list, rename, download, delete, report of rejected files, examples of classes."""

from collections.abc import AsyncIterator
from dataclasses import replace
from functools import partial
from typing import Annotated

from fastapi import APIRouter, File, Form, Path, Request, Response, UploadFile
from fastapi.concurrency import run_in_threadpool

from api.archives import in_threads, zip_response, zipped
from api.auth import ReaderDep, ViewerDep, WriterDep
from api.deps import OF_STATUS, DatabaseDep, PageDep, Services, ServicesDep
from api.errors import PayloadTooLarge, ServiceBusy, TooManyTransfers
from api.filters import DatasetFilterDep
from api.idempotency import IdempotentRoute
from api.openapi import deleted, problems
from api.pngs import IMAGE, OPTIONAL_KEY, UNCHANGED, png
from api.schemas.common import Listing, Name, changes, listing
from api.schemas.datasets import DatasetChange, DatasetOut, DatasetStatus, RejectedFile, first_rejected
from api.signing import signer
from api.streams import ArchiveStream
from api.threads import STORE, UPLOADS, runs_in
from core.artifact.errors import ChecksumMismatch, NotFound
from core.service.datasets import contents, downloads, removal
from core.service.datasets import service as datasets
from core.service.db.models import Dataset
from core.service.db.paging import Page, PageRequest
from core.service.errors import ArchiveInvalid, DatasetInUse, DatasetNotReady, QuotaExceeded, StorageQuotaExceeded
from core.service.storage.errors import StorageUnavailable
from core.service.tenancy import Scope

router = APIRouter(prefix="/v1", tags=["datasets"], route_class=IdempotentRoute)


@router.post(
    "/domains/{id}/datasets",
    status_code=202,
    operation_id="create_dataset",
    responses=problems(
        NotFound,
        ArchiveInvalid,
        QuotaExceeded,
        StorageQuotaExceeded,
        StorageUnavailable,
        TooManyTransfers,
        ServiceBusy,
    ),
)
@runs_in(UPLOADS)
def create_dataset(
    id: str,
    file: Annotated[UploadFile, File(description="A zip with one folder of images per class, or with a `labels.csv`.")],
    request: Request,
    scope: WriterDep,
    services: ServicesDep,
    name: Annotated[Name | None, Form(description="Free text.")] = None,
) -> DatasetOut:
    """Upload a data set. Its images are checked in the background; `/v1/datasets/{id}/report` lists the rejected files.

    An unusable zip fails immediately with the code `not_a_zip`, `no_class_folders`, `too_many_classes`,
    `too_many_files` or `too_few_images`.
    """
    limit = services.settings.max_upload_bytes
    if (file.size or 0) > limit:
        raise PayloadTooLarge(limit)
    dataset = datasets.receive(services, scope, id, file.file, file.size or 0, name)
    return DatasetOut.of(dataset, signer(request))


@router.get("/domains/{id}/datasets", operation_id="list_datasets", responses=problems(NotFound))
def list_datasets(
    id: str,
    request: Request,
    database: DatabaseDep,
    scope: ReaderDep,
    page: PageDep,
    wanted: DatasetFilterDep,
    status: Annotated[DatasetStatus | None, OF_STATUS] = None,
) -> Listing[DatasetOut]:
    """List a domain's data sets, newest first, without the list of rejected files."""
    with database.reading(scope) as session:
        wanted = replace(wanted, domain_id=id)
        return _listed(request, datasets.page(session, replace(page, status=status), wanted))


@router.get("/datasets", operation_id="list_all_datasets")
def list_all_datasets(
    request: Request,
    database: DatabaseDep,
    scope: ReaderDep,
    page: PageDep,
    wanted: DatasetFilterDep,
    status: Annotated[DatasetStatus | None, OF_STATUS] = None,
) -> Listing[DatasetOut]:
    """List the data sets of all your domains, newest first, without the list of rejected files."""
    with database.reading(scope) as session:
        return _listed(request, datasets.page(session, replace(page, status=status), wanted))


@router.get("/datasets/{id}", operation_id="get_dataset", responses=problems(NotFound))
def get_dataset(id: str, request: Request, database: DatabaseDep, scope: ReaderDep) -> DatasetOut:
    """Get a data set with its classes and its first 100 rejected files."""
    with database.reading(scope) as session:
        dataset = datasets.get(session, id)
        rendered = DatasetOut.of(dataset, signer(request))
        rendered.report.rejected = first_rejected(contents.rejected(session, id, PageRequest(limit=100)))
        return rendered


@router.get(
    "/datasets/{id}/download",
    operation_id="download_dataset",
    response_class=Response,
    responses={
        200: zip_response("The images, as they were uploaded, in one folder per class."),
        **problems(
            NotFound,
            DatasetNotReady,
            ArchiveInvalid,
            StorageUnavailable,
            ChecksumMismatch,
            TooManyTransfers,
            ServiceBusy,
        ),
    },
)
async def download_dataset(id: str, scope: ReaderDep, services: ServicesDep) -> Response:
    """Download the accepted images of a data set as a zip, which can be uploaded again."""
    place = services.limits.transfers.count.take(scope.tenant)
    return await ArchiveStream.of(zipped(_files(services, scope, id)), place, f"{id}.zip")


@router.patch("/datasets/{id}", operation_id="change_dataset", responses=problems(NotFound))
def change_dataset(
    id: str, body: DatasetChange, request: Request, database: DatabaseDep, scope: WriterDep
) -> DatasetOut:
    """Change a data set's name. To change its images or classes, create a new version of it."""
    with database.session(scope) as session:
        return DatasetOut.of(datasets.change(session, id, changes(body)), signer(request))


@router.delete(
    "/datasets/{id}", status_code=204, operation_id="delete_dataset", responses=deleted(NotFound, DatasetInUse)
)
def delete_dataset(id: str, response: Response, database: DatabaseDep, scope: WriterDep) -> None:
    """Delete a data set with its images, unless an unfinished fine-tune or copy needs it. Adapters that were trained on
    it stay. `Location` points to the receipt of the deletion."""
    with database.session(scope) as session:
        deletion = removal.delete(session, id)
    response.headers["Location"] = f"/v1/deletions/{deletion.id}"


@router.get("/datasets/{id}/report", operation_id="list_rejected_files", responses=problems(NotFound))
def list_rejected_files(id: str, database: DatabaseDep, scope: ReaderDep, page: PageDep) -> Listing[RejectedFile]:
    """List the rejected files of a data set with the reasons, in the order of the files in the zip."""
    with database.reading(scope) as session:
        return listing(contents.rejected(session, id, page), RejectedFile.of)


@router.get(
    "/datasets/{id}/classes/{class_id}/example",
    operation_id="get_class_example",
    response_class=Response,
    responses={200: IMAGE, **UNCHANGED, **problems(NotFound, StorageUnavailable)},
    openapi_extra=OPTIONAL_KEY,
)
@runs_in(STORE)
def get_class_example(
    id: str,
    class_id: Annotated[int, Path(ge=0, lt=2**31)],
    request: Request,
    scope: ViewerDep,
    services: ServicesDep,
) -> Response:
    """Get one PNG with thumbnails of a class's first images. Needs an API key or a signed URL."""
    with services.database.reading(scope) as session:
        key = datasets.example(session, id, class_id)
    return png(request, partial(services.store.get, key))


async def _files(services: Services, scope: Scope, id: str) -> AsyncIterator[tuple[str, bytes]]:
    """Yields (path, bytes) for each image of a data set. Loads the list of images, which may take tens of megabytes,
    only when iterated: by then the download has its place among the tenant's transfers."""
    contents = await run_in_threadpool(_contents, services, scope, id)
    async for file in in_threads(downloads.files(services.store, contents, datasets.limits(services.settings))):
        yield file


def _contents(services: Services, scope: Scope, id: str) -> downloads.Contents:
    with services.database.session(scope) as session:
        return downloads.contents(session, id)


def _listed(request: Request, page: Page[Dataset]) -> Listing[DatasetOut]:
    signed = signer(request)
    return listing(page, lambda row: DatasetOut.of(row, signed))
