import hashlib

import pytest

from api.deps import Services
from core.service import adapters
from tests.api.client import Api, Client, adapter_file, problem, running
from tests.api.conftest import finetuned, make_settings


def test_versions_are_listed_downloaded_and_promoted(
    tenant: Client, domain: str, dataset: str, adapter: str, services: Services
) -> None:
    second = finetuned(tenant, domain, dataset, services, seed=1)
    versions = tenant.read(f"/v1/domains/{domain}/adapters")["data"]
    assert [(version["id"], version["version"]) for version in versions] == [(second, 2), (adapter, 1)]
    assert tenant.read(f"/v1/adapters/{second}") == versions[0]

    download = tenant.get(f"/v1/adapters/{second}/download")
    assert hashlib.sha256(download.content).hexdigest() == versions[0]["sha256"]
    assert len(download.content) == versions[0]["size_bytes"]
    assert f'filename="{second}.safetensors"' in download.headers["content-disposition"]

    for version in (second, adapter):
        promoted = tenant.post(f"/v1/domains/{domain}/adapters/{version}/promote")
        assert promoted.status_code == 200
        assert promoted.json()["active_adapter_id"] == version


def test_uploaded_adapter_becomes_the_next_version(tenant: Client, domain: str) -> None:
    data = adapter_file(("one", "two", "three"))
    sent = tenant.upload(f"/v1/domains/{domain}/adapters", data)
    assert sent.status_code == 201
    uploaded = sent.json()
    assert (uploaded["version"], uploaded["finetune_id"], uploaded["status"]) == (1, None, "ready")
    assert uploaded["manifest"]["class_names"] == ["one", "two", "three"]
    assert uploaded["sha256"] == hashlib.sha256(data).hexdigest()
    assert tenant.get(f"/v1/adapters/{uploaded['id']}/download").content == data
    assert tenant.read(f"/v1/domains/{domain}")["active_adapter_id"] == uploaded["id"]


@pytest.mark.parametrize("data", [b"", b"x" * 100, b"\x80\x04pickle", adapter_file()[:-4]])
def test_file_that_is_no_adapter_is_rejected(tenant: Client, domain: str, data: bytes) -> None:
    problem(tenant.upload(f"/v1/domains/{domain}/adapters", data), 422, "artifact_invalid")
    assert tenant.read(f"/v1/domains/{domain}/adapters")["data"] == []


def test_adapter_of_another_base_is_rejected(tenant: Client, domain: str) -> None:
    problem(tenant.upload(f"/v1/domains/{domain}/adapters", adapter_file(digest="0" * 64)), 409, "base_mismatch")


def test_version_of_another_domain_cannot_be_promoted(tenant: Client, adapter: str) -> None:
    second = tenant.made("/v1/domains", {"name": "Second"})["id"]
    problem(tenant.post(f"/v1/domains/{second}/adapters/{adapter}/promote"), 404, "not_found")


def test_quarantined_version_is_shown_and_cannot_be_promoted(
    tenant: Client, domain: str, adapter: str, services: Services
) -> None:
    with services.database.session() as session:
        adapters.quarantine(session, adapter)
    assert tenant.read(f"/v1/adapters/{adapter}")["status"] == "quarantined"
    problem(tenant.post(f"/v1/domains/{domain}/adapters/{adapter}/promote"), 409, "adapter_quarantined")
    problem(tenant.post(f"/v1/domains/{domain}/generations", {"class_id": 0}), 409, "adapter_quarantined")


@pytest.fixture(scope="module")
def bare(tmp_path_factory: pytest.TempPathFactory) -> Api:  # type: ignore[misc]
    """Here no worker has loaded a base."""
    with running(make_settings(tmp_path_factory.mktemp("bare"), max_adapter_bytes=1000)) as api:
        yield api


def test_requests_that_need_a_base_are_rejected_without_one(bare: Api) -> None:
    tenant = bare.tenant("bare")
    domain = tenant.made("/v1/domains", {"name": "d"})["id"]
    for sent in (
        tenant.upload(f"/v1/domains/{domain}/adapters", b"small"),
        tenant.post(f"/v1/domains/{domain}/generations", {"class_id": 0}),
        tenant.post(f"/v1/domains/{domain}/finetunes", {"dataset_id": "ds_x", "dry_run": True}),
    ):
        problem(sent, 503, "base_not_loaded")
        assert int(sent.headers["retry-after"]) > 0
    problem(tenant.upload(f"/v1/domains/{domain}/adapters", bytes(1001)), 413, "payload_too_large")
    problem(tenant.post("/v1/domains/dom_x/generations", {"class_id": 0}), 404, "not_found")


def test_version_is_named_noted_and_its_classes_are_renamed(
    tenant: Client, other: Client, domain: str, adapter: str, services: Services
) -> None:
    path = f"/v1/adapters/{adapter}"
    before = tenant.read(path)
    assert (before["name"], before["note"], before["class_names"]) == (None, "", ["apple", "pear"])
    body = {"name": "Flat", "note": "100 steps", "class_names": {"apple": "pear", "pear": "quince"}}
    changed = tenant.patch(path, body).json()
    assert (changed["name"], changed["note"], changed["class_names"]) == ("Flat", "100 steps", ["pear", "quince"])
    assert changed["sha256"] == before["sha256"]
    assert changed["manifest"]["class_names"] == ["apple", "pear"]
    generation = tenant.made(f"/v1/domains/{domain}/generations", {"class_name": "pear"})
    assert (generation["class_id"], generation["class_name"]) == (0, "pear")
    problem(tenant.post(f"/v1/domains/{domain}/generations", {"class_name": "apple"}), 422, "unknown_class")
    assert tenant.patch(path, {"name": None}).json()["name"] is None
    assert tenant.read(path)["note"] == "100 steps"
    problem(tenant.patch(path, {"class_names": {"apple": "fig"}}), 422, "unknown_class")
    for names in ({"pear": "quince"}, {"pear": " "}, {"pear": "x" * 101}):
        problem(tenant.patch(path, {"class_names": names}), 422, "invalid_request")
    problem(other.patch(path, body), 404, "not_found")


def test_versions_of_all_domains_are_listed_by_filters(
    tenant: Client, other: Client, domain: str, adapter: str
) -> None:
    second = tenant.made("/v1/domains", {"name": "second"})["id"]
    body = {"file": ("a", adapter_file(("café", "tea")))}
    uploaded = tenant.made(f"/v1/domains/{second}/adapters", files=body)
    tenant.patch(f"/v1/adapters/{uploaded['id']}", {"name": "Night 50 %", "class_names": {"tea": "mint"}})

    def listed(**filters: str) -> list[str]:
        return [row["id"] for row in tenant.read("/v1/adapters", params=filters)["data"]]

    assert listed() == [uploaded["id"], adapter]
    assert [row["id"] for row in tenant.read(f"/v1/domains/{domain}/adapters")["data"]] == [adapter]
    assert listed(class_name="apple") == [adapter]
    assert listed(class_name="cafe\u0301") == listed(class_name="mint") == listed(name="night") == [uploaded["id"]]
    assert listed(class_name="tea") == listed(name="%%") == listed(status="quarantined") == []
    assert listed(created_after="2020-01-01T00:00:00Z", limit="1") == [uploaded["id"]]
    assert listed(created_before="2020-01-01T00:00:00Z") == []
    assert other.read("/v1/adapters")["data"] == []
    problem(tenant.get("/v1/adapters", params={"created_after": "yesterday"}), 422, "invalid_request")
    problem(tenant.get("/v1/adapters", params={"class": "apple"}), 422, "invalid_request")
    problem(tenant.get("/v1/adapters", params={"cursor": "garbage"}), 422, "invalid_cursor")
