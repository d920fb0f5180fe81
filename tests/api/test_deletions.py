"""Receipts of deletions by tenants and administrators."""

from api.deps import Services
from core.service import deletions
from tests.api.client import Client, problem


def test_tenant_reads_the_receipts_of_its_domains(
    admin: Client, tenant: Client, other: Client, domain: str, adapter: str, services: Services
) -> None:
    sha256 = tenant.read(f"/v1/adapters/{adapter}")["sha256"]
    location = tenant.delete(f"/v1/domains/{domain}").headers["location"]
    receipt = tenant.read(location)
    assert (receipt["kind"], receipt["target"], receipt["adapters"]) == ("domain", domain, [sha256])
    assert receipt["rows"]["adapters"] == receipt["rows"]["datasets"] == receipt["rows"]["finetunes"] == 1
    assert receipt["actor_key_id"] == f"key_{tenant.headers['Authorization'].split('_')[1]}"
    assert (receipt["objects"], receipt["done_at"]) == (0, None)
    for _ in range(2):
        deletions.advance(services.database, services.store)
    done = tenant.read(location)
    assert done["objects"] >= 2, "the data set and the adapter"
    assert done["bytes"] > 0
    assert done["done_at"] is not None
    listed = tenant.read("/v1/deletions")["data"]
    assert [row | {"adapters": [sha256]} for row in listed] == [done]
    assert admin.read(f"/v1/admin{location.removeprefix('/v1')}") == done
    problem(other.get(location), 404, "not_found")
    assert other.read("/v1/deletions")["data"] == []


def test_administrator_reads_the_receipts_of_tenants(admin: Client, tenant: Client, domain: str) -> None:
    id = admin.read("/v1/admin/tenants")["data"][0]["id"]
    location = admin.delete(f"/v1/admin/tenants/{id}").headers["location"]
    receipt = admin.read(location)
    assert (receipt["kind"], receipt["target"], receipt["tenant_id"]) == ("tenant", id, id)
    assert receipt["rows"] == {"api_keys": 1, "domains": 1, "tenants": 1}
    receipts = admin.read("/v1/admin/deletions", params={"tenant_id": id})["data"]
    assert [row["id"] for row in receipts] == [receipt["id"]]
    problem(tenant.get("/v1/deletions"), 401, "unauthenticated")
    problem(admin.get("/v1/admin/deletions/del_nothing"), 404, "not_found")
