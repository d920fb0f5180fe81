"""Fair division of a limited number of places, such as threads, among tenants. Tenants that hold places for long cannot
take all of them."""

import threading
from collections import Counter
from collections.abc import Collection


class Places:
    """Counted places that tenants take and give back. Safe to share between threads.

    A tenant may take another place if it holds none, or fewer than half as many as are free. Of 8 places, a tenant that
    gives none back gets 3, a second such tenant 2, and two more 1 each, which leaves one place for a fifth tenant. A
    fixed maximum for each tenant would either waste places on a quiet service, or let two slow tenants fill a busy one.
    """

    def __init__(self, count: int) -> None:
        self.count = count
        self._held: Counter[str] = Counter()
        self._lock = threading.Lock()

    def take(self, tenant: str) -> bool:
        """Takes a place for a tenant. Returns False if no place is free, or the tenant already holds its part of the
        places."""
        with self._lock:
            if not self._may_take(tenant):
                return False
            self._held[tenant] += 1
            return True

    def give_back(self, tenant: str) -> None:
        with self._lock:
            self._held[tenant] -= 1
            self._held += Counter()  # forgets tenants that hold none

    def full(self) -> Collection[str]:
        """Returns the tenants that hold places and may not take another place now."""
        with self._lock:
            return {tenant for tenant in self._held if not self._may_take(tenant)}

    def _may_take(self, tenant: str) -> bool:
        free = self.count - self._held.total()
        return free > 0 and self._held[tenant] < max(1.0, free / 2)
