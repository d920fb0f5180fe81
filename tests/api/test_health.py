"""Liveness, readiness and metrics."""

import shutil
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import anyio
import pytest

from api.deps import Services
from api.readiness import NO_WORKER, OTHER_BASE, UNSERVED, Probe, ReadinessCheck
from core.service import fleet
from core.service.config import QUEUES
from tests.api.client import BASE, Api, Client, problem, running
from tests.api.conftest import make_settings


def test_livez_responds(api_client: Client) -> None:
    assert api_client.read("/livez") == {"status": "ok"}


def test_livez_responds_while_all_threads_are_busy(api: Api) -> None:
    release = threading.Event()

    async def ask() -> int:
        threads = int(anyio.to_thread.current_default_thread_limiter().total_tokens)
        async with anyio.create_task_group() as group:
            for _ in range(threads):
                group.start_soon(anyio.to_thread.run_sync, release.wait)
            try:
                with anyio.fail_after(30):
                    return (await api.http.get("/livez")).status_code
            finally:
                release.set()

    assert api.portal.call(ask) == 200


@pytest.fixture(autouse=True)
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Checks readiness on each request, without the cache."""
    monkeypatch.setattr(ReadinessCheck, "seconds", 0)


def ready(**changes: object) -> dict[str, object]:
    return {"status": "ready", "problems": {}, "workers": 0, "warnings": {}, **changes}


def report(services: Services, base_digest: str | None, *queues: str, worker: str = "wrk_1") -> None:
    report = {"device": "cpu", "base_digest": base_digest, "queues": list(queues or QUEUES), "resident": []}
    with services.database.session() as session:
        fleet.report_worker(session, worker, "machine", 7, report)


@pytest.fixture
def no_worker(services: Services) -> Iterator[None]:
    yield
    with services.database.session() as session:
        for worker in ("wrk_1", "wrk_2"):
            fleet.forget_worker(session, worker)


@pytest.mark.usefixtures("no_worker")
def test_missing_worker_is_a_warning(api_client: Client, services: Services) -> None:
    assert api_client.read("/readyz") == ready(warnings={"worker": NO_WORKER})
    report(services, None)
    assert api_client.read("/readyz") == ready(workers=1)
    report(services, BASE.digest)
    assert api_client.read("/readyz") == ready(workers=1)


@pytest.mark.usefixtures("no_worker")
def test_queues_without_a_worker_are_a_warning(api_client: Client, services: Services) -> None:
    report(services, None, "generate")
    unserved = UNSERVED.format("datasets, finetune")
    assert api_client.read("/readyz") == ready(workers=1, warnings={"queues": unserved})
    report(services, None, "datasets", "finetune", worker="wrk_2")
    assert api_client.read("/readyz") == ready(workers=2)


@pytest.mark.usefixtures("no_worker")
def test_workers_with_another_base_are_reported_with_both_names(
    api_client: Client, services: Services, tenant: Client, domain: str
) -> None:
    with services.database.session() as session:
        fleet.register_base(session, "/models/other", replace(BASE, digest="07e7" * 16))
    body = {"class_id": 0, "adapter_id": "base"}
    report(services, "07e7" * 16)
    assert api_client.read("/readyz") == ready(workers=1, warnings={"base": OTHER_BASE})
    refused = problem(tenant.post(f"/v1/domains/{domain}/generations", body), 503, "base_not_loaded")
    assert "'mini'" in refused["detail"]
    assert "'/models/other'" in refused["detail"]
    report(services, BASE.digest)
    assert tenant.post(f"/v1/domains/{domain}/generations", body).status_code == 202


def test_only_failures_that_affect_every_request_make_the_service_unready(tmp_path: Path) -> None:
    settings = make_settings(tmp_path, broker_url="redis://:hidden@127.0.0.1:1/0")
    with running(settings) as api:
        database, objects = tmp_path / "difffit.db", tmp_path / "objects"
        shutil.rmtree(objects, ignore_errors=True)
        objects.write_text("a file where the folder was")
        response = api.client().get("/readyz")
        assert response.status_code == 200
        assert set(response.json()["warnings"]) == {"storage", "broker", "worker"}
        for secret in ("hidden", "127.0.0.1", str(tmp_path)):
            assert secret not in response.text
        api.app.state.services.database.dispose()
        database.unlink()
        for rest in tmp_path.glob("difffit.db-*"):
            rest.unlink()
        response = api.client().get("/readyz")
        assert response.status_code == 503
        assert set(response.json()["problems"]) == {"migrations"}
        assert str(tmp_path) not in response.text


def test_silent_service_is_checked_once_and_times_out() -> None:
    """Probes that arrive during a check wait for its result."""
    asked, release = [], threading.Event()

    def question() -> bool:
        asked.append(1)
        return release.wait(60)

    async def ask() -> tuple[bool | None, ...]:
        probe = Probe("silent", question)
        probe.patience = 0.05
        first = [await probe.ask() for _ in range(3)]
        release.set()
        probe.patience = 60
        return (*first, await probe.ask())

    assert anyio.run(ask) == (None, None, None, True)
    assert len(asked) == 1


def test_concurrent_probes_share_one_check(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ReadinessCheck, "seconds", 3600)
    looks = []
    check = type(api.services.store).check
    monkeypatch.setattr(type(api.services.store), "check", lambda store: (looks.append(1), check(store))[1])
    for _ in range(10):
        assert api.client().get("/readyz").status_code == 200
    assert len(looks) <= 1


def test_metrics_need_an_admin_key_and_count_by_route(api_client: Client, tenant: Client, admin: Client) -> None:
    for odd in ("a", "b", "c"):
        tenant.get(f"/v1/domains/{odd}")
        tenant.get(f"/no/such/{odd}")
    tenant.request("BREW", "/v1/domains")
    problem(api_client.get("/metrics"), 401, "unauthenticated")
    problem(tenant.get("/metrics"), 403, "forbidden")
    text = admin.get("/metrics").text
    lines = [line for line in text.splitlines() if line.startswith("difffit_http_requests_total")]
    assert any('route="/v1/domains/{id}",status="404"' in line for line in lines)
    assert any('method="GET",route="unknown",status="404"' in line for line in lines)
    assert not any("/no/such" in line or "/v1/domains/a" in line or "BREW" in line for line in lines)
