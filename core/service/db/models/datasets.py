"""Data sets: an uploaded zip and what validation found in it; zips on their way, part by part."""

import datetime
from typing import Any

from sqlalchemy import BigInteger, String, Text
from sqlalchemy.orm import Mapped, mapped_column

from core.service.db.base import Base, Created, DomainId, Id, TenantOwned
from core.service.db.models.jobs import JobColumns, lease_index


class Dataset(JobColumns, Base):
    __tablename__ = "datasets"
    __table_args__ = (lease_index("datasets"),)

    domain_id: Mapped[DomainId]
    archive_key: Mapped[str] = mapped_column(String(500))
    archive_sha256: Mapped[str] = mapped_column(String(64))
    """Empty until validation, if the archive came in parts and without its SHA-256; empty again when retention has
    removed the archive."""
    size_bytes: Mapped[int] = mapped_column(BigInteger)
    """Size of the archive."""
    digest: Mapped[str | None] = mapped_column(String(64))
    """Digest of the accepted images and their classes. The same content gives the same digest, whatever the zip's
    layout."""
    classes: Mapped[list[Any]] = mapped_column(default=list)
    """[{id, name, images}]"""
    images: Mapped[int] = mapped_column(default=0)
    members: Mapped[list[Any]] = mapped_column(default=list, deferred=True)
    """Accepted files of the zip: [{file, class_id, sha256}]; earlier releases stored no sha256. Up to megabytes, as is
    `rejected`, so neither is loaded with the database row."""
    report: Mapped[dict[str, Any]] = mapped_column(default=dict)
    """{accepted, ignored, rejected_count, warnings: [{file, code, detail}]}"""
    rejected: Mapped[list[Any]] = mapped_column(default=list, deferred=True, server_default="[]")
    """[{file, code, detail}]"""


class DatasetUpload(TenantOwned, Base):
    """A zip that comes in parts."""

    __tablename__ = "dataset_uploads"

    id: Mapped[Id]
    domain_id: Mapped[DomainId]
    dataset_id: Mapped[str] = mapped_column(String(40))
    """Id of the data set that it becomes. The object's key contains it from the beginning."""
    status: Mapped[str] = mapped_column(String(20), default="open")
    """open, completed or failed"""
    filename: Mapped[str | None] = mapped_column(String(255))
    size_bytes: Mapped[int] = mapped_column(BigInteger)
    part_bytes: Mapped[int] = mapped_column(BigInteger)
    """Size of every part but the last."""
    sha256: Mapped[str | None] = mapped_column(String(64))
    """SHA-256 that the client stated; None if it stated none."""
    object_key: Mapped[str] = mapped_column(String(500))
    store_upload: Mapped[str] = mapped_column(Text)
    """Id of this upload in the object store."""
    error_code: Mapped[str | None] = mapped_column(String(60))
    error_detail: Mapped[str | None] = mapped_column(Text)
    created_at: Mapped[Created]
    expires_at: Mapped[datetime.datetime]

    @property
    def error(self) -> dict[str, str] | None:
        """Reason why its zip cannot be a data set."""
        return None if self.error_code is None else {"code": self.error_code, "detail": self.error_detail or ""}
