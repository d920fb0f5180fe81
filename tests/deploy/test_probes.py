"""Every probe of every manifest, run on the running service."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from tests import services
from tests.deploy.test_compose import OURS
from tests.deploy.test_kubernetes import SERVICE_PODS
from tests.processes import running

PROMETHEUS = yaml.safe_load((Path(__file__).parents[2] / "deploy/monitoring/prometheus.yml").read_text())
METRICS_PORT, API_METRICS_PORT = "9100", "9101"
HTTP = {
    ("Kubernetes", *pod, kind): container[kind]["httpGet"]
    for pod, template in SERVICE_PODS.items()
    for container in template["spec"]["containers"]
    for kind in ("startupProbe", "livenessProbe", "readinessProbe")
    if "httpGet" in container.get(kind, {})
}
COMMANDS = {
    ("Kubernetes", *pod, kind): container[kind]["exec"]["command"]
    for pod, template in SERVICE_PODS.items()
    for container in template["spec"]["containers"]
    for kind in ("startupProbe", "livenessProbe", "readinessProbe")
    if "exec" in container.get(kind, {})
} | {
    ("compose", name): service["healthcheck"]["test"][1:] for name, service in OURS.items() if "healthcheck" in service
}
SCRAPES = {
    ("Kubernetes", *pod): (annotations["prometheus.io/port"], annotations.get("prometheus.io/path", "/metrics"))
    for pod, template in SERVICE_PODS.items()
    if (annotations := template["metadata"].get("annotations"))
} | {
    ("Prometheus", job["job_name"]): (str(target["port"]), job.get("metrics_path", "/metrics"))
    for job in PROMETHEUS["scrape_configs"]
    for target in job["dns_sd_configs"]
}


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Any]]:
    """Starts an API and a worker. Yields their URLs by the ports in the manifests, and their environment."""
    folder = tmp_path_factory.mktemp("service")
    ports = {METRICS_PORT: str(services.free_port()), API_METRICS_PORT: str(services.free_port())}
    environment = {
        "DIFFFIT_DATA_DIR": str(folder / "data"),
        "DIFFFIT_METRICS_PORT": ports[METRICS_PORT],
        "DIFFFIT_API_METRICS_PORT": ports[API_METRICS_PORT],
    }
    with running(environment, folder) as url:
        own = {port: f"http://127.0.0.1:{here}" for port, here in ports.items()}
        yield {"8000": url, **own, "environment": environment}


@pytest.mark.parametrize("probe", HTTP.values(), ids=map(" ".join, HTTP))
def test_probed_paths_respond(service: dict[str, Any], probe: dict[str, Any]) -> None:
    assert probe["port"] == "http"
    assert httpx.get(f"{service['8000']}{probe['path']}").status_code == 200


@pytest.mark.parametrize("command", COMMANDS.values(), ids=map(" ".join, COMMANDS))
def test_probed_commands_succeed(service: dict[str, Any], command: list[str]) -> None:
    assert command[0] == "python"
    here = [word.replace("http://127.0.0.1:8000", service["8000"]) for word in command[1:]]
    subprocess.run([sys.executable, *here], env={**os.environ, **service["environment"]}, check=True)


@pytest.mark.parametrize(("port", "path"), SCRAPES.values(), ids=map(" ".join, SCRAPES))
def test_scraped_paths_have_metrics(service: dict[str, Any], port: str, path: str) -> None:
    own = "difffit_http_requests" if port == API_METRICS_PORT else "difffit_engine_steps"
    assert f"\n{own}" in httpx.get(f"{service[port]}{path}").raise_for_status().text


def test_metrics_need_a_key(service: dict[str, Any]) -> None:
    assert httpx.get(f"{service['8000']}/metrics").status_code == 401


def test_all_long_running_containers_are_probed() -> None:
    assert {pod for _, _, pod, _ in HTTP} == {"difffit-api"}
    assert {probe[2] for probe in COMMANDS if probe[0] == "Kubernetes"} == {"difffit-worker"}
    assert {probe[2] for probe in SCRAPES if probe[0] == "Kubernetes"} == {"difffit-api", "difffit-worker"}
