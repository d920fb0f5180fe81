"""Look-ups that never end only use part of the threads, and only of their own tenant."""

import socket
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from core.service.webhooks import lookups
from core.service.webhooks.lookups import TooManyLookups
from core.service.webhooks.places import Places


@pytest.fixture
def stuck(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Yields a host whose name servers do not respond before the test ends."""
    done, real = threading.Event(), socket.getaddrinfo

    def getaddrinfo(host: str, *rest: Any, **options: Any) -> Any:
        if host == "stuck.example.com":
            done.wait()
            raise socket.gaierror
        return real(host, *rest, **options)

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    monkeypatch.setattr(lookups, "_places", Places(8))
    yield "stuck.example.com"
    done.set()


def test_names_of_the_system_are_resolved() -> None:
    assert "127.0.0.1" in lookups.addresses("ten_1", "localhost", 80, 10)


def test_only_the_tenant_with_abandoned_lookups_is_rejected(stuck: str) -> None:
    for _ in range(3):
        with pytest.raises(TimeoutError):
            lookups.addresses("slow", stuck, 443, 0.01)
    with pytest.raises(TooManyLookups):
        lookups.addresses("slow", "localhost", 80, 10)
    assert lookups.addresses("quick", "127.0.0.1", 80, 10) == ["127.0.0.1"]


def test_finished_lookup_releases_its_slot(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lookups, "_places", Places(1))
    for _ in range(3):
        lookups.addresses("ten_1", "127.0.0.1", 80, 10)
        with pytest.raises(OSError, match=r".+"):
            lookups.addresses("ten_1", "nobody.invalid", 80, 10)
