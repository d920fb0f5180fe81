"""Generations of several classes in one request, and webhooks of single generations."""

import threading
from collections.abc import Iterator
from typing import Any

import pytest
from sqlalchemy import select

from api.deps import Services
from core.service.db.models import WebhookDelivery
from tests.api.client import Client, draw_generations, load_base, problem, running
from tests.api.conftest import make_settings

URL = "https://example.com/hooks"


@pytest.fixture(autouse=True)
def nothing_is_left_in_the_queue(services: Services) -> Iterator[None]:
    yield
    draw_generations(services)


@pytest.fixture
def path(domain: str, adapter: str) -> str:
    return f"/v1/domains/{domain}/generations"


@pytest.fixture
def webhook(tenant: Client) -> str:
    """Returns the id of a webhook that is sent no events unless a generation asks for it."""
    id: str = tenant.made("/v1/webhooks", {"url": URL, "events": []})["id"]
    return id


def sent(services: Services, webhook: str) -> list[tuple[str, str | None]]:
    """Returns the type and URL of each delivery of a webhook, in order of the URLs."""
    with services.database.session() as session:
        statement = select(WebhookDelivery.type, WebhookDelivery.url).where(WebhookDelivery.webhook_id == webhook)
        return sorted(map(tuple, session.execute(statement)), key=str)


def test_batch_has_a_generation_for_each_class_with_the_same_seeds(
    tenant: Client, path: str, domain: str, services: Services
) -> None:
    classes = [{"class_name": "pear"}, {"class_id": 0, "count": 1}]
    batch = tenant.made(f"{path}/batches", {"classes": classes, "count": 2, "seed": 7, "steps": 5})
    assert (batch["domain_id"], batch["seed"]) == (domain, 7)
    pear, apple = batch["data"]
    assert [(row["class_name"], row["count"]) for row in (pear, apple)] == [("pear", 2), ("apple", 1)]
    alone = tenant.made(path, {"class_name": "pear", "count": 2, "seed": 7, "steps": 5})
    assert pear == alone | {name: pear[name] for name in ("id", "created_at")}
    draw_generations(services)
    images = [tenant.read(f"/v1/generations/{row['id']}")["images"] for row in (pear, apple)]
    assert [[image["seed"] for image in each] for each in images] == [[7, 8], [7]]


def test_batch_without_a_seed_gets_one_for_all_classes(tenant: Client, path: str) -> None:
    body = {"classes": [{"class_id": 0}, {"class_id": 1}]}
    batch = tenant.made(f"{path}/batches", body)
    assert {row["seed"] for row in batch["data"]} == {batch["seed"]}
    assert tenant.made(f"{path}/batches", body)["seed"] != batch["seed"]


def test_batch_with_an_unknown_class_creates_nothing(tenant: Client, path: str) -> None:
    body = {"classes": [{"class_id": 0}, {"class_name": "banana"}]}
    problem(tenant.post(f"{path}/batches", body), 422, "unknown_class")
    assert tenant.read(path)["data"] == []


@pytest.mark.parametrize(
    "body",
    [
        {}, {"classes": []}, {"classes": [{}]}, {"classes": [{"class_id": 0, "class_name": "pear"}]},
        {"classes": [{"class_id": 0, "count": 65}]}, {"classes": [{"class_id": 0}] * 65},
        {"classes": [{"class_id": 0}], "class_id": 1}, {"classes": [{"class_id": 0, "seed": 1}]},
    ],
)  # fmt: skip
def test_invalid_batches_are_rejected(tenant: Client, path: str, body: dict[str, Any]) -> None:
    problem(tenant.post(f"{path}/batches", body), 422, "invalid_request")


def test_batch_waits_for_all_of_its_images(tenant: Client, path: str, services: Services) -> None:
    body, wait = {"classes": [{"class_id": 0}, {"class_id": 1}]}, {"Prefer": "wait=20"}
    worker = threading.Timer(0.5, draw_generations, [services])
    worker.start()
    done = tenant.post(f"{path}/batches", body, headers=wait)
    worker.join()
    assert (done.status_code, done.headers["preference-applied"]) == (200, "wait=20")
    assert [(row["status"], len(row["images"])) for row in done.json()["data"]] == [("succeeded", 1)] * 2


def test_replay_of_a_batch_is_forgotten_with_one_of_its_generations(
    tenant: Client, path: str, services: Services
) -> None:
    body, key = {"classes": [{"class_id": 0}, {"class_id": 1}]}, {"Idempotency-Key": "once"}
    first = tenant.made(f"{path}/batches", body, headers=key)
    assert tenant.made(f"{path}/batches", body, headers=key) == first
    draw_generations(services)
    assert tenant.delete(f"/v1/generations/{first['data'][1]['id']}").status_code == 204
    assert tenant.made(f"{path}/batches", body, headers=key)["seed"] != first["seed"]
    draw_generations(services)


def test_whole_batch_counts_towards_the_quotas(tmp_path_factory: pytest.TempPathFactory) -> None:
    settings = make_settings(tmp_path_factory.mktemp("few"), max_queued_generations=2, max_images_per_day=10)
    with running(settings) as api:
        load_base(api.services)
        tenant = api.tenant("few")
        path = f"/v1/domains/{tenant.made('/v1/domains', {'name': 'd'})['id']}/generations"
        body: dict[str, Any] = {"adapter_id": "base", "classes": [{"class_id": number} for number in range(3)]}
        problem(tenant.post(f"{path}/batches", body), 429, "queue_full")
        body = {"adapter_id": "base", "classes": [{"class_id": 0, "count": 6}, {"class_id": 1, "count": 5}]}
        problem(tenant.post(f"{path}/batches", body), 429, "quota_exceeded")
        assert tenant.read(path)["data"] == []
        body["classes"].pop()
        assert len(tenant.made(f"{path}/batches", body)["data"]) == 1


def test_generation_sends_its_end_to_the_webhook_that_it_names(
    tenant: Client, path: str, webhook: str, services: Services
) -> None:
    tenant.made(path, {"class_id": 0})
    named = tenant.made(path, {"class_id": 0, "webhook_id": webhook, "webhook_url": f"{URL}/1"})
    assert (named["webhook_id"], named["webhook_url"]) == (webhook, f"{URL}/1")
    tenant.made(f"{path}/batches", {"classes": [{"class_id": 0}, {"class_id": 1}], "webhook_id": webhook})
    draw_generations(services)
    type = "generation.succeeded"
    assert sent(services, webhook) == [(type, f"{URL}/1"), (type, None), (type, None)]
    listed = tenant.read(f"/v1/webhooks/{webhook}/deliveries")["data"]
    assert sorted(str(row["url"]) for row in listed) == ["None", "None", f"{URL}/1"]


def test_webhook_for_all_events_is_sent_an_event_once_per_url(tenant: Client, path: str, services: Services) -> None:
    webhook = tenant.made("/v1/webhooks", {"url": URL})["id"]
    tenant.made(path, {"class_id": 0, "webhook_id": webhook})
    draw_generations(services)
    assert sent(services, webhook) == [("generation.succeeded", None)]
    tenant.made(path, {"class_id": 0, "webhook_id": webhook, "webhook_url": f"{URL}/1"})
    draw_generations(services)
    assert sent(services, webhook) == [("generation.succeeded", f"{URL}/1"), *[("generation.succeeded", None)] * 2]


def test_webhooks_that_cannot_be_sent_to_are_rejected(
    tenant: Client, other: Client, admin: Client, path: str, webhook: str
) -> None:
    body = {"class_id": 0, "webhook_id": webhook}
    for url in ("http://example.com", "https://127.0.0.1", "https://[::ffff:10.0.0.1]/", "https://a@example.com"):
        refused = problem(tenant.post(path, body | {"webhook_url": url}), 422, "webhook_url_refused")
        assert refused["errors"][0]["field"] == "body.webhook_url"
    problem(tenant.post(path, {"class_id": 0, "webhook_url": URL}), 422, "invalid_request")
    foreign = other.made("/v1/webhooks", {"url": URL})["id"]
    problem(tenant.post(path, {"class_id": 0, "webhook_id": foreign}), 404, "not_found")
    tenant.patch(f"/v1/webhooks/{webhook}", {"enabled": False})
    problem(tenant.post(path, body), 409, "webhook_disabled")
    admin.patch(f"/v1/admin/tenants/{tenant.read('/v1/key')['tenant_id']}", {"quotas": {"webhooks": 0}})
    problem(tenant.post(path, body), 403, "webhook_quota_exceeded")
    assert tenant.read(path)["data"] == []


def test_webhook_that_is_gone_when_the_generation_ends_is_skipped(
    tenant: Client, path: str, webhook: str, services: Services
) -> None:
    id = tenant.made(path, {"class_id": 0, "webhook_id": webhook})["id"]
    tenant.delete(f"/v1/webhooks/{webhook}")
    draw_generations(services)
    assert tenant.read(f"/v1/generations/{id}")["status"] == "succeeded"
