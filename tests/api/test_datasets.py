import io

import pytest
from PIL import Image

from api.deps import Services
from core.service.datasets.thumbnails import SIDE
from tests.api.client import Api, Client, images_zip, png, problem, running, validate_datasets, zip_of
from tests.api.conftest import make_settings


def test_upload_is_validated_and_every_file_is_reported(tenant: Client, domain: str, services: Services) -> None:
    files = {"pear/1.png": png(1), "apple/1.png": png(2), "apple/2.png": png(3), "apple/2b.png": png(3)}
    sent = tenant.upload(f"/v1/domains/{domain}/datasets", zip_of({**files, "pear/x.png": b"no image"}))
    assert sent.status_code == 202
    dataset = sent.json()
    assert (dataset["status"], dataset["classes"], dataset["images"]) == ("validating", [], 0)
    assert dataset["report"] == {
        "accepted": 0, "ignored": 0, "rejected_count": 0, "rejected": None, "warnings": []
    }  # fmt: skip

    validate_datasets(services)
    ready = tenant.read(f"/v1/datasets/{dataset['id']}")
    assert ready["status"] == "ready"
    counts = [(class_["id"], class_["name"], class_["images"]) for class_ in ready["classes"]]
    assert counts == [(0, "apple", 2), (1, "pear", 1)]
    assert ready["images"] == ready["report"]["accepted"] == 3
    rejected = {rejected["file"]: rejected["code"] for rejected in ready["report"]["rejected"]}
    assert rejected == {"apple/2b.png": "duplicate", "pear/x.png": "not_an_image"}
    assert ready["size_bytes"] == len(zip_of({**files, "pear/x.png": b"no image"}))
    assert ready["report"]["rejected_count"] == 2
    assert tenant.read(f"/v1/datasets/{dataset['id']}/report")["data"] == ready["report"]["rejected"]
    listed = {**ready, "report": {**ready["report"], "rejected": None}}
    assert tenant.read(f"/v1/domains/{domain}/datasets")["data"] == [listed]


def test_sample_data_waits_for_a_worker(tenant: Client, other: Client, domain: str) -> None:
    dataset = tenant.made(f"/v1/domains/{domain}/datasets/sample")
    assert (dataset["status"], dataset["size_bytes"]) == ("validating", 0)
    assert "CC BY-SA" in dataset["name"]
    problem(other.post(f"/v1/domains/{domain}/datasets/sample"), 404, "not_found")


def test_dataset_with_undecodable_images_is_rejected(tenant: Client, domain: str, services: Services) -> None:
    sent = tenant.upload(f"/v1/domains/{domain}/datasets", zip_of({"a/1.png": b"x", "a/2.png": b"y"})).json()
    validate_datasets(services)
    dataset = tenant.read(f"/v1/datasets/{sent['id']}")
    assert (dataset["status"], dataset["error"]["code"]) == ("rejected", "too_few_images")
    assert {rejected["file"] for rejected in dataset["report"]["rejected"]} == {"a/1.png", "a/2.png"}


@pytest.mark.parametrize(
    ("data", "code"),
    [(b"no zip", "not_a_zip"), (b"", "not_a_zip"), (zip_of({"1.png": png(1)}), "no_class_folders"),
     (zip_of({}), "no_class_folders"), (zip_of({"a/1.png": png(1)}), "too_few_images"),
     (images_zip()[:-30], "not_a_zip")],
)  # fmt: skip
def test_broken_zip_fails_immediately_and_leaves_nothing(
    tenant: Client, domain: str, services: Services, data: bytes, code: str
) -> None:
    problem(tenant.upload(f"/v1/domains/{domain}/datasets", data), 422, code)
    assert tenant.read(f"/v1/domains/{domain}/datasets")["data"] == []
    with_domain = [key for key in services.store.list("tenants/") if domain in key]
    assert with_domain == []


def test_request_without_a_file_is_rejected(tenant: Client, domain: str) -> None:
    path = f"/v1/domains/{domain}/datasets"
    problem(tenant.post(path, {"file": "x"}), 422, "invalid_request")
    problem(tenant.post(path, files={"other": b"x"}), 422, "invalid_request")
    problem(tenant.post(path, data={"file": "text, not a file"}), 422, "invalid_request")
    broken = {"Content-Type": "multipart/form-data; boundary=x"}
    problem(tenant.post(path, content=b"--y\r\nnonsense", headers=broken), 400, "bad_request")
    problem(tenant.post(path, content=b"x", headers={"Content-Type": "multipart/form-data"}), 400, "bad_request")


@pytest.fixture(scope="module")
def narrow(tmp_path_factory: pytest.TempPathFactory) -> Api:  # type: ignore[misc]
    settings = make_settings(tmp_path_factory.mktemp("narrow"), max_upload_bytes=10_000, max_archive_members=3)
    with running(settings) as api:
        yield api


def test_upload_over_the_limit_is_rejected(narrow: Api) -> None:
    tenant = narrow.tenant("over the limit")
    path = f"/v1/domains/{tenant.made('/v1/domains', {'name': 'd'})['id']}/datasets"
    error = problem(tenant.upload(path, bytes(10_001)), 413, "payload_too_large")
    assert "10,000" in error["detail"]
    problem(tenant.upload(path, images_zip(each=3)), 422, "too_many_files")
    assert tenant.upload(path, images_zip(("a",), 2)).status_code == 202


def test_each_class_has_thumbnails_of_its_first_images(
    api_client: Client, tenant: Client, domain: str, services: Services
) -> None:
    files = {f"{name}/{number}.png": png(number) for name, number in (("apple", 1), ("apple", 2), ("pear", 3))}
    id = tenant.upload(f"/v1/domains/{domain}/datasets", zip_of(files)).json()["id"]
    path = f"/v1/datasets/{id}/classes"
    problem(tenant.get(f"{path}/0/example"), 404, "not_found")
    validate_datasets(services)
    shown = [class_["example_url"] for class_ in tenant.read(f"/v1/datasets/{id}")["classes"]]
    strips = [Image.open(io.BytesIO(api_client.get(url).content)) for url in shown]
    assert [strip.size for strip in strips] == [(2 * SIDE, SIDE), (SIDE, SIDE)]
    assert [strips[0].getpixel((place, 50)) for place in (50, SIDE + 50)] == [(1, 254, 7), (2, 253, 7)]
    problem(api_client.get(shown[0].replace("/0/", "/1/")), 401, "unauthenticated")
    problem(tenant.get(f"{path}/2/example"), 404, "not_found")
