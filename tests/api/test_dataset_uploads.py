"""Data sets uploaded in parts: through the API into a folder, and directly into an S3 server."""

import hashlib
import io
import uuid
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import httpx
import pytest
from PIL import Image
from sqlalchemy import update

from api.deps import Services
from core.service.datasets import uploads
from core.service.db.models import DatasetUpload
from core.service.storage import S3Store
from tests import radosgw
from tests.api.client import Api, Client, load_base, png, problem, running, validate_datasets, zip_of
from tests.api.conftest import make_settings


def bmp(colour: int) -> bytes:
    """Returns an uncompressed picture of four megabytes."""
    buffer = io.BytesIO()
    Image.new("RGB", (1200, 1200), (colour, 0, 0)).save(buffer, "BMP")
    return buffer.getvalue()


LARGE = zip_of({"apple/1.bmp": bmp(1), "apple/2.bmp": bmp(2), "pear/1.png": png(3)})
"""Returns the data in two parts: the smallest that S3 accepts, and the rest."""
SHA256 = hashlib.sha256(LARGE).hexdigest()


def parts_of(upload: dict[str, Any], data: bytes) -> dict[int, bytes]:
    size = upload["part_bytes"]
    return {part["number"]: data[(part["number"] - 1) * size :][: part["size_bytes"]] for part in upload["parts"]}


def begin(tenant: Client, domain: str, data: bytes = LARGE, **more: Any) -> tuple[str, dict[str, Any]]:
    """Starts an upload. Returns its path and the response's body."""
    path = f"/v1/domains/{domain}/datasets/uploads"
    upload = tenant.made(path, {"size_bytes": len(data), **more})
    return f"{path}/{upload['id']}", upload


def send(stranger: Client, upload: dict[str, Any], data: bytes = LARGE) -> list[dict[str, Any]]:
    """Sends every part without a key, the last one first."""
    sent = []
    for part in reversed(upload["parts"]):
        answer = stranger.request("PUT", part["url"], content=parts_of(upload, data)[part["number"]])
        assert answer.is_success, answer.text
        sent.append({"number": part["number"], "etag": answer.headers["etag"]})
    return sent


def stored_bytes(tenant: Client) -> int:
    bytes: int = tenant.read("/v1/usage")["stored_bytes"]
    return bytes


def test_completed_parts_become_a_dataset(api: Api, tenant: Client, domain: str, services: Services) -> None:
    path, upload = begin(tenant, domain, filename="fruit.zip", sha256=SHA256)
    assert (upload["status"], upload["filename"], upload["sha256"]) == ("open", "fruit.zip", SHA256)
    assert [part["size_bytes"] for part in upload["parts"]] == [5 * 2**20, len(LARGE) - 5 * 2**20]
    assert stored_bytes(tenant) == len(LARGE), "its bytes count from the start"
    stranger = api.client()
    problem(tenant.post(f"{path}/complete", {"parts": []}), 409, "parts_missing")
    last = upload["parts"][1]
    problem(stranger.request("PUT", last["url"], content=b"short"), 422, "invalid_request")
    problem(stranger.request("PUT", last["url"], content=bytes(last["size_bytes"] + 1)), 422, "invalid_request")
    problem(stranger.request("PUT", upload["parts"][0]["url"], content=bytes(6 * 2**20)), 413, "payload_too_large")
    wrong = stranger.request("PUT", last["url"], content=bytes(last["size_bytes"])).headers["etag"]
    parts = send(stranger, upload)
    resumed = tenant.read(path)
    assert {part["number"]: f'"{part["etag"]}"' for part in resumed["parts"]} == {
        part["number"]: part["etag"] for part in parts
    }, "a repeated part must replace the first"
    refused = tenant.post(f"{path}/complete", {"parts": [parts[1], {"number": 2, "etag": wrong}]})
    assert "other etags: 2." in problem(refused, 409, "parts_missing")["detail"]
    assert tenant.read(f"/v1/domains/{domain}/datasets")["data"] == []
    assert [row["id"] for row in tenant.read(f"/v1/domains/{domain}/datasets/uploads")["data"]] == [upload["id"]]

    completed = tenant.post(f"{path}/complete", {"parts": parts})
    assert completed.status_code == 202, completed.text
    dataset = completed.json()
    assert (dataset["id"], dataset["status"]) == (upload["dataset_id"], "validating")
    assert tenant.made(f"{path}/complete", {"parts": parts})["id"] == dataset["id"], (
        "a repeated request must return the same data set"
    )
    ended = tenant.read(path)
    assert (ended["status"], ended["parts"]) == ("completed", [])
    problem(stranger.request("PUT", last["url"], content=bytes(last["size_bytes"])), 409, "upload_ended")
    problem(tenant.delete(path), 409, "upload_ended")
    validate_datasets(services)
    ready = tenant.read(f"/v1/datasets/{dataset['id']}")
    assert (ready["status"], ready["images"], ready["size_bytes"]) == ("ready", 3, len(LARGE))
    assert stored_bytes(tenant) == len(LARGE)
    assert [key for key in services.store.list("tenants/") if domain in key] == [
        stored.key for stored in services.store.page("tenants/", "", 1000) if domain in stored.key
    ], "no part may be left"


def test_upload_without_a_digest_gets_one(api: Api, tenant: Client, domain: str, services: Services) -> None:
    path, upload = begin(tenant, domain)
    dataset = tenant.made(f"{path}/complete", {"parts": send(api.client(), upload)})["id"]
    validate_datasets(services)
    assert tenant.read(f"/v1/datasets/{dataset}")["status"] == "ready"
    (key,) = [key for key in services.store.list("tenants/") if key.endswith(f"{dataset}/archive.zip")]
    assert services.store.get(key, SHA256) == LARGE


def test_broken_zip_ends_the_upload(api: Api, tenant: Client, domain: str, services: Services) -> None:
    for data, code in ((b"no zip", "not_a_zip"), (zip_of({"1.png": png(1)}), "no_class_folders")):
        path, upload = begin(tenant, domain, data)
        body = {"parts": send(api.client(), upload, data)}
        for _ in range(2):
            problem(tenant.post(f"{path}/complete", body), 422, code)
        failed = tenant.read(path)
        assert (failed["status"], failed["error"]["code"], failed["parts"]) == ("failed", code, [])
        problem(api.client().request("PUT", upload["parts"][0]["url"], content=data), 422, code)
        assert tenant.delete(path).status_code == 204
    assert [stored.key for stored in services.store.page("tenants/", "", 1000) if domain in stored.key] == []
    assert stored_bytes(tenant) == 0


def test_upload_is_aborted_or_expires(api: Api, tenant: Client, domain: str, services: Services) -> None:
    for ends in ("aborted", "expired"):
        path, upload = begin(tenant, domain)
        send(api.client(), upload)
        if ends == "aborted":
            assert tenant.delete(path).status_code == 204
        else:
            with services.database.session() as session:
                past = update(DatasetUpload).values(expires_at=DatasetUpload.created_at)
                session.execute(past.where(DatasetUpload.id == upload["id"]))
                forgotten = uploads.expire(session)
            assert [row.id for row in forgotten] == [upload["id"]]
            uploads.drop(services.store, forgotten[0])
        for answer in (tenant.get(path), tenant.delete(path), tenant.post(f"{path}/complete", {"parts": []})):
            problem(answer, 404, "not_found")
        problem(api.client().request("PUT", upload["parts"][1]["url"], content=b""), 404, "not_found")
        assert [stored.key for stored in services.store.page("tenants/", "", 1000) if domain in stored.key] == []
        assert stored_bytes(tenant) == 0


def test_part_accepts_only_its_own_url(api: Api, tenant: Client, other: Client, domain: str) -> None:
    path, upload = begin(tenant, domain)
    first, second = (part["url"] for part in upload["parts"])
    stranger = api.client()
    for url in (first.split("?")[0], f"{first.split('?')[0]}?{second.split('?')[1]}"):
        problem(stranger.request("PUT", url, content=b""), 401, "unauthenticated")
    problem(other.request("PUT", f"{path}/parts/1", content=b""), 404, "not_found")
    problem(tenant.request("PUT", f"{path}/parts/3", content=b""), 404, "not_found")
    problem(tenant.request("PUT", f"{path}/parts/0", content=b""), 422, "invalid_request")
    reader = api.tenant(f"reader {uuid.uuid4()}", ["read"])
    problem(reader.request("PUT", f"{path}/parts/1", content=b""), 403, "forbidden")


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [({"size_bytes": 0}, 422, "invalid_request"), ({"size_bytes": 2**60}, 422, "invalid_request"),
     ({"size_bytes": 2**40}, 413, "payload_too_large"), ({}, 422, "invalid_request"),
     ({"size_bytes": 5, "sha256": "x" * 64}, 422, "invalid_request"),
     ({"size_bytes": 5, "filename": "a\nb"}, 422, "invalid_request")],
)  # fmt: skip
def test_invalid_uploads_cannot_be_started(
    tenant: Client, domain: str, body: dict[str, Any], status: int, code: str
) -> None:
    problem(tenant.post(f"/v1/domains/{domain}/datasets/uploads", body), status, code)


def test_quotas_hold_from_the_beginning_to_the_end(api: Api, admin: Client, tenant: Client, domain: str) -> None:
    id = admin.read("/v1/admin/tenants")["data"][0]["id"]

    def give(**quotas: int) -> None:
        assert admin.patch(f"/v1/admin/tenants/{id}", {"quotas": quotas}).is_success

    url, body = f"/v1/domains/{domain}/datasets/uploads", {"size_bytes": len(LARGE)}
    give(stored_bytes=len(LARGE) - 1)
    problem(tenant.post(url, body), 403, "storage_quota_exceeded")
    give(stored_bytes=len(LARGE), validating_datasets=1)
    path, upload = begin(tenant, domain)
    problem(tenant.post(url, {"size_bytes": 1}), 429, "quota_exceeded")
    give(stored_bytes=len(LARGE))
    problem(tenant.post(url, {"size_bytes": 1}), 403, "storage_quota_exceeded")
    parts = send(api.client(), upload)
    give(stored_bytes=100)
    problem(tenant.post(f"{path}/complete", {"parts": parts}), 403, "storage_quota_exceeded")
    give(stored_bytes=len(LARGE), validating_datasets=1)
    assert tenant.post(f"{path}/complete", {"parts": parts}).status_code == 202


def test_repeated_request_starts_one_upload(tenant: Client, domain: str) -> None:
    key = {"Idempotency-Key": str(uuid.uuid4())}
    url, body = f"/v1/domains/{domain}/datasets/uploads", {"size_bytes": 5}
    assert tenant.made(url, body, headers=key)["id"] == tenant.made(url, body, headers=key)["id"]
    assert len(tenant.read(url)["data"]) == 1


def test_concurrent_completions_get_the_same_dataset(
    api: Api, tenant: Client, domain: str, services: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, upload = begin(tenant, domain)
    parts, join_parts = send(api.client(), upload), services.store.join_parts

    def join_later(*arguments: Any) -> None:
        """Joins the parts in another request first."""
        monkeypatch.setattr(services.store, "join_parts", join_parts)
        assert tenant.made(f"{path}/complete", {"parts": parts})["id"] == upload["dataset_id"]
        join_parts(*arguments)

    monkeypatch.setattr(services.store, "join_parts", join_later)
    assert tenant.made(f"{path}/complete", {"parts": parts})["id"] == upload["dataset_id"]


def test_very_large_uploads_have_larger_parts() -> None:
    mebibyte = 2**20
    assert uploads.part_bytes(1, 16 * mebibyte) == 16 * mebibyte
    assert uploads.part_bytes(64 * 2**30, 16 * mebibyte) == 66 * mebibyte
    assert 1000 * 66 * mebibyte >= 64 * 2**30


@pytest.fixture(scope="module", params=["moto", "radosgw"])
def on_s3(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Api]:
    with ExitStack() as stack:
        if request.param == "moto":
            endpoint: str = request.getfixturevalue("s3_endpoint")
        else:
            if not radosgw.installed():
                pytest.skip("radosgw is not installed")
            gateway: radosgw.Gateway = request.getfixturevalue("ceph_gateway")
            endpoint = gateway.endpoint
            patch = stack.enter_context(pytest.MonkeyPatch.context())
            patch.setenv("AWS_ACCESS_KEY_ID", gateway.access_key)
            patch.setenv("AWS_SECRET_ACCESS_KEY", gateway.secret_key)
        bucket = f"uploads-{uuid.uuid4().hex}"
        S3Store(bucket, "", endpoint, "us-east-1").create_bucket()
        settings = make_settings(
            tmp_path_factory.mktemp("s3"),
            storage_url=f"s3://{bucket}/prefix",
            s3_endpoint_url=endpoint,
            s3_public_endpoint_url=endpoint,
        )
        api = stack.enter_context(running(settings))
        load_base(api.services)
        yield api


def test_parts_go_straight_into_a_bucket(on_s3: Api, request: pytest.FixtureRequest) -> None:
    tenant, services = on_s3.tenant("direct"), on_s3.services
    domain = tenant.made("/v1/domains", {"name": "d"})["id"]
    path, upload = begin(tenant, domain)
    urls = [part["url"] for part in upload["parts"]]
    assert all(url.startswith(str(services.settings.s3_public_endpoint_url)) for url in urls)
    sent = []
    for part in upload["parts"]:
        data = parts_of(upload, LARGE)[part["number"]]
        if "radosgw" in request.node.name:  # the other upload uses the whole quota
            larger = httpx.put(part["url"], content=data + b"more")
            assert larger.status_code == 403, "the size must be signed"
            assert httpx.put(urls[0].replace("partNumber=1", "partNumber=2"), content=data).status_code == 403
        answer = httpx.put(part["url"], content=data).raise_for_status()
        sent.append({"number": part["number"], "etag": answer.headers["etag"]})
    assert all(part["etag"] for part in tenant.read(path)["parts"])
    assert services.store.drop_parts("", 10**9) == 0, "young parts must be kept"
    dataset = tenant.made(f"{path}/complete", {"parts": sent})
    assert tenant.made(f"{path}/complete", {"parts": sent})["id"] == dataset["id"]
    validate_datasets(services)
    assert tenant.read(f"/v1/datasets/{dataset['id']}")["status"] == "ready"

    path, upload = begin(tenant, domain, b"no zip")
    answer = httpx.put(upload["parts"][0]["url"], content=b"no zip").raise_for_status()
    body = {"parts": [{"number": 1, "etag": answer.headers["etag"]}]}
    problem(tenant.post(f"{path}/complete", body), 422, "not_a_zip")
    path, upload = begin(tenant, domain)
    assert tenant.delete(path).status_code == 204
    if "radosgw" in request.node.name:
        aborted = httpx.put(upload["parts"][0]["url"], content=bytes(upload["parts"][0]["size_bytes"]))
        assert aborted.status_code == 404
    (key,) = [key for key in services.store.list("") if domain in key and key.endswith("/archive.zip")]
    assert dataset["id"] in key


def test_completion_continues_after_the_bucket_joined_the_parts(on_s3: Api) -> None:
    """Simulates a process that dies after the parts are joined and before the database is updated."""
    tenant, services = on_s3.tenant(f"cut off {uuid.uuid4()}"), on_s3.services
    domain = tenant.made("/v1/domains", {"name": "d"})["id"]
    path, upload = begin(tenant, domain)
    sent = []
    for part in upload["parts"]:
        answer = httpx.put(part["url"], content=parts_of(upload, LARGE)[part["number"]]).raise_for_status()
        sent.append({"number": part["number"], "etag": answer.headers["etag"]})
    with services.database.session() as session:
        row = session.get_one(DatasetUpload, upload["id"])
    uploads.join(services.store, row, {part["number"]: part["etag"].strip('"') for part in sent})
    assert tenant.made(f"{path}/complete", {"parts": sent})["id"] == upload["dataset_id"]
