"""Which rows step next. Decides and counts; knows no tensors.

Tenants share the device by row-steps: each has a virtual time, the row-steps it was given divided by its weight, and
the waiting tenant with the smallest one is admitted next (start-time fair queueing). A tenant that was away comes back
at the smallest virtual time among those present, so that it can neither save up time nor lose its turn.
"""

from collections import deque
from collections.abc import Iterable

from core.engine.request import ImageRequest, Row


class Scheduler:
    """Rows wait in their tenant's queue, run until their last step, and leave. Up to `max_rows` forward rows a step."""

    def __init__(self, max_rows: int) -> None:
        if max_rows < 2:
            raise ValueError("a guided image takes two rows: max_rows must be at least 2")
        self.max_rows = max_rows
        self.running: list[Row] = []
        self._waiting: dict[str, deque[Row]] = {}
        self._virtual_time: dict[str, float] = {}

    @property
    def waiting(self) -> int:
        return sum(len(queue) for queue in self._waiting.values())

    @property
    def idle(self) -> bool:
        return not self.running and not self._waiting

    def add(self, request: ImageRequest) -> None:
        tenant = request.tenant
        if not self._present(tenant):
            floor = min((self._virtual_time[other] for other in self._tenants_present()), default=0.0)
            self._virtual_time[tenant] = max(self._virtual_time.get(tenant, 0.0), floor)
        queue = self._waiting.setdefault(tenant, deque())
        rows = [Row(request, index) for index in range(len(request.seeds))]
        place = next((i for i, row in enumerate(queue) if row.request.priority < request.priority), len(queue))
        for offset, row in enumerate(rows):
            queue.insert(place + offset, row)

    def next_rows(self) -> list[Row]:
        """Admits what fits and returns every running row: each steps once."""
        used = sum(row.cost for row in self.running)
        while (tenant := self._next_tenant()) is not None:
            row = self._waiting[tenant][0]
            if used + row.cost > self.max_rows:
                break
            self._waiting[tenant].popleft()
            if not self._waiting[tenant]:
                del self._waiting[tenant]
            # A row is charged for all its steps at once: admission is the only choice there is.
            self._virtual_time[tenant] += row.cost * len(row.timesteps) / row.request.weight
            self.running.append(row)
            used += row.cost
        return list(self.running)

    def advance(self, rows: Iterable[Row]) -> list[Row]:
        """Counts one step for each row; returns those that are finished, which leave."""
        for row in rows:
            row.position += 1
        finished = [row for row in self.running if row.finished]
        self.running = [row for row in self.running if not row.finished]
        self._forget_absent()
        return finished

    def remove(self, request_id: str) -> list[Row]:
        """Takes a request's rows out, waiting or running; returns those that were running."""
        running = [row for row in self.running if row.request.id == request_id]
        self.running = [row for row in self.running if row.request.id != request_id]
        for tenant, queue in list(self._waiting.items()):
            kept = deque(row for row in queue if row.request.id != request_id)
            if kept:
                self._waiting[tenant] = kept
            else:
                del self._waiting[tenant]
        self._forget_absent()
        return running

    def _next_tenant(self) -> str | None:
        return min(self._waiting, key=lambda tenant: self._virtual_time[tenant], default=None)

    def _present(self, tenant: str) -> bool:
        return tenant in self._waiting or any(row.request.tenant == tenant for row in self.running)

    def _tenants_present(self) -> set[str]:
        return set(self._waiting) | {row.request.tenant for row in self.running}

    def _forget_absent(self) -> None:
        present = self._tenants_present()
        self._virtual_time = {tenant: time for tenant, time in self._virtual_time.items() if tenant in present}
