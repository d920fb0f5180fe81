"""Pages under the conditions of daily use: reloads, lost connections, wrong input, keyboards, other time zones.

`make test-browser` runs it together with the other browser tests.
"""

import random
import re
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx
import pytest
from playwright.sync_api import Browser, Dialog, Locator, Page, Route, expect

from core.ml.bundled import sample_domain_folder
from tests import processes, services
from tests.api.client import png
from tests.browser.conftest import LONG, ZONE, Dashboard, Visitor, trained, upload
from tests.processes import ADMIN, Caller

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


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Returns a folder of images that is uploaded in three parts."""
    root = tmp_path_factory.mktemp("large") / "Größe"
    for label in ("fruit", "Birnen äöü"):
        (root / label).mkdir(parents=True)
        for path in sorted((sample_domain_folder() / "fruit").glob("*.png"))[:3]:
            shutil.copy(path, root / label)
    (root / "empty.txt").touch()
    (root / "notes.txt").write_bytes(random.Random(0).randbytes(12 * 2**20))
    return root


def begin_upload(page: Page, url: str, domain: str, folder: Path, cut: Callable[[Route], None]) -> list[str]:
    """Uploads a folder. Calls `cut` with the first request for the second part. Returns a list of the numbers of all
    parts that are sent, which grows."""
    sent: list[str] = []

    def pass_on(route: Route) -> None:
        number = route.request.url.rpartition("/")[2]
        sent.append(number)
        if sent == ["1", "2"]:
            cut(route)
        else:
            route.continue_()

    page.route("**/parts/*", pass_on)
    page.goto(f"{url}/domains/{domain}/images")
    page.get_by_label("A folder of images").set_input_files(folder)
    return sent


def eventually(page: Page, is_done: Callable[[], object]) -> None:
    """Waits until a condition holds, while the page's events are handled. Fails after a minute."""
    for _ in range(300):
        if is_done():
            return
        page.wait_for_timeout(200)
    raise AssertionError("the condition does not hold")


def uploads(visitor: Visitor, domain: str) -> Any:
    return visitor.caller.get(f"/v1/domains/{domain}/datasets/uploads?status=open")["data"]


@pytest.fixture
def empty_domain(visitor: Visitor) -> str:
    id: str = visitor.caller.post("/v1/domains", {"name": f"Uploads {time.monotonic_ns()}"})["id"]
    return id


def test_upload_survives_a_lost_connection(
    dashboard: Dashboard, visitor: Visitor, empty_domain: str, large: Path
) -> None:
    def lose(route: Route) -> None:
        page.context.set_offline(True)
        route.continue_()

    dashboard.expects_failures = True
    page = dashboard.sign_in()
    sent = begin_upload(page, dashboard.url, empty_domain, large, lose)
    expect(page.get_by_role("status")).to_have_text(re.compile("connection is interrupted"), timeout=LONG)
    expect(page.get_by_text("Keep this page open")).to_be_visible()
    page.wait_for_timeout(5000)
    page.context.set_offline(False)
    expect(page.locator("[data-status=ready]")).to_be_visible(timeout=LONG)
    assert sent == ["1", "2", "2", "3"], "only the part that was lost is sent again"
    (dataset,) = visitor.caller.get(f"/v1/domains/{empty_domain}/datasets")["data"]
    assert [(label["name"], label["images"]) for label in dataset["classes"]] == [("Birnen äöü", 3), ("fruit", 3)]
    assert dataset["report"]["ignored"] == 2


def test_upload_survives_a_restart_of_the_server(chromium: Browser, tmp_path: Path, large: Path) -> None:
    """Sessions end with the server, so the user signs in again, but need not choose the files again."""
    environment = {
        "DIFFFIT_DATA_DIR": str(tmp_path / "data"),
        "DIFFFIT_PORT": str(services.free_port()),
        "DIFFFIT_UPLOAD_PART_BYTES": str(5 * 2**20),
    }
    with ExitStack() as first, chromium.new_context() as context:
        context.set_default_timeout(60_000)
        url = first.enter_context(processes.api(environment, tmp_path))
        key, domain = tenant_with_domain(url)

        def stop(route: Route) -> None:
            first.close()
            route.continue_()

        dashboard = Dashboard(f"{url}/dashboard", key, context.new_page(), expects_failures=True)
        page = dashboard.sign_in()
        sent = begin_upload(page, dashboard.url, domain, large, stop)
        expect(page.get_by_role("status")).to_have_text(re.compile("connection is interrupted"), timeout=LONG)
        with processes.api(environment, tmp_path):
            expect(page.get_by_role("status")).to_have_text(re.compile("You have been signed out"), timeout=LONG)
            with context.expect_page() as opened:
                page.get_by_role("link", name="Sign in in another tab").click()
            Dashboard(dashboard.url, key, opened.value, expects_failures=True).sign_in()
            expect(page.locator("[data-status=validating]")).to_be_visible(timeout=LONG)
            assert sent == ["1", "2", "2", "3"]
            context.close()


def test_folder_above_the_limit_is_rejected_before_it_is_sent(chromium: Browser, tmp_path: Path, large: Path) -> None:
    environment = {
        "DIFFFIT_DATA_DIR": str(tmp_path / "data"),
        "DIFFFIT_PORT": str(services.free_port()),
        "DIFFFIT_MAX_ARCHIVE_MEMBERS": "7",
    }
    with processes.api(environment, tmp_path) as url, chromium.new_context() as context:
        context.set_default_timeout(60_000)
        key, domain = tenant_with_domain(url)
        dashboard = Dashboard(f"{url}/dashboard", key, context.new_page())
        page = dashboard.sign_in()
        sent = begin_upload(page, dashboard.url, domain, large, lambda _: None)
        expect(page.get_by_role("alert")).to_contain_text("up to 7 files and 4.0 GB. Upload a part of it.")
        assert sent == []
        context.close()


def tenant_with_domain(url: str) -> tuple[str, str]:
    """Returns the key of a new tenant and the id of its domain."""
    with httpx.Client(base_url=url, timeout=60) as http:
        admin = Caller(http, ADMIN)
        tenant = admin.post("/v1/admin/tenants", {"name": "Uploading"})["id"]
        key: str = admin.post(f"/v1/admin/tenants/{tenant}/keys", {"name": "key"})["key"]
        domain: str = Caller(http, key).post("/v1/domains", {"name": "Uploads"})["id"]
    return key, domain


def test_cancelled_upload_leaves_nothing(
    dashboard: Dashboard, visitor: Visitor, empty_domain: str, large: Path
) -> None:
    page = dashboard.sign_in()
    begin_upload(page, dashboard.url, empty_domain, large, lambda _: None)
    expect(page.get_by_role("status")).to_have_text(re.compile("% sent"), timeout=LONG)
    dashboard.keep("uploading")
    assert len(uploads(visitor, empty_domain)) == 1
    page.get_by_role("button", name="Cancel the upload").click()
    expect(page.get_by_role("alert")).to_contain_text("Nothing was stored.")
    eventually(page, lambda: not uploads(visitor, empty_domain))
    page.unroute_all()
    page.get_by_role("button", name="Try again").click()
    expect(page.locator("[data-status=ready]")).to_be_visible(timeout=LONG)


def test_leaving_the_page_during_an_upload_asks_first(
    dashboard: Dashboard, visitor: Visitor, empty_domain: str, large: Path
) -> None:
    asked: list[str] = []

    def answer(dialog: Dialog) -> None:
        asked.append(dialog.type)
        dialog.accept() if len(asked) > 1 else dialog.dismiss()

    page = dashboard.sign_in()
    page.on("dialog", answer)
    slow = {"offline": False, "latency": 0, "downloadThroughput": -1, "uploadThroughput": 2**17}
    page.context.new_cdp_session(page).send("Network.emulateNetworkConditions", slow)
    page.goto(f"{dashboard.url}/domains/{empty_domain}/images")
    page.get_by_label("A folder of images").set_input_files(large)
    expect(page.get_by_role("status")).to_have_text(re.compile("% sent"), timeout=LONG)
    page.get_by_text("One folder of images for each class.").click()  # browsers ask only users who have done something
    page.close(run_before_unload=True)
    eventually(page, lambda: asked == ["beforeunload"])
    assert len(uploads(visitor, empty_domain)) == 1
    expect(page.get_by_role("status")).to_have_text(re.compile("% sent"), timeout=LONG)
    other = page.context.new_page()
    page.close(run_before_unload=True)
    eventually(other, lambda: not uploads(visitor, empty_domain))
    assert asked == ["beforeunload"] * 2


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
