"""Webhooks of a tenant: creates, changes, tests and deletes them, and lists and repeats their deliveries."""

import datetime
from dataclasses import dataclass
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from core.artifact.errors import NotFound
from core.service import audit, etags
from core.service.db.base import new_id
from core.service.db.isolation import scope_of
from core.service.db.lookup import find, require
from core.service.db.models import Webhook, WebhookDelivery
from core.service.db.paging import Page, PageRequest, fetch_page
from core.service.db.session import database_now
from core.service.errors import WebhookBacklog, WebhookDisabled, WebhookUrlRefused
from core.service.webhooks import events
from core.service.webhooks.addresses import parse
from core.service.webhooks.signing import new_secret

_MOST_SECRETS = 5
"""Max number of earlier secrets of a webhook that still sign."""


@dataclass(frozen=True)
class IssuedSecret:
    """Webhook with its new secret, which the tenant is shown only once."""

    row: Webhook
    secret: str


def create(
    session: Session, url: str, wanted: list[str] | None, description: str, *, allow_private: bool
) -> IssuedSecret:
    """Creates a webhook with a new secret, for the event types in `wanted`; None means all types. Raises
    WebhookUrlRefused for an invalid URL, or one with a private IP address."""
    parse(url, allow_private=allow_private)
    webhook = Webhook(
        id=new_id("wh"),
        tenant_id=scope_of(session).tenant,
        url=url,
        description=description,
        events=wanted,
        secret=new_secret(),
        previous_secrets=[],
        status="enabled",
    )
    session.add(webhook)
    session.flush()
    audit.record(session, "webhook.create", webhook.id, detail={"url": url, "events": wanted})
    return IssuedSecret(webhook, webhook.secret)


def get(session: Session, id: str, *, lock: bool = False) -> Webhook:
    """Returns a webhook. Raises NotFound, also for another tenant's webhook."""
    return require(session, Webhook, "webhook", id, lock=lock)


def page(session: Session, request: PageRequest) -> Page[Webhook]:
    """Returns a page of the tenant's webhooks, newest first. Raises InvalidCursor."""
    return fetch_page(session, select(Webhook), Webhook.id, request)


def change(
    session: Session, id: str, changes: dict[str, Any], seen: str | None = None, *, allow_private: bool
) -> Webhook:
    """Changes `url`, `events`, `description` or `enabled` of a webhook. `seen` is the request's If-Match header, which
    must match the webhook's ETag. Raises NotFound, WebhookUrlRefused, ChangedMeanwhile."""
    webhook = get(session, id, lock=True)
    etags.require_match(webhook, seen)
    if "url" in changes:
        parse(changes["url"], allow_private=allow_private)
    for field, value in changes.items():
        if field == "enabled":
            webhook.status = "enabled" if value else "disabled"
            webhook.disabled_code = webhook.disabled_detail = None
        else:
            setattr(webhook, field, value)
    session.flush()
    audit.record(session, "webhook.change", id, detail=changes)
    return webhook


def delete(session: Session, id: str) -> None:
    """Deletes a webhook with its deliveries. Raises NotFound."""
    session.delete(get(session, id, lock=True))
    audit.record(session, "webhook.delete", id)


def rotate(session: Session, id: str, overlap_seconds: int) -> IssuedSecret:
    """Gives a webhook a new secret, and returns both. The previous secret also signs for `overlap_seconds`. Raises
    NotFound."""
    webhook = get(session, id, lock=True)
    now = database_now(session)
    previous = living(webhook, now)
    if overlap_seconds > 0:
        ends = now + datetime.timedelta(seconds=overlap_seconds)
        previous.append({"secret": webhook.secret, "expires_at": ends.isoformat()})
    webhook.previous_secrets = previous[-_MOST_SECRETS:]
    webhook.secret = new_secret()
    session.flush()
    audit.record(session, "webhook.rotate", id, detail={"overlap_seconds": overlap_seconds})
    return IssuedSecret(webhook, webhook.secret)


def living(webhook: Webhook, now: datetime.datetime) -> list[dict[str, str]]:
    """Returns the previous secrets of a webhook that have not expired, and so still sign, the oldest first."""
    return [old for old in webhook.previous_secrets if datetime.datetime.fromisoformat(old["expires_at"]) > now]


def test(session: Session, id: str) -> WebhookDelivery:
    """Adds a delivery of the event `webhook.test`, due at once, so that the tenant can try the webhook. Raises
    NotFound, WebhookDisabled, WebhookBacklog."""
    webhook = _enabled(session, id, lock=True)
    _check_backlog(session, id)
    delivery = events.deliver(session, webhook, events.TEST, {"webhook_id": id})
    session.flush()
    session.refresh(delivery)
    audit.record(session, "webhook.test", id)
    return delivery


def deliveries(session: Session, id: str, request: PageRequest) -> Page[WebhookDelivery]:
    """Returns a page of a webhook's deliveries, newest first. Raises NotFound, InvalidCursor."""
    get(session, id)
    statement = select(WebhookDelivery).where(WebhookDelivery.webhook_id == id)
    return fetch_page(session, statement, WebhookDelivery.id, request)


def check(session: Session, id: str, url: str | None, *, allow_private: bool) -> None:
    """Checks that a webhook can be sent the end of a job, at `url` if it is given. Raises NotFound, WebhookDisabled,
    WebhookUrlRefused."""
    _enabled(session, id)
    try:
        if url is not None:
            parse(url, allow_private=allow_private)
    except WebhookUrlRefused as refused:
        raise WebhookUrlRefused(refused.reason, "webhook_url") from refused


def delivery(session: Session, id: str, delivery_id: str, *, lock: bool = False) -> WebhookDelivery:
    """Returns one delivery of a webhook. Raises NotFound."""
    row = find(session, WebhookDelivery, delivery_id, lock=lock)
    if row is None or row.webhook_id != id:
        raise NotFound("delivery", delivery_id)
    return row


def redeliver(session: Session, id: str, delivery_id: str) -> WebhookDelivery:
    """Makes a delivery due again at once, whatever its status, with as many attempts as a new delivery has. Raises
    NotFound, WebhookDisabled, WebhookBacklog."""
    _enabled(session, id, lock=True)
    row = delivery(session, id, delivery_id, lock=True)
    if row.status != "pending":
        _check_backlog(session, id)
    row.status, row.failures = "pending", 0
    row.attempt += 1  # the fence: an attempt in flight can no longer settle this delivery
    row.next_attempt_at, row.lease_expires_at, row.finished_at = database_now(session), None, None
    session.flush()
    audit.record(session, "webhook.redeliver", delivery_id, detail={"webhook_id": id})
    return row


def _enabled(session: Session, id: str, *, lock: bool = False) -> Webhook:
    webhook = get(session, id, lock=lock)
    if webhook.status != "enabled":
        raise WebhookDisabled(id)
    return webhook


def _check_backlog(session: Session, id: str) -> None:
    if events.has_backlog(session, id):
        raise WebhookBacklog(events.MOST_PENDING)
