import json
from typing import Annotated, Any, Literal

from pydantic import Field

from api.schemas.common import Description, Input, Integer, Output, Time, optional
from core.service.db.models import WebhookDelivery
from core.service.webhooks.events import EventType

Url = Annotated[str, Field(min_length=1, max_length=2000, pattern="^[!-~]+$", examples=["https://example.com/hooks"])]
Events = Annotated[list[EventType], Field(fail_fast=True, max_length=50, examples=[["finetune.succeeded"]])]
WebhookStatus = Literal["enabled", "disabled"]
DeliveryStatus = Literal["pending", "succeeded", "failed"]


class WebhookCreate(Input):
    url: Url = Field(description="Starts with https:// and resolves to a public address.")
    events: Events | None = Field(
        None,
        description="Event types to send. All by default. With an empty list, only the ends of generations whose "
        "`webhook_id` names this webhook.",
    )
    description: Description = Field("", description="Free text.")


class WebhookChange(Input):
    """Changes of a webhook. Omitted fields do not change."""

    url: Url = optional("Starts with https:// and resolves to a public address.")
    events: Events | None = optional("Event types to send; null means all. An empty list is as in a new webhook.")
    description: Description = optional("Free text.")
    enabled: bool = optional("Whether events are sent. Pending deliveries are stored for 30 days by default.")


class WebhookRotate(Input):
    overlap_seconds: Integer = Field(
        86_400, ge=0, le=30 * 86_400, description="Seconds for which the old secret also signs."
    )


class WebhookReason(Output):
    code: str = Field(description="Stable code: `failing`, or `gone` after a response of 410.", examples=["failing"])
    detail: str


class WebhookOut(Output):
    id: str = Field(examples=["wh_01m84b6j6k1yq7c2b7m4z5d3xw"])
    url: str
    events: list[str] | None = Field(description="Null means all.")
    description: str
    status: WebhookStatus
    disabled_reason: WebhookReason | None = Field(description="Reason why the service disabled the webhook.")
    last_success_at: Time | None
    created_at: Time
    updated_at: Time


class WebhookIssued(WebhookOut):
    secret: str | None = Field(
        None,
        description="Secret that verifies signatures, returned only once: a replay of the request has null.",
        examples=["whsec_…"],
    )


class DeliveryAttemptOut(Output):
    at: Time
    response_status: int | None = Field(description="Null when there was no response.")
    code: str | None = Field(description="Reason for the failure; null on success.", examples=["timed_out"])
    detail: str | None
    seconds: float


class DeliveryOut(Output):
    id: str = Field(description="Sent as `webhook-id` with every attempt.", examples=["msg_01m84b6j6k1yq7c2b7m4z5d3xw"])
    webhook_id: str
    url: str | None = Field(description="URL of the generation's own, which is used instead of the webhook's; or null.")
    type: str = Field(examples=["finetune.succeeded"])
    status: DeliveryStatus
    attempts: list[DeliveryAttemptOut] = Field(description="The last 20 attempts, oldest first.")
    next_attempt_at: Time | None = Field(description="Null when no attempt is planned.")
    created_at: Time
    finished_at: Time | None


class DeliveryDetailOut(DeliveryOut):
    payload: dict[str, Any] = Field(description="Body that is sent.")

    @classmethod
    def of(cls, row: WebhookDelivery) -> "DeliveryDetailOut":
        shown = DeliveryOut.model_validate(row).model_dump()
        return cls(**shown, payload=json.loads(row.body))
