"""Signing in and out, access to pages, and a service without pages."""

import re
import subprocess
import sys
import time
from urllib.parse import urlencode

import httpx
import pytest
from nicegui import Client as NiceguiClient
from nicegui import app as nicegui_app
from starlette.requests import Request

from api.dashboard import sessions as module
from api.dashboard.sessions import IDLE_SECONDS, Session, Sessions
from api.dashboard.user import TOKEN, get_user, sessions
from api.limits import RequestLimits
from difffit.errors import Unauthenticated
from tests.api.client import ADMIN_KEY, Api, Client
from tests.api.dashboard.conftest import Browser

URL = "http://pages.test"
STEPS = ("images", "training", "versions", "playground", "gallery", "compare")
TENANT_PAGES = (
    *("/domains", "/usage", "/finetunes/ft_none", "/gallery", "/gallery/zip", "/webhooks", "/webhooks/wh_none"),
    *(f"/domains/dom_none/{path}" for path in (*STEPS, "datasets/ds_none")),
)
ADMIN_PAGES = ("/tenants", "/tenants/ten_none", "/adapters", "/fleet", "/audit")


def sign_in_path(path: str) -> str:
    return f"/dashboard/sign-in?{urlencode({'next': path})}"


def key_of(client: Client) -> str:
    return client.headers["Authorization"].removeprefix("Bearer ")


@pytest.fixture
def tenant(pages: Api) -> Client:
    return pages.tenant(f"Tenant {time.monotonic_ns()}")


@pytest.mark.parametrize("path", [*TENANT_PAGES, *ADMIN_PAGES])
def test_visitor_without_a_session_is_redirected_to_sign_in(browser: Browser, path: str) -> None:
    answer = browser.get(f"/dashboard{path}")
    assert (answer.status_code, answer.headers["location"]) == (303, sign_in_path(path))


def test_signing_in_leads_to_the_requested_page(browser: Browser, tenant: Client) -> None:
    form = {"key": "wrong", "next": "/usage?a=b"}
    refused = browser.post("/dashboard/session", form).headers["location"]
    assert refused == f"/dashboard/sign-in?problem=unauthenticated&{urlencode({'next': form['next']})}"
    assert "/usage?a=b" in browser.get(refused).text
    answer = browser.post("/dashboard/session", {**form, "key": key_of(tenant)})
    assert answer.headers["location"] == "/dashboard/usage?a=b"
    assert browser.get("/dashboard/sign-in").headers["location"] == "/dashboard/"


@pytest.mark.parametrize("next", ["//evil.example", "https://evil.example", "/\\evil.example"])
def test_signing_in_never_leads_to_another_site(browser: Browser, tenant: Client, next: str) -> None:
    answer = browser.post("/dashboard/session", {"key": key_of(tenant), "next": next})
    assert answer.headers["location"].startswith("/dashboard/")


@pytest.mark.parametrize("path", ["/", "/sign-in", "/sign-in?problem=ended&next=%2Fusage", "/nothing", "/usage"])
def test_visitors_without_a_session_leave_no_page_in_memory(browser: Browser, path: str) -> None:
    before = set(NiceguiClient.instances)
    for _ in range(3):
        assert browser.get(f"/dashboard{path}").status_code in {200, 303, 404}
    assert set(NiceguiClient.instances) == before


def test_plain_pages_show_what_the_address_contains_as_text(browser: Browser) -> None:
    query = urlencode({"problem": "<b>x</b>", "next": '"><script>x</script>'})
    shown = browser.get(f"/dashboard/sign-in?{query}").text
    assert "cannot be checked now" in shown
    assert "<b>" not in shown
    assert "<script>" not in shown
    assert "&lt;script&gt;" in shown


def test_a_key_keeps_a_limited_number_of_sessions_and_closed_pages(
    browser: Browser, tenant: Client, pages: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MAX_CLOSED_PAGES", 3)
    monkeypatch.setattr(module, "MAX_SESSIONS", 2)
    other = Browser(pages, httpx.AsyncClient(transport=httpx.ASGITransport(pages.app), base_url=URL))
    other.sign_in(key_of(pages.tenant(f"Other {time.monotonic_ns()}")))
    other.get("/dashboard/usage")
    browser.sign_in(key_of(tenant))
    first = dict(browser.http.cookies)
    before = set(NiceguiClient.instances)
    for _ in range(5):
        assert browser.get("/dashboard/usage").status_code == 200
    assert before < set(NiceguiClient.instances)
    assert len(set(NiceguiClient.instances) - before) == 3
    for _ in range(2):
        browser.sign_in(key_of(tenant))
        assert browser.get("/dashboard/usage").status_code == 200
    browser.http.cookies.update(first)
    assert browser.get("/dashboard/usage").status_code == 303
    assert other.get("/dashboard/usage").status_code == 200


def test_unknown_address_shows_a_page_with_a_way_out(browser: Browser) -> None:
    answer = browser.get("/dashboard/nothing/here")
    assert answer.status_code == 404
    assert "Page not found" in answer.text
    assert "To the start page" in answer.text
    assert "HTTPException" not in answer.text


def test_tenant_signs_in_and_out(browser: Browser, tenant: Client) -> None:
    answer = browser.sign_in(f" {key_of(tenant)} ")
    assert answer.headers["location"] == "/dashboard/"
    assert browser.get("/dashboard/").headers["location"] == "/dashboard/domains"
    page = browser.get("/dashboard/domains")
    assert page.status_code == 200
    assert key_of(tenant) not in page.text
    assert key_of(tenant) not in str(browser.http.cookies)
    cookie = answer.headers["set-cookie"].lower()
    assert "httponly" in cookie
    assert "samesite=lax" in cookie
    for path in ADMIN_PAGES:
        assert browser.get(f"/dashboard{path}").headers["location"] == "/dashboard/domains"
    assert browser.post("/dashboard/sign-out", {}).headers["location"] == "/dashboard/sign-in"
    assert browser.get("/dashboard/domains").status_code == 303


def test_signing_in_is_recorded(browser: Browser, pages: Api, tenant: Client) -> None:
    browser.sign_in(f"{key_of(tenant)}x")
    browser.sign_in(key_of(tenant))
    browser.get("/dashboard/domains")
    key = tenant.read("/v1/key")
    entries = pages.admin.read("/v1/admin/audit", params={"tenant_id": key["tenant_id"]})["data"]
    (entry,) = (entry for entry in entries if entry["action"] == "session.create")
    assert (entry["target"], entry["actor_key_id"]) == (key["id"], key["id"])
    assert entry["address"]
    assert entry["request_id"]


def test_cookie_is_useless_after_signing_out(browser: Browser, tenant: Client) -> None:
    browser.sign_in(key_of(tenant))
    stolen = dict(browser.http.cookies)
    browser.post("/dashboard/sign-out", {})
    browser.http.cookies.update(stolen)
    assert browser.get("/dashboard/domains").status_code == 303


def test_administrator_sees_the_administrators_pages(browser: Browser) -> None:
    browser.sign_in(ADMIN_KEY)
    assert browser.get("/dashboard/").headers["location"] == "/dashboard/tenants"
    assert browser.get("/dashboard/domains").headers["location"] == "/dashboard/tenants"


@pytest.mark.parametrize("key", ["", "wrong", "x" * 5000, "dfk_00000000000000000000000000_wrong", "schlüssel"])
def test_wrong_key_is_rejected(browser: Browser, key: str) -> None:
    answer = browser.sign_in(key)
    assert answer.headers["location"] == "/dashboard/sign-in?problem=unauthenticated"
    assert "unknown, expired or revoked" in browser.get(answer.headers["location"]).text
    assert browser.get("/dashboard/domains").status_code == 303


def test_empty_key_never_becomes_the_processs_own(browser: Browser, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DIFFFIT_API_KEY", ADMIN_KEY)
    assert browser.sign_in(" ").headers["location"] == "/dashboard/sign-in?problem=unauthenticated"


def test_open_page_loses_the_key_when_its_session_ends(pages: Api, tenant: Client) -> None:
    token = sessions.begin(Session(key_of(tenant), "Studio", is_admin=False, may_write=True))
    scope = {"type": "http", "app": nicegui_app, "session": {TOKEN: token}, "client": ("203.0.113.9", 1), "path": "/"}
    user = get_user(Request({**scope, "headers": [(b"host", b"pages.test")], "query_string": b""}))
    assert pages.portal.call(user.api.key).id == tenant.read("/v1/key")["id"]
    sessions.end(token)
    with pytest.raises(Unauthenticated):
        pages.portal.call(user.api.key)


def test_form_from_another_site_is_rejected(browser: Browser, tenant: Client) -> None:
    answer = browser.post("/dashboard/session", {"key": key_of(tenant)}, Sec_Fetch_Site="cross-site")
    assert answer.headers["location"] == "/dashboard/sign-in?problem=elsewhere"
    assert browser.get("/dashboard/domains").status_code == 303


@pytest.mark.parametrize("origin", ["http://evil.example", "null", "http://pages.test.evil.example"])
def test_foreign_origin_is_rejected_without_sec_fetch_site(browser: Browser, tenant: Client, origin: str) -> None:
    """Covers browsers that send no Sec-Fetch-Site header, as on plain http."""
    answer = browser.post("/dashboard/session", {"key": key_of(tenant)}, Origin=origin)
    assert answer.headers["location"] == "/dashboard/sign-in?problem=elsewhere"
    answer = browser.post("/dashboard/session", {"key": key_of(tenant)}, Origin="http://pages.test")
    assert answer.headers["location"] == "/dashboard/"


def test_signing_in_again_ends_the_first_session(browser: Browser, pages: Api, tenant: Client) -> None:
    browser.sign_in(key_of(tenant))
    first = dict(browser.http.cookies)
    browser.sign_in(key_of(pages.tenant(f"Other {time.monotonic_ns()}")))
    assert browser.get("/dashboard/domains").status_code == 200
    browser.http.cookies.clear()
    browser.http.cookies.update(first)
    assert browser.get("/dashboard/domains").status_code == 303


@pytest.mark.usefixtures("one_moment")
def test_wrong_keys_at_the_sign_in_count_for_the_browsers_address(
    pages: Api, tenant: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    limits = RequestLimits(pages.services.settings.model_copy(update={"max_wrong_keys_per_minute": 3}))
    monkeypatch.setitem(pages.app.state.services.__dict__, "limits", limits)
    guessing, other = (
        Browser(pages, httpx.AsyncClient(transport=httpx.ASGITransport(pages.app, client=(host, 1)), base_url=URL))
        for host in ("203.0.113.9", "203.0.113.10")
    )
    problems = [guessing.sign_in(f"wrong {n}").headers["location"].rpartition("=")[2] for n in range(4)]
    assert problems == ["unauthenticated"] * 3 + ["rate_limited"]
    assert "from your address" in guessing.get("/dashboard/sign-in?problem=rate_limited").text
    assert other.sign_in("wrong").headers["location"].endswith("unauthenticated")
    assert guessing.sign_in(key_of(tenant)).headers["location"] == "/dashboard/"


def test_another_tenants_domain_is_not_found(browser: Browser, pages: Api, tenant: Client) -> None:
    domain = tenant.made("/v1/domains", {"name": "Secret drawings"})["id"]
    browser.sign_in(key_of(pages.tenant(f"Other {time.monotonic_ns()}")))
    for path in ("", *(f"/{step}" for step in STEPS)):
        page = browser.get(f"/dashboard/domains/{domain}{path}")
        assert "There is no domain" in page.text
        assert "Secret drawings" not in page.text
    assert "Secret drawings" not in browser.get("/dashboard/domains").text
    sent = pages.portal.call(lambda: browser.http.post(f"/dashboard/upload/{domain}/", json={"size_bytes": 1}))
    assert (sent.status_code, sent.json()["code"]) == (404, "not_found")


def test_session_of_a_revoked_key_shows_nothing(browser: Browser, pages: Api, tenant: Client) -> None:
    tenant.made("/v1/domains", {"name": "Drawings"})
    browser.sign_in(key_of(tenant))
    assert "Drawings" in browser.get("/dashboard/domains").text
    pages.admin.delete(f"/v1/admin/keys/{tenant.read('/v1/key')['id']}")
    page = browser.get("/dashboard/domains").text
    assert "Drawings" not in page
    assert "Sign in again" in page


def test_idle_session_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    sessions = Sessions()
    session = Session("key", "name", is_admin=False, may_write=True)
    token = sessions.begin(session)
    assert sessions.find(token) is session
    session.used_at -= IDLE_SECONDS + 1
    assert sessions.find(token) is None


def test_api_responds_next_to_the_pages(pages: Api) -> None:
    for path in ("/nothing", "/v1/nothing"):
        answer = pages.client().get(path)
        assert answer.headers["content-type"] == "application/problem+json"
    assert pages.client().get("/").headers["location"] == "/dashboard/"


def test_nicegui_is_not_imported_without_pages() -> None:
    code = (
        "import sys; from core.service.config import Settings; import api.app; assert 'nicegui' not in sys.modules;"
        "app = api.app.create_app(Settings(_env_file=None, dashboard=False, broker_url='memory://'));"
        "assert 'nicegui' not in sys.modules;"
        "assert not [one for one in app.routes if getattr(one, 'path', '') in ('/', '/dashboard')]"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize(
    ("path", "allowed", "least"), [("/usage", " 'unsafe-eval'", 6), ("/sign-in?problem=ended", "", 2)]
)
def test_pages_run_no_script_but_their_own(
    browser: Browser, tenant: Client, path: str, allowed: str, least: int
) -> None:
    """Each inline script has the nonce of the response's policy."""
    browser.sign_in(key_of(tenant))
    answers = [browser.get(f"/dashboard{path}") for _ in range(2)]
    nonces = set()
    for answer in answers:
        policy = answer.headers["content-security-policy"]
        (nonce,) = re.findall(rf"script-src 'self' 'nonce-([\w-]+)'{allowed};", policy)
        assert "frame-ancestors 'none'" in policy
        scripts = re.findall(r"<script[^>]*>", answer.text)
        assert len(scripts) >= least
        assert all(f'nonce="{nonce}"' in script for script in scripts)
        nonces.add(nonce)
    assert len(nonces) == 2
