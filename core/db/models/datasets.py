"""Data sets: an uploaded zip and what validation found in it."""

from typing import Any

from sqlalchemy import BigInteger, String
from sqlalchemy.orm import Mapped, mapped_column

from core.db.base import Base, DomainId
from core.db.models.jobs import JobColumns


class Dataset(JobColumns, Base):
    __tablename__ = "datasets"

    domain_id: Mapped[DomainId]
    archive_key: Mapped[str] = mapped_column(String(500))
    archive_sha256: Mapped[str] = mapped_column(String(64))
    size_bytes: Mapped[int] = mapped_column(BigInteger)
    """Of the archive."""
    digest: Mapped[str | None] = mapped_column(String(64))
    """Of the accepted images and their classes: equal content gives an equal digest, whatever the zip looks like."""
    classes: Mapped[list[Any]] = mapped_column(default=list)
    """[{id, name, images}]"""
    images: Mapped[int] = mapped_column(default=0)
    members: Mapped[list[Any]] = mapped_column(default=list)
    """Accepted files of the zip: [{file, class_id}]"""
    report: Mapped[dict[str, Any]] = mapped_column(default=dict)
    """{accepted, rejected: [{file, code, detail}]}"""
