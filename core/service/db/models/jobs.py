"""Columns of every table whose rows are jobs. The row is the truth; a message is only a hint that it is there."""

import datetime

from sqlalchemy import Float, Index, String, Text, false, true
from sqlalchemy.orm import Mapped, mapped_column

from core.service.db.base import Created, Id, TenantOwned, partial_index
from core.service.tracing import current_request_id, current_traceparent


def lease_index(table: str) -> Index:
    """Returns the index of leased rows: claims, heartbeats and the reaper look for them all the time."""
    return partial_index(f"ix_{table}_leased", "lease_expires_at IS NOT NULL", "lease_expires_at")


class JobColumns(TenantOwned):
    id: Mapped[Id]
    status: Mapped[str] = mapped_column(String(20), index=True, default="queued")
    priority: Mapped[int] = mapped_column(default=0)
    attempt: Mapped[int] = mapped_column(default=0)
    """Number of the attempt, and the fence: a worker with another number can change nothing."""
    failures: Mapped[int] = mapped_column(default=0)
    """Requeues that count towards `max_attempts`, since the job last made progress that is kept."""
    requeues: Mapped[int] = mapped_column(default=0, server_default="0")
    """Count of delayed requeues since that progress. Each delay is longer than the one before."""
    not_before: Mapped[datetime.datetime | None]
    """Time before which no worker claims the row."""
    crashes: Mapped[int] = mapped_column(default=0, server_default="0")
    """Count of crashes of its worker or device while it ran alone there, since it last made progress that is kept."""
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
    """Id of the request that caused the job. Every worker that runs the job logs it."""
    traceparent: Mapped[str | None] = mapped_column(String(55), default=current_traceparent)

    @property
    def error(self) -> dict[str, str] | None:
        """Reason why it failed or waits: a stable code and a sentence."""
        return None if self.error_code is None else {"code": self.error_code, "detail": self.error_detail or ""}
