import datetime
import uuid
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest
from sqlalchemy import event, select, update
from sqlalchemy.exc import OperationalError
from sqlalchemy.orm import Session

from api.deps import Services
from api.idempotency import _Run
from core.service.db.models import Domain, IdempotencyKey
from core.service.errors import DatabaseUnavailable
from core.service.tenancy import SYSTEM
from tests.api.client import Client, images_zip, problem


@pytest.fixture
def key() -> dict[str, str]:
    return {"Idempotency-Key": str(uuid.uuid4())}


def test_repeated_request_gets_the_first_response(tenant: Client, key: dict[str, str]) -> None:
    first = tenant.post("/v1/domains", {"name": "Fruit"}, headers=key)
    again = tenant.post("/v1/domains", {"name": "Fruit"}, headers=key)
    assert (again.status_code, again.json()) == (first.status_code, first.json())
    assert "idempotent-replayed" not in first.headers
    assert again.headers["idempotent-replayed"] == "true"
    assert len(tenant.read("/v1/domains")["data"]) == 1


def test_key_with_another_body_or_path_is_rejected(tenant: Client, domain: str, key: dict[str, str]) -> None:
    tenant.made("/v1/domains", {"name": "One"}, headers=key)
    problem(tenant.post("/v1/domains", {"name": "Two"}, headers=key), 422, "idempotency_mismatch")
    problem(tenant.post("/v1/domains?x=1", {"name": "One"}, headers=key), 422, "idempotency_mismatch")
    problem(tenant.post("/v1/finetunes/ft_x/cancel", headers=key), 422, "idempotency_mismatch")


def test_keys_are_separate_for_each_tenant(tenant: Client, other: Client, key: dict[str, str]) -> None:
    first = tenant.made("/v1/domains", {"name": "Fruit"}, headers=key)
    second = other.made("/v1/domains", {"name": "Fruit"}, headers=key)
    assert first["id"] != second["id"]


def test_running_request_gets_a_conflict(tenant: Client, services: Services, key: dict[str, str]) -> None:
    tenant.made("/v1/domains", {"name": "Fruit"}, headers=key)
    wanted = select(IdempotencyKey).where(IdempotencyKey.key == key["Idempotency-Key"])
    with services.database.session() as session:
        session.execute(wanted).scalar_one().status_code = None  # the state until the first response
    problem(tenant.post("/v1/domains", {"name": "Fruit"}, headers=key), 409, "idempotency_conflict")


def test_failed_request_frees_its_key(tenant: Client, domain: str, key: dict[str, str]) -> None:
    body = {"class_id": 0}
    path = f"/v1/domains/{domain}/generations"
    problem(tenant.post(path, body, headers=key), 409, "no_active_adapter")
    problem(tenant.post(path, {}, headers=key), 422, "invalid_request")
    sent = tenant.post(path, {"class_id": 0, "adapter_id": "base"}, headers=key)
    assert sent.status_code == 202
    assert tenant.post(path, {"class_id": 0, "adapter_id": "base"}, headers=key).json()["id"] == sent.json()["id"]
    tenant.made(f"/v1/generations/{sent.json()['id']}/cancel")


def test_replay_does_not_contain_the_secret(admin: Client, services: Services, key: dict[str, str]) -> None:
    tenant = admin.made("/v1/admin/tenants", {"name": f"t {uuid.uuid4()}"})
    path = f"/v1/admin/tenants/{tenant['id']}/keys"
    first = admin.made(path, {"name": "k"}, headers=key)
    again = admin.made(path, {"name": "k"}, headers=key)
    assert first["key"].startswith("dfk_")
    assert again == {**first, "key": None}
    assert len(admin.read(path)["data"]) == 1
    with services.database.session() as session:
        rows = session.execute(select(IdempotencyKey.body)).scalars()
        assert first["key"] not in str(list(rows))


def test_upload_is_compared_by_its_bytes(tenant: Client, domain: str, key: dict[str, str]) -> None:
    path = f"/v1/domains/{domain}/datasets"
    archive = images_zip()
    first = tenant.upload(path, archive, headers=key)
    again = tenant.upload(path, archive, headers=key)  # with a different boundary
    assert first.request.headers["content-type"] != again.request.headers["content-type"]
    assert (again.status_code, again.json()) == (202, first.json())
    assert len(tenant.read(f"/v1/domains/{domain}/datasets")["data"]) == 1
    problem(tenant.upload(path, images_zip(each=3), headers=key), 422, "idempotency_mismatch")


@pytest.mark.parametrize("value", ["", "x" * 256, b"\xff", "ü".encode(), b"a\x7f"])
def test_malformed_idempotency_keys_are_rejected(tenant: Client, value: str | bytes) -> None:
    headers = {"Idempotency-Key": value}
    problem(tenant.post("/v1/domains", {"name": "d"}, headers=headers), 422, "invalid_request")  # type: ignore[dict-item]


def test_only_posts_are_stored(tenant: Client, domain: str, key: dict[str, str]) -> None:
    path = f"/v1/domains/{domain}"
    for name in ("One", "Two"):
        assert tenant.request("PATCH", path, json={"name": name}, headers=key).json()["name"] == name


def test_response_is_stored_only_after_the_commit(tenant: Client, services: Services, key: dict[str, str]) -> None:
    """If the commit fails, the key becomes free, so that no replay reports a resource that does not exist."""

    def mark(session: Session, _: object) -> None:
        session.info["adds_a_domain"] = any(isinstance(row, Domain) for row in session.new)

    def fail(session: Session) -> None:
        if session.info.get("adds_a_domain"):
            raise OperationalError("COMMIT", None, Exception("the connection is gone"))

    event.listen(Session, "after_flush", mark)
    event.listen(Session, "before_commit", fail)
    try:
        problem(tenant.post("/v1/domains", {"name": "Fruit"}, headers=key), 503, "database_unavailable")
    finally:
        event.remove(Session, "after_flush", mark)
        event.remove(Session, "before_commit", fail)
    assert tenant.read("/v1/domains")["data"] == []
    created = tenant.post("/v1/domains", {"name": "Fruit"}, headers=key)
    assert "idempotent-replayed" not in created.headers
    assert [row["id"] for row in tenant.read("/v1/domains")["data"]] == [created.json()["id"]]


def test_request_whose_process_died_after_its_commit_is_not_repeated(
    tenant: Client, services: Services, key: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(_Run, "end", lambda _: None)
        domain = tenant.made("/v1/domains", {"name": "Fruit"}, headers=key)
    problem(tenant.post("/v1/domains", {"name": "Fruit"}, headers=key), 409, "idempotency_conflict")
    _make_older(services, key)
    lost = problem(tenant.post("/v1/domains", {"name": "Fruit"}, headers=key), 409, "response_lost")
    assert domain["id"] in lost["detail"]
    assert len(tenant.read("/v1/domains")["data"]) == 1


def test_request_whose_process_died_before_its_commit_is_repeated(
    tenant: Client, services: Services, key: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    tenant.made("/v1/domains", {"name": "Fruit"})
    with monkeypatch.context() as patch:
        patch.setattr(_Run, "end", lambda _: None)
        problem(tenant.post("/v1/domains", {"name": "Fruit"}, headers=key), 409, "name_taken")
    _make_older(services, key)
    problem(tenant.post("/v1/domains", {"name": "Fruit"}, headers=key), 409, "name_taken")


def test_response_is_sent_when_it_cannot_be_stored(
    tenant: Client, key: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise DatabaseUnavailable()

    monkeypatch.setattr("core.service.idempotency.complete", fail)
    domain = tenant.made("/v1/domains", {"name": "Fruit"}, headers=key)
    assert [row["id"] for row in tenant.read("/v1/domains")["data"]] == [domain["id"]]


def test_generation_whose_request_fails_while_it_waits_is_not_created_again(
    tenant: Client, domain: str, key: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr("api.routes.generations._wait", _fail)
        problem(_generate(tenant, domain, key), 503, "database_unavailable")
    _assert_replayed(tenant, domain, key)


def test_generation_whose_process_died_while_its_request_waited_is_replayed(
    tenant: Client, services: Services, domain: str, key: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr("api.routes.generations._wait", _fail)
        patch.setattr(_Run, "end", lambda _: None)
        problem(_generate(tenant, domain, key), 503, "database_unavailable")
    problem(_generate(tenant, domain, key), 409, "idempotency_conflict")
    _make_older(services, key)
    _assert_replayed(tenant, domain, key)


def test_concurrent_requests_run_only_once(tenant: Client, key: dict[str, str]) -> None:
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda _: tenant.post("/v1/domains", {"name": "Fruit"}, headers=key), range(8)))
    assert {answer.status_code for answer in answers} <= {201, 409}
    assert len({answer.json()["id"] for answer in answers if answer.status_code == 201}) == 1
    assert {answer.json()["code"] for answer in answers if answer.status_code == 409} <= {"idempotency_conflict"}
    assert len(tenant.read("/v1/domains")["data"]) == 1


def _make_older(services: Services, key: dict[str, str]) -> None:
    """Moves the first request with this key ten minutes into the past."""
    earlier = datetime.datetime.now(datetime.UTC) - datetime.timedelta(minutes=10)
    with services.database.session(SYSTEM) as session:
        wanted = IdempotencyKey.key == key["Idempotency-Key"]
        session.execute(update(IdempotencyKey).where(wanted).values(created_at=earlier))


async def _fail(*_: object) -> None:
    raise DatabaseUnavailable()


def _generate(tenant: Client, domain: str, key: dict[str, str]) -> httpx.Response:
    """Creates a generation and waits for it."""
    headers = {**key, "Prefer": "wait=60"}
    return tenant.post(f"/v1/domains/{domain}/generations", {"class_id": 0, "adapter_id": "base"}, headers=headers)


def _assert_replayed(tenant: Client, domain: str, key: dict[str, str]) -> None:
    """Repeats the request, which replays the domain's only generation, and cancels that."""
    again = _generate(tenant, domain, key)
    assert (again.status_code, again.headers["idempotent-replayed"]) == (202, "true")
    assert [row["id"] for row in tenant.read(f"/v1/domains/{domain}/generations")["data"]] == [again.json()["id"]]
    tenant.made(f"/v1/generations/{again.json()['id']}/cancel")
