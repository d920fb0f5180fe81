"""Data sets: from an upload to images that a fine-tune can use."""

from typing import IO

from sqlalchemy.orm import Session

from core import audit, jobs
from core.config import Settings
from core.datasets import repository
from core.datasets.archive import Limits, Report, inspect
from core.db.base import new_id
from core.db.models import Dataset
from core.db.paging import Page, PageRequest
from core.domains import service as domains
from core.errors import ArchiveInvalid, NotFound
from core.jobs import Claim, Dispatcher
from core.storage import ObjectStore, StoredObject
from core.tenancy import Scope


def limits(settings: Settings) -> Limits:
    return Limits(
        members=settings.max_archive_members,
        image_bytes=settings.max_image_bytes,
        inflated_bytes=settings.max_inflated_bytes,
        pixels=settings.max_image_pixels,
        classes=settings.max_classes,
    )


def store_archive(store: ObjectStore, scope: Scope, domain_id: str, file: IO[bytes], limits: Limits) -> StoredObject:
    """Checks an upload's structure and stores it, without a transaction. Raises ArchiveInvalid.

    The object lies under the id that its data set will have, so that an upload without a row is told by its key.
    """
    inspect(file, limits)
    return store.put_file(archive_key(scope, domain_id, new_id("ds")), file)


def archive_key(scope: Scope, domain_id: str, dataset_id: str) -> str:
    return f"{domains.folder(scope.tenant, domain_id)}datasets/{dataset_id}/archive.zip"


def create(session: Session, scope: Scope, dispatcher: Dispatcher, domain_id: str, archive: StoredObject) -> Dataset:
    """A data set for a stored archive; its validation starts after the commit. Raises NotFound."""
    domain = domains.get(session, scope, domain_id)
    dataset = Dataset(
        id=archive.key.split("/")[-2],
        tenant_id=domain.tenant_id,
        domain_id=domain.id,
        status="validating",
        archive_key=archive.key,
        archive_sha256=archive.sha256,
        size_bytes=archive.size,
    )
    session.add(dataset)
    session.flush()
    jobs.dispatch(session, dispatcher, dataset)
    audit.record(session, scope, "dataset.create", dataset.id)
    return dataset


def get(session: Session, scope: Scope, id: str) -> Dataset:
    """Raises NotFound."""
    dataset = repository.get(session, scope, id)
    if dataset is None:
        raise NotFound("dataset", id)
    return dataset


def listing(session: Session, scope: Scope, domain_id: str, request: PageRequest) -> Page[Dataset]:
    domains.get(session, scope, domain_id)
    return repository.page(session, scope, domain_id, request)


def succeed(session: Session, claim: Claim, report: Report, archive_sha256: str) -> bool:
    """Writes what validation found; False when the claim was lost."""
    dataset = jobs.guarded(session, Dataset, claim)
    if dataset is None:
        return False
    dataset.archive_sha256 = archive_sha256
    dataset.classes = report.classes_json()
    dataset.images = len(report.members)
    dataset.members = [member.to_json() for member in report.members]
    dataset.report = {"accepted": len(report.members), "rejected": [one.to_json() for one in report.rejected]}
    dataset.digest = report.digest
    jobs.finish(session, dataset, "ready")
    return True


def reject(session: Session, claim: Claim, error: ArchiveInvalid) -> bool:
    """Ends a data set that cannot be used; False when the claim was lost."""
    dataset = jobs.guarded(session, Dataset, claim)
    if dataset is None:
        return False
    dataset.report = {"accepted": 0, "rejected": error.errors}
    jobs.fail(session, dataset, error)
    return True
