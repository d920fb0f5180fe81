"""Domains: the image styles that tenants teach."""

import datetime

from sqlalchemy import BigInteger, ForeignKey, String, Text, UniqueConstraint
from sqlalchemy.orm import Mapped, mapped_column

from core.service.db.base import Base, Created, Id, Now, TenantOwned


class Domain(TenantOwned, Base):
    __tablename__ = "domains"
    __table_args__ = (UniqueConstraint("tenant_id", "name"),)

    id: Mapped[Id]
    name: Mapped[str] = mapped_column(String(200))
    description: Mapped[str] = mapped_column(Text, default="")
    base_model: Mapped[str] = mapped_column(String(500))
    active_adapter_id: Mapped[str | None] = mapped_column(String(40))
    """No foreign key: adapters point at their domain, and a circle helps nobody."""
    next_version: Mapped[int] = mapped_column(default=1)
    deleted_at: Mapped[datetime.datetime | None]
    """Since then nobody sees it, and workers remove its rows step by step."""
    created_at: Mapped[Created]
    updated_at: Mapped[datetime.datetime] = mapped_column(server_default=Now(), onupdate=Now())


class StoredBytes(TenantOwned, Base):
    """Bytes of a domain's objects, counted in the transactions that add and remove them: no request has to add them up.

    A table of its own, so that counting neither locks a domain's row nor changes its entity tag.
    """

    __tablename__ = "stored_bytes"

    domain_id: Mapped[str] = mapped_column(String(40), ForeignKey("domains.id", ondelete="CASCADE"), primary_key=True)
    bytes: Mapped[int] = mapped_column(BigInteger, default=0)
