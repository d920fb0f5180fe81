"""Responses stay small for any amount of data that a tenant has or sends."""

import json
from collections.abc import Iterator
from typing import Any

import pytest
from pydantic import BaseModel
from sqlalchemy import event, insert

from api.deps import Services
from api.json_bodies import MAX_FIELDS
from api.problems import MAX_ERRORS
from api.schemas.common import listing
from core.service.db.models import Dataset, GenerationImage, GenerationPreview
from core.service.db.paging import PageRequest, page_of
from core.service.tenancy import Scope
from tests.api.client import Client, problem
from tests.core.service.rows import add_dataset, add_generation, recorded_statements

JSON = {"Content-Type": "application/json"}
MEGABYTE = 2**20


@pytest.fixture
def rejected(tenant: Client, domain: str, services: Services) -> list[str]:
    """Returns the ids of 4 data sets with 19,990 rejected files each."""
    owner = Scope(tenant.read("/v1/key")["tenant_id"])
    files = [{"file": f"fruit/{k:0250}.png", "code": "corrupt", "detail": "d" * 200} for k in range(19_990)]
    report = {"accepted": 10, "rejected_count": len(files)}
    with services.database.session() as session:
        return [add_dataset(session, owner, domain, report=report, rejected=files).id for _ in range(4)]


def test_dataset_with_many_rejected_files_has_a_small_response_and_a_paged_report(
    tenant: Client, domain: str, rejected: list[str]
) -> None:
    dataset = tenant.get(f"/v1/datasets/{rejected[0]}")
    assert len(dataset.content) < 100_000
    report = dataset.json()["report"]
    assert (report["rejected_count"], len(report["rejected"])) == (19_990, 100)

    listed = tenant.get(f"/v1/domains/{domain}/datasets")
    assert len(listed.content) < 100_000
    assert [dataset["report"]["rejected_count"] for dataset in listed.json()["data"]] == [19_990] * 4

    first = tenant.read(f"/v1/datasets/{rejected[0]}/report", params={"limit": 100})
    assert first["data"] == report["rejected"]
    page = tenant.read(f"/v1/datasets/{rejected[0]}/report", params={"limit": 2, "cursor": first["next_cursor"]})
    assert [rejected["file"] for rejected in page["data"]] == [f"fruit/{k:0250}.png" for k in (100, 101)]
    last = tenant.read(f"/v1/datasets/{rejected[0]}/report", params={"cursor": "19989"})
    assert ([row["file"] for row in last["data"]], last["next_cursor"]) == ([f"fruit/{19_989:0250}.png"], None)
    problem(tenant.get(f"/v1/datasets/{rejected[0]}/report?cursor={rejected[0]}"), 422, "invalid_cursor")


def test_reading_a_dataset_skips_its_large_columns(rejected: list[str], services: Services) -> None:
    with services.database.session() as session:
        row = session.get_one(Dataset, rejected[0])
        assert not {"rejected", "members"} & row.__dict__.keys()


@pytest.fixture
def loaded_previews() -> Iterator[list[GenerationPreview]]:
    """Yields a list that receives each preview that is loaded."""
    loaded: list[GenerationPreview] = []

    def record(preview: GenerationPreview, _context: object) -> None:
        loaded.append(preview)

    event.listen(GenerationPreview, "load", record)
    yield loaded
    event.remove(GenerationPreview, "load", record)


@pytest.mark.parametrize("path", ["/v1/generations", "/v1/domains/{domain}/generations"])
def test_page_of_generations_loads_only_the_previews_that_fit_into_it(
    tenant: Client, domain: str, services: Services, loaded_previews: list[GenerationPreview], path: str
) -> None:
    owner = Scope(tenant.read("/v1/key")["tenant_id"])
    with services.database.session() as session:
        requests = {"status": "succeeded", "count": 64, "preview_count": 10}
        ids = [add_generation(session, owner, domain, **requests).id for _ in range(12)]
        common = {"tenant_id": owner.tenant, "object_key": "k", "sha256": "a" * 64, "size_bytes": 5000}
        image = {**common, "domain_id": domain, "seed": 0, "width": 64, "height": 64}
        keys = [{"generation_id": id, "index": index} for id in ids for index in range(64)]
        session.execute(insert(GenerationImage), [image | key for key in keys])
        steps = range(1, 11)
        session.execute(insert(GenerationPreview), [common | key | {"step": step} for key in keys for step in steps])
    with recorded_statements() as statements:
        page = tenant.read(path.format(domain=domain), params={"limit": 100})
    assert len(loaded_previews) < 6000
    assert sum("FROM generation_previews" in statement for statement in statements) == 1
    pages = [page["data"]]
    while page["next_cursor"] is not None:
        page = tenant.read(path.format(domain=domain), params={"limit": 100, "cursor": page["next_cursor"]})
        pages.append(page["data"])
    assert [row["id"] for data in pages for row in data] == sorted(ids, reverse=True)
    assert {(len(row["images"]), len(row["previews"])) for data in pages for row in data} == {(64, 640)}


class Item(BaseModel):
    id: int
    text: str


def test_page_ends_with_the_item_that_fills_it() -> None:
    page = page_of([Item(id=k, text="x" * 400) for k in range(11)], PageRequest(limit=10), lambda item: str(item.id))
    for max_bytes, count in ((1, 1), (1000, 3), (2**20, 10)):
        fitted = listing(page, lambda item: item, max_bytes)
        assert [item.id for item in fitted.data] == list(range(count))
        assert fitted.next_cursor == str(count - 1)
    whole = page_of(page.data, PageRequest(limit=10), lambda item: str(item.id))
    assert listing(whole, lambda item: item).next_cursor is None


def bodies(document: dict[str, Any]) -> list[tuple[str, str, dict[str, Any]]]:
    """Returns (method, path, schema) of every route that accepts JSON."""
    schemas = document["components"]["schemas"]
    return [
        (method.upper(), path, schemas[operation["requestBody"]["content"]["application/json"]["schema"]["$ref"][21:]])
        for path, operations in document["paths"].items()
        for method, operation in operations.items()
        if "application/json" in operation.get("requestBody", {}).get("content", {})
    ]


def hostile(schema: dict[str, Any]) -> list[bytes]:
    """Yields bodies of up to a megabyte that break a schema as often as possible."""
    unknown, few = ("{" + ",".join(f'"{k}":0' for k in range(count)) + "}" for count in (90_000, 9_000))
    objects, texts = (f"[{','.join([item] * 5_000)}]" for item in ('{"a":0}', '"no"'))
    many, long = f"[{'0,' * 500_000}0]", "x" * 900_000
    fields = [f'{{"{name}":{value}}}' for name in schema["properties"] for value in (objects, texts)]
    return [text.encode() for text in (unknown, few, objects, many, f'{{"{long}":0}}', *fields)]


def test_invalid_body_of_a_megabyte_gets_a_small_response(tenant: Client, admin: Client) -> None:
    limited = bodies(tenant.read("/openapi.json"))
    assert len(limited) >= 12
    for method, path, schema in limited:
        client = admin if path.startswith("/v1/admin") else tenant
        for body in hostile(schema):
            assert len(body) < MEGABYTE
            answer = client.request(method, path, content=body, headers=JSON)
            refused = problem(answer, 422, "invalid_request")
            assert len(answer.content) < 10_000, (method, path, body[:40])
            assert len(refused["errors"]) <= MAX_ERRORS


def test_response_has_the_number_of_errors_if_not_all_are_listed(tenant: Client) -> None:
    refused = problem(tenant.post("/v1/domains", {f"f{k}": 0 for k in range(MAX_FIELDS)}), 422, "invalid_request")
    assert (len(refused["errors"]), refused["error_count"]) == (MAX_ERRORS, MAX_FIELDS + 1)  # `name` is also missing
    refused = problem(tenant.post("/v1/domains", {f"f{k}": 0 for k in range(MAX_FIELDS + 1)}), 422, "invalid_request")
    assert refused["errors"][0]["code"] == "too_many_fields"
    nested = {"name": "x", "quotas": {f"f{k}": 0 for k in range(MAX_FIELDS + 1)}}
    assert problem(tenant.post("/v1/domains", nested), 422, "invalid_request")["errors"][0]["code"] == "too_many_fields"
    assert json.loads(tenant.post("/v1/domains", {"name": "x"}).content)["name"] == "x"
