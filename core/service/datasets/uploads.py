"""Uploads of zips in parts, for data sets that are too large for one request. An upload can be resumed part by part.

Parts go to the store itself where clients reach it, and through the API elsewhere. What counts is the row: parts that
no open upload speaks of are removed.
"""

import datetime
from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy.orm import Session

from core.artifact.errors import NotFound
from core.service import audit
from core.service.config import Settings
from core.service.datasets import repository, service
from core.service.datasets.archive import Limits, inspect
from core.service.db.base import new_id
from core.service.db.models import Dataset, DatasetUpload
from core.service.db.paging import Page, PageRequest
from core.service.db.session import database_now
from core.service.domains import service as domains
from core.service.errors import ArchiveInvalid, PartsMissing, UploadEnded
from core.service.jobs import Dispatcher
from core.service.storage import ObjectStore, Part, StoredObject
from core.service.tenancy import Scope

MOST_PARTS = 1000
_MEBIBYTE = 2**20


@dataclass(frozen=True)
class UploadRequest:
    size_bytes: int
    sha256: str | None = None
    filename: str | None = None


def begin(
    store: ObjectStore, scope: Scope, domain_id: str, request: UploadRequest, settings: Settings
) -> DatasetUpload:
    """Begins a new upload in the store. Returns its row, which is not in the database yet."""
    dataset_id = new_id("ds")
    key = service.archive_key(scope, domain_id, dataset_id)
    return DatasetUpload(
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
        store_upload=store.begin_parts(key),
    )


def create(session: Session, scope: Scope, upload: DatasetUpload, lifetime_seconds: int) -> DatasetUpload:
    """Adds the upload to the database. Raises NotFound when its domain is gone."""
    domains.get(session, scope, upload.domain_id)
    upload.expires_at = database_now(session) + datetime.timedelta(seconds=lifetime_seconds)
    session.add(upload)
    session.flush()
    session.refresh(upload)
    audit.record(session, scope, "dataset.upload", upload.id, tenant_id=upload.tenant_id)
    return upload


def get(session: Session, scope: Scope, domain_id: str, id: str, *, lock: bool = False) -> DatasetUpload:
    """Raises NotFound."""
    upload = repository.upload(session, scope, id, lock=lock)
    if upload is None or upload.domain_id != domain_id:
        raise NotFound("upload", id)
    return upload


def listing(session: Session, scope: Scope, domain_id: str, request: PageRequest) -> Page[DatasetUpload]:
    domains.get(session, scope, domain_id)
    return repository.uploads(session, scope, domain_id, request)


def part_bytes(size_bytes: int, least: int) -> int:
    """Returns the size of every part but the last: at least `least`, and large enough for no more than `MOST_PARTS`
    parts."""
    needed = -(-size_bytes // MOST_PARTS)
    return max(least, -(-needed // _MEBIBYTE) * _MEBIBYTE)


def sizes(upload: DatasetUpload) -> list[int]:
    """Returns the sizes of an upload's parts, in bytes."""
    whole, rest = divmod(upload.size_bytes, upload.part_bytes)
    return [upload.part_bytes] * whole + [rest] * bool(rest)


def received(store: ObjectStore, upload: DatasetUpload) -> dict[int, Part]:
    """Returns the parts that the store has in full, by number."""
    if upload.status != "open":
        return {}
    try:
        parts = store.parts(upload.object_key, upload.store_upload)
    except NotFound:  # just completed, or its last request was cut off there
        return {}
    expected = dict(enumerate(sizes(upload), 1))
    return {part.number: part for part in parts if part.size == expected.get(part.number)}


def check_open(upload: DatasetUpload) -> None:
    """Raises UploadEnded unless the upload is open; ArchiveInvalid when its zip was refused."""
    if upload.status == "failed":
        raise ArchiveInvalid(upload.error_code or "", upload.error_detail or "")
    if upload.status != "open":
        raise UploadEnded(upload.id, upload.status)


def join(store: ObjectStore, upload: DatasetUpload, etags: dict[int, str]) -> None:
    """Joins the parts to one object, unless an earlier call did. Raises PartsMissing, and NotFound when the store has
    lost the upload."""
    arrived = received(store, upload)
    wanted = range(1, len(sizes(upload)) + 1)
    missing = [number for number in wanted if number not in arrived or arrived[number].etag != etags.get(number)]
    if not missing:
        store.join_parts(upload.object_key, upload.store_upload, [arrived[number] for number in wanted])
    elif not _is_joined(store, upload):
        raise PartsMissing(missing)


def check(store: ObjectStore, upload: DatasetUpload, limits: Limits) -> None:
    """Checks the object like an archive that comes in one request. Reads only its index. Raises ArchiveInvalid."""
    with store.open(upload.object_key) as file:
        inspect(file, limits)


def complete(session: Session, scope: Scope, dispatcher: Dispatcher, domain_id: str, id: str) -> Dataset:
    """Creates, once, the data set of an upload whose object is stored. Raises NotFound."""
    upload = get(session, scope, domain_id, id, lock=True)
    if upload.status == "completed":
        return service.get(session, scope, upload.dataset_id)
    upload.status = "completed"
    archive = StoredObject(upload.object_key, upload.sha256 or "", upload.size_bytes)
    return service.create(session, scope, dispatcher, domain_id, archive)


def fail(session: Session, scope: Scope, domain_id: str, id: str, error: ArchiveInvalid) -> None:
    """Marks an upload as failed: its zip cannot become a data set. Raises NotFound."""
    upload = get(session, scope, domain_id, id, lock=True)
    upload.status, upload.error_code, upload.error_detail = "failed", error.code, error.detail
    audit.record(session, scope, "dataset.upload.fail", id, detail={"code": error.code})


def abort(session: Session, scope: Scope, domain_id: str, id: str) -> DatasetUpload:
    """Deletes an upload's row; its parts are then orphans. Raises NotFound, and UploadEnded for one that is a data
    set."""
    upload = get(session, scope, domain_id, id, lock=True)
    if upload.status == "completed":
        raise UploadEnded(id, upload.status)
    session.delete(upload)
    audit.record(session, scope, "dataset.upload.abort", id)
    return upload


def expire(session: Session) -> Sequence[DatasetUpload]:
    """Deletes the rows of expired uploads, for a worker. Returns those that were open."""
    expired = repository.expired_uploads(session, database_now(session))
    for upload in expired:
        session.delete(upload)
    return [upload for upload in expired if upload.status == "open"]


def drop(store: ObjectStore, upload: DatasetUpload) -> None:
    """Removes the stored parts and the object of an upload whose row was deleted."""
    store.drop_upload(upload.object_key, upload.store_upload)
    store.delete([upload.object_key])


def _is_joined(store: ObjectStore, upload: DatasetUpload) -> bool:
    try:
        with store.open(upload.object_key) as file:
            return file.seek(0, 2) == upload.size_bytes
    except NotFound:
        return False
