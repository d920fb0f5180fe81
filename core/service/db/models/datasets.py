"""Tables of data sets (an uploaded zip and the results of its validation), and of multipart uploads of zips."""

import datetime
from typing import Any

from sqlalchemy import BigInteger, String, Text
from sqlalchemy.orm import Mapped, mapped_column

from core.service.db.base import Base, Created, DomainOwned, Id
from core.service.db.models.jobs import JobColumns, lease_index


def thumbnails_key(zip_key: str) -> str:
    """Returns the storage key of the thumbnails of a zip's images, from the zip's storage key."""
    return f"{zip_key.removesuffix('.zip')}.thumbnails"


class Dataset(JobColumns, Base):
    __tablename__ = "datasets"
    __table_args__ = (lease_index("datasets"),)

    name: Mapped[str | None] = mapped_column(String(200))
    archive_key: Mapped[str] = mapped_column(String(500))
    archive_sha256: Mapped[str] = mapped_column(String(64))
    """SHA-256 of the zip. Empty until validation if the zip was uploaded in parts without a stated SHA-256, and empty
    again after retention has deleted the zip."""
    size_bytes: Mapped[int] = mapped_column(BigInteger)
    """Size of the zip, in bytes."""
    parent_id: Mapped[str | None] = mapped_column(String(40))
    """Id of the data set that this one is a version or copy of. Not a foreign key, since that data set may be
    deleted."""
    sources: Mapped[list[Any]] = mapped_column(default=list, server_default="[]")
    """Zips of other data sets that this version's images are in: [{key, sha256, size_bytes}]. A zip is deleted with the
    last data set that needs it. Until a copy from another domain is ready, its entries also have `copy_of`, the storage
    key from which a worker copies the zip."""
    to_fetch: Mapped[dict[str, Any] | None] = mapped_column(deferred=True)
    """Places from which a worker fetches the images of an import: {images: [{url, class_name}]} or {bucket: {url,
    prefix}}. None for other data sets, and after the import has ended, since signed URLs are secrets."""
    digest: Mapped[str | None] = mapped_column(String(64))
    """Digest of the accepted images and their class names. The same content gives the same digest, whatever the order
    of files or the folders around the class folders in the zip."""
    classes: Mapped[list[Any]] = mapped_column(default=list)
    """Classes of the data set: [{id, name, images, has_example}], where `images` is a count."""
    images: Mapped[int] = mapped_column(default=0)
    members: Mapped[list[Any]] = mapped_column(default=list, deferred=True)
    """Accepted images, as JSON of `core.service.datasets.report.Member`; earlier releases stored only {file, class_id}
    or {file, class_id, sha256}. `members` and `rejected` may take megabytes, so neither is loaded with the database
    row."""
    report: Mapped[dict[str, Any]] = mapped_column(default=dict)
    """Counts and warnings of the validation: {accepted, ignored, rejected_count, warnings: [{file, code, detail}]}."""
    rejected: Mapped[list[Any]] = mapped_column(default=list, deferred=True, server_default="[]")
    """Rejected files of the zip, with the reasons: [{file, code, detail}]."""

    @property
    def zips(self) -> list[dict[str, Any]]:
        """All zips with the data set's images, as {key, sha256, size_bytes}: its own, if it has one, then
        `sources`."""
        own = {"key": self.archive_key, "sha256": self.archive_sha256, "size_bytes": self.size_bytes}
        return [own] * bool(self.archive_key) + self.sources


class DatasetUpload(DomainOwned, Base):
    """Multipart upload of a data set's zip."""

    __tablename__ = "dataset_uploads"

    id: Mapped[Id]
    dataset_id: Mapped[str] = mapped_column(String(40))
    """Id of the data set that the upload will become. The zip's storage key contains this id from the beginning."""
    status: Mapped[str] = mapped_column(String(20), default="open")
    """Status of the upload: open, completed or failed."""
    filename: Mapped[str | None] = mapped_column(String(255))
    size_bytes: Mapped[int] = mapped_column(BigInteger)
    part_bytes: Mapped[int] = mapped_column(BigInteger)
    """Size of every part but the last."""
    sha256: Mapped[str | None] = mapped_column(String(64))
    """SHA-256 of the zip that the client stated; None if it stated none."""
    object_key: Mapped[str] = mapped_column(String(500))
    store_upload: Mapped[str] = mapped_column(Text)
    """Id that the object store gave this multipart upload."""
    error_code: Mapped[str | None] = mapped_column(String(60))
    error_detail: Mapped[str | None] = mapped_column(Text)
    created_at: Mapped[Created]
    expires_at: Mapped[datetime.datetime]

    @property
    def error(self) -> dict[str, str] | None:
        """Reason why the upload's zip cannot become a data set: a stable code and a sentence. None unless the upload
        failed."""
        return None if self.error_code is None else {"code": self.error_code, "detail": self.error_detail or ""}
