"""Data sets."""

from typing import Annotated

from fastapi import APIRouter, File, Path, Request, Response, UploadFile

from api.auth import ReaderDep, ViewerDep, WriterDep
from api.deps import DatabaseDep, PageDep, ServicesDep
from api.idempotency import IdempotentRoute
from api.openapi import problems
from api.routes.images import IMAGE, OPTIONAL_KEY, png
from api.schemas.common import Listing
from api.schemas.datasets import DatasetOut
from api.signing import signer
from api.threads import STORE, UPLOADS, runs_in
from core.datasets import service as datasets
from core.domains import service as domains
from core.errors import (
    ArchiveInvalid,
    NotFound,
    PayloadTooLarge,
    QuotaExceeded,
    ServiceBusy,
    StorageQuotaExceeded,
    StorageUnavailable,
    TooManyTransfers,
)
from core.usage.quotas import Quotas

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
    file: Annotated[UploadFile, File(description="A zip with one folder of images a class.")],
    scope: WriterDep,
    services: ServicesDep,
) -> DatasetOut:
    """Upload a data set. Its images are checked in the background; `report` names every file that was not used.

    A zip that cannot be one fails at once, with the code `not_a_zip`, `no_class_folders`, `too_many_classes`,
    `too_many_files` or `too_few_images`.
    """
    limit = services.settings.max_upload_bytes
    if (file.size or 0) > limit:
        raise PayloadTooLarge(limit)
    with services.database.session(scope) as session:
        domains.get(session, scope, id)
        Quotas(session, scope, services.settings).admit_dataset(file.size or 0)  # before anything is stored
    archive = datasets.store_archive(services.store, scope, id, file.file, datasets.limits(services.settings))
    with services.database.session(scope) as session:
        Quotas(session, scope, services.settings).admit_dataset(archive.size)
        dataset = datasets.create(session, scope, services.dispatcher, id, archive)
        return DatasetOut.model_validate(dataset)


@router.get("/domains/{id}/datasets", operation_id="list_datasets", responses=problems(NotFound))
def list_datasets(
    id: str, request: Request, database: DatabaseDep, scope: ReaderDep, page: PageDep
) -> Listing[DatasetOut]:
    """A domain's data sets, newest first."""
    with database.session(scope) as session:
        found = datasets.listing(session, scope, id, page)
        signed = signer(request)
        return Listing(data=[DatasetOut.of(row, signed) for row in found.data], next_cursor=found.next_cursor)


@router.get("/datasets/{id}", operation_id="get_dataset", responses=problems(NotFound))
def get_dataset(id: str, request: Request, database: DatabaseDep, scope: ReaderDep) -> DatasetOut:
    """One data set: its classes, and why files were refused."""
    with database.session(scope) as session:
        return DatasetOut.of(datasets.get(session, scope, id), signer(request))


@router.get(
    "/datasets/{id}/classes/{class_id}/example",
    operation_id="get_class_example",
    response_class=Response,
    responses={200: IMAGE, **problems(NotFound, StorageUnavailable)},
    openapi_extra=OPTIONAL_KEY,
)
@runs_in(STORE)
def get_class_example(
    id: str, class_id: Annotated[int, Path(ge=0, lt=2**31)], scope: ViewerDep, services: ServicesDep
) -> Response:
    """The first pictures of a class side by side, small, by API key or by the signature of its URL."""
    with services.database.session(scope) as session:
        key = datasets.example(session, scope, id, class_id)
    return png(services.store.get(key))
