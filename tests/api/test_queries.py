"""Only documented query parameters are accepted, and filters work."""

import datetime
import re
from typing import Any

import pytest

from api.deps import Services
from core.service.tenancy import Scope
from tests.api.client import Client, draw_generations, problem
from tests.core.service.rows import add_adapter, add_dataset, add_finetune, add_generation, add_upload

LATER = datetime.datetime(9000, 1, 1, tzinfo=datetime.UTC)
"""Other tests of the run end every upload that has expired."""


def operations(document: dict[str, Any]) -> list[tuple[str, str]]:
    """Returns (method, path with ids that do not exist) of every documented route."""
    return [
        (method.upper(), re.sub(r"\{(index|step|number|class_id|event_id)\}", "1", path))
        for path, methods in document["paths"].items()
        for method in methods
    ]


def test_every_route_names_unknown_and_repeated_query_parameters(tenant: Client, admin: Client) -> None:
    routes = operations(tenant.read("/openapi.json"))
    assert len(routes) >= 60
    for method, path in routes:
        client = admin if path.startswith("/v1/admin") else tenant
        refused = problem(client.request(method, f"{path}?colour=1&colour=2"), 422, "invalid_request")
        assert refused["errors"][0]["field"] == "query.colour", (method, path)
    refused = problem(tenant.get("/v1/domains?limit=1&limit=2"), 422, "invalid_request")
    assert refused["errors"] == [{"field": "query.limit", "code": "repeated", "detail": "Send it once."}]


def test_rejection_lists_the_parameters_of_the_route(tenant: Client) -> None:
    refused = problem(tenant.get("/v1/domains?sort=name"), 422, "invalid_request")
    assert refused["detail"] == "query.sort: Unknown; this route takes cursor, limit, name, name_contains."
    refused = problem(tenant.get("/v1/base?days=7"), 422, "invalid_request")
    assert refused["detail"] == "query.days: Unknown; this route takes no query parameters."
    many = "&".join(f"p{k}=1" for k in range(1000))
    answer = tenant.get(f"/v1/domains?{many}")
    assert problem(answer, 422, "invalid_request")["error_count"] == 1000
    assert len(answer.content) < 10_000


def test_signed_url_accepts_only_its_own_parameters(
    api_client: Client, tenant: Client, domain: str, adapter: str, services: Services
) -> None:
    generation = tenant.made(f"/v1/domains/{domain}/generations", {"class_id": 0})["id"]
    draw_generations(services)
    url = tenant.read(f"/v1/generations/{generation}")["images"][0]["url"]
    assert api_client.get(url).status_code == 200
    problem(api_client.get(f"{url}&size=64"), 422, "invalid_request")
    problem(api_client.get(f"{url}&{url.partition('?')[2]}"), 422, "invalid_request")


STATUSES = {
    "datasets": ("ready", "rejected"),
    "datasets/uploads": ("open", "failed"),
    "finetunes": ("cancelled", "failed"),
    "adapters": ("ready", "quarantined"),
    "generations": ("cancelled", "failed"),
}


@pytest.fixture
def rows(tenant: Client, domain: str, services: Services) -> None:
    """Adds two rows of each status to each list of the domain."""
    owner = Scope(tenant.read("/v1/key")["tenant_id"])
    with services.database.session() as session:
        for number in range(1, 3):
            for status in STATUSES["datasets"]:
                add_dataset(session, owner, domain, status=status)
            for status in STATUSES["datasets/uploads"]:
                add_upload(session, owner, domain, status=status, expires_at=LATER)
            for status in STATUSES["generations"]:
                add_generation(session, owner, domain, status=status)
            add_adapter(session, owner, domain, 2 * number, status="ready")
            add_adapter(session, owner, domain, 2 * number + 1, status="quarantined")
            for status in STATUSES["finetunes"]:
                add_finetune(session, owner, domain, status=status)


@pytest.mark.usefixtures("rows")
def test_lists_are_filtered_by_status(tenant: Client, domain: str) -> None:
    for noun, statuses in STATUSES.items():
        path = f"/v1/domains/{domain}/{noun}"
        everything = tenant.read(path)["data"]
        for status in statuses:
            expected = [row for row in everything if row["status"] == status]
            assert len(expected) >= 2
            assert tenant.read(f"{path}?status={status}")["data"] == expected
            first = tenant.read(f"{path}?status={status}&limit=1")
            rest = tenant.read(f"{path}?status={status}&cursor={first['next_cursor']}")
            assert first["data"] + rest["data"] == expected
        refused = problem(tenant.get(f"{path}?status=lost"), 422, "invalid_request")
        assert refused["errors"][0]["field"] == "query.status"


def test_webhooks_are_filtered_by_status(tenant: Client) -> None:
    on, off = (tenant.made("/v1/webhooks", {"url": "https://example.com"})["id"] for _ in range(2))
    tenant.patch(f"/v1/webhooks/{off}", {"enabled": False})
    for status, id in (("enabled", on), ("disabled", off)):
        assert [row["id"] for row in tenant.read(f"/v1/webhooks?status={status}")["data"]] == [id]


def test_cursor_of_another_list_is_rejected(tenant: Client, domain: str) -> None:
    problem(tenant.get(f"/v1/webhooks?cursor={domain}"), 422, "invalid_cursor")
    refused = problem(tenant.get(f"/v1/domains/{domain}/finetunes?cursor=garbage"), 422, "invalid_cursor")
    assert refused["errors"][0]["field"] == "query.cursor"
    assert tenant.read(f"/v1/domains?cursor={domain}")["data"] == []
