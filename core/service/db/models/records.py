"""Book-keeping: idempotency, usage, audit, objects to remove."""

import datetime
from typing import Any

from sqlalchemy import BigInteger, Date, ForeignKey, Index, Integer, String
from sqlalchemy.orm import Mapped, mapped_column

from core.service.db.base import Base, Created, Id, Now, TenantOwned


class IdempotencyKey(TenantOwned, Base):
    """First answer to a POST with this key. `status_code` is null while that request still runs."""

    __tablename__ = "idempotency_keys"

    scope: Mapped[str] = mapped_column(String(80), primary_key=True)
    """Id of the API key that sent it."""
    key: Mapped[str] = mapped_column(String(255), primary_key=True)
    tenant_id: Mapped[str | None] = mapped_column(  # type: ignore[assignment]  # None: an administrator's
        String(40), ForeignKey("tenants.id", ondelete="CASCADE"), index=True
    )
    request_digest: Mapped[str] = mapped_column(String(64))
    status_code: Mapped[int | None]
    body: Mapped[dict[str, Any] | None]
    created_at: Mapped[Created] = mapped_column(index=True)


class UsageDay(TenantOwned, Base):
    __tablename__ = "usage_days"

    tenant_id: Mapped[str] = mapped_column(String(40), ForeignKey("tenants.id", ondelete="CASCADE"), primary_key=True)
    day: Mapped[datetime.date] = mapped_column(Date, primary_key=True)
    images: Mapped[int] = mapped_column(BigInteger, default=0)
    model_evaluations: Mapped[int] = mapped_column(BigInteger, default=0)
    training_seconds: Mapped[float] = mapped_column(default=0.0)


class AuditEntry(TenantOwned, Base):
    """Entry of the audit log: append-only, until retention removes the oldest. It has no foreign keys, since it
    outlives what it refers to."""

    __tablename__ = "audit_log"
    __table_args__ = (Index(None, "tenant_id", "id"),)

    id: Mapped[int] = mapped_column(BigInteger().with_variant(Integer, "sqlite"), primary_key=True, autoincrement=True)
    tenant_id: Mapped[str | None] = mapped_column(String(40))  # type: ignore[assignment]  # None: an administrator's
    actor_key_id: Mapped[str | None] = mapped_column(String(40))
    action: Mapped[str] = mapped_column(String(60))
    target: Mapped[str] = mapped_column(String(80))
    detail: Mapped[dict[str, Any]] = mapped_column(default=dict)
    address: Mapped[str | None] = mapped_column(String(64))
    request_id: Mapped[str | None] = mapped_column(String(100))
    created_at: Mapped[Created]


class Deletion(TenantOwned, Base):
    """Receipt of a deleted domain or tenant. It is written in the commit that removed its rows; its objects follow. It
    has no foreign keys, since it outlives what it refers to."""

    __tablename__ = "deletions"

    id: Mapped[Id]
    tenant_id: Mapped[str] = mapped_column(String(40), index=True)
    kind: Mapped[str] = mapped_column(String(20))
    """domain or tenant"""
    target: Mapped[str] = mapped_column(String(40))
    actor_key_id: Mapped[str | None] = mapped_column(String(40))
    prefix: Mapped[str] = mapped_column(String(500))
    """Key prefix of the deleted objects."""
    rows: Mapped[dict[str, Any]] = mapped_column(default=dict)
    """Counts of removed database rows, by table."""
    adapters: Mapped[list[Any]] = mapped_column(default=list)
    """SHA-256 of each removed adapter."""
    objects: Mapped[int] = mapped_column(BigInteger, default=0)
    """Count of objects removed so far."""
    bytes: Mapped[int] = mapped_column(BigInteger, default=0)
    created_at: Mapped[Created]
    claimed_until: Mapped[datetime.datetime | None]
    """End of the claim of the worker that works on the deletion."""
    emptied_at: Mapped[datetime.datetime | None]
    """Time when an object was last removed under the prefix."""
    done_at: Mapped[datetime.datetime | None] = mapped_column(index=True)
    """Time when nothing was left under the prefix, and no worker held its adapters."""


class DiscardedObject(TenantOwned, Base):
    """An object whose row is gone: recorded in the transaction that removed the row, then deleted from the store."""

    __tablename__ = "discarded_objects"

    id: Mapped[int] = mapped_column(BigInteger().with_variant(Integer, "sqlite"), primary_key=True, autoincrement=True)
    tenant_id: Mapped[str] = mapped_column(String(40))
    """Not a foreign key: the object may outlive its tenant."""
    object_key: Mapped[str] = mapped_column(String(500))
    due_at: Mapped[datetime.datetime] = mapped_column(server_default=Now(), index=True)
    """Time from which it may be deleted. A worker that deletes it moves this time on, so that no other worker does
    too."""
