"""One application with pages. NiceGUI allows one per process, so all these tests share it."""

from collections.abc import Iterator
from dataclasses import dataclass

import httpx
import pytest

from tests.api.client import Api, load_base, running
from tests.api.conftest import make_settings


@dataclass(frozen=True)
class Browser:
    """Stand-in for a browser that runs no scripts: it keeps cookies and submits forms."""

    api: Api
    http: httpx.AsyncClient

    def get(self, path: str) -> httpx.Response:
        return self.api.portal.call(self.http.get, path)

    def post(self, path: str, data: dict[str, str], **headers: str) -> httpx.Response:
        sent = {name.replace("_", "-"): value for name, value in headers.items()}
        return self.api.portal.call(lambda: self.http.post(path, data=data, headers=sent))

    def sign_in(self, key: str) -> httpx.Response:
        return self.post("/dashboard/session", {"key": key})


@pytest.fixture(scope="session")
def pages(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Api]:
    with running(make_settings(tmp_path_factory.mktemp("pages"), dashboard=True)) as api:
        load_base(api.services)
        yield api


@pytest.fixture
def browser(pages: Api) -> Browser:
    return Browser(pages, httpx.AsyncClient(transport=httpx.ASGITransport(pages.app), base_url="http://pages.test"))
