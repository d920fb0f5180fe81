"""Columns of every table whose rows are jobs. The row is the truth; a message is only a hint that it is there."""

import datetime

from sqlalchemy import Float, Index, String, Text, false, true
from sqlalchemy.orm import Mapped, mapped_column

from core.db.base import Created, Id, TenantId, partial_index
from core.tracing import current_request_id, current_traceparent


def lease_index(table: str) -> Index:
    """Finds the rows that are in work: claims, heartbeats and the reaper ask for them all the time."""
    return partial_index(f"ix_{table}_leased", "lease_expires_at IS NOT NULL", "lease_expires_at")


class JobColumns:
    id: Mapped[Id]
    tenant_id: Mapped[TenantId]
    status: Mapped[str] = mapped_column(String(20), index=True, default="queued")
    priority: Mapped[int] = mapped_column(default=0)
    attempt: Mapped[int] = mapped_column(default=0)
    """The fence: a worker whose attempt is not this one any more changes nothing."""
    failures: Mapped[int] = mapped_column(default=0)
    """Requeues that count towards `max_attempts`, since the job last made progress that is kept."""
    requeues: Mapped[int] = mapped_column(default=0, server_default="0")
    """All delayed requeues since then; each delay is longer than the one before."""
    not_before: Mapped[datetime.datetime | None]
    """No worker claims the row earlier."""
    crashes: Mapped[int] = mapped_column(default=0, server_default="0")
    """How often it lost its worker or its device while alone there, since it last made progress that is kept."""
    suspect: Mapped[bool] = mapped_column(default=False, server_default=false())
    """Its worker or device died under it, perhaps of it: it runs alone until it ends or makes progress that is kept."""
    alone: Mapped[bool] = mapped_column(default=True, server_default=true())
    """Its worker has held no other row during this attempt."""
    worker_id: Mapped[str | None] = mapped_column(String(80))
    lease_expires_at: Mapped[datetime.datetime | None]
    cancel_requested_at: Mapped[datetime.datetime | None]
    started_at: Mapped[datetime.datetime | None]
    finished_at: Mapped[datetime.datetime | None]
    error_code: Mapped[str | None] = mapped_column(String(60))
    error_detail: Mapped[str | None] = mapped_column(Text)
    created_at: Mapped[Created]
    seconds: Mapped[float] = mapped_column(Float, default=0.0)
    """Device time spent on it."""
    request_id: Mapped[str | None] = mapped_column(String(100), default=current_request_id)
    """What caused it: whoever does the work, and whenever, logs this too."""
    traceparent: Mapped[str | None] = mapped_column(String(55), default=current_traceparent)

    @property
    def error(self) -> dict[str, str] | None:
        """Why it failed, or why it waits: a stable code and a sentence."""
        return None if self.error_code is None else {"code": self.error_code, "detail": self.error_detail or ""}
