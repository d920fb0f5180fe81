"""Tells a receiver that is away from a network of our own that is."""

import threading
import time

UNREACHED = frozenset({"timed_out", "host_unknown", "connection_failed", "tls_failed"})
"""Codes of attempts that got no answer: the receiver's fault, or that of the network between."""
_RECENT_SECONDS = 900.0
_FEWEST = 2
"""Other tenants that must have been tried, before their failures prove anything."""


class Reachability:
    """The latest attempt for each tenant, as this process saw it. Safe to share between threads.

    Tenants are counted and not webhooks: one tenant with many dead receivers must not keep its own, or anybody else's,
    from being disabled.
    """

    def __init__(self) -> None:
        self._latest: dict[str, tuple[float, bool]] = {}
        self._lock = threading.Lock()

    def note(self, tenant: str, code: str | None) -> None:
        """Notes how an attempt ended; `code` is None for one that was taken."""
        now = time.monotonic()
        with self._lock:
            self._latest[tenant] = (now, code not in UNREACHED)
            self._latest = {other: seen for other, seen in self._latest.items() if now - seen[0] < _RECENT_SECONDS}

    def is_ours(self, tenant: str, code: str | None) -> bool:
        """Whether an attempt without an answer is likely our own network's fault: most other tenants that were tried
        lately got none either."""
        if code not in UNREACHED:
            return False
        now = time.monotonic()
        with self._lock:
            others = [
                reached
                for other, (at, reached) in self._latest.items()
                if other != tenant and now - at < _RECENT_SECONDS
            ]
        return len(others) >= _FEWEST and sum(others) * 2 < len(others)
