"""Pages in rare states: many versions, read-only and expired keys, failed jobs, expired links."""

import datetime
import time
from urllib.parse import urlsplit

import pytest

from core.ml.errors import DrawingDiverged
from core.service import jobs
from core.service.db.models import ApiKey, Generation, UsageDay
from tests.api.client import (
    ADMIN_KEY,
    Api,
    Client,
    adapter_file,
    claims,
    draw_generations,
    finish_finetune,
    images_zip,
    start_finetunes,
    validate_datasets,
)
from tests.api.dashboard.conftest import Browser

MANY = 101
"""Number of versions above that of one page of a list."""


def key_of(client: Client) -> str:
    return client.headers["Authorization"].removeprefix("Bearer ")


@pytest.fixture
def tenant(pages: Api, browser: Browser) -> Client:
    tenant = pages.tenant(f"Pages {time.monotonic_ns()}")
    browser.sign_in(key_of(tenant))
    return tenant


@pytest.fixture
def domain(tenant: Client) -> str:
    id: str = tenant.made("/v1/domains", {"name": "Fruit"})["id"]
    return id


def test_active_version_is_shown_and_used_behind_a_hundred_newer_ones(
    browser: Browser, tenant: Client, domain: str
) -> None:
    file = adapter_file()
    uploaded = [tenant.upload(f"/v1/domains/{domain}/adapters", file).json()["version"] for _ in range(MANY)]
    assert uploaded == list(range(1, MANY + 1))
    listed = browser.get(f"/dashboard/domains/{domain}/versions").text
    assert "Older versions" in listed
    assert '"data-version":"1"' in listed
    assert f"Active (version {1})" in browser.get(f"/dashboard/domains/{domain}/playground").text


def test_many_domains_are_searched_by_name(browser: Browser, tenant: Client, domain: str) -> None:
    assert "Name contains" not in browser.get("/dashboard/domains").text
    for number in range(24):
        tenant.made("/v1/domains", {"name": f"Style {number}"})
    assert "Name contains" in browser.get("/dashboard/domains").text
    matches = browser.get("/dashboard/domains?name=fru").text
    assert f"/domains/{domain}" in matches
    assert "Style 1" not in matches
    assert "No domain matches" in browser.get("/dashboard/domains?name=nothing").text


def test_read_only_key_is_told_what_it_cannot_do(browser: Browser, pages: Api, tenant: Client, domain: str) -> None:
    tenant.upload(f"/v1/domains/{domain}/datasets", images_zip())
    validate_datasets(pages.services)
    tenant.upload(f"/v1/domains/{domain}/adapters", adapter_file())
    assert "Train on it" in browser.get(f"/dashboard/domains/{domain}/images").text
    assert "read-only" not in browser.get(f"/dashboard/domains/{domain}/playground").text
    owner = tenant.read("/v1/key")["tenant_id"]
    body = {"name": "reader", "scopes": ["read"]}
    browser.sign_in(pages.admin.made(f"/v1/admin/tenants/{owner}/keys", body)["key"])
    assert "Train on it" not in browser.get(f"/dashboard/domains/{domain}/images").text
    assert "Your API key is read-only" in browser.get(f"/dashboard/domains/{domain}/playground").text


def test_expired_key_is_not_shown_as_active(browser: Browser, pages: Api, tenant: Client) -> None:
    own = tenant.read("/v1/key")
    browser.sign_in(ADMIN_KEY)
    path = f"/dashboard/tenants/{own['tenant_id']}"
    assert "expired" not in browser.get(path).text
    with pages.services.database.session() as session:
        past = datetime.datetime.now(datetime.UTC) - datetime.timedelta(hours=1)
        session.get_one(ApiKey, own["id"]).expires_at = past
    assert "expired" in browser.get(path).text


def test_failed_generation_shows_its_reason(browser: Browser, pages: Api, tenant: Client, domain: str) -> None:
    tenant.upload(f"/v1/domains/{domain}/adapters", adapter_file())
    tenant.made(f"/v1/domains/{domain}/generations", {"class_id": 0})
    for claim in claims(pages.services, Generation):
        with pages.services.database.session() as session:
            jobs.fail(session, session.get_one(Generation, claim.id), DrawingDiverged())
    assert DrawingDiverged().detail in browser.get(f"/dashboard/domains/{domain}/playground").text


def test_link_of_a_page_leads_to_an_image_that_has_a_file_name(
    browser: Browser, pages: Api, tenant: Client, domain: str
) -> None:
    """The page may be open for longer than a signed URL is valid, so its link is signed when it is used."""
    body = {"class_id": 0, "adapter_id": "base"}
    generation = tenant.made(f"/v1/domains/{domain}/generations", body)["id"]
    draw_generations(pages.services)
    link = browser.get(f"/dashboard/images/{generation}/0")
    assert link.status_code == 303
    target = urlsplit(link.headers["location"])
    image = pages.client().get(f"{target.path}?{target.query}")
    assert image.headers["content-disposition"] == f'inline; filename="{generation}-0.png"'


def test_administrator_sees_the_usage_of_a_tenant(browser: Browser, pages: Api, tenant: Client, domain: str) -> None:
    dataset = tenant.upload(f"/v1/domains/{domain}/datasets", images_zip()).json()["id"]
    validate_datasets(pages.services)
    tenant.made(f"/v1/domains/{domain}/finetunes", {"dataset_id": dataset})
    for claim in start_finetunes(pages.services):
        finish_finetune(pages.services, claim)
    owner = tenant.read("/v1/key")["tenant_id"]
    (day,) = pages.admin.read("/v1/admin/usage", params={"tenant_id": owner})["data"]
    assert (day["tenant_id"], day["training_seconds"]) == (owner, 3.0)
    assert pages.admin.read("/v1/admin/usage", params={"tenant_id": "ten_none"})["data"] == []
    browser.sign_in(ADMIN_KEY)
    assert "3.0 s" in browser.get(f"/dashboard/tenants/{owner}").text
    assert "3.0 s" not in browser.get(f"/dashboard/tenants/{owner}?to_day=2024-12-31").text


def test_usage_of_a_period_is_shown(browser: Browser, pages: Api, tenant: Client) -> None:
    owner = tenant.read("/v1/key")["tenant_id"]
    with pages.services.database.session() as session:
        for day in (datetime.date(2024, 2, 28), datetime.date(2024, 2, 29)):
            session.add(UsageDay(tenant_id=owner, day=day, images=1, model_evaluations=1, training_seconds=0.0))
    shown = browser.get("/dashboard/usage?from_day=2024-02-29&to_day=2024-03-31").text
    assert "29 Feb 2024" in shown
    assert "28 Feb 2024" not in shown
    assert "Feb 2024" not in browser.get("/dashboard/usage?from_day=tomorrow").text
    too_long = browser.get("/dashboard/usage?from_day=2024-02-29&to_day=2026-03-31").text
    assert "Invalid period" in too_long
    assert "Model evaluations" in too_long, "the rest of the page stays"


def test_administrators_keys_are_shown(browser: Browser, pages: Api) -> None:
    key = pages.admin.made("/v1/admin/keys", {"name": "Ada", "lifetime_seconds": 3600})
    browser.sign_in(ADMIN_KEY)
    shown = browser.get("/dashboard/tenants").text
    assert key["id"] in shown
    assert "Administrators" in shown


def test_pages_add_no_second_main_element(browser: Browser, tenant: Client) -> None:
    """NiceGUI's layout has the page's <main>."""
    text = browser.get("/dashboard/domains").text
    assert '"tag":"main"' not in text
    assert '"tag":"h1"' in text
