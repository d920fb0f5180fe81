"""Quotas on a tenant's concurrent and daily use: refusals carry headers, and parallel requests cannot exceed them."""

import re
import uuid
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from fastapi import Request

from api.errors import RateLimited
from api.limits import RequestLimits
from core.service.config import Settings
from tests.api.client import Api, Client, adapter_file, draw_generations, images_zip, problem

ARCHIVE = images_zip()


@pytest.fixture
def give(admin: Client, tenant: Client) -> Any:
    """Sets quotas of the newest tenant."""
    id = admin.read("/v1/admin/tenants")["data"][0]["id"]

    def change(**quotas: int) -> None:
        assert admin.patch(f"/v1/admin/tenants/{id}", {"quotas": quotas}).json()["quotas"] == quotas

    return change


def used(tenant: Client, name: str) -> tuple[int | None, int]:
    quota = tenant.read("/v1/usage")["quotas"][name]
    return quota["limit"], quota["used"]


def test_active_finetunes_are_limited(tenant: Client, dataset: str, domain: str, give: Any) -> None:
    give(active_finetunes=2)
    path = f"/v1/domains/{domain}/finetunes"
    first, _ = (tenant.made(path, {"dataset_id": dataset}) for _ in range(2))
    answer = tenant.post(path, {"dataset_id": dataset})
    problem(answer, 429, "quota_exceeded")
    assert answer.headers["retry-after"] == "30"
    assert answer.headers["ratelimit-policy"].split(", ")[0] == '"active_finetunes";q=2'
    assert answer.headers["ratelimit"].split(", ")[0] == '"active_finetunes";r=0;t=30'
    assert used(tenant, "active_finetunes") == (2, 2)
    assert tenant.post(f"/v1/finetunes/{first['id']}/cancel").status_code in {200, 202}
    assert used(tenant, "active_finetunes") == (2, 1)
    tenant.made(path, {"dataset_id": dataset})


def test_parallel_posts_cannot_exceed_the_quota(tenant: Client, dataset: str, domain: str, give: Any) -> None:
    give(active_finetunes=3)
    path = f"/v1/domains/{domain}/finetunes"
    with ThreadPoolExecutor(12) as pool:
        statuses = list(pool.map(lambda _: tenant.post(path, {"dataset_id": dataset}).status_code, range(12)))
    assert (statuses.count(202), statuses.count(429)) == (3, 9)


def test_images_per_day_are_limited(tenant: Client, domain: str, give: Any) -> None:
    give(images_per_day=5)
    path = f"/v1/domains/{domain}/generations"
    body = {"class_id": 0, "adapter_id": "base", "count": 3}
    tenant.made(path, body)
    answer = tenant.post(path, body)
    problem(answer, 429, "quota_exceeded")
    assert 0 < int(answer.headers["retry-after"]) <= 86_400
    assert "Try again in" in answer.json()["detail"]
    more_than_a_day = tenant.post(path, {**body, "count": 6})
    problem(more_than_a_day, 429, "quota_exceeded")
    assert "is 5, 3 are used, and this needs 6. Ask for less" in more_than_a_day.json()["detail"]
    tenant.made(path, {**body, "count": 2})
    assert used(tenant, "images_per_day") == (5, 5)


def test_lowered_quota_applies_immediately(tenant: Client, domain: str, give: Any) -> None:
    path, body = f"/v1/domains/{domain}/generations", {"class_id": 0, "adapter_id": "base"}
    for _ in range(3):
        tenant.made(path, body)
    give(queued_generations=1)
    answer = tenant.post(path, body)
    problem(answer, 429, "queue_full")
    assert answer.headers["ratelimit-policy"].split(", ")[0] == '"queued_generations";q=1'


def test_datasets_and_stored_bytes_are_limited(tenant: Client, domain: str, give: Any) -> None:
    path = f"/v1/domains/{domain}/datasets"
    give(validating_datasets=1)
    assert tenant.upload(path, ARCHIVE).status_code == 202
    problem(tenant.upload(path, ARCHIVE), 429, "quota_exceeded")
    give(stored_bytes=len(ARCHIVE) + 100)
    answer = tenant.upload(path, ARCHIVE)
    problem(answer, 403, "storage_quota_exceeded")
    assert "retry-after" not in answer.headers
    problem(tenant.upload(f"/v1/domains/{domain}/adapters", adapter_file()), 403, "storage_quota_exceeded")
    assert used(tenant, "stored_bytes") == (len(ARCHIVE) + 100, len(ARCHIVE))


def test_full_storage_refuses_jobs_that_would_store_more(tenant: Client, domain: str, dataset: str, give: Any) -> None:
    _, stored = used(tenant, "stored_bytes")
    generations, finetunes = f"/v1/domains/{domain}/generations", f"/v1/domains/{domain}/finetunes"
    jobs = ((generations, {"class_id": 0, "adapter_id": "base"}), (finetunes, {"dataset_id": dataset}))
    give(stored_bytes=stored + 1)
    for path, body in jobs:
        tenant.made(path, body)
    give(stored_bytes=stored)
    for path, body in jobs:
        refused = problem(tenant.post(path, body), 403, "storage_quota_exceeded")
        assert f"{stored:,} of {stored:,} bytes are used. Delete" in refused["detail"]
        assert len(tenant.read(path)["data"]) == 1
    tenant.made(finetunes, {"dataset_id": dataset, "dry_run": True})


def test_tenant_has_the_services_quotas_by_default(tenant: Client) -> None:
    assert used(tenant, "queued_generations") == (500, 0)
    assert used(tenant, "images_per_day") == (100_000, 0)
    assert used(tenant, "stored_bytes") == (100 * 2**30, 0)


def test_quotas_are_counted_per_tenant(tenant: Client, give: Any, other: Client, dataset: str, domain: str) -> None:
    give(active_finetunes=0)
    problem(tenant.post(f"/v1/domains/{domain}/finetunes", {"dataset_id": dataset}), 429, "quota_exceeded")
    assert used(other, "active_finetunes") == (100, 0)


@pytest.mark.usefixtures("one_moment")
def test_requests_per_minute_are_limited(tenant: Client, give: Any, other: Client) -> None:
    assert tenant.get("/v1/domains").headers["ratelimit-policy"] == '"requests_per_minute";q=12000;w=60'
    give(requests_per_minute=4)
    passed = tenant.get("/v1/domains")
    assert passed.headers["ratelimit-policy"] == '"requests_per_minute";q=4;w=60'
    assert re.fullmatch(r'"requests_per_minute";r=3;t=[1-9]\d?', passed.headers["ratelimit"])
    problem(tenant.get("/v1/domains/dom_x"), 404, "not_found")
    assert used(tenant, "requests_per_minute") == (4, 3)
    tenant.made("/v1/domains", {"name": "The last"})
    for method, path in (("GET", "/v1/usage"), ("POST", "/v1/domains"), ("DELETE", "/v1/domains/dom_x")):
        refused = tenant.request(method, path)
        problem(refused, 429, "rate_limited")
        assert 1 <= int(refused.headers["retry-after"]) <= 60
        assert refused.headers["ratelimit"] == f'"requests_per_minute";r=0;t={refused.headers["retry-after"]}'
    assert other.get("/v1/domains").status_code == 200
    assert tenant.get("/livez").status_code == 200
    give(requests_per_minute=100)
    assert used(tenant, "requests_per_minute") == (100, 1)


@pytest.mark.usefixtures("one_moment")
def test_quota_rejection_also_reports_the_remaining_requests(
    tenant: Client, dataset: str, domain: str, give: Any
) -> None:
    give(active_finetunes=0, requests_per_minute=50)
    answer = tenant.post(f"/v1/domains/{domain}/finetunes", {"dataset_id": dataset})
    problem(answer, 429, "quota_exceeded")
    assert answer.headers["ratelimit-policy"] == '"active_finetunes";q=0, "requests_per_minute";q=50;w=60'
    assert answer.headers["ratelimit"].startswith('"active_finetunes";r=0;t=30, "requests_per_minute";r=49')


def test_signed_urls_do_not_count_as_requests(api: Api, tenant: Client, domain: str, give: Any) -> None:
    generation = tenant.made(f"/v1/domains/{domain}/generations", {"class_id": 0, "adapter_id": "base"})["id"]
    draw_generations(api.services)
    url = tenant.read(f"/v1/generations/{generation}")["images"][0]["url"]
    give(requests_per_minute=0)
    problem(tenant.get(url.split("?")[0]), 429, "rate_limited")
    assert api.client().get(url).status_code == 200


@pytest.mark.usefixtures("one_moment")
def test_wrong_keys_do_not_lock_out_valid_keys(settings: Settings, api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    limits = RequestLimits(settings.model_copy(update={"max_wrong_keys_per_minute": 3}))
    right = api.tenant(f"right {uuid.uuid4()}")
    monkeypatch.setitem(api.app.state.services.__dict__, "limits", limits)
    wrong = [api.client(f"dfk_{n}").get("/v1/domains") for n in range(4)]
    assert [response.status_code for response in wrong] == [401, 401, 401, 429]
    problem(wrong[-1], 429, "rate_limited")
    assert 1 <= int(wrong[-1].headers["retry-after"]) <= 60
    assert right.get("/v1/domains").status_code == 200, "this process has not seen the key before"


@pytest.mark.usefixtures("one_moment")
def test_wrong_keys_are_counted_over_all_processes(settings: Settings, redis_url: str) -> None:
    address = f"2001:db8:{uuid.uuid4().hex[:4]}:{uuid.uuid4().hex[:4]}:"
    changes = {"max_wrong_keys_per_minute": 2, "broker_url": redis_url}
    first, second = (RequestLimits(settings.model_copy(update=changes)) for _ in range(2))
    for limits, host in ((first, f"{address}:1"), (second, f"{address}:2")):
        limits.count_wrong_key(from_address(host))
    with pytest.raises(RateLimited):
        first.count_wrong_key(from_address(f"{address}:3"))  # one client owns a whole network of addresses
    first.count_wrong_key(from_address("2001:db8:ffff:ffff::1"))


def from_address(host: str) -> Request:
    return Request({"type": "http", "client": (host, 1234)})
