"""Requests of the browser's upload, which the dashboard passes on to the API with the session's key. The browser tests
cover the script that sends them."""

from typing import Any

import httpx
import pytest

from tests.api.client import Api, Client, images_zip, validate_datasets
from tests.api.dashboard.conftest import Browser

ZIP = images_zip()


@pytest.fixture
def tenant(pages: Api, request: pytest.FixtureRequest) -> Client:
    return pages.tenant(f"Uploading {request.node.name}")


@pytest.fixture
def domain(tenant: Client, browser: Browser) -> str:
    browser.sign_in(tenant.headers["Authorization"].removeprefix("Bearer "))
    id: str = tenant.made("/v1/domains", {"name": "Fruit"})["id"]
    return id


def send(browser: Browser, domain: str, method: str, path: str, **options: Any) -> httpx.Response:
    url = f"/dashboard/upload/{domain}/{path}"
    return browser.api.portal.call(lambda: browser.http.request(method, url, **options))


def begin(browser: Browser, domain: str, data: bytes = ZIP, **headers: str) -> Any:
    begun = send(browser, domain, "POST", "", json={"size_bytes": len(data), "filename": "drawings"}, headers=headers)
    assert begun.status_code == 201, begun.text
    return begun.json()


def test_parts_become_a_data_set(browser: Browser, pages: Api, tenant: Client, domain: str) -> None:
    id = begin(browser, domain)["id"]
    part = send(browser, domain, "PUT", f"{id}/parts/1", content=ZIP)
    assert part.status_code == 204, part.text
    assert send(browser, domain, "GET", id).json()["parts"][0]["etag"] == part.headers["etag"].strip('"')
    body = {"parts": [{"number": 1, "etag": part.headers["etag"]}]}
    first, again = (send(browser, domain, "POST", f"{id}/complete", json=body) for _ in range(2))
    assert (first.status_code, again.json()["id"]) == (202, first.json()["id"]), "a lost answer can be asked for again"
    validate_datasets(pages.services)
    assert tenant.read(f"/v1/datasets/{first.json()['id']}")["images"] == 4


def test_repeated_request_begins_no_other_upload(browser: Browser, tenant: Client, domain: str) -> None:
    first, again = (begin(browser, domain, **{"Idempotency-Key": "a"}) for _ in range(2))
    assert first["id"] == again["id"]
    assert len(tenant.read(f"/v1/domains/{domain}/datasets/uploads")["data"]) == 1


def test_abandoned_upload_is_deleted(browser: Browser, tenant: Client, domain: str) -> None:
    id = begin(browser, domain)["id"]
    assert send(browser, domain, "DELETE", id).status_code == 204
    assert tenant.read(f"/v1/domains/{domain}/datasets/uploads")["data"] == []


def test_problem_of_the_upload_is_returned(browser: Browser, domain: str) -> None:
    refused = send(browser, domain, "POST", "", json={"size_bytes": 2**50})
    assert (refused.status_code, refused.json()["code"]) == (413, "payload_too_large")
    id = begin(browser, domain, b"no zip")["id"]
    etag = send(browser, domain, "PUT", f"{id}/parts/1", content=b"no zip").headers["etag"]
    body = {"parts": [{"number": 1, "etag": etag}]}
    refused = send(browser, domain, "POST", f"{id}/complete", json=body)
    assert (refused.status_code, refused.json()["code"]) == (422, "not_a_zip")
    assert refused.json()["title"]


@pytest.mark.parametrize(
    ("method", "path"),
    [("GET", ""), ("PUT", ""), ("POST", "upl_1"), ("PUT", "upl_1/parts/a"), ("POST", "upl_1/../../../key")],
)
def test_nothing_else_is_passed_on(browser: Browser, domain: str, method: str, path: str) -> None:
    assert send(browser, domain, method, path).status_code == 404


def test_part_has_a_limit(browser: Browser, domain: str) -> None:
    upload = begin(browser, domain)
    answer = send(browser, domain, "PUT", f"{upload['id']}/parts/1", content=bytes(6 * 2**20))
    assert answer.status_code == 413


def test_signed_out_browser_gets_no_redirect(browser: Browser, domain: str) -> None:
    id = begin(browser, domain)["id"]
    browser.post("/dashboard/sign-out", {})
    for method, path in (("POST", ""), ("GET", id), ("PUT", f"{id}/parts/1"), ("DELETE", id)):
        assert send(browser, domain, method, path).status_code == 401
