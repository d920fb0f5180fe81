"""The tour of the first steps with sample data, by keyboard.

`make test-browser` runs it together with the other browser tests.
"""

from collections.abc import Callable, Iterator

import httpx
import pytest
from playwright.sync_api import Locator, Page, expect

from tests.browser.conftest import LONG, Dashboard, Server, Visitor
from tests.processes import ADMIN, Caller


@pytest.fixture
def newcomer(server: Server) -> Iterator[Visitor]:
    """Yields a tenant without domains."""
    with httpx.Client(base_url=server.url, timeout=60) as http:
        admin = Caller(http, ADMIN)
        tenant = admin.post("/v1/admin/tenants", {"name": "Newcomer"})["id"]
        key = admin.post(f"/v1/admin/tenants/{tenant}/keys", {"name": "laptop"})["key"]
        yield Visitor("Newcomer", Caller(http, key))
        admin.send("DELETE", f"/v1/admin/tenants/{tenant}").raise_for_status()


def press(place: Page | Locator, role: str, name: str) -> None:
    """Presses a button or a link by the keyboard."""
    control = place.get_by_role(role, name=name, exact=True)  # type: ignore[arg-type]  # a Literal of all roles
    control.focus()
    control.press("Enter")


def test_tour_leads_from_sample_data_to_the_first_image(newcomer: Visitor, window: Callable[[str], Dashboard]) -> None:
    dashboard = window(newcomer.caller.key)
    page = dashboard.sign_in()
    dashboard.keep("no-domains")
    press(page, "button", "Try with sample data")
    page.wait_for_url("**/images")
    tour = page.get_by_role("region", name="First steps")
    current = tour.locator("[aria-current=step]")
    expect(current).to_have_text("Train a version", timeout=LONG)
    expect(page.locator("[data-status=ready]")).to_contain_text("160", timeout=LONG)
    dashboard.keep("first-steps")
    press(tour, "link", "Go to the training")
    page.wait_for_url("**/training?**")
    expect(tour.get_by_role("link")).to_have_count(0)  # the user is there already
    expect(page.get_by_label("Batch size")).to_have_value("16")
    expect(page.get_by_label("Steps", exact=True)).to_have_value("150")
    page.get_by_label("Steps", exact=True).fill("40")
    page.get_by_label("Batch size").fill("2")
    press(page, "button", "Start training")
    page.wait_for_url("**/finetunes/**")
    expect(tour).to_contain_text("The base model learns the drawings.")
    expect(current).to_have_text("Generate images", timeout=LONG)
    press(tour, "link", "Go to the playground")
    page.wait_for_url("**/playground")
    page.get_by_label("Steps", exact=True).fill("2")
    press(page, "button", "Generate")
    expect(tour).to_contain_text("Your first images are there.", timeout=LONG)
    expect(current).to_have_count(0)
    dashboard.keep("first-steps-done")
    press(tour, "link", "Go to the domains")
    expect(page.get_by_role("heading", name="OpenMoji sample")).to_be_visible()


def test_tour_is_dismissed_and_reopened(newcomer: Visitor, window: Callable[[str], Dashboard]) -> None:
    dashboard = window(newcomer.caller.key)
    page = dashboard.sign_in()
    press(page, "button", "Try with sample data")
    tour, reopen = (
        page.get_by_role("region", name="First steps"),
        page.get_by_role("button", name="Show the first steps"),
    )
    expect(reopen).to_be_hidden()
    press(tour, "button", "Dismiss")
    expect(tour).to_be_hidden()
    expect(reopen).to_be_focused()
    page.reload()
    expect(reopen).to_be_visible()
    expect(tour).to_be_hidden()
    page.keyboard.press("Tab")
    reopen.press("Enter")
    expect(tour.get_by_role("button", name="Dismiss")).to_be_focused()

    page.get_by_role("button", name="Sign out").click()
    dashboard.sign_in()
    page.get_by_role("link", name="OpenMoji sample").click()
    expect(page.get_by_role("link", name="Playground")).to_be_visible()
    assert not tour.or_(reopen).count()
    page.get_by_role("link", name="Domains", exact=True).first.click()
    expect(page.get_by_role("button", name="Try with sample data")).to_have_count(0)
    press(page, "button", "First steps with sample data")
    expect(tour).to_be_visible()
    assert len(newcomer.caller.get("/v1/domains")["data"]) == 1
    (dataset,) = newcomer.caller.get(f"/v1/domains/{newcomer.domain()}/datasets")["data"]
    dashboard.page.goto("about:blank")  # the open page asks for the tenant's data
    assert newcomer.caller.wait(f"/v1/datasets/{dataset['id']}", "validating")["images"] == 160
