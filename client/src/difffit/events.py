"""Events of a fine-tune, parsed from server-sent events. A stream may break at any byte and be resumed."""

from typing import Any

from httpx_sse import ServerSentEvent
from pydantic import BaseModel, ConfigDict, TypeAdapter

from difffit.models import EvaluationPoint, MetricPoint

ACTIVE = {"validating", "queued", "running"}
"""Statuses of jobs that have not ended yet."""


class _Event(BaseModel):
    model_config = ConfigDict(extra="allow")

    id: int
    """Number of the event, which increases along the stream. A stream can be resumed after any event."""

    def __str__(self) -> str:
        """Returns the event with its kind, which pydantic's own text leaves out."""
        return repr(self)


class Status(_Event):
    status: str
    adapter_id: str | None = None
    """Id of the new adapter, once the fine-tune has succeeded."""
    encoded_images: int | None = None
    adapter_step: int | None = None
    """Training step that the new adapter is of, once the fine-tune has succeeded."""
    stop_reason: str | None = None
    """Reason why training ended, once the fine-tune has succeeded: `all_steps` or `early_stopping`."""


class Progress(_Event, MetricPoint):
    """Training progress: the mean loss and the device seconds since the previous progress event, and the gradient norm
    of the latest training step."""


class Evaluation(_Event, EvaluationPoint):
    """Loss of the adapter on held-out images after training step `step`, and the step with the lowest loss so far."""


class Sample(_Event):
    """Sample image, generated during training with the adapter as it is after training step `step`."""

    step: int
    url: str
    """Signed URL of the PNG, which expires. `finetunes.sample` downloads the PNG by the event's id instead."""


class Failure(_Event):
    code: str
    detail: str


Event = Status | Progress | Evaluation | Sample | Failure
_KINDS: dict[str, TypeAdapter[Any]] = {
    "status": TypeAdapter(Status),
    "progress": TypeAdapter(Progress),
    "evaluation": TypeAdapter(Evaluation),
    "sample": TypeAdapter(Sample),
    "error": TypeAdapter(Failure),
}


class EventStream:
    """Position in the event stream of a fine-tune, kept across connections: each new connection resumes after event
    `last_id`."""

    def __init__(self, after: int) -> None:
        self.last_id = after
        self.ended = False

    def headers(self) -> dict[str, str]:
        """Returns the request headers with which the next connection resumes the stream."""
        return {"Accept": "text/event-stream", "Last-Event-ID": str(self.last_id)}

    def read(self, sent: ServerSentEvent) -> Event | None:
        """Parses a server-sent event and stores its id in `last_id`. Returns None for a heartbeat, and for an event
        type that this version of the SDK does not know."""
        if not sent.data:
            return None
        self.last_id = int(sent.id)
        kind = _KINDS.get(sent.event)
        if kind is None:
            return None
        event: Event = kind.validate_python({**sent.json(), "id": self.last_id})
        self.ended = isinstance(event, Status) and event.status not in ACTIVE
        return event
