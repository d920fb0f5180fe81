"""Limits on concurrent uploads, downloads, event streams and waiting requests, per process and per tenant."""

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from api.errors import ServiceBusy, TooManyStreams, TooManyTransfers
from core.artifact.errors import CoreError
from core.service.config import Settings

_TRANSFERS, _BYTES = "uploads and downloads", "bytes of uploads and downloads"
_STREAMS, _WAITS = "event streams", "requests that wait"

Refusal = Callable[[str, int], CoreError]
"""Function that creates the error for a tenant above its limit, from the budget's name and that limit."""


class Budget:
    """Limited amount of a resource, such as open streams or bytes of uploads. Requests hold parts of it while they run.
    Not thread-safe: use it on the event loop only."""

    def __init__(self, name: str, total: int, each: int, refusal: Refusal) -> None:
        """Limits all requests of this process together to `total`, and those of each tenant to `each`. `refusal`
        creates the error for a tenant above `each`."""
        self.name, self.total, self.each, self.refusal = name, total, each, refusal
        self._used: Counter[str] = Counter()

    @property
    def used(self) -> int:
        return self._used.total()

    @contextmanager
    def take(self, tenant: str, amount: int = 1) -> Iterator[None]:
        """Holds `amount` for a tenant until the context ends. Raises the error that `refusal` creates if the tenant
        would exceed `each`, ServiceBusy if the process would exceed `total`."""
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
        each = settings.max_spooled_bytes // 2  # so that one tenant cannot prevent all others from uploading
        self.count = Budget(_TRANSFERS, settings.max_transfers, settings.max_tenant_transfers, TooManyTransfers)
        self.bytes = Budget(_BYTES, settings.max_spooled_bytes, each, TooManyTransfers)

    @contextmanager
    def take(self, tenant: str, size: int) -> Iterator[None]:
        """Counts one upload or download of `size` bytes until the context ends. Raises TooManyTransfers,
        ServiceBusy."""
        with self.count.take(tenant), self.bytes.take(tenant, size):
            yield


def stream_budget(settings: Settings) -> Budget:
    return Budget(_STREAMS, settings.max_event_streams, settings.max_tenant_event_streams, TooManyStreams)


def wait_budget(settings: Settings) -> Budget:
    return Budget(_WAITS, settings.max_waits, settings.max_tenant_waits, TooManyStreams)
