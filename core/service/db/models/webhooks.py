"""Webhooks of tenants, and the deliveries of events to them."""

import datetime
from typing import Any

from sqlalchemy import ForeignKey, Index, String, Text
from sqlalchemy.orm import Mapped, mapped_column

from core.service.db.base import Base, Created, Id, Json, Now, TenantOwned


class Webhook(TenantOwned, Base):
    __tablename__ = "webhooks"

    id: Mapped[Id]
    url: Mapped[str] = mapped_column(String(2000))
    description: Mapped[str] = mapped_column(Text, default="")
    events: Mapped[list[Any] | None] = mapped_column(Json)
    """Event types to deliver. None means every type, future ones included."""
    secret: Mapped[str] = mapped_column(String(100))
    """Secret in plain text, since it must sign. Database roles and row-level security protect it, and no answer shows
    it except the one to its creation."""
    previous_secrets: Mapped[list[Any]] = mapped_column(default=list)
    """[{secret, expires_at}]: earlier secrets, which also sign until they expire."""
    status: Mapped[str] = mapped_column(String(20), default="enabled")
    """enabled or disabled"""
    disabled_code: Mapped[str | None] = mapped_column(String(60))
    disabled_detail: Mapped[str | None] = mapped_column(Text)
    last_success_at: Mapped[datetime.datetime | None]
    created_at: Mapped[Created]
    updated_at: Mapped[datetime.datetime] = mapped_column(server_default=Now(), onupdate=Now())

    @property
    def disabled_reason(self) -> dict[str, str] | None:
        """Reason why the service disabled it: a stable code and a sentence."""
        return (
            None if self.disabled_code is None else {"code": self.disabled_code, "detail": self.disabled_detail or ""}
        )


class WebhookDelivery(TenantOwned, Base):
    """Delivery of one event to one webhook. It is inserted in the commit of the event itself: the row is the outbox."""

    __tablename__ = "webhook_deliveries"
    __table_args__ = (Index("ix_webhook_deliveries_due", "status", "next_attempt_at"), Index(None, "webhook_id", "id"))

    id: Mapped[Id]
    """Id of the delivery, and `webhook-id` of every attempt."""
    webhook_id: Mapped[str] = mapped_column(String(40), ForeignKey("webhooks.id", ondelete="CASCADE"))
    type: Mapped[str] = mapped_column(String(60))
    body: Mapped[str] = mapped_column(Text)
    """Exact bytes that are sent and signed."""
    status: Mapped[str] = mapped_column(String(20), default="pending")
    """pending, succeeded or failed"""
    attempt: Mapped[int] = mapped_column(default=0)
    """Number of the attempt, and the fence: a worker with another number can change nothing."""
    failures: Mapped[int] = mapped_column(default=0)
    """Count of failures in a row, since it was created or requested again."""
    attempts: Mapped[list[Any]] = mapped_column(default=list)
    """[{at, response_status, code, detail, seconds}], the latest last"""
    next_attempt_at: Mapped[datetime.datetime | None]
    lease_expires_at: Mapped[datetime.datetime | None] = mapped_column(index=True)
    created_at: Mapped[Created] = mapped_column(index=True)
    finished_at: Mapped[datetime.datetime | None]
