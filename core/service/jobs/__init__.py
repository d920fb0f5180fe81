"""Jobs. The row is the truth, the message is a hint.

The insert of a job's row is the outbox; its message is sent after the commit, and may be lost. A worker claims a row by
compare-and-set and gets an attempt number: the fence. Every later write checks the fence, so that a worker that was
assumed dead changes nothing when it comes back. All times come from the database.

`rows` defines jobs and how they end, `claims` chooses the next row for a worker, `ladder` handles unsuccessful
attempts.
"""

from core.service.jobs.claims import claim_next, should_drain
from core.service.jobs.ladder import (
    Settled,
    backoff_seconds,
    is_told_to_wait,
    reap,
    requeue,
    requeue_counted,
    requeue_later,
    settle,
)
from core.service.jobs.rows import (
    KINDS,
    Claim,
    Dispatcher,
    JobRow,
    Kind,
    dispatch,
    fail,
    finish,
    guarded,
    heartbeat,
    keep_progress,
    report,
    request_cancel,
)

__all__ = [
    "KINDS",
    "Claim",
    "Dispatcher",
    "JobRow",
    "Kind",
    "Settled",
    "backoff_seconds",
    "claim_next",
    "dispatch",
    "fail",
    "finish",
    "guarded",
    "heartbeat",
    "is_told_to_wait",
    "keep_progress",
    "reap",
    "report",
    "request_cancel",
    "requeue",
    "requeue_counted",
    "requeue_later",
    "settle",
    "should_drain",
]
