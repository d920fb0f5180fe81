"""Response headers for browsers: security policies on every response, and cache lifetimes of images."""

import re
import time
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest

from api.deps import Services
from core.service.storage import ObjectStore
from tests.api.client import Client, draw_generations, running
from tests.api.conftest import make_settings


@pytest.fixture
def image_url(tenant: Client, domain: str, services: Services) -> str:
    """Returns a signed URL of a stored image."""
    generation = tenant.made(f"/v1/domains/{domain}/generations", {"class_id": 0, "adapter_id": "base"})
    draw_generations(services)
    url: str = tenant.read(f"/v1/generations/{generation['id']}")["images"][0]["url"]
    return url


@pytest.mark.parametrize("path", ["/livez", "/v1/domains", "/none", "/openapi.json", "/docs"])
def test_every_response_has_security_headers(tenant: Client, path: str) -> None:
    headers = tenant.get(path).headers
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["referrer-policy"] == "same-origin"
    assert "frame-ancestors 'none'" in headers["content-security-policy"]
    assert "default-src 'none'" in headers["content-security-policy"]
    assert "unsafe-inline" not in re.sub("style-src[^;]*", "", headers["content-security-policy"])
    assert "strict-transport-security" not in headers, "its URL is not https"


def test_https_responses_enforce_https(tmp_path: Path) -> None:
    with running(make_settings(tmp_path, public_url="https://images.example")) as api:
        assert api.client().get("/livez").headers["strict-transport-security"] == "max-age=31536000"


def test_image_is_cached_only_while_its_url_is_valid(tenant: Client, image_url: str) -> None:
    (expires,) = parse_qs(urlsplit(image_url).query)["expires"]
    before = int(expires) - int(time.time())
    caching = tenant.get(image_url).headers["cache-control"]
    after = int(expires) - int(time.time())
    match = re.fullmatch(r"private, max-age=(\d+)", caching)
    assert match is not None
    assert after <= int(match[1]) <= before
    assert tenant.get(urlsplit(image_url).path).headers["cache-control"] == "private, no-cache"


def test_unchanged_image_is_not_read_from_the_store(
    tenant: Client, image_url: str, services: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = tenant.get(image_url)
    etag = first.headers["etag"]
    monkeypatch.setattr(type(services.store), "get", refuse)
    for etags in (etag, f"W/{etag}", f'"another", {etag}', "*"):
        answer = tenant.get(image_url, headers={"If-None-Match": etags})
        assert (answer.status_code, answer.content, answer.headers["etag"]) == (304, b"", etag)
        assert answer.headers["cache-control"].startswith("private, max-age=")
    monkeypatch.undo()
    assert tenant.get(image_url, headers={"If-None-Match": '"another"'}).content == first.content


def test_unchanged_image_without_a_stored_digest_is_not_sent(tenant: Client, domain: str, dataset: str) -> None:
    url = tenant.read(f"/v1/datasets/{dataset}")["classes"][0]["example_url"]
    etag = tenant.get(url).headers["etag"]
    assert tenant.get(url, headers={"If-None-Match": etag}).status_code == 304


def refuse(store: ObjectStore, key: str, sha256: str | None = None) -> bytes:
    raise AssertionError(f"{key} is read")
