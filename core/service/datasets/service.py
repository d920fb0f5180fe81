"""Data sets: creates them from uploaded zips, and looks them up."""

from dataclasses import dataclass
from typing import IO, Any

from sqlalchemy import ColumnElement, Integer, column, func, select, true
from sqlalchemy.orm import Session

from core.artifact.errors import NotFound
from core.service import audit, domains, jobs, metering
from core.service.config import Settings
from core.service.datasets.archive import Limits, inspect
from core.service.db.base import Json, new_id
from core.service.db.lookup import require
from core.service.db.models import Dataset
from core.service.db.paging import Page, PageRequest, fetch_page, number_of, page_of
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


def receive(resources: Resources, scope: Scope, domain_id: str, file: IO[bytes], size_bytes: int) -> Dataset:
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
        return create(session, resources.dispatcher, domain_id, archive)


def archive_key(scope: Scope, domain_id: str, dataset_id: str) -> str:
    """Returns the storage key of a data set's zip."""
    return f"{domains.folder(scope.tenant, domain_id)}datasets/{dataset_id}/archive.zip"


def create(session: Session, dispatcher: Dispatcher, domain_id: str, archive: StoredObject) -> Dataset:
    """Creates a data set for a stored zip, and dispatches its validation after the commit. Raises NotFound if the
    domain does not exist."""
    domain = domains.get(session, domain_id)
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
    audit.record(session, "dataset.create", dataset.id)
    metering.add_stored_bytes(session, domain.id, archive.size)
    return dataset


def get(session: Session, id: str) -> Dataset:
    """Returns a data set. Raises NotFound."""
    return require(session, Dataset, "dataset", id)


def page(session: Session, domain_id: str, request: PageRequest) -> Page[Dataset]:
    """Returns a page of a domain's data sets, newest first. Raises NotFound, InvalidCursor."""
    domains.get(session, domain_id)
    return fetch_page(session, select(Dataset).where(Dataset.domain_id == domain_id), Dataset.id, request)


@dataclass(frozen=True)
class Rejection:
    """Rejected file of a data set."""

    position: int
    """Position of the file among the data set's rejected files, from 1."""
    file: dict[str, Any]
    """{file, code, detail}"""


def rejected(session: Session, id: str, request: PageRequest) -> Page[Rejection]:
    """Returns a page of a data set's rejected files, in the order of the zip. The database extracts the page from the
    JSON column, so that the column, which may hold megabytes, is not loaded. Raises NotFound, InvalidCursor."""
    get(session, id)
    if session.get_bind().dialect.name == "postgresql":
        files = func.jsonb_array_elements(Dataset.rejected)
        entries = files.table_valued(column("value", Json), with_ordinality="position").render_derived()
        position: ColumnElement[int] = entries.c.position
    else:
        files = func.json_each(Dataset.rejected)
        entries = files.table_valued(column("key", Integer), column("value", Json))
        position = entries.c.key + 1
    statement = select(position, entries.c.value).select_from(Dataset).join(entries, true())
    statement = statement.where(Dataset.id == id, position > number_of(request.cursor))
    rows = session.execute(statement.order_by(position).limit(request.limit + 1)).all()
    return page_of([Rejection(*row) for row in rows], request, lambda row: str(row.position))


def example_key(tenant_id: str, domain_id: str, id: str, class_id: int) -> str:
    """Returns the storage key of a class's example strip, which shows the class's first images."""
    return f"{domains.folder(tenant_id, domain_id)}datasets/{id}/classes/{class_id}.png"


def example(session: Session, id: str, class_id: int) -> str:
    """Returns the storage key of a class's example strip. Raises NotFound if the data set or the strip does not
    exist."""
    dataset = get(session, id)
    if not any(label["id"] == class_id and label.get("has_example") for label in dataset.classes):
        raise NotFound("example", f"{id}/{class_id}")
    return example_key(dataset.tenant_id, dataset.domain_id, id, class_id)
