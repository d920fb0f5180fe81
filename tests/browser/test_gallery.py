"""The gallery and the comparison of versions: find, mark, label, download and delete images, use their settings again.

`make test-browser` runs it together with the other browser tests.
"""

import re
import zipfile
from collections.abc import Iterator
from typing import Any

import pytest
from playwright.sync_api import Locator, Page, expect

from tests.browser.conftest import LONG, Dashboard, Visitor, connected, trained

PAGE = 24
HEARTS, FRUIT = 20, 8


@pytest.fixture(scope="module")
def versions(visitor: Visitor) -> Iterator[str]:
    """Yields the id of a domain with two versions, of which the first is active."""
    id = visitor.caller.post("/v1/domains", {"name": "Pictured"})["id"]
    for count in (2, 3):
        trained(visitor, id, {"fruit": 4, "heart": 4}, steps=count, batch_size=count)
    yield id
    visitor.caller.send("DELETE", f"/v1/domains/{id}").raise_for_status()


@pytest.fixture
def domain(dashboard: Dashboard, visitor: Visitor, versions: str) -> Iterator[str]:
    """Yields the id of that domain, with images on more than one page of the gallery."""
    for name, count in (("heart", HEARTS), ("fruit", FRUIT)):
        body = {"class_name": name, "count": count, "steps": 2, "seed": 100, "guidance_scale": 1}
        started = visitor.caller.post(f"/v1/domains/{versions}/generations", body)["id"]
        assert visitor.caller.wait(f"/v1/generations/{started}", "queued", "running")["status"] == "succeeded"
    yield versions
    dashboard.page.goto("about:blank")  # the open page may still load images
    visitor.caller.post("/v1/images/delete", {"ids": [image["id"] for image in listed(visitor, versions)]})
    for version in visitor.caller.get(f"/v1/domains/{versions}/adapters")["data"]:
        visitor.caller.send("PATCH", f"/v1/adapters/{version['id']}", json={"name": None}).raise_for_status()


@pytest.fixture
def gallery(dashboard: Dashboard, domain: str) -> Page:
    page = dashboard.sign_in()
    page.goto(f"{dashboard.url}/domains/{domain}/gallery")
    expect(tiles(page)).to_have_count(PAGE)
    return page


def tiles(page: Page) -> Locator:
    return page.locator(".gallery-tile")


def listed(visitor: Visitor, domain: str, query: str = "") -> list[dict[str, Any]]:
    images: list[dict[str, Any]] = visitor.caller.get(f"/v1/domains/{domain}/images?limit=100{query}")["data"]
    return images


def choose(page: Page, label: str, option: str) -> None:
    connected(page)
    page.get_by_label(label, exact=True).click()
    page.get_by_role("option", name=option, exact=True).click()


def show(page: Page) -> None:
    page.get_by_role("button", name="Show", exact=True).click()


def test_gallery_leads_one_page_back(dashboard: Dashboard, gallery: Page) -> None:
    dashboard.keep("gallery")
    first = tiles(gallery).first.inner_text()
    gallery.get_by_role("link", name="Older images").click()
    expect(tiles(gallery)).to_have_count(HEARTS + FRUIT - PAGE)
    expect(gallery.get_by_role("link", name="Older images")).to_have_count(0)
    gallery.get_by_role("link", name="Newer images").click()
    expect(tiles(gallery)).to_have_count(PAGE)
    assert tiles(gallery).first.inner_text() == first
    expect(gallery.get_by_role("link", name="Newer images")).to_have_count(0)


def test_gallery_finds_images_by_filters(dashboard: Dashboard, gallery: Page, domain: str) -> None:
    choose(gallery, "Class", "fruit")
    show(gallery)
    expect(tiles(gallery)).to_have_count(FRUIT)
    expect(gallery.get_by_label("Class", exact=True)).to_have_value("fruit")
    connected(gallery)
    gallery.get_by_label("Seed", exact=True).fill("103")
    gallery.get_by_label("Seed", exact=True).press("Enter")
    expect(tiles(gallery)).to_have_count(1)
    gallery.get_by_label("From", exact=True).fill("2999-01-01")
    show(gallery)
    expect(gallery.get_by_text("No image matches")).to_be_visible()
    gallery.get_by_role("link", name="Show all").click()
    choose(gallery, "Version", "Version 2")
    show(gallery)
    expect(gallery.get_by_text("No image matches")).to_be_visible()
    gallery.goto(f"{dashboard.url}/gallery")
    choose(gallery, "Domain", "Pictured")
    gallery.get_by_label("Seed", exact=True).fill("119")
    show(gallery)
    gallery.wait_for_url(f"**/domains/{domain}/gallery?seed=119")
    expect(tiles(gallery)).to_have_count(1)


def test_images_are_marked_and_labelled_in_place(gallery: Page, visitor: Visitor, domain: str) -> None:
    star = tiles(gallery).first.get_by_role("button", name="Favourite: fruit, seed 107")
    star.focus()
    gallery.keyboard.press("Enter")
    expect(star).to_have_attribute("aria-pressed", "true")
    expect(star).to_be_focused()
    tiles(gallery).first.get_by_role("button", name="Add label").click()
    gallery.get_by_label("Label", exact=True).fill("The Best One")
    gallery.keyboard.press("Enter")
    expect(gallery.get_by_role("dialog")).to_have_count(0)
    expect(tiles(gallery).first).to_contain_text("The Best One")
    choose(gallery, "Favourites", "Favourites")
    gallery.get_by_label("Label contains").fill("best")
    show(gallery)
    expect(tiles(gallery)).to_have_count(1)
    expect(star).to_have_attribute("aria-pressed", "true")
    assert [image["label"] for image in listed(visitor, domain, "&favourite=true")] == ["The Best One"]
    star.click()
    expect(star).to_have_attribute("aria-pressed", "false")
    assert listed(visitor, domain, "&favourite=true") == []


def test_selected_images_are_downloaded_and_deleted(
    dashboard: Dashboard, gallery: Page, visitor: Visitor, domain: str
) -> None:
    before = len(listed(visitor, domain))
    expect(gallery.get_by_role("button", name="Delete the selected images")).to_be_hidden()
    for seed in (107, 105):
        gallery.get_by_role("checkbox", name=f"Select fruit, seed {seed}").click()
    expect(gallery.get_by_text(f"2 of {PAGE} selected")).to_be_visible()
    with gallery.expect_download() as zipped:
        gallery.get_by_role("button", name="Download the selected images").click()
    assert zipped.value.suggested_filename == "images.zip"
    with zipfile.ZipFile(zipped.value.path()) as archive:
        assert len(archive.namelist()) == 3, "two images and their metadata"
    with gallery.expect_download() as zipped:
        gallery.get_by_role("link", name="Download all as zip").click()
    with zipfile.ZipFile(zipped.value.path()) as archive:
        assert len(archive.namelist()) == before + 1
    gallery.get_by_role("button", name="Delete the selected images").click()
    dashboard.keep("delete-images")
    gallery.get_by_role("button", name="Delete 2 images", exact=True).click()
    expect(gallery.locator(".q-notification")).to_contain_text(re.compile(r"2 images deleted, [\d.]+ (B|KB)\."))
    expect(tiles(gallery)).to_have_count(PAGE - 2)
    expect(gallery.get_by_text(f"0 of {PAGE - 2} selected")).to_be_visible()
    assert len(listed(visitor, domain)) == before - 2
    gallery.get_by_role("button", name="Select all").click()
    expect(gallery.get_by_text(f"{PAGE - 2} of {PAGE - 2} selected")).to_be_visible()
    gallery.get_by_role("button", name="Select none").click()
    expect(gallery.get_by_text(f"0 of {PAGE - 2} selected")).to_be_visible()


def test_picture_and_its_settings_are_shown_by_keyboard(dashboard: Dashboard, gallery: Page, domain: str) -> None:
    opener = gallery.get_by_role("button", name="Details of heart, seed 119")
    opener.focus()
    gallery.keyboard.press("Enter")
    dialog = gallery.get_by_role("dialog")
    expect(dialog).to_contain_text("119")
    expect(dialog).to_contain_text("SHA-256")
    expect(dialog.get_by_role("button", name="Close")).to_be_focused()
    dashboard.keep("image-details")
    gallery.keyboard.press("ArrowRight")
    expect(dialog).to_contain_text("118")
    gallery.keyboard.press("ArrowLeft")
    expect(dialog.get_by_role("img", name="heart, seed 119")).to_be_visible()
    gallery.keyboard.press("Escape")
    expect(dialog).to_have_count(0)
    expect(opener).to_be_focused()
    gallery.keyboard.press("Enter")
    dialog.get_by_role("link", name="Use these settings").click()
    gallery.wait_for_url(f"**/domains/{domain}/playground?**")
    expect(gallery.get_by_label("First seed")).to_have_value("119")
    expect(gallery.get_by_label("Steps", exact=True)).to_have_value("2")
    expect(gallery.get_by_label("Guidance", exact=True)).to_have_value("1")
    expect(gallery.get_by_label("Guided from")).to_have_value("200")
    expect(gallery.get_by_label("Guided to")).to_have_value("800")
    expect(gallery.get_by_label("Class")).to_have_value("heart")
    expect(gallery.get_by_label("Version", exact=True)).to_have_value("Version 1")


def test_two_versions_are_compared_in_one_view(dashboard: Dashboard, visitor: Visitor, domain: str) -> None:
    page = dashboard.sign_in()
    page.goto(f"{dashboard.url}/domains/{domain}/versions")
    page.get_by_role("link", name="Compare two versions").click()
    expect(page.get_by_label("First version")).to_have_value("Version 1 (active)")
    expect(page.get_by_label("Second version")).to_have_value("Version 2")
    row = page.get_by_role("row", name="Step of the version")
    expect(row.locator("strong")).to_have_text([re.compile("of 2"), re.compile("of 3")])
    expect(page.get_by_role("row", name="Held-out loss of the base")).to_contain_text(re.compile(r"\d\.\d{4}"))
    expect(page.get_by_role("row", name="Learning rate").locator("strong")).to_have_count(0)
    chart = page.get_by_role("img", name=re.compile("Losses by step: Version 1 .* Version 2 "))
    expect(chart).to_be_visible()
    choose(page, "Class", "heart")
    page.get_by_role("button", name="Generate all").click()
    expect(page.locator("[data-version] img[src*='/images/']")).to_have_count(8, timeout=LONG)
    dashboard.keep("comparison")
    page.reload()
    expect(page.locator("[data-version] img[src*='/images/']")).to_have_count(8)
    with page.expect_download() as file:
        page.get_by_role("link", name="Download version 2").click()
    assert re.fullmatch("adp_[0-9a-z]+\\.safetensors", file.value.suggested_filename)
    page.get_by_role("button", name="Edit version 2").click()
    page.get_by_label("Name", exact=True).fill("crisp")
    page.get_by_label("Note", exact=True).fill("Trained for longer")
    page.get_by_label("Name", exact=True).press("Enter")
    expect(page.locator("[data-version='2']")).to_contain_text("Version 2, crisp")
    expect(page.locator("[data-version='2']")).to_contain_text("Trained for longer")
    choose(page, "First version", "Version 2, crisp")
    page.get_by_role("button", name="Compare", exact=True).click()
    expect(page.get_by_label("Second version")).to_have_value("Version 1 (active)")
    cover = visitor.caller.get(f"/v1/domains/{domain}")["cover_url"]
    newest = visitor.caller.get(f"/v1/domains/{domain}/images?limit=1")["data"][0]
    first = next(row for row in visitor.caller.get(f"/v1/domains/{domain}/adapters")["data"] if row["version"] == 1)
    covering = visitor.caller.get(f"/v1/generations/{re.findall('gen_[0-9a-z]+', cover)[0]}")
    assert covering["adapter_id"] == first["id"]
    assert newest["class_name"] == covering["class_name"] == "heart"


def test_name_of_a_version_is_shown_as_text(dashboard: Dashboard, visitor: Visitor, domain: str) -> None:
    name = "<img src=x onerror=\"document.title = 'run'\"> &lt;b&gt;"
    for version in visitor.caller.get(f"/v1/domains/{domain}/adapters")["data"]:
        visitor.caller.send("PATCH", f"/v1/adapters/{version['id']}", json={"name": name}).raise_for_status()
    page = dashboard.sign_in()
    page.goto(f"{dashboard.url}/domains/{domain}/compare")
    chart = page.get_by_role("img", name=re.compile("Losses by step"))
    expect(chart).to_contain_text(f"Version 1, {name}: training")
    chart.hover()
    expect(chart).to_contain_text(f"Step 2Version 1, {name}: training: ")
    for step in ("", "/playground", "/versions", "/gallery", "/training"):
        page.goto(f"{dashboard.url}/domains/{domain}{step}")
        expect(page.get_by_role("heading", level=1)).to_be_visible()
        expect(page.locator("img[src=x], b")).to_have_count(0)
        assert page.title() != "run"


def test_version_is_deleted_with_a_receipt(dashboard: Dashboard, visitor: Visitor, versions: str) -> None:
    id = trained(visitor, versions, {"fruit": 4})
    number = visitor.caller.get(f"/v1/adapters/{id}")["version"]
    page = dashboard.sign_in()
    page.goto(f"{dashboard.url}/domains/{versions}/versions")
    page.get_by_role("button", name=f"Delete version {number}").click()
    page.get_by_role("button", name="Delete the version").click()
    expect(page.get_by_role("dialog", name="Deleted")).to_contain_text("del_")
    page.get_by_role("button", name="Close").click()
    expect(page.locator(f"[data-version='{number}']")).to_have_count(0)
    assert visitor.caller.send("GET", f"/v1/adapters/{id}").status_code == 404
