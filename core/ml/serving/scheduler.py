"""Scheduler: chooses the images that make the next sampling step, fairly between tenants. It holds no tensors.

An image's state is small, so an image can pause after any step and continue later, and every step can take any images.
Tenants share the device by model evaluations: one batch row in one step (a row of a larger image counts as several).
Each tenant has a virtual time, the model evaluations it has received divided by its weight. The tenant with the
smallest virtual time gets its next image into the step (start-time fair queueing). Images of the last step keep their
place until their tenant is `quantum` model evaluations ahead of the others, so that equal tenants' images finish one
after another, instead of all at the end. The quantum is a few full steps, so that a new tenant waits only for a few
steps.
"""

import heapq
import math
from bisect import bisect_right
from collections.abc import Iterable

from core.ml.serving.request import ImageRequest, Row

QUANTUM_STEPS = 4
"""Default quantum in full steps: how far a tenant may get ahead before its images lose their place."""


class Scheduler:
    """Queue of images to sample, fair between tenants. Within a tenant, images go by priority, then by arrival. Images
    leave the queue after their last step. A step takes images that need up to `max_rows` batch rows together; an image
    that needs more makes its steps alone. `quantum` is in model evaluations: batch rows, summed over steps."""

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
        """Queues a request's images. Raises ValueError, without adding any, for a request without seeds or steps."""
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
        """Chooses and returns the images of the next step, and charges their batch rows to their tenants."""
        chosen: list[Row] = []
        passed_over: set[Row] = set()
        left = self.max_rows
        heap = [(self._urgency(tenant, queue[0]), tenant, 0) for tenant, queue in self._queues.items()]
        heapq.heapify(heap)
        while heap and left:
            _, tenant, place = heapq.heappop(heap)
            queue = self._queues[tenant]
            row = queue[place]
            if row.cost > left and chosen:  # another tenant's image may still fit; this one goes first in the next step
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
        """Counts one step of each image. Removes the finished images from the queue, and returns them."""
        finished = []
        for row in rows:
            row.position += 1
            if row.finished:
                finished.append(row)
                self._leave(row)
        self._forget_absent()
        return finished

    def remove(self, request: ImageRequest) -> list[Row]:
        """Removes a request's images from the queue, and returns them."""
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
        """Drops the virtual times of tenants without images in the queue. Keeps the virtual time of a tenant that is
        ahead of the others, since it has to wait when it returns."""
        if len(self._virtual_time) > len(self._queues):
            floor = self._floor() if self._queues else math.inf
            times = self._virtual_time.items()
            self._virtual_time = {tenant: time for tenant, time in times if tenant in self._queues or time > floor}
