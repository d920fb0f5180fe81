"""Table of adapters: the stored results of fine-tunes, numbered as versions of a domain."""

import datetime
from typing import Any

from sqlalchemy import BigInteger, String, UniqueConstraint
from sqlalchemy.orm import Mapped, mapped_column

from core.service.db.base import Base, Created, DomainId, Id, TenantOwned


class Adapter(TenantOwned, Base):
    __tablename__ = "adapters"
    __table_args__ = (UniqueConstraint("domain_id", "version"),)

    id: Mapped[Id]
    domain_id: Mapped[DomainId]
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
    created_at: Mapped[Created]
    last_used_at: Mapped[datetime.datetime | None]
