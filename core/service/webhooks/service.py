"""A tenant's webhooks."""

import datetime
from dataclasses import dataclass
from typing import Any

from sqlalchemy.orm import Session

from core.artifact.errors import NotFound
from core.service import audit
from core.service import etags as versions
from core.service.db.base import new_id
from core.service.db.models import Webhook, WebhookDelivery
from core.service.db.paging import Page, PageRequest
from core.service.db.session import database_now
from core.service.errors import WebhookDisabled
from core.service.tenancy import Scope
from core.service.webhooks import events, repository
from core.service.webhooks.addresses import parse
from core.service.webhooks.signing import new_secret

_MOST_SECRETS = 5
"""Beside the newest one."""


@dataclass(frozen=True)
class IssuedSecret:
    """A webhook with its new secret, which is shown this once."""

    row: Webhook
    secret: str


def create(
    session: Session, scope: Scope, url: str, wanted: list[str] | None, description: str, *, allow_private: bool
) -> IssuedSecret:
    """Raises WebhookUrlRefused for a URL that leads nowhere or to a private address."""
    parse(url, allow_private=allow_private)
    webhook = Webhook(
        id=new_id("wh"),
        tenant_id=scope.tenant,
        url=url,
        description=description,
        events=wanted,
        secret=new_secret(),
        previous_secrets=[],
        status="enabled",
    )
    session.add(webhook)
    session.flush()
    audit.record(session, scope, "webhook.create", webhook.id, detail={"url": url, "events": wanted})
    return IssuedSecret(webhook, webhook.secret)


def get(session: Session, scope: Scope, id: str, *, lock: bool = False) -> Webhook:
    """Raises NotFound, for another tenant's webhook too."""
    webhook = repository.get(session, scope, id, lock=lock)
    if webhook is None:
        raise NotFound("webhook", id)
    return webhook


def listing(session: Session, scope: Scope, request: PageRequest) -> Page[Webhook]:
    return repository.page(session, scope, request)


def change(
    session: Session, scope: Scope, id: str, changes: dict[str, Any], seen: str | None = None, *, allow_private: bool
) -> Webhook:
    """`url`, `events`, `description`, or `enabled`, of the state that the caller has `seen`. Raises NotFound,
    WebhookUrlRefused, ChangedMeanwhile."""
    webhook = get(session, scope, id, lock=True)
    versions.demand(webhook, seen)
    if "url" in changes:
        parse(changes["url"], allow_private=allow_private)
    for field, value in changes.items():
        if field == "enabled":
            webhook.status = "enabled" if value else "disabled"
            webhook.disabled_code = webhook.disabled_detail = None
        else:
            setattr(webhook, field, value)
    session.flush()
    audit.record(session, scope, "webhook.change", id, detail=changes)
    return webhook


def delete(session: Session, scope: Scope, id: str) -> None:
    """With its deliveries. Raises NotFound."""
    session.delete(get(session, scope, id, lock=True))
    audit.record(session, scope, "webhook.delete", id)


def rotate(session: Session, scope: Scope, id: str, overlap_seconds: int) -> IssuedSecret:
    """A new secret; the one before signs too for the overlap. Raises NotFound."""
    webhook = get(session, scope, id, lock=True)
    now = database_now(session)
    previous = living(webhook, now)
    if overlap_seconds > 0:
        ends = now + datetime.timedelta(seconds=overlap_seconds)
        previous.append({"secret": webhook.secret, "expires_at": ends.isoformat()})
    webhook.previous_secrets = previous[-_MOST_SECRETS:]
    webhook.secret = new_secret()
    session.flush()
    audit.record(session, scope, "webhook.rotate", id, detail={"overlap_seconds": overlap_seconds})
    return IssuedSecret(webhook, webhook.secret)


def living(webhook: Webhook, now: datetime.datetime) -> list[dict[str, str]]:
    """Its previous secrets that still sign, the oldest first."""
    return [
        secret for secret in webhook.previous_secrets if datetime.datetime.fromisoformat(secret["expires_at"]) > now
    ]


def test(session: Session, scope: Scope, id: str) -> WebhookDelivery:
    """Sends an event of no consequence. Raises NotFound, WebhookDisabled."""
    webhook = _enabled(session, scope, id)
    delivery = events.deliver(session, webhook, events.TEST, {"webhook_id": id})
    session.flush()
    session.refresh(delivery)
    audit.record(session, scope, "webhook.test", id)
    return delivery


def deliveries(session: Session, scope: Scope, id: str, request: PageRequest) -> Page[WebhookDelivery]:
    """Raises NotFound."""
    get(session, scope, id)
    return repository.deliveries(session, scope, id, request)


def delivery(session: Session, scope: Scope, id: str, delivery_id: str, *, lock: bool = False) -> WebhookDelivery:
    """Raises NotFound."""
    row = repository.delivery(session, scope, id, delivery_id, lock=lock)
    if row is None:
        raise NotFound("delivery", delivery_id)
    return row


def redeliver(session: Session, scope: Scope, id: str, delivery_id: str) -> WebhookDelivery:
    """Sends an event again at once, whatever became of it, with as many attempts as at first. Raises NotFound,
    WebhookDisabled."""
    _enabled(session, scope, id)
    row = delivery(session, scope, id, delivery_id, lock=True)
    row.status, row.failures = "pending", 0
    row.attempt += 1  # an attempt on its way ends nothing any more
    row.next_attempt_at, row.lease_expires_at, row.finished_at = database_now(session), None, None
    session.flush()
    audit.record(session, scope, "webhook.redeliver", delivery_id, detail={"webhook_id": id})
    return row


def _enabled(session: Session, scope: Scope, id: str) -> Webhook:
    webhook = get(session, scope, id)
    if webhook.status != "enabled":
        raise WebhookDisabled(id)
    return webhook
