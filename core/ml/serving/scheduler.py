"""Scheduler of batch rows: chooses the rows of the next step. It decides and counts, and holds no tensors.

A row's state is small, so a row can pause at any step and go on later. That makes every step a free choice: tenants
share the device by row-steps. Each has a virtual time, the row-steps it was given divided by its weight, and the
tenant with the smallest one brings its next row (start-time fair queueing). Rows that ran in the last step keep their
place until their tenant is `quantum` ahead, so that equal tenants finish one after the other instead of all at last.
A quantum of a few full steps keeps the wait of a newcomer in proportion to the device.
"""

import heapq
import math
from bisect import bisect_right
from collections.abc import Iterable

from core.ml.serving.request import ImageRequest, Row

QUANTUM_STEPS = 4
"""Full steps that a tenant may be ahead, unless a quantum is given."""


class Scheduler:
    """Queue of batch rows, fair between tenants. A tenant's rows go by priority, then by arrival, and leave after their
    last step. A step has up to `max_rows` forward rows, which may change between steps; a larger row steps alone.
    `quantum` is in row-steps."""

    def __init__(self, max_rows: int, quantum: float | None = None) -> None:
        if max_rows < 2:
            raise ValueError("a guided image takes two rows: max_rows must be at least 2")
        self.max_rows = max_rows
        self.quantum = QUANTUM_STEPS * max_rows if quantum is None else quantum
        self._queues: dict[str, list[Row]] = {}
        self._virtual_time: dict[str, float] = {}
        self._running: set[Row] = set()
        self._passed_over: set[Row] = set()

    @property
    def idle(self) -> bool:
        return not self._queues

    def add(self, request: ImageRequest) -> None:
        """Adds a request's rows. Raises ValueError for a request without images or steps, and then changes nothing."""
        rows = [Row(request, index) for index in range(len(request.seeds))]
        if not rows:
            raise ValueError("a request needs at least one seed")
        tenant = request.tenant
        if tenant not in self._queues:
            # A returning tenant gets no credit for idle time and keeps its debt.
            self._virtual_time[tenant] = max(self._virtual_time.get(tenant, 0.0), self._floor())
        queue = self._queues.setdefault(tenant, [])
        place = bisect_right(queue, -request.priority, key=lambda row: -row.request.priority)
        queue[place:place] = rows

    def next_rows(self) -> list[Row]:
        """Returns the rows of the next step, and charges them to their tenants."""
        chosen: list[Row] = []
        passed_over: set[Row] = set()
        left = self.max_rows
        heap = [(self._urgency(tenant, queue[0]), tenant, 0) for tenant, queue in self._queues.items()]
        heapq.heapify(heap)
        while heap and left:
            _, tenant, place = heapq.heappop(heap)
            queue = self._queues[tenant]
            row = queue[place]
            if row.cost > left and chosen:  # another tenant's row may still fit; this one is first at the next step
                passed_over.add(row)
                continue
            chosen.append(row)
            left = max(0, left - row.cost)
            self._virtual_time[tenant] += row.cost / row.request.weight
            if place + 1 < len(queue):
                heapq.heappush(heap, (self._urgency(tenant, queue[place + 1]), tenant, place + 1))
        self._running, self._passed_over = set(chosen), passed_over
        return chosen

    def advance(self, rows: Iterable[Row]) -> list[Row]:
        """Counts one step for each row. Removes and returns the rows that are finished."""
        finished = []
        for row in rows:
            row.position += 1
            if row.finished:
                finished.append(row)
                self._leave(row)
        self._forget_absent()
        return finished

    def remove(self, request: ImageRequest) -> list[Row]:
        """Removes a request's rows and returns them."""
        gone = [row for row in self._queues.get(request.tenant, ()) if row.request is request]
        for row in gone:
            self._leave(row)
        self._forget_absent()
        return gone

    def _urgency(self, tenant: str, row: Row) -> float:
        if row in self._passed_over:
            return -math.inf
        return self._virtual_time[tenant] - (self.quantum if row in self._running else 0.0)

    def _leave(self, row: Row) -> None:
        queue = self._queues[row.request.tenant]
        queue.remove(row)
        self._running.discard(row)
        self._passed_over.discard(row)
        if not queue:
            del self._queues[row.request.tenant]

    def _floor(self) -> float:
        return min((self._virtual_time[tenant] for tenant in self._queues), default=0.0)

    def _forget_absent(self) -> None:
        """Forgets absent tenants, except those that owe time to the present ones."""
        if len(self._virtual_time) > len(self._queues):
            floor = self._floor() if self._queues else math.inf
            times = self._virtual_time.items()
            self._virtual_time = {tenant: time for tenant, time in times if tenant in self._queues or time > floor}
