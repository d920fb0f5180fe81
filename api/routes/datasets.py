"""Data sets."""

from typing import Annotated

from fastapi import APIRouter, File, UploadFile

from api.auth import ReaderDep, WriterDep
from api.deps import DatabaseDep, PageDep, ServicesDep
from api.idempotency import IdempotentRoute
from api.openapi import problems
from api.schemas.common import Listing, listing
from api.schemas.datasets import DatasetOut
from core.datasets import service as datasets
from core.domains import service as domains
from core.errors import (
    ArchiveInvalid,
    NotFound,
    PayloadTooLarge,
    QuotaExceeded,
    StorageQuotaExceeded,
    StorageUnavailable,
)
from core.usage.quotas import Quotas

router = APIRouter(prefix="/v1", tags=["datasets"], route_class=IdempotentRoute)


@router.post(
    "/domains/{id}/datasets",
    status_code=202,
    operation_id="create_dataset",
    responses=problems(NotFound, ArchiveInvalid, QuotaExceeded, StorageQuotaExceeded, StorageUnavailable),
)
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
def list_datasets(id: str, database: DatabaseDep, scope: ReaderDep, page: PageDep) -> Listing[DatasetOut]:
    """A domain's data sets, newest first."""
    with database.session(scope) as session:
        return listing(datasets.listing(session, scope, id, page), DatasetOut)


@router.get("/datasets/{id}", operation_id="get_dataset", responses=problems(NotFound))
def get_dataset(id: str, database: DatabaseDep, scope: ReaderDep) -> DatasetOut:
    """One data set: its classes, and why files were refused."""
    with database.session(scope) as session:
        return DatasetOut.model_validate(datasets.get(session, scope, id))
