"""Client retries on network and server errors, with a real server and a faulty proxy."""

import asyncio
import datetime
import time
from collections.abc import Iterator
from email.utils import format_datetime
from pathlib import Path

import httpx
import pytest

from difffit import AsyncClient, Client, errors
from difffit.retries import Retries
from tests import services
from tests.client.conftest import Drawable, Server
from tests.client.proxy import Proxy, proxied
from tests.processes import ADMIN


@pytest.fixture
def proxy(server: Server) -> Iterator[Proxy]:
    with proxied(server.url) as proxy:
        yield proxy


@pytest.fixture
def shaky(proxy: Proxy, server: Server) -> Iterator[Client]:
    """Returns a client whose requests go through the proxy."""
    with Client(proxy.url, server.key) as client:
        yield client


def test_request_whose_response_was_lost_is_not_carried_out_twice(shaky: Client, proxy: Proxy, name: str) -> None:
    proxy.faults = ["lose answer", "lose request"]
    domain = shaky.domains.create(name)
    assert [row.id for row in shaky.domains.list() if row.name == name] == [domain.id]
    keys = [headers["idempotency-key"] for headers in proxy.requests[:3]]
    assert len(keys) == 3
    assert len(set(keys)) == 1


def test_two_calls_have_two_keys(shaky: Client, proxy: Proxy, name: str) -> None:
    shaky.domains.create(f"{name} a")
    shaky.domains.create(f"{name} b")
    assert len({headers["idempotency-key"] for headers in proxy.requests}) == 2


def test_request_that_is_never_repeated_has_no_key(proxy: Proxy, server: Server, name: str) -> None:
    with Client(proxy.url, server.key, max_retries=0) as client:
        client.domains.create(name)
    (headers,) = proxy.requests
    assert "idempotency-key" not in headers


def test_async_client_retries_too(proxy: Proxy, server: Server, name: str) -> None:
    async def create() -> str:
        async with AsyncClient(proxy.url, server.key) as client:
            proxy.faults = ["unavailable", "lose answer"]
            return (await client.domains.create(name)).name

    assert asyncio.run(create()) == name
    assert len(proxy.requests) == 3


@pytest.mark.parametrize("is_date", [False, True])
def test_retry_after_is_honoured(shaky: Client, proxy: Proxy, is_date: bool) -> None:
    later = datetime.datetime.now(datetime.UTC) + datetime.timedelta(seconds=3)
    proxy.faults, proxy.retry_after = ["unavailable"], format_datetime(later, usegmt=True) if is_date else "2"
    started = time.monotonic()
    shaky.usage()
    assert 1.5 < time.monotonic() - started < 10


def test_retry_after_of_more_than_a_minute_raises(shaky: Client, proxy: Proxy) -> None:
    proxy.faults, proxy.retry_after = ["unavailable"], "3600"
    with pytest.raises(errors.ServerError) as refused:
        shaky.usage()
    assert (refused.value.status, refused.value.retry_after, refused.value.code) == (503, 3600.0, "unexpected_answer")


def test_client_raises_after_max_retries(proxy: Proxy, server: Server) -> None:
    proxy.faults = [*["unavailable"] * 4, *["lose request"] * 2]  # type: ignore[list-item]
    with Client(proxy.url, server.key, max_retries=1) as client:
        for _ in range(2):
            with pytest.raises(errors.ServerError):
                client.usage()
        with pytest.raises(errors.ConnectionFailed):
            client.usage()
    assert len(proxy.requests) == 6


def test_closed_port_raises_connection_failed() -> None:
    url = f"http://127.0.0.1:{services.free_port()}"
    with Client(url, "dfk_x", max_retries=0) as client:
        for call in (client.usage, client.ready):
            with pytest.raises(errors.ConnectionFailed, match=url):
                call()


@pytest.mark.parametrize(
    ("status", "is_repeated"),
    [(408, True), (429, True), (500, True), (502, True), (520, True), (400, False), (409, False), (501, False)],
)
def test_only_temporary_problems_are_worth_a_retry(status: int, is_repeated: bool) -> None:
    assert (Retries(2).after_answer(httpx.Response(status)) is not None) == is_repeated


def test_rejected_request_is_not_repeated(shaky: Client, proxy: Proxy) -> None:
    with pytest.raises(errors.NotFound):
        shaky.domains.delete("dom_nothing")
    assert len(proxy.requests) == 1


def test_deletion_whose_response_was_lost_succeeds(shaky: Client, proxy: Proxy, name: str) -> None:
    domain = shaky.domains.create(name)
    proxy.faults = ["lose answer"]
    shaky.domains.delete(domain.id)
    with pytest.raises(errors.NotFound):
        shaky.domains.get(domain.id)


def test_client_waits_for_a_first_attempt_that_still_runs(shaky: Client, proxy: Proxy, drawable: Drawable) -> None:
    before = len(list(shaky.generations.list(drawable.id)))
    proxy.faults = ["leave running"]
    generation = shaky.generations.create(drawable.id, class_id=0, steps=25, count=2, prefer_wait=60)
    assert generation.status == "succeeded"
    assert len(list(shaky.generations.list(drawable.id))) == before + 1


def test_key_whose_response_was_lost_is_revoked_and_replaced(proxy: Proxy) -> None:
    with Client(proxy.url, ADMIN) as admin:
        tenant = admin.admin.tenants.create("Lost key")
        proxy.faults = ["lose answer"]
        issued = admin.admin.keys.create(tenant.id, "laptop")
        keys = {key.id: key for key in admin.admin.keys.list(tenant.id)}
        assert keys.pop(issued.id).revoked_at is None
        assert [key.revoked_at is not None for key in keys.values()] == [True]
        proxy.faults = ["lose answer"]
        rotated = admin.admin.keys.rotate(issued.id)
        with Client(proxy.url, rotated.key) as client:
            assert client.usage().images == 0
        admin.admin.tenants.delete(tenant.id)


def test_upload_is_repeated_from_its_start(shaky: Client, proxy: Proxy, drawings: Path, name: str) -> None:
    domain = shaky.domains.create(name)
    proxy.faults = ["lose answer"]
    sent: list[int] = []
    dataset = shaky.datasets.upload(domain.id, drawings, lambda done, total: sent.append(done))
    assert sent.count(max(sent)) >= 2  # the whole body was sent twice
    assert [row.id for row in shaky.datasets.list(domain.id)] == [dataset.id]
    assert shaky.datasets.wait(dataset.id).images == 8


def test_broken_download_leaves_no_file(shaky: Client, proxy: Proxy, drawable: Drawable, tmp_path: Path) -> None:
    proxy.faults = [1000]
    with pytest.raises((errors.BadDownload, errors.ConnectionFailed)):
        shaky.datasets.download(drawable.dataset_id, tmp_path)
    assert list(tmp_path.iterdir()) == []
    path = shaky.datasets.download(drawable.dataset_id, tmp_path / "mine.zip")
    assert list(tmp_path.iterdir()) == [path]


def test_broken_stream_resumes_after_the_last_event(shaky: Client, proxy: Proxy, drawable: Drawable) -> None:
    whole = list(shaky.finetunes.events(drawable.finetune_id))
    length = sum(len(event.model_dump_json()) for event in whole)
    proxy.requests.clear()
    proxy.faults = [length // 3, "unavailable", "lose request", length // 2]
    assert [event.id for event in shaky.finetunes.events(drawable.finetune_id)] == [event.id for event in whole]
    resumed = [int(headers["last-event-id"]) for headers in proxy.requests]
    assert len(resumed) == 5
    assert resumed == sorted(resumed)
    assert resumed[-1] > 0


def test_broken_async_stream_resumes_too(proxy: Proxy, server: Server, drawable: Drawable) -> None:
    async def ids() -> list[int]:
        async with AsyncClient(proxy.url, server.key) as client:
            return [event.id async for event in client.finetunes.events(drawable.finetune_id)]

    whole = asyncio.run(ids())
    proxy.faults = [150]
    assert asyncio.run(ids()) == whole
    assert len(proxy.requests) == 3


def test_stream_raises_after_max_retries(proxy: Proxy, server: Server, drawable: Drawable) -> None:
    proxy.faults = ["lose request", "unavailable", "unavailable", "unavailable"]
    with Client(proxy.url, server.key, max_retries=1) as client:
        with pytest.raises(errors.ServerError):
            list(client.finetunes.events(drawable.finetune_id))
        proxy.faults = ["lose request"] * 2
        with pytest.raises(errors.ConnectionFailed):
            list(client.finetunes.events(drawable.finetune_id))
        with pytest.raises(errors.NotFound):
            list(client.finetunes.events("ft_nothing"))


def test_response_of_another_server_raises_a_client_error(name: str, proxy: Proxy) -> None:
    with Client(f"{proxy.url}/openapi.json?", "dfk_x") as client, pytest.raises(errors.DiffFitError):
        client.domains.create(name)


def test_response_that_is_no_event_stream_is_not_requested_again(proxy: Proxy) -> None:
    with Client(f"{proxy.url}/openapi.json?", "dfk_x") as client, pytest.raises(errors.UnexpectedAnswer):
        list(client.finetunes.events("ft_any"))
    assert len(proxy.requests) == 1
