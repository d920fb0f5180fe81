import shutil
from pathlib import Path

from api.deps import Services
from core.usage import service as usage
from tests.api.client import Client, running
from tests.api.conftest import make_settings


def test_the_process_lives(api_client: Client) -> None:
    assert api_client.read("/livez") == {"status": "ok"}


def test_without_a_worker_it_is_ready_and_says_that_work_waits(api_client: Client, services: Services) -> None:
    warned = {"worker": "No worker is alive: work waits."}
    assert api_client.read("/readyz") == {"status": "ready", "problems": {}, "workers": 0, "warnings": warned}
    about = {"device": "cpu", "base_digest": None, "queues": ["generate"], "resident": []}
    with services.database.session() as session:
        usage.report_worker(session, "wrk_1", "machine", 7, about)
    assert api_client.read("/readyz") == {"status": "ready", "problems": {}, "workers": 1, "warnings": {}}
    with services.database.session() as session:
        usage.forget_worker(session, "wrk_1")


def test_services_that_are_away_are_named_without_their_addresses(tmp_path: Path) -> None:
    settings = make_settings(tmp_path, broker_url="redis://:hidden@127.0.0.1:1/0")
    with running(settings) as api:
        database, objects = tmp_path / "difffit.db", tmp_path / "objects"
        shutil.rmtree(objects, ignore_errors=True)
        objects.write_text("a file where the folder was")
        found = api.client().get("/readyz")
        assert found.status_code == 503
        assert set(found.json()["problems"]) == {"storage", "broker"}
        api.app.state.services.database.dispose()
        database.unlink()
        for rest in tmp_path.glob("difffit.db-*"):
            rest.unlink()
        found = api.client().get("/readyz")
        assert set(found.json()["problems"]) == {"storage", "broker", "migrations"}
        assert "hidden" not in found.text
        assert "127.0.0.1" not in found.text


def test_metrics_count_by_route_and_not_by_path(api_client: Client, tenant: Client) -> None:
    for odd in ("a", "b", "c"):
        tenant.get(f"/v1/domains/{odd}")
        tenant.get(f"/no/such/{odd}")
    tenant.request("BREW", "/v1/domains")
    text = api_client.get("/metrics").text
    lines = [line for line in text.splitlines() if line.startswith("difffit_http_requests_total")]
    assert any('route="/v1/domains/{id}",status="404"' in line for line in lines)
    assert any('method="GET",route="unknown",status="404"' in line for line in lines)
    assert not any("/no/such" in line or "/v1/domains/a" in line or "BREW" in line for line in lines)
