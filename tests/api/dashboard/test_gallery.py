"""Zip of generated images, filters of the gallery, and its pages."""

import datetime
import io
import zipfile
from typing import get_args
from urllib.parse import unquote, urlencode

import httpx
import pytest
from starlette.requests import Request

from api.dashboard.forms import address_text
from api.dashboard.image_filters import selected
from api.dashboard.webhook_form import EVENTS
from api.dashboard.words import LIMITS
from core.service.quotas import QuotaName
from core.service.webhooks.events import EventType
from tests.api.client import Api, Client, adapter_file, draw_generations
from tests.api.dashboard.conftest import Browser


@pytest.fixture
def tenant(pages: Api, request: pytest.FixtureRequest) -> Client:
    return pages.tenant(f"Gallery {request.node.name}")


@pytest.fixture
def domain(tenant: Client, browser: Browser) -> str:
    browser.sign_in(tenant.headers["Authorization"].removeprefix("Bearer "))
    id: str = tenant.made("/v1/domains", {"name": "Fruit"})["id"]
    return id


def draw(pages: Api, tenant: Client, domain: str, class_name: str, count: int) -> list[str]:
    """Returns the ids of new images of the base."""
    body = {"class_name": class_name, "count": count, "adapter_id": "base", "seed": 5}
    generation = tenant.made(f"/v1/domains/{domain}/generations", body)["id"]
    draw_generations(pages.services)
    return [f"{generation}/{index}" for index in range(count)]


def names(answer: httpx.Response) -> set[str]:
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-disposition"] == 'attachment; filename="images.zip"'
    with zipfile.ZipFile(io.BytesIO(answer.content)) as archive:
        return set(archive.namelist()) - {"metadata.jsonl"}


def files(ids: list[str]) -> set[str]:
    return {f"{id.replace('/', '-')}.png" for id in ids}


def test_zip_has_the_selected_images_or_those_that_match(
    browser: Browser, pages: Api, tenant: Client, domain: str
) -> None:
    stars, circles = (draw(pages, tenant, domain, name, 2) for name in ("star", "circle"))
    chosen = [stars[0], circles[1]]
    assert names(browser.get(f"/dashboard/gallery/zip?{urlencode([('id', id) for id in chosen])}")) == files(chosen)
    assert names(browser.get("/dashboard/gallery/zip?class_name=star")) == files(stars)
    assert names(browser.get(f"/dashboard/gallery/zip?domain_id={domain}")) == files([*stars, *circles])


def test_file_of_a_version_is_downloaded(browser: Browser, pages: Api, tenant: Client, domain: str) -> None:
    file = adapter_file()
    id = tenant.upload(f"/v1/domains/{domain}/adapters", file).json()["id"]
    answer = browser.get(f"/dashboard/versions/{id}/file")
    assert answer.content == file
    assert answer.headers["content-disposition"] == f'attachment; filename="{id}.safetensors"'
    assert browser.get("/dashboard/versions/adp_none/file").headers["location"] == "/dashboard/missing-file"


def test_pages_of_a_version_tell_its_learned_guidance(browser: Browser, tenant: Client, domain: str) -> None:
    pages = [f"/dashboard/domains/{domain}/{step}" for step in ("versions", "playground")]
    tenant.upload(f"/v1/domains/{domain}/adapters", adapter_file())
    assert not any("earned guidance up to" in browser.get(page).text for page in pages)
    tenant.upload(f"/v1/domains/{domain}/adapters", adapter_file(distill_guidance=2.5))
    assert all("earned guidance up to 2.5" in browser.get(f"{page}").text for page in pages[:1])
    second = tenant.read(f"/v1/domains/{domain}/adapters")["data"][0]["id"]
    assert "earned guidance up to 2.5" in browser.get(f"{pages[1]}?adapter_id={second}").text


@pytest.mark.parametrize("query", ["", "?class_name=star", "?domain_id=dom_none", "?id=nonsense", "?id=%00"])
def test_zip_of_no_image_is_no_page(browser: Browser, domain: str, query: str) -> None:
    answer = browser.get(f"/dashboard/gallery/zip{query}")
    assert (answer.status_code, answer.headers["location"]) == (303, "/dashboard/missing-file")
    assert browser.get(answer.headers["location"]).status_code == 404


def test_images_of_another_tenant_are_not_shown(browser: Browser, pages: Api, tenant: Client, domain: str) -> None:
    (id,) = draw(pages, tenant, domain, "star", 1)
    generation = id.partition("/")[0]
    assert generation in browser.get("/dashboard/gallery").text
    other = pages.tenant(f"Other than {domain}")
    browser.sign_in(other.headers["Authorization"].removeprefix("Bearer "))
    assert generation not in browser.get("/dashboard/gallery").text
    assert browser.get(f"/dashboard/gallery/zip?{urlencode({'id': id})}").status_code == 303


def test_domain_filter_leads_to_the_domains_gallery(browser: Browser, domain: str) -> None:
    answer = browser.get(f"/dashboard/gallery?domain_id={domain}&class_name=star")
    assert (answer.status_code, answer.headers["location"]) == (
        303,
        f"/dashboard/domains/{domain}/gallery?class_name=star",
    )
    answer = browser.get("/dashboard/gallery?domain_id=//evil.example")
    assert unquote(answer.headers["location"]) == "/dashboard/domains///evil.example/gallery"
    assert "%2F%2Fevil" in answer.headers["location"]


def request_from(zone: str) -> Request:
    return Request({"type": "http", "headers": [(b"cookie", f"difffit_zone={zone}".encode())]})


def test_days_begin_in_the_browsers_zone() -> None:
    wanted = selected({"since": "2026-03-29", "until": "2026-03-29"}, request_from("Europe/Berlin"))
    assert wanted["created_after"] == datetime.datetime(2026, 3, 28, 23, tzinfo=datetime.UTC)
    assert wanted["created_before"] == datetime.datetime(2026, 3, 29, 22, tzinfo=datetime.UTC)


@pytest.mark.parametrize(
    "filters",
    [{"since": "yesterday"}, {"since": "0001-01-01"}, {"until": "9999-12-31"}, {"seed": "x"}, {"seed": "-1"},
     {"seed": "1e300"}, {"seed": "nan"}, {"marked": "on"}],
)  # fmt: skip
def test_impossible_filters_are_left_out(filters: dict[str, str]) -> None:
    assert not any(value is not None for value in selected(filters, request_from("UTC")).values())


def test_large_seeds_stay_exact_in_the_address() -> None:
    assert address_text(float(2**53 - 1)) == str(2**53 - 1)
    assert selected({"seed": address_text(float(2**53 - 1))}, request_from("UTC"))["seed"] == 2**53 - 1


def test_pages_know_the_services_words() -> None:
    assert set(EVENTS) == set(get_args(EventType))
    assert set(LIMITS) == set(get_args(QuotaName))
