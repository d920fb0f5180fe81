"""Event streams: their limits, and shared reads of one fine-tune's events."""

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import anyio
import httpx
import pytest

from api.notifier import Notifier
from core.artifact.errors import NotFound
from core.service.db.session import Database
from tests.api.client import images_zip, load_base, validate_datasets
from tests.api.test_process import Server, made, next_event, services_of, serving, tenant_client

KEY = "an-administrators-key-for-who-listens-long"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    limits = {"DIFFFIT_MAX_TENANT_EVENT_STREAMS": "3", "DIFFFIT_MAX_EVENT_STREAMS": "4"}
    folder = tmp_path_factory.mktemp("streams")
    with serving(folder, DIFFFIT_ADMIN_KEY=KEY, **limits) as server:
        yield server


def listen(streams: ExitStack, client: httpx.Client, path: str) -> httpx.Response:
    """Returns a stream whose first event has arrived, or the rejection."""
    response = streams.enter_context(client.stream("GET", path))
    if response.is_success:
        lines = response.iter_lines()
        streams.callback(lambda: lines)  # without a reference to its iterator, httpx would end the stream
        next_event(lines)
    else:
        response.read()
    return response


def finetune_of(client: httpx.Client, folder: Path) -> str:
    """Returns the path of the events of a queued fine-tune."""
    worker = services_of(folder)
    load_base(worker)
    domain = made(client, "/v1/domains", json={"name": "Fruit"})["id"]
    dataset = made(client, f"/v1/domains/{domain}/datasets", files={"file": ("fruit.zip", images_zip())})["id"]
    validate_datasets(worker)
    finetune = made(client, f"/v1/domains/{domain}/finetunes", json={"dataset_id": dataset, "steps": 10})["id"]
    worker.database.dispose()
    return f"/v1/finetunes/{finetune}/events"


def test_streams_are_limited_per_tenant_and_in_total(server: Server, tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.getbasetemp() / "streams0"
    with tenant_client(server.url, KEY) as greedy, tenant_client(server.url, KEY) as other, ExitStack() as streams:
        path, others_path = (finetune_of(client, folder) for client in (greedy, other))
        first = listen(streams, greedy, path)
        assert [listen(streams, greedy, path).status_code for _ in range(2)] == [200, 200]
        refused = listen(streams, greedy, path)
        assert (refused.status_code, refused.json()["code"]) == (429, "too_many_streams")
        assert int(refused.headers["retry-after"]) > 0
        assert greedy.get("/v1/domains").status_code == 200
        assert listen(streams, other, others_path).status_code == 200
        refused = listen(streams, other, others_path)
        assert (refused.status_code, refused.json()["code"]) == (503, "service_busy")
        first.close()
        end = time.monotonic() + 30
        while listen(streams, greedy, path).status_code != 200:
            assert time.monotonic() < end, "a closed stream must free its place"
            time.sleep(0.05)


@pytest.mark.parametrize("how", ["revoked", "expired"])
def test_streams_and_waits_end_with_their_key(
    server: Server, tmp_path_factory: pytest.TempPathFactory, how: str
) -> None:
    """They end within seconds, instead of when the fine-tune ends or the requested minute is over."""
    folder = tmp_path_factory.getbasetemp() / "streams0"
    administrator = httpx.Client(base_url=server.url, headers={"Authorization": f"Bearer {KEY}"})
    with administrator, tenant_client(server.url, KEY) as client, ThreadPoolExecutor(1) as pool, ExitStack() as streams:
        path = finetune_of(client, folder)
        key = client.get("/v1/key").json()["id"]
        domain = client.get("/v1/domains").json()["data"][0]["id"]
        body = {"class_id": 0, "adapter_id": "base"}
        wait = pool.submit(
            client.post, f"/v1/domains/{domain}/generations", json=body, headers={"Prefer": "wait=60"}, timeout=50
        )
        lines = streams.enter_context(client.stream("GET", path)).iter_lines()
        next_event(lines)
        while not client.get(f"/v1/domains/{domain}/generations").json()["data"]:
            time.sleep(0.05)  # until that request waits
        if how == "revoked":
            administrator.delete(f"/v1/admin/keys/{key}").raise_for_status()
        else:
            administrator.patch(f"/v1/admin/keys/{key}", json={"lifetime_seconds": 1}).raise_for_status()
        comment = next((line for line in lines if line.startswith(":")), None)
        assert comment is None, "the stream must continue"
        assert (wait.result(30).status_code, wait.result().json()["status"]) == (202, "queued")
        assert client.get("/v1/key").status_code == 401


def test_wait_above_the_limit_is_answered_immediately(tmp_path: Path) -> None:
    """`Prefer` is only a preference."""
    worker = services_of(tmp_path)
    limits = {"DIFFFIT_MAX_WAITS": "0"}
    with serving(tmp_path, DIFFFIT_ADMIN_KEY=KEY, **limits) as server, tenant_client(server.url, KEY) as client:
        load_base(worker)
        domain = made(client, "/v1/domains", json={"name": "Fruit"})["id"]
        path, body = f"/v1/domains/{domain}/generations", {"class_id": 0, "adapter_id": "base"}
        answer = client.post(path, json=body, headers={"Prefer": "wait=60"})  # the client gives up earlier
        assert (answer.status_code, answer.json()["status"]) == (202, "queued")
        assert "preference-applied" not in answer.headers
    worker.database.dispose()


def test_listeners_share_one_read(database: Database) -> None:
    """A listener that leaves does not affect the others, and all get the same error."""
    reads: list[str] = []

    def read(name: str) -> str:
        reads.append(name)
        time.sleep(0.2)
        if name == "gone":
            raise NotFound("finetune", name)
        return name

    async def listen_all() -> None:
        notifier = Notifier(database)
        results: list[str] = []

        async def ask(name: str) -> None:
            try:
                results.append(await notifier.shared(name, lambda: read(name)))
            except NotFound:
                results.append("not found")

        async with anyio.create_task_group() as group:
            for name in ("one", "one", "two", "gone", "gone"):
                group.start_soon(ask, name)
            with anyio.move_on_after(0.01) as leaving:
                await ask("one")
            assert leaving.cancelled_caught
        assert sorted(results) == ["not found", "not found", "one", "one", "two"]
        assert await notifier.shared("one", lambda: read("one")) == "one"

    anyio.run(listen_all)
    assert sorted(reads) == ["gone", "one", "one", "two"], "a later listener must read again"
