"""A fine-tune's events, out of a stream of server-sent events that may break at any byte."""

from collections.abc import Iterator
from typing import Any

from pydantic import BaseModel, ConfigDict, TypeAdapter

from difffit.models import MetricPoint

ENDED = {"succeeded", "failed", "cancelled"}


class _Event(BaseModel):
    model_config = ConfigDict(extra="allow")

    id: int
    """Counts up; a stream can be resumed behind it."""


class Status(_Event):
    status: str
    adapter_id: str | None = None
    """The new version, once it succeeded."""
    encoded_images: int | None = None


class Progress(_Event, MetricPoint):
    """Means since the progress before."""


class Sample(_Event):
    """A drawing of the adapter so far."""

    step: int
    url: str
    """Signed and expiring; `finetunes.sample` takes the event's id instead."""


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
    """What has come so far. One connection after the other feeds it; each resumes behind `last_id`."""

    def __init__(self, after: int) -> None:
        self.last_id = after
        self.ended = False
        self._buffer = b""
        self._fields: dict[str, str] = {}

    def connect(self) -> dict[str, str]:
        """Headers of the next connection. What was half sent is sent again."""
        self._buffer, self._fields = b"", {}
        return {"Accept": "text/event-stream", "Last-Event-ID": str(self.last_id)}

    def feed(self, data: bytes) -> Iterator[Event]:
        """The events that these bytes complete."""
        *lines, self._buffer = (self._buffer + data).split(b"\n")
        for line in lines:
            text = line.decode(errors="replace").rstrip("\r")
            if not text:
                fields, self._fields = self._fields, {}
                yield from self._complete(fields)
                continue
            name, _, value = text.partition(":")
            value = value.removeprefix(" ")
            if name == "data" and "data" in self._fields:
                value = f"{self._fields['data']}\n{value}"
            self._fields[name] = value  # a comment's name is empty

    def _complete(self, fields: dict[str, str]) -> Iterator[Event]:
        kind = _KINDS.get(fields.get("event", ""))
        if "data" not in fields or "id" not in fields:
            return
        self.last_id = int(fields["id"])
        if kind is None:
            return  # of a newer server
        data = TypeAdapter(dict[str, Any]).validate_json(fields["data"])
        event: Event = kind.validate_python({**data, "id": self.last_id})
        self.ended = isinstance(event, Status) and event.status in ENDED
        yield event
