import datetime
import logging
import uuid

import pytest

from api.deps import Services
from core.db.models import ApiKey
from tests.api.client import Api, Client, problem


@pytest.mark.parametrize(
    "header",
    ["", "Bearer", "Bearer ", "Basic YTpi", "Bearer x", "Bearer dfk_", "Bearer dfk__", "dfk_x_y", "Bearer dfk_a_b_c",
     "Bearer dfk_01m84b6j222zcre9wxh8wwd3ch_wrong", "Bearer " + "x" * 10_000, "Bearer \t dfk_x"],
)  # fmt: skip
def test_what_is_no_key_is_refused(api_client: Client, header: str) -> None:
    refused = api_client.get("/v1/domains", headers={"Authorization": header})
    problem(refused, 401, "unauthenticated")
    assert refused.headers["www-authenticate"] == "Bearer"


def test_without_a_header_the_answer_says_what_to_send(api_client: Client) -> None:
    assert "Authorization: Bearer <key>" in problem(api_client.get("/v1/usage"), 401, "unauthenticated")["detail"]


def test_keys_that_are_not_ascii_are_refused(api_client: Client) -> None:
    for secret in (b"Bearer dfk_\xff\xfe", "Bearer schlüssel".encode(), b"Bearer dfk_\x00"):
        refused = api_client.get("/v1/domains", headers={"Authorization": secret})  # type: ignore[dict-item]
        problem(refused, 401, "unauthenticated")


def test_a_wrong_secret_for_a_known_key_is_refused(api: Api, tenant: Client) -> None:
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


def test_tenants_and_administrators_keep_to_their_own(tenant: Client, admin: Client) -> None:
    problem(tenant.get("/v1/admin/tenants"), 403, "forbidden")
    problem(tenant.post("/v1/admin/tenants", {"name": "mine"}), 403, "forbidden")
    problem(admin.get("/v1/domains"), 403, "forbidden")
    problem(admin.post("/v1/domains", {"name": "d"}), 403, "forbidden")
    problem(admin.get("/v1/usage"), 403, "forbidden")


def test_a_revoked_key_stops_at_once(tenant: Client, admin: Client) -> None:
    id = f"key_{tenant.headers['Authorization'].split('_')[1]}"
    assert admin.delete(f"/v1/admin/keys/{id}").status_code == 204
    problem(tenant.get("/v1/domains"), 401, "unauthenticated")
    problem(admin.delete("/v1/admin/keys/key_x"), 404, "not_found")


def test_an_expired_key_is_refused(tenant: Client, services: Services) -> None:
    id = f"key_{tenant.headers['Authorization'].split('_')[1]}"
    now = datetime.datetime.now(datetime.UTC)
    for expires, status in ((now + datetime.timedelta(hours=1), 200), (now - datetime.timedelta(hours=1), 401)):
        with services.database.session() as session:
            session.get_one(ApiKey, id).expires_at = expires
        assert tenant.get("/v1/domains").status_code == status


def test_use_of_a_key_is_noted_at_most_once_a_minute(tenant: Client, services: Services) -> None:
    id = f"key_{tenant.headers['Authorization'].split('_')[1]}"

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


def test_secrets_are_in_no_log_and_in_no_row(
    tenant: Client, services: Services, caplog: pytest.LogCaptureFixture
) -> None:
    secret = tenant.headers["Authorization"].split("_", 2)[2]
    with caplog.at_level(logging.INFO):
        tenant.get("/v1/domains")
    assert "request" in caplog.text
    assert secret not in caplog.text
    with services.database.session() as session:
        row = session.get_one(ApiKey, f"key_{tenant.headers['Authorization'].split('_')[1]}")
        assert secret not in str(vars(row))
