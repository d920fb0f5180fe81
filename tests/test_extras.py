"""API and worker as processes in which optional dependencies cannot be imported."""

import os
from pathlib import Path

import httpx
import pytest

from tests import processes
from tests.processes import ADMIN, Caller
from tests.test_tracing import draw

MODULES = {
    "dashboard": ["nicegui", "difffit", "httpx"],
    "docs": ["fastapi_swagger"],
    "heic": ["pi_heif"],
    "servers": ["psycopg", "redis", "boto3", "botocore"],
    "traces": ["opentelemetry.sdk", "opentelemetry.exporter", "opentelemetry.instrumentation"],
}


def without(modules: list[str], folder: Path) -> dict[str, str]:
    """Returns settings of processes that cannot import these modules."""
    (folder / "sitecustomize.py").write_text(f"import sys\nsys.modules.update(dict.fromkeys({modules}))\n")
    paths = [str(folder), *filter(None, [os.environ.get("PYTHONPATH")])]
    return {
        "PYTHONPATH": os.pathsep.join(paths),
        "DIFFFIT_DATA_DIR": str(folder / "data"),
        "DIFFFIT_TRACES_ENDPOINT": "http://127.0.0.1:9/v1/traces" if "opentelemetry.sdk" in modules else "",
    }


@pytest.mark.parametrize("extra", MODULES)
def test_api_starts_without_an_extra(extra: str, tmp_path: Path) -> None:
    with processes.api(without(MODULES[extra], tmp_path), tmp_path) as url, httpx.Client(base_url=url) as http:
        assert Caller(http, ADMIN).get("/v1/admin/tenants")["data"] == []
        pages = [http.get(path) for path in ("/dashboard/", "/dashboard/domains/x")]
        document = http.get("/docs", follow_redirects=True)
    for page in pages:
        assert (page.status_code == 501) == ("pip install ./client '.[dashboard]'" in page.text)
        assert (page.status_code == 501) == (extra == "dashboard")
    assert document.headers["content-type"].startswith("application/json" if extra == "docs" else "text/html")
    off = [line for line in (tmp_path / "api.log").read_text().splitlines() if "Off, because not installed" in line]
    assert [extra in line for line in off] == [True] * (extra not in ("servers", "heic"))


def test_service_generates_images_without_any_extra(tmp_path: Path) -> None:
    modules = [name for names in MODULES.values() for name in names]
    environment = without(modules, tmp_path)
    with processes.running(environment, tmp_path) as url, httpx.Client(base_url=url, timeout=60) as http:
        draw(http)
    (line,) = [line for line in (tmp_path / "worker.log").read_text().splitlines() if "Off, because" in line]
    assert "traces" in line


def test_settings_of_a_server_name_the_missing_packages(tmp_path: Path) -> None:
    environment = without(MODULES["servers"], tmp_path) | {"DIFFFIT_STORAGE_URL": "s3://bucket"}
    with pytest.raises(AssertionError, match="the API ended"), processes.api(environment, tmp_path):
        pass
    log = (tmp_path / "api.log").read_text()
    assert (
        "the packages for storage_url are not installed: in the project's folder, pip install ./client '.[servers]'"
        in log
    )
