"""Webhooks from the tenant's side: creation, changes, limits and deliveries."""

from datetime import datetime
from typing import Any

import pytest

from api.deps import Services
from core.service.db.models import Webhook
from core.service.webhooks import deliveries
from core.service.webhooks.deliveries import Outcome
from tests.api.client import Client, problem

URL = "https://example.com/hooks"


@pytest.fixture
def webhook(tenant: Client) -> str:
    id: str = tenant.made("/v1/webhooks", {"url": URL})["id"]
    return id


def settle(services: Services, webhook: str, outcome: Outcome) -> None:
    """Claims and settles due deliveries as a worker does, other tests' included, until one of `webhook` is settled."""
    with services.database.session() as session:
        while (attempt := deliveries.claim(session)) is not None:
            mine = attempt.webhook_id == webhook
            deliveries.settle(session, attempt, outcome if mine else Outcome(0.1, 204))
            if mine:
                return
    pytest.fail("nothing was due")


def test_secret_is_returned_only_once(tenant: Client) -> None:
    body = {"url": URL, "events": ["finetune.succeeded", "finetune.failed"], "description": "Ours"}
    headers = {"Idempotency-Key": "once"}
    webhook = tenant.made("/v1/webhooks", body, headers=headers)
    assert webhook["secret"].startswith("whsec_")
    assert tenant.made("/v1/webhooks", body, headers=headers) == {**webhook, "secret": None}
    shown = tenant.read(f"/v1/webhooks/{webhook['id']}")
    assert shown == {name: value for name, value in webhook.items() if name != "secret"}
    assert tenant.read("/v1/webhooks")["data"] == [shown]
    assert (shown["events"], shown["status"], shown["disabled_reason"]) == (body["events"], "enabled", None)
    rotated = tenant.made(f"/v1/webhooks/{webhook['id']}/rotate", {"overlap_seconds": 60})
    assert rotated["secret"].startswith("whsec_")
    assert rotated["secret"] != webhook["secret"]


def test_webhook_is_changed_enabled_and_disabled(tenant: Client, webhook: str) -> None:
    path = f"/v1/webhooks/{webhook}"
    changed = tenant.patch(path, {"url": f"{URL}/2", "events": ["dataset.ready"], "description": "d"}).json()
    assert (changed["url"], changed["events"], changed["description"]) == (f"{URL}/2", ["dataset.ready"], "d")
    assert tenant.patch(path, {"events": None}).json()["events"] is None
    assert tenant.patch(path, {"enabled": False}).json()["status"] == "disabled"
    problem(tenant.post(f"{path}/test"), 409, "webhook_disabled")
    assert tenant.patch(path, {"enabled": True}).json()["status"] == "enabled"
    assert tenant.delete(path).status_code == 204
    problem(tenant.get(path), 404, "not_found")
    problem(tenant.delete(path), 404, "not_found")


@pytest.mark.parametrize(
    "body",
    [
        {}, {"url": URL, "events": ["finetune.started"]},
        {"url": URL, "secret": "whsec_mine"},
        {"url": "https://" + "a" * 2000}, {"url": "https://a\0.com"}, {"url": URL, "events": None, "enabled": True},
    ],
)  # fmt: skip
def test_invalid_webhooks_are_rejected(tenant: Client, webhook: str, body: dict[str, Any]) -> None:
    problem(tenant.post("/v1/webhooks", body), 422, "invalid_request")
    if "secret" not in body and "enabled" not in body and body:
        problem(tenant.patch(f"/v1/webhooks/{webhook}", body), 422, "invalid_request")


@pytest.mark.parametrize(
    "url", ["http://example.com", "https://127.0.0.1", "https://[fd00:ec2::254]/", "https://a@example.com", "x"]
)
def test_urls_of_private_addresses_are_rejected(tenant: Client, webhook: str, url: str) -> None:
    problem(tenant.post("/v1/webhooks", {"url": url}), 422, "webhook_url_refused")
    refused = problem(tenant.patch(f"/v1/webhooks/{webhook}", {"url": url}), 422, "webhook_url_refused")
    assert refused["errors"][0]["field"] == "body.url"
    assert tenant.read(f"/v1/webhooks/{webhook}")["url"] == URL


def test_deliveries_show_every_attempt_and_are_sent_again(tenant: Client, webhook: str, services: Services) -> None:
    path = f"/v1/webhooks/{webhook}"
    sent = tenant.made(f"{path}/test")
    assert (sent["type"], sent["status"], sent["attempts"]) == ("webhook.test", "pending", [])
    assert sent["payload"]["data"] == {"webhook_id": webhook}
    settle(services, webhook, Outcome(0.25, 500, "refused", "It answered 500."))
    delivery = tenant.read(f"{path}/deliveries/{sent['id']}")
    [attempt] = delivery["attempts"]
    assert (attempt["response_status"], attempt["code"], attempt["seconds"]) == (500, "refused", 0.25)
    assert datetime.fromisoformat(delivery["next_attempt_at"]) > datetime.fromisoformat(sent["next_attempt_at"])
    assert tenant.made(f"{path}/deliveries/{sent['id']}/redeliver")["status"] == "pending"
    settle(services, webhook, Outcome(0.1, 204))
    listed = tenant.read(f"{path}/deliveries?status=succeeded")["data"]
    assert [(row["id"], len(row["attempts"]), row["next_attempt_at"]) for row in listed] == [(sent["id"], 2, None)]
    assert tenant.read(f"{path}/deliveries?status=failed")["data"] == []
    assert tenant.read(path)["last_success_at"] == listed[0]["finished_at"]


def test_reason_for_disabling_is_shown_and_audited(
    tenant: Client, admin: Client, webhook: str, services: Services
) -> None:
    tenant.made(f"/v1/webhooks/{webhook}/test")
    settle(services, webhook, Outcome(0.1, 410, "refused", "It answered 410."))
    disabled = tenant.read(f"/v1/webhooks/{webhook}")
    assert (disabled["status"], disabled["disabled_reason"]["code"]) == ("disabled", "gone")
    with services.database.session() as session:
        owner = session.get_one(Webhook, webhook).tenant_id
    entries = admin.read(f"/v1/admin/audit?tenant_id={owner}")["data"]
    acts = [(entry["action"], entry["actor_key_id"] is None) for entry in entries if entry["target"] == webhook]
    assert acts == [("webhook.disable", True), ("webhook.test", False), ("webhook.create", False)]
    assert "whsec_" not in str(entries)


def test_number_of_webhooks_is_limited(tenant: Client, admin: Client, webhook: str) -> None:
    id = admin.read("/v1/admin/tenants")["data"][0]["id"]
    admin.patch(f"/v1/admin/tenants/{id}", {"quotas": {"webhooks": 1}})
    refused = tenant.post("/v1/webhooks", {"url": URL})
    problem(refused, 403, "webhook_quota_exceeded")
    assert tenant.read("/v1/usage")["quotas"]["webhooks"] == {"limit": 1, "used": 1}
    tenant.delete(f"/v1/webhooks/{webhook}")
    tenant.made("/v1/webhooks", {"url": URL})
