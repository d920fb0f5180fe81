"""Administrators work with names and change limits; tenants manage their webhooks and see their storage fill up.

`make test-browser` runs it together with the other browser tests.
"""

import json
import re
from collections.abc import Callable, Iterator

import httpx
import pytest
from playwright.sync_api import Page, expect

from tests.browser.conftest import Dashboard, Server, Visitor, connected, trained
from tests.processes import ADMIN, Caller
from tests.receiver import receiving

NAME = "Zoë & Söhne"


@pytest.fixture(scope="module")
def studio(server: Server) -> Iterator[Visitor]:
    """Yields another tenant with a domain."""
    with httpx.Client(base_url=server.url, timeout=60) as http:
        admin = Caller(http, ADMIN)
        tenant = admin.post("/v1/admin/tenants", {"name": NAME})["id"]
        studio = Visitor(NAME, Caller(http, admin.post(f"/v1/admin/tenants/{tenant}/keys", {"name": "desk"})["key"]))
        studio.caller.post("/v1/domains", {"name": "Woodcuts"})
        trained(studio, studio.domain(), {"fruit": 4})
        yield studio
        admin.send("DELETE", f"/v1/admin/tenants/{tenant}").raise_for_status()


def search(page: Page, label: str, text: str) -> None:
    connected(page)
    field = page.get_by_label(label, exact=True)
    field.fill(text)
    field.press("Enter")


def test_tenants_and_domains_are_shown_and_found_by_name(
    administration: Dashboard, studio: Visitor, visitor: Visitor
) -> None:
    page = administration.sign_in()
    search(page, "Name contains", "zoë")
    expect(page.get_by_role("link", name=NAME)).to_be_visible()
    expect(page.get_by_role("link", name=visitor.name)).to_have_count(0)
    administration.keep("tenant-search")
    search(page, "Name contains", "nobody at all")
    expect(page.get_by_text("No tenant matches")).to_be_visible()

    page.get_by_role("link", name="Adapters", exact=True).click()
    search(page, "Tenant", "söhne")
    expect(page.get_by_role("table").get_by_role("link", name=NAME)).to_be_visible()
    page.get_by_role("link", name="Woodcuts").click()
    expect(page.get_by_text("Only the domain Woodcuts.")).to_be_visible()
    expect(page.get_by_label("Tenant", exact=True)).to_have_value(NAME)
    administration.keep("adapters-of-a-domain")
    page.get_by_role("link", name="Remove the filter").click()
    expect(page.get_by_text("Only the domain")).to_have_count(0)
    search(page, "Tenant", "nobody at all")
    expect(page.get_by_text("No tenant matches “nobody at all”.")).to_be_visible()

    page.get_by_role("link", name="Audit", exact=True).click()
    search(page, "Tenant", NAME)
    expect(page.get_by_role("row", name=re.compile(f"{NAME} finetune.create"))).to_be_visible()
    expect(page.get_by_role("table").get_by_role("link", name=visitor.name)).to_have_count(0)


def test_limits_are_set_by_page_and_storage_is_forewarned(
    administration: Dashboard, studio: Visitor, window: Callable[[str], Dashboard]
) -> None:
    page = administration.sign_in()
    page.get_by_role("link", name=NAME).click()
    page.get_by_role("button", name="Edit").click()
    page.get_by_label("Share of the device").fill("0")
    page.get_by_label("Images per day").fill("7")
    page.get_by_role("button", name="Save").click()
    expect(page.get_by_text("Enter a number from 0.001 to 1,000.")).to_be_visible()
    page.get_by_label("Share of the device").fill("2.5")
    page.get_by_label("Storage (MB)").fill("0.001")
    page.get_by_label("Keep images (days)").fill("30")
    administration.keep("edit-tenant")
    page.get_by_label("Images per day").press("Enter")
    for fact in ("2.5", "Images per day", "1.0 KB", "30 days"):
        expect(page.locator(".facts").get_by_text(fact, exact=True)).to_be_visible()
    quotas = studio.caller.get("/v1/usage")["quotas"]
    assert (quotas["images_per_day"]["limit"], quotas["stored_bytes"]["limit"]) == (7, 1000)

    tenant = window(studio.caller.key)
    own = tenant.sign_in()
    own.goto(f"{tenant.url}/domains/{studio.domain()}/images")
    expect(own.get_by_text("Storage is full")).to_be_visible()
    expect(own.get_by_text("1.0 KB of storage used")).to_be_visible()
    tenant.keep("storage-full")

    page.get_by_role("button", name="Edit").click()
    page.get_by_label("Storage (MB)").fill("")
    page.get_by_role("button", name="Save").click()
    expect(page.locator(".facts").get_by_text("1.0 KB", exact=True)).to_have_count(0)
    assert studio.caller.get("/v1/usage")["quotas"]["stored_bytes"]["limit"] > 10**9
    own.reload()
    expect(own.get_by_text(re.compile("of 107.4 GB of storage used"))).to_be_visible()
    expect(own.get_by_text("Storage is full")).to_have_count(0)


def test_webhook_is_managed_by_page(dashboard: Dashboard, visitor: Visitor) -> None:
    page = dashboard.sign_in()
    page.get_by_role("link", name="Webhooks").click()
    page.get_by_role("button", name="New webhook").click()
    page.get_by_label("URL", exact=True).fill("ftp://example.com")
    page.get_by_role("button", name="Create").click()
    expect(page.get_by_role("dialog").get_by_text("must start with")).to_be_visible()
    with receiving() as receiver:
        page.get_by_label("URL", exact=True).fill(receiver.url)
        page.get_by_label("Description").fill("Our shop")
        page.get_by_role("checkbox", name="finetune.succeeded").click()
        dashboard.keep("new-webhook")
        page.get_by_label("URL", exact=True).press("Enter")
        expect(page.locator(".code pre")).to_contain_text("whsec_")
        page.get_by_role("button", name="Done").click()
        expect(page.get_by_role("row", name="Our shop")).to_contain_text("1 type")
        dashboard.keep("webhooks")
        page.get_by_role("link", name=receiver.url).click()
        page.get_by_role("button", name="Send a test event").click()
        row = page.get_by_role("row", name="webhook.test")
        expect(row).to_contain_text("succeeded", timeout=60_000)
        assert json.loads(receiver.received[0][1])["type"] == "webhook.test"
        row.get_by_role("button", name="Show the event").click()
        expect(page.locator(".code pre")).to_contain_text("webhook.test")
        page.get_by_role("button", name="Close").click()
        dashboard.keep("webhook")
        page.get_by_role("button", name="Edit").click()
        page.get_by_role("checkbox", name="finetune.succeeded").click()
        page.get_by_role("button", name="Save").click()
        expect(page.locator(".fact").filter(has_text="Events")).to_contain_text("all")
        page.get_by_role("button", name="Disable").click()
        expect(page.get_by_text("disabled", exact=True)).to_be_visible()
        expect(page.get_by_role("button", name="Send a test event")).to_have_count(0)
    page.get_by_role("button", name="Delete this webhook").click()
    page.get_by_role("button", name="Delete the webhook").click()
    page.wait_for_url("**/webhooks")
    expect(page.get_by_text("No webhooks yet")).to_be_visible()
    assert visitor.caller.get("/v1/webhooks")["data"] == []
