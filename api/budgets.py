"""Bounds on what is in use at once: in this process, and by one tenant of it."""

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from api.errors import ServiceBusy, TooManyStreams, TooManyTransfers
from core.artifact.errors import CoreError
from core.service.config import Settings

_TRANSFERS, _BYTES = "uploads and downloads", "bytes of uploads and downloads"
_STREAMS, _WAITS = "event streams", "requests that wait"

Refusal = Callable[[str, int], CoreError]
"""Makes the error of a name and a limit."""


class Budget:
    """An amount that requests take for as long as they run. Used on the event loop alone."""

    def __init__(self, name: str, total: int, each: int, refusal: Refusal) -> None:
        """`total` of the process, `each` of one tenant; beyond that `refusal` is raised, with the limit."""
        self.name, self.total, self.each, self.refusal = name, total, each, refusal
        self._used: Counter[str] = Counter()

    @property
    def used(self) -> int:
        return self._used.total()

    @contextmanager
    def take(self, tenant: str, amount: int = 1) -> Iterator[None]:
        """Raises the refusal for a tenant that has too much in use, ServiceBusy where all of them have."""
        if self._used[tenant] + amount > self.each:
            raise self.refusal(self.name, self.each)
        if self.used + amount > self.total:
            raise ServiceBusy(self.name)
        self._used[tenant] += amount
        try:
            yield
        finally:
            self._used[tenant] -= amount
            if not self._used[tenant]:
                del self._used[tenant]


class TransferBudget:
    """Files on their way to or from clients, and the bytes that they may take of this machine's disk meanwhile."""

    def __init__(self, settings: Settings) -> None:
        each = settings.max_spooled_bytes // 2  # a tenant alone must not keep others from uploading
        self.count = Budget(_TRANSFERS, settings.max_transfers, settings.max_tenant_transfers, TooManyTransfers)
        self.bytes = Budget(_BYTES, settings.max_spooled_bytes, each, TooManyTransfers)

    @contextmanager
    def take(self, tenant: str, size: int) -> Iterator[None]:
        """Raises TooManyTransfers, ServiceBusy."""
        with self.count.take(tenant), self.bytes.take(tenant, size):
            yield


def stream_budget(settings: Settings) -> Budget:
    return Budget(_STREAMS, settings.max_event_streams, settings.max_tenant_event_streams, TooManyStreams)


def wait_budget(settings: Settings) -> Budget:
    return Budget(_WAITS, settings.max_waits, settings.max_tenant_waits, TooManyStreams)
