"""A user's way through the pages, in a real Chromium with a real API and worker on the bundled base.

`make test-browser` runs it and keeps the screenshots in build/screenshots.
"""

from pathlib import Path

import pytest
from playwright.sync_api import expect

from core.ml.bundled import sample_domain_folder
from tests.browser.conftest import LONG, SCREENSHOTS, Dashboard, Server, Visitor

CLASSES = ("fruit", "heart", "car")
EACH = 20


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Returns a folder with a few classes of the bundled drawings and two files that are no images."""
    root = tmp_path_factory.mktemp("upload") / "drawings"
    for name in CLASSES:
        (root / name).mkdir(parents=True)
        for path in sorted((sample_domain_folder() / name).glob("*.png"))[:EACH]:
            (root / name / path.name).write_bytes(path.read_bytes())
    (root / "fruit" / "torn.png").write_bytes(b"not an image")
    (root / "heart" / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    return root


def test_visitor_signs_in_and_out(dashboard: Dashboard, server: Server) -> None:
    page = dashboard.page
    page.goto(f"{server.url}/")
    page.wait_for_url("**/dashboard/sign-in")
    page.get_by_label("API key").fill("dfk_wrong")
    page.keyboard.press("Enter")
    expect(page.get_by_role("alert")).to_contain_text("unknown, expired or revoked")
    dashboard.keep("sign-in")
    dashboard.sign_in()
    expect(page.get_by_role("heading", name="Domains")).to_be_visible()
    page.get_by_role("button", name="Sign out").click()
    page.wait_for_url("**/sign-in")
    page.goto(f"{server.url}/dashboard/usage")
    page.wait_for_url("**/sign-in?next=%2Fusage")
    page.get_by_label("API key").fill(dashboard.key)
    page.keyboard.press("Enter")
    page.wait_for_url("**/usage")


def test_folder_becomes_a_domain_that_generates_images(dashboard: Dashboard, folder: Path) -> None:
    page = dashboard.sign_in()
    page.get_by_role("button", name="New domain").click()
    page.get_by_label("Name").fill("OpenMoji")
    page.get_by_label("Description").fill("Black outlines, flat fills")
    dashboard.keep("new-domain")
    page.get_by_role("button", name="Create").click()
    page.wait_for_url("**/images")

    page.get_by_label("A folder of images").set_input_files(folder)
    expect(page.locator("[data-status=ready]")).to_be_visible(timeout=LONG)
    expect(page.get_by_text(str(EACH * len(CLASSES)), exact=True)).to_be_visible()
    expect(page.locator(".strip")).to_have_count(len(CLASSES))
    page.get_by_text("2 files were rejected").click()
    expect(page.get_by_role("cell", name="torn.png")).to_be_visible()
    dashboard.keep("images")

    page.get_by_role("link", name="Train on it").click()
    expect(page.get_by_text("shows it each image")).to_be_visible()
    page.get_by_text("More settings").click()
    page.get_by_label("Steps", exact=True).fill("160")
    page.get_by_label("Batch size").fill("8")
    expect(page.get_by_text("each image about 21 times")).to_be_visible()
    dashboard.keep("training")
    page.get_by_role("button", name="Start training").click()
    page.wait_for_url("**/finetunes/**")
    expect(page.get_by_text("Step 100", exact=True)).to_be_visible(timeout=LONG)
    expect(page.get_by_text("running", exact=True)).to_be_visible()
    page.screenshot(path=SCREENSHOTS / "training-now-1440-light.png", full_page=True)
    expect(page.get_by_text("succeeded", exact=True)).to_be_visible(timeout=LONG)
    expect(page.get_by_role("img", name="Loss by step: ")).to_be_visible()
    expect(page.locator(".sample").first).to_be_visible()
    dashboard.keep("fine-tune")

    page.get_by_role("link", name="Generate with it").click()
    expect(page.get_by_label("Version", exact=True)).to_have_value("Version 1")
    page.get_by_label("Class").click()
    page.get_by_role("option", name="heart").click()
    page.get_by_label("Steps", exact=True).fill("20")
    page.get_by_role("button", name="Generate", exact=True).click()
    drawn = page.locator("[data-generation] img[src*='/images/']")
    expect(drawn).to_have_count(4, timeout=LONG)
    page.mouse.move(8, 400)
    expect(page.get_by_role("button", name="Generate", exact=True)).to_be_enabled()
    dashboard.keep("playground")
    dialog = page.get_by_role("dialog")
    page.get_by_role("button", name="Settings of image 2").click()
    expect(dialog).to_contain_text("SHA-256")
    dashboard.keep("settings-of-a-picture")
    page.get_by_role("button", name="Close").click()
    expect(dialog).to_have_count(0)
    for leave in (lambda: page.keyboard.press("Escape"), lambda: page.mouse.click(8, 400)):
        page.get_by_role("button", name="Settings of image 1").click()
        expect(dialog).to_contain_text("SHA-256")
        leave()
        expect(dialog).to_have_count(0)
    page.get_by_role("button", name="As Python").click()
    expect(dialog).to_contain_text("client.generate(")
    page.get_by_role("button", name="Close").click()
    expect(dialog).to_have_count(0)

    page.get_by_role("link", name="Domains", exact=True).first.click()
    expect(page.locator("img.cover")).to_be_visible()
    dashboard.keep("domains")
    page.get_by_role("link", name="Usage").click()
    expect(page.get_by_text("Images today")).to_be_visible()
    dashboard.keep("usage")


def test_training_can_be_cancelled(dashboard: Dashboard, visitor: Visitor) -> None:
    domain = visitor.domain()
    page = dashboard.sign_in()
    page.goto(f"{dashboard.url}/domains/{domain}/training")
    page.get_by_role("button", name="Start training").click()
    page.wait_for_url("**/finetunes/**")
    page.get_by_role("button", name="Cancel").click()
    expect(page.get_by_text("cancelling", exact=True).or_(page.get_by_text("cancelled", exact=True))).to_be_visible()
    expect(page.get_by_text("cancelled", exact=True)).to_be_visible(timeout=LONG)


def test_versions_are_compared_and_promoted(dashboard: Dashboard, visitor: Visitor) -> None:
    domain = visitor.domain()
    datasets = visitor.caller.get(f"/v1/domains/{domain}/datasets")["data"]
    body = {"dataset_id": datasets[0]["id"], "steps": 10, "batch_size": 8, "seed": 1}
    finetune = visitor.caller.post(f"/v1/domains/{domain}/finetunes", body)
    assert visitor.caller.wait(f"/v1/finetunes/{finetune['id']}", "queued", "running")["status"] == "succeeded"

    page = dashboard.sign_in()
    page.goto(f"{dashboard.url}/domains/{domain}/versions")
    page.get_by_role("button", name="Generate all").click()
    expect(page.locator("[data-version] img[src*='/images/']")).to_have_count(8, timeout=LONG)
    dashboard.keep("versions")
    page.get_by_role("button", name="Make version 2 active").click()
    expect(page.locator("[data-version='2']")).to_contain_text("active")
    expect(page.locator("[data-version] img[src*='/images/']")).to_have_count(8)  # the comparison stays
    page.get_by_role("button", name="Make version 1 active").click()
    expect(page.locator("[data-version='1']").get_by_text("active", exact=True)).to_be_visible()
    first = next(row for row in visitor.caller.get(f"/v1/domains/{domain}/adapters")["data"] if row["version"] == 1)
    assert visitor.caller.get(f"/v1/domains/{domain}")["active_adapter_id"] == first["id"]


def test_problems_are_shown_in_the_page(dashboard: Dashboard, visitor: Visitor, tmp_path: Path) -> None:
    page = dashboard.sign_in()
    page.goto(f"{dashboard.url}/domains/{visitor.domain()}/images")
    no_zip = tmp_path / "drawings.zip"
    no_zip.write_bytes(b"no zip at all")
    picture = tmp_path / "heart.png"
    picture.write_bytes(b"\x89PNG\r\n\x1a\n")
    page.get_by_label("A zip of images").set_input_files(picture)
    expect(page.get_by_role("alert")).to_contain_text("Drop a folder that contains one folder per class")
    dashboard.expects_failures = True  # the browser itself logs the rejected upload
    page.get_by_label("A zip of images").set_input_files(no_zip)
    expect(page.get_by_role("alert")).to_contain_text("Upload a .zip with one folder per class.")
    page.goto(f"{dashboard.url}/nothing/here")
    expect(page.get_by_role("heading", name="Page not found")).to_be_visible()
    dashboard.keep("missing")
    page.goto(f"{dashboard.url}/domains/dom_none/images")
    expect(page.get_by_role("alert")).to_contain_text("There is no domain 'dom_none'")
    dashboard.keep("problem")


def test_playground_works_by_keyboard(dashboard: Dashboard, visitor: Visitor) -> None:
    page = dashboard.sign_in()
    page.keyboard.press("Tab")
    expect(page.get_by_role("link", name="Skip to the content")).to_be_focused()
    page.goto(f"{dashboard.url}/domains/{visitor.domain()}/playground")
    count = page.locator("[data-generation]").count()
    page.get_by_label("Steps", exact=True).focus()
    page.keyboard.press("Control+A")
    page.keyboard.type("2")
    page.get_by_role("button", name="Generate", exact=True).focus()
    page.keyboard.press("Enter")
    expect(page.locator("[data-generation]")).to_have_count(count + 1)
    page.get_by_role("button", name="Settings of image 1").first.focus()
    expect(page.locator("[data-generation] img").first).to_be_visible(timeout=LONG)
    page.keyboard.press("Escape")


def test_chosen_theme_survives_a_reload(dashboard: Dashboard) -> None:
    page = dashboard.sign_in()
    body = page.locator("body")
    page.get_by_role("button", name="Theme: system").click()
    page.get_by_role("button", name="Theme: light").click()
    expect(page.get_by_role("button", name="Theme: dark")).to_be_visible()
    assert "body--dark" in (body.get_attribute("class") or "")
    page.reload()
    expect(page.get_by_role("button", name="Theme: dark")).to_be_visible()
    assert "body--dark" in (body.get_attribute("class") or "")


def test_administrator_issues_a_key_for_a_colleague(administration: Dashboard) -> None:
    page = administration.sign_in()
    page.get_by_role("button", name="Issue a key").click()
    page.get_by_label("Name", exact=True).fill("Ada")
    page.get_by_role("button", name="Issue", exact=True).click()
    expect(page.locator(".code pre")).to_contain_text("dfk_")
    page.get_by_role("button", name="Done").click()
    row = page.get_by_role("row", name="Ada")
    row.get_by_role("button", name="Revoke").click()
    page.get_by_role("button", name="Revoke the key").click()
    expect(row.get_by_text("revoked", exact=True)).to_be_visible()


def test_administrator_manages_keys_and_sees_the_fleet(administration: Dashboard, visitor: Visitor) -> None:
    page = administration.sign_in()
    expect(page.get_by_role("link", name=visitor.name)).to_be_visible()
    administration.keep("tenants")
    page.get_by_role("link", name=visitor.name).click()
    page.get_by_role("button", name="Issue a key").click()
    page.get_by_label("Name").fill("Web shop")
    page.get_by_role("button", name="Issue", exact=True).click()
    key = page.locator(".code pre")
    expect(key).to_contain_text("dfk_")
    administration.keep("new-key", hide=".code pre")
    page.get_by_role("button", name="Done").click()
    row = page.get_by_role("row", name="Web shop")
    row.get_by_role("button", name="Rotate").click()
    page.get_by_role("dialog").get_by_role("button", name="Rotate").click()
    expect(key).to_contain_text("dfk_")
    page.get_by_role("button", name="Done").click()
    expect(page.get_by_role("row", name="Web shop")).to_have_count(2)
    page.get_by_role("row", name="Web shop").first.get_by_role("button", name="Revoke").click()
    page.get_by_role("button", name="Revoke the key").click()
    expect(page.get_by_text("revoked", exact=True)).to_be_visible()
    administration.keep("tenant")

    for name, expected in (("Adapters", "Version 1"), ("Fleet", "1 worker alive."), ("Audit", "adapter.promote")):
        page.get_by_role("link", name=name, exact=True).click()
        expect(page.get_by_text(expected).first).to_be_visible()
        administration.keep(name.lower())
    page.goto(f"{administration.url}/adapters?tenant_id=ten_none")
    expect(page.get_by_text("No adapter matches.")).to_be_visible()
