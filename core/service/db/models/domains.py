"""Tables of domains: the image styles that tenants fine-tune adapters for."""

import datetime

from sqlalchemy import BigInteger, ForeignKey, String, Text, UniqueConstraint, true
from sqlalchemy.orm import Mapped, mapped_column

from core.service.db.base import Base, Created, DomainOwned, Id, Now, TenantOwned, partial_index


class Domain(TenantOwned, Base):
    __tablename__ = "domains"
    __table_args__ = (
        UniqueConstraint("tenant_id", "name"),
        partial_index("ix_domains_deleted", "deleted_at IS NOT NULL", "tenant_id", "id"),
    )

    id: Mapped[Id]
    name: Mapped[str] = mapped_column(String(200))
    description: Mapped[str] = mapped_column(Text, default="")
    base_model: Mapped[str] = mapped_column(String(500))
    active_adapter_id: Mapped[str | None] = mapped_column(String(40))
    """Id of the promoted adapter, which generations use by default. Not a foreign key, since adapters have a foreign
    key to their domain, and a cycle of foreign keys would complicate inserts and deletions."""
    next_version: Mapped[int] = mapped_column(default=1)
    keep_image_days: Mapped[int | None]
    """Days to keep images, from the end of their generation on. None means as long as the tenant does."""
    keep_favourites: Mapped[bool] = mapped_column(default=True, server_default=true())
    """Whether favourites are kept when `keep_image_days` have passed."""
    deleted_at: Mapped[datetime.datetime | None]
    """Time when the domain was deleted. Since then neither look-ups return it nor do its tenant's sessions see its
    rows, and workers delete them step by step."""
    created_at: Mapped[Created]
    updated_at: Mapped[datetime.datetime] = mapped_column(server_default=Now(), onupdate=Now())


class StoredBytes(DomainOwned, Base):
    """Total bytes of a domain's stored objects. Each transaction that adds or removes objects updates the total, so
    that no request has to sum the objects' sizes.

    The total has its own table, so that an update neither locks the domain's row nor changes the domain's ETag.
    """

    __tablename__ = "stored_bytes"

    domain_id: Mapped[str] = mapped_column(String(40), ForeignKey("domains.id", ondelete="CASCADE"), primary_key=True)
    bytes: Mapped[int] = mapped_column(BigInteger, default=0)
