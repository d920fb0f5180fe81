"""A fine-tune's events, from a stream of server-sent events that may break at any byte."""

from typing import Any

from httpx_sse import ServerSentEvent
from pydantic import BaseModel, ConfigDict, TypeAdapter

from difffit.models import MetricPoint

ACTIVE = {"validating", "queued", "running"}
"""Statuses of a job that has not ended."""


class _Event(BaseModel):
    model_config = ConfigDict(extra="allow")

    id: int
    """Increases with each event; a stream can be resumed after it."""


class Status(_Event):
    status: str
    adapter_id: str | None = None
    """The new version, after success."""
    encoded_images: int | None = None


class Progress(_Event, MetricPoint):
    """Means since the previous progress event."""


class Sample(_Event):
    """An image generated with the adapter so far."""

    step: int
    url: str
    """Signed URL that expires; `finetunes.sample` takes the event's id instead."""


class Failure(_Event):
    code: str
    detail: str


Event = Status | Progress | Sample | Failure
_KINDS: dict[str, TypeAdapter[Any]] = {
    "status": TypeAdapter(Status),
    "progress": TypeAdapter(Progress),
    "sample": TypeAdapter(Sample),
    "error": TypeAdapter(Failure),
}


class EventStream:
    """Position in a stream. One connection after the other feeds it; each resumes behind `last_id`."""

    def __init__(self, after: int) -> None:
        self.last_id = after
        self.ended = False

    def headers(self) -> dict[str, str]:
        """Returns the headers of the next connection."""
        return {"Accept": "text/event-stream", "Last-Event-ID": str(self.last_id)}

    def read(self, sent: ServerSentEvent) -> Event | None:
        """Returns the event; None for a heartbeat, and for a kind that only newer versions know."""
        if not sent.data:
            return None
        self.last_id = int(sent.id)
        kind = _KINDS.get(sent.event)
        if kind is None:
            return None
        event: Event = kind.validate_python({**sent.json(), "id": self.last_id})
        self.ended = isinstance(event, Status) and event.status not in ACTIVE
        return event
