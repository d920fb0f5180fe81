"""Routes that make data sets without an upload: versions with other images or classes, copies in other domains,
sample data, and imports from other hosts."""

from fastapi import APIRouter, Request

from api.auth import WriterDep
from api.deps import DatabaseDep, ServicesDep
from api.idempotency import IdempotentRoute
from api.openapi import problems
from api.schemas.datasets import DatasetCopy, DatasetEdit, DatasetImport, DatasetOut
from api.signing import signer
from core.artifact.errors import NotFound
from core.service.datasets import imports, samples, versions
from core.service.datasets.versions import Edit
from core.service.errors import (
    DatasetNotReady,
    EditInvalid,
    ImportRefused,
    ImportsOff,
    QuotaExceeded,
    StorageQuotaExceeded,
)

router = APIRouter(prefix="/v1", tags=["datasets"], route_class=IdempotentRoute)


@router.post(
    "/datasets/{id}/versions",
    status_code=202,
    operation_id="create_dataset_version",
    responses=problems(NotFound, DatasetNotReady, EditInvalid, QuotaExceeded, StorageQuotaExceeded),
)
def create_dataset_version(
    id: str, body: DatasetEdit, request: Request, database: DatabaseDep, scope: WriterDep, services: ServicesDep
) -> DatasetOut:
    """Create a data set with other images or classes from this one, which does not change. To add new images, upload
    them as a data set, and name it in `add_dataset_ids`; you may delete it afterwards.

    No image is stored again. Copies of an image in the same class are left out. The version is `ready` after its images
    have been compared with each other.
    """
    with database.session(scope) as session:
        return DatasetOut.of(versions.create(session, services, id, Edit(**body.model_dump())), signer(request))


@router.post(
    "/domains/{id}/datasets/copies",
    status_code=202,
    operation_id="copy_dataset",
    responses=problems(NotFound, DatasetNotReady, EditInvalid, QuotaExceeded, StorageQuotaExceeded),
)
def copy_dataset(
    id: str, body: DatasetCopy, request: Request, database: DatabaseDep, scope: WriterDep, services: ServicesDep
) -> DatasetOut:
    """Copy a data set of another of your domains to this one. The copy is stored separately, so that each domain can be
    deleted."""
    with database.session(scope) as session:
        return DatasetOut.of(versions.copy(session, services, id, body.dataset_id, body.name), signer(request))


@router.post(
    "/domains/{id}/datasets/sample",
    status_code=202,
    operation_id="create_sample_dataset",
    responses=problems(NotFound, QuotaExceeded, StorageQuotaExceeded),
)
def create_sample_dataset(
    id: str, request: Request, database: DatabaseDep, scope: WriterDep, services: ServicesDep
) -> DatasetOut:
    """Create a data set of sample data, to try the service without images of your own: 160 drawings of
    [OpenMoji](https://openmoji.org) in 8 classes, under CC BY-SA 4.0."""
    with database.session(scope) as session:
        return DatasetOut.of(samples.create(session, services, id), signer(request))


@router.post(
    "/domains/{id}/datasets/imports",
    status_code=202,
    operation_id="import_dataset",
    responses=problems(NotFound, ImportsOff, ImportRefused, QuotaExceeded, StorageQuotaExceeded),
)
def import_dataset(
    id: str, body: DatasetImport, request: Request, database: DatabaseDep, scope: WriterDep, services: ServicesDep
) -> DatasetOut:
    """Create a data set of images that the service fetches, by their URLs or from a public bucket. Only hosts that the
    operator allows are asked, by default none; URLs must start with https:// and lead to public addresses.

    The images are fetched and checked in the background; the report lists the files that cannot be fetched. The service
    takes no credentials of buckets: for a private bucket, send signed URLs of its images.
    """
    source = body.model_dump(include={"images", "bucket"}, exclude_none=True)
    with database.session(scope) as session:
        return DatasetOut.of(imports.create(session, services, id, source, body.name), signer(request))
