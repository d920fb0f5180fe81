import datetime
import logging
import uuid
from typing import Any

import pytest

from api.deps import Services
from core.service.db.models import ApiKey
from core.service.db.session import database_now
from tests.api.client import Api, Client, problem


@pytest.mark.parametrize(
    "header",
    ["", "Bearer", "Bearer ", "Basic YTpi", "Bearer x", "Bearer dfk_", "Bearer dfk__", "dfk_x_y", "Bearer dfk_a_b_c",
     "Bearer dfk_01m84b6j222zcre9wxh8wwd3ch_wrong", "Bearer " + "x" * 10_000, "Bearer \t dfk_x"],
)  # fmt: skip
def test_malformed_keys_are_rejected(api_client: Client, header: str) -> None:
    refused = api_client.get("/v1/domains", headers={"Authorization": header})
    problem(refused, 401, "unauthenticated")
    assert refused.headers["www-authenticate"] == "Bearer"


def test_missing_header_is_explained(api_client: Client) -> None:
    assert "Authorization: Bearer <key>" in problem(api_client.get("/v1/usage"), 401, "unauthenticated")["detail"]


def test_keys_that_are_not_ascii_are_rejected(api_client: Client) -> None:
    for secret in (b"Bearer dfk_\xff\xfe", "Bearer schlüssel".encode(), b"Bearer dfk_\x00"):
        refused = api_client.get("/v1/domains", headers={"Authorization": secret})  # type: ignore[dict-item]
        problem(refused, 401, "unauthenticated")


def test_wrong_secret_of_an_existing_key_is_rejected(api: Api, tenant: Client) -> None:
    key = tenant.headers["Authorization"].removeprefix("Bearer ")
    prefix, id, secret = key.split("_", 2)
    for wrong in (f"{prefix}_{id}_{secret[:-1]}", f"{prefix}_{id}_{secret}x", f"{prefix}_{id.upper()}_{secret}"):
        problem(api.client(wrong).get("/v1/domains"), 401, "unauthenticated")
    assert tenant.get("/v1/domains").status_code == 200


def test_scopes_limit_what_a_key_may_do(api: Api) -> None:
    reader = api.tenant(f"reader {uuid.uuid4()}", ["read"])
    writer = api.tenant(f"writer {uuid.uuid4()}", ["write"])
    assert "'write'" in problem(reader.post("/v1/domains", {"name": "d"}), 403, "forbidden")["detail"]
    assert reader.get("/v1/domains").status_code == 200
    assert writer.post("/v1/domains", {"name": "d"}).status_code == 201
    problem(writer.get("/v1/domains"), 403, "forbidden")


def test_tenants_and_administrators_cannot_use_each_others_routes(tenant: Client, admin: Client) -> None:
    problem(tenant.get("/v1/admin/tenants"), 403, "forbidden")
    problem(tenant.post("/v1/admin/tenants", {"name": "mine"}), 403, "forbidden")
    problem(admin.get("/v1/domains"), 403, "forbidden")
    problem(admin.post("/v1/domains", {"name": "d"}), 403, "forbidden")
    problem(admin.get("/v1/usage"), 403, "forbidden")


def test_revoked_key_stops_working_immediately(tenant: Client, admin: Client) -> None:
    id = key_id(tenant)
    assert admin.delete(f"/v1/admin/keys/{id}").status_code == 204
    problem(tenant.get("/v1/domains"), 401, "unauthenticated")
    problem(admin.delete("/v1/admin/keys/key_x"), 404, "not_found")


def test_expired_key_is_rejected(tenant: Client, services: Services) -> None:
    id = key_id(tenant)
    for _ in range(2):
        assert tenant.get("/v1/domains").status_code == 200
        expire(services, id)
        problem(tenant.get("/v1/domains"), 401, "unauthenticated")
        with services.database.session() as session:
            session.get_one(ApiKey, id).expires_at = None


def test_expiry_is_set_at_creation_or_later(api: Api, admin: Client, services: Services) -> None:
    tenant = admin.made("/v1/admin/tenants", {"name": f"t {uuid.uuid4()}"})
    path = f"/v1/admin/tenants/{tenant['id']}/keys"
    created = admin.made(path, {"name": "for an hour", "lifetime_seconds": 3600})
    assert lifetime(created) == pytest.approx(3600, abs=60)
    assert admin.made(path, {"name": "for ever"})["expires_at"] is None
    client, own = api.client(created["key"]), f"/v1/admin/keys/{created['id']}"
    expire(services, created["id"])
    problem(client.get("/v1/domains"), 401, "unauthenticated")
    changed = admin.patch(own, {"lifetime_seconds": 60}).json()
    assert lifetime(changed) == pytest.approx(60, abs=30)
    assert changed["name"] == "for an hour"
    assert client.get("/v1/domains").status_code == 200
    assert admin.patch(own, {"name": "for ever", "lifetime_seconds": None}).json()["expires_at"] is None
    assert admin.read(path)["data"][1]["name"] == "for ever"
    for odd in ({"lifetime_seconds": 0}, {"lifetime_seconds": 2**40}, {"name": None}, {"scopes": ["read"]}):
        problem(admin.patch(own, odd), 422, "invalid_request")
    problem(admin.patch("/v1/admin/keys/key_x", {"name": "n"}), 404, "not_found")


def test_rotated_key_works_until_the_overlap_ends(api: Api, admin: Client, services: Services) -> None:
    old = api.tenant(f"rotating {uuid.uuid4()}", ["read"])
    rotated = admin.made(f"/v1/admin/keys/{key_id(old)}/rotate", {"overlap_seconds": 3600, "lifetime_seconds": 7200})
    new = api.client(rotated["key"])
    assert (rotated["scopes"], rotated["name"]) == (["read"], "key")
    assert lifetime(rotated) == pytest.approx(7200, abs=60)
    (before,) = (key for key in admin.read(keys_of(rotated))["data"] if key["id"] == key_id(old))
    assert lifetime(before) == pytest.approx(3600, abs=60)
    for client in (old, new):
        assert client.get("/v1/domains").status_code == 200
    expire(services, key_id(old))
    problem(old.get("/v1/domains"), 401, "unauthenticated")
    assert new.get("/v1/domains").status_code == 200


def test_rotation_never_prolongs_the_old_key_and_can_end_it_immediately(api: Api, admin: Client) -> None:
    client = api.tenant(f"rotating {uuid.uuid4()}")
    path = f"/v1/admin/keys/{key_id(client)}"
    first = admin.patch(path, {"lifetime_seconds": 600}).json()
    admin.made(f"{path}/rotate", {})  # with an overlap of one day
    assert first in admin.read(keys_of(first))["data"]
    rotated = admin.made(f"{path}/rotate", {"overlap_seconds": 0})
    problem(client.get("/v1/domains"), 401, "unauthenticated")
    assert api.client(rotated["key"]).get("/v1/domains").status_code == 200


def test_rotated_key_keeps_its_lifetime_unless_another_is_given(api: Api, admin: Client) -> None:
    client = api.tenant(f"rotating {uuid.uuid4()}")
    path = f"/v1/admin/keys/{key_id(client)}/rotate"
    assert [admin.made(path, {})["expires_at"] for _ in range(2)] == [None, None]  # twice: the first left it an expiry
    admin.patch(path.removesuffix("/rotate"), {"lifetime_seconds": 7200})
    first = admin.made(path, {"overlap_seconds": 60})
    for key in (first, admin.made(path, {}), admin.made(f"/v1/admin/keys/{first['id']}/rotate", {})):
        assert lifetime(key) == pytest.approx(7200, abs=60)
    assert admin.made(path, {"lifetime_seconds": None})["expires_at"] is None


def test_new_key_of_a_rotation_is_returned_only_once(api: Api, admin: Client) -> None:
    path = f"/v1/admin/keys/{key_id(api.tenant(f'rotating {uuid.uuid4()}'))}/rotate"
    headers = {"Idempotency-Key": str(uuid.uuid4())}
    first, again = (admin.made(path, {"overlap_seconds": 60}, headers=headers) for _ in range(2))
    assert first["key"].startswith("dfk_")
    assert again == {**first, "key": None}
    assert len(admin.read(keys_of(first))["data"]) == 2


def test_revoked_key_cannot_be_changed_or_rotated(api: Api, admin: Client) -> None:
    client = api.tenant(f"revoked {uuid.uuid4()}")
    path = f"/v1/admin/keys/{key_id(client)}"
    admin.delete(path)
    problem(admin.patch(path, {"lifetime_seconds": None}), 409, "key_revoked")
    problem(admin.post(f"{path}/rotate", {}), 409, "key_revoked")
    problem(client.get("/v1/domains"), 401, "unauthenticated")


def test_last_administrators_key_cannot_be_ended(admin: Client) -> None:
    id = admin.read("/v1/key")["id"]
    problem(admin.delete(f"/v1/admin/keys/{id}"), 409, "last_admin_key")
    problem(admin.patch(f"/v1/admin/keys/{id}", {"lifetime_seconds": 60}), 409, "last_admin_key")
    problem(admin.post(f"/v1/admin/keys/{id}/rotate", {"lifetime_seconds": 60}), 409, "last_admin_key")
    assert admin.read("/v1/key")["revoked_at"] is None


def test_administrators_keys_are_created_listed_rotated_and_revoked(api: Api, admin: Client) -> None:
    path, own = "/v1/admin/keys", admin.read("/v1/key")["id"]
    created = admin.made(path, {"name": "Ada", "lifetime_seconds": 7200})
    assert (created["tenant_id"], created["scopes"], created["name"]) == (None, ["admin"], "Ada")
    assert lifetime(created) == pytest.approx(7200, abs=60)
    ada = api.client(created["key"])
    problem(ada.delete(f"{path}/{own}"), 409, "last_admin_key")  # hers expires
    rotated = ada.made(f"{path}/{created['id']}/rotate", {"overlap_seconds": 0, "lifetime_seconds": None})
    problem(ada.get(path), 401, "unauthenticated")
    first = api.client(rotated["key"]).read(path, params={"limit": 1})
    second = admin.read(path, params={"limit": 1, "cursor": first["next_cursor"]})
    listed = first["data"] + second["data"]
    assert [(key["id"], key["tenant_id"]) for key in listed] == [(rotated["id"], None), (created["id"], None)]
    assert all("key" not in key for key in listed)
    assert admin.delete(f"{path}/{rotated['id']}").status_code == 204
    problem(admin.delete(f"{path}/{own}"), 409, "last_admin_key")
    entries = admin.read("/v1/admin/audit", params={"limit": 100})["data"]
    actors = {entry["target"]: entry["actor_key_id"] for entry in entries if entry["action"] == "key.create"}
    assert (actors[created["id"]], actors[rotated["id"]]) == (own, created["id"])


def test_invalid_administrators_keys_are_rejected(admin: Client, tenant: Client) -> None:
    for body in ({"name": ""}, {"name": "k", "lifetime_seconds": 0}, {"name": "k", "scopes": ["admin"]}):
        problem(admin.post("/v1/admin/keys", body), 422, "invalid_request")
    for response in (tenant.get("/v1/admin/keys"), tenant.post("/v1/admin/keys", {"name": "mine"})):
        problem(response, 403, "forbidden")


def test_every_change_of_a_key_is_in_the_audit_log(api: Api, admin: Client) -> None:
    id = key_id(api.tenant(f"audited {uuid.uuid4()}"))
    path = f"/v1/admin/keys/{id}"
    admin.patch(path, {"name": "renamed"})
    rotated = admin.made(f"{path}/rotate", {"overlap_seconds": 60})
    admin.delete(path)
    entries = admin.read("/v1/admin/audit", params={"tenant_id": rotated["tenant_id"]})["data"]
    actions = [(entry["action"], entry["target"]) for entry in entries]
    assert actions == [
        ("key.revoke", id), ("key.rotate", id), ("key.create", rotated["id"]), ("key.change", id), ("key.create", id),
        ("tenant.create", rotated["tenant_id"]),
    ]  # fmt: skip
    assert entries[1]["detail"] == {"successor": rotated["id"], "overlap_seconds": 60}
    assert entries[3]["detail"] == {"name": "renamed"}
    assert all(entry["actor_key_id"] for entry in entries)


def test_last_use_is_recorded_at_most_once_a_minute(tenant: Client, services: Services) -> None:
    id = key_id(tenant)

    def last_used() -> datetime.datetime | None:
        with services.database.session() as session:
            return session.get_one(ApiKey, id).last_used_at

    assert last_used() is None
    tenant.get("/v1/domains")
    first = last_used()
    assert first is not None
    tenant.get("/v1/domains")
    assert last_used() == first
    with services.database.session() as session:
        session.get_one(ApiKey, id).last_used_at = first - datetime.timedelta(seconds=61)
    tenant.get("/v1/domains")
    noted = last_used()
    assert noted is not None
    assert noted >= first


def test_secrets_appear_in_no_log_and_no_row(
    tenant: Client, services: Services, caplog: pytest.LogCaptureFixture
) -> None:
    secret = tenant.headers["Authorization"].split("_", 2)[2]
    with caplog.at_level(logging.INFO):
        tenant.get("/v1/domains")
    assert "request" in caplog.text
    assert secret not in caplog.text
    with services.database.session() as session:
        row = session.get_one(ApiKey, key_id(tenant))
        assert secret not in str(vars(row))


def key_id(client: Client) -> str:
    return f"key_{client.headers['Authorization'].split('_')[1]}"


def keys_of(key: dict[str, Any]) -> str:
    return f"/v1/admin/tenants/{key['tenant_id']}/keys"


def lifetime(key: dict[str, Any]) -> float:
    """Returns the seconds from now until the key expires."""
    return (datetime.datetime.fromisoformat(key["expires_at"]) - datetime.datetime.now(datetime.UTC)).total_seconds()


def expire(services: Services, id: str) -> None:
    with services.database.session() as session:
        session.get_one(ApiKey, id).expires_at = database_now(session)


def test_own_key_shows_its_tenant_and_scopes(tenant: Client, admin: Client) -> None:
    own = tenant.read("/v1/key")
    assert own["tenant_name"] == admin.read(f"/v1/admin/tenants/{own['tenant_id']}")["name"]
    assert own["scopes"] == ["read", "write"]
    assert "secret" not in str(own)
    administrators = admin.read("/v1/key")
    assert (administrators["tenant_id"], administrators["tenant_name"]) == (None, None)
    assert administrators["scopes"] == ["admin"]
