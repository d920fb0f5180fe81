import json
from typing import Annotated, Any, Literal

from pydantic import Field

from api.schemas.common import Description, Input, Integer, Output, Time, optional
from core.service.db.models import WebhookDelivery
from core.service.webhooks.events import EventType

Url = Annotated[str, Field(min_length=1, max_length=2000, pattern="^[!-~]+$", examples=["https://example.com/hooks"])]
Events = Annotated[
    list[EventType], Field(fail_fast=True, min_length=1, max_length=50, examples=[["finetune.succeeded"]])
]
WebhookStatus = Literal["enabled", "disabled"]
DeliveryStatus = Literal["pending", "succeeded", "failed"]


class WebhookCreate(Input):
    url: Url = Field(description="Begins with https:// and leads to a public address.")
    events: Events | None = Field(None, description="What to hear of; everything when left out.")
    description: Description = Field("", description="For people.")


class WebhookChange(Input):
    """Fields that are left out stay as they are."""

    url: Url = optional("Begins with https:// and leads to a public address.")
    events: Events | None = optional("What to hear of; null for everything.")
    description: Description = optional("For people.")
    enabled: bool = optional("Whether it hears of anything. What waits for it stays, for 30 days.")


class WebhookRotate(Input):
    overlap_seconds: Integer = Field(
        86_400, ge=0, le=30 * 86_400, description="How long the old secret signs beside the new one."
    )


class WebhookReason(Output):
    code: str = Field(description="Stable: `failing`, or `gone` after an answer of 410.", examples=["failing"])
    detail: str


class WebhookOut(Output):
    id: str = Field(examples=["wh_01m84b6j6k1yq7c2b7m4z5d3xw"])
    url: str
    events: list[str] | None = Field(description="Null for everything.")
    description: str
    status: WebhookStatus
    disabled_reason: WebhookReason | None = Field(description="Why the service disabled it by itself.")
    last_success_at: Time | None
    created_at: Time
    updated_at: Time


class WebhookIssued(WebhookOut):
    secret: str | None = Field(
        None,
        description="Verifies signatures; shown this once: a replay of the same request has null.",
        examples=["whsec_…"],
    )


class DeliveryAttemptOut(Output):
    at: Time
    response_status: int | None = Field(description="Null when there was no answer.")
    code: str | None = Field(description="Why it failed; null when it did not.", examples=["timed_out"])
    detail: str | None
    seconds: float


class DeliveryOut(Output):
    id: str = Field(description="`webhook-id` of every attempt.", examples=["msg_01m84b6j6k1yq7c2b7m4z5d3xw"])
    webhook_id: str
    type: str = Field(examples=["finetune.succeeded"])
    status: DeliveryStatus
    attempts: list[DeliveryAttemptOut] = Field(description="The last 20, the latest last.")
    next_attempt_at: Time | None = Field(description="Null when there is none.")
    created_at: Time
    finished_at: Time | None


class DeliveryDetailOut(DeliveryOut):
    payload: dict[str, Any] = Field(description="What is sent.")

    @classmethod
    def of(cls, row: WebhookDelivery) -> "DeliveryDetailOut":
        shown = DeliveryOut.model_validate(row).model_dump()
        return cls(**shown, payload=json.loads(row.body))
