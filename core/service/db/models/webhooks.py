"""Tables of tenants' webhooks, and of the deliveries of events to them."""

import datetime
from typing import Any

from sqlalchemy import ForeignKey, Index, String, Text
from sqlalchemy.orm import Mapped, mapped_column

from core.service.db.base import Base, Created, Id, Json, Now, TenantOwned, partial_index


class Webhook(TenantOwned, Base):
    __tablename__ = "webhooks"

    id: Mapped[Id]
    url: Mapped[str] = mapped_column(String(2000))
    description: Mapped[str] = mapped_column(Text, default="")
    events: Mapped[list[Any] | None] = mapped_column(Json)
    """Event types to deliver. None means every type, including those added in future. A webhook of an empty list is
    sent only the ends of generations that name it."""
    secret: Mapped[str] = mapped_column(String(100))
    """Signing secret, in plain text, since the service signs with it. Database roles and row-level security protect it.
    Only the responses that create the webhook or rotate its secret contain it."""
    previous_secrets: Mapped[list[Any]] = mapped_column(default=list)
    """Earlier signing secrets: [{secret, expires_at}]. Deliveries are also signed with each of them until it
    expires."""
    status: Mapped[str] = mapped_column(String(20), default="enabled")
    """Status of the webhook: enabled or disabled."""
    disabled_code: Mapped[str | None] = mapped_column(String(60))
    disabled_detail: Mapped[str | None] = mapped_column(Text)
    last_success_at: Mapped[datetime.datetime | None]
    created_at: Mapped[Created]
    updated_at: Mapped[datetime.datetime] = mapped_column(server_default=Now(), onupdate=Now())

    @property
    def disabled_reason(self) -> dict[str, str] | None:
        """Reason why the service disabled the webhook: a stable code and a sentence. None if the service did not
        disable it."""
        return (
            None if self.disabled_code is None else {"code": self.disabled_code, "detail": self.disabled_detail or ""}
        )


class WebhookDelivery(TenantOwned, Base):
    """Delivery of one event to one webhook. The row is inserted in the same transaction as the event's own change
    (transactional outbox), so that no event is lost."""

    __tablename__ = "webhook_deliveries"
    __table_args__ = (
        partial_index("ix_webhook_deliveries_pending", "status = 'pending'", "webhook_id", "next_attempt_at", "id"),
        Index(None, "webhook_id", "id"),
    )

    id: Mapped[Id]
    """Id of the delivery, sent in the `webhook-id` header of every attempt."""
    webhook_id: Mapped[str] = mapped_column(String(40), ForeignKey("webhooks.id", ondelete="CASCADE"))
    url: Mapped[str | None] = mapped_column(String(2000))
    """URL of this delivery, if a generation asked for another one than the webhook's."""
    type: Mapped[str] = mapped_column(String(60))
    body: Mapped[str] = mapped_column(Text)
    """JSON text that is signed and sent, unchanged."""
    status: Mapped[str] = mapped_column(String(20), default="pending")
    """Status of the delivery: pending, succeeded or failed."""
    attempt: Mapped[int] = mapped_column(default=0)
    """Number of the current attempt, which is also the fencing token: a worker whose attempt has another number can no
    longer change the row."""
    failures: Mapped[int] = mapped_column(default=0)
    """Count of consecutive failed attempts since the delivery was created or requested again."""
    attempts: Mapped[list[Any]] = mapped_column(default=list)
    """Log of the attempts, oldest first: [{at, response_status, code, detail, seconds}]."""
    next_attempt_at: Mapped[datetime.datetime | None]
    lease_expires_at: Mapped[datetime.datetime | None] = mapped_column(index=True)
    created_at: Mapped[Created] = mapped_column(index=True)
    finished_at: Mapped[datetime.datetime | None]
