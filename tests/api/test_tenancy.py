"""Another tenant's id is not found, whatever is asked of it."""

from typing import Any

import pytest

from api.deps import Services
from tests.api.client import Client, adapter_file, draw_generations, images_zip, problem

BODIES: dict[str, dict[str, Any]] = {
    "create_dataset": {"files": {"file": ("a.zip", images_zip())}},
    "upload_adapter": {"files": {"file": ("a.safetensors", adapter_file())}},
    "create_finetune": {"json": {"dataset_id": "{dataset}"}},
    "create_generation": {"json": {"class_id": 0}},
    "change_domain": {"json": {"name": "Mine now"}},
}


@pytest.fixture
def ids(tenant: Client, domain: str, dataset: str, adapter: str, services: Services) -> dict[str, str]:
    """One of everything that a tenant owns, by the path that names it."""
    finetune = tenant.read(f"/v1/domains/{domain}/finetunes")["data"][0]["id"]
    generation = tenant.made(f"/v1/domains/{domain}/generations", {"class_id": 0})["id"]
    draw_generations(services)
    return {
        "domains": domain,
        "datasets": dataset,
        "finetunes": finetune,
        "adapters": adapter,
        "generations": generation,
    }


def operations(document: dict[str, Any]) -> list[tuple[str, str, str]]:
    """(method, path, id) of every route of a tenant that names something."""
    return [
        (method.upper(), path, operation["operationId"])
        for path, found in document["paths"].items()
        for method, operation in found.items()
        if path.startswith("/v1/") and not path.startswith("/v1/admin") and "{" in path
    ]


def test_every_route_with_anothers_id_is_not_found(tenant: Client, other: Client, ids: dict[str, str]) -> None:
    document = tenant.read("/openapi.json")
    before = tenant.read(f"/v1/domains/{ids['domains']}")
    found = operations(document)
    assert len(found) >= 20
    for method, path, operation in sorted(found):
        url = path.replace("{id}", ids[path.split("/")[2]])
        url = (
            url.replace("{adapter_id}", ids["adapters"])
            .replace("{index}", "0")
            .replace("{step}", "1")
            .replace("{event_id}", "1")
        )
        options = BODIES.get(operation, {})
        if operation == "create_finetune":
            options = {"json": {"dataset_id": ids["datasets"]}}
        problem(other.request(method, url, **options), 404, "not_found")
    assert tenant.read(f"/v1/domains/{ids['domains']}") == before
    assert other.read("/v1/domains")["data"] == []


def test_ones_own_domain_does_not_open_anothers_things(tenant: Client, other: Client, ids: dict[str, str]) -> None:
    mine = other.made("/v1/domains", {"name": "Mine"})["id"]
    problem(other.post(f"/v1/domains/{mine}/finetunes", {"dataset_id": ids["datasets"]}), 404, "not_found")
    problem(other.post(f"/v1/domains/{mine}/adapters/{ids['adapters']}/promote"), 404, "not_found")
    body = {"class_id": 0, "adapter_id": ids["adapters"]}
    problem(other.post(f"/v1/domains/{mine}/generations", body), 404, "not_found")


def test_lists_show_ones_own(tenant: Client, other: Client, ids: dict[str, str]) -> None:
    assert [one["id"] for one in tenant.read("/v1/domains")["data"]] == [ids["domains"]]
    assert other.read("/v1/domains")["data"] == []
    usage = other.read("/v1/usage")
    assert (usage["images"], usage["stored_bytes"], usage["days"]) == (0, 0, [])
