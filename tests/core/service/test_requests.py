"""Requests a minute: one count for all processes where there is a Redis, each its own where there is none."""

import socket
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing

import pytest

from core.service.rate_limits import RequestCounter

pytestmark = pytest.mark.usefixtures("one_moment")


@pytest.fixture(params=["memory", "redis"])
def broker_url(request: pytest.FixtureRequest) -> str:
    return "filesystem://" if request.param == "memory" else str(request.getfixturevalue("redis_url"))


def test_remaining_requests_are_reported_and_limited(broker_url: str, name: str) -> None:
    counter = RequestCounter(broker_url)
    found = [counter.take(name, 3) for _ in range(4)]
    assert [(one.admitted, one.limit, one.left) for one in found] == [
        (True, 3, 2), (True, 3, 1), (True, 3, 0), (False, 3, 0)
    ]  # fmt: skip
    assert all(1 <= one.seconds <= 60 for one in found)
    assert counter.look(name, 3).admitted is False
    assert counter.look(name, 10).left == 10, "another limit has a count of its own"
    assert counter.take(f"{name} of another", 3).left == 2
    assert counter.take(f"{name} of nobody", 0).admitted is False


def test_parallel_requests_do_not_pass_together(broker_url: str, name: str) -> None:
    counter = RequestCounter(broker_url)
    with ThreadPoolExecutor(16) as pool:
        admitted = list(pool.map(lambda _: counter.take(name, 50).admitted, range(200)))
    assert admitted.count(True) == 50


def test_processes_share_one_count(redis_url: str, name: str) -> None:
    first, second = RequestCounter(redis_url), RequestCounter(redis_url)
    assert [counter.take(name, 5).left for counter in (first, second, first, second)] == [4, 3, 2, 1]


@pytest.fixture
def silent() -> Iterator[str]:
    """A Redis that is frozen: it takes connections and answers nothing."""
    with closing(socket.create_server(("127.0.0.1", 0))) as server:
        yield f"redis://127.0.0.1:{server.getsockname()[1]}/0"


def test_processes_count_separately_without_redis(silent: str) -> None:
    counter = RequestCounter(silent)
    assert [counter.take("tenant", 2).admitted for _ in range(3)] == [True, True, False]


def test_silent_redis_is_probed_once_and_not_immediately_again(silent: str, monkeypatch: pytest.MonkeyPatch) -> None:
    counter = RequestCounter(silent)
    assert counter._shared is not None
    asked, take = [], counter._shared.hit
    monkeypatch.setattr(counter._shared, "hit", lambda *given: (asked.append(threading.get_ident()), take(*given))[1])
    for _ in range(50):
        counter.take("tenant", 100)
    assert len(asked) == 1


def test_returning_redis_counts_again(silent: str, redis_url: str, name: str) -> None:
    counter, other = RequestCounter(silent), RequestCounter(redis_url)
    counter.take(name, 10)
    counter._shared, counter._ask_again_at = other._shared, 0.0
    other.take(name, 10)
    assert counter.take(name, 10).left == 8


@pytest.fixture
def name(request: pytest.FixtureRequest) -> str:
    return str(request.node.name)
