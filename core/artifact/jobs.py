"""Statuses of fine-tunes and generations, the same in the API, the database and the worker."""

from typing import Literal, get_args

EndedStatus = Literal["succeeded", "failed", "cancelled"]
UnfinishedStatus = Literal["queued", "running"]
JobStatus = Literal[UnfinishedStatus, EndedStatus]
ENDED: tuple[EndedStatus, ...] = get_args(EndedStatus)
UNFINISHED: tuple[UnfinishedStatus, ...] = get_args(UnfinishedStatus)
