"""Columns of every table whose rows are jobs. The database row is authoritative; a queue's message is only a hint that
a row is waiting."""

import datetime

from sqlalchemy import Float, Index, String, Text, false, true
from sqlalchemy.orm import Mapped, mapped_column

from core.service.db.base import Created, DomainOwned, Id, partial_index
from core.service.tracing import current_request_id, current_traceparent


def lease_index(table: str) -> Index:
    """Returns a partial index of a table's leased rows, which claims, heartbeats and the reaper query all the time."""
    return partial_index(f"ix_{table}_leased", "lease_expires_at IS NOT NULL", "lease_expires_at")


class JobColumns(DomainOwned):
    id: Mapped[Id]
    status: Mapped[str] = mapped_column(String(20), index=True, default="queued")
    priority: Mapped[int] = mapped_column(default=0)
    attempt: Mapped[int] = mapped_column(default=0)
    """Number of the current attempt, which is also the fencing token: a worker whose claim has another number can no
    longer change the row."""
    failures: Mapped[int] = mapped_column(default=0)
    """Count of requeues that count towards `max_attempts`, since the job last made progress that the next attempt
    continues from."""
    requeues: Mapped[int] = mapped_column(default=0, server_default="0")
    """Count of delayed requeues since the job last made progress that the next attempt continues from. Delays grow with
    this count."""
    not_before: Mapped[datetime.datetime | None]
    """Time before which no worker claims the job."""
    crashes: Mapped[int] = mapped_column(default=0, server_default="0")
    """Count of crashes of the worker or its device while the worker held no other job, since the job last made progress
    that the next attempt continues from."""
    suspect: Mapped[bool] = mapped_column(default=False, server_default=false())
    """Whether a worker or device crashed while running the job, perhaps because of it. Such a job runs alone on a
    worker until it ends or makes progress that the next attempt continues from."""
    alone: Mapped[bool] = mapped_column(default=True, server_default=true())
    """Whether the worker has held no other job during this attempt."""
    worker_id: Mapped[str | None] = mapped_column(String(80))
    lease_expires_at: Mapped[datetime.datetime | None]
    cancel_requested_at: Mapped[datetime.datetime | None]
    started_at: Mapped[datetime.datetime | None]
    finished_at: Mapped[datetime.datetime | None]
    error_code: Mapped[str | None] = mapped_column(String(60))
    error_detail: Mapped[str | None] = mapped_column(Text)
    created_at: Mapped[Created]
    seconds: Mapped[float] = mapped_column(Float, default=0.0)
    """Device time spent on the job, in seconds."""
    request_id: Mapped[str | None] = mapped_column(String(100), default=current_request_id)
    """Id of the API request that created the job. Every worker that runs the job logs this id."""
    traceparent: Mapped[str | None] = mapped_column(String(55), default=current_traceparent)

    @property
    def error(self) -> dict[str, str] | None:
        """Reason why the job failed or waits: a stable code and a sentence. None if there is no such reason."""
        return None if self.error_code is None else {"code": self.error_code, "detail": self.error_detail or ""}
