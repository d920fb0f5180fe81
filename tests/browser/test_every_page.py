"""Every page of a tenant and of an administrator: a minute without a connection, a reload, the width of a phone.

`make test-browser` runs it together with the other browser tests.
"""

from collections.abc import Iterator

import pytest
from playwright.sync_api import Page, expect

from tests.browser.conftest import LONG, PHONE, Dashboard, Visitor, trained
from tests.processes import ADMIN, Caller

MINUTE = 60_000


@pytest.fixture(scope="module")
def tenant_paths(visitor: Visitor) -> Iterator[list[str]]:
    """Yields the paths of all pages of a tenant, in a domain with two versions."""
    domain: str = visitor.caller.post("/v1/domains", {"name": "Everything"})["id"]
    for _ in range(2):
        trained(visitor, domain, {"fruit": 4})
    webhook = visitor.caller.post("/v1/webhooks", {"url": "https://93.184.216.34/hook"})["id"]
    dataset, finetune = (visitor.caller.get(f"/v1/domains/{domain}/{n}")["data"][0] for n in ("datasets", "finetunes"))
    steps = ("images", "training", "versions", "playground", "gallery", "compare", f"datasets/{dataset['id']}")
    paths = [f"/domains/{domain}/{step}" for step in steps]
    yield [
        *paths,
        f"/finetunes/{finetune['id']}",
        "/domains",
        "/gallery",
        "/usage",
        "/webhooks",
        f"/webhooks/{webhook}",
    ]
    visitor.caller.send("DELETE", f"/v1/webhooks/{webhook}").raise_for_status()
    visitor.caller.send("DELETE", f"/v1/domains/{domain}").raise_for_status()


@pytest.fixture
def administrator_paths(visitor: Visitor) -> list[str]:
    owner = visitor.caller.get("/v1/key")["tenant_id"]
    admin = Caller(visitor.caller.http, ADMIN)
    assert admin.get(f"/v1/admin/tenants/{owner}")["name"] == visitor.name
    return ["/tenants", f"/tenants/{owner}", "/adapters", "/fleet", "/audit"]


def headings(page: Page) -> list[str]:
    expect(page.get_by_role("heading", level=1)).to_be_visible()
    return page.get_by_role("heading").all_inner_texts()


def test_every_page_survives_a_minute_offline_and_a_reload(
    dashboard: Dashboard, administration: Dashboard, tenant_paths: list[str], administrator_paths: list[str]
) -> None:
    tabs: list[Page] = []
    for window, paths in ((dashboard, tenant_paths), (administration, administrator_paths)):
        context = window.sign_in().context
        for path in paths:
            tab = context.new_page()
            tab.goto(f"{window.url}{path}")
            tab.evaluate("window.stayed = true")
            tabs.append(tab)
        window.expects_failures = True
    before = [headings(tab) for tab in tabs]
    for window in (dashboard, administration):
        window.page.context.set_offline(True)
    for tab in tabs:
        expect(tab.locator("#popup")).to_have_attribute("aria-hidden", "false", timeout=MINUTE)
    dashboard.page.wait_for_timeout(MINUTE)
    for window in (dashboard, administration):
        window.page.context.set_offline(False)
    for tab, shown in zip(tabs, before, strict=True):
        expect(tab.locator("#popup")).to_have_attribute("aria-hidden", "true", timeout=LONG)
        tab.get_by_role("button", name="Theme: system").click()  # the page works again
        expect(tab.get_by_role("button", name="Theme: light")).to_be_visible()
        assert tab.evaluate("window.stayed"), f"{tab.url} was reloaded"
        expect(tab.get_by_role("heading")).to_have_text(shown, use_inner_text=True)
        tab.set_viewport_size(PHONE)
        tab.reload()
        expect(tab.get_by_role("heading")).to_have_text(shown, use_inner_text=True, timeout=LONG)
        assert tab.evaluate("document.documentElement.scrollWidth") <= PHONE["width"], tab.url
