"""`python -m api` as a process: live events, signed URLs, and a clean stop."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
from psycopg.conninfo import conninfo_to_dict
from sqlalchemy import select

from api.deps import Services
from api.limits import RequestLimits
from core.service.broker import CeleryDispatcher, make_celery
from core.service.db.models import Generation
from core.service.db.session import Database
from core.service.storage import open_store
from core.service.tenancy import SYSTEM
from tests import services as real_services
from tests.api.client import (
    PNG_START,
    draw_generations,
    finish_finetune,
    images_zip,
    load_base,
    start_finetunes,
    validate_datasets,
)
from tests.api.conftest import make_settings

ROOT = Path(__file__).parents[2]


@dataclass
class Server:
    process: "subprocess.Popen[str]"
    url: str
    output: list[str]

    def stop(self, number: int) -> float:
        """Sends a signal and returns the seconds until the process has ended."""
        started = time.monotonic()
        self.process.send_signal(number)
        self.process.wait(20)
        return time.monotonic() - started


@contextmanager
def serving(folder: Path, **variables: str) -> Iterator[Server]:
    process = start(folder, **variables)
    output: list[str] = []
    try:
        url = None
        while url is None:
            assert process.stdout is not None
            line = process.stdout.readline()
            assert line, "".join(output)
            output.append(line)
            if match := re.search(r"listens on (http://\S+)", line):
                url = match.group(1)
        reader = threading.Thread(target=lambda: output.extend(process.stdout or []))
        reader.start()
        yield Server(process, url, output)
    finally:
        process.kill()
        process.wait()
        reader.join()
        assert process.stdout is not None
        process.stdout.close()


def start(folder: Path, module: str = "api", **variables: str) -> "subprocess.Popen[str]":
    kept = {name: value for name, value in os.environ.items() if not name.startswith("DIFFFIT_")}
    environment = kept | {"PYTHONPATH": str(ROOT), "DIFFFIT_DATA_DIR": str(folder), "DIFFFIT_PORT": "0", **variables}
    return subprocess.Popen(
        [sys.executable, "-m", module],
        cwd=folder,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def services_of(folder: Path) -> Services:
    """Returns the services as a worker on the same machine opens them."""
    settings = make_settings(folder, broker_url="filesystem://")
    return Services(
        settings=settings,
        database=Database(settings.database_url, SYSTEM),
        store=open_store(settings),
        dispatcher=CeleryDispatcher(make_celery(settings)),
        notifier=None,  # type: ignore[arg-type]
        limits=RequestLimits(settings),
        refused_keys=None,  # type: ignore[arg-type]
        url_secret=b"",
    )


def tenant_client(url: str, admin_key: str) -> httpx.Client:
    with httpx.Client(base_url=url, headers={"Authorization": f"Bearer {admin_key}"}) as admin:
        tenant = admin.post("/v1/admin/tenants", json={"name": f"t {uuid.uuid4()}"}).raise_for_status().json()
        key = admin.post(f"/v1/admin/tenants/{tenant['id']}/keys", json={"name": "k"}).raise_for_status().json()["key"]
    return httpx.Client(base_url=url, headers={"Authorization": f"Bearer {key}"}, timeout=30)


def made(client: httpx.Client, path: str, **options: Any) -> dict[str, Any]:
    resource: dict[str, Any] = client.post(path, **options).raise_for_status().json()
    return resource


def next_event(lines: Iterator[str]) -> tuple[int, str, dict[str, Any]]:
    fields: dict[str, str] = {}
    for line in lines:
        if not line and "data" in fields:
            return int(fields["id"]), fields["event"], json.loads(fields["data"])
        name, _, value = line.partition(": ")
        fields[name] = value
    raise EOFError("the stream has ended")


def test_main_job_works_over_real_connections(tmp_path: Path) -> None:
    worker = services_of(tmp_path)
    with serving(tmp_path) as server:
        (key,) = re.findall(r"^ +(dfk_\S+)$", "".join(server.output), re.MULTILINE)
        load_base(worker)
        with tenant_client(server.url, key) as client:
            domain = made(client, "/v1/domains", json={"name": "Fruit"})["id"]
            file = {"file": ("fruit.zip", images_zip())}
            dataset = made(client, f"/v1/domains/{domain}/datasets", files=file)["id"]
            validate_datasets(worker)
            finetune = made(client, f"/v1/domains/{domain}/finetunes", json={"dataset_id": dataset, "steps": 10})["id"]

            path = f"/v1/finetunes/{finetune}/events"
            with client.stream("GET", path) as stream:
                lines = stream.iter_lines()
                assert next_event(lines)[1:] == ("status", {"status": "queued"})
                (claim,) = start_finetunes(worker)  # while the stream is open
                assert [next_event(lines)[1] for _ in range(3)] == ["status", "progress", "evaluation"]
                number, type, sample = next_event(lines)
                assert type == "sample"
            assert httpx.get(sample["url"]).content.startswith(PNG_START)
            with client.stream("GET", path, headers={"Last-Event-ID": str(number)}) as stream:
                lines = stream.iter_lines()
                assert next_event(lines)[2]["step"] == 10
                finish_finetune(worker, claim)
                assert next_event(lines)[2]["status"] == "succeeded"
                with pytest.raises(EOFError):
                    next_event(lines)

            threading.Timer(0.3, draw_generations, [worker]).start()
            drawn = client.post(
                f"/v1/domains/{domain}/generations", json={"class_name": "pear"}, headers={"Prefer": "wait=20"}
            )
            assert (drawn.status_code, drawn.json()["status"]) == (200, "succeeded")
            url = drawn.json()["images"][0]["url"]
            assert url.startswith(server.url)
            assert httpx.get(url).content.startswith(PNG_START)
            assert httpx.get(url[:-1] + ("0" if url[-1] != "0" else "1")).status_code == 401
        assert server.stop(signal.SIGTERM) < 10
        assert server.process.returncode == 0
    worker.database.dispose()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_open_streams_and_waits_do_not_hold_up_a_stop(tmp_path: Path, number: int) -> None:
    worker = services_of(tmp_path)
    with serving(tmp_path, DIFFFIT_ADMIN_KEY="an-administrators-key-for-one-test-alone") as server:
        load_base(worker)
        with tenant_client(server.url, "an-administrators-key-for-one-test-alone") as client:
            domain = made(client, "/v1/domains", json={"name": "Fruit"})["id"]
            file = {"file": ("fruit.zip", images_zip())}
            dataset = made(client, f"/v1/domains/{domain}/datasets", files=file)["id"]
            validate_datasets(worker)
            finetune = made(client, f"/v1/domains/{domain}/finetunes", json={"dataset_id": dataset})["id"]
            answers: list[httpx.Response] = []

            def wait() -> None:
                body = {"class_id": 0, "adapter_id": "base"}
                with httpx.Client(base_url=server.url, headers=client.headers, timeout=60) as other:
                    path = f"/v1/domains/{domain}/generations"
                    answers.append(other.post(path, json=body, headers={"Prefer": "wait=50"}))

            waiting = threading.Thread(target=wait)
            waiting.start()
            with client.stream("GET", f"/v1/finetunes/{finetune}/events") as stream:
                lines = stream.iter_lines()
                next_event(lines)
                while not is_queued(worker, domain):
                    time.sleep(0.05)
                assert server.stop(number) < 8
                assert list(lines) == []  # the stream ended without an error
            waiting.join()
            assert [answer.status_code for answer in answers] == [202]
        assert server.process.returncode == 0
    assert "Traceback" not in "".join(server.output)
    worker.database.dispose()


def is_queued(worker: Services, domain: str) -> bool:
    """Returns whether the waiting request's database row exists."""

    with worker.database.session() as session:
        return session.execute(select(Generation.id).where(Generation.domain_id == domain)).first() is not None


def test_first_key_is_printed_once(tmp_path: Path) -> None:
    for times in (1, 0):
        with serving(tmp_path) as server:
            assert httpx.get(f"{server.url}/livez").json() == {"status": "ok"}
            server.stop(signal.SIGINT)
        assert "".join(server.output).count("dfk_") == times


def test_port_in_use_is_reported_without_a_listening_message(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        process = start(tmp_path, DIFFFIT_PORT=str(taken.getsockname()[1]))
        output, _ = process.communicate(timeout=60)
    assert process.returncode != 0
    assert "address already in use" in output
    assert "listens on" not in output


def test_database_without_tables_is_rejected(tmp_path: Path, postgres_server: real_services.Postgres) -> None:
    process = start(tmp_path, DIFFFIT_DATABASE_URL=postgres_server.create("bare_api"))
    output, _ = process.communicate(timeout=60)
    postgres_server.drop("bare_api")
    assert process.returncode == 1
    assert "python -m migrations" in output
    assert "Traceback" not in output


@pytest.mark.parametrize("module", ["api", "worker"])
def test_role_that_bypasses_row_level_security_is_rejected(
    tmp_path: Path, postgres_server: real_services.Postgres, module: str
) -> None:
    url = postgres_server.create_migrated("with_superuser")
    name = conninfo_to_dict(postgres_server.uri)["user"]
    process = start(tmp_path, module, DIFFFIT_DATABASE_URL=real_services.as_role(url, str(name)))
    output, _ = process.communicate(timeout=60)
    postgres_server.drop("with_superuser")
    assert process.returncode == 1
    assert f"PostgreSQL's role '{name}' is a superuser" in output
    assert "deploy/postgres/roles.sql" in output
    assert "Traceback" not in output


@pytest.mark.parametrize(
    "variables",
    [{"DIFFFIT_DATABASE_URL": "postgresql://nobody@127.0.0.1:1/none"}, {"DIFFFIT_STORAGE_URL": "ftp://there"},
     {"DIFFFIT_PORT": "many"}],
)  # fmt: skip
def test_invalid_settings_are_reported_in_one_sentence(tmp_path: Path, variables: dict[str, str]) -> None:
    process = start(tmp_path, **variables)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 1
    assert "The API cannot start: " in output
    assert "Traceback" not in output
