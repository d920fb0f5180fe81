"""Tables for bookkeeping: idempotency keys, usage, the audit log, deletions, and objects to delete."""

import datetime
from typing import Any

from sqlalchemy import BigInteger, Date, ForeignKey, Index, Integer, String
from sqlalchemy.orm import Mapped, mapped_column

from core.service.db.base import Base, Created, Id, Now, TenantOwned


class IdempotencyKey(TenantOwned, Base):
    """Response to the first POST request with an idempotency key. `status_code` is null while that request is
    running."""

    __tablename__ = "idempotency_keys"
    __table_args__ = (Index(None, "tenant_id", "object_id"), Index(None, "tenant_id", "object_domain_id"))

    scope: Mapped[str] = mapped_column(String(80), primary_key=True)
    """Id of the API key that sent the request."""
    key: Mapped[str] = mapped_column(String(255), primary_key=True)
    tenant_id: Mapped[str | None] = mapped_column(  # type: ignore[assignment]  # None: an administrator's
        String(40), ForeignKey("tenants.id", ondelete="CASCADE")
    )
    request_digest: Mapped[str] = mapped_column(String(64))
    target: Mapped[str | None] = mapped_column(String(80))
    """Id of the object that the request created or changed, written in the same transaction."""
    status_code: Mapped[int | None]
    body: Mapped[dict[str, Any] | None]
    object_id: Mapped[str | None] = mapped_column(String(80))
    """The response's `id`. None for a response with a list, and for one that an earlier release stored."""
    object_domain_id: Mapped[str | None] = mapped_column(String(40))
    """The response's `domain_id`, if it has one."""
    created_at: Mapped[Created] = mapped_column(index=True)


class UsageDay(TenantOwned, Base):
    """Usage of one tenant on one day (UTC): counts, without personal data."""

    __tablename__ = "usage_days"

    tenant_id: Mapped[str] = mapped_column(String(40), primary_key=True)
    """Id of the tenant. Not a foreign key, since bills need the usage of a deleted tenant too."""
    day: Mapped[datetime.date] = mapped_column(Date, primary_key=True)
    images: Mapped[int] = mapped_column(BigInteger, default=0)
    model_evaluations: Mapped[int] = mapped_column(BigInteger, default=0)
    training_seconds: Mapped[float] = mapped_column(default=0.0)


class AuditEntry(TenantOwned, Base):
    """Entry of the audit log, which is append-only until retention deletes the oldest entries. It has no foreign keys,
    since an entry outlives the rows that it refers to."""

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
    """Record of the deletion of a domain, tenant or other object, created in the transaction that deletes or hides it.
    Workers then delete remaining rows and the stored objects. It has no foreign keys, since it outlives the
    rows that it refers to."""

    __tablename__ = "deletions"

    id: Mapped[Id]
    tenant_id: Mapped[str] = mapped_column(String(40), index=True)
    kind: Mapped[str] = mapped_column(String(20))
    """Kind of the deleted row, such as `domain`."""
    target: Mapped[str] = mapped_column(String(40))
    actor_key_id: Mapped[str | None] = mapped_column(String(40))
    prefix: Mapped[str] = mapped_column(String(500))
    """Prefix of the storage keys of the objects to delete."""
    rows: Mapped[dict[str, Any]] = mapped_column(default=dict)
    """Number of deleted database rows, by table."""
    adapters: Mapped[list[Any]] = mapped_column(default=list)
    """SHA-256 of each deleted adapter."""
    objects: Mapped[int] = mapped_column(BigInteger, default=0)
    """Number of objects deleted so far."""
    bytes: Mapped[int] = mapped_column(BigInteger, default=0)
    created_at: Mapped[Created]
    claimed_until: Mapped[datetime.datetime | None]
    """Time until which a worker has claimed the deletion; a past time is the end of the last claim."""
    emptied_at: Mapped[datetime.datetime | None]
    """Time of the last pass that deleted objects under the prefix, or of the first pass if there were no objects."""
    done_at: Mapped[datetime.datetime | None] = mapped_column(index=True)
    """Time when the deletion was complete: no object was left under the prefix, and no worker held the deleted
    adapters."""


class DiscardedObject(TenantOwned, Base):
    """Stored object whose database row was deleted. It is recorded in the transaction that deletes the row, and deleted
    from the object store afterwards."""

    __tablename__ = "discarded_objects"

    id: Mapped[int] = mapped_column(BigInteger().with_variant(Integer, "sqlite"), primary_key=True, autoincrement=True)
    tenant_id: Mapped[str] = mapped_column(String(40))
    """Id of the object's tenant. Not a foreign key, since the object may outlive its tenant."""
    object_key: Mapped[str] = mapped_column(String(500))
    due_at: Mapped[datetime.datetime] = mapped_column(server_default=Now(), index=True)
    """Time from which the object may be deleted. A worker that deletes the object first moves this time forward, so
    that no other worker deletes it too."""
