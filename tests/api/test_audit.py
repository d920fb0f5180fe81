"""Audit log entries of requests and jobs: the actor, the client's address and the request."""

from typing import Any

import httpx
import pytest

from api import refused_keys
from api.deps import Services
from core.service import adapters
from tests.api.client import Api, Client, adapter_file

ADDRESS = "127.0.0.1"
"""Address of requests that tests send without a socket."""


def entries(admin: Client, client: Client) -> list[dict[str, Any]]:
    """Returns all entries of the client's tenant, oldest first."""
    tenant = client.read("/v1/key")["tenant_id"]
    newest: list[dict[str, Any]] = admin.read("/v1/admin/audit", params={"tenant_id": tenant, "limit": 100})["data"]
    return newest[::-1]


def refusals(admin: Client) -> list[dict[str, Any]]:
    everything = admin.read("/v1/admin/audit", params={"limit": 100})["data"]
    return [entry for entry in everything if entry["action"] == "key.refuse"]


def test_entries_are_filtered_by_action_key_and_time(admin: Client, tenant: Client) -> None:
    for name in ("first", "second"):
        tenant.made("/v1/domains", {"name": name})
    own = tenant.read("/v1/key")
    *_, first, second = entries(admin, tenant)
    assert entry_ids(admin, tenant_id=own["tenant_id"], action="domain.create") == [second["id"], first["id"]]
    assert entry_ids(admin, actor_key_id=own["id"]) == [second["id"], first["id"]]
    assert entry_ids(admin, actor_key_id=own["id"], created_after=first["created_at"]) == [second["id"]]
    assert entry_ids(admin, actor_key_id=own["id"], created_before=second["created_at"]) == [first["id"]]
    assert entry_ids(admin, actor_key_id=own["id"], action="domain.delete") == []
    for time in ("0001-01-01T00:00:00+23:59", "9999-12-31T23:59:59-23:59"):
        entry_ids(admin, created_after=time, created_before=time)


def entry_ids(admin: Client, **filters: str) -> list[int]:
    return [entry["id"] for entry in admin.read("/v1/admin/audit", params=filters)["data"]]


def test_adapter_of_a_finetune_is_recorded_as_created_and_promoted(
    admin: Client, tenant: Client, domain: str, adapter: str
) -> None:
    created, promoted = (entry for entry in entries(admin, tenant) if entry["action"].startswith("adapter."))
    assert (created["action"], promoted["action"]) == ("adapter.create", "adapter.promote")
    (finetune,) = tenant.read(f"/v1/domains/{domain}/finetunes")["data"]
    for entry in (created, promoted):
        assert entry["target"] == adapter
        assert entry["actor_key_id"] is None
        assert entry["detail"] == {"domain_id": domain, "finetune_id": finetune["id"]}


def test_upload_that_becomes_active_is_recorded_as_promoted(admin: Client, tenant: Client, domain: str) -> None:
    for seed in (1, 2):  # only the first version becomes active automatically
        assert tenant.upload(f"/v1/domains/{domain}/adapters", adapter_file(seed=seed)).status_code == 201
    actions = [entry["action"] for entry in entries(admin, tenant) if entry["action"].startswith("adapter.")]
    assert actions == ["adapter.upload", "adapter.promote", "adapter.upload"]


def test_quarantine_is_recorded_once(admin: Client, tenant: Client, adapter: str, services: Services) -> None:
    for _ in range(2):
        with services.database.session() as session:
            adapters.quarantine(session, adapter)
    (entry,) = (entry for entry in entries(admin, tenant) if entry["action"] == "adapter.quarantine")
    assert (entry["target"], entry["actor_key_id"]) == (adapter, None)


def test_generations_and_downloads_are_recorded_with_address_and_request(
    admin: Client, tenant: Client, domain: str, adapter: str
) -> None:
    sent = {"X-Request-ID": "drawn-by-a-test"}
    generation = tenant.made(f"/v1/domains/{domain}/generations", {"class_id": 0}, headers=sent)["id"]
    tenant.made(f"/v1/generations/{generation}/cancel", headers={"X-Request-ID": "cancelled-by-a-test"})
    assert tenant.get(f"/v1/adapters/{adapter}/download").status_code == 200
    created, cancelled, downloaded = entries(admin, tenant)[-3:]
    assert (created["action"], created["target"]) == ("generation.create", generation)
    assert (cancelled["action"], cancelled["target"]) == ("generation.cancel", generation)
    assert (downloaded["action"], downloaded["target"]) == ("adapter.download", adapter)
    assert [entry["request_id"] for entry in (created, cancelled)] == ["drawn-by-a-test", "cancelled-by-a-test"]
    key = tenant.read("/v1/key")["id"]
    for entry in (created, cancelled, downloaded):
        assert (entry["actor_key_id"], entry["address"]) == (key, ADDRESS)


def test_rejected_keys_are_counted_per_address(api: Api, admin: Client, tenant: Client) -> None:
    api.app.state.services.refused_keys.record()
    before = refusals(admin)
    key = tenant.headers["Authorization"].removeprefix("Bearer ")
    wrong = api.client(f"{key}x")
    wrong.get("/v1/domains", headers={"X-Request-ID": "first-wrong-key"})
    for _ in range(4):
        wrong.get("/v1/domains")
    api.client().get("/v1/domains")  # a missing key does not count as a wrong one
    api.app.state.services.refused_keys.record()
    api.app.state.services.refused_keys.record()
    (entry,) = (entry for entry in refusals(admin) if entry not in before)
    assert entry["target"] == tenant.read("/v1/key")["id"]
    assert (entry["address"], entry["request_id"]) == (ADDRESS, "first-wrong-key")
    assert entry["detail"] == {"count": 5}
    assert key.split("_", 2)[2] not in str(entry), "the secret"


def test_rejected_keys_of_many_addresses_take_few_entries(
    api: Api, admin: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(refused_keys, "MAX_ADDRESSES", 3)
    api.app.state.services.refused_keys.record()
    before = refusals(admin)
    for number in range(1, 6):
        transport = httpx.ASGITransport(api.app, client=(f"192.0.2.{number}", 1))
        stranger = httpx.AsyncClient(transport=transport, base_url="http://api.test")
        assert Client(api.portal, stranger, "dfk_wrong").get("/v1/domains").status_code == 401
    api.app.state.services.refused_keys.record()
    counts = {entry["address"]: entry["detail"]["count"] for entry in refusals(admin) if entry not in before}
    assert counts == {"192.0.2.1": 1, "192.0.2.2": 1, "192.0.2.3": 1, None: 2}


def test_rejected_keys_are_written_when_the_process_stops(api: Api, admin: Client) -> None:
    recorder = refused_keys.RefusedKeys(api.app.state.services.database)
    api.app.state.services.refused_keys.record()
    before = refusals(admin)

    async def live() -> None:
        recorder.start()
        recorder._counts["198.51.100.7"] = refused_keys._Refusals("key_x", "the-last-request", 3)
        await recorder.stop()

    api.portal.call(live)
    (entry,) = (entry for entry in refusals(admin) if entry not in before)
    assert (entry["address"], entry["detail"]) == ("198.51.100.7", {"count": 3})
