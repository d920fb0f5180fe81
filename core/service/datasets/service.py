"""Data sets: creates them from uploaded zips, and looks them up."""

import datetime
from dataclasses import dataclass
from typing import IO

from sqlalchemy import select
from sqlalchemy.orm import Session

from core.artifact.errors import NotFound
from core.service import audit, domains, jobs, metering
from core.service.config import Settings
from core.service.datasets.archive import Limits, inspect
from core.service.db.base import new_id
from core.service.db.lookup import require
from core.service.db.models import Dataset
from core.service.db.paging import Page, PageRequest, created_between, fetch_page
from core.service.jobs import Dispatcher
from core.service.quotas import Quotas
from core.service.resources import Resources
from core.service.storage import StoredObject
from core.service.tenancy import Scope


def limits(settings: Settings) -> Limits:
    """Returns the limits for a data set's zip, from the service's settings."""
    return Limits(
        members=settings.max_archive_members,
        image_bytes=settings.max_image_bytes,
        inflated_bytes=settings.max_inflated_bytes,
        pixels=settings.max_image_pixels,
        classes=settings.max_classes,
        all_pixels=settings.max_archive_pixels,
    )


def receive(
    resources: Resources, scope: Scope, domain_id: str, file: IO[bytes], size_bytes: int, name: str | None = None
) -> Dataset:
    """Checks the index of an uploaded zip, stores the zip in the object store while no transaction is open, and creates
    the data set. Raises NotFound, QuotaExceeded, StorageQuotaExceeded, ArchiveInvalid, StorageUnavailable."""
    settings = resources.settings
    with resources.database.session(scope) as session:
        domains.get(session, domain_id)
        Quotas(session, settings).admit_dataset(size_bytes)  # before anything is stored
    inspect(file, limits(settings))
    # The storage key contains the id that the data set will have. If no row with this id follows, the object is
    # recognized as an orphan.
    archive = resources.store.put_file(archive_key(scope, domain_id, new_id("ds")), file)
    with resources.database.session(scope) as session:
        Quotas(session, settings).admit_dataset(archive.size)
        return create(session, resources.dispatcher, domain_id, archive, name)


def archive_key(scope: Scope, domain_id: str, dataset_id: str) -> str:
    """Returns the storage key of a data set's zip."""
    return f"{folder(scope.tenant, domain_id, dataset_id)}archive.zip"


def folder(tenant_id: str, domain_id: str, id: str) -> str:
    """Returns the storage key prefix of a data set's objects."""
    return f"{domains.folder(tenant_id, domain_id)}datasets/{id}/"


def create(
    session: Session, dispatcher: Dispatcher, domain_id: str, archive: StoredObject, name: str | None = None
) -> Dataset:
    """Creates a data set for a stored zip, and dispatches its validation after the commit. Raises NotFound if the
    domain does not exist."""
    domain = domains.get(session, domain_id)
    dataset = Dataset(
        id=archive.key.split("/")[-2],
        tenant_id=domain.tenant_id,
        domain_id=domain.id,
        name=name,
        status="validating",
        archive_key=archive.key,
        archive_sha256=archive.sha256,
        size_bytes=archive.size,
    )
    session.add(dataset)
    session.flush()
    jobs.dispatch(session, dispatcher, dataset)
    audit.record(session, "dataset.create", dataset.id)
    metering.add_stored_bytes(session, domain.id, archive.size)
    return dataset


def get(session: Session, id: str, *, lock: bool = False) -> Dataset:
    """Returns a data set. Raises NotFound."""
    return require(session, Dataset, "dataset", id, lock=lock)


def change(session: Session, id: str, changes: dict[str, object]) -> Dataset:
    """Changes a data set's columns to the values in `changes`, such as `name`. Raises NotFound."""
    dataset = get(session, id, lock=True)
    for field, value in changes.items():
        setattr(dataset, field, value)
    session.flush()
    audit.record(session, "dataset.change", id, detail=changes)
    return dataset


@dataclass(frozen=True)
class DatasetFilter:
    """Conditions on the data sets of a list. None means any."""

    domain_id: str | None = None
    name: str | None = None
    """Text that the name contains, in any case."""
    created_after: datetime.datetime | None = None
    created_before: datetime.datetime | None = None


def page(session: Session, request: PageRequest, only: DatasetFilter) -> Page[Dataset]:
    """Returns a page of the session's tenant's data sets, newest first. Raises InvalidCursor, and NotFound if the
    filter's domain does not exist."""
    statement = select(Dataset)
    if only.domain_id is not None:
        domains.get(session, only.domain_id)
        statement = statement.where(Dataset.domain_id == only.domain_id)
    if only.name is not None:
        statement = statement.where(Dataset.name.icontains(only.name, autoescape=True))
    statement = statement.where(*created_between(Dataset, Dataset.id, only.created_after, only.created_before))
    return fetch_page(session, statement, Dataset.id, request)


def example_key(tenant_id: str, domain_id: str, id: str, class_id: int) -> str:
    """Returns the storage key of a class's example strip, which shows the class's first images."""
    return f"{folder(tenant_id, domain_id, id)}classes/{class_id}.png"


def example(session: Session, id: str, class_id: int) -> str:
    """Returns the storage key of a class's example strip. Raises NotFound if the data set or the strip does not
    exist."""
    dataset = get(session, id)
    if not any(label["id"] == class_id and label.get("has_example") for label in dataset.classes):
        raise NotFound("example", f"{id}/{class_id}")
    return example_key(dataset.tenant_id, dataset.domain_id, id, class_id)
