"""Waiting for jobs: polls a job until it has ended."""

import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

from difffit._async.backend import sleep
from difffit.errors import JobFailed, WaitTimeout
from difffit.events import ACTIVE
from difffit.models import Dataset, Finetune, Generation

Job = TypeVar("Job", Dataset, Finetune, Generation)
_SUCCESSFUL = {"ready", "succeeded"}
_FIRST_SECONDS, MAX_SECONDS = 0.1, 2.0
"""Seconds between the first two polls, and the maximum between later polls."""


async def ended(
    kind: str,
    get: Callable[[], Awaitable[Job]],
    timeout: float | None,
    on_change: Callable[[Job], object] | None = None,
    max_pause: float = MAX_SECONDS,
) -> Job:
    """Polls a job by calling `get`, and returns the job once it has succeeded. Calls `on_change` with each polled
    state. The pauses between polls grow to `max_pause` seconds.

    Raises JobFailed if the job ended without success, and WaitTimeout after `timeout` seconds.
    """
    started, pause = time.monotonic(), _FIRST_SECONDS
    while True:
        job = await get()
        if on_change is not None:
            on_change(job)
        if job.status not in ACTIVE:
            break
        if timeout is not None and time.monotonic() - started + pause > timeout:
            raise WaitTimeout(job.id, job.status, timeout)
        await sleep(pause)
        pause = min(max_pause, pause * 1.5)
    if job.status not in _SUCCESSFUL:
        raise JobFailed(kind, job)
    return job
