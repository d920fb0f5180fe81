"""Deleting a domain removes its rows, objects, adapters in the worker's memory, and running jobs."""

import time
from pathlib import Path
from typing import Any

import httpx
from sqlalchemy import create_engine, text

from tests.processes import ADMIN, Caller, api, wait_for_worker, worker
from tests.test_main_job import upload
from tests.worker.test_lost_worker import prepare, start, wait


def test_deleted_domain_leaves_no_rows_objects_or_adapters(tmp_path: Path) -> None:
    environment = {"DIFFFIT_DATA_DIR": str(tmp_path / "data"), "DIFFFIT_REAPER_SECONDS": "1"}
    with api(environment, tmp_path) as url, worker(environment, tmp_path):
        wait_for_worker(url)
        with httpx.Client(base_url=url, timeout=120) as http:
            admin = Caller(http, ADMIN)
            caller, domain, dataset = prepare(http)
            kept = caller.post("/v1/domains", {"name": "Kept"})["id"]
            another = caller.wait(f"/v1/datasets/{upload(caller, kept)['id']}", "validating")["id"]
            for steps, where, images in ((2, domain, dataset), (3, kept, another)):
                wait(caller, start(caller, where, images, steps), lambda finetune: finetune["status"] == "succeeded")
                draw(caller, where)
            resident = {adapter["domain_id"]: adapter for adapter in admin.get("/v1/admin/adapters")["data"]}
            digests = {resident[id]["sha256"] for id in (domain, kept)}
            running = start(caller, domain, dataset, steps=100_000)
            wait(caller, running, lambda finetune: finetune["step"] > 0)
            long = {"class_id": 0, "steps": 1000, "count": 16}
            generation = caller.post(f"/v1/domains/{domain}/generations", long)["id"]
            until(lambda: caller.get(f"/v1/generations/{generation}")["status"] == "running")
            until(lambda: digests <= set(admin.get("/v1/admin/workers")["data"][0]["resident"]))

            location = caller.send("DELETE", f"/v1/domains/{domain}").headers["location"]
            until(lambda: caller.get(location)["done_at"])
            receipt = caller.get(location)
            assert receipt["adapters"] == [resident[domain]["sha256"]]
            assert receipt["rows"]["finetunes"] == 2
            assert receipt["objects"] >= 3, "the data set, the adapter, the image"
            until(lambda: admin.get("/v1/admin/workers")["data"][0]["resident"] == [resident[kept]["sha256"]])
            objects = tmp_path / "data" / "objects"
            assert not [path for path in objects.rglob("*") if domain in str(path) and path.is_file()]
            assert caller.send("GET", f"/v1/finetunes/{running}").status_code == 404
            assert caller.send("GET", f"/v1/generations/{generation}").status_code == 404
            draw(caller, kept)
            database = create_engine(f"sqlite:///{tmp_path / 'data' / 'difffit.db'}")
            with database.connect() as connection:
                in_work = "SELECT count(*) FROM {} WHERE lease_expires_at IS NOT NULL"
                for table in ("finetunes", "generations"):
                    assert connection.execute(text(in_work.format(table))).scalar_one() == 0
            database.dispose()


def draw(caller: Caller, domain: str) -> None:
    headers = {"Prefer": "wait=60"}
    answer = caller.send("POST", f"/v1/domains/{domain}/generations", json={"class_id": 0, "steps": 2}, headers=headers)
    assert answer.json()["status"] == "succeeded", answer.text


def until(reached: Any) -> None:
    """Polls without a limit of its own; the test run has one."""
    while not reached():
        time.sleep(0.2)
