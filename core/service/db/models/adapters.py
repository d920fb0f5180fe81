"""Table of adapters: the stored results of fine-tunes, numbered as versions of a domain."""

import datetime
from typing import Any

from sqlalchemy import BigInteger, String, Text, UniqueConstraint
from sqlalchemy.orm import Mapped, mapped_column

from core.artifact.manifest import learned_guidance
from core.service.db.base import Base, Created, DomainOwned, Id


class Adapter(DomainOwned, Base):
    __tablename__ = "adapters"
    __table_args__ = (UniqueConstraint("domain_id", "version"),)

    id: Mapped[Id]
    finetune_id: Mapped[str | None] = mapped_column(String(40), index=True)
    version: Mapped[int]
    status: Mapped[str] = mapped_column(String(20), default="ready")
    """Status of the adapter: ready or quarantined."""
    object_key: Mapped[str] = mapped_column(String(500))
    sha256: Mapped[str] = mapped_column(String(64), index=True)
    size_bytes: Mapped[int] = mapped_column(BigInteger)
    parameters: Mapped[int] = mapped_column(BigInteger)
    base_digest: Mapped[str] = mapped_column(String(64), index=True)
    method: Mapped[str] = mapped_column(String(20))
    preset: Mapped[str | None] = mapped_column(String(20))
    manifest: Mapped[dict[str, Any]]
    """Manifest of the stored file, which never changes."""
    class_names: Mapped[list[Any]]
    """Current names of the classes, by class id: those of the manifest until the tenant renames them."""
    name: Mapped[str | None] = mapped_column(String(200))
    note: Mapped[str] = mapped_column(Text, default="")
    created_at: Mapped[Created]
    last_used_at: Mapped[datetime.datetime | None]

    @property
    def learned_guidance(self) -> float | None:
        """Highest guidance scale that the adapter has learned; None if it has learned none."""
        return learned_guidance(self.manifest.get("training", {}))
