"""No input gives a 500, and every error has the same form."""

import logging
import re

import pytest
from fastapi import FastAPI

from api.bodies import JSON_BYTES, BodyLimitMiddleware
from tests.api.client import Api, Client, problem, running
from tests.api.conftest import make_settings

JSON = {"Content-Type": "application/json"}


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [("GET", "/nothing", 404, "not_found"), ("GET", "/v1/domains/a/b/c", 404, "not_found"),
     ("PUT", "/v1/domains", 405, "method_not_allowed"), ("DELETE", "/v1/usage", 405, "method_not_allowed"),
     ("POST", "/livez", 405, "method_not_allowed"), ("BREW", "/v1/domains", 405, "method_not_allowed"),
     ("GET", "/v1/domains/%00", 404, "not_found"), ("GET", "/v1/domains/%ff%fe", 404, "not_found"),
     ("GET", "/v1/domains/%F0%9F%8C%B6", 404, "not_found"), ("GET", "/v1/domains/" + "x" * 5000, 404, "not_found"),
     ("GET", "/v1/domains/..%2f..%2fetc", 404, "not_found"), ("GET", "/v1/finetunes/'; drop table--", 404, "not_found"),
     ("GET", "/v1/generations/gen_x/images/-1", 422, "invalid_request"),
     ("GET", "/v1/generations/gen_x/images/99999999999999999999999", 422, "invalid_request"),
     ("GET", "/v1/generations/gen_x/images/one", 422, "invalid_request"),
     ("GET", "/v1/finetunes/ft_x/samples/99999999999999999999999", 422, "invalid_request")],
)  # fmt: skip
def test_unusual_paths_get_a_problem(tenant: Client, method: str, path: str, status: int, code: str) -> None:
    response = tenant.request(method, path)
    problem(response, status, code)
    if status == 405:
        assert response.headers["allow"] == {"/v1/domains": "GET, POST", "/v1/usage": "GET", "/livez": "GET"}[path]


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [(b"", 422, "invalid_request"), (b"{", 422, "invalid_request"), (b"null", 422, "invalid_request"),
     (b"[]", 422, "invalid_request"), (b'"x"', 422, "invalid_request"), (b'{"name": "\xff"}', 400, "bad_request"),
     (b"[" * 100_000, 400, "bad_request"), (b'{"name": ' + b"9" * 5000 + b"}", 400, "bad_request"),
     (b'{"name": NaN}', 422, "invalid_request"), (b'{"name": 1e999}', 422, "invalid_request"),
     (b'{"name": "\\ud800"}', 422, "invalid_request"), (b'{"\\ud800": 1, "name": "x"}', 422, "invalid_request"),
     (b'{"name": "a\\u0000b"}', 422, "invalid_request"), (b'{"name": "x", "\\u0000": 1}', 422, "invalid_request"),
     (b'{"name": "x", "description": "\\u0000"}', 422, "invalid_request"),
     (b'{"name": {"$ne": null}}', 422, "invalid_request"), (b'{"name": ["x"]}', 422, "invalid_request")],
)  # fmt: skip
def test_unusual_bodies_get_a_problem(tenant: Client, body: bytes, status: int, code: str) -> None:
    problem(tenant.post("/v1/domains", content=body, headers=JSON), status, code)


@pytest.mark.parametrize("content_type", ["text/plain", "application/xml", "multipart/form-data; boundary=x", "ä;", ""])
def test_body_that_is_not_json_is_rejected(tenant: Client, content_type: str) -> None:
    headers = {"Content-Type": content_type.encode()}
    refused = tenant.post("/v1/domains", content=b'{"name": "x"}', headers=headers)  # type: ignore[arg-type]
    problem(refused, 415, "unsupported_media_type")


@pytest.mark.parametrize("value", ["x", "%", "ä", "\0", "=", "A" * 64, "A" * 65, "9" * 18, "9" * 40, "-1", "dom_\0",
                                   "dom_\n", ""])  # fmt: skip
def test_malformed_cursors_get_a_problem(tenant: Client, admin: Client, value: str) -> None:
    for client, path in ((tenant, "/v1/domains"), (admin, "/v1/admin/tenants"), (admin, "/v1/admin/audit")):
        response = client.get(path, params={"cursor": value})
        if (path, value) == ("/v1/admin/audit", "9" * 18):  # an id that never existed is a valid position in the list
            assert response.status_code == 200
        else:
            problem(response, 422, "invalid_request" if len(value) > 64 else "invalid_cursor")


@pytest.mark.parametrize("query", ["limit=0", "limit=101", "limit=x", "limit=" + "9" * 5000, "limit=-1", "limit=1.5"])
def test_invalid_limits_get_a_problem(tenant: Client, query: str) -> None:
    problem(tenant.get(f"/v1/domains?{query}"), 422, "invalid_request")


def test_unusual_filters_and_hosts_get_no_server_error(tenant: Client, admin: Client) -> None:
    problem(admin.get("/v1/admin/adapters?tenant_id=%00"), 422, "invalid_request")
    problem(admin.get("/v1/admin/adapters?status=lost"), 422, "invalid_request")
    assert admin.read("/v1/admin/adapters?tenant_id=%ff")["data"] == []
    for host in ("[", "a b", "x:99999", "ä", "evil.example/path?"):
        response = tenant.get("/v1/domains", headers={"Host": host.encode()})  # type: ignore[dict-item]
        assert response.status_code == 200


def test_request_id_is_accepted_and_returned(tenant: Client) -> None:
    assert tenant.get("/v1/domains", headers={"X-Request-ID": "my-id.1"}).headers["x-request-id"] == "my-id.1"
    ids = {tenant.get("/v1/domains").headers["x-request-id"] for _ in range(2)}
    assert len(ids) == 2
    for odd in ("a b", "x" * 101, "<script>", "a\tb"):
        assert tenant.get("/v1/domains", headers={"X-Request-ID": odd}).headers["x-request-id"] != odd


@pytest.fixture(scope="module")
def faulty(tmp_path_factory: pytest.TempPathFactory) -> Api:  # type: ignore[misc]
    """Returns an application with a defect."""

    def add_defect(app: FastAPI) -> None:
        @app.get("/defect")
        def defect() -> None:
            raise KeyError("a secret of ours")

    with running(make_settings(tmp_path_factory.mktemp("faulty"), log_level="INFO"), add_defect) as api:
        yield api


def test_unexpected_error_is_logged_and_not_disclosed(faulty: Api, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        error = problem(faulty.client().get("/defect", headers={"X-Request-ID": "id-7"}), 500, "internal_error")
    assert error["request_id"] == "id-7"
    assert "secret" not in str(error)
    (error,) = (record for record in caplog.records if record.levelno == logging.ERROR)
    assert "id-7" in str(error.msg)
    assert error.exc_info or "exc_info" in str(error.msg)
    assert 'route="/defect",status="500"' in faulty.admin.get("/metrics").text


def test_body_over_the_limit_is_rejected_before_it_is_read(tenant: Client) -> None:
    taken = 0

    async def endless() -> object:  # an async generator, as httpx streams
        nonlocal taken
        while True:
            taken += 1
            yield b" " * 2**16

    refused = tenant.post("/v1/domains", content=endless(), headers=JSON)
    problem(refused, 413, "payload_too_large")
    assert taken <= 18
    announced = {"Content-Length": str(2**40), **JSON}
    problem(tenant.post("/v1/domains", content=endless(), headers=announced), 413, "payload_too_large")
    assert taken <= 18


def test_upload_without_a_key_is_not_read(api_client: Client, domain: str) -> None:
    taken = 0

    async def endless() -> object:
        nonlocal taken
        while True:
            taken += 1
            yield b"--x\r\n"

    headers = {"Content-Type": "multipart/form-data; boundary=x", "Idempotency-Key": "k"}
    refused = api_client.post(f"/v1/domains/{domain}/datasets", content=endless(), headers=headers)
    problem(refused, 401, "unauthenticated")
    assert taken == 0


def operations(api: Api) -> list[tuple[str, str, bool]]:
    """Returns (method, path, whether it accepts a file) of every operation that requires a key."""
    operations = []
    for path, methods in api.app.openapi()["paths"].items():
        for method, operation in methods.items():
            types = set(operation.get("requestBody", {}).get("content", {}))
            is_file = bool(types - {"application/json"})
            if path.startswith("/v1"):
                operations.append((method.upper(), re.sub(r"{\w+}", "1", path), is_file))
    return operations


def test_no_operation_reads_the_body_before_authentication(api: Api, api_client: Client) -> None:
    taken = 0

    async def endless() -> object:
        nonlocal taken
        while True:
            taken += 1
            yield b"x" * 2**16

    for content_type in ("multipart/form-data; boundary=x", "multipart/x", "application/json", "text/plain"):
        headers = {"Content-Type": content_type, "Idempotency-Key": "k"}
        for method, path, _ in operations(api):
            problem(api_client.request(method, path, content=endless(), headers=headers), 401, "unauthenticated")
    assert taken == 0


def test_only_file_routes_accept_more_than_a_mebibyte(api: Api, tenant: Client, admin: Client) -> None:
    for method, path, is_file in operations(api):
        body = BodyLimitMiddleware(api.app, api.services.settings)
        assert (body.limit(method, path) > JSON_BYTES) == is_file, (method, path)
        assert (body.limit(method, f"/dashboard{path}") > JSON_BYTES) is False
        if method in ("POST", "PATCH") and not is_file:
            client = admin if "/admin/" in path else tenant
            for content_type in ("multipart/form-data; boundary=x", "application/json"):
                headers = {"Content-Type": content_type, "Content-Length": str(JSON_BYTES + 1)}
                refused = client.request(method, path, content=b"x", headers=headers)
                assert refused.status_code in {413, 404, 409}, (
                    method,
                    path,
                    refused.text,
                )  # some have no body
