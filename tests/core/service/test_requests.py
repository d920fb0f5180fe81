"""Requests per minute: one count for all processes with Redis, one per process without."""

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
    counted = [counter.take(name, 3) for _ in range(4)]
    assert [(taken.admitted, taken.limit, taken.left) for taken in counted] == [
        (True, 3, 2), (True, 3, 1), (True, 3, 0), (False, 3, 0)
    ]  # fmt: skip
    assert all(1 <= taken.seconds <= 60 for taken in counted)
    assert counter.look(name, 3).admitted is False
    assert counter.look(name, 10).left == 10, "another limit must have its own count"
    assert counter.take(f"{name} of another", 3).left == 2
    assert counter.take(f"{name} of nobody", 0).admitted is False


def test_parallel_requests_cannot_exceed_the_limit(broker_url: str, name: str) -> None:
    counter = RequestCounter(broker_url)
    with ThreadPoolExecutor(16) as pool:
        admitted = list(pool.map(lambda _: counter.take(name, 50).admitted, range(200)))
    assert admitted.count(True) == 50


def test_processes_share_one_count(redis_url: str, name: str) -> None:
    first, second = RequestCounter(redis_url), RequestCounter(redis_url)
    assert [counter.take(name, 5).left for counter in (first, second, first, second)] == [4, 3, 2, 1]


@pytest.fixture
def silent() -> Iterator[str]:
    """Yields the URL of a frozen Redis, which accepts connections and does not respond."""
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
