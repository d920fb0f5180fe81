"""A day of a tenant whose browser prefers German.

`make test-browser` runs it together with the other browser tests.
"""

import re
from collections.abc import Callable, Iterator

import pytest
from playwright.sync_api import Page, expect

from tests.browser.conftest import LONG, Dashboard, Visitor, domain_with_version, trained


@pytest.fixture(scope="module")
def domain(visitor: Visitor) -> Iterator[str]:
    """Yields the id of a domain with a version, and with a class whose name is also a word of the pages."""
    with domain_with_version(visitor, "Images", {"fruit": 8, "heart": 4}) as created:
        yield created


@pytest.fixture
def german(window: Callable[..., Dashboard], visitor: Visitor) -> Dashboard:
    return window(visitor.caller.key, "de-DE")


@pytest.fixture
def page(german: Dashboard) -> Page:
    page = german.page
    page.goto(f"{german.url}/sign-in")
    page.get_by_label("API-Schlüssel").fill(german.key)
    german.keep("de-sign-in")
    page.get_by_role("button", name="Anmelden").click()
    expect(page.get_by_role("heading", name="Domänen")).to_be_visible()
    return page


def test_pages_are_german_and_names_stay(german: Dashboard, page: Page, domain: str) -> None:
    german.keep("de-domains")
    expect(page.get_by_role("heading", name="Images", exact=True)).to_be_visible()
    page.goto(f"{german.url}/domains/{domain}/images")
    expect(page).to_have_title("Bilder · Images · DiffFit")
    expect(page.get_by_label("Ein Zip mit Bildern")).to_be_attached()
    expect(page.get_by_text("bereit", exact=True)).to_be_visible()
    german.keep("de-images")
    page.get_by_role("link", name="Damit trainieren").click()
    expect(page.get_by_text("zeigt ihm jedes Bild etwa")).to_be_visible()
    page.get_by_text("Weitere Einstellungen").click()
    german.keep("de-training")
    page.get_by_label("Schritte", exact=True).fill("")
    expect(page.get_by_text("Geben Sie eine Zahl von 1 bis 100.000 ein.")).to_be_visible()
    page.goto(f"{german.url}/domains/{domain}/versions")
    expect(page.get_by_text(re.compile(r"difffit, [\d,]+ KB, \d\d\.\d\d\.20\d\d, \d\d:\d\d"))).to_be_visible()
    german.keep("de-versions")


def test_images_are_generated_in_german(german: Dashboard, page: Page, domain: str) -> None:
    page.goto(f"{german.url}/domains/{domain}/playground?steps=2&count=2")
    page.get_by_role("button", name="Erzeugen", exact=True).click()
    card = page.locator("[data-generation]").first
    expect(card).to_contain_text("2 Schritte")
    expect(card.locator("img[src*='/images/']")).to_have_count(2, timeout=LONG)
    german.keep("de-playground")
    card.get_by_role("button", name="Die Bilder von fruit").click()
    expect(page.get_by_role("dialog")).to_contain_text("Das lässt sich nicht rückgängig machen.")
    page.get_by_role("button", name="Abbrechen").click()
    page.goto(f"{german.url}/domains/{domain}/gallery")
    expect(page.get_by_text("0 von 2 ausgewählt")).to_be_visible()
    german.keep("de-gallery")


def test_errors_are_german_in_toasts_and_at_fields(
    german: Dashboard, page: Page, visitor: Visitor, domain: str
) -> None:
    second = trained(visitor, domain, {"fruit": 4})
    page.goto(f"{german.url}/domains/{domain}/versions")
    page.get_by_role("button", name="Version 2 löschen").click()
    visitor.caller.post(f"/v1/domains/{domain}/adapters/{second}/promote", {})
    page.get_by_role("button", name="Version löschen", exact=True).click()
    toast = page.locator(".q-notification")
    expect(toast).to_contain_text("Diese Version ist aktiv.")
    german.keep("de-toast")
    toast.get_by_role("button", name="Schließen").click()
    expect(toast).to_have_count(0)
    page.goto(f"{german.url}/domains")
    page.get_by_role("button", name="Neue Domäne").click()
    page.get_by_label("Name").fill("Images")
    page.keyboard.press("Enter")
    expect(page.get_by_role("dialog").get_by_text("Diesen Namen gibt es schon.")).to_be_visible()
    page.goto(f"{german.url}/domains/dom_none/images")
    problem = page.get_by_role("alert")
    expect(problem).to_contain_text("Das gibt es nicht")
    expect(problem.get_by_text("There is no domain")).to_be_hidden()
    problem.get_by_text("Einzelheiten").click()
    expect(problem.get_by_text("There is no domain")).to_be_visible()
    german.keep("de-problem")


def test_texts_of_nicegui_are_german(page: Page) -> None:
    expect(page.locator("#popup")).to_contain_text("Verbindung verloren")
    expect(page.locator("html")).to_have_attribute("lang", "de")
    page.get_by_role("button", name="Neue Domäne").click()
    expect(page.get_by_role("dialog", name="Neue Domäne")).to_be_visible()
