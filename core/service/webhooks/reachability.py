"""Detection of failures of the service's own network, as opposed to receivers that cannot be reached."""

import threading
import time

UNREACHED = frozenset({"timed_out", "host_unknown", "connection_failed", "tls_failed"})
"""Codes of attempts that got no response, since either the receiver or a network failed."""
_RECENT_SECONDS = 900.0
_FEWEST = 2
"""Min number of other tenants with recent attempts that is needed to blame the service's own network."""


class Reachability:
    """Record of whether each tenant's latest attempt from this process got a response. Safe to share between threads.

    Tenants are counted, not webhooks: one tenant with many dead receivers must not prevent its own or others' webhooks
    from being disabled.
    """

    def __init__(self) -> None:
        self._latest: dict[str, tuple[float, bool]] = {}
        self._lock = threading.Lock()

    def note(self, tenant: str, code: str | None) -> None:
        """Records whether an attempt for a tenant got a response. `code` is the attempt's error code; None for
        success."""
        now = time.monotonic()
        with self._lock:
            self._latest[tenant] = (now, code not in UNREACHED)
            self._latest = {other: seen for other, seen in self._latest.items() if now - seen[0] < _RECENT_SECONDS}

    def is_ours(self, tenant: str, code: str | None) -> bool:
        """Returns whether the service's own network likely caused a failed attempt: the attempt got no response, and
        the latest recent attempts of most other tenants got none either."""
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
