"""Distinguishes an unreachable receiver from a failure of our own network."""

import threading
import time

UNREACHED = frozenset({"timed_out", "host_unknown", "connection_failed", "tls_failed"})
"""Codes of attempts without a response: the receiver or the network in between is at fault."""
_RECENT_SECONDS = 900.0
_FEWEST = 2
"""Minimum number of other tenants whose attempts count as evidence."""


class Reachability:
    """The latest attempt for each tenant, as this process saw it. Safe to share between threads.

    Counts tenants, not webhooks: one tenant with many dead receivers must not prevent its own or others' webhooks from
    being disabled.
    """

    def __init__(self) -> None:
        self._latest: dict[str, tuple[float, bool]] = {}
        self._lock = threading.Lock()

    def note(self, tenant: str, code: str | None) -> None:
        """Records the result of an attempt. `code` is None for success."""
        now = time.monotonic()
        with self._lock:
            self._latest[tenant] = (now, code not in UNREACHED)
            self._latest = {other: seen for other, seen in self._latest.items() if now - seen[0] < _RECENT_SECONDS}

    def is_ours(self, tenant: str, code: str | None) -> bool:
        """Returns whether a missing response is likely our own network's fault, because most other tenants' recent
        attempts had none either."""
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
