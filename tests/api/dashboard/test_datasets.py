"""The page of a data set, as the server sends it: images, warnings, versions, and who may edit."""

import io
import time
import zipfile

import pytest

from tests.api.client import Api, Client, images_zip, png, validate_datasets, zip_of
from tests.api.dashboard.conftest import Browser

EDITING = (
    "Press an image",
    "Review and save",
    "Remove class",
    "Rename or merge",
    "Copy to another domain",
    "Remove all images",
)
COLOURS = {"pear/1.png": 1, "pear/4.png": 30, "apple/1.png": 200, "apple/2.png": 90, "apple/3.png": 150}
FILES = {**{file: png(colour) for file, colour in COLOURS.items()}, "apple/x.png": b"no image"}


def uploaded(pages: Api, tenant: Client, domain: str, files: dict[str, bytes]) -> str:
    id: str = tenant.upload(f"/v1/domains/{domain}/datasets", zip_of(files)).json()["id"]
    validate_datasets(pages.services)
    return id


@pytest.fixture
def tenant(pages: Api) -> Client:
    return pages.tenant(f"Tenant {time.monotonic_ns()}")


@pytest.fixture
def domain(tenant: Client) -> str:
    id: str = tenant.made("/v1/domains", {"name": "Drawings"})["id"]
    return id


@pytest.fixture
def dataset(pages: Api, tenant: Client, domain: str) -> str:
    return uploaded(pages, tenant, domain, FILES)


def key_of(client: Client) -> str:
    return client.headers["Authorization"].removeprefix("Bearer ")


def text_of(browser: Browser, path: str) -> str:
    """Returns the source of a page, which has the page's elements as JSON."""
    page = browser.get(f"/dashboard{path}")
    assert page.status_code == 200
    return page.text


def test_page_shows_images_with_their_warnings(browser: Browser, tenant: Client, domain: str, dataset: str) -> None:
    browser.sign_in(key_of(tenant))
    path = f"/domains/{domain}/datasets/{dataset}"
    text = text_of(browser, path)
    for shown in ("1.png", "so training enlarges it", "nearly the same colour", "1 file was rejected"):
        assert shown in text, shown
    assert "Classes with fewer than 5 images" in text
    assert all(word in text for word in EDITING)
    assert "2.png" in text_of(browser, f"{path}?class_id=0")
    assert "2.png" not in text_of(browser, f"{path}?class_id=1")
    assert "No image matches." in text_of(browser, f"{path}?warning=near_duplicate&class_id=1")
    assert "2.png" in text_of(browser, f"{path}?class_id=apple&warning=ugly")  # unknown filters select everything
    assert path in text_of(browser, f"/domains/{domain}/images")


def test_imports_are_offered_where_they_are_allowed(
    browser: Browser, pages: Api, tenant: Client, domain: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    browser.sign_in(key_of(tenant))
    path = f"/domains/{domain}/images"
    assert "Import from other hosts" not in text_of(browser, path)
    monkeypatch.setattr(pages.app.state.services.settings, "dataset_import_hosts", "*")
    assert "Import from other hosts" in text_of(browser, path)


def test_images_are_paged(browser: Browser, pages: Api, tenant: Client, domain: str) -> None:
    id = uploaded(pages, tenant, domain, {f"{name}/{k}.png": png(2 * k) for name in ("a", "b") for k in range(30)})
    browser.sign_in(key_of(tenant))
    path = f"/domains/{domain}/datasets/{id}"
    first = text_of(browser, path)
    assert "More images" in first
    assert "First images" not in first
    cursor = tenant.read(f"/v1/datasets/{id}/images?limit=48")["next_cursor"]
    rest = text_of(browser, f"{path}?cursor={cursor}")
    assert (rest.count("Remove b/"), "Remove a/" in rest) == (12, False)
    assert "First images" in rest
    assert "More images" not in rest
    linked = text_of(browser, f"{path}?cursor={cursor}&trail=-")  # the address of the link on the first page
    assert "trail=-" in first
    assert ("Previous images" in linked, "First images" in linked) == (True, False)


def test_versions_of_a_data_set_are_listed_with_their_origin(
    browser: Browser, pages: Api, tenant: Client, domain: str, dataset: str
) -> None:
    browser.sign_in(key_of(tenant))
    path = f"/domains/{domain}/datasets"
    assert "Made from" not in text_of(browser, f"{path}/{dataset}")
    tenant.patch(f"/v1/datasets/{dataset}", {"name": "First"})
    second = tenant.made(f"/v1/datasets/{dataset}/versions", {"remove_images": [1], "name": "Second"})["id"]
    third = tenant.made(f"/v1/domains/{domain}/datasets", files={"file": ("a.zip", images_zip())})["id"]
    validate_datasets(pages.services)
    for id in (dataset, second):
        text = text_of(browser, f"{path}/{id}")
        assert all(shown in text for shown in ("Made from", "First", "Second", "an upload", "(this one)"))
        assert third not in text
    assert tenant.delete(f"/v1/datasets/{dataset}").status_code == 204
    fourth = tenant.made(f"/v1/datasets/{second}/versions", {"remove_images": [1], "name": "Fourth"})["id"]
    validate_datasets(pages.services)
    text = text_of(browser, f"{path}/{fourth}")
    assert all(shown in text for shown in ("a deleted data set, or one of another domain", "Second", "(this one)"))


def test_reader_sees_images_without_an_editor(
    browser: Browser, pages: Api, tenant: Client, domain: str, dataset: str
) -> None:
    owner = tenant.read("/v1/key")["tenant_id"]
    body = {"name": "reader", "scopes": ["read"]}
    browser.sign_in(pages.admin.made(f"/v1/admin/tenants/{owner}/keys", body)["key"])
    text = text_of(browser, f"/domains/{domain}/datasets/{dataset}")
    assert "2.png" in text
    assert not [word for word in EDITING if word in text]


def test_images_are_downloaded_as_a_zip(
    browser: Browser, pages: Api, tenant: Client, domain: str, dataset: str
) -> None:
    browser.sign_in(key_of(tenant))
    path = f"/datasets/{dataset}/zip"
    assert path in text_of(browser, f"/domains/{domain}/datasets/{dataset}")
    sent = browser.get(f"/dashboard{path}")
    assert sent.headers["content-type"] == "application/zip"
    with zipfile.ZipFile(io.BytesIO(sent.content)) as packed:
        assert {name: packed.read(name) for name in packed.namelist()} == {
            file: png(colour) for file, colour in COLOURS.items()
        }
    browser.sign_in(key_of(pages.tenant(f"Other {time.monotonic_ns()}")))
    assert browser.get(f"/dashboard{path}").headers["location"] == "/dashboard/missing-file"


def test_another_tenants_data_set_is_not_found(browser: Browser, pages: Api, domain: str, dataset: str) -> None:
    stranger = pages.tenant(f"Other {time.monotonic_ns()}")
    own = stranger.made("/v1/domains", {"name": "Own"})["id"]
    browser.sign_in(key_of(stranger))
    assert "There is no domain" in text_of(browser, f"/domains/{domain}/datasets/{dataset}")
    text = text_of(browser, f"/domains/{own}/datasets/{dataset}")
    assert "There is no dataset" in text
    assert "2.png" not in text
