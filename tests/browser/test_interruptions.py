"""Pages under the conditions of daily use: reloads, lost connections, wrong input, keyboards, other time zones.

`make test-browser` runs it together with the other browser tests.
"""

import re
from collections.abc import Callable, Iterator

import pytest
from playwright.sync_api import Locator, Page, expect

from tests.api.client import png
from tests.browser.conftest import LONG, ZONE, Dashboard, Visitor, trained, upload

CLASSES = ("fruit", "heart")
LONG_URL = "https://example.com/" + "a-long-path-without-a-space" * 10


@pytest.fixture(scope="module")
def domain(visitor: Visitor) -> Iterator[str]:
    """Yields the id of a domain with two versions: the first, which is active, knows one class more than the second."""
    created = visitor.caller.post("/v1/domains", {"name": "Interrupted", "description": LONG_URL})["id"]
    for classes in (CLASSES, CLASSES[:1]):
        trained(visitor, created, dict.fromkeys(classes, 4))
    yield created
    visitor.caller.send("DELETE", f"/v1/domains/{created}").raise_for_status()


@pytest.fixture
def playground(dashboard: Dashboard, domain: str) -> Page:
    page = dashboard.sign_in()
    page.goto(f"{dashboard.url}/domains/{domain}/playground")
    expect(page.get_by_role("button", name="Generate", exact=True)).to_be_visible()
    return page


def press_generate(page: Page) -> None:
    page.get_by_role("button", name="Generate", exact=True).click()


def field(page: Page, label: str) -> Locator:
    return page.get_by_label(label, exact=True)


def test_generation_is_followed_after_a_reload(playground: Page) -> None:
    field(playground, "Steps").fill("400")
    press_generate(playground)
    expect(playground.get_by_role("status").first).to_contain_text(re.compile("queue|done"))
    playground.reload()
    card = playground.locator("[data-generation]").first
    expect(field(playground, "Steps")).to_have_value("400")
    expect(card.get_by_role("button", name="Cancel")).to_be_visible()
    card.get_by_role("button", name="Cancel").click()
    expect(card.get_by_text("Cancelled.")).to_be_visible(timeout=LONG)
    playground.reload()
    expect(card.get_by_text("Cancelled.")).to_be_visible()
    count = playground.locator("[data-generation]").count()
    card.get_by_role("button", name="Delete the images of").click()
    playground.get_by_role("button", name="Delete the images", exact=True).click()
    expect(playground.locator("[data-generation]")).to_have_count(count - 1)
    field(playground, "Steps").fill("3")
    press_generate(playground)
    playground.wait_for_timeout(200)
    playground.reload()
    expect(card.locator("img[src*='/images/']")).to_have_count(4, timeout=LONG)


def test_form_survives_a_lost_connection(dashboard: Dashboard, playground: Page) -> None:
    dashboard.expects_failures = True
    playground.evaluate("window.stayed = true")
    field(playground, "First seed").fill("777")
    playground.context.set_offline(True)
    field(playground, "Steps").fill("33")
    playground.wait_for_timeout(8000)
    playground.context.set_offline(False)
    expect(playground.locator("#popup")).to_have_attribute("aria-hidden", "true", timeout=LONG)
    press_generate(playground)
    card = playground.locator("[data-generation]").first
    expect(card).to_contain_text("seed 777, 33 steps")
    assert playground.evaluate("window.stayed"), "the page was reloaded"
    expect(card.locator("img[src*='/images/']")).to_have_count(4, timeout=LONG)


def test_wrong_numbers_are_explained_at_their_fields(dashboard: Dashboard, playground: Page) -> None:
    count = playground.locator("[data-generation]").count()
    for label, entered, message in (
        ("Images", "0", "Enter a number from 1 to 64."),
        ("Steps", "1001", "Enter a number from 1 to 1,000."),
        ("First seed", "1.5", "Enter a whole number."),
    ):
        field(playground, label).fill(entered)
        expect(playground.get_by_text(message)).to_be_visible()
        press_generate(playground)
        expect(field(playground, label)).to_have_value(entered)
        expect(field(playground, label)).to_be_focused()
        if label == "Steps":
            dashboard.keep("wrong-number")
        field(playground, label).fill("2")
        expect(playground.get_by_text(message)).to_have_count(0)
    expect(playground.locator("[data-generation]")).to_have_count(count)


def test_each_version_offers_its_own_classes(playground: Page) -> None:
    field(playground, "Version").click()
    playground.get_by_role("option", name="Version 1", exact=True).click()
    field(playground, "Class").click()
    playground.get_by_role("option", name="heart").click()
    field(playground, "Version").click()
    playground.get_by_role("option", name="Version 2", exact=True).click()
    expect(field(playground, "Class")).to_have_value("fruit")
    field(playground, "Class").click()
    expect(playground.get_by_role("option")).to_have_count(1)


def test_comparison_names_the_version_without_the_class(dashboard: Dashboard, playground: Page, domain: str) -> None:
    playground.goto(f"{dashboard.url}/domains/{domain}/versions")
    field(playground, "Class").click()
    playground.get_by_role("option", name="heart").click()
    playground.get_by_role("button", name="Generate all").click()
    expect(playground.locator("[data-version='2']")).to_contain_text("It has no class “heart”.")
    expect(playground.locator("[data-version='1'] img[src*='/images/']")).to_have_count(4, timeout=LONG)
    expect(playground.locator(".q-notification")).to_have_count(0)


def test_long_names_and_descriptions_stay_within_the_page(dashboard: Dashboard, visitor: Visitor) -> None:
    domain = visitor.caller.post("/v1/domains", {"name": "N" * 200, "description": LONG_URL})["id"]
    files = {f"{'w' * 100}/{'f' * 100}{index}.png": png(index) for index in range(2)}
    dataset = upload(visitor, domain, {"fruit": 2}, extra={**files, f"{'w' * 100}/{'g' * 100}.png": b"torn"})
    page = dashboard.sign_in()
    dashboard.keep("long-names")
    for path in ("images", f"datasets/{dataset}"):
        page.goto(f"{dashboard.url}/domains/{domain}/{path}")
        page.get_by_text("1 file was rejected").click()
        expect(page.get_by_role("cell", name="g" * 100)).to_be_visible()
        dashboard.keep(f"long-names-{path.partition('/')[0]}")
    visitor.caller.send("DELETE", f"/v1/domains/{domain}").raise_for_status()


def test_reload_by_the_page_does_not_stop_the_user_from_leaving(dashboard: Dashboard) -> None:
    page = dashboard.sign_in()
    page.route("**/usage", lambda route: (page.wait_for_timeout(500), route.continue_()))
    page.evaluate("document.querySelector('a[href$=\"/usage\"]').click(); setTimeout(() => difffit.reload(), 100)")
    page.wait_for_url("**/usage")
    expect(page.get_by_role("heading", name="Usage")).to_be_visible()


def test_file_that_is_dropped_beside_the_area_does_not_replace_the_page(dashboard: Dashboard) -> None:
    page = dashboard.sign_in()
    dropped = """() => {
        const files = new DataTransfer();
        files.items.add(new File(["x"], "a.png"));
        const event = new DragEvent("drop", { dataTransfer: files, bubbles: true, cancelable: true });
        document.body.dispatchEvent(event);
        return event.defaultPrevented;
    }"""
    assert page.evaluate(dropped)


def test_toast_can_be_read_and_closed(dashboard: Dashboard, playground: Page, visitor: Visitor, domain: str) -> None:
    visitor.caller.send("PATCH", f"/v1/domains/{domain}", json={"name": "Renamed"}).raise_for_status()
    playground.evaluate("navigator.clipboard.writeText = async () => {}")
    toast = playground.locator(".q-notification")
    for theme in ("light", "dark"):
        playground.emulate_media(color_scheme=theme)  # type: ignore[arg-type]  # a Literal
        playground.get_by_role("button", name="As curl").click()
        playground.get_by_role("button", name="Copy").click()
        expect(toast).to_contain_text("Copied.")
        playground.get_by_role("button", name="Close").click()
        expect(playground.get_by_role("dialog")).to_have_count(0)
        dashboard.check(f"a notification of success, {theme}")
        expect(toast).to_have_count(0, timeout=10_000)
    playground.emulate_media(color_scheme="light")
    playground.goto(f"{dashboard.url}/domains/{domain}/versions")
    playground.get_by_role("button", name="Delete version 2").click()
    (second,) = (row for row in visitor.caller.get(f"/v1/domains/{domain}/adapters")["data"] if row["version"] == 2)
    visitor.caller.post(f"/v1/domains/{domain}/adapters/{second['id']}/promote", {})
    playground.get_by_role("button", name="Delete the version").click()
    expect(toast).to_be_visible()
    dashboard.keep("toast")
    toast.get_by_role("button", name="Close").click()
    expect(toast).to_have_count(0)


def test_focus_of_the_keyboard_is_visible(playground: Page) -> None:
    for name in ("Sign out", "Generate", "As curl"):
        button = playground.get_by_role("button", name=name, exact=True)
        button.focus()
        playground.keyboard.press("Shift+Tab")
        playground.keyboard.press("Tab")
        expect(button).to_be_focused()
        outline = button.evaluate("element => getComputedStyle(element).outline")
        assert "solid 2px" in outline, f"{name}: {outline}"


def test_signed_out_session_leads_back_to_the_same_form(
    dashboard: Dashboard, playground: Page, window: Callable[[str], Dashboard]
) -> None:
    field(playground, "Steps").fill("44")
    expect(playground).to_have_url(re.compile("steps=44"))
    playground.context.request.post(f"{dashboard.url}/sign-out")
    press_generate(playground)
    expect(playground.get_by_text("You have been signed out.")).to_be_visible()
    playground.get_by_label("API key").fill(dashboard.key)
    playground.keyboard.press("Enter")
    expect(field(playground, "Steps")).to_have_value("44")


def test_dialog_keeps_typed_text_and_enter_submits(dashboard: Dashboard, visitor: Visitor) -> None:
    page = dashboard.sign_in()
    page.get_by_role("button", name="New domain").click()
    dialog = page.get_by_role("dialog")
    expect(page.get_by_label("Name")).to_be_focused()
    page.keyboard.press("Enter")
    expect(dialog.get_by_text("Enter a name.")).to_be_visible()
    page.keyboard.press("Escape")
    expect(dialog).to_have_count(0)
    page.get_by_role("button", name="New domain").click()
    page.get_by_label("Name").fill("Typed")
    page.keyboard.press("Escape")
    page.mouse.click(8, 400)
    page.wait_for_timeout(1000)
    page.get_by_label("Name").press("Enter")
    page.wait_for_url("**/domains/**")
    visitor.caller.send("DELETE", f"/v1/domains/{visitor.domain()}").raise_for_status()


def test_interrupted_upload_is_explained_without_a_connection(dashboard: Dashboard, domain: str) -> None:
    dashboard.expects_failures = True
    page = dashboard.sign_in()
    page.goto(f"{dashboard.url}/domains/{domain}/images")
    zip_field = page.get_by_label("A zip of images")
    expect(zip_field).to_be_attached()
    page.context.set_offline(True)
    zip_field.set_input_files({"name": "a.zip", "mimeType": "application/zip", "buffer": bytes(1000)})
    alert = page.get_by_role("alert")
    expect(alert).to_contain_text("Upload interrupted")
    page.context.set_offline(False)
    alert.get_by_role("button", name="Try again").click()
    expect(alert).to_contain_text("Upload a .zip with one folder per class.")


def test_times_are_in_the_browsers_zone(dashboard: Dashboard) -> None:
    dashboard.page.goto(f"{dashboard.url}/sign-in")
    zone = dashboard.page.evaluate("Intl.DateTimeFormat().resolvedOptions().timeZone")
    assert zone == ZONE
    page = dashboard.sign_in()
    expect(page.get_by_text(f"Times are in {zone}.")).to_be_visible()
    page.context.add_cookies([{"name": "difffit_zone", "value": "nonsense/../zone", "url": dashboard.url}])
    assert "Times are in UTC." in page.context.request.get(page.url).text()


def test_loss_curve_stays_under_the_mouse(dashboard: Dashboard, domain: str, visitor: Visitor) -> None:
    finetune = visitor.caller.get(f"/v1/domains/{domain}/finetunes")["data"][0]["id"]
    page = dashboard.sign_in()
    page.goto(f"{dashboard.url}/finetunes/{finetune}")
    chart = page.get_by_role("img", name="Loss by step: ")
    expect(chart).to_be_visible()
    chart.hover()
    expect(chart).to_contain_text(re.compile(r"Step \d+training: \d\.\d{4}"))
    strokes = chart.evaluate("e => [...e.querySelectorAll('path')].map((path) => path.getAttribute('stroke'))")
    assert "var(--accent)" in strokes


def test_data_set_and_fine_tune_are_deleted(dashboard: Dashboard, domain: str, visitor: Visitor) -> None:
    page = dashboard.sign_in()
    page.goto(f"{dashboard.url}/domains/{domain}/images")
    ready = page.locator("[data-status=ready]")
    expect(ready).to_have_count(2)
    ready.first.get_by_role("button", name="Delete Data set of").click()
    page.get_by_role("button", name="Delete the data set").click()
    expect(page.get_by_role("dialog", name="Deleted")).to_contain_text("del_")
    page.get_by_role("button", name="Close").click()
    expect(ready).to_have_count(1)
    finetunes = visitor.caller.get(f"/v1/domains/{domain}/finetunes")["data"]
    page.goto(f"{dashboard.url}/finetunes/{finetunes[0]['id']}")
    page.get_by_role("button", name="Delete this fine-tune").click()
    page.get_by_role("button", name="Delete the fine-tune").click()
    expect(page.locator(".q-notification")).to_be_visible()
    assert len(visitor.caller.get(f"/v1/domains/{domain}/finetunes")["data"]) == len(finetunes)
