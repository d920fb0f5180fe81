"""Download of a data set's images as a zip."""

import io
import zipfile

import pytest

from api.deps import Services
from core.service.datasets import archive, downloads
from core.service.datasets import service as datasets
from core.service.db.models import Dataset
from tests.api.client import Client, png, problem, validate_datasets, zip_of
from tests.core.service.rows import recorded_statements

FILES = {
    "set/train/cat/1.png": png(10),
    "set/val/cat/1.png": png(60),
    "set/train/größer/1.PNG": png(120),
    "set/train/größer/1.png": png(200),
    "set/train/cat/broken.png": b"no image",
    "set/notes.txt": b"note",
}


def uploaded(tenant: Client, domain: str, data: bytes, services: Services) -> str:
    id: str = tenant.upload(f"/v1/domains/{domain}/datasets", data).json()["id"]
    validate_datasets(services)
    return id


@pytest.fixture
def dataset(tenant: Client, domain: str, services: Services) -> str:
    return uploaded(tenant, domain, zip_of(FILES), services)


def files(data: bytes) -> dict[str, bytes]:
    with zipfile.ZipFile(io.BytesIO(data)) as packed:
        assert packed.testzip() is None
        return {name: packed.read(name) for name in packed.namelist()}


def test_accepted_images_are_downloaded_by_class_and_uploaded_again(
    tenant: Client, domain: str, dataset: str, services: Services
) -> None:
    response = tenant.get(f"/v1/datasets/{dataset}/download")
    assert (response.status_code, response.headers["content-type"]) == (200, "application/zip")
    assert response.headers["content-disposition"] == f'attachment; filename="{dataset}.zip"'
    assert files(response.content) == {
        "cat/1.png": png(10), "cat/1-2.png": png(60), "größer/1.PNG": png(120), "größer/1-2.png": png(200)
    }  # fmt: skip
    again = uploaded(tenant, domain, response.content, services)
    first, second = (tenant.read(f"/v1/datasets/{id}") for id in (dataset, again))
    assert (second["digest"], second["report"]["rejected"]) == (first["digest"], [])


def test_version_is_downloaded_with_its_own_classes_and_images(
    tenant: Client, domain: str, dataset: str, services: Services
) -> None:
    other = uploaded(tenant, domain, zip_of({"owl/1.png": png(90), "owl/2.png": png(95)}), services)
    edit = {"add_dataset_ids": [other], "remove_images": [1], "rename_classes": {"größer": "cat"}}
    version = tenant.made(f"/v1/datasets/{dataset}/versions", edit)["id"]
    validate_datasets(services)
    downloaded = files(tenant.get(f"/v1/datasets/{version}/download").content)
    assert sorted(downloaded) == ["cat/1-2.png", "cat/1-3.png", "cat/1.PNG", "owl/1.png", "owl/2.png"]
    assert set(downloaded.values()) == {png(60), png(120), png(200), png(90), png(95)}


def test_one_image_is_in_memory_at_a_time(dataset: str, services: Services, monkeypatch: pytest.MonkeyPatch) -> None:
    inflated: list[str] = []
    inflate = archive.inflate
    monkeypatch.setattr(archive, "inflate", lambda *given: (inflated.append(given[1].filename), inflate(*given))[1])
    with services.database.session() as session:
        row = session.get_one(Dataset, dataset)
        wanted = downloads.Contents([label["name"] for label in row.classes], row.members, row.zips)
    sent = downloads.files(services.store, wanted, datasets.limits(services.settings))
    assert [len(inflated) for _ in sent] == [1, 2, 3, 4]


def test_download_has_its_place_before_the_list_of_images_is_loaded(
    tenant: Client, dataset: str, services: Services
) -> None:
    transfers, owner = services.limits.transfers.count, tenant.read("/v1/key")["tenant_id"]
    with transfers.take(owner, transfers.each), recorded_statements() as statements:
        problem(tenant.get(f"/v1/datasets/{dataset}/download"), 429, "too_many_transfers")
    assert not any("datasets.members" in statement for statement in statements)


def test_download_needs_a_ready_data_set_of_ones_own(
    tenant: Client, other: Client, domain: str, dataset: str, services: Services
) -> None:
    problem(other.get(f"/v1/datasets/{dataset}/download"), 404, "not_found")
    waiting = tenant.upload(f"/v1/domains/{domain}/datasets", zip_of(FILES)).json()["id"]
    problem(tenant.get(f"/v1/datasets/{waiting}/download"), 409, "dataset_not_ready")
    validate_datasets(services)


def test_damaged_zip_is_reported_before_the_response_starts(tenant: Client, dataset: str, services: Services) -> None:
    with services.database.session() as session:
        key = session.get_one(Dataset, dataset).archive_key
    services.store.put(key, zip_of({name: data for name, data in FILES.items() if "train/cat" not in name}))
    problem(tenant.get(f"/v1/datasets/{dataset}/download"), 500, "checksum_mismatch")


def test_download_is_in_the_audit_log(tenant: Client, admin: Client, dataset: str) -> None:
    tenant.get(f"/v1/datasets/{dataset}/download")
    entries = admin.read("/v1/admin/audit")["data"]
    assert ("dataset.download", dataset) in [(entry["action"], entry["target"]) for entry in entries]
