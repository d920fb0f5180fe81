"""Webhook deliveries of all tenants. A worker claims a delivery with a lease and a fence, as it claims jobs. A delivery
that fails is retried for about a day.

No database session is open while a worker waits for the receiver's response: `claim` returns plain values for sending,
and `settle` writes the outcome.
"""

import datetime
import logging
import random
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Select, func, or_, select
from sqlalchemy.orm import InstrumentedAttribute, Session, aliased
from sqlalchemy.orm.attributes import flag_modified

from core.service import audit
from core.service.db.models import Webhook, WebhookDelivery
from core.service.db.session import database_now
from core.service.webhooks.service import living

logger = logging.getLogger(__name__)
MOST_ATTEMPTS = 10
_FIRST_SECONDS, _FACTOR, _MOST_SECONDS = 5.0, 4.0, 8 * 3600.0
_JITTER = 0.25
_LEASE = datetime.timedelta(seconds=60)
"""Duration of the lease on an attempt, which is longer than any attempt can take."""
_MOST_OF_A_TENANT = 4
"""Max concurrent attempts for one tenant, so that its slow receivers do not delay other tenants."""
_CANDIDATES = 20
"""Max webhooks whose oldest delivery one claim tries to lock. Other workers may have locked those of the first."""
_GONE = 410


@dataclass(frozen=True)
class Attempt:
    """Claimed attempt to deliver an event: all values that are needed to send it. `number` is the fencing token with
    which `settle` writes the outcome."""

    id: str
    webhook_id: str
    number: int
    url: str
    body: str
    secrets: tuple[str, ...]
    tenant_id: str
    claimed_at: datetime.datetime
    """Time of the claim by the database's clock, which is sent and signed as the timestamp. This host's clock is not
    used, since receivers reject a wrong time."""


@dataclass(frozen=True)
class Outcome:
    """Result of an attempt. `code` and `detail` are the reason for a failure; None for a success."""

    seconds: float
    response_status: int | None = None
    code: str | None = None
    detail: str | None = None

    @property
    def succeeded(self) -> bool:
        return self.code is None


def pause_seconds(failures: int, chance: Callable[[], float] = random.random) -> float | None:
    """Returns the seconds to wait before the next attempt, after this many consecutive failures; None if there is no
    further attempt. The pause is 5 s at first, four times as long each time, and at most 8 h. `chance` (a random number
    from 0 to 1) changes it by up to a quarter. All pauses together take about 24 h."""
    if failures >= MOST_ATTEMPTS:
        return None
    seconds = min(_MOST_SECONDS, _FIRST_SECONDS * _FACTOR ** (failures - 1))
    return seconds * (1 - _JITTER + 2 * _JITTER * chance())


def claim(session: Session, full: Collection[str] = ()) -> Attempt | None:
    """Claims the next due delivery and returns the attempt to make; None if no delivery is due. Deliveries of the
    tenant with the fewest attempts in flight go first. Tenants in `full` are skipped.

    If a worker dies, its delivery is due again when the lease expires. The time that a claim takes grows with the
    number of webhooks that have pending deliveries, but not with the number of these deliveries.
    """
    now = database_now(session)
    for webhook_id in session.scalars(_candidates(now, full)).all():
        oldest = _due(now, webhook_id).with_for_update(skip_locked=True)
        row = session.execute(oldest).scalar_one_or_none()
        if row is None:
            continue
        webhook = session.get_one(Webhook, webhook_id)
        row.attempt += 1
        row.lease_expires_at = now + _LEASE
        secrets = (webhook.secret, *(previous["secret"] for previous in reversed(living(webhook, now))))
        return Attempt(
            id=row.id,
            webhook_id=webhook.id,
            number=row.attempt,
            url=row.url or webhook.url,
            body=row.body,
            secrets=secrets,
            tenant_id=row.tenant_id,
            claimed_at=now,
        )
    return None


def _due(now: datetime.datetime, webhook_id: InstrumentedAttribute[str] | str) -> Select[WebhookDelivery]:
    """Returns the query for the delivery of a webhook that has been due for the longest time."""
    due = select(WebhookDelivery).where(
        WebhookDelivery.webhook_id == webhook_id,
        WebhookDelivery.status == "pending",
        WebhookDelivery.next_attempt_at <= now,
        or_(WebhookDelivery.lease_expires_at.is_(None), WebhookDelivery.lease_expires_at <= now),
    )
    return due.order_by(WebhookDelivery.next_attempt_at, WebhookDelivery.id).limit(1)


def _candidates(now: datetime.datetime, full: Collection[str]) -> Select[str]:
    """Returns the query for the ids of the webhooks whose deliveries may be claimed, in the order of the claims.

    Finds the webhooks that have pending deliveries by jumping in the index from each to the next, and the oldest
    delivery of each in the same index, so that a long backlog is never read."""
    leased, pending = aliased(WebhookDelivery), aliased(WebhookDelivery)
    in_flight = (
        select(leased.tenant_id, func.count().label("rows"))
        .where(leased.lease_expires_at > now)
        .group_by(leased.tenant_id)
        .subquery()
    )
    busy = func.coalesce(in_flight.c.rows, 0)
    first = select(func.min(pending.webhook_id).label("id")).where(pending.status == "pending")
    waiting = first.cte("waiting", recursive=True)
    following = first.where(pending.webhook_id > waiting.c.id).scalar_subquery()
    waiting = waiting.union_all(select(following).where(waiting.c.id.is_not(None)))
    oldest = _due(now, Webhook.id).with_only_columns(WebhookDelivery.next_attempt_at).scalar_subquery()
    return (
        select(Webhook.id)
        .join(waiting, waiting.c.id == Webhook.id)
        .outerjoin(in_flight, in_flight.c.tenant_id == Webhook.tenant_id)
        .where(
            Webhook.status == "enabled",
            Webhook.tenant_id.not_in(full),
            busy < _MOST_OF_A_TENANT,
            oldest.is_not(None),
        )
        .order_by(busy, oldest, Webhook.id)
        .limit(_CANDIDATES)
    )


def settle(session: Session, attempt: Attempt, outcome: Outcome, *, is_ours: bool = False) -> bool:
    """Writes the outcome of an attempt, and schedules the next attempt after a failure. Returns False if another
    attempt has replaced this one, or the webhook was deleted. `is_ours` means that the service's own network likely
    caused the failure: the failure is not counted, so that the pause does not grow and the webhook is not disabled."""
    # Lock the webhook before its delivery, as deleting the webhook does, since another order could deadlock. The lock
    # still allows inserts of new deliveries for the webhook.
    webhook = session.get(Webhook, attempt.webhook_id, with_for_update={"key_share": True})
    statement = select(WebhookDelivery).where(
        WebhookDelivery.id == attempt.id,
        WebhookDelivery.attempt == attempt.number,
        WebhookDelivery.lease_expires_at.is_not(None),
    )
    row = session.execute(statement.with_for_update()).scalar_one_or_none()
    if webhook is None or row is None:
        return False
    now = database_now(session)
    row.lease_expires_at = None
    row.attempts = [*row.attempts, _entry(now, outcome)][-2 * MOST_ATTEMPTS :]
    if outcome.succeeded:
        _finish(row, "succeeded", now)
    else:
        row.failures += not is_ours
        pause = pause_seconds(max(1, row.failures))
        if pause is None or outcome.response_status == _GONE:
            _finish(row, "failed", now)
        else:
            row.next_attempt_at = now + datetime.timedelta(seconds=pause)
    if row.url is None:  # the URL of a single generation says nothing about the webhook's own
        _judge(session, webhook, row, outcome, now)
    return True


def _judge(session: Session, webhook: Webhook, row: WebhookDelivery, outcome: Outcome, now: datetime.datetime) -> None:
    """Notes the success of an attempt in the webhook's row, or disables a webhook that is gone or fails for long."""
    if outcome.succeeded:
        webhook.last_success_at = now
        flag_modified(webhook, "updated_at")  # writes it unchanged: the ETag is for the settings
    elif outcome.response_status == _GONE:
        detail = "The receiver answered 410, so no more events are sent. Enable the webhook to resume."
        _disable(session, webhook, "gone", detail)
    elif row.status == "failed" and (webhook.last_success_at is None or webhook.last_success_at < row.created_at):
        detail = f"Every delivery failed since {row.created_at:%Y-%m-%d %H:%M} UTC. The latest reason: {outcome.detail}"
        _disable(session, webhook, "failing", detail)


def _finish(row: WebhookDelivery, status: str, now: datetime.datetime) -> None:
    row.status, row.finished_at, row.next_attempt_at = status, now, None


def _disable(session: Session, webhook: Webhook, code: str, detail: str) -> None:
    """Disables a webhook. Its pending deliveries stay, and are sent when the tenant enables the webhook again."""
    if webhook.status != "enabled":
        return
    webhook.status, webhook.disabled_code, webhook.disabled_detail = "disabled", code, detail
    logger.warning("webhook %s is disabled: %s", webhook.id, detail)
    audit.record(session, "webhook.disable", webhook.id, tenant_id=webhook.tenant_id, detail={"code": code})


def _entry(now: datetime.datetime, outcome: Outcome) -> dict[str, Any]:
    return {
        "at": now.isoformat(timespec="milliseconds").replace("+00:00", "Z"),
        "response_status": outcome.response_status,
        "code": outcome.code,
        "detail": outcome.detail,
        "seconds": round(outcome.seconds, 3),
    }
