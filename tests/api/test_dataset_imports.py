"""Imports of data sets: what the API accepts and refuses. `tests/worker/test_imports.py` fetches images."""

from typing import Any

import pytest
from sqlalchemy.orm import undefer

from api.deps import Services
from core.service.config import Settings
from core.service.db.models import Dataset
from tests.api.client import Client, problem

URL = "https://images.example.com/1.png?signature=secret"
ONE: dict[str, Any] = {"images": [{"url": URL, "class_name": "apple"}]}
BUCKET: dict[str, Any] = {"bucket": {"url": "https://drawings.s3.example.com", "prefix": "icons"}}


@pytest.fixture
def path(domain: str) -> str:
    return f"/v1/domains/{domain}/datasets/imports"


@pytest.fixture
def allowed(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(settings, "dataset_import_hosts", "*.example.com")


def test_imports_are_refused_by_default(tenant: Client, domain: str, path: str) -> None:
    for body in (ONE, BUCKET):
        assert "DIFFFIT_DATASET_IMPORT_HOSTS" in problem(tenant.post(path, body), 403, "imports_off")["detail"]
    assert tenant.read(f"/v1/domains/{domain}/datasets")["data"] == []


@pytest.mark.usefixtures("allowed")
@pytest.mark.parametrize("body", [ONE, BUCKET])
def test_import_waits_for_a_worker(tenant: Client, path: str, services: Services, body: dict[str, Any]) -> None:
    dataset = tenant.made(path, {**body, "name": "From elsewhere"})
    assert (dataset["status"], dataset["size_bytes"], dataset["name"]) == ("validating", 0, "From elsewhere")
    assert "secret" not in str(tenant.read(f"/v1/datasets/{dataset['id']}"))
    with services.database.session() as session:
        row = session.get_one(Dataset, dataset["id"], options=[undefer(Dataset.to_fetch)])
        assert row.to_fetch == body


@pytest.mark.usefixtures("allowed")
def test_import_into_a_domain_of_others_is_not_found(other: Client, path: str) -> None:
    problem(other.post(path, ONE), 404, "not_found")


@pytest.mark.usefixtures("allowed")
@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"images": [*ONE["images"], {"url": "https://example.org/1.png", "class_name": "a"}]}, "body.images.1.url"),
        ({"images": [{"url": "http://a.example.com/1.png", "class_name": "a"}]}, "body.images.0.url"),
        ({"images": [{"url": "https://127.0.0.1/1.png", "class_name": "a"}]}, "body.images.0.url"),
        ({"images": [{"url": "https://a.example.com/1.png", "class_name": "a/b"}]}, "body.images.0.class_name"),
        ({"bucket": {"url": "https://s3.example.org/drawings"}}, "body.bucket.url"),
        ({"bucket": {"url": "https://s3.example.com/drawings?list-type=1"}}, "body.bucket.url"),
    ],
)
def test_entry_that_cannot_be_fetched_is_named(tenant: Client, path: str, body: dict[str, Any], field: str) -> None:
    (error,) = problem(tenant.post(path, body), 422, "import_refused")["errors"]
    assert error["field"] == field


@pytest.mark.usefixtures("allowed")
@pytest.mark.parametrize(
    "body",
    [{}, ONE | BUCKET, {"images": []}, {"images": ONE["images"] * 1001}, {"images": [{"url": "ü", "class_name": "a"}]}],
)
def test_body_needs_one_source(tenant: Client, path: str, body: dict[str, Any]) -> None:
    problem(tenant.post(path, body), 422, "invalid_request")


@pytest.mark.usefixtures("allowed")
def test_quotas_apply_to_imports(
    tenant: Client, path: str, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(settings, "max_validating_datasets", 1)
    tenant.made(path, ONE)
    problem(tenant.post(path, ONE), 429, "quota_exceeded")
    monkeypatch.setattr(settings, "max_validating_datasets", 2)
    monkeypatch.setattr(settings, "max_stored_bytes", 0)
    problem(tenant.post(path, ONE), 403, "storage_quota_exceeded")
