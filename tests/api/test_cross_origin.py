"""Requests of web pages from other origins (CORS)."""

from collections.abc import Iterator

import httpx
import pytest
from fastapi import FastAPI

from tests.api.client import Api, Client, running
from tests.api.conftest import make_settings

PAGE = "https://app.example.com"
ASKED = {"Access-Control-Request-Method": "PATCH", "Access-Control-Request-Headers": "authorization,if-match"}


def add_failing_route(app: FastAPI) -> None:
    def fail() -> None:
        raise RuntimeError

    app.add_api_route("/fail", fail)


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Api]:
    settings = make_settings(tmp_path_factory.mktemp("shared"), cors_origins=f"{PAGE}, http://localhost:3000")
    with running(settings, add_failing_route) as api:
        yield api


def allowed(response: httpx.Response) -> str | None:
    return response.headers.get("access-control-allow-origin")


def preflight(client: Client, origin: str) -> httpx.Response:
    return client.request("OPTIONS", "/v1/domains/dom_1", headers={"Origin": origin, **ASKED})


def test_no_page_is_allowed_by_default(api_client: Client) -> None:
    assert allowed(preflight(api_client, PAGE)) is None
    response = api_client.get("/livez", headers={"Origin": PAGE})
    assert not any(name.startswith("access-control") for name in response.headers)


def test_pages_of_allowed_origins_may_send_the_headers_of_the_api(shared: Api) -> None:
    client = shared.client()
    for origin in (PAGE, "http://localhost:3000"):
        response = preflight(client, origin)
        assert (response.status_code, allowed(response)) == (200, origin)
        assert "access-control-allow-credentials" not in response.headers
    for origin in ("https://example.com", "http://app.example.com", f"{PAGE}:8443", "null"):
        assert allowed(preflight(client, origin)) is None
        assert allowed(client.get("/livez", headers={"Origin": origin})) is None


def test_pages_read_all_responses_and_their_headers(shared: Api) -> None:
    client = shared.client()
    for path, status in (("/livez", 200), ("/v1/domains", 401), ("/nothing", 404), ("/fail", 500)):
        response = client.get(path, headers={"Origin": PAGE})
        assert (response.status_code, allowed(response)) == (status, PAGE), path
        exposed = response.headers["access-control-expose-headers"].lower().split(", ")
        assert {"etag", "location", "retry-after", "x-request-id", "ratelimit"} <= set(exposed)
        assert response.headers["vary"] == "Origin"
        assert response.headers["x-content-type-options"] == "nosniff"
