"""Data sets: from an upload to images that a fine-tune can use."""

from collections.abc import Callable, Collection
from typing import IO, Any

from sqlalchemy.orm import Session

from core.artifact.errors import CoreError, NotFound
from core.service import audit, jobs, metering
from core.service.config import Settings
from core.service.datasets import repository
from core.service.datasets.archive import Limits, Report, inspect
from core.service.datasets.repository import Rejection
from core.service.db.base import new_id
from core.service.db.models import Dataset
from core.service.db.paging import Page, PageRequest
from core.service.domains import service as domains
from core.service.jobs import Claim, Dispatcher
from core.service.storage import ObjectStore, StoredObject
from core.service.tenancy import Scope


def limits(settings: Settings) -> Limits:
    return Limits(
        members=settings.max_archive_members,
        image_bytes=settings.max_image_bytes,
        inflated_bytes=settings.max_inflated_bytes,
        pixels=settings.max_image_pixels,
        classes=settings.max_classes,
        all_pixels=settings.max_archive_pixels,
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
    """Creates a data set for a stored archive. Its validation starts after the commit. Raises NotFound."""
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
    metering.add_stored_bytes(session, domain.id, archive.size)
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


def rejected(session: Session, scope: Scope, id: str, request: PageRequest) -> Page[Rejection]:
    """Returns a page of the files that were not used, in their order. Raises NotFound, InvalidCursor."""
    get(session, scope, id)
    return repository.rejected(session, scope, id, request)


def example_key(tenant_id: str, domain_id: str, id: str, class_id: int) -> str:
    """Returns the key of the strip that shows a class's first images."""
    return f"{domains.folder(tenant_id, domain_id)}datasets/{id}/classes/{class_id}.png"


def store_examples(
    store: ObjectStore, place: Callable[[int], str], file: IO[bytes], report: Report, limits: Limits
) -> set[int]:
    """Stores a strip of each class's first images at the key that `place` returns. Returns the classes that now have
    one."""
    from core.service.datasets.examples import strips  # Pillow: a worker decodes, no API does

    shown = set()
    for class_id, strip in strips(file, [member.to_json() for member in report.members], limits):
        store.put(place(class_id), strip)
        shown.add(class_id)
    return shown


def example(session: Session, scope: Scope, id: str, class_id: int) -> str:
    """Returns the key of a class's strip. Raises NotFound."""
    dataset = get(session, scope, id)
    if not any(label["id"] == class_id and label.get("has_example") for label in dataset.classes):
        raise NotFound("example", f"{id}/{class_id}")
    return example_key(dataset.tenant_id, dataset.domain_id, id, class_id)


def succeed(
    session: Session, claim: Claim, report: Report, archive_sha256: str, examples: Collection[int] = ()
) -> bool:
    """Stores the validation report, and which classes have a strip. Returns False when the claim was lost."""
    dataset = jobs.guarded(session, Dataset, claim)
    if dataset is None:
        return False
    dataset.archive_sha256 = archive_sha256
    dataset.classes = [{**label, "has_example": label["id"] in examples} for label in report.classes_json()]
    dataset.images = len(report.members)
    dataset.members = [member.to_json() for member in report.members]
    _write_report(dataset, report.to_json())
    dataset.digest = report.digest
    jobs.finish(session, dataset, "ready")
    return True


def record_rejection(dataset: Dataset, error: CoreError) -> None:
    """Stores the files that made a data set unusable. Its job fails with the same error."""
    _write_report(dataset, {"accepted": 0, "rejected": error.errors})


def _write_report(dataset: Dataset, report: dict[str, Any]) -> None:
    """Stores the rejected files apart from the rest of the report, which every list reads."""
    dataset.rejected = report.pop("rejected")
    dataset.report = {**report, "rejected_count": len(dataset.rejected)}
