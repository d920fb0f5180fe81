"""A data set in the browser: its images and warnings, changes that are saved as a new version, copies, deletion."""

import re
from collections.abc import Iterator

import pytest
from playwright.sync_api import Locator, Page, expect

from tests.api.client import png
from tests.browser.conftest import LONG, Dashboard, Visitor, upload
from tests.receiver import content, receiving

ORIGINAL = {"fruit": 5, "heart": 4, "car": 2}
TINY = {"heart/tiny.png": png(10), "heart/small.png": png(200)}


def classes(visitor: Visitor, id: str) -> dict[str, int]:
    """Returns the number of images of each class."""
    return {label["name"]: label["images"] for label in visitor.caller.get(f"/v1/datasets/{id}")["classes"]}


@pytest.fixture(scope="module")
def domains(visitor: Visitor) -> Iterator[list[str]]:
    """Yields a list of domains that are deleted after the last test, when no open page loads their images."""
    created: list[str] = []
    yield created
    for id in created:
        visitor.caller.send("DELETE", f"/v1/domains/{id}").raise_for_status()


@pytest.fixture
def domain(visitor: Visitor, domains: list[str]) -> str:
    domains.append(visitor.caller.post("/v1/domains", {"name": f"Edited {len(domains)}"})["id"])
    return domains[-1]


@pytest.fixture
def dataset(visitor: Visitor, domain: str) -> str:
    return upload(visitor, domain, ORIGINAL, "Original", TINY)


@pytest.fixture
def editor(dashboard: Dashboard, domain: str, dataset: str) -> Page:
    page = dashboard.sign_in()
    page.goto(f"{dashboard.url}/domains/{domain}/datasets/{dataset}")
    expect(page.get_by_text("No unsaved changes.")).to_be_visible()
    return page


def press(place: Page | Locator, name: str) -> None:
    place.get_by_role("button", name=name, exact=True).click()


def test_changes_survive_a_reload_and_become_one_version(
    dashboard: Dashboard, visitor: Visitor, domain: str, dataset: str
) -> None:
    upload(visitor, domain, {"car": 6}, "More cars")
    page = dashboard.sign_in()
    page.goto(f"{dashboard.url}/domains/{domain}/images")
    page.get_by_role("link", name="Original").click()
    expect(page.locator(".training-image img")).to_have_count(sum(ORIGINAL.values()) + len(TINY))
    page.wait_for_function("document.querySelector('.training-image img').naturalWidth > 0")
    expect(page.get_by_text("so training enlarges it").first).to_be_visible()
    expect(page.get_by_text("Classes with fewer than 5 images")).to_be_visible()

    tiny = page.get_by_role("button", name="Remove heart/tiny.png")
    tiny.focus()
    page.keyboard.press("Space")
    expect(tiny).to_have_attribute("aria-pressed", "true")
    expect(tiny).to_be_focused()
    press(page, "Rename or merge fruit")
    page.get_by_label("New name").fill("food")
    page.keyboard.press("Enter")
    expect(page.get_by_text("Will become “food”")).to_be_visible()
    press(page, "Add images of another data set")
    press(page.get_by_role("dialog"), "Add")
    expect(page.get_by_text("3 unsaved changes.")).to_be_visible()

    page.reload()
    expect(page.get_by_text("3 unsaved changes.")).to_be_visible()
    expect(tiny).to_have_attribute("aria-pressed", "true")
    expect(page.get_by_role("dialog")).to_have_count(0)
    dashboard.keep("data-set")
    press(page, "Review and save")
    dialog = page.get_by_role("dialog")
    for change in ("Remove 1 image of “heart”.", "Add the images of “More cars", "Rename “fruit” to “food”."):
        expect(dialog).to_contain_text(change)
    dashboard.keep("unsaved-changes")
    page.get_by_label("Name of the version").fill("Second try")
    press(dialog, "Save")

    expect(page.get_by_role("heading", name="Second try")).to_be_visible()
    expect(page.locator("[data-status=ready]")).to_be_visible(timeout=LONG)
    version = page.url.rpartition("/")[2]
    assert classes(visitor, version) == {"food": 5, "heart": 5, "car": 6}
    expect(page.get_by_role("row", name="Second try (this one)")).to_contain_text("Original")
    page.get_by_role("row", name="an upload").get_by_role("link", name="Original").click()
    expect(page.get_by_text("No unsaved changes.")).to_be_visible()
    assert classes(visitor, dataset) == {**ORIGINAL, "heart": 6}


def test_changes_survive_the_end_of_the_session(dashboard: Dashboard, editor: Page, dataset: str) -> None:
    press(editor, "Remove class heart")
    editor.get_by_role("button", name="Remove car/").first.click()
    expect(editor.get_by_text("2 unsaved changes.")).to_be_visible()
    editor.context.clear_cookies()  # as after a restart of the API, no session belongs to the browser
    editor.reload()
    editor.get_by_label("API key").fill(dashboard.key)
    editor.keyboard.press("Enter")
    expect(editor.get_by_text("2 unsaved changes.")).to_be_visible()
    expect(editor.get_by_text("Will be removed")).to_have_count(ORIGINAL["heart"] + len(TINY) + 2)
    editor.get_by_role("button", name="Remove car/").first.click()
    press(editor, "Review and save")
    press(editor.get_by_role("dialog"), "Save")
    editor.wait_for_url(lambda url: dataset not in url)
    expect(editor.locator("[data-status=ready]")).to_be_visible(timeout=LONG)
    kept = "Object.keys(sessionStorage).filter(name => name.startsWith('difffit_draft'))"
    assert editor.evaluate(kept) == []


def test_images_with_a_warning_are_removed_together(editor: Page) -> None:
    editor.get_by_label("Show", exact=True).click()
    editor.get_by_role("option", name="Tiny images").click()
    editor.wait_for_url("**?warning=tiny")
    expect(editor.locator(".training-image")).to_have_count(len(TINY))
    press(editor, "Remove all images on this page")
    expect(editor.get_by_text("1 unsaved change.")).to_be_visible()
    expect(editor.get_by_text("Will be removed")).to_have_count(len(TINY))
    press(editor, "Remove class heart")
    press(editor, "Review and save")
    dialog = editor.get_by_role("dialog")
    expect(dialog.get_by_role("listitem")).to_have_text([re.compile("Remove the class “heart” with 6 images.")])
    dialog.get_by_role("button", name="Undo: Remove the class").click()
    expect(dialog).to_have_count(0)
    expect(editor.get_by_text("No unsaved changes.")).to_be_visible()
    expect(editor.get_by_text("Will be removed")).to_have_count(0)
    press(editor, "Remove all images on this page")
    press(editor, "Discard the changes")
    press(dialog, "Discard all changes")
    expect(editor.get_by_text("No unsaved changes.")).to_be_visible()
    editor.reload()
    expect(editor.get_by_text("No unsaved changes.")).to_be_visible()


def test_classes_are_merged_by_name(editor: Page, visitor: Visitor, dataset: str) -> None:
    press(editor, "Rename or merge car")
    editor.get_by_label("New name").fill("heart")
    press(editor.get_by_role("dialog"), "Change")
    press(editor, "Review and save")
    dialog = editor.get_by_role("dialog", name="Save as a new version")
    expect(dialog).to_contain_text("Merge “car” into “heart”.")
    press(dialog, "Save")
    editor.wait_for_url(lambda url: dataset not in url)
    version = editor.url.rpartition("/")[2]
    assert classes(visitor, version) == {"fruit": 5, "heart": 8}


def test_impossible_edit_is_explained_and_not_lost(dashboard: Dashboard, editor: Page, domain: str) -> None:
    for name in ORIGINAL:
        press(editor, f"Remove class {name}")
    expect(editor.get_by_text("3 unsaved changes.")).to_be_visible()
    press(editor, "Review and save")
    press(editor.get_by_role("dialog"), "Save")
    toast = editor.locator(".q-notification")
    expect(toast).to_contain_text("Only 0 images are left; at least 2 are needed.")
    press(toast, "Close")
    press(editor.get_by_role("dialog"), "Cancel")
    expect(editor.get_by_text("3 unsaved changes.")).to_be_visible()
    editor.goto(f"{dashboard.url}/domains/{domain}/images")
    expect(editor.get_by_text("unsaved changes", exact=True)).to_be_visible()


def test_changes_survive_a_lost_connection(dashboard: Dashboard, editor: Page) -> None:
    dashboard.expects_failures = True
    editor.evaluate("window.stayed = true")
    tiny = editor.get_by_role("button", name="Remove heart/tiny.png")
    editor.context.set_offline(True)
    tiny.click()
    editor.wait_for_timeout(8000)
    editor.context.set_offline(False)
    expect(tiny).to_have_attribute("aria-pressed", "true", timeout=LONG)
    expect(editor.get_by_text("1 unsaved change.")).to_be_visible()
    assert editor.evaluate("window.stayed"), "the page was reloaded"


def test_data_set_is_renamed_copied_and_deleted(
    dashboard: Dashboard, editor: Page, visitor: Visitor, domains: list[str], dataset: str
) -> None:
    press(editor, "Rename")
    editor.get_by_label("Name", exact=True).fill('Cover "art"')
    editor.keyboard.press("Enter")
    expect(editor.get_by_role("heading", name='Cover "art"')).to_be_visible()
    other = visitor.caller.post("/v1/domains", {"name": "Other style"})["id"]
    domains.append(other)
    press(editor, "Copy to another domain")
    dialog = editor.get_by_role("dialog")
    expect(dialog.get_by_label("Domain", exact=True)).to_have_value("Other style")
    press(dialog, "Copy")
    editor.wait_for_url(f"**/domains/{other}/datasets/*")
    expect(editor.locator("[data-status=ready]")).to_be_visible(timeout=LONG)
    expect(editor.get_by_role("heading", name='Cover "art"')).to_be_visible()

    dashboard.expects_failures = True  # thumbnails of the deleted data set that the browser loads late
    press(editor, 'Delete Cover "art"')
    press(dialog, "Delete the data set")
    receipt = editor.get_by_role("dialog", name="Deleted")
    expect(receipt).to_contain_text("del_")
    expect(dialog).to_have_count(1)
    expect(receipt).to_contain_text(re.compile("so far|Everything was deleted"))
    dashboard.keep("receipt")
    press(receipt, "Close")
    editor.wait_for_url(f"**/domains/{other}/images")
    assert visitor.caller.get(f"/v1/domains/{other}/datasets")["data"] == []
    assert visitor.caller.get(f"/v1/datasets/{dataset}")["name"] == 'Cover "art"'


def test_images_are_imported_from_other_hosts(dashboard: Dashboard, visitor: Visitor, domain: str) -> None:
    page = dashboard.sign_in()
    page.goto(f"{dashboard.url}/domains/{domain}/images")
    press(page, "Import from other hosts")
    dialog = page.get_by_role("dialog")
    with receiving(lambda request: content(png(int(request.path[1:])))(request)) as server:
        at = f"http://127.0.0.1:{server.port}"
        dialog.get_by_label("Images", exact=True).fill(f"fruit {at}/10\nfresh fruit {at}/20\n{at}/30")
        press(dialog, "Import")
        expect(dialog.get_by_text("needs a class, a space and a URL")).to_be_visible()
        dialog.get_by_label("Images", exact=True).fill(f"fruit {at}/10\n\nfresh fruit {at}/20\nfruit {at}/30")
        dashboard.keep("import")
        press(dialog, "Import")
        expect(page.locator("[data-status=ready]")).to_be_visible(timeout=LONG)
    assert classes(visitor, page.url.rpartition("/")[2]) == {"fresh fruit": 1, "fruit": 2}
    page.goto(f"{dashboard.url}/domains/{domain}/images")
    press(page, "Import from other hosts")
    page.get_by_label("Source").click()
    page.get_by_role("option", name="A public S3 bucket").click()
    page.get_by_label("URL of the bucket").fill("http://other.test/bucket")
    press(dialog, "Import")
    expect(dialog.get_by_text("imports nothing from other.test")).to_be_visible()
    expect(dialog.get_by_label("Images", exact=True)).to_be_hidden()
