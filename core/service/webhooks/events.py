"""Events that webhooks deliver. A delivery is inserted in the transaction of its event, so that no event is lost."""

import datetime
import json
from typing import Any, Literal, get_args

from sqlalchemy import select
from sqlalchemy.orm import Session

from core.service.db.base import new_id
from core.service.db.models import Adapter, Dataset, Finetune, Generation, Webhook, WebhookDelivery
from core.service.db.session import database_now
from core.service.errors import WebhookBacklog

EventType = Literal[
    "dataset.ready",
    "dataset.rejected",
    "finetune.succeeded",
    "finetune.failed",
    "finetune.cancelled",
    "generation.succeeded",
    "generation.failed",
    "generation.cancelled",
    "adapter.created",
    "adapter.promoted",
    "adapter.quarantined",
]
TEST = "webhook.test"
MOST_PENDING = 10_000
"""Max pending deliveries of a webhook, about a day of events that a dead receiver misses. The delivery of a further
event fails at once; the tenant sees it with the reason, and can request it again later."""
Asked = tuple[str | None, str | None]
"""Id of the webhook that a job asked for, and the URL to use instead of the webhook's own."""
_NONE: Asked = (None, None)
_SUBSCRIBED = frozenset(get_args(EventType))


def job_ended(session: Session, job: Dataset | Finetune | Generation) -> None:
    """Emits the event that a job has ended. The event type, such as `finetune.failed`, follows from the row's
    status."""
    kind: str
    details: dict[str, Any]
    match job:
        case Dataset():
            kind, details = "dataset", {"images": job.images}
        case Finetune():
            kind, details = "finetune", {"dataset_id": job.dataset_id, "adapter_id": job.adapter_id}
        case Generation():
            kind, details = "generation", {"adapter_id": job.adapter_id, "count": job.count}
    common = {"id": job.id, "domain_id": job.domain_id, "status": job.status}
    asked = (job.webhook_id, job.webhook_url) if isinstance(job, Generation) else _NONE
    _emit(session, job.tenant_id, f"{kind}.{job.status}", {**common, **details, "error": job.error}, asked)


def adapter(session: Session, row: Adapter, what: Literal["created", "promoted", "quarantined"]) -> None:
    data = {"id": row.id, "domain_id": row.domain_id, "finetune_id": row.finetune_id, "version": row.version}
    _emit(session, row.tenant_id, f"adapter.{what}", {**data, "status": row.status})


def deliver(
    session: Session, webhook: Webhook, type: str, data: dict[str, Any], url: str | None = None
) -> WebhookDelivery:
    """Adds and returns a delivery of one event to one webhook, due at once. `url` replaces the webhook's own URL. The
    delivery has failed already if the webhook has too many pending deliveries."""
    now, is_full = database_now(session), has_backlog(session, webhook.id)
    body = json.dumps({"type": type, "timestamp": _rfc3339(now), "data": data}, separators=(",", ":"))
    row = WebhookDelivery(
        id=new_id("msg"),
        tenant_id=webhook.tenant_id,
        webhook_id=webhook.id,
        url=url,
        type=type,
        body=body,
        status="failed" if is_full else "pending",
        attempts=[_not_sent(now)] if is_full else [],
        next_attempt_at=None if is_full else now,
        finished_at=now if is_full else None,
    )
    session.add(row)
    return row


def has_backlog(session: Session, webhook_id: str) -> bool:
    """Returns whether a webhook has so many pending deliveries that it gets no further one."""
    pending = select(WebhookDelivery.id).where(
        WebhookDelivery.webhook_id == webhook_id, WebhookDelivery.status == "pending"
    )
    return session.execute(pending.offset(MOST_PENDING - 1).limit(1)).first() is not None


def _emit(session: Session, tenant_id: str, type: str, data: dict[str, Any], asked: Asked = _NONE) -> None:
    """Adds a delivery of an event to each webhook that is for events of its type, and to the one that the event's job
    asked for."""
    if type not in _SUBSCRIBED:
        return
    enabled = select(Webhook).where(Webhook.tenant_id == tenant_id, Webhook.status == "enabled").order_by(Webhook.id)
    # Locks the webhooks until the transaction ends: if one were deleted meanwhile, the insert of its delivery would
    # fail.
    for webhook in session.scalars(enabled.with_for_update(read=True, key_share=True)).all():
        urls: list[str | None] = [None] if webhook.events is None or type in webhook.events else []
        if webhook.id == asked[0] and asked[1] not in urls:
            urls.append(asked[1])
        for url in urls:
            deliver(session, webhook, type, data, url)


def _not_sent(now: datetime.datetime) -> dict[str, Any]:
    """Returns the entry in the log of attempts of a delivery that fails because of the backlog."""
    error = WebhookBacklog(MOST_PENDING)
    return {"at": _rfc3339(now), "response_status": None, "code": error.code, "detail": error.detail, "seconds": 0.0}


def _rfc3339(time: datetime.datetime) -> str:
    return time.isoformat(timespec="milliseconds").replace("+00:00", "Z")
