"""Multipart uploads of zips, for data sets that are too large for one request. A client can resume an upload part by
part.

Clients send the parts directly to the object store where they can reach it, and through the API otherwise. The database
row is authoritative: parts in the object store that belong to no open upload are deleted.
"""

import datetime
from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import select
from sqlalchemy.orm import Session

from core.artifact.errors import NotFound
from core.service import audit, domains
from core.service.datasets import service
from core.service.datasets.archive import inspect
from core.service.db.base import new_id
from core.service.db.lookup import find
from core.service.db.models import Dataset, DatasetUpload
from core.service.db.paging import Page, PageRequest, fetch_page
from core.service.db.session import database_now
from core.service.errors import ArchiveInvalid, PartsMissing, UploadEnded
from core.service.jobs import Dispatcher
from core.service.quotas import Quotas
from core.service.resources import Resources
from core.service.storage import ObjectStore, Part, StoredObject
from core.service.tenancy import Scope

MOST_PARTS = 1000
_MEBIBYTE = 2**20


@dataclass(frozen=True)
class UploadRequest:
    size_bytes: int
    sha256: str | None = None
    filename: str | None = None


def begin(resources: Resources, scope: Scope, domain_id: str, request: UploadRequest) -> DatasetUpload:
    """Starts a multipart upload in the object store, and creates its database row. Raises NotFound, QuotaExceeded,
    StorageQuotaExceeded, StorageUnavailable."""
    settings = resources.settings
    with resources.database.session(scope) as session:
        domains.get(session, domain_id)
        Quotas(session, settings).admit_dataset(request.size_bytes)  # before anything is stored
    dataset_id = new_id("ds")
    key = service.archive_key(scope, domain_id, dataset_id)
    upload = DatasetUpload(
        id=new_id("upl"),
        tenant_id=scope.tenant,
        domain_id=domain_id,
        dataset_id=dataset_id,
        status="open",
        filename=request.filename,
        size_bytes=request.size_bytes,
        part_bytes=part_bytes(request.size_bytes, settings.upload_part_bytes),
        sha256=request.sha256,
        object_key=key,
        store_upload=resources.store.begin_parts(key),
    )
    with resources.database.session(scope) as session:
        Quotas(session, settings).admit_dataset(request.size_bytes)
        domains.get(session, domain_id)
        upload.expires_at = database_now(session) + datetime.timedelta(seconds=settings.upload_seconds)
        session.add(upload)
        session.flush()
        session.refresh(upload)
        audit.record(session, "dataset.upload", upload.id, tenant_id=upload.tenant_id)
    return upload


def get(session: Session, domain_id: str, id: str, *, lock: bool = False) -> DatasetUpload:
    """Returns an upload of a domain. Raises NotFound."""
    upload = find(session, DatasetUpload, id, lock=lock)
    if upload is None or upload.domain_id != domain_id:
        raise NotFound("upload", id)
    return upload


def page(session: Session, domain_id: str, request: PageRequest) -> Page[DatasetUpload]:
    """Returns a page of a domain's uploads, newest first. Raises NotFound, InvalidCursor."""
    domains.get(session, domain_id)
    statement = select(DatasetUpload).where(DatasetUpload.domain_id == domain_id)
    return fetch_page(session, statement, DatasetUpload.id, request)


def part_bytes(size_bytes: int, least: int) -> int:
    """Returns the part size in bytes for an upload of `size_bytes`; only the last part may be smaller. The part size is
    at least `least`, and large enough that `MOST_PARTS` parts suffice."""
    needed = -(-size_bytes // MOST_PARTS)
    return max(least, -(-needed // _MEBIBYTE) * _MEBIBYTE)


def sizes(upload: DatasetUpload) -> list[int]:
    """Returns the expected sizes of an upload's parts in bytes, in order."""
    whole, rest = divmod(upload.size_bytes, upload.part_bytes)
    return [upload.part_bytes] * whole + [rest] * bool(rest)


def received(store: ObjectStore, upload: DatasetUpload) -> dict[int, Part]:
    """Returns the parts of an upload that are complete in the object store, by part number; none if the upload is not
    open."""
    if upload.status != "open":
        return {}
    try:
        parts = store.parts(upload.object_key, upload.store_upload)
    except NotFound:  # the store has joined the parts just now, or in a request that was cut off
        return {}
    expected = dict(enumerate(sizes(upload), 1))
    return {part.number: part for part in parts if part.size == expected.get(part.number)}


def check_open(upload: DatasetUpload) -> None:
    """Raises UploadEnded unless the upload is open; ArchiveInvalid, with the stored reason, if its zip was rejected."""
    if upload.status == "failed":
        raise ArchiveInvalid(upload.error_code or "", upload.error_detail or "")
    if upload.status != "open":
        raise UploadEnded(upload.id, upload.status)


def complete(
    resources: Resources, scope: Scope, domain_id: str, id: str, etags: dict[int, str], name: str | None = None
) -> Dataset:
    """Completes an upload: joins its parts in the object store, and creates and returns its data set, which gets the
    name `name`. `etags` maps part numbers to ETags. If the zip is invalid, the upload is marked as failed. A repeated
    call returns the same data set.

    Raises NotFound, UploadEnded, PartsMissing, ArchiveInvalid, QuotaExceeded, StorageQuotaExceeded, StorageUnavailable.
    """
    database, store, settings = resources.database, resources.store, resources.settings
    with database.session(scope) as session:
        upload = get(session, domain_id, id)
        if upload.status == "completed":
            return service.get(session, upload.dataset_id)
        check_open(upload)
        Quotas(session, settings).admit_received_dataset()
    join(store, upload, etags)
    try:
        with store.open(upload.object_key) as file:
            inspect(file, service.limits(settings))  # reads only its index
    except ArchiveInvalid as error:
        with database.session(scope) as session:
            _fail(session, domain_id, id, error)
        store.delete([upload.object_key])
        raise
    with database.session(scope) as session:
        Quotas(session, settings).hold()
        return _create_dataset(session, resources.dispatcher, domain_id, id, name)


def abort(resources: Resources, scope: Scope, domain_id: str, id: str) -> None:
    """Deletes an upload and its parts. Raises NotFound, StorageUnavailable, and UploadEnded if the upload has already
    become a data set."""
    with resources.database.session(scope) as session:
        upload = get(session, domain_id, id, lock=True)
        if upload.status == "completed":
            raise UploadEnded(id, upload.status)
        session.delete(upload)
        audit.record(session, "dataset.upload.abort", id)
    drop(resources.store, upload)


def expire(session: Session) -> Sequence[DatasetUpload]:
    """Deletes the rows of up to 100 expired uploads, of all tenants. Returns the uploads that were still open; the
    caller must delete their parts with `drop`."""
    expired = select(DatasetUpload).where(DatasetUpload.expires_at < database_now(session)).limit(100)
    uploads = session.scalars(expired.with_for_update(skip_locked=True)).all()
    for upload in uploads:
        session.delete(upload)
    return [upload for upload in uploads if upload.status == "open"]


def drop(store: ObjectStore, upload: DatasetUpload) -> None:
    """Deletes the parts and the joined object of an upload from the object store. Call it after deleting the upload's
    row."""
    store.drop_upload(upload.object_key, upload.store_upload)
    store.delete([upload.object_key])


def join(store: ObjectStore, upload: DatasetUpload, etags: dict[int, str]) -> None:
    """Joins the parts of an upload to one object in the store, unless another call did. Raises PartsMissing if parts
    are missing or have other ETags; NotFound if the object store has lost the upload."""
    parts = received(store, upload)
    wanted = range(1, len(sizes(upload)) + 1)
    missing = [number for number in wanted if number not in parts or parts[number].etag != etags.get(number)]
    try:
        if missing:
            raise PartsMissing(missing)
        store.join_parts(upload.object_key, upload.store_upload, [parts[number] for number in wanted])
    except (PartsMissing, NotFound):
        if not _is_joined(store, upload):  # by an earlier call, or just now by a concurrent one
            raise


def _fail(session: Session, domain_id: str, id: str, error: ArchiveInvalid) -> None:
    """Marks an upload as failed, and stores the reason why its zip is invalid. Raises NotFound."""
    upload = get(session, domain_id, id, lock=True)
    upload.status, upload.error_code, upload.error_detail = "failed", error.code, error.detail
    audit.record(session, "dataset.upload.fail", id, detail={"code": error.code})


def _create_dataset(session: Session, dispatcher: Dispatcher, domain_id: str, id: str, name: str | None) -> Dataset:
    """Creates the data set of an upload whose zip is stored, or returns the data set that an earlier call created.
    Raises NotFound."""
    upload = get(session, domain_id, id, lock=True)
    if upload.status == "completed":
        return service.get(session, upload.dataset_id)
    upload.status = "completed"
    archive = StoredObject(upload.object_key, upload.sha256 or "", upload.size_bytes)
    return service.create(session, dispatcher, domain_id, archive, name)


def _is_joined(store: ObjectStore, upload: DatasetUpload) -> bool:
    try:
        with store.open(upload.object_key) as file:
            return file.seek(0, 2) == upload.size_bytes
    except NotFound:
        return False
