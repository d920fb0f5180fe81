"""Conversion of a browser's form into the zip that the API accepts."""

import io
import zipfile
from pathlib import Path

import httpx
import pytest

from tests.api.client import Api, Client, images_zip, png, validate_datasets, zip_of
from tests.api.dashboard.conftest import Browser

Files = list[tuple[str, tuple[str, bytes, str]]]


@pytest.fixture
def tenant(pages: Api, request: pytest.FixtureRequest) -> Client:
    return pages.tenant(f"Uploading {request.node.name}")


@pytest.fixture
def domain(tenant: Client, browser: Browser) -> str:
    browser.sign_in(tenant.headers["Authorization"].removeprefix("Bearer "))
    id: str = tenant.made("/v1/domains", {"name": "Fruit"})["id"]
    return id


def form(files: dict[str, bytes]) -> Files:
    return [("files", (path, data, "image/png")) for path, data in files.items()]


def send(browser: Browser, domain: str, files: Files) -> httpx.Response:
    return browser.api.portal.call(lambda: browser.http.post(f"/dashboard/upload/{domain}", files=files))


def stored(pages: Api, domain: str) -> dict[str, bytes]:
    """Returns the members of the domain's only archive."""
    (path,) = (pages.services.settings.data_dir / "objects").glob(f"**/{domain}/**/*.zip")
    with zipfile.ZipFile(Path(path)) as archive:
        assert archive.testzip() is None
        return {info.filename: archive.read(info) for info in archive.infolist()}


def test_folder_becomes_a_zip_of_the_same_files(browser: Browser, pages: Api, tenant: Client, domain: str) -> None:
    files = {f"drawings/{name}/{n}.png": png(30 * len(name) + n) for name in ("apple", "Birnen") for n in range(3)}
    files |= {'drawings/apple/a "b" c.png': png(9), "drawings/äöü/1.png": png(8)}
    files |= {"drawings/empty.txt": b"", "drawings/large.bin": bytes(3 * 2**20)}
    answer = send(browser, domain, form(files))
    assert answer.status_code == 200, answer.text
    assert stored(pages, domain) == {path.replace('"', "%22"): data for path, data in files.items()}
    validate_datasets(pages.services)
    dataset = tenant.read(f"/v1/datasets/{answer.json()['id']}")
    assert dataset["status"] == "ready"
    assert {class_["name"] for class_ in dataset["classes"]} == {"apple", "Birnen", "äöü"}


def test_single_zip_passes_unchanged(browser: Browser, pages: Api, domain: str) -> None:
    archive = images_zip()
    assert send(browser, domain, form({"Fruit.ZIP": archive})).status_code == 200
    with zipfile.ZipFile(io.BytesIO(archive)) as sent:
        assert stored(pages, domain) == {name: sent.read(name) for name in sent.namelist()}


def test_zip_in_a_folder_is_a_file_like_others(browser: Browser, pages: Api, domain: str) -> None:
    files = {"f/apple/1.png": png(1), "f/apple/2.png": png(2), "f/inner.zip": zip_of({"x": b"y"})}
    assert send(browser, domain, form(files)).status_code == 200
    assert set(stored(pages, domain)) == set(files)


@pytest.mark.parametrize(
    ("files", "status"),
    [({"a.zip": b"no zip"}, 422), ({"f/notes.txt": b"no images"}, 422), ({}, 422),
     ({"a.zip": images_zip(), "b.zip": images_zip()}, 400)],
)  # fmt: skip
def test_problem_of_the_upload_is_returned(browser: Browser, domain: str, files: dict[str, bytes], status: int) -> None:
    answer = send(browser, domain, form(files) or [("other", ("", b"", "text/plain"))])
    assert answer.status_code == status
    assert answer.json()["title"]
    assert answer.json()["detail"]


@pytest.mark.parametrize("content_type", ["text/plain", "multipart/form-data", "multipart/form-data; boundary=y"])
def test_broken_form_is_rejected(browser: Browser, domain: str, content_type: str) -> None:
    headers = {"Content-Type": content_type}
    path = f"/dashboard/upload/{domain}"
    answer = browser.api.portal.call(lambda: browser.http.post(path, content=b"--x\r\nnonsense", headers=headers))
    assert answer.status_code == 400
    assert answer.json()["detail"]


def test_headers_of_a_part_have_a_limit(browser: Browser, domain: str) -> None:
    answer = send(browser, domain, form({"f/" + "x" * 10_000: b""}))
    assert answer.status_code == 400
