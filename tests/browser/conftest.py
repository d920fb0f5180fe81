"""A server with a worker, Chromium, and two users: a tenant and an administrator."""

import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, BrowserContext, ConsoleMessage, Page, sync_playwright

from core.ml.bundled import sample_domain_folder
from tests import processes
from tests.api.client import zip_of
from tests.processes import ADMIN, Caller

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
SCREENSHOTS = Path("build") / "screenshots"
DESK = {"width": 1440, "height": 900}
PHONE = {"width": 390, "height": 844}
MAX_BUTTON = 100
"""Max height of a button in pixels: a label of three lines on a phone."""
ZONE = "Asia/Tokyo"
LONG = 300_000
"""Timeout in milliseconds for a worker's computation on two busy cores."""
_SERIOUS = {"serious", "critical"}
_FOR_AXE = "body { position: static !important } .q-dialog__inner { z-index: 1 }"
"""Style for axe: under a dialog Quasar fixes the body, and axe would take the body's background for the dialog's."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    here = Path(__file__).parent
    for item in items:
        if here in item.path.parents and CHROMIUM is None:
            item.add_marker(pytest.mark.skip(reason="no Chromium on the path: apt-get install chromium"))
        elif here in item.path.parents and not os.environ.get("BROWSER_TESTS"):
            item.add_marker(pytest.mark.skip(reason="`make test-browser` runs it"))


@dataclass(frozen=True)
class Server:
    url: str


@dataclass(frozen=True)
class Visitor:
    """Tenant with a key."""

    name: str
    caller: Caller

    def domain(self) -> str:
        """Returns the id of the newest domain."""
        id: str = self.caller.get("/v1/domains")["data"][0]["id"]
        return id


def upload(
    visitor: Visitor, domain: str, images: Mapping[str, int], name: str = "", extra: Mapping[str, bytes] | None = None
) -> str:
    """Uploads a data set with so many drawings of each class, and returns its id when it is ready. `extra` has further
    files by their names in the zip."""
    drawings = {
        f"{label}/{path.name}": path.read_bytes()
        for label, count in images.items()
        for path in sorted((sample_domain_folder() / label).glob("*.png"))[:count]
    }
    sent = visitor.caller.send(
        "POST",
        f"/v1/domains/{domain}/datasets",
        files={"file": ("a.zip", zip_of({**drawings, **(extra or {})}))},
        data={"name": name} if name else {},
    )
    id: str = sent.raise_for_status().json()["id"]
    assert visitor.caller.wait(f"/v1/datasets/{id}", "validating")["status"] == "ready"
    return id


def trained(visitor: Visitor, domain: str, images: Mapping[str, int], **settings: Any) -> str:
    """Trains a version on so many drawings of each class, for two steps unless `settings` has others. Returns its
    id."""
    body = {"dataset_id": upload(visitor, domain, images), "steps": 2, "batch_size": 2, **settings}
    started = visitor.caller.post(f"/v1/domains/{domain}/finetunes", body)["id"]
    finetune = visitor.caller.wait(f"/v1/finetunes/{started}", "queued", "running")
    assert finetune["status"] == "succeeded"
    adapter: str = finetune["adapter_id"]
    return adapter


@contextmanager
def domain_with_version(visitor: Visitor, name: str, images: Mapping[str, int]) -> Iterator[str]:
    """Yields the id of a domain with a version, which is deleted afterwards."""
    created: str = visitor.caller.post("/v1/domains", {"name": name})["id"]
    trained(visitor, created, images)
    yield created
    visitor.caller.send("DELETE", f"/v1/domains/{created}").raise_for_status()


def connected(page: Page) -> None:
    """Waits until the page is connected to the server: of events from before then, NiceGUI may change the order."""
    page.wait_for_function("window.did_handshake")


@dataclass
class Dashboard:
    """Browser window that records every error."""

    url: str
    key: str
    page: Page
    errors: list[str] = field(default_factory=list)
    expects_failures: bool = False

    def __post_init__(self) -> None:
        self.page.on("console", self._heard)
        self.page.on("pageerror", lambda error: self.errors.append(str(error)))
        self.page.on("request", self._asked)

    def sign_in(self) -> Page:
        self.page.goto(f"{self.url}/sign-in")
        self.page.get_by_label("API key").fill(self.key)
        self.page.get_by_role("button", name="Sign in").click()
        self.page.wait_for_url(lambda url: url.endswith(("/domains", "/tenants")))
        return self.page

    def keep(self, name: str, hide: str = "") -> None:
        """Takes screenshots at both widths and themes; none may scroll sideways, have a stretched button, or be
        inaccessible."""
        for theme in ("light", "dark"):
            self.page.emulate_media(color_scheme=theme)
            for width, size in (("desk", DESK), ("phone", PHONE)):
                self.page.set_viewport_size(size)
                self.page.evaluate("scrollTo(0, 0)")  # the head stays at the top of the window
                self.page.wait_for_timeout(400)  # charts are redrawn
                pixels = self.page.evaluate("document.documentElement.scrollWidth")
                assert pixels <= size["width"], f"{name} is {pixels} pixels wide on a {width}"
                heights = self.page.evaluate("[...document.querySelectorAll('.button')].map((e) => e.offsetHeight)")
                assert max(heights, default=0) <= MAX_BUTTON, f"{name} has stretched buttons on a {width}: {heights}"
                masked = [self.page.locator(hide)] if hide else []
                path = SCREENSHOTS / f"{name}-{size['width']}-{theme}.png"
                self.page.screenshot(path=path, full_page=not self.page.get_by_role("dialog").count(), mask=masked)
                self.check(f"{name}, {width}, {theme}")
        self.page.emulate_media(color_scheme="light")
        self.page.set_viewport_size(DESK)

    def check(self, where: str) -> None:
        """Checks that axe finds nothing serious in the page, or in its dialog if one is open."""
        arranged = self.page.add_style_tag(content=_FOR_AXE)
        dialog = "[role=dialog]"  # the page under a dialog is checked without the dialog
        within = dialog if self.page.locator(dialog).count() else None
        violations = Axe().run(self.page, context=within).response["violations"]
        arranged.evaluate("element => element.remove()")
        faults = [violation for violation in violations if violation["impact"] in _SERIOUS]
        texts = [f"{fault['id']}: {[node['html'][:200] for node in fault['nodes']]}" for fault in faults]
        assert not texts, f"{where}: " + "\n".join(texts)

    def _heard(self, message: ConsoleMessage) -> None:
        if message.type in {"error", "warning"} and not self.expects_failures:
            self.errors.append(message.text)

    def _asked(self, request: object) -> None:
        url: str = getattr(request, "url", "")
        if not url.startswith((self.url.removesuffix("/dashboard"), "data:", "blob:")):
            self.errors.append(f"asks another host: {url}")


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("server")
    shutil.rmtree(SCREENSHOTS, ignore_errors=True)
    environment = {
        "DIFFFIT_DATA_DIR": str(folder / "data"),
        "DIFFFIT_WEBHOOKS_ALLOW_PRIVATE": "true",
        "DIFFFIT_UPLOAD_PART_BYTES": str(5 * 2**20),
        "DIFFFIT_DATASET_IMPORT_HOSTS": "127.0.0.1",
        "DIFFFIT_DATASET_IMPORTS_ALLOW_PRIVATE": "true",
    }
    with processes.running(environment, folder) as url:
        yield Server(url)


@pytest.fixture(scope="session")
def visitor(server: Server) -> Iterator[Visitor]:
    with httpx.Client(base_url=server.url, timeout=60) as http:
        admin = Caller(http, ADMIN)
        tenant = admin.post("/v1/admin/tenants", {"name": "Acme Studio"})
        key = admin.post(f"/v1/admin/tenants/{tenant['id']}/keys", {"name": "laptop"})["key"]
        yield Visitor(tenant["name"], Caller(http, key))


@pytest.fixture(scope="session")
def chromium() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        sandbox = ["--no-sandbox"] if os.geteuid() == 0 else []
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=sandbox)
        yield browser
        browser.close()


@pytest.fixture
def window(chromium: Browser, server: Server) -> Iterator[Callable[..., Dashboard]]:
    opened: list[tuple[BrowserContext, Dashboard]] = []

    def open_window(key: str, locale: str = "en-US") -> Dashboard:
        context = chromium.new_context(
            viewport=DESK, color_scheme="light", reduced_motion="reduce", timezone_id=ZONE, locale=locale
        )
        context.set_default_timeout(30_000)
        dashboard = Dashboard(f"{server.url}/dashboard", key, context.new_page())
        opened.append((context, dashboard))
        return dashboard

    yield open_window
    for context, dashboard in opened:
        context.close()
        assert not dashboard.errors


@pytest.fixture
def dashboard(window: Callable[[str], Dashboard], visitor: Visitor) -> Dashboard:
    return window(visitor.caller.key)


@pytest.fixture
def administration(window: Callable[[str], Dashboard]) -> Dashboard:
    return window(ADMIN)
