"""Limits on concurrent use, per process and per tenant."""

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from api.errors import ServiceBusy, TooManyStreams, TooManyTransfers
from core.artifact.errors import CoreError
from core.service.config import Settings

_TRANSFERS, _BYTES = "uploads and downloads", "bytes of uploads and downloads"
_STREAMS, _WAITS = "event streams", "requests that wait"

Refusal = Callable[[str, int], CoreError]
"""Creates the error from a budget's name and limit."""


class Budget:
    """An amount that requests hold while they run. Not thread-safe: use it on the event loop only."""

    def __init__(self, name: str, total: int, each: int, refusal: Refusal) -> None:
        """Limits the process to `total` and each tenant to `each`; above `each`, `refusal` creates the error."""
        self.name, self.total, self.each, self.refusal = name, total, each, refusal
        self._used: Counter[str] = Counter()

    @property
    def used(self) -> int:
        return self._used.total()

    @contextmanager
    def take(self, tenant: str, amount: int = 1) -> Iterator[None]:
        """Holds an amount. Raises the refusal when the tenant's limit is reached, ServiceBusy for the process's."""
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
    """Limits concurrent uploads and downloads, and the bytes of their temporary files."""

    def __init__(self, settings: Settings) -> None:
        each = settings.max_spooled_bytes // 2  # a tenant alone must not keep others from uploading
        self.count = Budget(_TRANSFERS, settings.max_transfers, settings.max_tenant_transfers, TooManyTransfers)
        self.bytes = Budget(_BYTES, settings.max_spooled_bytes, each, TooManyTransfers)

    @contextmanager
    def take(self, tenant: str, size: int) -> Iterator[None]:
        """Holds one transfer of that size. Raises TooManyTransfers, ServiceBusy."""
        with self.count.take(tenant), self.bytes.take(tenant, size):
            yield


def stream_budget(settings: Settings) -> Budget:
    return Budget(_STREAMS, settings.max_event_streams, settings.max_tenant_event_streams, TooManyStreams)


def wait_budget(settings: Settings) -> Budget:
    return Budget(_WAITS, settings.max_waits, settings.max_tenant_waits, TooManyStreams)
