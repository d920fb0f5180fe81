"""Routes of webhooks and of the deliveries of their events."""

from dataclasses import replace
from typing import Annotated

from fastapi import APIRouter, Response

from api.auth import ReaderDep, WriterDep
from api.deps import OF_STATUS, DatabaseDep, IfMatch, PageDep, ServicesDep
from api.idempotency import IdempotentRoute
from api.openapi import problems, tagged
from api.schemas.common import Listing, changes, listing
from api.schemas.webhooks import (
    DeliveryDetailOut,
    DeliveryOut,
    DeliveryStatus,
    WebhookChange,
    WebhookCreate,
    WebhookIssued,
    WebhookOut,
    WebhookRotate,
    WebhookStatus,
)
from core.artifact.errors import NotFound
from core.service import etags
from core.service.errors import (
    ChangedMeanwhile,
    WebhookBacklog,
    WebhookDisabled,
    WebhookQuotaExceeded,
    WebhookUrlRefused,
)
from core.service.quotas import Quotas
from core.service.webhooks import service as webhooks
from core.service.webhooks.service import IssuedSecret

router = APIRouter(prefix="/v1/webhooks", tags=["webhooks"], route_class=IdempotentRoute)


@router.post(
    "", status_code=201, operation_id="create_webhook", responses=problems(WebhookQuotaExceeded, WebhookUrlRefused)
)
def create_webhook(body: WebhookCreate, scope: WriterDep, services: ServicesDep) -> WebhookIssued:
    """Create a webhook: events are sent to your URL. Only this response contains the secret that verifies them."""
    private = services.settings.webhooks_allow_private
    wanted = None if body.events is None else [str(event) for event in body.events]
    with services.database.session(scope) as session:
        Quotas(session, services.settings).admit_webhook()
        made = webhooks.create(session, body.url, wanted, body.description, allow_private=private)
        return _issued(made)


@router.get("", operation_id="list_webhooks")
def list_webhooks(
    database: DatabaseDep,
    scope: ReaderDep,
    page: PageDep,
    status: Annotated[WebhookStatus | None, OF_STATUS] = None,
) -> Listing[WebhookOut]:
    """List your webhooks, newest first, without secrets."""
    with database.reading(scope) as session:
        return listing(webhooks.page(session, replace(page, status=status)), WebhookOut.model_validate)


@router.get("/{id}", operation_id="get_webhook", responses=tagged(NotFound))
def get_webhook(id: str, response: Response, database: DatabaseDep, scope: ReaderDep) -> WebhookOut:
    """Get a webhook."""
    with database.reading(scope) as session:
        webhook = webhooks.get(session, id)
        response.headers["ETag"] = etags.tag(webhook)
        return WebhookOut.model_validate(webhook)


@router.patch("/{id}", operation_id="change_webhook", responses=tagged(NotFound, WebhookUrlRefused, ChangedMeanwhile))
def change_webhook(
    id: str, body: WebhookChange, response: Response, scope: WriterDep, services: ServicesDep, if_match: IfMatch = None
) -> WebhookOut:
    """Change a webhook's URL, events or description, or enable or disable it."""
    private = services.settings.webhooks_allow_private
    with services.database.session(scope) as session:
        changed = webhooks.change(session, id, changes(body), if_match, allow_private=private)
        response.headers["ETag"] = etags.tag(changed)
        return WebhookOut.model_validate(changed)


@router.delete("/{id}", status_code=204, operation_id="delete_webhook", responses=problems(NotFound))
def delete_webhook(id: str, database: DatabaseDep, scope: WriterDep) -> None:
    """Delete a webhook and its deliveries."""
    with database.session(scope) as session:
        webhooks.delete(session, id)


@router.post("/{id}/rotate", operation_id="rotate_webhook", responses=problems(NotFound))
def rotate_webhook(id: str, body: WebhookRotate, database: DatabaseDep, scope: WriterDep) -> WebhookIssued:
    """Create a new secret for a webhook; only this response contains it. For `overlap_seconds`, events are signed with
    the old secret too."""
    with database.session(scope) as session:
        return _issued(webhooks.rotate(session, id, body.overlap_seconds))


@router.post(
    "/{id}/test",
    status_code=202,
    operation_id="test_webhook",
    responses=problems(NotFound, WebhookDisabled, WebhookBacklog),
)
def test_webhook(id: str, database: DatabaseDep, scope: WriterDep) -> DeliveryDetailOut:
    """Send a test event of type `webhook.test` to a webhook, whatever its `events` are."""
    with database.session(scope) as session:
        return DeliveryDetailOut.of(webhooks.test(session, id))


@router.get("/{id}/deliveries", operation_id="list_webhook_deliveries", responses=problems(NotFound))
def list_webhook_deliveries(
    id: str,
    database: DatabaseDep,
    scope: ReaderDep,
    page: PageDep,
    status: Annotated[DeliveryStatus | None, OF_STATUS] = None,
) -> Listing[DeliveryOut]:
    """List a webhook's stored deliveries, by default those of 30 days, newest first, with their last 20 attempts."""
    with database.reading(scope) as session:
        rows = webhooks.deliveries(session, id, replace(page, status=status))
        return listing(rows, DeliveryOut.model_validate)


@router.get("/{id}/deliveries/{delivery_id}", operation_id="get_webhook_delivery", responses=problems(NotFound))
def get_webhook_delivery(id: str, delivery_id: str, database: DatabaseDep, scope: ReaderDep) -> DeliveryDetailOut:
    """Get a delivery of a webhook, with the payload that is sent."""
    with database.reading(scope) as session:
        return DeliveryDetailOut.of(webhooks.delivery(session, id, delivery_id))


@router.post(
    "/{id}/deliveries/{delivery_id}/redeliver",
    status_code=202,
    operation_id="redeliver_webhook_delivery",
    responses=problems(NotFound, WebhookDisabled, WebhookBacklog),
)
def redeliver_webhook_delivery(id: str, delivery_id: str, database: DatabaseDep, scope: WriterDep) -> DeliveryDetailOut:
    """Send the event of a delivery again, with the same `webhook-id`. A webhook has at most 10,000 pending
    deliveries; those of further events fail with `webhook_backlog`, and can be sent again later."""
    with database.session(scope) as session:
        return DeliveryDetailOut.of(webhooks.redeliver(session, id, delivery_id))


def _issued(issued: IssuedSecret) -> WebhookIssued:
    return WebhookIssued.model_validate(issued.row).model_copy(update={"secret": issued.secret})
