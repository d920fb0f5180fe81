"""News of a job's end for a user who looks at another tab: the tab's title and icon, and notifications.

`make test-browser` runs it together with the other browser tests.
"""

import re
from collections.abc import Iterator

import pytest
from playwright.sync_api import Page, expect

from tests.browser.conftest import LONG, Dashboard, Visitor, domain_with_version

_OTHER_TAB = """
    let isHidden = false;
    Object.defineProperty(document, "hidden", { get: () => isHidden });
    window.lookAway = (away) => {
        isHidden = away;
        document.dispatchEvent(new Event("visibilitychange"));
    };
    window.shown = [];
    window.Notification = class extends Notification {
        constructor(title, options) {
            super(title, options);
            shown.push(`${title}: ${options.body}`);
        }
    };
"""
"""Script that lets a page believe that the user looks at another tab, since no page of a browser without a screen is
ever hidden, and that records notifications, which a page cannot list."""


@pytest.fixture(scope="module")
def domain(visitor: Visitor) -> Iterator[str]:
    """Yields the id of a domain with a version."""
    with domain_with_version(visitor, "Watched", {"fruit": 4, "heart": 4}) as created:
        yield created


@pytest.fixture
def page(dashboard: Dashboard) -> Page:
    dashboard.page.add_init_script(_OTHER_TAB)
    return dashboard.sign_in()


def icon(page: Page) -> str:
    address: str = page.evaluate("document.querySelector('link[rel~=icon]').href")
    return address


def look_away(page: Page, away: bool = True) -> None:
    page.evaluate("away => lookAway(away)", away)


def generate(page: Page, class_name: str) -> None:
    page.get_by_label("Class", exact=True).click()
    page.get_by_role("option", name=class_name, exact=True).click()
    page.get_by_role("button", name="Generate", exact=True).click()


def test_end_of_a_generation_is_told_in_another_tab(dashboard: Dashboard, page: Page, domain: str) -> None:
    page.context.grant_permissions(["notifications"])
    page.goto(f"{dashboard.url}/domains/{domain}/playground?steps=2&count=1")
    expect(page.get_by_role("button", name="Notify me when it ends")).to_be_hidden()
    title, before = page.title(), icon(page)
    assert title == "Playground · Watched · DiffFit"
    generate(page, "fruit")
    expect(page.locator("[data-generation] img[src*='/images/']")).to_have_count(1, timeout=LONG)
    expect(page).to_have_title(title)

    look_away(page)
    for name in ("heart", "fruit"):
        generate(page, name)
        expect(page).to_have_title(f"● {name}: succeeded", timeout=LONG)
        assert icon(page).startswith("data:image/svg+xml")
    assert page.evaluate("shown") == ["DiffFit: heart: succeeded", "DiffFit: fruit: succeeded"]
    look_away(page, away=False)
    expect(page).to_have_title(title)
    assert icon(page) == before


def test_end_of_a_training_is_told_in_another_tab(
    dashboard: Dashboard, page: Page, visitor: Visitor, domain: str
) -> None:
    page.context.grant_permissions(["notifications"])
    dataset = visitor.caller.get(f"/v1/domains/{domain}/datasets")["data"][0]["id"]
    body = {"dataset_id": dataset, "steps": 60, "batch_size": 4}
    finetune = visitor.caller.post(f"/v1/domains/{domain}/finetunes", body)["id"]
    page.goto(f"{dashboard.url}/finetunes/{finetune}")
    look_away(page)
    expect(page).to_have_title(re.compile(r"^\d+% · Training · Watched · DiffFit$"), timeout=LONG)
    expect(page).to_have_title("● Training of Watched succeeded", timeout=LONG)
    assert page.evaluate("shown") == ["DiffFit: Training of Watched succeeded"]
    expect(page.get_by_text("succeeded", exact=True)).to_have_count(0)  # the page waits for the user
    look_away(page, away=False)
    expect(page.get_by_text("succeeded", exact=True)).to_be_visible()
    expect(page).to_have_title("Training · Watched · DiffFit")


def test_notifications_are_offered_until_the_user_decides(dashboard: Dashboard, page: Page, domain: str) -> None:
    page.goto(f"{dashboard.url}/domains/{domain}/playground?steps=2&count=1")
    offer = page.get_by_role("button", name="Notify me when it ends")
    offer.click()  # a browser without a screen declines
    expect(offer).to_be_hidden()
    look_away(page)
    generate(page, "heart")
    expect(page).to_have_title("● heart: succeeded", timeout=LONG)
    assert page.evaluate("shown") == []
