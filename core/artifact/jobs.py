"""Statuses of fine-tunes and generations, the same in the API, the database and the worker."""

from typing import Literal, get_args

EndedStatus = Literal["succeeded", "failed", "cancelled"]
JobStatus = Literal["queued", "running", EndedStatus]
ENDED: tuple[EndedStatus, ...] = get_args(EndedStatus)
