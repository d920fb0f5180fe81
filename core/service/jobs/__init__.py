"""Jobs: validations of data sets, fine-tunes and generations, as database rows that workers run.

The database row alone decides which jobs there are; the broker's message about a job only wakes a worker. The message
is sent after the commit and may be lost, since workers also look for rows by themselves. A worker claims a row by
locking it and incrementing its attempt number. The attempt number is the fence: every later write of the worker checks
it, so that a worker that was assumed dead changes nothing when it comes back. All times come from the database's clock.

`rows` defines jobs and how they end, `claims` chooses the next job for a worker, and `ladder` decides what happens to
a job after an unsuccessful attempt.
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
