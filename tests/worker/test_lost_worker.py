"""Workers that are killed or asked to stop: no job is lost, and a resumed fine-tune gives the same file."""

import re
import signal
import time
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.processes import ADMIN, Caller, Process, api, wait_for_worker, worker
from tests.test_main_job import draw, upload

STEPS = 60
"""Steps of a fine-tune, ten more than between two checkpoints."""


def test_jobs_of_killed_and_stopped_workers_continue(tmp_path: Path) -> None:
    environment = {
        "DIFFFIT_DATA_DIR": str(tmp_path / "data"),
        "DIFFFIT_LEASE_SECONDS": "4",
        "DIFFFIT_HEARTBEAT_SECONDS": "1",
        "DIFFFIT_REAPER_SECONDS": "1",
    }
    with api(environment, tmp_path) as url, httpx.Client(base_url=url, timeout=120) as http:
        with worker(environment, tmp_path) as process:
            wait_for_worker(url)
            caller, domain, dataset = prepare(http)
            undisturbed = start(caller, domain, dataset)
            wait(caller, undisturbed, lambda finetune: finetune["status"] == "succeeded")
            killed = start(caller, domain, dataset)
            wait(caller, killed, lambda finetune: finetune["step"] > 50)
            process.kill()
        with worker(environment, tmp_path) as process:
            wait(caller, killed, lambda finetune: finetune["status"] == "succeeded")
            stopped = start(caller, domain, dataset)
            wait(caller, stopped, lambda finetune: 10 < finetune["step"] < STEPS)
            stop(process)
            requeued = caller.get(f"/v1/finetunes/{stopped}")
            assert requeued["status"] == "queued"
        with worker(environment, tmp_path):
            wait(caller, stopped, lambda finetune: finetune["status"] == "succeeded")
            assert draw(caller, domain, {"class_id": 0, "steps": 2})["images"]
        adapters = caller.get(f"/v1/domains/{domain}/adapters")["data"]
        assert len(adapters) == 3, "one version for each fine-tune"
        assert len({adapter["sha256"] for adapter in adapters}) == 1, "a resumed fine-tune must give the same file"
        events = caller.send("GET", f"/v1/finetunes/{killed}/events").text
        assert '"step": 50, "steps": 60}' in events, "it must continue from its checkpoint"
        events = caller.send("GET", f"/v1/finetunes/{stopped}/events").text
        began = [int(step) for step in re.findall(r'"step": (\d+), "steps": 60}', events)]
        assert began[0] == 0
        assert requeued["step"] <= began[1], "a stop must lose no step"


def test_cancel_reaches_a_running_finetune(tmp_path: Path) -> None:
    environment = {"DIFFFIT_DATA_DIR": str(tmp_path / "data")}
    with api(environment, tmp_path) as url, worker(environment, tmp_path) as process:
        wait_for_worker(url)
        with httpx.Client(base_url=url, timeout=120) as http:
            caller, domain, dataset = prepare(http)
            running, waiting = (start(caller, domain, dataset, steps=10_000) for _ in range(2))
            wait(caller, running, lambda finetune: finetune["step"] > 0)
            for id in (waiting, running):
                caller.post(f"/v1/finetunes/{id}/cancel", {})
            for id in (waiting, running):
                wait(caller, id, lambda finetune: finetune["status"] == "cancelled")
            assert caller.get(f"/v1/domains/{domain}/adapters")["data"] == []
            again = caller.send("POST", f"/v1/finetunes/{running}/cancel")
            assert (again.status_code, again.json()["code"]) == (409, "already_finished")
        stop(process)


def prepare(http: httpx.Client) -> tuple[Caller, str, str]:
    admin = Caller(http, ADMIN)
    tenant = admin.post("/v1/admin/tenants", {"name": "First"})
    caller = Caller(http, admin.post(f"/v1/admin/tenants/{tenant['id']}/keys", {"name": "laptop"})["key"])
    domain = caller.post("/v1/domains", {"name": "OpenMoji"})["id"]
    dataset = caller.wait(f"/v1/datasets/{upload(caller, domain)['id']}", "validating")
    return caller, domain, dataset["id"]


def start(caller: Caller, domain: str, dataset: str, steps: int = STEPS) -> str:
    body = {"dataset_id": dataset, "steps": steps, "batch_size": 2, "preset": "literal"}
    id: str = caller.post(f"/v1/domains/{domain}/finetunes", body)["id"]
    return id


def wait(caller: Caller, id: str, reached: Any) -> None:
    while not reached(finetune := caller.get(f"/v1/finetunes/{id}")):
        if finetune["status"] == "failed":
            pytest.fail(str(finetune["error"]))
        time.sleep(0.05)


def stop(process: Process) -> None:
    process.send_signal(signal.SIGTERM)
    assert process.wait(60) == 0
