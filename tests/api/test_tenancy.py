"""Ids of another tenant are not found by any request."""

import re
from typing import Any

import pytest

from api.deps import Services
from core.service import generations
from core.service.db.models import Generation
from core.service.finetunes import service as finetunes
from core.service.generations import DrawnImage
from tests.api.client import Api, Client, adapter_file, claims, images_zip, png, problem

BODIES: dict[str, dict[str, Any]] = {
    "create_dataset": {"files": {"file": ("a.zip", images_zip())}},
    "upload_adapter": {"files": {"file": ("a.safetensors", adapter_file())}},
    "create_dataset_upload": {"json": {"size_bytes": 5}},
    "import_dataset": {"json": {"bucket": {"url": "https://example.com/images"}}},
    "complete_dataset_upload": {"json": {"parts": []}},
    "put_dataset_part": {"content": b"12345"},
    "create_generation": {"json": {"class_id": 0}},
    "create_generation_batch": {"json": {"classes": [{"class_id": 0}]}},
    "change_image": {"json": {"favourite": True}},
    "change_adapter": {"json": {"note": "mine"}},
    "change_domain": {"json": {"name": "Mine now"}},
    "create_dataset_version": {"json": {}},
    "change_dataset": {"json": {"name": "Mine now"}},
    "change_webhook": {"json": {"enabled": False}},
    "rotate_webhook": {"json": {}},
}


def request_of(operation: str, ids: dict[str, str]) -> dict[str, Any]:
    """Returns the body of an operation's request, as arguments of httpx. `ids` are ids by path."""
    if operation in ("create_finetune", "copy_dataset"):
        return {"json": {"dataset_id": ids["datasets"]}}
    return BODIES.get(operation, {})


@pytest.fixture
def ids(tenant: Client, domain: str, dataset: str, adapter: str, services: Services) -> dict[str, str]:
    """Returns one id of every resource that a tenant owns, by the path that contains it."""
    webhook = tenant.made("/v1/webhooks", {"url": "https://example.com/hooks"})["id"]
    delivery = tenant.made(f"/v1/webhooks/{webhook}/test")["id"]
    finetune = tenant.read(f"/v1/domains/{domain}/finetunes")["data"][0]["id"]
    generation = tenant.made(f"/v1/domains/{domain}/generations", {"class_id": 0, "previews": 1})["id"]
    for claim in claims(services, Generation):
        stored = services.store.put(f"tenants/{claim.id}/preview.png", png(1))
        with services.database.session() as session:
            generations.add_preview(session, claim, 0, 1, stored)
            image = DrawnImage(0, 0, services.store.put(f"tenants/{claim.id}/0.png", png(2)), 8, 8)
            assert generations.succeed(session, claim, [image], 1, {})
    with services.database.session() as session:
        events = finetunes.events_after(session, finetune, 0)
        sample = next(event.id for event in events if event.type == "sample")
    gone = tenant.delete(f"/v1/domains/{tenant.made('/v1/domains', {'name': 'gone'})['id']}")
    upload = tenant.made(f"/v1/domains/{domain}/datasets/uploads", {"size_bytes": 5})["id"]
    return {
        "domains": domain,
        "deletions": gone.headers["location"].rpartition("/")[2],
        "{upload_id}": upload,
        "{number}": "1",
        "datasets": dataset,
        "finetunes": finetune,
        "adapters": adapter,
        "generations": generation,
        "webhooks": webhook,
        "{delivery_id}": delivery,
        "{adapter_id}": adapter,
        "{class_id}": "0",
        "{index}": "0",
        "{step}": "1",
        "{event_id}": str(sample),
    }


def operations(document: dict[str, Any]) -> list[tuple[str, str, str]]:
    """Returns (method, path, id) of every tenant's route with an id in its path."""
    return [
        (method.upper(), path, operation["operationId"])
        for path, methods in document["paths"].items()
        for method, operation in methods.items()
        if path.startswith("/v1/") and not path.startswith("/v1/admin") and "{" in path
    ]


def filled(path: str, ids: dict[str, str]) -> str:
    """Returns the path with the tenant's ids in place of the parameters."""
    url = path.replace("{id}", ids[path.split("/")[2]])
    return re.sub(r"\{\w+\}", lambda match: ids[match.group()], url)


def test_every_route_with_anothers_id_is_not_found(tenant: Client, other: Client, ids: dict[str, str]) -> None:
    document = tenant.read("/openapi.json")
    before = tenant.read(f"/v1/domains/{ids['domains']}")
    routes = operations(document)
    assert len(routes) >= 20
    for method, path, operation in sorted(routes):
        url = filled(path, ids)
        problem(other.request(method, url, **request_of(operation, ids)), 404, "not_found")
        if method == "GET":
            assert tenant.get(url).status_code == 200, "its owner must find it"
    assert tenant.read(f"/v1/domains/{ids['domains']}") == before
    assert other.read("/v1/domains")["data"] == []


def test_own_domain_does_not_give_access_to_others_objects(tenant: Client, other: Client, ids: dict[str, str]) -> None:
    mine = other.made("/v1/domains", {"name": "Mine"})["id"]
    problem(other.post(f"/v1/domains/{mine}/finetunes", {"dataset_id": ids["datasets"]}), 404, "not_found")
    problem(other.post(f"/v1/domains/{mine}/adapters/{ids['adapters']}/promote"), 404, "not_found")
    body = {"class_id": 0, "adapter_id": ids["adapters"]}
    problem(other.post(f"/v1/domains/{mine}/generations", body), 404, "not_found")


def test_lists_show_only_own_objects(tenant: Client, other: Client, ids: dict[str, str]) -> None:
    assert [row["id"] for row in tenant.read("/v1/domains")["data"]] == [ids["domains"]]
    assert other.read("/v1/domains")["data"] == []
    usage = other.read("/v1/usage")
    assert (usage["images"], usage["stored_bytes"], usage["days"]) == (0, 0, [])


def test_signed_url_gives_access_to_one_object_without_a_key(api: Api, tenant: Client, ids: dict[str, str]) -> None:
    generation = tenant.read(f"/v1/generations/{ids['generations']}")
    signed = [image["url"] for image in (*generation["images"], *generation["previews"])]
    stranger = api.client()
    assert len(signed) == 2
    for url in signed:
        assert stranger.get(url).status_code == 200
        problem(stranger.get(url.split("?")[0]), 401, "unauthenticated")
    image, preview = signed
    problem(stranger.get(f"{preview.split('?')[0]}?{image.split('?')[1]}"), 401, "unauthenticated")
