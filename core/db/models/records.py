"""Book-keeping: idempotency, usage, audit, objects to remove."""

import datetime
from typing import Any

from sqlalchemy import BigInteger, Date, ForeignKey, Index, Integer, String
from sqlalchemy.orm import Mapped, mapped_column

from core.db.base import Base, Created, Id, Now


class IdempotencyKey(Base):
    """The first answer to a POST with this key. `status_code` is null while that request still runs."""

    __tablename__ = "idempotency_keys"

    scope: Mapped[str] = mapped_column(String(80), primary_key=True)
    """The API key that sent it."""
    key: Mapped[str] = mapped_column(String(255), primary_key=True)
    tenant_id: Mapped[str | None] = mapped_column(String(40), ForeignKey("tenants.id", ondelete="CASCADE"), index=True)
    """None: an administrator's."""
    request_digest: Mapped[str] = mapped_column(String(64))
    status_code: Mapped[int | None]
    body: Mapped[dict[str, Any] | None]
    created_at: Mapped[Created] = mapped_column(index=True)


class UsageDay(Base):
    __tablename__ = "usage_days"

    tenant_id: Mapped[str] = mapped_column(String(40), ForeignKey("tenants.id", ondelete="CASCADE"), primary_key=True)
    day: Mapped[datetime.date] = mapped_column(Date, primary_key=True)
    images: Mapped[int] = mapped_column(BigInteger, default=0)
    row_steps: Mapped[int] = mapped_column(BigInteger, default=0)
    training_seconds: Mapped[float] = mapped_column(default=0.0)


class AuditEntry(Base):
    """Append-only, until retention removes the oldest. No foreign keys: the record outlives what it speaks of."""

    __tablename__ = "audit_log"
    __table_args__ = (Index(None, "tenant_id", "id"),)

    id: Mapped[int] = mapped_column(BigInteger().with_variant(Integer, "sqlite"), primary_key=True, autoincrement=True)
    tenant_id: Mapped[str | None] = mapped_column(String(40))
    actor_key_id: Mapped[str | None] = mapped_column(String(40))
    action: Mapped[str] = mapped_column(String(60))
    target: Mapped[str] = mapped_column(String(80))
    detail: Mapped[dict[str, Any]] = mapped_column(default=dict)
    address: Mapped[str | None] = mapped_column(String(64))
    request_id: Mapped[str | None] = mapped_column(String(100))
    created_at: Mapped[Created]


class Deletion(Base):
    """The receipt of a domain or tenant that is gone, written in the commit that removed its rows; its objects follow.
    No foreign keys: it outlives what it speaks of."""

    __tablename__ = "deletions"

    id: Mapped[Id]
    tenant_id: Mapped[str] = mapped_column(String(40), index=True)
    kind: Mapped[str] = mapped_column(String(20))
    """domain or tenant"""
    target: Mapped[str] = mapped_column(String(40))
    actor_key_id: Mapped[str | None] = mapped_column(String(40))
    prefix: Mapped[str] = mapped_column(String(500))
    """Of the objects."""
    rows: Mapped[dict[str, Any]] = mapped_column(default=dict)
    """How many there were, by table."""
    adapters: Mapped[list[Any]] = mapped_column(default=list)
    """SHA-256 of each."""
    objects: Mapped[int] = mapped_column(BigInteger, default=0)
    """Removed so far."""
    bytes: Mapped[int] = mapped_column(BigInteger, default=0)
    created_at: Mapped[Created]
    claimed_until: Mapped[datetime.datetime | None]
    """Until then a worker is at it."""
    emptied_at: Mapped[datetime.datetime | None]
    """When something was last removed under the prefix."""
    done_at: Mapped[datetime.datetime | None] = mapped_column(index=True)
    """When nothing was left there, and no worker held its adapters."""


class DiscardedObject(Base):
    """An object whose row is gone: recorded in the transaction that removed the row, then deleted from the store."""

    __tablename__ = "discarded_objects"

    id: Mapped[int] = mapped_column(BigInteger().with_variant(Integer, "sqlite"), primary_key=True, autoincrement=True)
    tenant_id: Mapped[str] = mapped_column(String(40))
    """No foreign key: the object is there until it is deleted, whatever became of the tenant."""
    object_key: Mapped[str] = mapped_column(String(500))
    due_at: Mapped[datetime.datetime] = mapped_column(server_default=Now(), index=True)
    """When it may be deleted. A worker that is at it moves this on, so that no other one is."""
