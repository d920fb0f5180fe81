import uuid
from concurrent.futures import ThreadPoolExecutor

import pytest

from api.deps import Services
from core.service import fleet, jobs
from core.service.db.models import Generation
from tests.api.client import Api, Client, draw_generations, problem
from tests.api.conftest import finetuned


@pytest.fixture
def name() -> str:
    return f"tenant {uuid.uuid4()}"


def test_tenant_is_created_changed_and_deleted(admin: Client, name: str) -> None:
    response = admin.post("/v1/admin/tenants", {"name": name})
    assert response.status_code == 201
    tenant = response.json()
    assert tenant["id"].startswith("ten_")
    assert (tenant["weight"], tenant["quotas"]) == (1, {})
    path = f"/v1/admin/tenants/{tenant['id']}"
    assert admin.read(path) == tenant
    changed = admin.patch(path, {"weight": 2.5, "quotas": {"images_per_day": 10}}).json()
    assert (changed["name"], changed["weight"], changed["quotas"]) == (name, 2.5, {"images_per_day": 10})
    assert tenant["id"] in [row["id"] for row in admin.read("/v1/admin/tenants", params={"limit": 100})["data"]]
    assert admin.delete(path).status_code == 204
    for answer in (admin.get(path), admin.patch(path, {"weight": 1}), admin.delete(path), admin.get(f"{path}/keys")):
        problem(answer, 404, "not_found")


def test_tenant_is_created_with_its_weight_and_quotas(admin: Client, name: str) -> None:
    tenant = admin.made("/v1/admin/tenants", {"name": name, "weight": 2.5, "quotas": {"webhooks": 3}})
    assert (tenant["weight"], tenant["quotas"]) == (2.5, {"webhooks": 3})
    for body in ({"weight": 0}, {"quotas": {"images": 1}}):
        problem(admin.post("/v1/admin/tenants", {"name": f"{name} 2", **body}), 422, "invalid_request")


def test_tenants_are_searched_by_a_part_of_their_name(admin: Client, name: str) -> None:
    tenant = admin.made("/v1/admin/tenants", {"name": f"{name} 100%"})
    for part in (name, name[7:].upper(), "100%"):
        assert tenant in admin.read("/v1/admin/tenants", params={"name": part})["data"]
    for other in (f"{name}!", "1_0%"):
        assert admin.read("/v1/admin/tenants", params={"name": other})["data"] == []


@pytest.mark.parametrize(
    "body",
    [{"weight": 0}, {"weight": -1}, {"weight": None}, {"quotas": {"stored_bytes": -1}}, {"quotas": None},
     {"quotas": {"stored_bytes": 2**53}}, {"quotas": {"images": 1}}, {"name": None}],
)  # fmt: skip
def test_invalid_changes_are_rejected(admin: Client, name: str, body: dict[str, object]) -> None:
    tenant = admin.made("/v1/admin/tenants", {"name": name})
    problem(admin.patch(f"/v1/admin/tenants/{tenant['id']}", body), 422, "invalid_request")


def test_names_of_tenants_are_unique_even_when_two_ask_at_once(admin: Client, name: str) -> None:
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda _: admin.post("/v1/admin/tenants", {"name": name}), range(8)))
    assert sorted(answer.status_code for answer in answers) == [201] + [409] * 7
    assert {answer.json()["code"] for answer in answers if answer.status_code == 409} <= {"name_taken", "conflict"}


def test_keys_are_listed_without_their_secrets(api: Api, admin: Client, name: str) -> None:
    tenant = admin.made("/v1/admin/tenants", {"name": name})
    path = f"/v1/admin/tenants/{tenant['id']}/keys"
    issued = admin.made(path, {"name": "shop", "scopes": ["read"]})
    assert (issued["scopes"], issued["tenant_id"], issued["last_used_at"]) == (["read"], tenant["id"], None)
    api.client(issued["key"]).read("/v1/domains")
    (listed,) = admin.read(path)["data"]
    assert "key" not in listed
    assert listed["id"] == issued["id"]
    assert listed["last_used_at"] is not None
    for scopes in (["admin"], [], ["read", "read", "read"], "read"):
        problem(admin.post(path, {"name": "k", "scopes": scopes}), 422, "invalid_request")


def test_keys_of_a_deleted_tenant_stop_working(api: Api, admin: Client, name: str) -> None:
    client = api.tenant(name)
    id = next(
        row["id"] for row in admin.read("/v1/admin/tenants", params={"limit": 100})["data"] if row["name"] == name
    )
    client.made("/v1/domains", {"name": "d"})
    assert admin.delete(f"/v1/admin/tenants/{id}").status_code == 204
    problem(client.get("/v1/domains"), 401, "unauthenticated")


def test_adapters_are_listed_with_the_workers_that_have_them(
    admin: Client, tenant: Client, domain: str, adapter: str, services: Services
) -> None:
    mine = tenant.read(f"/v1/adapters/{adapter}")
    report = {"device": "cpu", "base_digest": mine["base_digest"], "queues": ["generate"], "resident": [mine["sha256"]]}
    with services.database.session() as session:
        fleet.report_worker(session, "wrk_1", "machine", 7, report)
    filters = {"domain_id": domain, "base_digest": mine["base_digest"], "status": "ready"}
    (adapter,) = admin.read("/v1/admin/adapters", params=filters)["data"]
    owner = {"tenant_id": adapter["tenant_id"], "tenant_name": tenant.read("/v1/key")["tenant_name"]}
    names = {**owner, "domain_name": tenant.read(f"/v1/domains/{domain}")["name"]}
    assert adapter == {**mine, **names, "resident_on": ["wrk_1"]}
    assert admin.read("/v1/admin/adapters", params={"tenant_id": adapter["tenant_id"]})["data"] == [adapter]
    for nothing in ({"status": "quarantined"}, {"base_digest": "0"}, {"tenant_id": "ten_x"}):
        assert admin.read("/v1/admin/adapters", params={"domain_id": domain, **nothing})["data"] == []
    (worker,) = admin.read("/v1/admin/workers")["data"]
    assert (worker["id"], worker["pid"], worker["resident"]) == ("wrk_1", 7, [mine["sha256"]])
    with services.database.session() as session:
        fleet.forget_worker(session, "wrk_1")
    assert admin.read("/v1/admin/adapters", params={"domain_id": domain})["data"][0]["resident_on"] == []


def test_usage_and_audit_cover_all_tenants(admin: Client, tenant: Client, domain: str, adapter: str) -> None:
    listed = admin.read("/v1/admin/adapters", params={"domain_id": domain})["data"][0]
    usage_days = admin.read("/v1/admin/usage", params={"limit": 100})["data"]
    days = [day for day in usage_days if day["tenant_id"] == listed["tenant_id"]]
    assert [(day["training_seconds"], day["tenant_name"]) for day in days] == [(3.0, listed["tenant_name"])]
    recorded = admin.read("/v1/admin/audit", params={"tenant_id": listed["tenant_id"], "limit": 100})["data"]
    targets = {entry["target"]: entry["target_name"] for entry in recorded if entry["target_name"]}
    assert targets == {listed["tenant_id"]: listed["tenant_name"], domain: "Fruit"}
    tenant.delete(f"/v1/domains/{domain}")
    entries = admin.read("/v1/admin/audit", params={"tenant_id": listed["tenant_id"], "limit": 100})["data"]
    actions = [entry["action"] for entry in entries]
    assert actions == [
        "domain.delete", "adapter.promote", "adapter.create", "finetune.create", "dataset.create", "domain.create",
        "key.create", "tenant.create",
    ]  # fmt: skip
    assert entries[0]["target"] == domain
    assert {entry["tenant_name"] for entry in entries} == {tenant.read("/v1/key")["tenant_name"]}
    assert entries[0]["actor_key_id"] == f"key_{tenant.headers['Authorization'].split('_')[1]}"
    page = admin.read("/v1/admin/audit", params={"tenant_id": listed["tenant_id"], "limit": 4})
    rest = admin.read("/v1/admin/audit", params={"tenant_id": listed["tenant_id"], "cursor": page["next_cursor"]})
    assert page["data"] + rest["data"] == entries


def test_totals_of_the_stored_adapters_follow_the_filters(
    admin: Client, tenant: Client, domain: str, dataset: str, adapter: str, services: Services
) -> None:
    finetuned(tenant, domain, dataset, services, seed=1)
    own = admin.read("/v1/admin/adapters", params={"domain_id": domain})["data"]
    totals = admin.read("/v1/admin/adapters/totals", params={"domain_id": domain})
    size = sum(adapter["size_bytes"] for adapter in own)
    assert totals == {"adapters": 2, "tenants": 1, "domains": 1, "size_bytes": size}
    none = admin.read("/v1/admin/adapters/totals", params={"domain_id": domain, "status": "quarantined"})
    assert none == {"adapters": 0, "tenants": 0, "domains": 0, "size_bytes": 0}
    assert admin.read("/v1/admin/adapters/totals")["adapters"] >= 2
    problem(tenant.get("/v1/admin/adapters/totals"), 403, "forbidden")


def test_queues_count_waiting_and_running_jobs(
    admin: Client, tenant: Client, domain: str, adapter: str, services: Services
) -> None:
    draw_generations(services)
    for _ in range(2):
        tenant.made(f"/v1/domains/{domain}/generations", {"class_id": 0})
    with services.database.session() as session:
        assert jobs.claim_next(session, Generation, "wrk_test", 60)
    queues = {queue["queue"]: queue for queue in admin.read("/v1/admin/queues")["data"]}
    assert set(queues) == {"datasets", "finetune", "generate"}
    assert (queues["generate"]["waiting"], queues["generate"]["running"]) == (1, 1)
    assert queues["generate"]["oldest_waiting_at"] is not None
    assert queues["finetune"]["oldest_waiting_at"] is None
