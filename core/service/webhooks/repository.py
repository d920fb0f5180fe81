"""Queries on a tenant's webhooks and their deliveries."""

from collections.abc import Sequence

from sqlalchemy import select
from sqlalchemy.orm import Session

from core.service.db.models import Webhook, WebhookDelivery
from core.service.db.paging import Page, PageRequest, fetch_page
from core.service.tenancy import Scope, scoped


def get(session: Session, scope: Scope, id: str, *, lock: bool = False) -> Webhook | None:
    statement = scoped(select(Webhook), Webhook, scope).where(Webhook.id == id)
    return session.execute(statement.with_for_update() if lock else statement).scalar_one_or_none()


def page(session: Session, scope: Scope, request: PageRequest) -> Page[Webhook]:
    return fetch_page(session, scoped(select(Webhook), Webhook, scope), Webhook.id, request)


def enabled(session: Session, scope: Scope) -> Sequence[Webhook]:
    """Until the transaction ends nobody deletes them, or what is inserted for them would fail with them."""
    statement = scoped(select(Webhook), Webhook, scope).where(Webhook.status == "enabled").order_by(Webhook.id)
    return session.execute(statement.with_for_update(read=True, key_share=True)).scalars().all()


def delivery(session: Session, scope: Scope, webhook_id: str, id: str, *, lock: bool = False) -> WebhookDelivery | None:
    statement = scoped(select(WebhookDelivery), WebhookDelivery, scope)
    statement = statement.where(WebhookDelivery.webhook_id == webhook_id, WebhookDelivery.id == id)
    return session.execute(statement.with_for_update() if lock else statement).scalar_one_or_none()


def deliveries(session: Session, scope: Scope, webhook_id: str, request: PageRequest) -> Page[WebhookDelivery]:
    statement = scoped(select(WebhookDelivery), WebhookDelivery, scope).where(WebhookDelivery.webhook_id == webhook_id)
    return fetch_page(session, statement, WebhookDelivery.id, request)
